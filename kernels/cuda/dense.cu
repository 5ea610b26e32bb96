/* dense.cu - products of many rows on tensor cores, and f32 products: gemm.cuh. */
#include "cuda/gemm.cuh"
#include "cuda/lt.h"

/* --- 16 bits --- */

/* Where chunk c of row r lies among the row's BK / 8 chunks. */
template <int BK> __device__ inline int place(int r, int c) {
    return BK == 32 ? c ^ (r >> 1 & 3) : c ^ (r & 7);
}

/* One segment of K, [k0, k1), or as many as the grid is high: then each to its own rows of y, n_rows apart; or whole. Tiles of BM x BN, a warp
 * has WM x WN; BK columns of K are a stage. Shared memory: rows of 16-byte chunks whose place is XORed with the row, so that ldmatrix's
 * eight rows meet eight different banks. */
template <int T, int BM, int BN, int WM, int WN, int BK, int STAGES, bool BACKWARD>
__global__ static void __launch_bounds__(BM / WM * (BN / WN) * 32)
    dense_kernel(dense_product p, int64_t k0, int64_t k1, const float *onto, const float *bias) {
    constexpr int THREADS = BM / WM * (BN / WN) * 32, MI = WM / 16, NI = WN / 8, X_CHUNKS = BM * (BK / 8),
                  W_CHUNKS = BN * (BK / 8), STAGE = (BM + BN) * BK;
    k0 += blockIdx.y * (int64_t)CU_K_SEGMENT;
    if (!p.whole && k1 - k0 > CU_K_SEGMENT) k1 = k0 + CU_K_SEGMENT;
    p.y += blockIdx.y * p.n_rows * p.ldy;
    SHARED_BYTES(bytes);
    u16 *shared = (u16 *)bytes;
    int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
    int wm = warp % (BM / WM) * WM, wn = warp / (BM / WM) * WN;
    /* blocks that run together share tiles of w: 8 tiles of rows at a time */
    int64_t tiles_m = (p.n_rows + BM - 1) / BM, tiles_n = (p.n_cols + BN - 1) / BN, band = tiles_m < 8 ? tiles_m : 8;
    int64_t at = blockIdx.x, group = at / (band * tiles_n), in = at % (band * tiles_n);
    int64_t here = tiles_m - group * band < band ? tiles_m - group * band : band;
    int64_t m0 = (group * band + in % here) * BM, n0 = in / here * BN;
    int64_t steps = (k1 - k0 + BK - 1) / BK;

    auto fetch = [&](int64_t step) {
        u16 *sx = shared + step % STAGES * STAGE, *sw = sx + BM * BK;
        int64_t k = k0 + step * BK;
#pragma unroll
        for (int i = tid; i < X_CHUNKS; i += THREADS) {
            int r = i / (BK / 8), c = i % (BK / 8);
            bool ok = m0 + r < p.n_rows && k + c * 8 < k1;
            copy16(sx + r * BK + place<BK>(r, c) * 8, ok ? p.x + (m0 + r) * p.ldx + k + c * 8 : p.x, ok);
        }
        if (BACKWARD) { /* rows of w are K */
#pragma unroll
            for (int i = tid; i < W_CHUNKS; i += THREADS) {
                int r = i / (BN / 8), c = i % (BN / 8);
                bool ok = k + r < k1 && n0 + c * 8 < p.n_cols;
                copy16(sw + r * BN + (c ^ (r & 7)) * 8, ok ? p.w + (k + r) * p.ldw + n0 + c * 8 : p.w, ok);
            }
        } else {
#pragma unroll
            for (int i = tid; i < W_CHUNKS; i += THREADS) {
                int r = i / (BK / 8), c = i % (BK / 8);
                bool ok = n0 + r < p.n_cols && k + c * 8 < k1;
                copy16(sw + r * BK + place<BK>(r, c) * 8, ok ? p.w + (n0 + r) * p.ldw + k + c * 8 : p.w, ok);
            }
        }
    };

    float acc[MI][NI][4];
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NI; j++)
#pragma unroll
            for (int q = 0; q < 4; q++) acc[i][j][q] = 0.0f;
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) fetch(s);
        copy_commit();
    }
    for (int64_t step = 0; step < steps; step++) {
        copy_wait<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < steps) fetch(step + STAGES - 1);
        copy_commit();
        const u16 *sx = shared + step % STAGES * STAGE, *sw = sx + BM * BK;
