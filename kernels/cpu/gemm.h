/* gemm.h - matrix products of the CPU backend: packed weights, micro-kernels, the work of one thread.
 *
 * Panels:  a matrix w[O,K] that is multiplied as y = x @ w^T lies in panels of 64 columns of y (rows of w), zero beyond
 *          O: f32 [ceil(O/64)][K][64], bf16 [ceil(O/64)][K/2][64][2], both in 256-byte steps; K of bf16 is rounded up
 *          to 32, with zeros. The backward product dx = dy @ w uses panels of w^T.
 * Order:   each element of y is one chain of fused multiply-adds over K in ascending order in one f32 accumulator
 *          (bf16: in steps of two, as vdpbf16ps does; without it x and w are widened and the chain is over single
 *          values; AMX sums 32 of K at a time: gemm_amx.c). Row tiles, blocks of K (the accumulator rests in memory, as f32) and threads do not change that
 *          chain: the row rule of kernels.h.
 * More:    the chain of an element can begin with another, short product (an adapter's) times a factor, in the same
 *          accumulator.
 * Threads: a product is a number of items that any thread may do in any order. */
#ifndef MR_CPU_GEMM_H
#define MR_CPU_GEMM_H

#include "cpu/cpu.h"

enum {
    GEMM_ROWS = 6,      /* rows of a tile: 6 x 64 accumulators are 24 AVX-512 registers */
    GEMM_COLS = 64,     /* columns of a panel */
    GEMM_ROWS_AMX = 32, /* the same where the rows lie in tiles of AMX */
    GEMM_STEP = 256,    /* bytes of a panel's step: one k in f32, two in bf16 */
    /* How far ahead of a step weights are fetched, enough to hide memory when few rows stream them, harmless behind the end of
     * a panel: what comes next into the first cache, what comes later into the second one, since two cores that read at once
     * wait longer than what the first can have on its way. */
    GEMM_PREFETCH = 8 * GEMM_STEP,
    GEMM_PREFETCH_FAR = 64 * GEMM_STEP,
    GEMM_K_UNIT = 32,   /* rows in bf16 are rounded up to so many values, with zeros */
    GEMM_K_BLOCK = 2048 /* so that a panel's block stays in the second cache: 512 KiB in f32 */
};

/* How the rows of x lie: as the caller's f32, or bf16 with zeros behind K, to a multiple of GEMM_K_UNIT. */
typedef enum gemm_x { GEMM_X_F32, GEMM_X_BF16 } gemm_x;

typedef struct gemm_tile {
    const void *x;     /* f32 or bf16 */
    int64_t ldx;       /* in elements */
    const void *w;     /* the panel's first step */
    int64_t k;         /* columns of x to use; a multiple of GEMM_K_UNIT but at the end of K */
    const void *more_x, *more_w; /* first, unless resuming: more_alpha * the same with these; more_k = 0: nothing */
    int64_t more_ldx, more_k;
    float more_alpha;
    const char *next;  /* what to fetch into the caches meanwhile: one line for each step, next_stride bytes apart */
    int64_t next_stride;
    float *acc;        /* [rows][64]: where accumulators rest between blocks of K */
    bool resume, rest; /* begin from acc; end in acc */
    bool cold;         /* nobody has read w shortly before */
    float *y;          /* [rows][cols] when rest is false: alpha * acc, + bias, + y */
    int64_t ldy;
    int cols;
    const float *bias;
    float alpha;
    bool add;
} gemm_tile;

/* One instruction set. `rows` is 1 to GEMM_ROWS; of bf16, 1 to `tall`. */
typedef struct gemm_kernels {
    int tall;
    void (*f32)(const gemm_tile *t, int rows);      /* x f32, w f32 */
    void (*f32_bf16)(const gemm_tile *t, int rows); /* x f32, w bf16, sums of f32 products */
    void (*bf16)(const gemm_tile *t, int rows);     /* x bf16, w bf16; NULL without the instruction */
    void (*leave)(void);                            /* after some of them, on the same thread; may be NULL */
    /* acc[rows][64] += sum over n of a[n * lda + row] * b[n * ldb + col], n ascending, one chain that begins with what is
     * there; cols 1 to 64. */
    void (*tn)(float *acc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t n, int rows, int cols);
    /* The same with b in bf16; NULL without bf16 above. */
    void (*tn_bf16)(float *acc, const float *a, int64_t lda, const uint16_t *b, int64_t ldb, int64_t n, int rows, int cols);
    void (*to_bf16)(uint16_t *dst, const float *src, int64_t n);
    void (*row_to_bf16)(uint16_t *dst, const float *src, int64_t n); /* what `bf16` reads: denormal numbers may be 0 */
    void (*round_bf16)(float *dst, const float *src, int64_t n); /* to bf16 and back */
    /* NF4 to panels when rows of w are whole blocks of 64 (nf4.c has the other cases); NULL: the plain loops there.
     * fwd: 64 rows x 64 k; absmax[64], one a row. bwd: n rows x 64 columns; absmax[n]. Rows are `stride` bytes apart.
      **/
    void (*nf4_fwd)(void *panel, const uint8_t *codes, int64_t stride, const float *absmax, bool bf16);
    void (*nf4_bwd)(void *panel, const uint8_t *codes, int64_t stride, const float *absmax, int64_t n, bool bf16);
} gemm_kernels;

