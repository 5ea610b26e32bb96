/* decoder.c - see decoder.h: memory, the forward pass and the head. The backward pass is decoder_bwd.c. */
#include "model/decoder.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/layout.h"

/* --- memory --- */

/* Hands out 64-byte aligned pieces of a block that may not exist yet. */
typedef struct carver {
    char *base;
    size_t at;
} carver;

static void *take(carver *k, size_t bytes) {
    void *p = k->base ? k->base + k->at : NULL;
    k->at += (bytes + 63) / 64 * 64;
    return p;
}

static float *take_f(carver *k, int64_t n) {
    return take(k, (size_t)n * sizeof(float));
}

/* Everything about sizes that laying out needs; from a model, or only from what it would be. */
typedef struct shape {
    const mr_config *c;
    const mr_lora_opts *lora;
    const mr_decoder_opts *o;
    size_t rollout_kv, train_kv; /* bytes of one layer's store */
} shape;

/* Values of 4 bytes for a row: id, position, slot; in a step also u and a span. */
enum { INPUTS = 3, STEP_INPUTS = INPUTS + 1 + sizeof(mr_span) / sizeof(int32_t), STEP_ROWS = 512 };

static int step_rows(const mr_decoder_opts *o) {
    return o->rollout_rows < STEP_ROWS ? o->rollout_rows : STEP_ROWS;
}

static int64_t input_values(const mr_decoder_opts *o) {
    int64_t rows = o->rollout_rows > o->train_rows ? o->rollout_rows : o->train_rows;
    int64_t pack = rows * INPUTS, step = (int64_t)step_rows(o) * STEP_INPUTS;
    return pack > step ? pack : step;
}

static void lay_common(mr_decoder *d, carver *k, const shape *s) {
    int64_t head = s->o->head_rows, c = s->c->hidden_size;
    d->input = take(k, (size_t)input_values(s->o) * sizeof(int32_t));
    d->picked = take(k, 2 * (size_t)step_rows(s->o) * sizeof(int32_t));
    d->targets = take(k, (size_t)head * sizeof(int32_t));
    d->logp = take_f(k, head);
    d->entropy = take_f(k, head);
    d->lse = take_f(k, head);
    d->weight = take_f(k, head);
    d->inv_freq = take_f(k, s->c->head_dim / 2);
    d->hx = take_f(k, head * c);
    d->hn = take_f(k, head * c);
    d->dhx = take_f(k, s->o->train_rows ? head * c : 0);
    d->dhn = take_f(k, s->o->train_rows ? head * c : 0);
    d->logits = take_f(k, head * s->c->vocab_size);
}

static void take_kept(mr_kept *x, carver *k, const shape *s, int64_t n, bool lse) {
    const mr_config *c = s->c;
    x->qkv = take_f(k, n * mr_qkv_width(c));
    x->o = take_f(k, n * c->num_attention_heads * c->head_dim);
    x->lse = lse ? take_f(k, n * c->num_attention_heads) : NULL;
    for (int g = MR_GROUP_QKV; g <= MR_GROUP_O; g++) {
        int r = mr_lora_rank(s->lora, g);
        x->u[g] = r ? take_f(k, n * r) : NULL;
    }
}

static void take_down(mr_kept *x, carver *k, const shape *s, int64_t n) {
    int r = mr_lora_rank(s->lora, MR_GROUP_DOWN);
    x->u[MR_GROUP_DOWN] = r ? take_f(k, n * r) : NULL;
}

static void take_gate_up(mr_kept *x, carver *k, const shape *s, int64_t n) {
    int r = mr_lora_rank(s->lora, MR_GROUP_GATE_UP);
    x->gu = take_f(k, n * 2 * s->c->intermediate_size);
    x->u[MR_GROUP_GATE_UP] = r ? take_f(k, n * r) : NULL;
}

static void lay_rollout(mr_decoder *d, carver *k, const shape *s) {
    const mr_config *c = s->c;
    int64_t n = s->o->rollout_rows;
    mr_kept one = { 0 };
    one.x = one.mid = d->out = take_f(k, n * c->hidden_size);
    take_kept(&one, k, s, n, false);
    take_gate_up(&one, k, s, n);
    take_down(&one, k, s, n);
    for (int i = 0; d->kept && i < c->num_hidden_layers; i++) d->kept[i] = one;
    d->a = d->an = take_f(k, n * c->hidden_size);
    d->act = take_f(k, n * c->intermediate_size);
    d->qk = c->qk_norm ? take_f(k, n * mr_qkv_width(c)) : NULL;
    d->kv = take(k, s->rollout_kv * (size_t)c->num_hidden_layers);
    d->kv_stride = s->rollout_kv;
    d->kv_first = 0;
    d->max_rows = d->mlp_rows = (int)n;
    d->n_slots = s->o->rollout_slots;
}

