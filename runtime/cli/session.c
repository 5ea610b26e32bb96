/* session.c - see session.h. */
#include "cli/session.h"

#include <dirent.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/log.h"
#include "base/proc.h"
#include "cli/cli.h"
#include "cli/live.h"
#include "rl/checkpoint.h"
#include "rl/metrics.h"

/* ---- listening in ---- */

/* -v: where the time before the first step goes. */
static void reached(const char *what) {
    mr_debug("%8.3f s after the start: %s", mr_since_start_s(), what);
}

static void remember(mr_session *s, const mr_script_text *x) {
    cJSON_DeleteItemFromObjectCaseSensitive(s->told, x->module);
    cJSON_AddStringToObject(s->told, x->module, x->sha256);
}

/* Stores a text by its hash; once is enough. */
static mr_status store_script(mr_session *s, const mr_script_text *x, bool tell, mr_err *err) {
    const cJSON *known = cJSON_GetObjectItemCaseSensitive(s->told, x->module);
    if (known && strcmp(known->valuestring, x->sha256) == 0) return MR_OK;
    if (!tell) return mr_run_store(s->run, x->name, x->text, x->len, x->sha256, err);
    MR_TRY(mr_run_script(s->run, x->module, x->name, x->text, x->len, x->sha256, err));
    remember(s, x);
    return MR_OK;
}

/* A text of the template, as events name it: its modules are not those of the scripts. */
#define TEMPLATE_MODULE "template:"

/* The text that prompts are made by: config.json and the reloads name it. What a Lua file requires may come late, and
 * is told like the scripts' own. */
static mr_status record_template(mr_session *s, bool tell, mr_err *err) {
    const mr_script_text *x;
    mr_status st = MR_OK;
    for (int i = 0; st == MR_OK && (x = mr_template_text(s->parts.template, i)); i++) {
        char *module = mr_asprintf(TEMPLATE_MODULE "%s", x->module);
        mr_script_text named = *x;
        named.module = module;
        st = store_script(s, &named, tell && i > 0, err);
        if (st == MR_OK && tell && i == 0) remember(s, &named);
        mr_free(module);
    }
    return st;
}

/* Every text that ran is in the run folder, those of a reload and those that were loaded while scoring too. */
static mr_status record_scripts(mr_session *s, bool tell, mr_err *err) {
    int n;
    const mr_script_text *texts = mr_pool_scripts(s->pool, &n);
    for (int i = 0; i < n; i++) MR_TRY(store_script(s, &texts[i], tell, err));
    return record_template(s, tell, err);
}

/* How often lines are shown may be set in a run. */
static void take_intervals(mr_session *s) {
    cJSON *live = mr_trainer_live(s->trainer);
    const bool sft = s->settings.method == MR_METHOD_SFT;
    const cJSON *lines = cJSON_GetObjectItemCaseSensitive(live, sft ? "sft.logging_steps" : "grpo.logging_steps"),
                *samples = cJSON_GetObjectItemCaseSensitive(live, sft ? "sft.sample_steps" : "grpo.sample_steps");
    if (lines && samples) mr_run_intervals(s->run, lines->valueint, samples->valueint);
    cJSON_Delete(live);
}

static mr_status on_step(void *self, int64_t step, int64_t max_steps, const mr_metric *m, int n, mr_err *err) {
    mr_session *s = self;
    s->last = mr_realloc(s->last, (size_t)(n ? n : 1) * sizeof *m);
    if (n) memcpy(s->last, m, (size_t)n * sizeof *m);
    s->n_last = n;
    for (int i = 0; i < n; i++) {
        if (strcmp(m[i].name, MR_M_REWARD) != 0 || isnan(m[i].value)) continue;
        s->rewards[s->n_steps % 3] = m[i].value;
        if (s->n_steps++ == 0) reached("the first step is done");
        double sum = 0;
        int have = s->n_steps < 3 ? (int)s->n_steps : 3;
        for (int k = 0; k < have; k++) sum += s->rewards[k];
        s->last_reward = sum / have;
        if (s->n_steps <= 3) s->first_reward = s->last_reward;
    }
    if (s->inner.step) MR_TRY(s->inner.step(s->inner.self, step, max_steps, m, n, err));
    mr_live_step(s->live, step, max_steps, m, n);
    return record_scripts(s, true, err);
}

static mr_status on_sample(void *self, const mr_sample *sample, int n_rewards, const char *const *names, mr_err *err) {
    mr_session *s = self;
    return s->inner.sample ? s->inner.sample(s->inner.self, sample, n_rewards, names, err) : MR_OK;
}

static mr_status on_event(void *self, int64_t step, const char *kind, const char *text, const cJSON *detail,
                          mr_err *err) {
    mr_session *s = self;
    const bool reload = strcmp(kind, "reload") == 0;
    if (reload) MR_TRY(record_scripts(s, false, err)); /* an event never names a text that is not there */
    if (s->inner.event) MR_TRY(s->inner.event(s->inner.self, step, kind, text, detail, err));
    mr_live_event(s->live, step, kind, text, detail);
    if (s->trainer && strcmp(kind, "set") == 0) take_intervals(s);
    return reload ? record_scripts(s, true, err) : MR_OK;
}

