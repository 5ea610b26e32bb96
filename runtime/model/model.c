/* model.c - see model.h. Lays the blocks out in one walk that runs twice: first it counts, then it places. */
#include "model/model.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/proc.h"
#include "base/rng.h"
#include "base/threads.h"
#include "model/cache.h"
#include "model/layout.h"

const char *const mr_proj_names[MR_N_PROJ] = { "q_proj",    "k_proj",  "v_proj",   "o_proj",
                                               "gate_proj", "up_proj", "down_proj" };
const mr_group mr_groups[MR_N_GROUPS] = {
    { MR_Q_PROJ, 3 }, { MR_O_PROJ, 1 }, { MR_GATE_PROJ, 2 }, { MR_DOWN_PROJ, 1 }
};

int64_t mr_proj_rows(const mr_config *c, int proj) {
    switch (proj) {
    case MR_Q_PROJ: return (int64_t)c->num_attention_heads * c->head_dim;
    case MR_K_PROJ:
    case MR_V_PROJ: return (int64_t)c->num_key_value_heads * c->head_dim;
    case MR_GATE_PROJ:
    case MR_UP_PROJ: return c->intermediate_size;
    default: return c->hidden_size;
    }
}

int64_t mr_proj_cols(const mr_config *c, int proj) {
    if (proj == MR_O_PROJ) return (int64_t)c->num_attention_heads * c->head_dim;
    return proj == MR_DOWN_PROJ ? c->intermediate_size : c->hidden_size;
}

int64_t mr_group_rows(const mr_config *c, int group) {
    int64_t rows = 0;
    for (int p = 0; p < mr_groups[group].n; p++) rows += mr_proj_rows(c, mr_groups[group].first + p);
    return rows;
}

void mr_proj_path(char *name, size_t size, int layer, int proj) {
    snprintf(name, size, "model.layers.%d.%s.%s", layer, proj < MR_GATE_PROJ ? "self_attn" : "mlp",
             mr_proj_names[proj]);
}

float mr_lora_scale(const mr_lora_opts *o) {
    return o->use_rslora ? o->lora_alpha / sqrtf((float)o->r) : o->lora_alpha / (float)o->r;
}

int mr_lora_rank(const mr_lora_opts *o, int group) {
    int r = 0;
    for (int p = 0; p < mr_groups[group].n; p++)
        if (o->r > 0 && o->targets[mr_groups[group].first + p]) r += o->r;
    return r;
}

/* --- layout --- */

/* Positions in the blocks. While counting, only this is written. */
typedef struct cursor {
    mr_model *m;
    bool place;
    int64_t fixed, values;
    int n_params, n_copies;
    mr_param *shapes; /* not NULL: names and sizes of params go here, and nothing is placed */
} cursor;

/* Every start is a multiple of 64 bytes; the few values between stay zero, gradients too. */
static int64_t aligned(int64_t n) {
    return (n + 15) / 16 * 16;
}

static void add_param(cursor *k, int64_t at, int64_t rows, int64_t cols, bool decay, const char *name) {
    mr_model *m = k->m;
    if (k->place)
        m->params[k->n_params] =
            (mr_param){ mr_strdup(name), rows, cols, m->values + at, m->opts.train ? m->grads + at : NULL, decay };
    else if (k->shapes)
        k->shapes[k->n_params] = (mr_param){ mr_strdup(name), rows, cols, NULL, NULL, decay };
    k->n_params++;
}

static void add_copy(cursor *k, mr_weight *w, int64_t at) {
    if (k->place) k->m->copies[k->n_copies] = (mr_weight_values){ w, k->m->values + at };
    k->n_copies++;
}

/* A norm weight: trainable in full training, else in the block of fixed vectors. */
static void place_norm(cursor *k, float **value, float **grad, int layer, const char *what, int64_t n) {
    mr_model *m = k->m;
    if (!m->opts.full) {
        if (k->place) *value = m->fixed + k->fixed;
        k->fixed += aligned(n);
        return;
    }
    char name[112];
    if (layer < 0)
        snprintf(name, sizeof name, "%s", what);
    else
        snprintf(name, sizeof name, "model.layers.%d.%s", layer, what);
    if (k->place) {
        *value = m->values + k->values;
        *grad = m->grads + k->values;
    }
    add_param(k, k->values, 1, n, false, name);
    k->values += aligned(n);
}

