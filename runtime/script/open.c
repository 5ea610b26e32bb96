/* open.c - loading a version of the scripts into its workers, and the data rows that come from them.
 *
 * Every worker loads the recipe with all rewards. The last one also holds the data, so that a reward that takes its
 * worker down never costs the scanned data sets. The same worker says what the recipe is and runs the cases. Where there
 * is no recipe there are no data: the last worker scores as well, and starts anew when cases ran in it. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "script/pool_impl.h"

static double slow_limit(const mr_pool *p) {
    return 5 * p->opts.deadline_s;
}
static mr_peer *data_peer(mr_version *v) {
    return &v->peers[v->n_peers - 1];
}
bool mr_pool_has_data(const mr_pool *p) {
    return p->recipe_arg != NULL;
}

mr_status mr_peer_load(mr_pool *p, mr_version *v, mr_peer *peer, bool cases, mr_frame *reply, mr_err *err) {
    mr_str s = { 0 };
    mr_put_u8(&s, p->opts.on_cpu);
    mr_put_u8(&s, cases);
    mr_put_u8(&s, p->recipe_arg ? MR_LOAD_RECIPE : MR_LOAD_BARE);
    mr_put_u32(&s, (uint32_t)p->n_overrides);
    for (int i = 0; i < p->n_overrides; i++) mr_put_bytes(&s, p->overrides[i], strlen(p->overrides[i]));
    mr_put_u32(&s, (uint32_t)p->n_rewards);
    for (int i = 0; i < p->n_rewards; i++) mr_put_bytes(&s, p->rewards[i], strlen(p->rewards[i]));
    mr_status st = mr_peer_call(p, v, peer, MR_WIRE_LOAD, &s, slow_limit(p), reply, err);
    mr_str_clear(&s);
    if (st == MR_EAGAIN) { /* the text that was asked for last is the one that did not come to an end */
        char why[sizeof err->msg];
        snprintf(why, sizeof why, "%s", err ? err->msg : "");
        st = mr_fail(err, MR_EINVAL, "%s: loading the file: %.500s; look for a loop that does not end",
                     v->texts.newest ? v->texts.newest->pub.name : p->display, why);
    }
    return st;
}

/* What the first worker says about the recipe and its rewards. */
static mr_status read_loaded(mr_version *v, const mr_frame *reply, const char *place, mr_err *err) {
    mr_take t = mr_take_frame(reply);
    size_t len;
    const char *json = mr_take_bytes(&t, &len);
    MR_TRY(mr_json_parse(&v->recipe, json, len, place, err));
    uint32_t n = mr_take_u32(&t);
    if (t.bad || n > 256) return mr_fail(err, MR_EINVAL, "%s: %u rewards, want at most 256", place, n);
    v->names = mr_alloc((n + 1) * sizeof *v->names);
    v->places = mr_alloc((n + 1) * sizeof *v->places);
    v->lows = mr_alloc((n + 1) * sizeof *v->lows);
    v->batch = mr_alloc((n + 1) * sizeof *v->batch);
    v->on_fault = mr_alloc((n + 1) * sizeof *v->on_fault);
    for (uint32_t i = 0; i < n; i++) {
        char name[64], file[160];
        mr_take_string(&t, name, sizeof name);
        mr_take_string(&t, file, sizeof file);
        v->names[i] = mr_strdup(name);
        v->places[i] = mr_strdup(file);
        v->lows[i] = mr_take_f64(&t);
        unsigned batch = mr_take_u8(&t), on_fault = mr_take_u8(&t);
        v->batch[i] = batch == 1;
        v->n_batch += v->batch[i];
        v->on_fault[i] = (mr_on_fault)on_fault;
        v->n_rewards = (int)i + 1;
        if (!isfinite(v->lows[i]) || !name[0] || batch > 1 || on_fault > MR_FAULT_STOPS)
            return mr_fail(err, MR_EINTERNAL, "%s: a worker's answer makes no sense", place);
    }
    const char *cases = mr_take_bytes(&t, &len);
    v->cases = mr_strndup(cases, len);
    if (t.at != t.end) t.bad = true;
    return t.bad ? mr_fail(err, MR_EINTERNAL, "%s: a worker's answer was cut", place) : MR_OK;
}

/* Lines "FILE<tab>NUMBER": whether any number is above 0. */
static bool ran_cases(const mr_version *v) {
    for (const char *tab = v->cases; tab && (tab = strchr(tab, '\t')); tab++)
        if (tab[1] != '0') return true;
    return false;
}

