/* adapter.c - PEFT adapter folders in and out, and whole models after full training (model.h).
 *
 * Source: peft 0.21.2 save_pretrained (spec/quantization.md 5.6 "Files"). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/log.h"
#include "model/layout.h"
#include "text/tokenizer.h"

static const char prefix[] = "base_model.model.";

/* --- adapter_config.json --- */

/* What a config may hold that changes the result and that medrl does not do. NULL: anything but null, false and
 * empty is refused. */
static const struct {
    const char *key, *only;
} unsupported[] = {
    { "bias", "none" },
    { "modules_to_save", NULL },
    { "rank_pattern", NULL },
    { "alpha_pattern", NULL },
    { "lora_bias", NULL },
    { "use_dora", NULL },
    { "fan_in_fan_out", NULL },
    { "layers_to_transform", NULL },
    { "layer_replication", NULL },
    { "exclude_modules", NULL },
    { "target_parameters", NULL },
    { "trainable_token_indices", NULL },
    { "alora_invocation_tokens", NULL },
    { "use_qalora", NULL },
    { "use_bdlora", NULL },
};
/* What it may hold without changing what a loaded adapter computes. */
static const char *const known[] = {
    "peft_type",
    "task_type",
    "base_model_name_or_path",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "inference_mode",
    "init_lora_weights",
    "use_rslora",
    "layers_pattern",
    "revision",
    "peft_version",
    "auto_mapping",
    "megatron_config",
    "megatron_core",
    "loftq_config",
    "eva_config",
    "corda_config",
    "arrow_config",
    "ensure_weight_tying",
    "qalora_group_size",
    "runtime_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
};

static bool is_empty(const cJSON *x) {
    return !x || cJSON_IsNull(x) || cJSON_IsFalse(x) || ((cJSON_IsArray(x) || cJSON_IsObject(x)) && !x->child);
}

static mr_status check_keys(const cJSON *root, const char *place, mr_err *err) {
    enum { n_unsupported = sizeof unsupported / sizeof unsupported[0], n_known = sizeof known / sizeof known[0] };
    const cJSON *x = NULL;
    cJSON_ArrayForEach(x, root) {
        bool seen = is_empty(x);
        for (int i = 0; i < n_unsupported && !seen; i++) {
            if (strcmp(x->string, unsupported[i].key) != 0) continue;
            const char *only = unsupported[i].only;
            if (only && cJSON_IsString(x) && strcmp(x->valuestring, only) == 0) seen = true;
            if (!seen) {
                char *text = cJSON_PrintUnformatted(x);
                mr_status st = mr_fail(err, MR_EDATA, "%s: %s = %.80s is not supported, want %s", place, x->string,
                                       text ? text : "?", only ? only : "none");
                cJSON_free(text);
                return st;
            }
        }
        for (int i = 0; i < n_known && !seen; i++) seen = strcmp(x->string, known[i]) == 0;
        if (!seen) mr_warn("%s: the setting \"%s\" is unknown to medrl and ignored", place, x->string);
    }
    return MR_OK;
}

/* For "target_modules" as a regular expression: the projections that the file has weights of. */
static mr_status targets_from_file(bool targets[MR_N_PROJ], const char *dir, mr_err *err) {
    char *file = mr_path_join(dir, "adapter_model.safetensors");
    mr_tensors *t = NULL;
    mr_status st = mr_tensors_open(&t, file, err);
    for (int i = 0; st == MR_OK && i < mr_tensors_count(t); i++)
        for (int p = 0; p < MR_N_PROJ; p++) {
            char part[48];
            snprintf(part, sizeof part, ".%s.lora_A.", mr_proj_names[p]);
            if (strstr(mr_tensors_at(t, i)->name, part)) targets[p] = true;
        }
    mr_tensors_close(t);
    mr_free(file);
    return st;
}

static mr_status read_targets(bool targets[MR_N_PROJ], const cJSON *item, const char *dir, const char *place,
                              mr_err *err) {
    if (cJSON_IsString(item)) {
        if (strcmp(item->valuestring, "all-linear") != 0) return targets_from_file(targets, dir, err);
        for (int p = 0; p < MR_N_PROJ; p++) targets[p] = true;
        return MR_OK;
    }
    if (!cJSON_IsArray(item) || !item->child)
        return mr_fail(err, MR_EDATA, "%s: field \"target_modules\" is %s, want a list of names", place,
                       mr_json_type_name(item));
    const cJSON *x = NULL;
    cJSON_ArrayForEach(x, item) {
        const char *name = cJSON_IsString(x) ? x->valuestring : mr_json_type_name(x);
        /* PEFT matches the last parts of a module's name, so "self_attn.q_proj" and "model.layers.0.self_attn.q_proj" are
         * names too. A layer that none of them means lacks its weights, which loading refuses. */
        const char *last = strrchr(name, '.') ? strrchr(name, '.') + 1 : name;
        int p = 0;
        while (p < MR_N_PROJ && strcmp(last, mr_proj_names[p]) != 0) p++;
        if (p == MR_N_PROJ)
            return mr_fail(err, MR_EDATA,
                           "%s: target_modules has \"%s\", want some of q_proj, k_proj, v_proj, o_proj, gate_proj, "
                           "up_proj, down_proj",
                           place, name);
        targets[p] = true;
    }
    return MR_OK;
}

