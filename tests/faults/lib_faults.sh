# lib_faults.sh - sourced by the tests of this folder, after cli/lib.sh: a run of a fifth of a second, and what is compared of it.
# shellcheck shell=sh
cd "$temp" || exit 1

# short_run [STEPS]: short.lua with six steps, a checkpoint every two (or ten) of which two are kept, the 8-bit optimizer; the nano model of
# the repository.
short_run() {
    every=$((${1:-6} > 20 ? 10 : 2))
    cat >short.lua <<LUA
local data = require "medrl.data"
return {
  model   = { name = "examples/nano", max_seq_length = 128, load_in_4bit = false },
  lora    = { r = 4, lora_alpha = 8, target_modules = { "q_proj", "v_proj" } },
  data    = { system = "", train = data.get("nano_tasks", { n = 24, seed = 5 }) },
  rewards = { "xmlcount" },
  grpo    = { learning_rate = 1e-3, optim = "adamw_8bit", prompts_per_step = 2, num_generations = 4,
              max_prompt_length = 64, max_completion_length = 16, max_steps = ${1:-6}, save_steps = $every, save_total_limit = 2,
              logging_steps = 100, sample_steps = 0, gradient_checkpointing = false, seed = 7 },
}
LUA
}

# smaller: a third of the work a step, for tests that start hundreds of runs: one prompt, short completions.
smaller() { sed -i 's/prompts_per_step = 2/prompts_per_step = 1/; s/max_completion_length = 16/max_completion_length = 8/' short.lua; }

hash_of() { "$medrl" hash "$1" 2>/dev/null; }
# check_checkpoints RUN WHAT: what has a checkpoint's name is whole, but for one that was being removed.
check_checkpoints() {
    for dir in "$1"/checkpoint-*; do
        [ -e "$dir/MANIFEST" ] || continue
        (cd "$dir" && sha256sum -c --quiet MANIFEST) >/dev/null 2>&1 || fail "$2: $dir is damaged"
    done
}
