/* control.c - see control.h. */
#include "record/control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/proc.h"

/* OUT_MAX: an answer may be that long, and no client may have more lying here. WATCH_MAX: unasked lines stop before. */
enum { ACCEPTS = 32, OUT_MAX = 64 << 20, WATCH_MAX = 4 << 20 };
_Static_assert(EAGAIN == EWOULDBLOCK, "one of the two is looked for");
static const double within_s = 0.02; /* work within a step, at most, and what one request more takes */
static const char socket_name[] = "control.sock";

typedef struct client {
    int fd; /* -1: this place is free */
    pid_t pid;
    mr_str in, out;
    size_t sent;  /* of out */
    bool ended;   /* it writes no more */
    bool deaf;    /* it reads no more */
    bool closing; /* nothing that it wrote counts any more; closed once out is sent */
    bool watch;
    bool told;      /* that its first line waits */
    double stalled; /* since when it takes nothing; 0: it does */
} client;

struct mr_control_socket {
    int fd, dir;
    dev_t dev; /* of the socket file, which is removed only while it is still this one */
    ino_t ino;
    mr_control_opts opts;
    client clients[MR_CONTROL_CLIENTS];
};

/* ---- names of errors ---- */

static const struct {
    mr_status st;
    const char *code;
} codes[] = {
    { MR_EINVAL, "invalid" },     { MR_EDATA, "data" },      { MR_ENET, "network" },
    { MR_EINTERNAL, "internal" }, { MR_ENOMEM, "memory" },   { MR_EIO, "disk" },
    { MR_EAGAIN, "again" },       { MR_ESIGNAL, "stopped" }, { MR_ENOTFOUND, "not_found" },
};

const char *mr_control_code(mr_status st) {
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (codes[i].st == st) return codes[i].code;
    return "internal";
}

mr_status mr_control_status(const char *code) {
    for (size_t i = 0; code && i < sizeof codes / sizeof codes[0]; i++)
        if (!strcmp(codes[i].code, code)) return codes[i].st;
    return MR_EINTERNAL;
}

/* ---- addresses ---- */

/* sun_path holds 107 bytes and a run folder's path may be longer; this way it is short whatever the folder is called. */
static struct sockaddr_un address(int dir) {
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/%s", dir, socket_name);
    return a;
}

static mr_status open_dir(int *dir, const char *path, mr_err *err) {
    *dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return *dir < 0 ? mr_fail_errno(err, "%s", path) : MR_OK;
}

mr_status mr_control_connect(int *fd, const char *run_dir, mr_err *err) {
    int dir;
    *fd = -1;
    MR_TRY(open_dir(&dir, run_dir, err));
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un a = address(dir);
    mr_status st = MR_OK;
    /* A run that is busy accepts between two operations; one that hangs never does. */
    const struct timeval most = { .tv_sec = 10 };
    if (s >= 0) setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof most);
    /* wait: for a place in the queue of those who connect, 10 s */
    if (s < 0 || connect(s, (struct sockaddr *)&a, sizeof a) != 0) {
        if (errno == ECONNREFUSED) errno = ENOENT; /* the file of a process that is dead */
        if (errno == EAGAIN) errno = ETIMEDOUT;
        st = errno == EACCES ? mr_fail(err, MR_EINVAL, "%s: the run belongs to another user", run_dir)
                             : mr_fail_errno(err, "%s/%s: nobody listens there", run_dir, socket_name);
    }
    close(dir);
    const struct timeval none = { 0 };
    if (st == MR_OK) setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof none);
    if (st == MR_OK)
        *fd = s;
    else if (s >= 0)
        close(s);
    return st;
}

/* ---- open ---- */

static bool somebody_listens(int fd, int dir) {
    struct sockaddr_un a = address(dir);
    /* wait: none; a queue that is full has an owner too */
    return connect(fd, (struct sockaddr *)&a, sizeof a) == 0 || errno == EAGAIN;
}

static mr_status make_room(const mr_control_socket *s, const char *run_dir, mr_err *err) {
    struct stat info;
    if (fstatat(s->dir, socket_name, &info, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT) return MR_OK;
        return mr_fail_errno(err, "%s/%s", run_dir, socket_name);
    }
    if (!S_ISSOCK(info.st_mode))
        return mr_fail(err, MR_EINVAL, "%s/%s: is no socket; move it away, so that the run can be attached to", run_dir,
                       socket_name);
    /* The lock is ours, so whoever made it is dead; but a lock file can be removed, and then its owner may live. */
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return mr_fail_errno(err, "%s/%s: no socket to try it with", run_dir, socket_name);
    const bool alive = somebody_listens(fd, s->dir);
    close(fd);
    if (alive)
        return mr_fail(err, MR_EINVAL, "%s/%s: a process listens there, which is not this run; end it first", run_dir, socket_name);
    if (unlinkat(s->dir, socket_name, 0) != 0 && errno != ENOENT)
        return mr_fail_errno(err, "%s/%s: an old one could not be removed", run_dir, socket_name);
    return MR_OK;
}

