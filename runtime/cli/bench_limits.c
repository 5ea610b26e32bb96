/* bench_limits.c - see bench_limits.h. */
#include "cli/bench_limits.h"

#include "base/memory.h"
#include "base/proc.h"

/* Seconds of one call of what fn queues, from as many calls as fill a tenth of a second; the best of three. */
static mr_status time_op(mr_backend *b, void (*fn)(mr_backend *b, void *ctx), void *ctx, double *seconds, mr_err *err) {
    int n = 1;
    double best = 1e30, took = 0;
    fn(b, ctx);
    MR_TRY(b->sync(b, err));
    for (int i = 0; i < 3;) {
        double t0 = mr_now_s();
        for (int k = 0; k < n; k++) fn(b, ctx);
        MR_TRY(b->sync(b, err));
        took = mr_now_s() - t0;
        if (took < 0.1 && n < 1 << 16) {
            n *= 2;
            continue;
        }
        if (took / n < best) best = took / n;
        i++;
    }
    *seconds = best;
    return MR_OK;
}

typedef struct copying {
    void *to, *from;
    size_t bytes;
} copying;

static void copy_once(mr_backend *b, void *ctx) {
    const copying *c = ctx;
    b->copy(b, c->to, c->from, c->bytes);
}

static mr_status measure_copy(mr_limits *l, mr_backend *b, mr_err *err) {
    copying c = { .bytes = (size_t)256 << 20 };
    double s = 0;
    c.to = b->alloc(b, c.bytes);
    c.from = b->alloc(b, c.bytes);
    if (c.from) b->zero(b, c.from, c.bytes); /* memory that nobody has written is one page of zeros in a CPU's cache */
    mr_status st = c.to && c.from ? time_op(b, copy_once, &c, &s, err)
                                  : mr_fail(err, MR_ENOMEM, "bench: two buffers of 256 MB do not fit on %s", b->name);
    if (c.to) b->free(b, c.to);
    if (c.from) b->free(b, c.from);
    if (st == MR_OK) l->copy = 2.0 * (double)c.bytes / s;
    return st;
}

typedef struct multiplying {
    float *y, *x;
    mr_linear l;
    int n;
} multiplying;

static void multiply_once(mr_backend *b, void *ctx) {
    const multiplying *m = ctx;
    b->linear(b, m->y, NULL, m->x, &m->l, m->n, NULL);
}

/* Values of all sizes: a device draws more power for them than for zeros, and runs slower. */
static void fill_random(float *dst, int64_t n) {
    uint32_t state = 1;
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        dst[i] = (float)(int32_t)state * 0x1p-31f;
    }
}

static mr_status random_rows(void *self, float *dst, int64_t row, int64_t n, mr_err *err) {
    (void)row, (void)err;
    fill_random(dst, n * *(const int64_t *)self);
    return MR_OK;
}

static mr_status multiply(double *rate, mr_backend *b, multiplying *m, int64_t size, mr_dtype compute, mr_err *err) {
    size_t bytes = (size_t)size * (size_t)m->n * sizeof(float);
    mr_weight_source source = { &size, random_rows };
    MR_TRY(b->weight_create(b, &m->l.w, source, size, size, 0, compute, compute, MR_USE_FWD, err));
    m->y = b->alloc(b, bytes);
    m->x = b->alloc(b, bytes);
    float *host = mr_try_alloc(bytes);
    if (!m->y || !m->x || !host) {
        mr_free(host);
        return mr_fail(err, MR_ENOMEM, "bench: a product of %lld rows does not fit on %s", (long long)m->n, b->name);
    }
    fill_random(host, size * m->n);
    b->upload(b, m->x, host, bytes);
    mr_status st = b->sync(b, err);
    mr_free(host);
    double s = 0;
    if (st == MR_OK) st = time_op(b, multiply_once, m, &s, err);
    if (st == MR_OK) *rate = 2.0 * (double)m->n * (double)size * (double)size / s;
    return st;
}

mr_status mr_bench_limits(mr_limits *out, mr_backend *b, mr_dtype compute, mr_err *err) {
    *out = (mr_limits){ 0 };
    MR_TRY(measure_copy(out, b, err));
    int64_t size = b->kind == MR_CUDA ? 8192 : 1024;
    multiplying m = { .n = (int)size };
    mr_status st = multiply(&out->product, b, &m, size, compute, err);
    if (m.l.w) b->weight_free(b, m.l.w);
    if (m.y) b->free(b, m.y);
    if (m.x) b->free(b, m.x);
    return st;
}
