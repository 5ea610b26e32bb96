/* rig.h - what the tests of rl/ share: the tiny models of the fixtures on the CPU, a tokenizer of 96 single
 * characters, temporary folders. */
#ifndef MR_TEST_RIG_H
#define MR_TEST_RIG_H

#include <stdlib.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "device.h"
#include "model/decoder.h"
#include "rl/settings.h"
#include "test.h"

typedef struct rig {
    mr_backend *b;
    mr_model *m;
} rig;

static inline mr_model_opts rig_lora(uint64_t seed) {
    mr_model_opts o = { .store = MR_F32, .compute = MR_F32, .train = true, .seed = seed };
    o.lora = (mr_lora_opts){ .r = 4, .lora_alpha = 8, .seed = seed };
    for (int i = 0; i < MR_N_PROJ; i++) o.lora.targets[i] = true;
    return o;
}

/* The CPU, or with MEDRL_TEST_DEVICE=cuda the first GPU. */
static inline mr_device_kind rig_device(void) {
    const char *device = getenv("MEDRL_TEST_DEVICE");
    return device && strcmp(device, "cuda") == 0 ? MR_CUDA : MR_CPU;
}

static inline void rig_open(rig *r, const char *name, const mr_model_opts *opts, int threads) {
    mr_err err;
    char path[512];
    snprintf(path, sizeof path, "%s/tiny/%s", MR_GOLDEN, name);
    REQUIRE_OK(mr_backend_open(&r->b, rig_device(), 0, threads, &err), err);
    REQUIRE_OK(mr_model_open(&r->m, r->b, path, opts, &err), err);
}

static inline void rig_close(rig *r) {
    mr_model_close(r->m);
    mr_backend_close(r->b);
}

/* The fixture's adapter: r = 4, alpha = 8, B not zero. */
static inline void rig_adapter(rig *r, const char *name) {
    mr_err err;
    char path[512];
    snprintf(path, sizeof path, "%s/tiny/%s", MR_GOLDEN, name);
    REQUIRE_OK(mr_adapter_load(r->m, path, &err), err);
    mr_model_refresh(r->m);
}

static inline char *rig_tmp(void) {
    const char *base = getenv("TMPDIR");
    char *dir = mr_asprintf("%s/medrl_rl_XXXXXX", base && *base ? base : "/tmp");
    REQUIRE(mkdtemp(dir) != NULL);
    return dir;
}

static inline void rig_tmp_clear(char *dir) {
    mr_remove_tree(dir, NULL);
    mr_free(dir);
}

/* Settings of a small GRPO run: 2 prompts x 4 completions of at most 8 tokens. Zeroed first. */
static inline void rig_settings(mr_settings *s) {
    memset(s, 0, sizeof *s);
    s->model.max_seq_length = 128;
    s->train.learning_rate = 1e-2f;
    s->train.adam_beta1 = 0.9f;
    s->train.adam_beta2 = 0.99f;
    s->train.adam_epsilon = 1e-8f;
    s->train.max_grad_norm = 1;
    s->train.optim = MR_ADAMW_8BIT;
    s->train.prompts_per_step = 2;
    s->train.max_prompt_length = 64;
    s->train.max_completion_length = 8;
    s->train.num_train_epochs = 1;
    s->train.seed = 42;
    s->train.shuffle_dataset = true;
    s->train.temperature = s->train.top_p = s->train.repetition_penalty = 1;
    s->train.num_iterations = 1;
    s->train.loss = (mr_grpo_opts){ .num_generations = 4,
                                    .loss_type = MR_LOSS_DAPO,
                                    .epsilon = 0.2f,
                                    .epsilon_high = -1,
                                    .use_bias_correction_kl = true,
                                    .top_entropy_quantile = 1 };
}

#endif
