/* test_escape.c - the attempts of tests/lua/escape: each file in a worker of its own, with the compiler and without it.
 *
 * A file returns its attempts, one function each; "-- expect N: KIND TEXT" in its head says how number N ends:
 *   N, V   a fault with TEXT (a name that is not there; a value or an argument that is refused)
 *   A      "not enough memory"        T     the deadline: killed and replaced
 *   OK0    returns 1: harmless        ZERO  returns 0        NONE  abstains
 * Kinds with a comma between them are both right. "-- special: NAME" adds what a script cannot do by itself.
 *
 * After each attempt: the other reward of the same sample is right, a normal call afterwards is right, the time is below
 * its limit, the worker holds no descriptor, thread or child that it was not given, nothing lies in the folder
 * that was not there, and this process (the trainer's part) has not grown. */
#include <dirent.h>
#include <malloc.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "base/proc.h"
#include "unit/script/script_test.h"

#define ESCAPE MR_ROOT "/tests/lua/escape"
/* The limit of reliability.md is 2 x 200 ms. A call that is found out at once takes one deadline; where the machine is
 * busy and the worker hardly ran, it takes a second one, and a new worker each time. */
static const double deadline_s = 0.15, limit_s = 0.4;
#if defined(__SANITIZE_ADDRESS__)
static const double compile_s = 1.0;
#else
static const double compile_s = 0.1; /* for a source that is a bomb, workers started and all */
#endif
enum { MEMORY = 6 << 20, MAX_ATTEMPTS = 16 };

typedef struct expectation {
    char kinds[16], text[160];
} expectation;

typedef struct escape {
    char name[64], special[32];
    expectation want[MAX_ATTEMPTS];
    int n;
} escape;

static escape escapes[80];
static int n_escapes;
static bool no_jit;
static double slowest;

/* --- the files --- */

static void read_head(escape *e, const char *text) {
    for (const char *line = text; line && line[0] == '-'; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
        int number, at = 0;
        expectation x = { .text = "" };
        if (sscanf(line, "-- special: %31s", e->special) == 1) continue;
        if (sscanf(line, "-- expect %d: %15s %n", &number, x.kinds, &at) < 2) continue;
        size_t len = strcspn(line + at, "\n");
        snprintf(x.text, sizeof x.text, "%.*s", (int)(strchr(line, '\n') < line + at ? 0 : len), line + at);
        REQUIRE(number == e->n + 1 && number <= MAX_ATTEMPTS);
        e->want[e->n++] = x;
    }
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const escape *)a)->name, ((const escape *)b)->name);
}

static void find_files(void) {
    if (n_escapes) return;
    DIR *d = opendir(ESCAPE);
    REQUIRE(d != NULL);
    for (struct dirent *f; (f = readdir(d));) {
        if (f->d_name[0] == '.') continue;
        escape *e = &escapes[n_escapes++];
        snprintf(e->name, sizeof e->name, "%.*s", (int)strcspn(f->d_name, "."), f->d_name);
        char *path = mr_path_join(ESCAPE, f->d_name), *text;
        size_t len;
        mr_err err;
        REQUIRE_OK(mr_file_read(&text, &len, path, 1 << 20, &err), err);
        read_head(e, text);
        char copy[280];
        snprintf(copy, sizeof copy, "escape/%s", f->d_name);
        put_file(copy, text);
        mr_free(text);
        mr_free(path);
    }
    closedir(d);
    qsort(escapes, (size_t)n_escapes, sizeof *escapes, by_name);
}

/* --- a pool for one file --- */

static mr_status try_open(mr_pool **p, const char *recipe, mr_err *err) {
    mr_pool_opts o = { .n_workers = 1, .deadline_s = deadline_s, .memory_bytes = MEMORY, .no_jit = no_jit };
    return mr_pool_open(p, recipe, &o, err);
}

