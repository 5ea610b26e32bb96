/* test_rows.c - JSONL, JSON arrays and CSV with everything that exported files contain. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "files/rows.h"
#include "test.h"

static char folder[] = "/tmp/medrl_rows_XXXXXX";
static bool made;

/* The rows of a file as one JSON text, or the error without the folder. */
static const char *read_all(const char *name, const char *text, size_t len) {
    static char result[4096];
    if (!made) REQUIRE(mkdtemp(folder));
    made = true;
    char *path = mr_path_join(folder, name);
    FILE *f = fopen(path, "wb");
    REQUIRE(f);
    REQUIRE(fwrite(text, 1, len, f) == len);
    fclose(f);
    mr_rows *r = NULL;
    mr_err err = { "" };
    mr_str s = { 0 };
    mr_status st = mr_rows_open(&r, path, &err);
    for (int64_t i = 0; st == MR_OK && i < mr_rows_count(r); i++) {
        cJSON *row = NULL;
        st = mr_rows_get(r, i, &row, &err);
        CHECK((row != NULL) == (st == MR_OK));
        mr_str_printf(&s, "%s%d:", i ? " " : "", (int)mr_rows_line(r, i));
        char *printed = row ? cJSON_PrintUnformatted(row) : NULL;
        if (printed) mr_str_puts(&s, printed);
        cJSON_free(printed);
        cJSON_Delete(row);
    }
    if (st != MR_OK) {
        CHECK(st == MR_EDATA || st == MR_EINVAL);
        CHECK(!strchr(err.msg, '\n'));
        const char *msg = strstr(err.msg, name);
        snprintf(result, sizeof result, "%s", msg ? msg : err.msg);
    } else {
        snprintf(result, sizeof result, "%s", s.len ? s.data : "");
    }
    mr_str_clear(&s);
    mr_rows_close(r);
    mr_free(path);
    return result;
}
#define READ(name, text) read_all(name, text, sizeof(text) - 1)

static void jsonl(void) {
    CHECK_STR(READ("a.jsonl", "{\"a\":1}\n{\"a\":2}\n"), "1:{\"a\":1} 2:{\"a\":2}");
    CHECK_STR(READ("a.jsonl", "{\"a\":1}\n{\"a\":2}"), "1:{\"a\":1} 2:{\"a\":2}");
    CHECK_STR(READ("a.ndjson", "\xef\xbb\xbf{\"a\":1}\r\n\r\n  \n\t{\"a\":\"\\n\"} \r\n\n"),
              "1:{\"a\":1} 4:{\"a\":\"\\n\"}");
    CHECK_STR(READ("a.jsonl", ""), "");
    CHECK_STR(READ("a.jsonl", "\xef\xbb\xbf"), "");
    CHECK_STR(READ("a.jsonl", "\n\n"), "");
    CHECK_CONTAINS(READ("a.jsonl", "{\"a\":1}\n\n[2]\n"), "a.jsonl:3: the row is an array, want an object");
    CHECK_CONTAINS(READ("a.jsonl", "{\"a\":1}\n{\"a\":\n"), "a.jsonl:2");
    CHECK_CONTAINS(READ("a.jsonl", "{\"a\":1} {\"a\":2}\n"), "a.jsonl:1");
    CHECK_CONTAINS(READ("a.jsonl", "{\"a\":1,\"a\":2}\n"), "a.jsonl:1");
    CHECK_CONTAINS(READ("a.jsonl", "{\"a\":\"\0\"}\n"), "a.jsonl:1");
    CHECK_CONTAINS(READ("a.jsonl", "{}\n{\"a\":\"\xff\"}\n"), "a.jsonl:2");
    CHECK_CONTAINS(READ("a.jsonl", "{\"a\":NaN}\n"), "a.jsonl:1");
}

