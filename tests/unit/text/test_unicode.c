/* test_unicode.c - repair by the table of the Unicode standard, NFC, and long hostile runs. */
#include <time.h>

#include "support.h"

#define U "\xEF\xBF\xBD"

static void repair_replaces_maximal_subparts(void) {
    static const struct {
        const char *text, *want;
        int n;
    } cases[] = {
        { "", "", 0 },
        { "plain", "plain", 0 },
        { "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x99\x82", "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x99\x82", 0 },
        { "\x80", U, 1 },                   /* a continuation byte alone */
        { "\xC0\xAF", U U, 2 },             /* overlong: C0 begins nothing */
        { "\xE0\x9F\x80", U U U, 3 },       /* overlong in three bytes: E0 wants A0..BF */
        { "\xED\xA0\x80", U U U, 3 },       /* a surrogate */
        { "\xF4\x90\x80\x80", U U U U, 4 }, /* above U+10FFFF */
        { "\xF5\x80", U U, 2 },
        { "\xF0\x80\x80\x41", U U U "A", 3 },
        /* the standard's own example, table 3-8 */
        { "a\xF1\x80\x80\xE1\x80\xC2"
          "b\x80"
          "c\x80\xBF"
          "d",
          "a" U U U "b" U "c" U U "d", 6 },
        { "x\xE2\x82", "x" U, 1 }, /* cut off at the end: one */
        { "\xF0\x9F\x99", U, 1 },
        { "\xF4\x8F\xBF\xBF\xEF\xBF\xBF", "\xF4\x8F\xBF\xBF\xEF\xBF\xBF", 0 }, /* noncharacters are characters */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mr_str s = { 0 };
        CHECK_INT(mr_utf8_repair(&s, cases[i].text, strlen(cases[i].text)), cases[i].n);
        CHECK_STR(s.data, cases[i].want);
        mr_str_clear(&s);
    }
    mr_str s = { 0 };
    mr_str_puts(&s, "kept ");
    CHECK_INT(mr_utf8_repair(&s, "a\0b\xFF", 4), 1); /* appends, and NUL is a character */
    CHECK(s.len == 11 && memcmp(s.data, "kept a\0b" U, 11) == 0);
    mr_str_clear(&s);
}

static void composes(void) {
    static const struct {
        const char *text, *want;
    } cases[] = {
        { "plain", "plain" },
        { "\xC3\xA9", "\xC3\xA9" },
        { "e\xCC\x81", "\xC3\xA9" },                                  /* e + acute */
        { "\xE2\x84\xAA", "K" },                                      /* Kelvin sign */
        { "\xE1\xBA\x9B\xCC\xA3", "\xE1\xBA\x9B\xCC\xA3" },           /* U+1E9B U+0323 stays */
        { "\xC5\xBF\xCC\x87\xCC\xA3", "\xE1\xBA\x9B\xCC\xA3" },       /* reordered, then composed */
        { "\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", "\xED\x95\x9C" },   /* Hangul jamo to a syllable */
        { "\xE0\xA5\x98", "\xE0\xA4\x95\xE0\xA4\xBC" },               /* U+0958: a composition exclusion */
        { "x\xCC\x83\xCC\x82\xCC\x81", "x\xCC\x83\xCC\x82\xCC\x81" }, /* equal classes keep their order */
        { "a\xCC\x95\xCC\x80\xD6\xAE\xCC\x80"
          "b",
          "\xC3\xA0\xD6\xAE\xCC\x80\xCC\x95"
          "b" },                                                    /* classes 232 230 228 230 */
        { "\xF0\x9D\x85\x9E", "\xF0\x9D\x85\x97\xF0\x9D\x85\xA5" }, /* U+1D15E decomposes and stays so */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mr_str s = { 0 };
        mr_utf8_nfc(&s, cases[i].text, strlen(cases[i].text));
        CHECK_STR(s.data, cases[i].want);
        mr_str_clear(&s);
    }
}

static void long_runs_of_marks(void) {
    /* 400,000 marks of two classes in turns: sorting them with swaps of neighbors would take 4e10 steps */
    enum { n = 200000 };
    mr_str text = { 0 }, s = { 0 };
    mr_str_puts(&text, "q");
    for (int i = 0; i < n; i++) mr_str_puts(&text, "\xCC\x81\xCC\xA3"); /* 230, 220 */
    clock_t start = clock();
    mr_utf8_nfc(&s, text.data, text.len);
    CHECK((double)(clock() - start) / CLOCKS_PER_SEC < 10);
    CHECK_INT(s.len, text.len);
    CHECK(memcmp(s.data, "q\xCC\xA3\xCC\xA3", 5) == 0); /* all of the lower class first */
    CHECK(memcmp(s.data + s.len - 4, "\xCC\x81\xCC\x81", 4) == 0);
    mr_str_clear(&s);
    mr_str_clear(&text);
    for (int i = 0; i < 3000; i++) mr_str_puts(&text, "\xBF\xCC"); /* ill-formed: no crash, no loss of control */
    mr_utf8_nfc(&s, text.data, text.len);
    CHECK(s.len > 0);
    mr_str_clear(&s);
    mr_str_clear(&text);
}

TEST_MAIN({ "repair_replaces_maximal_subparts", repair_replaces_maximal_subparts }, { "composes", composes },
          { "long_runs_of_marks", long_runs_of_marks })
