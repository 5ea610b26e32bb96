/* compare_bench.c - how fast, beside the limits of the machine: copies, products of Qwen2.5-3B's shapes, attention of one training
 * pack and one decode step, and what lies between them. Weights are rotated through more memory than the second cache holds. Times are those of calls as the
 * decoder makes them, launches included.
 *
 * Each operation's limit is the larger of its bytes (what it has to read and write once, f32 rows included) over the best copy, and of its
 * operations over a product of 8192 x 8192 x 8192, both measured first. Those below half of it are listed again at the end. */
#include "compare.h"

#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void wait(void) {
    mr_err err;
    if (gpu->sync(gpu, &err) != MR_OK) verdict(false, "bench", "%s", err.msg);
}

/* Seconds of one call: as many as fit in about 60 ms, after one to warm up. */
static double time_of(void (*call)(void *ctx, int i), void *ctx) {
    call(ctx, 0);
    wait();
    double t = now();
    call(ctx, 1);
    wait();
    double one = now() - t;
    int n = one > 0.03 ? 2 : (int)(0.06 / (one > 2e-6 ? one : 2e-6));
    t = now();
    for (int i = 0; i < n; i++) call(ctx, i);
    wait();
    return (now() - t) / n;
}

/* --- limits --- */

enum { MAX_SLOW = 128 };
static struct limits {
    double copy, product; /* bytes and operations a second */
    struct { char name[96]; double share, us; bool bytes; } slow[MAX_SLOW];
    int n_slow, n_ops;
} limits;

/* The end of an operation's line. */
static void share_of(const char *name, double t, double bytes, double flops) {
    double by_bytes = bytes / limits.copy, by_flops = limits.product > 0 ? flops / limits.product : 0;
    double limit = by_bytes > by_flops ? by_bytes : by_flops, share = limit / t;
    printf("  %3.0f %% of its limit (%s)\n", 100 * share, by_bytes > by_flops ? "bytes" : "operations");
    fflush(stdout);
    limits.n_ops++;
    if (share >= 0.5 || limits.n_slow == MAX_SLOW) return;
    snprintf(limits.slow[limits.n_slow].name, sizeof limits.slow[0].name, "%s", name);
    limits.slow[limits.n_slow].share = share, limits.slow[limits.n_slow].us = 1e6 * t;
    limits.slow[limits.n_slow++].bytes = by_bytes > by_flops;
}

static void list_slow(void) {
    printf("      %d of %d operations are below half of their limit:\n", limits.n_slow, limits.n_ops);
    for (int i = 0; i < limits.n_slow; i++)
        printf("      slow: %-44s %9.1f us  %3.0f %% (%s)\n", limits.slow[i].name, limits.slow[i].us, 100 * limits.slow[i].share,
               limits.slow[i].bytes ? "bytes" : "operations");
}

/* --- copies --- */

typedef struct copying { char *a, *b; size_t bytes; } copying;
static void copy_call(void *ctx, int i) {
    const copying *c = ctx;
    gpu->copy(gpu, i % 2 ? c->a : c->b, i % 2 ? c->b : c->a, c->bytes);
}
static void add_call(void *ctx, int i) {
    const copying *c = ctx;
    (void)i;
    gpu->add(gpu, (float *)(void *)c->a, (const float *)(const void *)c->b, (int64_t)(c->bytes / sizeof(float)));
}

/* --- products --- */

enum { COPIES = 40 };
typedef struct product {
    mr_linear l[COPIES];
    int n, M;
    float *x, *y, *u, *du, *dx;
    int mode;
} product;
enum { FORWARD, BACKWARD, GRADIENTS, N_MODES }; /* GRADIENTS: BACKWARD and LoRA's gradients */

static void product_call(void *ctx, int i) {
    const product *p = ctx;
    const mr_linear *l = &p->l[i % p->n];
    if (p->mode != FORWARD)
        gpu->linear_bwd(gpu, p->dx, l->n_lora ? p->du : NULL, p->y, p->x, l->n_lora ? p->u : NULL, l, p->M, false);
    else
        gpu->linear(gpu, p->y, l->n_lora ? p->u : NULL, p->x, l, p->M, NULL);
}

