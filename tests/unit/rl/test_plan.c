/* The plan: what it says is what the backend's account holds, for small models in all kinds of settings; a cap changes
 * how a step is cut but not what it computes; what cannot fit is refused with what to change; and nothing is taken any
 * more once the first step is done. */
#include "chatml.h"
#include "rl/plan.h"

#include "base/rng.h"
#include "rig.h"

enum { N_ROWS = 16 };

/* --- a small run in C --- */

typedef struct world {
    mr_backend *b;
    mr_model *m;
    mr_tokenizer *tok;
    mr_settings set;
    mr_model_opts mo;
    mr_census census;
    mr_plan plan;
    mr_trainer *t;
    mr_trainer_parts parts;
    int longest;
    double values[256];
} world;

static mr_status get_row(void *self, int64_t index, mr_row *out, mr_err *err) {
    (void)err;
    const world *w = self;
    static const char letters[] = "count the apples of the tree and say how many there are in it, please";
    int n = 4 + (int)(index * 7 % (w->longest - 4));
    if (index == N_ROWS / 2) n = w->longest;
    out->n_messages = 1;
    out->messages = mr_arena_alloc(&out->arena, sizeof *out->messages);
    out->messages[0] = (mr_message){ "user", mr_arena_strdup(&out->arena, letters, (size_t)n) };
    out->json = mr_arena_strdup(&out->arena, "{}", 2);
    out->source = mr_arena_strdup(&out->arena, "test", 4);
    return MR_OK;
}

static mr_status submit(void *self, const mr_score_job *job, mr_err *err) {
    world *w = self;
    (void)err;
    uint64_t h = mr_hash64(job->text, job->len);
    w->values[job->id] = (double)(h % 97) / 97;
    return MR_OK;
}

static mr_status collect(void *self, mr_score *scores, int n_jobs, mr_fault *faults, int max_faults, int *n_faults,
                         mr_err *err) {
    world *w = self;
    (void)faults, (void)max_faults, (void)err;
    for (int i = 0; i < n_jobs; i++) scores[i] = (mr_score){ w->values[i], MR_SCORED };
    *n_faults = 0;
    return MR_OK;
}

static const char *const names[] = { "hash" };
static const float weights[] = { 1 };

static void world_init(world *w) {
    memset(w, 0, sizeof *w);
    w->longest = 40;
    mr_settings *s = &w->set;
    rig_settings(s);
    s->train.prompts_per_step = 4;
    s->train.max_completion_length = 24;
    s->train.max_steps = 8;
    s->lora.r = 4;
    s->lora.lora_alpha = 8;
    for (int i = 0; i < MR_N_PROJ; i++) s->lora.targets[i] = true;
}

/* The backend, the census and the plan, in the order of a session: nothing of the model is loaded. */
static mr_status world_plan(world *w, const char *path, mr_dtype store, mr_dtype compute, mr_err *err) {
    mr_tensors *t;
    mr_config c;
    REQUIRE_OK(mr_backend_open(&w->b, rig_device(), 0, 2, err), *err);
    size_t opened = w->b->bytes; /* a GPU's first scratch */
    REQUIRE_OK(mr_tokenizer_open(&w->tok, GOLDEN("tokenizer_tiny96"), err), *err);
    REQUIRE_OK(mr_tensors_open(&t, path, err), *err);
    REQUIRE_OK(mr_config_load(&c, path, t, err), *err);
    mr_tensors_close(t);
    w->parts = (mr_trainer_parts){ .settings = &w->set,
                                   .tokenizer = w->tok,
                                   .chat = &chatml,
                                   .rows = { w, N_ROWS, get_row },
                                   .scorer = { .self = w, .n_rewards = 1, .names = names, .weights = weights, .submit = submit, .collect = collect },
                                   .base_model_name = "test" };
    REQUIRE_OK(mr_census_take(&w->census, &w->parts, &c, err), *err);
    w->mo = mr_plan_model_opts(&w->set, compute);
    w->mo.store = store;
    mr_status st = mr_plan_make(&w->plan, w->b, &c, &w->mo, &w->set, &w->census, err);
    CHECK_INT(w->b->bytes, opened);
    return st;
}

