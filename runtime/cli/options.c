/* options.c - command lines: one table an option set, from which the help is printed too. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cli/cli.h"
#include "rl/settings.h"

enum { MAX_OPTS = 32, HELP_COLUMN = 27, HELP_WIDTH = 96 };

static const mr_opt common[] = {
    { "help", 'h', MR_OPT_FLAG, NULL, "this text", NULL, 0, 0 },
    { "verbose", 'v', MR_OPT_FLAG, NULL, "say more on stderr", NULL, 0, 0 },
    { "quiet", 'q', MR_OPT_FLAG, NULL, "only warnings and errors on stderr", NULL, 0, 0 },
};
enum { N_COMMON = sizeof common / sizeof common[0] };

static struct {
    mr_told_fn told; /* NULL: nobody asks, parsing parses */
    void *self;
} asked;

static void print_option(const mr_opt *o) {
    char head[64];
    int n = o->letter ? snprintf(head, sizeof head, "  -%c, --%s", o->letter, o->name)
                      : snprintf(head, sizeof head, "      --%s", o->name);
    if (o->value) snprintf(head + n, sizeof head - (size_t)n, " %s", o->value);
    printf("%-*s %s\n", HELP_COLUMN, head, o->help);
}

static void print_wrapped(const char *text) {
    int column = 0;
    while (*text) {
        int len = (int)strcspn(text, " \n");
        if (column && column + 1 + len > HELP_WIDTH) {
            printf("\n");
            column = 0;
        }
        if (len) column += printf("%s%.*s", column ? " " : "", len, text);
        text += len + (text[len] != '\0');
    }
    printf("\n");
}

static void print_help(const mr_usage *u, const mr_opt *opts, int n_opts) {
    for (const char *line = u->example; *line;) {
        size_t len = strcspn(line, "\n");
        printf("  %.*s\n", (int)len, line);
        line += len + (line[len] == '\n');
    }
    printf("\nusage: medrl %s%s%s [options]\n\n", u->command, *u->args ? " " : "", u->args);
    print_wrapped(u->about);
    printf("\noptions:\n");
    for (int i = 0; i < n_opts; i++) print_option(&opts[i]);
    for (int i = 0; i < N_COMMON; i++) print_option(&common[i]);
}

static const mr_opt *by_name(const mr_opt *opts, int n, const char *name, size_t len) {
    for (int i = 0; i < n; i++)
        if (strlen(opts[i].name) == len && memcmp(opts[i].name, name, len) == 0) return &opts[i];
    return NULL;
}

static const mr_opt *by_letter(const mr_opt *opts, int n, char letter) {
    for (int i = 0; i < n; i++)
        if (opts[i].letter == letter) return &opts[i];
    return NULL;
}

static mr_status unknown(const mr_usage *u, const mr_opt *opts, int n_opts, const char *word, size_t len, mr_err *err) {
    const char *names[MAX_OPTS + N_COMMON];
    int n = 0;
    for (int i = 0; i < n_opts && n < MAX_OPTS; i++) names[n++] = opts[i].name;
    for (int i = 0; i < N_COMMON; i++) names[n++] = common[i].name;
    char *typed = mr_strndup(word, len);
    const char *near = mr_nearest_name(typed, names, n);
    mr_status st =
        near ? mr_fail(err, MR_EINVAL, "%s: unknown option \"--%s\"; did you mean \"--%s\"?", u->command, typed, near)
             : mr_fail(err, MR_EINVAL, "%s: unknown option \"--%s\"; see medrl %s --help", u->command, typed,
                       u->command);
    mr_free(typed);
    return st;
}

static mr_status set_value(mr_args *a, const mr_usage *u, const mr_opt *o, const char *text, int argc, mr_err *err) {
    char *end;
    errno = 0;
    switch (o->kind) {
    case MR_OPT_FLAG: *(bool *)o->out = true; return MR_OK;
    case MR_OPT_TEXT: *(const char **)o->out = text; return MR_OK;
    case MR_OPT_INT: {
        long long x = strtoll(text, &end, 10);
        if (end == text || *end)
            return mr_fail(err, MR_EINVAL, "%s: --%s is \"%s\", want an integer", u->command, o->name, text);
        if (errno || (double)x < o->min || (double)x > o->max)
            return mr_fail(err, MR_EINVAL, "%s: --%s is %s, want %.0f..%.0f", u->command, o->name, text, o->min,
                           o->max);
        *(int64_t *)o->out = x;
        return MR_OK;
    }
    case MR_OPT_REAL: {
        double x = strtod(text, &end);
        if (end == text || *end)
            return mr_fail(err, MR_EINVAL, "%s: --%s is \"%s\", want a number", u->command, o->name, text);
        if (!(x >= o->min && x <= o->max)) /* NaN too */
            return mr_fail(err, MR_EINVAL, "%s: --%s is %s, want %g..%g", u->command, o->name, text, o->min, o->max);
        *(double *)o->out = x;
        return MR_OK;
    }
    case MR_OPT_LIST: {
        const char **list = *(const char ***)o->out;
        if (!list) *(const char ***)o->out = list = mr_arena_alloc(&a->arena, (size_t)(argc + 1) * sizeof *list);
        while (*list) list++;
        *list = text;
        return MR_OK;
    }
    }
    return MR_OK;
}

