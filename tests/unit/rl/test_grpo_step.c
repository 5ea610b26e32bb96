/* A whole step on given completions against an independent float64 implementation (grpo_step_tiny_qwen2.json): policy
 * and reference log-probabilities, advantages, four losses, every LoRA gradient, the clip coefficient and the
 * parameters after one AdamW step. */
#include "rl/optimizer.h"
#include "rl/pack.h"
#include "rig.h"

enum { GROUP = 3, ROWS = 6, MAX_TOK = 64 };

static const cJSON *field(const cJSON *o, const char *key) {
    const cJSON *x = cJSON_GetObjectItemCaseSensitive(o, key);
    if (!x) fail_msg("fixture: no field %s", key);
    return x;
}

static int ints(int32_t *out, const cJSON *list) {
    int n = 0;
    const cJSON *x;
    cJSON_ArrayForEach(x, list) out[n++] = x->valueint;
    return n;
}

/* base64 of little-endian f32; owned, free with mr_free */
static float *floats(const char *text, int64_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t *out = mr_alloc((size_t)n * 4 + 4);
    size_t at = 0;
    uint32_t bits = 0;
    int have = 0;
    for (const char *p = text; *p && *p != '='; p++) {
        bits = bits << 6 | (uint32_t)(strchr(digits, *p) - digits);
        have += 6;
        if (have >= 8) out[at++] = (uint8_t)(bits >> (have -= 8));
    }
    REQUIRE(at == (size_t)n * 4);
    return (float *)(void *)out;
}

typedef struct step {
    rig r;
    mr_decoder *d;
    mr_packer k;
    cJSON *f;
    int32_t prompt[2][16], ids[ROWS][16], offset[ROWS + 1];
    int n_prompt[2], n_ids[ROWS];
    float logp[MAX_TOK], ref[MAX_TOK], entropy[MAX_TOK], adv[ROWS], inv_t;
} step;

static void open_step(step *s, bool checkpointing) {
    mr_err err;
    memset(s, 0, sizeof *s);
    REQUIRE_OK(mr_json_load(&s->f, GOLDEN("grpo_step_tiny_qwen2.json"), 1 << 22, &err), err);
    mr_model_opts mo = rig_lora(1);
    rig_open(&s->r, "tiny_qwen2", &mo, 2);
    rig_adapter(&s->r, "tiny_qwen2_lora");
    mr_decoder_opts o = { .train_rows = 128, .train_slots = 64 * 16, .gradient_checkpointing = checkpointing };
    REQUIRE_OK(mr_decoder_open(&s->d, s->r.m, &o, &err), err);
    REQUIRE_OK(mr_packer_init(&s->k, 128, 64 * 16, ROWS, &err), err);
    s->inv_t = (float)(1 / field(s->f, "temperature")->valuedouble);
    for (int p = 0; p < 2; p++) s->n_prompt[p] = ints(s->prompt[p], cJSON_GetArrayItem(field(s->f, "prompts"), p));
    for (int b = 0; b < ROWS; b++) {
        s->n_ids[b] = ints(s->ids[b], cJSON_GetArrayItem(field(s->f, "completions"), b));
        s->offset[b + 1] = s->offset[b] + s->n_ids[b];
        s->adv[b] = (float)cJSON_GetArrayItem(field(s->f, "advantages"), b)->valuedouble;
    }
    mr_decoder_phase(s->d, MR_PHASE_TRAIN);
}

static void close_step(step *s) {
    mr_packer_clear(&s->k);
    mr_decoder_close(s->d);
    rig_close(&s->r);
    cJSON_Delete(s->f);
}

/* Completions from `first` on; returns the first that did not fit. */
static int add_from(step *s, int p, int first) {
    const int32_t *ids[GROUP];
    for (int g = 0; g < GROUP; g++) ids[g] = s->ids[p * GROUP + g];
    mr_train_group x = { .prompt = s->prompt[p],
                         .n_prompt = s->n_prompt[p],
                         .ids = ids,
                         .n_ids = s->n_ids + p * GROUP,
                         .n_completions = GROUP,
                         .first_token = s->offset[p * GROUP] };
    return mr_packer_add_from(&s->k, &x, first);
}

static bool add_group(step *s, int p) {
    return add_from(s, p, 0) == GROUP;
}

static int group_rows(const step *s, int p) {
    int n = s->n_prompt[p];
    for (int b = p * GROUP; b < (p + 1) * GROUP; b++) n += s->n_ids[b] - 1;
    return n;
}

static void forward(step *s, float *logp, float *entropy) {
    float l[MAX_TOK], e[MAX_TOK];
    mr_decoder_forward(s->d, &s->k.pack);
    mr_decoder_logprobs(s->d, l, e, s->k.rows, s->k.targets, s->k.n_targets, s->inv_t);
    for (int i = 0; i < s->k.n_targets; i++) {
        logp[s->k.token[i]] = l[i];
        if (entropy) entropy[s->k.token[i]] = e[i];
    }
}

