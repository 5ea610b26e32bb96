--- Four steps on the nano model: does everything still fit together? For tests and for a first look at what a run
--- leaves behind.
local data = require "medrl.data"

return {
  model   = { name = "examples/nano", max_seq_length = 96, load_in_4bit = false },
  lora    = { r = 4, lora_alpha = 8, target_modules = { "q_proj", "v_proj" } },
  data    = {
    system = "",
    train  = data.get("nano_tasks", { n = 24, seed = 5 }),
    eval   = data.get("nano_tasks", { n = 6, seed = 6 }),
  },
  rewards = { "xmlcount", { "soft_format", dotall = true }, { "strict_format", dotall = true }, "valid_answer",
              "correctness" },
  grpo    = { learning_rate = 1e-3, adam_beta2 = 0.99, optim = "adamw_torch", prompts_per_step = 2,
              num_generations = 4, max_prompt_length = 48, max_completion_length = 24, beta = 0.0, max_steps = 4,
              save_steps = 2, logging_steps = 1, sample_steps = 2, gradient_checkpointing = false, seed = 7 },
  output_dir = "outputs-smoke",
}
