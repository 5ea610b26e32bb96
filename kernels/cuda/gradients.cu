/* gradients.cu - gradients of weights: sums over rows (gemm.cuh, cu_tn).
 *
 * Order:   rows are cut into segments of SEGMENT by their place alone; a segment's sum begins at zero, and dst = fma(scale, sum, dst) for one
 *          after the other. Blocks have a tile and one segment (sums in scratch, added after) or a tile and all segments: the same bits.
 * Tensor:  an operand is the sum of two bf16, as in attention_split.cu: high * high + low * high + high * low in f32, in steps of 16 rows.
 *          What is left out is about 2^-17 of each product. Without bf16 (sm_75), and for products in f32: f32 throughout. A wider
 *          matrix that is there in 16 bits is an operand as it is.
 * Layout:  rows lie in shared memory as they come. A tile has LEFT columns of the wider matrix and RIGHT of the other. Which of a tile's
 *          columns is which row of an mma is free; so four neighbors of a lane are one load, and one store in the end. */
#include <assert.h>

#include "cuda/gemm.cuh"

enum { SEGMENT = 512, LEFT = 128, RIGHT = 64, ROWS = 16, STAGES = 4 };
/* Rows of 4 (mod 16) more values: lanes that read 4 values of 8 rows, or of rows 2 apart, meet all banks. */
enum { LD_LEFT = LEFT + 4, LD_RIGHT = RIGHT + 4, STAGE = ROWS * (LD_LEFT + LD_RIGHT) };
enum { LD_WIDE = LEFT + 8 }; /* of a left side in 16 bits, at the same place: rows of an odd number of 16 bytes for ldmatrix */

/* One product with its sides in the order that tiles have. dst and sums are dense in dst's own order. */
typedef struct task {
    const float *left, *right;
    const u16 *wide; /* left in 16 bits, ld_left apart too; NULL: f32 */
    int64_t ld_left, ld_right, n_left, n_right;
    float *dst;
    int64_t step_left, step_right; /* in dst */
    int64_t sums;                  /* where its sums begin among a segment's */
    float scale;
    int first, tiles_right; /* first: of its blocks */
} task;

typedef struct tasks {
    task t[CU_TN_MOST];
    int n;
    int64_t rows, segment; /* segment: the first of this launch */
    float *sums;           /* NULL: all segments, into dst */
    int64_t sums_each;     /* values a segment has there */
} tasks;

/* Four neighbors, of which n are there; zeros for the others. */
template <bool ALIGNED> __device__ inline void fetch4(float *to, const float *from, bool ok, int n) {
    if (ALIGNED) {
        copy16(to, from, ok && n > 0);
    } else {
        for (int i = 0; i < 4; i++) to[i] = ok && i < n ? from[i] : 0.0f;
    }
}

/* What a thread fetches of one side, WIDTH columns wide: four neighbors of every few rows. */
template <int THREADS, int WIDTH, bool ALIGNED> struct side {
    enum { IN_ROW = WIDTH / 4, STEP = THREADS / IN_ROW };
    const float *from;
    int64_t ld;
    int n; /* columns from this thread's first on */

    /* From row `row` and column `first` on. */
    __device__ side(const float *matrix, int64_t ld_, int64_t n_cols, int64_t row, int64_t first) {
        int64_t c = first + threadIdx.x % IN_ROW * 4;
        from = matrix + (row + threadIdx.x / IN_ROW) * ld_ + c;
        ld = ld_;
        n = n_cols - c < 4 ? (int)(n_cols - c) : 4;
    }
    /* The next ROWS rows, of which `rows` are there. */
    __device__ void fetch(float *to, int rows) {
        int r = threadIdx.x / IN_ROW;
        to += r * (WIDTH + 4) + threadIdx.x % IN_ROW * 4;
#pragma unroll
        for (int i = 0; i < ROWS; i += STEP) fetch4<ALIGNED>(to + i * (WIDTH + 4), from + i * ld, r + i < rows, n);
        from += ROWS * ld;
    }
};

