/* reload.c - a saved script takes over between two steps, or is refused with one line; and `medrl test`.
 *
 * A reload builds a complete second version: texts read anew, new workers, cases run, the last batch scored. Only when
 * all of that went well are the workers of the old one ended: all of them or none. A version of which a file is still
 * being written is looked at again; one that was refused is not, until something is saved. The worker that holds the
 * data moves over when nothing changed that the rows come from: a scan of large files takes seconds. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/log.h"
#include "rl/settings.h"
#include "script/pool_impl.h"

enum { TRIAL_JOBS = 256 };
static const double YOUNG_LIMIT_S = 1.0; /* files that do not load and keep changing are told of after so long */

/* --- what the new version is to the run --- */

typedef struct change {
    const cJSON *detail; /* a reload that is repeated; NULL: the files on disk */
    mr_version *v;
    cJSON *live;       /* settings that change */
    mr_str fixed;      /* settings that would, and stay */
    mr_str batch;      /* what the last batch says */
    bool keep_data;    /* the old data worker goes on */
    bool rows;         /* data.train has another length */
    bool same;         /* what was read is what is in use: a file was put back between the look and the reading */
    mr_split opened[8]; /* what the open splits would be: n_rows, report, counts */
} change;

static void change_clear(mr_pool *p, change *c) {
    mr_pool_turn_down(p, c->v);
    cJSON_Delete(c->live);
    mr_str_clear(&c->fixed);
    mr_str_clear(&c->batch);
    for (int i = 0; i < 8; i++) mr_split_forget(&c->opened[i]);
}

/* Field by field against the recipe in use. Recipes that only list rewards (tests, `medrl data`) have no settings. */
static mr_status compare_settings(mr_pool *p, change *c, int *per_step, mr_err *err) {
    mr_settings start, was, now;
    *per_step = 1;
    if (mr_settings_parse(&start, p->base, p->display, NULL) != MR_OK) return MR_OK;
    *per_step = start.train.prompts_per_step;
    mr_status st = mr_settings_parse(&now, c->v->recipe, p->display, err);
    if (st == MR_OK && now.method != start.method)
        st = mr_fail(err, MR_EINVAL, "%s: method is another one now, but a run is of one kind; start a new run for it",
                     p->display);
    if (st == MR_OK && mr_settings_parse(&was, p->v->recipe, p->display, NULL) == MR_OK) {
        c->live = cJSON_CreateObject();
        mr_settings_diff(&start, &was, &now, c->live, &c->fixed);
        mr_settings_clear(&was);
    }
    mr_settings_clear(&now); /* zeroed after a failure */
    mr_settings_clear(&start);
    return st;
}

static bool differs(const change *c, const mr_text *x) {
    if (!c->detail) return x->changed;
    const char *sha = mr_detail_hash(c->detail, x->module);
    return sha && strcmp(sha, x->pub.sha256) != 0;
}

static bool is_reward_text(const mr_text *x) {
    if (x->module[0] == '@') return strcmp(x->module, "@main") != 0; /* a file that the command named as a reward */
    return strncmp(x->module, "rewards.", 8) == 0 || strncmp(x->module, "rewards/", 8) == 0;
}

/* Whether the section `data` says all about the rows: without functions of the recipe's own and lists in it. */
static bool is_plain_data(const cJSON *data) {
    char *text = cJSON_PrintUnformatted(data);
    const bool plain = text && !strstr(text, ".lua:") && !strstr(text, "list of ") && !strstr(text, ":select(") &&
                       !strstr(text, "\"function\"");
    cJSON_free(text);
    return plain;
}

static bool data_is_the_same(const mr_pool *p, const change *c) {
    for (int i = 0; i < p->v->texts.n; i++) {
        const mr_text *x = p->v->texts.list[i];
        const bool is_main = strcmp(x->module, "@main") == 0;
        if (!is_main && !is_reward_text(x)) {
            if (differs(c, x)) return false;
            if (strncmp(x->module, "medrl.", 6) != 0 && strstr(x->pub.text, "rewards.")) return false;
        }
        if (is_main && strstr(x->pub.text, "\"rewards.")) return false; /* may require one for its rows */
    }
    const cJSON *was = cJSON_GetObjectItemCaseSensitive(p->v->recipe, "data"),
                *now = cJSON_GetObjectItemCaseSensitive(c->v->recipe, "data");
    const mr_text *main_text = mr_texts_find(&p->v->texts, "@main");
    if (main_text && !differs(c, main_text)) return true;
    return (!was && !now) || (mr_json_equal(was, now) && is_plain_data(now));
}

