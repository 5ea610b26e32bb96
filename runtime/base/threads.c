/* threads.c - the pool behind threads.h.
 *
 * A call opens a region: `ticket` turns odd. A helper that finds it odd announces itself in `inside`, looks at the
 * ticket again, and works when it is still the same; the caller closes the region by making the ticket even and then
 * waits until nobody is inside. Since both first write and then read what the other wrote, one of them sees the other
 * (all in one order: sequentially consistent atomics). */
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/threads.h"

#define LINE _Alignas(64)

/* How long a thread looks before it sleeps: longer than the pause between two operations of a model, far shorter than
 * the time slice that it would take from others. */
enum { SPIN_NS = 20000, SPIN_POLL = 16 };

/* A number that threads wait for. */
typedef struct gate {
    LINE atomic_uint value;
    atomic_uint sleepers;
} gate;

typedef struct progress {
    LINE atomic_llong next; /* the first item that nobody has taken */
    gate done;              /* chunks that are finished */
} progress;

typedef struct helper {
    mr_threads *pool;
    pthread_t thread;
    int index; /* 1 .. n_threads - 1 */
} helper;

struct mr_threads {
    int n_threads, n_started;
    gate ticket; /* odd: a region is open */
    gate inside; /* helpers in the region, or about to look */
    atomic_bool closing;
    /* the region; written while it is closed and nobody is inside */
    const mr_work *works;
    int n_works, limit;
    progress progress[MR_WORKS_MAX];
    helper helpers[MR_THREADS_MAX];
};

static void futex_wait(atomic_uint *at, unsigned seen) {
    /* wait: for the end of a share of an operation, or for the next one; the watchdog sees an operation that does not end */
    syscall(SYS_futex, at, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(atomic_uint *at) {
    syscall(SYS_futex, at, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* After a change of g->value. */
static void gate_tell(gate *g) {
    if (atomic_load(&g->sleepers)) futex_wake(&g->value);
}

/* Returns the value once it differs from `seen`. */
static unsigned gate_wait(gate *g, unsigned seen) {
    unsigned v;
    int64_t end = 0;
    for (;;) {
        for (int i = 0; i < SPIN_POLL; i++) {
            if ((v = atomic_load(&g->value)) != seen) return v;
            relax();
        }
        int64_t t = now_ns();
        if (!end) end = t + SPIN_NS;
        if (t >= end) break;
    }
    atomic_fetch_add(&g->sleepers, 1);
    while ((v = atomic_load(&g->value)) == seen) futex_wait(&g->value, seen);
    atomic_fetch_sub(&g->sleepers, 1);
    return v;
}

static int64_t chunks_of(const mr_work *w) {
    return (w->n + w->grain - 1) / w->grain;
}

static void work_through(mr_threads *p, int thread) {
    for (int i = 0; i < p->n_works; i++) {
        const mr_work *w = &p->works[i];
        progress *at = &p->progress[i];
        const unsigned all = (unsigned)chunks_of(w);
        for (;;) {
            /* look first, so that waiting threads do not write */
            if (atomic_load_explicit(&at->next, memory_order_relaxed) >= w->n) break;
            int64_t from = atomic_fetch_add_explicit(&at->next, w->grain, memory_order_relaxed);
            if (from >= w->n) break;
            w->fn(w->ctx, thread, from, w->n - from < w->grain ? w->n : from + w->grain);
            if (atomic_fetch_add(&at->done.value, 1) + 1 == all) gate_tell(&at->done);
        }
        if (i + 1 == p->n_works) break; /* the caller waits for those inside */
        unsigned done = atomic_load(&at->done.value);
        while (done != all) done = gate_wait(&at->done, done);
    }
}

static void *helper_main(void *arg) {
    const helper *h = arg;
    mr_threads *p = h->pool;
    unsigned seen = 0;
    for (;;) {
        unsigned ticket = gate_wait(&p->ticket, seen);
        if (atomic_load(&p->closing)) return NULL;
        seen = ticket;
        if (!(ticket & 1)) continue;
        atomic_fetch_add(&p->inside.value, 1);
        if (atomic_load(&p->ticket.value) == ticket && h->index < p->limit) work_through(p, h->index);
        if (atomic_fetch_sub(&p->inside.value, 1) == 1) gate_tell(&p->inside);
    }
}

mr_status mr_threads_open(mr_threads **out, int n_threads, mr_err *err) {
    *out = NULL;
    assert(n_threads >= 1 && n_threads <= MR_THREADS_MAX);
    mr_threads *p = mr_try_alloc(sizeof *p);
    if (!p) return mr_fail(err, MR_ENOMEM, "threads: out of memory for a pool of %d", n_threads);
    p->n_threads = n_threads;
    /* signals are the main thread's */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = 0;
    for (int i = 1; i < n_threads && !failed; i++) {
        helper *h = &p->helpers[i];
        h->pool = p;
        h->index = i;
        failed = pthread_create(&h->thread, NULL, helper_main, h);
        if (!failed) p->n_started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        mr_status st = mr_fail(err, MR_ENOMEM, "threads: the system gives %d of %d threads (%s); ask for fewer",
                               p->n_started + 1, n_threads, strerror(failed));
        mr_threads_close(p);
        return st;
    }
    *out = p;
    return MR_OK;
}

void mr_threads_close(mr_threads *p) {
    if (!p) return;
    assert(!(atomic_load(&p->ticket.value) & 1));
    atomic_store(&p->closing, true);
    atomic_fetch_add(&p->ticket.value, 2);
    futex_wake(&p->ticket.value);
    /* wait: for threads that were just told to leave and hold no work */
    for (int i = 1; i <= p->n_started; i++) pthread_join(p->helpers[i].thread, NULL);
    mr_free(p);
}

int mr_threads_count(const mr_threads *p) {
    return p->n_threads;
}

void mr_parallel(mr_threads *p, int n_threads, const mr_work *works, int n_works) {
    assert(n_works >= 0 && n_works <= MR_WORKS_MAX);
    assert(!(atomic_load(&p->ticket.value) & 1) && "mr_parallel inside mr_parallel");
    if (n_threads > p->n_threads) n_threads = p->n_threads;
    int64_t most = 0;
    for (int i = 0; i < n_works; i++) {
        assert(works[i].n >= 0 && works[i].grain >= 1 && chunks_of(&works[i]) < UINT_MAX);
        if (chunks_of(&works[i]) > most) most = chunks_of(&works[i]);
        atomic_store_explicit(&p->progress[i].next, 0, memory_order_relaxed);
        atomic_store_explicit(&p->progress[i].done.value, 0, memory_order_relaxed);
    }
    p->works = works;
    p->n_works = n_works;
    p->limit = n_threads < most ? n_threads : (int)most;
    if (p->limit <= 1) { /* nobody need know */
        work_through(p, 0);
        return;
    }
    atomic_fetch_add(&p->ticket.value, 1);
    gate_tell(&p->ticket);
    work_through(p, 0);
    atomic_fetch_add(&p->ticket.value, 1);
    unsigned inside;
    while ((inside = atomic_load(&p->inside.value)) != 0) gate_wait(&p->inside, inside);
}
