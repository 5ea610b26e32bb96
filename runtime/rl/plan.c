/* plan.c - how much memory the run needs, from a census of its data; and the same as lines for people. */
#include <stdio.h>

#include "rl/rollout.h"
#include "rl/trainer_impl.h"

enum {
    CENSUS_ROWS = 512,
    ROUND = 32,
    CPU_PACK_ROWS = 512,
    CUDA_PACK_ROWS = 4096,
    PREFILL_ROWS = 512,
    MOST_STEP_TOKENS = 1 << 26 /* their ids, log-probabilities and masks take 2 GB */
};
static const size_t KV_BUDGET_CPU = (size_t)1 << 30;

static int at_most(int64_t x, int64_t limit) {
    return (int)(x < limit ? x : limit);
}

/* The longest prompt (and sft target) that training will use. Up to 512 rows are read, evenly spaced; when there are
 * more, a quarter is added for those not seen. A longer one that still comes is cut to this, as max_prompt_length
 * cuts. */
static mr_status census(mr_trainer *t, int limit, mr_err *err) {
    int64_t n = t->parts.rows.n_rows, read = n < CENSUS_ROWS ? n : CENSUS_ROWS;
    int longest = 1, target = 1;
    /* while counting nothing is cut but by the settings */
    t->max_prompt = limit;
    for (int64_t i = 0; i < read; i++) {
        mr_prompt p = { .index = i * n / read };
        mr_status st = mr_trainer_encode(t, &p, err);
        if (p.ids.n > longest) longest = p.ids.n;
        if (p.target.n > target) target = p.target.n;
        mr_row_clear(&p.row);
        mr_free(p.ids.data);
        mr_free(p.target.data);
        MR_TRY(st);
        MR_TRY(mr_trainer_stopped(t, err));
    }
    bool sample = n > read;
    t->max_prompt = at_most(sample ? mr_kv_round(longest + longest / 4 + ROUND) : longest, limit);
    if (t->set->method == MR_METHOD_SFT)
        t->max_completion = at_most(sample ? mr_kv_round(target + target / 4 + ROUND) : target, t->max_completion);
    return MR_OK;
}

static size_t slot_bytes(const mr_trainer *t) {
    const mr_config *c = mr_model_config(t->parts.model);
    return t->b->kv_bytes(t->b, MR_KV_CHUNK, c->num_key_value_heads, c->head_dim) * (size_t)c->num_hidden_layers /
           MR_KV_CHUNK;
}

mr_status mr_trainer_plan(mr_trainer *t, mr_err *err) {
    const mr_settings *s = t->set;
    const mr_config *c = mr_model_config(t->parts.model);
    bool sft = s->method == MR_METHOD_SFT;
    int length = s->model.max_seq_length > 0 ? at_most(s->model.max_seq_length, c->max_position_embeddings)
                                             : c->max_position_embeddings;
    t->max_completion = s->train.max_completion_length;
    if (t->max_completion >= length)
        return mr_fail(err, MR_EINVAL,
                       "grpo.max_completion_length is %d, but model.max_seq_length (or the model) ends at %d; leave "
                       "room for the prompt",
                       t->max_completion, length);
    const int64_t tokens = (int64_t)t->prompts * t->group * t->max_completion;
    if (!sft && tokens > MOST_STEP_TOKENS)
        return mr_fail(err, MR_EINVAL,
                       "grpo.prompts_per_step * num_generations * max_completion_length is %lld tokens a step, need at "
                       "most %d; lower one of them",
                       (long long)tokens, MOST_STEP_TOKENS);
    MR_TRY(census(t,
                  s->train.max_prompt_length > 0 ? at_most(s->train.max_prompt_length, length - t->max_completion)
                                                 : length - t->max_completion,
                  err));

    /* One whole group has to fit in a pack; small groups share packs, since few rows use a matrix product badly. */
    int64_t rows = t->max_prompt + (int64_t)t->group * (t->max_completion - 1);
    int64_t slots = mr_kv_round(t->max_prompt) + t->group * mr_kv_round(t->max_completion);
    int64_t want = t->b->kind == MR_CUDA ? CUDA_PACK_ROWS : CPU_PACK_ROWS, all = rows * t->prompts;
    int64_t pack = want < all ? want : all;
    if (pack < rows) pack = rows;
    mr_decoder_opts *o = &t->room;
    *o = (mr_decoder_opts){ .train_rows = (int)pack, .gradient_checkpointing = s->train.gradient_checkpointing };
    /* Short spans waste the rest of their chunk: room for a pack of spans that are half empty. */
    int64_t train_slots = mr_kv_round(2 * pack);
    o->train_slots = train_slots > slots ? train_slots : slots;
    if (!sft) {
        int64_t cell = mr_rollout_slots(1, t->max_prompt, t->group, t->max_completion), groups = t->prompts;
        if (t->b->kind == MR_CPU) {
            int64_t fit = (int64_t)(KV_BUDGET_CPU / slot_bytes(t)) / cell;
            if (fit < groups) groups = fit < 1 ? 1 : fit;
        }
        o->rollout_slots = groups * cell;
        int64_t prefill = groups * t->max_prompt, live = groups * t->group;
        if (prefill > PREFILL_ROWS) prefill = PREFILL_ROWS;
        o->rollout_rows = (int)(live > prefill ? live : prefill);
    }
    t->n_cut = 0;
    MR_TRY(mr_decoder_open(&t->decoder, t->parts.model, o, err));
    return mr_packer_init(&t->packer, o->train_rows, o->train_slots, o->train_rows + t->prompts * t->group, err);
}

static void line(mr_str *out, const char *what, size_t bytes, const char *detail) {
    mr_str_printf(out, "  %-34s %10.1f MB  %s\n", what, (double)bytes / 1e6, detail);
}

void mr_trainer_describe(const mr_trainer *t, mr_str *out) {
    char detail[160];
    size_t model = mr_model_bytes(t->parts.model), decoder = mr_decoder_bytes(t->decoder),
           states = mr_optimizer_bytes(t->optimizer);
    snprintf(detail, sizeof detail, "%lld trained parameters", (long long)t->n_grads);
    line(out, "weights, adapters, gradients", model, detail);
    snprintf(detail, sizeof detail, "%d prompts x %d, prompts to %d tokens, completions to %d; packs of %d rows",
             t->prompts, t->group, t->max_prompt, t->max_completion, t->room.train_rows);
    line(out, "keys, values, activations", decoder, detail);
    line(out, "optimizer states", states, t->set->train.optim == MR_ADAMW_8BIT ? "8 bit" : "32 bit");
    line(out, "together", model + decoder + states, t->b->device);
}
