/* AdamW against torch's and bitsandbytes' own traces (adamw_fp32_trace.json, adam8bit_trace.json), the 8-bit maps against bnb_maps.json,
 * and the sum of squares against a plain loop. */
#include <float.h>

#include "base/json.h"
#include "cpu/cpu.h"
#include "maps.h"
#include "ops_test.h"

/* RFC 4648; the number of bytes. */
static size_t base64(uint8_t *out, const char *text) {
    uint32_t word = 0;
    size_t n = 0;
    int bits = 0;
    for (; *text && *text != '='; text++) {
        static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        word = word << 6 | (uint32_t)(strchr(digits, *text) - digits);
        bits += 6;
        if (bits >= 8) bits -= 8, out[n++] = (uint8_t)(word >> bits);
    }
    return n;
}

static void *field(const cJSON *obj, const char *key, size_t want_bytes) {
    const cJSON *item = cJSON_GetObjectItem(obj, key);
    REQUIRE(cJSON_IsString(item));
    uint8_t *bytes = malloc(strlen(item->valuestring) + 1);
    REQUIRE(bytes && base64(bytes, item->valuestring) == want_bytes);
    return bytes;
}

static cJSON *golden(const char *path) {
    cJSON *tree;
    mr_err err;
    REQUIRE_OK(mr_json_load(&tree, path, 8 << 20, &err), err);
    return tree;
}

static double number(const cJSON *obj, const char *key) { return cJSON_GetObjectItem(obj, key)->valuedouble; }

static void maps_equal_bitsandbytes(void) {
    cJSON *tree = golden(GOLDEN("bnb_maps.json"));
    float *want_signed = field(tree, "dynamic_signed_f32_b64", 1024), *want = field(tree, "dynamic_unsigned_f32_b64", 1024);
    float map[256];
    cpu_dynamic_map(map, true);
    CHECK(same_bits(map, want_signed, 256));
    cpu_dynamic_map(map, false);
    CHECK(same_bits(map, want, 256));
    free(want_signed), free(want);
    cJSON_Delete(tree);
}

static void update_f32(mr_backend *b, float *p, float *m, float *v, const float *g, int64_t n, const mr_adamw *opt) {
    b->adamw(b, &(mr_adamw_tensor){ .p = p, .g = g, .n = n, .m = m, .v = v }, 1, opt);
}

static void update_8bit(mr_backend *b, float *p, uint8_t *c1, uint8_t *c2, float *absmax1, float *absmax2, const float *g, int64_t n,
                        const mr_adamw *opt) {
    b->adamw(b, &(mr_adamw_tensor){ .p = p, .g = g, .n = n, .c1 = c1, .c2 = c2, .absmax1 = absmax1, .absmax2 = absmax2 }, 1, opt);
}

static mr_adamw options(const cJSON *run, int64_t step) {
    const cJSON *betas = cJSON_GetObjectItem(run, "betas");
    return (mr_adamw){ .lr = (float)number(run, "lr"), .beta1 = (float)cJSON_GetArrayItem(betas, 0)->valuedouble,
                       .beta2 = (float)cJSON_GetArrayItem(betas, 1)->valuedouble, .eps = (float)number(run, "eps"),
                       .weight_decay = (float)number(run, "weight_decay"), .step = step, .grad_scale = 1 };
}

static void numbers(float *out, const cJSON *list, int n) {
    REQUIRE(cJSON_GetArraySize(list) == n);
    for (int i = 0; i < n; i++) out[i] = (float)cJSON_GetArrayItem(list, i)->valuedouble;
}

static void torch_trace(void) {
    cJSON *tree = golden(GOLDEN("adamw_fp32_trace.json"));
    enum { n = 16 };
    EACH_ISA(b, 1, {
        float p[n], m[n] = { 0 }, v[n] = { 0 }, g[n], want[n];
        numbers(p, cJSON_GetObjectItem(tree, "p0"), n);
        const cJSON *step;
        int k = 0;
        cJSON_ArrayForEach(step, cJSON_GetObjectItem(tree, "steps")) {
            mr_adamw opt = options(tree, ++k);
            numbers(g, cJSON_GetObjectItem(step, "grad"), n);
            for (int i = 0; i < n; i++) g[i] *= 4; /* the scale undoes it exactly */
            opt.grad_scale = 0.25f;
            update_f32(b, p, m, v, g, n, &opt);
            numbers(want, cJSON_GetObjectItem(step, "p"), n);
            for (int i = 0; i < n; i++) CHECK_NEAR(p[i], want[i], 1e-7);
            numbers(want, cJSON_GetObjectItem(step, "m"), n);
            for (int i = 0; i < n; i++) CHECK_NEAR(m[i], want[i], 1e-7);
            numbers(want, cJSON_GetObjectItem(step, "v"), n);
            for (int i = 0; i < n; i++) CHECK_NEAR(v[i], want[i], 1e-7);
        }
        CHECK_INT(k, 5);
    })
    cJSON_Delete(tree);
}

