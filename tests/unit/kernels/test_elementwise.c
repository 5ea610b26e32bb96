/* The row-wise operations against double loops, their gradients against differences of those, and the row rule. */
#include "ops_test.h"

static const int widths[] = { 1, 2, 15, 16, 17, 64, 100, 576, 896 };
enum { N_WIDTHS = sizeof widths / sizeof widths[0] };

/* --- rmsnorm --- */

static void rmsnorm_row(double *y, const double *x, const float *w, int C, double eps) {
    double sum = 0;
    for (int c = 0; c < C; c++) sum += x[c] * x[c];
    for (int c = 0; c < C; c++) y[c] = x[c] / sqrt(sum / C + eps) * (double)w[c];
}

static void rmsnorm_by_hand(void) {
    /* mean of squares of (1, 7) is 25: the root is 5 */
    EACH_ISA(b, 1, {
        float x[2] = { 1, 7 }, w[2] = { 1, 10 }, y[2];
        b->rmsnorm(b, y, 2, x, 2, w, 1, 2, 0);
        CHECK_NEAR(y[0], 0.2, 1e-7);
        CHECK_NEAR(y[1], 14, 1e-6);
    })
}

static void rmsnorm_equals_loops(void) {
    EACH_ISA(b, 2, {
        for (int i = 0; i < N_WIDTHS; i++) {
            enum { N = 37 };
            int C = widths[i], ldx = C + 5, ldy = C + 3;
            float *x = random_floats((size_t)(N * ldx), 3), *w = random_floats((size_t)C, 1), *y = poisoned((size_t)(N * ldy));
            double *want = calloc((size_t)C, sizeof *want), *row = calloc((size_t)C, sizeof *row);
            b->rmsnorm(b, y, ldy, x, ldx, w, N, C, 1e-5f);
            for (int n = 0; n < N; n++) {
                for (int c = 0; c < C; c++) row[c] = (double)x[n * ldx + c];
                rmsnorm_row(want, row, w, C, (double)1e-5f);
                CHECK(worst(y + n * ldy, want, (size_t)C) < 1e-6);
                for (int c = C; c < ldy; c++) CHECK(isnan(y[n * ldy + c])); /* between rows nothing is written */
            }
            float *alone = poisoned((size_t)C + 1); /* a row alone, at an odd address, and in place */
            memcpy(alone + 1, x + 11 * ldx, (size_t)C * sizeof *x);
            b->rmsnorm(b, alone + 1, C, alone + 1, C, w, 1, C, 1e-5f);
            CHECK(same_bits(alone + 1, y + 11 * ldy, (size_t)C));
            free(x), free(w), free(y), free(want), free(row), free(alone);
        }
    })
}

