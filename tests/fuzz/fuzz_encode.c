/* fuzz_encode.c - any bytes through a real byte-level tokenizer (MR_FUZZ_TOKENIZER): ids decode to the same text, ill-formed parts apart; ids
 * of a text and of what it decodes to are equal. */
#include "fuzz.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static mr_tokenizer *t; /* for all inputs */
    mr_err err;
    if (!t) PROMISE(mr_tokenizer_open(&t, MR_FUZZ_TOKENIZER, &err) == MR_OK, "%s", err.msg);
    mr_ids ids = { 0 };
    mr_str text = { 0 }, back = { 0 };
    mr_utf8_repair(&text, (const char *)data, size);
    PROMISE(mr_tokenizer_encode(t, &ids, (const char *)data, size, false, &err) == MR_OK, "%s", err.msg);
    mr_tokenizer_decode(t, &back, ids.data, ids.n, false);
    PROMISE(back.len == text.len && memcmp(back.data ? back.data : "", text.data ? text.data : "", text.len) == 0, "another text comes back");
    for (int i = 0; i < ids.n; i++) PROMISE(!mr_tokenizer_is_special(t, ids.data[i]), "plain text became special token %d", ids.data[i]);
    fuzz_accepted();
    mr_free(ids.data);
    mr_str_clear(&text), mr_str_clear(&back);
    return 0;
}
