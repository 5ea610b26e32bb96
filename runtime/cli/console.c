/* console.c - see console.h. */
#include "cli/console.h"

#include <errno.h>
#include <fcntl.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/log.h"
#include "base/utf8.h"
#include "cli/cli.h"
#include "cli/edit.h"

enum { HISTORY = 2000, PATIENCE = 2 };

typedef struct console {
    const mr_console *how;
    mr_repl *repl;
    char *history; /* the file, NULL: none */
    int columns;
} console;

/* libedit's functions and signal handlers get no argument of ours. */
static const mr_edit *edit; /* of a session at a terminal */
static mr_repl *completing, *volatile running;
static void (*volatile also_fn)(void *self);
static void *volatile also_self;

bool mr_console_stopped(void) {
    return mr_signals_seen() != 0;
}

static void stop(void *self) {
    (void)self;
    if (running) mr_repl_interrupt(running);
    if (also_fn) also_fn(also_self);
}

void mr_console_also(void (*fn)(void *self), void *self) {
    also_fn = NULL;
    also_self = self;
    also_fn = fn;
    mr_signals_catch(stop, NULL);
}

/* While the session's own code runs, a signal stops it; so does one that came since the line was typed. */
static mr_repl_state run_line(console *c, const char *line, mr_err *err) {
    mr_repl_uninterrupt(c->repl);
    running = c->repl;
    mr_console_also(NULL, NULL);
    mr_repl_state s = line ? mr_repl_line(c->repl, line, err) : mr_repl_end(c->repl, err);
    mr_signals_catch(NULL, NULL);
    running = NULL;
    return s;
}

/* SIGTERM and SIGHUP end a session that Ctrl-C does not. */
static mr_status ended_by_signal(const console *c, bool terminal, mr_err *err) {
    int number = mr_signals_seen();
    if (!number || (terminal && number == SIGINT)) return MR_OK;
    return mr_fail(err, MR_ESIGNAL, "%s: stopped by %s", c->how->name, mr_signals_name(number));
}

/* ---- output ---- */

/* What a session prints may be a model's words: on a terminal no control character of theirs gets through. */
static void write_plain(void *self, const char *text, size_t len) {
    const console *c = self;
    if (c->how->trust || !isatty(STDOUT_FILENO)) {
        fwrite(text, 1, len, stdout);
        return;
    }
    for (size_t i = 0; i < len;) {
        uint32_t cp = 0;
        int n = mr_utf8_next(&cp, (const uint8_t *)text + i, len - i);
        size_t bytes = n > 0 ? (size_t)n : 1;
        if (n <= 0 || (cp < 0x20 && cp != '\n' && cp != '\t') || (cp >= 0x7f && cp < 0xa0))
            fputc('?', stdout);
        else
            fwrite(text + i, 1, bytes, stdout);
        i += bytes;
    }
}

static mr_status print_json(console *c, mr_err *err) {
    mr_str s = { 0 };
    mr_status st = mr_repl_json(c->repl, &s, err);
    if (st == MR_OK) printf("%s\n", s.data);
    mr_str_clear(&s);
    return st;
}

/* ---- -e and pipes ---- */

static mr_status fail_with_trace(console *c) {
    fflush(stdout);
    const char *trace = mr_repl_trace(c->repl);
    if (*trace) fprintf(stderr, "%s\n", trace);
    return MR_EINVAL;
}

static mr_status run_expressions(console *c, mr_err *err) {
    for (const char *const *e = c->how->expressions; *e; e++) {
        mr_repl_state s = run_line(c, *e, err);
        if (s == MR_REPL_MORE) s = run_line(c, NULL, err);
        MR_TRY(ended_by_signal(c, false, err));
        if (s == MR_REPL_QUIT) return MR_OK;
        if (s == MR_REPL_FAILED) return fail_with_trace(c);
    }
    return MR_OK;
}