static mr_status listen_at(mr_control_socket *s, const char *run_dir, mr_err *err) {
    MR_TRY(open_dir(&s->dir, run_dir, err));
    MR_TRY(make_room(s, run_dir, err));
    s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->fd < 0) return mr_fail_errno(err, "%s/%s: no socket", run_dir, socket_name);
    struct sockaddr_un a = address(s->dir);
    struct stat info;
    /* The mode before the name: at no moment can another user connect. */
    if (fchmod(s->fd, 0600) != 0 || bind(s->fd, (struct sockaddr *)&a, sizeof a) != 0 ||
        fchmodat(s->dir, socket_name, 0600, 0) != 0 || fstatat(s->dir, socket_name, &info, AT_SYMLINK_NOFOLLOW) != 0 ||
        listen(s->fd, 64) != 0)
        return mr_fail_errno(err, "%s/%s: could not be made", run_dir, socket_name);
    s->dev = info.st_dev;
    s->ino = info.st_ino;
    return MR_OK;
}

mr_status mr_control_open(mr_control_socket **out, const char *run_dir, const mr_control_opts *opts, mr_err *err) {
    *out = NULL;
    mr_control_socket *s = mr_alloc(sizeof *s);
    s->opts = *opts;
    if (!(s->opts.stall_s > 0)) s->opts.stall_s = 10;
    s->fd = s->dir = -1;
    for (int i = 0; i < MR_CONTROL_CLIENTS; i++) s->clients[i].fd = -1;
    mr_status st = listen_at(s, run_dir, err);
    if (st == MR_OK)
        *out = s;
    else
        mr_control_close(s);
    return st;
}

/* ---- one client ---- */

static void drop(client *c) {
    if (c->fd >= 0) close(c->fd);
    mr_str_clear(&c->in);
    mr_str_clear(&c->out);
    *c = (client){ .fd = -1 };
}

static void flush(client *c, double stall_s) {
    while (!c->deaf && c->sent < c->out.len) {
        ssize_t n = send(c->fd, c->out.data + c->sent, c->out.len - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            c->sent += (size_t)n;
            c->stalled = 0;
            continue;
        }
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno != EAGAIN) {
            c->deaf = true;
            break;
        }
        const double now = mr_now_s();
        if (c->stalled == 0) c->stalled = now;
        if (now - c->stalled > stall_s || c->out.len - c->sent > OUT_MAX) c->deaf = c->closing = true;
        return;
    }
    c->out.len = c->sent = 0;
    c->stalled = 0;
}

static void put(client *c, const cJSON *line) {
    if (c->deaf) return;
    if (c->sent) {
        memmove(c->out.data, c->out.data + c->sent, c->out.len - c->sent);
        c->out.len -= c->sent;
        c->sent = 0;
    }
    mr_json_put(&c->out, line);
    mr_str_puts(&c->out, "\n");
}

static cJSON *reply_to(const cJSON *id) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddItemToObject(o, "id",
                          cJSON_IsNumber(id) || cJSON_IsString(id) ? cJSON_Duplicate(id, true) : cJSON_CreateNull());
    return o;
}

static void answer_error(client *c, const cJSON *id, const char *code, const char *message) {
    cJSON *o = reply_to(id), *error = cJSON_AddObjectToObject(o, "error");
    cJSON_AddStringToObject(error, "code", code);
    cJSON_AddStringToObject(error, "message", message);
    put(c, o);
    cJSON_Delete(o);
}

static void answer_result(client *c, const cJSON *id, cJSON *result) {
    cJSON *o = reply_to(id);
    cJSON_AddItemToObject(o, "result", result ? result : cJSON_CreateNull());
    put(c, o);
    cJSON_Delete(o);
}

static void refuse(client *c, const char *code, const char *message) {
    answer_error(c, NULL, code, message);
    c->closing = true;
    c->in.len = 0;
}

