/* f16 products: the loss scale follows torch's GradScaler; small gradients survive, large ones cost an update and no more;
 * a run that is resumed in the middle of it has the bits of one that was not; what does not fit at all stops with a reason. */
#include "base/log.h"
#include "chatml.h"
#include "model/layout.h"
#include "rig.h"
#include "rl/checkpoint.h"
#include "rl/trainer_impl.h"

enum { MAX_STEPS = 64 };

/* --- a run in C: the share of small letters is rewarded --- */

typedef struct world {
    rig r;
    mr_tokenizer *tok;
    mr_settings set;
    mr_trainer *t;
    mr_trainer_parts parts;
    double values[64];
    int n_jobs, n_steps;
    double loss_scale[MAX_STEPS], skipped[MAX_STEPS], rate[MAX_STEPS], ratio[MAX_STEPS], reward[MAX_STEPS],
        loss[MAX_STEPS];
    char events[64][320];
    int n_events;
    int64_t poison_from; /* steps from here on get an infinite gradient; 0: none */
} world;

static mr_status get_row(void *self, int64_t index, mr_row *out, mr_err *err) {
    char text[64];
    (void)err;
    const world *w = self;
    bool sft = w->set.method == MR_METHOD_SFT;
    int len = snprintf(text, sizeof text, "count to %lld", (long long)index);
    out->n_messages = 1 + sft;
    out->messages = mr_arena_alloc(&out->arena, 2 * sizeof *out->messages);
    out->messages[0] = (mr_message){ "user", mr_arena_strdup(&out->arena, text, (size_t)len) };
    out->messages[1] = (mr_message){ "assistant", index % 2 ? "one two" : "one two three" };
    out->json = mr_arena_strdup(&out->arena, "{}", 2);
    out->source = mr_arena_strdup(&out->arena, "", 0);
    return MR_OK;
}
static mr_status submit(void *self, const mr_score_job *job, mr_err *err) {
    world *w = self;
    int hits = 0;
    (void)err;
    for (size_t i = 0; i < job->len; i++) hits += job->text[i] >= 'a' && job->text[i] <= 'z';
    w->values[job->id] = (double)hits / job->n_tokens;
    w->n_jobs++;
    return MR_OK;
}
static mr_status collect(void *self, mr_score *scores, int n_jobs, mr_fault *faults, int max_faults, int *n_faults,
                         mr_err *err) {
    world *w = self;
    (void)faults, (void)max_faults, (void)err;
    *n_faults = 0;
    CHECK_INT(w->n_jobs, n_jobs);
    for (int i = 0; i < n_jobs; i++) scores[i] = (mr_score){ w->values[i], MR_SCORED };
    w->n_jobs = 0;
    return MR_OK;
}
static mr_status on_step(void *self, int64_t step, int64_t max_steps, const mr_metric *m, int n, mr_err *err) {
    world *w = self;
    (void)max_steps, (void)err;
    REQUIRE(step < MAX_STEPS);
    const struct {
        const char *name;
        double *to;
    } wanted[] = { { MR_M_LOSS_SCALE, w->loss_scale }, { MR_M_SKIPPED, w->skipped }, { MR_M_LEARNING_RATE, w->rate },
                   { MR_M_IS_RATIO, w->ratio },        { MR_M_REWARD, w->reward },   { MR_M_LOSS, w->loss } };
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        wanted[i].to[step] = -1; /* is not told */
        for (int k = 0; k < n; k++)
            if (!strcmp(m[k].name, wanted[i].name)) wanted[i].to[step] = m[k].value;
    }
    w->n_steps++;
    return MR_OK;
}
static mr_status on_event(void *self, int64_t step, const char *kind, const char *text, const cJSON *detail,
                          mr_err *err) {
    world *w = self;
    (void)step, (void)detail, (void)err;
    if (w->n_events < 64) snprintf(w->events[w->n_events++], sizeof w->events[0], "%s: %.300s", kind, text);
    return MR_OK;
}
static void on_progress(void *self, int64_t step, int64_t max_steps, const char *phase, int done, int total) {
    world *w = self;
    (void)max_steps, (void)done, (void)total;
    if (!w->poison_from || step < w->poison_from || strcmp(phase, "train") != 0) return;
    int64_t n;
    float *grads = mr_model_grads(w->r.m, &n), bad = INFINITY;
    device_put(w->r.b, grads + n / 2, &bad, 1);
}

static bool has_event(const world *w, const char *part) {
    for (int i = 0; i < w->n_events; i++)
        if (strstr(w->events[i], part)) return true;
    return false;
}

