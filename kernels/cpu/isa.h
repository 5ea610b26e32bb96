/* isa.h - the hot loops of the CPU backend, once per instruction set.
 *
 * The *.c files of the operations check shapes, share the work between threads and call these; the loops themselves stand in the *.inc files,
 * written over vec.h and compiled by isa_avx512.c, isa_avx2.c and isa_generic.c. Results are equal for any split of the rows
 * within one instruction set, not across them. */
#ifndef MR_CPU_ISA_H
#define MR_CPU_ISA_H

#include "cpu/cpu.h"

/* Pairs (row, head) that attention handles together, and the largest head size. */
enum { CPU_ATT_PAIRS = 24, CPU_MAX_D = 256, CPU_KEYS = 16 /* keys in a tile */ };

/* What one chunk of a layer's store holds for one key head: K in tiles of 16 keys, [4][D][16], then V [64][Dp]; Dp = D rounded up to 16. */
static inline int cpu_pad16(int n) { return (n + 15) & ~15; }
static inline size_t cpu_chunk_floats(int D) { return (size_t)MR_KV_CHUNK * (size_t)(D + cpu_pad16(D)); }
static inline size_t cpu_chunk_at(int64_t chunk, int kh, int K, int D) {
    return ((size_t)chunk * (size_t)K + (size_t)kh) * cpu_chunk_floats(D);
}

/* The prefix's chunks, which all queries of a block see. */
typedef struct cpu_att_keys {
    const float *kv;              /* the layer's store */
    int K, kh, D;
    int64_t prefix_chunk;
    int n_prefix;
} cpu_att_keys;

/* Up to CPU_ATT_PAIRS queries of one key head, in the order (row, head). own[i]: how many keys query i sees in its own
 * chunks, which begin at own_chunk[i]; ascending among neighbors that have the same. */
typedef struct cpu_att_queries {
    int n;
    const float *q[CPU_ATT_PAIRS];
    int own[CPU_ATT_PAIRS];
    int64_t own_chunk[CPU_ATT_PAIRS];
    float *o[CPU_ATT_PAIRS];
    float *lse[CPU_ATT_PAIRS];    /* NULL: not wanted */
} cpu_att_queries;

/* The same for the backward pass through one chunk, of which query i sees the first seen[i] keys. */
typedef struct cpu_att_grads {
    int n;
    const float *q[CPU_ATT_PAIRS], *d_o[CPU_ATT_PAIRS];
    float lse[CPU_ATT_PAIRS], delta[CPU_ATT_PAIRS]; /* delta = sum over d of d_o * o */
    float *dq[CPU_ATT_PAIRS];     /* added to; NULL: not wanted (all or none) */
    int seen[CPU_ATT_PAIRS];      /* ascending, at least 1 */
} cpu_att_grads;

/* One chunk of keys with what the backward pass needs beside K's tiles: V in tiles [4][D][16], K by rows [64][Dp], and the
 * gradients dk, dv [64][Dp], added to. */
typedef struct cpu_att_chunk {
    int D, n_keys;                /* keys of the chunk that exist */
    const float *k_tiles;
    float *v_tiles, *k_rows;
    float *dk, *dv;               /* NULL: not wanted */
} cpu_att_chunk;

typedef struct cpu_kernels {
    const char *name;

    void (*rmsnorm)(float *y, int ldy, const float *x, int ldx, const float *w, int n, int C, float eps);
    void (*rmsnorm_dx)(float *dx, int lddx, float *inv_rms, const float *dy, int lddy, const float *x, int ldx, const float *w,
                       int n, int C, float eps);
    void (*rmsnorm_dw)(float *dw, const float *inv_rms, const float *dy, int lddy, const float *x, int ldx, int n, int c0,
                       int c1);
    void (*rope)(float *x, int ldx, const int32_t *pos, const float *inv_freq, int n, int H, int D, bool inverse);
    void (*silu_mul)(float *y, const float *gu, int n, int F);
    void (*silu_mul_bwd)(float *dgu, const float *dy, const float *gu, int n, int F);
    /* pieces of one row, for mlp.c: act = silu(g) * up; and with its gradients from dact */
    void (*gate)(float *act, const float *g, const float *up, int n);
    void (*gate_bwd)(float *act, float *dg, float *dup, const float *dact, const float *g, const float *up, int n);
    void (*add)(float *y, const float *x, int64_t n);

    void (*attention)(const cpu_att_keys *keys, const cpu_att_queries *q);
    void (*attention_open)(cpu_att_chunk *c, const float *v_rows);
    void (*attention_bwd)(cpu_att_chunk *c, const cpu_att_grads *g);
    float (*dot)(const float *a, const float *b, int n);

    float (*max)(const float *x, int n);
    void (*exp_shift)(float *y, const float *x, float scale, float shift, int n);     /* y = e^(scale x - shift) */
    float (*exp_sum)(const float *x, float scale, float shift, int n, float *weighted); /* sum e^a; weighted: sum a e^a */
    void (*softmax_bwd)(float *z, float inv_t, float lse, float factor, int n);       /* z = factor * e^(z inv_t - lse) */

    void (*adamw)(float *p, float *m, float *v, const float *g, int64_t n, const mr_adamw *opt);
    /* m, v of one block, and p's update with them (bitsandbytes' form): see optimizer.c */
    void (*adamw_block)(float *p, float *m, float *v, const float *g, int n, const mr_adamw *opt, float step_size,
                        float eps_scaled);
    /* 8-bit states of a block: x = value[code] * scale; code = that of x / most by a map's limits (maps.h), where with
     * `value` a number keeps its sign; most of |x| */
    void (*decode8)(float *x, const uint8_t *code, const float *value, float scale, int n);
    void (*encode8)(uint8_t *code, const float *limit, const float *value, const float *x, float most, int n);
    float (*largest)(const float *x, int n);
} cpu_kernels;

extern const cpu_kernels cpu_kernels_avx512, cpu_kernels_avx2, cpu_kernels_generic;

static inline const cpu_kernels *cpu_kernels_of(const mr_backend *b) {
#if defined __x86_64__
    cpu_isa isa = cpu_of(b)->isa;
    if (isa >= CPU_AVX512) return &cpu_kernels_avx512;
    if (isa >= CPU_AVX2) return &cpu_kernels_avx2;
#else
    (void)b;
#endif
    return &cpu_kernels_generic;
}

#endif