static void on_progress(void *self, int64_t step, int64_t max_steps, const char *phase, int done, int total) {
    mr_session *s = self;
    mr_live_phase(s->live, phase, done, total);
    if (s->inner.progress) s->inner.progress(s->inner.self, step, max_steps, phase, done, total);
}

static mr_status on_flush(void *self, int64_t *metrics_bytes, int64_t *samples_bytes, int64_t *events_bytes,
                          mr_err *err) {
    mr_session *s = self;
    if (s->inner.flush) return s->inner.flush(s->inner.self, metrics_bytes, samples_bytes, events_bytes, err);
    *metrics_bytes = *samples_bytes = *events_bytes = 0;
    return MR_OK;
}

/* "medrl 0.1.0, gcc 12.2.0": another compiler may round elsewhere. */
static const char *build_name(void) {
    static char name[128];
    if (!name[0]) snprintf(name, sizeof name, "medrl %s, %s", mr_version(), __VERSION__);
    return name;
}

/* ---- what the run was made from ---- */

/* Names, sizes, the first MiB and 64 pieces of 64 KiB of each weights file: seconds would go into reading a whole
 * model, and a file that was exchanged by accident differs in this already. */
static mr_status add_file(mr_sha *sha, const char *path, mr_err *err) {
    mr_map map;
    MR_TRY(mr_map_open(&map, path, err));
    char head[512];
    int n = snprintf(head, sizeof head, "%.400s %zu\n", mr_path_name(path), map.len);
    mr_sha_add(sha, head, (size_t)n);
    enum { FIRST = 1 << 20, PIECE = 1 << 16, PIECES = 64 };
    if (map.len <= FIRST + PIECE * PIECES) {
        mr_sha_add(sha, map.data, map.len);
    } else {
        mr_sha_add(sha, map.data, FIRST);
        for (size_t i = 1; i <= PIECES; i++) mr_sha_add(sha, map.data + (map.len - PIECE) / PIECES * i, PIECE);
    }
    mr_map_close(&map);
    return MR_OK;
}

static int weights_only(const struct dirent *e) {
    const char *dot = strrchr(e->d_name, '.');
    return dot && (strcmp(dot, ".safetensors") == 0 || strcmp(e->d_name, "config.json") == 0 ||
                   strcmp(e->d_name, "tokenizer.json") == 0);
}

static mr_status fingerprint(char hex[65], const char *path, mr_err *err) {
    mr_sha *sha = mr_sha_new();
    mr_status st = MR_OK;
    if (!mr_path_is_dir(path)) {
        st = add_file(sha, path, err);
    } else {
        struct dirent **list = NULL;
        int n = scandir(path, &list, weights_only, alphasort);
        for (int i = 0; i < n; i++) {
            char *file = mr_path_join(path, list[i]->d_name);
            if (st == MR_OK) st = add_file(sha, file, err);
            mr_free(file);
            free(list[i]);
        }
        free(list);
    }
    mr_sha_end(sha, hex);
    return st;
}

/* Absolute, so that a run can be continued from another folder. What is shown of medrl's own files is relative to its
 * home. */
static void add_path(cJSON *o, const char *key, const char *path) {
    char full[PATH_MAX], *home = mr_path_join(mr_home_dir(), path);
    cJSON_AddStringToObject(o, key, realpath(path, full) || realpath(home, full) ? full : path);
    mr_free(home);
}

static cJSON *run_section(mr_session *s, const char *hex, bool on_cpu) {
    cJSON *run = cJSON_CreateObject(), *list = cJSON_CreateArray(), *scripts = cJSON_CreateObject();
    cJSON_AddStringToObject(run, "medrl", mr_version());
    cJSON_AddStringToObject(run, "recipe", s->opts.recipe);
    add_path(run, "recipe_path", mr_pool_recipe_path(s->pool));
    for (const char *const *o = s->opts.overrides; o && *o; o++) cJSON_AddItemToArray(list, cJSON_CreateString(*o));
    cJSON_AddItemToObject(run, "overrides", list);
    cJSON_AddBoolToObject(run, "on_cpu", on_cpu);
    cJSON_AddStringToObject(run, "device", s->parts.backend->device);
    cJSON_AddStringToObject(run, "dtype", mr_dtype_name(mr_model_options(s->parts.model)->compute));
    add_path(run, "model_path", s->parts.path);
    cJSON_AddStringToObject(run, "model_fingerprint", hex);
    cJSON_AddStringToObject(run, "chat_template_sha256", mr_template_script(s->parts.template)->sha256);
    cJSON_AddStringToObject(run, "chat_template_date", mr_template_date(s->parts.template));
    cJSON_AddNumberToObject(run, "rows", (double)s->rows.n_rows);
    cJSON_AddNumberToObject(run, "started", mr_wall_s());
    cJSON_AddNumberToObject(run, "sandbox", mr_pool_sandbox(s->pool, NULL));
    int n;
    const mr_script_text *texts = mr_pool_scripts(s->pool, &n);
    for (int i = 0; i < n; i++) cJSON_AddStringToObject(scripts, texts[i].name, texts[i].sha256);
    cJSON_AddItemToObject(run, "scripts", scripts);
    return run;
}

