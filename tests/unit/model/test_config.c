/* config.json of each family, what is refused and how, and where a model's name leads. */
#include <stdlib.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "tiny.h"

static char *scratch(void) {
    char name[] = "/tmp/mr_config_XXXXXX";
    REQUIRE(mkdtemp(name) != NULL);
    return mr_strdup(name);
}

static void put(const char *dir, const char *file, const char *text) {
    mr_err err;
    char *path = mr_path_join(dir, file), *folder = mr_path_dir(path);
    REQUIRE_OK(mr_mkdirs(folder, &err), err);
    REQUIRE_OK(mr_file_write(path, text, strlen(text), &err), err);
    mr_free(folder);
    mr_free(path);
}

static void families(void) {
    mr_config c;
    mr_err err;
    REQUIRE_OK(mr_config_load(&c, GOLDEN("tiny/tiny_qwen2"), NULL, &err), err);
    CHECK_STR(c.model_type, "qwen2");
    CHECK_INT(c.hidden_size, 32);
    CHECK_INT(c.intermediate_size, 48);
    CHECK_INT(c.num_hidden_layers, 2);
    CHECK_INT(c.num_attention_heads, 4);
    CHECK_INT(c.num_key_value_heads, 2);
    CHECK_INT(c.head_dim, 8);
    CHECK_INT(c.vocab_size, 96);
    CHECK(c.tie_word_embeddings && c.attention_bias && !c.qk_norm && !c.rope_llama3);
    CHECK_NEAR(c.rope_theta, 1e6, 0);
    CHECK_NEAR(c.rms_norm_eps, 1e-6, 1e-12);
    REQUIRE_OK(mr_config_load(&c, GOLDEN("tiny/tiny_qwen3"), NULL, &err), err);
    CHECK(c.qk_norm && !c.attention_bias);
    CHECK_INT(c.head_dim, 16);
    REQUIRE_OK(mr_config_load(&c, GOLDEN("tiny/tiny_llama3"), NULL, &err), err);
    CHECK(c.rope_llama3 && !c.tie_word_embeddings);
    CHECK_INT(c.rope_original_max_position, 64);
    REQUIRE_OK(mr_config_load(&c, GOLDEN("tiny/tiny_smollm2"), NULL, &err), err);
    CHECK_INT(c.num_key_value_heads, 1);
    CHECK_NEAR(c.rope_theta, 1e5, 0);
}

#define BASE                                                                                                           \
    "\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"vocab_size\":100"

#define SIZES(hidden, layers, heads, vocab)                                                                            \
    "{\"model_type\":\"llama\",\"hidden_size\":" hidden ",\"intermediate_size\":96,\"num_hidden_layers\":" layers        \
    ",\"num_attention_heads\":" heads ",\"vocab_size\":" vocab "}"

/* The layout before transformers 5, and defaults. */
static void old_layout(void) {
    char *dir = scratch();
    mr_config c;
    mr_err err;
    put(dir, "config.json",
        "{\"model_type\":\"llama\"," BASE
        ",\"rope_theta\":500000.0,\"head_dim\":null,\"rope_scaling\":{\"type\":\"llama3\","
        "\"factor\":32.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}}");
    REQUIRE_OK(mr_config_load(&c, dir, NULL, &err), err);
    CHECK_INT(c.num_key_value_heads, 4);
    CHECK_INT(c.head_dim, 16);
    CHECK(c.rope_llama3);
    CHECK_NEAR(c.rope_factor, 32, 0);
    CHECK_NEAR(c.rope_theta, 500000, 0);
    CHECK_NEAR(c.inv_freq[0], 1, 0);
    /* wavelength 2 pi / theta^(-14/16) = 607000 > 8192: divided by the factor */
    CHECK_NEAR(c.inv_freq[7], pow(500000.0, -0.875) / 32, 1e-12);
    put(dir, "config.json",
        "{\"model_type\":\"qwen3\"," BASE ",\"rope_scaling\":null,\"layer_types\":[\"full_attention\"]}");
    REQUIRE_OK(mr_config_load(&c, dir, NULL, &err), err);
    CHECK_INT(c.head_dim, 128);
    CHECK_NEAR(c.rope_theta, 10000, 0);
    mr_remove_tree(dir, NULL);
    mr_free(dir);
}

