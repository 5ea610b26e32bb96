/* cpu.h - what the files of the CPU backend share. Nothing above kernels/cpu includes it.
 *
 * State:   one cpu_state behind mr_backend.state: the instruction set in use, the thread count, scratch, the first
 *          failure.
 * Threads: an operation is a list of works for the pool (base/threads.h), with as many threads as cpu_threads allows.
 *          Which thread computes an element never changes how it is computed.
 * Failure: an operation starts with `if (cpu_failed(b)) return;`. */
#ifndef MR_CPU_H
#define MR_CPU_H

#include <pthread.h>

#include "base/memory.h"
#include "base/threads.h"
#include "kernels.h"

/* Ascending: each level contains those before it (CPU_AVX2: with FMA and F16C; CPU_AVX512: F, BW, DQ, VL; CPU_AMX: tiles
 * and their bf16 products). */
typedef enum cpu_isa { CPU_GENERIC, CPU_AVX2, CPU_AVX512, CPU_AVX512_BF16, CPU_AMX } cpu_isa;

/* Scratch slots: one a thread (its own number, 0 .. n_threads - 1), and some for a whole operation. Slots from
 * CPU_SLOT_SHARED on are asked for before a parallel region, thread slots inside or before it. */
enum { CPU_MAX_THREADS = MR_THREADS_MAX, CPU_SLOT_SHARED = CPU_MAX_THREADS, CPU_SLOT_SOURCE = CPU_MAX_THREADS + 3,
       CPU_N_SLOTS = CPU_MAX_THREADS + 4 };

typedef struct cpu_state {
    mr_backend b;     /* first member: the table that callers see */
    cpu_isa isa;
    int n_threads;
    mr_threads *pool;
    char device[128], arithmetic[32];
    struct { void *p; size_t bytes; } scratch[CPU_N_SLOTS];
    pthread_mutex_t fail_lock;
    bool failed;      /* set once, by cpu_fail */
    mr_status status;
    char message[512];
    struct cpu_slabs *slabs; /* memory of weights (slab.c); NULL before the first */
} cpu_state;

static inline cpu_state *cpu_of(const mr_backend *b) { return b->state; }
/* An operation of that name begins. */
static inline bool cpu_begin(const mr_backend *b, const char *op) {
    __atomic_store_n(&cpu_of(b)->b.op, op, __ATOMIC_RELAXED);
    __atomic_store_n(&cpu_of(b)->b.n_ops, b->n_ops + 1, __ATOMIC_RELAXED);
    return cpu_of(b)->failed;
}
#define cpu_failed(b) cpu_begin(b, __func__)

/* Opens the CPU, for mr_backend_open. */
mr_status cpu_open(mr_backend **out, int index, int n_threads, mr_err *err);

/* Keeps the first failure of an operation ("attention") with a message, MR_EINTERNAL; safe inside a parallel region. */
void cpu_fail(mr_backend *b, const char *op, const char *fmt, ...) MR_PRINTF(3, 4);
void cpu_fail_status(mr_backend *b, mr_status st, const char *op, const char *fmt, ...) MR_PRINTF(4, 5);

/* At least `bytes`, 64-byte aligned, not zeroed; valid until the slot is asked for again. Grows and then stays, so
 * that steps of the same shapes allocate nothing. NULL after keeping the failure when memory is out. */
void *cpu_scratch(mr_backend *b, int slot, size_t bytes);
/* The same without keeping a failure. */
void *cpu_try_scratch(mr_backend *b, int slot, size_t bytes);
/* Makes a slot ready for this size and not more; CPU_SLOT_THREADS: that of every thread, so that which thread comes
 * first never decides when memory is taken. */
enum { CPU_SLOT_THREADS = -1 };
bool cpu_reserve(mr_backend *b, int slot, size_t bytes);
/* Keeps the table's account of memory: + taken, - given back. */
void cpu_count(mr_backend *b, int64_t bytes);

/* How many threads a region gets: 1 when `work` (about one unit a nanosecond) is too small to share. */
int cpu_threads(const mr_backend *b, double work);

/* n items in multiples of `unit`, a few pieces for each thread. */
static inline int64_t cpu_grain(int64_t n, int64_t unit, int n_threads) {
    int64_t piece = (n + 4 * n_threads - 1) / (4 * n_threads);
    return n_threads > 1 && piece > unit ? (piece + unit - 1) / unit * unit : n_threads > 1 ? unit : n < 1 ? 1 : n;
}

/* One work: about `cost` nanoseconds, in multiples of `unit` items. */
static inline void cpu_share(mr_backend *b, double cost, void (*fn)(void *ctx, int thread, int64_t from, int64_t to),
                             void *ctx, int64_t n, int64_t unit) {
    int n_threads = cpu_threads(b, cost);
    mr_work w = { fn, ctx, n, cpu_grain(n, unit, n_threads) };
    mr_parallel(cpu_of(b)->pool, n_threads, &w, 1);
}

/* bf16 and back. Rounds to nearest, ties to even; NaN stays NaN. */
static inline uint16_t cpu_to_bf16(float f) {
    uint32_t u;
    __builtin_memcpy(&u, &f, 4);
    uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, quiet = (u >> 16) | 0x40u;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}
static inline float cpu_from_bf16(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    __builtin_memcpy(&f, &u, 4);
    return f;
}