/* The whole linear as masters, one parameter a part. */
static void place_full_group(cursor *k, int layer, int group) {
    mr_model *m = k->m;
    mr_layer *l = &m->layers[layer];
    mr_linear *lin = &l->linear[group];
    int64_t rows = mr_group_rows(&m->config, group), cols = mr_proj_cols(&m->config, mr_groups[group].first);
    int64_t w = k->values, bias = w + aligned(rows * cols);
    bool has_bias = l->has_bias[group];
    k->values = bias + (has_bias ? aligned(rows) : 0);
    if (k->place) {
        lin->dw = m->grads + w;
        if (has_bias) {
            l->bias[group] = m->values + bias;
            lin->dbias = m->grads + bias;
        }
    }
    int64_t row = 0;
    for (int p = 0; p < mr_groups[group].n; p++) {
        int proj = mr_groups[group].first + p;
        char path[96], name[112];
        mr_proj_path(path, sizeof path, layer, proj);
        int64_t part = mr_proj_rows(&m->config, proj);
        snprintf(name, sizeof name, "%s.weight", path);
        add_param(k, w + row * cols, part, cols, true, name);
        snprintf(name, sizeof name, "%s.bias", path);
        if (has_bias) add_param(k, bias + row, 1, part, false, name);
        row += part;
    }
}

/* A's of a group lie one after another, as the stacked product wants them; then the B's. */
static void place_lora_group(cursor *k, int layer, int group) {
    mr_model *m = k->m;
    mr_linear *lin = &m->layers[layer].linear[group];
    const mr_lora_opts *o = &m->opts.lora;
    int r_total = mr_lora_rank(o, group);
    if (!r_total) return;
    int64_t cols = mr_proj_cols(&m->config, mr_groups[group].first);
    int64_t a = k->values, b = a + aligned(r_total * cols), row = 0;
    if (k->place) {
        lin->r_total = r_total;
        lin->da = m->grads + a;
    }
    int n = 0;
    for (int p = 0; p < mr_groups[group].n; p++) {
        int proj = mr_groups[group].first + p;
        int64_t part = mr_proj_rows(&m->config, proj);
        if (o->targets[proj]) {
            char path[96], name[112];
            mr_proj_path(path, sizeof path, layer, proj);
            if (k->place)
                lin->lora[n] =
                    (mr_lora_part){ (int)row, (int)part, n * o->r, o->r, mr_lora_scale(o), NULL, m->grads + b };
            snprintf(name, sizeof name, "%s.lora_A", path);
            add_param(k, a + (int64_t)n * o->r * cols, o->r, cols, true, name);
            snprintf(name, sizeof name, "%s.lora_B", path);
            add_param(k, b, part, o->r, true, name);
            b += aligned(part * o->r);
            n++;
        }
        row += part;
    }
    if (k->place) lin->n_lora = n;
    k->values = b;
}

static void walk(cursor *k) {
    mr_model *m = k->m;
    const mr_config *c = &m->config;
    int64_t table = (int64_t)c->vocab_size * c->hidden_size;
    if (m->opts.full) {
        if (k->place) m->dembed = m->grads + k->values;
        add_param(k, k->values, c->vocab_size, c->hidden_size, true, "model.embed_tokens.weight");
        k->values += aligned(table);
    }
    for (int i = 0; i < c->num_hidden_layers; i++) {
        mr_layer *l = &m->layers[i];
        place_norm(k, &l->input_norm, &l->dinput_norm, i, "input_layernorm.weight", c->hidden_size);
        if (c->qk_norm) {
            place_norm(k, &l->q_norm, &l->dq_norm, i, "self_attn.q_norm.weight", c->head_dim);
            place_norm(k, &l->k_norm, &l->dk_norm, i, "self_attn.k_norm.weight", c->head_dim);
        }
        for (int g = 0; g < MR_N_GROUPS; g++) {
            if (g == MR_GROUP_GATE_UP)
                place_norm(k, &l->post_norm, &l->dpost_norm, i, "post_attention_layernorm.weight", c->hidden_size);
            if (m->opts.full) {
                place_full_group(k, i, g);
                continue;
            }
            if (l->has_bias[g]) {
                if (k->place) l->bias[g] = m->fixed + k->fixed;
                k->fixed += aligned(mr_group_rows(c, g));
            }
            place_lora_group(k, i, g);
        }
    }
    place_norm(k, &m->final_norm, &m->dfinal_norm, -1, "model.norm.weight", c->hidden_size);
    if (m->opts.full) {
        if (k->place) m->head.dw = c->tie_word_embeddings ? m->dembed : m->grads + k->values;
        if (!c->tie_word_embeddings) {
            add_param(k, k->values, c->vocab_size, c->hidden_size, true, "lm_head.weight");
            k->values += aligned(table);
        }
    }
}

