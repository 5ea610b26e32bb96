/* tokenizer_load.c - a tokenizer from tokenizer.json and its neighbors, or from the metadata of a GGUF file.
 *
 * tokenizer.json is read strictly: every component that is not known to be reproduced exactly is refused by its name,
 * since a tokenizer that is nearly right trains a model on the wrong tokens without a word.
 * Source: spec/tokenizers.md, 2.1 (fields), 2.2 (pre-tokenizers), 2.4 (GGUF), 2.6 (stop ids), 2.7 (templates). */
#include <stdio.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "text/vocab.h"

/* The largest tokenizer.json in use has 33 MB (Gemma); a parsed tree takes some thirty times its text. */
enum { TOKENIZER_BYTES_MOST = 64 << 20, CONFIG_BYTES_MOST = 4 << 20 };

#define FAMILIES "medrl reads byte-level BPE tokenizers of the Qwen2, Qwen3, Llama 3, SmolLM2 and GPT-2 kind"

/* Ids that no token can have (-1 for none, any nonsense of a file) are passed over. */
static void add_stop(mr_tokenizer *t, double id, bool in_front) {
    if (!(id >= 0 && id < MR_VOCAB_MAX_IDS)) return;
    for (int i = 0; i < t->stops.n; i++)
        if (t->stops.data[i] == (int32_t)id) return;
    mr_ids_push(&t->stops, (int32_t)id);
    if (!in_front) return;
    memmove(t->stops.data + 1, t->stops.data, (size_t)(t->stops.n - 1) * sizeof *t->stops.data);
    t->stops.data[0] = (int32_t)id;
}

/* After eos and the generation list: the token that ends a turn of the template. A model without a template is spoken
 * to in plain ChatML (chat.h). */
static void add_turn_ends(mr_tokenizer *t) {
    static const char *const ends[] = { "<|im_end|>", "<|eot_id|>" };
    for (int i = 0; i < 2; i++) {
        if (t->chat_template ? !strstr(t->chat_template, ends[i]) : i > 0) continue;
        int32_t id = mr_vocab_find(t, ends[i], strlen(ends[i]));
        if (id >= 0 && t->tokens[id].kind >= MR_TOKEN_ADDED) add_stop(t, id, false);
    }
}

/* ---- tokenizer.json ---- */

static bool is_null(const cJSON *item) {
    return !item || cJSON_IsNull(item);
}

static const char *type_of(const cJSON *component) {
    const cJSON *type = cJSON_IsObject(component) ? cJSON_GetObjectItemCaseSensitive(component, "type") : NULL;
    return cJSON_IsString(type) ? type->valuestring : NULL;
}

static mr_status refuse(const char *place, const char *field, const cJSON *component, mr_err *err) {
    const char *type = type_of(component);
    if (type)
        return mr_fail(err, MR_EDATA, "%s: %s has type \"%s\", which is not supported; " FAMILIES, place, field, type);
    return mr_fail(err, MR_EDATA, "%s: %s is %s, want an object with a \"type\"; " FAMILIES, place, field,
                   mr_json_type_name(component));
}

/* A switch of a component must have the one value that is reproduced. */
static mr_status want_bool(const cJSON *component, const char *key, bool absent, bool want, const char *field,
                           const char *place, mr_err *err) {
    char where[1100];
    bool got;
    snprintf(where, sizeof where, "%s: %s", place, field);
    MR_TRY(mr_json_opt_bool(&got, component, key, absent, where, err));
    if (got == want) return MR_OK;
    return mr_fail(err, MR_EDATA, "%s has %s: %s, which is not supported; " FAMILIES, where, key,
                   got ? "true" : "false");
}

