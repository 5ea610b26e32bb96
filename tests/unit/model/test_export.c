/* Merged folders and GGUFs of the tiny models with their adapters: what comes out opens again and gives the logits of
 * the model with the adapter applied at run time. */
#include <stdlib.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "files/quantize.h"
#include "model/export.h"
#include "tiny.h"

static char *scratch(void) {
    char name[] = "/tmp/mr_export_XXXXXX";
    REQUIRE(mkdtemp(name) != NULL);
    return mr_strdup(name);
}

/* A tiny model's folder with the tokenizer of 96 tokens. */
static char *with_tokenizer(const char *name) {
    static const char *const files[] = { "config.json", "model.safetensors", "generation_config.json", "tokenizer.json",
                                         "tokenizer_config.json" };
    char *dir = scratch();
    for (int i = 0; i < 5; i++) {
        mr_err err;
        char from[600], *to = mr_path_join(dir, files[i]), *data = NULL;
        size_t len;
        snprintf(from, sizeof from, i < 3 ? "%s/tiny/%s/%s" : "%s/tokenizer_tiny96/%.0s%s", MR_GOLDEN, name, files[i]);
        if (mr_path_exists(from)) {
            REQUIRE_OK(mr_file_read(&data, &len, from, 1 << 24, &err), err);
            REQUIRE_OK(mr_file_write(to, data, len, &err), err);
        }
        mr_free(data);
        mr_free(to);
    }
    return dir;
}

enum { N_IDS = 40 };

/* Logits of a fixed text; owned. */
static float *logits_of(mr_backend *b, const char *path, const char *adapter) {
    mr_err err;
    mr_model *m = NULL;
    mr_model_opts o = tiny_opts(false);
    if (adapter) REQUIRE_OK(mr_adapter_peek(&o.lora, adapter, &err), err);
    REQUIRE_OK(mr_model_open(&m, b, path, &o, &err), err);
    if (adapter) REQUIRE_OK(mr_adapter_load(m, adapter, &err), err);
    const int vocab = mr_model_config(m)->vocab_size;
    mr_decoder *d = tiny_decoder(m, 64, 128, false);
    static tiny_pack k;
    int32_t ids[N_IDS], rows[N_IDS];
    for (int i = 0; i < N_IDS; i++) ids[i] = (7 * i + 3) % vocab, rows[i] = i;
    pack_clear(&k);
    pack_add(&k, ids, N_IDS, -1);
    mr_decoder_phase(d, MR_PHASE_ROLLOUT);
    mr_decoder_forward(d, &k.p);
    float *logits = mr_alloc((size_t)(N_IDS * vocab) * sizeof *logits);
    for (int i = 0; i < N_IDS; i += 5) mr_decoder_logits(d, logits + i * vocab, rows + i, 5);
    tiny_sync(b);
    mr_decoder_close(d);
    mr_model_close(m);
    return logits;
}

static double gap(const float *x, const float *y, int n) {
    double most = 0;
    for (int i = 0; i < n; i++) most = fmax(most, fabs((double)x[i] - (double)y[i]));
    return most;
}

static const struct {
    const char *model, *adapter;
} models[] = { { "tiny_qwen2", GOLDEN("tiny/tiny_qwen2_lora") },
               { "tiny_llama3", GOLDEN("tiny/tiny_llama3_lora") },
               { "tiny_smollm2", NULL },
               { "tiny_qwen3", NULL } };

