/* head.cu - log-probabilities of given tokens, their gradient, and the choice of new ones.
 *
 * Sampling, training and scoring get a token's log-probability from sums_of_piece and row_logp below, so their bits agree. A row is read
 * in pieces of PIECE logits: 32 f32 lanes within a piece, double across pieces, in order. A piece's e^z are relative to its own
 * maximum, so that a row is read once; the pieces' sums are brought to the row's maximum afterwards. Scoring has many rows, so a block
 * makes a row. Sampling has few: all multiprocessors make pieces, and then a block a row draws. */
#include <assert.h>
#include <stddef.h>

#include "cuda/device.cuh"
#include "cuda/packet.h"

enum { THREADS = 512, PIECE = 2048, MAX_PIECES = 1024, BUCKETS = 1024, PART = PIECE / 32 };

typedef struct row_room { /* e: at 8 bytes */
    double total, other, runs[THREADS];
    float sums[MAX_PIECES], tops[MAX_PIECES], weighted[MAX_PIECES], e[PIECE + 32], room[32];
    int id, piece;
} row_room;

static_assert(BUCKETS * sizeof(unsigned long long) <= sizeof(((row_room *)0)->e) && offsetof(row_room, e) % 8 == 0, "a row's masses");

__host__ __device__ static inline int pieces_of(int n) { return (n + PIECE - 1) / PIECE; }

/* In double, one after the other. */
template <typename T> __device__ inline double sum_in_order(const T *x, int n) {
    double sum = 0;
#pragma unroll 8
    for (int i = 0; i < n; i++) sum += (double)x[i];
    return sum;
}

template <typename F> __device__ static float largest(F value, int n, row_room &r) {
    float most = -INFINITY;
#pragma unroll 8
    for (int i = threadIdx.x; i < n; i += THREADS) most = fmaxf(most, value(i));
    return block_max(most, r.room);
}

/* r.sums = each piece's sum of value(i); r.total = their sum, in order. All threads call it; the result is there afterwards. */
template <typename F> __device__ static void sum_pieces(F value, int n, row_room &r) {
    int lane = threadIdx.x % 32;
    __syncthreads();
    for (int p = threadIdx.x / 32; p < pieces_of(n); p += THREADS / 32) {
        float sum = 0.0f;
#pragma unroll 16
        for (int i = p * PIECE + lane; i < (p + 1) * PIECE; i += 32) sum += i < n ? value(i) : 0.0f;
        sum = warp_sum(sum);
        if (lane == 0) r.sums[p] = sum;
    }
    __syncthreads();
    if (threadIdx.x == 0) r.total = sum_in_order(r.sums, pieces_of(n));
    __syncthreads();
}

/* --- log-probabilities --- */

typedef struct stats {
    float max;            /* of z/t */
    double sum, weighted; /* of e^(z/t - max), and of (z/t - max) e^(z/t - max) */
} stats;

/* What a piece gives: the maximum m of z/t, and the sums of e^(z/t - m) and (z/t - m) e^(z/t - m). A lane of its warp has 4 neighbors of
 * every 128 logits, and adds them in order; then warp_sum. All lanes get the same. left: logits from the piece's first to the row's end. */
typedef struct piece_stats {
    float max, sum, weighted;
} piece_stats;

enum { EACH = PIECE / 128 };

/* A lane's logits of a piece, -inf behind the `left` that count; `stored` are in memory from z on, as many or more. */
__device__ inline void load_piece(float4 x[EACH], const float *z, int stored, int left) {
    int lane = threadIdx.x % 32 * 4;
    const float none = -INFINITY;
    if ((uintptr_t)z % 16 == 0 && (stored >= PIECE || stored % 4 == 0)) {
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            float4 v = { none, none, none, none };
            if (128 * j + lane < left) v = *(const float4 *)(z + 128 * j + lane);
            x[j] = v;
        }
        if (left >= PIECE || left % 4 == 0) return;
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            int at = 128 * j + lane;
            if (at + 1 >= left) x[j].y = none;
            if (at + 2 >= left) x[j].z = none;
            if (at + 3 >= left) x[j].w = none;
        }
    } else {
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            int at = 128 * j + lane;
            float4 v = { at < left ? z[at] : none, at + 1 < left ? z[at + 1] : none, at + 2 < left ? z[at + 2] : none,
                         at + 3 < left ? z[at + 3] : none };
            x[j] = v;
        }
    }
}

