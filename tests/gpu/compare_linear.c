/* compare_linear.c - weights, linear layers forward and backward, and the row rule of products. */
#include "compare.h"
#include "maps.h"

static const float nf4[16] = MR_NF4_VALUES;

/* --- weights --- */

static void check_weight(const kind *k, int64_t O, int64_t I, double *diff, bool *bytes) {
    float *values = random_new(O * I, 1.0f), *other = random_new(O * I, 3.0f);
    for (int64_t i = 0; i < O * I && i < 200; i++) values[i] = i < 130 ? 0.0f : values[i]; /* blocks of zeros */
    for (int i = 0; i < 16 && O * I >= 320; i++) /* a block whose values lie exactly between two codes */
        values[256 + i] = i ? (nf4[i - 1] + nf4[i]) / 2.0f : 1.0f;
    mr_weight *w[2];
    mr_backend *sides[2] = { cpu, gpu };
    float *rows[2];
    for (int s = 0; s < 2; s++) {
        mr_backend *b = sides[s];
        mr_dtype compute = k->compute, store = k->store;
        w[s] = weight_new(b, values, O, I, 0, store, compute, MR_USE_FWD | MR_USE_BWD | MR_USE_ROWS);
        float *device = put(b, NULL, O * I);
        b->weight_rows(b, device, w[s], 0, O);
        rows[s] = get(b, device, O * I);
    }
    double d = worst(rows[1], rows[0], O * I);
    if (d > *diff) *diff = d;
    if (k->store == MR_NF4) {
        const uint8_t *codes[2], *absmax[2];
        const float *nested[2];
        float offset[2];
        int64_t blocks = (O * I + 63) / 64;
        for (int s = 0; s < 2; s++)
            require(sides[s]->weight_nf4(w[s], &codes[s], &absmax[s], &nested[s], &offset[s]), "weight_nf4");
        *bytes = *bytes && memcmp(codes[0], codes[1], (size_t)(O * I + 1) / 2) == 0 &&
                 memcmp(absmax[0], absmax[1], (size_t)blocks) == 0 && offset[0] == offset[1] &&
                 memcmp(nested[0], nested[1], (size_t)((blocks + 255) / 256) * sizeof(float)) == 0;
    } else {
        for (int s = 0; s < 2; s++) {
            mr_backend *b = sides[s];
            free(rows[s]);
            b->weight_set(b, &(mr_weight_values){ w[s], put(b, other, O * I) }, 1);
            float *device = put(b, NULL, O * I);
            b->weight_rows(b, device, w[s], O / 2, O - O / 2);
            rows[s] = get(b, device, (O - O / 2) * I);
        }
        d = worst(rows[1], rows[0], (O - O / 2) * I);
        if (d > *diff) *diff = d;
    }
    for (int s = 0; s < 2; s++) sides[s]->weight_free(sides[s], w[s]), free(rows[s]), drop(sides[s]);
    free(values), free(other);
}

/* Two matrices that are NF4 already, as one: products have the bits of each alone, also where the offsets of their maxima differ. */
static bool check_stacked(const kind *k, int N) {
    enum { O = 64, I = 256, PARTS = 2 };
    mr_backend *b = gpu;
    mr_nf4_part parts[PARTS];
    mr_linear one[PARTS] = { 0 }, all = { 0 };
    float *x = random_new(N * I, 1), *xd = put(b, x, N * I), *y[PARTS], *both = put(b, NULL, N * O * PARTS);
    bool same = true;
    for (int p = 0; p < PARTS; p++) {
        float *values = random_new(O * I, p ? 7.0f : 1.0f), *device = put(b, NULL, N * O);
        const float *nested;
        one[p].w = weight_new(b, values, O, I, 0, MR_NF4, k->compute, MR_USE_FWD);
        require(b->weight_nf4(one[p].w, &parts[p].codes, &parts[p].absmax, &nested, &parts[p].offset), "weight_nf4");
        parts[p].n = O * I, parts[p].nested = nested;
        b->linear(b, device, NULL, xd, &one[p], N, NULL);
        y[p] = get(b, device, N * O);
        free(values);
    }
    mr_err err;
    require(b->weight_adopt(b, &all.w, parts, PARTS, O * PARTS, I, k->compute, MR_USE_FWD, &err) == MR_OK, "weight_adopt");
    b->linear(b, both, NULL, xd, &all, N, NULL);
    float *got = get(b, both, N * O * PARTS);
    for (int row = 0; row < N; row++)
        for (int p = 0; p < PARTS; p++) same = same && same_bits(got + (row * PARTS + p) * O, y[p] + row * O, O);
    b->weight_free(b, all.w);
    for (int p = 0; p < PARTS; p++) b->weight_free(b, one[p].w), free(y[p]);
    free(x), free(got), drop(b);
    return same;
}

