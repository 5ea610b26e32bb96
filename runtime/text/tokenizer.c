/* tokenizer.c - encoding, decoding, streaming.
 *
 * encode: repair -> added tokens -> NFC -> pre-tokenizer -> BPE with a cache of pieces. Short pieces merge by
 * scanning for the lowest rank; long ones (a page of one letter is one piece) by a heap, so that no text costs its
 * square.
 * Source: spec/tokenizers.md, 2.1, 2.3, 2.5; Sennrich et al. 2016, arXiv:1508.07909, sec. 3.2 (BPE). */
#include <string.h>

#include "base/rng.h"
#include "text/vocab.h"

enum {
    SCAN_MOST = 32,        /* bytes up to which a piece is merged by scanning */
    CACHED_MOST = 128,     /* bytes of the longest piece worth keeping */
    CACHE_SLOTS = 1 << 15, /* half of them filled at most, then all are forgotten */
    ENCODE_MOST = 64 << 20 /* bytes; NFC needs up to 32 times as many */
};

void mr_ids_push(mr_ids *ids, int32_t id) {
    if (ids->n == ids->cap) {
        ids->cap = ids->cap ? ids->cap * 2 : 64;
        ids->data = mr_realloc(ids->data, (size_t)ids->cap * sizeof *ids->data);
    }
    ids->data[ids->n++] = id;
}

mr_status mr_tokenizer_open(mr_tokenizer **out, const char *path, mr_err *err) {
    *out = NULL;
    mr_tokenizer *t = mr_alloc(sizeof *t);
    t->bos = t->eos = t->pad = t->unk_id = -1;
    mr_status st = mr_vocab_load(t, path, err);
    if (st == MR_OK && !(t->cache = mr_try_alloc(CACHE_SLOTS * sizeof *t->cache)))
        st = mr_fail(err, MR_ENOMEM, "%s: no memory for the tokenizer", path);
    if (st != MR_OK) {
        mr_tokenizer_close(t);
        return st;
    }
    *out = t;
    return MR_OK;
}

void mr_tokenizer_close(mr_tokenizer *t) {
    if (!t) return;
    mr_pretoken_clear(t);
    mr_arena_clear(&t->memory);
    mr_free(t->tokens);
    mr_free(t->index);
    mr_free(t->merges);
    mr_free(t->added);
    mr_free(t->stops.data);
    mr_free(t->chat_template);
    mr_free(t->cache);
    mr_str_clear(&t->cache_keys);
    mr_free(t->cache_ids.data);
    mr_str_clear(&t->fixed);
    mr_str_clear(&t->normal);
    mr_free(t->nodes);
    mr_free(t->heap);
    mr_free(t);
}

/* ---- BPE ---- */

/* The symbols to start from. A byte without a token is dropped, or becomes the unknown token when there is one. */
static int start_symbols(const mr_tokenizer *t, int32_t *sym, int stride, const uint8_t *piece, size_t len) {
    int n = 0;
    for (size_t i = 0; i < len; i++) {
        int32_t id = t->byte_id[piece[i]];
        if (id < 0) {
            id = t->unk_id;
            if (id < 0 || (t->fuse_unk && n > 0 && sym[(n - 1) * stride] == id)) continue;
        }
        sym[n++ * stride] = id;
    }
    return n;
}

static void merge_by_scan(const mr_tokenizer *t, mr_ids *ids, const uint8_t *piece, size_t len) {
    int32_t sym[SCAN_MOST];
    const mr_merge *pair[SCAN_MOST]; /* pair[i]: what sym[i] and sym[i + 1] become */
    int n = start_symbols(t, sym, 1, piece, len);
    for (int i = 0; i + 1 < n; i++) pair[i] = mr_vocab_pair(t, sym[i], sym[i + 1]);
    for (;;) {
        int best = -1;
        for (int i = 0; i + 1 < n; i++)
            if (pair[i] && (best < 0 || pair[i]->rank < pair[best]->rank)) best = i;
        if (best < 0) break;
        sym[best] = pair[best]->id;
        n--;
        for (int i = best + 1; i < n; i++) {
            sym[i] = sym[i + 1];
            if (i + 1 < n) pair[i] = pair[i + 1];
        }
        if (best + 1 < n) pair[best] = mr_vocab_pair(t, sym[best], sym[best + 1]);
        if (best > 0) pair[best - 1] = mr_vocab_pair(t, sym[best - 1], sym[best]);
    }
    for (int i = 0; i < n; i++) mr_ids_push(ids, sym[i]);
}

