/* test_smollm2_texts.c - per-token log-probabilities of the default model on 20 texts, against transformers in f32
 * (golden/make_smollm2_logprobs.py), and the ids of these texts from its own vocabulary. Needs the default model: the cache
 * of the quickstart, or MEDRL_TEST_GGUF. Says so and passes when it is not there. */
#include <stdlib.h>

#include "base/fsafe.h"
#include "text/tokenizer.h"
#include "tiny.h"

enum { MOST_TEXTS = 32 };

static char *default_model(void) {
    const char *given = getenv("MEDRL_TEST_GGUF");
    char *path = given ? mr_strdup(given) : mr_path_join(mr_cache_dir(), "models/smollm2-135m-instruct.gguf");
    if (mr_path_exists(path)) return path;
    fprintf(stderr, "not run: %s is not there (./bootstrap run fetches it; MEDRL_TEST_GGUF names another)\n", path);
    mr_free(path);
    return NULL;
}

static void ids_of_texts(void) {
    char *path = default_model();
    if (!path) return;
    mr_err err;
    mr_tokenizer *t = NULL;
    REQUIRE_OK(mr_tokenizer_open(&t, path, &err), err);
    cJSON *root = tiny_json(GOLDEN("smollm2_logprobs.json"));
    const cJSON *x = NULL;
    int n_texts = 0;
    cJSON_ArrayForEach(x, at(root, "cases")) {
        const char *text = at(x, "text")->valuestring;
        mr_ids ids = { 0 };
        REQUIRE_OK(mr_tokenizer_encode(t, &ids, text, strlen(text), true, &err), err);
        CHECK_INT(ids.n, cJSON_GetArraySize(at(x, "ids")));
        const cJSON *id = at(x, "ids")->child;
        for (int i = 0; i < ids.n && id; i++, id = id->next) CHECK_INT(ids.data[i], id->valuedouble);
        mr_free(ids.data);
        n_texts++;
    }
    CHECK_INT(n_texts, 20);
    cJSON_Delete(root);
    mr_tokenizer_close(t);
    mr_free(path);
}

/* All texts as one pack of sequences that do not see each other. */
static void logprobs_of_texts(void) {
    char *path = default_model();
    if (!path) return;
    mr_err err;
    mr_backend *b = tiny_backend(2);
    mr_model *m = NULL;
    mr_model_opts o = { .store = MR_F32, .compute = MR_F32 };
    REQUIRE_OK(mr_model_open(&m, b, path, &o, &err), err);
    mr_decoder *d = tiny_decoder(m, MAX_ROWS, 4096, false);
    cJSON *root = tiny_json(GOLDEN("smollm2_logprobs.json"));
    static tiny_pack k;
    static int32_t rows[MAX_ROWS], targets[MAX_ROWS];
    static float logp[MAX_ROWS];
    static double want[MAX_ROWS];
    int n = 0;
    const cJSON *x = NULL;
    pack_clear(&k);
    cJSON_ArrayForEach(x, at(root, "cases")) {
        static int32_t ids[MAX_ROWS];
        int len = 0, row0 = k.p.n_rows;
        const cJSON *item;
        cJSON_ArrayForEach(item, at(x, "ids")) ids[len++] = (int32_t)item->valuedouble;
        pack_add(&k, ids, len, -1);
        int i = 0;
        cJSON_ArrayForEach(item, at(x, "logprobs")) {
            rows[n] = row0 + i;
            targets[n] = ids[++i];
            want[n++] = item->valuedouble;
        }
        CHECK_INT(i, len - 1);
    }
    CHECK(n > 900);
    mr_decoder_forward(d, &k.p);
    mr_decoder_logprobs(d, logp, NULL, rows, targets, n, 1.0f);
    tiny_sync(b);
    double worst = 0;
    for (int i = 0; i < n; i++) {
        CHECK_NEAR(logp[i], want[i], 1e-3);
        worst = fmax(worst, fabs((double)logp[i] - want[i]));
    }
    fprintf(stderr, "largest difference of %d log-probabilities: %.2g\n", n, worst);
    cJSON_Delete(root);
    mr_decoder_close(d);
    mr_model_close(m);
    mr_backend_close(b);
    mr_free(path);
}

TEST_MAIN({ "ids_of_texts", ids_of_texts }, { "logprobs_of_texts", logprobs_of_texts })