static mr_status run_pipe(console *c, mr_err *err) {
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    mr_status st = MR_OK;
    mr_repl_state s = MR_REPL_DONE;
    mr_signals_catch(NULL, NULL);
    while (st == MR_OK && s != MR_REPL_FAILED && s != MR_REPL_QUIT) {
        n = getline(&line, &cap, stdin);
        if (n >= 0) {
            if (memchr(line, '\0', (size_t)n)) {
                st = mr_fail(err, MR_EDATA, "stdin: a line holds a zero byte, want Lua text");
                break;
            }
            while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) line[--n] = '\0';
            s = run_line(c, line, err);
            fflush(stdout);
        } else if (!mr_signals_seen()) {
            s = run_line(c, NULL, err);
        }
        st = ended_by_signal(c, false, err);
        if (n < 0) break;
    }
    free(line);
    return st == MR_OK && s == MR_REPL_FAILED ? fail_with_trace(c) : st;
}

/* ---- the terminal ---- */

static char *history_path(void) {
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char *dir = state && state[0] == '/' ? mr_path_join(state, "medrl") /* the XDG text: a relative one is ignored */
                : home && home[0] == '/' ? mr_path_join(home, ".local/state/medrl")
                                         : NULL;
    char *path = dir ? mr_path_join(dir, "history") : NULL;
    if (path && mr_mkdirs(dir, NULL) != MR_OK) {
        mr_free(path);
        path = NULL;
    }
    mr_free(dir);
    /* What is typed may be private: nobody else's from the first byte on. */
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd >= 0) {
        if (fchmod(fd, 0600) != 0) mr_debug("%s: its mode could not be set", path);
        close(fd);
        return path;
    }
    mr_free(path);
    return NULL;
}

static uint8_t held; /* came behind a Ctrl-C and belongs to the next line */
static bool has_held;

static ssize_t read_byte(uint8_t *byte) {
    if (has_held) {
        *byte = held;
        has_held = false;
        return 1;
    }
    /* wait: for a person; a signal ends it */
    ssize_t n = read(STDIN_FILENO, byte, 1);
    if (n != 1 || !mr_signals_seen()) return n;
    held = *byte;
    has_held = true;
    errno = EINTR;
    return -1;
}

/* One character, or -1 at the end of the input and at a signal: libedit alone goes on reading after a signal. */
static int read_character(FILE *in) {
    uint8_t bytes[4];
    size_t n = 0;
    (void)in;
    while (!mr_signals_seen()) {
        ssize_t got = read_byte(bytes + n);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return -1;
        n++;
        uint32_t cp;
        int whole = mr_utf8_next(&cp, bytes, n);
        if (whole > 0) return (int)cp;
        if (whole < 0 || n == sizeof bytes) n = 0; /* no UTF-8: dropped */
    }
    return -1;
}

/* The first of the list is what all have in common, as readline's own functions have it; malloc'ed for libedit. */
static char **complete(const char *text, int start, int end) {
    *edit->rl_attempted_completion_over = 1; /* no names of files */
    (void)start;
    char *line = mr_strndup(*edit->rl_line_buffer, (size_t)end);
    char **found = mr_repl_complete(completing, line), **list = NULL;
    int n = 0;
    mr_free(line);
    while (found[n]) n++;
    if (n) list = calloc((size_t)n + 2, sizeof *list);
    if (list) {
        size_t common = strlen(found[0]);
        for (int i = 0; i < n; i++) {
            size_t k = 0;
            while (k < common && found[i][k] == found[0][k]) k++;
            common = k;
            list[i + 1] = strdup(found[i]);
        }
        list[0] = common >= strlen(text) ? strndup(found[0], common) : strdup(text);
    }
    for (int i = 0; i < n; i++) mr_free(found[i]);
    mr_free(found);
    return list;
}

static int columns_now(void) {
    struct winsize w;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 80;
}

