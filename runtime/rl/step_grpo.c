/* step_grpo.c - one step of GRPO: sample, score, advantages, train, record.
 *
 * Training walks the step's groups in order, packed as they fit. What is added to a gradient is the same for any
 * packing by the row rule and by the order of rows; where a kernel sums a pack before it adds it to the gradient,
 * packing changes the last bits of that sum (so does cutting a group that no pack has room for), so the packing is a
 * function of the step's data and the plan only, never of time or threads. num_iterations updates share one rollout and
 * the step's learning rate; the old log-probabilities are those of the policy that sampled, also where exact = false
 * lets them differ from the training forward's: the ratio of each update then corrects for that too, clipped as any
 * other. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/proc.h"
#include "base/watch.h"
#include "rl/rollout.h"
#include "rl/trainer_impl.h"

enum { MAX_FAULTS = 64, FAULT_EVENTS = 8 };

/* What is averaged over the updates of a step, as TRL averages over micro-steps (spec/grpo.md 3.7). */
enum { M_LOSS, M_NORM, M_KL, M_ENTROPY, M_REGION, M_LOW, M_LOW_MIN, M_HIGH, M_HIGH_MAX, N_MEANS };

typedef struct work {
    mr_trainer *t;
    int n_rows, n_tok, n_rewards;
    mr_rollout roll;
    const char **prompt_texts; /* [P] rendered */
    mr_status submit_status;
    mr_err submit_err;
    char **texts;     /* [B] */
    mr_score *scores; /* [B,F] */
    double means[MR_MAX_REWARDS];
    float *rewards, *reward, *std, *adv;
    int32_t *offset; /* [B+1] */
    uint8_t *mask;   /* [n_tok], as the arrays that follow */
    float *sampled, *old, *logp, *ref, *entropy, *dlogp;
    bool *in_entropy;                              /* tokens whose entropy was computed */
    bool *skip;                                    /* [P] */
    float *pack_logp, *pack_entropy, *pack_weight; /* [targets of a pack] */
    bool same_temperature;                         /* sampled log-probabilities are those that are trained */
    int n_faults;
    int n_submitted; /* and not collected */
    double is_sum, is_max;
    int64_t is_n;
    mr_grpo_stats stats;
    double mean[N_MEANS], lr, loss_scale;
    double rollout_s, score_s, train_s;
} work;

static void *take(work *w, size_t n, size_t size) {
    return mr_arena_alloc(&w->t->scratch, (n ? n : 1) * size);
}

/* --- sampling and scoring --- */

static void finished(void *self, const mr_completion *c) {
    work *w = self;
    mr_trainer *t = w->t;
    int row = c->prompt * t->group + c->sample;
    mr_str text = { 0 };
    mr_tokenizer_decode(t->parts.tokenizer, &text, c->ids, c->n, true);
    w->texts[row] = mr_arena_strdup(&t->scratch, text.data ? text.data : "", text.len);
    mr_score_job job = { .id = row,
                         .text = w->texts[row],
                         .len = text.len,
                         .row_json = t->batch[c->prompt].row.json,
                         .prompt = w->prompt_texts[c->prompt],
                         .n_tokens = c->n,
                         .truncated = c->truncated,
                         .step = t->step + 1,
                         .group = c->prompt,
                         .n_group = t->group };
    if (w->submit_status == MR_OK)
        w->submit_status = t->parts.scorer.submit(t->parts.scorer.self, &job, &w->submit_err);
    w->n_submitted++;
    mr_str_clear(&text);
}

static mr_status render_prompts(work *w, mr_err *err) {
    mr_trainer *t = w->t;
    w->prompt_texts = take(w, (size_t)t->prompts, sizeof *w->prompt_texts);
    const mr_chat_opts o = { .add_generation_prompt = true };
    for (int p = 0; p < t->prompts; p++) {
        const mr_row *row = &t->batch[p].row;
        mr_str text = { 0 };
        mr_status st = mr_chat_render(&text, t->parts.chat, row->messages, row->n_messages, &o, err);
        if (st == MR_OK) w->prompt_texts[p] = mr_arena_strdup(&t->scratch, text.data ? text.data : "", text.len);
        mr_str_clear(&text);
        MR_TRY(st);
    }
    return MR_OK;
}

