#!/bin/sh
# test_mistakes.sh - what a new user gets wrong: recipes, data files, models, adapters, checkpoints, folders that go, signals. One line each, with the
# place and what to do, and the exit code of the design.
. "$(dirname "$0")/lib.sh"
tiny_model tiny_smollm2
cd "$temp" || exit 1
mkdir -p recipes rewards data

cat >recipes/gs.lua <<'LUA'
local data = require "medrl.data"
return {
  model   = { name = "tiny", max_seq_length = 256, load_in_4bit = false },
  lora    = { r = 4, lora_alpha = 8, target_modules = { "q_proj", "v_proj" } },
  data    = { system = "", train = data.get("gsm8k") },
  rewards = { "xmlcount" },
  grpo    = { optim = "adamw_torch", prompts_per_step = 1, num_generations = 2, max_prompt_length = 128, max_completion_length = 8,
              max_steps = 1, logging_steps = 1, sample_steps = 1 },
  on_cpu  = { grpo = { max_steps = 2 } },
}
LUA
good='{"question": "what is 3 plus 4", "answer": "so #### 7"}'

# --- the recipe: exit code 2
wrong() { # TEXT SETTING...
    text=$1
    shift
    run 2 run recipes/gs.lua -o never "$@"
    says "medrl: $text"
    [ ! -e never ] || fail "a folder was made"
}
wrong 'recipes/gs.lua: no file for data set "gsm8k": put the file there with data.files.gsm8k'
wrong 'recipes/gs.lua: data.train is a number, want a data set (data.get "NAME")' --set data.train=3
wrong 'recipes/gs.lua: data.files is a number, want { name = "PATH" }' --set data.files=3
wrong 'recipes/gs.lua: unknown key "data.trian", want train, eval, files, system or shots' --set data.trian=3
wrong 'recipes/gs.lua: data.files.gms8k: the recipe reads no data set of that name, it reads gsm8k' --set data.files.gms8k=x.jsonl
wrong 'recipes/gs.lua: data.files.gsm8k has no entry "train"' --set 'data.files={"gsm8k": {"test": "x.jsonl"}}'
wrong 'recipes/gs.lua: rewards[1]: weight is a string, want a number' --set 'rewards=[{"name": "xmlcount", "weight": "x"}]'
printf '%s\n' "$good" >data/good.jsonl
wrong 'recipes/gs.lua: data.train has 1 row, a step takes 2; add rows or lower grpo.prompts_per_step' \
    --set data.files.gsm8k=data/good.jsonl --set grpo.prompts_per_step=2
# keys of on_cpu are looked at where it is not used, too
sed 's/max_steps = 2/max_stepz = 2/' recipes/gs.lua >recipes/gpu.lua
run 2 data recipes/gpu.lua --gpu --set data.files.gsm8k=data/good.jsonl
says 'recipes/gpu.lua (with its on_cpu): unknown key "grpo.max_stepz"; did you mean "grpo.max_steps"?'
lua() { # TEXT RECIPE
    printf '%s\n' "$2" >recipes/bad.lua
    run 2 run recipes/bad.lua
    says "medrl: $1"
}
lua 'recipes/bad.lua: the file returns nothing, want a recipe: end it with return { ... }' ''
lua "recipes/bad.lua:2: unexpected symbol near '<eof>'" 'return {'
lua 'recipes/bad.lua: the error object is a table, want a string' 'error({})'
lua 'recipes/bad.lua: not enough memory' 'local s = "x" while true do s = s .. s end'
printf '%s\n' 'return { name = "batch", score_batch = 3 }' >rewards/batch.lua
wrong 'rewards/batch.lua: score_batch is a number, want a function' --set 'rewards=["batch"]'

# --- the data: exit code 65, with file and line
bad_data() { # TEXT LINES...
    text=$1
    shift
    printf '%s\n' "$@" >data/bad.jsonl
    run 65 run recipes/gs.lua -o never --set data.files.gsm8k=data/bad.jsonl
    says "medrl: $text"
    [ ! -e never ] || fail "a folder was made"
}
bad_data 'data/bad.jsonl:2: byte 13: a string that never ends; is the file cut?' "$good" '{"question": "wh'
bad_data 'data/bad.jsonl:1: field "question" is missing, want a string' '{"q": "x", "answer": "so #### 7"}'
bad_data 'data/bad.jsonl:1: field "question" is a number, want a string' '{"question": 3, "answer": "so #### 7"}'
bad_data 'recipes/gs.lua: data.train has no rows' ''
run 65 run recipes/gs.lua --set data.files.gsm8k=data/nowhere.jsonl
says 'medrl: data set "gsm8k": data/nowhere.jsonl: no such file here or in'

run 2 run recipes/medical_mx.lua
says 'did you mean "recipes/medical_mix.lua"?'
run 2 run medicalmix.lua
says 'did you mean "recipes/medical_mix.lua"?'

# --- a run: what the reward sees, weights, a sample that shows its question, warnings that are no errors
cat >rewards/info.lua <<'LUA'
return { name = "info", score = function(_, row, info)
  assert(info.prompt:find("what is 3 plus 4", 1, true) and info.n_tokens > 0 and info.truncated ~= nil and row.answer == "7")
  return info.n_tokens
end }
LUA
run 0 run recipes/gs.lua -o one --set data.files.gsm8k=data/good.jsonl --set 'rewards=[{"name": "info", "weight": 0.5}, "xmlcount"]' \
    --set reward_weights=null
says '  prompt      what is 3 plus 4'
says 'info 8.00'
says 'reward 4.00'
prints 'talk to it: medrl chat one'
printf '%s\n' 'return { name = "never", score = function() while true do end end }' >rewards/never.lua
run 0 run recipes/gs.lua -o two --set grpo.max_steps=1 --set data.files.gsm8k=data/good.jsonl --set 'rewards=["never"]'
says 'warning: step 1: rewards/never.lua: no answer within 2 s; the worker was killed (sample 0)'
is "$(grep -c '^medrl: ' "$temp/err")" 0

# --- what a run left behind, damaged: the older checkpoint is taken, and said once
cp -r one damaged
run 2 logprobs tiny --adapter data
says 'medrl: data: holds no adapter_config.json, want a PEFT adapter'
rm damaged/checkpoint-2/optimizer.safetensors
run 2 resume damaged
says 'optimizer.safetensors'

# --- the run folder goes while the run writes to it
"$medrl" run recipes/smoke.lua -o gone --threads 1 --set model.name="$temp/tiny" --set model.max_seq_length=256 \
    --set grpo.max_prompt_length=200 --set grpo.max_steps=5000 --set grpo.save_steps=0 >out 2>err </dev/null &
pid=$!
waited=0
while [ ! -s gone/metrics.jsonl ]; do
    sleep 0.05
    waited=$((waited + 1))
    [ $waited -lt 1200 ] || fail "no step after a minute"
done
mv gone moved
code=0
wait $pid || code=$?
is "$code" 74
grep -q '^medrl: gone: gone/metrics.jsonl: was moved or removed' err || fail "nobody says that the folder is gone"

# --- no prompt
: >"$temp/in"
run 2 generate tiny
says 'medrl: generate: no prompt; write it behind the model, or send it to stdin'
passed