static mr_status open_data(mr_pool *p, change *c, int per_step, mr_err *err) {
    c->keep_data = data_is_the_same(p, c);
    for (int i = 0; !c->keep_data && i < p->n_splits; i++) {
        const mr_split *s = p->splits[i];
        MR_TRY(mr_peer_open_split(p, c->v, s->name, &c->opened[i], err));
        const int64_t n = c->opened[i].n_rows;
        if (strcmp(s->name, "train") != 0) continue;
        if (n < per_step && n != s->n_rows)
            return mr_fail(err, MR_EINVAL, "%s: data.train has %lld row%s now, a step takes %d", p->display,
                           (long long)n, n == 1 ? "" : "s", per_step);
        c->rows = n != s->n_rows;
    }
    return MR_OK;
}

/* --- the last batch --- */

static int reward_of(const mr_version *v, const char *name) {
    for (int i = 0; i < v->n_rewards; i++)
        if (strcmp(v->names[i], name) == 0) return i;
    return -1;
}

const mr_fault *mr_pool_new_fault(const mr_pool *p) {
    for (int i = 0; i < p->n_fault_texts; i++) {
        const mr_fault *f = &p->faults[i];
        const int was = reward_of(p->in_use, p->v->names[f->reward]);
        if (was < 0 || p->last_jobs[f->id]->scores[was].kind != MR_FAULT) return f;
    }
    return NULL;
}

static double mean_of(const mr_score *scores, int n, int n_rewards, int reward) {
    double sum = 0;
    int have = 0;
    for (int i = 0; i < n; i++) {
        const mr_score *s = &scores[i * n_rewards + reward];
        if (s->kind == MR_ABSTAINED) continue;
        sum += s->value;
        have++;
    }
    return have ? sum / have : (double)NAN;
}

/* "x 0.41 -> 0.55" for each reward whose mean is another one. */
static void tell_means(const mr_pool *p, const change *c, const mr_score *now, int n, mr_str *out) {
    const mr_version *old = p->in_use;
    mr_score *was = mr_alloc((size_t)(n * old->n_rewards + 1) * sizeof *was);
    for (int i = 0; i < n; i++)
        memcpy(was + i * old->n_rewards, p->last_jobs[i]->scores, (size_t)old->n_rewards * sizeof *was);
    for (int i = 0; i < c->v->n_rewards; i++) {
        const int k = reward_of(old, c->v->names[i]);
        const double a = k < 0 ? (double)NAN : mean_of(was, n, old->n_rewards, k),
                     b = mean_of(now, n, c->v->n_rewards, i);
        if (fabs(a - b) < 0.005 || (isnan(a) && isnan(b))) continue;
        mr_str_printf(out, "%s%s ", out->len ? ", " : "", c->v->names[i]);
        if (isnan(a))
            mr_str_puts(out, "-");
        else
            mr_str_printf(out, "%.2f", a);
        if (isnan(b))
            mr_str_puts(out, " -> -");
        else
            mr_str_printf(out, " -> %.2f", b);
    }
    if (!out->len) mr_str_puts(out, "the same");
    mr_free(was);
}

/* Faults are described up to a number; what is beyond it is found by what became of each sample. */
static mr_status check_scores(const mr_pool *p, const change *c, const mr_score *now, int n, mr_err *err) {
    const mr_version *v = c->v;
    for (int i = 0; i < n * v->n_rewards; i++) {
        const int sample = i / v->n_rewards, reward = i % v->n_rewards, was = reward_of(p->in_use, v->names[reward]);
        if (now[i].kind != MR_FAULT || (was >= 0 && p->last_jobs[sample]->scores[was].kind == MR_FAULT)) continue;
        return mr_fail(err, MR_EINVAL, "%s: fails on sample %d of the last batch, which had a score", v->places[reward],
                       sample);
    }
    return MR_OK;
}

