/* One forward: sampling and training give the same bits, for any packing, group size and thread count. */
#include "tiny.h"

enum { MOST_ROWS = 512, MOST_SLOTS = 4096 };

static void decode_equals_train(const char *name, mr_dtype store, mr_dtype compute) {
    static float want[16][64], got[16][64];
    static const int sizes[] = { 1, 2, 3, 5, 6, 8, 16 };
    float first[16][64];
    for (int threads = 1; threads <= 2; threads++) {
        mr_backend *b = tiny_backend(threads);
        if (compute == MR_BF16 && b->kind == MR_CUDA && !b->has_bf16) { /* Turing */
            mr_backend_close(b);
            return;
        }
        mr_model_opts o = tiny_opts(true);
        o.store = store;
        o.compute = compute;
        o.lora = tiny_lora(5);
        mr_model *m = tiny_open(b, name, NULL, o);
        tiny_shake(m, 0.1f);
        mr_decoder *d = tiny_decoder(m, MOST_ROWS, MOST_SLOTS, false);
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            tiny_group g;
            group_draw(&g, sizes[i], i % 2 ? 70 : 9, 20, 96, (uint32_t)(77 + i));
            train_logps(d, &g, want);
            CHECK(finite_logps(&g, want));
            decode_logps(d, &g, 256, got);
            check_same(&g, want, got, "decode, whole prompt");
            decode_logps(d, &g, 13, got);
            check_same(&g, want, got, "decode, prompt in pieces");
            if (i == 4) {
                if (threads == 1)
                    memcpy(first, want, sizeof first);
                else
                    check_same(&g, want, first, "1 and 2 threads");
            }
        }
        tiny_sync(b);
        mr_decoder_close(d);
        mr_model_close(m);
        mr_backend_close(b);
    }
}

static void decode_f32(void) {
    decode_equals_train("tiny_qwen2", MR_F32, MR_F32);
    decode_equals_train("tiny_qwen3", MR_F32, MR_F32);
    decode_equals_train("tiny_smollm2", MR_F32, MR_F32);
}
static void decode_bf16(void) {
    decode_equals_train("tiny_qwen3", MR_BF16, MR_BF16);
    decode_equals_train("tiny_llama3", MR_BF16, MR_BF16);
}
static void decode_f16(void) {
    decode_equals_train("tiny_qwen2", MR_F16, MR_F16);
    decode_equals_train("tiny_llama3", MR_NF4, MR_F16);
}
static void decode_nf4(void) {
    decode_equals_train("tiny_qwen2", MR_NF4, MR_BF16);
    decode_equals_train("tiny_llama3", MR_NF4, MR_F32);
}

/* The sampler's log-probability is the one that `logprobs` gives for the token that it picked. */
static void sample_logp(void) {
    mr_backend *b = tiny_backend(2);
    mr_model *m = tiny_open(b, "tiny_qwen2", "tiny_qwen2_lora", tiny_opts(false));
    mr_decoder *d = tiny_decoder(m, 64, 256, false);
    static tiny_pack k;
    tiny_group g;
    group_draw(&g, 1, 30, 1, 96, 5);
    group_pack(&g, &k);
    mr_decoder_forward(d, &k.p);
    int32_t ids[30], rows[30];
    float u[30], logp[30], again[30];
    for (int i = 0; i < 30; i++) {
        rows[i] = i;
        u[i] = (float)i / 30.0f;
    }
    mr_sampling s = { .temperature = 0.7f, .top_p = 0.9f, .top_k = 20, .repetition_penalty = 1.0f, .n_vocab = 96 };
    mr_decoder_sample(d, ids, logp, rows, u, &s, NULL, NULL, 30);
    mr_decoder_logprobs(d, again, NULL, rows, ids, 30, 1.0f / 0.7f);
    tiny_sync(b);
    CHECK(memcmp(logp, again, sizeof logp) == 0);
    for (int i = 0; i < 30; i++) CHECK(ids[i] >= 0 && ids[i] < 96);
    mr_decoder_close(d);
    mr_model_close(m);
    mr_backend_close(b);
}

/* Each completion as a sequence of its own, with the prompt repeated before it. */
static void separate(mr_decoder *d, const tiny_group *g, float out[16][64], float dlogp[16][64]) {
    static tiny_pack k;
    for (int c = 0; c < g->size; c++) {
        int32_t ids[320], rows[64];
        memcpy(ids, g->prompt, (size_t)g->n_prompt * sizeof *ids);
        memcpy(ids + g->n_prompt, g->completions[c], (size_t)g->n[c] * sizeof *ids);
        pack_clear(&k);
        /* the prompt as prefix and the completion behind it: keys lie in the same chunks as in the group */
        int prompt = pack_add(&k, ids, g->n_prompt, -1);
        pack_add(&k, ids + g->n_prompt, g->n[c], prompt);
        mr_decoder_forward(d, &k.p);
        for (int i = 0; i < g->n[c]; i++) rows[i] = g->n_prompt - 1 + i;
        mr_decoder_logprobs(d, out[c], NULL, rows, g->completions[c], g->n[c], 1.0f);
        if (dlogp) mr_decoder_backward(d, &k.p, rows, g->completions[c], dlogp[c], g->n[c], 1.0f);
    }
}

