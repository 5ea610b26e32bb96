/* schedule.c - see schedule.h. */
#include "rl/schedule.h"

#include <math.h>

int64_t mr_schedule_warmup(int64_t max_steps, int warmup_steps, double warmup_ratio) {
    if (warmup_steps > 0) return warmup_steps;
    if (!(warmup_ratio > 0)) return 0;
    return (int64_t)ceil((double)max_steps * warmup_ratio);
}

double mr_schedule_lambda(mr_scheduler kind, int64_t s, int64_t warmup, int64_t max_steps) {
    if (kind == MR_SCHED_CONSTANT) return 1;
    if (s < warmup) return (double)s / (double)warmup;
    if (kind == MR_SCHED_CONSTANT_WITH_WARMUP) return 1;
    int64_t span = max_steps - warmup;
    if (span < 1) span = 1;
    if (kind == MR_SCHED_LINEAR) return fmax(0, (double)(max_steps - s) / (double)span);
    /* half a cosine: transformers' num_cycles = 0.5, so 2 * 0.5 = 1 in front of the progress */
    return fmax(0, 0.5 * (1 + cos(3.141592653589793 * ((double)(s - warmup) / (double)span))));
}
