/* half.cuh - how kernels read a weight, element by element, and rows in 16 bits. */
#ifndef MR_HALF_CUH
#define MR_HALF_CUH

#include "cuda/device.cuh"

/* What a kernel needs of a weight. */
typedef struct weight_view {
    int store, compute;
    int64_t n_in, ld;
    const void *data;
    const uint8_t *codes, *absmax;
    const float *nested, *tables;
    float offset;
    bool tiled;
    const float *offsets;
} weight_view;

static inline weight_view view_of(const mr_weight *w) {
    weight_view v = { w->store, w->compute, w->n_in, w->ld, w->data, w->nf4.codes, w->nf4.absmax, w->nf4.nested,
                      cu_of(w->b)->tables, w->nf4.offset, w->nf4.tiled, w->nf4.offsets };
    return v;
}

/* Packed rows are in the order of mma's operands, as lanes read them: for every 8 rows and every 32 columns ("a pair" of steps) 16 bytes of
 * each lane, which has row lane / 4 and columns 2 (lane % 4) and the next of every 8. Rows up to a multiple of 8 have room. (Unsigned: half the instructions.) */
__device__ inline unsigned packed_at(unsigned row, unsigned col, unsigned pairs) {
    return ((row / 8 * pairs + col / 32) * 32 + row % 8 * 4 + col % 8 / 2) * 8 + col % 32 / 8 * 2 + col % 2;
}
/* Cores are for wgmma: 8 rows x 8 columns, row after row, in blocks of 64 columns, each with those of every 8 rows after each other. */
__device__ inline unsigned core_at(unsigned row, unsigned col, unsigned eights) {
    return ((col / 64 * eights + row / 8) * 8 + col % 64 / 8) * 64 + row % 8 * 8 + col % 8;
}
/* A kernel's second output: n_rows rows of k values. at NULL: none. */
typedef struct packed_rows {
    u16 *at;
    int type, layout, eights, k;
} packed_rows;
static inline packed_rows packed_rows_for(mr_backend *b, const char *op, int n_rows, int64_t k) {
    packed_rows p = { cu_packed_wanted(b, op, n_rows, k), half_type(cu_of(b)->packed.type), cu_of(b)->packed.layout, (n_rows + 7) / 8, (int)k };
    return p;
}
/* The same for rows of a gradient: plain, p.k apart, which leaves room behind them. */
static inline packed_rows gradient_rows_for(mr_backend *b, const char *op, const float *rows, int n_rows, int64_t k) {
    mr_dtype type = MR_F32;
    int64_t ld = 0;
    packed_rows p = { cu_gradient_wanted(b, op, rows, n_rows, k, &type, &ld), half_type(type), CU_PLAIN, 0, (int)ld };
    return p;
}
/* Kernels are compiled for each layout: with all three in one, rmsnorm of 6 rows took 0.8 us more. */
template <int LAYOUT> __device__ inline void put_packed(const packed_rows &p, int row, int col, float v) {
    if (!p.at) return;
    unsigned at = LAYOUT == CU_PLAIN ? (unsigned)(row * p.k + col) : LAYOUT == CU_CORES ? core_at(row, col, p.eights) : packed_at(row, col, p.k / 32);
    p.at[at] = (u16)(p.type == F16 ? pack2<F16>(v, 0) : pack2<BF16>(v, 0)); /* an instruction each from sm_80 on */
}
template <int LAYOUT> struct layout_is {
    enum { value = LAYOUT };
};
/* launch(a layout_is of p's layout) */
template <typename F> static inline void by_layout(const packed_rows &p, F launch) {
    switch (p.layout) {
    case CU_CORES: launch(layout_is<CU_CORES>()); break;
    case CU_PLAIN: launch(layout_is<CU_PLAIN>()); break;
    default: launch(layout_is<CU_PACKED>());
    }
}

/* Where the byte of (row, col) and (row, col + 1) lies among tiles (weights.cu). col is even. */
static __host__ __device__ inline int64_t nf4_tiled_at(int64_t row, int64_t col, int64_t n_in) {
    int64_t tile = row / 16 * (n_in / 64) + col / 64;
    int byte = (int)(col % 64) / 2, lane = (int)(row % 8) * 4 + byte % 4;
    return tile * 512 + lane * 16 + row % 16 / 8 * 8 + byte / 4;
}

/* The maximum of a block of 64, from its two levels. */
__device__ inline float nf4_scale(const weight_view &w, int64_t block) {
    return w.tables[CU_MAP + w.absmax[block]] * w.nested[block / 256] + (w.offsets ? w.offsets[block / 256] : w.offset);
}

/* Those of N blocks, `step` apart: all loads are on their way together. Where each is stored before the next is loaded they
 * wait for each other, since a byte may be anything: 8 of them cost 9 us on an H100. */
template <int N> struct nf4_scales {
    uint8_t code[N];
    float nested[N];
    int first, step;

    __device__ void load(const weight_view &w, int block, int blocks) {
        first = block, step = blocks;
#pragma unroll
        for (int i = 0; i < N; i++) code[i] = w.absmax[block + i * step];
#pragma unroll
        for (int i = 0; i < N; i++) nested[i] = w.nested[(block + i * step) / 256];
    }
    __device__ float of(const weight_view &w, int i) const {
        return w.tables[CU_MAP + code[i]] * nested[i] + (w.offsets ? w.offsets[(first + i * step) / 256] : w.offset);
    }
};

/* One element as products see it. */
__device__ inline float weight_value(const weight_view &w, int64_t row, int64_t col) {
    if (w.store == MR_F32) return ((const float *)w.data)[row * w.ld + col];
    if (w.store == MR_BF16) return from_half<BF16>(((const u16 *)w.data)[row * w.ld + col]);
    if (w.store == MR_F16) return from_half<F16>(((const u16 *)w.data)[row * w.ld + col]);
    int64_t at = row * w.n_in + col;
    int byte = w.codes[w.tiled ? nf4_tiled_at(row, col & ~(int64_t)1, w.n_in) : at / 2];
    float v = w.tables[CU_NF4 + (byte >> (at & 1 ? 0 : 4) & 15)] * nf4_scale(w, at / 64);
    if (w.compute == MR_BF16) return from_half<BF16>(to_half<BF16>(v));
    if (w.compute == MR_F16) return from_half<F16>(to_half<F16>(v));
    return v;
}

/* dst[rows][ld] in 16 bits from src[rows][lds]: `width` columns, an even number, zeros from `cols` on. */
void cu_to_half(mr_backend *b, const char *op, int type, u16 *dst, int64_t ld, int64_t width, const float *src, int64_t lds,
                int64_t rows, int64_t cols);

#endif
