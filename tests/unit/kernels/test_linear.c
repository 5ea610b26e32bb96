/* Linear layers against loops in double, for every instruction set, kind of weight and odd size; their gradients
 * against the same loops and against finite differences. */
#include "weights_common.h"

/* The sum of n products in f32 in one chain is off by at most about n * 2^-24 of the sum of magnitudes; rounding of
 * the epilogue adds a few. Observed: below a tenth of it. */
static double bound(double magnitude, int64_t n) {
    return magnitude * (double)(n + 8) * ldexp(1.0, -24) + 1e-30;
}

/* What a product of this compute type makes of a value. */
static double seen(float v, mr_dtype compute) {
    return (double)rounded(v, compute);
}

typedef struct layer {
    mr_linear l;
    int64_t O, I;
    float *w, *a, *b[3], *bias; /* w: the values that products use */
    mr_dtype compute;
    double worst; /* largest error seen, as a part of its bound */
} layer;

static layer layer_new(mr_backend *b, int64_t O, int64_t I, const weight_kind *kind, int n_lora, bool grads,
                       bool bias) {
    layer s = { .O = O, .I = I, .compute = kind->compute };
    float *w = noise_new(O * I, 0.5f);
    s.l.w = weight_new(b, w, O, I, kind->store, kind->compute, MR_USE_FWD | MR_USE_BWD);
    mr_free(w);
    s.w = poison_new(O * I);
    b->weight_rows(b, s.w, s.l.w, 0, O);
    if (bias) s.l.bias = s.bias = noise_new(O, 1.0f);
    if (grads) {
        s.l.dw = noise_new(O * I, 1.0f);
        s.l.dbias = noise_new(O, 1.0f);
    }
    s.l.n_lora = n_lora;
    if (!n_lora) return s;
    int64_t at = 0;
    mr_dtype store = kind->compute;
    for (int i = 0; i < n_lora; i++) { /* parts of uneven size, odd ranks among them; a hole before the last */
        mr_lora_part *p = &s.l.lora[i];
        int64_t left = O - at, rows = i + 1 == n_lora ? left : left / 2;
        p->row0 = (int)at, p->rows = (int)rows;
        at += rows;
        p->r = 3 + 5 * i, p->r0 = s.l.r_total;
        s.l.r_total += p->r;
        p->scale = 0.5f + (float)i;
        s.b[i] = noise_new(rows * p->r, 0.5f);
        p->b = weight_new(b, s.b[i], rows, p->r, store, kind->compute, MR_USE_FWD | MR_USE_BWD);
        if (grads) p->db = noise_new(rows * p->r, 1.0f);
    }
    s.a = noise_new(s.l.r_total * I, 0.5f);
    s.l.a = weight_new(b, s.a, s.l.r_total, I, store, kind->compute, MR_USE_FWD | MR_USE_BWD);
    if (grads) s.l.da = noise_new(s.l.r_total * I, 1.0f);
    return s;
}

static void layer_free(mr_backend *b, layer *s) {
    b->weight_free(b, s->l.w);
    b->weight_free(b, s->l.a);
    for (int i = 0; i < s->l.n_lora; i++) {
        b->weight_free(b, s->l.lora[i].b);
        mr_free(s->l.lora[i].db);
        mr_free(s->b[i]);
    }
    mr_free(s->w), mr_free(s->a), mr_free(s->bias);
    mr_free(s->l.da), mr_free(s->l.dw), mr_free(s->l.dbias);
}

static void near_bound(layer *s, float got, double want, double magnitude, int64_t n) {
    double limit = bound(magnitude, n);
    CHECK_NEAR(got, want, limit);
    double part = fabs((double)got - want) / limit;
    if (part > s->worst) s->worst = part;
}

static void check_forward(mr_backend *b, layer *s, int N, bool add) {
    int64_t O = s->O, I = s->I, R = s->l.r_total;
    mr_dtype c = s->compute;
    float *x = noise_new(N * I, 1.0f), *y = poison_new(N * O), *u = poison_new(N * R + 1),
          *old = noise_new(N * O, 1.0f);
    b->linear(b, y, R ? u : NULL, x, &s->l, N, add ? old : NULL);
    for (int n = 0; n < N; n++) {
        for (int64_t r = 0; r < R; r++) {
            double sum = 0, mag = 0;
            for (int64_t i = 0; i < I; i++) {
                double t = seen(x[n * I + i], c) * seen(s->a[r * I + i], c);
                sum += t, mag += fabs(t);
            }
            near_bound(s, u[n * R + r], sum, mag, I);
        }
        for (int64_t o = 0; o < O; o++) {
            double sum = 0, mag = 0;
            for (int64_t i = 0; i < I; i++) {
                double t = seen(x[n * I + i], c) * (double)s->w[o * I + i];
                sum += t, mag += fabs(t);
            }
            if (s->bias) sum += (double)s->bias[o], mag += fabs((double)s->bias[o]);
            if (add) sum += (double)old[n * O + o], mag += fabs((double)old[n * O + o]);
            for (int p = 0; p < s->l.n_lora; p++) {
                const mr_lora_part *part = &s->l.lora[p];
                if (o < part->row0 || o >= part->row0 + part->rows) continue;
                for (int r = 0; r < part->r; r++) { /* from the u that it made, which is checked above */
                    double t = (double)part->scale * seen(u[n * R + part->r0 + r], c) *
                               seen(s->b[p][(o - part->row0) * part->r + r], c);
                    sum += t, mag += fabs(t);
                }
            }
            near_bound(s, y[n * O + o], sum, mag, I + R);
        }
    }
    mr_free(x), mr_free(y), mr_free(u), mr_free(old);
}

