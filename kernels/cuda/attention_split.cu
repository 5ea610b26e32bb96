/* attention_split.cu - attention on bf16 tensor cores at nearly the precision of f32: each operand is the sum of two bf16, its value
 * rounded (high) and what that leaves (low), and a product is high * high + low * high + high * low, summed in f32. What is left out is
 * about 2^-17 of each product.
 *
 * Store:    for every chunk of 64 slots and every key head: K high, K low, V high, V low, [64][P] each with P = D rounded up to 16 and zeros
 *           behind D, then a mark for each key: 0, or NaN for a key or value that bf16 cannot hold (infinity, NaN). Such a key has zeros in
 *           K and V, and its mark joins its score: so it reaches exactly the rows that see it (0 * NaN would reach all of a tile).
 * Forward:  as attention.cu. A warp has 16 queries (row, head) of one span and key head; each element of a product is a chain over d or
 *           keys in steps of 16, ascending, in every kernel here.
 * Backward: split_rows makes the halves of q and d_o once. dq: a warp has 16 queries, over chunks and keys. dk and dv: a block has a chunk,
 *           a warp 16 of its keys, over the queries of a span; scores are computed as keys by queries there, so that their weights are the
 *           next product's left operand as they lie in registers.
 * Layouts:  PTX ISA, mma.m16n8k16: lane l has of the left operand rows l / 4 and l / 4 + 8, of sums those rows and columns 2 (l % 4) and
 *           the next of every 8. */
#include <assert.h>

#include "cuda/attention_split.cuh"

size_t split_kv_bytes(int64_t n_slots, int K, int D) {
    return (size_t)(n_slots / CHUNK * K * chunk_size(width_of(D))) * sizeof(u16);
}

__device__ inline bool is_finite(float x) { return (f32_to_bf16(x) & 0x7f80) != 0x7f80; }
__device__ inline int warp_or(int x) {
    for (int d = 16; d; d >>= 1) x |= __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}

__device__ inline void put_split(u16 *hi, u16 *lo, float x) {
    u16 h = f32_to_bf16(x);
    *hi = h;
    *lo = f32_to_bf16(x - from_half<BF16>(h));
}

/* One block a row, one warp a head. */
__global__ static void split_put_kernel(u16 *kv, const float *k, const float *v, int ld, const int32_t *slots, int K, int D) {
    follow();
    int64_t slot = slots[blockIdx.x], from = (int64_t)blockIdx.x * ld;
    int lane = threadIdx.x % 32, P = width_of(D), key = (int)(slot % CHUNK);
    for (int kh = threadIdx.x / 32; kh < K; kh += blockDim.x / 32) {
        const float *k_row = k + from + kh * D, *v_row = v + from + kh * D;
        u16 *chunk = kv + (slot / CHUNK * K + kh) * chunk_size(P), *to = chunk + key * P;
        int bad = 0;
        for (int d = lane; d < D; d += 32) bad |= !is_finite(k_row[d]) || !is_finite(v_row[d]);
        bad = warp_or(bad);
        for (int d = lane; d < P; d += 32) {
            bool zero = bad || d >= D;
            put_split(to + d, to + CHUNK * P + d, zero ? 0.0f : k_row[d]);
            put_split(to + 2 * CHUNK * P + d, to + 3 * CHUNK * P + d, zero ? 0.0f : v_row[d]);
        }
        if (lane == 0) ((float *)(chunk + 4 * CHUNK * P))[key] = bad ? NAN : 0.0f;
    }
}

/* rope of H + K heads and split_put of the last K of them: a warp a head, up to ROPE_WARPS of them a block; a lane has each 32nd pair. NORM: head_norm
 * before it, whose block is one warp for such heads (elementwise.cu). */
enum { ROPE_WARPS = 8 };
template <bool NORM>
__global__ static void __launch_bounds__(ROPE_WARPS * 32)
    rope_put_kernel(u16 *kv, float *y, const float *x, const float *v, int ld, const float *wq, const float *wk, float eps, const int32_t *pos,
                    const float *inv_freq, const int32_t *slots, int H, int K, int D) {
    enum { PAIRS = 2 }; /* D <= 128 */
    int lane = threadIdx.x % 32, h = (int)(blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32), P = width_of(D), half = D / 2;
    bool key = h >= H;
    const float *w = key ? wk : wq;
    float freq[PAIRS], s[PAIRS], c[PAIRS], w_lo[PAIRS], w_hi[PAIRS];
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
        int d = lane + 32 * i;
        freq[i] = d < half ? inv_freq[d] : 0.0f;
        if (NORM && d < half) w_lo[i] = w[d], w_hi[i] = w[half + d];
    }
    follow();
    if (h >= H + K) return;
    int64_t slot = slots[blockIdx.x], at = (int64_t)blockIdx.x * ld;
    float p = (float)pos[blockIdx.x], lo[PAIRS] = {}, hi[PAIRS] = {}, of_v[2 * PAIRS] = {}, sum = 0.0f;
    const float *row = x + at + h * D, *v_row = v + at + (h - H) * D;
    float *to_row = y + at + h * D;
    int bad = 0;
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
        int d = lane + 32 * i;
        if (d < half) lo[i] = row[d], hi[i] = row[half + d];
    }
#pragma unroll
    for (int i = 0; NORM && i < 2 * PAIRS; i++) {
        float value = lane + 32 * i < D ? row[lane + 32 * i] : 0.0f;
        sum = fmaf(value, value, sum);
    }
#pragma unroll
    for (int i = 0; key && i < 2 * PAIRS; i++)
        if (lane + 32 * i < D) of_v[i] = v_row[lane + 32 * i], bad |= !is_finite(of_v[i]);
#pragma unroll
    for (int i = 0; i < PAIRS; i++) sine_cosine(&s[i], &c[i], p * freq[i]);
    float inv = NORM ? 1.0f / sqrtf(warp_sum(sum) / (float)D + eps) : 1.0f;
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
        int d = lane + 32 * i;
        if (d >= half) continue;
        if (NORM) lo[i] = lo[i] * inv * w_lo[i], hi[i] = hi[i] * inv * w_hi[i];
        rotate(&lo[i], &hi[i], s[i], c[i]);
        to_row[d] = lo[i], to_row[half + d] = hi[i];
        bad |= !is_finite(lo[i]) || !is_finite(hi[i]);
    }
    if (!key) return;
    u16 *chunk = kv + (slot / CHUNK * K + h - H) * chunk_size(P), *to = chunk + slot % CHUNK * P;
    bad = warp_or(bad);
    auto put = [&](int d, float of_k) { put_split(to + d, to + CHUNK * P + d, bad ? 0.0f : of_k); };