/* --- the plan --- */

size_t mr_weight_room(mr_backend *b, mr_weight_info *w, mr_room *room) {
    if (b->weight_room) return b->weight_room(b, w, room);
    size_t n = (size_t)w->n_out * (size_t)w->n_in, blocks = (n + 63) / 64;
    w->bytes = w->store == MR_NF4   ? n / 2 + blocks + blocks / 256 * sizeof(float)
               : w->store == MR_F32 ? n * sizeof(float)
                                    : n * 2;
    return 0;
}

static size_t planned_weight(mr_backend *b, const mr_model_opts *o, int64_t rows, int64_t cols, int64_t more, mr_dtype store,
                             unsigned uses) {
    mr_weight_info w = { .store = store, .compute = o->compute, .n_out = rows, .n_in = cols, .more = more };
    mr_weight_room(b, &w, &(mr_room){ .uses = uses });
    return w.bytes;
}

size_t mr_unpacked_bytes(mr_backend *b, const mr_config *c, const mr_model_opts *o, int group) {
    return planned_weight(b, o, mr_group_rows(c, group), mr_proj_cols(c, mr_groups[group].first), mr_rows_behind(o, group),
                          o->compute, mr_linear_uses(o));
}

static size_t all_unpacked(mr_backend *b, const mr_config *c, const mr_model_opts *o) {
    size_t layer = 0;
    for (int g = 0; g < MR_N_GROUPS && mr_keeps_unpacked(b, o); g++) layer += mr_unpacked_bytes(b, c, o, g);
    return layer * (size_t)c->num_hidden_layers;
}

static void plan_layer(mr_model_room *room, mr_backend *b, const mr_config *c, const mr_model_opts *o) {
    unsigned uses = mr_linear_uses(o);
    for (int g = 0; g < MR_N_GROUPS; g++) {
        int64_t cols = mr_proj_cols(c, mr_groups[g].first);
        room->linears += planned_weight(b, o, mr_group_rows(c, g), cols, mr_rows_behind(o, g), o->store, uses);
        int rank = mr_lora_rank(&o->lora, g);
        if (rank) room->copies += planned_weight(b, o, rank, cols, 0, mr_copy_store(o), uses);
        for (int p = 0; rank && p < mr_groups[g].n; p++) {
            int proj = mr_groups[g].first + p;
            if (o->lora.targets[proj])
                room->copies += planned_weight(b, o, mr_proj_rows(c, proj), o->lora.r, 0, mr_copy_store(o), uses);
        }
    }
}

void mr_model_plan(mr_model_room *room, mr_backend *b, const mr_config *c, const mr_model_opts *opts) {
    *room = (mr_model_room){ 0 };
    b->attention_f32 = opts->compute == MR_F32;
    mr_model m = { .b = b, .config = *c, .opts = *opts };
    m.layers = mr_alloc((size_t)c->num_hidden_layers * sizeof *m.layers);
    mr_weights_biases(&m);
    cursor count = { .m = &m };
    walk(&count);
    room->params = mr_alloc((size_t)(count.n_params + 1) * sizeof *room->params);
    cursor list = { .m = &m, .shapes = room->params };
    walk(&list);
    room->n_params = list.n_params;
    room->vectors = (size_t)count.fixed * sizeof(float);
    room->values = (size_t)count.values * sizeof(float);
    room->grads = opts->train ? room->values : 0;
    for (int i = 0; i < c->num_hidden_layers; i++) plan_layer(room, b, c, opts);
    room->unpacked = all_unpacked(b, c, opts);
    unsigned uses = mr_linear_uses(opts);
    bool tied = c->tie_word_embeddings;
    mr_dtype store = mr_table_store(opts);
    room->tables = planned_weight(b, opts, c->vocab_size, c->hidden_size, 0, store, MR_USE_ROWS | (tied ? uses : 0));
    if (!tied) room->tables += planned_weight(b, opts, c->vocab_size, c->hidden_size, 0, store, uses);
    mr_free(m.layers);
}

