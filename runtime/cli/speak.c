/* speak.c - see speak.h. */
#include "cli/speak.h"

#include <string.h>

#include "cli/cli.h"

typedef struct speaker {
    const mr_tokenizer *t;
    const mr_speak_opts *opts;
    mr_utf8_stream stream;
    mr_str piece;
    bool begun;
} speaker;

static void put(mr_str *text) {
    if (text->len) fwrite(text->data, 1, text->len, stdout);
    fflush(stdout);
    text->len = 0;
}

static bool on_token(void *self, int prompt, int sample, int32_t id) {
    speaker *s = self;
    (void)prompt;
    (void)sample;
    if (!s->begun && s->opts->first_token_s) *s->opts->first_token_s = mr_since_start_s();
    s->begun = true;
    if (s->opts->stream) {
        mr_tokenizer_stream(s->t, &s->stream, &s->piece, id, true);
        put(&s->piece);
    }
    return mr_signals_seen() == 0;
}

static bool on_tick(void *self, int n_done, int n_total) {
    (void)self;
    (void)n_done;
    (void)n_total;
    return mr_signals_seen() == 0;
}

mr_status mr_speak(mr_rollout *out, mr_model *model, mr_tokenizer *t, const mr_ids *prompt, const mr_speak_opts *opts,
                   mr_err *err) {
    *out = (mr_rollout){ 0 };
    const mr_config *c = mr_model_config(model);
    int room = c->max_position_embeddings - prompt->n, n_new = opts->max_new_tokens;
    if (prompt->n == 0) return mr_fail(err, MR_EINVAL, "the prompt is empty; write some text");
    if (room < 1)
        return mr_fail(err, MR_EINVAL, "the prompt has %d tokens, the model's context holds %d; shorten it", prompt->n,
                       c->max_position_embeddings);
    if (n_new > room) n_new = room;

    mr_decoder *d;
    mr_decoder_opts dopts = {
        .rollout_rows = opts->n_samples > MR_SPEAK_ROWS ? opts->n_samples : MR_SPEAK_ROWS,
        .rollout_slots = mr_rollout_slots(1, prompt->n, opts->n_samples, n_new),
    };
    MR_TRY(mr_decoder_open(&d, model, &dopts, err));
    speaker s = { .t = t, .opts = opts };
    mr_rollout_prompt request = {
        .ids = prompt->data, .n_ids = prompt->n, .rng_prompt = opts->turn, .n_samples = opts->n_samples
    };
    mr_rollout_opts ropts = {
        .sampling = opts->sampling,
        .max_new_tokens = n_new,
        .seed = opts->seed,
        .token = on_token,
        .tick = on_tick,
        .self = &s,
    };
    int n_vocab = mr_tokenizer_count(t);
    ropts.sampling.n_vocab = n_vocab < c->vocab_size ? n_vocab : c->vocab_size;
    ropts.stop_ids = mr_tokenizer_stops(t, &ropts.n_stop_ids);
    mr_status st = mr_rollout_run(out, d, &request, 1, &ropts, err);
    if (opts->stream) {
        mr_utf8_stream_end(&s.stream, &s.piece);
        put(&s.piece);
    }
    mr_str_clear(&s.piece);
    mr_decoder_close(d);
    if (st != MR_OK) mr_rollout_clear(out);
    return st;
}

char *mr_speak_text(const mr_tokenizer *t, const mr_completion *c) {
    mr_str s = { 0 };
    mr_tokenizer_decode(t, &s, c->ids, c->n, true);
    return mr_str_steal(&s);
}

mr_message *mr_speak_frame(const mr_parts *p, const char *system, const mr_message *rest, int n_rest, int *n) {
    mr_message *m = mr_alloc((size_t)(1 + p->n_shots + n_rest) * sizeof *m);
    *n = 0;
    if (system && *system) m[(*n)++] = (mr_message){ "system", system };
    for (int i = 0; i < p->n_shots; i++) m[(*n)++] = p->shots[i];
    for (int i = 0; i < n_rest; i++) m[(*n)++] = rest[i];
    return m;
}
