/* few.cu - products of few rows (decoding): gemm.cuh.
 *
 * A warp makes 16 outputs of one segment of K for a group of rows: the weight is the 16-row operand of mma, 8 rows of x its columns,
 * so a batch of 6 wastes little. Codes (or 16-bit values) and x stream through a ring of stages in shared memory, filled in the
 * background; NF4 becomes operands in registers, with the scales of its blocks made once, ahead of the chain. The segments' sums meet in
 * shared memory, in order. A wide layer has work for all SMs: a block has four tiles of outputs then, and a warp all rows. Else the
 * chain's latency decides: a block has one tile, a warp a few rows, and other warps only fetch.
 *
 * LoRA: u = x @ a^T is made by the first blocks of the same launch, and the others' chains run meanwhile; they wait for u only
 * before its product with b. Blocks start in the order of their numbers, so those that are waited for always run. */
#include "cuda/gemm.cuh"
#include "cuda/lt.h"

enum { OUTPUTS = 16, BLOCK = 64, MAX_SEGMENTS = 8, MOST_WARPS = 16, X_PAD = 8, STAGES = 8, SCALES = CU_K_SEGMENT / BLOCK + 1 };

/* How a launch is laid out. */
typedef struct few_plan {
    int n8, columns;   /* eights of rows of a warp; columns of K in a stage: what kernels are compiled for */
    int groups, warps; /* warps of a tile that multiply, each n8 * 8 rows; and all that fetch for it */
    int tiles, a_tiles; /* of 16 outputs a block; of blocks that make u */
    int n_segments, stages, stage_bytes, bytes;
    bool aligned;      /* x can be copied by 16 bytes */
    int a_blocks, blocks;
    int *ready;        /* [2]: blocks of u that are done, blocks that are done with u; zero between launches */
} few_plan;

static __host__ __device__ constexpr int x_bytes(int rows8, int columns) { return rows8 * 8 * (columns + X_PAD) * 4; }
static __host__ __device__ constexpr int w_bytes(int columns, bool nf4) { return OUTPUTS * columns * 2 / (nf4 ? 4 : 1); }

/* All but the copies of the last stages - 2 stages are there. */
__device__ static void wait_stage(int stages) {
    if (stages >= 8)
        copy_wait<6>();
    else if (stages >= 6)
        copy_wait<4>();
    else if (stages >= 4)
        copy_wait<2>();
    else if (stages == 3)
        copy_wait<1>();
    else
        copy_wait<0>();
}

/* Rows of 16-bit values; ld is a multiple of 8, zero behind the last column. */
__device__ inline uint32_t pair_at(const u16 *w, int64_t ld, int64_t n_rows, int64_t row, int64_t k) {
    return row < n_rows && k < ld ? *(const uint32_t *)(w + row * ld + k) : 0;
}

/* Two neighbors of u, which other blocks of this launch have written. */
template <int T> __device__ inline uint32_t u_pair(const float *u, int64_t k, int64_t n) {
    return pack2<T>(k < n ? __ldcg(u + k) : 0.0f, k + 1 < n ? __ldcg(u + k + 1) : 0.0f);
}

/* The first operand of LoRA's step at column k. */
__device__ static void part_operand(uint32_t a[4], const few_part &part, int64_t row0, int k, int lane) {
    int at = k + lane % 4 * 2;
    int64_t r = row0 - part.row0 + lane / 4;
    a[0] = pair_at(part.b, part.ldb, part.rows, r, at);
    a[1] = pair_at(part.b, part.ldb, part.rows, r + 8, at);
    a[2] = pair_at(part.b, part.ldb, part.rows, r, at + 8);
    a[3] = pair_at(part.b, part.ldb, part.rows, r + 8, at + 8);
}

