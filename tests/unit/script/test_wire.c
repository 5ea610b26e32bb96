/* test_wire.c - a worker that has been taken over. The worker of this program reads the name of a plan from the file
 * "plan" and then says what the plan says, over the real socket; the pool must keep its temper: no crash, no hang, no
 * score that nobody computed, and the next honest worker serves as ever.
 *
 * The second half is the system-call filter, tried from inside. */
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "base/proc.h"
#include "script/sandbox.h"
#include "script/wire.h"
#include "unit/script/script_test.h"

/* --- the hostile worker --- */

static mr_wire wire;
static char plan[64];

static bool is(const char *name) {
    return strcmp(plan, name) == 0;
}

static void say(mr_wire_type type, const mr_str *s) {
    mr_wire_send(&wire, type, s->data, s->len, -1);
}

static mr_frame hear(void) {
    mr_frame f;
    for (;;) {
        int got = mr_wire_next(&wire, &f);
        if (got > 0) return f;
        if (got < 0 || !mr_wire_fill(&wire, true)) _exit(0);
    }
}

static void put_answer(mr_str *s, int64_t id, uint32_t n, uint32_t reward, unsigned kind, double value) {
    s->len = 0;
    mr_put_i64(s, id);
    mr_put_u32(s, n);
    mr_put_u32(s, is("member 3") ? 3 : is("all members") ? UINT32_MAX : 0);
    mr_put_u32(s, reward);
    mr_put_u8(s, is("all members") ? MR_FAULT : kind);
    mr_put_f64(s, value);
    mr_put_bytes(s, "", 0);
}

/* Plans whose reward has score_batch. */
static bool of_group(void) {
    return strncmp(plan, "group", 5) == 0;
}

/* The answer to a group of two, or what is said in its place. */
static void put_group(mr_str *s, int64_t id) {
    const int first = is("group swapped") ? 1 : is("group all twice") ? -1 : 0;
    const int second = is("group swapped") || is("group twice") ? 0 : is("group all twice") ? -1 : is("group of 3") ? 2 : 1;
    s->len = 0;
    mr_put_i64(s, id);
    mr_put_u32(s, 2);
    for (int i = 0; i < 2; i++) {
        mr_put_u32(s, (uint32_t)(i ? second : first));
        mr_put_u32(s, 0);
        mr_put_u8(s, is("group all twice") ? MR_FAULT : MR_SCORED);
        mr_put_f64(s, 1.0);
        mr_put_bytes(s, "", 0);
    }
    if (is("group of 1")) { /* its second value is missing */
        const uint32_t one = 1;
        memcpy(s->data + 8, &one, sizeof one);
        s->len = 12 + (s->len - 12) / 2;
    }
}

