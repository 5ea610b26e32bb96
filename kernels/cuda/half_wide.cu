/* half_wide.cu - products of 17 to 64 rows with weights of 16 bits by wgmma (decoding some dozens of sequences): gemm.cuh. few_half.cu serves fewer rows.
 *
 * Work:    four warps make 8 * TILES outputs of one segment of K for all rows, 16 rows each, as wgmma's 64 x 8 * TILES; a fifth brings x. Of an MLP half of
 *          the tiles are gate's and the others the same of up. Outputs are as many as leave half of the multiprocessors a block: each reads all of x.
 * Weights: a block asks for all that it reads before the kernel before this one is done.
 * x:       comes in cores (half.cuh), as its operand lies in shared memory, through a ring of bulk copies.
 * LoRA:    u = x @ a^T is made by the first blocks of the same launch, in the same way; the others wait for it only before its product with b. Blocks
 *          start in the order of their numbers, so those that are waited for always run.
 * Code:    what follows the chain goes tile by tile through shared memory, in loops that are not unrolled. It runs once a launch, so its instructions come
 *          from the second cache: unrolled, with all in registers, it was 74 KB of code.
 * Build:   as few_wide.cu. */
#include "cuda/few.cuh"
#include "cuda/wgmma.cuh"

enum { FOUR = 4, ROWS = 16, MOST_TILES = 4, CONSUMERS = FOUR * 32, THREADS = CONSUMERS + 32 };
/* Bytes of a core, of 8 rows of 64 columns, of the barriers, of the ring; values between rows of b. */
enum { CORE = 128, EIGHT_BYTES = 8 * CORE, MOST_PLACES = 16, BARS = 2 * MOST_PLACES * 8, RING_BYTES = 40 << 10, LDB = BLOCK + 8, B_BYTES = EIGHT * LDB * 2 };

/* wgmma's 64 rows may be more than there are: behind the ring lie as many bytes as it reads. */
__host__ __device__ inline int weight_bytes(int tiles, int columns) {
    int bytes = tiles * columns / BLOCK * EIGHT_BYTES;
    return bytes > 8 * EIGHT_BYTES ? bytes : 8 * EIGHT_BYTES;
}
/* All but the ring. */
__host__ __device__ inline int fixed_bytes(int tiles, int columns) { return BARS + weight_bytes(tiles, columns) + tiles * B_BYTES; }

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(MR_EMULATE)

/* --- operands: 8 x 8 cores --- */

/* c[tile] += 16 columns, two cores of x for every 8 rows times two of each tile, `apart` bytes from one tile to the next. TILES: 2 or 4. */
#ifdef MR_EMULATE
typedef const char *operand;
static inline operand operand_of(const char *core, int) { return core; }
static inline operand behind(operand x, int bytes) { return x + bytes; }
template <int T, int TILES> static inline void core_step(float (*c)[4], operand x, operand w, int apart, int eights) {
    int lane = threadIdx.x % 32, low = threadIdx.x / 32 * 2, high = low + 1 < eights ? low + 1 : low;
    if (low >= eights) return;
    auto of = [&](const char *core, int which) { return ((const uint32_t *)(core + which * CORE))[lane]; };
    const char *first = x + low * EIGHT_BYTES, *second = x + high * EIGHT_BYTES;
    uint32_t a[4] = { of(first, 0), of(second, 0), of(first, 1), of(second, 1) };
    for (int t = 0; t < TILES; t++) {
        uint32_t b[2] = { of(w + t * apart, 0), of(w + t * apart, 1) };
        mma16<T>(c[t], a, b);
    }
}
#else
/* Without swizzle: the next 8 columns lie a core behind, the next 8 rows `apart` bytes (PTX ISA, wgmma, matrix descriptor). */
typedef uint64_t operand;
__device__ inline operand operand_of(const char *core, int apart) {
    return (uint64_t)((unsigned)__cvta_generic_to_shared(core) >> 4) | (uint64_t)(CORE >> 4) << 16 | (uint64_t)(apart >> 4) << 32;
}
__device__ inline operand behind(operand x, int bytes) { return x + (bytes >> 4); }
#define CORES(n, type, sums, x, w, ...)                                                                                                      \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" sums "}, " x ", " w ", 1, 1, 1, 0, 0;" : __VA_ARGS__ : "l"(a), "l"(b))
#define CORES_OF(type)                                                                                                                       \
    if (TILES == 2)                                                                                                                          \
        CORES("16", type, "%0,%1,%2,%3,%4,%5,%6,%7", "%8", "%9", C4("+f", c, 0), C4("+f", c, 1));                                            \
    else                                                                                                                                     \
        CORES("32", type, R16, "%16", "%17", C16("+f", c, 0));