/* 16 columns of 16 rows of NF4, step s of 4 in a block of 64. c: the lane's 16 bytes of codes (weights.cu). */
template <int T> __device__ static void unpack(uint32_t a[4], const uint4 &c, int s, const float *values, float low, float high) {
    uint32_t l = (s < 2 ? c.x : c.y) >> 16 * (s % 2), h = (s < 2 ? c.z : c.w) >> 16 * (s % 2);
    a[0] = pack2<T>(values[l >> 4 & 15] * low, values[l & 15] * low);
    a[1] = pack2<T>(values[h >> 4 & 15] * high, values[h & 15] * high);
    a[2] = pack2<T>(values[l >> 12 & 15] * low, values[l >> 8 & 15] * low);
    a[3] = pack2<T>(values[h >> 12 & 15] * high, values[h >> 8 & 15] * high);
}

/* The chain over one stage's columns. rows: this lane's first place in x; weight: the tile's. part: only `left` columns are there. */
template <int T, bool NF4, int N8, int C>
__device__ static void multiply(float acc[N8][4], const float *rows, const unsigned char *weight, const float *low, const float *high,
                                const float *values, int lane, bool part, int64_t left) {
    constexpr int LDX = C + X_PAD;
    uint4 codes = make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int s = 0; s < C / 16; s++) {
        if (part && s * 16 >= left) break;
        uint32_t a[4];
        if (NF4) {
            if (s % 4 == 0) codes = *(const uint4 *)(weight + s / 4 * 512 + lane * 16);
            unpack<T>(a, codes, s % 4, values, low[s / 4], high[s / 4]);
        } else {
            int r = lane & 15, c = s * 2 + (lane >> 4);
            load_matrices(a, weight + r * C * 2 + (c ^ (r & 7)) * 16);
        }
#pragma unroll
        for (int j = 0; j < N8; j++) {
            float2 first = *(const float2 *)(rows + j * 8 * LDX + s * 16), second = *(const float2 *)(rows + j * 8 * LDX + s * 16 + 8);
            uint32_t b[2] = { pack2<T>(first.x, first.y), pack2<T>(second.x, second.y) };
            mma16<T>(acc[j], a, b);
        }
    }
}

/* Tiles tile0 .. of a block. `wait`: u comes from blocks of this launch. All threads of the block call it. Rows of x behind the last
 * hold anything: they are columns of mma that nobody reads. */