static mr_status read_request(cJSON **tree, const char **method, const cJSON **args, const char *line, size_t len,
                              mr_err *err) {
    static const char place[] = "control.sock";
    MR_TRY(mr_json_parse(tree, line, len, place, err));
    if (!cJSON_IsObject(*tree))
        return mr_fail(err, MR_EINVAL, "%s: the line is %s, want an object {\"method\": ...}", place,
                       mr_json_type_name(*tree));
    MR_TRY(mr_json_get_string(method, *tree, "method", place, err));
    *args = cJSON_GetObjectItemCaseSensitive(*tree, "args");
    if (*args && !cJSON_IsObject(*args) && !cJSON_IsNull(*args))
        return mr_fail(err, MR_EINVAL, "%s: field \"args\" is %s, want an object", place, mr_json_type_name(*args));
    return MR_OK;
}

/* Executes a line. False: it has to wait. */
static bool execute(mr_control_socket *s, client *c, const char *line, size_t len, mr_trainer *t, bool boundary) {
    cJSON *tree = NULL, *result = NULL, *none = NULL;
    const cJSON *args = NULL;
    const char *method = NULL;
    mr_err err = { "" };
    bool later = false;
    mr_status st = read_request(&tree, &method, &args, line, len, &err);
    const cJSON *id = cJSON_GetObjectItemCaseSensitive(tree, "id");
    if (!cJSON_IsObject(args)) args = none = cJSON_CreateObject();
    if (st == MR_OK && !strcmp(method, "watch")) {
        c->watch = true;
        result = cJSON_CreateTrue();
    } else if (st == MR_OK) {
        const mr_control_request r = { method, args, c->pid, boundary, t };
        st = s->opts.call(s->opts.self, &r, &result, &later, &err);
        if (later && boundary) st = mr_fail(&err, MR_EINTERNAL, "%s: cannot be done between two steps either", method);
        later = later && !boundary;
    }
    if (later) { /* for the first time: run_lines brings a line that was told so at the boundary only */
        cJSON *o = reply_to(id);
        cJSON_AddTrueToObject(o, "queued");
        put(c, o);
        cJSON_Delete(o);
    }
    c->told = later;
    if (st != MR_OK) {
        answer_error(c, id, mr_control_code(st), err.msg);
        cJSON_Delete(result);
    } else if (!later) {
        answer_result(c, id, result);
    }
    cJSON_Delete(tree);
    cJSON_Delete(none);
    return !later;
}

/* What its next whole line waits for, once it was told to wait, is the boundary; the lines behind it wait with it. */
static void run_lines(mr_control_socket *s, client *c, mr_trainer *t, bool boundary, double until) {
    size_t at = 0;
    while (!c->closing && !(c->told && !boundary) && at < c->in.len && mr_now_s() < until) {
        const char *line = c->in.data + at, *end = memchr(line, '\n', c->in.len - at);
        if (!end) break;
        size_t len = (size_t)(end - line), n = len;
        while (n && strchr(" \t\r", line[n - 1])) n--;
        if (len > MR_CONTROL_LINE) {
            refuse(c, "invalid", "control.sock: a line has more than 65536 bytes");
            return;
        }
        if (n && !execute(s, c, line, n, t, boundary)) break;
        at += len + 1;
    }
    if (c->closing) return;
    if (at) memmove(c->in.data, c->in.data + at, c->in.len - at);
    if (at) c->in.len -= at;
    if (c->in.len > MR_CONTROL_LINE && !memchr(c->in.data, '\n', c->in.len))
        refuse(c, "invalid", "control.sock: a line has more than 65536 bytes");
}

static void fill(client *c) {
    char buf[8192];
    /* One full line and a little at most; the rest waits in the kernel. */
    while (!c->ended && !c->closing && c->in.len <= MR_CONTROL_LINE) {
        /* wait: none */
        ssize_t n = recv(c->fd, buf, sizeof buf, MSG_DONTWAIT);
        if (n > 0) {
            mr_str_add(&c->in, buf, (size_t)n);
        } else if (n < 0 && errno == EINTR) {
            continue;
        } else {
            if (n == 0 || errno != EAGAIN) c->ended = true;
            return;
        }
    }
}

static bool has_line(const client *c) {
    return c->in.len && memchr(c->in.data, '\n', c->in.len);
}

static void serve_client(mr_control_socket *s, client *c, mr_trainer *t, bool boundary, double until) {
    fill(c);
    run_lines(s, c, t, boundary, until);
    flush(c, s->opts.stall_s);
    if (c->out.len == 0 && (c->closing || (c->ended && !has_line(c)))) drop(c);
}

/* ---- all of them ---- */

static void greet(client *c, int fd) {
    struct ucred who;
    socklen_t size = sizeof who;
    *c = (client){ .fd = fd };
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) != 0 || who.uid != geteuid())
        refuse(c, "forbidden", "control.sock: the run belongs to another user");
    else
        c->pid = who.pid;
}

