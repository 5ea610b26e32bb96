/* gradients.cu - gradients of weights: sums over rows (gemm.cuh, cu_tn).
 *
 * Order:   rows are cut into segments of SEGMENT by their place alone; a segment's sum begins at zero, and dst = fma(scale, sum, dst) for one
 *          after the other. Blocks have a tile and one segment, whose sums meet in scratch (the last of a tile's blocks to arrive adds them), or
 *          a tile and all segments: the same bits.
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

/* One product with its sides in the order that tiles have. dst is dense. */
typedef struct task {
    const float *left, *right;
    const u16 *wide; /* left in 16 bits, ld_left apart too; NULL: f32 */
    int64_t ld_left, ld_right, n_left, n_right;
    float *dst;
    int64_t step_left, step_right; /* in dst */
    float scale;
    int first, tiles_right; /* first: of its blocks */
} task;

typedef struct tasks {
    task t[CU_TN_MOST];
    int n;
    int64_t rows, segment; /* segment: the first of this launch */
    float4 *sums;          /* [segment][tile][LEFT * RIGHT values] in the order of threads; NULL: a block has all segments */
    int *arrived;          /* [tile]: zeros, and left as such */
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

/* Four neighbors of a result, from column l of a tile's left side and r of its right side on, along one of them. */
typedef struct run {
    int l, r;
    bool along_left;
} run;

/* Where a run is in dst: at, at + step, ...; n of four are there. */
typedef struct run_place {
    float *at;
    int64_t step;
    int n;
} run_place;

__device__ inline run_place place_of(const task &t, int64_t l0, int64_t r0, const run &x) {
    int64_t l = l0 + x.l, r = r0 + x.r, left = x.along_left ? t.n_left - l : t.n_right - r;
    run_place p = { t.dst + l * t.step_left + r * t.step_right, x.along_left ? t.step_left : t.step_right, left < 4 ? (int)left : 4 };
    if (l >= t.n_left || r >= t.n_right) p.n = 0;
    return p;
}

template <bool ALIGNED> __device__ inline void load_run(float v[4], const run_place &p) {
    if (ALIGNED && p.step == 1 && p.n > 0) {
        float4 x = *(const float4 *)p.at;
        v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = i < p.n ? p.at[i * p.step] : 0.0f;
    }
}
template <bool ALIGNED> __device__ inline void store_run(const float v[4], const run_place &p) {
    if (ALIGNED && p.step == 1 && p.n > 0) {
        *(float4 *)p.at = make_float4(v[0], v[1], v[2], v[3]);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (i < p.n) p.at[i * p.step] = v[i];
    }
}

/* 4 x 4 neighbors [l][r] as runs: along the right side, or (turned) the left. */
template <typename F> __device__ inline void runs_of(float (*v)[4], bool turned, F block) {
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) v[i][j] = turned ? block(j, i) : block(i, j);
}
__device__ inline run run_of(int l, int r, int i, bool turned) {
    run x = { turned ? l : l + i, turned ? r + i : r, turned };
    return x;
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
    enum { THREADS = 128, RUNS = LEFT * RIGHT / 4 / THREADS };
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
    /* The sums as runs. turned: along the left side, unless the left side is there in 16 bits. */
    template <bool WIDE> __device__ void runs(float (*v)[4], bool turned) const {
#pragma unroll
        for (int k = 0; k < RUNS; k += 4) {
            if (WIDE) {
#pragma unroll
                for (int c = 0; c < 4; c++)
#pragma unroll
                    for (int j = 0; j < 4; j++) v[k + c][j] = sum[k / 4][j][c];
            } else {
                runs_of(v + k, turned, [&](int l, int r) { return sum[k / 8 * 2 + l / 2][r][l % 2 * 2 + k / 4 % 2]; });
            }
        }
    }
    template <bool WIDE> __device__ static run run_at(int k, bool turned) {
        int lane = threadIdx.x % 32, warp = threadIdx.x / 32, l = warp / 2 * 64, r = warp % 2 * 32, i = k / 4, c = k % 4;
        if (WIDE) return run_of(l + 16 * i + lane / 4 + c / 2 * 8, r + (lane % 4 * 2 + c % 2) * 4, 0, false);
        return run_of(l + i / 2 * 32 + lane / 4 * 4, r + (lane % 4 * 2 + i % 2) * 4, c, turned);
    }
};

/* A thread has 8 x 4 of a tile. T: the type of what is in 16 bits. */
template <int T> struct f32_sums {
    enum { THREADS = 256, RUNS = LEFT * RIGHT / 4 / THREADS };
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
    __device__ void add_wide(const float *stage) { add(stage); }
    template <bool WIDE> __device__ void runs(float (*v)[4], bool turned) const {
#pragma unroll
        for (int k = 0; k < RUNS; k += 4) runs_of(v + k, turned, [&](int l, int r) { return sum[k / 4][l][r]; });
    }
    template <bool WIDE> __device__ static run run_at(int k, bool turned) {
        return run_of(k / 4 * 64 + threadIdx.x / 16 * 4, threadIdx.x % 16 * 4, k % 4, turned);
    }
};