/* What the MLP needs for its m rows, and what attention needs for all: never both at once, so they share their place. */
static void lay_halves(mr_decoder *d, carver *k, const shape *s, int64_t n, mr_kept *shared) {
    const mr_config *c = s->c;
    int64_t m = d->mlp_rows, width = mr_qkv_width(c), heads = (int64_t)c->num_attention_heads * c->head_dim;
    carver mlp = *k;
    if (s->o->kept_mlp < c->num_hidden_layers) take_gate_up(shared, &mlp, s, m);
    d->an = take_f(&mlp, m * c->hidden_size);
    d->act = take_f(&mlp, m * c->intermediate_size);
    d->dan = take_f(&mlp, m * c->hidden_size);
    d->dact = take_f(&mlp, m * c->intermediate_size);
    d->dgu = take_f(&mlp, m * 2 * c->intermediate_size);
    d->da = d->d_o = take_f(k, n * (heads > c->hidden_size ? heads : c->hidden_size));
    d->dqkv = take_f(k, n * width);
    d->draw = c->qk_norm ? take_f(k, n * width) : NULL;
    d->qk = c->qk_norm ? take_f(k, n * width) : NULL;
    if (mlp.at > k->at) k->at = mlp.at;
}

static void lay_train(mr_decoder *d, carver *k, const shape *s) {
    const mr_config *c = s->c;
    int64_t n = s->o->train_rows;
    int layers = c->num_hidden_layers, kept = s->o->kept_attention, stores = kept < layers ? kept + 1 : layers;
    mr_kept shared = { 0 };
    float *ring[2] = { NULL, NULL };
    d->mlp_rows = s->o->mlp_rows;
    d->a = take_f(k, n * c->hidden_size);
    if (kept < layers) {
        shared.mid = d->a; /* one is no longer needed when the other is written */
        take_kept(&shared, k, s, n, true);
    }
    lay_halves(d, k, s, n, &shared);
    for (int i = 0; s->o->aside_layers && i < 2; i++) ring[i] = take_f(k, n * c->hidden_size);
    for (int i = 0; i < layers; i++) {
        mr_kept one = shared;
        one.x = i < s->o->aside_layers ? ring[i % 2] : take_f(k, n * c->hidden_size);
        take_down(&one, k, s,
                  n); /* with checkpointing too: the second run of a layer stops before the down projection */
        if (mr_keeps_attention(s->o, c, i)) {
            one.mid = take_f(k, n * c->hidden_size);
            take_kept(&one, k, s, n, true);
        }
        if (mr_keeps_mlp(s->o, c, i)) take_gate_up(&one, k, s, n);
        if (d->kept) d->kept[i] = one;
    }
    d->out = take_f(k, n * c->hidden_size);
    d->dx = take_f(k, n * c->hidden_size);
    int r = 0;
    for (int g = 0; g < MR_N_GROUPS; g++) r = mr_lora_rank(s->lora, g) > r ? mr_lora_rank(s->lora, g) : r;
    d->du = r ? take_f(k, n * r) : NULL;
    d->kv = take(k, s->train_kv * (size_t)stores);
    d->kv_stride = s->train_kv;
    d->kv_first = layers - stores;
    d->max_rows = (int)n;
    d->n_slots = s->o->train_slots;
}

/* Lays out one phase and returns the end of what it uses. */
static size_t lay(mr_decoder *d, char *base, const shape *s, mr_phase phase) {
    carver k = { base, 0 };
    lay_common(d, &k, s);
    if (phase == MR_PHASE_ROLLOUT)
        lay_rollout(d, &k, s);
    else if (s->o->train_rows)
        lay_train(d, &k, s);
    return k.at;
}

static size_t whole(mr_decoder *d, const shape *s) {
    size_t rollout = lay(d, NULL, s, MR_PHASE_ROLLOUT), train = lay(d, NULL, s, MR_PHASE_TRAIN);
    return rollout > train ? rollout : train;
}

static mr_decoder_opts with_defaults(const mr_decoder_opts *o, const mr_config *c) {
    mr_decoder_opts x = *o;
    if (x.head_rows <= 0) {
        int64_t fit = ((int64_t)64 << 20) / ((int64_t)sizeof(float) * c->vocab_size);
        x.head_rows = fit < 64 ? 64 : fit > 512 ? 512 : (int)fit;
    }
    if (x.mlp_rows <= 0 || x.mlp_rows > x.train_rows) x.mlp_rows = x.train_rows;
    if (x.aside_layers < 3 || !x.gradient_checkpointing || !x.train_rows) x.aside_layers = 0; /* two are there anyway */
    if (x.aside_layers > c->num_hidden_layers) x.aside_layers = c->num_hidden_layers;
    if (!x.gradient_checkpointing || x.kept_attention > c->num_hidden_layers) x.kept_attention = c->num_hidden_layers;
    if (!x.gradient_checkpointing || x.kept_mlp > c->num_hidden_layers) x.kept_mlp = c->num_hidden_layers;
    x.rollout_slots = mr_kv_round(x.rollout_slots);
    x.train_slots = mr_kv_round(x.train_slots);
    return x;
}

