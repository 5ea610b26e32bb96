/* rollout.h - completions from the present policy: prompts once, their completions together, finished ones leave.
 *
 * Each prompt is prefilled once; its G completions share its keys and values. All live sequences advance one token a
 * forward. A token is a function of (seed, step, prompt, sample, position) and of the logits, never of the batch:
 * base/rng.h mr_uniform. Recorded log-probabilities are those of the full distribution at the temperature (no filters),
 * bit-equal to the training forward's.
 * Source: spec/grpo.md 3.2 (masks, stop ids), 3.4. */
#ifndef MR_ROLLOUT_H
#define MR_ROLLOUT_H

#include "model/decoder.h"
#include "text/tokenizer.h"

typedef struct mr_rollout_prompt {
    const int32_t *ids; /* borrowed for the call */
    int n_ids;
    uint32_t rng_prompt;  /* the prompt's number for the random numbers: its place in the step */
    int n_samples;        /* G */
    uint32_t rng_sample0; /* number of the first sample, 0 usually */
} mr_rollout_prompt;

typedef struct mr_completion {
    int prompt, sample; /* indices in the request */
    int32_t *ids;       /* tokens up to and including the stop token; owned by the rollout result */
    float *logp;        /* [n], nats */
    int n;
    bool truncated; /* no stop token within max_new_tokens */
} mr_completion;

typedef struct mr_rollout_opts {
    mr_sampling sampling;
    int max_new_tokens;
    const int32_t *stop_ids;
    int n_stop_ids;
    uint64_t seed;
    uint32_t step;
    /* Called as each completion ends (may be NULL), so that scoring overlaps decoding. */
    void (*finished)(void *self, const mr_completion *c);
    /* Called with each new token (chat's streaming; may be NULL). Return false to end that sequence. */
    bool (*token)(void *self, int prompt, int sample, int32_t id);
    /* Called once a forward with the number of finished sequences (may be NULL). Return false to stop at once. */
    bool (*tick)(void *self, int n_done, int n_total);
    void *self;
} mr_rollout_opts;

typedef struct mr_rollout {
    mr_completion *items; /* [sum of n_samples], prompt-major */
    int n;
    int64_t n_prompt_tokens, n_new_tokens;
    double prefill_s, decode_s;
    bool stopped; /* tick said stop: items are incomplete */
    mr_arena arena;
} mr_rollout;

/* The decoder's opts say how many rows and slots there are; prompts that do not fit at once wait for finished groups.
 * MR_ENOMEM when a single group cannot fit, with the numbers. Begins MR_PHASE_ROLLOUT. out must be zeroed; clear with
 * mr_rollout_clear. */
mr_status mr_rollout_run(mr_rollout *out, mr_decoder *d, const mr_rollout_prompt *prompts, int n_prompts,
                         const mr_rollout_opts *opts, mr_err *err);
void mr_rollout_clear(mr_rollout *r);
/* KV slots that P prompts of at most p tokens with G completions of at most t tokens take (each span rounded up to
 * MR_KV_CHUNK). */
int64_t mr_rollout_slots(int n_prompts, int n_prompt_tokens, int n_samples, int max_new_tokens);

#endif
