/* isa_avx512.c - the loops of isa_*.inc compiled for AVX-512 (F, BW, DQ, VL). */
#if defined __x86_64__
#include <immintrin.h>
#include <string.h>

#include "cpu/isa.h"

#if defined __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif
#define MR_VEC_AVX512 1
#define MR_KERNELS cpu_kernels_avx512
#define MR_ISA_NAME "avx512"
#include "cpu/isa_all.inc"
#if defined __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
