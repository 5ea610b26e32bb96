/* weights.c - fills a model's base weights from named tensors, or from a seed. */
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/proc.h"
#include "base/rng.h"
#include "base/threads.h"
#include "maps.h"
#include "model/cache.h"
#include "model/layout.h"

enum { NAME_MAX_LEN = 112, COPY_ROWS = 64, READ_ALONE = 1 << 16 /* values that are not worth waking others for */ };

/* Up to three matrices that are stacked to one. */
typedef struct stack {
    mr_model *m;
    const mr_tensors *t;
    int n;
    char name[3][NAME_MAX_LEN];
    const mr_tensor_info *info[3]; /* NULL with from_config */
    int64_t rows[3], cols;
} stack;

/* transformers' from_config: every linear and embedding is normal(0, initializer_range); a row is a function of name
 * and place. */
static void draw_rows(const stack *s, int part, float *dst, int64_t row, int64_t n) {
    uint64_t stream = mr_hash64(s->name[part], strlen(s->name[part]));
    for (int64_t i = 0; i < n * s->cols; i++)
        dst[i] = s->m->config.initializer_range * mr_normal_at(s->m->opts.seed, stream, (uint64_t)(row * s->cols + i));
}

/* The same from the block of normals: element i of a tensor is normal number (start + i) mod MR_NOISE. */
static void copy_noise(const stack *s, int part, float *dst, int64_t row, int64_t n) {
    uint64_t start = mr_hash64(s->name[part], strlen(s->name[part])) % MR_NOISE;
    int64_t at = (int64_t)((start + (uint64_t)(row * s->cols)) % MR_NOISE), left = n * s->cols;
    while (left > 0) {
        int64_t take = left < MR_NOISE - at ? left : MR_NOISE - at;
        memcpy(dst, s->m->noise + at, (size_t)take * sizeof *dst);
        dst += take;
        left -= take;
        at = 0;
    }
}

/* Rows of one part. */
static mr_status part_rows(const stack *s, int part, float *dst, int64_t row, int64_t n, mr_err *err) {
    if (s->info[part]) return mr_tensors_read(s->t, s->info[part], dst, row, n, err);
    if (s->m->noise)
        copy_noise(s, part, dst, row, n);
    else
        draw_rows(s, part, dst, row, n);
    return MR_OK;
}

typedef struct slice {
    const stack *s;
    int part;
    float *dst;
    int64_t row;
} slice;

static void slice_rows(void *ctx, int thread, int64_t from, int64_t to) {
    const slice *x = ctx;
    mr_err none;
    (void)thread;
    part_rows(x->s, x->part, x->dst + from * x->s->cols, x->row + from, to - from, &none);
}

/* The same by all readers: a file's 16 bits become f32 at the speed of memory, not of one core. What can be wrong with a
 * tensor is so with its first row. */
static mr_status read_rows(const stack *s, int part, float *dst, int64_t row, int64_t n, mr_err *err) {
    if (!s->m->readers || n * s->cols < READ_ALONE) return part_rows(s, part, dst, row, n, err);
    MR_TRY(part_rows(s, part, dst, row, 1, err));
    slice x = { s, part, dst + s->cols, row + 1 };
    const mr_work work = { slice_rows, &x, n - 1, READ_ALONE / s->cols + 1 };
    mr_parallel(s->m->readers, MR_THREADS_MAX, &work, 1);
    return MR_OK;
}

static mr_status stack_rows(void *self, float *dst, int64_t row, int64_t n, mr_err *err) {
    const stack *s = self;
    const double begun = mr_now_s();
    int64_t base = 0;
    for (int p = 0; p < s->n && n > 0; base += s->rows[p++]) {
        if (row >= base + s->rows[p]) continue;
        int64_t take = base + s->rows[p] - row < n ? base + s->rows[p] - row : n;
        MR_TRY(read_rows(s, p, dst, row - base, take, err));
        dst += take * s->cols;
        row += take;
        n -= take;
    }
    s->m->reading_s += mr_now_s() - begun;
    return MR_OK;
}

