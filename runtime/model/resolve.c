/* resolve.c - from a model's name in a recipe to a path that opens (model.h).
 *
 * Order: a folder or file from the working folder; the model that medrl fetches itself; a folder or file from medrl's
 * own folder; the Hugging Face cache (hub/hub.h), into which a name is downloaded when the program may. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "hub/hub.h"
#include "model/model.h"

static const char builtin[] = "smollm2-135m-instruct";

static char *join3(const char *a, const char *b, const char *c) {
    char *ab = mr_path_join(a, b), *abc = mr_path_join(ab, c);
    mr_free(ab);
    return abc;
}

static bool opens(const char *path) {
    if (!mr_path_is_dir(path)) return mr_path_exists(path);
    char *config = mr_path_join(path, "config.json");
    bool ok = mr_path_exists(config);
    mr_free(config);
    return ok;
}

/* Adds the place to the list of those tried; takes the path over. */
static bool try_path(char **found, mr_str *tried, char *path) {
    if (opens(path)) {
        *found = path;
        return true;
    }
    mr_str_printf(tried, "%s%s", tried->len ? ", " : "", path);
    mr_free(path);
    return false;
}

/* Every shard that the index names is here. */
static bool has_shards(const char *dir, const char *index) {
    cJSON *o = NULL;
    bool ok = mr_json_load(&o, index, 64 << 20, NULL) == MR_OK;
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(o, "weight_map"), *t;
    const char *last = "";
    cJSON_ArrayForEach(t, map) {
        const char *file = cJSON_GetStringValue(t);
        if (!ok || (file && strcmp(file, last) == 0)) continue;
        char *path = file && !mr_hub_bad_path(file, strlen(file)) ? mr_path_join(dir, file) : NULL;
        ok = path && mr_path_exists(path);
        mr_free(path);
        last = file ? file : "";
    }
    cJSON_Delete(o);
    return ok && cJSON_IsObject(map);
}

/* The one file with this end in the folder; owned, NULL when there is none or several. */
static char *only_with_end(const char *dir, const char *end, int *n) {
    DIR *d = opendir(dir);
    char *path = NULL;
    *n = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!mr_ends_with(e->d_name, end)) continue;
        ++*n;
        mr_free(path);
        path = mr_path_join(dir, e->d_name);
    }
    if (d) closedir(d);
    if (*n == 1) return path;
    mr_free(path);
    return NULL;
}

/* A snapshot may hold what somebody wanted of it only: what opens is a folder with config.json and all of its weights, or
 * the one GGUF file. Owned. */
static char *snapshot_model(const char *dir, const mr_hub_name *name) {
    if (name->file[0]) return mr_path_join(dir, name->file);
    char *index = mr_path_join(dir, "model.safetensors.index.json"), *whole = mr_path_join(dir, "model.safetensors");
    int n = 0;
    char *weights = only_with_end(dir, ".safetensors", &n), *found = NULL;
    if (opens(dir) && (mr_path_exists(whole) || (mr_path_exists(index) ? has_shards(dir, index) : n > 0)))
        found = mr_strdup(dir);
    mr_free(weights);
    if (!found) found = only_with_end(dir, ".gguf", &n);
    mr_free(index);
    mr_free(whole);
    return found;
}

static bool try_hub(char **found, mr_str *tried, const mr_hub_name *name) {
    mr_err where;
    char *dir, *path = NULL;
    if (mr_hub_find(&dir, name, &where) == MR_OK) {
        path = snapshot_model(dir, name);
        if (!path) snprintf(where.msg, sizeof where.msg, "%s, which lacks config.json or weights", dir);
        mr_free(dir);
    }
    if (path) return try_path(found, tried, path);
    mr_str_printf(tried, "%s%s", tried->len ? ", " : "", where.msg);
    return false;
}

/* In the cache, or downloaded into it if the program may. */
static mr_status from_hub(char **path, mr_str *tried, const mr_hub_name *name, mr_err *err) {
    if (try_hub(path, tried, name)) return MR_OK;
    mr_status st = mr_hub_missing(name, err);
    if (st == MR_OK && !try_hub(path, tried, name))
        st = mr_fail(err, MR_EDATA, "%s: the hub holds no model there that medrl opens: %s", name->repo, tried->data);
    if (st == MR_ENOTFOUND) {
        char why[sizeof err->msg];
        snprintf(why, sizeof why, "%s", err ? err->msg : "");
        return mr_fail(err, st, "%.500s (looked for %s)", why, tried->data);
    }
    return st;
}

mr_status mr_model_resolve(char **path, const char *name, mr_err *err) {
    *path = NULL;
    if (!name || !*name) return mr_fail(err, MR_EINVAL, "model.name is empty, want a name, a folder or a .gguf file");
    mr_str tried = { 0 };
    if (try_path(path, &tried, mr_strdup(name))) goto done;
    if (strcmp(name, builtin) == 0) {
        char *file = mr_asprintf("%s.gguf", builtin);
        bool ok = try_path(path, &tried, join3(mr_cache_dir(), "models", file));
        mr_free(file);
        if (!ok) {
            mr_status st = mr_fail(err, MR_ENOTFOUND,
                                   "model \"%s\" is not in %s/models; run `./bootstrap fetch` once to get it (94 MB)",
                                   name, mr_cache_dir());
            mr_str_clear(&tried);
            return st;
        }
        goto done;
    }
    if (*name != '/' && try_path(path, &tried, mr_path_join(mr_home_dir(), name))) goto done;
    mr_hub_name repo;
    if (!mr_path_is_dir(name) && mr_hub_is_name(name) && mr_hub_name_parse(&repo, name, false, err) == MR_OK) {
        mr_status found = repo.dataset ? mr_fail(err, MR_EINVAL, "%s is a data set, want a model", name)
                                       : from_hub(path, &tried, &repo, err);
        mr_str_clear(&tried);
        return found;
    }
    if (mr_path_is_dir(name)) {
        mr_str_clear(&tried);
        return mr_fail(err, MR_ENOTFOUND,
                       "%s: this folder has no config.json; want a model in Hugging Face's layout, or a .gguf file",
                       name);
    }
    mr_status st =
        mr_fail(err, MR_ENOTFOUND,
                "model \"%s\" was not found; looked for %s; give a folder with config.json, a .gguf file, or a name on "
                "the hub, as in org/name",
                name, tried.data ? tried.data : name);
    mr_str_clear(&tried);
    return st;
done:
    mr_str_clear(&tried);
    return MR_OK;
}
