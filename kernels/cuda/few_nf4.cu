/* few_nf4.cu - products of a few rows with NF4 weights (decoding): gemm.cuh. few.cu serves else.
 *
 * Work:    a warp makes 8 * NT outputs of one segment of K for all rows. Of 16 outputs the weight is mma's left operand,
 *          and 8 rows of x its right one; of 8 outputs, where there are too few for all multiprocessors, it is the other
 *          way round. A block has as many warps of one segment as go round the multiprocessors evenly. With several
 *          segments their sums meet in global memory: the last of a tile's warps to arrive adds them, in order.
 * x:       comes in 16 bits and in the order of operands ("packed": half.cuh), from the kernel that made it (note) or
 *          from pack_kernel, and passes through a ring of pieces in shared memory.
 * Weights: a lane's codes go from global memory to its registers, DEPTH blocks of 64 columns ahead, without any barrier.
 *          A byte of codes is an operand's register: a table has its two values for each byte, once for each lane, so that
 *          one instruction makes a place in it and no two lanes of half a warp want the same bank.
 * LoRA:    u = x @ a^T is made by the first blocks of the same launch while the others' chains run; they wait for u only
 *          before its product with b. Blocks start in the order of their numbers, so those that are waited for always
 *          run. u is packed, too; each part's begins at a multiple of 64 columns.
 * Gated:   gate and up of the same outputs are neighboring warps; silu(gate) * up is made when both are done. */
#include "cuda/few_nf4.cuh"

/* Warps of a block: more rows take more registers. */
__host__ __device__ constexpr int warps_of(int r8) {
    return r8 == 1 ? 16 : r8 <= 6 ? 12 : 8;
}
/* Blocks of 64 columns of x in a piece. */
__host__ __device__ constexpr int piece_of(int r8) {
    return r8 <= 2 ? 16 : 8;
}

/* --- x --- */

/* All of the block: `blocks` blocks of 64 columns of all rows, from block `from` of x on; [eight][blocks * 64 places]. */
template <int R8, int PIECE> __device__ static void fetch_x(uint4 *to, const uint4 *x, int pairs, int from, int blocks) {
#pragma unroll
    for (int e = 0; e < R8; e++)
        for (int i = threadIdx.x; i < blocks * 64; i += blockDim.x)
            copy16(to + e * PIECE * 64 + i, x + (e * pairs + from * 2) * 32 + i, true);
}

/* chain(from, to, x of block `from`): a piece's blocks; all warps of the block call this. */
template <int R8, typename F> __device__ static void for_pieces(uint4 *place, const nf4_plan &q, int pairs, const strip &s, F chain) {
    enum { PIECE = piece_of(R8) };
    auto fetch = [&](int piece) {
        int left = s.n - piece * PIECE;
        if (left > 0)
            fetch_x<R8, PIECE>(place + piece % q.ring * R8 * PIECE * 64, q.x, pairs, s.block + piece * PIECE, left < PIECE ? left : PIECE);
        copy_commit();
    };
    for (int i = 0; i < q.ring - 1; i++) fetch(i);
    for (int piece = 0; piece * PIECE < s.n; piece++) {
        if (q.ring == 4)
            copy_wait<2>();
        else if (q.ring == 3)
            copy_wait<1>();
        else
            copy_wait<0>();
        __syncthreads();
        fetch(piece + q.ring - 1);
        chain(piece * PIECE, piece * PIECE + PIECE, place + piece % q.ring * R8 * PIECE * 64);
    }
}

/* x: the lane's first of the block. */
template <int T, int R8, int NT> __device__ inline void multiply(float (*acc)[4], const operands<NT> &b, const uint4 *x) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        uint4 v[R8];
#pragma unroll
        for (int e = 0; e < R8; e++) v[e] = x[(e * piece_of(R8) * 2 + h) * 32];
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

    /* Blocks from .. to - 1 of n; DEPTH divides `from`. x: the lane's first of block `from`; scales: the first of row
     * lane / 4. A block is unpacked while the one before it is multiplied. */
    __device__ void run(float (*acc)[4], int from, int to, int n, const uint4 *x, const float *scales, const float *table) {
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
                multiply<T, R8, NT>(acc, now, x + (i - from) * 64);
            }
        for (; at < to; at++) { /* less than DEPTH, at n */
            multiply<T, R8, NT>(acc, next, x + (at - from) * 64);
            if (at + 1 < to)
                next = unpack<T, NT, PAIRS>(load_codes<NT>(codes + (at + 1) * 512), scales + (at + 1) * LD, table);
        }
    }
};

