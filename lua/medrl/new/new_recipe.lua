--- One line on what this run is for. As it stands it runs in seconds, on the small model of the repository:
---   medrl run recipes/new_recipe.lua
--- `medrl help recipe` and docs/recipes.md list every field; --set grpo.max_steps=20 overrides one.
local data = require "medrl.data"

return {
  -- a Hugging Face name, a folder or a .gguf file: "smollm2-135m-instruct" is a real one to begin with
  model   = { name = "examples/nano", max_seq_length = 128 },
  lora    = { r = 8, lora_alpha = 16, target_modules = "all-linear" },
  data    = {
    system = "", -- put the form of the answer here; the small model needs no telling
    train  = data.get("nano_tasks", { n = 400, seed = 2 }),
    eval   = data.get("nano_tasks", { n = 60, seed = 3 }),
  },
  -- files in rewards/, each with its options and its weight
  rewards = { "xmlcount", { "strict_format", dotall = true }, { "correctness", weight = 1.0 } },
  grpo    = { learning_rate = 1e-3, lr_scheduler_type = "constant_with_warmup", warmup_steps = 2,
              prompts_per_step = 8, num_generations = 6, max_prompt_length = 64, max_completion_length = 48,
              max_steps = 20, save_steps = 0, logging_steps = 5, sample_steps = 10, seed = 1 },
  output_dir = "outputs",
}
