/* fuzz_tensors.c - safetensors, or with MR_FUZZ_GGUF GGUF files. Accepted: every tensor lies inside the file and can be read, no two share
 * a byte, the metadata can be asked for. */
#include "files/tensors.h"
#include "fuzz.h"

#ifdef MR_FUZZ_GGUF
#define NAME "x.gguf"
#else
#define NAME "x.safetensors"
#endif

static bool overlap(const mr_tensor_info *a, const mr_tensor_info *b) {
    const char *x = a->data, *y = b->data;
    return x < y + b->bytes && y < x + a->bytes;
}

/* The first and the last row as values, and the last byte as it is: a tensor that is said to be there can be touched. */
static void read_all(const mr_tensors *t, const mr_tensor_info *info) {
    volatile uint8_t sink = 0;
    if (info->bytes) sink = ((const uint8_t *)info->data)[0], sink = ((const uint8_t *)info->data)[info->bytes - 1], (void)sink;
    int64_t row = 1, n_rows = info->n_dims > 1 ? info->dims[0] : 1;
    for (int i = info->n_dims > 1; i < info->n_dims; i++) {
        if (info->dims[i] > 65536) return;
        row *= info->dims[i];
    }
    if (row <= 0 || n_rows <= 0 || row > 65536) return;
    float *x = malloc((size_t)row * sizeof *x);
    mr_err err;
    if (x) mr_tensors_read(t, info, x, 0, 1, &err), mr_tensors_read(t, info, x, n_rows - 1, 1, &err);
    free(x);
}

static void ask_metadata(const mr_tensors *t) {
    static const char *const keys[] = { "general.architecture", "general.alignment", "tokenizer.ggml.tokens", "words", "numbers",
                                        "llama.attention.head_count", "pi", "yes" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *s;
        size_t len;
        double x;
        int64_t n = mr_gguf_array_count(t, keys[i]);
        if (mr_gguf_get_string(t, keys[i], &s, &len)) PROMISE(!len || memchr(s, s[len - 1], len), "%s", keys[i]);
        mr_gguf_get_number(t, keys[i], &x);
        for (int64_t k = 0; k < n && k < 100; k++) {
            if (mr_gguf_array_string(t, keys[i], k, &s, &len)) PROMISE(!len || memchr(s, s[len - 1], len), "%s", keys[i]);
            mr_gguf_array_number(t, keys[i], k, &x);
        }
        PROMISE(n < 0 || !mr_gguf_array_string(t, keys[i], n, &s, &len), "an element behind the last one of %s", keys[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mr_tensors *t;
    mr_err err;
    if (mr_tensors_open(&t, fuzz_file(NAME, data, size), &err) != MR_OK) {
        fuzz_refused(err.msg, NAME);
        PROMISE(strstr(err.msg, ": "), "the error has no place: %s", err.msg);
        return 0;
    }
    fuzz_accepted();
    int n = mr_tensors_count(t);
    for (int i = 0; i < n; i++) {
        const mr_tensor_info *a = mr_tensors_at(t, i);
        PROMISE(a->bytes <= size, "tensor %s has %zu bytes in a file of %zu", a->name, a->bytes, size);
        PROMISE(mr_tensors_find(t, a->name) == a, "tensor %s is not found by its name", a->name);
        for (int k = 0; k < i && n < 64; k++) PROMISE(!overlap(a, mr_tensors_at(t, k)), "tensor %s overlaps another", a->name);
        read_all(t, a);
    }
    ask_metadata(t);
    mr_tensors_close(t);
    return 0;
}
