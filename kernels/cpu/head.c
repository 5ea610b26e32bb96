/* head.c - log-probabilities of given tokens, their gradient, and the choice of new ones.
 *
 * Both sides of training, sampling and scoring, get a token's log-probability from row_stats and row_logp below, so their bits agree.
 * A row is read in pieces of PIECE logits: f32 lanes within a piece, double across pieces. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "cpu/isa.h"

enum { PIECE = 2048, MAX_PIECES = 1024 };

typedef struct stats {
    float max;       /* of z/t */
    double sum;      /* of e^(z/t - max) */
    double weighted; /* of (z/t - max) e^(z/t - max) */
} stats;

static int pieces_of(int n) { return (n + PIECE - 1) / PIECE; }
static int piece_size(int n, int piece) { return n - piece * PIECE < PIECE ? n - piece * PIECE : PIECE; }

/* sums (NULL: not wanted) gets each piece's share of the sum. */
static stats row_stats(const cpu_kernels *k, const float *z, float inv_t, int n, float *sums) {
    stats st = { k->max(z, n) * inv_t, 0, 0 };
    for (int p = 0; p < pieces_of(n); p++) {
        float weighted, sum = k->exp_sum(z + p * PIECE, inv_t, st.max, piece_size(n, p), &weighted);
        st.sum += (double)sum;
        st.weighted += (double)weighted;
        if (sums) sums[p] = sum;
    }
    return st;
}

static float row_logp(const stats *st, float z, float inv_t) {
    return (float)((double)(z * inv_t) - (double)st->max - log(st->sum));
}

typedef struct scoring {
    const cpu_kernels *k;
    float *logp, *entropy, *lse, *dz;
    const float *z, *dlogp;
    const int32_t *targets;
    float inv_t;
    int V;
} scoring;

static void score_rows(void *ctx, int thread, int64_t from, int64_t to) {
    const scoring *c = ctx;
    (void)thread;
    for (int64_t n = from; n < to; n++) {
        const float *row = c->z + (size_t)n * (size_t)c->V;
        assert(c->targets[n] >= 0 && c->targets[n] < c->V);
        stats st = row_stats(c->k, row, c->inv_t, c->V, NULL);
        c->logp[n] = row_logp(&st, row[c->targets[n]], c->inv_t);
        if (c->lse) c->lse[n] = (float)((double)st.max + log(st.sum));
        if (c->entropy) c->entropy[n] = (float)(log(st.sum) - st.weighted / st.sum);
    }
}

void cpu_logprob(mr_backend *b, float *logp, float *entropy, float *lse, const float *z, const int32_t *targets,
                 float inv_t, int N, int V) {
    if (cpu_failed(b)) return;
    assert(inv_t > 0);
    scoring c = { .k = cpu_kernels_of(b), .logp = logp, .entropy = entropy, .lse = lse, .z = z, .targets = targets,
                  .inv_t = inv_t, .V = V };
    cpu_share(b, 0.6 * N * V, score_rows, &c, N, 1);
}

static void score_bwd_rows(void *ctx, int thread, int64_t from, int64_t to) {
    const scoring *c = ctx;
    (void)thread;
    for (int64_t n = from; n < to; n++) {
        float *row = c->dz + (size_t)n * (size_t)c->V, factor = c->dlogp[n] * c->inv_t;
        assert(c->targets[n] >= 0 && c->targets[n] < c->V);
        c->k->softmax_bwd(row, c->inv_t, c->lse[n], -factor, c->V);
        row[c->targets[n]] += factor;
    }
}

void cpu_logprob_bwd(mr_backend *b, float *z, const float *lse, const int32_t *targets, const float *dlogp, float inv_t,
                     int N, int V) {
    if (cpu_failed(b)) return;
    scoring c = { .k = cpu_kernels_of(b), .dz = z, .lse = (float *)(uintptr_t)lse, .targets = targets, .dlogp = dlogp,
                  .inv_t = inv_t, .V = V };
    cpu_share(b, 0.5 * N * V, score_bwd_rows, &c, N, 1);
}

/* --- sampling --- */

static int32_t arg_max(const cpu_kernels *k, const float *z, int n) {
    float most = k->max(z, n);
    for (int i = 0; i < n; i++)
        if (z[i] == most) return i;
    return 0; /* all NaN: the caller sees it in logp */
}

