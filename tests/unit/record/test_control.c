/* test_control.c - the socket of a run: requests and answers, and clients that send half a line, too much, nonsense, that
 * read nothing, die, come in crowds, or are somebody else. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/proc.h"
#include "record/control.h"
#include "test.h"

static char folder[64];
static mr_control_socket *server;
static int n_calls, n_waits;

/* What the kernel does seldom or never on its own: the n-th call of that name from now on gives that and errno. */
static struct {
    const char *call;
    int nth, error;
    long gives;
} odd;
static uid_t peer_uid = (uid_t)-1; /* who every client is said to be */
static bool short_waits;           /* a client waits 50 ms for its place and not 10 s */
static const char *gone;           /* removed at the next connect, as by its owner */

static bool odd_one(const char *name) {
    if (!odd.call || strcmp(odd.call, name) != 0 || --odd.nth > 0) return false;
    odd.call = NULL;
    errno = odd.error;
    return true;
}

static void make_odd(const char *name, int nth, int error, long gives) {
    odd.call = name, odd.nth = nth, odd.error = error, odd.gives = gives;
}

ssize_t send(int fd, const void *data, size_t len, int flags) {
    return odd_one("send") ? odd.gives : sendto(fd, data, len, flags, NULL, 0);
}

ssize_t recv(int fd, void *data, size_t len, int flags) {
    return odd_one("recv") ? odd.gives : recvfrom(fd, data, len, flags, NULL, NULL);
}

int listen(int fd, int n) {
    return odd_one("listen") ? -1 : (int)syscall(SYS_listen, fd, n);
}

int fchmod(int fd, mode_t mode) {
    return odd_one("fchmod") ? -1 : (int)syscall(SYS_fchmod, fd, mode);
}

int fchmodat(int dir, const char *name, mode_t mode, int flags) {
    return odd_one("fchmodat") ? -1 : (int)syscall(SYS_fchmodat, dir, name, mode, flags);
}

int fstatat(int dir, const char *restrict name, struct stat *restrict info, int flags) {
    if (odd_one("fstatat")) return -1;
    const int got = (int)syscall(SYS_newfstatat, dir, name, info, flags);
    if (got == 0 && odd_one("fstatat of another device")) info->st_dev++;
    return got;
}

int connect(int fd, const struct sockaddr *to, socklen_t len) {
    if (gone) unlink(gone);
    gone = NULL;
    return (int)syscall(SYS_connect, fd, to, len);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t len) {
    const struct timeval most = { 0, 50000 };
    if (name == SO_SNDTIMEO && short_waits) value = &most;
    return (int)syscall(SYS_setsockopt, fd, level, name, value, len);
}

int getsockopt(int fd, int level, int name, void *restrict value, socklen_t *restrict len) {
    if (name == SO_PEERCRED && odd_one("getsockopt")) return -1;
    const int got = (int)syscall(SYS_getsockopt, fd, level, name, value, len);
    if (got == 0 && name == SO_PEERCRED && peer_uid != (uid_t)-1) ((struct ucred *)value)->uid = peer_uid;
    return got;
}

/* echo: its args; big: a megabyte; late: only between two steps; never: not even then; slow: 30 ms; bad: an error. */
static mr_status call(void *self, const mr_control_request *r, cJSON **result, bool *later, mr_err *err) {
    (void)self;
    n_calls++;
    if (!strcmp(r->method, "echo")) *result = cJSON_Duplicate(r->args, true);
    if (!strcmp(r->method, "pid")) *result = cJSON_CreateNumber(r->pid);
    if (!strcmp(r->method, "big")) {
        char *text = mr_alloc((1 << 20) + 1);
        memset(text, 'a', 1 << 20);
        *result = cJSON_CreateString(text);
        mr_free(text);
    }
    if (!strcmp(r->method, "late")) {
        *later = !r->boundary;
        n_waits += *later;
        if (r->boundary) *result = cJSON_CreateString("done");
    }
    if (!strcmp(r->method, "never")) *later = true;
    if (!strcmp(r->method, "slow")) usleep(30000);
    if (!strcmp(r->method, "bad")) return mr_fail(err, MR_EDATA, "row 3: no such thing");
    return MR_OK;
}

static void begin(double stall_s) {
    mr_err err = { "" };
    strcpy(folder, "/tmp/medrl-control-XXXXXX");
    REQUIRE(mkdtemp(folder));
    const mr_control_opts o = { .call = call, .stall_s = stall_s };
    REQUIRE_OK(mr_control_open(&server, folder, &o, &err), err);
    n_calls = n_waits = 0;
}

static void end(void) {
    mr_control_close(server);
    server = NULL;
    REQUIRE(mr_remove_tree(folder, NULL) == MR_OK);
}

static void serve(bool boundary) {
    const mr_control c = mr_control_of(server);
    c.serve(c.self, NULL, boundary, 0);
}

static int client(void) {
    int fd;
    mr_err err = { "" };
    REQUIRE_OK(mr_control_connect(&fd, folder, &err), err);
    return fd;
}

static void say(int fd, const char *text) {
    REQUIRE(send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text));
}

/* What has come, without waiting; "" for nothing, "(end)" at the end. */
static const char *heard(int fd) {
    static char text[8192];
    ssize_t n = recv(fd, text, sizeof text - 1, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno == ECONNRESET)) return "(end)";
    text[n > 0 ? n : 0] = 0;
    return text;
}

