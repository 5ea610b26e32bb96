/* quants.c - the stored number types and how a row of each becomes f32: plain numbers and ggml's blocks.
 *
 * Source: spec/formats.md 7.2 (block layouts of gguf 0.19.0, quants.py). Products and sums are done in f32, one
 * rounding each, in the order d * q, then + m: the values are equal to the reference's. Loops have constant lengths and
 * no branches, so that the compiler vectorizes them. */
#include <string.h>

#include "files/tensors_impl.h"

static inline float half_at(const uint8_t *p) {
    uint16_t x;
    memcpy(&x, p, 2);
    return mr_f16_to_f32(x);
}

static void decode_f32(float *dst, const uint8_t *src, size_t n) {
    memcpy(dst, src, n * sizeof *dst);
}

#define DECODE_PLAIN(name, ctype)                                                                                      \
    static void name(float *dst, const uint8_t *src, size_t n) {                                                       \
        for (size_t i = 0; i < n; i++) {                                                                               \
            ctype x;                                                                                                   \
            memcpy(&x, src + i * sizeof x, sizeof x);                                                                  \
            dst[i] = (float)x;                                                                                         \
        }                                                                                                              \
    }
DECODE_PLAIN(decode_f64, double)
DECODE_PLAIN(decode_i8, int8_t)
DECODE_PLAIN(decode_u8, uint8_t)
DECODE_PLAIN(decode_i16, int16_t)
DECODE_PLAIN(decode_u16, uint16_t)
DECODE_PLAIN(decode_i32, int32_t)
DECODE_PLAIN(decode_u32, uint32_t)
DECODE_PLAIN(decode_i64, int64_t)
DECODE_PLAIN(decode_u64, uint64_t)

static void decode_q4_0(float *dst, const uint8_t *src, size_t n) {
    for (size_t b = 0; b < n / 32; b++, src += 18, dst += 32) {
        const float d = half_at(src);
        const uint8_t *q = src + 2;
        for (int j = 0; j < 16; j++) dst[j] = d * (float)((q[j] & 15) - 8);
        for (int j = 0; j < 16; j++) dst[j + 16] = d * (float)((q[j] >> 4) - 8);
    }
}

static void decode_q4_1(float *dst, const uint8_t *src, size_t n) {
    for (size_t b = 0; b < n / 32; b++, src += 20, dst += 32) {
        const float d = half_at(src), m = half_at(src + 2);
        const uint8_t *q = src + 4;
        for (int j = 0; j < 16; j++) dst[j] = d * (float)(q[j] & 15) + m;
        for (int j = 0; j < 16; j++) dst[j + 16] = d * (float)(q[j] >> 4) + m;
    }
}

static inline uint32_t word_at(const uint8_t *p) {
    uint32_t x;
    memcpy(&x, p, 4);
    return x;
}

static void decode_q5_0(float *dst, const uint8_t *src, size_t n) {
    for (size_t b = 0; b < n / 32; b++, src += 22, dst += 32) {
        const float d = half_at(src);
        const uint32_t h = word_at(src + 2);
        const uint8_t *q = src + 6;
        for (int j = 0; j < 16; j++) {
            const int lo = (q[j] & 15) | (int)((h >> j) & 1u) << 4, hi = (q[j] >> 4) | (int)((h >> (j + 16)) & 1u) << 4;
            dst[j] = d * (float)(lo - 16);
            dst[j + 16] = d * (float)(hi - 16);
        }
    }
}

static void decode_q5_1(float *dst, const uint8_t *src, size_t n) {
    for (size_t b = 0; b < n / 32; b++, src += 24, dst += 32) {
        const float d = half_at(src), m = half_at(src + 2);
        const uint32_t h = word_at(src + 4);
        const uint8_t *q = src + 8;
        for (int j = 0; j < 16; j++) {
            const int lo = (q[j] & 15) | (int)((h >> j) & 1u) << 4, hi = (q[j] >> 4) | (int)((h >> (j + 16)) & 1u) << 4;
            dst[j] = d * (float)lo + m;
            dst[j + 16] = d * (float)hi + m;
        }
    }
}

static void decode_q8_0(float *dst, const uint8_t *src, size_t n) {
    for (size_t b = 0; b < n / 32; b++, src += 34, dst += 32) {
        const float d = half_at(src);
        const uint8_t *q = src + 2;
        for (int j = 0; j < 32; j++) dst[j] = d * (float)(int8_t)q[j];
    }
}