/* Of one of a tile's segments: leaves its sums in scratch; whether it is the last of the tile's blocks, which then sees all of them. */
template <typename SUMS> __device__ inline bool leave_sums(const tasks &w, const float (*v)[4]) {
    __shared__ bool last;
    float4 *to = w.sums + (int64_t)(blockIdx.y * gridDim.x + blockIdx.x) * (LEFT * RIGHT / 4) + threadIdx.x;
#pragma unroll
    for (int k = 0; k < SUMS::RUNS; k++) to[k * SUMS::THREADS] = make_float4(v[k][0], v[k][1], v[k][2], v[k][3]);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(w.arrived + blockIdx.x, 1) == (int)gridDim.y - 1;
        if (last) w.arrived[blockIdx.x] = 0;
    }
    __syncthreads();
    __threadfence();
    return last;
}

/* dst = fma(scale, sums, dst) for n sums in order, a few runs at a time: part(s, k) has run k of sums s. Those of AHEAD sums are on their way
 * together, since at the end of a launch only these blocks are left; UNROLL 1, where runs are not in registers, keeps what is kept of them few. */
template <typename SUMS, bool ALIGNED, bool WIDE, int UNROLL, typename F>
__device__ inline void add_sums(const task &t, int64_t l0, int64_t r0, bool turned, int n, F part) {
    enum { EACH = SUMS::RUNS / 4, AHEAD = 7 };
#pragma unroll UNROLL
    for (int first = 0; first < SUMS::RUNS; first += EACH) {
        float to[EACH][4];
#pragma unroll
        for (int k = 0; k < EACH; k++) load_run<ALIGNED>(to[k], place_of(t, l0, r0, SUMS::template run_at<WIDE>(first + k, turned)));
#pragma unroll 1
        for (int s0 = 0; s0 < n; s0 += AHEAD) {
            float4 x[AHEAD][EACH];
#pragma unroll
            for (int a = 0; a < AHEAD; a++)
#pragma unroll
                for (int k = 0; k < EACH; k++) x[a][k] = part(s0 + a < n ? s0 + a : n - 1, first + k);
#pragma unroll
            for (int a = 0; a < AHEAD; a++)
#pragma unroll
                for (int k = 0; k < EACH; k++) {
                    if (s0 + a >= n) continue;
                    to[k][0] = fmaf(t.scale, x[a][k].x, to[k][0]), to[k][1] = fmaf(t.scale, x[a][k].y, to[k][1]);
                    to[k][2] = fmaf(t.scale, x[a][k].z, to[k][2]), to[k][3] = fmaf(t.scale, x[a][k].w, to[k][3]);
                }
        }
#pragma unroll
        for (int k = 0; k < EACH; k++) store_run<ALIGNED>(to[k], place_of(t, l0, r0, SUMS::template run_at<WIDE>(first + k, turned)));
    }
}

/* A block's sums to dst, or of one segment to scratch; the last block of a tile has those of all segments then. */
template <typename SUMS, bool ALIGNED, bool WIDE>
__device__ inline void put(const tasks &w, const task &t, int64_t l0, int64_t r0, const SUMS &sums) {
    bool turned = t.step_right != 1;
    float v[SUMS::RUNS][4];
    sums.template runs<WIDE>(v, turned);
    if (!w.sums) {
        add_sums<SUMS, ALIGNED, WIDE, 4>(t, l0, r0, turned, 1, [&](int, int k) { return make_float4(v[k][0], v[k][1], v[k][2], v[k][3]); });
    } else if (leave_sums<SUMS>(w, v)) {
        const float4 *from = w.sums + (int64_t)blockIdx.x * (LEFT * RIGHT / 4) + threadIdx.x;
        int64_t next = (int64_t)gridDim.x * (LEFT * RIGHT / 4);
        add_sums<SUMS, ALIGNED, WIDE, 1>(t, l0, r0, turned, (int)gridDim.y,
                                         [&](int s, int k) { return __ldcg(from + s * next + k * SUMS::THREADS); });
    }
}

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
        put<SUMS, ALIGNED, WIDE>(w, t, l0, r0, sums);
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
        t->scale = x->scale, t->first = tiles;
        t->tiles_right = (int)((t->n_right + RIGHT - 1) / RIGHT);
        tiles += t->tiles_right * (int)((t->n_left + LEFT - 1) / LEFT);
        even = even && (t->wide || aligned(t->left, t->ld_left, t->n_left)) && aligned(t->right, t->ld_right, t->n_right) &&
               aligned(t->dst, 4, 4);
    }
    w.rows = n;
    int64_t segments = (n + SEGMENT - 1) / SEGMENT, fit = CU_ATT_BYTES / (tiles * (int64_t)(LEFT * RIGHT * sizeof(float))), most = segments;
    if (segments == 1 || fit == 0 || tiles >= 8 * cu_of(b)->n_sm || tiles > CU_MOST_TILES) {
        segments = most = 1; /* one launch, in which a block has all of its rows */
    } else {
        w.sums = (float4 *)cu_scratch(b, op, CU_SLOT_ATT, CU_ATT_BYTES);
        w.arrived = cu_of(b)->ready + 2;
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
    }
}
