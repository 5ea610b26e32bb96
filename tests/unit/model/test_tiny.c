/* The four tiny models against transformers and peft: logits, log-probabilities, entropy, adapters, gradients. */
#include "tiny.h"

typedef struct batch {
    tiny_pack pack;
    int row_of[2][64]; /* fixture position -> row, -1 for padding */
    int n_cols;
} batch;

/* Both rows of a fixture as two sequences, positions as the fixture has them, padding left out. */
static void batch_build(batch *x, const cJSON *f) {
    const cJSON *ids = at(f, "ids"), *mask = at(f, "attention_mask"), *pos = at(f, "position_ids");
    pack_clear(&x->pack);
    for (int s = 0; s < 2; s++) {
        const cJSON *row = cJSON_GetArrayItem(ids, s), *m = cJSON_GetArrayItem(mask, s),
                    *p = cJSON_GetArrayItem(pos, s);
        int32_t list[64];
        int n = 0, first = x->pack.p.n_rows;
        x->n_cols = cJSON_GetArraySize(row);
        for (int t = 0; t < x->n_cols; t++) {
            x->row_of[s][t] = num_at(m, t) != 0 ? first + n : -1;
            if (num_at(m, t) != 0) list[n++] = (int32_t)num_at(row, t);
        }
        pack_add(&x->pack, list, n, -1);
        for (int t = 0; t < x->n_cols; t++)
            if (x->row_of[s][t] >= 0) x->pack.pos[x->row_of[s][t]] = (int32_t)num_at(p, t);
    }
}

/* In f32. On a GPU with bf16 tensor cores, attention's operands are sums of two bf16; an H100 differs by 2.0e-5 (qwen2), 1.6e-5 (llama3,
 * smollm2), 5.6e-5 (qwen3) and 2.8e-5 (with LoRA). */
static double tolerance(void) {
    const char *device = getenv("MEDRL_TEST_DEVICE");
    return device && strcmp(device, "cuda") == 0 ? 1e-4 : 1e-5;
}

static void check_logits(mr_decoder *d, const batch *x, const cJSON *item, int vocab, double tol) {
    float *want = tiny_floats(item, NULL), *got = mr_alloc((size_t)vocab * sizeof(float));
    double worst = 0;
    for (int s = 0; s < 2; s++)
        for (int t = 0; t < x->n_cols; t++) {
            int32_t row = x->row_of[s][t];
            if (row < 0) continue;
            mr_decoder_logits(d, got, &row, 1);
            for (int v = 0; v < vocab; v++) {
                double diff = fabs((double)got[v] - (double)want[(s * x->n_cols + t) * vocab + v]);
                if (!(diff <= worst)) worst = diff;
            }
        }
    CHECK_NEAR(worst, 0.0, tol);
    mr_free(want);
    mr_free(got);
}

/* rows and targets of all real tokens; and where they are in the fixture */
static int list_targets(const batch *x, const cJSON *f, int32_t *rows, int32_t *targets, int *where) {
    int n = 0;
    for (int s = 0; s < 2; s++)
        for (int t = 0; t + 1 < x->n_cols; t++) {
            if (x->row_of[s][t] < 0) continue;
            rows[n] = x->row_of[s][t];
            targets[n] = (int32_t)num_at(cJSON_GetArrayItem(at(f, "ids"), s), t + 1);
            where[n++] = s * 64 + t;
        }
    return n;
}

static void check_logps(mr_decoder *d, const batch *x, const cJSON *f) {
    int32_t rows[128], targets[128];
    int where[128], n = list_targets(x, f, rows, targets, where);
    float logp[128], entropy[128];
    static const char *const keys[] = { "next_token_logps", "next_token_logps_T0.9" };
    for (int k = 0; k < 2; k++) {
        mr_decoder_logprobs(d, logp, entropy, rows, targets, n, k ? 1.0f / 0.9f : 1.0f);
        for (int i = 0; i < n; i++) {
            int s = where[i] / 64, t = where[i] % 64;
            CHECK_NEAR(logp[i], num_at(cJSON_GetArrayItem(at(f, keys[k]), s), t), tolerance());
            if (k == 0) CHECK_NEAR(entropy[i], num_at(cJSON_GetArrayItem(at(f, "entropy"), s), t), tolerance());
        }
    }
}