static float *copy_of(const float *x, int64_t n) {
    float *y = mr_alloc((size_t)(n + 1) * sizeof *y);
    if (x) memcpy(y, x, (size_t)n * sizeof *y);
    return y;
}

static void check_backward(mr_backend *b, layer *s, int N, bool add) {
    int64_t O = s->O, I = s->I, R = s->l.r_total;
    mr_dtype c = s->compute;
    float *x = noise_new(N * I, 1.0f), *dy = noise_new(N * O, 1.0f), *u = noise_new(N * R, 1.0f);
    float *dx = poison_new(N * I), *du = poison_new(N * R + 1), *old = noise_new(N * I, 1.0f);
    float *da = copy_of(s->l.da, R * I), *dw = copy_of(s->l.dw, O * I), *dbias = copy_of(s->l.dbias, O), *db[3] = { 0 };
    for (int p = 0; p < s->l.n_lora; p++) db[p] = copy_of(s->l.lora[p].db, (int64_t)s->l.lora[p].rows * s->l.lora[p].r);
    if (add) memcpy(dx, old, (size_t)(N * I) * sizeof *dx);
    b->linear_bwd(b, dx, R ? du : NULL, dy, x, R ? u : NULL, &s->l, N, add);
    for (int p = 0; p < s->l.n_lora; p++) {
        const mr_lora_part *part = &s->l.lora[p];
        for (int n = 0; n < N; n++)
            for (int r = 0; r < part->r; r++) {
                double sum = 0, mag = 0;
                for (int o = 0; o < part->rows; o++) {
                    double t =
                        (double)part->scale * seen(dy[n * O + part->row0 + o], c) * seen(s->b[p][o * part->r + r], c);
                    sum += t, mag += fabs(t);
                }
                near_bound(s, du[n * R + part->r0 + r], sum, mag, part->rows);
            }
        for (int o = 0; o < part->rows; o++)
            for (int r = 0; r < part->r; r++) {
                double sum = (double)db[p][o * part->r + r], mag = fabs(sum);
                for (int n = 0; n < N; n++) {
                    double t =
                        (double)part->scale * (double)dy[n * O + part->row0 + o] * (double)u[n * R + part->r0 + r];
                    sum += t, mag += fabs(t);
                }
                near_bound(s, part->db[o * part->r + r], sum, mag, N);
            }
    }
    for (int n = 0; n < N; n++)
        for (int64_t i = 0; i < I; i++) {
            double sum = add ? (double)old[n * I + i] : 0, mag = fabs(sum);
            for (int64_t o = 0; o < O; o++) {
                double t = seen(dy[n * O + o], c) * (double)s->w[o * I + i];
                sum += t, mag += fabs(t);
            }
            for (int64_t r = 0; r < R; r++) {
                double t = seen(du[n * R + r], c) * seen(s->a[r * I + i], c);
                sum += t, mag += fabs(t);
            }
            near_bound(s, dx[n * I + i], sum, mag, O + R);
        }
    for (int64_t r = 0; r < R; r++)
        for (int64_t i = 0; i < I; i++) {
            double sum = (double)da[r * I + i], mag = fabs(sum);
            for (int n = 0; n < N; n++) {
                double t = (double)du[n * R + r] * (double)x[n * I + i];
                sum += t, mag += fabs(t);
            }
            near_bound(s, s->l.da[r * I + i], sum, mag, N);
        }
    for (int64_t o = 0; o < O; o++) {
        double total = (double)dbias[o], total_mag = fabs(total);
        for (int n = 0; n < N; n++) total += (double)dy[n * O + o], total_mag += fabs((double)dy[n * O + o]);
        near_bound(s, s->l.dbias[o], total, total_mag, N);
        for (int64_t i = 0; i < I; i++) {
            double sum = (double)dw[o * I + i], mag = fabs(sum);
            for (int n = 0; n < N; n++) {
                double t = (double)dy[n * O + o] * (double)x[n * I + i];
                sum += t, mag += fabs(t);
            }
            near_bound(s, s->l.dw[o * I + i], sum, mag, N);
        }
    }
    for (int p = 0; p < 3; p++) mr_free(db[p]);
    mr_free(x), mr_free(dy), mr_free(u), mr_free(dx), mr_free(du), mr_free(old), mr_free(da), mr_free(dw),
        mr_free(dbias);
}

