/* gemm.c - matrix products: how the work is cut, and the plain micro-kernels for CPUs without vector units that we
 * know. */
#include <assert.h>

#include "cpu/weights.h"

/* --- plain micro-kernels: multiply, then add; the same order as the vector ones --- */

static void generic_store(const gemm_tile *t, int rows, float (*acc)[GEMM_COLS]) {
    for (int r = 0; r < rows; r++) {
        if (t->rest) {
            __builtin_memcpy(t->acc + r * GEMM_COLS, acc[r], sizeof acc[r]);
            continue;
        }
        float *y = t->y + r * t->ldy;
        for (int c = 0; c < t->cols; c++) {
            float v = acc[r][c] * t->alpha;
            if (t->bias) v += t->bias[c];
            if (t->add) v += y[c];
            y[c] = v;
        }
    }
}

static void generic_load(const gemm_tile *t, int rows, float (*acc)[GEMM_COLS]) {
    for (int r = 0; r < rows; r++) {
        if (t->resume)
            __builtin_memcpy(acc[r], t->acc + r * GEMM_COLS, sizeof acc[r]);
        else
            __builtin_memset(acc[r], 0, sizeof acc[r]);
    }
}

static void generic_f32(const gemm_tile *t, int rows) {
    float acc[GEMM_ROWS][GEMM_COLS];
    const float *x = t->x, *w = t->w;
    generic_load(t, rows, acc);
    for (int64_t k = 0; k < t->k; k++, w += GEMM_COLS)
        for (int r = 0; r < rows; r++) {
            float xv = x[r * t->ldx + k];
            for (int c = 0; c < GEMM_COLS; c++) acc[r][c] += xv * w[c];
        }
    generic_store(t, rows, acc);
}

static void generic_f32_bf16(const gemm_tile *t, int rows) {
    float acc[GEMM_ROWS][GEMM_COLS], wide[GEMM_COLS];
    const float *x = t->x;
    const uint16_t *w = t->w;
    generic_load(t, rows, acc);
    for (int64_t k = 0; k < t->k; k++) {
        const uint16_t *step = w + k / 2 * (GEMM_STEP / 2) + (k & 1);
        for (int c = 0; c < GEMM_COLS; c++) wide[c] = cpu_from_bf16(step[2 * c]);
        for (int r = 0; r < rows; r++) {
            float xv = x[r * t->ldx + k];
            for (int c = 0; c < GEMM_COLS; c++) acc[r][c] += xv * wide[c];
        }
    }
    generic_store(t, rows, acc);
}

static void generic_tn(float *acc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t n, int rows,
                       int cols) {
    for (int r = 0; r < rows; r++) __builtin_memset(acc + r * GEMM_COLS, 0, GEMM_COLS * sizeof *acc);
    for (int64_t i = 0; i < n; i++)
        for (int r = 0; r < rows; r++) {
            float av = a[i * lda + r];
            for (int c = 0; c < cols; c++) acc[r * GEMM_COLS + c] += av * b[i * ldb + c];
        }
}

static void generic_to_bf16(uint16_t *dst, const float *src, int64_t n) {
    for (int64_t i = 0; i < n; i++) dst[i] = cpu_to_bf16(src[i]);
}

static void generic_round_bf16(float *dst, const float *src, int64_t n) {
    for (int64_t i = 0; i < n; i++) dst[i] = cpu_from_bf16(cpu_to_bf16(src[i]));
}

const gemm_kernels gemm_generic = {
    .f32 = generic_f32,
    .f32_bf16 = generic_f32_bf16,
    .tn = generic_tn,
    .to_bf16 = generic_to_bf16,
    .round_bf16 = generic_round_bf16,
};

const gemm_kernels *gemm_kernels_for(cpu_isa isa) {
#if defined(__x86_64__)
    switch (isa) {
    case CPU_AVX512_BF16: return &gemm_avx512_bf16;
    case CPU_AVX512: return &gemm_avx512;
    case CPU_AVX2: return &gemm_avx2;
    case CPU_GENERIC: break;
    }
#endif
    (void)isa;
    return &gemm_generic;
}

/* --- y = x @ w^T --- */

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Rows of x that are worked through for one panel before the next: about 256 KiB, in the second cache beside the
 * panel. NF4 takes more, since each panel is unpacked again for every block of rows. */
static int64_t row_block(const gemm_product *p) {
    int64_t row_bytes = min64(p->k, GEMM_K_BLOCK) * (p->x_type == GEMM_X_BF16 ? 2 : 4);
    int64_t rows = 256 * 1024 / (row_bytes ? row_bytes : 1);
    if (p->nf4) rows *= 4;
    if (rows > 192 && !p->nf4) rows = 192;
    if (rows > 1024) rows = 1024;
    if (rows < 4 * GEMM_ROWS) rows = 4 * GEMM_ROWS;
    return rows / GEMM_ROWS * GEMM_ROWS;
}

static size_t align64(size_t n) {
    return (n + 63) & ~(size_t)63;
}

size_t cpu_product_scratch(const gemm_product *p) {
    size_t bytes = 0;
    if (p->k > GEMM_K_BLOCK) bytes += (size_t)row_block(p) * GEMM_COLS * sizeof(float);
    if (p->nf4) bytes += gemm_panel_bytes(min64(p->k, GEMM_K_BLOCK), p->w_type) + GEMM_K_BLOCK * sizeof(float);
    return bytes ? align64(bytes) : 0;
}

