/* weights.cu - matrices on the device: f32, 16 bits, NF4; making, refilling and reading them.
 *
 * Dense:  [n_out][ld], zero behind n_in; ld is a multiple of 8 for 16-bit types, so that every row begins at 16 bytes.
 * NF4:    quantized on the device, byte for byte as kernels/cpu/nf4.c (spec/quantization.md, 5.1 to 5.3). When n_out is a
 *         multiple of 16 and n_in of 64 the codes lie in tiles of 16 rows x 64 columns, 512 bytes each, row block by row block: 16 bytes
 *         for lane l of a warp, 8 of row l / 4 and 8 of row l / 4 + 8, byte i of them holding the columns 8 i + 2 (l % 4) and the
 *         next. Those are the lane's operands of mma.m16n8k16: a warp streams tiles with one load of 16 bytes a lane. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/half.cuh"
#include "cuda/lt.h"

enum { THREADS = 256 };

static inline int grid_for(int64_t n) {
    int64_t blocks = (n + THREADS - 1) / THREADS;
    return (int)(blocks < 1 ? 1 : blocks < 1 << 20 ? blocks : 1 << 20);
}

/* --- dense --- */

/* Two neighbors a thread. */
template <int T>
__global__ static void to_half_kernel(u16 *dst, int64_t ld, int width, const float *src, int64_t lds, int64_t rows,
                                      int n_cols) {
    int c = 2 * (blockIdx.x * blockDim.x + threadIdx.x);
    follow();
    if (c >= width) return;
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
        const float *from = src + row * lds;
        *(uint32_t *)(dst + row * ld + c) = pack2<T>(c < n_cols ? from[c] : 0.0f, c + 1 < n_cols ? from[c + 1] : 0.0f);
    }
}

/* The same for whole groups of four at 16 bytes: a thread has one of each of several rows, whose loads are on their way together. */
enum { HALF_ROWS = 4 };
template <int T>
__global__ static void __launch_bounds__(THREADS) to_half4_kernel(u16 *dst, int64_t ld, const float *src, int64_t lds, int64_t rows, int cols) {
    int c = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (c >= cols) return;
    for (int64_t row = blockIdx.y * (int64_t)HALF_ROWS; row < rows; row += gridDim.y * (int64_t)HALF_ROWS) {
        float4 x[HALF_ROWS];
#pragma unroll
        for (int i = 0; i < HALF_ROWS; i++)
            if (row + i < rows) x[i] = *(const float4 *)(src + (row + i) * lds + c);
#pragma unroll
        for (int i = 0; i < HALF_ROWS; i++) {
            uint2 two = { pack2<T>(x[i].x, x[i].y), pack2<T>(x[i].z, x[i].w) };
            if (row + i < rows) *(uint2 *)(dst + (row + i) * ld + c) = two;
        }
    }
}

template <int T> static void to_half4(mr_backend *b, const char *op, u16 *dst, int64_t ld, const float *src, int64_t lds, int64_t rows, int64_t cols) {
    int threads = cols / 4 < THREADS ? (int)cu_round(cols / 4, 32) : (int)THREADS;
    int64_t groups = (rows + HALF_ROWS - 1) / HALF_ROWS;
    dim3 grid((unsigned)((cols / 4 + threads - 1) / threads), (unsigned)(groups < 32768 ? groups : 32768));
    LAUNCH(b, op, to_half4_kernel<T>, grid, threads, 0, dst, ld, src, lds, rows, (int)cols);
}

void cu_to_half(mr_backend *b, const char *op, int type, u16 *dst, int64_t ld, int64_t width, const float *src,
                int64_t lds, int64_t rows, int64_t cols) {
    if (rows <= 0 || width <= 0) return;
    assert(ld % 2 == 0 && width % 2 == 0);
    if (width == cols && cols % 4 == 0 && ld % 4 == 0 && lds % 4 == 0 && (uintptr_t)src % 16 == 0 && (uintptr_t)dst % 8 == 0) {
        if (type == F16)
            to_half4<F16>(b, op, dst, ld, src, lds, rows, cols);
        else
            to_half4<BF16>(b, op, dst, ld, src, lds, rows, cols);
        return;
    }
    dim3 grid((unsigned)((width / 2 + THREADS - 1) / THREADS), (unsigned)(rows < 32768 ? rows : 32768));
    if (type == F16)
        LAUNCH_EARLY(b, op, to_half_kernel<F16>, grid, THREADS, 0, dst, ld, (int)width, src, lds, rows, (int)cols);
    else
        LAUNCH_EARLY(b, op, to_half_kernel<BF16>, grid, THREADS, 0, dst, ld, (int)width, src, lds, rows, (int)cols);
}

/* rows [row, row + n) from f32 in device memory */
static void fill_rows(mr_backend *b, const char *op, mr_weight *w, const float *src, int64_t row, int64_t n) {
    if (w->store == MR_F32)
        cu_check(b, op, cudaMemcpyAsync((float *)w->data + row * w->ld, src, (size_t)(n * w->n_in) * sizeof(float),
                                        cudaMemcpyDeviceToDevice, cu_of(b)->stream));
    else
        cu_to_half(b, op, half_type(w->store), (u16 *)w->data + row * w->ld, w->ld, w->ld, src, w->n_in, n, w->n_in);
}

/* --- NF4 --- */

enum { NF4_BLOCK = 64, NF4_NESTED = 256 };