static size_t take_all(int fd) {
    size_t got = 0;
    char buf[4096];
    for (ssize_t n; (n = recv(fd, buf, sizeof buf, MSG_DONTWAIT)) > 0;) got += (size_t)n;
    return got;
}

static const char *ask(int fd, const char *line) {
    say(fd, line);
    serve(false);
    return heard(fd);
}

static void requests_and_answers(void) {
    begin(0);
    int fd = client();
    CHECK_STR(ask(fd, "{\"id\":1,\"method\":\"echo\",\"args\":{\"a\":[1,2]}}\n"),
              "{\"id\": 1, \"result\": {\"a\": [1, 2]}}\n");
    CHECK_STR(ask(fd, "{\"id\":\"x\",\"method\":\"echo\"}\r\n"), "{\"id\": \"x\", \"result\": {}}\n");
    CHECK_STR(ask(fd, "\n  \n{\"method\":\"nothing\",\"args\":null}\n"), "{\"id\": null, \"result\": null}\n");
    CHECK_STR(ask(fd, "{\"id\":2,\"method\":\"bad\"}\n"),
              "{\"id\": 2, \"error\": {\"code\": \"data\", \"message\": \"row 3: no such thing\"}}\n");
    char want[64];
    snprintf(want, sizeof want, "{\"id\": 3, \"result\": %d}\n", (int)getpid());
    CHECK_STR(ask(fd, "{\"id\":3,\"method\":\"pid\"}\n"), want);
    /* two in one piece, one in two pieces */
    CHECK_STR(ask(fd, "{\"id\":4,\"method\":\"x\"}\n{\"id\":5,\"method\":\"x\"}\n{\"id\":6,"),
              "{\"id\": 4, \"result\": null}\n{\"id\": 5, \"result\": null}\n");
    CHECK_STR(ask(fd, "\"method\":\"x\"}\n"), "{\"id\": 6, \"result\": null}\n");
    CHECK_INT(mr_control_clients(server), 1);
    close(fd);
    serve(false);
    CHECK_INT(mr_control_clients(server), 0);
    end();
}

static void nonsense_is_answered(void) {
    begin(0);
    int fd = client();
    CHECK_CONTAINS(ask(fd, "hello\n"), "\"code\": \"data\"");
    CHECK_CONTAINS(ask(fd, "[1]\n"), "an array, want an object");
    CHECK_CONTAINS(ask(fd, "{\"id\":7}\n"), "{\"id\": 7, \"error\": {\"code\": \"data\"");
    CHECK_CONTAINS(ask(fd, "{\"id\":8,\"method\":\"echo\",\"args\":[1]}\n"), "field \\\"args\\\" is an array");
    CHECK_CONTAINS(ask(fd, "{\"method\":\"a\",\"method\":\"b\"}\n"), "\"error\"");
    CHECK_CONTAINS(ask(fd, "\xff\xfe\n"), "\"error\"");
    CHECK_INT(n_calls, 0);
    CHECK_CONTAINS(ask(fd, "{\"id\":9,\"method\":\"echo\"}\n"), "{\"id\": 9, \"result\"");
    close(fd);
    end();
}

static void waits_for_the_boundary(void) {
    begin(0);
    int fd = client(), other = client();
    CHECK_STR(ask(fd, "{\"id\":1,\"method\":\"late\"}\n{\"id\":2,\"method\":\"echo\"}\n"),
              "{\"id\": 1, \"queued\": true}\n");
    CHECK_STR(ask(other, "{\"id\":3,\"method\":\"echo\"}\n"), "{\"id\": 3, \"result\": {}}\n"); /* others go on */
    CHECK_STR(heard(fd), "");
    CHECK_INT(n_waits, 1);
    serve(true);
    CHECK_STR(heard(fd), "{\"id\": 1, \"result\": \"done\"}\n{\"id\": 2, \"result\": {}}\n");
    /* a client that left does not take its command along */
    say(fd, "{\"id\":4,\"method\":\"late\"}\n{\"id\":5,");
    serve(false);
    close(fd);
    serve(false);
    CHECK_INT(n_waits, 2);
    n_calls = 0;
    serve(true);
    CHECK_INT(n_calls, 1);
    serve(true);
    CHECK_INT(mr_control_clients(server), 1);
    say(other, "{\"id\":6,\"method\":\"late\"}\n");
    serve(false);
    heard(other);
    mr_control_close(server);
    CHECK_STR(heard(other),
              "{\"id\": 6, \"error\": {\"code\": \"ended\", \"message\": \"control.sock: the run has ended\"}}\n");
    CHECK_STR(heard(other), "(end)");
    server = NULL;
    close(other);
    end();
}

static void half_lines_and_the_dead(void) {
    begin(0);
    int fd = client();
    say(fd, "{\"id\":1,\"method\":\"echo\"}");
    serve(false);
    close(fd);
    serve(true);
    CHECK_INT(n_calls, 0);
    CHECK_INT(mr_control_clients(server), 0);
    /* half closed, as `nc -N` and socat do: the answer still comes */
    fd = client();
    say(fd, "{\"id\":2,\"method\":\"echo\"}\n");
    shutdown(fd, SHUT_WR);
    serve(false);
    CHECK_STR(heard(fd), "{\"id\": 2, \"result\": {}}\n");
    CHECK_STR(heard(fd), "(end)");
    close(fd);
    /* dies in the middle of an answer that does not fit into the kernel */
    fd = client();
    say(fd, "{\"id\":3,\"method\":\"big\"}\n");
    serve(false);
    CHECK_INT(mr_control_clients(server), 1);
    CHECK_CONTAINS(heard(fd), "{\"id\": 3, \"result\": \"aaa");
    close(fd);
    serve(false);
    serve(false);
    CHECK_INT(mr_control_clients(server), 0);
    end();
}

