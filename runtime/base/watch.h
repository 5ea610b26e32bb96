/* watch.h - a thread that notices when the main thread does not go on.
 *
 * What may take long says where it is (mr_watch_at) and that it moves (mr_watch_beat); operations of a device are counted by the backend.
 * When none of it changes for `limit_s`, or ten times the median step when that is more, `late` is called once with what is known; at
 * three times that it is called again with `last` set, and is not expected to return: a process that hangs is worth less than its last
 * checkpoint. Before the first step is done both come five times later: kernels are compiled and files are cold. A machine that slept
 * did not hang: a look that comes late by itself begins the silence anew.
 * Waits that have no bound of their own have this one; tests/waits.sh holds the list of them.
 * State: one a process, as the log has; without mr_watch_start the calls of the main thread cost a store.
 * Threads: mr_watch_at, _beat, _step, _child and _gone from any one thread at a time; `late` runs in the watcher's. */
#ifndef MR_WATCH_H
#define MR_WATCH_H

#include <sys/types.h>

#include "base/status.h"

typedef struct mr_watch_report {
    const char *stage; /* "rollout" */
    int64_t step;      /* that is under way */
    double silent_s, limit_s;
    const char *op; /* that was begun last on the device; "" when it is not known */
    char lua[160];  /* "lua/rewards/x.lua:12", of the workers that run a script they can tell the place of; or "" */
    bool last;      /* the third limit: the process is to end */
} mr_watch_report;

typedef struct mr_watch_opts {
    double limit_s;
    /* Counted up by whoever drives the device, and its present operation; both may be NULL. Read with relaxed atomics. */
    const unsigned long *n_ops;
    const char *const *op;
    void (*late)(void *self, const mr_watch_report *r);
    void *self;
} mr_watch_opts;

/* Watches the thread that calls. MR_EINTERNAL when there is no thread to be had. */
mr_status mr_watch_start(const mr_watch_opts *opts, mr_err *err);
void mr_watch_stop(void);

/* A stage begins (a string constant); NULL: what follows may take as long as it likes. */
void mr_watch_at(const char *stage);
void mr_watch_beat(void);
/* A step is done, which took so long (below 0: nobody knows); `next` is the number of the one that follows. */
void mr_watch_step(int64_t next, double took_s);
/* How long the last silence above the limit was, once it is over; 0: there was none. Asking forgets it. stage: its own. */
double mr_watch_was_late(const char **stage);

/* A child that runs scripts: on SIGUSR1 it writes where it is, in words, to `where`, memory that both share. */
enum { MR_WATCH_WHERE = 112 };
void mr_watch_child(pid_t pid, volatile char *where);
void mr_watch_gone(pid_t pid);

/* Return addresses of the watched thread's stack, innermost first; 0 when it does not answer within half a second. For `late`. */
int mr_watch_stack(void **frames, int max);
pid_t mr_watch_thread(void); /* its id, for /proc/self/task */

#endif