static mr_status read_config(mr_lora_opts *out, const cJSON *root, const char *dir, const char *place, mr_err *err) {
    if (!cJSON_IsObject(root))
        return mr_fail(err, MR_EDATA, "%s: want an object, this is %s", place, mr_json_type_name(root));
    const char *type = NULL;
    int64_t r = 0;
    double alpha = 0;
    MR_TRY(mr_json_get_string(&type, root, "peft_type", place, err));
    if (strcmp(type, "LORA") != 0)
        return mr_fail(err, MR_EDATA, "%s: peft_type is \"%s\", only \"LORA\" is supported", place, type);
    MR_TRY(check_keys(root, place, err));
    MR_TRY(mr_json_get_int(&r, root, "r", 1, 4096, place, err));
    MR_TRY(mr_json_get_number(&alpha, root, "lora_alpha", place, err));
    if (!(alpha > 0 && alpha <= 65536))
        return mr_fail(err, MR_EDATA, "%s: lora_alpha is %g, want above 0, at most 65536", place, alpha);
    MR_TRY(mr_json_opt_bool(&out->use_rslora, root, "use_rslora", false, place, err));
    out->r = (int)r;
    out->lora_alpha = (float)alpha;
    return read_targets(out->targets, cJSON_GetObjectItemCaseSensitive(root, "target_modules"), dir, place, err);
}

mr_status mr_adapter_peek(mr_lora_opts *out, const char *dir, mr_err *err) {
    memset(out, 0, sizeof *out);
    char *file = mr_path_join(dir, "adapter_config.json");
    cJSON *root = NULL;
    mr_status st = mr_json_load(&root, file, 1 << 20, err);
    if (st == MR_OK) st = read_config(out, root, dir, file, err);
    cJSON_Delete(root);
    mr_free(file);
    if (st != MR_OK) memset(out, 0, sizeof *out);
    return st;
}

/* --- adapter_model.safetensors --- */

static mr_status check_match(const mr_model *m, const mr_lora_opts *o, const char *dir, mr_err *err) {
    const mr_lora_opts *mine = &m->opts.lora;
    if (o->r != mine->r)
        return mr_fail(err, MR_EINVAL, "%s: the adapter has r = %d, the model was opened with r = %d", dir, o->r,
                       mine->r);
    if (mr_lora_scale(o) != mr_lora_scale(mine))
        return mr_fail(err, MR_EINVAL, "%s: the adapter's scale is %g (lora_alpha %g), the model was opened with %g",
                       dir, (double)mr_lora_scale(o), (double)o->lora_alpha, (double)mr_lora_scale(mine));
    for (int p = 0; p < MR_N_PROJ; p++)
        if (o->targets[p] != mine->targets[p])
            return mr_fail(err, MR_EINVAL,
                           "%s: the adapter has %s %s, the model was opened %s it; want the same target_modules", dir,
                           o->targets[p] ? "a" : "no", mr_proj_names[p], mine->targets[p] ? "with" : "without");
    return MR_OK;
}

