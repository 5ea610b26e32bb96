/* attention_sm90.cu - attention_split.cu's large kernels with wgmma: four warps multiply 64 rows by what lies in shared memory, which so is
 * read once for four warps, and at twice the rate of mma. For heads of 65 to 128 values.
 *
 * Bits:     those of attention_split.cu: a step of wgmma adds 16 products to an element as mma does (compare shows it, and decoding, which
 *           stays with mma, relies on it). Of the backward pass nobody else needs the bits.
 * Layout:   a matrix of rows of 128 values lies as two halves of its columns, rows of 128 bytes, of which 16 bytes number c of row r are at
 *           c ^ r % 8: wgmma's "128B swizzle". The same place serves rows as columns of the right operand (K-major), and rows along the sum
 *           (MN-major). PTX ISA, wgmma: matrix descriptors; register fragments, which per warp are mma's.
 * Build:    wgmma is code for sm_90a alone. Where this file was compiled without that, its kernels are empty and have no registers to speak of,
 *           which is how `there` finds out. The emulator has none of it. */
#include <assert.h>

#include "cuda/attention_split.cuh"
#include "cuda/wgmma.cuh"

#ifdef MR_EMULATE

bool sm90_many(mr_backend *, const attending *, const tile_item *, int) { return false; }
bool sm90_dq(mr_backend *, const backward *, const tile_item *, int) { return false; }
bool sm90_dkv(mr_backend *, const backward *, const share_item *, int) { return false; }
int sm90_dkv_chunks(const mr_backend *, int) { return 1; }

#else

enum { W = 128, HALF = 64, GROUP = 128, ALIGN = 1024, DKV_CHUNKS = 2 }; /* GROUP: threads of four warps; ALIGN: bytes, of a matrix */

/* Rows of W values in 16 bits. */
template <int ROWS> struct alignas(ALIGN) matrix {
    u16 half[2][ROWS][HALF];
};
template <int ROWS> struct halves {
    matrix<ROWS> hi, lo;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* --- instructions --- */

/* Which four warps these are; the compiler has to see that all lanes agree. */
__device__ inline int four_of() { return __shfl_sync(0xffffffffu, (int)threadIdx.x / GROUP, 0); }

#define C64(s, c) C32(s, c, 0), C32(s, c, 8)
#define R64                                                                                                                          \
    R32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61," \
        "%62,%63"

/* c[64 rows, 8 NT columns] += a b: a in registers or in shared memory, b in shared memory. SUM: b's rows go along the sum. */
template <int NT, bool SUM> __device__ inline void wide(float (*c)[4], const uint32_t a[4], uint64_t b) {
    if (NT == 16)
        asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" R64 "}, {%64,%65,%66,%67}, %68, 1, 1, 1, %69;"
                     : C64("+f", c)
                     : A4(a), "l"(b), "n"(SUM ? 1 : 0));
    else
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" R32 "}, {%32,%33,%34,%35}, %36, 1, 1, 1, %37;"
                     : C32("+f", c, 0)
                     : A4(a), "l"(b), "n"(SUM ? 1 : 0));
}
template <int NT> __device__ inline void wide(float (*c)[4], uint64_t a, uint64_t b) {
    if (NT == 8)
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" R32 "}, %32, %33, 1, 1, 1, 0, 0;"
                     : C32("+f", c, 0)
                     : "l"(a), "l"(b));
    else
        asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {" R16 "}, %16, %17, 1, 1, 1, 0, 0;"
                     : C16("+f", c, 0)
                     : "l"(a), "l"(b));
}

/* The same with c = a b, of 64 columns: sums that begin while others are on their way may not be cleared by hand. */
template <bool SUM> __device__ inline void wide_first(float (*c)[4], const uint32_t a[4], uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" R32 "}, {%32,%33,%34,%35}, %36, 0, 1, 1, %37;"
                 : C32("=f", c, 0)
                 : A4(a), "l"(b), "n"(SUM ? 1 : 0));
}
__device__ inline void wide_first(float (*c)[4], uint64_t a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" R32 "}, %32, %33, 0, 1, 1, 0, 0;"
                 : C32("=f", c, 0)
                 : "l"(a), "l"(b));
}

