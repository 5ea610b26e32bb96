/* trainer.c - see trainer.h: life of a trainer, the order of the data, the update, the record, checkpoints. */
#include "rl/trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/log.h"
#include "base/proc.h"
#include "base/watch.h"
#include "rl/checkpoint.h"
#include "rl/schedule.h"
#include "rl/trainer_impl.h"

void mr_row_clear(mr_row *r) {
    mr_arena_clear(&r->arena);
    *r = (mr_row){ 0 };
}

/* --- the order of the data --- */

mr_status mr_order_begin(mr_trainer *t, int64_t n_rows, mr_err *err) {
    mr_order *o = &t->order;
    const double epoch = o->chunks ? mr_trainer_epoch(t, t->step) : 0;
    const int per_step = t->prompts;
    mr_free(o->perm);
    *o = (mr_order){ .n_rows = n_rows,
                     .epoch = -1,
                     .per_step = per_step,
                     .chunks = n_rows / per_step,
                     .base = t->step,
                     .base_epoch = epoch,
                     .seed = t->set->train.seed,
                     .shuffle = t->set->train.shuffle_dataset };
    if (o->chunks < 1)
        return mr_fail(err, MR_EINVAL, "data.train has %lld rows, a step takes %d; add rows or lower prompts_per_step",
                       (long long)n_rows, per_step);
    o->perm = mr_try_alloc((size_t)n_rows * sizeof *o->perm);
    if (!o->perm) return mr_fail(err, MR_ENOMEM, "data.train: no memory for the order of %lld rows", (long long)n_rows);
    return MR_OK;
}

/* Row number k of the step: epochs before the wanted one are drawn again, which costs a second at a billion rows. */
static int64_t order_at(mr_order *o, int64_t step, int k) {
    step -= o->base;
    int64_t epoch = step / o->chunks, at = step % o->chunks * o->per_step + k;
    if (!o->shuffle) return at;
    if (o->epoch > epoch) o->epoch = -1;
    if (o->epoch < 0) mr_mt19937_init(&o->rng, (uint32_t)o->seed);
    while (o->epoch < epoch) {
        mr_mt19937_randperm(&o->rng, o->perm, o->n_rows);
        o->epoch++;
    }
    return o->perm[at];
}

double mr_trainer_epoch(const mr_trainer *t, int64_t step) {
    return t->order.base_epoch + (double)(step - t->order.base) / (double)t->order.chunks;
}

/* --- rows to tokens --- */

/* Keeps the last `max` ids (TRL before 1.0, Unsloth: left truncation; spec/grpo.md 3.2). */
static bool keep_last(mr_ids *ids, int max) {
    if (ids->n <= max) return false;
    memmove(ids->data, ids->data + ids->n - max, (size_t)max * sizeof *ids->data);
    ids->n = max;
    return true;
}

static mr_status encode_target(mr_trainer *t, mr_prompt *p, mr_err *err) {
    const mr_message *last = &p->row.messages[p->row.n_messages - 1];
    if (strcmp(last->role, "assistant") != 0)
        return mr_fail(err, MR_EDATA,
                       "data.train: row %lld (%s) ends with a message of role \"%s\", sft wants \"assistant\"",
                       (long long)p->index, p->row.source ? p->row.source : "", last->role);
    MR_TRY(mr_tokenizer_encode(t->parts.tokenizer, &p->target, last->content, strlen(last->content), false, err));
    int32_t eos = mr_tokenizer_eos(t->parts.tokenizer);
    if (eos >= 0) mr_ids_push(&p->target, eos);
    if (p->target.n > t->max_completion) {
        p->target.n = t->max_completion;
        if (!t->warned_target)
            mr_warn("data.train: row %lld: an answer is cut to max_completion_length = %d tokens; it will not learn to "
                    "end there",
                    (long long)p->index, t->max_completion);
        t->warned_target = true;
    }
    if (!p->target.n)
        return mr_fail(err, MR_EDATA, "data.train: row %lld: the assistant's message is empty", (long long)p->index);
    return MR_OK;
}

mr_status mr_trainer_encode(mr_trainer *t, mr_prompt *p, mr_err *err) {
    bool sft = t->set->method == MR_METHOD_SFT;
    MR_TRY(t->parts.rows.get(t->parts.rows.self, p->index, &p->row, err));
    if (p->row.n_messages < (sft ? 2 : 1))
        return mr_fail(err, MR_EDATA, "data.train: row %lld has %d messages, want at least %d", (long long)p->index,
                       p->row.n_messages, sft ? 2 : 1);
    const mr_chat_opts o = { .add_generation_prompt = true };
    MR_TRY(mr_chat_encode(t->parts.tokenizer, &p->ids, t->parts.chat, p->row.messages,
                          p->row.n_messages - (sft ? 1 : 0), &o, err));
    if (!p->ids.n) return mr_fail(err, MR_EDATA, "data.train: row %lld gives an empty prompt", (long long)p->index);
    if (keep_last(&p->ids, t->max_prompt)) {
        t->n_cut++;
        if (!t->warned_prompt)
            mr_warn("data.train: row %lld: the prompt is longer than %d tokens; the last %d are kept, of this and of "
                    "others like it",
                    (long long)p->index, t->max_prompt, t->max_prompt);
        t->warned_prompt = true;
    }
    return sft ? encode_target(t, p, err) : MR_OK;
}

