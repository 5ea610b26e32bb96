#!/bin/sh
# test_guards.sh - a run that learns nothing ends with its reason after 20 steps, can be continued, and goes on with one warning when
# grpo.guards is false; and the numbers about how rewards come about.
. "$(dirname "$0")/lib.sh"
cd "$temp" || exit 1
mkdir rewards
echo 'return { score = function() return 0 end }' >rewards/zero.lua
echo 'return { score = function() return 1 end }' >rewards/one.lua
echo 'return { score = function(c) return #c % 3 end }' >rewards/length.lua
recipe() { # FILE REWARDS COMPLETION_LENGTH
    cat >"$1" <<LUA
local data = require "medrl.data"
return {
  model = { name = "examples/nano", max_seq_length = 128, load_in_4bit = false },
  lora = { r = 2, lora_alpha = 4, target_modules = { "q_proj" } },
  data = { system = "", train = data.get("nano_tasks", { n = 24, seed = 5 }) },
  rewards = { $2 },
  grpo = { learning_rate = 1e-4, optim = "adamw_torch", prompts_per_step = 1, num_generations = 4, max_prompt_length = 64,
           max_completion_length = $3, max_steps = 45, save_steps = 0, logging_steps = 100, sample_steps = 0,
           gradient_checkpointing = false, seed = 7 },
}
LUA
}
steps() { wc -l <"$1/metrics.jsonl" | tr -d ' '; }

recipe zero.lua '"zero"' 16
run 2 run zero.lua -o zero -q
says "every reward of the last 20 steps was zero"
says "continue with: medrl resume zero"
is "$(steps zero)" 20
run 2 resume zero -q
is "$(steps zero)" 40
run 0 run zero.lua -o on -q --set grpo.guards=false
is "$(steps on)" 45
is "$(grep -c 'every reward of the last 20 steps was zero' "$temp/err")" 1
is "$(grep -c '"kind": "warning"' on/events.jsonl)" 1

recipe one.lua '"one"' 16
run 2 run one.lua -o one -q
says "no group had two different rewards"
recipe cut.lua '"length"' 2
run 2 run cut.lua -o cut -q
says "was cut at max_completion_length"

# a signal that is alive is left alone; of two rewards the shares are one together
recipe two.lua '"length", { "one", weight = 2 }' 16
run 0 run two.lua -o two -q
is "$(steps two)" 45
tail -n 1 two/metrics.jsonl | sed 's/, "/\n"/g' >last
a=$(sed -n 's/"rewards\/length\/share": //p' last) b=$(sed -n 's/"rewards\/one\/share": //p' last)
is "$(awk -v a="$a" -v b="$b" 'BEGIN { print (a > 0 && b > a && a + b > 0.999999 && a + b < 1.000001) }')" 1
grep -q '"completions/duplicate_ratio": 0\.\{0,1\}[0-9]*$' last || fail "no duplicate_ratio"
grep -q '"completions/length_drift": [0-9.]*$' last || fail "no length_drift"
is "$(head -n 10 two/metrics.jsonl | grep -c length_drift)" 0
passed
