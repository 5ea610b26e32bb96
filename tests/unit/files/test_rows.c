/* test_rows.c - JSONL, JSON arrays and CSV with everything that exported files contain. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "files/rows.h"
#include "calls.h"
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

static void columns(void) {
    for (int n = 4096; n <= 4097; n++) { /* as many as may be, and one more: in the header, and in a row */
        mr_str s = { 0 };
        for (int i = 0; i < n; i++) mr_str_printf(&s, "%sc%d", i ? "," : "", i);
        CHECK_STR(read_all("wide.csv", s.data, s.len), n == 4096 ? "" : "wide.csv:1: more than 4096 fields; is this CSV?");
        mr_str_clear(&s);
        mr_str_puts(&s, "q\n");
        for (int i = 1; i < n; i++) mr_str_puts(&s, ",");
        CHECK_CONTAINS(read_all("wide.csv", s.data, s.len), n == 4096 ? "wide.csv:2: 4096 fields, want 1" : "wide.csv:2: more than 4096 fields");
        mr_str_clear(&s);
    }
    CHECK_STR(READ("a.csv", "q,a\nx\r,\r\ry\r\n"), "2:{\"q\":\"x\\r\",\"a\":\"\\r\\ry\"}"); /* only before a line end it belongs to that */
    CHECK_STR(READ("a.csv", "q\n\rx\n"), "2:{\"q\":\"\\rx\"}");
    CHECK_CONTAINS(READ("a.csv", "q,a\n\"x\"\ry,1\n"), "a.csv:2: text behind the closing quote of a field, want \",\"");
    CHECK_CONTAINS(READ("a.tsv", "q\ta\n\"x\",y\t1\n"), "a.tsv:2: text behind the closing quote of a field, want \"\\t\"");
    CHECK_STR(READ("a.tsv", "q;a\nx;1\n"), "2:{\"q;a\":\"x;1\"}");
    CHECK_STR(READ("a.csv", "q;a,b\nx,1\n"), "2:{\"q;a\":\"x\",\"b\":\"1\"}");
    CHECK_STR(READ("a.json", ""), "");
    CHECK_STR(READ("a.json", " \n "), "");
    CHECK_STR(READ("a.csv.gz", "q\nx\n"), "2:{\"q\":\"x\"}"); /* unpacked already: its name is that of what it was */
    CHECK_STR(READ("a.jsonl.zst", "{\"a\":1}"), "1:{\"a\":1}");
    CHECK_CONTAINS(READ("a.jsonl.gz", "\x1f\x8b\x08\x00"), "a.jsonl.gz:1: is gzip inside, want text; unpack it first");
}

static void foreign_files(void) {
    CHECK_CONTAINS(READ("a.jsonl", "\x1f\x8b\x08\x00"), "a.jsonl:1: is gzip, want text; unpack it first");
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
    CHECK_INT(mr_rows_line(r, -1), 0);
    mr_rows_close(r);
    mr_rows_close(NULL);
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC); /* neither a file nor a pipe, of no bytes */
    CHECK_INT(mr_rows_open_fd(&r, fd, ".csv", &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, ".csv: unknown kind of data"); /* an ending alone is no name */
    REQUIRE_OK(mr_rows_open_fd(&r, fd, "x.jsonl", &err), err);
    CHECK_INT(mr_rows_count(r), 0);
    mr_rows_close(r);
    close(fd);
    CHECK_STR(READ("few.jsonl", "{}\n"), "1:{}");
    char *path = mr_path_join(folder, "few.jsonl");
    fd = open(path, O_RDONLY | O_CLOEXEC);
    struct rlimit old;
    REQUIRE(fd >= 0 && getrlimit(RLIMIT_NOFILE, &old) == 0);
    REQUIRE(setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 1, old.rlim_max }) == 0); /* none for its own */
    CHECK_INT(mr_rows_open_fd(&r, fd, path, &err), MR_EIO);
    setrlimit(RLIMIT_NOFILE, &old);
    CHECK(r == NULL);
    CHECK_CONTAINS(err.msg, "few.jsonl: Too many open files");
    close(fd);
    mr_free(path);
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