static void near_rows(const step *s, const float *got, const char *key) {
    for (int b = 0; b < ROWS; b++)
        for (int t = 0; t < s->n_ids[b]; t++)
            CHECK_NEAR(got[s->offset[b] + t],
                       cJSON_GetArrayItem(cJSON_GetArrayItem(field(s->f, key), b), t)->valuedouble, 1e-4);
}

static mr_grpo_opts opts_of(const cJSON *v) {
    mr_grpo_opts o = { .num_generations = GROUP, .epsilon = 0.2f, .epsilon_high = -1, .top_entropy_quantile = 1 };
    const char *type = field(v, "loss_type")->valuestring;
    o.loss_type = !strcmp(type, "grpo") ? MR_LOSS_GRPO : !strcmp(type, "dapo") ? MR_LOSS_DAPO : MR_LOSS_DR_GRPO;
    o.beta = (float)field(v, "beta")->valuedouble;
    o.use_bias_correction_kl = cJSON_IsTrue(field(v, "use_bias_correction_kl"));
    o.max_completion_length = field(v, "max_completion_length")->valueint;
    return o;
}

/* |got - want| <= 1e-3 |want| + 1e-3 of the tensor's own size; values: the device's */
static void near_tensor(mr_backend *b, const char *name, const float *values, const float *want, int64_t n, double rel,
                        double abs_floor) {
    double size = 0, worst = 0;
    float *got = device_copy(b, values, n);
    for (int64_t i = 0; i < n; i++) size = fmax(size, fabs((double)want[i]));
    for (int64_t i = 0; i < n; i++) worst = fmax(worst, fabs((double)got[i] - (double)want[i]));
    if (!(worst <= rel * size + abs_floor)) {
        test_failures_++;
        fprintf(stderr, "%s: off by %.3g, largest value %.3g\n", name, worst, size);
    }
    mr_free(got);
}

/* PEFT's name in the fixture: "base_model.model." NAME ".weight" */
static const char *tensor(const cJSON *map, const char *name) {
    char key[256];
    snprintf(key, sizeof key, "base_model.model.%s.weight", name);
    return field(map, key)->valuestring;
}

/* How the two groups are packed for the backward pass. */
typedef enum packing { ONE_PACK, TWO_PACKS, IN_PARTS } packing;

/* Forward and backward of one pack. */
static void train_pack(step *s, const float *dlogp) {
    float again[MAX_TOK], weight[MAX_TOK];
    forward(s, again, NULL);
    for (int i = 0; i < s->k.n_targets; i++) weight[i] = dlogp[s->k.token[i]];
    mr_decoder_backward(s->d, &s->k.pack, s->k.rows, s->k.targets, weight, s->k.n_targets, s->inv_t);
}

/* No pack has room for a whole group; what is left of one and the next go together where they fit. */
static void train_parts(step *s, const float *dlogp) {
    int first = 0, n_packs = 0, n_targets = 0;
    for (int p = 0; p < 2; n_packs++) {
        mr_packer_reset(&s->k);
        while (p < 2) {
            first = add_from(s, p, first);
            if (first < GROUP) break;
            first = 0, p++;
        }
        n_targets += s->k.n_targets;
        train_pack(s, dlogp);
    }
    CHECK(n_packs > 2);
    CHECK_INT(n_targets, s->offset[ROWS]);
}

