/* isa_avx2.c - the loops of isa_*.inc compiled for AVX2 with FMA. */
#if defined __x86_64__
#include <immintrin.h>
#include <string.h>

#include "cpu/isa.h"

#if defined __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define MR_VEC_AVX2 1
#define MR_KERNELS cpu_kernels_avx2
#define MR_ISA_NAME "avx2"
#include "cpu/isa_all.inc"
#if defined __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
