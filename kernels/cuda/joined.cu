/* joined.cu - a linear with LoRA for some dozens of rows (decoding many sequences, prompts): gemm.cuh.
 *
 * Products: x is converted once and multiplied with [w; a], whose rows lie behind each other in a weight's unpacked copy (weight_unpack) or
 *           in one that was made with room for them: y's and u's columns come side by side, in f32, to scratch. (A weight in 16 bits without
 *           room: two products.) Segments of K go to planes of their own, in one launch: few outputs alone would not go round the multiprocessors.
 * Finish:   one kernel adds the planes in order, bias, what y held and LoRA's second products, which are small and made on the way, and
 *           writes y; for gate and up silu(g) * up instead, in the 16 bits that the next product reads.
 * Bits:     those of linear, silu_mul and linear (gemm.cuh, order). */
#include <assert.h>

#include "cuda/gemm.cuh"
#include "cuda/lt.h"

/* A block's rows, its columns and u's at a time, and b's row stride in shared memory: an odd number of 16 bytes for ldmatrix. BUFFERS: of b's
 * tiles, of which all but one are on their way. */
enum { ROWS = 64, COLS = 32, INNER = 64, LD = INNER + 8, THREADS = ROWS / 16 * 32, BUFFERS = 3, ROW = CU_JOINED_ROWS };

typedef struct joined {
    const float *sums, *u_sums; /* planes of ROW rows; y's and u's columns side by side, or apart */
    int ld, ld_u, n_planes, N, O, F, R; /* F: of gate and up, else O */
    float *y, *u;             /* [N][O], [N][R] */
    u16 *act;                 /* [N][ld_act] instead of y and u, zero from F on */
    int ld_act;
    const float *bias;
    const float *onto;        /* what y adds to, in its rows; NULL: nothing */
    part_view part[CU_MOST_PARTS];
    int longest, tiles;       /* the largest of the parts' ranks; tiles of COLS columns that a block has, one after another */
} joined;

/* Four neighbors of a row in 16 bits. */
template <int T> __device__ inline void put_half4(u16 *to, float4 v) {
    uint2 two = { pack2<T>(v.x, v.y), pack2<T>(v.z, v.w) };
    *(uint2 *)to = two;
}

/* n groups of neighbors, each at place[i] or, below 0, none, as the planes' sums in order, added to v where `add`. PLANES: how many, all of
 * whose loads are on their way together; 0: n_planes, one after the other. */
template <int PLANES, int n, typename V>
__device__ inline void add_planes(V v[n], const int place[n], const float *sums, int ld, int n_planes, bool add) {
    enum { TOGETHER = PLANES ? PLANES : 1 };
    V part[TOGETHER][n];
#pragma unroll
    for (int p = 0; p < TOGETHER; p++)
#pragma unroll
        for (int i = 0; i < n; i++) part[p][i] = place[i] >= 0 ? *(const V *)(sums + (int64_t)p * ROW * ld + place[i]) : V{};
#pragma unroll
    for (int i = 0; i < n; i++) v[i] = add ? plus(v[i], part[0][i]) : part[0][i];
#pragma unroll
    for (int p = 1; p < TOGETHER; p++)
#pragma unroll
        for (int i = 0; i < n; i++) v[i] = plus(v[i], part[p][i]);
#pragma unroll 1
    for (int p = 1; !PLANES && p < n_planes; p++)
#pragma unroll
        for (int i = 0; i < n; i++) v[i] = plus(v[i], place[i] >= 0 ? *(const V *)(sums + (int64_t)p * ROW * ld + place[i]) : V{});
}

enum { TILES = COLS / 16, MINE = 2 * TILES, STEPS = INNER / 16 };

/* A lane's part of a tile from column n0 on: 4 neighbors of rows row and row + 8, of each 16 columns. Number i: of columns i / 2, row i % 2. */
__device__ inline int row_of(int i, int row) { return row + i % 2 * 8; }
__device__ inline int col_of(int i, int n0) { return n0 + (int)threadIdx.x % 4 * 4 + i / 2 * 16; }