static void too_long_a_line(void) {
    begin(0);
    int fd = client();
    fcntl(fd, F_SETFL, O_NONBLOCK);
    char *junk = mr_alloc(1 << 16);
    memset(junk, 'a', 1 << 16);
    size_t sent = 0;
    int turns = 0;
    for (bool open = true; open && sent < 10u << 20 && turns < 1000; turns++) {
        ssize_t n = send(fd, junk, 1 << 16, MSG_NOSIGNAL);
        if (n > 0) sent += (size_t)n;
        if (n < 0 && errno != EAGAIN) open = false;
        serve(false);
    }
    CHECK(sent < 1 << 20);
    CHECK_INT(mr_control_clients(server), 0);
    CHECK_CONTAINS(heard(fd), "more than 65536 bytes");
    mr_free(junk);
    close(fd);
    end();
}

static void slow_reader_is_dropped(void) {
    begin(0.2);
    int fd = client(), other = client();
    for (int i = 0; i < 4; i++) say(fd, "{\"method\":\"big\"}\n");
    serve(false);
    double t0 = mr_now_s(), longest = 0;
    while (mr_control_clients(server) == 2 && mr_now_s() - t0 < 5) {
        double t = mr_now_s();
        serve(false);
        if (mr_now_s() - t > longest) longest = mr_now_s() - t;
        usleep(5000);
    }
    CHECK_INT(mr_control_clients(server), 1);
    CHECK(mr_now_s() - t0 >= 0.2);
    CHECK(longest < 0.5); /* observed: 0.02 */
    CHECK_CONTAINS(ask(other, "{\"id\":1,\"method\":\"echo\"}\n"), "\"result\"");
    close(fd);
    /* one that reads slowly, but does, is served to the end */
    fd = client();
    say(fd, "{\"method\":\"big\"}\n");
    size_t got = 0;
    for (int i = 0; i < 2000 && got < (1 << 20) + 24; i++) {
        serve(false);
        got += take_all(fd);
    }
    CHECK_INT(got, (1 << 20) + (int)strlen("{\"id\": null, \"result\": \"\"}\n"));
    close(fd);
    close(other);
    end();
}

static void ninth_client(void) {
    begin(0);
    int fds[MR_CONTROL_CLIENTS];
    for (int i = 0; i < MR_CONTROL_CLIENTS; i++) {
        fds[i] = client();
        serve(false);
    }
    int ninth = client();
    serve(false);
    CHECK_CONTAINS(heard(ninth), "\"code\": \"busy\"");
    CHECK_STR(heard(ninth), "(end)");
    CHECK_INT(mr_control_clients(server), MR_CONTROL_CLIENTS);
    for (int i = 0; i < MR_CONTROL_CLIENTS; i++) {
        CHECK_CONTAINS(ask(fds[i], "{\"id\":1,\"method\":\"echo\"}\n"), "\"result\"");
        close(fds[i]);
    }
    close(ninth);
    serve(false);
    CHECK_INT(mr_control_clients(server), 0);
    end();
}