/* config.json: the resolved recipe, section by section, and what it ran on under "run". */
static mr_status record_config(mr_session *s, const char *hex, bool on_cpu, mr_err *err) {
    cJSON *config = cJSON_Duplicate(mr_pool_recipe(s->pool), true);
    cJSON_DeleteItemFromObjectCaseSensitive(config, "run");
    cJSON_AddItemToObject(config, "run", run_section(s, hex, on_cpu));
    mr_status st = mr_run_config(s->run, config, err);
    cJSON_Delete(config);
    return st;
}

/* A run that goes on with another base model would be nonsense. */
static mr_status compare(mr_session *s, const char *hex, mr_err *err) {
    const cJSON *run = cJSON_GetObjectItemCaseSensitive(s->config, "run");
    const char *was = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(run, "model_fingerprint"));
    if (was && *was && strcmp(was, hex) != 0) /* "": random weights, whatever the file holds */
        return mr_fail(err, MR_EDATA,
                       "%s: the run was started from another version of %s; put the old one back, or start a new run",
                       s->opts.resume, s->parts.path);
    return MR_OK;
}

/* ---- what a continued run was ---- */

/* The hash that the texts of a checkpoint or of a reload give for a module. */
static const char *hash_in(const cJSON *texts, const char *module) {
    const char *name = cJSON_GetStringValue(
        cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(texts, "modules"), module));
    return name ? cJSON_GetStringValue(
                      cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(texts, "scripts"), name))
                : NULL;
}

/* A text that was loaded while scoring is named by an event "script" only: it joins the version that loaded it. */
static void join_late_texts(mr_session *s) {
    cJSON *texts = s->pinned;
    for (cJSON *e = s->journal->child, *next; e; e = next) {
        next = e->next;
        const char *kind = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(e, "kind")),
                   *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(e, "text"));
        cJSON *detail = cJSON_GetObjectItemCaseSensitive(e, "detail");
        if (kind && !strcmp(kind, "reload") && cJSON_GetObjectItemCaseSensitive(detail, "scripts")) texts = detail;
        if (!kind || strcmp(kind, "script") != 0) continue;
        const char *module = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(detail, "module")),
                   *sha = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(detail, "sha256"));
        const size_t skip = sizeof TEMPLATE_MODULE - 1;
        const bool of_template = module && strncmp(module, TEMPLATE_MODULE, skip) == 0;
        const cJSON *all = of_template ? cJSON_GetObjectItemCaseSensitive(texts, "template") : texts;
        if (of_template) module += skip;
        cJSON *scripts = cJSON_GetObjectItemCaseSensitive(all, "scripts"),
              *modules = cJSON_GetObjectItemCaseSensitive(all, "modules");
        if (!name || !module || !sha || !scripts || !modules || cJSON_GetObjectItemCaseSensitive(modules, module))
            continue;
        if (!cJSON_GetObjectItemCaseSensitive(scripts, name)) cJSON_AddStringToObject(scripts, name, sha);
        cJSON_AddStringToObject(modules, module, name);
    }
}

/* Before anything is opened: recipe, texts and journal of the run. */
static mr_status read_past(mr_session *s, mr_err *err) {
    cJSON *state;
    MR_TRY(mr_checkpoint_find(&s->checkpoint, s->opts.resume, err));
    MR_TRY(mr_checkpoint_read_state(&state, s->checkpoint, err));
    cJSON *medrl = cJSON_GetObjectItemCaseSensitive(state, "medrl");
    s->made_on = cJSON_DetachItemFromObjectCaseSensitive(medrl, "device");
    s->made_by = cJSON_DetachItemFromObjectCaseSensitive(medrl, "build");
    s->pinned = cJSON_DetachItemFromObjectCaseSensitive(medrl, "scripts");
    int64_t bytes = 0;
    mr_status st = mr_json_opt_int(&bytes, medrl, "events_bytes", 0, 0, (int64_t)1 << 53, s->checkpoint, err);
    cJSON_Delete(state);
    MR_TRY(st);
    s->base = cJSON_Duplicate(s->config, true);
    cJSON_DeleteItemFromObjectCaseSensitive(s->base, "run");
    if (!s->pinned) return MR_OK; /* of an older version: goes on with the files as they are */
    MR_TRY(mr_run_journal(s->opts.resume, bytes, &s->journal, &s->journal_last, err));
    join_late_texts(s);
    return MR_OK;
}

