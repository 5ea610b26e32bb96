/* linear.h - what linear.c and mlp.c share: how products read their rows, and a product with a weight. */
#ifndef MR_CPU_LINEAR_H
#define MR_CPU_LINEAR_H

#include <assert.h>
#include <math.h>
#include <string.h>

#include "cpu/weights.h"

/* How a weight's products read their rows: as they are, as bf16, or as f32 that was rounded to bf16 (no bf16
 * instruction) or to f16. */
typedef enum view { VIEW_RAW, VIEW_BF16, VIEW_ROUNDED, VIEW_ROUNDED_F16 } view;

static inline view view_of(const gemm_kernels *kernels, const mr_weight *w) {
    if (w->compute == MR_F32) return VIEW_RAW;
    if (w->compute == MR_F16) return VIEW_ROUNDED_F16;
    return kernels->bf16 ? VIEW_BF16 : VIEW_ROUNDED;
}

/* Values of a row in a lower view: whole units of K, with zeros (of VIEW_BF16) behind the row's own. */
static inline int64_t units(int64_t n) {
    return (n + GEMM_K_UNIT - 1) / GEMM_K_UNIT * GEMM_K_UNIT;
}

/* A matrix in the caller's f32 and, where a product wants it, in a lower view. */
typedef struct input {
    const float *raw;
    int64_t ld_raw, k;
    view low;       /* VIEW_RAW: no lower view */
    void *low_data; /* [N][ld_low] */
    int64_t ld_low;
    float factor;   /* of the lower view, a power of two; 0: 1 */
} input;

static inline size_t input_bytes(int64_t n, int64_t k) {
    return (size_t)n * (size_t)units(k) * sizeof(float);
}

/* What a product adds to, put where its result goes. */
static inline void cpu_start_from(float *y, const float *onto, int64_t n) {
    if (onto && onto != y) memcpy(y, onto, (size_t)n * sizeof *y);
}

/* Times a power of two, which bf16 holds exactly as f32 does. */
static inline void scale_bf16(uint16_t *x, int64_t n, float factor) {
    for (int64_t i = 0; i < n; i++) x[i] = cpu_to_bf16(factor * cpu_from_bf16(x[i]));
}

/* Whether an adapter's factor may go into the rows of its inner values, so that sums need not be scaled. */
static inline bool folds(const gemm_kernels *kernels, float factor) {
    int e;
    return kernels->tall > GEMM_ROWS && factor != 1.0f && frexpf(factor, &e) == 0.5f;
}

/* Rows [from, to) of the lower view. */
static inline void input_prepare(const gemm_kernels *kernels, const input *in, int64_t from, int64_t to) {
    if (in->low == VIEW_RAW) return;
    for (int64_t r = from; r < to; r++) {
        const float *src = in->raw + r * in->ld_raw;
        if (in->low == VIEW_BF16) {
            uint16_t *dst = (uint16_t *)in->low_data + r * in->ld_low;
            kernels->row_to_bf16(dst, src, in->k);
            if (in->factor != 0) scale_bf16(dst, in->k, in->factor);
            for (int64_t i = in->k; i < units(in->k); i++) dst[i] = 0;
        } else if (in->low == VIEW_ROUNDED) {
            kernels->round_bf16((float *)in->low_data + r * in->ld_low, src, in->k);
        } else {
            cpu_round_f16_n((float *)in->low_data + r * in->ld_low, src, in->k);
        }
    }
}

/* Our own kernels' product of `in` (columns from col0) with w. */
static inline gemm_product product(const gemm_kernels *kernels, const mr_weight *w, bool backward, const input *in,
                            int64_t n_rows, float *y, int64_t ldy, float alpha, const float *bias, bool add) {
    view v = view_of(kernels, w);
    gemm_product p = {
        .y = y,
        .ldy = ldy,
        .n_rows = n_rows,
        .n_cols = backward ? w->n_in : w->n_out,
        .k = backward ? w->n_out : w->n_in,
        .x_type = v == VIEW_BF16 ? GEMM_X_BF16 : GEMM_X_F32,
        .x = v == VIEW_RAW ? (const void *)in->raw : in->low_data,
        .ldx = v == VIEW_RAW ? in->ld_raw : in->ld_low,
        .w_type = weight_panel_type(w),
        .panels = backward ? w->bwd : w->fwd,
        .nf4 = w->store == MR_NF4 ? w : NULL,
        .tall = v == VIEW_BF16 ? kernels->tall : GEMM_ROWS,
        .backward = backward,
        .bias = bias,
        .alpha = alpha,
        .add = add,
    };
    assert(v == VIEW_RAW || in->low == v);
    assert(in->k == p.k && (p.panels || p.nf4));
    return p;
}

/* Nanoseconds, about: arithmetic for many rows, memory for few. */
static inline double product_work(int64_t n, const mr_weight *w) {
    double rows = (double)n / 100.0;
    return (double)w->n_out * (double)w->n_in * (rows > 0.1 ? rows : 0.1);
}

/* The lower view that x needs when it meets both weights (a may be NULL); where both are lower they agree. */
static inline view lower_view(const gemm_kernels *kernels, const mr_weight *w, const mr_weight *a) {
    view v = view_of(kernels, w);
    return v == VIEW_RAW && a ? view_of(kernels, a) : v;
}

static inline bool sees(view v) {
    return v != VIEW_RAW;
}

static inline size_t padded(size_t bytes) {
    return (bytes + 63) & ~(size_t)63;
}

/* The same product for rows [from, to) alone. */
static inline gemm_product rows_of(gemm_product p, int64_t from, int64_t to) {
    p.x = (const char *)p.x + (size_t)(from * p.ldx) * (p.x_type == GEMM_X_BF16 ? 2 : 4);
    p.y += from * p.ldy;
    p.n_rows = to - from;
    return p;
}

/* Whether a product with `more` can continue the sums of one with w. */
static inline bool continues(const gemm_kernels *kernels, const mr_weight *w, const mr_weight *more, bool backward) {
    return view_of(kernels, w) == view_of(kernels, more) && weight_panel_type(w) == weight_panel_type(more) &&
           (backward ? more->bwd : more->fwd);
}

/* Some items for each thread, so that one that is late does not matter, but not more than needed. */
static inline mr_work items(void (*fn)(void *ctx, int thread, int64_t from, int64_t to), void *ctx, int64_t n,
                            int n_threads) {
    int64_t grain = n / (16 * n_threads);
    return (mr_work){ fn, ctx, n, grain < 1 ? 1 : grain };
}

#endif
