/* schedule.h - the learning rate's multiplier, step by step.
 *
 * Source: spec/optimizer.md 6.4 (transformers 5.23 optimization.py). Pure maths, no state.
 * Index:  optimizer step k (1 for the first) uses lambda(k - 1): with a warmup the first step has rate 0 and changes
 * nothing but the moments. */
#ifndef MR_SCHEDULE_H
#define MR_SCHEDULE_H

#include "rl/settings.h"

/* Steps of warmup: warmup_steps when it is positive, else ceil(max_steps * warmup_ratio). */
int64_t mr_schedule_warmup(int64_t max_steps, int warmup_steps, double warmup_ratio);
/* lambda(s), s = completed steps; 0 .. 1. */
double mr_schedule_lambda(mr_scheduler kind, int64_t s, int64_t warmup, int64_t max_steps);

#endif