/* What is stored already. medrl's own files belong to the program: they are never the old ones. */
static void compare_own(mr_session *s) {
    int n;
    const mr_script_text *texts = mr_pool_scripts(s->pool, &n);
    for (int i = 0; i < n && s->pinned; i++) {
        const char *was = hash_in(s->pinned, texts[i].module);
        const bool same = was && strcmp(was, texts[i].sha256) == 0;
        if (same) cJSON_AddStringToObject(s->told, texts[i].module, was);
        if (was && !same)
            mr_warn("%s: is medrl's own and has changed since; the run goes on with the present one, and may differ",
                    texts[i].name);
    }
    const cJSON *version = cJSON_GetObjectItemCaseSensitive(s->pinned, "template");
    const mr_script_text *x;
    for (int i = 0; (x = mr_template_text(s->parts.template, i)); i++) {
        const char *was = hash_in(version, x->module);
        char *module = mr_asprintf(TEMPLATE_MODULE "%s", x->module);
        if (was && strcmp(was, x->sha256) == 0) cJSON_AddStringToObject(s->told, module, was);
        mr_free(module);
    }
}

/* ---- opening ---- */

/* The day for strftime_now in templates: the recipe's, else that of the start, which a resumed run has on record. */
static const char *chat_date(const mr_session *s) {
    const char *date = s->settings.model.chat_template_date;
    if (*date) return date;
    return cJSON_GetStringValue(
        cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(s->config, "run"), "chat_template_date"));
}

static mr_status open_text(mr_session *s, mr_err *err) {
    mr_parts *p = &s->parts;
    if (!p->path) MR_TRY(mr_model_resolve(&p->path, s->settings.model.name, err));
    if (!p->tokenizer) MR_TRY(mr_tokenizer_open(&p->tokenizer, p->path, err));
    char *store = s->opts.resume ? mr_path_join(s->opts.resume, "scripts") : NULL;
    const mr_chat_choice choice = { .file = s->settings.model.chat_template,
                                    .kwargs = s->settings.model.chat_template_kwargs,
                                    .date = chat_date(s),
                                    .pinned = cJSON_GetObjectItemCaseSensitive(s->pinned, "template"),
                                    .store = store };
    mr_status st = mr_parts_chat(p, &choice, err);
    mr_free(store);
    return st;
}

/* The plan fitted into what was free then: somebody else is the likely reason now. */
static mr_status beyond_plan(const mr_session *s, mr_status st, mr_err *err) {
    const mr_backend *b = s->parts.backend;
    if (st != MR_ENOMEM || b->kind != MR_CUDA) return st;
    char why[sizeof err->msg];
    snprintf(why, sizeof why, "%s", err->msg);
    return mr_fail(
        err, st,
        "%.600s; planned were %.2f GB of %.2f GB that were free: if others use %s too, `nvidia-smi` shows them; "
        "--vram caps the plan",
        why, (double)s->plan.total / 1e9, (double)b->bytes_total / 1e9, b->name);
}

static mr_status open_device(mr_session *s, mr_err *err) {
    if (s->parts.backend) return MR_OK;
    MR_TRY(mr_parts_backend(&s->parts.backend, s->opts.device, s->opts.n_threads, err));
    s->no_gpu = s->parts.backend->kind == MR_CPU;
    reached("the device is open");
    return MR_OK;
}

/* A GPU was expected, and it is a CPU: what the recipe says of that (on_cpu) may be other scripts, data and another model. */
static mr_status start_over(mr_session *s, mr_err *err) {
    mr_backend *b = s->parts.backend;
    mr_pool_close(s->pool);
    s->pool = NULL;
    s->rows = (mr_row_source){ 0 };
    mr_settings_clear(&s->settings);
    s->parts.backend = NULL;
    mr_parts_close(&s->parts);
    s->parts.backend = b;
    s->stage = MR_STAGE_NOTHING;
    return mr_session_need(s, MR_STAGE_TEXT, err);
}

static mr_status open_model(mr_session *s, mr_err *err) {
    const mr_settings *set = &s->settings;
    mr_parts *p = &s->parts;
    mr_model_opts mo;
    MR_TRY(open_device(s, err));
    if (s->on_cpu != s->no_gpu && !s->opts.resume) MR_TRY(start_over(s, err));
    p->backend->exact = set->exact;
    MR_TRY(mr_parts_plan(p, &s->plan, &mo, set, s->rows, err)); /* refused before anything is loaded */
    reached("planned");
    MR_TRY(beyond_plan(s, mr_model_open(&p->model, p->backend, p->path, &mo, err), err));
    if (set->model.adapter && *set->model.adapter) MR_TRY(mr_adapter_load(p->model, set->model.adapter, err));
    return MR_OK;
}

static void count(char *buf, size_t size, double x) {
    if (x >= 1e9)
        snprintf(buf, size, "%.2fB", x / 1e9);
    else if (x >= 1e6)
        snprintf(buf, size, "%.1fM", x / 1e6);
    else
        snprintf(buf, size, "%.0fk", x / 1e3);
}

/* A line of the banner; on a narrow terminal its rest stands below its text. */
static void say(const char *fmt, ...) MR_PRINTF(1, 2);
static void say(const char *fmt, ...) {
    char text[2048];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    mr_progress_say(text, 9);
}

