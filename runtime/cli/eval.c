/* eval.c - `medrl eval`: greedy answers to a data set, judged; of a run, those of its base model beside them.
 *
 * The rows are made by the workers, as in training, so system prompt and examples are the run's. Base and tuned are the
 * same weights in memory: the adapter is on for one pass and off for the other. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/log.h"
#include "base/proc.h"
#include "cli/cli.h"
#include "cli/eval.h"
#include "cli/parts.h"
#include "cli/speak.h"
#include "record/run.h"

enum { SAID_BYTES = 60, DEFAULT_NEW = 512, DEFAULT_BATCH = 32 };

typedef struct options {
    mr_parts_opts parts;
    const char *const *data, *const *overrides;
    const char *judge, *rows_file;
    int64_t limit, batch, max_new, threads, flips;
    bool json, no_base, no_save;
} options;

typedef struct evaluating {
    const options *o;
    mr_parts parts;
    mr_pool *pool;
    mr_arena arena;
    mr_evaluation e;
    int side;
    int64_t cap;
} evaluating;

/* ---- the data ---- */

typedef struct overrides {
    const char **items;
    int n;
} overrides;

static void add(overrides *to, mr_arena *a, const char *key, const char *value) {
    char *text = mr_asprintf("%s=%s", key, value);
    to->items[to->n++] = mr_arena_strdup(a, text, strlen(text));
    mr_free(text);
}

static void add_json(overrides *to, mr_arena *a, const char *key, const cJSON *value) {
    mr_str s = { 0 };
    mr_json_put(&s, value);
    add(to, a, key, s.data);
    mr_str_clear(&s);
}

/* data.system and data.shots of the run, so that other rows are asked in the words that it was trained with. */
static void add_frame(overrides *to, mr_arena *a, const cJSON *run) {
    const cJSON *data = cJSON_GetObjectItemCaseSensitive(run, "data"),
                *system = cJSON_GetObjectItemCaseSensitive(data, "system"),
                *shots = cJSON_GetObjectItemCaseSensitive(data, "shots");
    if (cJSON_IsString(system)) add_json(to, a, "data.system", system);
    if (shots) add_json(to, a, "data.shots", shots);
}

static const char *run_text(const cJSON *config, const char *key) {
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(config, "run"), key));
}

/* The recipe that the run was started with, and its --set. */
static mr_status data_of_run(const char **recipe, overrides *to, const cJSON *config, const char *what, mr_err *err) {
    const char *typed = run_text(config, "recipe"), *path = run_text(config, "recipe_path");
    if (!typed || !path)
        return mr_fail(err, MR_EINVAL, "eval: %s names no recipe; say what to ask: --data NAME=FILE or --data RECIPE",
                       what);
    char full[PATH_MAX];
    bool same = realpath(typed, full) && strcmp(full, path) == 0;
    if (!same && !mr_path_exists(path))
        return mr_fail(err, MR_ENOTFOUND,
                       "%s: the run's recipe is gone; say what to ask: --data NAME=FILE or --data RECIPE", path);
    *recipe = same ? typed : path;
    const cJSON *run = cJSON_GetObjectItemCaseSensitive(config, "run"),
                *list = cJSON_GetObjectItemCaseSensitive(run, "overrides");
    for (const cJSON *item = list ? list->child : NULL; item; item = item->next)
        if (cJSON_IsString(item)) to->items[to->n++] = item->valuestring;
    return MR_OK;
}

static int count_of(const char *const *list) {
    int n = 0;
    while (list && list[n]) n++;
    return n;
}