static void check_variant(step *s, const cJSON *v, packing how) {
    mr_err err;
    int n_params;
    const mr_param *params = mr_model_params(s->r.m, &n_params);
    mr_grpo_opts o = opts_of(v);
    mr_grpo_batch batch = { .offset = s->offset,
                            .logp = s->logp,
                            .logp_ref = s->ref,
                            .entropy = s->entropy,
                            .adv = s->adv,
                            .n_rows = ROWS,
                            .acc = 1,
                            .slices = 1 };
    mr_grpo_stats stats;
    float dlogp[MAX_TOK];
    REQUIRE_OK(mr_grpo_loss(dlogp, &stats, &batch, &o, &err), err);
    CHECK_NEAR(stats.loss, field(v, "loss")->valuedouble, 1e-5);
    if (o.beta != 0) CHECK_NEAR(stats.kl, field(v, "kl_metric")->valuedouble, 1e-5);
    CHECK_NEAR(stats.entropy, field(s->f, "entropy_metric")->valuedouble, 1e-5);
    mr_model_zero_grads(s->r.m);
    if (how == IN_PARTS) train_parts(s, dlogp);
    for (int p = 0; p < 2 && how != IN_PARTS;) {
        mr_packer_reset(&s->k);
        REQUIRE(add_group(s, p++));
        if (how == ONE_PACK) REQUIRE(add_group(s, p++));
        train_pack(s, dlogp);
    }
    CHECK_INT(n_params, cJSON_GetArraySize(field(v, "grads_f32_b64")));
    for (int i = 0; i < n_params; i++) {
        int64_t n = params[i].rows * params[i].cols;
        float *want = floats(tensor(field(v, "grads_f32_b64"), params[i].name), n);
        near_tensor(s->r.b, params[i].name, params[i].grad, want, n, 1e-3, 0);
        mr_free(want);
    }
    int64_t n;
    bool finite;
    const float *grads = mr_model_grads(s->r.m, &n);
    double norm = sqrt(s->r.b->sum_squares(s->r.b, grads, n, &finite));
    CHECK(finite);
    CHECK_NEAR(norm, field(v, "grad_norm")->valuedouble, 1e-4);
    float clip = mr_clip_coefficient(norm, (float)field(v, "clip_max_norm")->valuedouble);
    CHECK_NEAR(clip, field(v, "clip_coef")->valuedouble, 1e-5);
    const cJSON *after = field(v, "after_one_adamw_step");
    if (!cJSON_IsObject(after) || how != ONE_PACK) return;
    mr_optimizer *opt;
    mr_optimizer_opts oo = { .kind = MR_ADAMW_8BIT, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-8f, .weight_decay = 0.1f };
    REQUIRE_OK(mr_optimizer_open(&opt, s->r.b, params, n_params, &oo, &err), err);
    mr_optimizer_step(opt, 5e-6f, clip);
    for (int i = 0; i < n_params; i++) {
        int64_t m = params[i].rows * params[i].cols;
        float *want = floats(tensor(field(after, "params_f32_b64"), params[i].name), m);
        /* the first step moves by about lr = 5e-6 whatever the gradient's size: gradients near 0 may turn */
        near_tensor(s->r.b, params[i].name, params[i].value, want, m, 0, 2e-7);
        mr_free(want);
    }
    mr_optimizer_close(opt);
    rig_adapter(&s->r, "tiny_qwen2_lora");
}

static void whole_step(bool checkpointing, packing how) {
    step s;
    open_step(&s, checkpointing);
    REQUIRE(add_group(&s, 0) && add_group(&s, 1));
    mr_model_adapter(s.r.m, false);
    forward(&s, s.ref, NULL);
    mr_model_adapter(s.r.m, true);
    forward(&s, s.logp, s.entropy);
    near_rows(&s, s.ref, "reference_logps");
    near_rows(&s, s.logp, "policy_logps");
    near_rows(&s, s.entropy, "policy_entropies");
    if (how == IN_PARTS) {
        int a = group_rows(&s, 0), b = group_rows(&s, 1);
        mr_err err;
        mr_packer_clear(&s.k);
        REQUIRE_OK(mr_packer_init(&s.k, (a < b ? a : b) - 1, 64 * 16, ROWS, &err), err);
    }
    const cJSON *v;
    int n = 0;
    cJSON_ArrayForEach(v, field(s.f, "variants")) {
        check_variant(&s, v, how);
        n++;
    }
    CHECK_INT(n, 4);
    close_step(&s);
}

static void in_one_pack(void) {
    whole_step(false, ONE_PACK);
}
static void in_two_packs(void) {
    whole_step(false, TWO_PACKS);
}
static void in_parts(void) {
    whole_step(false, IN_PARTS);
}
static void with_checkpointing(void) {
    whole_step(true, ONE_PACK);
}

static void advantages(void) {
    step s;
    mr_err err;
    open_step(&s, false);
    float rewards[2 * ROWS], w[2], adv[ROWS], reward[ROWS], std[ROWS];
    for (int i = 0; i < 2 * ROWS; i++)
        rewards[i] =
            (float)cJSON_GetArrayItem(cJSON_GetArrayItem(field(s.f, "rewards_per_func"), i / 2), i % 2)->valuedouble;
    for (int i = 0; i < 2; i++) w[i] = (float)cJSON_GetArrayItem(field(s.f, "reward_weights"), i)->valuedouble;
    mr_grpo_opts o = { .num_generations = GROUP };
    REQUIRE_OK(mr_grpo_advantages(adv, reward, std, rewards, w, ROWS, 2, &o, &err), err);
    for (int b = 0; b < ROWS; b++) CHECK_NEAR(adv[b], s.adv[b], 1e-6);
    close_step(&s);
}

TEST_MAIN({ "in one pack", in_one_pack }, { "in two packs", in_two_packs }, { "in parts", in_parts },
          { "with checkpointing", with_checkpointing }, { "advantages", advantages })
