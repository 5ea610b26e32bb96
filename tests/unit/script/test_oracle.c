/* test_oracle.c - rewards that misbehave, through real workers, down to the advantages: what each of them does to its
 * group is worked out here a second time, in a few lines that share nothing with the trainer, and has to agree.
 *
 * A fault counts as the lowest value of the declared range, an abstention as nothing (reliability.md, P5). */
#include <math.h>

#include "rl/grpo.h"
#include "unit/script/script_test.h"

enum { GROUP = 6, PROMPTS = 2, N = GROUP * PROMPTS };
#define LOW (-1.0) /* of the range */
#define NONE NAN   /* abstains */

/* What the reward does for completion i of a group (0 to 5), as Lua, and what it is worth. The second prompt of each
 * case is scored by the same script with i + 6. */
typedef struct behavior {
    const char *name, *lua; /* the body of a function of i, or of the whole list of samples when batch */
    bool batch;
    double want[N];
} behavior;

static const behavior behaviors[] = {
    { "fine",
      "return i / 6",
      false,
      { 0, 1 / 6., 2 / 6., .5, 4 / 6., 5 / 6., 1, 7 / 6., 8 / 6., 1.5, 10 / 6., 11 / 6. } },
    { "throws_at_3", "if i == 3 then error('no') end return 1", false, { 1, 1, 1, LOW, 1, 1, 1, 1, 1, 1, 1, 1 } },
    { "nan_every_second",
      "return i % 2 == 1 and 0 / 0 or i / 10",
      false,
      { 0, LOW, .2, LOW, .4, LOW, .6, LOW, .8, LOW, 1, LOW } },
    { "text", "return 'good'", false, { LOW, LOW, LOW, LOW, LOW, LOW, LOW, LOW, LOW, LOW, LOW, LOW } },
    { "number_as_text", "return i == 0 and '1.5' or 1", false, { LOW, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 } },
    { "nil", "return nil", false, { NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE } },
    { "nil_but_one",
      "if i == 4 then return 2 end",
      false,
      { NONE, NONE, NONE, NONE, 2, NONE, NONE, NONE, NONE, NONE, NONE, NONE } },
    { "nil_half",
      "if i % 2 == 0 then return i / 10 end",
      false,
      { 0, NONE, .2, NONE, .4, NONE, .6, NONE, .8, NONE, 1, NONE } },
    { "nothing", "local _ = i", false, { NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE } },
    { "infinite", "return i == 2 and math.huge or 0.5", false, { .5, .5, LOW, .5, .5, .5, .5, .5, .5, .5, .5, .5 } },
    { "minus_infinite",
      "return i == 7 and -math.huge or 0.5",
      false,
      { .5, .5, .5, .5, .5, .5, .5, LOW, .5, .5, .5, .5 } },
    { "above", "return i == 5 and 2.0001 or 2", false, { 2, 2, 2, 2, 2, LOW, 2, 2, 2, 2, 2, 2 } },
    { "below", "return i == 5 and -1.0001 or -1", false, { -1, -1, -1, -1, -1, LOW, -1, -1, -1, -1, -1, -1 } },
    { "loop",
      "while i == 8 do end return i / 100",
      false,
      { 0, .01, .02, .03, .04, .05, .06, .07, LOW, .09, .1, .11 } },
    { "all_equal", "return 0.1", false, { .1, .1, .1, .1, .1, .1, .1, .1, .1, .1, .1, .1 } },
    { "memory",
      "if i == 1 then local s = 'x' while true do s = s .. s end end return 0",
      false,
      { 0, LOW, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 } },
    { "boolean", "return i > 2", false, { LOW, LOW, LOW, LOW, LOW, LOW, LOW, LOW, LOW, LOW, LOW, LOW } },
    { "list", "return { i }", false, { LOW, LOW, LOW, LOW, LOW, LOW, LOW, LOW, LOW, LOW, LOW, LOW } },
    { "error_object", "if i < 2 then error({ i }) end return 1", false, { LOW, LOW, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 } },
    { "stack",
      "local function f() return 1 + f() end return i == 9 and f() or 0",
      false,
      { 0, 0, 0, 0, 0, 0, 0, 0, 0, LOW, 0, 0 } },
    { "two_values", "if i == 1 then return 1, 2 end return 1", false, { 1, LOW, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 } },
    { "minus_zero", "return i == 0 and -0 or 0", false, { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 } },
    { "tiny", "return i == 3 and 1e-310 or 0", false, { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 } },
    { "too_few",
      "local v = {} for k = 1, #s - (i == 0 and 1 or 0) do v[k] = k / 10 end return v",
      true,
      { LOW, LOW, LOW, LOW, LOW, LOW, .1, .2, .3, .4, .5, .6 } },
    { "too_many",
      "local v = {} for k = 1, #s + (i == 6 and 1 or 0) do v[k] = k / 10 end return v",
      true,
      { .1, .2, .3, .4, .5, .6, LOW, LOW, LOW, LOW, LOW, LOW } },
    { "batch_nan",
      "local v = {} for k = 1, #s do v[k] = k == 2 and 0 / 0 or k / 10 end return v",
      true,
      { .1, LOW, .3, .4, .5, .6, .1, LOW, .3, .4, .5, .6 } },
    { "batch_false",
      "local v = {} for k = 1, #s do v[k] = k ~= 2 and k / 10 end return v",
      true,
      { .1, NONE, .3, .4, .5, .6, .1, NONE, .3, .4, .5, .6 } },
    { "batch_throws",
      "if i == 6 then error('no') end local v = {} for k = 1, #s do v[k] = k / 10 end return v",
      true,
      { .1, .2, .3, .4, .5, .6, LOW, LOW, LOW, LOW, LOW, LOW } },
    { "batch_loops",
      "while i == 0 do end local v = {} for k = 1, #s do v[k] = k / 10 end return v",
      true,
      { LOW, LOW, LOW, LOW, LOW, LOW, .1, .2, .3, .4, .5, .6 } },
};

