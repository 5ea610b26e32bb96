/* decoder_bwd.c - the backward pass of decoder.h.
 *
 * It walks the layers from the last to the first with one residual gradient dx. What the forward pass did not keep
 * (outputs of norms and of silu; with gradient checkpointing the whole layer) is computed again by the same operations,
 * so the two settings give the same bits. */
#include <assert.h>
#include <string.h>

#include "model/layout.h"

/* d(sum of dlogp * logp) to the rows of dx, through logits and the final norm. False when every weight is zero. */
static bool head_backward(mr_decoder *d, const int32_t *rows, const int32_t *targets, const float *dlogp, int n,
                          float inv_t) {
    mr_backend *b = d->b;
    mr_model *m = d->m;
    const mr_config *c = &m->config;
    size_t channels = (size_t)c->hidden_size;
    int at = 0;
    bool any = false;
    while (at < n) {
        int part = 0; /* rows of weight zero cost nothing: a group with equal rewards, a masked token */
        for (; at < n && part < d->opts.head_rows; at++) {
            assert(at == 0 || rows[at] >= rows[at - 1]);
            if (dlogp[at] == 0.0f) continue;
            d->pick_rows[part] = rows[at];
            d->pick_targets[part] = targets[at];
            d->pick_weight[part++] = dlogp[at];
        }
        if (!part) break;
        if (!any) b->zero(b, d->dx, (size_t)d->n_rows * channels * sizeof(float));
        any = true;
        mr_decoder_head(d, d->pick_rows, part);
        b->upload(b, d->targets, d->pick_targets, (size_t)part * sizeof(int32_t));
        b->upload(b, d->weight, d->pick_weight, (size_t)part * sizeof(float));
        if (d->lse_inv_t != inv_t) b->logprob(b, d->logp, NULL, d->lse, d->logits, d->targets, inv_t, part, c->vocab_size);
        d->n_head = 0; /* the logits become their gradient */
        b->logprob_bwd(b, d->logits, d->lse, d->targets, d->weight, inv_t, part, c->vocab_size);
        b->linear_bwd(b, d->dhn, NULL, d->logits, d->hn, NULL, &m->head, part, false);
        b->zero(b, d->dhx, (size_t)part * channels * sizeof(float));
        b->rmsnorm_bwd(b, d->dhx, c->hidden_size, m->dfinal_norm, d->dhn, c->hidden_size, d->hx, c->hidden_size,
                       m->final_norm, part, c->hidden_size, c->rms_norm_eps);
        for (int i = 0, len; i < part; i += len) { /* a row may come twice: added, in order */
            for (len = 1; i + len < part && d->pick_rows[i + len] == d->pick_rows[i + len - 1] + 1;) len++;
            b->add(b, d->dx + (size_t)d->pick_rows[i] * channels, d->dhx + (size_t)i * channels,
                   (int64_t)len * c->hidden_size);
        }
    }
    return any;
}

/* dx: gradient of the layer's output -> gradient of its middle (after attention's residual), for some rows. */
static void mlp_backward(mr_decoder *d, int layer, const mr_mlp *x) {
    mr_backend *b = d->b;
    const mr_config *c = &d->m->config;
    const mr_layer *l = &d->m->layers[layer];
    int channels = c->hidden_size, wide = c->intermediate_size;
    float *dx = d->dx + (size_t)x->at * (size_t)channels;
    bool again = !mr_keeps_mlp(&d->opts, c, layer);
    mr_gated gated = mr_decoder_gated(d, x);
    b->rmsnorm(b, d->an, channels, x->mid, channels, l->post_norm, x->n, channels, c->rms_norm_eps);
    if (!b->mlp_bwd || !b->mlp_bwd(b, d->dan, dx, d->an, &gated, x->n, again)) {
        if (again) b->linear(b, x->gu, x->u_up, d->an, &x->gate_up, x->n, NULL);
        b->silu_mul(b, d->act, x->gu, x->n, wide);
        b->linear_bwd(b, d->dact, d->du, dx, d->act, x->u_down, &x->down, x->n, false);
        b->silu_mul_bwd(b, d->dgu, d->dact, x->gu, x->n, wide);
        b->linear_bwd(b, d->dan, d->du, d->dgu, d->an, x->u_up, &x->gate_up, x->n, false);
    }
    b->rmsnorm_bwd(b, dx, channels, l->dpost_norm, d->dan, channels, x->mid, channels, l->post_norm, x->n, channels,
                   c->rms_norm_eps);
}

