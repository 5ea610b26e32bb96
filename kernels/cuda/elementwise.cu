/* elementwise.cu - normalization, rotation, the gated activation and sums: the operations that treat each row alone. */
#include <assert.h>

#include "cuda/half.cuh"

enum { THREADS = 256, ROPE_THREADS = 96 };

static inline int blocks_for(int64_t n, int each) {
    int64_t blocks = (n + each - 1) / each;
    return (int)(blocks < 1 ? 1 : blocks < 65535 * 8 ? blocks : 65535 * 8); /* kernels walk on from there */
}

/* --- rmsnorm --- */

/* One block a row, whatever N is; a thread has every blockDim.x-th value and sums their squares in order, then block_sum. ROW: how many
 * values a thread keeps in registers, so that a row is read once and all its loads are on their way together; 0: rows longer than
 * that, read again from the cache. Neither shows in the bits: x[] is 0 behind the row's end. */
enum { LONG = 16 };

template <int ROW> __device__ inline float row_at(const float *kept, const float *x, int i, int c) { return ROW ? kept[i] : x[c]; }

template <int ROW> __device__ static float inverse_rms(float *kept, const float *x, int C, float eps, float *room) {
    float sum = 0;
    if (ROW) {
#pragma unroll
        for (int i = 0; i < ROW; i++) {
            int c = threadIdx.x + i * blockDim.x;
            kept[i] = c < C ? x[c] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < ROW; i++) sum = fmaf(kept[i], kept[i], sum);
    } else {
        for (int c = threadIdx.x; c < C; c += blockDim.x) sum = fmaf(x[c], x[c], sum);
    }
    return 1.0f / sqrtf(block_sum(sum, room) / (float)C + eps);
}

/* body(i, c) for a thread's values: number i of them, which is x[c]. */
template <int ROW, typename F> __device__ inline void for_row(int C, F body) {
    if (ROW) {
#pragma unroll
        for (int i = 0; i < ROW; i++) {
            int c = threadIdx.x + i * blockDim.x;
            if (c < C) body(i, c);
        }
    } else {
        for (int c = threadIdx.x; c < C; c += blockDim.x) body(0, c);
    }
}

/* y = x * w / rms(x), a block's work. Also to packed, where the row is number `row`. */
template <int ROW, int LAYOUT>
__device__ inline void norm_row(float *y, const float *x, const float *w, int C, float eps, const packed_rows &packed, int row) {
    __shared__ float room[32];
    float kept[ROW ? ROW : 1], weight[ROW ? ROW : 1];
    let_next_begin();
    if (ROW) for_row<ROW>(C, [&](int i, int c) { weight[i] = w[c]; }); /* on their way while the sum waits: few rows are all waiting */
    follow();
    float inv = inverse_rms<ROW>(kept, x, C, eps, room);
    for_row<ROW>(C, [&](int i, int c) {
        float v = row_at<ROW>(kept, x, i, c) * inv * (ROW ? weight[i] : w[c]);
        y[c] = v;
        put_packed<LAYOUT>(packed, row, c, v);
    });
}

template <int ROW, int LAYOUT>
__global__ static void __launch_bounds__(THREADS) rmsnorm_kernel(float *y, int ldy, const float *x, int ldx, const float *w, int C,
                                                                 float eps, packed_rows packed) {
    norm_row<ROW, LAYOUT>(y + (int64_t)blockIdx.x * ldy, x + (int64_t)blockIdx.x * ldx, w, C, eps, packed, (int)blockIdx.x);
}

/* A head of D: CU_MAX_D / 32 values a thread at most. */
enum { HEAD = 8 };
static_assert(HEAD * 32 >= CU_MAX_D, "a warp holds a head");

/* Block (row, head): the query heads, then the key heads. */
__global__ static void __launch_bounds__(THREADS) head_norm_kernel(float *y, const float *x, int ld, const float *wq, const float *wk, int H,
                                                                   int D, float eps) {
    int64_t at = (int64_t)blockIdx.x * ld + blockIdx.y * D;
    norm_row<HEAD, CU_PACKED>(y + at, x + at, (int)blockIdx.y < H ? wq : wk, D, eps, packed_rows{}, 0);
}

/* With r = 1 / rms(x) and h = dy * w:  dx += r * (h - x * r^2 * mean(h * x)). Also to packed, where the row is number `row`. Returns r, to all
 * threads. */
