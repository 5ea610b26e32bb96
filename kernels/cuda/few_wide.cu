/* few_wide.cu - products of 17 to 64 rows with NF4 weights by wgmma (decoding a few dozen sequences): gemm.cuh. few_nf4.cu serves fewer rows, and other GPUs.
 *
 * Work:    four warps make 64 outputs of one segment of K for all rows, as wgmma's 64 x 8 * R8: a warp unpacks its 16 outputs' codes into the left
 *          operand's registers, and x is the right one, which wgmma reads from shared memory itself, once for four warps: with mma each
 *          warp would read all of x. The next block of 64 columns is unpacked while the present one is multiplied. Where a block of threads has
 *          few such warps, four more bring x.
 * x:       comes in 16 bits as wgmma wants it ("cores": half.cuh), from the kernel that made it or from cores_kernel, and passes through a ring of
 *          pieces in shared memory, each one run of memory.
 * Bits:    those of few_nf4.cu: the same chain of steps of 16 (attention_sm90.cu), the same order behind it.
 * The rest, codes, scales, segments, LoRA and gate beside up, is as in few_nf4.cu.
 * Build:   as attention_sm90.cu, empty kernels where there is no wgmma. The emulator multiplies with mma in its place. */
#include "cuda/few_nf4.cuh"
#include "cuda/wgmma.cuh"

enum { FOUR = 4, OUTPUTS = 16 * FOUR, MOST_TILES = 3 * FOUR, FEEDERS = 4, THREADS = MOST_TILES * 32, FROM = 17 };
enum { PIECE = 4, DEPTH = PIECE, LD = 16 + 1 }; /* blocks of 64 columns: of x in a piece, of codes ahead; from a block's scales to the next one's */
enum { CORE = 64, CORE_BYTES = CORE * 2, EIGHT_PLACES = BLOCK }; /* values of 8 rows x 8 columns; places of 16 bytes of 8 rows in a block of 64 columns */

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(MR_EMULATE)

/* --- x --- */

/* Blocks [from, from + blocks) of 64 columns of all rows, by threads 0 .. n - 1, of which this one is `thread`. */
template <int R8> __device__ inline void fetch_x(uint4 *to, const uint4 *x, int from, int blocks, int thread, int n) {
    const uint4 *piece = x + (int64_t)from * R8 * EIGHT_PLACES;
    for (int i = thread; i < blocks * R8 * EIGHT_PLACES; i += n) copy16(to + i, piece + i, true);
}

/* All but the last n groups of copies are there. */
__device__ inline void wait_but(int n) {
    switch (n) {
    case 0: copy_wait<0>(); break;
    case 1: copy_wait<1>(); break;
    case 2: copy_wait<2>(); break;
    case 3: copy_wait<3>(); break;
    default: copy_wait<4>();
    }
}

/* chain(from, x of block `from`): a piece's blocks; all warps of the block call this. */
template <int R8, typename F> __device__ static void for_pieces(uint4 *place, const nf4_plan &q, const strip &s, F chain) {
    int first = q.warps > q.tiles ? q.tiles * 32 : 0, thread = (int)threadIdx.x - first, n = (int)blockDim.x - first;
    auto at = [&](int piece) { return place + piece % q.ring * PIECE * R8 * EIGHT_PLACES; };
    auto fetch = [&](int piece) {
        int left = s.n - piece * PIECE;
        if (left > 0 && thread >= 0) fetch_x<R8>(at(piece), q.x, s.block + piece * PIECE, left < PIECE ? left : (int)PIECE, thread, n);
        copy_commit();
    };
    for (int i = 0; i < q.ring - 1; i++) fetch(i);
    for (int piece = 0; piece * PIECE < s.n; piece++) {
        wait_but(q.ring - 2);
        wide_sees();
        __syncthreads();
        fetch(piece + q.ring - 1);
        chain(piece * PIECE, at(piece));
    }
}

/* --- products --- */

/* Where 16 columns of x are found, from a core on: the 8 columns behind them lie one core away, the next 8 rows an eight. A number of places of
 * 16 bytes can be added. */
#ifdef MR_EMULATE

typedef const uint4 *right;
static inline right right_of(const uint4 *core) { return core; }

#else