/* One warp a block of 64 values; values[count] begin at element `at`, a multiple of 64. Each lane makes one byte. */
__global__ static void nf4_quantize_kernel(uint8_t *codes, float *absmax, const float *values, int64_t at, int64_t count,
                                           const float *tables) {
    int64_t block = blockIdx.x * (int64_t)(THREADS / 32) + threadIdx.x / 32, from = block * NF4_BLOCK;
    if (from >= count) return; /* whole warps */
    int lane = threadIdx.x % 32;
    int64_t i = from + 2 * lane, left = count - from;
    float v[2] = { i < count ? values[i] : 0.0f, i + 1 < count ? values[i + 1] : 0.0f };
    float most = warp_max(fmaxf(fmaxf(0.0f, fabsf(v[0])), fabsf(v[1])));
    if (lane == 0) absmax[at / NF4_BLOCK + block] = most;
    float inverse = 1.0f / most;
    int code[2];
    for (int k = 0; k < 2; k++) {
        float x = v[k] * inverse;
        code[k] = most == 0.0f ? 7 : 0; /* all zero: any code means 0; 7 is the book's zero */
        for (int t = 0; t < 15 && most != 0.0f; t++) code[k] += x > (tables[CU_NF4 + t] + tables[CU_NF4 + t + 1]) / 2.0f;
        if (2 * lane + k >= left) code[k] = 0;
    }
    if (2 * lane < left) codes[(at + i) / 2] = (uint8_t)(code[0] << 4 | code[1]);
}

/* One block of threads a group of 256 maxima: minus their mean, then to the signed dynamic map. */
__global__ static void nf4_absmax_kernel(uint8_t *codes, float *nested, const float *absmax, int64_t n, float offset,
                                         const float *tables) {
    __shared__ float room[32];
    int64_t i = (int64_t)blockIdx.x * NF4_NESTED + threadIdx.x;
    float a = i < n ? absmax[i] - offset : 0.0f, most = block_max(fabsf(a), room), inverse = 1.0f / most;
    if (threadIdx.x == 0) nested[blockIdx.x] = most;
    if (i < n) codes[i] = most == 0.0f ? 127 : mr_map_nearest(tables + CU_MAP, a * inverse); /* 127 is the map's zero */
}

/* From plain rows to tiles (see the head of this file): 16 bytes a thread. */
__global__ static void nf4_tile_kernel(uint8_t *tiled, const uint8_t *plain, int64_t n_in, int64_t n) {
    for (int64_t at = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; at < n; at += (int64_t)gridDim.x * blockDim.x) {
        int64_t tile = at / 32, tiles = n_in / NF4_BLOCK, row = tile / tiles * 16, col = tile % tiles * NF4_BLOCK;
        int lane = (int)(at % 32);
        for (int k = 0; k < 16; k++) {
            int64_t r = row + lane / 4 + k / 8 * 8;
            tiled[at * 16 + k] = plain[(r * n_in + col) / 2 + k % 8 * 4 + lane % 4];
        }
    }
}

/* And back. */
__global__ static void nf4_plain_kernel(uint8_t *plain, const uint8_t *tiled, int64_t n_in, int64_t n) {
    for (int64_t at = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; at < n; at += (int64_t)gridDim.x * blockDim.x) {
        int64_t tile = at / 32, tiles = n_in / NF4_BLOCK, row = tile / tiles * 16, col = tile % tiles * NF4_BLOCK;
        int lane = (int)(at % 32);
        for (int k = 0; k < 16; k++)
            plain[((row + lane / 4 + k / 8 * 8) * n_in + col) / 2 + k % 8 * 4 + lane % 4] = tiled[at * 16 + k];
    }
}

/* Rows of a weight as f32: ids[n], or row0 + n. */
__global__ static void rows_kernel(float *dst, weight_view w, const int32_t *ids, int64_t row0, int64_t n) {
    for (int64_t at = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; at < n; at += (int64_t)gridDim.x * blockDim.x) {
        int64_t r = at / w.n_in;
        dst[at] = weight_value(w, ids ? ids[r] : row0 + r, at % w.n_in);
    }
}

/* The whole matrix to 16 bits. Tiled: 32 values a thread, a tile a warp. Four lanes have every fourth byte of two rows; they exchange them, so
 * that each writes 16 bytes at once. Values lie once for each lane in shared memory, in its own bank. */
template <int T> __global__ static void nf4_unpack_tiles(u16 *dst, int64_t ld, weight_view w, int64_t n) {
    __shared__ float values[16][32];
    int lane = threadIdx.x % 32, q = lane % 4;
    for (int i = threadIdx.x; i < 16 * 32; i += blockDim.x) values[i / 32][i % 32] = w.tables[CU_NF4 + i / 32];
    __syncthreads();
    int64_t at = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (at >= n) return; /* whole warps */
    int64_t tile = at / 32, tiles = w.n_in / NF4_BLOCK, row = tile / tiles * 16, block = tile % tiles;
    uint4 codes = *(const uint4 *)(w.codes + at * 16);
    nf4_scales<2> made; /* of row lane / 4 and of the eighth behind it */
    made.load(w, (int)((row + lane / 4) * tiles + block), (int)(8 * tiles));
    float scales[2] = { made.of(w, 0), made.of(w, 1) };
    uint32_t words[4] = { codes.x, codes.y, codes.z, codes.w }, mine[4] = { 0, 0, 0, 0 };
    for (int d = 0; d < 4; d++) { /* the lane d away gets byte number q of its own from each word */
        int other = q ^ d;
        uint32_t send = 0;
        for (int i = 0; i < 4; i++) send |= (words[i] >> 8 * other & 255u) << 8 * i;
        uint32_t got = d ? __shfl_xor_sync(0xffffffffu, send, d) : send;
        for (int i = 0; i < 4; i++) mine[i] |= (got >> 8 * i & 255u) << 8 * other;
    }
    for (int half = 0; half < 2; half++) {
        int64_t r = row + lane / 4 + 8 * half;
        float scale = scales[half];
        for (int i = 0; i < 2; i++) {
            uint32_t bytes = mine[2 * half + i], out[4];
            for (int k = 0; k < 4; k++)
                out[k] = pack2<T>(values[bytes >> (8 * k + 4) & 15][lane] * scale,
                                  values[bytes >> 8 * k & 15][lane] * scale);
            *(uint4 *)(dst + r * ld + block * NF4_BLOCK + (4 * i + q) * 8) = make_uint4(out[0], out[1], out[2], out[3]);
        }
    }
}

