/* texts.c - finding and reading Lua files: see texts.h. */
#include "script/texts.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/proc.h"
#include "base/rng.h"
#include "rl/settings.h"

enum { TEXT_MAX_BYTES = 4 << 20, MAX_TEXTS = 1024 /* a worker could ask for one file by many names */ };
static const double YOUNG_S = 0.1;

char *mr_text_display_name(const char *path) {
    const char *home = mr_home_dir();
    size_t n = home ? strlen(home) : 0;
    while (n > 1 && home[n - 1] == '/') n--;
    if (n > 1 && strncmp(path, home, n) == 0 && path[n] == '/') path += n + 1;
    while (path[0] == '.' && path[1] == '/') path += 2;
    return mr_strdup(path);
}

static bool is_file(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 && !S_ISDIR(s.st_mode);
}

/* Takes the string; gives the place where it stands. */
static int add_root(mr_texts *t, char *root) {
    for (int i = 0; i < t->n_roots; i++) {
        if (strcmp(t->roots[i], root) == 0) {
            mr_free(root);
            return i;
        }
    }
    t->roots[t->n_roots] = root;
    return t->n_roots++;
}

static bool is_kind_folder(const char *name) {
    static const char *const kinds[] = { "recipes", "rewards", "datasets", "templates" };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(name, kinds[i]) == 0) return true;
    }
    return false;
}

/* "recipes/medical_mix.lua" for "recipes/medical_mx.lua", of the files that come with medrl; owned, NULL: none is near. */
static char *nearest_file(const char *home_lua, const char *kind, const char *arg) {
    enum { MAX_NAMES = 64 };
    char *dir = mr_path_join(home_lua, kind), *names[MAX_NAMES], *near = NULL;
    struct dirent **list = NULL;
    const int found = scandir(dir, &list, NULL, alphasort);
    int n = 0;
    for (int i = 0; i < found; i++) {
        if (mr_ends_with(list[i]->d_name, ".lua") && n < MAX_NAMES)
            names[n++] = strchr(arg, '/') ? mr_asprintf("%s/%s", kind, list[i]->d_name) : mr_strdup(list[i]->d_name);
        free(list[i]);
    }
    free(list);
    const char *name = mr_nearest_name(arg, (const char *const *)names, n);
    if (name) near = strchr(name, '/') ? mr_strdup(name) : mr_asprintf("%s/%s", kind, name);
    for (int i = 0; i < n; i++) mr_free(names[i]);
    mr_free(dir);
    return near;
}

/* The file that an argument of a command names; owned. `kind`: the folder where its like lie. One that is gone is still
 * found where a pinned version has stored it as `module`. */
static mr_status find_named(char **path, const mr_texts *t, const char *arg, const char *module, const char *kind,
                            mr_err *err) {
    *path = NULL;
    char *home_lua = mr_path_join(mr_home_dir(), "lua");
    char *tries[4] = { mr_strdup(arg), mr_path_join(home_lua, arg), mr_path_join(mr_home_dir(), arg), NULL };
    tries[3] = mr_asprintf("%s.lua", tries[1]);
    for (int i = 0; i < 4; i++) {
        if (!*path && (i == 0 || arg[0] != '/') && is_file(tries[i])) *path = mr_strdup(tries[i]);
    }
    if (!*path && mr_detail_hash(t->pinned, module)) *path = mr_strdup(arg); /* gone, but stored */
    mr_status st = MR_OK;
    if (!*path) {
        char *near = nearest_file(home_lua, kind, arg);
        if (near)
            st = mr_fail(err, MR_ENOTFOUND, "%s: no such file here or in %s; did you mean \"%s\"?", arg, home_lua, near);
        else
            st = mr_fail(err, MR_ENOTFOUND, "%s: no such file here or in %s; `ls %s/%s` shows what comes with medrl", arg,
                         home_lua, home_lua, kind);
        mr_free(near);
    }
    for (int i = 0; i < 4; i++) mr_free(tries[i]);
    mr_free(home_lua);
    return st;
}

/* The folder of a file, and the one above when that is where its neighbors of other kinds lie. */
static void add_roots_of(mr_texts *t, const char *path) {
    if (t->n_roots + 5 > (int)(sizeof t->roots / sizeof t->roots[0])) return;
    char *dir = mr_path_dir(path);
    char *above = is_kind_folder(mr_path_name(dir)) ? mr_path_dir(dir) : NULL;
    add_root(t, dir);
    if (above) add_root(t, above);
}

