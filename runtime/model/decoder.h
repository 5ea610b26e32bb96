/* decoder.h - the forward and backward pass over packed rows; the one forward that samples and trains.
 *
 * Rows: the tokens of all sequences one after another, no padding. Spans say who sees whom (kernels.h). A group of GRPO
 * is [prompt | completion 1 | ... | completion G]: the prompt's rows once, each completion with the prompt as its
 * prefix; positions continue from the prompt.
 * Phases share one block of memory: rollout (keys and values of all sequences, small row buffers) and training
 * (activations of one pack). Keys and values of the rollout are valid until mr_decoder_phase says otherwise.
 * Head: logits exist for at most opts.head_rows rows at a time; the backward pass computes them again, but for rows
 * that the last call had.
 * Row rule: every value of a row is the same bit for bit in both phases, for any packing.
 * No bit of a forward depends on how memory is saved (checkpointing, mlp_rows, aside_layers, kept layers), and on the CPU no bit of a
 * gradient; elsewhere mlp_rows says where sums over rows are cut (kernels.h).
 * Memory: all of it is taken in mr_decoder_open, the backend's scratch for the largest packs too.
 * Errors: device failures surface in mr_backend's sync. Threads: one. */
#ifndef MR_DECODER_H
#define MR_DECODER_H

#include "model/model.h"

typedef struct mr_decoder mr_decoder;

typedef struct mr_decoder_opts {
    /* most rows of one forward while sampling (prefill is cut into pieces of this size by the caller) */
    int rollout_rows;
    int64_t rollout_slots;       /* KV slots while sampling, rounded up to MR_KV_CHUNK */
    int train_rows;              /* most rows of one training pack; 0: never trains */
    int64_t train_slots;         /* KV slots of one training pack: each span starts at a multiple of MR_KV_CHUNK */
    int head_rows;               /* rows of logits at a time; 0: as many as fit in 64 MB, 64 to 512 */
    bool gradient_checkpointing; /* keep only each layer's input and run the layer again in the backward pass */
    int mlp_rows;                /* rows of a training pack that pass the MLP at a time; 0: all */
    /* with checkpointing: the inputs of so many layers, from the first on, are kept in the host's memory, but for two at
     * a time; 3 at least, or 0 */
    int aside_layers;
    /* with checkpointing: of so many layers, the last ones, what attention made (q, k, v, its output, the sum behind it) stays for the
     * backward pass all the same, and of so many what gate and up gave; that part of these layers is not run again. Without: of all. */
    int kept_attention, kept_mlp;
} mr_decoder_opts;

typedef enum mr_phase { MR_PHASE_ROLLOUT, MR_PHASE_TRAIN } mr_phase;

/* What one forward covers; all arrays are host memory, borrowed for the call. */
typedef struct mr_pack {
    int n_rows;
    const int32_t *ids, *pos, *slots; /* [n_rows] token, position (from 0 in its sequence), KV slot */
    const mr_span *spans;
    int n_spans;
} mr_pack;

/* KV slots that a span of n tokens takes. */
static inline int64_t mr_kv_round(int64_t n) {
    return (n + MR_KV_CHUNK - 1) / MR_KV_CHUNK * MR_KV_CHUNK;
}

mr_status mr_decoder_open(mr_decoder **out, mr_model *m, const mr_decoder_opts *opts, mr_err *err);
void mr_decoder_close(mr_decoder *d);
size_t mr_decoder_bytes(const mr_decoder *d);
mr_model *mr_decoder_model(const mr_decoder *d);
const mr_decoder_opts *mr_decoder_options(const mr_decoder *d); /* as given, slots rounded up; borrowed until close */

/* What mr_decoder_open would take on b, before the model exists. The block holds the head and the larger of the phases;
 * keys and values are part of their phase. */
typedef struct mr_decoder_room {
    size_t head;              /* ids, logits and rows of the head */
    size_t rollout, train;    /* the phases: row buffers and activations, without keys and values */
    size_t rollout_kv, train_kv;
    size_t scratch; /* of the backend, for products of these sizes */
    size_t block;   /* mr_decoder_bytes: head + max(rollout + rollout_kv, train + train_kv) */
    size_t aside;   /* of the host, for aside_layers; in none of the others */
    int head_rows;  /* as chosen */
} mr_decoder_room;
void mr_decoder_plan(mr_decoder_room *room, mr_backend *b, const mr_config *c, const mr_model_opts *m,
                     const mr_decoder_opts *opts);

/* Begins a phase: the other phase's memory is gone. */
void mr_decoder_phase(mr_decoder *d, mr_phase phase);

/* Runs the layers over a pack (in the present phase); the final, normed rows stay in the decoder until the next
 * forward. In MR_PHASE_TRAIN the activations are kept for mr_decoder_backward. */
void mr_decoder_forward(mr_decoder *d, const mr_pack *p);

/* For n rows of the last forward: logp[i] and entropy[i] (may be NULL) of targets[i] under logits * inv_t at rows[i].
 * Host arrays. The log-probability of token t comes from the row of token t-1. */
void mr_decoder_logprobs(mr_decoder *d, float *logp, float *entropy, const int32_t *rows, const int32_t *targets, int n,
                         float inv_t);
/* Logits of n rows to host memory [n, V]. */
void mr_decoder_logits(mr_decoder *d, float *logits, const int32_t *rows, int n);
/* Picks a token for each of n rows: kernels.h `sample`. u[n] in [0,1). history as there, may be NULL. */
void mr_decoder_sample(mr_decoder *d, int32_t *ids, float *logp, const int32_t *rows, const float *u,
                       const mr_sampling *opt, const int32_t *const *history, const int32_t *n_history, int n);
/* In MR_PHASE_ROLLOUT: a forward of one row for each of p->n_spans sequences, span i being row i, and mr_decoder_sample
 * of all rows without a history; the same bits. Up to 128 rows are one launch where the backend records work that
 * repeats. */
void mr_decoder_step(mr_decoder *d, int32_t *ids, float *logp, const mr_pack *p, const float *u,
                     const mr_sampling *opt);
/* Accumulates the gradients of sum_i dlogp[i] * logp[i] (rows and targets as in mr_decoder_logprobs; rows ascending;
 * the pack is that of the last forward) into the model's params. */
void mr_decoder_backward(mr_decoder *d, const mr_pack *p, const int32_t *rows, const int32_t *targets,
                         const float *dlogp, int n, float inv_t);

/* What a part of the model gave, for finding out where a number went wrong. */
typedef struct mr_peak {
    char name[64]; /* "model.embed_tokens", "model.layers.3.self_attn", "model.layers.3.mlp", "lm_head" */
    double max;    /* of |x|, over what is finite */
    bool finite;   /* all of it is */
} mr_peak;
int mr_decoder_n_peaks(const mr_decoder *d); /* two a layer, and two */
/* mr_decoder_forward and the logits of rows[n], with a look at the residual stream behind each part, in the order of the forward pass.
 * peaks[mr_decoder_n_peaks]: zeroed before the first pack; what was found in earlier packs stays in it. Slow, since all of it is
 * downloaded. */
void mr_decoder_examine(mr_decoder *d, const mr_pack *p, const int32_t *rows, int n, mr_peak *peaks);

#endif
