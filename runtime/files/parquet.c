/* parquet.c - carquet's Arrow arrays as JSON rows: see parquet.h.
 *
 * Source: Apache Parquet format (LogicalTypes.md), the Arrow C data interface. What carquet hands over is not believed:
 * the shape of every array is held against its schema and its offsets against what they point into before a row is
 * made. */
#include "files/parquet.h"

#include "base/fsafe.h"

#ifndef MEDRL_CARQUET

const char *mr_parquet_version(void) {
    return NULL;
}

mr_status mr_parquet_read(int fd, const char *name, size_t memory_bytes, mr_parquet_row each, void *self,
                          int64_t *n_rows, mr_err *err) {
    (void)fd, (void)memory_bytes, (void)each, (void)self, (void)n_rows;
    return mr_fail(
        err, MR_EDATA,
        "%s: this medrl was built without Parquet; ./bootstrap builds it in, or export the file as JSON lines", name);
}

#else

#include <carquet/carquet.h>
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/utf8.h"
#include "files/parquet_env.h"
#include "files/tensors.h"
#undef fopen
#undef malloc
#undef calloc
#undef realloc
#undef free

enum { MAX_FIELDS = 1024, MAX_ROW_BYTES = 16 << 20, MAX_ROWS = INT32_MAX, DEFAULT_MEMORY = 1 << 30 };

const char *mr_parquet_version(void) {
    return MEDRL_CARQUET;
}

/* ---- carquet's memory and file ---- */

static struct {
    size_t used, cap;
    bool short_of;
    int fd;
} env;

static bool fits(size_t bytes) {
    if (bytes <= env.cap && env.used <= env.cap - bytes) return true;
    env.short_of = true;
    return false;
}

static void *counted(void *p) {
    if (p) env.used += malloc_usable_size(p);
    return p;
}

void *mr_parquet_malloc(size_t bytes) {
    return fits(bytes) ? counted(malloc(bytes)) : NULL;
}

void *mr_parquet_calloc(size_t n, size_t bytes) {
    size_t all;
    return mr_mul_size(&all, n, bytes) && fits(all) ? counted(calloc(n, bytes)) : NULL;
}

void mr_parquet_free(void *p) {
    if (p) env.used -= malloc_usable_size(p);
    free(p);
}

void *mr_parquet_realloc(void *p, size_t bytes) {
    const size_t before = p ? malloc_usable_size(p) : 0;
    if (bytes > before && !fits(bytes - before)) return NULL;
    void *q = realloc(p, bytes);
    if (!q) return NULL;
    env.used -= before;
    return counted(q);
}

static ssize_t stream_read(void *cookie, char *to, size_t len) {
    off_t *at = cookie;
    ssize_t n;
    while ((n = pread(env.fd, to, len, *at)) < 0 && errno == EINTR) continue;
    if (n > 0) *at += n;
    return n;
}

static int stream_seek(void *cookie, off64_t *offset, int whence) {
    off_t *at = cookie;
    struct stat s;
    off_t from = 0;
    if (whence == SEEK_CUR) from = *at;
    if (whence == SEEK_END) {
        if (fstat(env.fd, &s) != 0) return -1;
        from = s.st_size;
    }
    if (*offset < -from) return -1;
    *offset = *at = from + *offset;
    return 0;
}

static int stream_close(void *cookie) {
    mr_free(cookie);
    return 0;
}

/* Whatever path carquet was given: there is one file. */
FILE *mr_parquet_fopen(const char *path, const char *mode) {
    (void)path;
    (void)mode;
    return fopencookie(mr_alloc(sizeof(off_t)), "r",
                       (cookie_io_functions_t){ .read = stream_read, .seek = stream_seek, .close = stream_close });
}

/* ---- columns ---- */

typedef enum kind { BOOL, INT, UINT, HALF, FLOAT, DOUBLE, TEXT, DATE, TIME, STAMP, LIST, STRUCT } kind;

/* A column, or a part of one, and the array of it that is being read. */
typedef struct field {
    kind kind;
    int width;        /* bytes of a value */
    int64_t a_second; /* of TIME and STAMP: how many of its units are a second */
    bool utc;
    char *path, *key; /* "context.labels"; the key as JSON with its colon, NULL inside a list */
    struct field *children;
    int64_t n_children;
    const struct ArrowArray *array;
} field;

typedef struct reading {
    const char *name;
    carquet_reader_t *reader;
    int32_t element; /* of carquet's schema: leaves come in the order of Arrow's */
    field root;
    mr_str row;
    int64_t n_rows;
    mr_parquet_row each;
    void *self;
} reading;

