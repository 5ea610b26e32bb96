#!/bin/sh
# test_memory.sh - the Nth request for memory of a run of one step fails, for every N of a list: the run ends with exit code 71 and one line,
# or goes on to the bits of the run that had it all; it never crashes. Once (a large request that may be tried smaller), and from then on.
#
#     test_memory.sh MEDRL_FAULTY [all]     all: every N (minutes); else the first 120, then every 1.1th
# Source: reliability.md P12; the loop is SQLite's ("How SQLite Is Tested").
. "$(dirname "$0")/../cli/lib.sh"
. "$(dirname "$0")/lib_faults.sh"
all=${2-}
short_run 1
run 0 run short.lua -o whole -q
whole_hash=$(hash_of whole)
points=0 refused=0 unharmed=0

# try FAULT: false when the run was over before it
try() {
    rm -rf "$dir/cut" "$dir/log"
    code=0
    MEDRL_FAULT=$1 MEDRL_FAULT_LOG=$dir/log "$medrl" run short.lua -o "$dir/cut" -q >"$dir/out" 2>"$dir/err" </dev/null || code=$?
    [ -s "$dir/log" ] || return 1
    points=$((points + 1))
    case $code in
    0)
        unharmed=$((unharmed + 1))
        [ "$(hash_of "$dir/cut")" = "$whole_hash" ] || fail_here "$1: exit code 0, but another hash"
        ;;
    71)
        refused=$((refused + 1))
        [ "$(grep -c '^medrl: ' "$dir/err")" = 1 ] || fail_here "$1: want one line that begins with \"medrl: \""
        ;;
    *) fail_here "$1: exit code $code, want 0 or 71" ;;
    esac
}
fail_here() {
    cp "$dir/err" "$temp/err"
    fail "$@"
}
# lane OP FIRST BY: N = FIRST, FIRST + 1, ... dense, then growing
lane() {
    dir=$temp/$1$2
    mkdir -p "$dir"
    n=$2
    while try "$1:$n:ENOMEM"; do
        if [ $((n % 7)) = 0 ]; then try "$1:$n+:ENOMEM"; fi
        if [ -n "$all" ] || [ $n -lt 120 ]; then n=$((n + $3)); else n=$((n + n / 10)); fi
    done
    [ $points -gt 3 ] || fail "$1: only $points requests met a fault"
    echo "$1 from $2: $points failures of memory up to number $n, $refused ended with 71, $unharmed made no difference"
}
pids=
for from in 1 2; do
    (lane malloc $from 2) &
    pids="$pids $!"
done
for pid in $pids; do wait "$pid" || exit 1; done
(lane mmap 1 1) || exit 1
checks=$((checks + 3))
passed
