/* model.h - a model on a device: base weights in their storage type, adapters, and the list of what can be trained.
 *
 * Base weights are frozen unless opts.full; q, k, v are stacked to one linear, gate and up to another. Norm weights and
 * biases are f32. The embedding and the head are bf16 (f16 with f16 products, f32 when store is MR_F32) and shared when tied. LoRA A and B are
 * f32 masters with a compute copy, applied at run time, never merged during training (spec/quantization.md 5.6).
 * Ownership: the model borrows the backend, which must outlive it. Threads: one. */
#ifndef MR_MODEL_H
#define MR_MODEL_H

#include "kernels.h"
#include "model/config.h"

typedef struct mr_model mr_model;

enum { MR_Q_PROJ, MR_K_PROJ, MR_V_PROJ, MR_O_PROJ, MR_GATE_PROJ, MR_UP_PROJ, MR_DOWN_PROJ, MR_N_PROJ };
extern const char *const mr_proj_names[MR_N_PROJ]; /* "q_proj" ... as PEFT's target_modules */

typedef struct mr_lora_opts {
    int r;            /* 0: no adapter */
    float lora_alpha; /* scale = lora_alpha / r, or / sqrt(r) with use_rslora */
    bool use_rslora;
    bool targets[MR_N_PROJ]; /* which linears have a pair */
    uint64_t seed;           /* A ~ U(-1/sqrt(in), 1/sqrt(in)), B = 0: the first adapter is the identity */
} mr_lora_opts;

/* Whether linears that are stored as NF4 are kept in the compute type as well, unpacked once: where a device gains by it (kernels.h,
 * weight_unpack). Auto is a plan's to decide (rl/plan.h); a model that is opened with it has none. */
typedef enum mr_dequantize { MR_DEQUANTIZE_AUTO, MR_DEQUANTIZE_NO, MR_DEQUANTIZE_YES } mr_dequantize;

typedef struct mr_model_opts {
    mr_dtype store;   /* linears: MR_F32, MR_BF16, MR_F16 or MR_NF4 */
    mr_dtype compute; /* MR_BF16, MR_F16 (gradients have to be scaled: rl/scaler.h) or MR_F32 */
    bool train;       /* keep what the backward pass needs */
    bool full;        /* base weights are trainable (f32 masters); not with store MR_NF4, and no LoRA */
    mr_dequantize dequantize;
    /* no weights file: normal(0, initializer_range) from seed, norms 1 (transformers' from_config) */
    bool from_config;
    uint64_t seed;
    /* with from_config: the shape, instead of a config.json (borrowed for the call), and random weights that cost a copy
     * of memory: pieces of one block of normals. For measuring, not for training. */
    const mr_config *config;
    mr_lora_opts lora;
    /* of store MR_NF4: where the quantized weights are kept for the next time, "auto", "off" or a folder (model/cache.h); NULL: off.
     * Borrowed for the call. */
    const char *cache;
} mr_model_opts;

/* path: a folder (config.json, safetensors) or a .gguf file; with opts.config only a name for messages. Messages name
 * the tensor that is missing or has another shape. */
mr_status mr_model_open(mr_model **out, mr_backend *b, const char *path, const mr_model_opts *opts, mr_err *err);
void mr_model_close(mr_model *m);
const mr_config *mr_model_config(const mr_model *m);
const mr_model_opts *mr_model_options(const mr_model *m);
mr_backend *mr_model_backend(const mr_model *m);
const char *mr_model_path(const mr_model *m);

/* One trainable matrix. PEFT's name without "base_model.model." and ".weight" for LoRA
 * ("model.layers.0.self_attn.q_proj.lora_A"), the Hugging Face tensor name for full training. */
typedef struct mr_param {
    const char *name;
    int64_t rows, cols;
    float *value, *grad; /* device, f32, [rows, cols]; all grads lie in one block (mr_model_grads) */
    bool decay;          /* weight decay applies (not for norms and biases) */
} mr_param;
mr_param *mr_model_params(mr_model *m, int *n); /* in a fixed order: layer, projection, A before B */
float *mr_model_grads(mr_model *m, int64_t *n); /* the block of all gradients; n elements */
const float *mr_model_values(const mr_model *m, int64_t *n); /* the block of all values of params */
void mr_model_zero_grads(mr_model *m);
void mr_model_refresh(mr_model *m); /* after the values changed: renews the compute copies */
/* off: the base model (the reference policy of beta > 0, repl's reset) */
void mr_model_adapter(mr_model *m, bool on);
size_t mr_model_bytes(const mr_model *m); /* device memory of weights, adapters and gradients */

/* What mr_model_open would take on b, before anything exists: bytes by part, and what could be trained. */
typedef struct mr_model_room {
    size_t linears, tables, vectors; /* base: stored matrices, with adapters' rows behind them where the device wants that; embedding and
                                      * head; norms and biases */
    size_t unpacked;                 /* base: linears in the compute type beside NF4, where opts.dequantize is yes */
    size_t copies;                   /* adapters in the compute type */
    size_t values, grads;            /* f32 masters of all that is trained, and their gradients */
    mr_param *params;                /* name, rows, cols and decay only */
    int n_params;
} mr_model_room;
/* c as for the model's files (attention_bias says whether there are biases). room is filled from zero; clear after. */
void mr_model_plan(mr_model_room *room, mr_backend *b, const mr_config *c, const mr_model_opts *opts);
void mr_model_room_clear(mr_model_room *room);
size_t mr_model_room_bytes(const mr_model_room *room); /* the sum: mr_model_bytes of the model */

/* PEFT adapter folder: adapter_model.safetensors and adapter_config.json (model/adapter.c; spec/quantization.md 5.6
 * "Files"). Loading checks r, targets and shapes against the model's; mr_adapter_peek reads the options that a model
 * must be opened with. */
mr_status mr_adapter_peek(mr_lora_opts *out, const char *dir, mr_err *err);
mr_status mr_adapter_load(mr_model *m, const char *dir, mr_err *err);
mr_status mr_adapter_save(mr_model *m, const char *dir, const char *base_model_name, mr_err *err);
/* Full training: config.json (copied), model.safetensors in bf16, and the tokenizer's files, copied from the model's
 * folder. */
mr_status mr_model_save(mr_model *m, const char *dir, mr_err *err);

/* "smollm2-135m-instruct", "org/name" (a folder here, or in the Hugging Face cache), a folder or a .gguf file -> path
 * that opens; owned, free with mr_free. MR_ENOTFOUND says where was looked and what to do. (model/resolve.c) */
mr_status mr_model_resolve(char **path, const char *name, mr_err *err);

#endif
