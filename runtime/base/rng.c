/* rng.c - Philox4x32-10 (Salmon et al. 2011, section 4.2; constants of Random123), numpy's PCG64 with SeedSequence and
 * torch's MT19937 (spec/datasets.md, 8.4; Matsumoto and Nishimura 1998). */
#include "base/rng.h"

#include <math.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef unsigned __int128 u128;

void mr_philox(uint32_t out[4], const uint32_t counter[4], uint64_t key) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u; /* golden ratio and sqrt(3) - 1: the Weyl sequence of the keys */
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

static float unit24(uint32_t word) {
    return (float)(word >> 8) * 0x1p-24f;
}

float mr_uniform(uint64_t seed, uint32_t step, uint32_t prompt, uint32_t sample, uint32_t position) {
    const uint32_t counter[4] = { position, sample, prompt, step };
    uint32_t out[4];
    mr_philox(out, counter, seed);
    return unit24(out[0]);
}

static void words_at(uint32_t out[4], uint64_t seed, uint64_t stream, uint64_t i) {
    const uint32_t counter[4] = { (uint32_t)i, (uint32_t)(i >> 32), (uint32_t)stream, (uint32_t)(stream >> 32) };
    mr_philox(out, counter, seed);
}

float mr_uniform_at(uint64_t seed, uint64_t stream, uint64_t i) {
    uint32_t out[4];
    words_at(out, seed, stream, i);
    return unit24(out[0]);
}

#if defined(__x86_64__)
/* Sixteen counters side by side, each in the lower half of 64 bits: what is in the upper one, no product looks at. An adapter of a model of 3
 * billion weights has 54 million values to draw at the start of a run. */
enum { LANES = 16 };
__attribute__((target("avx2"))) static void philox_lanes(float dst[LANES], uint64_t seed, uint64_t stream, uint64_t at) {
    const __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57);
    __m256i c0[4], c1[4], c2[4], c3[4];
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int v = 0; v < 4; v++) {
        const long long i = (long long)(at + 4 * (uint64_t)v);
        c0[v] = _mm256_set_epi64x(i + 3, i + 2, i + 1, i);
        c1[v] = _mm256_srli_epi64(c0[v], 32);
        c2[v] = _mm256_set1_epi64x((long long)stream);
        c3[v] = _mm256_srli_epi64(c2[v], 32);
    }
    for (int round = 0; round < 10; round++) {
        const __m256i key0 = _mm256_set1_epi64x(k0), key1 = _mm256_set1_epi64x(k1);
        for (int v = 0; v < 4; v++) {
            const __m256i p0 = _mm256_mul_epu32(m0, c0[v]), p1 = _mm256_mul_epu32(m1, c2[v]);
            c0[v] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c1[v]), key0);
            c1[v] = p1;
            c2[v] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c3[v]), key1);
            c3[v] = p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    uint64_t word[4];
    for (int v = 0; v < 4; v++) {
        _mm256_storeu_si256((__m256i *)(void *)word, c0[v]);
        for (int l = 0; l < 4; l++) dst[4 * v + l] = unit24((uint32_t)word[l]);
    }
}

static int64_t many_uniforms(float *dst, int64_t n, uint64_t seed, uint64_t stream, uint64_t first) {
    int64_t i = 0;
    if (!__builtin_cpu_supports("avx2")) return 0;
    for (; i + LANES <= n; i += LANES) philox_lanes(dst + i, seed, stream, first + (uint64_t)i);
    return i;
}
#else
static int64_t many_uniforms(float *dst, int64_t n, uint64_t seed, uint64_t stream, uint64_t first) {
    (void)dst, (void)n, (void)seed, (void)stream, (void)first;
    return 0;
}
#endif

void mr_uniforms_at(float *dst, int64_t n, uint64_t seed, uint64_t stream, uint64_t first) {
    for (int64_t i = many_uniforms(dst, n, seed, stream, first); i < n; i++) dst[i] = mr_uniform_at(seed, stream, first + (uint64_t)i);
}

float mr_normal_at(uint64_t seed, uint64_t stream, uint64_t i) {
    uint32_t out[4];
    words_at(out, seed, stream, i);
    double u = ((double)out[0] + 1.0) * 0x1p-32,
           v = (double)out[1] * 0x1p-32; /* u in (0, 1]: its logarithm is finite */
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}