static mr_status read_normalizer(mr_tokenizer *t, const cJSON *n, const char *place, mr_err *err) {
    if (is_null(n)) return MR_OK;
    const char *type = type_of(n);
    if (type && strcmp(type, "NFC") == 0) {
        t->nfc = true;
        return MR_OK;
    }
    if (!type || strcmp(type, "Sequence") != 0) return refuse(place, "normalizer", n, err);
    const cJSON *part, *list = cJSON_GetObjectItemCaseSensitive(n, "normalizers");
    cJSON_ArrayForEach(part, list) {
        type = type_of(part); /* one level is all that occurs, and a nested list cannot recurse this way */
        if (!type || strcmp(type, "NFC") != 0) return refuse(place, "normalizer", part, err);
        t->nfc = true;
    }
    return MR_OK;
}

static mr_status read_pre_tokenizer(mr_tokenizer *t, const cJSON *p, const char *place, bool *byte_level, int depth,
                                    mr_err *err) {
    const char *type = type_of(p), *field = "pre_tokenizer";
    if (!type || depth > 4) return refuse(place, field, p, err);
    if (*byte_level)
        return mr_fail(err, MR_EDATA, "%s: pre_tokenizer has a \"%s\" after ByteLevel, want ByteLevel last; " FAMILIES,
                       place, type);
    if (strcmp(type, "Sequence") == 0) {
        const cJSON *part, *list = cJSON_GetObjectItemCaseSensitive(p, "pretokenizers");
        cJSON_ArrayForEach(part, list) MR_TRY(read_pre_tokenizer(t, part, place, byte_level, depth + 1, err));
        return MR_OK;
    }
    if (strcmp(type, "ByteLevel") == 0) {
        bool use_regex;
        MR_TRY(want_bool(p, "add_prefix_space", true, false, "pre_tokenizer ByteLevel", place, err));
        MR_TRY(mr_json_opt_bool(&use_regex, p, "use_regex", true, place, err));
        *byte_level = true;
        return use_regex ? mr_pretoken_add(t, mr_pattern_gpt2, place, err) : MR_OK;
    }
    if (strcmp(type, "Digits") == 0) {
        bool single;
        MR_TRY(mr_json_opt_bool(&single, p, "individual_digits", false, place, err));
        return mr_pretoken_add(t, single ? mr_pattern_digit : mr_pattern_digits, place, err);
    }
    if (strcmp(type, "Split") == 0) {
        const char *behavior, *regex;
        const cJSON *pattern = cJSON_GetObjectItemCaseSensitive(p, "pattern");
        MR_TRY(mr_json_get_string(&behavior, p, "behavior", place, err));
        if (strcmp(behavior, "Isolated") != 0)
            return mr_fail(err, MR_EDATA, "%s: pre_tokenizer Split has behavior \"%s\", want \"Isolated\"; " FAMILIES,
                           place, behavior);
        MR_TRY(want_bool(p, "invert", false, false, "pre_tokenizer Split", place, err));
        const cJSON *literal = cJSON_GetObjectItemCaseSensitive(pattern, "String");
        if (literal)
            return mr_fail(err, MR_EDATA, "%s: pre_tokenizer Split has a \"String\" pattern, want \"Regex\"; " FAMILIES,
                           place);
        MR_TRY(mr_json_get_string(&regex, pattern, "Regex", place, err));
        return mr_pretoken_add(t, regex, place, err);
    }
    return refuse(place, field, p, err);
}

/* Components that change nothing which we do (BOS is the template's work, decoding is ours) must still be known
 * ones. */
static mr_status check_component(const cJSON *c, const char *field, const char *list_key, const char *known,
                                 const char *known2, const char *place, mr_err *err) {
    const char *type = type_of(c);
    if (type && strcmp(type, "Sequence") == 0) {
        const cJSON *part, *list = cJSON_GetObjectItemCaseSensitive(c, list_key);
        cJSON_ArrayForEach(part, list) {
            type = type_of(part);
            if (!type || (strcmp(type, known) != 0 && strcmp(type, known2) != 0))
                return refuse(place, field, part, err);
        }
        return MR_OK;
    }
    return type && (strcmp(type, known) == 0 || strcmp(type, known2) == 0) ? MR_OK : refuse(place, field, c, err);
}