static void world_init(world *w, mr_method method) {
    memset(w, 0, sizeof *w);
    mr_log_set_level(MR_LOG_ERROR);
    rig_settings(&w->set);
    w->set.method = method;
    w->set.train.lr_scheduler_type = MR_SCHED_COSINE;
    w->set.train.max_steps = 10;
}

static void world_open(world *w, const char *run_dir, mr_dtype type, int threads) {
    static const char *const names[] = { "share" };
    static const float weights[] = { 1 };
    mr_err err;
    mr_model_opts mo = rig_lora(7);
    mo.store = mo.compute = type;
    if (w->set.method == MR_METHOD_SFT) mo.full = true, mo.lora = (mr_lora_opts){ 0 };
    rig_open(&w->r, "tiny_qwen2", &mo, threads);
    REQUIRE_OK(mr_tokenizer_open(&w->tok, GOLDEN("tokenizer_tiny96"), &err), err);
    w->parts =
        (mr_trainer_parts){ .settings = &w->set,
                            .model = w->r.m,
                            .tokenizer = w->tok,
                            .chat = &chatml,
                            .rows = { w, 16, get_row },
                            .scorer = { .self = w,
                                        .n_rewards = 1,
                                        .names = names,
                                        .weights = weights,
                                        .submit = submit,
                                        .collect = collect },
                            .observer = { .self = w, .step = on_step, .event = on_event, .progress = on_progress },
                            .run_dir = run_dir,
                            .base_model_name = "tiny_qwen2" };
    REQUIRE_OK(mr_trainer_open(&w->t, &w->parts, &err), err);
}

static void world_close(world *w) {
    mr_trainer_close(w->t);
    mr_tokenizer_close(w->tok);
    rig_close(&w->r);
}

/* All trained values, in host memory; freed with mr_free. */
static float *values_of(const world *w, int64_t *n) {
    int n_params;
    const mr_param *p = mr_model_params(w->r.m, &n_params);
    *n = 0;
    for (int i = 0; i < n_params; i++) *n += p[i].rows * p[i].cols;
    float *all = mr_alloc((size_t)*n * sizeof *all), *at = all;
    for (int i = 0; i < n_params; at += p[i].rows * p[i].cols, i++)
        w->r.b->download(w->r.b, at, p[i].value, (size_t)(p[i].rows * p[i].cols) * sizeof *at);
    return all;
}

/* --- tests --- */

/* adamw_fp32_trace.json: torch's scaler with SGD of rate 0.2 on a gradient of 1, or an infinite one. */
static void follows_torch(void) {
    mr_err err;
    cJSON *root;
    REQUIRE_OK(mr_json_load(&root, GOLDEN("adamw_fp32_trace.json"), 1 << 24, &err), err);
    const cJSON *f = cJSON_GetObjectItem(root, "grad_scaler"), *x;
    mr_scaler s = mr_scaler_start(MR_F16);
    CHECK(s.on && s.interval == 2000 && s.skipped == 0);
    CHECK_NEAR(s.scale, cJSON_GetObjectItem(f, "init_scale")->valuedouble, 0);
    s.interval = cJSON_GetObjectItem(f, "growth_interval")->valueint;
    float p = 1;
    int n = 0, skipped = 0;
    cJSON_ArrayForEach(x, cJSON_GetObjectItem(f, "trace")) {
        bool overflow = cJSON_IsTrue(cJSON_GetObjectItem(x, "overflow"));
        float g = 1;
        mr_scaler_apply(&s, &g, 1);
        CHECK_NEAR(g, s.scale, 0);
        if (!overflow) p -= 0.2f * g * mr_scaler_factor(&s, 1);
        mr_scaler_next(&s, !overflow);
        CHECK_NEAR(p, cJSON_GetObjectItem(x, "p_after")->valuedouble, 0);
        CHECK_NEAR(s.scale, cJSON_GetObjectItem(x, "scale_after")->valuedouble, 0);
        CHECK_INT(s.skipped, skipped += overflow);
        n++;
    }
    CHECK_INT(n, 10);
    cJSON_Delete(root);
    s.scale = 0x1p127;
    for (int i = 0; i < 3; i++) mr_scaler_next(&s, true);
    CHECK_NEAR(s.scale, 0x1p127, 0); /* f32 ends there */
    s = mr_scaler_start(MR_BF16);
    mr_scaler_next(&s, false);
    CHECK(!s.on && s.scale == 1 && s.skipped == 1 && mr_scaler_factor(&s, 0.3f) == 0.3f);
}