static void refused(void) {
    static const struct {
        const char *text, *part;
    } cases[] = {
        { "{\"model_type\":\"gemma3_text\"," BASE "}",
          "model_type \"gemma3_text\" is not supported; medrl runs qwen2" },
        { "{" BASE "}", "model_type" },
        { "[]", "want an object" },
        { "{\"model_type\":\"qwen2\"", "config.json" },
        { "{\"model_type\":\"qwen2\"," BASE ",\"use_sliding_window\":true}", "use_sliding_window is true" },
        { "{\"model_type\":\"qwen2\"," BASE ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}",
          "sliding_attention" },
        { "{\"model_type\":\"llama\"," BASE ",\"hidden_act\":\"gelu\"}", "hidden_act is \"gelu\"" },
        { "{\"model_type\":\"llama\"," BASE ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4}}",
          "rope type \"yarn\"" },
        { "{\"model_type\":\"llama\"," BASE
          ",\"rope_parameters\":{\"rope_type\":\"default\",\"partial_rotary_factor\":0.5}}",
          "partial_rotary" },
        { "{\"model_type\":\"llama\"," BASE ",\"num_key_value_heads\":3}", "do not divide" },
        { "{\"model_type\":\"llama\"," BASE ",\"head_dim\":15}", "head_dim is 15" },
        { "{\"model_type\":\"llama\"," BASE ",\"head_dim\":1024}", "head_dim is 1024" },
        { "{\"model_type\":\"llama\"," BASE ",\"rms_norm_eps\":0}", "rms_norm_eps" },
        { "{\"model_type\":\"llama\"," BASE ",\"num_hidden_layers\":2.5}", "num_hidden_layers" },
        { "{\"model_type\":\"llama\"," BASE
          ",\"quantization_config\":{\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true}}",
          "quantized by bitsandbytes to fp4" },
        { "{\"model_type\":\"llama\"," BASE
          ",\"quantization_config\":{\"quant_method\":\"bitsandbytes\",\"load_in_8bit\":true}}",
          "quantized by bitsandbytes to 8 bits" },
        { "{\"model_type\":\"llama\"," BASE ",\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":4}}",
          "quantized by \"gptq\"" },
        { "{\"model_type\":\"llama\",\"hidden_size\":-1,\"intermediate_size\":96,\"num_hidden_layers\":2,\"num_"
          "attention_heads\":4,"
          "\"vocab_size\":100}",
          "hidden_size" },
        { "{\"model_type\":\"llama\",\"intermediate_size\":96}", "hidden_size" },
        /* numbers that nothing may be divided by or allocated from */
        { SIZES("0", "2", "4", "100"), "\"hidden_size\" is 0, want 1..131072" },
        { SIZES("2147483648", "2", "4", "100"), "\"hidden_size\" is 2147483648" },
        { SIZES("1e300", "2", "4", "100"), "hidden_size" },
        { SIZES("66", "2", "4", "100"), "hidden_size 66 does not divide into 4 heads" },
        { SIZES("64", "0", "4", "100"), "\"num_hidden_layers\" is 0" },
        { SIZES("64", "1000000", "4", "100"), "\"num_hidden_layers\" is 1000000" },
        { SIZES("64", "2", "0", "100"), "\"num_attention_heads\" is 0" },
        { SIZES("64", "2", "4", "0"), "\"vocab_size\" is 0" },
        { SIZES("64", "2", "4", "4294967297"), "\"vocab_size\" is 4294967297" },
        { "{\"model_type\":\"llama\"," BASE ",\"num_key_value_heads\":0}", "num_key_value_heads" },
        { "{\"model_type\":\"llama\"," BASE ",\"rope_theta\":1e300}", "rope_theta is inf" },
    };
    char *dir = scratch();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mr_config c;
        mr_err err = { { 0 } };
        put(dir, "config.json", cases[i].text);
        CHECK(mr_config_load(&c, dir, NULL, &err) == MR_EDATA);
        CHECK_CONTAINS(err.msg, cases[i].part);
        CHECK_CONTAINS(err.msg, dir);
    }
    mr_remove_tree(dir, NULL);
    mr_config c;
    mr_err err;
    CHECK_INT(mr_config_load(&c, dir, NULL, &err), MR_ENOTFOUND);
    mr_free(dir);
}

