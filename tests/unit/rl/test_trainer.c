/* The loop with a row source and a scorer in C: rewards rise, a resumed run equals an uninterrupted one, faults cost
 * their sample, metrics are complete, the prompts come in torch's order, signals and bad gradients end a run with its
 * last whole step on disk. */
#include "rl/trainer.h"

#include "base/log.h"
#include "base/rng.h"
#include "rl/checkpoint.h"
#include "rl/metrics.h"
#include "chatml.h"
#include "rig.h"

enum { MAX_SEEN = 4096, MAX_LOG = 128 };

/* --- a world in C --- */

typedef struct world {
    rig r;
    mr_tokenizer *tok;
    mr_settings set;
    mr_trainer *t;
    mr_trainer_parts parts;
    /* what was asked for and told */
    int n_rows;
    int64_t rows_seen[MAX_SEEN];
    int n_seen;
    double values[2][64];
    mr_score_kind kinds[2][64];
    int fault_id, nan_id, n_jobs; /* -1: none */
    int abstain_id; /* the first reward abstains; -1: none */
    mr_on_fault on_fault[2];
    bool all_fault, huge;
    char names[MAX_LOG][MAX_LOG][64]; /* [step][metric] */
    int n_names[MAX_LOG];
    double log[MAX_LOG][MAX_LOG]; /* [step][metric] */
    int n_steps, n_samples, n_events;
    char events[64][160];
    int64_t stop_at;     /* step during whose rollout the trainer is stopped */
    int stop_done;       /* once so many completions are done */
    int64_t poison_from; /* steps from here on get a NaN gradient */
    mr_status observer_status;
    char last_text[256];
    float last_adv[64];
} world;

static mr_status get_row(void *self, int64_t index, mr_row *out, mr_err *err) {
    world *w = self;
    if (index < 0 || index >= w->n_rows) return mr_fail(err, MR_EDATA, "row %lld", (long long)index);
    char text[64];
    int sft = w->set.method == MR_METHOD_SFT;
    out->n_messages = 1 + sft;
    out->messages = mr_arena_alloc(&out->arena, 2 * sizeof *out->messages);
    int len = snprintf(text, sizeof text, "count to %lld", (long long)index);
    out->messages[0] = (mr_message){ "user", mr_arena_strdup(&out->arena, text, (size_t)len) };
    out->messages[1] = (mr_message){ "assistant", index % 2 ? "one two" : "one two three" };
    len = snprintf(text, sizeof text, "{\"answer\":%lld}", (long long)index);
    out->json = mr_arena_strdup(&out->arena, text, (size_t)len);
    out->source = mr_arena_strdup(&out->arena, index % 2 ? "odd" : "even", index % 2 ? 3 : 4);
    return MR_OK;
}

static mr_status submit(void *self, const mr_score_job *job, mr_err *err) {
    world *w = self;
    (void)err;
    REQUIRE(job->id >= 0 && job->id < 64);
    int hits = 0;
    for (size_t i = 0; i < job->len; i++) hits += job->text[i] >= 'a' && job->text[i] <= 'z';
    w->values[0][job->id] = (double)hits / job->n_tokens; /* the share of small letters */
    w->values[1][job->id] = job->truncated ? 0 : 1;
    for (int f = 0; f < 2; f++) w->kinds[f][job->id] = MR_SCORED;
    if (job->id == w->fault_id || w->all_fault) w->values[0][job->id] = -0.5, w->kinds[0][job->id] = MR_FAULT;
    if (job->id == w->abstain_id) w->values[0][job->id] = 0, w->kinds[0][job->id] = MR_ABSTAINED;
    if (job->id == w->nan_id)
        w->values[0][job->id] = w->huge ? 1e300 : (double)NAN, w->kinds[1][job->id] = MR_ABSTAINED;
    CHECK(strstr(job->row_json, "answer") != NULL);
    w->n_jobs++;
    return MR_OK;
}

static mr_status collect(void *self, mr_score *scores, int n_jobs, mr_fault *faults, int max_faults, int *n_faults,
                         mr_err *err) {
    world *w = self;
    *n_faults = 0;
    if (w->n_jobs && !n_jobs) { /* a batch that is dropped */
        w->n_jobs = 0;
        return mr_fail(err, MR_EINTERNAL, "dropped");
    }
    CHECK_INT(w->n_jobs, n_jobs);
    for (int i = 0; i < n_jobs; i++)
        for (int f = 0; f < 2; f++) {
            scores[i * 2 + f] = (mr_score){ w->values[f][i], w->kinds[f][i] };
            if (w->kinds[f][i] != MR_FAULT) continue;
            if (*n_faults < max_faults) {
                faults[*n_faults].id = i;
                snprintf(faults[*n_faults].text, sizeof faults->text, "share.lua:3: broken (sample %d)", i);
            }
            ++*n_faults;
        }
    w->n_jobs = 0;
    return MR_OK;
}