static void batch_clear(mr_trainer *t) {
    for (int i = 0; i < t->prompts && t->batch; i++) {
        mr_row_clear(&t->batch[i].row);
        mr_free(t->batch[i].ids.data);
        mr_free(t->batch[i].target.data);
        t->batch[i] = (mr_prompt){ 0 };
    }
    mr_arena_reset(&t->scratch);
}

mr_status mr_trainer_draw(mr_trainer *t, mr_err *err) {
    for (int i = 0; i < t->prompts; i++) {
        t->batch[i].index = order_at(&t->order, t->step, i);
        MR_TRY(mr_trainer_encode(t, &t->batch[i], err));
    }
    return MR_OK;
}

/* --- telling --- */

void mr_trainer_metric(mr_trainer *t, const char *name, double value) {
    if (t->n_metrics == MR_MAX_METRICS) return;
    mr_metric *m = &t->metrics[t->n_metrics++];
    snprintf(m->name, sizeof m->name, "%.63s", name);
    m->value = value;
}

void mr_trainer_metric_fmt(mr_trainer *t, const char *fmt, const char *arg, double value) {
    /* fmt is one of metrics.h: a prefix, %s, a suffix */
    char name[256];
    const char *at = strstr(fmt, "%s");
    snprintf(name, sizeof name, "%.*s%s%s", (int)(at - fmt), fmt, arg, at + 2);
    mr_trainer_metric(t, name, value);
}

mr_status mr_trainer_tell(mr_trainer *t, const char *kind, const char *text, const cJSON *detail, mr_err *err) {
    const mr_observer *o = &t->parts.observer;
    return o->event ? o->event(o->self, t->step, kind, text, detail, err) : MR_OK;
}

mr_status mr_trainer_event(mr_trainer *t, const char *kind, const char *text, mr_err *err) {
    return mr_trainer_tell(t, kind, text, NULL, err);
}

void mr_trainer_progress(mr_trainer *t, const char *phase, int done, int total) {
    const mr_observer *o = &t->parts.observer;
    mr_watch_beat();
    if (o->progress) o->progress(o->self, t->step + 1, t->max_steps, phase, done, total);
    const mr_control *c = &t->parts.control;
    if (!c->serve || mr_now_s() - t->served_s < 0.05) return; /* twenty times a second at most */
    c->serve(c->self, t, false, 0);
    t->served_s = mr_now_s();
}

mr_status mr_trainer_stopped(const mr_trainer *t, mr_err *err) {
    if (!t->stop) return MR_OK;
    return mr_fail(err, MR_ESIGNAL, "stopped after step %lld", (long long)t->step);
}

double mr_trainer_elapsed_s(const mr_trainer *t) {
    return t->before_s + mr_now_s() - t->opened_s;
}

const char *mr_trainer_why_ended(const mr_trainer *t) {
    return !t->ended ? NULL : t->why_ended[0] ? t->why_ended : "somebody ended it";
}

/* The log is a curve for people and the memory of the guards; metrics.jsonl has every step. So that memory and checkpoints do not grow
 * with a run, of what is older than LOG_LAST steps every 2nd, 4th ... step stays, about LOG_MIDDLE in all, and the first ones. A function
 * of the step alone: a resumed run has the same log. */
static void thin_log(mr_trainer *t) {
    enum { LOG_FIRST = 16, LOG_LAST = 64, LOG_MIDDLE = 128 };
    int64_t stride = 1;
    if (t->step % LOG_LAST != 0) return;
    while (t->step / stride > LOG_MIDDLE) stride *= 2;
    for (cJSON *e = t->log_history->child, *next; e && stride > 1; e = next) {
        next = e->next;
        const cJSON *of = cJSON_GetObjectItemCaseSensitive(e, "step");
        const int64_t step = cJSON_IsNumber(of) ? (int64_t)of->valuedouble : 0;
        if (step <= LOG_FIRST || step > t->step - LOG_LAST || step % stride == 0) continue;
        cJSON_Delete(cJSON_DetachItemViaPointer(t->log_history, e));
    }
}

mr_status mr_trainer_record(mr_trainer *t, mr_err *err) {
    const mr_observer *o = &t->parts.observer;
    const double elapsed = mr_trainer_elapsed_s(t);
    t->step_s = fmax(mr_now_s() - t->t_step, 0.9 * t->step_s);
    mr_trainer_metric(t, MR_M_TIME_RUN, elapsed);
    if (t->set->budget.usd_per_hour > 0)
        mr_trainer_metric(t, MR_M_COST, elapsed / 3600 * t->set->budget.usd_per_hour);
    cJSON *entry = cJSON_CreateObject();
    for (int i = 0; i < t->n_metrics; i++) cJSON_AddNumberToObject(entry, t->metrics[i].name, t->metrics[i].value);
    cJSON_AddNumberToObject(entry, "step", (double)t->step);
    cJSON_AddItemToArray(t->log_history, entry);
    thin_log(t);
    if (o->step) MR_TRY(o->step(o->self, t->step, t->max_steps, t->metrics, t->n_metrics, err));
    t->half_done = false; /* now the step is whole: a checkpoint of it finds its line in the record */
    return MR_OK;
}

/* --- the update --- */

static mr_status look_at_values(mr_trainer *t, mr_err *err) {
    int64_t n;
    const float *values = mr_model_values(t->parts.model, &n);
    t->b->sum_squares(t->b, values, n, &t->values_finite);
    return t->b->sync(t->b, err);
}

