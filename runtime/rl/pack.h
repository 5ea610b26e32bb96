/* pack.h - groups laid out as rows, slots and spans for one training forward.
 *
 * A group is [prompt | completion 1 | ... | completion G]: the prompt's rows stand once, a completion's rows are its
 * tokens but the last (the row of token t-1 predicts token t, so nothing is predicted by the last one). A completion
 * of one token therefore has no rows: the prompt's last row predicts it. Targets are listed with ascending rows; the
 * prompt's last row occurs once for each completion. Several groups share a pack while they fit. By the row rule no
 * value depends on that; gradients of params are sums over rows, and equal up to the order of those sums. A group that no
 * pack has room for is cut between completions, each part with the prompt's rows again: what a part's completions add to
 * the prompt's gradients goes through its own copy of these rows.
 * Memory: sized at init, nothing is allocated after. */
#ifndef MR_PACK_H
#define MR_PACK_H

#include "model/decoder.h"

/* Borrowed by mr_packer_add for the call. */
typedef struct mr_train_group {
    const int32_t *prompt;
    int n_prompt;              /* at least 1 */
    const int32_t *const *ids; /* [n_completions] */
    const int *n_ids;          /* [n_completions], at least 1 each */
    int n_completions;
    int32_t first_token; /* number of the first completion's first token among the step's tokens; the rest follow */
} mr_train_group;

typedef struct mr_packer {
    int max_rows, max_spans, max_targets;
    int64_t max_slots;
    mr_pack pack; /* what mr_decoder_forward takes; its arrays are the ones below */
    int32_t *ids, *pos, *slots;
    mr_span *spans;
    int32_t *rows, *targets; /* [n_targets] as mr_decoder_logprobs takes them */
    int32_t *token;          /* [n_targets] the step's number of each target */
    int n_targets;
    int64_t n_slots;
} mr_packer;

/* Slots and rows that a group takes. */
int64_t mr_group_slots(const mr_train_group *g);
int mr_group_rows_of(const mr_train_group *g);

mr_status mr_packer_init(mr_packer *p, int max_rows, int64_t max_slots, int max_completions, mr_err *err);
void mr_packer_clear(mr_packer *p);
void mr_packer_reset(mr_packer *p);
/* False when the group does not fit behind what is there; an empty packer that refuses can never take it. */
bool mr_packer_add(mr_packer *p, const mr_train_group *g);
/* Adds the group's completions from `first` on: all, or, to an empty packer that has no room for all, as many as it takes.
 * Returns the first that is still to come; `first` itself when nothing fits behind what is there, or ever. */
int mr_packer_add_from(mr_packer *p, const mr_train_group *g, int first);

#endif
