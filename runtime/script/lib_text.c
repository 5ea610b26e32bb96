/* lib_text.c - medrl.text: what Python's str does in the seed's reward functions, on bytes that are UTF-8.
 *
 * Source: spec/rewards.md, 4.1 and 4.2: strip() and "white space" use str.isspace's set (U+001C..1F in it), is_digit is
 * str.isdigit (Numeric_Type Digit or Decimal, Unicode 14), lengths are code points. Bytes that are no UTF-8 count as
 * one character each and are never white space. Nothing here backtracks: the time is linear in the text. */
#include <string.h>
#include <utf8proc.h>

#include "script/worker.h"

typedef struct range {
    int32_t first, last;
} range;
static const range spaces[] = { { 0x09, 0x0D },     { 0x1C, 0x20 },     { 0x85, 0x85 },     { 0xA0, 0xA0 },
                                { 0x1680, 0x1680 }, { 0x2000, 0x200A }, { 0x2028, 0x2029 }, { 0x202F, 0x202F },
                                { 0x205F, 0x205F }, { 0x3000, 0x3000 } };
static const range digits[] = {
    { 0x30, 0x39 },       { 0xB2, 0xB3 },       { 0xB9, 0xB9 },       { 0x660, 0x669 },     { 0x6F0, 0x6F9 },
    { 0x7C0, 0x7C9 },     { 0x966, 0x96F },     { 0x9E6, 0x9EF },     { 0xA66, 0xA6F },     { 0xAE6, 0xAEF },
    { 0xB66, 0xB6F },     { 0xBE6, 0xBEF },     { 0xC66, 0xC6F },     { 0xCE6, 0xCEF },     { 0xD66, 0xD6F },
    { 0xDE6, 0xDEF },     { 0xE50, 0xE59 },     { 0xED0, 0xED9 },     { 0xF20, 0xF29 },     { 0x1040, 0x1049 },
    { 0x1090, 0x1099 },   { 0x1369, 0x1371 },   { 0x17E0, 0x17E9 },   { 0x1810, 0x1819 },   { 0x1946, 0x194F },
    { 0x19D0, 0x19DA },   { 0x1A80, 0x1A89 },   { 0x1A90, 0x1A99 },   { 0x1B50, 0x1B59 },   { 0x1BB0, 0x1BB9 },
    { 0x1C40, 0x1C49 },   { 0x1C50, 0x1C59 },   { 0x2070, 0x2070 },   { 0x2074, 0x2079 },   { 0x2080, 0x2089 },
    { 0x2460, 0x2468 },   { 0x2474, 0x247C },   { 0x2488, 0x2490 },   { 0x24EA, 0x24EA },   { 0x24F5, 0x24FD },
    { 0x24FF, 0x24FF },   { 0x2776, 0x277E },   { 0x2780, 0x2788 },   { 0x278A, 0x2792 },   { 0xA620, 0xA629 },
    { 0xA8D0, 0xA8D9 },   { 0xA900, 0xA909 },   { 0xA9D0, 0xA9D9 },   { 0xA9F0, 0xA9F9 },   { 0xAA50, 0xAA59 },
    { 0xABF0, 0xABF9 },   { 0xFF10, 0xFF19 },   { 0x104A0, 0x104A9 }, { 0x10A40, 0x10A43 }, { 0x10D30, 0x10D39 },
    { 0x10E60, 0x10E68 }, { 0x11052, 0x1105A }, { 0x11066, 0x1106F }, { 0x110F0, 0x110F9 }, { 0x11136, 0x1113F },
    { 0x111D0, 0x111D9 }, { 0x112F0, 0x112F9 }, { 0x11450, 0x11459 }, { 0x114D0, 0x114D9 }, { 0x11650, 0x11659 },
    { 0x116C0, 0x116C9 }, { 0x11730, 0x11739 }, { 0x118E0, 0x118E9 }, { 0x11950, 0x11959 }, { 0x11C50, 0x11C59 },
    { 0x11D50, 0x11D59 }, { 0x11DA0, 0x11DA9 }, { 0x16A60, 0x16A69 }, { 0x16AC0, 0x16AC9 }, { 0x16B50, 0x16B59 },
    { 0x1D7CE, 0x1D7FF }, { 0x1E140, 0x1E149 }, { 0x1E2F0, 0x1E2F9 }, { 0x1E950, 0x1E959 }, { 0x1F100, 0x1F10A },
    { 0x1FBF0, 0x1FBF9 },
};

