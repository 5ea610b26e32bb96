/* Log-probabilities, their gradient and the choice of tokens: against double loops, transformers' filters (sampling_filters.json)
 * and a plain sort; and that sampling reports the very bits that scoring gives. */
#include "base/json.h"
#include "ops_test.h"

static const int vocabularies[] = { 1, 5, 16, 17, 33, 2047, 2048, 2049, 5000, 49152 };
enum { N_VOCABULARIES = sizeof vocabularies / sizeof vocabularies[0] };

static void spec_case(void) { /* spec/grpo.md, 3.4 */
    EACH_ISA(b, 1, {
        float z[5] = { 2, -1, 0.5f, 0, 3 }, logp, entropy, lse;
        int32_t y = 4;
        b->logprob(b, &logp, &entropy, &lse, z, &y, 1, 1, 5);
        CHECK_NEAR(logp, -0.4174378, 2e-7);
        CHECK_NEAR(entropy, 0.9416016, 2e-7);
        CHECK_NEAR(lse, 3.4174378, 4e-7);
        b->logprob(b, &logp, &entropy, NULL, z, &y, 1 / 0.7f, 1, 5);
        CHECK_NEAR(logp, -0.2506256, 3e-7);
        CHECK_NEAR(entropy, 0.6558220, 3e-7);
    })
}

static void equals_double_loops(void) {
    EACH_ISA(b, 2, {
        for (int i = 0; i < N_VOCABULARIES; i++) {
            enum { N = 3 };
            int V = vocabularies[i];
            float *z = random_floats((size_t)(N * V), 12), inv_t = i % 2 ? 1.0f : 1.0f / 0.7f;
            float logp[N], entropy[N], lse[N], dlogp[N] = { 1, -0.5f, 0 };
            int32_t y[N] = { 0, V - 1, V / 2 };
            b->logprob(b, logp, entropy, lse, z, y, inv_t, N, V);
            double *want = calloc((size_t)(N * V), sizeof *want);
            for (int n = 0; n < N; n++) {
                double sum = 0, mean = 0;
                const float *row = z + n * V;
                for (int v = 0; v < V; v++) sum += exp((double)row[v] * (double)inv_t);
                for (int v = 0; v < V; v++) {
                    double p = exp((double)row[v] * (double)inv_t) / sum;
                    mean += p * (double)row[v] * (double)inv_t;
                    want[n * V + v] = (double)dlogp[n] * ((v == y[n]) - p) * (double)inv_t;
                }
                CHECK_NEAR(lse[n], log(sum), 2e-6);
                CHECK_NEAR(logp[n], (double)row[y[n]] * (double)inv_t - log(sum), 3e-6);
                CHECK_NEAR(entropy[n], log(sum) - mean, 1e-5);
            }
            float last_logp = 0, last_lse = 0; /* the last row alone */
            b->logprob(b, &last_logp, NULL, &last_lse, z + (N - 1) * V, y + N - 1, inv_t, 1, V);
            CHECK(last_logp == logp[N - 1] && last_lse == lse[N - 1]);
            b->logprob_bwd(b, z, lse, y, dlogp, inv_t, N, V);
            for (int n = 0; n < N; n++) CHECK(worst(z + n * V, want + n * V, (size_t)V) < 4e-6);
            free(z), free(want);
        }
    })
}

/* d logp / d z by central differences of the operation itself; f32 logps of size 1 to 5 make steps of 0.01 good to 1e-4. */
static void gradient_equals_differences(void) {
    EACH_ISA(b, 1, {
        enum { V = 40 };
        float z[V], dz[V], lse, one = 1, inv_t = 1 / 1.3f;
        int32_t y = 17;
        for (int v = 0; v < V; v++) z[v] = dz[v] = 3 * random_float();
        float logp;
        b->logprob(b, &logp, NULL, &lse, z, &y, inv_t, 1, V);
        b->logprob_bwd(b, dz, &lse, &y, &one, inv_t, 1, V);
        double sum = 0;
        for (int v = 0; v < V; v++) {
            float side[2], old = z[v];
            for (int s = 0; s < 2; s++) {
                z[v] = old + (s ? 0.01f : -0.01f);
                b->logprob(b, &side[s], NULL, NULL, z, &y, inv_t, 1, V);
            }
            z[v] = old;
            CHECK_NEAR(dz[v], ((double)side[1] - (double)side[0]) / 0.02, 1e-4);
            sum += (double)dz[v];
        }
        CHECK_NEAR(sum, 0, 1e-6);
    })
}

