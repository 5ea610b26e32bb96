/* plan_cost.c - see plan_impl.h: the step that is measured, hours and dollars. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/log.h"
#include "base/proc.h"
#include "cli/cli.h"
#include "cli/plan_impl.h"
#include "cli/session.h"
#include "rl/metrics.h"

int64_t mr_plan_steps(const mr_settings *s, int64_t n_rows) {
    if (s->train.max_steps > 0) return s->train.max_steps;
    const int64_t chunks = s->train.prompts_per_step > 0 ? n_rows / s->train.prompts_per_step : 0;
    return chunks > 0 ? (int64_t)ceil(s->train.num_train_epochs * (double)chunks) : 750;
}

mr_run_cost mr_plan_cost(double step_s, int64_t steps, double usd_hour, double budget_usd) {
    const double hours = step_s * (double)steps / 3600;
    return (mr_run_cost){ step_s, hours, hours * usd_hour, usd_hour, steps, budget_usd };
}

static void put_duration(mr_str *out, double hours) {
    if (hours >= 1)
        mr_str_printf(out, "%.3g hours", hours);
    else if (hours * 60 >= 1)
        mr_str_printf(out, "%.3g minutes", hours * 60);
    else
        mr_str_printf(out, "%.3g seconds", hours * 3600);
}

void mr_plan_cost_text(const mr_run_cost *c, mr_str *out) {
    mr_str_printf(out, "%lld steps take ", (long long)c->steps);
    put_duration(out, c->hours);
    if (!(c->usd_hour > 0)) {
        mr_str_puts(out, "; --usd-per-hour says what they cost\n");
        return;
    }
    if (c->usd < 0.005)
        mr_str_printf(out, ": less than a cent at %.3g dollars an hour", c->usd_hour);
    else
        mr_str_printf(out, ": %.2f dollars at %.3g an hour", c->usd, c->usd_hour);
    if (c->budget_usd > 0 && c->usd <= c->budget_usd)
        mr_str_printf(out, ", under %.3g dollars", c->budget_usd);
    else if (c->budget_usd > 0)
        mr_str_printf(out, ", more than %.3g dollars, which are spent after step %.0f", c->budget_usd,
                      floor(c->budget_usd / c->usd * (double)c->steps));
    mr_str_puts(out, "\n");
}

void mr_plan_assumed_text(const mr_estimate *e, const mr_estimate_device *d, const mr_run_cost *c, mr_str *out) {
    mr_str_printf(
        out,
        "time     on a %s, which is not here: by its data sheet (%.0f GB/s, %.0f TFLOP/s in %s), of which %.0f %% are\n"
        "         reached; every prompt and completion as long as it may be; rewards and start-up not counted\n",
        d->name, d->bytes_s / 1e9, d->flop_s / 1e12, d->bf16 ? "bf16" : "fp16", 100 * d->share);
    mr_str_printf(out, "         %.3g s a step: rollout %.3g, training %.3g\n", e->step_s, e->rollout_s, e->train_s);
    mr_str_puts(out, "cost     ");
    mr_plan_cost_text(c, out);
    if (c->usd_hour > 0 && c->usd_hour == d->usd_hour) mr_str_printf(out, "         (price: %s)\n", d->price);
}

void mr_plan_put_cost(cJSON *o, const mr_run_cost *c) {
    cJSON_AddNumberToObject(o, "steps", (double)c->steps);
    cJSON_AddNumberToObject(o, "hours", c->hours);
    cJSON_AddItemToObject(o, "usd", c->usd_hour > 0 ? cJSON_CreateNumber(c->usd) : cJSON_CreateNull());
    cJSON_AddItemToObject(o, "usd_hour", c->usd_hour > 0 ? cJSON_CreateNumber(c->usd_hour) : cJSON_CreateNull());
    cJSON_AddItemToObject(o, "within_budget",
                          c->budget_usd > 0 && c->usd_hour > 0 ? cJSON_CreateBool(c->usd <= c->budget_usd)
                                                               : cJSON_CreateNull());
}

/* ---- the step that is measured ---- */

static double metric(const mr_session *s, const char *name) {
    for (int i = 0; i < s->n_last; i++)
        if (!strcmp(s->last[i].name, name)) return s->last[i].value;
    return (double)NAN;
}

static void ask_to_stop(void *self) {
    mr_trainer_stop(self);
}

static mr_status step(mr_dry_step *out, mr_session *s, mr_err *err) {
    out->start_s = mr_since_start_s();
    mr_signals_catch(ask_to_stop, s->trainer);
    mr_status st = mr_trainer_step(s->trainer, err);
    mr_signals_catch(NULL, NULL);
    if (st == MR_ESIGNAL)
        return mr_fail(err, st, "plan: stopped by %s in the step that is measured", mr_signals_name(mr_signals_seen()));
    MR_TRY(st);
    out->step_s = metric(s, MR_M_STEP_TIME);
    out->rollout_s = metric(s, MR_M_TIME_ROLLOUT);
    out->score_s = metric(s, MR_M_TIME_SCORE);
    out->train_s = metric(s, MR_M_TIME_TRAIN);
    out->tokens_per_s = metric(s, MR_M_TOKENS_PER_S);
    out->mean_length = metric(s, MR_M_LEN_MEAN);
    out->max_length = metric(s, MR_M_LEN_MAX);
    snprintf(out->device, sizeof out->device, "%.127s", s->parts.backend->device);
    return MR_OK;
}

mr_status mr_plan_dry_step(mr_dry_step *out, const char *recipe, const char *const *overrides, const char *device,
                           int n_threads, mr_err *err) {
    const char *tmp = getenv("TMPDIR");
    char *dir = mr_asprintf("%s/medrl-plan-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) {
        mr_status st = mr_fail_errno(err, "%s: no temporary folder for the step that is measured", dir);
        mr_free(dir);
        return st;
    }
    char *output = mr_path_join(dir, "run");
    const mr_session_opts so = {
        .recipe = recipe, .overrides = overrides, .device = device, .n_threads = n_threads, .output = output
    };
    mr_session s;
    const mr_log_level level = mr_log_get_level();
    mr_log_status("loading the model for one step");
    if (level > MR_LOG_WARN) mr_log_set_level(MR_LOG_WARN); /* the run's banner is not this command's */
    mr_status st = mr_session_open(&s, &so, err);
    if (st == MR_OK) st = step(out, &s, err);
    mr_session_close(&s);
    mr_log_set_level(level);
    mr_log_status(NULL);
    mr_remove_tree(dir, NULL);
    mr_free(output);
    mr_free(dir);
    return st;
}
