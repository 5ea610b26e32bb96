/* convert.c - JSON to Lua and back. What becomes an array or an object, and in which order, is decided here and nowhere
 * else.
 *
 * Arrays from JSON carry a metatable of their own, so that an empty list goes back as [] and not as {}. A table without
 * it is an array when its keys are exactly 1..n with n > 0. Keys leave sorted by bytes: the order of `pairs` differs
 * between processes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"
#include "script/worker.h"

static const char array_key; /* registry: the metatable of arrays */
enum { MAX_DEPTH = 64 };
static const char encoder_name[] = "medrl.encoder";

typedef struct encoder {
    mr_str out;
    mr_arena keys;
} encoder;

static int encoder_gc(lua_State *L) {
    encoder *e = lua_touserdata(L, 1);
    mr_str_clear(&e->out);
    mr_arena_clear(&e->keys);
    return 0;
}

void mr_convert_open(lua_State *L) {
    lua_pushlightuserdata(L, (void *)&array_key);
    lua_createtable(L, 0, 1);
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_rawset(L, LUA_REGISTRYINDEX);
    luaL_newmetatable(L, encoder_name);
    lua_pushcfunction(L, encoder_gc);
    lua_setfield(L, -2, "__gc");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
}

static encoder *push_encoder(lua_State *L) {
    encoder *e = lua_newuserdata(L, sizeof *e);
    memset(e, 0, sizeof *e);
    luaL_getmetatable(L, encoder_name);
    lua_setmetatable(L, -2);
    return e;
}

/* --- JSON to Lua --- */

void mr_lua_push_json(lua_State *L, const cJSON *item, bool keep_null) {
    luaL_checkstack(L, 6, "JSON is nested too deep");
    if (cJSON_IsString(item)) {
        lua_pushstring(L, item->valuestring);
    } else if (cJSON_IsNumber(item)) {
        lua_pushnumber(L, item->valuedouble);
    } else if (cJSON_IsBool(item)) {
        lua_pushboolean(L, cJSON_IsTrue(item));
    } else if (cJSON_IsArray(item)) {
        lua_createtable(L, cJSON_GetArraySize(item), 0);
        int n = 0;
        for (const cJSON *c = item->child; c; c = c->next) {
            mr_lua_push_json(L, c, keep_null); /* a null in a list keeps its place in any case */
            lua_rawseti(L, -2, ++n);
        }
        lua_pushlightuserdata(L, (void *)&array_key);
        lua_rawget(L, LUA_REGISTRYINDEX);
        lua_setmetatable(L, -2);
    } else if (cJSON_IsObject(item)) {
        lua_createtable(L, 0, cJSON_GetArraySize(item));
        for (const cJSON *c = item->child; c; c = c->next) {
            if (cJSON_IsNull(c) && !keep_null) continue;
            lua_pushstring(L, c->string);
            mr_lua_push_json(L, c, keep_null);
            lua_rawset(L, -3);
        }
    } else {
        lua_pushlightuserdata(L, NULL); /* json.null */
    }
}

/* The same from text that mr_json_check has passed, without a tree in between: it is what opening a large data set
 * spends its time on. The text is trusted here, so nothing is checked twice. Values wait on the stack until a table's
 * size is known (up to AT_ONCE of them: 64 levels of that fit LuaJIT's 8000 slots). */
enum { AT_ONCE = 48 };