#pragma unroll
        for (int kk = 0; kk < BK / 16; kk++) {
            uint32_t a[MI][4], b[NI][2];
#pragma unroll
            for (int i = 0; i < MI; i++) {
                int r = wm + i * 16 + (lane & 15), c = kk * 2 + (lane >> 4);
                load_matrices(a[i], sx + r * BK + place<BK>(r, c) * 8);
            }
#pragma unroll
            for (int j = 0; j < NI; j += 2) {
                uint32_t m[4];
                if (BACKWARD) {
                    int r = kk * 16 + (lane & 15), c = (wn + j * 8) / 8 + (lane >> 4);
                    load_transposed(m, sw + r * BN + (c ^ (r & 7)) * 8);
                } else {
                    int r = wn + j * 8 + (lane & 7) + (lane >> 4 << 3), c = kk * 2 + (lane >> 3 & 1);
                    load_matrices(m, sw + r * BK + place<BK>(r, c) * 8);
                }
                b[j][0] = m[0], b[j][1] = m[1], b[j + 1][0] = m[2], b[j + 1][1] = m[3];
            }
#pragma unroll
            for (int i = 0; i < MI; i++)
#pragma unroll
                for (int j = 0; j < NI; j++) mma16<T>(acc[i][j], a[i], b[j]);
        }
    }
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NI; j++)
#pragma unroll
            for (int q = 0; q < 4; q++) {
                int64_t r = m0 + wm + i * 16 + (lane >> 2) + q / 2 * 8, c = n0 + wn + j * 8 + (lane & 3) * 2 + q % 2;
                if (r >= p.n_rows || c >= p.n_cols) continue;
                int64_t to = r * p.ldy + c;
                float v = onto ? fmaf(p.alpha, acc[i][j][q], onto[to]) : p.alpha * acc[i][j][q];
                p.y[to] = bias ? v + bias[c] : v;
            }
}

/* One segment, by our own kernel; or all that [k0, k1) has. */
template <int T, int BM, int BN, int WM, int WN, int BK, int STAGES, bool BACKWARD>
static void launch(mr_backend *b, const char *op, const dense_product &p, int64_t k0, int64_t k1, const float *onto,
                   const float *bias) {
    unsigned segments = p.whole ? 1 : (unsigned)((k1 - k0 + CU_K_SEGMENT - 1) / CU_K_SEGMENT);
    int64_t tiles = (p.n_rows + BM - 1) / BM * ((p.n_cols + BN - 1) / BN);
    auto kernel = dense_kernel<T, BM, BN, WM, WN, BK, STAGES, BACKWARD>;
    LAUNCH(b, op, kernel, dim3((unsigned)tiles, segments), BM / WM * (BN / WN) * 32, STAGES * (BM + BN) * BK * (int)sizeof(u16),
           p, k0, k1, onto, bias);
}

/* LoRA's inner side: too few tiles for all SMs, so that the chains' latency decides. Then tiles are small, the segments run at once, and much
 * of K lies between two barriers. */
static bool is_narrow(const mr_backend *b, const dense_product &p) {
    return p.n_cols <= 128 && (p.n_rows + 63) / 64 * ((p.n_cols + 63) / 64) < cu_of(b)->n_sm;
}

/* STAGES: what shared memory has room for, 96 KiB or (Turing) 64. */
template <int T, int STAGES, bool BACKWARD>
static void narrow_segments(mr_backend *b, const char *op, const dense_product &p, int64_t k0, int64_t k1, const float *onto,
                            const float *bias) {
    int64_t columns = (p.n_cols + 63) / 64 * ((k1 - k0 + CU_K_SEGMENT - 1) / CU_K_SEGMENT),
            enough = cu_of(b)->n_sm * 2 / 3;
    if ((p.n_rows + 63) / 64 * columns >= enough && STAGES == 3)
        launch<T, 64, 64, 16, 32, 128, 3, BACKWARD>(b, op, p, k0, k1, onto, bias);
    else if ((p.n_rows + 31) / 32 * columns >= enough)
        launch<T, 32, 64, 16, 32, 128, STAGES, BACKWARD>(b, op, p, k0, k1, onto, bias);
    else
        launch<T, 16, 64, 16, 16, 128, STAGES, BACKWARD>(b, op, p, k0, k1, onto, bias);
}