/* New values of many weights at once: of several widths, with rows that end within 16 bytes, at odd places, in f32 and in 16 bits. */
static bool check_set(void) {
    static const int64_t sizes[][2] = { { 20, 36 }, { 1, 1 }, { 64, 128 }, { 65, 33 }, { 3, 4000 }, { 64, 2400 }, { 8, 8 }, { 300, 65 } };
    enum { SIZES = sizeof sizes / sizeof sizes[0], TIMES = 3 };
    static const mr_dtype stores[TIMES] = { MR_BF16, MR_F16, MR_F32 };
    mr_backend *sides[2] = { cpu, gpu };
    mr_weight_values all[2][SIZES * TIMES];
    bool same = true;
    int n = 0;
    for (int t = 0; t < TIMES; t++)
        for (int i = 0; i < SIZES; i++) {
            mr_dtype compute = stores[t] == MR_BF16 && !gpu->has_bf16 ? MR_F32 : stores[t];
            int64_t count = sizes[i][0] * sizes[i][1];
            float *first = random_new(count, 1), *next = random_new(count, 3);
            for (int s = 0; s < 2; s++) {
                float *values = (i + t) % 3 == 2 ? put_off(sides[s], next, count) : put(sides[s], next, count);
                mr_weight *w = weight_new(sides[s], first, sizes[i][0], sizes[i][1], 0, stores[t], compute, MR_USE_FWD | MR_USE_ROWS);
                all[s][n] = (mr_weight_values){ w, values };
            }
            free(first), free(next);
            n++;
        }
    for (int s = 0; s < 2; s++) sides[s]->weight_set(sides[s], all[s], n);
    for (int i = 0; i < n; i++) {
        int64_t O = sizes[i % SIZES][0], count = O * sizes[i % SIZES][1];
        float *rows[2];
        for (int s = 0; s < 2; s++) {
            float *device = put(sides[s], NULL, count);
            sides[s]->weight_rows(sides[s], device, all[s][i].w, 0, O);
            rows[s] = get(sides[s], device, count);
        }
        same = same && same_bits(rows[0], rows[1], count);
        free(rows[0]), free(rows[1]);
    }
    for (int s = 0; s < 2; s++) {
        for (int i = 0; i < n; i++) sides[s]->weight_free(sides[s], all[s][i].w);
        drop(sides[s]);
    }
    return same;
}

void test_weights(void) {
    static const int64_t sizes[][2] = { { 1, 1 }, { 20, 36 }, { 65, 33 }, { 128, 64 }, { 131, 130 }, { 48, 192 }, { 3, 7 }, { 512, 2048 } };
    for (int k = 0; k < n_kinds; k++) {
        if (!kind_here(&kinds[k])) continue;
        double diff = 0, allowed = 0;
        bool bytes = true;
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            if (!small_run || sizes[i][0] < 512) check_weight(&kinds[k], sizes[i][0], sizes[i][1], &diff, &bytes);
        char name[64];
        snprintf(name, sizeof name, "weights: %s", kinds[k].name);
        verdict(diff <= allowed && bytes, name, "rows differ %.1e (allowed %.0e)%s", diff, allowed,
                kinds[k].store != MR_NF4 ? "" : bytes ? "; NF4 bytes equal" : "; NF4 BYTES DIFFER");
        if (kinds[k].store != MR_NF4) continue;
        snprintf(name, sizeof name, "stacked weights: %s", kinds[k].name);
        verdict(check_stacked(&kinds[k], 3) && check_stacked(&kinds[k], 40) && check_stacked(&kinds[k], 80), name,
                "bits equal those of each alone: wanted");
    }
    verdict(check_set(), "new values of many weights at once", "equal the CPU's: wanted");
    enum { V = 70, C = 33, N = 6 };
    const int32_t ids[N] = { 69, 0, 3, 3, 64, 3 };
    float *table = random_new(V * C, 1), *dw = random_new(V * C, 1), *dx = random_new(N * C, 1), *x[2], *g[2];
    mr_backend *sides[2] = { cpu, gpu };
    for (int s = 0; s < 2; s++) {
        mr_backend *b = sides[s];
        mr_weight *w = weight_new(b, table, V, C, 0, MR_F32, MR_F32, MR_USE_ROWS);
        float *dev = put(b, NULL, N * C), *grad = put(b, dw, V * C);
        int32_t *dev_ids = put_ids(b, ids, N);
        b->embed(b, dev, w, dev_ids, N);
        b->embed_bwd(b, grad, put(b, dx, N * C), dev_ids, N, C);
        x[s] = get(b, dev, N * C), g[s] = get(b, grad, V * C);
        b->weight_free(b, w);
    }
    verdict(same_bits(x[0], x[1], N * C) && same_bits(g[0], g[1], V * C), "embed, embed_bwd", "bits equal the CPU's: wanted");
    void *none = gpu->alloc(gpu, (size_t)1 << 50);
    verdict(!none, "alloc", "a petabyte is NULL, and no failure is kept");
    healthy("alloc");
    for (int s = 0; s < 2; s++) free(x[s]), free(g[s]);
    free(table), free(dw), free(dx);
}

/* --- a layer on both sides --- */

typedef struct layer {
    mr_linear l[2]; /* cpu, gpu; gradients are device memory with `grads` in it */
    int64_t O, I, R;
} layer;

typedef struct parts {
    int n, rows[3], r[3];
} parts;

/* On the GPU alone when not `both`. */
static layer layer_new(const kind *k, int64_t O, int64_t I, const parts *p, bool both, bool bias, bool grads) {
    layer s = { .O = O, .I = I };
    mr_backend *sides[2] = { cpu, gpu };
    for (int i = 0; i < p->n; i++) s.R += p->r[i];
    float *w = random_new(O * I, 1.0f), *a = random_new(s.R * I, 0.5f), *more = random_new(O * (s.R ? s.R : 1), 0.5f),
          *g = random_new(O * I > s.R * I ? O * I : s.R * I, 1.0f);
    for (int side = both ? 0 : 1; side < 2; side++) {
        mr_backend *b = sides[side];
        mr_linear *l = &s.l[side];
        mr_dtype compute = k->compute, store = k->store;
        unsigned uses = MR_USE_FWD | MR_USE_BWD;
        l->w = weight_new(b, w, O, I, s.R ? s.R + 1 : 0, store, compute, uses);
        l->bias = bias ? put(b, more, O) : NULL;
        if (grads) l->dw = put(b, g, O * I), l->dbias = put(b, g, O);
        if (!p->n) continue;
        l->n_lora = p->n, l->r_total = (int)s.R;
        l->a = weight_new(b, a, s.R, I, 0, compute, compute, uses);
        if (grads) l->da = put(b, g, s.R * I);
        for (int i = 0, row = 0, r = 0; i < p->n; row += p->rows[i], r += p->r[i++]) {
            mr_lora_part *part = &l->lora[i];
            *part = (mr_lora_part){ .row0 = row, .rows = p->rows[i], .r0 = r, .r = p->r[i], .scale = 0.5f + (float)i };
            part->b = weight_new(b, more + i, p->rows[i], p->r[i], 0, compute, compute, uses);
            if (grads) part->db = put(b, g, (int64_t)p->rows[i] * p->r[i]);
        }
    }
    free(w), free(a), free(more), free(g);
    return s;
}

