/* live.c - see live.h. */
#include "cli/live.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/log.h"
#include "base/utf8.h"
#include "cli/cli.h"
#include "cli/speak.h"
#include "rl/metrics.h"

enum { MOST_STEPS = 100000, MOST_SAMPLES = 1024 };

struct mr_live {
    mr_session *s;
    mr_control_socket *socket;
    char phase[16];
    int done, total;
    int64_t n_samples; /* so far: their seeds */
};

mr_live *mr_live_new(mr_session *s) {
    mr_live *l = mr_alloc(sizeof *l);
    l->s = s;
    return l;
}

void mr_live_close(mr_live *l) {
    if (!l) return;
    mr_live_silence(l);
    mr_free(l);
}

mr_control mr_live_listen(mr_live *l) {
    const mr_control_opts o = { .self = l, .call = mr_live_call };
    mr_err err;
    if (mr_control_open(&l->socket, mr_run_dir(l->s->run), &o, &err) == MR_OK) return mr_control_of(l->socket);
    mr_warn("%s; the run goes on without it", err.msg);
    return (mr_control){ 0 };
}

bool mr_live_listens(const mr_live *l) {
    return l && l->socket;
}

void mr_live_silence(mr_live *l) {
    if (l) mr_control_close(l->socket);
    if (l) l->socket = NULL;
}

/* ---- telling ---- */

static cJSON *metrics_json(int64_t step, const mr_metric *m, int n) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "step", (double)step);
    for (int i = 0; i < n; i++) {
        if (isfinite(m[i].value))
            cJSON_AddNumberToObject(o, m[i].name, m[i].value);
        else
            cJSON_AddNullToObject(o, m[i].name);
    }
    return o;
}

void mr_live_step(mr_live *l, int64_t step, int64_t max_steps, const mr_metric *m, int n) {
    if (!mr_live_listens(l) || !mr_control_clients(l->socket)) return;
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "event", "step");
    cJSON_AddNumberToObject(o, "step", (double)step);
    cJSON_AddNumberToObject(o, "max_steps", (double)max_steps);
    cJSON_AddItemToObject(o, "metrics", metrics_json(step, m, n));
    mr_control_tell(l->socket, o);
    cJSON_Delete(o);
}

void mr_live_event(mr_live *l, int64_t step, const char *kind, const char *text, const cJSON *detail) {
    if (!mr_live_listens(l) || !mr_control_clients(l->socket)) return;
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "event", kind);
    cJSON_AddNumberToObject(o, "step", (double)step);
    cJSON_AddStringToObject(o, "text", text ? text : "");
    if (detail) cJSON_AddItemToObject(o, "detail", cJSON_Duplicate(detail, true));
    mr_control_tell(l->socket, o);
    cJSON_Delete(o);
}

void mr_live_phase(mr_live *l, const char *phase, int done, int total) {
    snprintf(l->phase, sizeof l->phase, "%s", phase);
    l->done = done;
    l->total = total;
}

/* ---- reading arguments ---- */

static const cJSON *at(const cJSON *args, const char *key) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(args, key);
    return cJSON_IsNull(v) ? NULL : v;
}

