/* json.c - a strict scan of the text (RFC 8259), then cJSON builds the tree; field access with errors that name the
 * place. */
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/rng.h"
#include "base/utf8.h"

enum { MAX_DEPTH = 64, MAX_NUMBER = 62 }; /* cJSON copies a number into 64 bytes and cuts the rest without a word */

typedef struct key {
    uint64_t hash;
    const char *bytes;
    size_t len, at; /* at: where it stands in the text */
} key;

typedef struct scanner {
    const unsigned char *text;
    size_t len, at;
    const char *place;
    mr_err *err;
    key *keys; /* of all open objects, each one's behind its parent's */
    size_t n_keys, cap_keys;
    key few[24];    /* where they are while they are few: a data row then needs no memory */
    mr_str decoded; /* the key that is scanned, when it is written with escapes */
    mr_arena names; /* such keys */
} scanner;

static mr_status bad(scanner *s, size_t at, const char *what) {
    return mr_fail(s->err, MR_EDATA, "%s: byte %zu: %s", s->place, at, what);
}

static void skip_space(scanner *s) {
    while (s->at < s->len) {
        unsigned char c = s->text[s->at];
        if (c != ' ' && c != '\t' && c != '\n' && c != '\r') return;
        s->at++;
    }
}

/* Length of the well-formed UTF-8 sequence at p, 0 when there is none; left is at least 1. */
static size_t utf8_len(const unsigned char *p, size_t left) {
    uint32_t cp;
    int n = mr_utf8_next(&cp, p, left);
    return n > 0 ? (size_t)n : 0;
}

static bool hex4(const scanner *s, size_t at, unsigned *out) {
    if (at + 4 > s->len) return false;
    unsigned v = 0;
    for (int i = 0; i < 4; i++) {
        unsigned char c = s->text[at + (size_t)i], lower = (unsigned char)(c | 0x20);
        if (c >= '0' && c <= '9')
            v = v << 4 | (unsigned)(c - '0');
        else if (lower >= 'a' && lower <= 'f')
            v = v << 4 | (unsigned)(lower - 'a' + 10);
        else
            return false;
    }
    *out = v;
    return true;
}

/* The escape at s->at (on the backslash). *cp is its character. */
static mr_status scan_escape(scanner *s, unsigned *cp) {
    size_t start = s->at;
    if (start + 1 >= s->len) return bad(s, start, "the text ends within a string");
    unsigned char c = s->text[start + 1];
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *simple = c ? strchr(from, c) : NULL;
    if (simple) {
        *cp = (unsigned char)to[simple - from];
        s->at += 2;
        return MR_OK;
    }
    unsigned high, low;
    if (c != 'u')
        return bad(s, start, "an escape that JSON does not have, want one of \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\u");
    if (!hex4(s, start + 2, &high)) return bad(s, start, "\\u without four hexadecimal digits");
    if (high == 0) return bad(s, start, "\\u0000, which medrl refuses, since C strings end there; remove it");
    s->at += 6;
    if (high >= 0xdc00 && high <= 0xdfff) return bad(s, start, "half of a surrogate pair alone");
    if (high >= 0xd800 && high <= 0xdbff) {
        if (s->at + 6 > s->len || s->text[s->at] != '\\' || s->text[s->at + 1] != 'u' || !hex4(s, s->at + 2, &low) ||
            low < 0xdc00 || low > 0xdfff)
            return bad(s, start, "half of a surrogate pair alone");
        high = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
        s->at += 6;
    }
    *cp = high;
    return MR_OK;
}

/* Whether any of eight bytes is a quote, a backslash, a control character or no ASCII: where a run of plain text ends.
 * A byte is zero in x where (x - 0x01..) & ~x has its top bit (Bit Twiddling Hacks, "determine if a word has a zero
 * byte"); a borrow can only come from a byte that is found anyway. */
static bool plain8(const unsigned char *p) {
    const uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;
    uint64_t v;
    memcpy(&v, p, sizeof v);
    uint64_t quote = v ^ (ones * '"'), slash = v ^ (ones * '\\');
    return (((v - ones * 0x20) | (quote - ones) | (slash - ones) | v) & tops) == 0;
}

