/* few.cuh - what the kernels for products of a few rows have in common (few_nf4.cu, few_half.cu): rows that come packed (half.cuh), sums over segments
 * of K that meet in global memory, LoRA's u that other blocks of the launch have made. A warp's results are 8 * NT outputs of all rows: of 16 outputs
 * the weight is mma's left operand, and 8 rows of x its right one; of 8 it is the other way round. R8: eights of rows. */
#ifndef MR_CUDA_FEW_H
#define MR_CUDA_FEW_H

#include "cuda/gemm.cuh"

enum { EIGHT = 8, BLOCK = 64, SEGMENT_BLOCKS = CU_K_SEGMENT / BLOCK, MOST_SEGMENTS = 8 };

/* What a launch's blocks share. */
typedef struct few_launch {
    int r8;                 /* eights of rows */
    int n_tiles, n_a_tiles; /* all: of the product's outputs; of u's */
    int n_segments, bytes;  /* of K; of shared memory */
    int a_blocks, blocks;   /* that make u, the first ones; all */
    const uint4 *x; /* packed */
    u16 *u;         /* packed, of u_pairs * 32 columns; part i is columns u_from[i] .. of u, and u_at[i] .. here */
    int u_pairs, u_from[3], u_size[3], u_at[3];
    float4 *sums, *a_sums; /* of several segments: [tile][segment][sums][lane], of a's tiles too */
    int *ready;   /* [2]: tiles of u that are done, blocks that are done with u; zero between launches */
    int *arrived; /* [tile, then a's tiles], as zero */
    int gated;    /* the rows of gate, or 0 */
    float *act;
    u16 *packed_act;
} few_launch;

/* A lane's sums: four of every 16 outputs x 8 rows, or 8 outputs x 16 rows. */
__host__ __device__ constexpr int sums_of(int r8, int nt) {
    return nt == 1 ? (r8 + 1) / 2 : r8;
}

/* A warp's outputs: 8 * NT rows of codes from row0, blocks [block, block + n) of 64 columns. */
typedef struct strip {
    int64_t row0;
    int block, n;
} strip;

__device__ inline strip strip_of(int64_t n_in, int64_t row0, int segment) {
    strip s = { row0, segment * SEGMENT_BLOCKS, (int)(n_in / BLOCK) - segment * SEGMENT_BLOCKS };
    if (s.n > SEGMENT_BLOCKS) s.n = SEGMENT_BLOCKS;
    return s;
}

/* 16 columns of all rows, number `half` of the two in x, times 8 * NT outputs. */
template <int T, int R8, int NT>
__device__ inline void step(float (*acc)[4], const uint4 x[R8], int half, const uint32_t w[2 * NT]) {
#pragma unroll
    for (int i = 0; i < sums_of(R8, NT); i++) {
        const uint4 &low = x[NT == 1 ? 2 * i : i], &high = x[2 * i + 1 < R8 ? 2 * i + 1 : 0];
        bool two = 2 * i + 1 < R8;
        uint32_t v[4] = { half ? low.z : low.x, two ? half ? high.z : high.x : 0, half ? low.w : low.y,
                          two ? half ? high.w : high.y : 0 };
        uint32_t right[2] = { v[0], v[2] };
        if (NT == 1)
            mma16<T>(acc[i], v, w);
        else
            mma16<T>(acc[i], w, right);
    }
}

/* A block of 64 columns as operands. */
template <int NT> struct operands { uint32_t of[4][2 * NT]; };

/* --- after the chain --- */

/* body(acc's element, row, output, which of the lane's two outputs it is) for a warp's results. */
template <int R8, int NT, typename F>
__device__ inline void for_results(float (*acc)[4], int64_t row0, int lane, F body) {
#pragma unroll
    for (int i = 0; i < sums_of(R8, NT); i++)
#pragma unroll
        for (int v = 0; v < (NT == 2 || 2 * i + 1 < R8 ? 4 : 2); v++) {
            if (NT == 1)
                body(acc[i][v], i * 16 + v / 2 * 8 + lane / 4, row0 + lane % 4 * 2 + v % 2, v % 2);
            else
                body(acc[i][v], i * 8 + lane % 4 * 2 + v % 2, row0 + lane / 4 + v / 2 * 8, v / 2);
        }
}

