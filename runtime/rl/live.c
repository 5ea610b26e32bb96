/* live.c - what changes while a run goes on: settings, weights, scripts, pauses; samples on the side; and how a resumed
 * run repeats all of it. See trainer.h, "live".
 *
 * Everything here happens between two steps. A change is first made and then told as an event; the event holds what is
 * needed to make it again. */
#include <assert.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/watch.h"
#include "rl/rollout.h"
#include "rl/trainer_impl.h"

void mr_reload_clear(mr_reload *r) {
    mr_str_clear(&r->note);
    cJSON_Delete(r->detail);
    cJSON_Delete(r->settings);
    *r = (mr_reload){ 0 };
}

/* --- settings --- */

void mr_trainer_apply(mr_trainer *t) {
    const mr_settings *s = t->set;
    t->loss = s->train.loss;
    if (t->loss.max_completion_length < 1) t->loss.max_completion_length = s->train.max_completion_length;
    float temperature = s->train.logp_temperature > 0 ? s->train.logp_temperature : s->train.temperature;
    t->inv_t = s->method != MR_METHOD_SFT && temperature > 0 ? 1.0f / temperature : 1.0f;
    if (t->optimizer) mr_optimizer_set_decay(t->optimizer, s->train.weight_decay);
}

static cJSON *weights_json(const mr_trainer *t) {
    cJSON *o = cJSON_CreateObject();
    for (int i = 0; i < t->parts.scorer.n_rewards; i++) {
        char text[32]; /* 0.1, not 0.100000001490116 */
        snprintf(text, sizeof text, "%.7g", (double)t->weights[i]);
        double x = strtod(text, NULL);
        cJSON_AddNumberToObject(o, t->parts.scorer.names[i], (float)x == t->weights[i] ? x : (double)t->weights[i]);
    }
    return o;
}

static int reward_index(const mr_trainer *t, const char *name) {
    for (int i = 0; i < t->parts.scorer.n_rewards; i++)
        if (!strcmp(t->parts.scorer.names[i], name)) return i;
    return -1;
}

