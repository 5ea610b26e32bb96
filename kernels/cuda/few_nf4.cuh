/* few_nf4.cuh - what the kernels for few rows with NF4 weights have in common, few_nf4.cu and few_wide.cu: codes to operands, scales, a's rows. A warp
 * makes 8 * NT outputs of one segment of K. */
#ifndef MR_CUDA_FEW_NF4_H
#define MR_CUDA_FEW_NF4_H

#include "cuda/few.cuh"

enum {
    A_PIECE = 4, /* blocks of a stage in make_u, A_STAGES of them */
    A_STAGES = 4,
    A_BYTES = A_PIECE * BLOCK * EIGHT * 2 /* a stage's of one tile, or of x for 8 rows */
};
enum { COPIES = 32, MAP_BYTES = 256 * 4, TABLE_BYTES = 256 * COPIES * 8 }; /* of levels of scales; of bytes' values */

/* How a launch is laid out. */
struct nf4_plan : few_launch {
    int nt;             /* eights of a warp's outputs: what kernels are compiled for, with r8 */
    bool pairs;         /* there is room for the table of bytes */
    int tiles, a_tiles; /* a block's: of 8 * nt outputs; of 8 columns of u */
    int warps;
    int ring, x_bytes, table_bytes, scale_blocks; /* pieces of x; of shared memory; blocks of a warp, at most */
};

/* --- NF4 --- */

/* All of the block. A lane writes two copies of an entry. */
template <bool PAIRS> __device__ static void lay_table(float *table, const float *values) {
    int lane = threadIdx.x % 32;
    float v = values[lane % 16];
    if (!PAIRS && threadIdx.x < 16) table[threadIdx.x] = v;
    for (int two = threadIdx.x / 32; PAIRS && two < 128; two += (int)blockDim.x / 32) {
        int byte = 2 * two + lane / 16;
        float first = __shfl_sync(0xffffffffu, v, byte >> 4), second = __shfl_sync(0xffffffffu, v, byte & 15);
        ((float4 *)table)[two * 32 + lane] = float4{ first, second, first, second };
    }
}

/* The two values of byte i of a word. */
template <bool PAIRS> __device__ inline float2 values_of(const float *table, uint32_t word, int i) {
    if (PAIRS) { /* an entry has 256 bytes: the place's second byte is the code, its first one the lane's */
        uint32_t at = __byte_perm(word, threadIdx.x % 32 * 8, 0x5504u | (unsigned)i << 4);
        return *(const float2 *)((const char *)table + at);
    }
    return make_float2(table[word >> (8 * i + 4) & 15], table[word >> 8 * i & 15]);
}

template <int NT> struct lane_codes { uint32_t w[2 * NT]; };
template <int NT> __device__ inline lane_codes<NT> load_codes(const uint8_t *from) {
    lane_codes<NT> c;
    if (NT == 2) {
        uint4 v = load_passing((const uint4 *)from);
        c.w[0] = v.x, c.w[1] = v.y, c.w[2 % (2 * NT)] = v.z, c.w[3 % (2 * NT)] = v.w;
    } else {
        uint2 v = load_passing((const uint2 *)from);
        c.w[0] = v.x, c.w[1] = v.y;
    }
    return c;
}

/* to[block][8 * NT + 1]: 16 a lane at a time; `load` for the first. */
template <int NT> struct lane_scales {
    enum { ROWS = EIGHT * NT, EACH = 2 / NT, STEP = 32 * EACH };
    nf4_scales<ROWS> of[EACH];

    __device__ void load(const weight_view &w, const strip &s, int at) {
        int blocks = (int)(w.n_in / BLOCK), first = (int)s.row0 * blocks + s.block;
#pragma unroll
        for (int k = 0; k < EACH; k++) of[k].load(w, first + (at + 32 * k < s.n ? at + 32 * k : s.n - 1), blocks);
    }
    __device__ void lay(float *to, const weight_view &w, const strip &s, int lane) {
        for (int at = lane; at < s.n; at += STEP) {
            if (at != lane) load(w, s, at);
            float made[EACH][ROWS];
#pragma unroll
            for (int k = 0; k < EACH * ROWS; k++) made[k / ROWS][k % ROWS] = of[k / ROWS].of(w, k % ROWS);
#pragma unroll
            for (int k = 0; k < EACH * ROWS; k++)
                if (at + k / ROWS * 32 < s.n)
                    to[(at + k / ROWS * 32) * (ROWS + 1) + k % ROWS] = made[k / ROWS][k % ROWS];
        }
    }
};

