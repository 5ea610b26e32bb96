--- The whole loop in seconds: GRPO on the nano model that lies in the repository. medrl demo
--- It knows the three tasks and the form from its supervised phase, and was then made careless; the rewards bring both
--- back.
local data = require "medrl.data"

return {
  model   = { name = "examples/nano", max_seq_length = 128, load_in_4bit = false },
  lora    = { r = 8, lora_alpha = 16,
              target_modules = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" } },
  data    = {
    system = "",
    train  = data.get("nano_tasks", { n = 400, seed = 2 }),
    eval   = data.get("nano_tasks", { n = 60, seed = 3 }),
  },
  -- dotall: the layout has newlines inside its blocks, which the published soft pattern does not match
  rewards = { "xmlcount", { "soft_format", dotall = true }, { "strict_format", dotall = true }, "valid_answer",
              "correctness" },
  grpo    = { learning_rate = 1e-3, adam_beta1 = 0.9, adam_beta2 = 0.99, weight_decay = 0.0, warmup_steps = 2,
              lr_scheduler_type = "constant_with_warmup", optim = "adamw_torch", max_grad_norm = 1.0,
              prompts_per_step = 8, num_generations = 6, max_prompt_length = 64, max_completion_length = 48,
              temperature = 1.0, beta = 0.0, max_steps = 60, save_steps = 0,
              logging_steps = 5, sample_steps = 30, gradient_checkpointing = false, seed = 3407 },
  output_dir = "outputs-demo",
}