static mr_status on_step(void *self, int64_t step, int64_t max_steps, const mr_metric *m, int n, mr_err *err) {
    world *w = self;
    CHECK(step >= 1 && step <= max_steps && n < MAX_LOG && step < MAX_LOG);
    w->n_names[step] = n;
    for (int i = 0; i < n; i++) {
        memcpy(w->names[step][i], m[i].name, sizeof m[i].name);
        w->log[step][i] = m[i].value;
    }
    w->n_steps++;
    return w->observer_status == MR_OK ? MR_OK : mr_fail(err, w->observer_status, "metrics.jsonl: no space");
}
static mr_status on_sample(void *self, const mr_sample *s, int n_rewards, const char *const *names, mr_err *err) {
    world *w = self;
    (void)err;
    CHECK_INT(n_rewards, 2);
    CHECK_STR(names[0], "share");
    if (s->sample == 0 && w->n_seen < MAX_SEEN) w->rows_seen[w->n_seen++] = s->row;
    CHECK(strstr(s->prompt_text, "count to") != NULL && s->n_tokens > 0);
    snprintf(w->last_text, sizeof w->last_text, "%s", s->text);
    w->last_adv[s->prompt * w->set.train.loss.num_generations + s->sample] = s->advantage;
    w->n_samples++;
    return MR_OK;
}
static mr_status on_event(void *self, int64_t step, const char *kind, const char *text, const cJSON *detail,
                          mr_err *err) {
    world *w = self;
    (void)step, (void)detail, (void)err;
    if (w->n_events < 64) snprintf(w->events[w->n_events++], sizeof w->events[0], "%s: %.140s", kind, text);
    return MR_OK;
}
static void on_progress(void *self, int64_t step, int64_t max_steps, const char *phase, int done, int total) {
    world *w = self;
    (void)max_steps, (void)total;
    if (step == w->stop_at && done >= w->stop_done && !strcmp(phase, "rollout")) mr_trainer_stop(w->t);
    if (w->poison_from && step >= w->poison_from && !strcmp(phase, "train")) {
        int64_t n;
        float *grads = mr_model_grads(w->r.m, &n);
        grads[n / 2] = NAN;
    }
}
static mr_status on_flush(void *self, int64_t *metrics, int64_t *samples, int64_t *events, mr_err *err) {
    world *w = self;
    (void)err;
    *metrics = 100 + w->n_steps;
    *samples = 200 + w->n_samples;
    *events = 300;
    return MR_OK;
}

static const char *const reward_names[] = { "share", "ended" };
static const float reward_weights[] = { 1, 0.25f };

static void settings(mr_settings *s, mr_method method) {
    rig_settings(s);
    s->method = method;
    s->train.lr_scheduler_type = MR_SCHED_COSINE;
    s->train.max_steps = 6;
    s->train.save_steps = 3;
}

static void world_init(world *w, mr_method method) {
    memset(w, 0, sizeof *w);
    w->fault_id = w->nan_id = w->abstain_id = -1;
    w->n_rows = 16;
    settings(&w->set, method);
}

/* full: all weights train, as from scratch; otherwise LoRA on the fixture's model. */
static void world_open_as(world *w, const char *run_dir, bool full, int threads) {
    mr_err err;
    mr_model_opts mo = rig_lora(7);
    if (full) mo.full = true, mo.lora = (mr_lora_opts){ 0 };
    rig_open(&w->r, "tiny_qwen2", &mo, threads);
    REQUIRE_OK(mr_tokenizer_open(&w->tok, GOLDEN("tokenizer_tiny96"), &err), err);
    w->parts = (mr_trainer_parts){ .settings = &w->set,
                                   .model = w->r.m,
                                   .tokenizer = w->tok,
                                   .chat = &chatml,
                                   .rows = { w, w->n_rows, get_row },
                                   .scorer = { .self = w,
                                               .n_rewards = 2,
                                               .names = reward_names,
                                               .weights = reward_weights,
                                               .on_fault = w->on_fault,
                                               .submit = submit,
                                               .collect = collect },
                                   .observer = { w, on_step, on_sample, on_event, on_progress, on_flush },
                                   .run_dir = run_dir,
                                   .base_model_name = "tiny_qwen2" };
    REQUIRE_OK(mr_trainer_open(&w->t, &w->parts, &err), err);
}
static void world_open(world *w, const char *run_dir) {
    world_open_as(w, run_dir, false, 1);
}

static void world_close(world *w) {
    mr_trainer_close(w->t);
    mr_tokenizer_close(w->tok);
    rig_close(&w->r);
}

static double metric(const world *w, int step, const char *name) {
    for (int i = 0; i < w->n_names[step]; i++)
        if (!strcmp(w->names[step][i], name)) return w->log[step][i];
    fail_msg("no metric %s in step %d", name, step);
    return 0;
}

static bool has_event(const world *w, const char *part) {
    for (int i = 0; i < w->n_events; i++)
        if (strstr(w->events[i], part)) return true;
    return false;
}

static void hash_of(char hex[65], const char *dir, int step) {
    mr_err err;
    char *path = mr_asprintf("%s/checkpoint-%d", dir, step);
    REQUIRE_OK(mr_checkpoint_hash(hex, path, &err), err);
    mr_free(path);
}

/* --- tests --- */

static void reward_rises(void) {
    static world w;
    mr_err err;
    world_init(&w, MR_METHOD_GRPO);
    w.set.train.max_steps = 40;
    w.set.train.prompts_per_step = 4;
    w.set.train.loss.num_generations = 8;
    w.set.train.learning_rate = 2e-2f;
    world_open(&w, NULL);
    REQUIRE_OK(mr_trainer_run(w.t, &err), err);
    double first = 0, last = 0;
    for (int k = 1; k <= 5; k++)
        first += metric(&w, k, "rewards/share/mean") / 5, last += metric(&w, 35 + k, "rewards/share/mean") / 5;
    if (!(last > first + 0.25)) {
        test_failures_++;
        fprintf(stderr, "share of small letters: %.3f in the first steps, %.3f in the last\n", first, last);
    }
    for (int k = 1; k <= 40; k++) {
        double ratio = metric(&w, k, MR_M_IS_RATIO);
        CHECK(isnan(ratio) || (ratio == 1 && metric(&w, k, MR_M_IS_DIFF_MAX) == 0));
    }
    CHECK(metric(&w, 1, MR_M_IS_RATIO) == 1);
    world_close(&w);
}

/* TRL's run with seed 42 over 16 rows began with row 6 (trainer_run.json, randperm 6 3 0 7 ...); each epoch continues
 * the generator. */