/* A list of one number for each reward, or { name: number } for some of them. */
static mr_status read_weights(const mr_trainer *t, float *out, const cJSON *value, mr_err *err) {
    const int n = t->parts.scorer.n_rewards;
    memcpy(out, t->weights, (size_t)n * sizeof *out);
    if (!cJSON_IsObject(value) && !(cJSON_IsArray(value) && cJSON_GetArraySize(value) == n))
        return mr_fail(err, MR_EINVAL, "set: reward_weights is %s, want a list of %d numbers or { name: number }",
                       mr_json_type_name(value), n);
    int i = 0;
    for (const cJSON *v = value->child; v; v = v->next, i++) {
        if (cJSON_IsObject(value)) i = reward_index(t, v->string);
        if (i < 0) {
            const char *near = mr_nearest_name(v->string, t->parts.scorer.names, n);
            return mr_fail(err, MR_EINVAL, "set: reward_weights: there is no reward \"%.64s\"%s%s%s", v->string,
                           near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
        }
        if (!cJSON_IsNumber(v) || !isfinite((float)v->valuedouble))
            return mr_fail(err, MR_EINVAL, "set: reward_weights: the weight of %s is %s, want a number",
                           t->parts.scorer.names[i], mr_json_type_name(v));
        out[i] = (float)v->valuedouble;
    }
    return MR_OK;
}

static mr_status tell_set(mr_trainer *t, const char *key, cJSON *value, cJSON *old, const char *by, mr_err *err) {
    mr_str text = { 0 };
    cJSON *detail = cJSON_CreateObject();
    mr_str_printf(&text, "%s ", key);
    mr_json_put(&text, old);
    mr_str_puts(&text, " -> ");
    mr_json_put(&text, value);
    mr_str_printf(&text, " (%s)", by);
    cJSON_AddStringToObject(detail, "key", key);
    cJSON_AddItemToObject(detail, "value", value);
    cJSON_AddItemToObject(detail, "old", old);
    cJSON_AddStringToObject(detail, "by", by);
    mr_status st = mr_trainer_tell(t, "set", text.data, detail, err);
    cJSON_Delete(detail);
    mr_str_clear(&text);
    return st;
}

static bool is_weights(const mr_trainer *t, const char *key) {
    return t->weights && (!strcmp(key, "reward_weights") || !strcmp(key, "grpo.reward_weights"));
}

static mr_status set_weights(mr_trainer *t, const float *weights, const char *by, mr_err *err) {
    const size_t n = (size_t)t->parts.scorer.n_rewards;
    if (!memcmp(weights, t->weights, n * sizeof *weights)) return MR_OK;
    cJSON *old = weights_json(t);
    memcpy(t->weights, weights, n * sizeof *weights);
    return tell_set(t, "reward_weights", weights_json(t), old, by, err);
}

/* What one field's range does not know: the rest of the run. */
static mr_status check_next(const mr_trainer *t, const mr_settings *next, mr_err *err) {
    if (next->train.loss.beta != 0 && mr_model_options(t->parts.model)->full)
        return mr_fail(err, MR_EINVAL,
                       "set: grpo.beta is %g, but full training has no reference model; it stays 0 in this run",
                       (double)next->train.loss.beta);
    if (next->train.loss.entropy_coef != 0)
        return mr_fail(err, MR_EINVAL, "set: grpo.entropy_coef is %g, only 0 is supported",
                       (double)next->train.loss.entropy_coef);
    return MR_OK;
}

mr_status mr_trainer_set(mr_trainer *t, const char *key, const cJSON *value, const char *by, mr_err *err) {
    if (!value) return mr_fail(err, MR_EINVAL, "set: %s has no value", key);
    if (is_weights(t, key)) {
        float weights[MR_MAX_REWARDS];
        MR_TRY(read_weights(t, weights, value, err));
        return set_weights(t, weights, by, err);
    }
    mr_settings next = *t->set;
    char full[96];
    cJSON *old;
    MR_TRY(mr_settings_set(&next, key, value, full, &old, err));
    mr_status st = check_next(t, &next, err);
    if (st != MR_OK) {
        cJSON_Delete(old);
        return st;
    }
    const bool is_end = !strcmp(strrchr(full, '.') ? strrchr(full, '.') + 1 : full, "max_steps");
    if (is_end) { /* what was planned, where the recipe gave epochs */
        cJSON_Delete(old);
        old = cJSON_CreateNumber((double)t->max_steps);
        t->max_steps = next.train.max_steps;
    }
    t->own = next;
    mr_trainer_apply(t);
    cJSON *live = mr_trainer_live(t), *now = cJSON_DetachItemFromObjectCaseSensitive(live, full);
    cJSON_Delete(live);
    if (mr_json_equal(now, old)) {
        cJSON_Delete(now);
        cJSON_Delete(old);
        return MR_OK;
    }
    return tell_set(t, full, now, old, by, err);
}

cJSON *mr_trainer_live(const mr_trainer *t) {
    cJSON *o = mr_settings_live(t->set);
    const char *end = t->set->method == MR_METHOD_SFT ? "sft.max_steps" : "grpo.max_steps";
    cJSON_ReplaceItemInObjectCaseSensitive(o, end, cJSON_CreateNumber((double)t->max_steps));
    if (t->weights) cJSON_AddItemToObject(o, "reward_weights", weights_json(t));
    return o;
}

/* --- scripts --- */

/* A weight that was set by hand stays, unless the recipe's own number for that reward is another one now. */
void mr_trainer_take_weights(mr_trainer *t, const mr_scorer *scorer) {
    const size_t n = (size_t)scorer->n_rewards;
    float *weights = mr_alloc((n + 1) * sizeof *weights), *recipe = mr_alloc((n + 1) * sizeof *recipe);
    for (size_t i = 0; i < n; i++) {
        const int was = t->weights ? reward_index(t, scorer->names[i]) : -1;
        recipe[i] = scorer->weights[i];
        weights[i] = was >= 0 && t->recipe_weights[was] == recipe[i] ? t->weights[was] : recipe[i];
    }
    mr_free(t->weights);
    mr_free(t->recipe_weights);
    t->weights = weights;
    t->recipe_weights = recipe;
}

static mr_status take_scorer(mr_trainer *t, const mr_reload *r, mr_err *err) {
    mr_scorer scorer = t->parts.scorer;
    mr_row_source rows = t->parts.rows;
    if (scorer.again) MR_TRY(scorer.again(scorer.self, &scorer, &rows, err));
    if (scorer.n_rewards > MR_MAX_REWARDS)
        return mr_fail(err, MR_EINVAL, "rewards has %d names, need at most %d", scorer.n_rewards, MR_MAX_REWARDS);
    cJSON *old = t->weights ? weights_json(t) : NULL;
    if (t->weights) mr_trainer_take_weights(t, &scorer);
    t->parts.scorer = scorer;
    t->parts.rows = rows;
    cJSON *now = t->weights ? weights_json(t) : NULL;
    mr_status st = MR_OK;
    if (now && !mr_json_equal(now, old)) {
        st = tell_set(t, "reward_weights", now, old, "recipe", err);
    } else {
        cJSON_Delete(now);
        cJSON_Delete(old);
    }
    if (st == MR_OK && r->rows) st = mr_order_begin(t, rows.n_rows, err);
    return st;
}

/* A version that was taken over: its scorer, rows and settings; or a refusal, which is told. */
static mr_status settle(mr_trainer *t, const mr_reload *r, mr_err *err) {
    if (r->taken && r->detail) { /* a repeated one has it already */
        cJSON_DeleteItemFromObjectCaseSensitive(r->detail, "version");
        cJSON_AddNumberToObject(r->detail, "version", t->version + 1);
    }
    if (r->note.len) MR_TRY(mr_trainer_tell(t, "reload", r->note.data, r->detail, err));
    if (!r->taken) return MR_OK;
    t->version++;
    t->n_fault_steps = 0;
    MR_TRY(take_scorer(t, r, err));
    for (const cJSON *v = r->settings ? r->settings->child : NULL; v; v = v->next) {
        mr_err why;
        if (mr_trainer_set(t, v->string, v, "recipe", &why) == MR_OK) continue;
        mr_warn("%s; the value in force stays", why.msg);
        MR_TRY(mr_trainer_event(t, "warning", why.msg, err));
    }
    return MR_OK;
}

mr_status mr_trainer_reload(mr_trainer *t, mr_str *note, bool *taken, mr_err *err) {
    const mr_scorer *s = &t->parts.scorer;
    *taken = false;
    if (!s->between_steps) return MR_OK;
    mr_reload r = { 0 };
    mr_status st = s->between_steps(s->self, t->step + 1, &r, err);
    if (st == MR_OK) st = settle(t, &r, err);
    *taken = st == MR_OK && r.taken;
    if (note && r.note.len) mr_str_add(note, r.note.data, r.note.len);
    mr_reload_clear(&r);
    return st;
}

/* --- repeating --- */

mr_status mr_trainer_replay(mr_trainer *t, const cJSON *events, int64_t last_step, mr_err *err) {
    cJSON_Delete(t->journal);
    t->journal = cJSON_IsArray(events) ? cJSON_Duplicate(events, true) : NULL;
    t->replay_last = last_step;
    if (events && !t->journal) return mr_fail(err, MR_ENOMEM, "trainer: no memory for the journal");
    return MR_OK;
}

static mr_status repeat_reload(mr_trainer *t, const char *text, const cJSON *detail, mr_err *err) {
    const mr_scorer *s = &t->parts.scorer;
    if (!cJSON_GetObjectItemCaseSensitive(detail, "scripts")) /* it was a refusal */
        return mr_trainer_tell(t, "reload", text, detail, err);
    if (!s->replay) return mr_fail(err, MR_EINVAL, "a reload is to be repeated, but there are no scripts");
    mr_reload r = { 0 };
    mr_status st = s->replay(s->self, detail, &r, err);
    if (st == MR_OK) {
        r.note.len = 0;
        mr_str_puts(&r.note, text);
        st = settle(t, &r, err);
    }
    mr_reload_clear(&r);
    return st;
}

static mr_status repeat(mr_trainer *t, const cJSON *event, mr_err *err) {
    const char *kind = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(event, "kind")),
               *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(event, "text"));
    const cJSON *detail = cJSON_GetObjectItemCaseSensitive(event, "detail");
    if (!kind) return MR_OK;
    if (!strcmp(kind, "reload")) return repeat_reload(t, text ? text : "", detail, err);
    if (strcmp(kind, "set") != 0) return MR_OK;
    const char *key = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(detail, "key")),
               *by = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(detail, "by"));
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(detail, "value");
    if (!key || !value || !by) return mr_fail(err, MR_EDATA, "events.jsonl: an event \"set\" without key, value or by");
    if (!strcmp(by, "recipe")) return MR_OK; /* comes with the reload before it */
    return mr_trainer_set(t, key, value, by, err);
}

