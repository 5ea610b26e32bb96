/* test_gguf.c - GGUF: block types against the reference's numbers, a file built here piece by piece, the row order of
 * q and k, damage. */
#include <stdlib.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "files/tensors.h"
#include "files/writer.h"
#include "test.h"

static char path[] = "/tmp/medrl_gguf_XXXXXX.gguf";

static void put_file(const mr_str *s) {
    static bool made;
    if (!made) {
        int fd = mkstemps(path, 5);
        REQUIRE(fd >= 0);
        close(fd);
        made = true;
    }
    unlink(path); /* ext4 writes a file that is cut to 0 and filled again through to the disk: 5 ms each */
    FILE *f = fopen(path, "wb");
    REQUIRE(f);
    REQUIRE(fwrite(s->data, 1, s->len, f) == s->len);
    fclose(f);
}

/* ---- building a file ---- */

static void u32(mr_str *s, uint32_t x) {
    mr_str_add(s, &x, 4);
}
static void u64(mr_str *s, uint64_t x) {
    mr_str_add(s, &x, 8);
}
static void text(mr_str *s, const char *t) {
    u64(s, strlen(t));
    mr_str_puts(s, t);
}
static void begin(mr_str *s, uint32_t version, uint64_t tensors, uint64_t values) {
    mr_str_puts(s, "GGUF");
    u32(s, version);
    u64(s, tensors);
    u64(s, values);
}
static void string_value(mr_str *s, const char *key, const char *value) {
    text(s, key);
    u32(s, 8);
    text(s, value);
}
static void u32_value(mr_str *s, const char *key, uint32_t value) {
    text(s, key);
    u32(s, 4);
    u32(s, value);
}
static void tensor(mr_str *s, const char *name, int n_dims, const uint64_t *dims, uint32_t type, uint64_t offset) {
    text(s, name);
    u32(s, (uint32_t)n_dims);
    for (int i = 0; i < n_dims; i++) u64(s, dims[i]);
    u32(s, type);
    u64(s, offset);
}
static void pad(mr_str *s, size_t to) {
    while (s->len % to) mr_str_add(s, "", 1);
}

/* Two heads of four rows for q, one for k; value of element (r, c) is 10 r + c. */
static void build_model(mr_str *s, const char *arch, uint32_t version) {
    begin(s, version, 5, 7);
    string_value(s, "general.architecture", arch);
    u32_value(s, "llama.attention.head_count", 2);
    u32_value(s, "llama.attention.head_count_kv", 1);
    text(s, "pi");
    u32(s, 6);
    const float pi = 3.25f;
    mr_str_add(s, &pi, 4);
    text(s, "yes");
    u32(s, 7);
    mr_str_add(s, "\1", 1);
    text(s, "words");
    u32(s, 9);
    u32(s, 8);
    u64(s, 3);
    text(s, "a");
    text(s, "");
    text(s, "c\xc3\xa9");
    text(s, "numbers");
    u32(s, 9);
    u32(s, 3);
    u64(s, 2);
    const int16_t n[2] = { -7, 9 };
    mr_str_add(s, n, 4);
    tensor(s, "blk.0.attn_q.weight", 2, (uint64_t[]){ 3, 8 }, 0, 0);
    tensor(s, "blk.0.attn_k.weight", 2, (uint64_t[]){ 3, 4 }, 0, 96);
    tensor(s, "blk.0.attn_q.bias", 1, (uint64_t[]){ 8 }, 0, 160);
    tensor(s, "rope_freqs.weight", 1, (uint64_t[]){ 2 }, 0, 192);
    tensor(s, "blk.12.ffn_down.weight", 2, (uint64_t[]){ 32, 2 }, 8, 224);
    pad(s, 32);
    const size_t data = s->len;
    for (int r = 0; r < 8; r++)
        for (int c = 0; c < 3; c++) mr_str_add(s, &(float){ (float)(10 * r + c) }, 4);
    for (int r = 0; r < 4; r++)
        for (int c = 0; c < 3; c++) mr_str_add(s, &(float){ (float)(10 * r + c) }, 4);
    while (s->len < data + 160) mr_str_add(s, "", 1);
    for (int r = 0; r < 8; r++) mr_str_add(s, &(float){ (float)(10 * r) }, 4);
    mr_str_add(s, (float[]){ 1.0f, 32.0f }, 8);
    while (s->len < data + 224) mr_str_add(s, "", 1);
    for (int b = 0; b < 2; b++) {
        mr_str_add(s, (uint16_t[]){ 0x3800 }, 2); /* d = 0.5 */
        for (int i = 0; i < 32; i++) mr_str_add(s, &(int8_t){ (int8_t)(i - 16 + b) }, 1);
    }
}

