/* rows.c - JSONL, JSON arrays and CSV as indexed rows.
 *
 * Source: RFC 8259 and RFC 4180 (CSV), with the caps of a hostile file: a row has at most 16 MiB. Opening finds where
 * each row starts and, for CSV, that each has as many fields as the header; a row is parsed when it is asked for.
 *
 * Files are read through a window of 1 MiB that slides and not mapped: a mapped file counts as memory of the worker
 * (which has a limit), and one that becomes shorter under a mapping ends the process. A scan works on the bytes in the
 * window; when it meets their end before the end of the file, the window moves up to the row that was begun (and grows
 * when the row is longer) and that row is scanned again. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/utf8.h"
#include "files/rowcache.h"
#include "files/rows.h"
#include "files/unpack.h"

enum {
    max_row_bytes = 16 << 20,
    max_columns = 4096,
    max_stream_bytes = 1 << 30,
    window_bytes = 1 << 20,
    ahead_bytes = 256 << 10 /* what is read at once when rows are asked for in their order */
};

typedef enum format { JSONL, JSON_ARRAY, CSV } format;

typedef struct place {
    size_t at, len;
    int64_t line;
} place;

/* Bytes of the file that are in memory: of the last rows that were asked for. */
typedef struct cache {
    char *bytes;
    size_t base, len, cap; /* base: where bytes[0] stands in the file */
    int64_t last;          /* the row that was asked for last */
} cache;

struct mr_rows {
    char *name;
    format format;
    char separator;   /* of a CSV file */
    const char *data; /* what is scanned: the window, a stream, or one row */
    size_t len;
    bool whole;  /* nothing comes behind data + len */
    size_t base; /* where data[0] stands in the file */
    size_t size; /* of the file, when it was opened: rows that are added later are not seen */
    int fd;      /* our own; -1: a stream, which is in memory */
    char *owned; /* the window's or the stream's bytes */
    size_t cap;
    cache *cache;
    place *rows;
    size_t n_rows, cap_rows;
    char **columns; /* CSV */
    int n_columns;
};

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* ---- bytes ---- */

/* Reads [at, at + len) of the file; *got is less than len at its end only. */
static mr_status read_at(const mr_rows *r, char *to, size_t at, size_t len, size_t *got, mr_err *err) {
    *got = 0;
    while (*got < len) {
        const ssize_t n = pread(r->fd, to + *got, len - *got, (off_t)(at + *got));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return mr_fail_errno(err, "%s", r->name);
        if (n == 0) break;
        *got += (size_t)n;
    }
    return MR_OK;
}

static mr_status became_shorter(const mr_rows *r, int64_t line, mr_err *err) {
    return mr_fail(err, MR_EDATA,
                   "%s:%" PRId64 ": the file has become shorter since it was opened; start again when nothing writes "
                   "to it",
                   r->name, line);
}

/* Moves the window up to *at, which becomes 0, and fills it; it grows when it holds nothing else. */
static mr_status slide(mr_rows *r, size_t *at, int64_t line, mr_err *err) {
    const size_t kept = r->len - *at;
    if (kept == r->cap) {
        const size_t cap = r->cap ? 2 * r->cap : r->size < window_bytes ? r->size + 1 : window_bytes;
        char *bytes = mr_try_alloc(cap);
        if (!bytes) return mr_fail(err, MR_ENOMEM, "%s:%" PRId64 ": no memory for %zu bytes", r->name, line, cap);
        if (kept) memcpy(bytes, r->data + *at, kept);
        mr_free(r->owned);
        r->owned = bytes;
        r->cap = cap;
    } else {
        memmove(r->owned, r->data + *at, kept);
    }
    r->data = r->owned;
    r->base += *at;
    *at = 0;
    size_t want = r->cap - kept, got;
    if (want > r->size - r->base - kept) want = r->size - r->base - kept;
    MR_TRY(read_at(r, r->owned + kept, r->base + kept, want, &got, err));
    r->len = kept + got;
    if (got < want) return became_shorter(r, line, err);
    r->whole = r->base + r->len == r->size;
    return MR_OK;
}

/* Slides for a row that begins at *at and has no end in the window yet. */
static mr_status slide_row(mr_rows *r, size_t *at, int64_t line, mr_err *err) {
    if (r->len - *at > max_row_bytes)
        return mr_fail(err, MR_EDATA,
                       "%s:%" PRId64 ": the row has more than %d bytes; split or shorten it, or close "
                       "what it opens",
                       r->name, line, max_row_bytes);
    return slide(r, at, line, err);
}