static void play_load(void) {
    mr_str s = { 0 };
    if (!is("no ready")) {
        mr_put_u8(&s, is("level 9") ? 9 : 3);
        mr_put_bytes(&s, "", 0);
        say(MR_WIRE_READY, &s);
        if (is("ready twice")) say(MR_WIRE_READY, &s);
    }
    while (hear().type != MR_WIRE_LOAD) {
    }
    s.len = 0;
    if (is("asks and does not read")) {
        for (int i = 0; i < 64; i++) {
            s.len = 0;
            mr_str_puts(&s, "rewards.big");
            say(MR_WIRE_NEED_TEXT, &s);
        }
        pause();
    }
    if (is("asks for files and does not read")) {
        for (int i = 0; i < 2000; i++) mr_wire_send(&wire, MR_WIRE_NEED_FILE, "rows.jsonl", 10, -1);
        pause();
    }
    if (is("asks for ever")) {
        for (;;) {
            mr_str_puts(&s, "x");
            mr_wire_send(&wire, MR_WIRE_NEED_TEXT, "nothing.of.that.name", 20, -1);
            hear();
        }
    }
    if (is("asks for a secret")) {
        mr_wire_send(&wire, MR_WIRE_NEED_TEXT, "/etc/passwd", 11, -1);
        mr_frame f = hear();
        bool no_text = f.type == MR_WIRE_TEXT && f.data[0] == 0;
        mr_wire_send(&wire, MR_WIRE_NEED_TEXT, "../../../../etc/hostname", 24, -1);
        f = hear();
        no_text = no_text && f.type == MR_WIRE_TEXT && f.data[0] == 0;
        mr_wire_send(&wire, MR_WIRE_NEED_FILE, "/etc/passwd", 11, -1);
        f = hear();
        bool no_file = f.type == MR_WIRE_FILE && f.data[0] == 0 && mr_wire_take_fd(&wire) < 0;
        if (!no_text || !no_file) _exit(0);
    }
    if (is("logs for ever")) {
        for (;;) mr_wire_send(&wire, MR_WIRE_LOG, "\3\0\0\0\1\0\0\0x", 9, -1);
    }
    if (is("silent error")) {
        mr_put_u32(&s, (uint32_t)MR_EINVAL);
        mr_put_bytes(&s, "", 0);
        say(MR_WIRE_ERROR, &s);
        pause();
    }
    mr_put_bytes(&s, is("no json") ? "{\"a\":" : "{\"rewards\":[\"fake\"]}", is("no json") ? 5 : 20);
    mr_put_u32(&s, is("many rewards") ? 4000000000u : 1);
    mr_put_bytes(&s, "fake", 4);
    mr_put_bytes(&s, "rewards/fake.lua", 16);
    mr_put_f64(&s, is("low is nan") ? (double)NAN : -1.0);
    mr_put_u8(&s, is("batch 7") ? 7 : of_group()); /* score, or score_batch */
    mr_put_u8(&s, is("on_fault 9") ? 9 : MR_FAULT_IS_MIN);
    mr_put_bytes(&s, "", 0);
    if (is("more than asked")) mr_put_u32(&s, 7);
    if (is("cut")) s.len -= 3;
    say(MR_WIRE_REPLY, &s);
    mr_str_clear(&s);
}

static void play_score(void) {
    mr_frame f = hear();
    if (f.type != MR_WIRE_SCORE) _exit(0);
    mr_take t = mr_take_frame(&f);
    uint32_t n = mr_take_u32(&t);
    int64_t id = mr_take_i64(&t);
    (void)n;
    mr_str s = { 0 };
    put_answer(&s, id, 1, 0, 0, 1.0);
    if (of_group()) put_group(&s, id);
    if (is("wrong id")) put_answer(&s, id + 1, 1, 0, 0, 1.0);
    if (is("negative id")) put_answer(&s, -1, 1, 0, 0, 1.0);
    if (is("too many")) put_answer(&s, id, 1000000, 0, 0, 1.0);
    if (is("none")) put_answer(&s, id, 0, 0, 0, 1.0);
    if (is("reward 200")) put_answer(&s, id, 1, 200, 0, 1.0);
    if (is("kind 9")) put_answer(&s, id, 1, 0, 9, 1.0);
    if (is("nan")) put_answer(&s, id, 1, 0, 0, (double)NAN);
    if (is("infinite")) put_answer(&s, id, 1, 0, 0, (double)-INFINITY);
    if (is("trailing bytes")) mr_put_u32(&s, 7);
    if (is("cut answer")) s.len -= 2;
    if (is("long string")) memset(s.data + s.len - 4, 0xff, 4);
    if (is("empty frame")) s.len = 0;
    if (is("huge frame")) {
        const uint32_t head[2] = { MR_WIRE_SCORED, 60 << 20 };
        (void)!write(3, head, sizeof head);
        for (;;) {
            if (send(3, s.data, s.len, MSG_NOSIGNAL) < 0) _exit(0);
        }
    }
    if (is("no type")) {
        (void)!write(3, "\0\0\0\0\0\0\0\0", 8);
        pause();
    }
    if (is("half a frame")) {
        const uint32_t head[2] = { MR_WIRE_SCORED, 37 };
        (void)!write(3, head, sizeof head);
        (void)!write(3, s.data, 10);
        pause();
    }
    if (is("an error")) {
        say(MR_WIRE_ERROR, &s);
        pause();
    }
    if (is("a command")) {
        say(MR_WIRE_START, &s);
        pause();
    }
    if (is("log flood")) {
        for (;;) {
            if (!mr_wire_send(&wire, MR_WIRE_LOG, "\3\0\0\0\1\0\0\0x", 9, -1)) _exit(0);
        }
    }
    if (is("big log")) {
        char *line = mr_alloc(100000);
        mr_wire_send(&wire, MR_WIRE_LOG, line, 100000, -1);
        pause();
    }
    if (is("denied without end")) {
        mr_wire_send(&wire, MR_WIRE_DENIED, "", 0, -1);
        pause();
    }
    if (is("another page")) pause(); /* blamed() is asked: the page below was filled with nonsense */
    if (is("byte by byte")) {
        uint32_t head[2] = { MR_WIRE_SCORED, (uint32_t)s.len };
        for (size_t i = 0; i < sizeof head; i++) (void)!write(3, (char *)head + i, 1);
        for (size_t i = 0; i < s.len; i++) (void)!write(3, s.data + i, 1);
    } else {
        say(MR_WIRE_SCORED, &s);
    }
    mr_str_clear(&s);
    if (!is("honest") && !is("byte by byte") && !is("group")) pause();
}