/* One line for each update that is left out, and one that says what to do when it happens again and again. */
static mr_status skip_update(mr_trainer *t, mr_err *err) {
    char text[320];
    long long step = (long long)t->step + 1;
    int in_row = ++t->skipped_in_row;
    const double scale = t->scaler.scale;
    MR_TRY(look_at_values(t, err));
    mr_scaler_next(&t->scaler, false);
    if (!t->scaler.on)
        snprintf(text, sizeof text, "step %lld: %s is not finite; the update is skipped (%d in a row)", step,
                 t->loss_finite ? "a gradient" : "the loss", in_row);
    else if (mr_scaler_mend(&t->scaler))
        snprintf(text, sizeof text,
                 "step %lld: loss_scale is %g, which is no power of two; the update is skipped (%d in a row), and the scale begins "
                 "anew at %g",
                 step, scale, in_row, t->scaler.scale);
    else if (!t->loss_finite)
        snprintf(text, sizeof text,
                 "step %lld: the loss is not finite, since activations do not fit into float16; the update is skipped (%d in "
                 "a row)",
                 step, in_row);
    else
        snprintf(text, sizeof text,
                 "step %lld: a gradient does not fit into float16; the update is skipped (%d in a row), loss_scale %g -> %g",
                 step, in_row, scale, t->scaler.scale);
    mr_warn("%s", text);
    MR_TRY(mr_trainer_event(t, "warning", text, err));
    if (!t->scaler.on || in_row != MR_MAX_SKIPPED) return MR_OK;
    snprintf(text, sizeof text,
             "step %lld: %d updates in a row were skipped, so nothing was learned in them; if this goes on, use dtype = "
             "\"bfloat16\" (GPUs from compute capability 8.0 on) or \"float32\", or lower learning_rate",
             step, in_row);
    mr_warn("%s", text);
    return mr_trainer_event(t, "warning", text, err);
}

/* lambda(k - 1) for update k; a skipped update does not advance the schedule (spec/optimizer.md 6.4) */
static double rate_of(const mr_trainer *t) {
    return (double)t->set->train.learning_rate *
           mr_schedule_lambda(t->set->train.lr_scheduler_type, t->updates, t->warmup, t->max_steps);
}

void mr_trainer_no_update(mr_trainer *t, double *norm, double *lr, bool *done) {
    *norm = 0;
    *lr = rate_of(t);
    *done = false;
    t->scaler.skipped++;
}

mr_status mr_trainer_update(mr_trainer *t, double loss, double *norm, double *lr, bool *done, mr_err *err) {
    bool finite = true;
    *done = false;
    t->loss_finite = isfinite(loss);
    int64_t n;
    const float *grads = mr_model_grads(t->parts.model, &n);
    *norm = sqrt(t->b->sum_squares(t->b, grads, n, &finite)) / t->scaler.scale;
    *lr = rate_of(t);
    MR_TRY(t->b->sync(t->b, err));
    /* Logits that are not finite may give texts that no reward can tell apart: no gradient, but a loss that tells. */
    if (!finite || !isfinite(*norm) || !t->loss_finite) return skip_update(t, err);
    mr_optimizer_step(t->optimizer, (float)*lr,
                      mr_scaler_factor(&t->scaler, mr_clip_coefficient(*norm, t->set->train.max_grad_norm)));
    mr_model_refresh(t->parts.model);
    mr_scaler_next(&t->scaler, true);
    t->skipped_in_row = 0;
    *done = true;
    return look_at_values(t, err);
}

void mr_trainer_scale_metrics(mr_trainer *t, double loss_scale) {
    if (t->scaler.on) mr_trainer_metric(t, MR_M_LOSS_SCALE, loss_scale);
    if (t->scaler.on || t->scaler.skipped) mr_trainer_metric(t, MR_M_SKIPPED, (double)t->scaler.skipped);
}

/* --- open and close --- */

/* The settings that change what a step does and that cannot change in a run, as text, hashed: a resumed run that
 * differs is told so. Those that can are in the checkpoint. */
static void hash_settings(mr_trainer *t) {
    const mr_settings *s = t->set;
    mr_str x = { 0 };
    mr_str_printf(&x, "%d|%s|%d|%s|%d|%d|%a|%d|", (int)s->method, s->model.name ? s->model.name : "",
                  s->model.load_in_4bit, s->model.dtype ? s->model.dtype : "", s->model.max_seq_length, s->lora.r,
                  (double)s->lora.lora_alpha, s->lora.use_rslora);
    for (int i = 0; i < MR_N_PROJ; i++) mr_str_printf(&x, "%d", s->lora.targets[i]);
    mr_str_printf(&x, "|%a|%a|%a|%a|%d|%d|%d|%d|%d|%d|", (double)s->train.adam_beta1, (double)s->train.adam_beta2,
                  (double)s->train.adam_epsilon, s->train.warmup_ratio, s->train.warmup_steps,
                  (int)s->train.lr_scheduler_type, (int)s->train.optim, t->prompts, s->train.max_prompt_length,
                  s->train.max_completion_length);
    mr_str_printf(&x, "%llu|%d|%d", (unsigned long long)s->train.seed, s->train.shuffle_dataset,
                  s->train.loss.num_generations);
    mr_sha256(t->settings_hash, x.data, x.len);
    mr_str_clear(&x);
}