/* --- u --- */

template <int T, int R8> __device__ static void make_u(const few_product &a, const nf4_plan &q, unsigned char *bytes) {
    auto fetch = [&](uint4 *to, int from, int blocks) { fetch_x<R8, A_PIECE>(to, q.x, (int)(a.w.n_in / 32), from, blocks); };
    make_u_of<T, R8>(a, q, bytes, fetch, [](float (*acc)[4], const uint4 *x, const unsigned char *rows, int n, int lane) {
#pragma unroll
        for (int i = 0; i < A_PIECE * 2; i++) { /* 32 columns */
            uint32_t b[4];
            uint4 v[R8];
            if (i / 2 >= n) break;
#pragma unroll
            for (int e = 0; e < R8; e++) v[e] = x[(e * A_PIECE * 2 + i) * 32 + lane];
            load_a(b, rows, i, lane);
            step<T, R8, 1>(acc, v, 0, b);
            step<T, R8, 1>(acc, v, 1, b + 2);
        }
    });
}

/* --- the kernel --- */

/* Gate's and up's values meet. All warps of the block call it, even ones with gate's; room: of shared memory that nobody uses. */
template <int T, int R8, int NT>
__device__ static void add_gate(float (*acc)[4], const few_product &p, const nf4_plan &q, int64_t row0, bool mine, float *room, int warp,
                                int lane) {
    enum { N = sums_of(R8, NT) };
    float *up = room + warp / 2 * N * 128 + lane;
    __syncthreads();
    if (mine && warp % 2)
#pragma unroll
        for (int i = 0; i < 4 * N; i++) up[i * 32] = acc[i / 4][i % 4];
    __syncthreads();
    if (!mine || warp % 2) return;
#pragma unroll
    for (int i = 0; i < 4 * N; i++) {
        float g = acc[i / 4][i % 4];
        acc[i / 4][i % 4] = g / (1.0f + exp_f32(-g)) * up[i * 32];
    }
    for_results<R8, NT>(acc, row0, lane, [&](float &v, int row, int64_t o, int) {
        if (row >= p.n_rows) return;
        q.act[(int64_t)row * q.gated + o] = v;
        q.packed_act[packed_at(row, (int)o, q.gated / 32)] = to_half<T>(v);
    });
}

