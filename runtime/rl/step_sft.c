/* step_sft.c - one supervised step: the mean cross-entropy of the answers' tokens, through the same packs and decoder
 * as GRPO.
 *
 * A row is a group of one: its prompt is the prefix, its answer and the turn's end the completion, so that what is
 * learned is exactly what sampling computes. Prompt tokens are not trained. Source: TRL's SFTTrainer with
 * completion-only loss. */
#include <assert.h>
#include <math.h>

#include "base/proc.h"
#include "base/watch.h"
#include "rl/trainer_impl.h"

typedef struct work {
    mr_trainer *t;
    int n_tok;
    int32_t *first;                 /* [P] */
    float *logp, *entropy, *weight; /* [targets of a pack] */
    double logp_sum, entropy_sum;
} work;

static bool next_pack(work *w, int *next) {
    mr_trainer *t = w->t;
    mr_packer_reset(&t->packer);
    for (; *next < t->prompts; ++*next) {
        const mr_prompt *p = &t->batch[*next];
        const int32_t *ids = p->target.data;
        mr_train_group g = { .prompt = p->ids.data,
                             .n_prompt = p->ids.n,
                             .ids = &ids,
                             .n_ids = &p->target.n,
                             .n_completions = 1,
                             .first_token = w->first[*next] };
        if (!mr_packer_add(&t->packer, &g)) {
            assert(t->packer.n_targets > 0); /* the plan has room for any one */
            break;
        }
    }
    return t->packer.n_targets > 0;
}

static mr_status gradients(work *w, mr_err *err) {
    mr_trainer *t = w->t;
    const mr_packer *k = &t->packer;
    for (int next = 0; next_pack(w, &next);) {
        MR_TRY(mr_trainer_stopped(t, err));
        mr_decoder_forward(t->decoder, &k->pack);
        mr_decoder_logprobs(t->decoder, w->logp, w->entropy, k->rows, k->targets, k->n_targets, t->inv_t);
        for (int i = 0; i < k->n_targets; i++) {
            w->logp_sum += (double)w->logp[i];
            w->entropy_sum += (double)w->entropy[i];
            w->weight[i] = -1.0f / (float)w->n_tok; /* d(-mean logp) / d logp */
        }
        mr_scaler_apply(&t->scaler, w->weight, k->n_targets);
        mr_decoder_backward(t->decoder, &k->pack, k->rows, k->targets, w->weight, k->n_targets, t->inv_t);
        MR_TRY(t->b->sync(t->b, err));
        mr_trainer_progress(t, "train", next, t->prompts);
    }
    return MR_OK;
}

static void add_ids(cJSON *row, const char *name, const mr_ids *ids) {
    cJSON *list = cJSON_AddArrayToObject(row, name);
    for (int i = 0; i < ids->n; i++) cJSON_AddItemToArray(list, cJSON_CreateNumber(ids->data[i]));
}

/* The run ends here: the step's rows run again while each part is looked at. */
static void examine(work *w, double norm, double lr) {
    mr_trainer *t = w->t;
    mr_peak *peaks = mr_arena_alloc(&t->scratch, (size_t)mr_decoder_n_peaks(t->decoder) * sizeof *peaks);
    const mr_packer *k = &t->packer;
    cJSON *batch = cJSON_CreateArray();
    for (int next = 0; next_pack(w, &next);)
        mr_decoder_examine(t->decoder, &k->pack, k->rows, k->n_targets, peaks);
    for (int p = 0; p < t->prompts; p++) {
        cJSON *row = cJSON_CreateObject();
        cJSON_AddNumberToObject(row, "row", (double)t->batch[p].index);
        cJSON_AddStringToObject(row, "source", t->batch[p].row.source ? t->batch[p].row.source : "");
        add_ids(row, "prompt_ids", &t->batch[p].ids);
        add_ids(row, "target_ids", &t->batch[p].target);
        cJSON_AddItemToArray(batch, row);
    }
    mr_autopsy_write(t, peaks, batch, -w->logp_sum / w->n_tok, norm, lr);
    cJSON_Delete(batch);
}

mr_status mr_step_sft(mr_trainer *t, mr_err *err) {
    work w = { .t = t };
    size_t targets = (size_t)t->packer.max_targets;
    double t0 = mr_now_s(), norm, lr, scale = t->scaler.scale;
    bool done;
    int64_t rows = 0;
    w.first = mr_arena_alloc(&t->scratch, (size_t)t->prompts * sizeof *w.first);
    w.logp = mr_arena_alloc(&t->scratch, targets * sizeof(float));
    w.entropy = mr_arena_alloc(&t->scratch, targets * sizeof(float));
    w.weight = mr_arena_alloc(&t->scratch, targets * sizeof(float));
    for (int p = 0; p < t->prompts; p++) {
        w.first[p] = w.n_tok;
        w.n_tok += t->batch[p].target.n;
        rows += t->batch[p].ids.n + t->batch[p].target.n;
    }
    mr_watch_at("train");
    mr_decoder_phase(t->decoder, MR_PHASE_TRAIN);
    mr_model_zero_grads(t->parts.model);
    MR_TRY(gradients(&w, err));
    mr_watch_at("update");
    t->half_done = true;
    MR_TRY(mr_trainer_update(t, -w.logp_sum / w.n_tok, &norm, &lr, &done, err));
    if (mr_trainer_is_sick(t)) {
        examine(&w, norm, lr);
        if (!t->values_finite) return mr_trainer_sickness(t, err);
    }
    if (done) t->updates++;
    t->num_tokens += (double)rows;
    t->step++;
    double train_s = mr_now_s() - t0;
    mr_trainer_metric(t, MR_M_LOSS, -w.logp_sum / w.n_tok);
    mr_trainer_metric(t, MR_M_GRAD_NORM, norm);
    mr_trainer_metric(t, MR_M_LEARNING_RATE, lr);
    mr_trainer_metric(t, MR_M_NUM_TOKENS, t->num_tokens);
    mr_trainer_metric(t, MR_M_ENTROPY, w.entropy_sum / w.n_tok);
    mr_trainer_metric(t, MR_M_STEP_TIME, mr_now_s() - t->t_step);
    mr_trainer_metric(t, MR_M_EPOCH, mr_trainer_epoch(t, t->step));
    mr_trainer_metric(t, MR_M_VERSION, t->version);
    mr_trainer_scale_metrics(t, scale);
    mr_trainer_metric(t, MR_M_TIME_TRAIN, train_s);
    mr_trainer_metric(t, MR_M_TOKENS_PER_S, train_s > 0 ? (double)rows / train_s : (double)NAN);
    return mr_trainer_record(t, err);
}