/* Looks a tensor up and checks its shape; *info stays NULL with from_config. */
static mr_status find(const mr_tensor_info **info, const mr_tensors *t, const char *name, int64_t rows, int64_t cols,
                      mr_err *err) {
    *info = NULL;
    if (!t) return MR_OK;
    const mr_tensor_info *x = mr_tensors_find(t, name);
    if (!x) return mr_fail(err, MR_EDATA, "%s: the tensor \"%s\" is missing", mr_tensors_path(t), name);
    bool vector = cols == 0;
    bool fits =
        vector ? x->n_dims == 1 && x->dims[0] == rows : x->n_dims == 2 && x->dims[0] == rows && x->dims[1] == cols;
    if (!fits) {
        mr_str got = { 0 };
        for (int i = 0; i < x->n_dims && i < 4; i++) mr_str_printf(&got, "%s%lld", i ? "," : "", (long long)x->dims[i]);
        mr_str want = { 0 };
        mr_str_printf(&want, vector ? "%lld" : "%lld,%lld", (long long)rows, (long long)cols);
        mr_status st =
            mr_fail(err, MR_EDATA, "%s: the tensor \"%s\" has shape [%s], want [%s] by the model's configuration",
                    mr_tensors_path(t), name, got.data ? got.data : "", want.data);
        mr_str_clear(&got);
        mr_str_clear(&want);
        return st;
    }
    *info = x;
    return MR_OK;
}

static void drop(const stack *s) {
    for (int p = 0; p < s->n; p++)
        if (s->info[p]) mr_tensors_drop(s->t, s->info[p]);
}

/* The f32 masters of full training, read a second time from the same source. */
static mr_status fill_master(mr_model *m, float *dst, stack *s, int64_t rows, mr_err *err) {
    float *host = mr_try_alloc((size_t)(COPY_ROWS * s->cols) * sizeof(float));
    if (!host) return mr_fail(err, MR_ENOMEM, "%s: no memory to read \"%s\"", m->path, s->name[0]);
    mr_status st = MR_OK;
    for (int64_t row = 0; row < rows && st == MR_OK; row += COPY_ROWS) {
        int64_t n = rows - row < COPY_ROWS ? rows - row : COPY_ROWS;
        st = stack_rows(s, host, row, n, err);
        if (st == MR_OK) m->b->upload(m->b, dst + row * s->cols, host, (size_t)(n * s->cols) * sizeof(float));
    }
    mr_free(host);
    return st;
}

/* The stored bytes of a stack, when all of it is NF4 already and may stay so: this book and map, and maxima whose blocks
 * of 256 end with the part. Otherwise 0, and the values are quantized again. */
static int stored_nf4(mr_nf4_part parts[3], const stack *s) {
    static const float book[16] = MR_NF4_VALUES;
    float map[256];
    mr_dynamic_map(map, true);
    for (int p = 0; p < s->n; p++) {
        const mr_tensor_nf4 *q = s->info[p] ? mr_tensors_nf4(s->info[p]) : NULL;
        if (!q || !q->nested || memcmp(q->book, book, sizeof book) != 0) return 0;
        if (p < s->n - 1 && q->n % (64 * 256) != 0) return 0;
        for (int i = 0; i < 256; i++) /* torch's linspace differs by an ulp from build to build (5.2) */
            if (fabsf(q->nested_map[i] - map[i]) > 2e-7f * fabsf(map[i])) return 0;
        parts[p] = (mr_nf4_part){ q->n, q->codes, q->absmax, q->nested, q->offset };
    }
    return s->n;
}

static mr_status create(mr_model *m, mr_weight **out, float *master, stack *s, int64_t more, mr_dtype store, unsigned uses,
                        mr_err *err) {
    int64_t rows = 0;
    for (int p = 0; p < s->n; p++) rows += s->rows[p];
    mr_weight_source source = { s, stack_rows };
    mr_nf4_part parts[3];
    int n_stored = store == MR_NF4 && m->b->weight_adopt ? stored_nf4(parts, s) : 0;
    const bool ours = store == MR_NF4 && n_stored == 0;
    if (ours && m->b->weight_adopt && mr_cache_find(m->cache, parts, s->name[0], rows, s->cols)) n_stored = 1;
    mr_status st = n_stored ? m->b->weight_adopt(m->b, out, parts, n_stored, rows, s->cols, m->opts.compute, uses, err)
                            : m->b->weight_create(m->b, out, source, rows, s->cols, more, store, m->opts.compute, uses, err);
    if (st == MR_ENOMEM)
        return mr_fail(err, st,
                       "%s: the tensor \"%s\" does not fit in %s's memory; use load_in_4bit or a smaller "
                       "model",
                       m->path, s->name[0], m->b->name);
    if (st != MR_OK) return st;
    if (ours && !n_stored) mr_cache_put(m->cache, m->b, *out, s->name[0]);
    m->bytes += m->b->weight_info(*out).bytes;
    if (master) MR_TRY(fill_master(m, master, s, rows, err));
    drop(s);
    return MR_OK;
}