/* A worker of the same version, untouched: what a file keeps in its locals is none of the cases' doing when it scores. */
static mr_status renew(mr_pool *p, mr_version *v, mr_peer *peer, mr_err *err) {
    mr_frame reply;
    mr_peer_stop(peer);
    MR_TRY(mr_peer_start(p, peer, err));
    return mr_peer_load(p, v, peer, false, &reply, err);
}

mr_status mr_version_open(mr_pool *p, mr_version **out, bool cases, mr_err *err) {
    *out = NULL;
    mr_version *v = mr_alloc(sizeof *v);
    v->n_peers = p->opts.n_workers + mr_pool_has_data(p);
    v->peers = mr_alloc((size_t)v->n_peers * sizeof *v->peers);
    for (int i = 0; i < v->n_peers; i++) v->peers[i].proc.fd = -1;
    mr_status st = mr_texts_open(&v->texts, p->recipe_arg, (const char *const *)p->rewards, p->pinned, p->store, err);
    if (p->v) v->texts.before = &p->v->texts;
    const mr_text *main_text = NULL;
    if (st == MR_OK && p->recipe_arg) st = mr_texts_get(&v->texts, "@main", &main_text, err);
    for (int i = 0; st == MR_OK && i < v->n_peers; i++) st = mr_peer_start(p, &v->peers[i], err);
    mr_frame reply;
    if (st == MR_OK) st = mr_peer_load(p, v, data_peer(v), cases, &reply, err);
    if (st == MR_OK) st = read_loaded(v, &reply, main_text ? main_text->pub.name : p->display, err);
    if (st == MR_OK && !mr_pool_has_data(p) && ran_cases(v)) st = renew(p, v, data_peer(v), err);
    for (int i = 0; st == MR_OK && i < v->n_peers - 1; i++) st = mr_peer_load(p, v, &v->peers[i], false, &reply, err);
    if (st != MR_OK) {
        mr_pool_turn_down(p, v);
        return st;
    }
    *out = v;
    return MR_OK;
}

void mr_pool_turn_down(mr_pool *p, mr_version *v) {
    if (!v) return;
    mr_texts_close(&p->tried);
    p->tried = v->texts;
    p->tried.before = NULL;
    memset(&v->texts, 0, sizeof v->texts);
    mr_version_close(v);
}

void mr_version_close(mr_version *v) {
    if (!v) return;
    for (int i = 0; i < v->n_peers; i++) mr_peer_stop(&v->peers[i]);
    mr_free(v->peers);
    mr_texts_close(&v->texts);
    cJSON_Delete(v->recipe);
    for (int i = 0; i < v->n_rewards; i++) {
        if (v->names) mr_free(v->names[i]); /* NULL: handed on */
        mr_free(v->places[i]);
    }
    mr_free(v->names);
    mr_free(v->places);
    mr_free(v->lows);
    mr_free(v->cases);
    mr_free(v->batch);
    mr_free(v->on_fault);
    mr_free(v);
}

/* Weights of a recipe's rewards: beside their names, or as TRL's list; mr_settings_parse refuses both at once. */
mr_status mr_pool_weights(const mr_pool *p, const cJSON *recipe, int n, float *weights, mr_err *err) {
    const cJSON *entry = cJSON_GetObjectItemCaseSensitive(recipe, "rewards");
    entry = entry ? entry->child : NULL;
    for (int i = 0; i < n; i++, entry = entry ? entry->next : NULL) {
        const cJSON *own = cJSON_IsObject(entry) ? cJSON_GetObjectItemCaseSensitive(entry, "weight") : NULL;
        if (own && !(cJSON_IsNumber(own) && isfinite(own->valuedouble)))
            return mr_fail(err, MR_EINVAL, "%s: rewards[%d]: weight is %s, want a number", p->display, i + 1,
                           mr_json_type_name(own));
        weights[i] = own ? (float)own->valuedouble : 1.0f;
    }
    const cJSON *w = cJSON_GetObjectItemCaseSensitive(recipe, "reward_weights");
    if (!w) w = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(recipe, "grpo"), "reward_weights");
    if (!w) return MR_OK;
    if (!cJSON_IsArray(w) || cJSON_GetArraySize(w) != n)
        return mr_fail(err, MR_EINVAL, "%s: reward_weights is %s of %d, want a list of %d numbers, one a reward",
                       p->display, mr_json_type_name(w), cJSON_GetArraySize(w), n);
    for (int i = 0; i < n; i++) {
        const cJSON *x = cJSON_GetArrayItem(w, i);
        if (!cJSON_IsNumber(x) || !isfinite(x->valuedouble))
            return mr_fail(err, MR_EINVAL, "%s: reward_weights[%d] is %s, want a number", p->display, i + 1,
                           mr_json_type_name(x));
        weights[i] = (float)x->valuedouble;
    }
    return MR_OK;
}

