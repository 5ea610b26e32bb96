/* elementwise.c - normalization, rotation, the gated activation and sums: the operations that treat each row alone.
 *
 * Threads take ranges of rows (of columns for a weight gradient); the loops are in isa_elementwise.inc. */
#include <assert.h>

#include "cpu/isa.h"

/* What any of the operations below needs. */
typedef struct rows {
    const cpu_kernels *k;
    float *y, *dw, *inv_rms;
    const float *x, *w, *wk, *dy;
    const int32_t *pos;
    int ldy, ldx, lddy, N, C, H, K, D;
    float eps;
    bool inverse;
} rows;

static void rmsnorm_rows(void *ctx, int thread, int64_t from, int64_t to) {
    const rows *r = ctx;
    (void)thread;
    r->k->rmsnorm(r->y + from * r->ldy, r->ldy, r->x + from * r->ldx, r->ldx, r->w, (int)(to - from), r->C, r->eps);
}

void cpu_rmsnorm(mr_backend *b, float *y, int ldy, const float *x, int ldx, const float *w, int N, int C, float eps) {
    if (cpu_failed(b)) return;
    assert(C > 0 && ldy >= C && ldx >= C);
    rows r = { .k = cpu_kernels_of(b), .y = y, .ldy = ldy, .x = x, .ldx = ldx, .w = w, .C = C, .eps = eps };
    cpu_share(b, 0.15 * N * C, rmsnorm_rows, &r, N, 1);
}

static void rmsnorm_dx_rows(void *ctx, int thread, int64_t from, int64_t to) {
    const rows *r = ctx;
    (void)thread;
    r->k->rmsnorm_dx(r->y + from * r->ldy, r->ldy, r->inv_rms + from, r->dy + from * r->lddy, r->lddy,
                     r->x + from * r->ldx, r->ldx, r->w, (int)(to - from), r->C, r->eps);
}

static void rmsnorm_dw_columns(void *ctx, int thread, int64_t from, int64_t to) {
    const rows *r = ctx;
    (void)thread;
    r->k->rmsnorm_dw(r->dw, r->inv_rms, r->dy, r->lddy, r->x, r->ldx, r->N, (int)from, (int)to);
}

void cpu_rmsnorm_bwd(mr_backend *b, float *dx, int lddx, float *dw, const float *dy, int lddy, const float *x, int ldx,
                     const float *w, int N, int C, float eps) {
    if (cpu_failed(b) || N <= 0) return;
    assert(C > 0 && lddx >= C && lddy >= C && ldx >= C);
    rows r = { .k = cpu_kernels_of(b), .y = dx, .ldy = lddx, .dw = dw, .dy = dy, .lddy = lddy, .x = x, .ldx = ldx,
               .w = w, .N = N, .C = C, .eps = eps };
    r.inv_rms = cpu_scratch(b, CPU_SLOT_SHARED, (size_t)N * sizeof *r.inv_rms);
    if (!r.inv_rms) return;
    int n_threads = cpu_threads(b, 0.3 * N * C);
    mr_work works[] = { { rmsnorm_dx_rows, &r, N, cpu_grain(N, 1, n_threads) },
                        { rmsnorm_dw_columns, &r, dw ? C : 0, cpu_grain(C, 16, n_threads) } };
    mr_parallel(cpu_of(b)->pool, n_threads, works, dw ? 2 : 1);
}

static void head_norm_rows(void *ctx, int thread, int64_t from, int64_t to) {
    const rows *r = ctx;
    (void)thread;
    for (int h = 0; h < r->H + r->K; h++) {
        int64_t at = from * r->ldx + h * r->D;
        r->k->rmsnorm(r->y + at, r->ldx, r->x + at, r->ldx, h < r->H ? r->w : r->wk, (int)(to - from), r->D, r->eps);
    }
}

void cpu_head_norm(mr_backend *b, float *y, const float *x, int ld, const float *wq, const float *wk, int N, int H, int K, int D, float eps) {
    if (cpu_failed(b)) return;
    assert(D > 0 && ld >= (H + K) * D);
    rows r = { .k = cpu_kernels_of(b), .y = y, .x = x, .ldx = ld, .w = wq, .wk = wk, .H = H, .K = K, .D = D, .eps = eps };
    cpu_share(b, 0.15 * N * (H + K) * D, head_norm_rows, &r, N, 1);
}

