/* test_threads.c - the pool does every item once, works in order, alone when it must, and ends. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/threads.h"
#include "test.h"

enum { N = 1000 };

typedef struct tally {
    mr_threads *pool;
    atomic_int times[N];
    atomic_int running[MR_THREADS_MAX];
    atomic_int overlaps, too_many, calls, bad_thread;
    int n_threads;
    int64_t grain;
} tally;

static void count(void *ctx, int thread, int64_t from, int64_t to) {
    tally *t = ctx;
    if (thread < 0 || thread >= t->n_threads) {
        atomic_fetch_add(&t->bad_thread, 1);
        return;
    }
    if (atomic_fetch_add(&t->running[thread], 1) != 0) atomic_fetch_add(&t->overlaps, 1);
    if (to - from > t->grain || to <= from) atomic_fetch_add(&t->too_many, 1);
    for (int64_t i = from; i < to; i++) atomic_fetch_add(&t->times[i], 1);
    atomic_fetch_add(&t->calls, 1);
    atomic_fetch_sub(&t->running[thread], 1);
}

static void check_tally(tally *t, int64_t n, int want) {
    int wrong = 0;
    for (int i = 0; i < N; i++) wrong += atomic_load(&t->times[i]) != (i < n ? want : 0);
    CHECK_INT(wrong, 0);
    CHECK_INT(atomic_load(&t->overlaps), 0);
    CHECK_INT(atomic_load(&t->too_many), 0);
    CHECK_INT(atomic_load(&t->bad_thread), 0);
}

static void every_item_once(void) {
    static const int64_t sizes[] = { 0, 1, 2, 7, 64, 999, N }, grains[] = { 1, 3, 64, 5000 };
    mr_err err;
    for (int threads = 1; threads <= 8; threads++) {
        mr_threads *p;
        REQUIRE_OK(mr_threads_open(&p, threads, &err), err);
        CHECK_INT(mr_threads_count(p), threads);
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (size_t g = 0; g < sizeof grains / sizeof *grains; g++)
                for (int use = 1; use <= threads + 2; use += threads) { /* fewer and more than there are */
                    static tally t;
                    memset(&t, 0, sizeof t);
                    t.n_threads = use < threads ? use : threads;
                    t.grain = grains[g];
                    mr_work w = { count, &t, sizes[s], grains[g] };
                    mr_parallel(p, use, &w, 1);
                    check_tally(&t, sizes[s], 1);
                    CHECK_INT(atomic_load(&t.calls), (sizes[s] + grains[g] - 1) / grains[g]);
                }
        mr_threads_close(p);
    }
    mr_threads_close(NULL);
}

/* Plain memory, so that a missing order shows here or in ThreadSanitizer. */
typedef struct chain {
    int64_t a[N], b[N];
    double sum;
    int64_t n;
} chain;

static void first_work(void *ctx, int thread, int64_t from, int64_t to) {
    chain *c = ctx;
    (void)thread;
    for (int64_t i = from; i < to; i++) c->a[i] = 3 * i + 1;
}

static void second_work(void *ctx, int thread, int64_t from, int64_t to) {
    chain *c = ctx;
    (void)thread;
    for (int64_t i = from; i < to; i++) c->b[i] = c->a[c->n - 1 - i] + 1; /* another thread's */
}

static void third_work(void *ctx, int thread, int64_t from, int64_t to) {
    chain *c = ctx;
    (void)thread, (void)from, (void)to;
    for (int64_t i = 0; i < c->n; i++) c->sum += (double)c->b[i];
}

static void works_in_order(void) {
    mr_err err;
    static chain c;
    for (int threads = 1; threads <= 8; threads *= 2) {
        mr_threads *p;
        REQUIRE_OK(mr_threads_open(&p, threads, &err), err);
        for (int round = 0; round < 2000; round++) {
            memset(&c, 0, sizeof c);
            c.n = 1 + round * 37 % 200;
            mr_work works[] = { { first_work, &c, c.n, 1 + round % 5 },
                                { second_work, &c, c.n, 2 },
                                { first_work, &c, 0, 1 },
                                { third_work, &c, 1, 1 } };
            mr_parallel(p, threads, works, 4);
            double want = (double)c.n + 3.0 * (double)c.n * (double)(c.n - 1) / 2.0 + (double)c.n;
            CHECK_NEAR(c.sum, want, 0);
        }
        mr_threads_close(p);
    }
}

