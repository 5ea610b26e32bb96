/* test_frames.c - one end of a wire alone, against bytes: frames that are cut, lengths at their limit, descriptors that
 * nobody asked for, sockets that are full, a peer that leaves in the midst of it, signals. test_wire.c has whole
 * workers that lie. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/proc.h"
#include "script/wire.h"
#include "test.h"

/* What the kernel does seldom or never on its own, done once to the call of that name: -1 and errno, 0, or only some
 * bytes. A flood: before each read, the other end is filled again. */
static struct {
    const char *call;
    long gives; /* -1: fails with `error`; else at most so many bytes go */
    int error;
    int flood_fd;
} odd = { .flood_fd = -1 };

static bool odd_one(const char *call) {
    if (!odd.call || strcmp(odd.call, call) != 0) return false;
    odd.call = NULL;
    errno = odd.error;
    return true;
}

ssize_t send(int fd, const void *data, size_t len, int flags) {
    if (odd_one("send")) return odd.gives;
    return sendto(fd, data, len, flags, NULL, 0);
}

ssize_t sendmsg(int fd, const struct msghdr *msg, int flags) {
    struct msghdr m = *msg;
    struct iovec some = *m.msg_iov;
    if (odd_one("sendmsg")) {
        if (odd.gives < 0) return -1;
        some.iov_len = (size_t)odd.gives;
        m.msg_iov = &some;
    }
    return syscall(SYS_sendmsg, fd, &m, flags);
}

ssize_t recvmsg(int fd, struct msghdr *msg, int flags) {
    static const char bytes[4096];
    while (odd.flood_fd >= 0 && send(odd.flood_fd, bytes, sizeof bytes, MSG_NOSIGNAL | MSG_DONTWAIT) > 0) {
    }
    if (odd_one("recvmsg")) return -1;
    return syscall(SYS_recvmsg, fd, msg, flags);
}

static int near_fd, far_fd;
static mr_wire near_end;