/* The oracle: (r - mean) / (deviation with n - 1, plus 1e-4) over what is there; 0 where nothing is, or alone. */
static void oracle(double adv[N], const double bad[N], double weight) {
    for (int p = 0; p < PROMPTS; p++) {
        double r[GROUP], mean = 0, square = 0;
        for (int i = 0; i < GROUP; i++) {
            double b = bad[p * GROUP + i];
            r[i] = i % 3 + (isnan(b) ? 0 : weight * b); /* the other reward never fails */
            mean += r[i] / GROUP;
        }
        for (int i = 0; i < GROUP; i++) square += (r[i] - mean) * (r[i] - mean);
        for (int i = 0; i < GROUP; i++) adv[p * GROUP + i] = (r[i] - mean) / (sqrt(square / (GROUP - 1)) + 1e-4);
    }
}

static void run_behavior(const behavior *b) {
    char *text = mr_asprintf("local function what(i, s) local _ = s %s end\n"
                             "return { name = 'bad', range = { -1, 2 }, %s }\n",
                             b->lua,
                             b->batch ? "score_batch = function(s) return what(tonumber(s[1].completion), s) end"
                                      : "score = function(c) return what(tonumber(c)) end");
    put_file("rewards/bad.lua", text);
    mr_free(text);
    put_file("rewards/good.lua", "return { name = 'good', score = function(c) return tonumber(c) % 3 end }\n");
    put_recipe("bad.lua", "{ name = \"bad\", weight = 0.5 }, \"good\"", "");
    mr_pool *p = open_pool("bad.lua", 2, 0.5);
    mr_scorer sc = mr_pool_scorer(p);
    mr_err err = { .msg = "" };
    for (int i = N - 1; i >= 0; i--) {
        char completion[8];
        snprintf(completion, sizeof completion, "%d", i);
        mr_score_job job = { .id = i,
                             .text = completion,
                             .len = strlen(completion),
                             .row_json = "{}",
                             .group = i / GROUP,
                             .n_group = GROUP };
        REQUIRE_OK(sc.submit(sc.self, &job, &err), err);
    }
    mr_score s[2 * N];
    int n_faults;
    REQUIRE_OK(sc.collect(sc.self, s, N, NULL, 0, &n_faults, &err), err);
    float got[2 * N], want[2 * N], adv[N], adv_want[N], reward[N], std[N];
    double by_hand[N];
    for (int i = 0; i < N; i++) {
        got[2 * i] = s[2 * i].kind == MR_ABSTAINED ? NAN : (float)s[2 * i].value;
        got[2 * i + 1] = s[2 * i + 1].kind == MR_ABSTAINED ? NAN : (float)s[2 * i + 1].value;
        want[2 * i] = (float)b->want[i];
        want[2 * i + 1] = (float)(i % 3);
    }
    mr_grpo_opts o = { .num_generations = GROUP, .scale_rewards = MR_SCALE_GROUP };
    REQUIRE_OK(mr_grpo_advantages(adv, reward, std, got, sc.weights, N, 2, &o, &err), err);
    REQUIRE_OK(mr_grpo_advantages(adv_want, reward, std, want, sc.weights, N, 2, &o, &err), err);
    oracle(by_hand, b->want, 0.5);
    for (int i = 0; i < N; i++) {
        if (memcmp(&adv[i], &adv_want[i], sizeof adv[i]) != 0 || fabs((double)adv[i] - by_hand[i]) > 1e-5)
            fprintf(stderr, "%s, completion %d: advantage %g, want %g, by hand %g\n", b->name, i, (double)adv[i],
                    (double)adv_want[i], by_hand[i]);
        CHECK(memcmp(&adv[i], &adv_want[i], sizeof adv[i]) == 0); /* the same bits as without the fault's way around */
        CHECK_NEAR(adv[i], by_hand[i], 1e-5);                     /* f32 against double: observed at most 2e-7 */
    }
    mr_pool_close(p);
}

static void the_group_stays_right(void) {
    for (size_t k = 0; k < sizeof behaviors / sizeof behaviors[0]; k++) run_behavior(&behaviors[k]);
    CHECK(sizeof behaviors / sizeof behaviors[0] >= 24);
}

SCRIPT_TEST_MAIN({ "the_group_stays_right", the_group_stays_right })