template <int T, bool BACKWARD>
static void own_segment(mr_backend *b, const char *op, const dense_product &p, int64_t k0, int64_t k1, const float *onto,
                        const float *bias) {
    int64_t large = (p.n_rows + 127) / 128 * ((p.n_cols + 127) / 128);
    if (is_narrow(b, p) && cu_of(b)->max_shared >= 96 << 10)
        narrow_segments<T, 3, BACKWARD>(b, op, p, k0, k1, onto, bias);
    else if (is_narrow(b, p))
        narrow_segments<T, 2, BACKWARD>(b, op, p, k0, k1, onto, bias);
    else if (p.n_rows > 64 && large >= cu_of(b)->n_sm / 2)
        launch<T, 128, 128, 64, 32, 32, 4, BACKWARD>(b, op, p, k0, k1, onto, bias); /* 64 KiB, what a Turing has */
    else
        launch<T, 64, 64, 32, 32, 32, 4, BACKWARD>(b, op, p, k0, k1, onto, bias);
}

/* For cuBLASLt's probe: a whole product of its own. */
template <int T, bool BACKWARD> static void own_product(mr_backend *b, const cu_lt_product *p, const void *op) {
    dense_product d = { p->y, p->ldy, p->x, p->ldx, p->w, p->ldw, p->n_rows, p->n_cols, p->k, BACKWARD, p->onto, p->alpha, NULL, true };
    own_segment<T, BACKWARD>(b, (const char *)op, d, 0, p->k, p->onto, NULL);
}

/* Two groups of four columns a thread where they go in fours at 16 bytes, whose loads are on their way together; else eight columns. */
enum { BIAS_THREADS = 128, BIAS_COLS = 8 * BIAS_THREADS };
template <bool FOURS> __global__ static void __launch_bounds__(BIAS_THREADS) add_bias_kernel(float *y, int64_t ldy, const float *bias, int64_t n_cols) {
    int64_t from = blockIdx.x * (int64_t)BIAS_COLS;
    y += blockIdx.y * ldy;
    if (FOURS) {
        float4 old[2], add[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int64_t c = from + 4 * (i * BIAS_THREADS + (int)threadIdx.x);
            if (c < n_cols) old[i] = *(const float4 *)(y + c), add[i] = *(const float4 *)(bias + c);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int64_t c = from + 4 * (i * BIAS_THREADS + (int)threadIdx.x);
            float4 sum = { old[i].x + add[i].x, old[i].y + add[i].y, old[i].z + add[i].z, old[i].w + add[i].w };
            if (c < n_cols) *(float4 *)(y + c) = sum;
        }
    } else {
        for (int64_t c = from + threadIdx.x; c < from + BIAS_COLS && c < n_cols; c += BIAS_THREADS) y[c] += bias[c];
    }
}

/* The segments' sums, n_rows * n_cols apart, in order. */
__global__ static void add_segments_kernel(dense_product p, const float *sums, int n_segments) {
    int64_t at = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, n = p.n_rows * p.n_cols;
    if (at >= n) return;
    int64_t to = at / p.n_cols * p.ldy + at % p.n_cols;
    float v = p.onto ? fmaf(p.alpha, sums[at], p.onto[to]) : p.alpha * sums[at];
    for (int s = 1; s < n_segments; s++) v = fmaf(p.alpha, sums[s * n + at], v);
    p.y[to] = p.bias ? v + p.bias[at % p.n_cols] : v;
}

/* A narrow product: one launch for all segments, in attention's scratch where there are several. False: not this way. */
template <int T, bool BACKWARD> static bool narrow(mr_backend *b, const char *op, const dense_product &p) {
    int64_t n = p.n_rows * p.n_cols, n_segments = (p.k + CU_K_SEGMENT - 1) / CU_K_SEGMENT;
    if (!is_narrow(b, p) || n * n_segments * (int64_t)sizeof(float) > CU_ATT_BYTES) return false;
    if (n_segments == 1) {
        own_segment<T, BACKWARD>(b, op, p, 0, p.k, p.onto, p.bias);
        return true;
    }
    float *sums = (float *)cu_scratch(b, op, CU_SLOT_ATT, CU_ATT_BYTES);
    if (!sums) return true;
    dense_product q = p;
    q.y = sums, q.ldy = p.n_cols, q.alpha = 1.0f;
    own_segment<T, BACKWARD>(b, op, q, 0, p.k, NULL, NULL);
    LAUNCH(b, op, add_segments_kernel, (int)((n + 255) / 256), 256, 0, p, (const float *)sums, (int)n_segments);
    return true;
}

