/* find.c - what is in the cache already, by path and without the network. */
#include <ctype.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hub/hub_impl.h"

static char *join3(const char *a, const char *b, const char *c) {
    char *ab = mr_path_join(a, b), *abc = mr_path_join(ab, c);
    mr_free(ab);
    return abc;
}

/* The commit in refs/REVISION; anything but a hash there is not followed. */
static bool read_ref(char commit[41], const char *repo, const char *revision) {
    char *file = join3(repo, "refs", revision), *text = NULL;
    size_t len = 0;
    bool ok = mr_file_read(&text, &len, file, 4096, NULL) == MR_OK;
    while (ok && len > 0 && isspace((unsigned char)text[len - 1])) text[--len] = '\0';
    ok = ok && mr_hub_is_hex(text, 40);
    if (ok) memcpy(commit, text, 41);
    mr_free(text);
    mr_free(file);
    return ok;
}

mr_status mr_hub_find(char **dir, const mr_hub_name *name, mr_err *err) {
    *dir = NULL;
    char *root = mr_hub_root(), *folder = hub_folder(name), *repo = mr_path_join(root, folder), commit[41];
    char *snapshots = mr_path_join(repo, "snapshots");
    bool known = read_ref(commit, repo, name->revision);
    if (!known && mr_hub_is_hex(name->revision, 40)) {
        strcpy(commit, name->revision);
        known = true;
    }
    mr_status st = MR_OK;
    if (known) *dir = mr_path_join(snapshots, commit);
    if (!known || !mr_path_is_dir(*dir)) {
        st = mr_fail(err, MR_ENOTFOUND, "%s is not in the cache (%s)", name->repo, known ? *dir : repo);
        mr_free(*dir);
        *dir = NULL;
    }
    mr_free(root);
    mr_free(folder);
    mr_free(repo);
    mr_free(snapshots);
    return st;
}

char *mr_hub_command(const mr_hub_name *name) {
    bool main = strcmp(name->revision, "main") == 0;
    const bool pattern = strchr(name->file, '*') != NULL;
    return mr_asprintf("medrl pull %s%s%s%s%s%s%s%s%s", name->repo, main ? "" : "@", main ? "" : name->revision,
                       name->file[0] && !pattern ? "/" : "", pattern ? "" : name->file, name->dataset ? " --dataset" : "",
                       pattern ? " --include '" : "", pattern ? name->file : "", pattern ? "'" : "");
}

static mr_status (*hook)(const mr_hub_name *name, mr_err *err);

void mr_hub_on_missing(mr_status (*fetch)(const mr_hub_name *name, mr_err *err)) {
    hook = fetch;
}

mr_status mr_hub_missing(const mr_hub_name *name, mr_err *err) {
    if (hook) return hook(name, err);
    char *command = mr_hub_command(name);
    mr_status st = mr_fail(err, MR_ENOTFOUND, "%s \"%s\" is not on this machine; `%s` downloads it",
                           name->dataset ? "data set" : "model", name->repo, command);
    mr_free(command);
    return st;
}

static mr_status list_data(mr_hub_files *f, const char *dir, const char *prefix, int depth, const char *pattern, mr_err *err);

static mr_status list_entry(mr_hub_files *f, const char *path, const char *name, int depth, const char *pattern, mr_err *err) {
    if (mr_path_is_dir(path)) return depth < 3 ? list_data(f, path, name, depth + 1, pattern, err) : MR_OK;
    if (!mr_hub_is_known_kind(name) || mr_ends_with(name, ".safetensors") || mr_ends_with(name, ".gguf") || mr_ends_with(name, ".txt") ||
        strcmp(mr_path_name(name), "dataset_infos.json") == 0 || (pattern && fnmatch(pattern, name, 0) != 0))
        return MR_OK;
    if (f->n == MR_HUB_FILES_MAX)
        return mr_fail(err, MR_EDATA, "%s: more than %d data files; name those that are wanted", path, MR_HUB_FILES_MAX);
    f->names = mr_realloc(f->names, ((size_t)f->n + 1) * sizeof *f->names);
    f->names[f->n++] = mr_strdup(name);
    return MR_OK;
}

