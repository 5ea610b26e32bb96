/* proc.c - spawning, ending and describing child processes; clocks. */
#include "base/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHILD_FD 3

static mr_status spawn(mr_proc *p, int fd, char **argv, char **envp, mr_err *err) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attr);
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    /* A process group of its own: Ctrl-C is for the parent, which still needs its workers to finish the step. */
    int rc = posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    if (!rc) rc = posix_spawnattr_setpgroup(&attr, 0);
    if (!rc) rc = posix_spawnattr_setsigmask(&attr, &none);
    if (!rc) rc = posix_spawnattr_setsigdefault(&attr, &all);
    if (!rc) rc = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (!rc) rc = posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    if (!rc) rc = posix_spawn_file_actions_adddup2(&actions, fd, CHILD_FD);
    if (!rc) rc = posix_spawn_file_actions_addclosefrom_np(&actions, CHILD_FD + 1);
    pid_t pid = 0;
    if (!rc) rc = posix_spawn(&pid, "/proc/self/exe", &actions, &attr, argv, envp);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attr);
    if (rc) {
        errno = rc;
        mr_status st = mr_fail_errno(err, "worker: could not be started");
        return st == MR_ENOMEM ? st : MR_EINTERNAL;
    }
    p->pid = pid;
    return MR_OK;
}

mr_status mr_proc_spawn(mr_proc *p, const char *const *argv, const char *const *env, mr_err *err) {
    *p = (mr_proc){ 0, -1 };
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        mr_fail_errno(err, "worker: no socket");
        return MR_EINTERNAL;
    }
    /* Away from 0..3, which the child's file actions overwrite before they copy it. */
    int fd = fcntl(pair[1], F_DUPFD_CLOEXEC, 10);
    close(pair[1]);
    if (fd < 0) {
        mr_fail_errno(err, "worker: no file descriptor");
        close(pair[0]);
        return MR_EINTERNAL;
    }
    size_t n = 0;
    while (argv && argv[n]) n++;
    static char name[] = "medrl";
    char **args = mr_alloc((n + 2) * sizeof *args), *no_env[] = { NULL };
    args[0] = name;
    for (size_t i = 0; i < n; i++) args[i + 1] = mr_strdup(argv[i]);
    mr_status st = spawn(p, fd, args, env ? (char **)(uintptr_t)env : no_env, err);
    for (size_t i = 0; i < n; i++) mr_free(args[i + 1]);
    mr_free(args);
    close(fd);
    if (st != MR_OK)
        close(pair[0]);
    else
        p->fd = pair[0];
    return st;
}

static int reap(mr_proc *p) {
    int status = 0;
    /* wait: for the kernel to take a process down that was sent SIGKILL; the watchdog sees one that hangs in a driver */
    while (waitpid(p->pid, &status, 0) < 0)
        if (errno != EINTR) {
            status = 0;
            break;
        }
    p->pid = 0;
    return status;
}

static void close_fd(mr_proc *p) {
    if (p->fd > 0) close(p->fd); /* 0 is the zeroed struct, never a socket of ours */
    p->fd = -1;
}

int mr_proc_kill(mr_proc *p) {
    int status = 0;
    if (p->pid > 0) {
        kill(p->pid, SIGKILL);
        status = reap(p);
    }
    close_fd(p);
    return status;
}

bool mr_proc_has_ended(const mr_proc *p, double timeout_s) {
    double until = mr_now_s() + timeout_s;
    if (p->pid <= 0) return false;
    for (;;) {
        siginfo_t info = { 0 };
        /* wait: none */
        int got = waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG | WNOWAIT);
        if (got == 0 && info.si_pid == p->pid) return true;
        if ((got < 0 && errno != EINTR) || mr_now_s() >= until) return false;
        /* wait: 1 ms, until timeout_s */
        nanosleep(&(struct timespec){ 0, 1000000 }, NULL);
    }
}

int mr_proc_close(mr_proc *p, double timeout_s) {
    close_fd(p);
    if (p->pid <= 0) return 0;
    double until = mr_now_s() + timeout_s;
    for (long pause_us = 200;; pause_us = pause_us < 10000 ? 2 * pause_us : pause_us) {
        int status;
        /* wait: none */
        pid_t got = waitpid(p->pid, &status, WNOHANG);
        if (got == p->pid) {
            p->pid = 0;
            return status;
        }
        if ((got < 0 && errno != EINTR) || mr_now_s() >= until) return mr_proc_kill(p);
        /* wait: 10 ms, until timeout_s */
        nanosleep(&(struct timespec){ 0, pause_us * 1000 }, NULL);
    }
}

void mr_proc_describe(char *buf, size_t len, int wait_status) {
    if (WIFEXITED(wait_status))
        snprintf(buf, len, "exit %d", WEXITSTATUS(wait_status));
    else if (WIFSIGNALED(wait_status))
        snprintf(buf, len, "killed by signal %d (%s)", WTERMSIG(wait_status), strsignal(WTERMSIG(wait_status)));
    else
        snprintf(buf, len, "wait status %d", wait_status);
}

void mr_proc_child_setup(void) {
    setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    /* The parent may have died before the line above; its end of the socket is closed then. */
    struct pollfd fd = { .fd = CHILD_FD };
    /* wait: none */
    if (poll(&fd, 1, 0) > 0 && fd.revents & (POLLHUP | POLLERR)) _exit(0);
}

static double clock_s(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double mr_proc_cpu_s(const mr_proc *p) {
    clockid_t id;
    return p->pid > 0 && clock_getcpuclockid(p->pid, &id) == 0 ? clock_s(id) : 0;
}

double mr_now_s(void) {
    return clock_s(CLOCK_MONOTONIC);
}

double mr_wall_s(void) {
    return clock_s(CLOCK_REALTIME);
}
