/* Files that are saved while a run trains: every kind of bad one keeps the version in use and says so in one line, good
 * ones take over in all workers at once, and no sample is lost meanwhile. */
#include "script_test.h"

#include <dirent.h>
#include <sys/wait.h>
#include <time.h>

#include "base/proc.h"

static const char row[] = "{\"answer\":\"x\"}";

static void nap(double s) {
    struct timespec t = { (time_t)s, (long)((s - floor(s)) * 1e9) };
    nanosleep(&t, NULL);
}

/* One look, as between two steps; false: nothing to tell. */
static bool look(mr_pool *p, mr_reload *r) {
    const mr_scorer sc = mr_pool_scorer(p);
    mr_err err = { .msg = "" };
    mr_reload_clear(r);
    REQUIRE_OK(sc.between_steps(sc.self, 1, r, &err), err);
    CHECK(!(r->taken && r->refused));
    CHECK((r->note.len > 0) == (r->taken || r->refused));
    return r->note.len > 0;
}

/* Looks until something is told: a file that does not load is told of when it has stood for a moment. */
static void wait_look(mr_pool *p, mr_reload *r) {
    for (double end = mr_now_s() + 20; mr_now_s() < end; nap(0.02))
        if (look(p, r)) return;
    fail_msg("nothing was told");
}

/* Every sample has the same score in a batch that all workers see; gives it. */
static double score_all(mr_pool *p, int reward, int n_rewards) {
    enum { N = 64 };
    static mr_score s[N * 4];
    const char *texts[N];
    for (int i = 0; i < N; i++) texts[i] = "abc";
    memset(s, 0, sizeof s);
    CHECK_INT(score_texts(p, texts, N, row, s, NULL, 0), 0);
    for (int i = 0; i < N; i++) {
        CHECK_INT(s[i * n_rewards + reward].kind, MR_SCORED);
        CHECK(s[i * n_rewards + reward].value == s[reward].value);
    }
    return s[reward].value;
}

