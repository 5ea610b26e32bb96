/* attention.c - the key/value store and attention, forward and backward.
 *
 * Store:    for every chunk of 64 slots and every key head, K in tiles of 16 keys [4][D][16] and V [64][Dp] (isa.h): the scores of 16 keys are
 *           one register, and so are 16 columns of the output.
 * Forward:  an item is a block of up to 24 queries (row, head) of one span that share a key head.
 * Backward: an item is a prompt with all its completions and one key head: each product once. Those that would leave
 *           threads idle at the end go in two passes, over chunks for dk and dv, and over blocks of queries for dq. The
 *           sums are the same chains in both: dq over chunks and keys, dk and dv over spans, rows and heads, ascending.
 *           So the result does not depend on the choice.
 * Items are handed to threads as they become free; which thread computes an item changes nothing. */
#include <assert.h>
#include <string.h>

#include "cpu/isa.h"

size_t cpu_kv_bytes(mr_backend *b, int64_t n_slots, int K, int D) {
    (void)b;
    assert(n_slots % MR_KV_CHUNK == 0 && D <= CPU_MAX_D);
    return sizeof(float) * cpu_chunk_at(n_slots / MR_KV_CHUNK, 0, K, D);
}

static void put_row(float *kv, const float *k, const float *v, int64_t slot, int K, int D) {
    const int Dp = cpu_pad16(D), key = (int)(slot % MR_KV_CHUNK);
    for (int kh = 0; kh < K; kh++, k += D, v += D) {
        float *chunk = kv + cpu_chunk_at(slot / MR_KV_CHUNK, kh, K, D);
        float *tile = chunk + key / CPU_KEYS * D * CPU_KEYS + key % CPU_KEYS;
        float *row = chunk + MR_KV_CHUNK * D + key * Dp;
        for (int d = 0; d < D; d++) tile[d * CPU_KEYS] = k[d];
        memcpy(row, v, sizeof *v * (size_t)D);
        for (int d = D; d < Dp; d++) row[d] = 0;
    }
}

typedef struct putting {
    float *kv;
    const float *k, *v;
    int ld, K, D;
    const int32_t *slots;
    int64_t n_slots;
} putting;

static void put_rows(void *ctx, int thread, int64_t from, int64_t to) {
    const putting *p = ctx;
    (void)thread;
    for (int64_t n = from; n < to; n++) {
        assert(p->slots[n] >= 0 && p->slots[n] < p->n_slots);
        put_row(p->kv, p->k + n * p->ld, p->v + n * p->ld, p->slots[n], p->K, p->D);
    }
}

void cpu_kv_put(mr_backend *b, void *kv, int64_t n_slots, const float *k, const float *v, int ld, const int32_t *slots,
                int N, int K, int D) {
    if (cpu_failed(b)) return;
    assert(D <= CPU_MAX_D && ld >= K * D);
    putting p = { kv, k, v, ld, K, D, slots, n_slots };
    cpu_share(b, 8.0 * N * K * D, put_rows, &p, N, 1); /* each value of K has a line of its own, often far away */
}

static inline int blocks_of(int n_pairs) { return (n_pairs + CPU_ATT_PAIRS - 1) / CPU_ATT_PAIRS; }

static void check_span(const mr_span *s, int64_t n_slots) {
    assert(s->n_rows >= 0 && s->past >= 0 && s->slot0 % MR_KV_CHUNK == 0 && s->prefix_slot0 % MR_KV_CHUNK == 0);
    assert(s->slot0 + (int64_t)s->past + s->n_rows <= n_slots && s->prefix_slot0 + (int64_t)s->n_prefix <= n_slots);
    (void)s, (void)n_slots;
}

/* Spans that follow each other, with the same prefix, and so few rows that they fit into one block: in decoding the
 * completions of a prompt, which then read its keys once. n = 1: one span, in as many blocks as it needs. */
typedef struct cluster {
    int first, n;
    int64_t item0; /* its first item; its items are key head by key head, block by block */
} cluster;

typedef struct attending {
    const cpu_kernels *kern;
    float *o, *lse;
    const float *q, *kv;
    const mr_span *spans;
    const cluster *clusters;
    int n_clusters, ldq, H, K, D, G;
} attending;