template <int T> __global__ static void nf4_unpack_plain(u16 *dst, int64_t ld, weight_view w, int64_t n) {
    for (int64_t at = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; at < n; at += (int64_t)gridDim.x * blockDim.x) {
        int64_t row = at / ld, c = at % ld;
        dst[at] = c < w.n_in ? to_half<T>(weight_value(w, row, c)) : (u16)0;
    }
}

template <int T> static void unpack(mr_backend *b, const char *op, u16 *dst, int64_t ld, const mr_weight *w) {
    int64_t n = w->nf4.tiled ? w->nf4.n / 32 : w->n_out * ld;
    if (w->nf4.tiled)
        LAUNCH(b, op, nf4_unpack_tiles<T>, (int)((n + THREADS - 1) / THREADS), THREADS, 0, dst, ld, view_of(w), n);
    else
        LAUNCH(b, op, nf4_unpack_plain<T>, grid_for(n), THREADS, 0, dst, ld, view_of(w), n);
}

static void unpack_to(mr_backend *b, const char *op, u16 *dst, const mr_weight *w) {
    if (w->compute == MR_F16)
        unpack<F16>(b, op, dst, w->ld, w);
    else
        unpack<BF16>(b, op, dst, w->ld, w);
}

static size_t half_bytes(int64_t n_out, int64_t ld) { return (size_t)(n_out * ld) * sizeof(u16); }

const uint16_t *cu_weight_half(mr_backend *b, const char *op, const mr_weight *w, int64_t more, int64_t *ld) {
    *ld = w->ld;
    if (w->store != MR_NF4) return (const uint16_t *)w->data;
    if (w->half && more <= w->half_more) return w->half;
    cu_state *s = cu_of(b);
    size_t bytes = half_bytes(w->n_out + more, w->ld);
    int second = bytes <= s->scratch[CU_SLOT_W2].bytes;
    u16 *half = (u16 *)cu_scratch(b, op, CU_SLOT_W + second, bytes);
    if (!half || s->unpacked[second] == w) return half;
    unpack_to(b, op, half, w);
    cu_packed_still(b, NULL, 0);
    s->unpacked[second] = s->hold ? w : NULL;
    return half;
}

static void part_twins(mr_weight *w) {
    if (w->twin) w->twin->twin = NULL;
    w->twin = NULL;
}

/* Recordings know where a product has found its weight. */
void cu_weight_unpack(mr_backend *b, mr_weight *w, void *place, int64_t more) {
    assert(w->store == MR_NF4 && w->compute != MR_F32 && (uintptr_t)place % 16 == 0);
    if (cu_failed(b)) return;
    cu_graphs_forget(b);
    part_twins(w);
    w->half = (u16 *)place, w->half_more = place ? more : 0;
    if (place) unpack_to(b, "weight_unpack", w->half, w);
}

/* For an adapter's a. */
static u16 *behind(const mr_weight *w) { return w->half + w->n_out * w->ld; }

static void copy_behind(mr_backend *b, const char *op, const mr_weight *a) {
    cu_check(b, op, cudaMemcpyAsync(behind(a->twin), a->data, half_bytes(a->n_out, a->ld), cudaMemcpyDeviceToDevice, cu_of(b)->stream));
}

/* Outside of recordings: a key's first call always is. */
bool cu_weight_join(mr_backend *b, const mr_weight *w, const mr_weight *a) {
    mr_weight *one = (mr_weight *)w, *other = (mr_weight *)a;
    if (!w->half || a->store != w->compute || a->compute != w->compute || a->ld != w->ld || a->n_out > w->half_more) return false;
    if (w->twin == a) return true;
    if (cu_of(b)->recording) return false;
    part_twins(one), part_twins(other);
    one->twin = other, other->twin = one;
    copy_behind(b, "linear", a);
    return true;
}

void cu_weight_hold(mr_backend *b, bool on) {
    cu_state *s = cu_of(b);
    s->hold = on;
    s->unpacked[0] = s->unpacked[1] = NULL;
}

/* --- making --- */

static mr_status no_memory(const mr_weight *w, mr_err *err) {
    return mr_fail(err, MR_ENOMEM, "weight [%lld, %lld]: does not fit into the GPU's memory; choose a smaller model or store it as nf4",
                   (long long)w->n_out, (long long)w->n_in);
}

/* Bytes of a weight's parts. */
static size_t dense_bytes(mr_dtype store, int64_t rows, int64_t ld) { return (size_t)(rows * ld) * (store == MR_F32 ? 4 : 2); }
static size_t codes_bytes(int64_t n) { return (size_t)(n + 1) / 2; }
static int64_t blocks_of(int64_t n) { return (n + NF4_BLOCK - 1) / NF4_BLOCK; }
static size_t nested_bytes(int64_t n_blocks) { return (size_t)((n_blocks + NF4_NESTED - 1) / NF4_NESTED) * sizeof(float); }