static bool in_ranges(int32_t c, const range *r, size_t n) {
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (c < r[mid].first)
            hi = mid;
        else if (c > r[mid].last)
            lo = mid + 1;
        else
            return true;
    }
    return false;
}
static bool is_space(int32_t c) {
    return in_ranges(c, spaces, sizeof spaces / sizeof spaces[0]);
}
static bool is_digit(int32_t c) {
    return in_ranges(c, digits, sizeof digits / sizeof digits[0]);
}

/* The code point at p (a byte that is no UTF-8: -1) and how many bytes it takes. */
static size_t next_char(const char *p, const char *end, int32_t *c) {
    utf8proc_int32_t got;
    utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)p, end - p, &got);
    if (n <= 0) {
        *c = -1;
        return 1;
    }
    *c = got;
    return (size_t)n;
}

static const char *find(const char *s, size_t len, const char *part, size_t part_len) {
    return part_len == 0 ? s : memmem(s, len, part, part_len);
}

/* The last of the occurrences that do not overlap, counted from the left: what str.split leaves as its last piece
 * begins behind it. */
static const char *find_last(const char *s, size_t len, const char *part, size_t part_len) {
    const char *end = s + len, *last = NULL;
    for (const char *p; (p = find(s, (size_t)(end - s), part, part_len)); s = p + part_len) last = p;
    return last;
}

static void push_stripped(lua_State *L, const char *s, size_t len) {
    const char *end = s + len;
    int32_t c;
    while (s < end) {
        size_t n = next_char(s, end, &c);
        if (!is_space(c)) break;
        s += n;
    }
    while (end > s) {
        const char *p = end - 1;
        while (p > s && end - p < 4 && ((unsigned char)*p & 0xC0) == 0x80) p--;
        if (next_char(p, end, &c) != (size_t)(end - p) || !is_space(c)) break;
        end = p;
    }
    lua_pushlstring(L, s, (size_t)(end - s));
}

static int text_strip(lua_State *L) {
    size_t len;
    const char *s = luaL_checklstring(L, 1, &len);
    push_stripped(L, s, len);
    return 1;
}

static int text_lower(lua_State *L) {
    size_t len;
    const char *s = luaL_checklstring(L, 1, &len), *end = s + len;
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    while (s < end) {
        if ((unsigned char)*s < 0x80) {
            luaL_addchar(&b, (char)(*s >= 'A' && *s <= 'Z' ? *s + 32 : *s));
            s++;
            continue;
        }
        int32_t c;
        size_t n = next_char(s, end, &c);
        if (c < 0) {
            luaL_addlstring(&b, s, n);
        } else {
            utf8proc_uint8_t out[4];
            utf8proc_ssize_t m = utf8proc_encode_char(utf8proc_tolower(c), out);
            luaL_addlstring(&b, (const char *)out, (size_t)m);
        }
        s += n;
    }
    luaL_pushresult(&b);
    return 1;
}

/* upper(s): one character for one. What becomes several (U+00DF) stays as it is. */
static int text_upper(lua_State *L) {
    size_t len;
    const char *s = luaL_checklstring(L, 1, &len), *end = s + len;
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    while (s < end) {
        int32_t c;
        size_t n = next_char(s, end, &c);
        if (c < 0) {
            luaL_addlstring(&b, s, n);
        } else {
            utf8proc_uint8_t out[4];
            utf8proc_ssize_t m = utf8proc_encode_char(utf8proc_toupper(c), out);
            luaL_addlstring(&b, (const char *)out, (size_t)m);
        }
        s += n;
    }
    luaL_pushresult(&b);
    return 1;
}

/* count(s, part): occurrences that do not overlap. */
static int text_count(lua_State *L) {
    size_t len, part_len;
    const char *s = luaL_checklstring(L, 1, &len), *part = luaL_checklstring(L, 2, &part_len), *end = s + len;
    luaL_argcheck(L, part_len > 0, 2, "the part is empty");
    int n = 0;
    for (const char *p; (p = find(s, (size_t)(end - s), part, part_len)); s = p + part_len) n++;
    lua_pushinteger(L, n);
    return 1;
}

static int text_contains(lua_State *L) {
    size_t len, part_len;
    const char *s = luaL_checklstring(L, 1, &len), *part = luaL_checklstring(L, 2, &part_len);
    lua_pushboolean(L, find(s, len, part, part_len) != NULL);
    return 1;
}