static void add_query(const attending *a, cpu_att_queries *block, const mr_span *s, int row, int head) {
    size_t n = (size_t)(s->row0 + row);
    int i = block->n++;
    block->q[i] = a->q + n * (size_t)a->ldq + head * a->D;
    block->o[i] = a->o + n * (size_t)(a->H * a->D) + head * a->D;
    block->lse[i] = a->lse ? a->lse + n * (size_t)a->H + head : NULL;
    block->own[i] = s->past + row + 1;
    block->own_chunk[i] = s->slot0 / MR_KV_CHUNK;
}

static void attend_items(void *ctx, int thread, int64_t from, int64_t to) {
    const attending *a = ctx;
    (void)thread;
    for (int64_t item = from; item < to; item++) {
        int low = 0, high = a->n_clusters - 1; /* the last cluster that begins at or before the item */
        while (low < high) {
            int middle = (low + high + 1) / 2;
            if (a->clusters[middle].item0 <= item)
                low = middle;
            else
                high = middle - 1;
        }
        const cluster *c = &a->clusters[low];
        const mr_span *s = &a->spans[c->first];
        int left = (int)(item - c->item0), blocks = c->n > 1 ? 1 : blocks_of(s->n_rows * a->G);
        int kh = left / blocks, pair0 = left % blocks * CPU_ATT_PAIRS;
        cpu_att_keys keys = { a->kv, a->K, kh, a->D, s->prefix_slot0 / MR_KV_CHUNK, s->n_prefix };
        cpu_att_queries block;
        block.n = 0;
        for (int m = 0; m < c->n; m++) {
            int end = s[m].n_rows * a->G - pair0;
            if (end > CPU_ATT_PAIRS) end = CPU_ATT_PAIRS;
            for (int i = pair0; i < pair0 + end; i++)
                add_query(a, &block, &s[m], i / a->G, kh * a->G + i % a->G);
        }
        a->kern->attention(&keys, &block);
    }
}

static bool same_prefix(const mr_span *a, const mr_span *b) {
    return a->n_prefix > 0 && a->n_prefix == b->n_prefix && a->prefix_slot0 == b->prefix_slot0;
}

void cpu_attention(mr_backend *b, float *o, float *lse, const float *q, int ldq, const void *kv, int64_t n_slots,
                   const mr_span *spans, int S, int H, int K, int D) {
    if (cpu_failed(b)) return;
    assert(H % K == 0 && D <= CPU_MAX_D && ldq >= H * D);
    cluster *clusters = cpu_scratch(b, CPU_SLOT_SHARED, (size_t)S * sizeof *clusters);
    if (!clusters) return;
    attending a = { cpu_kernels_of(b), o, lse, q, kv, spans, clusters, 0, ldq, H, K, D, H / K };
    int64_t n_items = 0, all_pairs = 0;
    double work = 0;
    for (int s = 0; s < S; s++) all_pairs += (int64_t)spans[s].n_rows * a.G;
    /* smaller clusters when there would be too few items for the threads */
    int64_t most = K * all_pairs / (4 * cpu_of(b)->n_threads) / 6 * 6;
    most = most < 6 ? 6 : most > CPU_ATT_PAIRS ? CPU_ATT_PAIRS : most;
    for (int s = 0; s < S;) {
        int n = 1, pairs = spans[s].n_rows * a.G;
        while (s + n < S && pairs + spans[s + n].n_rows * a.G <= most && same_prefix(&spans[s], &spans[s + n]))
            pairs += spans[s + n++].n_rows * a.G;
        if (pairs > 0) clusters[a.n_clusters++] = (cluster){ s, n, n_items };
        n_items += (int64_t)K * (n > 1 ? 1 : blocks_of(pairs));
        for (int end = s + n; s < end; s++) {
            check_span(&spans[s], n_slots);
            work += (double)spans[s].n_rows * H * D * (spans[s].n_prefix + spans[s].past + 0.5 * spans[s].n_rows) * 0.05;
        }
    }
    int n_threads = cpu_threads(b, work);
    mr_work w = { attend_items, &a, n_items, 1 };
    mr_parallel(cpu_of(b)->pool, n_threads, &w, 1);
}

/* --- backward --- */

