/* gemm.cuh - matrix products of the CUDA backend, for linear.cu.
 *
 * Order:  an element of y is a chain of mma steps of 16 over K from 0 upward, one f32 accumulator, in segments of CU_K_SEGMENT whose sums
 *         are added in order (reference: one order for every tile size gives the same bits). Which kernel serves, by
 *         the number of rows, and which tile an element falls into never show:
 *             y = ((old + s0) + s1 ...) + bias, then fma(scale, LoRA's chain, y) for each part.
 * few:    up to CU_FEW_ROWS rows; NF4 is unpacked in registers, LoRA and bias are in the same launch.
 * dense:  many rows, both sides in 16 bits, one launch a segment.
 * f32:    products of compute type f32: one chain of fused multiply-adds over K.
 * tn:     gradients: sums over rows, in fixed segments of rows. */
#ifndef MR_CUDA_GEMM_H
#define MR_CUDA_GEMM_H

#include "cuda/half.cuh"

enum { CU_FEW_ROWS = 64 };

/* One LoRA part inside `few`: y[:, row0 ..] = fma(scale, u @ b^T, y). */
typedef struct few_part {
    int row0, rows, r;
    float scale;
    const float *u; /* the part's first column; rows ldu apart */
    const u16 *b;   /* [rows][ldb] */
    int64_t ldb;
} few_part;

typedef struct few_product {
    float *y;
    int64_t ldy;
    const float *x;
    int64_t ldx;
    int n_rows; /* at most CU_FEW_ROWS */
    weight_view w;
    int64_t n_out;
    const float *bias;
    bool add;
    int n_parts;
    int64_t ldu;
    few_part part[3];
} few_product;

/* Whether `few` can serve: a weight of 16 bits or NF4 in tiles, not too long, with LoRA parts on whole tiles of 16 rows. */
bool cu_few_fits(const mr_backend *b, const mr_weight *w, const mr_linear *lora, int n_rows);
/* a: u = x @ a^T of the same rows, in 16 bits, which p's parts read; in the same launch. NULL: u is there, or there is no LoRA. */
void cu_few(mr_backend *b, const char *op, const few_product *p, const few_product *a);
/* The same for NF4 (few_nf4.cu); false: nothing is done. */
bool cu_few_nf4(mr_backend *b, const char *op, const few_product *p, const few_product *a);
/* The same for 1 to 16 rows and a weight of 16 bits (few_half.cu), and for 17 to 64 on a GPU with wgmma (half_wide.cu). act not NULL: as cu_few_gated;
 * keep: what is in p->y is wanted, too. */
bool cu_few_half(mr_backend *b, const char *op, float *act, const few_product *p, const few_product *a);
bool cu_half_wide(mr_backend *b, const char *op, float *act, const few_product *p, const few_product *a, bool keep);
/* Whether the latter serves a weight that few serves. */
bool cu_half_wide_fits(const mr_backend *b, const mr_weight *w, int n_rows);
/* The same for 1 to 16 rows and a weight of either kind on a Turing (few_sm75.cu), act likewise. */
bool cu_few_sm75(mr_backend *b, const char *op, float *act, const few_product *p, const few_product *a);
/* p->x packed or in cores, by the operation before this one or now. NULL after a failure. */
const u16 *cu_packed_x(mr_backend *b, const char *op, const few_product *p);
const u16 *cu_cores_x(mr_backend *b, const char *op, const few_product *p);
/* Where p is an MLP's gate and up (rows of gate, then as many of up): also act = silu(gate) * up in the same launch. */
bool cu_few_gated(mr_backend *b, const char *op, float *act, const few_product *p, const few_product *a);
/* The same two for 17 rows or more on a GPU with wgmma (few_wide.cu), with the same bits. keep: what is in p->y is wanted, too. */
bool cu_wide(mr_backend *b, const char *op, const few_product *p, const few_product *a);
bool cu_wide_gated(mr_backend *b, const char *op, float *act, const few_product *p, const few_product *a, bool keep);
/* Whether they serve a weight that few serves. */
bool cu_wide_fits(const mr_backend *b, const mr_weight *w, int n_rows);
/* cu_mlp of a few rows, with cu_few_gated or cu_wide_gated: linear.cu. False: nothing is done. */
bool cu_few_mlp(mr_backend *b, float *y, const float *x, const mr_gated *m, int N, const float *onto);

/* y[n_rows, n_cols] (+)= alpha * x @ w^T, or x @ w when backward; x [n_rows][ldx] and w [..][ldw] are 16-bit, zero up to a
 * multiple of 8 columns. onto [n_rows][ldy], which may be y: fma(alpha, sum, onto); NULL: alpha * sum; then + bias. */
typedef struct dense_product {
    float *y;
    int64_t ldy;
    const u16 *x;
    int64_t ldx;
    const u16 *w;
    int64_t ldw;
    int64_t n_rows, n_cols, k;
    bool backward;
    const float *onto;
    float alpha;
    const float *bias;
    bool whole; /* one chain over all of K, no segments: for gradients, whose order is nobody else's */
} dense_product;
void cu_dense(mr_backend *b, const char *op, int type, const dense_product *p);
/* n of them in one launch, forward and without onto and bias: each has the next k columns of x and w, and the next plane of y, step_y apart. False:
 * not this way, and nothing is written. */
bool cu_dense_batch(mr_backend *b, const char *op, int type, const dense_product *p, int n, int64_t step_y);