static mr_status load_vector(mr_model *m, const mr_tensors *t, float *dst, const char *name, int64_t n, float initial,
                             mr_err *err) {
    const mr_tensor_info *info = NULL;
    MR_TRY(find(&info, t, name, n, 0, err));
    float *host = mr_try_alloc((size_t)n * sizeof(float));
    if (!host) return mr_fail(err, MR_ENOMEM, "%s: no memory to read \"%s\"", m->path, name);
    mr_status st = MR_OK;
    if (info)
        st = mr_tensors_read(t, info, host, 0, 1, err);
    else
        for (int64_t i = 0; i < n; i++) host[i] = initial;
    if (st == MR_OK) m->b->upload(m->b, dst, host, (size_t)n * sizeof(float));
    mr_free(host);
    return st;
}

static mr_status load_norm(mr_model *m, const mr_tensors *t, float *dst, int layer, const char *name, int64_t n,
                           mr_err *err) {
    char full[NAME_MAX_LEN];
    if (layer < 0)
        snprintf(full, sizeof full, "%s", name);
    else
        snprintf(full, sizeof full, "model.layers.%d.%s", layer, name);
    return load_vector(m, t, dst, full, n, 1.0f, err);
}

static mr_status load_group(mr_model *m, const mr_tensors *t, int layer, int group, mr_err *err) {
    const mr_config *c = &m->config;
    mr_layer *l = &m->layers[layer];
    stack s = { .m = m, .t = t, .n = mr_groups[group].n, .cols = mr_proj_cols(c, mr_groups[group].first) };
    int64_t row = 0;
    for (int p = 0; p < s.n; p++) {
        int proj = mr_groups[group].first + p;
        char path[NAME_MAX_LEN - 8];
        mr_proj_path(path, sizeof path, layer, proj);
        snprintf(s.name[p], sizeof s.name[p], "%s.weight", path);
        s.rows[p] = mr_proj_rows(c, proj);
        MR_TRY(find(&s.info[p], t, s.name[p], s.rows[p], s.cols, err));
        if (l->has_bias[group]) {
            char bias[NAME_MAX_LEN];
            snprintf(bias, sizeof bias, "%s.bias", path);
            MR_TRY(load_vector(m, t, l->bias[group] + row, bias, s.rows[p], 0.0f, err));
        }
        row += s.rows[p];
    }
    mr_linear *lin = &l->linear[group];
    float *master = m->opts.full ? m->values + (lin->dw - m->grads) : NULL;
    MR_TRY(create(m, &lin->w, master, &s, mr_rows_behind(&m->opts, group), m->opts.store, mr_linear_uses(&m->opts), err));
    if (m->unpacked) {
        m->b->weight_unpack(m->b, lin->w, m->unpacked + m->unpacked_used, mr_rows_behind(&m->opts, group));
        m->unpacked_used += mr_unpacked_bytes(m->b, c, &m->opts, group);
    }
    return MR_OK;
}

static mr_status load_table(mr_model *m, const mr_tensors *t, mr_weight **out, float *dw, const char *name,
                            unsigned uses, mr_err *err) {
    const mr_config *c = &m->config;
    stack s = { .m = m, .t = t, .n = 1, .cols = c->hidden_size, .rows = { c->vocab_size } };
    snprintf(s.name[0], sizeof s.name[0], "%s", name);
    MR_TRY(find(&s.info[0], t, name, c->vocab_size, c->hidden_size, err));
    float *master = dw ? m->values + (dw - m->grads) : NULL;
    return create(m, out, master, &s, 0, mr_table_store(&m->opts), uses, err);
}

static mr_status make_noise(mr_model *m, mr_err *err) {
    m->noise = mr_try_alloc(MR_NOISE * sizeof *m->noise);
    if (!m->noise) return mr_fail(err, MR_ENOMEM, "%s: no memory to make random weights", m->path);
    for (int i = 0; i < MR_NOISE; i++)
        m->noise[i] = m->config.initializer_range * mr_normal_at(m->opts.seed, 0, (uint64_t)i);
    return MR_OK;
}