/* All tensors are checked before the first is taken over, so a refused adapter leaves the model as it was. */
static mr_status check_tensors(const mr_model *m, const mr_tensors *t, mr_err *err) {
    for (int i = 0; i < m->n_params; i++) {
        const mr_param *p = &m->params[i];
        char name[160];
        snprintf(name, sizeof name, "%s%s.weight", prefix, p->name);
        const mr_tensor_info *x = mr_tensors_find(t, name);
        if (!x) return mr_fail(err, MR_EDATA, "%s: the tensor \"%s\" is missing", mr_tensors_path(t), name);
        if (x->n_dims != 2 || x->dims[0] != p->rows || x->dims[1] != p->cols)
            return mr_fail(
                err, MR_EDATA,
                "%s: the tensor \"%s\" has shape [%lld,%lld], want [%lld,%lld]; is this the adapter of another "
                "model?",
                mr_tensors_path(t), name, (long long)x->dims[0], (long long)(x->n_dims > 1 ? x->dims[1] : 1),
                (long long)p->rows, (long long)p->cols);
    }
    if (mr_tensors_count(t) == m->n_params) return MR_OK;
    for (int i = 0; i < mr_tensors_count(t); i++) {
        const char *name = mr_tensors_at(t, i)->name;
        bool found = false;
        for (int j = 0; j < m->n_params && !found; j++) {
            size_t len = strlen(m->params[j].name);
            found = strncmp(name, prefix, sizeof prefix - 1) == 0 &&
                    strncmp(name + sizeof prefix - 1, m->params[j].name, len) == 0 &&
                    strcmp(name + sizeof prefix - 1 + len, ".weight") == 0;
        }
        if (!found)
            return mr_fail(err, MR_EDATA,
                           "%s: the model has no place for the tensor \"%s\"; is this the adapter of another model?",
                           mr_tensors_path(t), name);
    }
    return MR_OK;
}

static mr_status take_over(mr_model *m, const mr_tensors *t, mr_err *err) {
    float **host = mr_alloc((size_t)(m->n_params + 1) * sizeof *host);
    mr_status st = MR_OK;
    for (int i = 0; i < m->n_params && st == MR_OK; i++) {
        const mr_param *p = &m->params[i];
        char name[160];
        snprintf(name, sizeof name, "%s%s.weight", prefix, p->name);
        host[i] = mr_try_alloc((size_t)(p->rows * p->cols) * sizeof(float));
        if (!host[i])
            st = mr_fail(err, MR_ENOMEM, "%s: no memory to read \"%s\"", mr_tensors_path(t), name);
        else
            st = mr_tensors_read(t, mr_tensors_find(t, name), host[i], 0, p->rows, err);
        for (int64_t j = 0; st == MR_OK && j < p->rows * p->cols; j++)
            if (!isfinite(host[i][j]))
                st = mr_fail(err, MR_EDATA, "%s: the tensor \"%s\" has a value that is no finite number",
                             mr_tensors_path(t), name);
    }
    for (int i = 0; i < m->n_params && st == MR_OK; i++)
        m->b->upload(m->b, m->params[i].value, host[i],
                     (size_t)(m->params[i].rows * m->params[i].cols) * sizeof(float));
    for (int i = 0; i < m->n_params; i++) mr_free(host[i]);
    mr_free(host);
    if (st != MR_OK) return st;
    mr_model_refresh(m);
    return m->b->sync(m->b, err);
}

mr_status mr_adapter_load(mr_model *m, const char *dir, mr_err *err) {
    mr_lora_opts o;
    if (m->opts.lora.r <= 0) return mr_fail(err, MR_EINVAL, "%s: the model was opened without an adapter", dir);
    MR_TRY(mr_adapter_peek(&o, dir, err));
    MR_TRY(check_match(m, &o, dir, err));
    char *file = mr_path_join(dir, "adapter_model.safetensors");
    mr_tensors *t = NULL;
    mr_status st = mr_tensors_open(&t, file, err);
    mr_free(file);
    if (st == MR_OK) st = check_tensors(m, t, err);
    if (st == MR_OK) st = take_over(m, t, err);
    mr_tensors_close(t);
    return st;
}

/* The keys that PEFT 0.21 needs to load it, in the order in which it writes them: alphabetical. */
static void put_config(mr_str *s, const mr_lora_opts *o, const char *base) {
    mr_str_puts(s, "{\n  \"alpha_pattern\": {},\n  \"auto_mapping\": null,\n  \"base_model_name_or_path\": ");
    if (base)
        mr_json_put_string(s, base, strlen(base));
    else
        mr_str_puts(s, "null");
    mr_str_puts(s, ",\n  \"bias\": \"none\",\n  \"fan_in_fan_out\": false,\n  \"inference_mode\": true,\n  "
                   "\"init_lora_weights\": true,\n"
                   "  \"layers_pattern\": null,\n  \"layers_to_transform\": null,\n  \"lora_alpha\": ");
    mr_json_put_number(s, (double)o->lora_alpha);
    mr_str_printf(s,
                  ",\n  \"lora_bias\": false,\n  \"lora_dropout\": 0.0,\n  \"modules_to_save\": null,\n  "
                  "\"peft_type\": \"LORA\",\n"
                  "  \"peft_version\": \"0.21.2\",\n  \"r\": %d,\n  \"rank_pattern\": {},\n  \"revision\": null,\n  "
                  "\"target_modules\": [",
                  o->r);
    bool first = true;
    for (int p = 0; p < MR_N_PROJ; p++) {
        if (!o->targets[p]) continue;
        mr_str_printf(s, "%s\n    \"%s\"", first ? "" : ",", mr_proj_names[p]);
        first = false;
    }
    mr_str_printf(s, "\n  ],\n  \"task_type\": \"CAUSAL_LM\",\n  \"use_dora\": false,\n  \"use_rslora\": %s\n}\n",
                  o->use_rslora ? "true" : "false");
}

