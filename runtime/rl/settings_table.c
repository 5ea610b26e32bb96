/* settings_table.c - every field of a recipe, the foreign names that get a reason, and the page that is made of both.
 *
 * Defaults: TRL 1.16, transformers 5.23 and PEFT 0.21 (spec/grpo.md 3.8; tests/golden/grpo_config_defaults.json), with
 * the differences that the meaning of a field names. */
#include <stdio.h>

#include "rl/settings_impl.h"

const char *const mr_method_names[] = { "grpo", "sft", NULL };
const char *const mr_section_names[MR_N_SECTIONS] = { "", "model", "lora", "budget", "" };
static const char *const dtype_names[] = { "auto", "bfloat16", "float16", "float32", NULL };
static const char *const scheduler_names[] = { "linear", "cosine", "constant", "constant_with_warmup", NULL };
static const char *const optim_names[] = { "adamw_8bit", "adamw_torch", "adamw_torch_fused", "adamw_bnb_8bit", NULL };
static const char *const loss_names[] = { "grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo", NULL };
static const char *const level_names[] = { "token", "sequence", NULL };
static const char *const scale_names[] = { "group", "batch", "none", NULL };
static const char *const aggregation_names[] = { "sum_then_normalize", "normalize_then_sum", NULL };
static const char *const on_error_names[] = { "pause", "stop", NULL };
static const char *const checkpointing_names[] = { "unsloth", NULL };
static const char *const report_names[] = { "none", "tensorboard", NULL };

#define AT(member) offsetof(mr_settings, member)