template <int SIDES, int PLANES> __device__ inline void load_tile(float4 v[SIDES][MINE], const joined &w, int row, int n0) {
    int place[MINE];
#pragma unroll
    for (int s = 0; s < SIDES; s++) {
#pragma unroll
        for (int i = 0; i < MINE; i++) {
            bool there = row_of(i, row) < w.N;
            place[i] = there ? row_of(i, row) * w.ld + col_of(i, n0) + s * w.F : -1;
            if (SIDES == 1 && w.onto) v[s][i] = there ? *(const float4 *)(w.onto + row_of(i, row) * w.O + col_of(i, n0)) : float4{};
        }
        add_planes<PLANES, MINE>(v[s], place, w.sums, w.ld, w.n_planes, SIDES == 1 && w.onto);
    }
}

/* b of a tile, INNER of its columns from k0 on: zeros behind the part's rank. */
__device__ inline void fetch_b(u16 b[COLS][LD], const inner_view &p, int k0) {
    enum { A_ROW = INNER / 8, AT_ONCE = THREADS / A_ROW };
    int c = (int)threadIdx.x % A_ROW * 8;
    if (k0 >= p.r) return;
#pragma unroll
    for (int i = 0; i < COLS / AT_ONCE; i++) {
        int r = i * AT_ONCE + (int)threadIdx.x / A_ROW;
        copy16(&b[r][c], k0 + c < p.r ? p.b + r * p.ldb + k0 + c : p.b, k0 + c < p.r);
    }
}

/* u of a warp's 16 rows, columns k0 .. of the part's, as mma's left operand. give: u is linear's to give, too. */
template <int T, int PLANES> __device__ inline void load_inner(uint32_t a[STEPS][4], const joined &w, const inner_view &p, int row, int k0, bool give) {
    int place[4 * STEPS], c0 = k0 + (int)threadIdx.x % 4 * 2;
    float2 u[4 * STEPS];
#pragma unroll
    for (int i = 0; i < 4 * STEPS; i++) { /* number i % 4 of step i / 4 */
        int c = c0 + i / 4 * 16 + i % 4 / 2 * 8;
        place[i] = c < p.r && row_of(i, row) < w.N ? row_of(i, row) * w.ld_u + p.r0 + c : -1;
    }
    add_planes<PLANES, 4 * STEPS>(u, place, w.u_sums, w.ld_u, w.n_planes, false);
#pragma unroll
    for (int i = 0; i < 4 * STEPS; i++) {
        a[i / 4][i % 4] = pack2<T>(u[i].x, u[i].y);
        if (give && place[i] >= 0) *(float2 *)(w.u + row_of(i, row) * w.R + p.r0 + c0 + i / 4 * 16 + i % 4 / 2 * 8) = u[i];
    }
}

/* The columns behind F of a block's rows, by all blocks of these rows: the next product reads whole segments. */
__device__ inline void put_zeros(const joined &w) {
    int pad = (w.ld_act - w.F) / 8, m0 = blockIdx.y * ROWS;
    for (int i = blockIdx.x * THREADS + threadIdx.x; i < ROWS * pad; i += gridDim.x * THREADS)
        if (m0 + i / pad < w.N) *(uint4 *)(w.act + (m0 + i / pad) * w.ld_act + w.F + i % pad * 8) = make_uint4(0, 0, 0, 0);
}

/* silu(x) * up, exp_f32's bits in fewer steps where all four allow it. */
__device__ inline float4 silu_mul(float4 x, float4 up) {
    float4 e;
    if (x.x >= -88.0f && x.y >= -88.0f && x.z >= -88.0f && x.w >= -88.0f)
        e = make_float4(exp_below_88(-x.x), exp_below_88(-x.y), exp_below_88(-x.z), exp_below_88(-x.w));
    else
        e = make_float4(exp_f32(-x.x), exp_f32(-x.y), exp_f32(-x.z), exp_f32(-x.w));
    return make_float4(x.x / (1.0f + e.x) * up.x, x.y / (1.0f + e.y) * up.y, x.z / (1.0f + e.z) * up.z, x.w / (1.0f + e.w) * up.w);
}

