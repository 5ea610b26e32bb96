/* model_bench.c - where the time of a training step goes, operation by operation.
 *
 *     build/tests/model_bench [MODEL] [THREADS] [GROUPS] [R]
 *
 * MODEL may be a shape, as for `medrl bench --config`: random weights, no file.
 * The work of the recipe's CPU profile: 4 groups of a prompt of 250 and 6 completions of 48 tokens, LoRA r = 16 on all
 * linears, bf16 where the machine has it. One group a pack: forward, log-probabilities, backward. Then decoding 24 and
 * 6 at once. With one thread the times are processor time, so that other programs do not count. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "model/decoder.h"

/* One thread: processor time, so that other programs do not count. */
static clockid_t bench_clock = CLOCK_MONOTONIC;

static double now(void) {
    struct timespec t;
    clock_gettime(bench_clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A table that passes every call on and adds up its time. */
enum {
    EMBED,
    NORM,
    ROPE,
    LINEAR,
    SILU,
    ADD,
    MLP,
    MLP_BWD,
    KV_PUT,
    ATTENTION,
    NORM_BWD,
    LINEAR_BWD,
    SILU_BWD,
    ATTENTION_BWD,
    LOGPROB,
    LOGPROB_BWD,
    COPY,
    N_OPS
};
static const char *const op_names[N_OPS] = {
    "embed",       "rmsnorm",    "rope",         "linear",        "silu_mul", "add", "mlp", "mlp_bwd", "kv_put",    "attention",
    "rmsnorm_bwd", "linear_bwd", "silu_mul_bwd", "attention_bwd", "logprob",  "logprob_bwd", "copy, zero"
};
static double spent[N_OPS];
static mr_backend real;
static bool head; /* the head's product is counted apart */
static double head_spent[2];

#define TIMED(op, call)                                                                                                \
    do {                                                                                                               \
        double start_ = now();                                                                                         \
        call;                                                                                                          \
        spent[op] += now() - start_;                                                                                   \
    } while (0)

static void t_embed(mr_backend *b, float *x, const mr_weight *w, const int32_t *ids, int N) {
    TIMED(EMBED, real.embed(b, x, w, ids, N));
}
static void t_rmsnorm(mr_backend *b, float *y, int ldy, const float *x, int ldx, const float *w, int N, int C,
                      float eps) {
    TIMED(NORM, real.rmsnorm(b, y, ldy, x, ldx, w, N, C, eps));
}
static void t_rope(mr_backend *b, float *x, int ldx, const int32_t *pos, const float *f, int N, int H, int D,
                   bool inverse) {
    TIMED(ROPE, real.rope(b, x, ldx, pos, f, N, H, D, inverse));
}
static void t_linear(mr_backend *b, float *y, float *u, const float *x, const mr_linear *l, int N, const float *onto) {
    double start = now();
    TIMED(LINEAR, real.linear(b, y, u, x, l, N, onto));
    head = real.weight_info(l->w).n_out > 16384;
    if (head) head_spent[0] += now() - start;
}
static void t_silu(mr_backend *b, float *y, const float *gu, int N, int F) {
    TIMED(SILU, real.silu_mul(b, y, gu, N, F));
}
static bool t_mlp(mr_backend *b, float *y, const float *x, const mr_gated *m, int N, const float *onto) {
    bool served = false;
    TIMED(MLP, served = real.mlp(b, y, x, m, N, onto));
    return served;
}
static bool t_mlp_bwd(mr_backend *b, float *dx, const float *dy, const float *x, const mr_gated *m, int N, bool again) {
    bool served = false;
    TIMED(MLP_BWD, served = real.mlp_bwd(b, dx, dy, x, m, N, again));
    return served;
}
static void t_add(mr_backend *b, float *y, const float *x, int64_t n) {
    TIMED(ADD, real.add(b, y, x, n));
}
static void t_kv(mr_backend *b, void *kv, int64_t s, const float *k, const float *v, int ld, const int32_t *slots,
                 int N, int K, int D) {
    TIMED(KV_PUT, real.kv_put(b, kv, s, k, v, ld, slots, N, K, D));
}
static void t_att(mr_backend *b, float *o, float *lse, const float *q, int ldq, const void *kv, int64_t s,
                  const mr_span *spans, int S, int H, int K, int D) {
    TIMED(ATTENTION, real.attention(b, o, lse, q, ldq, kv, s, spans, S, H, K, D));
}
static void t_norm_bwd(mr_backend *b, float *dx, int lddx, float *dw, const float *dy, int lddy, const float *x,
                       int ldx, const float *w, int N, int C, float eps) {
    TIMED(NORM_BWD, real.rmsnorm_bwd(b, dx, lddx, dw, dy, lddy, x, ldx, w, N, C, eps));
}
static void t_linear_bwd(mr_backend *b, float *dx, float *du, const float *dy, const float *x, const float *u,
                         const mr_linear *l, int N, bool add) {
    double start = now();
    TIMED(LINEAR_BWD, real.linear_bwd(b, dx, du, dy, x, u, l, N, add));
    if (real.weight_info(l->w).n_out > 16384) head_spent[1] += now() - start;
}
static void t_silu_bwd(mr_backend *b, float *dgu, const float *dy, const float *gu, int N, int F) {
    TIMED(SILU_BWD, real.silu_mul_bwd(b, dgu, dy, gu, N, F));
}
static void t_att_bwd(mr_backend *b, float *dq, int lddq, float *dk, float *dv, int lddkv, const float *d_o,
                      const float *o, const float *lse, const float *q, int ldq, const void *kv, int64_t s,
                      const mr_span *spans, int S, int N, int H, int K, int D) {
    TIMED(ATTENTION_BWD,
          real.attention_bwd(b, dq, lddq, dk, dv, lddkv, d_o, o, lse, q, ldq, kv, s, spans, S, N, H, K, D));
}
static void t_logprob(mr_backend *b, float *logp, float *e, float *lse, const float *z, const int32_t *y, float inv_t,
                      int N, int V) {
    TIMED(LOGPROB, real.logprob(b, logp, e, lse, z, y, inv_t, N, V));
}
static void t_logprob_bwd(mr_backend *b, float *z, const float *lse, const int32_t *y, const float *dl, float inv_t,
                          int N, int V) {
    TIMED(LOGPROB_BWD, real.logprob_bwd(b, z, lse, y, dl, inv_t, N, V));
}
static void t_copy(mr_backend *b, void *dst, const void *src, size_t bytes) {
    TIMED(COPY, real.copy(b, dst, src, bytes));
}
static void t_zero(mr_backend *b, void *dst, size_t bytes) {
    TIMED(COPY, real.zero(b, dst, bytes));
}

static void report(const char *what, double wall) {
    double sum = 0;
    printf("%s: %.3f s\n", what, wall);
    for (int i = 0; i < N_OPS; i++) sum += spent[i];
    for (int i = 0; i < N_OPS; i++)
        if (spent[i] > 0.001 * wall)
            printf("    %-14s %7.1f ms  %4.1f %%\n", op_names[i], 1e3 * spent[i], 100 * spent[i] / wall);
    printf("    %-14s %7.1f ms\n    of linear and linear_bwd, the head: %.1f and %.1f ms\n", "other",
           1e3 * (wall - sum), 1e3 * head_spent[0], 1e3 * head_spent[1]);
    memset(spent, 0, sizeof spent);
    memset(head_spent, 0, sizeof head_spent);
}

static void die(const mr_err *err) {
    fprintf(stderr, "model_bench: %s\n", err->msg);
    exit(1);
}

enum { PROMPT = 250, GROUP = 6, TOKENS = 48, ROWS = PROMPT + GROUP * TOKENS, SLOTS = 256 + GROUP * 64 };

/* [prompt | 6 completions]; rows and targets of the completions' tokens, the prompt's last row first. */
static int build(mr_pack *p, int32_t *ids, int32_t *pos, int32_t *slots, mr_span *spans, int32_t *rows,
                 int32_t *targets, int vocab) {
    int n = 0;
    for (int i = 0; i < ROWS; i++) {
        int c = i < PROMPT ? -1 : (i - PROMPT) / TOKENS, t = i < PROMPT ? i : (i - PROMPT) % TOKENS;
        ids[i] = (i * 7919 + 13) % vocab;
        pos[i] = c < 0 ? t : PROMPT + t;
        slots[i] = c < 0 ? t : 256 + c * 64 + t;
    }
    spans[0] = (mr_span){ .n_rows = PROMPT };
    for (int c = 0; c < GROUP; c++) {
        spans[1 + c] =
            (mr_span){ .row0 = PROMPT + c * TOKENS, .n_rows = TOKENS, .slot0 = 256 + c * 64, .n_prefix = PROMPT };
        rows[n] = PROMPT - 1;
        targets[n++] = ids[PROMPT + c * TOKENS];
    }
    for (int i = PROMPT; i < ROWS; i++) {
        if ((i - PROMPT) % TOKENS == TOKENS - 1) continue;
        rows[n] = i;
        targets[n++] = ids[i + 1];
    }
    *p = (mr_pack){ ROWS, ids, pos, slots, spans, 1 + GROUP };
    return n;
}

/* Token t of n completions, six behind each prompt. */
static void decode(mr_decoder *d, int n, int t, int32_t *ids, int32_t *pos, int32_t *slots, int32_t *rows, mr_span *live,
                   int vocab) {
    float u[4 * GROUP], lp[4 * GROUP];
    int32_t out[4 * GROUP];
    for (int i = 0; i < n; i++) {
        int slot0 = i / GROUP * SLOTS + 256 + i % GROUP * 64;
        live[i] = (mr_span){
            .row0 = i, .n_rows = 1, .past = t, .slot0 = slot0, .prefix_slot0 = i / GROUP * SLOTS, .n_prefix = PROMPT
        };
        ids[i] = (i * 31 + t) % vocab;
        pos[i] = PROMPT + t;
        slots[i] = slot0 + t;
        rows[i] = i;
        u[i] = 0.5f;
    }
    mr_pack step = { n, ids, pos, slots, live, n };
    mr_sampling s = { .temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f, .n_vocab = vocab };
    mr_decoder_forward(d, &step);
    mr_decoder_sample(d, out, lp, rows, u, &s, NULL, NULL, n);
}

int main(int argc, char **argv) {
    static int32_t ids[ROWS], pos[ROWS], slots[ROWS], rows[ROWS], targets[ROWS];
    static float logp[ROWS], dlogp[ROWS];
    mr_span spans[GROUP + 1], live[4 * GROUP];
    mr_err err;
    mr_backend *open = NULL, b;
    mr_model *m = NULL;
    mr_decoder *d = NULL;
    char *path = NULL;
    int groups = argc > 3 ? atoi(argv[3]) : 4;
    mr_config config;
    bool shape = argc > 1 && mr_config_named(&config, argv[1], &err) == MR_OK;
    if (shape) path = mr_strdup(argv[1]);
    if (!shape && mr_model_resolve(&path, argc > 1 ? argv[1] : "smollm2-135m-instruct", &err) != MR_OK) die(&err);
    if (mr_backend_open(&open, MR_CPU, 0, argc > 2 ? atoi(argv[2]) : 0, &err) != MR_OK) die(&err);
    real = b = *open;
    b.embed = t_embed, b.rmsnorm = t_rmsnorm, b.rope = t_rope, b.linear = t_linear, b.silu_mul = t_silu, b.add = t_add,
    b.kv_put = t_kv;
    b.attention = t_att, b.rmsnorm_bwd = t_norm_bwd, b.linear_bwd = t_linear_bwd, b.silu_mul_bwd = t_silu_bwd,
    b.attention_bwd = t_att_bwd;
    b.mlp = t_mlp, b.mlp_bwd = t_mlp_bwd;
    b.logprob = t_logprob, b.logprob_bwd = t_logprob_bwd, b.copy = t_copy, b.zero = t_zero;
    if (b.n_threads == 1) bench_clock = CLOCK_THREAD_CPUTIME_ID;
    mr_dtype type = b.has_bf16 ? MR_BF16 : MR_F32;
    mr_model_opts o = { .store = type,
                        .compute = type,
                        .train = true,
                        .from_config = shape,
                        .config = shape ? &config : NULL,
                        .lora = { .r = argc > 4 ? atoi(argv[4]) : 16, .lora_alpha = 32, .seed = 1 } };
    for (int p = 0; p < MR_N_PROJ; p++) o.lora.targets[p] = true;
    double start = now();
    if (mr_model_open(&m, &b, path, &o, &err) != MR_OK) die(&err);
    printf("%s, %s\nopen: %.3f s, model %.0f MB", b.device, mr_dtype_name(type), now() - start,
           (double)mr_model_bytes(m) / 1e6);
    int vocab = mr_model_config(m)->vocab_size;
    mr_decoder_opts od = { .rollout_rows = 256, .rollout_slots = 4 * SLOTS, .train_rows = ROWS, .train_slots = SLOTS };
    if (mr_decoder_open(&d, m, &od, &err) != MR_OK) die(&err);
    printf(", decoder %.0f MB\n", (double)mr_decoder_bytes(d) / 1e6);
    mr_pack p;
    int n = build(&p, ids, pos, slots, spans, rows, targets, vocab);
    for (int i = 0; i < n; i++) dlogp[i] = 0.001f * (float)(i % 7 - 3) + 0.0001f;
    mr_decoder_phase(d, MR_PHASE_TRAIN);
    for (int again = 0; again < 2; again++) { /* the second time counts: pages are there */
        double t[3] = { 0 };
        memset(spent, 0, sizeof spent);
        memset(head_spent, 0, sizeof head_spent);
        double parts[3] = { 0 };
        for (int g = 0; g < groups; g++) {
            t[0] = now();
            mr_decoder_forward(d, &p);
            t[1] = now();
            mr_decoder_logprobs(d, logp, NULL, rows, targets, n, 1.0f);
            t[2] = now();
            mr_decoder_backward(d, &p, rows, targets, dlogp, n, 1.0f);
            parts[0] += t[1] - t[0];
            parts[1] += t[2] - t[1];
            parts[2] += now() - t[2];
        }
        if (!again) continue;
        report("training step", parts[0] + parts[1] + parts[2]);
        printf("    forward %.3f, log-probabilities %.3f, backward %.3f s for %d groups of %d rows\n", parts[0],
               parts[1], parts[2], groups, ROWS);
    }
    start = now();
    mr_model_refresh(m);
    printf("refresh of the adapters: %.1f ms\n", 1e3 * (now() - start));

    /* decoding: 4 prompts of 250, then completions of all or one of them */
    mr_decoder_phase(d, MR_PHASE_ROLLOUT);
    memset(spent, 0, sizeof spent);
    memset(head_spent, 0, sizeof head_spent);
    start = now();
    for (int g = 0; g < 4; g++) {
        mr_span s = { .n_rows = PROMPT, .slot0 = g * SLOTS };
        for (int i = 0; i < PROMPT; i++) slots[i] = g * SLOTS + i;
        mr_pack prefill = { PROMPT, ids, pos, slots, &s, 1 };
        mr_decoder_forward(d, &prefill);
    }
    double wall = now() - start;
    report("prefill of 4 x 250", wall);
    printf("    %.0f tokens/s\n", 4 * PROMPT / wall);
    for (int at_once = 4 * GROUP; at_once >= GROUP; at_once -= 3 * GROUP) {
        char what[32];
        snprintf(what, sizeof what, "decoding %d x %d", TOKENS - 1, at_once);
        start = now();
        for (int t = 0; t < TOKENS - 1; t++) decode(d, at_once, t, ids, pos, slots, rows, live, vocab);
        wall = now() - start;
        report(what, wall);
        printf("    %.0f tokens/s; peak RSS %.0f MB\n", (TOKENS - 1) * at_once / wall, (double)mr_rss_peak_bytes() / 1e6);
    }
    if (b.sync(&b, &err) != MR_OK) die(&err);
    mr_decoder_close(d);
    mr_model_close(m);
    mr_backend_close(open);
    mr_free(path);
    return 0;
}
