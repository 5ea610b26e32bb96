/* test_deadlines.c - who is guilty when a worker does not answer or ends: by id and never by the order of arrival, never
 * an innocent sample, and never for more than a few deadlines a batch. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "base/proc.h"
#include "unit/script/script_test.h"

enum { N = 40 };

/* A sanitizer would catch the signals that are sent here and leave with exit 1. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "handle_segv=0";
}

/* The children of this process; at most max. */
static int children(pid_t *out, int max) {
    char path[64], line[1024] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
    FILE *list = fopen(path, "re");
    if (!list) return 0;
    int n = 0;
    if (fgets(line, sizeof line, list)) {
        for (char *at = line, *end; n < max && strtol(at, &end, 10) > 0 && end != at; at = end)
            out[n++] = (pid_t)strtol(at, NULL, 10);
    }
    fclose(list);
    return n;
}

/* Scores N samples, submitted in the order given by start and step; the text of sample i is its number. */
static int score_all(mr_pool *p, int start, int step, mr_score *s, mr_fault *f, int max_faults) {
    mr_scorer sc = mr_pool_scorer(p);
    mr_err err = { .msg = "" };
    for (int k = 0; k < N; k++) {
        int i = ((start + k * step) % N + N) % N;
        char text[16];
        snprintf(text, sizeof text, "%d", i);
        mr_score_job job = { .id = i, .text = text, .len = strlen(text), .row_json = "{}" };
        REQUIRE_OK(sc.submit(sc.self, &job, &err), err);
    }
    int n_faults = -1;
    REQUIRE_OK(sc.collect(sc.self, s, N, f, max_faults, &n_faults, &err), err);
    return n_faults;
}

static void put_stuck(void) {
    put_file("rewards/stuck.lua", "return { range = { -1, 99 }, score = function(c) c = tonumber(c)\n"
                                  "  if c == 3 or c == 8 or c >= 13 then print('stuck') while true do end end\n"
                                  "  return c end }\n");
    put_file("rewards/fine.lua", "return { score = function(c) return tonumber(c) + 0.5 end }\n");
    put_recipe("stuck.lua", "\"fine\", \"stuck\", { \"len\" }", "");
    put_file("rewards/len.lua", "return { score = function(c) return #c end }\n");
}

static int count_lines(const char *path) {
    char *text;
    size_t len;
    int n = 0;
    mr_err err = { .msg = "" };
    REQUIRE_OK(mr_file_read(&text, &len, path, 1 << 20, &err), err);
    for (const char *at = text; (at = strstr(at, "stuck\n")); at++) n++;
    mr_free(text);
    return n;
}

static void a_reward_that_hangs_is_off_behind_the_third_sample(void) {
    put_stuck();
    const struct { int n_workers, start, step; } runs[] = { { 1, 0, 1 }, { 2, 0, 1 }, { 2, N - 1, -1 }, { 3, 7, 17 } };
    for (size_t run = 0; run < sizeof runs / sizeof runs[0]; run++) {
        mr_pool *p = open_pool("stuck.lua", runs[run].n_workers, 0.15);
        mr_score s[3 * N];
        mr_fault f[64];
        fflush(stderr);
        int saved = dup(2);
        FILE *sink = fopen("log.txt", "we");
        dup2(fileno(sink), 2);
        int n_faults = score_all(p, runs[run].start, runs[run].step, s, f, 64);
        fflush(stderr);
        dup2(saved, 2);
        close(saved);
        fclose(sink);
        CHECK_INT(n_faults, 3 + (N - 14));
        /* calls that hung: 3 before it is off, 3 by id, one in each worker; each at most twice. Not all 29. */
        CHECK(count_lines("log.txt") <= 2 * (3 + 3 + runs[run].n_workers));
        CHECK(count_lines("log.txt") >= 3);
        for (int i = 0; i < N; i++) {
            bool bad = i == 3 || i == 8 || i >= 13;
            CHECK_NEAR(s[3 * i].value, i + 0.5, 0);
            CHECK_INT(s[3 * i + 1].kind, bad ? MR_FAULT : MR_SCORED);
            CHECK_NEAR(s[3 * i + 1].value, bad ? -1 : i, 0);
            CHECK_NEAR(s[3 * i + 2].value, i < 10 ? 1 : 2, 0);
        }
        CHECK_STR(f[0].text, "rewards/stuck.lua: no answer within 0.15 s; the worker was killed (sample 3)");
        CHECK_INT(f[2].id, 13);
        CHECK_STR(f[3].text, "rewards/stuck.lua: not called: it did not end for samples 3, 8 and 13, and is off for "
                             "the rest of the batch (sample 14)");
        CHECK_INT(f[28].id, 39);
        /* the next batch begins anew */
        const char *texts[] = { "1", "2" };
        CHECK_INT(score_texts(p, texts, 2, "{}", s, NULL, 0), 0);
        CHECK_NEAR(s[1].value, 1, 0);
        mr_pool_close(p);
    }
}

