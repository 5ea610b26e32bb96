/* test_json.c - what the strict reader refuses and accepts, field access, and writing that reads back. */
#include "base/json.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/rng.h"
#include "test.h"

static mr_status parse(const char *text, size_t len, mr_err *err) {
    cJSON *doc;
    mr_status st = mr_json_parse(&doc, text, len, "t.json", err);
    CHECK((doc != NULL) == (st == MR_OK));
    cJSON_Delete(doc);
    return st;
}

static void accepts_what_the_standard_allows(void) {
    static const char *good[] = {
        "{}",
        "[]",
        " [ ] ",
        "\t[\r1\n]\r\n",
        "null",
        "true",
        "false",
        "0",
        "-0",
        "1e5",
        "1E+5",
        "0.5e-3",
        "-1.25",
        "\"\"",
        "{\"a\":{\"a\":1}}",
        "[1,2,[3]]\n",
        "\"\\ud83d\\ude00\"",
        "\"\\ud7ff\\ue000\\uffff\"",
        "\"\\\" \\\\ \\/ \\b\\f\\n\\r\\t\"",
        "\"\xf0\x9f\x98\x80\xc3\xa9\"",
        "9007199254740992",
        "-9007199254740992",
        "[{\"k\":1},{\"k\":2}]",
        "{\"\":0}",
        "\"\x7f\"",
        "1e-400",
        "1000000000000000019884624838656", /* int(1e30) of Python: exact in a double */
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        mr_err err = { "" };
        CHECK_INT(parse(good[i], strlen(good[i]), &err), MR_OK);
        CHECK_STR(err.msg, "");
    }
}