enum { N_TARGETS = 24, N_ROWS = 32 };

/* Gradients of a sum of log-probabilities with weights of this size, times `scale` on the way; freed with mr_free. */
static float *gradients(mr_dtype type, float weight, double scale, int64_t *n) {
    mr_err err;
    rig r;
    mr_decoder *d;
    mr_model_opts mo = rig_lora(3);
    mo.store = mo.compute = type;
    rig_open(&r, "tiny_qwen2", &mo, 1);
    rig_adapter(&r, "tiny_qwen2_lora");
    const mr_decoder_opts o = { .train_rows = N_ROWS, .train_slots = 64 };
    REQUIRE_OK(mr_decoder_open(&d, r.m, &o, &err), err);
    mr_decoder_phase(d, MR_PHASE_TRAIN);
    int32_t ids[N_ROWS], pos[N_ROWS], slots[N_ROWS], rows[N_TARGETS], targets[N_TARGETS];
    float weights[N_TARGETS];
    for (int i = 0; i < N_ROWS; i++) ids[i] = (i * 37 + 11) % 96, pos[i] = slots[i] = i;
    for (int i = 0; i < N_TARGETS; i++) rows[i] = i, targets[i] = ids[i + 1], weights[i] = i % 3 ? weight : -weight;
    const mr_span span = { .n_rows = N_ROWS };
    const mr_pack pack = { .ids = ids, .pos = pos, .slots = slots, .n_rows = N_ROWS, .spans = &span, .n_spans = 1 };
    mr_scaler s = { .on = true, .scale = scale };
    mr_scaler_apply(&s, weights, N_TARGETS);
    mr_decoder_forward(d, &pack);
    mr_decoder_backward(d, &pack, rows, targets, weights, N_TARGETS, 1);
    const float *on_device = mr_model_grads(r.m, n);
    float *g = device_copy(r.b, on_device, *n);
    for (int64_t i = 0; i < *n; i++) g[i] *= mr_scaler_factor(&s, 1);
    REQUIRE_OK(r.b->sync(r.b, &err), err);
    mr_decoder_close(d);
    rig_close(&r);
    return g;
}

static double cosine(const float *a, const float *b, int64_t n) {
    double ab = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < n; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : 0;
}

/* A token's share of a loss over 10,000 tokens and more. Without the scale its gradient drowns; with it what is left is
 * f16's own rounding, 2^-11 a value. */
static void small_gradients_survive(void) {
    int64_t n;
    const float weight = 0x1p-18f;
    float *want = gradients(MR_F32, weight, 1, &n), *scaled = gradients(MR_F16, weight, 65536, &n),
          *plain = gradients(MR_F16, weight, 1, &n), *more = gradients(MR_F16, weight, 131072, &n);
    double with = cosine(want, scaled, n), without = cosine(want, plain, n);
    CHECK(with > 0.99999);  /* observed: 1 - 8e-7 */
    CHECK(without < 0.999); /* observed: 0.9982 */
    CHECK(cosine(scaled, more, n) > 0.999999);
    mr_free(want), mr_free(scaled), mr_free(plain), mr_free(more);
}

/* What one update changes is that of f32, whatever the scale: an epsilon of 1 makes Adam see the gradient's size. */
static void updates_are_unscaled(void) {
    static world w;
    mr_err err;
    float *delta[3];
    int64_t n = 0;
    for (int i = 0; i < 3; i++) {
        world_init(&w, MR_METHOD_SFT);
        w.set.train.optim = MR_ADAMW;
        w.set.train.adam_epsilon = 1;
        w.set.train.max_grad_norm = i == 2 ? 0 : 1e6f;
        w.set.train.lr_scheduler_type = MR_SCHED_CONSTANT;
        world_open(&w, NULL, i ? MR_F16 : MR_F32, 1);
        if (i == 2) w.t->scaler.scale = 512;
        float *before = values_of(&w, &n);
        REQUIRE_OK(mr_trainer_step(w.t, &err), err);
        delta[i] = values_of(&w, &n);
        for (int64_t k = 0; k < n; k++) delta[i][k] -= before[k];
        mr_free(before);
        world_close(&w);
    }
    double size[3] = { 0 };
    for (int i = 0; i < 3; i++)
        for (int64_t k = 0; k < n; k++) size[i] += (double)delta[i][k] * (double)delta[i][k];
    for (int i = 1; i < 3; i++) {
        CHECK(size[0] > 0 && fabs(sqrt(size[i] / size[0]) - 1) < 2e-3); /* observed: 2e-4 */
        CHECK(cosine(delta[0], delta[i], n) > 0.99999);                 /* observed: 1 - 4e-7 */
    }
    for (int i = 0; i < 3; i++) mr_free(delta[i]);
}

