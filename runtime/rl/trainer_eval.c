/* trainer_eval.c - a run's own evaluation and the end of a step: see trainer.h and evaluate.h.
 *
 * An evaluation may take minutes, and a signal must not wait for it nor cost the steps since the last checkpoint: then
 * the step's metrics go into the checkpoint without those of the evaluation, and the run that continues evaluates first
 * and records the step whole.
 * It takes place between the update and the record of a step, with the decoder that the run samples with: nothing is
 * allocated on the device for it, and no random number is drawn, so the run's other numbers are the same without it. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/proc.h"
#include "base/watch.h"
#include "rl/evaluate.h"
#include "rl/trainer_impl.h"

enum { MAX_SOURCES = 32 };

typedef struct tally {
    mr_trainer *t;
    int n_sources;
    struct {
        char name[48];
        int64_t judged, right;
    } sources[MAX_SOURCES];
} tally;

static bool is_due(const mr_trainer *t) {
    const int every = t->set->train.eval_steps;
    return every > 0 && t->parts.evaluator.get && t->set->method == MR_METHOD_GRPO &&
           (t->step % every == 0 || t->step >= t->max_steps);
}

static bool tick(void *self, int64_t done, int64_t total) {
    const tally *y = self;
    mr_trainer_progress(y->t, "eval", (int)done, (int)total);
    return !y->t->stop;
}

static mr_status answer(void *self, const mr_eval_answer *a, mr_err *err) {
    tally *y = self;
    (void)err;
    const char *name = a->data->source;
    if (!name || !*name || a->verdict == MR_UNJUDGED) return MR_OK;
    int i = 0;
    while (i < y->n_sources && strncmp(y->sources[i].name, name, sizeof y->sources[i].name - 1) != 0) i++;
    if (i == MAX_SOURCES) return MR_OK;
    if (i == y->n_sources) snprintf(y->sources[y->n_sources++].name, sizeof y->sources[i].name, "%.47s", name);
    y->sources[i].judged++;
    y->sources[i].right += a->verdict == MR_RIGHT;
    return MR_OK;
}

static void metrics(const tally *y, const mr_eval_counts *c, double seconds) {
    mr_trainer *t = y->t;
    const mr_interval x = mr_wilson(c->right, c->judged);
    const double judged = c->judged ? (double)c->judged : (double)NAN,
                 rows = c->n_rows ? (double)c->n_rows : (double)NAN;
    mr_trainer_metric(t, MR_M_EVAL_ACCURACY, x.rate);
    mr_trainer_metric(t, MR_M_EVAL_LOW, x.low);
    mr_trainer_metric(t, MR_M_EVAL_HIGH, x.high);
    mr_trainer_metric(t, MR_M_EVAL_INVALID, (double)c->invalid / judged);
    mr_trainer_metric(t, MR_M_EVAL_CLIPPED, (double)c->truncated / rows);
    mr_trainer_metric(t, MR_M_EVAL_LENGTH, (double)c->tokens / rows);
    mr_trainer_metric(t, MR_M_EVAL_ROWS, (double)c->judged);
    for (int i = 0; i < y->n_sources; i++)
        mr_trainer_metric_fmt(t, MR_M_EVAL_SOURCE_FMT, y->sources[i].name,
                              mr_wilson(y->sources[i].right, y->sources[i].judged).rate);
    mr_trainer_metric(t, MR_M_TIME_EVAL, seconds);
}

/* The best one is the first of the highest accuracy. */
static mr_status tell(mr_trainer *t, const mr_eval_counts *c, mr_err *err) {
    const mr_interval x = mr_wilson(c->right, c->judged);
    const bool best = c->judged > 0 && (t->best_step < 0 || x.rate > t->best);
    char text[160];
    if (best) {
        t->best = x.rate;
        t->best_step = t->step;
    }
    snprintf(text, sizeof text, "%lld of %lld rows right: accuracy %.3f (%.3f to %.3f), %lld invalid%s", (long long)c->right,
             (long long)c->judged, x.rate, x.low, x.high, (long long)c->invalid, best ? "; the best so far" : "");
    return mr_trainer_event(t, "eval", text, err);
}

static mr_status evaluate(mr_trainer *t, mr_err *err) {
    if (!is_due(t)) return MR_OK;
    mr_watch_at("eval");
    const double t0 = mr_now_s();
    const int vocab = mr_model_config(t->parts.model)->vocab_size, count = mr_tokenizer_count(t->parts.tokenizer);
    tally y = { .t = t };
    mr_eval_counts c;
    mr_eval_opts o = { .decoder = t->decoder,
                       .tokenizer = t->parts.tokenizer,
                       .chat = t->parts.chat,
                       .n_vocab = count < vocab ? count : vocab,
                       .limit = t->set->train.max_eval_samples,
                       .batch = t->prompts * t->group,
                       .max_prompt = t->max_prompt,
                       .max_new = t->max_completion,
                       .step = t->step,
                       .tick = tick,
                       .answer = answer,
                       .self = &y };
    MR_TRY(t->parts.evaluator.get(t->parts.evaluator.self, &o.rows, &o.judge, err));
    if (o.rows.n_rows == 0) return MR_OK;
    mr_watch_at("evaluate");
    MR_TRY(mr_evaluate(&c, &o, err));
    metrics(&y, &c, mr_now_s() - t0);
    return tell(t, &c, err);
}

mr_status mr_trainer_finish(mr_trainer *t, mr_err *err) {
    const int n = t->n_metrics;
    mr_status st = evaluate(t, err);
    if (st == MR_ESIGNAL) { /* a checkpoint may be made: what the step did is whole, and its samples are recorded */
        t->n_metrics = n;
        t->eval_open = true;
        t->half_done = false;
    }
    MR_TRY(st);
    t->eval_open = false;
    MR_TRY(mr_trainer_record(t, err));
    return mr_trainer_guard(t, err);
}

void mr_trainer_save_open(const mr_trainer *t, cJSON *medrl) {
    if (!t->eval_open) return;
    cJSON *list = cJSON_AddArrayToObject(medrl, "eval_open");
    for (int i = 0; i < t->n_metrics; i++) {
        cJSON *one = cJSON_CreateObject();
        cJSON_AddStringToObject(one, "name", t->metrics[i].name);
        cJSON_AddNumberToObject(one, "value", t->metrics[i].value); /* NaN is written as null */
        cJSON_AddItemToArray(list, one);
    }
}

mr_status mr_trainer_load_open(mr_trainer *t, const cJSON *medrl, const char *place, mr_err *err) {
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(medrl, "eval_open");
    t->eval_open = cJSON_IsArray(list);
    t->n_metrics = 0;
    for (const cJSON *one = t->eval_open ? list->child : NULL; one; one = one->next) {
        const char *name;
        const cJSON *value = cJSON_GetObjectItemCaseSensitive(one, "value");
        MR_TRY(mr_json_get_string(&name, one, "name", place, err));
        mr_trainer_metric(t, name, cJSON_IsNumber(value) ? value->valuedouble : (double)NAN);
    }
    return MR_OK;
}