/* The first id whose cumulative weight exceeds u * total. No filters: the sums of whole pieces find the piece, its elements the id. */
static int32_t pick_unfiltered(const cpu_kernels *k, const float *z, float inv_t, int n, const stats *st,
                               const float *sums, double u) {
    double target = u * st->sum, before = 0;
    int piece = 0, last = pieces_of(n) - 1;
    for (; piece < last && before + (double)sums[piece] <= target; piece++) before += (double)sums[piece];
    while (piece > 0 && sums[piece] == 0) piece--; /* u * sum rounded up to the sum, before a tail of zeros */
    float e[PIECE];
    int size = piece_size(n, piece);
    k->exp_shift(e, z + piece * PIECE, inv_t, st->max, size);
    int32_t id = 0;
    for (int i = 0; i < size; i++) {
        if (!(e[i] > 0)) continue;
        id = i;
        before += (double)e[i];
        if (before > target) break;
    }
    return piece * PIECE + id;
}

typedef struct candidate {
    float s, e; /* score after penalty and temperature; e^(s - max) */
    int32_t id;
} candidate;

/* Falling scores; of equal ones the higher id first, since it is the one that top_p keeps (spec/grpo.md, 3.2). */
static int by_score(const void *pa, const void *pb) {
    const candidate *a = pa, *b = pb;
    if (a->s != b->s) return a->s < b->s ? 1 : -1;
    return a->id < b->id ? 1 : -1;
}
static int by_id(const void *pa, const void *pb) {
    const candidate *a = pa, *b = pb;
    return a->id < b->id ? -1 : 1;
}

enum { BUCKETS = 1024 };
/* Bucket 0 holds the best scores; 32 buckets are one nat. */
static int bucket_of(float s, float most) {
    float d = (most - s) * 32.0f;
    return d < (float)(BUCKETS - 1) ? (int)d : BUCKETS - 1;
}

/* What top_k and top_p leave, falling. A histogram of the scores says how far down one must look, so that few are sorted. */
static int keep_best(candidate *kept, const float *s, const float *e, float most, const mr_sampling *opt, int n) {
    int count[BUCKETS] = { 0 }, n_kept = 0, last = 0, seen = 0;
    double mass[BUCKETS] = { 0 }, total = 0, sum = 0;
    for (int i = 0; i < n; i++) {
        int at = bucket_of(s[i], most);
        count[at]++;
        mass[at] += (double)e[i];
    }
    for (int i = 0; i < BUCKETS; i++) total += mass[i];
    bool top_k = opt->top_k > 0 && opt->top_k < n;
    if (top_k) {
        for (last = 0; (seen += count[last]) < opt->top_k; last++) {}
    } else {
        double want = (double)opt->top_p * total * (1 + 1e-9);
        for (last = 0; last < BUCKETS - 1 && (sum += mass[last]) < want; last++) {}
    }
    for (int i = 0; i < n; i++)
        if (bucket_of(s[i], most) <= last) kept[n_kept++] = (candidate){ s[i], e[i], i };
    qsort(kept, (size_t)n_kept, sizeof *kept, by_score);
    if (top_k) {
        int end = opt->top_k;
        while (end < n_kept && kept[end].s == kept[opt->top_k - 1].s) end++; /* equals of the last one stay */
        n_kept = end;
        total = 0;
        for (int i = n_kept - 1; i >= 0; i--) total += (double)kept[i].e;
    }
    if (opt->top_p < 1) {
        double before = 0;
        int end = 0;
        for (; end < n_kept && (end == 0 || before < (double)opt->top_p * total); end++) before += (double)kept[end].e;
        n_kept = end;
    }
    return n_kept;
}

