/* worker.c - the child: takes commands from fd 3, runs Lua under protection, answers.
 *
 * What a recipe, a data set or a case means is decided by lua/medrl/worker.lua, which the parent sends like any other
 * text; this file moves bytes, and scores: that is the hot path and the one where a script's mistake must cost one
 * sample only. It ends when the parent goes. Deadlines are the parent's: nothing here watches the clock. */
#include "script/worker.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/proc.h"
#include "rl/interfaces.h"
#include "script/import.h"
#include "script/sandbox.h"
#include "script/script.h"

enum { SOCKET_FD = 3, ROW_REF_NONE = LUA_NOREF };

/* --- into Lua and out again --- */

/* Puts FILE:LINE of the innermost script function before a message that names no file yet. */
static int place_handler(lua_State *L) {
    if (lua_type(L, 1) != LUA_TSTRING) {
        lua_pushfstring(L, "the error object is a %s, want a string", luaL_typename(L, 1));
        lua_replace(L, 1);
    }
    const char *message = lua_tostring(L, 1);
    if (strstr(message, ".lua:") || message[0] == MR_RECIPE_FAULT[0]) return 1;
    for (int level = 1;; level++) {
        lua_Debug ar;
        if (!lua_getstack(L, level, &ar)) return 1;
        lua_getinfo(L, "Sl", &ar);
        if (ar.currentline <= 0) continue;
        if (strncmp(ar.short_src, "lua/medrl/", 10) == 0) continue; /* nothing to mend there: the message says it all */
        lua_pushfstring(L, "%s:%d: %s", ar.short_src, ar.currentline, message);
        return 1;
    }
}

typedef struct protected_call {
    lua_CFunction f;
    void *ud;
} protected_call;

static int protected_body(lua_State *L) {
    protected_call *c = lua_touserdata(L, 1);
    lua_pushcfunction(L, place_handler);
    lua_pushcfunction(L, c->f);
    lua_pushlightuserdata(L, c->ud);
    if (lua_pcall(L, 1, 0, 2) != 0) return lua_error(L);
    return 0;
}

bool mr_worker_protected(mr_worker *w, lua_CFunction f, void *ud, char *message, size_t message_bytes) {
    protected_call c = { f, ud };
    int rc = lua_cpcall(w->L, protected_body, &c);
    if (rc == 0) return true;
    if (lua_type(w->L, -1) == LUA_TSTRING)
        snprintf(message, message_bytes, "%s", lua_tostring(w->L, -1));
    else
        snprintf(message, message_bytes, "the error object is a %s, want a string", luaL_typename(w->L, -1));
    lua_settop(w->L, 0);
    if (rc == LUA_ERRMEM || strstr(message, "not enough memory")) lua_gc(w->L, LUA_GCCOLLECT, 0);
    return false;
}

mr_frame mr_worker_ask(mr_worker *w, mr_wire_type ask, const void *data, size_t len, mr_wire_type want) {
    if (!mr_wire_send(&w->wire, ask, data, len, -1)) _exit(0);
    for (;;) {
        mr_frame f;
        int got = mr_wire_next(&w->wire, &f);
        if (got < 0) _exit(70);
        if (got == 0) {
            if (!mr_wire_fill(&w->wire, true)) _exit(0);
            continue;
        }
        if (f.type == want) return f;
        if (f.type != MR_WIRE_SCORE) _exit(70);
        mr_put_bytes(&w->deferred, f.data, f.len); /* jobs that were under way when this one asked */
    }
}

static void reply_error(mr_worker *w, mr_status st, const char *message) {
    mr_str s = { 0 };
    mr_put_u32(&s, (uint32_t)st);
    mr_put_bytes(&s, message, strlen(message));
    if (!mr_wire_send(&w->wire, MR_WIRE_ERROR, s.data, s.len, -1)) _exit(0);
    mr_str_clear(&s);
}

/* Calls driver[name] with what is above `base` on the stack; its results stay. */
static void call_driver(lua_State *L, const char *name, int n_args, int n_results) {
    mr_worker *w = mr_worker_of(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, w->driver_ref);
    lua_getfield(L, -1, name);
    lua_remove(L, -2);
    lua_insert(L, -n_args - 1);
    lua_call(L, n_args, n_results);
}

/* --- LOAD --- */

typedef struct load_command {
    mr_take in;
    mr_str out;
} load_command;

