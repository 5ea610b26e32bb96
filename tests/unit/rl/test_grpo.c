/* Advantages and losses against TRL's own numbers (grpo_losses.json: TRL 1.16's _compute_loss, 53 cases), the worked
 * table of spec/grpo.md 3.3, finite differences, and the cases that have bitten others: NaN in a group, equal
 * rewards, empty rows, everything masked. */
#include <math.h>
#include "rl/grpo.h"

#include "base/json.h"
#include "test.h"

enum { MAX_B = 8, MAX_T = 64 };

static const cJSON *field(const cJSON *o, const char *key) {
    const cJSON *x = cJSON_GetObjectItemCaseSensitive(o, key);
    if (!x) fail_msg("fixture: no field %s", key);
    return x;
}

static double number(const cJSON *x) {
    return cJSON_IsNumber(x) ? x->valuedouble : (double)NAN;
}
static double number_or(const cJSON *o, const char *key, double none) {
    const cJSON *x = field(o, key);
    return cJSON_IsNumber(x) ? x->valuedouble : none;
}

static cJSON *load(void) {
    cJSON *f = NULL;
    mr_err err;
    REQUIRE_OK(mr_json_load(&f, GOLDEN("grpo_losses.json"), 1 << 20, &err), err);
    return f;
}

/* The fixture pads; here rows are ragged: only the first lengths[b] columns exist. */
static int ragged(float *out, const cJSON *rows, const cJSON *lengths) {
    int n = 0, b = 0;
    const cJSON *row;
    cJSON_ArrayForEach(row, rows) {
        int len = cJSON_GetArrayItem(lengths, b++)->valueint;
        for (int t = 0; t < len; t++) out[n++] = (float)cJSON_GetArrayItem(row, t)->valuedouble;
    }
    return n;
}

static mr_grpo_opts opts_of(const cJSON *c) {
    static const char *const names[] = { "grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo" };
    mr_grpo_opts o = { .num_generations = 3 };
    for (int i = 0; i < 8; i++)
        if (!strcmp(field(c, "loss_type")->valuestring, names[i])) o.loss_type = (mr_loss_type)i;
    o.epsilon = (float)number_or(c, "epsilon", 0.2);
    o.epsilon_high = (float)number_or(c, "epsilon_high", -1);
    o.delta = (float)number_or(c, "delta", 0);
    o.beta = (float)number_or(c, "beta", 0);
    o.use_bias_correction_kl = cJSON_IsTrue(field(c, "use_bias_correction_kl"));
    o.sequence_level = !strcmp(field(c, "importance_sampling_level")->valuestring, "sequence");
    o.top_entropy_quantile = (float)number_or(c, "top_entropy_quantile", 1);
    o.entropy_coef = (float)number_or(c, "entropy_coef", 0);
    o.off_policy_mask_threshold = (float)number_or(c, "off_policy_mask_threshold", 0);
    o.max_completion_length = (int)number_or(c, "max_completion_length", 8);
    return o;
}

static void check_metric(const cJSON *metrics, const char *key, double got, const char *name) {
    const cJSON *want = cJSON_GetObjectItemCaseSensitive(metrics, key);
    if (!want) return;
    if (fabs(got - number(want)) > 1e-6 || isnan(got)) {
        test_failures_++;
        fprintf(stderr, "%s: %s is %.9g, want %.9g\n", name, key, got, number(want));
    }
}