typedef struct bwd {
    mr_backend *b;
    const cpu_kernels *kern;
    float *dq, *dk, *dv;
    int lddq, lddkv, ldq;
    const float *d_o, *o, *lse, *q, *kv;
    float *delta;
    const mr_span *spans;
    int S, H, K, D, G;
    const int *prompt;         /* [S]: a completion's prompt; another span: itself */
    int *kh0;                  /* [S]: its key heads from here on go in two passes */
    int64_t n_whole, n_chunks; /* items of group_pass, then of chunk_pass, then those of query_pass */
    int thread;
} bwd;

static cpu_att_chunk chunk_open(const bwd *w, const mr_span *keys_of, bool prefix, int chunk, int kh, bool want_dkv) {
    const int D = w->D, Dp = cpu_pad16(D);
    int64_t slot = (prefix ? keys_of->prefix_slot0 : keys_of->slot0) + (int64_t)chunk * MR_KV_CHUNK;
    int n_keys = (prefix ? keys_of->n_prefix : keys_of->n_rows) - chunk * MR_KV_CHUNK;
    const float *k = w->kv + cpu_chunk_at(slot / MR_KV_CHUNK, kh, w->K, D);
    size_t part = (size_t)(MR_KV_CHUNK * Dp);
    cpu_att_chunk c = { .D = D, .n_keys = n_keys < MR_KV_CHUNK ? n_keys : MR_KV_CHUNK, .k_tiles = k };
    float *scratch = cpu_scratch(w->b, w->thread, 4 * part * sizeof *scratch);
    if (!scratch) return (cpu_att_chunk){ 0 };
    c.v_tiles = scratch;
    c.k_rows = scratch + part;
    if (want_dkv) c.dk = scratch + 2 * part, c.dv = scratch + 3 * part;
    w->kern->attention_open(&c, k + MR_KV_CHUNK * D);
    return c;
}

/* Queries [pair, end) of a span against an open chunk: number `chunk` of their prefix or of their own keys. */
static void chunk_add(const bwd *w, cpu_att_chunk *c, const mr_span *s, bool prefix, int chunk, int kh, int pair, int end,
                      bool want_dq) {
    if (!c->k_tiles) return; /* no memory: the failure is kept */
    if (!prefix && pair < chunk * MR_KV_CHUNK * w->G) pair = chunk * MR_KV_CHUNK * w->G; /* earlier rows see nothing */
    for (; pair < end; pair += CPU_ATT_PAIRS) {
        cpu_att_grads g;
        g.n = end - pair < CPU_ATT_PAIRS ? end - pair : CPU_ATT_PAIRS;
        for (int i = 0; i < g.n; i++) {
            int row = (pair + i) / w->G, head = kh * w->G + (pair + i) % w->G;
            size_t n = (size_t)(s->row0 + row), at = n * (size_t)w->H + (size_t)head;
            int left = (prefix ? s->n_prefix : row + 1) - chunk * MR_KV_CHUNK;
            g.q[i] = w->q + n * (size_t)w->ldq + head * w->D;
            g.d_o[i] = w->d_o + at * (size_t)w->D;
            g.lse[i] = w->lse[at];
            g.delta[i] = w->delta[at];
            g.dq[i] = want_dq ? w->dq + n * (size_t)w->lddq + head * w->D : NULL;
            g.seen[i] = left < MR_KV_CHUNK ? left : MR_KV_CHUNK;
        }
        w->kern->attention_bwd(c, &g);
    }
}

static void chunk_write(const bwd *w, const cpu_att_chunk *c, const mr_span *s, int chunk, int kh) {
    const size_t D = (size_t)w->D, Dp = (size_t)cpu_pad16(w->D);
    for (int key = 0; key < c->n_keys; key++) {
        size_t row = (size_t)(s->row0 + chunk * MR_KV_CHUNK + key) * (size_t)w->lddkv + (size_t)kh * D;
        memcpy(w->dk + row, c->dk + (size_t)key * Dp, D * sizeof(float));
        memcpy(w->dv + row, c->dv + (size_t)key * Dp, D * sizeof(float));
    }
}

static void clear_dq(const bwd *w, const mr_span *s, int kh, int pair, int end) {
    for (; pair < end; pair++) {
        size_t n = (size_t)(s->row0 + pair / w->G);
        memset(w->dq + n * (size_t)w->lddq + (kh * w->G + pair % w->G) * w->D, 0, sizeof(float) * (size_t)w->D);
    }
}