static void the_deadline_is_that_of_one_call(void) {
    /* Three rewards of about 0.4 deadlines each: none of them is late, all of them together are. What this machine does
     * in that time is found by trying; where it is too busy for an even share, a try says nothing: one of them has to go well. */
    put_file("rewards/spin.lua",
             "local M = {}\n"
             "function M.spin(n) local x = 0 for i = 1, n do x = (x * 31 + i) % 1e9 end return x end\n"
             "return M\n");
    static const char *const names[] = { "one", "two", "three" };
    for (int i = 0; i < 3; i++) {
        char path[32];
        snprintf(path, sizeof path, "rewards/%s.lua", names[i]);
        put_file(path, "local spin = require 'rewards.spin'\n"
                       "return { score = function(c) spin.spin(tonumber(c)) return 1 end }\n");
    }
    put_recipe("three.lua", "\"one\", \"two\", \"three\"", "");
    mr_pool *p = open_pool("three.lua", 1, 0.5);
    mr_score s[3];
    char text[32];
    double n = 1e6, took = 0;
    bool good = false;
    for (int i = 0; i < 12 && !good; i++) {
        n *= took > 0.1 ? 0.63 / took : 4;
        snprintf(text, sizeof text, "%.0f", n);
        const char *texts[] = { text };
        took = mr_now_s();
        int n_faults = score_texts(p, texts, 1, "{}", s, NULL, 0);
        took = mr_now_s() - took;
        good = took > 0.55 && n_faults == 0;
    }
    CHECK(good);
    mr_pool_close(p);
}

/* --- workers that are stopped or ended from outside while they compute --- */

typedef struct attack {
    int signal, times;
    atomic_bool stop;
    atomic_int done;
} attack;

/* Every 80 ms a signal to whichever child burns processor time, so many times. */
static void *attacker(void *arg) {
    attack *a = arg;
    while (!a->stop && a->done < a->times) {
        nanosleep(&(struct timespec){ 0, 80 * 1000 * 1000 }, NULL);
        pid_t pids[8];
        int n = children(pids, 8);
        for (int i = 0; i < n; i++) {
            mr_proc proc = { pids[i], -1 };
            if (mr_proc_cpu_s(&proc) < 0.04) continue;
            if (a->stop || a->done >= a->times) break;
            if (kill(pids[i], a->signal) == 0) a->done++;
        }
    }
    return NULL;
}

/* One sample whose score takes a while, under attack. */
static int score_under(attack *a, const char *loops, double deadline_s, int n_workers, mr_score *s, mr_fault *f) {
    put_file("rewards/slow.lua", "return { range = { -1, 1 }, score = function(c)\n"
                                 "  local x = 0 for i = 1, tonumber(c) do x = (x * 31 + i) % 1e9 end return 1 end }\n");
    put_recipe("slow.lua", "\"slow\"", "");
    mr_pool *p = open_pool("slow.lua", n_workers, deadline_s);
    const char *texts[] = { loops };
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, attacker, a) == 0);
    int n = score_texts(p, texts, 1, "{}", s, f, 1);
    a->stop = true;
    pthread_join(thread, NULL);
    const char *next[] = { "10" };
    mr_score again;
    CHECK_INT(score_texts(p, next, 1, "{}", &again, NULL, 0), 0);
    CHECK_NEAR(again.value, 1, 0);
    mr_pool_close(p);
    return n;
}

static void a_crash_is_tried_again_without_compiler(void) {
    mr_score s;
    mr_fault f = { .text = "" };
    attack three = { .signal = SIGSEGV, .times = 3 }; /* all at once, alone, alone again; the fourth try ends well */
    CHECK_INT(score_under(&three, "60000000", 20, 1, &s, &f), 0);
    CHECK_INT(three.done, 3);
    CHECK_NEAR(s.value, 1, 0);
    attack always = { .signal = SIGSEGV, .times = 1000 };
    CHECK_INT(score_under(&always, "60000000", 20, 1, &s, &f), 1);
    CHECK_CONTAINS(f.text, "rewards/slow.lua: the worker ended (killed by signal 11");
    CHECK_NEAR(s.value, -1, 0);
}

static void a_stopped_worker_is_not_the_samples_fault(void) {
    mr_score s;
    mr_fault f = { .text = "" };
    attack freeze = { .signal = SIGSTOP, .times = 1 };
    /* a fifth of a second of work, which has to fit the deadline on a machine that others use too */
    CHECK_INT(score_under(&freeze, "20000000", 3, 2, &s, &f), 0);
    CHECK_INT(freeze.done, 1);
    CHECK_NEAR(s.value, 1, 0);
}

SCRIPT_TEST_MAIN({ "a_reward_that_hangs_is_off_behind_the_third_sample",
                   a_reward_that_hangs_is_off_behind_the_third_sample },
                 { "the_deadline_is_that_of_one_call", the_deadline_is_that_of_one_call },
                 { "a_crash_is_tried_again_without_compiler", a_crash_is_tried_again_without_compiler },
                 { "a_stopped_worker_is_not_the_samples_fault", a_stopped_worker_is_not_the_samples_fault })
