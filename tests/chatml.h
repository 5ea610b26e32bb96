/* chatml.h - plain ChatML as a mr_chat in C, for tests below script/: what mr_chatml_template renders, roles and
 * contents as data. */
#ifndef MR_TEST_CHATML_H
#define MR_TEST_CHATML_H

#include <string.h>

#include "text/chat.h"

static inline mr_status chatml_render_(void *self, mr_chat_text *out, const mr_message *m, int n,
                                       const mr_chat_opts *opts, mr_err *err) {
    (void)self;
    (void)err;
    for (int i = 0; i < n; i++) {
        mr_chat_text_add(out, "<|im_start|>", 12, true);
        mr_chat_text_add(out, m[i].role, strlen(m[i].role), false);
        mr_chat_text_add(out, "\n", 1, true);
        mr_chat_text_add(out, m[i].content, strlen(m[i].content), false);
        mr_chat_text_add(out, "<|im_end|>\n", 11, true);
    }
    if (opts->add_generation_prompt) mr_chat_text_add(out, "<|im_start|>assistant\n", 22, true);
    return MR_OK;
}

static const mr_chat chatml = { NULL, chatml_render_ };
static const mr_chat_opts generation = { .add_generation_prompt = true };

#endif