static void losses_equal_trl(void) {
    cJSON *f = load();
    const cJSON *lengths = field(f, "lengths");
    float logp[MAX_T], old[MAX_T], ref[MAX_T], ent[MAX_T], adv[MAX_B], is[MAX_T], dlogp[MAX_T], want[MAX_T];
    int32_t offset[MAX_B] = { 0 };
    uint8_t mask[MAX_T];
    int n = ragged(logp, field(f, "logps"), lengths), b = 0, ran = 0, refused = 0;
    ragged(old, field(f, "old_logps"), lengths);
    ragged(ref, field(f, "ref_logps"), lengths);
    ragged(ent, field(f, "entropies"), lengths);
    const cJSON *x;
    cJSON_ArrayForEach(x, lengths) offset[b + 1] = offset[b] + x->valueint, b++;
    for (int i = 0; i < 6; i++) adv[i] = (float)cJSON_GetArrayItem(field(f, "advantages_used"), i)->valuedouble;
    const cJSON *c;
    cJSON_ArrayForEach(c, field(f, "cases")) {
        const char *name = field(c, "name")->valuestring;
        const cJSON *cfg = field(c, "config"), *ratio = field(cfg, "is_ratio");
        mr_grpo_opts o = opts_of(cfg);
        memset(mask, 1, sizeof mask);
        if (cJSON_IsTrue(field(cfg, "mask_truncated"))) memset(mask + offset[3], 0, (size_t)(offset[4] - offset[3]));
        for (int r = 0; r < 6; r++)
            for (int t = offset[r]; t < offset[r + 1] && cJSON_IsArray(ratio); t++) {
                const cJSON *row = cJSON_GetArrayItem(ratio, r);
                is[t] = (float)cJSON_GetArrayItem(row, cJSON_GetArraySize(row) == 1 ? 0 : t - offset[r])->valuedouble;
            }
        mr_grpo_batch batch = {
            .offset = offset,
            .logp = logp,
            .logp_ref = ref,
            .entropy = ent,
            .adv = adv,
            .mask = mask,
            .n_rows = 6,
            .logp_old = cJSON_IsString(field(cfg, "old")) ? old : NULL,
            .is_ratio = cJSON_IsArray(ratio) ? is : NULL,
            .acc = (int)number_or(cfg, "gradient_accumulation_steps", 1),
            .slices = (int)number_or(cfg, "steps_per_generation", 1),
        };
        mr_grpo_stats s;
        mr_err err;
        if (o.entropy_coef != 0) {
            /* The two cases with an entropy bonus are refused, not run: the decoder has no gradient of the entropy. */
            CHECK(strstr(name, "entropy_coef") != NULL);
            CHECK(mr_grpo_loss(dlogp, &s, &batch, &o, &err) == MR_EINVAL);
            CHECK_CONTAINS(err.msg, "entropy_coef");
            refused++;
            continue;
        }
        REQUIRE_OK(mr_grpo_loss(dlogp, &s, &batch, &o, &err), err);
        if (!(fabs(s.loss - number(field(c, "loss"))) <= 1e-6)) {
            test_failures_++;
            fprintf(stderr, "%s: loss is %.9g, want %.9g\n", name, s.loss, number(field(c, "loss")));
        }
        ragged(want, field(c, "grad_logps"), lengths);
        for (int i = 0; i < n; i++)
            if (!(fabsf(dlogp[i] - want[i]) <= 1e-6f)) {
                test_failures_++;
                fprintf(stderr, "%s: dlogp[%d] is %.9g, want %.9g\n", name, i, (double)dlogp[i], (double)want[i]);
            }
        const cJSON *m = field(c, "metrics");
        check_metric(m, "kl", s.kl, name);
        check_metric(m, "entropy", s.entropy, name);
        check_metric(m, "clip_ratio/low_mean", s.clip_low_mean, name);
        check_metric(m, "clip_ratio/high_mean", s.clip_high_mean, name);
        check_metric(m, "clip_ratio/region_mean", s.clip_region_mean, name);
        check_metric(m, "clip_ratio/low_min", s.clip_low_min, name);
        check_metric(m, "clip_ratio/high_max", s.clip_high_max, name);
        check_metric(m, "cispo_clip_ratio", s.clip_high_mean, name);
        ran++;
    }
    CHECK_INT(refused, 2);
    CHECK_INT(ran, 51);
    cJSON_Delete(f);
}

