/* compare_attention.c - attention against the CPU; and the row rule: a row has the same bits in any pack, and step by step
 * in decoding as at once in training. */
#include "compare.h"

enum { MAX_SPANS = 80, MAX_ROWS = 8192 };

/* Sequences with q, k, v in one buffer [N, LD] = [q | k | v], as the model has them. */
typedef struct pack {
    int H, K, D, ld, S, N;
    int64_t n_slots;
    mr_span spans[MAX_SPANS];
    int32_t slots[MAX_ROWS];
    int origin[MAX_ROWS]; /* the row's number in the largest pack, from which it takes its values */
} pack;

static void add_span(pack *p, int n_rows, int prompt, int origin) {
    require(p->S < MAX_SPANS && p->N + n_rows <= MAX_ROWS, "rows of a pack");
    mr_span *s = &p->spans[p->S++];
    *s = (mr_span){ .row0 = p->N, .n_rows = n_rows, .slot0 = (int32_t)p->n_slots };
    if (prompt >= 0) {
        s->prefix_slot0 = p->spans[prompt].slot0;
        s->n_prefix = p->spans[prompt].n_rows;
        s->prefix_row0 = p->spans[prompt].row0;
    }
    for (int i = 0; i < n_rows; i++) p->slots[p->N] = (int32_t)p->n_slots + i, p->origin[p->N++] = origin + i;
    p->n_slots += (n_rows + MR_KV_CHUNK - 1) / MR_KV_CHUNK * MR_KV_CHUNK;
}

static pack pack_new(int H, int K, int D) {
    pack p;
    memset(&p, 0, sizeof p);
    p.H = H, p.K = K, p.D = D, p.ld = (H + 2 * K) * D;
    return p;
}

typedef struct result {
    float *o, *lse, *dqkv; /* host */
} result;

/* Values of the whole, from which every pack takes its rows. */
typedef struct values {
    float *qkv, *d_o;
} values;

static float *rows_of(const pack *p, const float *from, int ld) {
    float *to = nan_new((int64_t)p->N * ld);
    for (int n = 0; n < p->N; n++) memcpy(to + (int64_t)n * ld, from + (int64_t)p->origin[n] * ld, (size_t)ld * sizeof *to);
    return to;
}

static void *store_new(mr_backend *b, const pack *p) {
    return put(b, NULL, (int64_t)(b->kv_bytes(b, p->n_slots, p->K, p->D) / sizeof(float)));
}

static result run(mr_backend *b, const pack *p, const values *v, bool backward) {
    int64_t N = p->N, O = p->H * p->D;
    float *host = rows_of(p, v->qkv, p->ld), *host_do = rows_of(p, v->d_o, (int)O);
    float *qkv = put_off(b, host, N * p->ld), *o = put(b, NULL, N * O), *lse = put(b, NULL, N * p->H);
    int32_t *slots = put_ids(b, p->slots, N);
    void *kv = store_new(b, p);
    b->kv_put(b, kv, p->n_slots, qkv + O, qkv + O + p->K * p->D, p->ld, slots, p->N, p->K, p->D);
    b->attention(b, o, lse, qkv, p->ld, kv, p->n_slots, p->spans, p->S, p->H, p->K, p->D);
    result r = { get(b, o, N * O), get(b, lse, N * p->H), NULL };
    if (backward) {
        float *d_o = put(b, host_do, N * O), *d = put(b, NULL, N * p->ld);
        b->attention_bwd(b, d, p->ld, d + O, d + O + p->K * p->D, p->ld, d_o, o, lse, qkv, p->ld, kv, p->n_slots, p->spans, p->S,
                         p->N, p->H, p->K, p->D);
        r.dqkv = get(b, d, N * p->ld);
    }
    free(host), free(host_do);
    drop(b);
    return r;
}

static void result_free(result *r) { free(r->o), free(r->lse), free(r->dqkv); }

/* Whether the rows that a pack shares with the whole have the bits that they have there; of dqkv only rows from `grads_from` on. */
static bool same_rows(const pack *p, const result *r, const result *whole, int grads_from) {
    int64_t O = p->H * p->D;
    for (int n = 0; n < p->N; n++) {
        int64_t w = p->origin[n];
        if (!same_bits(r->o + n * O, whole->o + w * O, O) || !same_bits(r->lse + n * p->H, whole->lse + w * p->H, p->H)) return false;
        if (r->dqkv && n >= grads_from && !same_bits(r->dqkv + n * p->ld, whole->dqkv + w * p->ld, p->ld)) return false;
    }
    return true;
}