static void reads_a_llama(void) {
    mr_str s = { 0 };
    mr_err err = { "" };
    mr_tensors *t = NULL;
    build_model(&s, "llama", 3);
    put_file(&s);
    REQUIRE_OK(mr_tensors_open(&t, path, &err), err);
    CHECK(mr_tensors_is_gguf(t));
    CHECK_INT(mr_tensors_count(t), 5);

    /* models.md 1.3: within a head of 4, row i + 2j of Hugging Face = row 2i + j of the file: 0, 2, 1, 3 */
    const mr_tensor_info *q = mr_tensors_find(t, "model.layers.0.self_attn.q_proj.weight");
    REQUIRE(q && q->dims[0] == 8 && q->dims[1] == 3);
    const float want[8] = { 0, 20, 10, 30, 40, 60, 50, 70 };
    float got[24], slice[9];
    REQUIRE_OK(mr_tensors_read(t, q, got, 0, 8, &err), err);
    for (int r = 0; r < 8; r++) CHECK(got[3 * r] == want[r] && got[3 * r + 2] == want[r] + 2);
    for (int64_t r = 0; r + 3 <= 8; r++) {
        REQUIRE_OK(mr_tensors_read(t, q, slice, r, 3, &err), err);
        CHECK(!memcmp(slice, got + 3 * r, sizeof slice));
    }
    const mr_tensor_info *k = mr_tensors_find(t, "model.layers.0.self_attn.k_proj.weight");
    REQUIRE(k);
    REQUIRE_OK(mr_tensors_read(t, k, got, 1, 2, &err), err);
    CHECK(got[0] == 20 && got[3] == 10);
    REQUIRE_OK(mr_tensors_read(t, mr_tensors_find(t, "model.layers.0.self_attn.q_proj.bias"), got, 0, 1, &err), err);
    for (int r = 0; r < 8; r++) CHECK(got[r] == want[r]);

    const mr_tensor_info *down = mr_tensors_find(t, "model.layers.12.mlp.down_proj.weight");
    REQUIRE(down && down->dims[0] == 2 && down->dims[1] == 32); /* slowest first */
    CHECK_STR(down->type, "Q8_0");
    float row[32];
    REQUIRE_OK(mr_tensors_read(t, down, row, 1, 1, &err), err);
    CHECK(row[0] == -7.5f && row[31] == 8.0f);
    CHECK(mr_tensors_find(t, "rope_freqs.weight") != NULL);

    double x;
    const char *v;
    size_t len;
    CHECK(mr_gguf_get_number(t, "pi", &x) && x == 3.25);
    CHECK(mr_gguf_get_number(t, "yes", &x) && x == 1);
    CHECK(!mr_gguf_get_number(t, "words", &x) && !mr_gguf_get_number(t, "none", &x) &&
          !mr_gguf_get_string(t, "pi", &v, &len));
    CHECK(mr_gguf_get_string(t, "general.architecture", &v, &len) && len == 5 && !memcmp(v, "llama", 5));
    CHECK_INT(mr_gguf_array_count(t, "words"), 3);
    CHECK_INT(mr_gguf_array_count(t, "pi"), -1);
    CHECK(mr_gguf_array_string(t, "words", 2, &v, &len) && len == 3 && !memcmp(v, "c\xc3\xa9", 3));
    CHECK(mr_gguf_array_string(t, "words", 1, &v, &len) && len == 0);
    CHECK(!mr_gguf_array_string(t, "words", 3, &v, &len) && !mr_gguf_array_string(t, "words", -1, &v, &len));
    CHECK(!mr_gguf_array_string(t, "numbers", 0, &v, &len) && !mr_gguf_array_number(t, "words", 0, &x));
    CHECK(mr_gguf_array_number(t, "numbers", 0, &x) && x == -7 && mr_gguf_array_number(t, "numbers", 1, &x) && x == 9);
    mr_tensors_close(t);
    mr_str_clear(&s);
}

