/* Rollouts on the tiny models: the same completions whatever the rows, slots and company; log-probabilities equal to
 * the training forward's bit for bit; stop tokens, greedy, penalties, callbacks; and what is refused. */
#include "rl/rollout.h"

#include "base/rng.h"
#include "rl/pack.h"
#include "rig.h"

enum { N_PROMPTS = 3, LONG = 70, NEW = 12 };

static int32_t ids_a[] = { 5, 17, 33, 2, 60, 41 }, ids_b[] = { 9 }, ids_c[LONG];

static void prompts_of(mr_rollout_prompt p[N_PROMPTS], int samples) {
    for (int i = 0; i < LONG; i++) ids_c[i] = (i * 37 + 11) % 96; /* longer than a chunk of keys */
    p[0] = (mr_rollout_prompt){ .ids = ids_a, .n_ids = 6, .rng_prompt = 0, .n_samples = samples };
    p[1] = (mr_rollout_prompt){ .ids = ids_b, .n_ids = 1, .rng_prompt = 1, .n_samples = samples };
    p[2] = (mr_rollout_prompt){ .ids = ids_c, .n_ids = LONG, .rng_prompt = 2, .n_samples = samples };
}

static const int32_t stops[] = { 1, 0 };

static mr_rollout_opts plain(void) {
    return (mr_rollout_opts){ .sampling = { .temperature = 1, .top_p = 1, .repetition_penalty = 1, .n_vocab = 96 },
                              .max_new_tokens = NEW,
                              .stop_ids = stops,
                              .n_stop_ids = 2,
                              .seed = 3407,
                              .step = 1 };
}

static mr_decoder *decoder(rig *r, int rows, int64_t slots, int train_rows) {
    mr_decoder *d;
    mr_err err;
    mr_decoder_opts o = { .rollout_rows = rows,
                          .rollout_slots = slots,
                          .train_rows = train_rows,
                          .train_slots = train_rows ? 64 * 64 : 0,
                          .head_rows = 7 };
    REQUIRE_OK(mr_decoder_open(&d, r->m, &o, &err), err);
    return d;
}

static void same(const mr_rollout *x, const mr_rollout *y) {
    CHECK_INT(x->n, y->n);
    for (int i = 0; i < x->n && i < y->n; i++) {
        const mr_completion *a = &x->items[i], *b = &y->items[i];
        CHECK_INT(a->n, b->n);
        CHECK(a->truncated == b->truncated && a->prompt == b->prompt && a->sample == b->sample);
        size_t n = (size_t)(a->n < b->n ? a->n : b->n);
        CHECK(!memcmp(a->ids, b->ids, n * sizeof *a->ids));
        CHECK(!memcmp(a->logp, b->logp, n * sizeof *a->logp));
    }
}

/* Rows from 1 (prompts in pieces of one token, one live sequence a forward) to plenty; slots from one group to all;
 * alone and in company. */