static float *take_grads(mr_model *m, int64_t *n) {
    const float *grads = mr_model_grads(m, n);
    float *copy = device_copy(mr_model_backend(m), grads, *n);
    mr_model_zero_grads(m);
    return copy;
}

static void group_backward(mr_decoder *d, const tiny_group *g, float dlogp[16][64]) {
    static tiny_pack k;
    int32_t rows[MAX_ROWS], targets[MAX_ROWS];
    float w[MAX_ROWS];
    int n = 0;
    group_pack(g, &k);
    mr_decoder_forward(d, &k.p);
    for (int c = 0; c < g->size; c++) {
        rows[n] = g->n_prompt - 1;
        targets[n] = g->completions[c][0];
        w[n++] = dlogp[c][0];
    }
    for (int c = 0; c < g->size; c++)
        for (int i = 1; i < g->n[c]; i++) {
            rows[n] = k.spans[1 + c].row0 + i - 1;
            targets[n] = g->completions[c][i];
            w[n++] = dlogp[c][i];
        }
    mr_decoder_backward(d, &k.p, rows, targets, w, n, 1.0f);
}

static double relative_gap(const float *a, const float *b, int64_t n) {
    double top = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        top += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(top / (size + 1e-300));
}

static void packed_equals_separate(const char *name) {
    mr_backend *b = tiny_backend(2);
    mr_model_opts o = tiny_opts(true);
    o.lora = tiny_lora(4);
    mr_model *m = tiny_open(b, name, NULL, o);
    tiny_shake(m, 0.1f);
    mr_decoder *d = tiny_decoder(m, MOST_ROWS, MOST_SLOTS, false);
    mr_decoder_phase(d, MR_PHASE_TRAIN);
    tiny_group g;
    group_draw(&g, 6, 75, 20, 96, 3);
    float dlogp[16][64], want[16][64], got[16][64];
    for (int c = 0; c < 16; c++)
        for (int i = 0; i < 64; i++) dlogp[c][i] = sinf((float)(c * 64 + i)) - 0.2f;
    int64_t n = 0;
    separate(d, &g, want, dlogp);
    float *sum = take_grads(m, &n);
    train_logps(d, &g, got);
    check_same(&g, want, got, "packed and separate");
    group_backward(d, &g, dlogp);
    float *packed = take_grads(m, &n);
    double gap = relative_gap(packed, sum, n);
    CHECK_NEAR(gap, 0.0, 1e-5);
    CHECK(relative_gap(sum, packed, 0) == 0.0 && n > 0 && packed[0] != 0.0f);

    /* the same group again: the same bits; and with checkpointing: the same bits */
    group_backward(d, &g, dlogp);
    float *again = take_grads(m, &n);
    CHECK(memcmp(packed, again, (size_t)n * sizeof(float)) == 0);
    mr_decoder *e = tiny_decoder(m, MOST_ROWS, MOST_SLOTS, true);
    mr_decoder_phase(e, MR_PHASE_TRAIN);
    CHECK(mr_decoder_bytes(e) < mr_decoder_bytes(d));
    group_backward(e, &g, dlogp);
    float *checkpointed = take_grads(m, &n);
    CHECK(memcmp(packed, checkpointed, (size_t)n * sizeof(float)) == 0);
    mr_decoder_close(e);

    /* another number of rows a head product, few enough that `logprobs` leaves its logits there: the same bits */
    mr_decoder_opts wide = { .train_rows = MOST_ROWS, .train_slots = MOST_SLOTS };
    mr_err err;
    REQUIRE_OK(mr_decoder_open(&e, m, &wide, &err), err);
    static tiny_pack k;
    tiny_targets t;
    float before[64], after[64];
    group_pack(&g, &k);
    for (int round = 0; round < 2; round++) { /* 0: one completion, with its logits kept; 1: computed again */
        mr_decoder_forward(e, &k.p);
        group_targets(&g, &k, 0, &t);
        if (round == 0) mr_decoder_logprobs(e, before, NULL, t.rows, t.targets, t.n, 1.0f);
        mr_decoder_backward(e, &k.p, t.rows, t.targets, dlogp[0], t.n, 1.0f);
        mr_decoder_logprobs(e, after, NULL, t.rows, t.targets, t.n, 1.0f);
        CHECK(memcmp(before, after, (size_t)t.n * sizeof(float)) ==
              0); /* and the backward pass leaves no wrong logits behind */
        if (round == 0) mr_free(again), again = take_grads(m, &n);
    }
    float *kept = take_grads(m, &n);
    CHECK(memcmp(kept, again, (size_t)n * sizeof(float)) == 0);
    mr_free(kept);
    group_backward(e, &g, dlogp);
    kept = take_grads(m, &n);
    CHECK(memcmp(kept, packed, (size_t)n * sizeof(float)) == 0);
    mr_free(kept);
    mr_decoder_close(e);

    /* zero weights are no work and no change */
    memset(dlogp, 0, sizeof dlogp);
    group_backward(d, &g, dlogp);
    float *zero = take_grads(m, &n);
    bool all_zero = true;
    for (int64_t i = 0; i < n; i++) all_zero &= zero[i] == 0.0f;
    CHECK(all_zero);

    /* another order of the completions: another place in the pack, the same log-probabilities */
    tiny_group turned = g;
    for (int c = 0; c < g.size; c++) {
        memcpy(turned.completions[c], g.completions[g.size - 1 - c], sizeof g.completions[0]);
        turned.n[c] = g.n[g.size - 1 - c];
    }
    train_logps(d, &turned, got);
    for (int c = 0; c < g.size / 2; c++) {
        float line[64];
        memcpy(line, got[c], sizeof line);
        memcpy(got[c], got[g.size - 1 - c], sizeof line);
        memcpy(got[g.size - 1 - c], line, sizeof line);
    }
    check_same(&g, want, got, "order of completions");
    tiny_sync(b);
    mr_free(sum);
    mr_free(packed);
    mr_free(again);
    mr_free(checkpointed);
    mr_free(zero);
    mr_decoder_close(d);
    mr_model_close(m);
    mr_backend_close(b);
}