static double number_field(lua_State *L, const char *key, double def) {
    lua_getfield(L, -1, key);
    double v = lua_isnumber(L, -1) ? lua_tonumber(L, -1) : def;
    lua_pop(L, 1);
    return v;
}

static void string_field(lua_State *L, const char *key, char *out, size_t len) {
    lua_getfield(L, -1, key);
    snprintf(out, len, "%s", lua_isstring(L, -1) ? lua_tostring(L, -1) : "");
    lua_pop(L, 1);
}

/* A list of the strings that come next. */
static void push_strings(lua_State *L, mr_take *in) {
    uint32_t n = mr_take_u32(in);
    lua_createtable(L, 0, 0);
    for (uint32_t i = 0; i < n && !in->bad; i++) {
        size_t len;
        const char *s = mr_take_bytes(in, &len);
        lua_pushlstring(L, s, len);
        lua_rawseti(L, -2, (int)i + 1);
    }
}

static int load_body(lua_State *L) {
    load_command *c = lua_touserdata(L, 1);
    mr_worker *w = mr_worker_of(L);
    mr_env_require(L, "medrl.worker");
    w->driver_ref = luaL_ref(L, LUA_REGISTRYINDEX);

    lua_createtable(L, 0, 4);
    lua_pushboolean(L, (int)mr_take_u8(&c->in));
    lua_setfield(L, -2, "on_cpu");
    lua_pushboolean(L, (int)mr_take_u8(&c->in));
    lua_setfield(L, -2, "cases");
    unsigned mode = mr_take_u8(&c->in);
    lua_pushboolean(L, mode == MR_LOAD_BARE);
    lua_setfield(L, -2, "bare");
    push_strings(L, &c->in);
    lua_setfield(L, -2, "overrides");
    push_strings(L, &c->in);
    lua_setfield(L, -2, "rewards");
    if (mode == MR_LOAD_TEST) {
        call_driver(L, "test", 1, 4); /* passed, failed, lines, JSON */
        mr_put_i64(&c->out, (int64_t)lua_tonumber(L, -4));
        mr_put_i64(&c->out, (int64_t)lua_tonumber(L, -3));
        for (int i = -2; i < 0; i++) {
            size_t len;
            const char *s = luaL_checklstring(L, i, &len);
            mr_put_bytes(&c->out, s, len);
        }
        return 0;
    }
    call_driver(L, "open", 1, 2); /* recipe as JSON, rewards */
    mr_env_keep(w);
    size_t len;
    const char *json = luaL_checklstring(L, -2, &len);
    mr_put_bytes(&c->out, json, len);
    int n_rewards = (int)lua_objlen(L, -1);
    w->rewards = mr_alloc((size_t)(n_rewards + 1) * sizeof *w->rewards);
    mr_put_u32(&c->out, (uint32_t)n_rewards);
    for (int i = 0; i < n_rewards; i++) {
        mr_reward_fn *r = &w->rewards[i];
        lua_rawgeti(L, -1, i + 1);
        string_field(L, "name", r->name, sizeof r->name);
        string_field(L, "place", r->place, sizeof r->place);
        r->low = number_field(L, "low", -HUGE_VAL);
        r->high = number_field(L, "high", HUGE_VAL);
        const double on_error = number_field(L, "on_error", 0);
        lua_getfield(L, -1, "batch");
        r->batch = lua_toboolean(L, -1) != 0;
        lua_pop(L, 1);
        lua_getfield(L, -1, "score");
        luaL_checktype(L, -1, LUA_TFUNCTION);
        r->score_ref = luaL_ref(L, LUA_REGISTRYINDEX);
        lua_getfield(L, -1, "options");
        r->options_ref = luaL_ref(L, LUA_REGISTRYINDEX);
        w->n_rewards = i + 1;
        mr_put_bytes(&c->out, r->name, strlen(r->name));
        mr_put_bytes(&c->out, r->place, strlen(r->place));
        mr_put_f64(&c->out, isfinite(r->low) ? r->low : 0.0);
        mr_put_u8(&c->out, r->batch);
        mr_put_u8(&c->out, (unsigned)on_error);
        lua_pop(L, 1);
    }
    lua_getfield(L, -1, "cases"); /* lines "FILE<tab>NUMBER" */
    const char *cases = luaL_checklstring(L, -1, &len);
    mr_put_bytes(&c->out, cases, len);
    return 0;
}

