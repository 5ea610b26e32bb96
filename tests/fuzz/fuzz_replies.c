/* fuzz_replies.c - all that a worker says, from its first frame on, to the pool that started it: no process is started, the socket's other
 * end holds the bytes and its stream ends behind them (the linker leads mr_proc_spawn here). Whatever they are: the pool opens or says
 * why not in one line, and a batch comes back with a finite score or a fault for each completion. */
#include <math.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/proc.h"
#include "fuzz.h"
#include "script/script.h"

static const uint8_t *bytes;
static size_t n_bytes;
static struct { int ours, theirs; } ends[64];

mr_status __wrap_mr_proc_spawn(mr_proc *p, const char *const *argv, const char *const *env, mr_err *err);
int __wrap_mr_proc_kill(mr_proc *p);
double __wrap_mr_proc_cpu_s(const mr_proc *p);

mr_status __wrap_mr_proc_spawn(mr_proc *p, const char *const *argv, const char *const *env, mr_err *err) {
    int pair[2], i = 0;
    (void)argv, (void)env, (void)err;
    while (i < 64 && ends[i].ours) i++;
    PROMISE(i < 64 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
    PROMISE(send(pair[1], bytes, n_bytes, MSG_NOSIGNAL) == (ssize_t)n_bytes, "the socket takes no %zu bytes", n_bytes);
    shutdown(pair[1], SHUT_WR);
    ends[i].ours = pair[0], ends[i].theirs = pair[1];
    *p = (mr_proc){ .pid = 0x7ffffff0, .fd = pair[0] }; /* a number that no process has */
    return MR_OK;
}

int __wrap_mr_proc_kill(mr_proc *p) {
    for (int i = 0; i < 64 && p->pid; i++) {
        if (ends[i].ours != p->fd) continue;
        close(ends[i].ours), close(ends[i].theirs);
        ends[i].ours = 0;
    }
    *p = (mr_proc){ 0, -1 };
    return 9; /* as if killed */
}

double __wrap_mr_proc_cpu_s(const mr_proc *p) {
    (void)p;
    return 0;
}

static void score(mr_pool *p) {
    const mr_scorer sc = mr_pool_scorer(p);
    int n = sc.n_rewards, n_faults = 0;
    mr_score *scores = calloc((size_t)(2 * n + 1), sizeof *scores);
    mr_fault faults[4];
    mr_err err = { "" };
    mr_status st = MR_OK;
    for (int i = 0; i < 2 && st == MR_OK; i++) {
        mr_score_job job = { .id = i, .text = "a", .len = 1, .row_json = "{}", .n_group = 2 };
        st = sc.submit(sc.self, &job, &err);
    }
    if (st == MR_OK) st = sc.collect(sc.self, scores, 2, faults, 4, &n_faults, &err);
    if (st == MR_OK) {
        int scored = 0;
        for (int i = 0; i < 2 * n; i++) {
            PROMISE(scores[i].kind <= MR_FAULT, "a score of kind %d", (int)scores[i].kind);
            PROMISE(scores[i].kind != MR_SCORED || isfinite(scores[i].value), "a score of %g", scores[i].value);
            PROMISE(!isinf(scores[i].value), "a fault of %g", scores[i].value); /* NaN: no script's */
            scored += scores[i].kind == MR_SCORED;
        }
        if (scored)
            fuzz_accepted();
        else
            fuzz_n_refused++;
    } else
        PROMISE(err.msg[0] && !strchr(err.msg, '\n'), "a failure without one line");
    free(scores);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const rewards[] = { "soft_format", NULL };
    mr_log_set_level(MR_LOG_ERROR);
    if (size > 60000) return 0; /* what a socket holds */
    bytes = data, n_bytes = size;
    mr_pool_opts o = { .n_workers = 1, .deadline_s = 2, .rewards = rewards };
    mr_pool *p;
    mr_err err = { "" };
    if (mr_pool_open(&p, NULL, &o, &err) == MR_OK) {
        score(p);
        mr_pool_close(p);
    } else {
        fuzz_n_refused++;
        PROMISE(err.msg[0] && !strchr(err.msg, '\n'), "a refusal without one line: %s", err.msg);
    }
    for (int i = 0; i < 64; i++) PROMISE(!ends[i].ours, "a worker was not ended");
    return 0;
}