/* section, methods, key, kind, offset, default, min, max, above_min, unset, names, meaning */
/* clang-format off */
const mr_field mr_fields[] = {
    { IN_TOP, BOTH, "method", K_ENUM, AT(method), "\"grpo\"", 0, 0, false, 0, mr_method_names,
      "how the model is trained; the section of the same name holds its settings" },
    { IN_TOP, BOTH, "vram", K_SIZE, AT(vram), "null", 0, 0, false, 0, NULL,
      "most device memory that the run may take, \"14G\"; null: what there is. An adapter does not depend on it; "
      "`medrl plan` shows what it does" },
    { IN_TOP, BOTH, "exact", K_BOOL, AT(exact), "true", 0, 0, false, 0, NULL,
      "a sampled log-probability has the bits of the training forward's, whatever the batch; false: matrix products on a "
      "GPU take whatever is fastest, sampling/logp_difference_max is no longer 0, and a run need not repeat itself. The "
      "loss's ratio is then, in each update, to what was sampled. A CPU is exact either way" },
    { IN_TOP, BOTH, "output_dir", K_STRING, AT(output_dir), "\"outputs\"", 0, 0, false, 0, NULL,
      "the run folder; when it holds a run already, the next free name is taken (outputs-2)" },
    { IN_TOP, GRPO | LIVE, "on_error", K_ENUM, AT(on_error), "\"pause\"", 0, 0, false, 0, on_error_names,
      "when rewards fail more often than max_fault_share allows: pause until the file is mended, or stop" },
    { IN_TOP, BOTH, "watchdog_s", K_DOUBLE, AT(watchdog_s), "60", 0, 1e6, false, 0, NULL,
      "seconds without any progress, or ten times the median step when that is more, after which a warning says where the run "
      "stands still; after three times that it ends with exit code 75 and a crash-PID.txt, and its last checkpoint stands; "
      "0: nobody watches" },

    { IN_MODEL, BOTH, "name", K_STRING, AT(model.name), NULL, 0, 0, false, 0, NULL,
      "a Hugging Face name, a folder or a .gguf file" },
    { IN_MODEL, BOTH, "max_seq_length", K_INT, AT(model.max_seq_length), "null", 8, 1 << 20, false, 0, NULL,
      "most tokens of prompt and completion together; null: max_prompt_length + max_completion_length" },
    { IN_MODEL, BOTH, "load_in_4bit", K_BOOL, AT(model.load_in_4bit), "false", 0, 0, false, 0, NULL,
      "frozen weights as NF4 with double quantization (QLoRA)" },
    { IN_MODEL, BOTH, "weight_cache", K_STRING, AT(model.weight_cache), "\"auto\"", 0, 0, false, 0, NULL,
      "where NF4 weights that were quantized are kept for the next time: auto (beside the model's files, else below the cache folder; "
      "MEDRL_WEIGHT_CACHE, which all commands obey, says another place), off, or a folder" },
    { IN_MODEL, BOTH, "dequantize", K_AUTO, AT(model.dequantize), "\"auto\"", 0, 0, false, 0, NULL,
      "a GPU keeps 4-bit weights in 16 bits as well, for products of many rows, which else unpack them each time: faster, and "
      "no bit is another; auto: when it fits with a quarter of the memory left free (all of what `vram` allows), as `medrl plan` says" },
    { IN_MODEL, BOTH, "dtype", K_STRING, AT(model.dtype), "\"auto\"", 0, 0, false, 0, dtype_names,
      "what products round to; auto: bfloat16 where the device has it, else float16 on a GPU (with a loss scale, as "
      "torch's GradScaler) and float32 on a CPU" },
    { IN_MODEL, BOTH, "from_config", K_BOOL, AT(model.from_config), "false", 0, 0, false, 0, NULL,
      "random weights from config.json: train from scratch" },
    { IN_MODEL, BOTH, "adapter", K_STRING, AT(model.adapter), "\"\"", 0, 0, false, 0, NULL,
      "PEFT adapter folder, or a run, to start from; without a section lora its r, lora_alpha and target_modules hold" },
    { IN_MODEL, BOTH, "chat_template", K_STRING, AT(model.chat_template), "\"\"", 0, 0, false, 0, NULL,
      "how messages become a prompt: a .jinja file or a Lua file (\"templates/chatml\"), see below; empty: "
      "the model's own" },
    { IN_MODEL, BOTH, "chat_template_kwargs", K_TABLE, AT(model.chat_template_kwargs), "null", 0, 0, false, 0, NULL,
      "more variables for the template, as { enable_thinking = false }" },
    { IN_MODEL, BOTH, "chat_template_date", K_STRING, AT(model.chat_template_date), "\"\"", 0, 0, false, 0, NULL,
      "the day that strftime_now gives in templates, as \"2026-07-26\"; empty: the day on which the run was started, "
      "which a resumed run keeps" },

    { IN_LORA, BOTH, "r", K_INT, AT(lora.r), "8", 0, 1024, false, 0, NULL,
      "rank; 0, or a recipe without the section lora: all weights are trained" },
    { IN_LORA, BOTH, "lora_alpha", K_FLOAT, AT(lora.lora_alpha), "8", 0, 65536, true, 0, NULL,
      "the adapter's product is scaled by lora_alpha / r" },
    { IN_LORA, BOTH, "lora_dropout", K_FLOAT, AT(lora.lora_dropout), "0", 0, 1, false, 0, NULL,
      "must be 0: with dropout, sampling and training would be two different models" },
    { IN_LORA, BOTH, "use_rslora", K_BOOL, AT(lora.use_rslora), "false", 0, 0, false, 0, NULL,
      "scale by lora_alpha / sqrt(r)" },
    { IN_LORA, BOTH, "target_modules", K_TARGETS, AT(lora.targets), "{ \"q_proj\", \"v_proj\" }", 0, 0, false, 0, NULL,
      "names out of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj; or \"all-linear\"" },
    { IN_LORA, BOTH, "use_gradient_checkpointing", K_FLAG, 0, "true", 0, 0, false, 0, checkpointing_names,
      "accepted; checkpointing is set by gradient_checkpointing" },

    { IN_BUDGET, BOTH | LIVE, "usd", K_DOUBLE, AT(budget.usd), "0", 0, 1e9, false, 0, NULL,
      "dollars that the run may cost, by usd_per_hour: before a step that would go beyond, it ends with a checkpoint, its "
      "adapter and exit code 0; 0: no limit" },
    { IN_BUDGET, BOTH | LIVE, "hours", K_DOUBLE, AT(budget.hours), "0", 0, 1e6, false, 0, NULL,
      "hours that it may take, what was spent before a resume included; 0: no limit" },
    { IN_BUDGET, BOTH | LIVE, "usd_per_hour", K_DOUBLE, AT(budget.usd_per_hour), "0", 0, 1e6, false, 0, NULL,
      "what an hour of this machine costs; above 0 the metrics have cost/usd" },

    { IN_TRAIN, BOTH | LIVE, "learning_rate", K_FLOAT, AT(train.learning_rate), "1e-6 (sft: 2e-5)", 0, 1, false, 0,
      NULL,
      "peak of the schedule" },
    { IN_TRAIN, BOTH, "adam_beta1", K_FLOAT, AT(train.adam_beta1), "0.9", 0, 0.999999, false, 0, NULL,
      "AdamW, first moment" },
    { IN_TRAIN, BOTH, "adam_beta2", K_FLOAT, AT(train.adam_beta2), "0.999", 0, 0.999999, false, 0, NULL,
      "AdamW, second moment" },
    { IN_TRAIN, BOTH, "adam_epsilon", K_FLOAT, AT(train.adam_epsilon), "1e-8", 0, 1, false, 0, NULL,
      "AdamW" },
    { IN_TRAIN, BOTH | LIVE, "weight_decay", K_FLOAT, AT(train.weight_decay), "0", 0, 10, false, 0, NULL,
      "decoupled; norms and biases are left out" },
    { IN_TRAIN, BOTH | LIVE, "max_grad_norm", K_FLOAT, AT(train.max_grad_norm), "1", 0, 1e9, false, 0, NULL,
      "global clipping of the gradient's norm; 0: none" },
    { IN_TRAIN, BOTH, "warmup_ratio", K_DOUBLE, AT(train.warmup_ratio), "0", 0, 1, false, 0, NULL,
      "share of the steps in which the learning rate rises" },
    { IN_TRAIN, BOTH, "warmup_steps", K_WARMUP, AT(train.warmup_steps), "0", 0, 1e9, false, 0, NULL,
      "the same in steps, which wins when it is above 0; below 1 it is a ratio" },
    { IN_TRAIN, BOTH, "lr_scheduler_type", K_ENUM, AT(train.lr_scheduler_type), "\"linear\"", 0, 0, false, 0,
      scheduler_names,
      "the learning rate after the warmup" },
    { IN_TRAIN, BOTH, "optim", K_OPTIM, AT(train.optim), "\"adamw_8bit\"", 0, 0, false, 0, optim_names,
      "adamw_8bit keeps its moments in 8 bits, as bitsandbytes does; adamw_torch in f32" },
    { IN_TRAIN, BOTH, "prompts_per_step", K_INT, AT(train.prompts_per_step), "null", 1, 65536, false, 0, NULL,
      "prompts of a step (sft: sequences); null: from the two below; when given, the two below are not looked "
      "at" },
    { IN_TRAIN, BOTH, "per_device_train_batch_size", K_BATCH, 0, "8", 1, 1 << 20, false, 0, NULL,
      "completions, as TRL counts; times gradient_accumulation_steps and over num_generations it gives "
      "prompts_per_step; a size that holds no whole group counts as one group (Unsloth)" },
    { IN_TRAIN, BOTH, "gradient_accumulation_steps", K_BATCH, 0, "1", 1, 1 << 20, false, 0, NULL,
      "see above; micro-batches are the program's business and change no result" },
    { IN_TRAIN, BOTH, "max_prompt_length", K_INT, AT(train.max_prompt_length), "1024", 1, 1 << 20, false, 0, NULL,
      "longer prompts keep their last tokens" },
    { IN_TRAIN, BOTH, "max_completion_length", K_INT, AT(train.max_completion_length), "512", 1, 1 << 20, false, 0,
      NULL,
      "most tokens of a completion, its end token included" },
    { IN_TRAIN, BOTH | LIVE, "max_steps", K_INT, AT(train.max_steps), "-1", -1, INT32_MAX, false, 0, NULL,
      "optimizer steps; -1: from num_train_epochs" },
    { IN_TRAIN, BOTH, "num_train_epochs", K_DOUBLE, AT(train.num_train_epochs), "3", 0, 1e6, false, 0, NULL,
      "passes over the data when max_steps is -1" },
    { IN_TRAIN, BOTH | LIVE, "save_steps", K_INT, AT(train.save_steps), "500", 0, INT32_MAX, false, 0, NULL,
      "a checkpoint every so many steps; 0: at the end only" },
    { IN_TRAIN, BOTH | LIVE, "save_total_limit", K_INT, AT(train.save_total_limit), "null", 1, INT32_MAX, false, 0,
      NULL,
      "older checkpoints are removed, but two whole ones stay; null: all are kept" },
    { IN_TRAIN, BOTH | LIVE, "logging_steps", K_INT, AT(train.logging_steps), "10", 1, INT32_MAX, false, 0, NULL,
      "a line every so many steps; metrics.jsonl has every step" },
    { IN_TRAIN, BOTH | LIVE, "sample_steps", K_INT, AT(train.sample_steps), "10", 0, INT32_MAX, false, 0, NULL,
      "one completion is shown every so many steps; 0: never" },
    { IN_TRAIN, GRPO | LIVE, "eval_steps", K_INT, AT(train.eval_steps), "0", 0, INT32_MAX, false, 0, NULL,
      "greedy answers to rows of data.eval every so many steps and after the last one, as eval/accuracy; 0: never" },
    { IN_TRAIN, GRPO | LIVE, "max_eval_samples", K_INT, AT(train.max_eval_samples), "100", 0, INT32_MAX, false, 0, NULL,
      "rows of data.eval that are asked each time, evenly spaced; 0: all" },
    { IN_TRAIN, BOTH, "seed", K_U64, AT(train.seed), "42", 0, 0x1p53, false, 0, NULL,
      "of everything random: order, sampling, adapter" },
    { IN_TRAIN, BOTH, "shuffle_dataset", K_BOOL, AT(train.shuffle_dataset), "true", 0, 0, false, 0, NULL,
      "false keeps the rows' order" },
    { IN_TRAIN, BOTH, "gradient_checkpointing", K_FLAG, AT(train.gradient_checkpointing), "true", 0, 0, false, 0,
      checkpointing_names,
      "keep one activation a layer and compute the rest again, on a GPU only what does not fit into free memory; \"unsloth\" means true" },
    { IN_TRAIN, GRPO | LIVE, "temperature", K_FLOAT, AT(train.temperature), "1", 0, 100, false, 0, NULL,
      "of sampling" },
    { IN_TRAIN, GRPO | LIVE, "top_p", K_FLOAT, AT(train.top_p), "1", 0, 1, false, 0, NULL,
      "keep the likeliest tokens up to this sum" },
    { IN_TRAIN, GRPO | LIVE, "top_k", K_INT, AT(train.top_k), "0", 0, INT32_MAX, false, 0, NULL,
      "keep this many; 0: all" },
    { IN_TRAIN, GRPO | LIVE, "min_p", K_FLOAT, AT(train.min_p), "null", 0, 1, false, 0, NULL,
      "keep tokens of at least this share of the likeliest one's probability" },
    { IN_TRAIN, GRPO | LIVE, "repetition_penalty", K_FLOAT, AT(train.repetition_penalty), "1", 0, 100, false, 0, NULL,
      "above 1 makes tokens that occurred less likely" },
    { IN_TRAIN, GRPO | LIVE, "logp_temperature", K_FLOAT, AT(train.logp_temperature), "null", 0, 100, true, -1, NULL,
      "of the log-probabilities in the loss; null: temperature (TRL before 0.16: 1)" },
    { IN_TRAIN, GRPO | LIVE, "mask_truncated_completions", K_BOOL, AT(train.mask_truncated_completions), "false", 0,
      0, false,
      0, NULL,
      "completions without an end token do not enter the loss" },
    { IN_TRAIN, GRPO | LIVE, "num_iterations", K_INT, AT(train.num_iterations), "1", 1, 64, false, 0, NULL,
      "optimizer steps on the same completions" },
    { IN_TRAIN, GRPO, "num_generations", K_INT, AT(train.loss.num_generations), "8", 2, 1024, false, 0, NULL,
      "completions of a prompt" },
    { IN_TRAIN, GRPO | LIVE, "loss_type", K_ENUM, AT(train.loss.loss_type), "\"dapo\"", 0, 0, false, 0, loss_names,
      "the formula of the loss and of its mean" },
    { IN_TRAIN, GRPO | LIVE, "epsilon", K_FLOAT, AT(train.loss.epsilon), "0.2", 0, 100, false, 0, NULL,
      "the ratio is clipped to 1 - epsilon" },
    { IN_TRAIN, GRPO | LIVE, "epsilon_high", K_FLOAT, AT(train.loss.epsilon_high), "null", 0, 1e6, false, -1, NULL,
      "and to 1 + epsilon_high; null: epsilon" },
    { IN_TRAIN, GRPO | LIVE, "delta", K_FLOAT, AT(train.loss.delta), "null", 0, 1e6, false, 0, NULL,
      "upper bound of the unclipped ratio; null: none" },
    { IN_TRAIN, GRPO | LIVE, "beta", K_FLOAT, AT(train.loss.beta), "0", 0, 1000, false, 0, NULL,
      "weight of the KL term; the reference is the base model with the adapter off" },
    { IN_TRAIN, GRPO | LIVE, "use_bias_correction_kl", K_BOOL, AT(train.loss.use_bias_correction_kl), "true", 0, 0,
      false, 0,
      NULL,
      "multiply the KL estimate by the ratio (false: TRL before 1.0)" },
    { IN_TRAIN, GRPO | LIVE, "importance_sampling_level", K_ENUM_BIT, AT(train.loss.sequence_level), "\"token\"", 0,
      0, false,
      0, level_names,
      "sequence: one ratio for a completion (GSPO)" },
    { IN_TRAIN, GRPO | LIVE, "scale_rewards", K_SCALE, AT(train.loss.scale_rewards), "\"group\"", 0, 0, false, 0,
      scale_names,
      "deviation that advantages are divided by; true means group, false none" },
    { IN_TRAIN, GRPO | LIVE, "multi_objective_aggregation", K_ENUM_BIT, AT(train.loss.normalize_then_sum),
      "\"sum_then_normalize\"", 0, 0, false, 0, aggregation_names,
      "normalize_then_sum: each reward is normalized by itself (GDPO)" },
    { IN_TRAIN, GRPO | LIVE, "top_entropy_quantile", K_FLOAT, AT(train.loss.top_entropy_quantile), "1", 0, 1, false,
      0, NULL,
      "share of tokens with the highest entropy that enter the loss" },
    { IN_TRAIN, GRPO, "entropy_coef", K_FLOAT, AT(train.loss.entropy_coef), "0", 0, 100, false, 0, NULL,
      "must be 0: the entropy bonus has no gradient in this version" },
    { IN_TRAIN, GRPO | LIVE, "off_policy_mask_threshold", K_FLOAT, AT(train.loss.off_policy_mask_threshold), "null",
      0, 1e6,
      false, 0, NULL,
      "leave out rows with a negative advantage that drifted further; null: none" },
    { IN_TRAIN, GRPO | LIVE, "max_fault_share", K_DOUBLE, AT(train.max_fault_share), "0.05", 0, 1, false, 0, NULL,
      "share of the calls of rewards that may fail over three steps before the run pauses (see on_error); 0: never" },
    { IN_TRAIN, GRPO | LIVE, "guards", K_BOOL, AT(train.guards), "true", 0, 0, false, 0, NULL,
      "stop, with a checkpoint, when in 20 steps every completion was cut, every reward was zero or no group had two "
      "different rewards; false: a warning" },
    { IN_TRAIN, BOTH, "report_to", K_REPORT, AT(train.tensorboard), "\"none\"", 0, 0, false, 0, report_names,
      "tensorboard (a name or a list): event files in RUN/tensorboard beside metrics.jsonl, which is written always" },
    { IN_TRAIN, BOTH, "bf16", K_FLAG, 0, "null", 0, 0, false, 0, NULL,
      "accepted; model.dtype decides" },
    { IN_TRAIN, BOTH, "fp16", K_FLAG, 0, "null", 0, 0, false, 0, NULL,
      "accepted; model.dtype decides" },
};
const int mr_n_fields = sizeof mr_fields / sizeof mr_fields[0];