static void extreme_logits(void) {
    EACH_ISA(b, 1, {
        float z[6] = { 1e4f, -1e4f, -INFINITY, 1e4f, -INFINITY, 9e3f }, logp[3], entropy[3], lse[3];
        int32_t y[3] = { 0, 3, 1 };
        for (int i = 0; i < 3; i++) b->logprob(b, &logp[i], &entropy[i], &lse[i], z, &y[i], 1, 1, 6);
        CHECK_NEAR(logp[0], -log(2), 1e-6);
        CHECK_NEAR(logp[1], -log(2), 1e-6);
        CHECK_NEAR(logp[2], -20000 - log(2), 1e-2);
        CHECK_NEAR(entropy[0], log(2), 1e-6); /* 0 log 0 counts as 0 */
        z[2] = NAN;
        b->logprob(b, &logp[0], NULL, NULL, z, &y[0], 1, 1, 6);
        CHECK(isnan(logp[0])); /* a broken row is seen, not smoothed over */
    })
}

/* --- sampling --- */

static mr_sampling plain(int n_vocab) {
    return (mr_sampling){ .temperature = 1, .top_p = 1, .repetition_penalty = 1, .n_vocab = n_vocab };
}

/* transformers' probabilities, read off by u in the middle and just inside both ends of each token's share. */
static void transformers_filters(void) {
    cJSON *tree;
    mr_err err;
    REQUIRE_OK(mr_json_load(&tree, GOLDEN("sampling_filters.json"), 1 << 20, &err), err);
    const cJSON *logits = cJSON_GetObjectItem(tree, "input_logits"), *context = cJSON_GetObjectItem(tree, "context_ids"), *c;
    enum { V = 10, MAX_CONTEXT = 8 };
    float z[V];
    int32_t history[MAX_CONTEXT], n_history = cJSON_GetArraySize(context);
    REQUIRE(cJSON_GetArraySize(logits) == V && n_history <= MAX_CONTEXT);
    for (int i = 0; i < V; i++) z[i] = (float)cJSON_GetArrayItem(logits, i)->valuedouble;
    for (int i = 0; i < n_history; i++) history[i] = cJSON_GetArrayItem(context, i)->valueint;
    const int32_t *histories = history;
    EACH_ISA(b, 1, {
        int n_cases = 0;
        cJSON_ArrayForEach(c, cJSON_GetObjectItem(tree, "cases")) {
            const cJSON *min_p = cJSON_GetObjectItem(c, "min_p"), *probs = cJSON_GetObjectItem(c, "probs");
            mr_sampling opt = { .temperature = (float)cJSON_GetObjectItem(c, "temperature")->valuedouble,
                                .top_p = (float)cJSON_GetObjectItem(c, "top_p")->valuedouble,
                                .top_k = cJSON_GetObjectItem(c, "top_k")->valueint,
                                .min_p = cJSON_IsNumber(min_p) ? (float)min_p->valuedouble : 0,
                                .repetition_penalty = (float)cJSON_GetObjectItem(c, "repetition_penalty")->valuedouble,
                                .n_vocab = V };
            double before = 0;
            for (int v = 0; v < V; v++) {
                double p = cJSON_GetArrayItem(probs, v)->valuedouble;
                for (int part = 0; part < 3 && p > 0; part++) {
                    float u = (float)(before + (part == 0 ? 1e-6 : part == 1 ? p / 2 : p - 1e-6)), logp, want;
                    int32_t id = -1;
                    b->sample(b, &id, &logp, z, &u, &opt, &histories, &n_history, 1, V);
                    CHECK_INT(id, v);
                    b->logprob(b, &want, NULL, NULL, z, &id, 1.0f / opt.temperature, 1, V);
                    CHECK(logp == want); /* filters and penalties do not change it */
                }
                before += p;
            }
            n_cases++;
        }
        CHECK_INT(n_cases, 14);
    })
    cJSON_Delete(tree);
}