static void batch_changes_nothing(void) {
    rig r;
    mr_err err;
    mr_model_opts mo = rig_lora(1);
    rig_open(&r, "tiny_qwen2", &mo, 1);
    rig_adapter(&r, "tiny_qwen2_lora");
    mr_rollout_prompt p[N_PROMPTS];
    prompts_of(p, 4);
    mr_rollout_opts o = plain();
    int64_t one = mr_rollout_slots(1, LONG, 4, NEW), all = mr_rollout_slots(N_PROMPTS, LONG, 4, NEW);
    mr_rollout want = { 0 };
    mr_decoder *d = decoder(&r, 256, all, 0);
    REQUIRE_OK(mr_rollout_run(&want, d, p, N_PROMPTS, &o, &err), err);
    CHECK_INT(want.n, 12);
    CHECK_INT(want.n_prompt_tokens, 6 + 1 + LONG);
    mr_decoder_close(d);
    int rows[] = { 1, 3, 8, 16, 64 };
    for (int i = 0; i < 5; i++)
        for (int k = 0; k < 2; k++) {
            mr_rollout got = { 0 };
            d = decoder(&r, rows[i], k ? all : one, 0);
            REQUIRE_OK(mr_rollout_run(&got, d, p, N_PROMPTS, &o, &err), err);
            same(&got, &want);
            mr_rollout_clear(&got);
            mr_decoder_close(d);
        }
    /* one prompt alone, and one sample alone by its numbers */
    d = decoder(&r, 16, one, 0);
    mr_rollout got = { 0 };
    REQUIRE_OK(mr_rollout_run(&got, d, p + 2, 1, &o, &err), err);
    for (int s = 0; s < 4; s++)
        CHECK(got.items[s].n == want.items[8 + s].n &&
              !memcmp(got.items[s].ids, want.items[8 + s].ids, (size_t)got.items[s].n * 4));
    mr_rollout_clear(&got);
    mr_rollout_prompt single = p[0];
    single.n_samples = 1;
    single.rng_sample0 = 3;
    REQUIRE_OK(mr_rollout_run(&got, d, &single, 1, &o, &err), err);
    CHECK(got.items[0].n == want.items[3].n &&
          !memcmp(got.items[0].logp, want.items[3].logp, (size_t)got.items[0].n * 4));
    mr_rollout_clear(&got);
    /* another seed is another rollout */
    o.seed++;
    REQUIRE_OK(mr_rollout_run(&got, d, p, 1, &o, &err), err);
    bool differs = false;
    for (int s = 0; s < 4; s++)
        differs = differs || got.items[s].n != want.items[s].n ||
                  memcmp(got.items[s].ids, want.items[s].ids, (size_t)got.items[s].n * 4) != 0;
    CHECK(differs);
    mr_rollout_clear(&got);
    mr_decoder_close(d);
    mr_rollout_clear(&want);
    rig_close(&r);
}

/* The log-probabilities of one rollout by the training forward, group by group. */
static void check_training_forward(rig *r, mr_decoder *d, const mr_rollout *roll, const mr_rollout_prompt *p,
                                   int n_prompts, float inv_t) {
    mr_packer k;
    mr_err err;
    REQUIRE_OK(mr_packer_init(&k, 512, 64 * 64, 512, &err), err);
    mr_decoder_phase(d, MR_PHASE_TRAIN);
    int at = 0;
    for (int i = 0; i < n_prompts; i++) {
        const int32_t *ids[16];
        int n_ids[16], total = 0, first = at;
        for (int s = 0; s < p[i].n_samples; s++, at++) {
            ids[s] = roll->items[at].ids;
            n_ids[s] = roll->items[at].n;
            total += n_ids[s];
        }
        mr_train_group g = {
            .prompt = p[i].ids, .n_prompt = p[i].n_ids, .ids = ids, .n_ids = n_ids, .n_completions = p[i].n_samples
        };
        mr_packer_reset(&k);
        REQUIRE(mr_packer_add(&k, &g));
        CHECK_INT(k.n_targets, total);
        float *logp = mr_alloc((size_t)total * 4), *want = mr_alloc((size_t)total * 4),
              *got = mr_alloc((size_t)total * 4);
        mr_decoder_forward(d, &k.pack);
        mr_decoder_logprobs(d, logp, NULL, k.rows, k.targets, k.n_targets, inv_t);
        for (int t = 0; t < total; t++) got[k.token[t]] = logp[t];
        total = 0;
        for (int s = 0; s < p[i].n_samples; s++)
            for (int t = 0; t < n_ids[s]; t++) want[total++] = roll->items[first + s].logp[t];
        for (int t = 0; t < total; t++)
            if (memcmp(&got[t], &want[t], 4) != 0) {
                test_failures_++;
                fprintf(stderr, "prompt %d, G %d, token %d: %.9g sampled, %.9g in training\n", i, p[i].n_samples, t,
                        (double)want[t], (double)got[t]);
                break;
            }
        mr_free(logp);
        mr_free(want);
        mr_free(got);
    }
    REQUIRE_OK(r->b->sync(r->b, &err), err);
    mr_packer_clear(&k);
}

