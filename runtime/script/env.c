/* env.c - the Lua state of a worker: an environment built from an allow-list, and `require` over texts that the parent
 * sends.
 *
 * Nothing is taken away from a full environment; a new table gets what is on the list (CVE-2022-0543 is what the other
 * way round leads to). No io, os, debug, ffi, package, coroutine, load, loadstring, getfenv, newproxy, collectgarbage;
 * string.dump is removed from the string table itself, since every string reaches that table. Library tables and those
 * of medrl's modules are seen through read-only proxies. tostring and string.format show no addresses: they differ from
 * process to process, and are what an attacker asks for first. pairs goes by number, then by text: LuaJIT seeds the
 * hashes of strings anew in every process, and a sum over `pairs` would differ in its last bit. (Keys that are tables or
 * functions come last, in no order, and next() promises none.)
 *
 * Each file has its own global table. What stands in it when the file was loaded stays; what score() or row() writes
 * later is gone when the call ends (mr_env_reset), so that no result depends on which worker scored what before.
 * Assigning nil to a global of the file shows the loaded value again in the next call. */
#include <lualib.h>
#include <luajit.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "script/worker.h"

/* registry: what modules returned, their display names, a mark, the global tables of files */
static const char modules_key, names_key, loading_key, files_key;

static const char *const base_names[] = { "assert",   "error",    "getmetatable", "ipairs", "next",         "pairs",
                                          "pcall",    "rawequal", "rawget",       "select", "setmetatable", "tonumber",
                                          "tostring", "type",     "unpack",       "xpcall" };

mr_worker *mr_worker_of(lua_State *L) {
    void *ud;
    lua_getallocf(L, &ud);
    return ud;
}

static void *capped_alloc(void *ud, void *p, size_t old, size_t new) {
    mr_worker *w = ud;
    if (!p) old = 0;
    if (new == 0) {
        free(p);
        w->mem_used -= old;
        return NULL;
    }
    if (new > old && w->mem_used + (new - old) > w->mem_cap) return NULL;
    void *q = realloc(p, new);
    if (!q) return new <= old ? p : NULL; /* Lua takes for granted that shrinking works */
    w->mem_used += new - old;
    return q;
}

/* --- replacements of base functions --- */

static int env_print(lua_State *L) {
    int n = lua_gettop(L);
    if (mr_worker_log_full(mr_worker_of(L))) return 0; /* a flood is not even put together */
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (int i = 1; i <= n; i++) {
        if (i > 1) luaL_addchar(&b, ' ');
        size_t len;
        const char *s = NULL;
        if (lua_type(L, i) == LUA_TSTRING || lua_type(L, i) == LUA_TNUMBER) {
            s = lua_tolstring(L, i, &len);
        } else {
            s = lua_isboolean(L, i) ? (lua_toboolean(L, i) ? "true" : "false") : luaL_typename(L, i);
            len = strlen(s);
        }
        luaL_addlstring(&b, s, len);
    }
    luaL_pushresult(&b);
    size_t len;
    const char *line = lua_tolstring(L, -1, &len);
    mr_worker_log(mr_worker_of(L), MR_LOG_INFO, line, len);
    return 0;
}

static int env_rawset(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checkany(L, 2);
    luaL_checkany(L, 3);
    if (luaL_getmetafield(L, 1, "__metatable")) return luaL_error(L, "rawset: this table is protected");
    lua_settop(L, 3);
    lua_rawset(L, 1);
    return 1;
}

static int env_no_random(lua_State *L) {
    return luaL_error(L, "math.random is not there: its result would depend on the order of calls; use medrl.rng (a "
                         "function of seed and index)");
}

static int env_read_only(lua_State *L) {
    return luaL_error(L, "\"%s\" cannot be set: library tables are read-only",
                      lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : luaL_typename(L, 2));
}

/* Replaces the table at the top by an empty one that reads through to it and refuses writes. */
static void protect(lua_State *L) {
    lua_createtable(L, 0, 0);
    lua_createtable(L, 0, 3);
    lua_pushvalue(L, -3);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, env_read_only);
    lua_setfield(L, -2, "__newindex");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, -2);
    lua_remove(L, -2);
}

/* --- require --- */

