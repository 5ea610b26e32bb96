/* Attention against plain double loops, its gradients against those and against differences, and the row rule: the same bits
 * alone or in a block, step by step or at once, in any pack, with any number of threads. */
#include "ops_test.h"

enum { MAX_SPANS = 40 };

/* Sequences with q, k, v in one buffer [N, LD] = [q | k | v], as the model has them, and their store. */
typedef struct pack {
    int H, K, D, ld, S, N;
    int64_t n_slots;
    mr_span spans[MAX_SPANS];
    int32_t slots[2048];
    float *qkv, *d_o;
    float *o, *lse, *dqkv;
    void *kv;
} pack;

static void add_span(pack *p, int n_rows, int prompt) {
    mr_span *s = &p->spans[p->S++];
    *s = (mr_span){ .row0 = p->N, .n_rows = n_rows, .slot0 = (int32_t)p->n_slots };
    if (prompt >= 0) {
        s->prefix_slot0 = p->spans[prompt].slot0;
        s->n_prefix = p->spans[prompt].n_rows;
        s->prefix_row0 = p->spans[prompt].row0;
    }
    for (int i = 0; i < n_rows; i++) p->slots[p->N++] = (int32_t)p->n_slots + i;
    p->n_slots += (n_rows + MR_KV_CHUNK - 1) / MR_KV_CHUNK * MR_KV_CHUNK;
}

/* prompt rows with `group` completions of length, length + 1, ... */
static void add_group(pack *p, int prompt, int group, int length) {
    int at = p->S;
    add_span(p, prompt, -1);
    for (int g = 0; g < group; g++) add_span(p, length + g, at);
}

static pack new_pack(int H, int K, int D) { return (pack){ .H = H, .K = K, .D = D, .ld = (H + 2 * K) * D }; }

static void fill_pack(pack *p, uint32_t seed) {
    size_t n = (size_t)p->N;
    test_seed = seed;
    p->qkv = random_floats(n * (size_t)p->ld, 2.0f);
    p->d_o = random_floats(n * (size_t)(p->H * p->D), 1.0f);
    p->o = poisoned(n * (size_t)(p->H * p->D));
    p->lse = poisoned(n * (size_t)p->H);
    p->dqkv = poisoned(n * (size_t)p->ld);
}

static void free_pack(pack *p) { free(p->qkv), free(p->d_o), free(p->o), free(p->lse), free(p->dqkv); }

/* Every slot that nothing is written to holds NaN. */
static void put_all(mr_backend *b, pack *p) {
    size_t bytes = b->kv_bytes(b, p->n_slots, p->K, p->D);
    p->kv = b->alloc(b, bytes);
    REQUIRE(p->kv);
    memset(p->kv, 0xff, bytes);
    b->kv_put(b, p->kv, p->n_slots, p->qkv + p->H * p->D, p->qkv + (p->H + p->K) * p->D, p->ld, p->slots, p->N, p->K, p->D);
}

static void forward(mr_backend *b, pack *p) {
    put_all(b, p);
    b->attention(b, p->o, p->lse, p->qkv, p->ld, p->kv, p->n_slots, p->spans, p->S, p->H, p->K, p->D);
}

static void backward(mr_backend *b, pack *p) {
    int k_at = p->H * p->D, v_at = (p->H + p->K) * p->D;
    b->attention_bwd(b, p->dqkv, p->ld, p->dqkv + k_at, p->dqkv + v_at, p->ld, p->d_o, p->o, p->lse, p->qkv, p->ld, p->kv,
                     p->n_slots, p->spans, p->S, p->N, p->H, p->K, p->D);
}

/* --- the reference: rows of keys that a row sees, in double --- */

static int seen_rows(int *rows, const pack *p, int row) {
    int n = 0;
    for (int s = 0; s < p->S; s++) {
        const mr_span *t = &p->spans[s];
        if (row < t->row0 || row >= t->row0 + t->n_rows) continue;
        for (int i = 0; i < t->n_prefix; i++) rows[n++] = t->prefix_row0 + i;
        for (int i = t->row0; i <= row; i++) rows[n++] = i;
    }
    return n;
}

typedef struct reference { double *o, *lse, *dqkv; } reference;

