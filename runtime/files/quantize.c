/* quantize.c - see quantize.h. Loops have constant lengths, so that the compiler vectorizes them. */
#include "files/quantize.h"

#include <math.h>
#include <string.h>

#include "files/tensors.h"

static void put_half(uint8_t *dst, float x) {
    const uint16_t h = mr_f32_to_f16(x);
    memcpy(dst, &h, 2);
}

static void encode_f32(uint8_t *dst, const float *src, size_t n) {
    memcpy(dst, src, n * sizeof *src);
}

static void encode_f16(uint8_t *dst, const float *src, size_t n) {
    for (size_t i = 0; i < n; i++) put_half(dst + 2 * i, src[i]);
}

static void encode_bf16(uint8_t *dst, const float *src, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const uint16_t h = mr_f32_to_bf16(src[i]);
        memcpy(dst + 2 * i, &h, 2);
    }
}

/* ---- blocks of 32 ---- */

/* The first value of largest magnitude, with its sign. */
static float extreme(const float *x, int n) {
    float best = x[0];
    for (int i = 1; i < n; i++)
        if (fabsf(x[i]) > fabsf(best)) best = x[i];
    return best;
}

static void range_of(float *low, float *high, const float *x, int n) {
    *low = *high = x[0];
    for (int i = 1; i < n; i++) {
        if (x[i] < *low) *low = x[i];
        if (x[i] > *high) *high = x[i];
    }
}

static inline int clamp(int x, int low, int high) {
    return x < low ? low : x > high ? high : x;
}

/* q[32] of a block: trunc(x * inverse + zero), 0 to most. */
static void to_codes(uint8_t q[32], const float *x, float minus, float inverse, float zero, int most) {
    for (int j = 0; j < 32; j++) q[j] = (uint8_t)clamp((int)((x[j] - minus) * inverse + zero), 0, most);
}

/* Four low bits of 32 codes in 16 bytes, fifth bits in a word before them when there are any. */
static uint8_t *put_codes(uint8_t *dst, const uint8_t q[32], bool fifth) {
    if (fifth) {
        uint32_t high = 0;
        for (int j = 0; j < 32; j++) high |= (uint32_t)(q[j] >> 4) << j;
        memcpy(dst, &high, 4);
        dst += 4;
    }
    for (int j = 0; j < 16; j++) dst[j] = (uint8_t)((q[j] & 15) | (q[j + 16] & 15) << 4);
    return dst + 16;
}

/* Symmetric: the extreme value gets code 0, so it is hit exactly. */
static void encode_symmetric(uint8_t *dst, const float *src, size_t n, int half) {
    for (size_t b = 0; b < n / 32; b++, src += 32) {
        uint8_t q[32];
        const float d = extreme(src, 32) / (float)-half, inverse = d != 0.0f ? 1.0f / d : 0.0f;
        put_half(dst, d);
        to_codes(q, src, 0.0f, inverse, (float)half + 0.5f, 2 * half - 1);
        dst = put_codes(dst + 2, q, half == 16);
    }
}

static void encode_q4_0(uint8_t *dst, const float *src, size_t n) {
    encode_symmetric(dst, src, n, 8);
}

static void encode_q5_0(uint8_t *dst, const float *src, size_t n) {
    encode_symmetric(dst, src, n, 16);
}

static void encode_q5_1(uint8_t *dst, const float *src, size_t n) {
    for (size_t b = 0; b < n / 32; b++, src += 32) {
        uint8_t q[32];
        float low, high;
        range_of(&low, &high, src, 32);
        const float d = (high - low) / 31.0f, inverse = d != 0.0f ? 1.0f / d : 0.0f;
        put_half(dst, d);
        put_half(dst + 2, low);
        to_codes(q, src, low, inverse, 0.5f, 31);
        dst = put_codes(dst + 4, q, true);
    }
}

static void encode_q8_0(uint8_t *dst, const float *src, size_t n) {
    for (size_t b = 0; b < n / 32; b++, src += 32, dst += 34) {
        const float d = fabsf(extreme(src, 32)) / 127.0f, inverse = d != 0.0f ? 1.0f / d : 0.0f;
        put_half(dst, d);
        for (int j = 0; j < 32; j++) { /* half away from zero */
            const float x = src[j] * inverse;
            dst[2 + j] = (uint8_t)(int8_t)(x < 0.0f ? x - 0.5f : x + 0.5f);
        }
    }
}

/* ---- blocks of 256 ---- */

/* The nearest whole number, for |x| below 2^22: adding 1.5 * 2^23 leaves no bits for a fraction. */
static inline float nearest(float x) {
    const float magic = 12582912.0f;
    return (x + magic) - magic;
}

static inline float limit(float x, float low, float high) {
    return x < low ? low : x > high ? high : x;
}