/* The parameters of the second run are bf16: torch rounds them after the update and again after the decay, so only its codes and maxima, which depend on
 * gradients alone, are compared. The third has fewer than 4096 elements and f32 states: adamw with decay_last. */
static void bitsandbytes_trace(void) {
    cJSON *tree = golden(GOLDEN("adam8bit_trace.json"));
    EACH_ISA(b, 2, {
        const cJSON *run, *step;
        int n_8bit = 0, n_f32 = 0;
        cJSON_ArrayForEach(run, cJSON_GetObjectItem(tree, "runs")) {
            size_t n = (size_t)number(run, "n"), n_blocks = (n + 255) / 256;
            bool bf16 = strcmp(cJSON_GetObjectItem(run, "dtype")->valuestring, "float32") != 0, small = n < 4096;
            float *p = bf16 ? random_floats(n, 0) : field(run, "p0_b64", n * 4);
            uint8_t *c1 = calloc(n, 1), *c2 = calloc(n, 1);
            float *a1 = calloc(n_blocks, 4), *a2 = calloc(n_blocks, 4), *m = calloc(n, 4), *v = calloc(n, 4);
            int k = 0;
            cJSON_ArrayForEach(step, cJSON_GetObjectItem(run, "steps")) {
                mr_adamw opt = options(run, ++k);
                float *g;
                if (bf16) {
                    uint16_t *half = field(step, "grad_b64", n * 2);
                    g = random_floats(n, 0);
                    for (size_t i = 0; i < n; i++) {
                        uint32_t bits = (uint32_t)half[i] << 16;
                        memcpy(&g[i], &bits, 4);
                    }
                    free(half);
                } else {
                    g = field(step, "grad_b64", n * 4);
                }
                if (small) {
                    opt.decay_last = true;
                    update_f32(b, p, m, v, g, (int64_t)n, &opt);
                    float *want_m = field(step, "state1_b64", n * 4), *want_v = field(step, "state2_b64", n * 4);
                    for (size_t i = 0; i < n; i++) CHECK_NEAR(m[i], want_m[i], 1e-8);
                    for (size_t i = 0; i < n; i++) CHECK_NEAR(v[i], want_v[i], 1e-9);
                    free(want_m), free(want_v);
                    n_f32++;
                } else {
                    update_8bit(b, p, c1, c2, a1, a2, g, (int64_t)n, &opt);
                    uint8_t *want1 = field(step, "state1_b64", n), *want2 = field(step, "state2_b64", n);
                    float *want_a1 = field(step, "absmax1_b64", n_blocks * 4), *want_a2 = field(step, "absmax2_b64", n_blocks * 4);
                    int wrong = 0;
                    for (size_t i = 0; i < n; i++) wrong += (c1[i] != want1[i]) + (c2[i] != want2[i]);
                    CHECK_INT(wrong, 0);
                    for (size_t i = 0; i < n_blocks; i++) {
                        CHECK_NEAR(a1[i], want_a1[i], 2e-7 * (double)want_a1[i]);
                        CHECK_NEAR(a2[i], want_a2[i], 2e-7 * (double)want_a2[i]);
                    }
                    free(want1), free(want2), free(want_a1), free(want_a2);
                    n_8bit++;
                }
                if (!bf16) {
                    float *want = field(step, "p_b64", n * 4);
                    for (size_t i = 0; i < n; i++) CHECK_NEAR(p[i], want[i], 1e-8);
                    if (!small) memcpy(p, want, n * sizeof *p); /* the GPU's fast division must not add up */
                    free(want);
                }
                free(g);
            }
            free(p), free(c1), free(c2), free(a1), free(a2), free(m), free(v);
        }
        CHECK_INT(n_8bit, 7);
        CHECK_INT(n_f32, 4);
    })
    cJSON_Delete(tree);
}