void mr_model_room_clear(mr_model_room *room) {
    for (int i = 0; i < room->n_params; i++) mr_free((void *)room->params[i].name);
    mr_free(room->params);
    *room = (mr_model_room){ 0 };
}

size_t mr_model_room_bytes(const mr_model_room *r) {
    return r->linears + r->unpacked + r->tables + r->vectors + r->copies + r->values + r->grads;
}

/* Which weight follows which masters; after the weights exist. */
static void walk_copies(cursor *k) {
    mr_model *m = k->m;
    if (m->opts.full) {
        add_copy(k, m->embed, m->dembed - m->grads);
        if (!m->config.tie_word_embeddings) add_copy(k, m->head.w, m->head.dw - m->grads);
    }
    for (int i = 0; i < m->config.num_hidden_layers; i++)
        for (int g = 0; g < MR_N_GROUPS; g++) {
            mr_linear *lin = &m->layers[i].linear[g];
            if (m->opts.full) add_copy(k, lin->w, lin->dw - m->grads);
            if (lin->n_lora) add_copy(k, lin->a, lin->da - m->grads);
            for (int p = 0; p < lin->n_lora; p++) add_copy(k, lin->lora[p].b, lin->lora[p].db - m->grads);
        }
}

static mr_status device_block(mr_model *m, float **out, int64_t n, const char *what, mr_err *err) {
    *out = m->b->alloc(m->b, (size_t)(n ? n : 1) * sizeof(float));
    if (!*out)
        return mr_fail(err, MR_ENOMEM, "%s: %.1f MB for %s do not fit in %s's memory", m->path,
                       (double)n * sizeof(float) / 1e6, what, m->b->name);
    m->bytes += (size_t)n * sizeof(float);
    return MR_OK;
}

static mr_status lay_out(mr_model *m, mr_err *err) {
    cursor count = { .m = m };
    walk(&count);
    m->n_fixed = count.fixed;
    m->n_values = count.values;
    MR_TRY(device_block(m, &m->fixed, m->n_fixed, "norms and biases", err));
    MR_TRY(device_block(m, &m->values, m->n_values, "trained values", err));
    if (m->opts.train)
        MR_TRY(device_block(m, &m->grads, m->n_values, "gradients", err));
    else
        m->grads = m->values; /* only for offsets: nothing writes gradients, and no caller is shown them */
    size_t unpacked = all_unpacked(m->b, &m->config, &m->opts);
    if (unpacked && !(m->unpacked = m->b->alloc(m->b, unpacked)))
        return mr_fail(err, MR_ENOMEM,
                       "%s: %.1f MB for the linears in %s beside their 4 bits do not fit in %s's memory; set dequantize = false", m->path,
                       (double)unpacked / 1e6, mr_dtype_name(m->opts.compute), m->b->name);
    m->bytes += unpacked;
    m->params = mr_alloc((size_t)(count.n_params + 1) * sizeof *m->params);
    cursor place = { .m = m, .place = true };
    walk(&place);
    m->n_params = place.n_params;
    assert(place.values == m->n_values && place.fixed == m->n_fixed && place.n_params == count.n_params);
    for (int i = 0; i < m->config.num_hidden_layers; i++)
        for (int g = 0; g < MR_N_GROUPS; g++) m->layers[i].linear[g].bias = m->layers[i].bias[g];
    return MR_OK;
}

/* --- adapters --- */

typedef struct draw {
    float *dst;
    uint64_t seed, stream;
    float bound;
} draw;

static void draw_values(void *ctx, int thread, int64_t from, int64_t to) {
    const draw *d = ctx;
    (void)thread;
    mr_uniforms_at(d->dst + from, to - from, d->seed, d->stream, (uint64_t)from);
    for (int64_t i = from; i < to; i++) d->dst[i] = (2.0f * d->dst[i] - 1.0f) * d->bound;
}