/* Of several segments: whether this warp is the last one of its tile; arrived, sums: tile 0's. Its acc is the sum
 * of all segments then, in order, and of what comes before the first (old(to): whether there is anything; y's old values). */
template <int N, typename F>
__device__ static bool add_segments(float (*acc)[4], const few_launch &q, int *arrived, float4 *sums, int tile, int segment, int lane, F old) {
    float4 *place = sums + (int64_t)tile * q.n_segments * N * 32 + lane;
#pragma unroll
    for (int i = 0; i < N; i++) {
        float4 mine = { acc[i][0], acc[i][1], acc[i][2], acc[i][3] };
        place[(segment * N + i) * 32] = mine;
    }
    __threadfence();
    __syncwarp();
    int before = lane == 0 ? atomicAdd(arrived + tile, 1) : 0;
    if (__shfl_sync(0xffffffffu, before, 0) != q.n_segments - 1) return false;
    __threadfence();
    if (lane == 0) arrived[tile] = 0;
    float first[N][4] = {};
    bool add = old(first);
#pragma unroll 3
    for (int s = 0; s < q.n_segments; s++)
#pragma unroll
        for (int i = 0; i < N; i++) {
            float4 v = __ldcg(place + (s * N + i) * 32);
            float part[4] = { v.x, v.y, v.z, v.w };
#pragma unroll
            for (int k = 0; k < 4; k++) acc[i][k] = s ? acc[i][k] + part[k] : add ? first[i][k] + part[k] : part[k];
        }
    return true;
}

/* --- u --- */

/* 8 of u's columns of the rows from `first` on, packed too. */
template <int T, int R8> __device__ static void put_u(float (*acc)[4], const few_product &a, const few_launch &q, int64_t row0, int lane, int first = 0) {
    for_results<R8, 1>(acc, row0, lane, [&](float &v, int row, int64_t o, int) {
        row += first;
        if (row >= a.n_rows || o >= a.n_out) return;
        a.y[row * a.ldy + o] = v;
        int at = -1;
#pragma unroll
        for (int i = 0; i < 3; i++)
            if (o >= q.u_from[i] && o < q.u_from[i] + q.u_size[i]) at = (int)o - q.u_from[i] + q.u_at[i];
        if (at >= 0) q.u[packed_at(row, at, q.u_pairs)] = to_half<T>(v);
    });
}
/* One more of n_a_tiles is there. */
__device__ inline void u_done(const few_launch &q, int lane) {
    __syncwarp();
    if (lane == 0) count_release(q.ready);
}

/* The part that has outputs from row0 on, and where its u begins; parts do not overlap. Their places are known when this is compiled:
 * looking them up by a number that is not takes microseconds. */
__device__ inline bool part_of(few_part *part, int *u_at, const few_product &p, const few_launch &q, int64_t row0) {
    bool have = false;
#pragma unroll
    for (int i = 0; i < 3; i++)
        if (i < p.n_parts && row0 >= p.part[i].row0 && row0 < p.part[i].row0 + p.part[i].rows)
            *part = p.part[i], *u_at = q.u_at[i], have = true;
    return have;
}

/* 64 columns of b, of 16 bits; ldb is a multiple of 8, zero behind the last column. */
template <int NT> __device__ inline operands<NT> load_b(const few_part &part, int64_t row0, int k, int lane) {
    operands<NT> b;
#pragma unroll
    for (int t = 0; t < NT; t++) {
        const u16 *row = part.b + (row0 + t * 8 + lane / 4 - part.row0) * part.ldb;
#pragma unroll
        for (int s = 0; s < 8; s++) {
            int at = k + s * 8 + lane % 4 * 2;
            b.of[s / 2][s % 2 * NT + t] = at < part.ldb ? *(const uint32_t *)(row + at) : 0;
        }
    }
    return b;
}