/* The quantizer by the letter of spec/quantization.md, 5.2: the pivot's search, for every middle and its neighbors. */
static int search(const float *map, float x) {
    int pivot = 127, lower = 0, upper = 255;
    for (int step = 64; step; step /= 2) {
        if (x > map[pivot]) {
            lower = pivot, pivot += step;
        } else {
            upper = pivot, pivot -= step;
        }
    }
    if (x > map[pivot]) return x > (map[upper] + map[pivot]) * 0.5f ? upper : pivot;
    return x < (map[lower] + map[pivot]) * 0.5f ? lower : pivot;
}

static void ties_of_the_quantizer(void) {
    float u[256], s[256], g[256];
    cpu_dynamic_map(u, false);
    cpu_dynamic_map(s, true);
    EACH_ISA(b, 1, {
        for (int side = -1; side <= 1; side++)
            for (int at = 0; at < 254; at++) {
                /* beta1 = 0 and gradients with maximum 1: the first moment is the gradient */
                float middle = (s[at] + s[at + 1]) * 0.5f, p[2] = { 0, 0 }, a1 = 0, a2 = 0;
                g[0] = side ? nextafterf(middle, side * INFINITY) : middle, g[1] = 1;
                uint8_t c1[2] = { 0, 0 }, c2[2] = { 0, 0 };
                mr_adamw opt = { .lr = 0.1f, .beta2 = 0.99f, .eps = 1e-8f, .step = 1, .grad_scale = 1 };
                update_8bit(b, p, c1, c2, &a1, &a2, g, 2, &opt);
                int want = search(s, g[0]);
                if (signbit(s[want]) != signbit(g[0])) want += g[0] > 0 ? 1 : -1;
                CHECK_INT(c1[0], want);
                CHECK_INT(c1[1], 255);
                CHECK(a1 == 1.0f);
                float v0 = g[0] * g[0] * (1.0f - 0.99f), v1 = 1.0f - 0.99f;
                CHECK_INT(c2[0], search(u, v0 / v1));
            }
    })
}

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The shorter search finds what the search through all limits finds. Either changes its answer at limits and at ends of pieces alone, so these and
 * their neighbors stand for all numbers. */
static void pieces_of_the_maps(void) {
    static uint8_t start[2 * MR_MAP_PIECES(MR_MAP_FINE)];
    float map[256], limit[256];
    for (int is_signed = 0; is_signed < 2; is_signed++) {
        int fine = is_signed ? MR_MAP_FINE_SIGNED : MR_MAP_FINE, pieces = MR_MAP_PIECES(fine), wrong = 0;
        mr_dynamic_map(map, is_signed);
        mr_map_limits(limit, map);
        mr_map_starts(start, limit, is_signed);
        for (int side = 0; side < 2; side++)
            for (int at = 0; at <= pieces + 256; at++)
                for (int off = -1; off <= 1; off++) {
                    uint32_t bits = at <= pieces ? (uint32_t)(at + (104 << fine)) << (23 - fine) : 0;
                    if (at > pieces) memcpy(&bits, &limit[at - pieces - 1], 4);
                    bits = ((bits & 0x7fffffffu) + (uint32_t)off) & 0x7fffffffu;
                    if (side) bits |= 0x80000000u;
                    float x = float_of(bits);
                    int got = is_signed ? mr_map_code_signed(limit, start, x, bits) : mr_map_code_unsigned(limit, start, x, bits);
                    wrong += got != mr_map_code(limit, x);
                }
        CHECK_INT(wrong, 0);
        static const float odd[] = { 0.0f, -0.0f, 1.0f, -1.0f, 7.0f, -7.0f, INFINITY, -INFINITY, NAN, 1e-40f, -1e-40f, 1e-7f, -1e-7f };
        for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
            uint32_t bits;
            memcpy(&bits, &odd[i], 4);
            CHECK_INT(is_signed ? mr_map_code_signed(limit, start, odd[i], bits) : mr_map_code_unsigned(limit, start, odd[i], bits),
                      mr_map_code(limit, odd[i]));
        }
    }
}