static void packed_qwen2(void) {
    packed_equals_separate("tiny_qwen2");
}
static void packed_qwen3(void) {
    packed_equals_separate("tiny_qwen3");
}

/* Logs and gradients of one group by a decoder that saves memory in some way; of the second of two steps, so that what the
 * first left in buffers would show. */
static float *saved(mr_model *m, const tiny_group *g, float dlogp[16][64], mr_decoder_opts o, float logp[16][64],
                    int64_t *n) {
    mr_decoder *d = NULL;
    mr_err err;
    tiny_group other;
    o.train_rows = MOST_ROWS;
    o.train_slots = MOST_SLOTS;
    REQUIRE_OK(mr_decoder_open(&d, m, &o, &err), err);
    mr_decoder_room room;
    mr_decoder_plan(&room, mr_model_backend(m), mr_model_config(m), mr_model_options(m), &o);
    CHECK_INT(mr_decoder_bytes(d), room.block);
    group_draw(&other, 3, 40, 20, 96, 9);
    group_backward(d, &other, dlogp);
    mr_free(take_grads(m, n));
    train_logps(d, g, logp); /* forwards without a backward pass between */
    group_backward(d, g, dlogp);
    mr_decoder_close(d);
    return take_grads(m, n);
}

/* Random weights in the shape of tiny_qwen3, which has two layers. *c must outlive the call. */
static mr_model *six_layers(mr_backend *b, mr_config *c, mr_model_opts o) {
    mr_err err;
    mr_model *m = tiny_open(b, "tiny_qwen3", NULL, tiny_opts(false));
    *c = *mr_model_config(m);
    mr_model_close(m);
    c->num_hidden_layers = 6;
    c->initializer_range = 0.1f;
    o.from_config = true;
    o.config = c;
    if (o.compute == MR_BF16 && b->kind == MR_CUDA && !b->has_bf16) o.compute = MR_F16; /* Turing */
    REQUIRE_OK(mr_model_open(&m, b, "six layers", &o, &err), err);
    return m;
}