static void layer_free(layer *s) {
    mr_backend *sides[2] = { cpu, gpu };
    for (int side = 0; side < 2; side++) {
        mr_backend *b = sides[side];
        mr_linear *l = &s->l[side];
        b->weight_free(b, l->w), b->weight_free(b, l->a);
        for (int i = 0; i < l->n_lora; i++) b->weight_free(b, l->lora[i].b);
        drop(b);
    }
}

static double larger(double a, double b) { return a > b ? a : b; }

static double differ(const float *a, const float *b, int64_t n) {
    float *want = get(cpu, a, n), *got = get(gpu, b, n);
    double d = worst(got, want, n);
    free(want), free(got);
    return d;
}

/* forward in [0], dx and du in [1], gradients in [2] */
static void check_layer(const kind *k, int64_t O, int64_t I, int N, const parts *p, bool add, double diff[3]) {
    layer s = layer_new(k, O, I, p, true, add, true);
    mr_backend *sides[2] = { cpu, gpu };
    float *x = random_new(N * I, 1), *dy = random_new(N * O, 1), *old = random_new(N * (O > I ? O : I), 1);
    float *y[2], *u[2], *dx[2], *du[2];
    for (int side = 0; side < 2; side++) {
        mr_backend *b = sides[side];
        float *xd = put(b, x, N * I), *dyd = put_off(b, dy, N * O);
        y[side] = put(b, NULL, N * O), dx[side] = put(b, add ? old : NULL, N * I);
        u[side] = put(b, NULL, N * s.R + 1), du[side] = put(b, NULL, N * s.R + 1);
        b->linear(b, y[side], s.R ? u[side] : NULL, xd, &s.l[side], N, add ? put(b, old, N * O) : NULL);
        if (side) { /* both backward passes from the same inner values */
            float *inner = get(cpu, u[0], N * s.R);
            double d = s.R ? differ(u[0], u[1], N * s.R) : 0;
            diff[0] = larger(diff[0], d);
            b->upload(b, u[side], inner, (size_t)(N * s.R) * sizeof(float));
            free(inner);
        }
        b->linear_bwd(b, dx[side], s.R ? du[side] : NULL, dyd, xd, s.R ? u[side] : NULL, &s.l[side], N, add);
    }
    diff[0] = larger(diff[0], differ(y[0], y[1], N * O));
    diff[1] = larger(diff[1], differ(dx[0], dx[1], N * I));
    if (s.R) diff[1] = larger(diff[1], differ(du[0], du[1], N * s.R));
    diff[2] = larger(diff[2], differ(s.l[0].dw, s.l[1].dw, O * I));
    diff[2] = larger(diff[2], differ(s.l[0].dbias, s.l[1].dbias, O));
    if (s.R) diff[2] = larger(diff[2], differ(s.l[0].da, s.l[1].da, s.R * I));
    for (int i = 0; i < p->n; i++)
        diff[2] = larger(diff[2], differ(s.l[0].lora[i].db, s.l[1].lora[i].db, (int64_t)p->rows[i] * p->r[i]));
    free(x), free(dy), free(old);
    layer_free(&s);
}

/* LoRA's gradients by themselves, and beside w's own, which is too large for attention's scratch: the same bits. */
static bool same_gradients(const kind *k, int64_t O, int64_t I, int N) {
    parts p = { 2, { (int)O / 2, (int)O / 2 }, { 16, 8 } };
    layer s = layer_new(k, O, I, &p, false, false, true);
    mr_backend *b = gpu;
    mr_linear *l = &s.l[1];
    float *x = random_new(N * I, 1), *dy = random_new(N * O, 1), *got[2][3];
    float *xd = put(b, x, N * I), *dyd = put(b, dy, N * O), *u = put(b, x, N * s.R), *du = put(b, NULL, N * s.R),
          *dx = put(b, NULL, N * I);
    for (int alone = 0; alone < 2; alone++) {
        if (alone) l->dw = NULL;
        b->zero(b, l->da, (size_t)(s.R * I) * sizeof(float));
        for (int i = 0; i < p.n; i++) b->zero(b, l->lora[i].db, (size_t)(p.rows[i] * p.r[i]) * sizeof(float));
        b->linear_bwd(b, dx, du, dyd, xd, u, l, N, false);
        got[alone][0] = get(b, l->da, s.R * I);
        for (int i = 0; i < p.n; i++) got[alone][1 + i] = get(b, l->lora[i].db, p.rows[i] * p.r[i]);
    }
    bool same = same_bits(got[0][0], got[1][0], s.R * I);
    for (int i = 0; i < p.n; i++) same = same && same_bits(got[0][1 + i], got[1][1 + i], p.rows[i] * p.r[i]);
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 1 + p.n; j++) free(got[i][j]);
    free(x), free(dy);
    layer_free(&s);
    return same;
}

