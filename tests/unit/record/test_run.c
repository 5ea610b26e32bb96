/* test_run.c - the run folder: names and locks, what each line says, cutting on resume, and the summary that is drawn
 * from the record. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <signal.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "files/rows.h"
#include "record/run.h"
#include "rl/metrics.h"
#include "test.h"

static char folder[] = "/tmp/medrl_run_XXXXXX";
static const mr_run_opts quiet = { .mode = MR_RUN_NEW };
static const mr_run_opts again = { .mode = MR_RUN_RESUME };

static char *in_folder(const char *name) {
    static char path[4][256];
    static int next;
    static bool made;
    if (!made) REQUIRE(mkdtemp(folder));
    made = true;
    char *p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}

static char *text_of(const char *dir, const char *name) {
    char path[512], *data;
    size_t len;
    mr_err err = { "" };
    snprintf(path, sizeof path, "%s/%s", dir, name);
    REQUIRE_OK(mr_file_read(&data, &len, path, 1 << 24, &err), err);
    return data;
}

static void put(const char *path, const char *text) {
    mr_err err = { "" };
    REQUIRE_OK(mr_file_write(path, text, strlen(text), &err), err);
}

/* A step with the reward, and n completions of one source that all say `answer`. */
static const char *const names[] = { "xmlcount", "correctness" };
static void step(mr_run *r, int64_t at, int64_t max, double reward, const char *source, const char *reference,
                 const char *const *answers, int n) {
    const mr_observer o = mr_run_observer(r);
    mr_err err = { "" };
    char row[128], text[256];
    snprintf(row, sizeof row, "{\"answer\":\"%s\",\"x\":1}", reference);
    for (int i = 0; i < n; i++) {
        const bool right = answers[i] && !strcmp(answers[i], reference);
        const mr_score scores[2] = { { 0.5, MR_SCORED }, { right ? 2.0 : 0.0, MR_SCORED } };
        snprintf(text, sizeof text,
                 answers[i] ? "<reasoning>\nr\n</reasoning>\n<answer>x</answer><answer>\n%s\n</answer>" : "nothing",
                 answers[i]);
        const mr_sample s = { .step = at,
                              .prompt = 0,
                              .sample = i,
                              .row = 7,
                              .source = source,
                              .prompt_text = "p",
                              .text = text,
                              .row_json = row,
                              .scores = scores,
                              .reward = scores[0].value + scores[1].value,
                              .advantage = 0.25f,
                              .n_tokens = 5 };
        REQUIRE_OK(o.sample(o.self, &s, 2, names, &err), err);
    }
    const mr_metric m[] = { { MR_M_LOSS, 0.125 },
                            { "rewards/xmlcount/mean", 0.25 + reward / 10 },
                            { "rewards/correctness/mean", reward / 2 },
                            { MR_M_REWARD, reward },
                            { MR_M_KL, (double)NAN },
                            { MR_M_STEP_TIME, 1.5 } };
    REQUIRE_OK(o.step(o.self, at, max, m, 6, &err), err);
}

static void a_new_run_never_overwrites(void) {
    mr_err err = { "" };
    mr_run *a, *b, *c, *d;
    char *dir = in_folder("deep/outputs/");
    static const char *const yes[] = { "yes" };
    REQUIRE_OK(mr_run_open(&a, dir, &quiet, &err), err);
    CHECK_STR(mr_run_dir(a), in_folder("deep/outputs"));
    REQUIRE_OK(mr_run_open(&b, dir, &quiet, &err), err); /* a is alive */
    CHECK_STR(mr_run_dir(b), in_folder("deep/outputs-2"));
    mr_run_close(b);
    step(a, 1, 2, 0.5, "s", "yes", yes, 1);
    mr_run_close(a);
    REQUIRE_OK(mr_run_open(&c, dir, &quiet, &err), err); /* outputs has a step, outputs-2 never got one */
    CHECK_STR(mr_run_dir(c), in_folder("deep/outputs-2"));
    CHECK_INT(mr_run_open(&d, in_folder("deep/outputs-2"), &again, &err), MR_EAGAIN);
    CHECK(d == NULL);
    CHECK_CONTAINS(err.msg, "in use by process ");
    mr_run_close(c);
    CHECK_INT(mr_run_open(&d, in_folder("nothing"), &again, &err), MR_ENOTFOUND);
    CHECK_CONTAINS(err.msg, "holds no run");
    CHECK_INT(mr_run_open(&d, "", &quiet, &err), MR_EINVAL);
    mr_run_close(NULL);

    char *model = in_folder("model"); /* a folder with somebody's config.json is left alone */
    REQUIRE_OK(mr_mkdirs(model, &err), err);
    put(in_folder("model/config.json"), "{}");
    REQUIRE_OK(mr_run_open(&a, model, &quiet, &err), err);
    CHECK_STR(mr_run_dir(a), in_folder("model-2"));
    mr_run_close(a);
    put(in_folder("file"), "x");
    REQUIRE_OK(mr_run_open(&a, in_folder("file"), &quiet, &err), err);
    CHECK_STR(mr_run_dir(a), in_folder("file-2"));
    mr_run_close(a);
    put(in_folder("blocked"), "x");
    CHECK_INT(mr_run_open(&a, in_folder("blocked/run"), &quiet, &err), MR_EIO);
}

