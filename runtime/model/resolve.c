/* resolve.c - from a model's name in a recipe to a path that opens (model.h).
 *
 * Order: a folder or file from the working folder; the model that medrl fetches itself; a folder or file from medrl's
 * own folder; the Hugging Face cache (spec/formats.md 7.4), which is only read. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/fsafe.h"
#include "model/model.h"

static const char builtin[] = "smollm2-135m-instruct";

static char *join3(const char *a, const char *b, const char *c) {
    char *ab = mr_path_join(a, b), *abc = mr_path_join(ab, c);
    mr_free(ab);
    return abc;
}

static const char *env(const char *key) {
    const char *value = getenv(key);
    return value && *value ? value : NULL;
}

/* Owned. */
static char *hub_root(void) {
    if (env("HF_HUB_CACHE")) return mr_strdup(env("HF_HUB_CACHE"));
    if (env("HF_HOME")) return mr_path_join(env("HF_HOME"), "hub");
    if (env("XDG_CACHE_HOME")) return mr_path_join(env("XDG_CACHE_HOME"), "huggingface/hub");
    return mr_path_join(env("HOME") ? env("HOME") : "/", ".cache/huggingface/hub");
}

/* "org/name": two parts of the characters that repository names have. */
static bool is_repo(const char *name) {
    const char *slash = strchr(name, '/');
    if (!slash || slash == name || !slash[1] || strchr(slash + 1, '/') || *name == '.' || slash[1] == '.') return false;
    for (const char *p = name; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("/-_.", *p)) return false;
    return true;
}

/* A commit hash in refs/main; anything else there is not followed. */
static bool read_ref(char commit[41], const char *repo_dir) {
    char *file = join3(repo_dir, "refs", "main"), *text = NULL;
    size_t len = 0;
    bool ok = mr_file_read(&text, &len, file, 4096, NULL) == MR_OK;
    while (ok && len > 0 && isspace((unsigned char)text[len - 1])) len--;
    ok = ok && len == 40;
    for (size_t i = 0; ok && i < len; i++) ok = isxdigit((unsigned char)text[i]) != 0;
    if (ok) {
        memcpy(commit, text, 40);
        commit[40] = '\0';
    }
    mr_free(text);
    mr_free(file);
    return ok;
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

static bool try_hub(char **found, mr_str *tried, const char *name) {
    char *root = hub_root(), *flat = mr_asprintf("models--%s", name), *slash = strchr(flat, '/');
    char *tail = mr_strdup(slash + 1);
    *slash = '\0';
    char *folder = mr_asprintf("%s--%s", flat, tail), *repo = mr_path_join(root, folder), commit[41];
    bool ok;
    if (read_ref(commit, repo)) {
        ok = try_path(found, tried, join3(repo, "snapshots", commit));
    } else {
        mr_str_printf(tried, "%s%s", tried->len ? ", " : "", repo);
        ok = false;
    }
    mr_free(repo);
    mr_free(folder);
    mr_free(tail);
    mr_free(flat);
    mr_free(root);
    return ok;
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
    if (is_repo(name) && try_hub(path, &tried, name)) goto done;
    if (mr_path_is_dir(name)) {
        mr_str_clear(&tried);
        return mr_fail(err, MR_ENOTFOUND,
                       "%s: this folder has no config.json; want a model in Hugging Face's layout, or a .gguf file",
                       name);
    }
    mr_status st =
        mr_fail(err, MR_ENOTFOUND,
                "model \"%s\" was not found; looked for %s; give a folder with config.json, a .gguf file, or a "
                "model that `huggingface-cli download` has put in the cache",
                name, tried.data ? tried.data : name);
    mr_str_clear(&tried);
    return st;
done:
    mr_str_clear(&tried);
    return MR_OK;
}
