/* estimate.c - see estimate.h. */
#include "rl/estimate.h"

#include <math.h>
#include <strings.h>

#include "model/cost.h"
#include "rl/plan.h"

const mr_estimate_device mr_t4 = { "T4",  320e9, 65e12, 0.5, 0.35,
                                   15e9, false, "t4",  "Google Cloud's list price of the GPU alone" };

/* Dense products in 16 bits with sums in f32, of the data sheets. */
static const mr_estimate_device others[] = {
    { "L4", 300e9, 121e12, 0.5, 0, 22.5e9, true, "l4", "no price known here" },
    { "A10G", 600e9, 70e12, 0.5, 1.006, 22.5e9, true, "a10g", "AWS g5.xlarge, us-east-1, June 2026" },
    { "RTX 4090", 1008e9, 165e12, 0.5, 0.29, 24e9, true, "rtx4090", "OpenRelay, September 2026" },
    { "A100 80 GB", 2039e9, 312e12, 0.5, 1.39, 80e9, true, "a100", "RunPod, community, November 2026" },
    { "H100", 3350e9, 989e12, 0.5, 2.69, 80e9, true, "h100", "RunPod, community, November 2026" },
};

mr_status mr_estimate_find(const mr_estimate_device **out, const char *key, mr_err *err) {
    mr_str names = { 0 };
    *out = strcasecmp(key, mr_t4.key) == 0 ? &mr_t4 : NULL;
    mr_str_puts(&names, mr_t4.key);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (strcasecmp(key, others[i].key) == 0) *out = &others[i];
        mr_str_printf(&names, ", %s", others[i].key);
    }
    mr_status st = *out ? MR_OK : mr_fail(err, MR_EINVAL, "no device is called \"%.40s\", want one of %s", key, names.data);
    mr_str_clear(&names);
    return st;
}

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
        "%.3g s a step (rollout %.3g, training %.3g); %lld steps take %.3g hours",
        d->name, d->bytes_s / 1e9, d->flop_s / 1e12, 100 * d->share, e->step_s, e->rollout_s, e->train_s,
        (long long)e->steps, e->hours);
    if (d->usd_hour > 0)
        mr_str_printf(out, ", %.2f dollars at %.2f an hour\n", e->usd, d->usd_hour);
    else
        mr_str_puts(out, "\n");
}
