/* test_batch.c - rewards with score_batch: what a batch is (the completions of one prompt, by id, whoever scores them
 * and in whatever order they come), and what each wrong answer costs. */
#include <dirent.h>

#include "base/proc.h"
#include "unit/script/script_test.h"

enum { GROUPS = 12, SIZE = 5, N = GROUPS * SIZE };

/* What each batch was given, folded into its values: the place, the text's length, the row's and the group's size. */
static const char seen[] =
    "local M = { name = 'seen' }\n"
    "function M.score_batch(samples)\n"
    "  local values = {}\n"
    "  for i, s in ipairs(samples) do\n"
    "    assert(s.info.prompt == 'p' .. s.row.k and s.info.step == 3 and s.row == samples[1].row)\n"
    "    values[i] = #samples * 1e6 + i * 1e4 + s.row.k * 100 + #s.completion + s.info.n_tokens / 1000\n"
    "  end\n"
    "  return values\n"
    "end\n"
    "return M\n";

static void submit(mr_scorer *sc, int id, int n_group) {
    char row[32], prompt[16], text[64];
    int group = id / SIZE;
    snprintf(row, sizeof row, "{\"k\":%d}", group);
    snprintf(prompt, sizeof prompt, "p%d", group);
    memset(text, 'a', sizeof text);
    mr_err err = { .msg = "" };
    mr_score_job job = { .id = id,
                         .text = text,
                         .len = (size_t)id % 50,
                         .row_json = row,
                         .prompt = prompt,
                         .n_tokens = id,
                         .step = 3,
                         .group = group,
                         .n_group = n_group };
    REQUIRE_OK(sc->submit(sc->self, &job, &err), err);
}

static void a_batch_is_the_group_by_id(void) {
    put_file("rewards/seen.lua", seen);
    put_file("rewards/len.lua", "return { name = 'len', score = function(c) return #c end }\n");
    put_recipe("both.lua", "\"len\", \"seen\"", "");
    put_recipe("alone.lua", "\"seen\"", "");
    for (int n_workers = 1; n_workers <= 3; n_workers++) {
        mr_pool *p = open_pool(n_workers == 3 ? "alone.lua" : "both.lua", n_workers, 5);
        mr_scorer sc = mr_pool_scorer(p);
        for (int step = 1; step <= 3; step++) {
            static const int strides[] = { 0, 1, 7, 59 }; /* prime to N */
            for (int k = 0; k < N; k++) submit(&sc, (k * strides[step]) % N, SIZE);
            mr_score s[2 * N];
            mr_err err = { .msg = "" };
            int n_faults;
            REQUIRE_OK(sc.collect(sc.self, s, N, NULL, 0, &n_faults, &err), err);
            CHECK_INT(n_faults, 0);
            for (int i = 0; i < N; i++) {
                double want = SIZE * 1e6 + (i % SIZE + 1) * 1e4 + i / SIZE * 100 + i % 50 + i / 1000.0;
                CHECK_NEAR(s[i * sc.n_rewards + sc.n_rewards - 1].value, want, 1e-6);
                if (sc.n_rewards == 2) CHECK_NEAR(s[2 * i].value, i % 50, 0);
            }
        }
        mr_pool_close(p);
    }
}

static void a_group_that_stays_short_is_scored_as_it_is(void) {
    put_file("rewards/count.lua", "return { score_batch = function(s) local v = {}\n"
                                  "  for i = 1, #s do v[i] = #s end return v end }\n");
    put_recipe("count.lua", "\"count\"", "");
    mr_pool *p = open_pool("count.lua", 2, 5);
    mr_scorer sc = mr_pool_scorer(p);
    mr_err err = { .msg = "" };
    mr_score s[8];
    for (int i = 0; i < 8; i++) submit(&sc, i, i < 5 ? 5 : 9); /* the second prompt's group never fills */
    REQUIRE_OK(sc.collect(sc.self, s, 8, NULL, 0, NULL, &err), err);
    for (int i = 0; i < 8; i++) CHECK_NEAR(s[i].value, i < 5 ? 5 : 3, 0);
    for (int i = 0; i < 3; i++) submit(&sc, i, 0); /* without a group each is alone */
    REQUIRE_OK(sc.collect(sc.self, s, 3, NULL, 0, NULL, &err), err);
    for (int i = 0; i < 3; i++) CHECK_NEAR(s[i].value, 1, 0);
    mr_pool_close(p);
}