static void refuses_what_cjson_lets_through(void) {
    static const struct {
        const char *text, *says;
    } bad[] = {
        { "", "cut" },
        { "  ", "cut" },
        { "{", "never ends" },
        { "[1,", "cut" },
        { "[1", "never ends" },
        { "{\"a\"", "never ends" },
        { "{\"a\":", "cut" },
        { "{\"a\":1", "never ends" },
        { "\"abc", "never ends" },
        { "{\"a\":1,}", "want a key" },
        { "[1,]", "no value" },
        { "[,]", "no value" },
        { "{a:1}", "want a key" },
        { "{'a':1}", "want a key" },
        { "{\"a\" 1}", "want ':'" },
        { "[1 2]", "want ','" },
        { "{\"a\":1 \"b\":2}", "want ','" },
        { "{\"a\":1,\"a\":2}", "byte 7: the key \"a\" stands twice" },
        { "{\"a\":1,\"b\":2,\"\\u0061\":3}", "byte 13: the key \"a\"" },
        { "{\"\\u0061\":1,\"\\u0061\":2}", "byte 12: the key \"a\"" },
        { "{\"xay\":1,\"x\\u0061y\":2}", "byte 9: the key \"xay\"" }, /* bytes before and behind an escape */
        { "{\"\xc3\xa9\xf0\x9f\x98\x80/\":1,\"\\u00e9\\ud83d\\ude00\\/\":2}", "byte 13: the key \"\xc3\xa9\xf0\x9f\x98\x80/\"" },
        { "{\"\\u0061\":{\"\\u0061\":1,\"\\u0062\":2},\"a\":3}", "byte 34: the key \"a\"" },
        { "{} x", "byte 3: more text" },
        { "1 2", "more text" },
        { "nul", "no value" },
        { "truex", "more text" },
        { "trie", "byte 0: no value" },
        { "\"\xff\"", "byte 1: bytes that are not UTF-8" },
        { "\"\xc0\x80\"", "not UTF-8" },
        { "\"\xed\xa0\x80\"", "not UTF-8" },
        { "\"\xf4\x90\x80\x80\"", "not UTF-8" },
        { "\"\xe2\x82\"", "not UTF-8" },
        { "\"\xf8\x88\x80\x80\x80\"", "not UTF-8" },
        { "\"a\nb\"", "byte 2: a raw control" },
        { "\"\\u0000\"", "\\u0000" },
        { "\"\\ud800\"", "surrogate" },
        { "\"\\udc00\"", "surrogate" },
        { "\"\\ud800\\u0041\"", "surrogate" },
        { "\"\\ud800\\ud800\"", "surrogate" },
        { "\"\\ud800\\ue000\"", "surrogate" },
        { "\"\\ud800\\udc0x\"", "surrogate" },
        { "\"\\ud800\\ndc00\"", "surrogate" },
        { "\"\\ud800-udc00\"", "surrogate" },
        { "\"\\u12g4\"", "hexadecimal" },
        { "\"\\u12@4\"", "hexadecimal" },
        { "\"\\u12 4\"", "hexadecimal" },
        { "\"\\u12", "hexadecimal" },
        { "\"\\x\"", "an escape" },
        { "\"\\", "ends within" },
        { "01", "begins with 0" },
        { "-01", "begins with 0" },
        { "1.", "behind its point" },
        { ".5", "no value" },
        { "+1", "no value" },
        { "1e", "exponent" },
        { "1e+", "exponent" },
        { "-", "no value" },
        { "NaN", "no value" },
        { "Infinity", "no value" },
        { "1e999", "range" },
        { "-1e999", "range" },
        { "0x10", "more text" },
        { "9007199254740993", "2^53" },
        { "-12345678901234567891", "2^53" },
        { "1000000000000000019884624838657", "2^53" },
        { "\xef\xbb\xbf{}", "no value" },
        { "0.0000000000000000000000000000000000000000000000000000000000000000001", "62 characters" },
        { "// c\n1", "no value" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        mr_err err = { "" };
        CHECK_INT(parse(bad[i].text, strlen(bad[i].text), &err), MR_EDATA);
        CHECK_CONTAINS(err.msg, "t.json: byte ");
        CHECK_CONTAINS(err.msg, bad[i].says);
    }
    CHECK_INT(parse("\"a\0b\"", 5, NULL), MR_EDATA);
    CHECK_INT(parse("1\0", 2, NULL), MR_EDATA);
    CHECK_INT(parse("\"\\\0\"", 4, NULL), MR_EDATA);
}

static void every_cut_of_a_good_text_is_refused(void) {
    const char *text = "{\"a\": [1, 2.5e3, \"x\\u00e9\\ud83d\\ude00\", null, {\"b\": true}], \"c\": \"\xc3\xa9\"}";
    size_t len = strlen(text);
    CHECK_INT(parse(text, len, NULL), MR_OK);
    for (size_t n = 0; n < len; n++) {
        char *exact = malloc(n ? n : 1); /* no byte behind it: AddressSanitizer sees a read too far */
        memcpy(exact, text, n);
        CHECK_INT(parse(exact, n, NULL), MR_EDATA);
        free(exact);
    }
}

static void depth_has_a_limit(void) {
    char text[300];
    for (int depth = 64; depth <= 65; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        mr_err err = { "" };
        CHECK_INT(parse(text, (size_t)depth * 2, &err), depth == 64 ? MR_OK : MR_EDATA);
    }
}

static void large_object_is_fast_and_still_checked(void) {
    mr_str s = { 0 };
    mr_str_puts(&s, "{");
    for (int i = 0; i < 150000; i++) mr_str_printf(&s, "%s\"tok%d\":%d", i ? "," : "", i, i);
    size_t whole = s.len;
    mr_str_puts(&s, "}");
    cJSON *doc;
    CHECK_INT(mr_json_parse(&doc, s.data, s.len, "v", NULL), MR_OK);
    CHECK_INT(cJSON_GetArraySize(doc), 150000);
    cJSON_Delete(doc);
    s.len = whole;
    mr_str_puts(&s, ",\"tok777\":1}");
    mr_err err = { "" };
    CHECK_INT(mr_json_parse(&doc, s.data, s.len, "v", &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "\"tok777\" stands twice");
    mr_str_clear(&s);
}

/* Keys of one hash (FNV-1a), found by search: whoever writes a file may choose them. They are different keys all the same, in every order,
 * and the one that stands twice is found among them. */
static void keys_that_collide(void) {
    static const char *const keys[] = { "wWVDcrANg2E", "eyXXFnVnM-B", "zzIrVFzsEyDz", "8BPSXBAtMtG" };
    enum { N = sizeof keys / sizeof *keys };
    for (int i = 0; i < N; i += 2) {
        CHECK(strcmp(keys[i], keys[i + 1]) != 0);
        CHECK(mr_hash64(keys[i], strlen(keys[i])) == mr_hash64(keys[i + 1], strlen(keys[i + 1])));
    }
    for (int turn = 0; turn < 2; turn++) {
        for (int twice = -1; twice < N; twice++) { /* that key comes once more, at the end; -1: none */
            mr_str s = { 0 };
            for (int i = 0; i < N; i++) mr_str_printf(&s, "%s\"%s\":1", i ? "," : "{", keys[turn ? N - 1 - i : i]);
            const size_t at = s.len + 1;
            if (twice >= 0) mr_str_printf(&s, ",\"%s\":1", keys[twice]);
            mr_str_puts(&s, "}");
            mr_err err = { "" };
            char want[80] = "";
            if (twice >= 0) snprintf(want, sizeof want, "t.json: byte %zu: the key \"%s\" stands twice", at, keys[twice]);
            CHECK_INT(mr_json_check(s.data, s.len, "t.json", &err), twice < 0 ? MR_OK : MR_EDATA);
            CHECK_CONTAINS(err.msg, want);
            mr_str_clear(&s);
        }
    }
}

/* The message stays a line that can be read. */
static void a_long_key_is_cut_in_the_message(void) {
    for (int len = 60; len <= 61; len++) {
        char key[80], text[256];
        memset(key, 'k', (size_t)len);
        key[len] = '\0';
        snprintf(text, sizeof text, "{\"%s\":1,\"%s\":2}", key, key);
        mr_err err = { "" };
        CHECK_INT(mr_json_check(text, strlen(text), "t.json", &err), MR_EDATA);
        key[60] = '\0';
        CHECK_CONTAINS(err.msg, key);
        CHECK(strspn(strchr(err.msg, '"') + 1, "k") == 60);
    }
}

static long json_left; /* the allocation of cJSON's that fails; 0: none */
static void *json_malloc(size_t n) {
    return json_left > 0 && --json_left == 0 ? NULL : malloc(n);
}

/* A tree is whole or is not there, whichever of its pieces gets no memory. */
static void no_memory_for_a_tree(void) {
    const char *text = "{\"a\": [1, \"x\\u00e9\"], \"b\": {\"c\": null}}";
    mr_status st = MR_ENOMEM;
    long n = 0;
    while (st == MR_ENOMEM && n < 50) {
        cJSON *doc = NULL;
        mr_err err = { "" };
        cJSON_InitHooks(&(cJSON_Hooks){ json_malloc, free });
        json_left = ++n;
        st = mr_json_parse(&doc, text, strlen(text), "t.json", &err);
        cJSON_InitHooks(NULL);
        CHECK((doc != NULL) == (st == MR_OK));
        if (st != MR_OK) CHECK_STR(err.msg, "t.json: no memory for the tree of 39 bytes of JSON");
        cJSON_Delete(doc);
    }
    CHECK_INT(st, MR_OK);
    CHECK(n > 10); /* six values, three keys and a string were refused once */
}

static void fields_name_place_and_type(void) {
    cJSON *doc;
    mr_err err = { "" };
    const char *text = "{\"s\":\"x\",\"n\":1.5,\"i\":7,\"b\":true,\"z\":null,\"o\":{},\"l\":[],\"no\":false,\"far\":1e300,\"big\":9007199254740992}";
    REQUIRE_OK(mr_json_parse(&doc, text, strlen(text), "p:3", &err), err);
    const char *str;
    double num;
    int64_t whole;
    bool flag;
    CHECK_INT(mr_json_get_string(&str, doc, "s", "p:3", &err), MR_OK);
    CHECK_STR(str, "x");
    CHECK_INT(mr_json_get_number(&num, doc, "n", "p:3", &err), MR_OK);
    CHECK(num == 1.5);
    CHECK_INT(mr_json_get_int(&whole, doc, "i", 0, 10, "p:3", &err), MR_OK);
    CHECK_INT(whole, 7);
    CHECK_INT(mr_json_opt_bool(&flag, doc, "b", false, "p:3", &err), MR_OK);
    CHECK(flag);
    CHECK_INT(mr_json_opt_string(&str, doc, "none", "def", "p:3", &err), MR_OK);
    CHECK_STR(str, "def");
    CHECK_INT(mr_json_opt_int(&whole, doc, "none", -4, 0, 1, "p:3", &err), MR_OK);
    CHECK_INT(whole, -4);

    CHECK_INT(mr_json_get_number(&num, doc, "s", "p:3", &err), MR_EDATA);
    CHECK_STR(err.msg, "p:3: field \"s\" is a string, want a number");
    CHECK_INT(mr_json_get_string(&str, doc, "none", "p:3", &err), MR_EDATA);
    CHECK_STR(err.msg, "p:3: field \"none\" is missing");
    CHECK(str == NULL);
    CHECK_INT(mr_json_opt_string(&str, doc, "z", "def", "p:3", &err), MR_EDATA); /* null is not "missing" */
    CHECK_STR(err.msg, "p:3: field \"z\" is null, want a string");
    CHECK_INT(mr_json_get_int(&whole, doc, "n", 0, 10, "p:3", &err), MR_EDATA);
    CHECK_STR(err.msg, "p:3: field \"n\" is 1.5, want an integer");
    CHECK_INT(mr_json_get_number(&num, doc, "b", "p:3", &err), MR_EDATA);
    CHECK_STR(err.msg, "p:3: field \"b\" is a boolean, want a number");
    CHECK_INT(mr_json_get_number(&num, doc, "o", "p:3", &err), MR_EDATA);
    CHECK_STR(err.msg, "p:3: field \"o\" is an object, want a number");
    CHECK_INT(mr_json_get_number(&num, doc, "l", "p:3", &err), MR_EDATA);
    CHECK_STR(err.msg, "p:3: field \"l\" is an array, want a number");
    CHECK_INT(mr_json_get_number(&num, doc, "no", "p:3", &err), MR_EDATA);
    CHECK_STR(err.msg, "p:3: field \"no\" is a boolean, want a number");
    CHECK_INT(mr_json_get_int(&whole, doc, "i", 8, 10, "p:3", &err), MR_EDATA);
    CHECK_STR(err.msg, "p:3: field \"i\" is 7, want 8..10");
    CHECK_INT(mr_json_get_string(&str, cJSON_GetObjectItem(doc, "n"), "k", "p:3", &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "is a number, want an object");

    CHECK_INT(mr_json_opt_number(&num, doc, "none", 0.25, "p:3", &err), MR_OK);
    CHECK(num == 0.25);
    CHECK_INT(mr_json_opt_bool(&flag, doc, "none", true, "p:3", &err), MR_OK);
    CHECK(flag);
    CHECK_INT(mr_json_get_number(&num, doc, "none", "p:3", &err), MR_EDATA);
    CHECK_STR(err.msg, "p:3: field \"none\" is missing");
    CHECK_INT(mr_json_get_int(&whole, doc, "none", 0, 10, "p:3", &err), MR_EDATA);
    CHECK_STR(err.msg, "p:3: field \"none\" is missing");
    CHECK_INT(mr_json_get_int(&whole, doc, "s", 0, 10, "p:3", &err), MR_EDATA);
    CHECK_STR(err.msg, "p:3: field \"s\" is a string, want an integer");
    CHECK_INT(mr_json_get_int(&whole, doc, "i", 0, 6, "p:3", &err), MR_EDATA);
    CHECK_STR(err.msg, "p:3: field \"i\" is 7, want 0..6");
    CHECK_INT(mr_json_opt_bool(&flag, doc, "i", false, "p:3", &err), MR_EDATA);
    CHECK_STR(err.msg, "p:3: field \"i\" is a number, want a boolean");
    CHECK_INT(mr_json_opt_bool(&flag, NULL, "b", false, "p:3", &err), MR_EDATA);
    CHECK_STR(err.msg, "p:3: is missing, want an object with field \"b\"");
    /* the whole numbers that a double has all of, and no further: the rest would not fit */
    CHECK_INT(mr_json_get_int(&whole, doc, "big", INT64_MIN, INT64_MAX, "p:3", &err), MR_OK);
    CHECK(whole == (int64_t)1 << 53);
    CHECK_INT(mr_json_get_int(&whole, doc, "far", INT64_MIN, INT64_MAX, "p:3", &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "p:3: field \"far\" is 1.0000000000000001e+300, want an integer");
    cJSON_Delete(doc);
}

static void numbers_read_back(void) {
    static const struct {
        double x;
        const char *text;
    } cases[] = {
        { 0, "0" },
        { -0.0, "-0" },
        { 1, "1" },
        { -17, "-17" },
        { 0.1, "0.1" },
        { 1e20, "1e+20" },
        { 5e-324, "5e-324" },
        { 0.30000000000000004, "0.30000000000000004" },
        { 2.5e-6, "2.5e-06" },
        { NAN, "null" },
        { INFINITY, "null" },
        { 9007199254740992.0, "9007199254740992" },
        { 1.0 / 3, "0.3333333333333333" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mr_str s = { 0 };
        mr_json_put_number(&s, cases[i].x);
        CHECK_STR(s.data, cases[i].text);
        if (isfinite(cases[i].x)) CHECK(strtod(s.data, NULL) == cases[i].x);
        mr_str_clear(&s);
    }
}

static void text_reads_back(void) {
    mr_str s = { 0 };
    mr_json_put_string(&s, "a\0b", 3); /* a NUL is written as what it is; the reader refuses it */
    mr_json_put_string(&s, "", 0);
    mr_json_put_string(&s, "\x1f", 1);
    CHECK_STR(s.data, "\"a\\u0000b\"\"\"\"\\u001f\"");
    s.len = 0;
    const char raw[] = "a\"\\\n\t\x01\x7f\xc3\xa9\xf0\x9f\x98\x80 \xff!";
    mr_json_put_string(&s, raw, sizeof raw - 1);
    CHECK_STR(s.data, "\"a\\\"\\\\\\n\\t\\u0001\\u007f\xc3\xa9\xf0\x9f\x98\x80 \xef\xbf\xbd!\"");
    cJSON *doc;
    CHECK_INT(mr_json_parse(&doc, s.data, s.len, "t", NULL), MR_OK);
    CHECK_STR(doc->valuestring, "a\"\\\n\t\x01\x7f\xc3\xa9\xf0\x9f\x98\x80 \xef\xbf\xbd!");
    cJSON_Delete(doc);
    mr_str_clear(&s);

    const char *tree = "{\"b\": [1, 0.5, true, false, null, \"x\"], \"a\": {}, \"c\": []}";
    CHECK_INT(mr_json_parse(&doc, tree, strlen(tree), "t", NULL), MR_OK);
    mr_json_put(&s, doc);
    CHECK_STR(s.data, tree);
    cJSON_Delete(doc);
    mr_str_clear(&s);
}

static void file_that_is_not_there(void) {
    cJSON *doc;
    mr_err err = { "" };
    CHECK_INT(mr_json_load(&doc, "/nonexistent/x.json", 100, &err), MR_ENOTFOUND);
    CHECK_CONTAINS(err.msg, "/nonexistent/x.json: No such file");
    CHECK(doc == NULL);
    CHECK_INT(mr_json_load(&doc, GOLDEN("datasets_mixing.json"), 100, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "larger than 100 bytes");
}

/* Plain text is looked at eight bytes at a time: every byte at every place within and across such a group gets the
 * verdict that it gets alone. */
static void every_byte_at_every_place(void) {
    for (int byte = 1; byte < 256; byte++) {
        for (size_t at = 0; at < 20; at++) {
            char text[32] = "\"xxxxxxxxxxxxxxxxxxxx\"";
            text[1 + at] = (char)byte;
            mr_err err = { "" };
            const bool good = byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
            CHECK_INT(mr_json_check(text, strlen(text), "t.json", &err), good ? MR_OK : MR_EDATA);
            char want[32];
            const bool quotes = byte == '\\' && at == 19; /* the closing quote becomes a part of the string */
            snprintf(want, sizeof want, "t.json: byte %zu:", quotes ? 0 : byte == '"' ? at + 2 : at + 1);
            if (!good) CHECK_CONTAINS(err.msg, want);
        }
    }
}

/* The few keys of a small object are compared pairwise: the second of two equal ones is named, wherever they stand. */
static void equal_keys_of_small_objects(void) {
    for (int n = 2; n <= 18; n++) { /* 16 is where sorting begins */
        for (int second = 1; second < n; second++) {
            mr_str s = { 0 };
            size_t at = 0;
            mr_str_puts(&s, "{");
            for (int i = 0; i < n; i++) {
                if (i) mr_str_puts(&s, ",");
                if (i == second) at = s.len;
                mr_str_printf(&s, "\"k%d\":1", i == second ? second / 2 : i);
            }
            mr_str_puts(&s, "}");
            mr_err err = { "" };
            char want[64];
            snprintf(want, sizeof want, "t.json: byte %zu: the key \"k%d\" stands twice", at, second / 2);
            CHECK_INT(mr_json_check(s.data, s.len, "t.json", &err), second / 2 == second ? MR_OK : MR_EDATA);
            CHECK_CONTAINS(err.msg, second / 2 == second ? "" : want);
            mr_str_clear(&s);
        }
    }
}

static bool equal(const char *a, const char *b) {
    cJSON *x = NULL, *y = NULL;
    mr_err err = { "" };
    REQUIRE_OK(mr_json_parse(&x, a, strlen(a), "a", &err), err);
    REQUIRE_OK(mr_json_parse(&y, b, strlen(b), "b", &err), err);
    const bool same = mr_json_equal(x, y);
    CHECK(same == mr_json_equal(y, x));
    cJSON_Delete(x);
    cJSON_Delete(y);
    return same;
}

static void compares_values(void) {
    CHECK(equal("{\"a\":1,\"b\":[true,null,\"x\"]}", "{\"b\":[true,null,\"x\"],\"a\":1.0}"));
    CHECK(!equal("{\"a\":1}", "{\"a\":1,\"b\":2}") && !equal("{\"a\":1,\"b\":2}", "{\"a\":1,\"c\":2}"));
    CHECK(!equal("{\"a\":1}", "{\"A\":1}") && !equal("[1,2]", "[2,1]") && !equal("[1]", "[1,1]") && !equal("{}", "[]"));
    CHECK(!equal("0.1", "0.10000000000000002") && !equal("\"1\"", "1") && !equal("true", "false") && equal("[[],{}]", "[[],{}]"));
    CHECK(!equal("\"a\"", "\"b\"") && equal("[\"a\"]", "[\"a\"]") && equal("null", "null") && equal("true", "true"));
    CHECK(!mr_json_equal(NULL, NULL));
    cJSON *here = cJSON_CreateTrue();
    CHECK(!mr_json_equal(here, NULL) && !mr_json_equal(NULL, here));
    cJSON_Delete(here);
    char deep[512] = ""; /* with cJSON_Compare this takes 2^31 looks at the number */
    for (int i = 0; i < 62; i++) strcat(deep, i % 2 ? "[" : "{\"a\":");
    strcat(deep, "1");
    for (int i = 61; i >= 0; i--) strcat(deep, i % 2 ? "]" : "}");
    CHECK(equal(deep, deep));
}

/* cJSON has items that no text has: a piece of text that stands for itself, whatever it is, and those of no type. A file stays JSON. */
static void what_is_no_json(void) {
    cJSON *list = cJSON_CreateArray(), *raw = cJSON_CreateRaw("1, 2]"), *same = cJSON_CreateRaw("1, 2]"), *other = cJSON_CreateRaw("3");
    CHECK(mr_json_equal(raw, same) && !mr_json_equal(raw, other));
    CHECK_STR(mr_json_type_name(raw), "unknown");
    cJSON_AddItemToArray(list, raw);
    cJSON_AddItemToArray(list, cJSON_CreateNumber(1));
    mr_str s = { 0 };
    mr_json_put(&s, list);
    CHECK_STR(s.data, "[null, 1]");
    s.len = 0;
    mr_json_put(&s, NULL);
    CHECK_STR(s.data, "null");
    CHECK_STR(mr_json_type_name(NULL), "missing");
    mr_str_clear(&s);
    cJSON_Delete(list), cJSON_Delete(same), cJSON_Delete(other);
}

TEST_MAIN({ "compares_values", compares_values },
          { "accepts_what_the_standard_allows", accepts_what_the_standard_allows },
          { "refuses_what_cjson_lets_through", refuses_what_cjson_lets_through },
          { "every_cut_of_a_good_text_is_refused", every_cut_of_a_good_text_is_refused },
          { "every_byte_at_every_place", every_byte_at_every_place },
          { "equal_keys_of_small_objects", equal_keys_of_small_objects }, { "depth_has_a_limit", depth_has_a_limit },
          { "large_object_is_fast_and_still_checked", large_object_is_fast_and_still_checked },
          { "keys_that_collide", keys_that_collide }, { "a_long_key_is_cut_in_the_message", a_long_key_is_cut_in_the_message },
          { "no_memory_for_a_tree", no_memory_for_a_tree }, { "what_is_no_json", what_is_no_json },
          { "fields_name_place_and_type", fields_name_place_and_type }, { "numbers_read_back", numbers_read_back },
          { "text_reads_back", text_reads_back }, { "file_that_is_not_there", file_that_is_not_there })
