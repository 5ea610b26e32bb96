/* test_recipe.c - recipes: what is wrong is said with file and line; on_cpu and --set in their order; what comes with
 * medrl opens, and its numbers are those of the published recipe. */
#include "unit/script/script_test.h"

static void mistakes_say_file_and_line(void) {
    static const char *const cases[][2] = {
        { "return {\n  rewards = {,\n}\n", "r.lua:2: unexpected symbol near ','" },
        { "local x = nil\nlocal y = x.field\nreturn {}\n", "r.lua:2: attempt to index local 'x' (a nil value)" },
        { "local data = require 'medrl.data'\nlocal t = data.take(3)\nreturn t\n",
          "r.lua:2: attempt to call field 'take' (a nil value)" },
        { "local data = require 'medrl.data'\nreturn { data = { train = data.get(5) } }\n",
          "r.lua:2: data.get: the name is a number, want a string" },
        { "local data = require 'medrl.data'\n\nlocal d = data.get 'x':shuffle(-1)\nreturn {}\n",
          "r.lua:3: shuffle: the seed is not a whole number from 0 on" },
        { "local data = require 'medrl.data'\nreturn { d = data.interleave { data.get 'a', data.get 'b', probabilities "
          "= { 0.5, 0.6 }, seed = 1 } }\n",
          "r.lua:2: data.interleave: the probabilities sum to 1.1, want 1" },
        { "local data = require 'medrl.data'\nreturn { d = data.concatenate { data.get 'a', 5 } }\n",
          "r.lua:2: data.concatenate: entry 2 is a number, want a data set" },
        { "return 5\n", "r.lua: the file returned a number, want a recipe (a table)" },
        { "", "r.lua: the file returns nothing, want a recipe: end it with return { ... }" },
        { "local s = 'x'\nwhile true do s = s .. s end\n", "r.lua: not enough memory" },
        { "error {}\n", "r.lua: the error object is a table, want a string" },
        { "return { data = { trian = 5 } }\n",
          "r.lua: unknown key \"data.trian\", want train, eval, files, system or shots" },
        { "local data = require 'medrl.data'\nreturn { data = { train = data.get 'a', files = { b = 'x.jsonl' } } }\n",
          "r.lua: data.files.b: the recipe reads no data set of that name, it reads a" },
        { "return { rewards = { { 'xmlcount', weight = 'x' } } }\n", "r.lua: rewards[1]: weight is a string, want a number" },
        { "return { rewards = { 'noscore' } }\n", "rewards/noscore.lua: score is missing, want a function score(" },
        { "return { rewards = { 'batch' } }\n", "rewards/batch.lua: both score and score_batch are there, want one of them" },
        { "return { rewards = 'xmlcount' }\n", "r.lua: rewards is a string, want a list of names" },
        { "return { rewards = { 5 } }\n", "r.lua: rewards[1] is a number, want a name" },
        { "return { rewards = { 'nothere' } }\n",
          "r.lua: rewards[1]: module \"rewards.nothere\" was not found; looked for ./rewards/nothere.lua" },
        { "return { rewards = { 'xmlcount', 'xmlcount' } }\n", "r.lua: reward \"xmlcount\" is there twice" },
        { "return { rewards = { { 'soft_format', dotal = true } } }\n",
          "r.lua: rewards[1] (soft_format): unknown option \"dotal\"" },
        { "return { rewards = { { 'soft_format', dotall = 1 } } }\n", "option \"dotall\" is a number, want a boolean" },
        { "return { on_cpu = 5 }\n", "r.lua: on_cpu is a number, want a table" },
        { "return { grpo = { seed = 0 / 0 } }\n", "r.lua: grpo.seed is NaN" },
        { "return { grpo = { 1, x = 2 } }\n", "r.lua: grpo mixes a list with names" },
        { "return { rewards = {}, reward_weights = { 1 } }\n", "r.lua: reward_weights is" },
        { "return { rewards = { 'wrongname' } }\n",
          "rewards/wrongname.lua: M.name is \"other\", want the file's name \"wrongname\"" },
        { "return { rewards = { 'badcase' } }\n", "rewards/badcase.lua: case 1 (\"x\"): got 2, want 1" },
        { "return { rewards = { 'badrange' } }\n", "rewards/badrange.lua: range is not { lowest, highest }" },
        { "return { rewards = { 'badload' } }\n", "rewards/badload.lua:2: attempt to" },
        { "return { rewards = { 'circle' } }\n", "requires itself, through the files in between" },
        { "\x1bLJ", "r.lua: byte 0: this is bytecode, want Lua source text" },
        { "while true do end\n", "r.lua: loading the file: no answer for" },
    };
    put_file("rewards/noscore.lua", "return { name = 'noscore' }\n");
    put_file("rewards/batch.lua", "return { score = print, score_batch = function(samples) return {} end }\n");
    put_file("rewards/wrongname.lua", "return { name = 'other', score = function() return 1 end }\n");
    put_file("rewards/badcase.lua", "return { score = function() return 2 end, cases = { { 'x', {}, 1 } } }\n");
    put_file("rewards/badrange.lua", "return { score = function() return 2 end, range = { 2, 1 } }\n");
    put_file("rewards/badload.lua", "local t = nil\nt.x = 1\n");
    put_file("rewards/circle.lua", "local other = require 'rewards.circle2'\nreturn { score = other }\n");
    put_file("rewards/circle2.lua", "return require 'rewards.circle'\n");
    mr_pool_opts o = { .n_workers = 1, .deadline_s = 2 };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put_file("r.lua", cases[i][0]);
        if (i + 1 == sizeof cases / sizeof cases[0]) o.deadline_s = 0.05;
        CHECK_CONTAINS(refusal("r.lua", &o), cases[i][1]);
    }
    CHECK_CONTAINS(refusal("nowhere.lua", NULL), "nowhere.lua: no such file here or in ");
}