template <int T, bool NF4, int N8, int C>
__device__ static void few_block(const few_product &p, const few_plan &q, int64_t tile0, int tiles, unsigned char *bytes,
                                 const float *values, bool wait) {
    constexpr int LDX = C + X_PAD, W_BYTES = w_bytes(C, NF4), LANES = C / 4; /* lanes that copy a row of x */
    int lane = threadIdx.x % 32, team = q.tiles * q.warps, warp = threadIdx.x / 32, segment = warp / team, in_team = warp % team;
    int t = in_team / q.warps, in_tile = in_team % q.warps, row_first = in_tile * N8 * 8;
    int64_t row0 = (tile0 + t) * OUTPUTS, K = p.w.n_in;
    int64_t k0 = (int64_t)segment * CU_K_SEGMENT, k1 = K - k0 < CU_K_SEGMENT ? K : k0 + CU_K_SEGMENT;
    int64_t longest = q.n_segments > 1 ? (int64_t)CU_K_SEGMENT : K, blocks = K / BLOCK;
    bool have = t < tiles && row0 < p.n_out, mine = have && in_tile < q.groups;
    int chunks = (int)((longest + C - 1) / C), x_size = x_bytes(q.groups * N8, C);
    unsigned char *x_place = bytes + segment * x_size;
    unsigned char *w_place = bytes + q.n_segments * x_size + (segment * tiles + t) * W_BYTES;
    float *scales = (float *)(bytes + q.stages * q.stage_bytes) + (segment * tiles + t) * OUTPUTS * SCALES;

    /* where there are warps that only fetch, the others do not */
    int fetchers = q.warps > q.groups ? q.warps - q.groups : q.warps, fetcher = in_tile - (q.warps - fetchers);
    int x_row = (t * fetchers + fetcher) * (32 / LANES) + lane / LANES, x_column = lane % LANES * 4;
    int x_step = q.tiles * fetchers * (32 / LANES);
    const float *x_from = p.x + x_row * p.ldx + k0 + x_column;
    const uint8_t *codes = p.w.codes + (row0 / OUTPUTS * blocks + k0 / BLOCK) * 512 + lane * 16;
    constexpr int PARTS = C / 8; /* of 16 bytes in a row of 16-bit values */
    int w_row = fetcher * (32 / PARTS) + lane / PARTS, w_part = lane % PARTS, w_step = fetchers * (32 / PARTS);
    const u16 *data = (const u16 *)p.w.data, *w_from = data + (row0 + w_row) * p.w.ld + k0 + w_part * 8;
    int next_at = 0; /* of the stage that is filled next */
    auto fetch = [&](int chunk) {
        int64_t k = k0 + (int64_t)chunk * C;
        int at = next_at;
        next_at += q.stage_bytes;
        if (next_at == q.stages * q.stage_bytes) next_at = 0;
        if (fetcher < 0 || k >= k1) return;
        bool whole = k + C <= k1;
        float *to = (float *)(x_place + at) + x_row * LDX + x_column;
        const float *from = x_from + (int64_t)chunk * C;
        for (int r = x_row; r < p.n_rows; r += x_step, to += x_step * LDX, from += x_step * p.ldx) {
            if (q.aligned) {
                bool ok = whole || k + x_column < k1;
                copy16(to, ok ? from : p.x, ok);
            } else {
                for (int j = 0; j < 4; j++) to[j] = k + x_column + j < k1 ? from[j] : 0.0f;
            }
        }
        if (!have) return;
        unsigned char *ws = w_place + at;
        if (NF4) {
#pragma unroll
            for (int i = 0; i < C / BLOCK; i++)
                if ((fetchers == 1 || i % fetchers == fetcher) && (whole || k + i * BLOCK < k1))
                    copy16(ws + i * 512 + lane * 16, codes + ((int64_t)chunk * (C / BLOCK) + i) * 512, true);
        } else {
            const u16 *value = w_from + (int64_t)chunk * C;
            bool inside = whole || k + w_part * 8 < k1;
            for (int r = w_row; r < OUTPUTS; r += w_step, value += w_step * p.w.ld) { /* XORed with the row, for ldmatrix */
                bool ok = inside && row0 + r < p.n_out;
                copy16(ws + r * C * 2 + (w_part ^ (r & 7)) * 16, ok ? value : data, ok);
            }
        }
    };

    for (int s = 0; s < q.stages - 1; s++) {
        if (s < chunks) fetch(s);
        copy_commit();
    }
    if (NF4 && have) { /* read behind the first barrier */
        int n = (int)((k1 - k0) / BLOCK);
        int64_t first = row0 * blocks + k0 / BLOCK;
        for (int c = lane + in_tile * 32; c < n * 2; c += 32 * q.warps) { /* half of the rows */
            int column = c >> 1, side = c & 1;
            nf4_scales<OUTPUTS / 2> made;
            made.load(p.w, (int)(first + side * 8 * blocks + column), (int)blocks);
            float scale[OUTPUTS / 2];
#pragma unroll
            for (int r = 0; r < OUTPUTS / 2; r++) scale[r] = made.of(p.w, r);
#pragma unroll
            for (int r = 0; r < OUTPUTS / 2; r++) scales[(side * 8 + r) * SCALES + column] = scale[r];
        }
    }

    float acc[N8][4];
#pragma unroll
    for (int j = 0; j < N8; j++)
#pragma unroll
        for (int v = 0; v < 4; v++) acc[j][v] = 0.0f;
    int place = -q.stage_bytes; /* of this chunk's stage */
    for (int chunk = 0; chunk < chunks; chunk++) {
        place += q.stage_bytes;
        if (place == q.stages * q.stage_bytes) place = 0;
        wait_stage(q.stages);
        __syncthreads();
        if (chunk + q.stages - 1 < chunks) fetch(chunk + q.stages - 1);
        copy_commit();
        int64_t left = k1 - k0 - (int64_t)chunk * C;
        if (!mine || left <= 0) continue;
        const float *rows = (const float *)(x_place + place) + (row_first + lane / 4) * LDX + lane % 4 * 2;
        const float *low = scales + lane / 4 * SCALES + chunk * (C / BLOCK), *high = low + 8 * SCALES;
        if (left >= C)
            multiply<T, NF4, N8, C>(acc, rows, w_place + place, low, high, values, lane, false, C);
        else
            multiply<T, NF4, N8, C>(acc, rows, w_place + place, low, high, values, lane, true, left);
    }

    /* the segments' sums, in order; then bias and LoRA, by the first segment's warps */
    copy_wait<0>();
    __syncthreads();
    if (q.n_segments > 1) {
        float *sums = (float *)bytes + (t * q.groups + in_tile) * N8 * 128;
        if (segment > 0 && mine)
#pragma unroll
            for (int j = 0; j < N8; j++)
#pragma unroll
                for (int v = 0; v < 4; v++) sums[((segment - 1) * q.tiles * q.groups * N8 + j) * 128 + v * 32 + lane] = acc[j][v];
        __syncthreads();
    }
    if (segment > 0 || !mine) return;
    const float *sums = (const float *)bytes + (t * q.groups + in_tile) * N8 * 128;
#pragma unroll
    for (int j = 0; j < N8; j++)
#pragma unroll
        for (int v = 0; v < 4; v++) {
            int64_t o = row0 + lane / 4 + v / 2 * 8;
            int row = row_first + j * 8 + lane % 4 * 2 + v % 2;
            bool there = o < p.n_out && row < p.n_rows;
            if (p.add && there) acc[j][v] = acc[j][v] + p.y[row * p.ldy + o];
            for (int s = 1; s < q.n_segments; s++)
                acc[j][v] += sums[((s - 1) * q.tiles * q.groups * N8 + j) * 128 + v * 32 + lane];
            if (p.bias && there) acc[j][v] += p.bias[o];
        }
    for (int i = 0; i < p.n_parts; i++) {
        const few_part &part = p.part[i];
        if (row0 < part.row0 || row0 >= part.row0 + part.rows) continue;
        float more[N8][4];
#pragma unroll
        for (int j = 0; j < N8; j++)
#pragma unroll
            for (int v = 0; v < 4; v++) more[j][v] = 0.0f;
        uint32_t ahead[4][4]; /* b's first 64 columns, on their way while u is waited for */
#pragma unroll
        for (int s = 0; s < 4; s++) part_operand(ahead[s], part, row0, s * 16, lane);
        if (wait) {
            if (lane == 0)
                while (*(volatile int *)q.ready < q.a_blocks) {}
            __syncwarp();
            __threadfence();
        }
        for (int at = 0; at < part.r; at += 64)
#pragma unroll
            for (int s = 0; s < 4; s++) {
                int k = at + s * 16;
                if (k >= part.r) break;
                uint32_t a[4] = { ahead[s][0], ahead[s][1], ahead[s][2], ahead[s][3] };
                if (at) part_operand(a, part, row0, k, lane);
#pragma unroll
                for (int j = 0; j < N8; j++) {
                    int row = row_first + j * 8 + lane / 4, column = k + lane % 4 * 2;
                    const float *u = part.u + row * p.ldu;
                    uint32_t b[2] = { row < p.n_rows ? u_pair<T>(u, column, part.r) : 0,
                                      row < p.n_rows ? u_pair<T>(u, column + 8, part.r) : 0 };
                    mma16<T>(more[j], a, b);
                }
            }
#pragma unroll
        for (int j = 0; j < N8; j++)
#pragma unroll
            for (int v = 0; v < 4; v++) acc[j][v] = fmaf(part.scale, more[j][v], acc[j][v]);
    }
#pragma unroll
    for (int j = 0; j < N8; j++)
#pragma unroll
        for (int v = 0; v < 4; v++) {
            int64_t o = row0 + lane / 4 + v / 2 * 8;
            int row = row_first + j * 8 + lane % 4 * 2 + v % 2;
            if (o < p.n_out && row < p.n_rows) p.y[row * p.ldy + o] = acc[j][v];
        }
}