static const float *pattern; /* a million values, repeated */
enum { PATTERN = 1 << 20 };
static mr_status pattern_rows(void *self, float *dst, int64_t row, int64_t n, mr_err *err) {
    int64_t n_in = *(const int64_t *)self, count = n * n_in, at = row * n_in % PATTERN;
    (void)err;
    for (int64_t i = 0; i < count; i += PATTERN - at, at = 0)
        memcpy(dst + i, pattern + at, (size_t)(count - i < PATTERN - at ? count - i : PATTERN - at) * sizeof *dst);
    return MR_OK;
}

static mr_weight *pattern_weight(int64_t O, int64_t I, int64_t more, mr_dtype store, unsigned uses) {
    mr_weight *w = NULL;
    mr_err err;
    mr_dtype compute = gpu->has_bf16 ? MR_BF16 : MR_F16;
    if (gpu->weight_create(gpu, &w, (mr_weight_source){ &I, pattern_rows }, O, I, more, store == MR_NF4 ? MR_NF4 : compute, compute,
                           uses, &err) != MR_OK)
        require(false, err.msg);
    return w;
}

typedef struct shape { const char *name; int O, I, parts; bool head; } shape;

/* One set for all copies. */
static void gradients_for(product *p, const shape *s) {
    float *da = put(gpu, NULL, (int64_t)p->l[0].r_total * s->I), *db[3] = { NULL };
    for (int k = 0; k < p->l[0].n_lora; k++) db[k] = put(gpu, NULL, (int64_t)p->l[0].lora[k].rows * p->l[0].lora[k].r);
    for (int i = 0; i < p->n; i++) {
        p->l[i].da = da;
        for (int k = 0; k < p->l[i].n_lora; k++) p->l[i].lora[k].db = db[k];
    }
}

/* What a call has to move and to compute: the weight and its adapters once, rows of x and y in f32 once; backward dy, dx and u as well, with
 * gradients x, and da and db read and written. */
static void product_work(const product *p, const shape *s, double weight_bytes, double *bytes, double *flops) {
    const mr_linear *l = &p->l[0];
    double rows = p->M, pairs = (double)l->r_total * s->I; /* values of a, and of all b */
    for (int k = 0; k < l->n_lora; k++) pairs += (double)l->lora[k].rows * l->lora[k].r;
    *bytes = weight_bytes + 2 * pairs + 4 * rows * (s->O + s->I + l->r_total);
    *flops = 2 * rows * ((double)s->O * s->I + pairs);
    if (p->mode != GRADIENTS) return;
    *bytes += 4 * rows * (s->I + l->r_total) + 8 * pairs;
    *flops += 2 * rows * pairs;
}

/* As many copies as do not fit into the cache; bytes of one. */
static double product_new(product *p, const shape *s, mr_dtype store, int lora) {
    double bytes = (double)s->O * s->I * (store == MR_NF4 ? 0.5163 : 2);
    *p = (product){ .n = (int)(150e6 / bytes) + 1 };
    if (p->n > COPIES) p->n = COPIES;
    if (small_run) p->n = 2;
    for (int i = 0; i < p->n; i++) {
        mr_linear *l = &p->l[i];
        memset(l, 0, sizeof *l);
        l->w = pattern_weight(s->O, s->I, lora ? lora * s->parts + 1 : 0, store, MR_USE_FWD | MR_USE_BWD);
        if (!lora) continue;
        l->n_lora = s->parts, l->r_total = lora * s->parts;
        l->a = pattern_weight(l->r_total, s->I, 0, MR_BF16, MR_USE_FWD | MR_USE_BWD);
        int first = s->parts == 3 ? s->O / 5 * 4 : s->O / s->parts, rest = s->parts == 3 ? s->O / 10 : first; /* q; k, v */
        for (int k = 0, at = 0; k < s->parts; at += k ? rest : first, k++) {
            mr_lora_part *part = &l->lora[k];
            *part = (mr_lora_part){ .row0 = at, .rows = k ? rest : first, .r0 = k * lora, .r = lora, .scale = 1 };
            part->b = pattern_weight(part->rows, lora, 0, MR_BF16, MR_USE_FWD | MR_USE_BWD);
        }
    }
    return bytes;
}

static void product_clear(product *p) {
    for (int i = 0; i < p->n; i++) {
        gpu->weight_free(gpu, p->l[i].w), gpu->weight_free(gpu, p->l[i].a);
        for (int k = 0; k < p->l[i].n_lora; k++) gpu->weight_free(gpu, p->l[i].lora[k].b);
    }
}