static void pair_begin(void) {
    int pair[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    near_fd = pair[0];
    far_fd = pair[1];
    mr_wire_init(&near_end, near_fd);
    near_end.wait_ms = 30;
}

static void far_close(void) {
    if (far_fd >= 0) close(far_fd);
    far_fd = -1;
}

static void pair_end(void) {
    mr_wire_clear(&near_end);
    close(near_fd);
    far_close();
}

static int open_fds(void) {
    int n = 0;
    for (int fd = 0; fd < 256; fd++) n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* Until the kernel takes no more from this end. */
static void fill_up(void) {
    static const char bytes[4096];
    while (sendto(near_fd, bytes, sizeof bytes, MSG_DONTWAIT, NULL, 0) > 0) {
    }
    while (sendto(near_fd, bytes, 1, MSG_DONTWAIT, NULL, 0) > 0) {
    }
}

static size_t drain(void) {
    char buf[8192];
    size_t n_bytes = 0;
    for (ssize_t n; (n = recv(far_fd, buf, sizeof buf, MSG_DONTWAIT)) > 0;) n_bytes += (size_t)n;
    return n_bytes;
}

/* A signal every few milliseconds, at the n-th of which the other end acts. */
static volatile sig_atomic_t n_alarms, act_at;
static void (*volatile act)(void);

static void on_alarm(int sig) {
    (void)sig;
    const int saved = errno;
    if (++n_alarms == act_at) act();
    errno = saved;
}

static void alarms(int at, void (*what)(void)) {
    act_at = at;
    n_alarms = 0;
    act = what;
    struct sigaction sa = { .sa_handler = at ? on_alarm : SIG_DFL };
    const struct itimerval every = { { 0, at ? 5000 : 0 }, { 0, at ? 5000 : 0 } };
    if (at) sigaction(SIGALRM, &sa, NULL);
    REQUIRE(setitimer(ITIMER_REAL, &every, NULL) == 0);
    if (!at) sigaction(SIGALRM, &sa, NULL);
}

static void far_says(void) {
    if (sendto(far_fd, "x", 1, MSG_NOSIGNAL, NULL, 0) != 1) abort();
}

static void far_reads(void) {
    drain();
}

static void frames_cut_at_each_byte(void) {
    mr_str s = { 0 };
    mr_put_u8(&s, 200);
    mr_put_u32(&s, 4000000000u);
    mr_put_i64(&s, -5);
    mr_put_f64(&s, 0.25);
    mr_put_bytes(&s, "text", 4);
    mr_put_bytes(&s, "", 0);
    pair_begin();
    mr_wire_put(&near_end, MR_WIRE_REPLY, s.data, s.len);
    mr_wire_put(&near_end, MR_WIRE_TICK, NULL, 0);
    char both[128];
    const size_t len = near_end.out.len;
    REQUIRE(len < sizeof both);
    memcpy(both, near_end.out.data, len);
    pair_end();
    for (size_t cut = 0; cut <= len; cut++) {
        mr_frame f;
        const int want = cut == len ? 2 : cut >= len - 8;
        int n_frames = 0;
        pair_begin();
        REQUIRE(sendto(far_fd, both, cut, MSG_NOSIGNAL, NULL, 0) == (ssize_t)cut);
        CHECK(mr_wire_fill(&near_end, false));
        while (mr_wire_next(&near_end, &f) == 1) n_frames++;
        CHECK_INT(n_frames, want);
        REQUIRE(sendto(far_fd, both + cut, len - cut, MSG_NOSIGNAL, NULL, 0) == (ssize_t)(len - cut));
        far_close();
        CHECK_INT(mr_wire_fill(&near_end, true), cut < len); /* nothing but the end after the last byte */
        while (mr_wire_next(&near_end, &f) == 1) n_frames++;
        CHECK_INT(n_frames, 2);
        CHECK_INT(f.type, MR_WIRE_TICK);
        CHECK(!mr_wire_fill(&near_end, true));
        pair_end();
    }
    /* the same cut within a frame: what is whole is read, all after it is zero */
    for (size_t cut = 0; cut <= s.len; cut++) {
        const mr_frame f = { MR_WIRE_REPLY, s.data, cut };
        char text[8];
        mr_take t = mr_take_frame(&f);
        CHECK_INT(mr_take_u8(&t), cut >= 1 ? 200 : 0);
        CHECK_INT(mr_take_u32(&t), cut >= 5 ? 4000000000u : 0);
        CHECK_INT(mr_take_i64(&t), cut >= 13 ? -5 : 0);
        CHECK_NEAR(mr_take_f64(&t), cut >= 21 ? 0.25 : 0, 0);
        mr_take_string(&t, text, sizeof text);
        CHECK_STR(text, cut >= 29 ? "text" : "");
        mr_take_string(&t, text, sizeof text);
        CHECK_STR(text, "");
        CHECK_INT(t.bad, cut < s.len);
        CHECK(t.at <= t.end);
    }
    /* into a place of just the size, one less, and of one byte */
    static const char *const kept[] = { "", "t", "te", "tex", "text", "text" };
    for (size_t room = 1; room <= 6; room++) {
        const mr_frame f = { MR_WIRE_REPLY, s.data + 21, 8 };
        char text[8] = "#######";
        mr_take t = mr_take_frame(&f);
        mr_take_string(&t, text, room);
        CHECK_STR(text, kept[room - 1]);
        CHECK_INT(text[7], 0);
        CHECK(t.at == t.end && !t.bad);
    }
    mr_str_clear(&s);
}

/* A length is judged by its header alone: before memory is spent on what it announces. */
static void lengths_at_their_limit(void) {
    static const uint32_t small[] = { MR_WIRE_START,       MR_WIRE_ERROR,     MR_WIRE_NEED_TEXT, MR_WIRE_NEED_FILE,
                                      MR_WIRE_NEED_FOLDER, MR_WIRE_NEED_PASS, MR_WIRE_IMPORT,    MR_WIRE_LOG,
                                      MR_WIRE_TICK,        MR_WIRE_READY,     MR_WIRE_DENIED };
    static const struct {
        uint32_t type, len;
        int want;
    } odd_heads[] = {
        { 0, 0, -1 },
        { MR_WIRE_TYPES, 0, -1 },
        { UINT32_MAX, 0, -1 },
        { MR_WIRE_TYPES - 1, 0, 1 },
        { MR_WIRE_REPLY, UINT32_MAX, -1 },
        { MR_WIRE_START, UINT32_MAX, -1 },
    };
    pair_begin();
    mr_frame f;
    for (size_t i = 0; i < sizeof odd_heads / sizeof odd_heads[0]; i++) {
        near_end.in.len = near_end.in_at = 0;
        mr_str_add(&near_end.in, &odd_heads[i], 8);
        CHECK_INT(mr_wire_next(&near_end, &f), odd_heads[i].want);
    }
    static const size_t limits[] = { MR_WIRE_MAX_BYTES, 70000 };
    for (int k = 0; k < 2; k++) {
        near_end.limit = limits[k];
        for (uint32_t type = 1; type < MR_WIRE_TYPES; type++) {
            size_t most = limits[k];
            for (size_t i = 0; i < sizeof small / sizeof small[0]; i++)
                if (small[i] == type) most = MR_WIRE_SMALL_BYTES;
            for (uint32_t over = 0; over < 2; over++) {
                const uint32_t head[2] = { type, (uint32_t)most + over };
                near_end.in.len = near_end.in_at = 0;
                mr_str_add(&near_end.in, head, sizeof head);
                const int got = mr_wire_next(&near_end, &f);
                if (got != -(int)over) fprintf(stderr, "  type %u, %u bytes\n", type, head[1]);
                CHECK_INT(got, -(int)over);
            }
        }
    }
    pair_end();
}

/* From the far end, in one message, n descriptors of this program's own standard error. */
static void send_fds(int n) {
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(32 * sizeof(int))];
    } control;
    memset(&control, 0, sizeof control);
    struct iovec iov = { (char[]){ 'x' }, 1 };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
    m.msg_control = control.bytes;
    m.msg_controllen = CMSG_SPACE((size_t)n * sizeof(int));
    control.align.cmsg_level = SOL_SOCKET;
    control.align.cmsg_type = SCM_RIGHTS;
    control.align.cmsg_len = CMSG_LEN((size_t)n * sizeof(int));
    for (int i = 0, fd = 2; i < n; i++) memcpy(CMSG_DATA(&control.align) + (size_t)i * sizeof fd, &fd, sizeof fd);
    REQUIRE(sendmsg(far_fd, &m, MSG_NOSIGNAL) == 1);
}

