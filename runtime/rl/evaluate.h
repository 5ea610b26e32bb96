/* evaluate.h - greedy answers to the rows of a data set, judged one by one: what `medrl eval` and a run's own
 * evaluation count.
 *
 * A judge is a scorer whose first reward says of a completion: 1 the answer is right; 0 it is another one; below 0
 * there is no answer of the kind that the row asks for ("invalid", which counts as wrong); nothing: the row has no gold
 * answer, and is left out. lua/rewards/eval_answer.lua is the one that comes with medrl.
 * Rows: of n_rows at most `limit` are asked, evenly spaced: row floor(i * n_rows / limit) for i = 0 .. limit-1, so the
 * choice is a function of the two numbers. Prompts keep their last max_prompt tokens, as in training.
 * Greedy: temperature 0; the completions of a row depend on the weights and its prompt alone, never on the batch.
 * Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22, 209-212.
 * Errors: those of the rows, the decoder and the judge; what was counted before is lost.
 * Threads: one; nothing is kept between calls. */
#ifndef MR_EVALUATE_H
#define MR_EVALUATE_H

#include "rl/interfaces.h"
#include "rl/rollout.h"

/* Of k hits in n tries. rate NaN and 0..1 when n is 0. */
typedef struct mr_interval {
    double rate, low, high;
} mr_interval;
/* The 95 % score interval (z = 1.959964): p = (k/n + z^2/2n -+ z sqrt(k/n (1 - k/n) / n + z^2/4n^2)) / (1 + z^2/n). */
mr_interval mr_wilson(int64_t k, int64_t n);
/* Two-sided exact sign test of b against c discordant pairs (McNemar): the probability, were both equally likely, of a
 * split at least as uneven; 1 when there are none. */
double mr_sign_test(int64_t b, int64_t c);

typedef enum mr_verdict { MR_UNJUDGED = -2, MR_INVALID = -1, MR_WRONG = 0, MR_RIGHT = 1 } mr_verdict;

/* One row's answer; borrowed for the call. */
typedef struct mr_eval_answer {
    int64_t row; /* index in the source */
    int at;      /* 0, 1 ... of the rows that are asked */
    const mr_row *data;
    const char *prompt, *text; /* rendered; decoded without special tokens */
    mr_verdict verdict;
    int n_tokens;
    bool truncated, cut; /* the completion hit max_new; the prompt lost its first tokens */
} mr_eval_answer;

typedef struct mr_eval_counts {
    int64_t n_rows;                         /* asked */
    int64_t judged, right, invalid;         /* of the judged */
    int64_t truncated, cut, tokens, faults; /* of all */
} mr_eval_counts;

typedef struct mr_eval_opts {
    mr_decoder *decoder; /* open for rollouts: what does not fit at once waits */
    mr_tokenizer *tokenizer;
    const mr_chat *chat;
    int n_vocab; /* tokens that may be sampled */
    mr_row_source rows;
    mr_scorer judge;
    int64_t limit; /* 0: all rows */
    int batch;     /* rows that are asked together, at least 1 */
    int max_prompt, max_new;
    int64_t step; /* for the judge's info */
    /* May be NULL: after each batch's forward, with the rows that are done; false ends it with MR_ESIGNAL. */
    bool (*tick)(void *self, int64_t done, int64_t total);
    /* May be NULL: each answer, in the order of the rows. */
    mr_status (*answer)(void *self, const mr_eval_answer *a, mr_err *err);
    void *self;
} mr_eval_opts;

/* out is written on success only. */
mr_status mr_evaluate(mr_eval_counts *out, const mr_eval_opts *opts, mr_err *err);
/* The index of the i-th row that is asked. */
int64_t mr_eval_row(int64_t i, int64_t n_rows, int64_t n_asked);

#endif