static void clear_field(field *f) {
    for (int64_t i = 0; i < f->n_children; i++) clear_field(&f->children[i]);
    mr_free(f->children);
    mr_free(f->path);
    mr_free(f->key);
}

static mr_status refuse(const reading *r, const field *f, const char *type, mr_err *err) {
    return mr_fail(
        err, MR_EDATA,
        "%s: column \"%.100s\" is %s; medrl reads text, numbers, booleans, dates and times, and lists and structs "
        "of these: leave it out or convert it",
        r->name, f->path, type);
}

/* The next leaf of the schema as the file describes it: Arrow's formats do not say all. */
static const carquet_schema_node_t *next_leaf(reading *r) {
    const carquet_schema_t *schema = carquet_reader_schema(r->reader);
    const int32_t n = carquet_schema_num_elements(schema);
    while (++r->element < n) {
        const carquet_schema_node_t *node = carquet_schema_get_element(schema, r->element);
        if (node && carquet_schema_node_is_leaf(node)) return node;
    }
    return NULL;
}

/* What a leaf holds that cannot be a JSON value; NULL when it can. */
static const char *odd_type(const carquet_schema_node_t *leaf) {
    const carquet_logical_type_t *t = carquet_schema_node_logical_type(leaf);
    switch (t ? t->id : CARQUET_LOGICAL_UNKNOWN) {
    case CARQUET_LOGICAL_DECIMAL: return "a DECIMAL";
    case CARQUET_LOGICAL_UUID: return "a UUID";
    case CARQUET_LOGICAL_INTERVAL: return "an INTERVAL";
    case CARQUET_LOGICAL_BSON: return "BSON";
    case CARQUET_LOGICAL_VARIANT: return "a VARIANT";
    case CARQUET_LOGICAL_GEOMETRY:
    case CARQUET_LOGICAL_GEOGRAPHY: return "a geometry";
    default: break;
    }
    return carquet_schema_node_physical_type(leaf) == CARQUET_PHYSICAL_INT96 ? "an INT96 (an old form of timestamps)"
                                                                             : NULL;
}

/* "tsu:UTC", "ttm": the unit behind two letters. */
static bool take_unit(field *f, char unit) {
    f->a_second = unit == 's' ? 1 : unit == 'm' ? 1000 : unit == 'u' ? 1000000 : unit == 'n' ? 1000000000 : 0;
    return f->a_second > 0;
}

static mr_status plan_leaf(reading *r, field *f, const char *format, mr_err *err) {
    static const struct {
        char letter;
        kind kind;
        int width;
    } simple[] = { { 'b', BOOL, 0 },  { 'c', INT, 1 },    { 's', INT, 2 },  { 'i', INT, 4 },  { 'l', INT, 8 },
                   { 'C', UINT, 1 },  { 'S', UINT, 2 },   { 'I', UINT, 4 }, { 'L', UINT, 8 }, { 'e', HALF, 2 },
                   { 'f', FLOAT, 4 }, { 'g', DOUBLE, 8 }, { 'u', TEXT, 0 } };
    const carquet_schema_node_t *leaf = next_leaf(r);
    if (!leaf)
        return mr_fail(err, MR_EDATA, "%s: column \"%.100s\" has no type; the file is damaged", r->name, f->path);
    const char *odd = odd_type(leaf);
    if (odd) return refuse(r, f, odd, err);
    if (strcmp(format, "tdD") == 0) {
        f->kind = DATE, f->width = 4;
        return MR_OK;
    }
    if (strncmp(format, "ts", 2) == 0 && take_unit(f, format[2])) {
        f->kind = STAMP, f->width = 8;
        f->utc = strcmp(format + 3, ":UTC") == 0;
        return MR_OK;
    }
    if (strncmp(format, "tt", 2) == 0 && take_unit(f, format[2])) {
        f->kind = TIME, f->width = format[2] == 'm' || format[2] == 's' ? 4 : 8;
        return MR_OK;
    }
    for (size_t i = 0; i < sizeof simple / sizeof simple[0]; i++)
        if (format[0] == simple[i].letter && !format[1]) {
            f->kind = simple[i].kind, f->width = simple[i].width;
            return MR_OK;
        }
    if (format[0] == 'z') return refuse(r, f, "binary (bytes without a character set)", err);
    if (format[0] == 'w') return refuse(r, f, "binary of a fixed size", err);
    char type[64];
    snprintf(type, sizeof type, "of a type (%.20s) that is not known here", format);
    return refuse(r, f, type, err);
}

