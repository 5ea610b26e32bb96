/* few_sm75.cu - products of 1 to 16 rows with weights of NF4 or 16 bits (decoding) on a Turing: gemm.cuh. few_nf4.cu, few_half.cu serve other GPUs.
 *
 * A Turing has 64 KB of shared memory for a multiprocessor and copies nothing into it in the background: where the warps of a block share pieces of x, all of
 * them wait for each. Here a warp is by itself.
 *
 * Work:    a warp makes 16 outputs of one segment of K for all rows. The weight is mma's left operand, 8 rows of x its right one.
 * x:       comes packed (half.cuh) and goes from the caches to registers, a block of 64 columns ahead; so do the weights, AHEAD blocks ahead, and as many
 *          again are asked for into the second cache. Shared memory has nothing but scales.
 * LoRA:    u = x @ a^T is made by the first blocks of the same launch, 8 columns a warp, in the same way. The others wait for u only before its
 *          product with b. Blocks start in the order of their numbers, so those that are waited for always run.
 * Gated:   gate and up of the same outputs are a block's two warps; silu(gate) * up is made when both are done. */
#include "cuda/few_nf4.cuh"

enum { OUTPUTS = 2 * EIGHT, MOST_ROWS = 16, LINE = 128 /* bytes */ };
enum { SCALES = MAP_BYTES / 4 }; /* of shared memory, in floats: levels of scales, then each warp's scales */

__device__ inline int nearer(int a, int b) { return a < b ? a : b; }

/* The chain over a strip of w: load(i) asks for block i of 64 columns, a W::raw, make(raw, i) makes its operands, prefetch(i) asks for AHEAD blocks from i on
 * into the second cache; any of them may be behind the last one. x: the lane's first of the strip, `pairs` pairs for 8 rows. */
template <int T, int R8, typename W> struct lone_chain {
    enum { NT = W::NT, AHEAD = W::AHEAD };
    typename W::raw ring[AHEAD];
    operands<NT> next;
    uint4 rows[2][R8];
    const uint4 *x;
    int pairs, n;

    __device__ void load_rows(int i) {
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int e = 0; e < R8; e++) rows[h][e] = x[(e * pairs + i * 2 + h) * 32];
    }
    __device__ void begin(const W &w) {
#pragma unroll
        for (int d = 0; d < AHEAD; d++) ring[d] = w.load(d < n ? d : n - 1);
        load_rows(0);
        w.prefetch(AHEAD);
    }
    /* Block i, of ring[d]. The next one's operands are made while it is multiplied. INSIDE: AHEAD more blocks follow. */
    template <bool INSIDE> __device__ void one(float (*acc)[4], int d, int i, const W &w) {
        operands<NT> now = next;
        uint4 v[2][R8];
#pragma unroll
        for (int k = 0; k < 2 * R8; k++) v[k / R8][k % R8] = rows[k / R8][k % R8];
        if (INSIDE || i + AHEAD < n) ring[d] = w.load(i + AHEAD);
        int after = INSIDE || i + 1 < n ? i + 1 : i;
        load_rows(after);
        next = w.make(ring[(d + 1) % AHEAD], after);
#pragma unroll
        for (int s = 0; s < 4; s++) step<T, R8, NT>(acc, v[s / 2], s % 2, now.of[s]);
    }
    __device__ void run(float (*acc)[4], const W &w) {
        next = w.make(ring[0], 0);
        int at = 0;
        for (; at + 2 * AHEAD <= n; at += AHEAD) { /* no branch between the blocks */
            w.prefetch(at + 2 * AHEAD);
#pragma unroll
            for (int d = 0; d < AHEAD; d++) one<true>(acc, d, at + d, w);
        }
        for (; at < n; at += AHEAD)
#pragma unroll
            for (int d = 0; d < AHEAD; d++)
                if (at + d < n) one<false>(acc, d, at + d, w);
    }
};

/* --- weights of 16 bits: a part of the product's, and LoRA's a --- */

