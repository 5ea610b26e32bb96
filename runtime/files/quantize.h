/* quantize.h - from f32 to the number types of model files: 16 bits and ggml's blocks. The way back is tensors.h.
 *
 * Source: spec/formats.md 7.2. Q4_0, Q5_0, Q5_1 and Q8_0 give the bytes of the reference (gguf 0.19.0, quants.py). For
 * Q4_K, Q5_K and Q6_K the format leaves the choice of scales open: here each sub-block takes, out of a few
 * candidates, the scale (and minimum) of least weighted squared error, larger values weighing more.
 * Memory: nothing is allocated. Threads: no state. */
#ifndef MR_QUANTIZE_H
#define MR_QUANTIZE_H

#include "base/status.h"

typedef struct mr_format {
    const char *name; /* "Q4_K", as in mr_tensor_info.type */
    int gguf_id;
    int block, bytes; /* a block of so many values takes so many bytes */
    float most;       /* values of larger magnitude do not fit */
    /* n values (whole blocks, all finite and within `most`) at src to n / block * bytes bytes at dst */
    void (*encode)(uint8_t *dst, const float *src, size_t n);
} mr_format;

/* F32, F16, BF16, Q4_0, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K; NULL for other names. */
const mr_format *mr_format_named(const char *name);
static inline size_t mr_format_bytes(const mr_format *f, size_t n) {
    return n / (size_t)f->block * (size_t)f->bytes;
}

#endif
