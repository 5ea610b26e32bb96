/* few.cu - products of few rows (decoding): gemm.cuh.
 *
 * A block makes 16 outputs (32 of wide layers, so that x is read half as often) for all rows. The weight is the 16-row operand
 * of mma, rows of x are its 8 columns, so a batch of 6 wastes little. Each segment of K has `warps` warps, which in a round
 * fetch 64 columns each: codes (or 16-bit values) become operands in shared memory, and one warp for each 8 rows of x runs the
 * chain over the round's columns while the others fetch the next. Two buffers, one barrier a round. */
#include "cuda/gemm.cuh"

enum { OUTPUTS = 16, COLUMNS = 64, MAX_SEGMENTS = 8, X_PAD = 8, WIDE = 8192 };

/* Words of shared memory that a segment takes: two buffers of operands (16 registers x 32 lanes a warp) and of x. */
static __host__ __device__ inline int operand_words(int warps, int tiles) { return warps * tiles * 16 * 32; }
static __host__ __device__ inline int x_stride(int warps) { return warps * COLUMNS + X_PAD; } /* in 16-bit values */
static __host__ __device__ inline int x_words(int warps, int n8) { return n8 * 8 * x_stride(warps) / 2; }
static __host__ __device__ inline int segment_words(int warps, int tiles, int n8) {
    return 2 * (operand_words(warps, tiles) + x_words(warps, n8));
}

/* 64 columns of 16 rows, as this lane's operands of four steps: to[step * 32 + lane]. */
template <int T>
__device__ static void fetch_nf4(uint4 *to, const weight_view &w, const float *values, int64_t row0, int64_t k, int lane) {
    int64_t blocks = w.n_in / 64, tile = row0 / 16 * blocks + k / 64;
    uint4 c = *(const uint4 *)(w.codes + tile * 512 + lane * 16);
    float low = nf4_scale(w, (row0 + lane / 4) * blocks + k / 64), high = nf4_scale(w, (row0 + lane / 4 + 8) * blocks + k / 64);
    uint32_t lows[2] = { c.x, c.y }, highs[2] = { c.z, c.w };
#pragma unroll
    for (int s = 0; s < 4; s++) {
        uint32_t l = lows[s / 2] >> 16 * (s % 2), h = highs[s / 2] >> 16 * (s % 2);
        uint4 r;
        r.x = pack2<T>(values[l >> 4 & 15] * low, values[l & 15] * low);
        r.y = pack2<T>(values[h >> 4 & 15] * high, values[h & 15] * high);
        r.z = pack2<T>(values[l >> 12 & 15] * low, values[l >> 8 & 15] * low);
        r.w = pack2<T>(values[h >> 12 & 15] * high, values[h >> 8 & 15] * high);
        to[s * 32 + lane] = r;
    }
}

/* Rows of 16-bit values; ld is a multiple of 8, zero behind the last column. */
__device__ inline uint32_t pair_at(const u16 *w, int64_t ld, int64_t n_rows, int64_t row, int64_t k) {
    return row < n_rows && k < ld ? *(const uint32_t *)(w + row * ld + k) : 0;
}

__device__ static void fetch_half(uint4 *to, const weight_view &w, int64_t n_out, int64_t row0, int64_t k, int lane) {
    const u16 *data = (const u16 *)w.data;
    int64_t row = row0 + lane / 4;
#pragma unroll
    for (int s = 0; s < 4; s++) {
        int64_t at = k + s * 16 + lane % 4 * 2;
        uint4 r;
        r.x = pair_at(data, w.ld, n_out, row, at);
        r.y = pair_at(data, w.ld, n_out, row + 8, at);
        r.z = pair_at(data, w.ld, n_out, row, at + 8);
        r.w = pair_at(data, w.ld, n_out, row + 8, at + 8);
        to[s * 32 + lane] = r;
    }
}

template <int T> __device__ inline uint32_t x_pair(const float *x, int64_t k, int64_t n) {
    return pack2<T>(k < n ? x[k] : 0.0f, k + 1 < n ? x[k + 1] : 0.0f);
}

/* LoRA's chain for these 16 outputs and 8 rows. */
template <int T>
__device__ static void add_part(float acc[4], const few_product &p, const few_part &part, int64_t row0, int row8, int lane) {
    int row = row8 * 8 + lane / 4;
    const float *u = part.u + (row < p.n_rows ? row : 0) * p.ldu;
    for (int k = 0; k < part.r; k += 16) {
        uint32_t a[4], b[2];
        int at = k + lane % 4 * 2;
        int64_t r = row0 - part.row0 + lane / 4;
        a[0] = pair_at(part.b, part.ldb, part.rows, r, at);
        a[1] = pair_at(part.b, part.ldb, part.rows, r + 8, at);
        a[2] = pair_at(part.b, part.ldb, part.rows, r, at + 8);
        a[3] = pair_at(part.b, part.ldb, part.rows, r + 8, at + 8);
        b[0] = row < p.n_rows ? x_pair<T>(u, at, part.r) : 0;
        b[1] = row < p.n_rows ? x_pair<T>(u, at + 8, part.r) : 0;
        mma16<T>(acc, a, b);
    }
}