/* Logits lie within +-3 here. Observed: f32 2.5e-6, f16 0.0052, bf16 0.037, q8_0 0.12, q4_k_m 0.51, q4_0 1.35. */
static void gives_the_same_logits(void) {
    static const struct {
        const char *type;
        bool gguf;
        double tolerance;
    } types[] = { { "f32", false, 1e-5 }, { "bf16", false, 0.08 }, { "f16", false, 0.01 },
                  { "f32", true, 1e-5 },  { "f16", true, 0.01 },   { "bf16", true, 0.08 },
                  { "q8_0", true, 0.2 },  { "q4_k_m", true, 1.5 }, { "q4_0", true, 2.2 } };
    mr_backend *b = tiny_backend(1);
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        char *base = with_tokenizer(models[i].model);
        float *want = logits_of(b, base, models[i].adapter);
        const int n = N_IDS * 96;
        for (size_t k = 0; k < sizeof types / sizeof types[0]; k++) {
            mr_err err = { "" };
            char *dir = scratch(), *file = mr_path_join(dir, "x.gguf");
            const mr_export_opts o = {
                .base = base, .adapter = models[i].adapter, .type = types[k].type, .name = "x", .n_threads = 2
            };
            REQUIRE_OK(types[k].gguf ? mr_export_gguf(file, &o, &err) : mr_export_merged(dir, &o, &err), err);
            float *got = logits_of(b, types[k].gguf ? file : dir, NULL);
            const double far = gap(got, want, n);
            if (getenv("MEDRL_TEST_PRINT"))
                fprintf(stderr, "%s %s %s: %.3g\n", models[i].model, types[k].gguf ? "gguf" : "merged", types[k].type,
                        far);
            if (!(far <= types[k].tolerance)) fprintf(stderr, "%s %s: %g\n", models[i].model, types[k].type, far);
            CHECK(far <= types[k].tolerance);
            mr_free(got);
            mr_remove_tree(dir, NULL);
            mr_free(dir);
            mr_free(file);
        }
        if (models[i].adapter) { /* the adapter is what was merged, not left out */
            float *bare = logits_of(b, base, NULL);
            CHECK(gap(bare, want, n) > 0.1);
            mr_free(bare);
        }
        mr_free(want);
        mr_remove_tree(base, NULL);
        mr_free(base);
    }
    mr_backend_close(b);
}

static void shards_and_index(void) {
    mr_backend *b = tiny_backend(1);
    mr_err err = { "" };
    char *base = with_tokenizer("tiny_qwen2"), *dir = scratch(), *two = scratch();
    const mr_export_opts o = { .base = base, .type = "f32", .shard_bytes = 20000 };
    REQUIRE_OK(mr_export_merged(dir, &o, &err), err);
    char *single = mr_path_join(dir, "model.safetensors"), *index = mr_path_join(dir, "model.safetensors.index.json");
    CHECK(!mr_path_exists(single));
    cJSON *root = tiny_json(index);
    size_t all = 0;
    REQUIRE_OK(mr_export_bytes(&all, false, &o, &err), err);
    CHECK_INT(at(at(root, "metadata"), "total_size")->valuedouble, all);
    CHECK_STR(at(at(root, "weight_map"), "model.embed_tokens.weight")->valuestring, "model-00001-of-00004.safetensors");
    float *x = logits_of(b, base, NULL), *y = logits_of(b, dir, NULL);
    CHECK(gap(x, y, N_IDS * 96) == 0);
    /* and from shards again to one file: the bytes of the base's values */
    const mr_export_opts back = { .base = dir, .type = "f32" };
    REQUIRE_OK(mr_export_merged(two, &back, &err), err);
    float *z = logits_of(b, two, NULL);
    CHECK(gap(x, z, N_IDS * 96) == 0);
    cJSON_Delete(root);
    mr_free(x), mr_free(y), mr_free(z), mr_free(single), mr_free(index);
    char *const dirs[] = { base, dir, two };
    for (int i = 0; i < 3; i++) mr_remove_tree(dirs[i], NULL), mr_free(dirs[i]);
    mr_backend_close(b);
}