static void advantages_equal_trl(void) {
    cJSON *f = load();
    const cJSON *c;
    int ran = 0;
    float w[2] = { (float)field(f, "reward_weights")->child->valuedouble,
                   (float)field(f, "reward_weights")->child->next->valuedouble };
    cJSON_ArrayForEach(c, field(f, "advantage_cases")) {
        const char *name = c->string;
        const cJSON *rows = field(f, !strncmp(name, "nonan:", 6) ? "rewards_per_func" : "rewards_per_func_with_nan");
        float r[12], adv[6], reward[6], std[6];
        for (int i = 0; i < 12; i++) r[i] = (float)number(cJSON_GetArrayItem(cJSON_GetArrayItem(rows, i / 2), i % 2));
        mr_grpo_opts o = { .num_generations = 3 };
        o.normalize_then_sum = strstr(name, "normalize_then_sum/") != NULL && strstr(name, "sum_then") == NULL;
        o.scale_rewards = strstr(name, "/group")   ? MR_SCALE_GROUP
                          : strstr(name, "/batch") ? MR_SCALE_BATCH
                                                   : MR_SCALE_NONE;
        mr_err err;
        REQUIRE_OK(mr_grpo_advantages(adv, reward, std, r, w, 6, 2, &o, &err), err);
        for (int i = 0; i < 6; i++) {
            CHECK_NEAR(adv[i], number(cJSON_GetArrayItem(field(c, "advantages"), i)), 2e-6);
            CHECK_NEAR(std[i], number(cJSON_GetArrayItem(field(c, "std"), i)), 2e-6);
            double want = number(cJSON_GetArrayItem(field(c, "rewards"), i));
            if (isnan(want))
                CHECK(isnan(reward[i]));
            else
                CHECK_NEAR(reward[i], want, 2e-6);
        }
        ran++;
    }
    CHECK_INT(ran, 7);
    cJSON_Delete(f);
}

/* Figures for which (x + x + ... ) / n differs from x in f32. */
static void equal_rewards_give_exactly_zero(void) {
    for (int g = 2; g <= 16; g++) {
        float r[16], adv[16], reward[16], std[16], w = 0.3f;
        for (int i = 0; i < g; i++) r[i] = 0.1f + (float)g;
        mr_grpo_opts o = { .num_generations = g };
        REQUIRE(mr_grpo_advantages(adv, reward, std, r, &w, g, 1, &o, NULL) == MR_OK);
        for (int i = 0; i < g; i++) CHECK(adv[i] == 0.0f && std[i] == 0.0f);
    }
}

/* A row that nobody scored gets 0 and does not move its group; a group with one valid row has no deviation: 0. */
static void unscored_rows(void) {
    float r[8] = { 1, NAN, 3, NAN, /* group 2 */ NAN, 5, NAN, NAN }, adv[8], reward[8], std[8], w = 1;
    mr_grpo_opts o = { .num_generations = 4 };
    REQUIRE(mr_grpo_advantages(adv, reward, std, r, &w, 8, 1, &o, NULL) == MR_OK);
    CHECK_NEAR(adv[0], -1 / (sqrt(2.0) + 1e-4), 1e-6); /* mean 2, deviation sqrt(2) */
    CHECK_NEAR(adv[2], 1 / (sqrt(2.0) + 1e-4), 1e-6);
    for (int i = 0; i < 8; i++)
        if (i != 0 && i != 2) CHECK(adv[i] == 0.0f);
    CHECK(isnan(reward[1]) && isnan(std[5]) && reward[5] == 5.0f);
}

static void advantages_refuse(void) {
    float r[4] = { 1, 2, INFINITY, 0 }, adv[4] = { 7, 7, 7, 7 }, reward[4], std[4], w = 1;
    mr_grpo_opts o = { .num_generations = 2 };
    mr_err err;
    CHECK(mr_grpo_advantages(adv, reward, std, r, &w, 4, 1, &o, &err) == MR_EINVAL);
    CHECK_CONTAINS(err.msg, "row 2");
    CHECK(adv[0] == 7.0f); /* outputs untouched */
    CHECK(mr_grpo_advantages(adv, reward, std, r, &w, 3, 1, &o, &err) == MR_EINVAL);
    o.num_generations = 1;
    CHECK(mr_grpo_advantages(adv, reward, std, r, &w, 4, 1, &o, &err) == MR_EINVAL);
    CHECK_CONTAINS(err.msg, "need at least 2");
}

/* The smooth losses against central differences, on ratios well inside the clip range; detached weights (cispo,
 * vespo) and their effect are TRL's and are covered by the fixture. */
