/* interfaces.h - how the trainer sees data, rewards and the record: three small tables of functions.
 *
 * script/ implements the row source and the scorer, record/ the observer; tests implement all three in C, so the loop
 * runs without Lua and without files. Ownership is said at each function. Threads: all calls come from the trainer's
 * thread. */
#ifndef MR_INTERFACES_H
#define MR_INTERFACES_H

#include <cjson/cJSON.h>

#include "text/chat.h"

/* One row of the training data, as the trainer needs it. */
typedef struct mr_row {
    mr_message *messages; /* the prompt; for sft the last message is the assistant's and is what is learned */
    int n_messages;
    /* the whole row (messages left out, "answer" and all columns in) as compact JSON; handed to the scorer unread */
    char *json;
    char *source;   /* which data set it is from ("gsm8k"), for metrics by set; "" when unknown */
    char *place;    /* for messages: "train.jsonl:17"; NULL or "" when unknown */
    mr_arena arena; /* owns all of the above */
} mr_row;
void mr_row_clear(mr_row *r);

typedef struct mr_row_source {
    void *self;
    int64_t n_rows;
    /* Fills a zeroed row; the same index always gives the same row within a version of the scripts. MR_EDATA names data
     * set, file and line. */
    mr_status (*get)(void *self, int64_t index, mr_row *out, mr_err *err);
} mr_row_source;

/* One completion to score. Borrowed for the call to submit. */
typedef struct mr_score_job {
    int64_t id;       /* the caller's; 0 .. n-1 within a batch */
    const char *text; /* the completion, decoded without special tokens */
    size_t len;
    const char *row_json; /* mr_row.json */
    const char *prompt;   /* rendered, as in mr_sample; NULL is "" */
    int n_tokens;
    bool truncated; /* hit max_completion_length */
    int64_t step;
    /* The jobs of one prompt have one group number (the caller's), one row_json and one prompt: rewards with score_batch
     * see them at once. n_group: how many there are; 0: this one is alone; -1: not known, whole at collect. */
    int64_t group;
    int n_group;
} mr_score_job;

/* What became of one reward for one completion. */
typedef enum mr_score_kind { MR_SCORED, MR_ABSTAINED, MR_FAULT } mr_score_kind;
typedef struct mr_score {
    /* finite when MR_SCORED; the declared minimum (or 0) for MR_FAULT caused by the script; NaN for a MR_FAULT that no script is guilty
     * of, as when workers are ended from outside: such a one is left out, whatever mr_on_fault says */
    double value;
    mr_score_kind kind;
} mr_score;

/* What a fault of a reward does (docs/rewards.md): it counts as the declared minimum, so that making a grader fail
 * never pays; the reward is left out for that completion, as if it had abstained; or the run stops before the step is trained. */
typedef enum mr_on_fault { MR_FAULT_IS_MIN, MR_FAULT_IS_MASKED, MR_FAULT_STOPS } mr_on_fault;

typedef struct mr_fault {
    int64_t id;
    int reward;
    char text[512]; /* "lua/rewards/x.lua:12: attempt to index nil (sample 3)" */
} mr_fault;

/* What a look at the scripts found. Filled from zero; clear with mr_reload_clear. */
typedef struct mr_reload {
    mr_str note;     /* one line for the events and for people; empty: nothing changed */
    bool taken;      /* a new version is in use from this step on */
    bool refused;    /* a changed file was turned down, the old version stays */
    cJSON *detail;   /* taken: { "changed": [names], "scripts": { name: sha256 }, "modules": { module: name } }, the
                        last two of all texts in use; the trainer adds "version"; may be NULL */
    cJSON *settings; /* taken, and the recipe's numbers differ: { "grpo.learning_rate": 2e-6, ... }, the live ones;
                        NULL: none */
    bool rows;       /* taken, and the training data has another length or order: ask for the row source again */
} mr_reload;
void mr_reload_clear(mr_reload *r);

