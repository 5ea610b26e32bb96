/* The row rule of products: a row has the same bits alone, among 600, behind other rows, with one thread or two, in a
 * buffer that begins anywhere; forward and backward, for every instruction set and both engines. And gradients do not
 * depend on threads. */
#include "weights_common.h"

typedef struct job {
    mr_backend *b;
    mr_linear l;
    int64_t O, I;
    int most;
    float *x, *dy, *y, *dx, *u; /* inputs, and what all rows at once gave */
} job;

static void run(const job *j, int from, int n, float *y, float *dx, float *u, float *du) {
    int64_t R = j->l.r_total;
    j->b->linear(j->b, y, R ? u : NULL, j->x + from * j->I, &j->l, n, NULL);
    j->b->linear_bwd(j->b, dx, R ? du : NULL, j->dy + from * j->O, j->x + from * j->I, R ? u : NULL, &j->l, n, false);
}

static void compare(const job *j, int from, int n) {
    int64_t R = j->l.r_total;
    /* one value off the alignment of the buffers */
    float *y = poison_new(n * j->O + 1), *dx = poison_new(n * j->I + 1), *u = poison_new(n * R + 1),
          *du = poison_new(n * R + 1);
    run(j, from, n, y + 1, dx + 1, u, du);
    bool same = memcmp(y + 1, j->y + from * j->O, (size_t)(n * j->O) * sizeof *y) == 0 &&
                memcmp(dx + 1, j->dx + from * j->I, (size_t)(n * j->I) * sizeof *dx) == 0 &&
                memcmp(u, j->u + from * R, (size_t)(n * R) * sizeof *u) == 0;
    if (!same)
        fprintf(stderr, "rows %d..%d of [%d, %d] on %s differ\n", from, from + n - 1, (int)j->O, (int)j->I,
                j->b->device);
    CHECK(same);
    mr_free(y), mr_free(dx), mr_free(u), mr_free(du);
}

static void check_layer(mr_backend *b, int64_t O, int64_t I, const weight_kind *kind, bool lora, int most,
                        bool all_counts) {
    job j = { .b = b, .O = O, .I = I, .most = most };
    float *w = noise_new(O * I, 0.5f);
    j.l.w = weight_new(b, w, O, I, kind->store, kind->compute, MR_USE_FWD | MR_USE_BWD);
    if (lora) {
        j.l.n_lora = 1, j.l.r_total = 16;
        j.l.a = weight_new(b, w, 16, I, kind->compute, kind->compute, MR_USE_FWD | MR_USE_BWD);
        j.l.lora[0] =
            (mr_lora_part){ .row0 = 0,
                            .rows = (int)O,
                            .r0 = 0,
                            .r = 16,
                            .scale = 2,
                            .b = weight_new(b, w + 5, O, 16, kind->compute, kind->compute, MR_USE_FWD | MR_USE_BWD) };
    }
    mr_free(w);
    j.x = noise_new(most * I, 1), j.dy = noise_new(most * O, 1);
    j.y = poison_new(most * O), j.dx = poison_new(most * I), j.u = poison_new(most * 16 + 1);
    float *du = poison_new(most * 16 + 1);
    run(&j, 0, most, j.y, j.dx, j.u, du);
    if (all_counts)
        for (int n = 1; n <= 70; n++) compare(&j, (n * 7) % (most - n), n);
    else
        for (int n = 1; n <= 64; n *= 2) compare(&j, (n * 7) % (most - n), n);
    compare(&j, most - 1, 1);
    mr_free(j.x), mr_free(j.dy), mr_free(j.y), mr_free(j.dx), mr_free(j.u), mr_free(du);
    b->weight_free(b, j.l.w), b->weight_free(b, j.l.a), b->weight_free(b, j.l.lora[0].b);
}

static void rows_do_not_depend_on_their_number(void) {
    mr_err err;
    for (int threads = 1; threads <= 2; threads++)
        for (int isa = 0; isa < N_ISAS; isa++) {
            mr_backend *b = open_isa(all_isas[isa], threads);
            if (!b) continue;
            for (int k = 0; k < N_KINDS; k++) {
                check_layer(b, 130, 64, &all_kinds[k], true, 80, threads == 2);
                check_layer(b, 70, 75, &all_kinds[k], true, 80, false);
            }
            /* more than one block of K and of rows */
            check_layer(b, 65, 2200, &all_kinds[isa % N_KINDS], false, 90, false);
            CHECK_INT(b->sync(b, &err), MR_OK);
            mr_backend_close(b);
        }
}