static void prompts_in_torch_order(void) {
    static world w;
    mr_err err;
    world_init(&w, MR_METHOD_GRPO);
    w.set.train.prompts_per_step = 1;
    w.set.train.loss.num_generations = 2;
    w.set.train.max_steps = 18;
    w.set.train.learning_rate = 5e-6f;
    world_open(&w, NULL);
    REQUIRE_OK(mr_trainer_run(w.t, &err), err);
    static const int64_t want[] = { 6, 3, 0, 7 };
    for (int i = 0; i < 4; i++) CHECK_INT(w.rows_seen[i], want[i]);
    CHECK_INT(w.n_seen, 18);
    mr_mt19937 rng;
    int64_t perm[16];
    mr_mt19937_init(&rng, 42);
    mr_mt19937_randperm(&rng, perm, 16);
    for (int i = 0; i < 16; i++) CHECK_INT(w.rows_seen[i], perm[i]);
    mr_mt19937_randperm(&rng, perm, 16);
    CHECK(w.rows_seen[16] == perm[0] && w.rows_seen[17] == perm[1]);
    CHECK_NEAR(metric(&w, 4, MR_M_EPOCH), 0.25, 1e-12); /* as its trainer_state says after 4 steps */
    world_close(&w);
    /* 5 prompts a step: 3 chunks, row 16 of the permutation is dropped */
    world_init(&w, MR_METHOD_GRPO);
    w.set.train.prompts_per_step = 5;
    w.set.train.loss.num_generations = 2;
    w.set.train.max_steps = 4;
    world_open(&w, NULL);
    REQUIRE_OK(mr_trainer_run(w.t, &err), err);
    CHECK_INT(w.n_seen, 20);
    CHECK_INT(w.rows_seen[15], perm[0]);
    world_close(&w);
}

/* A backend whose sampler records other log-probabilities than the training forward, as exact = false may. */
static void (*right_sample)(mr_backend *b, int32_t *ids, float *logp, const float *z, const float *u, const mr_sampling *opt,
                            const int32_t *const *history, const int32_t *n_history, int N, int V);
static void other_sample(mr_backend *b, int32_t *ids, float *logp, const float *z, const float *u, const mr_sampling *opt,
                         const int32_t *const *history, const int32_t *n_history, int N, int V) {
    right_sample(b, ids, logp, z, u, opt, history, n_history, N, V);
    for (int i = 0; i < N; i++) logp[i] += 0.25f;
}

/* The metrics tell, and the ratio of each update is to what was sampled: exp(-1/4) is below 1 - epsilon, so the tokens of negative
 * advantage are clipped, in the second update as in the first. */
static void ratio_is_to_what_was_sampled(void) {
    double low[2] = { 0 };
    if (rig_device() != MR_CPU) skip(); /* other_sample writes where the host can */
    for (int updates = 1; updates <= 2; updates++) {
        static world w;
        mr_err err;
        world_init(&w, MR_METHOD_GRPO);
        w.set.train.max_steps = 1;
        w.set.train.prompts_per_step = 4;
        w.set.train.loss.num_generations = 8;
        w.set.train.learning_rate = 1e-9f;
        w.set.train.num_iterations = updates;
        world_open(&w, NULL);
        right_sample = w.r.b->sample;
        w.r.b->sample = other_sample;
        REQUIRE_OK(mr_trainer_run(w.t, &err), err);
        CHECK_NEAR(metric(&w, 1, MR_M_IS_RATIO), exp(-0.25), 1e-6);
        CHECK_NEAR(metric(&w, 1, MR_M_IS_DIFF_MAX), 0.25, 1e-6);
        low[updates - 1] = metric(&w, 1, MR_M_CLIP_LOW);
        world_close(&w);
    }
    CHECK(low[0] > 0.1);
    CHECK_NEAR(low[1], low[0], 1e-9);
}

static void metrics_are_complete(void) {
    static const char *const want[] = { MR_M_LOSS,
                                        MR_M_GRAD_NORM,
                                        MR_M_LEARNING_RATE,
                                        MR_M_NUM_TOKENS,
                                        MR_M_LEN_MEAN,
                                        MR_M_LEN_MIN,
                                        MR_M_LEN_MAX,
                                        MR_M_CLIPPED,
                                        MR_M_TERM_MEAN,
                                        MR_M_TERM_MIN,
                                        MR_M_TERM_MAX,
                                        "rewards/share/mean",
                                        "rewards/share/std",
                                        "rewards/ended/mean",
                                        "rewards/ended/std",
                                        MR_M_REWARD,
                                        MR_M_REWARD_STD,
                                        MR_M_ZERO_STD,
                                        MR_M_KL,
                                        MR_M_ENTROPY,
                                        MR_M_CLIP_REGION,
                                        MR_M_CLIP_LOW,
                                        MR_M_CLIP_LOW_MIN,
                                        MR_M_CLIP_HIGH,
                                        MR_M_CLIP_HIGH_MAX,
                                        MR_M_STEP_TIME,
                                        MR_M_EPOCH,
                                        MR_M_IS_RATIO,
                                        MR_M_IS_DIFF_MAX,
                                        MR_M_FAULTS,
                                        MR_M_VERSION,
                                        "rewards/share/share",
                                        "rewards/ended/share",
                                        MR_M_DUPLICATES,
                                        "data/even/reward",
                                        "data/odd/reward",
                                        MR_M_TIME_ROLLOUT,
                                        MR_M_TIME_SCORE,
                                        MR_M_TIME_TRAIN,
                                        MR_M_TOKENS_PER_S,
                                        MR_M_TIME_RUN };
    static world w;
    mr_err err;
    world_init(&w, MR_METHOD_GRPO);
    w.set.train.loss.beta = 0.04f;
    w.set.train.max_steps = 2;
    world_open(&w, NULL);
    REQUIRE_OK(mr_trainer_run(w.t, &err), err);
    CHECK_INT(w.n_names[1], sizeof want / sizeof *want);
    for (int i = 0; i < w.n_names[1] && i < (int)(sizeof want / sizeof *want); i++) CHECK_STR(w.names[1][i], want[i]);
    CHECK_INT(w.n_samples, 16);
    CHECK_NEAR(metric(&w, 1, MR_M_LEARNING_RATE), 1e-2, 1e-9);
    CHECK(metric(&w, 1, MR_M_KL) == 0); /* the first adapter is the identity */
    CHECK(metric(&w, 2, MR_M_KL) > 0);
    CHECK_NEAR(metric(&w, 1, MR_M_REWARD),
               metric(&w, 1, "rewards/share/mean") + 0.25 * metric(&w, 1, "rewards/ended/mean"), 1e-6);
    CHECK_NEAR(metric(&w, 1, MR_M_REWARD), (metric(&w, 1, "data/even/reward") + metric(&w, 1, "data/odd/reward")) / 2,
               1e-6);
    CHECK(metric(&w, 1, MR_M_ENTROPY) > 0 && metric(&w, 1, MR_M_GRAD_NORM) > 0 && metric(&w, 1, MR_M_CLIP_REGION) == 0);
    CHECK_NEAR(metric(&w, 1, MR_M_CLIPPED) + metric(&w, 1, "rewards/ended/mean"), 1, 1e-6);
    mr_str text = { 0 };
    mr_trainer_describe(w.t, &text);
    CHECK_CONTAINS(text.data, "optimizer");
    mr_str_clear(&text);
    world_close(&w);
}

