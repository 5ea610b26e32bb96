/* plan_impl.h - between plan.c (memory) and plan_cost.c (time and money). Not for other commands. */
#ifndef MR_PLAN_IMPL_H
#define MR_PLAN_IMPL_H

#include "cli/parts.h"

/* How long the whole run would take, and what it would cost. */
typedef struct mr_run_cost {
    double step_s, hours, usd; /* usd 0: no price is known */
    double usd_hour;
    int64_t steps;
    double budget_usd; /* 0: none to compare with */
} mr_run_cost;

/* One step of the recipe, made in a temporary folder, on the device that a run would take. */
typedef struct mr_dry_step {
    double step_s, rollout_s, score_s, train_s, tokens_per_s, mean_length, max_length;
    double start_s; /* until the step began: model, data, workers */
    char device[128];
} mr_dry_step;

mr_status mr_plan_dry_step(mr_dry_step *out, const char *recipe, const char *const *overrides, const char *device,
                           int n_threads, mr_err *err);

/* Steps of the run: max_steps, or what num_train_epochs come to over n_rows; 750, the published recipe's, when neither
 * is known (n_rows 0). */
int64_t mr_plan_steps(const mr_settings *s, int64_t n_rows);
mr_run_cost mr_plan_cost(double step_s, int64_t steps, double usd_hour, double budget_usd);
/* "750 steps take 2.1 hours: 0.73 dollars at 0.35 an hour, within the budget of 3.00 dollars". */
void mr_plan_cost_text(const mr_run_cost *c, mr_str *out);
/* The estimate for a device that is not here, with all that it assumes. */
void mr_plan_assumed_text(const mr_estimate *e, const mr_estimate_device *d, const mr_run_cost *c, mr_str *out);
void mr_plan_put_cost(cJSON *o, const mr_run_cost *c);

#endif