/* One layer's input of a training pack. */
static size_t input_bytes(const mr_config *c, const mr_decoder_opts *o) {
    return (size_t)o->train_rows * (size_t)c->hidden_size * sizeof(float);
}

static shape shape_of(mr_backend *b, const mr_config *c, const mr_model_opts *m, const mr_decoder_opts *o) {
    shape s = { c, &m->lora, o, 0, 0 };
    int64_t rollout = o->rollout_slots, train = o->train_slots;
    if (rollout) s.rollout_kv = (b->kv_bytes(b, rollout, c->num_key_value_heads, c->head_dim) + 63) / 64 * 64;
    if (train) s.train_kv = (b->kv_bytes(b, train, c->num_key_value_heads, c->head_dim) + 63) / 64 * 64;
    return s;
}

/* Scratch of the products of both phases; with take it is made ready. */
static size_t scratch(mr_backend *b, const mr_config *c, const mr_model_opts *m, const mr_decoder_opts *o, bool take) {
    size_t most = 0;
    mr_room room = { .uses = mr_linear_uses(m), .head_dim = c->head_dim, .take = take };
    room.heads = c->num_attention_heads;
    room.kv_heads = c->num_key_value_heads;
    if (mr_keeps_unpacked(b, m)) room.uses |= MR_USE_UNPACKED;
    for (int g = 0; g <= MR_N_GROUPS; g++) {
        mr_weight_info w = { .store = m->store, .compute = m->compute };
        if (g < MR_N_GROUPS) {
            int train = g == MR_GROUP_GATE_UP || g == MR_GROUP_DOWN ? o->mlp_rows : o->train_rows;
            room.rows = o->rollout_rows > train ? o->rollout_rows : train;
            w.n_out = mr_group_rows(c, g);
            w.n_in = mr_proj_cols(c, mr_groups[g].first);
            room.rank = mr_lora_rank(&m->lora, g);
        } else { /* the head */
            w.store = mr_table_store(m);
            w.n_out = c->vocab_size;
            w.n_in = c->hidden_size;
            room.rank = 0;
            room.rows = o->head_rows;
            room.logits = true;
        }
        size_t need = mr_weight_room(b, &w, &room);
        if (need > most) most = need;
    }
    return most;
}

void mr_decoder_plan(mr_decoder_room *room, mr_backend *b, const mr_config *c, const mr_model_opts *m,
                     const mr_decoder_opts *opts) {
    mr_decoder_opts o = with_defaults(opts, c);
    shape s = shape_of(b, c, m, &o);
    mr_decoder d = { 0 };
    carver head = { 0 };
    lay_common(&d, &head, &s);
    int layers = c->num_hidden_layers;
    *room = (mr_decoder_room){ .head = head.at, .head_rows = o.head_rows };
    room->rollout_kv = s.rollout_kv * (size_t)layers;
    room->train_kv = o.train_rows ? s.train_kv * (size_t)(o.kept_attention < layers ? o.kept_attention + 1 : layers) : 0;
    room->rollout = lay(&d, NULL, &s, MR_PHASE_ROLLOUT) - head.at - room->rollout_kv;
    room->train = lay(&d, NULL, &s, MR_PHASE_TRAIN) - head.at - room->train_kv;
    room->scratch = scratch(b, c, m, &o, false);
    room->block = whole(&d, &s);
    room->aside = (size_t)o.aside_layers * input_bytes(c, &o);
}