/* ---- files that are longer than the window ---- */

enum { MANY = 3000, GIANT = 1234 }; /* row GIANT is one of 10 MB */

static size_t padding(int i) {
    return i == GIANT ? 10u << 20 : (size_t)(i * 37 % 2900);
}

/* Row i holds its number and so many letters, with what a scanner has to look at: brackets, quotes, escapes and, in
 * CSV, newlines. Gives the line of each row. */
static void put_many(mr_str *s, const char *kind, int64_t *lines) {
    const bool csv = !strcmp(kind, "csv"), array = !strcmp(kind, "json");
    int64_t line = 1;
    if (csv) mr_str_puts(s, "i,text\r\n"), line++;
    if (array) mr_str_puts(s, "[\n"), line++;
    for (int i = 0; i < MANY; i++) {
        if (i % 7 == 3) mr_str_puts(s, i % 2 ? "\r\n" : "\n"), line++; /* blank lines are no rows */
        lines[i] = line;
        mr_str_puts(s, csv ? "" : "{\"i\":");
        mr_str_printf(s, csv ? "%d,\"" : "%d,\"text\":\"", i);
        mr_str_puts(s, csv ? "}\"\"],\n" : "}\\\"],\\\\");
        line += csv;
        char *x = malloc(padding(i) + 1);
        memset(x, 'x', padding(i));
        mr_str_add(s, x, padding(i));
        free(x);
        mr_str_puts(s, csv ? "\"\"\"" : "\\\"\"}");
        if (array && i + 1 < MANY) mr_str_puts(s, ",");
        mr_str_puts(s, i % 3 ? "\n" : "\r\n");
        line++;
    }
    if (array) mr_str_puts(s, "]");
}

static void check_many(mr_rows *r, const char *kind, int i, const int64_t *lines) {
    mr_err err = { "" };
    cJSON *row = NULL;
    REQUIRE_OK(mr_rows_get(r, i, &row, &err), err);
    const cJSON *number = cJSON_GetObjectItem(row, "i"), *text = cJSON_GetObjectItem(row, "text");
    REQUIRE(number && text);
    CHECK_INT(cJSON_IsNumber(number) ? number->valueint : atoi(number->valuestring), i);
    const char *start = !strcmp(kind, "csv") ? "}\"],\n" : "}\"],\\";
    const size_t len = strlen(text->valuestring);
    CHECK_INT(len, padding(i) + 6);
    CHECK(!strncmp(text->valuestring, start, 5) && text->valuestring[len - 1] == '"');
    CHECK_INT(strspn(text->valuestring + 5, "x"), padding(i));
    CHECK_INT(mr_rows_line(r, i), lines[i]);
    cJSON_Delete(row);
}

static void rows_beyond_the_window(void) {
    static const char *const kinds[] = { "jsonl", "json", "csv" };
    static int64_t lines[MANY];
    for (size_t k = 0; k < 3; k++) {
        mr_str s = { 0 };
        mr_err err = { "" };
        put_many(&s, kinds[k], lines);
        char *path = mr_asprintf("%s/many.%s", folder, kinds[k]);
        REQUIRE_OK(mr_file_write(path, s.data, s.len, &err), err);
        mr_rows *r;
        REQUIRE_OK(mr_rows_open(&r, path, &err), err);
        CHECK_INT(mr_rows_count(r), MANY);
        for (int i = 0; i < MANY; i++) check_many(r, kinds[k], i, lines);
        for (int i = MANY - 1; i >= 0; i -= 3) check_many(r, kinds[k], i, lines);
        for (int i = 0; i < 500; i++) check_many(r, kinds[k], i * 1009 % MANY, lines);
        const char *text;
        size_t len;
        REQUIRE_OK(mr_rows_text(r, 5, &text, &len, &err), err);
        if (k == 2)
            CHECK(!text && len == 0);
        else
            CHECK(len == padding(5) + strlen("{'i':5,'text':'}_'],__") + strlen("_''}") && text[0] == '{' &&
                  text[len - 1] == '}');
        CHECK_INT(mr_rows_text(r, MANY, &text, &len, &err), MR_EINVAL);
        mr_rows_close(r);
        mr_free(path);
        mr_str_clear(&s);
    }
}