static int hostile_worker(void) {
    mr_proc_child_setup();
    int fd = open("plan", O_RDONLY);
    ssize_t n = fd >= 0 ? read(fd, plan, sizeof plan - 1) : -1;
    if (n < 0) return mr_worker_main();
    close(fd);
    plan[n] = 0;
    mr_wire_init(&wire, 3);
    while (hear().type != MR_WIRE_START) {
    }
    int page = mr_wire_take_fd(&wire);
    if (is("another page") && page >= 0) {
        mr_at *at = mmap(NULL, sizeof *at, PROT_READ | PROT_WRITE, MAP_SHARED, page, 0);
        if (at == MAP_FAILED || ftruncate(page, 0) == 0) _exit(0); /* it is sealed */
        at->id = -7;
        at->reward = 1000000;
    }
    play_load();
    for (;;) play_score();
}

/* --- what the pool makes of it --- */

static void set_plan(const char *name) {
    put_file("plan", name);
}

static mr_status open_hostile(mr_pool **p, mr_err *err) {
    put_file("rewards/fake.lua", "return { score = function() return 0.25 end }\n");
    put_recipe("fake.lua", "\"fake\"", "");
    mr_pool_opts o = { .n_workers = 1, .deadline_s = 0.1 };
    err->msg[0] = 0;
    return mr_pool_open(p, "fake.lua", &o, err);
}

static void lies_at_load_are_refused(void) {
    mr_str big = { 0 };
    mr_str_puts(&big, "-- ");
    for (int i = 0; i < 300000; i++) mr_str_puts(&big, "0123456789");
    put_file("rewards/big.lua", big.data);
    put_file("rows.jsonl", "{}\n");
    mr_str_clear(&big);
    static const char *const plans[][2] = {
        { "no ready", "the worker ended" },         { "ready twice", "the worker ended" },
        { "level 9", "the worker ended" },          { "no json", "fake.lua" },
        { "many rewards", "want at most 256" },     { "low is nan", "makes no sense" },
        { "more than asked", "was cut" },           { "cut", "was cut" },
        { "asks and does not read", "the worker" }, { "asks for ever", "the worker" },
        { "logs for ever", "the worker" },          { "batch 7", "makes no sense" },
        { "silent error", "did not say why" },      { "on_fault 9", "makes no sense" },
        { "asks for files and does not read", "the worker" },
    };
    for (size_t i = 0; i < sizeof plans / sizeof plans[0]; i++) {
        set_plan(plans[i][0]);
        mr_pool *p = NULL;
        mr_err err;
        double t = mr_now_s();
        mr_status st = open_hostile(&p, &err);
        if (st == MR_OK || !strstr(err.msg, plans[i][1])) fprintf(stderr, "  %s: %s\n", plans[i][0], err.msg);
        CHECK(st != MR_OK && p == NULL);
        CHECK_CONTAINS(err.msg, plans[i][1]);
        CHECK(strchr(err.msg, '\n') == NULL);
        CHECK(mr_now_s() - t < 5);
        mr_pool_close(p);
    }
}

