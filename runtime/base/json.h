/* json.h - strict JSON over cJSON.
 *
 * cJSON alone accepts duplicate keys, trailing bytes, bad UTF-8, raw control characters, "01", 1e999 and cuts strings
 * at \u0000. mr_json_parse scans the text first and refuses all of these (RFC 8259, section 2 to 8; depth 64) with the
 * byte where it happens; the tree is then cJSON's own and is used with cJSON's functions. Integers that a double would
 * round (above 2^53, most of them) are refused.
 * Ownership: trees are owned by the caller, free with cJSON_Delete. */
#ifndef MR_JSON_H
#define MR_JSON_H

#include <cjson/cJSON.h>

#include "base/memory.h"

/* place: what the message begins with, "data/x.jsonl:12", say. text need not be NUL-terminated. MR_EDATA on bad
 * text. */
mr_status mr_json_parse(cJSON **out, const char *text, size_t len, const char *place, mr_err *err);
/* The scan alone, for readers that build something else than a tree: after MR_OK the text is JSON by these rules. */
mr_status mr_json_check(const char *text, size_t len, const char *place, mr_err *err);
mr_status mr_json_load(cJSON **out, const char *path, size_t max_bytes, mr_err *err); /* a whole file */

/* Fields of an object. A missing field is an error in the _get_ forms and the default in the _opt_ forms; a field of
 * another type is an error in both: `PLACE: field "KEY" is a string, want a number`. Strings are borrowed until the
 * tree dies. */
mr_status mr_json_get_string(const char **out, const cJSON *obj, const char *key, const char *place, mr_err *err);
mr_status mr_json_get_number(double *out, const cJSON *obj, const char *key, const char *place, mr_err *err);
mr_status mr_json_get_int(int64_t *out, const cJSON *obj, const char *key, int64_t min, int64_t max, const char *place,
                          mr_err *err);
mr_status mr_json_opt_string(const char **out, const cJSON *obj, const char *key, const char *def, const char *place,
                             mr_err *err);
mr_status mr_json_opt_number(double *out, const cJSON *obj, const char *key, double def, const char *place,
                             mr_err *err);
mr_status mr_json_opt_int(int64_t *out, const cJSON *obj, const char *key, int64_t def, int64_t min, int64_t max,
                          const char *place, mr_err *err);
mr_status mr_json_opt_bool(bool *out, const cJSON *obj, const char *key, bool def, const char *place, mr_err *err);
/* The same values, whatever the order of keys; numbers to the bit. Neither may have a key twice (mr_json_check); NULL equals
 * nothing. cJSON_Compare looks at every object twice, which is twice as often a level: 2^30 times in a nest of 60. */
bool mr_json_equal(const cJSON *a, const cJSON *b);
const char *mr_json_type_name(const cJSON *item); /* "a string", "a number", "an object", ... "missing" for NULL */

/* Appends text to s. A string is quoted and escaped (bad UTF-8 becomes U+FFFD); a number has the shortest form that
 * reads back to the same double, integers have no point; NaN and infinities become null (spec/formats.md, 7.3). */
void mr_json_put_string(mr_str *s, const char *text, size_t len);
void mr_json_put_number(mr_str *s, double x);
void mr_json_put(mr_str *s, const cJSON *item); /* a tree, on one line, keys in their order; NULL and what is no JSON: null */

#endif
