#!/bin/sh
# test_same.sh - the same seed gives the same bits and the same record: for any number of threads and workers, however much memory there is
# (prompts in flight, rows of logits, groups a pack), in another locale and time zone, told more or less, with others attached or not, with
# clocks that jump. And 1,000 greedy completions of one prompt, in batches of 1 to 64 and more, are one.
#
#     test_same.sh MEDRL_FAULTY
# Source: reliability.md P13, P18.
. "$(dirname "$0")/../cli/lib.sh"
. "$(dirname "$0")/lib_faults.sh"
short_run
run 0 run short.lua -o whole -q
whole_hash=$(hash_of whole)
whole_metrics=$(without_clock whole)
n=0

same() { # WHAT ARGS...: and environment before it
    what=$1
    shift
    rm -rf cut
    "$medrl" run short.lua -o cut "$@" >"$temp/out" 2>"$temp/err" </dev/null || fail "$what: exit code $?"
    [ "$(hash_of cut)" = "$whole_hash" ] || fail "$what: another hash"
    [ "$(without_clock cut)" = "$whole_metrics" ] || fail "$what: other metrics"
    n=$((n + 1))
}
for threads in 1 2 4; do same "$threads threads" --threads $threads -q; done
for workers in 1 3 8; do MEDRL_FAULT_WORKERS=$workers same "$workers workers" -q; done
LC_ALL=de_DE.UTF-8 LANG=de_DE.UTF-8 LC_NUMERIC=de_DE.UTF-8 same "German numbers" -q
if command -v localedef >/dev/null 2>&1 && localedef -i de_DE -f UTF-8 "$temp/de_DE.UTF-8" >/dev/null 2>&1; then
    LOCPATH=$temp LC_ALL=de_DE.UTF-8 same "German numbers, with the locale there" -q
else
    echo "no locale could be made: the decimal comma is tried by name only"
    [ -z "${MEDRL_ALL_TESTS-}" ] || fail "no locale could be made"
fi
TZ=Asia/Kolkata same "another time zone" -q
TZ=nonsense same "a time zone that does not exist" -q
same "everything said" -v
same "as told by default"
(unset HOME && XDG_CACHE_HOME='' same "no home" -q) || exit 1
TERM=dumb NO_COLOR=1 same "a dumb terminal" -q
(umask 077 && same "a strict umask" -q) || exit 1
n=$((n + 2)) # those two ran in subshells
for fault in clock:5:31536000 clock:5:-31536000 clock:20:86400 uptime:60:86400 uptime:200:86400; do
    MEDRL_FAULT=$fault MEDRL_FAULT_LOG=$temp/log same "a clock that jumps, $fault" -q
    [ -s log ] || fail "$fault: never came"
    rm -f log
done

# --- 64 prompts a step: the cap of memory decides how many are sampled together (2 completions each) and how training is cut into packs.
# Below three, groups are cut into parts, which changes the order of sums (rl/plan.h); one row at a time is in test_rollout.
sed 's/n = 24/n = 192/; s/prompts_per_step = 2, num_generations = 4/prompts_per_step = 64, num_generations = 2/; s/max_steps = 6/max_steps = 3/' \
    short.lua >many.lua
cp many.lua short.lua
run 0 run short.lua -o many -q
whole_hash=$(hash_of many)
whole_metrics=$(without_clock many)
look() { # KILOBYTES: at_once, pack and parts of the plan with this cap
    plan=$("$medrl" plan short.lua --json --vram "$1K" 2>/dev/null || true)
    at_once=$(echo "$plan" | grep -oE '"prompts_at_once": [0-9]+' | grep -oE '[0-9]+$' || echo 0)
    pack=$(echo "$plan" | grep -oE '"pack_rows": [0-9]+' | grep -oE '[0-9]+$' || echo 0)
    case $plan in *'"groups_in_parts": false'*) parts=0 ;; *) parts=1 ;; esac
}
packs=""
for batch in 3 8 16 64; do
    low=5000 high=41000
    while [ $((high - low)) -gt 64 ]; do # about the least cap with which so many fit
        middle=$(((low + high) / 2))
        look $middle
        if [ "$at_once" -ge $batch ] && [ $parts = 0 ]; then high=$middle; else low=$middle; fi
    done
    look $high
    [ "$at_once" -ge $batch ] && [ "$at_once" -le $((batch + 2)) ] || fail "$at_once prompts in flight, want about $batch"
    packs="$packs $pack"
    same "$at_once prompts in flight" --vram "${high}K" -q
done
[ "$(echo "$packs" | tr ' ' '\n' | sort -u | grep -c .)" -ge 3 ] || fail "packs of$packs rows only"
# others look on, sample and score all the time
rm -rf cut
"$medrl" run short.lua -o cut -q --set grpo.save_steps=1 >"$temp/out" 2>"$temp/err" </dev/null &
pid=$!
looks=0
while kill -0 $pid 2>/dev/null; do
    if "$medrl" attach cut -e 'run:last()' -e 'run:sample("hello", { n = 2 })' -e 'score("x", data[1])' >look.out 2>look.err </dev/null; then looks=$((looks + 1)); fi
done
wait $pid || fail "attached: exit code $?"
[ $looks -ge 1 ] || fail "the run was over before anybody looked"
[ "$(hash_of cut)" = "$whole_hash" ] || fail "attached: another hash"
[ "$(without_clock cut)" = "$whole_metrics" ] || fail "attached: other metrics"
n=$((n + 1))

# --- greedy: what one completion is does not depend on how many there are
total=0
: >greedy
for batch in 1 3 8 16 64 300 608; do
    run 0 generate examples/nano 'list: A salt, B iron. which letter is iron?' -n $batch --temperature 0 --max-new-tokens 12 --json \
        --threads $((batch % 4 + 1))
    grep -oE '"ids": [^]]*\], "logprobs": [^]]*\], "truncated": [a-z]*' out >>greedy
    total=$((total + batch))
    : >out
done
is "$(wc -l <greedy)" $total
distinct=$(sort -u greedy | wc -l)
is "$distinct" 1
checks=$((checks + n))
echo "score: same_bits_runs $n 25"
echo "score: distinct_of_1000_greedy $distinct 1"
echo "$n runs, one result; $total greedy completions, $distinct distinct"
passed