static void rows_for(product *p, const shape *s) {
    int64_t most = p->M;
    p->x = put(gpu, NULL, most * s->I), p->y = put(gpu, NULL, most * s->O), p->dx = put(gpu, NULL, most * s->I);
    p->u = put(gpu, NULL, most * 192), p->du = put(gpu, NULL, most * 192);
    gpu->zero(gpu, p->x, (size_t)(most * s->I) * sizeof(float)), gpu->zero(gpu, p->y, (size_t)(most * s->O) * sizeof(float));
    gpu->zero(gpu, p->u, (size_t)(most * 192) * sizeof(float));
}

/* Seconds of a product of 6 rows, from NF4 with LoRA or, the head's, from 16 bits; and bytes of the weight alone. */
static double decode_time(const shape *s, double *bytes) {
    product p;
    *bytes = product_new(&p, s, s->head ? MR_BF16 : MR_NF4, s->head ? 0 : 64);
    p.M = 6;
    rows_for(&p, s);
    double t = time_of(product_call, &p);
    drop(gpu);
    product_clear(&p);
    return t;
}

static void bench_shape(const shape *s, mr_dtype store, int lora) {
    static const int rows[] = { 1, 6, 48, 96, 192, 512, 3584 };
    static const char *const names[] = { "    ", " bwd", " bwd and gradients" };
    const int most_rows = small_run ? 48 : s->head ? 512 : 3584, least_bwd = small_run ? 48 : 512;
    product p;
    double bytes = product_new(&p, s, store, lora);
    for (int mode = 0; mode < (lora ? N_MODES : GRADIENTS); mode++)
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            if (rows[i] > most_rows || (mode && rows[i] < least_bwd)) continue;
            p.M = rows[i], p.mode = mode;
            rows_for(&p, s);
            if (mode == GRADIENTS) gradients_for(&p, s);
            double t = time_of(product_call, &p), flops = 2.0 * p.M * s->O * s->I, all_bytes, all_flops;
            product_work(&p, s, bytes, &all_bytes, &all_flops);
            char name[96];
            snprintf(name, sizeof name, "%s %s%s%s M=%d", s->name, store == MR_NF4 ? "nf4" : "bf16", lora ? "+lora" : "", names[mode], p.M);
            printf("      %-10s %6d x %-6d %s%s%s M=%-5d %9.1f us  %7.1f TFLOP/s  %6.0f GB/s of weights",
                   s->name, s->O, s->I, store == MR_NF4 ? "nf4 " : "bf16", lora ? "+lora" : "     ", names[mode], p.M,
                   1e6 * t, flops / t / 1e12, bytes / t / 1e9);
            share_of(name, t, all_bytes, all_flops);
            drop(gpu);
        }
    product_clear(&p);
}

/* --- attention --- */

enum { H = 16, K = 2, D = 128, LD = (H + 2 * K) * D, GROUP = 6 };
typedef struct attending {
    mr_span spans[1 + GROUP];
    int S, N;
    int64_t n_slots;
    float *qkv, *o, *lse, *d_o, *d;
    void *kv;
} attending;

static void attention_call(void *ctx, int i) {
    const attending *a = ctx;
    (void)i;
    gpu->attention(gpu, a->o, a->lse, a->qkv, LD, a->kv, a->n_slots, a->spans, a->S, H, K, D);
}
static void attention_bwd_call(void *ctx, int i) {
    const attending *a = ctx;
    (void)i;
    gpu->attention_bwd(gpu, a->d, LD, a->d + H * D, a->d + (H + K) * D, LD, a->d_o, a->o, a->lse, a->qkv, LD, a->kv, a->n_slots,
                       a->spans, a->S, a->N, H, K, D);
}