static mr_status check_model(mr_tokenizer *t, const cJSON *model, const char *place, mr_err *err) {
    const char *type = type_of(model), *empty[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    if (!type || strcmp(type, "BPE") != 0) return refuse(place, "model", model, err);
    for (int i = 0; i < 2; i++) {
        const cJSON *item = cJSON_GetObjectItemCaseSensitive(model, empty[i]);
        if (!is_null(item) && !(cJSON_IsString(item) && item->valuestring[0] == '\0'))
            return mr_fail(err, MR_EDATA, "%s: model.%s is set, which is not supported; " FAMILIES, place, empty[i]);
    }
    const cJSON *dropout = cJSON_GetObjectItemCaseSensitive(model, "dropout");
    if (!is_null(dropout) && !(cJSON_IsNumber(dropout) && !(dropout->valuedouble > 0)))
        return mr_fail(err, MR_EDATA, "%s: model.dropout is set, want null: a prompt must have one encoding", place);
    MR_TRY(want_bool(model, "byte_fallback", false, false, "model", place, err));
    MR_TRY(mr_json_opt_bool(&t->fuse_unk, model, "fuse_unk", false, place, err));
    return mr_json_opt_bool(&t->ignore_merges, model, "ignore_merges", false, place, err);
}

static mr_status read_added(mr_tokenizer *t, const cJSON *list, const char *place, mr_err *err) {
    const cJSON *item;
    int i = 0;
    cJSON_ArrayForEach(item, list) {
        char where[1100];
        const char *content;
        int64_t id;
        bool special, flag;
        snprintf(where, sizeof where, "%s: added_tokens[%d]", place, i++);
        MR_TRY(mr_json_get_string(&content, item, "content", where, err));
        MR_TRY(mr_json_get_int(&id, item, "id", 0, MR_VOCAB_MAX_IDS - 1, where, err));
        MR_TRY(mr_json_opt_bool(&special, item, "special", false, where, err));
        static const char *const plain[] = { "single_word", "lstrip", "rstrip" };
        for (int k = 0; k < 3; k++) {
            MR_TRY(mr_json_opt_bool(&flag, item, plain[k], false, where, err));
            if (flag)
                return mr_fail(err, MR_EDATA, "%s (\"%s\") has %s: true, which is not supported; " FAMILIES, where,
                               content, plain[k]);
        }
        /* normalized: matched after NFC. For ASCII that is the same place in the text; otherwise the contents could
         * differ. */
        MR_TRY(mr_json_opt_bool(&flag, item, "normalized", false, where, err));
        for (const char *c = content; *c && flag && t->nfc; c++)
            if (*c & 0x80)
                return mr_fail(err, MR_EDATA,
                               "%s (\"%s\") has normalized: true and is not ASCII, which is not supported; " FAMILIES,
                               where, content);
        MR_TRY(mr_vocab_put(t, id, content, strlen(content), special ? MR_TOKEN_SPECIAL : MR_TOKEN_ADDED, where, err));
    }
    return MR_OK;
}

static mr_status read_merges(mr_tokenizer *t, const cJSON *list, const char *place, mr_err *err) {
    const cJSON *item;
    int rank = 0;
    cJSON_ArrayForEach(item, list) {
        const char *a, *b;
        size_t a_len;
        if (cJSON_IsString(item)) { /* "a b", the older form; a symbol holds no space */
            const char *space = strchr(item->valuestring, ' ');
            if (!space || strchr(space + 1, ' '))
                return mr_fail(err, MR_EDATA, "%s[%d]: \"%.60s\", want two symbols and one space", place, rank,
                               item->valuestring);
            a = item->valuestring;
            a_len = (size_t)(space - a);
            b = space + 1;
        } else {
            const cJSON *first = cJSON_IsArray(item) ? item->child : NULL, *second = first ? first->next : NULL;
            if (!cJSON_IsString(first) || !cJSON_IsString(second) || second->next)
                return mr_fail(err, MR_EDATA, "%s[%d]: %s, want \"a b\" or [\"a\", \"b\"]", place, rank,
                               mr_json_type_name(item));
            a = first->valuestring;
            a_len = strlen(a);
            b = second->valuestring;
        }
        MR_TRY(mr_vocab_merge(t, rank++, a, a_len, b, strlen(b), place, err));
    }
    return MR_OK;
}

static mr_status read_tokenizer_json(mr_tokenizer *t, const cJSON *root, const char *place, mr_err *err) {
    char where[1100];
    const cJSON *item;
    bool byte_level = false;
    if (!cJSON_IsObject(root)) return mr_fail(err, MR_EDATA, "%s: %s, want an object", place, mr_json_type_name(root));
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(root, "model");
    MR_TRY(check_model(t, model, place, err));
    MR_TRY(read_normalizer(t, cJSON_GetObjectItemCaseSensitive(root, "normalizer"), place, err));
    MR_TRY(read_pre_tokenizer(t, cJSON_GetObjectItemCaseSensitive(root, "pre_tokenizer"), place, &byte_level, 0, err));
    if (!byte_level) return mr_fail(err, MR_EDATA, "%s: pre_tokenizer has no ByteLevel; " FAMILIES, place);
    item = cJSON_GetObjectItemCaseSensitive(root, "post_processor");
    if (!is_null(item))
        MR_TRY(check_component(item, "post_processor", "processors", "ByteLevel", "TemplateProcessing", place, err));
    item = cJSON_GetObjectItemCaseSensitive(root, "decoder");
    MR_TRY(check_component(item, "decoder", "decoders", "ByteLevel", "ByteLevel", place, err));

    const cJSON *vocab = cJSON_GetObjectItemCaseSensitive(model, "vocab"),
                *merges = cJSON_GetObjectItemCaseSensitive(model, "merges");
    const cJSON *added = cJSON_GetObjectItemCaseSensitive(root, "added_tokens");
    if (!cJSON_IsObject(vocab))
        return mr_fail(err, MR_EDATA, "%s: model.vocab is %s, want an object", place, mr_json_type_name(vocab));
    if (!cJSON_IsArray(merges))
        return mr_fail(err, MR_EDATA, "%s: model.merges is %s, want an array", place, mr_json_type_name(merges));
    if (!is_null(added) && !cJSON_IsArray(added))
        return mr_fail(err, MR_EDATA, "%s: added_tokens is %s, want an array", place, mr_json_type_name(added));
    snprintf(where, sizeof where, "%s: model.vocab", place);
    MR_TRY(mr_vocab_reserve(t, (int64_t)cJSON_GetArraySize(vocab) + cJSON_GetArraySize(added),
                            cJSON_GetArraySize(merges), where, err));
    cJSON_ArrayForEach(item, vocab) {
        double id = cJSON_IsNumber(item) ? item->valuedouble : -1;
        if (!(id >= 0 && id < MR_VOCAB_MAX_IDS) || id != (double)(int64_t)id)
            return mr_fail(err, MR_EDATA, "%s: \"%.60s\" has no id in 0..%d", where, item->string,
                           MR_VOCAB_MAX_IDS - 1);
        MR_TRY(mr_vocab_put(t, (int64_t)id, item->string, strlen(item->string), MR_TOKEN_NORMAL, where, err));
    }
    if (added) MR_TRY(read_added(t, added, place, err));
    snprintf(where, sizeof where, "%s: model.merges", place);
    MR_TRY(read_merges(t, merges, where, err));
    item = cJSON_GetObjectItemCaseSensitive(model, "unk_token");
    if (cJSON_IsString(item) && item->valuestring[0]) {
        t->unk_id = mr_vocab_find(t, item->valuestring, strlen(item->valuestring));
        if (t->unk_id < 0)
            return mr_fail(err, MR_EDATA, "%s: model.unk_token \"%s\" is not in the vocabulary", place,
                           item->valuestring);
    }
    mr_vocab_finish(t);
    return MR_OK;
}

/* ---- the files beside it ---- */

/* A special token of tokenizer_config.json: a string, or an object with "content". -1 when it is absent or
 * unknown. */
static int32_t named_token(const mr_tokenizer *t, const cJSON *config, const char *key) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(config, key);
    if (cJSON_IsObject(item)) item = cJSON_GetObjectItemCaseSensitive(item, "content");
    return cJSON_IsString(item) ? mr_vocab_find(t, item->valuestring, strlen(item->valuestring)) : -1;
}

