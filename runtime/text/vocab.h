/* vocab.h - what the tokenizer is made of; shared by the files of this folder, used by nobody else.
 *
 * Both containers (tokenizer.json, GGUF) are loaded into the same struct through mr_vocab_*: tokens by id with an
 * open-addressing index over their strings, merges as pairs of ids, pre-tokenizer steps as compiled patterns.
 * Encoding works on bytes and ids only; the byte-to-unicode symbols of GPT-2 exist in the files and in
 * mr_tokenizer_symbol.
 * Source: spec/tokenizers.md, 2.1 to 2.4. */
#ifndef MR_VOCAB_H
#define MR_VOCAB_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/utf8.h"
#include "text/tokenizer.h"

enum { MR_VOCAB_MAX_IDS = 1 << 22, MR_VOCAB_MAX_STEPS = 8 };

typedef enum mr_token_kind { MR_TOKEN_UNUSED, MR_TOKEN_NORMAL, MR_TOKEN_ADDED, MR_TOKEN_SPECIAL } mr_token_kind;

typedef struct mr_token {
    const char *symbol;   /* as the file writes it, NUL-terminated; NULL: no token has this id */
    const uint8_t *bytes; /* what it stands for */
    uint32_t symbol_len, n_bytes;
    mr_token_kind kind;
} mr_token;

typedef struct mr_vocab_slot {
    uint32_t tag; /* upper half of the hash: most comparisons end here, without touching the string */
    int32_t id;   /* plus 1, so that 0 is an empty slot */
} mr_vocab_slot;

typedef struct mr_merge {
    uint64_t pair; /* left id << 32 | right id, plus 1, so that 0 is an empty slot */
    int32_t rank, id;
} mr_merge;

typedef struct mr_piece_slot {
    uint64_t hash;
    uint32_t key_at, key_len, ids_at, n_ids; /* key_len 0: empty */
} mr_piece_slot;

typedef struct mr_bpe_node {
    int32_t id, prev, next; /* id -1: merged into its left neighbor */
} mr_bpe_node;

typedef struct mr_bpe_candidate {
    int32_t rank, at, left, right, id;
} mr_bpe_candidate;

struct mr_tokenizer {
    mr_arena memory; /* strings */

    mr_token *tokens; /* by id */
    int n_ids, cap_ids;
    mr_vocab_slot *index; /* open addressing over token strings */
    uint32_t index_mask;
    int n_indexed;
    mr_merge *merges;
    uint32_t merges_mask;

    int32_t byte_id[256]; /* the token of a single byte, -1 where the vocabulary lacks it */
    int32_t unk_id;       /* -1: unknown bytes are dropped */
    bool fuse_unk, ignore_merges, nfc;

    pcre2_code *steps[MR_VOCAB_MAX_STEPS]; /* each splits every piece of the one before; matches and gaps are pieces */
    const char *known[MR_VOCAB_MAX_STEPS]; /* the pattern of each when it is one of mr_pattern_*, else NULL */
    int n_steps;
    pcre2_match_data *match;
    pcre2_match_context *match_context;
    pcre2_jit_stack *jit_stack;

    int32_t *added; /* ids of added tokens, ordered by content */
    int n_added;
    bool added_first[256]; /* bytes with which an added token begins */

    int32_t bos, eos, pad;
    mr_ids stops;
    char *chat_template;

    /* scratch and cache */
    mr_piece_slot *cache;
    int n_cached;
    mr_str cache_keys;
    mr_ids cache_ids;
    mr_str fixed, normal; /* repaired text, NFC text */
    mr_bpe_node *nodes;
    int cap_nodes;
    mr_bpe_candidate *heap;
    int n_heap, cap_heap;
};

/* tokenizer_save.c: the key of all stop ids in a GGUF that medrl wrote */
extern const char mr_stop_ids_key[];

/* tokenizer_load.c */
mr_status mr_vocab_load(mr_tokenizer *t, const char *path, mr_err *err);

/* vocab.c: filling. place begins every message: "x/tokenizer.json: model.vocab". */
mr_status mr_vocab_reserve(mr_tokenizer *t, int64_t n_tokens, int64_t n_merges, const char *place, mr_err *err);
mr_status mr_vocab_put(mr_tokenizer *t, int64_t id, const char *symbol, size_t len, mr_token_kind kind,
                       const char *place, mr_err *err);
/* Merge number `rank` joins a and b, which must be tokens, as must be their concatenation. */
mr_status mr_vocab_merge(mr_tokenizer *t, int32_t rank, const char *a, size_t a_len, const char *b, size_t b_len,
                         const char *place, mr_err *err);
void mr_vocab_finish(mr_tokenizer *t); /* after the last token */
int32_t mr_vocab_find(const mr_tokenizer *t, const char *symbol, size_t len);
const mr_merge *mr_vocab_pair(const mr_tokenizer *t, int32_t left, int32_t right); /* NULL: these two do not merge */
/* The longest added token that text[len] begins with, -1 for none. */
int32_t mr_vocab_added(const mr_tokenizer *t, const char *text, size_t len, bool special);

/* pretoken.c: one more splitting step from a pattern in the syntax of tokenizer.json. */
extern const char mr_pattern_qwen2[], mr_pattern_llama3[], mr_pattern_gpt2[], mr_pattern_digit[], mr_pattern_digits[];
mr_status mr_pretoken_add(mr_tokenizer *t, const char *pattern, const char *place, mr_err *err);
void mr_pretoken_clear(mr_tokenizer *t);
/* Calls piece(self, bytes, len) for each piece of text[len], which is valid UTF-8, in order. */
typedef void (*mr_piece_fn)(void *self, const char *piece, size_t len);
mr_status mr_pretoken_split(mr_tokenizer *t, const char *text, size_t len, mr_piece_fn piece, void *self, mr_err *err);

/* tokenizer.c: text[len] with special tokens matched everywhere but in the `data` spans (ordered, apart from each
 * other). A special token is taken only where it lies wholly outside of them. */
mr_status mr_tokenizer_encode_spans(mr_tokenizer *t, mr_ids *ids, const char *text, size_t len,
                                    const mr_text_span *data, int n_data, mr_err *err);

/* unicode.c */
uint32_t mr_byte_symbol(uint8_t byte); /* GPT-2's code point for a byte */
int mr_symbol_byte(uint32_t cp);       /* and back; -1 when cp stands for none */

#endif