static void rmsnorm_gradient_equals_differences(void) {
    EACH_ISA(b, 2, {
        for (int i = 0; i < N_WIDTHS; i++) {
            enum { N = 9 };
            int C = widths[i], lddx = C + 1, lddy = C + 2, ldx = C + 3;
            size_t n = (size_t)C;
            float *x = random_floats(N * (size_t)ldx, 1), *dy = random_floats(N * (size_t)lddy, 1);
            float *w = random_floats(n, 1), *dx = poisoned(N * (size_t)lddx), *dw = poisoned(n);
            double *row = calloc(n, sizeof *row), *y = calloc(n, sizeof *y), *want = calloc(n, sizeof *want);
            double *want_dw = calloc(n, sizeof *want_dw), h = 1e-6, eps = (double)1e-3f;
            for (int r = 0; r < N; r++)
                for (int c = 0; c < C; c++) dx[r * lddx + c] = 0.5f; /* both are added to what is there */
            for (int c = 0; c < C; c++) dw[c] = -2, want_dw[c] = -2;
            b->rmsnorm_bwd(b, dx, lddx, dw, dy, lddy, x, ldx, w, N, C, 1e-3f);
            for (int r = 0; r < N; r++) {
                for (int c = 0; c < C; c++) row[c] = (double)x[r * ldx + c];
                rmsnorm_row(y, row, w, C, eps);
                for (int c = 0; c < C; c++) want_dw[c] += (double)dy[r * lddy + c] * y[c] / (double)w[c];
                for (int c = 0; c < C; c++) {
                    double side[2], old = row[c];
                    for (int s = 0; s < 2; s++) {
                        row[c] = s ? old + h : old - h;
                        rmsnorm_row(y, row, w, C, eps);
                        side[s] = 0;
                        for (int j = 0; j < C; j++) side[s] += (double)dy[r * lddy + j] * y[j];
                    }
                    row[c] = old;
                    want[c] = 0.5 + (side[1] - side[0]) / (2 * h);
                    if (C > 100) c += 40; /* a sample of the long rows */
                }
                for (int c = 0; c < C; c += C > 100 ? 41 : 1)
                    CHECK_NEAR(dx[r * lddx + c], want[c], 1e-5 * (1 + fabs(want[c])));
            }
            CHECK(worst(dw, want_dw, n) < 2e-6);
            float *dx2 = random_floats(N * (size_t)lddx, 0); /* frozen weight, no offset: the same added part */
            b->rmsnorm_bwd(b, dx2, lddx, NULL, dy, lddy, x, ldx, w, N, C, 1e-3f);
            for (int c = 0; c < C; c++) CHECK_NEAR(dx2[c] + 0.5f, dx[c], 1e-6 * (1 + fabs((double)dx[c])));
            free(x), free(dy), free(w), free(dx), free(dw), free(dx2), free(row), free(y), free(want), free(want_dw);
        }
    })
}

static float *copy_of(const float *x, size_t n) {
    return memcpy(poisoned(n), x, n * sizeof *x);
}

/* Heads apart are rmsnorm's rows, whose formula is tested above; trained weights gather them head after head. */
static void head_norm_equals_rmsnorm(void) {
    static const struct { int H, K, D; } heads[] = { { 1, 0, 2 }, { 2, 1, 34 }, { 3, 3, 64 }, { 4, 2, 128 }, { 1, 1, 256 } };
    enum { N = 37 };
    EACH_ISA(b, 2, {
        for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
            int H = heads[i].H, K = heads[i].K, D = heads[i].D, ld = (H + K) * D + 5;
            size_t n = (size_t)(N * ld);
            float *x = random_floats(n, 1), *w = random_floats((size_t)(2 * D), 1), *dy = random_floats(n, 1);
            float *y = random_floats(n, 1), *dx = random_floats(n, 1), *dw = random_floats((size_t)(2 * D), 1);
            float *want_y = copy_of(y, n), *want_dx = copy_of(dx, n), *trained = copy_of(dx, n), *want_dw = copy_of(dw, (size_t)(2 * D));
            for (int h = 0; h < H + K; h++) {
                int at = h * D, k = h < H ? 0 : D;
                b->rmsnorm(b, want_y + at, ld, x + at, ld, w + k, N, D, 1e-5f);
                b->rmsnorm_bwd(b, want_dx + at, ld, want_dw + k, dy + at, ld, x + at, ld, w + k, N, D, 1e-5f);
            }
            b->head_norm(b, y, x, ld, w, w + D, N, H, K, D, 1e-5f);
            b->head_norm_bwd(b, dx, NULL, NULL, dy, x, ld, w, w + D, N, H, K, D, 1e-5f);
            b->head_norm_bwd(b, trained, dw, dw + D, dy, x, ld, w, w + D, N, H, K, D, 1e-5f);
            CHECK(memcmp(y, want_y, n * sizeof *y) == 0);
            CHECK(memcmp(dx, want_dx, n * sizeof *dx) == 0);
            CHECK(memcmp(trained, want_dx, n * sizeof *dx) == 0);
            CHECK(memcmp(dw, want_dw, (size_t)(2 * D) * sizeof *dw) == 0);
            free(x), free(w), free(dy), free(y), free(dx), free(dw), free(want_y), free(want_dx), free(trained), free(want_dw);
        }
    })
}

