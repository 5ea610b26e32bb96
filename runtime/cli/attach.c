/* attach.c - `medrl attach`: the session of `medrl repl` over the socket of a run that is going on. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/log.h"
#include "base/proc.h"
#include "cli/cli.h"
#include "cli/console.h"
#include "cli/live.h"

static const double quiet_s = 0.7; /* before it is said that something is waited for */

typedef struct client {
    const char *dir;
    int fd; /* -1: the run has ended */
    mr_str in;
    int64_t id;
    bool told_end;
} client;

/* ---- lines ---- */

static void hang_up(client *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
}

static mr_status end_of_run(client *c, mr_err *err) {
    cJSON *last = NULL;
    char *path = mr_path_join(c->dir, "metrics.jsonl");
    mr_tail(&last, path, 1, NULL);
    const cJSON *step = cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(last, 0), "step");
    mr_status st =
        mr_fail(err, MR_ENOTFOUND, "%s: the run has ended, after step %.0f; medrl chat %s, or medrl resume %s", c->dir,
                cJSON_IsNumber(step) ? step->valuedouble : 0, c->dir, c->dir);
    cJSON_Delete(last);
    mr_free(path);
    hang_up(c);
    return st;
}

static mr_status send_line(client *c, const mr_str *line, mr_err *err) {
    size_t sent = 0;
    if (line->len > MR_CONTROL_LINE)
        return mr_fail(err, MR_EINVAL, "the request has %zu bytes, a run takes %d", line->len, MR_CONTROL_LINE);
    while (sent < line->len) {
        ssize_t n = send(c->fd, line->data + sent, line->len - sent, MSG_NOSIGNAL);
        if (n > 0) sent += (size_t)n;
        if (n < 0 && errno != EINTR) return end_of_run(c, err);
        if (n < 0 && mr_console_stopped()) {
            hang_up(c); /* half a line is out: nothing can follow it */
            return mr_fail(err, MR_ESIGNAL, "interrupted; the connection is closed");
        }
    }
    return MR_OK;
}

/* The next whole line, borrowed until the next call; waits until `until`. MR_EAGAIN: none came. */
static mr_status next_line(client *c, size_t *used, const char **line, size_t *len, double until, mr_err *err) {
    if (*used) {
        memmove(c->in.data, c->in.data + *used, c->in.len - *used);
        c->in.len -= *used;
        *used = 0;
    }
    for (size_t looked = 0;;) {
        const char *end = c->in.len > looked ? memchr(c->in.data + looked, '\n', c->in.len - looked) : NULL;
        if (end) {
            *line = c->in.data;
            *len = (size_t)(end - c->in.data);
            *used = *len + 1;
            return MR_OK;
        }
        looked = c->in.len;
        struct pollfd pf = { .fd = c->fd, .events = POLLIN };
        double left = until - mr_now_s();
        /* wait: until the caller's time; Ctrl-C ends it */
        int ready = poll(&pf, 1, left > 0 ? (int)(left * 1000) + 1 : 0);
        if (mr_console_stopped()) return MR_ESIGNAL;
        if (ready == 0) return MR_EAGAIN;
        char buf[65536];
        /* wait: none, there is something */
        ssize_t n = ready > 0 ? recv(c->fd, buf, sizeof buf, 0) : -1;
        if (n > 0)
            mr_str_add(&c->in, buf, (size_t)n);
        else if (n == 0 || (errno != EINTR && errno != EAGAIN))
            return end_of_run(c, err);
    }
}

/* What the error of an answer says. */
static mr_status read_error(const cJSON *error, mr_err *err) {
    const char *code = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(error, "code")),
               *message = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(error, "message"));
    return mr_fail(err, mr_control_status(code), "%s", message ? message : "the run refused, without a word");
}