static void compare_logs(const world *a, const world *b, int from, int to) {
    for (int k = from; k <= to; k++)
        for (int i = 0; i < a->n_names[k]; i++) {
            CHECK_STR(b->names[k][i], a->names[k][i]);
            if (MR_M_IS_CLOCK(a->names[k][i]) || !memcmp(&a->log[k][i], &b->log[k][i], sizeof(double))) continue;
            if (isnan(a->log[k][i]) && isnan(b->log[k][i])) continue;
            test_failures_++;
            fprintf(stderr, "step %d: %s is %.17g and %.17g\n", k, a->names[k][i], a->log[k][i], b->log[k][i]);
        }
}

/* Uninterrupted; cut by a stop in the middle of step 5's rollout and resumed; the same on two threads. All ends
 * equal, bit for bit. */
static void resumed_equals_uninterrupted(void) {
    static world a, b;
    mr_err err;
    for (int variant = 0; variant < 3; variant++) {
        char *dir_a = rig_tmp(), *dir_b = rig_tmp(), *found, hash_a[65], hash_b[65];
        mr_method method = variant == 2 ? MR_METHOD_SFT : MR_METHOD_GRPO;
        world_init(&a, method);
        world_init(&b, method);
        a.set.train.max_completion_length = b.set.train.max_completion_length = 16;
        if (variant == 1) a.set.train.optim = b.set.train.optim = MR_ADAMW;
        world_open_as(&a, dir_a, variant == 2, 1);
        REQUIRE_OK(mr_trainer_run(a.t, &err), err);
        world_open_as(&b, dir_b, variant == 2, 2);
        if (method == MR_METHOD_GRPO) {
            b.stop_at = 5;
            CHECK_INT(mr_trainer_run(b.t, &err), MR_ESIGNAL);
        } else {
            for (int k = 0; k < 4; k++) REQUIRE_OK(mr_trainer_step(b.t, &err), err);
            REQUIRE_OK(mr_trainer_checkpoint(b.t, &err), err);
            mr_trainer_stop(b.t);
            CHECK_INT(mr_trainer_step(b.t, &err), MR_ESIGNAL);
        }
        CHECK_INT(mr_trainer_step_index(b.t), 4);
        CHECK_INT(b.n_steps, 4);
        world_close(&b);
        b.stop_at = 0;
        REQUIRE_OK(mr_checkpoint_find(&found, dir_b, &err), err);
        CHECK_STR(mr_path_name(found), "checkpoint-4");
        world_open_as(&b, dir_b, variant == 2, 1);
        int64_t metrics, samples, events;
        REQUIRE_OK(mr_trainer_load(b.t, found, &metrics, &samples, &events, &err), err);
        CHECK_INT(metrics, 104);
        CHECK_INT(events, 300);
        CHECK_INT(mr_trainer_step_index(b.t), 4);
        REQUIRE_OK(mr_trainer_run(b.t, &err), err);
        CHECK_INT(b.n_steps, 6);
        compare_logs(&a, &b, 1, 6);
        hash_of(hash_a, dir_a, 6);
        hash_of(hash_b, dir_b, 6);
        CHECK_STR(hash_b, hash_a);
        hash_of(hash_b, dir_a, 3);
        CHECK(strcmp(hash_a, hash_b) != 0); /* another step has another hash */
        mr_free(found);
        world_close(&a);
        world_close(&b);
        rig_tmp_clear(dir_a);
        rig_tmp_clear(dir_b);
    }
}

static void faults_cost_only_their_sample(void) {
    static world w;
    mr_err err;
    for (int huge = 0; huge < 2; huge++) {
        world_init(&w, MR_METHOD_GRPO);
        w.fault_id = 2;
        w.nan_id = 5; /* one reward not finite (huge: not as f32), the other abstained: nobody scored it */
        w.huge = huge;
        w.set.train.max_steps = 2;
        world_open(&w, NULL);
        REQUIRE_OK(mr_trainer_run(w.t, &err), err);
        CHECK_INT(w.n_steps, 2);
        CHECK(metric(&w, 1, MR_M_FAULTS) == 2);
        CHECK(has_event(&w, "fault: share.lua:3: broken (sample 2)"));
        CHECK(w.last_adv[5] == 0);
        world_close(&w);
    }
    /* every call fails: the values are all the minimum, nothing moves, the run goes on */
    world_init(&w, MR_METHOD_GRPO);
    w.all_fault = true;
    w.set.train.max_steps = 2;
    w.set.train.max_completion_length = 1; /* so that "ended" hardly varies */
    world_open(&w, NULL);
    REQUIRE_OK(mr_trainer_run(w.t, &err), err);
    CHECK(metric(&w, 2, MR_M_FAULTS) == 8);
    world_close(&w);
}