/* N, O, I: ones, odd, just over a panel, whole blocks of NF4, and more inputs (outputs) than one block of K. */
static const int sizes[][3] = {
    { 1, 3, 1 },     { 1, 64, 64 },   { 3, 20, 36 },  { 7, 65, 33 },  { 6, 128, 64 },  { 2, 24, 20 },
    { 13, 130, 67 }, { 50, 40, 128 }, { 2, 9, 2117 }, { 2, 2117, 9 }, { 5, 70, 2176 },
};
enum { N_SIZES = sizeof sizes / sizeof sizes[0] };

static void all_sizes(void (*run)(mr_backend *b, layer *s, int N, bool add), bool grads) {
    for (int isa = 0; isa < N_ISAS; isa++) {
        mr_backend *b = open_isa(all_isas[isa], 2);
        if (!b) continue;
        mr_err err;
        double worst = 0;
        for (int k = 0; k < N_KINDS; k++)
            for (int i = 0; i < N_SIZES; i++) {
                const int *z = sizes[i];
                int n_lora = z[1] < 20 ? i % 2 : (i + k) % 4;
                layer s = layer_new(b, z[1], z[2], &all_kinds[k], n_lora, grads, (i + k) % 3 != 0);
                run(b, &s, z[0], (i + k) & 1);
                if (s.worst > worst) worst = s.worst;
                layer_free(b, &s);
            }
        CHECK(worst < 0.5);
        CHECK_INT(b->sync(b, &err), MR_OK);
        mr_backend_close(b);
    }
}

static void forward_equals_double_loops(void) {
    all_sizes(check_forward, false);
}
static void backward_equals_double_loops(void) {
    all_sizes(check_backward, true);
}

/* y = x w^T with whole numbers that one can check by hand; the stacked adapters too. */
static void by_hand(void) {
    mr_err err;
    mr_backend *b;
    REQUIRE_OK(mr_backend_open(&b, MR_CPU, 0, 1, &err), err);
    const float w[6] = { 1, 2, 3, 4, 5, 6 }, a[3] = { 1, 0, -1 }, lb[1] = { 5 }, x[3] = { 1, 1, 2 },
                bias[2] = { 100, 200 };
    mr_linear l = {
        .w = weight_new(b, w, 2, 3, MR_F32, MR_F32, MR_USE_FWD | MR_USE_BWD), .bias = bias, .n_lora = 1, .r_total = 1
    };
    l.a = weight_new(b, a, 1, 3, MR_F32, MR_F32, MR_USE_FWD | MR_USE_BWD);
    l.lora[0] = (mr_lora_part){ .row0 = 1,
                                .rows = 1,
                                .r0 = 0,
                                .r = 1,
                                .scale = 2,
                                .b = weight_new(b, lb, 1, 1, MR_F32, MR_F32, MR_USE_FWD | MR_USE_BWD) };
    float y[2] = { NAN, NAN }, u[1] = { NAN };
    b->linear(b, y, u, x, &l, 1, NULL);
    CHECK_NEAR(u[0], -1, 0);       /* 1 - 2 */
    CHECK_NEAR(y[0], 109, 0);      /* 1 + 2 + 6 + 100 */
    CHECK_NEAR(y[1], 221 - 10, 0); /* 4 + 5 + 12 + 200 + 2 * 5 * -1 */
    b->linear(b, y, u, x, &l, 1, y);
    CHECK_NEAR(y[0], 218, 0);
    CHECK_NEAR(y[1], 422, 0);
    const float dy[2] = { 1, 10 };
    float dx[3] = { 1000, 1000, 1000 }, du[1] = { NAN }, da[3] = { 0 }, db[1] = { 0.5f }, dw[6] = { 0 },
          dbias[2] = { 7, 7 };
    l.da = da, l.dw = dw, l.dbias = dbias, l.lora[0].db = db;
    b->linear_bwd(b, dx, du, dy, x, u, &l, 1, true);
    CHECK_NEAR(du[0], 100, 0); /* 2 * 10 * 5 */
    CHECK_NEAR(dx[0], 1000 + 1 + 40 + 100, 0);
    CHECK_NEAR(dx[1], 1000 + 2 + 50, 0);
    CHECK_NEAR(dx[2], 1000 + 3 + 60 - 100, 0);
    CHECK_NEAR(da[2], 200, 0);      /* du * x */
    CHECK_NEAR(db[0], 0.5 - 20, 0); /* 2 * 10 * u */
    CHECK_NEAR(dw[4], 10, 0);
    CHECK_NEAR(dbias[1], 17, 0);
    /* without dx only the gradients move */
    b->linear_bwd(b, NULL, du, dy, x, u, &l, 1, false);
    CHECK_NEAR(da[2], 400, 0);
    CHECK_NEAR(dbias[0], 9, 0);
    /* frozen: nothing but dx */
    l.da = l.dw = l.dbias = NULL, l.lora[0].db = NULL;
    b->linear_bwd(b, dx, du, dy, x, u, &l, 1, false);
    CHECK_NEAR(dx[0], 1 + 40 + 100, 0);
    /* no rows: nothing happens */
    b->linear(b, y, u, x, &l, 0, NULL);
    CHECK_NEAR(y[0], 218, 0);
    b->weight_free(b, l.w), b->weight_free(b, l.a), b->weight_free(b, l.lora[0].b);
    b->weight_free(b, NULL);
    CHECK_INT(b->sync(b, &err), MR_OK);
    mr_backend_close(b);
}

