/* vec.h - sixteen floats as one value, for kernels that are written once and compiled per instruction set.
 *
 * isa_avx512.c, isa_avx2.c and isa_generic.c each define one of MR_VEC_AVX512, MR_VEC_AVX2, MR_VEC_GENERIC, switch the compiler's target and
 * then include this header and the *.inc files. So everything here is static, and there is no guard against a second set in one file.
 * Lanes:  always 16 (one register of AVX-512, two of AVX2), so that a sum has the same lane order on all of them. Rounding differs
 *         between the sets only where GENERIC has no fused multiply-add.
 * Tails:  v_load_n and v_store_n touch n lanes; a kernel handles its last piece with the same code as the others, and
 *         an element's value never depends on where it lies. */
#include <math.h>
#include <stdint.h>

#define VEC_FN static inline __attribute__((always_inline, unused))
enum { VL = 16 };

#if defined MR_VEC_AVX512

typedef __m512 vf;
VEC_FN __mmask16 lanes_(int n) { return (__mmask16)(n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1); }
VEC_FN vf v_set1(float x) { return _mm512_set1_ps(x); }
VEC_FN vf v_load(const float *p) { return _mm512_loadu_ps(p); }
VEC_FN void v_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
VEC_FN vf v_load_n(const float *p, int n) { return _mm512_maskz_loadu_ps(lanes_(n), p); }
VEC_FN void v_store_n(float *p, vf a, int n) { _mm512_mask_storeu_ps(p, lanes_(n), a); }
VEC_FN vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
VEC_FN vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
VEC_FN vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
VEC_FN vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
VEC_FN vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
VEC_FN vf v_sqrt(vf a) { return _mm512_sqrt_ps(a); }
VEC_FN vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
VEC_FN vf v_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
VEC_FN vf v_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* per lane: a > b ? yes : no (NaN: no) */
VEC_FN vf v_if_gt(vf a, vf b, vf yes, vf no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), no, yes);
}
/* the first n lanes of a, then fill */
VEC_FN vf v_keep_n(vf a, int n, float fill) { return _mm512_mask_blend_ps(lanes_(n), _mm512_set1_ps(fill), a); }
VEC_FN vf v_ldexp(vf a, vf n) { return _mm512_scalef_ps(a, n); }
VEC_FN __m256 lower_(vf a) { return _mm512_castps512_ps256(a); }
VEC_FN __m256 upper_(vf a) { return _mm512_extractf32x8_ps(a, 1); }

#elif defined MR_VEC_AVX2

typedef struct vf { __m256 lo, hi; } vf;
VEC_FN vf pair_(__m256 lo, __m256 hi) { return (vf){ lo, hi }; }
VEC_FN __m256i lanes_(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
VEC_FN vf v_set1(float x) { return pair_(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
VEC_FN vf v_load(const float *p) { return pair_(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
VEC_FN void v_store(float *p, vf a) { _mm256_storeu_ps(p, a.lo), _mm256_storeu_ps(p + 8, a.hi); }
VEC_FN vf v_load_n(const float *p, int n) {
    return pair_(_mm256_maskload_ps(p, lanes_(n)),
                 n > 8 ? _mm256_maskload_ps(p + 8, lanes_(n - 8)) : _mm256_setzero_ps());
}
VEC_FN void v_store_n(float *p, vf a, int n) {
    _mm256_maskstore_ps(p, lanes_(n), a.lo);
    if (n > 8) _mm256_maskstore_ps(p + 8, lanes_(n - 8), a.hi);
}
VEC_FN vf v_add(vf a, vf b) { return pair_(_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)); }
VEC_FN vf v_sub(vf a, vf b) { return pair_(_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)); }
VEC_FN vf v_mul(vf a, vf b) { return pair_(_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)); }
VEC_FN vf v_div(vf a, vf b) { return pair_(_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)); }
VEC_FN vf v_max(vf a, vf b) { return pair_(_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)); }
VEC_FN vf v_sqrt(vf a) { return pair_(_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)); }
VEC_FN vf v_fma(vf a, vf b, vf c) {
    return pair_(_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi));
}
VEC_FN vf v_fnma(vf a, vf b, vf c) {
    return pair_(_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi));
}
VEC_FN vf v_round(vf a) {
    return pair_(_mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                 _mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
VEC_FN vf v_if_gt(vf a, vf b, vf yes, vf no) {
    return pair_(_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_GT_OQ)),
                 _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_GT_OQ)));
}
VEC_FN vf v_keep_n(vf a, int n, float fill) {
    __m256 f = _mm256_set1_ps(fill);
    return pair_(_mm256_blendv_ps(f, a.lo, _mm256_castsi256_ps(lanes_(n))),
                 _mm256_blendv_ps(f, a.hi, _mm256_castsi256_ps(lanes_(n - 8))));
}
/* In two factors, since 2^n alone leaves the range of normal numbers before a * 2^n does. */
VEC_FN __m256 ldexp8_(__m256 a, __m256 n) {
    __m256i k = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(k, 1), rest = _mm256_sub_epi32(k, half);
    __m256i bias = _mm256_set1_epi32(127);
    a = _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
}
VEC_FN vf v_ldexp(vf a, vf n) { return pair_(ldexp8_(a.lo, n.lo), ldexp8_(a.hi, n.hi)); }
VEC_FN __m256 lower_(vf a) { return a.lo; }
VEC_FN __m256 upper_(vf a) { return a.hi; }