static bool tick(void *self, int done, int total) {
    work *w = self;
    mr_trainer_progress(w->t, "rollout", done, total);
    return !w->t->stop && w->submit_status == MR_OK;
}

static mr_status sample(work *w, mr_err *err) {
    mr_trainer *t = w->t;
    const mr_settings *s = t->set;
    int n_stops, vocab = mr_model_config(t->parts.model)->vocab_size, count = mr_tokenizer_count(t->parts.tokenizer);
    mr_rollout_prompt *prompts = take(w, (size_t)t->prompts, sizeof *prompts);
    MR_TRY(render_prompts(w, err));
    for (int p = 0; p < t->prompts; p++)
        prompts[p] = (mr_rollout_prompt){
            .ids = t->batch[p].ids.data, .n_ids = t->batch[p].ids.n, .rng_prompt = (uint32_t)p, .n_samples = t->group
        };
    mr_rollout_opts o = {
        .sampling = { .temperature = s->train.temperature,
                      .top_p = s->train.top_p,
                      .top_k = s->train.top_k,
                      .min_p = s->train.min_p,
                      .repetition_penalty = s->train.repetition_penalty > 0 ? s->train.repetition_penalty : 1,
                      .n_vocab = count < vocab ? count : vocab },
        .max_new_tokens = t->max_completion,
        .seed = s->train.seed,
        .step = (uint32_t)(t->step + 1),
        .finished = finished,
        .tick = tick,
        .self = w,
    };
    o.stop_ids = mr_tokenizer_stops(t->parts.tokenizer, &n_stops);
    o.n_stop_ids = n_stops;
    double t0 = mr_now_s();
    mr_watch_at("rollout");
    MR_TRY(mr_rollout_run(&w->roll, t->decoder, prompts, t->prompts, &o, err));
    w->rollout_s = mr_now_s() - t0;
    if (w->submit_status != MR_OK) return mr_fail(err, w->submit_status, "%s", w->submit_err.msg);
    return w->roll.stopped ? mr_trainer_stopped(t, err) : MR_OK;
}

/* Up to three of the completions that a reward failed on, for people. */
static void keep_failed(work *w, const mr_fault *faults, int n) {
    enum { MOST = 3, TEXT_BYTES = 4000 };
    mr_trainer *t = w->t;
    cJSON_Delete(t->failed);
    t->failed = cJSON_CreateObject();
    cJSON *list = cJSON_AddArrayToObject(t->failed, "inputs");
    for (int i = 0; i < n && cJSON_GetArraySize(list) < MOST; i++) {
        const int64_t id = faults[i].id;
        if (id < 0 || id >= w->n_rows || !faults[i].text[0]) continue;
        cJSON *o = cJSON_CreateObject();
        size_t len = strlen(w->texts[id]);
        if (len > TEXT_BYTES)
            for (len = TEXT_BYTES; len > 0 && ((unsigned char)w->texts[id][len] & 0xC0) == 0x80;) len--;
        char *text = mr_strndup(w->texts[id], len);
        cJSON_AddStringToObject(o, "reward", t->parts.scorer.names[faults[i].reward]);
        cJSON_AddStringToObject(o, "fault", faults[i].text);
        cJSON_AddStringToObject(o, "completion", text);
        cJSON_AddNumberToObject(o, "row", (double)t->batch[id / t->group].index);
        cJSON_AddItemToArray(list, o);
        mr_free(text);
    }
}

/* A reward whose faults stop the run, before anything of the step is trained or recorded: when the file is mended, the same step is
 * made again. */
