/* Weights: rows back out of every layout, new values, embedding and its gradient, failures of the source and of
 * memory; and opening the backend. */
#include "weights_common.h"

static const unsigned all_uses[] = { MR_USE_ROWS,
                                     MR_USE_FWD,
                                     MR_USE_BWD,
                                     MR_USE_FWD | MR_USE_BWD,
                                     MR_USE_FWD | MR_USE_ROWS,
                                     MR_USE_BWD | MR_USE_ROWS,
                                     MR_USE_FWD | MR_USE_BWD | MR_USE_ROWS };

static void rows_come_back(void) {
    static const int sizes[][2] = { { 1, 1 }, { 20, 36 }, { 65, 33 }, { 128, 64 }, { 131, 130 } };
    mr_err err;
    for (int isa = 0; isa < N_ISAS; isa++) {
        mr_backend *b = open_isa(all_isas[isa], 2);
        if (!b) continue;
        for (int k = 0; k < N_KINDS; k++)
            for (size_t u = 0; u < sizeof all_uses / sizeof all_uses[0]; u++)
                for (size_t i = 0; all_kinds[k].store != MR_NF4 && i < sizeof sizes / sizeof sizes[0]; i++) {
                    const mr_dtype type = kept(&all_kinds[k]);
                    int64_t O = sizes[i][0], I = sizes[i][1];
                    float *values = noise_new(O * I, 1), *rows = poison_new(O * I), *other = noise_new(O * I, 3);
                    mr_weight *w = weight_new(b, values, O, I, all_kinds[k].store, all_kinds[k].compute, all_uses[u]);
                    b->weight_rows(b, rows, w, 0, O);
                    for (int64_t j = 0; j < O * I; j++) CHECK_NEAR(rows[j], rounded(values[j], type), 0);
                    b->weight_set(b, &(mr_weight_values){ w, other }, 1);
                    b->weight_rows(b, rows, w, O / 2, O - O / 2);
                    for (int64_t j = 0; j < (O - O / 2) * I; j++) {
                        float want = other[O / 2 * I + j];
                        CHECK_NEAR(rows[j], rounded(want, type), 0);
                    }
                    mr_weight_info info = b->weight_info(w);
                    CHECK_INT(info.store, type);
                    CHECK_INT(info.compute, all_kinds[k].compute);
                    CHECK_INT(info.n_out, O);
                    CHECK_INT(info.n_in, I);
                    CHECK(info.bytes >= (size_t)(O * I) * (type == MR_BF16 ? 2 : 4));
                    const uint8_t *codes, *absmax;
                    const float *nested;
                    float offset;
                    CHECK(!b->weight_nf4(w, &codes, &absmax, &nested, &offset));
                    b->weight_free(b, w);
                    mr_free(values), mr_free(rows), mr_free(other);
                }
        CHECK_INT(b->sync(b, &err), MR_OK);
        mr_backend_close(b);
    }
}

/* bf16 keeps NaN, infinities and the sign of zero, and rounds ties to even. */
static void bf16_of_odd_values(void) {
    mr_err err;
    for (int isa = 0; isa < N_ISAS; isa++) {
        mr_backend *b = open_isa(all_isas[isa], 1);
        if (!b) continue;
        const uint32_t tie_down = 0x3f808000, tie_up = 0x3f818000, above = 0x3f808001, nan_low = 0x7f800001;
        float v[24] = { 0.0f, -0.0f, INFINITY, -INFINITY, NAN, 3.4e38f, -1.5f };
        memcpy(&v[7], &tie_down, 4), memcpy(&v[8], &tie_up, 4), memcpy(&v[9], &above, 4), memcpy(&v[10], &nan_low, 4);
        memcpy(v + 12, v, 12 * sizeof *v);
        for (size_t u = 0; u < sizeof all_uses / sizeof all_uses[0]; u++) {
            mr_weight *w = weight_new(b, v, 1, 24, MR_BF16, MR_BF16, all_uses[u]);
            float r[24];
            b->weight_rows(b, r, w, 0, 1);
            for (int i = 0; i < 24; i += 12) {
                CHECK(r[i] == 0 && !signbit(r[i]) && r[i + 1] == 0 && signbit(r[i + 1]));
                CHECK(r[i + 2] > 0 && isinf(r[i + 2]) && r[i + 3] < 0 && isinf(r[i + 3]));
                CHECK(isnan(r[i + 4]) && isnan(r[i + 10]));
                CHECK(isinf(r[i + 5])); /* rounds up and over */
                CHECK_NEAR(r[i + 6], -1.5, 0);
                CHECK_NEAR(r[i + 7], 1.0, 0);
                CHECK_NEAR(r[i + 8], 1.015625,
                           0); /* 1 + 3/256 lies between 1 + 2/256 and 1 + 4/256, whose last bit is even */
                CHECK_NEAR(r[i + 9], 1.0078125, 0);
            }
            b->weight_free(b, w);
        }
        CHECK_INT(b->sync(b, &err), MR_OK);
        mr_backend_close(b);
    }
}

