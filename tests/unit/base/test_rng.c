/* test_rng.c - the three generators against published vectors and against numpy's and torch's own output. */
#include "base/rng.h"

#include "base/fsafe.h"
#include "base/json.h"
#include "test.h"

static void philox_known_answers(void) {
    /* kat_vectors of Random123, philox4x32 with 10 rounds */
    const struct {
        uint32_t counter[4];
        uint64_t key;
        uint32_t want[4];
    } kat[] = {
        { { 0, 0, 0, 0 }, 0, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { ~0u, ~0u, ~0u, ~0u }, ~0ull, { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 },
          0x299f31d0a4093822ull,
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };
    for (size_t i = 0; i < sizeof kat / sizeof kat[0]; i++) {
        uint32_t out[4];
        mr_philox(out, kat[i].counter, kat[i].key);
        for (int j = 0; j < 4; j++) CHECK_INT(out[j], kat[i].want[j]);
    }
}

/* With a carry from the lower half of the counter, a stream and a seed of 64 bits, and a rest. */
static void many_uniforms_are_the_single_ones(void) {
    enum { N = 1003 };
    const uint64_t seed = 0x123456789abcdefu, stream = 0xfedcba9876543210u, first = 0xfffffff0u - 100;
    float x[N];
    mr_uniforms_at(x, N, seed, stream, first);
    for (int i = 0; i < N; i++) CHECK(x[i] == mr_uniform_at(seed, stream, first + (uint64_t)i));
}

static void uniform_is_below_one_and_spread(void) {
    double sum = 0;
    for (uint32_t i = 0; i < 10000; i++) {
        float u = mr_uniform(3407, 1, 2, 3, i);
        CHECK(u >= 0.0f && u < 1.0f);
        sum += (double)u;
    }
    CHECK_NEAR(sum / 10000, 0.5, 0.012); /* four deviations of the mean: 4 * 0.2887 / 100 */
    CHECK(mr_uniform(1, 0, 0, 0, 0) != mr_uniform(1, 0, 0, 1, 0));
    CHECK(mr_uniform(1, 0, 0, 0, 0) != mr_uniform(1, 0, 1, 0, 0));
    CHECK(mr_uniform(1, 0, 0, 0, 0) != mr_uniform(1, 1, 0, 0, 0));
    CHECK(mr_uniform(1, 0, 0, 0, 0) == mr_uniform(1, 0, 0, 0, 0));
}

static void normal_has_mean_and_deviation(void) {
    double sum = 0, squares = 0;
    enum { N = 20000 };
    for (uint64_t i = 0; i < N; i++) {
        double x = (double)mr_normal_at(7, mr_hash64("lora", 4), i);
        CHECK(isfinite(x));
        sum += x;
        squares += x * x;
    }
    CHECK_NEAR(sum / N, 0.0, 4 / sqrt(N));
    CHECK_NEAR(squares / N, 1.0, 4 * sqrt(2.0 / N));
}

static void fnv_known_answers(void) {
    CHECK(mr_hash64("", 0) == 0xcbf29ce484222325u); /* the offset basis; "foobar" from the FNV page */
    CHECK(mr_hash64("foobar", 6) == 0x85944171f73967e8u);
}

/* cJSON itself: the fixture holds 64-bit integers, which mr_json_load refuses. */
static cJSON *fixture(void) {
    char *text;
    size_t len;
    mr_err err = { "" };
    REQUIRE_OK(mr_file_read(&text, &len, GOLDEN("datasets_mixing.json"), 1 << 20, &err), err);
    cJSON *doc = cJSON_ParseWithLength(text, len);
    mr_free(text);
    REQUIRE(doc);
    return doc;
}

static void numpy_numbers(void) {
    cJSON *doc = fixture();
    const cJSON *e;
    int seen = 0;
    cJSON_ArrayForEach(e, cJSON_GetObjectItem(doc, "numpy_default_rng")) {
        mr_pcg64 r;
        uint64_t seed = (uint64_t)cJSON_GetObjectItem(e, "seed")->valuedouble;
        mr_pcg64_init(&r, seed);
        const cJSON *x;
        cJSON_ArrayForEach(x, cJSON_GetObjectItem(e, "random_first_8")) {
            CHECK(mr_pcg64_double(&r) == x->valuedouble);
            seen++;
        }
        mr_pcg64_init(&r, seed);
        cJSON_ArrayForEach(x, cJSON_GetObjectItem(e, "uint64_first_4"))
            CHECK((double)mr_pcg64_next64(&r) == x->valuedouble);
    }
    CHECK(seen >= 16);
    cJSON_Delete(doc);
    mr_pcg64 r; /* all 64 bits of the first four of seed 42, as the fixture writes them */
    static const uint64_t want[4] = { 14276969152011380360u, 8095878257575067585u, 15838336090824644132u,
                                      12864169557245331597u };
    mr_pcg64_init(&r, 42);
    for (int i = 0; i < 4; i++) CHECK(mr_pcg64_next64(&r) == want[i]);
    mr_pcg64_init(&r, 42);
    CHECK_INT(mr_pcg64_next32(&r), want[0] & 0xffffffff); /* the low half first, then the high one */
    CHECK_INT(mr_pcg64_next32(&r), want[0] >> 32);
    CHECK_INT(mr_pcg64_next32(&r), want[1] & 0xffffffff);
}

static void numpy_permutations(void) {
    cJSON *doc = fixture();
    const cJSON *e;
    int seen = 0;
    cJSON_ArrayForEach(e, cJSON_GetObjectItem(doc, "shuffle")) {
        int64_t n = (int64_t)cJSON_GetObjectItem(e, "n")->valuedouble, i = 0;
        int64_t *perm = mr_alloc((size_t)n * sizeof *perm);
        mr_pcg64 r;
        mr_pcg64_init(&r, (uint64_t)cJSON_GetObjectItem(e, "seed")->valuedouble);
        mr_pcg64_permutation(&r, perm, n);
        const cJSON *x;
        cJSON_ArrayForEach(x, cJSON_GetObjectItem(e, "result")) CHECK_INT(perm[i++], x->valuedouble);
        CHECK_INT(i, n);
        mr_free(perm);
        seen++;
    }
    CHECK(seen >= 3);
    cJSON_Delete(doc);
}

static void torch_permutations(void) {
    cJSON *doc = fixture();
    const cJSON *e;
    int seen = 0;
    cJSON_ArrayForEach(e, cJSON_GetObjectItem(doc, "torch_randperm")) {
        int64_t n = (int64_t)cJSON_GetObjectItem(e, "n")->valuedouble, i = 0;
        int64_t *perm = mr_alloc((size_t)n * sizeof *perm);
        mr_mt19937 r;
        mr_mt19937_init(&r, (uint32_t)cJSON_GetObjectItem(e, "seed")->valuedouble);
        mr_mt19937_randperm(&r, perm, n);
        const cJSON *x;
        cJSON_ArrayForEach(x, cJSON_GetObjectItem(e, "result_first_16")) CHECK_INT(perm[i++], x->valuedouble);
        CHECK(i == n || i == 16);
        mr_free(perm);
        seen++;
    }
    CHECK(seen >= 5);
    cJSON_Delete(doc);
}

static void mt19937_known_answer(void) {
    mr_mt19937 r;
    mr_mt19937_init(&r,
                    5489); /* the reference program's seed: its 10000th number is in the C++ standard, [rand.predef] */
    uint32_t x = 0;
    for (int i = 0; i < 10000; i++) x = mr_mt19937_next32(&r);
    CHECK_INT(x, 4123659995u);
}

static void small_permutations(void) {
    mr_pcg64 r;
    mr_mt19937 m;
    int64_t one[1] = { 9 };
    mr_pcg64_init(&r, 1);
    mr_pcg64_permutation(&r, one, 1);
    CHECK_INT(one[0], 0);
    mr_pcg64_permutation(&r, one, 0);
    mr_mt19937_init(&m, 1);
    mr_mt19937_randperm(&m, one, 1);
    CHECK_INT(one[0], 0);
}

TEST_MAIN({ "philox_known_answers", philox_known_answers },
          { "uniform_is_below_one_and_spread", uniform_is_below_one_and_spread },
          { "many_uniforms_are_the_single_ones", many_uniforms_are_the_single_ones },
          { "normal_has_mean_and_deviation", normal_has_mean_and_deviation },
          { "fnv_known_answers", fnv_known_answers }, { "numpy_numbers", numpy_numbers },
          { "numpy_permutations", numpy_permutations }, { "torch_permutations", torch_permutations },
          { "mt19937_known_answer", mt19937_known_answer }, { "small_permutations", small_permutations })