mr_status mr_decoder_open(mr_decoder **out, mr_model *m, const mr_decoder_opts *opts, mr_err *err) {
    *out = NULL;
    if (opts->rollout_rows < 0 || opts->train_rows < 0 || (!opts->rollout_rows && !opts->train_rows))
        return mr_fail(err, MR_EINVAL, "%s: a decoder of %d rollout rows and %d training rows", m->path,
                       opts->rollout_rows, opts->train_rows);
    if (opts->train_rows && !m->opts.train)
        return mr_fail(err, MR_EINVAL, "%s: the model was not opened for training", m->path);
    mr_decoder *d = mr_alloc(sizeof *d);
    d->m = m;
    d->b = m->b;
    d->opts = with_defaults(opts, &m->config);
    shape s = shape_of(d->b, &m->config, &m->opts, &d->opts);
    d->bytes = whole(d, &s);
    d->kept = mr_alloc((size_t)m->config.num_hidden_layers * sizeof *d->kept);
    d->head_rows = mr_alloc((size_t)d->opts.head_rows * sizeof *d->head_rows);
    d->pick_rows = mr_alloc((size_t)d->opts.head_rows * sizeof *d->pick_rows);
    d->pick_targets = mr_alloc((size_t)d->opts.head_rows * sizeof *d->pick_targets);
    d->pick_weight = mr_alloc((size_t)d->opts.head_rows * sizeof *d->pick_weight);
    d->host_input = mr_alloc((size_t)input_values(&d->opts) * sizeof *d->host_input);
    d->block = d->b->alloc(d->b, d->bytes);
    if (!d->block) {
        mr_status st = mr_fail(err, MR_ENOMEM,
                               "%s: %.1f MB for activations, keys and values do not fit in %s's memory; lower "
                               "num_generations or max_completion_length, or set gradient_checkpointing = true",
                               m->path, (double)d->bytes / 1e6, d->b->name);
        mr_decoder_close(d);
        return st;
    }
    if (d->opts.aside_layers) {
        size_t bytes = (size_t)d->opts.aside_layers * input_bytes(&m->config, &d->opts);
        d->aside = d->b->host_alloc(d->b, bytes);
        if (!d->aside) {
            mr_status st = mr_fail(err, MR_ENOMEM,
                                   "%s: the host has no %.1f MB for the layers' inputs that %s has no room for; lower "
                                   "num_generations or max_completion_length, or allow more device memory (vram)",
                                   m->path, (double)bytes / 1e6, d->b->name);
            mr_decoder_close(d);
            return st;
        }
    }
    scratch(d->b, &m->config, &m->opts, &d->opts, true);
    mr_decoder_phase(d, opts->rollout_rows ? MR_PHASE_ROLLOUT : MR_PHASE_TRAIN);
    d->b->upload(d->b, d->inv_freq, m->config.inv_freq, (size_t)(m->config.head_dim / 2) * sizeof(float));
    mr_status st = d->b->sync(d->b, err);
    if (st != MR_OK) {
        mr_decoder_close(d);
        return st;
    }
    *out = d;
    return MR_OK;
}

void mr_decoder_close(mr_decoder *d) {
    if (!d) return;
    if (d->block) d->b->free(d->b, d->block);
    if (d->aside) d->b->host_free(d->b, d->aside);
    mr_free(d->kept);
    mr_free(d->head_rows);
    mr_free(d->pick_rows);
    mr_free(d->pick_targets);
    mr_free(d->pick_weight);
    mr_free(d->host_input);
    mr_free(d);
}

size_t mr_decoder_bytes(const mr_decoder *d) {
    return d->bytes;
}

mr_model *mr_decoder_model(const mr_decoder *d) {
    return d->m;
}

const mr_decoder_opts *mr_decoder_options(const mr_decoder *d) {
    return &d->opts;
}

void mr_decoder_phase(mr_decoder *d, mr_phase phase) {
    shape s = shape_of(d->b, &d->m->config, &d->m->opts, &d->opts);
    size_t used = lay(d, d->block, &s, phase);
    assert(used <= d->bytes);
    (void)used;
    d->phase = phase;
    d->n_rows = d->n_head = 0;
    d->in_ring[0] = d->in_ring[1] = -1;
}

/* --- layers' inputs on the host --- */

/* Copies run beside the layers. A buffer of the two serves every other layer, so the copy of an input has the time of a
 * whole layer before the buffer is written again. */
static char *aside_of(const mr_decoder *d, int layer) {
    return d->aside + (size_t)layer * input_bytes(&d->m->config, &d->opts);
}

static bool is_aside(const mr_decoder *d, int layer) {
    return d->phase == MR_PHASE_TRAIN && layer < d->opts.aside_layers;
}

static size_t rows_bytes(const mr_decoder *d, int n) {
    return (size_t)n * (size_t)d->m->config.hidden_size * sizeof(float);
}

/* Before a layer's input is written. */
static void make_way(mr_decoder *d, int layer) {
    if (!is_aside(d, layer)) return;
    d->b->moved(d->b, layer % 2);
    d->in_ring[layer % 2] = layer;
}

/* When it is there. */
static void set_aside(mr_decoder *d, int layer, int n) {
    if (is_aside(d, layer)) d->b->send(d->b, aside_of(d, layer), d->kept[layer].x, rows_bytes(d, n), layer % 2);
}

