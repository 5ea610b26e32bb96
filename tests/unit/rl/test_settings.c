/* test_settings.c - recipes as JSON: defaults against TRL's, the seed's recipe, the batch rule, and what a typo
 * costs. */
#include "base/json.h"
#include "rl/settings.h"
#include "test.h"

#define LEAST "\"model\":{\"name\":\"m\"},\"rewards\":[\"correctness\"]"

static mr_status parse(mr_settings *s, const char *text, mr_err *err) {
    cJSON *recipe = NULL;
    REQUIRE_OK(mr_json_parse(&recipe, text, strlen(text), "test", err), *err);
    mr_status st = mr_settings_parse(s, recipe, "recipes/x.lua", err);
    cJSON_Delete(recipe);
    return st;
}

static void refuse(const char *text, const char *complaint) {
    mr_settings s;
    mr_err err = { "" };
    CHECK_INT(parse(&s, text, &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, complaint);
    CHECK(!strncmp(err.msg, "recipes/x.lua: ", 15));
    mr_settings_clear(&s);
}
static void refuse_grpo(const char *field, const char *complaint) {
    char text[512];
    snprintf(text, sizeof text, "{" LEAST ",\"grpo\":{%s}}", field);
    refuse(text, complaint);
}
static void prompts(const char *field, int want) {
    char text[512];
    mr_settings s;
    mr_err err = { "" };
    snprintf(text, sizeof text, "{" LEAST ",\"grpo\":{%s}}", field);
    REQUIRE_OK(parse(&s, text, &err), err);
    CHECK_INT(s.train.prompts_per_step, want);
    mr_settings_clear(&s);
}

static double trl(const cJSON *root, const char *key) {
    const cJSON *own = cJSON_GetObjectItem(root, "trl 1.16.0 GRPOConfig own fields");
    const cJSON *base = cJSON_GetObjectItem(root, "trl 1.16.0 _BaseConfig overrides");
    const cJSON *hf = cJSON_GetObjectItem(root, "transformers 5.23.0 TrainingArguments (subset)");
    const cJSON *v = cJSON_GetObjectItem(own, key);
    if (!v) v = cJSON_GetObjectItem(base, key);
    if (!v) v = cJSON_GetObjectItem(hf, key);
    REQUIRE(v && (cJSON_IsNumber(v) || cJSON_IsBool(v)));
    return cJSON_IsBool(v) ? cJSON_IsTrue(v) : v->valuedouble;
}

static void defaults_are_trls(void) {
    mr_settings s;
    mr_err err = { "" };
    cJSON *root = NULL;
    REQUIRE_OK(mr_json_load(&root, GOLDEN("grpo_config_defaults.json"), 1 << 20, &err), err);
    REQUIRE_OK(parse(&s, "{" LEAST "}", &err), err);
#define SAME(field, key) CHECK_NEAR(field, trl(root, key), 1e-6 * fabs(trl(root, key)))
    SAME(s.train.learning_rate, "learning_rate");
    SAME(s.train.adam_beta1, "adam_beta1");
    SAME(s.train.adam_beta2, "adam_beta2");
    SAME(s.train.adam_epsilon, "adam_epsilon");
    SAME(s.train.weight_decay, "weight_decay");
    SAME(s.train.max_grad_norm, "max_grad_norm");
    SAME(s.train.warmup_steps, "warmup_steps");
    SAME(s.train.max_completion_length, "max_completion_length");
    SAME(s.train.max_steps, "max_steps");
    SAME(s.train.num_train_epochs, "num_train_epochs");
    SAME(s.train.save_steps, "save_steps");
    SAME(s.train.logging_steps, "logging_steps");
    SAME(s.train.seed, "seed");
    SAME(s.train.shuffle_dataset, "shuffle_dataset");
    SAME(s.train.gradient_checkpointing, "gradient_checkpointing");
    SAME(s.train.temperature, "temperature");
    SAME(s.train.logp_temperature, "temperature");
    SAME(s.train.top_p, "top_p");
    SAME(s.train.top_k, "top_k");
    SAME(s.train.repetition_penalty, "repetition_penalty");
    SAME(s.train.num_iterations, "num_iterations");
    SAME(s.train.mask_truncated_completions, "mask_truncated_completions");
    SAME(s.train.loss.num_generations, "num_generations");
    SAME(s.train.loss.epsilon, "epsilon");
    SAME(s.train.loss.beta, "beta");
    SAME(s.train.loss.use_bias_correction_kl, "use_bias_correction_kl");
    SAME(s.train.loss.top_entropy_quantile, "top_entropy_quantile");
    SAME(s.train.loss.entropy_coef, "entropy_coef");
    CHECK_INT(s.method, MR_METHOD_GRPO);
    CHECK_INT(s.train.loss.loss_type, MR_LOSS_DAPO);
    CHECK_INT(s.train.loss.scale_rewards, MR_SCALE_GROUP);
    CHECK(!s.train.loss.sequence_level && !s.train.loss.normalize_then_sum);
    CHECK(s.train.loss.epsilon_high < 0 && s.train.loss.delta <= 0 && s.train.loss.off_policy_mask_threshold <= 0 &&
          s.train.min_p == 0);
    CHECK_INT(s.train.loss.max_completion_length, 512);
    CHECK_INT(s.train.lr_scheduler_type, MR_SCHED_LINEAR);
    CHECK_INT(s.train.optim, MR_ADAMW_8BIT);
    CHECK_INT(s.train.prompts_per_step, 1); /* 8 completions are one group of 8 */
    CHECK_INT(s.model.max_seq_length, 1024 + 512);
    CHECK_STR(s.model.dtype, "auto");
    CHECK_STR(s.model.adapter, "");
    CHECK_STR(s.output_dir, "outputs");
    CHECK_INT(s.lora.r, 0);
    CHECK(s.n_rewards == 1 && s.reward_weights[0] == 1.0f);
    CHECK_STR(s.rewards[0], "correctness");
    CHECK(s.data == NULL);
    mr_settings_clear(&s);
    mr_settings_clear(&s); /* a cleared struct is fine */
    cJSON_Delete(root);
}

/* design.md section 7, with on_cpu still in it and the TRL flags of the published script that ask for nothing. */
static const char seed[] =
    "{\"model\":{\"name\":\"Qwen/Qwen2.5-3B-Instruct\",\"max_seq_length\":2048,\"load_in_4bit\":true},"
    "\"on_cpu\":{\"grpo\":{\"max_steps\":40}},"
    "\"lora\":{\"r\":64,\"lora_alpha\":64,\"use_gradient_checkpointing\":\"unsloth\",\"bias\":\"none\","
    "\"target_modules\":[\"q_proj\",\"k_proj\",\"v_proj\",\"o_proj\",\"gate_proj\",\"up_proj\",\"down_proj\"]},"
    "\"data\":{\"system\":\"S\",\"anything\":[1,2]},"
    "\"rewards\":[\"xmlcount\",\"soft_format\",\"strict_format\",\"valid_answer\",\"correctness\"],"
    "\"grpo\":{\"learning_rate\":5e-6,\"adam_beta1\":0.9,\"adam_beta2\":0.99,\"weight_decay\":0.1,\"warmup_ratio\":0.1,"
    "\"lr_scheduler_type\":\"cosine\",\"optim\":\"adamw_8bit\",\"logging_steps\":1,\"bf16\":true,\"fp16\":false,"
    "\"per_device_train_batch_size\":1,\"gradient_accumulation_steps\":1,\"num_generations\":6,\"max_prompt_length\":"
    "1024,"
    "\"max_completion_length\":1024,\"max_steps\":750,\"save_steps\":100,\"max_grad_norm\":0.1,\"seed\":3407,"
    "\"report_to\":\"none\",\"use_vllm\":false},\"output_dir\":\"outputs\"}";

static void dequantize(void) {
    static const struct {
        const char *value;
        mr_dequantize want;
    } given[] = { { "", MR_DEQUANTIZE_AUTO },
                  { ",\"dequantize\":\"auto\"", MR_DEQUANTIZE_AUTO },
                  { ",\"dequantize\":true", MR_DEQUANTIZE_YES },
                  { ",\"dequantize\":false", MR_DEQUANTIZE_NO } };
    for (int i = 0; i < 4; i++) {
        char text[160];
        mr_settings s;
        mr_err err = { "" };
        snprintf(text, sizeof text, "{\"model\":{\"name\":\"m\"%s},\"rewards\":[\"a\"]}", given[i].value);
        REQUIRE_OK(parse(&s, text, &err), err);
        CHECK_INT(s.model.dequantize, given[i].want);
        mr_settings_clear(&s);
    }
    refuse("{\"model\":{\"name\":\"m\",\"dequantize\":\"always\"},\"rewards\":[\"a\"]}", "want \"auto\", true or false");
}

static void the_seeds_recipe(void) {
    mr_settings s;
    mr_err err = { "" };
    REQUIRE_OK(parse(&s, seed, &err), err);
    CHECK_STR(s.model.name, "Qwen/Qwen2.5-3B-Instruct");
    CHECK(s.model.load_in_4bit && s.model.max_seq_length == 2048);
    CHECK(s.lora.r == 64 && s.lora.lora_alpha == 64.0f);
    for (int i = 0; i < 7; i++) CHECK(s.lora.targets[i]);
    CHECK_INT(s.n_rewards, 5);
    CHECK_STR(s.rewards[3], "valid_answer");
    CHECK_NEAR(s.train.learning_rate, 5e-6, 1e-12);
    CHECK_NEAR(s.train.warmup_ratio, 0.1, 0);
    CHECK_INT(s.train.lr_scheduler_type, MR_SCHED_COSINE);
    CHECK_INT(s.train.prompts_per_step, 1); /* one prompt x 6 completions (spec/grpo.md 3.1) */
    CHECK_INT(s.train.loss.num_generations, 6);
    CHECK_INT(s.train.loss.max_completion_length, 1024);
    CHECK_INT(s.train.max_steps, 750);
    CHECK(s.train.seed == 3407);
    CHECK_STR(cJSON_GetObjectItem(s.data, "system")->valuestring, "S");
    mr_settings_clear(&s);
}

static void batches(void) {
    prompts("\"num_generations\":6", 1);
    prompts("\"num_generations\":4", 2);
    prompts("\"num_generations\":6,\"per_device_train_batch_size\":1,\"gradient_accumulation_steps\":4", 4);
    prompts("\"num_generations\":6,\"per_device_train_batch_size\":1,\"gradient_accumulation_steps\":6", 1);
    prompts("\"num_generations\":6,\"per_device_train_batch_size\":12,\"gradient_accumulation_steps\":2", 4);
    prompts("\"num_generations\":6,\"gradient_accumulation_steps\":3", 3);
    prompts("\"num_generations\":6,\"per_device_train_batch_size\":1,\"prompts_per_step\":4", 4);
    refuse_grpo("\"num_generations\":6,\"per_device_train_batch_size\":8",
                "grpo.per_device_train_batch_size is 8, which does not split into groups of num_generations = 6");
    refuse_grpo("\"per_device_train_batch_size\":1048576,\"gradient_accumulation_steps\":1048576",
                "need at most 65536");
    mr_settings s;
    mr_err err = { "" };
    REQUIRE_OK(parse(&s,
                     "{\"method\":\"sft\",\"model\":{\"name\":\"m\",\"from_config\":true},\"sft\":{\"per_device_train_"
                     "batch_size\":16}}",
                     &err),
               err);
    CHECK_INT(s.method, MR_METHOD_SFT);
    CHECK_INT(s.train.prompts_per_step, 16);
    CHECK_NEAR(s.train.learning_rate, 2e-5, 1e-11);
    CHECK_INT(s.n_rewards, 0);
    CHECK(s.model.from_config && s.lora.r == 0);
    mr_settings_clear(&s);
}

static void chat_templates(void) {
    mr_settings s;
    mr_err err = { "" };
    REQUIRE_OK(parse(&s, "{\"method\":\"sft\",\"model\":{\"name\":\"m\"}}", &err), err);
    CHECK_STR(s.model.chat_template, "");
    CHECK_STR(s.model.chat_template_date, "");
    CHECK(s.model.chat_template_kwargs == NULL);
    mr_settings_clear(&s);
    REQUIRE_OK(parse(&s,
                     "{\"method\":\"sft\",\"model\":{\"name\":\"m\",\"chat_template\":\"x.jinja\","
                     "\"chat_template_kwargs\":{\"enable_thinking\":false}}}",
                     &err),
               err);
    CHECK_STR(s.model.chat_template, "x.jinja");
    CHECK(strstr(s.model.chat_template_kwargs, "\"enable_thinking\"") && strstr(s.model.chat_template_kwargs, "false"));
    mr_settings_clear(&s);
    REQUIRE_OK(parse(&s, "{\"method\":\"sft\",\"model\":{\"name\":\"m\",\"chat_template_kwargs\":[]}}", &err), err);
    CHECK_STR(s.model.chat_template_kwargs, "{}"); /* an empty Lua table */
    mr_settings_clear(&s);
    CHECK_INT(parse(&s, "{\"method\":\"sft\",\"model\":{\"name\":\"m\",\"chat_template_kwargs\":\"x\"}}", &err),
              MR_EINVAL);
    CHECK_CONTAINS(err.msg, "model.chat_template_kwargs is \"x\", want a table of names");
}

static void values(void) {
    mr_settings s;
    mr_err err = { "" };
    REQUIRE_OK(parse(&s,
                     "{\"model\":{\"name\":\"m\",\"dtype\":\"float32\"},\"lora\":{\"target_modules\":\"all-linear\"},"
                     "\"rewards\":[\"a\",{\"name\":\"b\",\"weight\":0.5}],\"data\":[],"
                     "\"grpo\":{\"scale_rewards\":false,\"loss_type\":\"dr_grpo\",\"importance_sampling_level\":"
                     "\"sequence\",\"min_p\":null,"
                     "\"epsilon_high\":0.28,\"warmup_steps\":0.05,\"optim\":\"adamw_torch_fused\",\"temperature\":0.9,"
                     "\"logp_temperature\":1,"
                     "\"gradient_checkpointing\":\"unsloth\",\"multi_objective_aggregation\":\"normalize_then_sum\","
                     "\"report_to\":[\"none\"]}}",
                     &err),
               err);
    CHECK_INT(s.lora.r, 8);
    for (int i = 0; i < 7; i++) CHECK(s.lora.targets[i]);
    CHECK(s.n_rewards == 2 && s.reward_weights[0] == 1.0f && s.reward_weights[1] == 0.5f);
    CHECK_INT(s.train.loss.scale_rewards, MR_SCALE_NONE);
    CHECK_INT(s.train.loss.loss_type, MR_LOSS_DR_GRPO);
    CHECK(s.train.loss.sequence_level && s.train.loss.normalize_then_sum && s.train.gradient_checkpointing);
    CHECK_NEAR(s.train.loss.epsilon_high, 0.28, 1e-7);
    CHECK_NEAR(s.train.warmup_ratio, 0.05, 0);
    CHECK_INT(s.train.warmup_steps, 0);
    CHECK_INT(s.train.optim, MR_ADAMW);
    CHECK_NEAR(s.train.temperature, 0.9, 1e-7);
    CHECK_NEAR(s.train.logp_temperature, 1.0, 0);
    mr_settings_clear(&s);
    REQUIRE_OK(
        parse(
            &s,
            "{\"model\":{\"name\":\"m\"},\"lora\":{},\"rewards\":[\"a\",\"b\"],\"reward_weights\":[2,-1],\"grpo\":[]}",
            &err),
        err);
    CHECK(s.reward_weights[0] == 2.0f && s.reward_weights[1] == -1.0f);
    mr_settings_clear(&s);
    REQUIRE_OK(parse(&s, "{" LEAST ",\"lora\":{},\"grpo\":{\"reward_weights\":[3]}}", &err), err);
    CHECK(s.reward_weights[0] == 3.0f);
    CHECK(s.lora.targets[0] && !s.lora.targets[1] && s.lora.targets[2] && !s.lora.targets[3]);
    mr_settings_clear(&s);
}

static void sizes(void) {
    static const struct {
        const char *text;
        size_t bytes;
    } good[] = { { "14G", 14000000000u },  { "14GB", 14000000000u }, { "14GiB", 15032385536u },
                 { "900M", 900000000u },   { "2.5G", 2500000000u },  { "1T", 1000000000000u },
                 { "1024KiB", 1048576u } };
    static const char *const bad[] = { "14", "G", "14X", "14GG", "14Gi", "14 G", "-1G", "nanG", "100K", "1e9G", "" };
    mr_settings s;
    mr_err err;
    char text[256];
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        snprintf(text, sizeof text, "{" LEAST ",\"vram\":\"%s\"}", good[i].text);
        REQUIRE_OK(parse(&s, text, &err), err);
        CHECK_INT(s.vram, good[i].bytes);
        mr_settings_clear(&s);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        snprintf(text, sizeof text, "{" LEAST ",\"vram\":\"%s\"}", bad[i]);
        CHECK_INT(parse(&s, text, &err), MR_EINVAL);
        CHECK_CONTAINS(err.msg, "vram is \"");
    }
    CHECK_INT(parse(&s, "{" LEAST ",\"vram\":14}", &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, "vram is 14, want a size such as \"14G\"");
    REQUIRE_OK(parse(&s, "{" LEAST ",\"vram\":null}", &err), err);
    CHECK_INT(s.vram, 0);
    mr_settings_clear(&s);
}

static void bad_values_are_named(void) {
    refuse_grpo("\"num_generations\":1", "recipes/x.lua: grpo.num_generations is 1, need at least 2");
    refuse_grpo("\"max_steps\":\"20\"", "grpo.max_steps is \"20\", want a whole number");
    refuse_grpo("\"max_steps\":2.5", "grpo.max_steps is 2.5, want a whole number");
    refuse_grpo("\"max_steps\":0", "grpo.max_steps is 0, need at least 1");
    refuse_grpo("\"learning_rate\":-1", "grpo.learning_rate is -1, need at least 0");
    refuse_grpo("\"learning_rate\":[1]", "grpo.learning_rate is [1], want a number");
    refuse_grpo("\"shuffle_dataset\":1", "grpo.shuffle_dataset is 1, want true or false");
    refuse_grpo("\"loss_type\":\"gpro\"", "did you mean \"grpo\"?");
    refuse_grpo("\"loss_type\":7", "grpo.loss_type is 7, want one of grpo, bnpo");
    refuse_grpo("\"lr_scheduler_type\":\"polynomial\"", "want one of linear, cosine, constant, constant_with_warmup");
    refuse_grpo("\"temperature\":0", "grpo.temperature is 0, need more than 0");
    refuse_grpo("\"top_p\":0", "grpo.top_p is 0, need more than 0");
    refuse_grpo("\"top_p\":1.5", "grpo.top_p is 1.5, need at most 1");
    refuse_grpo("\"warmup_steps\":1.5", "grpo.warmup_steps is 1.5, want a whole number, or a ratio");
    refuse_grpo("\"entropy_coef\":0.1", "grpo.entropy_coef is 0.1, need 0");
    refuse_grpo("\"num_train_epochs\":0", "grpo.num_train_epochs is 0");
    refuse_grpo("\"seed\":-1", "grpo.seed is -1, need at least 0");
    refuse_grpo("\"bf16\":\"yes\"", "grpo.bf16 is \"yes\", want true or false");
    refuse_grpo("\"use_vllm\":true", "grpo.use_vllm has no meaning here: medrl samples by itself");
    refuse_grpo("\"report_to\":\"wandb\"", "grpo.report_to is \"wandb\", want \"tensorboard\" or \"none\"");
    refuse_grpo("\"report_to\":[\"tensorboard\",7]", "want \"tensorboard\" or \"none\"");
    refuse_grpo("\"output_dir\":\"x\"", "it stands at the top of the recipe");
    refuse("{\"rewards\":[\"a\"]}", "model.name is missing");
    refuse("{\"model\":{\"name\":7},\"rewards\":[\"a\"]}", "model.name is 7, want a string");
    refuse("{\"model\":\"m\",\"rewards\":[\"a\"]}", "model is \"m\", want a table of settings");
    refuse("{\"model\":{\"name\":\"m\",\"dtype\":\"fp8\"},\"rewards\":[\"a\"]}",
           "model.dtype is \"fp8\", want one of auto, bfloat16, float16, float32");
    refuse("{\"model\":{\"name\":\"m\",\"load_in_4bit\":true},\"rewards\":[\"a\"]}", "want a section lora");
    refuse("{\"model\":{\"name\":\"m\",\"max_seq_length\":100},\"rewards\":[\"a\"]}",
           "is 1536, need at most model.max_seq_length, which is 100");
    refuse("{\"model\":{\"name\":\"m\"},\"lora\":{\"lora_dropout\":0.05},\"rewards\":[\"a\"]}",
           "lora.lora_dropout is 0.05, need 0");
    refuse("{\"model\":{\"name\":\"m\"},\"lora\":{\"lora_alpha\":0},\"rewards\":[\"a\"]}",
           "lora.lora_alpha is 0, need more than 0");
    refuse("{\"model\":{\"name\":\"m\"},\"lora\":{\"target_modules\":[\"q_porj\"]},\"rewards\":[\"a\"]}",
           "did you mean \"q_proj\"?");
    refuse("{\"model\":{\"name\":\"m\"},\"lora\":{\"target_modules\":[]},\"rewards\":[\"a\"]}", "want a list of names");
    refuse("{\"method\":\"ppo\"," LEAST "}", "method is \"ppo\", want one of grpo, sft");
    refuse("{\"method\":\"sft\"," LEAST ",\"grpo\":{}}", "section \"grpo\" has no meaning for method \"sft\"");
    refuse("{\"method\":\"sft\"," LEAST ",\"sft\":{\"beta\":1}}", "sft.beta has no meaning for method \"sft\"");
    refuse("{" LEAST ",\"data\":7}", "data is 7, want a table");
    refuse("7", "the recipe is a number, want a table");
}

static void bad_rewards_are_named(void) {
#define REWARDS(list) "{\"model\":{\"name\":\"m\"}," list "}"
    refuse(REWARDS("\"rewards\":[]"), "rewards is empty");
    refuse(REWARDS("\"data\":{}"), "rewards is empty");
    refuse(REWARDS("\"rewards\":{\"a\":1}"), "order matters, so it is no map");
    refuse(REWARDS("\"rewards\":\"a\""), "rewards is \"a\", want a list of names");
    refuse(REWARDS("\"rewards\":[\"a\",7]"), "rewards[2] is 7, want a name");
    refuse(REWARDS("\"rewards\":[\"a\",\"a\"]"), "rewards[2] is \"a\", which is there already");
    refuse(REWARDS("\"rewards\":[\"../a\"]"), "rewards[1] is \"../a\", want the name of a file");
    refuse(REWARDS("\"rewards\":[{\"name\":\"a\",\"wieght\":1}]"), "unknown key \"rewards[1].wieght\"");
    refuse(REWARDS("\"rewards\":[{\"name\":\"a\",\"weight\":\"1\"}]"), "want a number as weight");
    refuse(REWARDS("\"rewards\":[\"a\"],\"reward_weights\":[1,2]"), "want one number for each of the 1 rewards");
    refuse(REWARDS("\"rewards\":[\"a\"],\"reward_weights\":[true]"), "want one number for each");
    refuse(REWARDS("\"rewards\":[{\"name\":\"a\",\"weight\":2}],\"reward_weights\":[1]"), "keep one of the two");
}

static void suggestions(void) {
    refuse("{" LEAST ",\"lora\":{\"rnak\":8}}", "recipes/x.lua: unknown key \"lora.rnak\"; did you mean \"lora.r\"?");
    refuse_grpo("\"learning_rte\":1", "unknown key \"grpo.learning_rte\"; did you mean \"grpo.learning_rate\"?");
    refuse_grpo("\"num_generation\":8", "did you mean \"grpo.num_generations\"?");
    refuse_grpo("\"lora_alpha\":8", "did you mean \"lora.lora_alpha\"?");
    refuse_grpo("\"zzzzqqqqxxxx\":8", "`medrl help recipe` lists the known ones");
    refuse("{" LEAST ",\"max_steps\":8}", "unknown key \"max_steps\"; did you mean \"grpo.max_steps\"?");
    refuse("{" LEAST ",\"reward\":[]}", "did you mean \"rewards\"?");
    refuse("{" LEAST ",\"budgte\":{\"usd\":3}}", "did you mean \"budget\"?");
    refuse("{" LEAST ",\"budget\":{\"dollars\":3}}", "unknown key \"budget.dollars\"");
    refuse("{" LEAST ",\"budget\":{\"usd\":3}}", "budget.usd is 3 and budget.usd_per_hour is not set");
    refuse("{" LEAST ",\"budget\":{\"hours\":-1}}", "budget.hours is -1");
    static const char *const names[] = { "run", "resume", "report", "runs" };
    CHECK_STR(mr_nearest_name("rnu", names, 4), "run"); /* two letters swapped */
    CHECK_STR(mr_nearest_name("resmue", names, 4), "resume");
    CHECK(mr_nearest_name("chat", names, 4) == NULL);
    CHECK(mr_nearest_name("", names, 4) == NULL);
    CHECK(mr_nearest_name("run", names, 0) == NULL);
}

static void overrides(void) {
    mr_settings s;
    mr_err err = { "" };
    cJSON *r = NULL;
    REQUIRE_OK(mr_json_parse(&r, seed, sizeof seed - 1, "test", &err), err);
    static const char *const good[] = {
        "grpo.max_steps=20", "output_dir=runs/a=b",           "lora.target_modules=[\"q_proj\"]",
        "grpo.bf16=false",   "data.new.deep.key=7",           "rewards=[\"x\"]",
        "model.name=other",  "grpo.lr_scheduler_type=linear", "model.adapter="
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) REQUIRE_OK(mr_settings_override(r, good[i], &err), err);
    REQUIRE_OK(mr_settings_parse(&s, r, "x", &err), err);
    CHECK_INT(s.train.max_steps, 20);
    CHECK_STR(s.output_dir, "runs/a=b");
    CHECK(s.lora.targets[0] && !s.lora.targets[1]);
    CHECK_INT(s.n_rewards, 1);
    CHECK_STR(s.model.name, "other");
    CHECK_INT(s.train.lr_scheduler_type, MR_SCHED_LINEAR);
    CHECK_INT(cJSON_GetObjectItem(cJSON_GetObjectItem(cJSON_GetObjectItem(s.data, "new"), "deep"), "key")->valueint, 7);
    mr_settings_clear(&s);

    static const struct {
        const char *set, *complaint;
    } bad[] = {
        { "grpo.max_steps", "want KEY=VALUE" },
        { "=3", "want KEY=VALUE" },
        { "grpo..x=1", "want a key such as" },
        { ".x=1", "want a key such as" },
        { "x.=1", "want a key such as" },
        { "output_dir.x=1", "output_dir is a string, want a table" },
        { "rewards.a=1", "rewards is an array, want a table" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_INT(mr_settings_override(r, bad[i].set, &err), MR_EINVAL);
        CHECK_CONTAINS(err.msg, bad[i].complaint);
        CHECK_CONTAINS(err.msg, "--set ");
    }
    REQUIRE_OK(mr_settings_override(r, "grpo.max_setps=1", &err), err); /* found when it is parsed */
    CHECK_INT(mr_settings_parse(&s, r, "x", &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, "did you mean \"grpo.max_steps\"?");
    cJSON_Delete(r);
}

static void description_has_every_field(void) {
    mr_str out = { 0 };
    mr_settings_describe(&out);
    static const char *const some[] = { "| `num_generations` (grpo) | 8 |  | from 2 to 1024 |",
                                        "| `name` | required |  | string |",
                                        "| `learning_rate` | 1e-6 (sft: 2e-5) | yes |",
                                        "`grpo.use_vllm`",
                                        "| `loss_type` (grpo) | \"dapo\" | yes | grpo, bnpo,",
                                        "`reward_weights`",
                                        "## lora" };
    for (size_t i = 0; i < sizeof some / sizeof some[0]; i++) CHECK_CONTAINS(out.data, some[i]);
    mr_str_clear(&out);
}

TEST_MAIN({ "defaults_are_trls", defaults_are_trls }, { "the_seeds_recipe", the_seeds_recipe }, { "dequantize", dequantize }, { "batches", batches },
          { "chat_templates", chat_templates }, { "values", values }, { "sizes", sizes },
          { "bad_values_are_named", bad_values_are_named },
          { "bad_rewards_are_named", bad_rewards_are_named }, { "suggestions", suggestions },
          { "overrides", overrides }, { "description_has_every_field", description_has_every_field })