/* Without swizzle: a core is 128 bytes in a row. */
typedef uint64_t right;
__device__ inline right right_of(const uint4 *core) {
    unsigned from = (unsigned)__cvta_generic_to_shared(core);
    return (uint64_t)(from >> 4) | (uint64_t)(CORE_BYTES >> 4) << 16 | (uint64_t)EIGHT_PLACES << 32;
}

#define R12 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11"
#define R20 R16 ",%16,%17,%18,%19"
#define R24 R20 ",%20,%21,%22,%23"
#define R28 R24 ",%24,%25,%26,%27"
#define C12(s, c) C4(s, c, 0), C4(s, c, 1), C4(s, c, 2)
#define C20(s, c) C16(s, c, 0), C4(s, c, 4)
#define C24(s, c) C20(s, c), C4(s, c, 5)
#define C28(s, c) C24(s, c), C4(s, c, 6)
#define WIDE(n, type, sums, left, right, ...)                                                                                              \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" sums "}, {" left "}, " right ", 1, 1, 1, 0;"           \
                 : __VA_ARGS__                                                                                                              \
                 : A4(a), "l"(x))
#define WIDE_ROWS(type)                                                                                                                     \
    switch (R8) {                                                                                                                           \
    case 3: WIDE("24", type, R12, "%12,%13,%14,%15", "%16", C12("+f", c)); break;                                                           \
    case 4: WIDE("32", type, R16, "%16,%17,%18,%19", "%20", C16("+f", c, 0)); break;                                                        \
    case 5: WIDE("40", type, R20, "%20,%21,%22,%23", "%24", C20("+f", c)); break;                                        \
    case 6: WIDE("48", type, R24, "%24,%25,%26,%27", "%28", C24("+f", c)); break;                        \
    case 7: WIDE("56", type, R28, "%28,%29,%30,%31", "%32", C28("+f", c)); break;        \
    default: WIDE("64", type, R32, "%32,%33,%34,%35", "%36", C32("+f", c, 0));                                                              \
    }

#endif

/* c[64 outputs][8 R8 rows] += 16 columns of the outputs, this warp's 16 of them in a, times those of x. */
template <int T, int R8> __device__ inline void wide_step(float (*c)[4], const uint32_t a[4], right x) {
#ifdef MR_EMULATE
    for (int e = 0; e < R8; e++) {
        const uint32_t *low = (const uint32_t *)(x + e * EIGHT_PLACES) + threadIdx.x % 32;
        uint32_t b[2] = { low[0], low[CORE / 2] };
        mma16<T>(c[e], a, b);
    }
#else
    if (T == F16) {
        WIDE_ROWS("f16")
    } else {
        WIDE_ROWS("bf16")
    }
#endif
}

template <int T, int R8> struct wide_chain {
    lane_codes<2> ring[DEPTH];
    operands<2> next;
    const uint8_t *codes;

    __device__ void begin(const weight_view &w, const strip &s, int lane) {
        codes = w.codes + (s.row0 / 16 * (w.n_in / BLOCK) + s.block) * 512 + lane * 16;
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
            if (d < s.n) ring[d] = load_codes<2>(codes + d * 512);
    }

    /* One block's products are on their way when this returns. */
    __device__ static void multiply(float (*acc)[4], const operands<2> &b, right x) {
        wide_begin();
#pragma unroll
        for (int s = 0; s < 4; s++) wide_step<T, R8>(acc, b.of[s], x + s * 2 * (CORE / 8));
        wide_commit();
    }

    /* A piece: block `from` and up to DEPTH - 1 behind it, of n; behind the last block some numbers are unpacked for nobody. x: block `from`;
     * scales: the first of row lane / 4. Nothing is on its way before and behind it. */
    __device__ void run(float (*acc)[4], int from, int n, const uint4 *x, const float *scales, const float *table) {
        if (from == 0) next = unpack<T, 2, true>(ring[0], scales, table);
        right first = right_of(x);
        const float *beside = scales + (from + 1) * LD;
        if (from + DEPTH <= n) {
#pragma unroll
            for (int d = 0; d < DEPTH; d++) {
                operands<2> now = next;
                multiply(acc, now, first + d * R8 * EIGHT_PLACES);
                if (from + d + DEPTH < n) ring[d] = load_codes<2>(codes + (from + d + DEPTH) * 512);
                wide_wait<1>(); /* of the block before: its operands' registers are free */
                next = unpack<T, 2, true>(ring[(d + 1) % DEPTH], beside + d * LD, table);
            }
            wide_wait<0>();
            keep_here<R8>(acc);
            return;
        }
#pragma unroll 1
        for (int d = 0; from + d < n; d++) { /* the last ones */
            multiply(acc, next, first + d * R8 * EIGHT_PLACES);
            wide_wait<0>();
            keep_here<R8>(acc);
            if (from + d + 1 < n) next = unpack<T, 2, true>(load_codes<2>(codes + (from + d + 1) * 512), beside + d * LD, table);
        }
    }
};

