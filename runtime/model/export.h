/* export.h - a model and its adapter to the files that other programs open: merged 16-bit safetensors, or one GGUF.
 *
 * W' = W + scale * B @ A, summed in f32 over the rank, rounded once to the type that is written (spec/quantization.md
 * 5.6 "Merge"). Weights go tensor by tensor, a few megabytes at a time: the memory does not grow with the model.
 * GGUF: architectures llama, qwen2 and qwen3 with tokenizer and chat template; q and k rows of llama in llama.cpp's
 * order (spec/models.md 1.3). Vectors are F32. q4_k_m is llama.cpp's mix: Q4_K; Q6_K for the head (or a tied
 * embedding) and for v and down of the layers that matter more; rows that do not split into 256 take Q5_0 for Q4_K
 * and Q8_0 for Q6_K, rows that do not split into 32 F16.
 * Writing: plain files below a folder that the caller puts in place (mr_dir_commit).
 * Errors: MR_EDATA naming the tensor that is missing, does not fit or holds no finite number; MR_EIO. Threads: one
 * caller. */
#ifndef MR_EXPORT_H
#define MR_EXPORT_H

#include "model/model.h"
#include "text/tokenizer.h"

typedef struct mr_export_opts {
    const char *base;    /* folder or .gguf with the base weights; 16-bit ones are the point of it */
    const char *adapter; /* PEFT folder; NULL: the base alone */
    const char *type;    /* "f32", "f16", "bf16"; of a GGUF also "q8_0", "q4_0", "q4_k_m" */
    const char *name;    /* what the metadata of a GGUF call the model */
    size_t shard_bytes;  /* safetensors files are no larger than this (but for a single tensor); 0: 5 GB */
    int n_threads;       /* 0: one */
    bool (*progress)(void *self, size_t done, size_t all); /* bytes written; false stops (MR_ESIGNAL). May be NULL */
    void *self;
} mr_export_opts;

/* "bf16" or "f16", what the base is stored in (bf16 unless most of it is F16). */
mr_status mr_export_type(const char **type, const char *base, mr_err *err);
/* Whether the base itself is quantized, so that a merge of it keeps that loss. */
mr_status mr_export_is_quantized(bool *is, const char *base, mr_err *err);
/* Bytes of all weights that would be written. */
mr_status mr_export_bytes(size_t *bytes, bool gguf, const mr_export_opts *o, mr_err *err);
/* Into the folder dir, which exists: model.safetensors or shards with their index, config.json, tokenizer and
 * generation settings. */
mr_status mr_export_merged(const char *dir, const mr_export_opts *o, mr_err *err);
mr_status mr_export_gguf(const char *path, const mr_export_opts *o, mr_err *err);

#endif