template <int T, int R8, int NT, bool PAIRS>
__global__ static void __launch_bounds__(warps_of(R8) * 32, 1) nf4_kernel(few_product p, few_product a, nf4_plan q) {
    SHARED_BYTES(bytes);
    if ((int)blockIdx.x < q.a_blocks) {
        make_u<T, R8>(a, q, bytes);
        return;
    }
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, at = (int)blockIdx.x - q.a_blocks;
    int segment = at % q.n_segments, tile = at / q.n_segments * q.tiles + warp, pairs = (int)(p.w.n_in / 32);
    int64_t row0 = q.gated ? (int64_t)(tile % 2) * q.gated + tile / 2 * (EIGHT * NT) : (int64_t)tile * (EIGHT * NT);
    strip s = strip_of(p.w.n_in, row0, segment);
    bool mine = warp < q.tiles && tile < q.n_tiles, single = q.n_segments == 1;
    float *table = (float *)bytes, *map = (float *)(bytes + q.table_bytes - MAP_BYTES), *scales = (float *)(bytes + q.table_bytes + q.x_bytes) + warp * q.scale_blocks * (EIGHT * NT + 1);
    uint4 *x = (uint4 *)(bytes + q.table_bytes);

    nf4_chain<T, R8, NT, PAIRS> chain;
    few_part part = {};
    int u_at = 0;
    bool has_part = part_of(&part, &u_at, p, q, s.row0) && mine;
    lane_scales<NT> made = {};
    if (mine) { /* what is waited for longest comes first */
        made.load(p.w, s, lane);
        chain.begin(p.w, s, lane);
        if (lane == 0 && (NT == 2 || s.row0 % 16 == 0))
            fetch_ahead(p.w.codes + (s.row0 / 16 * (p.w.n_in / BLOCK) + s.block) * 512, s.n * 512);
        if (has_part && lane == 0) fetch_ahead(part.b + (s.row0 - part.row0) * part.ldb, (int)(EIGHT * NT * part.ldb) * 2);
    }
    for (int i = threadIdx.x; i < MAP_BYTES / 4; i += blockDim.x) map[i] = p.w.tables[CU_MAP + i];
    lay_table<PAIRS>(table, p.w.tables + CU_NF4);
    __syncthreads();
    if (mine) {
        weight_view w = p.w;
        w.tables = map - CU_MAP; /* nearer */
        made.lay(scales, w, s, lane);
    }
    follow();
    enum {
        N = sums_of(R8, NT),
        EARLY = R8 == 1 ? N : 1
    }; /* old values are loaded before the chain where registers suffice */
    float acc[N][4] = {}, early[EARLY][4] = {}, bias[2] = {};
    auto old = [&](float (*to)[4]) {
        if (p.add)
            for_results<R8, NT>(to, s.row0, lane, [&](float &v, int row, int64_t o, int) {
                if (row < p.n_rows) v = p.y[row * p.ldy + o];
            });
        return p.add;
    };
    if (R8 == 1 && mine && single) old(early);
    for (int i = 0; mine && p.bias && i < 2; i++)
        bias[i] = p.bias[s.row0 + (NT == 1 ? lane % 4 * 2 + i : lane / 4 + i * 8)];
    for_pieces<R8>(x, q, pairs, s, [&](int from, int to, const uint4 *piece) {
        if (mine) chain.run(acc, from, to, s.n, piece + lane, scales + lane / 4, table);
    });
    bool last = mine;
    if (mine && !single)
        last = add_segments<N>(acc, q, q.arrived, q.sums, tile, segment, lane, old);
    else if (R8 == 1 && p.add)
#pragma unroll
        for (int i = 0; i < 4 * EARLY; i++) acc[i / 4][i % 4] += early[i / 4][i % 4];
    else if (mine && p.add)
        for_results<R8, NT>(acc, s.row0, lane, [&](float &v, int row, int64_t o, int) {
            if (row < p.n_rows) v += p.y[row * p.ldy + o];
        });
    if (last && p.bias) for_results<R8, NT>(acc, s.row0, lane, [&](float &v, int, int64_t, int which) { v += bias[which]; });
    if (last && has_part) {
        operands<NT> b = load_b<NT>(part, s.row0, 0, lane);
        while (load_acquire(q.ready) < q.n_a_tiles) {
        }
        add_part<T, R8, NT>(acc, q, part, u_at, b, s.row0, lane);
    }
    if (last)
        for_results<R8, NT>(acc, s.row0, lane, [&](float &v, int row, int64_t o, int) {
            if (row < p.n_rows) p.y[row * p.ldy + o] = v;
        });
    if (q.gated) add_gate<T, R8, NT>(acc, p, q, s.row0, mine, (float *)x, warp, lane);
    if (q.a_blocks == 0) return;
    __syncthreads();
    if (threadIdx.x == 0 && atomicAdd(q.ready + 1, 1) == q.blocks - q.a_blocks - 1) { /* nobody waits any more */
        q.ready[0] = 0;
        q.ready[1] = 0;
    }
}

/* --- launching --- */

/* Rows in the order of operands; those behind the last are those of mma that nobody reads. */
template <int T> __global__ static void pack_kernel(uint4 *to, const float *x, int64_t ldx, int n_rows, int pairs) {
    follow();
    int lane = threadIdx.x % 32, pair = blockIdx.x * ((int)blockDim.x / 32) + threadIdx.x / 32, row = blockIdx.y * 8 + lane / 4;
    if (pair >= pairs) return;
    const float *from = x + (row < n_rows ? row : n_rows - 1) * ldx + pair * 32 + lane % 4 * 2;
    uint32_t v[4];
#pragma unroll
    for (int k = 0; k < 4; k++) v[k] = pack2<T>(from[8 * k], from[8 * k + 1]);
    to[(blockIdx.y * pairs + pair) * 32 + lane] = make_uint4(v[0], v[1], v[2], v[3]);
}