__device__ inline float largest_of_piece(const float4 x[EACH]) {
    float most = -INFINITY;
#pragma unroll
    for (int j = 0; j < EACH; j++) most = fmaxf(most, fmaxf(fmaxf(x[j].x, x[j].y), fmaxf(x[j].z, x[j].w)));
    return warp_max(most);
}

/* x(j): a lane's j-th four logits; most: the piece's largest. */
template <bool WEIGHTED, int UNROLL, typename X> __device__ inline piece_stats sums_of_piece(X x, float most, float inv_t) {
    piece_stats s = { most * inv_t, 0.0f, 0.0f };
    float from = s.max == -INFINITY ? 0.0f : s.max; /* e^-inf is 0 where nothing is larger, too */
    auto take = [&](float v) {
        float a = v * inv_t - from, e = exp_below_88(a);
        s.sum += e;
        if (WEIGHTED) s.weighted += e > 0.0f ? a * e : 0.0f; /* 0 log 0 = 0 */
    };
#pragma unroll UNROLL
    for (int j = 0; j < EACH; j++) {
        float4 v = x(j);
        take(v.x), take(v.y), take(v.z), take(v.w);
    }
    s.sum = warp_sum(s.sum);
    if (WEIGHTED) s.weighted = warp_sum(s.weighted);
    return s;
}

template <bool WEIGHTED> __device__ inline piece_stats stats_of_piece(const float *z, int left, float inv_t) {
    float4 x[EACH];
    load_piece(x, z, left, left);
    return sums_of_piece<WEIGHTED, EACH>([&](int j) { return x[j]; }, largest_of_piece(x), inv_t);
}

/* The pieces' stats in r.tops, r.sums and r.weighted become the row's; r.sums and r.total are those of e^(z/t - max) then. */
__device__ static stats merge_pieces(int n_pieces, bool weighted, row_room &r) {
    stats s;
    float most = -INFINITY;
    __syncthreads();
    for (int p = threadIdx.x; p < n_pieces; p += THREADS) most = fmaxf(most, r.tops[p]);
    s.max = block_max(most, r.room);
    for (int p = threadIdx.x; p < n_pieces; p += THREADS) {
        float down = r.tops[p] - s.max, take = exp_f32(down), sum = r.sums[p];
        r.sums[p] = sum * take;
        if (weighted) r.weighted[p] = take > 0.0f ? fmaf(down, sum, r.weighted[p]) * take : 0.0f;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        r.total = sum_in_order(r.sums, n_pieces);
        if (weighted) r.other = sum_in_order(r.weighted, n_pieces);
    }
    __syncthreads();
    s.sum = r.total, s.weighted = weighted ? r.other : 0;
    return s;
}

/* The weighted sum only when asked for; `sum` is the same either way. */
__device__ static stats row_stats(const float *z, float inv_t, int n, bool weighted, row_room &r) {
    __syncthreads();
    for (int p = threadIdx.x / 32; p < pieces_of(n); p += THREADS / 32) {
        const float *from = z + p * PIECE;
        int left = n - p * PIECE;
        piece_stats s = weighted ? stats_of_piece<true>(from, left, inv_t) : stats_of_piece<false>(from, left, inv_t);
        if (threadIdx.x % 32 == 0) r.tops[p] = s.max, r.sums[p] = s.sum, r.weighted[p] = s.weighted;
    }
    return merge_pieces(pieces_of(n), weighted, r);
}

/* log_sum: log of stats.sum. */
__device__ static float row_logp(float max, double log_sum, float z, float inv_t) {
    return (float)((double)(z * inv_t) - (double)max - log_sum);
}

__global__ static void __launch_bounds__(THREADS)
    logprob_kernel(float *logp, float *entropy, float *lse, const float *z, const int32_t *targets, float inv_t, int V) {
    SHARED_BYTES(bytes);
    row_room &r = *(row_room *)bytes;
    int n = blockIdx.x;
    const float *row = z + (int64_t)n * V;
    stats s = row_stats(row, inv_t, V, entropy != NULL, r);
    if (threadIdx.x) return;
    double log_sum = log(s.sum);
    logp[n] = row_logp(s.max, log_sum, row[targets[n]], inv_t);
    if (lse) lse[n] = (float)((double)s.max + log_sum);
    if (entropy) entropy[n] = (float)(log_sum - s.weighted / s.sum);
}

void cu_logprob(mr_backend *b, float *logp, float *entropy, float *lse, const float *z, const int32_t *targets,
                float inv_t, int N, int V) {
    if (cu_failed(b) || N <= 0) return;
    assert(inv_t > 0 && pieces_of(V) <= MAX_PIECES);
    LAUNCH(b, "logprob", logprob_kernel, N, THREADS, (int)sizeof(row_room), logp, entropy, lse, z, targets, inv_t, V);
}