/* The samples of the last batch (TRIAL_JOBS of them, and the rest of the last group) scored by the new workers. MR_EINVAL: a fault that the
 * version in use did not have there. */
static mr_status try_batch(mr_pool *p, change *c, mr_err *err) {
    int n = p->n_last < TRIAL_JOBS ? p->n_last : TRIAL_JOBS;
    while (n > 0 && n < p->n_last && p->last_jobs[n]->in.n_group != 0 &&
           p->last_jobs[n]->in.group == p->last_jobs[n - 1]->in.group)
        n++; /* whole groups, the first one however large it is */
    if (n == 0) return MR_OK;
    mr_score *scores = mr_alloc((size_t)(n * c->v->n_rewards + 1) * sizeof *scores);
    p->in_use = p->v;
    p->v = c->v; /* scoring works on p->v */
    p->trial = true;
    const mr_scorer sc = mr_pool_scorer(p);
    mr_status st = MR_OK;
    int submitted = 0, n_faults;
    for (; submitted < n && st == MR_OK; submitted++) {
        mr_score_job job = p->last_jobs[submitted]->in;
        job.id = submitted;
        st = sc.submit(sc.self, &job, err);
    }
    mr_err second;
    mr_status end = sc.collect(sc.self, scores, submitted, NULL, 0, &n_faults, st == MR_OK ? err : &second);
    if (st == MR_OK) st = end;
    p->trial = false;
    p->v = p->in_use;
    if (st == MR_OK) st = check_scores(p, c, scores, n, err);
    if (st == MR_OK) {
        tell_means(p, c, scores, n, &c->batch);
        for (int i = 0; i < n; i++) { /* the batch is from now on one of the new version's */
            p->last_jobs[i]->scores = mr_arena_alloc(&p->last_arena, (size_t)(c->v->n_rewards + 1) * sizeof *scores);
            memcpy(p->last_jobs[i]->scores, scores + i * c->v->n_rewards, (size_t)c->v->n_rewards * sizeof *scores);
        }
        p->n_last = n;
    }
    p->in_use = NULL;
    mr_free(scores);
    return st;
}

/* --- taking over --- */

static bool same_names(const mr_version *a, const mr_version *b) {
    bool same = a->n_rewards == b->n_rewards;
    for (int i = 0; same && i < a->n_rewards; i++) same = strcmp(a->names[i], b->names[i]) == 0;
    return same;
}

/* The trainer and what it tells hold the names by pointer: arrays and strings stay as long as the pool does. */
static void hand_names(mr_pool *p, mr_version *v) {
    mr_version *old = p->v;
    if (same_names(old, v)) {
        char **names = v->names;
        v->names = old->names;
        old->names = names;
        return;
    }
    p->old_names = mr_realloc(p->old_names, (size_t)(p->n_old_names + old->n_rewards + 1) * sizeof *p->old_names);
    for (int i = 0; i < old->n_rewards; i++) p->old_names[p->n_old_names++] = old->names[i];
    p->old_names[p->n_old_names++] = (char *)old->names; /* and the array itself */
    old->names = NULL;
}

static void hand_data(mr_pool *p, change *c) {
    mr_version *v = c->v;
    for (int i = 0; i < p->n_splits && !c->keep_data; i++) {
        mr_split *s = p->splits[i], *now = &c->opened[i];
        mr_split_forget(s);
        s->n_rows = now->n_rows, s->report = now->report, s->counts = now->counts;
        now->report = now->counts = NULL;
    }
    if (!c->keep_data || !mr_pool_has_data(p)) return;
    mr_peer *mine = &v->peers[v->n_peers - 1], *old = &p->v->peers[p->v->n_peers - 1], swap = *mine;
    *mine = *old;
    *old = swap;
    for (int i = 0; i < p->v->texts.n; i++) { /* what the data worker runs is still in use */
        const mr_text *x = p->v->texts.list[i];
        if (!is_reward_text(x) && !mr_texts_find(&v->texts, x->module)) mr_texts_add_copy(&v->texts, x);
    }
}

