/* NF4 against bitsandbytes' own bytes (nf4_blocks.json, bnb_maps.json, linear4bit_nf4_double_quant.safetensors), and
 * its products against the products of the dequantized matrix. */
#include "weights_common.h"

#include "base/fsafe.h"
#include "base/json.h"
#include "cpu/weights.h"

static int base64_digit(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

static uint8_t *decoded(const cJSON *obj, const char *key, size_t *len) {
    const cJSON *item = cJSON_GetObjectItem(obj, key);
    REQUIRE(cJSON_IsString(item));
    const char *s = item->valuestring;
    uint8_t *out = mr_alloc(strlen(s) + 1);
    size_t n = 0;
    uint32_t bits = 0;
    for (int have = 0; *s && *s != '='; s++) {
        bits = bits << 6 | (uint32_t)base64_digit(*s);
        have += 6;
        if (have >= 8) out[n++] = (uint8_t)(bits >> (have -= 8));
    }
    *len = n;
    return out;
}

static float half_to_float(uint16_t h) {
    int sign = h >> 15, exponent = h >> 10 & 31, fraction = h & 1023;
    float v = exponent ? ldexpf((float)(1024 + fraction), exponent - 25) : ldexpf((float)fraction, -24);
    return sign ? -v : v;
}

/* A field of the case's dtype as f32. */
static float *floats(const cJSON *obj, const char *key, const char *dtype, int64_t *n) {
    size_t len;
    uint8_t *raw = decoded(obj, key, &len);
    bool wide = strcmp(dtype, "float32") == 0;
    *n = (int64_t)(len / (wide ? 4 : 2));
    float *out = mr_alloc((size_t)(*n + 1) * sizeof *out);
    for (int64_t i = 0; i < *n; i++) {
        uint16_t h;
        if (wide) {
            memcpy(&out[i], raw + 4 * i, 4);
            continue;
        }
        memcpy(&h, raw + 2 * i, 2);
        uint32_t u = (uint32_t)h << 16;
        if (strcmp(dtype, "bfloat16") == 0)
            memcpy(&out[i], &u, 4);
        else
            out[i] = half_to_float(h);
    }
    mr_free(raw);
    return out;
}

static cJSON *fixture(const char *path) {
    mr_err err;
    cJSON *root;
    REQUIRE_OK(mr_json_load(&root, path, 1 << 24, &err), err);
    return root;
}

static mr_backend *open_cpu(void) {
    mr_err err;
    mr_backend *b;
    REQUIRE_OK(mr_backend_open(&b, MR_CPU, 0, 2, &err), err);
    return b;
}

static void maps_are_bitsandbytes_own(void) {
    cJSON *root = fixture(GOLDEN("bnb_maps.json"));
    float map[256];
    int64_t n;
    for (int s = 0; s < 2; s++) {
        float *want = floats(root, s ? "dynamic_signed_f32_b64" : "dynamic_unsigned_f32_b64", "float32", &n);
        CHECK_INT(n, 256);
        cpu_dynamic_map(map, s);
        CHECK(memcmp(map, want, sizeof map) == 0);
        mr_free(want);
    }
    float *book = floats(root, "nf4_f32_b64", "float32", &n);
    CHECK_INT(n, 16);
    CHECK(memcmp(book, nf4_values, sizeof nf4_values) == 0);
    CHECK_NEAR(nf4_nested_map()[127], 0, 0);
    CHECK_NEAR(nf4_nested_map()[255], 1, 0);
    mr_free(book);
    cJSON_Delete(root);
}

/* Blocks without double quantization: codes, maxima and values. */
static void blocks_equal_bitsandbytes(void) {
    cJSON *root = fixture(GOLDEN("nf4_blocks.json")), *c;
    int seen = 0;
    cJSON_ArrayForEach(c, cJSON_GetObjectItem(root, "cases")) {
        const char *dtype = cJSON_GetObjectItem(c, "dtype")->valuestring,
                   *name = cJSON_GetObjectItem(c, "name")->valuestring;
        if (cJSON_IsTrue(cJSON_GetObjectItem(c, "nested"))) continue;
        int64_t n, n_blocks, n_out;
        size_t n_codes;
        float *in = floats(c, "input_b64", dtype, &n), *want = floats(c, "dequant_b64", dtype, &n_out);
        float *want_max = floats(c, "absmax_b64", "float32", &n_blocks);
        uint8_t *want_codes = decoded(c, "packed_b64", &n_codes);
        CHECK_INT(n_codes, (n + 1) / 2);
        uint8_t *codes = mr_alloc(n_codes);
        float *absmax = poison_new(n_blocks);
        memset(codes, 0xee, n_codes);
        nf4_quantize(codes, absmax, in, 0, n);
        CHECK(memcmp(absmax, want_max, (size_t)n_blocks * sizeof *absmax) == 0);
        for (size_t i = 0; i < n_codes; i++) /* an all-zero block has any code: 5.1 */
            if (want_max[i / 32] != 0.0f) CHECK_INT(codes[i], want_codes[i]);
        for (int64_t i = 0; i < n; i++) {
            float v = nf4_values[codes[i / 2] >> (i & 1 ? 0 : 4) & 15] * absmax[i / 64];
            if (strcmp(dtype, "float32") == 0) CHECK_NEAR(v, want[i], 0);
            if (strcmp(dtype, "bfloat16") == 0) CHECK_NEAR(to_bf16(v), want[i], 0);
            if (strcmp(dtype, "float16") == 0) CHECK_NEAR(v, want[i], fabsf(v) / 2000);
        }
        if (strcmp(name, "zero_block_then_const") == 0) CHECK_INT(codes[0], 0x77);
        seen++;
        mr_free(in), mr_free(want), mr_free(want_max), mr_free(want_codes), mr_free(codes), mr_free(absmax);
    }
    CHECK_INT(seen, 8);
    cJSON_Delete(root);
}

/* A value exactly between two codes takes the lower one; one ulp above it the upper. The block's maximum is 1, so
 * nothing is rounded before. */
static void ties_go_down(void) {
    float v[64] = { 1.0f };
    for (int i = 0; i < 15; i++) {
        v[1 + i] = (nf4_values[i] + nf4_values[i + 1]) / 2.0f;
        v[16 + i] = nextafterf(v[1 + i], 2.0f);
    }
    uint8_t codes[32];
    float absmax;
    nf4_quantize(codes, &absmax, v, 0, 64);
    CHECK_NEAR(absmax, 1, 0);
    for (int i = 0; i < 31; i++) {
        int code = codes[i / 2] >> (i & 1 ? 0 : 4) & 15;
        CHECK_INT(code, i == 0 ? 15 : i < 16 ? i - 1 : i - 15);
    }
}

/* With double quantization, through weight_create: every stored byte. */
static void double_quantization_equals_bitsandbytes(void) {
    cJSON *root = fixture(GOLDEN("nf4_blocks.json")), *c;
    mr_backend *b = open_cpu();
    int seen = 0;
    cJSON_ArrayForEach(c, cJSON_GetObjectItem(root, "cases")) {
        if (!cJSON_IsTrue(cJSON_GetObjectItem(c, "nested"))) continue;
        const char *dtype = cJSON_GetObjectItem(c, "dtype")->valuestring;
        const cJSON *shape = cJSON_GetObjectItem(c, "shape");
        int64_t O = cJSON_GetArrayItem(shape, 0)->valueint, I = cJSON_GetArrayItem(shape, 1)->valueint, n, n_nested,
                n_deq, n_blocks;
        size_t n_codes, n_max;
        float *in = floats(c, "input_b64", dtype, &n),
              *want_nested = floats(c, "nested_absmax_b64", "float32", &n_nested);
        float *want = floats(c, "dequant_b64", dtype, &n_deq),
              *scales = floats(c, "absmax_dequant_b64", "float32", &n_blocks);
        uint8_t *want_codes = decoded(c, "packed_b64", &n_codes), *want_max = decoded(c, "absmax_q_b64", &n_max);
        mr_weight *w = weight_new(b, in, O, I, MR_NF4, MR_BF16, MR_USE_FWD);
        const uint8_t *codes, *absmax;
        const float *nested;
        float offset;
        CHECK(b->weight_nf4(w, &codes, &absmax, &nested, &offset));
        CHECK(memcmp(codes, want_codes, n_codes) == 0);
        CHECK(memcmp(absmax, want_max, n_max) == 0);
        CHECK(memcmp(nested, want_nested, (size_t)n_nested * sizeof *nested) == 0);
        CHECK_NEAR(offset, cJSON_GetObjectItem(c, "nested_offset")->valuedouble, 0);
        float *rows = poison_new(n);
        b->weight_rows(b, rows, w, 0, O);
        nf4_data q = w->nf4;
        for (int64_t i = 0; i < n; i++) {
            float v;
            nf4_dequantize(&v, &q, i, 1);
            CHECK_NEAR(v, nf4_values[codes[i / 2] >> (i & 1 ? 0 : 4) & 15] * scales[i / 64], 0);
            CHECK_NEAR(rows[i], to_bf16(v), 0);
            if (strcmp(dtype, "bfloat16") == 0) CHECK_NEAR(rows[i], want[i], 0);
        }
        mr_weight_info info = b->weight_info(w);
        CHECK_INT(info.store, MR_NF4);
        CHECK_INT(info.compute, MR_BF16);
        CHECK_INT(info.bytes, n_codes + n_max + (size_t)n_nested * 4);
        b->weight_free(b, w);
        mr_free(in), mr_free(want_nested), mr_free(want), mr_free(scales), mr_free(want_codes), mr_free(want_max),
            mr_free(rows);
        seen++;
    }
    CHECK_INT(seen, 2);
    mr_backend_close(b);
    cJSON_Delete(root);
}

/* A layer as a checkpoint stores it: its values, multiplied here, give bitsandbytes' output; quantizing them again
 * gives its codes. */
static void checkpoint_layer_gives_its_output(void) {
    enum { O = 20, I = 64, N_BLOCKS = O * I / 64 };
    mr_err err;
    char *file;
    size_t len;
    REQUIRE_OK(mr_file_read(&file, &len, GOLDEN("linear4bit_nf4_double_quant.safetensors"), 1 << 20, &err), err);
    uint64_t head;
    memcpy(&head, file, 8);
    const uint8_t *data = (const uint8_t *)file + 8 + head; /* offsets as its header gives them */
    float nested, map[256];
    uint16_t bias16[O];
    uint8_t codes[O * I / 2], absmax[N_BLOCKS];
    memcpy(&nested, data, 4);
    memcpy(map, data + 4, 1024);
    memcpy(bias16, data + 1092, sizeof bias16);
    memcpy(codes, data + 1132, sizeof codes);
    memcpy(absmax, data + 1772, sizeof absmax);
    CHECK(memcmp(map, nf4_nested_map(), sizeof map) == 0);
    nf4_data q = { .codes = codes,
                   .absmax = absmax,
                   .nested = &nested,
                   .offset = 0.07307129353284836f,
                   .n = O * I,
                   .n_blocks = N_BLOCKS };
    float values[O * I], bias[O];
    nf4_dequantize(values, &q, 0, O * I);
    for (int i = 0; i < O; i++) {
        uint32_t u = (uint32_t)bias16[i] << 16;
        memcpy(&bias[i], &u, 4);
    }
    cJSON *root = fixture(GOLDEN("nf4_blocks.json")), *f = cJSON_GetObjectItem(root, "linear4bit_forward");
    int64_t n_x, n_y;
    float *x = floats(f, "x_bf16_b64", "bfloat16", &n_x), *want = floats(f, "y_bf16_b64", "bfloat16", &n_y);
    int N = (int)(n_x / I);
    CHECK_INT(n_y, N * O);
    mr_backend *b = open_cpu();
    mr_linear l = { .w = weight_new(b, values, O, I, MR_BF16, MR_BF16, MR_USE_FWD), .bias = bias };
    float *y = poison_new(N * O);
    b->linear(b, y, NULL, x, &l, N, NULL);
    /* its kernel rounds the weight and each product to bf16: 2^-8 of the sum of magnitudes; observed: less than half
     * of it */
    for (int n = 0; n < N; n++)
        for (int o = 0; o < O; o++) {
            double magnitude = 0;
            for (int i = 0; i < I; i++) magnitude += fabs((double)x[n * I + i] * (double)values[o * I + i]);
            CHECK_NEAR(y[n * O + o], want[n * O + o], magnitude / 256);
        }
    mr_weight *again = weight_new(b, values, O, I, MR_NF4, MR_F32, MR_USE_FWD);
    const uint8_t *codes2, *absmax2;
    const float *nested2;
    float offset2;
    CHECK(b->weight_nf4(again, &codes2, &absmax2, &nested2, &offset2));
    CHECK(memcmp(codes2, codes, sizeof codes) == 0);
    b->weight_free(b, again), b->weight_free(b, l.w);
    mr_backend_close(b);
    mr_free(x), mr_free(want), mr_free(y), mr_free(file);
    cJSON_Delete(root);
}

/* The products of NF4 have the bits of the products of its values: both ways, whole and torn blocks, more than one
 * block of K. */
static void products_equal_the_dequantized(void) {
    static const int sizes[][2] = { { 64, 64 },    { 130, 128 },  { 70, 36 },  { 33, 67 },
                                    { 200, 2240 }, { 2190, 128 }, { 2177, 33 } };
    mr_err err;
    for (int isa = 0; isa < N_ISAS; isa++) {
        mr_backend *b = open_isa(all_isas[isa], 2);
        if (!b) continue;
        for (int k = 0; k < 2; k++)
            for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
                int64_t O = sizes[i][0], I = sizes[i][1];
                int N = 9;
                mr_dtype type = k ? MR_BF16 : MR_F32;
                float *values = noise_new(O * I, 0.02f), *rows = poison_new(O * I);
                for (int64_t j = O * I / 2; j < O * I / 2 + 70 && j < O * I; j++) values[j] = 0;
                mr_linear l4 = { .w = weight_new(b, values, O, I, MR_NF4, type, MR_USE_FWD | MR_USE_BWD) };
                b->weight_rows(b, rows, l4.w, 0, O);
                mr_linear l = { .w = weight_new(b, rows, O, I, type, type, MR_USE_FWD | MR_USE_BWD) };
                float *x = noise_new(N * I, 1), *dy = noise_new(N * O, 1);
                float *y = poison_new(N * O), *y4 = poison_new(N * O), *dx = poison_new(N * I),
                      *dx4 = poison_new(N * I);
                b->linear(b, y, NULL, x, &l, N, NULL);
                b->linear(b, y4, NULL, x, &l4, N, NULL);
                CHECK(memcmp(y, y4, (size_t)(N * O) * sizeof *y) == 0);
                b->linear_bwd(b, dx, NULL, dy, x, NULL, &l, N, false);
                b->linear_bwd(b, dx4, NULL, dy, x, NULL, &l4, N, false);
                CHECK(memcmp(dx, dx4, (size_t)(N * I) * sizeof *dx) == 0);
                CHECK(isfinite(y4[0]) && isfinite(dx4[0]));
                b->weight_free(b, l.w), b->weight_free(b, l4.w);
                mr_free(values), mr_free(rows), mr_free(x), mr_free(dy), mr_free(y), mr_free(y4), mr_free(dx),
                    mr_free(dx4);
            }
        CHECK_INT(b->sync(b, &err), MR_OK);
        mr_backend_close(b);
    }
}