/* Bias and LoRA's chain, then y, or silu and 16 bits. */
template <int T, int SIDES>
__device__ inline void finish_tile(float4 v[SIDES][MINE], float chain[SIDES][COLS / 8][4], const joined &w, const inner_view part[SIDES], int row, int n0) {
#pragma unroll
    for (int s = 0; s < SIDES; s++)
#pragma unroll
        for (int i = 0; i < MINE; i++) {
            float4 &x = v[s][i];
            float(*c)[4] = &chain[s][i / 2 * 2];
            int h = i % 2 * 2;
            if (w.bias) x = plus(x, *(const float4 *)(w.bias + col_of(i, n0) + s * w.F));
            if (!part[s].r) continue;
            x.x = fmaf(part[s].scale, c[0][h], x.x), x.y = fmaf(part[s].scale, c[0][h + 1], x.y);
            x.z = fmaf(part[s].scale, c[1][h], x.z), x.w = fmaf(part[s].scale, c[1][h + 1], x.w);
        }
#pragma unroll
    for (int i = 0; i < MINE; i++) {
        if (row_of(i, row) >= w.N) continue;
        float4 x = v[0][i], up = v[SIDES - 1][i];
        if (SIDES == 1)
            *(float4 *)(w.y + row_of(i, row) * w.O + col_of(i, n0)) = x;
        else
            put_half4<T>(w.act + row_of(i, row) * w.ld_act + col_of(i, n0), silu_mul(x, up));
    }
}

/* A place of a block's work: a tile's first column, INNER of LoRA's columns from k0 on, and b's buffer. */
typedef struct stage {
    int n0, k0, buffer;
} stage;
__device__ inline void go_on(stage &at, const joined &w) {
    at.buffer = at.buffer + 1 == BUFFERS ? 0 : at.buffer + 1;
    at.k0 += INNER;
    if (at.k0 >= w.longest) at.k0 = 0, at.n0 += COLS;
}

/* A block goes over tiles of its rows. A warp has 16 of the rows, whose u stays in registers from tile to tile where the rank is INNER or less,
 * and reads the next tile's sums while it finishes one. Which of 16 columns is which column of an mma is as in mlp.cu. SIDES = 2: gate and up. */
template <int T, int SIDES, int PLANES> __global__ static void __launch_bounds__(THREADS, SIDES == 2 ? 3 : 2) finish_kernel(joined w) {
    __shared__ u16 b[BUFFERS][SIDES][COLS][LD];
    int lane = threadIdx.x % 32, row = blockIdx.y * ROWS + threadIdx.x / 32 * 16 + lane / 4; /* all places fit into an int */
    int right = lane % 8 / 2 * 4 + lane % 2 + lane / 16 * 2, step = lane / 8 % 2 * 8;
    stage at = { (int)blockIdx.x * w.tiles * COLS, 0, 0 }, ahead = at;
    int end = at.n0 + w.tiles * COLS < w.F ? at.n0 + w.tiles * COLS : w.F;
    auto fetch = [&]() {
#pragma unroll
        for (int s = 0; s < SIDES; s++)
            if (ahead.n0 < end) fetch_b(b[ahead.buffer][s], inner_of(w.part, ahead.n0 + s * w.F), ahead.k0);
        copy_commit();
        go_on(ahead, w);
    };
#pragma unroll 1
    for (int i = 0; i < BUFFERS - 1; i++) fetch();
    follow();
    float4 v[SIDES][MINE], next[SIDES][MINE];
    float chain[SIDES][COLS / 8][4];
    uint32_t u[SIDES][STEPS][4];
    int u_of[SIDES]; /* the column of all u that it begins at; -1: none */
#pragma unroll
    for (int s = 0; s < SIDES; s++) u_of[s] = -1;
    load_tile<SIDES, PLANES>(v, w, row, at.n0);
#pragma unroll 1
    for (; at.n0 < end; go_on(at, w)) {
        bool last = at.k0 + INNER >= w.longest;
        inner_view part[SIDES];
#pragma unroll
        for (int s = 0; s < SIDES; s++) {
            part[s] = inner_of(w.part, at.n0 + s * w.F);
            if (at.k0 < part[s].r && u_of[s] != part[s].r0 + at.k0) {
                u_of[s] = part[s].r0 + at.k0;
                load_inner<T, PLANES>(u[s], w, part[s], row, at.k0, SIDES == 1 && part[s].first);
            }
#pragma unroll
            for (int j = 0; j < COLS / 8 * 4; j++)
                if (at.k0 == 0) chain[s][j / 4][j % 4] = 0.0f;
        }
        copy_wait<BUFFERS - 2>();
        __syncthreads();
        fetch(); /* into the buffer before: all have done with it */
        if (last && at.n0 + COLS < end) load_tile<SIDES, PLANES>(next, w, row, at.n0 + COLS);
#pragma unroll
        for (int s = 0; s < SIDES; s++)
#pragma unroll
            for (int k = 0; k < STEPS; k++) {
                if (at.k0 + k * 16 >= part[s].r) continue;
#pragma unroll
                for (int j = 0; j < TILES; j++) {
                    uint32_t right_side[4];
                    load_matrices(right_side, &b[at.buffer][s][j * 16 + right][k * 16 + step]);
                    mma16<T>(chain[s][2 * j], u[s][k], right_side), mma16<T>(chain[s][2 * j + 1], u[s][k], right_side + 2);
                }
            }
        if (!last) continue;
        finish_tile<T, SIDES>(v, chain, w, part, row, at.n0);
#pragma unroll
        for (int s = 0; s < SIDES; s++)
#pragma unroll
            for (int j = 0; j < MINE; j++) v[s][j] = next[s][j];
    }
    if (SIDES == 2) put_zeros(w);
}