static mr_status add_named(mr_texts *t, const char *const *rewards, mr_err *err) {
    int n = 0;
    while (rewards && rewards[n]) n++;
    t->named = mr_alloc((size_t)(2 * n + 1) * sizeof *t->named);
    for (int i = 0; i < n; i++) {
        const char *end = strstr(rewards[i], ".lua");
        if (!end || (end[4] && end[4] != ':')) continue; /* a name, found as a module */
        char *name = mr_strndup(rewards[i], (size_t)(end + 4 - rewards[i])), *module = mr_asprintf("@%s", name), *path;
        mr_status st = find_named(&path, t, name, module, "rewards", err);
        mr_free(module);
        if (st != MR_OK) {
            mr_free(name);
            return st;
        }
        t->named[2 * t->n_named] = name;
        t->named[2 * t->n_named++ + 1] = path;
        add_roots_of(t, path);
    }
    return MR_OK;
}

mr_status mr_texts_open(mr_texts *t, const char *main_arg, const char *const *rewards, const cJSON *pinned,
                        const char *store, mr_err *err) {
    memset(t, 0, sizeof *t);
    t->pinned = pinned ? cJSON_Duplicate(pinned, true) : NULL;
    t->store = mr_strdup(store);
    if (main_arg) {
        MR_TRY(find_named(&t->main_path, t, main_arg, "@main", "recipes", err));
        add_roots_of(t, t->main_path);
    }
    MR_TRY(add_named(t, rewards, err));
    add_root(t, mr_strdup("."));
    add_root(t, mr_strdup("./lua"));
    t->home_root = add_root(t, mr_path_join(mr_home_dir(), "lua"));
    return MR_OK;
}

void mr_texts_open_text(mr_texts *t, const char *name, const char *text, size_t len, const char *path,
                        const char *sha256) {
    memset(t, 0, sizeof *t);
    t->main_path = mr_strdup(path ? path : name);
    t->home_root = add_root(t, mr_path_join(mr_home_dir(), "lua"));
    mr_text *x = mr_alloc(sizeof *x);
    x->module = mr_strdup("@main");
    x->path = mr_strdup(path);
    x->pub.name = mr_strdup(name);
    x->pub.text = mr_strndup(text, len);
    x->pub.len = len;
    memcpy(x->pub.sha256, sha256, sizeof x->pub.sha256);
    t->list = mr_alloc(sizeof *t->list);
    t->list[t->n++] = x;
}

static void text_free(mr_text *x) {
    if (!x) return;
    mr_free(x->module);
    mr_free(x->path);
    mr_free((char *)x->pub.name);
    mr_free((char *)x->pub.text);
    mr_free(x);
}

void mr_texts_close(mr_texts *t) {
    for (int i = 0; i < t->n; i++) text_free(t->list[i]);
    mr_free(t->list);
    for (int i = 0; i < t->n_roots; i++) mr_free(t->roots[i]);
    for (int i = 0; i < 2 * t->n_named; i++) mr_free(t->named[i]);
    mr_free(t->named);
    mr_free(t->main_path);
    mr_free(t->store);
    mr_free(t->missing);
    cJSON_Delete(t->pinned);
    memset(t, 0, sizeof *t);
}

/* "a.b" -> "a/b.lua"; "a/b.lua" stays. NULL for what could leave the roots. */
static char *module_file(const char *module) {
    size_t len = strlen(module);
    if (len == 0 || module[0] == '/' || strstr(module, "..")) return NULL;
    if (len > 4 && strcmp(module + len - 4, ".lua") == 0) return mr_strdup(module);
    char *file = mr_asprintf("%s.lua", module);
    for (size_t i = 0; i < len; i++) {
        if (file[i] == '.') file[i] = '/';
    }
    return file;
}

static mr_status find_file(const mr_texts *t, const char *module, char **path, mr_err *err) {
    *path = NULL;
    if (strcmp(module, "@main") == 0 && t->main_path) {
        *path = mr_strdup(t->main_path);
        return MR_OK;
    }
    for (int i = 0; i < t->n_named && module[0] == '@'; i++) {
        if (strcmp(module + 1, t->named[2 * i]) != 0) continue;
        *path = mr_strdup(t->named[2 * i + 1]);
        return MR_OK;
    }
    char *file = module_file(module);
    if (!file) return mr_fail(err, MR_EINVAL, "\"%s\" is no module name; want \"folder.file\"", module);
    mr_str tried = { 0 };
    bool own = strncmp(module, "medrl.", 6) == 0;
    for (int i = 0; i < t->n_roots && !*path; i++) {
        if (own && i != t->home_root) continue;
        char *p = mr_path_join(t->roots[i], file);
        if (is_file(p)) {
            *path = p;
        } else {
            mr_str_printf(&tried, "%s%s", tried.len ? ", " : "", p);
            mr_free(p);
        }
    }
    mr_status st = MR_OK;
    if (!*path) st = mr_fail(err, MR_ENOTFOUND, "module \"%s\" was not found; looked for %s", module, tried.data);
    mr_str_clear(&tried);
    mr_free(file);
    return st;
}