/* What was recorded for this boundary. */
static mr_status repeat_due(mr_trainer *t, mr_err *err) {
    for (cJSON *event; t->journal && (event = t->journal->child);) {
        const cJSON *step = cJSON_GetObjectItemCaseSensitive(event, "step");
        if (cJSON_IsNumber(step) && step->valuedouble > (double)t->step) return MR_OK;
        event = cJSON_DetachItemViaPointer(t->journal, event);
        mr_status st = repeat(t, event, err);
        cJSON_Delete(event);
        if (st != MR_OK) return mr_wrap(err, st, "step %lld: repeating the journal", (long long)t->step);
    }
    return MR_OK;
}

/* --- pausing --- */

mr_status mr_trainer_pause(mr_trainer *t, const char *why, mr_err *err) {
    (void)err;
    char *text = mr_strdup(why && *why ? why : "asked to");
    mr_free(t->paused);
    t->paused = text;
    t->paused_by_faults = false;
    return MR_OK;
}

void mr_trainer_go_on(mr_trainer *t) {
    mr_free(t->paused);
    t->paused = NULL;
}

const char *mr_trainer_paused(const mr_trainer *t) {
    return t->paused;
}

void mr_trainer_end(mr_trainer *t) {
    t->ended = true;
}

static mr_status hold(mr_trainer *t, mr_err *err) {
    const mr_control *c = &t->parts.control;
    const char *how = "asked to";
    MR_TRY(mr_trainer_event(t, "pause", t->paused, err));
    if (t->saved_step != t->step) MR_TRY(mr_trainer_checkpoint(t, err));
    while (t->paused && !t->ended) {
        mr_watch_at("pause");
        if (c->serve)
            c->serve(c->self, t, true, 0.1);
        else
            poll(NULL, 0, 100); /* wait: 0.1 s; a signal ends it */
        MR_TRY(mr_trainer_stopped(t, err));
        bool taken;
        MR_TRY(mr_trainer_reload(t, NULL, &taken, err));
        if (!taken || !t->paused_by_faults) continue;
        how = "a changed script was taken over";
        mr_trainer_go_on(t);
    }
    return t->ended ? MR_OK : mr_trainer_event(t, "go on", how, err);
}

