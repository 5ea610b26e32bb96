/* kernels.h - the one seam to a device: a table of operations on opaque buffers.
 *
 * It knows tensors, not models: no layer, no adapter file, no reward. mr_backend_open returns one of two tables, kernels/cpu
 * (always built; the specification) or kernels/cuda (a shared module). Both obey the same contracts, and every operation of
 * the second is tested against the first.
 *
 * Letters: N rows (tokens), C channels, I inputs and O outputs of a linear, H query heads, K key/value heads, D head size,
 *          F feed-forward size, V vocabulary, R rank, S spans.
 * Buffers: `float *` and `int32_t *` arguments are device memory from b->alloc (on the CPU: host memory). Activations are
 *          f32. Products round their inputs to the compute type of the weight (bf16, f16 or f32) and sum in f32; what is too
 *          large for f16 becomes infinite.
 * Row rule: what an operation writes for one row depends on that row (for attention: on its own keys), never on
 *          N, on the other rows, on the alignment of a row in the buffer or on the thread count. Each sum has one fixed
 *          order. No float atomics. Backward sums over rows (weight gradients) have an order that the rows' numbers alone decide:
 *          on CUDA in segments that are added in order, on the CPU 0..N-1 for every element, going on from the value that is
 *          there, so that N rows in two calls give the bits of one call.
 * Errors:  operations return void. The backend keeps the first failure with the operation's name; later
 *          operations do nothing; b->sync returns it. Wrong shapes are assert().
 * Memory:  operations allocate nothing that lasts; the scratch that they need is in the backend and is sized at open
 *          and by weight_create. weight_create and alloc are for the time before step 0.
 * Threads: one host thread drives a backend. */
#ifndef MR_KERNELS_H
#define MR_KERNELS_H

#include "base/status.h"

typedef enum mr_dtype { MR_F32, MR_F16, MR_BF16, MR_NF4 } mr_dtype;
const char *mr_dtype_name(mr_dtype t); /* "f32", "f16", "bf16", "nf4" */

typedef enum mr_device_kind { MR_CPU, MR_CUDA } mr_device_kind;

/* A frozen or trainable matrix w[O,I], in the layout in which this device multiplies fastest. Opaque. */
typedef struct mr_weight mr_weight;

/* Where weight_create gets its values from: rows [row, row + n) of the matrix as f32, in host memory. Called with
 * ascending rows, possibly more than once over the whole matrix (NF4 needs the mean of all block maxima first). */
typedef struct mr_weight_source {
    void *self;
    mr_status (*rows)(void *self, float *dst, int64_t row, int64_t n, mr_err *err);
} mr_weight_source;

/* Rows of a matrix that are NF4 already, as bitsandbytes stores them (spec/quantization.md, 5.4); host memory. */
typedef struct mr_nf4_part {
    int64_t n;             /* elements */
    const uint8_t *codes, *absmax; /* [ceil(n/2)], [ceil(n/64)] */
    const void *nested;    /* f32 [ceil(n/64/256)], of any alignment */
    float offset;
} mr_nf4_part;

enum {
    MR_USE_FWD = 1,  /* multiplied as y = x @ w^T */
    MR_USE_BWD = 2,  /* multiplied as dx = dy @ w */
    MR_USE_ROWS = 4, /* rows are looked up (embedding) */
    MR_USE_UNPACKED = 8 /* for weight_room: products find it unpacked (weight_unpack), so they need no scratch for that */
};

typedef struct mr_weight_info {
    mr_dtype store;   /* MR_F32, MR_BF16, MR_F16 or MR_NF4 */
    mr_dtype compute; /* the type that products round to: MR_F32, MR_BF16 or MR_F16 */
    int64_t n_out, n_in;
    int64_t more;     /* rows behind it, as weight_create was asked for them; weight_info: as many as there are */
    size_t bytes;     /* device memory that it takes */
} mr_weight_info;

/* The largest calls to come with a weight. */
typedef struct mr_room {
    unsigned uses;
    int rows;            /* N of products with it, 0: none yet */
    int rank;            /* r_total of adapters on it */
    int heads, kv_heads, head_dim; /* of attention over as many rows */
    bool logits;         /* the products are logits, which sample may pick from */
    bool take;           /* make the scratch ready now, so that it never grows later; a failure is kept as an operation's */
    size_t so_far[12];   /* the backend's own, zero before the first weight: what earlier calls with this room asked for */
} mr_room;