typedef struct fit {
    float scale, minimum; /* value = scale * code - minimum, both at least 0 */
} fit;

/* The error that a fit leaves with the codes of x at `inverse`, and the best fit for these codes (least squares). */
static double refine(fit *f, const float *x, const float *w, float low, float inverse, float most) {
    float sw = 0, sq = 0, sqq = 0, sx = 0, sqx = 0, q[32];
    for (int j = 0; j < 32; j++) {
        q[j] = limit(nearest((x[j] - low) * inverse), 0.0f, most);
        sw += w[j];
        sq += w[j] * q[j];
        sqq += w[j] * q[j] * q[j];
        sx += w[j] * x[j];
        sqx += w[j] * q[j] * x[j];
    }
    const float det = sw * sqq - sq * sq;
    if (!(det > 0.0f)) return HUGE_VAL;
    f->scale = (sw * sqx - sx * sq) / det;
    f->minimum = -(sqq * sx - sq * sqx) / det;
    if (f->minimum < 0.0f) { /* a minimum is never added */
        f->minimum = 0.0f;
        f->scale = sqq > 0.0f ? sqx / sqq : 0.0f;
    }
    if (!(f->scale > 0.0f)) return HUGE_VAL;
    float error = 0;
    for (int j = 0; j < 32; j++) {
        const float e = f->scale * q[j] - f->minimum - x[j];
        error += w[j] * e * e;
    }
    return (double)error;
}

/* Codes 0 to most for 32 values. The plain spread over the range, and ranges a little narrower and wider. */
static fit fit_affine(const float *x, int most) {
    enum { STEPS = 20 };
    float low, high, w[32], squares = 0;
    range_of(&low, &high, x, 32);
    if (low > 0.0f) low = 0.0f;
    if (!(high > low)) return (fit){ 0.0f, -low };
    for (int j = 0; j < 32; j++) squares += x[j] * x[j];
    const float mean = sqrtf(squares / 32.0f);
    for (int j = 0; j < 32; j++) w[j] = mean + fabsf(x[j]);
    fit best = { (high - low) / (float)most, -low };
    double least = HUGE_VAL;
    for (int i = 0; i <= STEPS; i++) {
        fit f = { 0.0f, 0.0f };
        const float levels = (float)most - 1.0f + 0.1f * (float)i;
        const double error = refine(&f, x, w, low, levels / (high - low), (float)most);
        if (error < least) {
            least = error;
            best = f;
        }
    }
    return best;
}

/* Six bits each for scale and minimum of 8 sub-blocks in 12 bytes: spec/formats.md 7.2, the other way round. */
static void pack_scales(uint8_t s[12], const uint8_t scale[8], const uint8_t minimum[8]) {
    memset(s, 0, 12);
    for (int b = 0; b < 4; b++) {
        s[b] = (uint8_t)(scale[b] | (scale[b + 4] >> 4) << 6);
        s[b + 4] = (uint8_t)(minimum[b] | (minimum[b + 4] >> 4) << 6);
        s[b + 8] = (uint8_t)((scale[b + 4] & 15) | (minimum[b + 4] & 15) << 4);
    }
}

/* The head of a Q4_K or Q5_K block and the codes of its 256 values. */
static void affine_block(uint8_t head[16], uint8_t q[256], const float *x, int most) {
    fit f[8];
    float d = 0, d_min = 0;
    uint8_t scale[8], minimum[8];
    for (int b = 0; b < 8; b++) {
        f[b] = fit_affine(x + 32 * b, most);
        if (f[b].scale > d) d = f[b].scale;
        if (f[b].minimum > d_min) d_min = f[b].minimum;
    }
    put_half(head, d / 63.0f);
    put_half(head + 2, d_min / 63.0f);
    uint16_t half[2];
    memcpy(half, head, 4);
    d = mr_f16_to_f32(half[0]), d_min = mr_f16_to_f32(half[1]); /* as they will be read */
    for (int b = 0; b < 8; b++) {
        scale[b] = (uint8_t)(d > 0.0f ? limit(nearest(f[b].scale / d), 0.0f, 63.0f) : 0.0f);
        minimum[b] = (uint8_t)(d_min > 0.0f ? limit(nearest(f[b].minimum / d_min), 0.0f, 63.0f) : 0.0f);
        const float step = d * (float)scale[b], low = d_min * (float)minimum[b];
        const float inverse = step > 0.0f ? 1.0f / step : 0.0f;
        for (int j = 32 * b; j < 32 * b + 32; j++)
            q[j] = (uint8_t)limit(nearest((x[j] + low) * inverse), 0.0f, (float)most);
    }
    pack_scales(head + 4, scale, minimum);
}

