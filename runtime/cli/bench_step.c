/* bench_step.c - see bench_step.h. */
#include "cli/bench_step.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/proc.h"
#include "base/rng.h"

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double mr_bench_median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, by_value);
    return n % 2 ? x[n / 2] : 0.5 * (x[n / 2 - 1] + x[n / 2]);
}

static void *array(size_t n, size_t size) {
    return mr_alloc((n ? n : 1) * size);
}

mr_status mr_bench_open(mr_bench_job *j, int max_ids, mr_err *err) {
    const mr_decoder_opts *o = mr_decoder_options(j->decoder);
    size_t rows = (size_t)(j->prompts * j->group), tokens = rows * (size_t)j->n_new;
    MR_TRY(mr_packer_init(&j->packer, o->train_rows, o->train_slots, (int)rows, err));
    size_t targets = (size_t)j->packer.max_targets;
    j->max_ids = max_ids;
    j->scaler = mr_scaler_start(mr_model_options(j->model)->compute);
    j->ids = array((size_t)max_ids, sizeof *j->ids);
    j->rewards = array(rows, sizeof(float));
    j->reward = array(rows, sizeof(float));
    j->std = array(rows, sizeof(float));
    j->adv = array(rows, sizeof(float));
    j->offset = array(rows + 1, sizeof *j->offset);
    j->sampled = array(tokens, sizeof(float));
    j->logp = array(tokens, sizeof(float));
    j->dlogp = array(tokens, sizeof(float));
    j->pack_logp = array(targets, sizeof(float));
    j->pack_entropy = array(targets, sizeof(float));
    j->pack_weight = array(targets, sizeof(float));
    j->pack_ids = array((size_t)j->group, sizeof *j->pack_ids);
    j->pack_n_ids = array((size_t)j->group, sizeof *j->pack_n_ids);
    return MR_OK;
}

void mr_bench_close(mr_bench_job *j) {
    void *const all[] = {
        j->ids,  j->rewards, j->reward,    j->std,          j->adv,         j->offset,   j->sampled,
        j->logp, j->dlogp,   j->pack_logp, j->pack_entropy, j->pack_weight, j->pack_ids, j->pack_n_ids
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) mr_free(all[i]);
    mr_rollout_clear(&j->roll);
    mr_packer_clear(&j->packer);
    *j = (mr_bench_job){ 0 };
}

void mr_bench_random_ids(mr_bench_job *j, int n) {
    int vocab = mr_model_config(j->model)->vocab_size;
    j->n_drawn++;
    for (int i = 0; i < n; i++)
        j->ids[i] = (int32_t)(mr_uniform(1, j->n_drawn, 0, 0, (uint32_t)i) * (float)vocab) % vocab;
}

/* --- forwards by the clock --- */

typedef struct clocked {
    double last, *s;
    int n, max;
} clocked;

static bool tick(void *self, int n_done, int n_total) {
    (void)n_done, (void)n_total;
    clocked *c = self;
    double now = mr_now_s();
    if (c->n < c->max) c->s[c->n++] = now - c->last;
    c->last = now;
    return true;
}

mr_status mr_bench_clock(mr_bench_job *j, double *s, int max, int *n, int n_groups, int n_samples, int n_ids, int n_new,
                         mr_err *err) {
    mr_rollout r = { 0 };
    mr_bench_random_ids(j, n_groups * n_ids);
    mr_rollout_prompt *prompts = array((size_t)n_groups, sizeof *prompts);
    for (int g = 0; g < n_groups; g++)
        prompts[g] = (mr_rollout_prompt){
            .ids = j->ids + g * n_ids, .n_ids = n_ids, .rng_prompt = (uint32_t)g, .n_samples = n_samples
        };
    clocked c = { .s = s, .max = max };
    const mr_rollout_opts o = {
        .sampling = { .temperature = 1, .top_p = 1, .repetition_penalty = 1 },
        .max_new_tokens = n_new,
        .seed = j->n_drawn,
        .tick = tick,
        .self = &c,
    };
    c.last = mr_now_s();
    mr_status st = mr_rollout_run(&r, j->decoder, prompts, n_groups, &o, err);
    mr_rollout_clear(&r);
    mr_free(prompts);
    *n = c.n;
    return st;
}

/* --- one GRPO step --- */

/* The scorer: the share of even ids in a completion. */
static void score(void *self, const mr_completion *c) {
    mr_bench_job *j = self;
    int even = 0;
    for (int i = 0; i < c->n; i++) even += c->ids[i] % 2 == 0;
    j->rewards[c->prompt * j->group + c->sample] = (float)even / (float)c->n;
}

