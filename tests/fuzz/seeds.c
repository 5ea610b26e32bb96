/* seeds.c - small files of our own to begin with, by target; each is made here, so that every byte of it is known. */
#include "base/fsafe.h"
#include "fuzz.h"

static fuzz_seeds formats[32]; /* the last one stays empty */
static int n_formats;

static fuzz_seeds *format(const char *name, bool text, size_t fixed) {
    formats[n_formats] = (fuzz_seeds){ .format = name, .text = text, .fixed = fixed };
    return &formats[n_formats++];
}
static mr_str *seed(fuzz_seeds *f) {
    PROMISE(f->n < 8, "too many seeds");
    return &f->seed[f->n++];
}
static void text_seed(fuzz_seeds *f, const char *first, size_t n_first, const char *text) {
    mr_str *s = seed(f);
    mr_str_add(s, first, n_first);
    mr_str_puts(s, text);
}

static void u32(mr_str *s, uint32_t x) {
    mr_str_add(s, &x, 4);
}
static void u64(mr_str *s, uint64_t x) {
    mr_str_add(s, &x, 8);
}
static void counted(mr_str *s, const char *t) {
    u64(s, strlen(t));
    mr_str_puts(s, t);
}
static void zeros(mr_str *s, size_t n) {
    while (n--) mr_str_add(s, "", 1);
}

/* ---- containers ---- */

static void safetensors(mr_str *s, const char *header, size_t pad, size_t data) {
    u64(s, strlen(header) + pad);
    mr_str_puts(s, header);
    while (pad--) mr_str_puts(s, " ");
    for (size_t i = 0; i < data; i++) mr_str_add(s, &(char){ (char)(i * 7 + 1) }, 1);
}

static void safetensors_seeds(void) {
    fuzz_seeds *f = format("safetensors", false, 0);
    safetensors(seed(f), "{}", 0, 0);
    safetensors(seed(f), "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}", 7, 16);
    safetensors(seed(f),
                "{\"__metadata__\":{\"format\":\"pt\",\"note\":\"a \\\"b\\\" \\u00e9\"},"
                "\"w\":{\"dtype\":\"BF16\",\"shape\":[3,4],\"data_offsets\":[16,40]},"
                "\"s\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},\"h\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[8,16]},"
                "\"none\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[40,40]},\"u\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[40,43]}}",
                3, 43);
    mr_str header = { 0 };
    mr_str_puts(&header, "{");
    for (int i = 0; i < 24; i++)
        mr_str_printf(&header, "%s\"model.layers.%d.w\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[%d,%d]}", i ? "," : "", i, 8 * i, 8 * i + 8);
    mr_str_puts(&header, "}");
    safetensors(seed(f), header.data, 0, 192);
    mr_str_clear(&header);
}

/* With the block types that medrl reads, llama's row order, and metadata of every kind. */
static void gguf(mr_str *s, uint32_t version, const char *arch, uint32_t type, size_t block_bytes, uint64_t heads) {
    mr_str_puts(s, "GGUF");
    u32(s, version), u64(s, 3), u64(s, 8);
    counted(s, "general.architecture"), u32(s, 8), counted(s, arch);
    counted(s, "general.alignment"), u32(s, 4), u32(s, 32);
    counted(s, "llama.attention.head_count"), u32(s, 4), u32(s, (uint32_t)heads);
    counted(s, "words"), u32(s, 9), u32(s, 8), u64(s, 3), counted(s, "a"), counted(s, ""), counted(s, "c\xc3\xa9");
    counted(s, "numbers"), u32(s, 9), u32(s, 3), u64(s, 2), mr_str_add(s, "\xf9\xff\x09\x00", 4);
    counted(s, "pi"), u32(s, 6), u32(s, 0x40500000);
    counted(s, "yes"), u32(s, 7), mr_str_add(s, "\1", 1);
    counted(s, "big"), u32(s, 10), u64(s, 1ull << 40);
    counted(s, "blk.0.attn_q.weight"), u32(s, 2), u64(s, 3), u64(s, 8), u32(s, 0), u64(s, 0);
    counted(s, "token_embd.weight"), u32(s, 2), u64(s, 32), u64(s, 2), u32(s, type), u64(s, 96);
    counted(s, "output_norm.weight"), u32(s, 1), u64(s, 4), u32(s, 0), u64(s, (96 + 2 * block_bytes + 31) / 32 * 32);
    zeros(s, (32 - s->len % 32) % 32);
    size_t data = s->len;
    for (int i = 0; i < 24; i++) mr_str_add(s, &(float){ (float)i }, 4);
    zeros(s, 2 * block_bytes);
    zeros(s, (32 - (s->len - data) % 32) % 32);
    zeros(s, 16);
}