/* --- rope --- */

static void rope_equals_loops(void) {
    static const struct { int H, D; } heads[] = { { 1, 2 }, { 3, 6 }, { 2, 34 }, { 9, 64 }, { 2, 128 }, { 1, 256 } };
    static const int32_t pos[] = { 0, 1, 2, 63, 64, 1000, 4095, 32767, 131071 };
    enum { N = sizeof pos / sizeof pos[0] };
    EACH_ISA(b, 2, {
        for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
            int H = heads[i].H, D = heads[i].D, ld = H * D + 3, half = D / 2;
            float *x = random_floats((size_t)(N * ld), 1), *y = poisoned((size_t)(N * ld)), freq[128];
            for (int d = 0; d < half; d++) freq[d] = powf(10000.0f, -2.0f * (float)d / (float)D);
            memcpy(y, x, (size_t)(N * ld) * sizeof *x);
            b->rope(b, y, ld, pos, freq, N, H, D, false);
            for (int n = 0; n < N; n++)
                for (int h = 0; h < H; h++)
                    for (int d = 0; d < half; d++) {
                        int at = n * ld + h * D + d;
                        double angle = (double)((float)pos[n] * freq[d]), c = cos(angle), s = sin(angle);
                        CHECK_NEAR(y[at], (double)x[at] * c - (double)x[at + half] * s, 4e-7);
                        CHECK_NEAR(y[at + half], (double)x[at + half] * c + (double)x[at] * s, 4e-7);
                    }
            float row[9 * 64 + 256]; /* one row alone has the same bits */
            memcpy(row, x + 5 * ld, (size_t)(H * D) * sizeof *x);
            b->rope(b, row, H * D, pos + 5, freq, 1, H, D, false);
            CHECK(same_bits(row, y + 5 * ld, (size_t)(H * D)));
            b->rope(b, y, ld, pos, freq, N, H, D, true);
            for (int j = 0; j < N * ld; j++) CHECK_NEAR(y[j], x[j], 5e-7);
            free(x), free(y);
        }
    })
}

/* --- silu, add --- */

static double silu(double z) { return z / (1 + exp(-z)); }

static void silu_equals_loops(void) {
    EACH_ISA(b, 2, {
        for (int i = 0; i < N_WIDTHS; i++) {
            enum { N = 21 };
            int F = widths[i];
            size_t n = (size_t)(N * F);
            float *gu = random_floats(2 * n, 12), *dy = random_floats(n, 1), *y = poisoned(n), *dgu = poisoned(2 * n);
            b->silu_mul(b, y, gu, N, F);
            b->silu_mul_bwd(b, dgu, dy, gu, N, F);
            for (int r = 0; r < N; r++)
                for (int c = 0; c < F; c++) {
                    double g = (double)gu[2 * r * F + c], up = (double)gu[2 * r * F + F + c], d = (double)dy[r * F + c];
                    double want = silu(g) * up, dg = d * up * (silu(g + 1e-5) - silu(g - 1e-5)) / 2e-5;
                    CHECK_NEAR(y[r * F + c], want, 1e-6 * (1e-3 + fabs(want)));
                    CHECK_NEAR(dgu[2 * r * F + c], dg, 2e-6 * (1 + fabs(dg)));
                    CHECK_NEAR(dgu[2 * r * F + F + c], d * silu(g), 1e-6 * (1e-3 + fabs(d * silu(g))));
                }
            float *one = poisoned((size_t)F);
            b->silu_mul(b, one, gu + 2 * 20 * F, 1, F);
            CHECK(same_bits(one, y + 20 * F, (size_t)F));
            free(gu), free(dy), free(y), free(dgu), free(one);
        }
    })
}