/* p, and a's product before it where q.a_blocks > 0. */
template <int T, bool NF4, int N8, int C>
__global__ static void __launch_bounds__(MOST_WARPS * 32) few_kernel(few_product p, few_product a, few_plan q) {
    SHARED_BYTES(bytes);
    __shared__ float values[16];
    follow();
    if (threadIdx.x < 16) values[threadIdx.x] = p.w.tables[CU_NF4 + threadIdx.x]; /* seen after the first barrier */
    int block = blockIdx.x;
    if (block < q.a_blocks) {
        few_block<T, false, N8, C>(a, q, (int64_t)block * q.a_tiles, q.a_tiles, bytes, values, false);
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            atomicAdd(q.ready, 1);
        }
        return;
    }
    few_block<T, NF4, N8, C>(p, q, (int64_t)(block - q.a_blocks) * q.tiles, q.tiles, bytes, values, q.a_blocks > 0);
    if (q.a_blocks == 0) return;
    __syncthreads();
    if (threadIdx.x == 0 && atomicAdd(q.ready + 1, 1) == q.blocks - q.a_blocks - 1) { /* nobody waits any more */
        q.ready[0] = 0;
        q.ready[1] = 0;
    }
}

/* Shared memory with `tiles` a block and as many stages as are good; false: does not fit. */
static bool lay_out(const mr_backend *b, few_plan *q, int n8, bool nf4, bool a, int tiles) {
    static const int counts[] = { STAGES, 6, 4, 3, 2 };
    q->tiles = tiles;
    q->a_tiles = nf4 && tiles >= 4 ? tiles / 4 : nf4 ? 1 : tiles; /* 16 bits take four times NF4's room */
    q->columns = n8 <= 2 ? 128 : 64;
    q->n8 = n8 <= 2 ? n8 : tiles == 1 ? 2 : n8 <= 6 ? (n8 + 1) / 2 * 2 : 4;
    q->groups = (n8 + q->n8 - 1) / q->n8;
    q->warps = q->groups + (tiles == 1 ? 3 : n8 == 1 ? 1 : 0); /* more registers would mean fewer blocks */
    if (tiles * q->n_segments * q->warps > MOST_WARPS) q->warps = MOST_WARPS / (tiles * q->n_segments);
    if (q->warps < q->groups) return false;
    int w = tiles * w_bytes(q->columns, nf4), wa = a ? q->a_tiles * w_bytes(q->columns, false) : 0;
    int scales = nf4 ? tiles * q->n_segments * OUTPUTS * SCALES * 4 : 0, most = cu_of(b)->max_shared - 1024;
    q->stage_bytes = q->n_segments * (x_bytes(q->groups * q->n8, q->columns) + (w > wa ? w : wa));
    int good = most / (tiles > 1 ? 3 : 2); /* blocks an SM */
    if (good < 30 << 10) good = 30 << 10;
    if (good > most) good = most;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < 5; i++) {
            q->stages = counts[i];
            q->bytes = q->stages * q->stage_bytes + scales;
            if (q->bytes <= (pass ? most : good) && (pass || q->stages > 2)) return true;
        }
    return false;
}