static int open_fds(void) {
    int n = 0;
    for (int fd = 0; fd < 256; fd++) n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void a_thousand_connects(void) {
    begin(0);
    const int before = open_fds();
    for (int i = 0; i < 1000; i++) {
        int fd = client();
        if (i % 3 == 0) say(fd, "{\"method\":\"big\"}\n");
        if (i % 3 == 1) say(fd, "{\"met");
        if (i % 7 == 0) serve(false);
        close(fd);
        if (i % 5 == 0) serve(i % 2);
    }
    for (int i = 0; i < 8; i++) serve(false);
    CHECK_INT(mr_control_clients(server), 0);
    CHECK_INT(open_fds(), before);
    int fd = client();
    CHECK_CONTAINS(ask(fd, "{\"id\":1,\"method\":\"echo\"}\n"), "\"result\"");
    close(fd);
    end();
}

static void watchers(void) {
    begin(0);
    int fd = client(), other = client();
    CHECK_STR(ask(fd, "{\"id\":1,\"method\":\"watch\"}\n"), "{\"id\": 1, \"result\": true}\n");
    ask(other, "{\"id\":1,\"method\":\"echo\"}\n");
    cJSON *event = cJSON_CreateObject();
    cJSON_AddStringToObject(event, "event", "step");
    mr_control_tell(server, event);
    mr_control_tell(NULL, event);
    CHECK_STR(heard(fd), "{\"event\": \"step\"}\n");
    CHECK_STR(heard(other), "");
    /* a watcher that never looks */
    char *text = mr_alloc((64 << 10) + 1);
    memset(text, 'e', 64 << 10);
    cJSON_AddStringToObject(event, "text", text);
    for (int i = 0; i < 200; i++) mr_control_tell(server, event);
    serve(false);
    CHECK_INT(mr_control_clients(server), 1);
    mr_free(text);
    cJSON_Delete(event);
    close(fd);
    close(other);
    end();
}

static void pause_waits_for_input(void) {
    begin(0);
    int fd = client();
    const mr_control c = mr_control_of(server);
    double t = mr_now_s();
    c.serve(c.self, NULL, true, 0.1);
    c.serve(c.self, NULL, true, 0.1);
    CHECK(mr_now_s() - t > 0.08); /* the first returns at once: somebody came */
    say(fd, "{\"id\":1,\"method\":\"late\"}\n");
    t = mr_now_s();
    c.serve(c.self, NULL, true, 5);
    CHECK(mr_now_s() - t < 1);
    CHECK_STR(heard(fd), "{\"id\": 1, \"result\": \"done\"}\n");
    close(fd);
    end();
}

static void mode_and_stale_sockets(void) {
    mode_t old = umask(0);
    begin(0);
    umask(old);
    char *path = mr_path_join(folder, "control.sock");
    struct stat info;
    REQUIRE(lstat(path, &info) == 0);
    CHECK_INT(info.st_mode & 07777, 0600);
    CHECK(S_ISSOCK(info.st_mode));
    /* left behind by a process that was killed: a socket file that nobody listens on */
    mr_control_close(server);
    CHECK(lstat(path, &info) != 0);
    pid_t pid = fork();
    if (pid == 0) {
        mr_err err;
        const mr_control_opts o = { .call = call };
        _exit(mr_control_open(&server, folder, &o, &err) == MR_OK ? 0 : 1);
    }
    int status;
    REQUIRE(waitpid(pid, &status, 0) == pid && status == 0);
    CHECK(lstat(path, &info) == 0);
    int fd;
    mr_err err = { "" };
    CHECK(mr_control_connect(&fd, folder, &err) == MR_ENOTFOUND);
    CHECK_CONTAINS(err.msg, "nobody listens there");
    const mr_control_opts o = { .call = call };
    REQUIRE_OK(mr_control_open(&server, folder, &o, &err), err);
    fd = client();
    CHECK_CONTAINS(ask(fd, "{\"id\":1,\"method\":\"echo\"}\n"), "\"result\"");
    close(fd);
    mr_control_close(server);
    /* what is no socket is not ours to remove */
    REQUIRE(mr_file_write(path, "x", 1, NULL) == MR_OK);
    CHECK(mr_control_open(&server, folder, &o, &err) == MR_EINVAL);
    CHECK_CONTAINS(err.msg, "is no socket");
    CHECK(mr_path_exists(path));
    unlink(path);
    REQUIRE(symlink("elsewhere", path) == 0);
    CHECK(mr_control_open(&server, folder, &o, &err) == MR_EINVAL);
    CHECK(server == NULL);
    unlink(path);
    /* nor is the file that a later run put in its place */
    REQUIRE_OK(mr_control_open(&server, folder, &o, &err), err);
    unlink(path);
    REQUIRE(mr_file_write(path, "x", 1, NULL) == MR_OK);
    mr_control_close(server);
    server = NULL;
    CHECK(mr_path_exists(path));
    CHECK(mr_control_connect(&fd, "/nowhere/at/all", &err) == MR_ENOTFOUND);
    mr_free(path);
    end();
}

static void long_paths(void) {
    begin(0);
    char *dir = mr_strdup(folder);
    for (int i = 0; i < 4; i++) {
        char *longer = mr_asprintf("%s/%0*d", dir, 100, i);
        mr_free(dir);
        dir = longer;
    }
    mr_err err = { "" };
    REQUIRE_OK(mr_mkdirs(dir, &err), err);
    mr_control_close(server);
    const mr_control_opts o = { .call = call };
    REQUIRE_OK(mr_control_open(&server, dir, &o, &err), err);
    int fd;
    REQUIRE_OK(mr_control_connect(&fd, dir, &err), err);
    CHECK_CONTAINS(ask(fd, "{\"id\":1,\"method\":\"echo\"}\n"), "\"result\"");
    close(fd);
    mr_free(dir);
    end();
}

/* Needs root: another user gets past the mode only when the file's owner opened it, and is turned away then as well. */
static void other_users(void) {
    if (geteuid() != 0) {
        fprintf(stderr, "other_users: skipped, it needs root\n");
        return;
    }
    begin(0);
    char *path = mr_path_join(folder, "control.sock");
    REQUIRE(chmod(folder, 0755) == 0);
    for (int open = 0; open < 2; open++) {
        if (open) REQUIRE(chmod(path, 0666) == 0);
        int pipes[2];
        REQUIRE(pipe(pipes) == 0);
        pid_t pid = fork();
        if (pid == 0) {
            int fd;
            char text[512] = "";
            if (setgid(65534) != 0 || setuid(65534) != 0) _exit(9);
            mr_status st = mr_control_connect(&fd, folder, NULL);
            if (!open) _exit(st == MR_EINVAL ? 0 : 1);
            if (st != MR_OK) _exit(2);
            if (write(pipes[1], "c", 1) != 1) _exit(3);
            send(fd, "{\"method\":\"echo\"}\n", 18, MSG_NOSIGNAL);
            ssize_t n = recv(fd, text, sizeof text - 1, 0);
            _exit(n > 0 && strstr(text, "\"forbidden\"") && recv(fd, text, sizeof text, 0) <= 0 ? 0 : 4);
        }
        char c;
        close(pipes[1]);
        if (open) CHECK(read(pipes[0], &c, 1) == 1);
        if (open) usleep(100000);
        serve(true);
        int status;
        REQUIRE(waitpid(pid, &status, 0) == pid);
        CHECK_INT(WEXITSTATUS(status), 0);
        close(pipes[0]);
    }
    CHECK_INT(n_calls, 0);
    CHECK_INT(mr_control_clients(server), 0);
    mr_free(path);
    end();
}

/* Requests with bytes exchanged, dropped and added: an answer or the end of the connection, and the server goes on. */
static void garbage(void) {
    static const char *const good[] = {
        "{\"id\":1,\"method\":\"echo\",\"args\":{\"a\":[1,2,{\"b\":null}],\"t\":\"\\u00e9\"}}\n",
        "{\"id\":\"x\",\"method\":\"late\"}\n{\"method\":\"big\"}\n",
        "{\"id\":-1e3,\"method\":\"watch\",\"args\":null}\n",
    };
    begin(0);
    uint32_t x = 1;
    for (int i = 0; i < 3000; i++) {
        char text[256];
        const char *from = good[i % 3];
        size_t n = strlen(from);
        memcpy(text, from, n);
        for (int k = 0; k < 1 + i % 4; k++) {
            x = x * 1664525 + 1013904223;
            text[(x >> 8) % n] = (char)(x >> 24);
        }
        int fd = client();
        CHECK(send(fd, text, n - (x >> 4) % 3, MSG_NOSIGNAL) > 0);
        serve(i % 5 == 0);
        heard(fd);
        close(fd);
        serve(i % 2);
    }
    serve(true);
    serve(true);
    CHECK_INT(mr_control_clients(server), 0);
    int fd = client();
    CHECK_CONTAINS(ask(fd, "{\"id\":1,\"method\":\"echo\"}\n"), "\"result\"");
    close(fd);
    end();
}

static void names_of_errors(void) {
    const mr_status all[] = { MR_EINVAL, MR_EDATA,  MR_ENET,    MR_EINTERNAL, MR_ENOMEM,
                              MR_EIO,    MR_EAGAIN, MR_ESIGNAL, MR_ENOTFOUND };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) CHECK(mr_control_status(mr_control_code(all[i])) == all[i]);
    CHECK(mr_control_status("of another version") == MR_EINTERNAL);
    CHECK(mr_control_status(NULL) == MR_EINTERNAL);
    CHECK_STR(mr_control_code(MR_EREFUSED), "internal"); /* one that has no name here */
}

