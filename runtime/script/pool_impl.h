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
    int n_deaths;   /* workers that ended with this reward alone */
    mr_score *scores; /* [n_rewards] */
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
    int n_rewards;
    char *cases; /* that passed when it was loaded: lines "FILE<tab>NUMBER" */
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
    mr_version *v;
    mr_version *in_use; /* while another one is on trial as v */
    float *weights;
    cJSON *base; /* the recipe that the run was planned with */
    char *store; /* where stored texts lie; NULL: nowhere */
    const cJSON *pinned; /* texts that the next version is made of; NULL: those on disk */
    char **old_names;    /* of rewards of former versions: the trainer may still hold them */
    int n_old_names;
    mr_split *splits[8];
    int n_splits;
    const mr_script_text *scripts;
    /* one batch of scoring */
    mr_arena arena;
    mr_pool_job **jobs; /* as submitted */
    int n_jobs, cap_jobs;
    mr_pool_job **pending; /* [head, n) wait for a worker */
    int pending_head, n_pending, cap_pending;
    int n_done;
    mr_fault *faults;
    int n_faults, n_fault_texts, cap_faults;
    /* the last batch, which a new version has to stand */
    mr_arena last_arena;
    mr_pool_job **last_jobs;
    int n_last, cap_last;
    bool trial; /* a batch is scored by a new version, see reload.c */
    uint64_t refused;   /* signature of files that a reload turned down */
    mr_texts tried;     /* and the texts that it was made of: more may be new in it than what changed */
    double young_since; /* since when files that do not load keep changing; 0: they do not */
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

/* open.c */
mr_status mr_version_open(mr_pool *p, mr_version **out, bool cases, mr_err *err);
void mr_version_close(mr_version *v);
/* Closes a version that is not used; what it was made of is kept in p->tried. NULL is fine. */
void mr_pool_turn_down(mr_pool *p, mr_version *v);
mr_status mr_pool_weights(const mr_pool *p, const cJSON *recipe, int n, float *weights, mr_err *err);
mr_status mr_peer_load(mr_pool *p, mr_version *v, mr_peer *peer, bool cases, mr_frame *reply, mr_err *err);
mr_status mr_peer_open_split(mr_pool *p, mr_version *v, const char *name, int64_t *n_rows, char **report, mr_err *err);

/* reload.c */
mr_status mr_pool_between_steps(void *self, int64_t step, mr_reload *out, mr_err *err);
mr_status mr_pool_replay(void *self, const cJSON *detail, mr_reload *out, mr_err *err);
mr_status mr_pool_again(void *self, mr_scorer *scorer, mr_row_source *rows, mr_err *err);
cJSON *mr_pool_describe(void *self);
/* A fault of the version on trial that the one in use did not have on that sample. */
const mr_fault *mr_pool_new_fault(const mr_pool *p);

#endif
