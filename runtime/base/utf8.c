/* utf8.c - see utf8.h.
 * Source: The Unicode Standard 15, table 3-7: no overlong forms, no surrogates, nothing above U+10FFFF. */
#include "base/utf8.h"

int mr_utf8_next(uint32_t *cp, const uint8_t *p, size_t n) {
    uint8_t lead = p[0], low = 0x80, high = 0xBF; /* range of the second byte */
    int want;
    if (lead < 0x80) {
        *cp = lead;
        return 1;
    }
    if (lead >= 0xC2 && lead <= 0xDF) {
        want = 2;
        *cp = lead & 0x1F;
    } else if ((lead & 0xF0) == 0xE0) {
        want = 3;
        *cp = lead & 0x0F;
        if (lead == 0xE0) low = 0xA0;  /* overlong */
        if (lead == 0xED) high = 0x9F; /* surrogates */
    } else if (lead >= 0xF0 && lead <= 0xF4) {
        want = 4;
        *cp = lead & 0x07;
        if (lead == 0xF0) low = 0x90;
        if (lead == 0xF4) high = 0x8F; /* above U+10FFFF */
    } else {
        return -1;
    }
    for (int i = 1; i < want; i++) {
        if ((size_t)i >= n) return 0;
        if (p[i] < low || p[i] > high) return -i;
        *cp = *cp << 6 | (p[i] & 0x3F);
        low = 0x80;
        high = 0xBF;
    }
    return want;
}

int mr_utf8_put(char out[4], uint32_t cp) {
    uint8_t *o = (uint8_t *)out;
    if (cp < 0x80) {
        o[0] = (uint8_t)cp;
        return 1;
    }
    if (cp < 0x800) {
        o[0] = (uint8_t)(0xC0 | cp >> 6);
        o[1] = (uint8_t)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        o[0] = (uint8_t)(0xE0 | cp >> 12);
        o[1] = (uint8_t)(0x80 | (cp >> 6 & 0x3F));
        o[2] = (uint8_t)(0x80 | (cp & 0x3F));
        return 3;
    }
    o[0] = (uint8_t)(0xF0 | cp >> 18);
    o[1] = (uint8_t)(0x80 | (cp >> 12 & 0x3F));
    o[2] = (uint8_t)(0x80 | (cp >> 6 & 0x3F));
    o[3] = (uint8_t)(0x80 | (cp & 0x3F));
    return 4;
}

bool mr_utf8_valid(const char *text, size_t len) {
    const uint8_t *p = (const uint8_t *)text;
    uint32_t cp;
    for (size_t i = 0; i < len;) {
        if (p[i] < 0x80) {
            i++;
            continue;
        }
        int n = mr_utf8_next(&cp, p + i, len - i);
        if (n <= 0) return false;
        i += (size_t)n;
    }
    return true;
}
