/* vocab.c - tokens by id and by string, merges by pair, added tokens by prefix.
 * Source: spec/tokenizers.md, 2.1 (byte map, added tokens: leftmost-longest), 2.4. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "text/vocab.h"

static uint32_t table_size(int64_t n) { /* a power of two, at most half full */
    uint32_t size = 64;
    while (size < 2 * (uint64_t)n) size *= 2;
    return size;
}

mr_status mr_vocab_reserve(mr_tokenizer *t, int64_t n_tokens, int64_t n_merges, const char *place, mr_err *err) {
    if (n_tokens < 1 || n_tokens > MR_VOCAB_MAX_IDS)
        return mr_fail(err, MR_EDATA, "%s: %lld tokens, want 1 to %d", place, (long long)n_tokens, MR_VOCAB_MAX_IDS);
    if (n_merges < 0 || n_merges > MR_VOCAB_MAX_IDS)
        return mr_fail(err, MR_EDATA, "%s: %lld merges, want at most %d", place, (long long)n_merges, MR_VOCAB_MAX_IDS);
    uint32_t n_index = table_size(n_tokens), n_slots = table_size(n_merges);
    t->index = mr_try_alloc(n_index * sizeof *t->index);
    t->merges = mr_try_alloc(n_slots * sizeof *t->merges);
    if (!t->index || !t->merges)
        return mr_fail(err, MR_ENOMEM, "%s: no memory for %lld tokens", place, (long long)n_tokens);
    t->index_mask = n_index - 1;
    t->merges_mask = n_slots - 1;
    return MR_OK;
}

int32_t mr_vocab_find(const mr_tokenizer *t, const char *symbol, size_t len) {
    if (!t->index) return -1;
    uint64_t hash = mr_hash64(symbol, len);
    for (uint32_t at = (uint32_t)hash & t->index_mask; t->index[at].id; at = (at + 1) & t->index_mask) {
        if (t->index[at].tag != (uint32_t)(hash >> 32)) continue;
        const mr_token *tok = &t->tokens[t->index[at].id - 1];
        if (tok->symbol_len == len && memcmp(tok->symbol, symbol, len) == 0) return t->index[at].id - 1;
    }
    return -1;
}

/* The bytes that a symbol stands for. A symbol with a character outside of the byte map stands for its own UTF-8, as
 * in the reference's ByteLevel decoder; so does an added token. */
static void set_bytes(mr_tokenizer *t, mr_token *tok) {
    const uint8_t *s = (const uint8_t *)tok->symbol;
    bool ascii = true;
    for (uint32_t i = 0; i < tok->symbol_len && ascii; i++) ascii = s[i] >= 33 && s[i] <= 126;
    tok->bytes = s;
    tok->n_bytes = tok->symbol_len;
    if (ascii || tok->kind >= MR_TOKEN_ADDED) return;
    uint8_t *bytes = mr_arena_alloc(&t->memory, tok->symbol_len);
    uint32_t n = 0;
    for (uint32_t i = 0; i < tok->symbol_len;) {
        uint32_t cp;
        int step = mr_utf8_next(&cp, s + i, tok->symbol_len - i);
        int byte = step > 0 ? mr_symbol_byte(cp) : -1;
        if (byte < 0) return;
        bytes[n++] = (uint8_t)byte;
        i += (uint32_t)step;
    }
    tok->bytes = bytes;
    tok->n_bytes = n;
}

mr_status mr_vocab_put(mr_tokenizer *t, int64_t id, const char *symbol, size_t len, mr_token_kind kind,
                       const char *place, mr_err *err) {
    if (id < 0 || id >= MR_VOCAB_MAX_IDS)
        return mr_fail(err, MR_EDATA, "%s: token \"%.*s\" has id %lld, want 0 to %d", place, (int)(len < 60 ? len : 60),
                       symbol, (long long)id, MR_VOCAB_MAX_IDS - 1);
    if (len == 0 || len > 65536)
        return mr_fail(err, MR_EDATA, "%s: token %lld has %zu bytes, want 1 to 65536", place, (long long)id, len);
    if (!mr_utf8_valid(symbol, len) || memchr(symbol, 0, len))
        return mr_fail(err, MR_EDATA, "%s: token %lld is not valid UTF-8", place, (long long)id);
    if (id >= t->cap_ids) {
        int cap = t->cap_ids ? t->cap_ids : 1024;
        while (cap <= id) cap *= 2;
        t->tokens = mr_realloc(t->tokens, (size_t)cap * sizeof *t->tokens);
        memset(t->tokens + t->cap_ids, 0, (size_t)(cap - t->cap_ids) * sizeof *t->tokens);
        t->cap_ids = cap;
    }
    mr_token *tok = &t->tokens[id];
    int32_t other = mr_vocab_find(t, symbol, len);
    if (other == id && kind >= MR_TOKEN_ADDED &&
        tok->kind == MR_TOKEN_NORMAL) { /* added tokens may stand in the vocabulary too */
        tok->kind = kind;
        set_bytes(t, tok);
        return MR_OK;
    }
    if (other >= 0)
        return mr_fail(err, MR_EDATA, "%s: token \"%.*s\" has ids %d and %lld, want one", place,
                       (int)(len < 60 ? len : 60), symbol, other, (long long)id);
    if (tok->kind != MR_TOKEN_UNUSED)
        return mr_fail(err, MR_EDATA, "%s: id %lld stands for \"%.60s\" and for \"%.*s\", want one token", place,
                       (long long)id, tok->symbol, (int)(len < 60 ? len : 60), symbol);
    tok->symbol = mr_arena_strdup(&t->memory, symbol, len);
    tok->symbol_len = (uint32_t)len;
    tok->kind = kind;
    set_bytes(t, tok);
    if (id >= t->n_ids) t->n_ids = (int)id + 1;
    assert((uint32_t)t->n_indexed <= t->index_mask / 2 + 1); /* mr_vocab_reserve was told how many come */
    uint64_t hash = mr_hash64(symbol, len);
    uint32_t at = (uint32_t)hash & t->index_mask;
    while (t->index[at].id) at = (at + 1) & t->index_mask;
    t->index[at] = (mr_vocab_slot){ (uint32_t)(hash >> 32), (int32_t)id + 1 };
    t->n_indexed++;
    return MR_OK;
}

