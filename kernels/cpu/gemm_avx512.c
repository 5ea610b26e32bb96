/* gemm_avx512.c - micro-kernels for AVX-512, with and without native bf16 products. See gemm.h for layouts and order.
 * */
#if defined(__x86_64__)

#include <immintrin.h>

#include "cpu/weights.h"

#define T512 target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#define T512BF target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#define INLINE static inline __attribute__((always_inline))

#define PREFETCH_STEP(w)                                                                                               \
    do {                                                                                                               \
        const char *here_ = (const char *)(w);                                                                         \
        _Pragma("GCC unroll 4") for (int c_ = 0; c_ < C; c_++) {                                                       \
            _mm_prefetch(here_ + GEMM_PREFETCH + 64 * c_, _MM_HINT_T0);                                                \
            _mm_prefetch(here_ + GEMM_PREFETCH_FAR + 64 * c_, _MM_HINT_T1);                                            \
        }                                                                                                              \
    } while (0)

#define LOAD_ACC(acc, t, R, C)                                                                                         \
    _Pragma("GCC unroll 6") for (int r = 0; r < (R); r++) _Pragma("GCC unroll 4") for (int c = 0; c < (C); c++)        \
        acc[r][c] = (t)->resume ? _mm512_loadu_ps((t)->acc + r * GEMM_COLS + 16 * c) : _mm512_setzero_ps()

#define SCALE_ACC(acc, t, R, C)                                                                                        \
    _Pragma("GCC unroll 6") for (int r = 0; r < (R); r++) _Pragma("GCC unroll 4") for (int c = 0; c < (C); c++)        \
        acc[r][c] = _mm512_mul_ps(acc[r][c], _mm512_set1_ps((t)->more_alpha))

INLINE __attribute__((T512)) void store_tile(const gemm_tile *t, __m512 (*acc)[4], const int R, const int C) {
    if (t->rest) {
#pragma GCC unroll 6
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int c = 0; c < C; c++) _mm512_storeu_ps(t->acc + r * GEMM_COLS + 16 * c, acc[r][c]);
        return;
    }
    __m512 alpha = _mm512_set1_ps(t->alpha);
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) {
        int left = t->cols - 16 * c;
        __mmask16 mask = left >= 16 ? 0xffff : left <= 0 ? 0 : (__mmask16)((1u << left) - 1u);
        __m512 bias = t->bias ? _mm512_maskz_loadu_ps(mask, t->bias + 16 * c) : _mm512_setzero_ps();
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            float *y = t->y + r * t->ldy + 16 * c;
            __m512 v = _mm512_mul_ps(acc[r][c], alpha);
            if (t->bias) v = _mm512_add_ps(v, bias);
            if (t->add) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, y));
            _mm512_mask_storeu_ps(y, mask, v);
        }
    }
}

INLINE __attribute__((T512)) void chain_f32(__m512 (*acc)[4], const float *x, int64_t ldx, const float *w, int64_t n,
                                            const char *next, int64_t stride, const int R, const int C) {
    for (int64_t k = 0; k < n; k++, w += GEMM_COLS) {
        __m512 wv[4];
        PREFETCH_STEP(w);
        _mm_prefetch(next, _MM_HINT_T1);
        next += stride;
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) wv[c] = _mm512_loadu_ps(w + 16 * c);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            __m512 xv = _mm512_set1_ps(x[r * ldx + k]);
#pragma GCC unroll 4
            for (int c = 0; c < C; c++) acc[r][c] = _mm512_fmadd_ps(xv, wv[c], acc[r][c]);
        }
    }
}

INLINE __attribute__((T512)) void tile_f32(const gemm_tile *t, const int R, const int C) {
    __m512 acc[GEMM_ROWS][4];
    LOAD_ACC(acc, t, R, C);
    if (t->more_k) {
        chain_f32(acc, t->more_x, t->more_ldx, t->more_w, t->more_k, t->next, 0, R, C);
        SCALE_ACC(acc, t, R, C);
    }
    chain_f32(acc, t->x, t->ldx, t->w, t->k, t->next, t->next_stride, R, C);
    store_tile(t, acc, R, C);
}