static void gradients_equal_differences(void) {
    static const mr_loss_type types[] = { MR_LOSS_GRPO, MR_LOSS_BNPO, MR_LOSS_DR_GRPO,
                                          MR_LOSS_DAPO, MR_LOSS_SAPO, MR_LOSS_LUSPO };
    int32_t offset[5] = { 0, 3, 3, 5, 9 }; /* row 1 is empty */
    float logp[9], old[9], ref[9], adv[4] = { 1.25f, -0.5f, -0.75f, 0.5f }, d[9], scratch[9];
    uint8_t mask[9] = { 1, 1, 0, 1, 1, 1, 1, 1, 1 };
    for (int i = 0; i < 9; i++) {
        logp[i] = -0.5f - 0.25f * (float)((i * 7) % 5);
        old[i] = logp[i] + 0.0625f * (float)((i * 5) % 3 - 1);
        ref[i] = logp[i] + 0.125f * (float)((i * 3) % 4 - 2);
    }
    for (int t = 0; t < 6; t++)
        for (int variant = 0; variant < 4; variant++) {
            mr_grpo_opts o = { .num_generations = 2,
                               .loss_type = types[t],
                               .epsilon = 0.5f,
                               .epsilon_high = -1,
                               .beta = 0.25f,
                               .use_bias_correction_kl = variant & 1,
                               .sequence_level = variant & 2,
                               .top_entropy_quantile = 1,
                               .max_completion_length = 4 };
            mr_grpo_batch batch = { .offset = offset,
                                    .logp = logp,
                                    .logp_old = old,
                                    .logp_ref = ref,
                                    .adv = adv,
                                    .mask = mask,
                                    .n_rows = 4,
                                    .acc = 1,
                                    .slices = 1 };
            mr_grpo_stats s;
            REQUIRE(mr_grpo_loss(d, &s, &batch, &o, NULL) == MR_OK);
            CHECK(d[2] == 0.0f); /* masked */
            for (int i = 0; i < 9; i++) {
                float keep = logp[i], h = 0.0078125f;
                mr_grpo_stats up, down;
                logp[i] = keep + h;
                mr_grpo_loss(scratch, &up, &batch, &o, NULL);
                logp[i] = keep - h;
                mr_grpo_loss(scratch, &down, &batch, &o, NULL);
                logp[i] = keep;
                CHECK_NEAR(d[i], (up.loss - down.loss) / (2 * (double)h), 2e-4);
            }
        }
}

/* All masked: loss 0, gradients 0, no division by 0. */
static void everything_masked(void) {
    int32_t offset[3] = { 0, 2, 3 };
    float logp[3] = { -1, -2, -3 }, adv[2] = { 1, -1 }, d[3];
    uint8_t mask[3] = { 0, 0, 0 };
    for (int t = 0; t <= MR_LOSS_VESPO; t++) {
        mr_grpo_opts o = { .num_generations = 2,
                           .loss_type = (mr_loss_type)t,
                           .epsilon = 0.2f,
                           .epsilon_high = -1,
                           .top_entropy_quantile = 1,
                           .max_completion_length = 4 };
        mr_grpo_batch batch = {
            .offset = offset, .logp = logp, .adv = adv, .mask = mask, .n_rows = 2, .acc = 1, .slices = 1
        };
        mr_grpo_stats s;
        REQUIRE(mr_grpo_loss(d, &s, &batch, &o, NULL) == MR_OK);
        CHECK(s.loss == 0 && d[0] == 0 && d[1] == 0 && d[2] == 0);
        CHECK(isnan(s.kl) && isnan(s.ratio_mean));
    }
}

/* --- cases that went wrong elsewhere, by the thread that reported them --- */

static mr_grpo_opts named_opts(mr_loss_type type) {
    return (mr_grpo_opts){ .num_generations = 2, .loss_type = type, .epsilon = 0.2f, .epsilon_high = -1, .top_entropy_quantile = 1,
                           .max_completion_length = 4 };
}

/* trl#5773, #5775: one NaN made every advantage of its group NaN. Here the row is left out, and the others stand as a group without it. */
static void trl_5773_a_nan_stays_with_its_row(void) {
    const float r[8] = { 1, NAN, 3, 2, 0, 1, 0, 1 }, without[3] = { 1, 3, 2 }, w = 1;
    float a[8], b[3], reward[8], std[8];
    mr_grpo_opts four = named_opts(MR_LOSS_DAPO), three = four;
    four.num_generations = 4, three.num_generations = 3;
    REQUIRE(mr_grpo_advantages(a, reward, std, r, &w, 8, 1, &four, NULL) == MR_OK);
    REQUIRE(mr_grpo_advantages(b, reward, std, without, &w, 3, 1, &three, NULL) == MR_OK);
    CHECK(a[1] == 0 && a[0] == b[0] && a[2] == b[1] && a[3] == b[2] && b[0] < 0 && b[1] > 0);
    for (int i = 4; i < 8; i++) CHECK(fabsf(a[i]) > 0.8f); /* and the next group is its own */
}

