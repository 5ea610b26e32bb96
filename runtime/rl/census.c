/* census.c - how long the data's prompts are: plan.h. */
#include "rl/plan.h"
#include "rl/trainer_impl.h"

enum {
    CENSUS_ROWS = 512,
    ROUND = 32,
    MOST_STEP_TOKENS = 1 << 26 /* their ids, log-probabilities and masks take 2 GB */
};

static int at_most(int64_t x, int64_t limit) {
    return (int)(x < limit ? x : limit);
}

/* The most tokens of a prompt by the settings. */
static mr_status prompt_limit(int *limit, const mr_settings *s, const mr_config *c, mr_err *err) {
    int length = s->model.max_seq_length > 0 ? at_most(s->model.max_seq_length, c->max_position_embeddings)
                                             : c->max_position_embeddings;
    int completion = s->train.max_completion_length;
    if (completion >= length)
        return mr_fail(err, MR_EINVAL,
                       "grpo.max_completion_length is %d, but model.max_seq_length (or the model) ends at %d; leave "
                       "room for the prompt",
                       completion, length);
    const int64_t tokens = (int64_t)s->train.prompts_per_step * s->train.loss.num_generations * completion;
    if (s->method != MR_METHOD_SFT && tokens > MOST_STEP_TOKENS)
        return mr_fail(err, MR_EINVAL,
                       "grpo.prompts_per_step * num_generations * max_completion_length is %lld tokens a step, need at "
                       "most %d; lower one of them",
                       (long long)tokens, MOST_STEP_TOKENS);
    *limit =
        s->train.max_prompt_length > 0 ? at_most(s->train.max_prompt_length, length - completion) : length - completion;
    return MR_OK;
}

static mr_status read_row(mr_census *c, mr_trainer *t, int64_t index, mr_err *err) {
    mr_prompt p = { .index = index };
    mr_status st = mr_trainer_encode(t, &p, err);
    if (p.ids.n > c->longest) {
        c->longest = p.ids.n;
        c->longest_row = index;
    }
    if (p.target.n > c->longest_target) c->longest_target = p.target.n;
    mr_row_clear(&p.row);
    mr_free(p.ids.data);
    mr_free(p.target.data);
    return st;
}

mr_status mr_census_take(mr_census *out, const mr_trainer_parts *parts, const mr_config *c, mr_err *err) {
    const mr_settings *s = parts->settings;
    int64_t n = parts->rows.n_rows, read = n < CENSUS_ROWS ? n : CENSUS_ROWS;
    int limit = 0;
    *out = (mr_census){ .n_rows = n, .n_read = read, .longest = 1, .longest_target = 1 };
    MR_TRY(prompt_limit(&limit, s, c, err));
    /* what encodes rows during the run does it here; nothing is cut but by the settings */
    mr_trainer *t = mr_alloc(sizeof *t);
    *t = (mr_trainer){
        .parts = *parts, .set = s, .max_prompt = limit, .max_completion = s->train.max_completion_length
    };
    mr_status st = MR_OK;
    for (int64_t i = 0; i < read && st == MR_OK; i++) st = read_row(out, t, i * n / read, err);
    out->n_cut = t->n_cut;
    out->warned_prompt = t->warned_prompt;
    out->warned_target = t->warned_target;
    mr_free(t);
    MR_TRY(st);
    bool sample = n > read;
    int most = out->longest, target = out->longest_target;
    out->prompt = at_most(sample ? mr_kv_round(most + most / 4 + ROUND) : most, limit);
    out->completion = s->train.max_completion_length;
    if (s->method == MR_METHOD_SFT)
        out->completion = at_most(sample ? mr_kv_round(target + target / 4 + ROUND) : target, out->completion);
    return MR_OK;
}