static void gguf_seeds(void) {
    fuzz_seeds *f = format("gguf", false, 0);
    mr_str *none = seed(f);
    mr_str_puts(none, "GGUF"), u32(none, 3), u64(none, 0), u64(none, 0);
    gguf(seed(f), 3, "llama", 8, 34, 2);
    gguf(seed(f), 2, "qwen2", 0, 128, 2);
    gguf(seed(f), 3, "llama", 2, 18, 4);
    gguf(seed(f), 3, "qwen3", 3, 20, 1);
}

/* ---- text ---- */

static const char json_a[] = "{\"a\": [1, -2.5e3, true, false, null, \"x\\u00e9\\n\\ud83d\\ude00\"], \"b\": {\"c\": {}, \"d\": [[]]}, \"e\\u0061\": 9007199254740991}";
static const char json_b[] = " [0, 0.5, 1e308, -0, 12345678901234567890e-10, \"\", \"\\\\\\/\\b\\f\\r\\t\", {\"k\": \"v\", \"k2\": [{}]}, [[[[[1]]]]]] ";

static void json_seeds(void) {
    fuzz_seeds *f = format("json", true, 0);
    text_seed(f, "", 0, json_a), text_seed(f, "", 0, json_b);
    text_seed(f, "", 0, "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\""), text_seed(f, "", 0, "-0.0e+0");
    mr_str *deep = seed(f);
    for (int i = 0; i < 60; i++) mr_str_puts(deep, i % 2 ? "{\"a\":" : "[");
    mr_str_puts(deep, "1");
    for (int i = 59; i >= 0; i--) mr_str_puts(deep, i % 2 ? "}" : "]");
}

static void rows_seeds(void) {
    fuzz_seeds *f = format("jsonl", true, 1);
    text_seed(f, "\0", 1, "{\"question\": \"Is it?\", \"answer\": \"yes\", \"n\": 1}\n\n{\"question\": \"caf\\u00e9\", \"answer\": [1, {\"b\": null}]}\r\n{\"a\":2}");
    text_seed(f, "\0", 1, "\xef\xbb\xbf{\"a\": 1}\n{\"a\": \"x\"}\n");
    text_seed(f, "\3", 1, "[{\"a\": 1},\n {\"a\": \"\\u00e9]\"}, {\"b\": [1, 2, {\"c\": \"}\"}]}]\n");
    f = format("csv", true, 1);
    text_seed(f, "\1", 1, "question,answer,n\n\"Is it, then?\",yes,1\n\"two\nlines\",\"say \"\"hi\"\"\",2\n,,\n");
    text_seed(f, "\1", 1, "\xef\xbb\xbf\"a\",b\r\n1,\"x\r\ny\"\r\n\"\",z\r\n");
    text_seed(f, "\2", 1, "a\tb\n1\tx\n\"2\t\"\ty\n");
}

static const char byte_bpe[] =
    "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[{\"id\":8,\"content\":\"<|end|>\",\"single_word\":false,"
    "\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true},{\"id\":9,\"content\":\"<answer>\",\"single_word\":false,\"lstrip\":false,"
    "\"rstrip\":false,\"normalized\":false,\"special\":false}],\"normalizer\":%s,\"pre_tokenizer\":%s,\"post_processor\":null,"
    "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},\"model\":{\"type\":\"BPE\",\"dropout\":null,"
    "\"unk_token\":null,\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":%s,"
    "\"vocab\":{%s},\"merges\":[%s]}}";