/* The model learns as in f32, samples what it trains, tells the scale; with other types there is none. */
static void learns(void) {
    static world a, b;
    mr_err err;
    for (int sft = 0; sft < 2; sft++) {
        world_init(&a, sft ? MR_METHOD_SFT : MR_METHOD_GRPO);
        world_init(&b, a.set.method);
        a.set.train.max_steps = b.set.train.max_steps = 30;
        world_open(&a, NULL, MR_F16, 2);
        world_open(&b, NULL, MR_F32, 2);
        REQUIRE_OK(mr_trainer_run(a.t, &err), err);
        REQUIRE_OK(mr_trainer_run(b.t, &err), err);
        CHECK_NEAR(a.loss[1], b.loss[1], sft ? 1e-2 : 1);
        double early = 0, late = 0;
        for (int k = 1; k <= 5; k++)
            early += sft ? -a.loss[k] : a.reward[k], late += sft ? -a.loss[k + 25] : a.reward[k + 25];
        CHECK(late > early + (sft ? 0.5 : 0.1));
        for (int k = 1; k <= 30; k++) {
            CHECK(a.loss_scale[k] == 65536 && a.skipped[k] == 0);
            CHECK(b.loss_scale[k] == -1 && b.skipped[k] == -1);
            if (!sft) CHECK_NEAR(a.ratio[k], 1, 0);
        }
        world_close(&a);
        world_close(&b);
    }
}

/* A scale that is much too large: each update that overflows is left out whole, and the scale comes down until it fits. */
static void overflow_costs_an_update(void) {
    static world w;
    mr_err err;
    world_init(&w, MR_METHOD_GRPO);
    w.set.train.max_steps = 40;
    world_open(&w, NULL, MR_F16, 1);
    w.t->scaler.scale = 0x1p34;
    int64_t n;
    float *before = values_of(&w, &n), *after;
    int skipped = 0;
    while (skipped < 40) {
        REQUIRE_OK(mr_trainer_step(w.t, &err), err);
        if (w.t->skipped_in_row == 0) break;
        skipped++;
        CHECK_NEAR(w.loss_scale[skipped], ldexp(1, 35 - skipped), 0);
        CHECK_INT(w.skipped[skipped], skipped);
        CHECK_NEAR(w.rate[skipped], w.rate[1], 0); /* the schedule waits */
        CHECK_INT(mr_optimizer_updates(w.t->optimizer), 0);
        after = values_of(&w, &n);
        CHECK(memcmp(before, after, (size_t)n * sizeof *after) == 0);
        mr_free(after);
    }
    CHECK(skipped >= MR_MAX_SKIPPED && skipped < 34); /* observed: 14 */
    after = values_of(&w, &n);
    CHECK(memcmp(before, after, (size_t)n * sizeof *after) != 0);
    for (int64_t i = 0; i < n; i++) CHECK(isfinite(after[i]));
    CHECK(has_event(&w, "warning: step 1: a gradient does not fit into float16; the update is skipped (1 in a row), "
                        "loss_scale 1.71799e+10 -> 8.58993e+09"));
    CHECK(has_event(&w, "8 updates in a row were skipped, so nothing was learned in them; if this goes on, use dtype"));
    mr_free(before), mr_free(after);
    world_close(&w);
}