/* A thread has 4 neighbors of every few logits of a row. */
enum { BWD_THREADS = 256, BWD_EACH = 4 };

__global__ static void __launch_bounds__(BWD_THREADS)
    logprob_bwd_kernel(float *z, const float *lse, const int32_t *targets, const float *dlogp, float inv_t, int V) {
    int n = blockIdx.y, first = (blockIdx.x * BWD_EACH * BWD_THREADS + threadIdx.x) * 4, target = targets[n];
    float *row = z + (int64_t)n * V, factor = dlogp[n] * inv_t, from = lse[n];
    auto slope = [&](float x, int c) {
        float d = exp_below_88(x * inv_t - from) * -factor;
        return c == target ? d + factor : d;
    };
    if (V % 4 == 0 && (uintptr_t)z % 16 == 0) {
        float4 x[BWD_EACH];
#pragma unroll
        for (int k = 0; k < BWD_EACH; k++) {
            int c = first + k * BWD_THREADS * 4;
            if (c < V) x[k] = *(const float4 *)(row + c);
        }
#pragma unroll
        for (int k = 0; k < BWD_EACH; k++) {
            int c = first + k * BWD_THREADS * 4;
            float4 d = { slope(x[k].x, c), slope(x[k].y, c + 1), slope(x[k].z, c + 2), slope(x[k].w, c + 3) };
            if (c < V) *(float4 *)(row + c) = d;
        }
    } else {
        for (int k = 0; k < BWD_EACH; k++)
            for (int c = first + k * BWD_THREADS * 4, i = 0; i < 4 && c + i < V; i++) row[c + i] = slope(row[c + i], c + i);
    }
}

void cu_logprob_bwd(mr_backend *b, float *z, const float *lse, const int32_t *targets, const float *dlogp, float inv_t,
                    int N, int V) {
    if (cu_failed(b)) return;
    const int each = 4 * BWD_EACH * BWD_THREADS;
    for (int at = 0; at < N; at += 32768) { /* the grid's second side is short */
        int n = N - at < 32768 ? N - at : 32768;
        LAUNCH(b, "logprob_bwd", logprob_bwd_kernel, dim3((V + each - 1) / each, n), BWD_THREADS, 0, z + (int64_t)at * V, lse + at,
               targets + at, dlogp + at, inv_t, V);
    }
}

/* --- sampling --- */

/* A row's pieces lie in two arrays, one after the other: those of all V logits, which give the log-probability, and those of the n_vocab ids
 * that are drawn from. Only the last of the latter can differ from what has its place among the former. */
struct alignas(8) row_piece {
    float max, sum; /* of piece_stats */
};

enum { PIECE_WARPS = 4, DRAW_THREADS = 512 };

/* Pieces to be made of a row. */
__host__ __device__ static inline int pieces_made(int V, int n_vocab) { return pieces_of(V) + (n_vocab != V); }

/* A warp makes a piece. Its logits wait in shared memory, so that the loop over them is short: a step comes here once, and its code
 * is not in the caches then. */
__global__ static void __launch_bounds__(PIECE_WARPS * 32)
    pieces_kernel(row_piece *pieces, const float *z, float inv_t, int N, int V, int n_vocab) {
    SHARED_BYTES(bytes);
    follow();
    int made = pieces_made(V, n_vocab), item = blockIdx.x * PIECE_WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (item >= N * made) return;
    int n = item / made, p = item % made, n_pieces = pieces_of(V), n_whole = n_vocab == V ? n_pieces : pieces_of(n_vocab) - 1;
    bool end = p == n_pieces; /* of the n_vocab ids */
    if (end) p = n_whole;
    float4 x[EACH], *mine = (float4 *)bytes + threadIdx.x / 32 * EACH * 32 + lane;
    load_piece(x, z + (int64_t)n * V + p * PIECE, V - p * PIECE, (end ? n_vocab : V) - p * PIECE);
#pragma unroll
    for (int j = 0; j < EACH; j++) mine[32 * j] = x[j];
    piece_stats s = sums_of_piece<false, 2>([&](int j) { return mine[32 * j]; }, largest_of_piece(x), inv_t);
    row_piece *row = pieces + (int64_t)n * 2 * n_pieces, made_piece = { s.max, s.sum };
    if (lane == 0 && !end) row[p] = made_piece;
    if (lane == 0 && (end || p < n_whole)) row[n_pieces + p] = made_piece;
}

