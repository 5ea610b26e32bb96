/* maps.h - the value tables of 4-bit weights and of 8-bit states, as bitsandbytes has them, for both backends.
 *
 * Source: spec/quantization.md, 5.1 and 5.2; arXiv:2305.14314, section 3. Header only: the CUDA module shares no code with the
 * program. MR_MAPS_FN may be defined before (`static __host__ __device__ inline`). */
#ifndef MR_MAPS_H
#define MR_MAPS_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#ifndef MR_MAPS_FN
#define MR_MAPS_FN static inline
#endif

/* The 16 values of NF4, ascending. */
#define MR_NF4_VALUES                                                                                                  \
    {                                                                                                                  \
        -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,               \
            -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,            \
            0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f,                     \
            0.7229568362236023f, 1.0f                                                                                  \
    }

/* The 256 values of the 8-bit dynamic map, ascending. */
static inline void mr_dynamic_map(float map[256], bool is_signed) {
    /* For each of seven decades the interval [0.1, 1] is cut evenly, and the middles of the pieces, scaled by 10^(i -
     * 6), are values. The edges are torch's linspace in f32 (from both ends, with one rounding each), so that every
     * bit agrees. */
    static const float decade[7] = { 1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f };
    int at = 0;
    for (int i = 0; i < 7; i++) {
        int pieces = 1 << (is_signed ? i : i + 1), n = pieces + 1;
        float step = (1.0f - 0.1f) / (float)(n - 1), before = 0.1f;
        for (int k = 1; k < n; k++) {
            float edge = k < n / 2 ? fmaf((float)k, step, 0.1f) : fmaf((float)-(n - 1 - k), step, 1.0f);
            float middle = (before + edge) / 2.0f * decade[i];
            map[at++] = middle;
            if (is_signed) map[at++] = -middle;
            before = edge;
        }
    }
    map[at++] = 0.0f;
    map[at++] = 1.0f;
    for (int i = 1; i < 256; i++) { /* insertion sort */
        float v = map[i];
        int j = i;
        for (; j > 0 && map[j - 1] > v; j--) map[j] = map[j - 1];
        map[j] = v;
    }
}

/* Between each two neighbors i and i + 1 of a map: the float above which a number becomes i + 1. Usually that is their middle. bitsandbytes
 * gives an exact middle to the value at which its binary search ended; where that is the upper one the limit is one float lower. */
static inline void mr_map_limits(float limit[256], const float map[256]) {
    for (int i = 0; i < 255; i++) {
        float middle = (map[i] + map[i + 1]) * 0.5f;
        int pivot = 127;
        for (int step = 64; step > 0; step >>= 1) pivot += i >= pivot ? step : -step; /* the search for a number in gap i */
        limit[i] = pivot > i ? nextafterf(middle, -INFINITY) : middle;
    }
    limit[255] = INFINITY;
}

/* How many limits x exceeds; NaN: 0. Without branches: half of them would be guessed wrong. */
MR_MAPS_FN int mr_map_code(const float *limit, float x) {
    int code = 0;
#ifndef __CUDACC__
#pragma GCC unroll 8
#endif
    for (int bit = 7; bit >= 0; bit--) code |= (int)(x > limit[code + (1 << bit) - 1]) << bit;
    return code;
}

/* mr_map_code without most of its search: numbers whose sizes share an exponent and the first `fine` bits behind it are a piece, and all sizes
 * below 2^-23, and all from 1 on. A piece holds one limit at most, so that its numbers have the code of its lowest one or the next. The
 * test of 8-bit states looks at every piece. */
enum { MR_MAP_FINE = 7, MR_MAP_FINE_SIGNED = 6 };
#define MR_MAP_PIECES(fine) ((23 << (fine)) + 1)

/* The piece of |x|, by the bits of x. */
MR_MAPS_FN int mr_map_piece(uint32_t bits, int fine) {
    int at = (int)((bits & 0x7fffffffu) >> (23 - fine)) - (104 << fine), last = MR_MAP_PIECES(fine) - 1;
    return at < 0 ? 0 : at > last ? last : at;
}

/* mr_map_code for the map of unsigned values: what is not above zero has code 0. bits: x's. */
MR_MAPS_FN int mr_map_code_unsigned(const float *limit, const uint8_t *start, float x, uint32_t bits) {
    int code = start[mr_map_piece(bits, MR_MAP_FINE)];
    code += (int)(x > limit[code]);
    return x > 0.0f ? code : 0;
}

/* The same for the map of signed ones, whose starts are those of positive numbers, then those of negative ones. */
MR_MAPS_FN int mr_map_code_signed(const float *limit, const uint8_t *start, float x, uint32_t bits) {
    int code = start[mr_map_piece(bits, MR_MAP_FINE_SIGNED) + (bits >> 31 ? MR_MAP_PIECES(MR_MAP_FINE_SIGNED) : 0)];
    code += (int)(x > limit[code]);
    return x == x ? code : 0;
}

/* start[MR_MAP_PIECES(MR_MAP_FINE)], or [2 * MR_MAP_PIECES(MR_MAP_FINE_SIGNED)] */
static inline void mr_map_starts(uint8_t *start, const float limit[256], bool is_signed) {
    int fine = is_signed ? MR_MAP_FINE_SIGNED : MR_MAP_FINE, pieces = MR_MAP_PIECES(fine);
    for (int i = 0; i < (is_signed ? 2 : 1) * pieces; i++) {
        int at = i % pieces;
        uint32_t bits = at ? (uint32_t)(at + (104 << fine)) << (23 - fine) : 0u;
        if (i >= pieces) bits = 0x80000000u | (at == pieces - 1 ? 0x7f800000u : ((uint32_t)(at + 1 + (104 << fine)) << (23 - fine)) - 1u);
        float x;
        memcpy(&x, &bits, sizeof x);
        start[i] = (uint8_t)mr_map_code(limit, x);
    }
}

/* The search of bitsandbytes' kernel: halving steps from 127, then the nearer of two neighbors; an exact middle stays. */
MR_MAPS_FN uint8_t mr_map_nearest(const float *map, float x) {
    int pivot = 127, lower = 0, upper = 255;
    float low = -1.0f, high = 1.0f, value = map[pivot];
    for (int step = 64; step > 0; step >>= 1) {
        if (x > value) {
            lower = pivot, low = value;
            pivot += step;
        } else {
            upper = pivot, high = value;
            pivot -= step;
        }
        value = map[pivot];
    }
    if (upper == 255) high = map[upper];
    if (lower == 0) low = map[lower];
    if (x > value) return (uint8_t)(x > (high + value) * 0.5f ? upper : pivot);
    return (uint8_t)(x < (low + value) * 0.5f ? lower : pivot);
}

#endif
