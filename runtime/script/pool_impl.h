/* pool_impl.h - what pool.c (workers and scoring), open.c (loading, rows, data) and reload.c share. Private to
 * runtime/script. */
#ifndef MR_POOL_IMPL_H
#define MR_POOL_IMPL_H

#include "base/proc.h"
#include "script/texts.h"
#include "script/wire.h"

enum { MR_FEED_JOBS = 16, MR_FEED_BYTES = 256 << 10 };

typedef struct mr_pool_job {
    mr_score_job in;  /* texts in the pool's arena */
    int single;       /* -1: all rewards at once; otherwise the reward that runs next, alone */
    int n_deaths;     /* workers that ended with this reward alone */
    mr_score *scores; /* [n_rewards] */
    /* A group, for the rewards that have score_batch: its completions by id. NULL: one completion, for the others. */
    struct mr_pool_job **members;
    int n_members;
} mr_pool_job;

/* A worker of the parent's side. */
typedef struct mr_peer {
    mr_proc proc;
    mr_wire wire;
    bool alive;
    mr_pool_job *flight[2 * MR_FEED_JOBS]; /* sent and not answered, in order */
    int n_flight;
    double since; /* when it last showed progress, or was given work while idle */
} mr_peer;

/* One version of the scripts and the workers that run it. peers[n_workers] is the one that owns the data. */
typedef struct mr_version {
    mr_texts texts;
    mr_peer *peers;
    int n_peers;
    cJSON *recipe;
    char **names;  /* rewards */
    char **places; /* their files, for messages */
    double *lows;
    bool *batch; /* the reward sees groups */
    int n_rewards, n_batch;
} mr_version;

typedef struct mr_split {
    char *name;
    int64_t n_rows;
    char *report;
    mr_pool *pool;
} mr_split;

struct mr_pool {
    mr_pool_opts opts;
    char *recipe_arg;
    char *display; /* the recipe's name in messages */
    char **overrides;
    int n_overrides;
    char **rewards; /* mr_pool_opts.rewards */
    int n_rewards;
    mr_version *v;
    float *weights;
    mr_split *splits[8];
    int n_splits;
    const mr_script_text *scripts;
    /* one batch of scoring */
    mr_arena arena;
    mr_pool_job **jobs; /* as submitted */
    int n_jobs, cap_jobs;
    mr_pool_job **pending; /* [head, n) wait for a worker */
    int pending_head, n_pending, cap_pending;
    int n_units, n_done;  /* completions and groups that workers score */
    mr_pool_job **groups; /* not whole yet */
    int n_groups, cap_groups;
    mr_fault *faults;
    int n_faults, n_fault_texts, cap_faults;
    uint64_t refused; /* signature of files that a reload turned down */
    int n_respawns;   /* within the batch */
};

/* pool.c */
mr_status mr_peer_start(mr_pool *p, mr_peer *peer, mr_err *err);
void mr_peer_stop(mr_peer *peer); /* kill and clear */
/* Sends a command and serves the worker's requests until its reply. The frame is borrowed from the wire. limit_s:
 * without progress. status: MR_EAGAIN when the worker died or ran out of time. */
mr_status mr_peer_call(mr_pool *p, mr_version *v, mr_peer *peer, mr_wire_type type, const mr_str *body, double limit_s,
                       mr_frame *reply, mr_err *err);
/* Answers NEED_TEXT, NEED_FILE, LOG, TICK. False: the frame is something else, or the worker is gone. */
bool mr_peer_serve(mr_version *v, mr_peer *peer, const mr_frame *f);

/* groups.c */
/* Puts a completion into its group; gives the group when that made it whole, NULL otherwise. */
mr_pool_job *mr_group_add(mr_pool *p, mr_pool_job *job);
/* At collect: the next group that is not whole, as it stands; NULL when there is none. */
mr_pool_job *mr_group_rest(mr_pool *p);
/* The first reward from `from` on that is this job's to run; n_rewards when there is none. */
int mr_pool_own_reward(const mr_pool *p, const mr_pool_job *job, int from);
/* Appends a job to a SCORE frame. */
void mr_pool_put_job(mr_str *s, const mr_pool_job *job);
/* Reads the answer to a job into its scores; faults are told to on_fault (text "": counted only). False: it is no
 * answer to this job. */
typedef void (*mr_fault_fn)(mr_pool *p, const mr_pool_job *job, int reward, const char *text);
bool mr_pool_take_scores(mr_pool *p, mr_pool_job *job, mr_take *t, mr_fault_fn on_fault);
/* The reward job->single is guilty: its lowest value for the completion, or for each of the group. */
void mr_pool_give_up(mr_pool *p, mr_pool_job *job, const char *text, mr_fault_fn on_fault);

/* open.c */
mr_status mr_version_open(mr_pool *p, mr_version **out, mr_err *err);
void mr_version_close(mr_version *v);
mr_status mr_pool_weights(const mr_pool *p, const cJSON *recipe, int n, float *weights, mr_err *err);
mr_status mr_peer_load(mr_pool *p, mr_version *v, mr_peer *peer, bool cases, mr_frame *reply, mr_err *err);
mr_status mr_peer_open_split(mr_pool *p, mr_version *v, const char *name, int64_t *n_rows, char **report, mr_err *err);

/* reload.c */
mr_status mr_pool_between_steps(void *self, int64_t step, mr_str *note, mr_err *err);

#endif