/* loss = sum of g * y. Its slope along x, A and B, from the values at +h and -h in f32 weights. The function is linear
 * in each of the three, so the difference has no error of its own but rounding: 1e-3 of slopes near 3; observed 2e-4.
  **/
static double loss(mr_backend *b, const mr_linear *l, const float *x, const float *g, int N, int64_t O, float *u) {
    float *y = poison_new(N * O);
    b->linear(b, y, u, x, l, N, NULL);
    double sum = 0;
    for (int64_t i = 0; i < N * O; i++) sum += (double)g[i] * (double)y[i];
    mr_free(y);
    return sum;
}

static void gradients_equal_finite_differences(void) {
    enum { N = 5, O = 30, I = 21 };
    mr_err err;
    mr_backend *b;
    REQUIRE_OK(mr_backend_open(&b, MR_CPU, 0, 2, &err), err);
    layer s = layer_new(b, O, I, &all_kinds[0], 2, true, true);
    int64_t R = s.l.r_total;
    float *x = noise_new(N * I, 1.0f), *g = noise_new(N * O, 1.0f), *u = poison_new(N * R), *du = poison_new(N * R),
          *dx = poison_new(N * I);
    memset(s.l.da, 0, (size_t)(R * I) * sizeof(float));
    memset(s.l.lora[1].db, 0, (size_t)(s.l.lora[1].rows * s.l.lora[1].r) * sizeof(float));
    loss(b, &s.l, x, g, N, O, u);
    b->linear_bwd(b, dx, du, g, x, u, &s.l, N, false);
    const float h = 0.25f;
    for (int64_t i = 0; i < N * I; i += 7) {
        float keep = x[i];
        x[i] = keep + h;
        double up = loss(b, &s.l, x, g, N, O, u);
        x[i] = keep - h;
        double down = loss(b, &s.l, x, g, N, O, u);
        x[i] = keep;
        CHECK_NEAR(dx[i], (up - down) / (2 * (double)h), 1e-3);
    }
    struct {
        float *values, *grad;
        mr_weight *w;
        int64_t n;
    } params[] = {
        { s.a, s.l.da, s.l.a, R * I },
        { s.b[1], s.l.lora[1].db, s.l.lora[1].b, s.l.lora[1].rows * s.l.lora[1].r },
    };
    for (int p = 0; p < 2; p++)
        for (int64_t i = 0; i < params[p].n; i += 5) {
            float keep = params[p].values[i];
            params[p].values[i] = keep + h;
            b->weight_set(b, &(mr_weight_values){ params[p].w, params[p].values }, 1);
            double up = loss(b, &s.l, x, g, N, O, u);
            params[p].values[i] = keep - h;
            b->weight_set(b, &(mr_weight_values){ params[p].w, params[p].values }, 1);
            double down = loss(b, &s.l, x, g, N, O, u);
            params[p].values[i] = keep;
            b->weight_set(b, &(mr_weight_values){ params[p].w, params[p].values }, 1);
            CHECK_NEAR(params[p].grad[i], (up - down) / (2 * (double)h), 1e-3);
        }
    mr_free(x), mr_free(g), mr_free(u), mr_free(du), mr_free(dx);
    layer_free(b, &s);
    CHECK_INT(b->sync(b, &err), MR_OK);
    mr_backend_close(b);
}

TEST_MAIN({ "by hand", by_hand }, { "forward equals double loops", forward_equals_double_loops },
          { "backward equals double loops", backward_equals_double_loops },
          { "gradients equal finite differences", gradients_equal_finite_differences })
