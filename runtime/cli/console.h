/* console.h - a Lua session at a terminal, from a pipe, or of -e EXPR: what `medrl repl` and `medrl attach` share.
 *
 * Terminal: libedit, with history in $XDG_STATE_HOME/medrl/history (else ~/.local/state/medrl/history; none without a
 * home) and Tab; Ctrl-C drops the line that is typed and stops what runs, three times in a row ends the program; Ctrl-D
 * ends the session. Errors are told and never end it.
 * Pipe and -e: no prompts; the first error ends it, as MR_EINVAL. */
#ifndef MR_CONSOLE_H
#define MR_CONSOLE_H

#include "script/repl.h"

typedef struct mr_console {
    const char *name;               /* of the command, for messages */
    const char *const *expressions; /* -e, NULL-terminated; NULL: stdin is read */
    bool json;                      /* the last value as JSON, nothing else is printed */
    bool trust;
    bool attached;
    mr_host host;
    const char *greeting;        /* a line for a terminal; NULL: none */
    void (*between)(void *self); /* before each prompt; may be NULL */
    void *self;
} mr_console;

mr_status mr_console_run(const mr_console *c, mr_err *err);

/* Inside a call to the host: whether Ctrl-C was pressed meanwhile. Its work ends with MR_ESIGNAL then. */
bool mr_console_stopped(void);
/* Inside a call to the host: what else Ctrl-C stops (async-signal-safe; NULL: nothing else), until the next call of
 * this, which ends every such call that took the signals for itself. */
void mr_console_also(void (*stop)(void *self), void *self);

#endif