/* f16: the largest numbers and what lies above, subnormal ones, ties to even; to products and from weight_set as well. */
static void f16_of_odd_values(void) {
    static const float in[12] = { 65504,  65519.99f, 65520, -1e6f,     0x1p-24f, 0x1p-25f, 0x1.000002p-25f, 0x1.8p-24f,
                                  -0x1.ff8p-15f, 2049, 2051, 0x1.ffep-15f };
    static const float want[12] = { 65504, 65504, INFINITY, -INFINITY, 0x1p-24f, 0, 0x1p-24f, 0x1p-23f,
                                    -0x1.ff8p-15f, 2048, 2052, 0x1p-14f };
    mr_backend *b;
    mr_err err;
    REQUIRE_OK(mr_backend_open(&b, MR_CPU, 0, 1, &err), err);
    for (size_t u = 0; u < sizeof all_uses / sizeof all_uses[0]; u++) {
        mr_weight *w = weight_new(b, in, 1, 12, MR_F16, MR_F16, all_uses[u]);
        for (int set = 0; set < 2; set++) {
            float r[12], more[12];
            b->weight_rows(b, r, w, 0, 1);
            for (int i = 0; i < 12; i++) CHECK(r[i] == want[i] && to_f16(in[i]) == want[i]);
            for (int i = 0; i < 12; i++) more[i] = -in[i];
            b->weight_set(b, &(mr_weight_values){ w, more }, 1);
            b->weight_rows(b, r, w, 0, 1);
            for (int i = 0; i < 12; i++) CHECK(r[i] == -want[i] && !signbit(r[i]) == !!signbit(want[i]));
            const float odd[12] = { NAN, INFINITY, -INFINITY };
            b->weight_set(b, &(mr_weight_values){ w, odd }, 1);
            b->weight_rows(b, r, w, 0, 1);
            CHECK(isnan(r[0]) && r[1] == INFINITY && r[2] == -INFINITY && r[3] == 0);
            b->weight_set(b, &(mr_weight_values){ w, in }, 1);
        }
        b->weight_free(b, w);
    }
    /* the rows of a product are rounded too: what overflows does so in its row alone */
    float x[2][2] = { { 65520, 0 }, { 65519, 0x1p-25f } }, y[2];
    mr_linear l = { .w = weight_new(b, (const float[2]){ 1, 1 }, 1, 2, MR_F16, MR_F16, MR_USE_FWD) };
    b->linear(b, y, NULL, x[0], &l, 2, NULL);
    CHECK(y[0] == INFINITY && y[1] == 65504);
    b->weight_free(b, l.w);
    CHECK_INT(b->sync(b, &err), MR_OK);
    mr_backend_close(b);
}

