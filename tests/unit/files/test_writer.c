/* test_writer.c - files written tensor by tensor are those that the readers know; what does not add up is refused. */
#include <stdlib.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "files/writer.h"
#include "test.h"

static char dir[] = "/tmp/medrl_writer_XXXXXX";

static char *fresh(const char *name) {
    static bool made;
    if (!made) REQUIRE(mkdtemp(dir) != NULL);
    made = true;
    char *path = mr_path_join(dir, name);
    unlink(path);
    return path;
}

static const float values[35] = { 1, 2, 3, -4, 5.5f, [31] = 7, [32] = 8, [34] = -9 };
static const mr_tensor_out list[] = { { .name = "blk.0.attn_q.weight", .type = "F32", .n_dims = 2, .dims = { 4, 8 } },
                                      { .name = "blk.0.attn_q.bias", .type = "F32", .n_dims = 1, .dims = { 3 } } };

static void put_in_pieces(mr_writer *w, size_t piece) {
    mr_err err;
    const uint8_t *p = (const uint8_t *)values;
    for (size_t at = 0; at < sizeof values; at += piece)
        REQUIRE_OK(mr_writer_put(w, p + at, sizeof values - at < piece ? sizeof values - at : piece, &err), err);
}

static void check_values(const char *path, const char *matrix, const char *vector) {
    mr_err err;
    mr_tensors *t = NULL;
    float got[32];
    REQUIRE_OK(mr_tensors_open(&t, path, &err), err);
    CHECK_INT(mr_tensors_count(t), 2);
    const mr_tensor_info *m = mr_tensors_find(t, matrix), *v = mr_tensors_find(t, vector);
    REQUIRE(m && v);
    CHECK(m->n_dims == 2 && m->dims[0] == 4 && m->dims[1] == 8 && v->n_dims == 1 && v->dims[0] == 3);
    REQUIRE_OK(mr_tensors_read(t, m, got, 0, 4, &err), err);
    CHECK(memcmp(got, values, 32 * sizeof *got) == 0);
    REQUIRE_OK(mr_tensors_read(t, v, got, 0, 1, &err), err);
    CHECK(memcmp(got, values + 32, 3 * sizeof *got) == 0);
    mr_tensors_close(t);
}

static void pieces_of_any_size(void) {
    mr_err err;
    for (size_t piece = 1; piece <= sizeof values; piece += 17) {
        mr_gguf_meta meta = { 0 };
        mr_gguf_put_text(&meta, "general.architecture", "qwen2");
        mr_gguf_put_u32(&meta, "a", 7);
        mr_gguf_put_f32(&meta, "b", 0.5f);
        mr_gguf_put_bool(&meta, "c", true);
        mr_gguf_put_i32s(&meta, "d", (int32_t[]){ 3, -4 }, 2);
        mr_gguf_begin_texts(&meta, "e", 2);
        mr_gguf_add_text(&meta, "x", 1);
        mr_gguf_add_text(&meta, "a\0b", 3);
        char *gguf = fresh("x.gguf"), *plain = fresh("x.safetensors");
        mr_writer *w = NULL;
        REQUIRE_OK(mr_gguf_create(&w, gguf, &meta, list, 2, &err), err);
        put_in_pieces(w, piece);
        const size_t bytes = mr_writer_bytes(w);
        REQUIRE_OK(mr_writer_end(w, &err), err);
        check_values(gguf, "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.bias");
        mr_tensors *t = NULL;
        double x = 0;
        const char *s;
        size_t len;
        REQUIRE_OK(mr_tensors_open(&t, gguf, &err), err);
        CHECK(mr_gguf_get_number(t, "a", &x) && x == 7);
        CHECK(mr_gguf_get_number(t, "b", &x) && x == 0.5);
        CHECK(mr_gguf_get_number(t, "c", &x) && x == 1);
        CHECK(mr_gguf_array_number(t, "d", 1, &x) && x == -4);
        CHECK(mr_gguf_array_string(t, "e", 1, &s, &len) && len == 3 && memcmp(s, "a\0b", 3) == 0);
        mr_tensors_close(t);
        char *data = NULL;
        REQUIRE_OK(mr_file_read(&data, &len, gguf, 1 << 20, &err), err);
        CHECK_INT(len, bytes);
        mr_free(data);
        REQUIRE_OK(mr_safetensors_create(&w, plain, list, 2, &err), err);
        put_in_pieces(w, piece);
        REQUIRE_OK(mr_writer_end(w, &err), err);
        check_values(plain, list[0].name, list[1].name);
        mr_gguf_meta_clear(&meta);
        mr_free(gguf);
        mr_free(plain);
    }
}

