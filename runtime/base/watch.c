/* watch.c - see watch.h. */
#include "base/watch.h"

#include <errno.h>
#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { STEPS = 64, CHILDREN = 256, FRAMES = 64, BEFORE_FIRST = 5 };
static const double overslept_s = 5;

typedef struct child {
    pid_t pid; /* 0: this place is free */
    volatile char *where;
} child;

/* Written by the watched thread. */
static _Atomic(const char *) stage;
static atomic_ulong beats;
static atomic_llong step;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all that follows */
static pthread_cond_t wake;
static mr_watch_opts opts;
static pthread_t watcher;
static bool started, closing;
static double took[STEPS]; /* a ring */
static int64_t n_took;
static child children[CHILDREN];
static double late_s; /* the last silence that is over */
static const char *late_stage;

/* Of the thread that is watched; set before the watcher is there. */
static pthread_t watched;
static pid_t watched_id;
static void *frames[FRAMES];
static atomic_int n_frames; /* -1: asked for */

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the watched thread's side ---- */

void mr_watch_at(const char *name) {
    atomic_store_explicit(&stage, name, memory_order_relaxed);
    mr_watch_beat();
}

void mr_watch_beat(void) {
    atomic_fetch_add_explicit(&beats, 1, memory_order_relaxed);
}

void mr_watch_step(int64_t next, double took_s) {
    atomic_store_explicit(&step, next, memory_order_relaxed);
    mr_watch_beat();
    pthread_mutex_lock(&lock);
    if (took_s >= 0) took[n_took++ % STEPS] = took_s;
    pthread_mutex_unlock(&lock);
}

double mr_watch_was_late(const char **of) {
    pthread_mutex_lock(&lock);
    const double s = late_s;
    *of = late_stage;
    late_s = 0;
    pthread_mutex_unlock(&lock);
    return s;
}

void mr_watch_child(pid_t pid, volatile char *where) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < CHILDREN; i++) {
        if (children[i].pid) continue;
        children[i] = (child){ pid, where };
        break;
    }
    pthread_mutex_unlock(&lock);
}

void mr_watch_gone(pid_t pid) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < CHILDREN; i++)
        if (children[i].pid == pid) children[i] = (child){ 0, NULL };
    pthread_mutex_unlock(&lock);
}

/* ---- what is known of a silence ---- */

/* A worker is locked in and may be hostile: what it writes is cut and made plain. With the lock held, so that none of the
 * pages goes away. */
static void ask_children(char *out, size_t size) {
    size_t at = 0;
    out[0] = '\0';
    for (int i = 0; i < CHILDREN; i++) {
        if (!children[i].pid) continue;
        children[i].where[0] = '\0';
        kill(children[i].pid, SIGUSR1);
    }
    /* wait: 50 ms */
    nanosleep(&(struct timespec){ 0, 50000000 }, NULL);
    for (int i = 0; i < CHILDREN; i++) {
        char text[MR_WATCH_WHERE];
        size_t n = 0;
        for (; children[i].pid && n < sizeof text - 1 && children[i].where[n]; n++) {
            const char c = children[i].where[n];
            text[n] = c >= 0x20 && c < 0x7f ? c : '?';
        }
        text[n] = '\0';
        if (n && at + n + 3 < size) at += (size_t)snprintf(out + at, size - at, "%s%s", at ? ", " : "", text);
    }
}

static void on_stack_wanted(int number) {
    const int saved = errno;
    (void)number;
    if (syscall(SYS_gettid) == watched_id) atomic_store(&n_frames, backtrace(frames, FRAMES));
    errno = saved;
}

int mr_watch_stack(void **out, int max) {
    atomic_store(&n_frames, -1);
    if (pthread_kill(watched, SIGURG) != 0) return 0;
    /* wait: half a second */
    for (int i = 0; i < 50 && atomic_load(&n_frames) < 0; i++) nanosleep(&(struct timespec){ 0, 10000000 }, NULL);
    int n = atomic_load(&n_frames);
    n = n > max ? max : n < 0 ? 0 : n;
    memcpy(out, frames, (size_t)n * sizeof *out);
    return n;
}