/* The record has it too when something stood still and went on. */
static mr_status tell_silence(mr_trainer *t, mr_err *err) {
    const char *stage;
    const double s = mr_watch_was_late(&stage);
    if (!(s > 0)) return MR_OK;
    char text[120];
    snprintf(text, sizeof text, "nothing moved for %.0f s in stage %s; it went on", s, stage);
    return mr_trainer_event(t, "warning", text, err);
}

mr_status mr_trainer_between(mr_trainer *t, mr_err *err) {
    const mr_control *c = &t->parts.control;
    bool taken;
    mr_watch_at("commands");
    MR_TRY(tell_silence(t, err));
    MR_TRY(repeat_due(t, err));
    if (c->serve) c->serve(c->self, t, true, 0);
    if (!t->ended && t->step >= t->replay_last) MR_TRY(mr_trainer_reload(t, NULL, &taken, err));
    while (t->paused && !t->ended) MR_TRY(hold(t, err));
    return MR_OK;
}

/* --- faults --- */

void mr_trainer_note_faults(mr_trainer *t, const mr_score *scores, int n_rows, const mr_fault *faults, int n_described,
                            int n_faults) {
    const int n = t->parts.scorer.n_rewards;
    mr_fault_step *f = &t->faults[t->n_fault_steps++ % MR_FAULT_STEPS];
    *f = (mr_fault_step){ .calls = (int64_t)n_rows * n, .faults = n_faults };
    for (int i = 0; i < n_rows * n; i++) f->by_reward[i % n] += scores[i].kind == MR_FAULT;
    for (int i = 1; i < n; i++)
        if (f->by_reward[i] > f->by_reward[f->worst]) f->worst = i;
    for (int i = 0; i < n_described && !f->text[0]; i++)
        if (faults[i].reward == f->worst) memcpy(f->text, faults[i].text, sizeof f->text);
}