static void lies_while_scoring_are_refused(void) {
    static const char *const plans[] = {
        "wrong id",    "negative id", "too many",   "none",         "member 3",           "all members",
        "reward 200",  "kind 9",      "nan",        "infinite",     "trailing bytes",     "cut answer",
        "long string", "empty frame", "huge frame", "no type",      "half a frame",       "an error",
        "a command",   "log flood",   "big log",    "another page", "denied without end",
    };
    size_t before = 0;
    for (size_t i = 0; i < sizeof plans / sizeof plans[0]; i++) {
        set_plan(plans[i]);
        mr_pool *p = NULL;
        mr_err err;
        REQUIRE_OK(open_hostile(&p, &err), err);
        const char *texts[] = { "a" };
        mr_score s = { 7, MR_SCORED };
        mr_fault f = { .text = "" };
        fflush(stderr);
        int saved = dup(2), sink = open("/dev/null", O_WRONLY);
        dup2(sink, 2); /* lines of the flood */
        int n = score_texts(p, texts, 1, "{}", &s, &f, 1);
        fflush(stderr);
        dup2(saved, 2);
        close(saved);
        close(sink);
        if (n != 1) fprintf(stderr, "  %s: %d faults, value %g\n", plans[i], n, s.value);
        CHECK_INT(n, 1);
        CHECK_INT(s.kind, MR_FAULT);
        CHECK_NEAR(s.value, -1, 0);
        CHECK_CONTAINS(f.text, "rewards/fake.lua: ");
        set_plan("honest"); /* those that start from here on are themselves again */
        int faults = score_texts(p, texts, 1, "{}", &s, &f, 1);
        CHECK_INT(faults, 0);
        CHECK_NEAR(s.value, 1, 0);
        mr_pool_close(p);
        if (i == 0) before = mr_rss_bytes();
    }
    CHECK(mr_rss_bytes() < before + (16u << 20)); /* a frame of 60 MiB was announced */
}

static int score_two(mr_pool *p, mr_score *scores, mr_fault *f) {
    const mr_scorer sc = mr_pool_scorer(p);
    mr_err err = { .msg = "" };
    int n_faults;
    for (int i = 0; i < 2; i++) {
        mr_score_job job = { .id = i, .text = "a", .len = 1, .row_json = "{}", .n_group = 2 };
        REQUIRE_OK(sc.submit(sc.self, &job, &err), err);
    }
    REQUIRE_OK(sc.collect(sc.self, scores, 2, f, 1, &n_faults, &err), err);
    return n_faults;
}

/* An answer about a group has each of its members once, in order, or is none. */
static void lies_about_a_group_are_refused(void) {
    static const char *const plans[] = { "group twice", "group swapped", "group all twice", "group of 1", "group of 3" };
    for (size_t i = 0; i < sizeof plans / sizeof plans[0]; i++) {
        set_plan(plans[i]);
        mr_pool *p = NULL;
        mr_err err;
        REQUIRE_OK(open_hostile(&p, &err), err);
        mr_score s[2];
        mr_fault f = { .text = "" };
        int n = score_two(p, s, &f);
        if (n != 2) fprintf(stderr, "  %s: %d faults, values %g and %g\n", plans[i], n, s[0].value, s[1].value);
        CHECK_INT(n, 2);
        CHECK(s[0].kind == MR_FAULT && s[1].kind == MR_FAULT);
        CHECK_NEAR(s[0].value + s[1].value, -2, 0);
        CHECK_CONTAINS(f.text, "(the 2 samples of a group, from sample 0 on)");
        set_plan("group");
        CHECK_INT(score_two(p, s, &f), 0);
        CHECK_NEAR(s[0].value + s[1].value, 2, 0);
        mr_pool_close(p);
    }
}

