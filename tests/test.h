/* test.h - a thin layer over cmocka: checks that print both values and go on, and a main from a table.
 *
 *     static void adds(void) { CHECK(1 + 1 == 2); CHECK_NEAR(x, 0.5, 1e-6); }
 *     TEST_MAIN({ "adds", adds })
 *
 * GOLDEN("x.json") is the path of a fixture. A failed CHECK marks its test failed and continues, so one run shows all. */
#ifndef MR_TEST_H
#define MR_TEST_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
/* cmocka wants the four above first */
#include <cmocka.h>

#define GOLDEN(file) MR_GOLDEN "/" file

static int test_failures_;

#define CHECK(cond)                                                                                                   \
    do {                                                                                                              \
        if (!(cond)) {                                                                                                \
            test_failures_++;                                                                                         \
            if (test_failures_ <= 20) fprintf(stderr, "%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #cond);        \
        }                                                                                                             \
    } while (0)
#define CHECK_NEAR(got, want, tol)                                                                                    \
    do {                                                                                                              \
        double got_ = (double)(got), want_ = (double)(want);                                                          \
        if (!(fabs(got_ - want_) <= (double)(tol))) {                                                                 \
            test_failures_++;                                                                                         \
            if (test_failures_ <= 20)                                                                                 \
                fprintf(stderr, "%s:%d: %s is %.9g, want %.9g (tolerance %.3g)\n", __FILE__, __LINE__, #got, got_,    \
                        want_, (double)(tol));                                                                        \
        }                                                                                                             \
    } while (0)
#define CHECK_INT(got, want)                                                                                          \
    do {                                                                                                              \
        long long got_ = (long long)(got), want_ = (long long)(want);                                                 \
        if (got_ != want_) {                                                                                          \
            test_failures_++;                                                                                         \
            if (test_failures_ <= 20)                                                                                 \
                fprintf(stderr, "%s:%d: %s is %lld, want %lld\n", __FILE__, __LINE__, #got, got_, want_);             \
        }                                                                                                             \
    } while (0)
#define CHECK_STR(got, want)                                                                                          \
    do {                                                                                                              \
        const char *got_ = (got), *want_ = (want);                                                                    \
        if (!got_ || strcmp(got_, want_) != 0) {                                                                      \
            test_failures_++;                                                                                         \
            if (test_failures_ <= 20)                                                                                 \
                fprintf(stderr, "%s:%d: %s is \"%s\", want \"%s\"\n", __FILE__, __LINE__, #got,                      \
                        got_ ? got_ : "(null)", want_);                                                               \
        }                                                                                                             \
    } while (0)
#define CHECK_CONTAINS(text, part)                                                                                    \
    do {                                                                                                              \
        const char *text_ = (text), *part_ = (part);                                                                  \
        if (!text_ || !strstr(text_, part_)) {                                                                        \
            test_failures_++;                                                                                         \
            if (test_failures_ <= 20)                                                                                 \
                fprintf(stderr, "%s:%d: \"%s\" does not contain \"%s\"\n", __FILE__, __LINE__,                       \
                        text_ ? text_ : "(null)", part_);                                                             \
        }                                                                                                             \
    } while (0)
/* For what the rest of the test cannot do without. */
#define REQUIRE(cond)                                                                                                 \
    do {                                                                                                              \
        if (!(cond)) fail_msg("%s:%d: REQUIRE(%s) failed", __FILE__, __LINE__, #cond);                                \
    } while (0)
#define REQUIRE_OK(call, err)                                                                                         \
    do {                                                                                                              \
        if ((call) != MR_OK) fail_msg("%s:%d: %s: %s", __FILE__, __LINE__, #call, (err).msg);                         \
    } while (0)

typedef struct test_entry_ {
    const char *name;
    void (*run)(void);
} test_entry_;

static void test_run_one_(void **state) {
    const test_entry_ *e = *state;
    test_failures_ = 0;
    e->run();
    if (test_failures_) fail_msg("%s: %d checks failed", e->name, test_failures_);
}

#define TEST_MAIN(...)                                                                                                \
    int main(void) {                                                                                                  \
        static test_entry_ entries[] = { __VA_ARGS__ };                                                               \
        enum { n_entries = sizeof entries / sizeof entries[0] };                                                      \
        static struct CMUnitTest tests[n_entries];                                                                    \
        for (int i = 0; i < n_entries; i++)                                                                           \
            tests[i] = (struct CMUnitTest){ entries[i].name, test_run_one_, NULL, NULL, &entries[i] };                \
        return cmocka_run_group_tests(tests, NULL, NULL);                                                             \
    }

#endif