static mr_status sample(mr_bench_job *j, int n_prompts, uint32_t step, mr_err *err) {
    mr_rollout_prompt *prompts = array((size_t)n_prompts, sizeof *prompts);
    mr_bench_random_ids(j, n_prompts * j->n_prompt);
    for (int p = 0; p < n_prompts; p++)
        prompts[p] = (mr_rollout_prompt){
            .ids = j->ids + p * j->n_prompt, .n_ids = j->n_prompt, .rng_prompt = (uint32_t)p, .n_samples = j->group
        };
    const mr_rollout_opts o = {
        .sampling = { .temperature = j->set->train.temperature,
                      .top_p = j->set->train.top_p,
                      .top_k = j->set->train.top_k,
                      .min_p = j->set->train.min_p,
                      .repetition_penalty = j->set->train.repetition_penalty },
        .max_new_tokens = j->n_new,
        .seed = j->set->train.seed,
        .step = step,
        .finished = score,
        .self = j,
    };
    mr_rollout_clear(&j->roll);
    mr_status st = mr_rollout_run(&j->roll, j->decoder, prompts, n_prompts, &o, err);
    mr_free(prompts);
    return st;
}

void mr_bench_pretend(mr_bench_job *j, int n_prompts) {
    const int vocab = mr_model_config(j->model)->vocab_size, n = n_prompts * j->group;
    mr_rollout_clear(&j->roll);
    mr_bench_random_ids(j, n_prompts * j->n_prompt);
    j->roll.items = mr_arena_alloc(&j->roll.arena, (size_t)n * sizeof *j->roll.items);
    j->roll.n = n;
    for (int i = 0; i < n; i++) {
        mr_completion *c = &j->roll.items[i];
        *c = (mr_completion){ .prompt = i / j->group, .sample = i % j->group, .n = j->n_new };
        c->ids = mr_arena_alloc(&j->roll.arena, (size_t)j->n_new * sizeof *c->ids);
        c->logp = mr_arena_alloc(&j->roll.arena, (size_t)j->n_new * sizeof *c->logp);
        for (int t = 0; t < j->n_new; t++) {
            c->ids[t] = (int32_t)(mr_uniform(2, j->n_drawn, (uint32_t)i, 0, (uint32_t)t) * (float)vocab) % vocab;
            c->logp[t] = -logf((float)vocab); /* what random weights give, nearly */
        }
        j->adv[i] = i % 2 ? 1.0f : -1.0f;
    }
}

/* Groups from completion *next on (counted through all groups), as many as the packer takes. */
static void fill_pack(mr_bench_job *j, int n_prompts, int *next) {
    mr_packer_reset(&j->packer);
    while (*next < n_prompts * j->group) {
        int prompt = *next / j->group, first = *next % j->group;
        for (int g = 0; g < j->group; g++) {
            j->pack_ids[g] = j->roll.items[prompt * j->group + g].ids;
            j->pack_n_ids[g] = j->roll.items[prompt * j->group + g].n;
        }
        const mr_train_group group = { .prompt = j->ids + prompt * j->n_prompt,
                                       .n_prompt = j->n_prompt,
                                       .ids = j->pack_ids,
                                       .n_ids = j->pack_n_ids,
                                       .n_completions = j->group,
                                       .first_token = j->offset[prompt * j->group] };
        *next = prompt * j->group + mr_packer_add_from(&j->packer, &group, first);
        if (*next < (prompt + 1) * j->group) break;
    }
}

static void lay_tokens(mr_bench_job *j, int n_rows) {
    int n_tokens = 0;
    for (int i = 0; i < n_rows; i++) {
        const mr_completion *c = &j->roll.items[i];
        j->offset[i] = n_tokens;
        memcpy(j->sampled + n_tokens, c->logp, (size_t)c->n * sizeof(float));
        n_tokens += c->n;
    }
    j->offset[n_rows] = n_tokens;
    memcpy(j->logp, j->sampled, (size_t)n_tokens * sizeof(float));
}

/* Forward with log-probabilities of one pack. */
static void forward(mr_bench_job *j) {
    const mr_packer *k = &j->packer;
    mr_decoder_forward(j->decoder, &k->pack);
    mr_decoder_logprobs(j->decoder, j->pack_logp, j->pack_entropy, k->rows, k->targets, k->n_targets, 1.0f);
    for (int i = 0; i < k->n_targets; i++) j->logp[k->token[i]] = j->pack_logp[i];
}

