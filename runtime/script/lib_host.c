/* lib_host.c - what scripts reach outside of Lua: rows of files that the parent opened (medrl.files), numbers that are
 * functions of what they are for (medrl.rng), lines for the log (medrl.log). */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "base/proc.h"
#include "base/rng.h"
#include "files/rows.h"
#include "script/worker.h"

static const char rows_name[] = "medrl.rows", pcg_name[] = "medrl.pcg64";
enum { LOG_LINES = 40, LOG_BYTES = 4096 };

/* --- medrl.files --- */

typedef struct rows {
    mr_rows *rows;
} rows;

static rows *check_rows(lua_State *L) {
    return luaL_checkudata(L, 1, rows_name);
}

static int rows_gc(lua_State *L) {
    rows *r = check_rows(L);
    mr_rows_close(r->rows);
    r->rows = NULL;
    return 0;
}

/* files.open(path): rows of a JSONL, JSON, CSV or TSV file; the parent finds and opens it. */
static int files_open(lua_State *L) {
    size_t len;
    const char *path = luaL_checklstring(L, 1, &len);
    mr_worker *w = mr_worker_of(L);
    rows *r = lua_newuserdata(L, sizeof *r);
    memset(r, 0, sizeof *r);
    luaL_getmetatable(L, rows_name);
    lua_setmetatable(L, -2);
    mr_frame f = mr_worker_ask(w, MR_WIRE_NEED_FILE, path, len, MR_WIRE_FILE);
    mr_take t = mr_take_frame(&f);
    unsigned found = mr_take_u8(&t);
    char name[1024];
    mr_take_string(&t, name, sizeof name);
    int fd = mr_wire_take_fd(&w->wire);
    mr_err err = { .msg = "" };
    mr_status st = MR_OK;
    if (!found || fd < 0)
        st = mr_fail(&err, MR_ENOTFOUND, "%s", found ? "the parent sent no descriptor" : name);
    else
        st = (found == 2 ? mr_rows_open_cache : mr_rows_open_fd)(&r->rows, fd, name, &err);
    if (fd >= 0) close(fd);
    if (st != MR_OK) {
        lua_pushstring(L, err.msg);
        return lua_error(L);
    }
    return 1;
}

/* files.folder(path, pattern): what stands before the names, and a list of the data files of a folder or of a repository of the hub;
 * nothing when path is neither. */
static int files_folder(lua_State *L) {
    size_t n_path, n_pattern;
    const char *path = luaL_checklstring(L, 1, &n_path), *pattern = luaL_optlstring(L, 2, "", &n_pattern);
    mr_worker *w = mr_worker_of(L);
    const uint32_t lens[2] = { (uint32_t)n_path, (uint32_t)n_pattern };
    char ask[2048];
    luaL_argcheck(L, n_path < 1024 && n_pattern < 256, 1, "the name is too long");
    memcpy(ask, &lens[0], 4);
    memcpy(ask + 4, path, n_path);
    memcpy(ask + 4 + n_path, &lens[1], 4);
    memcpy(ask + 8 + n_path, pattern, n_pattern);
    mr_frame f = mr_worker_ask(w, MR_WIRE_NEED_FOLDER, ask, 8 + n_path + n_pattern, MR_WIRE_FOLDER);
    mr_take t = mr_take_frame(&f);
    const unsigned found = mr_take_u8(&t);
    size_t len;
    const char *said = mr_take_bytes(&t, &len);
    if (found == 2) return 0;
    lua_pushlstring(L, said, len);
    if (found == 0) return lua_error(L);
    const uint32_t n = mr_take_u32(&t);
    lua_createtable(L, 0, 0);
    for (uint32_t i = 0; i < n && !t.bad; i++) {
        const char *name = mr_take_bytes(&t, &len);
        lua_pushlstring(L, name, len);
        lua_rawseti(L, -2, (int)i + 1);
    }
    return 2;
}

static int rows_count(lua_State *L) {
    lua_pushnumber(L, (lua_Number)mr_rows_count(check_rows(L)->rows));
    return 1;
}

static int64_t check_index(lua_State *L, const rows *r) {
    lua_Number i = luaL_checknumber(L, 2);
    luaL_argcheck(L, i >= 1 && i <= (lua_Number)mr_rows_count(r->rows), 2, "no such row");
    return (int64_t)i - 1;
}

static const char *type_of(char first) {
    switch (first) {
    case '[': return "an array";
    case '"': return "a string";
    case 't':
    case 'f': return "a boolean";
    case 'n': return "null";
    default: return "a number";
    }
}

/* Pushes a row of JSON text straight from the file's bytes. */
static mr_status push_row(lua_State *L, const mr_rows *r, int64_t i, const char *text, size_t len, mr_err *err) {
    if (mr_json_check(text, len, "", NULL) != MR_OK) { /* once more, with the place in the message */
        char place[512];
        snprintf(place, sizeof place, "%.480s:%lld", mr_rows_name(r), (long long)mr_rows_line(r, i));
        return mr_json_check(text, len, place, err);
    }
    if (text[0] != '{') return mr_rows_no_object(r, i, type_of(text[0]), err);
    mr_lua_push_checked(L, text, len, false);
    return MR_OK;
}

