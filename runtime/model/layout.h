/* layout.h - what lies where inside a model and a decoder. Private to runtime/model.
 *
 * Linears of a layer come in four groups that share an input: [q | k | v], [o], [gate | up], [down]. Rows of a group
 * are the parts one after another; so a row of the first product is [H*D | K*D | K*D]. */
#ifndef MR_LAYOUT_H
#define MR_LAYOUT_H

#include "model/decoder.h"

enum { MR_GROUP_QKV, MR_GROUP_O, MR_GROUP_GATE_UP, MR_GROUP_DOWN, MR_N_GROUPS };

typedef struct mr_group {
    int first, n; /* projections first .. first + n - 1 */
} mr_group;
extern const mr_group mr_groups[MR_N_GROUPS];

typedef struct mr_layer {
    float *input_norm, *post_norm, *q_norm, *k_norm;     /* device, f32; q_norm and k_norm NULL without qk_norm */
    float *dinput_norm, *dpost_norm, *dq_norm, *dk_norm; /* gradients; NULL: frozen */
    float *bias[MR_N_GROUPS];                            /* as in linear, but not const */
    bool has_bias[MR_N_GROUPS];
    mr_linear linear[MR_N_GROUPS];
} mr_layer;

struct mr_model {
    mr_backend *b;
    mr_config config;
    mr_model_opts opts;
    char *path;
    mr_weight *embed;
    float *dembed;  /* NULL: frozen */
    mr_linear head; /* w is embed when tied */
    float *final_norm, *dfinal_norm;
    mr_layer *layers;
    float *fixed; /* device: norms and biases that are not trained */
    int64_t n_fixed;
    float *values, *grads; /* device: masters and gradients, n_values each */
    int64_t n_values;
    mr_param *params;
    int n_params;
    mr_weight_values *copies; /* weights that follow f32 masters in the params block */
    int n_copies;
    bool adapter_on;
    size_t bytes;
    char *unpacked; /* device: the linears' unpacked copies, one after another; NULL: none */
    size_t unpacked_used;
    float *noise; /* host, while loading with opts.config: MR_NOISE normals, scaled */
    struct mr_threads *readers; /* from mr_weights_load on until the model is open, for a GPU; NULL: the caller alone */
    double reading_s;           /* that the backend waited for rows */
    struct mr_cache *cache;     /* model/cache.h; NULL: none */
};
enum { MR_NOISE = 1048573 }; /* a prime: no width of a matrix divides it, so rows differ */

int64_t mr_proj_rows(const mr_config *c, int proj);
int64_t mr_proj_cols(const mr_config *c, int proj);
int64_t mr_group_rows(const mr_config *c, int group);
/* "model.layers.0.self_attn.q_proj" into name. */
void mr_proj_path(char *name, size_t size, int layer, int proj);
float mr_lora_scale(const mr_lora_opts *o);
int mr_lora_rank(const mr_lora_opts *o, int group); /* r_total of a group */

/* Uses of a group's weight, of embedding and head. */
static inline unsigned mr_linear_uses(const mr_model_opts *o) {
    return MR_USE_FWD | (o->train ? MR_USE_BWD : 0);
}
static inline bool mr_keeps_unpacked(const mr_backend *b, const mr_model_opts *o) {
    return o->dequantize == MR_DEQUANTIZE_YES && o->store == MR_NF4 && o->compute != MR_F32 && b->weight_unpack;
}
static inline mr_dtype mr_table_store(const mr_model_opts *o) {
    if (o->store == MR_F32) return MR_F32;
    return o->store == MR_F16 || o->compute == MR_F16 ? MR_F16 : MR_BF16;
}
static inline mr_dtype mr_copy_store(const mr_model_opts *o) {
    return o->compute;
}
/* Rows behind a group's weight that weight_create and weight_unpack may use. */
static inline int mr_rows_behind(const mr_model_opts *o, int group) {
    int rank = mr_lora_rank(&o->lora, group);
    return rank ? rank + 1 : 0;
}
/* Bytes of a group's weight in the compute type, with these rows. */
size_t mr_unpacked_bytes(mr_backend *b, const mr_config *c, const mr_model_opts *o, int group);
/* b->weight_room, or what it stands for where the backend has none. */
size_t mr_weight_room(mr_backend *b, mr_weight_info *w, mr_room *room);

/* adapter.c: what lies beside the weights of a whole model, from base's own folder or made from its GGUF: config.json for
 * weights of `type` ("bf16", "f16", "f32"), tokenizer, template, generation settings. */
mr_status mr_model_save_neighbors(const char *base, const mr_config *c, const char *dir, const char *type, mr_err *err);

/* weights.c: fills the base weights, norms and biases of a model that is laid out; t is NULL with from_config. */
mr_status mr_weights_load(mr_model *m, const mr_tensors *t, mr_err *err);
/* has_bias as the configuration says it, for a model without a file. */
void mr_weights_biases(mr_model *m);
/* Finds has_bias of every layer; refuses tensors that the architecture does not have. */
mr_status mr_weights_survey(mr_model *m, const mr_tensors *t, mr_err *err);

/* What one layer leaves for its backward pass. While sampling all layers share one set. In training layers whose attention is not kept
 * share all but x and the down projection's u; those whose MLP is not kept share gu and its u, which then hold only the rows of the MLP's
 * present part. */
