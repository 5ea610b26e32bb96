/* proc.h - child processes: this program again, with one socket and nothing else.
 *
 * posix_spawn of /proc/self/exe, never fork (a CUDA context may exist). The child gets an empty environment but the
 * entries given, fd 0 and 1 on /dev/null, fd 2 as the parent's, fd 3 = one end of a socketpair, all else closed, and
 * dies with its parent (PR_SET_PDEATHSIG, set by the child itself with mr_proc_child_setup). */
#ifndef MR_PROC_H
#define MR_PROC_H

#include <sys/types.h>

#include "base/memory.h"

typedef struct mr_proc {
    pid_t pid; /* 0: none */
    int fd;    /* our end of the socket, close-on-exec; -1: none */
} mr_proc;

/* argv: NULL-terminated arguments behind the program's name. env: NULL-terminated "K=V" strings or NULL for none. */
mr_status mr_proc_spawn(mr_proc *p, const char *const *argv, const char *const *env, mr_err *err);
/* SIGKILL, reap, close. Safe on a zeroed struct with fd -1 or 0 and pid 0. Returns the wait status (0 when none). */
int mr_proc_kill(mr_proc *p);
/* Whether it ended without mr_proc_kill, which may come after it and tells how; looked at for timeout_s. */
bool mr_proc_has_ended(const mr_proc *p, double timeout_s);
/* Closes our end, waits up to timeout_s for it to leave, then kills. */
int mr_proc_close(mr_proc *p, double timeout_s);
/* Processor seconds that it has used so far; 0 when that cannot be told. */
double mr_proc_cpu_s(const mr_proc *p);
/* "exit 3", "killed by signal 9 (Killed)": for messages. */
void mr_proc_describe(char *buf, size_t len, int wait_status);

/* In the child, first thing: die with the parent (checks that the parent is still there), no core files. */
void mr_proc_child_setup(void);

double mr_now_s(void);  /* monotonic seconds */
double mr_wall_s(void); /* seconds since 1970 */

#endif
