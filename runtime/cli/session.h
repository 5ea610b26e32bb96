/* session.h - one training run from recipe to adapter: what run, resume and demo have in common.
 *
 * mr_session_open evaluates the recipe, opens model, run folder and trainer, and (resuming) loads the newest
 * checkpoint; mr_session_train trains and saves the result.
 *
 * A run that is continued gives the bits of one that was never stopped, with reloads and settings changes in between:
 * it is planned from config.json; its workers load the texts that the checkpoint names, from scripts/<sha256>.lua, and
 * its chat template comes from there too, be it a file of the user's or the model's own; the
 * trainer takes the settings in force from the checkpoint; and what the events say after the checkpoint takes place
 * again between the same steps (mr_trainer_replay). Files on disk are looked at from the last recorded step on: one
 * that differs by then is a reload as in any run, with its event and its line. Signals: from mr_session_train on the first one makes a
 * checkpoint and returns MR_ESIGNAL.
 * Ownership: everything belongs to the struct; mr_session_close releases it, after a failure too. */
#ifndef MR_SESSION_H
#define MR_SESSION_H

#include "cli/parts.h"
#include "record/run.h"
#include "rl/trainer.h"
#include "script/script.h"

typedef struct mr_session_opts {
    const char *recipe;
    const char *const *rewards;   /* without a recipe: mr_pool_opts.rewards, for mr_session_need_rewards; or NULL */
    const char *const *overrides; /* NULL-terminated or NULL */
    const char *device;
    int n_threads;
    const char *resume; /* run folder to continue, NULL: a new run */
    const char *output; /* run folder in place of the recipe's output_dir, NULL: the recipe's */
    const char *on_error; /* "pause" or "stop" in place of the recipe's, NULL: the recipe's */
    bool allow_different_device; /* with resume: the bits may be others from here on */
    bool progress;
    int require_sandbox; /* lowest level that the workers must reach, 0: any */
    bool control; /* listen on RUN/control.sock: medrl attach */
    bool keep;    /* the trained parameters as they are before the first step, for mr_session_reset */
} mr_session_opts;

/* What is open; each needs those before it. */
typedef enum mr_stage {
    MR_STAGE_NOTHING,
    MR_STAGE_SCRIPTS, /* backend, workers, settings */
    MR_STAGE_ROWS,    /* the training data */
    MR_STAGE_TEXT,    /* tokenizer and chat format */
    MR_STAGE_MODEL,
    MR_STAGE_TRAINER /* with the run folder */
} mr_stage;

typedef struct mr_live mr_live; /* cli/live.h */

typedef struct mr_session {
    mr_session_opts opts;
    mr_stage stage;
    bool on_cpu;    /* the recipe's on_cpu part is in use */
    bool no_gpu;    /* the backend is the CPU; false before it is open: a GPU is on its way */
    mr_live *live;  /* who is told and who may ask */
    float **start;  /* the trained parameters as they were before the first step, on the host; NULL: not kept */
    mr_pool *pool;
    mr_pool *judge; /* of evaluations; NULL: none was made yet */
    mr_scorer scorer; /* the pool's, within mr_session_scorer's */
    mr_settings settings;
    mr_parts parts; /* backend, model, tokenizer, chat */
    mr_run *run;
    mr_trainer *trainer;
    mr_plan plan;
    mr_row_source rows;
    mr_observer inner; /* the run folder's; the session listens in between */
    cJSON *config;     /* what config.json of a run that is continued says; NULL for a new one */
    mr_metric *last;   /* of the newest step */
    int n_last;
    double first_reward, last_reward; /* mean of the first and the last three steps; NaN without steps */
    double rewards[3];
    int64_t n_steps; /* done by this process */
    double start_s;
    char *checkpoint; /* that the run goes on from, NULL for a new one */
    cJSON *made_on, *made_by; /* the device and the build of that checkpoint; NULL: it does not say */
    cJSON *base;      /* the recipe that it was planned with, from config; NULL for a new one */
    cJSON *pinned;    /* the texts that were in use at the checkpoint; NULL: it does not say */
    cJSON *journal;   /* what is to be repeated; NULL: nothing */
    int64_t journal_last; /* the last step that was recorded */
    cJSON *told;      /* { module: sha256 } of the texts that are stored and in the events */
    char *result; /* folder of the adapter or the model, after training */
} mr_session;

mr_status mr_session_open(mr_session *s, const mr_session_opts *opts, mr_err *err);
/* The same in parts, for `medrl repl`: begin does nothing but remember; need opens what is not open yet. begin's opts
 * may have no recipe: need fails then, saying so. */
void mr_session_begin(mr_session *s, const mr_session_opts *opts);
mr_status mr_session_need(mr_session *s, mr_stage stage, mr_err *err);
/* Opens s->pool for its scorer: as stage SCRIPTS does, or, without a recipe, with opts.rewards alone. */
mr_status mr_session_need_rewards(mr_session *s, mr_err *err);
/* The pool's scorer, with reloads of the chat template in its reloads: one look between steps, one event, one version.
 * Wants the stage SCRIPTS; self is the session. */
mr_scorer mr_session_scorer(mr_session *s);
/* Ends the run of this session, if one began, and puts the trained parameters back to what they were before its first
 * step; the base weights stay where they are. The next stage TRAINER begins a new run. Wants opts.keep. */
mr_status mr_session_reset(mr_session *s, mr_err *err);
/* The adapter (PEFT) or, trained in full, the model, to a folder that appears whole in place of an older one. */
mr_status mr_session_save(mr_session *s, const char *dir, mr_err *err);
mr_status mr_session_train(mr_session *s, mr_err *err);
/* Begins or ends the watch over a run that trains (base/watch.h): a warning, and at last exit code 75 with a crash-PID.txt. watch.c. */
void mr_session_watch(mr_session *s, bool on);
void mr_session_close(mr_session *s);
/* The session's outcome as an object; owned by the caller. */
cJSON *mr_session_report(const mr_session *s);

#endif