template <int ROW>
__device__ inline float norm_dx_row(float *dx, const float *dy, const float *x, const float *w, int C, float eps, const packed_rows &packed,
                                    int row) {
    __shared__ float room[32];
    enum { KEEP = ROW ? ROW : 1 };
    float kept[KEEP], h[KEEP], old[KEEP];
    if (ROW) for_row<ROW>(C, [&](int i, int c) { h[i] = dy[c] * w[c], old[i] = dx[c]; });
    float inv = inverse_rms<ROW>(kept, x, C, eps, room), sum = 0;
    for_row<ROW>(C, [&](int i, int c) { sum = fmaf(ROW ? h[i] : dy[c] * w[c], row_at<ROW>(kept, x, i, c), sum); });
    float k = block_sum(sum, room) / (float)C * inv * inv;
    for_row<ROW>(C, [&](int i, int c) {
        float v = fmaf(fmaf(-row_at<ROW>(kept, x, i, c), k, ROW ? h[i] : dy[c] * w[c]), inv, ROW ? old[i] : dx[c]);
        dx[c] = v;
        put_packed<CU_PLAIN>(packed, row, c, v);
    });
    return inv;
}

template <int ROW>
__global__ static void __launch_bounds__(THREADS) rmsnorm_dx_kernel(float *dx, int lddx, float *inv_rms, const float *dy, int lddy,
                                                                    const float *x, int ldx, const float *w, int C, float eps, packed_rows packed) {
    int64_t row = blockIdx.x;
    float inv = norm_dx_row<ROW>(dx + row * lddx, dy + row * lddy, x + row * ldx, w, C, eps, packed, (int)row);
    if (threadIdx.x == 0) inv_rms[row] = inv;
}

__global__ static void __launch_bounds__(THREADS) head_norm_dx_kernel(float *dx, const float *dy, const float *x, int ld, const float *wq,
                                                                      const float *wk, int H, int D, float eps) {
    int64_t at = (int64_t)blockIdx.x * ld + blockIdx.y * D;
    norm_dx_row<HEAD>(dx + at, dy + at, x + at, (int)blockIdx.y < H ? wq : wk, D, eps, packed_rows{}, 0);
}

/* Rows in order for each column. */
__global__ static void rmsnorm_dw_kernel(float *dw, const float *inv_rms, const float *dy, int lddy, const float *x,
                                         int ldx, int N, int C) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= C) return;
    float sum = dw[c];
#pragma unroll 16
    for (int r = 0; r < N; r++) sum = fmaf(dy[(int64_t)r * lddy + c], x[(int64_t)r * ldx + c] * inv_rms[r], sum);
    dw[c] = sum;
}

/* Threads of a row's block: by C alone, since the order of its sum depends on it. */
static inline int row_threads(int C) { return C <= 128 ? 32 : THREADS; }

template <int ROW>
static void norm_rows(mr_backend *b, float *y, int ldy, const float *x, int ldx, const float *w, int N, int C, float eps, const packed_rows &packed) {
    by_layout(packed, [&](auto layout) {
        auto kernel = rmsnorm_kernel<ROW, decltype(layout)::value>;
        LAUNCH_EARLY(b, "rmsnorm", kernel, N, row_threads(C), 0, y, ldy, x, ldx, w, C, eps, packed);
    });
}

void cu_rmsnorm(mr_backend *b, float *y, int ldy, const float *x, int ldx, const float *w, int N, int C, float eps) {
    if (cu_failed(b) || N <= 0) return;
    assert(C > 0 && ldy >= C && ldx >= C);
    int threads = row_threads(C);
    packed_rows packed = {};
    if (ldy == C) packed = packed_rows_for(b, "rmsnorm", N, C);
    if (C <= threads * LONG / 2)
        norm_rows<LONG / 2>(b, y, ldy, x, ldx, w, N, C, eps, packed);
    else if (C <= threads * LONG)
        norm_rows<LONG>(b, y, ldy, x, ldx, w, N, C, eps, packed);
    else
        norm_rows<0>(b, y, ldy, x, ldx, w, N, C, eps, packed);
    if (packed.at)
        cu_packed_note(b, packed.at, y, N, C);
    else
        cu_packed_still(b, y, (int64_t)(N - 1) * ldy + C);
}