/* A value that asks for nothing is let pass, so that settings of the other libraries carry over. */
const mr_foreign mr_foreigns[] = {
    { IN_TRAIN, "use_vllm", "false", "medrl samples by itself, with the trainer's own forward" },
    { IN_TRAIN, "vllm_mode", NULL, "medrl samples by itself" },
    { IN_TRAIN, "vllm_gpu_memory_utilization", NULL,
      "medrl samples by itself and plans its memory before the first step" },
    { IN_TRAIN, "vllm_importance_sampling_correction", "false",
      "sampled and trained log-probabilities are equal here, so there is nothing to correct" },
    { IN_TRAIN, "use_liger_kernel", "false", "the logits are never stored whole here" },
    { IN_TRAIN, "use_transformers_paged", "false", "medrl samples by itself" },
    { IN_TRAIN, "output_dir", NULL, "it stands at the top of the recipe: output_dir" },
    { IN_TRAIN, "generation_batch_size", NULL, "a step generates what it trains on; set prompts_per_step" },
    { IN_TRAIN, "steps_per_generation", "1", "a step generates what it trains on; set num_iterations" },
    { IN_TRAIN, "max_length", NULL, "set max_prompt_length and max_completion_length" },
    { IN_TRAIN, "packing", "false", "nothing is padded here, so nothing needs packing" },
    { IN_TRAIN, "remove_unused_columns", "false|true", "rewards see every column" },
    { IN_TRAIN, "log_completions", "false|true", "samples.jsonl has every completion; sample_steps shows some" },
    { IN_TRAIN, "logging_strategy", "\"steps\"", "set logging_steps" },
    { IN_TRAIN, "logging_first_step", "false|true", "metrics.jsonl has every step" },
    { IN_TRAIN, "save_strategy", "\"steps\"", "set save_steps" },
    { IN_TRAIN, "eval_strategy", "\"no\"|\"steps\"", "set eval_steps" },
    { IN_TRAIN, "per_device_eval_batch_size", NULL, "as many rows as memory is planned for are asked together" },
    { IN_TRAIN, "metric_for_best_model", "\"eval/accuracy\"|\"eval_accuracy\"", "the best checkpoint is that of eval/accuracy" },
    { IN_TRAIN, "data_seed", NULL, "one seed rules everything: seed" },
    { IN_TRAIN, "dataloader_num_workers", "0", "rows come from the workers of the recipe" },
    { IN_TRAIN, "dataloader_drop_last", "false|true", "a step always has whole groups" },
    { IN_TRAIN, "disable_dropout", "true|false", "there is no dropout here" },
    { IN_TRAIN, "sync_ref_model", "false", "the reference is the base model" },
    { IN_TRAIN, "use_adaptive_entropy", "false", "the entropy bonus is not in this version" },
    { IN_TRAIN, "sapo_temperature_neg", "1.05", "TRL's value is built in" },
    { IN_TRAIN, "sapo_temperature_pos", "1.0", "TRL's value is built in" },
    { IN_MODEL, "fast_inference", "false", "medrl samples by itself, with the trainer's own forward" },
    { IN_MODEL, "gpu_memory_utilization", NULL, "memory is planned before the first step" },
    { IN_MODEL, "max_lora_rank", NULL, "set lora.r" },
    { IN_MODEL, "load_in_8bit", "false", "set load_in_4bit, or dtype" },
    { IN_MODEL, "model_name", NULL, "it is called model.name" },
    { IN_MODEL, "torch_dtype", NULL, "it is called model.dtype" },
    { IN_MODEL, "trust_remote_code", "false", "no code of a model is ever run" },
    { IN_LORA, "random_state", NULL, "one seed rules everything: grpo.seed" },
    { IN_LORA, "bias", "\"none\"", "biases stay frozen" },
    { IN_LORA, "task_type", "\"CAUSAL_LM\"", "it is the only task" },
    { IN_LORA, "use_dora", "false", "DoRA is not in this version" },
    { IN_LORA, "modules_to_save", "[]|{}", "embedding and head stay frozen" },
};
/* clang-format on */
const int mr_n_foreigns = sizeof mr_foreigns / sizeof mr_foreigns[0];