/* attention_step as work that repeats: always with the same arguments. */
typedef struct step_call {
    float *o;
    const float *q;
    void *kv;
    const mr_span *spans; /* device */
    const pack *p;
    int n, n_chunks;
} step_call;

static void call_step(void *self) {
    const step_call *c = self;
    const pack *p = c->p;
    gpu->attention_step(gpu, c->o, c->q, p->ld, c->kv, p->n_slots, c->spans, c->n, c->n_chunks, p->H, p->K, p->D);
}

/* Decoding: by attention, and by attention_step; the prompt at once, then a row of each completion at a time, in a store that holds
 * NaN where no key is yet. */
static bool decode_equals(const pack *p, const values *v, const result *whole) {
    mr_backend *b = gpu;
    int64_t O = p->H * p->D;
    int longest = 0, prompt = p->spans[0].n_rows;
    for (int s = 1; s < p->S; s++)
        if (p->spans[s].n_rows > longest) longest = p->spans[s].n_rows;
    float *host = rows_of(p, v->qkv, p->ld), *qkv = put(b, host, (int64_t)p->N * p->ld), *o = put(b, NULL, (int64_t)p->N * O),
          *lse = put(b, NULL, (int64_t)p->N * p->H), *step = put(b, NULL, (int64_t)MAX_SPANS * p->ld), *got;
    int32_t *slots = put_ids(b, p->slots, p->N), *step_slots = put_ids(b, p->slots, MAX_SPANS),
            *step_spans = put_ids(b, (const int32_t *)p->spans, MAX_SPANS * (int64_t)(sizeof(mr_span) / sizeof(int32_t)));
    float *again = put(b, NULL, (int64_t)MAX_SPANS * O);
    void *kv = store_new(b, p);
    bool same = true;
    b->kv_put(b, kv, p->n_slots, qkv + O, qkv + O + p->K * p->D, p->ld, slots, prompt, p->K, p->D);
    b->attention(b, o, NULL, qkv, p->ld, kv, p->n_slots, p->spans, 1, p->H, p->K, p->D);
    got = get(b, o, prompt * O);
    same = same_bits(got, whole->o, prompt * O);
    free(got);
    for (int t = 0; t < longest && same; t++) {
        mr_span spans[MAX_SPANS];
        int n = 0, row[MAX_SPANS];
        for (int s = 1; s < p->S; s++) {
            if (t >= p->spans[s].n_rows) continue;
            spans[n] = p->spans[s];
            spans[n].row0 = n, spans[n].n_rows = 1, spans[n].past = t;
            row[n] = p->spans[s].row0 + t;
            b->upload(b, step + (int64_t)n * p->ld, host + (int64_t)row[n] * p->ld, (size_t)p->ld * sizeof *step);
            b->upload(b, step_slots + n, &p->slots[row[n]], sizeof *step_slots);
            n++;
        }
        b->kv_put(b, kv, p->n_slots, step + O, step + O + p->K * p->D, p->ld, step_slots, n, p->K, p->D);
        b->attention(b, o, lse, step, p->ld, kv, p->n_slots, spans, n, p->H, p->K, p->D);
        got = get(b, o, n * O);
        float *l = get(b, lse, n * p->H);
        for (int i = 0; i < n; i++)
            same = same && same_bits(got + i * O, whole->o + row[i] * O, O) &&
                   same_bits(l + i * p->H, whole->lse + row[i] * p->H, p->H);
        free(got), free(l);
        if (p->H > 16 * p->K) continue;
        spans[n] = spans[n - 1], spans[n].row0 = MAX_SPANS - 1; /* not among them: its row stays */
        step_call c = { again, step, kv, (const mr_span *)step_spans, p, n, (prompt + longest) / MR_KV_CHUNK + 2 };
        b->upload(b, step_spans, spans, (size_t)(n + 1) * sizeof *spans);
        b->repeat(b, &n, sizeof n, call_step, &c);
        got = get(b, again, MAX_SPANS * O);
        for (int i = 0; i < n; i++) same = same && same_bits(got + i * O, whole->o + row[i] * O, O);
        for (int64_t i = (MAX_SPANS - 1) * O; i < MAX_SPANS * O; i++) same = same && isnan(got[i]);
        free(got);
    }
    free(host);
    drop(b);
    return same;
}