enum { AHEAD = 8, PARTS = PIECE / PART };

typedef struct draw_room {
    double before[MAX_PIECES + AHEAD], runs[PARTS], before_part[PARTS + AHEAD], before_id[PART + AHEAD], log_sum;
    float sums[2][MAX_PIECES], e[PIECE + PARTS], room[32];
    int found;
} draw_room;

/* before[i] = from + x[0] + ... + x[i - 1], in order; before has room for AHEAD values more. For one thread, which reads AHEAD of them
 * while it adds. */
template <typename T> __device__ inline void add_up(double *before, double from, const T *x, int n) {
    for (int at = 0; at < n; at += AHEAD) {
        T v[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) v[i] = at + i < n ? x[at + i] : (T)0;
#pragma unroll
        for (int i = 0; i < AHEAD; i++) before[at + i] = from, from += (double)v[i];
    }
    before[n] = from;
}

/* The first i of 0 .. n - 1 with f(i), n without any. All threads call it and get it. */
template <typename F> __device__ inline int first_of(int n, F f, int *found) {
    __syncthreads();
    if (threadIdx.x == 0) *found = n;
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += DRAW_THREADS)
        if (f(i)) {
            atomicMin(found, i);
            break;
        }
    __syncthreads();
    return *found;
}

/* r.sums = the sums of e^(z/t - max) of a row's pieces, most = their max: of all V, and of those drawn from. */
__device__ static void merge_row(float most[2], const row_piece *pieces, int n_pieces, int n_drawn, draw_room &r) {
    enum { MINE = MAX_PIECES / DRAW_THREADS };
    row_piece mine[2][MINE];
#pragma unroll
    for (int v = 0; v < 2; v++)
#pragma unroll
        for (int i = 0; i < MINE; i++) {
            int p = threadIdx.x + i * DRAW_THREADS;
            row_piece none = { -INFINITY, 0.0f };
            mine[v][i] = p < (v ? n_drawn : n_pieces) ? pieces[v * n_pieces + p] : none;
        }
#pragma unroll
    for (int v = 0; v < 2; v++) {
        float top = -INFINITY;
#pragma unroll
        for (int i = 0; i < MINE; i++) top = fmaxf(top, mine[v][i].max);
        most[v] = block_max(top, r.room);
#pragma unroll
        for (int i = 0; i < MINE; i++) r.sums[v][threadIdx.x + i * DRAW_THREADS] = mine[v][i].sum * exp_f32(mine[v][i].max - most[v]);
    }
}

/* The lowest id with the largest logit; 0 when all are NaN. */
__device__ static int draw_largest(const float *z, const row_piece *drawn, float most, int n, draw_room &r) {
    int n_pieces = pieces_of(n), piece = first_of(n_pieces, [&](int p) { return drawn[p].max == most; }, &r.found);
    if (piece == n_pieces) return 0;
    int from = piece * PIECE, size = n - from < PIECE ? n - from : PIECE;
    int at = first_of(size, [&](int i) { return z[from + i] == most; }, &r.found);
    return at < size ? from + at : 0;
}

/* The first id whose cumulative e^(z/t - most) exceeds u * their sum, in id order; r.before and r.sums are those of the pieces. The last
 * id with a positive value when rounding leaves none; 0 without any. */
__device__ static int draw(const float *z, float inv_t, float most, int n, double u, draw_room &r) {
    int last = pieces_of(n) - 1;
    double target = u * r.before[last + 1];
    int piece = first_of(last + 1, [&](int p) { return p == last || !(r.before[p + 1] <= target); }, &r.found);
    double before = r.before[piece];
    for (; piece > 0 && r.sums[1][piece] == 0.0f; piece--) before -= (double)r.sums[1][piece - 1];
    int from = piece * PIECE;
    for (int i = threadIdx.x; i < PIECE; i += DRAW_THREADS) {
        float e = from + i < n ? exp_f32(z[from + i] * inv_t - most) : 0.0f;
        r.e[i + i / PART] = e > 0.0f ? e : 0.0f;
    }
    __syncthreads();
    if (threadIdx.x < PARTS) r.runs[threadIdx.x] = sum_in_order(r.e + threadIdx.x * (PART + 1), PART);
    __syncthreads();
    if (threadIdx.x == 0) add_up(r.before_part, before, r.runs, PARTS);
    int part = first_of(PARTS, [&](int i) { return i == PARTS - 1 || !(r.before_part[i + 1] <= target); }, &r.found);
    before = r.before_part[part];
    while (part > 0 && !(r.runs[part] > 0)) before -= r.runs[--part];
    const float *e = r.e + part * (PART + 1);
    if (threadIdx.x == 0) add_up(r.before_id, before, e, PART);
    int at = first_of(PART, [&](int i) { return e[i] > 0.0f && r.before_id[i + 1] > target; }, &r.found);
    if (at == PART) at = PART - 1 - first_of(PART, [&](int i) { return e[PART - 1 - i] > 0.0f; }, &r.found);
    return at < 0 ? 0 : from + part * PART + at;
}