/* One LoRA pair on rows [row0, row0 + rows) of a linear: y[:, row0..] += scale * (x @ A^T) @ B^T. (arXiv:2106.09685, eq. 3)
 * A is rows [r0, r0 + r) of the linear's stacked `a`. */
typedef struct mr_lora_part {
    int row0, rows, r0, r;
    float scale;
    mr_weight *b;  /* [rows, r] */
    float *db;     /* [rows, r] gradient, accumulated; NULL: not wanted */
} mr_lora_part;

/* A linear layer, possibly several stacked that share their input (q, k, v; gate, up), with its adapters. */
typedef struct mr_linear {
    mr_weight *w;      /* [O,I] */
    const float *bias; /* [O] or NULL */
    mr_weight *a;      /* stacked A [r_total, I], NULL without LoRA */
    float *da;         /* [r_total, I] gradient, accumulated; NULL: not wanted */
    int r_total, n_lora;
    mr_lora_part lora[3];
    float *dw;         /* [O,I] full gradient, accumulated (full fine-tuning); NULL: frozen */
    float *dbias;      /* [O], accumulated; NULL: frozen */
} mr_linear;

/* A gated MLP, y = down(silu(g) * up) with [g | up] = gate_up(x), and the buffers of N rows of it. gate_up has 2F outputs, down F inputs. */
typedef struct mr_gated {
    const mr_linear *gate_up, *down;
    float *gu, *act;          /* [N,2F], [N,F]; what they hold is the backend's own */
    float *u_up, *u_down;     /* as linear's u */
    bool sampling;            /* no mlp_bwd follows: nothing need be left for it */
    float *dgu, *dact, *du;   /* [N,2F], [N,F], [N, the larger r_total]: scratch of the backward pass, NULL in the forward pass */
} mr_gated;

/* Keys and values live in slots. A sequence's own keys start at a slot that is a multiple of MR_KV_CHUNK and follow each other; attention
 * for one query is the merge, in this order, of the prefix's chunks of MR_KV_CHUNK keys and of its own chunks. Within a chunk: maximum, exp, sum
 * and weighted values in key order; across chunks: rescaled running sums (arXiv:2205.14135, alg. 1). */
enum { MR_KV_CHUNK = 64 };

/* Consecutive query rows of one sequence. The prompt: n_prefix = 0. A completion: its prefix is the whole prompt.
 * Row row0 + i sees all n_prefix prefix keys and its own keys 0 .. past + i. */
typedef struct mr_span {
    int32_t row0, n_rows;
    int32_t past;         /* own keys before the first of these rows: 0 in training and prefill, the length so far in decoding */
    int32_t slot0;        /* slot of own key 0 */
    int32_t prefix_slot0, n_prefix;
    int32_t prefix_row0;  /* the prefix's first row in q, dk, dv (backward only) */
} mr_span;

/* How to pick a token (spec/grpo.md, 3.2: transformers' order of filters). */
typedef struct mr_sampling {
    float temperature;        /* 0: the largest logit, the lowest id among equals */
    float top_p;              /* 1: off */
    int top_k;                /* 0: off */
    float min_p;              /* 0: off */
    float repetition_penalty; /* 1: off */
    int n_vocab;              /* ids from here on are never picked (rows beyond the tokenizer's) */
} mr_sampling;

/* AdamW (spec/optimizer.md, 6.1 and 6.2). lr, the step and the corrections belong to the call. */
typedef struct mr_adamw {
    float lr, beta1, beta2, eps, weight_decay;
    int64_t step;     /* 1 for the first */
    float grad_scale; /* each gradient is multiplied by it first: clipping and averaging */
    bool decay_last;  /* decay after the update (6.1), not before it (6.2); with 8-bit states always after it */
} mr_adamw;

/* One tensor of an update, in device memory: states in f32 or, as bitsandbytes, in codes with a maximum for each block of 256 (6.1). */
typedef struct mr_adamw_tensor {
    float *p;
    const float *g;
    int64_t n;
    float *m, *v;             /* [n]; not read where there are codes */
    uint8_t *c1, *c2;         /* [n] codes; NULL: f32 states */
    float *absmax1, *absmax2; /* [ceil(n/256)] */
    bool no_decay;            /* as with weight_decay = 0 */
} mr_adamw_tensor;

/* A weight's next values: f32 [O,I] in device memory. */
typedef struct mr_weight_values {
    mr_weight *w;
    const float *values;
} mr_weight_values;