/* A key that nothing reads is a mistake: "temprature" would sample at the temperature of the run. */
static mr_status check_keys(const cJSON *args, const char *method, const char *const *names, int n, mr_err *err) {
    for (const cJSON *v = args->child; v; v = v->next) {
        bool known = false;
        for (int i = 0; i < n; i++) known = known || !strcmp(names[i], v->string);
        if (known) continue;
        const char *near = mr_nearest_name(v->string, names, n);
        return mr_fail(err, MR_EINVAL, "%s: unknown argument \"%.60s\"%s%s%s", method, v->string,
                       near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    }
    return MR_OK;
}

mr_status mr_live_prompt(mr_message **out, int *n, const mr_parts *p, const cJSON *args, mr_err *err) {
    static const char place[] = "sample";
    const char *prompt, *system;
    const cJSON *list = at(args, "messages");
    *out = NULL;
    MR_TRY(mr_json_opt_string(&prompt, args, "prompt", NULL, place, err));
    MR_TRY(mr_json_opt_string(&system, args, "system", p->system, place, err));
    if (prompt) {
        const mr_message user = { "user", prompt };
        *out = mr_speak_frame(p, system, &user, 1, n);
        return MR_OK;
    }
    if (!cJSON_IsArray(list) || !list->child)
        return mr_fail(err, MR_EINVAL, "sample: there is no prompt, want \"prompt\": text or \"messages\": [...]");
    mr_message *m = mr_alloc((size_t)cJSON_GetArraySize(list) * sizeof *m);
    mr_status st = MR_OK;
    *n = 0;
    for (const cJSON *v = list->child; v && st == MR_OK; v = v->next, ++*n) {
        st = mr_json_get_string(&m[*n].role, v, "role", "sample: messages", err);
        if (st == MR_OK) st = mr_json_get_string(&m[*n].content, v, "content", "sample: messages", err);
    }
    if (st == MR_OK)
        *out = m;
    else
        mr_free(m);
    return st;
}

static mr_status real(float *out, const cJSON *args, const char *key, double min, double max, mr_err *err) {
    double x;
    MR_TRY(mr_json_opt_number(&x, args, key, (double)*out, "sample", err));
    if (!(x >= min && x <= max)) return mr_fail(err, MR_EINVAL, "sample: %s is %g, want %g to %g", key, x, min, max);
    *out = (float)x;
    return MR_OK;
}

mr_status mr_live_sampling(mr_sampling *s, const cJSON *args, mr_err *err) {
    int64_t k = s->top_k;
    MR_TRY(real(&s->temperature, args, "temperature", 0, 100, err));
    MR_TRY(real(&s->top_p, args, "top_p", 0, 1, err));
    MR_TRY(real(&s->min_p, args, "min_p", 0, 1, err));
    MR_TRY(real(&s->repetition_penalty, args, "repetition_penalty", 0.01, 100, err));
    MR_TRY(mr_json_opt_int(&k, args, "top_k", k, 0, 1 << 20, "sample", err));
    s->top_k = (int)k;
    return MR_OK;
}

static mr_status split_of(const char **split, const cJSON *args, const char *method, mr_err *err) {
    MR_TRY(mr_json_opt_string(split, args, "split", "train", method, err));
    if (!strcmp(*split, "train") || !strcmp(*split, "eval")) return MR_OK;
    return mr_fail(err, MR_EINVAL, "%s: split is \"%.40s\", want train or eval", method, *split);
}

/* ---- scoring ---- */

static double weight_of(const mr_scorer *scorer, int reward, const cJSON *live) {
    const cJSON *w = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(live, "reward_weights"),
                                                      scorer->names[reward]);
    return cJSON_IsNumber(w) ? w->valuedouble : (double)scorer->weights[reward];
}

static int count_tokens(const mr_parts *p, const char *text) {
    mr_ids ids = { 0 };
    int n = 0;
    if (p->tokenizer && mr_tokenizer_encode(p->tokenizer, &ids, text, strlen(text), false, NULL) == MR_OK) {
        n = ids.n;
    } else { /* characters: as the cases of rewards are run */
        size_t len = strlen(text);
        for (size_t i = 0; i < len; n++) {
            uint32_t cp;
            int bytes = mr_utf8_next(&cp, (const uint8_t *)text + i, len - i);
            i += bytes > 0 ? (size_t)bytes : 1;
        }
    }
    mr_free(ids.data);
    return n;
}

static void put_scores(const mr_session *s, const mr_scorer *scorer, cJSON **objects, int n, const mr_score *scores,
                       const mr_fault *faults, int n_faults) {
    cJSON *live = s->trainer ? mr_trainer_live(s->trainer) : NULL;
    for (int i = 0; i < n; i++) {
        cJSON *rewards = cJSON_AddObjectToObject(objects[i], "rewards"), *list = NULL;
        double sum = 0;
        bool any = false;
        for (int k = 0; k < scorer->n_rewards; k++) {
            const mr_score *x = &scores[i * scorer->n_rewards + k];
            cJSON_AddItemToObject(rewards, scorer->names[k],
                                  x->kind == MR_ABSTAINED ? cJSON_CreateNull() : cJSON_CreateNumber(x->value));
            if (x->kind == MR_ABSTAINED) continue;
            sum += x->value * weight_of(scorer, k, live);
            any = true;
        }
        cJSON_AddItemToObject(objects[i], "reward", any ? cJSON_CreateNumber(sum) : cJSON_CreateNull());
        for (int k = 0; k < n_faults; k++) {
            if (faults[k].id != i) continue;
            if (!list) list = cJSON_AddArrayToObject(objects[i], "faults");
            cJSON_AddItemToArray(list, cJSON_CreateString(faults[k].text));
        }
    }
    cJSON_Delete(live);
}

