/* config.c - see config.h. Two readers, one check at the end. */
#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/json.h"

static const char supported[] = "medrl runs qwen2 (Qwen2, Qwen2.5), llama (Llama 3, SmolLM2) and qwen3";

static bool known_type(const char *type) {
    return strcmp(type, "qwen2") == 0 || strcmp(type, "llama") == 0 || strcmp(type, "qwen3") == 0;
}

/* What both readers must agree on before anything is allocated from these numbers. */
static mr_status check(const mr_config *c, const char *place, mr_err *err) {
    if (c->num_attention_heads % c->num_key_value_heads != 0)
        return mr_fail(err, MR_EDATA, "%s: %d attention heads do not divide into %d key/value heads", place,
                       c->num_attention_heads, c->num_key_value_heads);
    if (c->head_dim < 2 || c->head_dim % 2 != 0 || c->head_dim / 2 > (int)(sizeof c->inv_freq / sizeof c->inv_freq[0]))
        return mr_fail(err, MR_EDATA, "%s: head_dim is %d, want an even number up to 512", place, c->head_dim);
    if (!(c->rms_norm_eps > 0.0f && c->rms_norm_eps < 1.0f))
        return mr_fail(err, MR_EDATA, "%s: rms_norm_eps is %g, want a small positive number", place,
                       (double)c->rms_norm_eps);
    if (!(c->rope_theta >= 1.0f && isfinite(c->rope_theta)))
        return mr_fail(err, MR_EDATA, "%s: rope_theta is %g, want at least 1", place, (double)c->rope_theta);
    if (c->rope_llama3 && !(c->rope_factor >= 1.0f && c->rope_low_freq_factor > 0.0f &&
                            c->rope_high_freq_factor > c->rope_low_freq_factor && c->rope_original_max_position > 0))
        return mr_fail(err, MR_EDATA,
                       "%s: the llama3 rope scaling needs factor >= 1, 0 < low_freq_factor < high_freq_factor", place);
    return MR_OK;
}

/* transformers, modeling_rope_utils.py (spec/models.md 1.3): inv_freq[i] = theta^(-2i/d), then llama3's bands by
 * wavelength. */
void mr_config_rope(mr_config *c) {
    const float pi2 = 6.283185307179586f;
    int half = c->head_dim / 2;
    for (int i = 0; i < half; i++) {
        float exponent = (float)(2 * i) / (float)c->head_dim;
        float f = 1.0f / (float)pow((double)c->rope_theta, (double)exponent);
        if (c->rope_llama3) {
            float wavelength = pi2 / f;
            float low = (float)c->rope_original_max_position / c->rope_low_freq_factor;
            float high = (float)c->rope_original_max_position / c->rope_high_freq_factor;
            if (wavelength > low) {
                f = f / c->rope_factor;
            } else if (wavelength >= high) {
                float s = ((float)c->rope_original_max_position / wavelength - c->rope_low_freq_factor) /
                          (c->rope_high_freq_factor - c->rope_low_freq_factor);
                f = (1.0f - s) * f / c->rope_factor + s * f;
            }
        }
        c->inv_freq[i] = f;
    }
}

/* --- config.json --- */

/* Some configs write null where they mean "the default". */
static const cJSON *field(const cJSON *obj, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(obj, key);
    return cJSON_IsNull(item) ? NULL : item;
}

static mr_status opt_int(int *out, const cJSON *obj, const char *key, int def, int min, int max, const char *place,
                         mr_err *err) {
    int64_t x = def;
    if (field(obj, key)) MR_TRY(mr_json_get_int(&x, obj, key, min, max, place, err));
    *out = (int)x;
    return MR_OK;
}

static mr_status get_int(int *out, const cJSON *obj, const char *key, int min, int max, const char *place,
                         mr_err *err) {
    int64_t x = 0;
    MR_TRY(mr_json_get_int(&x, obj, key, min, max, place, err));
    *out = (int)x;
    return MR_OK;
}

static mr_status opt_float(float *out, const cJSON *obj, const char *key, double def, const char *place, mr_err *err) {
    double x = def;
    if (field(obj, key)) MR_TRY(mr_json_get_number(&x, obj, key, place, err));
    *out = (float)x;
    return MR_OK;
}

