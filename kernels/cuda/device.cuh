/* device.cuh - what kernels are made of: 16-bit numbers, tensor-core steps, copies into shared memory, sums over a
 * warp or a block in one fixed order, e^x.
 *
 * With MR_EMULATE the same kernels are compiled for the CPU, where tests/gpu/emulate runs them thread by thread: then the
 * few instructions below come from there. */
#ifndef MR_DEVICE_CUH
#define MR_DEVICE_CUH

#define MR_MAPS_FN static __host__ __device__ inline

#ifdef MR_EMULATE
#include <emulate_device.h>
#else
#include <cuda_runtime.h>
#define SHARED_BYTES(name) extern __shared__ __align__(16) unsigned char name[]
/* kernel<<<...>>> with the backend's stream; what went wrong is kept under `op`. */
#define LAUNCH(b, op, kernel, grid, threads, bytes, ...)                                                               \
    do {                                                                                                               \
        if ((bytes) > 48 * 1024) {                                                                                     \
            if (CU_FORCED_SM && (bytes) > CU_SM75_SHARED) /* what a T4 would refuse */                                 \
                cu_fail(b, MR_EINTERNAL, op, "%d bytes of shared memory asked for", (int)(bytes));                     \
            cu_check(b, op, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(bytes)));  \
        }                                                                                                              \
        kernel<<<grid, threads, bytes, cu_of(b)->stream>>>(__VA_ARGS__);                                               \
        cu_launched(b, op);                                                                                            \
    } while (0)
/* The same for a kernel that calls follow(): in work that repeats it may begin while the kernel before it ends, from sm_90
 * on. All of a multiprocessor's memory that can be is shared memory then, for small kernels too: between kernels that
 * divide it otherwise it has to run empty. */
#define LAUNCH_EARLY(b, op, kernel, grid, threads, bytes, ...)                                                         \
    do {                                                                                                               \
        if (cu_of(b)->sm < 90 || !cu_of(b)->recording) {                                                                \
            LAUNCH(b, op, kernel, grid, threads, bytes, __VA_ARGS__);                                                  \
            break;                                                                                                     \
        }                                                                                                              \
        if ((bytes) > 48 * 1024)                                                                                       \
            cu_check(b, op, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(bytes)));  \
        cudaLaunchAttribute early[2] = {};                                                                             \
        early[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;                                              \
        early[0].val.programmaticStreamSerializationAllowed = 1;                                                       \
        early[1].id = cudaLaunchAttributePreferredSharedMemoryCarveout;                                                \
        early[1].val.sharedMemCarveout = cudaSharedmemCarveoutMaxShared;                                               \
        cudaLaunchConfig_t config = {};                                                                                \
        config.gridDim = grid, config.blockDim = threads, config.dynamicSmemBytes = (size_t)(bytes);                   \
        config.stream = cu_of(b)->stream, config.attrs = early, config.numAttrs = 2;                                   \
        cu_check(b, op, cudaLaunchKernelEx(&config, kernel, __VA_ARGS__));                                             \
        cu_launched(b, op);                                                                                            \
    } while (0)
#endif

#include "cuda/cuda.h"
#include "maps.h"

typedef uint16_t u16;
enum { BF16, F16 }; /* the two 16-bit types, as a template argument */

static inline int half_type(mr_dtype t) { return t == MR_F16 ? F16 : BF16; }

/* --- 16-bit numbers --- */

#ifndef MR_EMULATE
__device__ inline u16 f32_to_f16(float f) {
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}
__device__ inline float f16_to_f32(u16 h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}
#endif

/* To nearest, ties to even; NaN stays NaN. */
__device__ inline u16 f32_to_bf16(float f) {
    uint32_t u = __float_as_uint(f), rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, quiet = (u >> 16) | 0x40u;
    return (u16)((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

template <int T> __device__ inline u16 to_half(float f) { return T == F16 ? f32_to_f16(f) : f32_to_bf16(f); }
template <int T> __device__ inline float from_half(u16 h) {
    return T == F16 ? f16_to_f32(h) : __uint_as_float((uint32_t)h << 16);
}

/* Two neighbors of a row in one register, the first in the lower half. */
template <int T> __device__ inline uint32_t pack2(float first, float second) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    uint32_t r;
    if (T == F16)
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(second), "f"(first));
    else
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(second), "f"(first));
    return r;
#else
    return (uint32_t)to_half<T>(first) | (uint32_t)to_half<T>(second) << 16;
#endif
}

/* --- tensor cores --- */