mr_status mr_live_score(mr_session *s, cJSON **objects, const char *const *texts, int n, const cJSON *row,
                        const char *prompt, mr_err *err) {
    enum { FAULTS = 64 };
    MR_TRY(mr_session_need_rewards(s, err));
    const mr_scorer scorer = mr_pool_scorer(s->pool);
    mr_str row_json = { 0 };
    if (row)
        mr_json_put(&row_json, row);
    else
        mr_str_puts(&row_json, "{}");
    mr_score *scores = mr_alloc((size_t)n * (size_t)(scorer.n_rewards + 1) * sizeof *scores);
    mr_fault *faults = mr_alloc(FAULTS * sizeof *faults);
    int n_faults = 0;
    mr_status st = MR_OK;
    for (int i = 0; st == MR_OK && i < n; i++) {
        const mr_score_job job = { .id = i,
                                   .text = texts[i],
                                   .len = strlen(texts[i]),
                                   .row_json = row_json.data,
                                   .prompt = prompt,
                                   .n_tokens = count_tokens(&s->parts, texts[i]),
                                   .n_group = n };
        st = scorer.submit(scorer.self, &job, err);
    }
    if (st == MR_OK) st = scorer.collect(scorer.self, scores, n, faults, FAULTS, &n_faults, err);
    if (st == MR_OK) put_scores(s, &scorer, objects, n, scores, faults, n_faults < FAULTS ? n_faults : FAULTS);
    mr_str_clear(&row_json);
    mr_free(scores);
    mr_free(faults);
    return st;
}

/* ---- the record ---- */

mr_status mr_tail(cJSON **list, const char *path, int n, mr_err *err) {
    enum { PIECE = 64 << 10 }; /* a run that is asked often keeps what one answer took */
    *list = cJSON_CreateArray();
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return MR_OK;
    mr_status st = MR_OK;
    struct stat info;
    off_t from = fstat(fd, &info) == 0 ? info.st_size : 0;
    mr_str text = { 0 };
    int lines = 0;
    while (from > 0 && lines <= n) { /* piece by piece from the end, until there are enough whole lines */
        off_t size = from < PIECE ? from : PIECE;
        mr_str piece = { 0 };
        char *buf = mr_alloc((size_t)size);
        from -= size;
        if (pread(fd, buf, (size_t)size, from) != size) from = 0, size = 0;
        mr_str_add(&piece, buf, (size_t)size);
        if (text.len) mr_str_add(&piece, text.data, text.len);
        mr_str_clear(&text);
        text = piece;
        for (off_t i = 0; i < size; i++) lines += buf[i] == '\n';
        mr_free(buf);
    }
    close(fd);
    const char *end = text.len ? memrchr(text.data, '\n', text.len) : NULL; /* half a line is of the moment */
    for (int i = 0; st == MR_OK && i < n && end && end > text.data; i++) {
        const char *before = memrchr(text.data, '\n', (size_t)(end - text.data));
        const char *line = before ? before + 1 : text.data;
        if (!before && from > 0) break;
        cJSON *item = NULL;
        st = mr_json_parse(&item, line, (size_t)(end - line), path, err);
        if (st == MR_OK) cJSON_InsertItemInArray(*list, 0, item);
        end = before;
    }
    mr_str_clear(&text);
    return st;
}

/* ---- methods that read ---- */

typedef mr_status method_fn(mr_live *l, const mr_control_request *r, cJSON **out, mr_err *err);

static mr_status m_hello(mr_live *l, const mr_control_request *r, cJSON **out, mr_err *err) {
    (void)r, (void)err;
    *out = cJSON_CreateObject();
    cJSON_AddStringToObject(*out, "medrl", mr_version());
    cJSON_AddNumberToObject(*out, "protocol", MR_CONTROL_PROTOCOL);
    cJSON_AddItemToObject(*out, "run", l->s->run ? cJSON_CreateString(mr_run_dir(l->s->run)) : cJSON_CreateNull());
    cJSON_AddNumberToObject(*out, "pid", getpid());
    return MR_OK;
}