static void tokenizer_seeds(void) {
    static const char bytes[] = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}",
                      digits[] = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true},{\"type\":\"ByteLevel\","
                                 "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}]}",
                      eight[] = "\"T\":0,\"h\":1,\"e\":2,\"\\u0120\":3,\"Th\":4,\"The\":5,\"1\":6,\"2\":7";
    fuzz_seeds *f = format("tokenizer", true, 0);
    mr_str_printf(seed(f), byte_bpe, "null", bytes, "false", eight, "\"T h\",\"Th e\"");
    mr_str_printf(seed(f), byte_bpe, "{\"type\":\"NFC\"}", digits, "true", eight, "[\"T\",\"h\"],[\"Th\",\"e\"]");
    char *text;
    size_t len;
    if (mr_file_read(&text, &len, MR_FUZZ_ROOT "/examples/nano/tokenizer.json", 1 << 20, NULL) == MR_OK) {
        mr_str_add(seed(f), text, len);
        mr_free(text);
    }
}

static void encode_seeds(void) {
    fuzz_seeds *f = format("encode", false, 0);
    text_seed(f, "", 0, "The answer is <answer>12</answer><|im_end|>\n  3.14, don't: \xc3\xa9t\xc3\xa9 \xe4\xb8\xad\xe6\x96\x87 \xf0\x9f\x98\x80\tx");
    text_seed(f, "", 0, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa      \n\n\n\r\n");
    text_seed(f, "", 0, "\xff\xfe\xc0\x80\xed\xa0\x80 <|im_start|>system <|endoftext|");
}

static void adapter_seeds(void) {
    fuzz_seeds *f = format("adapter_config", true, 1);
    text_seed(f, "\0", 1, "{\"peft_type\": \"LORA\", \"r\": 8, \"lora_alpha\": 16, \"target_modules\": [\"q_proj\", \"v_proj\"], \"bias\": \"none\", \"use_rslora\": true}");
    text_seed(f, "\0", 1,
              "{\"alpha_pattern\": {}, \"auto_mapping\": null, \"base_model_name_or_path\": \"a/b\", \"bias\": \"none\", \"fan_in_fan_out\": false, "
              "\"init_lora_weights\": true, \"layers_pattern\": null, \"lora_alpha\": 8, \"lora_bias\": false, \"lora_dropout\": 0.0, \"modules_to_save\": null, "
              "\"peft_type\": \"LORA\", \"r\": 4, \"rank_pattern\": {}, \"target_modules\": \"all-linear\", \"task_type\": \"CAUSAL_LM\", \"use_dora\": false}");
    text_seed(f, "\0", 1, "{\"peft_type\": \"LORA\", \"r\": 1, \"lora_alpha\": 0.5, \"target_modules\": [\"down_proj\"], \"something\": [1]}");
    f = format("config", true, 1);
    text_seed(f, "\1", 1,
              "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 384, \"hidden_size\": 128, \"intermediate_size\": 352, "
              "\"num_hidden_layers\": 4, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 32, \"hidden_act\": \"silu\", "
              "\"max_position_embeddings\": 512, \"rms_norm_eps\": 1e-05, \"rope_theta\": 10000.0, \"tie_word_embeddings\": true, \"attention_bias\": false, "
              "\"rope_scaling\": {\"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 256, \"rope_type\": \"llama3\"}}");
    text_seed(f, "\1", 1,
              "{\"model_type\": \"qwen2\", \"vocab_size\": 512, \"hidden_size\": 64, \"intermediate_size\": 128, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
              "\"num_key_value_heads\": 2, \"hidden_act\": \"silu\", \"max_position_embeddings\": 512, \"rms_norm_eps\": 1e-06, \"rope_theta\": 1000000.0, "
              "\"use_sliding_window\": false, \"tie_word_embeddings\": true}");
    text_seed(f, "\1", 1,
              "{\"model_type\": \"qwen3\", \"vocab_size\": 512, \"hidden_size\": 64, \"intermediate_size\": 128, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
              "\"num_key_value_heads\": 2, \"head_dim\": 32, \"hidden_act\": \"silu\", \"max_position_embeddings\": 512, \"rms_norm_eps\": 1e-06, \"rope_theta\": 1000000}");
}

static void checkpoint_seeds(void) {
    char o[65], s[65];
    mr_sha256(o, "o", 1), mr_sha256(s, "{}", 2);
    fuzz_seeds *f = format("manifest", true, 1);
    for (int i = 0; i < 3; i++) {
        mr_str *m = seed(f);
        mr_str_add(m, "\0", 1);
        if (i == 2) mr_str_printf(m, "%s  adapter_model.safetensors\n", s);
        mr_str_printf(m, "%s  %s\n", i == 1 ? s : o, i == 1 ? "trainer_state.json" : "optimizer.safetensors");
        mr_str_printf(m, "%s  %s\n", i == 1 ? o : s, i == 1 ? "optimizer.safetensors" : "trainer_state.json");
    }
    mr_str_add(&f->seed[2], "", 1); /* found by fuzzing: a name that ends at a NUL was taken for the name before it */
    mr_str_printf(&f->seed[2], "%s  optimizer.safetensors", o), mr_str_add(&f->seed[2], "\0x\n", 3);
    f = format("trainer_state", true, 1);
    text_seed(f, "\1", 1, "{\n  \"global_step\": 3,\n  \"log_history\": [{\"loss\": 0.5, \"step\": 1}],\n  \"medrl\": {\"position\": {\"step\": 3, \"seed\": 7}}\n}\n");
    text_seed(f, "\1", 1, json_a);
    text_seed(f, "\1", 1, "{\"best_metric\": null, \"epoch\": 0.25, \"max_steps\": 20, \"num_train_epochs\": 1}");
}

static void recipe_seeds(void) {
    static const char full[] = "{\"model\":{\"name\":\"examples/nano\",\"max_seq_length\":128,\"load_in_4bit\":false},\"lora\":{\"r\":4,\"lora_alpha\":8,\"target_modules\":"
                               "[\"q_proj\",\"v_proj\"]},\"data\":{\"train\":[1]},\"rewards\":[\"xmlcount\",{\"name\":\"soft_format\",\"weight\":0.5}],\"grpo\":{\"learning_rate\":0.001,"
                               "\"optim\":\"adamw_8bit\",\"prompts_per_step\":2,\"num_generations\":4,\"max_prompt_length\":64,\"max_completion_length\":16,\"max_steps\":6,"
                               "\"save_steps\":2,\"save_total_limit\":2,\"temperature\":0.9,\"top_p\":0.95,\"top_k\":50,\"beta\":0.04,\"loss_type\":\"dapo\",\"seed\":7}}";
    fuzz_seeds *f = format("recipe", true, 0);
    mr_str *s = seed(f);
    mr_str_add(s, full, sizeof full), mr_str_puts(s, "grpo.max_steps=20");
    text_seed(f, "", 0, "{\"model\":{\"name\":\"x\"},\"method\":\"sft\",\"sft\":{\"max_steps\":2,\"lr_scheduler_type\":\"cosine\",\"warmup_ratio\":0.1},\"data\":{\"train\":[]}}");
    s = seed(f);
    mr_str_add(s, "{}", 3), mr_str_puts(s, "model.name=\"x\"");
    text_seed(f, "", 0, "{\"model\":{\"name\":\"x\"},\"rewards\":[\"a\"],\"grpo\":{\"per_device_train_batch_size\":8,\"gradient_accumulation_steps\":4,\"num_generations\":8}}");
}

static void template_seeds(void) {
    fuzz_seeds *f = format("template", true, 0);
    text_seed(f, "", 0, "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
                        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}");
    text_seed(f, "", 0, "{%- set ns = namespace(n=0) -%}{%- for m in messages if m.role != 'tool' -%}{{ loop.index0 ~ m.content | trim | upper }}"
                        "{%- set ns.n = ns.n + 1 -%}{%- else -%}none{%- endfor -%}{{ raise_exception('x') if ns.n > 3 else '' }}{# note #}");
    text_seed(f, "", 0, "{% macro f(a, b='c') %}{{ a[1:] }}{{ b is defined and not (a == 'x' or 1 < 2) }}{% endmacro %}{{ f('ab', b=[1, {'k': 2.5}]) }}{% raw %}{{ x }}{% endraw %}");
}

/* ---- wires ---- */

static void frame(mr_str *s, uint32_t type, const mr_str *body) {
    u32(s, type), u32(s, (uint32_t)body->len);
    mr_str_add(s, body->data, body->len);
}
static void bytes_of(mr_str *s, const char *t) {
    u32(s, (uint32_t)strlen(t));
    mr_str_puts(s, t);
}

/* wire.h: READY 18, REPLY 11, SCORED 13 in this order of the enumeration; checked by test_wire and by what is accepted here. */
enum { REPLY = 11, ERROR, SCORED, NEED_TEXT, NEED_FILE, LOG, TICK, READY };

static void worker(mr_str *s, int rewards, const char *json, bool asks) {
    mr_str b = { 0 };
    mr_str_add(&b, "\3", 1), bytes_of(&b, "");
    frame(s, READY, &b), b.len = 0;
    if (asks) {
        u32(&b, 2), bytes_of(&b, "a line"), frame(s, LOG, &b), b.len = 0;
        mr_str_puts(&b, "rewards.soft_format"), frame(s, NEED_TEXT, &b), b.len = 0;
        mr_str_puts(&b, "/etc/passwd"), frame(s, NEED_FILE, &b), b.len = 0;
        frame(s, TICK, &(mr_str){ 0 });
    }
    bytes_of(&b, json), u32(&b, (uint32_t)rewards);
    for (int i = 0; i < rewards; i++) {
        bytes_of(&b, i ? "second" : "fake"), bytes_of(&b, "rewards/fake.lua");
        mr_str_add(&b, &(double){ -1 }, 8), mr_str_add(&b, "\0\0", 2); /* alone, and what a fault does */
    }
    bytes_of(&b, "");
    frame(s, REPLY, &b), b.len = 0;
    for (int64_t id = 0; id < 2; id++) {
        u64(&b, (uint64_t)id), u32(&b, (uint32_t)rewards);
        for (int i = 0; i < rewards; i++) {
            u32(&b, 0), u32(&b, (uint32_t)i), mr_str_add(&b, &(char){ (char)(id && i ? 2 : 0) }, 1);
            mr_str_add(&b, &(double){ 0.5 }, 8), bytes_of(&b, id && i ? "fake.lua:1: no" : "");
        }
        frame(s, SCORED, &b), b.len = 0;
    }
    mr_str_clear(&b);
}

static void replies_seeds(void) {
    fuzz_seeds *f = format("replies", false, 0);
    worker(seed(f), 1, "{\"rewards\":[\"fake\"]}", false);
    worker(seed(f), 2, "{\"rewards\":[\"fake\",\"second\"]}", true);
    mr_str b = { 0 }, *s = seed(f);
    mr_str_add(&b, "\2", 1), bytes_of(&b, "landlock"), frame(s, READY, &b), b.len = 0;
    u32(&b, (uint32_t)-1), bytes_of(&b, "fake.lua:1: a mistake"), frame(s, ERROR, &b);
    mr_str_clear(&b);
}

static void wire_seeds(void) {
    fuzz_seeds *f = format("wire", false, 0);
    worker(seed(f), 1, "{\"rewards\":[\"fake\"]}", true);
    mr_str b = { 0 }, *s = seed(f);
    for (uint32_t type = 1; type < 20; type++) u32(&b, type), frame(s, type, &b);
    mr_str_clear(&b);
    s = seed(f);
    for (int i = 0; i < 6; i++) mr_str_add(s, &(char){ (char)i }, 1);
}

static void control_seeds(void) {
    fuzz_seeds *f = format("control", true, 0);
    text_seed(f, "", 0, "{\"id\":1,\"method\":\"status\"}\n{\"id\":\"x\",\"method\":\"set\",\"args\":{\"grpo.learning_rate\":1e-06}}\n");
    text_seed(f, "", 0, "{\"method\":\"later\",\"id\":3,\"args\":null}\r\n\n{\"id\":4,\"method\":\"watch\"}\n{\"id\":[5],\"method\":\"bad\"}\nhalf a line");
    text_seed(f, "", 0, "[]\n{}\n{\"id\":1}\n{\"id\":1,\"method\":7}\n{\"id\":2,\"method\":\"x\",\"args\":[1]}\n");
    mr_str *s = seed(f);
    mr_str_puts(s, "{\"id\":1,\"method\":\"code\",\"args\":{\"text\":\"");
    for (int i = 0; i < 2000; i++) mr_str_puts(s, "0123456789abcdef0123456789abcdef1");
    mr_str_puts(s, "\"}}\n");
}

static void lua_seeds(void) {
    fuzz_seeds *f = format("lua", true, 1);
    text_seed(f, "\0", 1, "local M = { name = \"own\", range = { 0, 6 }, cases = { { \"abc\", {}, 1 } } }\nfunction M.score(c) return #c % 2 end\nreturn M\n");
    text_seed(f, "\0", 1, "local re = require \"medrl.re\"\nlocal p = re.compile(\"<answer>\\\\s*(.)\")\nreturn { score_batch = function(s) local r = {} "
                          "for i = 1, #s do r[i] = p:match(s[i].completion) and 1 or 0 end return r end }\n");
    text_seed(f, "\1", 1, "return { function() return os.execute(\"id\") end, function() return string.rep(\"x\", 1e9) end,\n"
                          "function() return load(\"x\") end, function() error(setmetatable({}, { __tostring = error })) end }");
    text_seed(f, "\1", 1, "return 0/0");
    text_seed(f, "\2", 1, "local function score(c) return #c end\nreturn { score = score, cases = { { \"a\", {}, 1 } } }\n");
    text_seed(f, "\3", 1, "return x.y");
    text_seed(f, "\1", 1, "return (\"a\"):rep(28):find((\"a*\"):rep(8)..\"b\") or string.format(\"%5.2f %q\", 1e308, \"x\")");
}

/* ---- packed files ---- */

static void file_seed(fuzz_seeds *f, const char *name) {
    char *data, *path = mr_asprintf("%s/tests/golden/parquet/%s.parquet", MR_FUZZ_ROOT, name);
    size_t len;
    mr_err err;
    PROMISE(mr_file_read(&data, &len, path, 1 << 20, &err) == MR_OK, "%s", err.msg);
    mr_str_add(seed(f), data, len);
    mr_free(data);
    mr_free(path);
}

static void parquet_seeds(void) {
    static const char *const layouts[] = { "gsm8k_like", "pubmedqa_artificial_like", "pubmedqa_labeled_like", "odd_empty", "odd_map" },
                      *const codings[] = { "codec_none", "codec_zstd_v2", "codec_lz4_v2", "codec_snappy_checksums", "odd_int96", "odd_decimal" };
    fuzz_seeds *f = format("parquet", false, 0);
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) file_seed(f, layouts[i]);
    f = format("parquet-codings", false, 0);
    for (size_t i = 0; i < sizeof codings / sizeof *codings; i++) file_seed(f, codings[i]);
}