static void take_over(mr_pool *p, change *c, float *weights) {
    mr_version *v = c->v;
    hand_data(p, c);
    hand_names(p, v);
    mr_free(p->weights);
    p->weights = weights;
    v->texts.before = NULL;
    mr_version_close(p->v);
    p->v = v;
    c->v = NULL;
}

/* Without medrl's own, which do not change, and of which a new version has not loaded what opens rows. */
static bool same_texts(const mr_texts *a, const mr_texts *b) {
    bool same = true;
    int n = 0; /* of b that are not found in a */
    for (int i = 0; i < b->n; i++) n += !mr_text_is_own(b->list[i]);
    for (int i = 0; same && i < a->n; i++) {
        if (mr_text_is_own(a->list[i])) continue;
        const mr_text *x = mr_texts_find(b, a->list[i]->module);
        same = x && strcmp(x->pub.sha256, a->list[i]->pub.sha256) == 0 && strcmp(x->pub.name, a->list[i]->pub.name) == 0;
        n--;
    }
    return same && n == 0;
}

static mr_status build(mr_pool *p, change *c, mr_err *err) {
    int per_step;
    float *weights = NULL;
    p->pinned = c->detail;
    mr_status st = mr_version_open(p, &c->v, !c->detail, err);
    p->pinned = NULL;
    c->same = st == MR_OK && !c->detail && same_texts(&c->v->texts, &p->v->texts);
    if (c->same) return MR_OK;
    if (st == MR_OK) st = compare_settings(p, c, &per_step, err);
    if (st == MR_OK && c->v->n_rewards == 0 && p->v->n_rewards > 0)
        st = mr_fail(err, MR_EINVAL, "%s: rewards is empty, need at least one", p->display);
    if (st == MR_OK) {
        weights = mr_alloc((size_t)(c->v->n_rewards + 1) * sizeof *weights);
        st = mr_pool_weights(p, c->v->recipe, c->v->n_rewards, weights, err);
    }
    if (st == MR_OK) st = open_data(p, c, per_step, err);
    if (st == MR_OK && !c->detail) st = try_batch(p, c, err);
    if (st == MR_OK)
        take_over(p, c, weights);
    else
        mr_free(weights);
    return st;
}

/* --- telling --- */

cJSON *mr_pool_describe(void *self) {
    const mr_pool *p = self;
    cJSON *detail = cJSON_CreateObject();
    mr_texts_describe(&p->v->texts, detail);
    return detail;
}

/* One line "FILE<tab>NUMBER" of what a worker said, which is nothing to rely on; NULL: there is no further one. */
static const char *next_case(const char **at, size_t *name_len, int *n) {
    const char *line = *at, *tab = line ? strchr(line, '\t') : NULL;
    if (!tab) return NULL;
    const char *end = strchr(tab, '\n');
    *name_len = (size_t)(tab - line);
    *n = atoi(tab + 1);
    if (*n < 0 || *n > 1000000) *n = 0;
    *at = end ? end + 1 : NULL;
    return line;
}

/* How many cases passed of the changed files; a module that others require has none of its own: of all, then. */
static int count_cases(const mr_version *v, const char *what) {
    int of_all = 0, of_changed = 0, n;
    bool known = true;
    size_t name_len;
    const char *line, *rest;
    for (const char *at = what; *at && known;) {
        const size_t len = strcspn(at, ",");
        known = false;
        for (rest = v->cases; (line = next_case(&rest, &name_len, &n));) {
            if (name_len != len || memcmp(line, at, len) != 0) continue;
            known = true;
            of_changed += n;
        }
        at += len + (at[len] ? 2 : 0);
    }
    for (rest = v->cases; (line = next_case(&rest, &name_len, &n));) of_all += n;
    return known ? of_changed : of_all;
}