static char *resolved(const char *recipe, bool on_cpu, const char *const *overrides) {
    mr_pool_opts o = { .n_workers = 1, .deadline_s = 5, .on_cpu = on_cpu, .overrides = overrides };
    mr_pool *p;
    mr_err err = { .msg = "" };
    mr_str s = { 0 };
    if (mr_pool_open(&p, recipe, &o, &err) != MR_OK) {
        mr_str_puts(&s, err.msg);
        return mr_str_steal(&s);
    }
    char *text = cJSON_PrintUnformatted(mr_pool_recipe(p));
    mr_str_puts(&s, text);
    cJSON_free(text);
    mr_pool_close(p);
    return mr_str_steal(&s);
}

static void check_resolved(bool on_cpu, const char *const *overrides, const char *want) {
    char *got = resolved("r.lua", on_cpu, overrides);
    CHECK_STR(got, want);
    mr_free(got);
}

static void cpu_table_first_then_overrides(void) {
    put_file("r.lua", "local data = require 'medrl.data'\n"
                      "return { grpo = { max_steps = 750, seed = 1 }, list = { 1, 2, 3 }, data = { train = data.get "
                      "'a', system = 's' },\n"
                      "  on_cpu = { grpo = { max_steps = 30 }, list = { 9 }, data = { train = data.get('b', { short = "
                      "true }):shuffle(3) } } }\n");
    check_resolved(false, NULL,
                   "{\"data\":{\"system\":\"s\",\"train\":{\"dataset\":\"a\"}},\"grpo\":{\"max_steps\":750,\"seed\":1},"
                   "\"list\":[1,2,3],\"on_cpu\":{\"data\":{\"train\":{\"dataset\":\"b{\\\"short\\\":true}:shuffle(3)\"}},"
                   "\"grpo\":{\"max_steps\":30},\"list\":[9]}}");
    check_resolved(true, NULL,
                   "{\"data\":{\"system\":\"s\",\"train\":{\"dataset\":\"b{\\\"short\\\":true}:shuffle(3)\"}},"
                   "\"grpo\":{\"max_steps\":30,\"seed\":1},\"list\":[9]}");
    const char *const set[] = {
        "grpo.max_steps=5", "grpo.beta=0.04",   "model.name=some/where", "data.files.b=x=y.jsonl",
        "list.1=4",         "data.system=\"\"", "grpo.seed=null",        NULL
    };
    check_resolved(true, set,
                   "{\"data\":{\"files\":{\"b\":\"x=y.jsonl\"},\"system\":\"\",\"train\":{\"dataset\":\"b{"
                   "\\\"short\\\":true}:shuffle(3)\"}},"
                   "\"grpo\":{\"beta\":0.04,\"max_steps\":5},\"list\":[4],\"model\":{\"name\":\"some/where\"}}");
    const char *const bad[][2] = { { "grpo", "--set grpo: want NAME.NAME=VALUE" },
                                   { "=5", "--set =5: want" },
                                   { "a..b=1", "want NAME" },
                                   { "grpo.max_steps.x=1", "\"grpo.max_steps\" is a number" } };
    for (int i = 0; i < 4; i++) {
        const char *const one[] = { bad[i][0], NULL };
        char *got = resolved("r.lua", true, one);
        CHECK_CONTAINS(got, bad[i][1]);
        mr_free(got);
    }
}