size_t cu_packed_bytes(int64_t n, int64_t k) {
    int64_t rows = n < CU_FEW_ROWS ? n : (int64_t)CU_FEW_ROWS;
    return (size_t)(2 * cu_round(rows, rows > 16 ? 16 : 8) * cu_round(k, BLOCK)) * sizeof(u16);
}

char *cu_packed_places(mr_backend *b, const char *op, int n_rows, int64_t k) {
    cu_state *s = cu_of(b);
    void *before = s->scratch[CU_SLOT_PACKED].p;
    char *place = (char *)cu_scratch(b, op, CU_SLOT_PACKED, cu_packed_bytes(n_rows, k));
    if (place != before) s->packed.at = NULL;
    return place;
}

u16 *cu_packed_room(mr_backend *b, const char *op, int n_rows, int64_t k) {
    cu_state *s = cu_of(b);
    char *place = cu_packed_places(b, op, n_rows, k);
    if (!place) return NULL;
    s->packed.second = !s->packed.second;
    return (u16 *)(place + (s->packed.second ? s->scratch[CU_SLOT_PACKED].bytes / 1024 * 512 : 0));
}

u16 *cu_packed_wanted(mr_backend *b, const char *op, int n_rows, int64_t k) {
    cu_state *s = cu_of(b);
    if (s->packed.type == MR_F32) return NULL;
    if (s->packed.layout != CU_PLAIN) return n_rows > CU_FEW_ROWS || k % BLOCK ? NULL : cu_packed_room(b, op, n_rows, k);
    if (!s->packed.asked || n_rows < CU_JOINED_FROM_HALF || n_rows > CU_SLAB / CU_K_SEGMENT || k > CU_K_SEGMENT || k % 8) return NULL;
    return (u16 *)cu_scratch(b, op, CU_SLOT_X, (size_t)(n_rows * k) * sizeof(u16));
}

void cu_gradient_note(mr_backend *b, const u16 *packed, const float *rows, int n_rows, int64_t k, int64_t ld) {
    cu_state *s = cu_of(b);
    s->packed.at = packed, s->packed.rows = rows, s->packed.n_rows = n_rows, s->packed.k = k, s->packed.ld = ld, s->packed.n_ops = b->n_ops;
}

void cu_packed_note(mr_backend *b, const u16 *packed, const float *rows, int n_rows, int64_t k) {
    cu_gradient_note(b, packed, rows, n_rows, k, 0);
    cu_of(b)->packed.asked = false;
}

void cu_packed_still(mr_backend *b, const float *y, int64_t n) {
    cu_state *s = cu_of(b);
    const float *from = s->packed.rows, *end = from + s->packed.n_rows * s->packed.k;
    if (s->packed.at && s->packed.n_ops + 1 == b->n_ops && (y + n <= from || y >= end)) s->packed.n_ops = b->n_ops;
}

static bool noted(const mr_backend *b, const float *rows, int n_rows, int64_t k) {
    const cu_state *s = cu_of(b);
    return s->packed.at && s->packed.rows == rows && s->packed.n_rows == n_rows && s->packed.k == k && s->packed.n_ops == b->n_ops;
}

const u16 *cu_packed_found(mr_backend *b, const float *rows, int n_rows, int64_t k, mr_dtype type, cu_layout layout) {
    cu_state *s = cu_of(b);
    bool there = noted(b, rows, n_rows, k) && !s->packed.ld && s->packed.type == type && s->packed.layout == layout;
    s->packed.type = type, s->packed.layout = layout, s->packed.asked = true;
    return there ? s->packed.at : NULL;
}

static cu_wish *wish_of(cu_state *s, const float *rows, int n_rows, int64_t k) {
    for (int i = 0; i < s->n_wishes && i < CU_MOST_WISHES; i++) {
        cu_wish *w = &s->wishes[i];
        if (w->rows == rows && w->n_rows == n_rows && w->k == k) return w;
    }
    return NULL;
}

u16 *cu_gradient_wanted(mr_backend *b, const char *op, const float *rows, int n_rows, int64_t k, mr_dtype *type, int64_t *ld) {
    const cu_wish *w = wish_of(cu_of(b), rows, n_rows, k);
    if (!w) return NULL;
    *type = w->type, *ld = cu_round(k + w->more, 8);
    return (u16 *)cu_scratch(b, op, CU_SLOT_X, (size_t)(n_rows * *ld) * sizeof(u16));
}

