/* tokenizer.h - byte-level BPE: text to token ids and back, equal to the reference on every fixture.
 *
 * From tokenizer.json (a folder that holds one) or from a GGUF file's metadata. Qwen2.5/Qwen3, Llama 3, SmolLM2,
 * GPT-2 pre-tokenizers; any other component of a tokenizer.json is refused by name.
 * Source: spec/tokenizers.md (2.1 pipeline, 2.2 PCRE2 patterns, 2.3 NFC, 2.5 decoding).
 * Ownership: opaque handle, close with mr_tokenizer_close; id arrays are owned by the caller, free with mr_free.
 * Threads: one handle, one thread at a time (it caches pieces). */
#ifndef MR_TOKENIZER_H
#define MR_TOKENIZER_H

#include "base/memory.h"
#include "files/writer.h"

typedef struct mr_tokenizer mr_tokenizer;

typedef struct mr_ids {
    int32_t *data;
    int n, cap;
} mr_ids; /* zeroed = empty; free data with mr_free */
void mr_ids_push(mr_ids *ids, int32_t id);

typedef struct mr_text_span {
    size_t from, to;
} mr_text_span; /* bytes [from, to) of a text */

/* path: a folder with tokenizer.json, or a .gguf file. */
mr_status mr_tokenizer_open(mr_tokenizer **out, const char *path, mr_err *err);
void mr_tokenizer_close(mr_tokenizer *t);

/* Appends the ids of text[len] (UTF-8; ill-formed bytes are treated as U+FFFD). special: whether "<|im_end|>" and
 * its like inside the text become the control token. Text that comes from data must say false: it stays text (added
 * tokens that are not special, "<think>" of Qwen3, are matched in both cases, as the reference does). No BOS is added.
 * On failure ids is as it was. */
mr_status mr_tokenizer_encode(mr_tokenizer *t, mr_ids *ids, const char *text, size_t len, bool special, mr_err *err);
/* Appends the text of ids; special tokens are left out when skip_special. Ill-formed UTF-8 becomes U+FFFD. */
void mr_tokenizer_decode(const mr_tokenizer *t, mr_str *text, const int32_t *ids, int n, bool skip_special);

/* Decoding as tokens arrive: emits only whole characters, holds back an incomplete tail. Zeroed = start. */
typedef struct mr_utf8_stream {
    uint8_t held[8];
    int n_held;
} mr_utf8_stream;
void mr_tokenizer_stream(const mr_tokenizer *t, mr_utf8_stream *s, mr_str *text, int32_t id, bool skip_special);
void mr_utf8_stream_end(mr_utf8_stream *s, mr_str *text); /* an incomplete tail becomes one U+FFFD */

int mr_tokenizer_count(const mr_tokenizer *t);                       /* largest id + 1 */
int32_t mr_tokenizer_find(const mr_tokenizer *t, const char *token); /* id of an added token or symbol string; -1 */
bool mr_tokenizer_is_special(const mr_tokenizer *t, int32_t id);
/* The symbol string of an id as the vocabulary writes it ("Ġthe"); NULL when the id is unused. Borrowed. */
const char *mr_tokenizer_symbol(const mr_tokenizer *t, int32_t id);

/* bos and eos (-1: none), and every id that ends a completion: generation_config.json's list, the tokenizer's eos in
 * front when it is missing there, and the turn end of the chat template. Borrowed. */
int32_t mr_tokenizer_bos(const mr_tokenizer *t);
int32_t mr_tokenizer_eos(const mr_tokenizer *t);
const int32_t *mr_tokenizer_stops(const mr_tokenizer *t, int *n);
int32_t mr_tokenizer_pad(const mr_tokenizer *t);
/* The model's own Jinja chat template, NULL when it has none. Borrowed. */
const char *mr_tokenizer_template(const mr_tokenizer *t);

/* To other programs (tokenizer_save.c). n_rows: of the model's embedding; ids that no token has become unused ones.
 * MR_EDATA when the vocabulary is larger, or when llama.cpp has no name for the way in which text is split. */
mr_status mr_tokenizer_put_gguf(const mr_tokenizer *t, mr_gguf_meta *meta, int n_rows, mr_err *err);
/* tokenizer.json, tokenizer_config.json (with the template) and generation_config.json into the folder dir. */
mr_status mr_tokenizer_save(const mr_tokenizer *t, const char *dir, mr_err *err);

/* unicode: appends the NFC of text (utf8proc); ill-formed parts become U+FFFD unless all bytes are below 0xCC. */
void mr_utf8_nfc(mr_str *out, const char *text, size_t len);
/* Appends text, replacing each maximal ill-formed part by U+FFFD; returns how many were replaced. */
int mr_utf8_repair(mr_str *out, const char *text, size_t len);

#endif