/* Data files below a folder, three folders deep as data sets have them. */
static mr_status list_data(mr_hub_files *f, const char *dir, const char *prefix, int depth, const char *pattern, mr_err *err) {
    char **entries;
    int n;
    mr_status st = mr_dir_names(&entries, &n, dir, err);
    for (int i = 0; st == MR_OK && i < n; i++) {
        if (entries[i][0] == '.') continue;
        char *path = mr_path_join(dir, entries[i]), *name = prefix[0] ? mr_path_join(prefix, entries[i]) : mr_strdup(entries[i]);
        st = list_entry(f, path, name, depth, pattern, err);
        mr_free(name);
        mr_free(path);
    }
    mr_dir_names_free(entries, n);
    return st;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static mr_status list_folder(mr_hub_files *f, const char *dir, const char *pattern, mr_err *err) {
    mr_status st = list_data(f, dir, "", 0, pattern, err);
    if (f->n > 1) qsort(f->names, (size_t)f->n, sizeof *f->names, by_name);
    return st;
}

void mr_hub_files_clear(mr_hub_files *f) {
    for (int i = 0; i < f->n; i++) mr_free(f->names[i]);
    mr_free(f->names);
    mr_free(f->base);
    *f = (mr_hub_files){ 0 };
}

mr_status mr_hub_files_find(mr_hub_files *out, const char *text, const char *pattern, mr_err *err) {
    *out = (mr_hub_files){ 0 };
    const bool named = strncmp(text, "hf:", 3) == 0;
    if (!named && mr_path_is_dir(text)) {
        out->base = mr_asprintf("%s%s", text, mr_ends_with(text, "/") ? "" : "/");
        return list_folder(out, text, NULL, err);
    }
    if (!named && (mr_path_exists(text) || !mr_hub_is_name(text))) return MR_OK;
    mr_hub_name name;
    MR_TRY(mr_hub_name_parse(&name, text, true, err));
    if (name.file[0]) return MR_OK;
    if (pattern) snprintf(name.file, sizeof name.file, "%s", pattern);
    mr_status st = MR_OK;
    for (int asked = 0; st == MR_OK && !out->base; asked++) {
        char *dir;
        if (mr_hub_find(&dir, &name, NULL) == MR_OK) {
            st = list_folder(out, dir, pattern, err);
            mr_free(dir);
            MR_TRY(st);
        }
        if (out->n > 0) {
            const bool main = strcmp(name.revision, "main") == 0;
            out->base = mr_asprintf("hf:%s%s%s/", name.repo, main ? "" : "@", main ? "" : name.revision);
        } else if (asked) {
            st = mr_fail(err, MR_ENOTFOUND, "data set \"%s\" has no data file that matches \"%s\"", name.repo, pattern ? pattern : "*");
        } else {
            st = mr_hub_missing(&name, err);
        }
    }
    return st;
}

static mr_status only_file(char **path, const char *dir, const mr_hub_name *name, mr_err *err) {
    mr_hub_files f = { 0 };
    mr_status st = list_folder(&f, dir, NULL, err);
    if (st != MR_OK) {
        /* said already */
    } else if (f.n == 1) {
        *path = mr_path_join(dir, f.names[0]);
    } else {
        mr_str names = { 0 };
        for (int i = 0; i < f.n && i < 12; i++) mr_str_printf(&names, "%s%s", i ? ", " : "", f.names[i]);
        st = mr_fail(err, MR_EINVAL, "data set \"%s\": want one file of it, as in hf:%s/FILE; there are %d: %.500s",
                     name->repo, name->repo, f.n, names.data ? names.data : "none");
        mr_str_clear(&names);
    }
    mr_hub_files_clear(&f);
    return st;
}

mr_status mr_hub_file(char **path, const char *text, mr_err *err) {
    *path = NULL;
    if (strncmp(text, "hf:", 3) != 0 && (mr_path_exists(text) || !mr_hub_is_name(text))) {
        *path = mr_strdup(text);
        return MR_OK;
    }
    mr_hub_name name;
    MR_TRY(mr_hub_name_parse(&name, text, true, err));
    for (int asked = 0;; asked++) {
        char *dir;
        mr_status st = MR_OK;
        if (mr_hub_find(&dir, &name, NULL) == MR_OK) {
            if (name.file[0])
                *path = mr_path_join(dir, name.file);
            else
                st = only_file(path, dir, &name, err);
            mr_free(dir);
            if (st != MR_OK || mr_path_exists(*path)) return st;
            mr_free(*path);
            *path = NULL;
        }
        if (asked) return mr_fail(err, MR_ENOTFOUND, "%s: is not on the hub under this name", text);
        MR_TRY(mr_hub_missing(&name, err));
    }
}