mr_status mr_pool_open(mr_pool **out, const char *recipe, const mr_pool_opts *opts, mr_err *err) {
    *out = NULL;
    mr_pool *p = mr_alloc(sizeof *p);
    if (opts) p->opts = *opts;
    if (p->opts.n_workers <= 0) p->opts.n_workers = 2;
    if (p->opts.n_workers > 63) p->opts.n_workers = 63;
    if (!(p->opts.deadline_s > 0)) p->opts.deadline_s = 2;
    if (p->opts.memory_bytes == 0) p->opts.memory_bytes = (size_t)512 << 20;
    p->recipe_arg = mr_strdup(recipe);
    p->display = mr_strdup(recipe ? recipe : "--reward");
    while (p->opts.rewards && p->opts.rewards[p->n_rewards]) p->n_rewards++;
    p->rewards = mr_alloc((size_t)(p->n_rewards + 1) * sizeof *p->rewards);
    for (int i = 0; i < p->n_rewards; i++) p->rewards[i] = mr_strdup(p->opts.rewards[i]);
    p->opts.rewards = NULL;
    while (p->opts.overrides && p->opts.overrides[p->n_overrides]) p->n_overrides++;
    p->overrides = mr_alloc((size_t)(p->n_overrides + 1) * sizeof *p->overrides);
    for (int i = 0; i < p->n_overrides; i++) p->overrides[i] = mr_strdup(p->opts.overrides[i]);
    p->opts.overrides = NULL;
    if (p->opts.store) p->store = mr_strdup(p->opts.store);
    p->pinned = p->opts.pinned;
    mr_status st = mr_version_open(p, &p->v, !p->pinned, err);
    p->pinned = NULL;
    if (st == MR_OK) {
        p->base = cJSON_Duplicate(p->opts.base ? p->opts.base : p->v->recipe, true);
        if (recipe) {
            mr_free(p->display);
            p->display = mr_text_display_name(p->v->texts.main_path);
        }
        int n = p->v->n_rewards;
        p->weights = mr_alloc((size_t)(n + 1) * sizeof *p->weights);
        st = mr_pool_weights(p, p->v->recipe, n, p->weights, err);
    }
    if (st != MR_OK) {
        mr_pool_close(p);
        return st;
    }
    *out = p;
    return MR_OK;
}

void mr_pool_close(mr_pool *p) {
    if (!p) return;
    mr_version_close(p->v);
    for (int i = 0; i < p->n_splits; i++) {
        mr_free(p->splits[i]->name);
        mr_split_forget(p->splits[i]);
        mr_free(p->splits[i]);
    }
    for (int i = 0; i < p->n_overrides; i++) mr_free(p->overrides[i]);
    mr_free(p->overrides);
    for (int i = 0; i < p->n_rewards; i++) mr_free(p->rewards[i]);
    mr_free(p->rewards);
    mr_free(p->recipe_arg);
    mr_free(p->display);
    mr_free(p->weights);
    mr_free((void *)p->scripts);
    mr_free(p->jobs);
    mr_free(p->pending);
    mr_free(p->groups);
    mr_free(p->faults);
    cJSON_Delete(p->base);
    mr_texts_close(&p->tried);
    mr_free(p->store);
    mr_free(p->last_jobs);
    mr_arena_clear(&p->last_arena);
    for (int i = 0; i < p->n_old_names; i++) mr_free(p->old_names[i]);
    mr_free(p->old_names);
    mr_arena_clear(&p->arena);
    mr_free(p);
}

void mr_pool_store(mr_pool *p, const char *folder) {
    mr_free(p->store);
    p->store = mr_strdup(folder);
}

const cJSON *mr_pool_recipe(const mr_pool *p) {
    return p->v->recipe;
}
const char *mr_pool_recipe_path(const mr_pool *p) {
    return p->display;
}