/* Variants of the objective run, keep is_ratio at 1 and end where a second run ends. */
static void objectives(void) {
    for (int variant = 0; variant < 7; variant++) {
        static world w[2];
        mr_err err;
        for (int k = 0; k < 2; k++) {
            world_init(&w[k], MR_METHOD_GRPO);
            mr_settings *s = &w[k].set;
            s->train.max_steps = 3;
            switch (variant) {
            case 0: s->train.loss.beta = 0.04f, s->train.loss.loss_type = MR_LOSS_GRPO; break;
            case 1: s->train.num_iterations = 3, s->train.loss.loss_type = MR_LOSS_DR_GRPO; break;
            case 2: s->train.loss.top_entropy_quantile = 0.5f, s->train.prompts_per_step = 8; break;
            case 3: s->train.loss.sequence_level = true, s->train.loss.loss_type = MR_LOSS_LUSPO; break;
            case 4: s->train.temperature = 0.9f, s->train.logp_temperature = 1; break;
            case 5: s->train.mask_truncated_completions = true; break;
            default:
                s->train.temperature = 0.7f, s->train.top_k = 30, s->train.loss.loss_type = MR_LOSS_CISPO,
                s->train.gradient_checkpointing = true;
                break;
            }
            world_open(&w[k], NULL);
            REQUIRE_OK(mr_trainer_run(w[k].t, &err), err);
            CHECK_INT(w[k].n_steps, 3);
            double ratio = metric(&w[k], 1, MR_M_IS_RATIO);
            if (variant == 4)
                CHECK(isnan(ratio)); /* two temperatures: nothing to compare */
            else
                CHECK(isnan(ratio) || ratio == 1);
            if (variant != 5) CHECK(metric(&w[k], 1, MR_M_GRAD_NORM) > 0);
        }
        compare_logs(&w[0], &w[1], 1, 3);
        world_close(&w[0]);
        world_close(&w[1]);
    }
}

static void supervised(void) {
    static const char *const want[] = { MR_M_LOSS,       MR_M_GRAD_NORM,  MR_M_LEARNING_RATE,
                                        MR_M_NUM_TOKENS, MR_M_ENTROPY,    MR_M_STEP_TIME,
                                        MR_M_EPOCH,      MR_M_VERSION,    MR_M_TIME_TRAIN,
                                        MR_M_TOKENS_PER_S, MR_M_TIME_RUN };
    static world w;
    mr_err err;
    world_init(&w, MR_METHOD_SFT);
    w.set.train.max_completion_length = 32;
    w.set.train.prompts_per_step = 4;
    w.set.train.max_steps = 40;
    world_open_as(&w, NULL, true, 2);
    REQUIRE_OK(mr_trainer_run(w.t, &err), err);
    CHECK_INT(w.n_names[1], sizeof want / sizeof *want);
    for (int i = 0; i < w.n_names[1]; i++) CHECK_STR(w.names[1][i], want[i]);
    CHECK(metric(&w, 1, MR_M_LOSS) > 3);
    CHECK(metric(&w, 40, MR_M_LOSS) < 0.3 * metric(&w, 1, MR_M_LOSS));
    CHECK(w.n_jobs == 0 && w.n_samples == 0);
    world_close(&w);
}

/* The loss of the first sft step is the mean of -logp over the answers' tokens, each alone through the decoder. */
static void supervised_loss_by_hand(void) {
    static world w;
    mr_err err;
    world_init(&w, MR_METHOD_SFT);
    w.set.train.max_completion_length = 32;
    w.set.train.shuffle_dataset = false;
    w.set.train.max_steps = 1;
    w.set.train.learning_rate = 0;
    world_open(&w, NULL);
    REQUIRE_OK(mr_trainer_run(w.t, &err), err);
    mr_decoder *d;
    mr_decoder_opts o = { .train_rows = 128, .train_slots = 256 };
    REQUIRE_OK(mr_decoder_open(&d, w.r.m, &o, &err), err);
    double sum = 0;
    int n = 0;
    for (int row = 0; row < 2; row++) {
        mr_row r = { 0 };
        mr_ids ids = { 0 };
        REQUIRE_OK(get_row(&w, row, &r, &err), err);
        REQUIRE_OK(mr_chat_encode(w.tok, &ids, &chatml, r.messages, 1, &generation, &err), err);
        int first = ids.n;
        REQUIRE_OK(mr_tokenizer_encode(w.tok, &ids, r.messages[1].content, strlen(r.messages[1].content), false, &err),
                   err);
        mr_ids_push(&ids, mr_tokenizer_eos(w.tok));
        int32_t pos[128], rows[128];
        float logp[128];
        for (int i = 0; i < ids.n; i++) pos[i] = i;
        for (int i = first; i < ids.n; i++) rows[i - first] = i - 1;
        mr_span span = { .n_rows = ids.n };
        mr_decoder_forward(
            d, &(mr_pack){ .n_rows = ids.n, .ids = ids.data, .pos = pos, .slots = pos, .spans = &span, .n_spans = 1 });
        mr_decoder_logprobs(d, logp, NULL, rows, ids.data + first, ids.n - first, 1);
        for (int i = 0; i < ids.n - first; i++) sum -= (double)logp[i], n++;
        mr_free(ids.data);
        mr_row_clear(&r);
    }
    CHECK_INT(n, (int)strlen("one two three") + (int)strlen("one two") + 2);
    CHECK_NEAR(metric(&w, 1, MR_M_LOSS), sum / n, 1e-5);
    mr_decoder_close(d);
    world_close(&w);
}

/* mask: as if the reward had abstained, to the bit, and still counted as a fault. stop: before the step is trained or recorded. */
static void a_fault_does_what_its_reward_says(void) {
    static world w;
    mr_err err;
    float adv[2][8];
    for (int abstains = 0; abstains < 2; abstains++) {
        world_init(&w, MR_METHOD_GRPO);
        w.set.train.max_steps = 1;
        if (abstains) w.abstain_id = 2;
        else w.fault_id = 2;
        w.on_fault[0] = MR_FAULT_IS_MASKED;
        world_open(&w, NULL);
        REQUIRE_OK(mr_trainer_run(w.t, &err), err);
        CHECK(metric(&w, 1, MR_M_FAULTS) == !abstains);
        memcpy(adv[abstains], w.last_adv, sizeof adv[0]);
        world_close(&w);
    }
    CHECK(memcmp(adv[0], adv[1], sizeof adv[0]) == 0);
    CHECK(adv[0][2] != 0); /* the other reward still judges it */
    world_init(&w, MR_METHOD_GRPO);
    w.fault_id = 2;
    w.on_fault[0] = MR_FAULT_STOPS;
    world_open(&w, NULL);
    CHECK_INT(mr_trainer_run(w.t, &err), MR_EINVAL);
    CHECK_STR(err.msg, "step 1: share.lua:3: broken (sample 2); the reward share has on_error = \"stop\": mend it, the step is made again");
    CHECK_INT(w.n_steps, 0);
    CHECK_INT(mr_trainer_step_index(w.t), 0);
    world_close(&w);
    w.fault_id = -1; /* the second reward never fails */
    w.on_fault[0] = MR_FAULT_IS_MIN, w.on_fault[1] = MR_FAULT_STOPS;
    world_open(&w, NULL);
    REQUIRE_OK(mr_trainer_run(w.t, &err), err);
    world_close(&w);
}