extern const gemm_kernels gemm_generic;
#if defined(__x86_64__)
extern const gemm_kernels gemm_avx2, gemm_avx512, gemm_avx512_bf16, gemm_amx;
/* gemm_amx.c, for gemm_amx */
void gemm_amx_bf16(const gemm_tile *t, int rows);
void gemm_amx_leave(void);
#endif
const gemm_kernels *gemm_kernels_for(cpu_isa isa);

static inline int64_t gemm_panels(int64_t n_cols) {
    return (n_cols + GEMM_COLS - 1) / GEMM_COLS;
}
static inline int64_t gemm_steps(int64_t k, mr_dtype type) {
    return type == MR_BF16 ? (k + 1) / 2 : k;
}
static inline size_t gemm_panel_bytes(int64_t k, mr_dtype type) {
    if (type == MR_BF16) k = (k + GEMM_K_UNIT - 1) / GEMM_K_UNIT * GEMM_K_UNIT;
    return (size_t)gemm_steps(k, type) * GEMM_STEP;
}

/* A second product for columns [col0, col0 + cols) of a first, whose alpha is 1: y += alpha * x @ w^T. Types are those
 * of the first; col0 is a multiple of 64, and the columns behind it in the last panel belong to no other. */
typedef struct gemm_more {
    int64_t col0, cols, k;
    const void *x;
    int64_t ldx;
    const void *panels;
    float alpha;
} gemm_more;

/* One product. NF4: panels is NULL and nf4 says where the codes are. */
typedef struct gemm_product {
    float *y;
    int64_t ldy, n_rows, n_cols, k;
    gemm_x x_type;
    const void *x;
    int64_t ldx;
    mr_dtype w_type; /* of the panels: MR_F32 or MR_BF16 */
    const void *panels;
    const struct mr_weight *nf4;
    bool backward; /* panels of w^T: which way to unpack NF4 */
    const float *bias;
    float alpha;
    bool add;
    gemm_more more[3];
    int n_more;
    int tall; /* rows of a tile: GEMM_ROWS, for x in bf16 the kernels' */
    /* the cut into items, by cpu_product_cut */
    int64_t block, n_items;
    bool by_panel; /* items follow each other block by block of one panel, else panel by panel of one block */
    int strips;  /* items of one panel and block of rows */
    int n_ahead; /* items from one of a thread to its next, as a guess */
} gemm_product;

/* Cuts a product into p->n_items items for n_threads threads. Results do not depend on it. */
void cpu_product_cut(gemm_product *p, int n_threads);
void cpu_product_items(mr_backend *b, const gemm_product *p, int thread, int64_t from, int64_t to);
/* Panel `index` alone for rows [row0, row0 + rows), at most p->block of them, to y; p is cut for one thread. next: the
 * panel that this thread takes then, which is fetched meanwhile, -1: none. Call kernels->leave afterwards. */
void cpu_product_panel(mr_backend *b, const gemm_product *p, int thread, int64_t index, int64_t next, int64_t row0,
                       int64_t rows, float *y, int64_t ldy);
/* All of it, on the calling thread. */
void cpu_product_all(mr_backend *b, const gemm_product *p, int thread);

/* Most scratch of one thread for products with w, of any number of rows. */
size_t cpu_product_scratch(const mr_backend *b, const mr_weight_info *w);

/* dst[p * sp + q * sq] += sum over n of a[n * lda + p] * x[n * ldx + q]: a gradient, in cpu_tn_cut's items. The sum goes
 * on from what is there, so a gradient is one chain over the rows of all packs, however they were packed. */
typedef struct gemm_tn {
    float *dst;
    int64_t sp, sq;
    const void *a;
    int64_t lda, n_p;
    const void *x;
    int64_t ldx, n_q, n;
    bool a_bf16, x_bf16; /* one of the two at most, else they are f32 */
} gemm_tn;

/* May exchange the two sides. */
int64_t cpu_tn_cut(gemm_tn *t);
void cpu_tn_items(mr_backend *b, const gemm_tn *t, int64_t from, int64_t to);

/* --- packing (pack.c) --- */
/* One block of a panel: rows 0 .. n - 1 (n <= 64, the rest zero) and k columns of src become the block's steps. */
void gemm_pack_block(const gemm_kernels *kernels, void *panel, mr_dtype type, const float *src, int64_t ld, int64_t n,
                     int64_t k);
/* The same for a panel of w^T: n rows (even but at the end) and cols <= 64 columns (the rest zero). */
void gemm_pack_block_bwd(const gemm_kernels *kernels, void *panel, mr_dtype type, const float *src, int64_t ld,
                         int64_t n, int64_t cols);
/* Rows [row, row + n) of w[O,I] into its panels; row is a multiple of 64, n too but at the end. In parallel. */
void gemm_pack_rows(mr_backend *b, void *fwd, void *bwd, mr_dtype type, const float *src, int64_t row, int64_t n,
                    int64_t n_out, int64_t n_in);
/* One row of w out of either kind. */
void gemm_unpack_fwd(float *dst, const void *panels, mr_dtype type, int64_t row, int64_t n_in);
void gemm_unpack_bwd(float *dst, const void *panels, mr_dtype type, int64_t row, int64_t n_out, int64_t n_in);

#endif
