/* lt.h - cuBLASLt behind a probe: lt.c. */
#ifndef MR_CUDA_LT_H
#define MR_CUDA_LT_H

#include "cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cu_lt cu_lt;

enum { CU_LT_ROWS = 9 };              /* fewer rows are the own kernels' */
enum { CU_LT_WORKSPACE = 32 << 20 };

/* One segment: y[n_rows, n_cols] = x @ w^T, or x @ w when backward, plus onto where it is not NULL; as dense_product in gemm.cuh. */
typedef struct cu_lt_product {
    float *y;
    const uint16_t *x, *w;
    int64_t ldy, ldx, ldw, n_rows, n_cols, k;
    bool f16, backward;
    const float *onto;
    int n_batch;       /* above 1: so many products in one launch, each with the next k columns of x and w, to planes of y that are */
    int64_t step_y;    /* step_y apart; not backward */
    float alpha; /* a factor of the sum; with onto the own kernel rounds once, the library twice: equal for powers of two, and probed */
} cu_lt_product;

/* The same product, one of n_batch, by the own kernel. */
typedef void (*cu_lt_own)(mr_backend *b, const cu_lt_product *p, const void *ctx);

/* False when the library is not there, does not give the own kernel's bits for this shape, or refuses: nothing is written then. */
bool cu_lt_product_run(mr_backend *b, const cu_lt_product *p, cu_lt_own own, const void *ctx);
void cu_lt_close(mr_backend *b);
/* Opens the library now, with its workspace, not in the first large product. */
void cu_lt_open(mr_backend *b);
/* Only loads it, for whoever comes later: in any thread. */
void cu_lt_load(void);
/* False when it is known that it will not serve. */
bool cu_lt_there(const mr_backend *b);

/* dense.cu: a sum that tells whether two buffers hold the same bits in the same places. False after a failure. Synchronous. */
bool cu_bits_sum(mr_backend *b, const float *x, int64_t n, uint64_t *sum);

#ifdef __cplusplus
}
#endif
#endif