const mr_text *mr_texts_find(const mr_texts *t, const char *module) {
    for (int i = 0; i < t->n; i++)
        if (strcmp(t->list[i]->module, module) == 0) return t->list[i];
    return NULL;
}

static bool is_own_module(const char *module) {
    return strncmp(module, "medrl.", 6) == 0;
}
bool mr_text_is_own(const mr_text *x) {
    return is_own_module(x->module);
}

static mr_text *text_add(mr_texts *t, mr_text *x) {
    x->pub.module = x->module;
    mr_sha256(x->pub.sha256, x->pub.text, x->pub.len);
    t->list = mr_realloc(t->list, (size_t)(t->n + 1) * sizeof *t->list);
    return t->list[t->n++] = x;
}

void mr_texts_add_copy(mr_texts *t, const mr_text *x) {
    mr_text *copy = mr_alloc(sizeof *copy);
    copy->module = mr_strdup(x->module);
    copy->path = mr_strdup(x->path);
    copy->pub.name = mr_strdup(x->pub.name);
    copy->pub.text = mr_strndup(x->pub.text, x->pub.len);
    copy->pub.len = x->pub.len;
    copy->seen = x->seen;
    text_add(t, copy);
}

/* A time stamp this new says little: the next write may get the same one. In the future: another machine's clock. */
static bool is_young(const struct stat *s, double now) {
    const double age = now - ((double)s->st_mtim.tv_sec + (double)s->st_mtim.tv_nsec * 1e-9);
    return age < YOUNG_S && age > -10 * YOUNG_S;
}

/* What stands there instead of a file that can be read; NULL: such a file. */
static const char *not_a_file(const char *path, struct stat *s) {
    memset(s, 0, sizeof *s);
    if (stat(path, s) != 0)
        return errno == ENOENT ? "is gone" : errno == ELOOP ? "is a link that leads back to itself" : strerror(errno);
    if (S_ISDIR(s->st_mode)) return "is a folder now, want a file";
    if (!S_ISREG(s->st_mode)) return "is no plain file now";
    return access(path, R_OK) == 0 ? NULL : strerror(errno);
}

/* From the store: the text that was in use, whatever became of its file. */
static mr_status get_pinned(mr_texts *t, const char *module, const char *sha, const mr_text **out, mr_err *err) {
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(
        cJSON_GetObjectItemCaseSensitive(t->pinned, "modules"), module));
    mr_text *x = mr_alloc(sizeof *x);
    x->module = mr_strdup(module);
    x->pub.name = mr_strdup(name);
    if (find_file(t, module, &x->path, NULL) != MR_OK) x->path = mr_strdup(name);
    char *file = mr_asprintf("%s/%s.lua", t->store, sha), *text;
    mr_status st = mr_file_read(&text, &x->pub.len, file, TEXT_MAX_BYTES, err);
    if (st == MR_OK) {
        x->pub.text = text;
        char is[65];
        mr_sha256(is, text, x->pub.len);
        if (strcmp(is, sha) != 0)
            st = mr_fail(err, MR_EDATA, "%s: is not the text that it is named after; restore it, or start a new run",
                         file);
    }
    mr_free(file);
    if (st == MR_OK)
        *out = text_add(t, x);
    else
        text_free(x);
    return st;
}

static mr_status get(mr_texts *t, const char *module, const mr_text **out, mr_err *err) {
    *out = mr_texts_find(t, module);
    if (*out) return MR_OK;
    if (t->n >= MAX_TEXTS) return mr_fail(err, MR_EINVAL, "\"%s\": %d Lua files are open, no more", module, t->n);
    const char *sha = !is_own_module(module) ? mr_detail_hash(t->pinned, module) : NULL;
    if (sha && t->store) return get_pinned(t, module, sha, out, err);
    const mr_text *before = t->before ? mr_texts_find(t->before, module) : NULL;
    if (before && mr_text_is_own(before)) {
        mr_texts_add_copy(t, before);
        *out = t->list[t->n - 1];
        return MR_OK;
    }
    mr_text *x = mr_alloc(sizeof *x);
    mr_status st = MR_OK;
    const double began = mr_wall_s();
    if (before) { /* never another file of that name further down the path */
        const char *why = not_a_file(before->path, &x->seen);
        if (why) st = mr_fail(err, MR_EINVAL, "%s: %s", before->pub.name, why);
        x->path = mr_strdup(before->path);
    } else {
        st = find_file(t, module, &x->path, err);
    }
    char *text = NULL;
    if (st == MR_OK && stat(x->path, &x->seen) != 0) st = mr_fail_errno(err, "%s", x->path);
    if (st == MR_OK && !S_ISREG(x->seen.st_mode)) { /* to open a pipe would wait for its writer, a device may have no end */
        char *name = mr_text_display_name(x->path);
        st = mr_fail(err, MR_EINVAL, "%s: is no plain file, want a Lua file", name);
        mr_free(name);
    }
    if (st == MR_OK) st = mr_file_read(&text, &x->pub.len, x->path, TEXT_MAX_BYTES, err);
    if (st != MR_OK) {
        text_free(x);
        return st;
    }
    if (is_young(&x->seen, began)) memset(&x->seen, 0, sizeof x->seen);
    x->module = mr_strdup(module);
    x->pub.name = mr_text_display_name(x->path);
    x->pub.text = text;
    *out = text_add(t, x);
    return MR_OK;
}