static void bench_attention(int times) {
    const int length = small_run ? 64 : times * 512; /* of the prompt and of each completion */
    attending a = { .S = 1 + GROUP, .N = (1 + GROUP) * length, .n_slots = (1 + GROUP) * length };
    double pairs = 0.5 * length * length + GROUP * 1.5 * length * length;
    for (int s = 0; s < a.S; s++)
        a.spans[s] = (mr_span){ .row0 = s * length, .n_rows = length, .slot0 = s * length, .n_prefix = s ? length : 0 };
    float *host = random_new((int64_t)a.N * LD, 1);
    a.qkv = put(gpu, host, (int64_t)a.N * LD), a.d_o = put(gpu, host, (int64_t)a.N * H * D);
    a.o = put(gpu, NULL, (int64_t)a.N * H * D), a.lse = put(gpu, NULL, (int64_t)a.N * H), a.d = put(gpu, NULL, (int64_t)a.N * LD);
    a.kv = put(gpu, NULL, (int64_t)(gpu->kv_bytes(gpu, a.n_slots, K, D) / sizeof(float)));
    int32_t *slots = malloc((size_t)a.N * sizeof *slots);
    require(slots, "memory");
    for (int i = 0; i < a.N; i++) slots[i] = i;
    gpu->kv_put(gpu, a.kv, a.n_slots, a.qkv + H * D, a.qkv + (H + K) * D, LD, put_ids(gpu, slots, a.N), a.N, K, D);
    free(slots);
    double t = time_of(attention_call, &a), flops = 4 * pairs * H * D, rows = 4.0 * a.N * D;
    printf("      attention  prompt and 6 completions of %4d, forward  %9.1f us  %6.1f TFLOP/s", length, 1e6 * t, flops / t / 1e12);
    share_of("attention forward", t, rows * (2 * H + 2 * K), flops);
    t = time_of(attention_bwd_call, &a);
    printf("      attention  prompt and 6 completions of %4d, backward %9.1f us  %6.1f TFLOP/s (of 2.5 times the forward's)", length,
           1e6 * t, 2.5 * flops / t / 1e12);
    share_of("attention backward", t, rows * (4 * H + 4 * K), 2.5 * flops);
    a.S = GROUP;
    for (int s = 0; s < GROUP; s++)
        a.spans[s] = (mr_span){ .row0 = s, .n_rows = 1, .past = length - 1, .slot0 = (s + 1) * length, .n_prefix = length };
    a.lse = NULL;
    t = time_of(attention_call, &a);
    double bytes = (double)a.n_slots * 2 * K * D * 4;
    printf("      attention  decode, 6 rows at their ends             %9.1f us  %6.0f GB/s of keys and values", 1e6 * t, bytes / t / 1e9);
    share_of("attention decode, 6 rows", t, bytes, 4.0 * GROUP * 2 * length * H * D);
    free(host);
    drop(gpu);
}

/* --- attention of decode steps: groups with a prompt of 512 each; as in a model, layer after layer in work that repeats --- */

enum { MOST_LAYERS = 36, STEP_PROMPT = 512 };
typedef struct stepping {
    int number, keys, sequences, layers, n_chunks; /* number: of this work */
    int64_t n_slots;
    float *q, *o;
    const mr_span *spans; /* device */
    void *kv[MOST_LAYERS];
} stepping;

static void step_layers(void *self) {
    const stepping *p = self;
    for (int l = 0; l < p->layers; l++)
        gpu->attention_step(gpu, p->o, p->q, (H + 2 * p->keys) * D, p->kv[l], p->n_slots, p->spans, p->sequences, p->n_chunks, H, p->keys, D);
}
static void step_call(void *ctx, int i) {
    stepping *p = ctx;
    (void)i;
    gpu->repeat(gpu, &p->number, sizeof p->number, step_layers, p);
}

