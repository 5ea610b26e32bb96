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

static void generic_chain(float (*acc)[GEMM_COLS], int rows, const float *x, int64_t ldx, const void *w, int64_t n,
                          bool bf16, int cols) {
    float wide[GEMM_COLS];
    for (int64_t k = 0; k < n; k++) {
        const float *step = (const float *)w + k * GEMM_COLS;
        if (bf16) {
            const uint16_t *half = (const uint16_t *)w + k / 2 * (GEMM_STEP / 2) + (k & 1);
            for (int c = 0; c < cols; c++) wide[c] = cpu_from_bf16(half[2 * c]);
            step = wide;
        }
        for (int r = 0; r < rows; r++) {
            float xv = x[r * ldx + k];
            for (int c = 0; c < cols; c++) acc[r][c] += xv * step[c];
        }
    }
}

static void generic_tile(const gemm_tile *t, int rows, bool bf16) {
    float acc[GEMM_ROWS][GEMM_COLS];
    generic_load(t, rows, acc);
    if (t->more_k) {
        generic_chain(acc, rows, t->more_x, t->more_ldx, t->more_w, t->more_k, bf16, t->cols);
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < t->cols; c++) acc[r][c] *= t->more_alpha;
    }
    generic_chain(acc, rows, t->x, t->ldx, t->w, t->k, bf16, t->cols);
    generic_store(t, rows, acc);
}

static void generic_f32(const gemm_tile *t, int rows) {
    generic_tile(t, rows, false);
}

static void generic_f32_bf16(const gemm_tile *t, int rows) {
    generic_tile(t, rows, true);
}

static void generic_tn(float *acc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t n, int rows,
                       int cols) {
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
    .tall = GEMM_ROWS,
    .f32 = generic_f32,
    .f32_bf16 = generic_f32_bf16,
    .tn = generic_tn,
    .to_bf16 = generic_to_bf16,
    .row_to_bf16 = generic_to_bf16,
    .round_bf16 = generic_round_bf16,
};