typedef struct mr_scorer {
    void *self;
    int n_rewards;
    const char *const *names; /* in the recipe's order */
    const float *weights;     /* reward_weights */
    const mr_on_fault *on_fault; /* [n_rewards]; NULL: all are the minimum */
    /* Starts scoring; returns at once. A reward that fails costs its sample and never fails the call. */
    mr_status (*submit)(void *self, const mr_score_job *job, mr_err *err);
    /* Waits for every job submitted since the last collect and writes scores[id * n_rewards + reward]; n_jobs = how
     * many were submitted (ids 0..n-1); 0 where some were: they are dropped, and the call fails. faults: up to
     * max_faults are described, n_faults counts all. A fault of a whole group is described once and counts for each of
     * its samples: entries that are left over have id and reward -1 and no text. */
    mr_status (*collect)(void *self, mr_score *scores, int n_jobs, mr_fault *faults, int max_faults, int *n_faults,
                         mr_err *err);
    /* Called between steps: a changed script is checked and taken over, or refused with one line. NULL when the scorer
     * cannot reload. */
    mr_status (*between_steps)(void *self, int64_t step, mr_reload *out, mr_err *err);
    /* A resumed run repeats a reload: takes over the texts that detail names, from where they are stored; nothing is
     * checked again. NULL as above. */
    mr_status (*replay)(void *self, const cJSON *detail, mr_reload *out, mr_err *err);
    /* After a reload that was taken: the scorer as it is now and the rows to train on. NULL when there are no
     * reloads. Strings of the former one stay alive. */
    mr_status (*again)(void *self, struct mr_scorer *scorer, mr_row_source *rows, mr_err *err);
    /* The texts in use, in the form of mr_reload.detail, for the checkpoint; owned by the caller. NULL: there are
     * none. */
    cJSON *(*scripts)(void *self);
} mr_scorer;

/* One completion as it is recorded. Borrowed for the call. */
typedef struct mr_sample {
    int64_t step;
    int prompt, sample; /* place in the step */
    int64_t row;        /* index in the source */
    const char *source;
    const char *prompt_text; /* rendered */
    const char *question;    /* the last message of the user, for people; NULL when there is none */
    const char *text;
    const char *row_json;
    const mr_score *scores; /* [n_rewards] */
    double reward;          /* weighted sum; NaN when every reward abstained */
    float advantage;
    int n_tokens;
    bool truncated;
} mr_sample;

typedef struct mr_metric {
    char name[64];
    double value; /* NaN is written as null */
} mr_metric;

/* What a run evaluates on (rl/evaluate.h), asked for anew each time: a reload may have changed the rows. NULL get: it has
 * nothing. */
typedef struct mr_evaluator {
    void *self;
    mr_status (*get)(void *self, mr_row_source *rows, mr_scorer *judge, mr_err *err);
} mr_evaluator;

/* Who talks to a run while it trains: attach's socket (record/control.h). NULL functions: nobody. */
typedef struct mr_trainer mr_trainer;
typedef struct mr_control {
    void *self;
    /* Executes the commands that wait. boundary: the trainer stands between two steps and everything may be done to it
     * (the mr_trainer_* functions below "live"); otherwise it is within a step, and only what reads is answered, the
     * rest waits for the boundary. wait_s > 0 (the run is paused): returns as soon as something came in, at the latest
     * after wait_s. Never fails: a client's trouble is the client's. */
    void (*serve)(void *self, mr_trainer *t, bool boundary, double wait_s);
} mr_control;

/* What the trainer tells as it goes. Every function may be NULL. A failure stops the run with a checkpoint. */
typedef struct mr_observer {
    void *self;
    /* One call after each step, metrics in the order of rl/metrics.h. */
    mr_status (*step)(void *self, int64_t step, int64_t max_steps, const mr_metric *m, int n, mr_err *err);
    mr_status (*sample)(void *self, const mr_sample *s, int n_rewards, const char *const *names, mr_err *err);
    /* kind: "start", "reload", "set", "pause", "go on", "fault", "checkpoint", "eval", "warning", "stop"; detail: a JSON
     * object, borrowed, may be NULL. */
    mr_status (*event)(void *self, int64_t step, const char *kind, const char *text, const cJSON *detail, mr_err *err);
    /* Where the trainer is within a step: "rollout", "score", "train"; done of total. For the progress line. */
    void (*progress)(void *self, int64_t step, int64_t max_steps, const char *phase, int done, int total);
    /* Makes all that was recorded durable and returns the length in bytes of metrics and samples, for the
     * checkpoint. */
    mr_status (*flush)(void *self, int64_t *metrics_bytes, int64_t *samples_bytes, int64_t *events_bytes, mr_err *err);
} mr_observer;

#endif