static bool good_module_name(const char *s, size_t len) {
    if (len == 0 || len > 200 || memchr(s, 0, len) || strstr(s, "..")) return false;
    if (*s == '@') return true;
    for (const char *p = s; *p; p++) {
        if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') || strchr("_-./", *p)))
            return false;
    }
    return *s != '/' && *s != '.';
}

/* --- globals of files: entries 2i+1 (what a chunk writes to) and 2i+2 (what it finds, as loaded) of a list --- */

static void push_files(lua_State *L) {
    lua_pushlightuserdata(L, (void *)&files_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
}

static void lock_to(lua_State *L, int index) { /* the table at the top reads through to the one at index */
    lua_createtable(L, 0, 2);
    lua_pushvalue(L, index);
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, -2);
}

/* Pushes a new file's global table: reads fall through to what was loaded and to the shared environment. */
static void push_globals(lua_State *L) {
    push_files(L);
    int files = lua_gettop(L), n = (int)lua_objlen(L, files);
    lua_createtable(L, 0, 0);
    lock_to(L, LUA_GLOBALSINDEX);
    lua_createtable(L, 0, 0);
    lock_to(L, files + 1);
    lua_pushvalue(L, -1);
    lua_rawseti(L, files, n + 1);
    lua_pushvalue(L, files + 1);
    lua_rawseti(L, files, n + 2);
    lua_replace(L, files);
    lua_settop(L, files);
}

/* Empties the written globals of file i; keep: into the loaded ones. Raises for lack of memory, only with keep. */
static void flush_globals(lua_State *L, int files, int i, bool keep) {
    lua_rawgeti(L, files, i);
    int written = lua_gettop(L);
    lua_rawgeti(L, files, i + 1);
    lua_pushnil(L);
    while (lua_next(L, written)) {
        lua_pushvalue(L, -2);
        lua_insert(L, -2); /* key key value */
        if (keep)
            lua_rawset(L, written + 1);
        else
            lua_pop(L, 2);
        lua_pushvalue(L, -1);
        lua_pushnil(L);
        lua_rawset(L, written); /* to set a field to nil is allowed while the table is walked */
    }
    lua_settop(L, written - 1);
}

void mr_env_reset(mr_worker *w) {
    lua_State *L = w->L;
    push_files(L);
    int files = lua_gettop(L), n = (int)lua_objlen(L, files);
    for (int i = 1; i < n; i += 2) flush_globals(L, files, i, false);
    lua_settop(L, files - 1);
}

void mr_env_keep(mr_worker *w) {
    lua_State *L = w->L;
    push_files(L);
    int files = lua_gettop(L), n = (int)lua_objlen(L, files);
    for (int i = 1; i < n; i += 2) flush_globals(L, files, i, true);
    lua_settop(L, files - 1);
}

/* Pushes the chunk of a text that was just received. */
static void load_text(lua_State *L, const char *name, const char *text, size_t len) {
    lua_pushfstring(L, "@%s", name);
    if (len > 0 && (unsigned char)text[0] == 0x1b)
        luaL_error(L, "%s: byte 0: this is bytecode, want Lua source text", name);
    if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        text += 3;
        len -= 3;
    }
    if (luaL_loadbufferx(L, text, len, lua_tostring(L, -1), "t") != 0) lua_error(L);
    lua_remove(L, -2);
    push_globals(L);
    lua_setfenv(L, -2);
}

