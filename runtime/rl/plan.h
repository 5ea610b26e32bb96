/* plan.h - the memory of a run by part, before anything is loaded, and how a run is made to fit into less.
 *
 * Chosen here: how many prompts are sampled together; how many groups share a training pack; of a GPU, how much of the forward pass
 * stays for the backward pass in memory that is free, checkpointing or not; how many layers' inputs go to the host's memory meanwhile; how many rows pass the MLP and have logits at a time; at last, into how many
 * parts a group is cut, each with the prompt's rows again. On the CPU no bit of an adapter depends on them but on that
 * cut, which changes the order of sums. (Training all weights of a model whose
 * head is its embedding, the last bits depend on packs: both add to one gradient in turn.) What a plan says is what the
 * backend's account holds after opening (kernels.h, bytes), within 3 %; after the first step nothing is taken any more.
 * Memory is the device's; host buffers (texts, token lists, a copy of the data) are not in it.
 * Units: bytes, tokens. Threads: no hidden state. */
#ifndef MR_PLAN_H
#define MR_PLAN_H

#include "rl/estimate.h"
#include "rl/trainer.h"

/* How long the prompts and answers of the data are. */
typedef struct mr_census {
    int prompt, completion;            /* tokens to plan for: of a prompt, of a completion (or sft's answer) */
    int64_t n_rows, n_read;            /* rows of the data; of these were tokenized */
    int longest, longest_target;       /* tokens, among those that were read */
    int64_t longest_row;               /* index of that prompt */
    int64_t n_cut;                     /* prompts that max_prompt_length (or the model) cuts */
    bool warned_prompt, warned_target; /* the user was told of a cut */
} mr_census;

/* Tokenizes up to 512 rows, evenly spaced; when there are more, a quarter is added for those not seen, and what is
 * longer still will be cut. parts: settings, rows, tokenizer and chat are used. MR_EINVAL when a completion leaves no room for
 * a prompt or a step has too many tokens. */
mr_status mr_census_take(mr_census *out, const mr_trainer_parts *parts, const mr_config *c, mr_err *err);

typedef struct mr_plan {
    /* the base model: stored linears; these in the compute type beside NF4 (model.dequantize), or 0; embedding and head; norms and
     * biases */
    size_t linears, unpacked, tables, vectors;
    /* what is trained: f32 masters, copies in the compute type, gradients, the optimizer's states */
    size_t values, copies, grads, states;
    mr_decoder_room decoder; /* phase memory and the backend's scratch */
    size_t total, cap;       /* cap 0: none */
    size_t kept;             /* in total: what there was room for so that the backward pass need not compute it again (room.kept_...) */
    mr_census census;        /* that it was made from */
    int64_t n_trained;       /* parameters */
    mr_optim optim;
    bool sft, checkpointing;
    int prompts, group; /* P, G */
    int max_prompt, max_completion;
    int in_flight; /* prompts sampled together */
    mr_decoder_opts room;
    struct { /* what it would be without a cap */
        int in_flight, pack_rows, head_rows, mlp_rows;
        size_t total;
    } wish;
    mr_estimate t4; /* of this job as planned: for whoever thinks of renting one */
    double kv_token_bytes; /* of one layer, for another estimate */
} mr_plan;

/* settings.vram is the cap, else what the device has. MR_ENOMEM when even the least does not fit: one line with what is
 * needed, what there is, and which settings to change to what. */
mr_status mr_plan_make(mr_plan *out, mr_backend *b, const mr_config *c, const mr_model_opts *mo, const mr_settings *s,
                       const mr_census *census, mr_err *err);
/* The options that a run opens its model with, by its settings; compute is what mr_settings' dtype came to. Where they say auto,
 * the plan decides: dequantize is to be mr_plan_dequantize when the model is opened. */
mr_model_opts mr_plan_model_opts(const mr_settings *s, mr_dtype compute);

mr_dequantize mr_plan_dequantize(const mr_plan *p);

/* Whether a group of the longest completions has more rows than a pack. */
bool mr_plan_cuts_groups(const mr_plan *p);

/* Lines for people: short (for a run's banner) or all parts. Time is not in them: mr_estimate_describe. */
void mr_plan_describe(const mr_plan *p, const char *device, bool all, mr_str *out);

#endif
