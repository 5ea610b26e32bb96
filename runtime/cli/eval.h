/* eval.h - between eval.c (what is asked) and eval_report.c (what is said of it): answers of one or two policies to the
 * same rows. Not for other commands. */
#ifndef MR_EVAL_H
#define MR_EVAL_H

#include <cjson/cJSON.h>

#include "rl/evaluate.h"

enum { MR_SIDES = 2, MR_TUNED = 0, MR_BASE = 1 };

/* One row and what was said to it. Strings are owned. */
typedef struct mr_asked_row {
    int64_t row;
    char *source, *place, *question, *gold;
    struct {
        mr_verdict verdict;
        char *said; /* the answer, one short line; NULL: the text has none */
        char *text;
        int n_tokens;
        bool truncated;
    } side[MR_SIDES];
} mr_asked_row;

typedef struct mr_evaluation {
    const char *what, *model, *adapter, *device, *data; /* adapter NULL: none */
    bool both;                                          /* side[MR_BASE] is there too */
    mr_asked_row *rows;
    int n_rows;
    int64_t n_all; /* of the data */
    int max_new;
    mr_eval_counts counts[MR_SIDES];
    double seconds[MR_SIDES];
} mr_evaluation;

/* { "sets": [...], "all": {...}, "flips": [...] ... }: docs/eval.md says what is in it; owned by the caller. */
cJSON *mr_eval_report(const mr_evaluation *e);
/* The same report for people. flips: at most so many rows of each direction are shown. */
void mr_eval_print(const cJSON *report, int flips, mr_str *out);

#endif