static mr_status read_template(mr_tokenizer *t, const cJSON *config, const char *place, mr_err *err) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(config, "chat_template"), *entry;
    if (is_null(item)) return MR_OK;
    if (cJSON_IsArray(item)) { /* several with names: "default" is the one for chats */
        const cJSON *list = item;
        item = NULL;
        cJSON_ArrayForEach(entry, list) {
            const char *name;
            MR_TRY(mr_json_get_string(&name, entry, "name", place, err));
            if (!item || strcmp(name, "default") == 0) item = cJSON_GetObjectItemCaseSensitive(entry, "template");
        }
    }
    if (!cJSON_IsString(item))
        return mr_fail(err, MR_EDATA, "%s: chat_template is %s, want a string or a list of {name, template}", place,
                       mr_json_type_name(item));
    t->chat_template = mr_strdup(item->valuestring);
    return MR_OK;
}

static mr_status read_stop_ids(mr_tokenizer *t, const cJSON *config, const char *place, mr_err *err) {
    const cJSON *eos = cJSON_IsObject(config) ? cJSON_GetObjectItemCaseSensitive(config, "eos_token_id") : NULL, *item;
    if (is_null(eos)) return MR_OK;
    if (cJSON_IsNumber(eos)) {
        add_stop(t, eos->valuedouble, false);
        return MR_OK;
    }
    if (!cJSON_IsArray(eos))
        return mr_fail(err, MR_EDATA, "%s: eos_token_id is %s, want a number or a list", place, mr_json_type_name(eos));
    cJSON_ArrayForEach(item, eos) {
        if (!cJSON_IsNumber(item))
            return mr_fail(err, MR_EDATA, "%s: eos_token_id holds %s, want numbers", place, mr_json_type_name(item));
        add_stop(t, item->valuedouble, false);
    }
    return MR_OK;
}