/* Every parameter in host memory, under the names that the file will have. */
typedef struct dump {
    mr_tensor_out *out;
    int n;
} dump;

static void dump_clear(dump *d) {
    for (int i = 0; i < d->n; i++) {
        mr_free((void *)d->out[i].data);
        mr_free((void *)d->out[i].name);
    }
    mr_free(d->out);
}

static mr_status dump_params(dump *d, mr_model *m, const char *before, const char *after, bool bf16, mr_err *err) {
    d->out = mr_alloc((size_t)(m->n_params + 1) * sizeof *d->out);
    for (int i = 0; i < m->n_params; i++) {
        const mr_param *p = &m->params[i];
        size_t n = (size_t)(p->rows * p->cols);
        float *host = mr_try_alloc(n * sizeof(float));
        if (!host) return mr_fail(err, MR_ENOMEM, "%s: no memory to save \"%s\"", m->path, p->name);
        m->b->download(m->b, host, p->value, n * sizeof(float));
        mr_tensor_out *t = &d->out[d->n++];
        t->name = mr_asprintf("%s%s%s", before, p->name, after);
        t->type = bf16 ? "BF16" : "F32";
        bool vector = m->opts.full && !p->decay; /* norms and biases */
        t->n_dims = vector ? 1 : 2;
        t->dims[0] = vector ? p->cols : p->rows;
        t->dims[1] = p->cols;
        t->data = host;
        if (!bf16) continue;
        uint16_t *half = mr_try_alloc(n * sizeof(uint16_t));
        if (!half) return mr_fail(err, MR_ENOMEM, "%s: no memory to save \"%s\"", m->path, p->name);
        for (size_t j = 0; j < n; j++) half[j] = mr_f32_to_bf16(host[j]);
        mr_free(host);
        t->data = half;
    }
    return m->b->sync(m->b, err);
}

static mr_status save_tensors(mr_model *m, const char *dir, const char *file, const char *before, const char *after,
                              bool bf16, mr_err *err) {
    dump d = { 0 };
    mr_status st = dump_params(&d, m, before, after, bf16, err);
    char *path = mr_path_join(dir, file);
    if (st == MR_OK) st = mr_safetensors_write(path, d.out, d.n, NULL, err);
    mr_free(path);
    dump_clear(&d);
    return st;
}

mr_status mr_adapter_save(mr_model *m, const char *dir, const char *base_model_name, mr_err *err) {
    if (m->opts.lora.r <= 0) return mr_fail(err, MR_EINVAL, "%s: the model has no adapter to save", dir);
    MR_TRY(mr_mkdirs(dir, err));
    MR_TRY(save_tensors(m, dir, "adapter_model.safetensors", prefix, ".weight", false, err));
    mr_str s = { 0 };
    put_config(&s, &m->opts.lora, base_model_name);
    char *path = mr_path_join(dir, "adapter_config.json");
    mr_status st = mr_file_write(path, s.data, s.len, err);
    mr_free(path);
    mr_str_clear(&s);
    return st;
}

/* --- whole models --- */

/* config.json of a model that came from a GGUF: the keys that transformers needs. */
static cJSON *config_tree(const mr_config *c) {
    cJSON *root = cJSON_CreateObject(), *names = cJSON_AddArrayToObject(root, "architectures");
    const char *class = strcmp(c->model_type, "llama") == 0   ? "LlamaForCausalLM"
                        : strcmp(c->model_type, "qwen2") == 0 ? "Qwen2ForCausalLM"
                                                              : "Qwen3ForCausalLM";
    cJSON_AddItemToArray(names, cJSON_CreateString(class));
    cJSON_AddStringToObject(root, "model_type", c->model_type);
    cJSON_AddStringToObject(root, "hidden_act", "silu");
    cJSON_AddNumberToObject(root, "hidden_size", c->hidden_size);
    cJSON_AddNumberToObject(root, "intermediate_size", c->intermediate_size);
    cJSON_AddNumberToObject(root, "num_hidden_layers", c->num_hidden_layers);
    cJSON_AddNumberToObject(root, "num_attention_heads", c->num_attention_heads);
    cJSON_AddNumberToObject(root, "num_key_value_heads", c->num_key_value_heads);
    cJSON_AddNumberToObject(root, "head_dim", c->head_dim);
    cJSON_AddNumberToObject(root, "vocab_size", c->vocab_size);
    cJSON_AddNumberToObject(root, "max_position_embeddings", c->max_position_embeddings);
    cJSON_AddNumberToObject(root, "rms_norm_eps", (double)c->rms_norm_eps);
    cJSON_AddNumberToObject(root, "rope_theta", (double)c->rope_theta);
    cJSON_AddBoolToObject(root, "tie_word_embeddings", c->tie_word_embeddings);
    return root;
}

