/* log.h - lines for the person who watches: to stderr, never to stdout (which is for results).
 *
 * One line a call, "medrl: " in front of errors, of which a program that fails prints one; "warning: " in front of
 * warnings. When stderr is a terminal the caller may keep one live status line at the bottom (mr_log_status); a log
 * line removes it, prints, and draws it again. When stderr is no terminal, or TERM is "dumb", the status line is
 * dropped, and colors are off; NO_COLOR turns colors off too.
 * Threads: each call writes once with write(2); the status line belongs to the main thread. */
#ifndef MR_LOG_H
#define MR_LOG_H

#include "base/status.h"

typedef enum mr_log_level { MR_LOG_ERROR, MR_LOG_WARN, MR_LOG_INFO, MR_LOG_DEBUG } mr_log_level;

/* Lines above `level` are dropped; MR_LOG_INFO at start, MR_LOG_WARN for --quiet, MR_LOG_DEBUG for -v. */
void mr_log_set_level(mr_log_level level);
mr_log_level mr_log_get_level(void);

void mr_error(const char *fmt, ...) MR_PRINTF(1, 2);
void mr_warn(const char *fmt, ...) MR_PRINTF(1, 2);
void mr_info(const char *fmt, ...) MR_PRINTF(1, 2);
void mr_debug(const char *fmt, ...) MR_PRINTF(1, 2);

/* Replaces the live line, or lines where text has "\n" in it (fewer than the terminal has rows); each is cut at the
 * terminal's width. NULL or "" removes them. Does nothing when stderr is no terminal. */
void mr_log_status(const char *text);

/* Whether stderr is a terminal that can redraw, whether colors may be used, its width in columns (80 when unknown). */
bool mr_log_is_terminal(void);
bool mr_log_has_color(void);
int mr_log_columns(void);
int mr_log_rows(void); /* its height, 24 when unknown */

#endif