static double gap_of_pack(const mr_bench_job *j) {
    const mr_packer *k = &j->packer;
    double gap = 0;
    for (int i = 0; i < k->n_targets; i++)
        gap = fmax(gap, fabs((double)j->pack_logp[i] - (double)j->sampled[k->token[i]]));
    return gap;
}

static mr_status update(mr_bench_job *j, mr_err *err) {
    int64_t n;
    bool finite = true;
    const float *grads = mr_model_grads(j->model, &n);
    const mr_scaler applied = j->scaler;
    j->norm = sqrt(j->b->sum_squares(j->b, grads, n, &finite)) / applied.scale;
    MR_TRY(j->b->sync(j->b, err));
    j->updates++;
    mr_scaler_next(&j->scaler, finite);
    if (!finite && j->scaler.on && j->scaler.scale >= 1 && isfinite(j->loss)) return MR_OK;
    if (!finite) return mr_fail(err, MR_EINTERNAL, "%s: a gradient is not finite", mr_model_path(j->model));
    mr_optimizer_step(j->optimizer, j->set->train.learning_rate,
                      mr_scaler_factor(&applied, mr_clip_coefficient(j->norm, j->set->train.max_grad_norm)));
    mr_model_refresh(j->model);
    return j->b->sync(j->b, err);
}

static mr_status train(mr_bench_job *j, int n_prompts, double *gap, mr_err *err) {
    const mr_packer *k = &j->packer;
    mr_grpo_stats stats = { 0 };
    int n_rows = n_prompts * j->group;
    lay_tokens(j, n_rows);
    const mr_grpo_batch batch = {
        .offset = j->offset,
        .logp = j->logp,
        .logp_old = j->sampled,
        .adv = j->adv,
        .n_rows = n_rows,
        .acc = 1,
        .slices = 1,
    };
    mr_decoder_phase(j->decoder, MR_PHASE_TRAIN);
    mr_model_zero_grads(j->model);
    for (int next = 0; next < n_prompts * j->group;) {
        fill_pack(j, n_prompts, &next);
        forward(j);
        if (gap) *gap = fmax(*gap, gap_of_pack(j));
        MR_TRY(mr_grpo_loss(j->dlogp, &stats, &batch, &j->set->train.loss, err));
        for (int i = 0; i < k->n_targets; i++) j->pack_weight[i] = j->dlogp[k->token[i]];
        mr_scaler_apply(&j->scaler, j->pack_weight, k->n_targets);
        mr_decoder_backward(j->decoder, &k->pack, k->rows, k->targets, j->pack_weight, k->n_targets, 1.0f);
        MR_TRY(j->b->sync(j->b, err));
    }
    j->loss = stats.loss;
    return update(j, err);
}

mr_status mr_bench_train(mr_bench_job *j, int n_prompts, mr_err *err) {
    double t0 = mr_now_s();
    MR_TRY(train(j, n_prompts, NULL, err)); /* the weights have moved since j->roll was sampled: no gap to measure */
    j->train_s = mr_now_s() - t0;
    return MR_OK;
}

mr_status mr_bench_logprobs(mr_bench_job *j, int n_prompts, mr_err *err) {
    lay_tokens(j, n_prompts * j->group);
    mr_decoder_phase(j->decoder, MR_PHASE_TRAIN);
    for (int next = 0; next < n_prompts * j->group;) {
        fill_pack(j, n_prompts, &next);
        forward(j);
        MR_TRY(j->b->sync(j->b, err));
    }
    return MR_OK;
}

mr_status mr_bench_step(mr_bench_job *j, int n_prompts, uint32_t number, mr_err *err) {
    const float weight = 1;
    double t0 = mr_now_s();
    MR_TRY(sample(j, n_prompts, number, err));
    double t1 = mr_now_s();
    MR_TRY(mr_grpo_advantages(j->adv, j->reward, j->std, j->rewards, &weight, n_prompts * j->group, 1,
                              &j->set->train.loss, err));
    double t2 = mr_now_s();
    MR_TRY(train(j, n_prompts, &j->logp_gap, err));
    double t3 = mr_now_s();
    j->rollout_s = t1 - t0;
    j->prefill_s = j->roll.prefill_s;
    j->decode_s = j->roll.decode_s;
    j->train_s = t3 - t2;
    j->step_s = t3 - t0;
    return MR_OK;
}