static void banner(const mr_session *s) {
    const mr_settings *set = &s->settings;
    const mr_model_opts *mo = mr_model_options(s->parts.model);
    char total[32], trained[32], lora[96] = "full training";
    int n;
    double n_trained = 0;
    mr_param *params = mr_model_params(s->parts.model, &n);
    for (int i = 0; i < n; i++) n_trained += (double)params[i].rows * (double)params[i].cols;
    count(total, sizeof total, (double)mr_parameter_count(mr_model_config(s->parts.model)));
    count(trained, sizeof trained, n_trained);
    if (!mo->full) snprintf(lora, sizeof lora, "LoRA r=%d, alpha=%g", set->lora.r, (double)set->lora.lora_alpha);
    mr_info("recipe   %s", mr_pool_recipe_path(s->pool));
    mr_info("device   %s", s->parts.backend->device);
    mr_str names = { 0 };
    say("model    %s, %s parameters in %s, products in %s; %s: %s trained", set->model.name, total,
        mr_dtype_name(mo->store), mr_dtype_name(mo->compute), lora, trained);
    for (int i = 0; i < set->n_rewards; i++) mr_str_printf(&names, "%s%s", i ? ", " : "", set->rewards[i]);
    if (set->method == MR_METHOD_SFT)
        mr_info("data     %lld rows; supervised, %d sequences a step", (long long)s->rows.n_rows,
                set->train.prompts_per_step);
    else
        say("data     %lld rows; %d prompts x %d completions a step; rewards %s", (long long)s->rows.n_rows,
            set->train.prompts_per_step, set->train.loss.num_generations, names.data ? names.data : "none");
    mr_str_clear(&names);
    mr_str memory = { 0 };
    mr_trainer_describe(s->trainer, &memory);
    bool first = true;
    for (char *line = memory.data; line && *line; first = false) {
        size_t len = strcspn(line, "\n");
        say("%s%.*s", first ? "memory   " : "         ", (int)len, line);
        line += len + (line[len] == '\n');
    }
    mr_str_clear(&memory);
    mr_info("steps    %lld to %lld", (long long)mr_trainer_step_index(s->trainer) + 1,
            (long long)mr_trainer_max_steps(s->trainer));
    mr_info("run      %s", mr_run_dir(s->run));
    if (mr_live_listens(s->live)) mr_info("attach   medrl attach %s", mr_run_dir(s->run));
}

static mr_status load_checkpoint(mr_session *s, mr_err *err) {
    const char *checkpoint = s->checkpoint;
    int64_t metrics, samples, events;
    MR_TRY(mr_trainer_load(s->trainer, checkpoint, &metrics, &samples, &events, err));
    take_intervals(s);
    const bool nothing = (!s->journal || !s->journal->child) && s->journal_last <= mr_trainer_step_index(s->trainer);
    MR_TRY(mr_run_keep_journal(s->run, nothing ? NULL : s->journal, s->journal_last, err));
    MR_TRY(mr_run_cut(s->run, metrics, samples, events, err));
    if (s->journal) MR_TRY(mr_trainer_replay(s->trainer, s->journal, s->journal_last, err));
    mr_info("resumes  %s", checkpoint);
    return MR_OK;
}

/* Other bits are not what somebody asked for who continues a run: by name, or not at all. */
static mr_status compare_device(mr_session *s, const cJSON *run, mr_err *err) {
    const mr_backend *b = s->parts.backend;
    const char *was = cJSON_GetStringValue(s->made_on), *by = cJSON_GetStringValue(s->made_by);
    const bool cpu = b->kind == MR_CPU;
    if (!was && s->on_cpu != cpu) was = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(run, "device")); /* of an older version */
    if (by && strcmp(by, build_name()) != 0)
        mr_warn("%s: was made by %s, this is %s: the last bits of what follows may be others", s->checkpoint, by, build_name());
    if (!was || !b->arithmetic || strcmp(was, b->arithmetic) == 0) return MR_OK;
    if (!s->opts.allow_different_device)
        return mr_fail(err, MR_EREFUSED,
                       "%s: was made on %s, this is %s, which computes other last bits: the run would not be the one that was not "
                       "stopped; choose the device with --device, or let it differ with --allow-different-device",
                       s->checkpoint, was, b->arithmetic);
    mr_warn("%s: was made on %s and goes on with %s: the settings are the same, the last bits are not", s->checkpoint, was, b->arithmetic);
    return MR_OK;
}

