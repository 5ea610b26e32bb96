/* trainer_impl.h - the inside of mr_trainer, shared by trainer.c (life, data order, checkpoints), live.c (what changes
 * while it runs), plan.c (memory), step_grpo.c and step_sft.c. */
#ifndef MR_TRAINER_IMPL_H
#define MR_TRAINER_IMPL_H

#include <signal.h>

#include "base/rng.h"
#include "model/decoder.h"
#include "rl/metrics.h"
#include "rl/optimizer.h"
#include "rl/pack.h"
#include "rl/plan.h"
#include "rl/scaler.h"
#include "rl/trainer.h"

/* MAX_SKIPPED updates in a row stop a run; with float16 only when its scale has gone below 1: MOST_SKIPPED is more than
 * any scale takes to get there. */
enum { MR_MAX_METRICS = 256, MR_MAX_SKIPPED = 8, MR_MOST_SKIPPED = 256, MR_FAULT_STEPS = 3, MR_MAX_REWARDS = 64 };

/* The place in the data: epoch by epoch torch.randperm of one generator, cut into chunks of P rows, an incomplete
 * last chunk dropped (spec/grpo.md 3.1, TRL's RepeatSampler). A function of (seed, n_rows, P, step): nothing of it is
 * stored but the step. A reload that changes n_rows begins anew at that step, its `base`: the first permutation of the
 * same seed over the new rows. */
typedef struct mr_order {
    mr_mt19937 rng;
    int64_t *perm, n_rows, epoch; /* perm is that of `epoch`; -1: none yet */
    int64_t chunks;               /* per epoch */
    int64_t base;                 /* the step at which this order began */
    double base_epoch;            /* what had been seen of the data then */
    int per_step;
    uint64_t seed;
    bool shuffle;
} mr_order;

/* What failed in one step. */
typedef struct mr_fault_step {
    int64_t calls, faults;
    int by_reward[MR_MAX_REWARDS];
    int worst; /* the reward that the text is about */
    char text[512];
} mr_fault_step;

/* One prompt of a step, encoded. */
typedef struct mr_prompt {
    int64_t index; /* row in the source */
    mr_row row;
    mr_ids ids;    /* the last max_prompt tokens */
    mr_ids target; /* sft: what is learned */
} mr_prompt;

struct mr_trainer {
    mr_trainer_parts parts;
    mr_settings own; /* a copy: live fields change in it; its strings are those of parts.settings */
    const mr_settings *set; /* own */
    mr_backend *b;
    mr_decoder *decoder;
    mr_optimizer *optimizer;
    mr_param *params;
    int n_params;
    int64_t n_grads;
    mr_packer packer;
    mr_order order;
    mr_grpo_opts loss;
    int prompts, group;             /* P, G (1 for sft) */
    int max_prompt, max_completion; /* tokens that memory was planned for */
    mr_plan plan;
    float inv_t; /* of the log-probabilities that are trained */

    int64_t step, max_steps, warmup, updates;
    int64_t saved_step; /* -1: none */
    int skipped_in_row;
    bool loss_finite;    /* of the last update */
    bool values_finite;  /* of the params, after the last update that was made */
    char first_bad[160]; /* autopsy.c: where numbers went wrong first; "": not looked for */
    mr_scaler scaler;
    bool half_done; /* an update was made whose step is not in the record yet: nothing to save */
    double num_tokens;
    bool warned_prompt, warned_target;
    int64_t n_cut; /* prompts that were cut, so far */
    cJSON *log_history;
    char settings_hash[65];
    volatile sig_atomic_t stop;

    /* live.c */
    float *weights;        /* [n_rewards], in force */
    float *recipe_weights; /* as the scorer came with them */
    int version;           /* of the scripts: 1, and one more with each reload */
    char *paused;          /* why; NULL: it runs */
    bool paused_by_faults, ended;
    char why_ended[200];   /* "": nobody said */
    bool eval_open;      /* the step is whole but for its evaluation, which was stopped, and its record, which waits for it */
    double best;         /* eval/accuracy of the best evaluation, at best_step; -1: there was none */
    int64_t best_step;
    double opened_s, before_s; /* when it was opened; what was spent until then */
    double step_s;         /* what a step takes, with its evaluation: the longest of late */
    double served_s;       /* when control was served last within a step */
    cJSON *journal;        /* what is still to be repeated, oldest first; NULL: nothing */
    int64_t replay_last;   /* the last step that was recorded before */
    cJSON *last;           /* mr_trainer_last */
    mr_fault_step faults[MR_FAULT_STEPS]; /* a ring */
    int n_fault_steps;     /* since it was cleared */
    cJSON *failed;         /* what rewards failed on, in the last step with faults; NULL: there was none */

    /* the present step */
    mr_prompt *batch; /* [P] */
    mr_arena scratch;
    mr_metric metrics[MR_MAX_METRICS];
    int n_metrics;
    double t_step;
};

