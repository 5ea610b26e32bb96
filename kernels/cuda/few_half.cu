/* few_half.cu - products of 1 to 16 rows with weights of 16 bits (decoding): gemm.cuh. few.cu serves else.
 *
 * Work:    a block is one warp, which makes 8 outputs of one segment of K for all rows; of an MLP 8 of gate and the same 8 of up, so that silu(gate) * up
 *          is a lane's own affair. x is mma's left operand. No warp waits at a barrier, and a multiprocessor has as many as its shared memory holds.
 * Weights: a warp asks for all that it reads before the kernel before this one is done, 64 KB at most for 8 rows of a segment; the chain waits
 *          for 256 columns at a time.
 * x:       comes packed (half.cuh) and goes from the caches to registers, 256 columns ahead.
 * LoRA:    u = x @ a^T is made by the first blocks of the same launch, in the same way. The others wait for u only before its product with b, which
 *          lies in registers then. Blocks start in the order of their numbers, so those that are waited for always run. */
#include "cuda/few.cuh"

enum {
    STAGE = 256,
    STAGES = CU_K_SEGMENT / STAGE,
    AHEAD = STAGE / 32, /* pairs of steps whose x is in registers */
    PAD = 8,            /* columns between rows in shared memory: ldmatrix finds 8 rows in different banks */
    MOST_ROWS = 16,
    MOST_WARPS = 32 /* on a multiprocessor, one after the other: more are few.cu's */
};

/* Rows of w from `from` on: 8 for each tile, `apart` rows from one to the next; for those that are not there (n_rows) come others. A group of copies has
 * STAGE columns. */
template <int TILES>
__device__ static void fetch_rows(u16 *to, const u16 *from, int64_t ld, int64_t n_rows, int64_t apart, int columns, int lane) {
    const u16 *row[TILES * EIGHT];
#pragma unroll
    for (int r = 0; r < TILES * EIGHT; r++) {
        int64_t at = r / EIGHT * apart + r % EIGHT;
        row[r] = from + (at < n_rows ? at : 0) * ld + lane * 8;
    }
    to += lane * 8;
#pragma unroll 4
    for (int c = 0; c < CU_K_SEGMENT; c += STAGE) {
        if (c + lane * 8 < columns)
#pragma unroll
            for (int r = 0; r < TILES * EIGHT; r++) copy16_passing(to + r * (columns + PAD) + c, row[r] + c);
        copy_commit();
    }
}

/* The chain over a strip's columns. x: the lane's first of them, `pairs` pairs for 8 rows; rows: what fetch_rows has asked for. */
template <int T, int R8, int TILES> struct half_chain {
    enum { N = sums_of(R8, 1) };
    const uint4 *x;
    const u16 *rows; /* the lane's for ldmatrix */
    int pairs, n, ld;
    uint4 ahead[AHEAD][R8];

    __device__ void load(int d, int pair) {
#pragma unroll
        for (int e = 0; e < R8; e++) ahead[d][e] = x[(e * pairs + pair) * 32];
    }
    __device__ void multiply(float acc[TILES][N][4], int d, int pair) {
        uint4 v[R8];
#pragma unroll
        for (int e = 0; e < R8; e++) v[e] = ahead[d][e];
        if (pair + AHEAD < n) load(d, pair + AHEAD);
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            uint32_t w[4];
            load_matrices(w, rows + t * EIGHT * ld + pair * 32);
            step<T, R8, 1>(acc[t], v, 0, w);
            step<T, R8, 1>(acc[t], v, 1, w + 2);
        }
    }
    __device__ void run(float acc[TILES][N][4]) {
#pragma unroll
        for (int d = 0; d < AHEAD; d++)
            if (d < n) load(d, d);
        for (int at = 0; at < n; at += AHEAD) {
            copy_wait<STAGES - 1>(); /* one more group each time, since an empty one follows */
            __syncwarp();
            copy_commit();
            if (at + AHEAD <= n) { /* no branch between the steps */
#pragma unroll
                for (int d = 0; d < AHEAD; d++) multiply(acc, d, at + d);
                continue;
            }
#pragma unroll
            for (int d = 0; d < AHEAD; d++)
                if (at + d < n) multiply(acc, d, at + d);
        }
    }
};

