/* test_evaluate.c - intervals and the sign test against tables, and which rows are asked. */
#include <math.h>

#include "rl/evaluate.h"
#include "test.h"

static void wilson_by_the_book(void) {
    /* 81 of 263: Newcombe 1998, Statist. Med. 17, 857-872, table I, method 3: 0.2553 to 0.3662 */
    mr_interval x = mr_wilson(81, 263);
    CHECK_NEAR(x.rate, 81.0 / 263, 1e-12);
    CHECK_NEAR(x.low, 0.2553, 5e-5);
    CHECK_NEAR(x.high, 0.3662, 5e-5);
    x = mr_wilson(15, 148); /* the same table: 0.0624 to 0.1605 */
    CHECK_NEAR(x.low, 0.0624, 5e-5);
    CHECK_NEAR(x.high, 0.1605, 5e-5);
    x = mr_wilson(0, 20); /* 0 to 0.1611 */
    CHECK(x.low == 0);
    CHECK_NEAR(x.high, 0.1611, 5e-5);
    x = mr_wilson(1, 29); /* 0.0061 to 0.1718 */
    CHECK_NEAR(x.low, 0.0061, 5e-5);
    CHECK_NEAR(x.high, 0.1718, 5e-5);
    x = mr_wilson(29, 29);
    CHECK(x.high == 1);
    CHECK_NEAR(x.low, 0.8830, 5e-5);
    x = mr_wilson(0, 0);
    CHECK(isnan(x.rate) && x.low == 0 && x.high == 1);
}

static void signs(void) {
    CHECK(mr_sign_test(0, 0) == 1);
    CHECK(mr_sign_test(4, 4) == 1);
    CHECK_NEAR(mr_sign_test(5, 0), 0.0625, 1e-12);      /* 2 / 2^5 */
    CHECK_NEAR(mr_sign_test(1, 9), 22.0 / 1024, 1e-12); /* 2 (1 + 10) / 2^10 */
    CHECK_NEAR(mr_sign_test(9, 1), mr_sign_test(1, 9), 1e-15);
    const double far = mr_sign_test(2000, 1000); /* no overflow of 3000! */
    CHECK(far > 0 && far < 1e-60);
}

static void rows_are_spread(void) {
    for (int64_t i = 0; i < 5; i++) CHECK_INT(mr_eval_row(i, 5, 9), i);
    int64_t last = -1;
    for (int64_t i = 0; i < 100; i++) {
        const int64_t row = mr_eval_row(i, 7405, 100);
        CHECK(row > last && row < 7405);
        last = row;
    }
    CHECK_INT(mr_eval_row(0, 7405, 100), 0);
    CHECK_INT(last, 7330);
}

TEST_MAIN({ "wilson_by_the_book", wilson_by_the_book }, { "signs", signs }, { "rows_are_spread", rows_are_spread })
