/* gemm_avx2.c - micro-kernels for AVX2 with FMA: f32 sums; bf16 weights are widened. See gemm.h for layouts and order.
 *
 * Sixteen registers hold at most 12 accumulators, so a panel is worked through in strips: 64 columns at a time for one
 * row, 32 for two or three, 16 for four to six. */
#if defined(__x86_64__)

#include <immintrin.h>

#include "cpu/weights.h"

#define T256 __attribute__((target("avx2,fma")))
#define INLINE static inline __attribute__((always_inline)) T256

/* The first `n` of eight lanes. */
INLINE __m256i lanes(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}

static const uint32_t upper_halves[8] __attribute__((aligned(32))) = {
    0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u,
};

/* What a step of a panel is read as: the only values of f32, or of bf16 the lower halves (even k) or the upper ones. */
typedef enum half { WHOLE, EVEN, ODD } half;

INLINE __m256 weights(const char *w, const uint32_t *upper, const half which) {
    if (which == WHOLE) return _mm256_loadu_ps((const float *)(const void *)w);
    __m256i both = _mm256_loadu_si256((const __m256i *)(const void *)w);
    return _mm256_castsi256_ps(which == ODD ? _mm256_and_si256(both, *(const __m256i *)(const void *)upper)
                                            : _mm256_slli_epi32(both, 16));
}

/* One k. 12 accumulators leave four registers, so the shorter side of the tile is held and the other one passes. */
INLINE void step(__m256 (*acc)[8], const float *x, int64_t ldx, const char *w, const int R, const int C, const half which) {
    const uint32_t *upper = upper_halves;
    __m256 held[8];
    /* A compiler sees that the next k reads the same lines of bf16, and the same mask: it would keep both, and put
     * accumulators into memory for it. */
    __asm__("" : "+r"(w), "+r"(upper));
    if (R >= C) {
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) held[c] = weights(w + 32 * c, upper, which);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            __m256 xv = _mm256_broadcast_ss(x + r * ldx);
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) acc[r][c] = _mm256_fmadd_ps(xv, held[c], acc[r][c]);
        }
    } else {
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) held[r] = _mm256_broadcast_ss(x + r * ldx);
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) {
            __m256 wv = weights(w + 32 * c, upper, which);
#pragma GCC unroll 6
            for (int r = 0; r < R; r++) acc[r][c] = _mm256_fmadd_ps(held[r], wv, acc[r][c]);
        }
    }
}

/* far: the lines of all strips, which the first one fetches where nobody has read them before; else the strip's own. */
INLINE void chain(__m256 (*acc)[8], const float *x, int64_t ldx, const char *w, int64_t n, const char *next,
                  int64_t stride, bool far, const int R, const int C, const bool bf16) {
    const int k_step = bf16 ? 2 : 1;
    for (int64_t k = 0; k < n; k += k_step, w += GEMM_STEP, next += stride) {
        _mm_prefetch(w + GEMM_PREFETCH, _MM_HINT_T0);
        _mm_prefetch(next, _MM_HINT_T1);
        if (far)
            for (int line = 0; line < 4; line++) _mm_prefetch(w + GEMM_PREFETCH_FAR + 64 * line, _MM_HINT_T1);
        step(acc, x + k, ldx, w, R, C, bf16 ? EVEN : WHOLE);
        if (bf16 && k + 1 < n) step(acc, x + k + 1, ldx, w, R, C, ODD);
    }
}

/* Strip of C vectors from column `col` on. */
INLINE void strip(const gemm_tile *t, int col, const int R, const int C, const bool bf16) {
    __m256 acc[GEMM_ROWS][8];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int c = 0; c < C; c++)
            acc[r][c] = t->resume ? _mm256_loadu_ps(t->acc + r * GEMM_COLS + col + 8 * c) : _mm256_setzero_ps();
    if (t->more_k) {
        chain(acc, t->more_x, t->more_ldx, (const char *)t->more_w + 4 * col, t->more_k, t->next, 0, false, R, C, bf16);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++)
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) acc[r][c] = _mm256_mul_ps(acc[r][c], _mm256_set1_ps(t->more_alpha));
    }
    chain(acc, t->x, t->ldx, (const char *)t->w + 4 * col, t->k, t->next, t->next_stride, t->cold && col == 0, R, C, bf16);
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
        if (t->rest) {
#pragma GCC unroll 6
            for (int r = 0; r < R; r++) _mm256_storeu_ps(t->acc + r * GEMM_COLS + col + 8 * c, acc[r][c]);
            continue;
        }
        __m256i mask = lanes(t->cols - col - 8 * c);
        __m256 alpha = _mm256_set1_ps(t->alpha);
        __m256 bias = t->bias ? _mm256_maskload_ps(t->bias + col + 8 * c, mask) : _mm256_setzero_ps();
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            float *y = t->y + r * t->ldy + col + 8 * c;
            __m256 v = _mm256_mul_ps(acc[r][c], alpha);
            if (t->bias) v = _mm256_add_ps(v, bias);
            if (t->add) v = _mm256_add_ps(v, _mm256_maskload_ps(y, mask));
            _mm256_maskstore_ps(y, mask, v);
        }
    }
}