/* acc[0], gate's, becomes silu(gate) * up. */
template <int T, int R8>
__device__ static void give_act(float acc[2][sums_of(R8, 1)][4], const few_product &p, const few_launch &q, int64_t row0, int lane) {
#pragma unroll
    for (int i = 0; i < 4 * sums_of(R8, 1); i++) {
        float &g = acc[0][i / 4][i % 4];
        g = g / (1.0f + exp_f32(-g)) * acc[1][i / 4][i % 4];
    }
    for_results<R8, 1>(acc[0], row0, lane, [&](float &v, int row, int64_t o, int) {
        if (row >= p.n_rows) return;
        q.act[(int64_t)row * q.gated + o] = v;
        q.packed_act[packed_at(row, (int)o, q.gated / 32)] = to_half<T>(v);
    });
}

/* TILES = 2: gate's and up's. */
template <int T, int R8, int TILES>
__global__ static void __launch_bounds__(32, 8) half_kernel(few_product p, few_product a, few_launch q) {
    enum { N = sums_of(R8, 1) };
    SHARED_BYTES(bytes);
    bool inner = (int)blockIdx.x < q.a_blocks; /* makes u */
    int lane = threadIdx.x, at = (int)blockIdx.x - (inner ? 0 : q.a_blocks), segment = at % q.n_segments, tile = at / q.n_segments;
    int64_t apart = inner || TILES == 1 ? (int)EIGHT : q.gated;
    strip s = strip_of(p.w.n_in, (int64_t)tile * (inner ? TILES * EIGHT : EIGHT), segment);
    const u16 *w = (const u16 *)(inner ? a.w.data : p.w.data);
    int64_t n_out = inner ? a.n_out : p.n_out;
    fetch_rows<TILES>((u16 *)bytes, w + s.row0 * p.w.ld + s.block * BLOCK, p.w.ld, n_out - s.row0, apart, s.n * BLOCK, lane);

    few_part part[TILES] = {};
    int u_at[TILES] = {};
    bool has_part[TILES];
    operands<1> b[TILES] = {};
    float bias[TILES][2] = {};
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        int64_t row0 = s.row0 + t * apart;
        has_part[t] = !inner && part_of(&part[t], &u_at[t], p, q, row0);
        if (has_part[t]) b[t] = load_b<1>(part[t], row0, 0, lane);
        for (int i = 0; !inner && p.bias && i < 2; i++) bias[t][i] = p.bias[row0 + lane % 4 * 2 + i];
    }
    follow();
    float acc[TILES][N][4] = {}, old[TILES][N][4] = {};
#pragma unroll
    for (int t = 0; t < TILES; t++)
        if (p.add && !inner)
            for_results<R8, 1>(old[t], s.row0 + t * apart, lane, [&](float &v, int row, int64_t o, int) {
                if (row < p.n_rows) v = p.y[row * p.ldy + o];
            });
    int ld = s.n * BLOCK + PAD, pairs = (int)(p.w.n_in / 32);
    half_chain<T, R8, TILES> chain = { q.x + s.block * 64 + lane, (const u16 *)bytes + lane % 8 * ld + lane / 8 * 8, pairs, s.n * 2, ld, {} };
    chain.run(acc);

    if (inner) {
        if (q.n_segments > 1 && !add_segments<N>(acc[0], q, q.arrived + q.n_tiles, q.a_sums, tile, segment, lane, [](float (*)[4]) { return false; })) return;
#pragma unroll
        for (int t = 0; t < TILES; t++) put_u<T, R8>(acc[t], a, q, s.row0 + t * EIGHT, lane);
        u_done(q, lane);
        return;
    }
    auto before = [&](float (*to)[4]) {
#pragma unroll
        for (int i = 0; i < 4 * N; i++) to[i / 4][i % 4] = old[0][i / 4][i % 4];
        return p.add;
    };
    if (q.n_segments > 1) {
        if (!add_segments<N>(acc[0], q, q.arrived, q.sums, tile, segment, lane, before)) return;
    } else if (p.add) {
#pragma unroll
        for (int i = 0; i < 4 * TILES * N; i++) acc[i / 4 / N][i / 4 % N][i % 4] += old[i / 4 / N][i / 4 % N][i % 4];
    }