static void put_rewards(cJSON *o, const mr_session *s) {
    const mr_scorer scorer = mr_pool_scorer(s->pool);
    cJSON *names = cJSON_AddArrayToObject(o, "rewards");
    for (int i = 0; i < scorer.n_rewards; i++) cJSON_AddItemToArray(names, cJSON_CreateString(scorer.names[i]));
}

static mr_status m_status(mr_live *l, const mr_control_request *r, cJSON **out, mr_err *err) {
    (void)r, (void)err;
    const mr_session *s = l->s;
    cJSON *o = *out = cJSON_CreateObject();
    const char *paused = s->trainer ? mr_trainer_paused(s->trainer) : NULL;
    cJSON_AddItemToObject(o, "run", s->run ? cJSON_CreateString(mr_run_dir(s->run)) : cJSON_CreateNull());
    cJSON_AddNumberToObject(o, "step", s->trainer ? (double)mr_trainer_step_index(s->trainer) : 0);
    if (s->trainer) cJSON_AddNumberToObject(o, "max_steps", (double)mr_trainer_max_steps(s->trainer));
    cJSON_AddItemToObject(o, "paused", paused ? cJSON_CreateString(paused) : cJSON_CreateNull());
    cJSON_AddStringToObject(o, "phase", l->phase);
    cJSON_AddNumberToObject(o, "done", l->done);
    cJSON_AddNumberToObject(o, "total", l->total);
    if (s->stage >= MR_STAGE_SCRIPTS) {
        cJSON_AddStringToObject(o, "method", s->settings.method == MR_METHOD_SFT ? "sft" : "grpo");
        cJSON_AddStringToObject(o, "model", s->settings.model.name);
        put_rewards(o, s);
        cJSON_AddNumberToObject(o, "rows", (double)s->rows.n_rows);
    } else if (s->parts.path) {
        cJSON_AddStringToObject(o, "model", s->parts.path);
    }
    if (s->pool && s->stage < MR_STAGE_SCRIPTS) put_rewards(o, s); /* there is no recipe */
    for (int i = 0; i < s->n_last; i++) {
        const mr_metric *m = &s->last[i];
        const bool version = !strcmp(m->name, MR_M_VERSION);
        if (!version && strcmp(m->name, MR_M_REWARD) != 0 && strcmp(m->name, MR_M_EPOCH) != 0) continue;
        cJSON_AddItemToObject(o, version ? "version" : m->name,
                              isfinite(m->value) ? cJSON_CreateNumber(m->value) : cJSON_CreateNull());
    }
    cJSON_AddNumberToObject(o, "clients", l->socket ? mr_control_clients(l->socket) : 0);
    cJSON_AddNumberToObject(o, "pid", getpid());
    return MR_OK;
}

static mr_status m_metrics(mr_live *l, const mr_control_request *r, cJSON **out, mr_err *err) {
    int64_t n;
    MR_TRY(mr_json_opt_int(&n, r->args, "n", 1, 1, MOST_STEPS, "metrics", err));
    if (!l->s->run) return (*out = cJSON_CreateArray(), MR_OK);
    char *path = mr_path_join(mr_run_dir(l->s->run), "metrics.jsonl");
    mr_status st = mr_tail(out, path, (int)n, err);
    mr_free(path);
    return st;
}

static mr_status m_last(mr_live *l, const mr_control_request *r, cJSON **out, mr_err *err) {
    (void)r, (void)err;
    const cJSON *last = l->s->trainer ? mr_trainer_last(l->s->trainer) : NULL;
    *out = last ? cJSON_Duplicate(last, true) : NULL;
    return MR_OK;
}

static mr_status m_clients(mr_live *l, const mr_control_request *r, cJSON **out, mr_err *err) {
    (void)r, (void)err;
    pid_t pids[MR_CONTROL_CLIENTS];
    const int n = mr_control_pids(l->socket, pids);
    *out = cJSON_CreateArray();
    for (int i = 0; i < n; i++) cJSON_AddItemToArray(*out, cJSON_CreateNumber(pids[i]));
    return MR_OK;
}

