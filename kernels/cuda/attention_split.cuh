/* attention_split.cuh - what attention_split.cu and attention_sm90.cu share: the store of keys and values, the pairs of a tile, a chunk's
 * softmax, the gradient of a score. See attention_split.cu. */
#ifndef MR_ATTENTION_SPLIT_CUH
#define MR_ATTENTION_SPLIT_CUH

#include "cuda/attention.cuh"

static __host__ __device__ inline int width_of(int D) { return (D + 15) / 16 * 16; }

/* 16-bit numbers of a chunk and head: 4 matrices and the marks. */
static __host__ __device__ inline int64_t chunk_size(int P) { return CHUNK * (4 * (int64_t)P + 2); }

__device__ inline const u16 *chunk_in(const float *kv, const chunk_ref &c, int kh, int K, int P) {
    return (const u16 *)kv + (c.index * K + kh) * chunk_size(P);
}

__device__ inline void stage_marks(float *to, const u16 *chunk, int P) {
    if (threadIdx.x < CHUNK / 4) copy16(to + threadIdx.x * 4, chunk + 4 * CHUNK * P + threadIdx.x * 8, true);
}


/* The halves of two neighbors of a row. */
__device__ inline void split2(uint32_t *hi, uint32_t *lo, float x, float y) {
    uint32_t h = pack2<BF16>(x, y);
    *hi = h;
    *lo = pack2<BF16>(x - __uint_as_float(h << 16), y - __uint_as_float(h & 0xffff0000u));
}

template <int N> __device__ inline void clear(float (*c)[4]) {
#pragma unroll
    for (int t = 0; t < N; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) c[t][i] = 0.0f;
}

/* Sums of two neighboring tiles of 8 columns as a left operand of 16. */
__device__ inline void as_left(uint32_t hi[4], uint32_t lo[4], const float (*c)[4]) {
#pragma unroll
    for (int r = 0; r < 4; r++) split2(&hi[r], &lo[r], c[r / 2][r % 2 * 2], c[r / 2][r % 2 * 2 + 1]);
}

/* Over the 4 lanes that share a row. */
__device__ inline float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ inline float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

#define LOG2_E 0x1.715476p+0f

/* body(j, i) for the lane's scores of its row h: x[j][2 h + i], key 8 j + 2 (lane % 4) + i. */
template <typename F> __device__ inline void for_scores(F body) {
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) body(j, i);
}

/* One chunk's own softmax for ROWS * 8 rows: maximum and sum of the lane's rows; x: scores by tiles of 8 keys, overwritten by the weights.
 * A row that sees nothing has m = -inf, sum = 0. all: every row sees every key, which shows in no bits. e^x is 2^(x log2 e), to about
 * 2^-22 of a weight where x and the maximum are below 16; what products leave out is more. */
template <int ROWS>
__device__ inline void row_weights(float m[ROWS], float sum[ROWS], float (*x)[4], const int seen[ROWS], bool all, const float *mark, float scale) {
    int key = threadIdx.x % 4 * 2;
#pragma unroll
    for (int h = 0; h < ROWS; h++) {
        float most = -INFINITY, total = 0.0f;
        for_scores([&](int j, int i) { x[j][2 * h + i] = fmaf(x[j][2 * h + i], scale, mark[j * 8 + key + i]); });
        if (!all) for_scores([&](int j, int i) { x[j][2 * h + i] = j * 8 + key + i < seen[h] ? x[j][2 * h + i] : -INFINITY; });
        for_scores([&](int j, int i) { most = fmaxf(most, x[j][2 * h + i]); });
        most = quad_max(most);
        float from = most == -INFINITY ? 0.0f : most * -LOG2_E; /* e^-inf of what is not seen is 0, without a branch */
        for_scores([&](int j, int i) {
            float e = exp2_fast(fmaf(x[j][2 * h + i], LOG2_E, from));
            x[j][2 * h + i] = e;
            total += e;
        });
        m[h] = most, sum[h] = quad_sum(total);
    }
}

/* The same for 16 rows, whose weights become left operands. */
__device__ inline void chunk_weights(uint32_t ph[4][4], uint32_t pl[4][4], float m[2], float sum[2], float (*x)[4],
                                     const int seen[2], bool all, const float *mark, float scale) {
    row_weights<2>(m, sum, x, seen, all, mark, scale);
#pragma unroll
    for (int k = 0; k < 4; k++) as_left(ph[k], pl[k], x + 2 * k);
}

/* The queries of a tile: numbers first .. of the pairs (row, head) of a span and key head, in the order row by row. */
typedef struct tile {
    int first, n, G, kh; /* n: of the span */
    int64_t row0;
    int H;
} tile;

__device__ inline tile tile_of(const mr_span &s, int first, int kh, int G, int H) {
    tile t;
    t.first = first, t.n = s.n_rows * G, t.G = G, t.kh = kh, t.row0 = s.row0, t.H = H;
    return t;
}
/* (row, head) as row * H + head */
__device__ inline int64_t place(const tile &t, int pair) { return (t.row0 + pair / t.G) * t.H + t.kh * t.G + pair % t.G; }

/* Left operands from rows of q in f32: the warp's 16 pairs begin at `pair`. */
template <int W>
__device__ inline void load_queries(uint32_t (*qh)[4], uint32_t (*ql)[4], const float *q, int64_t ldq, const tile &t, int pair, int D) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int at = pair + lane / 4 + 8 * h;
        bool have = at < t.n;
        const float *row = q + (t.row0 + (have ? at / t.G : 0)) * ldq + (t.kh * t.G + (have ? at % t.G : 0)) * D;
