/* estimate.c - see estimate.h. */
#include "rl/estimate.h"

#include <math.h>

#include "model/cost.h"
#include "rl/plan.h"

const mr_estimate_device mr_t4 = { "T4", 320e9, 65e12, 0.5, 0.35 };

static double seconds(mr_cost c, const mr_estimate_device *d) {
    return fmax(c.bytes / d->bytes_s, c.flops / d->flop_s) / d->share;
}

/* One wave of prompts that are sampled together. */
static double rollout(const mr_plan *p, const mr_config *c, const mr_model_opts *mo, double prompts,
                      double kv_token_bytes, const mr_estimate_device *d) {
    const double rows = prompts * p->group;
    mr_pass first = { .head_rows = rows, .kv_token_bytes = kv_token_bytes };
    mr_pass_group(&first, prompts, p->max_prompt, 0, 0);
    double s = seconds(mr_cost_pass(c, mo, &first), d);
    for (int t = 1; t < p->max_completion; t++) {
        const mr_pass one = { .rows = rows,
                              .pairs = rows * (p->max_prompt + t),
                              .keys = prompts * (p->max_prompt + (double)p->group * t),
                              .head_rows = rows,
                              .kv_token_bytes = kv_token_bytes };
        s += seconds(mr_cost_pass(c, mo, &one), d);
    }
    return s;
}

mr_estimate mr_estimate_make(const mr_plan *p, const mr_config *c, const mr_model_opts *mo, double kv_token_bytes,
                             int64_t steps, const mr_estimate_device *d) {
    mr_estimate e = { .steps = steps < 0 ? 750 : steps };
    for (int left = p->sft ? 0 : p->prompts; left > 0; left -= p->in_flight)
        e.rollout_s += rollout(p, c, mo, left < p->in_flight ? left : p->in_flight, kv_token_bytes, d);
    mr_pass train = { .head_rows = (double)p->prompts * p->group * p->max_completion,
                      .kv_token_bytes = kv_token_bytes,
                      .backward = true,
                      .checkpointing = p->checkpointing };
    mr_pass_group(&train, p->prompts, p->max_prompt, p->group, p->max_completion - 1);
    e.train_s =
        seconds(mr_cost_pass(c, mo, &train), d) + seconds(mr_cost_update(c, mo, p->optim == MR_ADAMW_8BIT ? 2 : 8), d);
    e.step_s = e.rollout_s + e.train_s;
    e.hours = e.step_s * (double)e.steps / 3600;
    e.usd = e.hours * d->usd_hour;
    return e;
}

void mr_estimate_describe(const mr_estimate *e, const mr_estimate_device *d, mr_str *out) {
    if (e->step_s < 0.5) return;
    mr_str_printf(
        out,
        "on a %s, by its data sheet (%.0f GB/s, %.0f TFLOP/s; %.0f %% of either, all lengths at their most): "
        "%.3g s a step (rollout %.3g, training %.3g); %lld steps take %.3g hours, %.2f dollars at %.2f an hour\n",
        d->name, d->bytes_s / 1e9, d->flop_s / 1e12, 100 * d->share, e->step_s, e->rollout_s, e->train_s,
        (long long)e->steps, e->hours, e->usd, d->usd_hour);
}