const u16 *cu_gradient_found(mr_backend *b, const float *rows, int n_rows, int64_t k, int64_t more, mr_dtype type, int64_t *ld) {
    cu_state *s = cu_of(b);
    cu_wish *w = wish_of(s, rows, n_rows, k);
    bool there = noted(b, rows, n_rows, k) && s->packed.ld >= k + more && w && w->type == type;
    if (n_rows > CU_SLAB / CU_K_SEGMENT || k + more > CU_K_SEGMENT || k % 8) return NULL; /* they are converted in parts */
    if (!w) {
        w = &s->wishes[s->n_wishes++ % CU_MOST_WISHES];
        *w = cu_wish{ rows, n_rows, k, more, type };
    }
    w->type = type, w->more = more > w->more ? more : w->more;
    *ld = s->packed.ld;
    return there ? s->packed.at : NULL;
}

const u16 *cu_packed_x(mr_backend *b, const char *op, const few_product *p) {
    const u16 *there = cu_packed_found(b, p->x, p->n_rows, p->w.n_in, (mr_dtype)p->w.compute, CU_PACKED);
    if (there) return there;
    u16 *to = cu_packed_room(b, op, p->n_rows, p->w.n_in);
    if (!to) return NULL;
    int pairs = (int)(p->w.n_in / 32);
    dim3 grid((unsigned)(pairs + 7) / 8, (unsigned)(p->n_rows + 7) / 8);
    if (p->w.compute == MR_F16)
        LAUNCH_EARLY(b, op, pack_kernel<F16>, grid, 256, 0, (uint4 *)to, p->x, p->ldx, p->n_rows, pairs);
    else
        LAUNCH_EARLY(b, op, pack_kernel<BF16>, grid, 256, 0, (uint4 *)to, p->x, p->ldx, p->n_rows, pairs);
    return to;
}

/* Tiles of a block so that all blocks run at once if they can, and those that make u are not the last: by what 64 columns cost, in cycles of
 * shared memory, of a tile (16 outputs: 42, 8: 26) and of u's (its bytes, coming from far). No chain is faster than its mma. */
enum { CHAIN = 4 * 33 };
static bool lay_out(const mr_backend *b, nf4_plan *q, int64_t k) {
    int n_sm = cu_of(b)->n_sm, most = warps_of(q->r8), most_bytes = cu_of(b)->max_shared - 1024, even = q->gated ? 2 : 1;
    int a_most = (most_bytes / (A_STAGES * A_BYTES)) - q->r8;
    if (a_most < 1) return false;
    int least = 1 << 30;
    for (int each = 1; each <= most && each <= a_most; each++) {
        int a_blocks = (q->n_a_tiles + each - 1) / each * q->n_segments, left = (n_sm - a_blocks) / q->n_segments,
            per = left > 0 ? (q->n_tiles + left - 1) / left : most;
        per = (per + even - 1) / even * even;
        if (per > most) per = most;
        int main = per * (q->nt == 2 ? 42 : 26), u = q->n_a_tiles ? 20 * (each + q->r8) : 0, cost = main > u ? main : u;
        if (cost < CHAIN) cost = CHAIN;
        if (cost >= least) continue;
        least = cost, q->tiles = per, q->a_tiles = each, q->a_blocks = a_blocks;
    }
    q->scale_blocks = (int)(k < CU_K_SEGMENT ? k : (int64_t)CU_K_SEGMENT) / BLOCK;
    int piece = piece_of(q->r8), pieces = (q->scale_blocks + piece - 1) / piece, scales = q->scale_blocks * (EIGHT * q->nt + 1) * 4;
    int a_bytes = q->n_a_tiles ? A_STAGES * A_BYTES * (q->r8 + q->a_tiles) : 0;
    q->warps = q->tiles > q->a_tiles ? q->tiles : q->a_tiles;
    if (q->warps < 8) q->warps = 8; /* all fetch x */
    for (int pairs = q->r8 == 1; pairs >= 0; pairs--) /* for more rows unpacking is the smaller part */
        for (q->ring = pieces < 3 ? pieces + 1 : 4; q->ring >= 2; q->ring--) {
            q->pairs = pairs;
            q->table_bytes = (pairs ? TABLE_BYTES : 64) + MAP_BYTES;
            q->x_bytes = (q->ring < pieces ? q->ring : pieces) * piece * q->r8 * 1024;
            for (int tiles = q->tiles; tiles >= even; tiles -= even) {
                int own = q->table_bytes + q->x_bytes + tiles * scales, gate = q->table_bytes + tiles / 2 * sums_of(q->r8, q->nt) * 512;
                q->bytes = own > a_bytes ? own : a_bytes;
                if (gate > q->bytes) q->bytes = gate;
                if (q->bytes > most_bytes) continue;
                if (tiles < q->tiles && (pairs || q->ring > 2)) break; /* something smaller first */
                q->tiles = tiles;
                q->blocks = q->a_blocks + (q->n_tiles + tiles - 1) / tiles * q->n_segments;
                return true;
            }
        }
    return false;
}