static void world_open(world *w, const char *path, mr_dtype store, mr_dtype compute) {
    mr_err err;
    REQUIRE_OK(world_plan(w, path, store, compute, &err), err);
    w->mo.dequantize = mr_plan_dequantize(&w->plan);
    REQUIRE_OK(mr_model_open(&w->m, w->b, path, &w->mo, &err), err);
    w->parts.model = w->m;
    w->parts.plan = &w->plan;
    REQUIRE_OK(mr_trainer_open(&w->t, &w->parts, &err), err);
}

static void world_steps(world *w, int n) {
    mr_err err;
    for (int i = 0; i < n; i++) REQUIRE_OK(mr_trainer_step(w->t, &err), err);
}

static void world_close(world *w) {
    mr_trainer_close(w->t);
    mr_model_close(w->m);
    mr_tokenizer_close(w->tok);
    if (w->b) {
        CHECK(w->b->bytes <= w->plan.decoder.scratch * 3 / 2); /* what is left is scratch; its slots grow one by one */
        mr_backend_close(w->b);
    }
}

static const char *golden_path(char *buf, size_t size, const char *name) {
    snprintf(buf, size, "%s/tiny/%s", MR_GOLDEN, name);
    return buf;
}

/* --- the plan and the account --- */

/* A GPU's account counts what its driver takes, 2 MiB at a time, for masters, gradients and the decoder's block. */
static double slack(const world *w, double taken) {
    return 0.03 * taken + (w->b->kind == MR_CUDA ? 3.0 * (2 << 20) : 0);
}

static void compare(world *w, const char *what) {
    double planned = (double)w->plan.total, taken = (double)w->b->bytes_peak;
    if (fabs(planned - taken) > slack(w, taken))
        fprintf(stderr, "%s: planned %.0f, taken %.0f (%+.1f %%)\n", what, planned, taken, 100 * (planned / taken - 1));
    CHECK_NEAR(planned, taken, slack(w, taken)); /* observed: at most 1.3 % too much, scratch that is counted twice */
}

static void one_setting(const char *name, mr_dtype store, mr_dtype compute, bool checkpointing, int rank,
                        mr_optim optim) {
    world w;
    char path[512], what[160];
    world_init(&w);
    w.set.lora.r = rank;
    w.set.train.gradient_checkpointing = checkpointing;
    w.set.train.optim = optim;
    world_open(&w, golden_path(path, sizeof path, name), store, compute);
    size_t opened = w.b->bytes;
    world_steps(&w, 2);
    snprintf(what, sizeof what, "%s %s/%s checkpointing %d rank %d", name, mr_dtype_name(store), mr_dtype_name(compute),
             checkpointing, rank);
    compare(&w, what);
    CHECK(opened >= w.b->bytes_peak * 97 / 100); /* nearly all of it is there before the first step */
    world_close(&w);
}

static void tiny_models(void) {
    static const char *const models[] = { "tiny_qwen2", "tiny_qwen3", "tiny_llama3", "tiny_smollm2" };
    for (int i = 0; i < 4; i++)
        for (int checkpointing = 0; checkpointing < 2; checkpointing++) {
            bool on = checkpointing == 1;
            one_setting(models[i], MR_F32, MR_F32, on, 4, MR_ADAMW_8BIT);
            one_setting(models[i], MR_BF16, MR_BF16, on, 16, MR_ADAMW_8BIT);
            one_setting(models[i], MR_NF4, MR_BF16, on, 7, MR_ADAMW);
            one_setting(models[i], MR_NF4, MR_F32, on, 4, MR_ADAMW_8BIT);
            one_setting(models[i], MR_F32, MR_F32, on, 0, MR_ADAMW); /* all weights are trained */
        }
}

