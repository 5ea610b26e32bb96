/* compare_ops.c - operations on rows alone, the head and the optimizer. */
#include "compare.h"

static mr_backend *side(int s) { return s ? gpu : cpu; }

/* --- rows --- */

static bool rows_alone; /* whether every row of the last operations had the same bits when it was computed alone */

static double pair_worst(float *out[2], int64_t n) {
    float *want = get(cpu, out[0], n), *got = get(gpu, out[1], n);
    double d = worst(got, want, n);
    free(want), free(got);
    return d;
}

/* Compares rows [1, 3) of `all` with what a call for these two gave. */
static void check_alone(float *all, float *two, int64_t ld, int N) {
    if (N < 3) return;
    float *a = get(gpu, all + ld, 2 * ld), *b = get(gpu, two, 2 * ld);
    rows_alone = rows_alone && same_bits(a, b, 2 * ld);
    free(a), free(b);
}

static double check_rmsnorm(int N, int C, int ld, bool backward) {
    float *x = random_new((int64_t)N * ld, 2), *w = random_new(C, 1), *dy = random_new((int64_t)N * ld, 1),
          *old = random_new((int64_t)N * ld, 1), *y[2], *dx[2], *dw[2];
    for (int s = 0; s < 2; s++) {
        mr_backend *b = side(s);
        float *xd = put(b, x, (int64_t)N * ld), *wd = put(b, w, C), *dyd = put_off(b, dy, (int64_t)N * ld);
        y[s] = put(b, old, (int64_t)N * ld), dx[s] = put(b, old, (int64_t)N * ld), dw[s] = put(b, w, C);
        b->rmsnorm(b, y[s], ld, xd, ld, wd, N, C, 1e-6f);
        if (backward) b->rmsnorm_bwd(b, dx[s], ld, dw[s], dyd, ld, xd, ld, wd, N, C, 1e-6f);
        if (!s || N < 3) continue;
        float *two = put_off(b, old + ld, 2 * ld);
        b->rmsnorm(b, two, ld, xd + ld, ld, wd, 2, C, 1e-6f);
        check_alone(y[1], two, ld, N);
        if (!backward) continue;
        two = put_off(b, old + ld, 2 * ld);
        b->rmsnorm_bwd(b, two, ld, NULL, dyd + ld, ld, xd + ld, ld, wd, 2, C, 1e-6f);
        check_alone(dx[1], two, ld, N);
    }
    double d = pair_worst(y, (int64_t)N * ld), e = backward ? pair_worst(dx, (int64_t)N * ld) : 0,
           f = backward ? pair_worst(dw, C) : 0;
    free(x), free(w), free(dy), free(old);
    drop(cpu), drop(gpu);
    return fmax(d, fmax(e, f));
}

/* Both sides; on the GPU also against rmsnorm of each head alone, bit for bit, and with trained weights. */
static double check_head_norm(int N, int H, int K, int D, bool *same) {
    int ld = (H + K) * D + 3;
    int64_t n = (int64_t)N * ld;
    float *x = random_new(n, 2), *w = random_new(2 * D, 1), *dy = random_new(n, 1), *old = random_new(n, 1), *y[2], *dx[2];
    for (int s = 0; s < 2; s++) {
        mr_backend *b = side(s);
        float *xd = put(b, x, n), *wd = put(b, w, 2 * D), *dyd = put(b, dy, n);
        y[s] = put(b, old, n), dx[s] = put(b, old, n);
        b->head_norm(b, y[s], xd, ld, wd, wd + D, N, H, K, D, 1e-6f);
        b->head_norm_bwd(b, dx[s], NULL, NULL, dyd, xd, ld, wd, wd + D, N, H, K, D, 1e-6f);
        if (!s) continue;
        float *each = put(b, old, n), *dx_each = put(b, old, n), *trained = put(b, old, n), *dw = put(b, w, 2 * D), *dw_each = put(b, w, 2 * D);
        for (int h = 0; h < H + K; h++) {
            int at = h * D, k = h < H ? 0 : D;
            b->rmsnorm(b, each + at, ld, xd + at, ld, wd + k, N, D, 1e-6f);
            b->rmsnorm_bwd(b, dx_each + at, ld, dw_each + k, dyd + at, ld, xd + at, ld, wd + k, N, D, 1e-6f);
        }
        b->head_norm_bwd(b, trained, dw, dw + D, dyd, xd, ld, wd, wd + D, N, H, K, D, 1e-6f);
        float *got[] = { y[1], dx[1], trained, dw }, *want[] = { each, dx_each, dx_each, dw_each };
        for (int i = 0; i < 4; i++) {
            int64_t m = i < 3 ? n : 2 * D;
            float *a = get(b, got[i], m), *c = get(b, want[i], m);
            *same = *same && same_bits(a, c, m);
            free(a), free(c);
        }
    }
    double d = fmax(pair_worst(y, n), pair_worst(dx, n));
    free(x), free(w), free(dy), free(old);
    drop(cpu), drop(gpu);
    return d;
}

