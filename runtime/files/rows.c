/* rows.c - JSONL, JSON arrays and CSV as indexed rows.
 *
 * Source: RFC 8259 and RFC 4180 (CSV), with the caps of a hostile file: a row has at most 16 MiB. Opening finds where
 * each row starts and, for CSV, that each has as many fields as the header; a row is parsed when it is asked for. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/utf8.h"
#include "files/rows.h"

enum { max_row_bytes = 16 << 20, max_columns = 4096, max_stream_bytes = 1 << 30 };

typedef enum format { JSONL, JSON_ARRAY, CSV } format;

typedef struct place {
    size_t at, len;
    int64_t line;
} place;

struct mr_rows {
    char *name;
    format format;
    char separator; /* of a CSV file */
    const char *data;
    size_t len;
    void *mapping; /* NULL: none */
    char *owned;   /* read from something that cannot be mapped */
    place *rows;
    size_t n_rows, cap_rows;
    char **columns; /* CSV */
    int n_columns;
};

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
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
    r->rows[r->n_rows++] = (place){ at, len, line };
    return MR_OK;
}

/* ---- JSON ---- */

static mr_status index_lines(mr_rows *r, size_t at, mr_err *err) {
    for (int64_t line = 1; at < r->len; line++) {
        const char *newline = memchr(r->data + at, '\n', r->len - at);
        const size_t end = newline ? (size_t)(newline - r->data) : r->len;
        size_t from = at, to = end;
        while (from < to && is_space(r->data[from])) from++;
        while (to > from && is_space(r->data[to - 1])) to--;
        if (from < to) MR_TRY(add_row(r, from, to - from, line, err));
        at = end + 1;
    }
    return MR_OK;
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

static mr_status index_array(mr_rows *r, size_t at, mr_err *err) {
    int64_t line = 1;
    at = skip_space(r, at, &line);
    const int64_t opened = line;
    at = skip_space(r, at + 1, &line); /* behind '[' */
    bool want_element = false;         /* a comma came before */
    while (at < r->len && (r->data[at] != ']' || want_element)) {
        const size_t from = at;
        const int64_t from_line = line;
        at = element_end(r, at, &line);
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
        if (want_element) at = skip_space(r, at + 1, &line);
    }
    if (at >= r->len)
        return mr_fail(err, MR_EDATA,
                       "%s:%" PRId64 ": the array that opens here is not closed; the file is cut: fetch it again",
                       r->name, opened);
    at = skip_space(r, at + 1, &line);
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

static mr_status take_column(void *ctx, int index, const mr_str *text, int64_t line, mr_err *err) {
    mr_rows *r = ctx;
    (void)index;
    MR_TRY(check_text(r, text, line, "(header)", err));
    for (int i = 0; i < r->n_columns; i++)
        if (!strcmp(r->columns[i], text->data))
            return mr_fail(err, MR_EDATA, "%s:%" PRId64 ": column \"%.64s\" occurs twice in the header; rename one",
                           r->name, line, text->data);
    if (r->n_columns == max_columns)
        return mr_fail(err, MR_EDATA, "%s:%" PRId64 ": more than %d columns; is this CSV?", r->name, line, max_columns);
    r->columns = mr_realloc(r->columns, ((size_t)r->n_columns + 1) * sizeof *r->columns);
    r->columns[r->n_columns++] = mr_strndup(text->data, text->len);
    return MR_OK;
}

static bool blank_line(const mr_rows *r, size_t at) {
    return r->data[at] == '\n' || (r->data[at] == '\r' && (at + 1 == r->len || r->data[at + 1] == '\n'));
}

static mr_status index_csv(mr_rows *r, size_t at, mr_err *err) {
    int64_t line = 1;
    int n;
    while (at < r->len && blank_line(r, at)) {
        at += r->data[at] == '\r' ? 2 : 1;
        line++;
    }
    if (at >= r->len)
        return mr_fail(err, MR_EDATA, "%s:1: the file is empty, want a line with the names of the columns; add one",
                       r->name);
    const int64_t header = line;
    MR_TRY(scan_record(r, &at, &line, &n, take_column, r, err));
    if (r->n_columns == 1 && r->separator == ',' && strchr(r->columns[0], ';'))
        return mr_fail(err, MR_EDATA,
                       "%s:%" PRId64 ": the columns are separated by semicolons, want commas; export it with commas",
                       r->name, header);
    while (at < r->len) {
        const size_t from = at;
        const int64_t from_line = line;
        if (blank_line(r, at)) {
            at += r->data[at] == '\r' ? 2 : 1;
            line++;
            continue;
        }
        MR_TRY(scan_record(r, &at, &line, &n, NULL, NULL, err));
        if (n != r->n_columns)
            return mr_fail(err, MR_EDATA,
                           "%s:%" PRId64 ": %d fields, want %d as in the header; quote fields that hold a separator",
                           r->name, from_line, n, r->n_columns);
        MR_TRY(add_row(r, from, at - from, from_line, err));
    }
    return MR_OK;
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
        { "\x1f\x8b", "is compressed with gzip; gunzip it first", 2 },
        { "\x28\xb5\x2f\xfd", "is compressed with zstd; unpack it first", 4 },
        { "PK\x03\x04", "is a ZIP archive; unpack it first", 4 },
        { "PAR1", "is Parquet, want text; export it as JSON lines", 4 },
        { "\xff\xfe", "is UTF-16; save it as UTF-8", 2 },
        { "\xfe\xff", "is UTF-16; save it as UTF-8", 2 },
    };
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++)
        if (r->len >= foreign[i].len && !memcmp(r->data, foreign[i].magic, foreign[i].len))
            return mr_fail(err, MR_EDATA, "%s:1: the file %s", r->name, foreign[i].what);
    return MR_OK;
}

