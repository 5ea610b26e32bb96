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
total=0 resumed=0
# power TRACE ROOT [BEFORE COMMITTED]: every state of it, and some of them continued
power() {
    perl "$here/../faults/power.pl" "$1" "$2" "$medrl" hashes "$temp/state" 60 "${3-}" ${4-} >out 2>err || fail "$(grep -m 5 committed out)"
    total=$((total + $(sed -n 's/^states=\([0-9]*\) .*/\1/p' out)))
    head -n 1 out
    for state in state-*; do
        "$medrl" resume "$state" -q >resume.out 2>err </dev/null || fail "$state: resume: exit code $?"
        [ "$(hash_of "$state")" = "$whole_hash" ] || fail "$state: another hash"
        [ "$(without_clock "$state")" = "$whole_metrics" ] || fail "$state: other metrics"
        resumed=$((resumed + 1))
    done
    rm -rf state state-*
}
power trace "$temp/traced"
[ $total -ge 500 ] || fail "only $total states"

# --- a resume that finds its newest checkpoint damaged goes on from the one before it, and writes that one again: the two change places
rm -f traced/lock
truncate -s 100 traced/checkpoint-6/adapter_model.safetensors
cp -a traced before
MEDRL_FAULT_TRACE=$temp/trace2 MEDRL_FAULT_BELOW=$temp/traced run 0 resume "$temp/traced" -q
is "$(hash_of traced)" "$whole_hash"
grep -q '^exchange' trace2 || fail "no checkpoint was written again"
first=$total
power trace2 "$temp/traced" "$temp/before" 5
[ $((total - first)) -ge 50 ] || fail "only $((total - first)) states of a resume"
[ $resumed -ge 10 ] || fail "only $resumed states were continued"
checks=$((checks + total + resumed))
echo "score: power_loss_states $total 500"
echo "$resumed of them continued"
passed