static mr_status stop_at_fault(const work *w, int reward, const mr_fault *faults, int n, mr_err *err) {
    const char *text = "a value that is not finite";
    for (int i = n; i-- > 0;)
        if (faults[i].reward == reward && faults[i].text[0]) text = faults[i].text;
    return mr_fail(err, MR_EINVAL, "step %lld: %.600s; the reward %s has on_error = \"stop\": mend it, the step is made again",
                   (long long)w->t->step + 1, text, w->t->parts.scorer.names[reward]);
}

/* A fault counts as the reward's declared minimum, or as its on_error says; an abstention and anything that is not finite count as "not
 * applicable". (spec/grpo.md 3.3) */
static mr_status score(work *w, mr_err *err) {
    mr_trainer *t = w->t;
    mr_fault *faults = take(w, MAX_FAULTS, sizeof *faults);
    double t0 = mr_now_s();
    mr_trainer_progress(t, "score", 0, w->n_rows);
    mr_watch_at("reward");
    w->n_submitted = 0;
    MR_TRY(t->parts.scorer.collect(t->parts.scorer.self, w->scores, w->n_rows, faults, MAX_FAULTS, &w->n_faults, err));
    w->score_s = mr_now_s() - t0;
    const int described = w->n_faults < MAX_FAULTS ? w->n_faults : MAX_FAULTS;
    for (int i = 0; i < w->n_faults && i < FAULT_EVENTS; i++)
        if (faults[i].text[0] && t->parts.observer.event) /* of the step that is under way */
            MR_TRY(t->parts.observer.event(t->parts.observer.self, t->step + 1, "fault", faults[i].text, NULL, err));
    for (int i = 0; i < w->n_rows * w->n_rewards; i++) {
        mr_score *s = &w->scores[i];
        if (s->kind == MR_FAULT) {
            const mr_on_fault on = t->parts.scorer.on_fault ? t->parts.scorer.on_fault[i % w->n_rewards] : MR_FAULT_IS_MIN;
            if (on == MR_FAULT_STOPS && !isnan(s->value)) return stop_at_fault(w, i % w->n_rewards, faults, described, err);
            if (on == MR_FAULT_IS_MASKED) s->value = (double)NAN;
            w->rewards[i] = (float)s->value;
            continue;
        }
        if (s->kind != MR_ABSTAINED && !isfinite((float)s->value)) { /* 1e300 is not finite as f32 either */
            s->kind = MR_ABSTAINED;
            w->n_faults++;
        }
        w->rewards[i] = s->kind == MR_ABSTAINED ? NAN : (float)s->value;
    }
    mr_trainer_note_faults(t, w->scores, w->n_rows, faults, described, w->n_faults);
    if (w->n_faults) keep_failed(w, faults, described);
    mr_grpo_opts o = t->loss;
    o.num_generations = t->group;
    return mr_grpo_advantages(w->adv, w->reward, w->std, w->rewards, t->weights, w->n_rows, w->n_rewards,
                              &o, err);
}

/* --- tokens --- */

static void lay_tokens(work *w) {
    mr_trainer *t = w->t;
    int at = 0;
    for (int b = 0; b < w->n_rows; b++) {
        w->offset[b] = at;
        at += w->roll.items[b].n;
    }
    w->offset[w->n_rows] = w->n_tok = at;
    size_t n = (size_t)at;
    w->mask = take(w, n, 1);
    w->sampled = take(w, n, sizeof(float));
    w->old = take(w, n, sizeof(float));
    w->logp = take(w, n, sizeof(float));
    w->ref = take(w, n, sizeof(float));
    w->entropy = take(w, n, sizeof(float));
    w->dlogp = take(w, n, sizeof(float));
    w->in_entropy = take(w, n, sizeof(bool));
    for (int b = 0; b < w->n_rows; b++) {
        const mr_completion *c = &w->roll.items[b];
        bool masked = c->truncated && t->set->train.mask_truncated_completions;
        for (int i = 0; i < c->n; i++) {
            w->mask[w->offset[b] + i] = !masked;
            w->sampled[w->offset[b] + i] = c->logp[i];
        }
    }
    memcpy(w->old, w->sampled, n * sizeof(float));
    memcpy(w->logp, w->sampled, n * sizeof(float));
}