/* What is too long to be a row, in each format, and a quote that nothing closes. */
static void rows_without_end(void) {
    const size_t len = 34u << 20;
    char *big = malloc(len);
    memset(big, 'x', len);
    memcpy(big, "{}\n{\"a\":\"", 9);
    CHECK_CONTAINS(read_all("a.jsonl", big, len), "a.jsonl:2: the row has 35651581 bytes, at most 16777216");
    memcpy(big, "[{},{\"a\":", 9);
    CHECK_CONTAINS(read_all("a.json", big, len), "a.json:1: the row has more than 16777216 bytes");
    memcpy(big, "a,b\n1,2\n1,\"", 11);
    CHECK_CONTAINS(read_all("a.csv", big, len), "a.csv:3: the row has more than 16777216 bytes");
    memset(big, '\n', len);
    memcpy(big, "{\"a\":1}", 7);
    big[len - 1] = '7';
    CHECK_CONTAINS(read_all("a.jsonl", big, len), "a.jsonl:35651577: the row is a number");
    memcpy(big, "q\n\"x\n\"\n", 7);
    CHECK_STR(read_all("a.csv", big, len), "2:{\"q\":\"x\\n\"} 35651580:{\"q\":\"7\"}");
    free(big);
}

/* The end of a line that is longer than the largest window, and elements of as many bytes as a row may have and of one more. */
static void rows_of_any_length(void) {
    const size_t len = 34u << 20;
    char *big = malloc(len);
    memset(big, 'x', len);
    memcpy(big, "{}\n{\"a\":\"", 9);
    big[len - 1000] = '\n';
    CHECK_CONTAINS(read_all("a.jsonl", big, len), "a.jsonl:2: the row has 35650581 bytes, at most 16777216");
    char *path = mr_path_join(folder, "a.jsonl");
    static const int codes[] = { EIO, CALL_END };
    for (int i = 0; i < 2; i++) { /* while its end is looked for: seven reads fill windows of 1, 2 ... 32 MiB before */
        mr_rows *r = NULL;
        mr_err err = { "" };
        call_fails("pread", 8, codes[i]);
        CHECK_INT(mr_rows_open(&r, path, &err), i ? MR_EDATA : MR_EIO);
        CHECK(calls_settled() && r == NULL);
        CHECK_CONTAINS(err.msg, i ? "a.jsonl:2: the row has" : "a.jsonl: Input/output error");
    }
    mr_free(path);
    big[len - 1000] = 'x';
    memcpy(big, "[\"xxxxxxx", 9);
    memcpy(big + (16 << 20), "\"]", 2);
    CHECK_CONTAINS(read_all("a.json", big, (16 << 20) + 2), "a.json:1: the row is a string"); /* the longest */
    memcpy(big + (16 << 20), "x\"]", 3);
    CHECK_CONTAINS(read_all("a.json", big, (16 << 20) + 3), "a.json:1: the row has 16777217 bytes, at most 16777216");
    free(big);
}

/* A file under way: rows that come later are not seen, rows that go are errors of their own. */
static void files_that_change(void) {
    mr_err err = { "" };
    char *path = mr_path_join(folder, "live.jsonl");
    mr_str s = { 0 };
    for (int i = 0; i < 2000; i++) mr_str_printf(&s, "{\"i\":%d,\"x\":\"%0999d\"}\n", i, 0);
    REQUIRE_OK(mr_file_write(path, s.data, s.len, &err), err);
    mr_rows *r;
    REQUIRE_OK(mr_rows_open(&r, path, &err), err);
    FILE *f = fopen(path, "a");
    REQUIRE(f && fputs("{\"i\":2000}\n{\"i\":", f) >= 0 && fclose(f) == 0);
    CHECK_INT(mr_rows_count(r), 2000);
    cJSON *row = NULL;
    REQUIRE_OK(mr_rows_get(r, 1999, &row, &err), err);
    CHECK_INT(cJSON_GetObjectItem(row, "i")->valueint, 1999);
    cJSON_Delete(row);
    REQUIRE(truncate(path, 500000) == 0);
    CHECK_INT(mr_rows_get(r, 1500, &row, &err), MR_EDATA);
    CHECK(row == NULL);
    CHECK_CONTAINS(err.msg, "live.jsonl:1501: the file has become shorter since it was opened");
    REQUIRE_OK(mr_rows_get(r, 100, &row, &err), err); /* what is left is there */
    cJSON_Delete(row);
    mr_rows_close(r);
    mr_str_clear(&s);
    mr_free(path);
}