/* Scratch while NF4 is made: codes row by row, then the blocks' maxima in f32. */
static size_t nf4_making_bytes(int64_t n) { return (size_t)cu_round((int64_t)codes_bytes(n), 256) + (size_t)blocks_of(n) * sizeof(float); }

static bool take(mr_weight *w, void **p, size_t bytes) {
    w->bytes += cu_part_bytes(bytes);
    return cu_take_part(w->b, p, bytes);
}

/* A failure that an operation kept, as this function's own. */
static mr_status own_failure(mr_backend *b, mr_err *err) {
    return cu_failed(b) ? b->sync(b, err) : MR_OK;
}

/* --- from the host --- */

/* Two buffers in turn: while one is uploaded and used, the source fills the other. */
struct cu_staging {
    size_t values;    /* of each */
    float *host[2];   /* pinned: uploads from it run beside the host's work */
    float *device[2];
    cudaEvent_t used[2]; /* what reads the buffers is done */
    int turn;
};

void cu_staging_free(mr_backend *b) {
    struct cu_staging *t = cu_of(b)->staging;
    if (!t) return;
    cudaStreamSynchronize(cu_of(b)->stream);
    for (int i = 0; i < 2; i++) {
        cudaFreeHost(t->host[i]);
        cu_give(b, t->device[i], t->values * sizeof(float));
        if (t->used[i]) cudaEventDestroy(t->used[i]);
    }
    free(t);
    cu_of(b)->staging = NULL;
}

static struct cu_staging *staging_of(mr_backend *b, size_t values) {
    struct cu_staging *t = cu_of(b)->staging;
    if (t && t->values >= values) return t;
    cu_staging_free(b);
    t = (struct cu_staging *)calloc(1, sizeof *t);
    if (!t) return NULL;
    cu_of(b)->staging = t;
    t->values = values;
    bool ok = true;
    for (int i = 0; ok && i < 2; i++)
        ok = cudaHostAlloc((void **)&t->host[i], values * sizeof(float), cudaHostAllocDefault) == cudaSuccess &&
             cu_take(b, (void **)&t->device[i], values * sizeof(float)) &&
             cudaEventCreateWithFlags(&t->used[i], cudaEventDisableTiming) == cudaSuccess &&
             cudaEventRecord(t->used[i], cu_of(b)->stream) == cudaSuccess;
    if (ok) return t;
    cudaGetLastError();
    cu_staging_free(b);
    return NULL;
}

/* The next buffer, when nothing reads it any more. */
static float *staging_next(mr_backend *b, struct cu_staging *t) {
    t->turn ^= 1;
    cu_check(b, "weight_create", cudaEventSynchronize(t->used[t->turn]));
    return t->host[t->turn];
}

/* n values of the present host buffer, from `from` on, to the device; returned is where they are. */
static const float *staging_upload(mr_backend *b, struct cu_staging *t, const float *from, size_t n) {
    cu_check(b, "weight_create", cudaMemcpyAsync(t->device[t->turn], from, n * sizeof(float), cudaMemcpyHostToDevice, cu_of(b)->stream));
    return t->device[t->turn];
}

static void staging_used(mr_backend *b, struct cu_staging *t) {
    cu_check(b, "weight_create", cudaEventRecord(t->used[t->turn], cu_of(b)->stream));
}

/* --- making --- */

static mr_status fill_dense(mr_backend *b, mr_weight *w, mr_weight_source src, struct cu_staging *t, int64_t rows, mr_err *err) {
    for (int64_t row = 0; row < w->n_out; row += rows) {
        int64_t n = w->n_out - row < rows ? w->n_out - row : rows;
        float *host = staging_next(b, t);
        MR_TRY(src.rows(src.self, host, row, n, err));
        fill_rows(b, "weight_create", w, staging_upload(b, t, host, (size_t)(n * w->n_in)), row, n);
        staging_used(b, t);
        MR_TRY(own_failure(b, err));
    }
    return MR_OK;
}

/* The mean of all maxima: one sum in order, in double, as on the CPU. */
static mr_status mean_of(mr_backend *b, float *mean, const float *device, int64_t n, mr_err *err) {
    float *maxima = (float *)malloc((size_t)n * sizeof *maxima);
    if (!maxima) return mr_fail(err, MR_ENOMEM, "weight: the host has no memory left");
    b->download(b, maxima, device, (size_t)n * sizeof *maxima);
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)maxima[i];
    free(maxima);
    *mean = (float)(sum / (double)n);
    return own_failure(b, err);
}

/* NF4 blocks run through the matrix row after row, so a block may begin in one read and end in the next: `carry`
 * values wait, and go before those of the next read. making: nf4_making_bytes. */