/* Descriptors, in units of 16 bytes: 8 rows are 1024 bytes; `beside`: bytes between the halves, where both are asked at once. */
__device__ inline uint64_t place_of(const void *at, int beside) {
    unsigned from = (unsigned)__cvta_generic_to_shared(at);
    return (uint64_t)(from >> 4 & 0x3fff) | (uint64_t)(beside >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}
/* Step k of 16 along the columns, of the matrix' rows from `row` on (a multiple of 8). */
template <int ROWS> __device__ inline uint64_t across(const matrix<ROWS> &m, int k) {
    return place_of(&m.half[k / 4][0][0], 16) + (uint64_t)(k % 4 * 2);
}
/* Step k of 16 along the rows: all columns, or a half of them. */
template <int ROWS> __device__ inline uint64_t along(const matrix<ROWS> &m, int k, int half) {
    return place_of(&m.half[half][0][0], (int)sizeof m.half[0]) + (uint64_t)(k * 16 * HALF * 2 / 16);
}

/* --- copies --- */

/* Rows 0 .. n - 1 of P columns each from from_hi and from_lo, zeros elsewhere, by T threads, of which this one is `thread`. What is zero is not
 * read. */
template <int ROWS, int T>
__device__ inline void stage(halves<ROWS> &to, const u16 *from_hi, const u16 *from_lo, int P, int n, int thread) {
    enum { IN_ROW = W / 8, STEP = T / IN_ROW };
    static_assert(STEP % 8 == 0, "a thread's rows have their 16 bytes at one place");
    int c = thread % IN_ROW, first = thread / IN_ROW, place = (c % 8 ^ first % 8) * 8, left = c * 8 < P ? n - first : 0;
    u16 *to_hi = &to.hi.half[c / 8][first][place], *to_lo = &to.lo.half[c / 8][first][place];
    from_hi += first * P + c * 8, from_lo += first * P + c * 8;
#pragma unroll
    for (int r = 0; r < ROWS; r += STEP) {
        copy16(to_hi + r * HALF, from_hi + r * P, r < left);
        copy16(to_lo + r * HALF, from_lo + r * P, r < left);
    }
}

__device__ inline void copy4(float *to, const float *from, bool ok) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(ok ? 4 : 0)
                 : "memory");
}

template <typename ROOM> __device__ inline ROOM &room_in(unsigned char *bytes) {
    unsigned at = (unsigned)__cvta_generic_to_shared(bytes);
    return *(ROOM *)(bytes + ((at + ALIGN - 1) / ALIGN * ALIGN - at));
}

/* One step of 16 of a chain: c += (ah + al) * (hi + lo), as attention_split.cu's step. */
template <int NT, bool SUM> __device__ inline void wide_step(float (*c)[4], const uint32_t ah[4], const uint32_t al[4], uint64_t hi, uint64_t lo) {
    wide<NT, SUM>(c, ah, hi), wide<NT, SUM>(c, al, hi), wide<NT, SUM>(c, ah, lo);
}
template <int NT> __device__ inline void wide_step(float (*c)[4], uint64_t ah, uint64_t al, uint64_t hi, uint64_t lo) {
    wide<NT>(c, ah, hi), wide<NT>(c, al, hi), wide<NT>(c, ah, lo);
}

#endif

struct chunk_halves {
    halves<CHUNK> k, v;
};

/* Keys that a pair sees of its prefix and of its span: pair_sees without a division for every chunk. */
struct sight {
    int prefix, own;
};
__device__ inline sight sight_of(const mr_span &s, const tile &t, int pair) {
    sight x = { pair < t.n ? s.n_prefix : 0, pair < t.n ? s.past + pair / t.G + 1 : 0 };
    return x;
}
__device__ inline int seen_of(const sight &x, const chunk_ref &c) { return keys_seen(c.prefix ? x.prefix : x.own, c.number); }

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/* c = rows of a by rows of b, over all columns. */
__device__ inline void wide_chain(float (*c)[4], const halves<64> &a, const halves<64> &b) {
    wide_first(c, across(a.hi, 0), across(b.hi, 0)), wide<8>(c, across(a.lo, 0), across(b.hi, 0)), wide<8>(c, across(a.hi, 0), across(b.lo, 0));
#pragma unroll
    for (int k = 1; k < W / 16; k++) wide_step<8>(c, across(a.hi, k), across(a.lo, k), across(b.hi, k), across(b.lo, k));
}
#endif

