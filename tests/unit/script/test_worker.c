/* test_worker.c - a reward can do anything and costs its sample only: errors, wrong values, memory, endless loops,
 * crashes; reload of good and broken files between steps. Each scorer below is followed by a proof that the others went
 * on. */
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/proc.h"
#include "script/wire.h"
#include "unit/script/script_test.h"

static const char row[] = "{\"answer\":\"x\",\"db_set\":\"gsm8k\"}";

/* One file rewards/odd.lua whose score() does what its completion says; range -1..2. */
static const char odd[] =
    "local M = { name = 'odd', range = { -1.0, 2.0 } }\n"
    "local function deep(n) return 1 + deep(n + 1) end\n"
    "local how = {\n"
    "  throw = function(_, row) return row.nothing.there end,\n" /* line 4 */
    "  throw_table = function() error({ 1, 2 }) end,\n"
    "  throw_tricky = function() error(setmetatable({}, { __tostring = function() while true do end end })) end,\n"
    "  nan = function() return 0 / 0 end,\n"
    "  inf = function() return math.huge end,\n"
    "  text = function() return 'good' end,\n"
    "  yes = function() return true end,\n"
    "  tab = function() return setmetatable({}, { __index = function() error('x') end }) end,\n"
    "  high = function() return 2.5 end, low = function() return -1.5 end,\n"
    "  abstain = function() return nil end,\n"
    "  one = function() return 1 end,\n"
    "  loop = function() while true do end end,\n"
    "  loop_pcall = function() while true do pcall(function() while true do end end) end end,\n"
    "  find = function() return (('a'):rep(1e6)):find('.-.-.-b') and 1 or 0 end,\n"
    "  bomb = function() local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end end,\n"
    "  bomb_pcall = function() for _ = 1, 3 do pcall(function() local s = 'x' while true do s = s .. s end end) end "
    "return 1 end,\n"
    "  rep = function() return #('x'):rep(1e9) end,\n"
    "  stack = function() return deep(1) end,\n"
    "  log = function() for i = 1, 1000 do print('line', i, ('y'):rep(100)) end return 1 end,\n"
    "  need = function() return require('rewards.late').value end,\n"
    "  global = function() counter = (counter or 0) + 1 return 1 end,\n"
    "}\n"
    "function M.score(completion, row, info) return how[completion](completion, row, info) end\n"
    "return M\n";

static void put_odd(void) {
    put_file("rewards/odd.lua", odd);
    put_file("rewards/len.lua", "return { name = 'len', score = function(c) return #c end }\n");
    put_recipe("odd.lua", "\"len\", \"odd\"", "");
}

static void wrong_values_cost_their_sample(void) {
    put_odd();
    mr_pool *p = open_pool("odd.lua", 2, 5);
    const char *texts[] = { "one",  "throw",   "nan",         "inf",          "text",  "yes", "tab",
                            "high", "abstain", "throw_table", "throw_tricky", "stack", "one", "low" };
    enum { n = sizeof texts / sizeof texts[0] };
    mr_score s[n * 2];
    mr_fault f[16];
    CHECK_INT(score_texts(p, texts, n, row, s, f, 16), 11);
    for (int i = 0; i < n; i++) { /* the other reward is there for every sample */
        CHECK_INT(s[2 * i].kind, MR_SCORED);
        CHECK_NEAR(s[2 * i].value, strlen(texts[i]), 0);
        bool fine = strcmp(texts[i], "one") == 0, none = strcmp(texts[i], "abstain") == 0;
        CHECK_INT(s[2 * i + 1].kind, fine ? MR_SCORED : none ? MR_ABSTAINED : MR_FAULT);
        CHECK_NEAR(s[2 * i + 1].value, fine ? 1 : none ? 0 : -1, 0); /* a fault gets the lowest value of the range */
    }
    CHECK_INT(f[0].id, 1);
    CHECK_INT(f[0].reward, 1);
    CHECK_CONTAINS(f[0].text, "rewards/odd.lua:4: attempt to index field 'nothing' (a nil value) (sample 1)");
    CHECK_CONTAINS(f[1].text, "rewards/odd.lua:26: score() returned NaN, want a finite number (sample 2)");
    CHECK_CONTAINS(f[2].text, "infinite");
    CHECK_CONTAINS(f[3].text, "returned a string, want a number or nil");
    CHECK_CONTAINS(f[4].text, "returned a boolean");
    CHECK_CONTAINS(f[5].text, "returned a table");
    CHECK_CONTAINS(f[6].text, "returned 2.5, outside its range -1 to 2");
    CHECK_CONTAINS(f[7].text, "the error object is a table");
    CHECK_CONTAINS(f[8].text, "the error object is a table"); /* its __tostring, which never ends, is not called */
    CHECK_CONTAINS(f[9].text, "stack overflow");
    CHECK_CONTAINS(f[10].text, "returned -1.5, outside its range -1 to 2");
    mr_pool_close(p);
}