/* --- u --- */

/* 16 columns, number `step` of the four of a block, of 16 rows, number i, as mma's left operand. Rows of an eight that is not there are those of the
 * last one, and nobody's. */
template <int R8> __device__ inline void rows_of(uint32_t a[4], const uint4 *block, int i, int step, int lane) {
    int e = 2 * i + lane / 8 % 2;
    if (e >= R8) e = R8 - 1;
    load_matrices(a, block + e * EIGHT_PLACES + (2 * step + lane / 16) * (CORE / 8) + lane % 8);
}

template <int T, int R8> __device__ static void make_u(const few_product &a, const nf4_plan &q, unsigned char *bytes) {
    enum { PAIRS = sums_of(R8, 1) };
    auto fetch = [&](uint4 *to, int from, int blocks) { fetch_x<R8>(to, q.x, from, blocks, threadIdx.x, blockDim.x); };
    make_u_of<T, R8>(a, q, bytes, fetch, [](float (*acc)[4], const uint4 *x, const unsigned char *rows, int n, int lane) {
#pragma unroll
        for (int i = 0; i < A_PIECE * 2; i++) { /* 32 columns */
            uint32_t b[4], left[2][PAIRS][4];
            if (i / 2 >= n) break;
            load_a(b, rows, i, lane);
#pragma unroll
            for (int k = 0; k < 2 * PAIRS; k++)
                rows_of<R8>(left[k / PAIRS][k % PAIRS], x + i / 2 * R8 * EIGHT_PLACES, k % PAIRS, i % 2 * 2 + k / PAIRS, lane);
#pragma unroll
            for (int k = 0; k < 2 * PAIRS; k++) mma16<T>(acc[k % PAIRS], left[k / PAIRS][k % PAIRS], b + k / PAIRS * 2);
        }
    });
}

/* --- the kernel --- */

/* Gate's and up's values of 16 outputs meet: an even warp has gate's and makes act for the first eights of rows, the next one has up's and makes the rest.
 * All warps of the block call it; room: of shared memory that nobody uses. */
template <int T, int R8>
__device__ static void add_gate(const float (*acc)[4], const few_product &p, const nf4_plan &q, int64_t row0, bool mine, float *room, int warp,
                                int lane) {
    enum { HALF = (R8 + 1) / 2 };
    bool up = warp % 2;
    float *between = room + warp / 2 * 2 * HALF * 128 + lane;
    auto of = [&](int e, int v, bool second) { return second ? acc[HALF + e < R8 ? HALF + e : R8 - 1][v] : acc[e][v]; };
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4 * HALF; i++)
        if (mine) between[(up * 4 * HALF + i) * 32] = of(i / 4, i % 4, !up);
    __syncthreads();
    if (!mine) return;
#pragma unroll
    for (int i = 0; i < 4 * HALF; i++) {
        float own = of(i / 4, i % 4, up), other = between[(!up * 4 * HALF + i) * 32], g = up ? other : own;
        int row = (up * HALF + i / 4) * 8 + lane % 4 * 2 + i % 2, o = (int)row0 - up * q.gated + lane / 4 + i % 4 / 2 * 8;
        if (row >= p.n_rows) continue;
        float v = g / (1.0f + exp_f32(-g)) * (up ? own : other);
        q.act[(int64_t)row * q.gated + o] = v;
        q.packed_act[core_at(row, o, R8)] = to_half<T>(v);
    }
}

#endif

