/* few_nf4.cu - products of a few rows with NF4 weights (decoding), where all of x fits into shared memory: gemm.cuh.
 * few.cu serves else.
 *
 * Work:    a warp makes 8 * NT outputs of one segment of K for all rows. Of 16 outputs the weight is mma's left operand,
 *          and 8 rows of x its right one; of 8 outputs, where there are too few for all multiprocessors, it is the other
 *          way round. A block has as many warps of these as go round the multiprocessors evenly; its others lay x out,
 *          and the segments' sums meet in shared memory, in order.
 * x:       once a block, in 16 bits and in the order of operands: for every 8 rows and 32 columns the 16 bytes of each
 *          lane. In pieces of PIECE blocks of every segment: one is laid out while the one before it is multiplied.
 * Weights: a lane's codes go from global memory to its registers, DEPTH blocks of 64 columns ahead, without any barrier.
 *          A byte of codes is an operand's register: a table has its two values for each byte, once for each lane of half
 *          a warp, so that no two want the same bank.
 * LoRA:    u = x @ a^T is made by the first blocks of the same launch while the others' chains run; they wait for u only
 *          before its product with b. Blocks start in the order of their numbers, so those that are waited for always
 *          run. */
#include "cuda/gemm.cuh"

enum {
    EIGHT = 8,
    BLOCK = 64,
    SEGMENT_BLOCKS = CU_K_SEGMENT / BLOCK,
    MOST_SEGMENTS = 4,
    STAGES = 8,
    STAGE_BYTES = EIGHT * BLOCK * 2
};
enum { PIECE = 16 /* blocks */, PIECE_PAIRS = PIECE * BLOCK / 32 };
enum { COPIES = 16, TABLE_BYTES = 256 * COPIES * 8 };

/* Warps of a block: more rows take more registers. */
__host__ __device__ constexpr int warps_of(int r8) {
    return r8 == 1 ? 16 : 12;
}
/* A lane's sums: four of every 16 outputs x 8 rows, or 8 outputs x 16 rows. */
__host__ __device__ constexpr int sums_of(int r8, int nt) {
    return nt == 1 ? (r8 + 1) / 2 : r8;
}

/* How a launch is laid out. */
typedef struct nf4_plan {
    int r8, nt;         /* eights of rows; of a warp's outputs: what kernels are compiled for */
    bool pairs;         /* there is room for the table of bytes */
    int tiles, a_tiles; /* a block's: of 8 * nt outputs; of 8 columns of u */
    int n_segments, bytes;
    int x_bytes, table_bytes, scale_blocks; /* of shared memory; blocks of 64 columns of a warp, at most */
    bool aligned;                           /* x can be read by 8 bytes */
    int a_blocks, blocks;
    int *ready; /* [2]: blocks of u that are done, blocks that are done with u; zero between launches */
} nf4_plan;

/* --- x --- */

/* Four pairs of columns, 8 apart. */
template <bool ALIGNED> __device__ inline void load_x(float2 v[4], const float *from) {
#pragma unroll
    for (int k = 0; k < 4; k++)
        v[k] = ALIGNED ? *(const float2 *)(from + 8 * k) : make_float2(from[8 * k], from[8 * k + 1]);
}

/* A piece of each segment; warps first, first + step, ... of all that do this. Rows behind the last are those of mma
 * that nobody reads. */
template <int T, int R8, bool ALIGNED>
__device__ static void lay_piece(uint4 *to, const few_product &p, int n_segments, int piece, int first, int step,
                                 int lane) {
    int pairs = (int)(p.w.n_in / 32), n = n_segments * PIECE_PAIRS;
#pragma unroll
    for (int eight = 0; eight < R8; eight++, to += pairs * 32) {
        int row = eight * 8 + lane / 4;
        const float *from = p.x + (row < p.n_rows ? row : p.n_rows - 1) * p.ldx + lane % 4 * 2;
#pragma unroll 4
        for (int i = first; i < n; i += step) { /* loads without a branch, so that all are on their way together */
            int at = i / PIECE_PAIRS * SEGMENT_BLOCKS * 2 + piece * PIECE_PAIRS + i % PIECE_PAIRS,
                place = at < pairs ? at : pairs - 1;
            float2 v[4];
            load_x<ALIGNED>(v, from + place * 32);
            if (at < pairs) /* others read the last place meanwhile */
                to[at * 32 + lane] = make_uint4(pack2<T>(v[0].x, v[0].y), pack2<T>(v[1].x, v[1].y),
                                                pack2<T>(v[2].x, v[2].y), pack2<T>(v[3].x, v[3].y));
        }
    }
}