static mr_status check_settings(const mr_trainer *t, mr_err *err) {
    const mr_settings *s = t->set;
    if (t->prompts < 1) return mr_fail(err, MR_EINVAL, "prompts_per_step is %d, need at least 1", t->prompts);
    if (s->train.max_completion_length < 1)
        return mr_fail(err, MR_EINVAL, "max_completion_length is %d, need at least 1", s->train.max_completion_length);
    if (!mr_model_options(t->parts.model)->train || !t->n_params)
        return mr_fail(err, MR_EINVAL, "%s: the model has nothing to train; set lora.r, or open it for full training",
                       mr_model_path(t->parts.model));
    if (s->method == MR_METHOD_SFT) return MR_OK;
    if (t->group < 2) return mr_fail(err, MR_EINVAL, "grpo.num_generations is %d, need at least 2", t->group);
    if (t->parts.scorer.n_rewards < 1) return mr_fail(err, MR_EINVAL, "rewards is empty, need at least 1");
    if (t->parts.scorer.n_rewards > MR_MAX_REWARDS)
        return mr_fail(err, MR_EINVAL, "rewards has %d names, need at most %d", t->parts.scorer.n_rewards,
                       MR_MAX_REWARDS);
    if (s->train.loss.beta != 0 && mr_model_options(t->parts.model)->full)
        return mr_fail(
            err, MR_EINVAL,
            "grpo.beta is %g, but full training has no reference model; set beta = 0 or train an adapter (lora.r)",
            (double)s->train.loss.beta);
    if (s->train.loss.entropy_coef != 0)
        return mr_fail(err, MR_EINVAL, "grpo.entropy_coef is %g, only 0 is supported",
                       (double)s->train.loss.entropy_coef);
    return MR_OK;
}

static mr_status open_all(mr_trainer *t, mr_err *err) {
    const mr_settings *s = t->set;
    bool sft = s->method == MR_METHOD_SFT;
    t->params = mr_model_params(t->parts.model, &t->n_params);
    mr_model_grads(t->parts.model, &t->n_grads);
    t->scaler = mr_scaler_start(mr_model_options(t->parts.model)->compute);
    t->prompts = s->train.prompts_per_step;
    t->group = sft ? 1 : s->train.loss.num_generations;
    MR_TRY(check_settings(t, err));
    mr_trainer_apply(t);
    if (!sft) mr_trainer_take_weights(t, &t->parts.scorer);
    MR_TRY(mr_order_begin(t, t->parts.rows.n_rows, err));
    t->max_steps = s->train.max_steps >= 0 ? s->train.max_steps
                                           : (int64_t)ceil(s->train.num_train_epochs * (double)t->order.chunks);
    t->warmup = mr_schedule_warmup(t->max_steps, s->train.warmup_steps, s->train.warmup_ratio);
    t->batch = mr_alloc((size_t)t->prompts * sizeof *t->batch);
    t->log_history = cJSON_CreateArray();
    hash_settings(t);
    mr_optimizer_opts o = { s->train.optim, s->train.adam_beta1, s->train.adam_beta2, s->train.adam_epsilon,
                            s->train.weight_decay };
    MR_TRY(mr_optimizer_open(&t->optimizer, t->b, t->params, t->n_params, &o, err));
    return mr_trainer_plan(t, err);
}

mr_status mr_trainer_open(mr_trainer **out, const mr_trainer_parts *parts, mr_err *err) {
    *out = NULL;
    mr_trainer *t = mr_try_alloc(sizeof *t);
    if (!t) return mr_fail(err, MR_ENOMEM, "trainer: no memory");
    t->parts = *parts;
    t->own = *parts->settings;
    t->set = &t->own;
    t->version = 1;
    t->b = mr_model_backend(parts->model);
    t->saved_step = t->best_step = -1;
    t->opened_s = mr_now_s();
    t->before_s = parts->spent_s;
    t->values_finite = true;
    mr_status st = open_all(t, err);
    if (st == MR_OK)
        *out = t;
    else
        mr_trainer_close(t);
    return st;
}

void mr_trainer_close(mr_trainer *t) {
    if (!t) return;
    batch_clear(t);
    mr_arena_clear(&t->scratch);
    mr_free(t->batch);
    mr_free(t->order.perm);
    mr_packer_clear(&t->packer);
    mr_optimizer_close(t->optimizer);
    mr_decoder_close(t->decoder);
    cJSON_Delete(t->log_history);
    cJSON_Delete(t->journal);
    cJSON_Delete(t->last);
    cJSON_Delete(t->failed);
    mr_free(t->weights);
    mr_free(t->recipe_weights);
    mr_free(t->paused);
    mr_free(t);
}

int64_t mr_trainer_step_index(const mr_trainer *t) {
    return t->step;
}

int64_t mr_trainer_max_steps(const mr_trainer *t) {
    return t->max_steps;
}

void mr_trainer_stop(mr_trainer *t) {
    t->stop = 1;
}

void mr_trainer_unstop(mr_trainer *t) {
    t->stop = 0;
}

/* --- checkpoints --- */