static void odd_but_honest(void) {
    static const char *const plans[] = { "byte by byte", "asks for a secret", "honest" };
    for (size_t i = 0; i < sizeof plans / sizeof plans[0]; i++) {
        set_plan(plans[i]);
        mr_pool *p = NULL;
        mr_err err;
        REQUIRE_OK(open_hostile(&p, &err), err);
        const char *texts[] = { "a" };
        mr_score s = { 7, MR_FAULT };
        set_plan("honest");
        CHECK_INT(score_texts(p, texts, 1, "{}", &s, NULL, 0), 0);
        CHECK_NEAR(s.value, 1, 0);
        mr_pool_close(p);
    }
}

/* --- the filter, from inside --- */

typedef struct probe {
    const char *name;
    long (*call)(int socket_fd, int other_fd);
    int nr; /* the call that must be named; -1: the process ends without a word; -2: allowed, gives 0 */
} probe;

static long do_openat(int s, int o) {
    (void)s, (void)o;
    return open("/etc/passwd", O_RDONLY);
}
static long do_socket(int s, int o) {
    (void)s, (void)o;
    return socket(AF_INET, SOCK_STREAM, 0);
}
static long do_socketpair(int s, int o) {
    (void)s, (void)o;
    int pair[2];
    return socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
}
static long do_clone(int s, int o) {
    (void)s, (void)o;
    return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}