template <int T, int R8> __global__ static void __launch_bounds__(THREADS, 1) wide_kernel(few_product p, few_product a, nf4_plan q) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(MR_EMULATE)
    SHARED_BYTES(bytes);
    if ((int)blockIdx.x < q.a_blocks) {
        make_u<T, R8>(a, q, bytes);
        return;
    }
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, at = (int)blockIdx.x - q.a_blocks;
    int segment = at % q.n_segments, tile = at / q.n_segments * q.tiles + warp;
    int64_t row0 = q.gated ? (int64_t)(tile % 2) * q.gated + tile / 2 * 16 : (int64_t)tile * 16;
    strip s = strip_of(p.w.n_in, row0, segment);
    bool mine = agreed(warp < q.tiles && tile < q.n_tiles), single = q.n_segments == 1;
    float *table = (float *)bytes, *map = (float *)(bytes + TABLE_BYTES), *scales = (float *)(bytes + q.table_bytes + q.x_bytes) + warp * (q.scale_blocks + 1) * LD;
    uint4 *x = (uint4 *)(bytes + q.table_bytes);

    wide_chain<T, R8> chain;
    few_part part = {};
    int u_at = 0;
    bool has_part = part_of(&part, &u_at, p, q, s.row0) && mine;
    lane_scales<2> made = {};
    if (mine) { /* what is waited for longest comes first */
        made.load(p.w, s, lane);
        chain.begin(p.w, s, lane);
        if (lane == 0) fetch_ahead(p.w.codes + (s.row0 / 16 * (p.w.n_in / BLOCK) + s.block) * 512, s.n * 512);
        if (has_part && lane == 0) fetch_ahead(part.b + (s.row0 - part.row0) * part.ldb, (int)(16 * part.ldb) * 2);
    }
    for (int i = threadIdx.x; i < MAP_BYTES / 4; i += blockDim.x) map[i] = p.w.tables[CU_MAP + i];
    lay_table<true>(table, p.w.tables + CU_NF4);
    __syncthreads();
    if (mine) {
        weight_view w = p.w;
        w.tables = map - CU_MAP; /* nearer */
        made.lay(scales, w, s, lane);
    }
    follow();
    float acc[R8][4] = {}, early[R8][4] = {}, bias[2] = {};
    auto old = [&](float (*to)[4]) {
        if (p.add)
            for_results<R8, 2>(to, s.row0, lane, [&](float &v, int row, int64_t o, int) {
                if (row < p.n_rows) v = p.y[row * p.ldy + o];
            });
        return p.add;
    };
    if (mine && single) old(early);
    for (int i = 0; mine && p.bias && i < 2; i++) bias[i] = p.bias[s.row0 + lane / 4 + i * 8];
    for_pieces<R8>(x, q, s, [&](int from, const uint4 *piece) {
        if (mine) chain.run(acc, from, s.n, piece, scales + lane / 4, table);
    });
    bool last = mine;
    if (mine && !single)
        last = add_segments<R8>(acc, q, q.arrived, q.sums, tile, segment, lane, old);
    else if (p.add)
#pragma unroll
        for (int i = 0; i < 4 * R8; i++) acc[i / 4][i % 4] += early[i / 4][i % 4];
    if (last && p.bias) for_results<R8, 2>(acc, s.row0, lane, [&](float &v, int, int64_t, int which) { v += bias[which]; });
    if (last && has_part) {
        operands<2> b = load_b<2>(part, s.row0, 0, lane);
        while (load_acquire(q.ready) < q.n_a_tiles) {
        }
        add_part<T, R8, 2>(acc, q, part, u_at, b, s.row0, lane);
    }
    if (last && p.y)
        for_results<R8, 2>(acc, s.row0, lane, [&](float &v, int row, int64_t o, int) {
            if (row < p.n_rows) p.y[row * p.ldy + o] = v;
        });
    if (q.gated) add_gate<T, R8>(acc, p, q, s.row0, mine, (float *)x, warp, lane);
    if (q.a_blocks == 0) return;
    __syncthreads();
    if (threadIdx.x == 0 && atomicAdd(q.ready + 1, 1) == q.blocks - q.a_blocks - 1) { /* nobody waits any more */
        q.ready[0] = 0;
        q.ready[1] = 0;
    }
#else
    (void)p, (void)a, (void)q;
#endif
}

/* --- launching --- */

/* Rows in cores, 8 columns of a row a thread; rows behind the last are copies of it that nobody reads. */
template <int T> __global__ static void cores_kernel(uint4 *to, const float *x, int64_t ldx, int n_rows, int eights, int columns) {
    follow();
    int c = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    if (c >= columns / 8) return;
    const float *from = x + (row < n_rows ? row : n_rows - 1) * ldx + c * 8;
    uint32_t v[4];
#pragma unroll
    for (int k = 0; k < 4; k++) v[k] = pack2<T>(from[2 * k], from[2 * k + 1]);
    to[core_at(row, c * 8, eights) / 8] = make_uint4(v[0], v[1], v[2], v[3]);
}

