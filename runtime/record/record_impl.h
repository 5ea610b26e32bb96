/* record_impl.h - the open run folder as run.c, progress.c and summary.c share it. Not for other layers. */
#ifndef MR_RECORD_IMPL_H
#define MR_RECORD_IMPL_H

#include "base/fsafe.h"
#include "record/run.h"

enum { MR_SPARK = 24 }; /* steps in the little curve */
enum { MR_WORST = 8 };  /* samples that are kept of a window of steps: worst.c */

typedef struct mr_record_file {
    int fd; /* -1: closed */
    char *path;
    int64_t bytes; /* whole lines so far */
} mr_record_file;

/* One completion of the step that is under way, kept to be shown. */
typedef struct mr_shown_sample {
    char *question, *text;
    mr_str scores; /* "xmlcount 0.5  correctness -" */
} mr_shown_sample;

struct mr_run {
    char *dir;
    mr_lock lock;
    mr_run_opts opts;
    mr_record_file metrics, samples, events;
    mr_record_file tensorboard; /* fd -1 unless it is asked for */
    int64_t step;       /* the last one that was recorded */
    bool uncut;         /* resumed, and mr_run_cut is still to come: lines written now would be cut away */
    mr_str held_events; /* so these wait */

    struct { double reward; char *line; } low[MR_WORST]; /* the lowest so far, ascending; lines are owned */
    int n_low;

    /* of the samples since the last step */
    int n_samples, n_judged, n_exact; /* judged: a correctness reward applies; exact: it gave 2.0 */
    int n_faults_shown;
    mr_shown_sample shown;

    /* for the status line */
    double rewards[MR_SPARK];
    int n_rewards;                      /* how many of them are set; the oldest first */
    double exact, tokens_per_s, step_s; /* NaN until known; step_s is a running mean */
    double cut, same, length, usd, faults; /* of the last step; NaN until known */
    mr_str by_name;                     /* "xmlcount 0.45\nsoft_format 0.47\n": means of the last step */
    double drawn_s;                     /* when the status line was drawn last */
};

bool mr_is_correctness(const char *reward); /* the reward whose 2.0 means the exact answer */

/* worst.c: a sample's line, without its end; the end of a step; after a cut, when r->step is known */
void mr_worst_note(mr_run *r, double reward, const char *line, size_t len);
mr_status mr_worst_step(mr_run *r, int64_t step, mr_err *err);
mr_status mr_worst_recall(mr_run *r, mr_err *err);
void mr_worst_clear(mr_run *r);

/* tensorboard.c: opens the run's event file, a new one or the newest that is there; cut back to what was recorded up to
 * a step; a step's metrics behind it. All do nothing when the file is not open. */
mr_status mr_events_open(mr_record_file *f, const char *run_dir, mr_err *err);
mr_status mr_events_cut(mr_record_file *f, int64_t last_step, mr_err *err);
mr_status mr_events_add(mr_record_file *f, int64_t step, const mr_metric *m, int n, mr_err *err);
uint32_t mr_crc32c(const void *data, size_t len);

/* progress.c */
void mr_progress_sample(mr_run *r, const mr_sample *s, int n_rewards, const char *const *names);
void mr_progress_step(mr_run *r, int64_t step, int64_t max_steps, const mr_metric *m, int n);
void mr_progress_phase(mr_run *r, int64_t step, int64_t max_steps, const char *phase, int done, int total);
void mr_progress_event(mr_run *r, int64_t step, const char *kind, const char *text);
void mr_progress_reward(mr_run *r, double reward); /* one more point of the curve */
void mr_progress_clear(mr_run *r);

#endif
