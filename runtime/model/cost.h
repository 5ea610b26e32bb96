/* cost.h - what a pass over packed rows has to move and to compute at least, counted from the model's shape. For `medrl
 * bench`, which divides it by a time and compares with what the device can do; nothing is measured here.
 *
 * Counted: every stored weight is read once a pass of the layers (NF4: half a byte, one byte of absmax for 64 values,
 * 4 bytes for 256 of these: 0.516), adapters as well; keys and values that are seen are read once a layer, new ones
 * written; logits are written and read as f32. A product of N rows with w[O,I] is 2*N*O*I operations, a query and a key
 * of attention 4*D a head. Training: gradients of inputs cost a forward again, but not for the first q, k, v, whose
 * input is frozen; a LoRA pair costs twice its forward; attention 5 products of D instead of 2; logits are computed
 * again. Gradient checkpointing runs each layer again, all but the down projection and what was kept.
 * Not counted: activations between operations, norms, softmax, sampling. Threads: no hidden state. */
#ifndef MR_COST_H
#define MR_COST_H

#include "model/model.h"

typedef struct mr_cost {
    double bytes, flops;
} mr_cost;

typedef struct mr_pass {
    double rows;           /* tokens that go through the layers */
    double pairs;          /* sum over rows of the keys that each sees */
    double keys;           /* different keys that have to be read: a shared prompt once */
    double head_rows;      /* rows of logits */
    double kv_token_bytes; /* keys and values of one token in one layer, as the device keeps them */
    bool backward, checkpointing;
    double kept_attention, kept_mlp; /* shares of the layers whose part is not run again */
} mr_pass;

mr_cost mr_cost_pass(const mr_config *c, const mr_model_opts *o, const mr_pass *p);
/* Norm of the gradient, AdamW with state_bytes a parameter (2 in 8 bit, 8 in 32), renewed copies. */
mr_cost mr_cost_update(const mr_config *c, const mr_model_opts *o, double state_bytes);
/* One of `groups` groups: n_prompt tokens, then n_own rows of each of `group` completions that see them. */
void mr_pass_group(mr_pass *p, double groups, double n_prompt, double group, double n_own);

#endif