/* --- forward --- */

enum { MANY_THREADS = 2 * GROUP };
struct many_room {
    halves<64> q[2]; /* of each four warps */
    halves<CHUNK> k[2], v[2];
    float mark[2][CHUNK];
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/* Halves of 64 pairs from rows of q in f32, by four warps. */
__device__ inline void stage_queries(halves<64> &to, const float *q, int64_t ldq, const tile &t, int pair, int D) {
    int c = threadIdx.x % (W / 8);
#pragma unroll
    for (int r = threadIdx.x % GROUP / (W / 8); r < 64; r += GROUP / (W / 8)) {
        bool have = pair + r < t.n;
        const float *row = q + (t.row0 + (have ? (pair + r) / t.G : 0)) * ldq + (t.kh * t.G + (have ? (pair + r) % t.G : 0)) * D;
        uint32_t hi[4], lo[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int d = c * 8 + 2 * i;
            split2(&hi[i], &lo[i], have && d < D ? row[d] : 0.0f, have && d + 1 < D ? row[d + 1] : 0.0f);
        }
        int place = (c % 8 ^ r % 8) * 8;
        *(uint4 *)&to.hi.half[c / 8][r][place] = make_uint4(hi[0], hi[1], hi[2], hi[3]);
        *(uint4 *)&to.lo.half[c / 8][r][place] = make_uint4(lo[0], lo[1], lo[2], lo[3]);
    }
}
#endif

/* A block has 128 pairs of a span and key head, each four warps 64 of them. A chunk's scores are multiplied during the softmax of the one
 * before; keys come two chunks ahead, values and marks one. */
__global__ static void __launch_bounds__(MANY_THREADS, 1) many_kernel(attending a, const tile_item *items) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    SHARED_BYTES(bytes);
    many_room &room = room_in<many_room>(bytes);
    tile_item item = items[blockIdx.x];
    mr_span s = a.spans[item.span];
    int kh = blockIdx.y, lane = threadIdx.x % 32, D = a.D, P = width_of(D), mine = four_of();
    tile t = tile_of(s, item.first, kh, a.G, a.H);
    int pair = item.first + (int)threadIdx.x / 32 * 16, group = item.first + mine * 64;
    int last = group + 63 < t.n ? group + 63 : t.n - 1, end = item.first + 128 < t.n ? item.first + 128 : t.n;
    int n_chunks = chunks_of(s.n_prefix) + chunks_of(s.past + (end - 1) / a.G + 1);
    float scale = 1.0f / sqrtf((float)D), o[16][4], x[8][4], next[8][4], most[2] = { -INFINITY, -INFINITY }, total[2] = { 0.0f, 0.0f };
    clear<16>(o);
    auto fetch = [&](int n, bool keys) {
        if (n >= n_chunks) return;
        chunk_ref c = chunk_of(s, n);
        const u16 *chunk = chunk_in(a.kv, c, kh, a.K, P);
        int here = keys_seen(c.total, c.number);
        if (keys)
            stage<CHUNK, MANY_THREADS>(room.k[n % 2], chunk, chunk + CHUNK * P, P, here, threadIdx.x);
        else
            stage<CHUNK, MANY_THREADS>(room.v[n % 2], chunk + 2 * CHUNK * P, chunk + 3 * CHUNK * P, P, here, threadIdx.x),
                stage_marks(room.mark[n % 2], chunk, P);
    };
    int n_seen = group < t.n ? chunks_of(s.n_prefix) + chunks_of(s.past + last / a.G + 1) : 0; /* of the four warps: the first ones */
    auto scores = [&](float(*to)[4], int n) {
        wide_begin();
        wide_chain(to, room.q[mine], room.k[n % 2]);
        wide_commit();
    };
    fetch(0, true);
    copy_commit();
    fetch(1, true), fetch(0, false);
    copy_commit();
    stage_queries(room.q[mine], a.q, a.ldq, t, group, D);
    auto turn = [&](int n) { /* all have chunk n - 1 behind them, and the scores of chunk n */
        copy_wait<0>();
        wide_sees();
        __syncthreads();
        fetch(n + 2, true), fetch(n + 1, false);
        copy_commit();
    };
    copy_wait<1>();
    wide_sees();
    __syncthreads();
    n_seen = __shfl_sync(0xffffffffu, n_seen, 0);
    const sight first = sight_of(s, t, pair), of_row[2] = { sight_of(s, t, pair + lane / 4), sight_of(s, t, pair + lane / 4 + 8) };
    scores(x, 0);
    wide_wait<0>();
    keep_here<8>(x);
#pragma unroll 1
    for (int n = 0; n < n_seen; n++) {
        chunk_ref c = chunk_of(s, n);
        turn(n);
        scores(next, n + 1); /* behind the last one: of whatever lies there, for nobody */
        bool all = pair + 15 < t.n && seen_of(first, c) == CHUNK;
        int seen[2] = { seen_of(of_row[0], c), seen_of(of_row[1], c) };
        float keep[2], take[2], m[2], sum[2];
        uint32_t ph[4][4], pl[4][4];
        chunk_weights(ph, pl, m, sum, x, seen, all, room.mark[n % 2], scale);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            keep[h] = 1.0f, take[h] = 0.0f;
            if (seen[h] > 0) merge(&most[h], &total[h], &keep[h], &take[h], m[h], sum[h]);
        }
        const halves<CHUNK> &values = room.v[n % 2];
        float y[2][8][4];
        wide_begin();
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float(*to)[4] = y[half];
            wide_first<true>(to, ph[0], along(values.hi, 0, half)), wide<8, true>(to, pl[0], along(values.hi, 0, half));
            wide<8, true>(to, ph[0], along(values.lo, 0, half));
#pragma unroll
            for (int k = 1; k < 4; k++) wide_step<8, true>(to, ph[k], pl[k], along(values.hi, k, half), along(values.lo, k, half));
            wide_commit();
        }
        auto merge_half = [&](int half) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                if (!all && seen[h] == 0) continue;
                for_scores([&](int j, int i) {
                    float *to = &o[8 * half + j][2 * h + i];
                    *to = fmaf(y[half][j][2 * h + i], take[h], *to * keep[h]);
                });
            }
        };
        wide_wait<1>();
        keep_here<8>(y[0]);
        merge_half(0);
        wide_wait<0>();
        keep_here<8>(y[1]);
        merge_half(1);
        keep_here<8>(next);
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) x[j][i] = next[j][i];
    }
    for (int n = n_seen; n < n_chunks; n++) turn(n);
    store_attended<16>(a, t, pair, D, o, most, total);
