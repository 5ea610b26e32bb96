/* compare.c - see compare.h. */
#include "cli/compare.h"

#include <math.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/speak.h"

static mr_status encode(mr_ids *ids, mr_parts *p, const char *text, mr_err *err) {
    if (!p->chat) return mr_tokenizer_encode(p->tokenizer, ids, text, strlen(text), true, err);
    int n;
    const mr_message user = { "user", text };
    mr_message *messages = mr_speak_frame(p, p->system, &user, 1, &n);
    const mr_chat_opts o = { .add_generation_prompt = true };
    mr_status st = mr_chat_encode(p->tokenizer, ids, p->chat, messages, n, &o, err);
    mr_free(messages);
    return st;
}

static mr_status answer(mr_ids *out, mr_parts *p, const mr_ids *prompt, int n_new, mr_err *err) {
    mr_rollout r;
    const mr_speak_opts o = { .sampling = { .top_p = 1, .repetition_penalty = 1 },
                              .max_new_tokens = n_new,
                              .n_samples = 1 };
    MR_TRY(mr_speak(&r, p->model, p->tokenizer, prompt, &o, err));
    for (int i = 0; r.n == 1 && i < r.items[0].n; i++) mr_ids_push(out, r.items[0].ids[i]);
    mr_rollout_clear(&r);
    if (mr_signals_seen()) return mr_fail(err, MR_ESIGNAL, "stopped by %s", mr_signals_name(mr_signals_seen()));
    return MR_OK;
}

/* logp[answer->n] of the answer's tokens behind the prompt. */
static mr_status judge(float *logp, mr_parts *p, const mr_ids *prompt, const mr_ids *ans, mr_err *err) {
    const int n = prompt->n + ans->n;
    const mr_decoder_opts o = { .rollout_rows = MR_SPEAK_ROWS, .rollout_slots = mr_kv_round(n) };
    mr_decoder *d;
    MR_TRY(mr_decoder_open(&d, p->model, &o, err));
    mr_decoder_phase(d, MR_PHASE_ROLLOUT);
    int32_t ids[MR_SPEAK_ROWS], pos[MR_SPEAK_ROWS], rows[MR_SPEAK_ROWS], targets[MR_SPEAK_ROWS];
    for (int at = 0; at < n - 1;) {
        const int take = n - 1 - at < MR_SPEAK_ROWS ? n - 1 - at : MR_SPEAK_ROWS;
        int m = 0;
        for (int i = 0; i < take; i++) {
            const int t = at + i, next = t + 1 - prompt->n;
            ids[i] = t < prompt->n ? prompt->data[t] : ans->data[t - prompt->n];
            pos[i] = t;
            if (next < 0) continue;
            rows[m] = i;
            targets[m++] = ans->data[next];
        }
        const mr_span span = { .n_rows = take, .past = at };
        const mr_pack pack = { .n_rows = take, .ids = ids, .pos = pos, .slots = pos, .spans = &span, .n_spans = 1 };
        mr_decoder_forward(d, &pack);
        if (m) mr_decoder_logprobs(d, logp, NULL, rows, targets, m, 1.0f);
        logp += m;
        at += take;
    }
    mr_status st = p->backend->sync(p->backend, err);
    mr_decoder_close(d);
    return st;
}

mr_status mr_compare_first(mr_compare *c, mr_parts *p, const char *const *texts, int n, mr_err *err) {
    c->items = mr_alloc((size_t)(n + 1) * sizeof *c->items);
    for (int i = 0; i < n; i++) {
        struct mr_compared *x = &c->items[c->n++];
        x->text = mr_strdup(texts[i]);
        MR_TRY(encode(&x->prompt, p, texts[i], err));
        MR_TRY(answer(&x->answer, p, &x->prompt, c->n_new_tokens, err));
        x->logp = mr_alloc((size_t)(x->answer.n + 1) * sizeof *x->logp);
        MR_TRY(judge(x->logp, p, &x->prompt, &x->answer, err));
    }
    return MR_OK;
}

mr_status mr_compare_second(mr_compare *c, mr_parts *p, mr_err *err) {
    double sum = 0;
    c->differs = -1;
    for (int i = 0; i < c->n; i++) {
        struct mr_compared *x = &c->items[i];
        MR_TRY(answer(&x->other, p, &x->prompt, c->n_new_tokens, err));
        float *logp = mr_alloc((size_t)(x->answer.n + 1) * sizeof *logp);
        mr_status st = judge(logp, p, &x->prompt, &x->answer, err);
        for (int k = 0; st == MR_OK && k < x->answer.n; k++) {
            const double gap = fabs((double)logp[k] - (double)x->logp[k]);
            sum += gap;
            if (!(gap <= c->gap_most)) c->gap_most = gap; /* NaN too */
        }
        mr_free(logp);
        MR_TRY(st);
        while (x->agree < x->answer.n && x->agree < x->other.n && x->answer.data[x->agree] == x->other.data[x->agree])
            x->agree++;
        c->n_tokens += x->answer.n;
        c->n_agree += x->agree;
        if (c->differs < 0 && (x->agree < x->answer.n || x->agree < x->other.n)) c->differs = i;
    }
    c->gap_mean = c->n_tokens ? sum / c->n_tokens : 0;
    return MR_OK;
}

void mr_compare_clear(mr_compare *c) {
    for (int i = 0; i < c->n; i++) {
        mr_free(c->items[i].text);
        mr_free(c->items[i].prompt.data);
        mr_free(c->items[i].answer.data);
        mr_free(c->items[i].other.data);
        mr_free(c->items[i].logp);
    }
    mr_free(c->items);
    *c = (mr_compare){ 0 };
}