static mr_status opt_bool(bool *out, const cJSON *obj, const char *key, bool def, const char *place, mr_err *err) {
    *out = def;
    if (!field(obj, key)) return MR_OK;
    return mr_json_opt_bool(out, obj, key, def, place, err);
}

/* transformers >= 5 writes rope_parameters; before that rope_theta stood at the top and rope_scaling beside it. */
static mr_status read_rope(mr_config *c, const cJSON *root, const char *place, mr_err *err) {
    const cJSON *rope = field(root, "rope_parameters");
    if (!rope) rope = field(root, "rope_scaling");
    MR_TRY(opt_float(&c->rope_theta, root, "rope_theta", 10000.0, place, err));
    if (!rope) return MR_OK;
    if (!cJSON_IsObject(rope))
        return mr_fail(err, MR_EDATA, "%s: field \"%s\" is %s, want an object", place, rope->string,
                       mr_json_type_name(rope));
    MR_TRY(opt_float(&c->rope_theta, rope, "rope_theta", (double)c->rope_theta, place, err));
    float partial = 1.0f;
    MR_TRY(opt_float(&partial, rope, "partial_rotary_factor", 1.0, place, err));
    const char *type = "default";
    const char *key = field(rope, "rope_type") ? "rope_type" : "type";
    if (field(rope, key)) MR_TRY(mr_json_get_string(&type, rope, key, place, err));
    if (strcmp(type, "llama3") == 0) {
        c->rope_llama3 = true;
        MR_TRY(opt_float(&c->rope_factor, rope, "factor", 8.0, place, err));
        MR_TRY(opt_float(&c->rope_low_freq_factor, rope, "low_freq_factor", 1.0, place, err));
        MR_TRY(opt_float(&c->rope_high_freq_factor, rope, "high_freq_factor", 4.0, place, err));
        MR_TRY(opt_int(&c->rope_original_max_position, rope, "original_max_position_embeddings", 8192, 1, 1 << 30,
                       place, err));
    } else if (strcmp(type, "default") != 0) {
        return mr_fail(err, MR_EDATA,
                       "%s: rope type \"%s\" is not supported, want \"default\" or \"llama3\"; remove it when "
                       "the text stays within max_position_embeddings",
                       place, type);
    }
    if (partial != 1.0f)
        return mr_fail(err, MR_EDATA, "%s: partial_rotary_factor is %g, only 1 is supported", place, (double)partial);
    return MR_OK;
}

/* A checkpoint of bitsandbytes with 4-bit NormalFloat is read as it is; which linears are stored so, the tensors say. */
static mr_status check_quantization(const cJSON *quant, const char *place, mr_err *err) {
    const char *method = "unknown", *type = "fp4"; /* transformers' default */
    bool four = false;
    if (!cJSON_IsObject(quant))
        return mr_fail(err, MR_EDATA, "%s: field \"quantization_config\" is %s, want an object", place,
                       mr_json_type_name(quant));
    if (field(quant, "quant_method")) MR_TRY(mr_json_get_string(&method, quant, "quant_method", place, err));
    if (strcmp(method, "bitsandbytes") != 0)
        return mr_fail(err, MR_EDATA,
                       "%s: the checkpoint is quantized by \"%s\", of which only bitsandbytes' 4-bit nf4 is read; use the "
                       "16-bit model with load_in_4bit = true",
                       place, method);
    if (field(quant, "bnb_4bit_quant_type")) MR_TRY(mr_json_get_string(&type, quant, "bnb_4bit_quant_type", place, err));
    MR_TRY(opt_bool(&four, quant, "load_in_4bit", false, place, err));
    if (four && strcmp(type, "nf4") == 0) return MR_OK;
    return mr_fail(err, MR_EDATA,
                   "%s: the checkpoint is quantized by bitsandbytes to %s, only 4-bit nf4 is read; use the 16-bit model "
                   "with load_in_4bit = true",
                   place, four ? type : "8 bits");
}

