/* sandbox.c - limits, landlock and the system-call filter of a worker: see sandbox.h. */
#include "script/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "script/wire.h"

#if !defined(__has_feature)
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || __has_feature(address_sanitizer) ||               \
    __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

#if defined(__x86_64__)
#define THIS_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define THIS_ARCH AUDIT_ARCH_AARCH64
#endif

/* --- limits --- */

static void limit(int what, rlim_t n) {
    setrlimit((__rlimit_resource_t)what, &(struct rlimit){ n, n });
}

/* What is mapped already (libraries mostly) does not count against the script. */
static void limit_memory(size_t bytes) {
    if (bytes == 0 || SANITIZED) return; /* a sanitizer's shadow memory does not live under an address limit */
    unsigned long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "re");
    if (!statm) return;
    if (fscanf(statm, "%lu", &pages) != 1) pages = 0;
    fclose(statm);
    if (pages == 0) return;
    /* and as much again for compiled code, PCRE2 and frames, which the allocator's cap does not see */
    limit(RLIMIT_AS, (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + bytes + (64u << 20));
}

static void limit_rest(void) {
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_FSIZE, 0);
    limit(RLIMIT_NPROC, 0);   /* does not bind root: there the filter is what forbids clone */
    limit(RLIMIT_NOFILE, 1024); /* 0 to 3 and data files, of which a set may have many */
    signal(SIGXFSZ, SIG_IGN); /* fd 2 may be a file: a last word that cannot be written there is not a crash */
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        (void)!write(fd, "1000", 4);
        close(fd);
    }
}

/* --- landlock: raw calls, since Debian 12's headers and libc know the first versions only --- */

#define LANDLOCK_CREATE 444
#define LANDLOCK_RESTRICT 446
#define LANDLOCK_GET_VERSION 1u

typedef struct landlock_rules {
    uint64_t files, net, scoped;
} landlock_rules;

/* Handles every right that this kernel's version knows and grants none. */
static bool enter_landlock(void) {
    long abi = syscall(LANDLOCK_CREATE, NULL, 0, LANDLOCK_GET_VERSION);
    if (abi < 1) return false;
    landlock_rules rules = { .files = (1u << 13) - 1 };        /* execute .. make_sym */
    if (abi >= 2) rules.files |= 1u << 13;                     /* refer */
    if (abi >= 3) rules.files |= 1u << 14;                     /* truncate */
    if (abi >= 5) rules.files |= 1u << 15;                     /* ioctl on devices */
    if (abi >= 4) rules.net = 3;                               /* bind and connect, TCP */
    if (abi >= 6) rules.scoped = 3;                            /* abstract sockets and signals: inside only */
    size_t size = abi >= 6 ? sizeof rules : abi >= 4 ? 16 : 8; /* an older kernel refuses what it does not know */
    int fd = (int)syscall(LANDLOCK_CREATE, &rules, size, 0u);
    if (fd < 0) return false;
    bool ok = syscall(LANDLOCK_RESTRICT, fd, 0u) == 0;
    close(fd);
    return ok;
}

/* --- the filter --- */

#if defined(THIS_ARCH)

typedef struct condition {
    int arg; /* -1: none */
    uint32_t value;
} condition;

/* A call that stays; with conditions on the low halves of arguments (all that are tested are ints). */
typedef struct allowed {
    int nr;
    condition when[2];
} allowed;

#define ANY                                                                                                            \
    {                                                                                                                  \
        { -1, 0 }, {                                                                                                   \
            -1, 0                                                                                                      \
        }                                                                                                              \
    }
#define IF(arg, value)                                                                                                 \
    {                                                                                                                  \
        { arg, value }, {                                                                                              \
            -1, 0                                                                                                      \
        }                                                                                                              \
    }
enum { SOCKET = -2, PID = -3 }; /* filled in when the filter is made */

/* Found with strace over all tests of this folder, and by reading what glibc does on its way out. Most frequent first:
 * the kernel runs the list from the top. */
static const allowed list[] = {
    /* frames: send, receive (with descriptors), wait */
    { SYS_sendto, { { 0, (uint32_t)SOCKET }, { 4, 0 } } }, /* without an address */
    { SYS_recvmsg, IF(0, (uint32_t)SOCKET) },
#if defined(SYS_poll)
    { SYS_poll, ANY },
#endif
    { SYS_ppoll, ANY },           /* aarch64's poll */
    { SYS_restart_syscall, ANY }, /* how a poll goes on after SIGSTOP and SIGCONT */
    /* memory: LuaJIT's allocator is ours (malloc); its compiler maps, fills and flips pages to executable, PCRE2 too */
    { SYS_brk, ANY },
    { SYS_mprotect, ANY },
    { SYS_mmap, ANY },
    { SYS_munmap, ANY },
    { SYS_mremap, ANY },
    { SYS_madvise, ANY },
    /* pthread_once and locks in libc, LuaJIT's unwinder, PCRE2 */
    { SYS_futex, ANY },
    /* data files: size and contents of what was sent; a path cannot be opened */
    { SYS_fstat, ANY },
    { SYS_newfstatat, IF(3, AT_EMPTY_PATH) }, /* glibc's fstat() until 2.38 */
    { SYS_read, ANY },
    { SYS_pread64, ANY },
    { SYS_lseek, ANY },
    { SYS_close, ANY },
    { SYS_fcntl, IF(1, F_DUPFD_CLOEXEC) }, /* the reader keeps a descriptor of its own */
    /* where the vDSO does not serve it */
    { SYS_clock_gettime, ANY },
    { SYS_getrandom, ANY }, /* malloc's and LuaJIT's seeds */
    { SYS_sysinfo, ANY },   /* glibc's qsort() asks once how much memory there is */
    /* the end: exit, or a message on stderr and abort(), which signals itself */
    { SYS_exit_group, ANY },
    { SYS_exit, ANY },
    { SYS_write, IF(0, 2) },
    { SYS_writev, IF(0, 2) },
    { SYS_rt_sigprocmask, ANY },
    { SYS_getpid, ANY },
    { SYS_gettid, ANY },
    { SYS_tgkill, { { 0, (uint32_t)PID }, { 2, SIGABRT } } },
    { SYS_rt_sigreturn, ANY },
};