static void other_architectures_keep_their_rows(void) {
    mr_str s = { 0 };
    mr_err err = { "" };
    mr_tensors *t = NULL;
    static const char *const others[] = { "qwen2", "gemma", "llama4" };
    for (int i = 0; i < 3; i++) {
        build_model(&s, others[i], 2);
        put_file(&s);
        REQUIRE_OK(mr_tensors_open(&t, path, &err), err);
        float got[24];
        REQUIRE_OK(mr_tensors_read(t, mr_tensors_find(t, "model.layers.0.self_attn.q_proj.weight"), got, 0, 8, &err), err);
        for (int r = 0; r < 8; r++) CHECK(got[3 * r] == 10.0f * (float)r);
        mr_tensors_close(t);
        mr_str_clear(&s);
    }
}

/* A file of those tensors, of no bytes each, with the names that they have then. */
static void names(void) {
    static const char *const pairs[][2] = {
        { "token_embd.weight", "model.embed_tokens.weight" },
        { "output_norm.weight", "model.norm.weight" },
        { "output.weight", "lm_head.weight" },
        { "blk.0.attn_k.bias", "model.layers.0.self_attn.k_proj.bias" },
        { "blk.999999.ffn_up.weight", "model.layers.999999.mlp.up_proj.weight" },
        { "blk.1234567.ffn_up.weight", NULL }, /* a layer of seven digits, and what is no layer's, keeps its name */
        { "blk..ffn_up.weight", NULL },
        { "blk.1", NULL },
        { "blk.1.ffn_up", NULL },
        { "blk.1.ffn_upper.weight", NULL },
        { "output", NULL },
    };
    enum { N = sizeof pairs / sizeof *pairs };
    mr_str s = { 0 };
    mr_err err = { "" };
    mr_tensors *t = NULL;
    begin(&s, 3, N, 0);
    for (int i = 0; i < N; i++) tensor(&s, pairs[i][0], 1, (uint64_t[]){ 0 }, 0, 0);
    put_file(&s);
    REQUIRE_OK(mr_tensors_open(&t, path, &err), err);
    for (int i = 0; i < N; i++) {
        char back[80];
        CHECK_STR(mr_tensors_at(t, i)->name, pairs[i][1] ? pairs[i][1] : pairs[i][0]);
        CHECK(mr_gguf_name(back, sizeof back, mr_tensors_at(t, i)->name) == (pairs[i][1] != NULL));
        if (pairs[i][1]) CHECK_STR(back, pairs[i][0]);
    }
    static const char *const foreign[] = { "model.layers.1234567.mlp.up_proj.weight", "model.layers..mlp.up_proj.weight", "model.layers.1",
                                           "model.layers.1.", "model.layers.1.mlp.weight", "model.layers.1x.mlp.up_proj.weight" };
    char back[80];
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) CHECK(!mr_gguf_name(back, sizeof back, foreign[i]));
    CHECK(mr_gguf_name(back, 26, "model.layers.0.mlp.up_proj.weight") && !mr_gguf_name(back, 19, "model.layers.0.mlp.up_proj.weight"));
    CHECK(!mr_gguf_name(back, 13, "lm_head.weight") && mr_gguf_name(back, 14, "lm_head.weight"));
    mr_tensors_close(t);
    mr_str_clear(&s);
}