static mr_status fill_nf4(mr_backend *b, mr_weight *w, mr_weight_source src, struct cu_staging *t, int64_t rows, uint8_t *making,
                          mr_err *err) {
    cu_nf4 *q = &w->nf4;
    const float *tables = cu_of(b)->tables;
    uint8_t *codes = q->tiled ? making : q->codes;
    float *absmax = (float *)(making + cu_round((int64_t)codes_bytes(q->n), 256));
    const float *rest = NULL; /* in the buffer before */
    int64_t carry = 0, at = 0;
    for (int64_t row = 0; row < w->n_out; row += rows) {
        int64_t n = w->n_out - row < rows ? w->n_out - row : rows;
        float *into = staging_next(b, t) + NF4_BLOCK; /* values that wait end right before this */
        if (carry) memcpy(into - carry, rest, (size_t)carry * sizeof *into);
        MR_TRY(src.rows(src.self, into, row, n, err));
        int64_t have = carry + n * w->n_in, use = row + n == w->n_out ? have : have / NF4_BLOCK * NF4_BLOCK;
        int64_t blocks = blocks_of(use);
        const float *values = staging_upload(b, t, into - carry, (size_t)use);
        if (blocks)
            LAUNCH(b, "weight_create", nf4_quantize_kernel, (int)((blocks + THREADS / 32 - 1) / (THREADS / 32)), THREADS, 0, codes,
                   absmax, values, at, use, tables);
        staging_used(b, t);
        MR_TRY(own_failure(b, err));
        at += use;
        rest = into - carry + use;
        carry = have - use;
    }
    assert(at == q->n);
    MR_TRY(mean_of(b, &q->offset, absmax, q->n_blocks, err));
    LAUNCH(b, "weight_create", nf4_absmax_kernel, (int)((q->n_blocks + NF4_NESTED - 1) / NF4_NESTED), NF4_NESTED, 0, q->absmax,
           q->nested, (const float *)absmax, q->n_blocks, q->offset, tables);
    int64_t n = q->n / 32;
    if (q->tiled) LAUNCH(b, "weight_create", nf4_tile_kernel, grid_for(n), THREADS, 0, q->codes, (const uint8_t *)codes, w->n_in, n);
    return own_failure(b, err);
}

/* Rows that are asked from the source at a time: about 16 MiB. */
static int64_t source_rows(int64_t n_out, int64_t n_in) {
    int64_t rows = ((int64_t)4 << 20) / n_in;
    if (rows < 1) rows = 1;
    return rows < n_out ? rows : n_out;
}

static bool take_nf4(mr_weight *w) {
    cu_nf4 *q = &w->nf4;
    q->n = w->n_out * w->n_in;
    q->n_blocks = blocks_of(q->n);
    q->tiled = w->n_out % 16 == 0 && w->n_in % NF4_BLOCK == 0;
    return take(w, (void **)&q->codes, codes_bytes(q->n)) && take(w, (void **)&q->absmax, (size_t)q->n_blocks) &&
           take(w, (void **)&q->nested, nested_bytes(q->n_blocks));
}

static mr_status create(mr_backend *b, mr_weight *w, mr_weight_source src, mr_err *err) {
    int64_t rows = source_rows(w->n_out, w->n_in);
    uint8_t *making = NULL;
    bool ok = true;
    if (w->store == MR_NF4) {
        cu_nf4 *q = &w->nf4;
        ok = take_nf4(w);
        if (ok && !cu_reserve(b, "weight_create", CU_SLOT_W, nf4_making_bytes(q->n))) return own_failure(b, err);
        making = (uint8_t *)cu_of(b)->scratch[CU_SLOT_W].p;
        cu_of(b)->unpacked[0] = NULL;
    } else {
        ok = take(w, &w->data, dense_bytes(w->store, w->n_out + w->half_more, w->ld));
        if (ok && w->half_more) w->half = (u16 *)w->data; /* what lies behind are numbers from the start on: products may read a bit beyond a */
        if (ok && w->half) cu_check(b, "weight_create", cudaMemsetAsync(behind(w), 0, half_bytes(w->half_more, w->ld), cu_of(b)->stream));
    }
    if (ok && !src.rows) {
        assert(w->data);
        cu_check(b, "weight_create", cudaMemsetAsync(w->data, 0, dense_bytes(w->store, w->n_out, w->ld), cu_of(b)->stream));
        return own_failure(b, err);
    }
    struct cu_staging *t = ok ? staging_of(b, (size_t)(rows * w->n_in) + 2 * NF4_BLOCK) : NULL;
    if (!t) return no_memory(w, err);
    return making ? fill_nf4(b, w, src, t, rows, making, err) : fill_dense(b, w, src, t, rows, err);
}

/* A dense matrix is kept as products read it; stored bf16 under f32 products stays bf16. */
static mr_dtype stored(mr_dtype store, mr_dtype compute) { return store != MR_NF4 && compute != MR_F32 ? compute : store; }
static int64_t stride_of(mr_dtype store, int64_t n_in) { return store == MR_F32 ? n_in : cu_round(n_in, 8); }
/* Rows that are kept behind a matrix of that kind. NF4 has them behind its unpacked copy. */
static int64_t kept_more(mr_dtype store, mr_dtype compute, int64_t more) { return store == compute && compute != MR_F32 ? more : 0; }

mr_status cu_weight_create(mr_backend *b, mr_weight **out, mr_weight_source src, int64_t n_out, int64_t n_in, int64_t more,
                           mr_dtype store, mr_dtype compute, unsigned uses, mr_err *err) {
    assert(n_out > 0 && n_in > 0 && uses && compute != MR_NF4);
    *out = NULL;
    if (compute == MR_BF16 && !b->has_bf16)
        return mr_fail(err, MR_EINVAL, "%s: this GPU has no bf16 products; use --dtype f32", b->name);
    MR_TRY(own_failure(b, err));
    store = stored(store, compute);
    mr_weight *w = (mr_weight *)calloc(1, sizeof *w);
    if (!w) return mr_fail(err, MR_ENOMEM, "weight: the host has no memory left");
    w->b = b, w->store = store, w->compute = compute, w->n_out = n_out, w->n_in = n_in, w->uses = uses;
    w->ld = stride_of(store, n_in), w->half_more = kept_more(store, compute, more);
    mr_status st = create(b, w, src, err);
    if (st != MR_OK) {
        cu_weight_free(b, w);
        return st;
    }
    *out = w;
    return MR_OK;
}