static reference new_reference(const pack *p, const double *qkv) {
    size_t n = (size_t)p->N;
    int D = p->D, *rows = malloc(n * sizeof *rows);
    double *w = malloc(n * sizeof *w), *dp = malloc(n * sizeof *dp), scale = 1 / sqrt((double)D);
    reference r = { calloc(n * (size_t)(p->H * D), sizeof(double)), calloc(n * (size_t)p->H, sizeof(double)),
                    calloc(n * (size_t)p->ld, sizeof(double)) };
    for (int row = 0; row < p->N; row++) {
        int n_seen = seen_rows(rows, p, row);
        for (int h = 0; h < p->H; h++) {
            int q_at = row * p->ld + h * D, k_at = (p->H + h / (p->H / p->K)) * D, v_at = k_at + p->K * D;
            int o_at = (row * p->H + h) * D;
            double most = -INFINITY, sum = 0, delta = 0;
            for (int j = 0; j < n_seen; j++) {
                w[j] = 0;
                for (int d = 0; d < D; d++) w[j] += qkv[q_at + d] * qkv[rows[j] * p->ld + k_at + d] * scale;
                if (w[j] > most) most = w[j];
            }
            for (int j = 0; j < n_seen; j++) sum += exp(w[j] - most);
            r.lse[row * p->H + h] = most + log(sum);
            for (int j = 0; j < n_seen; j++) {
                w[j] = exp(w[j] - most) / sum;
                dp[j] = 0;
                for (int d = 0; d < D; d++) {
                    double v = qkv[rows[j] * p->ld + v_at + d], g = (double)p->d_o[o_at + d];
                    r.o[o_at + d] += w[j] * v;
                    dp[j] += g * v;
                    r.dqkv[rows[j] * p->ld + v_at + d] += w[j] * g;
                }
                delta += w[j] * dp[j];
            }
            for (int j = 0; j < n_seen; j++)
                for (int d = 0; d < D; d++) {
                    double ds = w[j] * (dp[j] - delta) * scale;
                    r.dqkv[q_at + d] += ds * qkv[rows[j] * p->ld + k_at + d];
                    r.dqkv[rows[j] * p->ld + k_at + d] += ds * qkv[q_at + d];
                }
        }
    }
    free(rows), free(w), free(dp);
    return r;
}

static void free_reference(reference *r) { free(r->o), free(r->lse), free(r->dqkv); }

static double *to_double(const float *x, size_t n) {
    double *y = calloc(n, sizeof *y);
    REQUIRE(y);
    for (size_t i = 0; i < n; i++) y[i] = (double)x[i];
    return y;
}

