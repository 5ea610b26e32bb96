/* joined.cu - a linear with LoRA for some dozens of rows (decoding many sequences, prompts): gemm.cuh.
 *
 * Products: x is converted once and multiplied with [w; a], whose rows lie behind each other in the weight's unpacked copy (weight_unpack):
 *           y's and u's columns come side by side, in f32, to scratch. (A weight that is stored in 16 bits has no room behind it: two
 *           products.) Segments of K go to planes of their own, in one launch: few outputs alone would not go round the multiprocessors.
 * Finish:   one kernel adds the planes in order, bias, what y held and LoRA's second products, which are small and made on the way, and
 *           writes y; for gate and up silu(g) * up instead, in the 16 bits that the next product reads.
 * Bits:     those of linear, silu_mul and linear (gemm.cuh, order). */
#include <assert.h>

#include "cuda/gemm.cuh"
#include "cuda/lt.h"

/* A block's rows and columns, columns of u at a time, and its row stride in shared memory: an odd number of 16 bytes for ldmatrix. */
enum { ROWS = 64, COLS = 32, INNER = 64, LD = INNER + 8, THREADS = ROWS / 16 * 32, MOST_PARTS = 3, ROW = CU_JOINED_ROWS };

typedef struct joined_part {
    int row0, rows, r0, r;
    float scale;
    const u16 *b;
    int64_t ldb;
} joined_part;

typedef struct joined {
    const float *sums, *u_sums; /* planes of ROW rows; y's and u's columns side by side, or apart */
    int ld, ld_u, n_planes, N, O, F, R; /* F: of gate and up, else O */
    float *y, *u;             /* [N][O], [N][R] */
    u16 *act;                 /* [N][ld_act] instead of y and u, zero from F on */
    int ld_act;
    const float *bias;
    bool add;
    joined_part part[MOST_PARTS]; /* rows 0: none */
} joined;

template <int SIDES> struct joined_room {
    u16 u[SIDES][ROWS][LD], b[SIDES][COLS][LD];
};

/* What a block needs of LoRA for one side: b's first row is the block's first column. r = 0: nothing. Parts are looked through one by one, since
 * a launch's arguments are slow to look up by a variable. */
typedef struct inner {
    int r0, r;
    float scale;
    const u16 *b;
    int64_t ldb;
} inner;

__device__ inline inner inner_of(const joined &w, int col) {
    inner x = { 0, 0, 0.0f, NULL, 0 };
#pragma unroll
    for (int i = 0; i < MOST_PARTS; i++) {
        const joined_part &p = w.part[i];
        if (col >= p.row0 && col < p.row0 + p.rows) x.r0 = p.r0, x.r = p.r, x.scale = p.scale, x.b = p.b + (col - p.row0) * p.ldb, x.ldb = p.ldb;
    }
    return x;
}

__device__ inline float4 add4(float4 a, float4 b) {
    float4 sum = { a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w };
    return sum;
}
__device__ inline float4 none4() {
    float4 zero = { 0.0f, 0.0f, 0.0f, 0.0f };
    return zero;
}

/* Four neighbors of a row in 16 bits. */
template <int T> __device__ inline void put_half4(u16 *to, float4 v) {
    uint2 two = { pack2<T>(v.x, v.y), pack2<T>(v.z, v.w) };
    *(uint2 *)to = two;
}

/* n groups of 4 neighbors, at(i) each or none, as the planes' sums in order, the first one's through begin(i, sum): loads of a plane are on
 * their way together. */
template <int n, typename F, typename G>
__device__ inline void add_planes(float4 v[n], const float *sums, int ld, int n_planes, F at, G begin) {
    int place[n];
    float4 more[n];
#pragma unroll
    for (int i = 0; i < n; i++) place[i] = at(i);
#pragma unroll
    for (int i = 0; i < n; i++) v[i] = place[i] >= 0 ? *(const float4 *)(sums + place[i]) : none4();
#pragma unroll
    for (int i = 0; i < n; i++) v[i] = begin(i, v[i]);
#pragma unroll 1
    for (int p = 1; p < n_planes; p++) {
        const float *plane = sums + (int64_t)p * ROW * ld;
#pragma unroll
        for (int i = 0; i < n; i++) more[i] = place[i] >= 0 ? *(const float4 *)(plane + place[i]) : none4();
#pragma unroll
        for (int i = 0; i < n; i++) v[i] = add4(v[i], more[i]);
    }
}
__device__ inline float4 as_it_is(int, float4 x) { return x; }