static void names_go_both_ways(void) {
    static const char *const pairs[][2] = { { "model.embed_tokens.weight", "token_embd.weight" },
                                            { "model.norm.weight", "output_norm.weight" },
                                            { "lm_head.weight", "output.weight" },
                                            { "model.layers.17.post_attention_layernorm.weight",
                                              "blk.17.ffn_norm.weight" },
                                            { "model.layers.3.self_attn.k_norm.weight", "blk.3.attn_k_norm.weight" },
                                            { "model.layers.0.self_attn.v_proj.bias", "blk.0.attn_v.bias" },
                                            { "model.layers.9.mlp.down_proj.weight", "blk.9.ffn_down.weight" } };
    char name[96];
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        CHECK(mr_gguf_name(name, sizeof name, pairs[i][0]));
        CHECK_STR(name, pairs[i][1]);
    }
    static const char *const none[] = { "model.layers..mlp.down_proj.weight",
                                        "model.layers.0.mlp.experts.weight",
                                        "",
                                        "model.layers.0",
                                        "model.layers.0.",
                                        "visual.weight" };
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) CHECK(!mr_gguf_name(name, sizeof name, none[i]));
    CHECK(!mr_gguf_name(name, 5, "lm_head.weight")); /* no room */
}

static void refused(void) {
    mr_err err = { "" };
    mr_writer *w = NULL;
    const mr_gguf_meta meta = { 0 };
    char *path = fresh("y.gguf");
    REQUIRE_OK(mr_gguf_create(&w, path, &meta, list, 2, &err), err);
    REQUIRE_OK(mr_writer_put(w, values, 100, &err), err);
    CHECK_INT(mr_writer_end(w, &err), MR_EINTERNAL);
    CHECK_CONTAINS(err.msg, "tensor 1 of 2 has 100 of its 128 bytes");
    CHECK_INT(mr_gguf_create(&w, path, &meta, list, 2, &err), MR_EIO); /* is there: never written over */
    CHECK(w == NULL);
    mr_free(path);
    path = fresh("z.gguf");
    REQUIRE_OK(mr_gguf_create(&w, path, &meta, list, 2, &err), err);
    REQUIRE_OK(mr_writer_put(w, values, sizeof values, &err), err);
    CHECK_INT(mr_writer_put(w, values, 1, &err), MR_EINTERNAL);
    mr_writer_drop(w);
    CHECK(!mr_path_exists(path));
    mr_tensor_out odd = { .name = "x", .type = "Q4_K", .n_dims = 2, .dims = { 2, 128 } };
    CHECK_INT(mr_gguf_create(&w, path, &meta, &odd, 1, &err), MR_EINVAL); /* rows that are no whole blocks */
    odd = (mr_tensor_out){ .name = "x", .type = "I64", .n_dims = 1, .dims = { 2 } };
    CHECK_INT(mr_gguf_create(&w, path, &meta, &odd, 1, &err), MR_EINVAL);
    char longer[80];
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    odd = (mr_tensor_out){ .name = longer, .type = "F32", .n_dims = 1, .dims = { 2 } };
    CHECK_INT(mr_gguf_create(&w, path, &meta, &odd, 1, &err), MR_EINVAL);
    CHECK(!mr_path_exists(path) && w == NULL);
    mr_free(path);
    mr_remove_tree(dir, NULL);
}

TEST_MAIN({ "pieces_of_any_size", pieces_of_any_size }, { "names_go_both_ways", names_go_both_ways },
          { "refused", refused })