/* Bytes that are NF4 already, part behind part. */
static mr_status adopt(mr_backend *b, mr_weight *w, const mr_nf4_part *parts, int n, mr_err *err) {
    cu_nf4 *q = &w->nf4;
    bool ok = take_nf4(w) && (n == 1 || take(w, (void **)&q->offsets, nested_bytes(q->n_blocks)));
    if (!ok) return no_memory(w, err);
    if (q->tiled && !cu_reserve(b, "weight_adopt", CU_SLOT_W, nf4_making_bytes(q->n))) return own_failure(b, err);
    if (q->tiled) cu_of(b)->unpacked[0] = NULL;
    uint8_t *codes = q->tiled ? (uint8_t *)cu_of(b)->scratch[CU_SLOT_W].p : q->codes;
    int64_t at = 0, block = 0, group = 0;
    q->offset = parts[0].offset;
    for (int i = 0; i < n; i++) {
        const mr_nf4_part *p = &parts[i];
        int64_t blocks = blocks_of(p->n), groups = (blocks + NF4_NESTED - 1) / NF4_NESTED;
        float *host = (float *)malloc(2 * (size_t)groups * sizeof *host);
        if (!host) return mr_fail(err, MR_ENOMEM, "weight: the host has no memory left");
        memcpy(host, p->nested, (size_t)groups * sizeof *host);
        for (int64_t g = 0; g < groups; g++) host[groups + g] = p->offset;
        b->upload(b, codes + at / 2, p->codes, codes_bytes(p->n));
        b->upload(b, q->absmax + block, p->absmax, (size_t)blocks);
        b->upload(b, q->nested + group, host, (size_t)groups * sizeof *host);
        if (q->offsets) b->upload(b, q->offsets + group, host + groups, (size_t)groups * sizeof *host);
        cu_check(b, "weight_adopt", cudaStreamSynchronize(cu_of(b)->stream));
        free(host);
        at += p->n, block += blocks, group += groups;
    }
    assert(at == q->n);
    int64_t tiles = q->n / 32;
    if (q->tiled)
        LAUNCH(b, "weight_adopt", nf4_tile_kernel, grid_for(tiles), THREADS, 0, q->codes, (const uint8_t *)codes, w->n_in, tiles);
    return own_failure(b, err);
}

mr_status cu_weight_adopt(mr_backend *b, mr_weight **out, const mr_nf4_part *parts, int n, int64_t n_out, int64_t n_in,
                          mr_dtype compute, unsigned uses, mr_err *err) {
    assert(n_out > 0 && n_in > 0 && uses && compute != MR_NF4 && n > 0);
    *out = NULL;
    if (compute == MR_BF16 && !b->has_bf16)
        return mr_fail(err, MR_EINVAL, "%s: this GPU has no bf16 products; use --dtype f32", b->name);
    MR_TRY(own_failure(b, err));
    mr_weight *w = (mr_weight *)calloc(1, sizeof *w);
    if (!w) return mr_fail(err, MR_ENOMEM, "weight: the host has no memory left");
    w->b = b, w->store = MR_NF4, w->compute = compute, w->n_out = n_out, w->n_in = n_in, w->uses = uses;
    w->ld = stride_of(w->store, n_in);
    mr_status st = adopt(b, w, parts, n, err);
    if (st != MR_OK) {
        cu_weight_free(b, w);
        return st;
    }
    *out = w;
    return MR_OK;
}

void cu_weight_free(mr_backend *b, mr_weight *w) {
    if (!w) return;
    for (int i = 0; i < 2; i++)
        if (cu_of(b)->unpacked[i] == w) cu_of(b)->unpacked[i] = NULL; /* the next may get its address */
    part_twins(w);
    cudaStreamSynchronize(cu_of(b)->stream);
    cu_give_part(b, w->data);
    cu_give_part(b, w->nf4.codes);
    cu_give_part(b, w->nf4.absmax);
    cu_give_part(b, w->nf4.nested);
    cu_give_part(b, w->nf4.offsets);
    free(w->nf4.host_codes);
    free(w->nf4.host_absmax);
    free(w->nf4.host_nested);
    free(w);
}

mr_weight_info cu_weight_info(const mr_weight *w) {
    mr_weight_info info = { w->store, w->compute, w->n_out, w->n_in, w->store == MR_NF4 ? 0 : w->half_more, w->bytes };
    return info;
}

/* --- room --- */

static_assert(CU_N_ROOMS <= sizeof((mr_room *)0)->so_far / sizeof(size_t), "mr_room.so_far is too short");

static void room_of_products(mr_backend *b, mr_room *room, const mr_weight_info *w) {
    size_t *x = room->so_far;
    bool bwd = room->uses & MR_USE_BWD;
    if (w->store == MR_NF4 && w->compute != MR_F32 && !(room->uses & MR_USE_UNPACKED)) {
        size_t half = half_bytes(w->n_out + (bwd ? room->rank : 0), stride_of(w->store, w->n_in));
        if (half < x[CU_SLOT_W])
            cu_at_least(&x[CU_SLOT_W2], half);
        else if (half > x[CU_SLOT_W])
            x[CU_SLOT_W2] = x[CU_SLOT_W], x[CU_SLOT_W] = half;
    }
    if (w->store == w->compute || (room->uses & MR_USE_UNPACKED && w->store == MR_NF4)) cu_joined_room(x, w, room->rows, room->rank);
    if (w->store == MR_NF4) cu_at_least(&x[CU_SLOT_W], nf4_making_bytes(w->n_out * w->n_in));
    cu_linear_room(x, w, room->rows, room->rank, bwd);
    if (w->compute != MR_F32 && room->rows >= CU_LT_ROWS) cu_at_least(&x[CU_ROOM_LT], CU_LT_WORKSPACE);
    cu_at_least(&x[CU_SLOT_ROWS], (size_t)room->rows * sizeof(float)); /* of rmsnorm_bwd */
    if (room->kv_heads && room->head_dim) cu_attention_room(b, x, room->rows, room->heads, room->kv_heads, room->head_dim, bwd);
}

