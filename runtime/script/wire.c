/* wire.c - framing over a stream socket: see wire.h. */
#include "script/wire.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/proc.h"

typedef struct frame_head {
    uint32_t type, len;
} frame_head;

enum { READ_CHUNK = 64 << 10, READ_MOST = 1 << 20 };
_Static_assert(EAGAIN == EWOULDBLOCK, "one of the two is looked for");

void mr_wire_init(mr_wire *w, int fd) {
    memset(w, 0, sizeof *w);
    w->fd = fd;
    w->limit = MR_WIRE_MAX_BYTES;
    w->wait_ms = -1;
}

void mr_wire_clear(mr_wire *w) {
    mr_str_clear(&w->in);
    mr_str_clear(&w->out);
    for (int i = 0; i < w->n_fds; i++) close(w->fds[i]);
    w->n_fds = 0;
    w->in_at = w->out_at = 0;
}

void mr_wire_put(mr_wire *w, mr_wire_type type, const void *data, size_t len) {
    frame_head h = { (uint32_t)type, (uint32_t)len };
    mr_str_add(&w->out, &h, sizeof h);
    if (len) mr_str_add(&w->out, data, len);
}

static bool wait_for(const mr_wire *w, short events) {
    struct pollfd p = { .fd = w->fd, .events = events };
    const double end = w->wait_ms < 0 ? 0 : mr_now_s() + w->wait_ms * 1e-3;
    for (int ms = w->wait_ms;;) {
        /* wait: wait_ms, however many signals come; a worker waits for its parent for ever, whose end it sees */
        int n = poll(&p, 1, ms);
        if (n > 0) return true; /* an error or hang-up shows in the call that follows */
        if (n == 0 || errno != EINTR) return false;
        if (ms >= 0) ms = (int)fmax(0, (end - mr_now_s()) * 1e3);
    }
}

bool mr_wire_flush(mr_wire *w, bool wait) {
    while (w->out_at < w->out.len) {
        ssize_t n = send(w->fd, w->out.data + w->out_at, w->out.len - w->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            w->out_at += (size_t)n;
        } else if (n < 0 && errno == EINTR) {
            continue;
        } else if (n < 0 && errno == EAGAIN) {
            if (!wait) return true;
            if (!wait_for(w, POLLOUT)) return false;
        } else {
            return false;
        }
    }
    w->out.len = w->out_at = 0;
    return true;
}

bool mr_wire_send(mr_wire *w, mr_wire_type type, const void *data, size_t len, int fd) {
    if (fd < 0) {
        mr_wire_put(w, type, data, len);
        return mr_wire_flush(w, true);
    }
    /* The descriptor travels with the first byte of its own frame: all before it has to be out. */
    if (!mr_wire_flush(w, true)) return false;
    frame_head h = { (uint32_t)type, (uint32_t)len };
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    memset(&control, 0, sizeof control);
    struct iovec iov = { .iov_base = &h, .iov_len = sizeof h };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes
    };
    struct cmsghdr *c = &control.align;
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    ssize_t n;
    /* Never blocks by itself: a peer that asks for files and reads no answer holds this end no longer than wait_ms. */
    while ((n = sendmsg(w->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT)) < 0) {
        if (errno == EINTR) continue;
        if (errno == EAGAIN && wait_for(w, POLLOUT)) continue;
        return false;
    }
    mr_str_add(&w->out, (const char *)&h + n, sizeof h - (size_t)n);
    if (len) mr_str_add(&w->out, data, len);
    return mr_wire_flush(w, true);
}

static void keep_fds(mr_wire *w, const struct cmsghdr *c) {
    size_t n_new = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < n_new; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
        if (w->n_fds < 8)
            w->fds[w->n_fds++] = fd;
        else
            close(fd);
    }
}

