/* run.h - the run folder: config, scripts by hash, metrics, samples, events; the truth that reports are drawn from.
 *
 * Layout: design.md, section 9. One run, one folder, one owner (a lock). The jsonl files are append-only, one write a line; on resume they are cut back to the
 * length that the checkpoint recorded, so the record never holds a step twice.
 * Errors: MR_EIO with path; MR_EINVAL when the folder belongs to another live run or already holds a run and overwrite was not asked for.
 * Threads: one. */
#ifndef MR_RUN_H
#define MR_RUN_H

#include "rl/interfaces.h"

typedef struct mr_run mr_run;

typedef enum mr_run_mode { MR_RUN_NEW, MR_RUN_RESUME } mr_run_mode;

typedef struct mr_run_opts {
    mr_run_mode mode;
    bool progress;          /* draw the status line and step lines to stderr */
    int logging_steps;      /* a step line every so many steps when stderr is no terminal or always */
    int sample_steps;       /* print a sample every so many steps; 0 never */
    double usd_per_hour;    /* for the screen: dollars of the whole run; 0: no price */
    bool tensorboard;       /* event files in RUN/tensorboard too; a run that has some goes on with them */
} mr_run_opts;

/* dir: made when absent. A new run in a folder that holds one takes the next free name, DIR-2, DIR-3 ...: nothing is overwritten; mr_run_dir says
 * which. */
mr_status mr_run_open(mr_run **out, const char *dir, const mr_run_opts *opts, mr_err *err);
void mr_run_close(mr_run *r);
const char *mr_run_dir(const mr_run *r);

mr_status mr_run_config(mr_run *r, const cJSON *config, mr_err *err);   /* config.json, atomically */
mr_status mr_run_store(mr_run *r, const char *name, const char *text, size_t len, const char *sha256, mr_err *err); /* scripts/<sha>.lua */
/* And an event "script" with detail { "sha256", "module" }. */
mr_status mr_run_script(mr_run *r, const char *module, const char *name, const char *text, size_t len, const char *sha256, mr_err *err);
/* How often lines and samples are shown from now on, as in mr_run_opts. */
void mr_run_intervals(mr_run *r, int logging_steps, int sample_steps);
/* What a resumed run repeats, to be read before mr_run_cut. events: those of kind "reload", "set" and "script" that were
 * recorded after the first events_bytes of events.jsonl, and, of a run that was ended while it repeated others, the rest
 * of those (journal.json); a "script" is what was loaded in the course of scoring: it belongs to the version before it.
 * [ { "step", "kind", "text", "detail" } ], owned by the caller. last: the last step that was recorded. */
mr_status mr_run_journal(const char *dir, int64_t events_bytes, cJSON **events, int64_t *last, mr_err *err);
/* Keeps it (atomically) before mr_run_cut cuts it away: journal.json; events NULL: there is nothing, the file is
 * removed. */
mr_status mr_run_keep_journal(mr_run *r, const cJSON *events, int64_t last, mr_err *err);
mr_status mr_run_cut(mr_run *r, int64_t metrics_bytes, int64_t samples_bytes, int64_t events_bytes, mr_err *err); /* on resume */
mr_observer mr_run_observer(mr_run *r);
/* What the last lines say to the user: rewards first and last, format and exactness apart, the answers' histogram. To out, as text. */
void mr_run_summary(mr_run *r, mr_str *out);

/* The text inside the last <answer>...</answer>, trimmed; NULL when there is none. Borrowed from text; *len is its
 * length. */
const char *mr_answer_in(const char *text, size_t *len);

/* Appends a line that is broken at blanks to fit; what follows its first line is indented. columns 0: as it is. */
void mr_progress_wrap(mr_str *out, const char *line, int indent, int columns);
/* The same to the log, as wide as the terminal there. */
void mr_progress_say(const char *line, int indent);

#endif
