/* SmolLM2-135M-Instruct from its GGUF against gguf + a reference forward. Skipped when the model was never fetched. */
#include "base/fsafe.h"
#include "tiny.h"

static mr_model *open_default(mr_backend *b, mr_dtype store, mr_dtype compute) {
    mr_model *m = NULL;
    char *path = NULL;
    mr_err err;
    if (mr_model_resolve(&path, "smollm2-135m-instruct", &err) != MR_OK) {
        fprintf(stderr, "%s\n", err.msg);
        skip();
    }
    mr_model_opts o = { .store = store, .compute = compute };
    REQUIRE_OK(mr_model_open(&m, b, path, &o, &err), err);
    mr_free(path);
    return m;
}

static void run(mr_dtype store, mr_dtype compute, double tol, double mean_tol) {
    mr_backend *b = tiny_backend(2);
    mr_model *m = open_default(b, store, compute);
    const mr_config *c = mr_model_config(m);
    CHECK_INT(c->num_hidden_layers, 30);
    CHECK_INT(c->vocab_size, 49152);
    CHECK(c->tie_word_embeddings);
    mr_decoder *d = tiny_decoder(m, 256, 1024, false);
    cJSON *root = tiny_json(GOLDEN("smollm2_135m_q4_1.json"));
    const cJSON *x = NULL;
    cJSON_ArrayForEach(x, at(root, "cases")) {
        static tiny_pack k;
        int32_t ids[256], rows[256];
        float logp[256];
        int n = cJSON_GetArraySize(at(x, "prompt_ids"));
        REQUIRE(n < 240);
        for (int i = 0; i < n; i++) {
            ids[i] = (int32_t)num_at(at(x, "prompt_ids"), i);
            rows[i] = i;
        }
        pack_clear(&k);
        pack_add(&k, ids, n, -1);
        mr_decoder_forward(d, &k.p);
        mr_decoder_logprobs(d, logp, NULL, rows, ids + 1, n - 1, 1.0f);
        double worst = 0, sum = 0;
        for (int i = 0; i < n - 1; i++) {
            double gap = fabs((double)logp[i] - num_at(at(x, "prompt_next_token_logps"), i));
            worst = fmax(worst, gap);
            sum += gap;
        }
        CHECK_NEAR(worst, 0, tol);
        CHECK_NEAR(sum / (n - 1), 0, mean_tol);
        const cJSON *greedy = at(x, "greedy_ids"), *margin = at(x, "greedy_margin");
        for (int t = 0; t < cJSON_GetArraySize(greedy); t++) { /* one token a forward, behind the prompt */
            int32_t row = k.p.n_rows - 1, next;
            float lp, u = 0.5f;
            mr_sampling s = { .top_p = 1.0f, .repetition_penalty = 1.0f, .n_vocab = c->vocab_size };
            mr_decoder_sample(d, &next, &lp, &row, &u, &s, NULL, NULL, 1);
            tiny_sync(b);
            if (num_at(margin, t) > 2 * tol) CHECK_INT(next, num_at(greedy, t));
            k.ids[0] = (int32_t)num_at(greedy, t);
            k.pos[0] = k.slots[0] = n + t;
            k.spans[0] = (mr_span){ .n_rows = 1, .past = n + t };
            k.p.n_rows = k.p.n_spans = 1;
            mr_decoder_forward(d, &k.p);
        }
    }
    tiny_sync(b);
    cJSON_Delete(root);
    mr_decoder_close(d);
    mr_model_close(m);
    mr_backend_close(b);
}

static void f32(void) {
    run(MR_F32, MR_F32, 2e-3, 2e-4);
}
/* Rounding the weights to bf16 alone, with products in f32, moves these log-probabilities by up to 0.086. */
static void bf16(void) {
    run(MR_BF16, MR_BF16, 0.25, 0.08);
}

/* What a rollout records is what training sees, bit for bit, at the real width, with an adapter, 1 and 2 threads. */
static void one_forward(void) {
    static float want[16][64], got[16][64], first[16][64];
    tiny_group g;
    group_draw(&g, 5, 90, 6, 49152, 11);
    for (int threads = 1; threads <= 2; threads++) {
        mr_backend *b = tiny_backend(threads);
        mr_dtype type = b->has_bf16 ? MR_BF16 : MR_F32;
        mr_err err;
        char *path = NULL;
        mr_model *m = NULL;
        mr_model_opts o = { .store = type, .compute = type, .train = true, .lora = tiny_lora(16) };
        if (mr_model_resolve(&path, "smollm2-135m-instruct", &err) != MR_OK) skip();
        REQUIRE_OK(mr_model_open(&m, b, path, &o, &err), err);
        mr_free(path);
        tiny_shake(m, 0.02f);
        mr_decoder *d = tiny_decoder(m, 256, 1024, true);
        train_logps(d, &g, want);
        CHECK(finite_logps(&g, want));
        decode_logps(d, &g, 64, got);
        check_same(&g, want, got, "decode and train");
        if (threads == 1) memcpy(first, want, sizeof first);
        check_same(&g, want, first, "1 and 2 threads");
        tiny_sync(b);
        mr_decoder_close(d);
        mr_model_close(m);
        mr_backend_close(b);
    }
}

TEST_MAIN({ "f32", f32 }, { "bf16", bf16 }, { "one_forward", one_forward })