static void lines_say_all(void) {
    mr_err err = { "" };
    mr_run *r;
    REQUIRE_OK(mr_run_open(&r, in_folder("lines"), &quiet, &err), err);
    const mr_observer o = mr_run_observer(r);
    const char *const three[] = { "a", "b", "c" };
    const mr_score scores[3] = { { 0.5, MR_SCORED }, { 9, MR_ABSTAINED }, { -1, MR_FAULT } };
    const mr_sample s = { .step = 3,
                          .prompt = 1,
                          .sample = 2,
                          .row = 41,
                          .source = "pubmedqa",
                          .prompt_text = "<|im_start|>user\n\"q\"",
                          .text = "t\x01\xff",
                          .row_json = "{\"answer\":\"maybe\"}",
                          .scores = scores,
                          .reward = (double)NAN,
                          .advantage = -0.1f,
                          .n_tokens = 12,
                          .truncated = true };
    REQUIRE_OK(o.sample(o.self, &s, 3, three, &err), err);
    mr_sample first = s;
    first.sample = 0;
    first.row_json = "{\"answer\":\"maybe\", \"k\": [1.5, null]}";
    REQUIRE_OK(o.sample(o.self, &first, 3, three, &err), err);
    const mr_metric m[] = { { MR_M_LOSS, 0.1 }, { MR_M_KL, (double)NAN }, { MR_M_NUM_TOKENS, 123456789 } };
    REQUIRE_OK(o.step(o.self, 3, 4, m, 3, &err), err);
    cJSON *detail = cJSON_CreateObject();
    cJSON_AddStringToObject(detail, "file", "x.lua");
    REQUIRE_OK(o.event(o.self, 3, "reload", "x.lua is used from step 4 on", detail, &err), err);
    cJSON_Delete(detail);
    cJSON *config = cJSON_CreateObject();
    cJSON_AddNumberToObject(config, "seed", 3407);
    REQUIRE_OK(mr_run_config(r, config, &err), err);
    cJSON_Delete(config);
    const char sha[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    REQUIRE_OK(mr_run_script(r, "rewards.a", "lua/rewards/a.lua", "return {}", 9, sha, &err), err);
    REQUIRE_OK(mr_run_script(r, "rewards.a", "lua/rewards/a.lua", "return {}", 9, sha, &err), err);
    CHECK_INT(mr_run_script(r, "rewards.a", "lua/rewards/a.lua", "return {}", 9, "../../x", &err), MR_EINVAL);
    int64_t bytes[3];
    REQUIRE_OK(o.flush(o.self, &bytes[0], &bytes[1], &bytes[2], &err), err);

    char *metrics = text_of(mr_run_dir(r), "metrics.jsonl"), *samples = text_of(mr_run_dir(r), "samples.jsonl");
    char *events = text_of(mr_run_dir(r), "events.jsonl"), *stored = text_of(mr_run_dir(r), "config.json");
    CHECK_STR(metrics, "{\"step\": 3, \"loss\": 0.1, \"kl\": null, \"num_tokens\": 123456789}\n");
    CHECK_INT(bytes[0], strlen(metrics));
    CHECK_INT(bytes[1], strlen(samples));
    CHECK_INT(bytes[2], strlen(events));
    CHECK_CONTAINS(samples, "{\"step\": 3, \"prompt_index\": 1, \"sample\": 2, \"row\": 41, \"source\": \"pubmedqa\", "
                            "\"prompt\": \"<|im_start|>user\\n\\\"q\\\"\"");
    CHECK_CONTAINS(samples, "\"completion\": \"t\\u0001\xef\xbf\xbd\", \"answer\": \"maybe\", \"rewards\": {\"a\": "
                            "0.5, \"b\": null, \"c\": -1}, \"faults\": [\"c\"]");
    CHECK_CONTAINS(samples, "\"reward\": null, \"advantage\": -0.1");
    CHECK_CONTAINS(samples, "\"tokens\": 12, \"truncated\": true}\n");
    /* the row itself, once a prompt */
    CHECK_CONTAINS(samples, "\"truncated\": true, \"columns\": {\"answer\": \"maybe\", \"k\": [1.5, null]}}\n");
    CHECK_CONTAINS(
        events,
        "\"kind\": \"reload\", \"text\": \"x.lua is used from step 4 on\", \"detail\": {\"file\": \"x.lua\"}}\n");
    CHECK_CONTAINS(events, "\"kind\": \"script\", \"text\": \"lua/rewards/a.lua\"");
    CHECK_CONTAINS(stored, "\"seed\":\t3407");
    char name[128];
    snprintf(name, sizeof name, "scripts/%s.lua", sha);
    char *script = text_of(mr_run_dir(r), name);
    CHECK_STR(script, "return {}");
    mr_free(script);
    mr_free(metrics);
    mr_free(samples);
    mr_free(events);
    mr_free(stored);
    mr_run_close(r);
}

static void resume_cuts(void) {
    mr_err err = { "" };
    mr_run *r;
    static const char *const a[] = { "yes", "no" };
    char *dir = in_folder("cut");
    REQUIRE_OK(mr_run_open(&r, dir, &quiet, &err), err);
    step(r, 1, 9, 0.5, "s", "yes", a, 2);
    step(r, 2, 9, 0.75, "s", "yes", a, 2);
    mr_observer o = mr_run_observer(r);
    REQUIRE_OK(o.event(o.self, 2, "checkpoint", "checkpoint-2", NULL, &err), err);
    int64_t m, s, e;
    REQUIRE_OK(o.flush(o.self, &m, &s, &e, &err), err);
    char *metrics = text_of(dir, "metrics.jsonl"), *samples = text_of(dir, "samples.jsonl"),
         *events = text_of(dir, "events.jsonl");
    step(r, 3, 9, 1, "s", "yes", a, 2);
    REQUIRE_OK(o.event(o.self, 3, "warning", "w", NULL, &err), err);
    mr_run_close(r);
    char *torn = in_folder("cut/metrics.jsonl"); /* killed in the middle of a line */
    FILE *f = fopen(torn, "a");
    REQUIRE(f);
    fputs("{\"step\": 4, \"lo", f);
    fclose(f);

    REQUIRE_OK(mr_run_open(&r, dir, &again, &err), err);
    CHECK_INT(mr_run_cut(r, m + 100000, s, e, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "the checkpoint recorded");
    CHECK_INT(mr_run_cut(r, m - 1, s, e, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "is not the end of a line");
    const char sha[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    REQUIRE_OK(mr_run_script(r, "rewards.b", "lua/rewards/b.lua", "b", 1, sha, &err), err); /* before the cut, and not lost by it */
    REQUIRE_OK(mr_run_cut(r, m, s, e, &err), err);
    char *now = text_of(dir, "metrics.jsonl");
    CHECK_STR(now, metrics);
    mr_free(now);
    now = text_of(dir, "samples.jsonl");
    CHECK_STR(now, samples);
    mr_free(now);
    now = text_of(dir, "events.jsonl");
    CHECK(!strncmp(now, events, strlen(events)));
    CHECK_CONTAINS(now + strlen(events), "lua/rewards/b.lua");
    CHECK(now[strlen(now) - 1] == '\n');
    mr_free(now);
    step(r, 3, 9, 1, "s", "yes", a, 2);
    now = text_of(dir, "metrics.jsonl");
    CHECK(!strncmp(now, metrics, strlen(metrics)) &&
          strstr(now + strlen(metrics), "{\"step\": 3, ") == now + strlen(metrics));
    mr_free(now);
    mr_free(metrics);
    mr_free(samples);
    mr_free(events);
    mr_run_close(r);
}

/* A file that cannot grow is the full disk of this test: the line fails with the path, and the file keeps whole
 * lines. */
static void a_full_disk_leaves_whole_lines(void) {
    mr_err err = { "" };
    mr_run *r;
    static const char *const a[] = { "yes" };
    REQUIRE_OK(mr_run_open(&r, in_folder("full"), &quiet, &err), err);
    step(r, 1, 9, 0.5, "s", "yes", a, 1);
    char *before = text_of(mr_run_dir(r), "metrics.jsonl");
    struct rlimit old, small;
    REQUIRE(!getrlimit(RLIMIT_FSIZE, &old));
    small = old;
    small.rlim_cur = strlen(before) + 10;
    signal(SIGXFSZ, SIG_IGN);
    REQUIRE(!setrlimit(RLIMIT_FSIZE, &small));
    const mr_observer o = mr_run_observer(r);
    const mr_metric m = { MR_M_LOSS, 0.25 };
    mr_status st = o.step(o.self, 2, 9, &m, 1, &err);
    setrlimit(RLIMIT_FSIZE, &old);
    CHECK_INT(st, MR_EIO);
    CHECK_CONTAINS(err.msg, "metrics.jsonl");
    char *after = text_of(mr_run_dir(r), "metrics.jsonl");
    CHECK_STR(after, before);
    REQUIRE_OK(o.step(o.self, 2, 9, &m, 1, &err), err);
    mr_free(before);
    mr_free(after);
    mr_run_close(r);
}

static const char *summary_of(mr_run *r) {
    static char text[4096];
    mr_str s = { 0 };
    mr_run_summary(r, &s);
    snprintf(text, sizeof text, "%s", s.data);
    mr_str_clear(&s);
    return text;
}

static void summary_tells_format_from_knowledge(void) {
    mr_err err = { "" };
    mr_run *r;
    REQUIRE_OK(mr_run_open(&r, in_folder("summary"), &quiet, &err), err);
    CHECK_STR(summary_of(r), "no step was finished\n");
    static const char *const none[] = { NULL, NULL, NULL, NULL }, *const yes[] = { "Yes", "yes", "yes", "yes" },
                             *const numbers[] = { "72", "5", "72", NULL };
    for (int i = 1; i <= 5; i++) step(r, i, 10, 0.1 * i, "pubmedqa", i % 2 ? "yes" : "no", none, 4);
    for (int i = 6; i <= 9; i++) step(r, i, 10, 2, "pubmedqa", i % 2 ? "yes" : "no", yes, 4);
    step(r, 10, 10, 3, "gsm8k", "72", numbers, 4);
    const char *t = summary_of(r);
    CHECK_CONTAINS(t, "reward   0.20 -> 2.33   mean of steps 1 to 3 and 8 to 10\n");
    CHECK_CONTAINS(t, "format   0.27 -> 0.48   xmlcount 0.27 -> 0.48\n");
    /* steps 8 to 10: step 8 has no right answer, 9 has three ("Yes" differs from "yes" for the test's reward), 10 has
     * two */
    CHECK_CONTAINS(t, "exact    0 % -> 42 %   completions whose answer is exactly right (correctness 2)\n");
    CHECK_CONTAINS(t, "answers of steps 6 to 10\n");
    CHECK_CONTAINS(t, "  pubmedqa       Yes 100 %  (16 completions, 0 without an answer)\n");
    CHECK_CONTAINS(t, "100 % of the answers are \"Yes\": a constant answer shows the format, not knowledge.\n");
    CHECK_CONTAINS(t, "  gsm8k          72 67 %, 5 33 %  (4 completions, 1 without an answer)\n");
    CHECK(strstr(t, "knowledge") == strstr(t, "knowledge.\n") && !strstr(strstr(t, "gsm8k"), "knowledge"));
    mr_run_close(r);

    REQUIRE_OK(mr_run_open(&r, in_folder("mixed"), &quiet, &err), err);
    static const char *const mixed[] = { "A", "A", "A", "A", "B" }, *const same[] = { "7", "7", "7", "7", "7" };
    step(r, 1, 2, 1, "mcq", "A", mixed, 5); /* 80 % is not more than 80 % */
    step(r, 2, 2, 1, "sums", "7", same, 5); /* no closed set: 7 may well be right */
    CHECK(!strstr(summary_of(r), "knowledge"));
    CHECK_CONTAINS(summary_of(r), "A 80 %, B 20 %");
    mr_run_close(r);
}

static void summary_of_sft_is_the_loss(void) {
    mr_err err = { "" };
    mr_run *r;
    REQUIRE_OK(mr_run_open(&r, in_folder("sft"), &quiet, &err), err);
    const mr_observer o = mr_run_observer(r);
    for (int i = 1; i <= 8; i++) {
        const mr_metric m[] = { { MR_M_LOSS, 8.0 / i }, { MR_M_GRAD_NORM, 1 } };
        REQUIRE_OK(o.step(o.self, i, 8, m, 2, &err), err);
        if (i == 4) CHECK_STR(summary_of(r), "loss     2.89   mean of steps 2 to 4\n"); /* too short for a change */
    }
    CHECK_STR(summary_of(r), "loss     4.89 -> 1.16   mean of steps 1 to 3 and 6 to 8\n");
    mr_run_close(r);
}

static char *captured(void (*run)(mr_run *), mr_run *r) {
    static char text[8192];
    char *path = in_folder("stderr");
    const int keep = dup(2), fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    REQUIRE(fd >= 0 && keep >= 0);
    dup2(fd, 2);
    run(r);
    dup2(keep, 2);
    close(keep);
    const ssize_t n = pread(fd, text, sizeof text - 1, 0);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return text;
}

static void show_steps(mr_run *r) {
    static const char *const a[] = { "yes", "no" };
    for (int i = 1; i <= 4; i++) step(r, i, 4, 0.5 * i, "s", "yes", a, 2);
}
static void show_hostile(mr_run *r) {
    const mr_observer o = mr_run_observer(r);
    const mr_score score = { 0.5, MR_SCORED };
    const char *const one[] = { "xmlcount" };
    mr_err err = { "" };
    char text[2048] = "\x1b[2J\xc2\x9b"
                      "31m\xff ok\r\n";
    for (int i = 0; i < 40; i++) strcat(text, "line\n");
    const mr_sample s = { .step = 2,
                          .source = "s",
                          .prompt_text = "<|im_start|>user\nHow many apples?<|im_end|>\n<|im_start|>assistant\n",
                          .text = text,
                          .row_json = "{}",
                          .scores = &score,
                          .reward = 0.5,
                          .n_tokens = 3,
                          .truncated = true };
    REQUIRE_OK(o.sample(o.self, &s, 1, one, &err), err);
    const mr_metric m[] = { { MR_M_REWARD, 0.5 }, { MR_M_FAULTS, 2 } };
    REQUIRE_OK(o.step(o.self, 2, 4, m, 2, &err), err);
    for (int i = 0; i < 9; i++) REQUIRE_OK(o.event(o.self, 2, "fault", "lua/rewards/x.lua:3: boom", NULL, &err), err);
    REQUIRE_OK(o.event(o.self, 2, "checkpoint", "checkpoint-2", NULL, &err), err);
    o.progress(o.self, 3, 4, "rollout", 1, 2); /* no terminal: nothing is drawn */
}

static void lines_for_people(void) {
    mr_err err = { "" };
    mr_run *r;
    const mr_run_opts opts = { .mode = MR_RUN_NEW, .progress = true, .logging_steps = 2, .sample_steps = 2 };
    REQUIRE_OK(mr_run_open(&r, in_folder("people"), &opts, &err), err);
    const char *t = captured(show_steps, r);
    CHECK_CONTAINS(t, "step 2/4  reward 1.00 (xmlcount 0.35 correctness 0.50)  exact 0.50  1.5 s\n");
    CHECK_CONTAINS(t, "step 4/4  reward 2.00");
    CHECK_CONTAINS(t, "step 1/4");
    CHECK(!strstr(t, "step 3/4"));
    CHECK_CONTAINS(t, "rewards     xmlcount 0.5  correctness 2\n");
    t = captured(show_hostile, r);
    CHECK_CONTAINS(t, "  prompt      How many apples?\n");
    CHECK_CONTAINS(t, "  completion  ?[2J?31m? ok?\n");
    CHECK_CONTAINS(t, "              ...\n");
    CHECK_CONTAINS(t, "rewards     xmlcount 0.5  (cut at the longest length)\n");
    CHECK(!strchr(t, '\x1b') && !strchr(t, '\r'));
    CHECK_CONTAINS(t, "faults 2");
    int n = 0;
    for (const char *p = t; (p = strstr(p, "boom")) != NULL; p++) n++;
    CHECK_INT(n, 3);
    CHECK_CONTAINS(t, "step 2: checkpoint-2 is saved in ");
    mr_run_close(r);
}

static void lines_break_at_blanks(void) {
    static const struct {
        const char *line;
        int indent, columns;
        const char *want;
    } cases[] = {
        { "aaaa bbbb", 2, 0, "aaaa bbbb" },
        { "aaaa bbbb", 2, 20, "aaaa bbbb" }, /* too narrow to help: as it is */
        { "0123456789 0123456789 0123456789", 4, 25, "0123456789 0123456789\n    0123456789" },
        { "0123456789 0123456789  0123456789 0123456789 0123", 4, 25,
          "0123456789 0123456789\n    0123456789 0123456789\n    0123" },
        { "012345678901234567890123456789", 4, 25, "0123456789012345678901234\n    56789" }, /* no blank to break at */
        { "\u2581\u2582\u2583 0123456789012345678 \u2581\u2582", 4, 25, /* cells, not bytes */
          "\u2581\u2582\u2583 0123456789012345678\n    \u2581\u2582" },
        { "", 4, 25, "" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mr_str s = { 0 };
        mr_progress_wrap(&s, cases[i].line, cases[i].indent, cases[i].columns);
        CHECK_STR(s.data ? s.data : "", cases[i].want);
        mr_str_clear(&s);
    }
}

static void show_question(mr_run *r) {
    const mr_observer o = mr_run_observer(r);
    mr_err err = { "" };
    const mr_score score = { 1, MR_SCORED };
    const char *const list[] = { "xmlcount" };
    const mr_sample s = { .step = 1,
                          .source = "s",
                          .prompt_text = "<|im_start|>user\nA long way\nto the end<|im_end|>",
                          .question = "\n\nAnswer the  following\tquestion:\nWhich?\x1b[2J",
                          .text = "t",
                          .row_json = "{}",
                          .scores = &score };
    const mr_metric m[] = { { MR_M_REWARD, 1 } };
    REQUIRE_OK(o.sample(o.self, &s, 1, list, &err), err);
    REQUIRE_OK(o.step(o.self, 1, 9, m, 1, &err), err);
}

/* What is shown of a prompt is how its question begins, in one line; the template's tail says nothing. */
static void samples_show_the_question(void) {
    mr_err err = { "" };
    mr_run *r;
    char *dir = mr_path_join(folder, "question");
    const mr_run_opts opts = { .mode = MR_RUN_NEW, .progress = true, .logging_steps = 1, .sample_steps = 1 };
    REQUIRE_OK(mr_run_open(&r, dir, &opts, &err), err);
    CHECK_CONTAINS(captured(show_question, r), "  prompt      Answer the following question: Which??[2J\n");
    mr_run_close(r);
    mr_free(dir);
}

/* A folder that is removed or renamed under the run would take every line in silence. */
static void a_folder_that_goes_ends_the_run(void) {
    mr_err err = { "" };
    mr_run *r;
    char *dir = mr_path_join(folder, "gone"), *moved = mr_path_join(folder, "moved");
    const mr_run_opts opts = { .mode = MR_RUN_NEW };
    REQUIRE_OK(mr_run_open(&r, dir, &opts, &err), err);
    const mr_observer o = mr_run_observer(r);
    const mr_metric m[] = { { MR_M_REWARD, 1 } };
    CHECK_INT(o.step(o.self, 1, 9, m, 1, &err), MR_OK);
    REQUIRE(rename(dir, moved) == 0);
    CHECK_INT(o.step(o.self, 2, 9, m, 1, &err), MR_EIO);
    CHECK_CONTAINS(err.msg, "metrics.jsonl: was moved or removed while the run wrote to it");
    REQUIRE(rename(moved, dir) == 0);
    CHECK_INT(o.step(o.self, 2, 9, m, 1, &err), MR_OK);
    REQUIRE(mr_remove_tree(dir, &err) == MR_OK);
    CHECK_INT(o.step(o.self, 3, 9, m, 1, &err), MR_EIO);
    mr_run_close(r);
    mr_free(dir);
    mr_free(moved);
}

static void clean_up(void) {
    mr_err err = { "" };
    CHECK_INT(mr_remove_tree(folder, &err), MR_OK);
}

TEST_MAIN({ "a_new_run_never_overwrites", a_new_run_never_overwrites }, { "lines_say_all", lines_say_all },
          { "resume_cuts", resume_cuts }, { "a_full_disk_leaves_whole_lines", a_full_disk_leaves_whole_lines },
          { "summary_tells_format_from_knowledge", summary_tells_format_from_knowledge },
          { "summary_of_sft_is_the_loss", summary_of_sft_is_the_loss }, { "lines_for_people", lines_for_people },
          { "lines_break_at_blanks", lines_break_at_blanks }, { "samples_show_the_question", samples_show_the_question },
          { "a_folder_that_goes_ends_the_run", a_folder_that_goes_ends_the_run },
          { "clean_up", clean_up })