static mr_status index_rows(mr_rows *r, mr_err *err) {
    MR_TRY(refuse_foreign(r, err));
    size_t at = r->len >= 3 && !memcmp(r->data, "\xef\xbb\xbf", 3) ? 3 : 0;
    if (mr_ends_with(r->name, ".csv") || mr_ends_with(r->name, ".tsv")) {
        r->format = CSV;
        r->separator = mr_ends_with(r->name, ".tsv") ? '\t' : ',';
        return index_csv(r, at, err);
    }
    if (mr_ends_with(r->name, ".json")) {
        int64_t line = 1;
        const size_t first = skip_space(r, at, &line);
        if (first < r->len && r->data[first] == '[') {
            r->format = JSON_ARRAY;
            return index_array(r, at, err);
        }
    } else if (!mr_ends_with(r->name, ".jsonl") && !mr_ends_with(r->name, ".ndjson")) {
        return mr_fail(err, MR_EINVAL,
                       "%s: unknown kind of data, want a name that ends in .jsonl, .ndjson, .json, .csv or .tsv; "
                       "rename or convert it",
                       r->name);
    }
    r->format = JSONL;
    return index_lines(r, at, err);
}

/* Pipes and the like: read to the end. */
static mr_status read_stream(mr_rows *r, int fd, mr_err *err) {
    mr_str s = { 0 };
    char buffer[65536];
    for (;;) {
        const ssize_t n = read(fd, buffer, sizeof buffer);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            mr_status st = mr_fail_errno(err, "%s", r->name);
            mr_str_clear(&s);
            return st;
        }
        if (n == 0) break;
        if (s.len + (size_t)n > max_stream_bytes) { /* it is held in memory, which a pipe without end would fill */
            mr_str_clear(&s);
            return mr_fail(err, MR_EDATA, "%s: a stream of more than %d bytes; save it as a file", r->name,
                           max_stream_bytes);
        }
        mr_str_add(&s, buffer, (size_t)n);
    }
    r->len = s.len;
    r->owned = mr_str_steal(&s);
    r->data = r->owned;
    return MR_OK;
}

static mr_status load(mr_rows *r, int fd, mr_err *err) {
    struct stat info;
    if (fstat(fd, &info)) return mr_fail_errno(err, "%s", r->name);
    if (S_ISDIR(info.st_mode)) return mr_fail(err, MR_EINVAL, "%s: is a folder, want a file of rows", r->name);
    if (!S_ISREG(info.st_mode)) return read_stream(r, fd, err);
    r->data = "";
    if (info.st_size == 0) return MR_OK;
    void *p = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) return mr_fail_errno(err, "%s", r->name);
    r->mapping = p;
    r->data = p;
    r->len = (size_t)info.st_size;
    return MR_OK;
}

mr_status mr_rows_open_fd(mr_rows **out, int fd, const char *name, mr_err *err) {
    *out = NULL;
    mr_rows *r = mr_alloc(sizeof *r);
    r->name = mr_strdup(name);
    mr_status st = load(r, fd, err);
    if (st == MR_OK) st = index_rows(r, err);
    if (st != MR_OK) {
        mr_rows_close(r);
        return st;
    }
    *out = r;
    return MR_OK;
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
    if (r->mapping) munmap(r->mapping, r->len);
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

int64_t mr_rows_line(const mr_rows *r, int64_t index) {
    return index >= 0 && index < (int64_t)r->n_rows ? r->rows[index].line : 0;
}

mr_status mr_rows_get(const mr_rows *r, int64_t index, cJSON **row, mr_err *err) {
    *row = NULL;
    if (index < 0 || index >= (int64_t)r->n_rows)
        return mr_fail(err, MR_EINVAL, "%s: row %" PRId64 " was asked for, it has %zu rows", r->name, index, r->n_rows);
    const place *p = &r->rows[index];
    if (r->format == CSV) {
        csv_row c = { r, cJSON_CreateObject() };
        size_t at = p->at;
        int64_t line = p->line;
        int n;
        mr_status st = c.object ? scan_record(r, &at, &line, &n, take_field, &c, err)
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
    MR_TRY(mr_json_parse(&item, r->data + p->at, p->len, where, err));
    if (!cJSON_IsObject(item)) {
        mr_status st =
            mr_fail(err, MR_EDATA, "%s: the row is %s, want an object; mend the line", where, mr_json_type_name(item));
        cJSON_Delete(item);
        return st;
    }
    *row = item;
    return MR_OK;
}