int mr_pool_sandbox(const mr_pool *p, const char **missing) {
    const mr_sandbox *lowest = &p->v->peers[0].sandbox;
    for (int i = 1; i < p->v->n_peers; i++) {
        if (p->v->peers[i].sandbox.level < lowest->level) lowest = &p->v->peers[i].sandbox;
    }
    if (missing) *missing = lowest->missing;
    return lowest->level;
}

const mr_script_text *mr_pool_scripts(const mr_pool *p, int *n) {
    mr_pool *q = (mr_pool *)p; /* the list is put together when it is asked for */
    const mr_texts *t = &p->v->texts;
    mr_free((void *)q->scripts);
    mr_script_text *list = mr_alloc((size_t)(t->n + 1) * sizeof *list);
    for (int i = 0; i < t->n; i++) list[i] = t->list[i]->pub;
    q->scripts = list;
    *n = t->n;
    return list;
}

/* --- rows --- */

void mr_split_forget(mr_split *s) {
    mr_free(s->report);
    mr_free(s->counts);
    s->report = s->counts = NULL;
}

mr_status mr_peer_open_split(mr_pool *p, mr_version *v, const char *name, mr_split *out, mr_err *err) {
    if (!mr_pool_has_data(p)) {
        out->n_rows = 0;
        out->report = mr_strdup("");
        out->counts = mr_strdup("[]");
        return MR_OK;
    }
    mr_str s = { 0 };
    mr_put_bytes(&s, name, strlen(name));
    mr_frame reply;
    mr_status st = mr_peer_call(p, v, data_peer(v), MR_WIRE_ROWS, &s, slow_limit(p), &reply, err);
    mr_str_clear(&s);
    if (st == MR_EAGAIN) return mr_wrap(err, MR_EDATA, "%s: data.%s", p->display, name);
    MR_TRY(st);
    mr_take t = mr_take_frame(&reply);
    out->n_rows = mr_take_i64(&t);
    size_t len, n_counts;
    const char *text = mr_take_bytes(&t, &len), *counts = mr_take_bytes(&t, &n_counts);
    if (t.bad || out->n_rows < 0)
        return mr_fail(err, MR_EINTERNAL, "%s: data.%s: a worker's answer was cut", p->display, name);
    out->report = mr_strndup(text, len);
    out->counts = mr_strndup(counts, n_counts);
    return MR_OK;
}

/* The data worker is gone (a row function took it down): a new one, with the splits that were open. */
static mr_status revive_data(mr_pool *p, mr_err *err) {
    mr_peer *peer = data_peer(p->v);
    if (peer->alive || !mr_pool_has_data(p)) return MR_OK;
    mr_peer_stop(peer);
    MR_TRY(mr_peer_start(p, peer, err));
    mr_frame reply;
    MR_TRY(mr_peer_load(p, p->v, peer, false, &reply, err));
    for (int i = 0; i < p->n_splits; i++) {
        mr_split known = { 0 };
        mr_status st = mr_peer_open_split(p, p->v, p->splits[i]->name, &known, err);
        mr_split_forget(&known);
        MR_TRY(st);
    }
    return MR_OK;
}

static mr_status fill_row(mr_row *out, const mr_frame *reply, const char *place, mr_err *err) {
    mr_take t = mr_take_frame(reply);
    size_t n_messages, n_row, n_source, n_from;
    const char *messages = mr_take_bytes(&t, &n_messages), *row = mr_take_bytes(&t, &n_row),
               *source = mr_take_bytes(&t, &n_source), *from = mr_take_bytes(&t, &n_from);
    if (t.bad) return mr_fail(err, MR_EINTERNAL, "%s: a worker's answer was cut", place);
    cJSON *tree;
    MR_TRY(mr_json_parse(&tree, messages, n_messages, place, err));
    mr_status st = MR_OK;
    int n = cJSON_GetArraySize(tree);
    out->messages = mr_arena_alloc(&out->arena, (size_t)(n + 1) * sizeof *out->messages);
    for (const cJSON *m = tree->child; m && st == MR_OK; m = m->next) {
        const char *role, *content;
        st = mr_json_get_string(&role, m, "role", place, err);
        if (st == MR_OK) st = mr_json_get_string(&content, m, "content", place, err);
        if (st != MR_OK) break;
        mr_message *to = &out->messages[out->n_messages++];
        to->role = mr_arena_strdup(&out->arena, role, strlen(role));
        to->content = mr_arena_strdup(&out->arena, content, strlen(content));
    }
    cJSON_Delete(tree);
    out->json = mr_arena_strdup(&out->arena, row, n_row);
    out->source = mr_arena_strdup(&out->arena, source, n_source);
    out->place = mr_arena_strdup(&out->arena, from, n_from);
    return st;
}

