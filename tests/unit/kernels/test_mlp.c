/* The gated MLP as one operation: forward with the bits of its single operations, gradients near theirs, and neither
 * threads nor how rows are cut show, for every instruction set that serves it. */
#include "weights_common.h"

enum { C = 96, F = 192, R = 16, MOST = 230 };

typedef struct job {
    mr_backend *b;
    mr_linear gate_up, down;
    float *x, *dy;
    const float *onto; /* what y adds to; NULL: itself */
    /* what a pass gives */
    float *y, *dx, *u_up, *u_down;
    /* buffers */
    float *gu, *act, *dgu, *dact, *du;
} job;

static mr_linear linear_new(mr_backend *b, int O, int I, int parts, float scale) {
    const unsigned uses = MR_USE_FWD | MR_USE_BWD;
    float *w = noise_new(O * I, 0.2f);
    mr_linear l = { .w = weight_new(b, w, O, I, MR_BF16, MR_BF16, uses), .r_total = parts * R, .n_lora = parts };
    if (parts) l.a = weight_new(b, w, parts * R, I, MR_BF16, MR_BF16, uses);
    if (parts) l.da = mr_alloc((size_t)(parts * R * I) * sizeof(float));
    for (int i = 0; i < parts; i++)
        l.lora[i] = (mr_lora_part){ .row0 = i * O / parts, .rows = O / parts, .r0 = i * R, .r = R, .scale = scale,
                                    .b = weight_new(b, w + 7 * i, O / parts, R, MR_BF16, MR_BF16, uses),
                                    .db = mr_alloc((size_t)(O / parts * R) * sizeof(float)) };
    mr_free(w);
    return l;
}

static void linear_free(mr_backend *b, mr_linear *l) {
    b->weight_free(b, l->w), b->weight_free(b, l->a);
    mr_free(l->da);
    for (int i = 0; i < l->n_lora; i++) {
        b->weight_free(b, l->lora[i].b);
        mr_free(l->lora[i].db);
    }
}

static bool open_job(job *j, const char *isa, int threads, int parts, float scale) {
    *j = (job){ .b = open_isa(isa, threads) };
    if (!j->b) return false;
    noise_state_ = 5;
    j->gate_up = linear_new(j->b, 2 * F, C, 2 * parts, scale);
    j->down = linear_new(j->b, C, F, 0, scale);
    if (parts) { /* a part of whole panels: all of C but its last third */
        linear_free(j->b, &j->down);
        j->down = linear_new(j->b, C, F, 1, scale);
        j->down.lora[0].rows = 64;
        j->b->weight_free(j->b, j->down.lora[0].b);
        float *w = noise_new(64 * R, 0.2f);
        j->down.lora[0].b = weight_new(j->b, w, 64, R, MR_BF16, MR_BF16, MR_USE_FWD | MR_USE_BWD);
        mr_free(w);
    }
    j->x = noise_new(MOST * C, 1), j->dy = noise_new(MOST * C, 1);
    j->y = poison_new(MOST * C), j->dx = poison_new(MOST * C);
    j->u_up = poison_new(MOST * 2 * R), j->u_down = poison_new(MOST * R);
    j->gu = poison_new(MOST * 2 * F), j->act = poison_new(MOST * F);
    j->dgu = poison_new(MOST * 2 * F), j->dact = poison_new(MOST * F), j->du = poison_new(MOST * 2 * R);
    return true;
}

static void close_job(job *j) {
    mr_err err;
    float *const all[] = { j->x, j->dy, j->y, j->dx, j->u_up, j->u_down, j->gu, j->act, j->dgu, j->dact, j->du };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) mr_free(all[i]);
    linear_free(j->b, &j->gate_up), linear_free(j->b, &j->down);
    CHECK_INT(j->b->sync(j->b, &err), MR_OK);
    mr_backend_close(j->b);
}

/* Rows [from, to) through the operation; false when it does not serve them. */
static bool whole_as(job *j, int from, int to, bool sampling, bool backward, bool again) {
    mr_gated m = { &j->gate_up, &j->down, j->gu + from * 2 * F, j->act, j->u_up + from * 2 * R, j->u_down + from * R,
                   sampling, j->dgu, j->dact, j->du };
    const float *x = j->x + from * C;
    if (!backward) return j->b->mlp(j->b, j->y + from * C, x, &m, to - from, (j->onto ? j->onto : j->y) + from * C);
    return j->b->mlp_bwd(j->b, j->dx + from * C, j->dy + from * C, x, &m, to - from, again);
}

static bool whole(job *j, int from, int to, bool backward, bool again) {
    return whole_as(j, from, to, false, backward, again);
}

static void single(job *j, int n, bool backward) {
    mr_backend *b = j->b;
    if (!backward) {
        b->linear(b, j->gu, j->u_up, j->x, &j->gate_up, n, NULL);
        b->silu_mul(b, j->act, j->gu, n, F);
        b->linear(b, j->y, j->u_down, j->act, &j->down, n, j->y);
        return;
    }
    b->silu_mul(b, j->act, j->gu, n, F);
    b->linear_bwd(b, j->dact, j->du, j->dy, j->act, j->u_down, &j->down, n, false);
    b->silu_mul_bwd(b, j->dgu, j->dact, j->gu, n, F);
    b->linear_bwd(b, j->dx, j->du, j->dgu, j->x, j->u_up, &j->gate_up, n, false);
}