/* Gradients of the rotated q, k and of v in dqkv -> of the product's output; returns where they are. */
static float *unrotate(mr_decoder *d, int layer, int n, float *dqkv) {
    mr_backend *b = d->b;
    const mr_config *c = &d->m->config;
    const mr_layer *l = &d->m->layers[layer];
    int width = mr_qkv_width(c), heads = c->num_attention_heads, keys = c->num_key_value_heads, size = c->head_dim;
    b->rope(b, dqkv, width, d->pos, d->inv_freq, n, heads + keys, size, true);
    if (!c->qk_norm) return dqkv;
    b->head_norm_bwd(b, d->draw, l->dq_norm, l->dk_norm, dqkv, d->kept[layer].qkv, width, l->q_norm, l->k_norm, n, heads, keys, size,
                     c->rms_norm_eps);
    return d->draw;
}

/* dx: gradient of the middle -> gradient of the layer's input (not formed when nobody wants it). */
static void attention_backward(mr_decoder *d, int layer, const mr_pack *p, bool want_input) {
    mr_backend *b = d->b;
    const mr_config *c = &d->m->config;
    const mr_layer *l = &d->m->layers[layer];
    const mr_kept *k = &d->kept[layer];
    int n = p->n_rows, channels = c->hidden_size, width = mr_qkv_width(c);
    int heads = c->num_attention_heads, keys = c->num_key_value_heads, size = c->head_dim;
    b->linear_bwd(b, d->d_o, d->du, d->dx, k->o, k->u[MR_GROUP_O], &l->linear[MR_GROUP_O], n, false);
    /* with a q/k norm d->qk holds another layer's rows by now; without it the kept rows are rotated already */
    float *q = c->qk_norm ? mr_decoder_rotated(d, layer, n, true) : k->qkv;
    float *dv = d->dqkv;
    if (c->qk_norm) { /* head_norm_bwd adds to draw, so draw starts at zero; v's share goes there at once */
        b->zero(b, d->draw, (size_t)n * (size_t)width * sizeof(float));
        dv = d->draw;
    }
    b->attention_bwd(b, d->dqkv, width, d->dqkv + heads * size, dv + (heads + keys) * size, width, d->d_o, k->o, k->lse,
                     q, width, mr_layer_kv(d, layer), d->n_slots, p->spans, p->n_spans, n, heads, keys, size);
    float *dqkv = unrotate(d, layer, n, d->dqkv);
    b->rmsnorm(b, d->a, channels, k->x, channels, l->input_norm, n, channels, c->rms_norm_eps);
    b->linear_bwd(b, want_input ? d->da : NULL, d->du, dqkv, d->a, k->u[MR_GROUP_QKV], &l->linear[MR_GROUP_QKV], n,
                  false);
    if (want_input)
        b->rmsnorm_bwd(b, d->dx, channels, l->dinput_norm, d->da, channels, k->x, channels, l->input_norm, n, channels,
                       c->rms_norm_eps);
}

void mr_decoder_backward(mr_decoder *d, const mr_pack *p, const int32_t *rows, const int32_t *targets,
                         const float *dlogp, int n, float inv_t) {
    mr_model *m = d->m;
    assert(d->phase == MR_PHASE_TRAIN && p->n_rows == d->n_rows && m->adapter_on);
    if (!head_backward(d, rows, targets, dlogp, n, inv_t)) return;
    d->b->weight_hold(d->b, true);
    for (int i = m->config.num_hidden_layers - 1; i >= 0; i--) {
        mr_decoder_bring(d, i);
        if (!mr_keeps_attention(&d->opts, &m->config, i)) {
            mr_decoder_attend(d, i, p);
            mr_decoder_mid(d, i, p->n_rows);
        }
        for (int at = 0; at < p->n_rows; at += d->mlp_rows) {
            mr_mlp x = mr_decoder_mlp(d, i, at, p->n_rows);
            mlp_backward(d, i, &x);
        }
        attention_backward(d, i, p, i > 0 || m->opts.full);
        mr_decoder_fetch(d, i - 2); /* to where this layer's input was, while the next one runs */
    }
    d->b->weight_hold(d->b, false);
    if (m->opts.full) d->b->embed_bwd(d->b, m->dembed, d->dx, d->ids, p->n_rows, m->config.hidden_size);
}
