/* status.c - messages that fit, on one line, whatever bytes a file brought into them. */
#include "base/status.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

/* Copies text with control characters and what is no UTF-8 as \n, \t or \xNN, cut at a character's boundary. A terminal must not be driven
 * by a data file that an error quotes. */
static void copy_visible(char *out, size_t size, const char *text) {
    size_t at = 0;
    const unsigned char *const end = (const unsigned char *)text + strlen(text);
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        char piece[8];
        size_t len = 1;
        uint32_t cp = 0;
        const int n = mr_utf8_next(&cp, p, (size_t)(end - p));
        piece[0] = (char)*p;
        if (*p == '\n' || *p == '\t' || *p == '\r') {
            piece[0] = '\\';
            piece[1] = *p == '\n' ? 'n' : *p == '\t' ? 't' : 'r';
            len = 2;
        } else if (n > 1 && cp >= 0xa0) {
            memcpy(piece, p, (size_t)n);
            len = (size_t)n;
            p += n - 1;
        } else if (*p < 0x20 || *p >= 0x7f) { /* no UTF-8, or a control character of its own (U+0080 to U+009F) */
            len = (size_t)snprintf(piece, sizeof piece, "\\x%02x", (unsigned)*p);
        }
        if (at + len >= size) break;
        memcpy(out + at, piece, len);
        at += len;
    }
    out[at] = '\0';
}

mr_status mr_vfail(mr_err *err, mr_status st, const char *fmt, va_list args) {
    if (!err) return st;
    char text[2 * sizeof err->msg]; /* formatted apart: an argument may be err->msg itself */
    vsnprintf(text, sizeof text, fmt, args);
    copy_visible(err->msg, sizeof err->msg, text);
    return st;
}

mr_status mr_fail(mr_err *err, mr_status st, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    mr_vfail(err, st, fmt, args);
    va_end(args);
    return st;
}

mr_status mr_wrap(mr_err *err, mr_status st, const char *fmt, ...) {
    if (!err) return st;
    char text[2 * sizeof err->msg];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (n < 0) n = 0;
    if ((size_t)n >= sizeof text) n = (int)sizeof text - 1;
    snprintf(text + n, sizeof text - (size_t)n, ": %s", err->msg);
    copy_visible(err->msg, sizeof err->msg, text);
    return st;
}

mr_status mr_fail_errno(mr_err *err, const char *fmt, ...) {
    int code = errno;
    mr_status st = code == ENOENT || code == ENOTDIR ? MR_ENOTFOUND : code == ENOMEM ? MR_ENOMEM : MR_EIO;
    va_list args;
    va_start(args, fmt);
    mr_vfail(err, st, fmt, args);
    va_end(args);
    if (err) {
        char reason[128];
        size_t len = strlen(err->msg);
        snprintf(err->msg + len, sizeof err->msg - len, ": %s", strerror_r(code, reason, sizeof reason));
    }
    errno = code;
    return st;
}

int mr_exit_code(mr_status st) {
    switch (st) {
    case MR_OK: return 0;
    case MR_EINVAL:
    case MR_ENOTFOUND: return 2;
    case MR_EDATA: return 65;
    case MR_ENET: return 69;
    case MR_EINTERNAL: return 70;
    case MR_ENOMEM: return 71;
    case MR_EIO: return 74;
    case MR_EAGAIN: return 75;
    case MR_EREFUSED: return 77;
    case MR_ESIGNAL: return 130;
    }
    return 70;
}
