/* live.h - what the methods of docs/attach.md do to a session, and who is told what happens in it.
 *
 * One table of methods for both callers: the run's socket (record/control.h), whose requests come while the trainer
 * trains and wait for the end of the step unless they only read, and `medrl repl`, which stands between two steps
 * always and opens what a method needs. What a client changes is an event "attach" of the run: { by, pid, method, args },
 * besides the event that the change itself makes.
 * Ownership: borrows the session. Threads: one. */
#ifndef MR_LIVE_H
#define MR_LIVE_H

#include "cli/session.h"
#include "record/control.h"

mr_live *mr_live_new(mr_session *s);
void mr_live_close(mr_live *l);

/* Opens RUN/control.sock; a run goes on without it (zeroed, after a warning) when that fails. */
mr_control mr_live_listen(mr_live *l);
bool mr_live_listens(const mr_live *l);
void mr_live_silence(mr_live *l); /* closes it: the run ends */

/* The session's observer, passed on to those who watch. */
void mr_live_step(mr_live *l, int64_t step, int64_t max_steps, const mr_metric *m, int n);
void mr_live_event(mr_live *l, int64_t step, const char *kind, const char *text, const cJSON *detail);
void mr_live_phase(mr_live *l, const char *phase, int done, int total);

/* As mr_control_opts.call; self is the mr_live. */
mr_status mr_live_call(void *self, const mr_control_request *r, cJSON **result, bool *later, mr_err *err);

/* ---- what `medrl repl` has in common with it ---- */

/* The prompt that args name ("prompt" with the frame of p and "system", or "messages" as they are): owned array of
 * borrowed strings, free with mr_free. */
mr_status mr_live_prompt(mr_message **out, int *n, const mr_parts *p, const cJSON *args, mr_err *err);
/* temperature, top_p, top_k, min_p, repetition_penalty of args, the rest as it was. */
mr_status mr_live_sampling(mr_sampling *s, const cJSON *args, mr_err *err);
/* Scores texts against a row (a JSON object) by the rewards in use: adds "rewards", "reward" and, when there are some,
 * "faults" to objects[i]. */
mr_status mr_live_score(mr_session *s, cJSON **objects, const char *const *texts, int n, const cJSON *row,
                        const char *prompt, mr_err *err);
/* The last n lines of a file of JSON lines, oldest first; an empty list when it is not there. */
mr_status mr_tail(cJSON **list, const char *path, int n, mr_err *err);

#endif
