/* test_safetensors.c - safetensors files: the library's own verdicts on 27 files, tiny models, shards, the writer,
 * and damage. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "files/tensors_impl.h"
#include "test.h"

static char folder[64];

static char *scratch(const char *name) {
    if (!folder[0]) {
        strcpy(folder, "/tmp/medrl_test_XXXXXX");
        REQUIRE(mkdtemp(folder));
    }
    return mr_path_join(folder, name);
}

static void put_file(const char *path, const void *data, size_t len) {
    unlink(path); /* ext4 writes a file that is cut to 0 and filled again through to the disk: 5 ms each */
    FILE *f = fopen(path, "wb");
    REQUIRE(f);
    REQUIRE(fwrite(data, 1, len, f) == len);
    fclose(f);
}

static size_t from_hex(uint8_t *out, const char *hex) {
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++) {
        const char digits[3] = { hex[2 * i], hex[2 * i + 1], 0 };
        out[i] = (uint8_t)strtoul(digits, NULL, 16);
    }
    return n;
}

static void library_verdicts(void) {
    cJSON *root = NULL;
    mr_err err = { "" };
    REQUIRE_OK(mr_json_load(&root, GOLDEN("safetensors_validity.json"), 1 << 20, &err), err);
    char *path = scratch("case.safetensors");
    int n = 0;
    for (const cJSON *c = cJSON_GetObjectItem(root, "cases")->child; c; c = c->next, n++) {
        const char *name = cJSON_GetObjectItem(c, "name")->valuestring,
                   *hex = cJSON_GetObjectItem(c, "hex")->valuestring;
        /* the library lets a second entry of the same name win; medrl refuses it (formats.md 7.1) */
        const bool accepted = cJSON_IsTrue(cJSON_GetObjectItem(c, "accepted")) && strcmp(name, "duplicate_key") != 0;
        uint8_t *bytes = malloc(strlen(hex) / 2 + 1);
        put_file(path, bytes, from_hex(bytes, hex));
        free(bytes);
        mr_tensors *t = NULL;
        mr_status st = mr_tensors_open(&t, path, &err);
        if ((st == MR_OK) != accepted) fprintf(stderr, "%s: %s\n", name, st == MR_OK ? "accepted" : err.msg);
        CHECK((st == MR_OK) == accepted);
        CHECK((t != NULL) == accepted);
        if (!accepted) {
            CHECK_INT(st, MR_EDATA);
            CHECK_CONTAINS(err.msg, "case.safetensors: ");
            CHECK(!strchr(err.msg, '\n'));
        }
        if (!strcmp(name, "ok_metadata")) CHECK_INT(mr_tensors_count(t), 1);
        mr_tensors_close(t);
    }
    CHECK_INT(n, 27);
    mr_free(path);
    cJSON_Delete(root);
}

static void tiny_model_reads(void) {
    mr_err err = { "" };
    mr_tensors *t = NULL;
    REQUIRE_OK(mr_tensors_open(&t, GOLDEN("tiny/tiny_qwen2"), &err), err);
    CHECK(!mr_tensors_is_gguf(t) && !mr_tensors_is_gguf(NULL));
    CHECK_STR(mr_tensors_path(t), GOLDEN("tiny/tiny_qwen2"));
    const mr_tensor_info *w = mr_tensors_find(t, "model.layers.0.self_attn.q_proj.weight");
    REQUIRE(w);
    CHECK_STR(w->type, "F32");
    CHECK_INT(w->n_dims, 2);
    CHECK_INT(w->bytes, w->dims[0] * w->dims[1] * 4);
    float all[64 * 256], part[256];
    REQUIRE(w->dims[0] * w->dims[1] <= 64 * 256 && w->dims[1] <= 256);
    REQUIRE_OK(mr_tensors_read(t, w, all, 0, w->dims[0], &err), err);
    CHECK(!memcmp(all, w->data, w->bytes));
    REQUIRE_OK(mr_tensors_read(t, w, part, 3, 1, &err), err);
    CHECK(!memcmp(part, all + 3 * w->dims[1], (size_t)w->dims[1] * 4));
    const int64_t rows = w->dims[0];
    const struct { int64_t row, n; } outside[] = { { rows, 1 }, { 0, rows + 1 }, { -1, 1 }, { 0, -1 }, { rows + 1, 0 }, { INT64_MAX, INT64_MAX }, { INT64_MIN, INT64_MIN }, { 1, INT64_MAX } };
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        part[0] = 77;
        CHECK_INT(mr_tensors_read(t, w, part, outside[i].row, outside[i].n, &err), MR_EINVAL);
        CHECK_CONTAINS(err.msg, "on were asked for");
        CHECK(part[0] == 77);
    }
    REQUIRE_OK(mr_tensors_read(t, w, part, rows, 0, &err), err); /* none, behind the last */
    CHECK(part[0] == 77);
    const mr_tensor_info *norm = mr_tensors_find(t, "model.norm.weight");
    REQUIRE(norm && norm->n_dims == 1);
    REQUIRE_OK(mr_tensors_read(t, norm, part, 0, 1, &err), err); /* a vector is one row */
    CHECK(!memcmp(part, norm->data, norm->bytes));
    CHECK(mr_tensors_find(t, "model.layers.0.self_attn.q_proj") == NULL);
    CHECK(mr_tensors_at(t, -1) == NULL && mr_tensors_at(t, mr_tensors_count(t)) == NULL);
    double x;
    const char *s;
    size_t len;
    CHECK(!mr_gguf_get_number(t, "a", &x) && !mr_gguf_get_string(t, "a", &s, &len) &&
          mr_gguf_array_count(t, "a") == -1);
    mr_tensors_drop(t, w);
    REQUIRE_OK(mr_tensors_read(t, w, part, 3, 1, &err), err);
    CHECK(!memcmp(part, all + 3 * w->dims[1], (size_t)w->dims[1] * 4));
    mr_tensors_close(t);
    mr_tensors_close(NULL);
}