/* What warps of a block do that lay x out for the others, or also for themselves: number `warp` of n. */
typedef struct helper {
    int warp, n;
} helper;

__device__ inline helper helper_of(int warp, int n_warps, int busy) {
    bool apart = n_warps - busy >= 4;
    helper h = { apart ? warp - busy : warp, apart ? n_warps - busy : n_warps };
    return h;
}

/* chain(from, to): the blocks of a piece, of those that the warp multiplies; all warps of the block call this. */
template <int T, int R8, typename F>
__device__ static void for_pieces(uint4 *x, const few_product &p, const nf4_plan &q, const helper &h, int lane,
                                  F chain) {
    auto lay = [&](int piece) {
        if (h.warp < 0) return;
        if (q.aligned)
            lay_piece<T, R8, true>(x, p, q.n_segments, piece, h.warp, h.n, lane);
        else
            lay_piece<T, R8, false>(x, p, q.n_segments, piece, h.warp, h.n, lane);
    };
    for (int piece = -1; piece * PIECE < q.scale_blocks; piece++) {
        if (piece >= 0) __syncthreads();
        if ((piece + 1) * PIECE < q.scale_blocks) lay(piece + 1);
        if (piece >= 0) chain(piece * PIECE, (piece + 1) * PIECE);
    }
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

/* --- NF4 --- */

template <bool PAIRS> __device__ static void lay_table(float *table, const float *values, int first, int step) {
    for (int i = first; i < (PAIRS ? 256 * COPIES : 16); i += step) {
        if (PAIRS)
            ((float2 *)table)[i] = make_float2(values[i / COPIES >> 4], values[i / COPIES & 15]);
        else
            table[i] = values[i];
    }
}

/* The two values of byte i of a word. table: with the lane's offset. */
template <bool PAIRS> __device__ inline float2 values_of(const float *table, uint32_t word, int i) {
    if (PAIRS) { /* COPIES * 8 bytes an entry: 7 bits */
        uint32_t at = (i == 0 ? word << 7 : word >> (8 * i - 7)) & 0x7f80u;
        return *(const float2 *)((const char *)table + at);
    }
    return make_float2(table[word >> (8 * i + 4) & 15], table[word >> 8 * i & 15]);
}

/* A warp's outputs: 8 * NT rows of codes from row0, blocks [block, block + n) of 64 columns. */
typedef struct strip {
    int64_t row0;
    int block, n;
} strip;

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

/* A block of 64 columns as operands. */
template <int NT> struct operands { uint32_t of[4][2 * NT]; };

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

/* x: the lane's first of the block. */
template <int T, int R8, int NT>
__device__ inline void multiply(float (*acc)[4], const operands<NT> &b, const uint4 *x, int pairs) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        uint4 v[R8];
#pragma unroll
        for (int e = 0; e < R8; e++) v[e] = x[(e * pairs + h) * 32];
        step<T, R8, NT>(acc, v, 0, b.of[2 * h]);
        step<T, R8, NT>(acc, v, 1, b.of[2 * h + 1]);
    }
}

template <int T, int R8, int NT, bool PAIRS> struct nf4_chain {
    enum { DEPTH = 4, LD = EIGHT * NT + 1 };
    lane_codes<NT> ring[DEPTH];
    operands<NT> next;
    const uint8_t *codes;

    __device__ void begin(const weight_view &w, const strip &s, int lane) {
        codes = w.codes + (s.row0 / 16 * (w.n_in / BLOCK) + s.block) * 512 + lane * 16 + (NT == 1 ? s.row0 % 16 : 0);
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
            if (d < s.n) ring[d] = load_codes<NT>(codes + d * 512);
    }

    /* Blocks from .. to - 1 of n; DEPTH divides `from`. x: the lane's first; scales: the first of row lane / 4. A block is
     * unpacked while the one before it is multiplied. */
    __device__ void run(float (*acc)[4], int from, int to, int n, const uint4 *x, int pairs, const float *scales,
                        const float *table) {
        if (to > n) to = n;
        if (from == 0) next = unpack<T, NT, PAIRS>(ring[0], scales, table);
        int at = from;
        for (; at + DEPTH <= to; at += DEPTH)
#pragma unroll
            for (int d = 0; d < DEPTH; d++) {
                int i = at + d;
                operands<NT> now = next;
                if (i + DEPTH < n) ring[d] = load_codes<NT>(codes + (i + DEPTH) * 512);
                next = unpack<T, NT, PAIRS>(ring[(d + 1) % DEPTH], scales + (i + 1 < n ? i + 1 : i) * LD, table);
                multiply<T, R8, NT>(acc, now, x + i * 64, pairs);
            }
        for (; at < to; at++) { /* less than DEPTH, at n */
            multiply<T, R8, NT>(acc, next, x + at * 64, pairs);
            if (at + 1 < to)
                next = unpack<T, NT, PAIRS>(load_codes<NT>(codes + (at + 1) * 512), scales + (at + 1) * LD, table);
        }
    }
};