static mr_status add_row(mr_rows *r, size_t at, size_t len, int64_t line, mr_err *err) {
    if (len > max_row_bytes)
        return mr_fail(err, MR_EDATA, "%s:%" PRId64 ": the row has %zu bytes, at most %d are read; split or shorten it",
                       r->name, line, len, max_row_bytes);
    if (r->n_rows == r->cap_rows) {
        const size_t cap = r->cap_rows ? 2 * r->cap_rows : 256;
        place *rows = mr_try_alloc(cap * sizeof *rows);
        if (!rows)
            return mr_fail(err, MR_ENOMEM, "%s:%" PRId64 ": no memory for more than %zu rows", r->name, line,
                           r->n_rows);
        if (r->n_rows) memcpy(rows, r->rows, r->n_rows * sizeof *rows);
        mr_free(r->rows);
        r->rows = rows;
        r->cap_rows = cap;
    }
    r->rows[r->n_rows++] = (place){ r->base + at, len, line };
    return MR_OK;
}

/* ---- JSON ---- */

/* A line that is longer than any row: how long, without holding it. */
static mr_status too_long(mr_rows *r, size_t at, int64_t line, mr_err *err) {
    size_t from = r->base + at, len = r->len - at, got;
    for (bool found = false; !found && from + len < r->size; len += got) {
        MR_TRY(read_at(r, r->owned, from + len, r->cap, &got, err));
        if (got == 0) break;
        const char *newline = memchr(r->owned, '\n', got);
        found = newline != NULL;
        if (newline) got = (size_t)(newline - r->owned);
    }
    return add_row(r, at, len, line, err);
}

static mr_status index_lines(mr_rows *r, size_t at, int64_t line, mr_err *err) {
    for (;; line++) {
        const char *newline;
        size_t seen = 0; /* bytes of this line that have no newline */
        while (!(newline = memchr(r->data + at + seen, '\n', r->len - at - seen)) && !r->whole) {
            seen = r->len - at;
            if (seen > max_row_bytes) return too_long(r, at, line, err);
            MR_TRY(slide(r, &at, line, err));
        }
        if (at >= r->len) return MR_OK;
        const size_t end = newline ? (size_t)(newline - r->data) : r->len;
        size_t from = at, to = end;
        while (from < to && is_space(r->data[from])) from++;
        while (to > from && is_space(r->data[to - 1])) to--;
        if (from < to) MR_TRY(add_row(r, from, to - from, line, err));
        if (!newline) return MR_OK;
        at = end + 1;
    }
}

/* The byte behind one array element that starts at `at`: only brackets and strings are looked at, the strict parser
 * judges the rest when the row is asked for. Counts lines. r->len when it has no end. */
static size_t element_end(const mr_rows *r, size_t at, int64_t *line) {
    int depth = 0;
    bool in_string = false;
    for (; at < r->len; at++) {
        const char c = r->data[at];
        if (c == '\n') (*line)++;
        if (in_string) {
            if (c == '\\')
                at++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            if (depth == 0) return at;
            depth--;
        } else if (c == ',' && depth == 0) {
            return at;
        }
    }
    return r->len;
}

static size_t skip_space(const mr_rows *r, size_t at, int64_t *line) {
    for (; at < r->len && is_space(r->data[at]); at++)
        if (r->data[at] == '\n') (*line)++;
    return at;
}

/* The same over the whole file. */
static mr_status skip_all_space(mr_rows *r, size_t *at, int64_t *line, mr_err *err) {
    for (;;) {
        *at = skip_space(r, *at, line);
        if (*at < r->len || r->whole) return MR_OK;
        MR_TRY(slide(r, at, *line, err));
    }
}

