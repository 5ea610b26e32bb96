/* select.c - which files of a repository are wanted.
 *
 * Of a model: its JSON, text and template files, and its weights once: model.safetensors, or the shards that its index
 * names, or what other safetensors there are, or the one GGUF file. Files in folders of a model are copies in other
 * formats and stay. Of a data set: every file of a known kind. Of both README.md, where the license stands, and from
 * whose head the Python tools take the configurations of a data set. With patterns: what they name. */
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/json.h"
#include "hub/hub_impl.h"

static const char whole_name[] = "model.safetensors", index_name[] = "model.safetensors.index.json";

static bool ends(const char *path, const char *end) {
    size_t n = strlen(path), m = strlen(end);
    return n > m && strcasecmp(path + n - m, end) == 0;
}

static bool is_readme(const hub_entry *e) {
    return strcmp(e->path, "README.md") == 0;
}

static hub_entry *find(hub_list *list, const char *path) {
    for (int i = 0; i < list->n; i++)
        if (strcmp(list->items[i].path, path) == 0) return &list->items[i];
    return NULL;
}

static mr_status refuse_pickle(const hub *h, const char *path, const char *why, mr_err *err) {
    return mr_fail(err, MR_EREFUSED,
                   "%s: %s is a Python pickle, which can run code when it is read: never downloaded%s", h->name.repo,
                   path, why);
}

/* The patterns, or the one file that the name holds. */
static mr_status select_named(hub_list *list, const hub *h, mr_err *err) {
    const char *const one[] = { h->name.file, NULL };
    const char *const *patterns = h->name.file[0] ? one : h->opts.include;
    for (const char *const *p = patterns; *p; p++) {
        int n = 0;
        for (int i = 0; i < list->n; i++) {
            hub_entry *e = &list->items[i];
            bool exact = strcmp(*p, e->path) == 0;
            if (!exact && (h->name.file[0] || fnmatch(*p, e->path, 0) != 0)) continue;
            if (mr_hub_is_pickle(e->path)) {
                if (!exact && !ends(*p, strrchr(e->path, '.'))) continue; /* "*" means what can be had */
                return refuse_pickle(h, e->path, "; want safetensors", err);
            }
            if (!mr_hub_is_known_kind(e->path) && !is_readme(e)) {
                if (exact)
                    return mr_fail(err, MR_EREFUSED,
                                   "%s: %s is no kind of file that medrl downloads (safetensors, gguf, json, txt, "
                                   "jinja, parquet, jsonl, csv, README.md)", h->name.repo, e->path);
                continue;
            }
            e->wanted = true;
            n++;
        }
        if (n == 0)
            return mr_fail(err, MR_ENOTFOUND, "%s: no file that medrl downloads matches \"%.200s\"", h->name.repo, *p);
    }
    return MR_OK;
}

static mr_status select_shards(hub_list *list, const hub *h, const char *index, size_t len, mr_err *err) {
    cJSON *o;
    MR_TRY(mr_json_parse(&o, index, len, index_name, err));
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(o, "weight_map");
    mr_status st = MR_OK;
    if (!cJSON_IsObject(map))
        st = mr_fail(err, MR_EDATA, "%s: %s: field \"weight_map\" is %s, want an object", h->name.repo, index_name,
                     mr_json_type_name(map));
    const char *last = "";
    for (const cJSON *t = st == MR_OK ? map->child : NULL; t && st == MR_OK; t = t->next) {
        const char *file = cJSON_GetStringValue(t);
        if (file && strcmp(file, last) == 0) continue; /* tensors of a shard stand together */
        hub_entry *e = file ? find(list, file) : NULL;
        if (!e || !ends(file, ".safetensors"))
            st = mr_fail(err, MR_EDATA, "%s: %s names a shard \"%.200s\" that the repository does not hold",
                         h->name.repo, index_name, file ? file : "?");
        else
            e->wanted = true;
        last = file ? file : "";
    }
    cJSON_Delete(o);
    return st;
}