#ifdef MR_EMULATE
static bool there(const mr_backend *b) { return cu_of(b)->sm == 90; }
#else
/* An empty kernel needs a few registers, this one over a hundred. */
static bool there(const mr_backend *b) {
    enum { LEAST = 80 };
    cudaFuncAttributes a;
    auto kernel = wide_kernel<BF16, 8>;
    return cu_of(b)->sm == 90 && cudaFuncGetAttributes(&a, kernel) == cudaSuccess && a.numRegs >= LEAST;
}
#endif

bool cu_wide_rows(const mr_backend *b, int n_rows) {
    cu_state *s = cu_of(b);
    if (n_rows < FROM || n_rows > CU_FEW_ROWS) return false;
    if (s->wide == CU_UNKNOWN) s->wide = there(b) ? CU_YES : CU_NO;
    return s->wide == CU_YES;
}

bool cu_wide_fits(const mr_backend *b, const mr_weight *w, int n_rows) {
    return w->store == MR_NF4 && w->nf4.tiled && w->n_out % OUTPUTS == 0 && w->compute != MR_F32 && w->n_in <= MOST_SEGMENTS * (int64_t)CU_K_SEGMENT &&
           cu_wide_rows(b, n_rows);
}

const u16 *cu_cores_x(mr_backend *b, const char *op, const few_product *p) {
    int eights = (p->n_rows + EIGHT - 1) / EIGHT, columns = (int)p->w.n_in;
    const u16 *there = cu_packed_found(b, p->x, p->n_rows, p->w.n_in, (mr_dtype)p->w.compute, CU_CORES);
    if (there) return there;
    u16 *to = cu_packed_room(b, op, p->n_rows, p->w.n_in);
    if (!to) return NULL;
    dim3 grid((unsigned)(columns / 8 + 255) / 256, (unsigned)(eights * EIGHT));
    if (p->w.compute == MR_F16)
        LAUNCH_EARLY(b, op, cores_kernel<F16>, grid, 256, 0, (uint4 *)to, p->x, p->ldx, p->n_rows, eights, columns);
    else
        LAUNCH_EARLY(b, op, cores_kernel<BF16>, grid, 256, 0, (uint4 *)to, p->x, p->ldx, p->n_rows, eights, columns);
    return to;
}

/* Fours of warps of a block so that all blocks run at once if they can, by what 64 columns cost in cycles: four warps' table, scales and x in shared
 * memory (46 a warp; one warp's instructions are no fewer), u's bytes. */
static void share_out(const mr_backend *b, nf4_plan *q) {
    int n_sm = cu_of(b)->n_sm, n_fours = q->n_tiles / FOUR, least = 1 << 30, most_bytes = cu_of(b)->max_shared - 1024;
    for (int each = 1; each <= MOST_TILES && A_STAGES * A_BYTES * (q->r8 + each) <= most_bytes; each++) {
        int a_blocks = (q->n_a_tiles + each - 1) / each * q->n_segments, left = (n_sm - a_blocks) / q->n_segments;
        int fours = left > 0 ? (n_fours + left - 1) / left : MOST_TILES / FOUR;
        if (fours > MOST_TILES / FOUR) fours = MOST_TILES / FOUR;
        int main = fours * FOUR * 46, u = q->n_a_tiles ? 25 * (each + q->r8) : 0, cost = main > u ? main : u;
        if (cost >= least) continue;
        least = cost, q->tiles = fours * FOUR, q->a_tiles = each, q->a_blocks = a_blocks;
    }
}

