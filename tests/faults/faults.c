/* faults.c - system calls that fail on order: linked into medrl_faulty, the program as it is but for this file.
 *
 * The linker sends every call of the program's own objects to the functions here (ld --wrap); libraries keep theirs. Set
 *
 *     MEDRL_FAULT=OP:N:WHAT[,OP:N:WHAT ...]   the Nth call of OP, from 1; N+ means that one and all later ones
 *     MEDRL_FAULT_BELOW=TEXT                  only calls on paths (or on open files) whose path contains TEXT are counted
 *     MEDRL_FAULT_LOG=FILE                    a line for each fault that was played: so that a loop over N knows when to end
 *     MEDRL_FAULT_TRACE=FILE                  what was done below MEDRL_FAULT_BELOW, with its data, for power.pl
 *     MEDRL_FAULT_WORKER=PROGRAM              workers are this program: under valgrind /proc/self/exe is valgrind
 *     MEDRL_FAULT_PEAK=FILE                   the process's peak of memory in KiB and its seconds of CPU, when it ends
 *     MEDRL_FAULT_POPULATE=1                  large blocks are memory at once, not when they are first touched: a process's peak is its plan
 *     MEDRL_FAULT_WORKERS=N                   so many workers, which is no setting
 *
 * OP:   write fsync open mkdir rename unlink rmdir truncate chmod link (every form of each); malloc (all that gives memory, of
 *       libraries too where no sanitizer has it), mmap; clock, uptime: a reading of the wall clock, of the
 *       monotonic one. stall, beat: a stage of the trainer begins, moves (base/watch.h). number: a step of training.
 * WHAT: ENOSPC, EIO, EINTR, EROFS, EMFILE, ENOMEM: the call fails with it. short: write takes half of its bytes. kill, killed: SIGKILL to this
 *       process before the call, after it. SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGXCPU: that signal before the call. A number, for clock and
 *       uptime: seconds that readings are changed by from that one on.
 *       Of stall, a stage: the main thread stands still when that one begins the Nth time, for ever or, as "rollout/700", for milliseconds.
 *       Of beat, a stage and a signal, at the Nth move within that stage: "rollout/SIGINT".
 *       Of number, a place and "nan" or "inf": a number becomes that in step N (numbers.c): "grad/nan".
 * An EINTR is played once by a loop that tries again. Workers are started with an empty environment, so they see none of it. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "faults/faults.h"
#include "rl/checkpoint.h"
#include "script/script.h"

enum { MAX_FAULTS = 16 };

typedef struct fault {
    char op[16], what[24];
    long n;
    bool onward;
} fault;

static fault faults[MAX_FAULTS];
static int n_faults;
static const char *below, *log_path;
static const char *const ops[] = { "write", "fsync", "open", "mkdir", "rename", "unlink", "rmdir", "truncate", "chmod", "link", "malloc", "mmap", "clock", "uptime", "stall", "beat", "number" };
enum { WRITE, FSYNC, OPEN, MKDIR, RENAME, UNLINK, RMDIR, TRUNCATE, CHMOD, LINK, MALLOC, MMAP, CLOCK, UPTIME, STALL, BEAT, NUMBER, N_OPS };
static atomic_long counts[N_OPS];

/* A fault that cannot be read must not look like a run without faults. */
static void refuse(const char *text) {
    fprintf(stderr, "faults: MEDRL_FAULT=%s: expected OP:N:WHAT with a known OP\n", text);
    _exit(99);
}

__attribute__((constructor)) static void read_orders(void) {
    const char *text = getenv("MEDRL_FAULT");
    below = getenv("MEDRL_FAULT_BELOW"), log_path = getenv("MEDRL_FAULT_LOG");
    for (const char *at = text; at && *at; at += strcspn(at, ","), at += *at == ',') {
        fault *f = &faults[n_faults];
        char plus[2] = "";
        bool known = false;
        if (n_faults == MAX_FAULTS || (sscanf(at, "%15[a-z]:%ld%1[+]:%23[^,]", f->op, &f->n, plus, f->what) != 4 &&
                                       sscanf(at, "%15[a-z]:%ld:%23[^,]", f->op, &f->n, f->what) != 3))
            refuse(text);
        f->onward = plus[0] == '+';
        for (int i = 0; i < N_OPS; i++) known = known || !strcmp(ops[i], f->op);
        if (!known || f->n < 1) refuse(text);
        n_faults++;
    }
}