static void start(job *j) {
    for (int i = 0; i < MOST * C; i++) j->y[i] = 0.25f * j->x[i], j->dx[i] = NAN;
    mr_linear *const both[2] = { &j->gate_up, &j->down };
    for (int k = 0; k < 2; k++) {
        mr_linear *l = both[k];
        if (l->da) memset(l->da, 0, (size_t)(l->r_total * (int)(k ? F : C)) * sizeof(float));
        for (int i = 0; i < l->n_lora; i++) memset(l->lora[i].db, 0, (size_t)(l->lora[i].rows * R) * sizeof(float));
    }
}

/* Everything that a pass over n rows has left, one after the other. */
static float *results(const job *j, int n, size_t *size, size_t *n_forward) {
    const mr_linear *g = &j->gate_up, *d = &j->down;
    bool lora = g->n_lora > 0;
    const struct { const float *p; int n; } all[] = {
        { j->y, n * C }, { j->u_up, lora ? n * 2 * R : 0 }, { j->u_down, lora ? n * R : 0 }, { j->dx, n * C },
        { g->da, lora ? 2 * R * C : 0 }, { d->da, lora ? R * F : 0 }, { g->lora[0].db, lora ? F * R : 0 },
        { g->lora[1].db, lora ? F * R : 0 }, { d->lora[0].db, lora ? 64 * R : 0 },
    };
    size_t total = 0, at = 0;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) total += (size_t)all[i].n;
    float *out = mr_alloc(total * sizeof *out);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (i == 3) *n_forward = at;
        if (all[i].n) memcpy(out + at, all[i].p, (size_t)all[i].n * sizeof *out);
        at += (size_t)all[i].n;
    }
    *size = total;
    return out;
}

/* The largest difference as a part of the largest value, from `at` on. */
static double apart(const float *a, const float *b, size_t at, size_t n) {
    double diff = 0, most = 0;
    for (size_t i = at; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= diff)) diff = isnan(d) ? HUGE_VAL : d;
        if (fabs((double)b[i]) > most) most = fabs((double)b[i]);
    }
    return diff / most;
}

/* Factors of gradients that are rounded to bf16 differ by 2^-9; sums of many by less. Observed: 2.1e-3. */
static void equals_single_operations(void) {
    static const int sizes[] = { 64, 65, 97, 192, 230 };
    for (int isa = 0; isa < N_ISAS; isa++)
        for (int k = 0; k < 3; k++) { /* without adapters; a factor that folds; one that does not */
            job j;
            if (!open_job(&j, all_isas[isa], 2, k > 0, k == 2 ? 0.7f : 2.0f)) continue;
            for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
                int n = sizes[i];
                size_t size, forward;
                start(&j);
                if (!whole(&j, 0, n, false, false)) break; /* no bf16 here */
                CHECK(whole(&j, 0, n, true, false));
                float *got = results(&j, n, &size, &forward);
                start(&j);
                single(&j, n, false), single(&j, n, true);
                float *want = results(&j, n, &size, &forward);
                CHECK(memcmp(got, want, forward * sizeof *got) == 0);
                CHECK(apart(got, want, forward, size) < 4e-3);
                /* while sampling gu is not touched */
                start(&j);
                for (int v = 0; v < n * 2 * F; v++) j.gu[v] = -7;
                CHECK(whole_as(&j, 0, n, true, false, false));
                for (int v = 0; v < n * 2 * F; v++) CHECK(j.gu[v] == -7);
                CHECK(memcmp(got, j.y, (size_t)(n * C) * sizeof *got) == 0);
                /* onto what lies apart from y */
                start(&j);
                float *apart_y = mr_alloc((size_t)(n * C) * sizeof *apart_y);
                memcpy(apart_y, j.y, (size_t)(n * C) * sizeof *apart_y);
                for (int v = 0; v < n * C; v++) j.y[v] = NAN;
                j.onto = apart_y;
                CHECK(whole(&j, 0, n, false, false));
                CHECK(memcmp(got, j.y, (size_t)(n * C) * sizeof *got) == 0);
                j.onto = NULL;
                mr_free(apart_y);
                /* with only u_down left of the forward pass */
                start(&j);
                CHECK(whole(&j, 0, n, false, false));
                for (int v = 0; v < n * 2 * F; v++) j.gu[v] = NAN;
                for (int v = 0; v < n * 2 * R; v++) j.u_up[v] = NAN;
                CHECK(whole(&j, 0, n, true, true));
                float *again = results(&j, n, &size, &forward);
                CHECK(k == 0 || memcmp(got, again, size * sizeof *got) == 0);
                CHECK(apart(again, got, forward, size) == 0);
                mr_free(got), mr_free(want), mr_free(again);
            }
            close_job(&j);
        }
}

/* 230 rows at once and in three pieces, of which one is too small to be served forward; one to three threads. */
static void cuts_and_threads_do_not_show(void) {
    static const int cuts[] = { 0, 100, 117, MOST };
    for (int isa = 0; isa < N_ISAS; isa++) {
        float *first = NULL;
        size_t size = 0, forward;
        for (int threads = 1; threads <= 3; threads++)
            for (int cut = 0; cut < 2; cut++) {
                job j;
                if (!open_job(&j, all_isas[isa], threads, 1, 2.0f)) continue;
                start(&j);
                bool served = whole(&j, 0, MOST, false, false);
                for (int i = 0; served && i < (cut ? 3 : 1); i++)
                    CHECK(whole(&j, cuts[i], cut ? cuts[i + 1] : MOST, true, false));
                float *now = served ? results(&j, MOST, &size, &forward) : NULL;
                if (first && now) CHECK(memcmp(first, now, size * sizeof *now) == 0);
                if (!first)
                    first = now;
                else
                    mr_free(now);
                close_job(&j);
            }
        mr_free(first);
    }
}

TEST_MAIN({ "equals single operations", equals_single_operations },
          { "cuts and threads do not show", cuts_and_threads_do_not_show })