template <int EIGHTS> struct half_weights {
    enum { NT = EIGHTS, AHEAD = 4 / NT, ROWS = EIGHT * NT };
    typedef operands<NT> raw;
    const u16 *row[NT], *line; /* the lane's of mma's operand, from its first column on; of those whose lines it asks for */
    int n;

    /* Rows from s.row0 on; in place of those behind the last come others, whose results nobody reads. */
    __device__ void begin(const weight_view &w, int64_t n_rows, const strip &s, int lane) {
        auto place = [&](int r) { return (const u16 *)w.data + (s.row0 + r < n_rows ? s.row0 + r : n_rows - 1) * w.ld + s.block * BLOCK; };
#pragma unroll
        for (int t = 0; t < NT; t++) row[t] = place(t * EIGHT + lane / 4) + lane % 4 * 2;
        line = place(lane % ROWS), n = s.n;
    }
    __device__ void settle(unsigned char *, int, int) {}
    __device__ raw load(int i) const {
        raw b;
#pragma unroll
        for (int k = 0; k < 8 * NT; k++) b.of[k / NT / 2][k / NT % 2 * NT + k % NT] = *(const uint32_t *)(row[k % NT] + i * BLOCK + k / NT * 8);
        return b;
    }
    __device__ operands<NT> make(const raw &b, int) const { return b; }
    __device__ void prefetch(int i) const { fetch_line(line + nearer(i + (int)threadIdx.x % 32 / ROWS, n - 1) * BLOCK); }
};

/* --- NF4 --- */

/* A strip's scales, to[block][LD]. Two lanes have a row's, half of its blocks each (with an odd number both make the one in the middle); codes come by
 * words from wherever they begin. */
struct strip_scales {
    enum { LD = OUTPUTS + 1, WORDS = SEGMENT_BLOCKS / 2 / 4 + 1, GROUP = 256 /* blocks with one second level */ };
    uint32_t codes[WORDS];
    float nested[2], offset[2];
    int from, n, shift, group_left; /* of the lane's blocks: the first; all; bytes of the first word before it; how many have nested[0] */

    __device__ void load(const weight_view &w, const strip &s, int lane) {
        n = (s.n + 1) / 2, from = lane % 2 * (s.n - n);
        int first = ((int)s.row0 + lane / 2) * (int)(w.n_in / BLOCK) + s.block + from;
        shift = (int)((uintptr_t)(w.absmax + first) % 4), group_left = GROUP - first % GROUP;
        const uint32_t *words = (const uint32_t *)(w.absmax + first - shift);
#pragma unroll
        for (int k = 0; k < WORDS; k++) codes[k] = 4 * k < n + shift ? words[k] : 0;
#pragma unroll
        for (int k = 0; k < 2; k++) {
            int group = (first + k * (n - 1)) / GROUP;
            nested[k] = w.nested[group], offset[k] = w.offsets ? w.offsets[group] : w.offset;
        }
    }
    __device__ void lay(float *to, const float *map, int lane) const {
        to += from * LD + lane / 2;
#pragma unroll
        for (int i = 0; i < WORDS - 1; i++) {
            if (4 * i >= n) break;
            uint32_t four = permute(codes[i], codes[i + 1], 0x3210u + (uint32_t)shift * 0x1111u);
            float scale[4];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                bool later = 4 * i + k >= group_left;
                scale[k] = map[four >> 8 * k & 255] * (later ? nested[1] : nested[0]) + (later ? offset[1] : offset[0]);
            }
#pragma unroll
            for (int k = 0; k < 4; k++)
                if (4 * i + k < n) to[(4 * i + k) * LD] = scale[k];
        }
    }
};

/* A block has 16 values a row, those of all codes: a row's four lanes make four each, in 16 bits, and give them to each other. So they are looked up in
 * registers, byte by byte, and 64 columns of 16 outputs take 8 conversions of a lane, not 32, which a Turing has few of, and no shared memory. */
