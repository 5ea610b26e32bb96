/* completion.c - `medrl completion SHELL` and `medrl help --man`: scripts and the manual page, made from the table of
 * commands and what each of them says of its options. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

/* ---- words ---- */

/* In single quotes, as all three shells read them. */
static void put_quoted(const char *text) {
    putchar('\'');
    for (; *text; text++) {
        if (*text == '\'')
            fputs("'\\''", stdout);
        else
            putchar(*text);
    }
    putchar('\'');
}

/* What an argument can be: files, or words after the first. */
static bool takes_files(const char *args) {
    return strstr(args, "RECIPE") || strstr(args, "RUN") || strstr(args, "MODEL") || strstr(args, "PATH");
}

static bool is_file_value(const char *value) {
    return value &&
           (!strcmp(value, "FILE") || !strcmp(value, "DIR") || !strcmp(value, "PATH") || !strcmp(value, "WHAT"));
}

/* Options whose values are one of a few words, by name; tests/cli/test_install.sh holds each against the option's
 * help. */
static const char *choices(const char *name) {
    static const char *const table[][2] = {
        { "device", "auto cpu cuda:0" },
        { "device-assume", "t4 l4 a10g rtx4090 a100 h100" },
        { "dtype", "auto f32 bf16 f16" },
        { "on-error", "pause stop" },
        { "store", "auto f32 bf16 f16 nf4" },
        { "to", "adapter merged gguf" },
        { "type", "q8_0 q4_k_m q4_0 f16 bf16 f32" },
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strcmp(table[i][0], name) == 0) return table[i][1];
    return NULL;
}

/* What `medrl help`, `medrl new` and `medrl completion` want in first place; owned, NULL: nothing in particular. */
static char *first_words(const char *command, const mr_command *c, int n) {
    if (strcmp(command, "new") == 0) return mr_strdup("reward dataset recipe template");
    if (strcmp(command, "completion") == 0) return mr_strdup("bash zsh fish");
    if (strcmp(command, "help") != 0) return NULL;
    mr_str s = { 0 };
    for (int i = 0; i < n; i++) mr_str_printf(&s, "%s ", c[i].name);
    mr_help_pages(&s);
    return mr_str_steal(&s);
}

/* ---- bash ---- */

static void bash_options(void *self, const mr_usage *u, const mr_opt *opts, int n) {
    (void)self;
    printf("        %s) words='", u->command);
    for (int i = 0; i < n; i++) printf("%s--%s", i ? " " : "", opts[i].name);
    printf("' ;;\n");
}

static void bash_values(void *self, const mr_usage *u, const mr_opt *opts, int n) {
    (void)self;
    for (int i = 0; i < n; i++) {
        if (opts[i].kind == MR_OPT_FLAG) continue;
        const char *words = choices(opts[i].name);
        printf("        %s:--%s) COMPREPLY=(", u->command, opts[i].name);
        if (words)
            printf("$(compgen -W '%s' -- \"$word\")", words);
        else if (is_file_value(opts[i].value))
            printf("$(compgen -f -- \"$word\")");
        printf(") ;;\n");
    }
}

static void print_bash(const mr_command *c, int n) {
    printf("# bash completion for medrl; made by: medrl completion bash\n"
           "_medrl() {\n    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} "
           "command=${COMP_WORDS[1]} words=''\n    COMPREPLY=()\n    if [ \"$COMP_CWORD\" = 1 ]; then\n"
           "        COMPREPLY=($(compgen -W '");
    for (int i = 0; i < n; i++) printf("%s%s", i ? " " : "", c[i].name);
    printf("' -- \"$word\"))\n        return\n    fi\n    case $command:$before in\n");
    for (int i = 0; i < n; i++) mr_args_describe(&c[i], bash_values, NULL);
    printf("        *) before='' ;;\n    esac\n    [ -n \"$before\" ] && return\n    case $command in\n");
    for (int i = 0; i < n; i++) mr_args_describe(&c[i], bash_options, NULL);
    printf("    esac\n    case $word in\n        -*) COMPREPLY=($(compgen -W \"$words\" -- \"$word\")) ;;\n        *)\n"
           "            case $command:$COMP_CWORD in\n");
    for (int i = 0; i < n; i++) {
        char *words = first_words(c[i].name, c, n);
        if (words)
            printf("                %s:2) COMPREPLY=($(compgen -W '%s' -- \"$word\")) ;;\n", c[i].name, words);
        mr_free(words);
    }
    printf("                *) COMPREPLY=($(compgen -f -- \"$word\")) ;;\n            esac ;;\n    esac\n}\n"
           "complete -o filenames -F _medrl medrl\n");
}