enum { TILES = COLS / 16, MINE = 2 * TILES, U_EACH = ROWS * INNER / 4 / THREADS };

/* A warp has 16 rows, and 16 columns of each side at a time; which of them is which column of an mma is as in mlp.cu, so that a lane's are 4
 * neighbors of rows lane / 4 and lane / 4 + 8. SIDES = 2: gate and up. */
template <int T, int SIDES> __global__ static void __launch_bounds__(THREADS) finish_kernel(joined w) {
    __shared__ joined_room<SIDES> room;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int n0 = blockIdx.x * COLS, m0 = blockIdx.y * ROWS; /* all places fit into an int */
    inner part[SIDES];
#pragma unroll
    for (int s = 0; s < SIDES; s++) part[s] = inner_of(w, n0 + s * w.F);
    int longest = SIDES == 2 && part[SIDES - 1].r > part[0].r ? part[SIDES - 1].r : part[0].r;
    follow();
    if (SIDES == 2 && n0 >= w.F) { /* the next product reads whole segments */
        for (int i = threadIdx.x; i < ROWS * (COLS / 8); i += THREADS)
            if (m0 + i / (COLS / 8) < w.N) *(uint4 *)(w.act + (m0 + i / (COLS / 8)) * w.ld_act + n0 + i % (COLS / 8) * 8) = make_uint4(0, 0, 0, 0);
        return;
    }
    int row[2] = { m0 + warp * 16 + lane / 4, m0 + warp * 16 + lane / 4 + 8 }, first = n0 + lane % 4 * 4;
    float4 v[SIDES][MINE]; /* of tile i / 2, row i % 2 */
#pragma unroll
    for (int s = 0; s < SIDES; s++) {
        auto at = [&](int i) { return row[i % 2] < w.N ? row[i % 2] * w.ld + first + i / 2 * 16 + s * w.F : -1; };
        float4 old[MINE];
#pragma unroll
        for (int i = 0; SIDES == 1 && i < MINE; i++)
            old[i] = w.add && row[i % 2] < w.N ? *(const float4 *)(w.y + row[i % 2] * w.O + first + i / 2 * 16) : none4();
        add_planes<MINE>(v[s], w.sums, w.ld, w.n_planes, at, [&](int i, float4 x) { return SIDES == 1 && w.add ? add4(old[i], x) : x; });
    }
    float chain[SIDES][COLS / 8][4];
#pragma unroll
    for (int s = 0; s < SIDES; s++)
#pragma unroll
        for (int j = 0; j < COLS / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) chain[s][j][i] = 0.0f;
    int right = lane % 8 / 2 * 4 + lane % 2 + lane / 16 * 2, step = lane / 8 % 2 * 8;
#pragma unroll 1
    for (int k0 = 0; k0 < longest; k0 += INNER) {
        if (k0) __syncthreads();
#pragma unroll
        for (int s = 0; s < SIDES; s++) {
            const inner &p = part[s];
            for (int i = threadIdx.x; i < COLS * (INNER / 8); i += THREADS) {
                int r = i / (INNER / 8), c = k0 + i % (INNER / 8) * 8;
                if (k0 < p.r) copy16(&room.b[s][r][c - k0], c < p.r ? p.b + r * p.ldb + c : p.b, c < p.r);
            }
            float4 u[U_EACH];
            auto at = [&](int i) {
                int r = (i * THREADS + (int)threadIdx.x) / (INNER / 4), c = k0 + (int)threadIdx.x % (INNER / 4) * 4;
                return c < p.r && m0 + r < w.N ? (m0 + r) * w.ld_u + p.r0 + c : -1;
            };
            add_planes<U_EACH>(u, w.u_sums, w.ld_u, w.n_planes, at, as_it_is);
#pragma unroll
            for (int i = 0; i < U_EACH; i++) {
                int r = (i * THREADS + (int)threadIdx.x) / (INNER / 4), c = (int)threadIdx.x % (INNER / 4) * 4;
                put_half4<T>(&room.u[s][r][c], u[i]);
            }
        }
        copy_commit();
        copy_wait<0>();
        __syncthreads();
#pragma unroll
        for (int s = 0; s < SIDES; s++)
#pragma unroll
            for (int k = 0; k < INNER / 16; k++) {
                if (k0 + k * 16 >= part[s].r) continue;
                uint32_t a[4];
                load_matrices(a, &room.u[s][warp * 16 + lane % 16][k * 16 + lane / 16 * 8]);
#pragma unroll
                for (int j = 0; j < TILES; j++) {
                    uint32_t b[4];
                    load_matrices(b, &room.b[s][j * 16 + right][k * 16 + step]);
                    mma16<T>(chain[s][2 * j], a, b), mma16<T>(chain[s][2 * j + 1], a, b + 2);
                }
            }
    }
#pragma unroll
    for (int s = 0; s < SIDES; s++)
#pragma unroll
        for (int j = 0; j < TILES; j++) {
            float4 more = w.bias ? *(const float4 *)(w.bias + first + j * 16 + s * w.F) : none4();
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float4 &x = v[s][2 * j + h];
                float(*c)[4] = &chain[s][2 * j];
                if (w.bias) x = add4(x, more);
                if (!part[s].r) continue;
                x.x = fmaf(part[s].scale, c[0][2 * h], x.x), x.y = fmaf(part[s].scale, c[0][2 * h + 1], x.y);
                x.z = fmaf(part[s].scale, c[1][2 * h], x.z), x.w = fmaf(part[s].scale, c[1][2 * h + 1], x.w);
            }
        }