static void head_norm_dx_rows(void *ctx, int thread, int64_t from, int64_t to) {
    const rows *r = ctx;
    (void)thread;
    for (int h = 0; h < r->H + r->K; h++) {
        int64_t at = from * r->ldx + h * r->D;
        r->k->rmsnorm_dx(r->y + at, r->ldx, r->inv_rms + from, r->dy + at, r->ldx, r->x + at, r->ldx, h < r->H ? r->w : r->wk,
                         (int)(to - from), r->D, r->eps);
    }
}

void cpu_head_norm_bwd(mr_backend *b, float *dx, float *dwq, float *dwk, const float *dy, const float *x, int ld, const float *wq,
                       const float *wk, int N, int H, int K, int D, float eps) {
    if (cpu_failed(b) || N <= 0) return;
    assert(D > 0 && ld >= (H + K) * D);
    for (int h = 0; (dwq || dwk) && h < H + K; h++) /* weights are trained: head after head */
        cpu_rmsnorm_bwd(b, dx + h * D, ld, h < H ? dwq : dwk, dy + h * D, ld, x + h * D, ld, h < H ? wq : wk, N, D, eps);
    if (dwq || dwk) return;
    rows r = { .k = cpu_kernels_of(b), .y = dx, .dy = dy, .x = x, .ldx = ld, .w = wq, .wk = wk, .H = H, .K = K, .D = D, .eps = eps };
    r.inv_rms = cpu_scratch(b, CPU_SLOT_SHARED, (size_t)N * sizeof *r.inv_rms);
    if (r.inv_rms) cpu_share(b, 0.3 * N * (H + K) * D, head_norm_dx_rows, &r, N, 1);
}

static void rope_rows(void *ctx, int thread, int64_t from, int64_t to) {
    const rows *r = ctx;
    (void)thread;
    r->k->rope(r->y + from * r->ldy, r->ldy, r->pos + from, r->w, (int)(to - from), r->H, r->D, r->inverse);
}

void cpu_rope(mr_backend *b, float *x, int ldx, const int32_t *pos, const float *inv_freq, int N, int H, int D,
              bool inverse) {
    if (cpu_failed(b)) return;
    assert(D % 2 == 0 && D <= CPU_MAX_D && ldx >= H * D);
    rows r = { .k = cpu_kernels_of(b), .y = x, .ldy = ldx, .pos = pos, .w = inv_freq, .H = H, .D = D,
               .inverse = inverse };
    cpu_share(b, 0.15 * N * (H + 4) * D, rope_rows, &r, N, 1);
}

static void silu_mul_rows(void *ctx, int thread, int64_t from, int64_t to) {
    const rows *r = ctx;
    (void)thread;
    r->k->silu_mul(r->y + from * r->C, r->x + 2 * from * r->C, (int)(to - from), r->C);
}

void cpu_silu_mul(mr_backend *b, float *y, const float *gu, int N, int F) {
    if (cpu_failed(b)) return;
    rows r = { .k = cpu_kernels_of(b), .y = y, .x = gu, .C = F };
    cpu_share(b, 0.5 * N * F, silu_mul_rows, &r, N, 1);
}

static void silu_mul_bwd_rows(void *ctx, int thread, int64_t from, int64_t to) {
    const rows *r = ctx;
    (void)thread;
    r->k->silu_mul_bwd(r->y + 2 * from * r->C, r->dy + from * r->C, r->x + 2 * from * r->C, (int)(to - from), r->C);
}

void cpu_silu_mul_bwd(mr_backend *b, float *dgu, const float *dy, const float *gu, int N, int F) {
    if (cpu_failed(b)) return;
    assert(dgu != gu);
    rows r = { .k = cpu_kernels_of(b), .y = dgu, .dy = dy, .x = gu, .C = F };
    cpu_share(b, 0.8 * N * F, silu_mul_bwd_rows, &r, N, 1);
}

static void add_elements(void *ctx, int thread, int64_t from, int64_t to) {
    const rows *r = ctx;
    (void)thread;
    r->k->add(r->y + from, r->x + from, to - from);
}

void cpu_add(mr_backend *b, float *y, const float *x, int64_t n) {
    if (cpu_failed(b)) return;
    rows r = { .k = cpu_kernels_of(b), .y = y, .x = x };
    cpu_share(b, 0.15 * (double)n, add_elements, &r, n, 16);
}
