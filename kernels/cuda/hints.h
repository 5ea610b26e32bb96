/* hints.h - which algorithm of cuBLASLt was chosen for a product by an earlier process: tried first, and proven as any other.
 *
 * Choosing takes up to eight algorithms through the probe, each with a kernel to load, a third of a second in the first step of a run;
 * a hint takes one. What lies in the file is only a proposal: lt.c probes it against our own kernel on the present device, so results are the
 * same with it, without it and with a wrong one.
 * File: $XDG_CACHE_HOME/medrl/products-HASH.bin (~/.cache), one for a device, driver and library; written when the device is closed. One that
 * is damaged or of something else is not looked at. Failures to read or write are silent. MEDRL_CUDA_HINTS=0: neither.
 * Threads: the one that drives the device. */
#ifndef MR_CUDA_HINTS_H
#define MR_CUDA_HINTS_H

#include "cuda/lt.h"

enum { CU_ALGO_WORDS = 8, CU_MAX_HINTS = 512 };

typedef struct cu_hint {
    int64_t n_rows, n_cols, k, ldx, ldw, ldy;
    float alpha;
    uint32_t flags; /* 1: f16, 2: backward */
    uint64_t algo[CU_ALGO_WORDS];
} cu_hint;

typedef struct cu_hints cu_hints;

/* version: of the library. NULL without memory, or when they are off. */
cu_hints *cu_hints_open(const mr_backend *b, uint64_t version);
/* algo[CU_ALGO_WORDS] of a shape; false: none. p's pointers are not looked at. */
bool cu_hints_find(const cu_hints *h, const cu_lt_product *p, uint64_t *algo);
void cu_hints_note(cu_hints *h, const cu_lt_product *p, const uint64_t *algo);
/* Writes the file when something new was noted. NULL is fine. */
void cu_hints_close(cu_hints *h);

#endif
