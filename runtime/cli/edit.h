/* edit.h - libedit, opened by name when a terminal is there to type at: a worker of scripts starts as the same program, once for each
 * call that hangs, and libedit brings two libraries more along (a fifth of the time from spawn to main).
 *
 * The names are those of editline/readline.h, which says what they do; its variables are pointers here. */
#ifndef MR_EDIT_H
#define MR_EDIT_H

#include <stdio.h> /* readline.h does not include it */

#include <editline/readline.h>

#include "base/status.h"

#define MR_EDIT(X)                                                                                                     \
    X(readline) X(add_history) X(using_history) X(stifle_history) X(read_history) X(write_history) X(history_get)      \
    X(history_base) X(history_length) X(rl_readline_name) X(rl_catch_signals) X(rl_getc_function)                      \
    X(rl_attempted_completion_function) X(rl_attempted_completion_over) X(rl_completer_word_break_characters)          \
    X(rl_completion_append_character) X(rl_line_buffer) X(rl_resize_terminal)

typedef struct mr_edit {
#define MR_EDIT_MEMBER(name) __typeof__(&name) name;
    MR_EDIT(MR_EDIT_MEMBER)
#undef MR_EDIT_MEMBER
} mr_edit;

/* Opens libedit at the first call; the same pointer afterwards. MR_ENOTFOUND: it is not installed. Threads: one. */
mr_status mr_edit_open(const mr_edit **out, mr_err *err);

#endif
