/* wgmma.cuh - what the kernels with wgmma have in common, attention_sm90.cu, few_wide.cu and half_wide.cu: the order of its instructions, operands' names
 * in assembly, bulk copies. (PTX ISA, wgmma.) For code of sm_90a alone; the emulator runs it one thread after the other, and needs none of the order. */
#ifndef MR_CUDA_WGMMA_H
#define MR_CUDA_WGMMA_H

#include <stdint.h>
#include <string.h>

#ifdef MR_EMULATE

static inline void wide_begin() {}
static inline void wide_commit() {}
template <int N> static inline void wide_wait() {}
template <int N> static inline void keep_here(float (*)[4]) {}
static inline void wide_sees() {}
static inline bool agreed(bool x) { return x; }
static inline void bulk_init(uint64_t *, int, int) {}
static inline void bulk_copy(void *shared, const void *global, int bytes, uint64_t *) { memcpy(shared, global, (size_t)bytes); }
static inline void bulk_wait(uint64_t *, int) {}
static inline void bulk_arrive(uint64_t *) {}

#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ inline void wide_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wide_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/* All groups but the last N have ended. */
template <int N> __device__ inline void wide_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
/* Sums stay where they are in the order of instructions: before wide_begin what they start from, behind wide_wait what has come of it. */
template <int N> __device__ inline void keep_here(float (*c)[4]) {
#pragma unroll
    for (int j = 0; j < N; j++) asm volatile("" : "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])::"memory");
}
/* What copies have written may be read by wgmma. */
__device__ inline void wide_sees() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
/* The compiler has to see that all lanes agree. */
__device__ inline bool agreed(bool x) { return __shfl_sync(0xffffffffu, (int)x, 0) != 0; }

/* Bulk copies (PTX ISA, cp.async.bulk, mbarrier), each with an 8-byte barrier in shared memory. What they have written may be read by wgmma behind
 * bulk_wait. init: n barriers that `count` arrive at each time, a copy counts as one; by one thread, before the others wait at a barrier of the block. */
__device__ inline void bulk_init(uint64_t *bar, int n, int count) {
    for (int i = 0; i < n; i++)
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"((unsigned)__cvta_generic_to_shared(bar + i)), "r"(count) : "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
/* By one thread; multiples of 16 bytes. */
__device__ inline void bulk_copy(void *shared, const void *global, int bytes, uint64_t *bar) {
    unsigned at = (unsigned)__cvta_generic_to_shared(bar);
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     (unsigned)__cvta_generic_to_shared(shared)),
                 "l"(global), "r"(bytes), "r"(at)
                 : "memory");
}
__device__ inline void bulk_arrive(uint64_t *bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"((unsigned)__cvta_generic_to_shared(bar)) : "memory");
}
/* turn: 0 for a barrier's first use, then 1, 0 .. */
__device__ inline void bulk_wait(uint64_t *bar, int turn) {
    int done = 0;
    while (!done)
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.s32 %0, 1, 0, p;\n}"
                     : "=r"(done)
                     : "r"((unsigned)__cvta_generic_to_shared(bar)), "r"(turn)
                     : "memory");
}

/* A left operand's registers; sums c[j] .. with constraint s; names of the first registers. */
#define A4(a) "r"((a)[0]), "r"((a)[1]), "r"((a)[2]), "r"((a)[3])
#define C4(s, c, j) s((c)[j][0]), s((c)[j][1]), s((c)[j][2]), s((c)[j][3])
#define C16(s, c, j) C4(s, c, j), C4(s, c, (j) + 1), C4(s, c, (j) + 2), C4(s, c, (j) + 3)
#define C32(s, c, j) C16(s, c, j), C16(s, c, (j) + 4)
#define R16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define R32 R16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"

#endif
#endif