template <int T, int TILES> __device__ inline void core_step(float (*c)[4], operand a, operand b, int, int) {
    if (T == F16) {
        CORES_OF("f16")
    } else {
        CORES_OF("bf16")
    }
}
#endif

/* --- what a block reads --- */

typedef struct places {
    uint64_t *full, *empty; /* of the ring's places: a copy is there; four warps have multiplied it */
    char *ring, *weight;    /* weight: [tile][8 columns][row][8] */
    u16 *b;                 /* [tile][row][LDB]: up to 64 columns */
    float4 *kept;           /* where the ring was: [warp][tile][lane] */
    int eights, n_places, blocks;
} places;

/* n_bytes: of shared memory. A place of the ring has a block of 64 columns of all rows. */
__device__ inline places places_in(unsigned char *bytes, int n_bytes, int longest, int eights, int blocks, int tiles) {
    places r;
    r.full = (uint64_t *)bytes, r.empty = r.full + MOST_PLACES;
    r.ring = (char *)bytes + BARS, r.n_places = (n_bytes - fixed_bytes(tiles, longest)) / (eights * EIGHT_BYTES), r.eights = eights, r.blocks = blocks;
    r.weight = r.ring + r.n_places * eights * EIGHT_BYTES;
    r.b = (u16 *)(r.weight + weight_bytes(tiles, blocks * BLOCK));
    r.kept = (float4 *)r.ring;
    return r;
}

/* Tile t's first row of the weight, behind the block's first. */
template <int TILES> __device__ inline int row_of(int t, int gated) {
    return gated && t >= TILES / 2 ? gated + (t - TILES / 2) * EIGHT : t * EIGHT;
}

/* Rows that are not there (n_rows) are others. */
template <int TILES> __device__ static void fetch_weight(char *to, const u16 *from, int64_t ld, int64_t n_rows, int gated, int columns) {
    int r = threadIdx.x % EIGHT;
#pragma unroll 1
    for (int t = 0; t < TILES; t++) {
        int64_t at = row_of<TILES>(t, gated) + r;
        const u16 *row = from + (at < n_rows ? at : 0) * ld;
#pragma unroll 4
        for (int c = threadIdx.x / EIGHT; c < columns / 8; c += CONSUMERS / EIGHT)
            copy16_passing(to + (t * (columns / 8) + c) * CORE + r * 16, row + c * 8);
    }
}

/* b's rows of all tiles, zeros where there are none. */
template <int TILES> __device__ static void fetch_b(u16 *to, const few_product &p, const few_launch &q, int64_t row0) {
#pragma unroll 1
    for (int i = threadIdx.x; i < TILES * 64; i += CONSUMERS) {
        int64_t row = row0 + row_of<TILES>(i / 64, q.gated) + i % 64 / 8;
        int column = i % 8 * 8, u_at;
        few_part part = {};
        bool have = part_of(&part, &u_at, p, q, row) && column < part.ldb;
        copy16(to + i / 8 * LDB + column, have ? part.b + (row - part.row0) * part.ldb + column : (const u16 *)p.w.data, have);
    }
}

/* One thread: blocks [from, to) of x. */
__device__ static void bring(const places &r, const uint4 *x, int from, int to) {
    int bytes = r.eights * EIGHT_BYTES;
    for (int i = from; i < to && i < r.blocks; i++) {
        int place = i % r.n_places, turn = i / r.n_places;
        if (turn > 0) bulk_wait(r.empty + place, (turn - 1) % 2);
        bulk_copy(r.ring + place * bytes, (const char *)x + (int64_t)i * bytes, bytes, r.full + place);
    }
}

template <int T, int TILES> __device__ static void chain(float (*acc)[4], const places &r, const uint4 *x) {
    int apart = r.blocks * EIGHT_BYTES, bytes = r.eights * EIGHT_BYTES, place = 0, turn = 0, before = -1;
    operand b = operand_of(r.weight, apart);
    keep_here<TILES>(acc);
    for (int i = 0; i < r.blocks; i++) {
        bulk_wait(r.full + place, turn);
#ifdef MR_EMULATE
        operand a = operand_of((const char *)x + (int64_t)i * bytes, 0); /* threads run one after the other: nobody brings it */
#else
        operand a = operand_of(r.ring + place * bytes, EIGHT_BYTES);
        (void)x;
#endif
        wide_begin();
#pragma unroll
        for (int s = 0; s < BLOCK / 16; s++)
            core_step<T, TILES>(acc, behind(a, s * 2 * CORE), behind(b, i * EIGHT_BYTES + s * 2 * CORE), apart, r.eights);
        wide_commit();
        wide_wait<1>();
        if (before >= 0 && threadIdx.x % 32 == 0) bulk_arrive(r.empty + before);
        before = place;
        if (++place == r.n_places) place = 0, turn ^= 1;
    }
    wide_wait<0>();
    keep_here<TILES>(acc);
}

