/* attention.cu - the key/value store and attention, forward and backward: the operations, their lists of work, and kernels in f32. What
 * split_takes takes (bf16 tensor cores, heads up to 128) runs on the kernels of attention_split.cu; the rest on those here.
 *
 * Store:    for every chunk of 64 slots and every key head, K [64][D] and V [64][D].
 * Forward:  each chunk by itself: maximum m, weights e^(s - m), their sum, the weighted values in key order; then the
 *           chunks are merged in order (arXiv:2205.14135, alg. 1, lines 9 to 13). Few queries (decoding): a block a chunk,
 *           and a merge by a second kernel. Many: a block walks its chunks and merges as it goes. Both call the same
 *           functions, so the bits are the same.
 * Backward: dq by blocks of queries, over chunks and keys; dk and dv by chunks, over a segment of the queries (row, head) of one span;
 *           the segments, and what several completions give to a prompt's key, are summed span by span, in order.
 * Products: a block of 256 threads has a tile of 64 keys by 16 * P queries (P of them a thread, 4 keys or columns each).
 *           Each element is a chain of fused multiply-adds over d, keys or queries, ascending; tiles never show. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "cuda/attention.cuh"
#include "cuda/packet.h"

enum { SLICE = 32, WIDTH = 64, PAD = 68, THREADS = 256 };

size_t cu_kv_bytes(mr_backend *b, int64_t n_slots, int K, int D) {
    assert(n_slots % MR_KV_CHUNK == 0 && D <= CU_MAX_D);
    if (split_takes(b, D)) return split_kv_bytes(n_slots, K, D);
    return (size_t)n_slots * (size_t)K * (size_t)D * 2 * sizeof(float);
}

/* K of a chunk and head; V follows, CHUNK * D later. */
__host__ __device__ static inline int64_t chunk_at(int64_t chunk, int kh, int K, int D) {
    return (chunk * K + kh) * CHUNK * 2 * D;
}

/* One block a row. */
__global__ static void kv_put_kernel(float *kv, const float *k, const float *v, int ld, const int32_t *slots, int K, int D) {
    int64_t slot = slots[blockIdx.x], from = (int64_t)blockIdx.x * ld;
    for (int at = threadIdx.x; at < K * D; at += blockDim.x) {
        float *to = kv + chunk_at(slot / CHUNK, at / D, K, D) + slot % CHUNK * D + at % D;
        to[0] = k[from + at];
        to[CHUNK * D] = v[from + at];
    }
}

void cu_kv_put(mr_backend *b, void *kv, int64_t n_slots, const float *k, const float *v, int ld, const int32_t *slots,
               int N, int K, int D) {
    (void)n_slots;
    if (cu_failed(b) || N <= 0) return;
    assert(D <= CU_MAX_D && ld >= K * D);
    if (split_takes(b, D))
        split_kv_put(b, kv, k, v, ld, slots, N, K, D);
    else
        LAUNCH(b, "kv_put", kv_put_kernel, N, THREADS, 0, (float *)kv, k, v, ld, slots, K, D);
}

bool cu_rope_put(mr_backend *b, void *kv, int64_t n_slots, float *y, const float *x, const float *v, int ld, const float *wq, const float *wk,
                 float eps, const int32_t *pos, const float *inv_freq, const int32_t *slots, int N, int H, int K, int D) {
    (void)n_slots;
    if (!split_takes(b, D) || N > CU_MOST_STEP_ROWS) return false; /* many rows are cut finer by rope and kv_put */
    if (cu_failed(b) || N <= 0) return true;
    assert(D % 2 == 0 && ld >= (H + K) * D && (wq || y == x));
    split_rope_put(b, kv, y, x, v, ld, wq, wk, eps, pos, inv_freq, slots, N, H, K, D);
    return true;
}

/* --- tiles --- */

/* Pairs (row, head) of one span and key head, in the order row by row: number i is row i / G, head kh * G + i % G. */
typedef struct pairs {
    const float *q; /* row row0, head kh * G */
    int64_t ld;     /* row stride */
    int first, n, G, D;
} pairs;

__device__ inline const float *pair_row(const pairs &p, int i) {
    i += p.first;
    return p.q + i / p.G * p.ld + i % p.G * p.D;
}

/* P neighbors of a row of shared memory, from a place that is a multiple of P. */
template <int P> __device__ inline void load_row(float x[P], const float *row) {
    if (P == 4) {
        float4 v = *(const float4 *)row;
        x[0] = v.x, x[1 % P] = v.y, x[2 % P] = v.z, x[3 % P] = v.w;
    } else {
        for (int p = 0; p < P; p++) x[p] = row[p];
    }
}

/* s[p][j] = sum over d of pair (ty * P + p) times key (tx * 4 + j), d ascending. a, k: room of SLICE x PAD each. Keys from n_keys on
 * and pairs from n on count as zero. */
template <int P>
__device__ static void dots(float s[P][4], float (*a)[PAD], float (*k)[PAD], const pairs &q, const float *keys, int n_keys) {
    int tid = threadIdx.x, ty = tid / 16, tx = tid % 16;
#pragma unroll
    for (int p = 0; p < P; p++)
#pragma unroll
        for (int j = 0; j < 4; j++) s[p][j] = 0.0f;
    for (int d0 = 0; d0 < q.D; d0 += SLICE) {
        __syncthreads();
        for (int i = tid; i < 16 * P * SLICE; i += THREADS) {
            int r = i / SLICE, d = i % SLICE;
            a[d][r] = r < q.n && d0 + d < q.D ? pair_row(q, r)[d0 + d] : 0.0f;
        }
        for (int i = tid; i < CHUNK * SLICE; i += THREADS) {
            int r = i / SLICE, d = i % SLICE;
            k[d][r] = r < n_keys && d0 + d < q.D ? keys[r * q.D + d0 + d] : 0.0f;
        }
        __syncthreads();
        int depth = q.D - d0 < SLICE ? q.D - d0 : SLICE;
        for (int d = 0; d < depth; d++) {
            float key[4], x[P];
            load_row<4>(key, &k[d][tx * 4]);
            load_row<P>(x, &a[d][ty * P]);
#pragma unroll
            for (int p = 0; p < P; p++)
#pragma unroll
                for (int j = 0; j < 4; j++) s[p][j] = fmaf(x[p], key[j], s[p][j]);
        }
    }
}