/* A gradient that is not finite clears its states and leaves its parameter; its neighbors go on. */
static void not_finite_gradients(void) {
    EACH_ISA(b, 1, {
        float p[4] = { 1, 1, 1, 1 }, g[4] = { 0.5f, NAN, INFINITY, -0.5f }, a1 = 1, a2 = 1;
        uint8_t c1[4] = { 200, 200, 200, 200 }, c2[4] = { 200, 200, 200, 200 };
        mr_adamw opt = { .lr = 0.1f, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-8f, .weight_decay = 0.1f, .step = 3,
                         .grad_scale = 1 };
        update_8bit(b, p, c1, c2, &a1, &a2, g, 4, &opt);
        float s[256], u[256];
        cpu_dynamic_map(s, true);
        cpu_dynamic_map(u, false);
        CHECK(p[1] == 1 && p[2] == 1);
        CHECK(p[0] < 1 && p[3] < 1 && p[0] > 0 && p[3] > 0);
        CHECK(isfinite(a1) && isfinite(a2) && a1 > 0 && a2 > 0);
        CHECK(s[c1[1]] == 0 && s[c1[2]] == 0 && u[c2[1]] == 0 && u[c2[2]] == 0);
        float zero[4] = { 0, 0, 0, 0 }; /* all zero from the start: nothing but decay */
        memset(c1, 0, 4), memset(c2, 0, 4);
        a1 = a2 = 0, p[0] = 2;
        update_8bit(b, p, c1, c2, &a1, &a2, zero, 4, &opt);
        CHECK_NEAR(p[0], 2 * (1 - 0.01), 1e-6);
        CHECK(a1 == 0 && a2 == 0);
    })
}

static void sums_of_squares(void) {
    static const int64_t sizes[] = { 0, 1, 7, 4096, 4097, 100003, 2100001 };
    for (int isa = 0; isa < N_TEST_ISAS; isa++) {
        mr_backend *b = open_isa(test_isas[isa], 1), *b3 = open_isa(test_isas[isa], 3);
        if (!b || !b3) continue;
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            int64_t n = sizes[i];
            float *x = random_floats((size_t)n, 3);
            double want = 0;
            for (int64_t j = 0; j < n; j++) want += (double)x[j] * (double)x[j];
            bool finite = false, finite3 = false;
            double got = b->sum_squares(b, x, n, &finite);
            CHECK_NEAR(got, want, 1e-12 * want);
            CHECK(finite);
            CHECK(b3->sum_squares(b3, x, n, &finite3) == got);
            if (n) {
                x[n - 1] = FLT_MAX; /* its square is no float, but finite */
                b->sum_squares(b, x, n, &finite);
                CHECK(finite);
                x[n / 2] = i % 2 ? NAN : -INFINITY;
                b->sum_squares(b, x, n, &finite);
                b3->sum_squares(b3, x, n, &finite3);
                CHECK(!finite && !finite3);
            }
            free(x);
        }
        mr_backend_close(b), mr_backend_close(b3);
    }
}

/* 70000 elements on 1 and 3 threads, both optimizers. */
static void threads_do_not_show(void) {
    enum { n = 70001, n_blocks = (n + 255) / 256 };
    for (int isa = 0; isa < N_TEST_ISAS; isa++) {
        float *p[2] = { NULL, NULL }, *q[2] = { NULL, NULL };
        uint8_t *codes[2] = { NULL, NULL };
        for (int t = 0; t < 2; t++) {
            mr_backend *b = open_isa(test_isas[isa], t ? 3 : 1);
            if (!b) break;
            test_seed = 5;
            p[t] = random_floats(n, 1), q[t] = random_floats(n, 1), codes[t] = calloc(2 * n, 1);
            float *m = calloc(n, 4), *v = calloc(n, 4), *a = calloc(2 * n_blocks, 4), *g = random_floats(n, 1);
            for (int k = 1; k <= 3; k++) {
                mr_adamw opt = { .lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-8f, .step = k, .grad_scale = 0.3f };
                update_f32(b, p[t], m, v, g, n, &opt);
                update_8bit(b, q[t], codes[t], codes[t] + n, a, a + n_blocks, g, n, &opt);
            }
            free(m), free(v), free(a), free(g);
            mr_backend_close(b);
        }
        if (p[1]) CHECK(same_bits(p[0], p[1], n) && same_bits(q[0], q[1], n) && memcmp(codes[0], codes[1], 2 * n) == 0);
        for (int t = 0; t < 2; t++) free(p[t]), free(q[t]), free(codes[t]);
    }
}

TEST_MAIN({ "maps equal bitsandbytes'", maps_equal_bitsandbytes }, { "torch's trace", torch_trace },
          { "bitsandbytes' trace", bitsandbytes_trace }, { "ties of the quantizer", ties_of_the_quantizer }, { "pieces of the maps", pieces_of_the_maps },
          { "gradients that are not finite", not_finite_gradients }, { "sums of squares", sums_of_squares },
          { "threads do not show", threads_do_not_show })