/* One forward: bit for bit, G 1 .. 16, 1 and 2 threads, f32 and bf16 products, temperature 1 and 0.7. */
static void recorded_equals_training(void) {
    static const int groups[] = { 1, 2, 3, 6, 8, 16 };
    for (int threads = 1; threads <= 2; threads++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            rig r;
            mr_err err;
            mr_model_opts mo = rig_lora(1);
            if (bf16) mo.store = mo.compute = MR_BF16;
            rig_open(&r, "tiny_qwen2", &mo, threads);
            rig_adapter(&r, "tiny_qwen2_lora");
            for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
                mr_rollout_prompt p[N_PROMPTS];
                prompts_of(p, groups[g]);
                mr_rollout_opts o = plain();
                o.sampling.temperature = g % 2 ? 0.7f : 1;
                o.sampling.top_k = g % 2 ? 20 : 0; /* filters choose, they do not change what is recorded */
                mr_decoder *d = decoder(&r, 40, mr_rollout_slots(2, LONG, groups[g], NEW), 512);
                mr_rollout roll = { 0 };
                REQUIRE_OK(mr_rollout_run(&roll, d, p, N_PROMPTS, &o, &err), err);
                check_training_forward(&r, d, &roll, p, N_PROMPTS, g % 2 ? 1 / 0.7f : 1);
                mr_rollout_clear(&roll);
                mr_decoder_close(d);
            }
            rig_close(&r);
        }
}

static void greedy_takes_the_largest(void) {
    rig r;
    mr_err err;
    mr_model_opts mo = rig_lora(1);
    rig_open(&r, "tiny_llama3", &mo, 1);
    mr_rollout_prompt p[N_PROMPTS];
    prompts_of(p, 2);
    mr_rollout_opts o = plain();
    o.sampling.temperature = 0;
    o.n_stop_ids = 0;
    mr_decoder *d = decoder(&r, 64, mr_rollout_slots(3, LONG, 2, NEW), 256);
    mr_rollout roll = { 0 };
    REQUIRE_OK(mr_rollout_run(&roll, d, p, N_PROMPTS, &o, &err), err);
    mr_decoder_phase(d, MR_PHASE_TRAIN);
    for (int i = 0; i < N_PROMPTS; i++) {
        const mr_completion *c = &roll.items[2 * i];
        CHECK_INT(c->n, NEW);
        CHECK(c->truncated);
        CHECK(!memcmp(c->ids, c[1].ids, NEW * 4)); /* both samples of a greedy group are equal */
        int32_t ids[LONG + NEW], pos[LONG + NEW], rows[NEW];
        float logits[NEW * 96];
        int n = p[i].n_ids + NEW - 1;
        memcpy(ids, p[i].ids, (size_t)p[i].n_ids * 4);
        memcpy(ids + p[i].n_ids, c->ids, (NEW - 1) * 4);
        for (int t = 0; t < n; t++) pos[t] = t;
        for (int t = 0; t < NEW; t++) rows[t] = p[i].n_ids - 1 + t;
        mr_span span = { .n_rows = n };
        mr_decoder_forward(
            d, &(mr_pack){ .n_rows = n, .ids = ids, .pos = pos, .slots = pos, .spans = &span, .n_spans = 1 });
        mr_decoder_logits(d, logits, rows, NEW);
        for (int t = 0; t < NEW; t++) {
            int best = 0;
            for (int v = 1; v < 96; v++)
                if (logits[t * 96 + v] > logits[t * 96 + best]) best = v;
            /* one sequence instead of prompt and completion: merged in another order, so near-ties may differ */
            CHECK(best == c->ids[t] || logits[t * 96 + best] - logits[t * 96 + c->ids[t]] < 1e-5f);
        }
    }
    mr_rollout_clear(&roll);
    mr_decoder_close(d);
    rig_close(&r);
}

typedef struct seen {
    int n_finished, n_tokens, n_ticks, stop_after_ticks, end_sample, last_done;
    bool order_ok;
} seen;
static void on_finished(void *self, const mr_completion *c) {
    seen *s = self;
    s->n_finished++;
    s->order_ok = s->order_ok && c->n > 0;
}
static bool on_token(void *self, int prompt, int sample, int32_t id) {
    seen *s = self;
    (void)id;
    s->n_tokens++;
    return !(prompt == 0 && sample == s->end_sample);
}
static bool on_tick(void *self, int done, int total) {
    seen *s = self;
    s->order_ok = s->order_ok && done >= s->last_done && done <= total;
    s->last_done = done;
    return ++s->n_ticks != s->stop_after_ticks;
}

