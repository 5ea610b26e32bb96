/* test_quantize.c - f32 to blocks: the reference's bytes where the reference has them, and the errors of the rest. */
#include <stdlib.h>

#include "base/json.h"
#include "base/rng.h"
#include "files/quantize.h"
#include "files/tensors_impl.h"
#include "test.h"

static size_t from_base64(uint8_t *dst, const char *s) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t n = 0;
    uint32_t bits = 0;
    int have = 0;
    for (; *s && *s != '='; s++) {
        bits = bits << 6 | (uint32_t)(strchr(digits, *s) - digits);
        have += 6;
        if (have >= 8) {
            have -= 8;
            dst[n++] = (uint8_t)(bits >> have);
        }
    }
    return n;
}

static void bytes_equal_the_reference(void) {
    mr_err err = { "" };
    cJSON *root = NULL;
    REQUIRE_OK(mr_json_load(&root, GOLDEN("gguf_quants.json"), 1 << 22, &err), err);
    int seen = 0;
    for (const cJSON *c = cJSON_GetObjectItem(root, "cases")->child; c; c = c->next) {
        const char *type = cJSON_GetObjectItem(c, "type")->valuestring;
        const cJSON *input = cJSON_GetObjectItem(c, "input_f32_b64");
        const mr_format *f = mr_format_named(type);
        if (!f || !input) continue; /* K-quants: the reference only reads them; Q4_1: we only read it */
        const char *b64 = cJSON_GetObjectItem(c, "quantized_b64")->valuestring;
        uint8_t *x = malloc(strlen(input->valuestring) + 8), *want = malloc(strlen(b64) + 8), *got = calloc(1, 4096);
        const size_t n = from_base64(x, input->valuestring) / 4, n_bytes = from_base64(want, b64);
        CHECK_INT(f->gguf_id, cJSON_GetObjectItem(c, "type_id")->valueint);
        CHECK_INT(mr_format_bytes(f, n), n_bytes);
        float *values = malloc(n * sizeof *values);
        memcpy(values, x, n * sizeof *values);
        f->encode(got, values, n);
        if (memcmp(got, want, n_bytes)) fprintf(stderr, "%s differs\n", type);
        CHECK(!memcmp(got, want, n_bytes));
        free(values);
        free(x);
        free(want);
        free(got);
        seen++;
    }
    CHECK_INT(seen, 6); /* F16 BF16 Q4_0 Q5_0 Q5_1 Q8_0 */
    cJSON_Delete(root);
}

/* Root of the mean squared error over that of the values, after a round trip. */
static double lost(const char *type, const float *x, size_t n) {
    const mr_format *f = mr_format_named(type);
    REQUIRE(f && n % (size_t)f->block == 0);
    uint8_t *blocks = malloc(mr_format_bytes(f, n));
    float *back = malloc(n * sizeof *back);
    f->encode(blocks, x, n);
    mr_value_type_of_gguf((uint32_t)f->gguf_id)->decode(back, blocks, n);
    double error = 0, all = 0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)back[i] - (double)x[i]) * ((double)back[i] - (double)x[i]);
        all += (double)x[i] * (double)x[i];
    }
    free(blocks);
    free(back);
    return all > 0 ? sqrt(error / all) : sqrt(error);
}

/* Normal weights, as a trained matrix has them. Observed: Q4_0 0.0857, Q4_K 0.0719, Q5_0 0.0427, Q5_K 0.0360,
 * Q6_K 0.0178, Q8_0 0.0053. */
static void k_quants_lose_little(void) {
    enum { N = 64 * 256 };
    float *x = malloc(N * sizeof *x);
    for (int i = 0; i < N; i++) x[i] = 0.02f * mr_normal_at(1, 2, (uint64_t)i);
    const double q4 = lost("Q4_K", x, N), q5 = lost("Q5_K", x, N), q6 = lost("Q6_K", x, N);
    if (getenv("MEDRL_TEST_PRINT"))
        for (int i = 0; i < 6; i++) {
            const char *names[] = { "Q4_0", "Q4_K", "Q5_0", "Q5_K", "Q6_K", "Q8_0" };
            fprintf(stderr, "%s %.4f\n", names[i], lost(names[i], x, N));
        }
    CHECK(q4 < 0.075 && q4 < 0.85 * lost("Q4_0", x, N));
    CHECK(q5 < 0.039 && q5 < 0.85 * lost("Q5_0", x, N));
    CHECK(q6 < 0.020);
    CHECK(q4 > 0.02 && q6 > 0.005); /* they are not something larger under that name */
    free(x);
}

/* Rows that real files have: all zero, constant, one outlier, only positive, only negative, tiny. */
static void odd_blocks(void) {
    static const char *const names[] = { "Q4_0", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K" };
    float x[256];
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        for (int i = 0; i < 256; i++) x[i] = 0.0f;
        CHECK(lost(names[k], x, 256) == 0.0);
        for (int i = 0; i < 256; i++) x[i] = 1e-30f * (float)i; /* scales below the smallest f16 */
        CHECK(lost(names[k], x, 256) <= 1.0);
        for (int sign = -1; sign <= 1; sign += 2) {
            for (int i = 0; i < 256; i++) x[i] = (float)sign * 0.75f;
            CHECK(lost(names[k], x, 256) < 0.02);
            for (int i = 0; i < 256; i++) x[i] = (float)sign * (1.0f + (float)(i % 7) * 0.01f);
            CHECK(lost(names[k], x, 256) < 0.05);
        }
        for (int i = 0; i < 256; i++) x[i] = i == 100 ? 50.0f : 0.01f * (float)(i % 5 - 2);
        CHECK(lost(names[k], x, 256) < 0.02); /* the outlier is what counts */
    }
}

static void names(void) {
    CHECK(!mr_format_named("Q9_K"));
    CHECK(!mr_format_named(""));
    CHECK_INT(mr_format_named("Q4_K")->block, 256);
    CHECK_INT(mr_format_bytes(mr_format_named("Q6_K"), 512), 420);
}

TEST_MAIN({ "bytes_equal_the_reference", bytes_equal_the_reference }, { "k_quants_lose_little", k_quants_lose_little },
          { "odd_blocks", odd_blocks }, { "names", names })