static mr_pool *open_escape(const char *name) {
    char *text = mr_asprintf("local try = require 'escape.%s'\n"
                             "return { score = function(c, row, info)\n"
                             "  if c == 'next' then return try.next and try.next() or 1 end\n"
                             "  if try.score then return try.score(c) end\n"
                             "  return try[tonumber(c)](c, row, info)\nend }\n",
                             name);
    put_file("rewards/attempt.lua", text);
    mr_free(text);
    mr_pool *p;
    mr_err err = { .msg = "" };
    REQUIRE_OK(try_open(&p, "escape.lua", &err), err);
    return p;
}

typedef struct outcome {
    mr_score scores[2]; /* attempt, plain */
    char fault[600];
    double took_s;
} outcome;

static outcome score_one(mr_pool *p, const char *text, size_t len) {
    outcome o = { .fault = "" };
    mr_scorer s = mr_pool_scorer(p);
    mr_err err = { .msg = "" };
    mr_fault f = { .text = "" };
    int n_faults = 0;
    double t = mr_now_s();
    mr_score_job job = { .id = 0, .text = text, .len = len, .row_json = "{\"answer\":\"gold\"}", .step = 1 };
    REQUIRE_OK(s.submit(s.self, &job, &err), err);
    REQUIRE_OK(s.collect(s.self, o.scores, 1, &f, 1, &n_faults, &err), err);
    o.took_s = mr_now_s() - t;
    snprintf(o.fault, sizeof o.fault, "%s", f.text);
    return o;
}

static bool ends_as(const outcome *o, const char *kind, const char *text) {
    const mr_score *s = &o->scores[0];
    if (strcmp(kind, "OK0") == 0) return s->kind == MR_SCORED && s->value == 1;
    if (strcmp(kind, "ZERO") == 0) return s->kind == MR_SCORED && s->value == 0;
    if (strcmp(kind, "NONE") == 0) return s->kind == MR_ABSTAINED;
    if (s->kind != MR_FAULT) return false;
    if (strcmp(kind, "T") == 0) return strstr(o->fault, "no answer within") != NULL;
    bool in_time = !strstr(o->fault, "no answer within"), memory = strstr(o->fault, "not enough memory") != NULL;
    if (strcmp(kind, "A") == 0) return memory;
    return in_time && !memory && !strstr(o->fault, "the worker ended") && strstr(o->fault, text) != NULL;
}

static bool as_expected(const outcome *o, const expectation *x) {
    char kinds[16];
    snprintf(kinds, sizeof kinds, "%s", x->kinds);
    for (char *rest, *kind = strtok_r(kinds, ",", &rest); kind; kind = strtok_r(NULL, ",", &rest)) {
        if (ends_as(o, kind, x->text)) return true;
    }
    return false;
}

/* --- what a worker holds --- */

static int children(pid_t parent, pid_t *out, int max) {
    char path[64], line[1024] = "";
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", parent, parent);
    FILE *list = fopen(path, "re");
    if (!list) return 0;
    int n = 0;
    if (fgets(line, sizeof line, list)) {
        for (char *at = line, *end; n < max && strtol(at, &end, 10) > 0 && end != at; at = end)
            out[n++] = (pid_t)strtol(at, NULL, 10);
    }
    fclose(list);
    return n;
}

static int entries(const char *fmt, pid_t pid) {
    char path[64];
    snprintf(path, sizeof path, fmt, pid);
    DIR *d = opendir(path);
    if (!d) return -1;
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static long status_field(pid_t pid, const char *name) {
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *f = fopen(path, "re");
    long value = -1;
    while (f && value < 0 && fgets(line, sizeof line, f)) {
        if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':')
            value = strtol(line + strlen(name) + 1, NULL, 10);
    }
    if (f) fclose(f);
    return value;
}

static void workers_hold_nothing(void) {
    pid_t pids[8], below[8];
    int n = children(getpid(), pids, 8);
    CHECK_INT(n, 2); /* one that scores, one that holds the data */
    for (int i = 0; i < n; i++) {
        CHECK_INT(entries("/proc/%d/fd", pids[i]), 4); /* 0 to 3 */
        CHECK_INT(entries("/proc/%d/task", pids[i]), 1);
        CHECK_INT(children(pids[i], below, 8), 0);
    }
}

/* --- running one --- */

