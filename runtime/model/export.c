/* export.c - see export.h. */
#include "model/export.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "model/layout.h"
#include "model/merge.h"

/* ---- types ---- */

typedef struct recipe {
    const char *name, *matrices, *head; /* head: of lm_head, or of an embedding that is one too */
    uint32_t file_type;                 /* general.file_type */
    bool gguf_only, mix;
} recipe;

static const recipe recipes[] = {
    { "f32", "F32", "F32", 0, false, false },     { "f16", "F16", "F16", 1, false, false },
    { "bf16", "BF16", "BF16", 32, false, false }, { "q8_0", "Q8_0", "Q8_0", 7, true, false },
    { "q4_0", "Q4_0", "Q6_K", 2, true, false },   { "q4_k_m", "Q4_K", "Q6_K", 15, true, true },
};

static mr_status find_recipe(const recipe **out, const char *type, bool gguf, mr_err *err) {
    for (size_t i = 0; i < sizeof recipes / sizeof recipes[0]; i++)
        if (strcmp(recipes[i].name, type) == 0 && (gguf || !recipes[i].gguf_only)) {
            *out = &recipes[i];
            return MR_OK;
        }
    return mr_fail(err, MR_EINVAL, "--type is \"%s\", want %s", type,
                   gguf ? "f32, f16, bf16, q8_0, q4_0 or q4_k_m" : "bf16, f16 or f32 (a GGUF takes more)");
}

/* The layers whose v and down lose most by four bits: the first and last eighth and every third between. */
static bool more_bits(int layer, int n_layers) {
    return layer < n_layers / 8 || layer >= 7 * n_layers / 8 || (layer - n_layers / 8) % 3 == 2;
}

static const char *mixed(const mr_config *c, const mr_part *part, const char *type) {
    if (part->proj != MR_V_PROJ && part->proj != MR_DOWN_PROJ) return type;
    if (more_bits(part->layer, c->num_hidden_layers)) return "Q6_K";
    /* llama.cpp's exception for the 70B shapes, whose heads share v eight to one */
    return part->proj == MR_V_PROJ && c->num_hidden_layers == 80 && strcmp(c->model_type, "qwen3") != 0 ? "Q5_K" : type;
}

static const mr_format *gguf_format(const mr_config *c, const mr_part *part, const recipe *r) {
    if (part->vector) return mr_format_named("F32");
    const bool head = strcmp(part->name, "lm_head.weight") == 0 ||
                      (c->tie_word_embeddings && strcmp(part->name, "model.embed_tokens.weight") == 0);
    const char *type = head ? r->head : r->mix ? mixed(c, part, r->matrices) : r->matrices;
    const mr_format *f = mr_format_named(type);
    if (part->cols % f->block == 0) return f;
    type = strcmp(type, "Q6_K") == 0   ? "Q8_0"
           : strcmp(type, "Q5_K") == 0 ? "Q5_1"
           : strcmp(type, "Q4_K") == 0 ? "Q5_0"
                                       : "F16";
    f = mr_format_named(type);
    return part->cols % f->block == 0 ? f : mr_format_named("F16");
}

static size_t part_bytes(const mr_part *part, const mr_format *f) {
    return mr_format_bytes(f, (size_t)(part->rows * part->cols));
}

/* ---- what a base is ---- */

static mr_status count_types(size_t bytes[3], const char *base, mr_err *err) { /* f16, other plain ones, quantized */
    mr_tensors *t = NULL;
    bytes[0] = bytes[1] = bytes[2] = 0;
    MR_TRY(mr_tensors_open(&t, base, err));
    for (int i = 0; i < mr_tensors_count(t); i++) {
        const mr_tensor_info *x = mr_tensors_at(t, i);
        if (x->n_dims < 2) continue;
        const bool plain = strcmp(x->type, "F32") == 0 || strcmp(x->type, "BF16") == 0 || strcmp(x->type, "F64") == 0;
        bytes[strcmp(x->type, "F16") == 0 ? 0 : plain ? 1 : 2] += x->bytes;
    }
    mr_tensors_close(t);
    return MR_OK;
}

mr_status mr_export_type(const char **type, const char *base, mr_err *err) {
    size_t bytes[3];
    MR_TRY(count_types(bytes, base, err));
    *type = bytes[0] > bytes[1] + bytes[2] ? "f16" : "bf16";
    return MR_OK;
}

mr_status mr_export_is_quantized(bool *is, const char *base, mr_err *err) {
    size_t bytes[3];
    MR_TRY(count_types(bytes, base, err));
    *is = bytes[2] > 0;
    return MR_OK;
}

mr_status mr_export_bytes(size_t *bytes, bool gguf, const mr_export_opts *o, mr_err *err) {
    mr_merge_plan p;
    const recipe *r;
    *bytes = 0;
    MR_TRY(find_recipe(&r, o->type, gguf, err));
    mr_status st = mr_merge_open(&p, o, false, err);
    for (int i = 0; i < p.n && st == MR_OK; i++)
        *bytes += part_bytes(&p.parts[i], gguf ? gguf_format(&p.config, &p.parts[i], r) : mr_format_named(r->matrices));
    mr_merge_close(&p);
    return st;
}