/* What score_batch does is named by the first completion. */
static const char odd[] = "local M = { name = 'odd', range = { -1.0, 2.0 } }\n"
                          "local function fill(n, v) local t = {} for i = 1, n do t[i] = v end return t end\n"
                          "local how = {\n"
                          "  fine = function(n) return fill(n, 1) end,\n"
                          "  few = function(n) return fill(n - 1, 1) end,\n"
                          "  many = function(n) return fill(n + 2, 1) end,\n"
                          "  number = function() return 1 end, nothing = function() end,\n"
                          "  none = function() return nil end, two = function(n) return fill(n, 1), 2 end,\n"
                          "  throw = function(n) return n.nothing end,\n" /* line 9 */
                          "  nan = function(n) local t = fill(n, 1) t[2] = 0 / 0 return t end,\n"
                          "  text = function(n) local t = fill(n, 1) t[3] = 'x' return t end,\n"
                          "  high = function(n) local t = fill(n, 1) t[1] = 2.5 return t end,\n"
                          "  hole = function(n) local t = fill(n, 1) t[2] = nil return t end,\n"
                          "  abstain = function(n) local t = fill(n, 1) t[2] = false return t end,\n"
                          "  loop = function() while true do end end,\n"
                          "}\n"
                          "function M.score_batch(samples) return how[samples[1].completion](#samples) end\n"
                          "return M\n";

typedef struct outcome {
    const char *how;
    int n_faults;
    char kinds[5]; /* of the four: s scored, a abstained, f fault */
    const char *fault;
} outcome;

static void wrong_answers_cost_their_group_or_sample(void) {
    put_file("rewards/odd.lua", odd);
    put_file("rewards/len.lua", "return { name = 'len', score = function(c) return #c end }\n");
    put_recipe("odd.lua", "\"odd\", \"len\"", "");
    static const outcome cases[] = {
        { "fine", 0, "ssss", NULL },
        { "few", 4, "ffff",
          "rewards/odd.lua:17: score_batch() returned 3 values for 4 completions (false, not nil, abstains) (the 4 "
          "samples of a group, from sample 4 on)" },
        { "many", 4, "ffff", "score_batch() returned 6 values for 4 completions" },
        { "number", 4, "ffff", "score_batch() returned a number, want a list of 4 numbers" },
        { "two", 4, "ffff", "score_batch() returned 2 values, want 1: a list of 4 numbers" },
        { "nothing", 4, "ffff", "score_batch() returned a nil, want a list of 4 numbers" },
        { "none", 4, "ffff", "score_batch() returned a nil, want a list of 4 numbers" },
        { "throw", 4, "ffff", "rewards/odd.lua:9: attempt to index local 'n'" },
        { "nan", 1, "sfss",
          "rewards/odd.lua:17: score_batch() returned NaN for completion 2 of 4, want a finite number (sample 5)" },
        { "text", 1, "ssfs", "score_batch() returned a string for completion 3 of 4, want a number or false" },
        { "high", 1, "fsss", "score_batch() returned 2.5 for completion 1 of 4, outside its range -1 to 2" },
        { "hole", 1, "sfss", "score_batch() returned a nil for completion 2 of 4, want a number or false" },
        { "abstain", 0, "sass", NULL },
        { "loop", 4, "ffff",
          "rewards/odd.lua: no answer within 0.3 s; the worker was killed (the 4 samples of a group, from sample 4" },
    };
    mr_pool *p = open_pool("odd.lua", 2, 0.3);
    mr_scorer sc = mr_pool_scorer(p);
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        const outcome *c = &cases[k];
        mr_err err = { .msg = "" };
        for (int i = 0; i < 12; i++) { /* the odd group stands between two that are fine */
            const char *text = i == 4 ? c->how : i % 4 == 0 ? "fine" : "xx";
            mr_score_job job = {
                .id = i, .text = text, .len = strlen(text), .row_json = "{}", .group = i / 4, .n_group = 4
            };
            REQUIRE_OK(sc.submit(sc.self, &job, &err), err);
        }
        mr_score s[24];
        mr_fault f[8] = { 0 };
        int n_faults;
        REQUIRE_OK(sc.collect(sc.self, s, 12, f, 8, &n_faults, &err), err);
        CHECK_INT(n_faults, c->n_faults);
        if (c->fault) CHECK_CONTAINS(f[0].text, c->fault);
        for (int i = 0; i < 12; i++) {
            CHECK_INT(s[2 * i + 1].kind, MR_SCORED); /* the other reward, of the guilty group too */
            char kind = i / 4 == 1 ? c->kinds[i % 4] : 's';
            CHECK_INT(s[2 * i].kind, kind == 's' ? MR_SCORED : kind == 'a' ? MR_ABSTAINED : MR_FAULT);
            CHECK_NEAR(s[2 * i].value, kind == 's' ? 1 : kind == 'a' ? 0 : -1, 0);
        }
    }
    mr_pool_close(p);
}

