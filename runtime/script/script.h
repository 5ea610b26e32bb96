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
    const char *const *overrides; /* --set assignments, NULL-terminated or NULL */
} mr_pool_opts;

/* Finds the recipe ("recipes/x.lua": working folder first, then MEDRL_HOME/lua), starts the workers, evaluates the
 * recipe with on_cpu and the overrides applied, loads rewards and runs their cases. */
mr_status mr_pool_open(mr_pool **out, const char *recipe, const mr_pool_opts *opts, mr_err *err);
void mr_pool_close(mr_pool *p);

/* The resolved recipe as plain data (rl/settings.h parses it); borrowed until close. */
const cJSON *mr_pool_recipe(const mr_pool *p);
const char *mr_pool_recipe_path(const mr_pool *p); /* for messages */
/* split: "train" or "eval". n_rows 0 when the recipe has no such split. */
mr_status mr_pool_rows(mr_pool *p, const char *split, mr_row_source *out, mr_err *err);
/* Counts of rows that filters and row functions dropped, by data set, as lines for people. */
mr_status mr_pool_data_report(mr_pool *p, const char *split, mr_str *out, mr_err *err);
mr_scorer mr_pool_scorer(mr_pool *p);

/* Every Lua text in use: the run folder stores them by hash. Borrowed until the next between_steps. */
typedef struct mr_script_text {
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
/* A file that was saved since is compiled in a fresh process, runs its cases and renders the last messages again; then
 * it is taken over, or one line says why the one in use stays. note: appended to when something happened. Templates
 * that came with a model do not change. */
mr_status mr_template_between_steps(mr_template *t, mr_str *note, mr_err *err);

/* `medrl test PATH...`: runs the cases of every Lua file below the paths in fresh workers; prints one line a failure
 * (got, want, place) to out. */
mr_status mr_script_test(const char *const *paths, int n_paths, mr_str *out, int *n_passed, int *n_failed, mr_err *err);

/* The child's side: `medrl --worker` calls this first thing; returns the exit code. */
int mr_worker_main(void);

#endif