static void put_nibbles(uint8_t *dst, const uint8_t q[256]) {
    for (int b = 0; b < 4; b++)
        for (int j = 0; j < 32; j++) dst[32 * b + j] = (uint8_t)((q[64 * b + j] & 15) | (q[64 * b + 32 + j] & 15) << 4);
}

static void encode_q4_k(uint8_t *dst, const float *src, size_t n) {
    uint8_t q[256];
    for (size_t i = 0; i < n / 256; i++, src += 256, dst += 144) {
        affine_block(dst, q, src, 15);
        put_nibbles(dst + 16, q);
    }
}

static void encode_q5_k(uint8_t *dst, const float *src, size_t n) {
    uint8_t q[256];
    for (size_t i = 0; i < n / 256; i++, src += 256, dst += 176) {
        affine_block(dst, q, src, 31);
        memset(dst + 16, 0, 32);
        for (int j = 0; j < 256; j++) dst[16 + j % 32] |= (uint8_t)((q[j] >> 4) << (j / 32));
        put_nibbles(dst + 48, q);
    }
}

/* The scale of 16 values with codes -32 to 31: value = scale * code. Larger values weigh more. */
static float fit_symmetric(const float *x) {
    enum { STEPS = 9 };
    const float most = extreme(x, 16);
    if (most == 0.0f) return 0.0f;
    float best = -most / 32.0f, gain = -1.0f;
    for (int i = -STEPS; i <= STEPS; i++) {
        const float inverse = -(32.0f + 0.1f * (float)i) / most;
        float sxq = 0, sqq = 0;
        for (int j = 0; j < 16; j++) {
            const float q = limit(nearest(x[j] * inverse), -32.0f, 31.0f), w = x[j] * x[j];
            sxq += w * x[j] * q;
            sqq += w * q * q;
        }
        if (sqq > 0.0f && sxq * sxq > gain * sqq) { /* what the error falls by is sxq^2 / sqq */
            gain = sxq * sxq / sqq;
            best = sxq / sqq;
        }
    }
    return best;
}

static void encode_q6_k(uint8_t *dst, const float *src, size_t n) {
    for (size_t i = 0; i < n / 256; i++, src += 256, dst += 210) {
        float scale[16];
        uint8_t q[256];
        for (int b = 0; b < 16; b++) scale[b] = fit_symmetric(src + 16 * b);
        put_half(dst + 208, extreme(scale, 16) / -128.0f);
        uint16_t half;
        memcpy(&half, dst + 208, 2);
        const float d = mr_f16_to_f32(half);
        for (int b = 0; b < 16; b++) {
            const float s = d != 0.0f ? limit(nearest(scale[b] / d), -128.0f, 127.0f) : 0.0f, step = d * s;
            const float inverse = step != 0.0f ? 1.0f / step : 0.0f;
            dst[192 + b] = (uint8_t)(int8_t)s;
            for (int j = 16 * b; j < 16 * b + 16; j++)
                q[j] = (uint8_t)(limit(nearest(src[j] * inverse), -32.0f, 31.0f) + 32.0f);
        }
        for (int part = 0; part < 2; part++) {
            const uint8_t *c = q + 128 * part;
            for (int j = 0; j < 32; j++) {
                dst[64 * part + j] = (uint8_t)((c[j] & 15) | (c[j + 64] & 15) << 4);
                dst[64 * part + 32 + j] = (uint8_t)((c[j + 32] & 15) | (c[j + 96] & 15) << 4);
                dst[128 + 32 * part + j] =
                    (uint8_t)(c[j] >> 4 | c[j + 32] >> 4 << 2 | c[j + 64] >> 4 << 4 | c[j + 96] >> 4 << 6);
            }
        }
    }
}

/* Blocks keep their scale as f16, which ends at 65504: the scale is the largest value over the codes' range, but
 * nobody's weights come near, so one bound is enough. */
static const mr_format formats[] = {
    { "F32", 0, 1, 4, HUGE_VALF, encode_f32 },       { "F16", 1, 1, 2, 65504.0f, encode_f16 },
    { "BF16", 30, 1, 2, 3.38e38f, encode_bf16 },     { "Q4_0", 2, 32, 18, 65504.0f, encode_q4_0 },
    { "Q5_0", 6, 32, 22, 65504.0f, encode_q5_0 },    { "Q5_1", 7, 32, 24, 65504.0f, encode_q5_1 },
    { "Q8_0", 8, 32, 34, 65504.0f, encode_q8_0 },    { "Q4_K", 12, 256, 144, 65504.0f, encode_q4_k },
    { "Q5_K", 13, 256, 176, 65504.0f, encode_q5_k }, { "Q6_K", 14, 256, 210, 65504.0f, encode_q6_k },
};

const mr_format *mr_format_named(const char *name) {
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (!strcmp(formats[i].name, name)) return &formats[i];
    return NULL;
}
