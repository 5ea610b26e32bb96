/* chat.c - renderers of the five template families, with a record of which bytes are the caller's and which are
 * markup.
 *
 * Text and markup are tokenized together, because BPE may join a newline of the markup with one of the content; only
 * the matching of special tokens stops at the seam.
 * Source: spec/tokenizers.md, 2.7; the rendered cases of chat_templates.json. */
#include <string.h>

#include "text/chat.h"
#include "text/vocab.h"

#define QWEN25_SYSTEM "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
#define SMOLLM2_SYSTEM "You are a helpful AI assistant named SmolLM, trained by Hugging Face"

/* Whether a template speaks to the model in its own words ("You are ...", "Please ..."), other than in the instructions
 * for tools, which begin "You are provided with function signatures". */
static bool has_default_system(const char *jinja) {
    for (const char *p = jinja; (p = strstr(p, "You are ")); p += 8)
        if (strncmp(p + 8, "provided with", 13) != 0) return true;
    return strstr(jinja, "Please ") != NULL;
}

mr_status mr_chat_detect(mr_chat_family *out, const char *jinja, mr_err *err) {
    *out = MR_CHAT_CHATML_PLAIN;
    if (!jinja) return MR_OK; /* a model that came without one is taught in plain ChatML */
    if (strstr(jinja, "<|start_header_id|>") && strstr(jinja, "<|eot_id|>")) {
        *out = strstr(jinja, "Cutting Knowledge Date") ? MR_CHAT_LLAMA32 : MR_CHAT_LLAMA3;
        return MR_OK;
    }
    if (!strstr(jinja, "<|im_start|>") || !strstr(jinja, "<|im_end|>"))
        return mr_fail(err, MR_EDATA,
                       "chat template: neither ChatML (<|im_start|>) nor Llama 3 (<|start_header_id|>); use a model of "
                       "the Qwen2.5, Qwen3, "
                       "Llama 3 or SmolLM2 family");
    if (strstr(jinja, "You are Qwen, created by Alibaba Cloud"))
        *out = MR_CHAT_CHATML_QWEN25;
    else if (strstr(jinja, "named SmolLM, trained by Hugging Face"))
        *out = MR_CHAT_CHATML_SMOLLM2;
    else if (strstr(jinja, "enable_thinking") && strstr(jinja, "last_query_index") &&
             strstr(jinja, "reasoning_content.strip("))
        *out = MR_CHAT_CHATML_QWEN3;
    else if (strstr(jinja, "</think>"))
        return mr_fail(
            err, MR_EDATA,
            "chat template: ChatML with <think> parts that are not those of Qwen3; use Qwen3 or a model without "
            "thinking");
    else if (strstr(jinja, "bos_token") || strstr(jinja, "<|vision_start|>"))
        return mr_fail(
            err, MR_EDATA,
            "chat template: ChatML with %s, which is not that of Qwen2.5, Qwen3 or SmolLM2; use one of these",
            strstr(jinja, "bos_token") ? "bos_token" : "images");
    else if (has_default_system(jinja))
        return mr_fail(err, MR_EDATA,
                       "chat template: ChatML with a default system message that is not Qwen2.5's or SmolLM2's; remove "
                       "chat_template from the model's files and write the system message into the data");
    return MR_OK;
}

/* ---- the text being built ---- */

typedef struct render {
    mr_str *text;
    mr_text_span *data; /* NULL: not recorded */
    int n_data;
} render;

static void markup(render *r, const char *s) {
    mr_str_puts(r->text, s);
}

static void content(render *r, const char *s, size_t len) {
    size_t from = r->text->len;
    mr_utf8_repair(r->text, s, len);
    if (r->data && r->text->len > from) r->data[r->n_data++] = (mr_text_span){ from, r->text->len };
}

/* What Python's str.strip and Jinja's trim take off: str.isspace, that is White_Space and U+001C to U+001F. */
static bool is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