/* Four neighbors of a result along the side whose step is 1: into the sums, or onto dst. n: how many are there. */
template <bool ALIGNED>
__device__ inline void put4(const tasks &w, const task &t, int64_t at, const float v[4], int64_t n) {
    float *to = w.sums ? w.sums + blockIdx.y * w.sums_each + t.sums + at : t.dst + at;
    if (ALIGNED) {
        float4 x = { v[0], v[1], v[2], v[3] };
        if (!w.sums) {
            float4 old = *(const float4 *)to;
            x.x = fmaf(t.scale, x.x, old.x), x.y = fmaf(t.scale, x.y, old.y);
            x.z = fmaf(t.scale, x.z, old.z), x.w = fmaf(t.scale, x.w, old.w);
        }
        *(float4 *)to = x;
    } else {
        for (int i = 0; i < 4 && i < n; i++) to[i] = w.sums ? v[i] : fmaf(t.scale, v[i], to[i]);
    }
}

/* 4 x 4 neighbors: block[l][r]. */
template <bool ALIGNED>
__device__ inline void put16(const tasks &w, const task &t, int64_t l, int64_t r, const float (*block)[4]) {
    if (l >= t.n_left || r >= t.n_right) return;
    for (int i = 0; i < 4; i++) {
        if (t.step_right == 1) {
            if (l + i < t.n_left) put4<ALIGNED>(w, t, (l + i) * t.step_left + r, block[i], t.n_right - r);
        } else if (r + i < t.n_right) {
            float v[4] = { block[0][i], block[1][i], block[2][i], block[3][i] };
            put4<ALIGNED>(w, t, (r + i) * t.step_right + l, v, t.n_left - l);
        }
    }
}

/* Four neighbors of the right side for one column of the left. */
template <bool ALIGNED> __device__ inline void put_row(const tasks &w, const task &t, int64_t l, int64_t r, const float v[4]) {
    if (l >= t.n_left || r >= t.n_right) return;
    int64_t at = l * t.step_left + r * t.step_right;
    if (t.step_right == 1) {
        put4<ALIGNED>(w, t, at, v, t.n_right - r);
    } else {
        for (int i = 0; i < 4 && r + i < t.n_right; i++) put4<false>(w, t, at + i * t.step_right, v + i, 1);
    }
}

/* The halves of two neighbors along the sum. */
__device__ inline void split2(uint32_t *hi, uint32_t *lo, float x, float y) {
    uint32_t h = pack2<BF16>(x, y);
    *hi = h;
    *lo = pack2<BF16>(x - __uint_as_float(h << 16), y - __uint_as_float(h & 0xffff0000u));
}

/* A warp has 64 x 32 of a tile, in 4 x 4 steps of mma. Row g + 8 h of the left operand's step 2 c + d is column 32 c + 4 g + 2 d + h of the
 * warp's, column g of the right one's step j is 4 g + j. */
struct tensor_sums {
    enum { THREADS = 128 };
    float sum[4][4][4];