/* A file of three windows and FEW rows, so that each of its reads can fail in turn. */
enum { FEW = 20 };
static char *put_few(const char *kind) {
    const bool csv = !strcmp(kind, "csv"), array = !strcmp(kind, "json");
    mr_err err = { "" };
    mr_str s = { 0 };
    mr_str_puts(&s, csv ? "x\n" : array ? "[" : "");
    for (int i = 0; i < FEW; i++) mr_str_printf(&s, "%s%0*d%s\n", csv ? "\"" : "{\"x\":\"", 120000, i, csv ? "\"" : !array ? "\"}" : i + 1 < FEW ? "\"}," : "\"}]");
    char *path = mr_asprintf("%s/few.%s", folder, kind);
    REQUIRE_OK(mr_file_write(path, s.data, s.len, &err), err);
    mr_str_clear(&s);
    return path;
}

/* Text with what may stand between rows, in places wider than the window. */
static char *put_gaps(const char *kind, int64_t lines[2]) {
    const bool csv = !strcmp(kind, "csv");
    const size_t wide = (1 << 20) + 4321;
    mr_err err = { "" };
    mr_str s = { 0 };
    char *gap = malloc(wide);
    memset(gap, csv ? '\n' : ' ', wide);
    gap[wide / 2] = '\n';
    const char *const parts[] = { csv ? "x\n" : "[", csv ? "\"one\"\n" : "{\"x\":\"one\"}", csv ? "two" : ",", csv ? "\n" : "{\"x\":\"two\"}]" };
    for (int i = 0; i < 4; i++) {
        if (!csv || i != 3) mr_str_add(&s, gap, wide);
        mr_str_puts(&s, parts[i]);
    }
    for (int i = 0; i < 3; i++) mr_str_add(&s, gap, wide); /* more than the window has become */
    lines[0] = csv ? 2 * (int64_t)wide + 2 : 3, lines[1] = csv ? 3 * (int64_t)wide + 3 : 5;
    char *path = mr_asprintf("%s/gaps.%s", folder, kind);
    REQUIRE_OK(mr_file_write(path, s.data, s.len, &err), err);
    mr_str_clear(&s);
    free(gap);
    return path;
}

static void gaps_beyond_the_window(void) {
    static const char *const kinds[] = { "json", "csv" };
    for (size_t k = 0; k < 2; k++) {
        int64_t lines[2];
        char *path = put_gaps(kinds[k], lines);
        for (int nth = 0;; nth++) { /* 0: none fails */
            mr_rows *r = NULL;
            mr_err err = { "" };
            if (nth) call_fails("pread", nth, EIO);
            mr_status st = mr_rows_open(&r, path, &err);
            const bool played = nth && calls_settled();
            CHECK_INT(st, played ? MR_EIO : MR_OK);
            CHECK((r != NULL) == (st == MR_OK));
            if (!nth && st == MR_OK) {
                CHECK_INT(mr_rows_count(r), 2);
                for (int i = 0; i < 2; i++) {
                    cJSON *row = NULL;
                    REQUIRE_OK(mr_rows_get(r, i, &row, &err), err);
                    CHECK_STR(cJSON_GetObjectItem(row, "x")->valuestring, i ? "two" : "one");
                    CHECK_INT(mr_rows_line(r, i), lines[i]);
                    cJSON_Delete(row);
                }
            }
            mr_rows_close(r);
            if (nth && !played) {
                CHECK(nth > 4);
                break;
            }
        }
        mr_free(path);
    }
}