template <int T> struct row_values {
    uint32_t low[4], high[4]; /* bytes of the values; [d]: of codes 4 (lane % 4 ^ d) and on */

    __device__ row_values(const float values[4], float scale) {
        uint32_t first = pack2<T>(values[0] * scale, values[1] * scale), second = pack2<T>(values[2] * scale, values[3] * scale);
        low[0] = permute(first, second, 0x6420), high[0] = permute(first, second, 0x7531);
#pragma unroll
        for (int d = 1; d < 4; d++) low[d] = __shfl_xor_sync(0xffffffffu, low[0], d), high[d] = __shfl_xor_sync(0xffffffffu, high[0], d);
    }
    /* Of eight codes: to[i] has the two of byte i, the upper one first. flip: lane % 4 in the upper half of each. */
    __device__ void look_up(uint32_t to[4], uint32_t codes, uint32_t flip) const {
        codes ^= flip;
        uint32_t lower = codes << 4, place = codes & 0x77777777u; /* which of eight; of the first eight or the second by the sign, a byte's and the same of `lower` */
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t second = permute(codes, lower, i ? 0xbfaeu : 0x9d8cu), at = place >> 16 * i;
            uint32_t l = (permute(low[0], low[1], at) & ~second) | (permute(low[2], low[3], at) & second);
            uint32_t h = (permute(high[0], high[1], at) & ~second) | (permute(high[2], high[3], at) & second);
            to[2 * i] = permute(l, h, 0x4051), to[2 * i + 1] = permute(l, h, 0x6273);
        }
    }
};

template <int T> struct nf4_weights {
    enum { NT = 2, AHEAD = 4 };
    typedef lane_codes<2> raw;
    const uint8_t *codes;
    int lane, n;
    uint32_t flip;
    float values[4]; /* of the lane's four codes */
    strip_scales made;
    float4 levels[2]; /* a block's are a warp's or two's affair */
    const float *scales;

    __device__ void begin(const weight_view &w, int64_t, const strip &s, int l) {
        lane = l, n = s.n, flip = (uint32_t)(lane % 4) * 0x44444444u;
        codes = w.codes + (s.row0 / OUTPUTS * (w.n_in / BLOCK) + s.block) * 512;
        made.load(w, s, lane);
#pragma unroll
        for (int i = 0; i < 2; i++) levels[i] = ((const float4 *)(w.tables + CU_MAP))[lane + 32 * i];
#pragma unroll
        for (int i = 0; i < 4; i++) values[i] = w.tables[CU_NF4 + lane % 4 * 4 + i];
    }
    /* What was asked for is there, and becomes scales; bytes: the block's shared memory, of which a warp has `each`. */
    __device__ void settle(unsigned char *bytes, int warp, int each) {
        float *room = (float *)(bytes + warp * each);
#pragma unroll
        for (int i = 0; i < 2; i++) ((float4 *)room)[lane + 32 * i] = levels[i];
        __syncwarp();
        made.lay(room + SCALES, room, lane);
        __syncwarp();
        scales = room + SCALES + lane / 4;
    }
    __device__ raw load(int i) const { return load_codes<2>(codes + i * 512 + lane * 16); }
    __device__ operands<2> make(const raw &c, int block) const {
        operands<2> b;
#pragma unroll
        for (int t = 0; t < 2; t++) {
            row_values<T> row(values, scales[block * strip_scales::LD + EIGHT * t]);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                uint32_t two[4];
                row.look_up(two, c.w[2 * t + i], flip);
#pragma unroll
                for (int k = 0; k < 4; k++) b.of[2 * i + k / 2][k % 2 * 2 + t] = two[k];
            }
        }
        return b;
    }
    __device__ void prefetch(int i) const { fetch_line(codes + nearer(i * 512 + lane * LINE % (AHEAD * 512), n * 512 - LINE)); }
};

/* --- u --- */

template <int T, int R8> __device__ static void make_u(const few_product &a, const few_launch &q, int job, int lane) {
    int segment = job % q.n_segments, tile = job / q.n_segments;
    if (tile >= q.n_a_tiles) return;
    strip s = strip_of(a.w.n_in, (int64_t)tile * EIGHT, segment);
    half_weights<1> w;
    float acc[sums_of(R8, 1)][4] = {};
    lone_chain<T, R8, half_weights<1>> chain = { {}, {}, {}, q.x + s.block * 64 + lane, (int)(a.w.n_in / 32), s.n };
    w.begin(a.w, a.n_out, s, lane);
    chain.begin(w);
    chain.run(acc, w);
    if (q.n_segments > 1 && !add_segments<sums_of(R8, 1)>(acc, q, q.arrived + q.n_tiles, q.a_sums, tile, segment, lane, [](float (*)[4]) { return false; })) return;
    put_u<T, R8>(acc, a, q, s.row0, lane);
    u_done(q, lane);
}