/* PEFT's kaiming_uniform(a = sqrt 5) of A is U(-1/sqrt(in), 1/sqrt(in)); B is zero (spec/quantization.md 5.6). */
static void init_lora(mr_model *m, float *host) {
    for (int i = 0; i < m->n_params; i++) {
        const mr_param *p = &m->params[i];
        size_t len = strlen(p->name);
        if (p->name[len - 1] != 'A') continue;
        draw d = { host, m->opts.lora.seed, mr_hash64(p->name, len), 1.0f / sqrtf((float)p->cols) };
        int64_t n = p->rows * p->cols;
        const mr_work work = { draw_values, &d, n, 1 << 14 };
        if (m->readers)
            mr_parallel(m->readers, MR_THREADS_MAX, &work, 1);
        else
            draw_values(&d, 0, 0, n);
        m->b->upload(m->b, p->value, host, (size_t)n * sizeof(float));
    }
}

static mr_status create_compute_copy(mr_model *m, mr_weight **out, int64_t rows, int64_t cols, mr_err *err) {
    const mr_weight_source zeros = { NULL, NULL }; /* until they are renewed from the masters */
    mr_status st = m->b->weight_create(m->b, out, zeros, rows, cols, 0, mr_copy_store(&m->opts), m->opts.compute,
                                       mr_linear_uses(&m->opts), err);
    if (st != MR_OK) return mr_wrap(err, st, "%s: the adapter", m->path);
    m->bytes += m->b->weight_info(*out).bytes;
    return MR_OK;
}

static mr_status create_lora(mr_model *m, mr_err *err) {
    int64_t most = 0;
    for (int i = 0; i < m->config.num_hidden_layers; i++)
        for (int g = 0; g < MR_N_GROUPS; g++) {
            mr_linear *lin = &m->layers[i].linear[g];
            if (!lin->n_lora) continue;
            int64_t cols = mr_proj_cols(&m->config, mr_groups[g].first);
            MR_TRY(create_compute_copy(m, &lin->a, lin->r_total, cols, err));
            for (int p = 0; p < lin->n_lora; p++)
                MR_TRY(create_compute_copy(m, &lin->lora[p].b, lin->lora[p].rows, lin->lora[p].r, err));
        }
    for (int i = 0; i < m->n_params; i++)
        if (m->params[i].rows * m->params[i].cols > most) most = m->params[i].rows * m->params[i].cols;
    if (!most) return MR_OK;
    float *host = mr_try_alloc((size_t)most * sizeof(float));
    if (!host) return mr_fail(err, MR_ENOMEM, "%s: no memory to start the adapter", m->path);
    init_lora(m, host);
    mr_free(host);
    return MR_OK;
}

/* --- open and close --- */

static mr_status check_options(const mr_model_opts *o, const char *path, mr_err *err) {
    bool targets = false;
    for (int p = 0; p < MR_N_PROJ; p++) targets |= o->lora.targets[p];
    if (o->config && !o->from_config)
        return mr_fail(err, MR_EINVAL, "%s: a shape without files needs from_config", path);
    if (o->compute == MR_NF4)
        return mr_fail(err, MR_EINVAL, "%s: products cannot be computed in %s, want f32, bf16 or f16", path,
                       mr_dtype_name(o->compute));
    if (o->full && o->store == MR_NF4)
        return mr_fail(err, MR_EINVAL,
                       "%s: 4-bit weights cannot be trained in full; set load_in_4bit = false or use lora", path);
    if (o->full && o->lora.r > 0)
        return mr_fail(err, MR_EINVAL, "%s: full training and lora.r = %d together; choose one", path, o->lora.r);
    if (o->full && !o->train)
        return mr_fail(err, MR_EINVAL, "%s: full training needs a model that is opened for training", path);
    if (o->lora.r < 0 || o->lora.r > 4096)
        return mr_fail(err, MR_EINVAL, "%s: lora.r is %d, want 1 to 4096", path, o->lora.r);
    if (o->lora.r > 0 && !targets)
        return mr_fail(err, MR_EINVAL, "%s: lora.r is %d, but lora.target_modules is empty", path, o->lora.r);
    return MR_OK;
}