#pragma unroll
    for (int i = 0; i < PAIRS; i++)
        if (lane + 32 * i < half) put(lane + 32 * i, lo[i]), put(half + lane + 32 * i, hi[i]);
#pragma unroll
    for (int i = 0; i < 2 * PAIRS; i++) {
        int d = lane + 32 * i;
        if (d >= D && d < P) put(d, 0.0f);
        if (d < P) put_split(to + 2 * CHUNK * P + d, to + 3 * CHUNK * P + d, bad ? 0.0f : of_v[i]);
    }
    if (lane == 0) ((float *)(chunk + 4 * CHUNK * P))[slot % CHUNK] = bad ? NAN : 0.0f;
}

void split_rope_put(mr_backend *b, void *kv, float *y, const float *x, const float *v, int ld, const float *wq, const float *wk, float eps,
                    const int32_t *pos, const float *inv_freq, const int32_t *slots, int N, int H, int K, int D) {
    int blocks = (H + K + ROPE_WARPS - 1) / ROPE_WARPS, warps = (H + K + blocks - 1) / blocks;
    dim3 grid((unsigned)N, (unsigned)blocks);
    if (wq)
        LAUNCH_EARLY(b, "rope_put", rope_put_kernel<true>, grid, warps * 32, 0, (u16 *)kv, y, x, v, ld, wq, wk, eps, pos, inv_freq, slots, H, K, D);
    else
        LAUNCH_EARLY(b, "rope_put", rope_put_kernel<false>, grid, warps * 32, 0, (u16 *)kv, y, x, v, ld, wq, wk, eps, pos, inv_freq, slots, H, K, D);
}

void split_kv_put(mr_backend *b, void *kv, const float *k, const float *v, int ld, const int32_t *slots, int N, int K, int D) {
    LAUNCH_EARLY(b, "kv_put", split_put_kernel, N, 32 * (K < 8 ? K : 8), 0, (u16 *)kv, k, v, ld, slots, K, D);
}

/* --- pieces --- */

/* Matrices in shared memory: rows of W columns; 8 more put the rows of a load into different banks. */
template <int W, int ROWS> struct halves {
    u16 hi[ROWS][W + 8], lo[ROWS][W + 8];
};

/* Rows 0 .. n - 1 from from_hi and from_lo, P columns each; zeros elsewhere. In the background. A thread has one place of every few rows.
 * PASSING: of a chunk, and they need not stay in the second cache. */
template <int W, int ROWS, int T, bool PASSING = false>
__device__ inline void stage(halves<W, ROWS> &to, const u16 *from_hi, const u16 *from_lo, int P, int n) {
    enum { IN_ROW = W / 8, STEP = T / IN_ROW };
    int c = threadIdx.x % IN_ROW * 8, first = threadIdx.x / IN_ROW, offset = first * P + c;
#pragma unroll
    for (int r = 0; r < ROWS; r += STEP) {
        if (ROWS % STEP && first + r >= ROWS) break;
        bool ok = first + r < n && c < P;
        if (PASSING) { /* all of a chunk's memory may be pointed to */
            copy16_passing(&to.hi[first + r][c], from_hi + offset + r * P, ok);
            copy16_passing(&to.lo[first + r][c], from_lo + offset + r * P, ok);
        } else {
            int at = ok ? offset + r * P : 0;
            copy16(&to.hi[first + r][c], from_hi + at, ok);
            copy16(&to.lo[first + r][c], from_lo + at, ok);
        }
    }
}

template <int W> struct chunk_room {
    halves<W, CHUNK> k, v;
    float mark[2][CHUNK];
};

template <int T, bool PASSING = false, int W> __device__ inline void stage_keys(halves<W, CHUNK> &to, const u16 *chunk, int P, int n) {
    stage<W, CHUNK, T, PASSING>(to, chunk, chunk + CHUNK * P, P, n);
}
template <int T, bool PASSING = false, int W> __device__ inline void stage_values(halves<W, CHUNK> &to, const u16 *chunk, int P, int n) {
    stage<W, CHUNK, T, PASSING>(to, chunk + 2 * CHUNK * P, chunk + 3 * CHUNK * P, P, n);
}
/* Where a lane points for load_matrices: with rows of the matrix as columns of the right operand, and with its rows along the sum. */
template <int LD> __device__ inline int lane_columns() {
    int i = threadIdx.x % 32 / 8, r = threadIdx.x % 8;
    return (i / 2 * 8 + r) * LD + i % 2 * 8;
}
template <int LD> __device__ inline int lane_sum() {
    int i = threadIdx.x % 32 / 8, r = threadIdx.x % 8;
    return (i % 2 * 8 + r) * LD + i / 2 * 8;
}

template <int LD, int NP, bool SUM> __device__ inline void load_right(uint32_t (*b)[4], const u16 *from) {
#pragma unroll
    for (int p = 0; p < NP; p++) {
        if (SUM)
            load_transposed(b[p], from + 16 * p);
        else
            load_matrices(b[p], from + 16 * p * LD);
    }
}

template <int NP> __device__ inline void multiply(float (*c)[4], const uint32_t a[4], const uint32_t (*b)[4]) {
#pragma unroll
    for (int t = 0; t < 2 * NP; t++) mma16<BF16>(c[t], a, &b[t / 2][t % 2 * 2]);
}

/* One step of 16 of a product's chain for 16 * NP columns: c += (ah + al) * (hi + lo). hi, lo: with the lane's offset. SUM: rows of the right
 * matrix go along the sum; else they are its columns. The three products of an element wait for each other, so the columns go around. */
template <int LD, int NP, bool SUM>
__device__ inline void step(float (*c)[4], const uint32_t ah[4], const uint32_t al[4], const u16 *hi, const u16 *lo) {
    uint32_t bh[NP][4], bl[NP][4];
    load_right<LD, NP, SUM>(bh, hi), load_right<LD, NP, SUM>(bl, lo);
    multiply<NP>(c, ah, bh), multiply<NP>(c, al, bh), multiply<NP>(c, ah, bl);
}