static void stops_and_callbacks(void) {
    rig r;
    mr_err err;
    mr_model_opts mo = rig_lora(1);
    rig_open(&r, "tiny_qwen2", &mo, 1);
    mr_decoder *d = decoder(&r, 32, mr_rollout_slots(3, LONG, 8, NEW), 0);
    mr_rollout_prompt p[N_PROMPTS];
    prompts_of(p, 8);
    mr_rollout_opts o = plain();
    int32_t many[48];
    for (int i = 0; i < 48; i++) many[i] = 2 * i; /* every even id ends: most completions are short */
    o.stop_ids = many;
    o.n_stop_ids = 48;
    seen s = { .end_sample = 5, .order_ok = true };
    o.finished = on_finished;
    o.token = on_token;
    o.tick = on_tick;
    o.self = &s;
    mr_rollout roll = { 0 };
    REQUIRE_OK(mr_rollout_run(&roll, d, p, N_PROMPTS, &o, &err), err);
    int tokens = 0, ended = 0;
    for (int i = 0; i < roll.n; i++) {
        const mr_completion *c = &roll.items[i];
        tokens += c->n;
        bool by_caller = c->prompt == 0 && c->sample == 5;
        for (int t = 0; t < c->n - 1; t++) CHECK(c->ids[t] % 2 == 1);
        bool stop = c->ids[c->n - 1] % 2 == 0;
        if (!by_caller)
            CHECK(stop != c->truncated && (stop || c->n == NEW));
        else
            CHECK(c->n == 1 && !c->truncated);
        ended += stop;
    }
    CHECK(ended > 12 && s.order_ok && !roll.stopped);
    CHECK_INT(s.n_tokens, tokens);
    CHECK_INT(roll.n_new_tokens, tokens);
    CHECK_INT(s.n_finished, 24);
    mr_rollout_clear(&roll);
    s = (seen){ .end_sample = -1, .stop_after_ticks = 3, .order_ok = true };
    REQUIRE_OK(mr_rollout_run(&roll, d, p, N_PROMPTS, &o, &err), err);
    CHECK(roll.stopped && s.n_ticks == 3);
    mr_rollout_clear(&roll);
    mr_decoder_close(d);
    rig_close(&r);
}

/* A penalty without bound forbids what was said: every id of prompt and completion comes once. */
static void repetition_penalty_sees_prompt_and_completion(void) {
    rig r;
    mr_err err;
    mr_model_opts mo = rig_lora(1);
    rig_open(&r, "tiny_qwen2", &mo, 1);
    mr_decoder *d = decoder(&r, 32, mr_rollout_slots(1, LONG, 2, 24), 0);
    mr_rollout_prompt p[N_PROMPTS];
    prompts_of(p, 2);
    mr_rollout_opts o = plain();
    o.n_stop_ids = 0;
    o.max_new_tokens = 24;
    o.sampling.temperature = 0;
    o.sampling.repetition_penalty = 1e6f;
    mr_rollout roll = { 0 };
    REQUIRE_OK(mr_rollout_run(&roll, d, p, 1, &o, &err), err);
    bool used[96] = { false };
    for (int i = 0; i < 6; i++) used[ids_a[i]] = true;
    int again = 0;
    for (int t = 0; t < 24; t++) {
        again += used[roll.items[1].ids[t]];
        used[roll.items[1].ids[t]] = true;
    }
    CHECK_INT(again, 0);
    mr_rollout_clear(&roll);
    mr_decoder_close(d);
    rig_close(&r);
}