/* NaN in one row of a completion: the rows before it, and all of the other completion, keep their bits; and with NaN in its d_o alone
 * so do the gradients of the keys that it does not see. */
static bool damage_stays(int G, int D) {
    enum { PROMPT = 70, LENGTH = 90, BAD = PROMPT + 40 }; /* in the middle of a chunk */
    pack p = pack_new(2 * G, 2, D);
    add_span(&p, PROMPT, -1, 0);
    add_span(&p, LENGTH, 0, p.N);
    add_span(&p, LENGTH, 0, p.N);
    int64_t O = p.H * D;
    values v = { random_new((int64_t)p.N * p.ld, 2.0f), random_new(p.N * O, 1.0f) };
    result sound = run(gpu, &p, &v, true);
    for (int64_t i = 0; i < O; i++) v.d_o[BAD * O + i] = NAN;
    result graded = run(gpu, &p, &v, true);
    for (int i = 0; i < p.ld; i++) v.qkv[(int64_t)BAD * p.ld + i] = NAN;
    result broken = run(gpu, &p, &v, true);
    int after = PROMPT + LENGTH, keys = 2 * p.K * D;
    bool same = same_bits(sound.o, broken.o, BAD * O) && isnan(broken.o[BAD * O]) && isnan(broken.o[(BAD + 1) * O]) &&
                same_bits(sound.o + after * O, broken.o + after * O, LENGTH * O);
    for (int n = PROMPT; n < p.N; n++) {
        const float *a = sound.dqkv + (int64_t)n * p.ld, *b = broken.dqkv + (int64_t)n * p.ld, *c = graded.dqkv + (int64_t)n * p.ld;
        if (n < BAD || n >= after) same = same && same_bits(a, b, O);
        if (n > BAD) same = same && same_bits(a + O, c + O, keys) && same_bits(a, c, O);
    }
    same = same && isnan(graded.dqkv[(int64_t)BAD * p.ld]) && isnan(graded.dqkv[(int64_t)BAD * p.ld + O]);
    result_free(&sound), result_free(&graded), result_free(&broken);
    free(v.qkv), free(v.d_o);
    return same;
}

/* rope_put against head_norm where wanted, rope and kv_put: the rows and the whole store, with a value among them that is not finite. */
static bool put_rotated_equals(int N, int H, int K, int D, bool norm) {
    mr_backend *b = gpu;
    int ld = (H + 2 * K) * D;
    int64_t n_slots = (N + 5 + MR_KV_CHUNK - 1) / MR_KV_CHUNK * MR_KV_CHUNK, n = (int64_t)N * ld;
    pack p = { .K = K, .D = D, .n_slots = n_slots };
    int64_t size = (int64_t)(b->kv_bytes(b, n_slots, K, D) / sizeof(float));
    int32_t pos[64], at[64];
    for (int i = 0; i < N; i++) pos[i] = 37 * i, at[i] = (i * 5 + 3) % (int)n_slots;
    float *host = random_new(n, 2.0f), *freq = random_new(D / 2, 1.0f), *weights = random_new(2 * D, 1.0f), *rows[2], *kept[2];
    for (int i = 0; i < D / 2; i++) freq[i] = fabsf(freq[i]);
    host[(N - 1) * (int64_t)ld + H * D] = INFINITY, host[ld - 1] = NAN;
    bool same = true, served = true;
    for (int s = 0; s < 2; s++) {
        float *x = put(b, host, n), *v = x + (H + K) * D, *inv_freq = put(b, freq, D / 2), *y = norm ? put(b, host, n) : x;
        float *wq = norm ? put(b, weights, 2 * D) : NULL, *wk = norm ? wq + D : NULL;
        int32_t *positions = put_ids(b, pos, N), *slots = put_ids(b, at, N);
        void *kv = store_new(b, &p);
        b->zero(b, kv, (size_t)size * sizeof(float));
        served = s && b->rope_put(b, kv, n_slots, y, x, v, ld, wq, wk, 1e-6f, positions, inv_freq, slots, N, H, K, D);
        if (!served) {
            if (norm) b->head_norm(b, y, x, ld, wq, wk, N, H, K, D, 1e-6f);
            b->rope(b, y, ld, positions, inv_freq, N, H + K, D, false);
            b->kv_put(b, kv, n_slots, y + H * D, v, ld, slots, N, K, D);
        }
        rows[s] = get(b, y, n), kept[s] = get(b, kv, size);
        drop(b);
    }
    same = same_bits(rows[0], rows[1], n) && same_bits(kept[0], kept[1], size) && served == (gpu->has_bf16 && D <= 128);
    for (int s = 0; s < 2; s++) free(rows[s]), free(kept[s]);
    free(host), free(freq), free(weights);
    return same;
}

