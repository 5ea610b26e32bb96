/* lib_re.c - medrl.re: PCRE2 for text that a model wrote. Every match has limits, so no text holds a worker for long.
 *
 * compile(pattern, flags) -> object; flags: i (no case), m (^ and $ at lines), s (. takes "\n"), x (spaces in the
 * pattern do not count), u (\d, \w, \s by Unicode).
 *
 *   o:test(s)           true when the pattern is found anywhere
 *   o:match(s)          at the start only, as Python's re.match: the captures, or the whole match without any; nil
 *   o:find(s [, init])  first and last byte and the captures; nil
 *   o:gmatch(s)         iterator over captures (or whole matches)
 *   o:gsub(s, repl)     replaced text and count; repl is a string taken literally, or a function of the captures
 *
 * A match that exceeds its limits is no match, with a second result that says so.
 *
 * Semantics: UTF-8 (invalid bytes match nothing), newline is "\n" alone, $ also before a final "\n"
 * (spec/rewards.md, 4.2).
 *
 * Limits: 100 k match steps and 16 MiB heap a call, patterns of 4 kB, \C refused (reliability.md, section 3, item 7). */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "script/worker.h"

enum {
    MATCH_LIMIT = 100000,
    HEAP_LIMIT_KIB = 16 << 10,
    PATTERN_MAX = 4096,
    JIT_STACK_MAX = 1 << 20,
    MAX_PATTERNS = 1024
};
static const char regex_name[] = "medrl.regex";

typedef struct regex {
    pcre2_code *code;
    pcre2_match_data *data;
} regex;

/* One process is one worker: its match context lives as long as it. */
static pcre2_match_context *match_context;
static pcre2_compile_context *compile_context;
static int n_patterns;

static regex *check_regex(lua_State *L) {
    return luaL_checkudata(L, 1, regex_name);
}

static int regex_gc(lua_State *L) {
    regex *r = check_regex(L);
    if (r->code) n_patterns--;
    pcre2_code_free(r->code);
    pcre2_match_data_free(r->data);
    r->code = NULL;
    r->data = NULL;
    return 0;
}

static bool contexts(void) {
    if (match_context) return true;
    match_context = pcre2_match_context_create(NULL);
    compile_context = pcre2_compile_context_create(NULL);
    if (!match_context || !compile_context) return false;
    pcre2_set_match_limit(match_context, MATCH_LIMIT);
    pcre2_set_heap_limit(match_context, HEAP_LIMIT_KIB);
    pcre2_set_newline(compile_context, PCRE2_NEWLINE_LF);
    pcre2_set_max_pattern_length(compile_context, PATTERN_MAX);
    pcre2_set_parens_nest_limit(compile_context, 100);
    pcre2_jit_stack *stack = pcre2_jit_stack_create(32 << 10, JIT_STACK_MAX, NULL);
    if (stack) pcre2_jit_stack_assign(match_context, NULL, stack);
    return true;
}

static int re_compile(lua_State *L) {
    size_t len, n_flags;
    const char *pattern = luaL_checklstring(L, 1, &len), *flags = luaL_optlstring(L, 2, "", &n_flags);
    uint32_t options = PCRE2_UTF | PCRE2_MATCH_INVALID_UTF | PCRE2_NEVER_BACKSLASH_C;
    for (size_t i = 0; i < n_flags; i++) {
        switch (flags[i]) {
        case 'i': options |= PCRE2_CASELESS; break;
        case 'm': options |= PCRE2_MULTILINE; break;
        case 's': options |= PCRE2_DOTALL; break;
        case 'x': options |= PCRE2_EXTENDED; break;
        case 'u': options |= PCRE2_UCP; break;
        default: return luaL_error(L, "re.compile: unknown flag \"%c\", want some of i, m, s, x, u", flags[i]);
        }
    }
    if (len > PATTERN_MAX)
        return luaL_error(L, "re.compile: the pattern has %d bytes, want at most %d", (int)len, PATTERN_MAX);
    if (n_patterns >= MAX_PATTERNS)
        return luaL_error(L, "re.compile: %d patterns are alive; compile once, when the file is loaded", n_patterns);
    if (!contexts()) return luaL_error(L, "re.compile: not enough memory");
    regex *r = lua_newuserdata(L, sizeof *r);
    memset(r, 0, sizeof *r);
    luaL_getmetatable(L, regex_name);
    lua_setmetatable(L, -2);
    int code;
    PCRE2_SIZE at;
    r->code = pcre2_compile((PCRE2_SPTR)pattern, len, options, &code, &at, compile_context);
    if (!r->code) {
        PCRE2_UCHAR text[160];
        pcre2_get_error_message(code, text, sizeof text);
        return luaL_error(L, "re.compile: %s, at byte %d of \"%s\"", (const char *)text, (int)at, pattern);
    }
    n_patterns++;
    pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE); /* where this fails the interpreter does the same work */
    r->data = pcre2_match_data_create_from_pattern(r->code, NULL);
    if (!r->data) return luaL_error(L, "re.compile: not enough memory");
    return 1;
}