mr_status mr_texts_get(mr_texts *t, const char *module, const mr_text **out, mr_err *err) {
    mr_status st = get(t, module, out, err);
    if (st == MR_ENOTFOUND) {
        mr_free(t->missing);
        t->missing = mr_strdup(module);
    }
    MR_TRY(st);
    if (strncmp(module, "medrl.", 6) != 0) t->newest = *out;
    return MR_OK;
}

static bool same_stat(const struct stat *a, const struct stat *b) {
    return a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
           a->st_size == b->st_size && a->st_ino == b->st_ino && a->st_mode == b->st_mode;
}

bool mr_texts_changed(mr_texts *t, mr_str *what, uint64_t *signature, bool *young) {
    bool changed = false;
    *signature = 0;
    *young = false;
    const double before = mr_wall_s(), at = mr_now_s(); /* before all stats: however long they take, nothing gets older by it */
    for (int i = 0; i < t->n; i++) {
        mr_text *x = t->list[i];
        if (!x->path) continue;
        struct stat now;
        x->changed = false;
        if (mr_text_is_own(x)) continue;
        if (stat(x->path, &now) == 0 && x->seen.st_ino && same_stat(&now, &x->seen)) {
            x->found_s = 0;
            continue;
        }
        const char *why = not_a_file(x->path, &now);
        const bool fresh = !why && is_young(&now, before);
        if (x->found_s == 0 || !same_stat(&now, &x->found)) x->found = now, x->found_s = at;
        if (why) {
            snprintf(x->looked_as, sizeof x->looked_as, "%.64s", why);
            memset(&x->looked, 0, sizeof x->looked);
        } else if (!x->looked.st_ino || !same_stat(&now, &x->looked)) {
            if (mr_sha256_file(x->looked_as, x->path, NULL) != MR_OK) strcpy(x->looked_as, "unreadable");
            x->looked = fresh ? (struct stat){ 0 } : now;
        }
        if (strcmp(x->looked_as, x->pub.sha256) == 0) { /* touched only */
            if (!fresh) x->seen = now;
            x->found_s = 0;
            continue;
        }
        /* By the file's own stamp, or by ours: a file that is being emptied is short before its stamp is a new one (ext4),
         * and one that is replaced by way of its removal is gone for a moment. */
        *young = *young || fresh || at - x->found_s < YOUNG_S;
        *signature = *signature * 31 + mr_hash64(x->looked_as, strlen(x->looked_as)) + (uint64_t)i + 1;
        mr_str_printf(what, "%s%s", changed ? ", " : "", x->pub.name);
        x->changed = changed = true;
    }
    return changed;
}

bool mr_texts_mended(mr_texts *t) {
    mr_str what = { 0 };
    uint64_t signature;
    bool young, mended = mr_texts_changed(t, &what, &signature, &young);
    mr_str_clear(&what);
    char *path = NULL;
    if (!mended && t->missing) mended = find_file(t, t->missing, &path, NULL) == MR_OK;
    mr_free(path);
    return mended;
}

void mr_texts_describe(const mr_texts *t, cJSON *detail) {
    cJSON *scripts = cJSON_AddObjectToObject(detail, "scripts"), *modules = cJSON_AddObjectToObject(detail, "modules");
    for (int i = 0; i < t->n; i++) {
        const mr_text *x = t->list[i];
        if (!cJSON_GetObjectItemCaseSensitive(scripts, x->pub.name))
            cJSON_AddStringToObject(scripts, x->pub.name, x->pub.sha256);
        cJSON_AddStringToObject(modules, x->module, x->pub.name);
    }
}

const char *mr_detail_hash(const cJSON *detail, const char *module) {
    const char *name = cJSON_GetStringValue(
        cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(detail, "modules"), module));
    const char *sha =
        name ? cJSON_GetStringValue(
                   cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(detail, "scripts"), name))
             : NULL;
    return sha && strlen(sha) == 64 && strspn(sha, "0123456789abcdef") == 64 ? sha : NULL;
}