/* The one GGUF file, or a question. */
static mr_status select_gguf(hub_list *list, const hub *h, mr_err *err) {
    mr_str names = { 0 };
    hub_entry *only = NULL;
    int n = 0;
    for (int i = 0; i < list->n; i++) {
        hub_entry *e = &list->items[i];
        if (!ends(e->path, ".gguf")) continue;
        if (n < 12) mr_str_printf(&names, "%s%s", n ? ", " : "", e->path);
        only = e;
        n++;
    }
    mr_status st = MR_OK;
    if (n == 1)
        only->wanted = true;
    else if (n > 1)
        st = mr_fail(err, MR_EINVAL, "%s: holds %d GGUF files; say which with --include: %.600s%s", h->name.repo, n,
                     names.data, n > 12 ? ", ..." : "");
    mr_str_clear(&names);
    return st;
}

static mr_status select_model(hub_list *list, bool *needs_index, const hub *h, const char *index, size_t len,
                              mr_err *err) {
    const char *pickle = NULL;
    bool has_whole = find(list, whole_name), has_index = find(list, index_name), has_weights = false;
    for (int i = 0; i < list->n; i++) {
        hub_entry *e = &list->items[i];
        if (strchr(e->path, '/')) continue;
        bool weights = ends(e->path, ".safetensors");
        if (mr_hub_is_pickle(e->path)) pickle = e->path;
        if (weights)
            e->wanted = has_whole ? strcmp(e->path, whole_name) == 0 : !has_index;
        else
            e->wanted = ends(e->path, ".json") || ends(e->path, ".txt") || ends(e->path, ".jinja") || is_readme(e);
        if (weights) has_weights = true;
        if (strcmp(e->path, "adapter_model.safetensors") == 0) e->wanted = true;
    }
    if (!has_whole && has_index) {
        *needs_index = index == NULL;
        return index ? select_shards(list, h, index, len, err) : MR_OK;
    }
    if (has_weights) return MR_OK;
    for (int i = 0; i < list->n; i++)
        if (ends(list->items[i].path, ".gguf")) return select_gguf(list, h, err);
    if (pickle)
        return refuse_pickle(h, pickle,
                             ", and there is no .safetensors beside it; some have one at a revision refs/pr/N", err);
    return mr_fail(err, MR_EDATA, "%s: holds no weights that medrl reads, want .safetensors or .gguf%s", h->name.repo,
                   h->name.dataset ? "" : " (a data set wants --dataset)");
}

static int by_folded(const void *a, const void *b) {
    return strcasecmp((*(const hub_entry *const *)a)->path, (*(const hub_entry *const *)b)->path);
}

/* Names that a server chose become names of files here. */
static mr_status check_names(const hub_list *list, const hub *h, mr_err *err) {
    const hub_entry **all = mr_alloc(((size_t)list->n + 1) * sizeof *all);
    int n = 0;
    mr_status st = MR_OK;
    for (int i = 0; i < list->n && st == MR_OK; i++) {
        const hub_entry *e = &list->items[i];
        if (!e->wanted) continue;
        const char *why = mr_hub_bad_path(e->path, strlen(e->path));
        if (why)
            st = mr_fail(err, MR_EREFUSED, "%s: holds a file named \"%.300s\": %s; refused", h->name.repo, e->path,
                         why);
        all[n++] = e;
    }
    qsort(all, (size_t)n, sizeof *all, by_folded);
    for (int i = 1; i < n && st == MR_OK; i++)
        if (strcasecmp(all[i - 1]->path, all[i]->path) == 0)
            st = mr_fail(err, MR_EREFUSED,
                         "%s: holds \"%.300s\" and \"%.300s\", one file on disks that do not tell case apart; refused",
                         h->name.repo, all[i - 1]->path, all[i]->path);
    mr_free(all);
    return st;
}

mr_status hub_select(hub_list *list, bool *needs_index, const hub *h, const char *index, size_t index_len,
                     mr_err *err) {
    *needs_index = false;
    for (int i = 0; i < list->n; i++) list->items[i].wanted = false;
    if (h->name.file[0] || h->opts.include) {
        MR_TRY(select_named(list, h, err));
    } else if (h->name.dataset) {
        int n = 0;
        for (int i = 0; i < list->n; i++) {
            hub_entry *e = &list->items[i];
            e->wanted = mr_hub_is_known_kind(e->path);
            n += e->wanted;
            if (is_readme(e)) e->wanted = true;
        }
        if (n == 0)
            return mr_fail(err, MR_EDATA, "%s: holds no data that medrl reads, want parquet, jsonl, json, csv or txt",
                           h->name.repo);
    } else {
        MR_TRY(select_model(list, needs_index, h, index, index_len, err));
    }
    return check_names(list, h, err);
}