static mr_status plan_field(reading *r, field *f, const struct ArrowSchema *s, const char *above, bool keyed,
                            mr_err *err);

static mr_status plan_children(reading *r, field *f, const struct ArrowSchema *s, mr_err *err) {
    const bool keyed = f->kind == STRUCT;
    const char *above = f->path ? f->path : "";
    if (s->n_children < 1 || s->n_children > MAX_FIELDS || !s->children)
        return mr_fail(err, MR_EDATA, "%s: %s%.100s%s has %" PRId64 " columns, want 1 to %d", r->name,
                       f->path ? "\"" : "", f->path ? above : "it", f->path ? "\"" : "", s->n_children, MAX_FIELDS);
    f->children = mr_alloc((size_t)s->n_children * sizeof *f->children);
    f->n_children = s->n_children;
    for (int64_t i = 0; i < f->n_children; i++) {
        if (!s->children[i])
            return mr_fail(err, MR_EDATA, "%s: a column without a description; the file is damaged", r->name);
        MR_TRY(plan_field(r, &f->children[i], s->children[i], above, keyed, err));
        for (int64_t k = 0; keyed && k < i; k++)
            if (strcmp(f->children[k].key, f->children[i].key) == 0)
                return mr_fail(err, MR_EDATA, "%s: column \"%.100s\" occurs twice; rename one", r->name,
                               f->children[i].path);
    }
    return MR_OK;
}

static mr_status plan_field(reading *r, field *f, const struct ArrowSchema *s, const char *above, bool keyed,
                            mr_err *err) {
    const char *name = s->name ? s->name : "", *format = s->format ? s->format : "";
    if (keyed) {
        if (!mr_utf8_valid(name, strlen(name)))
            return mr_fail(err, MR_EDATA, "%s: a column's name is no UTF-8; the file is damaged", r->name);
        f->path = mr_asprintf("%s%s%s", above, above[0] ? "." : "", name);
        mr_str key = { 0 };
        mr_json_put_string(&key, name, strlen(name));
        mr_str_puts(&key, ": ");
        f->key = mr_str_steal(&key);
    } else {
        f->path = mr_strdup(above); /* the elements of a list have its name */
    }
    if (strcmp(format, "+s") == 0 || strcmp(format, "+l") == 0) {
        f->kind = format[1] == 's' ? STRUCT : LIST;
        return plan_children(r, f, s, err);
    }
    if (strcmp(format, "+m") == 0) return refuse(r, f, "a map", err);
    return plan_leaf(r, f, format, err);
}

/* ---- arrays ---- */

static mr_status bad_array(const reading *r, const field *f, mr_err *err) {
    return mr_fail(err, MR_EDATA,
                   "%s: column \"%.100s\" does not fit together behind row %" PRId64 "; the file is damaged", r->name,
                   f->path ? f->path : "", r->n_rows);
}

/* Offsets of texts and lists: from 0 on, never backwards; *end is the last one. */
static bool good_offsets(const struct ArrowArray *a, int64_t *end) {
    const int32_t *at = a->buffers[1];
    if (at[0] != 0) return false;
    for (int64_t i = 0; i < a->length; i++)
        if (at[i + 1] < at[i]) return false;
    *end = at[a->length];
    return true;
}

/* Takes an array of at least n values as the field's. */
static mr_status bind(const reading *r, field *f, const struct ArrowArray *a, int64_t n, mr_err *err) {
    const int64_t buffers = f->kind == TEXT ? 3 : f->kind == STRUCT ? 1 : 2;
    if (!a || !a->buffers || a->offset != 0 || a->length < n || a->n_buffers != buffers ||
        a->n_children != f->n_children || (a->null_count != 0 && !a->buffers[0]) || (buffers > 1 && !a->buffers[1]) ||
        (buffers > 2 && !a->buffers[2]) || (f->n_children > 0 && !a->children))
        return bad_array(r, f, err);
    int64_t end = 0;
    if ((f->kind == TEXT || f->kind == LIST) && !good_offsets(a, &end)) return bad_array(r, f, err);
    f->array = a;
    for (int64_t i = 0; i < f->n_children; i++)
        MR_TRY(bind(r, &f->children[i], a->children[i], f->kind == LIST ? end : n, err));
    return MR_OK;
}