/* Through a GGUF and back: tokens, merges, specials, stops and template survive. */
static void tokenizer_round_trip(void) {
    static const char *const sets[] = { "tokenizer_smollm2", "tokenizer_qwen2_5", "tokenizer_tiny96" };
    static const char text[] =
        "<|im_start|>user\n  It's 12345 mg/dL,\tna\xc3\xafve\xe2\x80\xa6 \xe4\xbd\xa0\xe5\xa5\xbd!\n\n<|im_end|>";
    for (int i = 0; i < 3; i++) {
        mr_err err = { "" };
        char folder[600], *dir = scratch(), *file = mr_path_join(dir, "t.gguf"), *again = scratch();
        snprintf(folder, sizeof folder, "%s/%s", MR_GOLDEN, sets[i]);
        mr_tokenizer *t[3] = { NULL };
        REQUIRE_OK(mr_tokenizer_open(&t[0], folder, &err), err);
        const int n = mr_tokenizer_count(t[0]) + 5;
        mr_gguf_meta meta = { 0 };
        CHECK_INT(mr_tokenizer_put_gguf(t[0], &meta, n - 6, &err), MR_EDATA);
        CHECK_CONTAINS(err.msg, "do not belong together");
        mr_gguf_meta_clear(&meta);
        REQUIRE_OK(mr_tokenizer_put_gguf(t[0], &meta, n, &err), err);
        mr_writer *w = NULL;
        REQUIRE_OK(mr_gguf_create(&w, file, &meta, NULL, 0, &err), err);
        REQUIRE_OK(mr_writer_end(w, &err), err);
        REQUIRE_OK(mr_tokenizer_open(&t[1], file, &err), err);
        REQUIRE_OK(mr_tokenizer_save(t[1], again, &err), err);
        REQUIRE_OK(mr_tokenizer_open(&t[2], again, &err), err);
        for (int k = 1; k < 3; k++) {
            if (mr_tokenizer_eos(t[0]) >= 0) CHECK_INT(mr_tokenizer_eos(t[k]), mr_tokenizer_eos(t[0]));
            int n0, n1;
            const int32_t *s0 = mr_tokenizer_stops(t[0], &n0), *s1 = mr_tokenizer_stops(t[k], &n1);
            CHECK(n0 == n1 && (n0 == 0 || memcmp(s0, s1, (size_t)n0 * sizeof *s0) == 0));
            const char *a = mr_tokenizer_template(t[0]), *b = mr_tokenizer_template(t[k]);
            CHECK((!a && !b) || (a && b && strcmp(a, b) == 0));
            for (int id = 0; id < n - 5; id++) {
                const char *x = mr_tokenizer_symbol(t[0], id), *y = mr_tokenizer_symbol(t[k], id);
                CHECK((!x && !y) || (x && y && strcmp(x, y) == 0));
                CHECK(!x || mr_tokenizer_is_special(t[0], id) == mr_tokenizer_is_special(t[k], id));
            }
            mr_ids ids[2] = { { 0 } };
            REQUIRE_OK(mr_tokenizer_encode(t[0], &ids[0], text, sizeof text - 1, true, &err), err);
            REQUIRE_OK(mr_tokenizer_encode(t[k], &ids[1], text, sizeof text - 1, true, &err), err);
            CHECK(ids[0].n == ids[1].n && memcmp(ids[0].data, ids[1].data, (size_t)ids[0].n * sizeof(int32_t)) == 0);
            CHECK(ids[0].n > 5);
            mr_free(ids[0].data), mr_free(ids[1].data);
        }
        for (int k = 0; k < 3; k++) mr_tokenizer_close(t[k]);
        mr_gguf_meta_clear(&meta);
        mr_remove_tree(dir, NULL), mr_remove_tree(again, NULL);
        mr_free(dir), mr_free(file), mr_free(again);
    }
}