/* Groups that cannot move anything: every row's advantage is 0 (or its mask is), and there is no KL term. Their
 * gradient is exactly 0, so they take no part in training; is_ratio and entropy are over the rows that do. The
 * entropy quantile looks at all tokens, so then only masked groups are left out. */
static void find_skips(work *w) {
    mr_trainer *t = w->t;
    bool needs_all = t->loss.beta != 0 || t->loss.top_entropy_quantile < 1.0f;
    for (int p = 0; p < t->prompts; p++) {
        w->skip[p] = true;
        for (int b = p * t->group; b < (p + 1) * t->group; b++) {
            bool masked = w->offset[b] == w->offset[b + 1] || !w->mask[w->offset[b]];
            if (!masked && (needs_all || w->adv[b] != 0)) w->skip[p] = false;
        }
    }
}

/* --- training --- */

/* The next completion to train: of this prompt, this sample. */
typedef struct place {
    int prompt, sample;
} place;

/* Fills the packer with groups from *next on; false when there are none left. */
static bool next_pack(work *w, place *next) {
    mr_trainer *t = w->t;
    const int32_t **ids = take(w, (size_t)t->group, sizeof *ids);
    int *n_ids = take(w, (size_t)t->group, sizeof *n_ids);
    mr_packer_reset(&t->packer);
    for (; next->prompt < t->prompts; next->prompt++, next->sample = 0) {
        if (w->skip[next->prompt]) continue;
        for (int g = 0; g < t->group; g++) {
            const mr_completion *c = &w->roll.items[next->prompt * t->group + g];
            ids[g] = c->ids;
            n_ids[g] = c->n;
        }
        mr_train_group group = { .prompt = t->batch[next->prompt].ids.data,
                                 .n_prompt = t->batch[next->prompt].ids.n,
                                 .ids = ids,
                                 .n_ids = n_ids,
                                 .n_completions = t->group,
                                 .first_token = w->offset[next->prompt * t->group] };
        next->sample = mr_packer_add_from(&t->packer, &group, next->sample);
        if (next->sample < t->group) {
            assert(t->packer.n_targets > 0); /* the plan has room for any one completion */
            break;
        }
    }
    return t->packer.n_targets > 0;
}

static void logprobs(work *w, float *logp, float *entropy) {
    mr_trainer *t = w->t;
    const mr_packer *k = &t->packer;
    mr_decoder_forward(t->decoder, &k->pack);
    mr_decoder_logprobs(t->decoder, w->pack_logp, entropy ? w->pack_entropy : NULL, k->rows, k->targets, k->n_targets,
                        t->inv_t);
    for (int i = 0; i < k->n_targets; i++) {
        logp[k->token[i]] = w->pack_logp[i];
        if (entropy) entropy[k->token[i]] = w->pack_entropy[i];
    }
}

static mr_status loss(work *w, mr_grpo_stats *stats, bool on_policy, mr_err *err) {
    mr_trainer *t = w->t;
    mr_grpo_batch x = { .offset = w->offset,
                        .logp = w->logp,
                        .logp_old = on_policy ? NULL : w->old,
                        .logp_ref = w->ref,
                        .adv = w->adv,
                        .mask = w->mask,
                        .entropy = t->loss.top_entropy_quantile < 1.0f ? w->entropy : NULL,
                        .n_rows = w->n_rows,
                        .acc = 1,
                        .slices = 1 };
    return mr_grpo_loss(w->dlogp, stats, &x, &t->loss, err);
}

static void backward(work *w) {
    mr_trainer *t = w->t;
    const mr_packer *k = &t->packer;
    for (int i = 0; i < k->n_targets; i++) w->pack_weight[i] = w->dlogp[k->token[i]];
    mr_scaler_apply(&t->scaler, w->pack_weight, k->n_targets);
    mr_decoder_backward(t->decoder, &k->pack, k->rows, k->targets, w->pack_weight, k->n_targets, t->inv_t);
}