/* The same for two products side by side, rows as columns. */
template <int LD, int NP>
__device__ inline void step_both(float (*c)[4], const uint32_t ch[4], const uint32_t cl[4], const u16 *c_hi, const u16 *c_lo,
                                 float (*d)[4], const uint32_t dh[4], const uint32_t dl[4], const u16 *d_hi, const u16 *d_lo) {
    uint32_t bh[2][NP][4], bl[2][NP][4];
    load_right<LD, NP, false>(bh[0], c_hi), load_right<LD, NP, false>(bh[1], d_hi);
    load_right<LD, NP, false>(bl[0], c_lo), load_right<LD, NP, false>(bl[1], d_lo);
    multiply<NP>(c, ch, bh[0]), multiply<NP>(d, dh, bh[1]);
    multiply<NP>(c, cl, bh[0]), multiply<NP>(d, dl, bh[1]);
    multiply<NP>(c, ch, bl[0]), multiply<NP>(d, dh, bl[1]);
}

__device__ inline uint4 as_uint4(const uint32_t a[4]) { return make_uint4(a[0], a[1], a[2], a[3]); }
__device__ inline void from_uint4(uint32_t a[4], uint4 v) { a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w; }

enum { WIDE = 4 }; /* times 16 columns of a step, where registers suffice */

/* --- forward, many queries: a block has 16 * WARPS pairs of a span and key head, a warp 16 of them --- */

/* One warp's softmax runs beside another's products. With two BUFFERS the next chunk comes during this one. With one, two blocks share a
 * processor, and the next chunk's keys come during softmax and values, its values during the scores. */
template <int W, int WARPS, int BUFFERS>
__global__ static void __launch_bounds__(WARPS * 32, BUFFERS == 1 ? 2 : 1) split_many_kernel(attending a, const tile_item *items) {
    SHARED_BYTES(bytes);
    chunk_room<W> *room = (chunk_room<W> *)bytes;
    enum { LD = W + 8, SLICES = W / 64, THREADS = WARPS * 32, TILE = WARPS * 16 };
    tile_item item = items[blockIdx.x];
    mr_span s = a.spans[item.span];
    int kh = blockIdx.y, lane = threadIdx.x % 32, D = a.D, P = width_of(D);
    tile t = tile_of(s, item.first, kh, a.G, a.H);
    int pair = item.first + (int)threadIdx.x / 32 * 16, last = pair + 15 < t.n ? pair + 15 : t.n - 1;
    int end = item.first + TILE < t.n ? item.first + TILE : t.n;
    int n_chunks = chunks_of(s.n_prefix) + chunks_of(s.past + (end - 1) / a.G + 1);
    float scale = 1.0f / sqrtf((float)D), o[W / 8][4], most[2] = { -INFINITY, -INFINITY }, total[2] = { 0.0f, 0.0f };
    clear<W / 8>(o);
    uint32_t qh[W / 16][4], ql[W / 16][4];
    auto fetch = [&](int n, bool keys, bool values) {
        if (n < n_chunks) {
            chunk_ref c = chunk_of(s, n);
            const u16 *chunk = chunk_in(a.kv, c, kh, a.K, P);
            int here = keys_seen(c.total, c.number);
            chunk_room<W> &to = room[n % BUFFERS];
            if (keys) stage_keys<THREADS>(to.k, chunk, P, here), stage_marks(to.mark[n % 2], chunk, P);
            if (values) stage_values<THREADS>(to.v, chunk, P, here);
        }
        copy_commit();
    };
    if (BUFFERS == 2)
        fetch(0, true, true);
    else
        fetch(0, true, false), fetch(0, false, true);
    load_queries<W>(qh, ql, a.q, a.ldq, t, pair, D);
    for (int n = 0; n < n_chunks; n++) {
        const chunk_room<W> &here = room[n % BUFFERS];
        chunk_ref c = chunk_of(s, n);
        bool active = pair < t.n && pair_sees(s, c, t, last) > 0; /* all of a warp, as the next */
        bool all = pair + 15 < t.n && pair_sees(s, c, t, pair) == CHUNK;
        float x[8][4], keep[2], take[2];
        uint32_t ph[4][4], pl[4][4];
        int seen[2] = { pair_sees(s, c, t, pair + lane / 4), pair_sees(s, c, t, pair + lane / 4 + 8) };
        copy_wait<BUFFERS == 2 ? 0 : 1>();
        __syncthreads();
        if (BUFFERS == 2) fetch(n + 1, true, true);
        if (active) {
            clear<8>(x);
            const u16 *k_hi = &here.k.hi[0][0] + lane_columns<LD>(), *k_lo = &here.k.lo[0][0] + lane_columns<LD>();
#pragma unroll
            for (int k = 0; k < W / 16; k++)
#pragma unroll
                for (int j = 0; j < 4 / WIDE; j++) {
                    int at = 16 * WIDE * j * LD + 16 * k;
                    step<LD, WIDE, false>(x + 2 * WIDE * j, qh[k], ql[k], k_hi + at, k_lo + at);
                }
        }
        if (BUFFERS == 1) {
            __syncthreads();
            fetch(n + 1, true, false);
        }
        if (active) {
            float m[2], sum[2];
            chunk_weights(ph, pl, m, sum, x, seen, all, here.mark[n % 2], scale);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                keep[h] = 1.0f, take[h] = 0.0f;
                if (seen[h] > 0) merge(&most[h], &total[h], &keep[h], &take[h], m[h], sum[h]);
            }
        }
        if (BUFFERS == 1) {
            copy_wait<1>();
            __syncthreads();
        }
        if (active) {
            const u16 *v_hi = &here.v.hi[0][0] + lane_sum<LD>(), *v_lo = &here.v.lo[0][0] + lane_sum<LD>();
#pragma unroll
            for (int sl = 0; sl < SLICES; sl++) {
                clear<8>(x);
#pragma unroll
                for (int k = 0; k < 4; k++)
#pragma unroll
                    for (int j = 0; j < 4 / WIDE; j++) {
                        int at = 16 * k * LD + 64 * sl + 16 * WIDE * j;
                        step<LD, WIDE, true>(x + 2 * WIDE * j, ph[k], pl[k], v_hi + at, v_lo + at);
                    }
#pragma unroll
                for (int j = 0; j < 8; j++)
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        float old = o[8 * sl + j][i], merged = fmaf(x[j][i], take[i / 2], old * keep[i / 2]);
                        o[8 * sl + j][i] = all || seen[i / 2] > 0 ? merged : old;
                    }
            }
        }
        if (BUFFERS == 1) {
            __syncthreads();
            fetch(n + 1, false, true);
        }
    }
    store_attended<W / 8>(a, t, pair, D, o, most, total);
}

/* Whether a block of split_many has two chunks in shared memory, and 8 warps. */
static bool many_is_large(const mr_backend *b, int D) {
    return (size_t)cu_of(b)->max_shared >= 2 * (D <= 64 ? sizeof(chunk_room<64>) : sizeof(chunk_room<128>));
}

