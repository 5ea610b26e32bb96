/* test_rewards.c - the shipped rewards against the published ones: 68 completions, every score, through real workers;
 * and the cases of every Lua file that comes with medrl. Fixture: reward_cases.json (Python 3.11 on the functions as
 * published). */
#include "unit/script/script_test.h"

typedef struct column {
    const char *key, *entry;
} column;

/* fixture column -> entry in a recipe's list */
static const column columns[] = {
    { "xmlcount", "\"xmlcount\"" },
    { "soft_format", "\"soft_format\"" },
    { "strict_format", "\"strict_format\"" },
    { "int_reward_medical", "\"valid_answer\"" },
    { "correctness_medical_exact_first", "\"correctness\"" },
    { "correctness_medical_as_published", "\"correctness_published\"" },
};
static const column dotall_columns[] = {
    { "soft_format_dotall_match", "{ \"soft_format\", dotall = true }" },
    { "strict_format_dotall", "{ name = \"strict_format\", dotall = true }" },
};
static const column search_columns[] = { { "soft_format_dotall_search",
                                           "{ \"soft_format\", dotall = true, search = true }" } };

static void score_fixture(const column *cols, int n_cols) {
    mr_str list = { 0 };
    for (int c = 0; c < n_cols; c++) mr_str_printf(&list, "%s%s", c ? ", " : "", cols[c].entry);
    put_recipe("fixture.lua", list.data, "");
    mr_str_clear(&list);
    mr_pool *p = open_pool("fixture.lua", 2, 5);
    mr_scorer s = mr_pool_scorer(p);
    CHECK_INT(s.n_rewards, n_cols);
    cJSON *fixture;
    mr_err err = { .msg = "" };
    REQUIRE_OK(mr_json_load(&fixture, GOLDEN("reward_cases.json"), 1 << 20, &err), err);
    const cJSON *cases = cJSON_GetObjectItem(fixture, "cases"), *item;
    int n = 0;
    cJSON_ArrayForEach(item, cases) {
        cJSON *row = cJSON_CreateObject();
        cJSON_AddStringToObject(row, "answer", cJSON_GetObjectItem(item, "gold")->valuestring);
        cJSON_AddStringToObject(row, "db_set", cJSON_GetObjectItem(item, "db_set")->valuestring);
        char *row_json = cJSON_PrintUnformatted(row);
        const char *text = cJSON_GetObjectItem(item, "completion")->valuestring;
        mr_score_job job = { .id = n++, .text = text, .len = strlen(text), .row_json = row_json };
        REQUIRE_OK(s.submit(s.self, &job, &err), err);
        cJSON_free(row_json);
        cJSON_Delete(row);
    }
    CHECK_INT(n, 68);
    mr_score *scores = mr_alloc((size_t)(n * n_cols) * sizeof *scores);
    mr_fault faults[4];
    int n_faults;
    REQUIRE_OK(s.collect(s.self, scores, n, faults, 4, &n_faults, &err), err);
    CHECK_INT(n_faults, 0);
    if (n_faults) fprintf(stderr, "%s\n", faults[0].text);
    int i = 0;
    cJSON_ArrayForEach(item, cases) {
        const cJSON *want = cJSON_GetObjectItem(item, "scores");
        for (int c = 0; c < n_cols; c++) {
            mr_score got = scores[i * n_cols + c];
            double expected = cJSON_GetObjectItem(want, cols[c].key)->valuedouble;
            CHECK_INT(got.kind, MR_SCORED);
            if (fabs(got.value - expected) > 1e-9)
                fprintf(stderr, "case %s, %s:\n", cJSON_GetObjectItem(item, "name")->valuestring, cols[c].key);
            CHECK_NEAR(got.value, expected, 1e-9);
        }
        i++;
    }
    mr_free(scores);
    cJSON_Delete(fixture);
    mr_pool_close(p);
}

static void published_cases(void) {
    score_fixture(columns, sizeof columns / sizeof columns[0]);
}
static void published_cases_dotall(void) {
    score_fixture(dotall_columns, sizeof dotall_columns / sizeof dotall_columns[0]);
}
static void published_cases_search(void) {
    score_fixture(search_columns, 1);
}

static void every_shipped_file_passes_its_cases(void) {
    const char *paths[] = { MR_ROOT "/lua" };
    mr_str out = { 0 };
    int passed, failed;
    mr_err err = { .msg = "" };
    REQUIRE_OK(mr_script_test(paths, 1, &out, NULL, &passed, &failed, &err), err);
    if (failed) fprintf(stderr, "%s", out.data);
    CHECK_INT(failed, 0);
    CHECK(passed > 60);
    mr_str_clear(&out);
}

static void a_wrong_case_is_shown(void) {
    put_file("rewards/off.lua",
             "return { score = function(c) return #c end,\n  cases = { { \"abc\", {}, 3 }, { \"ab\", {}, 3 } } }\n");
    const char *paths[] = { "rewards" };
    mr_str out = { 0 };
    int passed, failed;
    mr_err err = { .msg = "" };
    REQUIRE_OK(mr_script_test(paths, 1, &out, NULL, &passed, &failed, &err), err);
    CHECK_INT(passed, 2); /* it loads, and the first case */
    CHECK_INT(failed, 1);
    CHECK_STR(out.data, "rewards/off.lua: case 2 (\"ab\"): got 2, want 3\n"
                        "    completion  ab\n    row         {}\n    - want      3\n    + got       2\n");
    mr_str_clear(&out);
    put_file("rewards/off.lua", "return { score = function(c) return #c end\n");
    REQUIRE_OK(mr_script_test(paths, 1, &out, NULL, &passed, &failed, &err), err);
    CHECK_INT(failed, 1);
    CHECK_CONTAINS(out.data, "rewards/off.lua:");
    CHECK_CONTAINS(out.data, "expected");
    mr_str_clear(&out);
    const char *nowhere[] = { "no/such" };
    CHECK_INT(mr_script_test(nowhere, 1, &out, NULL, &passed, &failed, &err), MR_ENOTFOUND);
    CHECK_CONTAINS(err.msg, "no/such");
}

SCRIPT_TEST_MAIN({ "published_cases", published_cases }, { "published_cases_dotall", published_cases_dotall },
                 { "published_cases_search", published_cases_search },
                 { "every_shipped_file_passes_its_cases", every_shipped_file_passes_its_cases },
                 { "a_wrong_case_is_shown", a_wrong_case_is_shown })