/* ---- zsh ---- */

/* A description stands between brackets: those and colons are escaped. */
static void put_zsh(const char *text) {
    for (; *text; text++) {
        if (*text == '\'') {
            fputs("'\\''", stdout);
            continue;
        }
        if (strchr("[]:\\", *text)) putchar('\\');
        putchar(*text);
    }
}

static void zsh_options(void *self, const mr_usage *u, const mr_opt *opts, int n) {
    const mr_command *c = self;
    int n_commands;
    const mr_command *commands = mr_commands(&n_commands);
    printf("        %s) _arguments", u->command);
    for (int i = 0; i < n; i++) {
        printf(" \\\n            '%s--%s", opts[i].kind == MR_OPT_LIST ? "*" : "", opts[i].name);
        if (opts[i].kind != MR_OPT_FLAG) putchar('=');
        putchar('[');
        put_zsh(opts[i].help);
        putchar(']');
        if (opts[i].kind != MR_OPT_FLAG) {
            printf(":%s:", opts[i].value ? opts[i].value : "value");
            const char *words = choices(opts[i].name);
            if (words) {
                putchar('(');
                put_zsh(words);
                putchar(')');
            } else if (is_file_value(opts[i].value))
                printf("_files");
        }
        putchar('\'');
    }
    char *words = first_words(c->name, commands, n_commands);
    if (words)
        printf(" \\\n            '1:word:(%s)'", words);
    else if (takes_files(c->args))
        printf(" \\\n            '*:file:_files'");
    mr_free(words);
    printf(" ;;\n");
}

static void print_zsh(const mr_command *c, int n) {
    printf("#compdef medrl\n# zsh completion for medrl; made by: medrl completion zsh\n_medrl_commands() {\n    local "
           "-a list\n"
           "    list=(\n");
    for (int i = 0; i < n; i++) {
        printf("        '%s:", c[i].name);
        put_zsh(c[i].about);
        printf("'\n");
    }
    printf(
        "    )\n    _describe command list\n}\n_medrl() {\n    if (( CURRENT == 2 )); then\n        _medrl_commands\n"
        "        return\n    fi\n    local command=$words[2]\n    shift words\n    (( CURRENT-- ))\n    case $command "
        "in\n");
    for (int i = 0; i < n; i++) mr_args_describe(&c[i], zsh_options, (void *)(uintptr_t)&c[i]);
    printf("    esac\n}\n_medrl \"$@\"\n");
}

/* ---- fish ---- */

static void fish_options(void *self, const mr_usage *u, const mr_opt *opts, int n) {
    (void)self;
    for (int i = 0; i < n; i++) {
        printf("complete -c medrl -n '__fish_seen_subcommand_from %s' -l %s", u->command, opts[i].name);
        if (opts[i].letter) printf(" -s %c", opts[i].letter);
        if (opts[i].kind != MR_OPT_FLAG) printf(is_file_value(opts[i].value) ? " -r -F" : " -x");
        if (choices(opts[i].name)) printf(" -a '%s'", choices(opts[i].name));
        printf(" -d ");
        put_quoted(opts[i].help);
        putchar('\n');
    }
}

static void print_fish(const mr_command *c, int n) {
    printf("# fish completion for medrl; made by: medrl completion fish\n");
    for (int i = 0; i < n; i++) {
        printf("complete -c medrl -n __fish_use_subcommand -f -a %s -d ", c[i].name);
        put_quoted(c[i].about);
        putchar('\n');
    }
    for (int i = 0; i < n; i++) mr_args_describe(&c[i], fish_options, NULL);
    for (int i = 0; i < n; i++) {
        char *words = first_words(c[i].name, c, n);
        if (words)
            printf("complete -c medrl -n '__fish_seen_subcommand_from %s; and test (count (commandline -opc)) = 2' "
                   "-f -a '%s'\n",
                   c[i].name, words);
        mr_free(words);
    }
}

/* ---- man ---- */

/* A line of running text: backslashes and hyphens as roff wants them, no request at its start. */
static void put_roff(const char *text) {
    bool start = true;
    for (; *text; text++) {
        if (start && (*text == '.' || *text == '\'')) fputs("\\&", stdout);
        start = *text == '\n';
        if (*text == '\\')
            fputs("\\e", stdout);
        else if (*text == '-')
            fputs("\\-", stdout);
        else
            putchar(*text);
    }
}

