/* pool_impl.h - what pool.c (workers and scoring), groups.c (jobs), open.c (loading, rows, data) and reload.c share.
 * Private to runtime/script. */
#ifndef MR_POOL_IMPL_H
#define MR_POOL_IMPL_H

#include "base/proc.h"
#include "script/sandbox.h"
#include "script/texts.h"
#include "script/wire.h"

enum { MR_FEED_JOBS = 16, MR_FEED_BYTES = 256 << 10, MR_HANGS_MAX = 3, MR_FAULT_TEXTS = 256 };
/* What one command or frame of jobs may bring: our own worker stays far below. A scan of many rows ticks, and may take
 * so many times the limit in all. */
enum {
    MR_MAX_LOG = 41 * 2 * MR_FEED_JOBS,
    MR_MAX_ASKED = 10000,
    MR_MAX_LIMITS = 100,
    MR_OVERSLEPT_S = 5, /* a wait that ended so much later than asked: a clock that jumped, a machine that slept; the time begins anew */
    MR_SCORED_BYTES = 1 << 20,
    MR_FAULT_BYTES = 600
};

typedef struct mr_pool_job {
    mr_score_job in;  /* texts in the pool's arena */
    int single;       /* -1: all rewards at once; otherwise the reward that runs next, alone */
    int judged;       /* a reward that was found to hang while all of them ran; -1: none */
    int n_deaths;     /* workers that ended with this reward alone */
    bool inside;      /* not all of these were ended from outside */
    bool no_jit;      /* the next try goes to a worker without a compiler */
    mr_score *scores; /* [n_rewards]; NULL for a group, whose members have them */
    struct mr_pool_job *group; /* of a completion: its group, which has the id of its first member; NULL: no reward has
                                  score_batch */
    /* A group, for the rewards that have score_batch: its completions by id. NULL: one completion, for the others. */
    struct mr_pool_job **members;
    int n_members;
} mr_pool_job;

/* Calls of one reward that did not end, in one batch: the smallest ids of jobs, ascending. With MR_HANGS_MAX of them the
 * reward is off for every job behind the last one. */
typedef struct mr_hangs {
    int n;
    int64_t ids[MR_HANGS_MAX];
} mr_hangs;

/* A worker of the parent's side. */
typedef struct mr_peer {
    mr_proc proc;
    mr_wire wire;
    bool alive;
    bool no_jit;
    mr_sandbox sandbox;                    /* level 0: it has not said yet */
    int64_t denied;                        /* the system call that ended it; -1: none */
    mr_at *at;                             /* shared page; NULL when there is none */
    bool no_memory;                        /* a text that it asked for could not be read for want of memory */
    int n_log, n_asked;                    /* lines and requests since it was last given something to do */
    mr_pool_job *flight[2 * MR_FEED_JOBS]; /* sent and not answered, in order */
    int n_flight;
    double since;     /* when the call that it is in began, as far as is known: its last answer, or the last look at the
                         page that found another call there */
    double cpu_since; /* its processor time then */
    double answered;  /* its last answer, or when it was given work while idle */
    double looked;    /* at the page */
    int64_t seen_id;  /* what was there */
    int32_t seen_reward;
} mr_peer;

/* One version of the scripts and the workers that run it. peers[n_workers] is the one that owns the data, where there is
 * a recipe (mr_pool_has_data). */
typedef struct mr_version {
    mr_texts texts;
    mr_peer *peers;
    int n_peers;
    cJSON *recipe;
    char **names;  /* rewards */
    char **places; /* their files, for messages */
    double *lows;
    bool *batch; /* the reward sees groups */
    mr_on_fault *on_fault;
    int n_rewards, n_batch;
    char *cases; /* that passed when it was loaded: lines "FILE<tab>NUMBER" */
} mr_version;