/* What failed most in the window, with an example. */
static void put_worst(const mr_trainer *t, mr_str *out) {
    int sum[MR_MAX_REWARDS] = { 0 }, worst = 0;
    const char *text = "";
    for (int k = 0; k < MR_FAULT_STEPS; k++)
        for (int i = 0; i < MR_MAX_REWARDS; i++) sum[i] += t->faults[k].by_reward[i];
    for (int i = 1; i < t->parts.scorer.n_rewards; i++)
        if (sum[i] > sum[worst]) worst = i;
    for (int k = 0; k < MR_FAULT_STEPS; k++)
        if (t->faults[k].text[0] && (!*text || t->faults[k].worst == worst)) text = t->faults[k].text;
    mr_str_printf(out, "most of %s (%d), as in: %s", t->parts.scorer.names[worst], sum[worst],
                  *text ? text : "a value that is not finite");
}

mr_status mr_trainer_watch_faults(mr_trainer *t, mr_err *err) {
    const double limit = t->set->train.max_fault_share;
    if (t->set->method == MR_METHOD_SFT || limit <= 0 || t->n_fault_steps < MR_FAULT_STEPS || t->step >= t->max_steps)
        return MR_OK;
    int64_t calls = 0, faults = 0;
    for (int k = 0; k < MR_FAULT_STEPS; k++) {
        calls += t->faults[k].calls;
        faults += t->faults[k].faults;
    }
    if ((double)faults <= limit * (double)calls) return MR_OK;
    mr_str text = { 0 };
    mr_str_printf(&text, "%lld of %lld calls of rewards failed in the last %d steps, more than max_fault_share = %g; ",
                  (long long)faults, (long long)calls, MR_FAULT_STEPS, limit);
    put_worst(t, &text);
    t->n_fault_steps = 0; /* begins anew, whatever comes */
    mr_status st = MR_OK;
    if (t->step >= t->replay_last && t->failed)
        st = mr_trainer_tell(t, "warning", "rewards failed on these inputs, among others", t->failed, err);
    if (st != MR_OK || t->step < t->replay_last) {
        /* The run that is repeated went on here. */
    } else if (t->set->on_error == MR_ON_ERROR_STOP) {
        st = mr_fail(err, MR_EINVAL, "stopped after step %lld: %.900s; mend that file first", (long long)t->step,
                     text.data);
    } else {
        mr_str_printf(&text, "; mend that file and save it: the run goes on by itself");
        st = mr_trainer_pause(t, text.data, err);
        t->paused_by_faults = true;
    }
    mr_str_clear(&text);
    return st;
}

