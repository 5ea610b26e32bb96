/* main.c - the table of commands, the exit codes, and the one line that every failure prints. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/cli.h"
#include "rl/settings.h"
#include "script/script.h"

static mr_status help(int argc, char **argv, mr_err *err);

static const mr_command commands[] = {
    { "demo", "", "the whole loop in ten seconds, on a model that is in the repository", mr_cmd_demo },
    { "run", "RECIPE", "train a model as a recipe says", mr_cmd_run },
    { "resume", "RUN", "continue a run from its newest checkpoint", mr_cmd_resume },
    { "plan", "RECIPE", "memory, time and money of a run, before it is started", mr_cmd_plan },
    { "eval", "RUN|MODEL", "greedy accuracy with its interval, tuned beside base", mr_cmd_eval },
    { "report", "RUN", "a run as one HTML file, or served while it goes on", mr_cmd_report },
    { "chat", "MODEL|RUN", "talk to a model, or to what a run has made", mr_cmd_chat },
    { "generate", "MODEL|RUN [PROMPT]", "complete one prompt", mr_cmd_generate },
    { "export", "RUN|MODEL", "the result as a PEFT adapter, merged safetensors or a GGUF, with a check",
      mr_cmd_export },
    { "repl", "[RECIPE]", "a Lua session: sample, score, look at rows, train step by step", mr_cmd_repl },
    { "attach", "RUN", "the same session over a run that is going on", mr_cmd_attach },
    { "pull", "ORG/NAME", "download a model or a data set from the hub", mr_cmd_pull },
    { "data", "RECIPE", "rows, rendered prompts and token counts of a recipe", mr_cmd_data },
    { "test", "[PATH...]", "run the cases inside Lua files", mr_cmd_test },
    { "score", "[RUN]", "what a reward gives to a text, or to all that a run has recorded", mr_cmd_score },
    { "new", "KIND NAME", "write a reward, dataset, recipe or template to begin with", mr_cmd_new },
    { "tokenize", "MODEL", "JSON lines of text to token ids", mr_cmd_tokenize },
    { "logprobs", "MODEL|RUN", "JSON lines of text or ids to log-probabilities", mr_cmd_logprobs },
    { "hash", "RUN", "one SHA-256 over adapter, optimizer and position", mr_cmd_hash },
    { "bench", "", "how fast this machine samples and trains", mr_cmd_bench },
    { "doctor", "", "what medrl finds on this machine, and what to fix", mr_cmd_doctor },
    { "completion", "SHELL", "completions for bash, zsh or fish", mr_cmd_completion },
    { "help", "[TOPIC]", "this list, a command, `recipe`: every field, or a page", help },
    { "version", "", "the version, and what it was built from", mr_cmd_version },
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

const mr_command *mr_commands(int *n) {
    *n = N_COMMANDS;
    return commands;
}

static int find(const char *name) {
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0) return i;
    return -1;
}

/* The pages of docs/, which an installation has too: their names, in order. */
enum { MAX_PAGES = 32, PAGE_NAME = 32 };
static int find_pages(char names[MAX_PAGES][PAGE_NAME]) {
    char *dir = mr_path_join(mr_home_dir(), "docs");
    struct dirent **list = NULL;
    const int n = scandir(dir, &list, NULL, alphasort);
    int found = 0;
    for (int i = 0; i < n; i++) {
        const size_t len = strlen(list[i]->d_name);
        if (mr_ends_with(list[i]->d_name, ".md") && len - 3 < PAGE_NAME && found < MAX_PAGES &&
            strcmp(list[i]->d_name, "recipes.md") != 0) /* `help recipe` prints it */
            snprintf(names[found++], PAGE_NAME, "%.*s", (int)len - 3, list[i]->d_name);
        free(list[i]);
    }
    free(list);
    mr_free(dir);
    return found;
}