/* scratch: n candidates, then 2 n floats. */
static int32_t pick_filtered(const cpu_kernels *k, const float *z, const mr_sampling *opt, const int32_t *history,
                             int n_history, double u, void *scratch) {
    const int n = opt->n_vocab;
    candidate *kept = scratch;
    float *s = (float *)(kept + n), *e = s + n, inv_t = opt->temperature > 0 ? 1.0f / opt->temperature : 1.0f;
    for (int i = 0; i < n; i++) s[i] = z[i] * inv_t;
    if (opt->repetition_penalty != 1.0f)
        for (int i = 0; i < n_history; i++) {
            int32_t id = history[i]; /* from z, so that an id that comes twice is changed once */
            if (id < 0 || id >= n) continue;
            s[id] = (z[id] < 0 ? z[id] * opt->repetition_penalty : z[id] / opt->repetition_penalty) * inv_t;
        }
    if (opt->temperature <= 0) return arg_max(k, s, n);
    float most = k->max(s, n);
    k->exp_shift(e, s, 1.0f, most, n);
    int n_kept = 0;
    if (opt->top_k > 0 || opt->top_p < 1) {
        n_kept = keep_best(kept, s, e, most, opt, n);
        qsort(kept, (size_t)n_kept, sizeof *kept, by_id);
    } else {
        for (int i = 0; i < n; i++)
            if (e[i] > 0) kept[n_kept++] = (candidate){ s[i], e[i], i };
    }
    double total = 0, before = 0;
    for (int i = 0; i < n_kept; i++)
        if (!(kept[i].e < opt->min_p)) total += (double)kept[i].e;
    int32_t id = 0;
    for (int i = 0; i < n_kept; i++) {
        if (kept[i].e < opt->min_p || !(kept[i].e > 0)) continue;
        id = kept[i].id;
        before += (double)kept[i].e;
        if (before > u * total) break;
    }
    return id;
}

typedef struct choice {
    mr_backend *b;
    const cpu_kernels *k;
    int32_t *ids;
    float *logp;
    const float *z, *u;
    const mr_sampling *opt;
    const int32_t *const *history;
    const int32_t *n_history;
    int V;
    bool penalty, greedy, filtered;
    float inv_t;
} choice;

static size_t filter_bytes(int n_vocab) {
    return (size_t)n_vocab * (sizeof(candidate) + 2 * sizeof(float));
}

static void choose_rows(void *ctx, int thread, int64_t from, int64_t to) {
    const choice *c = ctx;
    const int V = c->V, n_vocab = c->opt->n_vocab;
    for (int64_t n = from; n < to; n++) {
        const float *row = c->z + (size_t)n * (size_t)V;
        float sums[MAX_PIECES];
        stats st = row_stats(c->k, row, c->inv_t, V, sums);
        if (c->filtered) {
            void *scratch = cpu_scratch(c->b, thread, filter_bytes(n_vocab));
            if (!scratch) continue;
            c->ids[n] = pick_filtered(c->k, row, c->opt, c->penalty ? c->history[n] : NULL,
                                      c->penalty ? c->n_history[n] : 0, (double)c->u[n], scratch);
        } else if (c->greedy) {
            c->ids[n] = arg_max(c->k, row, n_vocab);
        } else {
            stats part = n_vocab == V ? st : row_stats(c->k, row, c->inv_t, n_vocab, sums);
            c->ids[n] = pick_unfiltered(c->k, row, c->inv_t, n_vocab, &part, sums, (double)c->u[n]);
        }
        c->logp[n] = row_logp(&st, row[c->ids[n]], c->inv_t);
    }
}

void cpu_sample(mr_backend *b, int32_t *ids, float *logp, const float *z, const float *u, const mr_sampling *opt,
                const int32_t *const *history, const int32_t *n_history, int N, int V) {
    if (cpu_failed(b)) return;
    assert(opt->n_vocab > 0 && opt->n_vocab <= V && pieces_of(V) <= MAX_PIECES);
    choice c = { .b = b, .k = cpu_kernels_of(b), .ids = ids, .logp = logp, .z = z, .u = u, .opt = opt,
                 .history = history, .n_history = n_history, .V = V };
    c.penalty = opt->repetition_penalty != 1.0f;
    c.greedy = opt->temperature <= 0;
    c.filtered = c.penalty || (!c.greedy && (opt->top_k > 0 || opt->top_p < 1 || opt->min_p > 0));
    c.inv_t = c.greedy ? 1.0f : 1.0f / opt->temperature;
    assert(!c.penalty || (history && n_history));
    if (c.filtered && !cpu_reserve(b, CPU_SLOT_THREADS, filter_bytes(opt->n_vocab))) {
        cpu_fail_status(b, MR_ENOMEM, "sample", "no memory to sort %d candidates; close other programs", opt->n_vocab);
        return;
    }
    cpu_share(b, 0.8 * N * V, choose_rows, &c, N, 1);
}