/* Filters by the letter: a full stable sort. Returns the share of each id. */
static void filter_by_sorting(double *share, const float *z, const mr_sampling *o) {
    int n = o->n_vocab;
    int *order = malloc((size_t)n * sizeof *order);
    double total = 0, cumulative = 0, most = -INFINITY;
    for (int i = 0; i < n; i++) order[i] = i, most = fmax(most, (double)z[i]);
    for (int i = 1; i < n; i++) { /* ascending, equal ones in id order */
        int id = order[i], j = i;
        for (; j > 0 && z[order[j - 1]] > z[id]; j--) order[j] = order[j - 1];
        order[j] = id;
    }
    for (int i = 0; i < n; i++) {
        bool cut = o->top_k > 0 && o->top_k < n && z[i] < z[order[n - o->top_k]];
        share[i] = cut ? 0 : exp(((double)z[i] - most) / (double)o->temperature);
        total += share[i];
    }
    for (int i = 0; i < n - 1; i++) {
        cumulative += share[order[i]] / total;
        if (o->top_p < 1 && cumulative <= 1 - (double)o->top_p) share[order[i]] = 0;
    }
    total = 0;
    for (int i = 0; i < n; i++) {
        if (share[i] < (double)o->min_p) share[i] = 0;
        total += share[i];
    }
    for (int i = 0; i < n; i++) share[i] /= total;
    free(order);
}

static void filters_equal_a_sort(void) {
    enum { V = 700 };
    double share[V];
    for (int trial = 0; trial < 12; trial++) {
        float *z = random_floats(V, trial % 3 == 0 ? 0.5f : 6);
        for (int i = 0; i < V && trial % 2; i++) z[i] = roundf(2 * z[i]) / 2; /* many equal logits */
        z[V - 1] = 50;                                                       /* beyond n_vocab */
        mr_sampling opt = { .temperature = trial % 4 == 1 ? 0.6f : 1, .top_p = trial % 3 ? 0.83f : 1,
                            .top_k = trial % 4 < 2 ? 20 : 0, .min_p = trial == 5 || trial == 6 ? 0.037f : 0,
                            .repetition_penalty = 1, .n_vocab = V - 1 };
        filter_by_sorting(share, z, &opt);
        EACH_ISA(b, 1, {
            double before = 0;
            for (int v = 0; v < V - 1; v++) {
                if (share[v] > 2e-5) {
                    float u = (float)(before + share[v] / 2), logp;
                    int32_t id = -1;
                    b->sample(b, &id, &logp, z, &u, &opt, NULL, NULL, 1, V);
                    CHECK_INT(id, v);
                }
                before += share[v];
            }
        })
        free(z);
    }
}

/* Without filters, across pieces of the row: every id's share of u, first and last u, ids of no weight. */
static void inverse_of_the_cumulative(void) {
    enum { V = 9000, CHOSEN = 12 };
    static const int ids[CHOSEN] = { 0, 1, 7, 2047, 2048, 2049, 4095, 4096, 6000, 8190, 8191, 8998 };
    float *z = poisoned(V);
    for (int v = 0; v < V; v++) z[v] = -200;
    double total = 0, before = 0;
    for (int i = 0; i < CHOSEN; i++) z[ids[i]] = (float)(i % 4), total += exp(i % 4);
    EACH_ISA(b, 1, {
        mr_sampling opt = plain(V - 1);
        int32_t id = -1;
        float u = 0, logp = 0;
        before = 0;
        for (int i = 0; i < CHOSEN; i++) {
            double p = exp(i % 4) / total;
            for (int part = 0; part < 3; part++) {
                u = (float)(before + (part == 0 ? 1e-6 : part == 1 ? p / 2 : p - 1e-6));
                b->sample(b, &id, &logp, z, &u, &opt, NULL, NULL, 1, V);
                CHECK_INT(id, ids[i]);
                CHECK_NEAR(logp, log(p), 2e-6);
            }
            before += p;
        }
        u = 0;
        b->sample(b, &id, &logp, z, &u, &opt, NULL, NULL, 1, V);
        CHECK_INT(id, ids[0]);
        u = 0x1.fffffep-1f;
        b->sample(b, &id, &logp, z, &u, &opt, NULL, NULL, 1, V);
        CHECK_INT(id, ids[CHOSEN - 1]);
    })
    free(z);
}