static void trimmed(render *r, const char *s) {
    size_t len = strlen(s), from = 0, to = 0;
    bool leading = true;
    for (size_t i = 0; i < len;) {
        uint32_t cp = 0xFFFD;
        int n = mr_utf8_next(&cp, (const uint8_t *)s + i, len - i);
        size_t step = n > 0 ? (size_t)n : n < 0 ? (size_t)-n : len - i;
        i += step;
        if (n > 0 && is_space(cp)) {
            if (leading) from = i;
        } else {
            leading = false;
            to = i;
        }
    }
    if (to > from) content(r, s + from, to - from);
}

/* ---- ChatML ---- */

static bool has_role(const mr_message *m, const char *role) {
    return strcmp(m->role, role) == 0;
}

static void chatml_turn(render *r, const mr_message *m) {
    markup(r, "<|im_start|>");
    markup(r, m->role);
    markup(r, "\n");
    content(r, m->content, strlen(m->content));
    markup(r, "<|im_end|>\n");
}

static void chatml(render *r, mr_chat_family family, const mr_message *m, int n, bool generate) {
    if (!has_role(&m[0], "system") && family != MR_CHAT_CHATML_PLAIN) {
        markup(r, "<|im_start|>system\n");
        markup(r, family == MR_CHAT_CHATML_QWEN25 ? QWEN25_SYSTEM : SMOLLM2_SYSTEM);
        markup(r, "<|im_end|>\n");
    }
    for (int i = 0; i < n; i++) chatml_turn(r, &m[i]);
    if (generate) markup(r, "<|im_start|>assistant\n");
}

/* ---- Qwen3: thinking ---- */

static bool is_tool_reply(const char *s) {
    static const char open[] = "<tool_response>", close[] = "</tool_response>";
    size_t len = strlen(s);
    return strncmp(s, open, sizeof open - 1) == 0 && len >= sizeof close - 1 &&
           strcmp(s + len - (sizeof close - 1), close) == 0;
}

/* The last place of a tag in s[len], or NULL. */
static const char *last_of(const char *s, size_t len, const char *tag) {
    size_t n = strlen(tag);
    const char *found = NULL;
    for (const char *p = s; (p = memmem(p, len - (size_t)(p - s), tag, n)); p += n) found = p;
    return found;
}

static void skip_newlines(const char **s, size_t *len, bool front, bool back) {
    while (front && *len && **s == '\n') (*s)++, (*len)--;
    while (back && *len && (*s)[*len - 1] == '\n') (*len)--;
}

/* An assistant's turn falls into its reasoning (between the last <think> before the first </think>, and that) and
 * what is said after the last </think>. Reasoning is shown again only after the last question of the user. */
static void qwen3_assistant(render *r, const mr_message *m, bool after_question, bool is_last) {
    static const char open[] = "<think>", close[] = "</think>";
    const char *said = m->content, *thought = "", *first_close = strstr(said, close);
    size_t said_len = strlen(said), thought_len = 0;
    if (first_close) {
        thought = said;
        thought_len = (size_t)(first_close - said);
        const char *begin = last_of(thought, thought_len, open);
        if (begin) {
            thought_len -= (size_t)(begin + sizeof open - 1 - thought);
            thought = begin + sizeof open - 1;
        }
        skip_newlines(&thought, &thought_len, true, true);
        const char *end = last_of(said, said_len, close) + sizeof close - 1;
        said_len -= (size_t)(end - said);
        said = end;
        skip_newlines(&said, &said_len, true, false);
    }
    markup(r, "<|im_start|>assistant\n");
    if (after_question && (is_last || thought_len)) {
        markup(r, "<think>\n");
        content(r, thought, thought_len);
        markup(r, "\n</think>\n\n");
        skip_newlines(&said, &said_len, true, false);
    }
    content(r, said, said_len);
    markup(r, "<|im_end|>\n");
}

static void qwen3(render *r, const mr_message *m, int n, bool generate, int enable_thinking) {
    int question = n - 1;
    for (int i = n - 1; i >= 0; i--) {
        if (!has_role(&m[i], "user") || is_tool_reply(m[i].content)) continue;
        question = i;
        break;
    }
    for (int i = 0; i < n; i++) {
        if (has_role(&m[i], "assistant"))
            qwen3_assistant(r, &m[i], i > question, i == n - 1);
        else
            chatml_turn(r, &m[i]);
    }
    if (!generate) return;
    markup(r, "<|im_start|>assistant\n");
    if (enable_thinking == 0) markup(r, "<think>\n\n</think>\n\n");
}

