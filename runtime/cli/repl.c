/* repl.c - `medrl repl`: a Lua session with model, data, rewards and trainer in the same process, each opened when it is
 * first asked for. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/log.h"
#include "base/proc.h"
#include "cli/cli.h"
#include "cli/console.h"
#include "cli/live.h"
#include "cli/speak.h"

enum { MOST_STEPS = 1000000, MOST_SAMPLES = 1024, MAX_NEW = 256, LOOKS = 6 };

typedef struct local {
    mr_session session;
    const char *model; /* --model, NULL: the recipe's */
    mr_parts_opts parts;
    int64_t n_samples; /* so far: their seeds */
    bool started;      /* its run has its first event */
    bool between;      /* the trainer stands between two steps: a checkpoint is whole */
} local;

/* ---- what has to be open ---- */

static mr_status need_model(local *l, mr_err *err) {
    mr_session *s = &l->session;
    if (s->opts.recipe) return mr_session_need(s, MR_STAGE_MODEL, err);
    if (s->parts.model) return MR_OK;
    if (!l->model)
        return mr_fail(err, MR_EINVAL,
                       "there is no model; start with one: medrl repl --model smollm2-135m-instruct, or "
                       "with a recipe");
    return mr_parts_open(&s->parts, l->model, &l->parts, err);
}

/* The recipe's system prompt and examples, which a run folder brings along by itself. */
static mr_status need_frame(local *l, mr_err *err) {
    mr_session *s = &l->session;
    MR_TRY(need_model(l, err));
    if (s->opts.recipe) mr_parts_frame(&s->parts, mr_pool_recipe(s->pool));
    return MR_OK;
}

/* ---- methods of this process ---- */

static mr_status speak_options(mr_speak_opts *o, const local *l, const cJSON *args, mr_err *err) {
    int64_t n, max_new, seed;
    const mr_settings *set = &l->session.settings;
    const bool recipe = l->session.stage >= MR_STAGE_SCRIPTS;
    MR_TRY(mr_json_opt_int(&n, args, "n", 1, 1, MOST_SAMPLES, "sample", err));
    MR_TRY(mr_json_opt_int(&max_new, args, "max_new_tokens", recipe ? set->train.max_completion_length : MAX_NEW, 1,
                           1 << 20, "sample", err));
    MR_TRY(mr_json_opt_int(&seed, args, "seed", l->n_samples, 0, (int64_t)1 << 53, "sample", err));
    *o = (mr_speak_opts){
        .sampling = { .temperature = recipe ? set->train.temperature : 0.7f, .top_p = 1, .repetition_penalty = 1 },
        .max_new_tokens = (int)max_new,
        .n_samples = (int)n,
        .seed = (uint64_t)seed,
    };
    return mr_live_sampling(&o->sampling, args, err);
}

static cJSON *completions_json(const local *l, const mr_rollout *r, cJSON **objects, char **texts) {
    cJSON *o = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(o, "completions");
    for (int i = 0; i < r->n; i++) {
        texts[i] = mr_speak_text(l->session.parts.tokenizer, &r->items[i]);
        objects[i] = cJSON_CreateObject();
        cJSON_AddStringToObject(objects[i], "text", texts[i]);
        cJSON_AddNumberToObject(objects[i], "tokens", r->items[i].n);
        cJSON_AddBoolToObject(objects[i], "truncated", r->items[i].truncated);
        cJSON_AddItemToArray(list, objects[i]);
    }
    return o;
}

static mr_status complete(local *l, const mr_ids *ids, const mr_speak_opts *so, const cJSON *row, const char *prompt,
                          cJSON **out, mr_err *err) {
    mr_rollout r = { 0 };
    MR_TRY(mr_speak(&r, l->session.parts.model, l->session.parts.tokenizer, ids, so, err));
    mr_status st = MR_OK;
    if (mr_console_stopped()) {
        st = mr_fail(err, MR_ESIGNAL, "interrupted after %lld tokens", (long long)r.n_new_tokens);
    } else {
        cJSON **objects = mr_alloc((size_t)(r.n + 1) * sizeof *objects);
        char **texts = mr_alloc((size_t)(r.n + 1) * sizeof *texts);
        cJSON *o = completions_json(l, &r, objects, texts);
        cJSON_AddNumberToObject(o, "seed", (double)so->seed);
        if (row) st = mr_live_score(&l->session, objects, (const char *const *)texts, r.n, row, prompt, err);
        if (st == MR_OK)
            *out = o;
        else
            cJSON_Delete(o);
        for (int i = 0; i < r.n; i++) mr_free(texts[i]);
        mr_free(texts);
        mr_free(objects);
    }
    mr_rollout_clear(&r);
    return st;
}