INLINE __attribute__((T512)) void chain_f32_bf16(__m512 (*acc)[4], const float *x, int64_t ldx, const char *w, int64_t n,
                                                 const char *next, int64_t stride, const int R, const int C) {
    const __m512i high = _mm512_set1_epi32((int)0xffff0000u);
    for (int64_t p = 0; p < n / 2; p++, w += GEMM_STEP) {
        PREFETCH_STEP(w);
        _mm_prefetch(next, _MM_HINT_T1);
        next += stride;
        /* the even k of all columns, then the odd */
#pragma GCC unroll 2
        for (int odd = 0; odd < 2; odd++) {
            __m512 wv[4];
#pragma GCC unroll 4
            for (int c = 0; c < C; c++) {
                __m512i both = _mm512_loadu_si512(w + 64 * c);
                wv[c] = _mm512_castsi512_ps(odd ? _mm512_and_si512(both, high) : _mm512_slli_epi32(both, 16));
            }
#pragma GCC unroll 6
            for (int r = 0; r < R; r++) {
                __m512 xv = _mm512_set1_ps(x[r * ldx + 2 * p + odd]);
#pragma GCC unroll 4
                for (int c = 0; c < C; c++) acc[r][c] = _mm512_fmadd_ps(xv, wv[c], acc[r][c]);
            }
        }
    }
    if (n & 1) {
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) {
            __m512 wv = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(w + 64 * c), 16));
#pragma GCC unroll 6
            for (int r = 0; r < R; r++)
                acc[r][c] = _mm512_fmadd_ps(_mm512_set1_ps(x[r * ldx + n - 1]), wv, acc[r][c]);
        }
    }
}

INLINE __attribute__((T512)) void tile_f32_bf16(const gemm_tile *t, const int R, const int C) {
    __m512 acc[GEMM_ROWS][4];
    LOAD_ACC(acc, t, R, C);
    if (t->more_k) {
        chain_f32_bf16(acc, t->more_x, t->more_ldx, t->more_w, t->more_k, t->next, 0, R, C);
        SCALE_ACC(acc, t, R, C);
    }
    chain_f32_bf16(acc, t->x, t->ldx, t->w, t->k, t->next, t->next_stride, R, C);
    store_tile(t, acc, R, C);
}

INLINE __attribute__((T512BF)) void chain_bf16(__m512 (*acc)[4], const char *x, int64_t ldx, const char *w, int64_t n,
                                               const char *next, int64_t stride, const int R, const int C) {
    int64_t pairs = (n + 1) / 2;
    ldx *= 2;
    for (int64_t p = 0; p < pairs; p++, w += GEMM_STEP) {
        __m512bh wv[4];
        PREFETCH_STEP(w);
        _mm_prefetch(next, _MM_HINT_T1);
        next += stride;
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) wv[c] = (__m512bh)_mm512_loadu_si512(w + 64 * c);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            int pair;
            __builtin_memcpy(&pair, x + r * ldx + 4 * p, 4);
            __m512bh xv = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
            for (int c = 0; c < C; c++) acc[r][c] = _mm512_dpbf16_ps(acc[r][c], xv, wv[c]);
        }
    }
}

INLINE __attribute__((T512BF)) void tile_bf16(const gemm_tile *t, const int R, const int C) {
    __m512 acc[GEMM_ROWS][4];
    LOAD_ACC(acc, t, R, C);
    if (t->more_k) {
        chain_bf16(acc, t->more_x, t->more_ldx, t->more_w, t->more_k, t->next, 0, R, C);
        SCALE_ACC(acc, t, R, C);
    }
    chain_bf16(acc, t->x, t->ldx, t->w, t->k, t->next, t->next_stride, R, C);
    store_tile(t, acc, R, C);
}

INLINE __attribute__((T512)) __m512 widen16(const uint16_t *x, __mmask16 mask) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

