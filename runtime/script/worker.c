/* worker.c - the child: takes commands from fd 3, runs Lua under protection, answers.
 *
 * What a recipe, a data set or a case means is decided by lua/medrl/worker.lua, which the parent sends like any other
 * text; this file moves bytes, and scores: that is the hot path and the one where a script's mistake must cost one
 * sample only. It ends when the parent goes. Deadlines are the parent's: nothing here watches the clock. */
#include "script/worker.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/proc.h"
#include "rl/interfaces.h"
#include "script/script.h"

enum { SOCKET_FD = 3, ROW_REF_NONE = LUA_NOREF };

#if defined(__SANITIZE_ADDRESS__)
enum { HAS_ASAN = 1 };
#else
enum { HAS_ASAN = 0 };
#endif

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
    bool test = mr_take_u8(&c->in) != 0;
    uint32_t n = mr_take_u32(&c->in);
    lua_createtable(L, 0, 0);
    for (uint32_t i = 0; i < n && !c->in.bad; i++) {
        size_t len;
        const char *s = mr_take_bytes(&c->in, &len);
        lua_pushlstring(L, s, len);
        lua_rawseti(L, -2, (int)i + 1);
    }
    lua_setfield(L, -2, "overrides");
    if (test) {
        call_driver(L, "test", 1, 3); /* passed, failed, lines */
        mr_put_i64(&c->out, (int64_t)lua_tonumber(L, -3));
        mr_put_i64(&c->out, (int64_t)lua_tonumber(L, -2));
        size_t len;
        const char *lines = luaL_checklstring(L, -1, &len);
        mr_put_bytes(&c->out, lines, len);
        return 0;
    }
    call_driver(L, "open", 1, 2); /* recipe as JSON, rewards */
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
        lua_getfield(L, -1, "score");
        luaL_checktype(L, -1, LUA_TFUNCTION);
        r->score_ref = luaL_ref(L, LUA_REGISTRYINDEX);
        lua_getfield(L, -1, "options");
        r->options_ref = luaL_ref(L, LUA_REGISTRYINDEX);
        w->n_rewards = i + 1;
        mr_put_bytes(&c->out, r->name, strlen(r->name));
        mr_put_bytes(&c->out, r->place, strlen(r->place));
        mr_put_f64(&c->out, isfinite(r->low) ? r->low : 0.0);
        lua_pop(L, 1);
    }
    return 0;
}

/* --- ROWS, ROW --- */

typedef struct row_command {
    mr_take in;
    mr_str out;
    bool one;
} row_command;

static int row_body(lua_State *L) {
    row_command *c = lua_touserdata(L, 1);
    size_t len;
    const char *split = mr_take_bytes(&c->in, &len);
    lua_pushlstring(L, split, len);
    if (!c->one) {
        call_driver(L, "rows", 1, 2); /* how many, report */
        mr_put_i64(&c->out, (int64_t)luaL_checknumber(L, -2));
        const char *report = luaL_checklstring(L, -1, &len);
        mr_put_bytes(&c->out, report, len);
        return 0;
    }
    lua_pushnumber(L, (lua_Number)mr_take_i64(&c->in));
    call_driver(L, "row", 2, 3); /* messages as JSON, row as JSON, source */
    for (int i = -3; i < 0; i++) {
        const char *s = luaL_checklstring(L, i, &len);
        mr_put_bytes(&c->out, s, len);
    }
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

typedef struct score_job {
    const char *text;
    size_t len;
    const char *prompt;
    size_t prompt_len;
    int n_tokens;
    bool truncated;
    int64_t step;
    const mr_reward_fn *reward;
    double value;
    bool none;
} score_job;

static int score_body(lua_State *L) {
    score_job *job = lua_touserdata(L, 1);
    const mr_reward_fn *r = job->reward;
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->score_ref);
    lua_pushvalue(L, -1);
    lua_pushlstring(L, job->text, job->len);
    lua_rawgeti(L, LUA_REGISTRYINDEX, mr_worker_of(L)->row_ref);
    lua_createtable(L, 0, 5);
    lua_pushlstring(L, job->prompt, job->prompt_len);
    lua_setfield(L, -2, "prompt");
    lua_pushinteger(L, job->n_tokens);
    lua_setfield(L, -2, "n_tokens");
    lua_pushboolean(L, job->truncated);
    lua_setfield(L, -2, "truncated");
    lua_pushnumber(L, (lua_Number)job->step);
    lua_setfield(L, -2, "step");
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->options_ref);
    lua_setfield(L, -2, "options");
    lua_call(L, 3, 1);
    job->none = lua_isnil(L, -1);
    if (job->none) return 0;
    const char *wrong = NULL;
    if (lua_type(L, -1) != LUA_TNUMBER) {
        wrong = lua_pushfstring(L, "score() returned a %s, want a number or nil", luaL_typename(L, -1));
    } else {
        job->value = lua_tonumber(L, -1);
        if (isnan(job->value))
            wrong = "score() returned NaN, want a finite number";
        else if (!isfinite(job->value))
            wrong = "score() returned an infinite number, want a finite one";
        else if (job->value < r->low || job->value > r->high) {
            char text[160];
            snprintf(text, sizeof text, "score() returned %g, outside its range %g to %g", job->value, r->low, r->high);
            lua_pushstring(L, text);
            wrong = lua_tostring(L, -1);
        }
    }
    if (!wrong) return 0;
    lua_Debug ar;
    lua_pushvalue(L, 2);
    lua_getinfo(L, ">S", &ar);
    return luaL_error(L, "%s:%d: %s", ar.short_src, ar.linedefined, wrong);
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