void mr_help_pages(mr_str *out) {
    char pages[MAX_PAGES][PAGE_NAME];
    const int n = find_pages(pages);
    mr_str_puts(out, "recipe");
    for (int i = 0; i < n; i++)
        if (find(pages[i]) < 0) mr_str_printf(out, " %s", pages[i]); /* else it stands among the commands */
}

void mr_print_json(const cJSON *item) {
    mr_str s = { 0 };
    mr_json_put(&s, item);
    mr_str_puts(&s, "\n");
    fwrite(s.data, 1, s.len, stdout);
    fflush(stdout);
    mr_str_clear(&s);
}

double mr_since_start_s(void) {
    char text[1024] = "";
    FILE *f = fopen("/proc/self/stat", "re");
    if (!f) return 0;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = '\0';
    char *p =
        strrchr(text, ')'); /* the name before it may hold anything; the start time is field 22, in ticks since boot */
    for (int field = 2; p && field < 22; field++) p = strchr(p + 1, ' ');
    if (!p) return 0;
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    double s = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec - strtod(p + 1, NULL) / (double)sysconf(_SC_CLK_TCK);
    return s > 0 ? s : 0;
}

static mr_status unknown(const char *what, const char *word, bool topics, mr_err *err) {
    const char *names[N_COMMANDS + MAX_PAGES + 1];
    char pages[MAX_PAGES][PAGE_NAME];
    int n = 0, n_pages = topics ? find_pages(pages) : 0;
    for (; n < N_COMMANDS; n++) names[n] = commands[n].name;
    for (int i = 0; i < n_pages; i++) names[n++] = pages[i];
    if (topics) names[n++] = "recipe";
    const char *near = mr_nearest_name(word, names, n);
    if (near) return mr_fail(err, MR_EINVAL, "unknown %s \"%s\"; did you mean \"%s\"?", what, word, near);
    return mr_fail(err, MR_EINVAL, "unknown %s \"%s\"; `medrl help` lists them", what, word);
}

static void print_commands(void) {
    printf("  medrl demo                            see a model learn, in ten seconds\n"
           "  medrl run recipes/medical_mix.lua     train one\n"
           "  medrl chat outputs                    talk to it\n\ncommands:\n");
    for (int i = 0; i < N_COMMANDS; i++) {
        char head[64];
        snprintf(head, sizeof head, "  %s %s", commands[i].name, commands[i].args);
        printf("%-30s %s\n", head, commands[i].about);
    }
    printf("\n`medrl help TOPIC` prints a page: recipe");
    char pages[MAX_PAGES][PAGE_NAME];
    const int n_pages = find_pages(pages);
    for (int i = 0; i < n_pages; i++) printf(", %s", pages[i]);
    printf(".\n`medrl COMMAND --help` begins with an example. Results go to stdout, progress to stderr.\n"
           "exit codes: 0 done, 2 usage or recipe, 65 bad data, 69 network, 70 internal, 71 out of memory, 74 disk, 75 "
           "try again,\n"
           "77 refused by a safety rule, 130 and 143 stopped by a signal\n");
}

static bool is_page(const char *topic) {
    char pages[MAX_PAGES][PAGE_NAME];
    const int n_pages = find_pages(pages);
    for (int i = 0; i < n_pages; i++)
        if (strcmp(pages[i], topic) == 0) return true;
    return false;
}

static mr_status print_page(const char *topic, mr_err *err) {
    char *file = mr_asprintf("docs/%s.md", topic), *path = mr_path_join(mr_home_dir(), file), *text = NULL;
    size_t len = 0;
    mr_status st = mr_file_read(&text, &len, path, 1 << 22, err);
    if (st == MR_OK) fwrite(text, 1, len, stdout);
    mr_free(text);
    mr_free(path);
    mr_free(file);
    return st;
}