static void note(int op, long n, const char *what) {
    char line[80];
    if (!log_path) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    int len = snprintf(line, sizeof line, "%s %ld %s\n", ops[op], n, what);
    if (fd < 0 || syscall(SYS_write, fd, line, (size_t)len) != len) _exit(99);
    syscall(SYS_close, fd);
}

static bool counted(const char *path, int fd) {
    char link[64], at[4096];
    if (!below) return true;
    if (path) return strstr(path, below) != NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, at, sizeof at - 1);
    at[n > 0 ? n : 0] = '\0';
    return strstr(at, below) != NULL;
}

static int code_of(const char *what) {
    static const struct { const char *name; int code; } codes[] = {
        { "ENOSPC", ENOSPC }, { "EIO", EIO }, { "EINTR", EINTR }, { "EROFS", EROFS }, { "EMFILE", EMFILE }, { "ENOMEM", ENOMEM },
    };
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (!strcmp(codes[i].name, what)) return codes[i].code;
    refuse(what);
    return 0;
}

/* The fault that is due for this call, which is counted; NULL: none. */
static const char *due(int op, const char *path, int fd) {
    if (!n_faults || (op < MALLOC && !counted(path, fd))) return NULL;
    long n = atomic_fetch_add(&counts[op], 1) + 1;
    for (int i = 0; i < n_faults; i++) {
        if (strcmp(faults[i].op, ops[op]) != 0 || (n != faults[i].n && !(faults[i].onward && n > faults[i].n))) continue;
        note(op, n, faults[i].what);
        return faults[i].what;
    }
    return NULL;
}

/* "op<tab>path<tab>other<newline>", and behind a write's line its bytes and a newline. Paths as they are when the call is made. */
static const char *path_of(int fd, const char *name, char at[4096]) {
    char link[64];
    if (name && name[0] == '/') return name;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, at, 2048);
    at[n > 0 ? n : 0] = '\0';
    if (name) snprintf(at + strlen(at), 2048, "/%s", name);
    return at;
}

static void trace(const char *op, const char *path, const char *other, const void *data, size_t len) {
    static const char *file;
    static int fd = -1;
    if (!file) file = getenv("MEDRL_FAULT_TRACE") ? getenv("MEDRL_FAULT_TRACE") : "";
    if (!*file || !below || !strstr(path, below)) return;
    if (fd < 0) fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    char line[8300];
    int n = snprintf(line, sizeof line, "%s\t%s\t%s\n", op, path, other);
    if (fd < 0 || syscall(SYS_write, fd, line, (size_t)n) != n) _exit(99);
    if (data && (syscall(SYS_write, fd, data, len) != (long)len || syscall(SYS_write, fd, "\n", 1ul) != 1)) _exit(99);
}

static void trace_write(int fd, off_t at, const void *data, size_t len) {
    char path[4096], place[64];
    if (!getenv("MEDRL_FAULT_TRACE")) return;
    snprintf(place, sizeof place, "%lld\t%zu", (long long)at, len);
    trace("write", path_of(fd, NULL, path), place, data, len);
}