/* acc[p][j] += sum over t < n of w[t][ty * P + p] * rows[t][c0 + tx * 4 + j], t ascending, and only where t is in [from[p], to[p]): what
 * a row does not see may be anything. `all`: every one sees every t. room: rows of WIDTH columns. fetch(t) points to row t. */
template <int P, typename F>
__device__ static void accumulate(float acc[P][4], const float (*w)[PAD], float (*room)[PAD], int n, int D, int c0, bool all,
                                  const int *from, const int *to, F fetch) {
    int tid = threadIdx.x, ty = tid / 16, tx = tid % 16;
    __syncthreads();
    for (int i = tid; i < n * WIDTH; i += THREADS) {
        int t = i / WIDTH, c = i % WIDTH;
        room[t][c] = c0 + c < D ? fetch(t)[c0 + c] : 0.0f;
    }
    __syncthreads();
    for (int t = 0; t < n; t++) {
        float v[4], x[P];
        load_row<4>(v, &room[t][tx * 4]);
        load_row<P>(x, &w[t][ty * P]);
#pragma unroll
        for (int p = 0; p < P; p++) {
            if (!all && (t < from[p] || t >= to[p])) continue;
#pragma unroll
            for (int j = 0; j < 4; j++) acc[p][j] = fmaf(x[p], v[j], acc[p][j]);
        }
    }
}

/* Over the 16 threads that share a pair. */
__device__ inline float row_max(float x) {
    for (int d = 8; d; d >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, d));
    return x;
}
__device__ inline float row_sum(float x) {
    for (int d = 8; d; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}

__device__ inline pairs pairs_of(const float *x, int64_t ld, const mr_span &s, int kh, int G, int D, int first, int most) {
    pairs p;
    p.q = x + s.row0 * ld + kh * G * D, p.ld = ld;
    p.first = first, p.G = G, p.D = D;
    p.n = s.n_rows * G - first < most ? s.n_rows * G - first : most;
    return p;
}

/* One chunk's own softmax for the pairs of a tile: m and sum of each pair (the same in all 16 of its threads), weights to w[key][pair]. A
 * pair that sees nothing has seen = 0, m = -inf, sum = 0. all: every pair of the tile sees every key of the chunk. */
template <int P>
__device__ static bool chunk_softmax(float m[P], float sum[P], int seen[P], float (*w)[PAD], float (*a)[PAD], float (*k)[PAD],
                                     const pairs &q, const mr_span &s, const chunk_ref &c, const float *keys) {
    int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    float x[P][4], scale = 1.0f / sqrtf((float)q.D);
    int here = keys_seen(c.total, c.number);
    dots<P>(x, a, k, q, keys, here);
    for (int p = 0; p < P; p++) {
        int row = (q.first + ty * P + p) / q.G;
        seen[p] = ty * P + p < q.n ? keys_seen(c.prefix ? s.n_prefix : s.past + row + 1, c.number) : 0;
        m[p] = -INFINITY;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            x[p][j] = tx * 4 + j < seen[p] ? x[p][j] * scale : -INFINITY;
            m[p] = fmaxf(m[p], x[p][j]);
        }
        m[p] = row_max(m[p]);
#pragma unroll
        for (int j = 0; j < 4; j++) x[p][j] = tx * 4 + j < seen[p] ? exp_f32(x[p][j] - m[p]) : 0.0f;
        sum[p] = row_sum((x[p][0] + x[p][1]) + (x[p][2] + x[p][3]));
    }
    /* everybody has read the last chunk's weights: dots has barriers */
    for (int p = 0; p < P; p++)
        for (int j = 0; j < 4; j++) w[tx * 4 + j][ty * P + p] = x[p][j];
    /* the first pair of the tile sees least */
    return here == CHUNK && keys_seen(c.prefix ? s.n_prefix : s.past + q.first / q.G + 1, c.number) == CHUNK;
}

/* At 16 bytes, as SHARED_BYTES are. */
typedef struct tile_room {
    float w[CHUNK][PAD];
    union {
        float rows[CHUNK][PAD];
        float slices[2][SLICE][PAD];
    } u;
} tile_room;

/* --- forward, many queries: one block a tile of 64 pairs and a key head --- */

