/* texts.c - finding and reading Lua files: see texts.h. */
#include "script/texts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/rng.h"

enum { TEXT_MAX_BYTES = 4 << 20 };

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

mr_status mr_texts_open(mr_texts *t, const char *main_arg, mr_err *err) {
    memset(t, 0, sizeof *t);
    char *home_lua = mr_path_join(mr_home_dir(), "lua");
    char *tries[4] = { mr_strdup(main_arg), mr_path_join(home_lua, main_arg), mr_path_join(mr_home_dir(), main_arg),
                       NULL };
    tries[3] = mr_asprintf("%s.lua", tries[1]);
    for (int i = 0; i < 4; i++) {
        if (!t->main_path && (i == 0 || main_arg[0] != '/') && is_file(tries[i])) t->main_path = mr_strdup(tries[i]);
    }
    mr_status st = MR_OK;
    if (!t->main_path) {
        st = mr_fail(err, MR_ENOTFOUND, "%s: no such file here or in %s; `ls %s/recipes` shows what comes with medrl",
                     main_arg, home_lua, home_lua);
    } else {
        char *dir = mr_path_dir(t->main_path);
        bool in_kind = is_kind_folder(mr_path_name(dir));
        char *above = in_kind ? mr_path_dir(dir) : NULL;
        add_root(t, dir);
        if (above) add_root(t, above);
        add_root(t, mr_strdup("."));
        add_root(t, mr_strdup("./lua"));
        t->home_root = add_root(t, mr_strdup(home_lua));
    }
    for (int i = 0; i < 4; i++) mr_free(tries[i]);
    mr_free(home_lua);
    return st;
}

void mr_texts_open_text(mr_texts *t, const char *name, const char *text, size_t len, const char *path,
                        const char *sha256) {
    memset(t, 0, sizeof *t);
    t->main_path = mr_strdup(path ? path : name);
    t->home_root = add_root(t, mr_path_join(mr_home_dir(), "lua"));
    mr_text *x = mr_alloc(sizeof *x);
    x->module = mr_strdup("@main");
    x->path = mr_strdup(path);
    if (path) (void)!stat(path, &x->seen); /* not there: it shows as changed */
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
    mr_free(t->main_path);
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
    if (strcmp(module, "@main") == 0) {
        *path = mr_strdup(t->main_path);
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

static mr_status get(mr_texts *t, const char *module, const mr_text **out, mr_err *err) {
    *out = NULL;
    for (int i = 0; i < t->n; i++) {
        if (strcmp(t->list[i]->module, module) == 0) {
            *out = t->list[i];
            return MR_OK;
        }
    }
    char *path;
    MR_TRY(find_file(t, module, &path, err));
    mr_text *x = mr_alloc(sizeof *x);
    x->module = mr_strdup(module);
    x->path = path;
    x->pub.name = mr_text_display_name(path);
    char *text;
    mr_status st = stat(path, &x->seen) == 0 ? mr_file_read(&text, &x->pub.len, path, TEXT_MAX_BYTES, err)
                                             : mr_fail_errno(err, "%s", path);
    if (st != MR_OK) {
        text_free(x);
        return st;
    }
    x->pub.text = text;
    mr_sha256(x->pub.sha256, text, x->pub.len);
    t->list = mr_realloc(t->list, (size_t)(t->n + 1) * sizeof *t->list);
    t->list[t->n++] = x;
    *out = x;
    return MR_OK;
}

mr_status mr_texts_get(mr_texts *t, const char *module, const mr_text **out, mr_err *err) {
    MR_TRY(get(t, module, out, err));
    if (strncmp(module, "medrl.", 6) != 0) t->newest = *out;
    return MR_OK;
}

bool mr_texts_changed(const mr_texts *t, mr_str *what, uint64_t *signature) {
    bool changed = false;
    *signature = 0;
    for (int i = 0; i < t->n; i++) {
        const mr_text *x = t->list[i];
        if (!x->path) continue;
        struct stat now;
        memset(&now, 0, sizeof now);
        bool there = stat(x->path, &now) == 0;
        if (there && now.st_mtim.tv_sec == x->seen.st_mtim.tv_sec && now.st_mtim.tv_nsec == x->seen.st_mtim.tv_nsec &&
            now.st_size == x->seen.st_size && now.st_ino == x->seen.st_ino)
            continue;
        char sha[65] = "";
        if (there && mr_sha256_file(sha, x->path, NULL) == MR_OK && strcmp(sha, x->pub.sha256) == 0)
            continue; /* touched only */
        *signature = *signature * 31 + mr_hash64(sha, strlen(sha)) + (uint64_t)i + 1;
        mr_str_printf(what, "%s%s", changed ? ", " : "", x->pub.name);
        changed = true;
    }
    return changed;
}