bool mr_wire_fill(mr_wire *w, bool wait) {
    if (w->in_at > 0) {
        size_t left = w->in.len - w->in_at;
        memmove(w->in.data, w->in.data + w->in_at, left);
        w->in.len = left;
        w->in_at = 0;
    }
    char buf[READ_CHUNK];
    bool got = false;
    size_t n_read = 0;
    for (;;) {
        union {
            struct cmsghdr align;
            char bytes[CMSG_SPACE(8 * sizeof(int))];
        } control;
        struct iovec iov = { .iov_base = buf, .iov_len = sizeof buf };
        struct msghdr msg = {
            .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes
        };
        ssize_t n = recvmsg(w->fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (n < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN) return false;
            if (got || !wait) return true;
            if (!wait_for(w, POLLIN)) return false;
            continue;
        }
        /* a Unix socket's are all of the level SOL_SOCKET (unix(7)) */
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
            if (c->cmsg_type == SCM_RIGHTS) keep_fds(w, c);
        }
        if (n == 0) return got; /* the end; what came before it is handled first */
        mr_str_add(&w->in, buf, (size_t)n);
        got = true;
        n_read += (size_t)n;
        /* less than a whole buffer: nothing more now. Much: the caller takes frames out first, so that a flood does not
         * fill this end's memory */
        if (n < (ssize_t)sizeof buf || n_read >= READ_MOST) return true;
    }
}

static size_t longest(const mr_wire *w, uint32_t type) {
    switch (type) {
    case MR_WIRE_START:
    case MR_WIRE_ERROR:
    case MR_WIRE_NEED_TEXT:
    case MR_WIRE_NEED_FILE:
    case MR_WIRE_NEED_FOLDER:
    case MR_WIRE_NEED_PASS:
    case MR_WIRE_IMPORT:
    case MR_WIRE_LOG:
    case MR_WIRE_TICK:
    case MR_WIRE_READY:
    case MR_WIRE_DENIED: return MR_WIRE_SMALL_BYTES;
    default: return w->limit;
    }
}

int mr_wire_next(mr_wire *w, mr_frame *f) {
    size_t left = w->in.len - w->in_at;
    frame_head h;
    if (left < sizeof h) return 0;
    memcpy(&h, w->in.data + w->in_at, sizeof h);
    if (h.type < 1 || h.type >= MR_WIRE_TYPES || h.len > longest(w, h.type)) return -1;
    if (left - sizeof h < h.len) return 0;
    *f = (mr_frame){ (mr_wire_type)h.type, w->in.data + w->in_at + sizeof h, h.len };
    w->in_at += sizeof h + h.len;
    return 1;
}

int mr_wire_take_fd(mr_wire *w) {
    if (w->n_fds == 0) return -1;
    int fd = w->fds[0];
    memmove(w->fds, w->fds + 1, (size_t)--w->n_fds * sizeof w->fds[0]);
    return fd;
}

void mr_put_u8(mr_str *s, unsigned v) {
    uint8_t b = (uint8_t)v;
    mr_str_add(s, &b, 1);
}
void mr_put_u32(mr_str *s, uint32_t v) {
    mr_str_add(s, &v, sizeof v);
}
void mr_put_i64(mr_str *s, int64_t v) {
    mr_str_add(s, &v, sizeof v);
}
void mr_put_f64(mr_str *s, double v) {
    mr_str_add(s, &v, sizeof v);
}
void mr_put_bytes(mr_str *s, const char *bytes, size_t len) {
    mr_put_u32(s, (uint32_t)len);
    if (len) mr_str_add(s, bytes, len);
}

mr_take mr_take_frame(const mr_frame *f) {
    return (mr_take){ f->data, f->data + f->len, false };
}

static void take(mr_take *t, void *out, size_t len) {
    if (t->bad || (size_t)(t->end - t->at) < len) {
        t->bad = true;
        memset(out, 0, len);
        return;
    }
    memcpy(out, t->at, len);
    t->at += len;
}
unsigned mr_take_u8(mr_take *t) {
    uint8_t v;
    take(t, &v, sizeof v);
    return v;
}
uint32_t mr_take_u32(mr_take *t) {
    uint32_t v;
    take(t, &v, sizeof v);
    return v;
}
int64_t mr_take_i64(mr_take *t) {
    int64_t v;
    take(t, &v, sizeof v);
    return v;
}
double mr_take_f64(mr_take *t) {
    double v;
    take(t, &v, sizeof v);
    return v;
}
const char *mr_take_bytes(mr_take *t, size_t *len) {
    uint32_t n = mr_take_u32(t);
    if (t->bad || (size_t)(t->end - t->at) < n) {
        t->bad = true;
        *len = 0;
        return "";
    }
    const char *p = t->at;
    t->at += n;
    *len = n;
    return p;
}
void mr_take_string(mr_take *t, char *out, size_t out_bytes) {
    size_t len;
    const char *p = mr_take_bytes(t, &len);
    if (len >= out_bytes) len = out_bytes - 1;
    memcpy(out, p, len);
    out[len] = 0;
}