/* Scale and minimum of sub-block b of a Q4_K or Q5_K block: six bits each, packed in 12 bytes (formats.md 7.2). */
static inline void k_scale(const uint8_t *s, int b, int *scale, int *minimum) {
    if (b < 4) {
        *scale = s[b] & 63;
        *minimum = s[b + 4] & 63;
    } else {
        *scale = (s[b + 4] & 15) | (s[b - 4] >> 6) << 4;
        *minimum = (s[b + 4] >> 4) | (s[b] >> 6) << 4;
    }
}

static void decode_q4_k(float *dst, const uint8_t *src, size_t n) {
    for (size_t i = 0; i < n / 256; i++, src += 144) {
        const float d = half_at(src), d_min = half_at(src + 2);
        for (int b = 0; b < 8; b++, dst += 32) {
            const uint8_t *q = src + 16 + 32 * (b / 2);
            const int shift = 4 * (b & 1);
            int scale, minimum;
            k_scale(src + 4, b, &scale, &minimum);
            const float ds = d * (float)scale, dm = d_min * (float)minimum;
            for (int j = 0; j < 32; j++) dst[j] = ds * (float)((q[j] >> shift) & 15) - dm;
        }
    }
}

static void decode_q5_k(float *dst, const uint8_t *src, size_t n) {
    for (size_t i = 0; i < n / 256; i++, src += 176) {
        const float d = half_at(src), d_min = half_at(src + 2);
        const uint8_t *h = src + 16;
        for (int b = 0; b < 8; b++, dst += 32) {
            const uint8_t *q = src + 48 + 32 * (b / 2);
            const int shift = 4 * (b & 1);
            int scale, minimum;
            k_scale(src + 4, b, &scale, &minimum);
            const float ds = d * (float)scale, dm = d_min * (float)minimum;
            for (int j = 0; j < 32; j++) dst[j] = ds * (float)(((q[j] >> shift) & 15) | ((h[j] >> b) & 1) << 4) - dm;
        }
    }
}

static void decode_q6_k(float *dst, const uint8_t *src, size_t n) {
    for (size_t i = 0; i < n / 256; i++, src += 210) {
        const float d = half_at(src + 208);
        for (int half = 0; half < 2; half++, dst += 128) {
            const uint8_t *low = src + 64 * half, *high = src + 128 + 32 * half, *scale = src + 192 + 8 * half;
            for (int part = 0; part < 4; part++) {
                const uint8_t *q = low + 32 * (part & 1);
                const int shift = 4 * (part >> 1);
                for (int j = 0; j < 32; j++) {
                    const int v = ((q[j] >> shift) & 15) | ((high[j] >> (2 * part)) & 3) << 4;
                    const float ds = d * (float)(int8_t)scale[(32 * part + j) / 16];
                    dst[32 * part + j] = ds * (float)(v - 32);
                }
            }
        }
    }
}

static void decode_q2_k(float *dst, const uint8_t *src, size_t n) {
    for (size_t i = 0; i < n / 256; i++, src += 84) {
        const float d = half_at(src + 80), d_min = half_at(src + 82);
        for (int b = 0; b < 16; b++, dst += 16) { /* 16 values each: scale in the low half of a byte, minimum above */
            const uint8_t *q = src + 16 + 32 * (b / 8) + 16 * (b & 1);
            const int shift = b % 8 / 2 * 2;
            const float ds = d * (float)(src[b] & 15), dm = d_min * (float)(src[b] >> 4);
            for (int j = 0; j < 16; j++) dst[j] = ds * (float)((q[j] >> shift) & 3) - dm;
        }
    }
}

/* Scale of sub-block b of a Q3_K block, six bits minus 32: four low bits in the first 8 of 12 bytes, two high ones in
 * the last 4. */
static inline int q3_scale(const uint8_t *s, int b) {
    const int low = (s[b % 8] >> (b < 8 ? 0 : 4)) & 15, high = (s[8 + b % 4] >> (b / 4 * 2)) & 3;
    return (low | high << 4) - 32;
}