    __device__ void clear() {
#pragma unroll
        for (int i = 0; i < 64; i++) sum[i / 16][i / 4 % 4][i % 4] = 0.0f;
    }
    /* Rows as they come in 16 bits. */
    __device__ static void fetch_wide(float *stage, const u16 *from, int64_t ld, int64_t n_cols, int rows) {
        enum { IN_ROW = LEFT / 8, STEP = THREADS / IN_ROW };
        int r = threadIdx.x / IN_ROW, c = threadIdx.x % IN_ROW * 8, left = c < n_cols ? rows - r : 0;
        u16 *to = (u16 *)stage + r * LD_WIDE + c;
        from += r * ld + c;
#pragma unroll
        for (int i = 0; i < ROWS; i += STEP) copy16(to + i * LD_WIDE, from + i * ld, i < left);
    }
    /* Row g + 8 h of the left operand's step i is column 16 i + g + 8 h of the warp's: ldmatrix turns them. */
    __device__ void add_wide(const float *stage) {
        int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, k = lane % 4 * 2;
        const u16 *left = (const u16 *)stage + (lane % 8 + lane / 16 * 8) * LD_WIDE + warp / 2 * 64 + lane / 8 % 2 * 8;
        const float *right = stage + ROWS * LD_LEFT + warp % 2 * 32 + g * 4;
        uint32_t a[4][4], bh[4][2], bl[4][2];
#pragma unroll
        for (int i = 0; i < 4; i++) load_transposed(a[i], left + 16 * i);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float4 x = *(const float4 *)(right + (k + 8 * half) * LD_RIGHT),
                   y = *(const float4 *)(right + (k + 8 * half + 1) * LD_RIGHT);
            split2(&bh[0][half], &bl[0][half], x.x, y.x), split2(&bh[1][half], &bl[1][half], x.y, y.y);
            split2(&bh[2][half], &bl[2][half], x.z, y.z), split2(&bh[3][half], &bl[3][half], x.w, y.w);
        }
#pragma unroll
        for (int low = 0; low < 2; low++)
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) mma16<BF16>(sum[i][j], a[i], low ? bl[j] : bh[j]);
    }
    template <bool ALIGNED> __device__ void put_wide(const tasks &w, const task &t, int64_t l0, int64_t r0) {
        int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int c = 0; c < 4; c++) {
                float v[4] = { sum[i][0][c], sum[i][1][c], sum[i][2][c], sum[i][3][c] };
                put_row<ALIGNED>(w, t, l0 + warp / 2 * 64 + 16 * i + lane / 4 + c / 2 * 8,
                                 r0 + warp % 2 * 32 + (lane % 4 * 2 + c % 2) * 4, v);
            }
    }
    __device__ void add(const float *stage) {
        int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, k = lane % 4 * 2;
        const float *left = stage + warp / 2 * 64 + g * 4, *right = stage + ROWS * LD_LEFT + warp % 2 * 32 + g * 4;
        uint32_t ah[4][4], al[4][4], bh[4][2], bl[4][2];
#pragma unroll
        for (int half = 0; half < 2; half++) { /* rows k, k + 1; k + 8, k + 9 */
            float4 x = *(const float4 *)(right + (k + 8 * half) * LD_RIGHT),
                   y = *(const float4 *)(right + (k + 8 * half + 1) * LD_RIGHT);
            split2(&bh[0][half], &bl[0][half], x.x, y.x), split2(&bh[1][half], &bl[1][half], x.y, y.y);
            split2(&bh[2][half], &bl[2][half], x.z, y.z), split2(&bh[3][half], &bl[3][half], x.w, y.w);
#pragma unroll
            for (int c = 0; c < 2; c++) {
                x = *(const float4 *)(left + (k + 8 * half) * LD_LEFT + c * 32);
                y = *(const float4 *)(left + (k + 8 * half + 1) * LD_LEFT + c * 32);
                split2(&ah[2 * c][2 * half], &al[2 * c][2 * half], x.x, y.x);
                split2(&ah[2 * c][2 * half + 1], &al[2 * c][2 * half + 1], x.y, y.y);
                split2(&ah[2 * c + 1][2 * half], &al[2 * c + 1][2 * half], x.z, y.z);
                split2(&ah[2 * c + 1][2 * half + 1], &al[2 * c + 1][2 * half + 1], x.w, y.w);
            }
        }
#pragma unroll
        for (int product = 0; product < 3; product++)
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    mma16<BF16>(sum[i][j], product == 1 ? al[i] : ah[i], product == 2 ? bl[j] : bh[j]);
    }
    template <bool ALIGNED> __device__ void put(const tasks &w, const task &t, int64_t l0, int64_t r0) {
        int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
        for (int c = 0; c < 2; c++)
#pragma unroll
            for (int q = 0; q < 2; q++) {
                float block[4][4];
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++) block[i][j] = sum[2 * c + i / 2][j][i % 2 * 2 + q];
                put16<ALIGNED>(w, t, l0 + warp / 2 * 64 + c * 32 + lane / 4 * 4,
                               r0 + warp % 2 * 32 + (lane % 4 * 2 + q) * 4, block);
            }
    }
};