/* One value and one array of two of every type of number, at the edge of what it holds. */
static void numbers_of_every_type(void) {
    static const struct {
        uint32_t type;
        size_t bytes;
        union {
            uint64_t u;
            int64_t i;
            float f;
            double d;
        } stored;
        double want;
    } cases[] = {
        { 0, 1, { .u = UINT8_MAX }, 255 },         { 1, 1, { .i = INT8_MIN }, -128 },          { 2, 2, { .u = UINT16_MAX }, 65535 },
        { 3, 2, { .i = INT16_MIN }, -32768 },      { 4, 4, { .u = UINT32_MAX }, 4294967295.0 }, { 5, 4, { .i = INT32_MIN }, -2147483648.0 },
        { 6, 4, { .f = -0.125f }, -0.125 },        { 7, 1, { .u = 0 }, 0 },                    { 7, 1, { .u = 2 }, 1 },
        { 10, 8, { .u = 1ull << 63 }, 0x1p63 },    { 11, 8, { .i = INT64_MIN }, -0x1p63 },     { 12, 8, { .d = 1e300 }, 1e300 },
    };
    enum { N = sizeof cases / sizeof *cases };
    mr_str s = { 0 };
    mr_err err = { "" };
    mr_tensors *t = NULL;
    char key[16];
    begin(&s, 3, 0, 2 * N);
    for (int i = 0; i < N; i++) {
        snprintf(key, sizeof key, "v%d", i);
        text(&s, key), u32(&s, cases[i].type), mr_str_add(&s, &cases[i].stored, cases[i].bytes);
        snprintf(key, sizeof key, "a%d", i);
        text(&s, key), u32(&s, 9), u32(&s, cases[i].type), u64(&s, 2);
        for (size_t k = 0; k < cases[i].bytes; k++) mr_str_add(&s, "", 1); /* the first one is 0 */
        mr_str_add(&s, &cases[i].stored, cases[i].bytes);
    }
    put_file(&s);
    REQUIRE_OK(mr_tensors_open(&t, path, &err), err);
    for (int i = 0; i < N; i++) {
        double x = 77, first = 77, y = 77;
        const char *v;
        size_t len;
        snprintf(key, sizeof key, "v%d", i);
        CHECK(mr_gguf_get_number(t, key, &x) && x == cases[i].want);
        CHECK(mr_gguf_array_count(t, key) == -1 && !mr_gguf_array_number(t, key, 0, &y) && !mr_gguf_array_string(t, key, 0, &v, &len));
        snprintf(key, sizeof key, "a%d", i);
        CHECK(mr_gguf_array_number(t, key, 0, &first) && first == 0);
        CHECK(mr_gguf_array_number(t, key, 1, &x) && x == cases[i].want);
        CHECK(!mr_gguf_array_number(t, key, 2, &y) && !mr_gguf_array_number(t, key, -1, &y) && !mr_gguf_array_number(t, key, INT64_MIN, &y));
        CHECK(!mr_gguf_get_number(t, key, &y) && !mr_gguf_array_string(t, key, 0, &v, &len) && y == 77);
        CHECK_INT(mr_gguf_array_count(t, key), 2);
        CHECK(!mr_gguf_array_number(t, "none", 0, &y) && !mr_gguf_array_string(t, "none", 0, &v, &len));
    }
    CHECK(mr_gguf_array_count(NULL, "v0") == -1);
    mr_tensors_close(t);
    mr_str_clear(&s);
}