static mr_status m_settings(mr_live *l, const mr_control_request *r, cJSON **out, mr_err *err) {
    (void)r, (void)err;
    *out = l->s->trainer ? mr_trainer_live(l->s->trainer) : mr_settings_live(&l->s->settings);
    return MR_OK;
}

static mr_status m_keys(mr_live *l, const mr_control_request *r, cJSON **out, mr_err *err) {
    cJSON *settings;
    MR_TRY(m_settings(l, r, &settings, err));
    *out = cJSON_CreateArray();
    for (const cJSON *v = settings->child; v; v = v->next) {
        const char *dot = strrchr(v->string, '.');
        cJSON_AddItemToArray(*out, cJSON_CreateString(dot ? dot + 1 : v->string));
    }
    cJSON_Delete(settings);
    return MR_OK;
}

static mr_status m_scripts(mr_live *l, const mr_control_request *r, cJSON **out, mr_err *err) {
    (void)r;
    int n;
    MR_TRY(mr_session_need_rewards(l->s, err));
    const mr_script_text *texts = mr_pool_scripts(l->s->pool, &n);
    *out = cJSON_CreateArray();
    for (int i = 0; i < n; i++) {
        cJSON *o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "name", texts[i].name);
        cJSON_AddStringToObject(o, "sha256", texts[i].sha256);
        cJSON_AddItemToArray(*out, o);
    }
    const mr_template *t = l->s->parts.template; /* NULL: not open yet */
    const mr_script_text *x;
    for (int i = 0; t && (x = mr_template_text(t, i)); i++) {
        cJSON *o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "name", x->name);
        cJSON_AddStringToObject(o, "sha256", x->sha256);
        cJSON_AddItemToArray(*out, o);
    }
    return MR_OK;
}

static mr_status m_rewards(mr_live *l, const mr_control_request *r, cJSON **out, mr_err *err) {
    (void)r;
    MR_TRY(mr_session_need_rewards(l->s, err));
    const mr_scorer scorer = mr_pool_scorer(l->s->pool);
    cJSON *live = l->s->trainer ? mr_trainer_live(l->s->trainer) : NULL;
    *out = cJSON_CreateArray();
    for (int i = 0; i < scorer.n_rewards; i++) {
        cJSON *o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "name", scorer.names[i]);
        cJSON_AddNumberToObject(o, "weight", weight_of(&scorer, i, live));
        cJSON_AddItemToArray(*out, o);
    }
    cJSON_Delete(live);
    return MR_OK;
}

static mr_status m_rows(mr_live *l, const mr_control_request *r, cJSON **out, mr_err *err) {
    const char *split;
    mr_row_source rows;
    MR_TRY(split_of(&split, r->args, "rows", err));
    MR_TRY(mr_pool_rows(l->s->pool, split, &rows, err));
    *out = cJSON_CreateObject();
    cJSON_AddNumberToObject(*out, "rows", (double)rows.n_rows);
    return MR_OK;
}

static mr_status m_row(mr_live *l, const mr_control_request *r, cJSON **out, mr_err *err) {
    const char *split;
    int64_t index;
    mr_row_source rows;
    mr_row row = { 0 };
    MR_TRY(split_of(&split, r->args, "row", err));
    MR_TRY(mr_pool_rows(l->s->pool, split, &rows, err));
    if (rows.n_rows == 0) return mr_fail(err, MR_EINVAL, "data.%s has no rows", split);
    double x;
    MR_TRY(mr_json_get_number(&x, r->args, "index", "row", err));
    if (!(x >= 0 && x < (double)rows.n_rows && floor(x) == x))
        return mr_fail(err, MR_EINVAL, "data.%s has the rows 1 to %lld, there is no row %g", split,
                       (long long)rows.n_rows, x + 1);
    index = (int64_t)x;
    MR_TRY(rows.get(rows.self, index, &row, err));
    cJSON *o = cJSON_CreateObject(), *list, *columns = NULL;
    cJSON_AddNumberToObject(o, "index", (double)index);
    cJSON_AddStringToObject(o, "source", row.source);
    list = cJSON_AddArrayToObject(o, "messages");
    for (int i = 0; i < row.n_messages; i++) {
        cJSON *m = cJSON_CreateObject();
        cJSON_AddStringToObject(m, "role", row.messages[i].role);
        cJSON_AddStringToObject(m, "content", row.messages[i].content);
        cJSON_AddItemToArray(list, m);
    }
    mr_str text = { 0 };
    const mr_chat_opts chat = { .add_generation_prompt = l->s->settings.method == MR_METHOD_GRPO };
    if (mr_session_need(l->s, MR_STAGE_TEXT, NULL) ==
            MR_OK && /* a recipe whose model is not here still shows its rows */
        mr_chat_render(&text, l->s->parts.chat, row.messages, row.n_messages, &chat, NULL) == MR_OK)
        cJSON_AddStringToObject(o, "prompt", text.data ? text.data : "");
    mr_str_clear(&text);
    mr_status st = mr_json_parse(&columns, row.json, strlen(row.json), "row", err);
    if (columns) cJSON_AddItemToObject(o, "row", columns);
    mr_row_clear(&row);
    if (st == MR_OK)
        *out = o;
    else
        cJSON_Delete(o);
    return st;
}