#pragma unroll
    for (int i = 0; i < MINE; i++) {
        if (row[i % 2] >= w.N) continue;
        float4 x = v[0][i], up = v[SIDES - 1][i];
        if (SIDES == 1) {
            *(float4 *)(w.y + row[i % 2] * w.O + first + i / 2 * 16) = x;
        } else {
            x.x = x.x / (1.0f + exp_f32(-x.x)) * up.x, x.y = x.y / (1.0f + exp_f32(-x.y)) * up.y;
            x.z = x.z / (1.0f + exp_f32(-x.z)) * up.z, x.w = x.w / (1.0f + exp_f32(-x.w)) * up.w;
            put_half4<T>(w.act + row[i % 2] * w.ld_act + first + i / 2 * 16, x);
        }
    }
    if (SIDES == 1 && blockIdx.x == 0) /* u is linear's to give, too */
        for (int i = threadIdx.x; i < ROWS * w.R / 4; i += THREADS) {
            int r = m0 + i / (w.R / 4), c = i % (w.R / 4) * 4;
            float4 x;
            add_planes<1>(&x, w.u_sums, w.ld_u, w.n_planes, [&](int) { return r < w.N ? r * w.ld_u + c : -1; }, as_it_is);
            if (r < w.N) *(float4 *)(w.u + r * w.R + c) = x;
        }
}

/* --- host --- */

static bool at16(const void *p) { return (uintptr_t)p % 16 == 0; }

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

bool cu_joined_fits(const mr_backend *b, const mr_weight *w, int n_rows) {
    int from = cu_of(b)->sm < 80 ? CU_FEW_ROWS + 1 : w->half ? (int)CU_JOINED_FROM : (int)CU_JOINED_FROM_HALF;
    return n_rows >= from && n_rows <= CU_JOINED_ROWS && w->compute != MR_F32 && (w->half || w->store == w->compute);
}
static bool beside(mr_backend *b, const mr_linear *l) { return !l->w->half || cu_weight_join(b, l->w, l->a); }

/* By the layer and N, which say it for each call. */
static bool takes(const mr_backend *b, const mr_linear *l, int N, int64_t F) {
    const mr_weight *w = l->w;
    bool ok = cu_joined_fits(b, w, N) && l->n_lora > 0 && l->n_lora <= MOST_PARTS && w->n_out % COLS == 0 && F % COLS == 0 &&
              w->n_in % 8 == 0 && l->r_total % 4 == 0 && l->a->store == w->compute && l->a->compute == w->compute;
    for (int i = 0; ok && i < l->n_lora; i++) {
        const mr_lora_part *p = &l->lora[i];
        ok = p->row0 % COLS == 0 && p->rows % COLS == 0 && p->r % 8 == 0 && p->r0 % 4 == 0 && p->b->store == w->compute &&
             p->b->compute == w->compute;
    }
    return ok;
}

