/* ops_test.h - what the tests of operations share: a backend for each instruction set and thread count, numbers that are the same in
 * every run, NaN poison, and comparison bit by bit. */
#ifndef MR_OPS_TEST_H
#define MR_OPS_TEST_H

#include <stdlib.h>

#include "kernels.h"
#include "test.h"

static const char *const test_isas[] = { "avx512", "avx2", "generic" };
enum { N_TEST_ISAS = 3 };

/* NULL when this machine lacks the instruction set. */
static inline mr_backend *open_isa(const char *isa, int n_threads) {
    mr_backend *b = NULL;
    mr_err err;
    setenv("MEDRL_CPU_ISA", isa, 1);
    mr_status st = mr_backend_open(&b, MR_CPU, 0, n_threads, &err);
    unsetenv("MEDRL_CPU_ISA");
    if (st != MR_OK) fprintf(stderr, "%s is left out: %s\n", isa, err.msg);
    return b;
}

/* Runs body with `b` open for every instruction set of the machine; `isa` is its name. */
#define EACH_ISA(b, n_threads, ...)                                                                                   \
    for (int isa_ = 0; isa_ < N_TEST_ISAS; isa_++) {                                                                  \
        mr_backend *b = open_isa(test_isas[isa_], n_threads);                                                         \
        if (!b) continue;                                                                                             \
        __VA_ARGS__                                                                                                   \
        mr_err err_;                                                                                                  \
        REQUIRE_OK(b->sync(b, &err_), err_);                                                                          \
        mr_backend_close(b);                                                                                          \
    }

static uint32_t test_seed = 1;
static inline float random_float(void) { /* [-1, 1) */
    test_seed = test_seed * 1664525u + 1013904223u;
    return (float)(test_seed >> 8) / 8388608.0f - 1.0f;
}
static inline float *random_floats(size_t n, float scale) {
    REQUIRE(n < (size_t)1 << 30);
    float *x = malloc((n ? n : 1) * sizeof *x);
    REQUIRE(x);
    for (size_t i = 0; i < n; i++) x[i] = scale * random_float();
    return x;
}
static inline float *poisoned(size_t n) {
    REQUIRE(n < (size_t)1 << 30);
    float *x = malloc((n ? n : 1) * sizeof *x);
    REQUIRE(x);
    for (size_t i = 0; i < n; i++) x[i] = NAN;
    return x;
}
static inline bool same_bits(const float *a, const float *b, size_t n) { return memcmp(a, b, n * sizeof *a) == 0; }

/* The largest difference, relative to the largest wanted size (at least 1e-6); infinite for NaN. */
static inline double worst(const float *got, const double *want, size_t n) {
    double diff = 0, size = 1e-6;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);
        if (!(d <= diff)) diff = isnan(d) ? HUGE_VAL : d;
        if (fabs(want[i]) > size) size = fabs(want[i]);
    }
    return diff / size;
}

#endif