static void refuses(void) {
    rig r;
    mr_err err;
    mr_model_opts mo = rig_lora(1);
    rig_open(&r, "tiny_qwen2", &mo, 1);
    mr_decoder *d = decoder(&r, 16, 256, 0);
    mr_rollout_prompt p[N_PROMPTS];
    prompts_of(p, 8);
    mr_rollout_opts o = plain();
    mr_rollout roll = { 0 };
    CHECK(mr_rollout_run(&roll, d, p, 1, &o, &err) == MR_ENOMEM); /* 64 + 8 * 64 slots, there are 256 */
    CHECK_CONTAINS(err.msg, "576");
    mr_rollout_clear(&roll);
    p[0].n_samples = 1;
    ids_a[2] = 96;
    CHECK(mr_rollout_run(&roll, d, p, 1, &o, &err) == MR_EINVAL);
    CHECK_CONTAINS(err.msg, "id 96");
    ids_a[2] = 33;
    p[0].n_ids = 0;
    CHECK(mr_rollout_run(&roll, d, p, 1, &o, &err) == MR_EINVAL);
    p[0].n_ids = 6;
    o.max_new_tokens = 0;
    CHECK(mr_rollout_run(&roll, d, p, 1, &o, &err) == MR_EINVAL);
    o.max_new_tokens = 1;
    REQUIRE_OK(mr_rollout_run(&roll, d, p, 1, &o, &err), err);
    CHECK_INT(roll.items[0].n, 1);
    mr_rollout_clear(&roll);
    mr_decoder_close(d);
    rig_close(&r);
    CHECK_INT(mr_rollout_slots(2, 65, 3, 64), 2 * (128 + 3 * 64));
}

/* A group by hand: prompt of 3, completions of 2, 1 and 3 tokens. */
static void packs_by_hand(void) {
    int32_t prompt[] = { 10, 11, 12 }, a[] = { 20, 21 }, b[] = { 30 }, c[] = { 40, 41, 42 };
    const int32_t *ids[] = { a, b, c };
    int n_ids[] = { 2, 1, 3 };
    mr_train_group g = {
        .prompt = prompt, .n_prompt = 3, .ids = ids, .n_ids = n_ids, .n_completions = 3, .first_token = 100
    };
    CHECK_INT(mr_group_rows_of(&g), 6);
    CHECK_INT(mr_group_slots(&g), 64 * 3); /* the one-token completion has no rows and no slots */
    mr_packer k;
    REQUIRE(mr_packer_init(&k, 13, 64 * 6, 8, NULL) == MR_OK);
    REQUIRE(mr_packer_add(&k, &g) && mr_packer_add(&k, &g));
    CHECK(!mr_packer_add(&k, &g));
    static const int32_t want_ids[] = { 10, 11, 12, 20, 40, 41 }, want_pos[] = { 0, 1, 2, 3, 3, 4 },
                         want_slots[] = { 0, 1, 2, 64, 128, 129 };
    static const int32_t want_rows[] = { 2, 2, 2, 3, 4, 5 }, want_targets[] = { 20, 30, 40, 21, 41, 42 },
                         want_token[] = { 100, 102, 103, 101, 104, 105 };
    CHECK_INT(k.pack.n_rows, 12);
    CHECK_INT(k.n_targets, 12);
    CHECK_INT(k.pack.n_spans, 6);
    for (int i = 0; i < 12; i++) {
        int second = i / 6;
        CHECK(k.ids[i] == want_ids[i % 6] && k.pos[i] == want_pos[i % 6] &&
              k.slots[i] == want_slots[i % 6] + 192 * second);
        CHECK(k.rows[i] == want_rows[i % 6] + 6 * second && k.targets[i] == want_targets[i % 6] &&
              k.token[i] == want_token[i % 6]);
    }
    const mr_span *s = &k.spans[5];
    CHECK(s->row0 == 10 && s->n_rows == 2 && s->past == 0 && s->slot0 == 320 && s->prefix_slot0 == 192 &&
          s->n_prefix == 3 && s->prefix_row0 == 6);
    mr_packer_clear(&k);
}

TEST_MAIN({ "batch changes nothing", batch_changes_nothing }, { "recorded equals training", recorded_equals_training },
          { "greedy takes the largest", greedy_takes_the_largest }, { "stops and callbacks", stops_and_callbacks },
          { "repetition penalty sees prompt and completion", repetition_penalty_sees_prompt_and_completion },
          { "refuses", refuses }, { "packs by hand", packs_by_hand })
