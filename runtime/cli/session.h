/* session.h - one training run from recipe to adapter: what run, resume and demo have in common.
 *
 * mr_session_open evaluates the recipe, opens model, run folder and trainer, and (resuming) loads the newest
 * checkpoint; mr_session_train trains and saves the result. Signals: from mr_session_train on the first one makes a
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
    const char *const *overrides; /* NULL-terminated or NULL */
    const char *device;
    int n_threads;
    const char *resume; /* run folder to continue, NULL: a new run */
    const char *output; /* run folder in place of the recipe's output_dir, NULL: the recipe's */
    bool progress;
} mr_session_opts;

typedef struct mr_session {
    mr_session_opts opts;
    mr_pool *pool;
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
    char *result; /* folder of the adapter or the model, after training */
} mr_session;

mr_status mr_session_open(mr_session *s, const mr_session_opts *opts, mr_err *err);
mr_status mr_session_train(mr_session *s, mr_err *err);
void mr_session_close(mr_session *s);
/* The session's outcome as an object; owned by the caller. */
cJSON *mr_session_report(const mr_session *s);

#endif
