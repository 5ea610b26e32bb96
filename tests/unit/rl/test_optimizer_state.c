/* The optimizer over a list of params: which states are 8-bit, decay only where it belongs, clipping
 * (adamw_fp32_trace.json), and a saved and loaded optimizer that goes on bit for bit. The kernels' own formulas are
 * tested with the kernels. */
#include "rl/optimizer.h"

#include "files/tensors.h"
#include "rig.h"

enum { N = 4, BIG = 64 * 80 };

typedef struct set {
    mr_backend *b;
    mr_param p[N];
    mr_optimizer *o;
} set;

static void set_open(set *s, mr_optim kind) {
    static const char *const names[N] = { "model.layers.0.self_attn.q_proj.lora_A",
                                          "model.layers.0.self_attn.q_proj.lora_B", "model.norm.weight",
                                          "model.embed_tokens.weight" };
    static const int64_t rows[N] = { 64, 4, 1, 64 }, cols[N] = { 80, 16, 32, 80 };
    mr_err err;
    REQUIRE_OK(mr_backend_open(&s->b, MR_CPU, 0, 1, &err), err);
    for (int i = 0; i < N; i++) {
        size_t bytes = (size_t)(rows[i] * cols[i]) * 4;
        s->p[i] = (mr_param){ .name = names[i], .rows = rows[i], .cols = cols[i], .decay = i != 2 };
        s->p[i].value = s->b->alloc(s->b, bytes);
        s->p[i].grad = s->b->alloc(s->b, bytes);
        REQUIRE(s->p[i].value && s->p[i].grad);
        for (int64_t k = 0; k < rows[i] * cols[i]; k++) s->p[i].value[k] = 0.01f * (float)((k * 7 + i) % 41 - 20);
    }
    mr_optimizer_opts o = { .kind = kind, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-8f, .weight_decay = 0.1f };
    REQUIRE_OK(mr_optimizer_open(&s->o, s->b, s->p, N, &o, &err), err);
}

static void set_close(set *s) {
    mr_optimizer_close(s->o);
    for (int i = 0; i < N; i++) {
        s->b->free(s->b, s->p[i].value);
        s->b->free(s->b, s->p[i].grad);
    }
    mr_backend_close(s->b);
}

static void step(set *s, int k) {
    for (int i = 0; i < N; i++)
        for (int64_t j = 0; j < s->p[i].rows * s->p[i].cols; j++)
            s->p[i].grad[j] = 0.02f * (float)((j * 13 + k * 5 + i) % 29 - 14);
    mr_optimizer_step(s->o, 0.01f, 0.5f);
}

/* 5120 elements: 2 codes each and 2 x 20 block maxima; the small ones and the embedding f32. */
static void states_by_size(void) {
    set s;
    set_open(&s, MR_ADAMW_8BIT);
    CHECK_INT(mr_optimizer_bytes(s.o), 2 * BIG + 2 * 20 * 4 + 8 * (64 + 32 + BIG));
    set_close(&s);
    set_open(&s, MR_ADAMW);
    CHECK_INT(mr_optimizer_bytes(s.o), 8 * (BIG + 64 + 32 + BIG));
    set_close(&s);
}

/* With zero gradients only decay moves a value: p (1 - lr wd) where it applies, nothing for the norm. */
static void decay_where_it_belongs(void) {
    set s;
    set_open(&s, MR_ADAMW_8BIT);
    float before = s.p[0].value[0], norm = s.p[2].value[0];
    mr_optimizer_step(s.o, 0.01f, 1);
    CHECK_NEAR(s.p[0].value[0], (double)before * (1 - 0.01 * 0.1), 1e-7);
    CHECK(s.p[2].value[0] == norm && before != 0 && norm != 0);
    CHECK_INT(mr_optimizer_updates(s.o), 1);
    set_close(&s);
}

/* The small tensor has f32 states with both kinds, but bitsandbytes decays behind the update and torch before it. The
 * first update is the sign of the gradient: the two differ by lr^2 wd. */
static void decay_in_the_order_of_the_kind(void) {
    set bnb, torch;
    set_open(&bnb, MR_ADAMW_8BIT);
    set_open(&torch, MR_ADAMW);
    step(&bnb, 0);
    step(&torch, 0);
    for (int k = 0; k < 64; k++) {
        float g = bnb.p[1].grad[k], sign = (float)(g > 0) - (float)(g < 0);
        CHECK_NEAR(bnb.p[1].value[k] - torch.p[1].value[k], 1e-5 * (double)sign, 2e-8);
    }
    set_close(&bnb);
    set_close(&torch);
}