/* trainer.c */
mr_status mr_trainer_draw(mr_trainer *t, mr_err *err); /* fills batch with the next step's rows */
void mr_trainer_metric(mr_trainer *t, const char *name, double value);
void mr_trainer_metric_fmt(mr_trainer *t, const char *fmt, const char *arg, double value);
mr_status mr_trainer_event(mr_trainer *t, const char *kind, const char *text, mr_err *err);
void mr_trainer_progress(mr_trainer *t, const char *phase, int done, int total);
/* Clip, AdamW, refresh; or, with a gradient that is not finite, a skipped update (done = false). The gradients are
 * t->scaler's scale times those of `loss`; what comes of them does not depend on it. norm: before clipping. lr: of this
 * step. */
mr_status mr_trainer_update(mr_trainer *t, double loss, double *norm, double *lr, bool *done, mr_err *err);
/* In its place where nothing of a step is trained, as when every completion was cut and mask_truncated_completions is on: an update with
 * gradients of 0 would still move the weights by what the optimizer remembers. Counted as skipped; says nothing about numbers. */
void mr_trainer_no_update(mr_trainer *t, double *norm, double *lr, bool *done);
/* loss_scale and skipped_updates, when there is a scale; loss_scale as this step's first update found it. */
void mr_trainer_scale_metrics(mr_trainer *t, double loss_scale);
/* After the step was counted: its metrics to the log and to the observer. */
mr_status mr_trainer_record(mr_trainer *t, mr_err *err);
double mr_trainer_epoch(const mr_trainer *t, int64_t step);
/* trainer_eval.c: what ends a GRPO step whose samples are recorded: its evaluation, when one is due, its record, its
 * guard. Stopped in the evaluation: MR_ESIGNAL, the step is whole and eval_open; called again it is finished. */
mr_status mr_trainer_finish(mr_trainer *t, mr_err *err);
/* The metrics that wait, into a checkpoint's state and back. */
void mr_trainer_save_open(const mr_trainer *t, cJSON *medrl);
mr_status mr_trainer_load_open(mr_trainer *t, const cJSON *medrl, const char *place, mr_err *err);
/* guards.c */
/* After the record of a GRPO step. MR_EINVAL, as one paragraph for people, when the run has learned nothing for many steps. */
mr_status mr_trainer_guard(mr_trainer *t, mr_err *err);
/* Metrics about how rewards come about. texts[n]: the step's completions, group by group; means: of each reward. */
void mr_trainer_monitor(mr_trainer *t, const char *const *texts, int n, const double *means);
/* autopsy.c */
/* Whether the run ends here: the params are not finite, or MAX_SKIPPED updates in a row were left out and nothing will help. */
bool mr_trainer_is_sick(const mr_trainer *t);
/* The reason as an error, once mr_autopsy_write has looked for it. */
mr_status mr_trainer_sickness(const mr_trainer *t, mr_err *err);
/* Looks for the first place where a number is not finite and writes RUN/nan-STEP/: batch.json, what was trained on, and layers.json,
 * the largest numbers of each part. peaks[mr_decoder_n_peaks]: of all packs of the step (mr_decoder_examine). batch is borrowed. A folder
 * that cannot be written costs a warning, since the run ends anyway. */
void mr_autopsy_write(mr_trainer *t, const mr_peak *peaks, const cJSON *batch, double loss, double norm, double lr);

/* MR_ESIGNAL once mr_trainer_stop was called. */
mr_status mr_trainer_stopped(const mr_trainer *t, mr_err *err);
mr_status mr_trainer_encode(mr_trainer *t, mr_prompt *p, mr_err *err);

/* An event with its detail (borrowed, may be NULL). */
mr_status mr_trainer_tell(mr_trainer *t, const char *kind, const char *text, const cJSON *detail, mr_err *err);
/* (Re)starts the order of the data at the present step; also when the rows are others. */
mr_status mr_order_begin(mr_trainer *t, int64_t n_rows, mr_err *err);

/* live.c */
void mr_trainer_apply(mr_trainer *t); /* what is derived from the settings in force */
void mr_trainer_take_weights(mr_trainer *t, const mr_scorer *scorer); /* of a scorer that is new */
/* Between two steps: what is to be repeated, commands, reloads, a pause. */
mr_status mr_trainer_between(mr_trainer *t, mr_err *err);
/* faults: n_described of them, n_faults in all. */
void mr_trainer_note_faults(mr_trainer *t, const mr_score *scores, int n_rows, const mr_fault *faults, int n_described,
                            int n_faults);
/* One completion as mr_trainer_last and mr_trainer_sample show it; scores and advantage may be NULL. */
struct mr_completion;
cJSON *mr_trainer_completion(const mr_trainer *t, const char *text, const struct mr_completion *c,
                             const mr_score *scores, double reward, const float *advantage);
mr_status mr_trainer_watch_faults(mr_trainer *t, mr_err *err); /* after a step */
/* "live", "version", "scripts" ... of a checkpoint's state. */
void mr_trainer_save_live(const mr_trainer *t, cJSON *medrl);
mr_status mr_trainer_load_live(mr_trainer *t, const cJSON *medrl, const char *place, mr_err *err);

/* plan.c */
mr_status mr_trainer_plan(mr_trainer *t, mr_err *err);

/* step_grpo.c, step_sft.c: everything of a step from drawn rows to recorded metrics. */
mr_status mr_step_grpo(mr_trainer *t, mr_err *err);
mr_status mr_step_sft(mr_trainer *t, mr_err *err);

#endif
