/* sandbox.h - what a worker may still ask of the kernel once it has started: very little, and nothing that reaches a
 * file, a network or another process.
 *
 * Levels (reliability.md, section 3, item 10):
 *   3  seccomp allow-list and landlock (no file, no TCP port, no abstract socket, no signal to others)
 *   2  seccomp only (kernels without landlock; gVisor)
 *   1  limits and the empty environment only (no seccomp, or a build with sanitizers, which need many more calls)
 * Limits hold at every level: address space, no core files, few descriptors, no file growth, no new processes, first
 * choice of the out-of-memory killer; PR_SET_NO_NEW_PRIVS wherever the kernel has it.
 *
 * The calls that stay (sandbox.c says what for): talking over the one socket, memory, reading descriptors that the
 * parent sent, the clock, ending. Any other call ends the process with SIGSYS after one frame that names its number;
 * a call of another architecture's table (x32, i386) ends it without.
 *
 * Source: Linux Documentation/userspace-api/{seccomp_filter,landlock}.rst. x86_64 and aarch64; level 1 elsewhere.
 * Threads: enter once, in a process with one thread. Nothing is undone. */
#ifndef MR_SANDBOX_H
#define MR_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>

typedef struct mr_sandbox {
    int level;        /* 1 to 3 */
    char missing[96]; /* what kept it from 3; "" at 3 */
} mr_sandbox;

typedef struct mr_sandbox_opts {
    int socket_fd;       /* the one that may be written to and received from */
    size_t memory_bytes; /* beyond what is mapped now; 0: no limit on the address space */
    bool no_exec;        /* mappings never become executable: no compiler (EACCES tells it so) */
} mr_sandbox_opts;

/* From here on. Never fails: what could not be had lowers the level. */
void mr_sandbox_enter(mr_sandbox *out, const mr_sandbox_opts *opts);

#endif
