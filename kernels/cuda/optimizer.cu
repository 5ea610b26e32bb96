/* optimizer.cu - AdamW with f32 and with 8-bit states, and the sum of squares for clipping (spec/optimizer.md, 6.1 to 6.3).
 * Each step rounds as the CPU's (kernels/cpu/isa_optimizer.inc), so codes and parameters get the same bits. */
#include <assert.h>
#include <math.h>

#include "cuda/device.cuh"

enum { THREADS = 256, PARTS = 1024, BLOCK = 256 };

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

__global__ static void adamw_kernel(float *p, float *m, float *v, const float *g, int64_t n, factors f) {
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        float grad = g[i] * f.scale;
        float mm = m[i] * f.b1 + grad * f.r1, vv = v[i] * f.b2 + grad * grad * f.r2, pp = p[i] * f.decay;
        m[i] = mm;
        v[i] = vv;
        p[i] = pp - f.step * mm / (sqrtf(vv) / f.root + f.eps);
    }
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

__global__ static void adamw_last_kernel(float *p, float *m, float *v, const float *g, int64_t n, factors f) {
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x)
        bnb_step(p + i, m + i, v + i, g[i], f);
}

static int grid_for(int64_t n) {
    int64_t blocks = (n + THREADS - 1) / THREADS;
    return (int)(blocks < 1 << 20 ? blocks : 1 << 20);
}

void cu_adamw(mr_backend *b, float *p, float *m, float *v, const float *g, int64_t n, const mr_adamw *opt) {
    if (cu_failed(b) || n <= 0) return;
    assert(opt->step >= 1);
    if (opt->decay_last)
        LAUNCH(b, "adamw", adamw_last_kernel, grid_for(n), THREADS, 0, p, m, v, g, n, bnb_factors(opt));
    else
        LAUNCH(b, "adamw", adamw_kernel, grid_for(n), THREADS, 0, p, m, v, g, n, torch_factors(opt));
}

/* --- 8-bit states: one block of threads is one block of states --- */

__global__ static void adamw_8bit_kernel(float *p, uint8_t *c1, uint8_t *c2, float *absmax1, float *absmax2, const float *g,
                                         int64_t n, factors f, const float *tables) {
    __shared__ float map1[256], limit1[256], map2[256], limit2[256], room[32];
    int t = threadIdx.x;
    int64_t i = (int64_t)blockIdx.x * BLOCK + t;
    map1[t] = tables[CU_MAP + t], limit1[t] = tables[CU_LIMIT + t];
    map2[t] = tables[CU_UMAP + t], limit2[t] = tables[CU_ULIMIT + t];
    __syncthreads();
    bool have = i < n;
    float m = 0, v = 0, param = 0;
    if (have) {
        m = map1[c1[i]] * absmax1[blockIdx.x], v = map2[c2[i]] * absmax2[blockIdx.x], param = p[i];
        bnb_step(&param, &m, &v, g[i], f);
        p[i] = param;
    }
    /* a NaN is no maximum, as on the CPU */
    float most1 = block_max(fabsf(m), room), most2 = block_max(fabsf(v), room);
    if (t == 0) absmax1[blockIdx.x] = most1, absmax2[blockIdx.x] = most2;
    if (!have) return;
    int code = mr_map_code(limit1, m / most1);
    /* the first moment keeps its sign, even where zero is nearer (spec/optimizer.md, 6.1, line 6) */
    if ((__float_as_uint(map1[code]) ^ __float_as_uint(m)) >> 31) code += m > 0 ? 1 : -1;
    c1[i] = (uint8_t)code;
    c2[i] = (uint8_t)mr_map_code(limit2, v / most2);
}

void cu_adamw_8bit(mr_backend *b, float *p, uint8_t *c1, uint8_t *c2, float *absmax1, float *absmax2, const float *g,
                   int64_t n, const mr_adamw *opt) {
    if (cu_failed(b) || n <= 0) return;
    assert(opt->step >= 1);
    LAUNCH(b, "adamw_8bit", adamw_8bit_kernel, (int)((n + BLOCK - 1) / BLOCK), BLOCK, 0, p, c1, c2, absmax1, absmax2, g, n,
           bnb_factors(opt), cu_of(b)->tables);
}