static bool sees_prefix(const mr_span *s, const mr_span *prompt) {
    return s->n_prefix > 0 && s != prompt && s->prefix_row0 == prompt->row0;
}

/* dk and dv of one chunk of a span's own keys: from its own rows, then from its completions in order. */
static void chunk_pass(const bwd *w, int at, int chunk, int kh, bool want_dq) {
    const mr_span *s = &w->spans[at];
    cpu_att_chunk c = chunk_open(w, s, false, chunk, kh, true);
    chunk_add(w, &c, s, false, chunk, kh, 0, s->n_rows * w->G, want_dq);
    for (int t = at + 1; t < w->S; t++)
        if (sees_prefix(&w->spans[t], s) && w->spans[t].n_prefix > chunk * MR_KV_CHUNK)
            chunk_add(w, &c, &w->spans[t], true, chunk, kh, 0, w->spans[t].n_rows * w->G, want_dq);
    if (c.dk) chunk_write(w, &c, s, chunk, kh);
}

static int chunks_of(const mr_span *s) { return (s->n_rows + MR_KV_CHUNK - 1) / MR_KV_CHUNK; }

/* A prompt with its completions, or a sequence without a prompt, for one key head: everything in one pass. */
static void group_pass(const bwd *w, int at, int kh) {
    for (int t = at; t < w->S; t++)
        if (t == at || sees_prefix(&w->spans[t], &w->spans[at]))
            clear_dq(w, &w->spans[t], kh, 0, w->spans[t].n_rows * w->G);
    for (int t = at; t < w->S; t++)
        if (t == at || sees_prefix(&w->spans[t], &w->spans[at]))
            for (int c = 0; c < chunks_of(&w->spans[t]); c++) chunk_pass(w, t, c, kh, true);
}

/* dq of a block of queries of one span. Opening a chunk costs as much as some 20 queries, so the block is large. */
enum { DQ_PAIRS = 4 * CPU_ATT_PAIRS };

static void query_pass(const bwd *w, int at, int block, int kh) {
    const mr_span *s = &w->spans[at];
    int pair = block * DQ_PAIRS, end = s->n_rows * w->G;
    if (end > pair + DQ_PAIRS) end = pair + DQ_PAIRS;
    clear_dq(w, s, kh, pair, end);
    for (int c = 0; c * MR_KV_CHUNK < s->n_prefix; c++) {
        cpu_att_chunk open = chunk_open(w, s, true, c, kh, false);
        chunk_add(w, &open, s, true, c, kh, pair, end, true);
    }
    for (int c = 0; c * MR_KV_CHUNK <= (end - 1) / w->G; c++) {
        cpu_att_chunk open = chunk_open(w, s, false, c, kh, false);
        chunk_add(w, &open, s, false, c, kh, pair, end, true);
    }
}

static int prompt_of(const mr_span *spans, int at) {
    for (int s = 0; s < at; s++)
        if (sees_prefix(&spans[at], &spans[s])) return s;
    assert(spans[at].n_prefix == 0 && "a completion whose prompt is not among the spans before it");
    return at;
}

/* Item `left` of those that count(w, s) makes for each span s. */
static int locate(const bwd *w, int64_t *left, int (*count)(const bwd *, int)) {
    int s = 0;
    for (; *left >= (int64_t)count(w, s); s++) *left -= (int64_t)count(w, s);
    return s;
}
static int heads_left(const bwd *w, int s) { return w->K - w->kh0[s]; }
static int count_groups(const bwd *w, int s) { return w->prompt[s] == s ? w->K : 0; }
static int count_chunks(const bwd *w, int s) { return chunks_of(&w->spans[s]) * heads_left(w, s); }
static int count_queries(const bwd *w, int s) {
    return (w->spans[s].n_rows * w->G + DQ_PAIRS - 1) / DQ_PAIRS * heads_left(w, s);
}
static int64_t count_all(const bwd *w, int (*count)(const bwd *, int)) {
    int64_t n = 0;
    for (int s = 0; s < w->S; s++) n += (int64_t)count(w, s);
    return n;
}

/* Which groups go whole: all that are shared evenly, and the rest when 5 products a pair of query and key on some of the
 * threads end before 7 on all do; groups count as equal. */