void mr_decoder_fetch(mr_decoder *d, int layer) {
    if (layer < 0 || !is_aside(d, layer) || d->in_ring[layer % 2] == layer) return;
    d->b->fetch(d->b, d->kept[layer].x, aside_of(d, layer), rows_bytes(d, d->n_rows), layer % 2);
    d->in_ring[layer % 2] = layer;
}

void mr_decoder_bring(mr_decoder *d, int layer) {
    if (!is_aside(d, layer)) return;
    mr_decoder_fetch(d, layer);
    d->b->moved(d->b, layer % 2);
}

/* --- the forward pass --- */

/* q and k where they are to be rotated. */
static float *normed(mr_decoder *d, int layer, int n, bool q_only) {
    mr_backend *b = d->b;
    const mr_config *c = &d->m->config;
    const mr_layer *l = &d->m->layers[layer];
    float *qkv = d->kept[layer].qkv;
    if (!c->qk_norm) return qkv;
    b->head_norm(b, d->qk, qkv, mr_qkv_width(c), l->q_norm, l->k_norm, n, c->num_attention_heads, q_only ? 0 : c->num_key_value_heads,
                 c->head_dim, c->rms_norm_eps);
    return d->qk;
}

float *mr_decoder_rotated(mr_decoder *d, int layer, int n, bool q_only) {
    const mr_config *c = &d->m->config;
    int heads = c->num_attention_heads + (q_only ? 0 : c->num_key_value_heads);
    float *q = normed(d, layer, n, q_only);
    d->b->rope(d->b, q, mr_qkv_width(c), d->pos, d->inv_freq, n, heads, c->head_dim, false);
    return q;
}

void mr_decoder_attend(mr_decoder *d, int layer, const mr_pack *p) {
    mr_backend *b = d->b;
    const mr_config *c = &d->m->config;
    const mr_layer *l = &d->m->layers[layer];
    const mr_kept *k = &d->kept[layer];
    int n = p->n_rows, heads = c->num_attention_heads, keys = c->num_key_value_heads, size = c->head_dim;
    int width = mr_qkv_width(c);
    mr_linear qkv = mr_linear_now(d->m, &l->linear[MR_GROUP_QKV]);
    b->rmsnorm(b, d->a, c->hidden_size, k->x, c->hidden_size, l->input_norm, n, c->hidden_size, c->rms_norm_eps);
    b->linear(b, k->qkv, k->u[MR_GROUP_QKV], d->a, &qkv, n, NULL);
    float *q = c->qk_norm ? d->qk : k->qkv, *v = k->qkv + (heads + keys) * size;
    void *kv = mr_layer_kv(d, layer);
    if (!b->rope_put || !b->rope_put(b, kv, d->n_slots, q, k->qkv, v, width, l->q_norm, l->k_norm, c->rms_norm_eps, d->pos,
                                     d->inv_freq, d->slots, n, heads, keys, size)) {
        normed(d, layer, n, false);
        b->rope(b, q, width, d->pos, d->inv_freq, n, heads + keys, size, false);
        b->kv_put(b, kv, d->n_slots, q + heads * size, v, width, d->slots, n, keys, size);
    }
    if (d->step_spans)
        b->attention_step(b, k->o, q, width, kv, d->n_slots, d->step_spans, n, d->step_chunks, heads, keys, size);
    else
        b->attention(b, k->o, k->lse, q, width, kv, d->n_slots, p->spans, p->n_spans, heads, keys, size);
}

void mr_decoder_mid(mr_decoder *d, int layer, int n) {
    mr_backend *b = d->b;
    const mr_kept *k = &d->kept[layer];
    mr_linear o = mr_linear_now(d->m, &d->m->layers[layer].linear[MR_GROUP_O]);
    b->linear(b, k->mid, k->u[MR_GROUP_O], k->o, &o, n, k->x);
}

mr_mlp mr_decoder_mlp(const mr_decoder *d, int layer, int at, int n_rows) {
    const mr_config *c = &d->m->config;
    const mr_kept *k = &d->kept[layer];
    const mr_linear *l = d->m->layers[layer].linear;
    bool all = d->phase == MR_PHASE_ROLLOUT || mr_keeps_mlp(&d->opts, c, layer);
    size_t row = (size_t)at, kept_row = all ? row : 0;
    mr_mlp x = { .at = at, .n = n_rows - at < d->mlp_rows ? n_rows - at : d->mlp_rows };
    x.mid = k->mid + row * (size_t)c->hidden_size;
    x.gu = k->gu + kept_row * 2 * (size_t)c->intermediate_size;
    if (k->u[MR_GROUP_GATE_UP]) x.u_up = k->u[MR_GROUP_GATE_UP] + kept_row * (size_t)l[MR_GROUP_GATE_UP].r_total;
    if (k->u[MR_GROUP_DOWN]) x.u_down = k->u[MR_GROUP_DOWN] + row * (size_t)l[MR_GROUP_DOWN].r_total;
    x.gate_up = mr_linear_now(d->m, &l[MR_GROUP_GATE_UP]);
    x.down = mr_linear_now(d->m, &l[MR_GROUP_DOWN]);
    return x;
}