#define STRIPS(R, C, bf16)                                                                                             \
    for (int col = 0; col < t->cols; col += 8 * (C)) strip(t, col, R, C, bf16);                                        \
    break
#define BY_ROWS(bf16)                                                                                                  \
    switch (rows) {                                                                                                    \
    case 1:                                                                                                            \
        if (t->cols <= 32) { /* half a panel */                                                                        \
            STRIPS(1, 4, bf16);                                                                                        \
        }                                                                                                              \
        STRIPS(1, 8, bf16);                                                                                        \
    case 2: STRIPS(2, 4, bf16);                                                                                        \
    case 3: STRIPS(3, 4, bf16);                                                                                        \
    case 4: STRIPS(4, 2, bf16);                                                                                        \
    case 5: STRIPS(5, 2, bf16);                                                                                        \
    default: STRIPS(6, 2, bf16);                                                                                       \
    }

static T256 void avx2_f32(const gemm_tile *t, int rows) {
    BY_ROWS(false)
}

static T256 void avx2_f32_bf16(const gemm_tile *t, int rows){ BY_ROWS(true) }

INLINE void tn_strip(float *out, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t n, int cols,
                     const int R, const bool full) {
    __m256 acc[GEMM_ROWS][2];
    __m256i mask[2] = { lanes(cols), lanes(cols - 8) };
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
        acc[r][0] = _mm256_loadu_ps(out + r * GEMM_COLS);
        acc[r][1] = _mm256_loadu_ps(out + r * GEMM_COLS + 8);
    }
    for (int64_t i = 0; i < n; i++, a += lda, b += ldb) {
        __m256 b0 = full ? _mm256_loadu_ps(b) : _mm256_maskload_ps(b, mask[0]);
        __m256 b1 = full ? _mm256_loadu_ps(b + 8) : _mm256_maskload_ps(b + 8, mask[1]);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            __m256 av = _mm256_broadcast_ss(a + r);
            acc[r][0] = _mm256_fmadd_ps(av, b0, acc[r][0]);
            acc[r][1] = _mm256_fmadd_ps(av, b1, acc[r][1]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
        _mm256_storeu_ps(out + r * GEMM_COLS, acc[r][0]);
        _mm256_storeu_ps(out + r * GEMM_COLS + 8, acc[r][1]);
    }
}

static T256 void avx2_tn(float *acc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t n, int rows,
                         int cols) {
    for (int c = 0; c < cols; c += 16) {
        bool full = cols - c >= 16;
#define TN(R)                                                                                                          \
    if (full)                                                                                                          \
        tn_strip(acc + c, a, lda, b + c, ldb, n, 16, R, true);                                                         \
    else                                                                                                               \
        tn_strip(acc + c, a, lda, b + c, ldb, n, cols - c, R, false);                                                  \
    break
        switch (rows) {
        case 1: TN(1);
        case 2: TN(2);
        case 3: TN(3);
        case 4: TN(4);
        case 5: TN(5);
        default: TN(6);
        }
#undef TN
    }
}

/* cpu_to_bf16 for eight values, the bf16 in the low half of each. */
INLINE __m256i round8(__m256 v) {
    __m256i u = _mm256_castps_si256(v), upper = _mm256_srli_epi32(u, 16);
    __m256i bias = _mm256_add_epi32(_mm256_and_si256(upper, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(u, bias), 16);
    __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
}

static T256 void avx2_to_bf16(uint16_t *dst, const float *src, int64_t n) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256i a = round8(_mm256_loadu_ps(src + i)), b = round8(_mm256_loadu_ps(src + i + 8));
        __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xd8);
        _mm256_storeu_si256((__m256i *)(void *)(dst + i), packed);
    }
    for (; i < n; i++) dst[i] = cpu_to_bf16(src[i]);
}

static T256 void avx2_round_bf16(float *dst, const float *src, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_castsi256_ps(_mm256_slli_epi32(round8(_mm256_loadu_ps(src + i)), 16)));
    for (; i < n; i++) dst[i] = cpu_from_bf16(cpu_to_bf16(src[i]));
}

const gemm_kernels gemm_avx2 = {
    .tall = GEMM_ROWS,
    .f32 = avx2_f32,
    .f32_bf16 = avx2_f32_bf16,
    .tn = avx2_tn,
    .to_bf16 = avx2_to_bf16,
    .row_to_bf16 = avx2_to_bf16,
    .round_bf16 = avx2_round_bf16,
};

#else
typedef int gemm_avx2_is_for_x86;
#endif