void mr_list_names(char *out, size_t len, const char *const *names) {
    size_t at = 0;
    out[0] = 0;
    for (int i = 0; names[i] && at < len; i++)
        at += (size_t)snprintf(out + at, len - at, "%s%s", i ? ", " : "", names[i]);
}

/* ---- documentation ---- */

static void describe_range(mr_str *out, const mr_field *f) {
    char list[256];
    switch (f->kind) {
    case K_BOOL: mr_str_puts(out, "true, false"); return;
    case K_FLAG:
        list[0] = 0;
        if (f->names) mr_list_names(list, sizeof list, f->names);
        mr_str_printf(out, "true, false%s%s", *list ? ", " : "", list);
        return;
    case K_AUTO: mr_str_puts(out, "auto, true, false"); return;
    case K_TARGETS: mr_str_puts(out, "list of names"); return;
    case K_SIZE: mr_str_puts(out, "size: 14G, 900M, 7.5GiB"); return;
    case K_TABLE: mr_str_puts(out, "table of names"); return;
    case K_REPORT: mr_str_puts(out, "none, tensorboard, list of them"); return;
    case K_STRING:
        if (!f->names) {
            mr_str_puts(out, "string");
            return;
        }
        /* fall through */
    case K_ENUM:
    case K_OPTIM:
    case K_SCALE:
    case K_ENUM_BIT:
        mr_list_names(list, sizeof list, f->names);
        mr_str_puts(out, list);
        return;
    default:
        if (f->max >= INT32_MAX)
            mr_str_printf(out, "%s %g", f->above_min ? "above" : "from", f->min);
        else
            mr_str_printf(out, "%s %g to %g", f->above_min ? "above" : "from", f->min, f->max);
    }
}