static void tell(mr_pool *p, change *c, const char *what, mr_reload *out) {
    out->taken = true;
    out->rows = c->rows;
    mr_str_printf(&out->note, "%s: taken over (", what);
    const int n_cases = count_cases(p->v, what);
    if (n_cases)
        mr_str_printf(&out->note, "%d case%s passed", n_cases, n_cases == 1 ? "" : "s");
    else
        mr_str_puts(&out->note, "no cases");
    if (c->batch.len) mr_str_printf(&out->note, "; last batch: %s", c->batch.data);
    mr_str_puts(&out->note, ")");
    for (int i = 0; c->rows && i < p->n_splits; i++)
        if (strcmp(p->splits[i]->name, "train") == 0)
            mr_str_printf(&out->note, "; data.train has %lld rows now, their order begins anew",
                          (long long)p->splits[i]->n_rows);
    if (c->fixed.len)
        mr_str_printf(&out->note, "; %s: %s: cannot change in a run, the old value stays", p->display, c->fixed.data);
    if (c->live && c->live->child) {
        out->settings = c->live;
        c->live = NULL;
    }
    out->detail = cJSON_CreateObject();
    cJSON *list = cJSON_AddArrayToObject(out->detail, "changed");
    for (const char *at = what; *at;) {
        const char *comma = strstr(at, ", ");
        char *name = mr_strndup(at, comma ? (size_t)(comma - at) : strlen(at));
        cJSON_AddItemToArray(list, cJSON_CreateString(name));
        mr_free(name);
        at = comma ? comma + 2 : at + strlen(at);
    }
    mr_texts_describe(&p->v->texts, out->detail);
}

mr_status mr_pool_between_steps(void *self, int64_t step, mr_reload *out, mr_err *err) {
    (void)step;
    (void)err;
    mr_pool *p = self;
    mr_str what = { 0 };
    uint64_t signature;
    bool young;
    if (!mr_texts_changed(&p->v->texts, &what, &signature, &young)) {
        p->refused = 0;
        p->young_since = 0;
    } else if (signature != p->refused || mr_texts_mended(&p->tried)) { /* else: turned down, and nothing saved since */
        change c = { 0 };
        mr_err why = { .msg = "" };
        const double now = mr_now_s();
        if (build(p, &c, &why) == MR_OK) {
            if (!c.same) tell(p, &c, what.data, out);
            p->refused = 0;
            p->young_since = 0;
            change_clear(p, &c);
        } else {
            change_clear(p, &c); /* p->tried is from here on what was read */
            /* Perhaps it was half written, at the look or when it was read a moment later: looked at again. */
            young = young || mr_texts_mended(&p->tried);
            if (young && (p->young_since == 0 || now - p->young_since < YOUNG_LIMIT_S)) {
                if (p->young_since == 0) p->young_since = now;
            } else {
                p->refused = signature;
                p->young_since = young ? now : 0;
                out->refused = true;
                mr_str_printf(&out->note, "%s; the version in use stays (changed: %s)", why.msg, what.data);
            }
        }
    }
    mr_str_clear(&what);
    return MR_OK;
}

mr_status mr_pool_replay(void *self, const cJSON *detail, mr_reload *out, mr_err *err) {
    mr_pool *p = self;
    if (!p->store) return mr_fail(err, MR_EINVAL, "%s: the texts of the run are not at hand", p->display);
    change c = { .detail = detail };
    mr_status st = build(p, &c, err);
    if (st == MR_OK) {
        tell(p, &c, "", out);
        cJSON_Delete(out->detail); /* told as it was recorded */
        out->detail = cJSON_Duplicate(detail, true);
    }
    change_clear(p, &c);
    return st;
}

mr_status mr_pool_again(void *self, mr_scorer *scorer, mr_row_source *rows, mr_err *err) {
    mr_pool *p = self;
    *scorer = mr_pool_scorer(p);
    return mr_pool_rows(p, "train", rows, err);
}

/* --- medrl test --- */

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

typedef struct name_list {
    char **items;
    int n, cap;
} name_list;

static void add_name(name_list *l, char *name) {
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 32;
        l->items = mr_realloc(l->items, (size_t)l->cap * sizeof *l->items);
    }
    l->items[l->n++] = name;
}

static void clear_names(name_list *l) {
    for (int i = 0; i < l->n; i++) mr_free(l->items[i]);
    mr_free(l->items);
}

/* Every .lua file at or below path, but annotations (.d.lua) and what lies in hidden folders. Links to folders are not
 * followed. */
