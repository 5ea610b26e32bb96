/* tokenizer_save.c - a tokenizer for other programs: as GGUF metadata, and as tokenizer.json with its neighbors.
 *
 * Source: spec/tokenizers.md, 2.1 (fields), 2.2 (pre-tokenizers), 2.4 (GGUF). */
#include <stdio.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "text/vocab.h"

/* GGUF has room for one eos and one eot; generation_config.json for a list. Others pass a key by that they do not
 * know. */
const char mr_stop_ids_key[] = "medrl.stop_token_ids";

/* How text is split, in the words of both containers. */
typedef struct splitting {
    const char *pre;            /* tokenizer.ggml.pre */
    const char *first, *second; /* patterns */
    bool ignore_merges;
} splitting;

static const splitting splittings[] = {
    { "qwen2", mr_pattern_qwen2, NULL, false },
    { "llama-bpe", mr_pattern_llama3, NULL, true },
    { "smollm", mr_pattern_digit, mr_pattern_gpt2, false },
    { "gpt-2", mr_pattern_gpt2, NULL, false },
};

static const splitting *splitting_of(const mr_tokenizer *t) {
    for (size_t i = 0; i < sizeof splittings / sizeof splittings[0]; i++) {
        const splitting *s = &splittings[i];
        const int n = s->second ? 2 : 1;
        if (t->n_steps == n && t->known[0] == s->first && (n == 1 || t->known[1] == s->second) &&
            t->ignore_merges == s->ignore_merges)
            return s;
    }
    return NULL;
}

static mr_status unknown_splitting(const char *what, mr_err *err) {
    return mr_fail(
        err, MR_EDATA,
        "tokenizer: its way of splitting text is none that %s knows by name (qwen2, llama-bpe, smollm, gpt-2); "
        "export --to adapter and use the model's own files",
        what);
}

/* The merges by rank: pairs[2 * n], owned by the caller. */
static int32_t *merges_of(const mr_tokenizer *t, int *n) {
    int32_t most = -1;
    for (size_t i = 0; t->merges && i <= t->merges_mask; i++)
        if (t->merges[i].pair && t->merges[i].rank > most) most = t->merges[i].rank;
    int32_t *pairs = mr_alloc((size_t)(2 * ((int64_t)most + 2)) * sizeof *pairs);
    memset(pairs, 0xff, (size_t)(2 * ((int64_t)most + 1)) * sizeof *pairs);
    for (size_t i = 0; t->merges && i <= t->merges_mask; i++) {
        const mr_merge *m = &t->merges[i];
        if (!m->pair) continue;
        pairs[2 * m->rank] = (int32_t)((m->pair - 1) >> 32);
        pairs[2 * m->rank + 1] = (int32_t)((m->pair - 1) & 0xffffffffu);
    }
    *n = 0;
    for (int32_t rank = 0; rank <= most; rank++) { /* a pair that was listed twice has left a hole */
        if (pairs[2 * rank] < 0) continue;
        pairs[2 * *n] = pairs[2 * rank];
        pairs[2 * *n + 1] = pairs[2 * rank + 1];
        ++*n;
    }
    return pairs;
}

/* ---- GGUF ---- */

static void put_tokens(const mr_tokenizer *t, mr_gguf_meta *meta, int n_rows) {
    int32_t *types = mr_alloc((size_t)n_rows * sizeof *types);
    mr_gguf_begin_texts(meta, "tokenizer.ggml.tokens", (uint64_t)n_rows);
    for (int id = 0; id < n_rows; id++) {
        const mr_token *k = id < t->n_ids && t->tokens[id].symbol ? &t->tokens[id] : NULL;
        char unused[32];
        const int n = snprintf(unused, sizeof unused, "[PAD%d]", id);
        mr_gguf_add_text(meta, k ? k->symbol : unused, k ? k->symbol_len : (size_t)n);
        types[id] = !k ? 5 : k->kind == MR_TOKEN_SPECIAL ? 3 : k->kind == MR_TOKEN_ADDED ? 4 : 1;
    }
    mr_gguf_put_i32s(meta, "tokenizer.ggml.token_type", types, (size_t)n_rows);
    mr_free(types);
}

