/* optimizer.cu - AdamW with f32 and with 8-bit states, and the sum of squares for clipping (spec/optimizer.md, 6.1 to 6.3).
 * Each step rounds as the CPU's (kernels/cpu/isa_optimizer.inc), so codes and parameters get the same bits.
 *
 * Launches: one for all tensors with f32 states and one for all with codes. Their tensors lie in a table in scratch; work is cut into items of
 * ITEM elements of one tensor, which blocks take in turns, so that what a block needs of tables is loaded once. */
#include <assert.h>
#include <math.h>

#include "cuda/device.cuh"

enum { THREADS = 256, PARTS = 1024, BLOCK = 256, ITEM = 8192, MOST_TENSORS = 512, BLOCKS_A_SM = 4 };

/* --- sum of squares --- */

__global__ static void squares_kernel(double *sums, const float *x, int64_t n, int64_t size) {
    __shared__ double room[32];
    int64_t from = blockIdx.x * size, to = from + size < n ? from + size : n;
    double sum = 0;
    for (int64_t i = from + threadIdx.x; i < to; i += THREADS) sum += (double)x[i] * (double)x[i];
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

/* At most 1024 parts whose size depends on n alone; the parts are added in order. */
double cu_sum_squares(mr_backend *b, const float *x, int64_t n, bool *all_finite) {
    if (all_finite) *all_finite = true;
    if (cu_failed(b) || n <= 0) return 0;
    int64_t size = (n + PARTS - 1) / PARTS;
    size = size < 4096 ? 4096 : cu_round(size, THREADS);
    int n_parts = (int)((n + size - 1) / size);
    double *sums = (double *)cu_scratch(b, "sum_squares", CU_SLOT_ROWS, PARTS * sizeof(double)), host[PARTS], total = 0;
    if (!sums) return 0;
    LAUNCH(b, "sum_squares", squares_kernel, n_parts, THREADS, 0, sums, x, n, size);
    cudaStream_t stream = cu_of(b)->stream;
    if (cu_failed(b) ||
        !cu_check(b, "sum_squares",
                  cudaMemcpyAsync(host, sums, (size_t)n_parts * sizeof(double), cudaMemcpyDeviceToHost, stream)) ||
        !cu_check(b, "sum_squares", cudaStreamSynchronize(stream)))
        return 0;
    for (int p = 0; p < n_parts; p++) total += host[p];
    /* the square of a finite float is finite in double, and so are all sums of them */
    if (all_finite) *all_finite = isfinite(total);
    return total;
}

/* --- AdamW --- */

/* What one call's elements share; the names are those of isa_optimizer.inc. */
typedef struct factors {
    float b1, b2, r1, r2, decay, step, root, eps, scale;
} factors;

/* Bias corrections are computed in double, as torch does, and used as floats. */
static factors torch_factors(const mr_adamw *o) {
    double c1 = 1.0 - pow((double)o->beta1, (double)o->step), c2 = sqrt(1.0 - pow((double)o->beta2, (double)o->step));
    factors f = { o->beta1, o->beta2, 1.0f - o->beta1, 1.0f - o->beta2, (float)(1.0 - (double)o->lr * (double)o->weight_decay),
                  (float)((double)o->lr / c1), (float)c2, o->eps, o->grad_scale };
    return f;
}

/* bitsandbytes' form: C2/C1 lr and C2 eps (spec/optimizer.md, 6.1, line 4). */
static factors bnb_factors(const mr_adamw *o) {
    float corr1 = (float)(1.0 - pow((double)o->beta1, (double)o->step));
    float corr2 = sqrtf((float)(1.0 - pow((double)o->beta2, (double)o->step)));
    factors f = { o->beta1, o->beta2, 1.0f - o->beta1, 1.0f - o->beta2, 1.0f - o->lr * o->weight_decay,
                  o->lr * corr2 / corr1, 0, corr2 * o->eps, o->grad_scale };
    return f;
}

__device__ static void torch_step(float *p, float *m, float *v, float g, const factors &f) {
    float grad = g * f.scale;
    float mm = *m * f.b1 + grad * f.r1, vv = *v * f.b2 + grad * grad * f.r2, pp = *p * f.decay;
    *m = mm;
    *v = vv;
    *p = pp - f.step * mm / (sqrtf(vv) / f.root + f.eps);
}

/* An element whose gradient is not finite gets m = v = 0 and keeps its parameter. */
__device__ static void bnb_step(float *p, float *m, float *v, float g, const factors &f) {
    float grad = g * f.scale, old = *p;
    float mm = *m * f.b1 + grad * f.r1, vv = *v * f.b2 + grad * grad * f.r2;
    float pp = fmaf(-f.step, mm / (sqrtf(vv) + f.eps), old) * f.decay;
    bool finite = fabsf(grad) <= 3.4028234e38f;
    *m = finite ? mm : 0.0f;
    *v = finite ? vv : 0.0f;
    *p = finite ? pp : old;
}

/* A tensor in the table. */
typedef struct tensor {
    float *p;
    const float *g;
    void *s1, *s2; /* m, v; or codes */
    float *absmax1, *absmax2;
    int64_t n;
    int first; /* of its items */
    bool decays, even; /* even: loads of four elements are aligned, and none has fewer */
} tensor;

/* A lane's four neighbors, of which `left` are there. */
__device__ inline void load4(float to[4], const float *from, int left, bool even) {
    if (even && left > 0) {
        float4 x = *(const float4 *)from;
        to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) to[i] = i < left ? from[i] : 0.0f;
    }
}
__device__ inline void store4(float *to, const float from[4], int left, bool even) {
    if (even && left > 0) {
        *(float4 *)to = make_float4(from[0], from[1], from[2], from[3]);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (i < left) to[i] = from[i];
    }
}
/* The same of codes, one a byte, the first in the lowest. */
__device__ inline uint32_t load_codes(const uint8_t *from, int left, bool even) {
    uint32_t codes = 0;
    if (even && left > 0) return *(const uint32_t *)from;
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (i < left) codes |= (uint32_t)from[i] << 8 * i;
    return codes;
}
__device__ inline void store_codes(uint8_t *to, uint32_t codes, int left, bool even) {
    if (even && left > 0) {
        *(uint32_t *)to = codes;
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (i < left) to[i] = (uint8_t)(codes >> 8 * i);
    }
}