__global__ static void __launch_bounds__(DRAW_THREADS)
    draw_kernel(int32_t *ids, float *logp, const row_piece *pieces, const float *z, const float *u, float inv_t, bool greedy, int V, int n_vocab) {
    SHARED_BYTES(bytes);
    draw_room &r = *(draw_room *)bytes;
    follow();
    int n = blockIdx.x, n_pieces = pieces_of(V), n_drawn = pieces_of(n_vocab), id;
    const float *row = z + (int64_t)n * V;
    pieces += (int64_t)n * 2 * n_pieces;
    float most[2];
    merge_row(most, pieces, n_pieces, n_drawn, r);
    __syncthreads();
    if (threadIdx.x == 0 && !greedy) add_up(r.before, 0.0, r.sums[1], n_drawn);
    if (threadIdx.x == 32) r.log_sum = log(sum_in_order(r.sums[0], n_pieces));
    __syncthreads();
    if (greedy)
        id = draw_largest(row, pieces + n_pieces, most[1], n_vocab, r);
    else
        id = draw(row, inv_t, most[1], n_vocab, (double)u[n], r);
    if (threadIdx.x) return;
    ids[n] = id;
    logp[n] = row_logp(most[0], r.log_sum, row[id], inv_t);
}

/* --- sampling with filters --- */

/* The lowest id with the largest value; 0 when all are NaN. */
template <typename F> __device__ static int arg_max(F value, int n, row_room &r) {
    float most = largest(value, n, r);
    if (threadIdx.x == 0) r.id = n;
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += THREADS)
        if (value(i) == most) {
            atomicMin(&r.id, i);
            break;
        }
    __syncthreads();
    return r.id < n ? r.id : 0;
}

/* The first id whose cumulative value exceeds u * total, in id order; r.sums and r.total are those of `value`. The last id with
 * a positive value when rounding leaves none; 0 without any. */
template <typename F> __device__ static int pick(F value, int n, double u, row_room &r) {
    double target = u * r.total;
    if (threadIdx.x == 0) {
        int piece = 0, last = pieces_of(n) - 1;
        double before = 0;
        for (; piece < last && before + (double)r.sums[piece] <= target; piece++) before += (double)r.sums[piece];
        for (; piece > 0 && r.sums[piece] == 0.0f; piece--) before -= (double)r.sums[piece - 1];
        r.piece = piece, r.other = before;
    }
    __syncthreads();
    int first = r.piece * PIECE;
    for (int i = threadIdx.x; i < PIECE; i += THREADS) r.e[i + i / PART] = first + i < n ? value(first + i) : 0.0f;
    __syncthreads();
    if (threadIdx.x < 32) { /* 32 parts of the piece */
        double sum = 0;
        for (int i = 0; i < PART; i++) {
            float e = r.e[threadIdx.x * (PART + 1) + i];
            sum += e > 0.0f ? (double)e : 0.0;
        }
        r.runs[threadIdx.x] = sum;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        double before = r.other;
        int part = 0, id = 0;
        for (; part < 31 && before + r.runs[part] <= target; part++) before += r.runs[part];
        while (part > 0 && !(r.runs[part] > 0)) before -= r.runs[--part];
        for (int i = 0; i < PART; i++) {
            float e = r.e[part * (PART + 1) + i];
            if (!(e > 0.0f)) continue;
            id = first + part * PART + i;
            before += (double)e;
            if (before > target) break;
        }
        r.id = id;
    }
    __syncthreads();
    return r.id;
}

/* Orders by score, of equal ones the higher id first, since it is the one that top_p keeps (spec/grpo.md, 3.2). */
__device__ inline uint64_t key_of(float s, int id) {
    uint32_t u = __float_as_uint(s);
    u ^= u >> 31 ? 0xffffffffu : 0x80000000u;
    return (uint64_t)u << 32 | (uint32_t)id;
}
__device__ inline float key_score(uint64_t key) {
    uint32_t u = (uint32_t)(key >> 32);
    return __uint_as_float(u >> 31 ? u ^ 0x80000000u : ~u);
}