/* The parts of a recipe that Lua reads and no field of mr_settings holds. */
static const char data_page[] =
    "\n## data\n\n"
    "| key | default | values | meaning |\n|---|---|---|---|\n"
    "| `train` | required | data set | the rows to train on |\n"
    "| `eval` | none | data set | rows that are kept apart, for eval_steps and `medrl eval` |\n"
    "| `files` | {} | table | data set's name to its file: .jsonl, .ndjson, .json, .csv, .tsv; \"none\" leaves the set "
    "out; a table of files by split for `data.get(name, { split = ... })` |\n"
    "| `system` | the published prompt | string | system prompt of rows that bring none; \"\": none |\n"
    "| `shots` | none | list of messages, or table of lists | examples between system prompt and question; by data set "
    "or `db_set`, with `default` for the rest |\n"
    "\nData sets, with `local data = require \"medrl.data\"`:\n\n"
    "| function | gives |\n|---|---|\n"
    "| `data.get(name, options)` | the rows of datasets/NAME.lua; options are the module's own, and `split` |\n"
    "| `data.from_list(rows)` | these rows, as they are |\n"
    "| `data.concatenate { a, b }` | all of a, then all of b |\n"
    "| `data.interleave { a, b, probabilities = { 0.7, 0.3 }, seed = 42, stopping_strategy = \"first_exhausted\" }` | "
    "drawn from both, without probabilities in turn; also all_exhausted, all_exhausted_without_replacement |\n"
    "| `set:shuffle(seed)` | in another order |\n"
    "| `set:take(n)`, `set:skip(n)` | the first n; all but these |\n"
    "| `set:select(places)` | the rows at these places, from 1 |\n"
    "| `set:filter(f)` | those for which f(row) is true |\n"
    "| `set:map(f)` | f(row) in the place of each row |\n"
    "| `set:rename(old, new)` | with a column renamed |\n"
    "| `set:split { test_size = 0.1, seed = 42 }` | { train = set, test = set } |\n"
    "\nOrders and draws are those of Hugging Face datasets 5.2. A data set is a file that returns a table (`medrl new "
    "dataset NAME`):\n\n"
    "| field | meaning |\n|---|---|\n"
    "| `name` | the file's name; may be left out |\n"
    "| `columns` | { { \"question\", \"string\" }, ... }: what every raw row has to have; a row that lacks one is an error "
    "with file and line |\n"
    "| `row(raw, options)` | a raw row in, `{ messages = { { role =, content = } }, answer =, db_set =, ... }` out; nil "
    "leaves it out |\n"
    "| `keep(raw, options)` | asked first when it is there: false leaves the row out |\n"
    "| `load(options)` | for rows that are made, not read: { n =, get = function(i) } |\n"
    "| `cases` | { raw, row [, options = {}] }, where row has what is to be there and is nil for a row left out |\n";