static const struct { int H, K, D, prompt, group, length; } shapes[] = {
    { 2, 1, 8, 5, 2, 3 },    { 4, 2, 16, 65, 2, 63 }, { 3, 3, 10, 70, 1, 1 },  { 9, 3, 64, 100, 3, 9 },
    { 14, 2, 64, 20, 2, 5 }, { 4, 1, 80, 33, 1, 20 }, { 2, 1, 128, 64, 1, 4 }, { 1, 1, 256, 3, 1, 2 },
    { 25, 1, 16, 9, 1, 3 },  { 2, 2, 2, 129, 0, 0 },  { 1, 1, 6, 1, 0, 0 },
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

static void equals_double_loops(void) {
    for (int i = 0; i < N_SHAPES; i++) {
        pack p = new_pack(shapes[i].H, shapes[i].K, shapes[i].D);
        add_group(&p, shapes[i].prompt, shapes[i].group, shapes[i].length);
        fill_pack(&p, 7);
        double *qkv = to_double(p.qkv, (size_t)(p.N * p.ld));
        reference r = new_reference(&p, qkv);
        EACH_ISA(b, 2, {
            forward(b, &p);
            backward(b, &p);
            CHECK(worst(p.o, r.o, (size_t)(p.N * p.H * p.D)) < 2e-6);
            CHECK(worst(p.lse, r.lse, (size_t)(p.N * p.H)) < 1e-6);
            CHECK(worst(p.dqkv, r.dqkv, (size_t)(p.N * p.ld)) < 5e-6);
            b->free(b, p.kv);
        })
        free(qkv);
        free_reference(&r);
        free_pack(&p);
    }
}

/* The reference's own gradient: (L(x + h) - L(x - h)) / 2h of L = sum d_o * o, all in double. */
static void reference_equals_differences(void) {
    pack p = new_pack(4, 2, 6);
    add_group(&p, 7, 2, 3);
    fill_pack(&p, 3);
    size_t n = (size_t)(p.N * p.ld);
    double *qkv = to_double(p.qkv, n), h = 1e-5;
    reference r = new_reference(&p, qkv);
    for (size_t i = 0; i < n; i += 5) {
        double loss[2], old = qkv[i];
        for (int side = 0; side < 2; side++) {
            qkv[i] = side ? old + h : old - h;
            reference t = new_reference(&p, qkv);
            loss[side] = 0;
            for (int j = 0; j < p.N * p.H * p.D; j++) loss[side] += (double)p.d_o[j] * t.o[j];
            free_reference(&t);
        }
        qkv[i] = old;
        CHECK_NEAR(r.dqkv[i], (loss[1] - loss[0]) / (2 * h), 1e-8);
    }
    free(qkv);
    free_reference(&r);
    free_pack(&p);
}

/* Prompts of lengths around the borders of tiles and chunks, fed at once, row by row, and in uneven pieces. */
static void decoding_equals_prefill(void) {
    enum { LONGEST = 130 };
    EACH_ISA(b, 1, {
        pack p = new_pack(3, 1, 12);
        add_span(&p, LONGEST, -1);
        fill_pack(&p, 5);
        put_all(b, &p);
        size_t row = (size_t)(p.H * p.D);
        float *steps = poisoned(LONGEST * row), *lse = poisoned((size_t)(LONGEST * p.H));
        memset(p.kv, 0xff, b->kv_bytes(b, p.n_slots, p.K, p.D)); /* again empty: each step sees only what came before */
        for (int i = 0; i < LONGEST; i++) {
            b->kv_put(b, p.kv, p.n_slots, p.qkv + i * p.ld + p.H * p.D, p.qkv + i * p.ld + (p.H + p.K) * p.D, p.ld, &p.slots[i],
                      1, p.K, p.D);
            mr_span one = { .row0 = i, .n_rows = 1, .past = i };
            b->attention(b, steps, lse, p.qkv, p.ld, p.kv, p.n_slots, &one, 1, p.H, p.K, p.D);
        }
        for (int n = 1; n <= LONGEST; n++) {
            if ((n > 18 && n < 62) || (n > 66 && n < 126)) continue; /* the borders of tiles and chunks are what matters */
            mr_span all = { .n_rows = n };
            b->attention(b, p.o, p.lse, p.qkv, p.ld, p.kv, p.n_slots, &all, 1, p.H, p.K, p.D);
            CHECK(same_bits(p.o, steps, (size_t)n * row));
            CHECK(same_bits(p.lse, lse, (size_t)(n * p.H)));
        }
        for (int piece = 1; piece < 80; piece += 26) {
            for (int at = 0; at < LONGEST; at += piece) {
                mr_span s = { .row0 = at, .n_rows = LONGEST - at < piece ? LONGEST - at : piece, .past = at };
                b->attention(b, p.o, NULL, p.qkv, p.ld, p.kv, p.n_slots, &s, 1, p.H, p.K, p.D);
            }
            CHECK(same_bits(p.o, steps, LONGEST * row));
        }
        b->free(b, p.kv);
        free(steps), free(lse);
        free_pack(&p);
    })
}

static void completions_decode_as_they_train(void) {
    static const int prompts[] = { 1, 5, 16, 63, 64, 65, 127, 128, 129 };
    EACH_ISA(b, 2, {
        for (size_t i = 0; i < sizeof prompts / sizeof prompts[0]; i++) {
            pack p = new_pack(4, 2, 16);
            add_group(&p, prompts[i], 3, 66);
            fill_pack(&p, (uint32_t)i + 11);
            forward(b, &p);
            size_t n = (size_t)(p.N * p.H * p.D);
            float *steps = poisoned(n);
            mr_span prompt = p.spans[0];
            b->attention(b, steps, NULL, p.qkv, p.ld, p.kv, p.n_slots, &prompt, 1, p.H, p.K, p.D);
            for (int t = 0; t < 66 + 2; t++) { /* the three of them, one token at a time, the longer ones further */
                mr_span step[3];
                int S = 0;
                for (int g = 1; g <= 3; g++) {
                    if (t >= p.spans[g].n_rows) continue;
                    step[S] = p.spans[g];
                    step[S].row0 += t;
                    step[S].n_rows = 1;
                    step[S++].past = t;
                }
                b->attention(b, steps, NULL, p.qkv, p.ld, p.kv, p.n_slots, step, S, p.H, p.K, p.D);
            }
            CHECK(same_bits(p.o, steps, n));
            free(steps);
            b->free(b, p.kv);
            free_pack(&p);
        }
    })
}

/* Groups 1 to 4 in one pack against each alone; q, k, v of a group are the same numbers in both. */
static void packs_do_not_show(void) {
    EACH_ISA(b, 2, {
        for (int n_groups = 1; n_groups <= 4; n_groups++) {
            pack all = new_pack(6, 2, 16);
            for (int g = 0; g < n_groups; g++) add_group(&all, 50 + 9 * g, 2, 20 + g);
            fill_pack(&all, 17);
            forward(b, &all);
            backward(b, &all);
            for (int g = 0, row = 0; g < n_groups; g++) {
                pack one = new_pack(6, 2, 16);
                add_group(&one, 50 + 9 * g, 2, 20 + g);
                fill_pack(&one, 1);
                size_t x = (size_t)(one.N * one.ld), o = (size_t)(one.N * one.H * one.D), at = (size_t)row;
                memcpy(one.qkv, all.qkv + at * (size_t)one.ld, x * sizeof(float));
                memcpy(one.d_o, all.d_o + at * (size_t)(one.H * one.D), o * sizeof(float));
                forward(b, &one);
                backward(b, &one);
                CHECK(same_bits(one.o, all.o + at * (size_t)(one.H * one.D), o));
                CHECK(same_bits(one.lse, all.lse + at * (size_t)one.H, (size_t)(one.N * one.H)));
                CHECK(same_bits(one.dqkv, all.dqkv + at * (size_t)one.ld, x));
                row += one.N;
                b->free(b, one.kv);
                free_pack(&one);
            }
            b->free(b, all.kv);
            free_pack(&all);
        }
    })
}

/* One group on one thread is one pass; on two threads two of its three key heads, and two passes for the third; on more
 * two passes. */
static void threads_do_not_show(void) {
    for (int isa = 0; isa < N_TEST_ISAS; isa++) {
        pack p = new_pack(9, 3, 64);
        add_group(&p, 90, 4, 20);
        fill_pack(&p, 23);
        size_t n_o = (size_t)(p.N * p.H * p.D), n_x = (size_t)(p.N * p.ld);
        float *o = NULL, *dqkv = NULL;
        for (int n_threads = 1; n_threads <= 8; n_threads = n_threads < 3 ? n_threads + 1 : n_threads + 5) {
            mr_backend *b = open_isa(test_isas[isa], n_threads);
            if (!b) break;
            forward(b, &p);
            backward(b, &p);
            if (!o) {
                o = malloc(n_o * sizeof *o), dqkv = malloc(n_x * sizeof *dqkv);
                memcpy(o, p.o, n_o * sizeof *o), memcpy(dqkv, p.dqkv, n_x * sizeof *dqkv);
            }
            CHECK(same_bits(o, p.o, n_o));
            CHECK(same_bits(dqkv, p.dqkv, n_x));
            for (size_t i = 0; i < n_o; i++) p.o[i] = NAN;
            for (size_t i = 0; i < n_x; i++) p.dqkv[i] = NAN;
            b->free(b, p.kv);
            mr_backend_close(b);
        }
        free(o), free(dqkv);
        free_pack(&p);
    }
}

/* Where a buffer begins changes nothing. */
static void alignment_does_not_show(void) {
    EACH_ISA(b, 1, {
        pack p = new_pack(2, 1, 20);
        add_group(&p, 40, 1, 7);
        fill_pack(&p, 29);
        forward(b, &p);
        size_t n_o = (size_t)(p.N * p.H * p.D), n_q = (size_t)(p.N * p.ld);
        float *shifted = malloc((n_q + 3) * sizeof *shifted), *o = poisoned(n_o + 3);
        for (size_t shift = 1; shift <= 3; shift++) {
            memcpy(shifted + shift, p.qkv, n_q * sizeof *shifted);
            b->attention(b, o + shift, NULL, shifted + shift, p.ld, p.kv, p.n_slots, p.spans, p.S, p.H, p.K, p.D);
            CHECK(same_bits(o + shift, p.o, n_o));
        }
        free(shifted), free(o);
        b->free(b, p.kv);
        free_pack(&p);
    })
}

/* Scores of +-500 and equal scores: no overflow, and a key that outweighs all others gives its own value. */
static void extreme_scores(void) {
    EACH_ISA(b, 1, {
        pack p = new_pack(1, 1, 4);
        add_span(&p, 70, -1);
        fill_pack(&p, 31);
        for (int r = 0; r < 70; r++) {
            float *x = p.qkv + r * p.ld;
            for (int d = 0; d < 4; d++) x[d] = d ? 0.0f : 1000.0f, x[4 + d] = d ? 0.0f : r == 66 ? 1.0f : -1.0f;
            for (int d = 0; d < 4; d++) x[8 + d] = (float)r;
        }
        forward(b, &p);
        for (int r = 0; r < 70; r++) {
            double mean = 0.5 * r; /* values 0 .. r with equal weights */
            CHECK_NEAR(p.o[4 * r], r < 66 ? mean : 66, 1e-5);
            CHECK_NEAR(p.lse[r], r < 66 ? -500 + log(r + 1) : 500, 1e-3);
        }
        b->free(b, p.kv);
        free_pack(&p);
    })
}

TEST_MAIN({ "equals double loops", equals_double_loops },
          { "the reference's gradient equals differences", reference_equals_differences },
          { "decoding equals prefill, bit for bit", decoding_equals_prefill },
          { "completions decode as they train, bit for bit", completions_decode_as_they_train },
          { "packs do not show", packs_do_not_show }, { "threads do not show", threads_do_not_show },
          { "alignment does not show", alignment_does_not_show }, { "extreme scores", extreme_scores })
