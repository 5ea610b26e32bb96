/* score.h - what the two halves of `medrl score` share: score.c reads texts from stdin, rescore.c the samples of a run.
 * Private to the command. */
#ifndef MR_SCORE_H
#define MR_SCORE_H

#include "script/script.h"

typedef struct mr_scoring {
    mr_pool *pool;
    mr_scorer scorer;
    bool json, keep;
    int n_top; /* rows that changed most, to be shown */
} mr_scoring;

/* Scores every line of RUN/samples.jsonl again and prints old and new beside each other. Reads line by line: the
 * memory does not grow with the run, and a run that is under way can be read. */
mr_status mr_rescore(mr_scoring *s, const char *run, mr_err *err);

/* A fault's text without the number of the sample, which is the chunk's; owned by the caller, free with mr_free. */
char *mr_fault_text(const mr_fault *f);

#endif
