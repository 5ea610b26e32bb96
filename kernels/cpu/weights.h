/* weights.h - what is behind mr_weight on the CPU, and NF4. */
#ifndef MR_CPU_WEIGHTS_H
#define MR_CPU_WEIGHTS_H

#include "cpu/gemm.h"

enum { NF4_BLOCK = 64, NF4_NESTED = 256 };

typedef struct nf4_data {
    uint8_t *codes;  /* [ceil(O*I/2)], high nibble first */
    uint8_t *absmax; /* [n_blocks], indices into the signed dynamic map */
    float *nested;   /* [ceil(n_blocks/256)] */
    float offset;
    float *offsets;  /* one for each of nested, of a stack whose parts have their own; NULL: offset for all */
    int64_t n, n_blocks;
} nf4_data;

struct mr_weight {
    mr_dtype store, compute;
    int64_t n_out, n_in;
    unsigned uses;
    size_t bytes;
    bool counted;    /* bytes are in the backend's account */
    void *fwd, *bwd; /* panels of w and of w^T; NULL when that use was not asked for */
    void *rows;      /* row-major, for look-ups only, when there are no panels */
    nf4_data nf4; /* store NF4 */
};

/* The type of panels: what the products of this weight read. f16 lies as f32, rounded when it is stored: the CPU is its
 * specification, not a place to be fast in it. */
static inline mr_dtype weight_panel_type(const mr_weight *w) {
    mr_dtype t = w->store == MR_NF4 ? w->compute : w->store;
    return t == MR_F16 ? MR_F32 : t;
}

/* Scratch that linear and linear_bwd ask for with a weight (linear.c): the rows' lower views and what attention and
 * norms of as many rows want, the adapters' inner values, one thread's part. */
typedef struct cpu_linear_room {
    size_t rows, inner, thread;
} cpu_linear_room;
cpu_linear_room cpu_linear_needs(mr_backend *b, const mr_weight_info *w, const mr_room *room);

/* Memory of weights (slab.c): as mr_try_alloc and mr_free. */
void *cpu_slab_alloc(mr_backend *b, size_t bytes);
void cpu_slab_free(mr_backend *b, void *p);
void cpu_slabs_close(mr_backend *b);

extern const float nf4_values[16];
extern const float *nf4_nested_map(void); /* the signed dynamic map */

/* Quantizes whole blocks: values[n] (n a multiple of 64 but at the end of the matrix) begin at element `at`, a
 * multiple of 64. Writes codes and the blocks' maxima. */
void nf4_quantize(uint8_t *codes, float *absmax, const float *values, int64_t at, int64_t n);
/* absmax[n_blocks] -> q->absmax, q->nested, q->offset: spec/quantization.md, 5.3. Destroys absmax. */
void nf4_quantize_absmax(nf4_data *q, float *absmax);
/* dst[n] = elements [at, at + n) of the matrix. */
void nf4_dequantize(float *dst, const nf4_data *q, int64_t at, int64_t n);
/* Steps [k0, k0 + k) of panel `index` of w (or of w^T) at `panel`, in the weight's compute type. scratch: GEMM_K_BLOCK
 * floats. */
void nf4_panel(const gemm_kernels *kernels, void *panel, float *scratch, const mr_weight *w, bool backward,
               int64_t index, int64_t k0, int64_t k);

#endif