static void choose_passes(bwd *w, int n_threads) {
    int64_t n = count_all(w, count_groups), rest = n % n_threads;
    w->n_whole = 7 * rest < 5 * n_threads ? n - rest : n;
    int64_t left = w->n_whole;
    for (int s = 0; s < w->S; s++) {
        if (w->prompt[s] != s) {
            w->kh0[s] = w->kh0[w->prompt[s]];
            continue;
        }
        w->kh0[s] = left < w->K ? (int)left : w->K;
        left -= w->kh0[s];
    }
    w->n_chunks = count_all(w, count_chunks);
}

/* delta of row i / H, head i % H */
static void delta_items(void *ctx, int thread, int64_t from, int64_t to) {
    const bwd *w = ctx;
    (void)thread;
    for (int64_t i = from; i < to; i++) w->delta[i] = w->kern->dot(w->d_o + i * w->D, w->o + i * w->D, w->D);
}

static void pass_items(void *ctx, int thread, int64_t from, int64_t to) {
    bwd w = *(const bwd *)ctx;
    w.thread = thread;
    for (int64_t item = from; item < to; item++) {
        int64_t left = item;
        if (left < w.n_whole) {
            int s = locate(&w, &left, count_groups);
            group_pass(&w, s, (int)left);
        } else if ((left -= w.n_whole) < w.n_chunks) {
            int s = locate(&w, &left, count_chunks), heads = heads_left(&w, s);
            chunk_pass(&w, s, (int)left / heads, w.kh0[s] + (int)left % heads, false);
        } else {
            left -= w.n_chunks;
            int s = locate(&w, &left, count_queries), heads = heads_left(&w, s);
            query_pass(&w, s, (int)left / heads, w.kh0[s] + (int)left % heads);
        }
    }
}

size_t cpu_attention_bwd_scratch(int head_dim) {
    return (size_t)(4 * MR_KV_CHUNK * cpu_pad16(head_dim)) * sizeof(float);
}

void cpu_attention_bwd(mr_backend *b, float *dq, int lddq, float *dk, float *dv, int lddkv, const float *d_o,
                       const float *o, const float *lse, const float *q, int ldq, const void *kv, int64_t n_slots,
                       const mr_span *spans, int S, int N, int H, int K, int D) {
    if (cpu_failed(b) || N <= 0) return;
    assert(H % K == 0 && D <= CPU_MAX_D && ldq >= H * D && lddq >= H * D && lddkv >= K * D);
    double work = 0;
    for (int s = 0; s < S; s++) {
        check_span(&spans[s], n_slots);
        assert(spans[s].past == 0 && spans[s].row0 + spans[s].n_rows <= N);
        work += (double)spans[s].n_rows * H * D * (spans[s].n_prefix + 0.5 * spans[s].n_rows) * 0.12;
    }
    float *delta = cpu_scratch(b, CPU_SLOT_SHARED, (size_t)N * (size_t)H * sizeof *delta);
    int *prompt = cpu_scratch(b, CPU_SLOT_SHARED + 1, 2 * (size_t)S * sizeof *prompt);
    if (!delta || !prompt) return;
    if (!cpu_reserve(b, CPU_SLOT_THREADS, cpu_attention_bwd_scratch(D))) {
        cpu_fail_status(b, MR_ENOMEM, "attention_bwd", "no memory for a chunk of keys; close other programs");
        return;
    }
    for (int s = 0; s < S; s++) prompt[s] = prompt_of(spans, s);
    bwd w = { .b = b, .kern = cpu_kernels_of(b), .dq = dq, .dk = dk, .dv = dv, .lddq = lddq, .lddkv = lddkv,
              .ldq = ldq, .d_o = d_o, .o = o, .lse = lse, .delta = delta, .q = q, .kv = kv, .spans = spans, .S = S,
              .H = H, .K = K, .D = D, .G = H / K, .prompt = prompt, .kh0 = prompt + S };
    int n_threads = cpu_threads(b, work);
    choose_passes(&w, n_threads);
    const mr_work works[2] = { { delta_items, &w, (int64_t)N * H, 64 },
                               { pass_items, &w, w.n_whole + w.n_chunks + count_all(&w, count_queries), 1 } };
    mr_parallel(cpu_of(b)->pool, n_threads, works, 2);
}