/* keys: heads of keys. own: of each sequence, with the new one */
static void bench_step(int keys, int sequences, int group, int own) {
    enum { ROWS = 4096 };
    const int groups = sequences / group, ld = (H + 2 * keys) * D, room = (own + MR_KV_CHUNK - 1) / MR_KV_CHUNK * MR_KV_CHUNK;
    static int number;
    stepping p = { .number = ++number, .keys = keys, .sequences = sequences, .n_chunks = (STEP_PROMPT + room) / MR_KV_CHUNK };
    p.n_slots = (int64_t)groups * (STEP_PROMPT + group * room);
    int64_t size = (int64_t)gpu->kv_bytes(gpu, p.n_slots, keys, D);
    p.layers = (int)fmax(2, fmin(MOST_LAYERS, 1e9 / (double)size));
    mr_span *spans = malloc((size_t)sequences * sizeof *spans);
    int32_t *slots = malloc((size_t)p.n_slots * sizeof *slots);
    float *host = random_new((int64_t)ROWS * ld, 2);
    require(spans && slots, "memory");
    for (int s = 0; s < sequences; s++) {
        int32_t prompt = s / group * (STEP_PROMPT + group * room);
        spans[s] = (mr_span){ .row0 = s, .n_rows = 1, .past = own - 1, .slot0 = prompt + STEP_PROMPT + s % group * room, .n_prefix = STEP_PROMPT,
                               .prefix_slot0 = prompt };
    }
    for (int64_t i = 0; i < p.n_slots; i++) slots[i] = (int32_t)i;
    float *rows = put(gpu, host, (int64_t)ROWS * ld);
    int32_t *at = put_ids(gpu, slots, p.n_slots);
    p.q = rows, p.o = put(gpu, NULL, (int64_t)sequences * H * D);
    p.spans = (const mr_span *)put_ids(gpu, (const int32_t *)spans, sequences * (int64_t)(sizeof *spans / sizeof(int32_t)));
    for (int l = 0; l < p.layers; l++) {
        p.kv[l] = gpu->alloc(gpu, (size_t)size);
        require(p.kv[l], "device memory");
        for (int64_t i = 0; i < p.n_slots; i += ROWS) {
            int n = (int)(p.n_slots - i < ROWS ? p.n_slots - i : ROWS);
            gpu->kv_put(gpu, p.kv[l], p.n_slots, rows + H * D, rows + (H + keys) * D, ld, at + i, n, keys, D);
        }
    }
    double t = time_of(step_call, &p) / p.layers, kept = 2.0 * keys * D * 4;
    uint32_t sum = 2166136261u; /* of the last layer's bits */
    float *o = get(gpu, p.o, (int64_t)sequences * H * D);
    for (int64_t i = 0; i < (int64_t)sequences * H * D; i++) {
        uint32_t bits;
        memcpy(&bits, &o[i], sizeof bits);
        sum = (sum ^ bits) * 16777619u;
    }
    printf("      attention  decode, 16 / %d heads, %3d = %2d x %2d rows, %3d own keys %7.1f us  bits %08x", keys, sequences, groups, group, own, 1e6 * t, sum);
    share_of("attention of a decode step", t, kept * groups * (STEP_PROMPT + (double)group * own) + 8.0 * sequences * H * D,
             4.0 * sequences * (STEP_PROMPT + own) * H * D);
    for (int l = 0; l < p.layers; l++) gpu->free(gpu, p.kv[l]);
    free(spans), free(slots), free(host), free(o);
    drop(gpu);
}

static void bench_all_steps(void) {
    bench_step(2, 6, 6, 20);
    if (small_run) return;
    bench_step(2, 48, 6, 20), bench_step(2, 192, 6, 20), bench_step(2, 512, 8, 20);
    bench_step(2, 192, 6, 500), bench_step(2, 16, 1, 500);
    bench_step(8, 6, 6, 20), bench_step(8, 64, 8, 20), bench_step(8, 512, 8, 20);
}

/* --- what lies between the products, at the shapes of a training step of Qwen2.5-3B: 6 x (512 + 512) --- */

enum { C = 2048, F = 11008, V = 151936, HEAD_ROWS = 256 };
typedef struct rowing {
    float *x, *y, *z, *w, *wide, *logits, *logp, *lse, *u, *uniform;
    int32_t *ids, *pos;
    int N, head_rows, picked;
    mr_sampling opt;
} rowing;

static void norm_call(void *ctx, int i) {
    const rowing *r = ctx;
    (void)i;
    gpu->rmsnorm(gpu, r->y, C, r->x, C, r->w, r->N, C, 1e-6f);
}
static void norm_bwd_call(void *ctx, int i) {
    const rowing *r = ctx;
    (void)i;
    gpu->rmsnorm_bwd(gpu, r->y, C, NULL, r->z, C, r->x, C, r->w, r->N, C, 1e-6f);
}
static void norm_dw_call(void *ctx, int i) {
    const rowing *r = ctx;
    (void)i;
    gpu->rmsnorm_bwd(gpu, r->y, C, r->u, r->z, C, r->x, C, r->w, r->N, C, 1e-6f);
}
static void rope_call(void *ctx, int i) {
    const rowing *r = ctx;
    gpu->rope(gpu, r->wide, LD, r->pos, r->u, r->N, H + K, D, i % 2);
}
static void sum_call(void *ctx, int i) {
    const rowing *r = ctx;
    (void)i;
    gpu->add(gpu, r->y, r->x, (int64_t)r->N * C);
}
/* wide: [g | up], y and their gradients, one after the other */
static void silu_call(void *ctx, int i) {
    const rowing *r = ctx;
    (void)i;
    gpu->silu_mul(gpu, r->wide + 2 * (int64_t)r->N * F, r->wide, r->N, F);
}
static void silu_bwd_call(void *ctx, int i) {
    const rowing *r = ctx;
    (void)i;
    gpu->silu_mul_bwd(gpu, r->wide + 3 * (int64_t)r->N * F, r->wide + 2 * (int64_t)r->N * F, r->wide, r->N, F);
}
static void logprob_call(void *ctx, int i) {
    const rowing *r = ctx;
    gpu->logprob(gpu, r->logp, i % 2 ? r->u : NULL, r->lse, r->logits, r->ids, 1, r->head_rows, V);
}
static void logprob_bwd_call(void *ctx, int i) {
    const rowing *r = ctx;
    (void)i;
    gpu->logprob_bwd(gpu, r->logits, r->lse, r->ids, r->logp, 1, r->head_rows, V);
}
static void sample_call(void *ctx, int i) {
    const rowing *r = ctx;
    (void)i;
    gpu->sample(gpu, r->ids, r->logp, r->logits, r->uniform, &r->opt, NULL, NULL, r->picked, V);
}