/* Groups 1 to 5 of six do not end. */
static const char hangs[] = "local M = { name = 'hangs', range = { -1, 1 } }\n"
                            "function M.score_batch(s)\n"
                            "  local v = {} for i = 1, #s do v[i] = 1 end\n"
                            "  while s[1].row.k > 0 do end\n"
                            "  return v\n"
                            "end\n"
                            "return M\n";

/* A group that hangs is one call that hangs, and a reward that is off is off from the third such group on, by id. */
static void groups_that_hang_cost_three_deadlines(void) {
    enum { PROMPTS = 6, ALL = PROMPTS * 3, CALLED = 3 };
    put_file("rewards/hangs.lua", hangs);
    put_file("rewards/len.lua", "return { name = 'len', score = function(c) return #c end }\n");
    put_recipe("hangs.lua", "\"len\", \"hangs\"", "");
    for (int order = 0; order < 3; order++) {
        mr_pool *p = open_pool("hangs.lua", order + 1, 0.3);
        mr_scorer sc = mr_pool_scorer(p);
        mr_err err = { .msg = "" };
        for (int k = 0; k < ALL; k++) {
            static const int strides[] = { 1, 5, 17 }; /* prime to 18 */
            const int id = k * strides[order] % ALL;
            char row[16];
            snprintf(row, sizeof row, "{\"k\":%d}", id / 3);
            mr_score_job job = { .id = id, .text = "xx", .len = 2, .row_json = row, .group = id / 3, .n_group = 3 };
            REQUIRE_OK(sc.submit(sc.self, &job, &err), err);
        }
        mr_score s[2 * ALL];
        mr_fault f[ALL];
        int n_faults;
        REQUIRE_OK(sc.collect(sc.self, s, ALL, f, ALL, &n_faults, &err), err);
        CHECK_INT(n_faults, 3 * (PROMPTS - 1));
        for (int g = 1; g < PROMPTS; g++) {
            char who[64];
            snprintf(who, sizeof who, "(the 3 samples of a group, from sample %d on)", 3 * g);
            CHECK_INT((int)f[g - 1].id, 3 * g);
            CHECK_CONTAINS(f[g - 1].text, who);
            CHECK_CONTAINS(f[g - 1].text, g <= CALLED ? "rewards/hangs.lua: no answer within 0.3 s"
                                                      : "not called: it did not end for samples 3, 6 and 9");
        }
        CHECK_INT((int)f[PROMPTS - 1].id, -1); /* the others are counted, not described */
        for (int i = 0; i < ALL; i++) {
            CHECK_NEAR(s[2 * i].value, 2, 0);
            CHECK_INT(s[2 * i + 1].kind, i < 3 ? MR_SCORED : MR_FAULT);
            CHECK_NEAR(s[2 * i + 1].value, i < 3 ? 1 : -1, 0);
        }
        mr_pool_close(p);
    }
}