/* The same with f32 rows and any weight, for compute type f32. */
typedef struct f32_product {
    float *y;
    int64_t ldy;
    const float *x;
    int64_t ldx;
    weight_view w;
    int64_t n_rows, n_cols, k;
    bool backward;
    const float *onto;
    float alpha;
    const float *bias;
} f32_product;
void cu_f32(mr_backend *b, const char *op, const f32_product *p);

/* Gradients of weights: dst[p][q] += scale * sum over n of a[n][p] * x[n][q], rows in fixed segments, in order; dst is dense. All products of
 * a call run over the same n rows at once. exact: in f32 throughout, else operands as two bf16 where there are tensor cores for them. In
 * attention's scratch. gradients.cu.
 * wide: the wider of a and x in 16 bits of `type`, rows of a multiple of 8 values, in place of its f32; NULL: none. */
enum { CU_TN_MOST = 5 };
typedef struct tn_product {
    float *dst;
    const float *a;
    int64_t lda, n_p;
    const float *x;
    int64_t ldx, n_q;
    float scale;
    const u16 *wide;
    int64_t ld_wide;
} tn_product;
void cu_tn(mr_backend *b, const char *op, const tn_product *p, int n_products, int64_t n, int type, bool exact);

/* One side of a product of many rows: f32 rows of `cols` values, ld apart. half: they are there in 16 bits already, ld_half apart, a multiple
 * of 8, with room for what is put behind them. */
typedef struct cu_side {
    const float *rows;
    int64_t ld, cols;
    u16 *half;
    int64_t ld_half;
} cu_side;

/* A linear's LoRA parts as an argument of kernels of many rows: b [rows][ldb]. rows 0: none. */
enum { CU_MOST_PARTS = 3 };
typedef struct part_view {
    int row0, rows, r0, r;
    float scale;
    const u16 *b;
    int64_t ldb;
} part_view;
static inline void parts_of(part_view to[CU_MOST_PARTS], const mr_linear *l) {
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *p = &l->lora[i];
        to[i] = part_view{ p->row0, p->rows, p->r0, p->r, p->scale, (const u16 *)p->b->data, p->b->ld };
    }
}

/* What a tile of columns from col on needs of its part: b's first row is col's. r = 0: it has none. first: it is the part's first tile. Parts are
 * looked through one by one, since a launch's arguments are slow to look up by a variable. */
typedef struct inner_view {
    int r0, r;
    float scale;
    const u16 *b;
    int64_t ldb;
    bool first;
} inner_view;
__device__ inline inner_view inner_of(const part_view (&part)[CU_MOST_PARTS], int col) {
    inner_view x = { 0, 0, 0.0f, NULL, 0, false };
#pragma unroll
    for (int i = 0; i < CU_MOST_PARTS; i++) {
        const part_view &p = part[i];
        if (col >= p.row0 && col < p.row0 + p.rows) x = inner_view{ p.r0, p.r, p.scale, p.b + (col - p.row0) * p.ldb, p.ldb, col == p.row0 };
    }
    return x;
}

/* Whether four values from there on are one load. NULL is. */
static inline bool at16(const void *p) { return (uintptr_t)p % 16 == 0; }

/* --- a linear with LoRA whose weight is there in 16 bits, stored so or unpacked for good (weight_unpack), for some dozens of rows: joined.cu --- */

/* As many rows as it pays for: fewer are few's, more are a training pass's. A weight that is stored in 16 bits is what few reads, too. A Turing, which has
 * no cuBLASLt here, leaves few all that it serves. */
enum { CU_JOINED_FROM = 33, CU_JOINED_FROM_HALF = 25, CU_JOINED_ROWS = 512 };
bool cu_joined_fits(const mr_backend *b, const mr_weight *w, int n_rows);
/* False: not this way, and nothing is done. Bits are the same either way. */
bool cu_joined_linear(mr_backend *b, float *y, float *u, const float *x, const mr_linear *l, int N, const float *onto);
/* The MLP, of which nothing is left for a backward pass. */
bool cu_joined_mlp(mr_backend *b, float *y, const float *x, const mr_gated *m, int N, const float *onto);

/* --- parts of a linear of many rows with 16-bit products, for mlp.cu: linear.cu --- */

/* u = x @ a^T, y = x @ w^T + bias, plus onto where it is not NULL. */
void cu_first_products(mr_backend *b, const char *op, float *y, float *u, cu_side x, const mr_linear *l, int N, const float *onto);
/* LoRA's second products of many rows as one pass over y, with bias (NULL: none) added before them: outer.cu. Whether a layer is one for it. */
bool cu_outer_fits(const float *y, const float *u, const mr_linear *l);
void cu_outer(mr_backend *b, const char *op, float *y, const float *u, const mr_linear *l, int N, const float *bias);
/* y += LoRA's share, from u. */
void cu_second_products(mr_backend *b, const char *op, float *y, const float *u, const mr_linear *l, int N);
/* u in 16 bits, cu_round(r_total, 8) apart; NULL after a failure, or where parts begin in the middle of 16 bytes. */
const u16 *cu_inner_half(mr_backend *b, const char *op, const float *u, const mr_linear *l, int N);
/* du = dy @ b^T-wise of each part, dx (+)= dy @ w + du @ a; dx NULL: du alone, where da wants it. */
void cu_input_gradient(mr_backend *b, const char *op, float *dx, float *du, cu_side dy, const mr_linear *l, int N, bool add);
/* da, db and dw. */
void cu_weight_gradients(mr_backend *b, const char *op, const float *du, cu_side dy, cu_side x, const float *u, const mr_linear *l, int N);

#endif