static mr_status source_get(void *self, int64_t index, mr_row *out, mr_err *err) {
    mr_split *split = self;
    mr_pool *p = split->pool;
    memset(out, 0, sizeof *out);
    if (index < 0 || index >= split->n_rows)
        return mr_fail(err, MR_EDATA, "%s: data.%s has no row %lld, it has %lld", p->display, split->name,
                       (long long)index, (long long)split->n_rows);
    MR_TRY(revive_data(p, err));
    mr_str s = { 0 };
    mr_put_bytes(&s, split->name, strlen(split->name));
    mr_put_i64(&s, index);
    mr_frame reply;
    mr_status st = mr_peer_call(p, p->v, data_peer(p->v), MR_WIRE_ROW, &s, p->opts.deadline_s, &reply, err);
    mr_str_clear(&s);
    char place[256];
    snprintf(place, sizeof place, "%s: data.%s row %lld", p->display, split->name, (long long)index);
    if (st == MR_EAGAIN) return mr_wrap(err, MR_EDATA, "%s", place);
    if (st == MR_OK) st = fill_row(out, &reply, place, err);
    if (st != MR_OK) mr_row_clear(out);
    return st;
}

mr_status mr_pool_rows(mr_pool *p, const char *split, mr_row_source *out, mr_err *err) {
    memset(out, 0, sizeof *out);
    mr_split *s = NULL;
    for (int i = 0; i < p->n_splits; i++) {
        if (strcmp(p->splits[i]->name, split) == 0) s = p->splits[i];
    }
    if (!s) {
        if (p->n_splits == (int)(sizeof p->splits / sizeof p->splits[0]))
            return mr_fail(err, MR_EINVAL, "%s: too many splits", p->display);
        MR_TRY(revive_data(p, err));
        mr_split opened = { .pool = p };
        MR_TRY(mr_peer_open_split(p, p->v, split, &opened, err));
        opened.name = mr_strdup(split);
        s = mr_alloc(sizeof *s);
        *s = opened;
        p->splits[p->n_splits++] = s;
    }
    *out = (mr_row_source){ .self = s, .n_rows = s->n_rows, .get = source_get };
    return MR_OK;
}

mr_status mr_pool_data_report(mr_pool *p, const char *split, mr_str *out, mr_err *err) {
    mr_row_source unused;
    MR_TRY(mr_pool_rows(p, split, &unused, err));
    for (int i = 0; i < p->n_splits; i++) {
        if (strcmp(p->splits[i]->name, split) == 0) mr_str_puts(out, p->splits[i]->report);
    }
    return MR_OK;
}

mr_status mr_pool_data_counts(mr_pool *p, const char *split, cJSON **out, mr_err *err) {
    mr_row_source rows;
    *out = NULL;
    MR_TRY(mr_pool_rows(p, split, &rows, err));
    if (!rows.self) return mr_fail(err, MR_EINTERNAL, "data.%s is not open", split);
    const char *counts = ((mr_split *)rows.self)->counts;
    return mr_json_parse(out, counts, strlen(counts), split, err);
}

/* Adds the counts of one block to those of the blocks before. Answers of a source beyond so many different ones are
 * counted together: free text is not to be searched through again and again. */
enum { MAX_ANSWERS = 200 };

static void add_answers(cJSON *sum, const cJSON *block) {
    for (const cJSON *source = block->child; source; source = source->next) {
        cJSON *to = cJSON_GetObjectItemCaseSensitive(sum, source->string);
        if (!to) to = cJSON_AddObjectToObject(sum, source->string);
        for (const cJSON *answer = source->child; answer; answer = answer->next) {
            const char *name = answer->string;
            cJSON *n = cJSON_GetObjectItemCaseSensitive(to, name);
            if (!n && cJSON_GetArraySize(to) >= MAX_ANSWERS) {
                name = MR_OTHER_ANSWERS;
                n = cJSON_GetObjectItemCaseSensitive(to, name);
            }
            if (n)
                cJSON_SetNumberValue(n, n->valuedouble + answer->valuedouble);
            else
                cJSON_AddNumberToObject(to, name, answer->valuedouble);
        }
    }
}