static void add_bias(mr_backend *b, const char *op, const dense_product &p) {
    dim3 grid((unsigned)((p.n_cols + BIAS_COLS - 1) / BIAS_COLS), (unsigned)p.n_rows);
    bool fours = p.n_cols % 4 == 0 && p.ldy % 4 == 0 && (uintptr_t)p.y % 16 == 0 && (uintptr_t)p.bias % 16 == 0;
    if (fours)
        LAUNCH(b, op, add_bias_kernel<true>, grid, BIAS_THREADS, 0, p.y, p.ldy, p.bias, p.n_cols);
    else
        LAUNCH(b, op, add_bias_kernel<false>, grid, BIAS_THREADS, 0, p.y, p.ldy, p.bias, p.n_cols);
}

/* exact = false: the whole of K in one product of the library's own choice. False: not this way. */
template <int T, bool BACKWARD> static bool freely(mr_backend *b, const char *op, const dense_product &p) {
    cu_lt_product q = { p.y, p.x, p.w, p.ldy, p.ldx, p.ldw, p.n_rows, p.n_cols, p.k, T == F16, BACKWARD, p.onto, 1, 0, p.alpha };
    if (b->exact || p.n_rows > 65535 || !cu_lt_product_run(b, &q, own_product<T, BACKWARD>, op)) return false;
    if (p.bias) add_bias(b, op, p);
    return true;
}

enum {
    LIBRARY_ROWS = 1024
}; /* from here on its kernels are faster for narrow products too, one segment after the other */

template <int T, bool BACKWARD> static void segments(mr_backend *b, const char *op, const dense_product &p) {
    if (freely<T, BACKWARD>(b, op, p)) return;
    if (!p.whole && (p.n_rows < LIBRARY_ROWS || !cu_lt_there(b)) && narrow<T, BACKWARD>(b, op, p)) return;
    int64_t most = p.whole ? p.k : (int64_t)CU_K_SEGMENT;
    for (int64_t k0 = 0; k0 < p.k; k0 += most) {
        int64_t k1 = p.k - k0 < most ? p.k : k0 + most;
        const float *onto = k0 > 0 ? p.y : p.onto;
        const float *bias = k1 == p.k ? p.bias : NULL;
        cu_lt_product q = { p.y, p.x + k0, BACKWARD ? p.w + k0 * p.ldw : p.w + k0, p.ldy, p.ldx, p.ldw, p.n_rows, p.n_cols,
                            k1 - k0, T == F16, BACKWARD, onto, 1, 0, p.alpha };
        if (p.n_rows > 65535 || !cu_lt_product_run(b, &q, own_product<T, BACKWARD>, op)) {
            own_segment<T, BACKWARD>(b, op, p, k0, k1, onto, bias);
        } else if (bias) {
            add_bias(b, op, p);
        }
    }
}

void cu_dense(mr_backend *b, const char *op, int type, const dense_product *p) {
    if (p->n_rows <= 0 || cu_failed(b)) return;
    if (type == F16) {
        if (p->backward)
            segments<F16, true>(b, op, *p);
        else
            segments<F16, false>(b, op, *p);
    } else {
        if (p->backward)
            segments<BF16, true>(b, op, *p);
        else
            segments<BF16, false>(b, op, *p);
    }
}

bool cu_dense_batch(mr_backend *b, const char *op, int type, const dense_product *p, int n, int64_t step_y) {
    cu_lt_product q = { p->y, p->x, p->w, p->ldy, p->ldx, p->ldw, p->n_rows, p->n_cols, p->k, type == F16, false, NULL, n, step_y, p->alpha };
    return cu_lt_product_run(b, &q, type == F16 ? own_product<F16, false> : own_product<BF16, false>, op);
}