static void add_one(void *ctx, int thread, int64_t from, int64_t to) {
    (void)thread;
    atomic_fetch_add((atomic_llong *)ctx, to - from);
}

static void many_short_calls(void) {
    mr_err err;
    for (int threads = 2; threads <= 8; threads += 3) {
        mr_threads *p;
        REQUIRE_OK(mr_threads_open(&p, threads, &err), err);
        atomic_llong sum = 0;
        for (int i = 0; i < 20000; i++) {
            mr_work w = { add_one, &sum, 4, 1 };
            mr_parallel(p, threads, &w, 1);
            CHECK_INT(atomic_load(&sum), 4LL * (i + 1));
            if (i % 5000 == 0) usleep(2000); /* the helpers fall asleep */
        }
        mr_threads_close(p);
    }
}

static void open_and_close(void) {
    mr_err err;
    for (int i = 0; i < 200; i++) {
        mr_threads *p;
        REQUIRE_OK(mr_threads_open(&p, 1 + i % 5, &err), err);
        atomic_llong sum = 0;
        mr_work w = { add_one, &sum, 10, 1 };
        if (i % 3) mr_parallel(p, 5, &w, 1);
        mr_parallel(p, 5, NULL, 0);
        mr_threads_close(p);
        CHECK_INT(atomic_load(&sum), i % 3 ? 10 : 0);
    }
}

/* A thread that is put aside must not hold up the others: the first item waits until the rest is done by whoever is
 * left. */
typedef struct slow {
    atomic_int others;
    int n;
} slow;

static void one_is_slow(void *ctx, int thread, int64_t from, int64_t to) {
    slow *s = ctx;
    (void)thread, (void)to;
    if (from == 0) {
        for (int i = 0; i < 5000 && atomic_load(&s->others) < s->n - 1; i++) usleep(1000);
    } else {
        atomic_fetch_add(&s->others, 1);
    }
}

static void nobody_waits_for_a_slow_thread(void) {
    mr_err err;
    mr_threads *p;
    REQUIRE_OK(mr_threads_open(&p, 2, &err), err);
    slow s = { .n = 100 };
    mr_work w = { one_is_slow, &s, 100, 1 };
    mr_parallel(p, 2, &w, 1);
    CHECK_INT(atomic_load(&s.others), 99);
    mr_threads_close(p);
}

static double cpu_seconds(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) + 1e-6 * (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
}

static void waiting_costs_nothing(void) {
    mr_err err;
    mr_threads *p;
    REQUIRE_OK(mr_threads_open(&p, 8, &err), err);
    atomic_llong sum = 0;
    mr_work w = { add_one, &sum, 100, 1 };
    mr_parallel(p, 8, &w, 1);
    usleep(20000);
    double before = cpu_seconds();
    usleep(200000);
    CHECK(cpu_seconds() - before < 0.02);
    mr_threads_close(p);
}

static void call_again(void *ctx, int thread, int64_t from, int64_t to) {
    atomic_llong sum = 0;
    mr_work w = { add_one, &sum, 4, 1 };
    (void)thread, (void)from, (void)to;
    mr_parallel(ctx, 2, &w, 1);
}

static void nested_calls_are_refused(void) {
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        /* the parent has no pool now, so the child may have one; its last words are expected */
        signal(SIGABRT, SIG_DFL);
        if (!freopen("/dev/null", "w", stderr)) _exit(1);
        mr_threads *p;
        mr_err err;
        if (mr_threads_open(&p, 2, &err) != MR_OK) _exit(2);
        mr_work w = { call_again, p, 4, 1 };
        mr_parallel(p, 2, &w, 1);
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void no_memory(void) {
    mr_err err;
    mr_threads *p = (mr_threads *)&err;
    mr_try_alloc_fail_at(1);
    CHECK_INT(mr_threads_open(&p, 2, &err), MR_ENOMEM);
    CHECK(p == NULL);
    CHECK_CONTAINS(err.msg, "threads: out of memory");
    mr_try_alloc_fail_at(0);
}

TEST_MAIN({ "every item once", every_item_once }, { "works in order", works_in_order },
          { "many short calls", many_short_calls }, { "open and close", open_and_close },
          { "nobody waits for a slow thread", nobody_waits_for_a_slow_thread },
          { "waiting costs nothing", waiting_costs_nothing }, { "nested calls are refused", nested_calls_are_refused },
          { "no memory", no_memory })