static void man_command(void *self, const mr_usage *u, const mr_opt *opts, int n) {
    (void)self;
    printf(".SS medrl %s ", u->command);
    put_roff(u->args);
    printf("\n");
    put_roff(u->about);
    printf("\n.PP\n.nf\n");
    for (const char *line = u->example; *line;) {
        const size_t len = strcspn(line, "\n");
        char text[512];
        snprintf(text, sizeof text, "%.*s", (int)(len < 500 ? len : 500), line);
        printf("    ");
        put_roff(text);
        printf("\n");
        line += len + (line[len] == '\n');
    }
    printf(".fi\n");
    for (int i = 0; i < n; i++) {
        if (!strcmp(opts[i].name, "help") || !strcmp(opts[i].name, "verbose") || !strcmp(opts[i].name, "quiet"))
            continue;
        printf(".TP\n.B ");
        if (opts[i].letter) printf("\\-%c, ", opts[i].letter);
        printf("\\-\\-");
        put_roff(opts[i].name);
        if (opts[i].value) printf(" \\fI%s\\fR", opts[i].value);
        printf("\n");
        put_roff(opts[i].help);
        printf("\n");
    }
}

void mr_print_man(void) {
    int n;
    const mr_command *c = mr_commands(&n);
    printf(
        ".TH MEDRL 1 \"\" \"medrl %s\" \"User Commands\"\n.SH NAME\nmedrl \\- teaches a small instruct model with "
        "GRPO\n"
        ".SH SYNOPSIS\n.B medrl\n.I COMMAND\n[options]\n.SH DESCRIPTION\n"
        "One program that trains an instruct model on rewards that are Lua files, and measures, reports and runs the "
        "result. Results go to standard output, progress to standard error.\n"
        ".SH OPTIONS\nEvery command knows\n.TP\n.B \\-h, \\-\\-help\nits own help, which begins with an example\n"
        ".TP\n.B \\-v, \\-\\-verbose\nsay more on standard error\n.TP\n.B \\-q, \\-\\-quiet\nonly warnings and errors "
        "there\n"
        ".SH COMMANDS\n",
        mr_version());
    for (int i = 0; i < n; i++) mr_args_describe(&c[i], man_command, NULL);
    printf(
        ".SH EXIT STATUS\n"
        ".TP\n.B 0\ndone; also a run that ended because its budget was spent\n.TP\n.B 2\nusage or recipe\n"
        ".TP\n.B 65\nbad data\n.TP\n.B 69\nnetwork\n.TP\n.B 70\ninternal\n.TP\n.B 71\nout of memory\n.TP\n.B 74\ndisk\n"
        ".TP\n.B 75\ntry again\n.TP\n.B 77\nrefused by a safety rule\n.TP\n.B 130, 143\nstopped by a signal\n"
        ".SH ENVIRONMENT\n.TP\n.B MEDRL_HOME\nfolder of medrl's own files (lua, docs), where it is not beside the "
        "program\n"
        ".TP\n.B MEDRL_CUDA_MODULE\npath of libmedrl_cuda.so\n.TP\n.B XDG_CACHE_HOME\nwhere models are kept: "
        "$XDG_CACHE_HOME/medrl, else ~/.cache/medrl\n.TP\n.B NO_COLOR\nno colors\n");
}

/* ---- the command ---- */

mr_status mr_cmd_completion(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "completion",
        "source <(medrl completion bash)\n"
        "medrl completion zsh > ~/.zfunc/_medrl\n"
        "medrl completion fish > ~/.config/fish/completions/medrl.fish",
        "SHELL",
        1,
        1,
        "Prints a completion script for bash, zsh or fish: commands, options, files. An installed medrl has them in "
        "place.",
    };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, NULL, 0, argc, argv, err);
    if (st == MR_OK && !a.help) {
        int n;
        const mr_command *c = mr_commands(&n);
        if (strcmp(a.items[0], "bash") == 0)
            print_bash(c, n);
        else if (strcmp(a.items[0], "zsh") == 0)
            print_zsh(c, n);
        else if (strcmp(a.items[0], "fish") == 0)
            print_fish(c, n);
        else
            st = mr_fail(err, MR_EINVAL, "completion: there is none for \"%.40s\", want bash, zsh or fish", a.items[0]);
    }
    mr_args_clear(&a);
    return st;
}