static void embed_looks_up_and_collects(void) {
    enum { V = 70, C = 33, N = 5 };
    const int32_t ids[N] = { 69, 0, 3, 3, 64 };
    mr_err err;
    mr_backend *b;
    REQUIRE_OK(mr_backend_open(&b, MR_CPU, 0, 2, &err), err);
    float *table = noise_new(V * C, 1), *x = poison_new(N * C);
    for (size_t u = 0; u < sizeof all_uses / sizeof all_uses[0]; u++)
        for (int k = 0; k < N_KINDS; k++) {
            if (all_kinds[k].store == MR_NF4) continue;
            mr_weight *w = weight_new(b, table, V, C, all_kinds[k].store, all_kinds[k].compute, all_uses[u]);
            b->embed(b, x, w, ids, N);
            for (int n = 0; n < N; n++)
                for (int c = 0; c < C; c++) {
                    float want = table[ids[n] * C + c];
                    CHECK_NEAR(x[n * C + c], rounded(want, kept(&all_kinds[k])), 0);
                }
            b->weight_free(b, w);
        }
    float *dw = noise_new(V * C, 1), *before = noise_new(V * C, 1), *dx = noise_new(N * C, 1);
    memcpy(before, dw, V * C * sizeof *dw);
    b->embed_bwd(b, dw, dx, ids, N, C);
    for (int v = 0; v < V; v++)
        for (int c = 0; c < C; c++) {
            float want = before[v * C + c]; /* rows in order, in f32: equal bits */
            for (int n = 0; n < N; n++)
                if (ids[n] == v) want += dx[n * C + c];
            CHECK_NEAR(dw[v * C + c], want, 0);
        }
    b->embed(b, x, NULL, NULL, 0);
    mr_free(table), mr_free(x), mr_free(dw), mr_free(before), mr_free(dx);
    CHECK_INT(b->sync(b, &err), MR_OK);
    mr_backend_close(b);
}

/* Big enough for two threads. */
static void embed_bwd_with_threads(void) {
    enum { V = 50, C = 200, N = 300 };
    mr_err err;
    float *dx = noise_new(N * C, 1), *first = NULL;
    int32_t ids[N];
    for (int n = 0; n < N; n++) ids[n] = n * 7 % 11;
    for (int threads = 1; threads <= 2; threads++) {
        mr_backend *b;
        REQUIRE_OK(mr_backend_open(&b, MR_CPU, 0, threads, &err), err);
        float *dw = mr_alloc(V * C * sizeof *dw);
        b->embed_bwd(b, dw, dx, ids, N, C);
        if (first) CHECK(memcmp(first, dw, V * C * sizeof *dw) == 0);
        mr_free(first);
        first = dw;
        mr_backend_close(b);
    }
    mr_free(first), mr_free(dx);
}

static void failures_of_the_source_come_through(void) {
    enum { O = 40, I = 20 };
    mr_err err;
    mr_backend *b;
    REQUIRE_OK(mr_backend_open(&b, MR_CPU, 0, 1, &err), err);
    float *values = noise_new(O * I, 1);
    for (int k = 0; k < N_KINDS; k++) {
        matrix_source m = { values, I, 0, 0, 17 };
        mr_weight *w = (mr_weight *)&m;
        mr_status st = b->weight_create(b, &w, (mr_weight_source){ &m, matrix_rows }, O, I, 0, all_kinds[k].store,
                                        all_kinds[k].compute, MR_USE_FWD | MR_USE_BWD, &err);
        CHECK_INT(st, MR_EDATA);
        CHECK(w == NULL);
        CHECK_CONTAINS(err.msg, "row 17 is bad");
    }
    mr_free(values);
    mr_backend_close(b);
}