/* Every read of a large file fails once, ends too early, or is interrupted: an error of its own or the rows, never some of them. */
static void reads_that_fail(void) {
    static const struct {
        const char *call;
        int code;
        mr_status want;
        const char *complaint;
    } cases[] = { { "pread", EIO, MR_EIO, "Input/output error" },
                  { "pread", CALL_END, MR_EDATA, "the file has become shorter since it was opened" },
                  { "pread", EINTR, MR_OK, NULL },
                  { "pread", CALL_HALF, MR_OK, NULL },
                  { "fstat", EIO, MR_EIO, "Input/output error" },
                  { "open", EMFILE, MR_EIO, "Too many open files" } };
    static const char *const kinds[] = { "jsonl", "json", "csv" };
    for (size_t k = 0; k < 3; k++) {
        char *path = put_few(kinds[k]);
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            int played = 0;
            for (;; played++) {
                mr_rows *r = NULL;
                mr_err err = { "" };
                call_fails(cases[i].call, played + 1, cases[i].code);
                mr_status st = mr_rows_open(&r, path, &err);
                const bool settled = calls_settled();
                const mr_status want = settled ? cases[i].want : MR_OK;
                if (st != want) fprintf(stderr, "%s: %s %d: %s\n", kinds[k], cases[i].call, played + 1, err.msg);
                CHECK_INT(st, want);
                CHECK((r != NULL) == (st == MR_OK));
                if (st == MR_OK) CHECK_INT(mr_rows_count(r), FEW);
                if (st != MR_OK) CHECK_CONTAINS(err.msg, cases[i].complaint);
                mr_rows_close(r);
                if (!settled) break;
            }
            CHECK(played >= (!strcmp(cases[i].call, "pread") ? 3 : 1));
        }
        mr_rows *r = NULL;
        mr_err err = { "" };
        cJSON *row = NULL;
        REQUIRE_OK(mr_rows_open(&r, path, &err), err);
        call_fails("pread", 1, EIO);
        CHECK_INT(mr_rows_get(r, 7, &row, &err), MR_EIO);
        CHECK(calls_settled() && row == NULL);
        REQUIRE_OK(mr_rows_get(r, 7, &row, &err), err); /* the disk is back */
        cJSON_Delete(row);
        const char *text;
        size_t len;
        if (k < 2) {
            call_fails("pread", 1, EIO);
            CHECK_INT(mr_rows_text(r, 12, &text, &len, &err), MR_EIO);
            CHECK(calls_settled() && !text && len == 0);
        }
        mr_rows_close(r);
        mr_free(path);
    }
}

/* The same of a pipe, whose bytes are held in memory. */
static void pipes_that_fail(void) {
    static const int codes[] = { EINTR, CALL_HALF, EIO };
    for (int i = 0; i < 3; i++) {
        int ends[2];
        mr_rows *r = NULL;
        mr_err err = { "" };
        REQUIRE(pipe(ends) == 0 && write(ends[1], "a,b\n1,2\n", 8) == 8);
        close(ends[1]);
        call_fails("read", 1, codes[i]);
        mr_status st = mr_rows_open_fd(&r, ends[0], "pipe.csv", &err);
        CHECK(calls_settled());
        CHECK_INT(st, codes[i] == EIO ? MR_EIO : MR_OK);
        if (st == MR_OK)
            CHECK_INT(mr_rows_count(r), 1);
        else
            CHECK_STR(err.msg, "pipe.csv: Input/output error");
        mr_rows_close(r);
        close(ends[0]);
    }
}

/* A pipe that never ends is refused before it has taken the machine's memory. */
static void pipes_without_end(void) {
#ifndef __SANITIZE_ADDRESS__ /* which touches all memory that it gives; else this is a GiB of addresses alone */
    int ends[2];
    mr_rows *r = NULL;
    mr_err err = { "" };
    REQUIRE(pipe(ends) == 0);
    call_fails("read", 1, CALL_CLAIM);
    CHECK_INT(mr_rows_open_fd(&r, ends[0], "pipe.csv", &err), MR_EDATA);
    CHECK(calls_settled());
    CHECK_STR(err.msg, "pipe.csv: a stream of more than 1073741824 bytes; save it as a file");
    CHECK(r == NULL);
    close(ends[0]), close(ends[1]);
#endif
}