/* The same lines as gzip and zstd made them, and a row cache of two rows. */
static void packed_seeds(void) {
    static const uint8_t gz[] = { 
        0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0xab, 0x56, 0x2a, 0x54, 0xb2, 0x52, 0x30, 0xd0, 0x51, 0x50,
        0x4a, 0x04, 0xd2, 0x4a, 0x4a, 0xb5, 0x5c, 0xd5, 0x60, 0x11, 0x43, 0x98, 0x48, 0x05, 0x5c, 0xc8, 0x08, 0x2e, 0x84, 0x10,
        0x33, 0x46, 0x88, 0x21, 0x04, 0x4d, 0x90, 0x04, 0x11, 0xa2, 0xa6, 0xc8, 0xa2, 0x08, 0x61, 0x33, 0x14, 0x61, 0x84, 0xb8,
        0x39, 0xaa, 0x38, 0x42, 0xc2, 0x02, 0x4d, 0x02, 0x21, 0x63, 0x89, 0xe9, 0x0b, 0x03, 0x4c, 0x6f, 0x18, 0x1a, 0xa2, 0xf8,
        0x03, 0x00, 0x1f, 0x5e, 0xd5, 0x6c, 0x01, 0x01, 0x00, 0x00
    },
                         zst[] = {
        0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x68, 0x3d, 0x02, 0x00, 0xf8, 0x7b, 0x22, 0x71, 0x22, 0x3a, 0x20, 0x30, 0x2c, 0x20, 0x22,
        0x61, 0x22, 0x3a, 0x20, 0x22, 0x22, 0x7d, 0x0a, 0x31, 0x78, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x30, 0x31,
        0x31, 0x14, 0xa0, 0xc0, 0xf6, 0xfa, 0x6f, 0xe0, 0x42, 0x5e, 0x07, 0xcb, 0x1c, 0x94, 0xeb, 0x4d, 0xf6, 0x34, 0x74, 0x11,
        0xef, 0x0a, 0x57, 0xa9, 0x56, 0x1d, 0x0a, 0x33, 0xb7, 0x44, 0x4d, 0xa5, 0xb3, 0x2b, 0x6d, 0x81, 0x88, 0x1a, 0x6a, 0x0a,
        0x88, 0x67, 0x42, 0xf4
    },
                         cache[] = {
        0x7b, 0x22, 0x71, 0x22, 0x3a, 0x20, 0x31, 0x7d, 0x0a, 0x7b, 0x22, 0x71, 0x22, 0x3a, 0x20, 0x22, 0x74, 0x77, 0x6f, 0x22,
        0x7d, 0x0a, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x09, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x6d, 0x65,
        0x64, 0x72, 0x6c, 0x20, 0x72, 0x6f, 0x77, 0x73, 0x2c, 0x20, 0x76, 0x31, 0x0a, 0x00, 0x07, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x16, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xb0, 0x03, 0x09, 0x11, 0xeb, 0xcf, 0xde, 0x61, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x18, 0xf9, 0xe8, 0x67, 0x49, 0xc9, 0x7c, 0x93
    };
    fuzz_seeds *f = format("packed", false, 1);
    const struct {
        const uint8_t *bytes;
        size_t len;
    } all[] = { { gz, sizeof gz }, { zst, sizeof zst }, { cache, sizeof cache } };
    for (size_t i = 0; i < 3; i++) {
        mr_str *s = seed(f);
        mr_str_add(s, &(char){ (char)i }, 1);
        mr_str_add(s, all[i].bytes, all[i].len);
    }
}

fuzz_seeds *fuzz_all_seeds(const char *target) {
    static const struct {
        const char *target;
        void (*make)(void);
    } makers[] = {
        { "safetensors", safetensors_seeds }, { "gguf", gguf_seeds },         { "json", json_seeds },     { "rows", rows_seeds },
        { "tokenizer", tokenizer_seeds },     { "encode", encode_seeds },     { "adapter", adapter_seeds }, { "checkpoint", checkpoint_seeds },
        { "recipe", recipe_seeds },           { "template", template_seeds }, { "replies", replies_seeds }, { "wire", wire_seeds },
        { "control", control_seeds },         { "lua", lua_seeds },
        { "parquet", parquet_seeds },   { "packed", packed_seeds },
    };
    for (size_t i = 0; i < sizeof makers / sizeof *makers; i++)
        if (!strcmp(makers[i].target, target)) makers[i].make();
    PROMISE(n_formats, "no seeds for %s", target);
    return formats;
}