static mr_status open_scripts(mr_session *s, mr_err *err) {
    const mr_session_opts *o = &s->opts;
    MR_TRY(mr_check_overrides(o->overrides, err));
    /* before any work: is there something to continue? */
    if (o->resume) MR_TRY(read_past(s, err));
    reached("main begins");
    const bool later = !s->parts.backend && mr_parts_warm(o->device); /* while scripts, rows and tokenizer are opened */
    if (!later || o->resume) MR_TRY(open_device(s, err));
    const cJSON *run = cJSON_GetObjectItemCaseSensitive(s->config, "run"); /* a run keeps its settings */
    const cJSON *was = cJSON_GetObjectItemCaseSensitive(run, "on_cpu");
    const bool cpu = s->parts.backend ? s->parts.backend->kind == MR_CPU : s->no_gpu;
    s->on_cpu = was ? cJSON_IsTrue(was) : cpu;
    if (o->resume) MR_TRY(compare_device(s, run, err));
    mr_pool_opts po = { .on_cpu = s->on_cpu,
                        .overrides = o->overrides,
                        .require_sandbox = o->require_sandbox,
                        .pinned = s->pinned,
                        .base = s->base };
    char *store = o->resume ? mr_path_join(o->resume, "scripts") : NULL;
    po.store = store;
    mr_status opened = mr_pool_open(&s->pool, o->recipe, &po, err);
    mr_free(store);
    MR_TRY(opened);
    mr_status st = mr_parts_settings(&s->settings, s->base ? s->base : mr_pool_recipe(s->pool),
                                     mr_pool_recipe_path(s->pool), err);
    if (st != MR_OK) { /* a session that goes on may try again with a mended recipe */
        mr_pool_close(s->pool);
        s->pool = NULL;
        return st;
    }
    if (o->on_error) s->settings.on_error = strcmp(o->on_error, "stop") == 0 ? MR_ON_ERROR_STOP : MR_ON_ERROR_PAUSE;
    return MR_OK;
}

static mr_status open_rows(mr_session *s, mr_err *err) {
    MR_TRY(mr_pool_rows(s->pool, "train", &s->rows, err));
    if (s->rows.n_rows == 0)
        return mr_fail(err, MR_EDATA,
                       "%s: data.train has no rows, want at least one; `medrl data %s` says what was dropped",
                       mr_pool_recipe_path(s->pool), s->opts.recipe);
    if (s->rows.n_rows < s->settings.train.prompts_per_step)
        return mr_fail(err, MR_EINVAL,
                       "%s: data.train has %lld row%s, a step takes %d; add rows or lower %s.prompts_per_step",
                       mr_pool_recipe_path(s->pool), (long long)s->rows.n_rows, s->rows.n_rows == 1 ? "" : "s",
                       s->settings.train.prompts_per_step, s->settings.method == MR_METHOD_SFT ? "sft" : "grpo");
    return MR_OK;
}

/* The rows of data.eval as the recipe has them now, and the judge of `medrl eval`, in workers of its own: the run's
 * rewards are not asked. */
static mr_status get_evaluation(void *self, mr_row_source *rows, mr_scorer *judge, mr_err *err) {
    static const char *const rewards[] = { MR_EVAL_JUDGE, NULL };
    mr_session *s = self;
    MR_TRY(mr_pool_rows(s->pool, "eval", rows, err));
    if (rows->n_rows == 0)
        return mr_fail(err, MR_EINVAL, "%s: eval_steps is set and data.eval has no rows, want some; eval_steps = 0 turns it off",
                       mr_pool_recipe_path(s->pool));
    const mr_pool_opts po = { .n_workers = 1, .rewards = rewards, .require_sandbox = s->opts.require_sandbox };
    if (!s->judge) MR_TRY(mr_pool_open(&s->judge, NULL, &po, err));
    *judge = mr_pool_scorer(s->judge);
    return MR_OK;
}

static mr_status open_trainer(mr_session *s, mr_err *err) {
    const mr_session_opts *o = &s->opts;
    char hex[65] = "";
    if (!s->settings.model.from_config || o->resume) MR_TRY(fingerprint(hex, s->parts.path, err));
    if (s->config) MR_TRY(compare(s, hex, err));

    mr_run_opts ro = {
        .mode = o->resume ? MR_RUN_RESUME : MR_RUN_NEW,
        .progress = o->progress,
        .logging_steps = s->settings.train.logging_steps,
        .sample_steps = s->settings.train.sample_steps,
        .tensorboard = s->settings.train.tensorboard,
        .usd_per_hour = s->settings.budget.usd_per_hour,
    };
    MR_TRY(mr_run_open(&s->run, o->resume ? o->resume : o->output ? o->output : s->settings.output_dir, &ro, err));
    if (!o->resume) MR_TRY(record_config(s, hex, s->on_cpu, err));
    char *scripts = mr_path_join(mr_run_dir(s->run), "scripts");
    mr_pool_store(s->pool, scripts);
    mr_free(scripts);
    s->told = cJSON_CreateObject();
    compare_own(s);
    MR_TRY(record_scripts(s, true, err));
    s->inner = mr_run_observer(s->run);
    mr_trainer_parts tp = {
        .settings = &s->settings,
        .model = s->parts.model,
        .tokenizer = s->parts.tokenizer,
        .chat = s->parts.chat,
        .rows = s->rows,
        .observer = { s, on_step, on_sample, on_event, on_progress, on_flush },
        .run_dir = mr_run_dir(s->run),
        .base_model_name = s->settings.model.name,
        .build = build_name(),
        .plan = &s->plan,
        .evaluator = { s, get_evaluation },
        .spent_s = mr_now_s() - s->start_s,
    };
    tp.scorer = mr_session_scorer(s);
    if (o->control) tp.control = mr_live_listen(s->live);
    MR_TRY(beyond_plan(s, mr_trainer_open(&s->trainer, &tp, err), err));
    if (o->resume) MR_TRY(load_checkpoint(s, err));
    if (o->resume && o->on_error && s->settings.method == MR_METHOD_GRPO) {
        cJSON *value = cJSON_CreateString(o->on_error);
        mr_status st = mr_trainer_set(s->trainer, "on_error", value, "resume", err);
        cJSON_Delete(value);
        MR_TRY(st);
    }
    banner(s);
    return MR_OK;
}