/* --- host --- */

static int planes(const mr_backend *b, int64_t k) { return b->exact ? (int)((k + CU_K_SEGMENT - 1) / CU_K_SEGMENT) : 1; }

static size_t sums_bytes(int64_t n_planes, int64_t n_out, int64_t rank) { return (size_t)(n_planes * ROW * (n_out + rank)) * sizeof(float); }

/* The row stride of x in 16 bits: whole segments, where there are several. */
static int64_t x_stride(int64_t k, int n_planes) { return n_planes > 1 ? n_planes * (int64_t)CU_K_SEGMENT : k; }

void cu_joined_room(size_t need[], const mr_weight_info *w, int64_t n, int rank) {
    int64_t n_planes = (w->n_in + CU_K_SEGMENT - 1) / CU_K_SEGMENT, rows = n < (int64_t)CU_JOINED_ROWS ? n : (int64_t)CU_JOINED_ROWS;
    if (w->compute == MR_F32 || n < CU_JOINED_FROM_HALF || !rank) return;
    cu_at_least(&need[CU_SLOT_W2], sums_bytes(n_planes, w->n_out, rank));
    cu_at_least(&need[CU_SLOT_X], (size_t)(rows * x_stride(w->n_in, (int)n_planes)) * sizeof(u16));
}

/* Whether it could: where half_wide.cu serves, that is faster. */
static bool could(const mr_backend *b, const mr_weight *w, int n_rows) {
    if (cu_wide_fits(b, w, n_rows)) return false; /* codes are fewer bytes, and need no copy */
    int from = cu_of(b)->sm < 80 ? CU_FEW_ROWS + 1 : w->store == MR_NF4 ? (int)CU_JOINED_FROM : (int)CU_JOINED_FROM_HALF;
    return n_rows >= from && n_rows <= CU_JOINED_ROWS && w->compute != MR_F32 && (w->half || w->store == w->compute);
}
bool cu_joined_fits(const mr_backend *b, const mr_weight *w, int n_rows) {
    return could(b, w, n_rows) && !cu_half_wide_fits(b, w, n_rows);
}
static bool beside(mr_backend *b, const mr_linear *l) { return !l->w->half || cu_weight_join(b, l->w, l->a); }