static mr_status refuse_unsupported(const cJSON *root, const char *place, mr_err *err) {
    const cJSON *quant = field(root, "quantization_config");
    if (quant) MR_TRY(check_quantization(quant, place, err));
    const char *act = "silu";
    if (field(root, "hidden_act")) MR_TRY(mr_json_get_string(&act, root, "hidden_act", place, err));
    if (strcmp(act, "silu") != 0)
        return mr_fail(err, MR_EDATA, "%s: hidden_act is \"%s\", only \"silu\" is supported", place, act);
    bool sliding = false;
    MR_TRY(opt_bool(&sliding, root, "use_sliding_window", false, place, err));
    if (sliding)
        return mr_fail(err, MR_EDATA, "%s: use_sliding_window is true, which medrl cannot run; only full attention is",
                       place);
    const cJSON *types = field(root, "layer_types"), *type = NULL;
    cJSON_ArrayForEach(
        type, types) if (!cJSON_IsString(type) ||
                         strcmp(type->valuestring, "full_attention") !=
                             0) return mr_fail(err, MR_EDATA,
                                               "%s: layer_types has \"%s\", only \"full_attention\" is supported",
                                               place,
                                               cJSON_IsString(type) ? type->valuestring : mr_json_type_name(type));
    return MR_OK;
}

static mr_status read_json(mr_config *c, const cJSON *root, const char *place, mr_err *err) {
    if (!cJSON_IsObject(root))
        return mr_fail(err, MR_EDATA, "%s: want an object, this is %s", place, mr_json_type_name(root));
    const char *type = NULL;
    MR_TRY(mr_json_get_string(&type, root, "model_type", place, err));
    if (!known_type(type))
        return mr_fail(err, MR_EDATA, "%s: model_type \"%s\" is not supported; %s", place, type, supported);
    snprintf(c->model_type, sizeof c->model_type, "%s", type);
    bool qwen2 = strcmp(type, "qwen2") == 0, qwen3 = strcmp(type, "qwen3") == 0;
    MR_TRY(refuse_unsupported(root, place, err));
    MR_TRY(get_int(&c->hidden_size, root, "hidden_size", 1, 1 << 17, place, err));
    MR_TRY(get_int(&c->intermediate_size, root, "intermediate_size", 1, 1 << 19, place, err));
    MR_TRY(get_int(&c->num_hidden_layers, root, "num_hidden_layers", 1, 1024, place, err));
    MR_TRY(get_int(&c->num_attention_heads, root, "num_attention_heads", 1, 1024, place, err));
    MR_TRY(opt_int(&c->num_key_value_heads, root, "num_key_value_heads", c->num_attention_heads, 1, 1024, place, err));
    MR_TRY(get_int(&c->vocab_size, root, "vocab_size", 1, 1 << 24, place, err));
    MR_TRY(opt_int(&c->max_position_embeddings, root, "max_position_embeddings", 2048, 1, 1 << 30, place, err));
    /* Qwen3's class default is 128; the others divide. */
    if (!field(root, "head_dim") && !qwen3 && c->hidden_size % c->num_attention_heads != 0)
        return mr_fail(err, MR_EDATA, "%s: hidden_size %d does not divide into %d heads, and there is no head_dim",
                       place, c->hidden_size, c->num_attention_heads);
    MR_TRY(opt_int(&c->head_dim, root, "head_dim", qwen3 ? 128 : c->hidden_size / c->num_attention_heads, 1, 4096,
                   place, err));
    MR_TRY(opt_float(&c->rms_norm_eps, root, "rms_norm_eps", 1e-6, place, err));
    MR_TRY(opt_float(&c->initializer_range, root, "initializer_range", 0.02, place, err));
    if (!(c->initializer_range > 0.0f && c->initializer_range < 1.0f))
        return mr_fail(err, MR_EDATA, "%s: initializer_range is %g, want a number between 0 and 1", place,
                       (double)c->initializer_range);
    MR_TRY(opt_bool(&c->tie_word_embeddings, root, "tie_word_embeddings", false, place, err));
    MR_TRY(opt_bool(&c->attention_bias, root, "attention_bias", qwen2, place, err));
    MR_TRY(opt_bool(&c->mlp_bias, root, "mlp_bias", false, place, err));
    c->qk_norm = qwen3;
    return read_rope(c, root, place, err);
}