static void check_gradients(mr_model *m, const cJSON *grads, double abs_tol, double rel_tol) {
    int n = 0;
    mr_param *p = mr_model_params(m, &n);
    CHECK_INT(n, cJSON_GetArraySize(grads));
    for (int i = 0; i < n; i++) {
        char key[160];
        snprintf(key, sizeof key, "%s.default.weight", p[i].name);
        int64_t count = 0;
        float *want = tiny_floats(at(grads, key), &count);
        CHECK_INT(count, p[i].rows * p[i].cols);
        float *got = device_copy(mr_model_backend(m), p[i].grad, count);
        for (int64_t j = 0; j < count; j++) CHECK_NEAR(got[j], want[j], abs_tol + rel_tol * fabs((double)want[j]));
        mr_free(got);
        mr_free(want);
    }
}

static void run_model(const char *name, bool adapter, bool checkpointing) {
    cJSON *root = tiny_json(GOLDEN("tiny_models.json"));
    const cJSON *f = at(root, name);
    char folder[64];
    snprintf(folder, sizeof folder, "%s_lora", name);
    mr_backend *b = tiny_backend(2);
    mr_model *m = tiny_open(b, name, adapter ? folder : NULL, tiny_opts(adapter));
    const mr_config *c = mr_model_config(m);
    const cJSON *freq = at(f, "inv_freq");
    for (int i = 0; i < c->head_dim / 2; i++) CHECK_NEAR(c->inv_freq[i], num_at(freq, i), 1.2e-7 * num_at(freq, i));
    mr_decoder *d = tiny_decoder(m, 64, 256, checkpointing);
    static batch x;
    batch_build(&x, f);
    mr_model_adapter(m, false); /* the base model, also under an adapter that is switched off */
    mr_decoder_forward(d, &x.pack.p);
    check_logits(d, &x, at(f, "logits_f32_b64"), c->vocab_size, tolerance());
    check_logps(d, &x, f);
    mr_model_adapter(m, true);
    if (adapter) {
        const cJSON *l = at(f, "lora");
        mr_decoder_phase(d, MR_PHASE_TRAIN);
        mr_decoder_forward(d, &x.pack.p);
        check_logits(d, &x, at(l, "logits_f32_b64"), c->vocab_size, tolerance());
        int32_t rows[128], targets[128];
        int where[128], n = list_targets(&x, f, rows, targets, where);
        float logp[128], dlogp[128];
        double total = 0, count = 0;
        mr_decoder_logprobs(d, logp, NULL, rows, targets, n, 1.0f);
        for (int i = 0; i < n; i++) {
            double w = num_at(cJSON_GetArrayItem(at(l, "loss_mask"), where[i] / 64), where[i] % 64);
            total -= w * (double)logp[i];
            count += w;
            dlogp[i] = (float)-w;
        }
        CHECK_NEAR(total / count, at(l, "nll")->valuedouble, tolerance());
        for (int i = 0; i < n; i++) dlogp[i] /= (float)count;
        mr_model_zero_grads(m);
        mr_decoder_backward(d, &x.pack.p, rows, targets, dlogp, n, 1.0f);
        check_gradients(m, at(l, "grads_f32_b64"), 1e-6, 1e-3);
        int64_t n_grads = 0;
        const float *grads = mr_model_grads(m, &n_grads);
        float *once = device_copy(b, grads, n_grads);
        mr_decoder_backward(d, &x.pack.p, rows, targets, dlogp, n, 1.0f); /* accumulates, from the same activations */
        float *g = device_copy(b, grads, n_grads);
        double worst = 0;
        for (int64_t i = 0; i < n_grads; i++) worst = fmax(worst, fabs((double)g[i] - 2.0 * (double)once[i]));
        CHECK_NEAR(worst, 0.0, 1e-6);
        mr_free(once);
        mr_free(g);
    }
    tiny_sync(b);
    mr_decoder_close(d);
    mr_model_close(m);
    mr_backend_close(b);
    cJSON_Delete(root);
}

static void qwen2(void) {
    run_model("tiny_qwen2", false, false);
}
static void llama3(void) {
    run_model("tiny_llama3", false, false);
}
static void smollm2(void) {
    run_model("tiny_smollm2", false, false);
}
static void qwen3(void) {
    run_model("tiny_qwen3", false, false);
}
static void qwen2_lora(void) {
    run_model("tiny_qwen2", true, false);
}
static void llama3_lora(void) {
    run_model("tiny_llama3", true, true);
}

/* One GRPO step of the fixture: log-probabilities with and without the adapter, entropies, and the gradients for the
 * dlogp that follow from its advantages and KL term (spec/grpo.md 3.5, loss_type "grpo", beta 0.04: mean over each row,
 * then over rows). */
