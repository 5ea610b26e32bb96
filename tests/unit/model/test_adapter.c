/* PEFT adapters in and out, damaged ones, and whole models after full training. */
#include <stdlib.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "tiny.h"

static char *scratch(void) {
    char name[] = "/tmp/mr_adapter_XXXXXX";
    REQUIRE(mkdtemp(name) != NULL);
    return mr_strdup(name);
}

static char *slurp(const char *dir, const char *file, size_t *len) {
    char *path = mr_path_join(dir, file), *data = NULL;
    mr_err err;
    REQUIRE_OK(mr_file_read(&data, len, path, (size_t)16 << 20, &err), err);
    mr_free(path);
    return data;
}

static void put(const char *dir, const char *file, const char *text, size_t len) {
    char *path = mr_path_join(dir, file);
    mr_err err;
    REQUIRE_OK(mr_file_write(path, text, len, &err), err);
    mr_free(path);
}

static bool same_file(const char *a, const char *b, const char *file) {
    size_t n = 0, k = 0;
    char *x = slurp(a, file, &n), *y = slurp(b, file, &k);
    bool same = n == k && memcmp(x, y, n) == 0;
    mr_free(x);
    mr_free(y);
    return same;
}

static void peek(void) {
    mr_lora_opts o;
    mr_err err;
    REQUIRE_OK(mr_adapter_peek(&o, GOLDEN("tiny/tiny_qwen2_lora"), &err), err);
    CHECK_INT(o.r, 4);
    CHECK_NEAR(o.lora_alpha, 8, 0);
    CHECK(!o.use_rslora);
    for (int p = 0; p < MR_N_PROJ; p++) CHECK(o.targets[p]);
    CHECK_INT(mr_adapter_peek(&o, GOLDEN("tiny/none"), &err), MR_ENOTFOUND);
    CHECK_INT(o.r, 0);
}

/* Load, save, load, save: the same bytes; and the bytes of PEFT's own tensors come back. */
static void round_trip(void) {
    mr_backend *b = tiny_backend(1);
    mr_err err;
    char *one = scratch(), *two = scratch();
    mr_model *m = tiny_open(b, "tiny_qwen2", "tiny_qwen2_lora", tiny_opts(false));
    REQUIRE_OK(mr_adapter_save(m, one, "org/tiny \"quoted\"", &err), err);
    mr_lora_opts o;
    REQUIRE_OK(mr_adapter_peek(&o, one, &err), err);
    CHECK_INT(o.r, 4);
    CHECK_NEAR(o.lora_alpha, 8, 0);
    tiny_shake(m, 1.0f);
    REQUIRE_OK(mr_adapter_load(m, one, &err), err);
    REQUIRE_OK(mr_adapter_save(m, two, "org/tiny \"quoted\"", &err), err);
    CHECK(same_file(one, two, "adapter_model.safetensors"));
    CHECK(same_file(one, two, "adapter_config.json"));
    mr_tensors *mine = NULL, *theirs = NULL;
    REQUIRE_OK(mr_tensors_open(&theirs, GOLDEN("tiny/tiny_qwen2_lora/adapter_model.safetensors"), &err), err);
    char *path = mr_path_join(one, "adapter_model.safetensors");
    REQUIRE_OK(mr_tensors_open(&mine, path, &err), err);
    CHECK_INT(mr_tensors_count(mine), mr_tensors_count(theirs));
    for (int i = 0; i < mr_tensors_count(theirs); i++) {
        const mr_tensor_info *want = mr_tensors_at(theirs, i), *got = mr_tensors_find(mine, want->name);
        REQUIRE(got != NULL);
        CHECK_STR(got->type, "F32");
        CHECK(got->n_dims == 2 && got->dims[0] == want->dims[0] && got->dims[1] == want->dims[1]);
        CHECK(got->bytes == want->bytes && memcmp(got->data, want->data, want->bytes) == 0);
    }
    cJSON *config = NULL;
    mr_free(path);
    path = mr_path_join(one, "adapter_config.json");
    REQUIRE_OK(mr_json_load(&config, path, 1 << 20, &err), err);
    CHECK_STR(at(config, "base_model_name_or_path")->valuestring, "org/tiny \"quoted\"");
    CHECK_STR(at(config, "task_type")->valuestring, "CAUSAL_LM");
    CHECK_INT(cJSON_GetArraySize(at(config, "target_modules")), 7);
    CHECK(cJSON_IsNull(at(config, "modules_to_save")));
    cJSON_Delete(config);
    mr_free(path);
    mr_tensors_close(mine);
    mr_tensors_close(theirs);
    mr_model_close(m);
    mr_backend_close(b);
    mr_remove_tree(one, NULL);
    mr_remove_tree(two, NULL);
    mr_free(one);
    mr_free(two);
}