mr_gated mr_decoder_gated(const mr_decoder *d, const mr_mlp *x) {
    return (mr_gated){ .gate_up = &x->gate_up,
                       .down = &x->down,
                       .gu = x->gu,
                       .act = d->act,
                       .u_up = x->u_up,
                       .u_down = x->u_down,
                       .sampling = d->phase == MR_PHASE_ROLLOUT,
                       .dgu = d->dgu,
                       .dact = d->dact,
                       .du = d->du };
}

/* To the layer's output, which goes to `next`. */
static void feed_forward(mr_decoder *d, int layer, int n, float *next) {
    mr_backend *b = d->b;
    const mr_config *c = &d->m->config;
    int channels = c->hidden_size;
    for (int at = 0; at < n; at += d->mlp_rows) {
        mr_mlp x = mr_decoder_mlp(d, layer, at, n);
        mr_gated m = mr_decoder_gated(d, &x);
        float *y = next + (size_t)at * (size_t)channels;
        b->rmsnorm(b, d->an, channels, x.mid, channels, d->m->layers[layer].post_norm, x.n, channels, c->rms_norm_eps);
        if (b->mlp && b->mlp(b, y, d->an, &m, x.n, x.mid)) continue;
        b->linear(b, x.gu, x.u_up, d->an, &x.gate_up, x.n, NULL);
        b->silu_mul(b, d->act, x.gu, x.n, c->intermediate_size);
        b->linear(b, y, x.u_down, d->act, &x.down, x.n, x.mid);
    }
}

/* Ids, positions and slots of n rows follow each other in the input; returned is what lies behind them on the host. */
static int32_t *lay_input(mr_decoder *d, const mr_pack *p, int n) {
    const int32_t *const from[INPUTS] = { p->ids, p->pos, p->slots };
    for (int i = 0; i < INPUTS; i++)
        for (int row = 0; row < n; row++) d->host_input[i * n + row] = from[i][row < p->n_rows ? row : p->n_rows - 1];
    d->ids = d->input;
    d->pos = d->ids + n;
    d->slots = d->pos + n;
    return d->host_input + (size_t)INPUTS * (size_t)n;
}

/* --- a look at what each part gives --- */

int mr_decoder_n_peaks(const mr_decoder *d) {
    return 2 * d->m->config.num_hidden_layers + 2;
}

static void look_at(mr_decoder *d, int peak, const float *x, int64_t n) {
    mr_peak *k = &d->peaks[peak];
    const int last = mr_decoder_n_peaks(d) - 1;
    if (!k->name[0]) k->finite = true;
    if (peak == 0 || peak == last)
        snprintf(k->name, sizeof k->name, "%s", peak ? "lm_head" : "model.embed_tokens");
    else
        snprintf(k->name, sizeof k->name, "model.layers.%d.%s", (peak - 1) / 2, peak % 2 ? "self_attn" : "mlp");
    float *host = mr_alloc((size_t)n * sizeof *host);
    d->b->download(d->b, host, x, (size_t)n * sizeof *host);
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(host[i]))
            k->finite = false;
        else
            k->max = fmax(k->max, fabs((double)host[i]));
    }
    mr_free(host);
}

static void look_at_rows(mr_decoder *d, int peak, const float *x, int n_rows) {
    if (d->peaks) look_at(d, peak, x, (int64_t)n_rows * d->m->config.hidden_size);
}

static void layers(mr_decoder *d, const mr_pack *p) {
    mr_backend *b = d->b;
    int n = p->n_rows, last = d->m->config.num_hidden_layers - 1;
    if (d->phase == MR_PHASE_TRAIN) b->weight_hold(b, true);
    make_way(d, 0);
    b->embed(b, d->kept[0].x, d->m->embed, d->ids, n);
    look_at_rows(d, 0, d->kept[0].x, n);
    for (int i = 0; i <= last; i++) {
        set_aside(d, i, n);
        mr_decoder_attend(d, i, p);
        mr_decoder_mid(d, i, n);
        look_at_rows(d, 2 * i + 1, d->kept[i].mid, n);
        if (i < last) make_way(d, i + 1);
        feed_forward(d, i, n, i < last ? d->kept[i + 1].x : d->out);
        look_at_rows(d, 2 * i + 2, i < last ? d->kept[i + 1].x : d->out, n);
    }
    if (d->phase == MR_PHASE_TRAIN) b->weight_hold(b, false);
    d->n_rows = n;
    d->n_head = 0;
}