static void grpo_step(void) {
    cJSON *root = tiny_json(GOLDEN("grpo_step_tiny_qwen2.json"));
    mr_backend *b = tiny_backend(1);
    mr_model *m = tiny_open(b, "tiny_qwen2", "tiny_qwen2_lora", tiny_opts(true));
    mr_decoder *d = tiny_decoder(m, 128, 1024, false);
    float inv_t = (float)(1.0 / at(root, "temperature")->valuedouble);
    const cJSON *variant = NULL, *v = NULL;
    cJSON_ArrayForEach(v, at(root, "variants")) if (strcmp(at(v, "name")->valuestring, "grpo_beta0.04_plain_k3") == 0)
        variant = v;
    REQUIRE(variant != NULL);
    double beta = at(variant, "beta")->valuedouble;
    mr_decoder_phase(d, MR_PHASE_TRAIN);
    for (int p = 0; p < 2; p++) {
        static tiny_group g;
        static tiny_pack k;
        memset(&g, 0, sizeof g);
        const cJSON *prompt = cJSON_GetArrayItem(at(root, "prompts"), p);
        g.n_prompt = cJSON_GetArraySize(prompt);
        g.size = 3;
        for (int i = 0; i < g.n_prompt; i++) g.prompt[i] = (int32_t)num_at(prompt, i);
        for (int c = 0; c < 3; c++) {
            const cJSON *ids = cJSON_GetArrayItem(at(root, "completions"), 3 * p + c);
            g.n[c] = cJSON_GetArraySize(ids);
            for (int i = 0; i < g.n[c]; i++) g.completions[c][i] = (int32_t)num_at(ids, i);
        }
        group_pack(&g, &k);
        float ref[64], logp[64], entropy[64], all_dlogp[MAX_ROWS];
        int32_t rows[MAX_ROWS], targets[MAX_ROWS];
        int n = 0;
        static double refs[3][64];
        mr_model_adapter(m, false);
        mr_decoder_forward(d, &k.p);
        for (int c = 0; c < 3; c++) {
            tiny_targets t;
            group_targets(&g, &k, c, &t);
            mr_decoder_logprobs(d, ref, NULL, t.rows, t.targets, t.n, inv_t);
            for (int i = 0; i < t.n; i++) {
                refs[c][i] = num_at(cJSON_GetArrayItem(at(root, "reference_logps"), 3 * p + c), i);
                CHECK_NEAR(ref[i], refs[c][i], tolerance());
            }
        }
        mr_model_adapter(m, true);
        mr_decoder_forward(d, &k.p);
        for (int first = 1; first >= 0; first--) /* rows ascending: the first tokens' row is the prompt's last */
            for (int c = 0; c < 3; c++) {
                tiny_targets t;
                group_targets(&g, &k, c, &t);
                mr_decoder_logprobs(d, logp, entropy, t.rows, t.targets, t.n, inv_t);
                double advantage = num_at(at(root, "advantages"), 3 * p + c);
                for (int i = 0; i < t.n; i++) {
                    CHECK_NEAR(logp[i], num_at(cJSON_GetArrayItem(at(root, "policy_logps"), 3 * p + c), i), tolerance());
                    CHECK_NEAR(entropy[i], num_at(cJSON_GetArrayItem(at(root, "policy_entropies"), 3 * p + c), i),
                               tolerance());
                    if ((i == 0) != (first == 1)) continue;
                    /* d/dl of -(ratio * A) + beta * (exp(r - l) - (r - l) - 1), ratio = 1 */
                    double kl = 1.0 - exp(refs[c][i] - (double)logp[i]);
                    rows[n] = t.rows[i];
                    targets[n] = t.targets[i];
                    all_dlogp[n++] = (float)((-advantage + beta * kl) / t.n / 6.0);
                }
            }
        mr_decoder_backward(d, &k.p, rows, targets, all_dlogp, n, inv_t);
    }
    tiny_sync(b);
    const cJSON *grads = at(variant, "grads_f32_b64");
    int n = 0;
    mr_param *params = mr_model_params(m, &n);
    for (int i = 0; i < n; i++) {
        char key[160];
        snprintf(key, sizeof key, "base_model.model.%s.weight", params[i].name);
        int64_t count = 0;
        float *want = tiny_floats(at(grads, key), &count);
        CHECK_INT(count, params[i].rows * params[i].cols);
        float *got = device_copy(b, params[i].grad, count);
        for (int64_t j = 0; j < count; j++) CHECK_NEAR(got[j], want[j], 1e-6 + 1e-3 * fabs((double)want[j]));
        mr_free(got);
        mr_free(want);
    }
    mr_decoder_close(d);
    mr_model_close(m);
    mr_backend_close(b);
    cJSON_Delete(root);
}

TEST_MAIN({ "qwen2", qwen2 }, { "llama3", llama3 }, { "smollm2", smollm2 }, { "qwen3", qwen3 },
          { "qwen2_lora", qwen2_lora }, { "llama3_lora", llama3_lora }, { "grpo_step", grpo_step })