/* Nothing is left to call once the third group has hung, and nothing is waited for then. */
static void a_batch_ends_with_what_is_off(void) {
    enum { PROMPTS = 6, ALL = PROMPTS * 2 };
    put_file("rewards/hangs.lua", hangs);
    put_recipe("only_hangs.lua", "\"hangs\"", "");
    mr_pool *p = open_pool("only_hangs.lua", 1, 0.2);
    mr_scorer sc = mr_pool_scorer(p);
    mr_err err = { .msg = "" };
    for (int id = 0; id < ALL; id++) {
        mr_score_job job = { .id = id, .text = "xx", .len = 2, .row_json = "{\"k\":1}", .group = id / 2, .n_group = 2 };
        REQUIRE_OK(sc.submit(sc.self, &job, &err), err);
    }
    mr_score s[ALL];
    mr_fault f[ALL];
    int n_faults;
    const double began = mr_now_s();
    REQUIRE_OK(sc.collect(sc.self, s, ALL, f, ALL, &n_faults, &err), err);
    CHECK(mr_now_s() - began < 30); /* three deadlines, doubled on a busy machine, and new workers; a wait without end is a minute */
    CHECK_INT(n_faults, ALL);
    CHECK_CONTAINS(f[0].text, "no answer within 0.2 s");
    CHECK_CONTAINS(f[3].text, "not called: it did not end for samples 0, 2 and 4");
    mr_pool_close(p);
}

/* Looks between steps until the file that was just saved is old enough. */
static void look(mr_pool *p, mr_reload *r) {
    mr_scorer sc = mr_pool_scorer(p);
    mr_err err = { .msg = "" };
    for (double end = mr_now_s() + 20; !r->taken && !r->refused && mr_now_s() < end;) {
        mr_reload_clear(r);
        REQUIRE_OK(sc.between_steps(sc.self, 1, r, &err), err);
    }
}

/* A reload scores the last batch in the units that the new version wants. */
static void a_reward_changes_its_form(void) {
    static const struct {
        const char *lua, *note; /* note NULL: refused */
        double value;
    } versions[] = {
        { "score_batch = function(s) local v = {} for i = 1, #s do v[i] = #s + i / 10 end return v end", "4.25", 0 },
        { "score_batch = function(s) return { s[4].completion and 1 } end", NULL, 0 },
        { "score = function(c) return 7 end", "7.00", 7 },
        { "score_batch = function(s) local v = {} for i = 1, #s do v[i] = #s end return v end", "4.00", 4 },
    };
    put_file("rewards/form.lua", "return { score = function(c) return #c end }\n");
    put_recipe("form.lua", "\"form\"", "");
    mr_pool *p = open_pool("form.lua", 2, 2);
    mr_err err = { .msg = "" };
    for (size_t k = 0; k <= sizeof versions / sizeof versions[0]; k++) {
        mr_scorer sc = mr_pool_scorer(p);
        for (int i = 7; i >= 0; i--) {
            mr_score_job job = { .id = i, .text = "xx", .len = 2, .row_json = "{}", .group = i / 4, .n_group = 4 };
            REQUIRE_OK(sc.submit(sc.self, &job, &err), err);
        }
        mr_score s[8];
        int n_faults;
        REQUIRE_OK(sc.collect(sc.self, s, 8, NULL, 0, &n_faults, &err), err);
        CHECK_INT(n_faults, 0);
        for (int i = 0; i < 8; i++) {
            double first = 4 + (i % 4 + 1) / 10.0, want[] = { 2, first, first, 7, 4 };
            CHECK_NEAR(s[i].value, want[k], 1e-9);
        }
        if (k == sizeof versions / sizeof versions[0]) break;
        char text[256];
        snprintf(text, sizeof text, "return { %s }\n", versions[k].lua);
        put_file("rewards/form.lua", text);
        mr_reload r = { 0 };
        look(p, &r);
        CHECK(r.taken == (versions[k].note != NULL) && r.refused == !r.taken);
        CHECK_CONTAINS(r.note.data, versions[k].note ? versions[k].note
                                                     : "rewards/form.lua:1: score_batch() returned 1 values for 4 "
                                                       "completions (false, not nil, abstains) (the 4 samples of a group");
        mr_reload_clear(&r);
    }
    mr_pool_close(p);
}