/* --- the kernel --- */

/* Gate's and up's values meet, in what shared memory the two warps of a block do not need any more; the first one has gate's. */
template <int T, int R8> __device__ static void add_gate(float (*acc)[4], const few_product &p, const few_launch &q, int64_t row0, float *room, int lane) {
    __syncthreads();
    if (threadIdx.x >= 32)
#pragma unroll
        for (int i = 0; i < 4 * R8; i++) room[i * 32 + lane] = acc[i / 4][i % 4];
    __syncthreads();
    if (threadIdx.x >= 32) return;
#pragma unroll
    for (int i = 0; i < 4 * R8; i++) {
        float &g = acc[i / 4][i % 4];
        g = g / (1.0f + exp_f32(-g)) * room[i * 32 + lane];
    }
    for_results<R8, 2>(acc, row0, lane, [&](float &v, int row, int64_t o, int) {
        if (row >= p.n_rows) return;
        q.act[(int64_t)row * q.gated + o] = v;
        q.packed_act[packed_at(row, (int)o, q.gated / 32)] = to_half<T>(v);
    });
}

template <int T, int R8, typename W, bool GATED>
__global__ static void __launch_bounds__(GATED ? 64 : 32, (R8 == 1 ? 16 : 12) / (GATED ? 2 : 1)) sm75_kernel(few_product p, few_product a, few_launch q) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ < 800 /* empty where other kernels serve */
    enum { WARPS = GATED ? 2 : 1, N = sums_of(R8, 2) };
    SHARED_BYTES(bytes);
    int lane = threadIdx.x % 32, warp = GATED ? threadIdx.x / 32 : 0, job = ((int)blockIdx.x - q.a_blocks) * WARPS + warp;
    if ((int)blockIdx.x < q.a_blocks) {
        make_u<T, R8>(a, q, job + q.a_blocks * WARPS, lane);
        return;
    }
    int segment = GATED ? 0 : job % q.n_segments, tile = GATED ? job : job / q.n_segments;
    strip s = strip_of(p.w.n_in, GATED ? (int64_t)(tile % 2) * q.gated + tile / 2 * OUTPUTS : (int64_t)tile * OUTPUTS, segment);
    W w;
    lone_chain<T, R8, W> chain = { {}, {}, {}, q.x + s.block * 64 + lane, (int)(p.w.n_in / 32), s.n };
    w.begin(p.w, p.n_out, s, lane); /* what is waited for longest comes first */
    chain.begin(w);
    few_part part = {};
    int u_at = 0;
    bool has_part = part_of(&part, &u_at, p, q, s.row0);
    if (has_part && lane < OUTPUTS) fetch_line(part.b + (s.row0 - part.row0 + lane) * part.ldb);
    float old[N][4] = {}, bias[2] = {};
    if (p.add)
        for_results<R8, 2>(old, s.row0, lane, [&](float &v, int row, int64_t o, int) {
            if (row < p.n_rows) v = p.y[row * p.ldy + o];
        });
    for (int i = 0; p.bias && i < 2; i++) bias[i] = p.bias[s.row0 + lane / 4 + i * EIGHT];
    w.settle(bytes, warp, q.bytes / WARPS);

    float acc[N][4] = {};
    chain.run(acc, w);
    auto before = [&](float (*to)[4]) {
#pragma unroll
        for (int i = 0; i < 4 * N; i++) to[i / 4][i % 4] = old[i / 4][i % 4];
        return p.add;
    };
    if (q.n_segments > 1) {
        if (!add_segments<N>(acc, q, q.arrived, q.sums, tile, segment, lane, before)) return;
    } else if (p.add) {
#pragma unroll
        for (int i = 0; i < 4 * N; i++) acc[i / 4][i % 4] += old[i / 4][i % 4];
    }
    if (p.bias) for_results<R8, 2>(acc, s.row0, lane, [&](float &v, int, int64_t, int which) { v += bias[which]; });
    int waited = 0;
    operands<2> b = {};
    if (has_part) b = load_b<2>(part, s.row0, 0, lane);
    if (q.a_blocks) {
        while (load_acquire(q.ready) < q.n_a_tiles) {
        }
        __syncwarp();
        if (lane == 0) waited = atomicAdd(q.ready + 1, 1) + 1; /* looked at last: it takes a while */
    }
    if (has_part) add_part<T, R8, 2>(acc, q, part, u_at, b, s.row0, lane);
    for_results<R8, 2>(acc, s.row0, lane, [&](float &v, int row, int64_t o, int) {
        if (row < p.n_rows) p.y[row * p.ldy + o] = v;
    });
    if (GATED) add_gate<T, R8>(acc, p, q, s.row0, (float *)bytes, lane);
    if (waited == q.n_tiles) { /* nobody waits any more */
        q.ready[0] = 0;
        q.ready[1] = 0;
    }