/* at: of its '[' */
static mr_status index_array(mr_rows *r, size_t at, int64_t line, mr_err *err) {
    const int64_t opened = line;
    at++; /* behind '[' */
    MR_TRY(skip_all_space(r, &at, &line, err));
    bool want_element = false; /* a comma came before */
    while (at < r->len && (r->data[at] != ']' || want_element)) {
        size_t from = at;
        const int64_t from_line = line;
        while ((at = element_end(r, from, &line)) >= r->len && !r->whole) {
            line = from_line;
            MR_TRY(slide_row(r, &from, line, err));
        }
        size_t to = at;
        while (to > from && is_space(r->data[to - 1])) to--;
        if (at < r->len && from == to)
            return mr_fail(err, MR_EDATA, "%s:%" PRId64 ": nothing between two commas, want an object; remove a comma",
                           r->name, from_line);
        if (at == r->len) break;
        MR_TRY(add_row(r, from, to - from, from_line, err));
        want_element = r->data[at] == ',';
        if (r->data[at] == '}')
            return mr_fail(err, MR_EDATA,
                           "%s:%" PRId64 ": a \"}\" that nothing opened, want \",\" or \"]\"; mend the file", r->name,
                           line);
        if (want_element) {
            at++;
            MR_TRY(skip_all_space(r, &at, &line, err));
        }
    }
    if (at >= r->len)
        return mr_fail(err, MR_EDATA,
                       "%s:%" PRId64 ": the array that opens here is not closed; the file is cut: fetch it again",
                       r->name, opened);
    at++;
    MR_TRY(skip_all_space(r, &at, &line, err));
    if (at < r->len)
        return mr_fail(err, MR_EDATA, "%s:%" PRId64 ": text behind the array, want the end of the file; remove it",
                       r->name, line);
    return MR_OK;
}

/* ---- CSV ---- */

/* One field, from `at`, unquoted into text (which may be NULL). *at ends on the separator, the line end or the end of
 * the file. */
static mr_status scan_field(const mr_rows *r, size_t *at, int64_t *line, mr_str *text, mr_err *err) {
    size_t i = *at;
    if (i < r->len && r->data[i] == '"') {
        const int64_t opened = *line;
        for (i++;; i++) {
            const size_t from = i;
            while (i < r->len && r->data[i] != '"') {
                if (r->data[i] == '\n') (*line)++;
                i++;
            }
            if (i == r->len && !r->whole) { /* the caller slides and begins anew */
                *at = i;
                return MR_OK;
            }
            if (i == r->len)
                return mr_fail(
                    err, MR_EDATA,
                    "%s:%" PRId64
                    ": the quote that opens in this line is never closed; close it, or double quotes inside it",
                    r->name, opened);
            const bool doubled = i + 1 < r->len && r->data[i + 1] == '"';
            if (text) mr_str_add(text, r->data + from, i - from + (doubled ? 1 : 0));
            i++;
            if (!doubled) break;
        }
        if (i < r->len && r->data[i] != r->separator && r->data[i] != '\n' &&
            !(r->data[i] == '\r' && i + 1 < r->len && r->data[i + 1] == '\n') &&
            !(r->data[i] == '\r' && i + 1 == r->len))
            return mr_fail(
                err, MR_EDATA,
                "%s:%" PRId64
                ": text behind the closing quote of a field, want \"%s\" or the end of the line; double quotes "
                "inside quotes",
                r->name, *line, r->separator == '\t' ? "\\t" : ",");
    } else {
        while (i < r->len && r->data[i] != r->separator && r->data[i] != '\n') i++;
        size_t end = i;
        if (end > *at && r->data[end - 1] == '\r' && (i == r->len || r->data[i] == '\n')) end--;
        if (text) mr_str_add(text, r->data + *at, end - *at);
    }
    if (i < r->len && r->data[i] == '\r') i++;
    *at = i;
    return MR_OK;
}

/* One record; calls `each` for its fields when it is not NULL. *at ends behind the line end. */
typedef mr_status (*field_fn)(void *ctx, int index, const mr_str *text, int64_t line, mr_err *err);

static mr_status scan_record(const mr_rows *r, size_t *at, int64_t *line, int *n_fields, field_fn each, void *ctx,
                             mr_err *err) {
    mr_str text = { 0 };
    mr_status st = MR_OK;
    int n = 0;
    for (;;) {
        const int64_t field_line = *line;
        text.len = 0;
        mr_str_add(&text, "", 0); /* never NULL */
        st = scan_field(r, at, line, each ? &text : NULL, err);
        if (st == MR_OK && each) st = each(ctx, n, &text, field_line, err);
        if (st == MR_OK && ++n > max_columns)
            st = mr_fail(err, MR_EDATA, "%s:%" PRId64 ": more than %d fields; is this CSV?", r->name, *line,
                         max_columns);
        if (st != MR_OK || *at >= r->len || r->data[*at] == '\n') break;
        (*at)++; /* the separator */
    }
    if (*at < r->len) (*at)++, (*line)++;
    *n_fields = n;
    mr_str_clear(&text);
    return st;
}