static void run_attempt(mr_pool *p, const escape *e, int i) {
    char number[16];
    snprintf(number, sizeof number, "%d", i + 1);
    const expectation *x = &e->want[i];
    outcome o = { .fault = "" };
    bool right = false;
    for (int try = 0; try < 4 && !right; try++) { /* again where the machine was too busy to tell */
        o = score_one(p, number, strlen(number));
        CHECK_INT(o.scores[1].kind, MR_SCORED);
        CHECK_NEAR(o.scores[1].value, (double)strlen(number), 0);
        right = as_expected(&o, x) && o.took_s <= limit_s;
        if (right && o.took_s > slowest) slowest = o.took_s;
        bool slow = strstr(o.fault, "no answer within") || o.took_s > limit_s;
        if (!right && !slow) break;
    }
    if (!right)
        fprintf(stderr, "  %s %d%s: wanted %s %s, got kind %d value %g \"%s\" after %.3f s\n", e->name, i + 1,
                no_jit ? " without JIT" : "", x->kinds, x->text, o.scores[0].kind, o.scores[0].value, o.fault,
                o.took_s);
    CHECK(right);
    o = score_one(p, "next", 4);
    if (!(o.scores[0].value == 1)) fprintf(stderr, "  %s %d, next: %s\n", e->name, i + 1, o.fault);
    CHECK_NEAR(o.scores[0].value, 1, 0);
    CHECK_NEAR(o.scores[1].value, 4, 0);
}

static void bytecode(void) {
    put_file("rewards/code.lua", "\x1bLJ\x02\x0a");
    put_recipe("code.lua", "\"code\"", "");
    mr_pool *p = NULL;
    mr_err err = { .msg = "" };
    CHECK(try_open(&p, "code.lua", &err) == MR_EINVAL);
    CHECK_CONTAINS(err.msg, "rewards/code.lua: byte 0: this is bytecode, want Lua source text");
}

static void put_many(const char *path, const char *head, const char *part, int n) {
    mr_str s = { 0 };
    mr_str_puts(&s, head);
    for (int i = 0; i < n; i++) mr_str_puts(&s, part);
    put_file(path, s.data);
    mr_str_clear(&s);
}

static void sources(void) {
    static const struct {
        const char *head, *part;
        int n;
        const char *want;
    } bombs[] = {
        { "return ", "(", 1000000, "chunk has too many syntax levels" },
        { "return ", "{", 100000, "chunk has too many syntax levels" },
        { "-- ", "xxxxxxxxxx", 1000000, "rewards/bomb.lua: is larger than 4194304 bytes" },
        { "", "local a\n", 70000, "more than 200 local variables" },
        { "return ", "- ", 1000000, "chunk has too many syntax levels" },
    };
    put_recipe("bomb.lua", "\"bomb\"", "");
    for (size_t i = 0; i < sizeof bombs / sizeof bombs[0]; i++) {
        put_many("rewards/bomb.lua", bombs[i].head, bombs[i].part, bombs[i].n);
        double took = 1e9;
        for (int try = 0; try < 6 && took > compile_s; try++) {
            mr_pool *p = NULL;
            mr_err err = { .msg = "" };
            double t = mr_now_s();
            CHECK(try_open(&p, "bomb.lua", &err) != MR_OK);
            took = mr_now_s() - t;
            CHECK_CONTAINS(err.msg, "rewards/bomb.lua");
            CHECK_CONTAINS(err.msg, bombs[i].want);
            CHECK(strchr(err.msg, '\n') == NULL);
        }
        CHECK(took <= compile_s);
    }
}

static void completions(mr_pool *p) {
    size_t big = (size_t)1 << 20;
    char *huge = mr_alloc(big + 1);
    memset(huge, 'z', big);
    const struct {
        const char *text;
        size_t len;
        double want;
    } list[] = {
        { "\0a\0", 3, 3.0 },          { "\xff\xfe", 2, 2.255 },
        { "\xe2\x80\xae", 3, 3.226 }, { "os.execute('id')", 16, 16.111 },
        { "return", 6, 6.114 },       { huge, big, (double)big + 0.122 },
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        outcome o = score_one(p, list[i].text, list[i].len);
        CHECK_NEAR(o.scores[0].value, list[i].want, 1e-9);
        CHECK_NEAR(o.scores[1].value, (double)list[i].len, 0);
    }
    mr_free(huge);
}

