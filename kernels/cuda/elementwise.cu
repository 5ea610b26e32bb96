/* elementwise.cu - normalization, rotation, the gated activation and sums: the operations that treat each row alone. */
#include <assert.h>

#include "cuda/device.cuh"

enum { THREADS = 256 };

static inline int blocks_for(int64_t n, int each) {
    int64_t blocks = (n + each - 1) / each;
    return (int)(blocks < 1 ? 1 : blocks < 65535 * 8 ? blocks : 65535 * 8); /* kernels walk on from there */
}

/* --- rmsnorm --- */

/* One block a row, whatever N is; a thread sums every THREADS-th square, then block_sum. */
__device__ static float inverse_rms(const float *x, int C, float eps, float *room) {
    float sum = 0;
    for (int c = threadIdx.x; c < C; c += blockDim.x) sum = fmaf(x[c], x[c], sum);
    return 1.0f / sqrtf(block_sum(sum, room) / (float)C + eps);
}

/* The same for rows of up to HELD values a thread, which are read at once, with the weights, and kept: the time of few rows is that
 * of waiting for memory. The bits of rmsnorm_kernel. */
enum { HELD = 16 };
template <int T> __global__ static void __launch_bounds__(T)
    rmsnorm_held_kernel(float *y, int ldy, const float *x, int ldx, const float *w, int C, float eps) {
    __shared__ float room[32];
    float row[HELD], weight[HELD], sum = 0;
    x += (int64_t)blockIdx.x * ldx, y += (int64_t)blockIdx.x * ldy;
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        int c = threadIdx.x + i * T;
        row[i] = c < C ? x[c] : 0.0f;
        weight[i] = c < C ? w[c] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < HELD; i++)
        if ((int)threadIdx.x + i * T < C) sum = fmaf(row[i], row[i], sum);
    float inv = 1.0f / sqrtf(block_sum(sum, room) / (float)C + eps);
#pragma unroll
    for (int i = 0; i < HELD; i++)
        if ((int)threadIdx.x + i * T < C) y[threadIdx.x + i * T] = row[i] * inv * weight[i];
}

__global__ static void rmsnorm_kernel(float *y, int ldy, const float *x, int ldx, const float *w, int C, float eps) {
    __shared__ float room[32];
    x += (int64_t)blockIdx.x * ldx, y += (int64_t)blockIdx.x * ldy;
    float inv = inverse_rms(x, C, eps, room);
    for (int c = threadIdx.x; c < C; c += blockDim.x) y[c] = x[c] * inv * w[c];
}

/* With r = 1 / rms(x) and h = dy * w:  dx += r * (h - x * r^2 * mean(h * x)). */
__global__ static void rmsnorm_dx_kernel(float *dx, int lddx, float *inv_rms, const float *dy, int lddy, const float *x,
                                         int ldx, const float *w, int C, float eps) {
    __shared__ float room[32];
    x += (int64_t)blockIdx.x * ldx, dy += (int64_t)blockIdx.x * lddy, dx += (int64_t)blockIdx.x * lddx;
    float inv = inverse_rms(x, C, eps, room), sum = 0;
    if (threadIdx.x == 0) inv_rms[blockIdx.x] = inv;
    for (int c = threadIdx.x; c < C; c += blockDim.x) sum = fmaf(dy[c] * w[c], x[c], sum);
    float k = block_sum(sum, room) / (float)C * inv * inv;
    for (int c = threadIdx.x; c < C; c += blockDim.x) dx[c] = fmaf(fmaf(-x[c], k, dy[c] * w[c]), inv, dx[c]);
}

/* Rows in order for each column. */
__global__ static void rmsnorm_dw_kernel(float *dw, const float *inv_rms, const float *dy, int lddy, const float *x,
                                         int ldx, int N, int C) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= C) return;
    float sum = dw[c];
    for (int r = 0; r < N; r++) sum = fmaf(dy[(int64_t)r * lddy + c], x[(int64_t)r * ldx + c] * inv_rms[r], sum);
    dw[c] = sum;
}

/* Threads of a row's block: by C alone, since the order of its sum depends on it. */
static inline int row_threads(int C) { return C <= 128 ? 32 : THREADS; }

void cu_rmsnorm(mr_backend *b, float *y, int ldy, const float *x, int ldx, const float *w, int N, int C, float eps) {
    if (cu_failed(b) || N <= 0) return;
    assert(C > 0 && ldy >= C && ldx >= C);
    if (C > 128 && C <= HELD * THREADS)
        LAUNCH(b, "rmsnorm", rmsnorm_held_kernel<THREADS>, N, THREADS, 0, y, ldy, x, ldx, w, C, eps);
    else
        LAUNCH(b, "rmsnorm", rmsnorm_kernel, N, row_threads(C), 0, y, ldy, x, ldx, w, C, eps);
}

void cu_rmsnorm_bwd(mr_backend *b, float *dx, int lddx, float *dw, const float *dy, int lddy, const float *x, int ldx,
                    const float *w, int N, int C, float eps) {
    if (cu_failed(b) || N <= 0) return;
    assert(C > 0 && lddx >= C && lddy >= C && ldx >= C);
    float *inv = (float *)cu_scratch(b, "rmsnorm_bwd", CU_SLOT_ROWS, (size_t)N * sizeof(float));
    if (!inv) return;
    LAUNCH(b, "rmsnorm_bwd", rmsnorm_dx_kernel, N, row_threads(C), 0, dx, lddx, inv, dy, lddy, x, ldx, w, C, eps);
    if (dw) LAUNCH(b, "rmsnorm_bwd", rmsnorm_dw_kernel, (C + 31) / 32, 32, 0, dw, inv, dy, lddy, x, ldx, N, C);
}