/* Blocks that cross the pieces in which rows are read: a matrix of odd width, larger than one piece of the source. */
static void blocks_cross_reads(void) {
    enum { O = 1100, I = 1001 }; /* a piece is about a million values */
    mr_backend *b = open_cpu();
    float *values = noise_new(O * I, 0.3f);
    mr_weight *w = weight_new(b, values, O, I, MR_NF4, MR_F32, MR_USE_FWD);
    int64_t n = O * I, n_blocks = (n + 63) / 64;
    nf4_data q = { .n = n,
                   .n_blocks = n_blocks,
                   .codes = mr_alloc((size_t)(n + 1) / 2),
                   .absmax = mr_alloc((size_t)n_blocks),
                   .nested = mr_alloc((size_t)(n_blocks + 255) / 256 * sizeof(float)) };
    float *absmax = poison_new(n_blocks);
    nf4_quantize(q.codes, absmax, values, 0, n);
    nf4_quantize_absmax(&q, absmax);
    CHECK(memcmp(q.codes, w->nf4.codes, (size_t)(n + 1) / 2) == 0);
    CHECK(memcmp(q.absmax, w->nf4.absmax, (size_t)n_blocks) == 0);
    CHECK_NEAR(q.offset, w->nf4.offset, 0);
    mr_free(q.codes), mr_free(q.absmax), mr_free(q.nested), mr_free(absmax), mr_free(values);
    b->weight_free(b, w);
    mr_backend_close(b);
}

TEST_MAIN({ "maps are bitsandbytes' own", maps_are_bitsandbytes_own },
          { "blocks equal bitsandbytes", blocks_equal_bitsandbytes }, { "ties go down", ties_go_down },
          { "double quantization equals bitsandbytes", double_quantization_equals_bitsandbytes },
          { "checkpoint layer gives its output", checkpoint_layer_gives_its_output },
          { "products equal the dequantized", products_equal_the_dequantized },
          { "blocks cross reads", blocks_cross_reads })