static mr_status take_block(mr_survey *s, int64_t from, int64_t n, const mr_frame *reply, const char *place,
                            mr_err *err) {
    mr_take t = mr_take_frame(reply);
    size_t n_keys, n_found;
    const char *keys = mr_take_bytes(&t, &n_keys), *found = mr_take_bytes(&t, &n_found);
    if (t.bad || n_keys != (size_t)n * sizeof *s->keys)
        return mr_fail(err, MR_EINTERNAL, "%s: a worker's answer was cut", place);
    memcpy(s->keys + from, keys, n_keys);
    cJSON *tree;
    const char *text;
    double failed = 0;
    MR_TRY(mr_json_parse(&tree, found, n_found, place, err));
    mr_status st = mr_json_get_number(&failed, tree, "failed", place, err);
    if (st == MR_OK) st = mr_json_opt_string(&text, tree, "first_failure", "", place, err);
    if (st == MR_OK) {
        if (s->n_failed == 0) snprintf(s->first_failure, sizeof s->first_failure, "%s", text);
        s->n_failed += (int64_t)failed;
        add_answers(s->answers, cJSON_GetObjectItemCaseSensitive(tree, "sources"));
        s->n = from + n;
    }
    cJSON_Delete(tree);
    return st;
}

mr_status mr_pool_survey(mr_pool *p, const char *split, int64_t max_rows, double max_s, mr_survey *out, mr_err *err) {
    enum { BLOCK = 2048 };
    memset(out, 0, sizeof *out);
    mr_row_source rows;
    MR_TRY(mr_pool_rows(p, split, &rows, err));
    int64_t n_rows = rows.n_rows < max_rows ? rows.n_rows : max_rows;
    out->answers = cJSON_CreateObject();
    out->keys = mr_try_alloc((size_t)(n_rows + 1) * sizeof *out->keys);
    mr_status st = MR_OK;
    if (!out->keys) st = mr_fail(err, MR_ENOMEM, "no memory for the keys of %lld rows", (long long)n_rows);
    double start = mr_now_s();
    for (int64_t from = 0; st == MR_OK && from < n_rows && mr_now_s() - start < max_s; from += BLOCK) {
        int64_t n = n_rows - from < BLOCK ? n_rows - from : BLOCK;
        st = revive_data(p, err);
        if (st != MR_OK) break;
        mr_str s = { 0 };
        mr_put_bytes(&s, split, strlen(split));
        mr_put_i64(&s, from);
        mr_put_i64(&s, n);
        mr_frame reply;
        st = mr_peer_call(p, p->v, data_peer(p->v), MR_WIRE_SURVEY, &s, slow_limit(p), &reply, err);
        mr_str_clear(&s);
        if (st == MR_OK) st = take_block(out, from, n, &reply, split, err);
        if (st == MR_EAGAIN)
            st = mr_wrap(err, MR_EDATA, "%s: data.%s rows %lld to %lld", p->display, split, (long long)from + 1,
                         (long long)(from + n));
    }
    if (st != MR_OK) mr_survey_clear(out);
    return st;
}

void mr_survey_clear(mr_survey *s) {
    mr_free(s->keys);
    cJSON_Delete(s->answers);
    memset(s, 0, sizeof *s);
}

mr_status mr_script_sandbox(int *level, char *missing, size_t missing_bytes, mr_err *err) {
    mr_pool p = { .opts = { .memory_bytes = (size_t)64 << 20 } };
    mr_version v = { 0 };
    mr_peer peer = { .proc = { 0, -1 } };
    MR_TRY(mr_peer_start(&p, &peer, err));
    mr_str nothing = { 0 };
    mr_frame reply;
    mr_err why = { .msg = "" };
    /* Any command would do: READY comes before its answer. This one asks for rows of a recipe that is not there. */
    mr_peer_call(&p, &v, &peer, MR_WIRE_ROWS, &nothing, 5, &reply, &why);
    *level = peer.sandbox.level;
    snprintf(missing, missing_bytes, "%s", peer.sandbox.missing);
    mr_peer_stop(&peer);
    return *level > 0 ? MR_OK : mr_fail(err, MR_EINTERNAL, "a worker did not start: %s", why.msg);
}
