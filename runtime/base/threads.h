/* threads.h - a pool of threads that works through lists of items, made for cores that other programs use too.
 *
 * A call is a list of works, done one after the other: the items of the next begin when all of the one before are
 * finished. Threads take items from a shared counter, and a call waits only for items that somebody has begun: a
 * thread that the system has put aside, or that has not woken up yet, holds nothing up. The caller is thread 0 and can
 * do everything alone.
 *
 * Waiting: some microseconds of spinning, then sleep (futex(2)).
 * Order:   what is written by the items of one work is seen by those of the next, and by the caller afterwards.
 * Threads: one thread at a time calls mr_parallel on a pool. A call from inside an item is a mistake of the program
 *          (assert). */
#ifndef MR_THREADS_H
#define MR_THREADS_H

#include "base/status.h"

typedef struct mr_threads mr_threads;

enum { MR_THREADS_MAX = 256, MR_WORKS_MAX = 4 };

/* fn(ctx, thread, from, to) does the items [from, to), at most `grain` of them. No two running calls have the same
 * `thread`, a number from 0 to n_threads - 1. */
typedef struct mr_work {
    void (*fn)(void *ctx, int thread, int64_t from, int64_t to);
    void *ctx;
    int64_t n, grain; /* n may be 0; grain is at least 1 */
} mr_work;

/* n_threads is 1 to MR_THREADS_MAX, the caller included. MR_ENOMEM when the system gives no thread. */
mr_status mr_threads_open(mr_threads **out, int n_threads, mr_err *err);
void mr_threads_close(mr_threads *p);
int mr_threads_count(const mr_threads *p);

/* Does works[0 .. n_works - 1] on at most n_threads threads and returns when all is done. */
void mr_parallel(mr_threads *p, int n_threads, const mr_work *works, int n_works);

#endif
