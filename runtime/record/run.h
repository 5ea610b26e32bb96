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
} mr_run_opts;

/* dir: made when absent. A new run in a folder that holds one takes the next free name, DIR-2, DIR-3 ...: nothing is overwritten; mr_run_dir says
 * which. */
mr_status mr_run_open(mr_run **out, const char *dir, const mr_run_opts *opts, mr_err *err);
void mr_run_close(mr_run *r);
const char *mr_run_dir(const mr_run *r);

mr_status mr_run_config(mr_run *r, const cJSON *config, mr_err *err);   /* config.json, atomically */
mr_status mr_run_script(mr_run *r, const char *name, const char *text, size_t len, const char *sha256, mr_err *err); /* scripts/<sha>.lua, or .jinja for a name without .lua */
mr_status mr_run_cut(mr_run *r, int64_t metrics_bytes, int64_t samples_bytes, int64_t events_bytes, mr_err *err); /* on resume */
mr_observer mr_run_observer(mr_run *r);
/* What the last lines say to the user: rewards first and last, format and exactness apart, the answers' histogram. To out, as text. */
void mr_run_summary(mr_run *r, mr_str *out);

/* Appends a line that is broken at blanks to fit; what follows its first line is indented. columns 0: as it is. */
void mr_progress_wrap(mr_str *out, const char *line, int indent, int columns);
/* The same to the log, as wide as the terminal there. */
void mr_progress_say(const char *line, int indent);

#endif