/* The worker that scores is stopped, as if it had done so itself: killed at the limit, and the sample is innocent. */
static void stopped(mr_pool *p) {
    pid_t workers[8];
    outcome o = { .took_s = 1e9 };
    for (int try = 0; try < 4 && o.took_s > limit_s; try++) {
        REQUIRE(children(getpid(), workers, 8) == 2);
        kill(workers[1], SIGSTOP); /* the one that scores: it was replaced after the attempt, so it is the youngest */
        o = score_one(p, "next", 4);
        CHECK_NEAR(o.scores[0].value, 1, 0);
        CHECK(o.took_s >= deadline_s);
        CHECK(kill(workers[1], 0) != 0); /* gone */
    }
    CHECK(o.took_s <= limit_s);
    /* An idle worker that is stopped and goes on is as before: poll is restarted by a call that the filter must know. */
    REQUIRE(children(getpid(), workers, 8) == 2);
    for (int i = 0; i < 2; i++) kill(workers[i], SIGSTOP);
    nanosleep(&(struct timespec){ 0, 20000000 }, NULL);
    for (int i = 0; i < 2; i++) kill(workers[i], SIGCONT);
    nanosleep(&(struct timespec){ 0, 20000000 }, NULL);
    o = score_one(p, "next", 4);
    CHECK_NEAR(o.scores[0].value, 1, 0);
    CHECK(o.took_s < deadline_s);
    CHECK(kill(workers[1], 0) == 0);
}

/* `test_escape --trainer`: hangs in the reward of file 66 until somebody ends it. */
static int play_trainer(const char *jit) {
    no_jit = jit[0] == 'n';
    mr_pool_opts o = { .n_workers = 2, .deadline_s = 60, .no_jit = no_jit };
    mr_pool *p;
    mr_err err;
    if (mr_pool_open(&p, "escape.lua", &o, &err) != MR_OK) return 1;
    outcome never = score_one(p, "1", 1);
    return never.fault[0] ? 2 : 3;
}

static void orphans(void) {
    pid_t trainer = fork();
    if (trainer == 0) {
        execl("/proc/self/exe", "test_escape", "--trainer", no_jit ? "no" : "yes", (char *)NULL);
        _exit(99);
    }
    pid_t workers[8];
    int n = 0;
    for (int i = 0; i < 500 && n < 3; i++) {
        nanosleep(&(struct timespec){ 0, 10000000 }, NULL);
        n = children(trainer, workers, 8);
    }
    CHECK_INT(n, 3);
    bool computes = false; /* one of them is in the loop */
    for (int i = 0; i < 500 && !computes; i++) {
        nanosleep(&(struct timespec){ 0, 10000000 }, NULL);
        for (int k = 0; k < n; k++) computes = computes || mr_proc_cpu_s(&(mr_proc){ workers[k], -1 }) > 0.05;
    }
    CHECK(computes);
    kill(trainer, SIGKILL);
    waitpid(trainer, NULL, 0);
    int left = n;
    for (int i = 0; i < 100 && left > 0; i++) {
        left = 0;
        for (int k = 0; k < n; k++) {
            long ppid = status_field(workers[k], "PPid"); /* a zombie that nobody has reaped yet counts as gone */
            left += ppid >= 0 && status_field(workers[k], "VmSize") >= 0;
        }
        if (left) nanosleep(&(struct timespec){ 0, 10000000 }, NULL);
    }
    CHECK_INT(left, 0);
}

static void locked(mr_pool *p) {
    const char *missing;
    int level = mr_pool_sandbox(p, &missing);
    CHECK(level >= 1 && level <= 3 && (level == 3) == (missing[0] == 0));
    pid_t workers[8];
    int n = children(getpid(), workers, 8);
    for (int i = 0; i < n && level >= 2; i++) {
        CHECK_INT(status_field(workers[i], "Seccomp"), 2);
        CHECK_INT(status_field(workers[i], "NoNewPrivs"), 1);
    }
}