typedef struct shape {
    int H, K, D, prompt, group, length; /* completions of length, length + 1, ... */
} shape;

/* diff: o, lse, gradients. bad: packs, decoding. */
static void check(const shape *z, double diff[3], int bad[2]) {
    pack p = pack_new(z->H, z->K, z->D);
    add_span(&p, z->prompt, -1, 0);
    for (int g = 0; g < z->group; g++) add_span(&p, z->length + g, 0, p.N);
    int other = p.S;
    add_span(&p, z->prompt / 2 + 1, -1, p.N); /* a second prompt, with one completion */
    add_span(&p, z->length, other, p.N);
    values v = { random_new((int64_t)p.N * p.ld, 2.0f), random_new((int64_t)p.N * p.H * p.D, 1.0f) };
    result want = run(cpu, &p, &v, true), got = run(gpu, &p, &v, true);
    diff[0] = fmax(diff[0], worst(got.o, want.o, (int64_t)p.N * p.H * p.D));
    diff[1] = fmax(diff[1], worst(got.lse, want.lse, (int64_t)p.N * p.H));
    diff[2] = fmax(diff[2], worst(got.dqkv, want.dqkv, (int64_t)p.N * p.ld));
    /* the prompt with its last completion alone; the same behind another sequence; the prompt without any */
    for (int variant = 0; variant < 3; variant++) {
        pack q = pack_new(z->H, z->K, z->D);
        int at = 0;
        if (variant == 1) {
            add_span(&q, p.spans[other].n_rows, -1, p.spans[other].row0);
            at = 1;
        }
        int first = q.N;
        add_span(&q, z->prompt, -1, 0);
        if (variant < 2) add_span(&q, p.spans[z->group].n_rows, at, p.spans[z->group].row0);
        result r = run(gpu, &q, &v, true);
        /* the gradients of the prompt depend on which completions there are */
        bool same = same_rows(&q, &r, &got, variant == 2 ? q.N : first + z->prompt);
        bad[0] += !same;
        result_free(&r);
    }
    pack d = pack_new(z->H, z->K, z->D);
    add_span(&d, z->prompt, -1, 0);
    for (int g = 0; g < z->group; g++) add_span(&d, z->length + g, 0, d.N);
    bad[1] += !decode_equals(&d, &v, &got);
    result_free(&want), result_free(&got);
    free(v.qkv), free(v.d_o);
}

/* Two sequences that go on behind 33 chunks of a prompt with one more and a part of another, more than the merge takes at a time, by attention on both sides
 * and by attention_step; later keys weigh more, so that maxima change to the end. The largest difference from the CPU's; inf: attention_step's bits are others. */
static double many_chunks(int H, int K, int D) {
    enum { PROMPT = 33 * MR_KV_CHUNK, OWN = MR_KV_CHUNK + 6, KEYS = PROMPT + OWN };
    int ld = (H + 2 * K) * D, O = H * D;
    int64_t n = (int64_t)KEYS * ld;
    pack p = { .K = K, .D = D, .n_slots = (KEYS + MR_KV_CHUNK - 1) / MR_KV_CHUNK * MR_KV_CHUNK };
    float *host = random_new(n, 1.0f), *got[3];
    int32_t at[KEYS];
    mr_span spans[2];
    for (int64_t i = 0; i < n; i++) host[i] *= 1.0f + 2.0f * (float)(i / ld) / KEYS;
    for (int i = 0; i < KEYS; i++) at[i] = i;
    for (int s = 0; s < 2; s++)
        spans[s] = (mr_span){ .row0 = s, .n_rows = 1, .past = OWN - 1 - s, .slot0 = PROMPT, .prefix_slot0 = 0, .n_prefix = PROMPT };
    for (int side = 0; side < 2; side++) {
        mr_backend *b = side ? gpu : cpu;
        float *rows = put(b, host, n), *o = put(b, NULL, 2 * O);
        void *kv = store_new(b, &p);
        b->kv_put(b, kv, p.n_slots, rows + O, rows + O + K * D, ld, put_ids(b, at, KEYS), KEYS, K, D);
        b->attention(b, o, NULL, rows, ld, kv, p.n_slots, spans, 2, H, K, D);
        got[side] = get(b, o, 2 * O);
        if (side) {
            const mr_span *there = (const mr_span *)put_ids(b, (const int32_t *)spans, 2 * (int64_t)(sizeof *spans / sizeof(int32_t)));
            b->attention_step(b, o, rows, ld, kv, p.n_slots, there, 2, 35, H, K, D);
            got[2] = get(b, o, 2 * O);
        }
        drop(b);
    }
    double diff = same_bits(got[1], got[2], 2 * O) ? worst(got[1], got[0], 2 * O) : HUGE_VAL;
    free(host), free(got[0]), free(got[1]), free(got[2]);
    return diff;
}