size_t cu_weight_room(mr_backend *b, mr_weight_info *w, mr_room *room) {
    mr_weight_info as = *w;
    as.store = stored(w->store, w->compute);
    int64_t n = w->n_out * w->n_in, blocks = blocks_of(n);
    w->bytes = as.store == MR_NF4 ? cu_part_bytes(codes_bytes(n)) + cu_part_bytes((size_t)blocks) + cu_part_bytes(nested_bytes(blocks))
                                  : cu_part_bytes(dense_bytes(as.store, w->n_out + kept_more(as.store, w->compute, w->more), stride_of(as.store, w->n_in)));
    size_t *x = room->so_far, all = 0;
    if (room->rows > 0) {
        room_of_products(b, room, &as);
        if (room->logits) cu_at_least(&x[CU_SLOT_HEAD], cu_sample_scratch(room->rows, w->n_out));
    }
    if (room->take) {
        cu_staging_free(b); /* weights are made before */
        cu_of(b)->sized = true;
        cu_of(b)->n_wishes = 0; /* what has room now may not be what had it before */
        if (x[CU_ROOM_LT]) cu_lt_open(b);
    }
    for (int i = 0; i < CU_N_SLOTS; i++) {
        size_t bytes = x[i < CU_SLOT_SMALL ? i : (int)CU_SLOT_SMALL];
        if (i == CU_SLOT_W) cu_at_least(&bytes, x[CU_ROOM_ROWS]);
        if (bytes < cu_first_scratch(i)) bytes = cu_first_scratch(i);
        if (bytes) all += cu_taken_bytes(bytes);
        if (room->take && bytes) cu_reserve(b, "scratch", i, bytes);
    }
    return all + (cu_lt_there(b) ? x[CU_ROOM_LT] : 0);
}

/* --- new values --- */

/* Of many weights in one launch, since each alone takes as long as a launch does. Work is cut into items of SET_ITEM places of one of them. */
enum { SET_ITEM = 8192, SET_MOST = 1024, SET_AHEAD = 4, SET_BLOCKS_A_SM = 4 };
typedef struct refill {
    const float *from;
    u16 *to, *twin; /* [n / ld][ld]; twin: the same once more, or NULL */
    int64_t n;
    int ld, cols, first; /* first: of its items */
    bool f16, flat;      /* flat: places in `from` are those in `to`, at 16 bytes */
} refill;

/* Four neighbors from place `at` on; behind a row's values are zeros. */
__device__ inline float4 four_of(const refill &r, int64_t at) {
    if (r.flat) return *(const float4 *)(r.from + at);
    int64_t row = at / r.ld;
    int c = (int)(at - row * r.ld);
    const float *from = r.from + row * r.cols + c;
    return make_float4(c < r.cols ? from[0] : 0.0f, c + 1 < r.cols ? from[1] : 0.0f, c + 2 < r.cols ? from[2] : 0.0f, c + 3 < r.cols ? from[3] : 0.0f);
}

__global__ static void __launch_bounds__(THREADS, SET_BLOCKS_A_SM) weight_set_kernel(const refill *all, int n, int n_items) {
    for (int item = blockIdx.x; item < n_items; item += gridDim.x) {
        refill r = owner_of(all, n, item);
        int64_t at = (int64_t)(item - r.first) * SET_ITEM, end = at + SET_ITEM < r.n ? at + SET_ITEM : r.n;
        for (at += threadIdx.x * 4; at < end; at += SET_AHEAD * 4 * THREADS) {
            float4 x[SET_AHEAD];
#pragma unroll
            for (int i = 0; i < SET_AHEAD; i++)
                if (at + i * 4 * THREADS < end) x[i] = four_of(r, at + i * 4 * THREADS);
#pragma unroll
            for (int i = 0; i < SET_AHEAD; i++) {
                int64_t to = at + i * 4 * THREADS;
                if (to >= end) continue;
                uint2 two = r.f16 ? make_uint2(pack2<F16>(x[i].x, x[i].y), pack2<F16>(x[i].z, x[i].w))
                                  : make_uint2(pack2<BF16>(x[i].x, x[i].y), pack2<BF16>(x[i].z, x[i].w));
                *(uint2 *)(r.to + to) = two;
                if (r.twin) *(uint2 *)(r.twin + to) = two;
            }
        }
    }
}

static void refill_all(mr_backend *b, const refill *host, int n, int items) {
    int most = SET_BLOCKS_A_SM * cu_of(b)->n_sm;
    refill *all = (refill *)cu_scratch(b, "weight_set", CU_SLOT_ROWS, SET_MOST * sizeof *all);
    if (!all) return;
    cu_of(b)->packed.at = NULL;
    /* pageable memory: the call returns when the host's bytes have been read */
    if (!cu_check(b, "weight_set", cudaMemcpyAsync(all, host, (size_t)n * sizeof *all, cudaMemcpyHostToDevice, cu_of(b)->stream))) return;
    LAUNCH(b, "weight_set", weight_set_kernel, items < most ? items : most, THREADS, 0, all, n, items);
}