typedef struct mr_backend mr_backend;
struct mr_backend {
    mr_device_kind kind;
    const char *name;      /* "cpu" or "cuda:0" */
    const char *device;    /* for people: "AMD EPYC, avx512_bf16, 2 threads" */
    /* What the bits of results depend on, beside the build: "cpu avx512_bf16"; "NVIDIA H100 80GB HBM3, sm_90, 132 SMs, CUDA 13.0". */
    const char *arithmetic;
    bool has_bf16;         /* products in bf16 are native; otherwise ask for MR_F16 of a GPU, for MR_F32 of a CPU */
    /* True after open. False, set before weights are made: products need not keep the row rule, so that CUDA takes whatever is fastest
     * for each number of rows. One row alone and the same row among others may differ then as two summation orders do; a program that
     * repeats its calls still repeats its bits only where the choices, which are made by the clock, come out the same. The CPU, whose
     * products keep the rule at no cost, and all operations but linear and linear_bwd do not look at it. */
    bool exact;
    /* False after open. True: attention multiplies in f32, for models that compute in f32 (mr_model_plan and mr_model_open set it).
     * False: it may multiply sums of two bf16, which keep 16 bits of each factor, on tensor cores. Stores of keys and values are of the
     * kind that was set when kv_bytes was asked. The CPU always multiplies in f32. */
    bool attention_f32;
    int n_threads;
    /* Device memory that alloc, weights and scratch hold now and have held at most, kept by the backend; and what there
     * was to take at open, which plans do not exceed: 0 when nobody knows or it is the host's memory. */
    size_t bytes, bytes_peak, bytes_total;
    void *state;           /* the backend's own */
    /* The operation that was begun last, and how many were: for a thread that watches (base/watch.h). Relaxed atomics. */
    const char *op;
    unsigned long n_ops;
    void (*close)(mr_backend *b); /* for mr_backend_close */

    /* Device memory, zeroed; NULL when it does not fit. Freed with free. */
    void *(*alloc)(mr_backend *b, size_t bytes);
    void (*free)(mr_backend *b, void *p);
    void (*upload)(mr_backend *b, void *dst, const void *host, size_t bytes);
    void (*download)(mr_backend *b, void *host, const void *src, size_t bytes);
    void (*copy)(mr_backend *b, void *dst, const void *src, size_t bytes);
    void (*zero)(mr_backend *b, void *dst, size_t bytes);
    /* Memory of the host that the device copies fast from and to; not in the account. NULL when it does not fit. */
    void *(*host_alloc)(mr_backend *b, size_t bytes);
    void (*host_free)(mr_backend *b, void *p);
    /* Copies to memory of host_alloc, and back from it, beside the operations that follow: each begins when what was asked
     * before is done. Until `moved` the side that is read may not be written, the other not be touched. `moved` lets the
     * operations that follow wait for the last copy of this lane, 0 or 1. */
    void (*send)(mr_backend *b, void *host, const void *src, size_t bytes, int lane);
    void (*fetch)(mr_backend *b, void *dst, const void *host, size_t bytes, int lane);
    void (*moved)(mr_backend *b, int lane);
    /* Waits for all work and returns the first failure since the last sync, naming the operation. */
    mr_status (*sync)(mr_backend *b, mr_err *err);