pid_t mr_watch_thread(void) {
    return watched_id;
}

/* ---- the watcher ---- */

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* With the lock held. */
static double limit_now(void) {
    if (!n_took) return BEFORE_FIRST * opts.limit_s;
    double sorted[STEPS];
    const int n = n_took < STEPS ? (int)n_took : STEPS;
    memcpy(sorted, took, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, ascending);
    const double median = 10 * sorted[n / 2];
    return median > opts.limit_s ? median : opts.limit_s;
}

static unsigned long moved(void) {
    return atomic_load_explicit(&beats, memory_order_relaxed) + (opts.n_ops ? __atomic_load_n(opts.n_ops, __ATOMIC_RELAXED) : 0);
}

/* With the lock held; `late` may take it by asking for nothing that does. */
static void tell(const char *at, double silent_s, double limit_s, bool last) {
    mr_watch_report r = { .stage = at, .silent_s = silent_s, .limit_s = limit_s, .last = last, .op = "" };
    r.step = atomic_load_explicit(&step, memory_order_relaxed);
    if (opts.op) r.op = __atomic_load_n(opts.op, __ATOMIC_RELAXED);
    if (!r.op) r.op = "";
    ask_children(r.lua, sizeof r.lua);
    opts.late(opts.self, &r);
}

static void *watch(void *arg) {
    (void)arg;
    pthread_mutex_lock(&lock);
    double since = now_s(), looked = since;
    unsigned long seen = moved();
    const char *warned = NULL;
    while (!closing) {
        const double every = opts.limit_s < 8 ? opts.limit_s / 8 : 1, due = now_s() + every;
        const struct timespec until = { (time_t)due, (long)((due - (double)(time_t)due) * 1e9) };
        /* wait: a second at most */
        pthread_cond_timedwait(&wake, &lock, &until);
        const double now = now_s(), limit = limit_now();
        const char *at = atomic_load_explicit(&stage, memory_order_relaxed);
        const unsigned long n = moved();
        if (n != seen || !at) {
            if (warned) {
                late_s = now - since;
                late_stage = warned;
            }
            seen = n;
            since = now;
            warned = NULL;
        } else if (now - looked > every + overslept_s) {
            since = now;
        } else if (now - since > 3 * limit) {
            tell(at, now - since, limit, true);
            since = now; /* it came back: from here anew */
        } else if (now - since > limit && !warned) {
            tell(at, now - since, limit, false);
            warned = at;
        }
        looked = now_s();
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

mr_status mr_watch_start(const mr_watch_opts *o, mr_err *err) {
    void *one[1];
    backtrace(one, 1); /* loads what it needs, which a signal handler could not */
    watched = pthread_self();
    watched_id = (pid_t)syscall(SYS_gettid);
    struct sigaction act = { .sa_handler = on_stack_wanted, .sa_flags = SA_RESTART };
    sigemptyset(&act.sa_mask);
    sigaction(SIGURG, &act, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&wake, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_lock(&lock);
    opts = *o;
    closing = false;
    n_took = 0;
    late_s = 0;
    pthread_mutex_unlock(&lock);
    sigset_t all, before; /* signals are the main thread's */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int failed = pthread_create(&watcher, NULL, watch, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        pthread_cond_destroy(&wake);
        return mr_fail(err, MR_EINTERNAL, "watch: the system gives no thread (%s)", strerror(failed));
    }
    started = true;
    return MR_OK;
}

void mr_watch_stop(void) {
    if (!started) return;
    started = false;
    pthread_mutex_lock(&lock);
    closing = true;
    pthread_cond_signal(&wake);
    pthread_mutex_unlock(&lock);
    /* wait: for a thread that was told to leave; it looks every second, and after a report */
    pthread_join(watcher, NULL);
    pthread_cond_destroy(&wake);
    signal(SIGURG, SIG_IGN);
}