/* Parses DIR/NAME when it is there; *root stays NULL otherwise. *place: its path, owned by the caller. */
static mr_status load_beside(cJSON **root, char **place, const char *dir, const char *name, mr_err *err) {
    *root = NULL;
    *place = mr_path_join(dir, name);
    return mr_path_exists(*place) ? mr_json_load(root, *place, CONFIG_BYTES_MOST, err) : MR_OK;
}

static mr_status load_neighbors(mr_tokenizer *t, const char *dir, mr_err *err) {
    cJSON *config;
    char *place;
    mr_status st = load_beside(&config, &place, dir, "tokenizer_config.json", err);
    if (st == MR_OK && config) {
        t->bos = named_token(t, config, "bos_token");
        t->eos = named_token(t, config, "eos_token");
        t->pad = named_token(t, config, "pad_token");
        st = read_template(t, config, place, err);
    }
    cJSON_Delete(config);
    mr_free(place);
    if (st != MR_OK) return st;

    char *jinja =
        mr_path_join(dir, "chat_template.jinja"); /* newer checkpoints; it wins over the string in the config */
    if (mr_path_exists(jinja)) {
        char *text;
        size_t len;
        st = mr_file_read(&text, &len, jinja, CONFIG_BYTES_MOST, err);
        if (st == MR_OK) {
            mr_free(t->chat_template);
            t->chat_template = text;
        }
    }
    mr_free(jinja);
    if (st != MR_OK) return st;

    static const char *const names[] = { "generation_config.json", "config.json" };
    for (int i = 0; i < 2 && st == MR_OK && t->stops.n == 0;
         i++) { /* transformers makes the first from the second when it is absent */
        st = load_beside(&config, &place, dir, names[i], err);
        if (st == MR_OK && config) st = read_stop_ids(t, config, place, err);
        cJSON_Delete(config);
        mr_free(place);
    }
    if (t->eos < 0 && t->stops.n) t->eos = t->stops.data[0];
    add_stop(t, t->eos, true);
    add_turn_ends(t);
    return st;
}