/* ---- safetensors ---- */

typedef struct shard {
    int first, n;
} shard;

static int make_shards(shard *shards, const mr_merge_plan *p, const mr_format *f, size_t most) {
    int n = 0;
    size_t bytes = 0;
    for (int i = 0; i < p->n; i++) {
        const size_t more = part_bytes(&p->parts[i], f);
        if (n == 0 || bytes + more > most) {
            shards[n++] = (shard){ i, 0 };
            bytes = 0;
        }
        bytes += more;
        shards[n - 1].n++;
    }
    return n;
}

static mr_status write_shard(const char *path, mr_merge_plan *p, const shard *s, const mr_format *f, size_t *done,
                             size_t all, const mr_export_opts *o, mr_err *err) {
    mr_tensor_out *list = mr_alloc((size_t)s->n * sizeof *list);
    for (int i = 0; i < s->n; i++) {
        const mr_part *x = &p->parts[s->first + i];
        list[i] = (mr_tensor_out){ .name = x->name, .type = f->name, .n_dims = x->vector ? 1 : 2 };
        list[i].dims[0] = x->vector ? x->cols : x->rows;
        list[i].dims[1] = x->cols;
    }
    mr_writer *w = NULL;
    mr_status st = mr_safetensors_create(&w, path, list, s->n, err);
    mr_free(list);
    for (int i = 0; i < s->n && st == MR_OK; i++)
        st = mr_merge_put(w, p, &p->parts[s->first + i], f, done, all, o, err);
    if (st == MR_OK) return mr_writer_end(w, err);
    mr_writer_drop(w);
    return st;
}

static mr_status write_index(const char *dir, const mr_merge_plan *p, const shard *shards, int n, size_t all,
                             mr_err *err) {
    mr_str s = { 0 };
    mr_str_printf(&s, "{\n  \"metadata\": {\"total_size\": %zu},\n  \"weight_map\": {", all);
    bool first = true;
    for (int k = 0; k < n; k++)
        for (int i = 0; i < shards[k].n; i++) {
            mr_str_puts(&s, first ? "\n    " : ",\n    ");
            mr_json_put_string(&s, p->parts[shards[k].first + i].name, strlen(p->parts[shards[k].first + i].name));
            mr_str_printf(&s, ": \"model-%05d-of-%05d.safetensors\"", k + 1, n);
            first = false;
        }
    mr_str_puts(&s, "\n  }\n}\n");
    char *path = mr_path_join(dir, "model.safetensors.index.json");
    mr_status st = mr_file_write(path, s.data, s.len, err);
    mr_free(path);
    mr_str_clear(&s);
    return st;
}

static mr_status write_shards(const char *dir, mr_merge_plan *p, const mr_format *f, const mr_export_opts *o,
                              mr_err *err) {
    shard *shards = mr_alloc((size_t)(p->n + 1) * sizeof *shards);
    const int n = make_shards(shards, p, f, o->shard_bytes ? o->shard_bytes : (size_t)5000000000);
    size_t all = 0, done = 0;
    for (int i = 0; i < p->n; i++) all += part_bytes(&p->parts[i], f);
    mr_status st = MR_OK;
    for (int k = 0; k < n && st == MR_OK; k++) {
        char name[64];
        snprintf(name, sizeof name, n == 1 ? "model.safetensors" : "model-%05d-of-%05d.safetensors", k + 1, n);
        char *path = mr_path_join(dir, name);
        st = write_shard(path, p, &shards[k], f, &done, all, o, err);
        mr_free(path);
    }
    if (st == MR_OK && n > 1) st = write_index(dir, p, shards, n, all, err);
    mr_free(shards);
    return st;
}

mr_status mr_export_merged(const char *dir, const mr_export_opts *o, mr_err *err) {
    const recipe *r;
    mr_merge_plan p;
    MR_TRY(find_recipe(&r, o->type, false, err));
    mr_status st = mr_merge_open(&p, o, false, err);
    if (st == MR_OK) st = mr_model_save_neighbors(o->base, &p.config, dir, r->name, err);
    if (st == MR_OK) st = write_shards(dir, &p, mr_format_named(r->matrices), o, err);
    mr_merge_close(&p);
    return st;
}

/* ---- GGUF ---- */

static void put_u32(mr_gguf_meta *m, const mr_config *c, const char *key, int x) {
    char name[96];
    snprintf(name, sizeof name, "%s.%s", c->model_type, key);
    mr_gguf_put_u32(m, name, (uint32_t)x);
}

static void put_f32(mr_gguf_meta *m, const mr_config *c, const char *key, float x) {
    char name[96];
    snprintf(name, sizeof name, "%s.%s", c->model_type, key);
    mr_gguf_put_f32(m, name, x);
}

