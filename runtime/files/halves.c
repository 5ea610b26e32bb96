/* halves.c - the two 16-bit float formats: bfloat16 (8 exponent bits) and IEEE half (5 exponent bits), to f32 and back.
 *
 * The half decode works on integers and one exact multiplication, so that denormals are right whatever the state of the
 * processor's flush-to-zero flags, and so that the compiler can vectorize it. */
#include <string.h>

#include "files/tensors_impl.h"

static inline float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static inline uint32_t bits_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

float mr_bf16_to_f32(uint16_t x) {
    return float_of((uint32_t)x << 16);
}

uint16_t mr_f32_to_bf16(float x) {
    uint32_t bits = bits_of(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float half_to_float(uint16_t x) {
    uint32_t exponent = x & 0x7c00u, mantissa = x & 0x03ffu, sign = (uint32_t)(x & 0x8000u) << 16;
    uint32_t normal = ((uint32_t)(x & 0x7fffu) << 13) + (112u << 23); /* exponent bias 15 to 127 */
    uint32_t special = normal + (112u << 23);                         /* 31 to 255: infinities and NaN */
    uint32_t tiny = bits_of((float)(int32_t)mantissa * 0x1p-24f);     /* exact: 10 bits */
    uint32_t bits = exponent == 0x7c00u ? special : normal;
    return float_of(sign | (exponent == 0 ? tiny : bits));
}

float mr_f16_to_f32(uint16_t x) {
    return half_to_float(x);
}

uint16_t mr_f32_to_f16(float x) {
    uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffffu;
    uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and above round to infinity */
    if (magnitude < 0x38800000u) {                                   /* below 2^-14: a multiple of 2^-24 */
        if (magnitude < 0x33000000u) return sign;                    /* below 2^-25 */
        uint32_t shift = 126u - (magnitude >> 23), mantissa = (magnitude & 0x7fffffu) | 0x800000u;
        uint32_t kept = mantissa >> shift, rest = mantissa & ((1u << shift) - 1u), half = 1u << (shift - 1u);
        if (rest > half || (rest == half && (kept & 1u))) kept++;
        return (uint16_t)(sign | kept);
    }
    uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u); /* to nearest, ties to even */
    return (uint16_t)(sign | ((rounded - (112u << 23)) >> 13));
}

void mr_f16_decode(float *dst, const uint8_t *src, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint16_t x;
        memcpy(&x, src + 2 * i, 2);
        dst[i] = half_to_float(x);
    }
}

void mr_bf16_decode(float *dst, const uint8_t *src, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint16_t x;
        memcpy(&x, src + 2 * i, 2);
        dst[i] = float_of((uint32_t)x << 16);
    }
}
