/* script_bench.c - what the process wall around scripts costs. Not run by ctest.
 *
 *   start     a worker from posix_spawn to its first frame: sandboxed, with a Lua state
 *   load      a pool of two workers (and the one for data) with the five rewards of the seed, cases run; what a reload
 *             check does
 *   score     512 completions of 2.8 kB, five rewards, two workers: submit of all and collect
 *   deadline  a batch of 64 with one sample that hangs: the time beyond the deadline, against the same batch without it
 *
 * Each figure is the median of its rounds, then the smallest and the largest. Usage: script_bench [ROUNDS] */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "script/pool_impl.h"

static int rounds = 15;

static void stop(const mr_err *err) {
    fprintf(stderr, "script_bench: %s\n", err->msg);
    exit(1);
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void show(const char *name, double *s, int n) {
    qsort(s, (size_t)n, sizeof *s, by_size);
    printf("%-44s %8.2f ms   (%.2f to %.2f)\n", name, 1e3 * s[n / 2], 1e3 * s[0], 1e3 * s[n - 1]);
    fflush(stdout);
}

static void put(const char *path, const char *text) {
    mr_err err;
    char *dir = mr_path_dir(path);
    if (mr_mkdirs(dir, &err) != MR_OK || mr_file_write(path, text, strlen(text), &err) != MR_OK) stop(&err);
    mr_free(dir);
}

static mr_pool *open_pool(const char *recipe, double deadline_s) {
    mr_pool_opts o = { .n_workers = 2, .deadline_s = deadline_s };
    mr_pool *p;
    mr_err err;
    if (mr_pool_open(&p, recipe, &o, &err) != MR_OK) stop(&err);
    return p;
}

static double score(mr_pool *p, const char *const *texts, int n) {
    mr_scorer s = mr_pool_scorer(p);
    mr_err err;
    mr_score *scores = mr_alloc((size_t)(n * s.n_rewards) * sizeof *scores);
    double t = mr_now_s();
    for (int i = 0; i < n; i++) {
        mr_score_job job = { .id = i,
                             .text = texts[i],
                             .len = strlen(texts[i]),
                             .row_json = "{\"answer\":\"x\",\"db_set\":\"gsm8k\",\"question\":\"what is x\"}" };
        if (s.submit(s.self, &job, &err) != MR_OK) stop(&err);
    }
    if (s.collect(s.self, scores, n, NULL, 0, NULL, &err) != MR_OK) stop(&err);
    t = mr_now_s() - t;
    mr_free(scores);
    return t;
}

static void bench_start(double *s) {
    mr_pool p = { .opts = { .memory_bytes = (size_t)512 << 20 } };
    mr_version v = { 0 };
    for (int i = 0; i < rounds; i++) {
        mr_peer peer;
        mr_err err;
        mr_frame f;
        double t = mr_now_s();
        if (mr_peer_start(&p, &peer, &err) != MR_OK) stop(&err);
        while (peer.sandbox.level == 0) {
            struct pollfd pf = { .fd = peer.wire.fd, .events = POLLIN };
            poll(&pf, 1, 1000);
            if (!mr_wire_fill(&peer.wire, false)) break;
            while (mr_wire_next(&peer.wire, &f) > 0) mr_peer_serve(&v, &peer, &f);
        }
        s[i] = mr_now_s() - t;
        mr_peer_stop(&peer);
    }
    show("start: a worker, to its first frame", s, rounds);
}

static void bench_load(double *s) {
    for (int i = 0; i < rounds; i++) {
        double t = mr_now_s();
        mr_pool *p = open_pool("five.lua", 2);
        s[i] = mr_now_s() - t;
        mr_pool_close(p);
    }
    show("load: 2 + 1 workers, five rewards, cases", s, rounds);
}

static void bench_score(double *s) {
    static char text[2801];
    strcpy(text, "<reasoning>\n");
    while (strlen(text) < 2700) strcat(text, "The note says that the answer is near, and so on. ");
    strcat(text, "\n</reasoning>\n<answer>\nx\n</answer>\n");
    const char *texts[512];
    for (int i = 0; i < 512; i++) texts[i] = text;
    mr_pool *p = open_pool("five.lua", 2);
    score(p, texts, 512); /* compiled */
    for (int i = 0; i < rounds; i++) s[i] = score(p, texts, 512);
    show("score: 512 x 2.8 kB x five rewards", s, rounds);
    mr_pool_close(p);
}

static void bench_deadline(double *s) {
    enum { N = 64 };
    static const double deadline = 0.2;
    const char *texts[N];
    for (int i = 0; i < N; i++) texts[i] = "fine";
    mr_pool *p = open_pool("stuck.lua", deadline);
    score(p, texts, N);
    for (int i = 0; i < rounds; i++) s[i] = score(p, texts, N);
    qsort(s, (size_t)rounds, sizeof *s, by_size);
    double without = s[rounds / 2];
    texts[20] = "loop";
    for (int i = 0; i < rounds; i++) s[i] = score(p, texts, N) - deadline - without;
    show("deadline: beyond it, with one that hangs", s, rounds);
    mr_pool_close(p);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--worker") == 0) return mr_worker_main();
    if (argc > 1) rounds = atoi(argv[1]);
    if (rounds < 1 || rounds > 1000) return 2;
    setenv("MEDRL_HOME", MR_ROOT, 0);
    char dir[] = "/tmp/medrl-bench-XXXXXX";
    if (!mkdtemp(dir) || chdir(dir) != 0) return 1;
    put("five.lua", "return { rewards = { \"xmlcount\", \"soft_format\", \"strict_format\", \"valid_answer\", "
                    "\"correctness\" } }\n");
    put("rewards/stuck.lua", "return { score = function(c) while c == \"loop\" do end return 1 end }\n");
    put("stuck.lua", "return { rewards = { \"xmlcount\", \"soft_format\", \"strict_format\", \"valid_answer\", "
                     "\"stuck\" } }\n");
    double *s = mr_alloc((size_t)rounds * sizeof *s);
    bench_start(s);
    bench_load(s);
    bench_score(s);
    bench_deadline(s);
    mr_free(s);
    if (chdir("/") == 0) mr_remove_tree(dir, NULL);
    return 0;
}