static void compare_with_sampled(work *w) {
    const mr_packer *k = &w->t->packer;
    for (int i = 0; i < k->n_targets; i++) {
        double d = (double)w->logp[k->token[i]] - (double)w->sampled[k->token[i]];
        w->is_sum += exp(d);
        w->is_max = fmax(w->is_max, fabs(d));
        w->is_n++;
    }
}

/* Gradients of one update. A token's gradient needs its own row's log-probabilities, advantages and counts, all known
 * before the first forward, except with the entropy quantile, which looks across the step: then all packs run forward
 * before the first runs backward. */
static mr_status gradients(work *w, bool first, mr_err *err) {
    mr_trainer *t = w->t;
    bool on_policy = first && !w->same_temperature, across = t->loss.top_entropy_quantile < 1.0f;
    int n_packs = 0;
    place next = { 0, 0 };
    mr_grpo_stats stats;
    while (next_pack(w, &next)) {
        if (first) MR_TRY(mr_trainer_stopped(t, err));
        if (first && t->loss.beta != 0) {
            mr_model_adapter(t->parts.model, false);
            logprobs(w, w->ref, NULL);
            mr_model_adapter(t->parts.model, true);
        }
        logprobs(w, w->logp, w->entropy);
        for (int i = 0; i < t->packer.n_targets; i++) w->in_entropy[t->packer.token[i]] = true;
        if (first && w->same_temperature) compare_with_sampled(w);
        if (!across) {
            /* Rows of other packs stand with what was sampled; nothing of them enters this pack's gradients. */
            MR_TRY(loss(w, &stats, on_policy, err));
            backward(w);
        }
        n_packs++;
        MR_TRY(t->b->sync(t->b, err));
        mr_trainer_progress(t, "train", next.prompt, t->prompts);
    }
    MR_TRY(loss(w, &w->stats, on_policy, err));
    if (!across) return MR_OK;
    next = (place){ 0, 0 };
    while (n_packs && next_pack(w, &next)) {
        if (n_packs > 1) mr_decoder_forward(t->decoder, &t->packer.pack); /* a single pack is still there */
        backward(w);
    }
    return t->b->sync(t->b, err);
}

/* NaN is "did not apply" and is dropped from means over updates. */
static void add_mean(double *sum, int *n, double x) {
    if (isnan(x)) return;
    *sum += x;
    ++*n;
}

static double mean_of(double sum, int n) {
    return n ? sum / n : (double)NAN;
}

static double entropy_mean(const work *w) {
    double sum = 0;
    int n = 0;
    for (int i = 0; i < w->n_tok; i++)
        if (w->in_entropy[i] && w->mask[i]) add_mean(&sum, &n, (double)w->entropy[i]);
    return mean_of(sum, n);
}

/* The step's groups as an object: mr_trainer_last. */
static void keep_last(work *w) {
    mr_trainer *t = w->t;
    cJSON_Delete(t->last);
    t->last = cJSON_CreateArray();
    for (int p = 0; p < t->prompts; p++) {
        const mr_row *row = &t->batch[p].row;
        cJSON *group = cJSON_CreateObject(), *list;
        cJSON_AddStringToObject(group, "prompt", w->prompt_texts[p]);
        cJSON_AddStringToObject(group, "source", row->source ? row->source : "");
        cJSON_AddNumberToObject(group, "row", (double)t->batch[p].index);
        list = cJSON_AddArrayToObject(group, "completions");
        for (int b = p * t->group; b < (p + 1) * t->group; b++)
            cJSON_AddItemToArray(list, mr_trainer_completion(t, w->texts[b], &w->roll.items[b],
                                                             w->scores + (size_t)b * (size_t)w->n_rewards,
                                                             (double)w->reward[b], &w->adv[b]));
        cJSON_AddItemToArray(t->last, group);
    }
}

