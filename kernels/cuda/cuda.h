/* cuda.h - what the files of the CUDA backend share. Nothing above kernels/cuda includes it.
 *
 * State:   one cu_state behind mr_backend.state: the device, one stream, tables, scratch, the first failure.
 * Order:   everything runs on one stream, so operations see what those before them wrote. upload and download wait for
 *          their own bytes only where the host's memory asks for it.
 * Failure: an operation starts with `if (cu_failed(b)) return;`. A launch that is refused, or (with MEDRL_CUDA_SYNC=1) a
 *          kernel that faults, is kept with the operation's name; without it a fault shows at sync.
 * Graphs:  work that repeats (kernels.h, repeat) is recorded when its key comes for the second time and launched as one graph from then
 *          on: graph.c. MEDRL_CUDA_GRAPHS=0, MEDRL_CUDA_SYNC=1: every operation is launched by itself, with the same bits.
 * Rounding: compiled without contraction (-fmad=false): a fused multiply-add stands only where fmaf says so. Two kernels that must
 *          give the same bits therefore do when they call the same functions. */
#ifndef MR_CUDA_H
#define MR_CUDA_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" { /* kernels.h is C */
#endif

/* libmedrl_cuda_sm75.so: all files compiled for compute_75, so that no instruction of a newer GPU is in them, and with this
 * set, so that the host's side chooses as on a T4: no bf16, its shared memory. A module of its own, since of one with
 * several architectures a GPU takes the code that is nearest to it. cuBLASLt is left out there: what it would do on a newer
 * GPU is not what it does on a T4; so the module shows what our kernels do alone. */
#ifndef CU_FORCED_SM
#define CU_FORCED_SM 0
#endif
enum { CU_SM75_SHARED = 64 << 10 };

#include "kernels.h"
#include "maps.h"

/* Products of 16-bit types sum over K in segments: each is a chain of its own, and their sums are added in order. */
enum { CU_K_SEGMENT = 4096, CU_MAX_D = 256, CU_SLAB = 32 << 20 /* values of a product's rows that are converted at a time */ };

enum { CU_N_SMALL = 5, CU_MAX_CHOICES = 256 };
enum { CU_SLOT_X, CU_SLOT_U, CU_SLOT_W, CU_SLOT_W2, CU_SLOT_ATT, CU_SLOT_ROWS, CU_SLOT_HEAD, CU_SLOT_PACKED, CU_SLOT_SMALL,
       CU_N_SLOTS = CU_SLOT_SMALL + CU_N_SMALL };
/* What weight_room collects in mr_room.so_far: by slot, those from CU_SLOT_SMALL on as one; cuBLASLt's; and what
 * attention's backward pass wants of CU_SLOT_W, which it shares with the largest unpacked weight. */
enum { CU_ROOM_LT = CU_SLOT_SMALL + 1, CU_ROOM_ROWS, CU_N_ROOMS };
/* Of attention's scratch: spans are cut so that their parts need no more, but for one prompt that alone does. Products of many rows
 * use it too, between two attentions: dense.cu and lt.c, never more than this. */
enum { CU_ATT_BYTES = 64 << 20 };

/* Offsets into cu_state.tables, in floats: maps.h. */
enum { CU_NF4 = 0, CU_MAP = 16, CU_LIMIT = CU_MAP + 256, CU_UMAP = CU_LIMIT + 256, CU_ULIMIT = CU_UMAP + 256,
       CU_START = CU_ULIMIT + 256, CU_USTART = CU_START + (2 * MR_MAP_PIECES(MR_MAP_FINE_SIGNED) + 3) / 4, /* bytes */
       CU_N_TABLES = CU_USTART + (MR_MAP_PIECES(MR_MAP_FINE) + 3) / 4 };

typedef enum cu_answer { CU_UNKNOWN, CU_NO, CU_YES } cu_answer;

/* How 16-bit rows lie: as mma's operands (few_nf4.cu, few_half.cu), as wgmma's (few_wide.cu, half_wide.cu), one after another (joined.cu). */
typedef enum cu_layout { CU_PACKED, CU_CORES, CU_PLAIN } cu_layout;

/* Rows of a gradient that a product has converted, and the room that it wants behind each: half.cuh. */
enum { CU_MOST_WISHES = 4 };
typedef struct cu_wish {
    const float *rows;
    int n_rows;
    int64_t k, more;
    mr_dtype type;
} cu_wish;

