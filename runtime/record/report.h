/* report.h - a run as one HTML file that carries everything along: curves, events, samples; and the same served to this
 * machine while the run goes on.
 *
 * What is drawn comes from the run folder alone (metrics.jsonl, samples.jsonl, events.jsonl, config.json, eval.json),
 * which may be written to at the same time: half a line at an end is left out. The page (report_page.html, report_page.js) is
 * part of the program. Texts of models and data are hostile: they stand in the page as JSON in which no "<" occurs, and
 * reach the screen as text; the page's own policy (CSP) allows one script, by its hash, and no other source.
 * Size: at most MR_REPORT_SAMPLE_BYTES of samples, whole groups evenly spaced from the first to the last; texts are cut
 * at MR_REPORT_TEXT_BYTES; more than MR_REPORT_STEPS steps become means of neighbors.
 * Errors: MR_ENOTFOUND: no run folder; MR_EIO. Threads: one. */
#ifndef MR_REPORT_H
#define MR_REPORT_H

#include "base/memory.h"

enum { MR_REPORT_STEPS = 2000, MR_REPORT_TEXT_BYTES = 6000, MR_REPORT_SAMPLE_BYTES = 2500000, MR_REPORT_EVENTS = 400 };

/* The data of the page as a JSON object without "<"; served: the version that a served page was made from, NULL for a
 * file. */
mr_status mr_report_data(mr_str *out, const char *run_dir, const char *served, mr_err *err);
/* The page around it. */
mr_status mr_report_page(mr_str *out, const char *run_dir, const char *served, mr_err *err);
/* A text that changes when the record does (sizes of its files); owned, free with mr_free. */
char *mr_report_version(const char *run_dir);

/* http://127.0.0.1:PORT/ for this machine only, until stop(self) is true (asked ten times a second). port 0: a free
 * one; ready is told the address. Requests: GET / and GET /data.json, from a Host that is this machine (so no page of the
 * web can read it through a name that points here); anything else is refused. */
typedef struct mr_report_server {
    int port;
    void (*ready)(void *self, const char *url);
    bool (*stop)(void *self);
    void *self;
} mr_report_server;
mr_status mr_report_serve(const char *run_dir, const mr_report_server *server, mr_err *err);

#endif
