/* wgmma.cuh - what the kernels with wgmma have in common, attention_sm90.cu and few_wide.cu: the order of its instructions, and operands' names
 * in assembly. (PTX ISA, wgmma.) For code of sm_90a alone; the emulator runs it one thread after the other, and needs none of the order. */
#ifndef MR_CUDA_WGMMA_H
#define MR_CUDA_WGMMA_H

#include <stdint.h>

#ifdef MR_EMULATE

static inline void wide_begin() {}
static inline void wide_commit() {}
template <int N> static inline void wide_wait() {}
template <int N> static inline void keep_here(float (*)[4]) {}
static inline void wide_sees() {}
static inline bool agreed(bool x) { return x; }

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

/* A left operand's registers; sums c[j] .. with constraint s; names of the first registers. */
#define A4(a) "r"((a)[0]), "r"((a)[1]), "r"((a)[2]), "r"((a)[3])
#define C4(s, c, j) s((c)[j][0]), s((c)[j][1]), s((c)[j][2]), s((c)[j][3])
#define C16(s, c, j) C4(s, c, j), C4(s, c, (j) + 1), C4(s, c, (j) + 2), C4(s, c, (j) + 3)
#define C32(s, c, j) C16(s, c, j), C16(s, c, (j) + 4)
#define R16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define R32 R16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"

#endif
#endif