#else
    (void)a, (void)items;
#endif
}

/* --- dq --- */

enum { DQ_THREADS = 2 * GROUP };
struct dq_room {
    halves<64> q[2]; /* of each four warps */
    halves<CHUNK> k[3], v[2];
};

/* A block has 128 pairs of a span and key head, over chunks and keys in order. Its four warps take turns, which a barrier ends: one four has the
 * gradients of its scores while dq of the others, and their next scores, are on their way. These others fetch meanwhile, the first four keys,
 * the second values. */
__global__ static void __launch_bounds__(DQ_THREADS, 1) dq_kernel(backward w, const tile_item *items) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    SHARED_BYTES(bytes);
    dq_room &room = room_in<dq_room>(bytes);
    tile_item item = items[blockIdx.x];
    mr_span s = w.spans[item.span];
    int kh = blockIdx.y, lane = threadIdx.x % 32, mine = four_of(), D = w.D, P = width_of(D);
    tile t = tile_of(s, item.first, kh, w.G, w.H);
    int pair = item.first + (int)threadIdx.x / 32 * 16, group = item.first + mine * 64;
    int last = group + 63 < t.n ? group + 63 : t.n - 1, end = item.first + 128 < t.n ? item.first + 128 : t.n;
    int n_chunks = chunks_of(s.n_prefix) + chunks_of((end - 1) / w.G + 1);
    int n_seen = group < t.n ? chunks_of(s.n_prefix) + chunks_of(last / w.G + 1) : 0; /* of the four warps: the first ones */
    n_seen = __shfl_sync(0xffffffffu, n_seen, 0);
    const sight first = sight_of(s, t, pair), of_row[2] = { sight_of(s, t, pair + lane / 4), sight_of(s, t, pair + lane / 4 + 8) };
    float scale = 1.0f / sqrtf((float)D), scale2 = scale * LOG2_E, dq[16][4], x[8][4];
    grad_row row[2];
    uint32_t oh[8][4], ol[8][4];
    int64_t size = w.n_rows * P, pair0 = pair_place(w, s, kh);
    const u16 *rows = w.rows + pair0 * P;
    auto fetch = [&](int n, bool keys) { /* by four warps */
        if (n < n_chunks) {
            chunk_ref c = chunk_of(s, n);
            const u16 *from = chunk_in(w.kv, c, kh, w.K, P) + (keys ? 0 : 2 * CHUNK * P);
            stage<CHUNK, GROUP>(keys ? room.k[n % 3] : room.v[n % 2], from, from + CHUNK * P, P, keys_seen(c.total, c.number),
                                threadIdx.x % GROUP);
        }
        copy_commit();
    };
    auto end_turn = [&]() { /* what this thread has fetched is there for all */
        copy_wait<0>();
        wide_sees();
        __syncthreads();
    };
    if (group < t.n) {
        const u16 *from = rows + (int64_t)group * P;
        stage<64, GROUP>(room.q[mine], from, from + size, P, t.n - group, threadIdx.x % GROUP);
    }
    fetch(0, mine == 0), fetch(1, mine == 0);
