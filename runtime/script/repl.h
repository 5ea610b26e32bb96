/* repl.h - the user's own Lua session: lines in, values printed, errors with a traceback; model, data and run are objects
 * over one host.
 *
 * The host does what a method says, in this process (`medrl repl`) or at the other end of a run's socket (`medrl
 * attach`); methods, arguments and results are those of docs/attach.md. lua/medrl/repl.lua makes the objects, the
 * printer, the help and the completion out of it.
 * Class: the user's own program in the user's own process (reliability.md, 3.3): a whole Lua of text chunks, but no io,
 * os.execute, ffi, debug, package, unless trust is set: what is pasted here has no business with files. `require` finds
 * Lua files in the working folder, ./lua and the installation's lua folder. The compiler is off: a hook, which is how
 * mr_repl_interrupt stops a chunk, does not fire in compiled code.
 * Threads: one; mr_repl_interrupt may be called from a signal handler. */
#ifndef MR_REPL_H
#define MR_REPL_H

#include <cjson/cJSON.h>

#include "base/memory.h"

typedef struct mr_host {
    void *self;
    /* args: an object, borrowed. *result: owned by the caller, NULL is null. */
    mr_status (*call)(void *self, const char *method, const cJSON *args, cJSON **result, mr_err *err);
} mr_host;

typedef struct mr_repl_opts {
    mr_host host;
    bool attached; /* the objects of `medrl attach`; otherwise those of `medrl repl` */
    bool trust;    /* all libraries */
    bool silent;   /* values of expressions are kept in _ and not printed */
    /* Where print and values go. */
    void (*write)(void *self, const char *text, size_t len);
    void *out;
} mr_repl_opts;

typedef struct mr_repl mr_repl;

mr_status mr_repl_open(mr_repl **out, const mr_repl_opts *opts, mr_err *err);
void mr_repl_close(mr_repl *r);

typedef enum mr_repl_state {
    MR_REPL_DONE,   /* it ran */
    MR_REPL_MORE,   /* the chunk goes on: another line is needed */
    MR_REPL_FAILED, /* err says why, mr_repl_trace where */
    MR_REPL_QUIT    /* quit() */
} mr_repl_state;

/* One more line of the chunk that is being typed. An expression prints its values, "=x" too; ":name rest" is short for
 * name("rest"). */
mr_repl_state mr_repl_line(mr_repl *r, const char *line, mr_err *err);
bool mr_repl_pending(const mr_repl *r); /* lines wait for the rest of their chunk */
void mr_repl_forget(mr_repl *r);        /* these lines */
/* At the end of the input: what is pending is all there will be. */
mr_repl_state mr_repl_end(mr_repl *r, mr_err *err);
const char *
mr_repl_trace(const mr_repl *r); /* of the last failure, lines; "" when there is nothing to say. Borrowed. */
/* Stops the chunk that runs at its next instruction, and those after it before their first, until it is taken back.
 * Async-signal-safe. */
void mr_repl_interrupt(mr_repl *r);
void mr_repl_uninterrupt(mr_repl *r);
/* How wide printed tables may be. */
void mr_repl_set_columns(mr_repl *r, int columns);
/* `_` as JSON, on one line. */
mr_status mr_repl_json(mr_repl *r, mr_str *out, mr_err *err);
/* What the last word of line may become, whole words, sorted; NULL-terminated, owned: free each and the list with
 * mr_free. Never NULL. */
char **mr_repl_complete(mr_repl *r, const char *line);

#endif