/* The string at s->at (on the quote). name, when given, gets the decoded bytes: {"a":1,"\u0061":2} has the same key twice. */
static mr_status scan_string(scanner *s, key *name) {
    size_t open = s->at++, run = s->at; /* run: where the bytes begin that s->decoded does not have */
    s->decoded.len = 0;
    for (;;) {
        while (s->len - s->at >= 8 && plain8(s->text + s->at)) s->at += 8;
        if (s->at >= s->len) return bad(s, open, "a string that never ends; is the file cut?");
        unsigned char c = s->text[s->at];
        if (c == '"') break;
        if (c < 0x20) return bad(s, s->at, "a raw control character within a string; write it as an escape");
        if (c == '\\') {
            size_t escape = s->at;
            unsigned cp = 0;
            MR_TRY(scan_escape(s, &cp));
            if (!name) continue;
            char utf8[4];
            mr_str_add(&s->decoded, s->text + run, escape - run);
            mr_str_add(&s->decoded, utf8, (size_t)mr_utf8_put(utf8, cp));
            run = s->at;
            continue;
        }
        size_t n = c < 0x80 ? 1 : utf8_len(s->text + s->at, s->len - s->at);
        if (n == 0) return bad(s, s->at, "bytes that are not UTF-8; convert the file to UTF-8");
        s->at += n;
    }
    size_t close = s->at++;
    if (!name) return MR_OK;
    name->at = open;
    name->bytes = (const char *)s->text + open + 1;
    name->len = close - open - 1;
    if (run > open + 1) { /* behind an escape */
        mr_str_add(&s->decoded, s->text + run, close - run);
        name->bytes = mr_arena_strdup(&s->names, s->decoded.data, s->decoded.len);
        name->len = s->decoded.len;
    }
    name->hash = mr_hash64(name->bytes, name->len);
    return MR_OK;
}

static bool is_digit(const scanner *s, size_t at) {
    return at < s->len && s->text[at] >= '0' && s->text[at] <= '9';
}

static mr_status scan_number(scanner *s) {
    size_t start = s->at;
    bool whole = true;
    if (s->text[s->at] == '-') s->at++;
    if (!is_digit(s, s->at)) return bad(s, start, "no value that JSON knows");
    if (s->text[s->at] == '0' && is_digit(s, s->at + 1)) return bad(s, start, "a number that begins with 0");
    while (is_digit(s, s->at)) s->at++;
    if (s->at < s->len && s->text[s->at] == '.') {
        whole = false;
        s->at++;
        if (!is_digit(s, s->at)) return bad(s, start, "a number without a digit behind its point");
        while (is_digit(s, s->at)) s->at++;
    }
    if (s->at < s->len && (s->text[s->at] | 0x20) == 'e') {
        whole = false;
        s->at++;
        if (s->at < s->len && (s->text[s->at] == '+' || s->text[s->at] == '-')) s->at++;
        if (!is_digit(s, s->at)) return bad(s, start, "a number without a digit in its exponent");
        while (is_digit(s, s->at)) s->at++;
    }
    char copy[MAX_NUMBER + 1];
    size_t n = s->at - start;
    if (n > MAX_NUMBER) return bad(s, start, "a number of more than 62 characters; write fewer digits");
    memcpy(copy, s->text + start, n);
    copy[n] = '\0';
    double x = strtod(copy, NULL);
    if (!isfinite(x)) return bad(s, start, "a number beyond the range of a double");
    if (whole && fabs(x) >= 0x1p53) { /* 10^30, which is common in tokenizer_config.json, is exact */
        char exact[400];              /* 309 digits at most */
        snprintf(exact, sizeof exact, "%.0f", x);
        if (strcmp(exact, copy) != 0)
            return bad(s, start, "an integer above 2^53, which a double would round; write it as a string");
    }
    return MR_OK;
}

static int compare_keys(const void *a, const void *b) {
    const key *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    if (x->len != y->len) return x->len < y->len ? -1 : 1;
    int c = memcmp(x->bytes, y->bytes, x->len);
    return c ? c : (x->at > y->at) - (x->at < y->at);
}

/* Sorting keeps a vocabulary of 150,000 keys fast, and keys that were made to collide as well. The few keys of a data
 * row are compared with each other, which is faster still; only when two hashes agree are they sorted. */
static mr_status check_keys(scanner *s, size_t from) {
    enum { FEW = 16 };
    key *keys = s->keys + from;
    size_t n = s->n_keys - from;
    bool sort = n > FEW;
    for (size_t i = 1; !sort && i < n; i++)
        for (size_t j = 0; j < i; j++) sort = sort || keys[i].hash == keys[j].hash;
    if (!sort) return MR_OK;
    qsort(keys, n, sizeof *keys, compare_keys);
    for (size_t i = 1; i < n; i++) {
        if (keys[i].hash != keys[i - 1].hash || keys[i].len != keys[i - 1].len ||
            memcmp(keys[i].bytes, keys[i - 1].bytes, keys[i].len) != 0)
            continue;
        int shown = keys[i].len > 60 ? 60 : (int)keys[i].len;
        return mr_fail(s->err, MR_EDATA, "%s: byte %zu: the key \"%.*s\" stands twice in one object", s->place,
                       keys[i].at, shown, keys[i].bytes);
    }
    return MR_OK;
}