static size_t log_bytes(mr_pool *p, const escape *e) {
    fflush(stderr);
    int saved = dup(2);
    FILE *sink = fopen("flood.txt", "we");
    dup2(fileno(sink), 2);
    for (int i = 0; i < e->n; i++) run_attempt(p, e, i);
    fflush(stderr);
    dup2(saved, 2);
    close(saved);
    fclose(sink);
    struct stat s;
    size_t n = stat("flood.txt", &s) == 0 ? (size_t)s.st_size : 0;
    unlink("flood.txt");
    return n;
}

static void run_escape(const escape *e) {
    const char *how = e->special;
    if (strcmp(how, "bytecode") == 0) bytecode();
    if (strcmp(how, "sources") == 0) sources();
    mr_pool *p = open_escape(e->name);
    int files = entries(".", 0);
    if (strcmp(how, "log") == 0) {
        size_t n = log_bytes(p, e);
        CHECK(n > 1000 && n < 8 * 41 * 4300); /* 40 lines of at most 4 KiB for each call, retries counted in */
    } else {
        for (int i = 0; i < e->n; i++) run_attempt(p, e, i);
    }
    if (strcmp(how, "completions") == 0) completions(p);
    if (strcmp(how, "stopped") == 0) stopped(p);
    if (strcmp(how, "locked") == 0) locked(p);
    if (strcmp(how, "orphans") == 0) orphans();
    outcome o = score_one(p, "next", 4);
    if (strcmp(how, "completions") != 0) CHECK_NEAR(o.scores[0].value, 1, 0);
    workers_hold_nothing();
    CHECK_INT(entries(".", 0), files);
    mr_pool_close(p);
}

static void run_all(bool without_jit) {
    find_files();
    CHECK_INT(n_escapes, 66);
    no_jit = without_jit;
    put_file("rewards/plain.lua", "return { score = function(c) return #c end }\n");
    put_recipe("escape.lua", "{ \"attempt\" }, \"plain\"", "");
    run_escape(&escapes[0]); /* buffers and the arena reach their size */
    static const char large[(64 << 10) + 1];
    char hex[65];
    mr_sha256(hex, large, sizeof large); /* and libcrypto is opened, which large texts are hashed with: 4 MB, once */
    int fds = entries("/proc/self/fd", 0);
    malloc_trim(0); /* what malloc keeps for the next call is no growth: 1 MiB texts leave their mark there */
    size_t before = mr_rss_bytes();
    double start = mr_now_s();
    for (int i = 0; i < n_escapes; i++) {
        CHECK_INT(atoi(escapes[i].name), i + 1);
        run_escape(&escapes[i]);
    }
    malloc_trim(0);
    size_t after = mr_rss_bytes();
    fprintf(stderr, "%d files%s in %.1f s, the slowest attempt took %.3f s, the trainer grew by %ld KiB\n", n_escapes,
            no_jit ? " without JIT" : "", mr_now_s() - start, slowest, ((long)after - (long)before) / 1024);
#if !defined(__SANITIZE_ADDRESS__) /* which keeps freed memory for a while, to see whether it is used */
    CHECK(after < before + (1u << 20));
#endif
    CHECK_INT(entries("/proc/self/fd", 0), fds);
    pid_t left[8];
    CHECK_INT(children(getpid(), left, 8), 0);
}

static void attempts_with_jit(void) {
    run_all(false);
}
static void attempts_without_jit(void) {
    run_all(true);
    printf("score: escapes_contained %d 66\n", n_escapes); /* each test ends at the first that gets out */
}

static int tests(int argc, char **argv);
#define main tests
SCRIPT_TEST_MAIN({ "attempts_with_jit", attempts_with_jit }, { "attempts_without_jit", attempts_without_jit })
#undef main

int main(int argc, char **argv) {
    if (argc > 2 && strcmp(argv[1], "--trainer") == 0) return play_trainer(argv[2]);
    return tests(argc, argv);
}