/* A peer can send as many as it likes: eight are kept, the oldest, and no other stays open. */
static void descriptors_that_nobody_asked_for(void) {
    static const struct {
        int first, second, kept;
    } rows[] = { { 1, 0, 1 }, { 7, 1, 8 }, { 8, 0, 8 }, { 8, 1, 8 }, { 5, 8, 8 }, { 20, 0, 8 }, { 20, 20, 8 } };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const int before = open_fds();
        pair_begin();
        CHECK_INT(mr_wire_take_fd(&near_end), -1);
        send_fds(rows[i].first);
        CHECK(mr_wire_fill(&near_end, true));
        const int oldest = near_end.fds[0];
        if (rows[i].second) {
            send_fds(rows[i].second);
            CHECK(mr_wire_fill(&near_end, true));
        }
        CHECK_INT(near_end.n_fds, rows[i].kept);
        CHECK_INT(open_fds(), before + 2 + rows[i].kept);
        const int fd = mr_wire_take_fd(&near_end);
        CHECK_INT(fd, oldest);
        CHECK_INT(near_end.n_fds, rows[i].kept - 1);
        CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        close(fd);
        pair_end();
        CHECK_INT(open_fds(), before);
    }
    /* what comes along and is no descriptor is not taken for one */
    const int on = 1;
    pair_begin();
    REQUIRE(setsockopt(near_fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
    far_says();
    CHECK(mr_wire_fill(&near_end, true));
    CHECK_INT(near_end.in.len, 1);
    CHECK_INT(near_end.n_fds, 0);
    pair_end();
}

static void reads_what_is_there(void) {
    pair_begin();
    CHECK(mr_wire_fill(&near_end, false)); /* nothing, and no wait */
    CHECK_INT(near_end.in.len, 0);
    /* just a whole buffer, and then nothing; then the same and the end */
    enum { CHUNK = 64 << 10 };
    char *bytes = mr_alloc(CHUNK);
    for (int i = 0; i < 2; i++) {
        REQUIRE(sendto(far_fd, bytes, CHUNK, MSG_NOSIGNAL, NULL, 0) == CHUNK);
        if (i) far_close();
        CHECK(mr_wire_fill(&near_end, true));
        CHECK_INT(near_end.in.len, (i + 1) * CHUNK);
    }
    CHECK(!mr_wire_fill(&near_end, true));
    mr_free(bytes);
    pair_end();
    /* a peer that never stops: about a MiB a call */
    pair_begin();
    odd.flood_fd = far_fd;
    CHECK(mr_wire_fill(&near_end, true));
    odd.flood_fd = -1;
    CHECK(near_end.in.len >= 1 << 20 && near_end.in.len < (1 << 20) + CHUNK);
    pair_end();
    /* a peer that leaves without reading: the connection is reset */
    pair_begin();
    REQUIRE(sendto(near_fd, "x", 1, MSG_NOSIGNAL, NULL, 0) == 1);
    far_close();
    CHECK(!mr_wire_fill(&near_end, false));
    pair_end();
    pair_begin();
    odd.call = "recvmsg", odd.gives = -1, odd.error = EINTR;
    far_says();
    CHECK(mr_wire_fill(&near_end, false));
    CHECK_INT(near_end.in.len, 1);
    CHECK(odd.call == NULL);
    pair_end();
}

/* wait_ms is kept, however many signals come; without it only the peer ends the wait. */
static void waits_and_signals(void) {
    static const struct {
        int ms, at;
        void (*what)(void);
        bool got;
    } rows[] = {
        { 60, 0, NULL, false },    { 60, 10000, NULL, false },  { 2000, 5, far_says, true },
        { -1, 5, far_says, true }, { -1, 5, far_close, false },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        pair_begin();
        near_end.wait_ms = rows[i].ms;
        const double t = mr_now_s();
        if (rows[i].at) alarms(rows[i].at, rows[i].what);
        const bool got = mr_wire_fill(&near_end, true);
        alarms(0, NULL);
        const double took = mr_now_s() - t;
        if (got != rows[i].got || took > 1) fprintf(stderr, "  row %zu: %d after %g s\n", i, got, took);
        CHECK_INT(got, rows[i].got);
        CHECK(took > (rows[i].what ? 0.015 : 0.055) && took < 1); /* observed: 0.06 and 0.025 */
        pair_end();
    }
    /* a poll that fails is no reason to wait for ever */
    struct rlimit old, none;
    pair_begin();
    near_end.wait_ms = -1;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &old) == 0);
    none = old;
    none.rlim_cur = 0;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
    const bool got = mr_wire_fill(&near_end, true);
    REQUIRE(setrlimit(RLIMIT_NOFILE, &old) == 0);
    CHECK(!got);
    pair_end();
}