static void open_terminal(console *c) {
    /* Characters are read and drawn as UTF-8 whatever the language is; numbers stay as they are. */
    if (!setlocale(LC_CTYPE, "") || strcmp(nl_langinfo(CODESET), "UTF-8") != 0) setlocale(LC_CTYPE, "C.UTF-8");
    static char name[] = "medrl", breaks[] = " \t\n\"\\'`@$><=;|&{}()[],+-*/^%#~!?";
    *edit->rl_readline_name = name;
    *edit->rl_catch_signals = 0;
    *edit->rl_getc_function = read_character;
    *edit->rl_attempted_completion_function = complete;
    *edit->rl_completer_word_break_characters = breaks;
    *edit->rl_completion_append_character = '\0';
    completing = c->repl;
    edit->using_history();
    edit->stifle_history(HISTORY);
    c->history = history_path();
    if (c->history) edit->read_history(c->history);
    c->columns = columns_now();
    if (c->how->greeting) printf("%s\n", c->how->greeting);
}

static void close_terminal(console *c) {
    *edit->rl_getc_function = NULL;
    completing = NULL;
    mr_free(c->history);
}

static void remember(console *c, const char *line) {
    if (line[strspn(line, " \t")] == '\0') return;
    const int n = *edit->history_length;
    HIST_ENTRY *last = n > 0 ? edit->history_get(*edit->history_base + n - 1) : NULL;
    if (last && last->line && strcmp(last->line, line) == 0) return;
    edit->add_history(line);
    if (c->history) edit->write_history(c->history); /* now: a session may end in any way */
}

static void fit_columns(console *c) {
    int now = columns_now();
    if (now != c->columns) edit->rl_resize_terminal();
    c->columns = now;
    mr_repl_set_columns(c->repl, now);
}

static mr_status run_terminal(console *c, mr_err *err) {
    mr_status st = MR_OK;
    MR_TRY(mr_edit_open(&edit, err));
    open_terminal(c);
    for (;;) {
        mr_signals_forget();
        mr_signals_catch(NULL, NULL);
        if (c->how->between) c->how->between(c->how->self);
        fit_columns(c);
        fflush(stdout);
        char *line = edit->readline(mr_repl_pending(c->repl) ? ">> " : "> ");
        const int number = mr_signals_seen();
        if (number || !line) {
            free(line);
            printf("\n");
            st = ended_by_signal(c, true, err);
            if (number != SIGINT || st != MR_OK) break;
            mr_repl_forget(c->repl);
            continue;
        }
        remember(c, line);
        mr_repl_set_columns(c->repl, columns_now()); /* the window may have changed meanwhile */
        mr_repl_state s = run_line(c, line, err);
        free(line);
        fflush(stdout);
        st = ended_by_signal(c, true, err);
        if (st != MR_OK || s == MR_REPL_QUIT) break;
        if (s != MR_REPL_FAILED) continue;
        const char *trace = mr_repl_trace(c->repl);
        fprintf(stderr, "%s%s%s%s\n", err->msg, *trace ? "\n" : "", trace, "");
    }
    close_terminal(c);
    return st;
}

mr_status mr_console_run(const mr_console *how, mr_err *err) {
    console c = { .how = how, .columns = 80 };
    const mr_repl_opts o = {
        .host = how->host,
        .attached = how->attached,
        .trust = how->trust,
        .silent = how->json,
        .write = write_plain,
        .out = &c,
    };
    MR_TRY(mr_repl_open(&c.repl, &o, err));
    mr_signals_patience(PATIENCE);
    mr_status st;
    if (how->expressions)
        st = run_expressions(&c, err);
    else if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && !how->json)
        st = run_terminal(&c, err);
    else
        st = run_pipe(&c, err);
    if (st == MR_OK && how->json) st = print_json(&c, err);
    fflush(stdout);
    mr_signals_patience(1);
    mr_repl_close(c.repl);
    return st;
}
