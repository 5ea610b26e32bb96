/* test_trl_rewards.c - the rewards that bear TRL's names against TRL's own functions: 223 calls, through real workers.
 * Fixture: trl_rewards.json (TRL 1.16.0, math-verify 0.9.0; make_trl_rewards.py). Where accuracy decides otherwise on
 * purpose, the fixture says what it gives; those are counted, so that they do not become more. */
#include <math.h>

#include "unit/script/script_test.h"

typedef struct run {
    mr_pool *pool;
    const char *spec;
} run;

static void score_case(run *r, const cJSON *c, mr_score *score) {
    const char *spec = cJSON_GetObjectItem(c, "reward")->valuestring;
    mr_err err = { .msg = "" };
    if (!r->spec || strcmp(r->spec, spec) != 0) { /* cases of one reward follow each other */
        mr_pool_close(r->pool);
        const char *list[] = { spec, NULL };
        REQUIRE_OK(mr_pool_open(&r->pool, NULL, &(mr_pool_opts){ .n_workers = 1, .rewards = list }, &err), err);
        r->spec = spec;
    }
    mr_scorer sc = mr_pool_scorer(r->pool);
    const char *text = cJSON_GetObjectItem(c, "completion")->valuestring;
    char *row = cJSON_PrintUnformatted(cJSON_GetObjectItem(c, "row"));
    mr_score_job job = {
        .text = text, .len = strlen(text), .row_json = row, .n_tokens = cJSON_GetObjectItem(c, "n_tokens")->valueint
    };
    REQUIRE_OK(sc.submit(sc.self, &job, &err), err);
    int n_faults;
    REQUIRE_OK(sc.collect(sc.self, score, 1, NULL, 0, &n_faults, &err), err);
    CHECK_INT(n_faults, 0);
    cJSON_free(row);
}

static void equal_to_trl(void) {
    cJSON *fixture;
    mr_err err = { .msg = "" };
    REQUIRE_OK(mr_json_load(&fixture, GOLDEN("trl_rewards.json"), 1 << 20, &err), err);
    const cJSON *c;
    run r = { 0 };
    int n = 0, n_differ = 0;
    cJSON_ArrayForEach(c, cJSON_GetObjectItem(fixture, "cases")) {
        const cJSON *want = cJSON_GetObjectItem(c, "want"), *differs = cJSON_GetObjectItem(c, "medrl_differs");
        mr_score s;
        score_case(&r, c, &s);
        if (differs) {
            n_differ++;
            CHECK(strcmp(r.spec, "accuracy") == 0);
            want = differs;
        }
        CHECK_INT(s.kind, cJSON_IsNull(want) ? MR_ABSTAINED : MR_SCORED);
        if (fabs(s.value - want->valuedouble) > 1e-12)
            fprintf(stderr, "%s of %s: %.17g, want %.17g\n", r.spec, cJSON_GetObjectItem(c, "completion")->valuestring,
                    s.value, want->valuedouble);
        CHECK_NEAR(s.value, want->valuedouble, 1e-12); /* observed: 2.3e-16, the cosine */
        n++;
    }
    CHECK_INT(n, 223);
    CHECK_INT(n_differ, 11);
    mr_pool_close(r.pool);
    cJSON_Delete(fixture);
}

SCRIPT_TEST_MAIN({ "equal_to_trl", equal_to_trl })