/* --- 16 bits: LoRA's a --- */

/* Rows row0 .. row0 + 7 of w, through a warp's own ring of stages of 64 columns; 16 bytes are XORed with the row, for
 * ldmatrix. */
template <int T, int R8> struct half_chain {
    const weight_view &w;
    int64_t n_rows;
    strip s;
    unsigned char *ring;
    int lane;

    __device__ void fetch(int i) {
        if (i < s.n)
#pragma unroll
            for (int k = 0; k < 2; k++) {
                int r = k * 4 + lane / 8, part = lane % 8;
                bool ok = s.row0 + r < n_rows;
                const u16 *from =
                    (const u16 *)w.data + (ok ? (s.row0 + r) * w.ld + (s.block + i) * BLOCK + part * 8 : 0);
                copy16(ring + i % STAGES * STAGE_BYTES + r * 128 + (part ^ r) * 16, from, ok);
            }
        copy_commit();
    }
    __device__ void begin() {
        for (int i = 0; i < STAGES - 1; i++) fetch(i);
    }
    __device__ void run(float (*acc)[4], int from, int to, const uint4 *x, int pairs) {
        for (int i = from; i < to && i < s.n; i++) {
            copy_wait<STAGES - 2>();
            __syncwarp();
            fetch(i + STAGES - 1);
            const unsigned char *stage = ring + i % STAGES * STAGE_BYTES + lane % 8 * 128;
#pragma unroll
            for (int h = 0; h < 2; h++) {
                uint32_t b[4];
                uint4 v[R8];
#pragma unroll
                for (int e = 0; e < R8; e++) v[e] = x[(e * pairs + 2 * i + h) * 32];
                load_matrices(b, stage + ((4 * h + lane / 8) ^ lane % 8) * 16);
                step<T, R8, 1>(acc, v, 0, b);
                step<T, R8, 1>(acc, v, 1, b + 2);
            }
        }
    }
};

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

/* The part that has outputs from row0 on; parts do not overlap. Their places are known when this is compiled: looking
 * them up by a number that is not takes microseconds. */
