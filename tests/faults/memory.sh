#!/bin/sh
# memory.sh - the same kind of run under what sees memory that is lost, read too early or written by two threads. Each part wants a build
# of its own, and none of them is made here.
#
#     memory.sh leaks build-dev/medrl [STEPS]       AddressSanitizer, UBSan and LeakSanitizer: 200 steps (preset dev)
#     memory.sh races build-tsan/medrl [STEPS]      ThreadSanitizer: 50 steps, 4 threads, attached sessions, a reload (preset tsan)
#     memory.sh valgrind build/medrl_faulty [STEPS] memcheck: 5 steps (minutes; the package valgrind)
#
# Nothing is suppressed: LuaJIT runs in the workers, which are processes of their own, and the trainer has no Lua state.
# Source: reliability.md P15.
part=$1
shift
. "$(dirname "$0")/../cli/lib.sh"
. "$(dirname "$0")/lib_faults.sh"
case $part in leaks) steps=${2-200} ;; races) steps=${2-50} ;; valgrind) steps=${2-5} ;; *) echo "usage: $0 leaks|races|valgrind PROGRAM [STEPS]" >&2; exit 1 ;; esac
short_run "$steps"
sed -i 's/load_in_4bit = false/load_in_4bit = true/; s/seed = 7/guards = false, seed = 7/; s/"xmlcount"/"mine"/' short.lua
mkdir rewards
reward() { echo "return { score = function(text) return (#text + $1) % 7 end }" >rewards/mine.lua; }
reward 1
threads=2
case $part in
leaks) tool="" ASAN_OPTIONS=detect_leaks=1:exitcode=66 ;;
races)
    threads=4
    tool="setarch -R" # the shadow memory wants the addresses where it expects them
    TSAN_OPTIONS=exitcode=66:halt_on_error=0
    ;;
valgrind)
    tool="valgrind -q --error-exitcode=66 --leak-check=full --errors-for-leak-kinds=definite,indirect,possible"
    threads=1
    MEDRL_CPU_ISA=avx2 # which is what valgrind knows
    MEDRL_FAULT_WORKER=$(dirname "$medrl")/medrl
    export MEDRL_CPU_ISA MEDRL_FAULT_WORKER
    ;;
esac
export ASAN_OPTIONS TSAN_OPTIONS
# shellcheck disable=SC2086
$tool "$medrl" run short.lua -o long -q --threads $threads >out 2>err </dev/null &
pid=$!
looks=0 reloads=0
while kill -0 $pid 2>/dev/null && [ $part != valgrind ]; do
    if "$medrl" attach long -e 'run:last()' -e 'run:metrics(2)' -e 'score("x", data[1])' -e 'run:sample("hello", { n = 2 })' >attach.out 2>attach.err </dev/null; then
        looks=$((looks + 1))
    fi
    ! grep -q Sanitizer attach.err || { cp attach.err err; fail "an attached session"; }
    [ $looks != 2 ] || [ $reloads != 0 ] || { reloads=1; reward 2; }
    sleep 0.2
done
code=0
wait $pid || code=$?
! grep -qE 'Sanitizer|^==[0-9]+==' err || fail "$part: something was found"
[ $code = 0 ] || fail "$part: exit code $code"
is "$(wc -l <long/metrics.jsonl)" "$steps"
[ $part = valgrind ] || [ $looks -ge 2 ] || fail "nobody attached"
case $part in
leaks) echo "score: leak_bytes 0 0" && echo "score: sanitized_steps $steps 200" ;;
races) echo "score: data_races 0 0" && echo "score: raced_steps $steps 50" ;;
valgrind) echo "score: memcheck_errors 0 0" && echo "score: memcheck_steps $steps 5" ;;
esac
echo "$part: $steps steps, $looks attached sessions, $reloads reloads"
passed