typedef struct cu_state {
    mr_backend b;        /* first member: the table that callers see */
    int index, sm, n_sm; /* sm: 75, 80, 86, 89, 90 ... */
    int max_shared;      /* bytes of shared memory that a block may ask for */
    cudaStream_t stream;
    char name[16], device[192], arithmetic[192];
    bool sync_each;      /* MEDRL_CUDA_SYNC */
    bool failed;
    mr_status status;
    char message[512];
    float *tables;
    int *ready;          /* [2 + CU_MOST_TILES], zero between launches: few.cu, few_nf4.cu, gradients.cu */
    /* Rows that the last launch wrote, in 16 bits as well: half.cuh. at NULL: it did not. type and layout: what products have wanted; MR_F32:
     * none has. asked: one has looked since the last such rows; a backward pass makes rows that no product reads. ld: of a gradient's rows, which
     * have room behind them; 0: not a gradient's. */
    struct { const uint16_t *at; const float *rows; int n_rows; int64_t k; unsigned long n_ops; mr_dtype type; cu_layout layout; bool second, asked;
             int64_t ld; } packed;
    cu_wish wishes[CU_MOST_WISHES];
    int n_wishes; /* ever */
    cu_answer wide; /* cu_wide_rows: whether this GPU and module have wgmma */
    cudaStream_t beside; /* send and fetch run here; NULL before the first host_alloc */
    cudaEvent_t asked, moved[2];
    struct { void *p; size_t bytes; } scratch[CU_N_SLOTS];
    bool hold;           /* weight_hold */
    const mr_weight *unpacked[2]; /* while it is on: what lies in CU_SLOT_W and CU_SLOT_W2 */
    bool sized;          /* weight_room made the scratch ready: no operation should ask for more */
    bool strict;         /* MEDRL_CUDA_STRICT: it is a failure when one does */
    struct cu_piece { void *p; size_t bytes; } *pieces; /* of alloc */
    int n_pieces, max_pieces;
    struct cu_block { char *p; size_t bytes, used; int n_parts; } *blocks; /* of cu_take_part */
    int n_blocks;
    struct cu_staging *staging; /* weights.cu: while weights are made */
    struct cu_lt *lt;    /* cuBLASLt, opened by the first large product; NULL before */
    bool no_lt;          /* it was tried and is not there */
    struct { void *host; size_t bytes; } small[CU_N_SMALL]; /* what lies in the slots from CU_SLOT_SMALL on */
    struct cu_choice { int64_t n_out, n_in; mr_dtype store; int rows, rank; bool few; } choices[CU_MAX_CHOICES]; /* choose.c */
    int n_choices;
    enum { CU_ASK, CU_FEW, CU_DENSE } forced; /* while choose.c tries both */
    struct cu_graphs *graphs; /* graph.c; NULL: nothing is recorded */
    bool recording;
    void *pinned;        /* [CU_PINNED_BYTES] of host memory, through which small downloads go */
} cu_state;

enum { CU_PINNED_BYTES = 64 << 10, CU_MOST_TILES = 8 << 10, CU_MOST_STEP_ROWS = 512 };

static inline cu_state *cu_of(const mr_backend *b) { return (cu_state *)b->state; }
static inline bool cu_failed(const mr_backend *b) { return cu_of(b)->failed; }

/* Keeps the first failure of an operation. */
void cu_fail(mr_backend *b, mr_status st, const char *op, const char *fmt, ...) MR_PRINTF(4, 5);
/* After a launch or a call of the runtime: keeps what went wrong. False then. */
bool cu_check(mr_backend *b, const char *op, cudaError_t e);
void cu_launched(mr_backend *b, const char *op);

/* Device memory in the account (kernels.h, bytes), which counts what the driver takes: multiples of 2 MiB, of 512 bytes below
 * 1 MiB. False, and *p NULL, when it does not fit. bytes of give: as they were taken. */
bool cu_take(mr_backend *b, void **p, size_t bytes);
void cu_give(mr_backend *b, void *p, size_t bytes);
size_t cu_taken_bytes(size_t bytes);
/* The same for a part of a block that others share: a model's hundreds of weights would lose a MiB each. A block goes back with the
 * last of its parts; cu_part_bytes is what a part takes of it. */
bool cu_take_part(mr_backend *b, void **p, size_t bytes);
void cu_give_part(mr_backend *b, void *p);
static inline size_t cu_part_bytes(size_t bytes) { return bytes ? (bytes + 511) / 512 * 512 : 512; }

