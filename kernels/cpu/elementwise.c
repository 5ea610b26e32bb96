/* elementwise.c - normalization, rotation, the gated activation and sums: the operations that treat each row alone.
 *
 * Threads get ranges of rows (of columns for a weight gradient); the loops are in isa_elementwise.inc. */
#include <assert.h>

#include "cpu/isa.h"

void cpu_rmsnorm(mr_backend *b, float *y, int ldy, const float *x, int ldx, const float *w, int N, int C, float eps) {
    if (cpu_failed(b)) return;
    assert(C > 0 && ldy >= C && ldx >= C);
    const cpu_kernels *k = cpu_kernels_of(b);
    int n_threads = cpu_threads(b, 0.15 * N * C);
#pragma omp parallel num_threads(n_threads)
    {
        int64_t from, to;
        cpu_range(&from, &to, N, 1, omp_get_thread_num(), omp_get_num_threads());
        k->rmsnorm(y + from * ldy, ldy, x + from * ldx, ldx, w, (int)(to - from), C, eps);
    }
}

void cpu_rmsnorm_bwd(mr_backend *b, float *dx, int lddx, float *dw, const float *dy, int lddy, const float *x, int ldx,
                     const float *w, int N, int C, float eps) {
    if (cpu_failed(b) || N <= 0) return;
    assert(C > 0 && lddx >= C && lddy >= C && ldx >= C);
    const cpu_kernels *k = cpu_kernels_of(b);
    float *inv_rms = cpu_scratch(b, CPU_SLOT_SHARED, (size_t)N * sizeof *inv_rms);
    if (!inv_rms) return;
    int n_threads = cpu_threads(b, 0.3 * N * C);
#pragma omp parallel num_threads(n_threads)
    {
        int64_t from, to;
        cpu_range(&from, &to, N, 1, omp_get_thread_num(), omp_get_num_threads());
        k->rmsnorm_dx(dx + from * lddx, lddx, inv_rms + from, dy + from * lddy, lddy, x + from * ldx, ldx, w,
                      (int)(to - from), C, eps);
        if (dw) {
#pragma omp barrier
            cpu_range(&from, &to, C, 16, omp_get_thread_num(), omp_get_num_threads());
            k->rmsnorm_dw(dw, inv_rms, dy, lddy, x, ldx, N, (int)from, (int)to);
        }
    }
}

void cpu_rope(mr_backend *b, float *x, int ldx, const int32_t *pos, const float *inv_freq, int N, int H, int D,
              bool inverse) {
    if (cpu_failed(b)) return;
    assert(D % 2 == 0 && D <= CPU_MAX_D && ldx >= H * D);
    const cpu_kernels *k = cpu_kernels_of(b);
    int n_threads = cpu_threads(b, 0.15 * N * (H + 4) * D);
#pragma omp parallel num_threads(n_threads)
    {
        int64_t from, to;
        cpu_range(&from, &to, N, 1, omp_get_thread_num(), omp_get_num_threads());
        k->rope(x + from * ldx, ldx, pos + from, inv_freq, (int)(to - from), H, D, inverse);
    }
}

void cpu_silu_mul(mr_backend *b, float *y, const float *gu, int N, int F) {
    if (cpu_failed(b)) return;
    const cpu_kernels *k = cpu_kernels_of(b);
    int n_threads = cpu_threads(b, 0.5 * N * F);
#pragma omp parallel num_threads(n_threads)
    {
        int64_t from, to;
        cpu_range(&from, &to, N, 1, omp_get_thread_num(), omp_get_num_threads());
        k->silu_mul(y + from * F, gu + 2 * from * F, (int)(to - from), F);
    }
}

void cpu_silu_mul_bwd(mr_backend *b, float *dgu, const float *dy, const float *gu, int N, int F) {
    if (cpu_failed(b)) return;
    assert(dgu != gu);
    const cpu_kernels *k = cpu_kernels_of(b);
    int n_threads = cpu_threads(b, 0.8 * N * F);
#pragma omp parallel num_threads(n_threads)
    {
        int64_t from, to;
        cpu_range(&from, &to, N, 1, omp_get_thread_num(), omp_get_num_threads());
        k->silu_mul_bwd(dgu + 2 * from * F, dy + from * F, gu + 2 * from * F, (int)(to - from), F);
    }
}

void cpu_add(mr_backend *b, float *y, const float *x, int64_t n) {
    if (cpu_failed(b)) return;
    const cpu_kernels *k = cpu_kernels_of(b);
    int n_threads = cpu_threads(b, 0.15 * (double)n);
#pragma omp parallel num_threads(n_threads)
    {
        int64_t from, to;
        cpu_range(&from, &to, n, 16, omp_get_thread_num(), omp_get_num_threads());
        k->add(y + from, x + from, to - from);
    }
}
