/* test_parquet.c - Parquet files against what pyarrow reads of them (tests/golden/parquet), kinds of columns that are
 * refused, limits, and files that are cut at every length. Skipped by a program that was built without carquet. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "files/parquet.h"
#include "test.h"

typedef struct taken {
    cJSON *rows;
    int64_t stop_at; /* rows after which the reading is to end; 0: none */
} taken;

static mr_status take(void *self, const char *json, size_t len, mr_err *err) {
    taken *t = self;
    cJSON *row;
    MR_TRY(mr_json_parse(&row, json, len, "row", err));
    cJSON_AddItemToArray(t->rows, row);
    return t->stop_at && cJSON_GetArraySize(t->rows) >= t->stop_at ? mr_fail(err, MR_EIO, "stopped") : MR_OK;
}

static mr_status read_path(const char *path, const char *name, size_t memory, taken *t, int64_t *n, mr_err *err) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    REQUIRE(fd >= 0);
    t->rows = cJSON_CreateArray();
    const mr_status st = mr_parquet_read(fd, name, memory, take, t, n, err);
    CHECK_INT(close(fd), 0); /* it was left open */
    return st;
}

static mr_status read_golden(const char *name, size_t memory, taken *t, int64_t *n, mr_err *err) {
    char path[512], file[64];
    snprintf(path, sizeof path, GOLDEN("parquet/%s.parquet"), name);
    snprintf(file, sizeof file, "%s.parquet", name);
    return read_path(path, file, memory, t, n, err);
}

static void compare(const char *name, const cJSON *want) {
    taken t = { 0 };
    mr_err err = { "" };
    int64_t n = -1;
    if (read_golden(name, 0, &t, &n, &err) != MR_OK) fprintf(stderr, "%s\n", err.msg);
    CHECK_INT(n, cJSON_GetArraySize(want));
    CHECK_INT(cJSON_GetArraySize(t.rows), n);
    for (int i = 0; i < n; i++) {
        const bool same = mr_json_equal(cJSON_GetArrayItem(t.rows, i), cJSON_GetArrayItem(want, i));
        if (!same) {
            char *got = cJSON_PrintUnformatted(cJSON_GetArrayItem(t.rows, i));
            fprintf(stderr, "%s row %d: %s\n", name, i, got);
            cJSON_free(got);
        }
        CHECK(same);
    }
    cJSON_Delete(t.rows);
}

static void equal_to_pyarrow(void) {
    mr_err err = { "" };
    cJSON *all, *x;
    REQUIRE_OK(mr_json_load(&all, GOLDEN("parquet/rows.json"), 1 << 20, &err), err);
    CHECK_INT(cJSON_GetArraySize(all), 6);
    cJSON_ArrayForEach(x, all) compare(x->string, x);
    cJSON_Delete(all);
    REQUIRE_OK(mr_json_load(&all, GOLDEN("parquet/expected.json"), 1 << 20, &err), err);
    CHECK_INT(cJSON_GetArraySize(all), 4);
    cJSON_ArrayForEach(x, all) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)(strlen(x->string) - 8), x->string);
        compare(name, cJSON_GetObjectItem(x, "rows"));
    }
    cJSON_Delete(all);
}