template <int S> __global__ static void __launch_bounds__(THREADS) many_kernel(attending a, const tile_item *items) {
    SHARED_BYTES(bytes);
    tile_room &room = *(tile_room *)bytes;
    tile_item item = items[blockIdx.x];
    mr_span s = a.spans[item.span];
    int kh = blockIdx.y, ty = threadIdx.x / 16, tx = threadIdx.x % 16, D = a.D;
    pairs q = pairs_of(a.q, a.ldq, s, kh, a.G, D, item.first, 64);
    int last_row = (q.first + q.n - 1) / a.G, n_chunks = chunks_of(s.n_prefix) + chunks_of(s.past + last_row + 1);
    float o[S][4][4], most[4], total[4];
    const int none[4] = { 0, 0, 0, 0 };
#pragma unroll
    for (int p = 0; p < 4; p++) {
        most[p] = -INFINITY, total[p] = 0.0f;
#pragma unroll
        for (int c = 0; c < S; c++)
#pragma unroll
            for (int j = 0; j < 4; j++) o[c][p][j] = 0.0f;
    }
    for (int n = 0; n < n_chunks; n++) {
        chunk_ref c = chunk_of(s, n);
        const float *keys = a.kv + chunk_at(c.index, kh, a.K, D), *values = keys + CHUNK * D;
        float m[4], sum[4], keep[4], take[4];
        int seen[4];
        bool all = chunk_softmax<4>(m, sum, seen, room.w, room.u.slices[0], room.u.slices[1], q, s, c, keys);
#pragma unroll
        for (int p = 0; p < 4; p++)
            if (seen[p] > 0) merge(&most[p], &total[p], &keep[p], &take[p], m[p], sum[p]);
#pragma unroll
        for (int sl = 0; sl < S; sl++) {
            float part[4][4] = {};
            accumulate<4>(part, room.w, room.u.rows, keys_seen(c.total, c.number), D, sl * WIDTH, all, none, seen,
                          [&](int t) { return values + t * D; });
#pragma unroll
            for (int p = 0; p < 4; p++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    if (seen[p] > 0) o[sl][p][j] = fmaf(part[p][j], take[p], o[sl][p][j] * keep[p]);
        }
    }
#pragma unroll
    for (int p = 0; p < 4; p++) {
        int i = ty * 4 + p;
        if (i >= q.n) continue;
        int64_t row = s.row0 + (q.first + i) / a.G;
        int head = kh * a.G + (q.first + i) % a.G;
#pragma unroll
        for (int sl = 0; sl < S; sl++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int c = sl * WIDTH + tx * 4 + j;
                if (c < D) a.o[(row * a.H + head) * D + c] = o[sl][p][j] / total[p];
            }
        if (a.lse && tx == 0) a.lse[row * a.H + head] = most[p] + logf(total[p]);
    }
}

/* --- forward, few queries: one block a chunk, up to 16 pairs of a span; then the merge --- */

/* parts: for each item, key head and pair. */
__global__ static void __launch_bounds__(THREADS) few_kernel(attending a, const chunk_item *items, float *parts) {
    SHARED_BYTES(bytes);
    tile_room &room = *(tile_room *)bytes;
    chunk_item item = item_of(a, items);
    mr_span s = a.spans[item.span];
    if (!has_chunk(s, item)) return;
    int kh = blockIdx.y, ty = threadIdx.x / 16, tx = threadIdx.x % 16, D = a.D;
    pairs q = pairs_of(a.q, a.ldq, s, kh, a.G, D, 0, 16);
    chunk_ref c = chunk_of(s, item.number);
    const float *keys = a.kv + chunk_at(c.index, kh, a.K, D), *values = keys + CHUNK * D;
    float m[1], sum[1];
    int seen[1];
    const int none[1] = { 0 };
    bool all = chunk_softmax<1>(m, sum, seen, room.w, room.u.slices[0], room.u.slices[1], q, s, c, keys);
    float *to = parts + (((int64_t)blockIdx.x * a.K + kh) * (items ? 16 : a.G) + ty) * part_size(D);
    for (int c0 = 0; c0 < D; c0 += WIDTH) {
        float part[1][4] = {};
        accumulate<1>(part, room.w, room.u.rows, keys_seen(c.total, c.number), D, c0, all, none, seen,
                      [&](int t) { return values + t * D; });
        for (int j = 0; j < 4; j++)
            if (c0 + tx * 4 + j < D && ty < q.n) to[c0 + tx * 4 + j] = part[0][j];
    }
    if (tx == 0 && ty < q.n) to[D] = m[0], to[D + 1] = sum[0];
}

/* A (span, pair) and key head is a warp's: a lane has the factors of every 32nd chunk, since the maximum so far may be found in any order, and each 32nd
 * column. first_item[span]: its first chunk's item, and parts have room for 16 pairs; NULL: n_chunks a span, and for G. */
enum { MERGE_WARPS = 4 };
template <int LAYOUT>
__global__ static void __launch_bounds__(MERGE_WARPS * 32, 7) merge_kernel(attending a, int S, const int *first_item, const float *parts,
                                                                        packed_rows packed) {
    enum { COLUMNS = 4, AHEAD = 8 }; /* of a lane, and chunks whose values are on their way */
    int room = first_item ? 16 : a.G, at = blockIdx.x * MERGE_WARPS + threadIdx.x / 32, which = at / room, pair = at % room, kh = blockIdx.y,
        D = a.D, lane = threadIdx.x % 32;
    if (which >= S) return; /* of the last block's warps */
    mr_span s = a.spans[which];
    follow();
    int first = first_item ? first_item[which] : which * a.n_chunks;
    if (pair >= s.n_rows * a.G) return;
    int before = chunks_of(s.n_prefix), own = s.past + pair / a.G + 1, n = before + chunks_of(own);
    int64_t row = s.row0 + pair / a.G, head = kh * a.G + pair % a.G, step = (int64_t)a.K * room * part_size(D);
    for (int c0 = lane; c0 - lane < D; c0 += 32 * COLUMNS) {
        const float *from = parts + (((int64_t)first * a.K + kh) * room + pair) * part_size(D);
        float most = -INFINITY, total = 0.0f, o[COLUMNS] = {}, x[AHEAD][COLUMNS];
        auto load = [&](int i) {
#pragma unroll
            for (int k = 0; k < AHEAD; k++)
#pragma unroll
                for (int c = 0; c < COLUMNS; c++) x[k][c] = i + k < n && c0 + 32 * c < D ? from[(i + k) * step + c0 + 32 * c] : 0.0f;
        };
        load(0);
        for (int i = 0; i < n; i += 32) {
            bool have = i + lane < n;
            float m = have ? from[(i + lane) * step + D] : -INFINITY, sum = have ? from[(i + lane) * step + D + 1] : 0.0f, now = m;
            for (int d = 1; d < 32; d *= 2) now = fmaxf(now, __shfl_up_sync(0xffffffffu, now, d));
            now = fmaxf(now, most);
            float old = __shfl_up_sync(0xffffffffu, now, 1), keep = exp_below_88((lane ? old : most) - now), take = exp_below_88(m - now);
            most = __shfl_sync(0xffffffffu, now, 31);
            int end = n - i < 32 ? n - i : 32;
            for (int j = 0; j < end; j += AHEAD) {
#pragma unroll
                for (int k = 0; k < AHEAD; k++) {
                    if (j + k >= end) break;
                    float kept = __shfl_sync(0xffffffffu, keep, j + k), taken = __shfl_sync(0xffffffffu, take, j + k);
                    total = fmaf(__shfl_sync(0xffffffffu, sum, j + k), taken, total * kept);
#pragma unroll
                    for (int c = 0; c < COLUMNS; c++) o[c] = fmaf(x[k][c], taken, o[c] * kept);
                }
                load(i + j + AHEAD);
            }
        }
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            int col = c0 + 32 * c;
            if (col >= D) break;
            o[c] /= total;
            a.o[(row * a.H + head) * D + col] = o[c];
            put_packed<LAYOUT>(packed, (int)row, (int)head * D + col, o[c]);
        }
        if (a.lse && c0 == 0) a.lse[row * a.H + head] = most + logf(total);
    }
}

/* --- host --- */

static void check_span(const mr_span *s, int64_t n_slots) {
    assert(s->n_rows >= 0 && s->past >= 0 && s->slot0 % MR_KV_CHUNK == 0 && s->prefix_slot0 % MR_KV_CHUNK == 0);
    assert(s->slot0 + (int64_t)s->past + s->n_rows <= n_slots && s->prefix_slot0 + (int64_t)s->n_prefix <= n_slots);
    (void)s, (void)n_slots;
}

