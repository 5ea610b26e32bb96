/* config.h - the numbers that describe a decoder, from config.json or from GGUF metadata.
 *
 * Families: Qwen2/2.5, Llama 3 and SmolLM2, Qwen3 dense. What medrl cannot run right (sliding windows, other
 * activations, other rope types, experts) is refused by name.
 * Source: spec/models.md 1.2, 1.3, 1.5 (transformers configuration files; gguf constants). */
#ifndef MR_CONFIG_H
#define MR_CONFIG_H

#include "files/tensors.h"

typedef struct mr_config {
    char model_type[16]; /* "qwen2", "llama", "qwen3" */
    int hidden_size, intermediate_size;
    int num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim;
    int vocab_size, max_position_embeddings;
    float rms_norm_eps;
    float initializer_range; /* deviation of the weights of a model that starts from its config */
    bool tie_word_embeddings;
    bool qk_norm; /* Qwen3: RMSNorm over each head of q and k before rope */
    /* without a weights file: q, k, v (and o, but for qwen2) have biases; a file decides by its tensors */
    bool attention_bias;
    bool mlp_bias;
    float rope_theta;
    bool rope_llama3; /* llama3 scaling with the four numbers below */
    float rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    int rope_original_max_position;
    float inv_freq[256]; /* head_dim / 2 of them, scaling applied; rope_freqs.weight of a GGUF too */
} mr_config;

/* path: a folder with config.json, or a .gguf file; t: its tensors (GGUF metadata; may be NULL for a folder without
 * weights). */
mr_status mr_config_load(mr_config *c, const char *path, const mr_tensors *t, mr_err *err);
/* Computes inv_freq from theta and scaling, all in f32. */
void mr_config_rope(mr_config *c);

/* The shape that goes by this name ("qwen2.5-3b"), without any file (configs.c). MR_EINVAL lists the names. */
mr_status mr_config_named(mr_config *c, const char *name, mr_err *err);
const char *mr_config_name(int i); /* the i-th of them; NULL behind the last */
/* Parameters of the base model, a tied table counted once. */
int64_t mr_parameter_count(const mr_config *c);

#endif