INLINE __attribute__((T512)) void tile_tn(float *out, const float *a, int64_t lda, const void *b, int64_t ldb,
                                          int64_t n, int cols, const int R, const int C, const bool full,
                                          const bool bf16) {
    __m512 acc[GEMM_ROWS][4];
    __mmask16 mask[4];
#pragma GCC unroll 4
    for (int c = 0; c < C; c++) {
        int left = cols - 16 * c;
        mask[c] = left >= 16 ? 0xffff : left <= 0 ? 0 : (__mmask16)((1u << left) - 1u);
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) acc[r][c] = _mm512_loadu_ps(out + r * GEMM_COLS + 16 * c);
    const char *row = b;
    for (int64_t i = 0; i < n; i++, a += lda, row += ldb * (bf16 ? 2 : 4)) {
        __m512 bv[4];
#pragma GCC unroll 4
        for (int c = 0; c < C; c++)
            bv[c] = bf16 ? widen16((const uint16_t *)(const void *)row + 16 * c, mask[c])
                    : full ? _mm512_loadu_ps((const float *)(const void *)row + 16 * c)
                           : _mm512_maskz_loadu_ps(mask[c], (const float *)(const void *)row + 16 * c);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            __m512 av = _mm512_set1_ps(a[r]);
#pragma GCC unroll 4
            for (int c = 0; c < C; c++) acc[r][c] = _mm512_fmadd_ps(av, bv[c], acc[r][c]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) _mm512_storeu_ps(out + r * GEMM_COLS + 16 * c, acc[r][c]);
}

/* Narrow panels (adapters of rank 16 or 32) get narrow tiles. Every variant makes the same chain for an element. */
#define BY_ROWS(call, C)                                                                                               \
    switch (rows) {                                                                                                    \
    case 1: call(1, C); break;                                                                                         \
    case 2: call(2, C); break;                                                                                         \
    case 3: call(3, C); break;                                                                                         \
    case 4: call(4, C); break;                                                                                         \
    case 5: call(5, C); break;                                                                                         \
    default: call(6, C); break;                                                                                        \
    }
#define BY_COLS(call, cols)                                                                                            \
    do {                                                                                                               \
        if ((cols) > 32)                                                                                               \
            BY_ROWS(call, 4)                                                                                           \
        else if ((cols) > 16)                                                                                          \
            BY_ROWS(call, 2)                                                                                           \
        else                                                                                                           \
            BY_ROWS(call, 1)                                                                                           \
    } while (0)

static __attribute__((T512)) void avx512_f32(const gemm_tile *t, int rows) {
#define CALL(R, C) tile_f32(t, R, C)
    BY_COLS(CALL, t->cols);
#undef CALL
}

static __attribute__((T512)) void avx512_f32_bf16(const gemm_tile *t, int rows) {
#define CALL(R, C) tile_f32_bf16(t, R, C)
    BY_COLS(CALL, t->cols);
#undef CALL
}

static __attribute__((T512BF)) void avx512_bf16(const gemm_tile *t, int rows) {
#define CALL(R, C) tile_bf16(t, R, C)
    BY_COLS(CALL, t->cols);
#undef CALL
}

static __attribute__((T512)) void avx512_tn(float *acc, const float *a, int64_t lda, const float *b, int64_t ldb,
                                            int64_t n, int rows, int cols) {
    if (cols == GEMM_COLS) {
#define CALL(R, C) tile_tn(acc, a, lda, b, ldb, n, cols, R, C, true, false)
        BY_ROWS(CALL, 4)
#undef CALL
    } else {
#define CALL(R, C) tile_tn(acc, a, lda, b, ldb, n, cols, R, C, false, false)
        BY_COLS(CALL, cols);
#undef CALL
    }
}

static __attribute__((T512)) void avx512_tn_bf16(float *acc, const float *a, int64_t lda, const uint16_t *b,
                                                 int64_t ldb, int64_t n, int rows, int cols) {
#define CALL(R, C) tile_tn(acc, a, lda, b, ldb, n, cols, R, C, false, true)
    BY_COLS(CALL, cols);
#undef CALL
}

/* cpu_to_bf16 for sixteen values, the bf16 in the low half of each. */
INLINE __attribute__((T512)) __m512i round16(__m512 v) {
    __m512i u = _mm512_castps_si512(v), upper = _mm512_srli_epi32(u, 16);
    __m512i bias = _mm512_add_epi32(_mm512_and_si512(upper, _mm512_set1_epi32(1)), _mm512_set1_epi32(0x7fff));
    __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(u, bias), 16);
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40));
}

static __attribute__((T512)) void avx512_to_bf16(uint16_t *dst, const float *src, int64_t n) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        _mm256_storeu_si256((__m256i *)(void *)(dst + i), _mm512_cvtepi32_epi16(round16(_mm512_loadu_ps(src + i))));
    for (; i < n; i++) dst[i] = cpu_to_bf16(src[i]);
}

