/* report_page.c - the page around the data: text, script, and the policy that names the script by its hash. */
#include <stdio.h>
#include <string.h>

#include "base/fsafe.h"
#include "record/report.h"

/* Made from the two files of these names when the program is built (cmake/embed.cmake). */
extern const unsigned char mr_report_page_html[], mr_report_page_js[];
extern const size_t mr_report_page_html_len, mr_report_page_js_len;

static void put_base64(mr_str *out, const unsigned char *data, size_t len) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < len; i += 3) {
        const unsigned x = (unsigned)data[i] << 16 | (i + 1 < len ? (unsigned)data[i + 1] << 8 : 0) |
                           (i + 2 < len ? (unsigned)data[i + 2] : 0);
        const char four[4] = { letters[x >> 18], letters[x >> 12 & 63], i + 1 < len ? letters[x >> 6 & 63] : '=',
                               i + 2 < len ? letters[x & 63] : '=' };
        mr_str_add(out, four, 4);
    }
}

/* Nothing from anywhere but this page; a served one may ask its own server. */
static void put_policy(mr_str *out) {
    char hex[65];
    unsigned char digest[32];
    mr_sha256(hex, mr_report_page_js, mr_report_page_js_len);
    for (int i = 0; i < 32; i++) {
        unsigned x = 0;
        sscanf(hex + 2 * i, "%2x", &x);
        digest[i] = (unsigned char)x;
    }
    mr_str_puts(
        out, "default-src 'none'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
             "script-src 'sha256-");
    put_base64(out, digest, sizeof digest);
    mr_str_puts(out, "'");
}

mr_status mr_report_page(mr_str *out, const char *run_dir, const char *served, mr_err *err) {
    static const char *const marks[] = { "@CSP@", "@DATA@", "@SCRIPT@" };
    const char *at = (const char *)mr_report_page_html, *end = at + mr_report_page_html_len;
    for (size_t k = 0; k < sizeof marks / sizeof marks[0]; k++) {
        const char *mark = memmem(at, (size_t)(end - at), marks[k], strlen(marks[k]));
        if (!mark) return mr_fail(err, MR_EINTERNAL, "report: the page has no place for %s", marks[k]);
        mr_str_add(out, at, (size_t)(mark - at));
        at = mark + strlen(marks[k]);
        if (k == 0) put_policy(out);
        if (k == 1) MR_TRY(mr_report_data(out, run_dir, served, err));
        if (k == 2) mr_str_add(out, mr_report_page_js, mr_report_page_js_len);
    }
    mr_str_add(out, at, (size_t)(end - at));
    return MR_OK;
}