/* A pool of named files: the one that is gone is missed where it was, and no other of its name is taken. */
static void a_named_file_that_goes_is_missed(void) {
    put_file("here/named.lua", "return { score = function() return 1 end }\n");
    put_file("lua/here/named.lua", "return { score = function() return 2 end }\n");
    const char *list[] = { "here/named.lua", NULL };
    mr_pool *p;
    mr_err err = { .msg = "" };
    REQUIRE_OK(mr_pool_open(&p, NULL, &(mr_pool_opts){ .n_workers = 1, .rewards = list }, &err), err);
    REQUIRE(unlink("here/named.lua") == 0);
    mr_reload r = { 0 };
    look(p, &r);
    CHECK(r.refused);
    CHECK_CONTAINS(r.note.data, "here/named.lua: ");
    CHECK_CONTAINS(r.note.data, "the version in use stays");
    mr_reload_clear(&r);
    put_file("here/named.lua", "return { score = function() return 3 end }\n");
    look(p, &r);
    CHECK(r.taken);
    const char *texts[] = { "a" };
    mr_score s[1];
    CHECK_INT(score_texts(p, texts, 1, "{}", s, NULL, 0), 0);
    CHECK_NEAR(s[0].value, 3, 0);
    mr_reload_clear(&r);
    mr_pool_close(p);
}

static void cases_of_a_batch(void) {
    put_file("rewards/rank.lua",
             "local M = { name = 'rank', range = { 0, 1 }, options = { top = 1 } }\n"
             "function M.score_batch(s) local v = {}\n"
             "  for i = 1, #s do v[i] = #s[i].completion == 2 and s[i].info.options.top or 0 end return v end\n"
             "M.cases = { { { 'aa', 'b' }, {}, { 1, 0 } }, { { 'aa' }, {}, { 0.5 }, options = { top = 0.5 } } }\n"
             "return M\n");
    const char *paths[] = { "rewards/rank.lua" };
    mr_str out = { 0 };
    int passed, failed;
    mr_err err = { .msg = "" };
    REQUIRE_OK(mr_script_test(paths, 1, &out, NULL, &passed, &failed, &err), err);
    CHECK_INT(passed, 3);
    CHECK_INT(failed, 0);
    put_file("rewards/rank.lua", "return { score_batch = function(s) return { 1, 2 } end,\n"
                                 "  cases = { { { 'a', 'b' }, { k = 1 }, { 1, 3 } }, { { 'a' }, {}, { 1 } } } }\n");
    cJSON *files = cJSON_CreateArray();
    REQUIRE_OK(mr_script_test(paths, 1, &out, files, &passed, &failed, &err), err);
    CHECK_STR(out.data, "rewards/rank.lua: case 1 (\"a\"): value 2: got 2, want 3\n"
                        "    completion  a\n    completion  b\n    row         {\"k\":1}\n"
                        "    - want      [1,3]\n    + got       [1,2]\n"
                        "rewards/rank.lua: case 2 (\"a\"): got 2 values, want 1\n"
                        "    completion  a\n    row         {}\n    - want      [1]\n    + got       [1,2]\n");
    const cJSON *first = cJSON_GetArrayItem(files, 0);
    CHECK_STR(cJSON_GetObjectItem(first, "kind")->valuestring, "reward");
    CHECK_INT(cJSON_GetArraySize(cJSON_GetObjectItem(first, "failures")), 2);
    cJSON_Delete(files);
    mr_str_clear(&out);
    put_file("rewards/two.lua", "return { score = function() end, score_batch = function() end }\n");
    put_recipe("two.lua", "\"two\"", "");
    CHECK_STR(refusal("two.lua", NULL), "rewards/two.lua: both score and score_batch are there, want one of them");
    put_file("rewards/three.lua", "return { score_batch = 3 }\n");
    put_recipe("three.lua", "\"three\"", "");
    CHECK_STR(refusal("three.lua", NULL), "rewards/three.lua: score_batch is a number, want a function");
}