#pragma unroll
    for (int k = 0; k < 8; k++) load_left(oh[k], rows + 2 * size, t, pair, P, k), load_left(ol[k], rows + 3 * size, t, pair, P, k);
    for (int h = 0; h < 2; h++) {
        int at = pair + lane / 4 + 8 * h;
        row[h] = grad_row_of(w, pair0 + at, at < t.n);
    }
    clear<16>(dq);
    end_turn();
    wide_begin();
    wide_chain(x, room.q[mine], room.k[0]);
    wide_commit();
    wide_wait<0>();
    keep_here<8>(x);
    if (mine == 1) __syncthreads();
#pragma unroll 1
    for (int n = 0; n < n_seen; n++) {
        const halves<CHUNK> &k_of = room.k[n % 3], &v_of = room.v[n % 2];
        chunk_ref c = chunk_of(s, n);
        bool all = pair + 15 < t.n && seen_of(first, c) == CHUNK;
        int seen[2] = { seen_of(of_row[0], c), seen_of(of_row[1], c) };
        float y[8][4];
        uint32_t dh[4][4], dl[4][4];
        wide_begin();
        wide_first<false>(y, oh[0], across(v_of.hi, 0)), wide<8, false>(y, ol[0], across(v_of.hi, 0));
        wide<8, false>(y, oh[0], across(v_of.lo, 0));
#pragma unroll
        for (int k = 1; k < 8; k++) wide_step<8, false>(y, oh[k], ol[k], across(v_of.hi, k), across(v_of.lo, k));
        wide_commit();
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) x[j][i] = score_weight(x[j][i], scale2, row[i / 2].lse);
        keep_here<8>(x);
        wide_wait<0>();
        keep_here<8>(y);
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) y[j][i] = score_grad(x[j][i], y[j][i], scale, row[i / 2].delta);
        if (!all)
#pragma unroll
            for (int j = 0; j < 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) y[j][i] = j * 8 + lane % 4 * 2 + i % 2 < seen[i / 2] ? y[j][i] : 0.0f;
#pragma unroll
        for (int k = 0; k < 4; k++) as_left(dh[k], dl[k], y + 2 * k);
        end_turn();
        keep_here<16>(dq);
        wide_begin();
#pragma unroll
        for (int k = 0; k < 4; k++) wide_step<16, true>(dq, dh[k], dl[k], along(k_of.hi, k, 0), along(k_of.lo, k, 0));
        wide_commit();
        wide_chain(x, room.q[mine], room.k[(n + 1) % 3]); /* behind the last one: of whatever lies there, for nobody */
        wide_commit();
        fetch(n + 2, mine == 0);
        wide_wait<0>();
        keep_here<16>(dq), keep_here<8>(x);
        __syncthreads();
    }
    for (int n = n_seen; n < n_chunks; n++) {
        end_turn();
        fetch(n + 2, mine == 0);
        __syncthreads();
    }
    if (mine == 0) __syncthreads();
    store_dq<16>(w, t, pair, kh, dq);
#else
    (void)w, (void)items;
#endif
}

/* --- dk, dv --- */