static void every_tiny_model_opens(void) {
    static const char *const names[] = { GOLDEN("tiny/tiny_llama3"), GOLDEN("tiny/tiny_qwen3"),
                                         GOLDEN("tiny/tiny_smollm2"),
                                         GOLDEN("tiny/tiny_llama3_lora/adapter_model.safetensors") };
    for (int i = 0; i < 4; i++) {
        mr_err err = { "" };
        mr_tensors *t = NULL;
        REQUIRE_OK(mr_tensors_open(&t, names[i], &err), err);
        CHECK(mr_tensors_count(t) > 5);
        for (int k = 0; k < mr_tensors_count(t); k++)
            CHECK(mr_tensors_find(t, mr_tensors_at(t, k)->name) == mr_tensors_at(t, k));
        mr_tensors_close(t);
    }
}

static void writer_round_trip(void) {
    const float w[6] = { 1, -2, 3.5f, 0, -0.0f, 1e-30f };
    const uint16_t h[2] = { 0x3f80, 0xc000 };
    const uint8_t u[3] = { 1, 2, 255 };
    const int64_t step[1] = { 1234567890123 };
    const mr_tensor_out out[] = {
        { "u", "U8", 1, { 3 }, u },        { "b.weight", "F32", 2, { 2, 3 }, w },
        { "step", "I64", 0, { 0 }, step }, { "a.weight", "F32", 1, { 6 }, w },
        { "half", "BF16", 1, { 2 }, h },   { "empty", "F32", 2, { 0, 7 }, NULL },
    };
    char *path = scratch("round.safetensors");
    mr_err err = { "" };
    cJSON *meta = cJSON_CreateObject();
    cJSON_AddStringToObject(meta, "note", "a \"quoted\" note\n");
    REQUIRE_OK(mr_safetensors_write(path, out, 6, meta, &err), err);

    char *bytes;
    size_t len;
    REQUIRE_OK(mr_file_read(&bytes, &len, path, 1 << 20, &err), err);
    uint64_t header;
    memcpy(&header, bytes, 8);
    CHECK_INT((8 + header) % 8, 0);
    CHECK_INT(len, 8 + header + 8 + 48 + 4 + 3);
    /* larger elements first, then by name; the metadata before all */
    CHECK(!strncmp(bytes + 8, "{\"__metadata__\":{\"format\":\"pt\",\"note\":", 38));
    const char *order[] = { "\"step\"", "\"a.weight\"", "\"b.weight\"", "\"empty\"", "\"half\"", "\"u\"" };
    char text[4096];
    snprintf(text, sizeof text, "%.*s", (int)header, bytes + 8);
    for (int i = 1; i < 6; i++)
        CHECK(strstr(text, order[i - 1]) && strstr(text, order[i - 1]) < strstr(text, order[i]));
    mr_free(bytes);

    mr_tensors *t = NULL;
    REQUIRE_OK(mr_tensors_open(&t, path, &err), err);
    CHECK_INT(mr_tensors_count(t), 6);
    const mr_tensor_info *b = mr_tensors_find(t, "b.weight");
    REQUIRE(b && b->n_dims == 2 && b->dims[0] == 2 && b->dims[1] == 3);
    CHECK(!memcmp(b->data, w, sizeof w));
    float got[6];
    REQUIRE_OK(mr_tensors_read(t, mr_tensors_find(t, "half"), got, 0, 1, &err), err);
    CHECK(got[0] == 1.0f && got[1] == -2.0f);
    REQUIRE_OK(mr_tensors_read(t, mr_tensors_find(t, "u"), got, 0, 1, &err), err);
    CHECK(got[2] == 255.0f);
    CHECK(!memcmp(mr_tensors_find(t, "step")->data, step, 8));
    REQUIRE_OK(mr_tensors_read(t, mr_tensors_find(t, "empty"), got, 0, 0, &err), err);
    mr_tensors_close(t);

    cJSON_AddNumberToObject(meta, "n", 1);
    CHECK_INT(mr_safetensors_write(path, out, 6, meta, &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, "metadata \"n\" is a number, want a string");
    REQUIRE_OK(mr_tensors_open(&t, path, &err), err); /* the old file is intact */
    mr_tensors_close(t);
    const mr_tensor_out twice[2] = { out[1], out[1] };
    CHECK_INT(mr_safetensors_write(path, twice, 2, NULL, &err), MR_EINVAL);
    const mr_tensor_out foreign = { "q", "Q4_1", 1, { 32 }, w };
    CHECK_INT(mr_safetensors_write(path, &foreign, 1, NULL, &err), MR_EINVAL);
    cJSON_Delete(meta);
    mr_free(path);
}

static void shards(void) {
    const float x[2] = { 1, 2 }, y[2] = { 3, 4 };
#define THE_SECOND "model-00002-of-00002.safetensors"
    char longer[400]; /* a name of 256 bytes; one of 255 may be */
    snprintf(longer, sizeof longer, "{\"a\":\"%0256d\"}", 0);
    const mr_tensor_out a = { "a", "F32", 1, { 2 }, x }, b = { "b", "F32", 1, { 2 }, y };
    mr_err err = { "" };
    char *one = scratch("model-00001-of-00002.safetensors"), *two = scratch("model-00002-of-00002.safetensors");
    char *index = scratch("model.safetensors.index.json");
    REQUIRE_OK(mr_safetensors_write(one, &a, 1, NULL, &err), err);
    const mr_tensor_out both[2] = { b, { "b2", "F32", 1, { 2 }, x } };
    REQUIRE_OK(mr_safetensors_write(two, both, 2, NULL, &err), err);
    struct {
        const char *map, *complaint;
    } cases[] = {
        { "{\"b\":\"model-00002-of-00002.safetensors\",\"a\":\"model-00001-of-00002.safetensors\"}", NULL },
        { "{\"c\":\"model-00002-of-00002.safetensors\"}", "\"c\" is not in model-00002" },
        { "{\"a\":\"model-00002-of-00002.safetensors\",\"b\":\"model-00001-of-00002.safetensors\"}",
          "\"a\" is not in model-00002" },
        { "{\"a\":\"../model-00001-of-00002.safetensors\"}", "does not name a file of the same folder" },
        { "{\"a\":\"model-00003-of-00003.safetensors\"}", "a shard is missing" },
        { "{\"a\":7}", "does not name a file" },
        { "[]", "is an array, want an object" },
        { "null", "is null, want an object" },
        { "{}", "names no file" },
        { "{\"a\":\"\"}", "does not name a file" },
        { "{\"a\":\".hidden\"}", "does not name a file" },
        { "{\"a\":\"..\\\\x\"}", "does not name a file" },
        { longer, "does not name a file" },
        { "{\"a\":\"x/../y\"}", "does not name a file" },
        { "{\"b\":\"" THE_SECOND "\",\"c\":\"" THE_SECOND "\",\"a\":\"model-00001-of-00002.safetensors\"}", "\"c\" is not in model-00002" },
        { "{\"b\":\"" THE_SECOND "\",\"b2\":\"" THE_SECOND "\"}", NULL }, /* two of one shard, which is opened once */
        { "{\"a\":\"model-00001-of-00002.safetensors\",\"b\":\"" THE_SECOND "\",\"b2\":\"" THE_SECOND "\"}", NULL },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[512];
        snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":16},\"weight_map\":%s}", cases[i].map);
        put_file(index, text, strlen(text));
        mr_tensors *t = NULL;
        mr_status st = mr_tensors_open(&t, folder, &err);
        if (cases[i].complaint) {
            CHECK(st != MR_OK && t == NULL);
            CHECK_CONTAINS(err.msg, cases[i].complaint);
        } else {
            REQUIRE_OK(st, err);
            float got[2];
            REQUIRE_OK(mr_tensors_read(t, mr_tensors_find(t, "b"), got, 0, 1, &err), err);
            CHECK(got[0] == 3 && got[1] == 4);
            CHECK_INT(mr_tensors_count(t), 2 + (strstr(cases[i].map, "00001") != NULL));
            mr_tensors_close(t);
        }
    }
    REQUIRE_OK(mr_safetensors_write(two, &a, 1, NULL, &err), err); /* both shards hold "a" */
    const char map[] = "{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\",\"b\":\"" THE_SECOND "\"}}";
    put_file(index, map, strlen(map));
    mr_tensors *t = NULL;
    CHECK_INT(mr_tensors_open(&t, folder, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, THE_SECOND ": byte 8 (tensor \"a\"): occurs twice");
    put_file(two, "\377\377\377\377\377\377\377\377", 8); /* the second one is damaged */
    CHECK_INT(mr_tensors_open(&t, folder, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, THE_SECOND ": byte 0 (header length)");
    unlink(two), mkdir(two, 0755); /* and now no file */
    CHECK_INT(mr_tensors_open(&t, folder, &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, THE_SECOND ": is no ordinary file");
    rmdir(two);
    put_file(index, map, 40);
    CHECK_INT(mr_tensors_open(&t, folder, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "model.safetensors.index.json");
    for (int n = 4096; n <= 4097; n++) { /* as many files as may be, which are not there, and one more */
        mr_str s = { 0 };
        mr_str_puts(&s, "{\"weight_map\":{");
        for (int i = n; i > 0; i--) mr_str_printf(&s, "%s\"t%d\":\"%05d\"", i < n ? "," : "", i, i);
        mr_str_puts(&s, "}}");
        put_file(index, s.data, s.len);
        CHECK_INT(mr_tensors_open(&t, folder, &err), n == 4096 ? MR_ENOTFOUND : MR_EDATA);
        CHECK_CONTAINS(err.msg, n == 4096 ? "a shard is missing" : "names more than 4096 files");
        mr_str_clear(&s);
    }
    unlink(index);
    char *pickle = scratch("pytorch_model.bin");
    put_file(pickle, "", 0);
    CHECK_INT(mr_tensors_open(&t, folder, &err), MR_ENOTFOUND);
    CHECK_CONTAINS(err.msg, "a pickle, which is not read; want model.safetensors");
    unlink(pickle);
    mr_free(pickle);
    CHECK_INT(mr_tensors_open(&t, folder, &err), MR_ENOTFOUND);
    CHECK_CONTAINS(err.msg, "holds no model.safetensors");
    CHECK_INT(mr_tensors_open(&t, "/nowhere/at/all", &err), MR_ENOTFOUND);
    mr_free(one);
    mr_free(two);
    mr_free(index);
}

/* Truncated at every length and with every header bit flipped: a verdict, never a crash; cut files are always
 * refused. */
static void damage(void) {
    const float x[4] = { 1, 2, 3, 4 };
    const mr_tensor_out out[2] = { { "a", "F32", 2, { 2, 2 }, x }, { "b", "F16", 1, { 4 }, x } };
    char *path = scratch("damage.safetensors");
    mr_err err = { "" };
    REQUIRE_OK(mr_safetensors_write(path, out, 2, NULL, &err), err);
    char *bytes;
    size_t len;
    REQUIRE_OK(mr_file_read(&bytes, &len, path, 1 << 20, &err), err);
    for (size_t n = 0; n < len; n++) {
        char *copy = malloc(n + 1); /* a fresh file each time, so that no stale page helps */
        memcpy(copy, bytes, n);
        put_file(path, copy, n);
        free(copy);
        mr_tensors *t = NULL;
        CHECK_INT(mr_tensors_open(&t, path, &err), MR_EDATA);
        CHECK(!strchr(err.msg, '\n'));
        mr_tensors_close(t);
    }
    int refused = 0;
    for (size_t bit = 0; bit < 8 * (len - 24); bit++) {
        bytes[bit / 8] ^= (char)(1 << bit % 8);
        put_file(path, bytes, len);
        mr_tensors *t = NULL;
        if (mr_tensors_open(&t, path, &err) != MR_OK) refused++;
        mr_tensors_close(t);
        bytes[bit / 8] ^= (char)(1 << bit % 8);
    }
    CHECK(refused > (int)(4 * (len - 24))); /* what is left are names, spaces and metadata */
    mr_free(bytes);
    mr_free(path);
}

static void out_of_memory(void) {
    mr_err err = { "" };
    mr_tensors *t = NULL;
    mr_status st = MR_ENOMEM;
    int n = 0;
    while (st != MR_OK && n < 100) {
        mr_try_alloc_fail_at(++n);
        st = mr_tensors_open(&t, GOLDEN("tiny/tiny_qwen2"), &err);
        mr_try_alloc_fail_at(0);
        CHECK(st == MR_OK || st == MR_ENOMEM);
        CHECK((t != NULL) == (st == MR_OK));
    }
    CHECK(n > 3 && n < 100);
    mr_tensors_close(t);
}

static void halves(void) {
    CHECK(mr_f16_to_f32(0x3c00) == 1.0f && mr_f16_to_f32(0xc000) == -2.0f && mr_f16_to_f32(0x0001) == 0x1p-24f);
    CHECK(mr_f16_to_f32(0x03ff) == 1023 * 0x1p-24f && mr_f16_to_f32(0x7bff) == 65504.0f &&
          mr_f16_to_f32(0x7c00) == INFINITY);
    CHECK(isnan(mr_f16_to_f32(0x7e01)) && signbit(mr_f16_to_f32(0x8000)));
    CHECK_INT(mr_f32_to_f16(65519.0f), 0x7bff);
    CHECK_INT(mr_f32_to_f16(65520.0f), 0x7c00);
    CHECK_INT(mr_f32_to_f16(0x1p-25f), 0x0000);   /* a tie goes to the even 0 */
    CHECK_INT(mr_f32_to_f16(0x1.8p-24f), 0x0002); /* a tie goes to the even 2 */
    CHECK_INT(mr_f32_to_f16(0x1.000002p-25f), 0x0001);
    CHECK_INT(mr_f32_to_f16(1.0f + 0x1p-11f), 0x3c00);
    CHECK_INT(mr_f32_to_f16(1.0f + 0x3p-11f), 0x3c02);
    CHECK_INT(mr_f32_to_bf16(1.0f + 0x1p-8f), 0x3f80);
    CHECK_INT(mr_f32_to_bf16(1.0f + 0x3p-8f), 0x3f82);
    CHECK(isnan(mr_bf16_to_f32(mr_f32_to_bf16(NAN))) && mr_f32_to_bf16(INFINITY) == 0x7f80);
    int wrong = 0;
    for (uint32_t h = 0; h < 65536; h++) { /* every half survives the way there and back */
        const float f = mr_f16_to_f32((uint16_t)h), b = mr_bf16_to_f32((uint16_t)h);
        wrong += !isnan(f) && mr_f32_to_f16(f) != h;
        wrong += !isnan(b) && mr_f32_to_bf16(b) != h;
        wrong += isnan(f) != ((h & 0x7fff) > 0x7c00) || (isnan(f) && !isnan(mr_f16_to_f32(mr_f32_to_f16(f))));
    }
    CHECK_INT(wrong, 0);
}

/* ---- what tells one file from another ---- */

static void identity(char hex[65], const char *path) {
    mr_err err = { "" };
    mr_tensors *t = NULL;
    REQUIRE_OK(mr_tensors_open(&t, path, &err), err);
    REQUIRE_OK(mr_tensors_identity(t, hex, &err), err);
    CHECK_INT(strlen(hex), 64);
    mr_tensors_close(t);
}

/* Changes the byte at `at` (-1: none) and gives the file the time `s`. */
static void touch(const char *path, long at, time_t s) {
    int fd = open(path, O_RDWR | O_CLOEXEC);
    char c;
    REQUIRE(fd >= 0);
    if (at >= 0) REQUIRE(pread(fd, &c, 1, at) == 1 && (c ^= 1, pwrite(fd, &c, 1, at)) == 1);
    REQUIRE(futimens(fd, (struct timespec[]){ { s, 0 }, { s, 0 } }) == 0);
    close(fd);
}

static void identities(void) {
    enum { HEADER = 1 << 20, PIECE = 1 << 16, LEN = 6 << 20, N = (LEN - 4096) / 4 };
    mr_err err = { "" };
    float *x = mr_alloc(N * sizeof *x);
    char *path = scratch("id.safetensors"), *link = scratch("link.safetensors"), *other = scratch("ie.safetensors");
    char first[65], now[65];
    REQUIRE_OK(mr_safetensors_write(path, &(mr_tensor_out){ "a", "F32", 1, { N }, x }, 1, NULL, &err), err);
    struct stat info;
    REQUIRE(stat(path, &info) == 0);
    const long len = (long)info.st_size;
    touch(path, -1, 1000);
    identity(first, path);
    identity(now, path);
    CHECK_STR(now, first);
    touch(path, -1, 1001);
    identity(now, path);
    CHECK(strcmp(now, first) != 0);
    /* the last byte of the header and of the pieces, those of one piece, and one between the pieces, which nothing but the time would tell */
    const struct { long at; bool seen; } bytes[] = { { HEADER - 1, true }, { (len - PIECE) / 16 * 16 + PIECE - 1, true }, { (len - PIECE) / 16 * 5, true },
                                                     { (len - PIECE) / 16 * 5 + PIECE - 1, true }, { (len - PIECE) / 16 * 5 + PIECE, false } };
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
        touch(path, bytes[i].at, 1000);
        identity(now, path);
        CHECK((strcmp(now, first) != 0) == bytes[i].seen);
        touch(path, bytes[i].at, 1000);
        identity(now, path);
        CHECK_STR(now, first);
    }
    REQUIRE(rename(path, other) == 0);
    identity(now, other);
    CHECK(strcmp(now, first) != 0); /* another name */
    REQUIRE(rename(other, path) == 0);

    /* links: a name that is a hash stands for the bytes behind the header and for the time; others do not */
    static const struct { const char *target; bool hash; } links[] = {
        { "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", true },
        { "E3B0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", false },
        { "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b8550", false },
        { "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b85", false },
        { "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.part", false },
        { "blob", false },
    };
    for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
        char *blob = scratch(links[i].target), before[65];
        REQUIRE(rename(path, blob) == 0 && symlink(i % 2 ? blob : links[i].target, link) == 0);
        touch(link, -1, 1000);
        identity(before, link);
        touch(link, len - 100, 1001);
        identity(now, link);
        CHECK((strcmp(now, before) == 0) == links[i].hash);
        REQUIRE(unlink(link) == 0 && rename(blob, path) == 0);
        mr_free(blob);
    }
    mr_tensors *t = NULL;
    REQUIRE_OK(mr_tensors_open(&t, path, &err), err);
    unlink(path); /* it has vanished: its mapping has not */
    CHECK_INT(mr_tensors_identity(t, now, &err), MR_ENOTFOUND);
    CHECK_CONTAINS(err.msg, "id.safetensors: No such file");
    mr_tensors_close(t);
    /* the first of two files is missed, whatever the second is; short ones have no pieces */
    char *one = scratch("s1.safetensors"), *two = scratch("s2.safetensors"), *index = scratch("model.safetensors.index.json");
    const char map[] = "{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}}";
    put_file(index, map, strlen(map));
    REQUIRE_OK(mr_safetensors_write(one, &(mr_tensor_out){ "a", "F32", 1, { 2 }, x }, 1, NULL, &err), err);
    REQUIRE_OK(mr_safetensors_write(two, &(mr_tensor_out){ "b", "F32", 1, { 2 }, x }, 1, NULL, &err), err);
    identity(first, folder);
    touch(two, -1, 1000);
    identity(now, folder);
    CHECK(strcmp(now, first) != 0);
    REQUIRE_OK(mr_tensors_open(&t, folder, &err), err);
    unlink(one);
    CHECK_INT(mr_tensors_identity(t, now, &err), MR_ENOTFOUND);
    CHECK_CONTAINS(err.msg, "s1.safetensors: No such file");
    mr_tensors_close(t);
    unlink(two), unlink(index);
    mr_free(one), mr_free(two), mr_free(index);
    mr_free(path), mr_free(link), mr_free(other), mr_free(x);
}

static void kinds_of_values(void) {
    mr_err err = { "" };
    mr_tensors *t = NULL;
    const uint8_t bytes[16] = { 1, 2, 3 };
    const mr_tensor_out out[] = { { "complex", "C64", 1, { 2 }, bytes }, { "none", "F32", 2, { 3, 0 }, NULL } };
    char *path = scratch("values.safetensors");
    float got[64] = { 0 };
    REQUIRE_OK(mr_safetensors_write(path, out, 2, NULL, &err), err);
    REQUIRE_OK(mr_tensors_open(&t, path, &err), err);
    CHECK_INT(mr_tensors_read(t, mr_tensors_find(t, "complex"), got, 0, 1, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "tensor \"complex\" is C64, which is not read");
    const mr_tensor_info *none = mr_tensors_find(t, "none");
    REQUIRE(none);
    got[0] = 77;
    REQUIRE_OK(mr_tensors_read(t, none, got, 0, 3, &err), err);
    CHECK(got[0] == 77);
    mr_tensors_drop(t, none);
    mr_tensors_close(t);
    mr_free(path);

    REQUIRE_OK(mr_tensors_open(&t, GOLDEN("linear4bit_nf4_double_quant.safetensors"), &err), err);
    const mr_tensor_info *folded = NULL;
    for (int i = 0; i < mr_tensors_count(t) && !folded; i++)
        if (mr_tensors_nf4(mr_tensors_at(t, i))) folded = mr_tensors_at(t, i);
    REQUIRE(folded && folded->n_dims == 2);
    const int64_t rows = folded->dims[0], cols = folded->dims[1];
    float *all = mr_alloc((size_t)(rows * cols) * sizeof *all), *row = mr_alloc((size_t)cols * sizeof *row);
    REQUIRE_OK(mr_tensors_read(t, folded, all, 0, rows, &err), err);
    for (int64_t r = 0; r < rows; r++) { /* 4-bit values, row by row as all at once */
        REQUIRE_OK(mr_tensors_read(t, folded, row, r, 1, &err), err);
        CHECK(!memcmp(row, all + r * cols, (size_t)cols * sizeof *row));
    }
    mr_free(all), mr_free(row);
    mr_tensors_close(t);
}

/* More tensors than a handle can count come only from files of many gigabytes: the limit by itself. */
static void too_many_tensors(void) {
    mr_err err = { "" };
    char name[] = "x";
    mr_tensors t = { .path = name };
    CHECK_INT(mr_tensors_reserve(&t, (size_t)INT32_MAX / 2 + 1, &err), MR_EDATA);
    CHECK_STR(err.msg, "x: has 1073741824 tensors, which is too many");
    mr_try_alloc_fail_at(1);
    CHECK_INT(mr_tensors_reserve(&t, (size_t)INT32_MAX / 2, &err), MR_ENOMEM); /* these are allowed, if there were memory */
    mr_try_alloc_fail_at(0);
    CHECK(!t.entries && t.cap_entries == 0);
}

/* Headers that are as they may be at the edge: tensors in any order, of no bytes, with the longest name. */
static void edges_that_open(void) {
    char longest[700], longer[700], *path = scratch("edge.safetensors");
    snprintf(longest, sizeof longest, "{\"%0512d\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}", 0);
    snprintf(longer, sizeof longer, "{\"%0513d\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}", 0);
#define U8(name, n, from, to) "\"" name "\":{\"dtype\":\"U8\",\"shape\":[" n "],\"data_offsets\":[" from "," to "]}"
    const struct { const char *header; int tensors; const char *complaint; } cases[] = {
        { longest, 1, NULL },
        { longer, 0, "its name has 513 bytes, at most 512" },
        { "{" U8("b", "4", "4", "8") "," U8("a", "4", "0", "4") "}", 2, NULL },
        { "{" U8("a", "8", "0", "8") "," U8("none", "0", "0", "0") "," U8("nor", "0", "0", "0") "," U8("end", "0", "8", "8") "}", 4, NULL },
        { "{" U8("none", "0", "0", "0") "," U8("a", "8", "0", "8") "}", 2, NULL },
        { "{" U8("a", "8", "0", "8") "," U8("b", "8", "0", "8") "}", 0, "overlaps the tensor before it" },
        { "{" U8("a", "4", "0", "4") "," U8("b", "3", "5", "8") "}", 0, "leaves a hole behind the tensor before it" },
        { "{" U8("a", "7", "0", "7") "}", 0, "1 bytes belong to no tensor" },
        { "{\"a\":{\"dtype\":\"F4\",\"shape\":[15],\"data_offsets\":[0,8]}}", 0, "15 elements of F4 are no whole number of bytes" },
        { "{\"a\":{\"dtype\":\"F4\",\"shape\":[16],\"data_offsets\":[0,8]}}", 1, NULL },
        { "{" U8("a", "4294967296,2147483648", "0", "8") "}", 0, "makes its size overflow" },
        { "{\"a\":{\"dtype\":\"I64\",\"shape\":[1073741824,2147483648],\"data_offsets\":[0,0]}}", 0, "no whole number of bytes" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mr_str s = { 0 };
        const uint64_t len = strlen(cases[i].header);
        mr_str_add(&s, &len, 8), mr_str_add(&s, cases[i].header, len), mr_str_add(&s, "12345678", 8);
        put_file(path, s.data, s.len);
        mr_tensors *t = NULL;
        mr_err err = { "" };
        mr_status st = mr_tensors_open(&t, path, &err);
        CHECK_INT(st, cases[i].complaint ? MR_EDATA : MR_OK);
        if (st == MR_OK) CHECK_INT(mr_tensors_count(t), cases[i].tensors);
        if (cases[i].complaint) CHECK_CONTAINS(err.msg, cases[i].complaint);
        mr_tensors_close(t);
        mr_str_clear(&s);
    }
    mr_free(path);
#undef U8
}

static void tensors_that_are_not_written(void) {
    char longest[513], longer[514];
    memset(longest, 'n', sizeof longest), longest[512] = '\0';
    memset(longer, 'n', sizeof longer), longer[513] = '\0';
    const struct { mr_tensor_out tensors[2]; int n; const char *complaint; } cases[] = {
        { { { "a", "F4", 1, { 2 }, NULL } }, 1, "has type \"F4\", which is not written" },
        { { { "a", "F33", 1, { 2 }, NULL } }, 1, "has type \"F33\"" },
        { { { "__metadata__", "F32", 1, { 0 }, NULL } }, 1, "\"__metadata__\" is no name for a tensor" },
        { { { longer, "F32", 1, { 0 }, NULL } }, 1, "is no name for a tensor" },
        { { { "a", "F32", 2, { 1, -1 }, NULL } }, 1, "tensor \"a\": dimension 1 is -1" },
        { { { "a", "U8", 2, { 1ll << 32, 1ll << 32 }, NULL } }, 1, "tensor \"a\": dimension 1 is 4294967296" },
        { { { "a", "F32", 1, { 1ll << 62 }, NULL } }, 1, "tensor \"a\" is too large" },
        { { { "a", "F64", 1, { 1ll << 60 }, NULL }, { "b", "F64", 1, { 1ll << 60 }, NULL } }, 2, "the tensors are too large for one file" },
        { { { "a", "F33", 1, { 2 }, NULL }, { "b", "F32", 1, { 0 }, NULL } }, 2, "has type \"F33\"" },
    };
    mr_err err = { "" };
    char *path = scratch("unwritten.safetensors");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mr_str json = { 0 };
        size_t bytes[2];
        CHECK_INT(mr_safetensors_write(path, cases[i].tensors, cases[i].n, NULL, &err), MR_EINVAL);
        CHECK_CONTAINS(err.msg, cases[i].complaint);
        if (i != 7) { /* the header alone knows no sum */
            CHECK_INT(mr_safetensors_header(&json, bytes, cases[i].tensors, cases[i].n, path, &err), MR_EINVAL);
            CHECK_CONTAINS(err.msg, cases[i].complaint);
        }
        mr_str_clear(&json);
        CHECK(!mr_path_exists(path));
    }
    const mr_tensor_out good = { longest, "F32", 1, { 0 }, NULL };
    mr_try_alloc_fail_at(1);
    CHECK_INT(mr_safetensors_write(path, &good, 1, NULL, &err), MR_ENOMEM);
    mr_try_alloc_fail_at(0);
    CHECK(!mr_path_exists(path));
    cJSON *meta = cJSON_CreateObject();
    cJSON_AddStringToObject(meta, "format", "other"); /* is "pt", whatever the caller says, and stands there once */
    REQUIRE_OK(mr_safetensors_write(path, &good, 1, meta, &err), err);
    mr_tensors *t = NULL;
    REQUIRE_OK(mr_tensors_open(&t, path, &err), err);
    CHECK(mr_tensors_find(t, longest) != NULL);
    mr_tensors_close(t);
    char *data;
    size_t len;
    REQUIRE_OK(mr_file_read(&data, &len, path, 1 << 16, &err), err);
    CHECK(strstr(data + 8, "\"format\":\"pt\"}") && !strstr(data + 8, "other"));
    mr_free(data);
    cJSON_Delete(meta);
    mr_free(path);
}

/* What the stored verdicts lack: numbers at the edges, other kinds of JSON, headers that are no text. */
static void more_kinds(void) {
#define ONE(dtype, shape, offsets) "{\"a\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
    static const char *const headers[] = {
        "[]", "null", "\"a\"", "{\"a\":7}", "{\"a\":[]}", "{\"a\":{}}", "{\"a\":null}", "{\"__metadata__\":[]}",
        ONE("7", "[2]", "[0,8]"), ONE("\"F32\"", "2", "[0,8]"), ONE("\"F32\"", "[2]", "8"), ONE("\"F32\"", "[2]", "[0]"),
        ONE("\"F32\"", "[2]", "[0,8,16]"), ONE("\"F32\"", "[-2]", "[0,8]"), ONE("\"F32\"", "[2.5]", "[0,8]"),
        ONE("\"F32\"", "[\"2\"]", "[0,8]"), ONE("\"F32\"", "[2]", "[0,8.5]"), ONE("\"F32\"", "[2]", "[-8,0]"),
        ONE("\"F32\"", "[2]", "[0,2147483647]"), ONE("\"F32\"", "[2]", "[0,2147483648]"), ONE("\"F32\"", "[2]", "[0,4294967295]"),
        ONE("\"F32\"", "[2]", "[0,9223372036854775808]"), ONE("\"F32\"", "[2]", "[0,18446744073709551615]"),
        ONE("\"F32\"", "[4294967296,4294967296]", "[0,8]"), ONE("\"F32\"", "[1073741825,4294967296]", "[0,8]"),
        ONE("\"F32\"", "[65536,65536,65536,65536]", "[0,0]"), ONE("\"F32\"", "[1,1,1,1,2]", "[0,8]"), ONE("\"f32\"", "[2]", "[0,8]"),
        ONE("\"F32\"", "[2]", "[0,8]") "x", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}",
    };
    char *path = scratch("kind.safetensors"), file[1024];
    const int n = (int)(sizeof headers / sizeof *headers);
    for (int i = 0; i < n; i++) {
        const uint64_t len = strlen(headers[i]);
        memcpy(file, &len, 8);
        memcpy(file + 8, headers[i], len);
        memset(file + 8 + len, 1, 8);
        put_file(path, file, len + 16);
        mr_tensors *t = NULL;
        mr_err err = { "" };
        if (mr_tensors_open(&t, path, &err) != MR_EDATA) fprintf(stderr, "%s: accepted\n", headers[i]);
        CHECK(t == NULL && strstr(err.msg, "kind.safetensors: ") && !strchr(err.msg, '\n'));
        mr_tensors_close(t);
    }
    const uint64_t lengths[] = { 0, 1, INT32_MAX, 1ull << 31, UINT32_MAX, 1ull << 63, UINT64_MAX, 100000001 };
    for (int i = 0; i < 8; i++) { /* of the header, which is 2 bytes */
        memcpy(file, &lengths[i], 8);
        memcpy(file + 8, "{}", 2);
        put_file(path, file, 10);
        mr_tensors *t = NULL;
        mr_err err = { "" };
        CHECK_INT(mr_tensors_open(&t, path, &err), MR_EDATA);
        CHECK(t == NULL);
    }
    CHECK(n + 8 + 27 >= 40);
    mr_free(path);
#undef ONE
}

static void clean_up(void) {
    mr_err err = { "" };
    if (folder[0]) CHECK_INT(mr_remove_tree(folder, &err), MR_OK);
}

TEST_MAIN({ "library_verdicts", library_verdicts }, { "tiny_model_reads", tiny_model_reads },
          { "every_tiny_model_opens", every_tiny_model_opens }, { "writer_round_trip", writer_round_trip },
          { "shards", shards }, { "damage", damage }, { "out_of_memory", out_of_memory }, { "halves", halves },
          { "more_kinds", more_kinds }, { "identities", identities }, { "kinds_of_values", kinds_of_values },
          { "too_many_tensors", too_many_tensors }, { "edges_that_open", edges_that_open },
          { "tensors_that_are_not_written", tensors_that_are_not_written }, { "clean_up", clean_up })