static mr_status m_sample(local *l, const cJSON *args, cJSON **out, mr_err *err) {
    const mr_parts *p = &l->session.parts;
    mr_speak_opts so;
    mr_message *messages;
    int n;
    MR_TRY(need_frame(l, err));
    if (!p->chat)
        return mr_fail(err, MR_EDATA, "%s: the model has no chat template; use an instruct model", p->path);
    MR_TRY(speak_options(&so, l, args, err));
    MR_TRY(mr_live_prompt(&messages, &n, p, args, err));
    mr_ids ids = { 0 };
    mr_str text = { 0 };
    const cJSON *row = cJSON_GetObjectItemCaseSensitive(args, "row");
    const mr_chat_opts chat = { .add_generation_prompt = true };
    mr_status st = mr_chat_encode(p->tokenizer, &ids, p->chat, messages, n, &chat, err);
    if (st == MR_OK) st = mr_chat_render(&text, p->chat, messages, n, &chat, err);
    if (st == MR_OK)
        st = complete(l, &ids, &so, cJSON_IsObject(row) ? row : NULL, text.data ? text.data : "", out, err);
    l->n_samples++;
    mr_str_clear(&text);
    mr_free(ids.data);
    mr_free(messages);
    return st;
}

/* Each run says once how it began. */
static mr_status tell_start(local *l, mr_err *err) {
    const mr_observer *o = &l->session.inner;
    if (!l->session.trainer || l->started) return MR_OK;
    l->started = true;
    return o->event(o->self, 0, "start", "started by medrl repl", NULL, err);
}

static void ask_to_stop(void *self) {
    mr_trainer_stop(self);
}

static mr_status m_step(local *l, const cJSON *args, cJSON **out, mr_err *err) {
    mr_session *s = &l->session;
    int64_t n;
    MR_TRY(mr_json_opt_int(&n, args, "n", 1, 1, MOST_STEPS, "step", err));
    MR_TRY(mr_session_need(s, MR_STAGE_TRAINER, err));
    MR_TRY(tell_start(l, err));
    const int64_t from = mr_trainer_step_index(s->trainer), max = mr_trainer_max_steps(s->trainer);
    if (from >= max)
        return mr_fail(err, MR_EINVAL, "step: the run is at its end, step %lld; set{ max_steps = %lld } goes on",
                       (long long)max, (long long)(max + n));
    mr_trainer_unstop(s->trainer); /* of an earlier Ctrl-C; one that came just now is not lost */
    mr_console_also(ask_to_stop, s->trainer);
    mr_status st = mr_trainer_advance(s->trainer, n, err);
    mr_console_also(NULL, NULL);
    mr_log_status(NULL);
    l->between = st == MR_OK || s->settings.train.num_iterations == 1;
    const int64_t at = mr_trainer_step_index(s->trainer);
    if (st == MR_ESIGNAL) return mr_fail(err, st, "interrupted after step %lld", (long long)at);
    MR_TRY(st);
    *out = cJSON_CreateObject();
    cJSON_AddNumberToObject(*out, "step", (double)at);
    return MR_OK;
}

static mr_status m_reset(local *l, const cJSON *args, cJSON **out, mr_err *err) {
    (void)args, (void)out;
    l->started = l->between = false;
    return mr_session_reset(&l->session, err);
}

static mr_status m_save(local *l, const cJSON *args, cJSON **out, mr_err *err) {
    mr_session *s = &l->session;
    const char *dir;
    MR_TRY(mr_json_get_string(&dir, args, "dir", "save", err));
    MR_TRY(need_model(l, err));
    if (!s->opts.recipe)
        return mr_fail(err, MR_EINVAL, "save: there is no adapter of this session; start with a recipe");
    if (mr_path_exists(dir)) { /* what is replaced has to be an older adapter, or nothing */
        char *config = mr_path_join(dir, "adapter_config.json"), *tensors = mr_path_join(dir, "model.safetensors");
        const bool ours = mr_path_exists(config) || mr_path_exists(tensors);
        mr_free(config);
        mr_free(tensors);
        if (!ours) return mr_fail(err, MR_EINVAL, "save: %s is there and is no adapter; choose another name", dir);
    }
    MR_TRY(mr_session_save(s, dir, err));
    *out = cJSON_CreateObject();
    cJSON_AddStringToObject(*out, "path", dir);
    return MR_OK;
}