/* The mix of q4_k_m over a model whose rows split into 256: llama.cpp's choice for each tensor. */
static void mix_of_types(void) {
    mr_backend *b = tiny_backend(1);
    mr_err err = { "" };
    char *base = with_tokenizer("tiny_qwen2"), *dir = scratch(), *file = mr_path_join(dir, "x.gguf");
    static const char config[] =
        "{\"model_type\":\"llama\",\"hidden_size\":256,\"intermediate_size\":256,\"num_hidden_layers\":8,"
        "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":96,\"tie_word_embeddings\":false,"
        "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"original_max_position_embeddings\":512}}";
    char *path = mr_path_join(base, "config.json");
    REQUIRE_OK(mr_file_write(path, config, sizeof config - 1, &err), err);
    mr_model *m = NULL;
    mr_model_opts mo = tiny_opts(true);
    mo.full = mo.from_config = true;
    REQUIRE_OK(mr_model_open(&m, b, base, &mo, &err), err);
    REQUIRE_OK(mr_model_save(m, base, &err), err);
    mr_model_close(m);
    const mr_export_opts o = { .base = base, .type = "q4_k_m", .n_threads = 2 };
    REQUIRE_OK(mr_export_gguf(file, &o, &err), err);
    mr_tensors *t = NULL;
    REQUIRE_OK(mr_tensors_open(&t, file, &err), err);
    CHECK_STR(mr_tensors_find(t, "model.embed_tokens.weight")->type, "Q4_K");
    CHECK_STR(mr_tensors_find(t, "lm_head.weight")->type, "Q6_K");
    CHECK_STR(mr_tensors_find(t, "model.norm.weight")->type, "F32");
    CHECK_STR(mr_tensors_find(t, "rope_freqs.weight")->type, "F32");
    for (int l = 0; l < 8; l++) { /* first and last eighth, and every third from there: 0, 3, 6, 7 */
        char name[96];
        const bool more = l == 0 || l == 3 || l == 6 || l == 7;
        const char *const parts[] = { "self_attn.v_proj", "mlp.down_proj", "self_attn.q_proj", "mlp.up_proj" };
        for (int k = 0; k < 4; k++) {
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", l, parts[k]);
            CHECK_STR(mr_tensors_find(t, name)->type, more && k < 2 ? "Q6_K" : "Q4_K");
        }
    }
    double type = 0;
    CHECK(mr_gguf_get_number(t, "general.file_type", &type) && type == 15);
    mr_tensors_close(t);
    float *x = logits_of(b, base, NULL), *y = logits_of(b, file, NULL);
    const double far = gap(x, y, N_IDS * 96);
    if (getenv("MEDRL_TEST_PRINT")) fprintf(stderr, "q4_k_m of 256 columns: %g\n", far);
    CHECK(far > 0 && far < 0.6);
    mr_free(x), mr_free(y), mr_free(path), mr_free(file);
    mr_remove_tree(base, NULL), mr_remove_tree(dir, NULL);
    mr_free(base), mr_free(dir);
    mr_backend_close(b);
}

static bool stop_at_once(void *self, size_t done, size_t all) {
    *(size_t *)self = all;
    return done == 0;
}

static void refused(void) {
    mr_err err = { "" };
    char *base = with_tokenizer("tiny_qwen2"), *dir = scratch(), *file = mr_path_join(dir, "x.gguf");
    mr_export_opts o = { .base = base, .type = "q4_k_m" };
    CHECK_INT(mr_export_merged(dir, &o, &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, "want bf16, f16 or f32");
    o.type = "q5_9";
    CHECK_INT(mr_export_gguf(file, &o, &err), MR_EINVAL);
    o.type = "bf16";
    char *other = with_tokenizer("tiny_smollm2");
    o.base = other, o.adapter = GOLDEN("tiny/tiny_llama3_lora");
    CHECK_INT(mr_export_merged(dir, &o, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "adapter of another model");
    o.base = base, o.adapter = NULL;
    mr_remove_tree(other, NULL), mr_free(other);
    size_t all = 0, want = 0;
    o.progress = stop_at_once, o.self = &all;
    CHECK_INT(mr_export_gguf(file, &o, &err), MR_ESIGNAL);
    CHECK(!mr_path_exists(file));
    REQUIRE_OK(mr_export_bytes(&want, true, &o, &err), err);
    CHECK_INT(all, want);
    o.progress = NULL;
    /* a value that is no number, and one that f16 has no room for */
    char *weights = mr_path_join(base, "model.safetensors"), *data = NULL;
    size_t len;
    for (int i = 0; i < 2; i++) {
        REQUIRE_OK(mr_file_read(&data, &len, weights, 1 << 24, &err), err);
        const float odd = i ? 70000.0f : NAN;
        memcpy(data + len - 4, &odd, 4);
        REQUIRE_OK(mr_file_write(weights, data, len, &err), err);
        mr_free(data);
        o.type = "f16";
        char *out = mr_path_join(dir, i ? "a" : "b"), *single = mr_path_join(out, "model.safetensors");
        CHECK_INT(mr_export_merged(out, &o, &err), MR_EDATA);
        CHECK_CONTAINS(err.msg, i ? "does not fit into F16; use --type bf16" : "no finite number");
        CHECK(!mr_path_exists(single));
        mr_free(out), mr_free(single);
    }
    mr_free(weights), mr_free(file);
    mr_remove_tree(base, NULL), mr_remove_tree(dir, NULL);
    mr_free(base), mr_free(dir);
}

TEST_MAIN({ "gives_the_same_logits", gives_the_same_logits }, { "shards_and_index", shards_and_index },
          { "tokenizer_round_trip", tokenizer_round_trip }, { "mix_of_types", mix_of_types }, { "refused", refused })
