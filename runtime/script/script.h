/* script.h - the one seam to Lua: recipes, data rows and rewards live in worker processes; the trainer holds no Lua
 * state.
 *
 * A pool is n_workers copies of this program (`medrl --worker`) that have loaded the recipe, its datasets and its
 * rewards, and one more that holds the data. Frames over a socket pair carry rows and completions out and JSON and
 * doubles back. Deadlines are the parent's clock and SIGKILL; a killed worker is replaced and its samples are replayed
 * one by one to find the guilty one (design.md, section 2).
 *
 * Files: a worker cannot open data files; the parent opens what the recipe names and passes the descriptor. Lua files
 * are read by the parent and sent as text, named "@lua/rewards/x.lua", so messages carry file and line and the version
 * that ran is the version that is stored.
 *
 * Errors: MR_EINVAL `FILE:LINE: what` for a script that does not load or fails its cases. Threads: one. */
#ifndef MR_SCRIPT_H
#define MR_SCRIPT_H

#include "rl/interfaces.h"

typedef struct mr_pool mr_pool;

typedef struct mr_pool_opts {
    int n_workers;                /* 0: 2 */
    double deadline_s;            /* a call; 0: 2 s */
    size_t memory_bytes;          /* of one worker; 0: 512 MiB beyond its start */
    bool on_cpu;                  /* merge the recipe's on_cpu table */
    /* A run that is continued: the texts that were in use ({ "scripts", "modules" } as in mr_reload.detail; copied),
     * from store/<sha256>.lua; what is not among them, and medrl.*, comes from its place. NULL: all do. */
    const cJSON *pinned;
    const char *store;            /* RUN/scripts, for pinned and for mr_scorer.replay */
    const cJSON *base;            /* the recipe that the run was planned with (copied); NULL: the one that opens */
    const char *const *overrides; /* --set assignments, NULL-terminated or NULL */
} mr_pool_opts;

/* Finds the recipe ("recipes/x.lua": working folder first, then MEDRL_HOME/lua), starts the workers, evaluates the
 * recipe with on_cpu and the overrides applied, loads rewards and runs their cases. */
mr_status mr_pool_open(mr_pool **out, const char *recipe, const mr_pool_opts *opts, mr_err *err);
void mr_pool_close(mr_pool *p);

/* The resolved recipe as plain data (rl/settings.h parses it); borrowed until the next between_steps. */
const cJSON *mr_pool_recipe(const mr_pool *p);
const char *mr_pool_recipe_path(const mr_pool *p); /* for messages */
/* split: "train" or "eval". n_rows 0 when the recipe has no such split. */
mr_status mr_pool_rows(mr_pool *p, const char *split, mr_row_source *out, mr_err *err);
/* Counts of rows that filters and row functions dropped, by data set, as lines for people. */
mr_status mr_pool_data_report(mr_pool *p, const char *split, mr_str *out, mr_err *err);
mr_scorer mr_pool_scorer(mr_pool *p);

/* Where the texts of replay lie, once the run has a folder; copied. */
void mr_pool_store(mr_pool *p, const char *folder);

/* Every Lua text in use: the run folder stores them by hash. Borrowed until the next between_steps. */
typedef struct mr_script_text {
    const char *module; /* "rewards.correctness"; "@main": the recipe */
    const char *name; /* "lua/rewards/correctness.lua" */
    const char *text;
    size_t len;
    char sha256[65];
} mr_script_text;
const mr_script_text *mr_pool_scripts(const mr_pool *p, int *n);

/* `medrl test PATH...`: runs the cases of every Lua file below the paths in fresh workers; prints one line a failure
 * (got, want, place) to out. */
mr_status mr_script_test(const char *const *paths, int n_paths, mr_str *out, int *n_passed, int *n_failed, mr_err *err);

/* The child's side: `medrl --worker` calls this first thing; returns the exit code. */
int mr_worker_main(void);

#endif
