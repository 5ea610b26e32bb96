/* cache.h - the NF4 weights of a model in a file beside its own, so that they are quantized once. Private to runtime/model.
 *
 * What: codes, block maxima and scales of every stacked linear, byte for byte what weight_create makes (so a model opened from
 * the cache is bit-equal to one that was quantized again), on a GPU and a CPU alike. Embedding, head, norms and biases are read
 * from the model's files as before.
 * Where: MODEL/medrl.nf4, or FILE.gguf.nf4; where that folder may not be written, in $XDG_CACHE_HOME/medrl/weights, with a
 * part of a hash in the name; where mr_model_opts.cache says.
 * Trust: the file's head has the identity of the model's files (mr_tensors_identity), each weight a sum over its bytes; all of
 * it is looked at before the first weight is taken. What does not fit is one line and made again.
 * Writing: a thread, beside what follows the load; a temporary file of that name with ".tmp", locked, renamed when it is whole.
 * Nothing that goes wrong here fails a load: it is a warning.
 * Layout: a head of 256 bytes, the weights' parts each at a multiple of 64, the index; integers little-endian. */
#ifndef MR_CACHE_H
#define MR_CACHE_H

#include "base/threads.h"
#include "files/tensors.h"
#include "kernels.h"

typedef struct mr_cache mr_cache;

/* choice: "auto" (MEDRL_WEIGHT_CACHE, which may be the same words, takes its place), "off", or a folder. n_values: of all linears; with
 * "auto", small models have none. readers: share the work; NULL: the caller alone. *out is NULL when there is nothing to
 * do. err: only a choice that is not understood. */
mr_status mr_cache_open(mr_cache **out, const char *choice, const mr_tensors *t, int64_t n_values, mr_threads *readers, mr_err *err);
/* The stored parts of a weight; borrowed until close. False: not there, make it. */
bool mr_cache_find(const mr_cache *c, mr_nf4_part *part, const char *name, int64_t n_out, int64_t n_in);
/* A weight that was made, in the order of the load; b keeps it until close. Nothing when the cache is being read. */
void mr_cache_put(mr_cache *c, mr_backend *b, const mr_weight *w, const char *name);
/* All weights were put: the file gets its name when the thread is through. */
void mr_cache_end(mr_cache *c);
/* Waits for the thread. Without mr_cache_end before, nothing stays. NULL is fine. */
void mr_cache_close(mr_cache *c);
/* Whether weights come from a file. */
bool mr_cache_reads(const mr_cache *c);

/* For doctor: what "auto" would mean now, and where files go that may not lie beside the model's; owned by the caller. */
char *mr_cache_describe(void);

#endif