/* base: the model's folder or GGUF. dtype: what the file holds now, in transformers' words. */
static mr_status save_config(const char *base, const mr_config *c, const char *dir, const char *dtype, mr_err *err) {
    cJSON *root = NULL;
    char *from = mr_path_join(base, "config.json");
    if (mr_path_is_dir(base)) {
        mr_status st = mr_json_load(&root, from, 4 << 20, err);
        if (st != MR_OK) {
            mr_free(from);
            return st;
        }
        const char *key = cJSON_GetObjectItemCaseSensitive(root, "torch_dtype") ? "torch_dtype" : "dtype";
        cJSON *type = cJSON_CreateString(dtype);
        if (cJSON_GetObjectItemCaseSensitive(root, key))
            cJSON_ReplaceItemInObjectCaseSensitive(root, key, type);
        else
            cJSON_AddItemToObject(root, key, type);
        cJSON_DeleteItemFromObjectCaseSensitive(root, "quantization_config"); /* of a 4-bit base */
    } else {
        root = config_tree(c);
        cJSON_AddStringToObject(root, "dtype", dtype);
    }
    mr_free(from);
    char *text = cJSON_Print(root);
    cJSON_Delete(root);
    char *to = mr_path_join(dir, "config.json");
    mr_status st =
        text ? mr_file_write(to, text, strlen(text), err) : mr_fail(err, MR_ENOMEM, "%s: no memory to write it", to);
    cJSON_free(text);
    mr_free(to);
    return st;
}

static mr_status copy_file(const char *from_dir, const char *to_dir, const char *name, mr_err *err) {
    char *from = mr_path_join(from_dir, name), *to = mr_path_join(to_dir, name), *data = NULL;
    size_t len = 0;
    mr_status st = MR_OK;
    if (mr_path_exists(from) && strcmp(from, to) != 0) {
        st = mr_file_read(&data, &len, from, (size_t)256 << 20, err);
        if (st == MR_OK) st = mr_file_write(to, data, len, err);
    }
    mr_free(data);
    mr_free(from);
    mr_free(to);
    return st;
}

/* A GGUF keeps scaled rope frequencies as numbers; config.json would want to know what they come from. */
static bool has_scaled_rope(const mr_config *c) {
    mr_config plain = *c;
    plain.rope_llama3 = false;
    mr_config_rope(&plain);
    return memcmp(plain.inv_freq, c->inv_freq, (size_t)(c->head_dim / 2) * sizeof c->inv_freq[0]) != 0;
}

mr_status mr_model_save_neighbors(const char *base, const mr_config *c, const char *dir, const char *type, mr_err *err) {
    static const char *const files[] = {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
        "merges.txt",     "chat_template.jinja",   "generation_config.json"
    };
    const bool folder = mr_path_is_dir(base);
    if (!folder && has_scaled_rope(c))
        return mr_fail(err, MR_EINVAL,
                       "%s: a GGUF with scaled rope frequencies cannot be written as config.json; use the original "
                       "folder (--base)",
                       base);
    MR_TRY(mr_mkdirs(dir, err));
    for (size_t i = 0; folder && i < sizeof files / sizeof files[0]; i++) MR_TRY(copy_file(base, dir, files[i], err));
    if (!folder) {
        mr_tokenizer *t = NULL;
        MR_TRY(mr_tokenizer_open(&t, base, err));
        mr_status st = mr_tokenizer_save(t, dir, err);
        mr_tokenizer_close(t);
        MR_TRY(st);
    }
    const char *dtype = strcmp(type, "f16") == 0 ? "float16" : strcmp(type, "f32") == 0 ? "float32" : "bfloat16";
    return save_config(base, c, dir, dtype, err);
}

mr_status mr_model_save(mr_model *m, const char *dir, mr_err *err) {
    if (!m->opts.full)
        return mr_fail(err, MR_EINVAL, "%s: only a model that was trained in full can be saved whole; save the adapter",
                       dir);
    MR_TRY(mr_model_save_neighbors(m->path, &m->config, dir, "bf16", err));
    return save_tensors(m, dir, "model.safetensors", "", "", true, err);
}