/* --- in a checkpoint --- */

void mr_trainer_save_live(const mr_trainer *t, cJSON *medrl) {
    cJSON_AddItemToObject(medrl, "live", mr_trainer_live(t));
    cJSON_AddNumberToObject(medrl, "warmup", (double)t->warmup);
    cJSON_AddNumberToObject(medrl, "version", t->version);
    const mr_scorer *s = &t->parts.scorer;
    cJSON *scripts = s->scripts ? s->scripts(s->self) : NULL;
    if (scripts) cJSON_AddItemToObject(medrl, "scripts", scripts);
    cJSON *list = cJSON_AddArrayToObject(medrl, "faults"); /* of the last steps, oldest first */
    const int n = t->n_fault_steps < MR_FAULT_STEPS ? t->n_fault_steps : MR_FAULT_STEPS;
    for (int k = t->n_fault_steps - n; k < t->n_fault_steps; k++) {
        const mr_fault_step *f = &t->faults[k % MR_FAULT_STEPS];
        cJSON *one = cJSON_CreateObject(), *by = cJSON_AddArrayToObject(one, "by_reward");
        cJSON_AddNumberToObject(one, "calls", (double)f->calls);
        cJSON_AddNumberToObject(one, "faults", (double)f->faults);
        for (int i = 0; i < t->parts.scorer.n_rewards; i++)
            cJSON_AddItemToArray(by, cJSON_CreateNumber(f->by_reward[i]));
        cJSON_AddNumberToObject(one, "worst", f->worst);
        cJSON_AddStringToObject(one, "text", f->text);
        cJSON_AddItemToArray(list, one);
    }
}

static mr_status load_faults(mr_trainer *t, const cJSON *list, const char *place, mr_err *err) {
    t->n_fault_steps = 0;
    for (const cJSON *one = list ? list->child : NULL; one && t->n_fault_steps < MR_FAULT_STEPS; one = one->next) {
        mr_fault_step *f = &t->faults[t->n_fault_steps];
        const char *text;
        int64_t worst;
        *f = (mr_fault_step){ 0 };
        MR_TRY(mr_json_get_int(&f->calls, one, "calls", 0, INT32_MAX, place, err));
        MR_TRY(mr_json_get_int(&f->faults, one, "faults", 0, INT32_MAX, place, err));
        MR_TRY(mr_json_get_int(&worst, one, "worst", 0, MR_MAX_REWARDS - 1, place, err));
        MR_TRY(mr_json_get_string(&text, one, "text", place, err));
        f->worst = (int)worst;
        snprintf(f->text, sizeof f->text, "%s", text);
        int i = 0;
        const cJSON *by = cJSON_GetObjectItemCaseSensitive(one, "by_reward");
        for (const cJSON *v = by ? by->child : NULL; v && i < MR_MAX_REWARDS; v = v->next)
            f->by_reward[i++] = cJSON_IsNumber(v) ? v->valueint : 0;
        t->n_fault_steps++;
    }
    return MR_OK;
}

/* Settings that were changed in the run go on as they were; a checkpoint of an older version has none. */
mr_status mr_trainer_load_live(mr_trainer *t, const cJSON *medrl, const char *place, mr_err *err) {
    const cJSON *live = cJSON_GetObjectItemCaseSensitive(medrl, "live");
    if (!live) return MR_OK;
    int64_t version;
    MR_TRY(mr_json_get_int(&version, medrl, "version", 1, INT32_MAX, place, err));
    MR_TRY(mr_json_get_int(&t->warmup, medrl, "warmup", 0, (int64_t)1 << 53, place, err));
    t->version = (int)version;
    mr_settings next = *t->set;
    cJSON *now = mr_trainer_live(t);
    mr_status st = MR_OK;
    for (const cJSON *v = live->child; v && st == MR_OK; v = v->next) {
        if (mr_json_equal(v, cJSON_GetObjectItemCaseSensitive(now, v->string))) continue;
        if (is_weights(t, v->string)) {
            st = read_weights(t, t->weights, v, err);
            continue;
        }
        st = mr_settings_set(&next, v->string, v, NULL, NULL, err);
        if (st == MR_OK && strstr(v->string, ".max_steps")) t->max_steps = next.train.max_steps;
    }
    cJSON_Delete(now);
    if (st != MR_OK) return mr_wrap(err, MR_EDATA, "%s/trainer_state.json: medrl.live", place);
    t->own = next;
    mr_trainer_apply(t);
    return load_faults(t, cJSON_GetObjectItemCaseSensitive(medrl, "faults"), place, err);
}

