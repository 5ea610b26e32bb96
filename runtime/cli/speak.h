/* speak.h - a prompt's tokens in, completions out, written to stdout as they come: what generate, chat and demo
 * share. */
#ifndef MR_SPEAK_H
#define MR_SPEAK_H

#include "cli/parts.h"

typedef struct mr_speak_opts {
    mr_sampling sampling; /* n_vocab is filled in */
    int max_new_tokens;
    int n_samples;
    uint64_t seed;
    uint32_t turn;         /* another number gives other random numbers */
    bool stream;           /* print the (one) completion as its tokens arrive */
    double *first_token_s; /* since the start of the process; may be NULL */
} mr_speak_opts;

/* Greedy decoding is temperature 0. Stops at the model's stop tokens, at the end of the context or at a signal
 * (out->stopped). out is filled from zero; clear with mr_rollout_clear. */
mr_status mr_speak(mr_rollout *out, mr_model *model, mr_tokenizer *t, const mr_ids *prompt, const mr_speak_opts *opts,
                   mr_err *err);

/* Where `rows` tokens at once and `slots` cached ones are enough to fill a prompt in and to decode. */
enum { MR_SPEAK_ROWS = 256 };

/* The text of one completion, without special tokens; owned, free with mr_free. */
char *mr_speak_text(const mr_tokenizer *t, const mr_completion *c);

/* [system,] shots, then `rest`: owned array of borrowed strings, free with mr_free. system NULL or "": left out. */
mr_message *mr_speak_frame(const mr_parts *p, const char *system, const mr_message *rest, int n_rest, int *n);

/* A conversation on the terminal, or lines from a pipe: what `medrl chat` is (chat.c). system NULL: none. inside: part
 * of a session that goes on, which Ctrl-C at the prompt comes back to. */
mr_status mr_converse(mr_parts *p, const char *system, const mr_speak_opts *speak, bool inside, mr_err *err);

#endif