/* --data RECIPE once, --data NAME=FILE many times, or the run's own. */
static mr_status open_data(evaluating *x, mr_row_source *rows, mr_err *err) {
    const options *o = x->o;
    const cJSON *config = x->parts.run;
    const int n_set = count_of(o->overrides), n_data = count_of(o->data);
    const int n_run = cJSON_GetArraySize(
        cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(config, "run"), "overrides"));
    overrides to = { mr_arena_alloc(&x->arena, (size_t)(n_set + n_data + n_run + 8) * sizeof(char *)), 0 };
    const char *recipe = NULL, *rewards[] = { o->judge, NULL };
    for (int i = 0; i < n_data; i++) {
        const char *equals = strchr(o->data[i], '=');
        if (equals && equals > o->data[i] && equals[1]) {
            char *key = mr_asprintf("data.files.%.*s", (int)(equals - o->data[i]), o->data[i]);
            add(&to, &x->arena, key, equals + 1);
            mr_free(key);
            if (!recipe) recipe = "recipes/eval.lua";
        } else if (!equals && !recipe && strstr(o->data[i], ".lua")) {
            recipe = o->data[i];
        } else {
            return mr_fail(err, MR_EINVAL,
                           "eval: --data %s: want NAME=FILE (gsm8k, pubmedqa, medmcqa, health_benchmarks) as in --data "
                           "gsm8k=test.jsonl, or one RECIPE.lua with data.eval",
                           o->data[i]);
        }
    }
    if (!recipe && !config)
        return mr_fail(err, MR_EINVAL,
                       "eval: %s is no run, so there is no data.eval; say what to ask: --data NAME=FILE or "
                       "--data RECIPE",
                       x->e.what);
    if (!recipe)
        MR_TRY(data_of_run(&recipe, &to, config, x->e.what, err));
    else if (config)
        add_frame(&to, &x->arena, config);
    for (int i = 0; i < n_set; i++) to.items[to.n++] = o->overrides[i];
    MR_TRY(mr_check_overrides(to.items, err));
    const cJSON *on_cpu = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(config, "run"), "on_cpu");
    const mr_pool_opts po = { .on_cpu = on_cpu ? cJSON_IsTrue(on_cpu) : x->parts.backend->kind == MR_CPU,
                              .overrides = to.items,
                              .rewards = rewards };
    MR_TRY(mr_pool_open(&x->pool, recipe, &po, err));
    MR_TRY(mr_pool_rows(x->pool, "eval", rows, err));
    if (rows->n_rows == 0)
        return mr_fail(err, MR_EDATA, "%s: data.eval has no rows, want at least one; --data NAME=FILE asks others",
                       mr_pool_recipe_path(x->pool));
    const char *path = mr_pool_recipe_path(x->pool);
    mr_str name = { 0 };
    for (int i = 0; i < n_data; i++) mr_str_printf(&name, "%s%s", i ? ", " : "", o->data[i]);
    if (!name.len) mr_str_printf(&name, "data.eval of %s", path);
    x->e.data = mr_arena_strdup(&x->arena, name.data, name.len);
    mr_str_clear(&name);
    return MR_OK;
}

/* ---- answers ---- */

/* Behind the last "answer is" or "answer:", to the end of its line. */
static const char *announced(const char *text, size_t *len) {
    const char *found = NULL;
    for (const char *p = text; (p = strcasestr(p, "answer")) != NULL; p += 6) {
        const char *rest = p + 6;
        if (!strncasecmp(rest, " is", 3))
            found = rest + 3;
        else if (*rest == ':')
            found = rest + 1;
    }
    if (!found) return NULL;
    found += strspn(found, " :*");
    *len = strcspn(found, "\n");
    while (*len && strchr(" .*", found[*len - 1])) --*len;
    return found;
}

/* What a text answers, on one line and in lower case, for counting; NULL: it does not. The judge decides by itself. */
static char *said_of(const char *text) {
    size_t len;
    const char *answer = mr_answer_in(text, &len);
    if (!answer) answer = announced(text, &len);
    if (!answer) return NULL;
    mr_str s = { 0 };
    for (size_t i = 0; i < len && i < SAID_BYTES; i++) {
        const unsigned char c = (unsigned char)answer[i];
        const char plain = (char)(c < 0x20 || c == 0x7f ? ' ' : c >= 'A' && c <= 'Z' ? c + 32 : c);
        mr_str_add(&s, &plain, 1);
    }
    while (s.len && (len > SAID_BYTES) && ((unsigned char)s.data[s.len - 1] & 0xc0) == 0x80) s.data[--s.len] = 0;
    if (s.len && len > SAID_BYTES && ((unsigned char)s.data[s.len - 1] & 0x80)) s.data[--s.len] = 0;
    if (len > SAID_BYTES) mr_str_puts(&s, "...");
    return s.data ? mr_str_steal(&s) : mr_strdup("");
}

static char *gold_of(const mr_row *row) {
    cJSON *o = NULL;
    char *gold = NULL;
    if (row->json && mr_json_parse(&o, row->json, strlen(row->json), "row", NULL) == MR_OK) {
        const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, "answer");
        if (cJSON_IsString(v)) gold = mr_strdup(v->valuestring);
    }
    cJSON_Delete(o);
    return gold;
}