/* Every completion is cut and cut ones are masked: loss 0, and not a bit of the weights moves, whatever the optimizer remembers. */
static void nothing_to_train_is_no_update(void) {
    static world w;
    mr_err err;
    for (int beta = 0; beta < 2; beta++) {
        world_init(&w, MR_METHOD_GRPO);
        w.set.train.max_steps = 4;
        w.set.train.max_completion_length = 1;
        w.set.train.loss.beta = beta ? 0.1f : 0;
        w.set.train.weight_decay = 0.1f;
        world_open(&w, NULL);
        REQUIRE_OK(mr_trainer_advance(w.t, 2, &err), err);
        CHECK(metric(&w, 2, MR_M_GRAD_NORM) > 0);
        int64_t n;
        const float *values = mr_model_values(w.r.m, &n);
        float *before = device_copy(w.r.b, values, n);
        cJSON *yes = cJSON_CreateTrue();
        REQUIRE_OK(mr_trainer_set(w.t, "mask_truncated_completions", yes, "test", &err), err);
        cJSON_Delete(yes);
        REQUIRE_OK(mr_trainer_advance(w.t, 2, &err), err);
        CHECK(metric(&w, 4, MR_M_CLIPPED) == 1);
        CHECK(metric(&w, 4, MR_M_LOSS) == 0 && metric(&w, 4, MR_M_GRAD_NORM) == 0);
        CHECK(metric(&w, 4, MR_M_SKIPPED) == 2);
        CHECK(metric(&w, 4, MR_M_LEARNING_RATE) == metric(&w, 3, MR_M_LEARNING_RATE));
        float *after = device_copy(w.r.b, values, n);
        CHECK(memcmp(before, after, (size_t)n * sizeof *before) == 0);
        mr_free(before);
        mr_free(after);
        world_close(&w);
    }
}

/* What nan-STEP/ of a run says: the gradient that was poisoned, in the middle of the block; the batch; and that all else was fine. */
static void check_autopsy(world *w, const char *dir, int step) {
    mr_err err;
    cJSON *layers, *batch;
    char *path = mr_asprintf("%s/nan-%d/layers.json", dir, step);
    REQUIRE_OK(mr_json_load(&layers, path, 1 << 24, &err), err);
    mr_free(path);
    path = mr_asprintf("%s/nan-%d/batch.json", dir, step);
    REQUIRE_OK(mr_json_load(&batch, path, 1 << 24, &err), err);
    mr_free(path);
    int n, bad = 0, n_parts = 0;
    const mr_param *p = mr_model_params(w->r.m, &n);
    int64_t n_grads;
    const float *at = mr_model_grads(w->r.m, &n_grads);
    at += n_grads / 2;
    const char *poisoned = "";
    for (int i = 0; i < n; i++)
        if (at >= p[i].grad && at < p[i].grad + p[i].rows * p[i].cols) poisoned = p[i].name;
    char want[256];
    snprintf(want, sizeof want, "the gradient of %s", poisoned);
    CHECK_STR(cJSON_GetObjectItem(layers, "first_bad")->valuestring, want);
    const cJSON *x;
    cJSON_ArrayForEach(x, cJSON_GetObjectItem(layers, "activations")) {
        CHECK(cJSON_IsTrue(cJSON_GetObjectItem(x, "finite")) && cJSON_GetObjectItem(x, "max")->valuedouble > 0);
        n_parts++;
    }
    CHECK_INT(n_parts, 2 * mr_model_config(w->r.m)->num_hidden_layers + 2);
    cJSON_ArrayForEach(x, cJSON_GetObjectItem(layers, "gradients")) bad += !cJSON_IsTrue(cJSON_GetObjectItem(x, "finite"));
    CHECK_INT(bad, 1);
    CHECK_INT(cJSON_GetArraySize(cJSON_GetObjectItem(layers, "weights")), n);
    CHECK_INT(cJSON_GetArraySize(batch), w->set.train.prompts_per_step);
    const char *const key = w->set.method == MR_METHOD_SFT ? "target_ids" : "completions";
    cJSON_ArrayForEach(x, batch) CHECK(cJSON_GetArraySize(cJSON_GetObjectItem(x, key)) >= 4);
    cJSON_Delete(layers);
    cJSON_Delete(batch);
}

static void bad_gradients_are_skipped(void) {
    static world w;
    mr_err err;
    mr_log_set_level(MR_LOG_ERROR);
    for (int sft = 0; sft < 2; sft++) {
        char *dir = rig_tmp(), *found;
        world_init(&w, sft ? MR_METHOD_SFT : MR_METHOD_GRPO);
        w.set.train.max_steps = 20;
        w.set.train.save_steps = 0;
        w.poison_from = 3;
        world_open(&w, dir);
        int n;
        const mr_param *p = mr_model_params(w.r.m, &n);
        CHECK_INT(mr_trainer_run(w.t, &err), MR_EINTERNAL);
        CHECK_CONTAINS(err.msg, "8 updates in a row had gradients that are not finite; first bad: the gradient of model.layers.");
        CHECK_CONTAINS(err.msg, "/nan-10)");
        CHECK_INT(mr_trainer_step_index(w.t), 10); /* 2 good ones and 8 */
        CHECK(has_event(&w, "warning: step 3: a gradient is not finite"));
        CHECK(has_event(&w, "stop: "));
        CHECK(metric(&w, 4, MR_M_LEARNING_RATE) == metric(&w, 3, MR_M_LEARNING_RATE)); /* the schedule waits */
        CHECK(metric(&w, 10, MR_M_SKIPPED) == 8);
        for (int i = 0; i < n; i++) CHECK(isfinite(p[i].value[0]));
        check_autopsy(&w, dir, 10);
        REQUIRE_OK(mr_checkpoint_find(&found, dir, &err), err);
        CHECK_STR(mr_path_name(found), "checkpoint-10");
        mr_free(found);
        world_close(&w);
        rig_tmp_clear(dir);
    }
    mr_log_set_level(MR_LOG_INFO);
}