/* Bucket 0 holds the best scores; 32 buckets are one nat. */
__device__ inline int bucket_of(float s, float most) {
    float d = (most - s) * 32.0f;
    return d < (float)(BUCKETS - 1) ? (int)d : BUCKETS - 1;
}

/* keys[m], m a power of two, falling (bitonic). */
__device__ static void sort_keys(uint64_t *keys, int m) {
    for (int size = 2; size <= m; size *= 2)
        for (int step = size / 2; step > 0; step /= 2) {
            __syncthreads();
            for (int i = threadIdx.x; i < m / 2; i += THREADS) {
                int at = 2 * i - i % step; /* i with a 0 put in at the bit of step */
                uint64_t x = keys[at], y = keys[at + step];
                if ((x < y) == ((at & size) == 0)) keys[at] = y, keys[at + step] = x;
            }
        }
    __syncthreads();
}

/* The smallest key that top_k and top_p leave. s[n] are the scores; keys has room for n rounded up to a power of two, e for n. Only what
 * lies in the bucket where they end is sorted: with top_k also all above it, and with top_p the one before it, since the search
 * for it sums whole units, 2^-40 of the largest value, whose sum is the same in any order; what they leave out is less than its margin. */
__device__ static uint64_t smallest_kept(uint64_t *keys, float *e, const float *s, float most, const mr_sampling &opt, int n,
                                         row_room &r) {
    const float MASS_UNIT = 0x1p40f;
    int *count = (int *)r.e, lane = threadIdx.x; /* BUCKETS counts or masses fit where a piece does */
    unsigned long long *mass = (unsigned long long *)r.e;
    bool top_k = opt.top_k > 0 && opt.top_k < n;
    int first = 0, last = BUCKETS - 1;
    double all = 0, ahead = 0; /* ahead: mass of the buckets before the first */
    if (top_k) {
        for (int i = lane; i < BUCKETS; i += THREADS) count[i] = 0;
        __syncthreads();
        for (int i = lane; i < n; i += THREADS) atomicAdd(&count[bucket_of(s[i], most)], 1);
        __syncthreads();
        if (lane == 0) {
            int seen = 0, at = 0;
            for (; at < BUCKETS - 1 && (seen += count[at]) < opt.top_k; at++) {}
            r.piece = at;
        }
        __syncthreads();
        last = r.piece;
    } else {
        for (int i = lane; i < BUCKETS; i += THREADS) mass[i] = 0;
        __syncthreads();
#pragma unroll 4
        for (int i = lane; i < n; i += THREADS) {
            float v = exp_f32(s[i] - most);
            unsigned long long units = v > 0.0f ? (unsigned long long)(v * MASS_UNIT) : 0;
            e[i] = v;
            if (units) atomicAdd(&mass[bucket_of(s[i], most)], units);
        }
        sum_pieces([&](int i) { return e[i]; }, n, r);
        all = r.total;
        if (lane == 0) { /* the first bucket down to which there is mass enough */
            double want = (double)opt.top_p * all * (1 + 1e-6) * (double)MASS_UNIT, sum = 0;
            int at = 0;
            for (; at < BUCKETS - 1 && (sum += (double)mass[at]) < want; at++) {}
            r.piece = at;
        }
        __syncthreads();
        last = r.piece;
        first = last > 0 ? last - 1 : 0;
        double sum = 0;
#pragma unroll 8
        for (int i = lane; i < n; i += THREADS) sum += bucket_of(s[i], most) < first ? (double)e[i] : 0.0;
        ahead = block_sum(sum, r.runs);
        if (ahead >= (double)opt.top_p * all) first = 0, ahead = 0; /* the margin has led a bucket too far: all of it */
    }
    __syncthreads();
    if (lane == 0) r.id = 0;
    __syncthreads();
#pragma unroll 4
    for (int i = lane; i < n; i += THREADS)
        if (bucket_of(s[i], most) >= first && bucket_of(s[i], most) <= last) keys[atomicAdd(&r.id, 1)] = key_of(s[i], i);
    __syncthreads();
    int n_kept = r.id, m = 1;
    if (n_kept == 0) return 0; /* NaN everywhere: the caller sees it in logp */
    while (m < n_kept) m *= 2;
    for (int i = n_kept + lane; i < m; i += THREADS) keys[i] = 0;
    sort_keys(keys, m);
    if (top_k) { /* equals of the last one stay */
        if (lane == 0) r.piece = n_kept;
        __syncthreads();
        for (int i = opt.top_k + lane; i < n_kept; i += THREADS)
            if (key_score(keys[i]) != key_score(keys[opt.top_k - 1])) {
                atomicMin(&r.piece, i);
                break;
            }
        __syncthreads();
        n_kept = r.piece;
    }
    if (opt.top_p < 1) {
        int run = (n_kept + THREADS - 1) / THREADS, from = lane * run, to = from + run < n_kept ? from + run : n_kept;
        double sum = 0;
        for (int i = from; i < to; i++) sum += (double)exp_f32(key_score(keys[i]) - most);
        __syncthreads();
        r.runs[lane] = sum;
        __syncthreads();
        if (lane == 0) {
            double before = ahead;
            for (int t = 0; t < THREADS; t++) {
                double mine = r.runs[t];
                r.runs[t] = before;
                before += mine;
            }
            r.other = before;
            r.piece = n_kept;
        }
        __syncthreads();
        double before = r.runs[lane], want = (double)opt.top_p * (top_k ? r.other : all);
        for (int i = from; i < to; i++) { /* i is out when what comes before it is enough */
            if (i > 0 && before >= want) {
                atomicMin(&r.piece, i);
                break;
            }
            before += (double)exp_f32(key_score(keys[i]) - most);
        }
        __syncthreads();
        n_kept = r.piece;
    }
    uint64_t kept = keys[n_kept - 1];
    __syncthreads();
    return kept;
}