static void row_line(const char *name, void (*call)(void *ctx, int i), rowing *r, double bytes) {
    double t = time_of(call, r);
    printf("      %-40s %9.1f us  %6.0f GB/s", name, 1e6 * t, bytes / t / 1e9);
    share_of(name, t, bytes, 0);
}

static void bench_rows(void) {
    rowing r = { .N = small_run ? 5 : 3584, .opt = { .temperature = 1, .top_p = 1, .repetition_penalty = 1, .n_vocab = V } };
    r.head_rows = small_run ? 6 : HEAD_ROWS;
    int64_t n = r.N, logits = (int64_t)r.head_rows * V;
    float *host = random_new(logits, 3);
    r.x = put(gpu, host, n * C), r.y = put(gpu, host, n * C), r.z = put(gpu, host, n * C), r.w = put(gpu, host, C);
    r.wide = put(gpu, NULL, n * F * 5), r.u = put(gpu, host, C), r.logp = put(gpu, host, C), r.lse = put(gpu, host, C);
    gpu->zero(gpu, r.wide, (size_t)n * F * 5 * sizeof(float));
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    require(ids, "memory");
    for (int i = 0; i < r.N; i++) ids[i] = i;
    r.ids = put_ids(gpu, ids, r.N), r.pos = put_ids(gpu, ids, r.N);
    double row = 4.0 * (double)n * C, wide = 4.0 * (double)n * F, head = 4.0 * (double)logits;
    row_line("rmsnorm      3584 x 2048", norm_call, &r, 2 * row);
    row_line("rmsnorm_bwd  3584 x 2048", norm_bwd_call, &r, 4 * row);
    row_line("rmsnorm_bwd  3584 x 2048, with dw", norm_dw_call, &r, 6 * row);
    row_line("add          3584 x 2048", sum_call, &r, 3 * row);
    row_line("silu_mul     3584 x 11008", silu_call, &r, 3 * wide);
    row_line("silu_mul_bwd 3584 x 11008", silu_bwd_call, &r, 5 * wide);
    row_line("rope         3584 x 18 heads of 128", rope_call, &r, 2.0 * 4 * (double)n * (H + K) * D);
    r.logits = put(gpu, host, logits);
    for (int i = 0; i < r.head_rows; i++) host[i] = ((float)i + 0.5f) / (float)r.head_rows;
    r.uniform = put(gpu, host, r.head_rows);
    row_line("logprob      256 x 151936, every second with entropy", logprob_call, &r, head);
    for (int few = 1; few >= 0; few--) {
        r.picked = few ? 6 : r.head_rows;
        r.opt.top_p = 1;
        row_line(few ? "sample       6 x 151936" : "sample       256 x 151936", sample_call, &r, r.picked * 4.0 * V);
        r.opt.top_p = 0.95f;
        row_line(few ? "sample       6 x 151936, top_p" : "sample       256 x 151936, top_p", sample_call, &r, r.picked * 4.0 * V);
    }
    row_line("logprob_bwd  256 x 151936", logprob_bwd_call, &r, 2 * head);
    free(host), free(ids);
    drop(gpu);
}

/* --- the update: LoRA of rank 64 on Qwen2.5-3B, 120 million values in 504 tensors --- */

enum { TENSORS = 504, TENSOR = 237568 };
static void adamw_call(void *ctx, int i) {
    mr_adamw opt = { 1e-5f, 0.9f, 0.999f, 1e-8f, 0.01f, i + 1, 1, true };
    gpu->adamw(gpu, ctx, TENSORS, &opt);
}
typedef struct summing {
    const float *x;
    int64_t n;
} summing;
static void squares_call(void *ctx, int i) {
    const summing *s = ctx;
    (void)i;
    gpu->sum_squares(gpu, s->x, s->n, NULL);
}