static void no_host_memory(mr_backend *b, const char *op) { cu_fail(b, MR_ENOMEM, op, "the host has no memory left"); }

/* The tiles of a pack, those with most keys first: the last ones to start are short then. */
static bool add_tiles(packet *p, const mr_span *spans, int S, int G, int tile, int *n) {
    size_t at = p->len;
    *n = 0;
    for (int s = 0; s < S; s++)
        for (int first = 0; first < spans[s].n_rows * G; first += tile, ++*n) {
            tile_item item = { s, first };
            if (!packet_add(p, &item, sizeof item)) return false;
        }
    const mr_span *of = spans;
    tile_item *items = (tile_item *)(void *)(p->data + at);
    std::sort(items, items + *n, [=](const tile_item &x, const tile_item &y) {
        int64_t keys_x = of[x.span].n_prefix + of[x.span].past + x.first / G, keys_y = of[y.span].n_prefix + of[y.span].past + y.first / G;
        return keys_x != keys_y ? keys_x > keys_y : x.span != y.span ? x.span < y.span : x.first < y.first;
    });
    return true;
}

/* Of one chunk's parts: merge_kernel; of one key's share: add_shares_kernel; of what a backward pass has for each row. */
static size_t part_bytes(int K, int D) { return (size_t)K * 16 * (size_t)part_size(D) * sizeof(float); }
static size_t share_bytes(int K, int D) { return (size_t)K * 2 * (size_t)D * sizeof(float); }
static size_t rows_bytes(const mr_backend *b, int N, int H, int D) {
    return split_takes(b, D) ? split_rows_bytes(N, H, D) : (size_t)N * (size_t)H * sizeof(float);
}

static void attend_many(mr_backend *b, attending a, const mr_span *spans, int S) {
    packet p = { NULL, 0, 0 };
    int n = 0;
    bool split = split_takes(b, a.D), ok = packet_add(&p, spans, (size_t)S * sizeof *spans);
    ok = ok && add_tiles(&p, spans, S, a.G, split ? split_many_tile(b, a.D) : 64, &n);
    const char *device = ok && n ? (const char *)cu_small(b, "attention", 0, p.data, p.len) : NULL;
    free(p.data);
    if (!ok) no_host_memory(b, "attention");
    if (!device) return;
    a.spans = (const mr_span *)device;
    const tile_item *items = (const tile_item *)(device + (size_t)S * sizeof(mr_span));
    dim3 grid(n, a.K);
    int slices = (a.D + WIDTH - 1) / WIDTH;
    if (split)
        split_many(b, &a, items, n);
    else if (slices == 1)
        LAUNCH(b, "attention", many_kernel<1>, grid, THREADS, (int)sizeof(tile_room), a, items);
    else if (slices == 2)
        LAUNCH(b, "attention", many_kernel<2>, grid, THREADS, (int)sizeof(tile_room), a, items);
    else
        LAUNCH(b, "attention", many_kernel<4>, grid, THREADS, (int)sizeof(tile_room), a, items);
}

/* first_item: merge_kernel. */
static void launch_few(mr_backend *b, const attending &a, const chunk_item *items, int n_items, int S, const int *first_item,
                       float *parts, const packed_rows &packed) {
    dim3 grid(n_items, a.K), merges((S * (first_item ? 16 : a.G) + MERGE_WARPS - 1) / MERGE_WARPS, a.K);
    if (split_takes(b, a.D) && !items)
        split_step(b, &a, S, parts);
    else if (split_takes(b, a.D))
        split_few(b, &a, items, n_items, parts);
    else
        LAUNCH(b, "attention", few_kernel, grid, THREADS, (int)sizeof(tile_room), a, items, parts);
    by_layout(packed, [&](auto layout) {
        auto kernel = merge_kernel<decltype(layout)::value>;
        LAUNCH_EARLY(b, "attention", kernel, merges, MERGE_WARPS * 32, 0, a, S, first_item, (const float *)parts, packed);
    });
}

/* Spans [0, S) with at most 16 pairs each, n_items chunks in all. */
static void attend_few(mr_backend *b, attending a, const mr_span *spans, int S, int n_items) {
    packet p = { NULL, 0, 0 };
    bool ok = packet_add(&p, spans, (size_t)S * sizeof *spans);
    for (int s = 0; s < S; s++)
        for (int c = 0; c < chunks_of(spans[s].n_prefix) + chunks_of(spans[s].past + spans[s].n_rows); c++) {
            chunk_item item = { s, c };
            ok = ok && packet_add(&p, &item, sizeof item);
        }
    size_t at = p.len;
    for (int s = 0, first = 0; s < S; s++) {
        ok = ok && packet_add(&p, &first, sizeof first);
        first += chunks_of(spans[s].n_prefix) + chunks_of(spans[s].past + spans[s].n_rows);
    }
    float *parts = (float *)cu_scratch(b, "attention", CU_SLOT_ATT, (size_t)n_items * part_bytes(a.K, a.D));
    const char *device = ok && parts ? (const char *)cu_small(b, "attention", 0, p.data, p.len) : NULL;
    free(p.data);
    if (!ok) no_host_memory(b, "attention");
    if (!device) return;
    a.spans = (const mr_span *)device;
    const chunk_item *items = (const chunk_item *)(device + (size_t)S * sizeof(mr_span));
    launch_few(b, a, items, n_items, S, (const int *)(device + at), parts, packed_rows{});
}

void cu_attention_step(mr_backend *b, float *o, const float *q, int ldq, const void *kv, int64_t n_slots, const mr_span *spans,
                       int S, int n_chunks, int H, int K, int D) {
    (void)n_slots;
    if (cu_failed(b) || S <= 0) return;
    assert(H % K == 0 && H / K <= 16 && D <= CU_MAX_D && ldq >= H * D && n_chunks > 0);
    size_t each = (size_t)n_chunks * (size_t)H * (size_t)part_size(D) * sizeof(float);
    int room = (int)(CU_ATT_BYTES / each), at_once = room < 1 ? 1 : (S + (S + room - 1) / room - 1) / ((S + room - 1) / room);
    float *parts = (float *)cu_scratch(b, "attention", CU_SLOT_ATT, (size_t)at_once * each);
    if (!parts) return;
    attending a = { o, NULL, q, (const float *)kv, NULL, ldq, H, K, D, H / K, n_chunks };
    packed_rows packed = packed_rows_for(b, "attention", S, (int64_t)H * D); /* each span has one row */
    for (int s = 0; s < S; s += at_once) {
        int n = S - s < at_once ? S - s : at_once;
        a.spans = spans + s; /* rows are counted from the first span's all the same: row0 */
        launch_few(b, a, NULL, n * n_chunks, n, NULL, parts, packed);
    }
    if (packed.at) cu_packed_note(b, packed.at, o, S, (int64_t)H * D);
}