/* The instruction flushes denormal numbers, which the products would flush anyway. */
static __attribute__((T512BF)) void native_to_bf16(uint16_t *dst, const float *src, int64_t n) {
    int64_t i = 0;
    for (; i + 32 <= n; i += 32)
        _mm512_storeu_si512(dst + i,
                            (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(src + i + 16), _mm512_loadu_ps(src + i)));
    for (; i < n; i += 16) {
        __mmask16 mask = n - i >= 16 ? 0xffff : (__mmask16)((1u << (n - i)) - 1u);
        _mm256_mask_storeu_epi16(dst + i, mask, (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, src + i)));
    }
}

static __attribute__((T512)) void avx512_round_bf16(float *dst, const float *src, int64_t n) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(dst + i, _mm512_castsi512_ps(_mm512_slli_epi32(round16(_mm512_loadu_ps(src + i)), 16)));
    for (; i < n; i++) dst[i] = cpu_from_bf16(cpu_to_bf16(src[i]));
}

/* Two vectors of values as bf16, `even` in the low halves. The native form flushes what the native product would flush
 * anyway. */
INLINE __attribute__((T512)) __m512i pair_plain(__m512 even, __m512 odd) {
    return _mm512_or_si512(round16(even), _mm512_slli_epi32(round16(odd), 16));
}
INLINE __attribute__((T512BF)) __m512i pair_native(__m512 even, __m512 odd) {
    const __m512i weave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(weave, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

/* Four bytes of each of sixteen rows from byte `at` on: words[d] holds bytes at + 4d .. of row = lane. */
INLINE __attribute__((T512)) void nf4_rows16(__m512i words[4], const uint8_t *codes, int64_t stride, int at) {
    __m512i v[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) { /* 128-bit lane g: row 4g + r */
        const uint8_t *from = codes + r * stride + at;
        v[r] = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)from));
        v[r] = _mm512_inserti32x4(v[r], _mm_loadu_si128((const __m128i *)(const void *)(from + 4 * stride)), 1);
        v[r] = _mm512_inserti32x4(v[r], _mm_loadu_si128((const __m128i *)(const void *)(from + 8 * stride)), 2);
        v[r] = _mm512_inserti32x4(v[r], _mm_loadu_si128((const __m128i *)(const void *)(from + 12 * stride)), 3);
    }
    __m512i low01 = _mm512_unpacklo_epi32(v[0], v[1]), low23 = _mm512_unpacklo_epi32(v[2], v[3]);
    __m512i high01 = _mm512_unpackhi_epi32(v[0], v[1]), high23 = _mm512_unpackhi_epi32(v[2], v[3]);
    words[0] = _mm512_unpacklo_epi64(low01, low23);
    words[1] = _mm512_unpackhi_epi64(low01, low23);
    words[2] = _mm512_unpacklo_epi64(high01, high23);
    words[3] = _mm512_unpackhi_epi64(high01, high23);
}

/* A byte holds two neighbors of a row, the first in the high nibble: exactly one step of one column of a bf16 panel. */
#define NF4_FWD(pair)                                                                                                  \
    const __m512 book = _mm512_loadu_ps(nf4_values);                                                                   \
    for (int c = 0; c < 4; c++) {                                                                                      \
        const __m512 scale = _mm512_loadu_ps(absmax + 16 * c);                                                         \
        for (int half = 0; half < 2; half++) {                                                                         \
            __m512i words[4];                                                                                          \
            nf4_rows16(words, codes + 16 * c * stride, stride, 16 * half);                                             \
            _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) {                                                    \
                __m512i now = _mm512_srlv_epi32(words[i / 4], _mm512_set1_epi32(8 * (i % 4)));                         \
                /* permutexvar looks at the low four bits only */                                                      \
                __m512 even = _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(now, 4), book), scale);            \
                __m512 odd = _mm512_mul_ps(_mm512_permutexvar_ps(now, book), scale);                                   \
                if (bf16) {                                                                                            \
                    _mm512_storeu_si512((char *)panel + (16 * half + i) * GEMM_STEP + 64 * c, pair(even, odd));        \
                } else {                                                                                               \
                    float *to = (float *)panel + (int64_t)2 * (16 * half + i) * GEMM_COLS + 16 * c;                    \
                    _mm512_storeu_ps(to, even);                                                                        \
                    _mm512_storeu_ps(to + GEMM_COLS, odd);                                                             \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    }