/* A thread has 8 x 4 of a tile. T: the type of what is in 16 bits. */
template <int T> struct f32_sums {
    enum { THREADS = 256 };
    float sum[2][4][4];

    /* Rows as f32. */
    __device__ static void fetch_wide(float *stage, const u16 *from, int64_t ld, int64_t n_cols, int rows) {
        for (int i = threadIdx.x; i < ROWS * LEFT / 2; i += THREADS) {
            int r = i / (LEFT / 2), c = i % (LEFT / 2) * 2;
            uint32_t two = r < rows && c < n_cols ? *(const uint32_t *)(from + r * ld + c) : 0u;
            stage[r * LD_LEFT + c] = from_half<T>((u16)two), stage[r * LD_LEFT + c + 1] = from_half<T>((u16)(two >> 16));
        }
    }

    __device__ void clear() {
#pragma unroll
        for (int i = 0; i < 32; i++) sum[i / 16][i / 4 % 4][i % 4] = 0.0f;
    }
    __device__ void add(const float *stage) {
        const float *left = stage + threadIdx.x / 16 * 4, *right = stage + ROWS * LD_LEFT + threadIdx.x % 16 * 4;
#pragma unroll
        for (int k = 0; k < ROWS; k++) {
            float4 b = *(const float4 *)(right + k * LD_RIGHT);
            float y[4] = { b.x, b.y, b.z, b.w };
#pragma unroll
            for (int c = 0; c < 2; c++) {
                float4 a = *(const float4 *)(left + k * LD_LEFT + c * 64);
                float x[4] = { a.x, a.y, a.z, a.w };
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++) sum[c][i][j] = fmaf(x[i], y[j], sum[c][i][j]);
            }
        }
    }
    template <bool ALIGNED> __device__ void put(const tasks &w, const task &t, int64_t l0, int64_t r0) {
#pragma unroll
        for (int c = 0; c < 2; c++)
            put16<ALIGNED>(w, t, l0 + c * 64 + threadIdx.x / 16 * 4, r0 + threadIdx.x % 16 * 4, sum[c]);
    }
    __device__ void add_wide(const float *stage) { add(stage); }
    template <bool ALIGNED> __device__ void put_wide(const tasks &w, const task &t, int64_t l0, int64_t r0) { put<ALIGNED>(w, t, l0, r0); }
};

/* All segments of a block: w.rows of them from n on, or one. */
template <typename SUMS, bool ALIGNED, bool WIDE> __device__ inline void tn_tile(const tasks &w, const task &t, float *shared) {
    int tile = (int)blockIdx.x - t.first;
    int64_t l0 = (int64_t)(tile / t.tiles_right) * LEFT, r0 = (int64_t)(tile % t.tiles_right) * RIGHT;
    int64_t n = (w.segment + blockIdx.y) * SEGMENT;
    side<SUMS::THREADS, LEFT, ALIGNED> left(t.left, t.ld_left, t.n_left, n, l0);
    side<SUMS::THREADS, RIGHT, ALIGNED> right(t.right, t.ld_right, t.n_right, n, r0);
    do {
        int rows = w.rows - n < SEGMENT ? (int)(w.rows - n) : (int)SEGMENT, steps = (rows + ROWS - 1) / ROWS;
        SUMS sums;
        sums.clear();
        auto fetch = [&](int s) {
            float *stage = shared + s % STAGES * STAGE;
            if (s < steps) {
                if (WIDE)
                    SUMS::fetch_wide(stage, t.wide + (n + s * ROWS) * t.ld_left + l0, t.ld_left, t.n_left - l0, rows - s * ROWS);
                else
                    left.fetch(stage, rows - s * ROWS);
                right.fetch(stage + ROWS * LD_LEFT, rows - s * ROWS);
            }
            copy_commit();
        };
        for (int s = 0; s < STAGES - 1; s++) fetch(s);
        for (int s = 0; s < steps; s++) {
            copy_wait<STAGES - 2>();
            __syncthreads();
            fetch(s + STAGES - 1);
            if (WIDE)
                sums.add_wide(shared + s % STAGES * STAGE);
            else
                sums.add(shared + s % STAGES * STAGE);
        }
        if (WIDE)
            sums.template put_wide<ALIGNED>(w, t, l0, r0);
        else
            sums.template put<ALIGNED>(w, t, l0, r0);
        n += SEGMENT;    /* whole segments only have others after them, and they are whole steps */
        __syncthreads(); /* the next one's first rows come where the last ones were */
    } while (!w.sums && n < w.rows);
}

template <typename SUMS, bool ALIGNED>
__global__ static void __launch_bounds__(SUMS::THREADS, SUMS::THREADS == 128 ? 3 : 2) tn_kernel(tasks w) {
    SHARED_BYTES(bytes);
    float *shared = (float *)bytes;
    int k = w.n - 1;
    while (k && (int)blockIdx.x < w.t[k].first) k--;
    const task &t = w.t[k];
    if (t.wide)
        tn_tile<SUMS, ALIGNED, true>(w, t, shared);
    else
        tn_tile<SUMS, ALIGNED, false>(w, t, shared);
}