/* 1 match, 0 none, -1 a limit was hit. */
static int run(lua_State *L, regex *r, const char *s, size_t len, size_t start, uint32_t options) {
    int rc = pcre2_match(r->code, (PCRE2_SPTR)s, len, start, options, r->data, match_context);
    if (rc >= 0) return 1;
    if (rc == PCRE2_ERROR_NOMATCH || rc == PCRE2_ERROR_BADUTFOFFSET) return 0;
    if (rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_DEPTHLIMIT || rc == PCRE2_ERROR_HEAPLIMIT ||
        rc == PCRE2_ERROR_JIT_STACKLIMIT)
        return -1;
    PCRE2_UCHAR text[160];
    pcre2_get_error_message(rc, text, sizeof text);
    return luaL_error(L, "re: %s", (const char *)text);
}

static int push_limit(lua_State *L, bool as_false) {
    if (as_false)
        lua_pushboolean(L, 0);
    else
        lua_pushnil(L);
    lua_pushliteral(L, "match limit reached");
    return 2;
}

/* The captures, or the whole match when the pattern has none. Returns how many were pushed. */
static int push_captures(lua_State *L, regex *r, const char *s) {
    uint32_t n;
    pcre2_pattern_info(r->code, PCRE2_INFO_CAPTURECOUNT, &n);
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(r->data);
    if (n > 200) luaL_error(L, "re: %d captures, want at most 200", (int)n);
    luaL_checkstack(L, (int)n + 2, "captures");
    if (n == 0) {
        lua_pushlstring(L, s + at[0], at[1] - at[0]);
        return 1;
    }
    for (uint32_t i = 1; i <= n; i++) {
        if (at[2 * i] == PCRE2_UNSET)
            lua_pushnil(L);
        else
            lua_pushlstring(L, s + at[2 * i], at[2 * i + 1] - at[2 * i]);
    }
    return (int)n;
}

static int regex_test(lua_State *L) {
    regex *r = check_regex(L);
    size_t len;
    const char *s = luaL_checklstring(L, 2, &len);
    int got = run(L, r, s, len, 0, 0);
    if (got < 0) return push_limit(L, true);
    lua_pushboolean(L, got);
    return 1;
}

static int regex_match(lua_State *L) {
    regex *r = check_regex(L);
    size_t len;
    const char *s = luaL_checklstring(L, 2, &len);
    int got = run(L, r, s, len, 0, PCRE2_ANCHORED);
    if (got < 0) return push_limit(L, false);
    return got ? push_captures(L, r, s) : 0;
}

static int regex_find(lua_State *L) {
    regex *r = check_regex(L);
    size_t len;
    const char *s = luaL_checklstring(L, 2, &len);
    lua_Integer init = luaL_optinteger(L, 3, 1);
    if (init < 1 || (size_t)init > len + 1) return 0;
    int got = run(L, r, s, len, (size_t)init - 1, 0);
    if (got < 0) return push_limit(L, false);
    if (!got) return 0;
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(r->data);
    lua_pushinteger(L, (lua_Integer)at[0] + 1);
    lua_pushinteger(L, (lua_Integer)at[1]);
    uint32_t n;
    pcre2_pattern_info(r->code, PCRE2_INFO_CAPTURECOUNT, &n);
    return n ? 2 + push_captures(L, r, s) : 2;
}

