/* test_watch.c - the watcher over this very thread: who moves is left alone, who stands still is told of once and then for the last time, and what
 * is said of it is right; limits are a few hundredths of a second. */
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "base/watch.h"
#include "test.h"

static atomic_int n_warned, n_last;
static char stage[16], lua[160];
static int64_t step;

static void late(void *self, const mr_watch_report *r) {
    CHECK(self == &step);
    snprintf(stage, sizeof stage, "%s", r->stage);
    snprintf(lua, sizeof lua, "%s", r->lua);
    step = r->step;
    atomic_fetch_add(r->last ? &n_last : &n_warned, 1);
}

static void sleep_ms(int ms) {
    struct timespec left = { ms / 1000, ms % 1000 * 1000000 };
    while (nanosleep(&left, &left) != 0) {}
}

static void until(atomic_int *n, int want) {
    for (int i = 0; i < 500 && atomic_load(n) < want; i++) sleep_ms(10);
    CHECK_INT(atomic_load(n), want);
}

static void begin(double limit_s) {
    const mr_watch_opts o = { .limit_s = limit_s, .late = late, .self = &step };
    mr_err err;
    atomic_store(&n_warned, 0);
    atomic_store(&n_last, 0);
    CHECK(mr_watch_start(&o, &err) == MR_OK);
}

static void moving_is_left_alone(void) {
    begin(0.4); /* room for a machine that is busy */
    mr_watch_step(1, 0.001);
    mr_watch_at("rollout");
    for (int i = 0; i < 60; i++) {
        sleep_ms(10);
        mr_watch_beat();
    }
    mr_watch_at(NULL); /* and so is who may take as long as it likes */
    sleep_ms(600);
    mr_watch_stop();
    CHECK_INT(atomic_load(&n_warned), 0);
}

static void standing_still_is_told(void) {
    const char *of = NULL;
    begin(0.1);
    mr_watch_step(7, 0.001);
    mr_watch_at("reward");
    until(&n_warned, 1);
    CHECK_STR(stage, "reward");
    CHECK_INT(step, 7);
    until(&n_last, 1);
    CHECK_INT(atomic_load(&n_warned), 1);
    CHECK_INT(atomic_load(&n_last), 1);
    sleep_ms(200); /* what came back from the last one begins anew */
    mr_watch_beat();
    sleep_ms(100);
    CHECK(mr_watch_was_late(&of) > 0.1);
    CHECK_STR(of, "reward");
    CHECK(mr_watch_was_late(&of) == 0);
    mr_watch_stop();
}

/* Ten median steps when that is more; five limits before the first one is done. */
static void limits_grow_with_steps(void) {
    begin(0.05);
    mr_watch_at("data");
    sleep_ms(150);
    CHECK_INT(atomic_load(&n_warned), 0);
    for (int i = 0; i < 9; i++) mr_watch_step(i, i == 4 ? 100 : 0.04);
    sleep_ms(150);
    CHECK_INT(atomic_load(&n_warned), 0);
    until(&n_warned, 1);
    mr_watch_stop();
}

static void the_stack_is_this_one(void) {
    void *frames[16];
    begin(0.05);
    CHECK(mr_watch_thread() > 0);
    CHECK(mr_watch_stack(frames, 16) > 2); /* asked for by the thread itself: it answers at once */
    mr_watch_stop();
    mr_watch_stop();
}

TEST_MAIN({ "moving_is_left_alone", moving_is_left_alone }, { "standing_still_is_told", standing_still_is_told },
          { "limits_grow_with_steps", limits_grow_with_steps }, { "the_stack_is_this_one", the_stack_is_this_one })