static void put_merges(const mr_tokenizer *t, mr_gguf_meta *meta) {
    int n;
    int32_t *pairs = merges_of(t, &n);
    mr_str s = { 0 };
    mr_gguf_begin_texts(meta, "tokenizer.ggml.merges", (uint64_t)n);
    for (int i = 0; i < n; i++) {
        s.len = 0;
        const mr_token *a = &t->tokens[pairs[2 * i]], *b = &t->tokens[pairs[2 * i + 1]];
        mr_str_add(&s, a->symbol, a->symbol_len);
        mr_str_puts(&s, " ");
        mr_str_add(&s, b->symbol, b->symbol_len);
        mr_gguf_add_text(meta, s.data, s.len);
    }
    mr_str_clear(&s);
    mr_free(pairs);
}

static void put_id(mr_gguf_meta *meta, const char *key, int32_t id) {
    if (id >= 0) mr_gguf_put_u32(meta, key, (uint32_t)id);
}

/* The end of a turn, where that is another token than eos. */
static int32_t turn_end(const mr_tokenizer *t) {
    static const char *const ends[] = { "<|im_end|>", "<|eot_id|>" };
    for (int i = 0; i < t->stops.n; i++)
        for (int k = 0; k < 2; k++)
            if (t->stops.data[i] != t->eos && t->stops.data[i] == mr_vocab_find(t, ends[k], strlen(ends[k])))
                return t->stops.data[i];
    return -1;
}

mr_status mr_tokenizer_put_gguf(const mr_tokenizer *t, mr_gguf_meta *meta, int n_rows, mr_err *err) {
    const splitting *s = splitting_of(t);
    if (!s) return unknown_splitting("llama.cpp", err);
    if (t->n_ids > n_rows)
        return mr_fail(err, MR_EDATA,
                       "tokenizer: has %d tokens, the model's embedding %d rows; these do not belong together",
                       t->n_ids, n_rows);
    mr_gguf_put_text(meta, "tokenizer.ggml.model", "gpt2");
    mr_gguf_put_text(meta, "tokenizer.ggml.pre", s->pre);
    put_tokens(t, meta, n_rows);
    put_merges(t, meta);
    put_id(meta, "tokenizer.ggml.bos_token_id", t->bos);
    put_id(meta, "tokenizer.ggml.eos_token_id", t->eos);
    put_id(meta, "tokenizer.ggml.eot_token_id", turn_end(t));
    put_id(meta, "tokenizer.ggml.padding_token_id", t->pad);
    put_id(meta, "tokenizer.ggml.unknown_token_id", t->unk_id);
    if (t->stops.n) mr_gguf_put_i32s(meta, mr_stop_ids_key, t->stops.data, (size_t)t->stops.n);
    mr_gguf_put_bool(meta, "tokenizer.ggml.add_bos_token", s->ignore_merges && t->bos >= 0); /* Llama 3 alone */
    mr_gguf_put_bool(meta, "tokenizer.ggml.add_space_prefix", false);
    if (t->chat_template) mr_gguf_put_text(meta, "tokenizer.chat_template", t->chat_template);
    return MR_OK;
}

/* ---- tokenizer.json ---- */

static void put_symbol(mr_str *s, const mr_token *k) {
    mr_json_put_string(s, k->symbol, k->symbol_len);
}

static void put_splitting(mr_str *s, const splitting *x) {
    const bool regex = x->first == mr_pattern_gpt2 || x->second;
    mr_str_puts(s, "  \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [\n    ");
    if (x->second) {
        mr_str_puts(s, "{\"type\": \"Digits\", \"individual_digits\": true},\n    ");
    } else if (!regex) {
        mr_str_puts(s, "{\"type\": \"Split\", \"pattern\": {\"Regex\": ");
        mr_json_put_string(s, x->first, strlen(x->first));
        mr_str_puts(s, "}, \"behavior\": \"Isolated\", \"invert\": false},\n    ");
    }
    mr_str_printf(
        s, "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": false, \"use_regex\": %s}]},\n",
        regex ? "true" : "false");
}

static void put_added(mr_str *s, const mr_tokenizer *t) {
    bool first = true;
    mr_str_puts(s, "  \"added_tokens\": [");
    for (int id = 0; id < t->n_ids; id++) {
        const mr_token *k = &t->tokens[id];
        if (!k->symbol || k->kind < MR_TOKEN_ADDED) continue;
        mr_str_printf(s, "%s\n    {\"id\": %d, \"content\": ", first ? "" : ",", id);
        put_symbol(s, k);
        mr_str_printf(s,
                      ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, "
                      "\"special\": %s}",
                      k->kind == MR_TOKEN_SPECIAL ? "true" : "false");
        first = false;
    }
    mr_str_puts(s, "\n  ],\n");
}