/* Opened and measured, not trained: the real sizes. Left out where the model is not in the cache. */
static void smollm2(void) {
    char *path;
    mr_err err;
    if (mr_model_resolve(&path, "smollm2-135m-instruct", &err) != MR_OK) {
        fprintf(stderr, "smollm2-135m-instruct is not in the cache: left out\n");
        return;
    }
    const mr_dtype stores[] = { MR_BF16, MR_NF4, MR_F32 };
    for (int i = 0; i < 3; i++) {
        world w;
        world_init(&w);
        w.set.lora.r = 16;
        w.set.train.gradient_checkpointing = i == 1;
        world_open(&w, path, stores[i], stores[i] == MR_F32 ? MR_F32 : MR_BF16);
        compare(&w, mr_dtype_name(stores[i]));
        world_close(&w);
    }
    mr_free(path);
}

/* --- caps --- */

/* A hash of everything that was trained. */
static uint64_t trained(world *w) {
    int n;
    uint64_t h = 0;
    const mr_param *p = mr_model_params(w->m, &n);
    for (int i = 0; i < n; i++) {
        size_t bytes = (size_t)(p[i].rows * p[i].cols) * sizeof(float);
        float *host = mr_alloc(bytes);
        w->b->download(w->b, host, p[i].value, bytes);
        h = h * 31 + mr_hash64(host, bytes);
        mr_free(host);
    }
    return h;
}

typedef struct outcome {
    uint64_t hash;
    size_t total, peak;
    int in_flight, pack_rows, head_rows;
} outcome;

static outcome with_cap(size_t cap, int rank) {
    world w;
    char path[512];
    world_init(&w);
    w.set.lora.r = rank;
    w.set.vram = cap;
    w.set.train.gradient_checkpointing = true;
    world_open(&w, golden_path(path, sizeof path, rank ? "tiny_qwen2" : "tiny_llama3"), MR_F32, MR_F32);
    world_steps(&w, 3);
    outcome o = { trained(&w),      w.plan.total,           w.b->bytes_peak,
                  w.plan.in_flight, w.plan.room.train_rows, w.plan.room.head_rows };
    CHECK(!cap || w.plan.total <= cap);
    CHECK_INT(w.plan.wish.in_flight, 4);
    world_close(&w);
    return o;
}

/* Of a GPU's account nearly all is scratch that open takes, next to which a tiny model is nothing: caps that bind there
 * differ from the CPU's, and the choice itself is not the device's. */
static bool only_on_cpu(void) {
    if (rig_device() == MR_CPU) return false;
    fprintf(stderr, "caps are tested on the CPU: left out\n");
    return true;
}

/* Rank 3 is a scale of 8/3, which is no power of two. All weights (rank 0) of an untied model: gradients of norms and
 * of both tables do not depend on packs either. */
static void caps_change_no_result(void) {
    const int ranks[] = { 4, 3, 0 };
    if (only_on_cpu()) return;
    for (int i = 0; i < 3; i++) {
        int rank = ranks[i];
        outcome all = with_cap(0, rank), some = with_cap(all.total * 3 / 4, rank), few = with_cap(all.total / 2, rank);
        CHECK_INT(all.in_flight, 4);
        CHECK(few.pack_rows < some.pack_rows && some.pack_rows < all.pack_rows);
        CHECK(few.in_flight < all.in_flight);
        CHECK(some.total < all.total && few.total < some.total);
        CHECK(few.peak <= few.total * 103 / 100 && few.peak < all.peak);
        CHECK(all.hash == some.hash);
        CHECK(all.hash == few.hash);
    }
}