static void json_array(void) {
    CHECK_STR(READ("a.json", " [\n {\"a\":[1,{\"b\":\"],}\"}]} ,\n{\"a\":\"\\\"\"}\n]\n"),
              "2:{\"a\":[1,{\"b\":\"],}\"}]} 3:{\"a\":\"\\\"\"}");
    CHECK_STR(READ("a.json", "[]"), "");
    CHECK_STR(READ("a.json", "{\"a\":1}\n{\"a\":2}\n"), "1:{\"a\":1} 2:{\"a\":2}");
    CHECK_CONTAINS(READ("a.json", "[{\"a\":1},]"), "nothing between two commas");
    CHECK_CONTAINS(READ("a.json", "[,{\"a\":1}]"), "nothing between two commas");
    CHECK_CONTAINS(READ("a.json", "\n[{\"a\":1},\n{\"a\":2}"), "a.json:2: the array that opens here is not closed");
    CHECK_CONTAINS(READ("a.json", "["), "is not closed");
    CHECK_CONTAINS(READ("a.json", "[{\"a\":\"\\"), "is not closed");
    CHECK_CONTAINS(READ("a.json", "[{\"a\":1}] x"), "text behind the array");
    CHECK_CONTAINS(READ("a.json", "[{\"a\":1}}]"), "a.json:1");
    CHECK_CONTAINS(READ("a.json", "[{\"a\":1},\n3]"), "a.json:2: the row is a number");
    CHECK_CONTAINS(READ("a.json", "[{\"a\":1} {\"a\":2}]"), "a.json:1");
}

static void csv(void) {
    CHECK_STR(READ("a.csv", "q,a\nx,1\ny,2\n"), "2:{\"q\":\"x\",\"a\":\"1\"} 3:{\"q\":\"y\",\"a\":\"2\"}");
    CHECK_STR(READ("a.csv", "\xef\xbb\xbfq,a\r\nx,\r\n\r\n,2"),
              "2:{\"q\":\"x\",\"a\":\"\"} 4:{\"q\":\"\",\"a\":\"2\"}");
    CHECK_STR(READ("a.csv", "q,a\n\"x, \"\"y\"\"\n\nz\",\"\"\n7\" pipe,b c\n"),
              "2:{\"q\":\"x, \\\"y\\\"\\n\\nz\",\"a\":\"\"} 5:{\"q\":\"7\\\" pipe\",\"a\":\"b c\"}");
    CHECK_STR(READ("a.csv", "q,a\n\"x\",\"y\"\r\n\"\"\"\",\"\"\"\"\"\""),
              "2:{\"q\":\"x\",\"a\":\"y\"} 3:{\"q\":\"\\\"\",\"a\":\"\\\"\\\"\"}");
    CHECK_STR(READ("a.csv", "\n\nq\n\nx\r"), "5:{\"q\":\"x\"}");
    CHECK_STR(READ("a.csv", "q,a"), "");
    CHECK_STR(READ("a.tsv", "q\ta\nx, y\t1\n"), "2:{\"q\":\"x, y\",\"a\":\"1\"}");
    CHECK_STR(READ("a.csv", "q,a\nx\ry,1\n"), "2:{\"q\":\"x\\ry\",\"a\":\"1\"}");
    CHECK_CONTAINS(READ("a.csv", "q,a\nx,1\n\"y\nz\n,2\nw,3\n"),
                   "a.csv:3: the quote that opens in this line is never closed");
    CHECK_CONTAINS(READ("a.csv", "q,\"a\n\n"), "a.csv:1: the quote");
    CHECK_CONTAINS(READ("a.csv", "q,a\nx,\"1\"2\n"), "a.csv:2: text behind the closing quote");
    CHECK_CONTAINS(READ("a.csv", "q,a\nx,1\n\"a\nb\",2\nz,1,2\n"), "a.csv:5: 3 fields, want 2");
    CHECK_CONTAINS(READ("a.csv", "q,a\nx\n"), "a.csv:2: 1 fields, want 2");
    CHECK_CONTAINS(READ("a.csv", "q,a,q\nx\n"), "a.csv:1: column \"q\" occurs twice");
    CHECK_CONTAINS(READ("a.csv", "q;a\nx;1\n"), "separated by semicolons");
    CHECK_CONTAINS(READ("a.csv", ""), "a.csv:1: the file is empty");
    CHECK_CONTAINS(READ("a.csv", "\n\r\n"), "the file is empty");
    CHECK_CONTAINS(READ("a.csv", "q,a\nx,\"1\n\xff\"\n"), "a.csv:3: column \"a\": byte 0xff is no UTF-8");
    CHECK_CONTAINS(READ("a.csv", "q,a\nx,1\0\n"), "byte 0x00 is a NUL");
    CHECK_CONTAINS(READ("a.csv", "q,a\n\xed\xa0\x80,1\n"), "no UTF-8"); /* a surrogate */
    CHECK_CONTAINS(READ("a.csv", "q,a\n\xc0\x80,1\n"), "no UTF-8");     /* overlong */
    CHECK_CONTAINS(READ("a.csv", "q,a\n1,\xe2\x82"), "no UTF-8");       /* cut */
    CHECK_STR(READ("a.csv", "q\n\xf0\x9f\x98\x80\xe2\x82\xac\n"), "2:{\"q\":\"\xf0\x9f\x98\x80\xe2\x82\xac\"}");
}