/* Whether bytes are UTF-8 without NUL; the first bad one in *bad. */
static bool is_text(const char *s, size_t len, size_t *bad) {
    uint32_t cp;
    for (size_t i = 0; i < len;) {
        const int n = s[i] ? mr_utf8_next(&cp, (const uint8_t *)s + i, len - i) : -1;
        if (n <= 0) {
            *bad = i;
            return false;
        }
        i += (size_t)n;
    }
    return true;
}

static mr_status check_text(const mr_rows *r, const mr_str *text, int64_t line, const char *column, mr_err *err) {
    size_t bad;
    if (is_text(text->data, text->len, &bad)) return MR_OK;
    for (size_t i = 0; i < bad; i++) line += text->data[i] == '\n';
    return mr_fail(err, MR_EDATA, "%s:%" PRId64 ": column \"%.64s\": byte 0x%02x is %s; save the file as UTF-8",
                   r->name, line, column, (unsigned)(unsigned char)text->data[bad],
                   text->data[bad] ? "no UTF-8" : "a NUL");
}

/* whole_record came before: there are no more than max_columns of them. */
static mr_status take_column(void *ctx, int index, const mr_str *text, int64_t line, mr_err *err) {
    mr_rows *r = ctx;
    (void)index;
    MR_TRY(check_text(r, text, line, "(header)", err));
    for (int i = 0; i < r->n_columns; i++)
        if (!strcmp(r->columns[i], text->data))
            return mr_fail(err, MR_EDATA, "%s:%" PRId64 ": column \"%.64s\" occurs twice in the header; rename one",
                           r->name, line, text->data);
    r->columns = mr_realloc(r->columns, ((size_t)r->n_columns + 1) * sizeof *r->columns);
    r->columns[r->n_columns++] = mr_strndup(text->data, text->len);
    return MR_OK;
}

static bool blank_line(const mr_rows *r, size_t at) {
    return r->data[at] == '\n' || (r->data[at] == '\r' && (at + 1 == r->len || r->data[at + 1] == '\n'));
}

/* Finds the end of the record at *at, which moves when the window does; *end is behind its line end. */
static mr_status whole_record(mr_rows *r, size_t *at, size_t *end, int64_t *line, int *n, mr_err *err) {
    for (;;) {
        int64_t l = *line;
        *end = *at;
        MR_TRY(scan_record(r, end, &l, n, NULL, NULL, err));
        if (*end < r->len || r->whole) {
            *line = l;
            return MR_OK;
        }
        MR_TRY(slide_row(r, at, *line, err));
    }
}

/* Skips blank lines; at least two bytes are in the window then, or the file ends before. */
static mr_status skip_blank(mr_rows *r, size_t *at, int64_t *line, mr_err *err) {
    for (;;) {
        if (r->len - *at < 2 && !r->whole) MR_TRY(slide(r, at, *line, err));
        if (*at >= r->len || !blank_line(r, *at)) return MR_OK;
        *at += r->data[*at] == '\r' && *at + 1 < r->len ? 2 : 1;
        (*line)++;
    }
}

static mr_status index_csv(mr_rows *r, size_t at, mr_err *err) {
    int64_t line = 1;
    size_t end;
    int n;
    MR_TRY(skip_blank(r, &at, &line, err));
    if (at >= r->len)
        return mr_fail(err, MR_EDATA, "%s:1: the file is empty, want a line with the names of the columns; add one",
                       r->name);
    const int64_t header = line;
    MR_TRY(whole_record(r, &at, &end, &line, &n, err));
    line = header;
    MR_TRY(scan_record(r, &at, &line, &n, take_column, r, err));
    if (r->n_columns == 1 && r->separator == ',' && strchr(r->columns[0], ';'))
        return mr_fail(err, MR_EDATA,
                       "%s:%" PRId64 ": the columns are separated by semicolons, want commas; export it with commas",
                       r->name, header);
    for (;;) {
        MR_TRY(skip_blank(r, &at, &line, err));
        if (at >= r->len) return MR_OK;
        const int64_t from_line = line;
        MR_TRY(whole_record(r, &at, &end, &line, &n, err));
        if (n != r->n_columns)
            return mr_fail(err, MR_EDATA,
                           "%s:%" PRId64 ": %d fields, want %d as in the header; quote fields that hold a separator",
                           r->name, from_line, n, r->n_columns);
        MR_TRY(add_row(r, at, end - at, from_line, err));
        at = end;
    }
}

