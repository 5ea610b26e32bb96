local data = require "medrl.data"
return {
  model   = { name = "examples/nano", max_seq_length = 128, load_in_4bit = false },
  lora    = { r = 1, lora_alpha = 2, target_modules = { "v_proj" } },
  data    = { system = "", train = data.get("nano_tasks", { n = 8, seed = 5 }) },
  rewards = { "xmlcount" },
  grpo    = { learning_rate = 1e-3, optim = "adamw_torch", prompts_per_step = 1, num_generations = 2,
              max_prompt_length = 64, max_completion_length = 8, max_steps = 4, save_steps = 2,
              logging_steps = 100, sample_steps = 0, gradient_checkpointing = false, seed = 7 },
}