/* Killed while the scale comes down, and later, on another number of threads: the same bits, the same scale. */
static void resumed_equals_uninterrupted(void) {
    static world a, b;
    mr_err err;
    char *dir_a = rig_tmp(), *dir_b = rig_tmp(), hash_a[65], hash_b[65];
    world_init(&a, MR_METHOD_GRPO);
    a.set.train.save_steps = 1;
    a.set.train.max_steps = 14;
    world_open(&a, dir_a, MR_F16, 2);
    a.t->scaler = (mr_scaler){ .on = true, .scale = 0x1p23, .interval = 3 };
    REQUIRE_OK(mr_trainer_run(a.t, &err), err);
    CHECK(a.skipped[14] >= 3 && a.skipped[14] < 14 && a.loss_scale[14] < 0x1p23); /* down, and around the edge */
    bool grew = false;
    for (int k = 2; k <= 14; k++) grew = grew || a.loss_scale[k] > a.loss_scale[k - 1];
    CHECK(grew);
    for (int from = 2; from <= 11; from += 3) {
        char *checkpoint = mr_asprintf("%s/checkpoint-%d", dir_a, from);
        world_init(&b, MR_METHOD_GRPO);
        b.set.train.max_steps = 14;
        world_open(&b, dir_b, MR_F16, 1);
        b.t->scaler.interval = 3;
        REQUIRE_OK(mr_trainer_load(b.t, checkpoint, NULL, NULL, NULL, &err), err);
        REQUIRE_OK(mr_trainer_run(b.t, &err), err);
        for (int k = from + 1; k <= 14; k++) {
            CHECK_NEAR(b.loss_scale[k], a.loss_scale[k], 0);
            CHECK_NEAR(b.skipped[k], a.skipped[k], 0);
        }
        mr_free(checkpoint);
        checkpoint = mr_asprintf("%s/checkpoint-14", dir_a);
        REQUIRE_OK(mr_checkpoint_hash(hash_a, checkpoint, &err), err);
        mr_free(checkpoint);
        checkpoint = mr_asprintf("%s/checkpoint-14", dir_b);
        REQUIRE_OK(mr_checkpoint_hash(hash_b, checkpoint, &err), err);
        mr_free(checkpoint);
        CHECK_STR(hash_b, hash_a);
        world_close(&b);
    }
    world_close(&a);
    rig_tmp_clear(dir_a), rig_tmp_clear(dir_b);
}

/* A checkpoint made in f32 has no scale: the run goes on with the first one. One whose scale is no power of two is damaged. */
static void other_checkpoints(void) {
    static world w;
    mr_err err;
    char *dir = rig_tmp(), *checkpoint = mr_asprintf("%s/checkpoint-2", dir);
    const mr_dtype types[] = { MR_F32, MR_F16, MR_F32 };
    for (int i = 0; i < 3; i++) {
        world_init(&w, MR_METHOD_GRPO);
        w.set.train.max_steps = 2;
        world_open(&w, dir, types[i], 1);
        if (i) {
            REQUIRE_OK(mr_trainer_load(w.t, checkpoint, NULL, NULL, NULL, &err), err);
            CHECK_NEAR(w.t->scaler.scale, i == 1 ? 65536 : 1, 0);
        } else {
            REQUIRE_OK(mr_trainer_run(w.t, &err), err);
        }
        if (i == 1) { /* now with one */
            w.t->scaler.scale = 3;
            REQUIRE_OK(mr_trainer_checkpoint(w.t, &err), err);
            CHECK_INT(mr_trainer_load(w.t, checkpoint, NULL, NULL, NULL, &err), MR_EDATA);
            CHECK_CONTAINS(err.msg, "\"medrl.position.loss_scale\" is 3, want a power of two");
            w.t->scaler.scale = 1024;
            REQUIRE_OK(mr_trainer_checkpoint(w.t, &err), err);
        }
        world_close(&w);
    }
    mr_free(checkpoint);
    rig_tmp_clear(dir);
}

/* Not even an unscaled gradient fits; and activations that do not fit, which no scale helps. */
static void stops_with_a_reason(void) {
    static world w;
    mr_err err;
    for (int forward = 0; forward < 2; forward++) {
        world_init(&w, MR_METHOD_GRPO);
        w.set.train.max_steps = 60;
        if (!forward) w.poison_from = 2;
        world_open(&w, NULL, MR_F16, 1);
        if (forward) {
            int channels = mr_model_config(w.r.m)->hidden_size;
            float large[256];
            for (int i = 0; i < channels; i++) large[i] = 1e6f;
            device_put(w.r.b, w.r.m->final_norm, large, channels);
        }
        CHECK_INT(mr_trainer_run(w.t, &err), MR_EINTERNAL);
        CHECK_CONTAINS(err.msg,
                       forward ? "step 8: 8 updates in a row were skipped, and an activation does not fit into float16"
                               : "step 18: 17 updates in a row were skipped, and even an unscaled gradient does not");
        CHECK_CONTAINS(err.msg, "use dtype = \"bfloat16\" (GPUs from compute capability 8.0 on) or \"float32\"");
        if (forward) CHECK(has_event(&w, "step 1: the loss is not finite, since activations do not fit into float16"));
        world_close(&w);
    }
}

TEST_MAIN({ "follows torch", follows_torch }, { "small gradients survive", small_gradients_survive },
          { "updates are unscaled", updates_are_unscaled }, { "learns", learns },
          { "overflow costs an update", overflow_costs_an_update },
          { "resumed equals uninterrupted", resumed_equals_uninterrupted }, { "other checkpoints", other_checkpoints },
          { "stops with a reason", stops_with_a_reason })
