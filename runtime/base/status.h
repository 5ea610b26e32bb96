/* status.h - the one way in which medrl reports that something failed.
 *
 * A function that can fail at run time returns mr_status and takes `mr_err *err` as its last argument. MR_OK
 * is 0, every failure is negative. On failure outputs that are pointers are NULL, and err holds one line for
 * the person who reads it at night: place, what is wrong, what was expected, what to do.
 *
 *     recipes/medical_mix.lua: grpo.num_generations is 1, need at least 2
 *     data/x.jsonl:4121: field "cop" is a string, want 1..4
 *
 * Errors of the programmer are assert(). Nothing below cli/ calls exit(). err may be NULL everywhere.
 * Threads: no hidden state. */
#ifndef MR_STATUS_H
#define MR_STATUS_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum mr_status {
    MR_OK = 0,
    MR_EINVAL = -1,    /* usage or recipe error: exit 2 */
    MR_EDATA = -2,     /* a damaged or hostile file, bad data: exit 65 */
    MR_ENET = -3,      /* network: exit 69 */
    MR_EINTERNAL = -4, /* NaN, device fault, broken invariant: exit 70 */
    MR_ENOMEM = -5,    /* does not fit: exit 71 */
    MR_EIO = -6,       /* the disk: exit 74 */
    MR_EAGAIN = -7,    /* preempted or hung; try again: exit 75 */
    MR_ESIGNAL = -8,   /* stopped by a signal: exit 128 + signal */
    MR_ENOTFOUND = -9, /* no such file, model, run: exit 2 */
    MR_EREFUSED = -10  /* a safety rule says no: exit 77 */
} mr_status;

typedef struct mr_err {
    char msg[1024];
} mr_err;

#define MR_PRINTF(fmt_index, first_arg) __attribute__((format(printf, fmt_index, first_arg)))

/* Writes the message (cut to fit, control characters made visible) and returns st, so that a failing line reads
 * `return mr_fail(err, MR_EDATA, "%s: byte %zu: ...", path, at);` */
mr_status mr_fail(mr_err *err, mr_status st, const char *fmt, ...) MR_PRINTF(3, 4);
mr_status mr_vfail(mr_err *err, mr_status st, const char *fmt, va_list args);

/* Puts a place in front of the message that a callee left: "PREFIX: old message". Returns st. */
mr_status mr_wrap(mr_err *err, mr_status st, const char *fmt, ...) MR_PRINTF(3, 4);

/* As mr_fail, with ": strerror(errno)" behind it; chooses MR_ENOTFOUND for ENOENT, MR_ENOMEM for ENOMEM, MR_EIO
 * otherwise. */
mr_status mr_fail_errno(mr_err *err, const char *fmt, ...) MR_PRINTF(2, 3);

/* The process exit code that design.md, section 8 gives to a status (MR_ESIGNAL: 130). */
int mr_exit_code(mr_status st);

/* Propagates a failure: `MR_TRY(f(x, err));` */
#define MR_TRY(call)                                                                                                   \
    do {                                                                                                               \
        mr_status mr_try_st_ = (call);                                                                                 \
        if (mr_try_st_ != MR_OK) return mr_try_st_;                                                                    \
    } while (0)

#endif