/* Every allocation fails once: MR_ENOMEM, nothing leaked (the sanitizer looks), and then it works. */
static void memory_runs_out(void) {
    enum { O = 70, I = 64 };
    mr_err err;
    mr_backend *b;
    REQUIRE_OK(mr_backend_open(&b, MR_CPU, 0, 1, &err), err);
    float *values = noise_new(O * I, 1), x[I] = { 1 }, y[O];
    for (int k = 0; k < N_KINDS; k++) {
        int failed = 0;
        for (long n = 1;; n++) {
            matrix_source m = { values, I, 0, 0, -1 };
            mr_weight *w;
            mr_backend_close(b); /* a new one has no scratch yet */
            REQUIRE_OK(mr_backend_open(&b, MR_CPU, 0, 1, &err), err);
            mr_try_alloc_fail_at(n);
            mr_status st = b->weight_create(b, &w, (mr_weight_source){ &m, matrix_rows }, O, I, 0, all_kinds[k].store,
                                            all_kinds[k].compute, MR_USE_FWD | MR_USE_BWD, &err);
            mr_try_alloc_fail_at(0);
            if (st == MR_OK) {
                b->weight_free(b, w);
                break;
            }
            failed++;
            CHECK_INT(st, MR_ENOMEM);
            CHECK(w == NULL);
            CHECK_CONTAINS(err.msg, "weight [70, 64]");
        }
        CHECK_INT(failed, all_kinds[k].store == MR_NF4 ? 5 : 3);
    }
    /* scratch: the operation fails, later ones do nothing, sync tells and clears */
    mr_linear l = { .w = weight_new(b, values, O, I, MR_BF16, MR_BF16, MR_USE_FWD) };
    for (int i = 0; i < O; i++) y[i] = -7;
    mr_try_alloc_fail_at(1);
    b->linear(b, y, NULL, x, &l, 1, NULL);
    mr_try_alloc_fail_at(0);
    b->linear(b, y, NULL, x, &l, 1, NULL);
    b->zero(b, y, sizeof y);
    CHECK_NEAR(y[0], -7, 0);
    CHECK_NEAR(y[O - 1], -7, 0);
    CHECK_INT(b->sync(b, &err), MR_ENOMEM);
    CHECK_CONTAINS(err.msg, "do not fit into memory");
    CHECK_INT(b->sync(b, &err), MR_OK);
    b->linear(b, y, NULL, x, &l, 1, NULL);
    CHECK_NEAR(y[3], to_bf16(values[3 * I]), 1e-6);
    mr_try_alloc_fail_at(1);
    CHECK(b->alloc(b, 100) == NULL);
    mr_try_alloc_fail_at(0);
    b->weight_free(b, l.w);
    mr_free(values);
    mr_backend_close(b);
}

static void opening(void) {
    mr_err err;
    mr_backend *b = (mr_backend *)&err;
    CHECK_INT(mr_backend_open(&b, MR_CPU, 1, 0, &err), MR_EINVAL);
    CHECK(b == NULL);
    CHECK_CONTAINS(err.msg, "cpu:1");
    CHECK_INT(mr_backend_open(&b, MR_CPU, 0, -1, &err), MR_EINVAL);
    CHECK_INT(mr_backend_open(&b, MR_CPU, 0, 100000, &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, "threads: 100000");
    setenv("MEDRL_CPU_ISA", "sse9", 1);
    CHECK_INT(mr_backend_open(&b, MR_CPU, 0, 0, &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, "\"sse9\" is unknown");
    setenv("MEDRL_CPU_ISA", "", 1);
    REQUIRE_OK(mr_backend_open(&b, MR_CPU, 0, 0, &err), err);
    unsetenv("MEDRL_CPU_ISA");
    CHECK(b->n_threads >= 1);
    CHECK_STR(b->name, "cpu");
    CHECK(strlen(b->device) > 10);
    CHECK_INT(b->kind, MR_CPU);
    mr_backend_close(b);
    mr_backend_close(NULL);
    b = open_isa("generic", 3);
    REQUIRE(b);
    CHECK_CONTAINS(b->device, "generic, 3 threads");
    CHECK(!b->has_bf16);
    uint8_t *p = b->alloc(b, 1000), *q = b->alloc(b, 0);
    for (int i = 0; i < 1000; i++) CHECK_INT(p[i], 0);
    b->upload(b, p, "abcdef", 6);
    b->copy(b, p + 2, p, 6); /* may overlap */
    char back[9] = { 0 };
    b->download(b, back, p, 8);
    CHECK_STR(back, "ababcdef");
    b->zero(b, p, 3);
    CHECK_INT(p[2], 0);
    CHECK_INT(p[3], 'b');
    b->free(b, p), b->free(b, q), b->free(b, NULL);
    mr_backend_close(b);
    CHECK_STR(mr_dtype_name(MR_NF4), "nf4");
    CHECK_STR(mr_dtype_name(MR_F32), "f32");
}

TEST_MAIN({ "rows come back", rows_come_back }, { "bf16 of odd values", bf16_of_odd_values },
          { "f16 of odd values", f16_of_odd_values },
          { "embed looks up and collects", embed_looks_up_and_collects },
          { "embed_bwd with threads", embed_bwd_with_threads },
          { "failures of the source come through", failures_of_the_source_come_through },
          { "memory runs out", memory_runs_out }, { "opening", opening })