/* --- ROWS, ROW --- */

typedef struct row_command {
    mr_take in;
    mr_str out;
    mr_wire_type type;
} row_command;

/* Appends the strings at the top of the stack. */
static void put_strings(lua_State *L, mr_str *out, int n) {
    for (int i = -n; i < 0; i++) {
        size_t len;
        const char *s = luaL_checklstring(L, i, &len);
        mr_put_bytes(out, s, len);
    }
}

static int row_body(lua_State *L) {
    row_command *c = lua_touserdata(L, 1);
    size_t len;
    const char *split = mr_take_bytes(&c->in, &len);
    lua_pushlstring(L, split, len);
    if (c->type == MR_WIRE_ROWS) {
        call_driver(L, "rows", 1, 3); /* how many, report, the same as JSON */
        mr_env_keep(mr_worker_of(L));
        mr_put_i64(&c->out, (int64_t)luaL_checknumber(L, -3));
        put_strings(L, &c->out, 2);
        return 0;
    }
    lua_pushnumber(L, (lua_Number)mr_take_i64(&c->in));
    if (c->type == MR_WIRE_SURVEY) {
        lua_pushnumber(L, (lua_Number)mr_take_i64(&c->in));
        call_driver(L, "survey", 3, 2);
        put_strings(L, &c->out, 2);
        return 0;
    }
    call_driver(L, "row", 2, 4); /* messages as JSON, row as JSON, source, place */
    put_strings(L, &c->out, 4);
    return 0;
}

/* --- TEMPLATE, RENDER --- */

typedef struct template_command {
    mr_take in;
    mr_str out;
    bool render;
} template_command;

static int template_body(lua_State *L) {
    template_command *c = lua_touserdata(L, 1);
    mr_worker *w = mr_worker_of(L);
    if (!c->render) {
        mr_env_require(L, "medrl.template");
        w->driver_ref = luaL_ref(L, LUA_REGISTRYINDEX);
        call_driver(L, "open", 0, 0);
        return 0;
    }
    uint32_t n_strings = mr_take_u32(&c->in);
    if (n_strings > 8) return luaL_error(L, "a command to render has %d strings, want at most 8", (int)n_strings);
    for (uint32_t i = 0; i < n_strings; i++) {
        size_t len;
        const char *s = mr_take_bytes(&c->in, &len);
        lua_pushlstring(L, s, len);
    }
    call_driver(L, "render", (int)n_strings, 1); /* text, is markup, text, is markup ... */
    uint32_t n = (uint32_t)lua_objlen(L, -1) / 2;
    mr_put_u32(&c->out, n);
    for (uint32_t i = 0; i < n; i++) {
        size_t len;
        lua_rawgeti(L, -1, (int)(2 * i + 1));
        lua_rawgeti(L, -2, (int)(2 * i + 2));
        const char *s = luaL_checklstring(L, -2, &len);
        mr_put_u8(&c->out, lua_toboolean(L, -1) != 0);
        mr_put_bytes(&c->out, s, len);
        lua_pop(L, 2);
    }
    return 0;
}

/* --- SCORE --- */

typedef struct completion {
    const char *text;
    size_t len;
    int n_tokens;
    bool truncated;
    double value; /* out */
    bool none;
    char *fault; /* out, of a batch: what is wrong with this one's value; owned */
} completion;

typedef struct score_job {
    const char *prompt;
    size_t prompt_len;
    int64_t step;
    completion *completions;
    int n;
    const mr_reward_fn *reward;
} score_job;

/* A copy: row and options are decoded once, and what a call writes into them is for nobody else to see. */
static void push_copy(lua_State *L, int ref) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, ref);
    mr_lua_copy(L, -1);
    lua_remove(L, -2);
}

static void push_info(lua_State *L, const score_job *job, const completion *c) {
    lua_createtable(L, 0, 5);
    lua_pushlstring(L, job->prompt, job->prompt_len);
    lua_setfield(L, -2, "prompt");
    lua_pushinteger(L, c->n_tokens);
    lua_setfield(L, -2, "n_tokens");
    lua_pushboolean(L, c->truncated);
    lua_setfield(L, -2, "truncated");
    lua_pushnumber(L, (lua_Number)job->step);
    lua_setfield(L, -2, "step");
    push_copy(L, job->reward->options_ref);
    lua_setfield(L, -2, "options");
}