static void full_sockets(void) {
    mr_str big = { 0 };
    for (uint32_t i = 0; i < 300000; i++) mr_put_u32(&big, i); /* more than a socket holds */
    /* without wait: what fits; the rest goes when the peer has read */
    pair_begin();
    mr_wire_put(&near_end, MR_WIRE_REPLY, big.data, big.len);
    CHECK(mr_wire_flush(&near_end, false));
    CHECK(near_end.out_at > 0 && near_end.out_at < near_end.out.len);
    size_t came = 0;
    for (int i = 0; i < 100 && near_end.out.len; i++) {
        came += drain();
        CHECK(mr_wire_flush(&near_end, false));
    }
    CHECK_INT(came + drain(), big.len + 8);
    /* with it: wait_ms and no longer; a peer that closes in the midst of a frame ends it at once */
    double t = mr_now_s();
    CHECK(!mr_wire_send(&near_end, MR_WIRE_REPLY, big.data, big.len, -1));
    CHECK(mr_now_s() - t > 0.025 && mr_now_s() - t < 1);
    near_end.wait_ms = -1;
    alarms(3, far_close);
    CHECK(!mr_wire_flush(&near_end, true));
    alarms(0, NULL);
    CHECK(near_end.out_at > 0);
    CHECK(!mr_wire_send(&near_end, MR_WIRE_FILE, "f", 1, 2)); /* nor is a file sent behind it */
    pair_end();
    mr_str_clear(&big);
}