static void foreign_files(void) {
    CHECK_CONTAINS(READ("a.jsonl", "\x1f\x8b\x08\x00"), "compressed with gzip");
    CHECK_CONTAINS(READ("a.csv", "PAR1xxxxPAR1"), "is Parquet");
    CHECK_CONTAINS(READ("a.csv", "\xff\xfeq\0"), "UTF-16");
    CHECK_CONTAINS(READ("a.txt", "x"), "unknown kind of data");
    CHECK_CONTAINS(READ(".csv2", "x"), "unknown kind of data");
    mr_rows *r = NULL;
    mr_err err = { "" };
    CHECK_INT(mr_rows_open(&r, "/nowhere/x.csv", &err), MR_ENOTFOUND);
    CHECK(r == NULL);
    CHECK_INT(mr_rows_open(&r, "/tmp", &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, "is a folder");
}

static void limits(void) {
    const size_t len = (16 << 20) + 100;
    char *big = malloc(len);
    memset(big, 'x', len);
    memcpy(big, "{}\n{\"a\":\"", 9);
    memcpy(big + len - 3, "\"}\n", 3);
    CHECK_CONTAINS(read_all("a.jsonl", big, len), "a.jsonl:2: the row has 16777312 bytes, at most 16777216");
    free(big);
}

static void descriptors(void) {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    const char text[] = "a,b\n1,2\n";
    REQUIRE(write(ends[1], text, 8) == 8);
    close(ends[1]);
    mr_rows *r = NULL;
    mr_err err = { "" };
    REQUIRE_OK(mr_rows_open_fd(&r, ends[0], "pipe.csv", &err), err);
    CHECK_INT(close(ends[0]), 0); /* it was left open */
    CHECK_INT(mr_rows_count(r), 1);
    cJSON *row = NULL;
    CHECK_INT(mr_rows_get(r, 1, &row, &err), MR_EINVAL);
    CHECK_INT(mr_rows_get(r, -1, &row, &err), MR_EINVAL);
    REQUIRE_OK(mr_rows_get(r, 0, &row, &err), err);
    CHECK_STR(cJSON_GetObjectItem(row, "b")->valuestring, "2");
    cJSON_Delete(row);
    CHECK_INT(mr_rows_line(r, 0), 2);
    CHECK_INT(mr_rows_line(r, 1), 0);
    mr_rows_close(r);
    mr_rows_close(NULL);
}

/* Every prefix of a file that uses all of CSV: a verdict, never a crash. */
static void cut_anywhere(void) {
    const char whole[] = "\xef\xbb\xbfq,\"a\"\r\n\"x \"\"y\"\"\n\",1\r\n\r\n\xe2\x82\xac,\"\"\n";
    const char array[] = "[{\"a\":\"\\\"\\u00e9\"},\r\n {\"b\":[{}]}]";
    for (size_t n = 0; n <= sizeof whole - 1; n++) CHECK(read_all("cut.csv", whole, n) != NULL);
    for (size_t n = 0; n < sizeof array - 1; n++)
        if (n > 0) CHECK_CONTAINS(read_all("cut.json", array, n), "cut.json:");
    CHECK_STR(READ("cut.json", "[{\"a\":\"\\\"\\u00e9\"},\r\n {\"b\":[{}]}]"),
              "1:{\"a\":\"\\\"\xc3\xa9\"} 2:{\"b\":[{}]}");
}

static void clean_up(void) {
    mr_err err = { "" };
    if (made) CHECK_INT(mr_remove_tree(folder, &err), MR_OK);
}

TEST_MAIN({ "jsonl", jsonl }, { "json_array", json_array }, { "csv", csv }, { "foreign_files", foreign_files },
          { "limits", limits }, { "descriptors", descriptors }, { "cut_anywhere", cut_anywhere },
          { "clean_up", clean_up })
