/* test_exact.c - the row rule at the model's level: what sampling records is what training computes, bit for bit, whatever the batch;
 * and a prompt's greedy text is one text, whatever runs beside it.
 *
 * Random weights of a shape with all that a real model has: NF4 or bf16, adapters on all linears, grouped heads, products longer than
 * the CUDA backend's segment of K. MEDRL_TEST_FULL=1 takes real sizes, for a GPU (with MEDRL_TEST_DEVICE=cuda): batches 1 to 512, groups
 * 1 to 16, prompts 1 to 1024. Otherwise few and small ones, so that a CPU and the emulator are done in seconds: enough for whatever
 * changes logits; a last bit of an f32 sum before them mostly vanishes where the next product rounds its input to bf16, and shows only
 * among the many values of the real sizes (and in tests/gpu/compare_linear.c). */
#include "rl/rollout.h"

#include "rig.h"
#include "rl/pack.h"

enum { MOST_SEQS = 512, MOST_GROUP = 16, MOST_NEW = 24, N_GREEDY = 1000, N_GREEDY_SMALL = 60 };

typedef struct shape {
    const char *type;
    int hidden, inter, layers, heads, kv_heads, head_dim, vocab;
    mr_dtype store;
    int rank;
} shape;

typedef struct sweep {
    const int *batches, *lengths;
    int n_batches, n_lengths;
    int most_tokens; /* of the prompts of a batch, about */
    int n_new;
} sweep;

static const int batches_full[] = { 1,  2,  3,  5,   6,   7,   8,   9,   16,  17,  24,  25,  31, 33,
                                    48, 63, 64, 65,  100, 127, 128, 192, 255, 256, 257, 300, 384, 511, 512 };
static const int lengths_full[] = { 1,   1024, 2,   63,  64,  512, 65,  3,   127, 128, 1023, 129, 31,  191, 192, 193, 32,  255,
                                    256, 257,  300, 383, 384, 33,  513, 640, 100, 767, 768,  7,   895, 511, 960, 17,  1000 };
static const sweep full = { batches_full, lengths_full, sizeof batches_full / sizeof *batches_full,
                            sizeof lengths_full / sizeof *lengths_full, 12000, 5 };

static const int batches_small[] = { 1, 2, 3, 6, 9, 17, 33 }, lengths_small[] = { 1, 65, 64, 3, 17, 130 };
static const sweep small = { batches_small, lengths_small, sizeof batches_small / sizeof *batches_small,
                             sizeof lengths_small / sizeof *lengths_small, 150, 3 };
static const int batches_long[] = { 1, 6, 9 }, lengths_long[] = { 5, 1, 17 };
static const sweep of_long = { batches_long, lengths_long, sizeof batches_long / sizeof *batches_long,
                               sizeof lengths_long / sizeof *lengths_long, 24, 2 };

static bool is_full(void) {
    const char *text = getenv("MEDRL_TEST_FULL");
    return text && strcmp(text, "1") == 0;
}

