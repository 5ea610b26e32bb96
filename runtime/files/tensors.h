/* tensors.h - named tensors in files, whatever the container: a folder with safetensors (one file or shards), or a
 * GGUF file.
 *
 * Files are mapped; values are read as f32 rows, dequantized where needed, so nobody above this layer knows a block
 * format. Names are those of Hugging Face ("model.layers.0.self_attn.q_proj.weight"); for a GGUF of arch llama the rows
 * of q and k come back in Hugging Face's order.
 * Source: spec/formats.md 7.1 (safetensors: all rules of the library, duplicates refused) and 7.2 (GGUF v2/v3: F32
 *         F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K), spec/models.md 1.3 and 1.5.
 * Errors: MR_EDATA `FILE: byte N (FIELD): what is wrong; what to do`; MR_ENOTFOUND.
 * Ownership: the handle owns mappings and names; everything returned is borrowed until close.
 * Threads: reads may run in parallel. */
#ifndef MR_TENSORS_H
#define MR_TENSORS_H

#include <cjson/cJSON.h>

#include "base/memory.h"

typedef struct mr_tensors mr_tensors;

typedef struct mr_tensor_info {
    const char *name;
    const char *type; /* as the file says: "F32", "BF16", "Q4_1" ... */
    int n_dims;
    int64_t dims[4];  /* slowest first: [out, in] */
    const void *data; /* the raw bytes in the mapping */
    size_t bytes;
} mr_tensor_info;

/* path: a folder with model.safetensors or model.safetensors.index.json, a .safetensors file, or a .gguf file. */
mr_status mr_tensors_open(mr_tensors **out, const char *path, mr_err *err);
void mr_tensors_close(mr_tensors *t);
int mr_tensors_count(const mr_tensors *t);
const mr_tensor_info *mr_tensors_at(const mr_tensors *t, int index);
const mr_tensor_info *mr_tensors_find(const mr_tensors *t, const char *name); /* NULL when absent */
/* Rows [row, row+n) of a tensor seen as [dims[0], rest] (a vector: one row), as f32. */
mr_status mr_tensors_read(const mr_tensors *t, const mr_tensor_info *info, float *dst, int64_t row, int64_t n,
                          mr_err *err);
/* What a bitsandbytes checkpoint stores of a 4-bit linear (type "NF4" with the shape that it had before; mr_tensors_read
 * gives its values): spec/quantization.md 5.4. Blocks of 64 along the row-major matrix. Borrowed until close. */
typedef struct mr_tensor_nf4 {
    const uint8_t *codes;                 /* [ceil(n/2)], high nibble first */
    const uint8_t *absmax;                /* [n_blocks] codes of nested_map; without double quantization f32 values */
    const uint8_t *nested;                /* f32 [ceil(n_blocks/256)], of any alignment; NULL: absmax holds f32 */
    float offset, book[16], nested_map[256];
    int64_t n, n_blocks;
} mr_tensor_nf4;
const mr_tensor_nf4 *mr_tensors_nf4(const mr_tensor_info *info); /* NULL for other tensors */
/* Tells the kernel that the tensor's pages may leave memory. */
void mr_tensors_drop(const mr_tensors *t, const mr_tensor_info *info);
/* What tells other files from these without reading all of them, as 64 hex digits: of each its name, size, and hash where its name in a
 * hub's cache is one, else its time; then its header and 16 pieces of 64 KiB. */
mr_status mr_tensors_identity(const mr_tensors *t, char hex[65], mr_err *err);
const char *mr_tensors_path(const mr_tensors *t);

/* GGUF metadata: NULL-safe; a safetensors handle has none. */
bool mr_tensors_is_gguf(const mr_tensors *t);
bool mr_gguf_get_string(const mr_tensors *t, const char *key, const char **s, size_t *len);
bool mr_gguf_get_number(const mr_tensors *t, const char *key, double *x); /* any integer, float or bool */
int64_t mr_gguf_array_count(const mr_tensors *t, const char *key);        /* -1: no such array */
bool mr_gguf_array_string(const mr_tensors *t, const char *key, int64_t i, const char **s, size_t *len);
bool mr_gguf_array_number(const mr_tensors *t, const char *key, int64_t i, double *x);

/* Writing safetensors (adapters, checkpoints): f32, or raw bytes of another type. */
typedef struct mr_tensor_out {
    const char *name, *type; /* "F32", "BF16", "U8", "I64" */
    int n_dims;
    int64_t dims[4];
    const void *data;
} mr_tensor_out;
/* Atomic (fsafe.h). metadata: string values only, or NULL; {"format":"pt"} is always written. */
mr_status mr_safetensors_write(const char *path, const mr_tensor_out *tensors, int n, const cJSON *metadata,
                               mr_err *err);

float mr_bf16_to_f32(uint16_t x);
uint16_t mr_f32_to_bf16(float x); /* round to nearest even, NaN kept quiet */
float mr_f16_to_f32(uint16_t x);
uint16_t mr_f32_to_f16(float x);

#endif
