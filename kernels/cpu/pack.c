/* pack.c - matrices into panels (gemm.h) and rows out of them. */
#include <assert.h>

#include "cpu/gemm.h"

void gemm_pack_block(const gemm_kernels *kernels, void *panel, mr_dtype type, const float *src, int64_t ld, int64_t n,
                     int64_t k) {
    assert(n <= GEMM_COLS);
    if (type == MR_F32) {
        float *to = panel;
        for (int64_t k0 = 0; k0 < k; k0 += 16) {
            int64_t kn = k - k0 < 16 ? k - k0 : 16;
            for (int64_t c = 0; c < n; c++)
                for (int64_t i = 0; i < kn; i++) to[(k0 + i) * GEMM_COLS + c] = src[c * ld + k0 + i];
        }
        if (n < GEMM_COLS)
            for (int64_t i = 0; i < k; i++)
                __builtin_memset(to + i * GEMM_COLS + n, 0, (size_t)(GEMM_COLS - n) * sizeof *to);
        return;
    }
    /* bf16: a step of one column is two neighbors of a row, one 32-bit word. Blocks of 64 k stay in the first cache. */
    uint32_t *to = panel;
    int64_t steps = gemm_steps(k, MR_BF16);
    for (int64_t s0 = 0; s0 < steps; s0 += 32) {
        int64_t sn = steps - s0 < 32 ? steps - s0 : 32;
        for (int64_t c = 0; c < n; c++) {
            const float *from = src + c * ld + 2 * s0;
            uint16_t half[64];
            int64_t valid = k - 2 * s0 < 64 ? k - 2 * s0 : 64;
            kernels->to_bf16(half, from, valid);
            if (valid & 1) half[valid] = 0;
            for (int64_t i = 0; i < sn; i++) {
                uint32_t pair; /* two neighbors, as they lie in memory */
                __builtin_memcpy(&pair, half + 2 * i, sizeof pair);
                to[(s0 + i) * GEMM_COLS + c] = pair;
            }
        }
    }
    if (n < GEMM_COLS)
        for (int64_t i = 0; i < steps; i++)
            __builtin_memset(to + i * GEMM_COLS + n, 0, (size_t)(GEMM_COLS - n) * sizeof *to);
}

void gemm_pack_block_bwd(const gemm_kernels *kernels, void *panel, mr_dtype type, const float *src, int64_t ld,
                         int64_t n, int64_t cols) {
    assert(cols <= GEMM_COLS);
    if (type == MR_F32) {
        for (int64_t i = 0; i < n; i++) {
            float *to = (float *)panel + i * GEMM_COLS;
            __builtin_memcpy(to, src + i * ld, (size_t)cols * sizeof *to);
            if (cols < GEMM_COLS) __builtin_memset(to + cols, 0, (size_t)(GEMM_COLS - cols) * sizeof *to);
        }
        return;
    }
    for (int64_t i = 0; i < n; i += 2) {
        uint32_t *to = (uint32_t *)panel + i / 2 * GEMM_COLS;
        uint16_t even[GEMM_COLS] = { 0 }, odd[GEMM_COLS] = { 0 };
        kernels->to_bf16(even, src + i * ld, cols);
        if (i + 1 < n) kernels->to_bf16(odd, src + (i + 1) * ld, cols);
        for (int64_t c = 0; c < GEMM_COLS; c++) to[c] = (uint32_t)even[c] | (uint32_t)odd[c] << 16;
    }
}

typedef struct packing {
    const gemm_kernels *kernels;
    char *fwd, *bwd;
    mr_dtype type;
    const float *src;
    int64_t row, n, n_in, n_fwd;
    size_t fwd_bytes, bwd_bytes;
} packing;

/* Items: the panels of w among these rows, then a piece of every panel of w^T. */
static void pack_panels(void *ctx, int thread, int64_t from, int64_t to) {
    const packing *p = ctx;
    (void)thread;
    for (int64_t i = from; i < to; i++) {
        if (i < p->n_fwd) {
            int64_t r = i * GEMM_COLS;
            gemm_pack_block(p->kernels, p->fwd + (size_t)(p->row / GEMM_COLS + i) * p->fwd_bytes, p->type,
                            p->src + r * p->n_in, p->n_in, p->n - r < GEMM_COLS ? p->n - r : GEMM_COLS, p->n_in);
        } else {
            int64_t c = (i - p->n_fwd) * GEMM_COLS;
            gemm_pack_block_bwd(p->kernels,
                                p->bwd + (size_t)(i - p->n_fwd) * p->bwd_bytes + gemm_panel_bytes(p->row, p->type),
                                p->type, p->src + c, p->n_in, p->n, p->n_in - c < GEMM_COLS ? p->n_in - c : GEMM_COLS);
        }
    }
}

void gemm_pack_rows(mr_backend *b, void *fwd, void *bwd, mr_dtype type, const float *src, int64_t row, int64_t n,
                    int64_t n_out, int64_t n_in) {
    assert(row % GEMM_COLS == 0 && (n % GEMM_COLS == 0 || row + n == n_out));
    packing p = {
        .kernels = gemm_kernels_for(cpu_of(b)->isa),
        .fwd = fwd,
        .bwd = bwd,
        .type = type,
        .src = src,
        .row = row,
        .n = n,
        .n_in = n_in,
        .n_fwd = fwd ? gemm_panels(n) : 0,
        .fwd_bytes = gemm_panel_bytes(n_in, type),
        .bwd_bytes = gemm_panel_bytes(n_out, type),
    };
    cpu_share(b, (double)n * (double)n_in, pack_panels, &p, p.n_fwd + (bwd ? gemm_panels(n_in) : 0), 1);
}

void gemm_unpack_fwd(float *dst, const void *panels, mr_dtype type, int64_t row, int64_t n_in) {
    const char *panel = (const char *)panels + (size_t)(row / GEMM_COLS) * gemm_panel_bytes(n_in, type);
    int64_t c = row % GEMM_COLS;
    if (type == MR_F32) {
        const float *from = (const float *)(const void *)panel + c;
        for (int64_t k = 0; k < n_in; k++) dst[k] = from[k * GEMM_COLS];
    } else {
        const uint16_t *from = (const uint16_t *)(const void *)panel + 2 * c;
        for (int64_t k = 0; k < n_in; k++) dst[k] = cpu_from_bf16(from[k / 2 * (GEMM_STEP / 2) + (k & 1)]);
    }
}

void gemm_unpack_bwd(float *dst, const void *panels, mr_dtype type, int64_t row, int64_t n_out, int64_t n_in) {
    for (int64_t c0 = 0; c0 < n_in; c0 += GEMM_COLS) {
        const char *panel = (const char *)panels + (size_t)(c0 / GEMM_COLS) * gemm_panel_bytes(n_out, type);
        int64_t cols = n_in - c0 < GEMM_COLS ? n_in - c0 : GEMM_COLS;
        if (type == MR_F32) {
            __builtin_memcpy(dst + c0, panel + row * GEMM_STEP, (size_t)cols * sizeof *dst);
        } else {
            const uint16_t *from = (const uint16_t *)(const void *)panel + row / 2 * (GEMM_STEP / 2) + (row & 1);
            for (int64_t c = 0; c < cols; c++) dst[c0 + c] = cpu_from_bf16(from[2 * c]);
        }
    }
}