/* Integers: their order changes nothing. Place and bits are mixed as splitmix64 does. */
__global__ static void bits_kernel(unsigned long long *sum, const float *x, int64_t n) {
    unsigned long long mine = 0;
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        uint64_t v = (uint64_t)i * 0x9e3779b97f4a7c15u + __float_as_uint(x[i]);
        v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9u;
        v = (v ^ v >> 27) * 0x94d049bb133111ebu;
        mine += v ^ v >> 31;
    }
    for (int d = 16; d; d >>= 1) mine += __shfl_xor_sync(0xffffffffu, mine, d);
    if (threadIdx.x % 32 == 0) atomicAdd(sum, mine);
}

bool cu_bits_sum(mr_backend *b, const float *x, int64_t n, uint64_t *sum) {
    unsigned long long *room = (unsigned long long *)cu_scratch(b, "probe", CU_SLOT_ROWS, sizeof *room);
    if (!room) return false;
    b->zero(b, room, sizeof *room);
    LAUNCH(b, "probe", bits_kernel, 512, 256, 0, room, x, n);
    b->download(b, sum, room, sizeof *sum);
    return !cu_failed(b);
}

/* --- f32 --- */

enum { TILE = 64, DEPTH = 16 };

/* 256 threads, 4 x 4 elements each; both sides of a step of DEPTH in shared memory as [k][row]. load(k, i) fetches one value. */
template <typename A, typename B> __device__ static void f32_tile(float acc[4][4], int64_t k, A load_a, B load_b) {
    __shared__ float sa[DEPTH][TILE + 4], sb[DEPTH][TILE + 4];
    int tid = threadIdx.x, ty = tid / 16, tx = tid % 16;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) acc[i][j] = 0.0f;
    for (int64_t k0 = 0; k0 < k; k0 += DEPTH) {
        __syncthreads();
        for (int i = tid; i < TILE * DEPTH; i += 256) {
            load_a(sa, k0, i);
            load_b(sb, k0, i);
        }
        __syncthreads();
        int depth = k - k0 < DEPTH ? (int)(k - k0) : DEPTH;
        for (int d = 0; d < depth; d++) {
            float4 a = *(const float4 *)&sa[d][ty * 4], b = *(const float4 *)&sb[d][tx * 4];
            float av[4] = { a.x, a.y, a.z, a.w }, bv[4] = { b.x, b.y, b.z, b.w };
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) acc[i][j] = fmaf(av[i], bv[j], acc[i][j]);
        }
    }
}

typedef float f32_stage[TILE + 4];

__global__ static void __launch_bounds__(256) f32_kernel(f32_product p) {
    int64_t tiles_m = (p.n_rows + TILE - 1) / TILE, m0 = blockIdx.x % tiles_m * TILE, n0 = blockIdx.x / tiles_m * TILE;
    float acc[4][4];
    f32_tile(
        acc, p.k,
        [&](f32_stage *s, int64_t k0, int i) { /* neighbors along k */
            int64_t r = m0 + i / DEPTH, k = k0 + i % DEPTH;
            s[i % DEPTH][i / DEPTH] = r < p.n_rows && k < p.k ? p.x[r * p.ldx + k] : 0.0f;
        },
        [&](f32_stage *s, int64_t k0, int i) {
            if (p.backward) { /* neighbors along the columns of w */
                int64_t k = k0 + i / TILE, c = n0 + i % TILE;
                s[i / TILE][i % TILE] = k < p.k && c < p.n_cols ? weight_value(p.w, k, c) : 0.0f;
            } else {
                int64_t c = n0 + i / DEPTH, k = k0 + i % DEPTH;
                s[i % DEPTH][i / DEPTH] = k < p.k && c < p.n_cols ? weight_value(p.w, c, k) : 0.0f;
            }
        });
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            int64_t r = m0 + threadIdx.x / 16 * 4 + i, c = n0 + threadIdx.x % 16 * 4 + j;
            if (r >= p.n_rows || c >= p.n_cols) continue;
            int64_t at = r * p.ldy + c;
            float v = p.onto ? fmaf(p.alpha, acc[i][j], p.onto[at]) : p.alpha * acc[i][j];
            p.y[at] = p.bias ? v + p.bias[c] : v;
        }
}

void cu_f32(mr_backend *b, const char *op, const f32_product *p) {
    if (p->n_rows <= 0 || cu_failed(b)) return;
    int64_t tiles = (p->n_rows + TILE - 1) / TILE * ((p->n_cols + TILE - 1) / TILE);
    LAUNCH(b, op, f32_kernel, (int)tiles, 256, 0, *p);
}