#ifndef MR_EMULATE
/* c[16,8] += a[16,16] b[16,8]: one step of every product's chain (PTX ISA, mma.m16n8k16; on sm_75 two steps of m16n8k8). */
template <int T> __device__ inline void mma16(float c[4], const uint32_t a[4], const uint32_t b[2]) {
#if __CUDA_ARCH__ >= 800
    if (T == F16)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif __CUDA_ARCH__ >= 750
    if (T == F16)
        for (int h = 0; h < 2; h++)
            asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                         : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                         : "r"(a[2 * h]), "r"(a[2 * h + 1]), "r"(b[h]));
    /* bf16: weight_create refuses it below sm_80 */
#endif
}

/* Byte i is the byte of {a, b} whose number nibble i of `which` has in its lower three bits; where its highest is set, eight times that byte's sign. */
__device__ inline uint32_t permute(uint32_t a, uint32_t b, uint32_t which) {
    uint32_t r;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(which));
    return r;
}

/* Four 8x8 matrices of 16-bit numbers; lanes 8 i .. 8 i + 7 point to the rows of matrix i. Lane l gets row l / 4, columns
 * 2 (l % 4) and the next of each; transposed: the same of the transposed matrices. */
__device__ inline void load_matrices(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row))
                 : "memory");
}
__device__ inline void load_transposed(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row))
                 : "memory");
}

/* 16 bytes into shared memory, in the background where the GPU can; zeros when not ok. */
__device__ inline void copy16(void *shared, const void *global, bool ok) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((unsigned)__cvta_generic_to_shared(shared)), "l"(global),
                 "r"(ok ? 16 : 0)
                 : "memory");
#else
    *(uint4 *)shared = ok ? *(const uint4 *)global : make_uint4(0, 0, 0, 0);
#endif
}
__device__ inline void copy_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/* What other blocks have written before they counted up there is seen after it. */
__device__ inline int load_acquire(const int *p) {
    int v;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
/* By one lane, behind a __syncwarp: whoever sees it sees what the warp has written before. */
__device__ inline void count_release(int *p) { asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(p) : "memory"); }
/* In every thread of a kernel that LAUNCH_EARLY starts, before it touches anything that work that repeats writes, so anything but weights,
 * a step's input (spans) and keys and values of steps before it: all kernels before it are done. The next one may begin from here on. */
__device__ inline void follow() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
/* Before follow, in a small kernel: the next one's blocks begin beside it and lay out what they need of weights. */
__device__ inline void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
/* Weights pass by once a step, and are more than the second cache holds: they are the first that it gives up, so that what
 * lies between, and the kernels' code, can stay. */
#if __CUDA_ARCH__ >= 800
__device__ inline uint64_t passing() {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}
#endif
__device__ inline uint4 load_passing(const uint4 *p) {
#if __CUDA_ARCH__ >= 800
    uint4 v;
    asm("ld.global.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(p), "l"(passing()));
    return v;
#else /* not into the first cache */
    uint4 v;
    asm("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
#endif
}
__device__ inline void copy16_passing(void *shared, const void *global, bool ok = true) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"((unsigned)__cvta_generic_to_shared(shared)), "l"(global),
                 "r"(ok ? 16 : 0), "l"(passing())
                 : "memory");
#else
    copy16(shared, global, ok);
#endif
}
__device__ inline uint2 load_passing(const uint2 *p) {
#if __CUDA_ARCH__ >= 800
    uint2 v;
    asm("ld.global.L2::cache_hint.v2.u32 {%0, %1}, [%2], %3;" : "=r"(v.x), "=r"(v.y) : "l"(p), "l"(passing()));
    return v;
#else
    return *p;
#endif
}
/* `bytes` (a multiple of 16) of weights from a place at 16 bytes are wanted soon: into the second cache, where the GPU can. */
__device__ inline void fetch_ahead(const void *global, int bytes) {
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global.L2::cache_hint [%0], %1, %2;" ::"l"(global), "r"(bytes), "l"(passing()) : "memory");
#else
    (void)global, (void)bytes;
#endif
}
/* The same for the 128 bytes in which that place lies, on any GPU. */
__device__ inline void fetch_line(const void *global) { asm volatile("prefetch.global.L2 [%0];" ::"l"(global)); }
/* All but the last n groups of copies are there. */
template <int n> __device__ inline void copy_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
#endif
}
#endif

/* 2^x to 2 ulp, 0 for what is below normal numbers. */
#ifndef MR_EMULATE
__device__ inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif

/* --- tables of work, sums --- */

/* Of a table whose entries have items from `first` on, the entry that an item belongs to. By value: a pointer into the table would be read again
 * after every store. */
template <typename T> __device__ inline T owner_of(const T *all, int n, int item) {
    int low = 0;
    for (int high = n - 1; low < high;) {
        int middle = (low + high + 1) / 2;
        if (all[middle].first <= item)
            low = middle;
        else
            high = middle - 1;
    }
    return all[low];
}

