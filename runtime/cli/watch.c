/* watch.c - what becomes of a run that stands still: one warning, then exit code 75 with the details in RUN/crash-PID.txt. All of it in
 * the watcher's thread, since the main one does not answer; so files are written by plain calls, and nothing of the session is
 * touched but what does not change while it trains. */
#include <execinfo.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/log.h"
#include "base/proc.h"
#include "base/watch.h"
#include "cli/cli.h"
#include "cli/session.h"

enum { FRAMES = 48 };

/* "step 12, stage rollout, operation attention, Lua lua/rewards/x.lua:3" */
static void put_place(mr_str *s, const mr_watch_report *r) {
    mr_str_printf(s, "step %lld, stage %s", (long long)r->step, r->stage);
    const char *op = strncmp(r->op, "cpu_", 4) == 0 ? r->op + 4 : r->op;
    if (*op) mr_str_printf(s, ", last operation %s", op);
    if (r->lua[0]) mr_str_printf(s, ", Lua at %s", r->lua);
}

/* One line of /proc/self/task/ID/FILE, without its end; "" when there is none. */
static void task_line(char *out, size_t size, const char *file, const char *begin) {
    char path[64];
    out[0] = '\0';
    snprintf(path, sizeof path, "/proc/self/task/%ld/%s", (long)mr_watch_thread(), file);
    FILE *f = fopen(path, "re");
    if (!f) return;
    char line[256];
    while (!out[0] && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, begin, strlen(begin)) == 0) snprintf(out, size, "%s", line + strlen(begin));
    }
    fclose(f);
}

/* No environment, no token, no text of a user's. */
static void write_crash(const char *path, const mr_session *s, const mr_watch_report *r) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) return;
    mr_str text = { 0 };
    char state[256], call[256], where[256];
    task_line(state, sizeof state, "status", "State:\t");
    task_line(call, sizeof call, "syscall", "");
    task_line(where, sizeof where, "wchan", "");
    mr_str_printf(&text, "medrl %s, process %ld, %.0f s after its start\nnothing moved for %.1f s; the limit is %.1f s, three times (watchdog_s)\n",
                  mr_version(), (long)getpid(), mr_since_start_s(), r->silent_s, r->limit_s);
    mr_str_printf(&text, "step: %lld\nstage: %s\nlast operation: %s\nLua: %s\ndevice: %s\nmain thread: %s; waits in %s; system call %s\n",
                  (long long)r->step, r->stage, *r->op ? r->op : "none", r->lua[0] ? r->lua : "none that could be told",
                  s->parts.backend->device, state, where, call);
    mr_str_printf(&text, "its stack, innermost first (addr2line -e medrl -f ADDRESS):\n");
    void *frames[FRAMES];
    int n = mr_watch_stack(frames, FRAMES);
    if (!n) mr_str_printf(&text, "it did not answer\n");
    mr_err none;
    if (mr_write_all(fd, text.data, text.len, path, &none) == MR_OK && n) backtrace_symbols_fd(frames, n, fd);
    fsync(fd);
    close(fd);
    mr_str_clear(&text);
}

static void late(void *self, const mr_watch_report *r) {
    const mr_session *s = self;
    const char *dir = mr_run_dir(s->run);
    mr_str place = { 0 };
    put_place(&place, r);
    if (!r->last) {
        mr_warn("nothing moved for %.*f s: %s; the run ends after %.*f s of it (watchdog_s)", r->silent_s < 10, r->silent_s, place.data,
                3 * r->limit_s < 10, 3 * r->limit_s);
        mr_str_clear(&place);
        return;
    }
    char *crash = mr_asprintf("%s/crash-%ld.txt", dir, (long)getpid());
    write_crash(crash, s, r);
    mr_error("%s: hung for %.*f s: %s; %s has the details; continue from the last checkpoint with: medrl resume %s", dir, r->silent_s < 10,
             r->silent_s, place.data, crash, dir);
    _exit(75); /* no checkpoint: nobody knows what the parameters are in the middle of */
}

void mr_session_watch(mr_session *s, bool on) {
    mr_err err;
    mr_watch_stop();
    if (!on || !(s->settings.watchdog_s > 0)) return;
    const mr_backend *b = s->parts.backend;
    const mr_watch_opts o = { .limit_s = s->settings.watchdog_s, .n_ops = &b->n_ops, .op = &b->op, .late = late, .self = s };
    if (mr_watch_start(&o, &err) != MR_OK) mr_warn("%s; the run goes on without a watchdog", err.msg);
}