static cJSON *state_of(const mr_trainer *t, int64_t metrics, int64_t samples, int64_t events) {
    const mr_settings *s = t->set;
    cJSON *o = cJSON_CreateObject(), *control, *medrl, *position;
    const bool best = t->best_step >= 0;
    char *folder = best ? mr_asprintf("%s/checkpoint-%lld", t->parts.run_dir ? t->parts.run_dir : ".", (long long)t->best_step)
                        : NULL;
    cJSON_AddItemToObject(o, "best_global_step", best ? cJSON_CreateNumber((double)t->best_step) : cJSON_CreateNull());
    cJSON_AddItemToObject(o, "best_metric", best ? cJSON_CreateNumber(t->best) : cJSON_CreateNull());
    cJSON_AddItemToObject(o, "best_model_checkpoint", best ? cJSON_CreateString(folder) : cJSON_CreateNull());
    mr_free(folder);
    cJSON_AddNumberToObject(o, "epoch", mr_trainer_epoch(t, t->step));
    cJSON_AddNumberToObject(o, "eval_steps", s->train.eval_steps ? s->train.eval_steps : 500);
    cJSON_AddNumberToObject(o, "global_step", (double)t->step);
    cJSON_AddFalseToObject(o, "is_hyper_param_search");
    cJSON_AddTrueToObject(o, "is_local_process_zero");
    cJSON_AddTrueToObject(o, "is_world_process_zero");
    cJSON_AddItemReferenceToObject(o, "log_history", t->log_history);
    cJSON_AddNumberToObject(o, "logging_steps", s->train.logging_steps);
    cJSON_AddNumberToObject(o, "max_steps", (double)t->max_steps);
    cJSON_AddNumberToObject(o, "num_input_tokens_seen", t->num_tokens);
    cJSON_AddNumberToObject(o, "num_train_epochs", s->train.num_train_epochs);
    cJSON_AddNumberToObject(o, "save_steps", s->train.save_steps);
    control = cJSON_AddObjectToObject(cJSON_AddObjectToObject(o, "stateful_callbacks"), "TrainerControl");
    cJSON *args = cJSON_AddObjectToObject(control, "args");
    cJSON_AddFalseToObject(args, "should_epoch_stop");
    cJSON_AddFalseToObject(args, "should_evaluate");
    cJSON_AddFalseToObject(args, "should_log");
    cJSON_AddTrueToObject(args, "should_save");
    cJSON_AddBoolToObject(args, "should_training_stop", t->step >= t->max_steps);
    cJSON_AddObjectToObject(control, "attributes");
    cJSON_AddNumberToObject(o, "total_flos", 0);
    cJSON_AddNumberToObject(o, "train_batch_size", t->prompts * t->group);
    cJSON_AddNullToObject(o, "trial_name");
    cJSON_AddNullToObject(o, "trial_params");
    medrl = cJSON_AddObjectToObject(o, "medrl");
    cJSON_AddNumberToObject(medrl, "format", MR_CHECKPOINT_FORMAT);
    position = cJSON_AddObjectToObject(medrl, "position");
    cJSON_AddNumberToObject(position, "step", (double)t->step);
    cJSON_AddNumberToObject(position, "updates", (double)t->updates);
    cJSON_AddNumberToObject(position, "skipped_in_row", t->skipped_in_row);
    if (t->scaler.on) {
        cJSON_AddNumberToObject(position, "loss_scale", t->scaler.scale);
        cJSON_AddNumberToObject(position, "loss_scale_good", t->scaler.good);
    }
    if (t->scaler.on || t->scaler.skipped)
        cJSON_AddNumberToObject(position, "skipped_updates", (double)t->scaler.skipped);
    cJSON_AddNumberToObject(position, "num_tokens", t->num_tokens);
    cJSON_AddNumberToObject(position, "epoch",
                            (double)((t->step - t->order.base) / t->order.chunks));
    cJSON_AddNumberToObject(position, "chunk", (double)((t->step - t->order.base) % t->order.chunks));
    if (t->order.base) { /* the data changed in the run */
        cJSON_AddNumberToObject(position, "order_base", (double)t->order.base);
        cJSON_AddNumberToObject(position, "order_base_epoch", t->order.base_epoch);
    }
    cJSON_AddNumberToObject(position, "n_rows", (double)t->order.n_rows);
    cJSON_AddNumberToObject(position, "prompts_per_step", t->prompts);
    cJSON_AddStringToObject(medrl, "settings", t->settings_hash);
    cJSON_AddNumberToObject(medrl, "elapsed_s", mr_trainer_elapsed_s(t));
    if (t->b->arithmetic) cJSON_AddStringToObject(medrl, "device", t->b->arithmetic);
    if (t->parts.build) cJSON_AddStringToObject(medrl, "build", t->parts.build);
    cJSON_AddNumberToObject(medrl, "metrics_bytes", (double)metrics);
    cJSON_AddNumberToObject(medrl, "samples_bytes", (double)samples);
    cJSON_AddNumberToObject(medrl, "events_bytes", (double)events);
    mr_trainer_save_open(t, medrl);
    mr_trainer_save_live(t, medrl);
    return o;
}

/* f32 masters of full training: model.safetensors is bf16 and would round them. */
static mr_status save_params(mr_trainer *t, const char *path, mr_err *err) {
    mr_tensor_out *out = mr_alloc((size_t)t->n_params * sizeof *out);
    mr_status st = MR_OK;
    for (int i = 0; i < t->n_params && st == MR_OK; i++) {
        const mr_param *p = &t->params[i];
        size_t bytes = (size_t)(p->rows * p->cols) * sizeof(float);
        float *host = mr_try_alloc(bytes);
        if (!host)
            st = mr_fail(err, MR_ENOMEM, "%s: no memory for a copy of \"%s\"", path, p->name);
        else
            t->b->download(t->b, host, p->value, bytes);
        out[i] =
            (mr_tensor_out){ .name = p->name, .type = "F32", .n_dims = 2, .dims = { p->rows, p->cols }, .data = host };
    }
    if (st == MR_OK) st = t->b->sync(t->b, err);
    if (st == MR_OK) st = mr_safetensors_write(path, out, t->n_params, NULL, err);
    for (int i = 0; i < t->n_params; i++) mr_free((void *)(uintptr_t)out[i].data);
    mr_free(out);
    return st;
}