static mr_status load_all(mr_model *m, const mr_tensors *t, mr_err *err) {
    const mr_config *c = &m->config;
    unsigned head_uses = mr_linear_uses(&m->opts);
    bool tied = c->tie_word_embeddings;
    MR_TRY(
        load_table(m, t, &m->embed, m->dembed, "model.embed_tokens.weight", MR_USE_ROWS | (tied ? head_uses : 0), err));
    if (tied)
        m->head.w = m->embed;
    else
        MR_TRY(load_table(m, t, &m->head.w, m->head.dw, "lm_head.weight", head_uses, err));
    MR_TRY(load_norm(m, t, m->final_norm, -1, "model.norm.weight", c->hidden_size, err));
    for (int i = 0; i < c->num_hidden_layers; i++) {
        mr_layer *l = &m->layers[i];
        MR_TRY(load_norm(m, t, l->input_norm, i, "input_layernorm.weight", c->hidden_size, err));
        MR_TRY(load_norm(m, t, l->post_norm, i, "post_attention_layernorm.weight", c->hidden_size, err));
        if (c->qk_norm) {
            MR_TRY(load_norm(m, t, l->q_norm, i, "self_attn.q_norm.weight", c->head_dim, err));
            MR_TRY(load_norm(m, t, l->k_norm, i, "self_attn.k_norm.weight", c->head_dim, err));
        }
        for (int g = 0; g < MR_N_GROUPS; g++) MR_TRY(load_group(m, t, i, g, err));
    }
    return MR_OK;
}

/* More than a few only wait for each other: the memory is what limits them. */
static int readers(void) {
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < 8 ? n : 8;
}

/* Values of all linears. A checkpoint that is NF4 already has nothing to keep. */
static int64_t values_to_quantize(const mr_model *m, const mr_tensors *t) {
    int64_t n = 0;
    for (int i = 0; t && i < mr_tensors_count(t); i++)
        if (mr_tensors_nf4(mr_tensors_at(t, i))) return 0;
    for (int p = 0; p < MR_N_PROJ; p++) n += mr_proj_rows(&m->config, p) * mr_proj_cols(&m->config, p);
    return m->opts.store == MR_NF4 && t ? n * m->config.num_hidden_layers : 0;
}

static mr_status open_cache(mr_model *m, const mr_tensors *t, mr_err *err) {
    const int64_t n = values_to_quantize(m, t);
    mr_threads *own = NULL;
    if (n == 0 || !m->opts.cache) return MR_OK;
    if (!m->readers && mr_threads_open(&own, readers(), err) != MR_OK) own = NULL; /* alone, then */
    mr_status st = mr_cache_open(&m->cache, m->opts.cache, t, n, m->readers ? m->readers : own, err);
    mr_threads_close(own);
    return st;
}

/* What was read is with the device; what was made is on its way to the disk. */
static void leave_cache(mr_model *m) {
    if (mr_cache_reads(m->cache)) {
        mr_cache_close(m->cache);
        m->cache = NULL;
    }
    mr_cache_end(m->cache);
}

mr_status mr_weights_load(mr_model *m, const mr_tensors *t, mr_err *err) {
    const double begun = mr_now_s();
    if (m->opts.config) MR_TRY(make_noise(m, err));
    mr_status st = m->b->kind == MR_CUDA ? mr_threads_open(&m->readers, readers(), err) : MR_OK;
    if (st == MR_OK) st = open_cache(m, t, err);
    if (st == MR_OK) st = load_all(m, t, err);
    if (st == MR_OK) leave_cache(m);
    mr_debug("weights: %.2f s, of which the device waited %.2f s for %d thread%s that read", mr_now_s() - begun,
             m->reading_s, m->readers ? mr_threads_count(m->readers) : 1,
             m->readers && mr_threads_count(m->readers) > 1 ? "s" : "");
    mr_free(m->noise);
    m->noise = NULL;
    return st;
}