static const char *next_token(const char *p) {
    while (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r') p++;
    return p;
}

static unsigned hex4(const char *p) {
    unsigned v = 0;
    for (int i = 0; i < 4; i++) v = v << 4 | (unsigned)(p[i] <= '9' ? p[i] - '0' : (p[i] | 0x20) - 'a' + 10);
    return v;
}

/* The string at p (on its quote); gives what is behind it. */
static const char *push_string(lua_State *L, const char *p, const char *end) {
    const char *from = ++p, *quote = memchr(p, '"', (size_t)(end - p));
    const char *slash = memchr(p, '\\', (size_t)(quote - p));
    if (!slash) {
        lua_pushlstring(L, from, (size_t)(quote - from));
        return quote + 1;
    }
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (p = slash; *p != '"';) {
        luaL_addlstring(&b, from, (size_t)(p - from));
        static const char names[] = "bfnrt", bytes[] = "\b\f\n\r\t";
        const char *simple = strchr(names, p[1]);
        if (p[1] == 'u') {
            unsigned cp = hex4(p + 2);
            p += 6;
            if (cp >= 0xd800 && cp <= 0xdbff) {
                cp = 0x10000 + ((cp - 0xd800) << 10) + (hex4(p + 2) - 0xdc00);
                p += 6;
            }
            char utf8[4];
            int n = mr_utf8_put(utf8, cp);
            luaL_addlstring(&b, utf8, (size_t)n);
        } else {
            luaL_addchar(&b, simple ? bytes[simple - names] : p[1]);
            p += 2;
        }
        for (from = p; *p != '"' && *p != '\\';) p++;
    }
    luaL_addlstring(&b, from, (size_t)(p - from));
    luaL_pushresult(&b);
    return p + 1;
}

static const char *push_number(lua_State *L, const char *p, const char *end) {
    char copy[64]; /* the check admits 62 characters */
    size_t n = 0;
    while (p + n < end && n < sizeof copy - 1 && (strchr("+-.eE", p[n]) ? p[n] != '\0' : p[n] >= '0' && p[n] <= '9')) {
        copy[n] = p[n];
        n++;
    }
    copy[n] = '\0';
    lua_pushnumber(L, strtod(copy, NULL));
    return p + n;
}

static const char *push_text(lua_State *L, const char *p, const char *end, bool keep_null);

static const char *push_array(lua_State *L, const char *p, const char *end) {
    int waiting = 0, stored = 0, table = 0;
    luaL_checkstack(L, AT_ONCE + 20, "JSON is nested too deep");
    for (p = next_token(p + 1); *p != ']';) {
        p = next_token(push_text(L, p, end, true)); /* a null in a list keeps its place */
        if (table)
            lua_rawseti(L, table, ++stored);
        else
            waiting++;
        if (*p == ',') p = next_token(p + 1);
        if (table || (*p != ']' && waiting < AT_ONCE)) continue;
        table = lua_gettop(L) - waiting + 1;
        lua_createtable(L, waiting, 0);
        lua_insert(L, table);
        stored = waiting;
        for (; waiting > 0; waiting--) lua_rawseti(L, table, waiting);
    }
    if (!table) lua_createtable(L, 0, 0);
    lua_pushlightuserdata(L, (void *)&array_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    lua_setmetatable(L, -2);
    return p + 1;
}

static const char *push_object(lua_State *L, const char *p, const char *end, bool keep_null) {
    int waiting = 0, table = 0;
    luaL_checkstack(L, 2 * AT_ONCE + 20, "JSON is nested too deep");
    for (p = next_token(p + 1); *p != '}';) {
        p = next_token(push_string(L, p, end));
        p = next_token(p + 1); /* the colon */
        if (*p == 'n' && !keep_null) {
            lua_pop(L, 1);
            p = next_token(p + 4);
        } else {
            p = next_token(push_text(L, p, end, keep_null));
            if (table)
                lua_rawset(L, table);
            else
                waiting++;
        }
        if (*p == ',') p = next_token(p + 1);
        if (table || (*p != '}' && waiting < AT_ONCE)) continue;
        table = lua_gettop(L) - 2 * waiting + 1;
        lua_createtable(L, 0, waiting);
        lua_insert(L, table);
        for (; waiting > 0; waiting--) lua_rawset(L, table);
    }
    if (!table) lua_createtable(L, 0, 0);
    return p + 1;
}

static const char *push_text(lua_State *L, const char *p, const char *end, bool keep_null) {
    switch (*p) {
    case '{': return push_object(L, p, end, keep_null);
    case '[': return push_array(L, p, end);
    case '"': return push_string(L, p, end);
    case 't': lua_pushboolean(L, 1); return p + 4;
    case 'f': lua_pushboolean(L, 0); return p + 5;
    case 'n': lua_pushlightuserdata(L, NULL); return p + 4; /* json.null */
    default: return push_number(L, p, end);
    }
}

void mr_lua_push_checked(lua_State *L, const char *text, size_t len, bool keep_null) {
    luaL_checkstack(L, 24, "JSON");
    const char *p = text, *end = text + len;
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')) p++;
    push_text(L, p, end, keep_null);
}

void mr_lua_copy(lua_State *L, int index) {
    if (!lua_istable(L, index)) {
        lua_pushvalue(L, index);
        return;
    }
    if (index < 0) index = lua_gettop(L) + 1 + index;
    luaL_checkstack(L, 6, "a table is nested too deep");
    int n = (int)lua_objlen(L, index);
    lua_createtable(L, n, n ? 0 : 8);
    int copy = lua_gettop(L);
    if (lua_getmetatable(L, index)) lua_setmetatable(L, copy);
    lua_pushnil(L);
    while (lua_next(L, index)) {
        lua_pushvalue(L, -2);
        mr_lua_copy(L, copy + 2);
        lua_rawset(L, copy);
        lua_pop(L, 1);
    }
}

void mr_lua_decode(lua_State *L, const char *text, size_t len, const char *place, bool keep_null) {
    mr_err err;
    if (mr_json_check(text, len, place, &err) != MR_OK) luaL_error(L, "%s", err.msg);
    mr_lua_push_checked(L, text, len, keep_null);
}

/* --- Lua to JSON --- */

typedef struct key_text {
    const char *text; /* borrowed: the table holds the string */
    size_t len;
} key_text;

static int compare_keys(const void *pa, const void *pb) {
    const key_text *a = pa, *b = pb;
    int c = memcmp(a->text, b->text, a->len < b->len ? a->len : b->len);
    return c ? c : (a->len > b->len) - (a->len < b->len);
}

static bool is_array(lua_State *L, int t, size_t *n_keys) {
    bool all_numbers = true;
    size_t n = 0;
    lua_pushnil(L);
    while (lua_next(L, t)) {
        lua_pop(L, 1);
        n++;
        if (lua_type(L, -1) != LUA_TNUMBER) all_numbers = false;
    }
    *n_keys = n;
    if (n == 0) {
        if (!lua_getmetatable(L, t)) return false;
        lua_pushlightuserdata(L, (void *)&array_key);
        lua_rawget(L, LUA_REGISTRYINDEX);
        bool array = lua_rawequal(L, -1, -2);
        lua_pop(L, 2);
        return array;
    }
    return all_numbers && lua_objlen(L, t) == n;
}

static void encode(lua_State *L, encoder *e, int t, int depth) {
    if (depth > MAX_DEPTH)
        luaL_error(L, "a table nested deeper than %d levels (or inside itself) has no JSON form", MAX_DEPTH);
    luaL_checkstack(L, 8, "JSON");
    switch (lua_type(L, t)) {
    case LUA_TNIL: mr_str_puts(&e->out, "null"); return;
    case LUA_TBOOLEAN: mr_str_puts(&e->out, lua_toboolean(L, t) ? "true" : "false"); return;
    case LUA_TNUMBER: mr_json_put_number(&e->out, lua_tonumber(L, t)); return;
    case LUA_TSTRING: {
        size_t len;
        const char *s = lua_tolstring(L, t, &len);
        mr_json_put_string(&e->out, s, len);
        return;
    }
    case LUA_TLIGHTUSERDATA: mr_str_puts(&e->out, "null"); return;
    case LUA_TTABLE: break;
    default: luaL_error(L, "a %s has no JSON form", luaL_typename(L, t));
    }
    size_t n;
    if (is_array(L, t, &n)) {
        mr_str_puts(&e->out, "[");
        for (size_t i = 1; i <= n; i++) {
            if (i > 1) mr_str_puts(&e->out, ",");
            lua_rawgeti(L, t, (int)i);
            if (lua_isnil(L, -1)) luaL_error(L, "a list with holes has no JSON form");
            encode(L, e, lua_gettop(L), depth + 1);
            lua_pop(L, 1);
        }
        mr_str_puts(&e->out, "]");
        return;
    }
    key_text *keys = mr_arena_alloc(&e->keys, (n + 1) * sizeof *keys);
    size_t at = 0;
    lua_pushnil(L);
    while (lua_next(L, t)) {
        lua_pop(L, 1);
        if (lua_type(L, -1) != LUA_TSTRING)
            luaL_error(L, "a table with a %s as key beside others has no JSON form; want a list 1..n or names",
                       luaL_typename(L, -1));
        keys[at].text = lua_tolstring(L, -1, &keys[at].len);
        at++;
    }
    qsort(keys, n, sizeof *keys, compare_keys);
    mr_str_puts(&e->out, "{");
    for (size_t i = 0; i < n; i++) {
        if (i) mr_str_puts(&e->out, ",");
        mr_json_put_string(&e->out, keys[i].text, keys[i].len);
        mr_str_puts(&e->out, ":");
        lua_pushlstring(L, keys[i].text, keys[i].len);
        lua_rawget(L, t);
        encode(L, e, lua_gettop(L), depth + 1);
        lua_pop(L, 1);
    }
    mr_str_puts(&e->out, "}");
}

void mr_lua_encode(lua_State *L, int index) {
    if (index < 0) index = lua_gettop(L) + 1 + index;
    encoder *e = push_encoder(L);
    encode(L, e, index, 0);
    if (e->out.len > MR_WIRE_MAX_BYTES / 2)
        luaL_error(L, "the JSON text has %d MiB, want at most 32", (int)(e->out.len >> 20));
    lua_pushlstring(L, e->out.data, e->out.len);
    mr_str_clear(&e->out);
    mr_arena_clear(&e->keys);
    lua_remove(L, -2);
}

/* --- medrl.json --- */

static int json_encode(lua_State *L) {
    luaL_checkany(L, 1);
    lua_settop(L, 1);
    mr_lua_encode(L, 1);
    return 1;
}

/* decode(text [, {null = false}]): nulls are json.null; with null = false absent keys instead. */
static int json_decode(lua_State *L) {
    size_t len;
    const char *text = luaL_checklstring(L, 1, &len);
    bool keep = true;
    if (lua_istable(L, 2)) {
        lua_getfield(L, 2, "null");
        keep = lua_isnil(L, -1) || lua_toboolean(L, -1);
        lua_pop(L, 1);
    }
    mr_lua_decode(L, text, len, "json.decode", keep);
    return 1;
}

/* array(t): marks a list, so that it stays one when it is empty. */
static int json_array(lua_State *L) {
    if (lua_isnoneornil(L, 1)) {
        lua_settop(L, 0);
        lua_createtable(L, 0, 0);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    lua_pushlightuserdata(L, (void *)&array_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    lua_setmetatable(L, 1);
    return 1;
}

static int json_is_array(lua_State *L) {
    size_t n;
    lua_pushboolean(L, lua_istable(L, 1) && is_array(L, 1, &n));
    return 1;
}

int mr_lib_json(lua_State *L) {
    static const luaL_Reg f[] = { { "encode", json_encode },
                                  { "decode", json_decode },
                                  { "array", json_array },
                                  { "is_array", json_is_array },
                                  { NULL, NULL } };
    lua_createtable(L, 0, 5);
    luaL_register(L, NULL, f);
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");
    return 1;
}
