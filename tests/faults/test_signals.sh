#!/bin/sh
# test_signals.sh - a first signal at any point of a run: the step in work is left, a checkpoint of the last whole step is written, the
# exit code is the design's and the line says how to go on; and going on gives the bits of the run that was left alone. A second signal
# ends it at once, and the checkpoints that were there hold. What else a shell does to a program: a closed terminal, a limit, a stop.
#
#     test_signals.sh MEDRL_FAULTY
# Source: reliability.md P8; design.md, section 8.
. "$(dirname "$0")/../cli/lib.sh"
. "$(dirname "$0")/lib_faults.sh"
short_run 30
run 0 run short.lua -o whole -q
whole_hash=$(hash_of whole)
whole_metrics=$(without_clock whole)
code_of() { case $1 in SIGHUP) echo 129 ;; SIGINT) echo 130 ;; SIGTERM) echo 143 ;; *) echo 75 ;; esac; }

same() { # WHAT
    [ "$(hash_of cut)" = "$whole_hash" ] || fail "$1: the run has another hash"
    [ "$(without_clock cut)" = "$whole_metrics" ] || fail "$1: the run has other metrics"
    checks=$((checks + 1))
}
# signaled FAULTS CODE: a run with these faults (a shell in the background has SIGINT ignored, which a program leaves so)
signaled() {
    rm -rf cut log
    points=$((${points-0} + 1))
    code=0
    MEDRL_FAULT=$1 MEDRL_FAULT_BELOW=/cut MEDRL_FAULT_LOG=$temp/log env --default-signal=INT,HUP "$medrl" run short.lua -o "$temp/cut" -q >"$temp/out" 2>"$temp/err" </dev/null || code=$?
    [ -s log ] || fail "$1: never came"
    [ $code = "$2" ] || fail "$1: exit code $code, want $2"
    [ "$(grep -c '^medrl: ' err)" = 1 ] || fail "$1: want one line that begins with \"medrl: \""
    check_checkpoints cut "$1"
}
go_on() { # WHAT
    if ls -d cut/checkpoint-* >/dev/null 2>&1; then
        grep -qF "continue with: medrl resume" err || [ -n "${2-}" ] || fail "$1: the line does not say how to go on"
        "$medrl" resume cut -q >"$temp/out" 2>"$temp/err" || fail "$1: and then resume: exit code $?"
    else
        rm -rf cut
        run 0 run short.lua -o cut -q
    fi
    same "$1"
}

# --- one signal: at twelve places of each phase: while it samples, while it trains and updates, while files are written
kinds="SIGINT SIGTERM SIGHUP SIGUSR1"
at=0
next_kind() {
    set -- $kinds
    shift $((at % 4))
    at=$((at + 1))
    kind=$1
}
moved() { # STAGE N...
    stage=$1
    shift
    for n in "$@"; do
        next_kind
        signaled "beat:$n:$stage/$kind" "$(code_of "$kind")"
        go_on "$kind at move $n of $stage"
    done
}
moved rollout 1 4 11 27 50 83 121 166 213 270 333 397
moved train 1 5 10 15 22 29
moved update 1 30 66 103 150 196
for n in 30 70 110 150 190 230; do
    for op in write fsync; do
        next_kind
        [ $op = write ] && op_share=100 || op_share=30
        k=$((op_share * n / 100 + 1))
        signaled "$op:$k:$kind" "$(code_of "$kind")"
        go_on "$kind at $op $k"
    done
done

# --- two signals: at once, whatever is under way
for n in 40 100 200; do
    signaled "uptime:$n:SIGTERM,uptime:$((n + 1)):SIGTERM" 143
    go_on "two signals at reading $n" second
done
for n in 31 93 151; do
    signaled "write:$n:SIGINT,fsync:$((n / 2)):SIGINT" 130
    go_on "two signals while files are written, write $n" second
done

# --- stopped and continued; a terminal that goes away; a file size limit; standard output that is closed
"$medrl" run short.lua -o cut3 -q >out 2>err </dev/null &
pid=$!
for _ in 1 2 3 4 5; do
    kill -STOP $pid 2>/dev/null && sleep 0.05 && kill -CONT $pid
    sleep 0.02
done
wait $pid || fail "stopped and continued: exit code $?"
rm -rf cut
mv cut3 cut
same "stopped and continued"
rm -rf cut
code=0
(ulimit -f 8; exec "$medrl" run short.lua -o cut -q) >out 2>err </dev/null || code=$?
[ $code = 74 ] || [ $code = 0 ] || fail "a limit of file size: exit code $code, want 74"
check_checkpoints cut "a limit of file size"
rm -rf cut
"$medrl" run short.lua -o cut -q >&- 2>/dev/null </dev/null || fail "standard output closed: exit code $?"
same "standard output closed"

# --- how long it takes: SIGTERM to a run at work, until it is gone and its checkpoint whole
most=0
for i in 1 2 3 4 5; do
    rm -rf cut
    "$medrl" run short.lua -o cut -q --set grpo.max_steps=100000 --set grpo.save_steps=0 >out 2>err </dev/null &
    pid=$!
    waited=0
    until [ -s cut/metrics.jsonl ]; do
        sleep 0.02
        waited=$((waited + 1))
        [ $waited -lt 1000 ] || fail "the first step does not come"
    done
    sleep 0.0$i
    began=$(date +%s%N)
    kill -TERM $pid
    code=0
    wait $pid || code=$?
    ms=$((($(date +%s%N) - began) / 1000000))
    [ $code = 143 ] || fail "SIGTERM: exit code $code"
    [ -s "$(echo cut/checkpoint-*/MANIFEST)" ] || fail "SIGTERM: no checkpoint"
    check_checkpoints cut SIGTERM
    [ $ms -le $most ] || most=$ms
done
[ $most -le 2000 ] || fail "SIGTERM: $most ms until the checkpoint, want at most 2000"
echo "score: signal_points $points 36"
echo "score: sigterm_to_checkpoint_ms $most 2000"
passed
