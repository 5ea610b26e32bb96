/* head.cu - log-probabilities of given tokens, their gradient, and the choice of new ones.
 *
 * Sampling, training and scoring get a token's log-probability from sums_of_piece and row_logp below, so their bits agree. A row is read
 * in pieces of PIECE logits: 32 f32 lanes within a piece, double across pieces, in order. A piece's e^z are relative to its own
 * maximum, so that a row is read once; the pieces' sums are brought to the row's maximum afterwards. Scoring has many rows, so a block
 * makes a row. Sampling has few: all multiprocessors make pieces, and look for what filters leave, and then a block a row draws. */
#include <assert.h>

#include "cuda/device.cuh"
#include "cuda/packet.h"

enum { THREADS = 512, PIECE = 2048, MAX_PIECES = 1024, PART = PIECE / 32 };

typedef struct row_room {
    double total, other;
    float sums[MAX_PIECES], tops[MAX_PIECES], weighted[MAX_PIECES], room[32];
} row_room;

__host__ __device__ static inline int pieces_of(int n) { return (n + PIECE - 1) / PIECE; }

/* In double, one after the other. */
template <typename T> __device__ inline double sum_in_order(const T *x, int n) {
    double sum = 0;
#pragma unroll 8
    for (int i = 0; i < n; i++) sum += (double)x[i];
    return sum;
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

/* Where the filters top_k and top_p end: see "sampling with filters". */
enum { BUCKETS = 1024 };

typedef unsigned long long mass_t;

typedef struct cut {
    int first, last;  /* buckets that have to be looked into: before them all stays, behind them nothing */
    int count;        /* scores before the first */
    mass_t mass, all; /* their mass; that of all scores */
} cut;

typedef struct row_filter { /* each bucket's mass and count of scores */
    mass_t mass[BUCKETS];
    int count[BUCKETS];
    cut end;
} row_filter;

/* A warp makes a piece, and clears its part of the row's filter, if there is one. A piece's logits wait in shared memory, so that the loop
 * over them is short: a step comes here once, and its code is not in the caches then. */
__global__ static void __launch_bounds__(PIECE_WARPS * 32)
    pieces_kernel(row_piece *pieces, row_filter *filters, const float *z, float inv_t, int N, int V, int n_vocab) {
    SHARED_BYTES(bytes);
    follow();
    int made = pieces_made(V, n_vocab), item = blockIdx.x * PIECE_WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (item >= N * made) return;
    int n = item / made, p = item % made, n_pieces = pieces_of(V), n_whole = n_vocab == V ? n_pieces : pieces_of(n_vocab) - 1;
    bool end = p == n_pieces; /* of the n_vocab ids */
    for (int i = p * 32 + lane; filters && i < BUCKETS; i += made * 32) filters[n].mass[i] = 0, filters[n].count[i] = 0;
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

__global__ static void __launch_bounds__(DRAW_THREADS, 2)
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

/* top_k and top_p end somewhere among a row's scores in falling order. A histogram that all multiprocessors make says in which bucket; what lies
 * there is collected, and a block a row finds the last score that stays, and draws. Masses are whole units, so that their sums
 * are the same in any order: 2^-35 of the largest score's, in a histogram as two sums of 32 bits, for which there are atomic additions. */
enum { MASS_BITS = 35, LOW_BITS = 18, ID_BITS = 21, GROUP = 4, FILTER_THREADS = 256, RUN = GROUP * PIECE / (FILTER_THREADS / 32) };

static_assert(MAX_PIECES * PIECE == 1 << ID_BITS, "a key holds any id");
static_assert((int64_t)GROUP * PIECE << LOW_BITS <= (int64_t)1 << 31 && (int64_t)GROUP * PIECE << (MASS_BITS - LOW_BITS) < (int64_t)1 << 31,
              "the sums of a block");

typedef struct filtering {
    const float *z;
    float inv_t;
    int V;
    mr_sampling opt;
    row_piece *pieces;
    row_filter *filters;
    float *scores;  /* [row][room_of] after the penalty; NULL: the scores are z * inv_t */
    mass_t *masses; /* [row][pieces]: of what stays in any case */
    uint64_t *keys; /* [row][room_of]: a group's from its first id's place on */
    int *n_keys;    /* [row][groups] */
} filtering;

__host__ __device__ static inline int groups_of(int n) { return (n + GROUP * PIECE - 1) / (GROUP * PIECE); }
__host__ __device__ static inline int64_t room_of(int V) { return (int64_t)groups_of(V) * GROUP * PIECE; }

__device__ inline const float *scores_of(const filtering &q, int n, float *scale) {
    *scale = q.scores ? 1.0f : q.inv_t;
    return q.scores ? q.scores + n * room_of(q.V) : q.z + (int64_t)n * q.V;
}
__device__ inline bool has_top_k(const mr_sampling &opt) { return opt.top_k > 0 && opt.top_k < opt.n_vocab; }
__device__ inline bool is_cut(const mr_sampling &opt) { return has_top_k(opt) || opt.top_p < 1; }

/* Orders by score, of equal ones the higher id first, since it is the one that top_p keeps (spec/grpo.md, 3.2). */
__device__ inline uint64_t key_of(float s, int id) {
    uint32_t u = __float_as_uint(s + 0.0f); /* -0 equals 0 */
    u ^= u >> 31 ? 0xffffffffu : 0x80000000u;
    return (uint64_t)u << ID_BITS | (uint32_t)id;
}
__device__ inline float key_score(uint64_t key) {
    uint32_t u = (uint32_t)(key >> ID_BITS);
    return __uint_as_float(u >> 31 ? u ^ 0x80000000u : ~u);
}
__device__ inline int key_id(uint64_t key) { return (int)(key & (MAX_PIECES * PIECE - 1)); }

/* Bucket 0 holds the best scores; 32 buckets are one nat. */
__device__ inline int bucket_of(float s, float most) {
    float d = (most - s) * 32.0f;
    return d < (float)(BUCKETS - 1) ? (int)d : BUCKETS - 1;
}

/* Of e^(score - most); NaN has none. */
__device__ inline mass_t units_of(float e) { return e > 0.0f ? (mass_t)(e * (float)((int64_t)1 << MASS_BITS)) : 0; }
/* The same, nothing for what min_p takes away. */
__device__ inline mass_t units_above(float e, float min_p) { return e < min_p ? 0 : units_of(e); }
/* The mass that top_p wants of `all`. */
__device__ inline mass_t wanted_of(mass_t all, float top_p) {
    double want = ceil((double)top_p * (double)all);
    return want > 1 ? (mass_t)want : 1;
}

/* Of all threads of a block before this one the sum of x; *all: of all. room: one value a warp. */
__device__ inline mass_t sum_before(mass_t x, mass_t *room, mass_t *all) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    mass_t sum = x, before = 0;
    for (int d = 1; d < 32; d *= 2) {
        mass_t y = __shfl_up_sync(0xffffffffu, sum, d);
        sum += lane >= d ? y : 0;
    }
    __syncthreads();
    if (lane == 31) room[warp] = sum;
    __syncthreads();
    *all = 0;
    for (int w = 0; w < (int)blockDim.x / 32; w++) {
        before += w < warp ? room[w] : 0;
        *all += room[w];
    }
    return before + sum - x;
}

/* Of the ids that are drawn from; pieces: theirs. */
__device__ inline float largest_score(const row_piece *pieces, int n, float *room) {
    float top = -INFINITY;
    for (int p = threadIdx.x; p < n; p += blockDim.x) top = fmaxf(top, pieces[p].max);
    return block_max(top, room);
}

/* f(score, id) for RUN neighbors of a row, of which a lane has 4 of every 128. They wait in shared memory (room: of the warp), as pieces do. */
template <typename F> __device__ inline void each_score(const float *x, float scale, int from, int n, float4 *room, F f) {
    int lane = threadIdx.x % 32;
    float4 v[RUN / 128];
    x += from, n -= from;
#pragma unroll
    for (int j = 0; j < RUN / 128; j++) {
        int at = 128 * j + 4 * lane;
        if ((uintptr_t)x % 16 == 0 && at + 3 < n) {
            v[j] = *(const float4 *)(x + at);
        } else {
            float4 few = { at < n ? x[at] : 0, at + 1 < n ? x[at + 1] : 0, at + 2 < n ? x[at + 2] : 0, 0 };
            if (at + 3 < n) few.w = x[at + 3];
            v[j] = few;
        }
    }
#pragma unroll
    for (int j = 0; j < RUN / 128; j++) room[32 * j + lane] = v[j];
#pragma unroll 1
    for (int j = 0; j < RUN / 128; j++) {
        float4 w = room[32 * j + lane];
        int at = 128 * j + 4 * lane;
        if (at < n) f(w.x * scale, from + at);
        if (at + 1 < n) f(w.y * scale, from + at + 1);
        if (at + 2 < n) f(w.z * scale, from + at + 2);
        if (at + 3 < n) f(w.w * scale, from + at + 3);
    }
}

/* A block makes the scores of a piece. history: {first, n} for each of n_rows rows, then ids; row0: the first row of this launch. */
__global__ static void __launch_bounds__(FILTER_THREADS)
    penalty_kernel(filtering q, const int32_t *history, int n_rows, int row0) {
    __shared__ float room[32];
    follow();
    int n_pieces = pieces_of(q.opt.n_vocab), n = blockIdx.x / n_pieces, p = blockIdx.x % n_pieces, row = row0 + n;
    int from = p * PIECE, end = from + PIECE < q.opt.n_vocab ? from + PIECE : q.opt.n_vocab;
    const float *z = q.z + (int64_t)n * q.V;
    const int32_t *seen = history + 2 * n_rows + history[2 * row];
    float *s = q.scores + n * room_of(q.V), top = -INFINITY;
    for (int i = from + threadIdx.x; i < end; i += FILTER_THREADS) s[i] = z[i] * q.inv_t;
    __syncthreads();
    for (int i = threadIdx.x; i < history[2 * row + 1]; i += FILTER_THREADS) {
        int id = seen[i]; /* from z, so that an id that comes twice is changed once */
        if (id >= from && id < end)
            s[id] = (z[id] < 0 ? z[id] * q.opt.repetition_penalty : z[id] / q.opt.repetition_penalty) * q.inv_t;
    }
    __syncthreads();
    for (int i = from + threadIdx.x; i < end; i += FILTER_THREADS) top = fmaxf(top, s[i]);
    top = block_max(top, room);
    if (threadIdx.x == 0) q.pieces[n * 2 * (int64_t)pieces_of(q.V) + pieces_of(q.V) + p].max = top;
}

typedef struct filter_room { /* of a block for GROUP pieces */
    float4 scores[FILTER_THREADS / 32][RUN / 4];
    mass_t scan[FILTER_THREADS / 32], least;
    int count[BUCKETS], low[BUCKETS], high[BUCKETS], n_keys;
    float room[32];
    cut end;
} filter_room;

__global__ static void __launch_bounds__(FILTER_THREADS) histogram_kernel(filtering q) {
    SHARED_BYTES(bytes);
    filter_room &r = *(filter_room *)bytes;
    follow();
    int n_groups = groups_of(q.opt.n_vocab), n = blockIdx.x / n_groups, group = blockIdx.x % n_groups, warp = threadIdx.x / 32;
    float scale, most = largest_score(q.pieces + ((int64_t)2 * n + 1) * pieces_of(q.V), pieces_of(q.opt.n_vocab), r.room);
    const float *x = scores_of(q, n, &scale);
    bool counts = has_top_k(q.opt), masses = q.opt.top_p < 1;
    for (int i = threadIdx.x; i < BUCKETS; i += FILTER_THREADS) r.count[i] = r.low[i] = r.high[i] = 0;
    __syncthreads();
    each_score(x, scale, group * GROUP * PIECE + warp * RUN, q.opt.n_vocab, r.scores[warp], [&](float s, int) {
        int at = bucket_of(s, most);
        mass_t units = masses ? units_of(exp_below_88(s - most)) : 0;
        if (counts) atomicAdd(&r.count[at], 1);
        if (units) {
            atomicAdd(&r.low[at], (int)(units & ((1 << LOW_BITS) - 1)));
            atomicAdd(&r.high[at], (int)(units >> LOW_BITS));
        }
    });
    __syncthreads();
    row_filter *f = q.filters + n;
    for (int i = threadIdx.x; i < BUCKETS; i += FILTER_THREADS) {
        mass_t mass = (mass_t)r.low[i] + ((mass_t)r.high[i] << LOW_BITS);
        if (r.count[i]) atomicAdd(&f->count[i], r.count[i]);
        if (mass) atomicAdd(&f->mass[i], mass);
    }
}

/* With both filters it depends on the equals of the k-th score how much mass top_p wants: at least what it wants of the buckets before
 * that score's, so its end is not before theirs. */
__device__ static cut find_cut(const row_filter *f, const mr_sampling &opt, filter_room &r) {
    enum { MINE = BUCKETS / FILTER_THREADS };
    int from = threadIdx.x * MINE, count[MINE];
    mass_t mass[MINE], counts = 0, masses = 0, all_counts, all;
#pragma unroll
    for (int i = 0; i < MINE; i++) {
        count[i] = f->count[from + i], mass[i] = f->mass[from + i];
        counts += (mass_t)count[i], masses += mass[i];
    }
    mass_t counted = sum_before(counts, r.scan, &all_counts), before = sum_before(masses, r.scan, &all);
    bool top_k = has_top_k(opt);
    if (threadIdx.x == 0) r.end.first = r.end.last = BUCKETS - 1, r.least = all;
    __syncthreads();
    auto each_bucket = [&](auto look) { /* look(bucket, scores before it, mass before it, and both with it) */
        mass_t c = counted, m = before;
#pragma unroll
        for (int i = 0; i < MINE; c += (mass_t)count[i], m += mass[i], i++) look(from + i, c, m, c + (mass_t)count[i], m + mass[i]);
    };
    if (top_k)
        each_bucket([&](int at, mass_t c, mass_t m, mass_t c_end, mass_t) {
            if (c < (mass_t)opt.top_k && c_end >= (mass_t)opt.top_k) r.end.first = r.end.last = at, r.least = m;
        });
    __syncthreads();
    int last = r.end.last;
    mass_t want = wanted_of(r.least, opt.top_p);
    __syncthreads();
    if (opt.top_p < 1)
        each_bucket([&](int at, mass_t, mass_t m, mass_t, mass_t m_end) {
            if (m < want && m_end >= want && at <= last) r.end.first = at, r.end.last = top_k ? last : at;
        });
    __syncthreads();
    int first = r.end.first;
    each_bucket([&](int at, mass_t c, mass_t m, mass_t, mass_t) {
        if (at == first) r.end.count = (int)c, r.end.mass = m, r.end.all = all;
    });
    __syncthreads();
    return r.end;
}

/* The keys of the scores that have to be looked into, in no order, and each piece's mass of those that stay anyhow. */
__global__ static void __launch_bounds__(FILTER_THREADS) collect_kernel(filtering q) {
    SHARED_BYTES(bytes);
    filter_room &r = *(filter_room *)bytes;
    follow();
    int n_pieces = pieces_of(q.opt.n_vocab), n_groups = groups_of(q.opt.n_vocab), n = blockIdx.x / n_groups, group = blockIdx.x % n_groups,
        warp = threadIdx.x / 32;
    float scale, most = largest_score(q.pieces + ((int64_t)2 * n + 1) * pieces_of(q.V), n_pieces, r.room);
    const float *x = scores_of(q, n, &scale);
    cut end = { BUCKETS, BUCKETS, 0, 0, 0 };
    if (is_cut(q.opt)) end = find_cut(q.filters + n, q.opt, r);
    if (threadIdx.x == 0) r.n_keys = 0;
    __syncthreads();
    uint64_t *keys = q.keys + n * room_of(q.V) + (int64_t)group * GROUP * PIECE;
    mass_t stays = 0, all;
    each_score(x, scale, group * GROUP * PIECE + warp * RUN, q.opt.n_vocab, r.scores[warp], [&](float s, int id) {
        int at = bucket_of(s, most);
        if (at < end.first)
            stays += units_above(exp_below_88(s - most), q.opt.min_p);
        else if (at <= end.last)
            keys[atomicAdd(&r.n_keys, 1)] = key_of(s, id);
    });
    sum_before(stays, r.scan, &all); /* leaves each warp's in r.scan */
    const int warps = PIECE / RUN;
    int piece = group * GROUP + threadIdx.x;
    if (threadIdx.x < GROUP && piece < n_pieces) {
        mass_t mass = 0;
        for (int w = 0; w < warps; w++) mass += r.scan[threadIdx.x * warps + w];
        q.masses[(int64_t)n * pieces_of(q.V) + piece] = mass;
    }
    if (threadIdx.x) return;
    q.n_keys[(int64_t)n * groups_of(q.V) + group] = r.n_keys;
    if (group == 0) q.filters[n].end = end;
}

enum { BIN_BITS = 9, BINS = 1 << BIN_BITS };
static_assert((int)BINS == (int)DRAW_THREADS, "a thread has a bin");

typedef struct filtered_room {
    draw_room draw;
    mass_t masses[MAX_PIECES], bins[BINS], scan[DRAW_THREADS / 32], left;
    int bin;
} filtered_room;

typedef struct key_list {
    const uint64_t *keys;
    const int *n_keys;
    int n_groups;
} key_list;

/* f(key) for all keys of a row. */
template <typename F> __device__ inline void each_key(const key_list &l, F f) {
    for (int g = threadIdx.x / 32; g < l.n_groups; g += DRAW_THREADS / 32) {
        int n = l.n_keys[g];
#pragma unroll 4
        for (int i = threadIdx.x % 32; i < n; i += 32) f(l.keys[g * GROUP * PIECE + i]);
    }
}

__device__ inline uint64_t block_most(uint64_t x, mass_t *room) {
    for (int d = 16; d; d >>= 1) {
        uint64_t y = __shfl_xor_sync(0xffffffffu, x, d);
        x = x > y ? x : y;
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    for (int w = 0; w < DRAW_THREADS / 32; w++) x = x > room[w] ? x : room[w];
    return x;
}

/* The key with which weight(key), added from the largest key down, reaches `want`; the smallest of all when it does not. In each round
 * one of BINS bins is left of the range of keys. */
template <typename W> __device__ static uint64_t key_reaching(mass_t want, W weight, const key_list &l, filtered_room &r) {
    uint64_t top = 0, not_low = 0;
    each_key(l, [&](uint64_t key) {
        top = key > top ? key : top;
        not_low = ~key > not_low ? ~key : not_low;
    });
    top = block_most(top, r.scan);
    uint64_t low = ~block_most(not_low, r.scan);
    int shift = 0;
    while ((top - low) >> shift >= BINS) shift += BIN_BITS;
    for (;; shift -= BIN_BITS) {
        __syncthreads();
        r.bins[threadIdx.x] = 0;
        if (threadIdx.x == 0) r.bin = 0, r.left = want;
        __syncthreads();
        each_key(l, [&](uint64_t key) {
            mass_t mass = key >= low && (key - low) >> shift < BINS ? weight(key) : 0;
            if (mass) atomicAdd(&r.bins[(key - low) >> shift], mass);
        });
        __syncthreads();
        mass_t mine = r.bins[BINS - 1 - threadIdx.x], all, before = sum_before(mine, r.scan, &all);
        if (before < want && before + mine >= want) r.bin = BINS - 1 - (int)threadIdx.x, r.left = want - before;
        __syncthreads();
        low += (uint64_t)r.bin << shift;
        want = r.left;
        if (shift == 0) return low;
    }
}

/* The smallest key that top_k and top_p leave. */
__device__ static uint64_t smallest_kept(const key_list &l, const cut &end, float most, const mr_sampling &opt, filtered_room &r) {
    uint64_t kept = 0;
    mass_t all = end.all;
    auto mass_of = [&](uint64_t key) { return key >= kept ? units_of(exp_below_88(key_score(key) - most)) : 0; };
    if (has_top_k(opt)) {
        uint64_t last = key_reaching((mass_t)(opt.top_k - end.count), [](uint64_t) { return (mass_t)1; }, l, r);
        kept = last >> ID_BITS << ID_BITS; /* equals of the last one stay */
        mass_t mine = 0;
        each_key(l, [&](uint64_t key) { mine += mass_of(key); });
        sum_before(mine, r.scan, &all);
        all += end.mass;
    }
    if (opt.top_p < 1) {
        uint64_t last = key_reaching(wanted_of(all, opt.top_p) - end.mass, mass_of, l, r);
        kept = last > kept ? last : kept;
    }
    return kept;
}

/* The first id whose cumulative mass of what the filters leave exceeds u * all of it; 0 without any. r.masses: of the pieces. */
__device__ static int draw_mass(const float *x, float scale, float most, uint64_t kept, const mr_sampling &opt, double u, filtered_room &r) {
    enum { MINE = MAX_PIECES / DRAW_THREADS, FEW = PIECE / DRAW_THREADS };
    mass_t mine[MINE > FEW ? MINE : FEW], sum = 0, all, none;
    for (int i = 0; i < MINE; i++) sum += mine[i] = r.masses[threadIdx.x * MINE + i];
    mass_t before = sum_before(sum, r.scan, &all);
    if (all == 0) return 0; /* NaN everywhere: the caller sees it in logp */
    double want = u * (double)all;
    mass_t target = want > 0 ? (mass_t)want : 0;
    if (target >= all) target = all - 1;
    for (int i = 0; i < MINE; before += mine[i], i++)
        if (before <= target && target < before + mine[i]) r.bin = threadIdx.x * MINE + i, r.left = target - before;
    __syncthreads();
    int first = r.bin * PIECE + threadIdx.x * FEW;
    target = r.left, sum = 0;
    for (int i = 0; i < FEW; i++) {
        float s = first + i < opt.n_vocab ? x[first + i] * scale : -INFINITY;
        mine[i] = key_of(s, first + i) >= kept ? units_above(exp_below_88(s - most), opt.min_p) : 0;
        sum += mine[i];
    }
    before = sum_before(sum, r.scan, &none);
    for (int i = 0; i < FEW; before += mine[i], i++)
        if (before <= target && target < before + mine[i]) r.bin = first + i;
    __syncthreads();
    return r.bin;
}

__global__ static void __launch_bounds__(DRAW_THREADS, 2) draw_filtered_kernel(int32_t *ids, float *logp, filtering q, const float *u) {
    SHARED_BYTES(bytes);
    filtered_room &r = *(filtered_room *)bytes;
    follow();
    int n = blockIdx.x, n_all = pieces_of(q.V), n_pieces = pieces_of(q.opt.n_vocab), id;
    const row_piece *pieces = q.pieces + (int64_t)2 * n * n_all;
    float most[2], scale;
    const float *x = scores_of(q, n, &scale);
    merge_row(most, pieces, n_all, n_pieces, r.draw);
    __syncthreads();
    if (threadIdx.x == 32) r.draw.log_sum = log(sum_in_order(r.draw.sums[0], n_all));
    if (q.opt.temperature <= 0) {
        id = draw_largest(x, pieces + n_all, most[1], q.opt.n_vocab, r.draw);
    } else {
        key_list l = { q.keys + n * room_of(q.V), q.n_keys + (int64_t)n * groups_of(q.V), groups_of(q.opt.n_vocab) };
        uint64_t kept = is_cut(q.opt) ? smallest_kept(l, q.filters[n].end, most[1], q.opt, r) : 0;
        for (int p = threadIdx.x; p < MAX_PIECES; p += DRAW_THREADS) r.masses[p] = p < n_pieces ? q.masses[(int64_t)n * n_all + p] : 0;
        __syncthreads();
        each_key(l, [&](uint64_t key) {
            mass_t mass = key >= kept ? units_above(exp_below_88(key_score(key) - most[1]), q.opt.min_p) : 0;
            if (mass) atomicAdd(&r.masses[key_id(key) / PIECE], mass);
        });
        __syncthreads();
        id = draw_mass(x, scale, most[1], kept, q.opt, (double)u[n], r);
    }
    if (threadIdx.x) return;
    ids[n] = id;
    logp[n] = row_logp(most[0], r.draw.log_sum, q.z[(int64_t)n * q.V + id], q.inv_t);
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

/* Of one row. */
static int64_t piece_bytes(int V) { return 2 * pieces_of(V) * (int64_t)sizeof(row_piece); }
static int64_t filter_bytes(int V, bool penalty) {
    return piece_bytes(V) + (int64_t)sizeof(row_filter) + pieces_of(V) * (int64_t)sizeof(mass_t) + groups_of(V) * (int64_t)sizeof(int) +
           room_of(V) * (int64_t)(sizeof(uint64_t) + (penalty ? sizeof(float) : 0));
}

/* Some tens of rows with filters at a time. */
size_t cu_sample_scratch(int64_t n, int64_t n_vocab) {
    const int64_t most = (int64_t)64 << 20, row = filter_bytes((int)n_vocab, true);
    return (size_t)(n * row < most ? n * row : most > row ? most : row);
}

static void make_pieces(mr_backend *b, row_piece *pieces, row_filter *filters, const float *z, float inv_t, int N, int V, int n_vocab) {
    int blocks = (N * pieces_made(V, n_vocab) + PIECE_WARPS - 1) / PIECE_WARPS;
    LAUNCH_EARLY(b, "sample", pieces_kernel, blocks, PIECE_WARPS * 32, PIECE_WARPS * PIECE * (int)sizeof(float), pieces, filters, z, inv_t, N, V,
                 n_vocab);
}

/* N rows, of n_rows whose histories are in `seen` from row0 on; NULL: without a penalty. scratch: filter_bytes a row. */
static void sample_filtered(mr_backend *b, int32_t *ids, float *logp, const float *z, const float *u, const mr_sampling *opt, float inv_t,
                            const int32_t *seen, int n_rows, int row0, int N, int V, char *scratch) {
    filtering q = {};
    q.z = z, q.inv_t = inv_t, q.V = V, q.opt = *opt;
    q.keys = (uint64_t *)scratch;
    q.filters = (row_filter *)(q.keys + N * room_of(V));
    q.masses = (mass_t *)(q.filters + N);
    q.pieces = (row_piece *)(q.masses + N * (int64_t)pieces_of(V));
    char *rest = (char *)(q.pieces + N * (int64_t)2 * pieces_of(V));
    if (seen) q.scores = (float *)rest, rest += N * room_of(V) * (int64_t)sizeof(float);
    q.n_keys = (int *)rest;
    int n_pieces = pieces_of(opt->n_vocab), n_groups = groups_of(opt->n_vocab);
    make_pieces(b, q.pieces, q.filters, z, inv_t, N, V, opt->n_vocab);
    if (seen) LAUNCH_EARLY(b, "sample", penalty_kernel, N * n_pieces, FILTER_THREADS, 0, q, seen, n_rows, row0);
    if (opt->temperature > 0) {
        if (opt->top_k > 0 || opt->top_p < 1)
            LAUNCH_EARLY(b, "sample", histogram_kernel, N * n_groups, FILTER_THREADS, (int)sizeof(filter_room), q);
        LAUNCH_EARLY(b, "sample", collect_kernel, N * n_groups, FILTER_THREADS, (int)sizeof(filter_room), q);
    }
    LAUNCH_EARLY(b, "sample", draw_filtered_kernel, N, DRAW_THREADS, (int)sizeof(filtered_room), ids, logp, q, u);
}

void cu_sample(mr_backend *b, int32_t *ids, float *logp, const float *z, const float *u, const mr_sampling *opt,
               const int32_t *const *history, const int32_t *n_history, int N, int V) {
    if (cu_failed(b) || N <= 0) return;
    assert(opt->n_vocab > 0 && opt->n_vocab <= V && pieces_of(V) <= MAX_PIECES);
    bool penalty = opt->repetition_penalty != 1.0f, greedy = opt->temperature <= 0;
    bool filtered = penalty || (!greedy && (opt->top_k > 0 || opt->top_p < 1 || opt->min_p > 0));
    float inv_t = greedy ? 1.0f : 1.0f / opt->temperature;
    assert(!penalty || (history && n_history));
    const int32_t *seen = NULL;
    if (penalty && !(seen = upload_history(b, history, n_history, N))) return;
    int64_t row_bytes = filtered ? filter_bytes(V, penalty) : piece_bytes(V), room = (int64_t)cu_sample_scratch(N, V);
    int at_once = N < room / row_bytes ? N : (int)(room / row_bytes);
    char *scratch = (char *)cu_scratch(b, "sample", CU_SLOT_HEAD, (size_t)(at_once * row_bytes));
    for (int at = 0; scratch && at < N; at += at_once) {
        int n = N - at < at_once ? N - at : at_once;
        const float *rows = z + (int64_t)at * V;
        if (filtered) {
            sample_filtered(b, ids + at, logp + at, rows, u + at, opt, inv_t, seen, N, at, n, V, scratch);
            continue;
        }
        row_piece *pieces = (row_piece *)scratch;
        make_pieces(b, pieces, NULL, rows, inv_t, n, V, opt->n_vocab);
        LAUNCH_EARLY(b, "sample", draw_kernel, n, DRAW_THREADS, (int)sizeof(draw_room), ids + at, logp + at, pieces, rows, u + at, inv_t,
                     greedy, V, (int)opt->n_vocab);
    }
}