void test_attention(void) {
    static const shape shapes[] = {
        { 1, 1, 2, 1, 1, 1 },        { 2, 1, 20, 3, 2, 5 },      { 3, 3, 36, 70, 3, 2 },    { 8, 2, 32, 64, 2, 66 },
        { 4, 1, 80, 65, 3, 9 },      { 16, 1, 32, 100, 2, 66 },   { 9, 3, 64, 128, 16, 3 },  { 6, 2, 136, 20, 2, 70 },
        { 2, 2, 256, 66, 2, 4 },     { 9, 3, 64, 300, 6, 130 },  { 16, 2, 128, 512, 6, 70 }, { 16, 2, 128, 1024, 4, 200 },
        { 32, 8, 128, 200, 8, 100 }, { 14, 2, 64, 129, 16, 33 },
        { 64, 64, 64, 1500, 2, 20 }, /* more shares of keys than there is scratch for at a time */
        { 16, 1, 32, 10, 70, 66 },   /* more shares of a key than are listed at a time */
    };
    int n = (int)(sizeof shapes / sizeof shapes[0]) - (small_run ? 7 : 0);
    double diff[3] = { 0 };
    int bad[2] = { 0 };
    for (int i = 0; i < n; i++) check(&shapes[i], diff, bad);
    /* with bf16 tensor cores each operand is the sum of two bf16: 2^-17 of a product is left out. Seen: 1.1e-5, 4.8e-6, 1.4e-5 */
    double allowed = gpu->has_bf16 ? 3e-5 : 3e-6, allowed_lse = gpu->has_bf16 ? 1e-5 : 3e-6, allowed_bwd = gpu->has_bf16 ? 4e-5 : 1e-5;
    verdict(diff[0] < allowed, "attention", "%.1e (allowed %.0e)", diff[0], allowed);
    verdict(diff[1] < allowed_lse, "attention: lse", "%.1e (allowed %.0e)", diff[1], allowed_lse);
    verdict(diff[2] < allowed_bwd, "attention_bwd", "%.1e (allowed %.0e)", diff[2], allowed_bwd);
    double many = fmax(many_chunks(8, 2, 32), many_chunks(6, 2, 136)); /* in halves, and in f32 */
    verdict(many < allowed, "attention: 35 chunks", "%.1e (allowed %.0e)", many, allowed);
    verdict(bad[0] == 0, "row rule of attention: packs", "%d of %d packs differ", bad[0], 3 * n);
    verdict(damage_stays(1, 32) && damage_stays(3, 64) && damage_stays(8, 128), "row rule of attention: damage",
            "NaN in a row reaches only what sees it");
    bool put_same = true;
    for (int norm = 0; norm < 2; norm++)
        put_same = put_same && put_rotated_equals(6, 16, 2, 128, norm) && put_rotated_equals(1, 3, 3, 36, norm) &&
                   put_rotated_equals(48, 9, 3, 64, norm) && put_rotated_equals(3, 16, 8, 128, norm) && put_rotated_equals(3, 2, 2, 256, norm);
    verdict(put_same, "rope_put", "bits of head_norm, rope and kv_put: wanted");
    verdict(bad[1] == 0, "row rule of attention: decoding", "%d of %d groups differ from the pass over all rows", bad[1], n);
}