/* --- samples on the side --- */

cJSON *mr_trainer_completion(const mr_trainer *t, const char *text, const mr_completion *c, const mr_score *scores,
                             double reward, const float *advantage) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "text", text);
    cJSON_AddNumberToObject(o, "tokens", c->n);
    cJSON_AddBoolToObject(o, "truncated", c->truncated);
    if (!scores) return o;
    cJSON *rewards = cJSON_AddObjectToObject(o, "rewards");
    for (int i = 0; i < t->parts.scorer.n_rewards; i++)
        cJSON_AddItemToObject(rewards, t->parts.scorer.names[i],
                              scores[i].kind == MR_ABSTAINED || isnan(scores[i].value) ? cJSON_CreateNull()
                                                             : cJSON_CreateNumber(scores[i].value));
    cJSON_AddItemToObject(o, "reward", isfinite(reward) ? cJSON_CreateNumber(reward) : cJSON_CreateNull());
    if (advantage) cJSON_AddNumberToObject(o, "advantage", (double)*advantage);
    return o;
}

static bool go_on_sampling(void *self, int done, int total) {
    (void)done, (void)total;
    return !((const mr_trainer *)self)->stop;
}

/* The weighted sum over the rewards that applied; NaN: none did. */
static double weighted(const mr_trainer *t, const mr_score *scores) {
    double sum = 0;
    bool any = false;
    for (int i = 0; i < t->parts.scorer.n_rewards; i++) {
        if (scores[i].kind == MR_ABSTAINED || isnan(scores[i].value)) continue;
        sum += (double)t->weights[i] * scores[i].value;
        any = true;
    }
    return any ? sum : (double)NAN;
}

typedef struct side {
    mr_trainer *t;
    mr_ids ids;
    mr_str prompt;
    mr_rollout_opts o;
    mr_rollout roll;
    char **texts;
    mr_score *scores;
    int n;
} side;

static mr_status side_sample(side *w, mr_err *err) {
    mr_trainer *t = w->t;
    const mr_rollout_prompt p = { .ids = w->ids.data, .n_ids = w->ids.n, .n_samples = w->n };
    MR_TRY(mr_rollout_run(&w->roll, t->decoder, &p, 1, &w->o, err));
    if (w->roll.stopped) return mr_trainer_stopped(t, err);
    w->texts = mr_alloc((size_t)w->n * sizeof *w->texts);
    for (int i = 0; i < w->n; i++) {
        mr_str text = { 0 };
        mr_tokenizer_decode(t->parts.tokenizer, &text, w->roll.items[i].ids, w->roll.items[i].n, true);
        w->texts[i] = mr_str_steal(&text);
    }
    return MR_OK;
}

static mr_status side_score(side *w, const char *row_json, mr_err *err) {
    mr_trainer *t = w->t;
    const mr_scorer *s = &t->parts.scorer;
    w->scores = mr_alloc((size_t)w->n * (size_t)(s->n_rewards + 1) * sizeof *w->scores);
    mr_status st = MR_OK;
    int submitted = 0, n_faults;
    for (; submitted < w->n && st == MR_OK; submitted++) {
        const mr_score_job job = { .id = submitted,
                                   .text = w->texts[submitted],
                                   .len = strlen(w->texts[submitted]),
                                   .row_json = row_json,
                                   .prompt = w->prompt.data ? w->prompt.data : "",
                                   .n_tokens = w->roll.items[submitted].n,
                                   .truncated = w->roll.items[submitted].truncated,
                                   .step = t->step,
                                   .n_group = w->n };
        st = s->submit(s->self, &job, err);
    }
    if (st != MR_OK) return st;
    return s->collect(s->self, w->scores, w->n, NULL, 0, &n_faults, err);
}

