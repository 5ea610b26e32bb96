/* bench_step.h - one GRPO step from random ids, with a clock: what both kinds of `medrl bench` measure.
 *
 * Prompts of random ids, completions of exactly n_new tokens (nothing stops one early, so that every run does the same
 * work), a scorer in C, then what rl/step_grpo.c does with the same functions: advantages, packs of whole groups,
 * forward, backward, clip, AdamW, refresh. What a model computes does not depend on what its ids mean.
 * Ownership: backend, model, decoder, optimizer and settings are the caller's; arrays and packer belong to the job. */
#ifndef MR_BENCH_STEP_H
#define MR_BENCH_STEP_H

#include "rl/optimizer.h"
#include "rl/pack.h"
#include "rl/rollout.h"
#include "rl/scaler.h"
#include "rl/settings.h"

typedef struct mr_bench_job {
    mr_backend *b;
    mr_model *model;
    mr_decoder *decoder;
    mr_optimizer *optimizer;
    const mr_settings *set;
    int prompts, group, n_prompt, n_new; /* P prompts of n_prompt ids, G completions of n_new each */

    mr_packer packer;
    int32_t *ids; /* [max_ids] of the present prompts */
    int max_ids;
    uint32_t n_drawn;
    float *rewards, *reward, *std, *adv; /* [P*G] */
    int32_t *offset;                     /* [P*G + 1] */
    float *sampled, *logp, *dlogp;       /* [P*G*n_new] */
    float *pack_logp, *pack_entropy, *pack_weight;
    const int32_t **pack_ids; /* [G] */
    int *pack_n_ids;
    mr_rollout roll; /* of the last step */
    mr_scaler scaler; /* on with f16 products: an update whose gradients overflow is left out, as a run does */
    int updates;      /* made or left out */
    /* the last step */
    double rollout_s, prefill_s, decode_s, train_s, step_s;
    double loss, norm, logp_gap; /* the gap: largest of all steps, between sampled and trained log-probabilities */
} mr_bench_job;

/* max_ids: most prompt ids of anything that is measured. The decoder is open (its opts give the packer's size). */
mr_status mr_bench_open(mr_bench_job *j, int max_ids, mr_err *err);
void mr_bench_close(mr_bench_job *j);

void mr_bench_random_ids(mr_bench_job *j, int n);
/* A whole step over the first n_prompts; number makes its random numbers its own. j->roll stays. */
mr_status mr_bench_step(mr_bench_job *j, int n_prompts, uint32_t number, mr_err *err);
/* Completions of random ids into j->roll, as if they had been sampled: for training that is measured without a rollout. */
void mr_bench_pretend(mr_bench_job *j, int n_prompts);
/* The training part again on j->roll; and only its forward pass with log-probabilities, without gradients. */
mr_status mr_bench_train(mr_bench_job *j, int n_prompts, mr_err *err);
mr_status mr_bench_logprobs(mr_bench_job *j, int n_prompts, mr_err *err);

/* Seconds between the ends of a rollout's forwards: groups of n_samples completions of n_new from prompts of n_ids.
 * s[at most max]: the prompts' forwards with the first sampling, then a step each; *n how many. */
mr_status mr_bench_clock(mr_bench_job *j, double *s, int max, int *n, int n_groups, int n_samples, int n_ids, int n_new,
                         mr_err *err);

double mr_bench_median(double *x, int n); /* sorts x */

#endif