static double check_rope(int N, int H, int D, bool inverse) {
    int ld = H * D + 3 + N % 2; /* rows at 16 bytes too */
    float *x = random_new((int64_t)N * ld, 2), *freq = random_new(D / 2, 1), *y[2];
    int32_t *pos = malloc((size_t)N * sizeof *pos);
    for (int i = 0; i < D / 2; i++) freq[i] = powf(10000.0f, -2.0f * (float)i / (float)D);
    for (int n = 0; n < N; n++) pos[n] = (int32_t)(random_bits() % 40000);
    for (int s = 0; s < 2; s++) {
        mr_backend *b = side(s);
        y[s] = put(b, x, (int64_t)N * ld);
        int32_t *p = put_ids(b, pos, N);
        float *f = put(b, freq, D / 2);
        b->rope(b, y[s], ld, p, f, N, H, D, inverse);
        if (!s || N < 3) continue;
        float *two = put_off(b, x + ld, 2 * ld);
        b->rope(b, two, ld, p + 1, f, 2, H, D, inverse);
        check_alone(y[1], two, ld, N);
    }
    double d = pair_worst(y, (int64_t)N * ld);
    free(x), free(freq), free(pos);
    drop(cpu), drop(gpu);
    return d;
}

static double check_silu(int N, int F) {
    int64_t n = (int64_t)N * F;
    float *gu = random_new(2 * n, 6), *dy = random_new(n, 1), *y[2], *dgu[2], *sum[2];
    gu[0] = 100, gu[F > 1] = -100;
    for (int s = 0; s < 2; s++) {
        mr_backend *b = side(s);
        float *gud = put(b, gu, 2 * n), *dyd = put(b, dy, n);
        y[s] = put(b, NULL, n), dgu[s] = put(b, NULL, 2 * n), sum[s] = put(b, gu, n);
        b->silu_mul(b, y[s], gud, N, F);
        b->silu_mul_bwd(b, dgu[s], dyd, gud, N, F);
        b->add(b, sum[s], dyd, n);
        if (!s || N < 3) continue;
        float *two = put_off(b, NULL, 2 * F);
        b->silu_mul(b, two, gud + 2 * F, 2, F);
        check_alone(y[1], two, F, N);
    }
    double d = fmax(pair_worst(y, n), fmax(pair_worst(dgu, 2 * n), pair_worst(sum, n)));
    free(gu), free(dy);
    drop(cpu), drop(gpu);
    return d;
}

/* Values go to the host and come back while operations of the same device write where they were, in both lanes in turn: each
 * read of a lane must see what it had when it was sent. */
