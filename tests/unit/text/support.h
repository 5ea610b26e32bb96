/* support.h - what the tests of this folder share: fixtures as JSON, temporary folders, small comparisons. */
#ifndef MR_TEXT_SUPPORT_H
#define MR_TEXT_SUPPORT_H

#include <dirent.h>
#include <stdlib.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "base/fsafe.h"
#include "text/chat.h"
#include "test.h"

/* A fixture. cJSON's own parser: some texts hold \u0000, which the strict reader refuses and utf8_hex has anyway. */
static inline cJSON *fixture(const char *path) {
    mr_err err;
    char *text;
    size_t len;
    REQUIRE_OK(mr_file_read(&text, &len, path, 64 << 20, &err), err);
    cJSON *root = cJSON_ParseWithLength(text, len);
    mr_free(text);
    REQUIRE(root != NULL);
    return root;
}

static inline const cJSON *field(const cJSON *obj, const char *key) {
    return cJSON_GetObjectItemCaseSensitive(obj, key);
}

static inline const char *string(const cJSON *obj, const char *key) {
    const cJSON *item = field(obj, key);
    REQUIRE(cJSON_IsString(item));
    return item->valuestring;
}

/* The bytes of a hexadecimal string; free with mr_free. */
static inline char *unhex(const char *hex, size_t *len) {
    *len = strlen(hex) / 2;
    char *out = mr_alloc(*len + 1);
    for (size_t i = 0; i < *len; i++) {
        char two[3] = { hex[2 * i], hex[2 * i + 1], 0 };
        out[i] = (char)strtoul(two, NULL, 16);
    }
    return out;
}

/* A folder under /tmp; the path is valid until the next call. */
static inline const char *temp_dir(void) {
    static char path[64];
    snprintf(path, sizeof path, "/tmp/medrl_text_XXXXXX");
    REQUIRE(mkdtemp(path) != NULL);
    return path;
}

static inline void put_file(const char *dir, const char *name, const char *text) {
    mr_err err;
    char *path = mr_path_join(dir, name);
    REQUIRE_OK(mr_file_write(path, text, strlen(text), &err), err);
    mr_free(path);
}

static inline void remove_dir(const char *dir) {
    mr_err err;
    REQUIRE_OK(mr_remove_tree(dir, &err), err);
}

/* Whether ids equal a JSON array; says which text differs. */
static inline bool same_ids(const mr_ids *ids, const cJSON *want, const char *text) {
    bool same = ids->n == cJSON_GetArraySize(want);
    const cJSON *item = want->child;
    for (int i = 0; same && i < ids->n; i++, item = item->next) same = ids->data[i] == (int)item->valuedouble;
    if (!same) {
        fprintf(stderr, "ids of \"%s\":\n  got ", text);
        for (int i = 0; i < ids->n; i++) fprintf(stderr, " %d", ids->data[i]);
        char *printed = cJSON_PrintUnformatted(want);
        fprintf(stderr, "\n  want %s\n", printed);
        cJSON_free(printed);
    }
    return same;
}

#endif
