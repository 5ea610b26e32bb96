--- Medical reasoning with GRPO on one small GPU: the published recipe's model, data, rewards and settings, unchanged.
--- Without a GPU the table on_cpu is merged over it: a small model, an example answer in the prompt, small data sets of
--- our own.
---
--- The real data: --pull downloads it from the hub (Parquet). Files or folders of your own: --set data.files.gsm8k=PATH
--- (Parquet, JSONL, JSON or CSV; "none" leaves a set out), and so on for pubmedqa, health_benchmarks, medmcqa.
local chat = require "medrl.chat"
local data = require "medrl.data"

local system = [[

Respond in the following format:
<reasoning>
...
</reasoning>
<answer>
...
</answer>
]]

-- Concatenated, shuffled, split 90/10: as published. The share of a set is its share of the rows.
local mix = data.concatenate { data.get "gsm8k", data.get "pubmedqa", data.get "health_benchmarks" }
local parts = mix:split { test_size = 0.1, seed = 3407 }

-- On a CPU: PubMedQA 2 : multiple choice 1 : GSM8K 1, each without end (a set that is through begins again). Each set
-- is split first, so that no row is in both parts.
local function small(name, options) return data.get(name, options):split { test_size = 0.1, seed = 3407 } end
local pubmedqa, health = small("pubmedqa", { short = true }), small "health_benchmarks"
local medmcqa, gsm8k = small "medmcqa", small "gsm8k"

-- An example in the prompt, by kind of question. Zero-shot a small model writes no tag at all, so every reward is 0 and
-- nothing moves.
local function shot(question, reasoning, answer)
  return { chat.user(question), chat.assistant(chat.tagged(reasoning, answer)) }
end
local review = " You need to carefully review the context and reason before answering."

return {
  model   = { name = "Qwen/Qwen2.5-3B-Instruct", max_seq_length = 2048, load_in_4bit = true },
  lora    = { r = 64, lora_alpha = 64,
              target_modules = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" } },
  data    = { system = system, train = parts.train:shuffle(3407), eval = parts.test },
  rewards = { "xmlcount", "soft_format", "strict_format", "valid_answer", "correctness" },
  grpo    = { learning_rate = 5e-6, adam_beta1 = 0.9, adam_beta2 = 0.99, weight_decay = 0.1, warmup_ratio = 0.1,
              lr_scheduler_type = "cosine", optim = "adamw_8bit", logging_steps = 1, per_device_train_batch_size = 1,
              gradient_accumulation_steps = 1, num_generations = 6, max_prompt_length = 1024,
              max_completion_length = 1024, max_steps = 750, save_steps = 100, max_grad_norm = 0.1, seed = 3407 },
  output_dir = "outputs",

  -- The study behind these settings: a 135M model learns the form of an answer in about 25 steps, and no medicine.
  on_cpu  = {
    model   = { name = "smollm2-135m-instruct", max_seq_length = 1024, load_in_4bit = false },
    lora    = { r = 16, lora_alpha = 32 },
    data    = {
      train = data.interleave {
        pubmedqa.train, health.train, medmcqa.train, gsm8k.train,
        probabilities = { 0.5, 0.125, 0.125, 0.25 }, seed = 3407, stopping_strategy = "all_exhausted",
      },
      eval  = data.concatenate { pubmedqa.test, health.test, medmcqa.test, gsm8k.test },
      files = {
        gsm8k = "examples/data/gsm8k.jsonl", pubmedqa = "examples/data/pubmedqa.jsonl",
        health_benchmarks = "examples/data/health_benchmarks.jsonl", medmcqa = "examples/data/medmcqa.jsonl",
      },
      shots = {
        pubmedqa = shot("Given the scientific context below:\nAll twelve cups of tea were hot when they were served."
          .. "\n\nAnswer the following question:\nWas the tea cold? with 'yes', 'no' or 'maybe'." .. review,
          "The context says that all cups were hot.", "no"),
        med_mc = shot("\n\nAnswer the following question:\nWhich of these is a color?\nA) table\nB) green\nC) seven\n"
          .. "D) river\n With 'A', 'B', 'C' or 'D'." .. review, "Green is a color, the others are not.", "B"),
        gsm8k = shot("Ada has 3 pens and buys 4 more. How many pens does Ada have?", "3 + 4 = 7.", "7"),
      },
    },
    -- dotall: without it the layout with newlines scores 0 on soft_format, and the two format rewards exclude
    -- each other
    rewards = { "xmlcount", { "soft_format", dotall = true }, { "strict_format", dotall = true }, "valid_answer",
                "correctness" },
    grpo    = { learning_rate = 3e-4, weight_decay = 0.0, warmup_ratio = 0.0, warmup_steps = 3,
                lr_scheduler_type = "constant_with_warmup", prompts_per_step = 4, max_prompt_length = 512,
                max_completion_length = 48, temperature = 1.0, beta = 0.0, max_grad_norm = 1.0,
                max_steps = 30, save_steps = 15, sample_steps = 8, gradient_checkpointing = false },
  },
}