/* A pool of rewards alone: names, files, options, and no recipe. */
static void rewards_without_a_recipe(void) {
    put_file("rewards/opt.lua", "return { name = 'opt', options = { plus = 0, say = 'x', on = false },\n"
                                "  score = function(c, _, i) local o = i.options\n"
                                "    return #c + o.plus + #o.say + (o.on and 100 or 0) end }\n");
    put_file("far/rewards/away.lua", "local near = require 'rewards.near'\n"
                                     "return { name = 'away', score = function(c) return near.value end }\n");
    put_file("far/rewards/near.lua", "return { value = 7 }\n");
    const char *list[] = { "opt:plus=0.5,say=abc,on=true,weight=0.25", "far/rewards/away.lua", "xmlcount", NULL };
    mr_pool_opts o = { .n_workers = 2, .rewards = list };
    mr_pool *p;
    mr_err err = { .msg = "" };
    REQUIRE_OK(mr_pool_open(&p, NULL, &o, &err), err);
    mr_scorer sc = mr_pool_scorer(p);
    CHECK_INT(sc.n_rewards, 3);
    CHECK_STR(sc.names[1], "away");
    CHECK_NEAR(sc.weights[0], 0.25, 0);
    char *shown = cJSON_PrintUnformatted(mr_pool_recipe(p));
    CHECK_STR(shown, "{\"rewards\":[{\"name\":\"opt\",\"weight\":0.25},\"away\",\"xmlcount\"]}");
    cJSON_free(shown);
    const char *texts[] = { "ab" };
    mr_score s[3];
    CHECK_INT(score_texts(p, texts, 1, "{}", s, NULL, 0), 0);
    CHECK_NEAR(s[0].value, 105.5, 0);
    CHECK_NEAR(s[1].value, 7, 0);
    CHECK_NEAR(s[2].value, 0, 0);
    mr_row_source rows;
    REQUIRE_OK(mr_pool_rows(p, "train", &rows, &err), err);
    CHECK_INT(rows.n_rows, 0);
    put_file("far/rewards/near.lua", "return { value = 8 }\n"); /* a file that changes is taken over, as in a run */
    mr_reload r = { 0 };
    for (double end = mr_now_s() + 20; !r.taken && mr_now_s() < end;) { /* a file has to stand for a moment */
        mr_reload_clear(&r);
        REQUIRE_OK(sc.between_steps(sc.self, 1, &r, &err), err);
        REQUIRE(!r.refused);
    }
    CHECK(r.taken);
    CHECK_CONTAINS(r.note.data, "far/rewards/near.lua");
    mr_reload_clear(&r);
    CHECK_INT(score_texts(p, texts, 1, "{}", s, NULL, 0), 0);
    CHECK_NEAR(s[1].value, 8, 0);
    mr_pool_close(p);
    static const char *const wrong[][2] = {
        { "nowhere", "--reward: rewards[1]: module \"rewards.nowhere\" was not found" },
        { "no/where.lua", "no/where.lua: no such file here or in" },
        { "opt:plus", "opt:plus: \"plus\" is no option, want NAME:option=value,option=value" },
        { "opt:plus=text", "--reward: rewards[1] (opt): option \"plus\" is a string, want a number" },
        { "opt:minus=1", "unknown option \"minus\"" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        const char *one[] = { wrong[i][0], NULL };
        CHECK_CONTAINS(refusal(NULL, &(mr_pool_opts){ .rewards = one }), wrong[i][1]);
    }
    /* a script may ask for the files that the command named, and for no other */
    put_file("rewards/spy.lua", "return { name = 'spy', score = function()\n"
                                "  return pcall(require, '@/etc/passwd') and 1 or 0 end }\n");
    const char *spy[] = { "rewards/spy.lua", NULL };
    REQUIRE_OK(mr_pool_open(&p, NULL, &(mr_pool_opts){ .rewards = spy }, &err), err);
    CHECK_INT(score_texts(p, texts, 1, "{}", s, NULL, 0), 0);
    CHECK_NEAR(s[0].value, 0, 0);
    mr_pool_close(p);
}

/* Children of this process that have not ended. */
static int n_children(void) {
    int n = 0;
    DIR *d = opendir("/proc");
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[300], text[512] = "", state = 0;
        snprintf(path, sizeof path, "/proc/%s/stat", e->d_name);
        FILE *f = e->d_name[0] >= '1' && e->d_name[0] <= '9' ? fopen(path, "re") : NULL;
        if (!f) continue;
        text[fread(text, 1, sizeof text - 1, f)] = '\0';
        fclose(f);
        const char *end = strrchr(text, ')'); /* the name before it may hold anything */
        int parent = 0;
        if (end && sscanf(end + 1, " %c %d", &state, &parent) == 2) n += parent == (int)getpid() && state != 'Z';
    }
    if (d) closedir(d);
    return n;
}