static void endless_scores_are_killed_and_found(void) {
    put_odd();
    mr_pool *p = open_pool("odd.lua", 2, 0.2);
    const char *texts[] = { "one", "one", "loop", "one", "loop_pcall", "one", "one", "one", "find" };
    mr_score s[18];
    mr_fault f[4];
    double start = mr_now_s();
    CHECK_INT(score_texts(p, texts, 9, row, s, f, 4), 3);
    double took = mr_now_s() - start;
    CHECK(took >= 0.2 && took < 10); /* each guilty one once or twice its deadline; the machine may be busy */
    for (int i = 0; i < 9; i++) {
        bool guilty = i == 2 || i == 4 || i == 8;
        CHECK_INT(s[2 * i].kind, MR_SCORED);
        CHECK_NEAR(s[2 * i].value, strlen(texts[i]), 0);
        CHECK_INT(s[2 * i + 1].kind, guilty ? MR_FAULT : MR_SCORED);
        CHECK_NEAR(s[2 * i + 1].value, guilty ? -1 : 1, 0);
    }
    CHECK_INT(f[0].id, 2);
    CHECK_INT(f[0].reward, 1);
    CHECK_STR(f[0].text, "rewards/odd.lua: no answer within 0.2 s; the worker was killed (sample 2)");
    CHECK_INT(f[1].id, 4);
    CHECK_INT(f[2].id, 8);
    const char *again[] = { "one" };
    CHECK_INT(score_texts(p, again, 1, row, s, f, 4), 0);
    CHECK_NEAR(s[1].value, 1, 0);
    mr_pool_close(p);
}

static void memory_is_contained(void) {
    put_odd();
    mr_pool *p = open_pool("odd.lua", 1, 10);
    const char *texts[] = { "bomb", "one", "rep", "one", "bomb_pcall", "one" };
    mr_score s[12];
    mr_fault f[4];
    size_t before = mr_rss_bytes();
    int n_faults = score_texts(p, texts, 6, row, s, f, 4);
    CHECK_INT(n_faults, 2);
    CHECK_CONTAINS(f[0].text, "not enough memory");
    CHECK_CONTAINS(f[1].text, "not enough memory");
    for (int i = 1; i < 6; i += 2) CHECK_NEAR(s[2 * i + 1].value, 1, 0);
    CHECK_NEAR(s[9].value, 1, 0); /* what a script catches itself is its own affair */
    CHECK(mr_rss_bytes() < before + (8u << 20));
    mr_pool_close(p);
}

static void a_dead_worker_is_replaced(void) {
    put_odd();
    mr_pool *p = open_pool("odd.lua", 2, 5);
    mr_scorer sc = mr_pool_scorer(p);
    mr_err err = { .msg = "" };
    /* the workers are our only children: end them all, between two batches */
    char path[64], line[256] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
    FILE *list = fopen(path, "r");
    REQUIRE(list != NULL);
    REQUIRE(fgets(line, sizeof line, list) != NULL);
    fclose(list);
    int killed = 0;
    for (char *at = line, *end; strtol(at, &end, 10) > 0 && end != at; at = end, killed++)
        kill((pid_t)strtol(at, NULL, 10), SIGKILL);
    CHECK_INT(killed, 3);
    for (int i = 0; i < 40; i++) {
        mr_score_job job = { .id = i, .text = "one", .len = 3, .row_json = row };
        REQUIRE_OK(sc.submit(sc.self, &job, &err), err);
    }
    mr_score s[80];
    int n_faults;
    REQUIRE_OK(sc.collect(sc.self, s, 40, NULL, 0, &n_faults, &err), err);
    CHECK_INT(n_faults, 0);
    for (int i = 0; i < 40; i++) CHECK_NEAR(s[2 * i + 1].value, 1, 0);
    mr_pool_close(p);
}