int split_many_tile(const mr_backend *b, int D) { return many_is_large(b, D) ? 128 : 64; }

template <int W, int WARPS, int BUFFERS> static void launch_many(mr_backend *b, const attending &a, const tile_item *items, int n) {
    LAUNCH(b, "attention", (split_many_kernel<W, WARPS, BUFFERS>), dim3(n, a.K), WARPS * 32, (int)(BUFFERS * sizeof(chunk_room<W>)), a,
           items);
}

void split_many(mr_backend *b, const attending *a, const tile_item *items, int n) {
    bool large = many_is_large(b, a->D);
    if (large && sm90_many(b, a, items, n)) return;
    if (a->D <= 64) {
        if (large)
            launch_many<64, 8, 2>(b, *a, items, n);
        else
            launch_many<64, 4, 1>(b, *a, items, n);
    } else if (large)
        launch_many<128, 8, 2>(b, *a, items, n);
    else
        launch_many<128, 4, 1>(b, *a, items, n);
}

/* --- forward, few queries: a block has a chunk and the pairs of some rows that see it, 8 * EIGHTS at a time. Products have keys or columns of
 * values as rows and pairs as columns, which shows in no bits, so that 8 pairs fill them. A warp has 16 keys of the scores, and a quarter of the values'
 * columns, each for every other 8 pairs; between them the softmax of 8 pairs. --- */

enum { FEW_WARPS = 8, FEW_THREADS = FEW_WARPS * 32 };

template <int W, int EIGHTS> struct few_room {
    chunk_room<W> chunk;
    union { /* of 8 pairs: a right operand is its high halves and its low ones, as lanes have them */
        uint32_t q[EIGHTS][W / 16][32][4];
        union {
            float scores[8][CHUNK + 4];
            uint32_t weights[CHUNK / 16][32][4];
        } of[EIGHTS];
    };
    int part[8 * EIGHTS]; /* where a pair's part is */
};

/* q's halves of pairs first .. of a tile: warp i has number i of every 8, a lane the words of one step of 16. Where there is no pair it is the first one
 * again, for columns of a product that go nowhere. */
template <int W, int EIGHTS>
__device__ inline void stage_queries(uint32_t (*to)[W / 16][32][4], const attending &a, const tile &t, int first, int eights, int D) {
    constexpr int AT_ONCE = EIGHTS < 4 ? EIGHTS : 4; /* loads that are on their way together: registers */
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pair = first + warp + 8 * (lane % EIGHTS), d = lane / 4 * 16 + lane % 4 * 2;
    if (pair >= t.n) pair = first;
    int place = pair / t.G * a.ldq + pair % t.G * D; /* of lane e: of number e's, one division for all */
    const float *q = a.q + t.row0 * a.ldq + t.kh * t.G * D + d;
#pragma unroll 1
    for (int e0 = 0; e0 < eights; e0 += AT_ONCE) {
        float x[AT_ONCE][4];
#pragma unroll
        for (int e = 0; e < AT_ONCE; e++) {
            const float *row = q + __shfl_sync(0xffffffffu, place, e0 + e);
#pragma unroll
            for (int i = 0; i < 4; i++) x[e][i] = d + i / 2 * 8 + i % 2 < D ? row[i / 2 * 8 + i % 2] : 0.0f;
        }
#pragma unroll
        for (int e = 0; e < AT_ONCE; e++) {
            uint32_t word[4];
            split2(&word[0], &word[2], x[e][0], x[e][1]), split2(&word[1], &word[3], x[e][2], x[e][3]);
            if (lane / 4 < W / 16) *(uint4 *)to[e0 + e][lane / 4][4 * warp + lane % 4] = as_uint4(word);
        }
    }
}

/* One step of 16 of the chains of 16 * M rows and 8 * N pairs, c += (ah + al) * (high + low), in the order that step has for the operands the other way
 * round. right: the lane's words of 8 pairs; those of the next 8 are APART words further. */
template <int M, int N, int APART>
__device__ inline void step_pairs(float (*c)[4], const uint32_t (*ah)[4], const uint32_t (*al)[4], const uint32_t *right) {
    uint32_t b[N][4];
#pragma unroll
    for (int j = 0; j < N; j++) from_uint4(b[j], *(const uint4 *)(right + j * APART));
#pragma unroll
    for (int product = 0; product < 3; product++)
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int j = 0; j < N; j++) mma16<BF16>(c[m * N + j], product < 2 ? ah[m] : al[m], b[j] + product % 2 * 2);
}

template <int N> struct count_is {
    enum { value = N };
};
/* body(count_is<n>), for n of 1 .. MOST */
template <int MOST, typename F> __device__ inline void by_count(int n, F body) {
    if (MOST == 1 || n == MOST)
        body(count_is<MOST>());
    else
        by_count<(MOST > 1 ? MOST - 1 : 1)>(n, body);
}

/* Chunk `number` of a span and, up to `end`, next(number) and so on: each for the pairs of rows_of(number), a tile of rows that see it as the span's do.
 * part_of(number, pair): which part is its. FULL: D is W, no column has to be looked at. The first chunk is asked for before the kernels before this are done,
 * unless it is the last, which may have keys of this step. */