static mr_status m_chat(local *l, const cJSON *args, cJSON **out, mr_err *err) {
    (void)args, (void)out;
    MR_TRY(need_frame(l, err));
    mr_parts *p = &l->session.parts;
    if (!p->chat)
        return mr_fail(err, MR_EDATA, "%s: the model has no chat template; use an instruct model", p->path);
    const mr_speak_opts speak = {
        .sampling = { .temperature = 0.7f, .top_p = 1, .repetition_penalty = 1 },
        .max_new_tokens = 512,
        .n_samples = 1,
        .stream = true,
    };
    mr_status st = mr_converse(p, p->system, &speak, true, err);
    if (strcmp(mr_signals_name(mr_signals_seen()), "SIGINT") == 0) mr_signals_forget(); /* it ended the conversation */
    mr_console_also(NULL, NULL);
    return st;
}

/* Numbers of a recipe that was saved again, where no trainer has them yet. */
static mr_status take_settings(mr_session *s, const cJSON *changed, mr_err *err) {
    if (s->stage < MR_STAGE_MODEL) {
        mr_settings next;
        MR_TRY(mr_parts_settings(&next, mr_pool_recipe(s->pool), mr_pool_recipe_path(s->pool), err));
        mr_settings_clear(&s->settings);
        s->settings = next;
        return MR_OK;
    }
    for (const cJSON *v = changed ? changed->child : NULL; v; v = v->next)
        MR_TRY(mr_settings_set(&s->settings, v->string, v, NULL, NULL, err));
    return MR_OK;
}

/* Before a run began: the reload of the scripts and of the template, when it is open. A file that was saved a moment ago and does not load yet is looked at
 * again, as between steps. */
static mr_status m_reload(local *l, const cJSON *args, cJSON **out, mr_err *err) {
    (void)args;
    mr_session *s = &l->session;
    mr_str note = { 0 };
    bool taken = false;
    mr_status st = MR_OK;
    for (int i = 0; i < LOOKS && st == MR_OK && !note.len && s->pool; i++) {
        /* wait: 50 ms, LOOKS times */
        if (i) usleep(50000);
        if (s->trainer) {
            st = mr_trainer_reload(s->trainer, &note, &taken, err);
            continue;
        }
        mr_reload r = { 0 };
        const mr_scorer scorer = mr_session_scorer(s);
        st = scorer.between_steps(scorer.self, 1, &r, err);
        if (r.note.len) mr_str_add(&note, r.note.data, r.note.len);
        taken = r.taken;
        if (st == MR_OK && taken && s->opts.recipe) st = take_settings(s, r.settings, err);
        mr_reload_clear(&r);
    }
    if (st == MR_OK && taken && s->stage >= MR_STAGE_ROWS) st = mr_pool_rows(s->pool, "train", &s->rows, err);
    if (st == MR_OK) {
        *out = cJSON_CreateObject();
        cJSON_AddStringToObject(*out, "note",
                                note.len  ? note.data
                                : s->pool ? "nothing has changed"
                                          : "nothing is open yet");
        cJSON_AddBoolToObject(*out, "taken", taken);
    }
    mr_str_clear(&note);
    return st;
}

static mr_status call(void *self, const char *method, const cJSON *args, cJSON **result, mr_err *err) {
    static const struct {
        const char *name;
        mr_status (*call)(local *l, const cJSON *args, cJSON **out, mr_err *err);
    } own[] = {
        { "sample", m_sample }, { "step", m_step }, { "reset", m_reset },
        { "save", m_save },     { "chat", m_chat }, { "reload", m_reload },
    };
    local *l = self;
    *result = NULL;
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (!strcmp(own[i].name, method)) return own[i].call(l, args, result, err);
    const mr_control_request r = { method, args, getpid(), true, l->session.trainer };
    bool later = false;
    MR_TRY(mr_live_call(l->session.live, &r, result, &later, err));
    return tell_start(l, err);
}

/* ---- the command ---- */

/* What was trained and not saved yet is not lost with the session. */
static mr_status leave(local *l, mr_err *err) {
    const mr_session *s = &l->session;
    const int64_t step = s->trainer ? mr_trainer_step_index(s->trainer) : 0;
    if (!step || !l->between) return MR_OK;
    char *path = mr_asprintf("%s/checkpoint-%lld", mr_run_dir(s->run), (long long)step);
    mr_status st = s->inner.event(s->inner.self, step, "stop", "the session ended", NULL, err);
    if (st == MR_OK && !mr_path_exists(path)) st = mr_trainer_checkpoint(s->trainer, err);
    if (st == MR_OK) mr_info("continue with: medrl resume %s", mr_run_dir(s->run));
    mr_free(path);
    return st;
}