static void order_of_arrival_does_not_matter(void) {
    put_file("rewards/sum.lua",
             "return { score = function(c, row, info) assert(info.prompt == 'p' .. row.k)\n"
             "  return #c + row.k + info.n_tokens / 1000 + info.step end }\n");
    put_recipe("sum.lua", "{ name = \"sum\", weight = 0.5 }", "");
    for (int n_workers = 1; n_workers <= 3; n_workers++) {
        mr_pool *p = open_pool("sum.lua", n_workers, 5);
        mr_scorer sc = mr_pool_scorer(p);
        CHECK_NEAR(sc.weights[0], 0.5, 0);
        mr_err err = { .msg = "" };
        enum { n = 200 };
        for (int batch = 0; batch < 2; batch++) {
            for (int k = 0; k < n; k++) {
                int i = (k * 77) % n; /* submitted in another order than ids */
                char row_json[32], text[256], prompt[32];
                snprintf(prompt, sizeof prompt, "p%d", 1000 * i);
                snprintf(row_json, sizeof row_json, "{\"k\":%d}", 1000 * i);
                memset(text, 'a', sizeof text);
                mr_score_job job = {
                    .id = i,
                    .text = text,
                    .len = (size_t)i,
                    .row_json = row_json,
                    .prompt = prompt,
                    .n_tokens = i,
                    .step = batch,
                };
                REQUIRE_OK(sc.submit(sc.self, &job, &err), err);
            }
            mr_score s[n];
            REQUIRE_OK(sc.collect(sc.self, s, n, NULL, 0, NULL, &err), err);
            for (int i = 0; i < n; i++) CHECK_NEAR(s[i].value, i + 1000.0 * i + i / 1000.0 + batch, 1e-9);
        }
        mr_pool_close(p);
    }
}

static void odd_texts_are_plain_data(void) {
    put_file("rewards/bytes.lua", "return { score = function(c) return #c + c:byte(1) / 1000 end }\n");
    put_recipe("bytes.lua", "\"bytes\"", "");
    mr_pool *p = open_pool("bytes.lua", 1, 5);
    mr_scorer sc = mr_pool_scorer(p);
    mr_err err = { .msg = "" };
    size_t big = ((size_t)1 << 20) + 5;
    char *huge = mr_alloc(big + 1);
    memset(huge, 'z', big);
    const struct {
        const char *text;
        size_t len;
        double want;
    } cases[] = {
        { "\0a\0", 3, 3.0 },
        { "\xff\xfe", 2, 2.255 },
        { "\xe2\x80\xae", 3, 3.226 },
        { huge, big, (1 << 20) + 0.122 },
    };
    for (int i = 0; i < 4; i++) {
        mr_score_job job = { .id = i, .text = cases[i].text, .len = cases[i].len, .row_json = "{}" };
        REQUIRE_OK(sc.submit(sc.self, &job, &err), err);
    }
    mr_score s[4];
    REQUIRE_OK(sc.collect(sc.self, s, 4, NULL, 0, NULL, &err), err);
    for (int i = 0; i < 4; i++) CHECK_NEAR(s[i].value, cases[i].want, 1e-9);
    mr_free(huge);
    mr_pool_close(p);
}

