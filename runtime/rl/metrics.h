/* metrics.h - the names of all metrics, in the order in which they are written. They stand here and nowhere else.
 *
 * The first group is TRL's (spec/grpo.md 3.7), so that existing dashboards work; rewards/<name>/mean and /std come once
 * for each reward. The second is medrl's own. */
#ifndef MR_METRICS_H
#define MR_METRICS_H

#define MR_M_LOSS "loss"
#define MR_M_GRAD_NORM "grad_norm"
#define MR_M_LEARNING_RATE "learning_rate"
#define MR_M_NUM_TOKENS "num_tokens"
#define MR_M_LEN_MEAN "completions/mean_length"
#define MR_M_LEN_MIN "completions/min_length"
#define MR_M_LEN_MAX "completions/max_length"
#define MR_M_CLIPPED "completions/clipped_ratio"
#define MR_M_TERM_MEAN "completions/mean_terminated_length"
#define MR_M_TERM_MIN "completions/min_terminated_length"
#define MR_M_TERM_MAX "completions/max_terminated_length"
#define MR_M_REWARD_MEAN_FMT "rewards/%s/mean"
#define MR_M_REWARD_STD_FMT "rewards/%s/std"
#define MR_M_REWARD "reward"
#define MR_M_REWARD_STD "reward_std"
#define MR_M_ZERO_STD "frac_reward_zero_std"
#define MR_M_KL "kl"
#define MR_M_ENTROPY "entropy"
#define MR_M_CLIP_REGION "clip_ratio/region_mean"
#define MR_M_CLIP_LOW "clip_ratio/low_mean"
#define MR_M_CLIP_LOW_MIN "clip_ratio/low_min"
#define MR_M_CLIP_HIGH "clip_ratio/high_mean"
#define MR_M_CLIP_HIGH_MAX "clip_ratio/high_max"
#define MR_M_STEP_TIME "step_time"
#define MR_M_EPOCH "epoch"

#define MR_M_IS_RATIO "sampling/is_ratio"               /* mean of exp(logp - logp_sampled): 1, unless exact = false */
#define MR_M_IS_DIFF_MAX "sampling/logp_difference_max" /* largest |logp - logp_sampled|: 0, unless exact = false */
#define MR_M_SHARE_FMT "rewards/%s/share"                /* of the sum of |weight * mean| over the step's rewards */
#define MR_M_DUPLICATES "completions/duplicate_ratio"    /* equal to an earlier completion of the same group */
#define MR_M_LENGTH_DRIFT "completions/length_drift"     /* mean length over that of the run's first 10 steps */
#define MR_M_FAULTS "rewards/faults"                    /* calls that failed in this step */
#define MR_M_VERSION "scripts/version"                  /* 1, and one more with each reload that was taken over */
#define MR_M_LOSS_SCALE "loss_scale"                    /* with float16 only: of this step's backward pass */
#define MR_M_SKIPPED "skipped_updates"                  /* so far: not finite, or nothing to train; without float16 from the first on */
#define MR_M_SOURCE_FMT "data/%s/reward"                /* mean reward of the step's rows of one data set */
#define MR_M_TIME_ROLLOUT "time/rollout_s"
#define MR_M_TIME_SCORE "time/score_s" /* waited for scores after the last token */
#define MR_M_TIME_TRAIN "time/train_s"
#define MR_M_TOKENS_PER_S "time/tokens_per_s" /* generated tokens over rollout time */

#define MR_M_TIME_RUN "time/run_s"     /* since the start of the run, what was spent before a resume included */
#define MR_M_COST "cost/usd"           /* of that time, where budget.usd_per_hour gives a price */

/* Only in the steps that end with an evaluation (eval_steps): greedy answers to rows of data.eval, rl/evaluate.h. */
#define MR_M_EVAL_ACCURACY "eval/accuracy" /* right answers over the rows that have a gold answer; the best checkpoint's */
#define MR_M_EVAL_LOW "eval/accuracy_low"  /* ends of its 95 % interval */
#define MR_M_EVAL_HIGH "eval/accuracy_high"
#define MR_M_EVAL_INVALID "eval/invalid_ratio" /* without an answer of the kind that the row asks for */
#define MR_M_EVAL_CLIPPED "eval/completions/clipped_ratio"
#define MR_M_EVAL_LENGTH "eval/completions/mean_length"
#define MR_M_EVAL_ROWS "eval/rows"              /* with a gold answer */
#define MR_M_EVAL_SOURCE_FMT "eval/%s/accuracy" /* of the rows of one data set */
#define MR_M_TIME_EVAL "time/eval_s"

/* Metrics that depend on the clock; everything else of metrics.jsonl is a function of the run's inputs. */
#define MR_M_IS_CLOCK(name) (!strncmp(name, "time/", 5) || !strncmp(name, "cost/", 5) || !strcmp(name, MR_M_STEP_TIME))

#endif
