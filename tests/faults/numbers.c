/* numbers.c - numbers that go wrong on order, in medrl_faulty (faults.c): MEDRL_FAULT=number:STEP:WHERE/VALUE, VALUE nan, inf or huge.
 *
 * WHERE: logit   one logit of the first call that asks for log-probabilities in that step
 *        grad    a gradient, before the update
 *        reward  the first reward of the first completion, as it comes from the workers' side
 *        adam    the second moment of one parameter (f32 states), before the update
 *        scale   the loss scale, before the backward pass
 *        weight  a parameter of the last layer, before the rollout; huge is finite, and what it is multiplied with is not
 * A step is a rollout. All of it is host memory: the CPU backend only. */
#include <math.h>
#include <string.h>

#include "faults/faults.h"
#include "rl/rollout.h"
#include "rl/scaler.h"
#include "rl/trainer.h"
#include "script/script.h"

static long step;
static bool logit_done, adam_done;
static mr_model *model;
static mr_backend real; /* its functions as they were */
static mr_scorer scorer;

static bool value_of(float *x, const char *where) {
    const char *what = mr_fault_number(step, where);
    if (what) *x = !strcmp(what, "nan") ? NAN : !strcmp(what, "huge") ? 3e38f : INFINITY;
    return what != NULL;
}

mr_status __real_mr_trainer_open(mr_trainer **, const mr_trainer_parts *, mr_err *);
mr_status __wrap_mr_trainer_open(mr_trainer **, const mr_trainer_parts *, mr_err *);
mr_status __real_mr_rollout_run(mr_rollout *, mr_decoder *, const mr_rollout_prompt *, int, const mr_rollout_opts *, mr_err *);
mr_status __wrap_mr_rollout_run(mr_rollout *, mr_decoder *, const mr_rollout_prompt *, int, const mr_rollout_opts *, mr_err *);
mr_status __real_mr_trainer_update(mr_trainer *, double, double *, double *, bool *, mr_err *);
mr_status __wrap_mr_trainer_update(mr_trainer *, double, double *, double *, bool *, mr_err *);
void __real_mr_scaler_apply(const mr_scaler *, float *, int);
void __wrap_mr_scaler_apply(const mr_scaler *, float *, int);
mr_scorer __real_mr_pool_scorer(mr_pool *);
mr_scorer __wrap_mr_pool_scorer(mr_pool *);

static void bad_logprob(mr_backend *b, float *logp, float *entropy, float *lse, const float *z, const int32_t *targets, float inv_t, int n,
                        int vocab) {
    float bad;
    if (!logit_done && value_of(&bad, "logit")) {
        logit_done = true;
        ((float *)(uintptr_t)z)[targets[0]] = bad;
    }
    real.logprob(b, logp, entropy, lse, z, targets, inv_t, n, vocab);
}

static void bad_adamw(mr_backend *b, const mr_adamw_tensor *all, int n, const mr_adamw *opt) {
    float bad;
    for (int i = 0; i < n; i++) {
        if (all[i].c1 || adam_done || !value_of(&bad, "adam")) continue;
        adam_done = true;
        all[i].v[all[i].n / 2] = bad;
    }
    real.adamw(b, all, n, opt);
}

mr_status __wrap_mr_trainer_open(mr_trainer **out, const mr_trainer_parts *parts, mr_err *err) {
    model = parts->model;
    mr_backend *b = mr_model_backend(model);
    real = *b;
    b->logprob = bad_logprob;
    b->adamw = bad_adamw;
    return __real_mr_trainer_open(out, parts, err);
}

mr_status __wrap_mr_rollout_run(mr_rollout *out, mr_decoder *d, const mr_rollout_prompt *prompts, int n, const mr_rollout_opts *opts,
                                mr_err *err) {
    float bad;
    int n_params;
    step = (long)opts->step;
    logit_done = adam_done = false;
    if (model && value_of(&bad, "weight")) {
        const mr_param *p = mr_model_params(model, &n_params) + n_params - 1;
        p->value[0] = bad;
        mr_model_refresh(model);
    }
    return __real_mr_rollout_run(out, d, prompts, n, opts, err);
}

mr_status __wrap_mr_trainer_update(mr_trainer *t, double loss, double *norm, double *lr, bool *done, mr_err *err) {
    int64_t n;
    float *grads = mr_model_grads(model, &n), bad;
    if (value_of(&bad, "grad")) grads[n / 2] = bad;
    return __real_mr_trainer_update(t, loss, norm, lr, done, err);
}

void __wrap_mr_scaler_apply(const mr_scaler *s, float *x, int n) {
    float bad;
    if (s->on && value_of(&bad, "scale")) ((mr_scaler *)(uintptr_t)s)->scale = (double)bad;
    __real_mr_scaler_apply(s, x, n);
}

static mr_status bad_collect(void *self, mr_score *scores, int n_jobs, mr_fault *faults, int max_faults, int *n_faults, mr_err *err) {
    float bad;
    MR_TRY(scorer.collect(self, scores, n_jobs, faults, max_faults, n_faults, err));
    if (n_jobs && value_of(&bad, "reward")) scores[0].value = (double)bad;
    return MR_OK;
}

mr_scorer __wrap_mr_pool_scorer(mr_pool *p) {
    scorer = __real_mr_pool_scorer(p);
    mr_scorer s = scorer;
    s.collect = bad_collect;
    return s;
}