/* ---- Llama 3 ---- */

static void llama_header(render *r, const char *role) {
    markup(r, "<|start_header_id|>");
    markup(r, role);
    markup(r, "<|end_header_id|>\n\n");
}

static void llama3(render *r, bool dated, const mr_message *m, int n, bool generate, const char *date) {
    markup(r, "<|begin_of_text|>");
    int first = 0;
    if (dated) { /* 3.1 and 3.2 always write the system turn */
        llama_header(r, "system");
        markup(r, "Cutting Knowledge Date: December 2023\nToday Date: ");
        markup(r, date ? date : "26 Jul 2024");
        markup(r, "\n\n");
        if (has_role(&m[0], "system")) trimmed(r, m[first++].content);
        markup(r, "<|eot_id|>");
    }
    for (int i = first; i < n; i++) {
        llama_header(r, m[i].role);
        trimmed(r, m[i].content);
        markup(r, "<|eot_id|>");
    }
    if (generate) llama_header(r, "assistant");
}

/* ---- the way in ---- */

static mr_status check(const mr_message *m, int n, mr_err *err) {
    if (n < 1) return mr_fail(err, MR_EINVAL, "chat: no messages, want at least one");
    for (int i = 0; i < n; i++) {
        if (!m[i].role || !m[i].content)
            return mr_fail(err, MR_EINVAL, "chat: message %d has no %s", i + 1, m[i].role ? "content" : "role");
        if (!has_role(&m[i], "system") && !has_role(&m[i], "user") && !has_role(&m[i], "assistant"))
            return mr_fail(err, MR_EINVAL, "chat: message %d has role \"%.40s\", want system, user or assistant", i + 1,
                           m[i].role);
    }
    return MR_OK;
}

static void run(render *r, mr_chat_family family, const mr_message *m, int n, bool generate, int enable_thinking,
                const char *date) {
    switch (family) {
    case MR_CHAT_CHATML_QWEN25:
    case MR_CHAT_CHATML_SMOLLM2:
    case MR_CHAT_CHATML_PLAIN: chatml(r, family, m, n, generate); break;
    case MR_CHAT_CHATML_QWEN3: qwen3(r, m, n, generate, enable_thinking); break;
    case MR_CHAT_LLAMA3:
    case MR_CHAT_LLAMA32: llama3(r, family == MR_CHAT_LLAMA32, m, n, generate, date); break;
    }
}

mr_status mr_chat_render(mr_str *out, mr_chat_family family, const mr_message *messages, int n,
                         bool add_generation_prompt, int enable_thinking, const char *date, mr_err *err) {
    MR_TRY(check(messages, n, err));
    render r = { .text = out };
    run(&r, family, messages, n, add_generation_prompt, enable_thinking, date);
    return MR_OK;
}

mr_status mr_chat_encode(mr_tokenizer *t, mr_ids *ids, mr_chat_family family, const mr_message *messages, int n,
                         bool add_generation_prompt, int enable_thinking, const char *date, mr_err *err) {
    MR_TRY(check(messages, n, err));
    bool llama = family == MR_CHAT_LLAMA3 || family == MR_CHAT_LLAMA32;
    const char *const need[2] = { llama ? "<|start_header_id|>" : "<|im_start|>", llama ? "<|eot_id|>" : "<|im_end|>" };
    for (int i = 0; i < 2; i++)
        if (mr_tokenizer_find(t, need[i]) < 0)
            return mr_fail(err, MR_EDATA,
                           "chat: the tokenizer has no token %s, which the chat template writes; use an instruct model",
                           need[i]);
    mr_str text = { 0 };
    render r = { .text = &text,
                 .data = mr_alloc(2 * (size_t)n * sizeof(mr_text_span)) }; /* a turn has 2 parts at most */
    run(&r, family, messages, n, add_generation_prompt, enable_thinking, date);
    mr_status st = mr_tokenizer_encode_spans(t, ids, text.data, text.len, r.data, r.n_data, err);
    mr_free(r.data);
    mr_str_clear(&text);
    return st;
}
