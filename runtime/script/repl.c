/* repl.c - the Lua state of a session: its environment, how a chunk is read, run, stopped and told; see repl.h. */
#include "script/repl.h"

#include <lualib.h>
#include <luajit.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/log.h"
#include "base/utf8.h"
#include "script/worker.h"

enum { TEXT_MAX = 4 << 20, COLUMNS = 80 };
static const char repl_key, modules_key, prelude_key; /* registry */
static const char prelude_name[] = "lua/medrl/repl.lua", tree_name[] = "medrl.answer";

struct mr_repl {
    lua_State *L;
    mr_repl_opts opts;
    mr_str chunk, trace;
    int columns;
    bool quit;
    volatile sig_atomic_t running, stop;
};

static mr_repl *repl_of(lua_State *L) {
    lua_pushlightuserdata(L, (void *)&repl_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    mr_repl *r = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return r;
}

/* ---- stopping ---- */

static void stop_hook(lua_State *L, lua_Debug *ar) {
    (void)ar;
    /* It stays set: a pcall inside a loop would swallow the first error only. */
    luaL_error(L, "interrupted");
}

void mr_repl_interrupt(mr_repl *r) {
    r->stop = 1;
    if (r->running) lua_sethook(r->L, stop_hook, LUA_MASKCOUNT, 1);
}

void mr_repl_uninterrupt(mr_repl *r) {
    r->stop = 0;
}

/* ---- what the prelude gets of C ---- */

/* quote(s [, n]): s as a Lua string on one line, of its first n characters at most. */
static int host_quote(lua_State *L) {
    size_t len;
    const uint8_t *s = (const uint8_t *)luaL_checklstring(L, 1, &len);
    const lua_Number most = luaL_optnumber(L, 2, 1e9);
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    luaL_addchar(&b, '"');
    size_t i = 0;
    for (lua_Number n = 0; i < len && n < most; n++) {
        uint32_t cp = 0;
        const int bytes = mr_utf8_next(&cp, s + i, len - i);
        char text[8];
        if (bytes > 1 && !(cp >= 0x80 && cp < 0xa0)) {
            luaL_addlstring(&b, (const char *)s + i, (size_t)bytes);
        } else if (bytes == 1 && cp >= 0x20 && cp != 0x7f) {
            if (cp == '"' || cp == '\\') luaL_addchar(&b, '\\');
            luaL_addchar(&b, (char)cp);
        } else if (bytes == 1 && (cp == '\n' || cp == '\t' || cp == '\r')) {
            luaL_addchar(&b, '\\');
            luaL_addchar(&b, cp == '\n' ? 'n' : cp == '\t' ? 't' : 'r');
        } else { /* control characters and what is no UTF-8, byte by byte */
            const int all = bytes > 1 ? bytes : 1;
            for (int k = 0; k < all; k++) {
                snprintf(text, sizeof text, "\\x%02x", s[i + (size_t)k]);
                luaL_addstring(&b, text);
            }
            i += (size_t)all;
            continue;
        }
        i += (size_t)bytes;
    }
    luaL_addchar(&b, '"');
    luaL_pushresult(&b);
    if (i < len) lua_pushfstring(L, "%s... (%d bytes)", lua_tostring(L, -1), (int)len);
    return 1;
}

static int host_write(lua_State *L) {
    size_t len;
    const char *text = luaL_checklstring(L, 1, &len);
    const mr_repl *r = repl_of(L);
    r->opts.write(r->opts.out, text, len);
    return 0;
}

static int host_columns(lua_State *L) {
    lua_pushinteger(L, repl_of(L)->columns);
    return 1;
}

static int host_quit(lua_State *L) {
    repl_of(L)->quit = true;
    return 0;
}

typedef struct answer {
    cJSON *args, *result;
} answer;

static int answer_gc(lua_State *L) {
    answer *a = lua_touserdata(L, 1);
    cJSON_Delete(a->args);
    cJSON_Delete(a->result);
    *a = (answer){ NULL, NULL };
    return 0;
}

static bool has_fields(lua_State *L, int t) {
    if (!lua_istable(L, t)) return false;
    lua_pushnil(L);
    if (!lua_next(L, t)) return false;
    lua_pop(L, 2);
    return true;
}

/* call(method [, args]): what the host answers, an error otherwise. */
static int host_call(lua_State *L) {
    const char *method = luaL_checkstring(L, 1);
    const mr_host *h = &repl_of(L)->opts.host;
    lua_settop(L, 2);
    answer *a = lua_newuserdata(L, sizeof *a);
    *a = (answer){ NULL, NULL };
    luaL_getmetatable(L, tree_name);
    lua_setmetatable(L, -2);
    mr_err err = { "" };
    mr_status st = MR_OK;
    if (has_fields(L, 2)) { /* an empty table would be a list or an object */
        mr_lua_encode(L, 2);
        size_t len;
        const char *text = lua_tolstring(L, -1, &len);
        st = mr_json_parse(&a->args, text, len, method, &err);
        if (st == MR_OK && !cJSON_IsObject(a->args))
            st = mr_fail(&err, MR_EINVAL, "%s: the arguments are %s, want names and values", method,
                         mr_json_type_name(a->args));
    } else {
        a->args = cJSON_CreateObject();
    }
    if (st == MR_OK) st = h->call(h->self, method, a->args, &a->result, &err);
    if (st != MR_OK) {
        lua_pushstring(L, err.msg[0] ? err.msg : method);
        return lua_error(L);
    }
    if (a->result)
        mr_lua_push_json(L, a->result, false);
    else
        lua_pushnil(L);
    lua_pushvalue(L, -1);
    lua_replace(L, 1);
    lua_pushcfunction(L, answer_gc); /* now, and not whenever: an answer may be large */
    lua_pushvalue(L, 3);
    lua_call(L, 1, 0);
    lua_settop(L, 1);
    return 1;
}

/* ---- the environment ---- */

static int env_load(lua_State *L) {
    size_t len;
    if (lua_type(L, 1) != LUA_TSTRING)
        return luaL_error(L, "load: the chunk is a %s, want a text", luaL_typename(L, 1));
    const char *text = lua_tolstring(L, 1, &len), *name = luaL_optstring(L, 2, "=load");
    if (luaL_loadbufferx(L, text, len, name, "t") == 0) return 1;
    lua_pushnil(L);
    lua_insert(L, -2);
    return 2;
}

static bool good_module_name(const char *s) {
    if (!*s || *s == '/' || *s == '.' || strlen(s) > 200 || strstr(s, "..")) return false;
    return strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./") == strlen(s);
}

/* "a.b" is a/b.lua here, in ./lua, or in the installation's lua folder; medrl's own come from there only. Owned; NULL:
 * there is none. */
static char *find_module(const char *name) {
    const bool own = strncmp(name, "medrl.", 6) == 0;
    char *home = mr_path_join(mr_home_dir(), "lua"), *file = mr_asprintf("%s.lua", name), *found = NULL;
    for (size_t i = 0; i < strlen(name); i++)
        if (file[i] == '.') file[i] = '/';
    const char *const roots[] = { ".", "lua", home };
    for (int i = own ? 2 : 0; i < 3 && !found; i++) {
        found = mr_path_join(roots[i], file);
        if (mr_path_exists(found) && !mr_path_is_dir(found)) break;
        mr_free(found);
        found = NULL;
    }
    mr_free(home);
    mr_free(file);
    return found;
}

/* Leaves the chunk of a file on the stack, or the message. */
static bool load_file(lua_State *L, const char *path) {
    char shown[256], *text = NULL, *home = mr_asprintf("%s/", mr_home_dir());
    size_t len = 0;
    mr_err err = { "" };
    while (path[0] == '.' && path[1] == '/') path += 2;
    const bool installed = strncmp(path, home, strlen(home)) == 0;
    snprintf(shown, sizeof shown, "@%.250s", installed ? path + strlen(home) : path);
    mr_free(home);
    mr_status st = mr_file_read(&text, &len, path, TEXT_MAX, &err);
    if (st == MR_OK && len && text[0] == 0x1b)
        st = mr_fail(&err, MR_EDATA, "%s: byte 0: this is bytecode, want Lua source text", path);
    bool good = st == MR_OK && luaL_loadbufferx(L, text, len, shown, "t") == 0;
    mr_free(text);
    if (st != MR_OK) lua_pushstring(L, err.msg);
    return good;
}

static int env_require(lua_State *L) {
    const char *name = luaL_checkstring(L, 1);
    if (!good_module_name(name))
        return luaL_error(L, "require: \"%s\" is no module name; want \"folder.file\" on the Lua path", name);
    lua_settop(L, 1);
    lua_pushlightuserdata(L, (void *)&modules_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    lua_getfield(L, 2, name);
    if (!lua_isnil(L, -1)) return 1;
    char *path = find_module(name);
    if (!path && !lua_isnil(L, lua_upvalueindex(1))) { /* trusted: Lua's own places */
        lua_pushvalue(L, lua_upvalueindex(1));
        lua_pushvalue(L, 1);
        lua_call(L, 1, 1);
        return 1;
    }
    if (!path) return luaL_error(L, "module \"%s\" was not found here, in ./lua, or in %s/lua", name, mr_home_dir());
    bool good = load_file(L, path);
    mr_free(path);
    if (!good) return lua_error(L);
    lua_pushstring(L, name);
    lua_call(L, 1, 1);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_pushboolean(L, 1);
    }
    lua_pushvalue(L, -1);
    lua_setfield(L, 2, name);
    return 1;
}

/* forget(): files that were required are read anew by the next require; how many. */
static int host_forget(lua_State *L) {
    int n = 0;
    lua_pushlightuserdata(L, (void *)&modules_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    int t = lua_gettop(L);
    lua_pushnil(L);
    while (lua_next(L, t)) {
        lua_pop(L, 1);
        if (strncmp(lua_tostring(L, -1), "medrl.", 6) == 0) continue;
        lua_pushvalue(L, -1);
        lua_pushnil(L);
        lua_rawset(L, t); /* a field that exists may be cleared during the walk */
        n++;
    }
    lua_pushinteger(L, n);
    return 1;
}

static int env_log(lua_State *L, void (*say)(const char *, ...)) {
    say("%.4000s", luaL_checkstring(L, 1));
    return 0;
}
static int log_info(lua_State *L) {
    return env_log(L, mr_info);
}
static int log_warn(lua_State *L) {
    return env_log(L, mr_warn);
}
static int log_debug(lua_State *L) {
    return env_log(L, mr_debug);
}

static int files_open(lua_State *L) {
    return luaL_error(L,
                      "medrl.files: data files are opened for recipes only; data[1] is the first row of the recipe's");
}

/* What lua/medrl/data.lua asks of its process: the place of a module and of a function, for messages. */
static int host_place(lua_State *L) {
    lua_settop(L, 1);
    return 1;
}
static int host_where(lua_State *L) {
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_Debug ar;
    lua_settop(L, 1);
    lua_getinfo(L, ">S", &ar);
    lua_pushfstring(L, "%s:%d", ar.short_src, ar.linedefined);
    return 1;
}

static void add_module(lua_State *L, int modules, lua_CFunction f, const char *name) {
    lua_pushcfunction(L, f);
    lua_call(L, 0, 1);
    lua_setfield(L, modules, name);
}

static void open_modules(lua_State *L) {
    static const luaL_Reg log[] = {
        { "info", log_info }, { "warn", log_warn }, { "debug", log_debug }, { NULL, NULL }
    };
    static const luaL_Reg files[] = { { "open", files_open }, { NULL, NULL } };
    static const luaL_Reg host[] = { { "place", host_place }, { "where", host_where }, { NULL, NULL } };
    mr_convert_open(L);
    lua_createtable(L, 0, 16);
    int modules = lua_gettop(L);
    add_module(L, modules, mr_lib_re, "medrl.re");
    add_module(L, modules, mr_lib_text, "medrl.text");
    add_module(L, modules, mr_lib_json, "medrl.json");
    add_module(L, modules, mr_lib_rng, "medrl.rng");
    lua_createtable(L, 0, 3);
    luaL_register(L, NULL, log);
    lua_setfield(L, modules, "medrl.log");
    lua_createtable(L, 0, 1);
    luaL_register(L, NULL, files);
    lua_setfield(L, modules, "medrl.files");
    lua_createtable(L, 0, 3);
    luaL_register(L, NULL, host);
    lua_pushliteral(L, MR_RECIPE_FAULT);
    lua_setfield(L, -2, "recipe_fault");
    lua_setfield(L, modules, "medrl.host");
    lua_pushlightuserdata(L, (void *)&modules_key);
    lua_pushvalue(L, modules);
    lua_rawset(L, LUA_REGISTRYINDEX);
}

static void open_lib(lua_State *L, lua_CFunction f, const char *name) {
    lua_pushcfunction(L, f);
    lua_pushstring(L, name);
    lua_call(L, 1, 0);
}

/* Copies the named fields of the global table `lib` (NULL: of the globals) to the table at the top. */
static void pick(lua_State *L, const char *lib, const char *const *names) {
    int to = lua_gettop(L);
    if (lib)
        lua_getglobal(L, lib);
    else
        lua_pushvalue(L, LUA_GLOBALSINDEX);
    for (; *names; names++) {
        lua_getfield(L, -1, *names);
        lua_setfield(L, to, *names);
    }
    lua_pop(L, 1);
}

/* As env.c: a new table gets what is on the list, and takes the place of the globals. */
static void small_environment(lua_State *L) {
    static const char *const base[] = { "assert", "error",        "getmetatable",   "ipairs",   "next",
                                        "pairs",  "pcall",        "rawequal",       "rawget",   "rawset",
                                        "select", "setmetatable", "tonumber",       "tostring", "type",
                                        "unpack", "xpcall",       "collectgarbage", "_VERSION", "coroutine",
                                        "string", "table",        "math",           "bit",      NULL };
    static const char *const os[] = { "clock", "date", "difftime", "getenv", "time", NULL };
    static const char *const debug[] = { "traceback", NULL };
    open_lib(L, luaopen_base, "");
    open_lib(L, luaopen_string, "string");
    open_lib(L, luaopen_table, "table");
    open_lib(L, luaopen_math, "math");
    open_lib(L, luaopen_bit, "bit");
    open_lib(L, luaopen_os, "os");
    open_lib(L, luaopen_debug, "debug");
    lua_createtable(L, 0, 48);
    int env = lua_gettop(L);
    pick(L, NULL, base);
    lua_createtable(L, 0, 8);
    pick(L, "os", os);
    lua_setfield(L, env, "os");
    lua_createtable(L, 0, 1);
    pick(L, "debug", debug);
    lua_setfield(L, env, "debug");
    lua_getfield(L, env, "string");
    lua_pushnil(L);
    lua_setfield(L, -2, "dump");
    lua_pop(L, 1);
    lua_pushcfunction(L, env_load);
    lua_pushvalue(L, -1);
    lua_setfield(L, env, "load");
    lua_setfield(L, env, "loadstring");
    lua_pushvalue(L, env);
    lua_setfield(L, env, "_G");
    lua_pushnil(L); /* package.loaded, where the full libraries stand */
    lua_setfield(L, LUA_REGISTRYINDEX, "_LOADED");
    lua_pushnil(L);
    lua_setfield(L, LUA_REGISTRYINDEX, "_PRELOAD");
    lua_replace(L, LUA_GLOBALSINDEX);
}

static void open_prelude(lua_State *L, mr_repl *r) {
    static const luaL_Reg functions[] = { { "call", host_call }, { "columns", host_columns }, { "forget", host_forget },
                                          { "quit", host_quit }, { "quote", host_quote },     { "write", host_write },
                                          { NULL, NULL } };
    char *path = mr_path_join(mr_home_dir(), prelude_name);
    bool good = load_file(L, path);
    mr_free(path);
    if (!good) lua_error(L);
    lua_call(L, 0, 1);
    lua_getfield(L, -1, "open");
    lua_createtable(L, 0, 12);
    luaL_register(L, NULL, functions);
    lua_pushboolean(L, r->opts.attached);
    lua_setfield(L, -2, "attached");
    lua_pushboolean(L, r->opts.silent);
    lua_setfield(L, -2, "silent");
    lua_pushvalue(L, LUA_GLOBALSINDEX);
    lua_call(L, 2, 0);
    lua_pushlightuserdata(L, (void *)&prelude_key);
    lua_insert(L, -2);
    lua_rawset(L, LUA_REGISTRYINDEX);
}

static int build(lua_State *L) {
    mr_repl *r = lua_touserdata(L, 1);
    if (r->opts.trust)
        luaL_openlibs(L);
    else
        small_environment(L);
    luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
    lua_pushlightuserdata(L, (void *)&repl_key);
    lua_pushlightuserdata(L, r);
    lua_rawset(L, LUA_REGISTRYINDEX);
    luaL_newmetatable(L, tree_name);
    lua_pushcfunction(L, answer_gc);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
    open_modules(L);
    lua_getglobal(L, "require"); /* nil in the small environment */
    lua_pushcclosure(L, env_require, 1);
    lua_setglobal(L, "require");
    open_prelude(L, r);
    return 0;
}

/* ---- calls from outside: each runs in lua_cpcall, since any push may raise ---- */

static mr_status protected(mr_repl *r, lua_CFunction f, void *job, mr_err *err) {
    if (lua_cpcall(r->L, f, job) == 0) return MR_OK;
    const char *text = lua_tostring(r->L, -1);
    mr_fail(err, MR_EINTERNAL, "repl: %s", text ? text : "an error without a text");
    lua_settop(r->L, 0);
    return MR_EINTERNAL;
}

/* Pushes a function of the prelude. */
static void push_prelude(lua_State *L, const char *name) {
    lua_pushlightuserdata(L, (void *)&prelude_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    lua_getfield(L, -1, name);
    lua_remove(L, -2);
}

mr_status mr_repl_open(mr_repl **out, const mr_repl_opts *opts, mr_err *err) {
    *out = NULL;
    mr_repl *r = mr_alloc(sizeof *r);
    r->opts = *opts;
    r->columns = COLUMNS;
    r->L = luaL_newstate();
    mr_status st = r->L ? protected(r, build, r, err) : mr_fail(err, MR_ENOMEM, "repl: no memory for a Lua state");
    if (st == MR_OK)
        *out = r;
    else
        mr_repl_close(r);
    return st;
}

void mr_repl_close(mr_repl *r) {
    if (!r) return;
    if (r->L) lua_close(r->L);
    mr_str_clear(&r->chunk);
    mr_str_clear(&r->trace);
    mr_free(r);
}

void mr_repl_set_columns(mr_repl *r, int columns) {
    r->columns = columns < 20 ? 20 : columns;
}

bool mr_repl_pending(const mr_repl *r) {
    return r->chunk.len > 0;
}

void mr_repl_forget(mr_repl *r) {
    r->chunk.len = 0;
}

const char *mr_repl_trace(const mr_repl *r) {
    return r->trace.len ? r->trace.data : "";
}

/* ---- one chunk ---- */

typedef struct evaluation {
    mr_repl *repl;
    bool last; /* no more lines will come */
    mr_repl_state state;
    mr_err *err;
} evaluation;

/* Whether the message at the top says that the text ended too early. */
static bool is_unfinished(lua_State *L) {
    static const char end[] = "'<eof>'";
    size_t len, n = sizeof end - 1;
    const char *text = lua_tolstring(L, -1, &len);
    return text && len >= n && memcmp(text + len - n, end, n) == 0;
}

/* Pushes the chunk, as an expression where it is one; or the message. */
static mr_repl_state compile(lua_State *L, const mr_repl *r) {
    static const char name[] = "=repl";
    const char *text = r->chunk.data;
    size_t len = r->chunk.len;
    if (len && (unsigned char)text[0] == 0x1b) {
        lua_pushliteral(L, "repl: this is bytecode, want Lua source text");
        return MR_REPL_FAILED;
    }
    const bool equals = len && text[0] == '=';
    lua_pushliteral(L, "return ");
    lua_pushlstring(L, text + equals, len - equals);
    lua_concat(L, 2);
    size_t n;
    const char *expression = lua_tolstring(L, -1, &n);
    if (luaL_loadbufferx(L, expression, n, name, "t") == 0) return MR_REPL_DONE;
    bool unfinished = is_unfinished(L);
    if (!equals) {
        if (luaL_loadbufferx(L, text, len, name, "t") == 0) return MR_REPL_DONE;
        unfinished = unfinished || is_unfinished(L);
    }
    return unfinished ? MR_REPL_MORE : MR_REPL_FAILED;
}

/* The message with a traceback behind it. */
static int traceback(lua_State *L) {
    if (lua_type(L, 1) != LUA_TSTRING) {
        if (!luaL_callmeta(L, 1, "__tostring") || lua_type(L, -1) != LUA_TSTRING)
            lua_pushfstring(L, "the error object is a %s", luaL_typename(L, 1));
        lua_replace(L, 1);
        lua_settop(L, 1);
    }
    luaL_traceback(L, L, lua_tostring(L, 1), 1);
    return 1;
}

/* The text at the top: its message to err, its places to the trace. */
static void take_failure(lua_State *L, evaluation *e) {
    const char *text = lua_tostring(L, -1);
    mr_fail(e->err, MR_EINVAL, "%s", text ? text : "an error without a text");
    e->state = MR_REPL_FAILED;
    push_prelude(L, "failure");
    lua_insert(L, -2);
    if (lua_pcall(L, 1, 2, 0) != 0) return;
    mr_fail(e->err, MR_EINVAL, "%s", lua_tostring(L, -2));
    mr_str_puts(&e->repl->trace, lua_tostring(L, -1));
}

static int evaluate(lua_State *L) {
    evaluation *e = lua_touserdata(L, 1);
    mr_repl *r = e->repl;
    lua_pushcfunction(L, traceback);
    e->state = compile(L, r);
    if (e->state == MR_REPL_MORE && !e->last) return 0;
    r->chunk.len = 0;
    if (e->state != MR_REPL_DONE) {
        lua_pushfstring(L, "%s", lua_tostring(L, -1));
        take_failure(L, e);
        return 0;
    }
    int base = lua_gettop(L); /* the chunk */
    r->running = 1;
    if (r->stop) mr_repl_interrupt(r); /* it came a moment ago */
    int rc = lua_pcall(L, 0, LUA_MULTRET, 2);
    if (rc == 0) { /* values are printed under the same guard: a __tostring may not end */
        int n = lua_gettop(L) - base + 1;
        push_prelude(L, "results");
        lua_insert(L, base);
        lua_pushinteger(L, n);
        lua_insert(L, base + 1);
        rc = lua_pcall(L, n + 1, 0, 2);
    }
    r->running = 0;
    lua_sethook(L, NULL, 0, 0);
    if (rc != 0) take_failure(L, e);
    return 0;
}

static mr_repl_state run_chunk(mr_repl *r, bool last, mr_err *err) {
    evaluation e = { .repl = r, .last = last, .state = MR_REPL_FAILED, .err = err };
    r->trace.len = 0;
    if (protected(r, evaluate, &e, err) != MR_OK) {
        r->running = 0;
        r->chunk.len = 0;
        lua_sethook(r->L, NULL, 0, 0);
        e.state = MR_REPL_FAILED;
    }
    lua_settop(r->L, 0);
    return r->quit ? MR_REPL_QUIT : e.state;
}

/* ":name rest" to Lua, in the place of the chunk. */
static int translate(lua_State *L) {
    evaluation *e = lua_touserdata(L, 1);
    mr_repl *r = e->repl;
    push_prelude(L, "command");
    lua_pushlstring(L, r->chunk.data, r->chunk.len - 1);
    lua_call(L, 1, 1);
    const char *text = lua_tostring(L, -1);
    r->chunk.len = 0;
    mr_str_puts(&r->chunk, text ? text : "");
    return 0;
}

mr_repl_state mr_repl_line(mr_repl *r, const char *line, mr_err *err) {
    const bool first = r->chunk.len == 0;
    if (first && line[strspn(line, " \t")] == 0) return MR_REPL_DONE;
    mr_str_puts(&r->chunk, line);
    mr_str_puts(&r->chunk, "\n");
    evaluation e = { .repl = r, .err = err };
    if (first && line[0] == ':' && protected(r, translate, &e, err) != MR_OK) {
        r->chunk.len = 0;
        return MR_REPL_FAILED;
    }
    lua_settop(r->L, 0);
    return run_chunk(r, false, err);
}

mr_repl_state mr_repl_end(mr_repl *r, mr_err *err) {
    return r->chunk.len ? run_chunk(r, true, err) : MR_REPL_DONE;
}

/* ---- `_` as JSON, completion ---- */

typedef struct outcome {
    mr_str *out;
    const char *line;
    char **list;
} outcome;

static int value_json(lua_State *L) {
    outcome *o = lua_touserdata(L, 1);
    lua_getglobal(L, "_");
    mr_lua_encode(L, -1);
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    mr_str_add(o->out, text, len);
    return 0;
}

mr_status mr_repl_json(mr_repl *r, mr_str *out, mr_err *err) {
    outcome o = { .out = out };
    mr_status st = protected(r, value_json, &o, err);
    return st == MR_OK ? st : MR_EINVAL;
}

static int candidates(lua_State *L) {
    outcome *o = lua_touserdata(L, 1);
    push_prelude(L, "complete");
    lua_pushstring(L, o->line);
    lua_call(L, 1, 1);
    const int n = (int)lua_objlen(L, -1);
    o->list = mr_realloc(o->list, (size_t)(n + 1) * sizeof *o->list);
    int k = 0;
    for (int i = 1; i <= n; i++) {
        lua_rawgeti(L, -1, i);
        if (lua_type(L, -1) == LUA_TSTRING) o->list[k++] = mr_strdup(lua_tostring(L, -1));
        lua_pop(L, 1);
    }
    o->list[k] = NULL;
    return 0;
}

char **mr_repl_complete(mr_repl *r, const char *line) {
    outcome o = { .line = line, .list = mr_alloc(sizeof *o.list) };
    mr_err none;
    r->running = 1; /* a __index of the user's may not end */
    if (protected(r, candidates, &o, &none) != MR_OK) o.list[0] = NULL;
    r->running = 0;
    lua_sethook(r->L, NULL, 0, 0);
    lua_settop(r->L, 0);
    return o.list;
}