/* At least `bytes` of device memory, not zeroed, valid until the slot is asked for again with more. Sized by open and by
 * weight_room, so that a step asks for nothing; else it grows and stays. With MEDRL_CUDA_STRICT=1, and always under the emulator, an
 * operation that lets it grow after weight_room has failed. NULL after keeping the failure. */
void *cu_scratch(mr_backend *b, const char *op, int slot, size_t bytes);
/* The same ahead of time, and exactly as much. */
bool cu_reserve(mr_backend *b, const char *op, int slot, size_t bytes);
/* What open reserves of a slot. */
size_t cu_first_scratch(int slot);
static inline void cu_at_least(size_t *x, size_t bytes) {
    if (*x < bytes) *x = bytes;
}
/* Small host data to device memory; skipped when it is what the last call with this `which` (0 .. CU_N_SMALL - 1) left there: the spans of a
 * pack are the same in every layer. Valid until the next call with it. NULL after a failure. */
const void *cu_small(mr_backend *b, const char *op, int which, const void *host, size_t bytes);

/* --- graph.c --- */
void cu_graphs_open(mr_backend *b);
void cu_graphs_close(mr_backend *b);
/* Recordings know addresses: before memory is given back. */
void cu_graphs_forget(mr_backend *b);
void cu_repeat(mr_backend *b, const void *key, size_t bytes, void (*work)(void *self), void *self);
/* False, and a failure, while work is recorded: `op` needs the host. */
bool cu_may_wait(mr_backend *b, const char *op);