/* Without a recipe there is no worker for rows: the one that ran the cases scores, and has seen nothing of them. */
static void rewards_alone_need_no_more_workers(void) {
    static const char tally[] = "local seen = 0\n"
                                "local function score() seen = seen + 1 return seen * %d end\n"
                                "return { score = score%s }\n";
    static const char cases[] = ", cases = { { 'a', {}, 2 }, { 'b', {}, 4 } }";
    const char *list[] = { "tally", NULL }, *texts[] = { "a", "b" };
    mr_score s[2];
    mr_err err = { .msg = "" };
    for (int with_cases = 0; with_cases < 2; with_cases++) {
        char *text = mr_asprintf(tally, 2, with_cases ? cases : "");
        put_file("rewards/tally.lua", text);
        mr_free(text);
        for (int n_workers = 1; n_workers <= 2; n_workers++) {
            const int before = n_children();
            mr_pool *p;
            REQUIRE_OK(mr_pool_open(&p, NULL, &(mr_pool_opts){ .n_workers = n_workers, .rewards = list }, &err), err);
            CHECK_INT(n_children() - before, n_workers);
            CHECK_INT(score_texts(p, texts, 1, "{}", s, NULL, 0), 0);
            CHECK_NEAR(s[0].value, 2, 0);
            mr_pool_close(p);
        }
    }
    /* the same of a version that takes over, and of the worker that a recipe has */
    mr_pool *p;
    REQUIRE_OK(mr_pool_open(&p, NULL, &(mr_pool_opts){ .n_workers = 1, .rewards = list }, &err), err);
    char *text = mr_asprintf(tally, 1, ", cases = { { 'a', {}, 1 } }");
    put_file("rewards/tally.lua", text);
    mr_free(text);
    mr_reload r = { 0 };
    for (double end = mr_now_s() + 20; !r.taken && mr_now_s() < end;) {
        mr_reload_clear(&r);
        REQUIRE_OK(mr_pool_scorer(p).between_steps(mr_pool_scorer(p).self, 1, &r, &err), err);
    }
    CHECK_CONTAINS(r.note.data, "rewards/tally.lua: taken over (1 case passed)");
    mr_reload_clear(&r);
    const int alone = n_children();
    CHECK_INT(score_texts(p, texts, 2, "{}", s, NULL, 0), 0);
    CHECK_NEAR(s[0].value + s[1].value, 3, 0);
    mr_pool_close(p);
    CHECK_INT(alone - n_children(), 1);
    put_recipe("tally.lua", "'tally'", "");
    p = open_pool("tally.lua", 1, 2);
    CHECK_INT(n_children() - alone + 1, 2);
    mr_pool_close(p);
}

SCRIPT_TEST_MAIN({ "a_batch_is_the_group_by_id", a_batch_is_the_group_by_id },
                 { "a_group_that_stays_short_is_scored_as_it_is", a_group_that_stays_short_is_scored_as_it_is },
                 { "wrong_answers_cost_their_group_or_sample", wrong_answers_cost_their_group_or_sample },
                 { "a_batch_ends_with_what_is_off", a_batch_ends_with_what_is_off },
                 { "groups_that_hang_cost_three_deadlines", groups_that_hang_cost_three_deadlines },
                 { "a_reward_changes_its_form", a_reward_changes_its_form },
                 { "a_named_file_that_goes_is_missed", a_named_file_that_goes_is_missed },
                 { "cases_of_a_batch", cases_of_a_batch }, { "rewards_without_a_recipe", rewards_without_a_recipe },
                 { "rewards_alone_need_no_more_workers", rewards_alone_need_no_more_workers })
