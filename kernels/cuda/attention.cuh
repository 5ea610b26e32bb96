/* attention.cuh - what attention.cu and attention_split.cu share: which keys a row sees, the chunks of a span, the merge of chunks,
 * and the lists of work that attention.cu makes for both. */
#ifndef MR_ATTENTION_CUH
#define MR_ATTENTION_CUH

#include "cuda/half.cuh"

enum { CHUNK = MR_KV_CHUNK };

__device__ inline int keys_seen(int n, int chunk) {
    int left = n - chunk * CHUNK;
    return left < 0 ? 0 : left > CHUNK ? CHUNK : left;
}

/* What all kernels below need. */
typedef struct attending {
    float *o, *lse;
    const float *q, *kv;
    const mr_span *spans;
    int ldq, H, K, D, G;
    int n_chunks; /* of work without a list, see item_of */
} attending;

/* Chunk number `chunk` of a span's prefix or own keys. */
typedef struct chunk_ref {
    int64_t index; /* in the store */
    int number, total;
    bool prefix;
} chunk_ref;

__host__ __device__ static inline int chunks_of(int n_keys) { return (n_keys + CHUNK - 1) / CHUNK; }

__device__ inline chunk_ref chunk_of(const mr_span &s, int number) {
    int before = chunks_of(s.n_prefix);
    chunk_ref c;
    c.prefix = number < before;
    c.number = c.prefix ? number : number - before;
    c.index = (c.prefix ? s.prefix_slot0 : s.slot0) / CHUNK + c.number;
    c.total = c.prefix ? s.n_prefix : s.past + s.n_rows;
    return c;
}

/* The running state (most, total) takes in one chunk (m, sum): factors for what is there and for what comes. */
__device__ inline void merge(float *most, float *total, float *keep, float *take, float m, float sum) {
    float now = fmaxf(*most, m);
    *keep = exp_below_88(*most - now);
    *take = exp_below_88(m - now);
    *total = fmaf(sum, *take, *total * *keep);
    *most = now;
}

/* What is known of a chunk for one row and head before the merge: D values, the maximum, the sum; and room, so that values begin at multiples of 32 bytes. */
static __host__ __device__ inline int part_size(int D) { return (D + 9) / 8 * 8; }

typedef struct tile_item {
    int span, first;
} tile_item;

typedef struct chunk_item {
    int span, number;
} chunk_item;

/* A block's chunk: of the list, or with none, as many blocks for each span as the longest may have chunks. */
__device__ inline chunk_item item_of(const attending &a, const chunk_item *items) {
    if (items) return items[blockIdx.x];
    chunk_item item = { (int)blockIdx.x / a.n_chunks, (int)blockIdx.x % a.n_chunks };
    return item;
}
/* False: there is no such chunk; the whole block leaves. */
__device__ inline bool has_chunk(const mr_span &s, const chunk_item &item) {
    return item.number < chunks_of(s.n_prefix) + chunks_of(s.past + s.n_rows);
}

typedef struct backward {
    float *dq, *dk, *dv, *delta, *parts;
    const float *d_o, *o, *lse, *q, *kv;
    const mr_span *spans;
    int lddq, lddkv, ldq, H, K, D, G;
    /* attention_split.cu: rows of q and d_o in halves, and lse with NaN for rows that are not finite */
    float *row_lse;
    uint16_t *rows;
    int64_t n_rows; /* N * H */
} backward;

/* dk and dv of one chunk or more neighbors from pairs [first, end) of one span, in order. To dk and dv, or to a share, whose rows are those of
 * the span's prefix or of its own keys: parts[share + key][dk: K * D, dv: K * D]. */
typedef struct share_item {
    int span, number, chunks; /* number: among the span's chunks, prefix first */
    int first, end;
    int64_t share;    /* row in parts; -1: dk and dv */
} share_item;

/* --- attention_split.cu: the same on tensor cores --- */

/* Whether it takes this shape: bf16 tensor cores, and head sizes whose tiles fit. One answer for all calls of a backend with this D, since
 * the store has another layout then. */
static inline bool split_takes(const mr_backend *b, int D) { return cu_of(b)->sm >= 80 && D <= 128 && !b->attention_f32; }

int split_many_tile(const mr_backend *b, int D); /* pairs of a tile_item of split_many */

size_t split_kv_bytes(int64_t n_slots, int K, int D);
void split_kv_put(mr_backend *b, void *kv, const float *k, const float *v, int ld, const int32_t *slots, int N, int K, int D);
void split_rope_put(mr_backend *b, void *kv, float *y, const float *x, const float *v, int ld, const float *wq, const float *wk, float eps,
                    const int32_t *pos, const float *inv_freq, const int32_t *slots, int N, int H, int K, int D);
void split_many(mr_backend *b, const attending *a, const tile_item *items, int n);
/* parts: for each item, key head and pair. */
void split_few(mr_backend *b, const attending *a, const chunk_item *items, int n, float *parts);
/* The same for spans [0, S) of one row each, span s row s, whose parts are n_chunks apart, each of G pairs. */
void split_step(mr_backend *b, const attending *a, int S, float *parts);
/* delta, row_lse and rows of w, from its q, d_o, o and lse; room: split_rows_bytes of device memory. */
size_t split_rows_bytes(int N, int H, int D);
void split_rows(mr_backend *b, backward *w, void *room, int N);
int split_dq_tile(const mr_backend *b, int D); /* pairs of a tile_item of split_dq */
void split_dq(mr_backend *b, const backward *w, const tile_item *items, int n);
int split_dkv_chunks(const mr_backend *b, int D); /* that a share_item of split_dkv may have */
void split_dkv(mr_backend *b, const backward *w, const share_item *items, int n);

#endif