    /* --- weights --- */
    /* Packs src into a weight (src.rows NULL, not for NF4: zeros). store NF4: blocks of 64 along the row-major matrix, double quantization with blocks of 256
     * (spec/quantization.md, 5.1 to 5.3); bytes equal to bitsandbytes. more: rows behind it for the backend's own use, r_total of its adapters and
     * one, or 0; a device that gains nothing by them takes none. MR_ENOMEM when it does not fit; the source's own failure otherwise. */
    mr_status (*weight_create)(mr_backend *b, mr_weight **out, mr_weight_source src, int64_t n_out, int64_t n_in, int64_t more,
                               mr_dtype store, mr_dtype compute, unsigned uses, mr_err *err);
    /* The same for parts[n] that are stacked and stored NF4 already: their bytes stay. Elements of all parts but the last are a
     * multiple of 64 * 256, so that each block of block maxima belongs to one part. NULL: not on this device. */
    mr_status (*weight_adopt)(mr_backend *b, mr_weight **out, const mr_nf4_part *parts, int n, int64_t n_out, int64_t n_in,
                              mr_dtype compute, unsigned uses, mr_err *err);
    void (*weight_free)(mr_backend *b, mr_weight *w);
    mr_weight_info (*weight_info)(const mr_weight *w);
    /* For plans and for the time before step 0. What weight_create would take for w (all but bytes is set) goes to
     * w->bytes; returned is the scratch that the operations of `room` need with it. Scratch is shared, so the largest
     * counts; a room that goes from weight to weight may collect. NULL: w lies row by row once, without scratch. */
    size_t (*weight_room)(mr_backend *b, mr_weight_info *w, mr_room *room);
    /* Replaces the values of n weights (none of NF4) from f32 in device memory: after an optimizer step. */
    void (*weight_set)(mr_backend *b, const mr_weight_values *all, int n);
    /* dst[n,I] = rows of the stored matrix as f32 (dequantized, exactly the values that products use). Needs MR_USE_ROWS or NF4 or
     * F32/BF16 with MR_USE_FWD. Row-wise use in tests and merging; not fast. */
    void (*weight_rows)(mr_backend *b, float *dst, const mr_weight *w, int64_t row, int64_t n);
    /* Keeps an NF4 weight in its compute type as well, so that products of many rows need not unpack it each time: the same values, so the
     * same bits. place: device memory of alloc for n_out + more rows, as many bytes as weight_room says of a weight of that size that is stored
     * in the compute type; it stays the caller's, until the weight is freed. more: rows behind it for the backend's own use, r_total of its
     * adapters and one. place NULL: from now on unpacked by each product again. NULL: a device that gains nothing by it. */
    void (*weight_unpack)(mr_backend *b, mr_weight *w, void *place, int64_t more);
    /* on: no weight changes until off, so what products unpack of one may stay for those that follow. */
    void (*weight_hold)(mr_backend *b, bool on);
    /* The NF4 parts in host memory, borrowed until the weight is freed: codes [ceil(O*I/2)], absmax codes [n_blocks], nested absmax
     * [ceil(n_blocks/256)], nested offset (of the first part, when it was adopted). False when w is not NF4. */
    bool (*weight_nf4)(const mr_weight *w, const uint8_t **codes, const uint8_t **absmax, const float **nested, float *offset);
    /* The same copied to arrays of the caller's, keeping nothing; of a weight with one offset. NULL where weight_nf4 costs nothing. */
    bool (*weight_nf4_read)(mr_backend *b, const mr_weight *w, uint8_t *codes, uint8_t *absmax, float *nested, float *offset);

    /* --- forward --- */
    /* x[N,C] = w[ids[n], :]. */
    void (*embed)(mr_backend *b, float *x, const mr_weight *w, const int32_t *ids, int N);
    /* y[n,c] = x[n,c] / sqrt(mean_c(x^2) + eps) * w[c]; rows are ldy and ldx apart. May be in place. Sum over c in f32, in one fixed order. */
    void (*rmsnorm)(mr_backend *b, float *y, int ldy, const float *x, int ldx, const float *w, int N, int C, float eps);
    /* y[N,H+K,D] = each head of x[N,H+K,D] normalized as by rmsnorm, with its bits (Qwen3's q_norm and k_norm: transformers, modeling_qwen3.py): H
     * heads with wq[D], then K with wk[D], neighbors in rows that are ld apart, in y as in x; what lies behind them in a row is left alone. K may be
     * 0, D is 256 at most. May be in place. */
    void (*head_norm)(mr_backend *b, float *y, const float *x, int ld, const float *wq, const float *wk, int N, int H, int K, int D, float eps);
    /* Rotates H heads of D in place, pairs (i, i + D/2): spec/models.md, 1.3. x rows are ldx apart, the heads of a row are
     * neighbors. pos[N]; inv_freq[D/2]; inverse = true rotates back (the backward pass). */
    void (*rope)(mr_backend *b, float *x, int ldx, const int32_t *pos, const float *inv_freq, int N, int H, int D, bool inverse);
    /* y[N,O] = x[N,I] @ w^T + bias + sum of LoRA parts, plus onto[N,O] where it is not NULL (the residual): y, or
     * apart from y. u[N,r_total] = x @ a^T is written for the backward pass (NULL without LoRA). y, x dense: row stride O and I. */
    void (*linear)(mr_backend *b, float *y, float *u, const float *x, const mr_linear *l, int N, const float *onto);
    /* y[N,F] = silu(g) * up, gu[N,2F] = [g | up], silu(z) = z / (1 + exp(-z)). */
    void (*silu_mul)(mr_backend *b, float *y, const float *gu, int N, int F);
    /* y[N,C] = the MLP of x[N,C] plus onto, as linear's, with the bits of linear, silu_mul and linear. u_up, u_down and gu are left for
     * mlp_bwd of the same rows. False where these operations serve as well (products in f32, a trained w): nothing is done then. NULL: so it is
     * always. */
    bool (*mlp)(mr_backend *b, float *y, const float *x, const mr_gated *m, int N, const float *onto);
    /* y[i] += x[i]. */
    void (*add)(mr_backend *b, float *y, const float *x, int64_t n);