static mr_status on_answer(void *self, const mr_eval_answer *a, mr_err *err) {
    evaluating *x = self;
    mr_evaluation *e = &x->e;
    (void)err;
    if (a->at == e->n_rows) {
        if (e->n_rows == x->cap) {
            x->cap = x->cap ? 2 * x->cap : 256;
            e->rows = mr_realloc(e->rows, (size_t)x->cap * sizeof *e->rows);
        }
        mr_asked_row *r = &e->rows[e->n_rows++];
        *r = (mr_asked_row){ .row = a->row,
                             .source = mr_strdup(a->data->source ? a->data->source : ""),
                             .place = mr_strdup(a->data->place ? a->data->place : ""),
                             .gold = gold_of(a->data) };
        for (int i = 0; i < a->data->n_messages; i++) {
            if (strcmp(a->data->messages[i].role, "user") != 0) continue;
            mr_free(r->question);
            r->question = mr_strdup(a->data->messages[i].content);
        }
    }
    mr_asked_row *r = &e->rows[a->at];
    r->side[x->side].verdict = a->verdict;
    r->side[x->side].said = said_of(a->text);
    r->side[x->side].text = mr_strdup(a->text);
    r->side[x->side].n_tokens = a->n_tokens;
    r->side[x->side].truncated = a->truncated;
    return MR_OK;
}

static bool on_tick(void *self, int64_t done, int64_t total) {
    const evaluating *x = self;
    char text[96];
    snprintf(text, sizeof text, "%s  %lld of %lld rows",
             x->side == MR_BASE ? "base"
             : x->e.both        ? "tuned"
                                : "asking",
             (long long)done, (long long)total);
    mr_log_status(text);
    return mr_signals_seen() == 0;
}

/* Tokens of the longest prompt among the rows that are asked, and room for what they answer. */
static mr_status longest(evaluating *x, const mr_eval_opts *o, int64_t n_asked, int *most, mr_err *err) {
    const mr_chat_opts chat = { .add_generation_prompt = true };
    for (int64_t i = 0; i < n_asked; i++) {
        mr_row row = { 0 };
        mr_ids ids = { 0 };
        mr_status st = o->rows.get(o->rows.self, mr_eval_row(i, o->rows.n_rows, n_asked), &row, err);
        if (st == MR_OK)
            st = mr_chat_encode(x->parts.tokenizer, &ids, x->parts.chat, row.messages, row.n_messages, &chat, err);
        if (ids.n > *most) *most = ids.n;
        mr_free(ids.data);
        mr_row_clear(&row);
        MR_TRY(st);
    }
    return MR_OK;
}

static mr_status ask(evaluating *x, mr_row_source rows, mr_err *err) {
    const options *o = x->o;
    mr_parts *p = &x->parts;
    mr_evaluation *e = &x->e;
    const mr_config *c = mr_model_config(p->model);
    const int count = mr_tokenizer_count(p->tokenizer);
    const cJSON *trained =
        cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(p->run, "grpo"), "max_completion_length");
    mr_eval_opts eo = { .tokenizer = p->tokenizer,
                        .chat = p->chat,
                        .n_vocab = count < c->vocab_size ? count : c->vocab_size,
                        .rows = rows,
                        .judge = mr_pool_scorer(x->pool),
                        .limit = o->limit,
                        .batch = (int)o->batch,
                        .max_new = o->max_new                ? (int)o->max_new
                                   : cJSON_IsNumber(trained) ? trained->valueint
                                                             : DEFAULT_NEW,
                        .tick = on_tick,
                        .answer = on_answer,
                        .self = x };
    const int64_t n_asked = o->limit > 0 && o->limit < rows.n_rows ? o->limit : rows.n_rows;
    int most = 1;
    MR_TRY(longest(x, &eo, n_asked, &most, err));
    if (eo.max_new > c->max_position_embeddings - 1) eo.max_new = c->max_position_embeddings - 1;
    eo.max_prompt = most < c->max_position_embeddings - eo.max_new ? most : c->max_position_embeddings - eo.max_new;
    if (eo.batch > n_asked) eo.batch = (int)n_asked;
    e->n_all = rows.n_rows;
    e->max_new = eo.max_new;
    const mr_decoder_opts dopts = { .rollout_rows = eo.batch > MR_SPEAK_ROWS ? eo.batch : MR_SPEAK_ROWS,
                                    .rollout_slots = eo.batch * mr_rollout_slots(1, eo.max_prompt, 1, eo.max_new) };
    MR_TRY(mr_decoder_open(&eo.decoder, p->model, &dopts, err));
    mr_status st = MR_OK;
    for (x->side = 0; x->side < (e->both ? MR_SIDES : 1) && st == MR_OK; x->side++) {
        const double t0 = mr_now_s();
        if (e->both) mr_model_adapter(p->model, x->side == MR_TUNED);
        st = mr_evaluate(&e->counts[x->side], &eo, err);
        e->seconds[x->side] = mr_now_s() - t0;
    }
    mr_decoder_close(eo.decoder);
    mr_log_status(NULL);
    return st;
}

