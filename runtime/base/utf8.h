/* utf8.h - the well-formed sequences of UTF-8, one character at a time.
 *
 * Source: The Unicode Standard 15, table 3-7 (well-formed sequences) and section 3.9 (maximal subparts of ill-formed
 * ones: what Rust and Python replace by one U+FFFD). Threads: no hidden state. */
#ifndef MR_UTF8_H
#define MR_UTF8_H

#include "base/status.h"

/* Bytes of the character at p (its code point in *cp), or minus the number of bytes of an ill-formed maximal subpart,
 * or 0 when p[n] ends inside a character that is right so far. n is at least 1. */
int mr_utf8_next(uint32_t *cp, const uint8_t *p, size_t n);
int mr_utf8_put(char out[4], uint32_t cp); /* bytes written, 1 to 4 */
bool mr_utf8_valid(const char *text, size_t len);

#endif