    /* --- keys, values, attention --- */
    size_t (*kv_bytes)(mr_backend *b, int64_t n_slots, int K, int D); /* one layer's store; n_slots a multiple of MR_KV_CHUNK */
    /* Puts k[n,:] and v[n,:] (K heads of D; rows ld apart) into slots[n]. */
    void (*kv_put)(mr_backend *b, void *kv, int64_t n_slots, const float *k, const float *v, int ld, const int32_t *slots,
                   int N, int K, int D);
    /* head_norm of the H + K heads of x[N] to y (wq NULL: none, and y is x), rope of y, and kv_put of the last K heads of y with v, with their bits;
     * rows of all are ld apart. False: nothing is done. NULL: so it is always. */
    bool (*rope_put)(mr_backend *b, void *kv, int64_t n_slots, float *y, const float *x, const float *v, int ld, const float *wq, const float *wk,
                     float eps, const int32_t *pos, const float *inv_freq, const int32_t *slots, int N, int H, int K, int D);
    /* o[N,H*D]: o = softmax(q k^T * D^-0.5) v for the keys that the span lets a row see; query head h uses key head h / (H/K).
     * q rows are ldq apart. lse[N,H] = log-sum-exp of the scaled scores (for the backward pass; may be NULL). spans: host memory. */
    void (*attention)(mr_backend *b, float *o, float *lse, const float *q, int ldq, const void *kv, int64_t n_slots,
                      const mr_span *spans, int S, int H, int K, int D);

    /* The same for S sequences that go on by one row each, without lse: span s is row s, its n_rows is 1, and the spans lie in device
     * memory, so that work that repeats reads them anew. No span has more than n_chunks chunks of keys, prefix and own together; at most
     * 16 query heads share a key head. NULL with repeat. */
    void (*attention_step)(mr_backend *b, float *o, const float *q, int ldq, const void *kv, int64_t n_slots, const mr_span *spans,
                           int S, int n_chunks, int H, int K, int D);
    /* Does work(self), which calls operations that read and write device memory, nothing else: no upload, download, sync or alloc, and
     * none with arguments in host memory (attention's spans, a history). Under one key, which is `bytes` of the caller's, 96 at most, it
     * must always be the same operations with the same arguments; what lies in the buffers may differ. So a backend may record
     * the work once and start it again as a whole. A key is good until memory or a weight of the backend is freed; after that it is new.
     * NULL: this backend gains nothing by it. */
    void (*repeat)(mr_backend *b, const void *key, size_t bytes, void (*work)(void *self), void *self);