static bool is_set(const void *bits, int64_t i) {
    return ((const uint8_t *)bits)[i >> 3] >> (i & 7) & 1;
}

/* ---- values ---- */

static mr_status bad_value(const reading *r, const field *f, const char *what, mr_err *err) {
    return mr_fail(err, MR_EDATA, "%s:%" PRId64 ": column \"%.100s\": %s", r->name, r->n_rows + 1, f->path, what);
}

static void put_int(mr_str *s, int64_t x) {
    const bool exact = x <= INT64_C(1) << 53 && x >= -(INT64_C(1) << 53);
    mr_str_printf(s, exact ? "%" PRId64 : "\"%" PRId64 "\"", x);
}

static void put_uint(mr_str *s, uint64_t x) {
    mr_str_printf(s, x <= UINT64_C(1) << 53 ? "%" PRIu64 : "\"%" PRIu64 "\"", x);
}

/* Days since 1970-01-01 in the Gregorian calendar, also before its time. Eras of 400 years begin in March, so that the
 * leap day is the last one of a year. */
static void put_date(mr_str *s, int64_t days) {
    days += 719468; /* since 0000-03-01 */
    const int64_t era = (days >= 0 ? days : days - 146096) / 146097, day = days - era * 146097;
    const int64_t year = (day - day / 1460 + day / 36524 - day / 146096) / 365;
    const int64_t in_year = day - (365 * year + year / 4 - year / 100), month = (5 * in_year + 2) / 153;
    mr_str_printf(s, "%04" PRId64 "-%02" PRId64 "-%02" PRId64, year + era * 400 + (month >= 10),
                  month + (month < 10 ? 3 : -9), in_year - (153 * month + 2) / 5 + 1);
}

/* units from 0 up to a day. */
static void put_time(mr_str *s, int64_t units, int64_t a_second) {
    const int64_t seconds = units / a_second, rest = units % a_second;
    mr_str_printf(s, "%02" PRId64 ":%02" PRId64 ":%02" PRId64, seconds / 3600, seconds / 60 % 60, seconds % 60);
    int digits = 0;
    for (int64_t n = a_second; n > 1; n /= 10) digits++;
    if (rest) mr_str_printf(s, ".%0*" PRId64, digits, rest);
}

static mr_status put_text(const reading *r, const field *f, mr_str *s, int64_t i, mr_err *err) {
    const int32_t *at = f->array->buffers[1];
    const char *text = (const char *)f->array->buffers[2] + at[i];
    const size_t len = (size_t)(at[i + 1] - at[i]);
    if (memchr(text, 0, len)) return bad_value(r, f, "holds a NUL byte; remove it", err);
    if (!mr_utf8_valid(text, len)) return bad_value(r, f, "is no UTF-8; mend it", err);
    mr_json_put_string(s, text, len);
    return MR_OK;
}

static int64_t int_at(const void *values, int width, int64_t i) {
    switch (width) {
    case 1: return ((const int8_t *)values)[i];
    case 2: return ((const int16_t *)values)[i];
    case 4: return ((const int32_t *)values)[i];
    default: return ((const int64_t *)values)[i];
    }
}

static uint64_t uint_at(const void *values, int width, int64_t i) {
    switch (width) {
    case 1: return ((const uint8_t *)values)[i];
    case 2: return ((const uint16_t *)values)[i];
    case 4: return ((const uint32_t *)values)[i];
    default: return ((const uint64_t *)values)[i];
    }
}

static mr_status put_moment(const reading *r, const field *f, mr_str *s, int64_t x, mr_err *err) {
    const int64_t a_day = 86400 * f->a_second;
    if (f->kind == TIME && (x < 0 || x >= a_day)) return bad_value(r, f, "is no time of a day", err);
    const int64_t days = x >= 0 ? x / a_day : -((-(x + 1)) / a_day) - 1, rest = x - days * a_day;
    mr_str_puts(s, "\"");
    if (f->kind == STAMP) {
        put_date(s, days);
        mr_str_puts(s, "T");
    }
    put_time(s, rest, f->a_second);
    mr_str_puts(s, f->kind == STAMP && f->utc ? "Z\"" : "\"");
    return MR_OK;
}

