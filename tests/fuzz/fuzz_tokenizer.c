/* fuzz_tokenizer.c - tokenizer.json files. Accepted: a kilobyte of text can be encoded, and every id of it is one of the tokenizer's. */
#include "fuzz.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char text[1024];
    mr_tokenizer *t;
    mr_err err;
    fuzz_file("tokenizer.json", data, size);
    if (mr_tokenizer_open(&t, FUZZ_DIR, &err) != MR_OK) {
        fuzz_refused(err.msg, "tokenizer.json");
        return 0;
    }
    fuzz_accepted();
    for (size_t i = 0; i < sizeof text; i++) text[i] = "The <answer> 12 is\n\xc3\xa9 "[i % 22];
    mr_ids ids = { 0 };
    if (mr_tokenizer_encode(t, &ids, text, sizeof text, true, &err) == MR_OK) {
        mr_str back = { 0 };
        for (int i = 0; i < ids.n; i++)
            PROMISE(ids.data[i] >= 0 && ids.data[i] < mr_tokenizer_count(t), "id %d of %d", ids.data[i], mr_tokenizer_count(t));
        mr_tokenizer_decode(t, &back, ids.data, ids.n, false);
        mr_str_clear(&back);
    }
    mr_free(ids.data);
    mr_tokenizer_close(t);
    return 0;
}
