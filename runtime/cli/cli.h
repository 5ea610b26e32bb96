/* cli.h - what the commands share: their table, options, signals, output.
 *
 * A command is one function that gets its own arguments (argv[0] is its name) and returns a status with one line in
 * err; main.c prints the line and turns the status into the exit code. Results go to stdout, all else to stderr.
 * Threads: one. */
#ifndef MR_CLI_H
#define MR_CLI_H

#include <cjson/cJSON.h>
#include <stdio.h>

#include "base/memory.h"

typedef mr_status (*mr_command_fn)(int argc, char **argv, mr_err *err);

/* The table of commands, in the order of the help; help, completions and the manual page are made from it. */
typedef struct mr_command {
    const char *name, *args, *about;
    mr_command_fn run;
} mr_command;
const mr_command *mr_commands(int *n);
/* What `medrl help` knows beside the commands: "recipe" and the names of the pages, a space behind each but the last. */
void mr_help_pages(mr_str *out);

mr_status mr_cmd_run(int argc, char **argv, mr_err *err);
mr_status mr_cmd_resume(int argc, char **argv, mr_err *err);
mr_status mr_cmd_plan(int argc, char **argv, mr_err *err);
mr_status mr_cmd_eval(int argc, char **argv, mr_err *err);
mr_status mr_cmd_report(int argc, char **argv, mr_err *err);
mr_status mr_cmd_hash(int argc, char **argv, mr_err *err);
mr_status mr_cmd_demo(int argc, char **argv, mr_err *err);
mr_status mr_cmd_generate(int argc, char **argv, mr_err *err);
mr_status mr_cmd_chat(int argc, char **argv, mr_err *err);
mr_status mr_cmd_repl(int argc, char **argv, mr_err *err);
mr_status mr_cmd_attach(int argc, char **argv, mr_err *err);
mr_status mr_cmd_test(int argc, char **argv, mr_err *err);
mr_status mr_cmd_export(int argc, char **argv, mr_err *err);
mr_status mr_cmd_score(int argc, char **argv, mr_err *err);
mr_status mr_cmd_new(int argc, char **argv, mr_err *err);
mr_status mr_cmd_data(int argc, char **argv, mr_err *err);
mr_status mr_cmd_tokenize(int argc, char **argv, mr_err *err);
mr_status mr_cmd_logprobs(int argc, char **argv, mr_err *err);
mr_status mr_cmd_bench(int argc, char **argv, mr_err *err);
mr_status mr_cmd_doctor(int argc, char **argv, mr_err *err);
mr_status mr_cmd_version(int argc, char **argv, mr_err *err);
mr_status mr_cmd_pull(int argc, char **argv, mr_err *err);
mr_status mr_cmd_completion(int argc, char **argv, mr_err *err);

/* ---- options (options.c) ---- */

typedef enum mr_opt_kind {
    MR_OPT_FLAG, /* bool */
    MR_OPT_TEXT, /* const char *, borrowed from argv */
    MR_OPT_INT,  /* int64_t in min..max */
    MR_OPT_REAL, /* double in min..max */
    MR_OPT_LIST  /* const char *const *: all values, NULL-terminated; owned by mr_args; NULL: none was given */
} mr_opt_kind;

typedef struct mr_opt {
    const char *name; /* "max-new-tokens" */
    char letter;      /* 0: none */
    mr_opt_kind kind;
    const char *value; /* how the help calls the value: "N" */
    const char *help;
    void *out; /* holds the default before parsing */
    double min, max;
} mr_opt;

typedef struct mr_usage {
    const char *command; /* "generate" */
    const char *example; /* lines that can be typed; the help begins with them */
    const char *args;    /* "MODEL [PROMPT]" */
    int min_args, max_args;
    const char *about; /* what it does, in a few lines */
} mr_usage;

typedef struct mr_args {
    const char *const *items; /* what is no option, in order */
    int n;
    bool help; /* --help was given and printed: the command has nothing more to do */
    mr_arena arena;
} mr_args;

/* Options and arguments may come in any order; "--" ends the options. -h, -v, -q are known to every command.
 * MR_EINVAL with a suggestion for an option that does not exist. a is filled from zero; clear with mr_args_clear, on
 * failure too. */
mr_status mr_args_parse(mr_args *a, const mr_usage *usage, const mr_opt *opts, int n_opts, int argc, char **argv,
                        mr_err *err);
void mr_args_clear(mr_args *a);
/* What a command would understand, without doing anything: told(self, usage, opts, n) is called once; opts end with those
 * that every command knows. */
typedef void (*mr_told_fn)(void *self, const mr_usage *usage, const mr_opt *opts, int n);
void mr_args_describe(const mr_command *command, mr_told_fn told, void *self);
/* `medrl help --man`: the manual page (completion.c). */
void mr_print_man(void);

/* ---- names on the hub (pull.c) ---- */

/* Once, before a command runs: names of the hub that are not on this machine are downloaded when --pull was given or
 * somebody at the terminal says yes; else the error has the command that does. */
void mr_pull_arm(void);
bool *mr_pull_flag(void);
#define MR_OPT_PULL                                                                                                    \
    { "pull", 0, MR_OPT_FLAG, NULL, "download a model or data set that is not on this machine", mr_pull_flag(), 0, 0 }

/* ---- signals (signals.c) ---- */

/* SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGXCPU from now on: the first is remembered and handed to stop(self), which must be
 * async-signal-safe (NULL: only remembered); the second ends the program at once. */
void mr_signals_catch(void (*stop)(void *self), void *self);
/* The next signal ends the program at once, with one line and the terminal as it was. */
void mr_signals_leave(void);
int mr_signals_seen(void); /* the number of the signal, 0: none yet */
void mr_signals_forget(void);
/* How many signals ask before the next one ends the program: 1, more where somebody types. */
void mr_signals_patience(int n);
const char *mr_signals_name(int number); /* "SIGINT" */
int mr_signals_exit_code(int number);    /* 128 + number; 75 (try again) for SIGUSR1 and SIGXCPU */

/* An option as one more --set: KEY=VALUE; value NULL changes nothing. */
const char *const *mr_with_override(mr_args *a, const char *const *overrides, const char *key, const char *value);
/* "--vram SIZE" as one more --set: vram=SIZE; size NULL changes nothing. */
const char *const *mr_with_vram(mr_args *a, const char *const *overrides, const char *size);

/* ---- output ---- */

void mr_print_json(const cJSON *item); /* one line to stdout */
/* Wall seconds since this process was started, by the kernel's account. */
double mr_since_start_s(void);
/* The version of the program. */
const char *mr_version(void);

#endif