static uint32_t draw(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* An adapter whose B is not zero. */
static void shake(mr_model *m, mr_backend *b) {
    int n = 0;
    mr_param *p = mr_model_params(m, &n);
    uint32_t state = 12345;
    for (int i = 0; i < n; i++) {
        int64_t count = p[i].rows * p[i].cols;
        float *host = device_copy(b, p[i].value, count);
        for (int64_t j = 0; j < count; j++) host[j] += 0.02f * ((float)draw(&state) / 8388608.0f - 1.0f);
        device_put(b, p[i].value, host, count);
        mr_free(host);
    }
    mr_model_refresh(m);
}

static void open_shape(rig *r, const shape *s, bool exact) {
    mr_err err;
    mr_config c = { .hidden_size = s->hidden,
                    .intermediate_size = s->inter,
                    .num_hidden_layers = s->layers,
                    .num_attention_heads = s->heads,
                    .num_key_value_heads = s->kv_heads,
                    .head_dim = s->head_dim,
                    .vocab_size = s->vocab,
                    .max_position_embeddings = 2048,
                    .rms_norm_eps = 1e-6f,
                    .initializer_range = 0.05f,
                    .tie_word_embeddings = true,
                    .qk_norm = strcmp(s->type, "qwen3") == 0,
                    .attention_bias = strcmp(s->type, "qwen2") == 0,
                    .rope_theta = 1e6f };
    snprintf(c.model_type, sizeof c.model_type, "%s", s->type);
    mr_config_rope(&c);
    REQUIRE_OK(mr_backend_open(&r->b, rig_device(), 0, 2, &err), err);
    CHECK(r->b->exact);
    r->b->exact = exact;
    mr_model_opts o = { .store = s->store,
                        .compute = r->b->has_bf16 ? MR_BF16 : MR_F32,
                        .train = true,
                        .from_config = true,
                        .seed = 5,
                        .config = &c,
                        .lora = { .r = s->rank, .lora_alpha = (float)s->rank, .seed = 7 } };
    if (o.compute == MR_F32 && o.store == MR_BF16) o.store = MR_F32;
    for (int i = 0; i < MR_N_PROJ; i++) o.lora.targets[i] = true;
    REQUIRE_OK(mr_model_open(&r->m, r->b, s->type, &o, &err), err);
    shake(r->m, r->b);
}

/* --- sampling against training --- */

typedef struct request {
    mr_rollout_prompt prompts[MOST_SEQS];
    int n, n_seqs, longest, most_group, most_rows; /* most_rows: of a group in training */
    int32_t *ids;
} request;

/* n_seqs completions in groups of `group`, the last one smaller; prompts take the sweep's lengths in turn, from *at on, short ones where
 * there are enough tokens. */
static void request_make(request *q, const sweep *w, const shape *s, int n_seqs, int group, int *at, uint32_t seed) {
    int n_ids = 0, tokens = 0;
    *q = (request){ .n_seqs = n_seqs };
    q->ids = mr_alloc((size_t)(w->most_tokens + MOST_SEQS * 64 + 2048) * sizeof *q->ids);
    for (int left = n_seqs; left > 0; left -= group) {
        mr_rollout_prompt *p = &q->prompts[q->n];
        *p = (mr_rollout_prompt){ .ids = q->ids + n_ids,
                                  .n_ids = w->lengths[(*at)++ % w->n_lengths],
                                  .rng_prompt = (uint32_t)q->n,
                                  .n_samples = left < group ? left : group };
        if (tokens + p->n_ids > w->most_tokens) p->n_ids = 1 + p->n_ids % 64;
        for (int i = 0; i < p->n_ids; i++) q->ids[n_ids++] = (int32_t)(draw(&seed) % (uint32_t)s->vocab);
        tokens += p->n_ids;
        q->n++;
        if (p->n_ids > q->longest) q->longest = p->n_ids;
        if (p->n_samples > q->most_group) q->most_group = p->n_samples;
        int rows = p->n_ids + p->n_samples * (w->n_new - 1);
        if (rows > q->most_rows) q->most_rows = rows;
    }
}

/* Log-probabilities of all completions by the training forward, in packs; in the order of roll's items. */
static void train_forward(mr_decoder *d, const request *q, const mr_rollout *roll, float *out, float inv_t) {
    const mr_decoder_opts *o = mr_decoder_options(d);
    mr_packer k;
    mr_err err;
    REQUIRE_OK(mr_packer_init(&k, o->train_rows, o->train_slots, MOST_SEQS, &err), err);
    float *logp = mr_alloc((size_t)k.max_targets * sizeof *logp);
    mr_decoder_phase(d, MR_PHASE_TRAIN);
    for (int next = 0, item = 0, token = 0; next < q->n;) {
        mr_packer_reset(&k);
        for (; next < q->n; next++) {
            const mr_rollout_prompt *p = &q->prompts[next];
            const int32_t *ids[MOST_GROUP];
            int n_ids[MOST_GROUP], total = 0;
            for (int i = 0; i < p->n_samples; i++) {
                ids[i] = roll->items[item + i].ids;
                total += n_ids[i] = roll->items[item + i].n;
            }
            const mr_train_group g = { .prompt = p->ids,
                                       .n_prompt = p->n_ids,
                                       .ids = ids,
                                       .n_ids = n_ids,
                                       .n_completions = p->n_samples,
                                       .first_token = token };
            if (!mr_packer_add(&k, &g)) break;
            item += p->n_samples;
            token += total;
        }
        REQUIRE(k.n_targets > 0);
        mr_decoder_forward(d, &k.pack);
        mr_decoder_logprobs(d, logp, NULL, k.rows, k.targets, k.n_targets, inv_t);
        for (int i = 0; i < k.n_targets; i++) out[k.token[i]] = logp[i];
    }
    mr_free(logp);
    mr_packer_clear(&k);
}

/* The number of log-probabilities that differ; says where the first one is. */
static int differing(const request *q, const mr_rollout *roll, const float *trained, int n_seqs, int group, bool exact, int *n_compared,
                     double *gap) {
    int differ = 0, token = 0;
    for (int i = 0; i < roll->n; i++) {
        const mr_completion *c = &roll->items[i];
        for (int t = 0; t < c->n; t++, token++) {
            CHECK(isfinite(c->logp[t]) && c->logp[t] < 0);
            *gap = fmax(*gap, fabs((double)c->logp[t] - (double)trained[token]));
            if (memcmp(&c->logp[t], &trained[token], sizeof(float)) != 0 && differ++ == 0 && exact)
                fprintf(stderr, "batch %d, groups of %d: prompt %d of %d tokens, completion %d, token %d: %.9g sampled, %.9g in training\n",
                        n_seqs, group, c->prompt, q->prompts[c->prompt].n_ids, c->sample, t, (double)c->logp[t],
                        (double)trained[token]);
        }
    }
    *n_compared += token;
    return differ;
}

typedef struct leaving {
    int group;
    uint8_t said[MOST_SEQS];
} leaving;

/* All stay for the second token, so that one forward has the whole batch; then an eighth leaves with each token. */
static bool stays(void *self, int prompt, int sample, int32_t id) {
    leaving *x = self;
    return ++x->said[prompt * x->group + sample] < 2 || id % 8 != 0;
}

static void sweep_batches(const shape *s, const sweep *w, bool exact) {
    rig r;
    mr_err err;
    open_shape(&r, s, exact);
    int at = 0, compared = 0;
    double gap = 0;
    static request q;
    for (int i = 0; i < w->n_batches; i++) {
        int n = w->batches[i], group = i * 5 % MOST_GROUP + 1; /* 5 and 16: every size comes */
        if (group > n) group = n;
        while ((n + group - 1) / group > 128) group += 4;
        request_make(&q, w, s, n, group, &at, (uint32_t)(1000 + i));
        int packs[3] = { q.most_rows, q.most_rows + 700, q.most_rows + 8192 }; /* one group a pack; some; all */
        int prefill = i % 2 ? 96 : 1024;                                      /* prompts in pieces, or many a forward */
        mr_decoder_opts o = { .rollout_rows = n > prefill ? n : prefill,
                              .rollout_slots = mr_rollout_slots(q.n, q.longest, q.most_group, w->n_new),
                              .train_rows = is_full() ? packs[i % 3] : packs[i % 2],
                              .gradient_checkpointing = true,
                              .head_rows = is_full() ? 256 : 16 };
        o.train_slots = mr_kv_round(o.train_rows) + (q.n + q.n_seqs) * MR_KV_CHUNK;
        mr_decoder *d;
        REQUIRE_OK(mr_decoder_open(&d, r.m, &o, &err), err);
        float temperature = i % 3 == 2 ? 0.7f : 1.0f;
        leaving x = { .group = group };
        const mr_rollout_opts ro = { .sampling = { .temperature = temperature, .top_p = 1, .repetition_penalty = 1 },
                                     .max_new_tokens = w->n_new,
                                     .token = stays,
                                     .self = &x,
                                     .seed = 3407,
                                     .step = (uint32_t)i };
        mr_rollout roll = { 0 };
        REQUIRE_OK(mr_rollout_run(&roll, d, q.prompts, q.n, &ro, &err), err);
        float *trained = mr_alloc((size_t)roll.n_new_tokens * sizeof *trained);
        train_forward(d, &q, &roll, trained, 1.0f / temperature);
        REQUIRE_OK(r.b->sync(r.b, &err), err);
        int differ = differing(&q, &roll, trained, n, group, exact, &compared, &gap);
        if (exact) CHECK_INT(differ, 0);
        mr_free(trained);
        mr_free(q.ids);
        mr_rollout_clear(&roll);
        mr_decoder_close(d);
    }
    fprintf(stderr, "%s as %s on %s%s: %d log-probabilities compared in %d batches, which differ by %g at most\n", s->type,
            mr_dtype_name(mr_model_options(r.m)->store), r.b->name, exact ? "" : ", not exact", compared, w->n_batches, gap);
    CHECK(gap < 0.1); /* without the row rule: two orders of summation */
    rig_close(&r);
}

static const shape nf4_full = { "qwen2", 512, 4608, 2, 8, 2, 64, 5000, MR_NF4, 64 };
static const shape nf4_small = { "qwen2", 64, 192, 1, 2, 1, 64, 200, MR_NF4, 4 };
static const shape nf4_long = { "qwen2", 64, 4160, 1, 2, 1, 64, 100, MR_NF4, 4 }; /* two segments in down_proj */

static void nf4(void) {
    sweep_batches(is_full() ? &nf4_full : &nf4_small, is_full() ? &full : &small, true);
}

static void long_products(void) {
    if (is_full()) return; /* nf4's own shape has them */
    sweep_batches(&nf4_long, &of_long, true);
}

static void bf16(void) {
    static const shape of_full = { "qwen3", 768, 2304, 2, 6, 2, 128, 3001, MR_BF16, 16 };
    static const shape of_small = { "qwen3", 96, 160, 1, 2, 1, 128, 131, MR_BF16, 6 };
    sweep_batches(is_full() ? &of_full : &of_small, is_full() ? &full : &small, true);
}

/* exact = false: not the same bits, but the same numbers, from NF4 and from 16 bits (the head). */
static void not_exact(void) {
    sweep_batches(is_full() ? &nf4_full : &nf4_small, is_full() ? &full : &of_long, false);
}

/* --- one greedy text --- */

typedef struct company {
    const mr_rollout_prompt *prompts;
    const int32_t *text; /* of the prompt that is watched */
    int n_tokens[2 * MOST_GROUP * MOST_GROUP], first[2 * MOST_GROUP];
} company;

/* Prompts beside the watched one end at other times. */
static bool go_on(void *self, int prompt, int sample, int32_t id) {
    company *c = self;
    (void)id;
    if (c->prompts[prompt].ids == c->text) return true;
    int *n = &c->n_tokens[c->first[prompt] + sample];
    return ++*n < 1 + (prompt * 7 + sample * 3) % MOST_NEW;
}

/* In round k: some prompts are the watched one with some samples, the others are not; and they do not all fit at once. */
static int greedy_prompts(mr_rollout_prompt *p, const int32_t *text, int n_text, const int32_t *others, int most_others, int k, int left,
                          uint32_t *state) {
    int n = 1 + k % (is_full() ? 12 : 4), watched = k % n;
    for (int i = 0; i < n; i++) {
        bool is = i == watched || draw(state) % 3 == 0;
        int group = 1 + (int)(draw(state) % (is_full() ? MOST_GROUP : 4));
        if (is && group > left) group = left;
        if (is && group == 0) is = false, group = 1;
        if (is) left -= group;
        p[i] = (mr_rollout_prompt){ .ids = is ? text : others + i,
                                    .n_ids = is ? n_text : 1 + (int)(draw(state) % (uint32_t)most_others),
                                    .rng_prompt = (uint32_t)i,
                                    .n_samples = group };
    }
    return n;
}

static void one_greedy_text(void) {
    const shape *s = is_full() ? &nf4_full : &nf4_small;
    rig r;
    mr_err err;
    open_shape(&r, s, true);
    int n_text = is_full() ? 200 : 70, most_others = is_full() ? 900 : 90, want_n = is_full() ? N_GREEDY : N_GREEDY_SMALL;
    int n_new = is_full() ? MOST_NEW : 6, got_n = 0, most_batch = 0;
    int32_t text[256], others[1024], first[MOST_NEW];
    float first_logp[MOST_NEW];
    uint32_t state = 99;
    for (int i = 0; i < 256; i++) text[i] = (int32_t)(draw(&state) % (uint32_t)s->vocab);
    for (int i = 0; i < 1024; i++) others[i] = (int32_t)(draw(&state) % (uint32_t)s->vocab);
    for (int k = 0; got_n < want_n; k++) {
        mr_rollout_prompt p[MOST_GROUP];
        int n = greedy_prompts(p, text, n_text, others, most_others, k, want_n - got_n, &state), n_seqs = 0;
        static company c;
        memset(&c, 0, sizeof c);
        c.prompts = p;
        c.text = text;
        for (int i = 0; i < n; i++) {
            c.first[i] = n_seqs;
            n_seqs += p[i].n_samples;
        }
        if (n_seqs > most_batch) most_batch = n_seqs;
        /* room for all, for half of them, or for one at a time: the others are admitted when those leave */
        int at_once = k % 3 == 0 ? n : k % 3 == 1 ? (n + 1) / 2 : 1;
        mr_decoder_opts o = { .rollout_rows = k % 4 == 3 ? 37 : 512,
                              .rollout_slots = mr_rollout_slots(at_once, is_full() ? 900 : 90, is_full() ? MOST_GROUP : 4, n_new) };
        mr_decoder *d;
        REQUIRE_OK(mr_decoder_open(&d, r.m, &o, &err), err);
        mr_rollout_opts ro = { .sampling = { .temperature = 0, .top_p = 1, .repetition_penalty = 1 },
                               .max_new_tokens = n_new,
                               .token = go_on,
                               .self = &c };
        mr_rollout roll = { 0 };
        REQUIRE_OK(mr_rollout_run(&roll, d, p, n, &ro, &err), err);
        for (int i = 0; i < roll.n; i++) {
            const mr_completion *x = &roll.items[i];
            if (p[x->prompt].ids != text) continue;
            REQUIRE(x->n == n_new);
            size_t bytes = (size_t)n_new * sizeof *first;
            if (got_n++ == 0) {
                memcpy(first, x->ids, bytes);
                memcpy(first_logp, x->logp, bytes);
            }
            bool same = !memcmp(first, x->ids, bytes) && !memcmp(first_logp, x->logp, bytes);
            if (!same) fprintf(stderr, "round %d: prompt %d of %d, completion %d: another text or log-probability\n", k, x->prompt, n, x->sample);
            CHECK(same);
        }
        mr_rollout_clear(&roll);
        mr_decoder_close(d);
    }
    fprintf(stderr, "%d greedy samples of one prompt, up to %d sequences at once\n", got_n, most_batch);
    CHECK_INT(got_n, want_n);
    rig_close(&r);
}

TEST_MAIN({ "nf4", nf4 }, { "long_products", long_products }, { "bf16", bf16 }, { "not_exact", not_exact }, { "one_greedy_text", one_greedy_text })