/* A weights file that does not fit its config.json: the message names the tensor. */
static void wrong_weights(void) {
    static const struct {
        const char *from, *to, *part;
    } cases[] = {
        { "\"vocab_size\": 96", "\"vocab_size\": 97", "\"model.embed_tokens.weight\" has shape [96,32], want [97,32]" },
        { "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1",
          "belongs to layer 1, but the configuration has 1 layers" },
        { "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "model.layers.2." },
        { "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4", "k_proj" },
        { "\"qwen2\"", "\"qwen3\"", "self_attn.q_norm.weight\" is missing" },
        { "\"intermediate_size\": 48", "\"intermediate_size\": 64",
          "gate_proj.weight\" has shape [48,32], want [64,32]" },
        { "\"intermediate_size\": 48", "\"intermediate_size\": 500000",
          "gate_proj.weight\" has shape [48,32], want [500000,32]" },
    };
    mr_backend *b = tiny_backend(1);
    mr_err err;
    char *dir = scratch(), *config = NULL, *weights = NULL;
    size_t n_config = 0, n_weights = 0;
    REQUIRE_OK(mr_file_read(&config, &n_config, GOLDEN("tiny/tiny_qwen2/config.json"), 1 << 20, &err), err);
    REQUIRE_OK(mr_file_read(&weights, &n_weights, GOLDEN("tiny/tiny_qwen2/model.safetensors"), 1 << 20, &err), err);
    char *to = mr_path_join(dir, "model.safetensors");
    REQUIRE_OK(mr_file_write(to, weights, n_weights, &err), err);
    put(dir, "config.json", config);
    long n_open = 0; /* large allocations that reading both files takes: sizes are checked before the next one */
    for (bool open = false; !open; n_open += !open) {
        mr_tensors *t = NULL;
        mr_config c;
        mr_try_alloc_fail_at(n_open + 1);
        open = mr_tensors_open(&t, dir, &err) == MR_OK && mr_config_load(&c, dir, t, &err) == MR_OK;
        mr_try_alloc_fail_at(0);
        mr_tensors_close(t);
    }
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *hit = strstr(config, cases[i].from);
        REQUIRE(hit != NULL);
        mr_str s = { 0 };
        mr_str_add(&s, config, (size_t)(hit - config));
        mr_str_puts(&s, cases[i].to);
        mr_str_puts(&s, hit + strlen(cases[i].from));
        put(dir, "config.json", s.data);
        mr_str_clear(&s);
        mr_model *m = NULL;
        mr_model_opts o = tiny_opts(false);
        mr_try_alloc_fail_at(n_open + 1);
        CHECK_INT(mr_model_open(&m, b, dir, &o, &err), MR_EDATA);
        mr_try_alloc_fail_at(0);
        CHECK(m == NULL);
        CHECK_CONTAINS(err.msg, cases[i].part);
    }
    mr_free(to);
    mr_free(config);
    mr_free(weights);
    mr_remove_tree(dir, NULL);
    mr_free(dir);
    mr_backend_close(b);
}

