/* chat.h - messages to the exact tokens that a model was tuned on.
 *
 * Renderers for the template families (ChatML: Qwen2.5, Qwen3, SmolLM2; Llama 3 and 3.2), chosen by markers in the
 * model's own template. Text that comes from messages is encoded with special tokens off, markup with them on:
 * "<|im_end|>" inside data stays text.
 * Source: spec/tokenizers.md, 2.7, and fixtures chat_templates.json. */
#ifndef MR_CHAT_H
#define MR_CHAT_H

#include "text/tokenizer.h"

typedef struct mr_message {
    const char *role;    /* "system", "user", "assistant" */
    const char *content; /* NUL-terminated UTF-8 */
} mr_message;            /* borrowed for the call */

typedef enum mr_chat_family {
    MR_CHAT_CHATML_QWEN25,
    MR_CHAT_CHATML_QWEN3,
    MR_CHAT_CHATML_SMOLLM2,
    MR_CHAT_CHATML_PLAIN, /* no default system message; also for a model without a template */
    MR_CHAT_LLAMA3,
    MR_CHAT_LLAMA32
} mr_chat_family;

/* From the markers in a template; MR_EDATA with what to do when none fits. */
mr_status mr_chat_detect(mr_chat_family *out, const char *jinja, mr_err *err);
/* The rendered text (for people and for the fixtures). date: Llama 3.2's "26 Jul 2024" line, NULL for that one.
 * enable_thinking: Qwen3 only; -1 unset, 0 false, 1 true. */
mr_status mr_chat_render(mr_str *out, mr_chat_family family, const mr_message *messages, int n,
                         bool add_generation_prompt, int enable_thinking, const char *date, mr_err *err);
/* The same straight to ids, with contents encoded as data. */
mr_status mr_chat_encode(mr_tokenizer *t, mr_ids *ids, mr_chat_family family, const mr_message *messages, int n,
                         bool add_generation_prompt, int enable_thinking, const char *date, mr_err *err);

#endif