void test_linear(void) {
    /* N, O, I: ones, odd, tiles and a bit, whole blocks and tiles of NF4, more than a segment of K either way, of rows in
     * gradients; the last ones large */
    static const struct { int n, o, i; parts p;
    } cases[] = {
        { 1, 3, 1, { 0 } },
        { 1, 64, 64, { 1, { 64 }, { 8 } } },
        { 3, 20, 36, { 1, { 20 }, { 3 } } },
        { 7, 65, 33, { 2, { 31, 34 }, { 4, 5 } } },
        { 6, 128, 64, { 2, { 64, 64 }, { 16, 16 } } },
        { 13, 130, 67, { 1, { 130 }, { 16 } } },
        { 33, 48, 128, { 3, { 16, 16, 16 }, { 8, 8, 8 } } },
        { 50, 40, 128, { 1, { 24 }, { 8 } } },
        { 5, 32, 4224, { 1, { 32 }, { 8 } } },
        { 5, 4224, 32, { 0 } },
        { 40, 64, 4224, { 1, { 64 }, { 8 } } },
        { 6, 48, 320, { 3, { 16, 16, 16 }, { 8, 8, 8 } } },
        { 16, 64, 576, { 2, { 32, 16 }, { 20, 72 } } },
        { 1100, 36, 140, { 2, { 16, 20 }, { 8, 5 } } },
        { 515, 136, 20, { 2, { 68, 68 }, { 8, 8 } } },
        { 130, 192, 192, { 3, { 64, 64, 64 }, { 64, 64, 64 } } },
        { 200, 960, 576, { 3, { 576, 192, 192 }, { 16, 16, 16 } } },
        { 300, 512, 11008, { 1, { 512 }, { 64 } } },
        { 48, 11008, 512, { 2, { 5504, 5504 }, { 64, 64 } } },
    };
    int n_cases = (int)(sizeof cases / sizeof cases[0]) - (small_run ? 4 : 0);
    for (int k = 0; k < n_kinds; k++) {
        if (!kind_here(&kinds[k])) continue;
        double diff[3] = { 0 };
        for (int c = 0; c < n_cases; c++)
            check_layer(&kinds[k], cases[c].o, cases[c].i, cases[c].n, &cases[c].p, (c + k) % 2, diff);
        char name[64];
        double allowed = kinds[k].tolerance;
        snprintf(name, sizeof name, "linear: %s", kinds[k].name);
        verdict(diff[0] <= allowed, name, "%.1e (allowed %.0e)", diff[0], allowed);
        snprintf(name, sizeof name, "linear_bwd, dx du: %s", kinds[k].name);
        verdict(diff[1] <= allowed, name, "%.1e (allowed %.0e)", diff[1], allowed);
        snprintf(name, sizeof name, "linear_bwd, gradients: %s", kinds[k].name);
        if (kinds[k].compute == MR_BF16) allowed = 5e-5; /* operands as two bf16: without the lower halves 3e-3 */
        verdict(diff[2] <= allowed, name, "%.1e (allowed %.0e)", diff[2], allowed);
        /* w's gradient: one block a tile for all rows (4128 x 4096), a segment at a time (4096 x 2048) */
        bool same = small_run
                        ? same_gradients(&kinds[k], 48, 40, 1100)
                        : same_gradients(&kinds[k], 4128, 4096, 1100) && same_gradients(&kinds[k], 4096, 2048, 1100);
        snprintf(name, sizeof name, "gradients beside others: %s", kinds[k].name);
        verdict(same, name, "bits equal those alone: wanted");
    }
}

/* --- the row rule --- */

typedef struct rows_job {
    layer s;
    int most;
    float *x, *dy, *y, *u, *dx, *du; /* inputs on the device; results of all rows at once, on the host */
} rows_job;

/* Rows [from, from + n) as a call of their own, in buffers that begin anywhere. */
static bool same_rows(const rows_job *j, int from, int n) {
    mr_backend *b = gpu;
    const mr_linear *l = &j->s.l[1];
    int64_t O = j->s.O, I = j->s.I, R = j->s.R;
    float *y = put_off(b, NULL, n * O), *dx = put_off(b, NULL, n * I), *u = put_off(b, NULL, n * R + 1),
          *du = put_off(b, NULL, n * R + 1);
    b->linear(b, y, R ? u : NULL, j->x + from * I, l, n, NULL);
    b->linear_bwd(b, dx, R ? du : NULL, j->dy + from * O, j->x + from * I, R ? u : NULL, l, n, false);
    float *got[4] = { get(b, y, n * O), get(b, u, n * R), get(b, dx, n * I), get(b, du, n * R) };
    bool same = same_bits(got[0], j->y + from * O, n * O) && same_bits(got[1], j->u + from * R, n * R) &&
                same_bits(got[2], j->dx + from * I, n * I) && same_bits(got[3], j->du + from * R, n * R);
    for (int i = 0; i < 4; i++) free(got[i]);
    drop_last(b, 4);
    return same;
}

static const int row_counts[] = { 1, 2, 3, 5, 8, 16, 17, 24, 25, 32, 33, 41, 48, 49, 64, 65, 100, 128, 200, 512 };

/* Of a small run: some counts, and of NF4 all up to 64 that have a kernel of their own. */
static bool count_here(const kind *k, size_t i) {
    int n = row_counts[i];
    return !small_run || i % 3 == 0 || n == 33 || (k->store == MR_NF4 && n > 16 && n <= 64);
}

static void check_rows(const kind *k, int64_t O, int64_t I, const parts *p, int most, int *bad, int *runs) {
    rows_job j = { .s = layer_new(k, O, I, p, false, true, false), .most = most };
    mr_backend *b = gpu;
    int64_t R = j.s.R;
    float *x = random_new(most * I, 1), *dy = random_new(most * O, 1);
    j.x = put_off(b, x, most * I), j.dy = put(b, dy, most * O);
    float *y = put(b, NULL, most * O), *u = put(b, NULL, most * R + 1), *dx = put(b, NULL, most * I), *du = put(b, NULL, most * R + 1);
    b->linear(b, y, R ? u : NULL, j.x, &j.s.l[1], most, NULL);
    b->linear_bwd(b, dx, R ? du : NULL, j.dy, j.x, R ? u : NULL, &j.s.l[1], most, false);
    j.y = get(b, y, most * O), j.u = get(b, u, most * R), j.dx = get(b, dx, most * I), j.du = get(b, du, most * R);
    for (size_t i = 0; i < sizeof row_counts / sizeof row_counts[0]; i++) {
        int n = row_counts[i];
        if (n > most || !count_here(k, i)) continue;
        int from = n < most ? n * 7 % (most - n) : 0;
        *bad += !same_rows(&j, from, n);
        (*runs)++;
    }
    free(x), free(dy), free(j.y), free(j.u), free(j.dx), free(j.du);
    layer_free(&j.s);
}