__device__ inline float plus(float a, float b) { return a + b; }
__device__ inline float2 plus(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }
__device__ inline float4 plus(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

/* Lanes 16 apart, then 8, 4, 2, 1: all lanes get the same bits. */
__device__ inline float warp_sum(float x) {
    for (int d = 16; d; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}
__device__ inline double warp_sum(double x) {
    for (int d = 16; d; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}
__device__ inline float warp_max(float x) {
    for (int d = 16; d; d >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, d));
    return x;
}

/* Over all threads of a block (whole warps); `room` holds one value a warp. All threads get the result. */
template <typename V> __device__ inline V block_sum(V x, V *room) {
    x = warp_sum(x);
    __syncthreads(); /* room may still be read from the last time */
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    V sum = room[0];
    for (unsigned w = 1; w < blockDim.x / 32; w++) sum += room[w];
    return sum;
}
__device__ inline float block_max(float x, float *room) {
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    float most = room[0];
    for (unsigned w = 1; w < blockDim.x / 32; w++) most = fmaxf(most, room[w]);
    return most;
}

/* --- e^x: the steps of kernels/cpu/vec.h, so that the two backends agree to the last bits --- */

__device__ inline float exp_f32(float x) {
    float n = rintf(x * 0x1.715476p+0f);
    float r = fmaf(-n, 0x1.63p-1f, x);
    r = fmaf(n, 0x1.bd0106p-13f, r);
    float q = fmaf(r, 0x1.6d110ap-10f, 0x1.120b6ep-7f);
    q = fmaf(q, r, 0x1.55551ap-5f);
    q = fmaf(q, r, 0x1.5554dcp-3f);
    q = fmaf(q, r, 0.5f);
    q = fmaf(q, r, 1.0f);
    q = fmaf(q, r, 1.0f);
    n = fminf(fmaxf(n, -252.0f), 252.0f);
    int k = (int)n, half = k >> 1, rest = k - half;
    q = q * __uint_as_float((uint32_t)(half + 127) << 23) * __uint_as_float((uint32_t)(rest + 127) << 23);
    if (x > 0x1.62e42ep+6f) q = INFINITY; /* ln of the largest float */
    return x < -0x1.5d589ep+6f ? 0.0f : q; /* ln of the smallest normal one */
}

/* exp_f32's bits for x up to 88, in half its instructions: a number plus 1.5 * 2^23 is rounded to an integer, which then lies in the lowest
 * bits. */
__device__ inline float exp_below_88(float x) {
    float t = x * 0x1.715476p+0f + 0x1.8p+23f, n = t - 0x1.8p+23f;
    float r = fmaf(-n, 0x1.63p-1f, x);
    r = fmaf(n, 0x1.bd0106p-13f, r);
    float q = fmaf(r, 0x1.6d110ap-10f, 0x1.120b6ep-7f);
    q = fmaf(q, r, 0x1.55551ap-5f);
    q = fmaf(q, r, 0x1.5554dcp-3f);
    q = fmaf(q, r, 0.5f);
    q = fmaf(q, r, 1.0f);
    q = fmaf(q, r, 1.0f);
    q *= __uint_as_float((__float_as_uint(t) << 23) + 0x3f800000u);
    return x < -0x1.5d589ep+6f ? 0.0f : q;
}

/* --- rotation --- */

/* Sine and cosine to 2 ulp of 1 for 0 <= x < 1e6: the steps of kernels/cpu/vec.h. */
__device__ inline void sine_cosine(float *sine, float *cosine, float x) {
    float n = rintf(x * 0x1.45f306p-1f);
    float r = fmaf(-n, 0x1.921fb6p+0f, x);
    r = fmaf(-n, -0x1.777a5cp-25f, r);
    r = fmaf(-n, -0x1.ee59dap-50f, r);
    float r2 = r * r;
    float s = fmaf(r2, 1.0f / 362880, -1.0f / 5040);
    s = fmaf(s, r2, 1.0f / 120);
    s = fmaf(s, r2, -1.0f / 6);
    s = fmaf(s * r2, r, r);
    float c = fmaf(r2, -1.0f / 3628800, 1.0f / 40320);
    c = fmaf(c, r2, -1.0f / 720);
    c = fmaf(c, r2, 1.0f / 24);
    c = fmaf(c, r2, -0.5f);
    c = fmaf(c, r2, 1.0f);
    int quadrant = (int)n & 3;
    float ss = quadrant & 1 ? c : s, cc = quadrant & 1 ? s : c;
    *sine = quadrant & 2 ? -ss : ss;
    *cosine = quadrant == 1 || quadrant == 2 ? -cc : cc;
}

__device__ inline void rotate(float *low, float *high, float sine, float cosine) {
    float a = *low, z = *high;
    *low = fmaf(-z, sine, a * cosine);
    *high = fmaf(a, sine, z * cosine);
}

#endif