static void decode_q3_k(float *dst, const uint8_t *src, size_t n) {
    for (size_t i = 0; i < n / 256; i++, src += 110) {
        const float d = half_at(src + 108);
        for (int b = 0; b < 16; b++, dst += 16) {
            const uint8_t *q = src + 32 + 32 * (b / 8) + 16 * (b & 1), *high = src + 16 * (b & 1);
            const int shift = b % 8 / 2 * 2, bit = b / 2;
            const float ds = d * (float)q3_scale(src + 96, b);
            for (int j = 0; j < 16; j++) /* the third bit says that 4 are not to be taken off */
                dst[j] = ds * (float)(((q[j] >> shift) & 3) - ((high[j] >> bit) & 1 ? 0 : 4));
        }
    }
}

/* Sizes of the types that are only refused by name: gguf_quants.json, "sizes". */
static const mr_value_type types[] = {
    { "F32", 0, true, 1, 4, decode_f32 },         { "F16", 1, true, 1, 2, mr_f16_decode },
    { "BF16", 30, true, 1, 2, mr_bf16_decode },   { "F64", 28, true, 1, 8, decode_f64 },
    { "BOOL", -1, true, 1, 1, decode_u8 },        { "U8", -1, true, 1, 1, decode_u8 },
    { "I8", 24, true, 1, 1, decode_i8 },          { "U16", -1, true, 1, 2, decode_u16 },
    { "I16", 25, true, 1, 2, decode_i16 },        { "U32", -1, true, 1, 4, decode_u32 },
    { "I32", 26, true, 1, 4, decode_i32 },        { "U64", -1, true, 1, 8, decode_u64 },
    { "I64", 27, true, 1, 8, decode_i64 },        { "C64", -1, true, 1, 8, NULL },
    { "F8_E5M2", -1, true, 1, 1, NULL },          { "F8_E4M3", -1, true, 1, 1, NULL },
    { "F8_E8M0", -1, true, 1, 1, NULL },          { "F8_E4M3FNUZ", -1, true, 1, 1, NULL },
    { "F8_E5M2FNUZ", -1, true, 1, 1, NULL },      { "F4", -1, true, 2, 1, NULL },
    { "F6_E2M3", -1, true, 4, 3, NULL },          { "F6_E3M2", -1, true, 4, 3, NULL },
    { "Q4_0", 2, false, 32, 18, decode_q4_0 },    { "Q4_1", 3, false, 32, 20, decode_q4_1 },
    { "Q5_0", 6, false, 32, 22, decode_q5_0 },    { "Q5_1", 7, false, 32, 24, decode_q5_1 },
    { "Q8_0", 8, false, 32, 34, decode_q8_0 },    { "Q4_K", 12, false, 256, 144, decode_q4_k },
    { "Q5_K", 13, false, 256, 176, decode_q5_k }, { "Q6_K", 14, false, 256, 210, decode_q6_k },
    { "Q8_1", 9, false, 32, 40, NULL },           { "Q2_K", 10, false, 256, 84, decode_q2_k },
    { "Q3_K", 11, false, 256, 110, decode_q3_k },        { "Q8_K", 15, false, 256, 292, NULL },
    { "IQ2_XXS", 16, false, 256, 66, NULL },      { "IQ2_XS", 17, false, 256, 74, NULL },
    { "IQ3_XXS", 18, false, 256, 98, NULL },      { "IQ1_S", 19, false, 256, 50, NULL },
    { "IQ4_NL", 20, false, 32, 18, NULL },        { "IQ3_S", 21, false, 256, 110, NULL },
    { "IQ2_S", 22, false, 256, 82, NULL },        { "IQ4_XS", 23, false, 256, 136, NULL },
    { "IQ1_M", 29, false, 256, 56, NULL },        { "TQ1_0", 34, false, 256, 54, NULL },
    { "TQ2_0", 35, false, 256, 66, NULL },        { "MXFP4", 39, false, 32, 17, NULL },
    { "NVFP4", 40, false, 64, 36, NULL },         { "Q1_0", 41, false, 128, 18, NULL },
};
enum { n_types = sizeof types / sizeof types[0] };

const mr_value_type *mr_value_type_named(const char *safetensors_name) {
    for (int i = 0; i < n_types; i++)
        if (types[i].in_safetensors && !strcmp(types[i].name, safetensors_name)) return &types[i];
    return NULL;
}

const mr_value_type *mr_value_type_of_gguf(uint32_t id) {
    for (int i = 0; i < n_types; i++)
        if (types[i].gguf_id >= 0 && (uint32_t)types[i].gguf_id == id) return &types[i];
    return NULL;
}