static __attribute__((T512)) void avx512_nf4_fwd(void *panel, const uint8_t *codes, int64_t stride, const float *absmax,
                                                 bool bf16) {
    NF4_FWD(pair_plain)
}

static __attribute__((T512BF)) void native_nf4_fwd(void *panel, const uint8_t *codes, int64_t stride,
                                                   const float *absmax, bool bf16){ NF4_FWD(pair_native) }

/* Sixteen neighbors of one row. */
INLINE __attribute__((T512)) __m512 nf4_load16(const uint8_t *codes, __m512 book, __m512 scale) {
    const __m512i shift = _mm512_set_epi32(0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4);
    __m512i wide = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)(const void *)codes));
    wide = _mm512_or_si512(wide, _mm512_slli_epi64(wide, 32));
    return _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srlv_epi32(wide, shift), book), scale);
}

#define NF4_BWD(pair)                                                                                                  \
    const __m512 book = _mm512_loadu_ps(nf4_values);                                                                   \
    for (int64_t i = 0; i < n; i += bf16 ? 2 : 1) {                                                                    \
        const __m512 scale = _mm512_set1_ps(absmax[i]);                                                                \
        const __m512 scale_odd = _mm512_set1_ps(bf16 && i + 1 < n ? absmax[i + 1] : 0.0f);                             \
        const uint8_t *row = codes + i * stride, *row_odd = bf16 && i + 1 < n ? row + stride : NULL;                   \
        for (int c = 0; c < 4; c++) {                                                                                  \
            __m512 even = nf4_load16(row + 8 * c, book, scale), odd = _mm512_setzero_ps();                             \
            if (!bf16) {                                                                                               \
                _mm512_storeu_ps((float *)panel + i * GEMM_COLS + 16 * c, even);                                       \
                continue;                                                                                              \
            }                                                                                                          \
            if (row_odd) odd = nf4_load16(row_odd + 8 * c, book, scale_odd);                                           \
            _mm512_storeu_si512((char *)panel + i / 2 * GEMM_STEP + 64 * c, pair(even, odd));                          \
        }                                                                                                              \
    }

static __attribute__((T512)) void avx512_nf4_bwd(void *panel, const uint8_t *codes, int64_t stride, const float *absmax,
                                                 int64_t n, bool bf16) {
    NF4_BWD(pair_plain)
}

static __attribute__((T512BF)) void native_nf4_bwd(void *panel, const uint8_t *codes, int64_t stride,
                                                   const float *absmax, int64_t n, bool bf16) {
    NF4_BWD(pair_native)
}

const gemm_kernels gemm_avx512 = {
    .tall = GEMM_ROWS,
    .f32 = avx512_f32,
    .f32_bf16 = avx512_f32_bf16,
    .tn = avx512_tn,
    .to_bf16 = avx512_to_bf16,
    .row_to_bf16 = avx512_to_bf16,
    .round_bf16 = avx512_round_bf16,
    .nf4_fwd = avx512_nf4_fwd,
    .nf4_bwd = avx512_nf4_bwd,
};
const gemm_kernels gemm_avx512_bf16 = {
    .tall = GEMM_ROWS,
    .f32 = avx512_f32,
    .f32_bf16 = avx512_f32_bf16,
    .bf16 = avx512_bf16,
    .tn = avx512_tn,
    .tn_bf16 = avx512_tn_bf16,
    .to_bf16 = avx512_to_bf16,
    .row_to_bf16 = native_to_bf16,
    .round_bf16 = avx512_round_bf16,
    .nf4_fwd = native_nf4_fwd,
    .nf4_bwd = native_nf4_bwd,
};
const gemm_kernels gemm_amx = {
    .tall = GEMM_ROWS_AMX,
    .f32 = avx512_f32,
    .f32_bf16 = avx512_f32_bf16,
    .bf16 = gemm_amx_bf16,
    .leave = gemm_amx_leave,
    .tn = avx512_tn,
    .tn_bf16 = avx512_tn_bf16,
    .to_bf16 = avx512_to_bf16,
    .row_to_bf16 = native_to_bf16,
    .round_bf16 = avx512_round_bf16,
    .nf4_fwd = native_nf4_fwd,
    .nf4_bwd = native_nf4_bwd,
};

#else
typedef int gemm_avx512_is_for_x86;
#endif