template <int W, int EIGHTS, bool FULL, typename NEXT, typename ROWS, typename PART>
__device__ static void few_chunks(const attending &a, few_room<W, EIGHTS> &room, const mr_span &s, int number, int end,
                                  float *parts, NEXT next, ROWS rows_of, PART part_of) {
    enum { LD = W + 8, MOST = EIGHTS / 2, M = W / 64 };
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, quarter = warp % 4, set = warp / 4, D = FULL ? W : a.D, P = width_of(D);
    auto fetch = [&](int n) {
        if (n >= end) return;
        chunk_ref c = chunk_of(s, n);
        const u16 *chunk = chunk_in(a.kv, c, blockIdx.y, a.K, P);
        int here = keys_seen(c.total, c.number);
        stage_keys<FEW_THREADS, true>(room.chunk.k, chunk, P, here), stage_marks(room.chunk.mark[0], chunk, P);
        copy_commit();
        stage_values<FEW_THREADS, true>(room.chunk.v, chunk, P, here);
        copy_commit();
    };
    const u16 *k_hi = &room.chunk.k.hi[16 * quarter][0] + lane_sum<LD>(),
              *k_lo = &room.chunk.k.lo[16 * quarter][0] + lane_sum<LD>();
    const u16 *v_hi = &room.chunk.v.hi[0][W / 4 * quarter] + lane_columns<LD>(),
              *v_lo = &room.chunk.v.lo[0][W / 4 * quarter] + lane_columns<LD>();
    if (number < end - 1) fetch(number);
    follow();
    if (number >= end - 1) fetch(number);
    while (number < end) {
        chunk_ref c = chunk_of(s, number);
        tile t = rows_of(number);
        int here = keys_seen(c.total, c.number);
#pragma unroll 1
        for (int first = 0; first < t.n; first += 8 * EIGHTS) {
            int left = (t.n - first + 7) / 8, eights = left < EIGHTS ? left : EIGHTS, mine = (eights + 1) / 2;
            bool scores = set < eights && 16 * quarter < here; /* all of a warp */
            stage_queries<W, EIGHTS>(room.q, a, t, first, eights, D);
            if (threadIdx.x < 8 * EIGHTS && first + (int)threadIdx.x < t.n)
                room.part[threadIdx.x] = part_of(number, first + (int)threadIdx.x);
            copy_wait<1>(); /* keys; behind the first round nothing is on its way */
            __syncthreads();
            float x[MOST][4];
            if (scores)
                by_count<MOST>(mine, [&](auto count) {
                    enum { N = decltype(count)::value };
                    clear<N>(x);
#pragma unroll
                    for (int k = 0; k < W / 16; k++) {
                        uint32_t kh[1][4], kl[1][4];
                        load_matrices(kh[0], k_hi + 16 * k), load_matrices(kl[0], k_lo + 16 * k);
                        step_pairs<1, N, 2 * sizeof room.q[0] / 4>(x, kh, kl, room.q[set][k][lane]);
                    }
                });
            __syncthreads(); /* scores come where q was */
            if (scores)
#pragma unroll
                for (int j = 0; j < MOST; j++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        if (set + 2 * j < eights)
                            room.of[set + 2 * j].scores[lane % 4 * 2 + i % 2][16 * quarter + lane / 4 + i / 2 * 8] =
                                x[j][i];
            __syncthreads();
            if (warp < eights) {
                float w[8][4], m, sum;
                int pair = first + 8 * warp + lane / 4, seen = pair_sees(s, c, t, pair);
                for_scores([&](int j, int i) { w[j][i] = room.of[warp].scores[lane / 4][8 * j + lane % 4 * 2 + i]; });
                row_weights<1>(&m, &sum, w, &seen, false, room.chunk.mark[0], 1.0f / sqrtf((float)D));
                __syncwarp();
#pragma unroll
                for (int k = 0; k < CHUNK / 16; k++) {
                    uint32_t right[4];
                    for (int i = 0; i < 2; i++) split2(&right[i], &right[i + 2], w[2 * k + i][0], w[2 * k + i][1]);
                    *(uint4 *)room.of[warp].weights[k][lane] = as_uint4(right);
                }
                if (lane % 4 == 0 && pair < t.n) {
                    float *to = parts + (int64_t)room.part[8 * warp + lane / 4] * part_size(D);
                    to[D] = m, to[D + 1] = sum;
                }
            }
            copy_wait<0>();
            __syncthreads();
            if (set < eights)
                by_count<MOST>(mine, [&](auto count) {
                    enum { N = decltype(count)::value };
                    float o[M * N][4];
                    clear<M * N>(o);
#pragma unroll
                    for (int k = 0; k < CHUNK / 16; k++) {
                        if (16 * k >= here) break;
                        uint32_t vh[M][4], vl[M][4];
#pragma unroll
                        for (int m = 0; m < M; m++)
                            load_transposed(vh[m], v_hi + 16 * k * LD + 16 * m),
                                load_transposed(vl[m], v_lo + 16 * k * LD + 16 * m);
                        step_pairs<M, N, 2 * sizeof room.of[0] / 4>(o, vh, vl, room.of[set].weights[k][lane]);
                    }
                    int col = W / 4 * quarter + lane / 4;
#pragma unroll
                    for (int j = 0; j < N; j++)
#pragma unroll
                        for (int i = 0; i < 2; i++) {
                            int pair = 8 * (set + 2 * j) + lane % 4 * 2 + i;
                            if (first + pair >= t.n) continue;
                            float *to = parts + (int64_t)room.part[pair] * part_size(D) + col;
#pragma unroll
                            for (int m = 0; m < M; m++)
#pragma unroll
                                for (int h = 0; h < 2; h++)
                                    if (col + 16 * m + 8 * h < D) to[16 * m + 8 * h] = o[m * N + j][2 * h + i];
                        }
                });
            __syncthreads();
        }
        number = next(number);
        fetch(number);
    }
}

enum { ITEM_EIGHTS = 2, ITEM_PAIRS = 8 * ITEM_EIGHTS };

template <int W>
__global__ static void __launch_bounds__(FEW_THREADS, 2) split_few_kernel(attending a, const chunk_item *items, float *parts) {
    SHARED_BYTES(bytes);
    chunk_item item = item_of(a, items);
    mr_span s = a.spans[item.span];
    if (!has_chunk(s, item)) return;
    int at = (blockIdx.x * a.K + blockIdx.y) * ITEM_PAIRS;
    few_chunks<W, ITEM_EIGHTS, false>(a, *(few_room<W, ITEM_EIGHTS> *)bytes, s, item.number, item.number + 1, parts, [](int number) { return number + 1; },
                               [&](int) { return tile_of(s, 0, blockIdx.y, a.G, a.H); }, [&](int, int pair) { return at + pair; });
}

/* --- forward, sequences that go on by a row each: those that follow each other with one prefix read its chunks once --- */

enum { TEAM = 16 /* sequences, at most */ };

/* The spans around this one that have its prefix: the first of its team, and how many that has. Of up to 32 spans in a row every one sees all; more are
 * cut at multiples of TEAM. All threads of a block. Loads do not wait for each other. */
__device__ inline int team_of(const attending &a, const mr_span &s, int which, int S, int *first) {
    int lane = threadIdx.x % 32, left = which - 1 - lane, right = which + 1 + lane;
    const mr_span *l = a.spans + (left >= 0 ? left : which), *r = a.spans + (right < S ? right : which);
    int l_prefix = l->n_prefix, l_slot = l->prefix_slot0, r_prefix = r->n_prefix, r_slot = r->prefix_slot0;
    bool before = (left >= 0) & (l_prefix == s.n_prefix) & (l_slot == s.prefix_slot0);
    bool behind = (right < S) & (r_prefix == s.n_prefix) & (r_slot == s.prefix_slot0);
    int n_before = (int)-warp_max(before ? -32.0f : -(float)lane), n_behind = (int)-warp_max(behind ? -32.0f : -(float)lane);
    int all = n_before + 1 + n_behind, from = which - n_before, end = which + n_behind + 1;
    int cut = all <= 32 ? from + n_before / TEAM * TEAM : which / TEAM * TEAM;
    *first = cut > from ? cut : from;
    return (cut + TEAM < end ? cut + TEAM : end) - *first;
}

/* `blocks` blocks a span and key head. The team's blocks share the prefix's chunks, each for all its spans; own keys are the span's. */
template <int W, int EIGHTS, bool FULL>
__global__ static void __launch_bounds__(FEW_THREADS, 2) split_step_kernel(attending a, int S, int blocks, float *parts) {
    SHARED_BYTES(bytes);
    int which = blockIdx.x % S, turn = blockIdx.x / S, kh = blockIdx.y, first;
    mr_span s = a.spans[which];
    int before = chunks_of(s.n_prefix), n = before + chunks_of(s.past + 1), team = team_of(a, s, which, S, &first);
    /* the prefix's chunks go around the team's spans, first those of the first turns; own ones begin with the last turn */
    auto own_behind = [&](int number) { return number < before ? number : before + blocks - 1 - turn; };
    few_chunks<W, EIGHTS, FULL>(
        a, *(few_room<W, EIGHTS> *)bytes, s, own_behind(which - first + turn * team), n, parts,
        [&](int number) { return number < before ? own_behind(number + team * blocks) : number + blocks; },
        [&](int number) {
            tile t = tile_of(s, 0, kh, a.G, a.H);
            if (number < before) t.row0 -= which - first, t.n *= team;
            return t;
        },
        [&](int number, int pair) {
            return ((((number < before ? first : which) + pair / a.G) * a.n_chunks + number) * a.K + kh) * a.G + pair % a.G;
        });
}

/* Two blocks are on a multiprocessor. At 192 rows three of each span are faster than two (33 instead of 38 us). */
template <int W> static void launch_step(mr_backend *b, const attending &a, int S, float *parts) {
    int each = 9 * cu_of(b)->n_sm / (S * a.K), blocks = each < 1 ? 1 : each < a.n_chunks ? each : a.n_chunks;
    dim3 grid(S * blocks, a.K);
    if (a.D == W && (size_t)cu_of(b)->max_shared >= sizeof(few_room<W, 8>))
        LAUNCH_EARLY(b, "attention", (split_step_kernel<W, 8, true>), grid, FEW_THREADS, (int)sizeof(few_room<W, 8>), a, S, blocks, parts);
    else if (a.D == W)
        LAUNCH_EARLY(b, "attention", (split_step_kernel<W, 4, true>), grid, FEW_THREADS, (int)sizeof(few_room<W, 4>), a, S, blocks, parts);
    else
        LAUNCH_EARLY(b, "attention", (split_step_kernel<W, 4, false>), grid, FEW_THREADS, (int)sizeof(few_room<W, 4>), a, S, blocks, parts);
}

void split_step(mr_backend *b, const attending *a, int S, float *parts) {
    if (a->D <= 64)
        launch_step<64>(b, *a, S, parts);
    else
        launch_step<128>(b, *a, S, parts);
}

template <int W> static void launch_few(mr_backend *b, const attending &a, const chunk_item *items, int n, float *parts) {
    LAUNCH_EARLY(b, "attention", split_few_kernel<W>, dim3(n, a.K), FEW_THREADS, (int)sizeof(few_room<W, ITEM_EIGHTS>), a, items, parts);
}

void split_few(mr_backend *b, const attending *a, const chunk_item *items, int n, float *parts) {
    if (a->D <= 64)
        launch_few<64>(b, *a, items, n, parts);
    else
        launch_few<128>(b, *a, items, n, parts);
}

/* --- backward --- */

/* delta = sum over d of d_o * o, it and lse in the form of grad_row, and the halves of q and d_o: one warp a (row, head). A row with a value
 * that bf16 cannot hold gets zeros, and NaN for lse and delta: then its weights are NaN, and only for keys that it sees. Written
 * [key head][row][head of it], so that the pairs of a span follow each other. */
__global__ static void split_rows_kernel(backward w) {
    int64_t i = blockIdx.x * (int64_t)(blockDim.x / 32) + threadIdx.x / 32;
    if (i >= w.n_rows) return; /* whole warps */
    int lane = threadIdx.x % 32, D = w.D, P = width_of(D), bad = 0;
    const float *q = w.q + i / w.H * w.ldq + i % w.H * D, *d_o = w.d_o + i * D, *o = w.o + i * D;
    int head = (int)(i % w.H);
    int64_t at = (head / w.G * (w.n_rows / w.H) + i / w.H) * w.G + head % w.G, size = w.n_rows * P;
    u16 *to = w.rows + at * P;
    float sum = 0;
    for (int d = lane; d < D; d += 32) {
        sum = fmaf(d_o[d], o[d], sum);
        bad |= !is_finite(q[d]) || !is_finite(d_o[d]);
    }
    sum = warp_sum(sum);
    bad = warp_or(bad);
    for (int d = lane; d < P; d += 32) {
        bool zero = bad || d >= D;
        put_split(to + d, to + size + d, zero ? 0.0f : q[d]);
        put_split(to + 2 * size + d, to + 3 * size + d, zero ? 0.0f : d_o[d]);
    }
    float scale = 1.0f / sqrtf((float)D);
    if (lane == 0) w.delta[at] = bad ? NAN : sum * -scale, w.row_lse[at] = bad ? NAN : w.lse[i] * -LOG2_E;
}

size_t split_rows_bytes(int N, int H, int D) {
    return (size_t)cu_round((int64_t)N * H * 8, 16) + (size_t)N * (size_t)H * (size_t)width_of(D) * 4 * sizeof(u16);
}

void split_rows(mr_backend *b, backward *w, void *room, int N) {
    w->n_rows = (int64_t)N * w->H;
    w->delta = (float *)room, w->row_lse = w->delta + w->n_rows;
    w->rows = (u16 *)room + cu_round(w->n_rows * 8, 16) / (int64_t)sizeof(u16);
    LAUNCH(b, "attention_bwd", split_rows_kernel, (int)((w->n_rows + 7) / 8), 256, 0, *w);
}

template <int W, int WARPS, int BUFFERS> struct dq_room {
    chunk_room<W> chunk[BUFFERS];
    uint4 q[WARPS][W / 16][2][32]; /* left operands: each lane reads what it wrote */
};

/* A block has 16 * WARPS pairs of a span and key head: over chunks and keys in order. */
template <int W, int WARPS, int BUFFERS>
__global__ static void __launch_bounds__(WARPS * 32) split_dq_kernel(backward w, const tile_item *items) {
    SHARED_BYTES(bytes);
    dq_room<W, WARPS, BUFFERS> &room = *(dq_room<W, WARPS, BUFFERS> *)bytes;
    enum { LD = W + 8, TILE = 16 * WARPS };
    tile_item item = items[blockIdx.x];
    mr_span s = w.spans[item.span];
    int kh = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32, D = w.D, P = width_of(D);
    tile t = tile_of(s, item.first, kh, w.G, w.H);
    int pair = item.first + warp * 16, last = pair + 15 < t.n ? pair + 15 : t.n - 1;
    int end = item.first + TILE < t.n ? item.first + TILE : t.n;
    int n_chunks = chunks_of(s.n_prefix) + chunks_of((end - 1) / w.G + 1);
    float scale = 1.0f / sqrtf((float)D), scale2 = scale * LOG2_E, dq[W / 8][4];
    grad_row row[2];
    uint32_t oh[W / 16][4], ol[W / 16][4];
    int64_t size = w.n_rows * P, pair0 = pair_place(w, s, kh);
    const u16 *rows = w.rows + pair0 * P;
    auto fetch = [&](int n) {
        if (n < n_chunks) {
            chunk_ref c = chunk_of(s, n);
            const u16 *chunk = chunk_in(w.kv, c, kh, w.K, P);
            stage_keys<WARPS * 32>(room.chunk[n % BUFFERS].k, chunk, P, keys_seen(c.total, c.number));
            stage_values<WARPS * 32>(room.chunk[n % BUFFERS].v, chunk, P, keys_seen(c.total, c.number));
        }
        copy_commit();
    };
    fetch(0);
#pragma unroll
    for (int k = 0; k < W / 16; k++) {
        uint32_t q[4];
        for (int h = 0; h < 2; h++) {
            load_left(q, rows + h * size, t, pair, P, k);
            room.q[warp][k][h][lane] = as_uint4(q);
        }
        load_left(oh[k], rows + 2 * size, t, pair, P, k);
        load_left(ol[k], rows + 3 * size, t, pair, P, k);
    }
    for (int h = 0; h < 2; h++) {
        int at = pair + lane / 4 + 8 * h;
        row[h] = grad_row_of(w, pair0 + at, at < t.n);
    }
    clear<W / 8>(dq);
    for (int n = 0; n < n_chunks; n++) {
        const chunk_room<W> &here = room.chunk[n % BUFFERS];
        copy_wait<0>();
        __syncthreads();
        if (BUFFERS == 2) fetch(n + 1);
        chunk_ref c = chunk_of(s, n);
        int sees = pair < t.n ? pair_sees(s, c, t, last) : 0;
        bool all = pair + 15 < t.n && pair_sees(s, c, t, pair) == CHUNK; /* of a warp */
        int seen[2] = { pair_sees(s, c, t, pair + lane / 4), pair_sees(s, c, t, pair + lane / 4 + 8) };
        const u16 *k_hi = &here.k.hi[0][0], *k_lo = &here.k.lo[0][0];
        const u16 *v_hi = &here.v.hi[0][0] + lane_columns<LD>(), *v_lo = &here.v.lo[0][0] + lane_columns<LD>();
#pragma unroll 1
        for (int key = 0; key < sees; key += 32) { /* a half of the chunk: registers */
            float x[4][4], y[4][4];
            clear<4>(x), clear<4>(y);
#pragma unroll
            for (int k = 0; k < W / 16; k++) {
                uint32_t qh[4], ql[4];
                int at = key * LD + 16 * k;
                from_uint4(qh, room.q[warp][k][0][lane]), from_uint4(ql, room.q[warp][k][1][lane]);
                step_both<LD, 2>(x, qh, ql, k_hi + lane_columns<LD>() + at, k_lo + lane_columns<LD>() + at, y, oh[k], ol[k], v_hi + at,
                                 v_lo + at);
            }
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    score_grad(&x[j][i], &y[j][i], scale, scale2, row[i / 2]);
                    if (!all && key + j * 8 + lane % 4 * 2 + i % 2 >= seen[i / 2]) y[j][i] = 0.0f;
                }
#pragma unroll
            for (int k = 0; k < 2; k++) {
                uint32_t dh[4], dl[4];
                as_left(dh, dl, y + 2 * k);
#pragma unroll
                for (int j = 0; j < W / 16 / WIDE; j++) {
                    int at = (key + 16 * k) * LD + 16 * WIDE * j + lane_sum<LD>();
                    step<LD, WIDE, true>(dq + 2 * WIDE * j, dh, dl, k_hi + at, k_lo + at);
                }
            }
        }
        if (BUFFERS == 1) {
            __syncthreads();
            fetch(n + 1);
        }
    }
    store_dq<W / 8>(w, t, pair, kh, dq);
}

