/* fuzz_tensors.c - safetensors, or with MR_FUZZ_GGUF GGUF files. Accepted: every tensor lies inside the file and can be read, and no two of a
 * safetensors file share a byte. */
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

static void read_all(const mr_tensors *t, const mr_tensor_info *info) {
    int64_t row = 1, n_rows = info->n_dims > 1 ? info->dims[0] : 1;
    for (int i = info->n_dims > 1; i < info->n_dims; i++) row *= info->dims[i];
    if (row <= 0 || n_rows <= 0 || row > 65536) return;
    float *x = malloc((size_t)row * sizeof *x);
    mr_err err;
    if (x) mr_tensors_read(t, info, x, 0, 1, &err), mr_tensors_read(t, info, x, n_rows - 1, 1, &err);
    free(x);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mr_tensors *t;
    mr_err err;
    if (mr_tensors_open(&t, fuzz_file(NAME, data, size), &err) != MR_OK) {
        fuzz_refused(err.msg, NAME);
        return 0;
    }
    int n = mr_tensors_count(t);
    for (int i = 0; i < n; i++) {
        const mr_tensor_info *a = mr_tensors_at(t, i);
        PROMISE(a->bytes <= size, "tensor %s has %zu bytes in a file of %zu", a->name, a->bytes, size);
        PROMISE(mr_tensors_find(t, a->name) == a, "tensor %s is not found by its name", a->name);
#ifndef MR_FUZZ_GGUF
        for (int k = 0; k < i && n < 64; k++) PROMISE(!overlap(a, mr_tensors_at(t, k)), "tensor %s overlaps another", a->name);
#endif
        read_all(t, a);
    }
    mr_tensors_close(t);
    return 0;
}