static void check_beside(void) {
    int64_t n = small_run ? 1000 : 16 << 20;
    int bad = 0;
    size_t bytes = (size_t)n * sizeof(float);
    float *one = random_new(n, 1), *ones = malloc(bytes), *want = malloc(bytes), *host = gpu->host_alloc(gpu, 4 * bytes);
    require(ones && want && host, "host memory");
    for (int64_t i = 0; i < n; i++) ones[i] = 1, want[i] = one[i];
    float *ring[2] = { put(gpu, one, n), put(gpu, NULL, n) }, *step = put(gpu, ones, n);
    for (int i = 0; i < 4; i++) { /* value i is in ring[i % 2], the next is made from it */
        gpu->send(gpu, host + i * n, ring[i % 2], bytes, i % 2);
        gpu->moved(gpu, (i + 1) % 2);
        gpu->copy(gpu, ring[(i + 1) % 2], ring[i % 2], bytes);
        gpu->add(gpu, ring[(i + 1) % 2], step, n);
    }
    for (int i = 3; i >= 0; i--) {
        gpu->fetch(gpu, ring[i % 2], host + i * n, bytes, i % 2);
        gpu->moved(gpu, i % 2);
        float *back = get(gpu, ring[i % 2], n);
        for (int64_t k = 0; k < n; k++) {
            float w = want[k];
            for (int j = 0; j < i; j++) w += 1;
            bad += memcmp(&w, &back[k], sizeof w) != 0;
        }
        gpu->zero(gpu, ring[i % 2], bytes);
        free(back);
    }
    drop(gpu);
    gpu->host_free(gpu, host);
    verdict(!bad, "send, fetch, moved", "%d values of %lld are others", bad, (long long)(4 * n));
    free(one), free(ones), free(want);
}

void test_elementwise(void) {
    check_beside();
    static const int widths[] = { 1, 3, 20, 64, 128, 129, 576, 2500, 4100, 2048, 11008 };
    double norm = 0, rope = 0, silu = 0;
    rows_alone = true;
    for (size_t i = 0; i < sizeof widths / sizeof widths[0] - (small_run ? 2 : 0); i++)
        for (int N = 1; N <= 40; N += 13) {
            norm = fmax(norm, check_rmsnorm(N, widths[i], widths[i] + (int)i % 3, true));
            silu = fmax(silu, check_silu(N, widths[i]));
        }
    bool same = true;
    for (int D = 2; D <= 256; D = D * 5 / 2)
        for (int N = 1; N <= 20; N += 6) norm = fmax(norm, check_head_norm(N, 1 + N % 5, N % 3, D, &same));
    norm = fmax(norm, fmax(check_head_norm(3, 16, 8, 128, &same), check_head_norm(2, 1, 1, 256, &same)));
    for (int D = 2; D <= 256; D *= 2)
        for (int N = 1; N <= 20; N += 6) rope = fmax(rope, check_rope(N, 1 + N % 5, D, N % 2));
    rope = fmax(rope, check_rope(7, 3, 20, true));
    verdict(norm < 3e-6, "rmsnorm, head_norm, their bwd", "%.1e (allowed 3e-06)", norm);
    verdict(same, "head_norm", "the bits of rmsnorm of each head");
    verdict(rope < 1e-6, "rope", "%.1e (allowed 1e-06)", rope);
    verdict(silu < 1e-6, "silu_mul, silu_mul_bwd, add", "%.1e (allowed 1e-06)", silu);
    verdict(rows_alone, "row rule of these", "two rows alone give the bits that they have among all");
    float a[8] = { 1, 2, 3, 4, 5, 6, 7, 8 }, *d = put(gpu, a, 8);
    gpu->copy(gpu, d + 2, d, 4 * sizeof *d); /* overlaps */
    gpu->zero(gpu, d + 7, sizeof *d);
    float *back = get(gpu, d, 8);
    const float want[8] = { 1, 2, 1, 2, 3, 4, 7, 0 };
    verdict(same_bits(back, want, 8), "upload, copy, zero, download", "an overlapping copy too");
    free(back);
}

/* --- optimizer --- */

/* p, m, v and g of n elements as tensors of `each`, every third without decay, in one call. The first one is shorter by `odd`, which puts the others
 * at odd places. */