/* One that is longer than what is asked for at first, and whose bytes come in pieces. */
static void long_pipes(void) {
    int ends[2], n = 200000;
    mr_rows *r = NULL;
    mr_err err = { "" };
    REQUIRE(pipe(ends) == 0);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        FILE *f = fdopen(ends[1], "w");
        for (int i = 0; i < n; i++) fprintf(f, "{\"n\":%d}\n", i);
        _exit(fclose(f) != 0);
    }
    close(ends[1]);
    REQUIRE_OK(mr_rows_open_fd(&r, ends[0], "pipe.jsonl", &err), err);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK_INT(mr_rows_count(r), n);
    for (int i = 0; i < n; i += 4999) {
        cJSON *row;
        REQUIRE_OK(mr_rows_get(r, i, &row, &err), err);
        CHECK_INT(cJSON_GetObjectItem(row, "n")->valueint, i);
        cJSON_Delete(row);
    }
    mr_rows_close(r);
    close(ends[0]);
}

static void no_memory(void) {
    char *path = mr_path_join(folder, "many.csv");
    for (long n = 1;; n++) {
        mr_rows *r;
        mr_err err = { "" };
        mr_try_alloc_fail_at(n);
        mr_status st = mr_rows_open(&r, path, &err);
        mr_try_alloc_fail_at(0);
        CHECK((r != NULL) == (st == MR_OK));
        if (st == MR_OK) {
            CHECK(n > 3);
            cJSON *row;
            mr_try_alloc_fail_at(1);
            CHECK_INT(mr_rows_get(r, 0, &row, &err), MR_ENOMEM);
            mr_try_alloc_fail_at(0);
            mr_rows_close(r);
            break;
        }
        CHECK_INT(st, MR_ENOMEM);
        CHECK_CONTAINS(err.msg, "no memory");
    }
    mr_free(path);
}

static long json_left; /* the allocation of cJSON's that fails; 0: none */
static void *json_malloc(size_t n) {
    return json_left > 0 && --json_left == 0 ? NULL : malloc(n);
}

static void no_memory_for_a_row(void) {
    mr_err err = { "" };
    mr_rows *r;
    CHECK_STR(READ("few.csv", "q,a\nx,1\n"), "2:{\"q\":\"x\",\"a\":\"1\"}");
    char *path = mr_path_join(folder, "few.csv");
    REQUIRE_OK(mr_rows_open(&r, path, &err), err);
    mr_status st = MR_ENOMEM;
    long n = 0;
    while (st == MR_ENOMEM && n < 20) {
        cJSON *row = NULL;
        cJSON_InitHooks(&(cJSON_Hooks){ json_malloc, free });
        json_left = ++n;
        st = mr_rows_get(r, 0, &row, &err);
        cJSON_InitHooks(NULL);
        CHECK((row != NULL) == (st == MR_OK));
        if (st != MR_OK) CHECK_CONTAINS(err.msg, "few.csv: no memory for a row");
        cJSON_Delete(row);
    }
    CHECK_INT(st, MR_OK);
    CHECK(n > 3);
    mr_rows_close(r);
    mr_free(path);
}

static void clean_up(void) {
    mr_err err = { "" };
    if (made) CHECK_INT(mr_remove_tree(folder, &err), MR_OK);
}

TEST_MAIN({ "jsonl", jsonl }, { "json_array", json_array }, { "csv", csv }, { "columns", columns }, { "foreign_files", foreign_files },
          { "limits", limits }, { "descriptors", descriptors }, { "cut_anywhere", cut_anywhere },
          { "rows_beyond_the_window", rows_beyond_the_window }, { "rows_without_end", rows_without_end },
          { "rows_of_any_length", rows_of_any_length },
          { "files_that_change", files_that_change }, { "gaps_beyond_the_window", gaps_beyond_the_window },
          { "reads_that_fail", reads_that_fail },
          { "pipes_that_fail", pipes_that_fail }, { "pipes_without_end", pipes_without_end }, { "long_pipes", long_pipes },
          { "no_memory", no_memory },
          { "no_memory_for_a_row", no_memory_for_a_row }, { "clean_up", clean_up })