static void clip_as_torch(void) {
    cJSON *f = NULL;
    mr_err err;
    REQUIRE_OK(mr_json_load(&f, GOLDEN("adamw_fp32_trace.json"), 1 << 20, &err), err);
    const cJSON *clip = cJSON_GetObjectItem(f, "clip"), *x;
    double norm = cJSON_GetObjectItem(clip, "total_norm")->valuedouble;
    float c = mr_clip_coefficient(norm, (float)cJSON_GetObjectItem(clip, "max_norm")->valuedouble);
    int i = 0;
    cJSON_ArrayForEach(x, cJSON_GetObjectItem(clip, "a")) CHECK_NEAR(
        (float)x->valuedouble * c, cJSON_GetArrayItem(cJSON_GetObjectItem(clip, "a_after"), i++)->valuedouble, 1e-7);
    cJSON_Delete(f);
    CHECK(mr_clip_coefficient(0.5, 1) == 1 && mr_clip_coefficient(100, 0) == 1 && mr_clip_coefficient(0, 1) == 1);
    CHECK_NEAR(mr_clip_coefficient(2, 0.1f), 0.05, 1e-6);
}

static void saved_and_loaded_goes_on(void) {
    for (int kind = 0; kind < 2; kind++) {
        set a, b;
        mr_err err;
        char *dir = rig_tmp(), *path = mr_path_join(dir, "optimizer.safetensors");
        set_open(&a, (mr_optim)kind);
        set_open(&b, (mr_optim)kind);
        for (int k = 0; k < 3; k++) step(&a, k);
        REQUIRE_OK(mr_optimizer_save(a.o, path, &err), err);
        REQUIRE_OK(mr_optimizer_load(b.o, path, &err), err);
        CHECK_INT(mr_optimizer_updates(b.o), 3);
        for (int i = 0; i < N; i++) memcpy(b.p[i].value, a.p[i].value, (size_t)(a.p[i].rows * a.p[i].cols) * 4);
        for (int k = 3; k < 6; k++) step(&a, k), step(&b, k);
        for (int i = 0; i < N; i++) CHECK(!memcmp(a.p[i].value, b.p[i].value, (size_t)(a.p[i].rows * a.p[i].cols) * 4));
        set_close(&a);
        set_close(&b);
        mr_free(path);
        rig_tmp_clear(dir);
    }
}

static void refuses_other_files(void) {
    set a, b;
    mr_err err;
    char *dir = rig_tmp(), *path = mr_path_join(dir, "o.safetensors");
    set_open(&a, MR_ADAMW_8BIT);
    set_open(&b, MR_ADAMW);
    step(&a, 0);
    REQUIRE_OK(mr_optimizer_save(a.o, path, &err), err);
    CHECK(mr_optimizer_load(b.o, path, &err) == MR_EDATA);
    CHECK_CONTAINS(err.msg, "o.safetensors");
    CHECK_CONTAINS(err.msg, "q_proj.lora_A.m");
    CHECK_INT(mr_optimizer_updates(b.o), 0);
    /* a tensor of the right name and another size */
    float x[3] = { 0 };
    int64_t count = 1;
    mr_tensor_out t[2] = {
        { .name = "model.layers.0.self_attn.q_proj.lora_A.m", .type = "F32", .n_dims = 1, .dims = { 3 }, .data = x },
        { .name = "step", .type = "I64", .n_dims = 1, .dims = { 1 }, .data = &count },
    };
    REQUIRE_OK(mr_safetensors_write(path, t, 2, NULL, &err), err);
    CHECK(mr_optimizer_load(b.o, path, &err) == MR_EDATA);
    CHECK_CONTAINS(err.msg, "F32[3]");
    const int64_t bad[] = { -1, INT64_MAX };
    for (int i = 0; i < 2; i++) {
        count = bad[i];
        REQUIRE_OK(mr_safetensors_write(path, t + 1, 1, NULL, &err), err);
        CHECK(mr_optimizer_load(b.o, path, &err) == MR_EDATA);
        CHECK_CONTAINS(err.msg, "\"step\" is");
    }
    char *gone = mr_path_join(dir, "gone.safetensors");
    CHECK(mr_optimizer_load(b.o, gone, &err) == MR_ENOTFOUND);
    mr_free(gone);
    set_close(&a);
    set_close(&b);
    mr_free(path);
    rig_tmp_clear(dir);
}

/* Every large block may be refused; then nothing leaks and the message says what to do. */
static void no_memory(void) {
    set s;
    mr_err err;
    set_open(&s, MR_ADAMW);
    mr_optimizer_opts o = { .kind = MR_ADAMW_8BIT };
    int failed = 0;
    for (long n = 1; n < 20; n++) {
        mr_optimizer *x;
        mr_try_alloc_fail_at(n);
        mr_status st = mr_optimizer_open(&x, s.b, s.p, N, &o, &err);
        mr_try_alloc_fail_at(0);
        if (st == MR_OK) {
            mr_optimizer_close(x);
            break;
        }
        CHECK_INT(st, MR_ENOMEM);
        CHECK(x == NULL);
        failed++;
    }
    CHECK(failed >= 2);
    set_close(&s);
}

TEST_MAIN({ "states by size", states_by_size }, { "decay where it belongs", decay_where_it_belongs },
          { "decay in the order of the kind", decay_in_the_order_of_the_kind },
          { "clip as torch", clip_as_torch }, { "saved and loaded goes on", saved_and_loaded_goes_on },
          { "refuses other files", refuses_other_files }, { "no memory", no_memory })