/* The run ends here: all groups of the step run again while each part is looked at. */
static void examine(work *w, double norm) {
    mr_trainer *t = w->t;
    mr_peak *peaks = take(w, (size_t)mr_decoder_n_peaks(t->decoder), sizeof *peaks);
    const mr_packer *k = &t->packer;
    memset(w->skip, 0, (size_t)t->prompts * sizeof *w->skip);
    for (place next = { 0, 0 }; next_pack(w, &next);)
        mr_decoder_examine(t->decoder, &k->pack, k->rows, k->n_targets, peaks);
    keep_last(w);
    mr_autopsy_write(t, peaks, t->last, w->stats.loss, norm, w->lr);
}

static mr_status train(work *w, mr_err *err) {
    mr_trainer *t = w->t;
    int updates = t->set->train.num_iterations > 1 ? t->set->train.num_iterations : 1, n[N_MEANS] = { 0 };
    double t0 = mr_now_s(), sum[N_MEANS] = { 0 };
    bool moved = false;
    w->same_temperature =
        t->set->train.temperature > 0
            ? t->set->train.logp_temperature <= 0 || t->set->train.logp_temperature == t->set->train.temperature
            : t->inv_t == 1.0f;
    size_t targets = (size_t)t->packer.max_targets;
    w->pack_logp = take(w, targets, sizeof(float));
    w->pack_entropy = take(w, targets, sizeof(float));
    w->pack_weight = take(w, targets, sizeof(float));
    w->loss_scale = t->scaler.scale;
    mr_watch_at("train");
    mr_decoder_phase(t->decoder, MR_PHASE_TRAIN);
    for (int k = 0; k < updates; k++) {
        double norm;
        bool done;
        mr_model_zero_grads(t->parts.model);
        MR_TRY(gradients(w, k == 0, err));
        if (k == 0 && !w->same_temperature) memcpy(w->old, w->logp, (size_t)w->n_tok * sizeof(float));
        mr_watch_at("update");
        t->half_done = true; /* from here to the step's count the parameters are between two steps */
        if (memchr(w->mask, 1, (size_t)w->n_tok))
            MR_TRY(mr_trainer_update(t, w->stats.loss, &norm, &w->lr, &done, err));
        else
            mr_trainer_no_update(t, &norm, &w->lr, &done);
        if (mr_trainer_is_sick(t)) {
            examine(w, norm);
            if (!t->values_finite) return mr_trainer_sickness(t, err);
        }
        moved = moved || done;
        const mr_grpo_stats *s = &w->stats;
        const double x[N_MEANS] = {
            [M_LOSS] = s->loss,
            [M_NORM] = norm,
            [M_KL] = s->kl,
            [M_ENTROPY] = entropy_mean(w),
            [M_REGION] = s->clip_region_mean,
            [M_LOW] = s->clip_low_mean,
            [M_LOW_MIN] = s->clip_low_min,
            [M_HIGH] = s->clip_high_mean,
            [M_HIGH_MAX] = s->clip_high_max,
        };
        for (int i = 0; i < N_MEANS; i++) add_mean(&sum[i], &n[i], x[i]);
    }
    for (int i = 0; i < N_MEANS; i++) w->mean[i] = mean_of(sum[i], n[i]);
    if (moved) t->updates++;
    w->train_s = mr_now_s() - t0;
    return MR_OK;
}

/* --- metrics, in the order of rl/metrics.h --- */

static void length_metrics(work *w) {
    mr_trainer *t = w->t;
    double sum = 0, lo = INT32_MAX, hi = 0, ended = 0, ended_sum = 0, ended_lo = INT32_MAX, ended_hi = 0;
    for (int b = 0; b < w->n_rows; b++) {
        double n = w->roll.items[b].n;
        sum += n;
        lo = fmin(lo, n);
        hi = fmax(hi, n);
        if (w->roll.items[b].truncated) continue;
        ended++;
        ended_sum += n;
        ended_lo = fmin(ended_lo, n);
        ended_hi = fmax(ended_hi, n);
    }
    mr_trainer_metric(t, MR_M_LEN_MEAN, sum / w->n_rows);
    mr_trainer_metric(t, MR_M_LEN_MIN, lo);
    mr_trainer_metric(t, MR_M_LEN_MAX, hi);
    mr_trainer_metric(t, MR_M_CLIPPED, (w->n_rows - ended) / w->n_rows);
    mr_trainer_metric(t, MR_M_TERM_MEAN, ended > 0 ? ended_sum / ended : 0);
    mr_trainer_metric(t, MR_M_TERM_MIN, ended > 0 ? ended_lo : 0);
    mr_trainer_metric(t, MR_M_TERM_MAX, ended_hi);
}