mr_status mr_trainer_sample(mr_trainer *t, cJSON **out, const mr_message *messages, int n_messages,
                            const char *row_json, int n, const mr_sampling *sampling, int max_new_tokens, uint64_t seed,
                            mr_err *err) {
    *out = NULL;
    if (t->set->method == MR_METHOD_SFT)
        return mr_fail(err, MR_EINVAL, "sample: a supervised run plans no memory for sampling; see medrl generate");
    if (n < 1 || n > t->group)
        return mr_fail(err, MR_EINVAL, "sample: %d completions, need 1 to %d (grpo.num_generations)", n, t->group);
    if (max_new_tokens < 0 || max_new_tokens > t->max_completion)
        return mr_fail(err, MR_EINVAL, "sample: %d new tokens, need at most %d (grpo.max_completion_length)",
                       max_new_tokens, t->max_completion);
    const mr_settings *s = t->set;
    int vocab = mr_model_config(t->parts.model)->vocab_size, count = mr_tokenizer_count(t->parts.tokenizer);
    side w = { .t = t, .n = n };
    w.o = (mr_rollout_opts){
        .sampling = { .temperature = s->train.temperature,
                      .top_p = s->train.top_p,
                      .top_k = s->train.top_k,
                      .min_p = s->train.min_p,
                      .repetition_penalty = s->train.repetition_penalty > 0 ? s->train.repetition_penalty : 1 },
        .max_new_tokens = max_new_tokens ? max_new_tokens : t->max_completion,
        .seed = seed,
        .tick = go_on_sampling,
        .self = t,
    }; /* step 0, which no step of the run has: its random numbers are its own whatever the seed */
    if (sampling) w.o.sampling = *sampling;
    w.o.sampling.n_vocab = count < vocab ? count : vocab;
    w.o.stop_ids = mr_tokenizer_stops(t->parts.tokenizer, &w.o.n_stop_ids);
    const mr_chat_opts chat = { .add_generation_prompt = true };
    mr_status st = mr_chat_encode(t->parts.tokenizer, &w.ids, t->parts.chat, messages, n_messages, &chat, err);
    if (st == MR_OK) st = mr_chat_render(&w.prompt, t->parts.chat, messages, n_messages, &chat, err);
    if (st == MR_OK && (w.ids.n < 1 || w.ids.n > t->max_prompt))
        st = mr_fail(err, MR_EINVAL, "sample: the prompt has %d tokens, need 1 to %d, which memory is planned for",
                     w.ids.n, t->max_prompt);
    if (st == MR_OK) st = side_sample(&w, err);
    if (st == MR_OK && row_json) st = side_score(&w, row_json, err);
    if (st == MR_OK) {
        cJSON *o = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(o, "completions");
        for (int i = 0; i < n; i++) {
            const mr_score *scores = w.scores ? w.scores + (size_t)i * (size_t)t->parts.scorer.n_rewards : NULL;
            cJSON_AddItemToArray(list, mr_trainer_completion(t, w.texts[i], &w.roll.items[i], scores,
                                                             scores ? weighted(t, scores) : (double)NAN, NULL));
        }
        *out = o;
    }
    for (int i = 0; w.texts && i < n; i++) mr_free(w.texts[i]);
    mr_free(w.texts);
    mr_free(w.scores);
    mr_free(w.ids.data);
    mr_str_clear(&w.prompt);
    mr_rollout_clear(&w.roll);
    return st;
}

const cJSON *mr_trainer_last(const mr_trainer *t) {
    return t->last;
}