/* ---- methods that wait for the end of the step ---- */

static mr_status m_score(mr_live *l, const mr_control_request *r, cJSON **out, mr_err *err) {
    static const char *const names[] = { "text", "row", "prompt" };
    const char *text, *prompt;
    const cJSON *row = at(r->args, "row");
    MR_TRY(check_keys(r->args, "score", names, 3, err));
    MR_TRY(mr_json_get_string(&text, r->args, "text", "score", err));
    MR_TRY(mr_json_opt_string(&prompt, r->args, "prompt", "", "score", err));
    if (row && !cJSON_IsObject(row))
        return mr_fail(err, MR_EINVAL, "score: row is %s, want an object such as {\"answer\": \"B\"}",
                       mr_json_type_name(row));
    cJSON *o = cJSON_CreateObject();
    mr_status st = mr_live_score(l->s, &o, &text, 1, row, prompt, err);
    if (st == MR_OK)
        *out = o;
    else
        cJSON_Delete(o);
    return st;
}

static float live_number(const cJSON *live, const char *key, float otherwise) {
    char name[64];
    snprintf(name, sizeof name, "grpo.%s", key);
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(live, name);
    return cJSON_IsNumber(v) ? (float)v->valuedouble : otherwise;
}

static mr_status m_sample(mr_live *l, const mr_control_request *r, cJSON **out, mr_err *err) {
    static const char *const names[] = { "prompt", "messages",           "system",         "row",
                                         "n",      "temperature",        "top_p",          "top_k",
                                         "min_p",  "repetition_penalty", "max_new_tokens", "seed" };
    int64_t n, max_new, seed;
    const cJSON *row = at(r->args, "row");
    MR_TRY(check_keys(r->args, "sample", names, sizeof names / sizeof names[0], err));
    MR_TRY(mr_json_opt_int(&n, r->args, "n", 1, 1, MOST_SAMPLES, "sample", err));
    MR_TRY(mr_json_opt_int(&max_new, r->args, "max_new_tokens", 0, 1, 1 << 20, "sample", err));
    MR_TRY(mr_json_opt_int(&seed, r->args, "seed", l->n_samples, 0, (int64_t)1 << 53, "sample", err));
    if (row && !cJSON_IsObject(row))
        return mr_fail(err, MR_EINVAL, "sample: row is %s, want an object", mr_json_type_name(row));
    cJSON *live = mr_trainer_live(l->s->trainer); /* as the run samples now */
    mr_sampling sampling = {
        .temperature = live_number(live, "temperature", 1),
        .top_p = live_number(live, "top_p", 1),
        .top_k = (int)live_number(live, "top_k", 0),
        .min_p = live_number(live, "min_p", 0),
        .repetition_penalty = live_number(live, "repetition_penalty", 1),
    };
    cJSON_Delete(live);
    MR_TRY(mr_live_sampling(&sampling, r->args, err));
    mr_message *messages;
    int n_messages;
    mr_parts_frame(&l->s->parts, mr_pool_recipe(l->s->pool)); /* as it is now: a reload may have changed it */
    MR_TRY(mr_live_prompt(&messages, &n_messages, &l->s->parts, r->args, err));
    mr_str row_json = { 0 };
    if (row) mr_json_put(&row_json, row);
    mr_status st = mr_trainer_sample(l->s->trainer, out, messages, n_messages, row ? row_json.data : NULL, (int)n,
                                     &sampling, (int)max_new, (uint64_t)seed, err);
    if (st == MR_OK) cJSON_AddNumberToObject(*out, "seed", (double)seed);
    l->n_samples++;
    mr_str_clear(&row_json);
    mr_free(messages);
    return st;
}