static mr_status scan_value(scanner *s, int depth);

static mr_status scan_object(scanner *s, int depth) {
    size_t open = s->at++, from = s->n_keys;
    skip_space(s);
    if (s->at < s->len && s->text[s->at] == '}') {
        s->at++;
        return MR_OK;
    }
    for (;;) {
        skip_space(s);
        if (s->at >= s->len) return bad(s, open, "an object that never ends; is the file cut?");
        if (s->text[s->at] != '"') return bad(s, s->at, "want a key in double quotes");
        key name = { 0 };
        MR_TRY(scan_string(s, &name));
        if (s->n_keys == s->cap_keys) {
            const bool first = s->keys == s->few;
            s->cap_keys *= 2;
            s->keys = mr_realloc(first ? NULL : s->keys, s->cap_keys * sizeof *s->keys);
            if (first) memcpy(s->keys, s->few, s->n_keys * sizeof *s->keys);
        }
        s->keys[s->n_keys++] = name;
        skip_space(s);
        if (s->at >= s->len) return bad(s, open, "an object that never ends; is the file cut?");
        if (s->text[s->at] != ':') return bad(s, s->at, "want ':' behind the key");
        s->at++;
        MR_TRY(scan_value(s, depth));
        skip_space(s);
        if (s->at >= s->len) return bad(s, open, "an object that never ends; is the file cut?");
        if (s->text[s->at] == '}') break;
        if (s->text[s->at] != ',') return bad(s, s->at, "want ',' or '}' behind a value of an object");
        s->at++;
    }
    s->at++;
    MR_TRY(check_keys(s, from));
    s->n_keys = from;
    return MR_OK;
}

static mr_status scan_array(scanner *s, int depth) {
    size_t open = s->at++;
    skip_space(s);
    if (s->at < s->len && s->text[s->at] == ']') {
        s->at++;
        return MR_OK;
    }
    for (;;) {
        MR_TRY(scan_value(s, depth));
        skip_space(s);
        if (s->at >= s->len) return bad(s, open, "an array that never ends; is the file cut?");
        if (s->text[s->at] == ']') break;
        if (s->text[s->at] != ',') return bad(s, s->at, "want ',' or ']' behind a value of an array");
        s->at++;
    }
    s->at++;
    return MR_OK;
}

static mr_status scan_word(scanner *s, const char *word) {
    size_t n = strlen(word);
    if (s->len - s->at < n || memcmp(s->text + s->at, word, n) != 0) return bad(s, s->at, "no value that JSON knows");
    s->at += n;
    return MR_OK;
}

static mr_status scan_value(scanner *s, int depth) {
    skip_space(s);
    if (s->at >= s->len) return bad(s, s->at, "the text ends where a value should be; is the file cut?");
    switch (s->text[s->at]) {
    case '{':
    case '[':
        if (depth >= MAX_DEPTH) return bad(s, s->at, "more than 64 levels of nesting");
        return s->text[s->at] == '{' ? scan_object(s, depth + 1) : scan_array(s, depth + 1);
    case '"': return scan_string(s, NULL);
    case 't': return scan_word(s, "true");
    case 'f': return scan_word(s, "false");
    case 'n': return scan_word(s, "null");
    default: return scan_number(s);
    }
}

mr_status mr_json_check(const char *text, size_t len, const char *place, mr_err *err) {
    scanner s;
    s.text = (const unsigned char *)text;
    s.len = len;
    s.at = s.n_keys = 0;
    s.place = place;
    s.err = err;
    s.decoded = (mr_str){ 0 };
    s.names = (mr_arena){ 0 };
    s.keys = s.few;
    s.cap_keys = sizeof s.few / sizeof s.few[0];
    mr_status st = scan_value(&s, 0);
    if (st == MR_OK) {
        skip_space(&s);
        if (s.at < len) st = bad(&s, s.at, "more text behind the value, want the end");
    }
    if (s.keys != s.few) mr_free(s.keys);
    mr_str_clear(&s.decoded);
    mr_arena_clear(&s.names);
    return st;
}

mr_status mr_json_parse(cJSON **out, const char *text, size_t len, const char *place, mr_err *err) {
    *out = NULL;
    MR_TRY(mr_json_check(text, len, place, err));
    *out = cJSON_ParseWithLength(text, len);
    if (!*out) return mr_fail(err, MR_ENOMEM, "%s: no memory for the tree of %zu bytes of JSON", place, len);
    return MR_OK;
}

