/* settings.h - every field of a recipe that is plain data: one table of name, type, default, range and meaning.
 *
 * The names are those of TRL (GRPOConfig, SFTConfig), PEFT (LoraConfig) and transformers. Unknown names are errors with
 * a suggestion ("unknown key "lora.rnak"; did you mean "lora.r"?"). The same table prints docs/recipes.md and `medrl
 * help recipe`.
 * Defaults: TRL 1.16's (spec/grpo.md 3.8), optim excepted: adamw_8bit. "batch": a step is grpo.prompts_per_step prompts
 * x grpo.num_generations completions. per_device_train_batch_size and gradient_accumulation_steps are understood as TRL
 * counts them (completions) and give prompts_per_step; the seed's 1 x 1 with 6 generations means one prompt
 * (spec/grpo.md 3.1). Micro-batches are the program's business and change no result. */
#ifndef MR_SETTINGS_H
#define MR_SETTINGS_H

#include <cjson/cJSON.h>

#include "base/memory.h"
#include "model/model.h"
#include "rl/grpo.h"

typedef enum mr_method { MR_METHOD_GRPO, MR_METHOD_SFT } mr_method;
typedef enum mr_optim { MR_ADAMW_8BIT, MR_ADAMW } mr_optim; /* "adamw_8bit"; "adamw_torch" (also "adamw_torch_fused") */
typedef enum mr_scheduler {
    MR_SCHED_LINEAR,
    MR_SCHED_COSINE,
    MR_SCHED_CONSTANT,
    MR_SCHED_CONSTANT_WITH_WARMUP
} mr_scheduler;

typedef enum mr_on_error { MR_ON_ERROR_PAUSE, MR_ON_ERROR_STOP } mr_on_error;

typedef struct mr_settings {
    mr_method method;
    struct {
        char *name; /* what mr_model_resolve takes */
        int max_seq_length;
        bool load_in_4bit;
        char *weight_cache; /* mr_model_opts.cache */
        mr_dequantize dequantize; /* a device may keep the 4-bit weights in the compute type as well (model/model.h) */
        char *dtype;      /* "auto" (bf16 where the device has it, else f32), "bfloat16", "float32" */
        bool from_config; /* random weights: train from scratch */
        char *adapter;    /* PEFT folder to start from, "" for none */
        char *chat_template;        /* a file; "": the model's own */
        char *chat_template_kwargs; /* a JSON object; NULL: none */
        char *chat_template_date;   /* "2026-07-26"; "": today */
    } model;
    struct {
        int r; /* 0: full fine-tuning */
        float lora_alpha;
        float lora_dropout; /* must be 0: dropout would make sampling and training differ */
        bool use_rslora;
        bool targets[7]; /* target_modules, in the order of model.h */
    } lora;
    struct { /* section "grpo" or "sft": the fields of the trainer */
        float learning_rate, adam_beta1, adam_beta2, adam_epsilon, weight_decay, max_grad_norm;
        double warmup_ratio;
        int warmup_steps;
        mr_scheduler lr_scheduler_type;
        mr_optim optim;
        int prompts_per_step; /* sft: sequences a step */
        int max_prompt_length, max_completion_length;
        int max_steps; /* -1: from num_train_epochs */
        double num_train_epochs;
        /* sample_steps: a sample is printed every so many steps; 0 never */
        int save_steps, save_total_limit, logging_steps, sample_steps;
        int eval_steps, max_eval_samples; /* grpo; 0: never; all rows */
        uint64_t seed;
        bool shuffle_dataset, gradient_checkpointing;
        float temperature, top_p, min_p, repetition_penalty;
        int top_k;
        float logp_temperature; /* default: temperature (spec/grpo.md 3.11) */
        bool mask_truncated_completions;
        mr_grpo_opts loss; /* num_generations, loss_type, beta, epsilon ... */
        int num_iterations;
        double max_fault_share; /* of the calls over three steps; 0: never pause */
        bool guards;            /* a dead signal stops the run */
        bool tensorboard;       /* report_to: event files beside metrics.jsonl */
    } train;
    struct { /* 0: none */
        double usd, hours, usd_per_hour;
    } budget;
    mr_on_error on_error;
    double watchdog_s; /* base/watch.h; 0: nobody watches */
    float *reward_weights; /* [n_rewards] */
    char **rewards;        /* names, in order */
    int n_rewards;
    char *output_dir;
    bool exact;     /* samples with the trainer's bits (kernels.h); false: mr_backend.exact is to be false before the model is opened */
    size_t vram;    /* bytes of device memory that the run may take, 0: what there is */
    cJSON *data;    /* section "data" as it came; scripts read it, the trainer does not */
    mr_arena arena; /* owns the strings */
} mr_settings;

/* recipe: the resolved table as JSON (on_cpu already merged). place: the recipe's file, for messages. s is filled from
 * zero; clear with mr_settings_clear. MR_EINVAL `PLACE: KEY ...`. */
mr_status mr_settings_parse(mr_settings *s, const cJSON *recipe, const char *place, mr_err *err);
void mr_settings_clear(mr_settings *s);
/* "grpo.max_steps=20": sets the field in the tree before it is parsed; the value is JSON when it reads as JSON, a
 * string otherwise. Unknown keys are found by mr_settings_parse; keys under "data" are free. */
mr_status mr_settings_override(cJSON *recipe, const char *assignment, mr_err *err);
/* --- live: fields that may change while a run goes on (the table's mark) --- */

/* Sets one: "grpo.learning_rate" or "learning_rate". full: its whole name; old: what it was, owned by the caller (both
 * may be NULL). temperature takes logp_temperature along where the two were equal. MR_EINVAL: no such key, a value that
 * does not fit, or a field that cannot change in a run, with the reason; s is as it was then. */
mr_status mr_settings_set(mr_settings *s, const char *key, const cJSON *value, char full[96], cJSON **old, mr_err *err);
/* { "grpo.learning_rate": 1e-06, ... }: all live fields of the method; owned by the caller. */
cJSON *mr_settings_live(const mr_settings *s);
/* What a recipe that was saved again changes. live gets the live fields that differ from `was`; fixed one part for each
 * other field that differs from `was` and from `start`, which the run was planned with: "lora.r is 32 instead of 16
 * (the adapter was made with it)", with commas. */
void mr_settings_diff(const mr_settings *start, const mr_settings *was, const mr_settings *now, cJSON *live,
                      mr_str *fixed);

/* Writes the table as Markdown (docs/recipes.md). */
void mr_settings_describe(mr_str *out);
/* The known name nearest to `word` by edit distance, NULL when none is near. */
const char *mr_nearest_name(const char *word, const char *const *names, int n);

#endif