static void trace_fd(const char *op, int fd, const char *other) {
    char path[4096];
    if (getenv("MEDRL_FAULT_TRACE")) trace(op, path_of(fd, NULL, path), other, NULL, 0);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static int signal_of(const char *what) {
    static const struct { const char *name; int number; } signals[] = {
        { "SIGINT", SIGINT }, { "SIGTERM", SIGTERM }, { "SIGHUP", SIGHUP }, { "SIGUSR1", SIGUSR1 }, { "SIGXCPU", SIGXCPU },
    };
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        if (!strcmp(signals[i].name, what)) return signals[i].number;
    return 0;
}

/* What is to happen instead of the call: true and errno set. "kill" does not come back; "killed" is the caller's. */
static bool fails(const char *what) {
    if (!what || !strcmp(what, "short") || !strcmp(what, "killed")) return false;
    if (!strcmp(what, "kill")) die();
    if (signal_of(what)) {
        raise(signal_of(what));
        return false;
    }
    errno = code_of(what);
    return true;
}

static void after(const char *what) {
    if (what && !strcmp(what, "killed")) die();
}

#define DECLARE(type, name, ...)   \
    type __real_##name(__VA_ARGS__); \
    type __wrap_##name(__VA_ARGS__);

DECLARE(ssize_t, write, int, const void *, size_t)
DECLARE(ssize_t, pwrite, int, const void *, size_t, off_t)
DECLARE(int, fsync, int)
DECLARE(int, open, const char *, int, ...)
DECLARE(int, openat, int, const char *, int, ...)
DECLARE(int, __open_2, const char *, int)
DECLARE(int, mkostemp, char *, int)
DECLARE(int, mkdir, const char *, mode_t)
DECLARE(int, mkdirat, int, const char *, mode_t)
DECLARE(int, rename, const char *, const char *)
DECLARE(int, renameat2, int, const char *, int, const char *, unsigned)
DECLARE(int, renameat, int, const char *, int, const char *)
DECLARE(int, symlinkat, const char *, int, const char *)
DECLARE(int, fallocate, int, int, off_t, off_t)
DECLARE(int, unlink, const char *)
DECLARE(int, unlinkat, int, const char *, int)
DECLARE(int, ftruncate, int, off_t)
DECLARE(int, fchmod, int, mode_t)
DECLARE(int, clock_gettime, clockid_t, struct timespec *)
DECLARE(void, mr_watch_at, const char *)
DECLARE(void, mr_watch_beat, void)
DECLARE(mr_status, mr_checkpoint_commit, const char *, const char *, int64_t, mr_err *)
DECLARE(mr_status, mr_pool_open, mr_pool **, const char *, const mr_pool_opts *, mr_err *)
DECLARE(int, posix_spawn, pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *, char *const *, char *const *)

ssize_t __wrap_write(int fd, const void *data, size_t len) {
    const char *what = due(WRITE, NULL, fd);
    if (fails(what)) return -1;
    if (what && !strcmp(what, "short") && len > 1) len /= 2;
    ssize_t n = __real_write(fd, data, len);
    if (n > 0 && below) trace_write(fd, lseek(fd, 0, SEEK_CUR) - n, data, (size_t)n);
    after(what);
    return n;
}

ssize_t __wrap_pwrite(int fd, const void *data, size_t len, off_t at) {
    const char *what = due(WRITE, NULL, fd);
    if (fails(what)) return -1;
    if (what && !strcmp(what, "short") && len > 1) len /= 2;
    ssize_t n = __real_pwrite(fd, data, len, at);
    if (n > 0 && below) trace_write(fd, at, data, (size_t)n);
    after(what);
    return n;
}

#define CALL(op, path, fd, call, ...)          \
    do {                                       \
        const char *what = due(op, path, fd);  \
        if (fails(what)) return -1;            \
        int result = (call);                   \
        if (result >= 0) { __VA_ARGS__; }      \
        after(what);                           \
        return result;                         \
    } while (0)

int __wrap_fsync(int fd) { CALL(FSYNC, NULL, fd, __real_fsync(fd), trace_fd("fsync", fd, "")); }
int __wrap_mkostemp(char *path, int flags) { CALL(OPEN, path, -1, __real_mkostemp(path, flags), trace("create", path, "", NULL, 0)); }
int __wrap_mkdir(const char *path, mode_t mode) { CALL(MKDIR, path, -1, __real_mkdir(path, mode), trace("mkdir", path, "", NULL, 0)); }
int __wrap_rename(const char *from, const char *to) { CALL(RENAME, to, -1, __real_rename(from, to), trace("rename", from, to, NULL, 0)); }
/* A checkpoint that is saved again takes the place of the one that is there. */
int __wrap_renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    CALL(RENAME, to, -1, __real_renameat2(a, from, b, to, flags), trace(flags & RENAME_EXCHANGE ? "exchange" : "rename", from, to, NULL, 0));
}
int __wrap_unlink(const char *path) { CALL(UNLINK, path, -1, __real_unlink(path), trace("unlink", path, "", NULL, 0)); }
int __wrap_ftruncate(int fd, off_t len) {
    char to[32];
    snprintf(to, sizeof to, "%lld", (long long)len);
    CALL(TRUNCATE, NULL, fd, __real_ftruncate(fd, len), trace_fd("truncate", fd, to));
}
int __wrap_fchmod(int fd, mode_t mode) { CALL(CHMOD, NULL, fd, __real_fchmod(fd, mode)); }

