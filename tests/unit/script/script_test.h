/* script_test.h - what the tests of runtime/script share: a main that is also the worker, a scratch folder, scripts
 * written there.
 *
 * A pool starts /proc/self/exe --worker, which in a test is the test itself. */
#ifndef MR_SCRIPT_TEST_H
#define MR_SCRIPT_TEST_H

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "script/script.h"
#include "test.h"

#define SCRIPT_TEST_MAIN(...)                                                                                          \
    int main(int argc, char **argv) {                                                                                  \
        if (argc > 1 && strcmp(argv[1], "--worker") == 0) return mr_worker_main();                                     \
        static test_entry_ entries[] = { __VA_ARGS__ };                                                                \
        enum { n_entries = sizeof entries / sizeof entries[0] };                                                       \
        static struct CMUnitTest tests[n_entries];                                                                     \
        for (int i = 0; i < n_entries; i++)                                                                            \
            tests[i] = (struct CMUnitTest){ entries[i].name, test_run_one_, NULL, NULL, &entries[i] };                 \
        return cmocka_run_group_tests(tests, scratch_open, scratch_close);                                             \
    }

static char scratch[64];

/* The tests run inside an empty folder of their own: names in messages are short and nothing of the tree is touched. */
static int scratch_open(void **state) {
    (void)state;
    setenv("MEDRL_HOME", MR_ROOT, 1);
    setenv("MEDRL_ROW_CACHE", "row-cache", 1);
    setenv("HF_HUB_CACHE", "/tmp/medrl-no-hub", 1);
    strcpy(scratch, "/tmp/medrl-script-XXXXXX");
    return mkdtemp(scratch) && chdir(scratch) == 0 ? 0 : -1;
}

static int scratch_close(void **state) {
    (void)state;
    if (chdir("/") != 0) return -1;
    return mr_remove_tree(scratch, NULL) == MR_OK ? 0 : -1;
}

__attribute__((unused)) static void put_file(const char *path, const char *text) {
    char *dir = mr_path_dir(path);
    mr_err err = { .msg = "" };
    REQUIRE_OK(mr_mkdirs(dir, &err), err);
    REQUIRE_OK(mr_file_write(path, text, strlen(text), &err), err);
    mr_free(dir);
}

/* A recipe with these rewards and no data; `body` is spliced into the table. */
__attribute__((unused)) static void put_recipe(const char *path, const char *rewards, const char *body) {
    char *text = mr_asprintf(
        "local data = require \"medrl.data\"\nlocal _ = data\nreturn {\n  rewards = { %s },\n%s\n}\n", rewards, body);
    put_file(path, text);
    mr_free(text);
}

/* Opens with a short deadline; fails the test with the message when it does not open. */
__attribute__((unused)) static mr_pool *open_pool(const char *recipe, int n_workers, double deadline_s) {
    mr_pool_opts o = { .n_workers = n_workers, .deadline_s = deadline_s, .memory_bytes = (size_t)64 << 20 };
    mr_pool *p;
    mr_err err = { .msg = "" };
    REQUIRE_OK(mr_pool_open(&p, recipe, &o, &err), err);
    return p;
}

/* The message of a recipe that must not open. */
__attribute__((unused)) static const char *refusal(const char *recipe, const mr_pool_opts *opts) {
    static mr_err err;
    err.msg[0] = 0;
    mr_pool *p;
    if (mr_pool_open(&p, recipe, opts, &err) == MR_OK) {
        mr_pool_close(p);
        return "(it opened)";
    }
    return err.msg;
}

/* Scores n texts against one row; scores[i * n_rewards + reward]. */
__attribute__((unused)) static int score_texts(mr_pool *p, const char *const *texts, int n, const char *row,
                                               mr_score *scores, mr_fault *faults, int max_faults) {
    mr_scorer s = mr_pool_scorer(p);
    mr_err err = { .msg = "" };
    for (int i = 0; i < n; i++) {
        mr_score_job job = {
            .id = i, .text = texts[i], .len = strlen(texts[i]), .row_json = row, .n_tokens = 5, .step = 1
        };
        REQUIRE_OK(s.submit(s.self, &job, &err), err);
    }
    int n_faults = -1;
    REQUIRE_OK(s.collect(s.self, scores, n, faults, max_faults, &n_faults, &err), err);
    return n_faults;
}

#endif