/* Opens once more: what it says. */
static const char *opened(void) {
    static mr_err err;
    mr_control_socket *second;
    const mr_control_opts o = { .call = call };
    err = (mr_err){ "" };
    if (mr_control_open(&second, folder, &o, &err) == MR_OK) {
        mr_control_close(second);
        return "(it opened)";
    }
    CHECK(second == NULL);
    return err.msg;
}

static const char *connected(void) {
    static mr_err err;
    int fd;
    err = (mr_err){ "" };
    const mr_status st = mr_control_connect(&fd, folder, &err);
    if (st == MR_OK) close(fd);
    CHECK(st == MR_OK || fd == -1);
    return st == MR_OK ? "(it connected)" : err.msg;
}

/* So many descriptors more than there are; -1: as many as before. */
static void descriptors_left(int n) {
    static struct rlimit old;
    if (n < 0) {
        REQUIRE(setrlimit(RLIMIT_NOFILE, &old) == 0);
        return;
    }
    REQUIRE(getrlimit(RLIMIT_NOFILE, &old) == 0);
    const int next = dup(0);
    REQUIRE(next >= 0);
    close(next);
    const struct rlimit few = { (rlim_t)(next + n), old.rlim_max };
    REQUIRE(setrlimit(RLIMIT_NOFILE, &few) == 0);
}

/* The socket file of a process that was killed. */
static void leave_stale(void) {
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    snprintf(a.sun_path, sizeof a.sun_path, "%s/control.sock", folder);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0);
    close(fd);
}

/* A folder without a socket. */
static void begin_closed(void) {
    begin(0);
    mr_control_close(server);
    server = NULL;
}

static void nobody_is_there(void) {
    begin_closed();
    CHECK_CONTAINS(connected(), "nobody listens there");
    CHECK_STR(opened(), "(it opened)");
    CHECK_CONTAINS(connected(), "No such file");
    end();
    CHECK_CONTAINS(opened(), "No such file"); /* the folder itself */
}

/* The name belongs to a process that lives, be it one that accepts nobody for the moment. */
static void somebody_else_listens(void) {
    begin(0);
    CHECK_CONTAINS(opened(), "a process listens there, which is not this run");
    serve(false);
    int fds[66], n = 0;
    for (short_waits = true; n < 66; n++) {
        mr_err err = { "" };
        const mr_status st = mr_control_connect(&fds[n], folder, &err);
        if (st == MR_OK) continue;
        CHECK_CONTAINS(err.msg, "timed out");
        break;
    }
    CHECK_INT(n, 65); /* as many as listen was told, and one */
    short_waits = false;
    CHECK_CONTAINS(opened(), "a process listens there, which is not this run");
    while (n) close(fds[--n]);
    for (int i = 0; i < 4; i++) serve(false);
    CHECK_INT(mr_control_clients(server), 0);
    CHECK_STR(connected(), "(it connected)"); /* it still has its socket */
    end();
}