void mr_decoder_forward(mr_decoder *d, const mr_pack *p) {
    int n = p->n_rows;
    assert(n > 0 && n <= d->max_rows);
    lay_input(d, p, n);
    d->b->upload(d->b, d->input, d->host_input, (size_t)n * INPUTS * sizeof(int32_t));
    layers(d, p);
}

/* --- the head --- */

/* The number of rows from rows[0] on that follow each other. */
static int run_length(const int32_t *rows, int n) {
    int len = 1;
    while (len < n && rows[len] == rows[len - 1] + 1) len++;
    return len;
}

void mr_decoder_head(mr_decoder *d, const int32_t *rows, int n) {
    mr_backend *b = d->b;
    const mr_config *c = &d->m->config;
    size_t channels = (size_t)c->hidden_size;
    assert(n > 0 && n <= d->opts.head_rows);
    if (n == d->n_head && memcmp(rows, d->head_rows, (size_t)n * sizeof *rows) == 0) return;
    d->n_head = n;
    d->lse_inv_t = 0;
    memcpy(d->head_rows, rows, (size_t)n * sizeof *rows);
    for (int i = 0, len; i < n; i += len) {
        len = run_length(rows + i, n - i);
        assert(rows[i] >= 0 && rows[i] + len <= d->n_rows);
        b->copy(b, d->hx + (size_t)i * channels, d->out + (size_t)rows[i] * channels,
                (size_t)len * channels * sizeof(float));
    }
    b->rmsnorm(b, d->hn, c->hidden_size, d->hx, c->hidden_size, d->m->final_norm, n, c->hidden_size, c->rms_norm_eps);
    b->linear(b, d->logits, NULL, d->hn, &d->m->head, n, NULL);
}

void mr_decoder_logprobs(mr_decoder *d, float *logp, float *entropy, const int32_t *rows, const int32_t *targets, int n,
                         float inv_t) {
    mr_backend *b = d->b;
    for (int at = 0; at < n; at += d->opts.head_rows) {
        int part = n - at < d->opts.head_rows ? n - at : d->opts.head_rows;
        size_t bytes = (size_t)part * sizeof(float);
        mr_decoder_head(d, rows + at, part);
        b->upload(b, d->targets, targets + at, (size_t)part * sizeof(int32_t));
        b->logprob(b, d->logp, entropy ? d->entropy : NULL, d->lse, d->logits, d->targets, inv_t, part,
                   d->m->config.vocab_size);
        d->lse_inv_t = inv_t;
        b->download(b, logp + at, d->logp, bytes);
        if (entropy) b->download(b, entropy + at, d->entropy, bytes);
    }
}

void mr_decoder_examine(mr_decoder *d, const mr_pack *p, const int32_t *rows, int n, mr_peak *peaks) {
    d->peaks = peaks;
    mr_decoder_forward(d, p);
    for (int at = 0; at < n; at += d->opts.head_rows) {
        int part = n - at < d->opts.head_rows ? n - at : d->opts.head_rows;
        mr_decoder_head(d, rows + at, part);
        look_at(d, mr_decoder_n_peaks(d) - 1, d->logits, (int64_t)part * d->m->config.vocab_size);
    }
    d->peaks = NULL;
}

void mr_decoder_logits(mr_decoder *d, float *logits, const int32_t *rows, int n) {
    size_t vocab = (size_t)d->m->config.vocab_size;
    for (int at = 0; at < n; at += d->opts.head_rows) {
        int part = n - at < d->opts.head_rows ? n - at : d->opts.head_rows;
        mr_decoder_head(d, rows + at, part);
        d->b->download(d->b, logits + (size_t)at * vocab, d->logits, (size_t)part * vocab * sizeof(float));
    }
}

void mr_decoder_sample(mr_decoder *d, int32_t *ids, float *logp, const int32_t *rows, const float *u,
                       const mr_sampling *opt, const int32_t *const *history, const int32_t *n_history, int n) {
    mr_backend *b = d->b;
    for (int at = 0; at < n; at += d->opts.head_rows) {
        int part = n - at < d->opts.head_rows ? n - at : d->opts.head_rows;
        mr_decoder_head(d, rows + at, part);
        b->upload(b, d->weight, u + at, (size_t)part * sizeof(float));
        b->sample(b, d->targets, d->logp, d->logits, d->weight, opt, history ? history + at : NULL,
                  n_history ? n_history + at : NULL, part, d->m->config.vocab_size);
        b->download(b, ids + at, d->targets, (size_t)part * sizeof(int32_t));
        b->download(b, logp + at, d->logp, (size_t)part * sizeof(float));
    }
}

/* --- a step --- */

/* What the operations of a step depend on, but for what lies in the input: the key of their recording. Zero between the
 * fields. */