static void set_common(mr_args *a, const mr_opt *o) {
    if (o->letter == 'h')
        a->help = true;
    else
        mr_log_set_level(o->letter == 'v' ? MR_LOG_DEBUG : MR_LOG_WARN);
}

mr_status mr_args_parse(mr_args *a, const mr_usage *u, const mr_opt *opts, int n_opts, int argc, char **argv,
                        mr_err *err) {
    *a = (mr_args){ 0 };
    const char **items = mr_arena_alloc(&a->arena, (size_t)(argc + 1) * sizeof *items);
    a->items = items;
    bool plain = false;
    if (asked.told) { /* mr_args_describe: the command has nothing more to do */
        mr_opt all[MAX_OPTS + N_COMMON];
        const int n = n_opts < MAX_OPTS ? n_opts : MAX_OPTS;
        if (n) memcpy(all, opts, (size_t)n * sizeof *all);
        memcpy(all + n, common, sizeof common);
        asked.told(asked.self, u, all, n + N_COMMON);
        a->help = true;
        return MR_OK;
    }
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i], *value = NULL;
        const mr_opt *o, *c = NULL;
        if (plain || word[0] != '-' || word[1] == '\0') {
            items[a->n++] = word;
            continue;
        }
        if (strcmp(word, "--") == 0) {
            plain = true;
            continue;
        }
        if (word[1] == '-') {
            size_t len = strcspn(word + 2, "=");
            if (word[2 + len] == '=') value = word + 2 + len + 1;
            o = by_name(opts, n_opts, word + 2, len);
            if (!o) c = by_name(common, N_COMMON, word + 2, len);
            if (!o && !c) return unknown(u, opts, n_opts, word + 2, len, err);
        } else {
            o = by_letter(opts, n_opts, word[1]);
            if (!o) c = by_letter(common, N_COMMON, word[1]);
            if (!o && !c)
                return mr_fail(err, MR_EINVAL, "%s: unknown option \"%.2s\"; see medrl %s --help", u->command, word,
                               u->command);
            if (word[2]) value = word + 2; /* -n5 */
        }
        const char *name = o ? o->name : c->name;
        bool flag = c || o->kind == MR_OPT_FLAG;
        if (flag && value) return mr_fail(err, MR_EINVAL, "%s: --%s takes no value", u->command, name);
        if (c) {
            set_common(a, c);
            continue;
        }
        if (!flag && !value) {
            if (i + 1 >= argc)
                return mr_fail(err, MR_EINVAL, "%s: --%s wants a value: --%s %s", u->command, name, name, o->value);
            value = argv[++i];
        }
        MR_TRY(set_value(a, u, o, value, argc, err));
    }
    if (a->help) {
        print_help(u, opts, n_opts);
        return MR_OK;
    }
    if (a->n < u->min_args)
        return mr_fail(err, MR_EINVAL, "%s: wants %s; for example: medrl %.*s", u->command, u->args,
                       (int)strcspn(u->example + strlen("medrl "), "\n"), u->example + strlen("medrl "));
    if (a->n > u->max_args)
        return mr_fail(err, MR_EINVAL, "%s: \"%s\" is one argument too many, wants %s; quote a text with spaces",
                       u->command, a->items[u->max_args], *u->args ? u->args : "none");
    return MR_OK;
}

void mr_args_describe(const mr_command *command, mr_told_fn told, void *self) {
    char name[32];
    char *argv[] = { name, NULL };
    mr_err none;
    snprintf(name, sizeof name, "%s", command->name);
    asked.told = told;
    asked.self = self;
    command->run(1, argv, &none);
    asked.told = NULL;
}

const char *const *mr_with_override(mr_args *a, const char *const *overrides, const char *key, const char *value) {
    if (!value) return overrides;
    int n = 0;
    while (overrides && overrides[n]) n++;
    const char **all = mr_arena_alloc(&a->arena, (size_t)(n + 2) * sizeof *all);
    if (n) memcpy(all, overrides, (size_t)n * sizeof *all);
    mr_str text = { 0 };
    mr_str_printf(&text, "%s=%s", key, value);
    all[n] = mr_arena_strdup(&a->arena, text.data, text.len);
    mr_str_clear(&text);
    return all;
}

const char *const *mr_with_vram(mr_args *a, const char *const *overrides, const char *size) {
    return mr_with_override(a, overrides, "vram", size);
}

void mr_args_clear(mr_args *a) {
    mr_arena_clear(&a->arena);
    *a = (mr_args){ 0 };
}