/* To f16 and back: to nearest, ties to even; from 65520 on infinity; below 2^-14 steps of 2^-24; NaN stays NaN. */
static inline float cpu_round_f16(float f) {
    uint32_t u, sign;
    __builtin_memcpy(&u, &f, 4);
    sign = u & 0x80000000u;
    u ^= sign;
    float size, small;
    __builtin_memcpy(&size, &u, 4);
    small = (size + 0.5f) - 0.5f; /* the last place of a float in [0.5, 1) is 2^-24 */
    u = (u + 0xfffu + ((u >> 13) & 1u)) & ~0x1fffu;
    if (u >= 0x47800000u) u = size != size ? 0x7fc00000u : 0x7f800000u; /* 65536 */
    if (size < 0x1p-14f) __builtin_memcpy(&u, &small, 4);
    u |= sign;
    __builtin_memcpy(&f, &u, 4);
    return f;
}
static inline void cpu_round_f16_n(float *dst, const float *src, int64_t n) {
    for (int64_t i = 0; i < n; i++) dst[i] = cpu_round_f16(src[i]);
}

/* bitsandbytes' 256 values of the 8-bit dynamic map, ascending (spec/quantization.md, 5.2). */
void cpu_dynamic_map(float map[256], bool is_signed);

/* --- weights (weights.c, nf4.c) --- */
mr_status cpu_weight_create(mr_backend *b, mr_weight **out, mr_weight_source src, int64_t n_out, int64_t n_in, int64_t more,
                            mr_dtype store, mr_dtype compute, unsigned uses, mr_err *err);
mr_status cpu_weight_adopt(mr_backend *b, mr_weight **out, const mr_nf4_part *parts, int n, int64_t n_out, int64_t n_in,
                           mr_dtype compute, unsigned uses, mr_err *err);
void cpu_weight_free(mr_backend *b, mr_weight *w);
mr_weight_info cpu_weight_info(const mr_weight *w);
size_t cpu_weight_room(mr_backend *b, mr_weight_info *w, mr_room *room);
void cpu_weight_set(mr_backend *b, const mr_weight_values *all, int n);
void cpu_weight_rows(mr_backend *b, float *dst, const mr_weight *w, int64_t row, int64_t n);
bool cpu_weight_nf4(const mr_weight *w, const uint8_t **codes, const uint8_t **absmax, const float **nested,
                    float *offset);

/* --- the operations, as kernels.h describes them --- */
void cpu_embed(mr_backend *b, float *x, const mr_weight *w, const int32_t *ids, int N);
void cpu_rmsnorm(mr_backend *b, float *y, int ldy, const float *x, int ldx, const float *w, int N, int C, float eps);
void cpu_head_norm(mr_backend *b, float *y, const float *x, int ld, const float *wq, const float *wk, int N, int H, int K, int D, float eps);
void cpu_rope(mr_backend *b, float *x, int ldx, const int32_t *pos, const float *inv_freq, int N, int H, int D,
              bool inverse);
void cpu_linear(mr_backend *b, float *y, float *u, const float *x, const mr_linear *l, int N, const float *onto);
bool cpu_mlp(mr_backend *b, float *y, const float *x, const mr_gated *m, int N, const float *onto);
bool cpu_mlp_bwd(mr_backend *b, float *dx, const float *dy, const float *x, const mr_gated *m, int N, bool again);
void cpu_silu_mul(mr_backend *b, float *y, const float *gu, int N, int F);
void cpu_add(mr_backend *b, float *y, const float *x, int64_t n);
size_t cpu_kv_bytes(mr_backend *b, int64_t n_slots, int K, int D);
size_t cpu_attention_bwd_scratch(int head_dim); /* of one thread */
void cpu_kv_put(mr_backend *b, void *kv, int64_t n_slots, const float *k, const float *v, int ld, const int32_t *slots,
                int N, int K, int D);
void cpu_attention(mr_backend *b, float *o, float *lse, const float *q, int ldq, const void *kv, int64_t n_slots,
                   const mr_span *spans, int S, int H, int K, int D);
void cpu_head_norm_bwd(mr_backend *b, float *dx, float *dwq, float *dwk, const float *dy, const float *x, int ld, const float *wq,
                       const float *wk, int N, int H, int K, int D, float eps);
void cpu_rmsnorm_bwd(mr_backend *b, float *dx, int lddx, float *dw, const float *dy, int lddy, const float *x, int ldx,
                     const float *w, int N, int C, float eps);
void cpu_linear_bwd(mr_backend *b, float *dx, float *du, const float *dy, const float *x, const float *u,
                    const mr_linear *l, int N, bool add);
void cpu_silu_mul_bwd(mr_backend *b, float *dgu, const float *dy, const float *gu, int N, int F);
void cpu_attention_bwd(mr_backend *b, float *dq, int lddq, float *dk, float *dv, int lddkv, const float *d_o,
                       const float *o, const float *lse, const float *q, int ldq, const void *kv, int64_t n_slots,
                       const mr_span *spans, int S, int N, int H, int K, int D);
void cpu_embed_bwd(mr_backend *b, float *dw, const float *dx, const int32_t *ids, int N, int C);
void cpu_logprob(mr_backend *b, float *logp, float *entropy, float *lse, const float *z, const int32_t *targets,
                 float inv_t, int N, int V);
void cpu_logprob_bwd(mr_backend *b, float *z, const float *lse, const int32_t *targets, const float *dlogp, float inv_t,
                     int N, int V);
void cpu_sample(mr_backend *b, int32_t *ids, float *logp, const float *z, const float *u, const mr_sampling *opt,
                const int32_t *const *history, const int32_t *n_history, int N, int V);
double cpu_sum_squares(mr_backend *b, const float *x, int64_t n, bool *all_finite);
void cpu_adamw(mr_backend *b, const mr_adamw_tensor *all, int n, const mr_adamw *opt);

#endif