/* --- rope --- */

/* Sine and cosine to 2 ulp of 1 for 0 <= x < 1e6: the steps of kernels/cpu/vec.h. */
__device__ static void sine_cosine(float *sine, float *cosine, float x) {
    float n = rintf(x * 0x1.45f306p-1f);
    float r = fmaf(-n, 0x1.921fb6p+0f, x);
    r = fmaf(-n, -0x1.777a5cp-25f, r);
    r = fmaf(-n, -0x1.ee59dap-50f, r);
    float r2 = r * r;
    float s = fmaf(r2, 1.0f / 362880, -1.0f / 5040);
    s = fmaf(s, r2, 1.0f / 120);
    s = fmaf(s, r2, -1.0f / 6);
    s = fmaf(s * r2, r, r);
    float c = fmaf(r2, -1.0f / 3628800, 1.0f / 40320);
    c = fmaf(c, r2, -1.0f / 720);
    c = fmaf(c, r2, 1.0f / 24);
    c = fmaf(c, r2, -0.5f);
    c = fmaf(c, r2, 1.0f);
    int quadrant = (int)n & 3;
    float ss = quadrant & 1 ? c : s, cc = quadrant & 1 ? s : c;
    *sine = quadrant & 2 ? -ss : ss;
    *cosine = quadrant == 1 || quadrant == 2 ? -cc : cc;
}

/* One block a row, one thread a pair (i, i + D/2). The angles are f32 products, as in transformers' rotary embedding. */
__global__ static void rope_kernel(float *x, int ldx, const int32_t *pos, const float *inv_freq, int H, int D, bool inverse) {
    int half = D / 2;
    float *row = x + (int64_t)blockIdx.x * ldx, p = (float)pos[blockIdx.x];
    for (int at = threadIdx.x; at < H * half; at += blockDim.x) {
        int i = at % half, h = at / half;
        float s, c, *lo = row + h * D + i, *hi = lo + half, a = *lo, z = *hi;
        sine_cosine(&s, &c, p * inv_freq[i]);
        if (inverse) s = -s;
        *lo = fmaf(-z, s, a * c);
        *hi = fmaf(a, s, z * c);
    }
}

void cu_rope(mr_backend *b, float *x, int ldx, const int32_t *pos, const float *inv_freq, int N, int H, int D,
             bool inverse) {
    if (cu_failed(b) || N <= 0) return;
    assert(D % 2 == 0 && D <= CU_MAX_D && ldx >= H * D);
    LAUNCH(b, "rope", rope_kernel, N, THREADS, 0, x, ldx, pos, inv_freq, H, D, inverse);
}

/* --- silu, add --- */

__global__ static void silu_mul_kernel(float *y, const float *gu, int F, int N) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= F) return;
    for (int64_t row = blockIdx.y; row < N; row += gridDim.y) {
        float g = gu[2 * row * F + c], up = gu[(2 * row + 1) * F + c];
        y[row * F + c] = g / (1.0f + exp_f32(-g)) * up;
    }
}

/* With s = 1 / (1 + e^-g): dg = dy * up * s * (1 + g * (1 - s)), dup = dy * g * s. */
__global__ static void silu_mul_bwd_kernel(float *dgu, const float *dy, const float *gu, int F, int N) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= F) return;
    for (int64_t row = blockIdx.y; row < N; row += gridDim.y) {
        float g = gu[2 * row * F + c], up = gu[(2 * row + 1) * F + c], d = dy[row * F + c];
        float s = 1.0f / (1.0f + exp_f32(-g)), slope = s * fmaf(g, 1.0f - s, 1.0f);
        dgu[2 * row * F + c] = d * up * slope;
        dgu[(2 * row + 1) * F + c] = d * (g * s);
    }
}

static inline dim3 rows_grid(int N, int columns) {
    return dim3((unsigned)((columns + THREADS - 1) / THREADS), (unsigned)(N < 32768 ? N : 32768));
}

__global__ static void add_kernel(float *y, const float *x, int64_t n) {
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x)
        y[i] += x[i];
}

void cu_silu_mul(mr_backend *b, float *y, const float *gu, int N, int F) {
    if (cu_failed(b) || N <= 0) return;
    LAUNCH(b, "silu_mul", silu_mul_kernel, rows_grid(N, F), THREADS, 0, y, gu, F, N);
}

void cu_silu_mul_bwd(mr_backend *b, float *dgu, const float *dy, const float *gu, int N, int F) {
    if (cu_failed(b) || N <= 0) return;
    assert(dgu != gu);
    LAUNCH(b, "silu_mul_bwd", silu_mul_bwd_kernel, rows_grid(N, F), THREADS, 0, dgu, dy, gu, F, N);
}

void cu_add(mr_backend *b, float *y, const float *x, int64_t n) {
    if (cu_failed(b) || n <= 0) return;
    LAUNCH(b, "add", add_kernel, blocks_for(n, THREADS), THREADS, 0, y, x, n);
}
