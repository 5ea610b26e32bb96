/* sha.c - SHA-256: by the processor's own instructions where it has them (five times as fast), else by libmd.
 *
 * Source: FIPS 180-4, section 6.2; the order of the words in the registers is that of Intel's sha256rnds2. */
#include <errno.h>
#include <fcntl.h>
#include <sha2.h>
#include <string.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/watch.h"

struct mr_sha {
    bool fast;
    SHA2_CTX state; /* libmd's; unused when fast */
    uint32_t h[8];
    uint8_t tail[64]; /* len % 64 bytes that are no block yet */
    uint64_t len;
};

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

static const uint32_t constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static bool has_sha(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSSE3) || !(c & bit_SSE4_1)) return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 29));
}

__attribute__((target("sha,sse4.1,ssse3"))) static void blocks(uint32_t h[8], const uint8_t *p, size_t n) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    __m128i dcba = _mm_loadu_si128((const __m128i *)h), hgfe = _mm_loadu_si128((const __m128i *)(h + 4));
    __m128i cdab = _mm_shuffle_epi32(dcba, 0xb1), efgh = _mm_shuffle_epi32(hgfe, 0x1b);
    __m128i abef = _mm_alignr_epi8(cdab, efgh, 8), cdgh = _mm_blend_epi16(efgh, cdab, 0xf0), w[4];
    for (; n > 0; n--, p += 64) {
        const __m128i abef0 = abef, cdgh0 = cdgh;
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) { /* four rounds each */
            if (i < 4)
                w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(p + 16 * i)), swap);
            else
                w[i & 3] = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(w[i & 3], w[(i + 1) & 3]),
                                                              _mm_alignr_epi8(w[(i + 3) & 3], w[(i + 2) & 3], 4)),
                                                w[(i + 3) & 3]);
            __m128i k = _mm_add_epi32(w[i & 3], _mm_loadu_si128((const __m128i *)(constants + 4 * i)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, k);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(k, 0x0e));
        }
        abef = _mm_add_epi32(abef, abef0);
        cdgh = _mm_add_epi32(cdgh, cdgh0);
    }
    __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)h, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((__m128i *)(h + 4), _mm_alignr_epi8(dchg, feba, 8));
}
#else
static bool has_sha(void) {
    return false;
}
static void blocks(uint32_t h[8], const uint8_t *p, size_t n) {
    (void)h, (void)p, (void)n;
}
#endif

mr_sha *mr_sha_new(void) {
    static const uint32_t first[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
    mr_sha *s = mr_alloc(sizeof *s);
    s->fast = has_sha();
    memcpy(s->h, first, sizeof first);
    if (!s->fast) SHA256Init(&s->state);
    return s;
}

void mr_sha_add(mr_sha *s, const void *data, size_t len) {
    if (!s->fast) {
        SHA256Update(&s->state, data, len);
        return;
    }
    const uint8_t *p = data;
    size_t have = s->len % 64, n = have ? 64 - have : 0;
    s->len += len;
    if (have) {
        if (n > len) n = len;
        memcpy(s->tail + have, p, n);
        p += n;
        len -= n;
        if (have + n < 64) return;
        blocks(s->h, s->tail, 1);
    }
    blocks(s->h, p, len / 64);
    if (len % 64) memcpy(s->tail, p + len / 64 * 64, len % 64);
}

static void finish(mr_sha *s, uint8_t digest[32]) {
    if (!s->fast) {
        SHA256Final(digest, &s->state);
        return;
    }
    uint8_t end[128] = { 0 };
    size_t have = s->len % 64, whole = have < 56 ? 64 : 128;
    memcpy(end, s->tail, have);
    end[have] = 0x80;
    for (int i = 0; i < 8; i++) end[whole - 1 - (size_t)i] = (uint8_t)(8 * s->len >> 8 * i);
    blocks(s->h, end, whole / 64);
    for (int i = 0; i < 32; i++) digest[i] = (uint8_t)(s->h[i / 4] >> (24 - 8 * (i % 4)));
}

void mr_sha_end(mr_sha *s, char hex[65]) {
    uint8_t digest[32];
    finish(s, digest);
    for (int i = 0; i < 32; i++) {
        hex[2 * i] = "0123456789abcdef"[digest[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
    }
    hex[64] = '\0';
    mr_free(s);
}

void mr_sha256(char hex[65], const void *data, size_t len) {
    mr_sha *s = mr_sha_new();
    mr_sha_add(s, data, len);
    mr_sha_end(s, hex);
}

mr_status mr_sha256_file(char hex[65], const char *path, mr_err *err) {
    hex[0] = '\0';
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return mr_fail_errno(err, "%s", path);
    enum { CHUNK = 1 << 16 };
    char *buf = mr_alloc(CHUNK);
    mr_sha *s = mr_sha_new();
    mr_status st = MR_OK;
    for (ssize_t n; (n = read(fd, buf, CHUNK)) != 0;) {
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            st = mr_fail_errno(err, "%s", path);
            break;
        }
        mr_sha_add(s, buf, (size_t)n);
        mr_watch_beat();
    }
    char digest[65];
    mr_sha_end(s, digest);
    if (st == MR_OK) memcpy(hex, digest, sizeof digest);
    mr_free(buf);
    close(fd);
    return st;
}