static bool comes_first(const mr_bpe_candidate *a, const mr_bpe_candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void heap_push(mr_tokenizer *t, int32_t at) {
    int32_t next = t->nodes[at].next;
    if (next < 0) return;
    const mr_merge *m = mr_vocab_pair(t, t->nodes[at].id, t->nodes[next].id);
    if (!m) return;
    if (t->n_heap == t->cap_heap) {
        t->cap_heap = t->cap_heap ? t->cap_heap * 2 : 256;
        t->heap = mr_realloc(t->heap, (size_t)t->cap_heap * sizeof *t->heap);
    }
    mr_bpe_candidate c = { m->rank, at, t->nodes[at].id, t->nodes[next].id, m->id };
    int i = t->n_heap++;
    for (; i > 0 && comes_first(&c, &t->heap[(i - 1) / 2]); i = (i - 1) / 2) t->heap[i] = t->heap[(i - 1) / 2];
    t->heap[i] = c;
}

static mr_bpe_candidate heap_pop(mr_tokenizer *t) {
    mr_bpe_candidate top = t->heap[0], last = t->heap[--t->n_heap];
    int i = 0;
    for (;;) {
        int child = 2 * i + 1;
        if (child >= t->n_heap) break;
        if (child + 1 < t->n_heap && comes_first(&t->heap[child + 1], &t->heap[child])) child++;
        if (!comes_first(&t->heap[child], &last)) break;
        t->heap[i] = t->heap[child];
        i = child;
    }
    t->heap[i] = last;
    return top;
}

static void merge_by_heap(mr_tokenizer *t, mr_ids *ids, const uint8_t *piece, size_t len) {
    if ((size_t)t->cap_nodes < len) {
        t->cap_nodes = (int)len;
        mr_free(t->nodes);
        t->nodes = mr_alloc(len * sizeof *t->nodes);
    }
    mr_bpe_node *nodes = t->nodes;
    int n = start_symbols(t, &nodes->id, sizeof *nodes / sizeof nodes->id, piece, len);
    for (int i = 0; i < n; i++) {
        nodes[i].prev = i - 1;
        nodes[i].next = i + 1 < n ? i + 1 : -1;
    }
    t->n_heap = 0;
    for (int i = 0; i < n; i++) heap_push(t, i);
    while (t->n_heap) {
        mr_bpe_candidate c = heap_pop(t);
        mr_bpe_node *left = &nodes[c.at];
        if (left->id != c.left || left->next < 0 || nodes[left->next].id != c.right)
            continue; /* one of the two has merged since */
        mr_bpe_node *right = &nodes[left->next];
        left->id = c.id;
        left->next = right->next;
        right->id = -1;
        if (left->next >= 0) nodes[left->next].prev = c.at;
        heap_push(t, c.at);
        if (left->prev >= 0) heap_push(t, left->prev);
    }
    for (int i = n ? 0 : -1; i >= 0; i = nodes[i].next) mr_ids_push(ids, nodes[i].id);
    enum { keep = 1 << 16 }; /* one huge piece must not hold its memory for ever */
    if (t->cap_nodes > keep) {
        mr_free(t->nodes);
        mr_free(t->heap);
        t->nodes = NULL;
        t->heap = NULL;
        t->cap_nodes = t->cap_heap = 0;
    }
}

/* ignore_merges: the token that the whole piece is, -1 for none. */
static int32_t whole_piece(const mr_tokenizer *t, const char *piece, size_t len) {
    char small[4 * CACHED_MOST] = "", *symbol = len * 4 <= sizeof small ? small : mr_alloc(len * 4);
    size_t n = 0;
    for (size_t i = 0; i < len; i++) n += (size_t)mr_utf8_put(symbol + n, mr_byte_symbol((uint8_t)piece[i]));
    int32_t id = mr_vocab_find(t, symbol, n);
    if (symbol != small) mr_free(symbol);
    return id >= 0 && t->tokens[id].kind == MR_TOKEN_NORMAL ? id : -1;
}

typedef struct encoding {
    mr_tokenizer *t;
    mr_ids *ids;
} encoding;

static void encode_piece(void *self, const char *piece, size_t len) {
    const encoding *e = self;
    mr_tokenizer *t = e->t;
    mr_piece_slot *slot = NULL;
    uint64_t hash = 0;
    if (len <= CACHED_MOST) {
        hash = mr_hash64(piece, len);
        for (size_t at = hash & (CACHE_SLOTS - 1);; at = (at + 1) & (CACHE_SLOTS - 1)) {
            slot = &t->cache[at];
            if (!slot->key_len) break;
            if (slot->hash == hash && slot->key_len == len &&
                memcmp(t->cache_keys.data + slot->key_at, piece, len) == 0) {
                for (uint32_t i = 0; i < slot->n_ids; i++) mr_ids_push(e->ids, t->cache_ids.data[slot->ids_at + i]);
                return;
            }
        }
    }
    int before = e->ids->n;
    int32_t whole = t->ignore_merges ? whole_piece(t, piece, len) : -1;
    if (whole >= 0)
        mr_ids_push(e->ids, whole);
    else if (len <= SCAN_MOST)
        merge_by_scan(t, e->ids, (const uint8_t *)piece, len);
    else
        merge_by_heap(t, e->ids, (const uint8_t *)piece, len);
    if (!slot) return;
    if (t->n_cached == CACHE_SLOTS / 2) {
        memset(t->cache, 0, CACHE_SLOTS * sizeof *t->cache);
        t->n_cached = 0;
        t->cache_keys.len = 0;
        t->cache_ids.n = 0;
        slot = &t->cache[hash & (CACHE_SLOTS - 1)];
    }
    *slot = (mr_piece_slot){ hash, (uint32_t)t->cache_keys.len, (uint32_t)len, (uint32_t)t->cache_ids.n,
                             (uint32_t)(e->ids->n - before) };
    mr_str_add(&t->cache_keys, piece, len);
    for (int i = before; i < e->ids->n; i++) mr_ids_push(&t->cache_ids, e->ids->data[i]);
    t->n_cached++;
}

/* ---- text between added tokens ---- */

static mr_status encode_segment(mr_tokenizer *t, mr_ids *ids, const char *text, size_t len, mr_err *err) {
    if (t->nfc && len) {
        t->normal.len = 0;
        mr_utf8_nfc(&t->normal, text, len);
        text = t->normal.data;
        len = t->normal.len;
    }
    encoding e = { t, ids };
    return mr_pretoken_split(t, text, len, encode_piece, &e, err);
}

mr_status mr_tokenizer_encode_spans(mr_tokenizer *t, mr_ids *ids, const char *text, size_t len,
                                    const mr_text_span *data, int n_data, mr_err *err) {
    int before = ids->n, span = 0;
    size_t done = 0;
    if (len > ENCODE_MOST)
        return mr_fail(err, MR_EDATA, "text of %zu bytes: longer than %d; cut it into smaller parts", len, ENCODE_MOST);
    mr_status st = MR_OK;
    for (size_t at = 0; at < len && st == MR_OK;) {
        if (!t->added_first[(uint8_t)text[at]]) {
            at++;
            continue;
        }
        while (span < n_data && data[span].to <= at) span++;
        int32_t id = mr_vocab_added(t, text + at, len - at, true);
        if (id >= 0 && t->tokens[id].kind == MR_TOKEN_SPECIAL && span < n_data &&
            data[span].from < at + t->tokens[id].symbol_len)
            id = mr_vocab_added(t, text + at, len - at, false); /* it is data, at least in part */
        if (id < 0) {
            at++;
            continue;
        }
        st = encode_segment(t, ids, text + done, at - done, err);
        mr_ids_push(ids, id);
        at += t->tokens[id].symbol_len;
        done = at;
    }
    if (st == MR_OK) st = encode_segment(t, ids, text + done, len - done, err);
    if (st != MR_OK) ids->n = before;
    return st;
}

mr_status mr_tokenizer_encode(mr_tokenizer *t, mr_ids *ids, const char *text, size_t len, bool special, mr_err *err) {
    if (!mr_utf8_valid(text, len)) {
        t->fixed.len = 0;
        mr_utf8_repair(&t->fixed, text, len);
        text = t->fixed.data;
        len = t->fixed.len;
    }
    mr_text_span all = { 0, len };
    return mr_tokenizer_encode_spans(t, ids, text, len, &all, special ? 0 : 1, err);
}

/* ---- decoding ---- */

static const mr_token *token_at(const mr_tokenizer *t, int32_t id) {
    return id >= 0 && id < t->n_ids && t->tokens[id].kind != MR_TOKEN_UNUSED ? &t->tokens[id] : NULL;
}

void mr_tokenizer_decode(const mr_tokenizer *t, mr_str *text, const int32_t *ids, int n, bool skip_special) {
    mr_str bytes = { 0 };
    for (int i = 0; i < n; i++) {
        const mr_token *tok = token_at(t, ids[i]);
        if (tok && !(skip_special && tok->kind == MR_TOKEN_SPECIAL)) mr_str_add(&bytes, tok->bytes, tok->n_bytes);
    }
    mr_utf8_repair(text, bytes.data ? bytes.data : "", bytes.len);
    mr_str_clear(&bytes);
}

void mr_tokenizer_stream(const mr_tokenizer *t, mr_utf8_stream *s, mr_str *text, int32_t id, bool skip_special) {
    const mr_token *tok = token_at(t, id);
    if (!tok || (skip_special && tok->kind == MR_TOKEN_SPECIAL)) return;
    /* Each byte joins what is held; a whole character leaves, what can no longer become one leaves as U+FFFD. */
    for (uint32_t i = 0; i < tok->n_bytes; i++) {
        s->held[s->n_held++] = tok->bytes[i];
        while (s->n_held) {
            uint32_t cp;
            int n = mr_utf8_next(&cp, s->held, (size_t)s->n_held);
            if (n == 0) break;
            if (n > 0)
                mr_str_add(text, s->held, (size_t)n);
            else
                mr_str_add(text, "\xEF\xBF\xBD", 3);
            n = n < 0 ? -n : n;
            s->n_held -= n;
            memmove(s->held, s->held + n, (size_t)s->n_held);
        }
    }
}

void mr_utf8_stream_end(mr_utf8_stream *s, mr_str *text) {
    if (s->n_held) mr_str_add(text, "\xEF\xBF\xBD", 3);
    s->n_held = 0;
}

/* ---- questions ---- */

int mr_tokenizer_count(const mr_tokenizer *t) {
    return t->n_ids;
}

int32_t mr_tokenizer_find(const mr_tokenizer *t, const char *token) {
    return mr_vocab_find(t, token, strlen(token));
}

bool mr_tokenizer_is_special(const mr_tokenizer *t, int32_t id) {
    const mr_token *tok = token_at(t, id);
    return tok && tok->kind == MR_TOKEN_SPECIAL;
}

const char *mr_tokenizer_symbol(const mr_tokenizer *t, int32_t id) {
    const mr_token *tok = token_at(t, id);
    return tok ? tok->symbol : NULL;
}

int32_t mr_tokenizer_bos(const mr_tokenizer *t) {
    return t->bos;
}

int32_t mr_tokenizer_eos(const mr_tokenizer *t) {
    return t->eos;
}

int32_t mr_tokenizer_pad(const mr_tokenizer *t) {
    return t->pad;
}

const int32_t *mr_tokenizer_stops(const mr_tokenizer *t, int *n) {
    *n = t->stops.n;
    return t->stops.data;
}

const char *mr_tokenizer_template(const mr_tokenizer *t) {
    return t->chat_template;
}