mr_status mr_json_load(cJSON **out, const char *path, size_t max_bytes, mr_err *err) {
    char *text;
    size_t len;
    *out = NULL;
    MR_TRY(mr_file_read(&text, &len, path, max_bytes, err));
    mr_status st = mr_json_parse(out, text, len, path, err);
    mr_free(text);
    return st;
}

/* ---- comparison ---- */

/* The member of b that has x's key: mostly there, the one that stands where x does. */
static const cJSON *counterpart(const cJSON *b, const cJSON *there, const cJSON *x) {
    if (strcmp(there->string, x->string) == 0) return there;
    return cJSON_GetObjectItemCaseSensitive(b, x->string);
}

bool mr_json_equal(const cJSON *a, const cJSON *b) {
    if (!a || !b || (a->type & 0xff) != (b->type & 0xff)) return false;
    if (cJSON_IsNumber(a)) return a->valuedouble == b->valuedouble;
    if (cJSON_IsString(a) || cJSON_IsRaw(a)) return strcmp(a->valuestring, b->valuestring) == 0;
    if (!cJSON_IsArray(a) && !cJSON_IsObject(a)) return true;
    if (cJSON_GetArraySize(a) != cJSON_GetArraySize(b)) return false; /* then no key of b is missing in a */
    const cJSON *y = b->child; /* there as long as x is */
    for (const cJSON *x = a->child; x; x = x->next, y = y->next)
        if (!mr_json_equal(x, cJSON_IsObject(a) ? counterpart(b, y, x) : y)) return false;
    return true;
}

/* ---- fields ---- */

const char *mr_json_type_name(const cJSON *item) {
    if (!item) return "missing";
    switch (item->type & 0xff) {
    case cJSON_False:
    case cJSON_True: return "a boolean";
    case cJSON_NULL: return "null";
    case cJSON_Number: return "a number";
    case cJSON_String: return "a string";
    case cJSON_Array: return "an array";
    case cJSON_Object: return "an object";
    }
    return "unknown";
}

static mr_status wrong_type(const cJSON *item, const char *field, const char *want, const char *place, mr_err *err) {
    return mr_fail(err, MR_EDATA, "%s: field \"%s\" is %s, want %s", place, field, mr_json_type_name(item), want);
}

/* NULL in *item when the field is not there, which is an error unless optional. */
static mr_status find(const cJSON **item, const cJSON *obj, const char *field, bool optional, const char *place,
                      mr_err *err) {
    *item = NULL;
    if (!cJSON_IsObject(obj))
        return mr_fail(err, MR_EDATA, "%s: is %s, want an object with field \"%s\"", place, mr_json_type_name(obj),
                       field);
    *item = cJSON_GetObjectItemCaseSensitive(obj, field);
    if (!*item && !optional) return mr_fail(err, MR_EDATA, "%s: field \"%s\" is missing", place, field);
    return MR_OK;
}

static mr_status string_field(const char **out, const cJSON *obj, const char *field, const char *def, bool optional,
                              const char *place, mr_err *err) {
    const cJSON *item;
    *out = NULL;
    MR_TRY(find(&item, obj, field, optional, place, err));
    if (item && !cJSON_IsString(item)) return wrong_type(item, field, "a string", place, err);
    *out = item ? item->valuestring : def;
    return MR_OK;
}

static mr_status number_field(double *out, const cJSON *obj, const char *field, double def, bool optional,
                              const char *place, mr_err *err) {
    const cJSON *item;
    MR_TRY(find(&item, obj, field, optional, place, err));
    if (item && !cJSON_IsNumber(item)) return wrong_type(item, field, "a number", place, err);
    *out = item ? item->valuedouble : def;
    return MR_OK;
}

static mr_status int_field(int64_t *out, const cJSON *obj, const char *field, int64_t def, bool optional, int64_t min,
                           int64_t max, const char *place, mr_err *err) {
    const cJSON *item;
    MR_TRY(find(&item, obj, field, optional, place, err));
    if (!item) {
        *out = def;
        return MR_OK;
    }
    if (!cJSON_IsNumber(item)) return wrong_type(item, field, "an integer", place, err);
    double x = item->valuedouble;
    if (x != floor(x) || fabs(x) > 0x1p53)
        return mr_fail(err, MR_EDATA, "%s: field \"%s\" is %.17g, want an integer", place, field, x);
    if (x < (double)min || x > (double)max)
        return mr_fail(err, MR_EDATA, "%s: field \"%s\" is %.0f, want %lld..%lld", place, field, x, (long long)min,
                       (long long)max);
    *out = (int64_t)x;
    return MR_OK;
}