static mr_status help(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "help",
        "medrl help recipe\nmedrl help rewards\nmedrl help plan --page",
        "[TOPIC]",
        0,
        1,
        "Prints the commands, or one topic: a command's name, recipe (every field), or a page of the documentation. "
        "Nothing is fetched. A name that is both is the command; --page prints the page.",
    };
    mr_args a;
    bool man = false, page = false;
    const mr_opt opts[] = {
        { "page", 0, MR_OPT_FLAG, NULL, "the page, where a command has the same name", &page, 0, 0 },
        { "man", 0, MR_OPT_FLAG, NULL, "the manual page, for man -l -", &man, 0, 0 },
    };
    mr_status st = mr_args_parse(&a, &usage, opts, 2, argc, argv, err);
    if (st == MR_OK && !a.help) {
        const char *topic = a.n ? a.items[0] : NULL;
        int at = topic ? find(topic) : -1;
        if (man) {
            mr_print_man();
        } else if (topic && is_page(topic) && (at < 0 || page)) {
            st = print_page(topic, err);
        } else if (!topic) {
            print_commands();
        } else if (strcmp(topic, "recipe") == 0) {
            mr_str s = { 0 };
            mr_settings_describe(&s);
            fputs(s.data ? s.data : "", stdout);
            mr_str_clear(&s);
        } else if (at >= 0) {
            char name[32], option[] = "--help";
            snprintf(name, sizeof name, "%s", topic);
            char *args[] = { name, option, NULL };
            st = commands[at].run(2, args, err);
        } else {
            st = unknown("topic", topic, true, err);
        }
    }
    mr_args_clear(&a);
    return st;
}

static mr_status dispatch(int argc, char **argv, mr_err *err) {
    static char help_word[] = "help", version_word[] = "version";
    if (argc < 2) {
        print_commands();
        return MR_OK;
    }
    char *word = argv[1];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) word = help_word;
    if (strcmp(word, "--version") == 0) word = version_word;
    int at = find(word);
    if (at < 0) return unknown("command", word, false, err);
    argv[1] = word;
    return commands[at].run(argc - 1, argv + 1, err);
}

/* A program that is started without them would get a file of the run as its standard output. */
static void open_standard_files(void) {
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd) _exit(70);
}

/* The line is written; buffers and finalizers might want memory. */
static void leave_without_memory(void) {
    _exit(mr_exit_code(MR_ENOMEM));
}

/* For cJSON, whose trees are built without looking at each result: a small thing as all others. */
static void *json_alloc(size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    return p ? p : mr_alloc(bytes); /* which says so and leaves */
}

/* `| head` has read what it wanted. */
static bool reader_left(void) {
    struct pollfd out = { .fd = STDOUT_FILENO, .events = POLLOUT };
    /* wait: none, a look */
    return errno == EPIPE || (poll(&out, 1, 0) == 1 && (out.revents & (POLLERR | POLLHUP)));
}

int main(int argc, char **argv) {
    open_standard_files();
    if (argc == 2 && strcmp(argv[1], "--worker") == 0) return mr_worker_main();
    mr_on_out_of_memory(leave_without_memory);
    cJSON_InitHooks(&(cJSON_Hooks){ json_alloc, free });
    signal(SIGPIPE, SIG_IGN); /* a worker that died is an error to handle, not the end */
    signal(SIGXFSZ, SIG_IGN); /* a file that grows beyond its limit: the write says so */
    mr_signals_leave();       /* a command that has something to finish says so with mr_signals_catch */
    mr_pull_arm();
    mr_err err = { "" };
    mr_status st = dispatch(argc, argv, &err);
    errno = 0;
    if ((fflush(stdout) != 0 || ferror(stdout)) && st == MR_OK && !reader_left()) {
        if (!errno) errno = EIO; /* an earlier write, whose reason is gone */
        st = mr_fail_errno(&err, "standard output could not be written");
    }
    mr_log_status(NULL);
    if (st == MR_OK) return 0;
    mr_log_set_level(MR_LOG_ERROR);
    mr_error("%s", err.msg[0] ? err.msg : "failed without a message; please report this");
    int number = mr_signals_seen();
    return st == MR_ESIGNAL && number ? mr_signals_exit_code(number) : mr_exit_code(st);
}