static void an_observer_that_fails_stops_the_run(void) {
    static world w;
    mr_err err;
    char *dir = rig_tmp(), *found;
    world_init(&w, MR_METHOD_GRPO);
    world_open(&w, dir);
    w.observer_status = MR_EIO;
    CHECK_INT(mr_trainer_run(w.t, &err), MR_EIO);
    CHECK_CONTAINS(err.msg, "no space");
    /* a step that is not in the record is not saved: resumed, the run would go on behind it and lack its line */
    CHECK_INT(mr_checkpoint_find(&found, dir, &err), MR_ENOTFOUND);
    world_close(&w);
    rig_tmp_clear(dir);
}

static void damage(const char *dir, const char *name, long at) {
    char *path = mr_path_join(dir, name);
    FILE *f = fopen(path, "r+b");
    REQUIRE(f != NULL);
    fseek(f, at, SEEK_SET);
    int c = fgetc(f);
    fseek(f, at, SEEK_SET);
    fputc(c ^ 1, f);
    fclose(f);
    mr_free(path);
}

/* A damaged folder is named and passed over; old ones are pruned; leftovers of a killed save do not matter. */
static void checkpoints(void) {
    static world w;
    mr_err err;
    char *dir = rig_tmp(), *found, *path;
    mr_log_set_level(MR_LOG_ERROR);
    world_init(&w, MR_METHOD_GRPO);
    w.set.train.save_steps = 1;
    w.set.train.save_total_limit = 3;
    w.set.train.max_steps = 5;
    char *left = mr_path_join(dir, ".tmp-checkpoint-4/junk");
    REQUIRE_OK(mr_mkdirs(left, &err), err);
    world_open(&w, dir);
    REQUIRE_OK(mr_trainer_run(w.t, &err), err);
    for (int k = 1; k <= 5; k++) {
        path = mr_asprintf("%s/checkpoint-%d/MANIFEST", dir, k);
        CHECK_INT(mr_path_exists(path), k >= 3);
        mr_free(path);
    }
    char *tmp = mr_path_dir(left);
    CHECK(!mr_path_exists(tmp));
    mr_free(tmp);
    mr_free(left);
    path = mr_asprintf("%s/checkpoint-5", dir);
    REQUIRE_OK(mr_checkpoint_verify(path, &err), err);
    cJSON *state;
    REQUIRE_OK(mr_checkpoint_read_state(&state, path, &err), err);
    CHECK_INT(cJSON_GetObjectItem(state, "global_step")->valueint, 5);
    CHECK_INT(cJSON_GetArraySize(cJSON_GetObjectItem(state, "log_history")), 5);
    CHECK_INT(cJSON_GetObjectItem(state, "train_batch_size")->valueint, 8);
    /* all of transformers' keys are there */
    cJSON *run;
    REQUIRE_OK(mr_json_load(&run, GOLDEN("trainer_run.json"), 1 << 20, &err), err);
    const cJSON *key;
    cJSON_ArrayForEach(key, cJSON_GetObjectItem(run, "trainer_state"))
        CHECK(cJSON_GetObjectItemCaseSensitive(state, key->string) != NULL);
    cJSON_Delete(run);
    cJSON_Delete(state);
    damage(path, "optimizer.safetensors", 300);
    CHECK_INT(mr_checkpoint_verify(path, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "optimizer.safetensors");
    CHECK_INT(mr_trainer_load(w.t, path, NULL, NULL, NULL, &err), MR_EDATA);
    REQUIRE_OK(mr_checkpoint_find(&found, dir, &err), err);
    CHECK_STR(mr_path_name(found), "checkpoint-4");
    char *file = mr_path_join(found, "trainer_state.json");
    unlink(file);
    mr_free(file);
    CHECK_INT(mr_checkpoint_verify(found, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "missing");
    mr_free(found);
    char *cut = mr_asprintf("%s/checkpoint-3", dir);
    file = mr_path_join(cut, "MANIFEST");
    REQUIRE(truncate(file, 200) == 0);
    CHECK_INT(mr_checkpoint_verify(cut, &err), MR_EDATA);
    unlink(file);
    CHECK_INT(mr_checkpoint_verify(cut, &err), MR_EDATA);
    mr_free(file);
    mr_free(cut);
    CHECK_INT(mr_checkpoint_find(&found, dir, &err), MR_ENOTFOUND);
    CHECK(found == NULL);
    mr_free(path);
    world_close(&w);
    rig_tmp_clear(dir);
    mr_log_set_level(MR_LOG_INFO);
}

/* A checkpoint does not go with other data; another setting is only said. */
static void load_refuses_other_data(void) {
    static world a, b;
    mr_err err;
    char *dir = rig_tmp(), *path = mr_path_join(dir, "checkpoint-3");
    mr_log_set_level(MR_LOG_ERROR);
    world_init(&a, MR_METHOD_GRPO);
    a.set.train.max_steps = 3;
    world_open(&a, dir);
    REQUIRE_OK(mr_trainer_run(a.t, &err), err);
    world_init(&b, MR_METHOD_GRPO);
    b.n_rows = 14;
    world_open(&b, NULL);
    CHECK_INT(mr_trainer_load(b.t, path, NULL, NULL, NULL, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "16 rows");
    world_close(&b);
    world_init(&b, MR_METHOD_GRPO);
    b.set.train.learning_rate = 1;
    world_open(&b, NULL);
    REQUIRE_OK(mr_trainer_load(b.t, path, NULL, NULL, NULL, &err), err);
    CHECK_INT(mr_trainer_step_index(b.t), 3);
    world_close(&b);
    world_close(&a);
    mr_free(path);
    rig_tmp_clear(dir);
    mr_log_set_level(MR_LOG_INFO);
}

static void open_refuses(void) {
    static world w;
    mr_err err;
    mr_trainer *t;
    world_init(&w, MR_METHOD_GRPO);
    world_open(&w, NULL);
    w.set.train.loss.num_generations = 1;
    CHECK_INT(mr_trainer_open(&t, &w.parts, &err), MR_EINVAL);
    CHECK(t == NULL);
    CHECK_CONTAINS(err.msg, "num_generations is 1");
    settings(&w.set, MR_METHOD_GRPO);
    w.set.train.prompts_per_step = 17;
    CHECK_INT(mr_trainer_open(&t, &w.parts, &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, "16 rows");
    settings(&w.set, MR_METHOD_GRPO);
    w.set.train.max_completion_length = 128;
    CHECK_INT(mr_trainer_open(&t, &w.parts, &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, "max_completion_length is 128");
    settings(&w.set, MR_METHOD_GRPO);
    w.set.train.loss.entropy_coef = 0.1f;
    CHECK_INT(mr_trainer_open(&t, &w.parts, &err), MR_EINVAL);
    settings(&w.set, MR_METHOD_GRPO);
    w.set.train.loss.num_generations = INT32_MAX; /* no size may wrap, and nothing of this is allocated */
    CHECK_INT(mr_trainer_open(&t, &w.parts, &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, "tokens a step, need at most");
    settings(&w.set, MR_METHOD_GRPO);
    w.n_rows = 8; /* the source breaks at row 8: data errors stop the open with the source's own line */
    CHECK_INT(mr_trainer_open(&t, &w.parts, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "row 8");
    w.n_rows = 16;
    settings(&w.set, MR_METHOD_GRPO);
    for (long n = 1; n < 40; n++) { /* every large allocation may fail */
        mr_try_alloc_fail_at(n);
        mr_status st = mr_trainer_open(&t, &w.parts, &err);
        mr_try_alloc_fail_at(0);
        if (st == MR_OK) {
            CHECK(n > 5);
            mr_trainer_close(t);
            break;
        }
        CHECK_INT(st, MR_ENOMEM);
        CHECK(t == NULL);
    }
    world_close(&w);
}

/* A prompt above max_prompt_length keeps its end: the generation prompt is still there, so completions do not change
 * with what was cut in front. */
static void long_prompts_keep_their_end(void) {
    static world w;
    mr_err err;
    mr_log_set_level(MR_LOG_ERROR);
    world_init(&w, MR_METHOD_GRPO);
    w.set.train.max_prompt_length = 12;
    w.set.train.max_steps = 1;
    world_open(&w, NULL);
    REQUIRE_OK(mr_trainer_run(w.t, &err), err);
    CHECK_NEAR(metric(&w, 1, MR_M_NUM_TOKENS), 8 * 12 + 8 * metric(&w, 1, MR_M_LEN_MEAN), 1e-6);
    CHECK(has_event(&w, "warning: 2 prompts were longer than 12 tokens")); /* all of the step's */
    world_close(&w);
    mr_log_set_level(MR_LOG_INFO);
}

/* Stopped while some completions are scored already, as Ctrl-C in a session does; then on: the same steps. */
static void stopped_and_on(void) {
    static world a, b;
    mr_err err;
    world_init(&a, MR_METHOD_GRPO);
    world_open(&a, NULL);
    REQUIRE_OK(mr_trainer_advance(a.t, 4, &err), err);
    world_init(&b, MR_METHOD_GRPO);
    world_open(&b, NULL);
    b.stop_at = 2;
    b.stop_done = 1;
    CHECK(mr_trainer_advance(b.t, 4, &err) == MR_ESIGNAL);
    CHECK_INT(mr_trainer_step_index(b.t), 1);
    CHECK(mr_trainer_advance(b.t, 1, &err) == MR_ESIGNAL); /* it is not forgotten by itself */
    b.stop_at = 0;
    mr_trainer_unstop(b.t);
    REQUIRE_OK(mr_trainer_advance(b.t, 2, &err), err);
    CHECK_INT(mr_trainer_step_index(b.t), 3);
    REQUIRE_OK(mr_trainer_advance(b.t, 1, &err), err);
    for (int step = 1; step <= 4; step++) CHECK(metric(&a, step, MR_M_GRAD_NORM) == metric(&b, step, MR_M_GRAD_NORM));
    REQUIRE_OK(mr_trainer_advance(b.t, 100, &err), err);
    CHECK_INT(mr_trainer_step_index(b.t), 6); /* max_steps */
    world_close(&a);
    world_close(&b);
}

TEST_MAIN({ "reward rises", reward_rises }, { "stopped and on", stopped_and_on }, { "prompts in torch's order", prompts_in_torch_order },
          { "metrics are complete", metrics_are_complete },
          { "ratio is to what was sampled", ratio_is_to_what_was_sampled },
          { "resumed equals uninterrupted", resumed_equals_uninterrupted },
          { "faults cost only their sample", faults_cost_only_their_sample }, { "objectives", objectives },
          { "a fault does what its reward says", a_fault_does_what_its_reward_says },
          { "nothing to train is no update", nothing_to_train_is_no_update },
          { "supervised", supervised }, { "supervised loss by hand", supervised_loss_by_hand },
          { "bad gradients are skipped", bad_gradients_are_skipped },
          { "an observer that fails stops the run", an_observer_that_fails_stops_the_run },
          { "checkpoints", checkpoints }, { "load refuses other data", load_refuses_other_data },
          { "open refuses", open_refuses }, { "long prompts keep their end", long_prompts_keep_their_end })