/* What is allowed to its last value: alignments, tensors of no bytes anywhere, rows of heads. */
static void edges_that_open(void) {
    mr_str s = { 0 };
    mr_err err = { "" };
    for (uint32_t alignment = 8; alignment <= 4096; alignment *= 2) {
        mr_tensors *t = NULL;
        begin(&s, 3, 4, 1);
        u32_value(&s, "general.alignment", alignment);
        tensor(&s, "nil", 1, (uint64_t[]){ 0 }, 0, alignment); /* where b is, whichever of them comes first */
        tensor(&s, "b", 1, (uint64_t[]){ 1 }, 0, alignment);
        tensor(&s, "a", 0, NULL, 0, 0); /* one number */
        tensor(&s, "none", 1, (uint64_t[]){ 0 }, 0, alignment);
        pad(&s, alignment);
        mr_str_add(&s, &(float){ 5 }, 4);
        pad(&s, alignment);
        mr_str_add(&s, &(float){ 6 }, 4);
        put_file(&s);
        REQUIRE_OK(mr_tensors_open(&t, path, &err), err);
        float got[1] = { 0 };
        REQUIRE_OK(mr_tensors_read(t, mr_tensors_find(t, "a"), got, 0, 1, &err), err);
        CHECK(got[0] == 5);
        REQUIRE_OK(mr_tensors_read(t, mr_tensors_find(t, "b"), got, 0, 1, &err), err);
        CHECK(got[0] == 6);
        mr_tensors_close(t);
        mr_str_clear(&s);
    }
    /* heads of as many rows as are counted, and of more; without columns there need be no bytes of them */
    for (int more = 0; more < 2; more++) {
        mr_tensors *t = NULL;
        begin(&s, 3, 1, 2);
        string_value(&s, "general.architecture", "llama");
        u32_value(&s, "llama.attention.head_count", 2);
        tensor(&s, "blk.0.attn_q.weight", 2, (uint64_t[]){ 0, 2 * ((1ull << 31) - 2 + 2 * (uint64_t)more) }, 0, 0);
        put_file(&s);
        CHECK_INT(mr_tensors_open(&t, path, &err), more ? MR_EDATA : MR_OK);
        if (more) CHECK_CONTAINS(err.msg, "2 heads do not split the 4294967296 rows");
        mr_tensors_close(t);
        mr_str_clear(&s);
    }
}

/* ---- block types ---- */

static size_t from_base64(uint8_t *out, const char *in) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t n = 0;
    uint32_t word = 0;
    int bits = 0;
    for (; *in && *in != '='; in++) {
        word = word << 6 | (uint32_t)(strchr(digits, *in) - digits);
        bits += 6;
        if (bits >= 8) out[n++] = (uint8_t)(word >> (bits -= 8));
    }
    return n;
}

static void blocks_equal_the_reference(void) {
    cJSON *root = NULL;
    mr_err err = { "" };
    REQUIRE_OK(mr_json_load(&root, GOLDEN("gguf_quants.json"), 1 << 22, &err), err);
    int seen = 0;
    for (const cJSON *c = cJSON_GetObjectItem(root, "cases")->child; c; c = c->next) {
        const char *type = cJSON_GetObjectItem(c, "type")->valuestring,
                   *b64 = cJSON_GetObjectItem(c, "quantized_b64")->valuestring;
        const uint32_t id = (uint32_t)cJSON_GetObjectItem(c, "type_id")->valueint;
        const cJSON *shape = cJSON_GetObjectItem(c, "shape");
        const uint64_t rows = (uint64_t)shape->child->valueint, cols = (uint64_t)shape->child->next->valueint;
        uint8_t *blocks = malloc(strlen(b64)), *want = malloc(rows * cols * 4 + 8);
        const size_t n_bytes = from_base64(blocks, b64);
        REQUIRE(from_base64(want, cJSON_GetObjectItem(c, "dequant_f32_b64")->valuestring) == rows * cols * 4);
        mr_str s = { 0 };
        begin(&s, 3, 1, 0);
        tensor(&s, "x", 2, (uint64_t[]){ cols, rows }, id, 0);
        pad(&s, 32);
        mr_str_add(&s, blocks, n_bytes);
        put_file(&s);
        mr_tensors *t = NULL;
        mr_status st = mr_tensors_open(&t, path, &err);
        REQUIRE_OK(st, err);
        const mr_tensor_info *x = mr_tensors_at(t, 0);
        CHECK_STR(x->type, type);
        CHECK_INT(x->bytes, n_bytes);
        float *got = malloc(rows * cols * 4);
        REQUIRE_OK(mr_tensors_read(t, x, got, 0, (int64_t)rows, &err), err);
        int wrong = 0;
        for (size_t i = 0; i < rows * cols; i++) {
            float w;
            memcpy(&w, want + 4 * i, 4);
            wrong += !(got[i] == w);
        }
        if (wrong) fprintf(stderr, "%s: %d of %d values differ\n", type, wrong, (int)(rows * cols));
        CHECK_INT(wrong, 0);
        memset(got, 0, rows * cols * 4);
        REQUIRE_OK(mr_tensors_read(t, x, got, (int64_t)rows - 1, 1, &err), err);
        CHECK(!memcmp(got, want + (rows - 1) * cols * 4, cols * 4));
        free(got);
        seen++;
        mr_tensors_close(t);
        mr_str_clear(&s);
        free(blocks);
        free(want);
    }
    CHECK(seen >= 12);
    cJSON_Delete(root);
}