/* Rows in 16 bits times w[cols][ld] to the planes, of cols columns: all segments in one launch where the library takes them, else one each.
 * beyond: rows of w may be read a bit behind their end, so that the last segment is as long as the others: x is zero there, and what is
 * read of w is the next row, numbers that add zeros. (Sums begin at +0: zeros of either sign change no bit.) */
static void multiply(mr_backend *b, const char *op, float *sums, const u16 *x, const u16 *w, int64_t ldw, int64_t cols, const mr_weight *of, int N,
                     int n_planes, bool beyond) {
    int64_t k = n_planes > 1 ? (int64_t)CU_K_SEGMENT : of->n_in, at = 0;
    int type = half_type(of->compute), alike = beyond ? n_planes : (int)(of->n_in / k);
    dense_product p = { sums, cols, x, x_stride(of->n_in, n_planes), w, ldw, N, cols, k, false, false, 1.0f, NULL, false };
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
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *p = &l->lora[i];
        w.part[i] = joined_part{ p->row0, p->rows, p->r0, p->r, p->scale, (const u16 *)p->b->data, p->b->ld };
    }
    return w;
}

template <int SIDES> static void finish(mr_backend *b, const char *op, const joined &w, mr_dtype compute) {
    dim3 grid((unsigned)((SIDES == 2 ? w.ld_act : w.F) / COLS), (unsigned)((w.N + ROWS - 1) / ROWS));
    if (compute == MR_F16)
        LAUNCH_EARLY(b, op, (finish_kernel<F16, SIDES>), grid, THREADS, 0, w);
    else
        LAUNCH_EARLY(b, op, (finish_kernel<BF16, SIDES>), grid, THREADS, 0, w);
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

static const u16 *half_of(mr_backend *b, const char *op, const float *x, const mr_weight *w, int N) {
    int64_t ld = x_stride(w->n_in, planes(b, w->n_in));
    u16 *rows = (u16 *)cu_scratch(b, op, CU_SLOT_X, (size_t)(N * ld) * sizeof(u16));
    if (rows) cu_to_half(b, op, half_type(w->compute), rows, ld, ld, x, w->n_in, N, w->n_in);
    return rows;
}

bool cu_joined_linear(mr_backend *b, float *y, float *u, const float *x, const mr_linear *l, int N, bool add) {
    const char *op = "linear";
    if (!takes(b, l, N, l->w->n_out) || !at16(y) || !at16(u) || !at16(l->bias) || !beside(b, l)) return false;
    const u16 *rows = half_of(b, op, x, l->w, N);
    float *sums = rows ? sums_of(b, op, rows, l, N) : NULL;
    if (!sums) return true;
    joined w = joined_of(sums, l, N, planes(b, l->w->n_in));
    w.y = y, w.u = u, w.add = add;
    finish<1>(b, op, w, l->w->compute);
    return true;
}

bool cu_joined_mlp(mr_backend *b, float *y, const float *x, const mr_gated *m, int N, bool add) {
    const char *op = "mlp";
    const mr_linear *up = m->gate_up, *down = m->down;
    int64_t F = down->w->n_in;
    mr_dtype compute = up->w->compute;
    if (!m->sampling || up->w->n_out != 2 * F || !takes(b, up, N, F) || !takes(b, down, N, down->w->n_out) || down->w->compute != compute || !at16(y) || !at16(m->act) || !at16(m->u_down) || up->w->n_in > CU_K_SEGMENT)
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
    finish<2>(b, op, w, compute);
    sums = sums_of(b, op, w.act, down, N);
    if (!sums) return true;
    w = joined_of(sums, down, N, planes(b, F));
    w.y = y, w.u = m->u_down, w.add = add;
    finish<1>(b, op, w, compute);
    return true;
}