void mr_env_require(lua_State *L, const char *name) {
    luaL_checkstack(L, 20, "require");
    lua_pushlightuserdata(L, (void *)&modules_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    lua_getfield(L, -1, name);
    if (lua_touserdata(L, -1) == &loading_key)
        luaL_error(L, "module \"%s\" requires itself, through the files in between", name);
    if (!lua_isnil(L, -1)) {
        lua_remove(L, -2);
        return;
    }
    lua_pop(L, 1);
    mr_worker *w = mr_worker_of(L);
    mr_frame f = mr_worker_ask(w, MR_WIRE_NEED_TEXT, name, strlen(name), MR_WIRE_TEXT);
    mr_take t = mr_take_frame(&f);
    unsigned found = mr_take_u8(&t);
    char place[256];
    mr_take_string(&t, place, sizeof place);
    if (!found) {
        mr_take again = mr_take_frame(&f);
        mr_take_u8(&again);
        size_t len;
        const char *reason = mr_take_bytes(&again, &len);
        luaL_where(L, 1); /* the file that asks; the program's own have nothing to mend */
        if (strncmp(lua_tostring(L, -1), "lua/medrl/", 10) == 0) {
            lua_pop(L, 1);
            lua_pushliteral(L, "");
        }
        lua_pushlstring(L, reason, len);
        lua_concat(L, 2);
        lua_error(L);
    }
    size_t len;
    const char *text = mr_take_bytes(&t, &len);
    push_files(L);
    int file = (int)lua_objlen(L, -1) + 1;
    lua_pop(L, 1);
    load_text(L, place, text, len); /* the frame is not looked at again: loading may ask for more */
    lua_pushlightuserdata(L, (void *)&names_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    lua_pushstring(L, place);
    lua_setfield(L, -2, name);
    lua_pop(L, 1);
    lua_pushlightuserdata(L, (void *)&loading_key);
    lua_setfield(L, -3, name);
    lua_pushstring(L, name);
    if (lua_pcall(L, 1, 1, 0) != 0) {
        lua_pushnil(L);
        lua_setfield(L, -3, name);
        /* What has no place of its own (memory, error objects) gets the file's, not that of who asked for it. */
        if (lua_type(L, -1) != LUA_TSTRING)
            lua_pushfstring(L, "%s: the error object is a %s, want a string", place, luaL_typename(L, -1));
        else if (!strstr(lua_tostring(L, -1), ".lua:"))
            lua_pushfstring(L, "%s: %s", place, lua_tostring(L, -1));
        lua_error(L);
    }
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_pushboolean(L, 1);
    }
    push_files(L);
    flush_globals(L, lua_gettop(L), file, true);
    lua_pop(L, 1);
    if (lua_istable(L, -1) && strncmp(name, "medrl.", 6) == 0) protect(L);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, name);
    lua_remove(L, -2);
}

static int env_require(lua_State *L) {
    size_t len;
    const char *name = luaL_checklstring(L, 1, &len);
    if (!good_module_name(name, len))
        return luaL_error(L, "require: \"%s\" is no module name; want \"folder.file\" on the Lua path", name);
    if (strcmp(name, "medrl.worker") == 0) return luaL_error(L, "require: \"%s\" is the program's own", name);
    mr_env_require(L, name);
    return 1;
}