uint64_t mr_hash64(const void *bytes, size_t len) {
    const unsigned char *p = bytes;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < len; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

/* ---- numpy ---- */

static uint32_t hash_mix(uint32_t v, uint32_t *h, uint32_t multiplier) {
    v ^= *h;
    *h *= multiplier;
    v *= *h;
    return v ^ v >> 16;
}

static uint32_t mix(uint32_t x, uint32_t y) {
    uint32_t r = 0xca01f9ddu * x - 0x4973f715u * y;
    return r ^ r >> 16;
}

static u128 join(uint64_t hi, uint64_t lo) {
    return (u128)hi << 64 | lo;
}

static u128 pcg_step(mr_pcg64 *r) {
    const u128 multiplier = join(0x2360ed051fc65da4u, 0x4385df649fccf645u);
    u128 s = join(r->state_hi, r->state_lo) * multiplier + join(r->inc_hi, r->inc_lo);
    r->state_hi = (uint64_t)(s >> 64);
    r->state_lo = (uint64_t)s;
    return s;
}

void mr_pcg64_init(mr_pcg64 *r, uint64_t seed) {
    /* SeedSequence: a 64-bit seed is at most two words, so the pool of four is never overfull */
    uint32_t pool[4] = { 0 }, h = 0x43b0d7e5u;
    for (int i = 0; i < 4; i++) {
        uint32_t word = i == 0 ? (uint32_t)seed : i == 1 ? (uint32_t)(seed >> 32) : 0;
        pool[i] = hash_mix(word, &h, 0x931e8875u);
    }
    for (int src = 0; src < 4; src++)
        for (int dst = 0; dst < 4; dst++)
            if (src != dst) pool[dst] = mix(pool[dst], hash_mix(pool[src], &h, 0x931e8875u));
    uint64_t a[4] = { 0 };
    h = 0x8b51f9ddu;
    for (int i = 0; i < 8; i++) a[i / 2] |= (uint64_t)hash_mix(pool[i % 4], &h, 0x58f38dedu) << (32 * (i % 2));

    u128 inc = join(a[2], a[3]) << 1 | 1;
    *r = (mr_pcg64){ .inc_hi = (uint64_t)(inc >> 64), .inc_lo = (uint64_t)inc };
    pcg_step(r);
    u128 s = join(r->state_hi, r->state_lo) + join(a[0], a[1]);
    r->state_hi = (uint64_t)(s >> 64);
    r->state_lo = (uint64_t)s;
    pcg_step(r);
}

uint64_t mr_pcg64_next64(mr_pcg64 *r) {
    u128 s = pcg_step(r);
    uint64_t x = (uint64_t)(s >> 64) ^ (uint64_t)s;
    unsigned turn = (unsigned)(s >> 122);
    return x >> turn | x << ((64 - turn) & 63);
}

uint32_t mr_pcg64_next32(mr_pcg64 *r) {
    if (r->has_half) {
        r->has_half = false;
        return r->half;
    }
    uint64_t x = mr_pcg64_next64(r);
    r->has_half = true;
    r->half = (uint32_t)(x >> 32);
    return (uint32_t)x;
}

double mr_pcg64_double(mr_pcg64 *r) {
    return (double)(mr_pcg64_next64(r) >> 11) * 0x1p-53;
}

void mr_pcg64_permutation(mr_pcg64 *r, int64_t *out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        uint64_t mask = (uint64_t)i, j;
        for (int s = 1; s < 64; s *= 2) mask |= mask >> s;
        do j = (mask <= UINT32_MAX ? mr_pcg64_next32(r) : mr_pcg64_next64(r)) & mask;
        while (j > (uint64_t)i);
        int64_t t = out[i];
        out[i] = out[j];
        out[j] = t;
    }
}

/* ---- torch ---- */

void mr_mt19937_init(mr_mt19937 *r, uint32_t seed) {
    r->state[0] = seed;
    for (uint32_t i = 1; i < 624; i++) r->state[i] = 1812433253u * (r->state[i - 1] ^ r->state[i - 1] >> 30) + i;
    r->index = 624;
}

uint32_t mr_mt19937_next32(mr_mt19937 *r) {
    if (r->index >= 624) {
        for (int i = 0; i < 624; i++) {
            uint32_t y = (r->state[i] & 0x80000000u) | (r->state[(i + 1) % 624] & 0x7fffffffu);
            r->state[i] = r->state[(i + 397) % 624] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
        }
        r->index = 0;
    }
    uint32_t y = r->state[r->index++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

void mr_mt19937_randperm(mr_mt19937 *r, int64_t *out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = i;
    for (int64_t i = 0; i < n - 1; i++) {
        int64_t z = (int64_t)(mr_mt19937_next32(r) % (uint64_t)(n - i)), t = out[i];
        out[i] = out[i + z];
        out[i + z] = t;
    }
}
