--- Trains the nano model of examples/nano from random weights on its three tasks, supervised: medrl run
--- recipes/nano_sft.lua
--- The first 80 % of the rows are clean; the rest is broken on purpose, so that recipes/demo.lua has something to
--- improve.
local data = require "medrl.data"

local steps, batch = 1500, 32

return {
  method = "sft",
  model  = { name = "examples/nano", from_config = true, max_seq_length = 128, load_in_4bit = false,
             dtype = "float32" },
  lora   = { r = 0 }, -- all weights
  data   = {
    system = "",
    train  = data.get("nano_tasks", { sft = true, n = steps * batch, seed = 1, broken_from = 0.8 }),
  },
  rewards = { "xmlcount", { "soft_format", dotall = true }, { "strict_format", dotall = true }, "valid_answer",
              "correctness" },
  sft    = { learning_rate = 1.5e-3, adam_beta1 = 0.9, adam_beta2 = 0.99, weight_decay = 0.0,
             lr_scheduler_type = "cosine", warmup_steps = 20, optim = "adamw_torch", max_grad_norm = 1.0,
             prompts_per_step = batch, max_prompt_length = 64, max_completion_length = 64,
             max_steps = steps, save_steps = 0, logging_steps = 50, shuffle_dataset = false, -- the order is the point
             gradient_checkpointing = false, seed = 1 },
  output_dir = "outputs-nano",
}