typedef struct program {
    struct sock_filter code[256];
    unsigned short n;
} program;

static void emit(program *p, unsigned code, uint32_t k, size_t jt, size_t jf) {
    p->code[p->n++] = (struct sock_filter){ (uint16_t)code, (uint8_t)jt, (uint8_t)jf, k };
}

static void load(program *p, size_t offset) {
    emit(p, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void give_back(program *p, uint32_t action) {
    emit(p, BPF_RET | BPF_K, action, 0, 0);
}

static uint32_t value_of(uint32_t value, int socket_fd) {
    if (value == (uint32_t)SOCKET) return (uint32_t)socket_fd;
    return value == (uint32_t)PID ? (uint32_t)getpid() : value;
}

static void add_rule(program *p, const allowed *a, int socket_fd) {
    size_t n = (a->when[0].arg >= 0) + (a->when[1].arg >= 0);
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)a->nr, 0, n ? 2 * n + 2 : 1);
    for (size_t i = 0; i < n; i++) { /* both targets are little-endian: the low half comes first */
        load(p, offsetof(struct seccomp_data, args) + 8 * (size_t)a->when[i].arg);
        emit(p, BPF_JMP | BPF_JEQ | BPF_K, value_of(a->when[i].value, socket_fd), 0, 2 * (n - i) - 1);
    }
    give_back(p, SECCOMP_RET_ALLOW);
    if (n) give_back(p, SECCOMP_RET_TRAP);
}

/* Where no compiler is wanted: the two calls that could make memory executable say no instead of ending the process. */
static void refuse_exec(program *p, int nr) {
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)nr, 0, 4);
    load(p, offsetof(struct seccomp_data, args) + 8 * 2);
    emit(p, BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 0, 1);
    give_back(p, SECCOMP_RET_ERRNO | EACCES);
    give_back(p, SECCOMP_RET_ALLOW);
}

static void make_program(program *p, const mr_sandbox_opts *o) {
    load(p, offsetof(struct seccomp_data, arch));
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, THIS_ARCH, 1, 0);
    give_back(p, SECCOMP_RET_KILL_PROCESS);
    load(p, offsetof(struct seccomp_data, nr));
#if defined(__x86_64__)
    emit(p, BPF_JMP | BPF_JSET | BPF_K, 0x40000000, 0, 1); /* x32 counts from here; nr -1 too */
    give_back(p, SECCOMP_RET_KILL_PROCESS);
#endif
    if (o->no_exec) {
        refuse_exec(p, SYS_mmap);
        refuse_exec(p, SYS_mprotect);
    }
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) add_rule(p, &list[i], o->socket_fd);
    give_back(p, SECCOMP_RET_TRAP);
}

static int report_fd;

/* A forbidden call was not made. Its number goes to the parent, and the next forbidden call, without a handler now
 * (SA_RESETHAND; rt_sigaction is forbidden itself), ends the process by SIGSYS. */
static void on_forbidden(int signal_number, siginfo_t *info, void *context) {
    (void)signal_number;
    (void)context;
    const uint32_t frame[3] = { MR_WIRE_DENIED, sizeof(uint32_t), (uint32_t)info->si_syscall };
    (void)!send(report_fd, frame, sizeof frame, MSG_NOSIGNAL | MSG_DONTWAIT);
    syscall(SYS_getppid);
    _exit(128 + SIGSYS);
}

static bool enter_seccomp(const mr_sandbox_opts *o) {
    program p = { .n = 0 };
    make_program(&p, o);
    report_fd = o->socket_fd;
    struct sigaction act = { .sa_sigaction = on_forbidden, .sa_flags = SA_SIGINFO | SA_RESETHAND | SA_NODEFER };
    sigaction(SIGSYS, &act, NULL);
    struct sock_fprog prog = { .len = p.n, .filter = p.code };
    /* Without SPEC_ALLOW kernels before 5.16 slow down all branches of a filtered process. */
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &prog) == 0) return true;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0, 0) == 0;
}

#else
static bool enter_seccomp(const mr_sandbox_opts *o) {
    (void)o;
    errno = ENOSYS;
    return false;
}
#endif

void mr_sandbox_enter(mr_sandbox *out, const mr_sandbox_opts *o) {
    *out = (mr_sandbox){ .level = 1 };
    limit_memory(o->memory_bytes);
    limit_rest();
    if (SANITIZED) {
        snprintf(out->missing, sizeof out->missing, "seccomp and landlock (a build with sanitizers)");
        return;
    }
    bool new_privs = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
    bool landlock = new_privs && enter_landlock();
    if (!new_privs || !enter_seccomp(o)) {
        snprintf(out->missing, sizeof out->missing, "seccomp (%s)%s", strerror(errno), landlock ? "" : " and landlock");
        return;
    }
    out->level = landlock ? 3 : 2;
    if (!landlock) snprintf(out->missing, sizeof out->missing, "landlock (not in this kernel, or switched off)");
}