void test_rows(void) {
    static const struct { int o, i; parts p; } shapes[] = {
        { 130, 75, { 1, { 130 }, { 16 } } },
        { 96, 128, { 2, { 48, 48 }, { 16, 8 } } },
        { 192, 448, { 2, { 64, 128 }, { 8, 72 } } },
        { 64, 8256, { 1, { 64 }, { 24 } } },
        { 32, 8256, { 1, { 32 }, { 8 } } },
        { 8240, 64, { 2, { 4112, 4128 }, { 8, 8 } } },
        { 768, 64, { 2, { 512, 256 }, { 64, 24 } } }, /* outer.cu's for many rows at 16 bytes */
        { 16, 8256, { 1, { 16 }, { 8 } } }, /* segments of K in few blocks */
        { 2560, 2048, { 3, { 2048, 256, 256 }, { 64, 64, 64 } } },
        { 2048, 11008, { 1, { 2048 }, { 64 } } },
        { 22016, 2048, { 2, { 11008, 11008 }, { 64, 64 } } },
        { 960, 576, { 3, { 576, 192, 192 }, { 16, 16, 16 } } },
    };
    int n_shapes = (int)(sizeof shapes / sizeof shapes[0]) - (small_run ? 4 : 0);
    for (int k = 0; k < n_kinds; k++) {
        if (!kind_here(&kinds[k])) continue;
        int bad = 0, runs = 0;
        for (int s = 0; s < n_shapes; s++) {
            if (small_run && (s == 3 || s == 5) && strcmp(kinds[k].name, "nf4 in bf16") != 0) continue;
            if (kinds[k].compute == MR_F32 && s > 5 && s < n_shapes - 1) continue; /* slow, and one kernel for all */
            check_rows(&kinds[k], shapes[s].o, shapes[s].i, &shapes[s].p, small_run ? 80 : 512, &bad, &runs);
        }
        char name[64];
        snprintf(name, sizeof name, "row rule of products: %s", kinds[k].name);
        verdict(bad == 0, name, "%d of %d row counts differ", bad, runs);
    }
}

/* --- the MLP --- */

enum { MLP_PARTS = 5 }; /* of what a pass leaves: dx, and the gradients of gate_up's a, its two b, down's a; then down's b */

typedef struct mlp_job {
    layer up, down;
    int64_t C, F;
    int most;
    float *x, *dy; /* device, `most` rows */
} mlp_job;

/* Device memory for N rows of a pass. */
static mr_gated gated_new(const mlp_job *j, int N) {
    mr_backend *b = gpu;
    int64_t r = j->up.R > j->down.R ? j->up.R : j->down.R;
    return (mr_gated){ .gate_up = &j->up.l[1], .down = &j->down.l[1], .gu = put(b, NULL, N * 2 * j->F), .act = put(b, NULL, N * j->F),
                       .u_up = put(b, NULL, N * j->up.R + 1), .u_down = put(b, NULL, N * j->down.R + 1),
                       .dgu = put(b, NULL, N * 2 * j->F), .dact = put(b, NULL, N * j->F), .du = put(b, NULL, N * r + 1) };
}

/* Forward, rows [from, from + N) at once: y, added to what x is. together: mlp, which must serve many rows; else, and where it
 * does not serve few, the operations that it stands for. */
static float *mlp_forward(const mlp_job *j, const mr_gated *m, int from, int N, bool together) {
    mr_backend *b = gpu;
    const float *x = j->x + from * j->C;
    float *y = put(b, NULL, N * j->C);
    bool done = together && b->mlp(b, y, x, m, N, x);
    if (together) require(done || N <= 64, "mlp serves many rows");
    if (!done) {
        b->copy(b, y, x, (size_t)(N * j->C) * sizeof(float)); /* in place */
        b->linear(b, m->gu, m->u_up, x, m->gate_up, N, NULL);
        b->silu_mul(b, m->act, m->gu, N, (int)j->F);
        b->linear(b, y, m->u_down, m->act, m->down, N, y);
    }
    return get(b, y, N * j->C);
}

/* Backward for all rows: dx and gradients from zero. again: mlp_bwd has only u_down. */
static void mlp_backward(const mlp_job *j, mr_gated *m, bool together, bool again, float *got[MLP_PARTS + 1]) {
    mr_backend *b = gpu;
    const mr_linear *up = m->gate_up, *down = m->down;
    int N = j->most;
    float *dx = put(b, NULL, N * j->C), *gu = m->gu;
    float *grad[MLP_PARTS] = { up->da, up->lora[0].db, up->lora[1].db, down->da, down->lora[0].db };
    const int64_t n[MLP_PARTS] = { j->up.R * j->C, j->F * up->lora[0].r, j->F * up->lora[1].r, j->down.R * j->F, j->C * j->down.R };
    for (int i = 0; i < MLP_PARTS; i++) b->zero(b, grad[i], (size_t)n[i] * sizeof(float));
    if (again) m->gu = put(b, NULL, N * 2 * j->F); /* NaN */
    if (together) {
        require(b->mlp_bwd(b, dx, j->dy, j->x, m, N, again), "mlp_bwd serves many rows");
    } else {
        b->linear_bwd(b, m->dact, m->du, j->dy, m->act, m->u_down, down, N, false);
        b->silu_mul_bwd(b, m->dgu, m->dact, m->gu, N, (int)j->F);
        b->linear_bwd(b, dx, m->du, m->dgu, j->x, m->u_up, up, N, false);
    }
    m->gu = gu;
    got[0] = get(b, dx, N * j->C);
    for (int i = 0; i < MLP_PARTS; i++) got[1 + i] = get(b, grad[i], n[i]);
}