/* ---- the result ---- */

/* Every row with its texts, as JSON lines. */
static mr_status write_rows(const mr_evaluation *e, const char *path, mr_err *err) {
    static const char *const names[MR_SIDES] = { "tuned", "base" };
    mr_str s = { 0 };
    for (int i = 0; i < e->n_rows; i++) {
        const mr_asked_row *r = &e->rows[i];
        cJSON *o = cJSON_CreateObject();
        cJSON_AddNumberToObject(o, "row", (double)r->row);
        cJSON_AddStringToObject(o, "source", r->source);
        cJSON_AddStringToObject(o, "place", r->place);
        cJSON_AddStringToObject(o, "question", r->question ? r->question : "");
        if (r->gold) cJSON_AddStringToObject(o, "answer", r->gold);
        for (int k = 0; k < (e->both ? MR_SIDES : 1); k++) {
            cJSON *side = cJSON_AddObjectToObject(o, e->both || e->adapter ? names[k] : "model");
            cJSON_AddStringToObject(side, "completion", r->side[k].text);
            cJSON_AddItemToObject(side, "right",
                                  r->side[k].verdict == MR_UNJUDGED ? cJSON_CreateNull()
                                                                    : cJSON_CreateBool(r->side[k].verdict == MR_RIGHT));
            cJSON_AddBoolToObject(side, "invalid", r->side[k].verdict == MR_INVALID);
            cJSON_AddNumberToObject(side, "tokens", r->side[k].n_tokens);
            cJSON_AddBoolToObject(side, "truncated", r->side[k].truncated);
        }
        mr_json_put(&s, o);
        mr_str_puts(&s, "\n");
        cJSON_Delete(o);
    }
    mr_status st = mr_file_write(path, s.data ? s.data : "", s.len, err);
    mr_str_clear(&s);
    return st;
}

/* RUN/eval.json: `medrl report` shows it. */
static mr_status save(const evaluating *x, const cJSON *report, mr_err *err) {
    char *path = mr_path_join(x->e.what, "eval.json");
    mr_str s = { 0 };
    mr_json_put(&s, report);
    mr_str_puts(&s, "\n");
    mr_status st = mr_file_write(path, s.data, s.len, err);
    mr_str_clear(&s);
    mr_free(path);
    return st;
}

static mr_status evaluate(evaluating *x, const char *what, mr_err *err) {
    mr_row_source rows;
    mr_parts_opts po = x->o->parts;
    mr_evaluation *e = &x->e;
    po.need_chat = true;
    po.n_threads = (int)x->o->threads;
    e->what = what;
    MR_TRY(mr_parts_open(&x->parts, what, &po, err));
    e->model = x->parts.path;
    e->adapter = x->parts.adapter;
    e->device = x->parts.backend->device;
    e->both = x->parts.adapter && !x->o->no_base;
    MR_TRY(open_data(x, &rows, err));
    MR_TRY(ask(x, rows, err));
    if (!e->counts[0].judged)
        return mr_fail(err, MR_EDATA, "%s: no row has a gold answer in its column \"answer\", so nothing can be judged",
                       e->data);
    cJSON *report = mr_eval_report(e);
    mr_status st = MR_OK;
    if (x->o->rows_file) st = write_rows(e, x->o->rows_file, err);
    if (st == MR_OK && x->parts.run && !x->o->no_save) st = save(x, report, err);
    if (st == MR_OK && x->o->json) {
        mr_print_json(report);
    } else if (st == MR_OK) {
        mr_str text = { 0 };
        mr_eval_print(report, (int)x->o->flips, &text);
        fputs(text.data, stdout);
        mr_str_clear(&text);
    }
    cJSON_Delete(report);
    return st;
}