__device__ inline bool part_of(few_part *part, const few_product &p, int64_t row0) {
    bool have = false;
#pragma unroll
    for (int i = 0; i < 3; i++)
        if (i < p.n_parts && row0 >= p.part[i].row0 && row0 < p.part[i].row0 + p.part[i].rows)
            *part = p.part[i], have = true;
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

/* 64 columns of a row of u, which other blocks of this launch have written, in x's order: all on their way together. */
template <int T> __device__ inline void load_u(uint4 u[2], const few_part &part, const few_product &p, int row, int k) {
    const float *from = part.u + (row < p.n_rows ? row : p.n_rows - 1) * p.ldu;
    float v[16];
#pragma unroll
    for (int s = 0; s < 16; s++) {
        int at = k + s / 2 * 8 + s % 2;
        v[s] = __ldcg(from + (at < part.r ? at : 0));
        if (at >= part.r) v[s] = 0.0f;
    }
#pragma unroll
    for (int h = 0; h < 2; h++)
        u[h] = make_uint4(pack2<T>(v[8 * h], v[8 * h + 1]), pack2<T>(v[8 * h + 2], v[8 * h + 3]),
                          pack2<T>(v[8 * h + 4], v[8 * h + 5]), pack2<T>(v[8 * h + 6], v[8 * h + 7]));
}

/* acc = fma(scale, u @ b^T, acc). b: its first 64 columns. Steps behind r add zeros, which changes nothing. */
template <int T, int R8, int NT>
__device__ static void add_part(float (*acc)[4], const few_product &p, const few_part &part, operands<NT> b,
                                int64_t row0, int lane) {
    float more[sums_of(R8, NT)][4] = {};
    for (int at = 0; at < part.r; at += BLOCK) {
        uint4 u[R8][2];
        if (at) b = load_b<NT>(part, row0, at, lane);
#pragma unroll
        for (int e = 0; e < R8; e++) load_u<T>(u[e], part, p, e * 8 + lane / 4, at + lane % 4 * 2);
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

/* The segments' sums, in order, in the first segment's warps. All warps of a block call it. sums: of this tile. */
template <int N>
__device__ static void add_segments(float (*acc)[4], float *sums, int segment, int n_segments, bool mine, int lane) {
    if (n_segments == 1) return;
    if (mine && segment > 0)
#pragma unroll
        for (int i = 0; i < 4 * N; i++) sums[((segment - 1) * 4 * N + i) * 32 + lane] = acc[i / 4][i % 4];
    __syncthreads();
    if (mine && segment == 0)
        for (int s = 0; s < n_segments - 1; s++)
#pragma unroll
            for (int i = 0; i < 4 * N; i++) acc[i / 4][i % 4] += sums[(s * 4 * N + i) * 32 + lane];
}

/* u's columns of one block. */
template <int T, int R8> __device__ static void make_u(const few_product &a, const nf4_plan &q, unsigned char *bytes) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n_warps = (int)blockDim.x / 32;
    int segment = warp % q.n_segments, tile = warp / q.n_segments, pairs = (int)(a.w.n_in / 32),
        blocks = (int)(a.w.n_in / BLOCK);
    strip s = { ((int64_t)blockIdx.x * q.a_tiles + tile) * EIGHT, segment * SEGMENT_BLOCKS, 0 };
    s.n = blocks - s.block < SEGMENT_BLOCKS ? blocks - s.block : SEGMENT_BLOCKS;
    bool mine = tile < q.a_tiles && s.row0 < a.n_out;
    uint4 *x = (uint4 *)bytes;
    unsigned char *ring = bytes + q.x_bytes + warp * STAGES * STAGE_BYTES;
    float *sums = (float *)(bytes + q.x_bytes + q.a_tiles * q.n_segments * STAGES * STAGE_BYTES) +
                  tile * (q.n_segments - 1) * sums_of(R8, 1) * 128;
    float acc[sums_of(R8, 1)][4] = {};
    half_chain<T, R8> chain = { a.w, a.n_out, s, ring, lane };
    if (mine && lane < EIGHT && s.row0 + lane < a.n_out)
        fetch_ahead((const u16 *)a.w.data + (s.row0 + lane) * a.w.ld + s.block * BLOCK, s.n * BLOCK * 2);
    if (mine) chain.begin();
    follow();
    for_pieces<T, R8>(x, a, q, helper_of(warp, n_warps, q.a_tiles * q.n_segments), lane, [&](int from, int to) {
        if (mine) chain.run(acc, from, to, x + s.block * 64 + lane, pairs);
    });
    copy_wait<0>();
    add_segments<sums_of(R8, 1)>(acc, sums, segment, q.n_segments, mine, lane);
    if (mine && segment == 0)
        for_results<R8, 1>(acc, s.row0, lane, [&](float &v, int row, int64_t o, int) {
            if (row < a.n_rows && o < a.n_out) a.y[row * a.ldy + o] = v;
        });
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(q.ready, 1);
}

template <int T, int R8, int NT, bool PAIRS>
__global__ static void __launch_bounds__(warps_of(R8) * 32, 1) nf4_kernel(few_product p, few_product a, nf4_plan q) {
    SHARED_BYTES(bytes);
    if ((int)blockIdx.x < q.a_blocks) {
        make_u<T, R8>(a, q, bytes);
        return;
    }
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n_warps = (int)blockDim.x / 32, busy = q.tiles * q.n_segments;
    int segment = warp % q.n_segments, tile = warp / q.n_segments, pairs = (int)(p.w.n_in / 32),
        blocks = (int)(p.w.n_in / BLOCK);
    strip s = { ((int64_t)((int)blockIdx.x - q.a_blocks) * q.tiles + tile) * EIGHT * NT, segment * SEGMENT_BLOCKS, 0 };
    s.n = blocks - s.block < SEGMENT_BLOCKS ? blocks - s.block : SEGMENT_BLOCKS;
    bool mine = tile < q.tiles && s.row0 < p.n_out, first = mine && segment == 0;
    uint4 *x = (uint4 *)bytes;
    float *table = (float *)(bytes + q.x_bytes),
          *scales = (float *)(bytes + q.x_bytes + q.table_bytes) + warp * q.scale_blocks * (EIGHT * NT + 1);
    float *sums = (float *)(bytes + q.x_bytes + q.table_bytes) + busy * q.scale_blocks * (EIGHT * NT + 1) +
                  tile * (q.n_segments - 1) * sums_of(R8, NT) * 128;

    nf4_chain<T, R8, NT, PAIRS> chain;
    operands<NT> b = {};
    few_part part = {};
    bool has_part = part_of(&part, p, s.row0) && first;
    if (mine) { /* what is waited for longest comes first */
        lane_scales<NT> made;
        made.load(p.w, s, lane);
        chain.begin(p.w, s, lane);
        if (NT == 1 && lane == 0 && s.row0 % 16 == 0)
            fetch_ahead(p.w.codes + (s.row0 / 16 * blocks + s.block) * 512, s.n * 512);
        if (has_part) b = load_b<NT>(part, s.row0, 0, lane);
        made.lay(scales, p.w, s, lane);
    }
    helper h = helper_of(warp, n_warps, busy);
    if (h.warp >= 0) lay_table<PAIRS>(table, p.w.tables + CU_NF4, h.warp * 32 + lane, h.n * 32);
    follow();
    enum {
        N = sums_of(R8, NT),
        EARLY = R8 == 1 ? N : 1
    }; /* old values are loaded before the chain where registers suffice */
    float acc[N][4] = {}, old[EARLY][4] = {}, bias[2] = {};
    if (R8 == 1 && first && p.add)
        for_results<1, NT>(old, s.row0, lane, [&](float &v, int row, int64_t o, int) {
            if (row < p.n_rows) v = p.y[row * p.ldy + o];
        });
    for (int i = 0; first && p.bias && i < 2; i++)
        bias[i] = p.bias[s.row0 + (NT == 1 ? lane % 4 * 2 + i : lane / 4 + i * 8)];
    const float *lane_table = (const float *)((const char *)table + (PAIRS ? lane % COPIES * 8 : 0));
    for_pieces<T, R8>(x, p, q, h, lane, [&](int from, int to) {
        if (mine) chain.run(acc, from, to, s.n, x + s.block * 64 + lane, pairs, scales + lane / 4, lane_table);
    });
    if (R8 == 1 && first && p.add)
#pragma unroll
        for (int i = 0; i < 4 * EARLY; i++) acc[i / 4][i % 4] += old[i / 4][i % 4];
    else if (first && p.add)
        for_results<R8, NT>(acc, s.row0, lane, [&](float &v, int row, int64_t o, int) {
            if (row < p.n_rows) v += p.y[row * p.ldy + o];
        });
    add_segments<N>(acc, sums, segment, q.n_segments, mine, lane);
    if (first && p.bias)
        for_results<R8, NT>(acc, s.row0, lane, [&](float &v, int, int64_t, int which) { v += bias[which]; });
    if (has_part) {
        if (q.a_blocks) {
            if (lane == 0)
                while (*(volatile int *)q.ready < q.a_blocks) {
                }
            __syncwarp();
            __threadfence();
        }
        add_part<T, R8, NT>(acc, p, part, b, s.row0, lane);
    }
    if (first)
        for_results<R8, NT>(acc, s.row0, lane, [&](float &v, int row, int64_t o, int) {
            if (row < p.n_rows) p.y[row * p.ldy + o] = v;
        });
    if (q.a_blocks == 0) return;
    __syncthreads();
    if (threadIdx.x == 0 && atomicAdd(q.ready + 1, 1) == q.blocks - q.a_blocks - 1) { /* nobody waits any more */
        q.ready[0] = 0;
        q.ready[1] = 0;
    }
}

/* --- launching --- */

/* Tiles of a block so that all blocks run at once if they can; fewer for those that make u, where that is free. */
static bool lay_out(const mr_backend *b, nf4_plan *q, int64_t n_out, int64_t n_a, int64_t k) {
    int n_sm = cu_of(b)->n_sm, most = warps_of(q->r8) / q->n_segments, most_bytes = cu_of(b)->max_shared - 1024;
    int64_t tiles = (n_out + EIGHT * q->nt - 1) / (EIGHT * q->nt), a_tiles = (n_a + EIGHT - 1) / EIGHT;
    q->tiles = most + 1, q->a_tiles = 1, q->a_blocks = (int)a_tiles;
    for (int each = 1; each <= most; each++) {
        int64_t a_blocks = (a_tiles + each - 1) / each, left = n_sm - a_blocks,
                per = left > 0 ? (tiles + left - 1) / left : most;
        if (per > most) per = most;
        if (per >= q->tiles) continue;
        q->tiles = (int)per, q->a_tiles = each, q->a_blocks = (int)a_blocks;
    }
    q->blocks = q->a_blocks + (int)((tiles + q->tiles - 1) / q->tiles);
    q->x_bytes = (int)(q->r8 * k * 16);
    q->scale_blocks = (int)(k < CU_K_SEGMENT ? k : (int64_t)CU_K_SEGMENT) / BLOCK;
    int sums = (q->n_segments - 1) * sums_of(q->r8, q->nt) * 512,
        a_sums = (q->n_segments - 1) * sums_of(q->r8, 1) * 512;
    int scales = q->n_segments * q->scale_blocks * (EIGHT * q->nt + 1) * 4,
        a_bytes = a_tiles ? q->a_tiles * (q->n_segments * STAGES * STAGE_BYTES + a_sums) : 0;
    for (int pairs = q->r8 == 1; pairs >= 0; pairs--) { /* for more rows unpacking is the smaller part */
        q->pairs = pairs;
        q->table_bytes = pairs ? TABLE_BYTES : 64;
        int own = q->table_bytes + q->tiles * (scales + sums);
        q->bytes = q->x_bytes + (own > a_bytes ? own : a_bytes);
        if (q->bytes <= most_bytes) return true;
    }
    return false;
}

static bool plan(const mr_backend *b, nf4_plan *q, const few_product *p, int64_t n_a) {
    const weight_view *w = &p->w;
    int64_t segments = (w->n_in + CU_K_SEGMENT - 1) / CU_K_SEGMENT;
    for (int i = 1; i < p->n_parts; i++)
        if (p->part[i].row0 < p->part[i - 1].row0 + p->part[i - 1].rows) return false; /* a warp has one part */
    if (w->store != MR_NF4 || !w->tiled || segments > MOST_SEGMENTS || p->n_rows > 48) return false;
    q->n_segments = (int)segments;
    q->r8 = (p->n_rows + 7) / 8;
    if (q->r8 > 2) q->r8 = (q->r8 + 1) / 2 * 2;
    q->nt = p->n_out / 16 >= 4 * cu_of(b)->n_sm ? 2 : 1;
    return lay_out(b, q, p->n_out, n_a, w->n_in);
}

template <int T, int R8, int NT, bool PAIRS>
static void launch(mr_backend *b, const char *op, const few_product *p, const few_product *a, const nf4_plan *q) {
    auto kernel = nf4_kernel<T, R8, NT, PAIRS>;
    LAUNCH_EARLY(b, op, kernel, q->blocks, warps_of(R8) * 32, q->bytes, *p, a ? *a : *p, *q);
}

template <int T, int NT>
static void launch_rows(mr_backend *b, const char *op, const few_product *p, const few_product *a, const nf4_plan *q) {
    switch (q->r8) {
    case 1:
        if (q->pairs)
            launch<T, 1, NT, true>(b, op, p, a, q);
        else
            launch<T, 1, NT, false>(b, op, p, a, q);
        break;
    case 2: launch<T, 2, NT, false>(b, op, p, a, q); break;
    case 4: launch<T, 4, NT, false>(b, op, p, a, q); break;
    default: launch<T, 6, NT, false>(b, op, p, a, q);
    }
}

bool cu_few_nf4(mr_backend *b, const char *op, const few_product *p, const few_product *a) {
    nf4_plan q;
    if (!plan(b, &q, p, a ? a->n_out : 0)) return false;
    q.aligned = (uintptr_t)p->x % 8 == 0 && p->ldx % 2 == 0;
    q.ready = cu_of(b)->ready;
    if (p->w.compute == MR_F16) {
        if (q.nt == 2)
            launch_rows<F16, 2>(b, op, p, a, &q);
        else
            launch_rows<F16, 1>(b, op, p, a, &q);
    } else {
        if (q.nt == 2)
            launch_rows<BF16, 2>(b, op, p, a, &q);
        else
            launch_rows<BF16, 1>(b, op, p, a, &q);
    }
    return true;
}