/* Rank 72 is more than the kernel between the products takes: LoRA's share is added before it then. */
static void check_mlp(const kind *k, int64_t C, int64_t F, int r, int N, bool bits[2], double *diff) {
    parts two = { 2, { (int)F, (int)F }, { r, 8 } }, one = { 1, { (int)C }, { r } };
    mlp_job j = { layer_new(k, 2 * F, C, &two, false, false, true), layer_new(k, C, F, &one, false, false, true), C, F, N, NULL, NULL };
    mr_backend *b = gpu;
    for (int i = 0; i < 2; i++) { /* a trained w is not for it */
        mr_linear *l = i ? &j.down.l[1] : &j.up.l[1];
        l->dw = l->dbias = NULL;
    }
    float *x = random_new(N * C, 0.1f), *dy = random_new(N * C, 1), *got[2], *back[3][MLP_PARTS + 1];
    j.x = put(b, x, N * C), j.dy = put(b, dy, N * C);
    mr_gated m[2] = { gated_new(&j, N), gated_new(&j, N) };
    for (int i = 0; i < 2; i++) {
        got[i] = mlp_forward(&j, &m[i], 0, N, i);
        mlp_backward(&j, &m[i], i, false, back[i]);
    }
    mlp_backward(&j, &m[1], true, true, back[2]);
    bits[0] = bits[0] && same_bits(got[0], got[1], N * C);
    static const int counts[] = { 1, 6, 13, 33, 64, 65, 70 };
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) { /* a sequence while it is sampled, and in training */
        int n = counts[i], from = N - n;
        float *rows = mlp_forward(&j, &m[1], from, n, true);
        bits[0] = bits[0] && same_bits(rows, got[1] + from * C, n * C);
        free(rows);
    }
    const int64_t n[MLP_PARTS + 1] = { N * C, j.up.R * C, F * r, F * 8, j.down.R * F, C * j.down.R };
    for (int i = 0; i <= MLP_PARTS; i++) {
        bits[1] = bits[1] && same_bits(back[1][i], back[2][i], n[i]);
        *diff = larger(*diff, worst(back[1][i], back[0][i], n[i]));
        for (int s = 0; s < 3; s++) free(back[s][i]);
    }
    free(x), free(dy), free(got[0]), free(got[1]);
    layer_free(&j.up), layer_free(&j.down);
}

void test_mlp(void) {
    static const struct { int c, f, r, n; } cases[] = {
        { 64, 72, 8, 80 }, { 48, 136, 64, 131 }, { 128, 192, 72, 90 }, { 128, 64, 16, 90 }, { 576, 1536, 16, 700 }, { 2048, 11008, 64, 600 },
    };
    for (int k = 0; k < n_kinds; k++) {
        if (!kind_here(&kinds[k]) || kinds[k].compute == MR_F32) continue;
        bool bits[2] = { true, true };
        double diff = 0, allowed = kinds[k].compute == MR_F16 ? 1e-3 : 5e-3; /* act and dgu rounded: 3e-4 and 3e-3 observed */
        for (int c = 0; c < (small_run ? 4 : 6); c++)
            check_mlp(&kinds[k], cases[c].c, cases[c].f, cases[c].r, cases[c].n, bits, &diff);
        char name[64];
        snprintf(name, sizeof name, "mlp: %s", kinds[k].name);
        verdict(bits[0], name, "bits of linear, silu_mul, linear at 1 to all rows: wanted");
        snprintf(name, sizeof name, "mlp_bwd: %s", kinds[k].name);
        verdict(diff <= allowed && bits[1], name, "%.1e (allowed %.0e)%s", diff, allowed, bits[1] ? "" : "; ONCE MORE DIFFERS");
    }
}

/* --- room for an adapter's a behind a weight: of NF4 that is kept unpacked beside, or of 16 bits --- */

static const int unpacked_counts[] = { 6, 13, 33, 64, 65, 130, 512 };
enum { UNPACKED_MOST = 512 };

static void unpack(const layer *s, bool on) {
    mr_backend *b = gpu;
    int64_t values = (s->O + s->R + 1) * ((s->I + 7) / 8 * 8);
    float *place = on ? put(b, NULL, (values + 1) / 2) : NULL;
    if (on) b->zero(b, place, (size_t)values * 2); /* as alloc gives it */
    b->weight_unpack(b, s->l[1].w, place, on ? s->R + 1 : 0);
}

/* The same weight without room behind it. */
static mr_weight *without_room(const kind *k, const layer *s) {
    mr_backend *b = gpu;
    mr_weight *w = NULL;
    mr_err err;
    float *rows = put(b, NULL, s->O * s->I);
    if (b->weight_create(b, &w, (mr_weight_source){ NULL, NULL }, s->O, s->I, 0, k->store, k->compute, MR_USE_FWD | MR_USE_BWD, &err) != MR_OK)
        require(false, err.msg);
    b->weight_rows(b, rows, s->l[1].w, 0, s->O);
    b->weight_set(b, &(mr_weight_values){ w, rows }, 1);
    return w;
}

