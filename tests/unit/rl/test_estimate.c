/* What a step would take on a T4, against hand-made sums for the published job. */
#include "rl/estimate.h"

#include "rig.h"
#include "rl/plan.h"

static mr_estimate estimate(mr_backend *b, int prompts, int n_new, int max_steps, mr_method method) {
    mr_config c;
    mr_err err;
    mr_settings s;
    mr_plan p;
    rig_settings(&s);
    s.method = method;
    s.train.prompts_per_step = prompts;
    s.train.max_prompt_length = s.train.max_completion_length = 512;
    s.train.loss.num_generations = 6;
    s.train.gradient_checkpointing = true;
    s.train.max_steps = max_steps;
    s.vram = (size_t)15 << 30;
    mr_model_opts mo = rig_lora(1);
    mo.store = MR_NF4;
    mo.compute = MR_F16;
    mo.lora.r = 64;
    REQUIRE_OK(mr_config_named(&c, "qwen2.5-3b", &err), err);
    const mr_census census = { .prompt = 512, .completion = n_new };
    REQUIRE_OK(mr_plan_make(&p, b, &c, &mo, &s, &census, &err), err);
    return p.t4;
}

static void published_job(void) {
    mr_backend *b;
    mr_err err;
    REQUIRE_OK(mr_backend_open(&b, MR_CPU, 0, 1, &err), err);
    mr_estimate e = estimate(b, 1, 512, -1, MR_METHOD_GRPO);
    /* A decode step reads 2.77e9 weights of 0.516 bytes, the head of 151936 x 2048 halves and 1.2e8 adapter values of 2
     * bytes: 2.29 GB at 160 GB/s, 14.3 ms; 511 of them 7.3 s, and what is seen of keys and values comes on top. */
    CHECK(e.rollout_s > 7.3 && e.rollout_s < 10.5);
    /* 3578 rows, 3 x 2 x 2.9e9 operations a row and the recomputed forward: at least 62e12 and with it at most 85e12 of
     * 32.5e12 a second; logits of 3072 rows three times: 5.7e12 more. */
    CHECK(e.train_s > 1.9 && e.train_s < 3.1);
    CHECK_NEAR(e.step_s, e.rollout_s + e.train_s, 1e-12);
    CHECK_INT(e.steps, 750);
    CHECK_NEAR(e.hours, e.step_s * 750 / 3600, 1e-12);
    CHECK_NEAR(e.usd, e.hours * 0.35, 1e-12);
    mr_str text = { 0 };
    mr_estimate_describe(&e, &mr_t4, &text);
    CHECK_CONTAINS(text.data,
                   "on a T4, by its data sheet (320 GB/s, 65 TFLOP/s; 50 % of either, all lengths at their most): ");
    CHECK_CONTAINS(text.data, "; 750 steps take ");
    CHECK_CONTAINS(text.data, " dollars at 0.35 an hour\n");
    mr_str_clear(&text);
    /* half the tokens; more prompts; no sampling; a number of steps */
    mr_estimate half = estimate(b, 1, 256, 10, MR_METHOD_GRPO), more = estimate(b, 4, 512, 10, MR_METHOD_GRPO),
                sft = estimate(b, 1, 512, 10, MR_METHOD_SFT);
    CHECK(half.rollout_s < 0.52 * e.rollout_s && half.train_s < 0.65 * e.train_s && half.steps == 10);
    CHECK(more.train_s > 3.9 * e.train_s && more.train_s < 4.01 * e.train_s && more.rollout_s < 4.01 * e.rollout_s);
    CHECK(sft.rollout_s == 0 && sft.train_s > 0);
    e.step_s = 0.4;
    mr_estimate_describe(&e, &mr_t4, &text);
    CHECK(!text.len);
    mr_backend_close(b);
}

TEST_MAIN({ "published job", published_job })