enum { TILE = 64, DKV_THREADS = DKV_CHUNKS * GROUP };
struct dkv_room {
    chunk_halves chunk[DKV_CHUNKS]; /* of each four warps */
    halves<TILE> rows[3];           /* q and d_o of tiles in turn: d_o of a tile, its q, d_o of the next */
    float lse[2][TILE], delta[2][TILE];
    int keys[2][TILE]; /* that a pair sees, counted as chunks are */
};

/* A block has up to two neighboring chunks, each four warps one of them, a warp 16 of its keys, over tiles of 64 pairs of the span. */
__global__ static void __launch_bounds__(DKV_THREADS, 1) dkv_kernel(backward w, const share_item *items) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    SHARED_BYTES(bytes);
    dkv_room &room = room_in<dkv_room>(bytes);
    share_item item = items[blockIdx.x / w.K];
    mr_span s = w.spans[item.span];
    int kh = blockIdx.x % w.K, mine = four_of(), number = item.number + (mine < item.chunks ? mine : 0);
    chunk_ref c = chunk_of(s, number);
    int here = mine < item.chunks ? keys_seen(c.total, c.number) : 0;
    int lane = threadIdx.x % 32, key16 = threadIdx.x % GROUP / 32 * 16, key = key16 + lane / 4, D = w.D, P = width_of(D);
    tile t = tile_of(s, 0, kh, w.G, w.H);
    const halves<CHUNK> &k_of = room.chunk[mine].k, &v_of = room.chunk[mine].v;
    int64_t size = w.n_rows * P, pair0 = pair_place(w, s, kh);
    const u16 *rows = w.rows + pair0 * P;
    float scale = 1.0f / sqrtf((float)D), scale2 = scale * LOG2_E, dk[16][4], dv[16][4];
    int start = item.first / TILE * TILE, n_tiles = (item.end - start + TILE - 1) / TILE;
    auto keys_of = [&](int pair) { return pair >= t.n ? 0 : c.prefix ? s.n_prefix : pair / w.G + 1; };
    auto fetch_d_o = [&](int n) {
        int first = start + n * TILE, i = first + (int)threadIdx.x;
        if (n < n_tiles) {
            const u16 *from = rows + 2 * size + (int64_t)first * P;
            stage<TILE, DKV_THREADS>(room.rows[2 * n % 3], from, from + size, P, t.n - first, threadIdx.x);
            if (threadIdx.x < TILE) {
                copy4(&room.lse[n % 2][threadIdx.x], w.row_lse + pair0 + i, i < t.n);
                copy4(&room.delta[n % 2][threadIdx.x], w.delta + pair0 + i, i < t.n);
                room.keys[n % 2][threadIdx.x] = keys_of(i);
            }
        }
        copy_commit();
    };
    auto fetch_q = [&](int n) {
        if (n < n_tiles) {
            const u16 *from = rows + (int64_t)(start + n * TILE) * P;
            stage<TILE, DKV_THREADS>(room.rows[(2 * n + 1) % 3], from, from + size, P, t.n - start - n * TILE, threadIdx.x);
        }
        copy_commit();
    };
    const u16 *chunk = chunk_in(w.kv, c, kh, w.K, P);
    stage<CHUNK, GROUP>(room.chunk[mine].k, chunk, chunk + CHUNK * P, P, here, threadIdx.x % GROUP);
    stage<CHUNK, GROUP>(room.chunk[mine].v, chunk + 2 * CHUNK * P, chunk + 3 * CHUNK * P, P, here, threadIdx.x % GROUP);
    fetch_d_o(0), fetch_q(0);
    clear<16>(dk), clear<16>(dv);