/* Shared memory: as many pieces of x as there is room for. */
static bool lay_out(const mr_backend *b, nf4_plan *q, int64_t k) {
    enum { MOST_RING = 6 };
    share_out(b, q);
    if (!q->tiles) return false;
    int most_bytes = cu_of(b)->max_shared - 1024, a_bytes = q->n_a_tiles ? A_STAGES * A_BYTES * (q->r8 + q->a_tiles) : 0;
    q->warps = q->tiles < MOST_TILES ? q->tiles + FEEDERS : q->tiles;
    if (q->warps < q->a_tiles) q->warps = q->a_tiles;
    q->table_bytes = TABLE_BYTES + MAP_BYTES;
    q->scale_blocks = (int)(k < CU_K_SEGMENT ? k : (int64_t)CU_K_SEGMENT) / BLOCK;
    int fixed = q->table_bytes + q->tiles * (q->scale_blocks + 1) * LD * 4, piece = PIECE * q->r8 * EIGHT_PLACES * 16;
    q->ring = (most_bytes - fixed) / piece;
    if (q->ring > MOST_RING) q->ring = MOST_RING;
    q->x_bytes = q->ring * piece;
    q->bytes = fixed + q->x_bytes > a_bytes ? fixed + q->x_bytes : a_bytes;
    q->blocks = q->a_blocks + (q->n_tiles + q->tiles - 1) / q->tiles * q->n_segments;
    return q->ring >= 2; /* and gate's values fit where x was */
}

static bool plan(const mr_backend *b, nf4_plan *q, const few_product *p, const few_product *a, int gated) {
    const weight_view *w = &p->w;
    if (!cu_wide_rows(b, p->n_rows) || w->store != MR_NF4 || !w->tiled || p->n_out % OUTPUTS || w->n_in > MOST_SEGMENTS * (int64_t)CU_K_SEGMENT ||
        (p->n_parts && !a) || !parts_apart(p))
        return false;
    q->n_segments = (int)((w->n_in + CU_K_SEGMENT - 1) / CU_K_SEGMENT);
    q->r8 = (p->n_rows + EIGHT - 1) / EIGHT, q->nt = 2;
    q->gated = gated;
    q->n_tiles = (int)(p->n_out / 16);
    q->n_a_tiles = a ? (int)((a->n_out + EIGHT - 1) / EIGHT) : 0;
    if (q->n_segments > 1 && q->n_tiles + q->n_a_tiles > CU_MOST_TILES) return false;
    place_u(q, p, a);
    return lay_out(b, q, w->n_in);
}

template <int T, int R8>
static void launch(mr_backend *b, const char *op, const few_product *p, const few_product *a, const nf4_plan *q) {
    auto kernel = wide_kernel<T, R8>;
    LAUNCH_EARLY(b, op, kernel, q->blocks, q->warps * 32, q->bytes, *p, a ? *a : *p, *q);
}

template <int T> static void launch_rows(mr_backend *b, const char *op, const few_product *p, const few_product *a, const nf4_plan *q) {
    switch (q->r8) {
    case 3: launch<T, 3>(b, op, p, a, q); break;
    case 4: launch<T, 4>(b, op, p, a, q); break;
    case 5: launch<T, 5>(b, op, p, a, q); break;
    case 6: launch<T, 6>(b, op, p, a, q); break;
    case 7: launch<T, 7>(b, op, p, a, q); break;
    default: launch<T, 8>(b, op, p, a, q);
    }
}

static void run(mr_backend *b, const char *op, const few_product *p, const few_product *a, nf4_plan *q) {
    q->x = (const uint4 *)cu_cores_x(b, op, p);
    if (!q->x || !take_room(b, op, q, q->nt) || (q->gated && !(q->packed_act = cu_packed_room(b, op, p->n_rows, q->gated)))) return; /* the failure is kept */
    if (p->w.compute == MR_F16)
        launch_rows<F16>(b, op, p, a, q);
    else
        launch_rows<BF16>(b, op, p, a, q);
    if (q->gated) cu_packed_note(b, q->packed_act, q->act, p->n_rows, q->gated);
}

bool cu_wide(mr_backend *b, const char *op, const few_product *p, const few_product *a) {
    nf4_plan q = {};
    if (!plan(b, &q, p, a, 0)) return false;
    run(b, op, p, a, &q);
    return true;
}

bool cu_wide_gated(mr_backend *b, const char *op, float *act, const few_product *p, const few_product *a, bool keep) {
    nf4_plan q = {};
    few_product here = *p;
    int64_t F = p->n_out / 2;
    if (!keep) here.y = NULL;
    if (F % BLOCK || p->w.n_in > CU_K_SEGMENT || !plan(b, &q, p, a, (int)F)) return false;
    if (!cu_packed_places(b, op, p->n_rows, F > p->w.n_in ? F : p->w.n_in)) return true; /* now, since x will lie there */
    q.act = act;
    run(b, op, &here, a, &q);
    return true;
}
