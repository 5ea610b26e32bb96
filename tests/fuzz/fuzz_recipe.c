/* fuzz_recipe.c - what a recipe comes to: a table as JSON, as a worker sends it; then, behind a NUL, an assignment as --set takes it.
 * Accepted: settings that the trainer can be planned with. A refusal names the key or the place. */
#include <math.h>

#include "base/json.h"
#include "fuzz.h"
#include "rl/settings.h"

static void check(const mr_settings *s) {
    PROMISE(s->train.max_prompt_length > 0 && s->train.max_completion_length > 0, "a prompt or a completion of no token");
    PROMISE(s->method == MR_METHOD_SFT || s->train.loss.num_generations >= 2, "a group of %d",
            s->train.loss.num_generations);
    PROMISE(s->train.prompts_per_step >= 1, "a step of %d prompts", s->train.prompts_per_step);
    PROMISE(isfinite(s->train.learning_rate) && isfinite(s->train.max_grad_norm) && isfinite(s->train.temperature), "no finite number");
    PROMISE(s->lora.r >= 0 && s->n_rewards >= 0, "r = %d, %d rewards", s->lora.r, s->n_rewards);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    cJSON *recipe;
    mr_err err;
    mr_settings s;
    if (mr_json_parse(&recipe, (const char *)data, nul ? (size_t)(nul - data) : size, "x.lua", &err) != MR_OK) {
        fuzz_refused(err.msg, "x.lua");
        return 0;
    }
    if (nul && cJSON_IsObject(recipe)) {
        char *set = mr_strndup((const char *)nul + 1, size - (size_t)(nul - data) - 1);
        if (mr_settings_override(recipe, set, &err) != MR_OK) PROMISE(strstr(err.msg, "--set"), "the error does not name --set: %s", err.msg);
        mr_free(set);
    }
    if (mr_settings_parse(&s, recipe, "x.lua", &err) == MR_OK) {
        fuzz_accepted();
        check(&s);
    } else
        fuzz_refused(err.msg, "x.lua");
    mr_settings_clear(&s);
    cJSON_Delete(recipe);
    return 0;
}