static mr_status run(local *l, mr_session_opts *so, mr_console *how, mr_err *err) {
    char line[128];
    mr_str overrides = { 0 };
    const char *list[64] = { NULL };
    int n = 0;
    if (so->recipe && mr_path_is_dir(so->recipe)) { /* a run: its model with its adapter */
        if (l->model)
            return mr_fail(err, MR_EINVAL, "repl: %s is a folder, and --model names another model", so->recipe);
        l->model = so->recipe;
        so->recipe = NULL;
    }
    if (so->recipe && so->rewards)
        return mr_fail(err, MR_EINVAL, "repl: --reward is for sessions without a recipe; %s names its own", so->recipe);
    if (so->recipe && l->model) {
        for (; so->overrides && so->overrides[n] && n < 62; n++) list[n] = so->overrides[n];
        mr_str_printf(&overrides, "model.name=%s", l->model);
        list[n] = overrides.data;
        so->overrides = list;
    }
    snprintf(line, sizeof line, "medrl %.40s; help lists what there is, Ctrl-D ends it", mr_version());
    how->greeting = line;
    how->host = (mr_host){ l, call };
    mr_session_begin(&l->session, so);
    mr_status st = mr_console_run(how, err);
    mr_err why;
    mr_status left = leave(l, st == MR_OK ? err : &why);
    if (st != MR_OK && left != MR_OK) mr_warn("%s", why.msg);
    mr_session_close(&l->session);
    mr_str_clear(&overrides);
    return st != MR_OK ? st : left;
}

mr_status mr_cmd_repl(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "repl",
        "medrl repl recipes/medical_mix.lua\n"
        "medrl repl --model smollm2-135m-instruct --reward correctness\n"
        "medrl repl recipes/demo.lua -e 'score(\"<answer>4</answer>\", data[1])'\n"
        "echo '1 + 1' | medrl repl",
        "[RECIPE|RUN]",
        0,
        1,
        "A Lua session: model:generate(prompt, { n = 6 }), score(text, row), data[17], step(5), reload(), reset(), "
        "save(dir), chat(). Each part is\n"
        "opened when it is first used. Errors are told and never end it; help lists everything.",
    };
    local l = { .parts = { .need_chat = true } };
    mr_session_opts so = { 0 };
    mr_console how = { .name = "repl" };
    int64_t threads = 0;
    const mr_opt opts[] = {
        { "model", 'm', MR_OPT_TEXT, "NAME", "the model, in place of the recipe's or without one", &l.model, 0, 0 },
        { "eval", 'e', MR_OPT_LIST, "LUA", "run it and end; may be given many times", &how.expressions, 0, 0 },
        { "json", 0, MR_OPT_FLAG, NULL, "print the last value as JSON, and nothing else", &how.json, 0, 0 },
        { "reward", 'r', MR_OPT_LIST, "NAME|FILE", "without a recipe: a reward for score; may be given several times",
          &so.rewards, 0, 0 },
        { "set", 0, MR_OPT_LIST, "KEY=VALUE", "override a field of the recipe", &so.overrides, 0, 0 },
        { "output", 'o', MR_OPT_TEXT, "DIR", "folder of the run that step() begins", &so.output, 0, 0 },
        { "adapter", 0, MR_OPT_TEXT, "DIR", "with --model: PEFT adapter folder, or a run's", &l.parts.adapter, 0, 0 },
        { "device", 0, MR_OPT_TEXT, "NAME", "auto, cpu or cuda:N", &so.device, 0, 0 },
        MR_OPT_PULL,
        { "threads", 0, MR_OPT_INT, "N", "CPU threads (0: all)", &threads, 0, 1024 },
        { "trust", 0, MR_OPT_FLAG, NULL, "all of Lua's libraries: io, os, debug, ffi", &how.trust, 0, 0 },
    };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, sizeof opts / sizeof opts[0], argc, argv, err);
    if (st == MR_OK && !a.help) {
        so.recipe = a.n ? a.items[0] : NULL;
        so.n_threads = l.parts.n_threads = (int)threads;
        so.progress = mr_log_get_level() >= MR_LOG_INFO;
        so.keep = true;
        l.parts.device = so.device;
        l.parts.need_chat = true; /* all that a session does with a model alone is a conversation */
        st = run(&l, &so, &how, err);
    }
    mr_args_clear(&a);
    return st;
}
