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

enum { THREADS = 256 };

static inline int grid_for(int64_t n) {
    int64_t blocks = (n + THREADS - 1) / THREADS;
    return (int)(blocks < 1 ? 1 : blocks < 1 << 20 ? blocks : 1 << 20);
}

/* --- dense --- */

/* Two neighbors a thread. */
template <int T>
__global__ static void to_half_kernel(u16 *dst, int64_t ld, const float *src, int64_t lds, int64_t rows, int n_cols) {
    int c = 2 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (c >= ld) return;
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
        const float *from = src + row * lds;
        *(uint32_t *)(dst + row * ld + c) = pack2<T>(c < n_cols ? from[c] : 0.0f, c + 1 < n_cols ? from[c + 1] : 0.0f);
    }
}

void cu_to_half(mr_backend *b, const char *op, int type, u16 *dst, int64_t ld, const float *src, int64_t lds, int64_t rows,
                int64_t cols) {
    if (rows <= 0) return;
    assert(ld % 2 == 0);
    dim3 grid((unsigned)((ld / 2 + THREADS - 1) / THREADS), (unsigned)(rows < 32768 ? rows : 32768));
    if (type == F16)
        LAUNCH(b, op, to_half_kernel<F16>, grid, THREADS, 0, dst, ld, src, lds, rows, (int)cols);
    else
        LAUNCH(b, op, to_half_kernel<BF16>, grid, THREADS, 0, dst, ld, src, lds, rows, (int)cols);
}