static mr_status put_value(const reading *r, const field *f, mr_str *s, int64_t i, mr_err *err) {
    const struct ArrowArray *a = f->array;
    if (a->buffers[0] && !is_set(a->buffers[0], i)) {
        mr_str_add(s, "null", 4);
        return MR_OK;
    }
    if (s->len > MAX_ROW_BYTES) {
        char what[64];
        snprintf(what, sizeof what, "the row has more than %d bytes; shorten it", MAX_ROW_BYTES);
        return bad_value(r, f, what, err);
    }
    const void *values = f->kind == STRUCT ? NULL : a->buffers[1];
    switch (f->kind) {
    case BOOL: mr_str_puts(s, is_set(values, i) ? "true" : "false"); break;
    case INT: put_int(s, int_at(values, f->width, i)); break;
    case UINT: put_uint(s, uint_at(values, f->width, i)); break;
    case HALF: mr_json_put_number(s, (double)mr_f16_to_f32(((const uint16_t *)values)[i])); break;
    case FLOAT: mr_json_put_number(s, (double)((const float *)values)[i]); break;
    case DOUBLE: mr_json_put_number(s, ((const double *)values)[i]); break;
    case TEXT: return put_text(r, f, s, i, err);
    case DATE:
        mr_str_puts(s, "\"");
        put_date(s, int_at(values, 4, i));
        mr_str_puts(s, "\"");
        break;
    case TIME:
    case STAMP: return put_moment(r, f, s, int_at(values, f->width, i), err);
    case LIST:
        mr_str_add(s, "[", 1);
        for (int32_t k = ((const int32_t *)values)[i], end = ((const int32_t *)values)[i + 1], first = k; k < end;
             k++) {
            if (k > first) mr_str_add(s, ", ", 2);
            MR_TRY(put_value(r, &f->children[0], s, k, err));
        }
        mr_str_add(s, "]", 1);
        break;
    case STRUCT:
        mr_str_add(s, "{", 1);
        for (int64_t k = 0; k < f->n_children; k++) {
            if (k) mr_str_add(s, ", ", 2);
            mr_str_puts(s, f->children[k].key);
            MR_TRY(put_value(r, &f->children[k], s, i, err));
        }
        mr_str_add(s, "}", 1);
    }
    return MR_OK;
}

/* ---- the file ---- */

/* carquet calls a page that it cannot unpack a damaged one: which it is, the footer says. */
static bool has_foreign_codec(const char *name) {
    carquet_error_t e = CARQUET_ERROR_INIT;
    carquet_reader_t *r = carquet_reader_open(name, NULL, &e);
    bool foreign = false;
    for (int32_t g = 0, n = r ? carquet_reader_num_row_groups(r) : 0; g < n && !foreign; g++)
        for (int32_t c = 0; c < carquet_reader_num_columns(r) && !foreign; c++) {
            carquet_column_chunk_metadata_t m;
            foreign = carquet_reader_column_chunk_metadata(r, g, c, &m) == CARQUET_OK &&
                      (m.codec == CARQUET_COMPRESSION_BROTLI || m.codec == CARQUET_COMPRESSION_LZO);
        }
    if (r) carquet_reader_close(r);
    return foreign;
}

static mr_status explain(const char *name, const carquet_error_t *e, mr_err *err) {
    char where[96] = "";
    if (e->row_group_index >= 0 && e->column_index >= 0)
        snprintf(where, sizeof where, " (row group %d, column %d)", (int)e->row_group_index, (int)e->column_index);
    if (env.short_of || e->code == CARQUET_ERROR_OUT_OF_MEMORY)
        return mr_fail(err, MR_EDATA,
                       "%s: a row group%s needs more than %zu MiB to be read, or claims to; write the file with "
                       "smaller row groups",
                       name, where, env.cap >> 20);
    if (e->code == CARQUET_ERROR_UNSUPPORTED_CODEC || has_foreign_codec(name))
        return mr_fail(err, MR_EDATA,
                       "%s: is compressed with brotli or lzo, want snappy, zstd, gzip or lz4; write it anew", name);
    return mr_fail(err, MR_EDATA, "%s: %.300s%s; the file is damaged or not written to the standard, fetch it again",
                   name, e->message[0] ? e->message : carquet_status_string(e->code), where);
}

static mr_status put_group(reading *r, const struct ArrowArray *a, mr_err *err) {
    const int64_t n = a->length;
    if (n < 0) return bad_array(r, &r->root, err);
    MR_TRY(bind(r, &r->root, a, n, err));
    for (int64_t i = 0; i < n; i++) {
        r->row.len = 0;
        MR_TRY(put_value(r, &r->root, &r->row, i, err));
        if (r->row.len > MAX_ROW_BYTES)
            return mr_fail(err, MR_EDATA, "%s:%" PRId64 ": the row has %zu bytes, at most %d are read; shorten it",
                           r->name, r->n_rows + 1, r->row.len, MAX_ROW_BYTES);
        MR_TRY(r->each(r->self, r->row.data, r->row.len, err));
        r->n_rows++;
    }
    return MR_OK;
}

