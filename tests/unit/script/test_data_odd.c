/* test_data_odd.c - files as people have them, through a data set module: each oddity is an error that names file and
 * line, or a row that is counted under its reason; and the rows that are kept are compared one by one. Then: what a row
 * is depends on the seed and its place, not on the process or on what was asked before. */
#include <fcntl.h>

#include "unit/script/script_test.h"

/* 30 plain rows; `odd` stands before row 11, in line 12, when it is not NULL. */
static void put_rows(const char *path, const char *odd, const char *end) {
    mr_str s = { 0 };
    for (int i = 0; i < 30; i++) {
        if (i == 11 && odd) mr_str_printf(&s, "%s%s", odd, end);
        mr_str_printf(&s, "{\"q\":\"q%d\",\"a\":\"a%d\"}%s", i, i % 3, end);
    }
    put_file(path, s.data);
    mr_str_clear(&s);
}

static void put_module(void) {
    put_file("datasets/odd.lua",
             "local M = { name = 'odd', columns = { { 'q', 'string' }, { 'a', 'string' } } }\n"
             "function M.keep(r) if r.q == 'kept not' then return false, 'the question says so' end return true end\n"
             "function M.row(r)\n"
             "  if r.a == '' then return nil, 'the answer is empty' end\n"
             "  if r.a == 'boom' then return r.no.such end\n"
             "  return { messages = { { role = 'user', content = r.q } }, answer = r.a, more = r.more }\n"
             "end\n"
             "return M\n");
    put_file("odd.lua", "local data = require 'medrl.data'\n"
                        "return { data = { system = '', train = data.get 'odd', files = { odd = 'x.jsonl' } } }\n");
}

static mr_pool *open_odd(const char *file) {
    static char set[128];
    const char *overrides[] = { set, NULL };
    snprintf(set, sizeof set, "data.files.odd=%s", file);
    mr_pool_opts o = { .n_workers = 1, .deadline_s = 5, .overrides = overrides };
    mr_pool *p;
    mr_err err = { "" };
    put_module();
    REQUIRE_OK(mr_pool_open(&p, "odd.lua", &o, &err), err);
    return p;
}

/* The questions that are kept, joined, cut to 20 bytes each; or the error. */
static const char *kept(mr_pool *p) {
    static mr_str s;
    mr_err err = { "" };
    mr_row_source src;
    s.len = 0;
    mr_str_puts(&s, "");
    if (mr_pool_rows(p, "train", &src, &err) != MR_OK) {
        mr_str_printf(&s, "error: %s", err.msg);
        return s.data;
    }
    for (int64_t i = 0; i < src.n_rows; i++) {
        mr_row row = { 0 };
        if (src.get(src.self, i, &row, &err) != MR_OK)
            mr_str_printf(&s, "%serror: %s", i ? " " : "", err.msg);
        else
            mr_str_printf(&s, "%s%.20s", i ? " " : "", row.messages[0].content);
        mr_row_clear(&row);
    }
    return s.data;
}

static const char *report_of(mr_pool *p) {
    static mr_str s;
    mr_err err = { "" };
    s.len = 0;
    REQUIRE_OK(mr_pool_data_report(p, "train", &s, &err), err);
    return s.data;
}

/* q0 .. q10, odd (when there is one), q11 .. q29 */
static const char *expected(const char *odd) {
    static mr_str s;
    s.len = 0;
    for (int i = 0; i < 30; i++) {
        if (i == 11 && odd) mr_str_printf(&s, " %s", odd);
        mr_str_printf(&s, "%sq%d", i ? " " : "", i);
    }
    return s.data;
}

/* file: what to open; wants: the odd row's question when it is kept; says: within the report, or within the error when
 * it begins with "error". */
static void check_file(const char *file, const char *odd, const char *says) {
    mr_pool *p = open_odd(file);
    const char *got = kept(p);
    if (!strncmp(says, "error", 5)) {
        CHECK_CONTAINS(got, says);
    } else {
        CHECK_STR(got, expected(odd));
        CHECK_CONTAINS(report_of(p), says);
    }
    mr_pool_close(p);
}