int __wrap_fallocate(int fd, int mode, off_t at, off_t len) { CALL(TRUNCATE, NULL, fd, __real_fallocate(fd, mode, at, len)); }
/* Relative names are counted by the folder that they are in. */
int __wrap_mkdirat(int dir, const char *path, mode_t mode) { CALL(MKDIR, NULL, dir, __real_mkdirat(dir, path, mode)); }
int __wrap_renameat(int from_dir, const char *from, int dir, const char *to) {
    CALL(RENAME, NULL, dir, __real_renameat(from_dir, from, dir, to));
}
int __wrap_symlinkat(const char *target, int dir, const char *name) { CALL(LINK, NULL, dir, __real_symlinkat(target, dir, name)); }
int __wrap_unlinkat(int dir, const char *name, int flags) {
    bool named = dir == AT_FDCWD || name[0] == '/';
    char at[4096];
    CALL(flags & AT_REMOVEDIR ? RMDIR : UNLINK, named ? name : NULL, dir, __real_unlinkat(dir, name, flags),
         trace(flags & AT_REMOVEDIR ? "rmdir" : "unlink", path_of(dir, name, at), "", NULL, 0));
}

static mode_t mode_of(int flags, va_list args) { return flags & (O_CREAT | O_TMPFILE) ? (mode_t)va_arg(args, int) : 0; }

int __wrap_open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = mode_of(flags, args);
    va_end(args);
    const bool new = flags & O_CREAT && access(path, F_OK) != 0;
    CALL(OPEN, path, -1, __real_open(path, flags, mode), if (new) trace("create", path, "", NULL, 0));
}

/* What a fortified build makes of an open whose flags are no constant. */
int __wrap___open_2(const char *path, int flags) { return __wrap_open(path, flags); }

int __wrap_openat(int dir, const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = mode_of(flags, args);
    va_end(args);
    CALL(OPEN, path, -1, __real_openat(dir, path, flags, mode));
}

int __wrap_clock_gettime(clockid_t id, struct timespec *t) {
    static atomic_long shift[2];
    int wall = id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE;
    /* threads of the pool look at the clock while they wait for work: any number of times */
    if (id == CLOCK_PROCESS_CPUTIME_ID || id == CLOCK_THREAD_CPUTIME_ID || gettid() != getpid()) return __real_clock_gettime(id, t);
    const char *what = due(wall ? CLOCK : UPTIME, NULL, -1);
    if (what && signal_of(what))
        raise(signal_of(what));
    else if (what)
        atomic_store(&shift[wall], strtol(what, NULL, 10));
    int result = __real_clock_gettime(id, t);
    t->tv_sec += atomic_load(&shift[wall]);
    return result;
}

const char *mr_fault_number(long step, const char *where) {
    for (int i = 0; i < n_faults; i++) {
        const fault *f = &faults[i];
        const size_t len = strcspn(f->what, "/");
        if (strcmp(f->op, ops[NUMBER]) != 0 || strlen(where) != len || strncmp(f->what, where, len) != 0 || !f->what[len]) continue;
        if (step != f->n && !(f->onward && step > f->n)) continue;
        note(NUMBER, step, f->what);
        return f->what + len + 1;
    }
    return NULL;
}

/* From here on the program relies on it. */
mr_status __wrap_mr_checkpoint_commit(const char *tmp, const char *run_dir, int64_t step, mr_err *err) {
    char number[32];
    mr_status st = __real_mr_checkpoint_commit(tmp, run_dir, step, err);
    snprintf(number, sizeof number, "%lld", (long long)step);
    if (st == MR_OK) trace("committed", run_dir, number, NULL, 0);
    return st;
}

/* The stage has begun for those who watch, and then nothing moves. */
static const char *stage_now = "";

/* Whether the order is for this operation in the stage that is under way, and its time has come. seen: how often it was asked before. */
static bool stage_due(const fault *f, int op, long *seen) {
    const size_t len = strcspn(f->what, "/");
    if (strcmp(f->op, ops[op]) != 0 || strncmp(f->what, stage_now, len) != 0 || stage_now[len] || ++*seen != f->n) return false;
    note(op, *seen, f->what);
    return true;
}