/* Where the search goes on: behind the match, one character further when it was empty. */
static size_t next_start(regex *r, const char *s, size_t len) {
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(r->data);
    size_t next = at[1];
    if (at[1] > at[0]) return next;
    next++;
    while (next < len && ((unsigned char)s[next] & 0xC0) == 0x80) next++;
    return next;
}

static int gmatch_next(lua_State *L) {
    regex *r = luaL_checkudata(L, lua_upvalueindex(1), regex_name);
    size_t len;
    const char *s = lua_tolstring(L, lua_upvalueindex(2), &len);
    size_t start = (size_t)lua_tonumber(L, lua_upvalueindex(3));
    if (start > len || run(L, r, s, len, start, 0) != 1) return 0;
    lua_pushnumber(L, (lua_Number)next_start(r, s, len));
    lua_replace(L, lua_upvalueindex(3));
    return push_captures(L, r, s);
}

static int regex_gmatch(lua_State *L) {
    check_regex(L);
    luaL_checkstring(L, 2);
    lua_settop(L, 2);
    lua_pushinteger(L, 0);
    lua_pushcclosure(L, gmatch_next, 3);
    return 1;
}

static int regex_gsub(lua_State *L) {
    regex *r = check_regex(L);
    size_t len, repl_len = 0;
    const char *s = luaL_checklstring(L, 2, &len), *repl = NULL;
    if (lua_type(L, 3) == LUA_TSTRING)
        repl = lua_tolstring(L, 3, &repl_len);
    else
        luaL_checktype(L, 3, LUA_TFUNCTION);
    lua_settop(L, 3);
    lua_createtable(L, 16, 0); /* the pieces: a luaL_Buffer cannot live across calls to Lua */
    int n_pieces = 0, n = 0;
    size_t start = 0, copied = 0;
    while (start <= len) {
        int got = run(L, r, s, len, start, 0);
        if (got < 0) return push_limit(L, false);
        if (!got) break;
        const PCRE2_SIZE *at = pcre2_get_ovector_pointer(r->data);
        size_t from = at[0], to = at[1];
        start = next_start(r, s, len);
        lua_pushlstring(L, s + copied, from - copied);
        lua_rawseti(L, 4, ++n_pieces);
        if (repl) {
            lua_pushlstring(L, repl, repl_len);
        } else {
            lua_pushvalue(L, 3);
            int n_args = push_captures(L, r, s);
            lua_call(L, n_args, 1); /* may use this pattern again: the offsets were read before */
            if (!lua_toboolean(L, -1)) {
                lua_pop(L, 1);
                lua_pushlstring(L, s + from, to - from);
            } else if (!lua_isstring(L, -1)) {
                return luaL_error(L, "gsub: the function returned a %s, want a string", luaL_typename(L, -1));
            }
        }
        lua_rawseti(L, 4, ++n_pieces);
        copied = to;
        n++;
    }
    lua_pushlstring(L, s + copied, len - copied);
    lua_rawseti(L, 4, ++n_pieces);
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (int i = 1; i <= n_pieces; i++) {
        lua_rawgeti(L, 4, i);
        luaL_addvalue(&b);
    }
    luaL_pushresult(&b);
    lua_pushinteger(L, n);
    return 2;
}

int mr_lib_re(lua_State *L) {
    static const luaL_Reg methods[] = { { "test", regex_test },     { "match", regex_match }, { "find", regex_find },
                                        { "gmatch", regex_gmatch }, { "gsub", regex_gsub },   { NULL, NULL } };
    luaL_newmetatable(L, regex_name);
    lua_pushcfunction(L, regex_gc);
    lua_setfield(L, -2, "__gc");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_createtable(L, 0, 5);
    luaL_register(L, NULL, methods);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
    lua_createtable(L, 0, 2);
    lua_pushcfunction(L, re_compile);
    lua_setfield(L, -2, "compile");
    /* Python's \s on str, as a class: PCRE2's own \s lacks U+001C..1F even with the flag u. */
    lua_pushliteral(L, "[\\x09-\\x0d\\x1c-\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"
                       "\\x{205f}\\x{3000}]");
    lua_setfield(L, -2, "space");
    return 1;
}