void cu_weight_set(mr_backend *b, const mr_weight_values *all, int n) {
    refill host[SET_MOST];
    int64_t items = 0;
    int k = 0;
    if (cu_failed(b) || !cu_may_wait(b, "weight_set")) return;
    for (int i = 0; i < n; i++) {
        const mr_weight *w = all[i].w;
        assert(w->store != MR_NF4);
        if (w->store == MR_F32) {
            fill_rows(b, "weight_set", all[i].w, all[i].values, 0, w->n_out);
            continue;
        }
        refill r = { all[i].values, (u16 *)w->data, w->twin && w->twin->half ? behind(w->twin) : NULL, w->n_out * w->ld, (int)w->ld, (int)w->n_in, (int)items,
                     w->store == MR_F16, w->ld == w->n_in && (uintptr_t)all[i].values % 16 == 0 };
        host[k++] = r;
        items += (r.n + SET_ITEM - 1) / SET_ITEM;
        assert(items <= INT32_MAX);
        if (k < SET_MOST) continue;
        refill_all(b, host, k, (int)items);
        k = 0, items = 0;
    }
    if (k) refill_all(b, host, k, (int)items);
}

void cu_weight_rows(mr_backend *b, float *dst, const mr_weight *w, int64_t row, int64_t n) {
    if (cu_failed(b) || n <= 0) return;
    assert(row >= 0 && row + n <= w->n_out);
    LAUNCH(b, "weight_rows", rows_kernel, grid_for(n * w->n_in), THREADS, 0, dst, view_of(w), (const int32_t *)NULL, row,
           n * w->n_in);
}

void cu_embed(mr_backend *b, float *x, const mr_weight *w, const int32_t *ids, int N) {
    if (cu_failed(b) || N <= 0) return;
    int64_t n = (int64_t)N * w->n_in;
    LAUNCH(b, "embed", rows_kernel, grid_for(n), THREADS, 0, x, view_of(w), ids, (int64_t)0, n);
}

/* One thread a column: rows in order. */
__global__ static void embed_bwd_kernel(float *dw, const float *dx, const int32_t *ids, int N, int C) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= C) return;
    for (int n = 0; n < N; n++) dw[(int64_t)ids[n] * C + c] += dx[(int64_t)n * C + c];
}

void cu_embed_bwd(mr_backend *b, float *dw, const float *dx, const int32_t *ids, int N, int C) {
    if (cu_failed(b) || N <= 0) return;
    LAUNCH(b, "embed_bwd", embed_bwd_kernel, (C + 31) / 32, 32, 0, dw, dx, ids, N, C);
}

/* --- NF4 parts on the host --- */

/* Codes row by row, in scratch where they lie in tiles. */
static const uint8_t *plain_codes(mr_backend *b, const mr_weight *w) {
    const cu_nf4 *q = &w->nf4;
    if (!q->tiled) return q->codes;
    if (!cu_reserve(b, "weight_nf4", CU_SLOT_W, nf4_making_bytes(q->n))) return NULL;
    cu_of(b)->unpacked[0] = NULL;
    uint8_t *plain = (uint8_t *)cu_of(b)->scratch[CU_SLOT_W].p;
    LAUNCH(b, "weight_nf4", nf4_plain_kernel, grid_for(q->n / 32), THREADS, 0, plain, (const uint8_t *)q->codes, w->n_in, q->n / 32);
    return plain;
}

bool cu_weight_nf4_read(mr_backend *b, const mr_weight *w, uint8_t *codes, uint8_t *absmax, float *nested, float *offset) {
    if (w->store != MR_NF4 || w->nf4.offsets || cu_failed(b)) return false;
    const cu_nf4 *q = &w->nf4;
    const uint8_t *plain = plain_codes(b, w);
    if (!plain) return false;
    b->download(b, codes, plain, codes_bytes(q->n));
    b->download(b, absmax, q->absmax, (size_t)q->n_blocks);
    b->download(b, nested, q->nested, nested_bytes(q->n_blocks));
    *offset = q->offset;
    return !cu_failed(b);
}

static void *fetch(const mr_weight *w, const void *device, size_t bytes) {
    void *host = malloc(bytes ? bytes : 1);
    if (host) w->b->download(w->b, host, device, bytes);
    return host;
}

bool cu_weight_nf4(const mr_weight *w, const uint8_t **codes, const uint8_t **absmax, const float **nested, float *offset) {
    if (w->store != MR_NF4) return false;
    cu_nf4 *q = &((mr_weight *)w)->nf4; /* a cache: the weight does not change */
    if (!q->host_codes) {
        size_t n_codes = (size_t)(q->n + 1) / 2;
        const uint8_t *plain = plain_codes(w->b, w);
        q->host_codes = plain ? (uint8_t *)fetch(w, plain, n_codes) : NULL;
        q->host_absmax = (uint8_t *)fetch(w, q->absmax, (size_t)q->n_blocks);
        q->host_nested = (float *)fetch(w, q->nested, (size_t)((q->n_blocks + NF4_NESTED - 1) / NF4_NESTED) * sizeof(float));
        if (!q->host_codes || !q->host_absmax || !q->host_nested) {
            free(q->host_codes), free(q->host_absmax), free(q->host_nested);
            q->host_codes = q->host_absmax = NULL, q->host_nested = NULL;
            return false;
        }
    }
    *codes = q->host_codes, *absmax = q->host_absmax, *nested = q->host_nested, *offset = q->offset;
    return true;
}