/* A run that did not begin leaves nothing open behind. */
static void close_run(mr_session *s) {
    mr_trainer_close(s->trainer);
    s->trainer = NULL;
    mr_live_silence(s->live);
    mr_run_close(s->run);
    s->run = NULL;
    s->inner = (mr_observer){ 0 };
    cJSON_Delete(s->told);
    s->told = NULL;
}

/* The parameters' values to and from the host. */
static mr_status keep_start(mr_session *s, bool back, mr_err *err) {
    int n;
    const mr_param *params = mr_model_params(s->parts.model, &n);
    mr_backend *b = s->parts.backend;
    if (!s->start) s->start = mr_alloc((size_t)(n + 1) * sizeof *s->start);
    for (int i = 0; i < n; i++) {
        const size_t bytes = (size_t)(params[i].rows * params[i].cols) * sizeof(float);
        if (!s->start[i] && !(s->start[i] = mr_try_alloc(bytes)))
            return mr_fail(err, MR_ENOMEM, "no memory for a copy of \"%s\" to go back to", params[i].name);
        if (back)
            b->upload(b, params[i].value, s->start[i], bytes);
        else
            b->download(b, s->start[i], params[i].value, bytes);
    }
    if (back) mr_model_refresh(s->parts.model);
    return b->sync(b, err);
}

static void drop_start(mr_session *s) {
    for (int i = 0; s->start && s->start[i]; i++) mr_free(s->start[i]);
    mr_free(s->start);
    s->start = NULL;
}

mr_status mr_session_need(mr_session *s, mr_stage stage, mr_err *err) {
    static mr_status (*const opens[])(mr_session *, mr_err *) = {
        [MR_STAGE_SCRIPTS] = open_scripts, [MR_STAGE_ROWS] = open_rows,       [MR_STAGE_TEXT] = open_text,
        [MR_STAGE_MODEL] = open_model,     [MR_STAGE_TRAINER] = open_trainer,
    };
    static const char *const names[] = { "",          "workers, recipe and rewards",
                                         "the rows",  "tokenizer and template",
                                         "the model", "run folder and trainer: the first step begins" };
    if (stage > s->stage && !s->opts.recipe)
        return mr_fail(err, MR_EINVAL, "there is no recipe; start with one: medrl repl recipes/medical_mix.lua");
    while (s->stage < stage) {
        mr_status st = MR_OK;
        if (s->stage + 1 == MR_STAGE_TRAINER && s->opts.keep && !s->start) {
            st = keep_start(s, false, err);
            if (st != MR_OK) drop_start(s);
        }
        if (st == MR_OK) st = opens[s->stage + 1](s, err);
        if (st != MR_OK && s->stage + 1 == MR_STAGE_TRAINER) close_run(s);
        if (st != MR_OK && s->stage + 1 == MR_STAGE_MODEL) {
            mr_model_close(s->parts.model);
            s->parts.model = NULL;
        }
        MR_TRY(st);
        s->stage++;
        reached(names[s->stage]);
    }
    return MR_OK;
}

mr_status mr_session_need_rewards(mr_session *s, mr_err *err) {
    const mr_session_opts *o = &s->opts;
    if (o->recipe) return mr_session_need(s, MR_STAGE_SCRIPTS, err);
    if (s->pool) return MR_OK;
    if (!o->rewards)
        return mr_fail(err, MR_EINVAL, "there are no rewards; start with some: medrl repl --reward correctness, or with a "
                                       "recipe");
    const mr_pool_opts po = { .rewards = o->rewards, .require_sandbox = o->require_sandbox };
    return mr_pool_open(&s->pool, NULL, &po, err);
}

void mr_session_begin(mr_session *s, const mr_session_opts *opts) {
    *s = (mr_session){ .opts = *opts, .first_reward = NAN, .last_reward = NAN, .start_s = mr_now_s() };
    s->live = mr_live_new(s);
}

mr_status mr_session_open(mr_session *s, const mr_session_opts *opts, mr_err *err) {
    mr_session_begin(s, opts);
    if (opts->resume) {
        MR_TRY(mr_run_config_load(&s->config, opts->resume, err));
        if (!s->config)
            return mr_fail(err, MR_ENOTFOUND, "%s: is no run folder, want one that `medrl run` made", opts->resume);
    }
    return mr_session_need(s, MR_STAGE_TRAINER, err);
}

mr_status mr_session_reset(mr_session *s, mr_err *err) {
    if (s->stage < MR_STAGE_TRAINER) return MR_OK;
    close_run(s);
    s->stage = MR_STAGE_MODEL;
    s->n_steps = 0;
    return s->start ? keep_start(s, true, err) : MR_OK;
}