static float *trained_values(world *w, int64_t *n) {
    int n_params;
    const mr_param *p = mr_model_params(w->m, &n_params);
    float *all = NULL;
    *n = 0;
    for (int i = 0; i < n_params; i++) *n += p[i].rows * p[i].cols;
    all = mr_alloc((size_t)*n * sizeof *all);
    float *at = all;
    for (int i = 0; i < n_params; at += p[i].rows * p[i].cols, i++)
        w->b->download(w->b, at, p[i].value, (size_t)(p[i].rows * p[i].cols) * sizeof(float));
    return all;
}

/* At the least a group is trained in parts: other sums, the same adapter but for their last bits. */
static void groups_in_parts(void) {
    float *values[2];
    int64_t n = 0;
    size_t cap = 0;
    char path[512];
    if (only_on_cpu()) return;
    for (int i = 0; i < 2; i++) {
        world w;
        world_init(&w);
        w.set.train.gradient_checkpointing = true;
        w.set.train.max_completion_length = 48;
        w.set.vram = cap;
        world_open(&w, golden_path(path, sizeof path, "tiny_qwen2"), MR_F32, MR_F32);
        CHECK_INT(mr_plan_cuts_groups(&w.plan), i == 1);
        world_steps(&w, 2);
        values[i] = trained_values(&w, &n);
        if (i == 0) {
            mr_plan least;
            mr_err err;
            w.set.vram = 1;
            CHECK_INT(mr_plan_make(&least, w.b, mr_model_config(w.m), &w.mo, &w.set, &w.census, &err), MR_ENOMEM);
            cap = least.total;
        } else {
            CHECK(w.plan.room.train_rows < w.plan.wish.pack_rows);
            CHECK(w.b->bytes_peak <= cap * 103 / 100);
        }
        world_close(&w);
    }
    double gap = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        gap += ((double)values[1][i] - (double)values[0][i]) * ((double)values[1][i] - (double)values[0][i]);
        size += (double)values[0][i] * (double)values[0][i];
    }
    CHECK(gap > 0);
    CHECK_NEAR(sqrt(gap / size), 0, 1e-4);
    mr_free(values[0]);
    mr_free(values[1]);
}

typedef struct kept {
    uint64_t hash;
    size_t unpacked, total;
} kept;

static kept with_dequantize(mr_dequantize when, size_t cap) {
    world w;
    char path[512];
    world_init(&w);
    w.set.model.dequantize = when;
    w.set.vram = cap;
    world_open(&w, golden_path(path, sizeof path, "tiny_smollm2"), MR_NF4, MR_BF16);
    size_t bytes = mr_model_bytes(w.m);
    world_steps(&w, 3);
    compare(&w, "dequantized");
    kept k = { trained(&w), w.plan.unpacked, w.plan.wish.total };
    CHECK_INT(bytes, w.plan.linears + w.plan.unpacked + w.plan.tables + w.plan.vectors + w.plan.copies + w.plan.values + w.plan.grads);
    CHECK_INT(mr_model_options(w.m)->dequantize, k.unpacked ? MR_DEQUANTIZE_YES : MR_DEQUANTIZE_NO);
    world_close(&w);
    return k;
}

/* 4-bit weights in 16 bits as well: where a device gains by it and has room; the adapter's bits are the same. */
static void dequantized(void) {
    if (rig_device() == MR_CPU) {
        CHECK_INT(with_dequantize(MR_DEQUANTIZE_YES, 0).unpacked, 0);
        return;
    }
    kept no = with_dequantize(MR_DEQUANTIZE_NO, 0), yes = with_dequantize(MR_DEQUANTIZE_YES, 0);
    CHECK(no.unpacked == 0 && yes.unpacked > 0 && yes.total > no.total);
    CHECK(no.hash == yes.hash);
    CHECK(with_dequantize(MR_DEQUANTIZE_AUTO, 2 * yes.total).unpacked > 0);
    CHECK(with_dequantize(MR_DEQUANTIZE_AUTO, yes.total).unpacked == 0); /* fits, but a plan is only so exact */
    CHECK(with_dequantize(MR_DEQUANTIZE_YES, yes.total + yes.total / 8).unpacked > 0);
}