static mr_status load_params(mr_trainer *t, const char *path, mr_err *err) {
    mr_tensors *f;
    MR_TRY(mr_tensors_open(&f, path, err));
    mr_status st = MR_OK;
    for (int i = 0; i < t->n_params && st == MR_OK; i++) {
        const mr_param *p = &t->params[i];
        const mr_tensor_info *info = mr_tensors_find(f, p->name);
        size_t bytes = (size_t)(p->rows * p->cols) * sizeof(float);
        if (!info || strcmp(info->type, "F32") != 0 || info->bytes != bytes)
            st = mr_fail(err, MR_EDATA,
                         "%s: tensor \"%s\" is missing or not F32[%lld, %lld]; the checkpoint is of another model",
                         path, p->name, (long long)p->rows, (long long)p->cols);
        else
            t->b->upload(t->b, p->value, info->data, bytes);
    }
    mr_tensors_close(f);
    if (st == MR_OK) mr_model_refresh(t->parts.model);
    return st == MR_OK ? t->b->sync(t->b, err) : st;
}

/* path of a file in a folder, for one call */
typedef mr_status file_fn(mr_trainer *t, const char *path, mr_err *err);
static mr_status with_file(mr_trainer *t, file_fn *f, const char *dir, const char *name, mr_err *err) {
    char *path = mr_path_join(dir, name);
    mr_status st = f(t, path, err);
    mr_free(path);
    return st;
}
static mr_status save_optimizer(mr_trainer *t, const char *path, mr_err *err) {
    return mr_optimizer_save(t->optimizer, path, err);
}
static mr_status load_optimizer(mr_trainer *t, const char *path, mr_err *err) {
    return mr_optimizer_load(t->optimizer, path, err);
}

static mr_status fill_checkpoint(mr_trainer *t, const char *dir, mr_err *err) {
    const mr_observer *o = &t->parts.observer;
    int64_t metrics = 0, samples = 0, events = 0;
    /* what was recorded is durable before a checkpoint says so */
    if (o->flush) MR_TRY(o->flush(o->self, &metrics, &samples, &events, err));
    if (mr_model_options(t->parts.model)->full) {
        MR_TRY(mr_model_save(t->parts.model, dir, err));
        MR_TRY(with_file(t, save_params, dir, "params.safetensors", err));
    } else
        MR_TRY(mr_adapter_save(t->parts.model, dir, t->parts.base_model_name, err));
    MR_TRY(with_file(t, save_optimizer, dir, "optimizer.safetensors", err));
    cJSON *state = state_of(t, metrics, samples, events);
    mr_status st = mr_checkpoint_write_state(dir, state, err);
    cJSON_Delete(state);
    return st;
}

mr_status mr_trainer_checkpoint(mr_trainer *t, mr_err *err) {
    if (!t->parts.run_dir) return MR_OK;
    char *tmp, text[80];
    mr_watch_at("checkpoint");
    snprintf(text, sizeof text, "checkpoint-%lld", (long long)t->step);
    /* The event is part of what the checkpoint covers, so a resumed record holds it once. */
    MR_TRY(mr_trainer_event(t, "checkpoint", text, err));
    MR_TRY(mr_checkpoint_begin(&tmp, t->parts.run_dir, t->step, err));
    mr_status st = fill_checkpoint(t, tmp, err);
    if (st == MR_OK) st = mr_checkpoint_commit(tmp, t->parts.run_dir, t->step, err);
    if (st != MR_OK) mr_remove_tree(tmp, NULL);
    mr_free(tmp);
    if (st != MR_OK) return mr_wrap(err, st, "checkpoint of step %lld not written", (long long)t->step);
    t->saved_step = t->step;
    mr_checkpoint_prune(t->parts.run_dir, t->set->train.save_total_limit);
    return MR_OK;
}

/* A checkpoint of another dtype has none of it: then the scale begins anew. */
static mr_status read_scale(mr_scaler *s, const cJSON *position, const char *dir, mr_err *err) {
    int64_t good = 0;
    double scale = s->scale;
    MR_TRY(mr_json_opt_int(&s->skipped, position, "skipped_updates", 0, 0, (int64_t)1 << 53, dir, err));
    if (!s->on) return MR_OK;
    MR_TRY(mr_json_opt_number(&scale, position, "loss_scale", scale, dir, err));
    MR_TRY(mr_json_opt_int(&good, position, "loss_scale_good", 0, 0, s->interval - 1, dir, err));
    int exponent;
    if (!(scale > 0) || !isfinite(scale) || frexp(scale, &exponent) != 0.5)
        return mr_fail(err, MR_EDATA,
                       "%s/trainer_state.json: field \"medrl.position.loss_scale\" is %g, want a power of two; the file is "
                       "damaged, use an older checkpoint",
                       dir, scale);
    s->scale = scale;
    s->good = (int)good;
    return MR_OK;
}