template <int T, bool NF4, int TILES> __global__ static void few_kernel(few_product p, int warps, int n_segments, int n8) {
    SHARED_BYTES(bytes);
    __shared__ float values[16];
    int tid = threadIdx.x, lane = tid % 32, segment = tid / 32 / warps, warp = tid / 32 % warps;
    int in_segment = tid % (32 * warps), stride = x_stride(warps);
    uint32_t *words = (uint32_t *)bytes, *mine = words + segment * segment_words(warps, TILES, n8);
    int64_t row0 = (int64_t)blockIdx.x * OUTPUTS * TILES, K = p.w.n_in;
    int64_t k0 = (int64_t)segment * CU_K_SEGMENT, k1 = K - k0 < CU_K_SEGMENT ? K : k0 + CU_K_SEGMENT;
    int64_t longest = n_segments > 1 ? (int64_t)CU_K_SEGMENT : K;
    int rounds = (int)((longest + warps * COLUMNS - 1) / (warps * COLUMNS));
    if (tid < 16) values[tid] = p.w.tables[CU_NF4 + tid];
    __syncthreads();

    float acc[2][TILES][4]; /* rows 8 * warp and 8 * (warp + warps) */
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int q = 0; q < 4; q++) acc[j][t][q] = 0.0f;
    for (int round = 0; round < rounds; round++) {
        uint32_t *operands = mine + round % 2 * operand_words(warps, TILES);
        u16 *xs = (u16 *)(mine + 2 * operand_words(warps, TILES) + round % 2 * x_words(warps, n8));
        int64_t start = k0 + (int64_t)round * warps * COLUMNS, k = start + warp * COLUMNS;
        if (k < k1)
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                int64_t row = row0 + t * OUTPUTS;
                uint4 *to = (uint4 *)operands + (warp * TILES + t) * 128;
                if (row >= p.n_out) continue;
                if (NF4)
                    fetch_nf4<T>(to, p.w, values, row, k, lane);
                else
                    fetch_half(to, p.w, p.n_out, row, k, lane);
            }
        int pairs = warps * COLUMNS / 2;
        for (int i = in_segment; i < p.n_rows * pairs; i += 32 * warps) {
            int r = i / pairs, c = i % pairs * 2;
            *(uint32_t *)(xs + r * stride + c) = x_pair<T>(p.x + r * p.ldx, start + c, k1);
        }
        __syncthreads();
#pragma unroll
        for (int j = 0; j < 2; j++) {
            int row8 = warp + j * warps, row = row8 * 8 + lane / 4;
            if (row8 >= n8) continue;
            const u16 *from = xs + (row < p.n_rows ? row : 0) * stride + lane % 4 * 2;
            for (int w = 0; w < warps && start + w * COLUMNS < k1; w++)
#pragma unroll
                for (int s = 0; s < 4; s++) {
                    uint32_t b[2];
                    const u16 *at = from + w * COLUMNS + s * 16;
                    b[0] = row < p.n_rows ? *(const uint32_t *)at : 0;
                    b[1] = row < p.n_rows ? *(const uint32_t *)(at + 8) : 0;
#pragma unroll
                    for (int t = 0; t < TILES; t++) {
                        uint4 v = ((const uint4 *)operands)[(w * TILES + t) * 128 + s * 32 + lane];
                        uint32_t a[4] = { v.x, v.y, v.z, v.w };
                        mma16<T>(acc[j][t], a, b); /* of a tile behind the last output: never looked at */
                    }
                }
        }
    }

    /* the segments' sums, in order; then bias and LoRA, by the first segment's warps */
    __syncthreads();
    float *sums = (float *)words;
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int q = 0; q < 4; q++)
                if (warp + j * warps < n8)
                    sums[(((segment * n8 + warp + j * warps) * TILES + t) * 4 + q) * 32 + lane] = acc[j][t][q];
    __syncthreads();
    if (segment > 0) return;
    for (int row8 = warp; row8 < n8; row8 += warps)
        for (int t = 0; t < TILES; t++) {
            int64_t tile0 = row0 + t * OUTPUTS;
            if (tile0 >= p.n_out) continue;
            float v[4];
#pragma unroll
            for (int q = 0; q < 4; q++) {
                int64_t o = tile0 + lane / 4 + q / 2 * 8;
                int row = row8 * 8 + lane % 4 * 2 + q % 2;
                bool have = o < p.n_out && row < p.n_rows;
                v[q] = sums[((row8 * TILES + t) * 4 + q) * 32 + lane];
                if (p.add && have) v[q] = v[q] + p.y[row * p.ldy + o];
                for (int s = 1; s < n_segments; s++) v[q] += sums[(((s * n8 + row8) * TILES + t) * 4 + q) * 32 + lane];
                if (p.bias && have) v[q] += p.bias[o];
            }
            for (int i = 0; i < p.n_parts; i++) {
                if (tile0 < p.part[i].row0 || tile0 >= p.part[i].row0 + p.part[i].rows) continue;
                float more[4] = { 0, 0, 0, 0 };
                add_part<T>(more, p, p.part[i], tile0, row8, lane);
#pragma unroll
                for (int q = 0; q < 4; q++) v[q] = fmaf(p.part[i].scale, more[q], v[q]);
            }
#pragma unroll
            for (int q = 0; q < 4; q++) {
                int64_t o = tile0 + lane / 4 + q / 2 * 8;
                int row = row8 * 8 + lane % 4 * 2 + q % 2;
                if (o < p.n_out && row < p.n_rows) p.y[row * p.ldy + o] = v[q];
            }
        }
}