/* --- behind the chain --- */

/* A lane's values of a tile: rows r and r + 8 of the block's, outputs o and o + 1. */
template <typename F> __device__ inline void each_value(int n_rows, int r, F f) {
#pragma unroll
    for (int h = 0; h < 2; h++)
        if (r + 8 * h < n_rows) f(h, r + 8 * h);
}

/* LoRA's share and bias of a warp's tiles, then y. */
template <int T, int TILES>
__device__ static void finish(float4 *kept, const few_product &p, const few_launch &q, const places &r, int64_t first, int warp, int lane) {
    uint4 u[2][2];
    int u_of = -1;
#pragma unroll 1
    for (int t = 0; t < TILES; t++) {
        int64_t row0 = first + row_of<TILES>(t, q.gated), o = row0 + lane % 4 * 2;
        float4 v = kept[t * 32];
        few_part part = {};
        int u_at = 0;
        if (p.bias) v.x += p.bias[o], v.y += p.bias[o + 1], v.z += p.bias[o], v.w += p.bias[o + 1];
        if (part_of(&part, &u_at, p, q, row0)) {
            float more[1][4] = {};
#pragma unroll 1
            for (int at = 0; at < part.r; at += BLOCK) {
                operands<1> b;
                if (u_of != u_at + at) {
                    u_of = u_at + at;
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        u[i / 2][i % 2] = __ldcg((const uint4 *)q.u + ((2 * warp + i / 2) * q.u_pairs + u_of / 32 + i % 2) * 32 + lane);
                    if (part.r - at < BLOCK)
#pragma unroll
                        for (int i = 0; i < 4; i++) {
                            int c = at + i % 2 * 32 + lane % 4 * 2;
                            uint4 &x = u[i / 2][i % 2];
                            x = make_uint4(inside(x.x, c, part.r), inside(x.y, c + 8, part.r), inside(x.z, c + 16, part.r), inside(x.w, c + 24, part.r));
                        }
                }
                if (at) {
                    b = load_b<1>(part, row0, at, lane);
                } else {
                    const u16 *row = r.b + (t * EIGHT + lane % 8) * LDB + lane / 8 * 8;
                    load_matrices(b.of[0], row), load_matrices(b.of[2], row + 32); /* two steps each */
                }
#pragma unroll
                for (int s = 0; s < 4; s++) {
                    uint4 x[2] = { u[0][s / 2], u[1][s / 2] };
                    step<T, 2, 1>(more, x, s % 2, b.of[s]);
                }
            }
            v.x = fmaf(part.scale, more[0][0], v.x), v.y = fmaf(part.scale, more[0][1], v.y);
            v.z = fmaf(part.scale, more[0][2], v.z), v.w = fmaf(part.scale, more[0][3], v.w);
        }
        if (q.gated) kept[t * 32] = v;
        if (p.y)
            each_value(p.n_rows, warp * ROWS + lane / 4, [&](int h, int row) {
                float *y = p.y + row * p.ldy + o;
                y[0] = h ? v.z : v.x, y[1] = h ? v.w : v.y;
            });
    }
}

/* silu(gate) * up. */
template <int T, int TILES>
__device__ static void give_act(const float4 *kept, const few_product &p, const few_launch &q, const places &r, int64_t first, int warp, int lane) {
#pragma unroll 1
    for (int t = 0; t < TILES / 2; t++) {
        int o = (int)first + t * EIGHT + lane % 4 * 2;
        float4 gate = kept[t * 32], up = kept[(t + TILES / 2) * 32];
        each_value(p.n_rows, warp * ROWS + lane / 4, [&](int h, int row) {
            float g = h ? gate.z : gate.x, z = h ? gate.w : gate.y;
            g = g / (1.0f + exp_f32(-g)) * (h ? up.z : up.x), z = z / (1.0f + exp_f32(-z)) * (h ? up.w : up.y);
            float *act = q.act + (int64_t)row * q.gated + o;
            act[0] = g, act[1] = z;
            *(uint32_t *)(q.packed_act + core_at(row, o, r.eights)) = pack2<T>(g, z);
        });
    }
}

#endif