/* open-instruct#1794: rows were filtered before they were grouped, so that groups slid over prompts. Whatever is left out of one group, the
 * bits of the others stay. */
static void open_instruct_1794_groups_come_before_filters(void) {
    float r[12] = { 1, 2, 3, 4, 5, 7, 6, 8, 1, 0, 1, 0 }, a[12], b[12], reward[12], std[12];
    const float w = 1;
    mr_grpo_opts o = named_opts(MR_LOSS_DAPO);
    o.num_generations = 4;
    REQUIRE(mr_grpo_advantages(a, reward, std, r, &w, 12, 1, &o, NULL) == MR_OK);
    for (int gone = 1; gone <= 4; gone++) {
        for (int i = 0; i < gone; i++) r[4 + i] = NAN;
        REQUIRE(mr_grpo_advantages(b, reward, std, r, &w, 12, 1, &o, NULL) == MR_OK);
        CHECK(memcmp(a, b, 4 * sizeof *a) == 0 && memcmp(a + 8, b + 8, 4 * sizeof *a) == 0);
        for (int i = 0; i < gone; i++) CHECK(b[4 + i] == 0);
    }
}

/* trl#6369, #6439: the denominator counted tokens that the mask had taken out of the numerator. A masked completion is as one without
 * tokens, for each loss: the same bits. */
static void trl_6369_one_mask_for_both_sides(void) {
    const float logp[6] = { -1, -0.5f, -2, -3, -1, -0.3f }, old[6] = { -1.1f, -0.4f, -2, -2.5f, -1, -0.2f };
    const float short_logp[3] = { -1, -0.5f, -0.3f }, short_old[3] = { -1.1f, -0.4f, -0.2f };
    const float adv[4] = { 1, -1, 0.5f, 0 };
    const uint8_t mask[6] = { 1, 1, 0, 0, 0, 1 };
    const int32_t with[5] = { 0, 2, 5, 6, 6 }, none[5] = { 0, 2, 2, 3, 3 };
    for (int t = 0; t <= MR_LOSS_VESPO; t++) {
        mr_grpo_opts o = named_opts((mr_loss_type)t);
        mr_grpo_batch a = { .offset = with, .logp = logp, .logp_old = old, .adv = adv, .mask = mask, .n_rows = 4, .acc = 1, .slices = 1 };
        mr_grpo_batch b = { .offset = none, .logp = short_logp, .logp_old = short_old, .adv = adv, .n_rows = 4, .acc = 1, .slices = 1 };
        mr_grpo_stats sa, sb;
        float da[6], db[3];
        REQUIRE(mr_grpo_loss(da, &sa, &a, &o, NULL) == MR_OK);
        REQUIRE(mr_grpo_loss(db, &sb, &b, &o, NULL) == MR_OK);
        CHECK(isfinite(sa.loss) && sa.loss == sb.loss && sa.ratio_mean == sb.ratio_mean);
        CHECK(da[0] == db[0] && da[1] == db[1] && da[5] == db[2] && da[2] == 0 && da[3] == 0 && da[4] == 0);
        CHECK(da[0] != 0);
    }
}

/* trl#5640: groups of equal rewards still pushed the policy through their KL term. Where their tokens are masked there is none; where they
 * are not, the term is the KL alone, as TRL has it. */
static void trl_5640_masked_groups_have_no_kl(void) {
    const int32_t offset[3] = { 0, 2, 4 };
    const float logp[4] = { -1, -2, -1, -3 }, ref[4] = { -2, -1, -1.5f, -2 }, r[2] = { 0.3f, 0.3f }, w = 1;
    float adv[2], reward[2], std[2], d[4];
    uint8_t mask[4] = { 0, 0, 0, 0 };
    mr_grpo_stats s;
    for (int t = 0; t <= MR_LOSS_VESPO; t++) {
        mr_grpo_opts o = named_opts((mr_loss_type)t);
        o.beta = 0.1f;
        REQUIRE(mr_grpo_advantages(adv, reward, std, r, &w, 2, 1, &o, NULL) == MR_OK);
        CHECK(adv[0] == 0 && adv[1] == 0);
        mr_grpo_batch x = { .offset = offset, .logp = logp, .logp_ref = ref, .adv = adv, .mask = mask, .n_rows = 2, .acc = 1, .slices = 1 };
        memset(mask, 0, sizeof mask);
        REQUIRE(mr_grpo_loss(d, &s, &x, &o, NULL) == MR_OK);
        CHECK(s.loss == 0 && d[0] == 0 && d[1] == 0 && d[2] == 0 && d[3] == 0);
        memset(mask, 1, sizeof mask);
        REQUIRE(mr_grpo_loss(d, &s, &x, &o, NULL) == MR_OK);
        CHECK(s.loss > 0 && d[0] > 0 && d[1] < 0); /* towards the reference */
    }
}

