/* The multipliers of transformers (lr_schedule.json, 751 each) and the corners: no warmup, warmup longer than the
 * run, one step. */
#include "rl/schedule.h"

#include "base/json.h"
#include "test.h"

static void equals_transformers(void) {
    static const struct {
        const char *key;
        mr_scheduler kind;
    } kinds[] = { { "cosine_multiplier", MR_SCHED_COSINE },
                  { "linear_multiplier", MR_SCHED_LINEAR },
                  { "constant_with_warmup_multiplier", MR_SCHED_CONSTANT_WITH_WARMUP } };
    cJSON *f = NULL;
    mr_err err;
    REQUIRE_OK(mr_json_load(&f, GOLDEN("lr_schedule.json"), 1 << 20, &err), err);
    int64_t warmup = mr_schedule_warmup(750, 0, 0.1);
    CHECK_INT(warmup, cJSON_GetObjectItem(f, "warmup_steps")->valueint);
    for (int k = 0; k < 3; k++) {
        const cJSON *x;
        int64_t s = 0;
        cJSON_ArrayForEach(x, cJSON_GetObjectItem(f, kinds[k].key)) {
            CHECK_NEAR(mr_schedule_lambda(kinds[k].kind, s, warmup, 750), x->valuedouble, 1e-12);
            s++;
        }
        CHECK_INT(s, 751);
    }
    cJSON_Delete(f);
}

static void warmup_counts(void) {
    CHECK_INT(mr_schedule_warmup(750, 0, 0.1), 75);
    CHECK_INT(mr_schedule_warmup(4, 0, 0.1), 1);  /* ceil(0.4) */
    CHECK_INT(mr_schedule_warmup(24, 3, 0.5), 3); /* steps win */
    CHECK_INT(mr_schedule_warmup(24, 0, 0), 0);
}

/* A 4-step TRL run with lr 5e-6 logged 0, 5e-6, 3.75e-6, 1.25e-6 (spec/optimizer.md 6.4). */
static void four_steps_as_logged(void) {
    static const double want[] = { 0, 5e-6, 3.75e-6, 1.25e-6 };
    for (int k = 1; k <= 4; k++)
        CHECK_NEAR(5e-6 * mr_schedule_lambda(MR_SCHED_COSINE, k - 1, 1, 4), want[k - 1], 1e-12);
}

static void corners(void) {
    CHECK(mr_schedule_lambda(MR_SCHED_CONSTANT, 0, 10, 10) == 1);
    CHECK(mr_schedule_lambda(MR_SCHED_COSINE, 0, 0, 1) == 1);
    CHECK(mr_schedule_lambda(MR_SCHED_LINEAR, 5, 0, 4) == 0); /* past the end */
    CHECK_NEAR(mr_schedule_lambda(MR_SCHED_COSINE, 3, 10, 5), 0.3, 1e-15);
    CHECK(mr_schedule_lambda(MR_SCHED_LINEAR, 10, 10, 5) == 0);
}

TEST_MAIN({ "equals transformers", equals_transformers }, { "warmup counts", warmup_counts },
          { "four steps as logged", four_steps_as_logged }, { "corners", corners })