static void bench_update(void) {
    const int64_t each = small_run ? 1000 : TENSOR, n = each * TENSORS, blocks = (each + 255) / 256;
    float *p = put(gpu, NULL, n), *g = put(gpu, NULL, n), *states[2] = { put(gpu, NULL, n), put(gpu, NULL, n) };
    float *maxima = put(gpu, NULL, 2 * blocks * TENSORS);
    for (int64_t at = 0; at < n; at += PATTERN) {
        size_t bytes = (size_t)(n - at < PATTERN ? n - at : PATTERN) * sizeof(float);
        gpu->upload(gpu, p + at, pattern, bytes), gpu->upload(gpu, g + at, pattern, bytes);
    }
    mr_adamw_tensor all[TENSORS];
    for (int codes = 1; codes >= 0; codes--) {
        gpu->zero(gpu, states[0], (size_t)n * sizeof(float)), gpu->zero(gpu, states[1], (size_t)n * sizeof(float));
        gpu->zero(gpu, maxima, (size_t)(2 * blocks * TENSORS) * sizeof(float));
        for (int i = 0; i < TENSORS; i++) {
            mr_adamw_tensor t = { .p = p + i * each, .g = g + i * each, .n = each };
            if (codes)
                t.c1 = (uint8_t *)states[0] + i * each, t.c2 = (uint8_t *)states[1] + i * each, t.absmax1 = maxima + 2 * i * blocks,
                t.absmax2 = t.absmax1 + blocks;
            else
                t.m = states[0] + i * each, t.v = states[1] + i * each;
            all[i] = t;
        }
        double t = time_of(adamw_call, all), bytes = (double)n * (codes ? 16 : 28);
        printf("      %-40s %9.1f us  %6.0f GB/s", codes ? "adamw_8bit   504 x 237568" : "adamw        504 x 237568", 1e6 * t, bytes / t / 1e9);
        share_of(codes ? "adamw_8bit" : "adamw", t, bytes, 0);
    }
    summing s = { g, n };
    double t = time_of(squares_call, &s), bytes = 4.0 * (double)n;
    printf("      %-40s %9.1f us  %6.0f GB/s", "sum_squares  119734272", 1e6 * t, bytes / t / 1e9);
    share_of("sum_squares", t, bytes, 0);
    drop(gpu);
}

/* One large product by the same call as all others, for the limit of operations. */
static void measure_product(void) {
    int64_t n = small_run ? 64 : 8192;
    product p = { .n = 1, .M = (int)n };
    p.l[0].w = pattern_weight(n, n, 0, MR_BF16, MR_USE_FWD);
    p.x = put(gpu, NULL, n * n), p.y = put(gpu, NULL, n * n);
    for (int64_t at = 0; at < n * n; at += PATTERN)
        gpu->upload(gpu, p.x + at, pattern, (size_t)(n * n - at < PATTERN ? n * n - at : PATTERN) * sizeof(float));
    double t = time_of(product_call, &p);
    limits.product = 2.0 * (double)n * (double)n * (double)n / t;
    printf("      a product of %lld rows: %.1f TFLOP/s\n", (long long)n, limits.product / 1e12);
    drop(gpu);
    gpu->weight_free(gpu, p.l[0].w);
}

static void measure_limits(void) {
    copying c = { .bytes = (size_t)1 << (small_run ? 20 : 30) };
    c.a = gpu->alloc(gpu, c.bytes), c.b = gpu->alloc(gpu, c.bytes);
    require(c.a && c.b, "2 GiB of device memory");
    double copy = 2.0 * (double)c.bytes / time_of(copy_call, &c), sum = 3.0 * (double)c.bytes / time_of(add_call, &c);
    gpu->free(gpu, c.a), gpu->free(gpu, c.b);
    printf("bench\n      copies: %.0f GB/s (read + write); add: %.0f GB/s\n", copy / 1e9, sum / 1e9);
    limits.copy = copy > sum ? copy : sum;
    if (!pattern) pattern = random_new(PATTERN, 0.05f);
    measure_product();
}

void bench_between(void) {
    measure_limits();
    bench_attention(1);
    if (!small_run) bench_attention(2);
    bench_all_steps();
    bench_rows();
    bench_update();
    list_slow();
    wait();
}