static inline int64_t cu_round(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* What of n rows of ld values is converted at a time, CU_SLAB values at most: as many rows as a segment of K of them allows, and whole
 * segments; a product that is cut between segments costs nothing. */
static inline int64_t cu_slab_rows(int64_t n) { return n < CU_SLAB / CU_K_SEGMENT ? n : CU_SLAB / CU_K_SEGMENT; }
static inline int64_t cu_slab_columns(int64_t ld, int64_t rows) {
    int64_t columns = CU_SLAB / rows / CU_K_SEGMENT * CU_K_SEGMENT;
    return ld < columns ? ld : columns;
}

/* --- weights --- */
typedef struct cu_nf4 {
    uint8_t *codes;  /* device; tiled: see weights.cu */
    uint8_t *absmax; /* [n_blocks] */
    float *nested;   /* [ceil(n_blocks/256)] */
    float offset;
    float *offsets;  /* one for each of nested, of a stack whose parts have their own; NULL: offset for all */
    int64_t n, n_blocks;
    bool tiled;
    uint8_t *host_codes, *host_absmax; /* copies for weight_nf4, made when asked for */
    float *host_nested;
} cu_nf4;

struct mr_weight {
    mr_backend *b;
    mr_dtype store, compute;
    int64_t n_out, n_in, ld; /* ld: row stride of data in elements, a multiple of 8 for 16-bit types */
    unsigned uses;
    size_t bytes;
    void *data;              /* [n_out][ld], zero behind n_in; NULL for NF4 */
    cu_nf4 nf4;
    uint16_t *half;          /* [n_out + half_more][ld] in the compute type: data, where it has room behind it, or weight_unpack's, the
                              * caller's. NULL: none */
    int64_t half_more;
    mr_weight *twin;         /* of w and its adapter's stacked a, on either: a's values are kept behind w's in half as well */
};

mr_status cu_weight_create(mr_backend *b, mr_weight **out, mr_weight_source src, int64_t n_out, int64_t n_in, int64_t more,
                           mr_dtype store, mr_dtype compute, unsigned uses, mr_err *err);
mr_status cu_weight_adopt(mr_backend *b, mr_weight **out, const mr_nf4_part *parts, int n, int64_t n_out, int64_t n_in,
                          mr_dtype compute, unsigned uses, mr_err *err);
void cu_weight_free(mr_backend *b, mr_weight *w);
size_t cu_weight_room(mr_backend *b, mr_weight_info *w, mr_room *room);
/* What weight_create holds from one weight to the next: pinned memory and where it is uploaded to. */
void cu_staging_free(mr_backend *b);
/* What the operations' files ask of cu_scratch, for weight_room; need[slot] becomes at least that, need[CU_SLOT_SMALL] stands for all that
 * cu_small takes but a penalty's history; need[CU_N_ROOMS].
 * cu_linear_room: up to n rows; attention over N rows in any spans, bwd: both passes;
 * cu_sample_scratch: of CU_SLOT_HEAD, for n rows of n_vocab logits. */
void cu_linear_room(size_t need[], const mr_weight_info *w, int64_t n, int rank, bool bwd);
void cu_attention_room(const mr_backend *b, size_t need[], int N, int H, int K, int D, bool bwd);
size_t cu_sample_scratch(int64_t n, int64_t n_vocab);
mr_weight_info cu_weight_info(const mr_weight *w);
void cu_weight_set(mr_backend *b, const mr_weight_values *all, int n);
void cu_weight_rows(mr_backend *b, float *dst, const mr_weight *w, int64_t row, int64_t n);
void cu_weight_unpack(mr_backend *b, mr_weight *w, void *place, int64_t more);
void cu_weight_hold(mr_backend *b, bool on);
bool cu_weight_nf4(const mr_weight *w, const uint8_t **codes, const uint8_t **absmax, const float **nested, float *offset);
bool cu_weight_nf4_read(mr_backend *b, const mr_weight *w, uint8_t *codes, uint8_t *absmax, float *nested, float *offset);
/* --- choose.c: exact = false --- */
/* Seconds of one call, from several; 1e30 when one is false. */
double cu_seconds(mr_backend *b, bool (*call)(mr_backend *b, void *ctx), void *ctx);
/* Whether the kernel for few rows, which would serve, is faster for this linear than unpacking the weight and cuBLASLt. */
bool cu_few_pays(mr_backend *b, float *u, const float *x, const mr_linear *l, int N);

/* Keeps a's values behind w's in half from now on, whatever weight_set does; false: there is no room for them. */
bool cu_weight_join(mr_backend *b, const mr_weight *w, const mr_weight *a);
/* What joined.cu asks of cu_scratch for up to n rows, as cu_linear_room. */
void cu_joined_room(size_t need[], const mr_weight_info *w, int64_t n, int rank);

/* The matrix in 16 bits, [n_out][ld] with ld a multiple of 8: w's own data, or NF4 unpacked, once (weight_unpack) or to scratch, where there is
 * room for `more` rows after it. Of scratch the largest goes to CU_SLOT_W, others to CU_SLOT_W2; so the two weights of an MLP, which runs for a part of the rows at a time,
 * both stay. NULL after a failure. */
const uint16_t *cu_weight_half(mr_backend *b, const char *op, const mr_weight *w, int64_t more, int64_t *ld);

/* --- packed rows (half.cuh) --- */
/* Where an operation that makes n_rows rows of k values shall put them packed, in cu_state.packed.type and .layout, valid for two launches; plain
 * ones in CU_SLOT_X, up to as many as a product converts at once. NULL: nobody would want it, or after a failure. After the launch cu_packed_note
 * says so, for the next operation. Whatever writes device memory without a launch clears cu_state.packed.at. */
uint16_t *cu_packed_wanted(mr_backend *b, const char *op, int n_rows, int64_t k);
void cu_packed_note(mr_backend *b, const uint16_t *packed, const float *rows, int n_rows, int64_t k);
/* The same rows by the operation before this one; NULL: it has not. Either way this is what products want from now on. */
const uint16_t *cu_packed_found(mr_backend *b, const float *rows, int n_rows, int64_t k, mr_dtype type, cu_layout layout);
/* The last launch wrote `n` values from y on, and none of such rows: what was noted before it is still there, unless it is these. */
void cu_packed_still(mr_backend *b, const float *y, int64_t n);
/* The same for gradients, which products read in plain rows of ld with room for `more` values behind them, in CU_SLOT_X. wanted: where the rows of
 * this very buffer shall go. found: also says so for the next time. */
uint16_t *cu_gradient_wanted(mr_backend *b, const char *op, const float *rows, int n_rows, int64_t k, mr_dtype *type, int64_t *ld);
void cu_gradient_note(mr_backend *b, const uint16_t *packed, const float *rows, int n_rows, int64_t k, int64_t ld);
const uint16_t *cu_gradient_found(mr_backend *b, const float *rows, int n_rows, int64_t k, int64_t more, mr_dtype type, int64_t *ld);
/* The place for packed rows or cores, and both places ahead of time, the larger one's bytes each. NULL after a failure. */
uint16_t *cu_packed_room(mr_backend *b, const char *op, int n_rows, int64_t k);
char *cu_packed_places(mr_backend *b, const char *op, int n_rows, int64_t k);
/* Whether as many rows are wanted in cores: the products' kernel for them is there. few_wide.cu. */
bool cu_wide_rows(const mr_backend *b, int n_rows);
/* What they ask of cu_scratch for up to n rows. */
size_t cu_packed_bytes(int64_t n, int64_t k);

/* --- the operations, as kernels.h describes them --- */
void cu_embed(mr_backend *b, float *x, const mr_weight *w, const int32_t *ids, int N);
void cu_rmsnorm(mr_backend *b, float *y, int ldy, const float *x, int ldx, const float *w, int N, int C, float eps);
void cu_head_norm(mr_backend *b, float *y, const float *x, int ld, const float *wq, const float *wk, int N, int H, int K, int D, float eps);
void cu_rope(mr_backend *b, float *x, int ldx, const int32_t *pos, const float *inv_freq, int N, int H, int D,
             bool inverse);
void cu_linear(mr_backend *b, float *y, float *u, const float *x, const mr_linear *l, int N, const float *onto);
void cu_silu_mul(mr_backend *b, float *y, const float *gu, int N, int F);
bool cu_mlp(mr_backend *b, float *y, const float *x, const mr_gated *m, int N, const float *onto);
void cu_add(mr_backend *b, float *y, const float *x, int64_t n);
size_t cu_kv_bytes(mr_backend *b, int64_t n_slots, int K, int D);
void cu_kv_put(mr_backend *b, void *kv, int64_t n_slots, const float *k, const float *v, int ld, const int32_t *slots,
               int N, int K, int D);
bool cu_rope_put(mr_backend *b, void *kv, int64_t n_slots, float *y, const float *x, const float *v, int ld, const float *wq, const float *wk,
                 float eps, const int32_t *pos, const float *inv_freq, const int32_t *slots, int N, int H, int K, int D);
void cu_attention(mr_backend *b, float *o, float *lse, const float *q, int ldq, const void *kv, int64_t n_slots,
                  const mr_span *spans, int S, int H, int K, int D);
void cu_attention_step(mr_backend *b, float *o, const float *q, int ldq, const void *kv, int64_t n_slots, const mr_span *spans,
                       int S, int n_chunks, int H, int K, int D);
void cu_head_norm_bwd(mr_backend *b, float *dx, float *dwq, float *dwk, const float *dy, const float *x, int ld, const float *wq,
                      const float *wk, int N, int H, int K, int D, float eps);
void cu_rmsnorm_bwd(mr_backend *b, float *dx, int lddx, float *dw, const float *dy, int lddy, const float *x, int ldx,
                    const float *w, int N, int C, float eps);
void cu_linear_bwd(mr_backend *b, float *dx, float *du, const float *dy, const float *x, const float *u,
                   const mr_linear *l, int N, bool add);
void cu_silu_mul_bwd(mr_backend *b, float *dgu, const float *dy, const float *gu, int N, int F);
bool cu_mlp_bwd(mr_backend *b, float *dx, const float *dy, const float *x, const mr_gated *m, int N, bool again);
void cu_attention_bwd(mr_backend *b, float *dq, int lddq, float *dk, float *dv, int lddkv, const float *d_o,
                      const float *o, const float *lse, const float *q, int ldq, const void *kv, int64_t n_slots,
                      const mr_span *spans, int S, int N, int H, int K, int D);
void cu_embed_bwd(mr_backend *b, float *dw, const float *dx, const int32_t *ids, int N, int C);
void cu_logprob(mr_backend *b, float *logp, float *entropy, float *lse, const float *z, const int32_t *targets,
                float inv_t, int N, int V);
void cu_logprob_bwd(mr_backend *b, float *z, const float *lse, const int32_t *targets, const float *dlogp, float inv_t,
                    int N, int V);
void cu_sample(mr_backend *b, int32_t *ids, float *logp, const float *z, const float *u, const mr_sampling *opt,
               const int32_t *const *history, const int32_t *n_history, int N, int V);
double cu_sum_squares(mr_backend *b, const float *x, int64_t n, bool *all_finite);
void cu_adamw(mr_backend *b, const mr_adamw_tensor *all, int n, const mr_adamw *opt);

#ifdef __cplusplus
}
#endif
#endif