#pragma unroll 1
    for (int n = 0; n < n_tiles; n++) {
        int first = start + n * TILE, last = first + TILE <= t.n ? first + TILE - 1 : t.n - 1, begin = c.number * CHUNK;
        copy_wait<0>();
        wide_sees();
        __syncthreads(); /* all have tile n - 1 behind them */
        fetch_d_o(n + 1);
        if (agreed(here == 0 || keys_of(last) <= begin)) { /* all four warps: none of the pairs sees the chunk */
            __syncthreads();
            fetch_q(n + 1);
            continue;
        }
        const halves<TILE> &d_o = room.rows[2 * n % 3], &q = room.rows[(2 * n + 1) % 3];
        bool all = first + TILE <= t.n && begin + key16 + 15 < keys_of(first); /* of a warp */
        float x[8][4], y[8][4];
        uint32_t ph[4][4], pl[4][4], dh[4][4], dl[4][4];
        wide_begin();
        wide_chain(x, k_of, q);
        wide_commit();
        wide_chain(y, v_of, d_o);
        wide_commit();
        wide_wait<1>();
        keep_here<8>(x);
        auto pair_of = [&](int j) { return j * 8 + lane % 4 * 2; };
        /* A branch is what the compiler moves no waiting across: what is before it goes on beside the products that are waited for behind it. */
        auto hide = [&](float(*of)[4]) {
            if (all) return;
#pragma unroll
            for (int j = 0; j < 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (begin + key + i / 2 * 8 >= room.keys[n % 2][pair_of(j) + i % 2]) of[j][i] = 0.0f;
        };
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float2 lse = *(const float2 *)&room.lse[n % 2][pair_of(j)];
#pragma unroll
            for (int i = 0; i < 4; i++) x[j][i] = score_weight(x[j][i], scale2, i % 2 ? lse.y : lse.x);
        }
        hide(x);
        wide_wait<0>();
        keep_here<8>(y);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float2 delta = *(const float2 *)&room.delta[n % 2][pair_of(j)];
#pragma unroll
            for (int i = 0; i < 4; i++) y[j][i] = score_grad(x[j][i], y[j][i], scale, i % 2 ? delta.y : delta.x);
        }
#pragma unroll
        for (int k = 0; k < 4; k++) as_left(ph[k], pl[k], x + 2 * k);
        keep_here<16>(dv);
        wide_begin();
#pragma unroll
        for (int k = 0; k < 4; k++) wide_step<16, true>(dv, ph[k], pl[k], along(d_o.hi, k, 0), along(d_o.lo, k, 0));
        wide_commit();
        hide(y);
#pragma unroll
        for (int k = 0; k < 4; k++) as_left(dh[k], dl[k], y + 2 * k);
        keep_here<16>(dk);
        wide_begin();
#pragma unroll
        for (int k = 0; k < 4; k++) wide_step<16, true>(dk, dh[k], dl[k], along(q.hi, k, 0), along(q.lo, k, 0));
        wide_commit();
        wide_wait<1>();
        __syncthreads(); /* all have used d_o */
        fetch_q(n + 1);
        wide_wait<0>();
        keep_here<16>(dv), keep_here<16>(dk);
    }
    store_dkv<16>(w, item, s, c, kh, key, here, dk, dv);
#else
    (void)w, (void)items;
#endif
}

/* --- host --- */

/* An empty kernel needs a few registers, these over a hundred. */
template <typename K> static bool there(const mr_backend *b, K kernel, int D) {
    enum { LEAST = 100 };
    cudaFuncAttributes a;
    if (cu_of(b)->sm != 90 || D <= W / 2 || D > W) return false;
    return cudaFuncGetAttributes(&a, kernel) == cudaSuccess && a.numRegs >= LEAST;
}

bool sm90_many(mr_backend *b, const attending *a, const tile_item *items, int n) {
    if (!there(b, many_kernel, a->D)) return false;
    LAUNCH(b, "attention", many_kernel, dim3(n, a->K), MANY_THREADS, (int)sizeof(many_room) + ALIGN, *a, items);
    return true;
}

bool sm90_dq(mr_backend *b, const backward *w, const tile_item *items, int n) {
    if (!there(b, dq_kernel, w->D)) return false;
    LAUNCH(b, "attention_bwd", dq_kernel, dim3(n, w->K), DQ_THREADS, (int)sizeof(dq_room) + ALIGN, *w, items);
    return true;
}

bool sm90_dkv(mr_backend *b, const backward *w, const share_item *items, int n) {
    if (!there(b, dkv_kernel, w->D)) return false;
    LAUNCH(b, "attention_bwd", dkv_kernel, n * w->K, DKV_THREADS, (int)sizeof(dkv_room) + ALIGN, *w, items);
    return true;
}

int sm90_dkv_chunks(const mr_backend *b, int D) { return there(b, dkv_kernel, D) ? DKV_CHUNKS : 1; }

#endif