void __wrap_mr_watch_at(const char *stage) {
    static long seen[MAX_FAULTS];
    __real_mr_watch_at(stage);
    stage_now = stage ? stage : "";
    for (int i = 0; stage && i < n_faults; i++) {
        if (!stage_due(&faults[i], STALL, &seen[i])) continue;
        const char *slash = strchr(faults[i].what, '/');
        const long ms = slash ? strtol(slash + 1, NULL, 10) : 0;
        struct timespec left = { ms / 1000, ms % 1000 * 1000000 };
        while (ms && nanosleep(&left, &left) != 0 && errno == EINTR) {}
        while (!ms) pause();
    }
}

void __wrap_mr_watch_beat(void) {
    static long seen[MAX_FAULTS];
    __real_mr_watch_beat();
    for (int i = 0; i < n_faults; i++) {
        if (!stage_due(&faults[i], BEAT, &seen[i])) continue;
        const char *slash = strchr(faults[i].what, '/');
        if (!slash || !signal_of(slash + 1)) refuse(faults[i].what);
        raise(signal_of(slash + 1));
    }
}

int __wrap_posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attr,
                       char *const *argv, char *const *envp) {
    const char *other = getenv("MEDRL_FAULT_WORKER");
    return __real_posix_spawn(pid, other ? other : path, actions, attr, argv, envp);
}

mr_status __wrap_mr_pool_open(mr_pool **out, const char *recipe, const mr_pool_opts *opts, mr_err *err) {
    mr_pool_opts o = *opts;
    if (getenv("MEDRL_FAULT_WORKERS")) o.n_workers = atoi(getenv("MEDRL_FAULT_WORKERS"));
    return __real_mr_pool_open(out, recipe, &o, err);
}

__attribute__((destructor)) static void write_peak(void) {
    const char *path = getenv("MEDRL_FAULT_PEAK");
    FILE *f = path ? fopen(path, "w") : NULL;
    struct rusage use;
    if (!f) return;
    getrusage(RUSAGE_SELF, &use);
    fprintf(f, "%ld %.3f\n", use.ru_maxrss, (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) + 1e-6 * (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec));
    fclose(f);
}

/* --- memory --- */

/* What the CPU backend cuts small blocks from (kernels/cpu/slab.c): the end of the last one belongs to nobody. */
enum { SLAB_BYTES = 64 << 20 };

DECLARE(void *, mmap, void *, size_t, int, int, int, off_t)
void *__wrap_mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset) {
    if (fails(due(MMAP, NULL, -1))) return MAP_FAILED;
    if (getenv("MEDRL_FAULT_POPULATE") && (flags & MAP_ANONYMOUS) && len != SLAB_BYTES) flags |= MAP_POPULATE;
    return __real_mmap(at, len, prot, flags, fd, offset);
}

/* Where a sanitizer owns malloc, only the program's own calls are led here (ld --wrap); else every library's are, since a
 * program may define these functions (glibc manual, "Replacing malloc"). */
static bool no_memory(void) {
    static __thread bool within; /* a fault's note */
    if (!n_faults || within) return false;
    within = true;
    const bool no = fails(due(MALLOC, NULL, -1));
    within = false;
    return no;
}

#ifdef __SANITIZE_ADDRESS__
#define OURS(name) __wrap_##name
#define THEIRS(name) __real_##name
#else
#define OURS(name) name
#define THEIRS(name) __libc_##name
#endif
void *THEIRS(malloc)(size_t);
void *THEIRS(calloc)(size_t, size_t);
void *THEIRS(realloc)(void *, size_t);
void *OURS(malloc)(size_t);
void *OURS(calloc)(size_t, size_t);
void *OURS(realloc)(void *, size_t);
int OURS(posix_memalign)(void **, size_t, size_t);

void *OURS(malloc)(size_t n) { return no_memory() ? NULL : THEIRS(malloc)(n); }
void *OURS(calloc)(size_t n, size_t size) { return no_memory() ? NULL : THEIRS(calloc)(n, size); }
void *OURS(realloc)(void *p, size_t n) { return no_memory() ? NULL : THEIRS(realloc)(p, n); }

#ifdef __SANITIZE_ADDRESS__
int __real_posix_memalign(void **, size_t, size_t);
int __wrap_posix_memalign(void **p, size_t align, size_t n) { return no_memory() ? ENOMEM : __real_posix_memalign(p, align, n); }
#else
void *__libc_memalign(size_t, size_t);
int posix_memalign(void **p, size_t align, size_t n) {
    void *got = no_memory() ? NULL : __libc_memalign(align, n);
    if (!got) return ENOMEM;
    *p = got;
    return 0;
}
#endif