static void six_hundred_rows(void) {
    mr_err err;
    mr_backend *b;
    REQUIRE_OK(mr_backend_open(&b, MR_CPU, 0, 2, &err), err);
    for (int k = 0; k < N_KINDS; k++) check_layer(b, 66, 128, &all_kinds[k], true, 600, false);
    CHECK_INT(b->sync(b, &err), MR_OK);
    mr_backend_close(b);
}

/* Everything that linear and linear_bwd write, once with one thread and once with two (and three, more than this
 * machine may have). */
static void threads_do_not_change_bits(void) {
    enum { O = 200, I = 150, N = 97, R = 24 };
    mr_err err;
    for (int isa = 0; isa < N_ISAS; isa++)
        for (int k = 0; k < N_KINDS; k++) {
            float *first[7] = { 0 };
            for (int threads = 1; threads <= 3; threads++) {
                mr_backend *b = open_isa(all_isas[isa], threads);
                if (!b) break;
                noise_state_ = 99;
                mr_dtype c = all_kinds[k].compute;
                float *w = noise_new(O * I, 0.5f), *x = noise_new(N * I, 1), *dy = noise_new(N * O, 1);
                float *y = poison_new(N * O), *dx = poison_new(N * I), *u = poison_new(N * R), *du = poison_new(N * R);
                float *da = mr_alloc(R * I * sizeof *da), *db = mr_alloc(120 * 8 * sizeof *db),
                      *dw = mr_alloc(O * I * sizeof *dw), *dbias = mr_alloc(O * sizeof *dbias);
                mr_linear l = { .w = weight_new(b, w, O, I, all_kinds[k].store, c, MR_USE_FWD | MR_USE_BWD),
                                .r_total = R,
                                .n_lora = 2,
                                .da = da,
                                .dw = dw,
                                .dbias = dbias };
                l.a = weight_new(b, w, R, I, c, c, MR_USE_FWD | MR_USE_BWD);
                l.lora[0] = (mr_lora_part){
                    .row0 = 0, .rows = 80, .r0 = 0, .r = 16, .scale = 1, .b = weight_new(b, w, 80, 16, c, c, 3)
                };
                l.lora[1] = (mr_lora_part){ .row0 = 80,
                                            .rows = 120,
                                            .r0 = 16,
                                            .r = 8,
                                            .scale = 1,
                                            .b = weight_new(b, w, 120, 8, c, c, 3),
                                            .db = db };
                b->linear(b, y, u, x, &l, N, NULL);
                b->linear_bwd(b, dx, du, dy, x, u, &l, N, false);
                CHECK_INT(b->sync(b, &err), MR_OK);
                float *got[7] = { y, dx, u, da, db, dw, dbias };
                const size_t sizes[7] = { N * O, N * I, N * R, R * I, 120 * 8, O * I, O };
                for (int i = 0; i < 7; i++) {
                    if (threads == 1) {
                        first[i] = got[i];
                        continue;
                    }
                    CHECK(memcmp(first[i], got[i], sizes[i] * sizeof(float)) == 0);
                    mr_free(got[i]);
                }
                b->weight_free(b, l.w), b->weight_free(b, l.a), b->weight_free(b, l.lora[0].b),
                    b->weight_free(b, l.lora[1].b);
                mr_free(w), mr_free(x), mr_free(dy), mr_free(du);
                mr_backend_close(b);
            }
            for (int i = 0; i < 7; i++) mr_free(first[i]);
        }
}

/* A NaN or infinity in one row stays in that row. */
static void damage_stays_in_its_row(void) {
    enum { O = 70, I = 33, N = 9 };
    mr_err err;
    for (int isa = 0; isa < N_ISAS; isa++) {
        mr_backend *b = open_isa(all_isas[isa], 2);
        if (!b) continue;
        for (int k = 0; k < N_KINDS; k++) {
            float *w = noise_new(O * I, 0.5f), *x = noise_new(N * I, 1), *y = poison_new(N * O);
            mr_linear l = { .w = weight_new(b, w, O, I, all_kinds[k].store, all_kinds[k].compute, MR_USE_FWD) };
            x[4 * I] = NAN, x[5 * I + I - 1] = INFINITY;
            b->linear(b, y, NULL, x, &l, N, NULL);
            for (int n = 0; n < N; n++)
                for (int o = 0; o < O; o++) CHECK(isfinite(y[n * O + o]) == (n != 4 && n != 5));
            b->weight_free(b, l.w);
            mr_free(w), mr_free(x), mr_free(y);
        }
        CHECK_INT(b->sync(b, &err), MR_OK);
        mr_backend_close(b);
    }
}

TEST_MAIN({ "rows do not depend on their number", rows_do_not_depend_on_their_number },
          { "six hundred rows", six_hundred_rows }, { "threads do not change bits", threads_do_not_change_bits },
          { "damage stays in its row", damage_stays_in_its_row })