/* scratch of one row: keys, then n scores and n values of e^score. seen[n_seen]: the ids whose scores the repetition penalty changes. */
__device__ static int pick_filtered(const float *z, const mr_sampling &opt, const int32_t *seen, int n_seen, double u,
                                    uint64_t *keys, float *s, row_room &r) {
    const int n = opt.n_vocab;
    float *e = s + (n + 3) / 4 * 4;
    float inv_t = opt.temperature > 0 ? 1.0f / opt.temperature : 1.0f;
#pragma unroll 8
    for (int i = threadIdx.x; i < n; i += THREADS) s[i] = z[i] * inv_t;
    __syncthreads();
    for (int i = threadIdx.x; i < n_seen; i += THREADS) {
        int32_t id = seen[i]; /* from z, so that an id that comes twice is changed once */
        if (id >= 0 && id < n)
            s[id] = (z[id] < 0 ? z[id] * opt.repetition_penalty : z[id] / opt.repetition_penalty) * inv_t;
    }
    __syncthreads();
    if (opt.temperature <= 0) return arg_max([&](int i) { return s[i]; }, n, r);
    float most = largest([&](int i) { return s[i]; }, n, r);
    uint64_t kept = opt.top_k > 0 || opt.top_p < 1 ? smallest_kept(keys, e, s, most, opt, n, r) : 0;
    auto value = [&](int i) {
        float v = exp_f32(s[i] - most);
        return key_of(s[i], i) >= kept && !(v < opt.min_p) && v > 0.0f ? v : 0.0f;
    };
    sum_pieces(value, n, r);
    return pick(value, n, u, r);
}

/* history: {first, n} for each row, then ids; NULL without a penalty. row0: the first row of this launch. */
__global__ static void __launch_bounds__(THREADS)
    sample_kernel(int32_t *ids, float *logp, const float *z, const float *u, mr_sampling opt, const int32_t *history,
                  int n_rows, int row0, int V, char *scratch, int64_t stride, int64_t keys_bytes) {
    SHARED_BYTES(bytes);
    row_room &r = *(row_room *)bytes;
    int n = row0 + blockIdx.x;
    float inv_t = opt.temperature <= 0 ? 1.0f : 1.0f / opt.temperature;
    const float *row = z + (int64_t)n * V;
    stats s = row_stats(row, inv_t, V, false, r);
    char *mine = scratch + blockIdx.x * stride;
    const int32_t *seen = history ? history + 2 * n_rows + history[2 * n] : NULL;
    int id = pick_filtered(row, opt, seen, history ? history[2 * n + 1] : 0, (double)u[n], (uint64_t *)mine, (float *)(mine + keys_bytes), r);
    if (threadIdx.x) return;
    ids[n] = id;
    logp[n] = row_logp(s.max, log(s.sum), row[id], inv_t);
}

