/* unicode.c - UTF-8 repair, NFC, and the byte-to-unicode map of byte-level BPE.
 * Source: The Unicode Standard 15, section 3.9 (maximal subparts: one U+FFFD each, as Rust and Python do); Unicode
 * Annex 15 (NFC); spec/tokenizers.md, 2.1 (byte map), 2.3, 2.5. */
#include <string.h>

#include <utf8proc.h>

#include "text/vocab.h"

int mr_utf8_repair(mr_str *out, const char *text, size_t len) {
    const uint8_t *p = (const uint8_t *)text;
    int replaced = 0;
    size_t good = 0, i = 0; /* text[good..i) is well-formed and not yet copied */
    mr_str_add(out, "", 0);
    while (i < len) {
        uint32_t cp;
        int n = mr_utf8_next(&cp, p + i, len - i);
        if (n > 0) {
            i += (size_t)n;
            continue;
        }
        mr_str_add(out, text + good, i - good);
        mr_str_add(out, "\xEF\xBF\xBD", 3);
        replaced++;
        i += n < 0 ? (size_t)-n : len - i; /* a character cut off by the end is one subpart */
        good = i;
    }
    mr_str_add(out, text + good, len - good);
    return replaced;
}

/* Stable, by canonical combining class, within each run of non-starters. Runs are short in any language; a long
 * hostile one must not cost its square, hence the merge sort (utf8proc's own ordering is quadratic). */
static void order_marks(int32_t *cp, int32_t *scratch, size_t n) {
    for (size_t i = 0; i < n;) {
        if (utf8proc_get_property(cp[i])->combining_class == 0) {
            i++;
            continue;
        }
        size_t end = i;
        while (end < n && utf8proc_get_property(cp[end])->combining_class != 0) end++;
        int32_t *from = cp + i, *to = scratch;
        size_t run = end - i;
        for (size_t width = 1; width < run; width *= 2) {
            for (size_t a = 0; a < run; a += 2 * width) {
                size_t mid = a + width < run ? a + width : run, stop = a + 2 * width < run ? a + 2 * width : run;
                size_t l = a, r = mid;
                for (size_t k = a; k < stop; k++) {
                    bool left = l < mid && (r >= stop || utf8proc_get_property(from[l])->combining_class <=
                                                             utf8proc_get_property(from[r])->combining_class);
                    to[k] = left ? from[l++] : from[r++];
                }
            }
            int32_t *swap = from;
            from = to;
            to = swap;
        }
        if (from != cp + i) memcpy(cp + i, from, run * sizeof *cp);
        i = end;
    }
}

void mr_utf8_nfc(mr_str *out, const char *text, size_t len) {
    const uint8_t *p = (const uint8_t *)text;
    size_t i = 0;
    while (i < len && p[i] < 0xCC)
        i++; /* everything below U+0300 is NFC as it stands, and its lead bytes are below CC */
    if (i == len) {
        mr_str_add(out, text, len);
        return;
    }
    /* One code point decomposes to 4 at most (Unicode stability policy: a canonical decomposition only grows so
     * far). */
    enum { most = 4 };
    size_t n_chars = 0, n = 0;
    for (i = 0; i < len; n_chars++) {
        uint32_t c;
        int step = mr_utf8_next(&c, p + i, len - i);
        i += step > 0 ? (size_t)step : step < 0 ? (size_t)-step : len - i;
    }
    int32_t *cp = mr_alloc((2 * most * n_chars + 1) * sizeof *cp); /* + 1: utf8proc asks for no more than it is given */
    int32_t *scratch = cp + most * n_chars;
    for (i = 0; i < len;) {
        uint32_t c = 0;
        int step = mr_utf8_next(&c, p + i, len - i);
        if (step <= 0) { /* callers repair first; ill-formed bytes still must not stop us */
            c = 0xFFFD;
            step = step < 0 ? -step : (int)(len - i);
        }
        i += (size_t)step;
        int boundary = 0;
        utf8proc_ssize_t got =
            utf8proc_decompose_char((int32_t)c, cp + n, most, UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &boundary);
        if (got < 1 || got > most) {
            cp[n] = (int32_t)c;
            got = 1;
        }
        n += (size_t)got;
    }
    order_marks(cp, scratch, n);
    utf8proc_ssize_t composed = utf8proc_normalize_utf32(cp, (utf8proc_ssize_t)n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    if (composed >= 0) n = (size_t)composed;
    for (i = 0; i < n; i++) {
        char utf8[4];
        mr_str_add(out, utf8, (size_t)mr_utf8_put(utf8, (uint32_t)cp[i]));
    }
    mr_free(cp);
}

static bool is_own_symbol(uint32_t byte) {
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
}

uint32_t mr_byte_symbol(uint8_t byte) {
    if (is_own_symbol(byte)) return byte;
    /* the 68 others in order from U+0100: 00-20, 7F-A0, AD */
    if (byte <= 0x20) return 0x100u + byte;
    if (byte <= 0xA0) return 0x121u + (byte - 0x7Fu);
    return 0x143;
}

int mr_symbol_byte(uint32_t cp) {
    if (cp < 256) return is_own_symbol(cp) ? (int)cp : -1;
    if (cp <= 0x120) return (int)(cp - 0x100);
    if (cp <= 0x142) return (int)(cp - 0x121 + 0x7F);
    return cp == 0x143 ? 0xAD : -1;
}
