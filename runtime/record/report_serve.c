/* report_serve.c - the page over HTTP on the loopback address: see report.h.
 *
 * One connection at a time, one request a connection: the only client is a browser on this machine that asks every two
 * seconds. A client has two seconds to send its request and to take the answer. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/proc.h"
#include "record/report.h"

enum { REQUEST_BYTES = 8192, PATIENCE_S = 2 };

static mr_status listen_here(int *fd, int *port, mr_err *err) {
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)*port) };
    socklen_t len = sizeof a;
    const int yes = 1;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    *fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*fd < 0) return mr_fail_errno(err, "report: no socket");
    setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(*fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(*fd, 16) != 0 ||
        getsockname(*fd, (struct sockaddr *)&a, &len) != 0) {
        const int code = errno;
        close(*fd);
        *fd = -1;
        if (code == EADDRINUSE)
            return mr_fail(err, MR_EINVAL, "report: port %d of 127.0.0.1 is in use; --port 0 takes a free one", *port);
        errno = code;
        return mr_fail_errno(err, "report: 127.0.0.1 port %d", *port);
    }
    *port = ntohs(a.sin_port);
    return MR_OK;
}

/* The request's head; false: it did not come in time or is too long. */
static bool receive(int fd, char *request) {
    size_t n = 0;
    for (const double end = mr_now_s() + PATIENCE_S; mr_now_s() < end && n < REQUEST_BYTES - 1;) {
        struct pollfd p = { fd, POLLIN, 0 };
        /* wait: 0.1 s, until `end` or stop */
        if (poll(&p, 1, 100) <= 0) continue;
        /* wait: none, there is something */
        const ssize_t got = recv(fd, request + n, REQUEST_BYTES - 1 - n, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        n += (size_t)got;
        request[n] = '\0';
        if (strlen(request) != n) return false;
        if (strstr(request, "\r\n\r\n")) return true;
    }
    return false;
}

static void send_all(int fd, const char *data, size_t len) {
    for (const double end = mr_now_s() + PATIENCE_S; len > 0 && mr_now_s() < end;) {
        const ssize_t n = send(fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            data += n;
            len -= (size_t)n;
        } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
            struct pollfd p = { fd, POLLOUT, 0 };
            /* wait: 0.1 s, until `end` */
            poll(&p, 1, 100);
        } else {
            return;
        }
    }
}

static void answer(int fd, const char *status, const char *type, const char *tag, const mr_str *body) {
    mr_str s = { 0 };
    mr_str_printf(
        &s,
        "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\nCache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\nCross-Origin-Resource-Policy: same-origin\r\n",
        status, type, body ? body->len : 0);
    if (tag) mr_str_printf(&s, "ETag: %s\r\n", tag);
    mr_str_puts(&s, "\r\n");
    send_all(fd, s.data, s.len);
    if (body && body->len) send_all(fd, body->data, body->len);
    mr_str_clear(&s);
}

/* The value of a header, to its line's end; NULL: there is none. */
static const char *header(const char *request, const char *name, size_t *len) {
    const size_t n = strlen(name);
    for (const char *line = strstr(request, "\r\n"); line && line[2]; line = strstr(line + 2, "\r\n")) {
        const char *at = line + 2;
        if (strncasecmp(at, name, n) != 0 || at[n] != ':') continue;
        at += n + 1;
        at += strspn(at, " \t");
        *len = strcspn(at, "\r\n");
        return at;
    }
    return NULL;
}

static bool is(const char *text, size_t len, const char *want) {
    return strlen(want) == len && memcmp(text, want, len) == 0;
}

/* Asked by this machine's names only: a page of the web whose name was made to point here has its own. */
static bool is_own_host(const char *request, int port) {
    char names[2][32];
    size_t len;
    const char *host = header(request, "Host", &len);
    snprintf(names[0], sizeof names[0], "127.0.0.1:%d", port);
    snprintf(names[1], sizeof names[1], "localhost:%d", port);
    return host && (is(host, len, names[0]) || is(host, len, names[1]));
}

static void plain(int fd, const char *status, const char *text) {
    mr_str s = { 0 };
    mr_str_puts(&s, text);
    answer(fd, status, "text/plain; charset=utf-8", NULL, &s);
    mr_str_clear(&s);
}

static void serve_one(int fd, const char *run_dir, int port) {
    char *request = mr_alloc(REQUEST_BYTES);
    mr_str body = { 0 };
    mr_err err = { "" };
    const char *tag;
    size_t len = 0;
    if (!receive(fd, request)) {
        plain(fd, "400 Bad Request", "this is no request\n");
    } else if (!is_own_host(request, port)) {
        plain(fd, "403 Forbidden", "only for this machine, by its address 127.0.0.1\n");
    } else if (strncmp(request, "GET ", 4) != 0) {
        plain(fd, "405 Method Not Allowed", "only GET\n");
    } else {
        char *version = mr_report_version(run_dir);
        const char *path = request + 4;
        const size_t n = strcspn(path, " \r\n");
        if (is(path, n, "/data.json") && (tag = header(request, "If-None-Match", &len)) && is(tag, len, version)) {
            answer(fd, "304 Not Modified", "application/json", version, NULL);
        } else if (is(path, n, "/") || is(path, n, "/data.json")) {
            const bool page = n == 1;
            mr_status st =
                page ? mr_report_page(&body, run_dir, version, &err) : mr_report_data(&body, run_dir, version, &err);
            if (st == MR_OK)
                answer(fd, "200 OK", page ? "text/html; charset=utf-8" : "application/json", version, &body);
            else
                plain(fd, "500 Internal Server Error", err.msg);
        } else {
            plain(fd, "404 Not Found", "there are / and /data.json\n");
        }
        mr_free(version);
    }
    mr_str_clear(&body);
    mr_free(request);
}

mr_status mr_report_serve(const char *run_dir, const mr_report_server *server, mr_err *err) {
    mr_str page = { 0 };
    mr_status st = mr_report_page(&page, run_dir, NULL, err); /* a folder that is no run is refused now */
    mr_str_clear(&page);
    MR_TRY(st);
    int fd, port = server->port;
    MR_TRY(listen_here(&fd, &port, err));
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d/", port);
    if (server->ready) server->ready(server->self, url);
    while (!server->stop(server->self)) {
        struct pollfd p = { fd, POLLIN, 0 };
        /* wait: 0.1 s, until `end` or stop */
        if (poll(&p, 1, 100) <= 0) continue;
        /* wait: none, somebody is there */
        const int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        if (client < 0) continue;
        serve_one(client, run_dir, port);
        shutdown(client, SHUT_WR);
        close(client);
    }
    close(fd);
    return MR_OK;
}