static mr_status wait_for(client *c, int64_t id, cJSON **result, mr_err *err) {
    const double since = mr_now_s();
    size_t used = 0, len;
    bool waiting = false;
    const char *line;
    mr_status st = MR_OK;
    for (bool done = false; !done && st == MR_OK;) {
        st = next_line(c, &used, &line, &len, mr_now_s() + 0.2, err);
        if (st == MR_EAGAIN) {
            if (mr_now_s() - since > quiet_s)
                mr_log_status(waiting ? "waiting for the end of the step ..." : "waiting for the run ...");
            st = MR_OK;
            continue;
        }
        if (st == MR_ESIGNAL)
            return mr_fail(err, st, "interrupted; what was asked for is done all the same%s",
                           waiting ? ", at the end of the step" : "");
        if (st != MR_OK) break;
        cJSON *tree;
        st = mr_json_parse(&tree, line, len, "the run's answer", err);
        if (st != MR_OK) break;
        const cJSON *of = cJSON_GetObjectItemCaseSensitive(tree, "id"),
                    *error = cJSON_GetObjectItemCaseSensitive(tree, "error");
        const bool ours = cJSON_IsNumber(of) && (int64_t)of->valuedouble == id;
        if (ours && cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(tree, "queued"))) {
            waiting = true;
        } else if (error && (ours || cJSON_IsNull(of))) { /* without an id: of the connection */
            st = read_error(error, err);
            done = true;
        } else if (ours) {
            *result = cJSON_DetachItemFromObjectCaseSensitive(tree, "result");
            done = true;
        } /* else: an event, or the answer to what was interrupted */
        cJSON_Delete(tree);
    }
    mr_log_status(NULL);
    if (used && c->in.len) {
        memmove(c->in.data, c->in.data + used, c->in.len - used);
        c->in.len -= used;
    }
    return st;
}

static mr_status call(void *self, const char *method, const cJSON *args, cJSON **result, mr_err *err) {
    client *c = self;
    *result = NULL;
    if (c->fd < 0) return end_of_run(c, err);
    mr_str line = { 0 };
    const int64_t id = ++c->id;
    mr_str_printf(&line, "{\"id\": %lld, \"method\": ", (long long)id);
    mr_json_put_string(&line, method, strlen(method));
    mr_str_puts(&line, ", \"args\": ");
    mr_json_put(&line, args);
    mr_str_puts(&line, "}\n");
    mr_status st = send_line(c, &line, err);
    mr_str_clear(&line);
    return st == MR_OK ? wait_for(c, id, result, err) : st;
}

/* ---- the command ---- */

/* Whether a process is a medrl, so that a signal means to it what it means here. */
static bool is_medrl(long pid) {
    char *comm = mr_asprintf("/proc/%ld/comm", pid), name[32] = "";
    FILE *f = fopen(comm, "re");
    mr_free(comm);
    const bool yes = f && fgets(name, sizeof name, f) && strncmp(name, "medrl", 5) == 0;
    if (f) fclose(f);
    return yes;
}

/* The process that holds the run's lock, 0: nobody any more. The lock itself is not tried: a run that begins at this
 * moment would find it taken. */
static long owner(const char *dir) {
    char *lock = mr_path_join(dir, "lock"), *text = NULL;
    size_t len;
    long pid = 0;
    if (mr_file_read(&text, &len, lock, 64, NULL) == MR_OK) pid = strtol(text, NULL, 10);
    mr_free(text);
    mr_free(lock);
    if (pid <= 0) return 0;
    return is_medrl(pid) ? pid : 0; /* its number may be another program's by now */
}

/* Why nobody listens: the run is over, this is no run, or it has not made its socket. */
static mr_status nobody(const char *dir, mr_err *err) {
    cJSON *config;
    MR_TRY(mr_run_config_load(&config, dir, err));
    cJSON_Delete(config);
    if (!config) return mr_fail(err, MR_ENOTFOUND, "%s: is no run folder, want one that `medrl run` made", dir);
    const long pid = owner(dir);
    if (pid)
        return mr_fail(err, MR_ENOTFOUND, "%s: its run, process %ld, does not listen; it may be starting: try again",
                       dir, pid);
    client c = { .dir = dir, .fd = -1 };
    return end_of_run(&c, err);
}

static mr_status greet(client *c, cJSON **hello, mr_err *err) {
    cJSON *none = cJSON_CreateObject();
    mr_status st = call(c, "hello", none, hello, err);
    cJSON_Delete(none);
    MR_TRY(st);
    const cJSON *protocol = cJSON_GetObjectItemCaseSensitive(*hello, "protocol");
    if (!cJSON_IsNumber(protocol) || protocol->valueint != MR_CONTROL_PROTOCOL)
        return mr_fail(err, MR_EINVAL, "%s: the run speaks protocol %d, this medrl %d; use the medrl that started it",
                       c->dir, cJSON_IsNumber(protocol) ? protocol->valueint : 0, MR_CONTROL_PROTOCOL);
    return MR_OK;
}