static bool plan(const mr_backend *b, nf4_plan *q, const few_product *p, const few_product *a, int gated) {
    const weight_view *w = &p->w;
    int64_t segments = (w->n_in + CU_K_SEGMENT - 1) / CU_K_SEGMENT;
    if (!parts_apart(p)) return false;
    if (w->store != MR_NF4 || !w->tiled || segments > MOST_SEGMENTS || (p->n_parts && !a) || p->n_rows > CU_FEW_ROWS) return false;
    q->n_segments = (int)segments;
    q->r8 = (p->n_rows + 7) / 8;
    if (q->r8 > 2) q->r8 = (q->r8 + 1) / 2 * 2;
    q->nt = p->n_out / 16 >= 4 * cu_of(b)->n_sm ? 2 : 1;
    q->gated = gated;
    q->n_tiles = (int)(p->n_out / (EIGHT * q->nt));
    q->n_a_tiles = a ? (int)((a->n_out + EIGHT - 1) / EIGHT) : 0;
    if (segments > 1 && q->n_tiles + q->n_a_tiles > CU_MOST_TILES) return false;
    place_u(q, p, a);
    return lay_out(b, q, w->n_in);
}

template <int T, int R8, int NT, bool PAIRS>
static void launch(mr_backend *b, const char *op, const few_product *p, const few_product *a, const nf4_plan *q) {
    auto kernel = nf4_kernel<T, R8, NT, PAIRS>;
    LAUNCH_EARLY(b, op, kernel, q->blocks, q->warps * 32, q->bytes, *p, a ? *a : *p, *q);
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
    case 6: launch<T, 6, NT, false>(b, op, p, a, q); break;
    default: launch<T, 8, NT, false>(b, op, p, a, q);
    }
}

static bool run(mr_backend *b, const char *op, const few_product *p, const few_product *a, nf4_plan *q) {
    q->x = (const uint4 *)cu_packed_x(b, op, p);
    if (!q->x || !take_room(b, op, q, q->nt)) return true; /* the failure is kept */
    if (q->gated && !(q->packed_act = cu_packed_room(b, op, p->n_rows, q->gated))) return true;
    if (p->w.compute == MR_F16) {
        if (q->nt == 2)
            launch_rows<F16, 2>(b, op, p, a, q);
        else
            launch_rows<F16, 1>(b, op, p, a, q);
    } else {
        if (q->nt == 2)
            launch_rows<BF16, 2>(b, op, p, a, q);
        else
            launch_rows<BF16, 1>(b, op, p, a, q);
    }
    if (q->gated) cu_packed_note(b, q->packed_act, q->act, p->n_rows, q->gated);
    return true;
}

bool cu_few_nf4(mr_backend *b, const char *op, const few_product *p, const few_product *a) {
    nf4_plan q = {};
    return plan(b, &q, p, a, 0) && run(b, op, p, a, &q);
}

bool cu_few_gated(mr_backend *b, const char *op, float *act, const few_product *p, const few_product *a) {
    nf4_plan q = {};
    int64_t F = p->n_out / 2;
    if (F % BLOCK || p->w.n_in > CU_K_SEGMENT || !plan(b, &q, p, a, (int)F)) return false;
    if (!cu_packed_places(b, op, p->n_rows, F > p->w.n_in ? F : p->w.n_in)) return true; /* now, since x will lie there */
    q.act = act;
    return run(b, op, p, a, &q);
}