/* By the layer and N, which say it for each call. */
static bool takes(const mr_backend *b, const mr_linear *l, int N, int64_t F) {
    const mr_weight *w = l->w;
    bool ok = could(b, w, N) && l->n_lora > 0 && l->n_lora <= CU_MOST_PARTS && w->n_out % COLS == 0 && F % COLS == 0 &&
              w->n_in % 8 == 0 && l->a->store == w->compute && l->a->compute == w->compute;
    int r = 0; /* each column of u is one part's, which gives it */
    for (int i = 0; ok && i < l->n_lora; i++) {
        const mr_lora_part *p = &l->lora[i];
        ok = p->row0 % COLS == 0 && p->rows % COLS == 0 && p->r % 8 == 0 && p->r0 == r && p->b->store == w->compute &&
             p->b->compute == w->compute;
        r += p->r;
    }
    return ok && r == l->r_total;
}

/* Rows in 16 bits times w[cols][ld] to the planes, of cols columns: all segments in one launch where the library takes them, else one each.
 * beyond: rows of w may be read a bit behind their end, so that the last segment is as long as the others: x is zero there, and what is
 * read of w is the next row, numbers that add zeros. (Sums begin at +0: zeros of either sign change no bit.) */
static void multiply(mr_backend *b, const char *op, float *sums, const u16 *x, const u16 *w, int64_t ldw, int64_t cols, const mr_weight *of, int N,
                     int n_planes, bool beyond) {
    int64_t k = n_planes > 1 ? (int64_t)CU_K_SEGMENT : of->n_in, at = 0;
    int type = half_type(of->compute), alike = beyond ? n_planes : (int)(of->n_in / k);
    dense_product p = { sums, cols, x, x_stride(of->n_in, n_planes), w, ldw, N, cols, k, false, NULL, 1.0f, NULL, false };
    if (alike > 1 && cu_dense_batch(b, op, type, &p, alike, ROW * cols)) at = alike;
    for (; at < n_planes; at++) {
        p.y = sums + at * ROW * cols, p.x = x + at * k, p.w = w + at * k, p.k = of->n_in - at * k < k ? of->n_in - at * k : k;
        cu_dense(b, op, type, &p);
    }
}

static joined joined_of(float *sums, const mr_linear *l, int N, int n_planes) {
    joined w = {};
    w.sums = sums, w.n_planes = n_planes, w.N = N, w.O = (int)l->w->n_out, w.F = w.O, w.R = l->r_total;
    w.ld = l->w->half ? w.O + w.R : w.O, w.ld_u = l->w->half ? w.ld : w.R;
    w.u_sums = l->w->half ? sums + w.O : sums + (int64_t)n_planes * ROW * w.O;
    w.bias = l->bias;
    parts_of(w.part, l);
    for (int i = 0; i < l->n_lora; i++)
        if (w.longest < l->lora[i].r) w.longest = l->lora[i].r;
    return w;
}

/* Blocks that run at once, by their registers, share the tiles evenly. */
template <int T, int SIDES, int PLANES> static void run_finish(mr_backend *b, const char *op, joined w) {
    int groups = (w.N + ROWS - 1) / ROWS, n_tiles = w.F / COLS, at_once = (SIDES == 2 ? 3 : 2) * cu_of(b)->n_sm / groups;
    if (at_once < 1) at_once = 1;
    w.tiles = (n_tiles + at_once - 1) / at_once;
    dim3 grid((unsigned)((n_tiles + w.tiles - 1) / w.tiles), (unsigned)groups);
    LAUNCH_EARLY(b, op, (finish_kernel<T, SIDES, PLANES>), grid, THREADS, 0, w);
}

template <int T> static void finish_type(mr_backend *b, const char *op, const joined &w, bool gated) {
    if (gated)
        run_finish<T, 2, 1>(b, op, w);
    else if (w.n_planes == 1)
        run_finish<T, 1, 1>(b, op, w);
    else if (w.n_planes == 2)
        run_finish<T, 1, 2>(b, op, w);
    else if (w.n_planes == 3)
        run_finish<T, 1, 3>(b, op, w);
    else
        run_finish<T, 1, 0>(b, op, w);
}

static void finish(mr_backend *b, const char *op, const joined &w, mr_dtype compute) {
    if (compute == MR_F16)
        finish_type<F16>(b, op, w, w.act != NULL);
    else
        finish_type<BF16>(b, op, w, w.act != NULL);
}