static mr_status read_groups(reading *r, mr_err *err) {
    const int32_t n = carquet_reader_num_row_groups(r->reader);
    bool planned = false;
    for (int32_t g = 0; g < n; g++) {
        carquet_error_t e = CARQUET_ERROR_INIT;
        struct ArrowSchema schema = { 0 };
        struct ArrowArray array = { 0 };
        e.code = carquet_reader_read_arrow(r->reader, g, planned ? NULL : &schema, &array, &e);
        if (e.code != CARQUET_OK) {
            if (e.row_group_index < 0) e.row_group_index = g;
            return explain(r->name, &e, err);
        }
        mr_status st = MR_OK;
        if (!planned) {
            r->root.kind = STRUCT;
            r->element = -1;
            st = plan_children(r, &r->root, &schema, err);
            planned = true;
        }
        if (st == MR_OK) st = put_group(r, &array, err);
        array.release(&array);
        if (schema.release) schema.release(&schema);
        if (st != MR_OK) return st;
    }
    return MR_OK;
}

/* What the footer says of itself, before anything is done that takes as long as the numbers in it are large. */
static mr_status check_footer(const carquet_reader_t *r, const char *name, mr_err *err) {
    const int32_t columns = carquet_reader_num_columns(r);
    int64_t rows = 0;
    for (int32_t g = 0, n = carquet_reader_num_row_groups(r); g < n; g++) {
        carquet_row_group_metadata_t group;
        bool good = carquet_reader_row_group_metadata(r, g, &group) == CARQUET_OK && group.num_rows >= 0 &&
                    group.num_rows <= MAX_ROWS - rows;
        for (int32_t c = 0; good && c < columns; c++) { /* a row has a value or more in each column, if only a null */
            carquet_column_chunk_metadata_t m;
            good = carquet_reader_column_chunk_metadata(r, g, c, &m) == CARQUET_OK && m.num_values >= group.num_rows &&
                   m.num_values <= MAX_ROWS;
        }
        if (!good)
            return mr_fail(
                err, MR_EDATA,
                "%s: row group %d has a number of rows that does not fit (up to %d in a file); the file is damaged",
                name, (int)g, MAX_ROWS);
        rows += group.num_rows;
    }
    if (columns < 1 || rows != carquet_reader_num_rows(r))
        return mr_fail(err, MR_EDATA,
                       "%s: has %d columns, and %" PRId64 " rows where its groups have %" PRId64
                       "; the file is damaged",
                       name, (int)columns, carquet_reader_num_rows(r), rows);
    return MR_OK;
}

/* Lists in lists are more than carquet's validation can go through: it says so before it looks at their pages. The
 * Arrow path, which can, looks at sizes, types and checksums itself. */
static mr_status validate(const char *name, mr_err *err) {
    carquet_error_t e = CARQUET_ERROR_INIT;
    carquet_reader_t *r = carquet_reader_open(name, NULL, &e);
    if (!r) return explain(name, &e, err);
    const mr_status st = check_footer(r, name, err);
    carquet_reader_close(r);
    if (st != MR_OK) return st;
    e.code = carquet_validate_file(name, &e);
    if (e.code != CARQUET_OK && e.code != CARQUET_ERROR_NOT_IMPLEMENTED) return explain(name, &e, err);
    env.short_of = false;
    return MR_OK;
}

mr_status mr_parquet_read(int fd, const char *name, size_t memory_bytes, mr_parquet_row each, void *self,
                          int64_t *n_rows, mr_err *err) {
    if (n_rows) *n_rows = 0;
    env.fd = fd;
    env.used = 0;
    env.short_of = false;
    env.cap = memory_bytes ? memory_bytes : DEFAULT_MEMORY;
    MR_TRY(validate(name, err));
    carquet_error_t e = CARQUET_ERROR_INIT;
    reading r = { .name = name, .each = each, .self = self };
    r.reader = carquet_reader_open(name, NULL, &e);
    mr_status st = r.reader ? read_groups(&r, err) : explain(name, &e, err);
    if (r.reader) carquet_reader_close(r.reader);
    clear_field(&r.root);
    mr_str_clear(&r.row);
    if (n_rows) *n_rows = r.n_rows;
    return st;
}

#endif