static long do_execve(int s, int o) {
    (void)s, (void)o;
    char *none[] = { NULL };
    return syscall(SYS_execve, "/bin/true", none, none); /* gcov puts a function of its own before execve, which opens files */
}
static long do_kill(int s, int o) {
    (void)s, (void)o;
    return kill(1, 0);
}
static long do_tgkill(int s, int o) {
    (void)s, (void)o;
    return syscall(SYS_tgkill, 1, 1, SIGABRT);
}
static long do_tgkill_other(int s, int o) {
    (void)s, (void)o;
    return syscall(SYS_tgkill, getpid(), (pid_t)syscall(SYS_gettid), SIGSTOP);
}
static long do_prctl(int s, int o) {
    (void)s, (void)o;
    return prctl(PR_SET_DUMPABLE, 1);
}
static long do_setrlimit(int s, int o) {
    (void)s, (void)o;
    return setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 16, 16 });
}
static long do_ptrace(int s, int o) {
    (void)s, (void)o;
    return syscall(SYS_ptrace, 0, 0, 0, 0);
}
static long do_ioctl(int s, int o) {
    (void)s, (void)o;
    return syscall(SYS_ioctl, 2, 0x5412, "x"); /* TIOCSTI */
}
static long do_write_other(int s, int o) {
    (void)s;
    return write(o, "x", 1);
}
static long do_write_socket(int s, int o) {
    (void)o;
    return write(s, "x", 1);
}
static long do_send_other(int s, int o) {
    (void)s;
    return send(o, "x", 1, MSG_NOSIGNAL);
}
static long do_sendmsg(int s, int o) {
    (void)o;
    char x[] = "x";
    struct iovec iov = { x, 1 };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
    return sendmsg(s, &m, MSG_NOSIGNAL);
}
static long do_ftruncate(int s, int o) {
    (void)s;
    return ftruncate(o, 0);
}
static long do_stat(int s, int o) {
    (void)s, (void)o;
    return syscall(SYS_newfstatat, AT_FDCWD, "/etc", NULL, 0);
}
static long do_io_uring(int s, int o) {
    (void)s, (void)o;
    return syscall(425, 8, NULL);
}
static long do_signal(int s, int o) {
    (void)s, (void)o;
    return signal(SIGSYS, SIG_IGN) == SIG_ERR;
}
#if defined(__x86_64__)
static long do_x32(int s, int o) {
    (void)s, (void)o;
    return syscall(0x40000000 + 39);
}
static long do_i386(int s, int o) {
    (void)s, (void)o;
    long got;
    __asm__ volatile("int $0x80" : "=a"(got) : "a"(20L) : "memory");
    return got;
}
#endif
static long may_send(int s, int o) {
    (void)o;
    return send(s, "", 0, MSG_NOSIGNAL) != 0;
}
static long may_map(int s, int o) {
    (void)s, (void)o;
    void *p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return 1;
    if (mprotect(p, 65536, PROT_READ | PROT_EXEC) != 0) return 2;
    p = mremap(p, 65536, 131072, MREMAP_MAYMOVE);
    return p == MAP_FAILED || madvise(p, 65536, MADV_DONTNEED) != 0 || munmap(p, 131072) != 0;
}
static long may_read(int s, int o) {
    (void)s;
    struct stat st;
    char buf[8];
    if (fstat(o, &st) != 0 || st.st_size != 4 || read(o, buf, 4) != 4 || memcmp(buf, "data", 4) != 0) return 1;
    void *p = mmap(NULL, 4, PROT_READ, MAP_PRIVATE, o, 0);
    return p == MAP_FAILED || memcmp(p, "data", 4) != 0 || lseek(o, 0, SEEK_SET) != 0 || close(o) != 0;
}
static long may_look_at_clocks(int s, int o) {
    (void)s, (void)o;
    struct timespec t;
    return syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t) != 0 || poll(NULL, 0, 1) != 0;
}
static long may_not_grow_memory(int s, int o) {
    (void)s, (void)o;
    return mmap(NULL, (size_t)1 << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED;
}

/* In a child: into the sandbox, the call, out with its result. Gives the wait status; *denied what was reported. */
static int run_probe(long (*call)(int, int), bool no_exec, int64_t *denied, int *level) {
    int pair[2], data = open("data.bin", O_RDWR);
    REQUIRE(data >= 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        mr_sandbox box;
        mr_sandbox_opts o = { .socket_fd = pair[1], .memory_bytes = (size_t)64 << 20, .no_exec = no_exec };
        mr_sandbox_enter(&box, &o);
        send(pair[1], &box.level, sizeof box.level, MSG_NOSIGNAL);
        long got = box.level < 2 ? 0 : call(pair[1], data);
        _exit(got == 0 ? 0 : 1);
    }
    close(pair[1]);
    close(data);
    int status = 0;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    uint32_t frame[3];
    *denied = -1;
    *level = 0;
    REQUIRE(recv(pair[0], level, sizeof *level, 0) == (ssize_t)sizeof *level);
    if (recv(pair[0], frame, sizeof frame, 0) == (ssize_t)sizeof frame && frame[0] == MR_WIRE_DENIED && frame[1] == 4)
        *denied = frame[2];
    close(pair[0]);
    return status;
}

static void forbidden_calls_end_the_process(void) {
    static const probe probes[] = {
        { "open", do_openat, SYS_openat },
        { "socket", do_socket, SYS_socket },
        { "socketpair", do_socketpair, SYS_socketpair },
        { "clone", do_clone, SYS_clone },
        { "execve", do_execve, SYS_execve },
        { "kill", do_kill, SYS_kill },
        { "tgkill of another", do_tgkill, SYS_tgkill },
        { "tgkill with SIGSTOP", do_tgkill_other, SYS_tgkill },
        { "prctl", do_prctl, SYS_prctl },
        { "setrlimit", do_setrlimit, SYS_prlimit64 },
        { "ptrace", do_ptrace, SYS_ptrace },
        { "ioctl", do_ioctl, SYS_ioctl },
        { "write to a file", do_write_other, SYS_write },
        { "write to the socket", do_write_socket, SYS_write },
        { "send elsewhere", do_send_other, SYS_sendto },
        { "sendmsg (descriptors)", do_sendmsg, SYS_sendmsg },
        { "ftruncate", do_ftruncate, SYS_ftruncate },
        { "stat of a path", do_stat, SYS_newfstatat },
        { "io_uring_setup", do_io_uring, 425 },
        { "sigaction", do_signal, SYS_rt_sigaction },
#if defined(__x86_64__)
        { "x32", do_x32, -1 },
        { "int 0x80", do_i386, -1 },
#endif
        { "send", may_send, -2 },
        { "memory", may_map, -2 },
        { "a data file", may_read, -2 },
        { "clocks", may_look_at_clocks, -2 },
        { "a gigabyte", may_not_grow_memory, -2 },
    };
    put_file("data.bin", "data");
    for (size_t i = 0; i < sizeof probes / sizeof probes[0]; i++) {
        int64_t denied;
        int level, status = run_probe(probes[i].call, false, &denied, &level);
        if (level < 2) {
            fprintf(stderr, "no seccomp here (level %d): the filter is not tested\n", level);
            return;
        }
        bool allowed = probes[i].nr == -2;
        bool right = allowed ? WIFEXITED(status) && WEXITSTATUS(status) == 0 && denied == -1
                             : WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS && denied == probes[i].nr;
        if (!right) fprintf(stderr, "  %s: status %x, denied %lld\n", probes[i].name, status, (long long)denied);
        CHECK(right);
    }
}

static long exec_is_refused(int s, int o) {
    (void)s, (void)o;
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool mapped = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED;
    return p == MAP_FAILED || mapped || mprotect(p, 4096, PROT_READ | PROT_EXEC) == 0 ||
           mprotect(p, 4096, PROT_READ) != 0;
}

static long do_abort(int s, int o) {
    (void)s, (void)o;
    abort();
}

static void last_words(void) {
    int64_t denied;
    int level, status = run_probe(exec_is_refused, true, &denied, &level);
    if (level < 2) return;
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    status = run_probe(do_abort, false, &denied, &level);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK_INT(denied, -1);
}

static void the_required_level_is_kept(void) {
    unlink("plan");
    put_recipe("fake.lua", "\"fake\"", "");
    put_file("rewards/fake.lua", "return { score = function() return 0.25 end }\n");
    int level;
    char missing[128];
    mr_err err = { .msg = "" };
    REQUIRE_OK(mr_script_sandbox(&level, missing, sizeof missing, &err), err);
    mr_pool *p;
    mr_pool_opts o = { .n_workers = 1, .require_sandbox = level };
    REQUIRE_OK(mr_pool_open(&p, "fake.lua", &o, &err), err);
    CHECK_INT(mr_pool_sandbox(p, NULL), level);
    mr_pool_close(p);
    o.require_sandbox = level + 1;
    CHECK_INT(mr_pool_open(&p, "fake.lua", &o, &err), MR_EREFUSED);
    CHECK_CONTAINS(err.msg, "is reached here");
    CHECK_INT(mr_exit_code(MR_EREFUSED), 77);
}

static int tests(int argc, char **argv);
#define main tests
SCRIPT_TEST_MAIN({ "lies_at_load_are_refused", lies_at_load_are_refused },
                 { "lies_while_scoring_are_refused", lies_while_scoring_are_refused },
                 { "lies_about_a_group_are_refused", lies_about_a_group_are_refused },
                 { "odd_but_honest", odd_but_honest },
                 { "forbidden_calls_end_the_process", forbidden_calls_end_the_process }, { "last_words", last_words },
                 { "the_required_level_is_kept", the_required_level_is_kept })
#undef main

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--worker") == 0) return hostile_worker();
    return tests(argc, argv);
}