static void scripts_may_log_and_require_late(void) {
    put_odd();
    put_file("rewards/late.lua", "return { value = 1.5 }\n");
    mr_pool *p = open_pool("odd.lua", 2, 5);
    const char *texts[] = { "need", "need", "log", "need", "global", "global", "need", "need", "need", "need" };
    mr_score s[20];
    fflush(stderr);
    int saved = dup(2); /* a flood of lines goes to the log and not into the test's output */
    FILE *sink = fopen("log.txt", "w");
    dup2(fileno(sink), 2);
    int n_faults = score_texts(p, texts, 10, row, s, NULL, 0);
    fflush(stderr);
    dup2(saved, 2);
    close(saved);
    fclose(sink);
    CHECK_INT(n_faults, 0);
    CHECK_NEAR(s[1].value, 1.5, 0);
    CHECK_NEAR(s[5].value, 1, 0);
    char *log;
    size_t len;
    mr_err err = { .msg = "" };
    REQUIRE_OK(mr_file_read(&log, &len, "log.txt", 1 << 20, &err), err);
    CHECK_CONTAINS(log, "script: line 1 y");
    CHECK_CONTAINS(log, "further lines of this call are dropped");
    CHECK(strstr(log, "line 41 ") == NULL);
    mr_free(log);
    int n_scripts;
    const mr_script_text *texts_used = mr_pool_scripts(p, &n_scripts);
    bool late = false;
    for (int i = 0; i < n_scripts; i++) late = late || strcmp(texts_used[i].name, "rewards/late.lua") == 0;
    CHECK(late); /* what was required while scoring belongs to the record too */
    mr_pool_close(p);
}

static void wire_refuses_what_is_no_frame(void) {
    mr_wire w;
    mr_wire_init(&w, -1);
    mr_frame f;
    const struct {
        uint32_t type, len;
        int want;
    } heads[] = {
        { 0, 0, -1 },
        { MR_WIRE_TYPES, 0, -1 },
        { MR_WIRE_LOG, MR_WIRE_MAX_BYTES + 1u, -1 },
        { MR_WIRE_LOG, 0xffffffff, -1 },
        { MR_WIRE_LOG, 4, 0 },
        { MR_WIRE_TICK, 0, 1 },
    };
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        w.in.len = w.in_at = 0;
        mr_str_add(&w.in, &heads[i].type, 4);
        CHECK_INT(mr_wire_next(&w, &f), 0); /* half a head */
        mr_str_add(&w.in, &heads[i].len, 4);
        CHECK_INT(mr_wire_next(&w, &f), heads[i].want);
    }
    mr_wire_clear(&w);
    /* a string that says it is longer than its frame */
    const char lie[] = { 9, 0, 0, 0, 'a', 'b' };
    mr_frame frame = { MR_WIRE_LOG, lie, sizeof lie };
    mr_take t = mr_take_frame(&frame);
    size_t len;
    mr_take_bytes(&t, &len);
    CHECK_INT(len, 0);
    CHECK(t.bad);
    CHECK_INT(mr_take_i64(&t), 0);
}

static void nothing(int number) { (void)number; }

/* Both ends here: a socket that is full, one that nobody reads, signals while waiting, descriptors, more of them than are kept. */
static void frames_over_a_socket(void) {
    int ends[2], small = 4096;
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
    setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    mr_wire a, b;
    mr_frame f;
    mr_wire_init(&a, ends[0]);
    mr_wire_init(&b, ends[1]);
    CHECK_INT(mr_wire_take_fd(&b), -1);
    CHECK(mr_wire_fill(&b, false)); /* nothing is there */
    CHECK_INT(mr_wire_next(&b, &f), 0);
    struct sigaction act = { .sa_handler = nothing }, old;
    const struct itimerval often = { { 0, 3000 }, { 0, 3000 } }, never = { { 0, 0 }, { 0, 0 } };
    sigaction(SIGALRM, &act, &old);
    setitimer(ITIMER_REAL, &often, NULL);
    b.wait_ms = 20;
    CHECK(!mr_wire_fill(&b, true)); /* nobody writes */
    char *big = mr_alloc(200000);
    a.wait_ms = 20;
    mr_wire_put(&a, MR_WIRE_BYTES, big, 200000);
    CHECK(mr_wire_flush(&a, false)); /* as much as goes */
    CHECK(a.out.len > a.out_at);
    CHECK(!mr_wire_flush(&a, true)); /* nobody reads */
    CHECK(!mr_wire_send(&a, MR_WIRE_FILE, "", 0, 2));
    setitimer(ITIMER_REAL, &never, NULL);
    sigaction(SIGALRM, &old, NULL);
    for (int i = 0; i < 1000 && mr_wire_next(&b, &f) == 0; i++) CHECK(mr_wire_fill(&b, false) && mr_wire_flush(&a, false));
    CHECK(f.type == MR_WIRE_BYTES && f.len == 200000);
    mr_free(big);

    a.wait_ms = b.wait_ms = 5000;
    for (int i = 0; i < 10; i++) { /* eight are kept */
        REQUIRE(mr_wire_send(&a, MR_WIRE_FILE, &(char){ (char)i }, 1, 2));
        while (mr_wire_next(&b, &f) == 0) REQUIRE(mr_wire_fill(&b, true));
        CHECK(f.type == MR_WIRE_FILE && f.len == 1 && f.data[0] == i);
    }
    CHECK_INT(b.n_fds, 8);
    for (int i = 0; i < 7; i++) CHECK(close(mr_wire_take_fd(&b)) == 0);
    mr_str s = { 0 };
    mr_put_bytes(&s, "", 0), mr_put_bytes(&s, "abcdef", 6);
    CHECK(mr_wire_send(&a, MR_WIRE_REPLY, s.data, s.len, -1));
    while (mr_wire_next(&b, &f) == 0) REQUIRE(mr_wire_fill(&b, true));
    mr_take t = mr_take_frame(&f);
    char text[4];
    size_t len;
    mr_take_bytes(&t, &len);
    CHECK_INT(len, 0);
    mr_take_string(&t, text, sizeof text);
    CHECK_STR(text, "abc"); /* cut */
    CHECK_INT(mr_take_u8(&t), 0);
    CHECK(t.bad);
    mr_str_clear(&s);
    mr_wire_clear(&b); /* and the descriptor that nobody took */
    close(ends[1]);
    CHECK(!mr_wire_send(&a, MR_WIRE_TICK, NULL, 0, -1));
    CHECK(!mr_wire_send(&a, MR_WIRE_TICK, NULL, 0, 2));
    CHECK(!mr_wire_fill(&a, true));
    mr_wire_clear(&a);
    close(ends[0]);
    CHECK(!mr_wire_fill(&a, true)); /* not a socket */
}