/* Tells the parent that a pass over many rows is under way, four times a second at most. */
static void tick(lua_State *L) {
    static double last;
    const double now = mr_now_s();
    if (now - last < 0.25) return;
    last = now;
    mr_wire_send(&mr_worker_of(L)->wire, MR_WIRE_TICK, NULL, 0, -1);
}

/* rows:get(i): row i (from 1) as a table; JSON nulls are absent. */
static int rows_get(lua_State *L) {
    rows *r = check_rows(L);
    int64_t i = check_index(L, r);
    tick(L);
    mr_err err;
    const char *text;
    size_t len;
    mr_status st = mr_rows_text(r->rows, i, &text, &len, &err);
    if (st == MR_OK && text) st = push_row(L, r->rows, i, text, len, &err);
    if (st == MR_OK && text) return 1;
    cJSON **held = lua_newuserdata(L, sizeof *held); /* keeps the tree when a push raises */
    *held = NULL;
    luaL_getmetatable(L, "medrl.tree");
    lua_setmetatable(L, -2);
    if (st != MR_OK || mr_rows_get(r->rows, i, held, &err) != MR_OK) {
        lua_pushstring(L, err.msg);
        return lua_error(L);
    }
    mr_lua_push_json(L, *held, false);
    cJSON_Delete(*held);
    *held = NULL;
    return 1;
}

static int tree_gc(lua_State *L) {
    cJSON **held = lua_touserdata(L, 1);
    cJSON_Delete(*held);
    *held = NULL;
    return 0;
}

static int rows_line(lua_State *L) {
    rows *r = check_rows(L);
    lua_pushnumber(L, (lua_Number)mr_rows_line(r->rows, check_index(L, r)));
    return 1;
}

/* files.tick(): to be called at each row of a pass over many that does not read files. */
static int files_tick(lua_State *L) {
    tick(L);
    return 0;
}

/* What NEED_PASS and KEEP_PASS begin with: arguments 1, a text, and 2, a list of paths. */
static void put_pass(lua_State *L, mr_str *s) {
    size_t len;
    const char *what = luaL_checklstring(L, 1, &len);
    luaL_checktype(L, 2, LUA_TTABLE);
    const int n = (int)lua_objlen(L, 2);
    for (int i = 1; i <= n; i++) { /* all that may raise comes first */
        lua_rawgeti(L, 2, i);
        luaL_checkstring(L, -1);
    }
    mr_put_bytes(s, what, len);
    mr_put_u32(s, (uint32_t)n);
    for (int i = -n; i < 0; i++) {
        const char *path = lua_tolstring(L, i, &len);
        mr_put_bytes(s, path, len);
    }
    lua_pop(L, n);
}

/* files.recall(what, paths): what files.keep was given for the same pass over the same files by the same scripts; or nil. */
static int files_recall(lua_State *L) {
    mr_worker *w = mr_worker_of(L);
    mr_str s = { 0 };
    luaL_argcheck(L, lua_istable(L, 2) && lua_objlen(L, 2) <= 512, 2, "want a list of paths");
    luaL_checkstack(L, 520, "paths");
    put_pass(L, &s);
    if (s.len > MR_WIRE_SMALL_BYTES) {
        mr_str_clear(&s);
        return 0;
    }
    mr_frame f = mr_worker_ask(w, MR_WIRE_NEED_PASS, s.data, s.len, MR_WIRE_PASS);
    mr_str_clear(&s);
    mr_take t = mr_take_frame(&f);
    const unsigned found = mr_take_u8(&t);
    size_t len;
    const char *result = mr_take_bytes(&t, &len);
    if (!found) return 0;
    lua_pushlstring(L, result, len);
    return 1;
}

/* files.keep(what, paths, result). */
static int files_keep(lua_State *L) {
    size_t len;
    const char *result = luaL_checklstring(L, 3, &len);
    mr_str s = { 0 };
    luaL_argcheck(L, lua_istable(L, 2) && lua_objlen(L, 2) <= 512, 2, "want a list of paths");
    luaL_checkstack(L, 520, "paths");
    put_pass(L, &s);
    mr_put_bytes(&s, result, len);
    if (s.len < MR_WIRE_MAX_BYTES) mr_wire_send(&mr_worker_of(L)->wire, MR_WIRE_KEEP_PASS, s.data, s.len, -1);
    mr_str_clear(&s);
    return 0;
}

/* files.key(text): eight bytes that texts share when they differ in white space only. */
static int files_key(lua_State *L) {
    size_t len;
    const char *text = luaL_checklstring(L, 1, &len);
    uint64_t key = mr_text_key(text, len);
    lua_pushlstring(L, (const char *)&key, sizeof key);
    return 1;
}

