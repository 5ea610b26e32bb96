/* script.h - the one seam to Lua: recipes, data rows and rewards live in worker processes; the trainer holds no Lua
 * state.
 *
 * A pool is n_workers copies of this program (`medrl --worker`) that have loaded the recipe, its datasets and its
 * rewards, and with a recipe one more that holds the data. Frames over a socket pair carry rows and completions out and
 * JSON and doubles back. A worker is locked in (sandbox.h) before any script reaches it.
 *
 * Deadlines are the parent's clock and SIGKILL, for each call. The call that a killed worker was in is a fault of its
 * reward and sample; the worker is replaced and its other samples are scored again. A worker that was not computing, or
 * that crashed, is given no blame before the sample was tried alone; after crashes the last try is without the compiler.
 * A reward that hangs for three samples of a batch is off for every sample with a larger id than the third of them: those
 * are faults that say so, whether or not the reward had scored them before. So a batch costs a few deadlines at most, and
 * its scores depend on the samples alone.
 *
 * What a script leaves behind: each call gets a copy of the row, and globals that a call wrote are gone after it. Locals
 * of a file and what its tables hold stay as long as the worker lives: which samples a worker saw is a matter of time, so
 * a score must not depend on them. pairs goes in the order of the keys, and nothing shows an address.
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
    int require_sandbox;          /* MR_EREFUSED when a worker's sandbox (sandbox.h) stays below this level; 0: any */
    bool no_jit;                  /* the interpreter only: 3 times slower, no executable memory in a worker */
    /* Rewards in place of the recipe's, NULL-terminated or NULL: "NAME" as in a recipe, or a file ("x.lua",
     * "path/to/x.lua": working folder first, then MEDRL_HOME/lua), each with options behind a colon:
     * "soft_format:dotall=true,weight=0.5". With these mr_pool_open takes NULL for the recipe: the pool has a scorer,
     * reloads changed files (mr_scorer.between_steps), has no rows, and mr_pool_recipe holds the rewards alone. */
    const char *const *rewards;
} mr_pool_opts;

/* Finds the recipe ("recipes/x.lua": working folder first, then MEDRL_HOME/lua), starts the workers, evaluates the
 * recipe with on_cpu and the overrides applied, loads rewards and runs their cases. */
mr_status mr_pool_open(mr_pool **out, const char *recipe, const mr_pool_opts *opts, mr_err *err);
void mr_pool_close(mr_pool *p);

/* The resolved recipe as plain data (rl/settings.h parses it); borrowed until the next between_steps. */
const cJSON *mr_pool_recipe(const mr_pool *p);
const char *mr_pool_recipe_path(const mr_pool *p); /* for messages */
/* The lowest level of the sandbox that a worker has, 1 to 3; *missing (may be NULL) says what kept it from 3, or is "".
 * Below 2 the first worker of a process makes one line of warning, whatever it was started for. */
int mr_pool_sandbox(const mr_pool *p, const char **missing);
/* The same without a recipe: starts a worker, asks, ends it. */
mr_status mr_script_sandbox(int *level, char *missing, size_t missing_bytes, mr_err *err);
/* split: "train" or "eval". n_rows 0 when the recipe has no such split. */
mr_status mr_pool_rows(mr_pool *p, const char *split, mr_row_source *out, mr_err *err);
/* Counts of rows that filters and row functions dropped, by data set, as lines for people. */
mr_status mr_pool_data_report(mr_pool *p, const char *split, mr_str *out, mr_err *err);
/* The same as an array of objects (docs/data.md says what is in them); the caller's, free with cJSON_Delete. */
mr_status mr_pool_data_counts(mr_pool *p, const char *split, cJSON **out, mr_err *err);

/* How answers are called that were not counted one by one. */
#define MR_OTHER_ANSWERS "(other answers)"

/* What is in the rows of a split, each of which is made once for it. */
typedef struct mr_survey {
    int64_t n;        /* rows that were looked at: the first n */
    uint64_t *keys;   /* [n] equal where the last messages of the user are, but for white space; 0: there is none */
    cJSON *answers;   /* { source: { answer: rows } }, as they were met; 200 different answers of a source at most */
    int64_t n_failed; /* rows that could not be made */
    char first_failure[512];
} mr_survey;
/* At most max_rows rows and about max_s seconds. out is cleared on failure; clear with mr_survey_clear. */
mr_status mr_pool_survey(mr_pool *p, const char *split, int64_t max_rows, double max_s, mr_survey *out, mr_err *err);
void mr_survey_clear(mr_survey *s);
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

