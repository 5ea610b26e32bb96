/* writer.h - model files that are larger than memory: the list of tensors first, then their bytes one after another.
 *
 * The file is written under its own name and is not whole before mr_writer_end: write into a folder that is put in
 * place with mr_dir_commit.
 * Source: spec/formats.md 7.1 (safetensors), 7.2 (GGUF v3, alignment 32).
 * Errors: MR_EIO with path and reason; MR_EINVAL for tensors that the container cannot hold. Ownership: a writer is
 *         ended or dropped, not both. Threads: one. */
#ifndef MR_WRITER_H
#define MR_WRITER_H

#include "files/tensors.h"

typedef struct mr_writer mr_writer;

/* GGUF metadata in the making; zeroed = empty, clear with mr_gguf_meta_clear. Keys are the caller's to keep unique. */
typedef struct mr_gguf_meta {
    mr_str bytes;
    uint64_t n;
} mr_gguf_meta;
void mr_gguf_put_u32(mr_gguf_meta *m, const char *key, uint32_t x);
void mr_gguf_put_f32(mr_gguf_meta *m, const char *key, float x);
void mr_gguf_put_bool(mr_gguf_meta *m, const char *key, bool x);
void mr_gguf_put_text(mr_gguf_meta *m, const char *key, const char *text);
/* n more elements follow, each with mr_gguf_add_text. */
void mr_gguf_begin_texts(mr_gguf_meta *m, const char *key, uint64_t n);
void mr_gguf_add_text(mr_gguf_meta *m, const char *text, size_t len);
void mr_gguf_put_i32s(mr_gguf_meta *m, const char *key, const int32_t *x, size_t n);
void mr_gguf_meta_clear(mr_gguf_meta *m);

/* The name that a GGUF has for a tensor of Hugging Face's name (the way back from tensors.h); false when there is
 * none. */
bool mr_gguf_name(char *out, size_t out_len, const char *hf_name);

/* tensors[n]: data is not looked at; types are those of quantize.h, dims slowest first, names of at most 63 bytes. */
mr_status mr_gguf_create(mr_writer **out, const char *path, const mr_gguf_meta *meta, const mr_tensor_out *tensors,
                         int n, mr_err *err);
/* As mr_safetensors_write, but for the order, which is the caller's. */
mr_status mr_safetensors_create(mr_writer **out, const char *path, const mr_tensor_out *tensors, int n, mr_err *err);
/* The next bytes of the tensors, in the order of the list; pieces may end anywhere within a tensor. */
mr_status mr_writer_put(mr_writer *w, const void *bytes, size_t len, mr_err *err);
size_t mr_writer_bytes(const mr_writer *w); /* of the whole file */
/* Checks that all bytes have come, syncs and closes; the writer is gone after, on failure too. */
mr_status mr_writer_end(mr_writer *w, mr_err *err);
void mr_writer_drop(mr_writer *w); /* NULL is fine; the file is removed */

#endif