    /* --- backward (d = gradient of the loss) --- */
    /* dx += d/dx; dw += over rows (NULL: frozen). dx rows are lddx apart, dy rows lddy. dx must not overlap dy. */
    void (*rmsnorm_bwd)(mr_backend *b, float *dx, int lddx, float *dw, const float *dy, int lddy, const float *x, int ldx,
                        const float *w, int N, int C, float eps);
    /* The same for head_norm; dwq and dwk += over their heads' rows, a head after the other (NULL: frozen). */
    void (*head_norm_bwd)(mr_backend *b, float *dx, float *dwq, float *dwk, const float *dy, const float *x, int ld, const float *wq,
                          const float *wk, int N, int H, int K, int D, float eps);
    /* dx[N,I] = dy @ w + LoRA's share (added to dx's old value when add is true; dx NULL skips it). Accumulates da, db, dw, dbias of l
     * where they are not NULL. u is what linear wrote; du[N,r_total] is scratch. */
    void (*linear_bwd)(mr_backend *b, float *dx, float *du, const float *dy, const float *x, const float *u,
                       const mr_linear *l, int N, bool add);
    /* dgu[N,2F] from dy[N,F]; may not be in place with gu. */
    void (*silu_mul_bwd)(mr_backend *b, float *dgu, const float *dy, const float *gu, int N, int F);
    /* dx[N,C] = gradient of the MLP's input, and the linears' gradients, from dy[N,C]: what mlp left is in m, or (again) only u_down, and the
     * rest is computed from x once more. False: nothing is done; the other operations serve then, also after an
     * mlp of few rows, which leaves what they leave. Factors of the linears' gradients are
     * rounded to their compute type where products have rounded them. */
    bool (*mlp_bwd)(mr_backend *b, float *dx, const float *dy, const float *x, const mr_gated *m, int N, bool again);
    /* dq[N,H*D] and dk, dv[N,K*D] are overwritten (row strides lddq, lddkv); the prefix's dk and dv collect the gradients of all its completions in
     * span order. The spans must cover each row once, a prompt before its completions. */
    void (*attention_bwd)(mr_backend *b, float *dq, int lddq, float *dk, float *dv, int lddkv, const float *d_o,
                          const float *o, const float *lse, const float *q, int ldq, const void *kv, int64_t n_slots,
                          const mr_span *spans, int S, int N, int H, int K, int D);
    /* dw[ids[n], :] += dx[n, :], rows in order. */
    void (*embed_bwd)(mr_backend *b, float *dw, const float *dx, const int32_t *ids, int N, int C);

    /* --- the head --- */
    /* From logits z[N,V]: logp[n] = z[y]/t - lse(z/t) with y = targets[n]; entropy[n] of the same distribution (may be NULL); lse[n] of z/t.
     * (spec/grpo.md, 3.4). inv_t = 1/t. */
    void (*logprob)(mr_backend *b, float *logp, float *entropy, float *lse, const float *z, const int32_t *targets,
                    float inv_t, int N, int V);
    /* z is overwritten with d loss / d z = dlogp[n] * (onehot(y) - exp(z/t - lse)) / t. */
    void (*logprob_bwd)(mr_backend *b, float *z, const float *lse, const int32_t *targets, const float *dlogp, float inv_t,
                        int N, int V);
    /* Picks ids[n] by mr_sampling with the uniform number u[n] in [0,1) (inverse of the cumulative distribution in id order), and writes the same
     * logp that `logprob` gives for it at temperature t (1 when t = 0): filters do not change it. history[n], n_history[n]: ids seen so
     * far in host memory, only for the repetition penalty (NULL when it is 1). z is not changed. */
    void (*sample)(mr_backend *b, int32_t *ids, float *logp, const float *z, const float *u, const mr_sampling *opt,
                   const int32_t *const *history, const int32_t *n_history, int N, int V);

    /* --- optimizer --- */
    /* Sum of squares in double, in a fixed order; and whether all n values are finite. Synchronous. */
    double (*sum_squares)(mr_backend *b, const float *x, int64_t n, bool *all_finite);
    /* One update of n tensors, which share no memory; each gets the bits that it would get alone. all and opt are read before it returns. */
    void (*adamw)(mr_backend *b, const mr_adamw_tensor *all, int n, const mr_adamw *opt);
};

/* Opens device `index`; n_threads = 0 means all cores that this process may use. CPU: dispatches to the best instruction set and probes that
 * matrix products keep the row rule. MEDRL_CPU_ISA=avx2|avx512|avx512_bf16|amx lowers it (tests). CUDA: loads libmedrl_cuda.so, which lies
 * beside the program or where MEDRL_CUDA_MODULE says; MEDRL_SM=75 takes libmedrl_cuda_sm75.so in the same folder: a newer GPU
 * behaves as a T4, without bf16 and with a T4's shared memory. MR_EINVAL when this build or machine lacks it; err names the way out. */
mr_status mr_backend_open(mr_backend **out, mr_device_kind kind, int index, int n_threads, mr_err *err);
void mr_backend_close(mr_backend *b);
/* Begins in a thread what takes longest in opening such a device, a tenth of a second or two for CUDA; mr_backend_open waits for it. False: not
 * begun, since there is nothing of the kind, or the module is not there. Nothing is said of what fails; open will. For the thread that opens. */
bool mr_backend_warm(mr_device_kind kind, int index);
/* Waits for that thread, if there is one: before a program ends that has not opened the device. */
void mr_backend_warmed(void);

#endif