static void clear(evaluating *x) {
    for (int i = 0; i < x->e.n_rows; i++) {
        mr_asked_row *r = &x->e.rows[i];
        mr_free(r->source);
        mr_free(r->place);
        mr_free(r->question);
        mr_free(r->gold);
        for (int k = 0; k < MR_SIDES; k++) {
            mr_free(r->side[k].said);
            mr_free(r->side[k].text);
        }
    }
    mr_free(x->e.rows);
    mr_pool_close(x->pool);
    mr_parts_close(&x->parts);
    mr_arena_clear(&x->arena);
}

mr_status mr_cmd_eval(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "eval",
        "medrl eval outputs\n"
        "medrl eval outputs --data pubmedqa=test.jsonl --limit 500\n"
        "medrl eval smollm2-135m-instruct --data gsm8k=test.jsonl --json",
        "RUN|MODEL",
        1,
        1,
        "Greedy accuracy with its 95 % interval, by data set and by answer. Of a run: its data.eval, tuned and base "
        "side "
        "by side, with the rows that flipped; the result is kept in RUN/eval.json.\n"
        "GSM8K, PubMedQA, MedMCQA and Health_Benchmarks are read as their authors publish them (JSONL, JSON or CSV); "
        "any "
        "other data is a recipe's data.eval.",
    };
    options o = { .judge = MR_EVAL_JUDGE, .batch = DEFAULT_BATCH, .flips = 3 };
    const mr_opt opts[] = {
        { "data", 0, MR_OPT_LIST, "WHAT", "NAME=FILE, many times; or RECIPE, for its data.eval", &o.data, 0, 0 },
        { "limit", 0, MR_OPT_INT, "N", "rows to ask, evenly spaced (0: all)", &o.limit, 0, 1e9 },
        { "batch", 0, MR_OPT_INT, "N", "rows at once (32); changes no answer", &o.batch, 1, 4096 },
        { "max-new-tokens", 0, MR_OPT_INT, "N", "longest answer (the run's, else 512)", &o.max_new, 1, 1 << 20 },
        { "no-base", 0, MR_OPT_FLAG, NULL, "of a run, the tuned model only", &o.no_base, 0, 0 },
        { "flips", 0, MR_OPT_INT, "N", "rows to show of those that became right, and wrong (3)", &o.flips, 0, 1000 },
        { "rows", 0, MR_OPT_TEXT, "FILE", "every row with its completions, as JSON lines", &o.rows_file, 0, 0 },
        { "judge", 0, MR_OPT_TEXT, "REWARD", "who says what is right: 1, 0, -1 for no answer (eval_answer)", &o.judge,
          0, 0 },
        { "adapter", 0, MR_OPT_TEXT, "DIR", "PEFT adapter folder, or a run's folder", &o.parts.adapter, 0, 0 },
        { "set", 0, MR_OPT_LIST, "KEY=VALUE", "override a field of the recipe; may be given many times", &o.overrides,
          0, 0 },
        { "dtype", 0, MR_OPT_TEXT, "TYPE", "auto, f32, bf16 or f16", &o.parts.dtype, 0, 0 },
        { "store", 0, MR_OPT_TEXT, "TYPE", "weights in memory: auto, f32, bf16, f16 or nf4", &o.parts.store, 0, 0 },
        { "device", 0, MR_OPT_TEXT, "NAME", "auto, cpu or cuda:N", &o.parts.device, 0, 0 },
        MR_OPT_PULL,
        { "threads", 0, MR_OPT_INT, "N", "CPU threads (0: all)", &o.threads, 0, 1024 },
        { "no-save", 0, MR_OPT_FLAG, NULL, "leave RUN/eval.json as it is", &o.no_save, 0, 0 },
        { "json", 0, MR_OPT_FLAG, NULL, "as one JSON object", &o.json, 0, 0 },
    };
    mr_args a;
    evaluating x = { .o = &o };
    mr_status st = mr_args_parse(&a, &usage, opts, sizeof opts / sizeof opts[0], argc, argv, err);
    if (st == MR_OK && !a.help) {
        mr_signals_catch(NULL, NULL);
        st = evaluate(&x, a.items[0], err);
        if (st == MR_ESIGNAL)
            st = mr_fail(err, st, "eval: stopped by %s; nothing was kept", mr_signals_name(mr_signals_seen()));
        clear(&x);
    }
    mr_args_clear(&a);
    return st;
}