template <bool LAST>
__global__ static void __launch_bounds__(THREADS, BLOCKS_A_SM) adamw_kernel(const tensor *all, int n_tensors, int n_items, factors f) {
    float decay = f.decay;
    for (int item = blockIdx.x; item < n_items; item += gridDim.x) {
        tensor t = owner_of(all, n_tensors, item);
        f.decay = t.decays ? decay : 1.0f;
        int64_t from = (int64_t)(item - t.first) * ITEM;
        int n = t.n - from < ITEM ? (int)(t.n - from) : (int)ITEM;
        for (int at = threadIdx.x * 4; at < n; at += 4 * THREADS) {
            float *to_p = t.p + from + at, *to_m = (float *)t.s1 + from + at, *to_v = (float *)t.s2 + from + at;
            float p[4], m[4], v[4], g[4];
            load4(p, to_p, n - at, t.even), load4(g, t.g + from + at, n - at, t.even);
            load4(m, to_m, n - at, t.even), load4(v, to_v, n - at, t.even);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (LAST)
                    bnb_step(&p[i], &m[i], &v[i], g[i], f);
                else
                    torch_step(&p[i], &m[i], &v[i], g[i], f);
            }
            store4(to_m, m, n - at, t.even), store4(to_v, v, n - at, t.even);
            store4(to_p, p, n - at, t.even);
        }
    }
}

/* --- 8-bit states: a warp has a block of them, a lane two times four neighbors --- */

enum { EACH = 8, TABLES_8BIT = CU_N_TABLES - CU_MAP };

/* tables: what lies in cu_state.tables from CU_MAP on. */
__device__ inline void step_block(const tensor &t, int64_t block, const factors &f, const float *tables) {
    const float *map1 = tables, *limit1 = tables + (CU_LIMIT - CU_MAP), *map2 = tables + (CU_UMAP - CU_MAP),
                *limit2 = tables + (CU_ULIMIT - CU_MAP);
    const uint8_t *start1 = (const uint8_t *)(tables + (CU_START - CU_MAP)), *start2 = (const uint8_t *)(tables + (CU_USTART - CU_MAP));
    int64_t from = block * BLOCK + threadIdx.x % 32 * 4;
    int left = t.n - from < BLOCK ? (int)(t.n - from) : (int)BLOCK; /* from this lane's first on */
    float p[EACH], g[EACH], m[EACH], v[EACH], was1 = t.absmax1[block], was2 = t.absmax2[block];
    uint32_t c1[2], c2[2];
#pragma unroll
    for (int h = 0; h < 2; h++) { /* all of the loads, since none may pass a store */
        int64_t at = from + h * BLOCK / 2;
        int n = left - h * BLOCK / 2;
        c1[h] = load_codes((uint8_t *)t.s1 + at, n, t.even), c2[h] = load_codes((uint8_t *)t.s2 + at, n, t.even);
        load4(p + 4 * h, t.p + at, n, t.even), load4(g + 4 * h, t.g + at, n, t.even);
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        m[i] = map1[c1[i / 4] >> i % 4 * 8 & 255] * was1, v[i] = map2[c2[i / 4] >> i % 4 * 8 & 255] * was2;
        bnb_step(&p[i], &m[i], &v[i], g[i], f);
        if (i / 4 * (BLOCK / 2) + i % 4 >= left) m[i] = v[i] = 0.0f;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) store4(t.p + from + h * BLOCK / 2, p + 4 * h, left - h * BLOCK / 2, t.even);
    /* a NaN is no maximum, as on the CPU */
    float most1 = fabsf(m[0]), most2 = fabsf(v[0]);
#pragma unroll
    for (int i = 1; i < EACH; i++) most1 = fmaxf(most1, fabsf(m[i])), most2 = fmaxf(most2, fabsf(v[i]));
    most1 = warp_max(most1), most2 = warp_max(most2);
    if (threadIdx.x % 32 == 0) t.absmax1[block] = most1, t.absmax2[block] = most2;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        uint32_t codes1 = 0, codes2 = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float x = m[4 * h + i] / most1, y = v[4 * h + i] / most2;
            int code = mr_map_code_signed(limit1, start1, x, __float_as_uint(x));
            /* the first moment keeps its sign, even where zero is nearer (spec/optimizer.md, 6.1, line 6) */
            if ((__float_as_uint(map1[code]) ^ __float_as_uint(m[4 * h + i])) >> 31) code += m[4 * h + i] > 0 ? 1 : -1;
            codes1 |= (uint32_t)(code & 255) << 8 * i;
            codes2 |= (uint32_t)mr_map_code_unsigned(limit2, start2, y, __float_as_uint(y)) << 8 * i;
        }
        int64_t at = from + h * BLOCK / 2;
        store_codes((uint8_t *)t.s1 + at, codes1, left - h * BLOCK / 2, t.even);
        store_codes((uint8_t *)t.s2 + at, codes2, left - h * BLOCK / 2, t.even);
    }
}