/* after_last(s, mark): what follows the last mark; all of s when there is none (Python: s.split(mark)[-1]). */
static int text_after_last(lua_State *L) {
    size_t len, mark_len;
    const char *s = luaL_checklstring(L, 1, &len), *mark = luaL_checklstring(L, 2, &mark_len);
    luaL_argcheck(L, mark_len > 0, 2, "the mark is empty");
    const char *p = find_last(s, len, mark, mark_len);
    if (p)
        lua_pushlstring(L, p + mark_len, len - (size_t)(p + mark_len - s));
    else
        lua_pushvalue(L, 1);
    return 1;
}

/* before_first(s, mark): what comes before the first mark; all of s when there is none (Python: s.split(mark)[0]). */
static int text_before_first(lua_State *L) {
    size_t len, mark_len;
    const char *s = luaL_checklstring(L, 1, &len), *mark = luaL_checklstring(L, 2, &mark_len);
    luaL_argcheck(L, mark_len > 0, 2, "the mark is empty");
    const char *p = find(s, len, mark, mark_len);
    if (p)
        lua_pushlstring(L, s, (size_t)(p - s));
    else
        lua_pushvalue(L, 1);
    return 1;
}

/* last_between(s, open, close): between the last `open` and the first `close` behind it, stripped; nil when either is
 * missing. */
static int text_last_between(lua_State *L) {
    size_t len, open_len, close_len;
    const char *s = luaL_checklstring(L, 1, &len), *open = luaL_checklstring(L, 2, &open_len);
    const char *close = luaL_checklstring(L, 3, &close_len);
    luaL_argcheck(L, open_len > 0, 2, "the mark is empty");
    luaL_argcheck(L, close_len > 0, 3, "the mark is empty");
    const char *p = find_last(s, len, open, open_len);
    if (!p) return 0;
    p += open_len;
    size_t left = len - (size_t)(p - s);
    const char *q = find(p, left, close, close_len);
    if (!q) return 0;
    push_stripped(L, p, (size_t)(q - p));
    return 1;
}

/* ulen(s): code points. */
static int text_ulen(lua_State *L) {
    size_t len;
    const char *s = luaL_checklstring(L, 1, &len), *end = s + len;
    int n = 0;
    int32_t c;
    while (s < end) {
        uint64_t eight;
        if (end - s >= 8 && (memcpy(&eight, s, 8), eight & 0x8080808080808080u) == 0) { /* ASCII, as most text is */
            s += 8;
            n += 8;
            continue;
        }
        s += (unsigned char)*s < 0x80 ? 1 : next_char(s, end, &c);
        n++;
    }
    lua_pushinteger(L, n);
    return 1;
}

/* FNV-1a over the text without outer white space, each run of inner white space one blank. */
uint64_t mr_text_key(const char *s, size_t len) {
    const char *end = s + len;
    uint64_t h = 0xcbf29ce484222325u;
    bool begun = false, gap = false;
    while (s < end) {
        int32_t c = (unsigned char)*s;
        size_t n = c < 0x80 ? 1 : next_char(s, end, &c);
        if (is_space(c)) {
            gap = begun;
        } else {
            if (gap) h = (h ^ ' ') * 0x100000001b3u;
            for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 0x100000001b3u;
            begun = true;
            gap = false;
        }
        s += n;
    }
    return h;
}

/* is_digit(s): not empty, and digits only. */
static int text_is_digit(lua_State *L) {
    size_t len;
    const char *s = luaL_checklstring(L, 1, &len), *end = s + len;
    bool all = len > 0;
    while (all && s < end) {
        int32_t c;
        s += next_char(s, end, &c);
        all = is_digit(c);
    }
    lua_pushboolean(L, all);
    return 1;
}

int mr_lib_text(lua_State *L) {
    static const luaL_Reg f[] = { { "strip", text_strip },
                                  { "lower", text_lower },
                                  { "upper", text_upper },
                                  { "count", text_count },
                                  { "contains", text_contains },
                                  { "after_last", text_after_last },
                                  { "before_first", text_before_first },
                                  { "last_between", text_last_between },
                                  { "ulen", text_ulen },
                                  { "is_digit", text_is_digit },
                                  { NULL, NULL } };
    lua_createtable(L, 0, 10);
    luaL_register(L, NULL, f);
    return 1;
}