/* target_modules as PEFT and unsloth also write it. */
static void target_forms(void) {
    char *dir = scratch();
    size_t n = 0;
    mr_lora_opts o;
    mr_err err;
    char *weights = slurp(GOLDEN("tiny/tiny_qwen2_lora"), "adapter_model.safetensors", &n);
    put(dir, "adapter_model.safetensors", weights, n);
    mr_free(weights);
    static const char all[] = "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":8,\"target_modules\":\"all-linear\"}";
    static const char regex[] =
        "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":8.5,\"use_rslora\":true,\"target_modules\":\"(?:.*?)_proj\"}";
    put(dir, "adapter_config.json", all, strlen(all));
    REQUIRE_OK(mr_adapter_peek(&o, dir, &err), err);
    for (int p = 0; p < MR_N_PROJ; p++) CHECK(o.targets[p]);
    put(dir, "adapter_config.json", regex, strlen(regex));
    REQUIRE_OK(mr_adapter_peek(&o, dir, &err), err);
    for (int p = 0; p < MR_N_PROJ; p++) CHECK(o.targets[p]);
    CHECK(o.use_rslora);
    CHECK_NEAR(o.lora_alpha, 8.5, 0);
    /* names of modules as PEFT matches them: by their last parts; "all-linear" is saved so for models of few layers */
    static const char paths[] = "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":8,\"target_modules\":"
                                "[\"model.layers.0.mlp.up_proj\",\"model.layers.1.mlp.up_proj\",\"self_attn.q_proj\"]}";
    put(dir, "adapter_config.json", paths, strlen(paths));
    REQUIRE_OK(mr_adapter_peek(&o, dir, &err), err);
    for (int p = 0; p < MR_N_PROJ; p++)
        CHECK(o.targets[p] == (strcmp(mr_proj_names[p], "up_proj") == 0 || strcmp(mr_proj_names[p], "q_proj") == 0));
    mr_remove_tree(dir, NULL);
    mr_free(dir);
}

static void damaged_config(void) {
    static const struct {
        const char *text, *part;
    } cases[] = {
        { "{", "adapter_config.json" },
        { "[]", "want an object" },
        { "{\"peft_type\":\"LOHA\",\"r\":4}", "peft_type is \"LOHA\"" },
        { "{\"peft_type\":\"LORA\",\"lora_alpha\":8,\"target_modules\":[\"q_proj\"]}", "\"r\"" },
        { "{\"peft_type\":\"LORA\",\"r\":0,\"lora_alpha\":8,\"target_modules\":[\"q_proj\"]}", "\"r\"" },
        { "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":\"8\",\"target_modules\":[\"q_proj\"]}", "lora_alpha" },
        { "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":-8,\"target_modules\":[\"q_proj\"]}", "lora_alpha is -8" },
        { "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":1e300,\"target_modules\":[\"q_proj\"]}",
          "lora_alpha is 1e+300" },
        { "{\"peft_type\":\"LORA\",\"r\":2147483648,\"lora_alpha\":8,\"target_modules\":[\"q_proj\"]}",
          "\"r\" is 2147483648, want 1..4096" },
        { "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":8,\"target_modules\":[]}", "target_modules" },
        { "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":8,\"target_modules\":[\"lm_head\"]}", "\"lm_head\"" },
        { "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":8,\"target_modules\":[\"xq_proj\"]}", "\"xq_proj\"" },
        { "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":8,\"target_modules\":[\"a.b.\"]}", "\"a.b.\"" },
        { "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":8}", "target_modules" },
        { "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":8,\"target_modules\":[\"q_proj\"],\"use_dora\":true}",
          "use_dora = true" },
        { "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":8,\"target_modules\":[\"q_proj\"],\"bias\":\"all\"}",
          "bias = \"all\"" },
        { "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":8,\"target_modules\":[\"q_proj\"],\"modules_to_save\":[\"lm_"
          "head\"]}",
          "modules_to_save" },
        { "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":8,\"target_modules\":[\"q_proj\"],\"rank_pattern\":{\"q\":8}"
          "}",
          "rank_pattern" },
    };
    char *dir = scratch();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mr_lora_opts o;
        mr_err err = { { 0 } };
        put(dir, "adapter_config.json", cases[i].text, strlen(cases[i].text));
        CHECK_INT(mr_adapter_peek(&o, dir, &err), MR_EDATA);
        CHECK_CONTAINS(err.msg, cases[i].part);
        CHECK_CONTAINS(err.msg, dir);
        CHECK_INT(o.r, 0);
    }
    mr_remove_tree(dir, NULL);
    mr_free(dir);
}