/* Two neighbors of u; zeros behind the last. */
__device__ inline uint32_t inside(uint32_t two, int at, int r) {
    return at + 1 < r ? two : at < r ? two & 0xffff : 0;
}

/* acc = fma(scale, u @ b^T, acc). b: its first 64 columns. Steps behind r add zeros, which changes nothing. */
template <int T, int R8, int NT>
__device__ static void add_part(float (*acc)[4], const few_launch &q, const few_part &part, int u_at, operands<NT> b, int64_t row0, int lane) {
    float more[sums_of(R8, NT)][4] = {};
    for (int at = 0; at < part.r; at += BLOCK) {
        uint4 u[R8][2];
        if (at) b = load_b<NT>(part, row0, at, lane);
#pragma unroll
        for (int e = 0; e < R8; e++)
#pragma unroll
            for (int h = 0; h < 2; h++) u[e][h] = __ldcg((const uint4 *)q.u + (e * q.u_pairs + (u_at + at) / 32 + h) * 32 + lane);
#pragma unroll
        for (int e = 0; e < R8; e++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int c = at + h * 32 + lane % 4 * 2;
                uint4 v = u[e][h];
                u[e][h] = make_uint4(inside(v.x, c, part.r), inside(v.y, c + 8, part.r), inside(v.z, c + 16, part.r), inside(v.w, c + 24, part.r));
            }
#pragma unroll
        for (int s = 0; s < 4; s++) {
            uint4 v[R8];
#pragma unroll
            for (int e = 0; e < R8; e++) v[e] = u[e][s / 2];
            step<T, R8, NT>(more, v, s % 2, b.of[s]);
        }
    }
#pragma unroll
    for (int i = 0; i < sums_of(R8, NT); i++)
#pragma unroll
        for (int v = 0; v < 4; v++) acc[i][v] = fmaf(part.scale, more[i][v], acc[i][v]);
}

/* --- host --- */

/* Whether a warp has one part at most. */
static inline bool parts_apart(const few_product *p) {
    for (int i = 1; i < p->n_parts; i++)
        if (p->part[i].row0 < p->part[i - 1].row0 + p->part[i - 1].rows) return false;
    return true;
}

/* Where u's parts lie when they are packed. */
static inline void place_u(few_launch *q, const few_product *p, const few_product *a) {
    int at = 0;
    for (int i = 0; i < p->n_parts; i++) {
        q->u_from[i] = (int)(p->part[i].u - a->y), q->u_size[i] = p->part[i].r, q->u_at[i] = at;
        at += (int)cu_round(p->part[i].r, BLOCK);
    }
    q->u_pairs = at / 32;
}

/* The segments' sums and u, where attention has its parts. A tile is `wide` times 8 * nt outputs, of u 8. */
static inline bool take_room(mr_backend *b, const char *op, few_launch *q, int nt, int wide = 1) {
    size_t each = q->n_segments == 1 ? 0 : (size_t)(q->n_segments * wide) * 512, sums = (size_t)(q->n_tiles * sums_of(q->r8, nt)) * each,
           a_sums = (size_t)(q->n_a_tiles * sums_of(q->r8, 1)) * each;
    char *room = (char *)cu_scratch(b, op, CU_SLOT_ATT, sums + a_sums + (size_t)(q->u_pairs * q->r8) * 512);
    q->sums = (float4 *)room;
    q->a_sums = (float4 *)(room + sums);
    q->u = (u16 *)(room + sums + a_sums);
    q->ready = cu_of(b)->ready;
    q->arrived = q->ready + 2;
    return room != NULL;
}

#endif
