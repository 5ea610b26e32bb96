/* emulate_device.h - CUDA's device side on a CPU, for kernels/cuda/device.cuh with MR_EMULATE.
 *
 * A launch runs block by block; the threads of a block are fibers of one thread of the machine, which change at __syncthreads and at every
 * instruction of a whole warp. So kernels are tested for what they compute (indices, lanes' operands, barriers, copies that have not
 * arrived yet), without a GPU; not for speed, and not for the rounding of a real tensor core. MEDRL_EMULATE_ORDER=down runs
 * the threads of a block from the last to the first: a missing barrier gives other results then.
 * Copies of copy16 happen only when copy_wait asks for them; shared memory starts as NaN in every block. */
#ifndef MR_EMULATE_DEVICE_H
#define MR_EMULATE_DEVICE_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <functional>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)
#define SHARED_BYTES(name) unsigned char *name = emu_shared()

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
static inline float2 make_float2(float x, float y) { return float2{ x, y }; }
static inline float4 make_float4(float x, float y, float z, float w) { return float4{ x, y, z, w }; }
static inline uint2 make_uint2(uint32_t x, uint32_t y) { return uint2{ x, y }; }
static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return uint4{ x, y, z, w }; }

/* --- emulate.cc --- */
struct emu_place { unsigned x, y, z; };
extern emu_place threadIdx, blockIdx, blockDim, gridDim;
void emu_launch(dim3 grid, dim3 threads, size_t bytes, const std::function<void()> &kernel);
unsigned char *emu_shared();
void __syncthreads();
void emu_warp_wait();      /* until all 32 lanes of the warp are here */
const void *&emu_lane(int lane); /* what that lane of this warp has put down */
void emu_copy(void *dst, const void *src);
void emu_commit();
void emu_wait(int n);

/* The arguments as they are at the launch, which may run later. */
template <typename... P> struct emu_bound {
    void (*kernel)(P...);
    std::function<void()> operator()(P... p) const {
        void (*k)(P...) = kernel;
        return [=] { k(p...); };
    }
};
template <typename... P> static inline emu_bound<P...> emu_bind(void (*kernel)(P...)) { return emu_bound<P...>{ kernel }; }

#define LAUNCH(b, op, kernel, grid, threads, bytes, ...)                                                               \
    do {                                                                                                               \
        emu_launch(grid, threads, (size_t)(bytes), emu_bind(kernel)(__VA_ARGS__));                                     \
        cu_launched(b, op);                                                                                            \
    } while (0)

#define LAUNCH_EARLY LAUNCH
static inline void follow() {}
static inline void let_next_begin() {}