/* rows [row, row + n) from f32 in device memory */
static void fill_rows(mr_backend *b, const char *op, mr_weight *w, const float *src, int64_t row, int64_t n) {
    if (w->store == MR_F32)
        cu_check(b, op, cudaMemcpyAsync((float *)w->data + row * w->ld, src, (size_t)(n * w->n_in) * sizeof(float),
                                        cudaMemcpyDeviceToDevice, cu_of(b)->stream));
    else
        cu_to_half(b, op, half_type(w->store), (u16 *)w->data + row * w->ld, w->ld, src, w->n_in, n, w->n_in);
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

/* Rows of a weight as f32: ids[n], or row0 + n. */
__global__ static void rows_kernel(float *dst, weight_view w, const int32_t *ids, int64_t row0, int64_t n) {
    for (int64_t at = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; at < n; at += (int64_t)gridDim.x * blockDim.x) {
        int64_t r = at / w.n_in;
        dst[at] = weight_value(w, ids ? ids[r] : row0 + r, at % w.n_in);
    }
}

/* The whole matrix to 16 bits. Tiled: 32 values a thread. */
template <int T> __global__ static void nf4_unpack_tiles(u16 *dst, int64_t ld, weight_view w, int64_t n) {
    __shared__ float values[16];
    if (threadIdx.x < 16) values[threadIdx.x] = w.tables[CU_NF4 + threadIdx.x];
    __syncthreads();
    int64_t at = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (at >= n) return;
    int64_t tile = at / 32, tiles = w.n_in / NF4_BLOCK, row = tile / tiles * 16, block = tile % tiles;
    int lane = (int)(at % 32), q = lane % 4;
    uint4 codes = *(const uint4 *)(w.codes + at * 16);
    uint32_t words[4] = { codes.x, codes.y, codes.z, codes.w };
    for (int half = 0; half < 2; half++) {
        int64_t r = row + lane / 4 + 8 * half;
        float scale = nf4_scale(w, r * tiles + block);
        uint32_t *to = (uint32_t *)(dst + r * ld + block * NF4_BLOCK);
        for (int i = 0; i < 8; i++) {
            uint32_t byte = words[2 * half + i / 4] >> 8 * (i % 4) & 255u;
            to[4 * i + q] = pack2<T>(values[byte >> 4] * scale, values[byte & 15] * scale);
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

const uint16_t *cu_weight_half(mr_backend *b, const char *op, const mr_weight *w, int64_t *ld) {
    *ld = w->ld;
    if (w->store != MR_NF4) return (const uint16_t *)w->data;
    u16 *half = (u16 *)cu_scratch(b, op, CU_SLOT_W, (size_t)(w->n_out * w->ld) * sizeof(u16));
    if (!half) return NULL;
    if (w->compute == MR_F16)
        unpack<F16>(b, op, half, w->ld, w);
    else
        unpack<BF16>(b, op, half, w->ld, w);
    return half;
}

/* --- making --- */

static mr_status no_memory(const mr_weight *w, mr_err *err) {
    return mr_fail(err, MR_ENOMEM, "weight [%lld, %lld]: does not fit into the GPU's memory; choose a smaller model or store it as nf4",
                   (long long)w->n_out, (long long)w->n_in);
}

static bool take(mr_weight *w, void **p, size_t bytes) {
    w->bytes += bytes;
    if (cudaMalloc(p, bytes ? bytes : 1) == cudaSuccess) return true;
    cudaGetLastError();
    *p = NULL;
    return false;
}

/* A failure that an operation kept, as this function's own. */
static mr_status own_failure(mr_backend *b, mr_err *err) {
    return cu_failed(b) ? b->sync(b, err) : MR_OK;
}

typedef struct making {
    float *host, *staging, *absmax; /* room for `rows` rows and a block before them; the same on the device; [n_blocks] */
    int64_t rows;
} making;

static mr_status fill_dense(mr_backend *b, mr_weight *w, mr_weight_source src, const making *k, mr_err *err) {
    cudaStream_t stream = cu_of(b)->stream;
    for (int64_t row = 0; row < w->n_out; row += k->rows) {
        int64_t n = w->n_out - row < k->rows ? w->n_out - row : k->rows;
        MR_TRY(src.rows(src.self, k->host, row, n, err));
        b->upload(b, k->staging, k->host, (size_t)(n * w->n_in) * sizeof(float));
        fill_rows(b, "weight_create", w, k->staging, row, n);
        cu_check(b, "weight_create", cudaStreamSynchronize(stream));
        MR_TRY(own_failure(b, err));
    }
    return MR_OK;
}

/* NF4 blocks run through the matrix row after row, so a block may begin in one read and end in the next: `carry`
 * values wait in front. */
static mr_status fill_nf4(mr_backend *b, mr_weight *w, mr_weight_source src, const making *k, mr_err *err) {
    cu_nf4 *q = &w->nf4;
    const float *tables = cu_of(b)->tables;
    cudaStream_t stream = cu_of(b)->stream;
    float *into = k->host + NF4_BLOCK; /* values that wait end right before this */
    int64_t carry = 0, at = 0;
    for (int64_t row = 0; row < w->n_out; row += k->rows) {
        int64_t n = w->n_out - row < k->rows ? w->n_out - row : k->rows;
        MR_TRY(src.rows(src.self, into, row, n, err));
        int64_t have = carry + n * w->n_in, use = row + n == w->n_out ? have : have / NF4_BLOCK * NF4_BLOCK;
        int64_t blocks = (use + NF4_BLOCK - 1) / NF4_BLOCK;
        b->upload(b, k->staging, into - carry, (size_t)use * sizeof(float));
        if (blocks)
            LAUNCH(b, "weight_create", nf4_quantize_kernel, (int)((blocks + THREADS / 32 - 1) / (THREADS / 32)), THREADS, 0,
                   q->codes, k->absmax, k->staging, at, use, tables);
        cu_check(b, "weight_create", cudaStreamSynchronize(stream));
        MR_TRY(own_failure(b, err));
        at += use;
        memmove(into - (have - use), into - carry + use, (size_t)(have - use) * sizeof *into);
        carry = have - use;
    }
    assert(at == q->n);
    /* the mean of all maxima: one sum in order, in double, as on the CPU */
    float *maxima = (float *)malloc((size_t)q->n_blocks * sizeof *maxima);
    if (!maxima) return no_memory(w, err);
    b->download(b, maxima, k->absmax, (size_t)q->n_blocks * sizeof *maxima);
    double sum = 0.0;
    for (int64_t i = 0; i < q->n_blocks; i++) sum += (double)maxima[i];
    free(maxima);
    q->offset = (float)(sum / (double)q->n_blocks);
    LAUNCH(b, "weight_create", nf4_absmax_kernel, (int)((q->n_blocks + NF4_NESTED - 1) / NF4_NESTED), NF4_NESTED, 0, q->absmax,
           q->nested, k->absmax, q->n_blocks, q->offset, tables);
    if (w->n_out % 16 == 0 && w->n_in % NF4_BLOCK == 0) {
        uint8_t *tiled;
        if (cudaMalloc((void **)&tiled, (size_t)q->n / 2) != cudaSuccess) {
            cudaGetLastError();
            return no_memory(w, err);
        }
        int64_t n = q->n / 32;
        LAUNCH(b, "weight_create", nf4_tile_kernel, grid_for(n), THREADS, 0, tiled, q->codes, w->n_in, n);
        cu_check(b, "weight_create", cudaStreamSynchronize(stream));
        cudaFree(q->codes);
        q->codes = tiled;
        q->tiled = true;
    }
    cu_check(b, "weight_create", cudaStreamSynchronize(stream));
    return own_failure(b, err);
}

/* Rows that are asked from the source at a time: about 16 MiB. */
static int64_t source_rows(int64_t n_out, int64_t n_in) {
    int64_t rows = ((int64_t)4 << 20) / n_in;
    if (rows < 1) rows = 1;
    return rows < n_out ? rows : n_out;
}

/* What products with this weight will ask for, so that no step does: the converted rows of both sides and, for NF4, the unpacked matrix. */
static bool size_scratch(mr_backend *b, const mr_weight *w) {
    const char *op = "weight_create";
    if (w->compute == MR_F32) return true;
    int64_t wide = w->n_in > w->n_out || !(w->uses & MR_USE_BWD) ? w->n_in : w->n_out;
    wide = cu_round(wide, 8);
    if (!cu_scratch(b, op, CU_SLOT_X, (size_t)(2048 * cu_slab_columns(wide, 2048)) * sizeof(u16))) return false;
    return w->store != MR_NF4 || cu_scratch(b, op, CU_SLOT_W, (size_t)(w->n_out * w->ld) * sizeof(u16));
}

static mr_status create(mr_backend *b, mr_weight *w, mr_weight_source src, mr_err *err) {
    making k = { NULL, NULL, NULL, source_rows(w->n_out, w->n_in) };
    size_t values = (size_t)k.rows * (size_t)w->n_in + 2 * NF4_BLOCK;
    bool ok = true;
    if (w->store == MR_NF4) {
        cu_nf4 *q = &w->nf4;
        q->n = w->n_out * w->n_in;
        q->n_blocks = (q->n + NF4_BLOCK - 1) / NF4_BLOCK;
        ok = take(w, (void **)&q->codes, (size_t)(q->n + 1) / 2) && take(w, (void **)&q->absmax, (size_t)q->n_blocks) &&
             take(w, (void **)&q->nested, (size_t)((q->n_blocks + NF4_NESTED - 1) / NF4_NESTED) * sizeof(float)) &&
             cudaMalloc((void **)&k.absmax, (size_t)q->n_blocks * sizeof(float)) == cudaSuccess;
    } else {
        ok = take(w, &w->data, (size_t)(w->n_out * w->ld) * (w->store == MR_F32 ? 4 : 2));
    }
    k.host = (float *)malloc(values * sizeof(float));
    ok = ok && k.host && cudaMalloc((void **)&k.staging, values * sizeof(float)) == cudaSuccess;
    mr_status st = MR_OK;
    if (!ok) {
        cudaGetLastError();
        st = no_memory(w, err);
    } else if (!size_scratch(b, w)) {
        st = own_failure(b, err);
    } else {
        st = w->store == MR_NF4 ? fill_nf4(b, w, src, &k, err) : fill_dense(b, w, src, &k, err);
    }
    free(k.host);
    cudaFree(k.staging);
    cudaFree(k.absmax);
    return st;
}

mr_status cu_weight_create(mr_backend *b, mr_weight **out, mr_weight_source src, int64_t n_out, int64_t n_in,
                           mr_dtype store, mr_dtype compute, unsigned uses, mr_err *err) {
    assert(n_out > 0 && n_in > 0 && uses && compute != MR_NF4);
    *out = NULL;
    if (compute == MR_BF16 && !b->has_bf16)
        return mr_fail(err, MR_EINVAL, "%s: this GPU has no bf16 products; use --dtype f32", b->name);
    MR_TRY(own_failure(b, err));
    /* a dense matrix is kept as products read it; stored bf16 under f32 products stays bf16 */
    if (store != MR_NF4 && compute != MR_F32) store = compute;
    mr_weight *w = (mr_weight *)calloc(1, sizeof *w);
    if (!w) return mr_fail(err, MR_ENOMEM, "weight: the host has no memory left");
    w->b = b, w->store = store, w->compute = compute, w->n_out = n_out, w->n_in = n_in, w->uses = uses;
    w->ld = store == MR_F32 ? n_in : cu_round(n_in, 8);
    mr_status st = create(b, w, src, err);
    if (st != MR_OK) {
        cu_weight_free(b, w);
        return st;
    }
    *out = w;
    return MR_OK;
}

void cu_weight_free(mr_backend *b, mr_weight *w) {
    if (!w) return;
    cudaStreamSynchronize(cu_of(b)->stream);
    cudaFree(w->data);
    cudaFree(w->nf4.codes);
    cudaFree(w->nf4.absmax);
    cudaFree(w->nf4.nested);
    free(w->nf4.host_codes);
    free(w->nf4.host_absmax);
    free(w->nf4.host_nested);
    free(w);
}

mr_weight_info cu_weight_info(const mr_weight *w) {
    mr_weight_info info = { w->store, w->compute, w->n_out, w->n_in, w->bytes };
    return info;
}

void cu_weight_set(mr_backend *b, mr_weight *w, const float *values) {
    if (cu_failed(b)) return;
    assert(w->store != MR_NF4);
    fill_rows(b, "weight_set", w, values, 0, w->n_out);
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
        uint8_t *raw = (uint8_t *)fetch(w, q->codes, n_codes);
        q->host_absmax = (uint8_t *)fetch(w, q->absmax, (size_t)q->n_blocks);
        q->host_nested = (float *)fetch(w, q->nested, (size_t)((q->n_blocks + NF4_NESTED - 1) / NF4_NESTED) * sizeof(float));
        q->host_codes = raw;
        if (raw && q->tiled) {
            q->host_codes = (uint8_t *)malloc(n_codes);
            for (int64_t at = 0; q->host_codes && at < (int64_t)n_codes; at++) {
                int64_t row = at * 2 / w->n_in, col = at * 2 % w->n_in;
                q->host_codes[at] = raw[nf4_tiled_at(row, col, w->n_in)];
            }
            free(raw);
        }
        if (!q->host_codes || !q->host_absmax || !q->host_nested) {
            free(q->host_codes), free(q->host_absmax), free(q->host_nested);
            q->host_codes = q->host_absmax = NULL, q->host_nested = NULL;
            return false;
        }
    }
    *codes = q->host_codes, *absmax = q->host_absmax, *nested = q->host_nested, *offset = q->offset;
    return true;
}
