/* test_oracle.c - rewards that misbehave, through real workers, down to the advantages: what each of them does to its
 * group is worked out here a second time, in a few lines that share nothing with the trainer, and has to agree.
 *
 * A fault counts as the lowest value of the declared range, an abstention as nothing (reliability.md, P5). */
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

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

/* The oracle: (r - mean) / (deviation with n - 1, plus 1e-4) over what is there; 0 where nothing is, or alone. Values are f32 as a reward
 * is kept, all else is double: the bits are those of the trainer. */
static void oracle(float adv[N], const double bad[N], double weight) {
    for (int p = 0; p < PROMPTS; p++) {
        double r[GROUP], sum = 0, square = 0;
        for (int i = 0; i < GROUP; i++) {
            double b = bad[p * GROUP + i];
            r[i] = (double)(float)((isnan(b) ? 0 : weight * (double)(float)b) + i % 3); /* the other reward never fails */
            sum += r[i];
        }
        for (int i = 0; i < GROUP; i++) square += (r[i] - sum / GROUP) * (r[i] - sum / GROUP);
        const double std = sqrt(square / (GROUP - 1));
        for (int i = 0; i < GROUP; i++) adv[p * GROUP + i] = (float)((r[i] - sum / GROUP) / (std + 1e-4));
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
        snprintf(completion, sizeof completion, "%d", i % 1000);
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
    float got[2 * N], adv[N], want[N], reward[N], std[N];
    for (int i = 0; i < N; i++) {
        got[2 * i] = s[2 * i].kind == MR_ABSTAINED ? NAN : (float)s[2 * i].value;
        got[2 * i + 1] = s[2 * i + 1].kind == MR_ABSTAINED ? NAN : (float)s[2 * i + 1].value;
    }
    mr_grpo_opts o = { .num_generations = GROUP, .scale_rewards = MR_SCALE_GROUP };
    REQUIRE_OK(mr_grpo_advantages(adv, reward, std, got, sc.weights, N, 2, &o, &err), err);
    oracle(want, b->want, 0.5);
    for (int i = 0; i < N; i++) {
        if (memcmp(&adv[i], &want[i], sizeof adv[i]) != 0)
            fprintf(stderr, "%s, completion %d: advantage %.9g, want %.9g\n", b->name, i, (double)adv[i], (double)want[i]);
        CHECK(memcmp(&adv[i], &want[i], sizeof adv[i]) == 0);
    }
    mr_pool_close(p);
}

static void the_group_stays_right(void) {
    for (size_t k = 0; k < sizeof behaviors / sizeof behaviors[0]; k++) run_behavior(&behaviors[k]);
    CHECK(sizeof behaviors / sizeof behaviors[0] >= 24);
}

/* --- on_error --- */

static void on_error_is_read(void) {
    put_file("rewards/file_mask.lua", "return { on_error = 'mask', score = function() return 1 end }\n");
    put_file("rewards/plain.lua", "return { score = function() return 1 end }\n");
    put_file("rewards/own.lua", "return { options = { on_error = 3 }, score = function() return 1 end }\n");
    put_file("rewards/bad_word.lua", "return { on_error = 'zero', score = function() return 1 end }\n");
    put_recipe("policy.lua", "\"plain\", \"file_mask\", { \"own\", on_error = 4 }", "");
    mr_pool *p = open_pool("policy.lua", 1, 5);
    mr_scorer sc = mr_pool_scorer(p);
    CHECK_INT(sc.on_fault[0], MR_FAULT_IS_MIN);
    CHECK_INT(sc.on_fault[1], MR_FAULT_IS_MASKED);
    CHECK_INT(sc.on_fault[2], MR_FAULT_IS_MIN); /* an option of that name is the reward's own */
    mr_pool_close(p);
    put_recipe("policy.lua", "{ \"plain\", on_error = \"stop\" }, { name = \"file_mask\", on_error = \"min\" }", "");
    p = open_pool("policy.lua", 1, 5);
    sc = mr_pool_scorer(p);
    CHECK_INT(sc.on_fault[0], MR_FAULT_STOPS);
    CHECK_INT(sc.on_fault[1], MR_FAULT_IS_MIN); /* the recipe has the last word */
    mr_pool_close(p);
    mr_pool_opts o = { .n_workers = 1, .deadline_s = 5 };
    put_recipe("policy.lua", "\"bad_word\"", "");
    CHECK_CONTAINS(refusal("policy.lua", &o), "rewards/bad_word.lua: on_error is \"zero\", want \"min\", \"mask\" or \"stop\"");
    put_recipe("policy.lua", "{ \"plain\", on_error = 3 }", "");
    CHECK_CONTAINS(refusal("policy.lua", &o), "policy.lua: rewards[1]: on_error is a number, want \"min\", \"mask\" or \"stop\"");
}

/* --- a worker that dies, and nobody is guilty --- */

static atomic_bool killing;
static atomic_int n_killed;

/* Seconds of processor time of a process; 0 when it is gone. */
static double cpu_of(long pid) {
    char path[64], line[512] = "";
    unsigned long user = 0, kernel = 0;
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    const char *at = fgets(line, sizeof line, f) ? strrchr(line, ')') : NULL;
    fclose(f);
    if (!at || sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &kernel) != 2) return 0;
    return (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
}

/* Ends every worker that has computed for a while: someone from outside who does not like busy processes. */
static void *kill_busy(void *main_thread) {
    char path[64], line[256];
    long last = 0;
    snprintf(path, sizeof path, "/proc/self/task/%ld/children", *(const long *)main_thread);
    while (atomic_load(&killing)) {
        FILE *list = fopen(path, "r");
        line[0] = '\0';
        if (list && fgets(line, sizeof line, list))
            for (char *at = line, *end; strtol(at, &end, 10) > 0 && end != at; at = end) {
                const long pid = strtol(at, NULL, 10);
                if (pid == last || cpu_of(pid) < 0.6) continue; /* it has its time until somebody waits for it */
                kill((pid_t)pid, SIGKILL);
                last = pid;
                atomic_fetch_add(&n_killed, 1);
            }
        if (list) fclose(list);
        usleep(20000);
    }
    return NULL;
}

static void nobody_is_guilty_of_a_kill_from_outside(void) {
    put_file("rewards/slow.lua", "return { range = { -5, 5 }, score = function(c) while c == 'x' do end return 1 end }\n");
    put_file("rewards/good.lua", "return { name = 'good', score = function() return 2 end }\n");
    put_recipe("slow.lua", "\"slow\", \"good\"", "");
    mr_pool *p = open_pool("slow.lua", 1, 60);
    mr_scorer sc = mr_pool_scorer(p);
    mr_err err = { .msg = "" };
    long main_thread = getpid();
    pthread_t killer;
    atomic_store(&killing, true);
    REQUIRE(pthread_create(&killer, NULL, kill_busy, &main_thread) == 0);
    for (int i = 0; i < 3; i++) {
        mr_score_job job = { .id = i, .text = i == 1 ? "x" : "y", .len = 1, .row_json = "{}" };
        REQUIRE_OK(sc.submit(sc.self, &job, &err), err);
    }
    mr_score s[6];
    mr_fault f[4];
    int n_faults;
    REQUIRE_OK(sc.collect(sc.self, s, 3, f, 4, &n_faults, &err), err);
    atomic_store(&killing, false);
    pthread_join(killer, NULL);
    CHECK_INT(atomic_load(&n_killed), 3); /* with all rewards, and twice alone */
    CHECK_INT(n_faults, 1);
    CHECK_INT(s[2].kind, MR_FAULT);
    CHECK(isnan(s[2].value)); /* left out, not the lowest */
    CHECK_CONTAINS(f[0].text, "rewards/slow.lua: not scored: the worker ended (killed by signal 9");
    CHECK_CONTAINS(f[0].text, "each time from outside (sample 1)");
    CHECK_NEAR(s[3].value, 2, 0);
    for (int i = 0; i < 3; i += 2) CHECK(s[2 * i].kind == MR_SCORED && s[2 * i].value == 1 && s[2 * i + 1].value == 2);
    mr_pool_close(p);
}

SCRIPT_TEST_MAIN({ "the_group_stays_right", the_group_stays_right }, { "on_error_is_read", on_error_is_read },
                 { "nobody_is_guilty_of_a_kill_from_outside", nobody_is_guilty_of_a_kill_from_outside })