static mr_status put_meta(mr_gguf_meta *m, const mr_config *c, const recipe *r, const mr_export_opts *o, mr_err *err) {
    mr_gguf_put_text(m, "general.architecture", c->model_type);
    mr_gguf_put_text(m, "general.type", "model");
    mr_gguf_put_text(m, "general.name", o->name ? o->name : "model");
    mr_gguf_put_u32(m, "general.file_type", r->file_type);
    mr_gguf_put_u32(m, "general.quantization_version", 2);
    put_u32(m, c, "block_count", c->num_hidden_layers);
    put_u32(m, c, "context_length", c->max_position_embeddings);
    put_u32(m, c, "embedding_length", c->hidden_size);
    put_u32(m, c, "feed_forward_length", c->intermediate_size);
    put_u32(m, c, "attention.head_count", c->num_attention_heads);
    put_u32(m, c, "attention.head_count_kv", c->num_key_value_heads);
    put_u32(m, c, "attention.key_length", c->head_dim);
    put_u32(m, c, "attention.value_length", c->head_dim);
    put_f32(m, c, "attention.layer_norm_rms_epsilon", c->rms_norm_eps);
    put_f32(m, c, "rope.freq_base", c->rope_theta);
    put_u32(m, c, "rope.dimension_count", c->head_dim);
    put_u32(m, c, "vocab_size", c->vocab_size);
    mr_tokenizer *t = NULL;
    MR_TRY(mr_tokenizer_open(&t, o->base, err));
    mr_status st = mr_tokenizer_put_gguf(t, m, c->vocab_size, err);
    mr_tokenizer_close(t);
    return st;
}

/* Divisors of the unscaled frequencies where they are scaled (Llama 3.x); false where they are not. */
static bool rope_divisors(float *out, const mr_config *c) {
    mr_config plain = *c;
    plain.rope_llama3 = false;
    mr_config_rope(&plain);
    bool scaled = false;
    for (int i = 0; i < c->head_dim / 2; i++) {
        out[i] = plain.inv_freq[i] / c->inv_freq[i];
        scaled = scaled || fabsf(out[i] - 1.0f) > 1e-6f;
    }
    return scaled;
}

static mr_status write_gguf(const char *path, mr_merge_plan *p, const mr_gguf_meta *meta, const recipe *r,
                            const mr_export_opts *o, mr_err *err) {
    float divisors[sizeof p->config.inv_freq / sizeof p->config.inv_freq[0]];
    const bool scaled = rope_divisors(divisors, &p->config);
    const int half = p->config.head_dim / 2;
    mr_tensor_out *list = mr_alloc((size_t)(p->n + 1) * sizeof *list);
    char(*names)[96] = mr_alloc((size_t)(p->n + 1) * sizeof *names);
    size_t all = 0, done = 0;
    mr_status st = MR_OK;
    for (int i = 0; i < p->n && st == MR_OK; i++) {
        const mr_part *x = &p->parts[i];
        const mr_format *f = gguf_format(&p->config, x, r);
        if (!mr_gguf_name(names[i], sizeof names[i], x->name))
            st = mr_fail(err, MR_EDATA, "%s: a GGUF has no name for \"%s\"", o->base, x->name);
        list[i] = (mr_tensor_out){ .name = names[i], .type = f->name, .n_dims = x->vector ? 1 : 2 };
        list[i].dims[0] = x->vector ? x->cols : x->rows;
        list[i].dims[1] = x->cols;
        all += part_bytes(x, f);
    }
    if (scaled)
        list[p->n] = (mr_tensor_out){ .name = "rope_freqs.weight", .type = "F32", .n_dims = 1, .dims = { half } };
    mr_writer *w = NULL;
    if (st == MR_OK) st = mr_gguf_create(&w, path, meta, list, p->n + scaled, err);
    for (int i = 0; i < p->n && st == MR_OK; i++)
        st = mr_merge_put(w, p, &p->parts[i], gguf_format(&p->config, &p->parts[i], r), &done, all, o, err);
    if (st == MR_OK && scaled) st = mr_writer_put(w, divisors, (size_t)half * sizeof(float), err);
    mr_free(names);
    mr_free(list);
    if (st == MR_OK) return mr_writer_end(w, err);
    mr_writer_drop(w);
    return st;
}

mr_status mr_export_gguf(const char *path, const mr_export_opts *o, mr_err *err) {
    const recipe *r;
    mr_merge_plan p;
    mr_gguf_meta meta = { 0 };
    MR_TRY(find_recipe(&r, o->type, true, err));
    mr_status st = mr_merge_open(&p, o, true, err);
    if (st == MR_OK) st = put_meta(&meta, &p.config, r, o, err);
    if (st == MR_OK) st = write_gguf(path, &p, &meta, r, o, err);
    mr_gguf_meta_clear(&meta);
    mr_merge_close(&p);
    return st;
}