void cu_rmsnorm_bwd(mr_backend *b, float *dx, int lddx, float *dw, const float *dy, int lddy, const float *x, int ldx,
                    const float *w, int N, int C, float eps) {
    if (cu_failed(b) || N <= 0) return;
    assert(C > 0 && lddx >= C && lddy >= C && ldx >= C);
    float *inv = (float *)cu_scratch(b, "rmsnorm_bwd", CU_SLOT_ROWS, (size_t)N * sizeof(float));
    if (!inv) return;
    packed_rows packed = {};
    if (lddx == C) packed = gradient_rows_for(b, "rmsnorm_bwd", dx, N, C);
    int threads = row_threads(C);
    if (C <= threads * LONG / 2)
        LAUNCH(b, "rmsnorm_bwd", rmsnorm_dx_kernel<LONG / 2>, N, threads, 0, dx, lddx, inv, dy, lddy, x, ldx, w, C, eps, packed);
    else if (C <= threads * LONG)
        LAUNCH(b, "rmsnorm_bwd", rmsnorm_dx_kernel<LONG>, N, threads, 0, dx, lddx, inv, dy, lddy, x, ldx, w, C, eps, packed);
    else
        LAUNCH(b, "rmsnorm_bwd", rmsnorm_dx_kernel<0>, N, threads, 0, dx, lddx, inv, dy, lddy, x, ldx, w, C, eps, packed);
    if (dw) LAUNCH(b, "rmsnorm_bwd", rmsnorm_dw_kernel, (C + 31) / 32, 32, 0, dw, inv, dy, lddy, x, ldx, N, C);
    if (packed.at) cu_gradient_note(b, packed.at, dx, N, C, packed.k);
}

void cu_head_norm(mr_backend *b, float *y, const float *x, int ld, const float *wq, const float *wk, int N, int H, int K, int D, float eps) {
    if (cu_failed(b) || N <= 0) return;
    assert(D > 0 && D <= CU_MAX_D && ld >= (H + K) * D);
    LAUNCH_EARLY(b, "head_norm", head_norm_kernel, dim3((unsigned)N, (unsigned)(H + K)), row_threads(D), 0, y, x, ld, wq, wk, H, D, eps);
}

void cu_head_norm_bwd(mr_backend *b, float *dx, float *dwq, float *dwk, const float *dy, const float *x, int ld, const float *wq,
                      const float *wk, int N, int H, int K, int D, float eps) {
    if (cu_failed(b) || N <= 0) return;
    assert(D > 0 && D <= CU_MAX_D && ld >= (H + K) * D);
    if (dwq || dwk) { /* weights are trained: head after head */
        for (int h = 0; h < H + K; h++)
            cu_rmsnorm_bwd(b, dx + h * D, ld, h < H ? dwq : dwk, dy + h * D, ld, x + h * D, ld, h < H ? wq : wk, N, D, eps);
        return;
    }
    LAUNCH(b, "head_norm_bwd", head_norm_dx_kernel, dim3((unsigned)N, (unsigned)(H + K)), row_threads(D), 0, dx, dy, x, ld, wq, wk, H, D, eps);
}

/* --- rope --- */

/* V neighboring values from a place that is a multiple of V values (V = 4: at 16 bytes). */
template <int V> struct values {
    float x[V];
};
template <int V> __device__ inline values<V> load_values(const float *from) {
    values<V> v;
    if (V == 4) {
        float4 four = *(const float4 *)from;
        v.x[0] = four.x, v.x[1 % V] = four.y, v.x[2 % V] = four.z, v.x[3 % V] = four.w;
    } else {
        for (int i = 0; i < V; i++) v.x[i] = from[i];
    }
    return v;
}
template <int V> __device__ inline void store_values(float *to, const values<V> &v) {
    if (V == 4) {
        float4 four = { v.x[0], v.x[1 % V], v.x[2 % V], v.x[3 % V] };
        *(float4 *)to = four;
    } else {
        for (int i = 0; i < V; i++) to[i] = v.x[i];
    }
}

/* Whether V = 4 does for rows that are ld apart. */
static inline bool by_four(const void *p, int64_t ld) { return (uintptr_t)p % 16 == 0 && ld % 4 == 0; }

