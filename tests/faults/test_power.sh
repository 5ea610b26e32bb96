#!/bin/sh
# test_power.sh - the power fails at every operation of a run on files: in each state that the disk may be left in, the newest checkpoint that was
# committed is found, and where a run is continued from it, it ends with the bits of the one that was left alone.
#
#     test_power.sh MEDRL_FAULTY
# Source: reliability.md P2; power.pl says how states are made.
. "$(dirname "$0")/../cli/lib.sh"
. "$(dirname "$0")/lib_faults.sh"
command -v perl >/dev/null 2>&1 || { echo "$(basename "$0"): skipped, it needs perl"; exit 0; }
short_run 6
sed -i 's/save_steps = 2/save_steps = 1/' short.lua
MEDRL_FAULT_TRACE=$temp/trace MEDRL_FAULT_BELOW=$temp/traced run 0 run short.lua -o "$temp/traced" -q
run 0 run short.lua -o whole -q --set grpo.save_total_limit=100
whole_hash=$(hash_of whole)
whole_metrics=$(without_clock whole)
is "$(hash_of traced)" "$whole_hash"
for n in 1 2 3 4 5 6; do echo "$n $(hash_of whole/checkpoint-$n)"; done >hashes
perl "$here/../faults/power.pl" trace "$temp/traced" "$medrl" hashes "$temp/state" 60 >out 2>err || fail "$(grep -m 5 committed out)"
states=$(sed -n 's/^states=\([0-9]*\) .*/\1/p' out)
[ "$states" -ge 500 ] || fail "only $states states"
resumed=0
for state in state-*; do
    "$medrl" resume "$state" -q >resume.out 2>err </dev/null || fail "$state: resume: exit code $?"
    [ "$(hash_of "$state")" = "$whole_hash" ] || fail "$state: another hash"
    [ "$(without_clock "$state")" = "$whole_metrics" ] || fail "$state: other metrics"
    resumed=$((resumed + 1))
done
[ $resumed -ge 5 ] || fail "only $resumed states were continued"
checks=$((checks + states + resumed))
echo "score: power_loss_states $states 500"
echo "$(head -n 1 out); $resumed of them continued"
passed