static mr_status m_set(mr_live *l, const mr_control_request *r, cJSON **out, mr_err *err) {
    const char *by = l->socket ? "attach" : "repl";
    mr_str done = { 0 };
    mr_status st = MR_OK;
    if (!r->args->child) return mr_fail(err, MR_EINVAL, "set: there is nothing to set; want {\"learning_rate\": 2e-6}");
    for (const cJSON *v = r->args->child; v && st == MR_OK; v = v->next) {
        st = mr_trainer_set(l->s->trainer, v->string, v, by, err);
        if (st == MR_OK) mr_str_printf(&done, "%s%s", done.len ? ", " : "", v->string);
    }
    if (st != MR_OK && done.len) { /* the rest stays undone, and nobody should have to guess which */
        char why[sizeof err->msg];
        snprintf(why, sizeof why, "%s", err ? err->msg : "");
        mr_fail(err, st, "%.800s; set before it: %s", why, done.data);
    }
    mr_str_clear(&done);
    MR_TRY(st);
    cJSON *live = mr_trainer_live(l->s->trainer);
    *out = cJSON_CreateObject();
    for (cJSON *v = live->child, *next; v; v = next) {
        next = v->next;
        const char *dot = strrchr(v->string, '.'), *key = dot ? dot + 1 : v->string;
        if (!at(r->args, key) && !at(r->args, v->string)) continue;
        char *name = mr_strdup(v->string);
        cJSON_AddItemToObject(*out, name, cJSON_Duplicate(v, true));
        mr_free(name);
    }
    cJSON_Delete(live);
    return MR_OK;
}

static mr_status m_pause(mr_live *l, const mr_control_request *r, cJSON **out, mr_err *err) {
    const char *why;
    MR_TRY(mr_json_opt_string(&why, r->args, "why", "", "pause", err));
    char *text = *why ? mr_asprintf("attach, process %ld: %.200s", (long)r->pid, why)
                      : mr_asprintf("attach, process %ld", (long)r->pid);
    mr_status st = mr_trainer_pause(l->s->trainer, text, err);
    mr_free(text);
    if (st != MR_OK) return st;
    *out = cJSON_CreateObject();
    cJSON_AddStringToObject(*out, "paused", mr_trainer_paused(l->s->trainer));
    cJSON_AddNumberToObject(*out, "step", (double)mr_trainer_step_index(l->s->trainer));
    return MR_OK;
}

static cJSON *step_json(const mr_live *l) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "step", (double)mr_trainer_step_index(l->s->trainer));
    return o;
}

static mr_status m_resume(mr_live *l, const mr_control_request *r, cJSON **out, mr_err *err) {
    (void)r;
    if (!mr_trainer_paused(l->s->trainer)) return mr_fail(err, MR_EINVAL, "resume: the run is not paused");
    mr_trainer_go_on(l->s->trainer);
    *out = step_json(l);
    return MR_OK;
}

static mr_status m_checkpoint(mr_live *l, const mr_control_request *r, cJSON **out, mr_err *err) {
    (void)r;
    MR_TRY(mr_trainer_checkpoint(l->s->trainer, err));
    char *path =
        mr_asprintf("%s/checkpoint-%lld", mr_run_dir(l->s->run), (long long)mr_trainer_step_index(l->s->trainer));
    *out = step_json(l);
    cJSON_AddStringToObject(*out, "path", path);
    mr_free(path);
    return MR_OK;
}

static mr_status m_stop(mr_live *l, const mr_control_request *r, cJSON **out, mr_err *err) {
    (void)r, (void)err;
    mr_trainer_end(l->s->trainer);
    *out = step_json(l);
    return MR_OK;
}

static mr_status m_reload(mr_live *l, const mr_control_request *r, cJSON **out, mr_err *err) {
    (void)r;
    mr_str note = { 0 };
    bool taken;
    mr_status st = mr_trainer_reload(l->s->trainer, &note, &taken, err);
    if (st == MR_OK) {
        *out = cJSON_CreateObject();
        cJSON_AddStringToObject(*out, "note", note.len ? note.data : "nothing has changed");
        cJSON_AddBoolToObject(*out, "taken", taken);
    }
    mr_str_clear(&note);
    return st;
}