/* Whether N rows through the layer, there and back, give the bits that were kept when `first`. */
static bool keeps_bits(const layer *s, const float *x, const float *dy, int N, bool first, float *kept[4]) {
    mr_backend *b = gpu;
    const mr_linear *l = &s->l[1];
    const int64_t n[4] = { N * s->O, N * s->R, N * s->I, N * s->R };
    float *y = put(b, NULL, n[0]), *u = put(b, NULL, n[1] + 1), *dx = put(b, NULL, n[2]), *du = put(b, NULL, n[3] + 1);
    bool same = true;
    b->linear(b, y, s->R ? u : NULL, x, l, N, dy);
    b->linear_bwd(b, dx, s->R ? du : NULL, dy, x, s->R ? u : NULL, l, N, false);
    float *got[4] = { get(b, y, n[0]), get(b, u, n[1]), get(b, dx, n[2]), get(b, du, n[3]) };
    for (int i = 0; i < 4; i++) {
        same = same && (first || same_bits(got[i], kept[i], n[i]));
        if (first)
            kept[i] = got[i];
        else
            free(got[i]);
    }
    drop_last(b, 4);
    return same;
}

/* Bits with and without, also when an adapter's values change meanwhile. */
static bool check_unpacked(const kind *k, int64_t O, int64_t I, const parts *p, int N, bool bias) {
    layer s = layer_new(k, O, I, p, false, bias, false);
    mr_backend *b = gpu;
    bool packed = k->store == MR_NF4;
    mr_weight *with = s.l[1].w, *without = packed ? with : without_room(k, &s);
    float *x = random_new(N * I, 1), *dy = random_new(N * O, 1), *a = random_new(s.R * I + 1, 0.5f), *kept[2][4];
    const float *xd = put(b, x, N * I), *dyd = put(b, dy, N * O), *ad = put(b, a, s.R * I + 1);
    s.l[1].w = without;
    keeps_bits(&s, xd, dyd, N, true, kept[0]);
    s.l[1].w = with;
    if (packed) unpack(&s, true);
    bool same = keeps_bits(&s, xd, dyd, N, false, kept[0]);
    if (s.R) b->weight_set(b, &(mr_weight_values){ s.l[1].a, ad }, 1);
    keeps_bits(&s, xd, dyd, N, true, kept[1]);
    if (s.R) same = same && !same_bits(kept[0][1], kept[1][1], N * s.R);
    if (packed) unpack(&s, false);
    s.l[1].w = without;
    same = same && keeps_bits(&s, xd, dyd, N, false, kept[1]);
    for (int i = 0; i < 4; i++) free(kept[0][i]), free(kept[1][i]);
    free(x), free(dy), free(a);
    s.l[1].w = with;
    if (!packed) b->weight_free(b, without);
    layer_free(&s);
    return same;
}

/* The MLP of sampling against the operations that it stands for, from packed weights. */
static bool check_unpacked_mlp(const kind *k, int64_t C, int64_t F, int r, int N, float scale) {
    parts two = { 2, { (int)F, (int)F }, { r, 8 } }, one = { 1, { (int)C }, { r } };
    mlp_job j = { layer_new(k, 2 * F, C, &two, false, true, false), layer_new(k, C, F, &one, false, true, false), C, F, N, NULL, NULL };
    mr_backend *b = gpu;
    float *x = random_new(N * C, scale), *got[2];
    j.x = put(b, x, N * C);
    mr_gated m = gated_new(&j, N);
    got[0] = mlp_forward(&j, &m, 0, N, false);
    if (k->store == MR_NF4) unpack(&j.up, true), unpack(&j.down, true);
    m.sampling = true;
    got[1] = mlp_forward(&j, &m, 0, N, true);
    bool same = same_bits(got[0], got[1], N * C);
    free(x), free(got[0]), free(got[1]);
    layer_free(&j.up), layer_free(&j.down);
    return same;
}

/* The rows' bytes stay and what is known of them goes: a product behind it converts them itself. */
static void forget(mr_backend *b, float *rows, float *room, int64_t n) {
    b->copy(b, room, rows, (size_t)n * sizeof *rows);
    b->copy(b, rows, room, (size_t)n * sizeof *rows);
}

/* linear right behind the rmsnorm that makes its rows, behind another launch, and behind one that changes them. */
static bool check_behind_norm(const kind *k, int64_t C, int N) {
    parts p = { 1, { (int)C }, { 8 } };
    layer s = layer_new(k, C, C, &p, false, false, false);
    mr_backend *b = gpu;
    float *x = random_new(2 * N * C, 1), *got[2];
    const float *from = put(b, x, 2 * N * C);
    float *norm = put(b, x, C), *rows = put(b, NULL, N * C), *room = put(b, NULL, N * C), *y = put(b, NULL, N * C), *u = put(b, NULL, N * s.R),
          *other = put(b, x, C);
    bool same = true;
    if (k->store == MR_NF4) unpack(&s, true);
    b->linear(b, y, u, from, &s.l[1], N, NULL); /* says what it wants */
    for (int i = 0; i < 6; i++) {
        for (int fresh = 0; fresh < 2; fresh++) {
            b->rmsnorm(b, rows, (int)C, from + i % 2 * N * C, (int)C, norm, N, (int)C, 1e-6f);
            if (i / 2 == 1) b->add(b, other, norm, C);
            if (i / 2 == 2) b->add(b, rows, from, N * C);
            if (fresh) forget(b, rows, room, N * C);
            b->linear(b, y, u, rows, &s.l[1], N, NULL);
            got[fresh] = get(b, y, N * C);
        }
        same = same && same_bits(got[0], got[1], N * C);
        free(got[0]), free(got[1]);
    }
    free(x);
    layer_free(&s);
    return same;
}

/* linear_bwd right behind what makes its gradient: rmsnorm_bwd, that and rmsnorm of other rows, rope that turns heads back; and behind rmsnorm_bwd whose
 * rows an addition or rmsnorm has changed since. */