/* No descriptor left, at each of the places that want one; nothing is removed on a guess and none is lost. */
static void without_descriptors(void) {
    for (int stale = 0; stale < 2; stale++) {
        begin_closed();
        char *path = mr_path_join(folder, "control.sock");
        if (stale) leave_stale();
        const int before = open_fds();
        for (int n = 0; n < 2; n++) {
            descriptors_left(n);
            const char *opens = opened(), *connects = connected();
            descriptors_left(-1);
            CHECK_CONTAINS(opens, "Too many open files");
            CHECK_CONTAINS(connects, "Too many open files");
            CHECK_INT(mr_path_exists(path), stale);
            CHECK_INT(open_fds(), before);
        }
        CHECK_STR(opened(), "(it opened)");
        CHECK(!mr_path_exists(path));
        mr_free(path);
        end();
    }
}

/* A folder that this process may not search, not write to, and a socket that is not its own. */
static void forbidden_folders(void) {
    static const struct {
        mode_t mode;
        bool stale;
        const char *says;
    } rows[] = { { 0, false, "Permission denied" },
                 { 0, true, "Permission denied" },
                 { 0555, false, "could not be made" },
                 { 0555, true, "an old one could not be removed" } };
    const bool root = geteuid() == 0;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        begin_closed();
        if (rows[i].stale) leave_stale();
        REQUIRE(chmod(folder, rows[i].mode) == 0);
        if (root) REQUIRE(seteuid(65534) == 0);
        const char *opens = opened(), *connects = connected();
        if (root) REQUIRE(seteuid(0) == 0);
        REQUIRE(chmod(folder, 0700) == 0);
        CHECK_CONTAINS(opens, rows[i].says);
        CHECK(strcmp(connects, "(it connected)") != 0);
        if (rows[i].mode == 0) CHECK_CONTAINS(connects, "belongs to another user");
        CHECK_STR(opened(), "(it opened)");
        end();
    }
}

/* Each step of the making fails once: an error, no descriptor lost, and the next attempt works. */
static void making_fails(void) {
    static const struct {
        const char *call;
        int nth;
    } rows[] = { { "fchmod", 1 }, { "fchmodat", 1 }, { "fstatat", 1 }, { "fstatat", 2 }, { "listen", 1 } };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        begin_closed();
        const int before = open_fds();
        make_odd(rows[i].call, rows[i].nth, EIO, -1);
        CHECK_CONTAINS(opened(), "Input/output error");
        CHECK(odd.call == NULL);
        CHECK_INT(open_fds(), before);
        CHECK_STR(opened(), "(it opened)");
        end();
    }
    /* the owner of a stale one removes it at the same moment */
    begin_closed();
    leave_stale();
    char *path = mr_path_join(folder, "control.sock");
    gone = path;
    CHECK_STR(opened(), "(it opened)");
    CHECK(gone == NULL);
    /* at the end: the same number on another device is another file */
    const mr_control_opts o = { .call = call };
    mr_err err = { "" };
    REQUIRE_OK(mr_control_open(&server, folder, &o, &err), err);
    make_odd("fstatat of another device", 1, 0, 0);
    mr_control_close(server);
    server = NULL;
    CHECK(mr_path_exists(path));
    mr_free(path);
    end();
    begin(0); /* nor is there anything to do when it is gone already */
    path = mr_path_join(folder, "control.sock");
    REQUIRE(unlink(path) == 0);
    mr_free(path);
    end();
}

static void strangers(void) {
    begin(0);
    for (int i = 0; i < 2; i++) {
        make_odd(i ? "getsockopt" : NULL, 1, EIO, -1); /* the second: nobody knows who it is */
        if (!i) peer_uid = geteuid() + 1;
        int fd = client();
        say(fd, "{\"method\":\"echo\"}\n");
        serve(true);
        CHECK_CONTAINS(heard(fd), "\"forbidden\"");
        CHECK_STR(heard(fd), "(end)");
        CHECK_INT(mr_control_clients(server), 0);
        peer_uid = (uid_t)-1;
        close(fd);
    }
    CHECK_INT(n_calls, 0);
    end();
}

static void odd_reads_and_writes(void) {
    static const struct {
        const char *call;
        int error;
        long gives;
        const char *hears;
    } rows[] = {
        { "send", EINTR, -1, "{\"id\": 1, \"result\": {}}\n" }, { "send", EAGAIN, -1, "" }, { "send", EAGAIN, 0, "" },
        { "recv", EINTR, -1, "{\"id\": 1, \"result\": {}}\n" }, { "recv", EAGAIN, -1, "" }, { "send", EPIPE, -1, "" },
        { "recv", ECONNRESET, -1, "(end)" },
    };
    begin(0);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int fd = client();
        say(fd, "{\"id\":1,\"method\":\"echo\"}\n");
        make_odd(rows[i].call, 1, rows[i].error, rows[i].gives);
        serve(false);
        CHECK(odd.call == NULL);
        CHECK_STR(heard(fd), rows[i].hears);
        serve(false);
        if (!rows[i].hears[0]) /* what did not go goes next time, unless the client takes no more */
            CHECK_STR(heard(fd), rows[i].error == EPIPE ? "" : "{\"id\": 1, \"result\": {}}\n");
        close(fd);
        serve(false);
        CHECK_INT(mr_control_clients(server), 0);
    }
    end();
}