#pragma unroll
        for (int k = 0; k < W / 16; k++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                int d = k * 16 + c * 8 + lane % 4 * 2;
                float x = have && d < D ? row[d] : 0.0f, y = have && d + 1 < D ? row[d + 1] : 0.0f;
                split2(&qh[k][h + 2 * c], &ql[k][h + 2 * c], x, y);
            }
    }
}

/* The reverse, of sums of 8 * N columns, of which D are there: body(pair, h, columns) for the lane's two pairs, where columns(to, of) puts
 * of(sum) into the row that begins at `to`. */
template <int N, typename F>
__device__ inline void store_pairs(const float (*sums)[4], const tile &t, int pair, int D, F body) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int at = pair + lane / 4 + 8 * h;
        if (at >= t.n) continue;
        body(at, h, [&](float *to, auto of) {
#pragma unroll
            for (int j = 0; j < N; j++)
#pragma unroll
                for (int i = 0; i < 2; i++)
                    if (j * 8 + lane % 4 * 2 + i < D) to[j * 8 + lane % 4 * 2 + i] = of(sums[j][2 * h + i]);
        });
    }
}

/* What attention_many leaves of 16 pairs: o by its total, and the log of the sum. most, total: of the lane's two pairs. */
template <int N>
__device__ inline void store_attended(const attending &a, const tile &t, int pair, int D, const float (*o)[4], const float most[2],
                                      const float total[2]) {
    store_pairs<N>(o, t, pair, D, [&](int at, int h, auto columns) {
        columns(a.o + place(t, at) * D, [&](float x) { return x / total[h]; });
        if (a.lse && threadIdx.x % 4 == 0) a.lse[place(t, at)] = most[h] + logf(total[h]);
    });
}

/* Keys of a chunk that a pair sees. */
__device__ inline int pair_sees(const mr_span &s, const chunk_ref &c, const tile &t, int pair) {
    return pair < t.n ? keys_seen(c.prefix ? s.n_prefix : s.past + pair / t.G + 1, c.number) : 0;
}

/* --- backward --- */

/* Where the pairs of a span and key head begin there. */
__device__ inline int64_t pair_place(const backward &w, const mr_span &s, int kh) {
    return (kh * (w.n_rows / w.H) + s.row0) * w.G;
}

/* Left operands from halves in memory, of 16 pairs. */
__device__ inline void load_left(uint32_t a[4], const u16 *from, const tile &t, int pair, int P, int k) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < 4; r++) {
        int at = pair + lane / 4 + r % 2 * 8, d = k * 16 + r / 2 * 8 + lane % 4 * 2;
        a[r] = at < t.n && d < P ? *(const uint32_t *)(from + (int64_t)at * P + d) : 0;
    }
}

/* A row's numbers in the form that gradients of scores want, as split_rows leaves them: -lse log2 e, -delta scale. */
typedef struct grad_row {
    float lse, delta;
} grad_row;

__device__ inline grad_row grad_row_of(const backward &w, int64_t at, bool have) {
    grad_row r = { have ? w.row_lse[at] : 0.0f, have ? w.delta[at] : 0.0f };
    return r;
}

/* e^(scale s - lse), and the gradient of the scaled score times scale (arXiv:2205.14135, alg. 4); scale2: scale log2 e. */
__device__ inline float score_weight(float s, float scale2, float lse) { return exp2_fast(fmaf(s, scale2, lse)); }
__device__ inline float score_grad(float weight, float dp, float scale, float delta) { return weight * fmaf(dp, scale, delta); }

/* Both in place. */
__device__ inline void score_grad(float *s, float *dp, float scale, float scale2, const grad_row &r) {
    *s = score_weight(*s, scale2, r.lse);
    *dp = score_grad(*s, *dp, scale, r.delta);
}

template <int N> __device__ inline void store_dq(const backward &w, const tile &t, int pair, int kh, const float (*dq)[4]) {
    store_pairs<N>(dq, t, pair, w.D, [&](int at, int, auto columns) {
        columns(w.dq + (t.row0 + at / w.G) * w.lddq + (kh * w.G + at % w.G) * w.D, [](float x) { return x; });
    });
}

/* Of 16 keys of chunk c, a lane's are `key` and 8 behind, `here` are there: to the share of a span, where the chunk has several, else to their rows. */
template <int N>
__device__ inline void store_dkv(const backward &w, const share_item &item, const mr_span &s, const chunk_ref &c, int kh, int key, int here,
                                 const float (*dk)[4], const float (*dv)[4]) {
    int lane = threadIdx.x % 32, D = w.D;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (key + 8 * h >= here) continue;
        float *to_k, *to_v;
        if (item.share >= 0) {
            to_k = w.parts + (item.share + c.number * CHUNK + key + 8 * h) * 2 * w.K * D + kh * D;
            to_v = to_k + w.K * D;
        } else {
            int64_t at = (int64_t)(s.row0 + c.number * CHUNK + key + 8 * h) * w.lddkv + kh * D;
            to_k = w.dk + at, to_v = w.dv + at;
        }
#pragma unroll
        for (int j = 0; j < N; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                int col = j * 8 + lane % 4 * 2 + i;
                if (col < D) to_k[col] = dk[j][2 * h + i], to_v[col] = dv[j][2 * h + i];
            }
    }
}

/* --- attention_sm90.cu: the same with the tensor cores' own instructions of sm_90; false: not on this GPU, or not of this shape --- */

bool sm90_many(mr_backend *b, const attending *a, const tile_item *items, int n); /* tiles of 128 pairs */
bool sm90_dq(mr_backend *b, const backward *w, const tile_item *items, int n);    /* the same */
bool sm90_dkv(mr_backend *b, const backward *w, const share_item *items, int n);
int sm90_dkv_chunks(const mr_backend *b, int D); /* that an item may have */

#endif