/* What is wrong with the value on top, in words: "score() returned NaN, want a finite number". "": nothing. */
static void judge(lua_State *L, const mr_reward_fn *r, const char *of, completion *c, char *wrong, size_t n) {
    const char *f = r->batch ? "score_batch" : "score";
    wrong[0] = 0;
    if (lua_type(L, -1) != LUA_TNUMBER) {
        snprintf(wrong, n, "%s() returned a %s%s, want a number or %s", f, luaL_typename(L, -1), of,
                 r->batch ? "false" : "nil");
        return;
    }
    c->value = lua_tonumber(L, -1);
    if (isnan(c->value))
        snprintf(wrong, n, "%s() returned NaN%s, want a finite number", f, of);
    else if (!isfinite(c->value))
        snprintf(wrong, n, "%s() returned an infinite number%s, want a finite one", f, of);
    else if (c->value < r->low || c->value > r->high)
        snprintf(wrong, n, "%s() returned %g%s, outside its range %g to %g", f, c->value, of, r->low, r->high);
}

static int score_body(lua_State *L) {
    score_job *job = lua_touserdata(L, 1);
    const mr_reward_fn *r = job->reward;
    completion *c = job->completions;
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->score_ref);
    lua_pushvalue(L, -1);
    lua_pushlstring(L, c->text, c->len);
    push_copy(L, mr_worker_of(L)->row_ref);
    push_info(L, job, c);
    lua_call(L, 3, LUA_MULTRET);
    int n_values = lua_gettop(L) - 2; /* below: the light userdata and the function */
    c->none = n_values == 0 || (n_values == 1 && lua_isnil(L, -1));
    if (c->none) return 0;
    char wrong[192];
    if (n_values > 1) /* one of find() or gsub() that slipped through, mostly */
        snprintf(wrong, sizeof wrong, "score() returned %d values, want 1", n_values);
    else
        judge(L, r, "", c, wrong, sizeof wrong);
    if (!wrong[0]) return 0;
    lua_Debug ar;
    lua_pushvalue(L, 2);
    lua_getinfo(L, ">S", &ar);
    return luaL_error(L, "%s:%d: %s", ar.short_src, ar.linedefined, wrong);
}

/* The batch form: one call for the whole group. A value that is wrong costs its own completion; a list that is wrong
 * says nothing about any of them. */
static int score_batch_body(lua_State *L) {
    score_job *job = lua_touserdata(L, 1);
    const mr_reward_fn *r = job->reward;
    lua_Debug ar;
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->score_ref);
    lua_pushvalue(L, -1);
    lua_getinfo(L, ">S", &ar);
    push_copy(L, mr_worker_of(L)->row_ref);
    int row = lua_gettop(L);
    lua_createtable(L, job->n, 0);
    for (int i = 0; i < job->n; i++) {
        lua_createtable(L, 0, 3);
        lua_pushlstring(L, job->completions[i].text, job->completions[i].len);
        lua_setfield(L, -2, "completion");
        lua_pushvalue(L, row);
        lua_setfield(L, -2, "row");
        push_info(L, job, &job->completions[i]);
        lua_setfield(L, -2, "info");
        lua_rawseti(L, -2, i + 1);
    }
    lua_remove(L, row);
    lua_call(L, 1, LUA_MULTRET);
    int n_values = lua_gettop(L) - 1; /* below: the light userdata */
    if (n_values > 1)
        return luaL_error(L, "%s:%d: score_batch() returned %d values, want 1: a list of %d numbers", ar.short_src,
                          ar.linedefined, n_values, job->n);
    if (n_values == 0) lua_pushnil(L);
    if (lua_type(L, -1) != LUA_TTABLE)
        return luaL_error(L, "%s:%d: score_batch() returned a %s, want a list of %d numbers", ar.short_src,
                          ar.linedefined, luaL_typename(L, -1), job->n);
    int n = (int)lua_objlen(L, -1);
    if (n != job->n)
        return luaL_error(L, "%s:%d: score_batch() returned %d values for %d completions (false, not nil, abstains)",
                          ar.short_src, ar.linedefined, n, job->n);
    for (int i = 0; i < n; i++) {
        completion *c = &job->completions[i];
        char of[64], wrong[192];
        lua_rawgeti(L, -1, i + 1);
        c->none = lua_type(L, -1) == LUA_TBOOLEAN && !lua_toboolean(L, -1);
        snprintf(of, sizeof of, " for completion %d of %d", i + 1, n);
        if (!c->none) judge(L, r, of, c, wrong, sizeof wrong);
        if (!c->none && wrong[0]) c->fault = mr_asprintf("%s:%d: %s", ar.short_src, ar.linedefined, wrong);
        lua_pop(L, 1);
    }
    return 0;
}