void bench_steps(void) {
    measure_limits();
    bench_all_steps();
    wait();
}

/* --- a T4 --- */

/* By its data sheet, and the share of it that copies reach on the present GPU is assumed of it as well. */
static const double T4_BYTES = 320e9, T4_SM_GHZ = 40 * 1.59;

/* A layer's products of one decode step of 6 sequences: how much of the rate of a copy reading NF4 reaches here, and, were the kernel bound by
 * instructions alone, on a T4: its time here times the multiprocessors' cycles a second here over those of a T4. That is the worst case: what waits
 * for memory or for a launch here does not take longer there by as much. GPU_SM_GHZ: multiprocessors x GHz of the present GPU. */
void bench_decode(void) {
    static const shape shapes[] = { { "qkv", 2560, 2048, 3, false }, { "o", 2048, 2048, 1, false }, { "gate_up", 22016, 2048, 2, false },
                                    { "down", 2048, 11008, 1, false } };
    const char *text = getenv("GPU_SM_GHZ"), *sheet = getenv("GPU_BYTES");
    const double here = text ? atof(text) : 132 * 1.98, of_sheet = sheet ? atof(sheet) : 3.35e12;
    double bytes = 0, t = 0;
    measure_limits();
    const double t4_copy = T4_BYTES * limits.copy / of_sheet;
    printf("      a T4's copy: %.0f GB/s (%.0f %% of its sheet, as here); its multiprocessors: %.1f times fewer cycles a second\n", t4_copy / 1e9,
           100 * limits.copy / of_sheet, here / T4_SM_GHZ);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        shape w = shapes[i];
        if (small_run) w.O /= 16, w.I /= 16; /* no figures: does it run */
        double b = 0, s = decode_time(&w, &b), there = s * here / T4_SM_GHZ;
        printf("      %-10s nf4+lora M=6  %7.1f us  %5.0f GB/s, %3.0f %% of a copy here; on a T4 at most %6.1f us, %3.0f %% of a copy or more\n",
               shapes[i].name, 1e6 * s, b / s / 1e9, 100 * b / s / limits.copy, 1e6 * there, 100 * fmin(1, b / t4_copy / there));
        bytes += b, t += s;
    }
    printf("      a layer    nf4+lora M=6  %7.1f us  %5.0f GB/s, %3.0f %% of a copy here; on a T4 at most %6.1f us, %3.0f %% of a copy or more\n",
           1e6 * t, bytes / t / 1e9, 100 * bytes / t / limits.copy, 1e6 * t * here / T4_SM_GHZ,
           100 * fmin(1, bytes / t4_copy / (t * here / T4_SM_GHZ)));
    shape head = { "lm_head", small_run ? 1008 : 151936, small_run ? 128 : 2048, 0, true };
    t = decode_time(&head, &bytes);
    printf("      lm_head    16 bits  M=6  %7.1f us  %5.0f GB/s, %3.0f %% of a copy here; on a T4 at most %6.1f us, %3.0f %% of a copy or more\n", 1e6 * t,
           bytes / t / 1e9, 100 * bytes / t / limits.copy, 1e6 * t * here / T4_SM_GHZ, 100 * fmin(1, bytes / t4_copy / (t * here / T4_SM_GHZ)));
    wait();
}

void bench_all(void) {
    static const shape large[] = {
        { "qkv", 2560, 2048, 3, false }, { "o", 2048, 2048, 1, false }, { "gate_up", 22016, 2048, 2, false },
        { "down", 2048, 11008, 1, false }, { "lm_head", 151936, 2048, 0, true },
    };
    static const shape little[] = {
        { "qkv", 160, 128, 3, false }, { "o", 128, 128, 1, false }, { "gate_up", 704, 128, 2, false },
        { "down", 128, 352, 1, false }, { "lm_head", 1000, 128, 0, true },
    };
    const shape *shapes = small_run ? little : large;
    measure_limits();
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
        if (!shapes[i].head) bench_shape(&shapes[i], MR_NF4, 0);
        if (!shapes[i].head) bench_shape(&shapes[i], MR_NF4, 64);
        bench_shape(&shapes[i], MR_BF16, 0);
    }
    bench_attention(1);
    if (!small_run) bench_attention(2);
    bench_all_steps();
    bench_rows();
    bench_update();
    list_slow();
    wait();
    free((void *)(uintptr_t)pattern);
}