/* Four of them in 16 bits. */
template <int V> __device__ inline void put_four(const packed_rows &p, int64_t at, const values<V> &v) {
    float a = v.x[0], b = v.x[1 % V], c = v.x[2 % V], d = v.x[3 % V];
    *(uint2 *)(p.at + at) = p.type == F16 ? make_uint2(pack2<F16>(a, b), pack2<F16>(c, d)) : make_uint2(pack2<BF16>(a, b), pack2<BF16>(c, d));
}

/* One block a row; a thread has V pairs (i, i + D/2) of every few heads, whose angles are the same. They are f32 products, as in
 * transformers' rotary embedding. Rows as long as ldx, with what lies behind the heads, also go to packed (V = 4). */
template <int V>
__global__ static void rope_kernel(float *x, int ldx, const int32_t *pos, const float *inv_freq, int H, int D, bool inverse, packed_rows packed) {
    int half = D / 2, in_head = half / V, tid = threadIdx.x, i = tid % in_head * V, step = (int)blockDim.x / in_head;
    follow();
    if (V == 4 && packed.at)
        for (int c = H * D + 4 * tid; c < ldx; c += 4 * (int)blockDim.x)
            put_four(packed, (int64_t)blockIdx.x * packed.k + c, load_values<4>(x + (int64_t)blockIdx.x * ldx + c));
    if (tid >= step * in_head) return;
    float *row = x + (int64_t)blockIdx.x * ldx + i, p = (float)pos[blockIdx.x], s[V], c[V];
    int64_t to = (int64_t)blockIdx.x * packed.k + i;
#pragma unroll
    for (int v = 0; v < V; v++) {
        sine_cosine(&s[v], &c[v], p * inv_freq[i + v]);
        if (inverse) s[v] = -s[v];
    }
#pragma unroll 3
    for (int h = tid / in_head; h < H; h += step) {
        values<V> lo = load_values<V>(row + h * D), hi = load_values<V>(row + h * D + half);
#pragma unroll
        for (int v = 0; v < V; v++) {
            rotate(&lo.x[v], &hi.x[v], s[v], c[v]);
        }
        store_values<V>(row + h * D, lo), store_values<V>(row + h * D + half, hi);
        if (V == 4 && packed.at) put_four(packed, to + h * D, lo), put_four(packed, to + h * D + half, hi);
    }
}

void cu_rope(mr_backend *b, float *x, int ldx, const int32_t *pos, const float *inv_freq, int N, int H, int D,
             bool inverse) {
    if (cu_failed(b) || N <= 0) return;
    assert(D % 2 == 0 && D <= CU_MAX_D && ldx >= H * D);
    bool fours = by_four(x, ldx) && D % 8 == 0;
    packed_rows packed = {};
    if (fours && inverse) packed = gradient_rows_for(b, "rope", x, N, ldx);
    if (fours)
        LAUNCH_EARLY(b, "rope", rope_kernel<4>, N, ROPE_THREADS, 0, x, ldx, pos, inv_freq, H, D, inverse, packed);
    else
        LAUNCH_EARLY(b, "rope", rope_kernel<1>, N, THREADS, 0, x, ldx, pos, inv_freq, H, D, inverse, packed);
    if (packed.at) cu_gradient_note(b, packed.at, x, N, ldx, packed.k);
}

/* --- silu, add --- */

/* Threads of a block, and how many groups of V columns each has: their loads are on their way together. */
enum { GATE_THREADS = 128, GATES = 2 };

template <int V>
__global__ static void __launch_bounds__(GATE_THREADS) silu_mul_kernel(float *y, const float *gu, int F, int N) {
    follow();
    int first = (blockIdx.x * GATES * GATE_THREADS + threadIdx.x) * V;
    for (int64_t row = blockIdx.y; row < N; row += gridDim.y) {
        const float *from = gu + 2 * row * F;
        values<V> g[GATES], up[GATES];
#pragma unroll
        for (int k = 0; k < GATES; k++) {
            int c = first + k * GATE_THREADS * V;
            if (c < F) g[k] = load_values<V>(from + c), up[k] = load_values<V>(from + F + c);
        }
#pragma unroll
        for (int k = 0; k < GATES; k++) {
            int c = first + k * GATE_THREADS * V;
            if (c >= F) break;
#pragma unroll
            for (int v = 0; v < V; v++) g[k].x[v] = g[k].x[v] / (1.0f + exp_f32(-g[k].x[v])) * up[k].x[v];
            store_values<V>(y + row * F + c, g[k]);
        }
    }
}