static void update_f32(mr_backend *b, float *p, float *m, float *v, const float *g, int64_t n, int64_t each, int64_t odd, const mr_adamw *opt) {
    int n_tensors = (int)((n + odd + each - 1) / each);
    mr_adamw_tensor *all = calloc((size_t)n_tensors, sizeof *all);
    for (int i = 0; i < n_tensors; i++) {
        int64_t at = i ? i * each - odd : 0, end = (i + 1) * each - odd;
        all[i] = (mr_adamw_tensor){ .p = p + at, .g = g + at, .n = (end < n ? end : n) - at, .m = m + at, .v = v + at, .no_decay = i % 3 == 1 };
    }
    b->adamw(b, all, n_tensors, opt);
    free(all);
}

/* The same with codes c1 [n], c2 [n] and maxima of `blocks` blocks twice. each: a multiple of 256. */
static void update_8bit(mr_backend *b, float *p, uint8_t *c1, float *absmax, const float *g, int64_t n, int64_t each, int64_t blocks,
                        const mr_adamw *opt) {
    int n_tensors = (int)((n + each - 1) / each);
    mr_adamw_tensor *all = calloc((size_t)n_tensors, sizeof *all);
    for (int i = 0; i < n_tensors; i++) {
        int64_t at = i * each;
        all[i] = (mr_adamw_tensor){ .p = p + at, .g = g + at, .n = n - at < each ? n - at : each, .c1 = c1 + at, .c2 = c1 + n + at,
                                    .absmax1 = absmax + at / 256, .absmax2 = absmax + blocks + at / 256, .no_decay = i % 3 == 1 };
    }
    b->adamw(b, all, n_tensors, opt);
    free(all);
}

void test_optimizer(void) {
    const int64_t n = small_run ? 9003 : 300001, blocks = (n + 255) / 256;
    double diff = 0;
    for (int last = 0; last < 2; last++) {
        float *p[2], *m[2], *v[2];
        for (int step = 1; step <= 3; step++) {
            random_state = 5 + (uint32_t)step;
            float *start = random_new(n, 1), *g = random_new(n, 1);
            mr_adamw opt = { 0.01f, 0.9f, 0.99f, 1e-8f, 0.1f, step, 0.3f, last };
            for (int s = 0; s < 2; s++) {
                mr_backend *b = side(s);
                if (step == 1) {
                    p[s] = put(b, start, n), m[s] = put(b, start, n), v[s] = put(b, start, n);
                    b->zero(b, m[s], (size_t)n * sizeof(float)), b->zero(b, v[s], (size_t)n * sizeof(float));
                }
                update_f32(b, p[s], m[s], v[s], put(b, g, n), n, step == 1 ? n : step == 2 ? 7 : 1024, last ? 3 : 0, &opt);
            }
            free(start), free(g);
        }
        diff = fmax(diff, fmax(pair_worst(p, n), fmax(pair_worst(m, n), pair_worst(v, n))));
        drop(cpu), drop(gpu);
    }
    verdict(diff < 2e-7, "adamw, both forms", "%.1e (allowed 2e-07)", diff);

    float *p[2], *absmax[2];
    uint8_t *codes[2], *host[2];
    bool same = true;
    random_state = 9;
    float *start = random_new(n, 1);
    for (int step = 1; step <= 5; step++) {
        float *g = random_new(n, step % 2 ? 1 : 1e-3f);
        g[7] = INFINITY, g[300] = NAN, g[n - 1] = 0;
        if (step == 1) memset(g + 512, 0, 256 * sizeof *g);
        mr_adamw opt = { 0.01f, 0.9f, 0.99f, 1e-8f, 0.1f, step, 0.3f, true };
        for (int s = 0; s < 2; s++) {
            mr_backend *b = side(s);
            if (step == 1) {
                p[s] = put(b, start, n), absmax[s] = put(b, start, 2 * blocks);
                codes[s] = (uint8_t *)put(b, start, (2 * n + 3) / 4);
                b->zero(b, absmax[s], (size_t)(2 * blocks) * sizeof(float)), b->zero(b, codes[s], (size_t)(2 * n));
            }
            update_8bit(b, p[s], codes[s], absmax[s], put(b, g, n), n, step % 2 ? n : 512, blocks, &opt);
            host[s] = malloc((size_t)(2 * n));
            b->download(b, host[s], codes[s], (size_t)(2 * n));
        }
        same = same && memcmp(host[0], host[1], (size_t)(2 * n)) == 0 && pair_worst(absmax, 2 * blocks) == 0;
        free(host[0]), free(host[1]), free(g);
    }
    free(start);
    diff = pair_worst(p, n);
    verdict(same, "adamw_8bit: codes and maxima", "equal the CPU's after 5 steps: wanted");
    verdict(diff < 2e-7, "adamw_8bit: parameters", "%.1e (allowed 2e-07)", diff);
    drop(cpu), drop(gpu);

    double off = 0;
    bool right = true;
    static const int64_t sizes[] = { 1, 7, 4096, 4097, 100003, 2100001 };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0] - (small_run ? 1 : 0); i++) {
        float *x = random_new(sizes[i], 3), *d = put(gpu, x, sizes[i]);
        bool finite = false, finite_too = true;
        double want = cpu->sum_squares(cpu, x, sizes[i], NULL), got = gpu->sum_squares(gpu, d, sizes[i], &finite);
        off = fmax(off, fabs(got - want) / want);
        x[sizes[i] / 2] = i % 2 ? NAN : -INFINITY;
        gpu->upload(gpu, d, x, (size_t)sizes[i] * sizeof *x);
        gpu->sum_squares(gpu, d, sizes[i], &finite_too);
        right = right && finite && !finite_too;
        free(x);
    }
    verdict(off < 1e-12 && right, "sum_squares", "%.1e (allowed 1e-12); infinities and NaN are seen", off);
}