#else /* MR_VEC_GENERIC: plain C, for machines without either */

typedef float vf __attribute__((vector_size(64)));
typedef int32_t vmask __attribute__((vector_size(64)));
VEC_FN vf v_set1(float x) { return (vf){ x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x }; }
VEC_FN vf v_load(const float *p) {
    vf r;
    __builtin_memcpy(&r, p, sizeof r);
    return r;
}
VEC_FN void v_store(float *p, vf a) { __builtin_memcpy(p, &a, sizeof a); }
VEC_FN vf v_load_n(const float *p, int n) {
    vf r = v_set1(0.0f);
    __builtin_memcpy(&r, p, n >= 16 ? sizeof r : (size_t)n * sizeof *p);
    return r;
}
VEC_FN void v_store_n(float *p, vf a, int n) { __builtin_memcpy(p, &a, n >= 16 ? sizeof a : (size_t)n * sizeof *p); }
VEC_FN vf v_add(vf a, vf b) { return a + b; }
VEC_FN vf v_sub(vf a, vf b) { return a - b; }
VEC_FN vf v_mul(vf a, vf b) { return a * b; }
VEC_FN vf v_div(vf a, vf b) { return a / b; }
VEC_FN vf v_fma(vf a, vf b, vf c) { return a * b + c; }
VEC_FN vf v_fnma(vf a, vf b, vf c) { return c - a * b; }
VEC_FN vf choose_(vmask m, vf yes, vf no) { return (vf)(((vmask)yes & m) | ((vmask)no & ~m)); }
VEC_FN vf v_if_gt(vf a, vf b, vf yes, vf no) { return choose_(a > b, yes, no); }
VEC_FN vf v_max(vf a, vf b) { return choose_(a > b, a, b); }
VEC_FN vf v_keep_n(vf a, int n, float fill) {
    const vmask lane = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
    return choose_(lane < n, a, v_set1(fill));
}
VEC_FN vf v_sqrt(vf a) {
    for (int i = 0; i < 16; i++) a[i] = sqrtf(a[i]);
    return a;
}
/* Adding 1.5 * 2^23 leaves no bits for a fraction; larger numbers are whole already, and the callers only need them to stay large. */
VEC_FN vf v_round(vf a) {
    vf big = v_set1(0x1.8p+23f);
    return (a + big) - big;
}
/* As for AVX2, in two factors. n beyond what v_exp keeps may give anything, without trapping. */
VEC_FN vf v_ldexp(vf a, vf n) {
    vf limit = v_set1(252.0f);
    n = v_if_gt(n, limit, limit, v_if_gt(-limit, n, -limit, n));
    vmask k = (vmask)(n + v_set1(0x1.8p+23f)) - 0x4b400000, half = k >> 1, rest = k - half;
    return a * (vf)((half + 127) << 23) * (vf)((rest + 127) << 23);
}

#endif

VEC_FN vf v_zero(void) { return v_set1(0.0f); }
VEC_FN vf v_neg(vf a) { return v_sub(v_set1(-0.0f), a); }