static void options(void) {
    mr_backend *b = tiny_backend(1);
    mr_model *m = NULL;
    mr_err err;
    mr_model_opts o = tiny_opts(true);
    o.full = true;
    o.store = MR_NF4;
    CHECK_INT(mr_model_open(&m, b, GOLDEN("tiny/tiny_qwen2"), &o, &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, "4-bit weights cannot be trained in full");
    o.store = MR_F32;
    o.lora = tiny_lora(2);
    CHECK_INT(mr_model_open(&m, b, GOLDEN("tiny/tiny_qwen2"), &o, &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, "choose one");
    o.full = false;
    memset(o.lora.targets, 0, sizeof o.lora.targets);
    CHECK_INT(mr_model_open(&m, b, GOLDEN("tiny/tiny_qwen2"), &o, &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, "target_modules is empty");
    mr_backend_close(b);
}

static void resolve(void) {
    char *dir = scratch(), *path = NULL;
    mr_err err;
    char old[512] = "";
    REQUIRE(getcwd(old, sizeof old) != NULL);
    setenv("HF_HUB_CACHE", dir, 1);
    const char commit[] = "0123456789abcdef0123456789abcdef01234567";
    put(dir, "models--org--name/refs/main", commit);
    char file[256];
    snprintf(file, sizeof file, "models--org--name/snapshots/%s/config.json", commit);
    put(dir, file, "{}");
    /* somebody wanted its configuration only: not a model that opens */
    CHECK_INT(mr_model_resolve(&path, "org/name", &err), MR_ENOTFOUND);
    CHECK_CONTAINS(err.msg, "lacks config.json or weights");
    CHECK_CONTAINS(err.msg, "medrl pull org/name");
    snprintf(file, sizeof file, "models--org--name/snapshots/%s/model.safetensors.index.json", commit);
    put(dir, file, "{\"weight_map\": {\"a\": \"model-1.safetensors\", \"b\": \"model-2.safetensors\"}}");
    snprintf(file, sizeof file, "models--org--name/snapshots/%s/model-1.safetensors", commit);
    put(dir, file, "x");
    CHECK_INT(mr_model_resolve(&path, "org/name", &err), MR_ENOTFOUND);
    snprintf(file, sizeof file, "models--org--name/snapshots/%s/model-2.safetensors", commit);
    put(dir, file, "x");
    REQUIRE_OK(mr_model_resolve(&path, "org/name", &err), err);
    mr_free(path);
    REQUIRE_OK(mr_model_resolve(&path, "hf:org/name@0123456789abcdef0123456789abcdef01234567", &err), err);
    mr_free(path);
    CHECK_INT(mr_model_resolve(&path, "org/name@v2", &err), MR_ENOTFOUND);
    CHECK_CONTAINS(err.msg, "medrl pull org/name@v2");
    put(dir, "models--org--gguf/refs/main", commit);
    snprintf(file, sizeof file, "models--org--gguf/snapshots/%s/a.q8_0.gguf", commit);
    put(dir, file, "x");
    REQUIRE_OK(mr_model_resolve(&path, "org/gguf", &err), err);
    CHECK_CONTAINS(path, "/a.q8_0.gguf");
    mr_free(path);
    REQUIRE_OK(mr_model_resolve(&path, "org/name", &err), err);
    CHECK_CONTAINS(path, commit);
    mr_free(path);
    CHECK_INT(mr_model_resolve(&path, "org/other", &err), MR_ENOTFOUND);
    CHECK(path == NULL);
    CHECK_CONTAINS(err.msg, "models--org--other");
    put(dir, "models--org--bad/refs/main", "../../../../etc");
    CHECK_INT(mr_model_resolve(&path, "org/bad", &err), MR_ENOTFOUND);
    CHECK_INT(mr_model_resolve(&path, "../name", &err), MR_ENOTFOUND);
    CHECK_INT(mr_model_resolve(&path, "", &err), MR_EINVAL);
    put(dir, "here/config.json", "{}");
    REQUIRE(chdir(dir) == 0);
    REQUIRE_OK(mr_model_resolve(&path, "here", &err), err);
    CHECK_STR(path, "here");
    mr_free(path);
    put(dir, "bare/tokenizer.json", "{}");
    CHECK_INT(mr_model_resolve(&path, "bare", &err), MR_ENOTFOUND);
    CHECK_CONTAINS(err.msg, "bare: this folder has no config.json");
    REQUIRE(chdir(old) == 0);
    setenv("XDG_CACHE_HOME", dir, 1);
    mr_status st = mr_model_resolve(&path, "smollm2-135m-instruct", &err);
    if (st == MR_OK)
        mr_free(path); /* a cache folder that was asked for earlier stays */
    else
        CHECK_CONTAINS(err.msg, "./bootstrap fetch");
    REQUIRE_OK(mr_model_resolve(&path, GOLDEN("tiny/tiny_qwen2"), &err), err);
    mr_free(path);
    mr_remove_tree(dir, NULL);
    mr_free(dir);
}

/* The published totals, a tied table once (spec/models.md 1.2), and shapes that no total would show. */
static void named(void) {
    static const struct {
        const char *name;
        long long params;
    } known[] = {
        { "qwen2.5-0.5b", 494032768 },   { "qwen2.5-1.5b", 1543714304 }, { "qwen2.5-3b", 3085938688 },
        { "qwen2.5-7b", 7615616512 },    { "qwen3-0.6b", 596049920 },    { "llama-3.2-1b", 1235814400 },
        { "smollm2-135m", 134515008 },
    };
    enum { N = sizeof known / sizeof known[0] };
    mr_config c;
    mr_err err;
    for (int i = 0; i < N; i++) {
        REQUIRE_OK(mr_config_named(&c, known[i].name, &err), err);
        CHECK_INT(mr_parameter_count(&c), known[i].params);
        CHECK_INT(c.num_attention_heads % c.num_key_value_heads, 0);
        CHECK_NEAR(c.inv_freq[0], 1, 0);
        CHECK_STR(mr_config_name(i), known[i].name);
    }
    CHECK(mr_config_name(N) == NULL && mr_config_name(-1) == NULL);
    CHECK_INT(mr_config_named(&c, "qwen2.5-4b", &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, "no configuration is called \"qwen2.5-4b\", want one of qwen2.5-0.5b, qwen2.5-1.5b");
    REQUIRE_OK(mr_config_named(&c, "qwen3-0.6b", &err), err);
    CHECK(c.qk_norm && !c.attention_bias && c.num_attention_heads * c.head_dim == 2048 && c.hidden_size == 1024);
    REQUIRE_OK(mr_config_named(&c, "llama-3.2-1b", &err), err);
    CHECK(c.rope_llama3 && c.inv_freq[31] < powf(5e5f, -62.0f / 64) / 16); /* the slowest are divided by 32 */
}

/* What the plan counts is what is there, with a device's room behind weights in 16 bits. */
static void plan_of_16_bits(void) {
    mr_backend *b = tiny_backend(1);
    mr_err err;
    mr_config c;
    mr_model *m = NULL;
    mr_model_room room;
    REQUIRE_OK(mr_config_load(&c, GOLDEN("tiny/tiny_qwen2"), NULL, &err), err);
    mr_model_opts o = tiny_opts(true);
    o.from_config = true, o.config = &c;
    o.store = o.compute = b->has_bf16 ? MR_BF16 : MR_F16;
    for (int r = 0; r <= 8; r += 8) {
        o.lora = (mr_lora_opts){ .r = r, .lora_alpha = 8, .targets = { true, false, true, true, true, true, true } };
        REQUIRE_OK(mr_model_open(&m, b, "a shape", &o, &err), err);
        mr_model_plan(&room, b, &c, &o);
        CHECK_INT(mr_model_room_bytes(&room), mr_model_bytes(m));
        mr_model_room_clear(&room);
        mr_model_close(m);
    }
    mr_backend_close(b);
}

/* A shape becomes a model without files: what the plan counts is what is there, the weights have the deviation of the
 * configuration, and no two rows of a matrix or tensors of a model are alike. */
static void from_shape(void) {
    mr_backend *b = tiny_backend(1);
    mr_err err;
    mr_config c;
    mr_model *m = NULL;
    REQUIRE_OK(mr_config_load(&c, GOLDEN("tiny/tiny_qwen2"), NULL, &err), err);
    mr_model_opts o = tiny_opts(true);
    o.from_config = true;
    o.config = &c;
    o.seed = 3;
    o.lora = (mr_lora_opts){ .r = 4, .lora_alpha = 8, .targets = { true, false, true } };
    REQUIRE_OK(mr_model_open(&m, b, "a shape", &o, &err), err);
    CHECK_STR(mr_model_path(m), "a shape");
    CHECK(mr_model_options(m)->config == NULL);
    mr_model_room room;
    mr_model_plan(&room, b, &c, &o);
    CHECK_INT(mr_model_room_bytes(&room), mr_model_bytes(m));
    int n;
    const mr_param *p = mr_model_params(m, &n);
    CHECK_INT(room.n_params, n);
    for (int i = 0; i < n && i < room.n_params; i++) {
        CHECK_STR(room.params[i].name, p[i].name);
        CHECK(room.params[i].rows == p[i].rows && room.params[i].cols == p[i].cols);
    }
    mr_model_room_clear(&room);
    mr_model_close(m);
    /* in full training the masters can be read back */
    o.lora = (mr_lora_opts){ 0 };
    o.full = true;
    REQUIRE_OK(mr_model_open(&m, b, "a shape", &o, &err), err);
    p = mr_model_params(m, &n);
    float first[8] = { 0 };
    int n_matrices = 0;
    for (int i = 0; i < n; i++) {
        if (p[i].rows == 1) continue;
        double sum = 0, squares = 0;
        int64_t count = p[i].rows * p[i].cols;
        float *x = mr_alloc((size_t)count * sizeof(float));
        b->download(b, x, p[i].value, (size_t)count * sizeof(float));
        for (int64_t j = 0; j < count; j++) sum += (double)x[j], squares += (double)x[j] * (double)x[j];
        CHECK_NEAR(sum / (double)count, 0, 0.003);
        CHECK_NEAR(sqrt(squares / (double)count), 0.02, 0.003); /* some hundred values: 1 / sqrt(2 n) is a few per cent */
        CHECK(memcmp(x, x + p[i].cols, (size_t)p[i].cols * sizeof(float)) != 0);
        for (int k = 0; k < n_matrices && k < 8; k++) CHECK(x[0] != first[k]);
        if (n_matrices < 8) first[n_matrices] = x[0];
        n_matrices++;
        mr_free(x);
    }
    CHECK(n_matrices > 10);
    mr_model_close(m);
    o.from_config = false;
    CHECK_INT(mr_model_open(&m, b, "a shape", &o, &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, "needs from_config");
    mr_backend_close(b);
}

TEST_MAIN({ "named", named }, { "plan_of_16_bits", plan_of_16_bits }, { "from_shape", from_shape }, { "families", families }, { "old_layout", old_layout }, { "refused", refused },
          { "wrong_weights", wrong_weights }, { "options", options }, { "resolve", resolve })