static void odd_rows(void) {
    static const struct {
        const char *line, *kept, *says;
    } cases[] = {
        { NULL, NULL, "odd: 30 of 30 rows from x.jsonl, 0 filtered, 0 skipped\n" },
        { "", NULL, "30 of 30 rows" },
        { " \t ", NULL, "30 of 30 rows" },
        { "{\"q\":\"odd\",\"a\":\"x\",\"more\":[1,{\"deep\":null}]}", "odd", "31 of 31 rows" },
        { "{\"q\":\"odd\"}", NULL,
          "30 of 31 rows from x.jsonl, 0 filtered, 1 skipped\n"
          "  1 skipped: field \"a\" is missing, want a string (first: x.jsonl:12)\n" },
        { "{\"q\":\"odd\",\"a\":null}", NULL, "field \"a\" is missing, want a string (first: x.jsonl:12)" },
        { "{\"q\":7,\"a\":\"x\"}", NULL, "field \"q\" is a number, want a string (first: x.jsonl:12)" },
        { "{\"q\":[\"odd\"],\"a\":\"x\"}", NULL, "field \"q\" is a table, want a string (first: x.jsonl:12)" },
        { "{\"q\":true,\"a\":\"x\"}", NULL, "field \"q\" is a boolean, want a string (first: x.jsonl:12)" },
        { "{\"q\":\"odd\",\"a\":\"\"}", NULL, "1 skipped: the answer is empty (first: x.jsonl:12)" },
        { "{\"q\":\"kept not\",\"a\":\"x\"}", NULL,
          "30 of 31 rows from x.jsonl, 1 filtered, 0 skipped\n"
          "  1 filtered: the question says so (first: x.jsonl:12)\n" },
        { "{\"q\":\"odd\",\"a\":\"x\",\"q\":\"odd\"}", NULL, "error: x.jsonl:12: byte 19: the key \"q\" stands twice" },
        { "{\"q\":\"odd\",\"a\":\"x\",\"\\u0071\":\"odd\"}", NULL, "error: x.jsonl:12: byte 19: the key \"q\" stands" },
        { "{\"q\":\"\\ud83d\\ude00\\u00e9\\n\",\"a\":\"x\"}", "\xf0\x9f\x98\x80\xc3\xa9\n", "31 of 31 rows" },
        { "{\"q\":\"\\ud83d odd\",\"a\":\"x\"}", NULL, "error: x.jsonl:12: byte 6: half of a surrogate pair alone" },
        { "{\"q\":\"\\ude00\",\"a\":\"x\"}", NULL, "error: x.jsonl:12: byte 6: half of a surrogate pair alone" },
        { "{\"q\":\"\\u0000\",\"a\":\"x\"}", NULL, "error: x.jsonl:12: byte 6: \\u0000" },
        { "{\"q\":\"o\xff\",\"a\":\"x\"}", NULL, "error: x.jsonl:12: byte 7: bytes that are not UTF-8" },
        { "{\"q\":\"o\xed\xa0\xbd\",\"a\":\"x\"}", NULL, "error: x.jsonl:12: byte 7: bytes that are not UTF-8" },
        { "{\"q\":\"o\x01\",\"a\":\"x\"}", NULL, "error: x.jsonl:12: byte 7: a raw control character" },
        { "{\"q\":\"odd\",\"a\":\"x\"", NULL, "error: x.jsonl:12: byte 0: an object that never ends" },
        { "{\"q\":\"odd\",\"a\":\"x\"} {}", NULL, "error: x.jsonl:12: byte 20: more text behind the value" },
        { "[1]", NULL, "error: x.jsonl:12: the row is an array, want an object" },
        { "\"x\"", NULL, "error: x.jsonl:12: the row is a string, want an object" },
        { "null", NULL, "error: x.jsonl:12: the row is null, want an object" },
        { "12", NULL, "error: x.jsonl:12: the row is a number, want an object" },
        { "nul", NULL, "error: x.jsonl:12: byte 0: no value that JSON knows" },
        { "{\"q\":\"odd\",\"a\":\"boom\"}", NULL,
          "error: x.jsonl:12: row() (datasets/odd.lua:3): datasets/odd.lua:5: attempt to index field 'no' (a nil" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (int crlf = 0; crlf < 2; crlf++) {
            put_rows("x.jsonl", cases[i].line, crlf ? "\r\n" : "\n");
            check_file("x.jsonl", cases[i].kept, cases[i].says);
        }
    }
}

static void put_bytes(const char *path, const char *bytes, size_t len) {
    mr_err err = { "" };
    REQUIRE_OK(mr_file_write(path, bytes, len, &err), err);
}

static void odd_files(void) {
    static const char nul[] = "{\"q\":\"o\0\",\"a\":\"x\"}\n";
    put_bytes("x.jsonl", nul, sizeof nul - 1);
    check_file("x.jsonl", NULL, "error: x.jsonl:1: byte 7: a raw control character");
    put_file("x.jsonl", "");
    check_file("x.jsonl", NULL, "error: odd.lua: data.train has no rows: odd: 0 of 0 rows from x.jsonl");
    put_file("x.jsonl", "\n\r\n\n");
    check_file("x.jsonl", NULL, "error: odd.lua: data.train has no rows: odd: 0 of 0 rows from x.jsonl");
    put_bytes("x.jsonl", "\x1f\x8b\x08\x00\x00", 5);
    check_file("x.jsonl", NULL,
               "error: data set \"odd\": x.jsonl: byte 5: the file ends in the middle of the stream (gzip, in line 1 of the text); "
               "fetch the file again");
    put_bytes("x.jsonl", "\xff\xfe{\0", 4);
    check_file("x.jsonl", NULL, "error: data set \"odd\": x.jsonl:1: the file is UTF-16; save it as UTF-8");

    /* a byte order mark; no newline at the end */
    char *text;
    size_t len;
    mr_err err = { "" };
    put_rows("x.jsonl", NULL, "\n");
    REQUIRE_OK(mr_file_read(&text, &len, "x.jsonl", 1 << 20, &err), err);
    char *marked = mr_asprintf("\xef\xbb\xbf%s", text);
    put_bytes("x.jsonl", marked, len + 3 - 1);
    check_file("x.jsonl", NULL, "30 of 30 rows");
    put_bytes("x.jsonl", marked, len + 3 - 5); /* cut within the last row */
    check_file("x.jsonl", NULL, "error: x.jsonl:30: byte ");
    mr_free(marked);
    mr_free(text);

    /* a line of 10 MB is a row as any other */
    mr_str big = { 0 };
    mr_str_puts(&big, "{\"q\":\"odd\",\"a\":\"x\",\"more\":\"");
    for (int i = 0; i < 10 << 10; i++) {
        char k[1024];
        memset(k, 'a' + i % 26, sizeof k);
        mr_str_add(&big, k, sizeof k);
    }
    mr_str_puts(&big, "\"}");
    put_rows("x.jsonl", big.data, "\n");
    check_file("x.jsonl", "odd", "31 of 31 rows");
    mr_str_clear(&big);

    /* CSV */
    put_file("x.csv", "q;a\nq0;a0\n");
    check_file("x.csv", NULL, "error: data set \"odd\": x.csv:1: the columns are separated by semicolons, want commas");
    put_file("x.csv", "q,q\nq0,a0\n");
    check_file("x.csv", NULL, "error: data set \"odd\": x.csv:1: column \"q\" occurs twice in the header");
    put_file("x.csv", "q,a\nq0,a0\nq1,a1,a2\n");
    check_file("x.csv", NULL, "error: data set \"odd\": x.csv:3: 3 fields, want 2 as in the header");
    put_file("x.csv", "question,a\nq0,a0\n");
    check_file("x.csv", NULL,
               "error: x.csv:2: field \"q\" is missing, want a string; 1 of 1 rows were skipped like this");
    put_file("x.csv", "\xef\xbb\xbfq,a,more\r\n\"q \"\"0\"\"\r\n,\",a0,\r\nq1,\"a1\",m");
    mr_pool *p = open_odd("x.csv");
    CHECK_STR(kept(p), "q \"0\"\r\n, q1");
    mr_pool_close(p);
}

static void rows_that_come_while_reading_are_not_seen(void) {
    put_rows("x.jsonl", NULL, "\n");
    mr_pool *p = open_odd("x.jsonl");
    CHECK_STR(kept(p), expected(NULL));
    FILE *f = fopen("x.jsonl", "a");
    REQUIRE(f && fputs("{\"q\":\"late\",\"a\":\"x\"}\n{\"q\":\"half", f) >= 0 && fclose(f) == 0);
    CHECK_STR(kept(p), expected(NULL));
    mr_pool_close(p);
}

/* More than one in twenty: this is another file. */
static void too_many_skipped(void) {
    mr_str s = { 0 };
    for (int i = 0; i < 40; i++) mr_str_printf(&s, "{\"q\":\"q%d\",\"a\":\"%s\"}\n", i, i % 13 == 5 ? "" : "x");
    put_file("x.jsonl", s.data);
    check_file("x.jsonl", NULL,
               "error: x.jsonl:6: the answer is empty; 3 of 40 rows were skipped like this, at most 5 % may be");
    mr_str_clear(&s);
}

/* ---- reasons ---- */

static void reasons_are_counted(void) {
    put_rows("x.jsonl", NULL, "\n");
    put_module();
    put_file("odd.lua", "local data = require 'medrl.data'\n"
                        "local set = data.get('odd'):filter(function(r)\n"
                        "  if r.answer == 'a1' then return false, 'one' end\n"
                        "  if r.answer == 'a2' then return nil, 'two\\nlines' end\n"
                        "  return r.messages[1].content ~= 'q0'\n"
                        "end)\n"
                        "return { data = { system = '', train = set:split({ test_size = 0.5, seed = 1 }).train,\n"
                        "  eval = set:filter(function() return false, 'all' end), files = { odd = 'x.jsonl' } } }\n");
    mr_pool_opts o = { .n_workers = 1, .deadline_s = 5 };
    mr_pool *p;
    mr_err err = { "" };
    REQUIRE_OK(mr_pool_open(&p, "odd.lua", &o, &err), err);
    CHECK_STR(report_of(p), "odd: 30 of 30 rows from x.jsonl, 0 filtered, 0 skipped\n"
                            "odd:filter(odd.lua:2) kept 9 of 30 rows\n"
                            "  10 filtered: one (first: x.jsonl:2)\n"
                            "  10 filtered: two lines (first: x.jsonl:3)\n"
                            "  1 filtered: the function said no (first: x.jsonl:1)\n");
    cJSON *counts;
    REQUIRE_OK(mr_pool_data_counts(p, "train", &counts, &err), err);
    mr_str json = { 0 };
    mr_json_put(&json, cJSON_GetArrayItem(counts, 1));
    CHECK_STR(json.data,
              "{\"filtered\": 21, \"from\": \"odd.lua:2\", \"kept\": 9, \"kind\": \"filter\", \"name\": "
              "\"odd:filter(odd.lua:2)\", \"reasons\": [{\"first\": \"x.jsonl:2\", \"reason\": \"one\", \"rows\": 10, "
              "\"what\": \"filtered\"}, {\"first\": \"x.jsonl:3\", \"reason\": \"two lines\", \"rows\": 10, \"what\": "
              "\"filtered\"}, {\"first\": \"x.jsonl:1\", \"reason\": \"the function said no\", \"rows\": 1, \"what\": "
              "\"filtered\"}], \"rows\": 30, \"skipped\": 0}");
    mr_str_clear(&json);
    cJSON_Delete(counts);
    mr_row_source src;
    CHECK_INT(mr_pool_rows(p, "eval", &src, &err), MR_EDATA); /* nothing is left: the reasons say why */
    CHECK_CONTAINS(err.msg, "odd.lua: data.eval has no rows: odd: 30 of 30 rows");
    CHECK_CONTAINS(err.msg, "kept 0 of 9 rows; 9 filtered: all (first: x.jsonl:4)");
    mr_pool_close(p);
}

/* The parts of a split share their source: it is opened once and told once. */
static void shared_sources_are_told_once(void) {
    put_rows("x.jsonl", NULL, "\n");
    put_module();
    put_file("odd.lua", "local data = require 'medrl.data'\n"
                        "local parts = data.get('odd'):split { test_size = 0.5, seed = 1 }\n"
                        "return { data = { system = '', train = data.concatenate { parts.train, parts.test },\n"
                        "  eval = parts.test, files = { odd = 'x.jsonl' } } }\n");
    mr_pool *p = open_pool("odd.lua", 1, 5);
    mr_str eval = { 0 };
    mr_err err = { "" };
    CHECK_STR(report_of(p), "odd: 30 of 30 rows from x.jsonl, 0 filtered, 0 skipped\n");
    REQUIRE(unlink("x.jsonl") == 0); /* the second split needs no second look */
    REQUIRE_OK(mr_pool_data_report(p, "eval", &eval, &err), err);
    CHECK_STR(eval.data, "odd: 30 of 30 rows from x.jsonl, 0 filtered, 0 skipped\n");
    mr_str_clear(&eval);
    mr_pool_close(p);
}

static void survey_of_rows(void) {
    put_file("survey.lua",
             "local data = require 'medrl.data'\n"
             "local function row(q, a, source) return { messages = { { role = 'user', content = q },\n"
             "  { role = 'assistant', content = 'never looked at' } }, answer = a, source = source } end\n"
             "local rows = { row('What  is\\n it?', 'yes', 's'), row(' What is it? ', 'yes', 's'),\n"
             "  row('What is it', 'no', 's'), row('boom', 'x', 't'), row('What is\\194\\160it?', nil, 't'),\n"
             "  row('Z', { 1 }, 't') }\n"
             "return { data = { system = 'sys', train = data.from_list(rows):map(function(r)\n"
             "  if r.answer == 'x' then error('no luck') end return r end) } }\n");
    mr_pool *p = open_pool("survey.lua", 1, 5);
    mr_survey s;
    mr_err err = { "" };
    REQUIRE_OK(mr_pool_survey(p, "train", 100, 60, &s, &err), err);
    CHECK_INT(s.n, 6);
    CHECK(s.keys[0] == s.keys[1] && s.keys[0] == s.keys[4]); /* white space is white space */
    CHECK(s.keys[0] != s.keys[2] && s.keys[2] != s.keys[5] && s.keys[0] != s.keys[5]);
    CHECK(s.keys[3] == 0);
    CHECK_INT(s.n_failed, 1);
    CHECK_STR(s.first_failure, "row 4 of a list: map (survey.lua:7): survey.lua:8: no luck");
    mr_str json = { 0 };
    const cJSON *source;
    cJSON_ArrayForEach(source, s.answers) {
        mr_str_printf(&json, "%s: ", source->string);
        mr_json_put(&json, source);
        mr_str_puts(&json, "; ");
    }
    CHECK_STR(json.data, "s: {\"no\": 1, \"yes\": 2}; t: {\"(a table)\": 1, \"(none)\": 1}; ");
    mr_str_clear(&json);
    mr_survey_clear(&s);
    REQUIRE_OK(mr_pool_survey(p, "train", 2, 60, &s, &err), err);
    CHECK_INT(s.n, 2);
    mr_survey_clear(&s);
    CHECK_INT(mr_pool_survey(p, "nothing", 2, 60, &s, &err), MR_OK);
    CHECK_INT(s.n, 0);
    mr_survey_clear(&s);
    mr_pool_close(p);
}

/* ---- JSON to Lua and back ---- */

/* Rows go through tables that are built without a tree: what comes out is what went in, keys sorted. Lists and objects
 * of more entries than wait on the stack at once, and nesting, are there. */
static void json_keeps_its_values(void) {
    mr_str more = { 0 }, sorted = { 0 };
    for (int n = 46; n <= 51; n++) { /* around the number of values that wait */
        mr_str_printf(&more, "%s\"l%d\":[", n > 46 ? "," : "", n);
        for (int i = 0; i < n; i++) mr_str_printf(&more, "%s%d", i ? "," : "", i * 3 - 7);
        mr_str_puts(&more, "]");
    }
    mr_str_puts(&more, ",\"o\":{");
    for (int i = 0; i < 120; i++) mr_str_printf(&more, "%s\"k%03d\":[]", i ? "," : "", i);
    mr_str_puts(&more, "},\"p\":[[[[{\"x\":[{},{\"y\":[null,true,false,[],1]}]}]]]],"
                       "\"q\":[-1.5,0.001,1e+30,-0.1,9007199254740992,3.0000000000000004],"
                       "\"r\":[\"\",\"\\\"\\\\/\\b\\f\\n\\r\\t\\u001f\",\"\xc3\xa9\xf0\x9f\x98\x80\"]");
    mr_str_printf(&sorted, "{\"answer\":\"x\",\"more\":{%s},\"source\":\"odd\"}", more.data);
    char *line = mr_asprintf("{ \"q\":\"odd\",\"a\":\"x\" , \"none\" : null,\"more\":{%s} }\n", more.data);
    put_file("x.jsonl", line);
    mr_pool *p = open_odd("x.jsonl");
    mr_row_source src;
    mr_row row = { 0 };
    mr_err err = { "" };
    REQUIRE_OK(mr_pool_rows(p, "train", &src, &err), err);
    REQUIRE_OK(src.get(src.self, 0, &row, &err), err);
    CHECK_STR(row.place, "x.jsonl:1");
    CHECK_STR(row.json, sorted.data);
    mr_row_clear(&row);
    mr_pool_close(p);
    mr_free(line);
    mr_str_clear(&more);
    mr_str_clear(&sorted);
}

/* ---- position N is a function of seed and N ---- */

static const char mixed[] =
    "local data = require 'medrl.data'\n"
    "local odd, list = data.get 'odd', {}\n"
    "for i = 1, 17 do list[i] = { messages = { { role = 'user', content = 'l' .. i } }, answer = i, zeta = 1, alpha = "
    "{\n"
    "  one = i, two = { x = 1, y = 2, z = 3 }, [\"three four\"] = 'x' }, source = 'list' } end\n"
    "local parts = odd:split { test_size = 0.3, seed = 7 }\n"
    "local tasks = data.get('nano_tasks', { n = 50, seed = 3 })\n"
    "local mix = data.interleave({ parts.train:shuffle(1), data.from_list(list), tasks:filter(function(r)\n"
    "  return r.answer ~= 'yes', 'yes' end) }, { probabilities = { 0.5, 0.2, 0.3 }, seed = 5,\n"
    "  stopping_strategy = 'all_exhausted' })\n"
    "return { data = { system = 's', train = mix:map(function(r, i) return { at = i, all = { a = 1, b = 2, c = "
    "r.answer "
    "} } end):rename('zeta', 'eta'):remove_columns { 'all', 'none' }:shuffle(9),\n"
    "  eval = data.concatenate { parts.test, tasks:take(5) }, shots = { list = { { role = 'user', content = 'u' },\n"
    "  { role = 'assistant', content = 'a' } } }, files = { odd = 'x.jsonl' } } }\n";

static char *whole_row(mr_row_source *src, int64_t i) {
    mr_row row = { 0 };
    mr_err err = { "" };
    mr_str s = { 0 };
    REQUIRE_OK(src->get(src->self, i, &row, &err), err);
    mr_str_printf(&s, "%s|%s|%s", row.json, row.source, row.place);
    for (int k = 0; k < row.n_messages; k++) mr_str_printf(&s, "|%s:%s", row.messages[k].role, row.messages[k].content);
    mr_row_clear(&row);
    return mr_str_steal(&s);
}

/* Eight processes, whose `pairs` differ, and each asked in another order: the same bytes at each place. */
static void rows_depend_on_seed_and_place_only(void) {
    enum { PROCESSES = 8 };
    put_rows("x.jsonl", "{\"q\":\"odd\",\"a\":\"x\",\"more\":{\"b\":1,\"a\":{\"d\":1,\"c\":2}}}", "\n");
    put_module();
    put_file("mixed.lua", mixed);
    char **first[2] = { NULL, NULL };
    int64_t n_rows[2] = { 0, 0 };
    char *report = NULL;
    for (int run = 0; run < PROCESSES; run++) {
        mr_pool *p = open_pool("mixed.lua", 1, 5);
        mr_err err = { "" };
        for (int k = 0; k < 2; k++) {
            mr_row_source src;
            REQUIRE_OK(mr_pool_rows(p, k ? "eval" : "train", &src, &err), err);
            if (run == 0) {
                n_rows[k] = src.n_rows;
                first[k] = mr_alloc((size_t)src.n_rows * sizeof *first[k]);
                CHECK(src.n_rows > (k ? 10 : 60));
            }
            REQUIRE(src.n_rows == n_rows[k]);
            static const int steps[PROCESSES] = { 1, -1, 7, 11, 13, -3, 17, 1 }; /* all orders of all rows, or most */
            for (int64_t j = 0; j < src.n_rows; j++) {
                int64_t i = ((steps[run] * j) % src.n_rows + src.n_rows) % src.n_rows;
                char *row = whole_row(&src, i);
                if (run == 0)
                    first[k][i] = row;
                else {
                    if (strcmp(row, first[k][i]) != 0) fprintf(stderr, "run %d, row %d\n", run, (int)i);
                    CHECK_STR(row, first[k][i]);
                    mr_free(row);
                }
            }
        }
        char *now = mr_strdup(report_of(p));
        if (run == 0)
            report = now;
        else {
            CHECK_STR(now, report);
            mr_free(now);
        }
        mr_pool_close(p);
    }
    for (int k = 0; k < 2; k++) {
        for (int64_t i = 0; i < n_rows[k]; i++) mr_free(first[k][i]);
        mr_free(first[k]);
    }
    mr_free(report);
}

SCRIPT_TEST_MAIN({ "odd_rows", odd_rows }, { "odd_files", odd_files },
                 { "rows_that_come_while_reading_are_not_seen", rows_that_come_while_reading_are_not_seen },
                 { "too_many_skipped", too_many_skipped }, { "reasons_are_counted", reasons_are_counted },
                 { "shared_sources_are_told_once", shared_sources_are_told_once }, { "survey_of_rows", survey_of_rows },
                 { "json_keeps_its_values", json_keeps_its_values },
                 { "rows_depend_on_seed_and_place_only", rows_depend_on_seed_and_place_only })