/* Those who left without a request make room for those who come. */
static client *free_place(mr_control_socket *s) {
    for (int k = 0; k < MR_CONTROL_CLIENTS; k++)
        if (s->clients[k].fd < 0) return &s->clients[k];
    for (int k = 0; k < MR_CONTROL_CLIENTS; k++) {
        client *c = &s->clients[k];
        fill(c);
        if (!c->ended || has_line(c) || c->out.len) continue;
        drop(c);
        return c;
    }
    return NULL;
}

static void accept_clients(mr_control_socket *s) {
    for (int i = 0; i < ACCEPTS; i++) {
        /* wait: none, the socket does not block */
        int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) return; /* nobody, or no descriptor is left: they wait */
        client *place = free_place(s), one_more = { .fd = -1 };
        greet(place ? place : &one_more, fd);
        if (place && !place->closing) continue;
        client *c = place ? place : &one_more;
        if (!place) refuse(c, "busy", "control.sock: 8 clients are connected; close one");
        flush(c, s->opts.stall_s);
        drop(c);
    }
}

static void wait_for_any(mr_control_socket *s, double wait_s) {
    struct pollfd pf[1 + MR_CONTROL_CLIENTS] = { { .fd = s->fd, .events = POLLIN } };
    for (int i = 0; i < MR_CONTROL_CLIENTS; i++) {
        const client *c = &s->clients[i];
        if (has_line(c) && !c->closing) return;
        pf[1 + i] = (struct pollfd){ .fd = c->fd };
        if (!c->ended && !c->closing) pf[1 + i].events |= POLLIN;
        if (c->sent < c->out.len) pf[1 + i].events |= POLLOUT;
    }
    /* wait: wait_s */
    poll(pf, 1 + MR_CONTROL_CLIENTS, (int)(wait_s * 1000) + 1); /* a signal ends it: the trainer looks what it was */
}

static void serve(void *self, mr_trainer *t, bool boundary, double wait_s) {
    mr_control_socket *s = self;
    if (wait_s > 0) wait_for_any(s, wait_s);
    const double until = boundary ? 1e300 : mr_now_s() + within_s;
    accept_clients(s);
    for (int i = 0; i < MR_CONTROL_CLIENTS; i++)
        if (s->clients[i].fd >= 0) serve_client(s, &s->clients[i], t, boundary, until);
}

mr_control mr_control_of(mr_control_socket *s) {
    return (mr_control){ .self = s, .serve = serve };
}

int mr_control_pids(const mr_control_socket *s, pid_t pids[MR_CONTROL_CLIENTS]) {
    int n = 0;
    for (int i = 0; s && i < MR_CONTROL_CLIENTS; i++)
        if (s->clients[i].fd >= 0 && !s->clients[i].closing) pids[n++] = s->clients[i].pid;
    return n;
}

int mr_control_clients(const mr_control_socket *s) {
    int n = 0;
    for (int i = 0; i < MR_CONTROL_CLIENTS; i++) n += s->clients[i].fd >= 0;
    return n;
}

void mr_control_tell(mr_control_socket *s, const cJSON *event) {
    for (int i = 0; s && i < MR_CONTROL_CLIENTS; i++) {
        client *c = &s->clients[i];
        if (c->fd < 0 || !c->watch || c->closing) continue;
        put(c, event);
        flush(c, s->opts.stall_s);
        if (c->out.len - c->sent > WATCH_MAX) c->deaf = c->closing = true; /* dropped when it is served next */
    }
}

void mr_control_close(mr_control_socket *s) {
    if (!s) return;
    for (int i = 0; i < MR_CONTROL_CLIENTS; i++) {
        client *c = &s->clients[i];
        for (const char *end; c->fd >= 0 && has_line(c);) {
            cJSON *tree = NULL;
            end = memchr(c->in.data, '\n', c->in.len);
            mr_json_parse(&tree, c->in.data, (size_t)(end - c->in.data), "", NULL);
            answer_error(c, cJSON_GetObjectItemCaseSensitive(tree, "id"), "ended", "control.sock: the run has ended");
            cJSON_Delete(tree);
            size_t n = (size_t)(end - c->in.data) + 1;
            memmove(c->in.data, c->in.data + n, c->in.len - n);
            c->in.len -= n;
        }
        if (c->fd >= 0) flush(c, s->opts.stall_s);
        drop(c);
    }
    struct stat info;
    if (s->ino && fstatat(s->dir, socket_name, &info, AT_SYMLINK_NOFOLLOW) == 0 && info.st_ino == s->ino &&
        info.st_dev == s->dev)
        unlinkat(s->dir, socket_name, 0);
    if (s->fd >= 0) close(s->fd);
    if (s->dir >= 0) close(s->dir);
    mr_free(s);
}