static void bad_files_change_nothing(void) {
    put_file("lib.lua", "return { two = 2 }\n");
    put_file("rewards/live.lua", "local lib = require 'lib'\nreturn { score = function() return lib.two end, "
                                 "cases = { { 'x', {}, 2 } } }\n");
    put_recipe("live.lua", "\"live\"", "");
    mr_pool *p = open_pool("live.lua", 3, 0.3);
    mr_reload r = { 0 };
    CHECK_NEAR(score_all(p, 0, 1), 2, 0);
    CHECK(!look(p, &r));
    const struct {
        const char *file, *text, *complaint;
    } bad[] = {
        { "rewards/live.lua", "return { score = function() return 3 end\n", "rewards/live.lua:2: '}' expected" },
        { "rewards/live.lua", "", "rewards/live.lua: the file returned a boolean, want a table" },
        { "rewards/live.lua", "local x = nil\nreturn x.y\n", "rewards/live.lua:2: attempt to index local 'x'" },
        { "rewards/live.lua", "return {}\n", "rewards/live.lua: score is missing" },
        { "rewards/live.lua", "return { score = 3 }\n", "rewards/live.lua: score is a number, want a function" },
        { "rewards/live.lua", "return { score = function() return 3 end, cases = { { 'x', {}, 1 } } }\n",
          "rewards/live.lua: case 1 (\"x\"): got 3, want 1" },
        { "rewards/live.lua", "\x1bLJ\x02", "rewards/live.lua: byte 0: this is bytecode" },
        { "rewards/live.lua", "while true do end\n", "rewards/live.lua: loading the file: no answer for" },
        { "rewards/live.lua", "return { score = function(c)\n  if #c == 3 then error('three') end\n  return 3 end }\n",
          "rewards/live.lua:2: three (sample " }, /* what the last batch says */
        { "rewards/live.lua", "return { score = function(c)\n  while #c == 3 do end\n  return 3 end }\n",
          "rewards/live.lua: no answer within" },
        { "lib.lua", "return {\n", "lib.lua:2:" },
        { "lib.lua", "return { two = 'two' }\n", "rewards/live.lua: case 1" },
        { "live.lua", "return { rewards = {} }\n", "live.lua: rewards is empty" },
        { "live.lua", "return { rewards = { 'live', 'nowhere' } }\n", "module \"rewards.nowhere\" was not found" },
        { "live.lua", "return 7\n", "live.lua: the file returned a number, want a recipe" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char *good;
        size_t len;
        mr_err err = { .msg = "" };
        REQUIRE_OK(mr_file_read(&good, &len, bad[i].file, 1 << 20, &err), err);
        put_file(bad[i].file, bad[i].text);
        wait_look(p, &r);
        CHECK(r.refused);
        CHECK_CONTAINS(r.note.data, bad[i].complaint);
        CHECK_CONTAINS(r.note.data, "; the version in use stays (changed: ");
        CHECK_CONTAINS(r.note.data, bad[i].file);
        CHECK(strchr(r.note.data, '\n') == NULL);
        for (int k = 0; k < 5; k++) CHECK(!look(p, &r)); /* said once */
        put_file(bad[i].file, bad[i].text);              /* saved again as it was: nothing new */
        nap(0.12);
        CHECK(!look(p, &r));
        CHECK_NEAR(score_all(p, 0, 1), 2, 0);
        put_file(bad[i].file, good); /* back: that is the version in use */
        CHECK(!look(p, &r));
        mr_free(good);
    }
    mr_reload_clear(&r);
    mr_pool_close(p);
}

static void what_is_no_file_changes_nothing(void) {
    put_file("rewards/live.lua", "return { score = function() return 2 end }\n");
    put_recipe("live.lua", "\"live\"", "");
    mr_pool *p = open_pool("live.lua", 2, 2);
    mr_reload r = { 0 };
    /* A file of this name further down the path is none of the run's. */
    put_file("lua/rewards/live.lua", "return { score = function() return 9 end }\n");
    for (int kind = 0; kind < 5; kind++) {
        static const char *const complaints[] = { "is gone", "is a folder now", "leads back to itself",
                                                  "is no plain file", "Permission denied" };
        if (kind == 4 && geteuid() == 0) continue; /* to root every file is readable */
        REQUIRE(unlink("rewards/live.lua") == 0);
        if (kind == 1) REQUIRE(mkdir("rewards/live.lua", 0755) == 0);
        if (kind == 2) REQUIRE(symlink("live.lua", "rewards/live.lua") == 0);
        if (kind == 3) REQUIRE(mkfifo("rewards/live.lua", 0644) == 0);
        if (kind == 4) {
            put_file("rewards/live.lua", "return { score = function() return 9 end }\n");
            REQUIRE(chmod("rewards/live.lua", 0) == 0);
        }
        wait_look(p, &r);
        CHECK(r.refused);
        CHECK_CONTAINS(r.note.data, "rewards/live.lua: ");
        CHECK_CONTAINS(r.note.data, complaints[kind]);
        CHECK(!look(p, &r));
        CHECK_NEAR(score_all(p, 0, 1), 2, 0);
        if (kind == 1)
            REQUIRE(rmdir("rewards/live.lua") == 0);
        else if (kind > 0)
            REQUIRE(unlink("rewards/live.lua") == 0);
        put_file("rewards/live.lua", "return { score = function() return 2 end }\n");
        CHECK(!look(p, &r));
    }
    unlink("lua/rewards/live.lua");
    mr_reload_clear(&r);
    mr_pool_close(p);
}

static void a_good_file_takes_over_at_once(void) {
    put_file("rewards/live.lua", "return { score = function() return 1 end, cases = { { 'x', {}, 1 } } }\n");
    put_recipe("live.lua", "\"live\"", "");
    mr_pool *p = open_pool("live.lua", 3, 2);
    mr_reload r = { 0 };
    score_all(p, 0, 1);
    const char *name = mr_pool_scorer(p).names[0];
    put_file("rewards/live.lua", "return { score = function() return 2.25 end, cases = { { 'x', {}, 2.25 } } }\n");
    CHECK(look(p, &r)); /* the very next look: at most one step */
    CHECK(r.taken && !r.rows && !r.settings);
    CHECK_STR(r.note.data, "rewards/live.lua: taken over (1 case passed; last batch: live 1.00 -> 2.25)");
    CHECK_NEAR(score_all(p, 0, 1), 2.25, 0);
    CHECK_STR(name, "live"); /* borrowed from the first version, and still there */
    const cJSON *list = cJSON_GetObjectItem(r.detail, "changed");
    CHECK_INT(cJSON_GetArraySize(list), 1);
    CHECK_STR(list->child->valuestring, "rewards/live.lua");
    int n;
    const mr_script_text *texts = mr_pool_scripts(p, &n);
    for (int i = 0; i < n; i++)
        CHECK_STR(cJSON_GetStringValue(cJSON_GetObjectItem(cJSON_GetObjectItem(r.detail, "scripts"), texts[i].name)),
                  texts[i].sha256);
    put_file("rewards/live.lua", "return { score = function() return 2.25 end, cases = { { 'x', {}, 2.25 } } }\n");
    CHECK(!look(p, &r)); /* touched only */
    mr_reload_clear(&r);
    mr_pool_close(p);
}

static void recipes_change_rewards_weights_and_settings(void) {
    static const char settings[] = "  model = { name = 'm' },\n  lora = { r = %d },\n"
                                   "  data = { train = data.get('nano_tasks', { n = %d, seed = 5 }) },\n"
                                   "  grpo = { learning_rate = %s, max_steps = 5, prompts_per_step = 4 },\n";
    char body[512];
    put_file("rewards/one.lua", "return { score = function() return 1 end }\n");
    put_file("rewards/two.lua", "return { score = function() return 2 end }\n");
    snprintf(body, sizeof body, settings, 4, 24, "1e-3");
    put_recipe("full.lua", "\"one\"", body);
    mr_pool *p = open_pool("full.lua", 2, 5);
    mr_reload r = { 0 };
    mr_err err = { .msg = "" };
    mr_row_source rows, same;
    REQUIRE_OK(mr_pool_rows(p, "train", &rows, &err), err);
    CHECK_INT(rows.n_rows, 24);
    score_all(p, 0, 1);

    snprintf(body, sizeof body, settings, 8, 24, "2e-3");
    put_recipe("full.lua", "{ name = 'two', weight = 0.5 }, 'one'", body);
    wait_look(p, &r);
    CHECK(r.taken && !r.rows);
    CHECK_CONTAINS(r.note.data, "last batch: two - -> 2.00)");
    CHECK_CONTAINS(r.note.data, "full.lua: lora.r is 8 instead of 4 (the adapter was made with it): cannot change");
    CHECK_INT(cJSON_GetArraySize(r.settings), 1);
    CHECK_NEAR(cJSON_GetObjectItem(r.settings, "grpo.learning_rate")->valuedouble, 2e-3, 0);
    mr_scorer sc = mr_pool_scorer(p), next;
    REQUIRE_OK(sc.again(sc.self, &next, &same, &err), err);
    CHECK_INT(next.n_rewards, 2);
    CHECK_STR(next.names[0], "two");
    CHECK_NEAR(next.weights[0], 0.5, 0);
    CHECK(same.self == rows.self && same.n_rows == 24);
    CHECK_NEAR(score_all(p, 1, 2), 1, 0);

    snprintf(body, sizeof body, settings, 8, 30, "2e-3"); /* r is said once, not with each further save */
    put_recipe("full.lua", "'one'", body);
    wait_look(p, &r);
    CHECK(r.taken && r.rows && !r.settings);
    CHECK_CONTAINS(r.note.data, "data.train has 30 rows now");
    CHECK(strstr(r.note.data, "lora.r") == NULL);
    REQUIRE_OK(sc.again(sc.self, &next, &same, &err), err);
    CHECK(same.n_rows == 30 && next.n_rewards == 1);
    mr_row got = { 0 };
    REQUIRE_OK(same.get(same.self, 29, &got, &err), err);
    mr_row_clear(&got);

    const struct {
        int r, rows;
        const char *rate, *complaint;
    } bad[] = {
        { 4, 3, "1e-3", "data.train has 3 rows now, a step takes 4" },
        { 4, 30, "'fast'", "grpo.learning_rate is \"fast\", want a number" },
        { 4, 30, "1e-3, learnig_rate = 1", "did you mean \"grpo.learning_rate\"?" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        snprintf(body, sizeof body, settings, bad[i].r, bad[i].rows, bad[i].rate);
        put_recipe("full.lua", "'one'", body);
        wait_look(p, &r);
        CHECK(r.refused);
        CHECK_CONTAINS(r.note.data, bad[i].complaint);
        REQUIRE_OK(sc.again(sc.self, &next, &same, &err), err);
        CHECK(same.n_rows == 30 && next.n_rewards == 1);
    }
    mr_reload_clear(&r);
    mr_pool_close(p);
}

/* A version that was turned down is tried again when any of its files is saved, also one that the version in use does not
 * have. */
static void files_that_are_new_are_looked_at(void) {
    put_file("rewards/live.lua", "return { score = function() return 1 end }\n");
    put_recipe("live.lua", "\"live\"", "");
    mr_pool *p = open_pool("live.lua", 2, 2);
    mr_reload r = { 0 };
    score_all(p, 0, 1);
    put_recipe("live.lua", "\"live\", \"fresh\"", "");
    wait_look(p, &r);
    CHECK(r.refused);
    CHECK_CONTAINS(r.note.data, "module \"rewards.fresh\" was not found");
    CHECK(!look(p, &r));
    put_file("rewards/fresh.lua", "return { score = function() return 2 end\n");
    wait_look(p, &r);
    CHECK(r.refused);
    CHECK_CONTAINS(r.note.data, "rewards/fresh.lua:2:");
    nap(0.15);
    for (int i = 0; i < 3; i++) CHECK(!look(p, &r));
    put_file("rewards/fresh.lua", "return { score = function() return 2 end }\n");
    wait_look(p, &r);
    CHECK(r.taken);
    CHECK_NEAR(score_all(p, 1, 2), 2, 0);
    unlink("rewards/fresh.lua");
    mr_reload_clear(&r);
    mr_pool_close(p);
}

/* A file of data that is gone by now would be missed if it were read again: for a reward it is not. */
static void data_is_read_again_only_when_it_may_differ(void) {
    put_file("datasets/things.lua",
             "return { name = 'things', row = function(r) return { answer = r.a, messages = { { role "
             "= 'user', content = r.q } } } end }\n");
    put_file("things.jsonl", "{\"q\":\"a\",\"a\":\"1\"}\n{\"q\":\"b\",\"a\":\"2\"}\n");
    put_file("rewards/live.lua", "return { score = function() return 1 end }\n");
    put_recipe("things.lua", "\"live\"",
               "  data = { train = data.get('things'), files = { things = 'things.jsonl' }, system = '' },");
    mr_pool *p = open_pool("things.lua", 2, 2);
    mr_reload r = { 0 };
    mr_err err = { .msg = "" };
    mr_row_source rows;
    mr_row got = { 0 };
    REQUIRE_OK(mr_pool_rows(p, "train", &rows, &err), err);
    REQUIRE_OK(rows.get(rows.self, 1, &got, &err), err);
    CHECK_STR(got.messages[0].content, "b");
    mr_row_clear(&got);
    REQUIRE(rename("things.jsonl", "elsewhere.jsonl") == 0);

    put_file("rewards/live.lua", "return { score = function() return 2 end }\n");
    wait_look(p, &r);
    CHECK(r.taken);
    REQUIRE_OK(rows.get(rows.self, 0, &got, &err), err); /* the same worker, which has the file open */
    CHECK_STR(got.messages[0].content, "a");
    mr_row_clear(&got);
    bool listed = false;
    int n;
    const mr_script_text *texts = mr_pool_scripts(p, &n);
    for (int i = 0; i < n; i++) listed = listed || strcmp(texts[i].name, "datasets/things.lua") == 0;
    CHECK(listed); /* it moved with the worker, and is still looked at: */

    put_file("datasets/things.lua",
             "return { name = 'things', row = function(r) return { answer = r.a, messages = { { role "
             "= 'user', content = r.q .. r.q } } } end }\n");
    wait_look(p, &r);
    CHECK(r.refused);
    CHECK_CONTAINS(r.note.data, "things.jsonl: no such file");
    REQUIRE(rename("elsewhere.jsonl", "things.jsonl") == 0);
    put_file("datasets/things.lua",
             "return { name = 'things', row = function(r) return { answer = r.a, messages = { { role "
             "= 'user', content = r.q .. '?' } } } end }\n");
    wait_look(p, &r);
    CHECK(r.taken && !r.rows);
    REQUIRE_OK(rows.get(rows.self, 0, &got, &err), err);
    CHECK_STR(got.messages[0].content, "a?");
    mr_row_clear(&got);
    put_file("datasets/things.lua",
             "return { name = 'things', row = function(r) return { answer = r.a, messages = { { role "
             "= 'user', content = r.q } } } end,\n cases = { { { q = 'a', a = '1' }, { answer = '2' } "
             "} } }\n");
    wait_look(p, &r);
    CHECK(r.refused);
    CHECK_CONTAINS(r.note.data, "datasets/things.lua: case 1: answer is 1, want 2");
    mr_reload_clear(&r);
    mr_pool_close(p);
}

/* --- files on their way --- */

/* Ends with the whole text there. */
static pid_t write_in_two(const char *path, const char *text, double pause_s) {
    const pid_t pid = fork();
    if (pid != 0) return pid;
    FILE *f = fopen(path, "w");
    if (!f) _exit(1);
    const size_t half = strlen(text) / 2;
    fwrite(text, 1, half, f);
    fflush(f);
    nap(pause_s);
    fwrite(text + half, 1, strlen(text) - half, f);
    fclose(f);
    _exit(0);
}

static void half_a_file_is_waited_for(void) {
    put_file("rewards/live.lua", "return { score = function() return 1 end }\n");
    put_recipe("live.lua", "\"live\"", "");
    mr_pool *p = open_pool("live.lua", 2, 2);
    mr_reload r = { 0 };
    score_all(p, 0, 1);
    const pid_t pid = write_in_two("rewards/live.lua", "return { score = function() return 2 end }\n", 0.05);
    int n_lines = 0;
    for (double end = mr_now_s() + 0.6; mr_now_s() < end; nap(0.002)) {
        n_lines += look(p, &r);
        const double value = score_all(p, 0, 1);
        CHECK(value == 1 || value == 2);
    }
    CHECK_INT(n_lines, 1);
    CHECK_NEAR(score_all(p, 0, 1), 2, 0);
    waitpid(pid, NULL, 0);
    mr_reload_clear(&r);
    mr_pool_close(p);
}

/* A file that has stood for long, and of which another version comes while that one is read and tried: nothing is said of what is gone. */
static void what_is_saved_meanwhile_is_waited_for(void) {
    static const char good[] = "return { score = function() return 1 end }\n";
    put_file("rewards/live.lua", good);
    put_recipe("live.lua", "\"live\"", "");
    mr_pool *p = open_pool("live.lua", 2, 10);
    mr_reload r = { 0 };
    score_all(p, 0, 1);
    bool met = false;
    for (int i = 0; i < 10 && !met; i++) { /* on a busy machine the writer may be late */
        put_file("rewards/live.lua", "local x = 0\nfor i = 1, 3e8 do x = x + i % 3 end\nreturn x.y\n"); /* some 0.3 s, then an error */
        nap(0.15);
        const pid_t pid = fork();
        if (pid == 0) {
            nap(0.05);
            put_file("rewards/live.lua", good);
            _exit(0);
        }
        struct stat s;
        const bool said = look(p, &r);
        const double ended = mr_wall_s();
        waitpid(pid, NULL, 0);
        REQUIRE(stat("rewards/live.lua", &s) == 0);
        met = (double)s.st_mtim.tv_sec + (double)s.st_mtim.tv_nsec * 1e-9 < ended - 0.05;
        if (met) CHECK(!said);
        CHECK(!look(p, &r)); /* the version in use is there again */
    }
    CHECK(met);
    mr_reload_clear(&r);
    mr_pool_close(p);
}

/* Saved in place, a hundred times a second, every third time broken; the last one is good. */
static pid_t save_often(const char *path, double seconds) {
    const pid_t pid = fork();
    if (pid != 0) return pid;
    int i = 0;
    for (double end = mr_now_s() + seconds; mr_now_s() < end; i++, nap(0.01)) {
        FILE *f = fopen(path, "w");
        if (!f) _exit(1);
        fprintf(f, "return { score = function() return %d end%s\n", 10 + i, i % 3 ? " }" : "");
        fclose(f);
    }
    FILE *f = fopen(path, "w");
    if (!f) _exit(1);
    fputs("return { score = function() return 5 end }\n", f);
    fclose(f);
    _exit(0);
}

static int n_open_files(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    REQUIRE(d);
    while (readdir(d)) n++;
    closedir(d);
    return n;
}

static void a_hundred_saves_a_second(void) {
    put_file("rewards/live.lua", "return { score = function() return 1 end }\n");
    put_recipe("live.lua", "\"live\"", "");
    mr_pool *p = open_pool("live.lua", 2, 2);
    mr_reload r = { 0 };
    score_all(p, 0, 1);
    const int files_before = n_open_files();
    const pid_t pid = save_often("rewards/live.lua", 2);
    int n_taken = 0, n_refused = 0, n_steps = 0;
    for (double end = mr_now_s() + 2.6; mr_now_s() < end; n_steps++) {
        if (look(p, &r)) n_taken += r.taken, n_refused += r.refused;
        const double value = score_all(p, 0, 1); /* one version in all workers; no sample without a score */
        CHECK(value == 1 || value == 5 || value >= 10);
    }
    int status;
    waitpid(pid, &status, 0);
    CHECK_INT(status, 0);
    fprintf(stderr, "200 saves in 2 s: %d batches of 64, %d versions taken over, %d lines of refusal\n", n_steps,
            n_taken, n_refused);
    CHECK(n_taken >= 1 && n_steps >= 10);
    CHECK(n_refused <= 3); /* one a second at most */
    CHECK_NEAR(score_all(p, 0, 1), 5, 0);
    CHECK_INT(n_open_files(), files_before); /* no worker of all these versions is left */
    mr_reload_clear(&r);
    mr_pool_close(p);
    CHECK_INT(waitpid(-1, NULL, WNOHANG), -1); /* and none waits to be reaped */
}

/* --- the same once more --- */

static void store_all(mr_pool *p) {
    int n;
    const mr_script_text *texts = mr_pool_scripts(p, &n);
    for (int i = 0; i < n; i++) {
        char path[128];
        snprintf(path, sizeof path, "stored/%s.lua", texts[i].sha256);
        put_file(path, texts[i].text);
    }
}

static void stored_texts_are_taken_again(void) {
    static const char second[] = "return { score = function(c)\n  return 2 + require('late').more end }\n";
    put_file("rewards/live.lua", "return { score = function() return 1 end }\n");
    put_file("late.lua", "return { more = 0.5 }\n");
    put_recipe("live.lua", "\"live\"", "");
    mr_pool *p = open_pool("live.lua", 2, 2);
    mr_reload r = { 0 };
    mr_err err = { .msg = "" };
    mr_scorer sc = mr_pool_scorer(p);
    CHECK_NEAR(score_all(p, 0, 1), 1, 0);
    cJSON *first_texts = sc.scripts(sc.self), *detail;
    store_all(p);
    put_file("rewards/live.lua", second);
    wait_look(p, &r);
    CHECK_NEAR(score_all(p, 0, 1), 2.5, 0);
    detail = sc.scripts(sc.self); /* with the one that was loaded while scoring */
    store_all(p);
    mr_pool_close(p);

    put_file("rewards/live.lua", "return { score = function() return 3 end }\n");
    put_file("late.lua", "return { more = 0.25 }\n");
    mr_pool_opts o = { .n_workers = 2, .deadline_s = 2, .pinned = first_texts, .store = "stored" };
    REQUIRE_OK(mr_pool_open(&p, "live.lua", &o, &err), err);
    CHECK_NEAR(score_all(p, 0, 1), 1, 0);
    sc = mr_pool_scorer(p);
    mr_reload_clear(&r);
    REQUIRE_OK(sc.replay(sc.self, detail, &r, &err), err);
    CHECK(r.taken);
    CHECK_NEAR(score_all(p, 0, 1), 2.5, 0);
    wait_look(p, &r); /* now the files count */
    CHECK(r.taken);
    CHECK_NEAR(score_all(p, 0, 1), 3, 0);
    mr_pool_close(p);

    /* the recipe and all else may be gone */
    unlink("rewards/live.lua");
    unlink("late.lua");
    unlink("live.lua");
    REQUIRE_OK(mr_pool_open(&p, "live.lua", &o, &err), err);
    CHECK_NEAR(score_all(p, 0, 1), 1, 0);
    wait_look(p, &r);
    CHECK(r.refused);
    CHECK_CONTAINS(r.note.data, "live.lua: no such file");
    mr_pool_close(p);

    /* a stored text that is not what its name says */
    const char *sha = cJSON_GetObjectItem(cJSON_GetObjectItem(first_texts, "scripts"), "rewards/live.lua")->valuestring;
    char path[128];
    snprintf(path, sizeof path, "stored/%s.lua", sha);
    put_file(path, "return { score = function() return 8 end }\n");
    CHECK_INT(mr_pool_open(&p, "live.lua", &o, &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, "is not the text that it is named after");
    cJSON_Delete(first_texts);
    cJSON_Delete(detail);
    mr_reload_clear(&r);
}

/* Prints the figure. Under sanitizers and on a busy machine the limit says only that nothing is quadratic. */
static void the_check_is_quick(void) {
    put_recipe("five.lua", "\"xmlcount\", \"soft_format\", \"strict_format\", \"valid_answer\", \"correctness\"", "");
    char *home = mr_path_join(MR_ROOT, "lua/rewards/correctness.lua"), *text;
    size_t len;
    mr_err err = { .msg = "" };
    REQUIRE_OK(mr_file_read(&text, &len, home, 1 << 20, &err), err);
    put_file("rewards/correctness.lua", text);
    mr_pool *p = open_pool("five.lua", 2, 10);
    mr_reload r = { 0 };
    const mr_scorer sc = mr_pool_scorer(p);
    enum { N = 256 };
    mr_score *s = mr_alloc(N * 5 * sizeof *s);
    char answer[2801];
    memset(answer, 0, sizeof answer);
    strcpy(answer, "<reasoning>\n");
    while (strlen(answer) < 2700) strcat(answer, "The note says that the answer is near, and so on. ");
    strcat(answer, "\n</reasoning>\n<answer>\nx\n</answer>\n");
    for (int i = 0; i < N; i++) {
        const mr_score_job job = { .id = i, .text = answer, .len = strlen(answer), .row_json = row, .step = 1 };
        REQUIRE_OK(sc.submit(sc.self, &job, &err), err);
    }
    REQUIRE_OK(sc.collect(sc.self, s, N, NULL, 0, NULL, &err), err);
    double best = 1e9, idle = 1e9;
    for (int k = 0; k < 10; k++) {
        char *changed = mr_asprintf("%s-- version %d\n", text, k);
        put_file("rewards/correctness.lua", changed);
        mr_free(changed);
        double start = mr_now_s();
        CHECK(look(p, &r) && r.taken);
        double took = mr_now_s() - start;
        if (took < best) best = took;
        nap(0.12); /* the file's time stamp has to grow old for a look to be a stat */
        look(p, &r);
        start = mr_now_s();
        CHECK(!look(p, &r));
        took = mr_now_s() - start;
        if (took < idle) idle = took;
    }
    fprintf(stderr,
            "five shipped rewards, cases and a batch of %d: checked and taken over in %.1f ms; a look without a "
            "change: %.3f ms\n",
            N, best * 1e3, idle * 1e3);
    CHECK(best < 1.0);
    CHECK(idle < 0.02);
    mr_free(s);
    mr_free(home);
    mr_free(text);
    mr_reload_clear(&r);
    mr_pool_close(p);
    unlink("rewards/correctness.lua");
}

SCRIPT_TEST_MAIN({ "bad_files_change_nothing", bad_files_change_nothing },
                 { "what_is_no_file_changes_nothing", what_is_no_file_changes_nothing },
                 { "a_good_file_takes_over_at_once", a_good_file_takes_over_at_once },
                 { "recipes_change_rewards_weights_and_settings", recipes_change_rewards_weights_and_settings },
                 { "files_that_are_new_are_looked_at", files_that_are_new_are_looked_at },
                 { "data_is_read_again_only_when_it_may_differ", data_is_read_again_only_when_it_may_differ },
                 { "half_a_file_is_waited_for", half_a_file_is_waited_for },
                 { "what_is_saved_meanwhile_is_waited_for", what_is_saved_meanwhile_is_waited_for },
                 { "a_hundred_saves_a_second", a_hundred_saves_a_second },
                 { "stored_texts_are_taken_again", stored_texts_are_taken_again },
                 { "the_check_is_quick", the_check_is_quick })