mr_status mr_json_get_string(const char **out, const cJSON *obj, const char *field, const char *place, mr_err *err) {
    return string_field(out, obj, field, NULL, false, place, err);
}

mr_status mr_json_get_number(double *out, const cJSON *obj, const char *field, const char *place, mr_err *err) {
    return number_field(out, obj, field, 0, false, place, err);
}

mr_status mr_json_get_int(int64_t *out, const cJSON *obj, const char *field, int64_t min, int64_t max,
                          const char *place, mr_err *err) {
    return int_field(out, obj, field, 0, false, min, max, place, err);
}

mr_status mr_json_opt_string(const char **out, const cJSON *obj, const char *field, const char *def, const char *place,
                             mr_err *err) {
    return string_field(out, obj, field, def, true, place, err);
}

mr_status mr_json_opt_number(double *out, const cJSON *obj, const char *field, double def, const char *place,
                             mr_err *err) {
    return number_field(out, obj, field, def, true, place, err);
}

mr_status mr_json_opt_int(int64_t *out, const cJSON *obj, const char *field, int64_t def, int64_t min, int64_t max,
                          const char *place, mr_err *err) {
    return int_field(out, obj, field, def, true, min, max, place, err);
}

mr_status mr_json_opt_bool(bool *out, const cJSON *obj, const char *field, bool def, const char *place, mr_err *err) {
    const cJSON *item;
    MR_TRY(find(&item, obj, field, true, place, err));
    if (item && !cJSON_IsBool(item)) return wrong_type(item, field, "a boolean", place, err);
    *out = item ? cJSON_IsTrue(item) : def;
    return MR_OK;
}

/* ---- writing ---- */

void mr_json_put_string(mr_str *s, const char *text, size_t len) {
    const unsigned char *p = (const unsigned char *)text;
    mr_str_add(s, "\"", 1);
    for (size_t i = 0; i < len;) {
        size_t run = i; /* bytes that stand for themselves are copied together */
        while (run < len && p[run] >= 0x20 && p[run] < 0x7f && p[run] != '"' && p[run] != '\\') run++;
        if (run > i) mr_str_add(s, p + i, run - i);
        if ((i = run) >= len) break;
        static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
        const char *simple = p[i] ? strchr(from, p[i]) : NULL;
        size_t n = utf8_len(p + i, len - i);
        if (simple)
            mr_str_printf(s, "\\%c", to[simple - from]);
        else if (p[i] < 0x20 || p[i] == 0x7f)
            mr_str_printf(s, "\\u%04x", (unsigned)p[i]);
        else if (n == 0)
            mr_str_puts(s, "\xef\xbf\xbd");
        else
            mr_str_add(s, p + i, n);
        i += n ? n : 1;
    }
    mr_str_add(s, "\"", 1);
}

void mr_json_put_number(mr_str *s, double x) {
    if (!isfinite(x)) {
        mr_str_puts(s, "null");
        return;
    }
    if (x == floor(x) && fabs(x) <= 0x1p53) {
        mr_str_printf(s, "%.0f", x);
        return;
    }
    char text[64];
    /* a subnormal has fewer than 15 sure digits, so its short form is searched */
    int digits = fabs(x) < 0x1p-1022 ? 1 : 15;
    do snprintf(text, sizeof text, "%.*g", digits, x);
    while (digits++ < 17 && strtod(text, NULL) != x); /* 17 are always enough */
    mr_str_puts(s, text);
}

void mr_json_put(mr_str *s, const cJSON *item) {
    if (!item) {
        mr_str_puts(s, "null");
        return;
    }
    switch (item->type & 0xff) {
    case cJSON_True: mr_str_puts(s, "true"); return;
    case cJSON_False: mr_str_puts(s, "false"); return;
    case cJSON_Number: mr_json_put_number(s, item->valuedouble); return;
    case cJSON_String: mr_json_put_string(s, item->valuestring, strlen(item->valuestring)); return;
    case cJSON_Array:
    case cJSON_Object: {
        bool object = cJSON_IsObject(item);
        mr_str_puts(s, object ? "{" : "[");
        for (const cJSON *c = item->child; c; c = c->next) {
            if (c != item->child) mr_str_puts(s, ", ");
            if (object) {
                mr_json_put_string(s, c->string, strlen(c->string));
                mr_str_puts(s, ": ");
            }
            mr_json_put(s, c);
        }
        mr_str_puts(s, object ? "}" : "]");
        return;
    }
    default: mr_str_puts(s, "null");
    }
}