typedef struct csv_row {
    const mr_rows *rows;
    cJSON *object;
} csv_row;

static mr_status take_field(void *ctx, int index, const mr_str *text, int64_t line, mr_err *err) {
    csv_row *row = ctx;
    const char *column = row->rows->columns[index];
    MR_TRY(check_text(row->rows, text, line, column, err));
    if (!cJSON_AddStringToObject(row->object, column, text->data))
        return mr_fail(err, MR_ENOMEM, "%s: no memory for a row", row->rows->name);
    return MR_OK;
}

/* ---- open ---- */

static mr_status refuse_foreign(const mr_rows *r, mr_err *err) {
    static const struct {
        const char *magic, *what;
        size_t len;
    } foreign[] = {
        { "PK\x03\x04", "is a ZIP archive; unpack it first", 4 },
        { "\xff\xfe", "is UTF-16; save it as UTF-8", 2 },
        { "\xfe\xff", "is UTF-16; save it as UTF-8", 2 },
    };
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++)
        if (r->len >= foreign[i].len && !memcmp(r->data, foreign[i].magic, foreign[i].len))
            return mr_fail(err, MR_EDATA, "%s:1: the file %s", r->name, foreign[i].what);
    const mr_packing packing = mr_packing_of(r->data, r->len);
    if (packing != MR_PACKED_NOT) /* of a file that was packed twice, or of one that only text can be in */
        return mr_fail(err, MR_EDATA, "%s:1: is %s%s, want text; unpack it first", r->name, mr_packing_name(packing),
                       mr_packing_named(r->name) != MR_PACKED_NOT ? " inside" : "");
    return MR_OK;
}

/* Whether a name, without what says how it is packed, ends so. */
static bool named(const mr_rows *r, const char *end) {
    const mr_packing packing = mr_packing_named(r->name);
    const size_t cut = packing == MR_PACKED_GZIP ? 3 : packing == MR_PACKED_ZSTD ? 4 : 0;
    const size_t len = strlen(r->name) - cut, n = strlen(end);
    return len > n && memcmp(r->name + len - n, end, n) == 0;
}

static mr_status index_rows(mr_rows *r, mr_err *err) {
    size_t at = 0;
    if (!r->whole) MR_TRY(slide(r, &at, 1, err));
    MR_TRY(refuse_foreign(r, err));
    at = r->len >= 3 && !memcmp(r->data, "\xef\xbb\xbf", 3) ? 3 : 0;
    if (named(r, ".csv") || named(r, ".tsv")) {
        r->format = CSV;
        r->separator = named(r, ".tsv") ? '\t' : ',';
        return index_csv(r, at, err);
    }
    int64_t line = 1;
    if (named(r, ".json")) {
        MR_TRY(skip_all_space(r, &at, &line, err));
        if (at < r->len && r->data[at] == '[') {
            r->format = JSON_ARRAY;
            return index_array(r, at, line, err);
        }
    } else if (!named(r, ".jsonl") && !named(r, ".ndjson")) {
        return mr_fail(err, MR_EINVAL,
                       "%s: unknown kind of data, want a name that ends in .jsonl, .ndjson, .json, .csv or .tsv; "
                       "rename or convert it",
                       r->name);
    }
    r->format = JSONL;
    return index_lines(r, at, line, err);
}

/* Pipes and the like: read to the end. */
static mr_status read_stream(mr_rows *r, int fd, mr_err *err) {
    r->cap = 64 << 10;
    r->owned = mr_alloc(r->cap);
    for (ssize_t n; (n = read(fd, r->owned + r->len, r->cap - r->len)) != 0;) {
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return mr_fail_errno(err, "%s", r->name);
        r->len += (size_t)n;
        if (r->len > max_stream_bytes) /* it is held in memory, which a pipe without end would fill */
            return mr_fail(err, MR_EDATA, "%s: a stream of more than %d bytes; save it as a file", r->name,
                           max_stream_bytes);
        if (r->len < r->cap) continue;
        r->cap += r->cap < max_stream_bytes ? r->cap : 1; /* whether one of just so many bytes ends there */
        r->owned = mr_realloc(r->owned, r->cap);
    }
    r->size = r->len;
    r->data = r->owned;
    r->whole = true;
    return MR_OK;
}