static void later_than_ever(void) {
    begin(0);
    int fd = client();
    CHECK_STR(ask(fd, "{\"id\":1,\"method\":\"never\"}\n"), "{\"id\": 1, \"queued\": true}\n");
    serve(true);
    CHECK_STR(heard(fd), "{\"id\": 1, \"error\": {\"code\": \"internal\", \"message\": \"never: cannot be done between "
                         "two steps either\"}}\n");
    CHECK_CONTAINS(ask(fd, "{\"id\":2,\"method\":\"echo\"}\n"), "\"result\"");
    close(fd);
    end();
}

/* Within a step there are 20 ms for them all; what is left is served next time, and a pause does not sleep over it. */
static void slow_methods(void) {
    begin(0);
    int fd = client();
    const mr_control c = mr_control_of(server);
    CHECK_STR(ask(fd, "{\"id\":1,\"method\":\"slow\"}\n{\"id\":2,\"method\":\"echo\"}\n"),
              "{\"id\": 1, \"result\": null}\n");
    CHECK_INT(n_calls, 1);
    const double t = mr_now_s();
    c.serve(c.self, NULL, false, 5);
    CHECK(mr_now_s() - t < 1);
    CHECK_STR(heard(fd), "{\"id\": 2, \"result\": {}}\n");
    close(fd);
    end();
}

/* A line of that many bytes and its newline; what is answered. */
static const char *ask_line(size_t len) {
    int fd = client();
    mr_str line = { 0 };
    mr_str_puts(&line, "{\"id\":1,\"method\":\"x\",\"args\":{\"t\":\"");
    while (line.len < len - 3) mr_str_add(&line, "a", 1);
    mr_str_puts(&line, "\"}}\n{\"id\":2,\"method\":\"x\"}\n");
    say(fd, line.data);
    CHECK_INT(line.len, len + 1 + strlen("{\"id\":2,\"method\":\"x\"}\n"));
    mr_str_clear(&line);
    for (int i = 0; i < 4; i++) serve(false);
    const char *text = heard(fd);
    close(fd);
    serve(false);
    CHECK_INT(mr_control_clients(server), 0);
    return text;
}

static void lines_at_the_limit(void) {
    static const char both[] = "{\"id\": 1, \"result\": null}\n{\"id\": 2, \"result\": null}\n";
    begin(0);
    CHECK_STR(ask_line(MR_CONTROL_LINE - 1), both);
    CHECK_STR(ask_line(MR_CONTROL_LINE), both);
    n_calls = 0;
    CHECK_CONTAINS(ask_line(MR_CONTROL_LINE + 1), "more than 65536 bytes");
    CHECK_CONTAINS(ask_line(MR_CONTROL_LINE + 5000), "more than 65536 bytes");
    CHECK_INT(n_calls, 0);
    /* many lines behind one that waits are no long line */
    int fd = client();
    mr_str lines = { 0 };
    mr_str_puts(&lines, "{\"id\":1,\"method\":\"late\"}\n");
    while (lines.len < MR_CONTROL_LINE + 9000) mr_str_puts(&lines, "{\"id\":2,\"method\":\"echo\"}     \n");
    say(fd, lines.data);
    mr_str_clear(&lines);
    for (int i = 0; i < 4; i++) serve(false);
    CHECK_STR(heard(fd), "{\"id\": 1, \"queued\": true}\n");
    serve(true);
    CHECK_CONTAINS(heard(fd), "{\"id\": 1, \"result\": \"done\"}\n{\"id\": 2, \"result\": {}}\n");
    close(fd);
    end();
}

/* More in answers than one client may have lying here: dropped at once, long before it counts as slow. */
static void too_many_answers(void) {
    begin(100);
    int fd = client();
    for (int over = 0; over < 2; over++) {
        for (int i = 0; i < (over ? 6 : 60); i++) say(fd, "{\"method\":\"big\"}\n");
        serve(true);
        CHECK_INT(mr_control_clients(server), 1); /* what closes it is found after the lines */
        CHECK_INT(mr_control_pids(server, (pid_t[MR_CONTROL_CLIENTS]){ 0 }), !over);
    }
    serve(true);
    CHECK_INT(mr_control_clients(server), 0);
    close(fd);
    end();
}

/* A client dies with an answer half taken and a command that waits: the command is done, and nothing is put for it. */
static void dead_with_a_command(void) {
    begin(0);
    int fd = client();
    say(fd, "{\"id\":1,\"method\":\"big\"}\n{\"id\":2,\"method\":\"late\"}\n");
    serve(false);
    CHECK_INT(n_waits, 1);
    close(fd);
    serve(false);
    CHECK_INT(mr_control_clients(server), 1);
    n_calls = 0;
    serve(true);
    CHECK_INT(n_calls, 1);
    CHECK_INT(mr_control_clients(server), 0);
    end();
}

