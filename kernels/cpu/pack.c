/* pack.c - matrices into panels (gemm.h) and rows out of them. */
#include <assert.h>

#include "cpu/gemm.h"

void gemm_pack_block(void *panel, mr_dtype type, const float *src, int64_t ld, int64_t n, int64_t k) {
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
            for (int64_t i = 0; i < valid; i++) half[i] = cpu_to_bf16(from[i]);
            if (valid & 1) half[valid] = 0;
            for (int64_t i = 0; i < sn; i++)
                to[(s0 + i) * GEMM_COLS + c] = (uint32_t)half[2 * i] | (uint32_t)half[2 * i + 1] << 16;
        }
    }
    if (n < GEMM_COLS)
        for (int64_t i = 0; i < steps; i++)
            __builtin_memset(to + i * GEMM_COLS + n, 0, (size_t)(GEMM_COLS - n) * sizeof *to);
}

void gemm_pack_block_bwd(void *panel, mr_dtype type, const float *src, int64_t ld, int64_t n, int64_t cols) {
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
        const float *even = src + i * ld, *odd = even + ld;
        if (i + 1 < n)
            for (int64_t c = 0; c < cols; c++)
                to[c] = (uint32_t)cpu_to_bf16(even[c]) | (uint32_t)cpu_to_bf16(odd[c]) << 16;
        else
            for (int64_t c = 0; c < cols; c++) to[c] = cpu_to_bf16(even[c]);
        if (cols < GEMM_COLS) __builtin_memset(to + cols, 0, (size_t)(GEMM_COLS - cols) * sizeof *to);
    }
}

void gemm_pack_rows(mr_backend *b, void *fwd, void *bwd, mr_dtype type, const float *src, int64_t row, int64_t n,
                    int64_t n_out, int64_t n_in) {
    assert(row % GEMM_COLS == 0 && (n % GEMM_COLS == 0 || row + n == n_out));
    int64_t n_fwd = fwd ? gemm_panels(n) : 0, n_bwd = bwd ? gemm_panels(n_in) : 0;
    size_t fwd_bytes = gemm_panel_bytes(n_in, type), bwd_bytes = gemm_panel_bytes(n_out, type);
    int threads = cpu_threads(b, (double)n * (double)n_in);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < n_fwd + n_bwd; i++) {
        if (i < n_fwd) {
            int64_t r = i * GEMM_COLS;
            gemm_pack_block((char *)fwd + (size_t)(row / GEMM_COLS + i) * fwd_bytes, type, src + r * n_in, n_in,
                            n - r < GEMM_COLS ? n - r : GEMM_COLS, n_in);
        } else {
            int64_t c = (i - n_fwd) * GEMM_COLS;
            gemm_pack_block_bwd((char *)bwd + (size_t)(i - n_fwd) * bwd_bytes + gemm_panel_bytes(row, type), type,
                                src + c, n_in, n, n_in - c < GEMM_COLS ? n_in - c : GEMM_COLS);
        }
    }
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