void cu_attention(mr_backend *b, float *o, float *lse, const float *q, int ldq, const void *kv, int64_t n_slots,
                  const mr_span *spans, int S, int H, int K, int D) {
    if (cu_failed(b) || S <= 0) return;
    assert(H % K == 0 && D <= CU_MAX_D && ldq >= H * D);
    attending a = { o, lse, q, (const float *)kv, NULL, ldq, H, K, D, H / K, 0 };
    bool few = true;
    for (int s = 0; s < S; s++) {
        check_span(&spans[s], n_slots);
        few = few && spans[s].n_rows * a.G <= 16;
    }
    if (!few) {
        attend_many(b, a, spans, S);
        return;
    }
    /* as many spans at a time as the scratch has room for the parts of */
    const int room = (int)(CU_ATT_BYTES / part_bytes(K, D));
    for (int s = 0; s < S;) {
        int n = 0, items = 0;
        while (s + n < S) {
            const mr_span *x = &spans[s + n];
            int more = chunks_of(x->n_prefix) + chunks_of(x->past + x->n_rows);
            if (n && items + more > room) break;
            items += more, n++;
        }
        if (items) attend_few(b, a, spans + s, n, items);
        s += n;
    }
}

/* --- backward --- */

/* delta = sum over d of d_o * o: one warp a (row, head). */
__global__ static void delta_kernel(float *delta, const float *d_o, const float *o, int D, int64_t n) {
    int64_t i = blockIdx.x * (int64_t)(THREADS / 32) + threadIdx.x / 32;
    if (i >= n) return; /* whole warps */
    float sum = 0;
    for (int d = threadIdx.x % 32; d < D; d += 32) sum = fmaf(d_o[i * D + d], o[i * D + d], sum);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) delta[i] = sum;
}

/* p = e^(scale s - lse) and ds = p (dp - delta) scale for a tile of 64 pairs and a chunk (arXiv:2205.14135, alg. 4). */
__device__ static bool tile_grads(float p[4][4], float ds[4][4], int seen[4], const backward &w, const mr_span &s,
                                  const chunk_ref &c, int kh, int first, tile_room &room) {
    int ty = threadIdx.x / 16, tx = threadIdx.x % 16, D = w.D;
    float scale = 1.0f / sqrtf((float)D);
    pairs q = pairs_of(w.q, w.ldq, s, kh, w.G, D, first, 64), d_o = pairs_of(w.d_o, (int64_t)w.H * D, s, kh, w.G, D, first, 64);
    const float *keys = w.kv + chunk_at(c.index, kh, w.K, D), *values = keys + CHUNK * D;
    int here = keys_seen(c.total, c.number);
    dots<4>(p, room.u.slices[0], room.u.slices[1], q, keys, here);
    dots<4>(ds, room.u.slices[0], room.u.slices[1], d_o, values, here);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int pair = first + ty * 4 + i, row = pair / w.G;
        bool have = ty * 4 + i < q.n;
        int64_t at = (int64_t)(s.row0 + (have ? row : 0)) * w.H + kh * w.G + pair % w.G;
        float lse = w.lse[at], delta = w.delta[at];
        seen[i] = have ? keys_seen(c.prefix ? s.n_prefix : row + 1, c.number) : 0;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            bool sees = tx * 4 + j < seen[i];
            float e = sees ? exp_f32(p[i][j] * scale - lse) : 0.0f;
            p[i][j] = e;
            ds[i][j] = sees ? e * (ds[i][j] - delta) * scale : 0.0f;
        }
    }
    return here == CHUNK && q.n == 64 && keys_seen(c.prefix ? s.n_prefix : first / w.G + 1, c.number) == CHUNK;
}

/* One block a tile of 64 pairs and a key head: over chunks and keys in order. */
template <int S> __global__ static void __launch_bounds__(THREADS) dq_kernel(backward w, const tile_item *items) {
    SHARED_BYTES(bytes);
    tile_room &room = *(tile_room *)bytes;
    tile_item item = items[blockIdx.x];
    mr_span s = w.spans[item.span];
    int kh = blockIdx.y, ty = threadIdx.x / 16, tx = threadIdx.x % 16, D = w.D;
    int left = s.n_rows * w.G - item.first, n_pairs = left < 64 ? left : 64;
    int n_chunks = chunks_of(s.n_prefix) + chunks_of((item.first + n_pairs - 1) / w.G + 1);
    const int none[4] = { 0, 0, 0, 0 };
    float dq[S][4][4];
#pragma unroll
    for (int c = 0; c < S; c++)
#pragma unroll
        for (int p = 0; p < 4; p++)
#pragma unroll
            for (int j = 0; j < 4; j++) dq[c][p][j] = 0.0f;
    for (int n = 0; n < n_chunks; n++) {
        chunk_ref c = chunk_of(s, n);
        const float *keys = w.kv + chunk_at(c.index, kh, w.K, D);
        float p[4][4], ds[4][4];
        int seen[4];
        bool all = tile_grads(p, ds, seen, w, s, c, kh, item.first, room);
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) room.w[tx * 4 + j][ty * 4 + i] = ds[i][j];
#pragma unroll
        for (int sl = 0; sl < S; sl++)
            accumulate<4>(dq[sl], room.w, room.u.rows, keys_seen(c.total, c.number), D, sl * WIDTH, all, none, seen,
                          [&](int t) { return keys + t * D; });
        __syncthreads(); /* w and rows are read until here */
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (ty * 4 + i >= n_pairs) continue;
        int pair = item.first + ty * 4 + i;
        float *to = w.dq + (int64_t)(s.row0 + pair / w.G) * w.lddq + (kh * w.G + pair % w.G) * D;
#pragma unroll
        for (int sl = 0; sl < S; sl++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (sl * WIDTH + tx * 4 + j < D) to[sl * WIDTH + tx * 4 + j] = dq[sl][i][j];
    }
}