typedef struct mr_split {
    char *name;
    int64_t n_rows;
    char *report, *counts; /* lines for people; the same as JSON */
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
    int n_units, n_done;  /* completions and groups that workers score */
    mr_pool_job **groups; /* not whole yet */
    int n_groups, cap_groups;
    mr_fault *faults; /* by sample and reward, the first MR_FAULT_TEXTS of them */
    int n_fault_texts;
    mr_hangs *hangs; /* [n_rewards], in the arena; NULL: no call of this batch hung */
    bool any_off, collecting;
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

/* The file that a worker may read rows of, by what a recipe calls it; -1. *at: its path, owned. */
int mr_pool_open_data(const char *name, char **at, mr_err *err);

/* passes.c: what a pass over many rows came to, kept beside the row caches. A pass is named by what the worker says it
 * is, by the state of the files it went over, by every Lua text of the version (so what a script leaves there is found
 * by the same scripts only) and by the program. */
void mr_pass_send(mr_version *v, mr_peer *peer, const mr_frame *f); /* answers NEED_PASS */
bool mr_pass_keep(mr_version *v, const mr_frame *f);                /* False: it is no such frame */

/* groups.c */
/* Puts a completion into its group; gives the group when that made it whole, NULL otherwise. */
mr_pool_job *mr_group_add(mr_pool *p, mr_pool_job *job);
/* At collect: the next group that is not whole, as it stands; NULL when there is none. */
mr_pool_job *mr_group_rest(mr_pool *p);
/* Whether this job runs the reward: those with score_batch are a group's. */
bool mr_pool_is_own(const mr_pool *p, const mr_pool_job *job, int reward);
/* Appends a job to a SCORE frame. */
void mr_pool_put_job(mr_str *s, const mr_pool_job *job);
/* How long the answer to it may be. */
size_t mr_pool_answer_max(const mr_pool *p, const mr_pool_job *job);
/* Reads the answer to a job into its scores; faults are told to on_fault, one of a whole group once. False: it is no
 * answer to this job. */
typedef void (*mr_fault_fn)(mr_pool *p, const mr_pool_job *job, int reward, const char *text);
bool mr_pool_take_scores(mr_pool *p, mr_pool_job *job, mr_take *t, mr_fault_fn on_fault);
/* The reward is guilty: its lowest value for the completion, or for each of the group. */
void mr_pool_give_up(mr_pool *p, mr_pool_job *job, int reward);

/* open.c */
bool mr_pool_has_data(const mr_pool *p); /* a recipe, and a worker that does not score but makes its rows */
mr_status mr_version_open(mr_pool *p, mr_version **out, bool cases, mr_err *err);
void mr_version_close(mr_version *v);
/* Closes a version that is not used; what it was made of is kept in p->tried. NULL is fine. */
void mr_pool_turn_down(mr_pool *p, mr_version *v);
mr_status mr_pool_weights(const mr_pool *p, const cJSON *recipe, int n, float *weights, mr_err *err);
mr_status mr_peer_load(mr_pool *p, mr_version *v, mr_peer *peer, bool cases, mr_frame *reply, mr_err *err);
/* split: gets the reports; NULL: only the number of rows is wanted. */
/* Opens data[name] in v's data worker and fills out's n_rows, report and counts (owned, mr_split_forget). */
mr_status mr_peer_open_split(mr_pool *p, mr_version *v, const char *name, mr_split *out, mr_err *err);
void mr_split_forget(mr_split *s); /* frees report and counts */

/* reload.c */
mr_status mr_pool_between_steps(void *self, int64_t step, mr_reload *out, mr_err *err);
mr_status mr_pool_replay(void *self, const cJSON *detail, mr_reload *out, mr_err *err);
mr_status mr_pool_again(void *self, mr_scorer *scorer, mr_row_source *rows, mr_err *err);
cJSON *mr_pool_describe(void *self);
/* A fault of the version on trial that the one in use did not have on that sample. */
const mr_fault *mr_pool_new_fault(const mr_pool *p);

#endif