/* Sums of l for rows in 16 bits. NULL after a failure. */
static float *sums_of(mr_backend *b, const char *op, const u16 *x, const mr_linear *l, int N) {
    int n_planes = planes(b, l->w->n_in);
    float *sums = (float *)cu_scratch(b, op, CU_SLOT_W2, sums_bytes(n_planes, l->w->n_out, l->r_total));
    if (!sums) return NULL;
    cu_of(b)->unpacked[1] = NULL;
    const mr_weight *w = l->w, *a = l->a;
    if (w->half) {
        multiply(b, op, sums, x, w->half, w->ld, w->n_out + l->r_total, w, N, n_planes, w->ld == w->n_in);
    } else {
        multiply(b, op, sums, x, (const u16 *)w->data, w->ld, w->n_out, w, N, n_planes, false);
        multiply(b, op, sums + n_planes * ROW * w->n_out, x, (const u16 *)a->data, a->ld, l->r_total, w, N, n_planes, false);
    }
    return cu_failed(b) ? NULL : sums;
}

/* Of the operation before this one, or made now. */
static const u16 *half_of(mr_backend *b, const char *op, const float *x, const mr_weight *w, int N) {
    const u16 *there = cu_packed_found(b, x, N, w->n_in, w->compute, CU_PLAIN);
    if (there) return there;
    int64_t ld = x_stride(w->n_in, planes(b, w->n_in));
    u16 *rows = (u16 *)cu_scratch(b, op, CU_SLOT_X, (size_t)(N * ld) * sizeof(u16));
    if (rows) cu_to_half(b, op, half_type(w->compute), rows, ld, ld, x, w->n_in, N, w->n_in);
    return rows;
}

bool cu_joined_linear(mr_backend *b, float *y, float *u, const float *x, const mr_linear *l, int N, const float *onto) {
    const char *op = "linear";
    if (cu_half_wide_fits(b, l->w, N) || !takes(b, l, N, l->w->n_out) || !at16(y) || !at16(onto) || !at16(u) || !at16(l->bias) || !beside(b, l))
        return false;
    const u16 *rows = half_of(b, op, x, l->w, N);
    float *sums = rows ? sums_of(b, op, rows, l, N) : NULL;
    if (!sums) return true;
    joined w = joined_of(sums, l, N, planes(b, l->w->n_in));
    w.y = y, w.u = u, w.onto = onto;
    finish(b, op, w, l->w->compute);
    return true;
}

bool cu_joined_mlp(mr_backend *b, float *y, const float *x, const mr_gated *m, int N, const float *onto) {
    const char *op = "mlp";
    const mr_linear *up = m->gate_up, *down = m->down;
    int64_t F = down->w->n_in;
    mr_dtype compute = up->w->compute;
    if (!m->sampling || cu_half_wide_fits(b, up->w, N) || up->w->n_out != 2 * F || !takes(b, up, N, F) || !takes(b, down, N, down->w->n_out) ||
        down->w->compute != compute || !at16(y) || !at16(onto) || !at16(m->act) || !at16(m->u_down) || up->w->n_in > CU_K_SEGMENT)
        return false;
    for (int i = 0; i < up->n_lora; i++)
        if (up->lora[i].row0 % F + up->lora[i].rows > F) return false;
    if (!beside(b, up) || !beside(b, down)) return false;
    if (cu_failed(b)) return true;
    const u16 *rows = half_of(b, op, x, up->w, N);
    float *sums = rows ? sums_of(b, op, rows, up, N) : NULL;
    if (!sums) return true;
    joined w = joined_of(sums, up, N, planes(b, up->w->n_in));
    w.F = (int)F, w.act = (u16 *)m->act, w.ld_act = (int)x_stride(F, planes(b, F));
    finish(b, op, w, compute);
    sums = sums_of(b, op, w.act, down, N);
    if (!sums) return true;
    w = joined_of(sums, down, N, planes(b, F));
    w.y = y, w.u = m->u_down, w.onto = onto;
    finish(b, op, w, compute);
    return true;
}