/* A tensor of a layer that the forward pass would not use means that the result would be wrong without a word. */
static mr_status check_layer_tensor(const mr_model *m, const mr_tensors *t, const char *name, mr_err *err) {
    static const char *const ignored[] = { "self_attn.rotary_emb.inv_freq", "input_layernorm.weight",
                                           "post_attention_layernorm.weight" };
    const char *rest = name + strlen("model.layers.");
    char *end = NULL;
    long layer = strtol(rest, &end, 10);
    if (end == rest || *end != '.') return MR_OK;
    if (layer < 0 || layer >= m->config.num_hidden_layers)
        return mr_fail(err, MR_EDATA, "%s: the tensor \"%s\" belongs to layer %ld, but the configuration has %d layers",
                       mr_tensors_path(t), name, layer, m->config.num_hidden_layers);
    rest = end + 1;
    for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++)
        if (strcmp(rest, ignored[i]) == 0) return MR_OK;
    if (m->config.qk_norm &&
        (strcmp(rest, "self_attn.q_norm.weight") == 0 || strcmp(rest, "self_attn.k_norm.weight") == 0))
        return MR_OK;
    for (int p = 0; p < MR_N_PROJ; p++) {
        char path[NAME_MAX_LEN];
        mr_proj_path(path, sizeof path, (int)layer, p);
        size_t len = strlen(path);
        if (strncmp(name, path, len) != 0) continue;
        if (strcmp(name + len, ".weight") == 0 || strcmp(name + len, ".bias") == 0) return MR_OK;
    }
    return mr_fail(err, MR_EDATA,
                   "%s: the tensor \"%s\" is not one that a %s model has; medrl would ignore it and be wrong",
                   mr_tensors_path(t), name, m->config.model_type);
}

/* Sizes that come from the configuration are compared with the file's before anything is allocated from them. */
static mr_status check_tables(const mr_model *m, const mr_tensors *t, mr_err *err) {
    const mr_config *c = &m->config;
    const mr_tensor_info *info;
    MR_TRY(find(&info, t, "model.embed_tokens.weight", c->vocab_size, c->hidden_size, err));
    if (!c->tie_word_embeddings) MR_TRY(find(&info, t, "lm_head.weight", c->vocab_size, c->hidden_size, err));
    return find(&info, t, "model.norm.weight", c->hidden_size, 0, err);
}

static mr_status check_layer(const mr_model *m, const mr_tensors *t, int layer, mr_err *err) {
    static const char *const norms[] = { "input_layernorm.weight", "post_attention_layernorm.weight",
                                         "self_attn.q_norm.weight", "self_attn.k_norm.weight" };
    const mr_config *c = &m->config;
    for (int i = 0; i < (c->qk_norm ? 4 : 2); i++) {
        const mr_tensor_info *info;
        char name[NAME_MAX_LEN];
        snprintf(name, sizeof name, "model.layers.%d.%s", layer, norms[i]);
        MR_TRY(find(&info, t, name, i < 2 ? c->hidden_size : c->head_dim, 0, err));
    }
    for (int p = 0; p < MR_N_PROJ; p++) {
        const mr_tensor_info *info;
        char path[NAME_MAX_LEN - 8], name[NAME_MAX_LEN];
        mr_proj_path(path, sizeof path, layer, p);
        snprintf(name, sizeof name, "%s.weight", path);
        MR_TRY(find(&info, t, name, mr_proj_rows(c, p), mr_proj_cols(c, p), err));
    }
    return MR_OK;
}

void mr_weights_biases(mr_model *m) {
    const mr_config *c = &m->config;
    bool qwen2 = strcmp(c->model_type, "qwen2") == 0;
    for (int l = 0; l < c->num_hidden_layers; l++) {
        bool *has = m->layers[l].has_bias;
        has[MR_GROUP_QKV] = c->attention_bias;
        has[MR_GROUP_O] = c->attention_bias && !qwen2;
        has[MR_GROUP_GATE_UP] = has[MR_GROUP_DOWN] = c->mlp_bias;
    }
}

mr_status mr_weights_survey(mr_model *m, const mr_tensors *t, mr_err *err) {
    const mr_config *c = &m->config;
    if (!t) {
        mr_weights_biases(m);
        return MR_OK;
    }
    for (int i = 0; i < mr_tensors_count(t); i++) {
        const char *name = mr_tensors_at(t, i)->name;
        if (strncmp(name, "model.layers.", strlen("model.layers.")) == 0) MR_TRY(check_layer_tensor(m, t, name, err));
    }
    MR_TRY(check_tables(m, t, err));
    for (int l = 0; l < c->num_hidden_layers; l++) {
        MR_TRY(check_layer(m, t, l, err));
        for (int g = 0; g < MR_N_GROUPS; g++) {
            bool *has = &m->layers[l].has_bias[g];
            /* one part with a bias: the others must have theirs (load_vector says so) */
            for (int p = 0; p < mr_groups[g].n; p++) {
                char path[NAME_MAX_LEN - 8], bias[NAME_MAX_LEN];
                mr_proj_path(path, sizeof path, l, mr_groups[g].first + p);
                snprintf(bias, sizeof bias, "%s.bias", path);
                if (mr_tensors_find(t, bias)) *has = true;
            }
        }
    }
    return MR_OK;
}