static double number_at(const cJSON *tree, const char *section, const char *key) {
    const cJSON *x = cJSON_GetObjectItem(cJSON_GetObjectItem(tree, section), key);
    return cJSON_IsNumber(x) ? x->valuedouble : cJSON_IsTrue(x) ? 1 : 0;
}

/* The settings of the published script, one by one. */
static void medical_mix_is_the_published_recipe(void) {
    mr_pool_opts o = { .n_workers = 1, .deadline_s = 10 };
    mr_pool *p;
    mr_err err = { .msg = "" };
    REQUIRE_OK(mr_pool_open(&p, "recipes/medical_mix.lua", &o, &err), err);
    CHECK_STR(mr_pool_recipe_path(p), "lua/recipes/medical_mix.lua");
    const cJSON *r = mr_pool_recipe(p);
    static const struct {
        const char *section, *key;
        double want;
    } wants[] = {
        { "model", "max_seq_length", 2048 },
        { "model", "load_in_4bit", 1 },
        { "lora", "r", 64 },
        { "lora", "lora_alpha", 64 },
        { "grpo", "learning_rate", 5e-6 },
        { "grpo", "adam_beta1", 0.9 },
        { "grpo", "adam_beta2", 0.99 },
        { "grpo", "weight_decay", 0.1 },
        { "grpo", "warmup_ratio", 0.1 },
        { "grpo", "num_generations", 6 },
        { "grpo", "max_prompt_length", 1024 },
        { "grpo", "max_completion_length", 1024 },
        { "grpo", "max_steps", 750 },
        { "grpo", "save_steps", 100 },
        { "grpo", "max_grad_norm", 0.1 },
        { "grpo", "seed", 3407 },
        { "grpo", "per_device_train_batch_size", 1 },
        { "grpo", "gradient_accumulation_steps", 1 },
    };
    for (size_t i = 0; i < sizeof wants / sizeof wants[0]; i++)
        CHECK_NEAR(number_at(r, wants[i].section, wants[i].key), wants[i].want, 0);
    CHECK_STR(cJSON_GetObjectItem(cJSON_GetObjectItem(r, "model"), "name")->valuestring, "Qwen/Qwen2.5-3B-Instruct");
    char *rewards = cJSON_PrintUnformatted(cJSON_GetObjectItem(r, "rewards"));
    CHECK_STR(rewards, "[\"xmlcount\",\"soft_format\",\"strict_format\",\"valid_answer\",\"correctness\"]");
    cJSON_free(rewards);
    CHECK_INT(cJSON_GetArraySize(cJSON_GetObjectItem(cJSON_GetObjectItem(r, "lora"), "target_modules")), 7);
    CHECK_STR(cJSON_GetObjectItem(cJSON_GetObjectItem(cJSON_GetObjectItem(r, "on_cpu"), "model"), "name")->valuestring,
              "smollm2-135m-instruct"); /* not merged, but there to be checked */
    mr_row_source src;
    CHECK_INT(mr_pool_rows(p, "train", &src, &err), MR_EINVAL); /* the recipe says nothing of where the file is */
    CHECK_CONTAINS(err.msg, "data.files.gsm8k");
    mr_pool_close(p);
}

static void recipes_that_come_along_have_rows(void) {
    static const struct {
        const char *recipe;
        int64_t train, eval;
        int messages;
        const char *last_role;
    } list[] = {
        { "recipes/medical_mix.lua", 0, 0, 4, "user" },
        { "recipes/demo.lua", 400, 60, 1, "user" },
        { "recipes/smoke.lua", 24, 6, 1, "user" },
        { "recipes/nano_sft.lua", 48000, 0, 2, "assistant" },
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        mr_pool_opts o = { .n_workers = 1, .deadline_s = 20, .on_cpu = true };
        mr_pool *p;
        mr_err err = { .msg = "" };
        REQUIRE_OK(mr_pool_open(&p, list[i].recipe, &o, &err), err);
        mr_row_source train, eval;
        REQUIRE_OK(mr_pool_rows(p, "train", &train, &err), err);
        REQUIRE_OK(mr_pool_rows(p, "eval", &eval, &err), err);
        if (list[i].train)
            CHECK_INT(train.n_rows, list[i].train);
        else
            CHECK(train.n_rows > 300 && eval.n_rows > 30);
        if (list[i].eval) CHECK_INT(eval.n_rows, list[i].eval);
        int seen[3] = { 0 };
        for (int64_t k = 0; k < 60 && k < train.n_rows; k++) {
            mr_row row = { 0 }, again = { 0 };
            REQUIRE_OK(train.get(train.self, k, &row, &err), err);
            REQUIRE_OK(train.get(train.self, k, &again, &err), err);
            CHECK_STR(again.json, row.json);
            CHECK_INT(row.n_messages, list[i].messages);
            CHECK_STR(row.messages[row.n_messages - 1].role, list[i].last_role);
            CHECK_CONTAINS(row.json, "\"answer\":\"");
            seen[0] += strcmp(row.source, "gsm8k") == 0;
            seen[1] += strcmp(row.source, "pubmedqa") == 0;
            seen[2] += strcmp(row.source, "med_mc") == 0;
            size_t bytes = 0;
            for (int m = 0; m < row.n_messages; m++) bytes += strlen(row.messages[m].content);
            CHECK(bytes < 1400); /* the CPU's prompts stay near 250 tokens */
            mr_row_clear(&row);
            mr_row_clear(&again);
        }
        for (int s = 0; s < 3; s++) CHECK(seen[s] > 0); /* every kind of question is there */
        mr_pool_close(p);
    }
}

