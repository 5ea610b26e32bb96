/* attention_bench.c - speed of attention at the recipe's shapes: SmolLM2-135M (9 heads, 3 key heads, 64), groups of a prompt of
 * 250 tokens with 6 completions of 35. Prints GFLOP/s, counting 2 products forward and 5 backward over the pairs that the mask
 * leaves. Run it on an idle machine: attention_bench [threads]. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "kernels.h"

enum { H = 9, K = 3, D = 64, PROMPT = 250, GROUP = 6, LENGTH = 35, MAX_GROUPS = 4, LD = (H + 2 * K) * D };

/* One thread: processor time, so that other programs do not count. */
static clockid_t bench_clock = CLOCK_MONOTONIC;

static double now(void) {
    struct timespec t;
    clock_gettime(bench_clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void fill(float *x, size_t n, unsigned seed) {
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) / 8388608.0f - 1.0f;
    }
}

typedef struct pack {
    mr_span spans[MAX_GROUPS * (GROUP + 1)];
    int32_t slots[MAX_GROUPS * (PROMPT + GROUP * LENGTH)];
    int S, N;
    int64_t n_slots;
    double pairs; /* of a query row and a key that it sees */
} pack;

static void add_span(pack *p, int n_rows, const mr_span *prompt) {
    mr_span *s = &p->spans[p->S++];
    *s = (mr_span){ .row0 = p->N, .n_rows = n_rows, .slot0 = (int32_t)p->n_slots };
    if (prompt) s->prefix_slot0 = prompt->slot0, s->n_prefix = prompt->n_rows, s->prefix_row0 = prompt->row0;
    for (int i = 0; i < n_rows; i++) p->slots[p->N++] = (int32_t)p->n_slots + i;
    p->n_slots += (n_rows + MR_KV_CHUNK - 1) / MR_KV_CHUNK * MR_KV_CHUNK;
    p->pairs += (double)n_rows * s->n_prefix + 0.5 * n_rows * (n_rows + 1);
}

static void training(mr_backend *b, int n_groups) {
    static pack p;
    p = (pack){ 0 };
    for (int g = 0; g < n_groups; g++) {
        const mr_span *prompt = &p.spans[p.S];
        add_span(&p, PROMPT, NULL);
        for (int i = 0; i < GROUP; i++) add_span(&p, LENGTH, prompt);
    }
    size_t n = (size_t)p.N;
    float *qkv = b->alloc(b, n * LD * sizeof(float)), *d = b->alloc(b, n * LD * sizeof(float));
    float *o = b->alloc(b, n * H * D * sizeof(float)), *d_o = b->alloc(b, n * H * D * sizeof(float));
    float *lse = b->alloc(b, n * H * sizeof(float));
    void *kv = b->alloc(b, b->kv_bytes(b, p.n_slots, K, D));
    if (!qkv || !d || !o || !d_o || !lse || !kv) exit(1);
    fill(qkv, n * LD, 1);
    fill(d_o, n * H * D, 2);
    double best[3] = { 1e9, 1e9, 1e9 };
    for (int rep = 0; rep < 20; rep++) {
        double t0 = now();
        b->kv_put(b, kv, p.n_slots, qkv + H * D, qkv + (H + K) * D, LD, p.slots, p.N, K, D);
        double t1 = now();
        b->attention(b, o, lse, qkv, LD, kv, p.n_slots, p.spans, p.S, H, K, D);
        double t2 = now();
        b->attention_bwd(b, d, LD, d + H * D, d + (H + K) * D, LD, d_o, o, lse, qkv, LD, kv, p.n_slots, p.spans, p.S, p.N, H,
                         K, D);
        double t[3] = { t1 - t0, t2 - t1, now() - t2 };
        for (int i = 0; i < 3; i++) best[i] = t[i] < best[i] ? t[i] : best[i];
    }
    double product = 2.0 * p.pairs * H * D * 1e-9;
    printf("train  %d groups, %4d rows: put %.3f ms, forward %.3f ms %.1f GFLOP/s, backward %.3f ms %.1f GFLOP/s\n", n_groups,
           p.N, best[0] * 1e3, best[1] * 1e3, 2 * product / best[1], best[2] * 1e3, 5 * product / best[2]);
    b->free(b, qkv), b->free(b, d), b->free(b, o), b->free(b, d_o), b->free(b, lse), b->free(b, kv);
}

static void decode(mr_backend *b, int n_seq) {
    enum { MAX_SEQ = 24 };
    mr_span spans[MAX_SEQ];
    int32_t slots[MAX_SEQ * MR_KV_CHUNK + 2 * MAX_SEQ * PROMPT];
    const int prompt_slots = (PROMPT + MR_KV_CHUNK - 1) / MR_KV_CHUNK * MR_KV_CHUNK, n_prompts = (n_seq + GROUP - 1) / GROUP;
    const int64_t n_slots = n_prompts * prompt_slots + n_seq * MR_KV_CHUNK;
    for (int i = 0; i < n_seq; i++)
        spans[i] = (mr_span){ .row0 = i, .n_rows = 1, .past = LENGTH - 1, .n_prefix = PROMPT,
                              .slot0 = n_prompts * prompt_slots + i * MR_KV_CHUNK,
                              .prefix_slot0 = i / GROUP * prompt_slots };
    size_t n = (size_t)n_slots;
    float *qkv = b->alloc(b, n * LD * sizeof(float)), *o = b->alloc(b, MAX_SEQ * H * D * sizeof(float));
    void *kv = b->alloc(b, b->kv_bytes(b, n_slots, K, D));
    if (!qkv || !o || !kv) exit(1);
    fill(qkv, n * LD, 3);
    for (int i = 0; i < n_slots; i++) slots[i] = i;
    b->kv_put(b, kv, n_slots, qkv + H * D, qkv + (H + K) * D, LD, slots, (int)n_slots, K, D);
    double best = 1e9;
    for (int rep = 0; rep < 50; rep++) {
        double t = now();
        b->attention(b, o, NULL, qkv, LD, kv, n_slots, spans, n_seq, H, K, D);
        t = now() - t;
        best = t < best ? t : best;
    }
    double flop = 4.0 * n_seq * (PROMPT + LENGTH) * H * D * 1e-9;
    printf("decode %d sequences: %.1f us, %.1f GFLOP/s\n", n_seq, best * 1e6, flop / best);
    b->free(b, qkv), b->free(b, o), b->free(b, kv);
}

int main(int argc, char **argv) {
    mr_backend *b;
    mr_err err;
    int n_threads = argc > 1 ? atoi(argv[1]) : 0;
    if (mr_backend_open(&b, MR_CPU, 0, n_threads, &err) != MR_OK) {
        fprintf(stderr, "attention_bench: %s\n", err.msg);
        return 70;
    }
    if (n_threads == 1) bench_clock = CLOCK_THREAD_CPUTIME_ID;
    training(b, 1);
    training(b, MAX_GROUPS);
    decode(b, 6);
    decode(b, 24);
    mr_backend_close(b);
    return 0;
}