template <int T, int NT, bool PAIRS>
__device__ inline operands<NT> unpack(const lane_codes<NT> &c, const float *scales, const float *table) {
    operands<NT> b;
#pragma unroll
    for (int s = 0; s < 4; s++)
#pragma unroll
        for (int t = 0; t < NT; t++)
#pragma unroll
            for (int k = 0; k < 2; k++) {
                float2 two = values_of<PAIRS>(table, c.w[2 * t + s / 2], 2 * (s % 2) + k);
                b.of[s][k * NT + t] = pack2<T>(two.x * scales[8 * t], two.y * scales[8 * t]);
            }
    return b;
}

/* A stage of rows row0 .. row0 + 7 of w: [block][row][64], 16 bytes XORed with the row, for ldmatrix. */
__device__ inline void fetch_a(unsigned char *to, const weight_view &w, int64_t n_rows, const strip &s, int from, int lane) {
#pragma unroll
    for (int k = 0; k < 2 * A_PIECE; k++) {
        int i = from + k / 2, r = k % 2 * 4 + lane / 8, part = lane % 8;
        bool ok = i < s.n && s.row0 + r < n_rows;
        const u16 *row = (const u16 *)w.data + (ok ? (s.row0 + r) * w.ld + (s.block + i) * BLOCK + part * 8 : 0);
        copy16(to + k / 2 * 1024 + r * 128 + (part ^ r) * 16, row, ok);
    }
}

/* 32 columns, number i of a stage, of 8 of its rows as mma's right operands for two steps of 16. */
__device__ inline void load_a(uint32_t b[4], const unsigned char *stage, int i, int lane) {
    load_matrices(b, stage + lane % 8 * 128 + i / 2 * 1024 + ((i % 2 * 4 + lane / 8) ^ lane % 8) * 16);
}

/* u's columns of one block of threads. In shared memory A_STAGES times x's piece and each tile's. fetch(to, from, blocks): that many blocks of x,
 * by all threads. multiply(sums, x, a's rows, n, lane): a stage, of which n blocks are there. */
template <int T, int R8, typename F, typename M>
__device__ inline void make_u_of(const few_product &a, const nf4_plan &q, unsigned char *bytes, F fetch_blocks, M multiply) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int segment = (int)blockIdx.x % q.n_segments, tile = (int)blockIdx.x / q.n_segments * q.a_tiles + warp;
    strip s = strip_of(a.w.n_in, (int64_t)tile * EIGHT, segment);
    bool mine = warp < q.a_tiles && tile < q.n_a_tiles;
    int stage_bytes = A_BYTES * (R8 + q.a_tiles);
    float acc[sums_of(R8, 1)][4] = {};
    auto own = [&](int stage) { return bytes + stage % A_STAGES * stage_bytes + A_BYTES * (R8 + warp); };
    auto x_of = [&](int stage) { return (uint4 *)(bytes + stage % A_STAGES * stage_bytes); };
    auto fetch = [&](int stage) {
        int left = s.n - stage * A_PIECE;
        if (left > 0) fetch_blocks(x_of(stage), s.block + stage * A_PIECE, left < A_PIECE ? left : (int)A_PIECE);
    };
    if (mine) {
        if (lane < EIGHT && s.row0 + lane < a.n_out)
            fetch_ahead((const u16 *)a.w.data + (s.row0 + lane) * a.w.ld + s.block * BLOCK, s.n * BLOCK * 2);
        for (int i = 0; i < A_STAGES - 1; i++) fetch_a(own(i), a.w, a.n_out, s, i * A_PIECE, lane);
    }
    copy_commit();
    follow();
    for (int i = 0; i < A_STAGES - 1; i++) fetch(i), copy_commit();
    for (int stage = 0; stage * A_PIECE < s.n; stage++) {
        int next = stage + A_STAGES - 1;
        copy_wait<A_STAGES - 2>();
        __syncthreads();
        fetch(next);
        if (mine) fetch_a(own(next), a.w, a.n_out, s, next * A_PIECE, lane);
        copy_commit();
        if (mine) multiply(acc, x_of(stage), own(stage), s.n - stage * A_PIECE, lane);
    }
    copy_wait<0>();
    if (!mine) return;
    if (q.n_segments > 1 && !add_segments<sums_of(R8, 1)>(acc, q, q.arrived + q.n_tiles, q.a_sums, tile, segment, lane, [](float (*)[4]) { return false; })) return;
    put_u<T, R8>(acc, a, q, s.row0, lane);
    u_done(q, lane);
}

#endif