static mr_status load(mr_rows *r, int fd, mr_err *err) {
    struct stat info;
    if (fstat(fd, &info)) return mr_fail_errno(err, "%s", r->name);
    if (S_ISDIR(info.st_mode)) return mr_fail(err, MR_EINVAL, "%s: is a folder, want a file of rows", r->name);
    if (!S_ISREG(info.st_mode)) return read_stream(r, fd, err);
    r->data = "";
    r->size = (size_t)info.st_size;
    r->whole = r->size == 0;
    r->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return r->fd < 0 ? mr_fail_errno(err, "%s", r->name) : MR_OK;
}

/* The window has done its work. A stream stays. */
static void drop_window(mr_rows *r) {
    if (r->fd < 0) return;
    mr_free(r->owned);
    r->owned = NULL;
    r->data = "";
    r->len = r->cap = 0;
}

static mr_rows *start(const char *name) {
    mr_rows *r = mr_alloc(sizeof *r);
    r->name = mr_strdup(name);
    r->fd = -1;
    r->cache = mr_alloc(sizeof *r->cache);
    r->cache->last = -2;
    return r;
}

static mr_status finish(mr_rows **out, mr_rows *r, mr_status st) {
    drop_window(r);
    if (st != MR_OK)
        mr_rows_close(r);
    else
        *out = r;
    return st;
}

mr_status mr_rows_open_fd(mr_rows **out, int fd, const char *name, mr_err *err) {
    *out = NULL;
    mr_rows *r = start(name);
    mr_status st = load(r, fd, err);
    if (st == MR_OK) st = index_rows(r, err);
    return finish(out, r, st);
}

/* The index of a cache. Its bytes were checked, by the parent of a process that reads them here; sizes and order are looked at again. */
static mr_status load_index(mr_rows *r, const mr_rowcache_info *info, mr_err *err) {
    const size_t n = (size_t)info->n_rows;
    if (n == 0) return MR_OK;
    /* the index is in the file, so 8 * n is no more than a file has; where there is memory for it, 24 * n is a size too */
    uint64_t *begins = mr_try_alloc(n * sizeof *begins);
    r->rows = begins ? mr_try_alloc(n * sizeof *r->rows) : NULL;
    if (!r->rows) {
        mr_free(begins);
        return mr_fail(err, MR_ENOMEM, "%s: no memory for %zu rows", r->name, n);
    }
    size_t got;
    mr_status st = read_at(r, (char *)begins, r->size, n * sizeof *begins, &got, err);
    bool good = got == n * sizeof *begins && begins[0] == 0;
    for (size_t i = 0; st == MR_OK && good && i < n; i++) {
        const uint64_t end = i + 1 < n ? begins[i + 1] : r->size;
        good = begins[i] < end && end <= r->size && end - begins[i] - 1 <= max_row_bytes;
        r->rows[i] = (place){ (size_t)begins[i], (size_t)(end - begins[i] - 1), (int64_t)i + 1 }; /* without its newline */
    }
    mr_free(begins);
    r->n_rows = n;
    return st == MR_OK && !good ? mr_fail(err, MR_EDATA, "%s: its row cache is damaged; start again", r->name) : st;
}

mr_status mr_rows_open_cache(mr_rows **out, int fd, const char *name, mr_err *err) {
    *out = NULL;
    mr_rowcache_info info;
    MR_TRY(mr_rowcache_info_read(&info, fd, name, err));
    mr_rows *r = start(name);
    mr_status st = load(r, fd, err);
    r->size = (size_t)info.payload_bytes;
    r->whole = r->size == 0;
    if (st == MR_OK && info.text)
        st = index_rows(r, err);
    else if (st == MR_OK)
        st = load_index(r, &info, err);
    return finish(out, r, st);
}

mr_status mr_rows_open(mr_rows **out, const char *path, mr_err *err) {
    *out = NULL;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return mr_fail_errno(err, "%s", path);
    mr_status st = mr_rows_open_fd(out, fd, path, err);
    close(fd);
    return st;
}

void mr_rows_close(mr_rows *r) {
    if (!r) return;
    if (r->fd >= 0) close(r->fd);
    mr_free(r->cache->bytes);
    mr_free(r->cache);
    for (int i = 0; i < r->n_columns; i++) mr_free(r->columns[i]);
    mr_free(r->columns);
    mr_free(r->owned);
    mr_free(r->rows);
    mr_free(r->name);
    mr_free(r);
}

