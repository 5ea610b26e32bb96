/* compare.h - the same prompts answered greedily by two models, one after the other in memory: what `medrl export` ends
 * with.
 *
 * The first model says what it would answer and what it thinks of each token (mr_compare_first); the second then says
 * what it would answer, and what it thinks of the first one's tokens (mr_compare_second). Between the two no model
 * has to be open. */
#ifndef MR_COMPARE_H
#define MR_COMPARE_H

#include "cli/parts.h"

typedef struct mr_compare {
    int n_new_tokens; /* of an answer, at most; set before the first call */
    struct mr_compared {
        char *text; /* the prompt's */
        mr_ids prompt, answer;
        float *logp;  /* of the answer's tokens, by the first model */
        mr_ids other; /* the second model's answer */
        int agree;    /* tokens that are equal before the first that is not */
    } * items;
    int n;
    /* after the second call */
    int n_tokens, n_agree;     /* of all answers; n_agree counts up to the first difference of each */
    int differs;               /* the first prompt whose answers differ; -1: none */
    double gap_mean, gap_most; /* |log-probability by the second - by the first| of the first's tokens, nats */
} mr_compare;

/* texts[n] are user messages, in the frame of p where it has a chat format, else as they are. c: n_new_tokens is set,
 * the rest zero. */
mr_status mr_compare_first(mr_compare *c, mr_parts *p, const char *const *texts, int n, mr_err *err);
mr_status mr_compare_second(mr_compare *c, mr_parts *p, mr_err *err);
void mr_compare_clear(mr_compare *c);

#endif