/* A completion of no tokens at all, alone and among others. */
static void no_tokens_divide_nothing(void) {
    const int32_t nothing[3] = { 0, 0, 0 }, one[3] = { 0, 0, 1 };
    const float logp[1] = { -1 }, adv[2] = { 1, -1 };
    float d[1] = { 7 };
    mr_grpo_stats s;
    for (int t = 0; t <= MR_LOSS_VESPO; t++) {
        mr_grpo_opts o = named_opts((mr_loss_type)t);
        mr_grpo_batch x = { .offset = nothing, .logp = logp, .adv = adv, .n_rows = 2, .acc = 1, .slices = 1 };
        d[0] = 7;
        REQUIRE(mr_grpo_loss(d, &s, &x, &o, NULL) == MR_OK);
        CHECK(s.loss == 0 && d[0] == 7);
        x.offset = one;
        REQUIRE(mr_grpo_loss(d, &s, &x, &o, NULL) == MR_OK);
        CHECK(isfinite(s.loss) && isfinite(d[0]) && d[0] > 0);
    }
}

static void loss_refuses(void) {
    int32_t offset[3] = { 0, 2, 1 };
    float logp[3] = { -1, -2, -3 }, adv[2] = { 1, NAN }, d[3];
    mr_grpo_opts o = { .num_generations = 2, .epsilon = 0.2f, .epsilon_high = -1, .top_entropy_quantile = 1 };
    mr_grpo_batch batch = { .offset = offset, .logp = logp, .adv = adv, .n_rows = 2, .acc = 1, .slices = 1 };
    mr_grpo_stats s;
    mr_err err;
    CHECK(mr_grpo_loss(d, &s, &batch, &o, &err) == MR_EINVAL);
    CHECK_CONTAINS(err.msg, "row 1");
    offset[2] = 3;
    CHECK(mr_grpo_loss(d, &s, &batch, &o, &err) == MR_EINVAL);
    CHECK_CONTAINS(err.msg, "not finite");
    adv[1] = 0;
    o.beta = 0.1f;
    CHECK(mr_grpo_loss(d, &s, &batch, &o, &err) == MR_EINVAL);
    CHECK_CONTAINS(err.msg, "reference");
    o.beta = 0;
    o.top_entropy_quantile = 0.5f;
    CHECK(mr_grpo_loss(d, &s, &batch, &o, &err) == MR_EINVAL);
    o.top_entropy_quantile = 1;
    o.loss_type = MR_LOSS_DR_GRPO;
    CHECK(mr_grpo_loss(d, &s, &batch, &o, &err) == MR_EINVAL);
    CHECK_CONTAINS(err.msg, "max_completion_length");
}

TEST_MAIN({ "losses equal TRL", losses_equal_trl }, { "advantages equal TRL", advantages_equal_trl },
          { "equal rewards give exactly zero", equal_rewards_give_exactly_zero }, { "unscored rows", unscored_rows },
          { "advantages refuse", advantages_refuse }, { "gradients equal differences", gradients_equal_differences },
          { "trl#5773: a NaN stays with its row", trl_5773_a_nan_stays_with_its_row },
          { "open-instruct#1794: groups come before filters", open_instruct_1794_groups_come_before_filters },
          { "trl#6369: one mask for both sides", trl_6369_one_mask_for_both_sides },
          { "trl#5640: masked groups have no KL", trl_5640_masked_groups_have_no_kl },
          { "no tokens divide nothing", no_tokens_divide_nothing },
          { "everything masked", everything_masked }, { "loss refuses", loss_refuses })
