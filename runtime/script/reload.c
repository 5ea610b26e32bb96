/* reload.c - a saved script takes over between two steps, or is refused with one line; and `medrl test`.
 *
 * A reload builds a complete second version: texts read anew, new workers, cases run. Only when all of that went well
 * are the workers of the old one ended. What the run was planned with (number and names of rewards, rows of the open
 * splits, numbers of the recipe) does not change. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "script/pool_impl.h"

static mr_status fits(mr_pool *p, mr_version *v, mr_err *err) {
    if (v->n_rewards != p->v->n_rewards)
        return mr_fail(err, MR_EINVAL, "%s: %d rewards instead of %d; start a new run to change the list", p->display,
                       v->n_rewards, p->v->n_rewards);
    for (int i = 0; i < v->n_rewards; i++) {
        if (strcmp(v->names[i], p->v->names[i]) != 0)
            return mr_fail(err, MR_EINVAL,
                           "%s: reward %d is \"%s\" instead of \"%s\"; start a new run to change the list", p->display,
                           i + 1, v->names[i], p->v->names[i]);
    }
    for (int i = 0; i < p->n_splits; i++) {
        int64_t n = 0;
        MR_TRY(mr_peer_open_split(p, v, p->splits[i]->name, &n, NULL, err));
        if (n != p->splits[i]->n_rows)
            return mr_fail(err, MR_EINVAL,
                           "%s: data.%s would have %lld rows instead of %lld; start a new run to change the data",
                           p->display, p->splits[i]->name, (long long)n, (long long)p->splits[i]->n_rows);
    }
    return MR_OK;
}

/* "data", "rewards" and their weights may differ; the rest was read at the start. */
static bool settings_differ(const cJSON *a, const cJSON *b) {
    static const char *const live[] = { "data", "rewards", "reward_weights" };
    cJSON *x = cJSON_Duplicate(a, true), *y = cJSON_Duplicate(b, true);
    for (size_t i = 0; i < sizeof live / sizeof live[0]; i++) {
        cJSON_DeleteItemFromObjectCaseSensitive(x, live[i]);
        cJSON_DeleteItemFromObjectCaseSensitive(y, live[i]);
    }
    cJSON_DeleteItemFromObjectCaseSensitive(cJSON_GetObjectItemCaseSensitive(x, "grpo"), "reward_weights");
    cJSON_DeleteItemFromObjectCaseSensitive(cJSON_GetObjectItemCaseSensitive(y, "grpo"), "reward_weights");
    bool differ = !cJSON_Compare(x, y, true);
    cJSON_Delete(x);
    cJSON_Delete(y);
    return differ;
}

mr_status mr_pool_between_steps(void *self, int64_t step, mr_str *note, mr_err *err) {
    (void)step;
    (void)err;
    mr_pool *p = self;
    mr_str what = { 0 };
    uint64_t signature;
    if (!mr_texts_changed(&p->v->texts, &what, &signature)) {
        p->refused = 0;
        mr_str_clear(&what);
        return MR_OK;
    }
    if (signature == p->refused) { /* turned down before, and nothing was saved since */
        mr_str_clear(&what);
        return MR_OK;
    }
    mr_version *v = NULL;
    mr_err why = { .msg = "" };
    mr_status st = mr_version_open(p, &v, &why);
    if (st == MR_OK) st = fits(p, v, &why);
    float *weights = mr_alloc((size_t)(p->v->n_rewards + 1) * sizeof *weights);
    if (st == MR_OK) st = mr_pool_weights(p, v->recipe, v->n_rewards, weights, &why);
    if (st != MR_OK) {
        mr_version_close(v);
        p->refused = signature;
        mr_str_printf(note, "%s; the version in use stays (changed: %s)", why.msg, what.data);
    } else {
        bool settings = settings_differ(p->v->recipe, v->recipe);
        memcpy(p->weights, weights, (size_t)v->n_rewards * sizeof *weights);
        /* The trainer holds pointers to the names and to the recipe that the run was planned with: those stay alive. */
        char **names = v->names;
        v->names = p->v->names;
        p->v->names = names;
        cJSON *recipe = v->recipe;
        v->recipe = p->v->recipe;
        p->v->recipe = recipe;
        mr_version_close(p->v);
        p->v = v;
        p->refused = 0;
        mr_str_printf(note, "%s: taken over", what.data);
        if (settings)
            mr_str_printf(note, "; %s: settings other than data and rewards stay as they were until the next run",
                          p->display);
    }
    mr_free(weights);
    mr_str_clear(&what);
    return MR_OK;
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

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* Every .lua file at or below path, but annotations (.d.lua) and what lies in hidden folders. Links to folders are not
 * followed. */
static mr_status find_lua(name_list *out, const char *path, int depth, mr_err *err) {
    struct stat s;
    if (lstat(path, &s) != 0) return mr_fail_errno(err, "%s", path);
    if (!S_ISDIR(s.st_mode)) {
        if (depth == 0 || (ends_with(path, ".lua") && !ends_with(path, ".d.lua"))) add_name(out, mr_strdup(path));
        return MR_OK;
    }
    if (depth > 16) return MR_OK;
    DIR *d = opendir(path);
    if (!d) return mr_fail_errno(err, "%s", path);
    mr_status st = MR_OK;
    for (struct dirent *e; st == MR_OK && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        char *below = mr_path_join(path, e->d_name);
        st = find_lua(out, below, depth + 1, err);
        mr_free(below);
    }
    closedir(d);
    return st;
}

/* One file in one fresh worker. What goes wrong is a failure of that file, told in `out`. */
static mr_status test_file(const char *path, mr_str *out, cJSON *files, int *n_passed, int *n_failed, mr_err *err) {
    mr_pool p = { .opts = { .n_workers = 1, .deadline_s = 2, .memory_bytes = (size_t)512 << 20 } };
    mr_version v = { 0 };
    mr_peer peer = { .proc = { 0, -1 } };
    mr_status st = mr_texts_open(&v.texts, path, NULL, err);
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