/* A file for a peer that asks and does not read: wait_ms, and not for ever. */
static void files_into_a_full_socket(void) {
    static const struct {
        int ms, at;
        void (*what)(void);
        bool sent;
    } rows[] = {
        { 40, 0, NULL, false }, { 40, 10000, NULL, false }, { -1, 4, far_reads, true }, { -1, 4, far_close, false }
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        pair_begin();
        fill_up();
        near_end.wait_ms = rows[i].ms;
        const double t = mr_now_s();
        if (rows[i].at) alarms(rows[i].at, rows[i].what);
        const bool sent = mr_wire_send(&near_end, MR_WIRE_FILE, "\1name", 5, 2);
        alarms(0, NULL);
        CHECK_INT(sent, rows[i].sent);
        CHECK(mr_now_s() - t > 0.015 && mr_now_s() - t < 1);
        pair_end();
    }
}

static void odd_writes(void) {
    static const struct {
        const char *call;
        long gives;
        int error;
        bool sent;
    } rows[] = {
        { "send", -1, EINTR, true },       { "send", -1, EAGAIN, true },
        { "send", -1, ECONNRESET, false }, { "send", 0, EAGAIN, false },
        { "sendmsg", -1, EINTR, true },    { "sendmsg", -1, EAGAIN, true },
        { "sendmsg", -1, EPIPE, false },   { "sendmsg", 1, 0, true },
        { "sendmsg", 7, 0, true },         { NULL, 0, 0, true },
    };
    for (int len = 0; len < 8; len += 7) {
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            pair_begin();
            odd.call = rows[i].call, odd.gives = rows[i].gives, odd.error = rows[i].error;
            bool sent = mr_wire_send(&near_end, MR_WIRE_LOG, "before", 6, -1);
            if (sent) sent = mr_wire_send(&near_end, MR_WIRE_FILE, "\1a name", (size_t)len, 2);
            if (sent != rows[i].sent) fprintf(stderr, "  row %zu, %d bytes\n", i, len);
            CHECK_INT(sent, rows[i].sent);
            CHECK(odd.call == NULL);
            odd.call = NULL;
            if (sent) {
                mr_frame f;
                mr_wire far_end;
                mr_wire_init(&far_end, far_fd);
                while (far_end.in.len < (size_t)(8 + 6 + 8 + len)) REQUIRE(mr_wire_fill(&far_end, true));
                CHECK_INT(mr_wire_next(&far_end, &f), 1);
                CHECK(f.type == MR_WIRE_LOG && f.len == 6 && memcmp(f.data, "before", 6) == 0);
                CHECK_INT(mr_wire_next(&far_end, &f), 1);
                CHECK(f.type == MR_WIRE_FILE && f.len == (size_t)len && memcmp(f.data, "\1a name", f.len) == 0);
                CHECK_INT(far_end.n_fds, 1);
                mr_wire_clear(&far_end);
            }
            pair_end();
        }
    }
}

TEST_MAIN({ "frames_cut_at_each_byte", frames_cut_at_each_byte }, { "lengths_at_their_limit", lengths_at_their_limit },
          { "descriptors_that_nobody_asked_for", descriptors_that_nobody_asked_for },
          { "reads_what_is_there", reads_what_is_there }, { "waits_and_signals", waits_and_signals },
          { "full_sockets", full_sockets }, { "files_into_a_full_socket", files_into_a_full_socket },
          { "odd_writes", odd_writes })
