/* chat.c - from a rendered template to text and ids, with the seams between markup and data. */
#include "text/chat.h"

#include <string.h>

#include "text/vocab.h"

const char mr_chatml_template[] = "{%- for message in messages %}\n"
                                  "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}\n"
                                  "{%- endfor %}\n"
                                  "{%- if add_generation_prompt %}\n"
                                  "{{- '<|im_start|>assistant\\n' }}\n"
                                  "{%- endif %}\n";

void mr_chat_text_add(mr_chat_text *t, const char *text, size_t len, bool is_markup) {
    size_t from = t->text.len;
    mr_utf8_repair(&t->text, text, len);
    if (is_markup || t->text.len == from) return;
    if (t->n_data && t->data[t->n_data - 1].to == from) {
        t->data[t->n_data - 1].to = t->text.len;
        return;
    }
    if (t->n_data == t->cap_data) {
        t->cap_data = t->cap_data ? 2 * t->cap_data : 16;
        t->data = mr_realloc(t->data, (size_t)t->cap_data * sizeof *t->data);
    }
    t->data[t->n_data++] = (mr_text_span){ from, t->text.len };
}

void mr_chat_text_clear(mr_chat_text *t) {
    mr_str_clear(&t->text);
    mr_free(t->data);
    *t = (mr_chat_text){ 0 };
}

/* A role that nobody knows is a slip of the pen more often than a template's invention. */
static mr_status check(const mr_message *m, int n, const mr_chat_opts *opts, mr_err *err) {
    static const char *const roles[] = { "system", "user", "assistant", "tool", "developer" };
    if (n < 1 && !(opts && opts->variables)) return mr_fail(err, MR_EINVAL, "chat: no messages, want at least one");
    for (int i = 0; i < n; i++) {
        bool known = false;
        if (!m[i].role || !m[i].content)
            return mr_fail(err, MR_EINVAL, "chat: message %d has no %s", i + 1, m[i].role ? "content" : "role");
        for (size_t k = 0; k < sizeof roles / sizeof *roles; k++) known = known || strcmp(m[i].role, roles[k]) == 0;
        if (!known)
            return mr_fail(err, MR_EINVAL, "chat: message %d has role \"%.40s\", want system, user, assistant or tool",
                           i + 1, m[i].role);
    }
    return MR_OK;
}

static mr_status render(mr_chat_text *out, const mr_chat *chat, const mr_message *messages, int n,
                        const mr_chat_opts *opts, mr_err *err) {
    static const mr_chat_opts none;
    MR_TRY(check(messages, n, opts, err));
    return chat->render(chat->self, out, messages, n, opts ? opts : &none, err);
}

mr_status mr_chat_render(mr_str *out, const mr_chat *chat, const mr_message *messages, int n, const mr_chat_opts *opts,
                         mr_err *err) {
    mr_chat_text t = { 0 };
    mr_status st = render(&t, chat, messages, n, opts, err);
    if (st == MR_OK) mr_str_add(out, t.text.data ? t.text.data : "", t.text.len);
    mr_chat_text_clear(&t);
    return st;
}

/* Each "<|name|>" that lies wholly in markup has to be a token. */
static mr_status check_tokens(const mr_tokenizer *t, const mr_chat_text *x, mr_err *err) {
    const char *s = x->text.data ? x->text.data : "", *p = s;
    int span = 0;
    while ((p = strstr(p, "<|"))) {
        size_t name = strspn(p + 2, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"),
               from = (size_t)(p - s);
        if (name == 0 || name > 60 || strncmp(p + 2 + name, "|>", 2) != 0) {
            p += 2;
            continue;
        }
        p += name + 4;
        while (span < x->n_data && x->data[span].to <= from) span++;
        if (span < x->n_data && x->data[span].from < from + name + 4) continue;
        char token[80];
        memcpy(token, s + from, name + 4);
        token[name + 4] = 0;
        if (mr_tokenizer_find(t, token) < 0)
            return mr_fail(
                err, MR_EDATA,
                "chat: the tokenizer has no token %s, which the chat template writes; use an instruct model, "
                "or another template (model.chat_template)",
                token);
    }
    return MR_OK;
}

mr_status mr_chat_encode(mr_tokenizer *t, mr_ids *ids, const mr_chat *chat, const mr_message *messages, int n,
                         const mr_chat_opts *opts, mr_err *err) {
    mr_chat_text x = { 0 };
    mr_status st = render(&x, chat, messages, n, opts, err);
    if (st == MR_OK) st = check_tokens(t, &x, err);
    if (st == MR_OK)
        st = mr_tokenizer_encode_spans(t, ids, x.text.data ? x.text.data : "", x.text.len, x.data, x.n_data, err);
    mr_chat_text_clear(&x);
    return st;
}