/* WARPS * 4 + BUFFERS of the largest kernel that the GPU has shared memory for */
static int dq_kind(const mr_backend *b, int D) {
    size_t most = (size_t)cu_of(b)->max_shared;
    if (D <= 64) return most >= sizeof(dq_room<64, 8, 2>) ? 34 : 17;
    return most >= sizeof(dq_room<128, 8, 2>) ? 34 : most >= sizeof(dq_room<128, 8, 1>) ? 33 : 9;
}

int split_dq_tile(const mr_backend *b, int D) { return dq_kind(b, D) / 4 * 16; }

template <int W, int WARPS, int BUFFERS> static void launch_dq(mr_backend *b, const backward &w, const tile_item *items, int n) {
    LAUNCH(b, "attention_bwd", (split_dq_kernel<W, WARPS, BUFFERS>), dim3(n, w.K), WARPS * 32,
           (int)sizeof(dq_room<W, WARPS, BUFFERS>), w, items);
}

void split_dq(mr_backend *b, const backward *w, const tile_item *items, int n) {
    int kind = dq_kind(b, w->D);
    if (kind == 34 && sm90_dq(b, w, items, n)) return;
    if (w->D <= 64) {
        if (kind == 34)
            launch_dq<64, 8, 2>(b, *w, items, n);
        else
            launch_dq<64, 4, 1>(b, *w, items, n);
    } else if (kind == 34)
        launch_dq<128, 8, 2>(b, *w, items, n);
    else if (kind == 33)
        launch_dq<128, 8, 1>(b, *w, items, n);
    else
        launch_dq<128, 2, 1>(b, *w, items, n);
}