static mr_status load_folder(mr_tokenizer *t, const char *dir, mr_err *err) {
    char *path = mr_path_join(dir, "tokenizer.json");
    cJSON *root = NULL;
    mr_status st = mr_path_exists(path)
                       ? mr_json_load(&root, path, TOKENIZER_BYTES_MOST, err)
                       : mr_fail(err, MR_ENOTFOUND, "%s: no such file; a model folder needs tokenizer.json", path);
    if (st == MR_OK) st = read_tokenizer_json(t, root, path, err);
    cJSON_Delete(root);
    mr_free(path);
    return st == MR_OK ? load_neighbors(t, dir, err) : st;
}

/* ---- GGUF ---- */

static mr_status gguf_pre_tokenizer(mr_tokenizer *t, const mr_tensors *file, const char *place, mr_err *err) {
    const char *model, *pre;
    size_t model_len, pre_len;
    if (!mr_gguf_get_string(file, "tokenizer.ggml.model", &model, &model_len))
        return mr_fail(err, MR_EDATA,
                       "%s: no tokenizer.ggml.model; the file holds no tokenizer, convert the model again", place);
    if (model_len != 4 || memcmp(model, "gpt2", 4) != 0)
        return mr_fail(err, MR_EDATA, "%s: tokenizer.ggml.model is \"%.*s\", want \"gpt2\"; " FAMILIES, place,
                       (int)model_len, model);
    if (!mr_gguf_get_string(file, "tokenizer.ggml.pre", &pre, &pre_len))
        return mr_fail(
            err, MR_EDATA,
            "%s: no tokenizer.ggml.pre, so its pre-tokenizer is not known; convert the model with a newer tool", place);
    static const struct {
        const char *name, *first, *second;
        bool nfc, ignore_merges;
    } known[] = {
        /* GGUF does not record the normalizer; the Qwen families have NFC. ignore_merges is Llama 3's setting. */
        { "qwen2", mr_pattern_qwen2, NULL, true, false },
        { "llama-bpe", mr_pattern_llama3, NULL, false, true },
        { "smollm", mr_pattern_digit, mr_pattern_gpt2, false, false },
        { "gpt-2", mr_pattern_gpt2, NULL, false, false },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strlen(known[i].name) != pre_len || memcmp(known[i].name, pre, pre_len) != 0) continue;
        t->nfc = known[i].nfc;
        t->ignore_merges = known[i].ignore_merges;
        MR_TRY(mr_pretoken_add(t, known[i].first, place, err));
        return known[i].second ? mr_pretoken_add(t, known[i].second, place, err) : MR_OK;
    }
    return mr_fail(err, MR_EDATA,
                   "%s: tokenizer.ggml.pre is \"%.*s\", want qwen2, llama-bpe, smollm or gpt-2; " FAMILIES, place,
                   (int)pre_len, pre);
}

static int64_t gguf_id(const mr_tensors *file, const char *key) {
    double x;
    return mr_gguf_get_number(file, key, &x) && x >= 0 && x < MR_VOCAB_MAX_IDS ? (int64_t)x : -1;
}