typedef struct mr_kept {
    float *x;       /* [N,C] input; of the layers that are set aside: one of two buffers in turn */
    float *qkv;     /* [N,QKV] after rope; before q/k norm where there is one */
    float *o, *lse; /* [N,H*D] attention's output, [N,H] */
    float *mid;     /* [N,C] after attention's residual */
    float *gu;      /* [N,2F] */
    float *u[MR_N_GROUPS];
} mr_kept;

/* Some of a pack's rows on their way through a layer's MLP. */
typedef struct mr_mlp {
    int at, n;                 /* rows [at, at + n) */
    float *mid;                /* [n,C], as the others in mr_kept */
    float *gu, *u_up, *u_down; /* u: NULL without LoRA; gu after mlp: what mlp_bwd reads */
    mr_linear gate_up, down;   /* as they are used now */
} mr_mlp;

struct mr_decoder {
    mr_model *m;
    mr_backend *b;
    mr_decoder_opts opts;
    mr_phase phase;
    int max_rows; /* of the present phase */
    int64_t n_slots;
    char *block;
    size_t bytes;

    /* both phases */
    int32_t *input;                       /* device: ids, pos, slots of one pack; of a step also u and spans */
    int32_t *ids, *pos, *slots;           /* in it, as the last forward has laid them */
    int32_t *picked;                      /* device [2 * rollout_rows]: what a step samples, ids and then logp */
    int32_t *targets;                     /* device, head_rows each from here on */
    float *logp, *entropy, *lse, *weight; /* weight: u or dlogp */
    float *hx, *hn, *dhx, *dhn;           /* [head_rows,C] */
    float *logits;                        /* [head_rows,V] */
    float *inv_freq;                      /* device [D/2] */

    /* the present phase */
    mr_kept *kept; /* [L], host */
    char *kv;
    size_t kv_stride;                        /* bytes of a store */
    int kv_first;                            /* the layer of the first store, which those before it share */
    float *out;                              /* [N,C] after the last layer */
    int mlp_rows;                            /* M: rows of the MLP at a time */
    float *a, *qk;                           /* input norm's output [N,C]; normed q and k [N,QKV] */
    float *an, *act;                         /* post norm's output [M,C]; [M,F] */
    float *dx, *da, *d_o, *dqkv, *draw, *du; /* training only: [N, ...]; da and d_o are one */
    float *dan, *dact, *dgu;                 /* [M, ...] */

    char *aside;    /* on the host: inputs of the first aside_layers layers; NULL: none */
    int in_ring[2]; /* whose input the two device buffers of these layers hold; -1: nobody's */

    mr_peak *peaks; /* where a look at each part goes; NULL but while the decoder is examined */

    const mr_span *step_spans; /* device; NULL but while a step's work runs */
    int step_chunks;           /* the most chunks of a span there */

    int32_t *host_input;               /* what goes to input */
    int n_rows;                        /* of the last forward */
    int n_head;                        /* rows whose logits, hx and hn are there; 0: none */
    float lse_inv_t;                   /* of whose logits times this lse is there as well; 0: it is not */
    int32_t *head_rows;                /* which; host */
    int32_t *pick_rows, *pick_targets; /* host, head_rows */
    float *pick_weight;
};

static inline int mr_qkv_width(const mr_config *c) {
    return (c->num_attention_heads + 2 * c->num_key_value_heads) * c->head_dim;
}
static inline void *mr_layer_kv(const mr_decoder *d, int layer) {
    return d->kv + (size_t)(layer > d->kv_first ? layer - d->kv_first : 0) * d->kv_stride;
}
/* Whether a layer's attention, or its MLP, need not run again in the backward pass of o. */
static inline bool mr_keeps_attention(const mr_decoder_opts *o, const mr_config *c, int layer) {
    return layer >= c->num_hidden_layers - o->kept_attention;
}
static inline bool mr_keeps_mlp(const mr_decoder_opts *o, const mr_config *c, int layer) {
    return layer >= c->num_hidden_layers - o->kept_mlp;
}
/* A linear as it is used now: without its adapters when they are switched off. */
static inline mr_linear mr_linear_now(const mr_model *m, const mr_linear *l) {
    mr_linear now = *l;
    if (!m->adapter_on) {
        now.a = NULL;
        now.r_total = now.n_lora = 0;
    }
    return now;
}

/* decoder.c, for the backward pass. */
void mr_decoder_attend(mr_decoder *d, int layer, const mr_pack *p); /* input norm to attention's output */
void mr_decoder_mid(mr_decoder *d, int layer, int n);               /* o_proj and attention's residual */
/* The MLP's rows from `at` on, as many as go at a time. */
mr_mlp mr_decoder_mlp(const mr_decoder *d, int layer, int at, int n_rows);
/* For b->mlp and mlp_bwd; borrows x. */
mr_gated mr_decoder_gated(const mr_decoder *d, const mr_mlp *x);
/* A layer's input that was set aside: starts to bring it back; and makes it ready. */
void mr_decoder_fetch(mr_decoder *d, int layer);
void mr_decoder_bring(mr_decoder *d, int layer);
void mr_decoder_head(mr_decoder *d, const int32_t *rows, int n); /* logits of up to head_rows rows; hx and hn stay */
/* q and k normed and rotated (q only when q_only), at row stride QKV: kept qkv itself, or d->qk with a q/k norm. */
float *mr_decoder_rotated(mr_decoder *d, int layer, int n, bool q_only);

#endif