static void put_model(mr_str *s, const mr_tokenizer *t) {
    int n;
    int32_t *pairs = merges_of(t, &n);
    mr_str_printf(
        s,
        "  \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, \"continuing_subword_prefix\": "
        "null,\n    \"end_of_word_suffix\": null, \"fuse_unk\": false, \"byte_fallback\": false, "
        "\"ignore_merges\": %s,\n    \"vocab\": {",
        t->ignore_merges ? "true" : "false");
    bool first = true;
    for (int id = 0; id < t->n_ids;
         id++) { /* added tokens too: other readers number those that are missing themselves */
        if (!t->tokens[id].symbol) continue;
        mr_str_puts(s, first ? "\n      " : ",\n      ");
        put_symbol(s, &t->tokens[id]);
        mr_str_printf(s, ": %d", id);
        first = false;
    }
    mr_str_puts(s, "\n    },\n    \"merges\": [");
    for (int i = 0; i < n; i++) {
        mr_str_puts(s, i ? ",\n      [" : "\n      [");
        put_symbol(s, &t->tokens[pairs[2 * i]]);
        mr_str_puts(s, ", ");
        put_symbol(s, &t->tokens[pairs[2 * i + 1]]);
        mr_str_puts(s, "]");
    }
    mr_str_puts(s, "\n    ]}\n}\n");
    mr_free(pairs);
}

static mr_status write_in(const char *dir, const char *name, mr_str *s, mr_err *err) {
    char *path = mr_path_join(dir, name);
    mr_status st = mr_file_write(path, s->data, s->len, err);
    mr_free(path);
    mr_str_clear(s);
    return st;
}

static void put_named(mr_str *s, const mr_tokenizer *t, const char *key, int32_t id) {
    if (id < 0 || id >= t->n_ids || !t->tokens[id].symbol) return;
    mr_str_printf(s, "  \"%s\": ", key);
    put_symbol(s, &t->tokens[id]);
    mr_str_puts(s, ",\n");
}

mr_status mr_tokenizer_save(const mr_tokenizer *t, const char *dir, mr_err *err) {
    const splitting *x = splitting_of(t);
    if (!x) return unknown_splitting("medrl", err);
    mr_str s = { 0 };
    mr_str_puts(&s, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n");
    put_added(&s, t);
    mr_str_printf(&s, "  \"normalizer\": %s,\n", t->nfc ? "{\"type\": \"NFC\"}" : "null");
    put_splitting(&s, x);
    mr_str_puts(&s, "  \"post_processor\": null,\n  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, "
                    "\"trim_offsets\": true, \"use_regex\": true},\n");
    put_model(&s, t);
    MR_TRY(write_in(dir, "tokenizer.json", &s, err));

    mr_str_puts(&s, "{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n");
    put_named(&s, t, "bos_token", t->bos);
    put_named(&s, t, "eos_token", t->eos);
    put_named(&s, t, "pad_token", t->pad >= 0 ? t->pad : t->eos);
    if (t->chat_template) {
        mr_str_puts(&s, "  \"chat_template\": ");
        mr_json_put_string(&s, t->chat_template, strlen(t->chat_template));
        mr_str_puts(&s, ",\n");
    }
    mr_str_puts(&s, "  \"clean_up_tokenization_spaces\": false\n}\n");
    MR_TRY(write_in(dir, "tokenizer_config.json", &s, err));

    mr_str_puts(&s, "{\n");
    if (t->bos >= 0) mr_str_printf(&s, "  \"bos_token_id\": %d,\n", t->bos);
    if (t->pad >= 0) mr_str_printf(&s, "  \"pad_token_id\": %d,\n", t->pad);
    mr_str_puts(&s, "  \"eos_token_id\": [");
    for (int i = 0; i < t->stops.n; i++) mr_str_printf(&s, "%s%d", i ? ", " : "", t->stops.data[i]);
    mr_str_puts(&s, "]\n}\n");
    return write_in(dir, "generation_config.json", &s, err);
}