typedef struct grad_room {
    tile_room tile; /* its w: p by [pair][key] */
    float ds[64][PAD];
    int to[64];
} grad_room;

template <int S> __global__ static void __launch_bounds__(THREADS) dkv_kernel(backward w, const share_item *items) {
    SHARED_BYTES(bytes);
    grad_room &room = *(grad_room *)bytes;
    share_item item = items[blockIdx.x];
    mr_span s = w.spans[item.span];
    chunk_ref c = chunk_of(s, item.number);
    int kh = blockIdx.y, ty = threadIdx.x / 16, tx = threadIdx.x % 16, D = w.D, n_pairs = s.n_rows * w.G;
    int here = keys_seen(c.total, c.number);
    float dk[S][4][4], dv[S][4][4];
#pragma unroll
    for (int a = 0; a < S; a++)
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) dk[a][i][j] = dv[a][i][j] = 0.0f;
    /* pair t of a tile sees key k of the chunk when k < seen: for a key, those from some t on */
    for (int first = item.first / 64 * 64; first < item.end; first += 64) {
        float p[4][4], ds[4][4];
        int seen[4], from[4], to[4], n = n_pairs - first < 64 ? n_pairs - first : 64;
        bool all = tile_grads(p, ds, seen, w, s, c, kh, first, room.tile);
        for (int i = 0; i < 4; i++) {
            if (tx == 0) room.to[ty * 4 + i] = seen[i];
            for (int j = 0; j < 4; j++) {
                room.tile.w[ty * 4 + i][tx * 4 + j] = p[i][j];
                room.ds[ty * 4 + i][tx * 4 + j] = ds[i][j];
            }
        }
        __syncthreads();
        for (int i = 0; i < 4; i++) {
            from[i] = 0, to[i] = n;
            while (!all && from[i] < n && room.to[from[i]] <= ty * 4 + i) from[i]++;
        }
        pairs q = pairs_of(w.q, w.ldq, s, kh, w.G, D, first, 64),
              d_o = pairs_of(w.d_o, (int64_t)w.H * D, s, kh, w.G, D, first, 64);
#pragma unroll
        for (int sl = 0; sl < S; sl++) {
            accumulate<4>(dv[sl], room.tile.w, room.tile.u.rows, n, D, sl * WIDTH, all, from, to,
                          [&](int t) { return pair_row(d_o, t); });
            accumulate<4>(dk[sl], room.ds, room.tile.u.rows, n, D, sl * WIDTH, all, from, to,
                          [&](int t) { return pair_row(q, t); });
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int key = ty * 4 + i;
        if (key >= here) continue;
        float *to_k, *to_v;
        if (item.share >= 0) {
            to_k = w.parts + (item.share + c.number * CHUNK + key) * 2 * w.K * D + kh * D;
            to_v = to_k + w.K * D;
        } else {
            int64_t at = (int64_t)(s.row0 + c.number * CHUNK + key) * w.lddkv + kh * D;
            to_k = w.dk + at, to_v = w.dv + at;
        }
#pragma unroll
        for (int sl = 0; sl < S; sl++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int col = sl * WIDTH + tx * 4 + j;
                if (col < D) to_k[col] = dk[sl][i][j], to_v[col] = dv[sl][i][j];
            }
    }
}

/* The shares of the spans in order: one thread a (row of a prompt, column). shares: {prompt row0, n, first row in parts}. */
typedef struct share_sum {
    int row0, n;
    int64_t share;
} share_sum;

enum { SUM_THREADS = 128 };

/* A block has a row. It lists the shares that have the row first, SUM_THREADS at a time: then loads of one share need not wait for those of
 * the one before. V: one value of dk or dv, or four neighbors, where they lie at 16 bytes. */
template <typename V>
__global__ static void __launch_bounds__(SUM_THREADS) add_shares_kernel(backward w, const share_sum *sums, int n_sums) {
    enum { EACH = sizeof(V) / sizeof(float) };
    __shared__ int64_t rows[SUM_THREADS]; /* of parts */
    __shared__ int listed[SUM_THREADS];
    int64_t width = (int64_t)w.K * w.D, row = blockIdx.x;
    for (int first = 0; first < n_sums; first += SUM_THREADS) {
        int here = n_sums - first < SUM_THREADS ? n_sums - first : (int)SUM_THREADS, mine = threadIdx.x, before = 0, n = 0;
        share_sum s = sums[first + (mine < here ? mine : 0)];
        bool has = mine < here && row >= s.row0 && row < s.row0 + s.n;
        __syncthreads(); /* all have used the list before */
        listed[mine] = has;
        __syncthreads();
        for (int i = 0; i < here; i++) before += i < mine ? listed[i] : 0, n += listed[i];
        if (has) rows[before] = s.share + row - s.row0;
        __syncthreads();
        for (int64_t c = threadIdx.x * EACH; n > 0 && c < 2 * width; c += SUM_THREADS * EACH) {
            float *to = c < width ? w.dk + row * w.lddkv + c : w.dv + row * w.lddkv + c - width;
            V sum = *(const V *)to;
#pragma unroll 8
            for (int i = 0; i < n; i++) sum = plus(sum, *(const V *)(w.parts + rows[i] * 2 * width + c));
            *(V *)to = sum;
        }
    }
}

static int prompt_of(const mr_span *spans, int at) {
    for (int s = 0; s < at; s++)
        if (spans[s].row0 == spans[at].prefix_row0) return s;
    assert(0 && "a completion whose prompt is not among the spans before it");
    return -1;
}

template <int S>
static void launch_dkv(mr_backend *b, const backward &w, const share_item *items, int n) {
    LAUNCH(b, "attention_bwd", dkv_kernel<S>, dim3(n, w.K), THREADS, (int)sizeof(grad_room), w, items);
}
template <int S> static void launch_dq(mr_backend *b, const backward &w, const tile_item *items, int n) {
    LAUNCH(b, "attention_bwd", dq_kernel<S>, dim3(n, w.K), THREADS, (int)sizeof(tile_room), w, items);
}

/* The work of dk and dv. A chain over the pairs of a span ends after GRAD_SEGMENT of them, counted from the span's first: that makes items
 * of about one size. Each key's first chain from its own span goes to dk and dv, all others to shares that are added in order. */