static void scoring_is_quick(void) {
    /* 512 completions of 2.8 kB with the five rewards of the recipe: a step's scoring must not be seen. Under
     * sanitizers, on a busy machine, the limit says only that nothing is quadratic; tests/bench has the figure. */
    put_recipe("five.lua", "\"xmlcount\", \"soft_format\", \"strict_format\", \"valid_answer\", \"correctness\"", "");
    mr_pool *p = open_pool("five.lua", 2, 10);
    mr_scorer sc = mr_pool_scorer(p);
    mr_err err = { .msg = "" };
    char text[2801];
    memset(text, 0, sizeof text);
    strcpy(text, "<reasoning>\n");
    while (strlen(text) < 2700) strcat(text, "The note says that the answer is near, and so on. ");
    strcat(text, "\n</reasoning>\n<answer>\nx\n</answer>\n");
    mr_score *s = mr_alloc(512 * 5 * sizeof *s);
    double best = 1e9;
    for (int round = 0; round < 3; round++) {
        double start = mr_now_s();
        for (int i = 0; i < 512; i++) {
            mr_score_job job = { .id = i, .text = text, .len = strlen(text), .row_json = row };
            REQUIRE_OK(sc.submit(sc.self, &job, &err), err);
        }
        REQUIRE_OK(sc.collect(sc.self, s, 512, NULL, 0, NULL, &err), err);
        double took = mr_now_s() - start;
        if (took < best) best = took;
    }
    fprintf(stderr, "512 x 5 scores: %.1f ms\n", best * 1e3);
    CHECK_NEAR(s[5 * 511].value, 0.5, 1e-9);
    CHECK(best < 2.0);
    mr_free(s);
    mr_pool_close(p);
}

SCRIPT_TEST_MAIN({ "wrong_values_cost_their_sample", wrong_values_cost_their_sample },
                 { "endless_scores_are_killed_and_found", endless_scores_are_killed_and_found },
                 { "memory_is_contained", memory_is_contained },
                 { "a_dead_worker_is_replaced", a_dead_worker_is_replaced },
                 { "order_of_arrival_does_not_matter", order_of_arrival_does_not_matter },
                 { "odd_texts_are_plain_data", odd_texts_are_plain_data },
                 { "scripts_may_log_and_require_late", scripts_may_log_and_require_late },
                 { "wire_refuses_what_is_no_frame", wire_refuses_what_is_no_frame },
                 { "frames_over_a_socket", frames_over_a_socket },
                 { "scoring_is_quick", scoring_is_quick })