/* With s = 1 / (1 + e^-g): dg = dy * up * s * (1 + g * (1 - s)), dup = dy * g * s. */
template <int V>
__global__ static void __launch_bounds__(GATE_THREADS) silu_mul_bwd_kernel(float *dgu, const float *dy, const float *gu, int F, int N) {
    int first = (blockIdx.x * GATES * GATE_THREADS + threadIdx.x) * V;
    for (int64_t row = blockIdx.y; row < N; row += gridDim.y) {
        const float *from = gu + 2 * row * F;
        float *to = dgu + 2 * row * F;
        values<V> g[GATES], up[GATES], d[GATES];
#pragma unroll
        for (int k = 0; k < GATES; k++) {
            int c = first + k * GATE_THREADS * V;
            if (c < F) g[k] = load_values<V>(from + c), up[k] = load_values<V>(from + F + c), d[k] = load_values<V>(dy + row * F + c);
        }
#pragma unroll
        for (int k = 0; k < GATES; k++) {
            int c = first + k * GATE_THREADS * V;
            if (c >= F) break;
#pragma unroll
            for (int v = 0; v < V; v++) {
                float z = g[k].x[v], s = 1.0f / (1.0f + exp_f32(-z)), slope = s * fmaf(z, 1.0f - s, 1.0f);
                g[k].x[v] = d[k].x[v] * up[k].x[v] * slope;
                up[k].x[v] = d[k].x[v] * (z * s);
            }
            store_values<V>(to + c, g[k]), store_values<V>(to + F + c, up[k]);
        }
    }
}

static inline dim3 rows_grid(int N, int columns, int each) {
    return dim3((unsigned)((columns + each - 1) / each), (unsigned)(N < 32768 ? N : 32768));
}

template <int V> __global__ static void add_kernel(float *y, const float *x, int64_t n) {
    int64_t step = (int64_t)gridDim.x * blockDim.x;
#pragma unroll 2
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n / V; i += step) {
        values<V> to = load_values<V>(y + V * i), more = load_values<V>(x + V * i);
#pragma unroll
        for (int v = 0; v < V; v++) to.x[v] += more.x[v];
        store_values<V>(y + V * i, to);
    }
}

void cu_silu_mul(mr_backend *b, float *y, const float *gu, int N, int F) {
    if (cu_failed(b) || N <= 0) return;
    if (by_four(y, F) && by_four(gu, F))
        LAUNCH_EARLY(b, "silu_mul", silu_mul_kernel<4>, rows_grid(N, F, 4 * GATES * GATE_THREADS), GATE_THREADS, 0, y, gu, F, N);
    else
        LAUNCH_EARLY(b, "silu_mul", silu_mul_kernel<1>, rows_grid(N, F, GATES * GATE_THREADS), GATE_THREADS, 0, y, gu, F, N);
}

void cu_silu_mul_bwd(mr_backend *b, float *dgu, const float *dy, const float *gu, int N, int F) {
    if (cu_failed(b) || N <= 0) return;
    assert(dgu != gu);
    if (by_four(dgu, F) && by_four(dy, F) && by_four(gu, F))
        LAUNCH(b, "silu_mul_bwd", silu_mul_bwd_kernel<4>, rows_grid(N, F, 4 * GATES * GATE_THREADS), GATE_THREADS, 0, dgu, dy, gu, F, N);
    else
        LAUNCH(b, "silu_mul_bwd", silu_mul_bwd_kernel<1>, rows_grid(N, F, GATES * GATE_THREADS), GATE_THREADS, 0, dgu, dy, gu, F, N);
}

void cu_add(mr_backend *b, float *y, const float *x, int64_t n) {
    if (cu_failed(b) || n <= 0) return;
    if (by_four(y, n) && by_four(x, n))
        LAUNCH(b, "add", add_kernel<4>, blocks_for(n, 2 * 4 * THREADS), THREADS, 0, y, x, n);
    else
        LAUNCH(b, "add", add_kernel<1>, blocks_for(n, THREADS), THREADS, 0, y, x, n);
}