/* The rows' histories to the device; NULL after a failure. */
static const int32_t *upload_history(mr_backend *b, const int32_t *const *history, const int32_t *n_history, int N) {
    packet p = { NULL, 0, 0 };
    bool ok = true;
    for (int n = 0, first = 0; n < N; first += n_history[n++]) {
        int32_t head[2] = { first, n_history[n] };
        ok = ok && packet_add(&p, head, sizeof head);
    }
    for (int n = 0; n < N; n++)
        ok = ok && (n_history[n] == 0 || packet_add(&p, history[n], (size_t)n_history[n] * sizeof(int32_t)));
    const int32_t *device = ok ? (const int32_t *)cu_small(b, "sample", 4, p.data, p.len) : NULL;
    if (!ok) cu_fail(b, MR_ENOMEM, "sample", "the host has no memory left");
    free(p.data);
    return device;
}

/* One row's part of the scratch: keys to sort, a power of two, then scores and values of e^score (pick_filtered). */
static int64_t keys_of(int64_t n_vocab) {
    int64_t m = 1;
    while (m < n_vocab) m *= 2;
    return m * (int64_t)sizeof(uint64_t);
}
static int64_t stride_of(int64_t n_vocab) { return keys_of(n_vocab) + 2 * cu_round(n_vocab * (int64_t)sizeof(float), 16); }

/* Some tens of rows at a time. */
static int rows_at_once(int64_t n, int64_t stride) {
    int64_t fit = ((int64_t)64 << 20) / stride;
    return (int)(fit < 1 ? 1 : fit < n ? fit : n);
}

static int64_t piece_bytes(int V) { return 2 * pieces_of(V) * (int64_t)sizeof(row_piece); }

size_t cu_sample_scratch(int64_t n, int64_t n_vocab) {
    int64_t filtered = rows_at_once(n, stride_of(n_vocab)) * stride_of(n_vocab), stride = piece_bytes((int)n_vocab);
    int64_t plain = rows_at_once(n, stride) * stride;
    return (size_t)(filtered > plain ? filtered : plain);
}

static void sample_plain(mr_backend *b, int32_t *ids, float *logp, const float *z, const float *u, const mr_sampling *opt, int N, int V) {
    bool greedy = opt->temperature <= 0;
    float inv_t = greedy ? 1.0f : 1.0f / opt->temperature;
    int at_once = rows_at_once(N, piece_bytes(V));
    row_piece *pieces = (row_piece *)cu_scratch(b, "sample", CU_SLOT_HEAD, (size_t)(at_once * piece_bytes(V)));
    for (int at = 0; pieces && at < N; at += at_once) {
        int n = N - at < at_once ? N - at : at_once, blocks = (n * pieces_made(V, opt->n_vocab) + PIECE_WARPS - 1) / PIECE_WARPS;
        const float *rows = z + (int64_t)at * V;
        LAUNCH_EARLY(b, "sample", pieces_kernel, blocks, PIECE_WARPS * 32, PIECE_WARPS * PIECE * (int)sizeof(float), pieces, rows, inv_t, n, V,
                     (int)opt->n_vocab);
        LAUNCH_EARLY(b, "sample", draw_kernel, n, DRAW_THREADS, (int)sizeof(draw_room), ids + at, logp + at, pieces, rows, u + at, inv_t,
                     greedy, V, (int)opt->n_vocab);
    }
}

void cu_sample(mr_backend *b, int32_t *ids, float *logp, const float *z, const float *u, const mr_sampling *opt,
               const int32_t *const *history, const int32_t *n_history, int N, int V) {
    if (cu_failed(b) || N <= 0) return;
    assert(opt->n_vocab > 0 && opt->n_vocab <= V && pieces_of(V) <= MAX_PIECES);
    bool penalty = opt->repetition_penalty != 1.0f, greedy = opt->temperature <= 0;
    bool filtered = penalty || (!greedy && (opt->top_k > 0 || opt->top_p < 1 || opt->min_p > 0));
    assert(!penalty || (history && n_history));
    if (!filtered) {
        sample_plain(b, ids, logp, z, u, opt, N, V);
        return;
    }
    const int32_t *seen = NULL;
    if (penalty && !(seen = upload_history(b, history, n_history, N))) return;
    int64_t keys_bytes = keys_of(opt->n_vocab), stride = stride_of(opt->n_vocab);
    int at_once = rows_at_once(N, stride);
    char *scratch = (char *)cu_scratch(b, "sample", CU_SLOT_HEAD, (size_t)(at_once * stride));
    if (!scratch) return;
    for (int at = 0; at < N; at += at_once) {
        int n = N - at < at_once ? N - at : at_once;
        LAUNCH(b, "sample", sample_kernel, n, THREADS, (int)sizeof(row_room), ids, logp, z, u, *opt, seen, N, at, V, scratch, stride,
               keys_bytes);
    }
}