/* The 16 lanes as a tree: i + (i + 8), then 4, 2, 1 apart. One order on every instruction set. */
#if defined MR_VEC_GENERIC
VEC_FN float v_sum(vf a) {
    for (int w = 8; w; w /= 2)
        for (int i = 0; i < w; i++) a[i] += a[i + w];
    return a[0];
}
VEC_FN float v_hmax(vf a) {
    for (int w = 8; w; w /= 2)
        for (int i = 0; i < w; i++) a[i] = a[i] > a[i + w] ? a[i] : a[i + w];
    return a[0];
}
#else
VEC_FN float v_sum(vf a) {
    __m256 b = _mm256_add_ps(lower_(a), upper_(a));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
VEC_FN float v_hmax(vf a) {
    __m256 b = _mm256_max_ps(lower_(a), upper_(a));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
#endif

/* e^x to 2 ulp: x = n ln 2 + r with |r| <= ln 2 / 2 and ln 2 in two parts; e^r = 1 + r + r^2 q(r), where q interpolates
 * (e^r - 1 - r) / r^2 at the five Chebyshev nodes of that range (error 1e-8). e^0 is exactly 1, e^-inf 0, e^inf inf, NaN stays. Results below the smallest
 * normal number are 0: they weigh nothing in a sum, and denormals are slow. */
VEC_FN vf v_exp(vf x) {
    vf n = v_round(v_mul(x, v_set1(0x1.715476p+0f)));
    vf r = v_fnma(n, v_set1(0x1.63p-1f), x); /* 355/512: n times it is exact */
    r = v_fma(n, v_set1(0x1.bd0106p-13f), r);
    vf q = v_fma(r, v_set1(0x1.6d110ap-10f), v_set1(0x1.120b6ep-7f));
    q = v_fma(q, r, v_set1(0x1.55551ap-5f));
    q = v_fma(q, r, v_set1(0x1.5554dcp-3f));
    q = v_fma(q, r, v_set1(0.5f));
    q = v_fma(q, r, v_set1(1.0f));
    q = v_fma(q, r, v_set1(1.0f));
    q = v_ldexp(q, n);
    q = v_if_gt(x, v_set1(0x1.62e42ep+6f), v_set1(INFINITY), q); /* ln of the largest float */
    return v_if_gt(v_set1(-0x1.5d589ep+6f), x, v_zero(), q);     /* ln of the smallest normal one */
}
VEC_FN float v_exp1(float x) {
    float y;
    v_store_n(&y, v_exp(v_set1(x)), 1);
    return y;
}

/* Sine and cosine to 2 ulp of 1 for 0 <= x < 1e6. pi/2 in three parts, each step fused, then the Taylor polynomials on [-pi/4, pi/4]. */
VEC_FN void v_sincos(vf *sine, vf *cosine, vf x) {
#if defined MR_VEC_GENERIC
    for (int i = 0; i < 16; i++) (*sine)[i] = sinf(x[i]), (*cosine)[i] = cosf(x[i]);
#else
    vf n = v_round(v_mul(x, v_set1(0x1.45f306p-1f)));
    vf r = v_fnma(n, v_set1(0x1.921fb6p+0f), x);
    r = v_fnma(n, v_set1(-0x1.777a5cp-25f), r);
    r = v_fnma(n, v_set1(-0x1.ee59dap-50f), r);
    vf r2 = v_mul(r, r);
    vf s = v_fma(r2, v_set1(1.0f / 362880), v_set1(-1.0f / 5040));
    s = v_fma(s, r2, v_set1(1.0f / 120));
    s = v_fma(s, r2, v_set1(-1.0f / 6));
    s = v_fma(v_mul(s, r2), r, r);
    vf c = v_fma(r2, v_set1(-1.0f / 3628800), v_set1(1.0f / 40320));
    c = v_fma(c, r2, v_set1(-1.0f / 720));
    c = v_fma(c, r2, v_set1(1.0f / 24));
    c = v_fma(c, r2, v_set1(-0.5f));
    c = v_fma(c, r2, v_set1(1.0f));
    /* the quadrant 0..3; in an odd one the two change places, in 2 and 3 the sine, in 1 and 2 the cosine turns its sign */
    vf quarter = v_round(v_sub(v_mul(n, v_set1(0.25f)), v_set1(0.375f)));
    vf quadrant = v_fnma(quarter, v_set1(4.0f), n);
    vf from_two = v_sub(quadrant, v_set1(2.0f)), from_mid = v_sub(quadrant, v_set1(1.5f));
    vf d2 = v_mul(from_two, from_two), m2 = v_mul(from_mid, from_mid), half = v_set1(0.5f), two = v_set1(2.0f);
    vf ss = v_if_gt(d2, half, v_if_gt(d2, two, s, c), s), cc = v_if_gt(d2, half, v_if_gt(d2, two, c, s), c);
    *sine = v_if_gt(quadrant, v_set1(1.5f), v_neg(ss), ss);
    *cosine = v_if_gt(m2, v_set1(1.0f), cc, v_neg(cc));
#endif
}