/* place(module): the display name of a loaded module's file, for messages. */
static int env_place(lua_State *L) {
    const char *name = luaL_checkstring(L, 1);
    lua_pushlightuserdata(L, (void *)&names_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    lua_getfield(L, -1, name);
    if (lua_isnil(L, -1)) lua_pushstring(L, name);
    return 1;
}

/* where(f): "FILE:LINE" of a function, for messages about it. */
static int env_where(lua_State *L) {
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_settop(L, 1);
    lua_Debug ar;
    lua_getinfo(L, ">S", &ar);
    lua_pushfstring(L, "%s:%d", ar.short_src, ar.linedefined);
    return 1;
}

static int lib_host(lua_State *L) {
    lua_createtable(L, 0, 3);
    lua_pushliteral(L, MR_RECIPE_FAULT);
    lua_setfield(L, -2, "recipe_fault");
    lua_pushcfunction(L, env_place);
    lua_setfield(L, -2, "place");
    lua_pushcfunction(L, env_where);
    lua_setfield(L, -2, "where");
    return 1;
}

/* --- building it --- */

/* In Lua, so that the compiler sees through them. What is no text yet shows as its kind: "table", "function". */
static const char prelude[] =
    "local tostring0, format0, pairs0, type, select, gsub, gmatch, error, unpack, next, rawget, sort = ...\n"
    "local function tostring(v)\n"
    "  local kind = type(v)\n"
    "  if kind == 'string' or kind == 'number' or kind == 'boolean' or kind == 'nil' then return tostring0(v) end\n"
    "  local s = tostring0(v)\n"
    "  s = gsub(s, '^' .. kind .. ': 0x%x+$', kind)\n"
    "  s = gsub(s, '^' .. kind .. ': builtin#%d+$', kind)\n"
    "  return (gsub(s, '^userdata: NULL$', 'userdata'))\n"
    "end\n"
    "local directive = '%%([-+ #0%d.]*)(.?)'\n"
    "local known, n_known = {}, 0\n"
    "local function learn(f)\n"
    "  if type(f) ~= 'string' then return end\n"
    "  for _, conversion in gmatch(f, directive) do\n"
    "    if conversion == 'p' then error('string.format: %p is not there, it would show an address', 3) end\n"
    "  end\n"
    "  if n_known >= 256 then known, n_known = {}, 0 end\n"
    "  known[f], n_known = true, n_known + 1\n"
    "end\n"
    "local function shown(kind) return kind == 'table' or kind == 'function' or kind == 'userdata' end\n"
    "local function slow(f, ...)\n"
    "  local args, i = { ... }, 0\n"
    "  for _, conversion in gmatch(f, directive) do\n"
    "    if conversion ~= '%' then i = i + 1 end\n"
    "    if conversion == 's' and shown(type(args[i])) then args[i] = tostring(args[i]) end\n"
    "  end\n"
    "  return format0(f, unpack(args, 1, select('#', ...)))\n"
    "end\n"
    "local function format(f, ...)\n"
    "  if f == nil or not known[f] then learn(f) end\n"
    "  local a, b, c, d = ...\n"
    "  if select('#', ...) > 4 or shown(type(a)) or shown(type(b)) or shown(type(c)) or shown(type(d)) then\n"
    "    return slow(f, ...)\n"
    "  end\n"
    "  return format0(f, ...)\n" /* a tail call: a wrong argument is reported at the caller's line */
    "end\n"
    "local function before(a, b)\n"
    "  local x, y = type(a), type(b)\n"
    "  if x ~= y then return x == 'number' or (x == 'string' and y ~= 'number') end\n"
    "  return (x == 'number' or x == 'string') and a < b\n"
    "end\n"
    "local function pairs(t)\n"
    "  if type(t) ~= 'table' then return pairs0(t) end\n"
    "  local keys, n, names = {}, 0, 0\n"
    "  for key in next, t do\n"
    "    local kind = type(key)\n"
    "    n = n + 1\n"
    "    keys[n] = key\n"
    "    if kind == 'string' then names = names + 1 end\n"
    "  end\n"
    "  if names == 0 or n < 2 then return next, t, nil end\n" /* no seed in the hash of a number */
    "  if names == n then sort(keys) else sort(keys, before) end\n"
    "  local i = 0\n"
    "  return function()\n"
    "    while i < n do\n"
    "      i = i + 1\n"
    "      local key = keys[i]\n"
    "      local value = rawget(t, key)\n"
    "      if value ~= nil then return key, value end\n" /* it may have been taken out on the way */
    "    end\n"
    "  end\n"
    "end\n"
    "return tostring, format, pairs\n";

/* Leaves tostring and pairs in the environment at `env`, and format in the string library itself. */
static void run_prelude(lua_State *L, int env) {
    if (luaL_loadbufferx(L, prelude, sizeof prelude - 1, "=lua/medrl/(base)", "t") != 0) lua_error(L);
    lua_getglobal(L, "string");
    int lib = lua_gettop(L);
    lua_pushvalue(L, lib - 1);
    lua_getglobal(L, "tostring");
    lua_getfield(L, lib, "format");
    lua_getglobal(L, "pairs");
    lua_getglobal(L, "type");
    lua_getglobal(L, "select");
    lua_getfield(L, lib, "gsub");
    lua_getfield(L, lib, "gmatch");
    lua_getglobal(L, "error");
    lua_getglobal(L, "unpack");
    lua_getglobal(L, "next");
    lua_getglobal(L, "rawget");
    lua_getglobal(L, "table");
    lua_getfield(L, -1, "sort");
    lua_remove(L, -2);
    lua_call(L, 12, 3);
    lua_setfield(L, env, "pairs");
    lua_setfield(L, lib, "format");
    lua_setfield(L, env, "tostring");
    lua_settop(L, lib - 2);
}

static void open_lib(lua_State *L, lua_CFunction f, const char *name) {
    lua_pushcfunction(L, f);
    lua_pushstring(L, name);
    lua_call(L, 1, 0);
}

static void add_module(lua_State *L, lua_CFunction f, const char *name) {
    lua_pushcfunction(L, f);
    lua_call(L, 0, 1);
    protect(L);
    lua_setfield(L, -2, name);
}

static int build(lua_State *L) {
    open_lib(L, luaopen_base, "");
    open_lib(L, luaopen_string, "string");
    open_lib(L, luaopen_table, "table");
    open_lib(L, luaopen_math, "math");
    open_lib(L, luaopen_bit, "bit");
    open_lib(L, luaopen_jit, "jit"); /* this switches the compiler on; the table itself is not handed out */
    if (mr_worker_of(L)->no_jit) luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);

    lua_createtable(L, 0, 32); /* the environment */
    int env = lua_gettop(L);
    for (size_t i = 0; i < sizeof base_names / sizeof base_names[0]; i++) {
        lua_getglobal(L, base_names[i]);
        lua_setfield(L, env, base_names[i]);
    }
    lua_pushcfunction(L, env_print);
    lua_setfield(L, env, "print");
    lua_pushcfunction(L, env_rawset);
    lua_setfield(L, env, "rawset");
    lua_pushcfunction(L, env_require);
    lua_setfield(L, env, "require");
    run_prelude(L, env);
    lua_pushliteral(L, "LuaJIT 2.1 in medrl");
    lua_setfield(L, env, "_VERSION");

    lua_getglobal(L, "string");
    lua_pushnil(L);
    lua_setfield(L, -2, "dump");
    protect(L);
    lua_setfield(L, env, "string");
    lua_getglobal(L, "math");
    lua_pushcfunction(L, env_no_random);
    lua_setfield(L, -2, "random");
    lua_pushcfunction(L, env_no_random);
    lua_setfield(L, -2, "randomseed");
    protect(L);
    lua_setfield(L, env, "math");
    lua_getglobal(L, "table");
    lua_pushnil(L); /* the old form of pairs, in no order */
    lua_setfield(L, -2, "foreach");
    protect(L);
    lua_setfield(L, env, "table");
    lua_getglobal(L, "bit");
    protect(L);
    lua_setfield(L, env, "bit");

    lua_pushliteral(L, "");
    if (lua_getmetatable(L, -1)) {
        /* Its __index stays the real string table (compiled code knows it); nothing on the list reaches that table to
         * write to it. */
        lua_pushboolean(L, 0);
        lua_setfield(L, -2, "__metatable");
        lua_pop(L, 1);
    }
    lua_pop(L, 1);

    lua_pushnil(L); /* package.loaded, where the full libraries stand */
    lua_setfield(L, LUA_REGISTRYINDEX, "_LOADED");
    lua_pushnil(L); /* and where jit.util waits to be required */
    lua_setfield(L, LUA_REGISTRYINDEX, "_PRELOAD");
    lua_pushvalue(L, env);
    lua_replace(L, LUA_GLOBALSINDEX);

    mr_convert_open(L);
    lua_pushlightuserdata(L, (void *)&files_key);
    lua_createtable(L, 64, 0);
    lua_rawset(L, LUA_REGISTRYINDEX);
    lua_pushlightuserdata(L, (void *)&names_key);
    lua_createtable(L, 0, 16);
    lua_rawset(L, LUA_REGISTRYINDEX);
    lua_pushlightuserdata(L, (void *)&modules_key);
    lua_createtable(L, 0, 16);
    add_module(L, mr_lib_re, "medrl.re");
    add_module(L, mr_lib_text, "medrl.text");
    add_module(L, mr_lib_json, "medrl.json");
    add_module(L, mr_lib_log, "medrl.log");
    add_module(L, mr_lib_rng, "medrl.rng");
    add_module(L, mr_lib_files, "medrl.files");
    add_module(L, lib_host, "medrl.host");
    lua_rawset(L, LUA_REGISTRYINDEX);
    return 0;
}

lua_State *mr_env_open(mr_worker *w) {
    lua_State *L = lua_newstate(capped_alloc, w);
    if (!L) return NULL;
    if (lua_cpcall(L, build, NULL) != 0) {
        lua_close(L);
        return NULL;
    }
    return L;
}