static uint32_t pair_slot(const mr_tokenizer *t, uint64_t pair) {
    pair *= 0x9E3779B97F4A7C15u; /* Fibonacci hashing: the upper half is well mixed */
    return (uint32_t)(pair >> 32) & t->merges_mask;
}

const mr_merge *mr_vocab_pair(const mr_tokenizer *t, int32_t left, int32_t right) {
    uint64_t pair = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) + 1;
    for (uint32_t at = pair_slot(t, pair); t->merges[at].pair; at = (at + 1) & t->merges_mask)
        if (t->merges[at].pair == pair) return &t->merges[at];
    return NULL;
}

mr_status mr_vocab_merge(mr_tokenizer *t, int32_t rank, const char *a, size_t a_len, const char *b, size_t b_len,
                         const char *place, mr_err *err) {
    int32_t left = mr_vocab_find(t, a, a_len), right = mr_vocab_find(t, b, b_len), id = -1;
    if (left >= 0 && right >= 0) { /* both are tokens, so their lengths are bounded */
        char small[256], *both = a_len + b_len <= sizeof small ? small : mr_alloc(a_len + b_len);
        memcpy(both, a, a_len);
        memcpy(both + a_len, b, b_len);
        id = mr_vocab_find(t, both, a_len + b_len);
        if (both != small) mr_free(both);
    }
    if (id < 0)
        return mr_fail(err, MR_EDATA,
                       "%s[%d]: \"%.*s\" + \"%.*s\": %s is not in the vocabulary; the file is damaged or incomplete",
                       place, rank, (int)(a_len < 60 ? a_len : 60), a, (int)(b_len < 60 ? b_len : 60), b,
                       left < 0    ? "the first"
                       : right < 0 ? "the second"
                                   : "their join");
    uint64_t pair = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) + 1;
    uint32_t at = pair_slot(t, pair);
    while (t->merges[at].pair && t->merges[at].pair != pair) at = (at + 1) & t->merges_mask;
    t->merges[at] =
        (mr_merge){ .pair = pair, .rank = rank, .id = id }; /* of equal pairs the last counts, as in the reference */
    return MR_OK;
}

static int by_content(const void *a, const void *b, void *self) {
    const mr_tokenizer *t = self;
    return strcmp(t->tokens[*(const int32_t *)a].symbol, t->tokens[*(const int32_t *)b].symbol);
}

void mr_vocab_finish(mr_tokenizer *t) {
    for (int b = 0; b < 256; b++) {
        char utf8[4];
        int32_t id = mr_vocab_find(t, utf8, (size_t)mr_utf8_put(utf8, mr_byte_symbol((uint8_t)b)));
        t->byte_id[b] = id >= 0 && t->tokens[id].kind == MR_TOKEN_NORMAL ? id : -1;
    }
    for (int i = 0; i < t->n_ids; i++) t->n_added += t->tokens[i].kind >= MR_TOKEN_ADDED;
    t->added = mr_alloc((size_t)(t->n_added + 1) * sizeof *t->added);
    for (int i = 0, n = 0; i < t->n_ids; i++) {
        if (t->tokens[i].kind < MR_TOKEN_ADDED) continue;
        t->added[n++] = i;
        t->added_first[(uint8_t)t->tokens[i].symbol[0]] = true;
    }
    qsort_r(t->added, (size_t)t->n_added, sizeof *t->added, by_content, t);
}

int32_t mr_vocab_added(const mr_tokenizer *t, const char *text, size_t len, bool special) {
    /* added[low..high) are the tokens that begin with text[0..depth): each byte narrows the range. */
    int low = 0, high = t->n_added;
    int32_t longest = -1;
    for (size_t depth = 0; low < high; depth++) {
        const mr_token *first = &t->tokens[t->added[low]];
        if (first->symbol_len == depth) { /* it is a prefix of the text; the others of the range are longer */
            if (special || first->kind != MR_TOKEN_SPECIAL) longest = t->added[low];
            low++;
        }
        if (depth == len) break;
        uint8_t c = (uint8_t)text[depth];
        int ends[2]; /* the first token whose byte at depth is at least c, and at least c + 1 */
        for (int k = 0; k < 2; k++) {
            int a = low, b = high;
            while (a < b) {
                int mid = (a + b) / 2;
                if ((uint8_t)t->tokens[t->added[mid]].symbol[depth] < c + k)
                    a = mid + 1;
                else
                    b = mid;
            }
            ends[k] = a;
        }
        low = ends[0];
        high = ends[1];
    }
    return longest;
}
