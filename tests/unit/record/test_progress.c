/* test_progress.c - the status line on a terminal: a pseudo-terminal of known width stands in for it. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/log.h"
#include "record/run.h"
#include "rl/metrics.h"
#include "test.h"

static char folder[] = "/tmp/medrl_progress_XXXXXX";
static int master;

static const char *screen(void) {
    static char text[16384];
    size_t n = 0;
    ssize_t got;
    while (n < sizeof text - 1 && (got = read(master, text + n, sizeof text - 1 - n)) > 0) n += (size_t)got;
    text[n] = 0;
    return text;
}

static void size(unsigned short columns, unsigned short rows) {
    const struct winsize w = { .ws_col = columns, .ws_row = rows };
    REQUIRE(!ioctl(2, TIOCSWINSZ, &w));
}

static void status_line(void) {
    mr_err err = { "" };
    mr_run *r;
    REQUIRE(mkdtemp(folder));
    setenv("TERM", "xterm", 1);
    setenv("NO_COLOR", "1", 1);
    master = posix_openpt(O_RDWR | O_NOCTTY);
    REQUIRE(master >= 0 && !grantpt(master) && !unlockpt(master));
    const int slave = open(ptsname(master), O_RDWR | O_NOCTTY), keep = dup(2);
    REQUIRE(slave >= 0 && keep >= 0);
    fcntl(master, F_SETFL, O_NONBLOCK);
    dup2(slave, 2);
    size(110, 24);

    char *dir = mr_path_join(folder, "run");
    const mr_run_opts opts = { .mode = MR_RUN_NEW, .progress = true, .logging_steps = 1,
                               .usd_per_hour = 0.9 };
    REQUIRE_OK(mr_run_open(&r, dir, &opts, &err), err);
    const mr_observer o = mr_run_observer(r);
    o.progress(o.self, 1, 40, "rollout", 0, 24);
    char first[1024], steps[4096], wide[1024], narrow[1024], flat[1024], last[1024];
    snprintf(first, sizeof first, "%s", screen());
    for (int i = 1; i <= 8; i++) {
        const char *const names[] = { "correctness" };
        const mr_score score = { i % 2 ? 2 : 0, MR_SCORED };
        const mr_sample s = {
            .step = i, .source = "s", .prompt_text = "p", .text = "t", .row_json = "{}", .scores = &score
        };
        REQUIRE_OK(o.sample(o.self, &s, 1, names, &err), err);
        const mr_metric m[] = { { MR_M_REWARD, i }, { MR_M_STEP_TIME, 5 }, { MR_M_TOKENS_PER_S, 62 },
                                { "rewards/a/mean", 0.5 }, { "rewards/bcd/mean", (double)NAN }, { MR_M_CLIPPED, 0.25 },
                                { MR_M_ZERO_STD, 0.5 }, { MR_M_COST, 0.02 } };
        REQUIRE_OK(o.step(o.self, i, 40, m, i == 8 ? 8 : 3, &err), err);
    }
    snprintf(steps, sizeof steps, "%s", screen());
    o.progress(o.self, 9, 40, "rollout", 24, 24);
    snprintf(wide, sizeof wide, "%s", screen());
    size(30, 24);
    o.progress(o.self, 9, 40, "train", 1, 1);
    snprintf(narrow, sizeof narrow, "%s", screen());
    size(30, 8);
    o.progress(o.self, 9, 40, "train", 1, 1);
    snprintf(flat, sizeof flat, "%s", screen());
    mr_run_close(r);
    snprintf(last, sizeof last, "%s", screen());
    dup2(keep, 2); /* from here on messages are seen again */

    CHECK_STR(first, "step 1/40  rollout 0/24");
    CHECK_CONTAINS(steps, "\r\x1b[Kstep 1/40  reward 1.00  exact 1.00  5.0 s\r\n"); /* the terminal turns \n to \r\n */
    CHECK_CONTAINS(wide, "step 9/40  rollout 24/24  reward 8.00 \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588  "
                         "exact 0%  62 tok/s  ETA 2:40  $0.02 of $0.06\r\n  a 0.50  bcd -\r\n  cut 25%  no difference 50%");
    /* what does not fit beside the others goes to the next line; what stood there is taken away first: three lines */
    CHECK_CONTAINS(narrow, "\r\x1b[A\x1b[A\x1b[Jstep 9/40  train\r\n  reward 8.00 \u2581\u2582\u2583\u2584\u2585\u2586\u2587"
                           "\u2588\r\n  exact 0%  62 tok/s\r\n  ETA 2:40  $0.02 of $0.06\r\n  a 0.50  bcd -\r\n  cut 25%");
    CHECK_CONTAINS(flat, "\x1b[Jstep 9/40  train"); /* a window of few rows has one line */
    CHECK(!strchr(strstr(flat, "step 9/40"), '\n'));
    CHECK_CONTAINS(last, "\r\x1b[K"); /* nothing is left behind */
    mr_free(dir);
    CHECK_INT(mr_remove_tree(folder, &err), MR_OK);
}

TEST_MAIN({ "status_line", status_line })