template <int T, int TILES> __global__ static void __launch_bounds__(THREADS, 2) half_wide_kernel(few_product p, few_product a, few_launch q) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(MR_EMULATE)
    SHARED_BYTES(bytes);
    bool inner = (int)blockIdx.x < q.a_blocks; /* makes u */
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = (p.n_rows + ROWS - 1) / ROWS, gated = inner ? 0 : q.gated;
    int at = (int)blockIdx.x - (inner ? 0 : q.a_blocks), segment = at % q.n_segments, tile = at / q.n_segments, unit = tile * warps + warp;
    strip s = strip_of(p.w.n_in, (int64_t)tile * (gated ? TILES / 2 : TILES) * EIGHT, segment);
    int longest = q.n_segments > 1 ? (int)CU_K_SEGMENT : (int)p.w.n_in;
    places r = places_in(bytes, q.bytes, longest, (p.n_rows + EIGHT - 1) / EIGHT, s.n, TILES);
    const uint4 *x = q.x + (int64_t)s.block * r.eights * (EIGHT_BYTES / 16);
    if (warp == FOUR) {
        if (lane == 0) bulk_init(r.full, MOST_PLACES, 1), bulk_init(r.empty, MOST_PLACES, FOUR);
    } else {
        const u16 *w = (const u16 *)(inner ? a.w.data : p.w.data) + s.row0 * p.w.ld + s.block * BLOCK;
        fetch_weight<TILES>(r.weight, w, p.w.ld, (inner ? a.n_out : p.n_out) - s.row0, gated, s.n * BLOCK);
        if (!inner && p.n_parts) fetch_b<TILES>(r.b, p, q, s.row0);
        copy_commit();
    }
    __syncthreads();
    follow();
    if (warp == FOUR) {
        if (lane == 0) bring(r, x, 0, r.n_places);
        __syncthreads();
        if (lane == 0) bring(r, x, r.n_places, r.blocks);
        __syncwarp();
        __syncthreads();
        return;
    }
    float acc[TILES][4] = {}, old[TILES][4] = {};
    if (p.add && !inner)
        each_value(p.n_rows, warp * ROWS + lane / 4, [&](int h, int row) {
            const float *y = p.y + row * p.ldy + s.row0 + lane % 4 * 2;
#pragma unroll
            for (int i = 0; i < 2 * TILES; i++) old[i / 2][2 * h + i % 2] = y[i / 2 * EIGHT + i % 2];
        });
    copy_wait<0>();
    wide_sees();
    __syncthreads();
    chain<T, TILES>(acc, r, x);
    __syncthreads();
    if (warp >= warps) return;
    auto before = [&](float (*to)[4]) {
#pragma unroll
        for (int i = 0; i < 4 * TILES; i++) to[i / 4][i % 4] = old[i / 4][i % 4];
        return p.add && !inner;
    };
    if (q.n_segments > 1) {
        int *arrived = inner ? q.arrived + q.n_tiles * warps : q.arrived;
        if (!add_segments<TILES>(acc, q, arrived, inner ? q.a_sums : q.sums, unit, segment, lane, before)) return;
    } else if (p.add && !inner) {
#pragma unroll
        for (int i = 0; i < 4 * TILES; i++) acc[i / 4][i % 4] += old[i / 4][i % 4];
    }
    float4 *kept = r.kept + warp * TILES * 32 + lane;
#pragma unroll
    for (int t = 0; t < TILES; t++) kept[t * 32] = make_float4(acc[t][0], acc[t][1], acc[t][2], acc[t][3]);
    if (inner) {
#pragma unroll 1
        for (int t = 0; t < TILES; t++) {
            float v[1][4] = { { kept[t * 32].x, kept[t * 32].y, kept[t * 32].z, kept[t * 32].w } };
            put_u<T, 2>(v, a, q, s.row0 + t * EIGHT, lane, warp * ROWS);
        }
        u_done(q, lane);
        return;
    }
    int waited = 0;
    if (q.a_blocks) {
        while (load_acquire(q.ready) < q.n_a_tiles * warps) {
        }
        __syncwarp();
        if (lane == 0) waited = atomicAdd(q.ready + 1, 1) + 1; /* looked at last: it takes a while */
    }
    finish<T, TILES>(kept, p, q, r, s.row0, warp, lane);
    if (gated) give_act<T, TILES>(kept, p, q, r, s.row0, warp, lane);
    if (waited == q.n_tiles * warps) { /* nobody waits any more */
        q.ready[0] = 0;
        q.ready[1] = 0;
    }
#else
    (void)p, (void)a, (void)q;
#endif
}

/* --- launching --- */

