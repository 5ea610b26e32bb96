/* chat.h - messages to the exact tokens that a model was tuned on.
 *
 * How messages become text is decided by a chat template, which is code that came with the model or the user's own. It
 * is behind a table with one function; script/ implements it with a sandboxed process (mr_template, script/script.h),
 * tests in C. What comes back is text with a record of which parts are data: these are encoded with special tokens off,
 * so "<|im_end|>" inside a message stays text; markup is encoded with them on. All of it is tokenized together, because
 * BPE may join a newline of the markup with one of the data; only the matching of special tokens stops at the seam.
 * Source: spec/tokenizers.md, 2.7. Threads: those of the tokenizer and of the template. */
#ifndef MR_CHAT_H
#define MR_CHAT_H

#include "text/tokenizer.h"

enum { MR_CHAT_TEXT_MOST = 1 << 20 }; /* bytes of one rendered prompt */

typedef struct mr_message {
    const char *role;    /* "system", "user", "assistant", "tool", "developer" */
    const char *content; /* NUL-terminated UTF-8 */
} mr_message;            /* borrowed for the call */

typedef struct mr_chat_opts {
    bool add_generation_prompt; /* the beginning of the assistant's turn behind the last message */
    /* More variables for the template as the text of a JSON object ("tools", "enable_thinking"), all of them data; they
     * go before those of the model and of the recipe. With n = 0 messages it may hold "messages" too, which then may
     * have more than a role and a content ("tool_calls"). NULL: none. */
    const char *variables;
} mr_chat_opts; /* NULL: neither */

/* A rendered prompt. Zeroed = empty; clear with mr_chat_text_clear. */
typedef struct mr_chat_text {
    mr_str text;        /* valid UTF-8 */
    mr_text_span *data; /* the parts that are data, in order and apart from each other */
    int n_data, cap_data;
} mr_chat_text;

/* Appends a piece; what is no UTF-8 in it becomes U+FFFD. */
void mr_chat_text_add(mr_chat_text *t, const char *text, size_t len, bool is_markup);
void mr_chat_text_clear(mr_chat_text *t);

typedef struct mr_chat {
    void *self;
    /* Fills a zeroed *out, which the caller clears in any case. The messages were checked. MR_EDATA `PLACE:LINE: what`.
     * */
    mr_status (*render)(void *self, mr_chat_text *out, const mr_message *messages, int n, const mr_chat_opts *opts,
                        mr_err *err);
} mr_chat;

/* Appends the rendered text, for people. On failure out is as it was. */
mr_status mr_chat_render(mr_str *out, const mr_chat *chat, const mr_message *messages, int n, const mr_chat_opts *opts,
                         mr_err *err);
/* Appends the ids; on failure ids is as it was. MR_EDATA when the markup has a token "<|...|>" that the tokenizer
 * lacks: the model would be spoken to in words that it never saw. */
mr_status mr_chat_encode(mr_tokenizer *t, mr_ids *ids, const mr_chat *chat, const mr_message *messages, int n,
                         const mr_chat_opts *opts, mr_err *err);

/* ChatML without a default system message, in Jinja: for models that bring no template. */
extern const char mr_chatml_template[];

#endif