/* The seed's job at the seed's size, planned on whatever device this is. */
static void seeds_job(void) {
    mr_backend *b;
    mr_err err;
    mr_config c;
    mr_settings s;
    REQUIRE_OK(mr_backend_open(&b, rig_device(), 0, 2, &err), err);
    REQUIRE_OK(mr_config_named(&c, "qwen2.5-3b", &err), err);
    rig_settings(&s);
    s.lora.r = 64;
    s.lora.lora_alpha = 64;
    for (int i = 0; i < MR_N_PROJ; i++) s.lora.targets[i] = true;
    s.train.loss.num_generations = 6;
    s.train.prompts_per_step = 1;
    s.train.gradient_checkpointing = true;
    const mr_census census = { .prompt = 1024, .completion = 1024 };
    mr_model_opts mo = mr_plan_model_opts(&s, MR_BF16);
    mo.store = MR_NF4;
    const double caps[] = { 0, 6, 5, 4.5 }; /* GiB */
    mr_plan p;
    for (size_t i = 0; i < sizeof caps / sizeof caps[0]; i++) {
        s.vram = (size_t)(caps[i] * 1073741824.0);
        mo.dequantize = i ? MR_DEQUANTIZE_AUTO : MR_DEQUANTIZE_NO;
        mr_status st = mr_plan_make(&p, b, &c, &mo, &s, &census, &err);
        if (b->kind == MR_CPU && i) { /* which keeps weights in 16 bits for the backward pass, and nothing aside */
            CHECK_INT(p.room.aside_layers, 0);
            continue;
        }
        REQUIRE_OK(st, err);
        CHECK(!mr_plan_cuts_groups(&p));
        CHECK_INT(p.unpacked, 0); /* where there is no room for two copies of the weights, one is kept */
        CHECK(i ? p.total <= s.vram : p.wish.total < (size_t)(7.3 * 1073741824.0));
        CHECK((p.room.aside_layers > 0) == (i > 0));
        CHECK_INT(p.decoder.aside, (size_t)p.room.aside_layers * 7162 * 2048 * sizeof(float));
        CHECK(p.kept == 0 || (b->kind == MR_CUDA && p.total <= p.cap));
        if (i) CHECK_INT(p.kept, 0); /* nothing stays for the backward pass where it is tight */
    }
    mr_backend_close(b);
}

/* Refused before anything is loaded, with changes that do help. */
static void refused(void) {
    world w;
    char path[512];
    mr_err err;
    if (only_on_cpu()) return;
    golden_path(path, sizeof path, "tiny_qwen2");
    world_init(&w);
    w.set.model.name = path;
    w.set.vram = 1;
    CHECK_INT(world_plan(&w, path, MR_F32, MR_F32, &err), MR_ENOMEM);
    CHECK_INT(mr_exit_code(MR_ENOMEM), 71);
    CHECK_CONTAINS(err.msg, "vram is 0.0 MB; no setting alone does it");
    size_t need = w.plan.total; /* the least */
    world_close(&w);

    world_init(&w);
    w.set.model.name = path;
    w.set.vram = need - 1;
    CHECK_INT(world_plan(&w, path, MR_F32, MR_F32, &err), MR_ENOMEM);
    CHECK_CONTAINS(err.msg, "set grpo.gradient_checkpointing = true");
    world_close(&w);
    world_init(&w);
    w.set.vram = need - 1;
    w.set.train.gradient_checkpointing = true;
    CHECK_INT(world_plan(&w, path, MR_F32, MR_F32, &err), MR_OK);
    world_close(&w);
    world_init(&w);
    w.set.vram = need;
    CHECK_INT(world_plan(&w, path, MR_F32, MR_F32, &err), MR_OK);
    CHECK_INT(w.plan.total, need);
    world_close(&w);

    /* what it says to lower, lowered: it fits, and one step more does not */
    world_init(&w);
    w.set.model.name = path;
    w.set.train.gradient_checkpointing = true;
    w.set.vram = 1;
    world_plan(&w, path, MR_F32, MR_F32, &err);
    need = w.plan.total;
    world_close(&w);
    world_init(&w);
    w.set.model.name = path;
    w.set.train.gradient_checkpointing = true;
    w.set.vram = need * 9 / 10;
    CHECK_INT(world_plan(&w, path, MR_F32, MR_F32, &err), MR_ENOMEM);
    world_close(&w);
    const char *at = strstr(err.msg, "lower grpo.num_generations from 4 to ");
    if (!at) at = strstr(err.msg, "lower grpo.max_completion_length from 24 to ");
    if (!at) at = strstr(err.msg, "lower grpo.max_prompt_length from 59 to ");
    REQUIRE(at != NULL);
    int value = atoi(strstr(at, " to ") + 4);
    for (int more = 0; more < 2; more++) {
        world_init(&w);
        w.set.train.gradient_checkpointing = true;
        w.set.vram = need * 9 / 10;
        if (strstr(at, "generations"))
            w.set.train.loss.num_generations = value + more;
        else if (strstr(at, "prompt"))
            w.set.train.max_prompt_length = value + more * 16;
        else
            w.set.train.max_completion_length = value + more * 16;
        CHECK_INT(world_plan(&w, path, MR_F32, MR_F32, &err), more ? MR_ENOMEM : MR_OK);
        world_close(&w);
    }
}

