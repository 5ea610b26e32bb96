#!/bin/sh
# test_on_error.sh - what a reward's fault does in a run: the lowest value, left out, or the end before the step; a run that stopped for it
# is, once the file is mended, the run that never had it; and what rewards failed on stands in the record.
. "$(dirname "$0")/lib.sh"
cd "$temp" || exit 1
mkdir rewards
reward() { # [FAULT [MORE]]: fails on every completion of step 3 of some lengths
    printf '%s\n' "return { $2 range = { -2, 9 }, score = function(c, _, info)" \
        "  if info.step == 3 and #c % 3 == 1 then $1 end" '  return #c % 7 end }' >rewards/own.lua
}
recipe() { # REWARDS
    cat >run.lua <<LUA
local data = require "medrl.data"
return {
  model = { name = "examples/nano", max_seq_length = 128, load_in_4bit = false },
  lora = { r = 2, lora_alpha = 4, target_modules = { "q_proj" } },
  data = { system = "", train = data.get("nano_tasks", { n = 24, seed = 5 }) },
  rewards = { $1 },
  grpo = { learning_rate = 1e-3, optim = "adamw_torch", prompts_per_step = 2, num_generations = 4, max_prompt_length = 64,
           max_completion_length = 24, max_steps = 5, save_steps = 0, logging_steps = 100, sample_steps = 0, max_fault_share = 1,
           gradient_checkpointing = false, seed = 7 },
}
LUA
}
hash_of() { "$medrl" hash "$1"; }
metric() { sed -n "$2p" "$1/metrics.jsonl" | grep -oE "\"$3\": [^,}]*" | sed 's/.*: //'; }
step3() { sed -n 17,24p "$1/samples.jsonl"; }

recipe '"own"'
reward ''
run 0 run run.lua -o clean -q
# min, the default: the lowest value
reward 'error("no idea")'
run 0 run run.lua -o min -q
n=$(metric min 3 rewards/faults)
[ "$n" -ge 1 ] && [ "$n" -lt 8 ] || fail "no step to test with: $n of 8 completions fail"
is "$(step3 min | grep -c '"rewards": {"own": -2}, "faults": \["own"\]')" "$n"
# mask: no value, no part in the group, and a fault all the same
reward 'error("no idea")' 'on_error = "mask",'
run 0 run run.lua -o mask -q
is "$(metric mask 3 rewards/faults)" "$n"
is "$(step3 mask | grep -c '"rewards": {"own": null}, "faults": \["own"\], "reward": null, "advantage": 0,')" "$n"
# the same to the bit as a reward that abstains there
reward 'return nil'
run 0 run run.lua -o nil -q
is "$(hash_of mask)" "$(hash_of nil)"
[ "$(hash_of min)" != "$(hash_of mask)" ] || fail "min and mask are the same"
# the recipe has the last word
reward 'error("no idea")' 'on_error = "mask",'
recipe '{ "own", on_error = "min" }'
run 0 run run.lua -o min2 -q
is "$(hash_of min2)" "$(hash_of min)"

# stop: one line, nothing of the step in the record; mended, it is the run that never had it
recipe '{ "own", on_error = "stop" }'
run 2 run run.lua -o stop -q
says 'medrl: stop: step 3: rewards/own.lua:2: no idea (sample '
says 'the reward own has on_error = "stop": mend it, the step is made again; continue with: medrl resume stop'
is "$(wc -l <stop/metrics.jsonl | tr -d ' ')" 2
is "$(wc -l <stop/samples.jsonl | tr -d ' ')" 16
run 2 resume stop -q
reward ''
run 0 resume stop -q
is "$(hash_of stop)" "$(hash_of clean)"
recipe '{ "own", on_error = "zero" }'
run 2 run run.lua -o never
says 'run.lua: rewards[1]: on_error is "zero", want "min", "mask" or "stop"'

# more faults than max_fault_share: the end, with up to three of the inputs in the record
reward 'error("no idea")'
recipe '"own"'
run 2 run run.lua -o share -q --set grpo.max_fault_share=0.01 --on-error stop
says 'calls of rewards failed in the last 3 steps'
is "$(grep -c '"text": "rewards failed on these inputs, among others", "detail": {"inputs": \[{"reward": "own", "fault": "rewards/own.lua:2: no idea (sample [0-9])", "completion": ".*", "row": [0-9]' \
    share/events.jsonl)" 1
inputs=$(grep -oE '"fault": "' share/events.jsonl | wc -l | tr -d ' ')
is "$inputs" "$([ "$n" -gt 3 ] && echo 3 || echo "$n")"
passed