static mr_status fill(mr_model *m, mr_tensors *t, mr_err *err) {
    if (m->opts.config)
        m->config = *m->opts.config;
    else
        MR_TRY(mr_config_load(&m->config, m->path, t, err));
    m->layers = mr_alloc((size_t)m->config.num_hidden_layers * sizeof *m->layers);
    MR_TRY(mr_weights_survey(m, t, err));
    MR_TRY(lay_out(m, err));
    MR_TRY(mr_weights_load(m, t, err));
    const double made = mr_now_s();
    MR_TRY(create_lora(m, err));
    mr_threads_close(m->readers);
    m->readers = NULL;
    cursor count = { .m = m };
    walk_copies(&count);
    m->copies = mr_alloc((size_t)(count.n_copies + 1) * sizeof *m->copies);
    cursor place = { .m = m, .place = true };
    walk_copies(&place);
    m->n_copies = place.n_copies;
    mr_model_refresh(m);
    mr_status st = m->b->sync(m->b, err);
    mr_debug("adapter: %.2f s", mr_now_s() - made);
    return st;
}

mr_status mr_model_open(mr_model **out, mr_backend *b, const char *path, const mr_model_opts *opts, mr_err *err) {
    *out = NULL;
    MR_TRY(check_options(opts, path, err));
    mr_tensors *t = NULL;
    if (!opts->from_config) MR_TRY(mr_tensors_open(&t, path, err));
    mr_model *m = mr_alloc(sizeof *m);
    m->b = b;
    b->attention_f32 = opts->compute == MR_F32;
    m->opts = *opts;
    if (!mr_keeps_unpacked(b, opts)) m->opts.dequantize = MR_DEQUANTIZE_NO;
    m->path = mr_strdup(path);
    m->adapter_on = true;
    mr_status st = fill(m, t, err);
    mr_tensors_close(t);
    m->opts.config = NULL; /* these were borrowed */
    m->opts.cache = NULL;
    if (st != MR_OK) {
        mr_model_close(m);
        return st;
    }
    *out = m;
    return MR_OK;
}

void mr_model_close(mr_model *m) {
    if (!m) return;
    mr_backend *b = m->b;
    mr_threads_close(m->readers);
    mr_cache_close(m->cache); /* it may read weights yet */
    for (int i = 0; m->layers && i < m->config.num_hidden_layers; i++)
        for (int g = 0; g < MR_N_GROUPS; g++) {
            mr_linear *lin = &m->layers[i].linear[g];
            if (lin->w) b->weight_free(b, lin->w);
            if (lin->a) b->weight_free(b, lin->a);
            for (int p = 0; p < lin->n_lora; p++)
                if (lin->lora[p].b) b->weight_free(b, lin->lora[p].b);
        }
    if (m->head.w && m->head.w != m->embed) b->weight_free(b, m->head.w);
    if (m->embed) b->weight_free(b, m->embed);
    if (m->unpacked) b->free(b, m->unpacked);
    if (m->fixed) b->free(b, m->fixed);
    if (m->grads && m->grads != m->values) b->free(b, m->grads);
    if (m->values) b->free(b, m->values);
    for (int i = 0; i < m->n_params; i++) mr_free((void *)m->params[i].name);
    mr_free(m->params);
    mr_free(m->copies);
    mr_free(m->layers);
    mr_free(m->path);
    mr_free(m);
}

const mr_config *mr_model_config(const mr_model *m) {
    return &m->config;
}

const mr_model_opts *mr_model_options(const mr_model *m) {
    return &m->opts;
}

mr_backend *mr_model_backend(const mr_model *m) {
    return m->b;
}

const char *mr_model_path(const mr_model *m) {
    return m->path;
}

mr_param *mr_model_params(mr_model *m, int *n) {
    *n = m->n_params;
    return m->params;
}

const float *mr_model_values(const mr_model *m, int64_t *n) {
    *n = m->n_values;
    return m->values;
}

float *mr_model_grads(mr_model *m, int64_t *n) {
    *n = m->opts.train ? m->n_values : 0;
    return m->opts.train ? m->grads : NULL;
}

void mr_model_zero_grads(mr_model *m) {
    if (m->n_values && m->opts.train) m->b->zero(m->b, m->grads, (size_t)m->n_values * sizeof(float));
}

void mr_model_refresh(mr_model *m) {
    m->b->weight_set(m->b, m->copies, m->n_copies);
}

void mr_model_adapter(mr_model *m, bool on) {
    m->adapter_on = on;
}

size_t mr_model_bytes(const mr_model *m) {
    return m->bytes;
}