/* At the prompt: a run that ended meanwhile is told of once. */
static void look(void *self) {
    client *c = self;
    char buf;
    mr_err err;
    /* wait: none */
    if (c->fd >= 0 && recv(c->fd, &buf, 1, MSG_PEEK | MSG_DONTWAIT) == 0) end_of_run(c, &err);
    if (c->fd >= 0 || c->told_end) return;
    end_of_run(c, &err);
    mr_info("%s", err.msg);
    c->told_end = true;
}

/* --break: what a Ctrl-C in each of the other sessions would do; a session computes in its own process, so the run has no part in it. */
static mr_status break_others(client *c, mr_err *err) {
    cJSON *list = NULL, *none = cJSON_CreateObject();
    mr_status st = call(c, "clients", none, &list, err);
    cJSON_Delete(none);
    MR_TRY(st);
    int n = 0;
    for (const cJSON *v = list ? list->child : NULL; v; v = v->next) {
        const long pid = cJSON_IsNumber(v) ? (long)v->valuedouble : 0;
        if (pid > 1 && pid != (long)getpid() && is_medrl(pid) && kill((pid_t)pid, SIGINT) == 0) n++;
    }
    cJSON_Delete(list);
    printf("%d session%s interrupted\n", n, n == 1 ? "" : "s");
    return MR_OK;
}

static mr_status attach(client *c, mr_console *how, bool breaks, mr_err *err) {
    cJSON *hello = NULL;
    mr_signals_catch(NULL, NULL);
    mr_status st = mr_control_connect(&c->fd, c->dir, err);
    if (st == MR_ENOTFOUND && mr_path_is_dir(c->dir)) return nobody(c->dir, err);
    if (st == MR_OK) st = greet(c, &hello, err);
    char line[256];
    const cJSON *pid = cJSON_GetObjectItemCaseSensitive(hello, "pid");
    snprintf(line, sizeof line, "attached to %.150s (process %.0f); help lists what there is, Ctrl-D leaves it alone",
             c->dir, cJSON_IsNumber(pid) ? pid->valuedouble : 0);
    cJSON_Delete(hello);
    how->greeting = line;
    if (st == MR_OK && breaks) return break_others(c, err);
    return st == MR_OK ? mr_console_run(how, err) : st;
}

mr_status mr_cmd_attach(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "attach",
        "medrl attach outputs\n"
        "medrl attach outputs -e 'run.step'\n"
        "medrl attach outputs -e 'run:set{ learning_rate = 2e-6 }' -e 'run:sample(\"Is aspirin an antibiotic?\")'\n"
        "medrl attach outputs --break",
        "RUN",
        1,
        1,
        "A Lua session over a run that is going on: look at it, sample its policy between two steps, change settings, "
        "pause, stop. What changes\n"
        "the run is in its events.jsonl. Without -e it reads a terminal or a pipe. docs/attach.md says how other "
        "programs do it.",
    };
    client c = { .fd = -1 };
    bool breaks = false;
    mr_console how = { .name = "attach", .attached = true, .between = look, .self = &c, .host = { &c, call } };
    const mr_opt opts[] = {
        { "eval", 'e', MR_OPT_LIST, "LUA", "run it and end; may be given many times", &how.expressions, 0, 0 },
        { "json", 0, MR_OPT_FLAG, NULL, "print the last value as JSON, and nothing else", &how.json, 0, 0 },
        { "break", 0, MR_OPT_FLAG, NULL, "interrupt what the other sessions of the run compute, as Ctrl-C in them does, and end", &breaks, 0, 0 },
        { "trust", 0, MR_OPT_FLAG, NULL, "all of Lua's libraries: io, os, debug, ffi", &how.trust, 0, 0 },
    };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, sizeof opts / sizeof opts[0], argc, argv, err);
    if (st == MR_OK && !a.help) {
        c.dir = a.items[0];
        st = attach(&c, &how, breaks, err);
    }
    hang_up(&c);
    mr_str_clear(&c.in);
    mr_args_clear(&a);
    return st;
}
