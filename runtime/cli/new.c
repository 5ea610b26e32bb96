/* new.c - `medrl new`: a commented file that works at once, to begin a reward, dataset, recipe or template with. The
 * files are lua/medrl/new/new_KIND.lua: they run and are tested as they stand, only the name is replaced. */
#include <ctype.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fsafe.h"
#include "base/log.h"
#include "cli/cli.h"
#include "rl/settings.h"

enum { MAX_NAME = 48 };

static const struct {
    const char *kind, *folder;
    const char *next; /* commands; %s is the path, then once more the path or the name */
} kinds[] = {
    { "reward", "rewards",
      "  medrl test %s            runs its cases\n"
      "  medrl test --fuzz %s     what it pays for completions without an answer\n"
      "  rewards = { ..., \"%s\" }  in a recipe; saving the file during a run takes the new version over\n" },
    { "dataset", "datasets",
      "  medrl test %s            runs its cases\n"
      "  in a recipe: data.get \"%s\", and its file with --set data.files.%s=PATH\n" },
    { "recipe", "recipes",
      "  medrl data %s            the rows and prompts that it makes\n"
      "  medrl run %s             trains\n" },
    { "template", "templates", "  medrl test %s            runs its cases\n" },
};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

static mr_status check_name(const char *name, mr_err *err) {
    bool good = islower((unsigned char)name[0]) && strlen(name) <= MAX_NAME;
    for (const char *p = name; *p; p++)
        good = good && (islower((unsigned char)*p) || isdigit((unsigned char)*p) || *p == '_');
    return good ? MR_OK
                : mr_fail(err, MR_EINVAL,
                          "new: \"%s\" is no name, want lower-case letters, digits and _, beginning with a letter, at "
                          "most %d",
                          name, MAX_NAME);
}

static mr_status find_kind(int *kind, const char *word, mr_err *err) {
    const char *names[N_KINDS];
    for (int i = 0; i < N_KINDS; i++) {
        names[i] = kinds[i].kind;
        *kind = i;
        if (strcmp(word, names[i]) == 0) return MR_OK;
    }
    const char *near = mr_nearest_name(word, names, N_KINDS);
    return mr_fail(err, MR_EINVAL, "new: unknown kind \"%s\"%s%s%s, want reward, dataset, recipe or template", word,
                   near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

/* The file for a kind, with every new_KIND replaced by the name. */
static mr_status fill(mr_str *out, int kind, const char *name, mr_err *err) {
    char *path = mr_asprintf("%s/lua/medrl/new/new_%s.lua", mr_home_dir(), kinds[kind].kind), *text;
    char *mark = mr_asprintf("new_%s", kinds[kind].kind);
    size_t len;
    mr_status st = mr_file_read(&text, &len, path, 1 << 20, err);
    if (st == MR_OK) {
        const char *from = text;
        for (const char *p; (p = strstr(from, mark)); from = p + strlen(mark)) {
            mr_str_add(out, from, (size_t)(p - from));
            mr_str_puts(out, name);
        }
        mr_str_puts(out, from);
        mr_free(text);
    }
    mr_free(mark);
    mr_free(path);
    return st;
}

static void print_next(int kind, const char *path, const char *name) {
    printf("%s: written; it works as it stands. Next:\n", path);
    const char *second = strcmp(kinds[kind].kind, "dataset") == 0 ? name : path;
    printf(kinds[kind].next, path, second, name);
}

mr_status mr_cmd_new(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "new",
        "medrl new reward brevity\nmedrl new recipe mine --dir recipes",
        "KIND NAME",
        2,
        2,
        "Writes a commented file to begin with: KIND is reward, dataset, recipe or template. It lies in rewards/, "
        "datasets/, recipes/ or templates/ of the working folder, where `medrl run` looks. A file that is there is "
        "never overwritten.",
    };
    const char *dir = NULL;
    const mr_opt opts[] = { { "dir", 0, MR_OPT_TEXT, "DIR", "folder of the file (rewards/ and so on)", &dir, 0, 0 } };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, 1, argc, argv, err);
    if (st == MR_OK && !a.help) {
        int kind = 0;
        mr_str text = { 0 };
        st = find_kind(&kind, a.items[0], err);
        if (st == MR_OK) st = check_name(a.items[1], err);
        if (st == MR_OK) {
            char *folder = mr_strdup(dir ? dir : kinds[kind].folder);
            char *path = mr_asprintf("%s/%s.lua", folder, a.items[1]);
            char *ours = mr_asprintf("%s/lua/%s/%s.lua", mr_home_dir(), kinds[kind].folder, a.items[1]);
            struct stat info;
            if (lstat(path, &info) == 0)
                st = mr_fail(err, MR_EINVAL, "%s: is there already; choose another name, or another folder with --dir",
                             path);
            if (st == MR_OK) st = fill(&text, kind, a.items[1], err);
            if (st == MR_OK) st = mr_mkdirs(folder, err);
            if (st == MR_OK) st = mr_file_write(path, text.data, text.len, err);
            if (st == MR_OK && mr_path_exists(ours))
                mr_warn("%s: here it stands before the %s of that name that comes with medrl", path, kinds[kind].kind);
            if (st == MR_OK) print_next(kind, path, a.items[1]);
            mr_free(ours);
            mr_free(path);
            mr_free(folder);
        }
        mr_str_clear(&text);
    }
    mr_args_clear(&a);
    return st;
}
