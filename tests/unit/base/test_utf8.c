/* test_utf8.c - every character there and back, and what table 3-7 of the Unicode Standard leaves out. */
#include "base/utf8.h"
#include "test.h"

static void every_character_comes_back(void) {
    int lengths[5] = { 0 };
    for (uint32_t c = 0; c <= 0x10FFFF; c++) {
        char text[4];
        uint32_t got = 0;
        int n = mr_utf8_put(text, c);
        bool surrogate = c >= 0xD800 && c <= 0xDFFF;
        CHECK_INT(mr_utf8_next(&got, (const uint8_t *)text, (size_t)n), surrogate ? -1 : n);
        if (surrogate) continue;
        CHECK(got == c);
        lengths[n]++;
    }
    CHECK_INT(lengths[1], 0x80);
    CHECK_INT(lengths[2], 0x800 - 0x80);
    CHECK_INT(lengths[3], 0x10000 - 0x800 - 0x800);
    CHECK_INT(lengths[4], 0x110000 - 0x10000);
}

/* Minus the bytes of a maximal subpart (Unicode 15, section 3.9, table 3-8), 0 for a character that is cut off. */
static void ill_formed_parts(void) {
    static const struct {
        const char *bytes;
        int n, want;
    } cases[] = {
        { "\x80", 1, -1 },         { "\xC0\x80", 2, -1 },         { "\xC1\xBF", 2, -1 },
        { "\xE0\x80\x80", 3, -1 }, { "\xED\xA0\x80", 3, -1 },     { "\xF0\x80\x80\x80", 4, -1 },
        { "\xF1\x80\x80", 3, 0 },  { "\xF4\x90\x80\x80", 4, -1 }, { "\xF5\x80\x80\x80", 4, -1 },
        { "\xFF", 1, -1 },         { "\xE2\x82", 2, 0 },          { "\xE2\x82x", 3, -2 },
        { "\xF0\x9F\x98x", 4, -3 }, { "\xC3", 1, 0 },             { "\xC3(", 2, -1 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t cp;
        CHECK_INT(mr_utf8_next(&cp, (const uint8_t *)cases[i].bytes, (size_t)cases[i].n), cases[i].want);
        CHECK(!mr_utf8_valid(cases[i].bytes, (size_t)cases[i].n));
    }
    CHECK(mr_utf8_valid("", 0));
    CHECK(mr_utf8_valid("a\0\xC3\xA9\xF0\x9F\x98\x80", 8)); /* NUL is a character */
}

TEST_MAIN({ "every_character_comes_back", every_character_comes_back }, { "ill_formed_parts", ill_formed_parts })