static mr_status find_lua(name_list *out, const char *path, int depth, mr_err *err) {
    struct stat s;
    if (lstat(path, &s) != 0) return mr_fail_errno(err, "%s", path);
    if (!S_ISDIR(s.st_mode)) {
        if (depth == 0 || (mr_ends_with(path, ".lua") && !mr_ends_with(path, ".d.lua"))) add_name(out, mr_strdup(path));
        return MR_OK;
    }
    if (depth > 16) return MR_OK;
    char **names;
    int n;
    mr_status st = mr_dir_names(&names, &n, path, err);
    for (int i = 0; st == MR_OK && i < n; i++) {
        if (names[i][0] == '.') continue;
        char *below = mr_path_join(path, names[i]);
        st = find_lua(out, below, depth + 1, err);
        mr_free(below);
    }
    mr_dir_names_free(names, n);
    return st;
}

/* One file in one fresh worker. What goes wrong is a failure of that file, told in `out`. */
static mr_status test_file(const char *path, mr_str *out, cJSON *files, int *n_passed, int *n_failed, mr_err *err) {
    mr_pool p = { .opts = { .n_workers = 1, .deadline_s = 2, .memory_bytes = (size_t)512 << 20 } };
    mr_version v = { 0 };
    mr_peer peer = { .proc = { 0, -1 } };
    mr_status st = mr_texts_open(&v.texts, path, NULL, NULL, NULL, err);
    if (st == MR_OK) st = mr_peer_start(&p, &peer, err);
    if (st == MR_OK) {
        mr_str s = { 0 };
        mr_put_u8(&s, 0);
        mr_put_u8(&s, 1);
        mr_put_u8(&s, MR_LOAD_TEST);
        mr_put_u32(&s, 0);
        mr_put_u32(&s, 0);
        mr_frame reply;
        mr_err why;
        char *name = mr_text_display_name(path);
        if (mr_peer_call(&p, &v, &peer, MR_WIRE_LOAD, &s, 10, &reply, &why) == MR_OK) {
            mr_take t = mr_take_frame(&reply);
            *n_passed += (int)mr_take_i64(&t);
            *n_failed += (int)mr_take_i64(&t);
            size_t len;
            const char *lines = mr_take_bytes(&t, &len);
            mr_str_add(out, lines, len);
            const char *json = mr_take_bytes(&t, &len);
            cJSON *o = NULL;
            if (files) st = mr_json_parse(&o, json, len, name, err);
            if (o) cJSON_AddItemToArray(files, o);
        } else {
            ++*n_failed;
            if (files) {
                cJSON *o = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(o, "failures"),
                      *f = cJSON_CreateObject();
                cJSON_AddStringToObject(o, "file", name);
                cJSON_AddNumberToObject(o, "passed", 0);
                cJSON_AddNumberToObject(o, "failed", 1);
                cJSON_AddStringToObject(f, "why", why.msg);
                cJSON_AddItemToArray(list, f);
                cJSON_AddItemToArray(files, o);
            }
            if (strstr(why.msg, ".lua:"))
                mr_str_printf(out, "%s\n", why.msg);
            else
                mr_str_printf(out, "%s: %s\n", name, why.msg);
        }
        mr_free(name);
        mr_str_clear(&s);
    }
    mr_peer_stop(&peer);
    mr_texts_close(&v.texts);
    return st;
}

mr_status mr_script_test(const char *const *paths, int n_paths, mr_str *out, cJSON *files, int *n_passed, int *n_failed,
                         mr_err *err) {
    *n_passed = *n_failed = 0;
    name_list found = { 0 };
    mr_status st = MR_OK;
    for (int i = 0; st == MR_OK && i < n_paths; i++) {
        /* "rewards/x.lua" means the installed one when there is none here, as for a recipe */
        char *home_lua = mr_path_join(mr_home_dir(), "lua");
        char *installed = mr_path_join(home_lua, paths[i]);
        bool here = mr_path_exists(paths[i]) || !mr_path_exists(installed);
        st = find_lua(&found, here ? paths[i] : installed, 0, err);
        mr_free(installed);
        mr_free(home_lua);
    }
    if (found.n > 1) qsort(found.items, (size_t)found.n, sizeof *found.items, compare_names);
    for (int i = 0; st == MR_OK && i < found.n; i++)
        st = test_file(found.items[i], out, files, n_passed, n_failed, err);
    clear_names(&found);
    return st;
}