#pragma unroll
    for (int t = 0; t < TILES; t++)
        if (p.bias) for_results<R8, 1>(acc[t], 0, lane, [&](float &v, int, int64_t, int which) { v += bias[t][which]; });
    int waited = 0;
    if (q.a_blocks) {
        while (load_acquire(q.ready) < q.n_a_tiles) {
        }
        __syncwarp();
        if (lane == 0) waited = atomicAdd(q.ready + 1, 1) + 1; /* looked at last: it takes a while */
    }
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        int64_t row0 = s.row0 + t * apart;
        if (has_part[t]) add_part<T, R8, 1>(acc[t], q, part[t], u_at[t], b[t], row0, lane);
        for_results<R8, 1>(acc[t], row0, lane, [&](float &v, int row, int64_t o, int) {
            if (row < p.n_rows) p.y[row * p.ldy + o] = v;
        });
    }
    if (TILES == 2) give_act<T, R8>(acc, p, q, s.row0, lane);
    if (waited == q.n_tiles) { /* nobody waits any more */
        q.ready[0] = 0;
        q.ready[1] = 0;
    }
}

/* --- launching --- */

static bool plan(const mr_backend *b, few_launch *q, const few_product *p, const few_product *a, int gated) {
    const weight_view *w = &p->w;
    int64_t segments = (w->n_in + CU_K_SEGMENT - 1) / CU_K_SEGMENT, columns = segments > 1 ? (int64_t)CU_K_SEGMENT : w->n_in;
    int tiles = gated ? 2 : 1;
    if (cu_of(b)->sm < 80 || w->store != w->compute || w->n_in % BLOCK || p->n_out % EIGHT || p->n_rows > MOST_ROWS || segments > MOST_SEGMENTS ||
        (p->n_parts && !a) || !parts_apart(p))
        return false;
    q->r8 = (p->n_rows + EIGHT - 1) / EIGHT, q->gated = gated;
    q->n_tiles = (int)(p->n_out / (tiles * EIGHT));
    q->n_a_tiles = a ? (int)((a->n_out + tiles * EIGHT - 1) / (tiles * EIGHT)) : 0;
    q->n_segments = (int)segments;
    q->a_blocks = q->n_a_tiles * q->n_segments, q->blocks = q->a_blocks + q->n_tiles * q->n_segments;
    q->bytes = tiles * EIGHT * (int)(columns + PAD) * (int)sizeof(u16);
    if (a) place_u(q, p, a);
    return q->bytes <= cu_of(b)->max_shared - 1024 && q->blocks <= MOST_WARPS * cu_of(b)->n_sm &&
           (segments == 1 || q->n_tiles + q->n_a_tiles <= CU_MOST_TILES);
}

template <int T, int R8> static void launch(mr_backend *b, const char *op, const few_product *p, const few_product *a, const few_launch *q) {
    if (q->gated)
        LAUNCH_EARLY(b, op, (half_kernel<T, R8, 2>), q->blocks, 32, q->bytes, *p, a ? *a : *p, *q);
    else
        LAUNCH_EARLY(b, op, (half_kernel<T, R8, 1>), q->blocks, 32, q->bytes, *p, a ? *a : *p, *q);
}

bool cu_few_half(mr_backend *b, const char *op, float *act, const few_product *p, const few_product *a) {
    few_launch q = {};
    int64_t K = p->w.n_in, F = act ? p->n_out / 2 : 0;
    if (F % BLOCK || (act && K > CU_K_SEGMENT) || !plan(b, &q, p, a, (int)F)) return false;
    if (act && !cu_packed_places(b, op, p->n_rows, F > K ? F : K)) return true; /* now, since x will lie there; a failure is kept */
    q.x = (const uint4 *)cu_packed_x(b, op, p);
    if (!q.x || !take_room(b, op, &q, 1)) return true;
    if (act && !(q.packed_act = cu_packed_wanted(b, op, p->n_rows, F))) return true;
    q.act = act;
    bool f16 = p->w.compute == MR_F16;
    if (q.r8 == 1)
        f16 ? launch<F16, 1>(b, op, p, a, &q) : launch<BF16, 1>(b, op, p, a, &q);
    else
        f16 ? launch<F16, 2>(b, op, p, a, &q) : launch<BF16, 2>(b, op, p, a, &q);
    if (act) cu_packed_note(b, q.packed_act, act, p->n_rows, F);
    return true;
}