static const char rewards_page[] =
    "\n## rewards\n\nA list; the order is the order of columns and metrics. docs/rewards.md says what a reward's file "
    "holds.\n\n"
    "| entry | meaning |\n|---|---|\n"
    "| `\"name\"` | rewards/name.lua, with weight 1 |\n"
    "| `{ \"name\", option = value }` | with options; those that the file does not declare are errors |\n"
    "| `{ name = \"name\", weight = 0.5 }` | with a weight; not together with `reward_weights` |\n";
static const char templates_page[] =
    "\nA template is the model's own, or a file of yours that may be saved while the run goes on: Jinja (`x.jinja`), or "
    "Lua (`medrl new template NAME`), which returns a table:\n\n"
    "| field | meaning |\n|---|---|\n"
    "| `render(messages, options)` | a list of pieces: strings are text, whatever they hold; special tokens are found "
    "in `chat.markup \"<s>\"` only (`local chat = require \"medrl.chat\"`). options has add_generation_prompt, "
    "date, bos_token, eos_token and what chat_template_kwargs gives |\n"
    "| `cases` | { messages = { ... }, text = \"...\" [, options = {}] }: run by `medrl test` and before the file is "
    "used; without options the prompt is one to go on from |\n"
    "\nA version that was saved renders the last prompt again before it is taken over, before the next step; `medrl "
    "tokenize MODEL --template FILE` shows what comes of one.\n";