/* --- head --- */

static void check_logprob(int N, int V, float inv_t, double diff[3], bool *alone) {
    float *z = random_new((int64_t)N * V, 12), *dlogp = random_new(N, 1), *logp[2], *entropy[2], *lse[2], *dz[2];
    int32_t *y = malloc((size_t)N * sizeof *y);
    double lse_diff = 0;
    for (int n = 0; n < N; n++) y[n] = n == 0 ? 0 : n == 1 ? V - 1 : (int32_t)(random_bits() % (uint32_t)V);
    for (int s = 0; s < 2; s++) {
        mr_backend *b = side(s);
        float *zd = put(b, z, (int64_t)N * V), *w = put(b, dlogp, N);
        int32_t *yd = put_ids(b, y, N);
        logp[s] = put(b, NULL, N), entropy[s] = put(b, NULL, N), lse[s] = put(b, NULL, N), dz[s] = zd;
        b->logprob(b, logp[s], entropy[s], lse[s], zd, yd, inv_t, N, V);
        if (s) { /* the last row alone, without entropy */
            float *one = put(b, NULL, 2), *off = put_off(b, z + (int64_t)(N - 1) * V, V);
            b->logprob(b, one, NULL, one + 1, off, yd + N - 1, inv_t, 1, V);
            float *a = get(b, one, 2), *c = get(b, logp[1] + N - 1, 1), *e = get(b, lse[1] + N - 1, 1);
            *alone = *alone && a[0] == *c && a[1] == *e;
            free(a), free(c), free(e);
        }
        if (s) lse_diff = pair_worst(lse, N);
        if (s) { /* both gradients from the same lse */
            float *same = get(cpu, lse[0], N);
            b->upload(b, lse[1], same, (size_t)N * sizeof(float));
            free(same);
        }
        b->logprob_bwd(b, zd, lse[s], yd, w, inv_t, N, V);
    }
    diff[0] = fmax(diff[0], lse_diff);
    diff[0] = fmax(diff[0], pair_worst(logp, N));
    diff[1] = fmax(diff[1], pair_worst(entropy, N));
    diff[2] = fmax(diff[2], pair_worst(dz, (int64_t)N * V));
    free(z), free(dlogp), free(y);
    drop(cpu), drop(gpu);
}

typedef struct choice {
    mr_sampling opt;
    float spread;
    bool history;
} choice;