void mr_session_close(mr_session *s) {
    mr_backend_warmed();
    close_run(s);
    mr_live_close(s->live);
    if (s->parts.model) drop_start(s);
    mr_pool_close(s->judge);
    mr_pool_close(s->pool);
    mr_settings_clear(&s->settings);
    mr_parts_close(&s->parts);
    cJSON_Delete(s->config);
    cJSON_Delete(s->made_on);
    cJSON_Delete(s->made_by);
    cJSON_Delete(s->base);
    cJSON_Delete(s->pinned);
    cJSON_Delete(s->journal);
    mr_free(s->checkpoint);
    mr_free(s->last);
    mr_free(s->result);
    *s = (mr_session){ 0 };
}

/* ---- training ---- */

static void ask_to_stop(void *self) {
    mr_trainer_stop(self);
}

static bool has_checkpoint(const mr_session *s) {
    mr_err none;
    char *path = NULL;
    bool found = mr_checkpoint_find(&path, mr_run_dir(s->run), &none) == MR_OK;
    mr_free(path);
    return found;
}

mr_status mr_session_save(mr_session *s, const char *dir, mr_err *err) {
    const bool full = mr_model_options(s->parts.model)->full;
    char *above = mr_path_dir(dir), *tmp = mr_asprintf("%s/.%s.tmp", above, mr_path_name(dir));
    mr_status st = mr_remove_tree(tmp, err);
    if (st == MR_OK) st = mr_mkdirs(tmp, err);
    if (st == MR_OK)
        st = full ? mr_model_save(s->parts.model, tmp, err)
                  : mr_adapter_save(s->parts.model, tmp, s->settings.model.name, err);
    if (st == MR_OK) st = mr_remove_tree(dir, err);
    if (st == MR_OK) st = mr_dir_commit(tmp, dir, err);
    mr_free(above);
    mr_free(tmp);
    return st;
}

static mr_status save_result(mr_session *s, mr_err *err) {
    char *final = mr_path_join(mr_run_dir(s->run), mr_model_options(s->parts.model)->full ? "model" : "adapter");
    mr_status st = mr_session_save(s, final, err);
    if (st == MR_OK)
        s->result = final;
    else
        mr_free(final);
    return st;
}

mr_status mr_session_train(mr_session *s, mr_err *err) {
    mr_signals_catch(ask_to_stop, s->trainer);
    mr_session_watch(s, true);
    mr_status st = mr_trainer_run(s->trainer, err);
    mr_session_watch(s, false);
    mr_signals_catch(NULL, NULL); /* the trainer is not asked any more; what is left takes moments */
    mr_log_status(NULL);
    const char *dir = mr_run_dir(s->run);
    int number = mr_signals_seen();
    if (st == MR_ESIGNAL) {
        const char *next = has_checkpoint(s) ? "; continue with: medrl resume " : "; nothing is lost, start it again: no step was done";
        return mr_fail(err, st, "%s: stopped by %s after step %lld of %lld%s%s", dir, mr_signals_name(number),
                       (long long)mr_trainer_step_index(s->trainer), (long long)mr_trainer_max_steps(s->trainer), next,
                       has_checkpoint(s) ? dir : "");
    }
    if (st != MR_OK) {
        if (!has_checkpoint(s)) return mr_wrap(err, st, "%s", dir);
        char why[sizeof err->msg];
        snprintf(why, sizeof why, "%s", err ? err->msg : "");
        return mr_fail(err, st, "%s: %.700s; continue with: medrl resume %s", dir, why, dir);
    }
    if (mr_trainer_why_ended(s->trainer) && mr_trainer_step_index(s->trainer) < mr_trainer_max_steps(s->trainer))
        mr_info("ended after step %lld of %lld: %s", (long long)mr_trainer_step_index(s->trainer),
                (long long)mr_trainer_max_steps(s->trainer), mr_trainer_why_ended(s->trainer));
    return save_result(s, err);
}

cJSON *mr_session_report(const mr_session *s) {
    cJSON *o = cJSON_CreateObject(), *metrics = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "run", mr_run_dir(s->run));
    if (s->result) cJSON_AddStringToObject(o, mr_model_options(s->parts.model)->full ? "model" : "adapter", s->result);
    cJSON_AddNumberToObject(o, "steps", (double)mr_trainer_step_index(s->trainer));
    const char *why = mr_trainer_why_ended(s->trainer);
    if (why) cJSON_AddStringToObject(o, "ended_early", why);
    cJSON_AddNumberToObject(o, "reward_first", s->first_reward);
    cJSON_AddNumberToObject(o, "reward_last", s->last_reward);
    cJSON_AddNumberToObject(o, "seconds", mr_now_s() - s->start_s);
    cJSON_AddNumberToObject(o, "rss_peak_bytes", (double)mr_rss_peak_bytes());
    cJSON_AddNumberToObject(o, "device_bytes_peak", (double)s->parts.backend->bytes_peak);
    cJSON_AddNumberToObject(o, "planned_bytes", (double)s->plan.total);
    for (int i = 0; i < s->n_last; i++) cJSON_AddNumberToObject(metrics, s->last[i].name, s->last[i].value);
    cJSON_AddItemToObject(o, "metrics", metrics);
    return o;
}
