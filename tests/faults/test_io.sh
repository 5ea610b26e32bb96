#!/bin/sh
# test_io.sh - every write, fsync, open, mkdir, rename, unlink, rmdir, truncation and chmod of a run fails once, or kills it: whatever
# happens, the checkpoints that were there hold, and the run ends, or is continued, with the bits of the run that was left alone.
#
#     test_io.sh MEDRL_FAULTY [all|few]     all: every kind of failure at every call (minutes); else each call once or twice; few: every sixth of these
# Source: reliability.md P1, P2; the loop is SQLite's ("How SQLite Is Tested").
. "$(dirname "$0")/../cli/lib.sh"
. "$(dirname "$0")/lib_faults.sh"
all=${2-} stride=1
[ "$all" != few ] || { all='' stride=6; }
short_run
smaller
run 0 run short.lua -o whole -q
whole_hash=$(hash_of whole)
whole_metrics=$(without_clock whole)
points=0 continued=0

# try OP N WHAT: false when the run was over before its Nth OP
try() {
    rm -rf cut log
    code=0
    MEDRL_FAULT=$1:$2:$3 MEDRL_FAULT_BELOW=/cut MEDRL_FAULT_LOG=$temp/log "$medrl" run short.lua -o "$temp/cut" -q >"$temp/out" 2>"$temp/err" || code=$?
    [ -s log ] || return 1
    points=$((points + 1))
    what="$1 $2 $3: exit code $code"
    case $3:$code in
    kill*:137) ;;
    *:0) [ ! -s err ] || grep -q '^warning\|^medrl: warning' err || fail "$what, but stderr says something else than warnings" ;;
    *:74) [ "$(grep -c '^medrl: ' err)" = 1 ] || fail "$what, want one line that begins with \"medrl: \"" ;;
    *) fail "$what, want 0 or 74" ;;
    esac
    check_checkpoints cut "$what"
    if [ $code != 0 ]; then
        go_on "$what"
    fi
    [ "$(hash_of cut)" = "$whole_hash" ] || fail "$what: the run has another hash"
    [ "$(without_clock cut)" = "$whole_metrics" ] || fail "$what: the run has other metrics"
    [ -z "$(find cut -name '*.tmp-*' -o -name '.tmp-*' | head -n 1)" ] || fail "$what: leaves $(find cut -name '*.tmp-*' -o -name '.tmp-*' | head -n 1)"
    return 0
}

# Continued where it can be, else begun again: before its first checkpoint a run has nothing to continue.
go_on() {
    if ls -d cut/checkpoint-* >/dev/null 2>&1; then
        "$medrl" resume cut -q >"$temp/out" 2>"$temp/err" || fail "$1: and then resume: exit code $?"
        continued=$((continued + 1))
    else
        rm -rf cut
        "$medrl" run short.lua -o "$temp/cut" -q >"$temp/out" 2>"$temp/err" || fail "$1: and then a new run: exit code $?"
    fi
}

loop() { # OP WHAT FROM BY
    n=$3
    while try "$1" $n "$2"; do n=$((n + $4 * stride)); done
    [ $n -gt "$3" ] || fail "$1 $2: no call was counted from number $3 on"
}

if [ -n "$all" ]; then
    for op in write fsync open mkdir rename unlink rmdir truncate chmod; do
        for what in ENOSPC EIO kill killed; do loop $op $what 1 1; done
    done
else
    for op in write fsync; do
        loop $op ENOSPC 1 3
        loop $op EIO 2 3
        loop $op kill 3 3
    done
    for op in open rename mkdir unlink chmod; do
        loop $op ENOSPC 1 2
        loop $op killed 2 2
    done
    for op in rmdir truncate; do
        loop $op EIO 1 1
        loop $op kill 1 1
    done
fi
loop write EINTR 1 4
loop write short 2 4
checks=$((checks + points))
echo "score: fault_points $points $([ -n "$all" ] && echo 1000 || echo 210)"
echo "$points faults, $continued runs continued"
passed