int64_t mr_rows_count(const mr_rows *r) {
    return (int64_t)r->n_rows;
}

const char *mr_rows_name(const mr_rows *r) {
    return r->name;
}

int64_t mr_rows_line(const mr_rows *r, int64_t index) {
    return index >= 0 && index < (int64_t)r->n_rows ? r->rows[index].line : 0;
}

/* Bytes of a row, borrowed until the next call. The file is read ahead when rows come in their order. */
static mr_status row_bytes(const mr_rows *r, int64_t index, const char **bytes, mr_err *err) {
    const place *p = &r->rows[index];
    cache *c = r->cache;
    if (r->fd < 0) {
        *bytes = r->data + p->at;
        return MR_OK;
    }
    const bool in_order = index == c->last + 1;
    c->last = index;
    if (p->at < c->base || p->at + p->len > c->base + c->len) {
        size_t want = in_order && p->len < ahead_bytes ? ahead_bytes : p->len;
        if (want > r->size - p->at) want = r->size - p->at;
        if (want > c->cap || c->cap > 4 * ahead_bytes) { /* what one long row needed is given back */
            mr_free(c->bytes);
            c->cap = c->len = 0;
            const size_t room = r->size < ahead_bytes ? r->size : ahead_bytes, cap = want > room ? want : room;
            c->bytes = mr_try_alloc(cap);
            if (!c->bytes)
                return mr_fail(err, MR_ENOMEM, "%s:%" PRId64 ": no memory for a row of %zu bytes", r->name, p->line,
                               p->len);
            c->cap = cap;
        }
        c->base = p->at;
        c->len = 0;
        MR_TRY(read_at(r, c->bytes, p->at, want, &c->len, err));
        if (c->len < p->len) return became_shorter(r, p->line, err);
    }
    *bytes = c->bytes ? c->bytes + (p->at - c->base) : ""; /* an empty row, and nothing was read yet */
    return MR_OK;
}

static mr_status check_index(const mr_rows *r, int64_t index, mr_err *err) {
    if (index >= 0 && index < (int64_t)r->n_rows) return MR_OK;
    return mr_fail(err, MR_EINVAL, "%s: row %" PRId64 " was asked for, it has %zu rows", r->name, index, r->n_rows);
}

mr_status mr_rows_text(const mr_rows *r, int64_t index, const char **text, size_t *len, mr_err *err) {
    *text = NULL;
    *len = 0;
    MR_TRY(check_index(r, index, err));
    if (r->format == CSV) return MR_OK;
    MR_TRY(row_bytes(r, index, text, err));
    *len = r->rows[index].len;
    return MR_OK;
}

mr_status mr_rows_no_object(const mr_rows *r, int64_t index, const char *type, mr_err *err) {
    return mr_fail(err, MR_EDATA, "%.480s:%" PRId64 ": the row is %s, want an object; mend the line", r->name,
                   mr_rows_line(r, index), type);
}

mr_status mr_rows_get(const mr_rows *r, int64_t index, cJSON **row, mr_err *err) {
    *row = NULL;
    MR_TRY(check_index(r, index, err));
    const place *p = &r->rows[index];
    const char *bytes;
    MR_TRY(row_bytes(r, index, &bytes, err));
    if (r->format == CSV) {
        mr_rows one = *r; /* as if this record were the file */
        one.data = bytes;
        one.len = p->len;
        one.whole = true;
        csv_row c = { &one, cJSON_CreateObject() };
        size_t at = 0;
        int64_t line = p->line;
        int n;
        mr_status st = c.object ? scan_record(&one, &at, &line, &n, take_field, &c, err)
                                : mr_fail(err, MR_ENOMEM, "%s: no memory for a row", r->name);
        if (st != MR_OK) {
            cJSON_Delete(c.object);
            return st;
        }
        *row = c.object;
        return MR_OK;
    }
    char where[512];
    snprintf(where, sizeof where, "%.480s:%" PRId64, r->name, p->line);
    cJSON *item = NULL;
    MR_TRY(mr_json_parse(&item, bytes, p->len, where, err));
    if (!cJSON_IsObject(item)) {
        mr_status st = mr_rows_no_object(r, index, mr_json_type_name(item), err);
        cJSON_Delete(item);
        return st;
    }
    *row = item;
    return MR_OK;
}