/* A refused adapter leaves the model as it was. */
static void damaged_weights(void) {
    mr_backend *b = tiny_backend(1);
    mr_err err;
    char *dir = scratch();
    size_t n = 0, n_config = 0;
    mr_model *m = tiny_open(b, "tiny_qwen2", "tiny_qwen2_lora", tiny_opts(false));
    int n_params = 0;
    mr_param *p = mr_model_params(m, &n_params);
    float before = device_value(b, p[0].value);
    char *weights = slurp(GOLDEN("tiny/tiny_qwen2_lora"), "adapter_model.safetensors", &n);
    char *config = slurp(GOLDEN("tiny/tiny_qwen2_lora"), "adapter_config.json", &n_config);
    put(dir, "adapter_config.json", config, n_config);
    CHECK(mr_adapter_load(m, dir, &err) != MR_OK); /* no tensors at all */
    put(dir, "adapter_model.safetensors", weights, n / 2);
    CHECK_INT(mr_adapter_load(m, dir, &err), MR_EDATA);
    /* one name is another module's: k_proj of layer 1 -> k_prox */
    char *bad = mr_alloc(n);
    memcpy(bad, weights, n);
    char *hit = memmem(bad, n, "layers.1.self_attn.k_proj.lora_A", 32);
    REQUIRE(hit != NULL);
    memcpy(hit, "layers.1.self_attn.k_prox", 25);
    put(dir, "adapter_model.safetensors", bad, n);
    CHECK_INT(mr_adapter_load(m, dir, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "base_model.model.model.layers.1.self_attn.k_proj.lora_A.weight\" is missing");
    memcpy(bad, weights, n);
    uint32_t nan = 0x7fc00000;
    memcpy(bad + n - 4, &nan, 4);
    put(dir, "adapter_model.safetensors", bad, n);
    CHECK_INT(mr_adapter_load(m, dir, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "no finite number");
    CHECK_INT(mr_adapter_load(m, GOLDEN("tiny/tiny_qwen2"), &err), MR_ENOTFOUND);
    CHECK(device_value(b, p[0].value) == before);
    mr_model_close(m);
    /* opened with other options */
    mr_model_opts o = tiny_opts(false);
    o.lora = tiny_lora(8);
    m = tiny_open(b, "tiny_qwen2", NULL, o);
    CHECK_INT(mr_adapter_load(m, GOLDEN("tiny/tiny_qwen2_lora"), &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, "r = 4");
    mr_model_close(m);
    o.lora = tiny_lora(4);
    o.lora.targets[MR_DOWN_PROJ] = false;
    m = tiny_open(b, "tiny_qwen2", NULL, o);
    CHECK_INT(mr_adapter_load(m, GOLDEN("tiny/tiny_qwen2_lora"), &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, "down_proj");
    mr_model_close(m);
    /* of another model: the widths of v_proj and o_proj differ */
    o.lora = tiny_lora(4);
    m = tiny_open(b, "tiny_smollm2", NULL, o);
    CHECK_INT(mr_adapter_load(m, GOLDEN("tiny/tiny_qwen2_lora"), &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "is this the adapter of another model?");
    mr_model_close(m);
    m = tiny_open(b, "tiny_qwen2", NULL, tiny_opts(false));
    CHECK_INT(mr_adapter_load(m, GOLDEN("tiny/tiny_qwen2_lora"), &err), MR_EINVAL);
    CHECK_INT(mr_adapter_save(m, dir, "x", &err), MR_EINVAL);
    CHECK_INT(mr_model_save(m, dir, &err), MR_EINVAL);
    mr_model_close(m);
    mr_free(bad);
    mr_free(weights);
    mr_free(config);
    mr_backend_close(b);
    mr_remove_tree(dir, NULL);
    mr_free(dir);
}

static double logit_gap(mr_model *a, mr_model *c) {
    static tiny_pack k;
    tiny_group g;
    group_draw(&g, 2, 12, 6, 96, 9);
    group_pack(&g, &k);
    double worst = 0;
    float x[96], y[96];
    mr_decoder *d = tiny_decoder(a, 64, 512, false), *e = tiny_decoder(c, 64, 512, false);
    mr_decoder_forward(d, &k.p);
    mr_decoder_forward(e, &k.p);
    for (int32_t row = 0; row < k.p.n_rows; row++) {
        mr_decoder_logits(d, x, &row, 1);
        mr_decoder_logits(e, y, &row, 1);
        for (int i = 0; i < 96; i++) worst = fmax(worst, fabs((double)x[i] - (double)y[i]));
    }
    mr_decoder_close(d);
    mr_decoder_close(e);
    return worst;
}

/* From a configuration alone: reproducible from the seed; trained in full, saved, opened again. */
static void full_model(const char *name) {
    mr_backend *b = tiny_backend(1);
    mr_err err;
    char *dir = scratch();
    mr_model_opts o = tiny_opts(true);
    o.full = o.from_config = true;
    o.seed = 3;
    mr_model *m = tiny_open(b, name, NULL, o), *again = tiny_open(b, name, NULL, o);
    int n = 0;
    mr_param *p = mr_model_params(m, &n);
    CHECK_STR(p[0].name, "model.embed_tokens.weight");
    double sum = 0;
    int64_t count = p[0].rows * p[0].cols;
    float *table = device_copy(b, p[0].value, count);
    for (int64_t i = 0; i < count; i++) sum += (double)table[i] * (double)table[i];
    mr_free(table);
    CHECK_NEAR(sqrt(sum / (double)count), 0.02, 0.002);
    CHECK_NEAR(device_value(b, p[1].value), 1, 0); /* input_layernorm */
    CHECK(logit_gap(m, again) == 0);
    o.seed = 4;
    mr_model_close(again);
    again = tiny_open(b, name, NULL, o);
    CHECK(logit_gap(m, again) > 0);
    mr_model_close(again);
    tiny_shake(m, 0.1f);
    for (int i = 0; i < n; i++) { /* as saved, so that the comparison can be exact */
        count = p[i].rows * p[i].cols;
        float *host = device_copy(b, p[i].value, count);
        for (int64_t j = 0; j < count; j++) host[j] = mr_bf16_to_f32(mr_f32_to_bf16(host[j]));
        device_put(b, p[i].value, host, count);
        mr_free(host);
    }
    mr_model_refresh(m);
    REQUIRE_OK(mr_model_save(m, dir, &err), err);
    REQUIRE_OK(mr_model_open(&again, b, dir, &(mr_model_opts){ .store = MR_F32, .compute = MR_F32 }, &err), err);
    CHECK(logit_gap(m, again) == 0);
    mr_model_close(again);
    cJSON *config = NULL;
    char *path = mr_path_join(dir, "config.json");
    REQUIRE_OK(mr_json_load(&config, path, 1 << 20, &err), err);
    CHECK_STR(at(config, "dtype")->valuestring, "bfloat16");
    CHECK_INT(at(config, "vocab_size")->valuedouble, 96);
    cJSON_Delete(config);
    mr_free(path);
    mr_model_close(m);
    mr_backend_close(b);
    mr_remove_tree(dir, NULL);
    mr_free(dir);
}

static void full_tied(void) {
    full_model("tiny_qwen2");
}
static void full_untied(void) {
    full_model("tiny_llama3");
}

TEST_MAIN({ "peek", peek }, { "round_trip", round_trip }, { "target_forms", target_forms },
          { "damaged_config", damaged_config }, { "damaged_weights", damaged_weights }, { "full_tied", full_tied },
          { "full_untied", full_untied })
