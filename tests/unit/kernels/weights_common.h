/* weights_common.h - what the tests of weights and products share: noise, weights from a matrix, all instruction sets.
 * */
#ifndef MR_TEST_WEIGHTS_COMMON_H
#define MR_TEST_WEIGHTS_COMMON_H

#include "test.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "kernels.h"

static uint32_t noise_state_ = 7;
static inline float noise(void) { /* uniform in [-1, 1) */
    noise_state_ = noise_state_ * 1664525u + 1013904223u;
    return (float)(noise_state_ >> 8) / 8388608.0f - 1.0f;
}

/* n values with `guard` NaN behind them, so that a product that reads too far shows. Free with mr_free. */
static inline float *noise_new(int64_t n, float scale) {
    float *x = mr_alloc((size_t)(n + 16) * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = scale * noise();
    for (int64_t i = n; i < n + 16; i++) x[i] = NAN;
    return x;
}

static inline float *poison_new(int64_t n) {
    float *x = mr_alloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = NAN;
    return x;
}

static inline float to_bf16(float f) { /* nearest, ties to even; finite values */
    uint32_t u;
    memcpy(&u, &f, 4);
    u = (u + 0x7fffu + (u >> 16 & 1u)) & 0xffff0000u;
    memcpy(&f, &u, 4);
    return f;
}

/* f16: 11 significant bits, steps of 2^-24 below 2^-14, ties to even (nearbyint), infinity above. In double, unlike the program. */
static inline float to_f16(float f) {
    int e;
    if (!isfinite(f)) return f;
    frexp((double)f, &e);
    double step = ldexp(1.0, e - 11 < -24 ? -24 : e - 11), r = nearbyint((double)f / step) * step;
    return (float)(fabs(r) >= 65536 ? copysign((double)INFINITY, (double)f) : copysign(r, (double)f));
}

typedef struct matrix_source {
    const float *values;
    int64_t n_in, next;
    int calls;
    int64_t fail_at; /* fails when this row is asked for; -1: never */
} matrix_source;

static inline mr_status matrix_rows(void *self, float *dst, int64_t row, int64_t n, mr_err *err) {
    matrix_source *m = self;
    m->calls++;
    if (row == 0) m->next = 0;
    CHECK_INT(row, m->next); /* ascending, without holes */
    m->next = row + n;
    if (m->fail_at >= row && m->fail_at < row + n)
        return mr_fail(err, MR_EDATA, "source: row %d is bad", (int)m->fail_at);
    memcpy(dst, m->values + row * m->n_in, (size_t)(n * m->n_in) * sizeof *dst);
    return MR_OK;
}

static inline mr_weight *weight_new(mr_backend *b, const float *values, int64_t n_out, int64_t n_in, mr_dtype store,
                                    mr_dtype compute, unsigned uses) {
    mr_err err;
    mr_weight *w = NULL;
    matrix_source m = { values, n_in, 0, 0, -1 };
    REQUIRE_OK(b->weight_create(b, &w, (mr_weight_source){ &m, matrix_rows }, n_out, n_in, 0, store, compute, uses, &err),
               err);
    CHECK_INT(m.next, n_out);
    return w;
}

static const char *const all_isas[] = { "generic", "avx2", "avx512", "avx512_bf16", "amx" };
enum { N_ISAS = 5 };

/* NULL when this machine lacks the level. */
static inline mr_backend *open_isa(const char *isa, int threads) {
    mr_err err;
    mr_backend *b = NULL;
    setenv("MEDRL_CPU_ISA", isa, 1);
    mr_status st = mr_backend_open(&b, MR_CPU, 0, threads, &err);
    unsetenv("MEDRL_CPU_ISA");
    if (st != MR_OK) {
        CHECK_INT(st, MR_EINVAL);
        CHECK(b == NULL);
        CHECK_CONTAINS(err.msg, "this machine has no");
        return NULL;
    }
    return b;
}

typedef struct weight_kind {
    const char *name;
    mr_dtype store, compute;
} weight_kind;
static const weight_kind all_kinds[] = {
    { "f32", MR_F32, MR_F32 },        { "bf16", MR_BF16, MR_BF16 },       { "bf16 in f32", MR_BF16, MR_F32 },
    { "nf4 in f32", MR_NF4, MR_F32 }, { "nf4 in bf16", MR_NF4, MR_BF16 }, { "f16", MR_F16, MR_F16 },
    { "f32 in f16", MR_F32, MR_F16 }, { "f16 in f32", MR_F16, MR_F32 },   { "nf4 in f16", MR_NF4, MR_F16 },
};
enum { N_KINDS = sizeof all_kinds / sizeof all_kinds[0] };

/* What products of this type make of a value. */
static inline float rounded(float v, mr_dtype type) {
    return type == MR_BF16 ? to_bf16(v) : type == MR_F16 ? to_f16(v) : v;
}
/* The type that a dense weight is kept in. */
static inline mr_dtype kept(const weight_kind *k) {
    return k->compute != MR_F32 ? k->compute : k->store;
}

#endif