static mr_status read_position(mr_trainer *t, cJSON *state, const char *dir, int64_t bytes[3], mr_err *err) {
    const cJSON *medrl = cJSON_GetObjectItemCaseSensitive(state, "medrl"),
                *p = cJSON_GetObjectItemCaseSensitive(medrl, "position");
    const int64_t max = (int64_t)1 << 53;
    int64_t step, updates, skipped, n_rows, prompts;
    if (!cJSON_IsObject(p))
        return mr_fail(err, MR_EDATA,
                       "%s/trainer_state.json: field \"medrl.position\" is missing; it is not a checkpoint of medrl",
                       dir);
    MR_TRY(mr_json_get_int(&step, p, "step", 0, max, dir, err));
    MR_TRY(mr_json_get_int(&updates, p, "updates", 0, max, dir, err));
    MR_TRY(mr_json_get_int(&skipped, p, "skipped_in_row", 0, MR_MOST_SKIPPED, dir, err));
    MR_TRY(read_scale(&t->scaler, p, dir, err));
    MR_TRY(mr_json_get_int(&n_rows, p, "n_rows", 1, max, dir, err));
    MR_TRY(mr_json_get_int(&prompts, p, "prompts_per_step", 1, max, dir, err));
    MR_TRY(mr_json_opt_int(&t->order.base, p, "order_base", 0, 0, step, dir, err));
    MR_TRY(mr_json_opt_number(&t->order.base_epoch, p, "order_base_epoch", 0, dir, err));
    MR_TRY(mr_json_get_number(&t->num_tokens, p, "num_tokens", dir, err));
    MR_TRY(mr_json_get_int(&bytes[0], medrl, "metrics_bytes", 0, max, dir, err));
    MR_TRY(mr_json_get_int(&bytes[1], medrl, "samples_bytes", 0, max, dir, err));
    MR_TRY(mr_json_get_int(&bytes[2], medrl, "events_bytes", 0, max, dir, err));
    double elapsed = 0;
    MR_TRY(mr_json_opt_number(&elapsed, medrl, "elapsed_s", 0, dir, err));
    if (n_rows != t->order.n_rows || prompts != t->prompts)
        return mr_fail(err, MR_EDATA,
                       "%s: was made with %lld rows and %lld prompts a step, now there are %lld and %d; the order of "
                       "the data would differ, "
                       "restore the data or start a new run",
                       dir, (long long)n_rows, (long long)prompts, (long long)t->order.n_rows, t->prompts);
    const cJSON *hash = cJSON_GetObjectItemCaseSensitive(medrl, "settings");
    if (!cJSON_IsString(hash) || strcmp(hash->valuestring, t->settings_hash) != 0)
        mr_warn("%s: was made with other settings; the run goes on with the present ones", dir);
    MR_TRY(mr_trainer_load_live(t, medrl, dir, err));
    MR_TRY(mr_trainer_load_open(t, medrl, dir, err));
    t->step = t->saved_step = step;
    t->before_s = t->parts.spent_s + (elapsed > 0 ? elapsed : 0);
    const cJSON *best = cJSON_GetObjectItemCaseSensitive(state, "best_metric"),
                *best_step = cJSON_GetObjectItemCaseSensitive(state, "best_global_step");
    const bool has_best = cJSON_IsNumber(best) && cJSON_IsNumber(best_step);
    t->best = has_best ? best->valuedouble : 0;
    t->best_step = has_best ? (int64_t)best_step->valuedouble : -1;
    t->order.epoch = -1;
    t->updates = updates;
    t->skipped_in_row = (int)skipped;
    cJSON *log = cJSON_DetachItemFromObjectCaseSensitive(state, "log_history");
    if (cJSON_IsArray(log)) {
        cJSON_Delete(t->log_history);
        t->log_history = log;
    } else
        cJSON_Delete(log);
    return MR_OK;
}

mr_status mr_trainer_load(mr_trainer *t, const char *checkpoint, int64_t *metrics_bytes, int64_t *samples_bytes,
                          int64_t *events_bytes, mr_err *err) {
    cJSON *state;
    int64_t bytes[3] = { 0 };
    MR_TRY(mr_checkpoint_verify(checkpoint, err));
    MR_TRY(mr_checkpoint_read_state(&state, checkpoint, err));
    mr_status known = mr_checkpoint_check_format(state, checkpoint, err);
    cJSON_Delete(state);
    MR_TRY(known);
    if (mr_model_options(t->parts.model)->full)
        MR_TRY(with_file(t, load_params, checkpoint, "params.safetensors", err));
    else {
        MR_TRY(mr_adapter_load(t->parts.model, checkpoint, err));
        mr_model_refresh(t->parts.model);
    }
    MR_TRY(with_file(t, load_optimizer, checkpoint, "optimizer.safetensors", err));
    MR_TRY(mr_checkpoint_read_state(&state, checkpoint, err));
    mr_status st = read_position(t, state, checkpoint, bytes, err);
    cJSON_Delete(state);
    MR_TRY(st);
    if (metrics_bytes) *metrics_bytes = bytes[0];
    if (samples_bytes) *samples_bytes = bytes[1];
    if (events_bytes) *events_bytes = bytes[2];
    return MR_OK;
}

/* --- the loop --- */

