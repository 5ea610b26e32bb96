/* configs.c - shapes of models that people train, by name: for `medrl bench --config` and for plans without a download.
 *
 * A model that is opened from files takes its numbers from there, never from this table (spec/models.md 1.2). */
#include <stdio.h>
#include <string.h>

#include "model/config.h"

typedef struct named {
    const char *name, *type;
    int hidden, inter, layers, heads, kv_heads, head_dim, vocab, positions;
    float theta, eps;
    bool tied;
} named;

static const named table[] = {
    { "qwen2.5-0.5b", "qwen2", 896, 4864, 24, 14, 2, 64, 151936, 32768, 1e6f, 1e-6f, true },
    { "qwen2.5-1.5b", "qwen2", 1536, 8960, 28, 12, 2, 128, 151936, 32768, 1e6f, 1e-6f, true },
    { "qwen2.5-3b", "qwen2", 2048, 11008, 36, 16, 2, 128, 151936, 32768, 1e6f, 1e-6f, true },
    { "qwen2.5-7b", "qwen2", 3584, 18944, 28, 28, 4, 128, 152064, 32768, 1e6f, 1e-6f, false },
    { "qwen3-0.6b", "qwen3", 1024, 3072, 28, 16, 8, 128, 151936, 40960, 1e6f, 1e-6f, true },
    { "llama-3.2-1b", "llama", 2048, 8192, 16, 32, 8, 64, 128256, 131072, 5e5f, 1e-5f, true },
    { "smollm2-135m", "llama", 576, 1536, 30, 9, 3, 64, 49152, 8192, 1e5f, 1e-5f, true },
};
enum { N_NAMED = sizeof table / sizeof table[0] };

static void fill(mr_config *c, const named *n) {
    *c = (mr_config){
        .hidden_size = n->hidden,
        .intermediate_size = n->inter,
        .num_hidden_layers = n->layers,
        .num_attention_heads = n->heads,
        .num_key_value_heads = n->kv_heads,
        .head_dim = n->head_dim,
        .vocab_size = n->vocab,
        .max_position_embeddings = n->positions,
        .rms_norm_eps = n->eps,
        .initializer_range = 0.02f,
        .tie_word_embeddings = n->tied,
        .qk_norm = strcmp(n->type, "qwen3") == 0,
        .attention_bias = strcmp(n->type, "qwen2") == 0,
        .rope_theta = n->theta,
    };
    snprintf(c->model_type, sizeof c->model_type, "%s", n->type);
    if (strcmp(n->name, "llama-3.2-1b") == 0) { /* spec/models.md 1.3 */
        c->rope_llama3 = true;
        c->rope_factor = 32.0f;
        c->rope_low_freq_factor = 1.0f;
        c->rope_high_freq_factor = 4.0f;
        c->rope_original_max_position = 8192;
    }
    mr_config_rope(c);
}

const char *mr_config_name(int i) {
    return i >= 0 && i < N_NAMED ? table[i].name : NULL;
}

mr_status mr_config_named(mr_config *c, const char *name, mr_err *err) {
    char list[256] = "";
    for (int i = 0; i < N_NAMED; i++) {
        if (strcmp(name, table[i].name) == 0) {
            fill(c, &table[i]);
            return MR_OK;
        }
        size_t at = strlen(list);
        snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", table[i].name);
    }
    return mr_fail(err, MR_EINVAL, "no configuration is called \"%s\", want one of %s", name, list);
}

int64_t mr_parameter_count(const mr_config *c) {
    int64_t hidden = c->hidden_size, q = (int64_t)c->num_attention_heads * c->head_dim;
    int64_t kv = (int64_t)c->num_key_value_heads * c->head_dim;
    int64_t layer = hidden * (2 * q + 2 * kv) + 3 * hidden * c->intermediate_size + 2 * hidden;
    if (c->qk_norm) layer += 2 * c->head_dim;
    if (c->attention_bias) layer += q + 2 * kv;
    int64_t tables = (int64_t)c->vocab_size * hidden * (c->tie_word_embeddings ? 1 : 2);
    return layer * c->num_hidden_layers + tables + hidden;
}
