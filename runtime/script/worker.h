/* worker.h - what the files of the child's side share: one Lua state, one wire, the texts asked for by name.
 *
 * Rule of the boundary (house.md, section 7): C enters Lua through mr_worker_protected only; a function that may raise
 * holds no C resource, or holds it in a userdata with __gc. Private to runtime/script. */
#ifndef MR_WORKER_H
#define MR_WORKER_H

#include <cjson/cJSON.h>
#include <lauxlib.h>
#include <lua.h>

#include "script/wire.h"

typedef struct mr_reward_fn {
    char name[64], place[160]; /* "lua/rewards/x.lua" */
    int score_ref, options_ref;
    bool batch; /* score_ref is score_batch: it sees all completions of a prompt at once */
    double low, high; /* -inf, +inf without a declared range */
} mr_reward_fn;

typedef struct mr_worker {
    lua_State *L;
    mr_wire wire;
    mr_str deferred; /* SCORE frames that came while an answer was waited for */
    size_t deferred_at;
    size_t mem_used, mem_cap;
    mr_reward_fn *rewards;
    int n_rewards;
    int driver_ref; /* the table that lua/medrl/worker.lua returned */
    char *row_text; /* the row that row_ref was decoded from: the completions of a group share it */
    size_t row_len;
    int row_ref;
    int n_logged; /* LOG frames in this command */
    mr_at *at;    /* shared with the parent */
    bool no_jit;
} mr_worker;

/* Stands before messages of the data path that are the recipe's fault: MR_EINVAL, where the rest is MR_EDATA. */
#define MR_RECIPE_FAULT "\1"

/* The worker that owns the state (it is the allocator's user data). */
mr_worker *mr_worker_of(lua_State *L);
/* Runs f(L) with ud as its light userdata argument, protected, with a handler that puts FILE:LINE before messages that
 * lack it. False: err holds the message. */
bool mr_worker_protected(mr_worker *w, lua_CFunction f, void *ud, char *message, size_t message_bytes);
/* Sends a request and waits for the answer of type `want`. Leaves the process when the parent is gone. */
mr_frame mr_worker_ask(mr_worker *w, mr_wire_type ask, const void *data, size_t len, mr_wire_type want);

/* env.c: the state with its allow-listed environment (w->no_jit: the compiler stays off); NULL when there is no memory
 * for it. */
lua_State *mr_env_open(mr_worker *w);
/* After each call into a script: globals written since the files were loaded are gone, so that no sample sees what an
 * earlier one left in them. (Locals of a file and what tables hold stay: they are part of its closures.) */
void mr_env_reset(mr_worker *w);
/* What the files wrote to their globals until now counts as loaded. */
void mr_env_keep(mr_worker *w);
/* Pushes what module `name` returned, loading it through the parent when needed. Raises. */
void mr_env_require(lua_State *L, const char *name);

/* convert.c: cJSON and Lua. Arrays carry a metatable, so that an empty one stays an array; keys leave sorted. */
void mr_lua_push_json(lua_State *L, const cJSON *item, bool keep_null); /* raises (memory) */
/* The same from text for which mr_json_check said MR_OK. The text must not move: no Lua code runs in between. */
void mr_lua_push_checked(lua_State *L, const char *text, size_t len, bool keep_null);
/* Appends the JSON of the value at `index`; raises when it has none. The value's text is pushed as a string. */
void mr_lua_encode(lua_State *L, int index);
/* Parses and pushes; raises with the parser's message. */
void mr_lua_decode(lua_State *L, const char *text, size_t len, const char *place, bool keep_null);
void mr_convert_open(lua_State *L); /* makes the array metatable */
/* Pushes a copy, all the way down, of a table that came from JSON (or of what is no table, as it is). Raises. */
void mr_lua_copy(lua_State *L, int index);

/* Each pushes one library table. */
int mr_lib_re(lua_State *L);
int mr_lib_text(lua_State *L);
int mr_lib_json(lua_State *L);
int mr_lib_log(lua_State *L);
int mr_lib_rng(lua_State *L);
int mr_lib_files(lua_State *L);

/* A number that two texts share when they are equal but for their white space (lib_text.c). */
uint64_t mr_text_key(const char *text, size_t len);

/* Sends a line to the parent's log; past a number of lines in one command they are dropped. */
void mr_worker_log(mr_worker *w, int level, const char *line, size_t len);
bool mr_worker_log_full(const mr_worker *w); /* that number is reached, and said */

#endif