/* Tiles [t0, t1) of n_tiles in one panel, rows from row0: all blocks of K, one after the other. */
static void panel_part(const gemm_kernels *kernels, const gemm_product *p, char *scratch, int64_t index, int64_t row0,
                       int64_t rows, int64_t n_tiles, int64_t t0, int64_t t1) {
    float *acc = NULL;
    char *unpacked = NULL;
    if (p->k > GEMM_K_BLOCK) {
        acc = (float *)(void *)scratch;
        scratch += (size_t)row_block(p) * GEMM_COLS * sizeof(float);
    }
    float *nf4_scratch = NULL;
    if (p->nf4) {
        nf4_scratch = (float *)(void *)scratch;
        unpacked = scratch + GEMM_K_BLOCK * sizeof(float);
    }
    int64_t col0 = index * GEMM_COLS, first = rows * t0 / n_tiles;
    size_t x_size = p->x_type == GEMM_X_BF16 ? 2 : 4;
    for (int64_t k0 = 0; k0 < p->k; k0 += GEMM_K_BLOCK) {
        gemm_tile t = {
            .ldx = p->ldx,
            .k = min64(GEMM_K_BLOCK, p->k - k0),
            .resume = k0 > 0,
            .rest = k0 + GEMM_K_BLOCK < p->k,
            .ldy = p->ldy,
            .cols = (int)min64(GEMM_COLS, p->n_cols - col0),
            .bias = p->bias ? p->bias + col0 : NULL,
            .alpha = p->alpha,
            .add = p->add,
        };
        if (p->nf4) {
            nf4_panel(kernels, unpacked, nf4_scratch, p->nf4, p->backward, index, k0, t.k);
            t.w = unpacked;
        } else {
            t.w = (const char *)p->panels + (size_t)index * gemm_panel_bytes(p->k, p->w_type) +
                  gemm_panel_bytes(k0, p->w_type);
        }
        for (int64_t i = t0; i < t1; i++) {
            int64_t r0 = rows * i / n_tiles, r1 = rows * (i + 1) / n_tiles;
            t.x = (const char *)p->x + (size_t)((row0 + r0) * p->ldx + k0) * x_size;
            t.y = p->y + (row0 + r0) * p->ldy + col0;
            t.acc = acc ? acc + (r0 - first) * GEMM_COLS : NULL;
            if (p->x_type == GEMM_X_BF16)
                kernels->bf16(&t, (int)(r1 - r0));
            else if (p->w_type == MR_BF16)
                kernels->f32_bf16(&t, (int)(r1 - r0));
            else
                kernels->f32(&t, (int)(r1 - r0));
        }
    }
}

void cpu_product_part(mr_backend *b, const gemm_product *p, int thread, int n_threads) {
    const gemm_kernels *kernels = gemm_kernels_for(cpu_of(b)->isa);
    size_t need = cpu_product_scratch(p);
    char *scratch = need ? cpu_scratch(b, thread, need) : NULL;
    if (need && !scratch) return;
    assert(p->x_type != GEMM_X_BF16 || (kernels->bf16 && p->w_type == MR_BF16));
    int64_t block = row_block(p), panels = gemm_panels(p->n_cols);
    for (int64_t row0 = 0; row0 < p->n_rows; row0 += block) {
        int64_t rows = min64(block, p->n_rows - row0), tiles = (rows + GEMM_ROWS - 1) / GEMM_ROWS;
        int64_t from = panels * tiles * thread / n_threads, to = panels * tiles * (thread + 1) / n_threads;
        while (from < to) {
            int64_t index = from / tiles, t0 = from % tiles, t1 = min64(tiles, t0 + (to - from));
            panel_part(kernels, p, scratch, index, row0, rows, tiles, t0, t1);
            from += t1 - t0;
        }
    }
}

/* --- dw += dy^T @ x --- */

void cpu_product_tn_part(mr_backend *b, float *dst, int64_t sp, int64_t sq, const float *a, int64_t lda, int64_t n_p,
                         const float *x, int64_t ldx, int64_t n_q, int64_t n, float scale, int thread, int n_threads) {
    const gemm_kernels *kernels = gemm_kernels_for(cpu_of(b)->isa);
    if (n_q < GEMM_COLS && n_p > n_q) {
        /* the wide side goes into vectors; the products and their order are the same */
        const float *swap = a;
        int64_t i = lda;
        a = x, x = swap;
        lda = ldx, ldx = i;
        i = n_p, n_p = n_q, n_q = i;
        i = sp, sp = sq, sq = i;
    }
    float acc[GEMM_ROWS * GEMM_COLS] __attribute__((aligned(64)));
    int64_t tiles = (n_p + GEMM_ROWS - 1) / GEMM_ROWS, units = gemm_panels(n_q) * tiles;
    for (int64_t u = units * thread / n_threads; u < units * (thread + 1) / n_threads; u++) {
        int64_t q0 = u / tiles * GEMM_COLS, i = u % tiles, p0 = n_p * i / tiles, p1 = n_p * (i + 1) / tiles;
        int cols = (int)min64(GEMM_COLS, n_q - q0);
        kernels->tn(acc, a + p0, lda, x + q0, ldx, n, (int)(p1 - p0), cols);
        for (int64_t p = p0; p < p1; p++) {
            float *to = dst + p * sp + q0 * sq;
            const float *from = acc + (p - p0) * GEMM_COLS;
            for (int c = 0; c < cols; c++) to[c * sq] += scale * from[c];
        }
    }
}