static mr_status read_gguf(mr_tokenizer *t, const mr_tensors *file, const char *path, mr_err *err) {
    static const char tokens[] = "tokenizer.ggml.tokens", types[] = "tokenizer.ggml.token_type",
                      merges[] = "tokenizer.ggml.merges";
    char where[1100];
    const char *s;
    size_t len;
    MR_TRY(gguf_pre_tokenizer(t, file, path, err));
    int64_t n_tokens = mr_gguf_array_count(file, tokens), n_types = mr_gguf_array_count(file, types),
            n_merges = mr_gguf_array_count(file, merges);
    if (n_tokens < 0) return mr_fail(err, MR_EDATA, "%s: no %s; convert the model again", path, tokens);
    if (n_types >= 0 && n_types != n_tokens)
        return mr_fail(err, MR_EDATA, "%s: %s has %lld entries for %lld tokens; the file is damaged", path, types,
                       (long long)n_types, (long long)n_tokens);
    if (n_merges < 0) return mr_fail(err, MR_EDATA, "%s: no %s; convert the model again", path, merges);
    snprintf(where, sizeof where, "%s: %s", path, tokens);
    MR_TRY(mr_vocab_reserve(t, n_tokens, n_merges, where, err));
    for (int64_t i = 0; i < n_tokens; i++) {
        double type = 1; /* 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte */
        if (n_types >= 0 && !mr_gguf_array_number(file, types, i, &type))
            return mr_fail(err, MR_EDATA, "%s: %s is not an array of numbers; the file is damaged", path, types);
        if (!mr_gguf_array_string(file, tokens, i, &s, &len))
            return mr_fail(err, MR_EDATA, "%s is not an array of strings; the file is damaged", where);
        if (type == 5) continue;
        mr_token_kind kind = type == 3 || type == 2 ? MR_TOKEN_SPECIAL : type == 4 ? MR_TOKEN_ADDED : MR_TOKEN_NORMAL;
        MR_TRY(mr_vocab_put(t, i, s, len, kind, where, err));
    }
    snprintf(where, sizeof where, "%s: %s", path, merges);
    for (int64_t i = 0; i < n_merges; i++) {
        if (!mr_gguf_array_string(file, merges, i, &s, &len))
            return mr_fail(err, MR_EDATA, "%s is not an array of strings; the file is damaged", where);
        const char *space = memchr(s, ' ', len);
        size_t a_len = space ? (size_t)(space - s) : 0;
        if (!space || memchr(space + 1, ' ', len - a_len - 1))
            return mr_fail(err, MR_EDATA, "%s[%lld]: \"%.*s\", want two symbols and one space", where, (long long)i,
                           (int)(len < 60 ? len : 60), s);
        MR_TRY(mr_vocab_merge(t, (int32_t)i, s, a_len, space + 1, len - a_len - 1, where, err));
    }
    mr_vocab_finish(t);
    if (mr_gguf_get_string(file, "tokenizer.chat_template", &s, &len)) t->chat_template = mr_strndup(s, len);
    t->bos = (int32_t)gguf_id(file, "tokenizer.ggml.bos_token_id");
    t->eos = (int32_t)gguf_id(file, "tokenizer.ggml.eos_token_id");
    t->pad = (int32_t)gguf_id(file, "tokenizer.ggml.padding_token_id");
    add_stop(t, t->eos, false);
    const int64_t n_stops = mr_gguf_array_count(file, mr_stop_ids_key);
    for (int64_t i = 0; i < n_stops && i < 64; i++) {
        double id;
        if (mr_gguf_array_number(file, mr_stop_ids_key, i, &id)) add_stop(t, id, false);
    }
    add_stop(t, (double)gguf_id(file, "tokenizer.ggml.eot_token_id"), false);
    add_turn_ends(t);
    return MR_OK;
}

mr_status mr_vocab_load(mr_tokenizer *t, const char *path, mr_err *err) {
    if (!mr_ends_with(path, ".gguf")) return load_folder(t, path, err);
    mr_tensors *file;
    MR_TRY(mr_tensors_open(&file, path, err));
    mr_status st = read_gguf(t, file, path, err);
    mr_tensors_close(file);
    return st;
}