/* A chat template: the model's own in Jinja, or a file of the user's, in Jinja (x.jinja) or Lua (templates/x.lua; see
 * lua/medrl/template.lua). Jinja is compiled to Lua (text/jinja.h); either runs in a worker process of its own, with
 * the deadline and the memory of a call, since templates are downloaded with models. What comes back is checked: UTF-8,
 * at most MR_CHAT_TEXT_MOST bytes. A template that was killed at its deadline gets a new process at the next call.
 *
 * The date that strftime_now gives is fixed when the template is opened, so that prompts are a function of a run's
 * inputs: a recipe's model.chat_template_date, or the day on which the run was started, which its config.json keeps. */
typedef struct mr_template mr_template;

typedef struct mr_template_opts {
    const char *date;                  /* "2026-07-26"; NULL or "": today */
    const char *bos_token, *eos_token; /* constants of the template; NULL: it finds none */
    const char *variables; /* more of them, as data: a JSON object, model.chat_template_kwargs; NULL: none */
    double deadline_s;     /* a rendering; 0: 2 s */
    size_t memory_bytes;   /* 0: 256 MiB beyond its start */
    /* A run that is continued: the version that was in use (mr_template_version), from store/<sha256>.jinja or .lua,
     * with the modules that it required; medrl.* comes from its place. NULL: what is there now. */
    const cJSON *pinned;
    const char *store;
} mr_template_opts;        /* copied */

/* source: Jinja. place: what messages begin with, before ":LINE: ". MR_EDATA. */
mr_status mr_template_open(mr_template **out, const char *source, size_t len, const char *place,
                           const mr_template_opts *opts, mr_err *err);
/* what: PATH.jinja, PATH.lua or "templates/NAME" (a Lua file, found like a recipe); a Lua file's cases are run.
 * MR_EINVAL or MR_ENOTFOUND. */
mr_status mr_template_open_file(mr_template **out, const char *what, const mr_template_opts *opts, mr_err *err);
void mr_template_close(mr_template *t);                /* NULL is fine */
const mr_chat *mr_template_chat(const mr_template *t); /* as long as the template is open; one thread */
const char *mr_template_date(const mr_template *t);
/* The source as it is used now; borrowed until the next between_steps. */
const mr_script_text *mr_template_script(const mr_template *t);
/* What the worker runs: the compiled text, or the Lua file's own. Borrowed likewise. */
const char *mr_template_lua(const mr_template *t);
/* The texts that the run folder stores: the source, then the modules that a Lua file required, without medrl.*; NULL
 * past the last. Borrowed likewise. */
const mr_script_text *mr_template_text(const mr_template *t, int i);
/* The version in use: { "name", "sha256" }, of a Lua file also "scripts" and "modules" as in mr_reload.detail, of the
 * texts above. Owned by the caller. */
cJSON *mr_template_version(const mr_template *t);
/* As mr_scorer.between_steps does it, the debounce too: a file that was saved is compiled in a fresh process, runs
 * its cases and renders the last messages again; then it is taken over, or one line says why the one in use stays. out
 * may hold what became of the scripts: note (with "; "), taken, refused and detail.changed are added to. Templates that
 * came with a model do not change. */
mr_status mr_template_between_steps(mr_template *t, mr_reload *out, mr_err *err);
/* Takes a stored version over, untried, without a look at the file; the next between_steps compares that with it. */
mr_status mr_template_replay(mr_template *t, const cJSON *version, const char *store, mr_err *err);

/* `medrl test PATH...`: runs the cases of every Lua file below the paths in fresh workers; prints each failure to out:
 * a line with place, got and want, and below it, indented, what the case ran on. files (may be NULL) is an array that
 * gets one object a file: file, kind, passed, failed, failures. */
mr_status mr_script_test(const char *const *paths, int n_paths, mr_str *out, cJSON *files, int *n_passed, int *n_failed,
                         mr_err *err);

/* The child's side: `medrl --worker` calls this first thing; returns the exit code. */
int mr_worker_main(void);

#endif