/* ---- damage ---- */

static void refuse(mr_str *s, const char *complaint) {
    mr_err err = { "" };
    mr_tensors *t = NULL;
    put_file(s);
    CHECK_INT(mr_tensors_open(&t, path, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, complaint);
    CHECK_CONTAINS(err.msg, ": byte ");
    mr_tensors_close(t);
    mr_str_clear(s);
}

static void bad_files_are_named(void) {
    mr_str s = { 0 };
    const uint64_t d[5] = { 32, 2, 1, 1, 1 };
#define CASE(complaint, ...)                                                                                           \
    do {                                                                                                               \
        __VA_ARGS__;                                                                                                   \
        refuse(&s, complaint);                                                                                         \
    } while (0)
    CASE("version): is 1", begin(&s, 1, 0, 0));
    CASE("version): is 4", begin(&s, 4, 0, 0));
    CASE("big-endian", begin(&s, 0x03000000, 0, 0));
    CASE("tensor count): is 65537", begin(&s, 3, 65537, 0));
    CASE("metadata count): is", begin(&s, 3, 0, UINT64_MAX));
    CASE("needs 700000 bytes", begin(&s, 3, 0, 50000));
    CASE("\"a\" occurs twice", begin(&s, 3, 0, 2); u32_value(&s, "a", 1); u32_value(&s, "a", 1));
    CASE("is empty or holds a NUL", begin(&s, 3, 0, 1); u32_value(&s, "", 1); u64(&s, 0));
    CASE("type 13, want", begin(&s, 3, 0, 1); text(&s, "a"); u32(&s, 13); u64(&s, 0));
    CASE("array of type 9", begin(&s, 3, 0, 1); text(&s, "a"); u32(&s, 9); u32(&s, 9); u64(&s, 1));
    CASE("an array of 18446744073709551615", begin(&s, 3, 0, 1); text(&s, "a"); u32(&s, 9); u32(&s, 0);
         u64(&s, UINT64_MAX));
    CASE("needs 4000000 bytes", begin(&s, 3, 0, 1); text(&s, "a"); u32(&s, 9); u32(&s, 4); u64(&s, 1000000));
    CASE("a string of 4294967295", begin(&s, 3, 0, 1); text(&s, "a"); u32(&s, 8); u64(&s, 4294967295u));
    CASE("power of two", begin(&s, 3, 0, 1); u32_value(&s, "general.alignment", 48));
    CASE("power of two", begin(&s, 3, 0, 1); u32_value(&s, "general.alignment", 0));
    CASE("power of two", begin(&s, 3, 0, 1); string_value(&s, "general.alignment", "32"));
    CASE("power of two", begin(&s, 3, 0, 1); u32_value(&s, "general.alignment", 4));
    CASE("power of two", begin(&s, 3, 0, 1); u32_value(&s, "general.alignment", 8192));
    CASE("big-endian", begin(&s, 0x02000000, 0, 0));
    CASE("2 heads do not split the 1 rows", begin(&s, 3, 1, 2); string_value(&s, "general.architecture", "llama");
         u32_value(&s, "llama.attention.head_count", 2); tensor(&s, "blk.0.attn_k.bias", 0, NULL, 0, 0); pad(&s, 32); u64(&s, 0));
    CASE("overlaps the tensor before", begin(&s, 3, 2, 0); tensor(&s, "x", 1, (uint64_t[]){ 4 }, 0, 0);
         tensor(&s, "y", 1, (uint64_t[]){ 2 }, 0, 0); pad(&s, 32); for (int i = 0; i < 8; i++) u64(&s, 0));
    CASE("5 dimensions", begin(&s, 3, 1, 0); tensor(&s, "x", 5, d, 0, 0));
    CASE("its size overflows", begin(&s, 3, 1, 0); tensor(&s, "x", 2, (uint64_t[]){ 1ull << 40, 1ull << 40 }, 0, 0));
    CASE("its size overflows", begin(&s, 3, 1, 0); tensor(&s, "x", 2, (uint64_t[]){ UINT64_MAX, 1 }, 0, 0));
    CASE("4 (unknown) is not supported", begin(&s, 3, 1, 0); tensor(&s, "x", 2, d, 4, 0));
    CASE("blocks of 32", begin(&s, 3, 1, 0); tensor(&s, "x", 2, (uint64_t[]){ 33, 32 }, 8, 0));
    CASE("no multiple of the alignment", begin(&s, 3, 1, 0); tensor(&s, "x", 2, d, 0, 8));
    CASE("needs 256 bytes at offset 0, the data has 0", begin(&s, 3, 1, 0); tensor(&s, "x", 2, d, 0, 0));
    CASE("at offset 18446744073709551584", begin(&s, 3, 1, 0); tensor(&s, "x", 2, d, 0, UINT64_MAX - 31));
    CASE("overlaps the tensor before", begin(&s, 3, 2, 0); tensor(&s, "x", 2, d, 0, 0); tensor(&s, "y", 2, d, 0, 128);
         pad(&s, 32); for (int i = 0; i < 64; i++) u64(&s, 0));
    CASE("\"x\"): occurs twice", begin(&s, 3, 2, 0); tensor(&s, "x", 2, d, 0, 0); tensor(&s, "x", 2, d, 0, 256);
         pad(&s, 32); for (int i = 0; i < 64; i++) u64(&s, 0));
    CASE("a string of 65 bytes", begin(&s, 3, 1, 0); u64(&s, 65);
         for (int i = 0; i < 20; i++) u64(&s, 0x6161616161616161));
    CASE("head_count is missing", begin(&s, 3, 1, 1); string_value(&s, "general.architecture", "llama");
         tensor(&s, "blk.0.attn_q.weight", 2, d, 0, 0); pad(&s, 32); for (int i = 0; i < 32; i++) u64(&s, 0));
    CASE("2 heads do not split the 2 rows", begin(&s, 3, 1, 2); string_value(&s, "general.architecture", "llama");
         u32_value(&s, "llama.attention.head_count", 2); tensor(&s, "blk.0.attn_q.weight", 2, d, 0, 0); pad(&s, 32);
         for (int i = 0; i < 32; i++) u64(&s, 0));
    /* lengths and counts at the edges of their types: 2^31-1, 2^31, 2^32-1, 2^63, 2^64-1 */
    const uint64_t edges[] = { INT32_MAX, 1ull << 31, UINT32_MAX, 1ull << 63, UINT64_MAX };
    for (int i = 0; i < 5; i++) {
        CASE("tensor count): is", begin(&s, 3, edges[i], 0));
        CASE("metadata count): is", begin(&s, 3, 0, edges[i]));
        CASE("a string of", begin(&s, 3, 0, 1); u64(&s, edges[i]); pad(&s, 64)); /* a key */
        CASE("a string of", begin(&s, 3, 0, 1); text(&s, "a"); u32(&s, 8); u64(&s, edges[i])); /* a value */
        CASE("a string of", begin(&s, 3, 0, 1); text(&s, "a"); u32(&s, 9); u32(&s, 8); u64(&s, 1); u64(&s, edges[i])); /* an element */
        CASE("an array of", begin(&s, 3, 0, 1); text(&s, "a"); u32(&s, 9); u32(&s, 10); u64(&s, edges[i]));
        CASE("the data has", begin(&s, 3, 1, 0); tensor(&s, "x", 2, d, 0, edges[i] / 32 * 32); pad(&s, 512));
        if (edges[i] < 1ull << 63) CASE("the data has", begin(&s, 3, 1, 0); tensor(&s, "x", 1, (uint64_t[]){ edges[i] }, 0, 0));
    }
    CASE("is cut", mr_str_puts(&s, "GG"));
    CASE("is cut", mr_str_puts(&s, "GGUF"));
    CASE("is cut", mr_str_puts(&s, "GGUF"); u32(&s, 3); u32(&s, 0));
    CASE("0 (unknown)", begin(&s, 3, 1, 0); tensor(&s, "x", 2, d, UINT32_MAX - UINT32_MAX % 10, 0)); /* type 4294967290 */
    CASE("5 (unknown)", begin(&s, 3, 1, 0); tensor(&s, "x", 2, d, 5, 0)); /* once Q4_3 */
    CASE("dimensions", begin(&s, 3, 1, 0); text(&s, "x"); u32(&s, UINT32_MAX); pad(&s, 64));
    CASE("is empty or holds a NUL", begin(&s, 3, 1, 0); tensor(&s, "", 2, d, 0, 0); pad(&s, 64));
    CASE("is empty or holds a NUL", begin(&s, 3, 0, 1); u64(&s, 3); mr_str_add(&s, "a\0b", 3); u32(&s, 4); u32(&s, 1));
    CASE("is not \"GGUF\"", mr_str_puts(&s, "GGML....................................."));
}

/* Cut at every length: always refused (the last tensor ends with the file). Bits flipped: a verdict, and whatever
 * opens also reads. */
static void damage(void) {
    mr_str whole = { 0 };
    mr_err err = { "" };
    build_model(&whole, "llama", 3);
    for (size_t n = 0; n < whole.len; n++) {
        mr_str cut = { 0 };
        mr_str_add(&cut, whole.data, n);
        put_file(&cut);
        mr_tensors *t = NULL;
        CHECK_INT(mr_tensors_open(&t, path, &err), MR_EDATA);
        CHECK(!strchr(err.msg, '\n') && strstr(err.msg, ": byte "));
        mr_tensors_close(t);
        mr_str_clear(&cut);
    }
    for (size_t bit = 0; bit < 8 * (whole.len - 300); bit++) {
        whole.data[bit / 8] ^= (char)(1 << bit % 8);
        put_file(&whole);
        mr_tensors *t = NULL;
        if (mr_tensors_open(&t, path, &err) == MR_OK)
            for (int i = 0; i < mr_tensors_count(t); i++) {
                const mr_tensor_info *x = mr_tensors_at(t, i);
                float row[128];
                if (x->n_dims && x->dims[x->n_dims - 1] <= 128 && x->n_dims < 3 && (x->n_dims < 2 || x->dims[0] > 0))
                    CHECK_INT(mr_tensors_read(t, x, row, 0, 1, &err), MR_OK);
            }
        mr_tensors_close(t);
        whole.data[bit / 8] ^= (char)(1 << bit % 8);
    }
    mr_str_clear(&whole);
}

static void out_of_memory(void) {
    mr_str s = { 0 };
    mr_err err = { "" };
    mr_tensors *t = NULL;
    build_model(&s, "llama", 3);
    put_file(&s);
    mr_status st = MR_ENOMEM;
    int n = 0;
    while (st != MR_OK && n < 100) {
        mr_try_alloc_fail_at(++n);
        st = mr_tensors_open(&t, path, &err);
        mr_try_alloc_fail_at(0);
        CHECK(st == MR_OK || st == MR_ENOMEM);
    }
    CHECK(n > 5 && n < 100);
    float bias[8] = { 77 };
    const mr_tensor_info *q = mr_tensors_find(t, "model.layers.0.self_attn.q_proj.bias");
    REQUIRE(q);
    mr_try_alloc_fail_at(1);
    CHECK_INT(mr_tensors_read(t, q, bias, 0, 1, &err), MR_ENOMEM); /* to put its rows in order */
    mr_try_alloc_fail_at(0);
    CHECK(bias[0] == 77);
    CHECK_CONTAINS(err.msg, "no memory for \"model.layers.0.self_attn.q_proj.bias\"");
    mr_tensors_close(t);
    mr_str_clear(&s);
    unlink(path);
}

TEST_MAIN({ "reads_a_llama", reads_a_llama },
          { "other_architectures_keep_their_rows", other_architectures_keep_their_rows },
          { "names", names }, { "numbers_of_every_type", numbers_of_every_type }, { "edges_that_open", edges_that_open },
          { "blocks_equal_the_reference", blocks_equal_the_reference }, { "bad_files_are_named", bad_files_are_named },
          { "damage", damage }, { "out_of_memory", out_of_memory })