/* The nano model reads in whole words: everything that its tasks can say is in its vocabulary, as the pieces of GPT-2's
 * pattern. */
static void nano_words_are_in_its_vocabulary(void) {
    cJSON *tokenizer;
    mr_err err = { .msg = "" };
    REQUIRE_OK(mr_json_load(&tokenizer, MR_ROOT "/examples/nano/tokenizer.json", 1 << 20, &err), err);
    const cJSON *vocab = cJSON_GetObjectItem(cJSON_GetObjectItem(tokenizer, "model"), "vocab");
    mr_pool *p = open_pool("recipes/nano_sft.lua", 1, 20);
    mr_row_source train;
    REQUIRE_OK(mr_pool_rows(p, "train", &train, &err), err);
    for (int64_t k = 0; k < train.n_rows; k += 97) {
        mr_row row = { 0 };
        REQUIRE_OK(train.get(train.self, k, &row, &err), err);
        for (int m = 0; m < row.n_messages; m++) {
            for (const char *at = row.messages[m].content; *at;) {
                if (*at == '<') {
                    at = strchr(at, '>') + 1; /* the tags are tokens */
                    continue;
                }
                char piece[64] = "";
                if (*at == ' ' && at[1] != ' ' && at[1] != '\0') {
                    strcpy(piece, "\xc4\xa0"); /* the symbol of the space before a word */
                    at++;
                }
                size_t n = strspn(at, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
                if (n == 0) n = strspn(at, "0123456789");
                if (n == 0) { /* punctuation and newlines are bytes */
                    CHECK(piece[0] == 0);
                    at++;
                    continue;
                }
                strncat(piece, at, n);
                if (!cJSON_GetObjectItemCaseSensitive(vocab, piece)) fprintf(stderr, "%s\n", piece);
                CHECK(cJSON_GetObjectItemCaseSensitive(vocab, piece) != NULL);
                at += n;
            }
        }
        mr_row_clear(&row);
    }
    mr_pool_close(p);
    cJSON_Delete(tokenizer);
}

static void scripts_in_use_are_known(void) {
    mr_pool *p = open_pool("recipes/demo.lua", 1, 5);
    mr_err err = { .msg = "" };
    mr_row_source src;
    REQUIRE_OK(mr_pool_rows(p, "train", &src, &err), err);
    int n;
    const mr_script_text *s = mr_pool_scripts(p, &n);
    static const char *const want[] = { "lua/recipes/demo.lua",      "lua/medrl/data.lua",
                                        "lua/rewards/xmlcount.lua",  "lua/rewards/correctness.lua",
                                        "lua/datasets/template.lua", "lua/datasets/nano_tasks.lua" };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        bool found = false;
        for (int k = 0; k < n; k++) {
            if (strcmp(s[k].name, want[i]) != 0) continue;
            found = true;
            char sha[65];
            mr_sha256(sha, s[k].text, s[k].len);
            CHECK_STR(s[k].sha256, sha);
        }
        if (!found) fprintf(stderr, "%s\n", want[i]);
        CHECK(found);
    }
    mr_pool_close(p);
}

SCRIPT_TEST_MAIN({ "mistakes_say_file_and_line", mistakes_say_file_and_line },
                 { "cpu_table_first_then_overrides", cpu_table_first_then_overrides },
                 { "medical_mix_is_the_published_recipe", medical_mix_is_the_published_recipe },
                 { "recipes_that_come_along_have_rows", recipes_that_come_along_have_rows },
                 { "nano_words_are_in_its_vocabulary", nano_words_are_in_its_vocabulary },
                 { "scripts_in_use_are_known", scripts_in_use_are_known })