template <typename V> static inline V __shfl_xor_sync(unsigned, V v, int d) {
    int lane = (int)threadIdx.x % 32;
    emu_lane(lane) = &v;
    emu_warp_wait();
    V r = *(const V *)emu_lane(lane ^ d);
    emu_warp_wait();
    return r;
}
template <typename V> static inline V __shfl_sync(unsigned, V v, int from) {
    emu_lane((int)threadIdx.x % 32) = &v;
    emu_warp_wait();
    V r = *(const V *)emu_lane(from);
    emu_warp_wait();
    return r;
}
/* Without a lane so far below it, a lane gets its own. */
template <typename V> static inline V __shfl_up_sync(unsigned, V v, int d) {
    int lane = (int)threadIdx.x % 32;
    emu_lane(lane) = &v;
    emu_warp_wait();
    V r = *(const V *)emu_lane(lane < d ? lane : lane - d);
    emu_warp_wait();
    return r;
}
static inline void __syncwarp() { emu_warp_wait(); }
static inline void __threadfence() {}
static inline int load_acquire(const int *p) { return *p; }
static inline void count_release(int *p) { ++*p; }
static inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t which) {
    uint64_t both = (uint64_t)y << 32 | x;
    uint32_t r = 0;
    for (int i = 0; i < 4; i++) r |= (uint32_t)(both >> (which >> 4 * i & 7) * 8 & 255) << 8 * i;
    return r;
}
static inline uint32_t permute(uint32_t x, uint32_t y, uint32_t which) {
    uint64_t both = (uint64_t)y << 32 | x;
    uint32_t r = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t byte = (uint32_t)(both >> (which >> 4 * i & 7) * 8 & 255);
        r |= (which >> 4 * i & 8 ? byte >> 7 ? 255u : 0u : byte) << 8 * i;
    }
    return r;
}
template <typename V> static inline V __ldcg(const V *p) { return *p; }
static inline int atomicAdd(int *p, int v) { int old = *p; *p += v; return old; }
static inline unsigned long long atomicAdd(unsigned long long *p, unsigned long long v) {
    unsigned long long old = *p;
    *p += v;
    return old;
}
static inline int atomicMin(int *p, int v) { int old = *p; if (v < old) *p = v; return old; }
static inline uint32_t __float_as_uint(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
static inline float __uint_as_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static inline uint16_t f32_to_f16(float f) { return (uint16_t)_cvtss_sh(f, 0); }
static inline float exp2_fast(float x) { return exp2f(x); }
static inline float f16_to_f32(uint16_t h) { return _cvtsh_ss(h); }

/* --- instructions of a warp; layouts: PTX ISA, mma.m16n8k16 and ldmatrix --- */

template <int T> static inline float emu_half(uint32_t word, int k) {
    uint16_t h = (uint16_t)(word >> 16 * (k & 1));
    return T ? f16_to_f32(h) : __uint_as_float((uint32_t)h << 16);
}
/* The operands of a warp; its first lane computes for all. */
struct emu_tile { alignas(32) float a[16][16], b[16][8], c[16][8]; };
emu_tile &emu_warp_tile();
template <int T> static inline void mma16(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    int lane = (int)threadIdx.x % 32, at = lane / 4, pair = lane % 4 * 2;
    emu_tile &t = emu_warp_tile();
    for (int i = 0; i < 2; i++) {
        for (int r = 0; r < 4; r++) t.a[at + r % 2 * 8][pair + r / 2 * 8 + i] = emu_half<T>(a[r], i);
        for (int r = 0; r < 2; r++) t.b[pair + r * 8 + i][at] = emu_half<T>(b[r], i);
    }
    for (int i = 0; i < 4; i++) t.c[at + i / 2 * 8][pair + i % 2] = c[i];
    emu_warp_wait();
    for (int row = 0; lane == 0 && row < 16; row++) {
        __m256 sum = _mm256_load_ps(t.c[row]);
        for (int k = 0; k < 16; k++) sum = _mm256_fmadd_ps(_mm256_set1_ps(t.a[row][k]), _mm256_load_ps(t.b[k]), sum);
        _mm256_store_ps(t.c[row], sum);
    }
    emu_warp_wait();
    for (int i = 0; i < 4; i++) c[i] = t.c[at + i / 2 * 8][pair + i % 2];
}

template <bool TRANSPOSED> static inline void emu_matrices(uint32_t r[4], const void *row) {
    int lane = (int)threadIdx.x % 32;
    if ((uintptr_t)row % 16) __builtin_trap();
    emu_lane(lane) = row;
    emu_warp_wait();
    for (int m = 0; m < 4; m++) {
        uint16_t v[2];
        for (int i = 0; i < 2; i++) {
            int from = TRANSPOSED ? lane % 4 * 2 + i : lane / 4, col = TRANSPOSED ? lane / 4 : lane % 4 * 2 + i;
            v[i] = ((const uint16_t *)emu_lane(8 * m + from))[col];
        }
        r[m] = (uint32_t)v[0] | (uint32_t)v[1] << 16;
    }
    emu_warp_wait();
}
static inline void load_matrices(uint32_t r[4], const void *row) { emu_matrices<false>(r, row); }
static inline void load_transposed(uint32_t r[4], const void *row) { emu_matrices<true>(r, row); }

static inline void copy16(void *shared, const void *global, bool ok) {
    if ((uintptr_t)shared % 16 || (uintptr_t)global % 16) __builtin_trap();
    emu_copy(shared, ok ? global : NULL);
}
static inline void copy16_passing(void *shared, const void *global, bool ok = true) { copy16(shared, global, ok); }
template <typename V> static inline V load_passing(const V *p) { return *p; }
static inline void fetch_ahead(const void *global, int bytes) {
    if ((uintptr_t)global % 16 || bytes % 16) __builtin_trap();
}
static inline void fetch_line(const void *) {}
static inline void copy_commit() { emu_commit(); }
template <int n> static inline void copy_wait() { emu_wait(n); }

#endif