/* With a ring of so many bytes at most. */
static int bytes_of(int tiles, int columns, int eights, int ring) {
    int place = eights * EIGHT_BYTES, n = ring / place < MOST_PLACES ? ring / place : (int)MOST_PLACES;
    return fixed_bytes(tiles, columns) + n * place;
}

/* Tiles of a block; 0: this is not the way. All blocks run at once, or joined.cu is faster. */
static int tiles_for(const mr_backend *b, int64_t n_out, int64_t k, int n_rows) {
    int segments = (int)((k + CU_K_SEGMENT - 1) / CU_K_SEGMENT), columns = segments > 1 ? (int)CU_K_SEGMENT : (int)k, n_sm = cu_of(b)->n_sm;
    if (k % BLOCK || n_out % (2 * EIGHT) || segments > MOST_SEGMENTS || !cu_wide_rows(b, n_rows)) return 0;
    for (int tiles = MOST_TILES; tiles >= 2; tiles /= 2) {
        int64_t blocks = n_out / (tiles * EIGHT) * segments, at_once = (cu_of(b)->max_shared - 1024) / bytes_of(tiles, columns, (n_rows + EIGHT - 1) / EIGHT, RING_BYTES);
        if (n_out % (tiles * EIGHT) || (tiles > 2 && blocks < n_sm / 2)) continue;
        return blocks <= (at_once < 2 ? at_once : 2) * n_sm ? tiles : 0;
    }
    return 0;
}

bool cu_half_wide_fits(const mr_backend *b, const mr_weight *w, int n_rows) {
    return w->store == w->compute && w->compute != MR_F32 && tiles_for(b, w->n_out, w->n_in, n_rows);
}

template <int T> static void launch(mr_backend *b, const char *op, const few_product *p, const few_product *a, const few_launch *q, int tiles) {
    auto kernel = tiles == 2 ? half_wide_kernel<T, 2> : half_wide_kernel<T, 4>;
    LAUNCH_EARLY(b, op, kernel, q->blocks, THREADS, q->bytes, *p, a ? *a : *p, *q);
}

bool cu_half_wide(mr_backend *b, const char *op, float *act, const few_product *p, const few_product *a, bool keep) {
    few_launch q = {};
    few_product here = *p;
    int64_t K = p->w.n_in, F = act ? p->n_out / 2 : 0;
    int tiles = p->w.store == p->w.compute ? tiles_for(b, p->n_out, K, p->n_rows) : 0;
    if (!tiles || F % BLOCK || (act && K > CU_K_SEGMENT) || (p->n_parts && !a) || !parts_apart(p)) return false;
    int warps = (p->n_rows + ROWS - 1) / ROWS;
    q.r8 = warps * ROWS / EIGHT, q.gated = (int)F;
    q.n_tiles = (int)(p->n_out / (tiles * EIGHT)), q.n_a_tiles = a ? (int)((a->n_out + tiles * EIGHT - 1) / (tiles * EIGHT)) : 0;
    q.n_segments = (int)((K + CU_K_SEGMENT - 1) / CU_K_SEGMENT);
    q.a_blocks = q.n_a_tiles * q.n_segments, q.blocks = q.a_blocks + q.n_tiles * q.n_segments;
    /* the ring is what a copy's way takes: as long as can be where a block has a multiprocessor to itself */
    int columns = (int)(q.n_segments > 1 ? (int64_t)CU_K_SEGMENT : K), room = cu_of(b)->max_shared - 1024 - fixed_bytes(tiles, columns);
    q.bytes = bytes_of(tiles, columns, (p->n_rows + EIGHT - 1) / EIGHT, q.blocks > cu_of(b)->n_sm || room < RING_BYTES ? (int)RING_BYTES : room);
    if (q.n_segments > 1 && (q.n_tiles + q.n_a_tiles) * warps > CU_MOST_TILES) return false;
    if (a) place_u(&q, p, a);
    if (act && !cu_packed_places(b, op, p->n_rows, F > K ? F : K)) return true; /* now, since x will lie there; a failure is kept */
    q.x = (const uint4 *)cu_cores_x(b, op, p);
    if (!q.x || !take_room(b, op, &q, 1, tiles) || (act && !(q.packed_act = cu_packed_room(b, op, p->n_rows, F)))) return true;
    q.act = act;
    if (act && !keep) here.y = NULL;
    if (p->w.compute == MR_F16)
        launch<F16>(b, op, &here, a, &q, tiles);
    else
        launch<BF16>(b, op, &here, a, &q, tiles);
    if (act) cu_packed_note(b, q.packed_act, act, p->n_rows, F);
    return true;
}