/* ---- the table ---- */

static const struct {
    const char *name;
    method_fn *call;
    mr_stage stage; /* what has to be open */
    bool within;    /* answered within a step */
    bool changes;   /* the run, which is an event */
} methods[] = {
    { "hello", m_hello, MR_STAGE_NOTHING, true, false },
    { "status", m_status, MR_STAGE_NOTHING, true, false },
    { "clients", m_clients, MR_STAGE_NOTHING, true, false },
    { "metrics", m_metrics, MR_STAGE_NOTHING, true, false },
    { "last", m_last, MR_STAGE_NOTHING, true, false },
    { "settings", m_settings, MR_STAGE_SCRIPTS, true, false },
    { "keys", m_keys, MR_STAGE_NOTHING, true, false },
    { "scripts", m_scripts, MR_STAGE_NOTHING, true, false },
    { "rewards", m_rewards, MR_STAGE_NOTHING, true, false },
    { "rows", m_rows, MR_STAGE_SCRIPTS, true, false },
    { "row", m_row, MR_STAGE_SCRIPTS, true, false },
    { "score", m_score, MR_STAGE_NOTHING, false, false },
    { "sample", m_sample, MR_STAGE_TRAINER, false, false },
    { "set", m_set, MR_STAGE_TRAINER, false, true },
    { "pause", m_pause, MR_STAGE_TRAINER, false, true },
    { "resume", m_resume, MR_STAGE_TRAINER, false, true },
    { "checkpoint", m_checkpoint, MR_STAGE_TRAINER, false, true },
    { "reload", m_reload, MR_STAGE_TRAINER, false, true },
    { "stop", m_stop, MR_STAGE_TRAINER, false, true },
};
enum { N_METHODS = sizeof methods / sizeof methods[0] };

static mr_status unknown(const char *name, mr_err *err) {
    const char *names[N_METHODS + 1];
    for (int i = 0; i < N_METHODS; i++) names[i] = methods[i].name;
    names[N_METHODS] = "watch";
    const char *near = mr_nearest_name(name, names, N_METHODS + 1);
    if (near) return mr_fail(err, MR_EINVAL, "unknown method \"%.60s\"; did you mean \"%s\"?", name, near);
    return mr_fail(err, MR_EINVAL, "unknown method \"%.60s\"; docs/attach.md lists them", name);
}

/* The event of what a client did. */
static mr_status record(mr_live *l, const mr_control_request *r, mr_err *err) {
    mr_session *s = l->s;
    cJSON *detail = cJSON_CreateObject();
    cJSON_AddStringToObject(detail, "by", "attach");
    cJSON_AddNumberToObject(detail, "pid", r->pid);
    cJSON_AddStringToObject(detail, "method", r->method);
    cJSON_AddItemToObject(detail, "args", cJSON_Duplicate(r->args, true));
    mr_str text = { 0 };
    mr_str_printf(&text, "process %ld: %s", (long)r->pid, r->method);
    if (r->args->child) {
        mr_str_puts(&text, " ");
        mr_json_put(&text, r->args);
    }
    const int64_t step = mr_trainer_step_index(s->trainer);
    mr_status st = s->inner.event ? s->inner.event(s->inner.self, step, "attach", text.data, detail, err) : MR_OK;
    mr_live_event(l, step, "attach", text.data, detail);
    mr_str_clear(&text);
    cJSON_Delete(detail);
    return st;
}

mr_status mr_live_call(void *self, const mr_control_request *r, cJSON **result, bool *later, mr_err *err) {
    mr_live *l = self;
    int i = 0;
    while (i < N_METHODS && strcmp(methods[i].name, r->method) != 0) i++;
    if (i == N_METHODS) return unknown(r->method, err);
    *later = !methods[i].within && !r->boundary;
    if (*later) return MR_OK;
    /* A run that serves its socket while it opens has its trainer only when that is done. */
    if (!l->socket) MR_TRY(mr_session_need(l->s, methods[i].stage, err));
    MR_TRY(methods[i].call(l, r, result, err));
    return methods[i].changes && l->socket ? record(l, r, err) : MR_OK;
}
