/* cost.c - see cost.h. */
#include "model/cost.h"

#include "model/layout.h"

/* Values of one layer: of all linears, of their adapters, of single groups. */
typedef struct sizes {
    double linears, adapters, qkv, qkv_inputs; /* qkv_inputs: r * in of q, k, v */
    double attention, attention_adapters, gate_up, gate_up_adapters;
} sizes;

static sizes layer_sizes(const mr_config *c, const mr_lora_opts *lora) {
    sizes s = { 0 };
    for (int p = 0; p < MR_N_PROJ; p++) {
        double rows = (double)mr_proj_rows(c, p), cols = (double)mr_proj_cols(c, p);
        double adapter = lora->r > 0 && lora->targets[p] ? lora->r * (rows + cols) : 0;
        s.linears += rows * cols;
        s.adapters += adapter;
        if (p < MR_GATE_PROJ)
            s.attention += rows * cols, s.attention_adapters += adapter;
        else if (p != MR_DOWN_PROJ)
            s.gate_up += rows * cols, s.gate_up_adapters += adapter;
        if (p <= MR_V_PROJ) {
            s.qkv += rows * cols;
            s.qkv_inputs += adapter > 0 ? lora->r * cols : 0;
        }
    }
    return s;
}

static double stored_bytes(mr_dtype t) {
    return t == MR_NF4 ? 0.5 + 1.0 / 64 + 4.0 / (64 * 256) : t == MR_F32 ? 4 : 2;
}

mr_cost mr_cost_pass(const mr_config *c, const mr_model_opts *o, const mr_pass *p) {
    const sizes s = layer_sizes(c, &o->lora);
    const double layers = c->num_hidden_layers, table = (double)c->vocab_size * c->hidden_size;
    const double width = (double)c->num_attention_heads * c->head_dim;
    const double weight = stored_bytes(o->store), head = stored_bytes(o->store == MR_F32 ? MR_F32 : MR_BF16);
    const double copy = stored_bytes(o->compute == MR_F32 ? MR_F32 : MR_BF16);
    const bool head_used = p->head_rows > 0;
    const double attention = 4 * p->pairs * width; /* of one layer, forward */

    mr_cost x = { 0, 0 };
    x.flops = layers * (2 * p->rows * (s.linears + s.adapters) + attention) + 2 * p->head_rows * table;
    x.bytes = layers * (s.linears * weight + s.adapters * copy + (p->keys + p->rows) * p->kv_token_bytes) +
              p->rows * c->hidden_size * head + (head_used ? table * head : 0) +
              2 * p->head_rows * c->vocab_size * sizeof(float);
    if (!p->backward) return x;

    const double first = o->full ? 0 : 2 * p->rows * (s.qkv + s.qkv_inputs); /* whose input's gradient nobody wants */
    x.flops += layers * (2 * p->rows * (s.linears + 2 * s.adapters) + 2.5 * attention) - first;
    x.flops += 4 * p->head_rows * table; /* the logits again, and the gradient of their input */
    if (o->full) x.flops += layers * 2 * p->rows * s.linears + 2 * p->head_rows * table;
    x.bytes += layers * (s.linears * weight + s.adapters * copy + p->keys * p->kv_token_bytes);
    x.bytes += (head_used ? 2 * table * head : 0) + 4 * p->head_rows * c->vocab_size * sizeof(float);
    const double trained = layers * (o->full ? s.linears : s.adapters) + (o->full ? table : 0);
    x.bytes += 2 * trained * sizeof(float); /* gradients are added to */
    if (!p->checkpointing) return x;

    const double first_part = layers * (1 - p->kept_attention), second_part = layers * (1 - p->kept_mlp);
    x.flops += first_part * (2 * p->rows * (s.attention + s.attention_adapters) + attention) +
               second_part * 2 * p->rows * (s.gate_up + s.gate_up_adapters);
    x.bytes += first_part * (s.attention * weight + s.attention_adapters * copy + (p->keys + p->rows) * p->kv_token_bytes) +
               second_part * (s.gate_up * weight + s.gate_up_adapters * copy);
    return x;
}

mr_cost mr_cost_update(const mr_config *c, const mr_model_opts *o, double state_bytes) {
    const sizes s = layer_sizes(c, &o->lora);
    const double table = (double)c->vocab_size * c->hidden_size * (c->tie_word_embeddings ? 1 : 2);
    const double n = c->num_hidden_layers * (o->full ? s.linears : s.adapters) + (o->full ? table : 0);
    /* the gradient twice (norm, update), value and states read and written, the value read for its copy */
    const double copy = stored_bytes(o->compute == MR_F32 ? MR_F32 : MR_BF16);
    return (mr_cost){ n * (2 * sizeof(float) + 2 * sizeof(float) + 2 * state_bytes + sizeof(float) + copy), 20 * n };
}

void mr_pass_group(mr_pass *p, double groups, double n_prompt, double group, double n_own) {
    p->rows += groups * (n_prompt + group * n_own);
    p->keys += groups * (n_prompt + group * n_own);
    p->pairs += groups * (n_prompt * (n_prompt + 1) / 2 + group * (n_own * n_prompt + n_own * (n_own + 1) / 2));
}