static void reward_metrics(work *w) {
    mr_trainer *t = w->t;
    double mean, std;
    int zero = 0;
    for (int f = 0; f < w->n_rewards; f++) {
        mr_grpo_moments(&mean, &std, w->rewards + f, w->n_rewards, w->n_rows);
        w->means[f] = mean;
        mr_trainer_metric_fmt(t, MR_M_REWARD_MEAN_FMT, t->parts.scorer.names[f], mean);
        mr_trainer_metric_fmt(t, MR_M_REWARD_STD_FMT, t->parts.scorer.names[f], std);
    }
    mr_grpo_moments(&mean, &std, w->reward, 1, w->n_rows);
    for (int b = 0; b < w->n_rows; b++) zero += fabs((double)w->std[b]) <= 1e-8; /* torch.isclose; a NaN is not close */
    mr_trainer_metric(t, MR_M_REWARD, mean);
    mr_trainer_metric(t, MR_M_REWARD_STD, std);
    mr_trainer_metric(t, MR_M_ZERO_STD, (double)zero / w->n_rows);
}

static void source_metrics(work *w) {
    mr_trainer *t = w->t;
    /* room for what follows: a mixture of very many sets must not push it out */
    for (int p = 0; p < t->prompts && t->n_metrics < MR_MAX_METRICS - 8; p++) {
        const char *name = t->batch[p].row.source;
        bool seen = !name || !*name;
        for (int q = 0; q < p && !seen; q++) seen = t->batch[q].row.source && !strcmp(t->batch[q].row.source, name);
        if (seen) continue;
        double sum = 0;
        int n = 0;
        for (int b = p * t->group; b < w->n_rows; b++) {
            const char *other = t->batch[b / t->group].row.source;
            if (other && !strcmp(other, name)) add_mean(&sum, &n, (double)w->reward[b]);
        }
        mr_trainer_metric_fmt(t, MR_M_SOURCE_FMT, name, mean_of(sum, n));
    }
}

static void all_metrics(work *w) {
    mr_trainer *t = w->t;
    bool compared = w->is_n > 0;
    mr_trainer_metric(t, MR_M_LOSS, w->mean[M_LOSS]);
    mr_trainer_metric(t, MR_M_GRAD_NORM, w->mean[M_NORM]);
    mr_trainer_metric(t, MR_M_LEARNING_RATE, w->lr);
    mr_trainer_metric(t, MR_M_NUM_TOKENS, t->num_tokens);
    length_metrics(w);
    reward_metrics(w);
    if (t->loss.beta != 0) mr_trainer_metric(t, MR_M_KL, w->mean[M_KL]);
    mr_trainer_metric(t, MR_M_ENTROPY, w->mean[M_ENTROPY]);
    mr_trainer_metric(t, MR_M_CLIP_REGION, w->mean[M_REGION]);
    mr_trainer_metric(t, MR_M_CLIP_LOW, w->mean[M_LOW]);
    mr_trainer_metric(t, MR_M_CLIP_LOW_MIN, w->mean[M_LOW_MIN]);
    mr_trainer_metric(t, MR_M_CLIP_HIGH, w->mean[M_HIGH]);
    mr_trainer_metric(t, MR_M_CLIP_HIGH_MAX, w->mean[M_HIGH_MAX]);
    mr_trainer_metric(t, MR_M_STEP_TIME, mr_now_s() - t->t_step);
    mr_trainer_metric(t, MR_M_EPOCH, mr_trainer_epoch(t, t->step));
    mr_trainer_metric(t, MR_M_IS_RATIO, compared ? w->is_sum / (double)w->is_n : (double)NAN);
    mr_trainer_metric(t, MR_M_IS_DIFF_MAX, compared ? w->is_max : (double)NAN);
    mr_trainer_metric(t, MR_M_FAULTS, w->n_faults);
    mr_trainer_metric(t, MR_M_VERSION, t->version);
    mr_trainer_monitor(t, (const char *const *)w->texts, w->n_rows, w->means);
    mr_trainer_scale_metrics(t, w->loss_scale);
    source_metrics(w);
    mr_trainer_metric(t, MR_M_TIME_ROLLOUT, w->rollout_s);
    mr_trainer_metric(t, MR_M_TIME_SCORE, w->score_s);
    mr_trainer_metric(t, MR_M_TIME_TRAIN, w->train_s);
    mr_trainer_metric(t, MR_M_TOKENS_PER_S,
                      w->rollout_s > 0 ? (double)w->roll.n_new_tokens / w->rollout_s : (double)NAN);
}