__global__ static void __launch_bounds__(THREADS, BLOCKS_A_SM)
    adamw_8bit_kernel(const tensor *all, int n_tensors, int n_items, factors f, const float *tables) {
    __shared__ float near[TABLES_8BIT];
    float decay = f.decay;
    for (int i = threadIdx.x; i < TABLES_8BIT; i += THREADS) near[i] = tables[CU_MAP + i];
    __syncthreads();
    for (int item = blockIdx.x; item < n_items; item += gridDim.x) {
        tensor t = owner_of(all, n_tensors, item);
        int64_t first = (int64_t)(item - t.first) * (ITEM / BLOCK);
        f.decay = t.decays ? decay : 1.0f;
        for (int64_t block = first + threadIdx.x / 32; block < first + ITEM / BLOCK && block * BLOCK < t.n; block += THREADS / 32)
            step_block(t, block, f, near);
    }
}

/* --- host --- */

static bool aligned(const void *p, size_t to) { return (uintptr_t)p % to == 0; }

static tensor entry_of(const mr_adamw_tensor *x, int first) {
    tensor t = { x->p, x->g, x->m, x->v, x->absmax1, x->absmax2, x->n, first, !x->no_decay, false };
    if (x->c1) t.s1 = x->c1, t.s2 = x->c2;
    t.even = x->n % 4 == 0 && aligned(x->p, 16) && aligned(x->g, 16) && aligned(t.s1, x->c1 ? 4 : 16) && aligned(t.s2, x->c1 ? 4 : 16);
    return t;
}

static void launch(mr_backend *b, const tensor *host, int n, int items, bool codes, const mr_adamw *opt) {
    const char *op = codes ? "adamw_8bit" : "adamw";
    int grid = items < BLOCKS_A_SM * cu_of(b)->n_sm ? items : BLOCKS_A_SM * cu_of(b)->n_sm;
    tensor *all = (tensor *)cu_scratch(b, op, CU_SLOT_ROWS, MOST_TENSORS * sizeof *all);
    if (!all) return;
    cu_of(b)->packed.at = NULL;
    /* pageable memory: the call returns when the host's bytes have been read */
    if (!cu_check(b, op, cudaMemcpyAsync(all, host, (size_t)n * sizeof *all, cudaMemcpyHostToDevice, cu_of(b)->stream))) return;
    if (codes)
        LAUNCH(b, op, adamw_8bit_kernel, grid, THREADS, 0, all, n, items, bnb_factors(opt), cu_of(b)->tables);
    else if (opt->decay_last)
        LAUNCH(b, op, adamw_kernel<true>, grid, THREADS, 0, all, n, items, bnb_factors(opt));
    else
        LAUNCH(b, op, adamw_kernel<false>, grid, THREADS, 0, all, n, items, torch_factors(opt));
}

void cu_adamw(mr_backend *b, const mr_adamw_tensor *all, int n, const mr_adamw *opt) {
    if (cu_failed(b) || n <= 0 || !cu_may_wait(b, "adamw")) return;
    assert(opt->step >= 1);
    for (int codes = 0; codes < 2; codes++) {
        tensor host[MOST_TENSORS];
        int64_t items = 0;
        int k = 0;
        for (int i = 0; i < n; i++) {
            if ((all[i].c1 != NULL) != (codes != 0) || all[i].n <= 0) continue;
            host[k++] = entry_of(&all[i], (int)items);
            items += (all[i].n + ITEM - 1) / ITEM;
            assert(items <= INT32_MAX);
            if (k < MOST_TENSORS) continue;
            launch(b, host, k, (int)items, codes != 0, opt);
            k = 0, items = 0;
        }
        if (k) launch(b, host, k, (int)items, codes != 0, opt);
    }
}