/* All places are taken when a ninth comes: only one who left without a request gives up its place. */
static void a_place_for_the_ninth(void) {
    begin(0);
    int fds[MR_CONTROL_CLIENTS];
    for (int i = 0; i < MR_CONTROL_CLIENTS; i++) fds[i] = client();
    serve(false);
    say(fds[1], "{\"id\":1,\"method\":\"late\"}\n"); /* leaves, but its command waits */
    say(fds[2], "{\"id\":1,\"method\":\"big\"}\n");  /* writes no more, and still reads */
    serve(false);
    close(fds[1]);
    shutdown(fds[2], SHUT_WR);
    int ninth = client();
    serve(false);
    CHECK_CONTAINS(heard(ninth), "\"busy\"");
    close(ninth);
    close(fds[3]); /* just left */
    ninth = client();
    CHECK_CONTAINS(ask(ninth, "{\"id\":9,\"method\":\"echo\"}\n"), "{\"id\": 9, \"result\": {}}");
    CHECK_INT(mr_control_clients(server), MR_CONTROL_CLIENTS);
    n_calls = 0;
    serve(true);
    CHECK_INT(n_calls, 1);
    CHECK_CONTAINS(heard(fds[2]), "{\"id\": 1, \"result\": \"aaa");
    for (int i = 0; i < MR_CONTROL_CLIENTS; i++)
        if (i != 1 && i != 3) close(fds[i]);
    close(ninth);
    end();
}

/* A crowd costs a call no more than 32 of them; the others come next. */
static void a_crowd_at_once(void) {
    begin(0);
    int fds[40];
    for (int i = 0; i < 40; i++) fds[i] = client();
    for (int turn = 0; turn < 2; turn++) {
        int n_busy = 0;
        serve(false);
        for (int i = 0; i < 40; i++) n_busy += strstr(heard(fds[i]), "\"busy\"") != NULL;
        CHECK_INT(n_busy, turn ? 8 : 32 - MR_CONTROL_CLIENTS);
        CHECK_INT(mr_control_clients(server), MR_CONTROL_CLIENTS);
    }
    for (int i = 0; i < 40; i++) close(fds[i]);
    end();
}

/* In a pause: a client that takes its answer is served on, one that only left no longer wakes it, and a watcher that is
 * to be dropped does not keep it from sleeping. */
static void pause_with_old_clients(void) {
    begin(0);
    const mr_control c = mr_control_of(server);
    pid_t pids[MR_CONTROL_CLIENTS];
    CHECK_INT(mr_control_pids(NULL, pids), 0);
    int fd = client();
    say(fd, "{\"id\":1,\"method\":\"big\"}\n");
    shutdown(fd, SHUT_WR);
    serve(false);
    double t = mr_now_s();
    c.serve(c.self, NULL, true, 0.05); /* full, and it reads nothing */
    CHECK(mr_now_s() - t > 0.04);
    size_t got = take_all(fd);
    for (t = mr_now_s(); mr_control_clients(server) == 1 && mr_now_s() - t < 2; got += take_all(fd))
        c.serve(c.self, NULL, true, 5);
    CHECK(mr_now_s() - t < 1); /* it may write: each turn at once */
    CHECK_INT(got, (1 << 20) + (int)strlen("{\"id\": 1, \"result\": \"\"}\n"));
    close(fd);
    fd = client();
    say(fd, "{\"method\":\"watch\"}\n{\"method\":\"late\"}\n");
    serve(false);
    CHECK_INT(mr_control_pids(server, pids), 1);
    CHECK_INT(pids[0], getpid());
    char *text = mr_alloc((1 << 20) + 1);
    memset(text, 'e', 1 << 20);
    cJSON *event = cJSON_CreateString(text);
    for (int i = 0; i < 6; i++) mr_control_tell(server, event);
    CHECK_INT(mr_control_pids(server, pids), 0);
    CHECK_INT(mr_control_clients(server), 1);
    t = mr_now_s();
    c.serve(c.self, NULL, true, 0.05);
    CHECK(mr_now_s() - t > 0.04);
    CHECK_INT(mr_control_clients(server), 0);
    cJSON_Delete(event);
    mr_free(text);
    close(fd);
    end();
}

TEST_MAIN({ "requests_and_answers", requests_and_answers }, { "nonsense_is_answered", nonsense_is_answered },
          { "waits_for_the_boundary", waits_for_the_boundary }, { "half_lines_and_the_dead", half_lines_and_the_dead },
          { "too_long_a_line", too_long_a_line }, { "slow_reader_is_dropped", slow_reader_is_dropped },
          { "ninth_client", ninth_client }, { "a_thousand_connects", a_thousand_connects }, { "watchers", watchers },
          { "pause_waits_for_input", pause_waits_for_input }, { "mode_and_stale_sockets", mode_and_stale_sockets },
          { "long_paths", long_paths }, { "other_users", other_users }, { "garbage", garbage },
          { "names_of_errors", names_of_errors }, { "nobody_is_there", nobody_is_there },
          { "somebody_else_listens", somebody_else_listens }, { "without_descriptors", without_descriptors },
          { "forbidden_folders", forbidden_folders }, { "making_fails", making_fails }, { "strangers", strangers },
          { "odd_reads_and_writes", odd_reads_and_writes }, { "later_than_ever", later_than_ever },
          { "slow_methods", slow_methods }, { "lines_at_the_limit", lines_at_the_limit },
          { "too_many_answers", too_many_answers }, { "dead_with_a_command", dead_with_a_command },
          { "a_place_for_the_ninth", a_place_for_the_ninth }, { "a_crowd_at_once", a_crowd_at_once },
          { "pause_with_old_clients", pause_with_old_clients })