/* --- nothing after step 0 --- */

static int n_taken; /* calls of alloc and weight_create */
static void *(*real_alloc)(mr_backend *b, size_t bytes);
static mr_status (*real_create)(mr_backend *b, mr_weight **out, mr_weight_source src, int64_t n_out, int64_t n_in, int64_t more,
                                mr_dtype store, mr_dtype compute, unsigned uses, mr_err *err);
static void *counted_alloc(mr_backend *b, size_t bytes) {
    n_taken++;
    return real_alloc(b, bytes);
}
static mr_status counted_create(mr_backend *b, mr_weight **out, mr_weight_source src, int64_t n_out, int64_t n_in, int64_t more,
                                mr_dtype store, mr_dtype compute, unsigned uses, mr_err *err) {
    n_taken++;
    return real_create(b, out, src, n_out, n_in, more, store, compute, uses, err);
}

static void flat(mr_dtype store, mr_dtype compute, float top_p) {
    world w;
    char path[512];
    world_init(&w);
    w.set.train.top_p = top_p; /* below 1: sampling sorts candidates in scratch */
    world_open(&w, golden_path(path, sizeof path, "tiny_qwen2"), store, compute);
    world_steps(&w, 1);
    real_alloc = w.b->alloc;
    real_create = w.b->weight_create;
    w.b->alloc = counted_alloc;
    w.b->weight_create = counted_create;
    n_taken = 0;
    size_t bytes = w.b->bytes, peak = w.b->bytes_peak;
    long large = mr_try_alloc_count();
    for (int i = 2; i <= 5; i++) {
        world_steps(&w, 1);
        CHECK_INT(w.b->bytes, bytes);
        CHECK_INT(w.b->bytes_peak, peak);
        CHECK_INT(mr_try_alloc_count(), large);
        CHECK_INT(n_taken, 0);
    }
    CHECK_INT(mr_trainer_step_index(w.t), 5);
    world_close(&w);
}

static void flat_after_the_first_step(void) {
    flat(MR_F32, MR_F32, 1);
    flat(MR_BF16, MR_BF16, 1);
    flat(MR_NF4, MR_BF16, 0.9f);
}

TEST_MAIN({ "tiny_models", tiny_models }, { "smollm2", smollm2 }, { "caps_change_no_result", caps_change_no_result },
          { "groups_in_parts", groups_in_parts }, { "dequantized", dequantized }, { "seeds_job", seeds_job }, { "refused", refused },
          { "flat_after_the_first_step", flat_after_the_first_step })