static void silu_at_the_ends(void) {
    EACH_ISA(b, 1, {
        float gu[12] = { 0, 100, -100, 1000, -1000, NAN, 1, 1, 1, 1, 1, 1 }, y[6];
        b->silu_mul(b, y, gu, 1, 6);
        CHECK(y[0] == 0);
        CHECK(y[1] == 100);
        CHECK(fabsf(y[2]) < 1e-37f);
        CHECK(y[3] == 1000);
        CHECK(y[4] == 0);
        CHECK(isnan(y[5]));
    })
}

/* The exponential behind everything, seen through silu: g / (1 + e^-g) with g << 0 is g e^g. And through attention's softmax elsewhere. */
static void exponential_to_two_ulp(void) {
    EACH_ISA(b, 1, {
        enum { N = 4000 };
        float *gu = poisoned(2 * N), *y = poisoned(N);
        for (int i = 0; i < N; i++) gu[i] = -18.0f - 0.015f * (float)i, gu[N + i] = 1.0f / gu[i];
        b->silu_mul(b, y, gu, 1, N);
        double most = 0;
        for (int i = 0; i < N; i++) {
            /* three more roundings than the exponential itself: g / x, * up, and up */
            double want = 1 / (1 + exp(-(double)gu[i])), d = fabs((double)y[i] - want) / want;
            if (want > 1.2e-38 && !(d <= most)) most = d;
        }
        CHECK(most < 3.5 * 0x1p-23);
        free(gu), free(y);
    })
}

static void add_equals_loop(void) {
    EACH_ISA(b, 2, {
        for (int64_t n = 0; n < 200000; n = n < 40 ? n + 1 : n * 7) {
            float *x = random_floats((size_t)n, 1), *y = random_floats((size_t)n + 1, 1), *old = poisoned((size_t)n + 1);
            memcpy(old, y, ((size_t)n + 1) * sizeof *y);
            b->add(b, y, x, n);
            bool equal = true;
            for (int64_t i = 0; i < n; i++) equal &= y[i] == old[i] + x[i];
            CHECK(equal);
            CHECK(y[n] == old[n]);
            free(x), free(y), free(old);
        }
    })
}

/* Rows 0..N-1 with 1, 2 and 5 threads. */
static void threads_do_not_show(void) {
    enum { N = 300, C = 200 };
    float *x = random_floats(N * 2 * C, 2), *w = random_floats(C, 1), *dy = random_floats(N * C, 1);
    for (int isa = 0; isa < N_TEST_ISAS; isa++) {
        float *want = NULL;
        for (int n_threads = 1; n_threads <= 5; n_threads += n_threads == 1 ? 1 : 3) {
            mr_backend *b = open_isa(test_isas[isa], n_threads);
            if (!b) break;
            size_t n = (size_t)(5 * N * C + C);
            float *y = random_floats(n, 0);
            b->rmsnorm(b, y, C, x, 2 * C, w, N, C, 1e-6f);
            b->rmsnorm_bwd(b, y + N * C, C, y + 5 * N * C, dy, C, x, 2 * C, w, N, C, 1e-6f);
            b->silu_mul(b, y + 2 * N * C, x, N, C);
            b->silu_mul_bwd(b, y + 3 * N * C, dy, x, N, C);
            if (!want) want = y;
            CHECK(same_bits(want, y, n));
            if (want != y) free(y);
            mr_backend_close(b);
        }
        free(want);
    }
    free(x), free(w), free(dy);
}

TEST_MAIN({ "rmsnorm by hand", rmsnorm_by_hand }, { "rmsnorm equals loops", rmsnorm_equals_loops },
          { "rmsnorm's gradient equals differences", rmsnorm_gradient_equals_differences },
          { "head_norm equals rmsnorm of each head", head_norm_equals_rmsnorm },
          { "rope equals loops and turns back", rope_equals_loops }, { "silu equals loops", silu_equals_loops },
          { "silu at the ends", silu_at_the_ends }, { "exponential to two ulp", exponential_to_two_ulp },
          { "add equals a loop", add_equals_loop }, { "threads do not show", threads_do_not_show })