void mr_settings_describe(mr_str *out) {
    static const char *const titles[MR_N_SECTIONS] = { "Top of the recipe", "model", "lora", "budget", "grpo and sft" };
    mr_str_puts(out, "# Settings of a recipe\n\nA recipe is a Lua file that returns a table. Names are those of TRL, "
                     "PEFT and transformers; unknown "
                     "names are errors. `--set grpo.max_steps=20` overrides a field; the table `on_cpu` is merged over "
                     "the recipe when no GPU is used.\n\n"
                     "Live settings change in a run: save the recipe, and they are in force from the next step on; the "
                     "others keep the value that the run was started with, and one line says so.\n");
    for (int section = 0; section < MR_N_SECTIONS; section++) {
        mr_str_printf(out, "\n## %s\n\n| key | default | live | values | meaning |\n|---|---|---|---|---|\n",
                      titles[section]);
        if (section == IN_TOP)
            mr_str_puts(
                out,
                "| `data` | required | yes | table | the rows, see below |\n"
                "| `rewards` | required for grpo | yes | list | files in `rewards/`, see below |\n"
                "| `reward_weights` | all 1 | yes | list of numbers | one for each reward; as in TRL, it may stand in "
                "the section grpo as well |\n"
                "| `on_cpu` | none | yes | table | settings that replace those above when the run is on a CPU |\n");
        for (int i = 0; i < mr_n_fields; i++) {
            const mr_field *f = &mr_fields[i];
            if (f->section != section) continue;
            mr_str_printf(out, "| `%s`%s | %s | %s | ", f->key, (f->methods & BOTH) == GRPO ? " (grpo)" : "",
                          f->def ? f->def : "required", f->methods & LIVE ? "yes" : "");
            describe_range(out, f);
            mr_str_printf(out, " | %s |\n", f->doc);
        }
        if (section == IN_TOP) {
            mr_str_puts(out, data_page);
            mr_str_puts(out, rewards_page);
        }
        if (section == IN_MODEL) mr_str_puts(out, templates_page);
    }
    mr_str_puts(out, "\n## Known names that have no meaning here\n\n| key | why | let pass |\n|---|---|---|\n");
    for (int i = 0; i < mr_n_foreigns; i++) {
        const mr_foreign *f = &mr_foreigns[i];
        const char *where = f->section == IN_TRAIN ? "grpo" : mr_section_names[f->section];
        mr_str_printf(out, "| `%s.%s` | %s | ", where, f->key, f->why);
        for (const char *p = f->harmless ? f->harmless : "-"; *p; p++)
            mr_str_printf(out, "%s", *p == '|' ? " or " : (char[]){ *p, 0 });
        mr_str_puts(out, " |\n");
    }
}