typedef struct step_key {
    const mr_decoder *d;
    mr_sampling opt;
    int n, chunks;
    bool adapter_on;
} step_key;

typedef struct step_work {
    mr_decoder *d;
    const step_key *key;
} step_work;

static void run_step(void *self) {
    const step_work *w = self;
    mr_decoder *d = w->d;
    mr_backend *b = d->b;
    const mr_config *c = &d->m->config;
    int n = w->key->n, channels = c->hidden_size;
    const float *u = (const float *)(d->slots + n);
    float *logp = (float *)(d->picked + n);
    const mr_pack p = { .n_rows = n };
    d->step_spans = (const mr_span *)(u + n);
    d->step_chunks = w->key->chunks;
    layers(d, &p);
    d->step_spans = NULL;
    for (int at = 0, part; at < n; at += part) {
        part = n - at < d->opts.head_rows ? n - at : d->opts.head_rows;
        const float *rows = d->out + (size_t)at * (size_t)channels;
        b->rmsnorm(b, d->hn, channels, rows, channels, d->m->final_norm, part, channels, c->rms_norm_eps);
        b->linear(b, d->logits, NULL, d->hn, &d->m->head, part, NULL);
        b->sample(b, d->picked + at, logp + at, d->logits, u + at, &w->key->opt, NULL, NULL, part, c->vocab_size);
    }
}

/* Few numbers of rows and lengths, so that few recordings serve all: exact up to 8 rows, then 4 numbers from one power
 * of two to the next; powers of two of chunks. Rows that are added are copies of the last one: they write what it
 * writes. */
static int rows_for(int n) {
    int step = 1;
    while (n > 8 * step) step *= 2;
    return (n + step - 1) / step * step;
}

static int chunks_for(const mr_span *spans, int n) {
    int64_t most = 8, need = 0;
    for (int i = 0; i < n; i++) {
        int64_t chunks = (mr_kv_round(spans[i].n_prefix) + mr_kv_round(spans[i].past + 1)) / MR_KV_CHUNK;
        if (chunks > need) need = chunks;
    }
    while (most < need) most *= 2;
    return (int)most;
}

/* Forward and sample by themselves. */
static void plain_step(mr_decoder *d, int32_t *ids, float *logp, const mr_pack *p, const float *u,
                       const mr_sampling *opt) {
    int n = p->n_rows;
    mr_decoder_forward(d, p);
    for (int at = 0, part; at < n; at += part) {
        part = n - at < d->opts.head_rows ? n - at : d->opts.head_rows;
        for (int i = 0; i < part; i++) d->pick_rows[i] = at + i;
        mr_decoder_sample(d, ids + at, logp + at, d->pick_rows, u + at, opt, NULL, NULL, part);
    }
}

void mr_decoder_step(mr_decoder *d, int32_t *ids, float *logp, const mr_pack *p, const float *u,
                     const mr_sampling *opt) {
    mr_backend *b = d->b;
    const mr_config *c = &d->m->config;
    int n = p->n_rows, shared = c->num_attention_heads / c->num_key_value_heads;
    assert(n > 0 && n <= d->max_rows && p->n_spans == n && d->phase == MR_PHASE_ROLLOUT);
    if (!b->repeat || n > STEP_ROWS || shared > 16 || opt->repetition_penalty != 1) {
        plain_step(d, ids, logp, p, u, opt);
        return;
    }
    step_key key;
    memset(&key, 0, sizeof key);
    key.d = d;
    key.opt = *opt;
    key.n = rows_for(n) < d->max_rows ? rows_for(n) : d->max_rows;
    key.chunks = chunks_for(p->spans, n);
    key.adapter_on = d->m->adapter_on;
    int32_t *more = lay_input(d, p, key.n);
    for (int i = 0; i < key.n; i++) {
        int row = i < n ? i : n - 1;
        mr_span span = p->spans[row];
        assert(span.n_rows == 1 && span.row0 == row);
        span.row0 = i;
        memcpy(more + i, &u[row], sizeof *u);
        memcpy(more + key.n + (size_t)i * (sizeof span / sizeof *more), &span, sizeof span);
    }
    b->upload(b, d->input, d->host_input, (size_t)key.n * STEP_INPUTS * sizeof(int32_t));
    step_work work = { d, &key };
    b->repeat(b, &key, sizeof key, run_step, &work);
    d->n_rows = key.n;
    d->n_head = 0;
    b->download(b, d->host_input, d->picked, 2 * (size_t)key.n * sizeof(int32_t));
    memcpy(ids, d->host_input, (size_t)n * sizeof *ids);
    memcpy(logp, d->host_input + key.n, (size_t)n * sizeof *logp);
}