/* --- GGUF --- */

static mr_status gguf_int(int *out, const mr_tensors *t, const char *arch, const char *key, int def, int max,
                          mr_err *err) {
    char name[96];
    snprintf(name, sizeof name, "%s.%s", arch, key);
    double x = 0;
    if (!mr_gguf_get_number(t, name, &x)) {
        if (def < 0) return mr_fail(err, MR_EDATA, "%s: the metadata has no number \"%s\"", mr_tensors_path(t), name);
        *out = def;
        return MR_OK;
    }
    if (!(x >= 0 && x <= (double)max) || x != floor(x))
        return mr_fail(err, MR_EDATA, "%s: metadata \"%s\" is %g, want a whole number up to %d", mr_tensors_path(t),
                       name, x, max);
    *out = (int)x;
    return MR_OK;
}

static mr_status gguf_float(float *out, const mr_tensors *t, const char *arch, const char *key, double def,
                            mr_err *err) {
    char name[96];
    snprintf(name, sizeof name, "%s.%s", arch, key);
    double x = def;
    if (!mr_gguf_get_number(t, name, &x) && def < 0)
        return mr_fail(err, MR_EDATA, "%s: the metadata has no number \"%s\"", mr_tensors_path(t), name);
    *out = (float)x;
    return MR_OK;
}

static mr_status gguf_refuse(const mr_tensors *t, const char *arch, const char *key, const char *what, mr_err *err) {
    int x = 0;
    MR_TRY(gguf_int(&x, t, arch, key, 0, 1 << 30, err));
    if (x)
        return mr_fail(err, MR_EDATA, "%s: metadata \"%s.%s\" is %d: %s are not supported", mr_tensors_path(t), arch,
                       key, x, what);
    return MR_OK;
}

static mr_status read_gguf(mr_config *c, const mr_tensors *t, mr_err *err) {
    const char *place = mr_tensors_path(t), *s = NULL;
    size_t len = 0;
    if (!mr_gguf_get_string(t, "general.architecture", &s, &len))
        return mr_fail(err, MR_EDATA, "%s: the metadata has no \"general.architecture\"", place);
    char arch[sizeof c->model_type];
    snprintf(arch, sizeof arch, "%.*s", (int)(len < sizeof arch ? len : sizeof arch - 1), s);
    if (len >= sizeof arch || !known_type(arch))
        return mr_fail(err, MR_EDATA, "%s: architecture \"%.*s\" is not supported; %s", place,
                       (int)(len < 64 ? len : 64), s, supported);
    memcpy(c->model_type, arch, sizeof arch);
    MR_TRY(gguf_refuse(t, arch, "expert_count", "experts", err));
    MR_TRY(gguf_refuse(t, arch, "attention.sliding_window", "sliding windows", err));
    char name[96];
    snprintf(name, sizeof name, "%s.rope.scaling.type", arch);
    if (mr_gguf_get_string(t, name, &s, &len) && !(len == 4 && memcmp(s, "none", 4) == 0))
        return mr_fail(err, MR_EDATA, "%s: rope scaling \"%.*s\" is not supported", place, (int)(len < 64 ? len : 64),
                       s);
    MR_TRY(gguf_int(&c->hidden_size, t, arch, "embedding_length", -1, 1 << 17, err));
    MR_TRY(gguf_int(&c->intermediate_size, t, arch, "feed_forward_length", -1, 1 << 19, err));
    MR_TRY(gguf_int(&c->num_hidden_layers, t, arch, "block_count", -1, 1024, err));
    MR_TRY(gguf_int(&c->num_attention_heads, t, arch, "attention.head_count", -1, 1024, err));
    MR_TRY(gguf_int(&c->num_key_value_heads, t, arch, "attention.head_count_kv", c->num_attention_heads, 1024, err));
    MR_TRY(gguf_int(&c->max_position_embeddings, t, arch, "context_length", 2048, 1 << 30, err));
    if (c->hidden_size < 1 || c->intermediate_size < 1 || c->num_hidden_layers < 1 || c->num_attention_heads < 1 ||
        c->num_key_value_heads < 1)
        return mr_fail(err, MR_EDATA, "%s: the metadata of \"%s\" says zero layers, heads or channels", place, arch);
    int rotated = 0, value = 0;
    MR_TRY(gguf_int(&rotated, t, arch, "rope.dimension_count", 0, 4096, err));
    MR_TRY(gguf_int(&c->head_dim, t, arch, "attention.key_length", c->hidden_size / c->num_attention_heads, 4096, err));
    MR_TRY(gguf_int(&value, t, arch, "attention.value_length", c->head_dim, 4096, err));
    if (value != c->head_dim || (rotated && rotated != c->head_dim))
        return mr_fail(err, MR_EDATA,
                       "%s: keys of %d, values of %d and %d rotated dimensions; medrl wants one head size", place,
                       c->head_dim, value, rotated);
    MR_TRY(gguf_float(&c->rms_norm_eps, t, arch, "attention.layer_norm_rms_epsilon", -1, err));
    MR_TRY(gguf_float(&c->rope_theta, t, arch, "rope.freq_base", 10000.0, err));
    const mr_tensor_info *embed = mr_tensors_find(t, "model.embed_tokens.weight");
    if (!embed || embed->n_dims != 2)
        return mr_fail(err, MR_EDATA, "%s: there is no matrix \"token_embd.weight\"", place);
    if (embed->dims[0] < 1 || embed->dims[0] > 1 << 24)
        return mr_fail(err, MR_EDATA, "%s: \"token_embd.weight\" has %lld rows", place, (long long)embed->dims[0]);
    c->vocab_size = (int)embed->dims[0];
    c->qk_norm = strcmp(arch, "qwen3") == 0;
    c->attention_bias = strcmp(arch, "qwen2") == 0;
    return MR_OK;
}

