/* grpo.h - rewards to group-relative advantages, and the clipped GRPO objectives with their gradients. Pure host maths:
 * no model, no device, no Lua.
 *
 * Source:  TRL 1.16 grpo_trainer.py as written out in spec/grpo.md 3.3 (advantages), 3.5 (losses), 3.7 (metrics);
 *          Shao et al. 2024, arXiv:2402.03300, sec. 4.1; DAPO arXiv:2503.14476; Dr. GRPO arXiv:2503.20783; GSPO
 *          arXiv:2507.18071.
 * Shapes:  P prompts, G completions of each, B = P*G rows; row b = p*G + g, so the completions of one prompt are
 *          neighbors. Tokens are ragged: row b's lie at offset[b] .. offset[b+1]; no padding exists.
 * Units:   log-probabilities in nats.
 * Memory:  every array belongs to the caller and is not kept after the call.
 * Errors:  MR_OK, or MR_EINVAL with the row and the reason; outputs are not written on error.
 * Threads: no hidden state. */
#ifndef MR_GRPO_H
#define MR_GRPO_H

#include "base/status.h"

typedef enum mr_loss_type {
    MR_LOSS_GRPO,
    MR_LOSS_BNPO,
    MR_LOSS_DR_GRPO,
    MR_LOSS_DAPO,
    MR_LOSS_CISPO,
    MR_LOSS_SAPO,
    MR_LOSS_LUSPO,
    MR_LOSS_VESPO
} mr_loss_type;
typedef enum mr_scale_rewards { MR_SCALE_GROUP, MR_SCALE_BATCH, MR_SCALE_NONE } mr_scale_rewards;

typedef struct mr_grpo_opts {
    int num_generations;                /* G, at least 2 */
    mr_loss_type loss_type;             /* dapo */
    float epsilon, epsilon_high, delta; /* epsilon_high < 0: as epsilon; delta <= 0: off */
    float beta;                         /* weight of the KL term; 0 drops it and logp_ref may be NULL */
    bool use_bias_correction_kl;        /* true in TRL 1.16 */
    bool sequence_level;                /* importance_sampling_level = "sequence" (GSPO) */
    mr_scale_rewards scale_rewards;     /* group */
    bool normalize_then_sum;            /* multi_objective_aggregation (GDPO) */
    float top_entropy_quantile;         /* 1: off */
    float entropy_coef;
    float off_policy_mask_threshold; /* <= 0: off */
    int max_completion_length;       /* dr_grpo's constant */
} mr_grpo_opts;

typedef struct mr_grpo_stats { /* spec/grpo.md 3.7; NaN where it does not apply */
    double loss, kl, entropy;
    double clip_low_mean, clip_high_mean, clip_region_mean, clip_low_min, clip_high_max;
    double ratio_mean, ratio_min, ratio_max;
} mr_grpo_stats;

/* Mean and deviation (n-1 form) of x[0], x[stride] ... of n values, over those that are not NaN: TRL's nanmean and
 * nanstd. None: the mean is NaN; fewer than two: the deviation is. */
void mr_grpo_moments(double *mean, double *std, const float *x, int stride, int n);

/* rewards[B,F] (NaN: that function abstained), weights[F] -> adv[B]; reward[B] = weighted sum (NaN when all abstained:
 * advantage 0, left out of mean and deviation); std[B] = the deviation that the row was divided by. Deviations are the
 * n-1 form, plus 1e-4: as TRL. Equal rewards give exactly 0. */
mr_status mr_grpo_advantages(float *adv, float *reward, float *std, const float *rewards, const float *weights,
                             int n_rows, int n_funcs, const mr_grpo_opts *opts, mr_err *err);

/* One optimizer step's loss over all B rows and dlogp[n_tokens] = d loss / d logp, overwritten; 0 exactly where mask is
 * 0. logp, logp_old, logp_ref, entropy: [n_tokens] (logp_old NULL: on policy, the ratio is 1; entropy NULL unless
 * top_entropy_quantile or entropy_coef ask for it). mask[n_tokens] (NULL: all ones). Gradients are with respect to logp
 * only (entropy_coef's own gradient is refused: MR_EINVAL, since the decoder has no entropy backward). acc and slices:
 * TRL's accumulation divisor and steps_per_generation for the fixtures; 1 and 1 in medrl. n_items: dapo's normalizer
 * (sum of the mask over the whole generation batch), 0 = computed from mask. */
typedef struct mr_grpo_batch {
    const int32_t *offset; /* [B+1] */
    const float *logp, *logp_old, *logp_ref, *entropy, *adv;
    const uint8_t *mask;
    const float *is_ratio; /* [n_tokens] importance correction of the sampler, NULL: none */
    int n_rows;
    int acc, slices;
    double n_items;
} mr_grpo_batch;
mr_status mr_grpo_loss(float *dlogp, mr_grpo_stats *stats, const mr_grpo_batch *batch, const mr_grpo_opts *opts,
                       mr_err *err);

#endif
