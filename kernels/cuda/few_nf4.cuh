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
__device__ static void fetch_a(unsigned char *to, const weight_view &w, int64_t n_rows, const strip &s, int from, int lane) {
#pragma unroll
    for (int k = 0; k < 2 * A_PIECE; k++) {
        int i = from + k / 2, r = k % 2 * 4 + lane / 8, part = lane % 8;
        bool ok = i < s.n && s.row0 + r < n_rows;
        const u16 *row = (const u16 *)w.data + (ok ? (s.row0 + r) * w.ld + (s.block + i) * BLOCK + part * 8 : 0);
        copy16(to + k / 2 * 1024 + r * 128 + (part ^ r) * 16, row, ok);
    }
}

#endif