static mr_status record_samples(work *w, mr_err *err) {
    mr_trainer *t = w->t;
    const mr_observer *o = &t->parts.observer;
    keep_last(w);
    for (int p = 0; p < t->prompts && o->sample; p++) {
        const mr_row *row = &t->batch[p].row;
        const char *question = NULL;
        for (int i = 0; i < row->n_messages; i++)
            if (!strcmp(row->messages[i].role, "user")) question = row->messages[i].content;
        mr_status st = MR_OK;
        for (int g = 0; g < t->group && st == MR_OK; g++) {
            int b = p * t->group + g;
            mr_sample s = { .step = t->step,
                            .prompt = p,
                            .sample = g,
                            .row = t->batch[p].index,
                            .source = row->source ? row->source : "",
                            .prompt_text = w->prompt_texts[p],
                            .question = question,
                            .text = w->texts[b],
                            .row_json = row->json,
                            .scores = w->scores + (size_t)b * (size_t)w->n_rewards,
                            .reward = (double)w->reward[b],
                            .advantage = w->adv[b],
                            .n_tokens = w->roll.items[b].n,
                            .truncated = w->roll.items[b].truncated };
            st = o->sample(o->self, &s, w->n_rewards, t->parts.scorer.names, err);
        }
        MR_TRY(st);
    }
    return MR_OK;
}

static mr_status run(work *w, mr_err *err) {
    mr_trainer *t = w->t;
    size_t rows = (size_t)w->n_rows;
    w->texts = take(w, rows, sizeof *w->texts);
    w->scores = take(w, rows * (size_t)w->n_rewards, sizeof *w->scores);
    w->rewards = take(w, rows * (size_t)w->n_rewards, sizeof(float));
    w->reward = take(w, rows, sizeof(float));
    w->std = take(w, rows, sizeof(float));
    w->adv = take(w, rows, sizeof(float));
    w->offset = take(w, rows + 1, sizeof *w->offset);
    w->skip = take(w, (size_t)t->prompts, sizeof *w->skip);
    MR_TRY(sample(w, err));
    MR_TRY(score(w, err));
    lay_tokens(w);
    find_skips(w);
    MR_TRY(train(w, err));
    for (int b = 0; b < w->n_rows; b++) t->num_tokens += t->batch[b / t->group].ids.n + w->roll.items[b].n;
    t->step++;
    all_metrics(w);
    MR_TRY(record_samples(w, err));
    return mr_trainer_finish(t, err);
}

mr_status mr_step_grpo(mr_trainer *t, mr_err *err) {
    work w = { .t = t, .n_rows = t->prompts * t->group, .n_rewards = t->parts.scorer.n_rewards };
    mr_status st = run(&w, err);
    if (w.n_submitted) { /* stopped while it sampled: what was submitted is not of the next step */
        mr_err dropped;
        t->parts.scorer.collect(t->parts.scorer.self, w.scores, 0, NULL, 0, &w.n_faults, &dropped);
    }
    mr_rollout_clear(&w.roll);
    return st;
}