/* Whether and how: a block has several tiles where there are enough for all SMs, and x is read less often then. */
static bool plan(const mr_backend *b, few_plan *q, int64_t n_out, int64_t k, int n_rows, bool nf4, bool a) {
    int n8 = (n_rows + 7) / 8;
    q->n_segments = (int)((k + CU_K_SEGMENT - 1) / CU_K_SEGMENT);
    if (n_rows > CU_FEW_ROWS || q->n_segments > MAX_SEGMENTS) return false;
    int tiles = (n_out + OUTPUTS - 1) / OUTPUTS >= 4 * cu_of(b)->n_sm ? 4 : 1;
    while (tiles > 1 && !lay_out(b, q, n8, nf4, a, tiles)) tiles /= 2;
    return lay_out(b, q, n8, nf4, a, tiles);
}

bool cu_few_fits(const mr_backend *b, const mr_weight *w, const mr_linear *lora, int n_rows) {
    if (n_rows > CU_FEW_ROWS || w->compute == MR_F32) return false;
    if (w->store == MR_NF4 && !w->nf4.tiled) return false;
    if (cu_joined_fits(b, w, n_rows) && (w->store == MR_NF4 || (lora && lora->n_lora))) return false; /* reading 16 bits takes less time for so many */
    if (w->store != MR_NF4 && n_rows >= CU_LT_ROWS && !(lora && lora->n_lora)) return false; /* one product: the library's is faster */
    for (int i = 0; lora && i < lora->n_lora; i++)
        if (lora->lora[i].row0 % OUTPUTS || lora->lora[i].rows % OUTPUTS || lora->lora[i].b->compute != w->compute) return false;
    few_plan q;
    return plan(b, &q, w->n_out, w->n_in, n_rows, w->store == MR_NF4, lora && lora->n_lora);
}