enum { GRAD_SEGMENT = 1024 };

typedef struct grad_work {
    packet items, sums;
    int width;                     /* chunks that an item may have */
    int n_items, n_sums, last_row; /* last_row: behind the rows that get shares */
    int64_t rows;                  /* of parts */
} grad_work;

static int segments_of(int n_pairs) { return (n_pairs + GRAD_SEGMENT - 1) / GRAD_SEGMENT; }

static bool add_item(grad_work *g, share_item item) {
    g->n_items++;
    return packet_add(&g->items, &item, sizeof item);
}

/* The share of pairs of one segment to keys 0 .. n - 1 of the span at row0. */
static bool add_sum(grad_work *g, int row0, int n) {
    share_sum sum = { row0, n, g->rows };
    g->rows += n, g->n_sums++;
    if (row0 + n > g->last_row) g->last_row = row0 + n;
    return packet_add(&g->sums, &sum, sizeof sum);
}

/* One segment of a span's pairs: what it gives to the span's own keys, or to those of its prompt. */
typedef struct grad_at {
    bool prefix;
    int span, segment;
} grad_at;

/* How many of the span's first keys get a share from the segment: all of its prompt's, or its own in chunks that begin before it. */
static int keys_shared(const mr_span *s, grad_at at, int G) {
    if (at.prefix) return s->n_prefix;
    int64_t keys = ((int64_t)at.segment * GRAD_SEGMENT + CHUNK * G - 1) / (CHUNK * G) * CHUNK;
    return (int)(keys < s->n_rows ? keys : s->n_rows);
}

/* How many of the span's own chunks from number c on, `width` at most, have an item together: all begin before the segment, or in it. */
static int chunks_together(int c, int n_chunks, int width, int first, int end, int pairs_of_chunk) {
    int n = 1;
    bool before = c * pairs_of_chunk < first;
    while (n < width && c + n < n_chunks && (c + n) * pairs_of_chunk < end && ((c + n) * pairs_of_chunk < first) == before) n++;
    return n;
}

static bool add_segment(grad_work *g, const mr_span *spans, grad_at at, int G) {
    const mr_span *s = &spans[at.span];
    int n_pairs = s->n_rows * G, first = at.segment * GRAD_SEGMENT, shared = keys_shared(s, at, G), before = chunks_of(s->n_prefix);
    int end = first + GRAD_SEGMENT < n_pairs ? first + GRAD_SEGMENT : n_pairs;
    bool ok = true;
    if (at.prefix) {
        for (int c = 0; ok && c < before; c += g->width) {
            int n = before - c < g->width ? before - c : g->width;
            ok = add_item(g, share_item{ at.span, c, n, first, end, g->rows });
        }
    } else {
        for (int c = 0, n; ok && c < chunks_of(s->n_rows); c += n) {
            int from = c * CHUNK * G; /* earlier pairs do not see the chunk */
            if (from >= end) break;
            bool share = from < first;
            n = chunks_together(c, chunks_of(s->n_rows), g->width, first, end, CHUNK * G);
            ok = add_item(g, share_item{ at.span, before + c, n, share ? first : from, end, share ? g->rows : -1 });
        }
    }
    return ok && (!shared || add_sum(g, at.prefix ? spans[prompt_of(spans, at.span)].row0 : s->row0, shared));
}

/* From *at on: dk and dv of all spans' own keys, then the shares of completions to their prompts; as much as attention's scratch has
 * room for the parts of, one segment at least. Where it is cut shows nowhere: shares are added in the order of segments. */
static bool add_grads(grad_work *g, const mr_span *spans, int S, int G, grad_at *at, int64_t room) {
    bool ok = true;
    while (ok && at->span < S) {
        const mr_span *s = &spans[at->span];
        if (at->segment == segments_of(s->n_rows * G) || (at->prefix && !s->n_prefix)) {
            at->segment = 0;
            if (++at->span == S && !at->prefix) at->prefix = true, at->span = 0;
            continue;
        }
        if (g->rows && g->rows + keys_shared(s, *at, G) > room) break;
        ok = add_segment(g, spans, *at, G);
        at->segment++;
    }
    share_item *items = (share_item *)(void *)g->items.data;
    if (ok) /* long ones first; the order of items changes no result */
        std::sort(items, items + g->n_items, [](const share_item &x, const share_item &y) {
            int a = (x.end - x.first) * x.chunks, b = (y.end - y.first) * y.chunks;
            return a != b ? a > b : x.span != y.span ? x.span < y.span : x.number != y.number ? x.number < y.number : x.first < y.first;
        });
    return ok;
}

/* Items of several chunks fill a multiprocessor. Where the last turn of them would leave nearly half of the multiprocessors idle, its items become
 * ones of one chunk, of which each is done sooner; the order of sums is the same. */
static bool split_last(grad_work *g, int K, int n_sm, int pairs_of_chunk) {
    int last = g->n_items * K % n_sm, from = g->n_items - last / K;
    bool ok = true;
    if (g->width == 1 || last * 8 > n_sm * 5) return true;
    for (int i = from, n = g->n_items; ok && i < n; i++) {
        share_item item = ((const share_item *)(const void *)g->items.data)[i];
        ((share_item *)(void *)g->items.data)[i].chunks = 1;
        while (ok && item.chunks > 1) {
            item.number++, item.chunks--;
            share_item one = item;
            one.chunks = 1;
            if (item.share < 0) one.first = item.first += pairs_of_chunk; /* its own keys, which earlier pairs do not see */
            ok = add_item(g, one);
        }
    }
    return ok;
}