/* dk and dv: a block has a chunk of keys, a warp 16 of them, over tiles of 16 * NP pairs of the span. */
template <int W, int NP> struct dkv_room {
    halves<W, CHUNK> k, v;
    halves<W, 16 * NP> q, d_o;
    grad_row row[2][16 * NP];
    int seen[2][16 * NP];
};

enum { DKV_THREADS = 128 };

template <int W, int NP>
__global__ static void __launch_bounds__(DKV_THREADS, 2) split_dkv_kernel(backward w, const share_item *items) {
    SHARED_BYTES(bytes);
    dkv_room<W, NP> &room = *(dkv_room<W, NP> *)bytes;
    enum { LD = W + 8, TILE = 16 * NP };
    share_item item = items[blockIdx.x];
    mr_span s = w.spans[item.span];
    chunk_ref c = chunk_of(s, item.number);
    int kh = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32, D = w.D, P = width_of(D);
    int here = keys_seen(c.total, c.number), key = 16 * warp + lane / 4;
    tile t = tile_of(s, 0, kh, w.G, w.H);
    const u16 *chunk = chunk_in(w.kv, c, kh, w.K, P);
    int64_t size = w.n_rows * P, pair0 = pair_place(w, s, kh);
    const u16 *rows = w.rows + pair0 * P;
    float scale = 1.0f / sqrtf((float)D), scale2 = scale * LOG2_E, dk[W / 8][4], dv[W / 8][4];
    clear<W / 8>(dk), clear<W / 8>(dv);
    stage_keys<DKV_THREADS>(room.k, chunk, P, here);
    stage_values<DKV_THREADS>(room.v, chunk, P, here);
    const u16 *k_hi = &room.k.hi[16 * warp][0] + lane_sum<LD>(), *k_lo = &room.k.lo[16 * warp][0] + lane_sum<LD>();
    const u16 *v_hi = &room.v.hi[16 * warp][0] + lane_sum<LD>(), *v_lo = &room.v.lo[16 * warp][0] + lane_sum<LD>();
    /* q or d_o of the tile that begins at `first`: the next one's come as soon as all have used this one's */
    auto fetch = [&](int first, bool q) {
        if (first < item.end) {
            const u16 *from = rows + (int64_t)first * P + (q ? 0 : 2 * size);
            stage<W, TILE, DKV_THREADS>(q ? room.q : room.d_o, from, from + size, P, t.n - first);
            if (!q && threadIdx.x < TILE) {
                int i = first + (int)threadIdx.x, to = first / TILE % 2;
                room.row[to][threadIdx.x] = grad_row_of(w, pair0 + i, i < t.n);
                room.seen[to][threadIdx.x] = pair_sees(s, c, t, i);
            }
        }
        copy_commit();
    };
    int first = item.first / TILE * TILE;
    fetch(first, false), fetch(first, true);
    for (; first < item.end; first += TILE) {
        int last = first + TILE < t.n ? first + TILE - 1 : t.n - 1, now = first / TILE % 2;
        bool active = 16 * warp < pair_sees(s, c, t, last); /* all of a warp, as the next */
        bool all = first + TILE <= t.n && 16 * warp + 15 < pair_sees(s, c, t, first);
        float x[2 * NP][4], y[2 * NP][4];
        uint32_t ph[NP][4], pl[NP][4], dh[NP][4], dl[NP][4];
        copy_wait<0>();
        __syncthreads();
        if (active) {
            clear<2 * NP>(x), clear<2 * NP>(y);
#pragma unroll
            for (int k = 0; k < W / 16; k++) {
                uint32_t kh4[4], kl4[4], vh4[4], vl4[4];
                int at = lane_columns<LD>() + 16 * k;
                load_matrices(kh4, k_hi + 16 * k), load_matrices(kl4, k_lo + 16 * k);
                load_matrices(vh4, v_hi + 16 * k), load_matrices(vl4, v_lo + 16 * k);
                step_both<LD, NP>(x, kh4, kl4, &room.q.hi[0][0] + at, &room.q.lo[0][0] + at, y, vh4, vl4, &room.d_o.hi[0][0] + at,
                                  &room.d_o.lo[0][0] + at);
            }
#pragma unroll
            for (int j = 0; j < 2 * NP; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int pair = j * 8 + lane % 4 * 2 + i % 2;
                    score_grad(&x[j][i], &y[j][i], scale, scale2, room.row[now][pair]);
                    if (!all && key + i / 2 * 8 >= room.seen[now][pair]) x[j][i] = y[j][i] = 0.0f;
                }
#pragma unroll
            for (int k = 0; k < NP; k++) {
                as_left(ph[k], pl[k], x + 2 * k), as_left(dh[k], dl[k], y + 2 * k);
#pragma unroll
                for (int j = 0; j < W / 16 / WIDE; j++) {
                    int at = 16 * k * LD + 16 * WIDE * j + lane_sum<LD>();
                    step<LD, WIDE, true>(dv + 2 * WIDE * j, ph[k], pl[k], &room.d_o.hi[0][0] + at, &room.d_o.lo[0][0] + at);
                }
            }
        }
        __syncthreads();
        fetch(first + TILE, false);
        if (active) {
#pragma unroll
            for (int k = 0; k < NP; k++)
#pragma unroll
                for (int j = 0; j < W / 16 / WIDE; j++) {
                    int at = 16 * k * LD + 16 * WIDE * j + lane_sum<LD>();
                    step<LD, WIDE, true>(dk + 2 * WIDE * j, dh[k], dl[k], &room.q.hi[0][0] + at, &room.q.lo[0][0] + at);
                }
        }
        __syncthreads();
        fetch(first + TILE, true);
    }
    store_dkv<W / 8>(w, item, s, c, kh, key, here, dk, dv);
}

template <int W, int NP> static void launch_dkv(mr_backend *b, const backward &w, const share_item *items, int n) {
    LAUNCH(b, "attention_bwd", (split_dkv_kernel<W, NP>), dim3(n, w.K), DKV_THREADS, (int)sizeof(dkv_room<W, NP>), w, items);
}

void split_dkv(mr_backend *b, const backward *w, const share_item *items, int n) {
    size_t most = (size_t)cu_of(b)->max_shared;
    if (sm90_dkv(b, w, items, n)) return;
    if (w->D <= 64)
        launch_dkv<64, 2>(b, *w, items, n);
    else if (most >= sizeof(dkv_room<128, 2>))
        launch_dkv<128, 2>(b, *w, items, n);
    else
        launch_dkv<128, 1>(b, *w, items, n);
}

int split_dkv_chunks(const mr_backend *b, int D) { return sm90_dkv_chunks(b, D); }