/* Llama 3.x in GGUF: the scaling as divisors of inv_freq. */
static mr_status apply_rope_freqs(mr_config *c, const mr_tensors *t, mr_err *err) {
    const mr_tensor_info *info = mr_tensors_find(t, "rope_freqs.weight");
    if (!info) return MR_OK;
    float divisor[sizeof c->inv_freq / sizeof c->inv_freq[0]];
    if (info->n_dims != 1 || info->dims[0] != c->head_dim / 2)
        return mr_fail(err, MR_EDATA, "%s: \"rope_freqs.weight\" has %lld values, want %d (half of a head)",
                       mr_tensors_path(t), (long long)info->dims[0], c->head_dim / 2);
    MR_TRY(mr_tensors_read(t, info, divisor, 0, 1, err));
    for (int i = 0; i < c->head_dim / 2; i++) {
        if (!(divisor[i] > 0.0f))
            return mr_fail(err, MR_EDATA, "%s: \"rope_freqs.weight\"[%d] is %g, want above 0", mr_tensors_path(t), i,
                           (double)divisor[i]);
        c->inv_freq[i] /= divisor[i];
    }
    return MR_OK;
}

mr_status mr_config_load(mr_config *c, const char *path, const mr_tensors *t, mr_err *err) {
    memset(c, 0, sizeof *c);
    if (t && mr_tensors_is_gguf(t)) {
        MR_TRY(read_gguf(c, t, err));
        MR_TRY(check(c, mr_tensors_path(t), err));
        c->tie_word_embeddings = !mr_tensors_find(t, "lm_head.weight");
        mr_config_rope(c);
        return apply_rope_freqs(c, t, err);
    }
    char *dir = mr_path_is_dir(path) ? mr_strdup(path) : mr_path_dir(path);
    char *file = mr_path_join(dir, "config.json");
    cJSON *root = NULL;
    mr_status st = mr_json_load(&root, file, 4 << 20, err);
    if (st == MR_OK) st = read_json(c, root, file, err);
    if (st == MR_OK) st = check(c, file, err);
    if (st == MR_OK) {
        /* a checkpoint without a head uses the embedding, whatever the flag says (spec/models.md 1.2) */
        if (t && !mr_tensors_find(t, "lm_head.weight")) c->tie_word_embeddings = true;
        mr_config_rope(c);
    }
    cJSON_Delete(root);
    mr_free(file);
    mr_free(dir);
    return st;
}