/* Logits: any; some of them equal; all equal; -INFINITY but for a quarter, and all of the first 2048 of a longer row. */
enum { ANY, SOME_EQUAL, EQUAL, BARRED };

static float *logits_new(int N, int V, float spread, int form) {
    float *z = random_new((int64_t)N * V, spread);
    for (int64_t i = 0; i < (int64_t)N * V; i++) {
        int id = (int)(i % V);
        if (form == SOME_EQUAL) z[i] = roundf(4 * z[i]) / 4;
        if (form == EQUAL) z[i] = 1.5f;
        if (form == BARRED && (id / 7 % 4 || (V > 2048 && id < 2048))) z[i] = -INFINITY;
    }
    return z;
}

/* Ids of both sides for N rows; *differ counts rows where they are not the same. */
static void check_sample(const choice *c, int form, int N, int V, int *differ, int *total, bool *bits) {
    float *z = logits_new(N, V, c->spread, form), *u = random_new(N, 0.5f), *logp[2];
    for (int n = 0; n < N; n++) u[n] += 0.5f;
    u[0] = 0, u[N - 1] = 0x1.fffffep-1f;
    int32_t *ids[2], *host[2], seen[40], n_history[64];
    const int32_t *history[64];
    require(N <= 64, "rows");
    for (int i = 0; i < 40; i++) seen[i] = (int32_t)(random_bits() % (uint32_t)V);
    for (int n = 0; n < N; n++) history[n] = seen + n % 5, n_history[n] = n % 7 == 0 ? 0 : 30;
    for (int s = 0; s < 2; s++) {
        mr_backend *b = side(s);
        float *zd = put(b, z, (int64_t)N * V), *ud = put(b, u, N);
        ids[s] = (int32_t *)put(b, u, N), logp[s] = put(b, NULL, N);
        b->sample(b, ids[s], logp[s], zd, ud, &c->opt, c->history ? history : NULL, c->history ? n_history : NULL, N, V);
        host[s] = malloc((size_t)N * sizeof(int32_t));
        b->download(b, host[s], ids[s], (size_t)N * sizeof(int32_t));
        if (!s) continue;
        /* what scoring gives for it; z as it was; a row alone */
        float *again = put(b, NULL, N), inv_t = c->opt.temperature > 0 ? 1.0f / c->opt.temperature : 1.0f;
        b->logprob(b, again, NULL, NULL, zd, ids[s], inv_t, N, V);
        float *x = get(b, again, N), *y = get(b, logp[s], N), *after = get(b, zd, (int64_t)N * V);
        *bits = *bits && same_bits(x, y, N) && same_bits(after, z, (int64_t)N * V);
        int one = N / 2;
        int32_t *id = (int32_t *)put(b, u, 1), alone;
        float *lp = put(b, NULL, 1), *off = put_off(b, z + (int64_t)one * V, V);
        b->sample(b, id, lp, off, ud + one, &c->opt, c->history ? history + one : NULL, c->history ? n_history + one : NULL, 1, V);
        b->download(b, &alone, id, sizeof alone);
        float *l = get(b, lp, 1);
        *bits = *bits && alone == host[1][one] && *l == y[one];
        free(x), free(y), free(after), free(l);
    }
    for (int n = 0; n < N; n++) *differ += host[0][n] != host[1][n];
    *total += N;
    free(z), free(u), free(host[0]), free(host[1]);
    drop(cpu), drop(gpu);
}