static void score_frame(mr_worker *w, const char *data, size_t len) {
    mr_frame f = { MR_WIRE_SCORE, data, len };
    mr_take t = mr_take_frame(&f);
    uint32_t n = mr_take_u32(&t);
    mr_str out = { 0 };
    for (uint32_t i = 0; i < n; i++) {
        score_job job = { 0 };
        int64_t id = mr_take_i64(&t);
        int only = (int)(int32_t)mr_take_u32(&t);
        job.step = mr_take_i64(&t);
        job.n_tokens = (int)mr_take_u32(&t);
        job.truncated = mr_take_u8(&t) != 0;
        job.text = mr_take_bytes(&t, &job.len);
        job.prompt = mr_take_bytes(&t, &job.prompt_len);
        size_t row_len;
        const char *row = mr_take_bytes(&t, &row_len);
        if (t.bad || only >= w->n_rewards) _exit(70);
        w->n_logged = 0;
        char message[512];
        bool has_row = set_row(w, row, row_len, message, sizeof message);
        out.len = 0;
        mr_put_i64(&out, id);
        mr_put_u32(&out, only < 0 ? (uint32_t)w->n_rewards : 1);
        for (int r = only < 0 ? 0 : only; r < (only < 0 ? w->n_rewards : only + 1); r++) {
            job.reward = &w->rewards[r];
            job.value = 0;
            job.none = false;
            bool ok = has_row && mr_worker_protected(w, score_body, &job, message, sizeof message);
            if (!ok && !strstr(message, ".lua")) { /* tail calls leave no frame that knows its line */
                char bare[sizeof message];
                memcpy(bare, message, sizeof bare);
                snprintf(message, sizeof message, "%s: %.300s", job.reward->place, bare);
            }
            double low = isfinite(job.reward->low) ? job.reward->low : 0.0;
            mr_put_u32(&out, (uint32_t)r);
            mr_put_u8(&out, ok ? (job.none ? MR_ABSTAINED : MR_SCORED) : MR_FAULT);
            mr_put_f64(&out, ok ? (job.none ? 0.0 : job.value) : low);
            mr_put_bytes(&out, ok ? "" : message, ok ? 0 : strlen(message));
        }
        if (!mr_wire_send(&w->wire, MR_WIRE_SCORED, out.data, out.len, -1)) _exit(0);
    }
    mr_str_clear(&out);
}

/* --- the loop --- */

static void start(mr_worker *w, size_t memory_bytes) {
    w->mem_cap = memory_bytes;
    w->L = mr_env_open(w);
    if (!w->L) _exit(71);
    w->row_ref = ROW_REF_NONE;
    w->driver_ref = LUA_NOREF;
    if (HAS_ASAN) return; /* its shadow memory does not start under an address limit; the allocator's cap still holds */
    long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    if (!statm) return;
    if (fscanf(statm, "%ld", &pages) != 1) pages = 0;
    fclose(statm);
    if (pages == 0) return;
    rlim_t limit =
        (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + memory_bytes + (64u << 20); /* compiled code, PCRE2, frames */
    setrlimit(RLIMIT_AS, &(struct rlimit){ limit, limit });
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
    row_command c = { .in = { copy, copy + f->len, false }, .one = f->type == MR_WIRE_ROW };
    char message[1024];
    if (!mr_worker_protected(w, row_body, &c, message, sizeof message)) {
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

int mr_worker_main(void) {
    mr_proc_child_setup();
    static mr_worker worker;
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
            mr_take t = mr_take_frame(&f);
            if (w->L) _exit(70);
            start(w, (size_t)mr_take_i64(&t));
            continue;
        }
        if (!w->L) _exit(70);
        switch (f.type) {
        case MR_WIRE_LOAD: run_load(w, &f); break;
        case MR_WIRE_ROWS:
        case MR_WIRE_ROW: run_rows(w, &f); break;
        case MR_WIRE_TEMPLATE:
        case MR_WIRE_RENDER: run_template(w, &f); break;
        case MR_WIRE_SCORE: run_score(w, f.data, f.len); break;
        default: _exit(70);
        }
    }
}