/* The sums of n_segments segments, in order. */
__global__ static void tn_add_kernel(tasks w, int n_segments) {
    int64_t at = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (at >= w.sums_each) return;
    int k = w.n - 1;
    while (k && at < w.t[k].sums) k--;
    const task &t = w.t[k];
    float *dst = t.dst + (at - t.sums), v = *dst;
    for (int s = 0; s < n_segments; s++) v = fmaf(t.scale, w.sums[s * w.sums_each + at], v);
    *dst = v;
}

template <typename SUMS, bool ALIGNED>
static void launch(mr_backend *b, const char *op, const tasks &w, int tiles, int segments) {
    auto kernel = tn_kernel<SUMS, ALIGNED>;
    LAUNCH(b, op, kernel, dim3((unsigned)tiles, (unsigned)segments), SUMS::THREADS, STAGES * STAGE * (int)sizeof(float),
           w);
}

static bool aligned(const void *p, int64_t ld, int64_t n) {
    return (uintptr_t)p % 16 == 0 && ld % 4 == 0 && n % 4 == 0;
}

void cu_tn(mr_backend *b, const char *op, const tn_product *p, int n_products, int64_t n, int type, bool exact) {
    if (cu_failed(b) || n_products == 0 || n <= 0) return;
    assert(n_products <= CU_TN_MOST);
    tasks w = {};
    bool even = true, wide = false, tensor = !exact && b->has_bf16;
    int tiles = 0;
    for (int i = 0; i < n_products; i++) {
        const tn_product *x = &p[i];
        bool turn = x->n_p < x->n_q;
        task *t = &w.t[w.n++];
        t->left = turn ? x->x : x->a, t->ld_left = turn ? x->ldx : x->lda, t->n_left = turn ? x->n_q : x->n_p;
        t->right = turn ? x->a : x->x, t->ld_right = turn ? x->lda : x->ldx, t->n_right = turn ? x->n_p : x->n_q;
        if ((t->wide = x->wide)) t->ld_left = x->ld_wide, wide = true;
        assert(!x->wide || (x->ld_wide % 8 == 0 && t->n_left % 8 == 0 && (uintptr_t)x->wide % 16 == 0));
        t->dst = x->dst, t->step_left = turn ? 1 : x->n_q, t->step_right = turn ? x->n_q : 1;
        t->scale = x->scale, t->sums = w.sums_each, t->first = tiles;
        t->tiles_right = (int)((t->n_right + RIGHT - 1) / RIGHT);
        tiles += t->tiles_right * (int)((t->n_left + LEFT - 1) / LEFT);
        w.sums_each += x->n_p * x->n_q;
        even = even && (t->wide || aligned(t->left, t->ld_left, t->n_left)) && aligned(t->right, t->ld_right, t->n_right) &&
               aligned(t->dst, 4, 4);
    }
    w.rows = n;
    int64_t segments = (n + SEGMENT - 1) / SEGMENT, fit = CU_ATT_BYTES / (int64_t)sizeof(float) / w.sums_each,
            most = segments;
    if (segments == 1 || fit == 0 || tiles >= 8 * cu_of(b)->n_sm) {
        segments = most = 1; /* one launch, in which a block has all of its rows */
    } else {
        w.sums = (float *)cu_scratch(b, op, CU_SLOT_ATT, CU_ATT_BYTES);
        if (!w.sums) return;
        if (most > fit) most = fit;
    }
    for (; w.segment < segments; w.segment += most) {
        int here = (int)(segments - w.segment < most ? segments - w.segment : most);
        if (tensor && !(wide && type == F16)) {
            if (even)
                launch<tensor_sums, true>(b, op, w, tiles, here);
            else
                launch<tensor_sums, false>(b, op, w, tiles, here);
        } else if (type == F16) {
            if (even)
                launch<f32_sums<F16>, true>(b, op, w, tiles, here);
            else
                launch<f32_sums<F16>, false>(b, op, w, tiles, here);
        } else {
            if (even)
                launch<f32_sums<BF16>, true>(b, op, w, tiles, here);
            else
                launch<f32_sums<BF16>, false>(b, op, w, tiles, here);
        }
        if (w.sums) LAUNCH(b, op, tn_add_kernel, (int)((w.sums_each + 255) / 256), 256, 0, w, here);
    }
}
