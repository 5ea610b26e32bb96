/* log.c - log lines and the one live status line on stderr. */
#include "base/log.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/memory.h"

static mr_log_level max_level = MR_LOG_INFO;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *live;        /* the status line that is on the screen now */
static int live_lines;    /* of it, 0 when there is none */
static int terminal = -1; /* -1: not looked at yet */

/* Progress must not stop a run: a closed or full stderr is ignored, as nobody is there to read. */
static void put(const char *text, size_t len) {
    while (len > 0) {
        ssize_t n = write(STDERR_FILENO, text, len);
        if (n <= 0) return;
        text += n;
        len -= (size_t)n;
    }
}

void mr_log_set_level(mr_log_level level) {
    max_level = level;
}

mr_log_level mr_log_get_level(void) {
    return max_level;
}

bool mr_log_is_terminal(void) {
    if (terminal < 0) {
        const char *term = getenv("TERM");
        terminal = isatty(STDERR_FILENO) && term && *term && strcmp(term, "dumb") != 0;
    }
    return terminal == 1;
}

bool mr_log_has_color(void) {
    const char *no = getenv("NO_COLOR"); /* no-color.org: present and not empty */
    return mr_log_is_terminal() && !(no && *no);
}

int mr_log_columns(void) {
    struct winsize w;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0) return w.ws_col;
    return 80;
}

int mr_log_rows(void) {
    struct winsize w;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_row > 0) return w.ws_row;
    return 24;
}

/* Takes the status away: the cursor stands in its last line. */
static void erase(mr_str *s) {
    if (!live) return;
    mr_str_puts(s, "\r");
    for (int i = 1; i < live_lines; i++) mr_str_puts(s, "\x1b[A");
    mr_str_puts(s, live_lines > 1 ? "\x1b[J" : "\x1b[K");
}

static void line(mr_log_level level, const char *fmt, va_list args) {
    if (level > max_level) return;
    mr_str s = { 0 };
    bool loud = level <= MR_LOG_WARN, color = loud && mr_log_has_color();
    pthread_mutex_lock(&lock);
    erase(&s);
    if (color) mr_str_puts(&s, level == MR_LOG_ERROR ? "\x1b[31m" : "\x1b[33m");
    if (loud) mr_str_puts(&s, level == MR_LOG_ERROR ? "medrl: " : "warning: ");
    if (color) mr_str_puts(&s, "\x1b[0m");
    char *text = NULL;
    if (vasprintf(&text, fmt, args) < 0) text = NULL;
    if (text) mr_str_puts(&s, text);
    free(text);
    mr_str_puts(&s, "\n");
    if (live) mr_str_puts(&s, live);
    put(s.data, s.len);
    pthread_mutex_unlock(&lock);
    mr_str_clear(&s);
}

#define LINE_OF(level)                                                                                                 \
    va_list args;                                                                                                      \
    va_start(args, fmt);                                                                                               \
    line(level, fmt, args);                                                                                            \
    va_end(args)

void mr_error(const char *fmt, ...) {
    LINE_OF(MR_LOG_ERROR);
}

void mr_warn(const char *fmt, ...) {
    LINE_OF(MR_LOG_WARN);
}

void mr_info(const char *fmt, ...) {
    LINE_OF(MR_LOG_INFO);
}

void mr_debug(const char *fmt, ...) {
    LINE_OF(MR_LOG_DEBUG);
}

/* The longest start of text of at most `columns` characters, which are taken for one cell each. */
static size_t fit(const char *text, int columns) {
    size_t at = 0;
    int cells = 0;
    while (text[at]) {
        if (((unsigned char)text[at] & 0xc0) != 0x80 && cells++ == columns) break;
        at++;
    }
    return at;
}

void mr_log_status(const char *text) {
    if (!mr_log_is_terminal() || max_level < MR_LOG_INFO) return;
    pthread_mutex_lock(&lock);
    mr_str s = { 0 };
    erase(&s);
    mr_free(live);
    live = NULL;
    live_lines = 0;
    if (text && *text) {
        mr_str lines = { 0 };
        const int columns = mr_log_columns() - 1;
        for (const char *at = text; at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL) {
            const size_t len = strcspn(at, "\n"), room = fit(at, columns);
            if (live_lines++) mr_str_puts(&lines, "\n");
            mr_str_add(&lines, at, room < len ? room : len);
        }
        live = mr_str_steal(&lines);
        mr_str_puts(&s, live);
    }
    if (s.len) put(s.data, s.len);
    mr_str_clear(&s);
    pthread_mutex_unlock(&lock);
}