static void what_is_refused(void) {
    static const char *const cases[][2] = {
        { "odd_decimal",
          "odd_decimal.parquet: column \"a.it\" is a DECIMAL; medrl reads text, numbers, booleans, dates" },
        { "odd_binary", "odd_binary.parquet: column \"a.it\" is binary (bytes without a character set)" },
        { "odd_fixed", "odd_fixed.parquet: column \"a.it\" is binary of a fixed size" },
        { "odd_map", "odd_map.parquet: column \"a.it\" is a map" },
        { "odd_int96", "odd_int96.parquet: column \"q\" is an INT96" },
        { "odd_twice", "odd_twice.parquet: column \"q\" occurs twice; rename one" },
        { "odd_latin1", "odd_latin1.parquet:2: column \"q\": is no UTF-8; mend it" },
        { "odd_brotli", "odd_brotli.parquet: is compressed with brotli or lzo, want snappy, zstd, gzip or lz4" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        taken t = { 0 };
        mr_err err = { "" };
        int64_t n;
        CHECK_INT(read_golden(cases[i][0], 0, &t, &n, &err), MR_EDATA);
        CHECK_CONTAINS(err.msg, cases[i][1]);
        CHECK_INT(n, strcmp(cases[i][0], "odd_latin1") == 0); /* the rows before */
        cJSON_Delete(t.rows);
    }
    compare("odd_empty", NULL);
}

static void limits(void) {
    taken t = { 0 };
    mr_err err = { "" };
    CHECK_INT(read_golden("types", 20000, &t, NULL, &err), MR_EDATA); /* less than a row group takes */
    CHECK_CONTAINS(err.msg, "types.parquet: a row group");
    CHECK_CONTAINS(err.msg, "write the file with smaller row groups");
    cJSON_Delete(t.rows);
    t.stop_at = 3; /* the caller's own error comes back */
    int64_t n;
    CHECK_INT(read_golden("codec_gzip", 0, &t, &n, &err), MR_EIO);
    CHECK_STR(err.msg, "stopped");
    CHECK_INT(n, 2);
    cJSON_Delete(t.rows);
}

/* A file that is cut anywhere, or has one byte changed anywhere, is refused by name, or read. */
static void damaged_anywhere(void) {
    char *whole;
    size_t len;
    mr_err err = { "" };
    REQUIRE_OK(mr_file_read(&whole, &len, GOLDEN("parquet/codec_snappy_checksums.parquet"), 1 << 20, &err), err);
    char path[] = "/tmp/medrl-parquet-XXXXXX";
    const int fd = mkstemp(path);
    REQUIRE(fd >= 0);
    int refused = 0;
    for (size_t n = 0; n < len; n += 7) {
        REQUIRE(ftruncate(fd, 0) == 0 && pwrite(fd, whole, n, 0) == (ssize_t)n);
        taken t = { 0 };
        CHECK_INT(read_path(path, "cut.parquet", 0, &t, NULL, &err), MR_EDATA);
        CHECK_CONTAINS(err.msg, "cut.parquet: ");
        cJSON_Delete(t.rows);
    }
    for (size_t at = 0; at < len; at += 3) {
        whole[at] ^= 0x55;
        REQUIRE(pwrite(fd, whole, len, 0) == (ssize_t)len);
        whole[at] ^= 0x55;
        taken t = { 0 };
        refused += read_path(path, "bad.parquet", 0, &t, NULL, &err) != MR_OK;
        cJSON_Delete(t.rows);
    }
    CHECK(refused > (int)len / 3 / 2); /* the pages have checksums */
    close(fd);
    unlink(path);
    mr_free(whole);
}

static void without_it(void) {
    mr_err err = { "" };
    if (mr_parquet_version()) return;
    CHECK_INT(mr_parquet_read(-1, "x.parquet", 0, take, NULL, NULL, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "x.parquet: this medrl was built without Parquet; ./bootstrap builds it in");
}

#define IF_BUILT(name)                                                                                                 \
    static void name##_if_built(void) {                                                                                \
        if (mr_parquet_version())                                                                                      \
            name();                                                                                                    \
        else                                                                                                           \
            fprintf(stderr, "built without Parquet: not tested\n");                                                    \
    }
IF_BUILT(equal_to_pyarrow)
IF_BUILT(what_is_refused)
IF_BUILT(limits)
IF_BUILT(damaged_anywhere)

TEST_MAIN({ "equal_to_pyarrow", equal_to_pyarrow_if_built }, { "what_is_refused", what_is_refused_if_built },
          { "limits", limits_if_built }, { "damaged_anywhere", damaged_anywhere_if_built },
          { "without_it", without_it })