/* One launch, from *at on, which goes to what is left. */
static void grads_of(mr_backend *b, backward w, const mr_span *spans, int S, grad_at *at) {
    const char *op = "attention_bwd";
    grad_work g;
    memset(&g, 0, sizeof g);
    g.width = split_takes(b, w.D) ? split_dkv_chunks(b, w.D) : 1;
    packet p = { NULL, 0, 0 };
    int which = at->prefix || at->span || at->segment ? 2 : 1;
    bool ok = add_grads(&g, spans, S, w.G, at, (int64_t)(CU_ATT_BYTES / share_bytes(w.K, w.D))) &&
              split_last(&g, w.K, cu_of(b)->n_sm, CHUNK * w.G);
    size_t items_at = g.sums.len, spans_at = items_at + g.items.len; /* sums and items are of 8 bytes, a span of 4 */
    ok = ok && (!g.n_sums || packet_add(&p, g.sums.data, g.sums.len)) && (!g.n_items || packet_add(&p, g.items.data, g.items.len)) &&
         packet_add(&p, spans, (size_t)S * sizeof *spans);
    if (g.rows) w.parts = (float *)cu_scratch(b, op, CU_SLOT_ATT, (size_t)g.rows * share_bytes(w.K, w.D));
    const char *device = ok && g.n_items && (w.parts || !g.rows) ? (const char *)cu_small(b, op, which, p.data, p.len) : NULL;
    free(p.data), free(g.items.data), free(g.sums.data);
    if (!ok) no_host_memory(b, op);
    if (!device) return;
    w.spans = (const mr_span *)(device + spans_at);
    const share_item *items = (const share_item *)(device + items_at);
    int slices = (w.D + WIDTH - 1) / WIDTH;
    if (split_takes(b, w.D))
        split_dkv(b, &w, items, g.n_items);
    else if (slices == 1)
        launch_dkv<1>(b, w, items, g.n_items);
    else if (slices == 2)
        launch_dkv<2>(b, w, items, g.n_items);
    else
        launch_dkv<4>(b, w, items, g.n_items);
    if (!g.n_sums) return;
    bool fours = w.K * w.D % 4 == 0 && w.lddkv % 4 == 0 && (uintptr_t)w.dk % 16 == 0 && (uintptr_t)w.dv % 16 == 0;
    if (fours)
        LAUNCH(b, op, add_shares_kernel<float4>, g.last_row, SUM_THREADS, 0, w, (const share_sum *)device, g.n_sums);
    else
        LAUNCH(b, op, add_shares_kernel<float>, g.last_row, SUM_THREADS, 0, w, (const share_sum *)device, g.n_sums);
}

void cu_attention_bwd(mr_backend *b, float *dq, int lddq, float *dk, float *dv, int lddkv, const float *d_o,
                      const float *o, const float *lse, const float *q, int ldq, const void *kv, int64_t n_slots,
                      const mr_span *spans, int S, int N, int H, int K, int D) {
    if (cu_failed(b) || N <= 0 || S <= 0) return;
    const char *op = "attention_bwd";
    assert(H % K == 0 && D <= CU_MAX_D && ldq >= H * D && lddq >= H * D && lddkv >= K * D);
    for (int s = 0; s < S; s++) {
        check_span(&spans[s], n_slots);
        assert(spans[s].past == 0 && spans[s].row0 + spans[s].n_rows <= N);
    }
    bool split = split_takes(b, D);
    /* between the products of one layer and those of the next: where the largest weight was unpacked */
    float *delta = (float *)cu_scratch(b, op, CU_SLOT_W, rows_bytes(b, N, H, D));
    if (!delta) return;
    cu_of(b)->unpacked[0] = NULL;
    backward w;
    memset(&w, 0, sizeof w);
    w.dq = dq, w.dk = dk, w.dv = dv, w.delta = delta, w.d_o = d_o, w.o = o, w.lse = lse, w.q = q, w.kv = (const float *)kv;
    w.lddq = lddq, w.lddkv = lddkv, w.ldq = ldq, w.H = H, w.K = K, w.D = D, w.G = H / K;
    int64_t n_pairs = (int64_t)N * H;
    if (split)
        split_rows(b, &w, delta, N);
    else
        LAUNCH(b, op, delta_kernel, (int)((n_pairs + THREADS / 32 - 1) / (THREADS / 32)), THREADS, 0, delta, d_o, o, D, n_pairs);

    for (grad_at at = { false, 0, 0 }; at.span < S && !cu_failed(b);) grads_of(b, w, spans, S, &at);

    packet p = { NULL, 0, 0 };
    int n = 0;
    bool ok = packet_add(&p, spans, (size_t)S * sizeof *spans);
    ok = ok && add_tiles(&p, spans, S, w.G, split ? split_dq_tile(b, D) : 64, &n);
    const char *device = ok && n ? (const char *)cu_small(b, op, 3, p.data, p.len) : NULL;
    free(p.data);
    if (!ok) no_host_memory(b, op);
    if (!device) return;
    w.spans = (const mr_span *)device;
    const tile_item *items = (const tile_item *)(device + (size_t)S * sizeof(mr_span));
    int slices = (D + WIDTH - 1) / WIDTH;
    if (split)
        split_dq(b, &w, items, n);
    else if (slices == 1)
        launch_dq<1>(b, w, items, n);
    else if (slices == 2)
        launch_dq<2>(b, w, items, n);
    else
        launch_dq<4>(b, w, items, n);
}

/* --- room --- */

/* Spans have a row at least, so there are N at most, each with a last tile, chunk or segment that is not full. */
void cu_attention_room(const mr_backend *b, size_t need[], int N, int H, int K, int D, bool bwd) {
    bool split = split_takes(b, D);
    size_t n = (size_t)N, n_pairs = n * (size_t)(H / K), spans = n * sizeof(mr_span);
    size_t many = n_pairs / (split ? (size_t)split_many_tile(b, D) : 64) + n, few = CU_ATT_BYTES / part_bytes(K, D) + n;
    cu_at_least(&need[CU_SLOT_ATT], CU_ATT_BYTES);
    cu_at_least(&need[CU_SLOT_SMALL], spans + many * sizeof(tile_item));
    cu_at_least(&need[CU_SLOT_SMALL], spans + few * sizeof(chunk_item) + 2 * n * sizeof(int));
    if (!bwd) return;
    size_t shares = CU_ATT_BYTES / share_bytes(K, D), segments = 2 * (n_pairs / GRAD_SEGMENT + n);
    if (shares < n) shares = n; /* of one segment */
    cu_at_least(&need[CU_SLOT_ATT], shares * share_bytes(K, D));
    cu_at_least(&need[CU_ROOM_ROWS], rows_bytes(b, N, H, D));
    size_t items = shares / CHUNK + segments + n / CHUNK + n;
    cu_at_least(&need[CU_SLOT_SMALL], spans + items * sizeof(share_item) + segments * sizeof(share_sum));
    cu_at_least(&need[CU_SLOT_SMALL], spans + (n_pairs / (split ? split_dq_tile(b, D) : 64) + n) * sizeof(tile_item));
}