mr_status mr_trainer_step(mr_trainer *t, mr_err *err) {
    t->n_metrics = 0;
    t->t_step = mr_now_s();
    mr_status st = mr_trainer_stopped(t, err);
    mr_watch_at("data");
    if (st == MR_OK) st = mr_trainer_draw(t, err);
    if (st == MR_OK) st = t->set->method == MR_METHOD_SFT ? mr_step_sft(t, err) : mr_step_grpo(t, err);
    batch_clear(t);
    MR_TRY(st);
    mr_watch_step(t->step + 1, mr_now_s() - t->t_step);
    return mr_trainer_is_sick(t) ? mr_trainer_sickness(t, err) : MR_OK;
}

/* A disk that is full now may have room at the next interval: the run goes on from the checkpoints that it has. That the reason is
 * recorded needs the disk too. */
static mr_status save_or_warn(mr_trainer *t, mr_err *err) {
    mr_err why;
    char text[1200];
    mr_status st = mr_trainer_checkpoint(t, &why);
    if (st != MR_EIO) {
        if (st != MR_OK && err) *err = why;
        return st;
    }
    snprintf(text, sizeof text, "%s; the run goes on and tries again in %d step%s", why.msg, t->set->train.save_steps,
             t->set->train.save_steps == 1 ? "" : "s");
    mr_warn("%s", text);
    return mr_trainer_event(t, "warning", text, err);
}

/* Whether the next step, taking as long as the last one did, would go beyond the budget. */
static bool is_spent(mr_trainer *t) {
    const double hours = (mr_trainer_elapsed_s(t) + t->step_s) / 3600, price = t->set->budget.usd_per_hour,
                 usd = t->set->budget.usd, most = t->set->budget.hours;
    if (usd > 0 && hours * price > usd)
        snprintf(t->why_ended, sizeof t->why_ended,
                 "the budget of %.2f dollars is spent: %.2f until here, at %g an hour, and the next step would take %.2f more", usd,
                 mr_trainer_elapsed_s(t) / 3600 * price, price, t->step_s / 3600 * price);
    else if (most > 0 && hours > most)
        snprintf(t->why_ended, sizeof t->why_ended,
                 "the budget of %g hours is spent: %.3g until here, and the next step would take %.3g more", most,
                 mr_trainer_elapsed_s(t) / 3600, t->step_s / 3600);
    else
        return false;
    return t->ended = true;
}

static mr_status steps(mr_trainer *t, int64_t until, mr_err *err) {
    for (;;) {
        MR_TRY(mr_trainer_stopped(t, err));
        if (t->eval_open) {
            t->t_step = mr_now_s();
            MR_TRY(mr_trainer_finish(t, err));
        } else {
            if (t->step >= until) return MR_OK;
            MR_TRY(mr_trainer_between(t, err)); /* after the last step too: max_steps may have been raised */
            if (t->ended || t->step >= t->max_steps || is_spent(t)) return MR_OK;
            MR_TRY(mr_trainer_step(t, err));
        }
        const int save = t->set->train.save_steps;
        const bool best = t->best_step == t->step; /* what was measured to be the best must be there afterwards */
        if (t->saved_step != t->step && (best || (save > 0 && t->step % save == 0))) MR_TRY(save_or_warn(t, err));
        MR_TRY(mr_trainer_watch_faults(t, err));
    }
}

mr_status mr_trainer_advance(mr_trainer *t, int64_t n, mr_err *err) {
    if (t->half_done)
        return mr_fail(err, MR_EINVAL,
                       "step %lld was stopped between two of its updates; go back to a checkpoint or to the start",
                       (long long)t->step + 1);
    return steps(t, t->step + n, err);
}

static mr_status tell_cuts(mr_trainer *t, mr_err *err) {
    if (!t->n_cut) return MR_OK;
    char text[160];
    snprintf(text, sizeof text, "%lld prompts were longer than %d tokens; their last tokens were kept",
             (long long)t->n_cut, t->max_prompt);
    return mr_trainer_event(t, "warning", text, err);
}

mr_status mr_trainer_run(mr_trainer *t, mr_err *err) {
    char text[1100];
    snprintf(text, sizeof text, "%s at step %lld", t->step ? "resumed" : "started", (long long)t->step);
    MR_TRY(mr_trainer_event(t, "start", text, err));
    mr_watch_step(t->step + 1, -1);
    mr_status st = steps(t, INT64_MAX, err);
    const bool early = t->ended && t->step < t->max_steps;
    if (st == MR_OK)
        snprintf(text, sizeof text, "%s step %lld%s%s", early ? "ended early, after" : "done after", (long long)t->step,
                 early && t->why_ended[0] ? ": " : "", early ? t->why_ended : "");
    else
        snprintf(text, sizeof text, "%s", err ? err->msg : "failed");
    /* Whatever ended the run, the last whole step is kept; a failure to do so never hides the first one. */
    mr_err second;
    mr_status told = tell_cuts(t, st == MR_OK ? err : &second);
    if (told == MR_OK) told = mr_trainer_event(t, "stop", text, st == MR_OK ? err : &second);
    bool nothing = t->saved_step == t->step || t->half_done || (st != MR_OK && !t->step);
    mr_status saved = nothing ? MR_OK : mr_trainer_checkpoint(t, st == MR_OK ? err : &second);
    if (st != MR_OK) {
        if (saved != MR_OK) mr_warn("%s", second.msg);
        return st;
    }
    return told != MR_OK ? told : saved;
}