typedef struct row_text {
    const char *text;
    size_t len;
} row_text;

static int decode_row_body(lua_State *L) {
    row_text *row = lua_touserdata(L, 1);
    mr_lua_decode(L, row->text, row->len, "row", false);
    mr_worker *w = mr_worker_of(L);
    luaL_unref(L, LUA_REGISTRYINDEX, w->row_ref);
    w->row_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

/* Decodes the row unless the last job had the same one: the completions of a group follow each other. */
static bool set_row(mr_worker *w, const char *text, size_t len, char *message, size_t message_bytes) {
    if (w->row_ref != ROW_REF_NONE && w->row_len == len && memcmp(w->row_text, text, len) == 0) return true;
    mr_free(w->row_text);
    w->row_text = NULL;
    w->row_len = 0;
    row_text row = { text, len };
    if (!mr_worker_protected(w, decode_row_body, &row, message, message_bytes)) {
        luaL_unref(w->L, LUA_REGISTRYINDEX, w->row_ref);
        w->row_ref = ROW_REF_NONE;
        return false;
    }
    w->row_text = mr_strndup(text, len);
    w->row_len = len;
    return true;
}

static void put_score(mr_str *out, int member, int reward, mr_score_kind kind, double value, const char *fault) {
    mr_put_u32(out, (uint32_t)member);
    mr_put_u32(out, (uint32_t)reward);
    mr_put_u8(out, kind);
    mr_put_f64(out, value);
    mr_put_bytes(out, fault, strlen(fault));
}

/* Runs one reward over the job and appends what came of it; gives the number of entries. */
static int score_with(mr_worker *w, score_job *job, int64_t id, int reward, bool has_row, char *message,
                      size_t message_bytes, mr_str *out) {
    const mr_reward_fn *r = job->reward = &w->rewards[reward];
    double low = isfinite(r->low) ? r->low : 0.0;
    for (int i = 0; i < job->n; i++) {
        job->completions[i].value = 0;
        job->completions[i].none = false;
    }
    w->at->id = id;
    w->at->reward = reward;
    bool ok = has_row && mr_worker_protected(w, r->batch ? score_batch_body : score_body, job, message, message_bytes);
    w->at->reward = -1;
    mr_env_reset(w);
    if (!ok) {
        if (!strstr(message, ".lua")) { /* tail calls leave no frame that knows its line */
            char bare[512];
            snprintf(bare, sizeof bare, "%s", message);
            snprintf(message, message_bytes, "%s: %.300s", r->place, bare);
        }
        put_score(out, r->batch ? -1 : 0, reward, MR_FAULT, low, message);
    }
    for (int i = 0; i < job->n; i++) {
        completion *c = &job->completions[i];
        if (ok && c->fault)
            put_score(out, i, reward, MR_FAULT, low, c->fault);
        else if (ok)
            put_score(out, i, reward, c->none ? MR_ABSTAINED : MR_SCORED, c->none ? 0.0 : c->value, "");
        mr_free(c->fault);
        c->fault = NULL;
    }
    return ok ? job->n : 1;
}

/* Reads a job; its completions are owned by the caller. */
static void take_job(mr_worker *w, mr_take *t, int64_t *id, int *only, bool *group, score_job *job, const char **row,
                     size_t *row_len) {
    *id = mr_take_i64(t);
    *only = (int)(int32_t)mr_take_u32(t);
    uint32_t n_members = mr_take_u32(t);
    job->step = mr_take_i64(t);
    job->prompt = mr_take_bytes(t, &job->prompt_len);
    *row = mr_take_bytes(t, row_len);
    *group = n_members > 0;
    job->n = n_members ? (int)n_members : 1;
    if (t->bad || *only >= w->n_rewards || n_members > (size_t)(t->end - t->at)) _exit(70);
    job->completions = mr_alloc((size_t)job->n * sizeof *job->completions);
    for (int i = 0; i < job->n; i++) {
        completion *c = &job->completions[i];
        c->n_tokens = (int)mr_take_u32(t);
        c->truncated = mr_take_u8(t) != 0;
        c->text = mr_take_bytes(t, &c->len);
    }
    if (t->bad) _exit(70);
}

static void score_frame(mr_worker *w, const char *data, size_t len) {
    mr_frame f = { MR_WIRE_SCORE, data, len };
    mr_take t = mr_take_frame(&f);
    uint32_t n = mr_take_u32(&t);
    mr_str out = { 0 };
    for (uint32_t i = 0; i < n; i++) {
        score_job job = { 0 };
        int64_t id;
        int only;
        bool group;
        const char *row;
        size_t row_len;
        take_job(w, &t, &id, &only, &group, &job, &row, &row_len);
        w->n_logged = 0;
        char message[512];
        bool has_row = set_row(w, row, row_len, message, sizeof message);
        out.len = 0;
        mr_put_i64(&out, id);
        mr_put_u32(&out, 0);
        uint32_t n_entries = 0;
        for (int r = 0; r < w->n_rewards; r++) {
            if (w->rewards[r].batch == group && (only < 0 || r == only))
                n_entries += (uint32_t)score_with(w, &job, id, r, has_row, message, sizeof message, &out);
        }
        memcpy(out.data + sizeof id, &n_entries, sizeof n_entries);
        mr_free(job.completions);
        if (!mr_wire_send(&w->wire, MR_WIRE_SCORED, out.data, out.len, -1)) _exit(0);
    }
    mr_str_clear(&out);
}

/* --- the loop --- */

/* The page that came with START; one of our own when it did not, so that nothing has to ask. */
static mr_at *map_at(mr_wire *wire) {
    static mr_at none;
    int fd = mr_wire_take_fd(wire);
    if (fd < 0) return &none;
    void *page = mmap(NULL, sizeof(mr_at), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return page == MAP_FAILED ? &none : page;
}

/* The state is made, then the door is shut: no Lua of anybody's runs before that. */
static void start(mr_worker *w, const mr_frame *f) {
    mr_take t = mr_take_frame(f);
    w->mem_cap = (size_t)mr_take_i64(&t);
    w->no_jit = mr_take_u8(&t) != 0;
    int lowest = (int)mr_take_u8(&t);
    w->at = map_at(&w->wire);
    w->at->reward = -1;
    w->L = mr_env_open(w);
    if (!w->L) _exit(71);
    w->row_ref = ROW_REF_NONE;
    w->driver_ref = LUA_NOREF;
    mr_sandbox box;
    mr_sandbox_opts o = { .socket_fd = SOCKET_FD, .memory_bytes = w->mem_cap, .no_exec = w->no_jit };
    mr_sandbox_enter(&box, &o);
    mr_str s = { 0 };
    mr_put_u8(&s, (unsigned)box.level);
    mr_put_bytes(&s, box.missing, strlen(box.missing));
    if (!mr_wire_send(&w->wire, MR_WIRE_READY, s.data, s.len, -1) || box.level < lowest) _exit(77);
    mr_str_clear(&s);
}

static void run_load(mr_worker *w, const mr_frame *f) {
    load_command c = { .in = mr_take_frame(f) };
    /* The frame is read while texts are asked for, which moves the buffer: keep a copy. */
    char *copy = mr_alloc(f->len + 1);
    memcpy(copy, f->data, f->len);
    c.in = (mr_take){ copy, copy + f->len, false };
    char message[1024];
    if (!mr_worker_protected(w, load_body, &c, message, sizeof message))
        reply_error(w, MR_EINVAL, message);
    else if (!mr_wire_send(&w->wire, MR_WIRE_REPLY, c.out.data, c.out.len, -1))
        _exit(0);
    mr_str_clear(&c.out);
    mr_free(copy);
}

static void run_rows(mr_worker *w, const mr_frame *f) {
    char *copy = mr_alloc(f->len + 1);
    memcpy(copy, f->data, f->len);
    row_command c = { .in = { copy, copy + f->len, false }, .type = f->type };
    char message[1024];
    bool ok = mr_worker_protected(w, row_body, &c, message, sizeof message);
    mr_env_reset(w);
    if (!ok) {
        char *mark = strstr(message, MR_RECIPE_FAULT); /* a script's own text may stand before it */
        if (mark) memmove(mark, mark + 1, strlen(mark));
        reply_error(w, mark ? MR_EINVAL : MR_EDATA, message);
    }
    else if (!mr_wire_send(&w->wire, MR_WIRE_REPLY, c.out.data, c.out.len, -1))
        _exit(0);
    mr_str_clear(&c.out);
    mr_free(copy);
}

static void run_template(mr_worker *w, const mr_frame *f) {
    char *copy = mr_alloc(f->len + 1), message[1024];
    memcpy(copy, f->data, f->len);
    template_command c = { .in = { copy, copy + f->len, false }, .render = f->type == MR_WIRE_RENDER };
    if (!mr_worker_protected(w, template_body, &c, message, sizeof message))
        reply_error(w, MR_EDATA, message);
    else if (!mr_wire_send(&w->wire, MR_WIRE_REPLY, c.out.data, c.out.len, -1))
        _exit(0);
    mr_str_clear(&c.out);
    mr_free(copy);
}

/* A frame may ask for texts while it runs, and that reuses the input buffer: scoring works on a copy as well. */
static void run_score(mr_worker *w, const char *data, size_t len) {
    char *copy = mr_alloc(len + 1);
    memcpy(copy, data, len);
    score_frame(w, copy, len);
    mr_free(copy);
    while (w->deferred_at < w->deferred.len) {
        mr_take t = { w->deferred.data + w->deferred_at, w->deferred.data + w->deferred.len, false };
        size_t n;
        const char *p = mr_take_bytes(&t, &n);
        w->deferred_at += sizeof(uint32_t) + n;
        copy = mr_alloc(n + 1);
        memcpy(copy, p, n);
        score_frame(w, copy, n);
        mr_free(copy);
    }
    w->deferred.len = w->deferred_at = 0;
}

/* --- where it is, for a parent that thinks it hangs (base/watch.h) --- */

static mr_worker worker;

static void say_where(const char *place, int line) {
    volatile char *out = worker.at->where;
    size_t n = 0;
    char digits[12];
    int k = 0;
    for (; place[n] && n < MR_WATCH_WHERE - sizeof digits - 2; n++) out[n] = place[n];
    if (line > 0) out[n++] = ':';
    for (; line > 0; line /= 10) digits[k++] = (char)('0' + line % 10);
    while (k) out[n++] = digits[--k];
    out[n] = '\0';
}

static void where_hook(lua_State *L, lua_Debug *unused) {
    (void)unused;
    lua_sethook(L, NULL, 0, 0);
    lua_Debug ar;
    for (int level = 0; lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        if (ar.currentline <= 0 || !strstr(ar.short_src, ".lua")) continue;
        say_where(ar.short_src, ar.currentline);
        return;
    }
}

/* The reward at once, its line at the next instruction: compiled code and C functions do not come to a hook. */
static void on_asked(int number) {
    (void)number;
    if (!worker.L || !worker.at) return;
    const int r = worker.at->reward;
    if (r >= 0 && r < worker.n_rewards) say_where(worker.rewards[r].place, 0);
    lua_sethook(worker.L, where_hook, LUA_MASKCOUNT, 1);
}

int mr_worker_main(void) {
    struct sigaction act = { .sa_handler = on_asked, .sa_flags = SA_RESTART };
    sigaction(SIGUSR1, &act, NULL);
    mr_proc_child_setup();
    mr_worker *w = &worker;
    mr_wire_init(&w->wire, SOCKET_FD);
    for (;;) {
        mr_frame f;
        int got = mr_wire_next(&w->wire, &f);
        if (got < 0) _exit(70);
        if (got == 0) {
            if (!mr_wire_fill(&w->wire, true)) _exit(0); /* the parent closed: this is how a worker's life ends */
            continue;
        }
        w->n_logged = 0;
        if (f.type == MR_WIRE_START) {
            if (w->L) _exit(70);
            start(w, &f);
            continue;
        }
        if (!w->L && f.type == MR_WIRE_IMPORT) mr_import_child(&w->wire, &f);
        if (!w->L) _exit(70);
        switch (f.type) {
        case MR_WIRE_LOAD: run_load(w, &f); break;
        case MR_WIRE_ROWS:
        case MR_WIRE_ROW:
        case MR_WIRE_SURVEY: run_rows(w, &f); break;
        case MR_WIRE_TEMPLATE:
        case MR_WIRE_RENDER: run_template(w, &f); break;
        case MR_WIRE_SCORE: run_score(w, f.data, f.len); break;
        default: _exit(70);
        }
    }
}
