/* calls.h - system calls that fail on order, for one test program: CMakeLists.txt names those that include this
 * (ld --wrap).
 *
 *     call_fails("fsync", 2, EIO);          the second fsync from now on fails, once
 *     call_fails("close", 1, EIO);          and the first close; up to four at once
 *     CHECK_INT(mr_file_write(...), MR_EIO);
 *     CHECK(calls_settled());               each of them was played; none is left for what follows
 *
 * The code CALL_HALF moves half of the bytes that were asked for, CALL_END none: the end of a file that was longer. CALL_CLAIM says from that
 * call on that all were moved, and moves none: much data without its bytes.
 * A close that fails has closed, as Linux's. For a whole program there is faults/faults.c. */
#ifndef MR_TEST_CALLS_H
#define MR_TEST_CALLS_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_CALL_FAULTS = 4, CALL_HALF = 0, CALL_END = -2, CALL_CLAIM = -3 };
static struct {
    const char *call;
    int nth, code;
} call_faults_[MAX_CALL_FAULTS];

static void call_fails(const char *call, int nth, int code) {
    int i = 0;
    while (i < MAX_CALL_FAULTS - 1 && call_faults_[i].call) i++;
    call_faults_[i].call = call, call_faults_[i].nth = nth, call_faults_[i].code = code;
}

static bool calls_settled(void) {
    bool settled = true;
    for (int i = 0; i < MAX_CALL_FAULTS; i++) {
        if (call_faults_[i].call && call_faults_[i].nth > 0) settled = false;
        call_faults_[i].call = NULL;
    }
    return settled;
}

/* The code that is due for this call, which is counted; -1: none. */
static int call_due_(const char *call) {
    int code = -1;
    for (int i = 0; i < MAX_CALL_FAULTS; i++) {
        if (!call_faults_[i].call || strcmp(call_faults_[i].call, call) != 0 || --call_faults_[i].nth > 0) continue;
        code = call_faults_[i].code;
        if (code != CALL_CLAIM) call_faults_[i].call = NULL;
    }
    if (code > 0) errno = code;
    return code;
}

/* type __wrap_NAME(PARAMETERS) that gives `failed` when a fault is due. */
#define CALL_(type, failed, name, parameters, arguments)      \
    type __real_##name parameters;                            \
    type __wrap_##name parameters;                            \
    type __wrap_##name parameters {                           \
        return call_due_(#name) > 0 ? failed : __real_##name arguments; \
    }
#define SOME_BYTES_(name, parameters, half, all)              \
    ssize_t __real_##name parameters;                         \
    ssize_t __wrap_##name parameters;                         \
    ssize_t __wrap_##name parameters {                        \
        const int code = call_due_(#name);                    \
        return code > 0 ? -1 : code == CALL_END ? 0 : code == CALL_CLAIM ? (ssize_t)n : code == CALL_HALF ? __real_##name half : __real_##name all; \
    }

SOME_BYTES_(read, (int fd, void *to, size_t n), (fd, to, n / 2), (fd, to, n))
SOME_BYTES_(pread, (int fd, void *to, size_t n, off_t at), (fd, to, n / 2, at), (fd, to, n, at))
SOME_BYTES_(write, (int fd, const void *from, size_t n), (fd, from, n / 2), (fd, from, n))
SOME_BYTES_(pwrite, (int fd, const void *from, size_t n, off_t at), (fd, from, n / 2, at), (fd, from, n, at))
CALL_(int, -1, fstat, (int fd, struct stat *info), (fd, info))
CALL_(int, -1, lstat, (const char *path, struct stat *info), (path, info))
CALL_(int, -1, fsync, (int fd), (fd))
CALL_(int, -1, fchmod, (int fd, mode_t mode), (fd, mode))
CALL_(int, -1, ftruncate, (int fd, off_t len), (fd, len))
CALL_(int, -1, flock, (int fd, int how), (fd, how))
CALL_(int, -1, mkostemp, (char *path, int flags), (path, flags))
CALL_(int, -1, rename, (const char *from, const char *to), (from, to))
CALL_(int, -1, renameat2, (int a, const char *from, int b, const char *to, unsigned flags), (a, from, b, to, flags))
CALL_(int, -1, unlinkat, (int parent, const char *name, int flags), (parent, name, flags))
CALL_(int, -1, mkdir, (const char *path, mode_t mode), (path, mode))
CALL_(DIR *, NULL, opendir, (const char *path), (path))
CALL_(DIR *, NULL, fdopendir, (int fd), (fd))
CALL_(struct dirent *, NULL, readdir, (DIR *dir), (dir))
CALL_(void *, MAP_FAILED, mmap, (void *at, size_t n, int how, int flags, int fd, off_t from), (at, n, how, flags, fd, from))

int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd) {
    const int code = call_due_("close"), result = __real_close(fd);
    if (code <= 0) return result;
    errno = code;
    return -1;
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    const mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    return call_due_("open") > 0 ? -1 : __real_open(path, flags, mode);
}

/* What _FORTIFY_SOURCE makes of an open whose flags are no constant. */
int __real___open_2(const char *path, int flags);
int __wrap___open_2(const char *path, int flags);
int __wrap___open_2(const char *path, int flags) {
    return call_due_("open") > 0 ? -1 : __real___open_2(path, flags);
}

#endif