int mr_lib_files(lua_State *L) {
    static const luaL_Reg methods[] = {
        { "count", rows_count }, { "get", rows_get }, { "line", rows_line }, { NULL, NULL }
    };
    luaL_newmetatable(L, rows_name);
    lua_pushcfunction(L, rows_gc);
    lua_setfield(L, -2, "__gc");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_createtable(L, 0, 3);
    luaL_register(L, NULL, methods);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
    luaL_newmetatable(L, "medrl.tree");
    lua_pushcfunction(L, tree_gc);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
    static const luaL_Reg f[] = {
        { "open", files_open }, { "folder", files_folder }, { "recall", files_recall },
        { "keep", files_keep }, { "tick", files_tick }, { "key", files_key }, { NULL, NULL }
    };
    lua_createtable(L, 0, 6);
    luaL_register(L, NULL, f);
    return 1;
}

/* --- medrl.rng --- */

static uint64_t check_seed(lua_State *L, int arg) {
    lua_Number seed = luaL_checknumber(L, arg);
    luaL_argcheck(L, seed >= 0 && seed <= 9007199254740992.0 && floor(seed) == seed, arg,
                  "want a whole number from 0 on");
    return (uint64_t)seed;
}

/* rng.uniform(seed, i [, stream]): a number in [0, 1) that depends on nothing else. */
static int rng_uniform(lua_State *L) {
    uint64_t seed = check_seed(L, 1), i = check_seed(L, 2), stream = lua_isnoneornil(L, 3) ? 0 : check_seed(L, 3);
    lua_pushnumber(L, (lua_Number)mr_uniform_at(seed, stream, i));
    return 1;
}

/* rng.pcg64(seed): numpy's default_rng, for orders that equal those of Hugging Face datasets. */
static int rng_pcg64(lua_State *L) {
    uint64_t seed = check_seed(L, 1);
    mr_pcg64 *r = lua_newuserdata(L, sizeof *r);
    mr_pcg64_init(r, seed);
    luaL_getmetatable(L, pcg_name);
    lua_setmetatable(L, -2);
    return 1;
}

static int pcg_double(lua_State *L) {
    lua_pushnumber(L, mr_pcg64_double(luaL_checkudata(L, 1, pcg_name)));
    return 1;
}

/* r:permutation(n): a list of 1..n in numpy's order (each entry is numpy's plus one). */
static int pcg_permutation(lua_State *L) {
    mr_pcg64 *r = luaL_checkudata(L, 1, pcg_name);
    lua_Number n = luaL_checknumber(L, 2);
    luaL_argcheck(L, n >= 0 && n <= 50e6 && floor(n) == n, 2, "want a number of rows");
    lua_createtable(L, (int)n, 0);
    if (n == 0) return 1;
    int64_t *order = lua_newuserdata(L, (size_t)n * sizeof *order);
    mr_pcg64_permutation(r, order, (int64_t)n);
    for (int i = 0; i < (int)n; i++) {
        lua_pushnumber(L, (lua_Number)(order[i] + 1));
        lua_rawseti(L, -3, i + 1);
    }
    lua_pop(L, 1);
    return 1;
}

int mr_lib_rng(lua_State *L) {
    static const luaL_Reg methods[] = { { "double", pcg_double }, { "permutation", pcg_permutation }, { NULL, NULL } };
    luaL_newmetatable(L, pcg_name);
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_createtable(L, 0, 2);
    luaL_register(L, NULL, methods);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
    lua_createtable(L, 0, 2);
    lua_pushcfunction(L, rng_uniform);
    lua_setfield(L, -2, "uniform");
    lua_pushcfunction(L, rng_pcg64);
    lua_setfield(L, -2, "pcg64");
    return 1;
}

/* --- medrl.log --- */

static void send_line(mr_worker *w, int level, const char *line, size_t len) {
    if (len > LOG_BYTES) len = LOG_BYTES;
    uint32_t head[2] = { (uint32_t)level, (uint32_t)len };
    char frame[sizeof head + LOG_BYTES];
    memcpy(frame, head, sizeof head);
    memcpy(frame + sizeof head, line, len);
    mr_wire_send(&w->wire, MR_WIRE_LOG, frame, sizeof head + len, -1);
}

void mr_worker_log(mr_worker *w, int level, const char *line, size_t len) {
    static const char enough[] = "(further lines of this call are dropped)";
    if (++w->n_logged <= LOG_LINES)
        send_line(w, level, line, len);
    else if (w->n_logged == LOG_LINES + 1)
        send_line(w, MR_LOG_WARN, enough, sizeof enough - 1);
}

bool mr_worker_log_full(const mr_worker *w) {
    return w->n_logged > LOG_LINES;
}

static int log_at(lua_State *L, int level) {
    size_t len;
    const char *line = luaL_checklstring(L, 1, &len);
    mr_worker_log(mr_worker_of(L), level, line, len);
    return 0;
}
static int log_info(lua_State *L) {
    return log_at(L, MR_LOG_INFO);
}
static int log_warn(lua_State *L) {
    return log_at(L, MR_LOG_WARN);
}
static int log_debug(lua_State *L) {
    return log_at(L, MR_LOG_DEBUG);
}

int mr_lib_log(lua_State *L) {
    static const luaL_Reg f[] = { { "info", log_info }, { "warn", log_warn }, { "debug", log_debug }, { NULL, NULL } };
    lua_createtable(L, 0, 3);
    luaL_register(L, NULL, f);
    return 1;
}