template <int T, bool NF4, int N8, int C>
static void launch(mr_backend *b, const char *op, const few_product *p, const few_product *a, const few_plan *q) {
    auto kernel = few_kernel<T, NF4, N8, C>;
    LAUNCH_EARLY(b, op, kernel, q->blocks, q->n_segments * q->tiles * q->warps * 32, q->bytes, *p, a ? *a : *p, *q);
}

template <int T, bool NF4>
static void launch_rows(mr_backend *b, const char *op, const few_product *p, const few_product *a, const few_plan *q) {
    switch (q->n8 * 1000 + q->columns) {
    case 1128: launch<T, NF4, 1, 128>(b, op, p, a, q); break;
    case 2128: launch<T, NF4, 2, 128>(b, op, p, a, q); break;
    case 2064: launch<T, NF4, 2, 64>(b, op, p, a, q); break;
    case 4064: launch<T, NF4, 4, 64>(b, op, p, a, q); break;
    default: launch<T, NF4, 6, 64>(b, op, p, a, q);
    }
}

void cu_few(mr_backend *b, const char *op, const few_product *p, const few_product *a) {
    if (p->n_rows <= 0 || cu_failed(b)) return;
    bool nf4 = p->w.store == MR_NF4;
    few_plan q;
    if (cu_few_sm75(b, op, NULL, p, a)) return;
    if (nf4 ? cu_wide(b, op, p, a) || cu_few_nf4(b, op, p, a) : cu_half_wide(b, op, NULL, p, a, true) || cu_few_half(b, op, NULL, p, a)) return;
    if (!plan(b, &q, p->n_out, p->w.n_in, p->n_rows, nf4, a != NULL)) return; /* cu_few_fits has said that it does */
    int64_t tiles = (p->n_out + OUTPUTS - 1) / OUTPUTS, a_tiles = a ? (a->n_out + OUTPUTS - 1) / OUTPUTS : 0;
    q.aligned = (uintptr_t)p->x % 16 == 0 && p->ldx % 4 == 0;
    q.a_blocks = (int)((a_tiles + q.a_tiles - 1) / q.a_tiles);
    q.blocks = q.a_blocks + (int)((tiles + q.tiles - 1) / q.tiles);
    q.ready = cu_of(b)->ready;
    if (p->w.compute == MR_F16) {
        if (nf4)
            launch_rows<F16, true>(b, op, p, a, &q);
        else
            launch_rows<F16, false>(b, op, p, a, &q);
    } else {
        if (nf4)
            launch_rows<BF16, true>(b, op, p, a, &q);
        else
            launch_rows<BF16, false>(b, op, p, a, &q);
    }
}