/* Warps of a segment: 4, or 2 where the shared memory or the block's size asks for it; 0: does not fit. */
static int choose_warps(const mr_backend *b, int64_t k, int n8, int tiles) {
    int n_segments = (int)((k + CU_K_SEGMENT - 1) / CU_K_SEGMENT);
    if (n_segments > MAX_SEGMENTS) return 0;
    for (int warps = 4; warps >= 2; warps -= 2)
        if (n8 <= 2 * warps && n_segments * warps <= 16 &&
            n_segments * segment_words(warps, tiles, n8) * 4 <= cu_of(b)->max_shared - 1024)
            return warps;
    return 0;
}

/* Tiles of 16 outputs of a block: two where there are blocks enough for the GPU anyway. */
static int choose_tiles(const mr_backend *b, int64_t n_out, int64_t k, int n8) {
    return n_out >= WIDE && choose_warps(b, k, n8, 2) == 4 ? 2 : 1;
}

bool cu_few_fits(const mr_backend *b, const mr_weight *w, const mr_linear *lora, int n_rows) {
    if (n_rows > CU_FEW_ROWS || w->compute == MR_F32) return false;
    if (w->store == MR_NF4 && !w->nf4.tiled) return false;
    for (int i = 0; lora && i < lora->n_lora; i++)
        if (lora->lora[i].row0 % OUTPUTS || lora->lora[i].rows % OUTPUTS || lora->lora[i].b->compute != w->compute) return false;
    return choose_warps(b, w->n_in, (n_rows + 7) / 8, 1) > 0;
}

template <int T, bool NF4, int TILES> static void launch(mr_backend *b, const char *op, const few_product *p) {
    int n8 = (p->n_rows + 7) / 8, warps = choose_warps(b, p->w.n_in, n8, TILES);
    int n_segments = (int)((p->w.n_in + CU_K_SEGMENT - 1) / CU_K_SEGMENT);
    int grid = (int)((p->n_out + OUTPUTS * TILES - 1) / (OUTPUTS * TILES));
    auto kernel = few_kernel<T, NF4, TILES>;
    LAUNCH(b, op, kernel, grid, n_segments * warps * 32, n_segments * segment_words(warps, TILES, n8) * 4, *p, warps, n_segments,
           n8);
}

template <int T, bool NF4> static void launch_tiles(mr_backend *b, const char *op, const few_product *p) {
    if (choose_tiles(b, p->n_out, p->w.n_in, (p->n_rows + 7) / 8) == 2)
        launch<T, NF4, 2>(b, op, p);
    else
        launch<T, NF4, 1>(b, op, p);
}

void cu_few(mr_backend *b, const char *op, const few_product *p) {
    if (p->n_rows <= 0 || cu_failed(b)) return;
    bool nf4 = p->w.store == MR_NF4;
    if (p->w.compute == MR_F16) {
        if (nf4)
            launch_tiles<F16, true>(b, op, p);
        else
            launch_tiles<F16, false>(b, op, p);
    } else {
        if (nf4)
            launch_tiles<BF16, true>(b, op, p);
        else
            launch_tiles<BF16, false>(b, op, p);
    }
}