const gemm_kernels *gemm_kernels_for(cpu_isa isa) {
#if defined(__x86_64__)
    switch (isa) {
    case CPU_AMX: return &gemm_amx;
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

/* Bytes of x that stay in a second cache of AMX's CPUs (2 MiB) beside a panel and what is written meanwhile. Then all
 * blocks of rows go through a panel before the next one is read; else all panels before the next block. */
#define X_STAYS ((int64_t)1 << 20)

/* Rows of x that are worked through for one panel before the next: about 256 KiB, in the second cache beside the
 * panel. NF4 takes more, since each panel is unpacked again for every block of rows. */
static int64_t row_block(int64_t k, bool bf16, bool nf4, int64_t tall) {
    int64_t row_bytes = min64(k, GEMM_K_BLOCK) * (bf16 ? 2 : 4);
    int64_t rows = 256 * 1024 / (row_bytes ? row_bytes : 1);
    if (nf4) rows *= 4;
    if (tall > GEMM_ROWS) rows *= 2; /* a larger second cache */
    if (rows > 192 && !nf4) rows = 192;
    if (rows > 1024) rows = 1024;
    if (rows < 4 * GEMM_ROWS) rows = 4 * GEMM_ROWS;
    return rows < tall ? tall : rows / tall * tall;
}

/* Resting accumulators, and for NF4 the scales and steps of a panel. */
static size_t panel_scratch(int64_t block, bool nf4, mr_dtype w_type) {
    size_t resting = (size_t)block * GEMM_COLS * sizeof(float), scales = GEMM_K_BLOCK * sizeof(float);
    return resting + scales + (nf4 ? gemm_panel_bytes(GEMM_K_BLOCK, w_type) : 0);
}

size_t cpu_product_scratch(const mr_backend *b, const mr_weight_info *w) {
    const gemm_kernels *kernels = gemm_kernels_for(cpu_of(b)->isa);
    bool bf16 = w->compute == MR_BF16 && kernels->bf16, nf4 = w->store == MR_NF4;
    int64_t tall = bf16 ? kernels->tall : GEMM_ROWS;
    int64_t in = row_block(w->n_in, bf16, nf4, tall), out = row_block(w->n_out, bf16, nf4, tall);
    return panel_scratch(in > out ? in : out, nf4, nf4 ? w->compute : w->store);
}

/* Whether n panels end sooner on the threads by halves. Where memory is waited for they take a quarter longer, since their
 * lines lie apart: with bf16 products (of AMX that is not known) and with few rows. */
static bool halves_pay(const gemm_product *p, int64_t n, int n_threads) {
    const bool waits = p->tall == GEMM_ROWS && (p->x_type == GEMM_X_BF16 || p->n_rows < GEMM_ROWS);
    const int64_t whole = (n + n_threads - 1) / n_threads, halves = (2 * n + n_threads - 1) / n_threads;
    return !waits || 8 * whole > 5 * halves;
}

void cpu_product_cut(gemm_product *p, int n_threads) {
    int64_t panels = gemm_panels(p->n_cols);
    p->block = row_block(p->k, p->x_type == GEMM_X_BF16, p->nf4 != NULL, p->tall);
    p->strips = 1;
    int64_t blocks = (p->n_rows + p->block - 1) / p->block;
    if (n_threads > 1 && !p->nf4 && panels * blocks < 16 * n_threads) {
        if (p->n_rows > p->block / 2 && p->block >= 2 * p->tall) {
            p->block = p->block / 2 / p->tall * p->tall;
            blocks = (p->n_rows + p->block - 1) / p->block;
        } else if (halves_pay(p, panels * blocks, n_threads)) {
            p->strips = 2;
        }
    }
    p->n_items = blocks * panels * p->strips;
    p->by_panel = !p->nf4 && p->tall > GEMM_ROWS && p->n_rows * p->ldx * 2 <= X_STAYS;
    p->n_ahead = n_threads;
}

/* One panel (or half of it) for rows [row0, row0 + rows) to y: all blocks of K, one after the other. next: the panel
 * that this thread takes then, -1: nobody knows. */
static void panel_part(mr_backend *b, const gemm_product *p, int thread, int64_t index, int64_t next, int strip,
                       int64_t row0, int64_t rows, float *y, int64_t ldy) {
    const gemm_kernels *kernels = gemm_kernels_for(cpu_of(b)->isa);
    float *acc = NULL, *nf4_scratch = NULL;
    char *unpacked = NULL;
    if (p->k > GEMM_K_BLOCK || p->nf4) {
        size_t resting = (size_t)p->block * GEMM_COLS * sizeof(float), scales = GEMM_K_BLOCK * sizeof(float);
        char *scratch = cpu_scratch(b, thread, panel_scratch(p->block, p->nf4 != NULL, p->w_type));
        if (!scratch) return;
        acc = (float *)(void *)scratch;
        nf4_scratch = (float *)(void *)(scratch + resting);
        unpacked = scratch + resting + scales;
    }
    int64_t width = GEMM_COLS / p->strips, col0 = index * GEMM_COLS + strip * width;
    int64_t n_tiles = (rows + p->tall - 1) / p->tall;
    if (col0 >= p->n_cols) return;
    size_t x_size = p->x_type == GEMM_X_BF16 ? 2 : 4, shift = (size_t)(strip * width) * 4;
    const gemm_more *more = NULL;
    for (int i = 0; i < p->n_more; i++)
        if (col0 >= p->more[i].col0 && col0 < p->more[i].col0 + p->more[i].cols) more = &p->more[i];
    for (int64_t k0 = 0; k0 < p->k; k0 += GEMM_K_BLOCK) {
        gemm_tile t = {
            .ldx = p->ldx,
            .k = min64(GEMM_K_BLOCK, p->k - k0),
            .resume = k0 > 0,
            .rest = k0 + GEMM_K_BLOCK < p->k,
            .ldy = ldy,
            .cols = (int)min64(width, p->n_cols - col0),
            .bias = p->bias ? p->bias + col0 : NULL,
            .alpha = p->alpha,
            .add = p->add,
            .cold = n_tiles == 1 && !p->nf4,
        };
        if (p->nf4) {
            nf4_panel(kernels, unpacked, nf4_scratch, p->nf4, p->backward, index, k0, t.k);
            t.w = unpacked;
        } else {
            t.w = (const char *)p->panels + (size_t)index * gemm_panel_bytes(p->k, p->w_type) +
                  gemm_panel_bytes(k0, p->w_type) + shift;
        }
        if (more && !t.resume) {
            t.more_k = more->k;
            t.more_alpha = more->alpha;
            t.more_ldx = more->ldx;
            t.more_w = (const char *)more->panels +
                       (size_t)(index - more->col0 / GEMM_COLS) * gemm_panel_bytes(more->k, p->w_type) + shift;
        }
        /* the first tile of a block would wait for memory: the tiles before fetch a line of the next one a step, until
         * they have all of it */
        int64_t steps = gemm_steps(t.k, p->w_type), lines = GEMM_STEP / 64 / p->strips;
        const char *ahead = NULL;
        if (!p->nf4 && t.rest)
            ahead = (const char *)t.w + gemm_panel_bytes(t.k, p->w_type);
        else if (!p->nf4 && next >= 0 && next < gemm_panels(p->n_cols))
            ahead = (const char *)p->panels + (size_t)next * gemm_panel_bytes(p->k, p->w_type) + shift;
        for (int64_t i = 0; i < n_tiles; i++) {
            t.next = t.w, t.next_stride = 0;
            if (ahead && i < lines) {
                t.next = ahead + i * (p->strips > 1 ? 64 : 64 * steps);
                t.next_stride = p->strips > 1 ? GEMM_STEP : 64;
            }
            int64_t r0 = rows * i / n_tiles, r1 = rows * (i + 1) / n_tiles;
            if (p->tall > GEMM_ROWS) r0 = i * p->tall, r1 = min64(r0 + p->tall, rows); /* full tiles, then the rest */
            t.x = (const char *)p->x + (size_t)((row0 + r0) * p->ldx + k0) * x_size;
            if (t.more_k) t.more_x = (const char *)more->x + (size_t)((row0 + r0) * more->ldx) * x_size;
            t.y = y + r0 * ldy;
            t.acc = acc ? acc + r0 * GEMM_COLS : NULL;
            if (p->x_type == GEMM_X_BF16)
                kernels->bf16(&t, (int)(r1 - r0));
            else if (p->w_type == MR_BF16)
                kernels->f32_bf16(&t, (int)(r1 - r0));
            else
                kernels->f32(&t, (int)(r1 - r0));
        }
    }
}

void cpu_product_items(mr_backend *b, const gemm_product *p, int thread, int64_t from, int64_t to) {
    assert(p->x_type != GEMM_X_BF16 || p->w_type == MR_BF16);
    int64_t a_block = gemm_panels(p->n_cols) * p->strips, blocks = p->n_items / a_block;
    for (int64_t i = from; i < to; i++) {
        int64_t block = p->by_panel ? i % blocks : i / a_block, at = p->by_panel ? i / blocks : i % a_block;
        int64_t row0 = block * p->block, index = at / p->strips, strip = at % p->strips;
        float *y = p->y + row0 * p->ldy + index * GEMM_COLS + strip * GEMM_COLS / p->strips;
        panel_part(b, p, thread, index, index + p->n_ahead / p->strips, (int)strip, row0,
                   min64(p->block, p->n_rows - row0), y, p->ldy);
    }
    const gemm_kernels *kernels = gemm_kernels_for(cpu_of(b)->isa);
    if (kernels->leave) kernels->leave();
}

void cpu_product_panel(mr_backend *b, const gemm_product *p, int thread, int64_t index, int64_t next, int64_t row0,
                       int64_t rows, float *y, int64_t ldy) {
    assert(p->strips == 1 && rows <= p->block);
    panel_part(b, p, thread, index, next, 0, row0, rows, y, ldy);
}

void cpu_product_all(mr_backend *b, const gemm_product *p, int thread) {
    gemm_product whole = *p;
    cpu_product_cut(&whole, 1);
    cpu_product_items(b, &whole, thread, 0, whole.n_items);
}

/* --- dw += dy^T @ x --- */

int64_t cpu_tn_cut(gemm_tn *t) {
    assert(!t->a_bf16 || !t->x_bf16);
    if (t->a_bf16 || (!t->x_bf16 && t->n_q < GEMM_COLS && t->n_p > t->n_q)) {
        /* the wide side goes into vectors, or the one in bf16; the products and their order are the same */
        gemm_tn s = *t;
        t->a = s.x, t->lda = s.ldx, t->n_p = s.n_q, t->sp = s.sq;
        t->x = s.a, t->ldx = s.lda, t->n_q = s.n_p, t->sq = s.sp;
        t->a_bf16 = s.x_bf16, t->x_bf16 = s.a_bf16;
    }
    return gemm_panels(t->n_q) * ((t->n_p + GEMM_ROWS - 1) / GEMM_ROWS);
}

void cpu_tn_items(mr_backend *b, const gemm_tn *t, int64_t from, int64_t to) {
    const gemm_kernels *kernels = gemm_kernels_for(cpu_of(b)->isa);
    float acc[GEMM_ROWS * GEMM_COLS] __attribute__((aligned(64)));
    int64_t tiles = (t->n_p + GEMM_ROWS - 1) / GEMM_ROWS;
    for (int64_t u = from; u < to; u++) {
        int64_t q0 = u / tiles * GEMM_COLS, i = u % tiles, p0 = t->n_p * i / tiles, p1 = t->n_p * (i + 1) / tiles;
        int cols = (int)min64(GEMM_COLS, t->n_q - q0);
        for (int64_t p = p0; p < p1; p++) {
            const float *from_row = t->dst + p * t->sp + q0 * t->sq;
            float *row = acc + (p - p0) * GEMM_COLS;
            for (int c = 0; c < cols; c++) row[c] = from_row[c * t->sq];
            for (int c = cols; c < GEMM_COLS; c++) row[c] = 0;
        }
        const float *a = (const float *)t->a + p0;
        if (t->x_bf16)
            kernels->tn_bf16(acc, a, t->lda, (const uint16_t *)t->x + q0, t->ldx, t->n, (int)(p1 - p0), cols);
        else
            kernels->tn(acc, a, t->lda, (const float *)t->x + q0, t->ldx, t->n, (int)(p1 - p0), cols);
        for (int64_t p = p0; p < p1; p++) {
            float *to_row = t->dst + p * t->sp + q0 * t->sq;
            const float *row = acc + (p - p0) * GEMM_COLS;
            for (int c = 0; c < cols; c++) to_row[c * t->sq] = row[c];
        }
    }
}