static void greedy(void) {
    EACH_ISA(b, 1, {
        enum { V = 3000 };
        float *z = random_floats(V, 1), u = 0.5f, logp = 0, want;
        mr_sampling opt = plain(V - 10);
        int32_t id = -1, history[3] = { 5, 5, 2900 }, n_history = 3;
        const int32_t *histories = history;
        opt.temperature = 0;
        z[V - 1] = 9;                    /* beyond n_vocab */
        z[2900] = z[77] = z[2989] = 3;   /* equal: the lowest id */
        b->sample(b, &id, &logp, z, &u, &opt, NULL, NULL, 1, V);
        CHECK_INT(id, 77);
        b->logprob(b, &want, NULL, NULL, z, &id, 1, 1, V); /* over the whole row, at temperature 1 */
        CHECK(logp == want);
        history[0] = 77;
        opt.repetition_penalty = 2;
        b->sample(b, &id, &logp, z, &u, &opt, &histories, &n_history, 1, V);
        CHECK_INT(id, 2989); /* 77 and 2900 are halved */
        for (int v = 0; v < V; v++) z[v] = NAN;
        opt.repetition_penalty = 1;
        b->sample(b, &id, &logp, z, &u, &opt, NULL, NULL, 1, V);
        CHECK(id >= 0 && id < V - 10 && isnan(logp));
        opt.temperature = 1;
        b->sample(b, &id, &logp, z, &u, &opt, NULL, NULL, 1, V);
        CHECK(id >= 0 && id < V - 10 && isnan(logp));
        opt.top_k = 5;
        b->sample(b, &id, &logp, z, &u, &opt, NULL, NULL, 1, V);
        CHECK(id >= 0 && id < V - 10 && isnan(logp));
        free(z);
    })
}

/* A block of rows on 1 and 3 threads, each row alone, and the logps that scoring gives: all equal. z stays as it was. */
static void rows_and_threads_do_not_show(void) {
    enum { N = 17, V = 4321 };
    float *z = random_floats(N * V, 5), *copy = poisoned(N * V), *u = random_floats(N, 0.5f);
    memcpy(copy, z, sizeof(float) * N * V);
    for (int n = 0; n < N; n++) u[n] += 0.5f;
    for (int filtered = 0; filtered < 2; filtered++)
        for (int isa = 0; isa < N_TEST_ISAS; isa++) {
            mr_sampling opt = plain(V);
            opt.temperature = 0.9f;
            if (filtered) opt.top_p = 0.95f, opt.top_k = 50;
            int32_t ids[2][N] = { { 0 } };
            float logp[2][N] = { { 0 } }, want[N], lse[N];
            for (int threads = 0; threads < 2; threads++) {
                mr_backend *b = open_isa(test_isas[isa], threads ? 3 : 1);
                if (!b) break;
                b->sample(b, ids[threads], logp[threads], z, u, &opt, NULL, NULL, N, V);
                b->logprob(b, want, NULL, lse, z, ids[threads], 1.0f / 0.9f, N, V);
                CHECK(same_bits(want, logp[threads], N));
                for (int n = 0; n < N; n++) {
                    int32_t id = -1;
                    float one = 0;
                    b->sample(b, &id, &one, z + n * V, u + n, &opt, NULL, NULL, 1, V);
                    CHECK(id == ids[threads][n] && one == logp[threads][n]);
                }
                mr_backend_close(b);
            }
            CHECK(memcmp(ids[0], ids[1], sizeof ids[0]) == 0);
            CHECK(same_bits(logp[0], logp[1], N));
        }
    CHECK(same_bits(z, copy, N * V));
    free(z), free(copy), free(u);
}

TEST_MAIN({ "the spec's case", spec_case }, { "equals double loops", equals_double_loops },
          { "gradient equals differences", gradient_equals_differences }, { "extreme logits", extreme_logits },
          { "transformers' filters", transformers_filters }, { "filters equal a sort", filters_equal_a_sort },
          { "inverse of the cumulative distribution", inverse_of_the_cumulative }, { "greedy", greedy },
          { "rows and threads do not show", rows_and_threads_do_not_show })
