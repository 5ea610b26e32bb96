/* dnnl.h - oneDNN as the second engine for products with dense weights (gemm.h is the first). Loaded when the first
 * weight wants it.
 *
 * When:    MEDRL_CPU_GEMM=dnnl asks for it, =own forbids it; otherwise it is used on CPUs with AMX, whose tiles our
 *          own kernels do not use.
 * Proof:   a packed weight is probed: rows of a few products with few rows must have the bits that they have among 64
 *          rows. A weight that fails goes to our own kernels (measured: oneDNN 2.6 keeps the rule on AVX-512 and
 *          breaks it on AVX2).
 * Memory:  the plain rows stay beside the packed ones, for look-ups and for new values. */
#ifndef MR_CPU_DNNL_H
#define MR_CPU_DNNL_H

#include "cpu/weights.h"

/* Whether this weight should go to oneDNN: dense, large, of a type that the CPU multiplies natively, and the library
 * is there. */
bool cpu_dnnl_serves(mr_backend *b, const mr_weight *w);

/* Packs w->rows for the uses of w. *kept = false when the probe failed: nothing is packed then. */
mr_status cpu_dnnl_pack(mr_backend *b, mr_weight *w, bool *kept, mr_err *err);
void cpu_dnnl_repack(mr_backend *b, mr_weight *w); /* after w->rows changed */
void cpu_dnnl_weight_free(mr_backend *b, mr_weight *w);
void cpu_dnnl_close(mr_backend *b);

/* y[N, cols] = x @ w^T (backward: x @ w) + bias, plus y when add. x is f32 or bf16 like the weight; y is dense. False
 * after keeping the failure. */
bool cpu_dnnl_product(mr_backend *b, const char *op, const mr_weight *w, bool backward, float *y, const void *x,
                      int64_t ldx, int64_t n_rows, const float *bias, bool add);

#endif