#endif
}

/* --- launching --- */

static bool plan(const mr_backend *b, few_launch *q, const few_product *p, const few_product *a, int gated) {
    const weight_view *w = &p->w;
    int64_t segments = (w->n_in + CU_K_SEGMENT - 1) / CU_K_SEGMENT, columns = segments > 1 ? (int64_t)CU_K_SEGMENT : w->n_in;
    int warps = gated ? 2 : 1;
    if (cu_of(b)->sm >= 80 || w->compute != MR_F16 || (w->store == MR_NF4 ? !w->tiled : w->store != MR_F16) || w->n_in % BLOCK || p->n_out % OUTPUTS ||
        p->n_rows > MOST_ROWS || segments > MOST_SEGMENTS || (p->n_parts && !a) || !parts_apart(p))
        return false;
    q->r8 = (p->n_rows + EIGHT - 1) / EIGHT, q->gated = gated;
    q->n_tiles = (int)(p->n_out / OUTPUTS);
    q->n_a_tiles = a ? (int)((a->n_out + EIGHT - 1) / EIGHT) : 0;
    q->n_segments = (int)segments;
    q->a_blocks = (q->n_a_tiles * q->n_segments + warps - 1) / warps;
    q->blocks = q->a_blocks + q->n_tiles * q->n_segments / warps;
    q->bytes = w->store == MR_NF4 ? (int)cu_round((SCALES + columns / BLOCK * strip_scales::LD) * 4, 16) * warps : gated ? q->r8 * 512 : 0;
    if (a) place_u(q, p, a);
    return segments == 1 || q->n_tiles + q->n_a_tiles <= CU_MOST_TILES;
}

template <int R8, typename W> static void launch(mr_backend *b, const char *op, const few_product *p, const few_product *a, const few_launch *q) {
    if (q->gated)
        LAUNCH(b, op, (sm75_kernel<F16, R8, W, true>), q->blocks, 64, q->bytes, *p, a ? *a : *p, *q);
    else
        LAUNCH(b, op, (sm75_kernel<F16, R8, W, false>), q->blocks, 32, q->bytes, *p, a ? *a : *p, *q);
}
template <int R8> static void launch_rows(mr_backend *b, const char *op, const few_product *p, const few_product *a, const few_launch *q) {
    if (p->w.store == MR_NF4)
        launch<R8, nf4_weights<F16>>(b, op, p, a, q);
    else
        launch<R8, half_weights<2>>(b, op, p, a, q);
}

bool cu_few_sm75(mr_backend *b, const char *op, float *act, const few_product *p, const few_product *a) {
    few_launch q = {};
    int64_t K = p->w.n_in, F = act ? p->n_out / 2 : 0;
    if (F % BLOCK || (act && K > CU_K_SEGMENT) || !plan(b, &q, p, a, (int)F)) return false;
    if (act && !cu_packed_places(b, op, p->n_rows, F > K ? F : K)) return true; /* now, since x will lie there; a failure is kept */
    q.x = (const uint4 *)cu_packed_x(b, op, p);
    if (!q.x || !take_room(b, op, &q, 2)) return true;
    if (act && !(q.packed_act = cu_packed_room(b, op, p->n_rows, F))) return true;
    q.act = act;
    if (q.r8 == 1)
        launch_rows<1>(b, op, p, a, &q);
    else
        launch_rows<2>(b, op, p, a, &q);
    if (act) cu_packed_note(b, q.packed_act, act, p->n_rows, F);
    return true;
}
