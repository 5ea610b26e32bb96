#!/bin/sh
# test_kill.sh - runs that are killed with SIGKILL at seeded random times, some again while they resume, and once at every system call of
# a resume: each ends with the bits and the record of the run that was never killed. And a disk that is really full.
#
#     test_kill.sh MEDRL_FAULTY [KILLS [LANES]]     KILLS: how many (40); LANES: so many at a time
# Source: reliability.md P1, P2.
. "$(dirname "$0")/../cli/lib.sh"
. "$(dirname "$0")/lib_faults.sh"
kills=${2-40} lanes=${3-1} first=${4-1}
if [ "$lanes" -gt 1 ]; then # each a test of its own with its share of the numbers
    from=1 codes=''
    for lane in $(seq "$lanes"); do
        share=$(((kills - from + 1) / (lanes - lane + 1)))
        "$here/test_kill.sh" "$medrl" $share 1 $from >"$temp/lane$lane" 2>&1 &
        codes="$codes $!" from=$((from + share))
    done
    for pid in $codes; do wait "$pid" || failed=1; done
    [ -z "${failed-}" ] || { tail -n 20 "$temp"/lane*; exit 1; }
    cat "$temp"/lane* | awk '/^score/ && !($2 in n) { order[++k] = $2 } /^score/ { n[$2] += $3 } !/^score/ { print } END { for (i = 1; i <= k; i++) print "score:", order[i], n[order[i]], n[order[i]] }'
    exit 0
fi
short_run 60
smaller
began=$(date +%s%N)
run 0 run short.lua -o whole -q
ms=$((($(date +%s%N) - began) / 1000000))
whole_hash=$(hash_of whole)
whole_metrics=$(without_clock whole)

# the eight lowest rewards of the first 50 steps are kept by themselves, and as they were
rewards_of() { sed -n 's/.*, "reward": \([-0-9.e]*\), "advantage".*/\1/p' "$1"; }
is "$(wc -l <whole/worst.jsonl)" 8
sed -n 's/^{"step": \([0-9]*\),.*/\1 &/p' whole/samples.jsonl | awk '$1 <= 50' >first50
is "$(rewards_of first50 | sort -g | head -n 8)" "$(rewards_of whole/worst.jsonl)"

same() { # WHAT
    cmp -s whole/worst.jsonl cut/worst.jsonl || fail "$1: worst.jsonl is another one"
    [ "$(hash_of cut)" = "$whole_hash" ] || fail "$1: the run has another hash"
    [ "$(without_clock cut)" = "$whole_metrics" ] || fail "$1: the run has other metrics"
    checks=$((checks + 1))
}
# cut_after MS ARGS...: starts medrl, kills it after so many milliseconds; true when it was still running
cut_after() {
    wait_s=$(awk -v t="$1" 'BEGIN { printf "%.3f", t / 1000 }')
    shift
    "$medrl" "$@" -q >"$temp/out" 2>"$temp/err" </dev/null &
    pid=$!
    sleep "$wait_s"
    kill -KILL $pid 2>/dev/null
    code=0
    wait $pid 2>/dev/null || code=$?
    [ $code = 137 ]
}
go_on() {
    if ls -d cut/checkpoint-* >/dev/null 2>&1; then
        "$medrl" resume cut -q >"$temp/out" 2>"$temp/err" || fail "$1: and then resume: exit code $?"
    else
        rm -rf cut
        run 0 run short.lua -o cut -q
    fi
}

# --- at random times, the same in every run of this test as shares of a run's length, which others on the machine change: where kills come
# too late it is taken for shorter
at_work=0 again=0
for i in $(seq "$first" $((first + kills - 1))); do
    set -- $(awk -v seed="$i" -v ms="$ms" 'BEGIN { srand(seed); print int(rand() * ms), int(rand() * ms) }')
    rm -rf cut
    if cut_after "$1" run short.lua -o cut; then
        at_work=$((at_work + 1)) ms=$((ms + ms / 100 + 1))
    else
        ms=$((ms - ms / 12))
    fi
    check_checkpoints cut "killed after $1 ms"
    if [ $((i % 4)) = 0 ] && ls -d cut/checkpoint-* >/dev/null 2>&1 && cut_after "$2" resume cut; then again=$((again + 1)); fi
    go_on "killed after $1 ms"
    same "killed after $1 ms"
done
[ $at_work -ge $((kills / 2)) ] || fail "only $at_work of $kills kills met a run at work"

# --- at each system call of a resume, a few of each kind
rm -rf base
tries=0
until ls -d base/checkpoint-* >/dev/null 2>&1; do
    rm -rf cut base
    cut_after $((ms / 2 + tries * 20)) run short.lua -o cut || true
    mv cut base
    tries=$((tries + 1))
    [ $tries -lt 20 ] || fail "no kill left a checkpoint"
done
points=0
for op in write fsync rename unlink truncate; do
    n=1
    while :; do
        rm -rf cut log
        cp -a base cut
        code=0
        MEDRL_FAULT=$op:$n:kill MEDRL_FAULT_BELOW=/cut MEDRL_FAULT_LOG=$temp/log "$medrl" resume "$temp/cut" -q >"$temp/out" 2>"$temp/err" || code=$?
        [ -s log ] || break
        [ $code = 137 ] || fail "kill at $op $n: exit code $code"
        points=$((points + 1))
        check_checkpoints cut "resume, killed at $op $n"
        go_on "resume, killed at $op $n"
        same "resume, killed at $op $n"
        n=$((n * 2))
    done
    [ $n -gt 1 ] || fail "a resume made no $op"
done

# --- a file system with too little room, when this user may make one
if mkdir small && mount -t tmpfs -o size=160k none small 2>/dev/null; then
    code=0
    "$medrl" run short.lua -o small/cut -q >"$temp/out" 2>"$temp/err" || code=$?
    is $code 74
    [ "$(grep -c '^medrl: [^w]' err)" = 1 ] || fail "a full disk: want one line that begins with \"medrl: \""
    grep -q 'No space left on device' err || fail "a full disk: its line does not say so"
    check_checkpoints small/cut "a full disk"
    cp -a small/cut cut2
    umount small
    rm -rf cut
    mv cut2 cut
    go_on "a full disk"
    same "a full disk"
else
    echo "no tmpfs could be mounted: the full disk is left out"
fi
echo "score: kills_bit_equal $kills $kills"
echo "score: kills_in_resume_bit_equal $points $points"
echo "$at_work kills at work, $again again in a resume, $points at system calls of a resume"
passed
