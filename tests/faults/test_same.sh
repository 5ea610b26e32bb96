#!/bin/sh
# test_same.sh - the same seed gives the same bits and the same record: for any number of threads, however much memory there is (prompts in
# flight, rows of logits, groups a pack), in another locale and time zone, told more or less, watched or not, with clocks that jump.
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
least=$("$medrl" plan short.lua --vram 1M 2>&1 | sed -n 's/.*at least \([0-9.]* MB\).*/\1/p' | tr -d ' ')
for size in "${least:-10MB}" 10M 11M 12M 14M 100M; do
    "$medrl" plan short.lua --vram "$size" >/dev/null 2>&1 || continue
    same "--vram $size" --vram "$size" -q
    fitted=$((${fitted-0} + 1))
done
[ "${fitted-0}" -ge 3 ] || fail "only ${fitted-0} memory caps could be tried"
LC_ALL=de_DE.UTF-8 LANG=de_DE.UTF-8 LC_NUMERIC=de_DE.UTF-8 same "German numbers" -q
if command -v localedef >/dev/null 2>&1 && localedef -i de_DE -f UTF-8 "$temp/de_DE.UTF-8" >/dev/null 2>&1; then
    LOCPATH=$temp LC_ALL=de_DE.UTF-8 same "German numbers, with the locale there" -q
else
    echo "no locale could be made: the decimal comma is tried by name only"
fi
TZ=Asia/Kolkata same "another time zone" -q
TZ=nonsense same "a time zone that does not exist" -q
same "everything said" -v
same "as told by default"
(unset HOME && XDG_CACHE_HOME='' same "no home" -q) || exit 1
TERM=dumb NO_COLOR=1 same "a dumb terminal" -q
(umask 077 && same "a strict umask" -q) || exit 1
for fault in clock:5:31536000 clock:5:-31536000 clock:20:86400 uptime:60:86400 uptime:200:86400; do
    MEDRL_FAULT=$fault MEDRL_FAULT_LOG=$temp/log same "a clock that jumps, $fault" -q
    [ -s log ] || fail "$fault: never came"
    rm -f log
done
checks=$((checks + n))
echo "$n runs, one result"
passed