/* Parts of the MLP, layers run again, inputs of layers on the host: the same bits; but where a GPU cuts its sums over rows. */
static void saving(mr_dtype store, mr_dtype compute) {
    static const mr_decoder_opts ways[] = {
        { .gradient_checkpointing = false, .mlp_rows = 13 },
        { .gradient_checkpointing = true, .aside_layers = 3 },
        { .gradient_checkpointing = true, .mlp_rows = 13, .aside_layers = 4 },
        { .gradient_checkpointing = true, .mlp_rows = 40, .aside_layers = 100 },
        { .gradient_checkpointing = true, .mlp_rows = 1000 },
        { .gradient_checkpointing = true, .kept_attention = 2 },
        { .gradient_checkpointing = true, .mlp_rows = 13, .kept_attention = 4, .kept_mlp = 1 },
        { .gradient_checkpointing = true, .aside_layers = 3, .kept_attention = 5, .kept_mlp = 4 },
        { .gradient_checkpointing = true, .kept_attention = 6, .kept_mlp = 100 },
    };
    mr_backend *b = tiny_backend(2);
    mr_config c;
    mr_model_opts o = tiny_opts(true);
    o.store = store;
    o.compute = compute;
    o.lora = tiny_lora(4);
    mr_model *m = six_layers(b, &c, o);
    tiny_shake(m, 0.1f);
    tiny_group g;
    group_draw(&g, 4, 70, 12, 96, 3);
    float dlogp[16][64], want[16][64], got[16][64];
    for (int i = 0; i < 16; i++)
        for (int t = 0; t < 64; t++) dlogp[i][t] = sinf((float)(i * 64 + t)) - 0.2f;
    int64_t n;
    float *grads = saved(m, &g, dlogp, (mr_decoder_opts){ .gradient_checkpointing = false }, want, &n);
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        float *other = saved(m, &g, dlogp, ways[i], got, &n);
        check_same(&g, want, got, "saved memory");
        bool cut = ways[i].mlp_rows && ways[i].mlp_rows < MOST_ROWS && b->kind == MR_CUDA;
        if (cut)
            CHECK_NEAR(relative_gap(other, grads, n), 0.0, 1e-5);
        else
            CHECK(memcmp(other, grads, (size_t)n * sizeof(float)) == 0);
        mr_free(other);
    }
    tiny_sync(b);
    mr_free(grads);
    mr_model_close(m);
    mr_backend_close(b);
}

static void saving_f32(void) {
    saving(MR_F32, MR_F32);
}
static void saving_nf4(void) {
    saving(MR_NF4, MR_BF16);
}

/* What open takes is what the plan says, and mr_decoder_open comes back clean from every failed allocation. */
static void plan(void) {
    mr_backend *b = tiny_backend(1);
    mr_err err;
    mr_model_opts o = tiny_opts(true);
    o.lora = tiny_lora(4);
    mr_model *m = tiny_open(b, "tiny_qwen3", NULL, o);
    mr_decoder_opts d = { .rollout_rows = 20, .rollout_slots = 100, .train_rows = 50, .train_slots = 130 };
    mr_decoder *dec = NULL;
    for (int i = 0; i < 4; i++, d.gradient_checkpointing = true, d.kept_attention = i - 1, d.kept_mlp = i / 3) {
        REQUIRE_OK(mr_decoder_open(&dec, m, &d, &err), err);
        mr_decoder_room room;
        mr_decoder_plan(&room, b, mr_model_config(m), &o, &d);
        CHECK_INT(mr_decoder_bytes(dec), room.block);
        mr_decoder_close(dec);
    }
    if (b->kind != MR_CPU) { /* whose memory does not come from mr_try_alloc */
        mr_model_close(m);
        mr_backend_close(b);
        return;
    }
    mr_try_alloc_fail_at(1);
    CHECK_INT(mr_decoder_open(&dec, m, &d, &err), MR_ENOMEM);
    mr_try_alloc_fail_at(0);
    CHECK(dec == NULL);
    CHECK_CONTAINS(err.msg, "do not fit");
    mr_model_close(m);
    mr_config c;
    m = six_layers(b, &c, o);
    d.aside_layers = 6;
    mr_try_alloc_fail_at(2);
    CHECK_INT(mr_decoder_open(&dec, m, &d, &err), MR_ENOMEM);
    mr_try_alloc_fail_at(0);
    CHECK(dec == NULL);
    CHECK_CONTAINS(err.msg, "the host has no");
    mr_model_close(m);
    for (long n = 1; n < 1000; n++) { /* the model too */
        char path[512];
        snprintf(path, sizeof path, "%s/tiny/tiny_qwen3", MR_GOLDEN);
        mr_try_alloc_fail_at(n);
        mr_status st = mr_model_open(&m, b, path, &o, &err);
        mr_try_alloc_fail_at(0);
        if (st == MR_OK) break;
        CHECK_INT(st, MR_ENOMEM);
        CHECK(m == NULL);
    }
    REQUIRE(m != NULL);
    mr_model_close(m);
    mr_backend_close(b);
}

TEST_MAIN({ "decode_f32", decode_f32 }, { "decode_bf16", decode_bf16 }, { "decode_f16", decode_f16 }, { "decode_nf4", decode_nf4 },
          { "sample_logp", sample_logp }, { "packed_qwen2", packed_qwen2 }, { "packed_qwen3", packed_qwen3 },
          { "saving_f32", saving_f32 }, { "saving_nf4", saving_nf4 }, { "plan", plan })