static bool check_behind_gradient(const kind *k, int H, int D, int N) {
    int64_t C = (int64_t)(H + 1) * D, O = 128;
    parts p = { 2, { D, H * D }, { 8, 16 } };
    layer s = layer_new(k, C, O, &p, false, false, false);
    mr_backend *b = gpu;
    float *x = random_new(3 * N * C, 1), *in = random_new(N * O, 1), *got[2][2];
    float *xd = put(b, x, 3 * N * C), *norm = put(b, x, C), *dy = put(b, NULL, N * C), *rows = put(b, NULL, N * C);
    float *dx = put(b, NULL, N * O), *du = put(b, NULL, N * s.R), *u = put(b, x, N * s.R), *ind = put(b, in, N * O);
    float *angles = put(b, x, D / 2);
    int32_t *at = malloc((size_t)N * sizeof *at);
    require(at, "host memory");
    for (int i = 0; i < N; i++) at[i] = i % 37;
    int32_t *pos = put_ids(b, at, N);
    bool same = true;
    b->linear_bwd(b, dx, du, dy, ind, u, &s.l[1], N, false); /* says what it wants */
    for (int maker = 0; maker < 5; maker++) {
        for (int fresh = 0; fresh < 2; fresh++) {
            b->copy(b, dy, xd, (size_t)(N * C) * sizeof *dy);
            if (maker != 2)
                b->rmsnorm_bwd(b, dy, (int)C, NULL, xd + N * C, (int)C, xd + 2 * N * C, (int)C, norm, N, (int)C, 1e-6f);
            else
                b->rope(b, dy, (int)C, pos, angles, N, H, D, true);
            if (maker == 1) b->rmsnorm(b, rows, (int)C, xd, (int)C, norm, N, (int)C, 1e-6f);
            if (maker == 3) b->add(b, dy, xd, N * C);
            if (maker == 4) b->rmsnorm(b, dy, (int)C, xd, (int)C, norm, N, (int)C, 1e-6f);
            if (fresh) forget(b, dy, rows, N * C);
            b->linear_bwd(b, dx, du, dy, ind, u, &s.l[1], N, false);
            got[fresh][0] = get(b, dx, N * O), got[fresh][1] = get(b, du, N * s.R);
        }
        same = same && same_bits(got[0][0], got[1][0], N * O) && same_bits(got[0][1], got[1][1], N * s.R);
        for (int i = 0; i < 4; i++) free(got[i / 2][i % 2]);
    }
    free(x), free(in), free(at);
    layer_free(&s);
    return same;
}

void test_unpacked(void) {
    static const struct { int o, i; parts p; } shapes[] = {
        { 96, 128, { 2, { 48, 48 }, { 16, 8 } } }, /* parts that do not fill tiles */
        { 128, 192, { 3, { 32, 32, 64 }, { 16, 24, 72 } } }, /* two parts in one block's tiles */
        { 130, 72, { 0 } },
        { 192, 128, { 1, { 128 }, { 8 } } },
        { 64, 8256, { 1, { 64 }, { 8 } } },
        { 2560, 2048, { 3, { 2048, 256, 256 }, { 64, 64, 64 } } },
        { 2048, 2048, { 1, { 2048 }, { 64 } } },
        { 2048, 11008, { 1, { 2048 }, { 64 } } },
        { 22016, 2048, { 2, { 11008, 11008 }, { 64, 64 } } },
        { 960, 576, { 3, { 576, 192, 192 }, { 16, 16, 16 } } },
    };
    int n_shapes = (int)(sizeof shapes / sizeof shapes[0]) - (small_run ? 5 : 0);
    if (!gpu->weight_unpack) return;
    for (int k = 0; k < n_kinds; k++) {
        if (!kind_here(&kinds[k]) || kinds[k].compute == MR_F32) continue;
        bool packed = kinds[k].store == MR_NF4;
        int bad = 0, runs = 0;
        char name[64];
        snprintf(name, sizeof name, "rmsnorm, linear: %s", kinds[k].name);
        verdict(check_behind_norm(&kinds[k], 128, 40) && check_behind_norm(&kinds[k], 576, 65) && check_behind_norm(&kinds[k], 128, 520), name,
                "bits of rows that are converted: wanted");
        snprintf(name, sizeof name, "gradients, linear_bwd: %s", kinds[k].name);
        verdict(check_behind_gradient(&kinds[k], 2, 64, 70) && check_behind_gradient(&kinds[k], 3, 8, 90), name,
                "bits of rows that are converted: wanted");
        for (size_t c = 0; c < sizeof unpacked_counts / sizeof unpacked_counts[0]; c++)
            for (int s = 0; s < n_shapes; s++) {
                if (!packed && unpacked_counts[c] != 33 && unpacked_counts[c] != 130 && unpacked_counts[c] != 512) continue;
                if (small_run && (unpacked_counts[c] > 130 || (s == 4 && unpacked_counts[c] != 33))) continue;
                bad += !check_unpacked(&kinds[k], shapes[s].o, shapes[s].i, &shapes[s].p, unpacked_counts[c], (s + (int)c) % 2);
                runs++;
            }
        static const struct { int c, f, r; } mlps[] = { { 64, 128, 8 }, { 128, 192, 72 }, { 576, 1536, 16 }, { 2048, 11008, 64 } };
        for (int c = 0; c < (small_run ? 2 : 4); c++)
            for (int n = packed ? 13 : 33; n <= UNPACKED_MOST; n = n * 5 / 2 + 1) {
                bad += !check_unpacked_mlp(&kinds[k], mlps[c].c, mlps[c].f, mlps[c].r, n, c == 1 ? 10 : 0.1f); /* 10: e^-x overflows, too */
                runs++;
                if (small_run && n > 60) break;
            }
        snprintf(name, sizeof name, "%s: %s", packed ? "kept unpacked" : "room for a, mlp while sampling", kinds[k].name);
        verdict(bad == 0, name, "%d of %d differ in a bit", bad, runs);
    }
}