void test_head(void) {
    static const int sizes[] = { 1, 5, 16, 33, 2047, 2048, 2049, 5000, 49152, 151936 };
    int n_sizes = (int)(sizeof sizes / sizeof sizes[0]) - (small_run ? 2 : 0);
    double diff[3] = { 0 };
    bool alone = true;
    for (int i = 0; i < n_sizes; i++) check_logprob(5, sizes[i], i % 2 ? 1.0f : 1.0f / 0.7f, diff, &alone);
    verdict(diff[0] < 3e-6, "logprob", "%.1e (allowed 3e-06)", diff[0]);
    verdict(diff[1] < 1e-5, "logprob: entropy", "%.1e (allowed 1e-05)", diff[1]);
    verdict(diff[2] < 4e-6, "logprob_bwd", "%.1e (allowed 4e-06)", diff[2]);
    verdict(alone, "row rule of logprob", "a row alone, with or without entropy, gives the same bits");
    static const choice choices[] = {
        { { 1, 1, 0, 0, 1, 0 }, 6, false },        { { 0.7f, 1, 0, 0, 1, 0 }, 3, false },
        { { 0, 1, 0, 0, 1, 0 }, 3, false },        { { 0, 1, 0, 0, 1.3f, 0 }, 3, true },
        { { 1, 1, 50, 0, 1, 0 }, 3, false },       { { 0.6f, 0.9f, 0, 0, 1, 0 }, 4, false },
        { { 1, 0.95f, 0, 0, 1, 0 }, 0.3f, false }, { { 0.9f, 0.8f, 20, 0, 1, 0 }, 2, false },
        { { 1, 1, 0, 0.05f, 1, 0 }, 3, false },    { { 1.2f, 0.9f, 100, 0.02f, 1.2f, 0 }, 3, true },
        { { 1, 1, 1, 0, 1, 0 }, 3, false },        { { 1, 1, 0, 0, 1.1f, 0 }, 3, true },
    };
    int differ = 0, total = 0;
    bool bits = true;
    for (size_t i = 0; i < sizeof choices / sizeof choices[0]; i++)
        for (int k = 0; k < n_sizes; k++) {
            if (k < 2 || (small_run && sizes[k] > 5000)) continue;
            choice c = choices[i];
            c.opt.n_vocab = sizes[k] - (k % 2 ? 3 : 0);
            bool many = c.opt.top_p < 1 && c.opt.temperature != 1; /* more than the scratch serves at once */
            int rows = sizes[k] > 100000 ? many ? 60 : 8 : small_run ? 9 : 33;
            check_sample(&c, sizes[k] % 3 ? ANY : SOME_EQUAL, rows, sizes[k], &differ, &total, &bits);
        }
    /* u so near to the edge between two ids that the last bits of two sums decide: one in thousands */
    verdict(differ <= total / 1000, "sample", "%d of %d ids differ from the CPU's (allowed %d)", differ, total, total / 1000);
    verdict(bits, "sample: logp", "the bits of logprob, alone or among others; z unchanged");
    static const int edges[] = { 1, 17, 2049, 10241, 151936 };
    differ = total = 0;
    for (size_t i = 0; i < sizeof choices / sizeof choices[0]; i++)
        for (int k = 0; k < 5 - small_run; k++)
            for (int form = SOME_EQUAL; form <= BARRED; form++) {
                choice c = choices[i];
                c.opt.n_vocab = edges[k] - (i % 2 && k ? 3 : 0);
                check_sample(&c, form, 3, edges[k], &differ, &total, &bits);
            }
    verdict(differ == 0 && bits, "sample: equal logits, ids that are barred", "%d of %d ids differ from the CPU's", differ, total);
    float z[300], u = 0.5f;
    for (int i = 0; i < 300; i++) z[i] = NAN;
    bool safe = true;
    for (size_t i = 0; i < sizeof choices / sizeof choices[0]; i++) {
        mr_sampling opt = choices[i].opt;
        opt.n_vocab = 290;
        if (choices[i].history) opt.repetition_penalty = 1;
        int32_t *id = (int32_t *)put(gpu, z, 1), host;
        float *logp = put(gpu, z, 1);
        gpu->sample(gpu, id, logp, put(gpu, z, 300), put(gpu, &u, 1), &opt, NULL, NULL, 1, 300);
        gpu->download(gpu, &host, id, sizeof host);
        float *l = get(gpu, logp, 1);
        safe = safe && host >= 0 && host < 290 && isnan(*l);
        free(l);
    }
    verdict(safe, "sample: a row of NaN", "gives an id in range and a logp of NaN");
}
