/* optimizer.c - AdamW with f32 and with 8-bit states, and the sum of squares for clipping (spec/optimizer.md, 6.1 to 6.3). */
#include <assert.h>
#include <math.h>

#include "cpu/isa.h"
#include "maps.h"

enum { PARTS = 256, LANES = 8 };

typedef struct squares {
    const float *x;
    int64_t n, size;
    double sums[PARTS];
} squares;

static void square_parts(void *ctx, int thread, int64_t from, int64_t to) {
    squares *s = ctx;
    (void)thread;
    for (int64_t p = from; p < to; p++) {
        const float *x = s->x;
        int64_t i = p * s->size, end = i + s->size < s->n ? i + s->size : s->n;
        double lane[LANES] = { 0 };
        for (; i + LANES <= end; i += LANES)
            for (int l = 0; l < LANES; l++) lane[l] += (double)x[i + l] * (double)x[i + l];
        for (int l = 0; i < end; i++, l++) lane[l] += (double)x[i] * (double)x[i];
        for (int l = 1; l < LANES; l++) lane[0] += lane[l];
        s->sums[p] = lane[0];
    }
}

/* At most 256 parts whose size depends on n alone; 8 sums in each. The parts are added in order. */
double cpu_sum_squares(mr_backend *b, const float *x, int64_t n, bool *all_finite) {
    if (all_finite) *all_finite = true;
    if (cpu_failed(b) || n <= 0) return 0;
    squares s = { .x = x, .n = n };
    int64_t size = (n + PARTS - 1) / PARTS;
    s.size = size < 4096 ? 4096 : (size + 15) / 16 * 16;
    int64_t n_parts = (n + s.size - 1) / s.size;
    cpu_share(b, 0.5 * (double)n, square_parts, &s, n_parts, 1);
    double total = 0;
    for (int64_t p = 0; p < n_parts; p++) total += s.sums[p];
    /* the square of a finite float is finite in double, and so are all sums of them */
    if (all_finite) *all_finite = isfinite(total);
    return total;
}

typedef struct update {
    const cpu_kernels *k;
    float *p, *m, *v;
    const float *g;
    const mr_adamw *opt;
    float step_size, eps_scaled; /* with decay_last */
} update;

/* What bitsandbytes' form of the update multiplies by: C2/C1 lr and C2 eps (spec/optimizer.md, 6.1, line 4). */
static void bnb_factors(float *step_size, float *eps_scaled, const mr_adamw *opt) {
    float corr1 = (float)(1.0 - pow((double)opt->beta1, (double)opt->step));
    float corr2 = sqrtf((float)(1.0 - pow((double)opt->beta2, (double)opt->step)));
    *step_size = opt->lr * corr2 / corr1;
    *eps_scaled = corr2 * opt->eps;
}

static void update_elements(void *ctx, int thread, int64_t from, int64_t to) {
    const update *u = ctx;
    (void)thread;
    if (!u->opt->decay_last) {
        u->k->adamw(u->p + from, u->m + from, u->v + from, u->g + from, to - from, u->opt);
        return;
    }
    enum { PIECE = 1 << 20 }; /* a block's length is an int */
    for (; from < to; from += PIECE)
        u->k->adamw_block(u->p + from, u->m + from, u->v + from, u->g + from,
                          to - from < PIECE ? (int)(to - from) : PIECE, u->opt, u->step_size, u->eps_scaled);
}

static void adamw_f32(mr_backend *b, const mr_adamw_tensor *t, const mr_adamw *opt) {
    update u = { .k = cpu_kernels_of(b), .p = t->p, .m = t->m, .v = t->v, .g = t->g, .opt = opt };
    bnb_factors(&u.step_size, &u.eps_scaled, opt);
    cpu_share(b, 1.0 * (double)t->n, update_elements, &u, t->n, 16);
}

/* --- 8-bit states --- */

enum { BLOCK = 256 };

typedef struct code_book {
    float value[256], limit[256]; /* maps.h */
} code_book;

static void book_init(code_book *book, bool is_signed) {
    mr_dynamic_map(book->value, is_signed);
    mr_map_limits(book->limit, book->value);
}

static void block_step(const cpu_kernels *k, const code_book *first, const code_book *second, float *p, uint8_t *c1,
                       uint8_t *c2, float *absmax1, float *absmax2, const float *g, int n, const mr_adamw *opt,
                       float step_size, float eps_scaled) {
    float m[BLOCK], v[BLOCK];
    k->decode8(m, c1, first->value, *absmax1, n);
    k->decode8(v, c2, second->value, *absmax2, n);
    k->adamw_block(p, m, v, g, n, opt, step_size, eps_scaled);
    *absmax1 = k->largest(m, n);
    *absmax2 = k->largest(v, n);
    /* the first moment keeps its sign, even where zero is nearer (spec/optimizer.md, 6.1, line 6) */
    k->encode8(c1, first->limit, first->value, m, *absmax1, n);
    k->encode8(c2, second->limit, NULL, v, *absmax2, n);
}

typedef struct update8 {
    const cpu_kernels *k;
    float *p, *absmax1, *absmax2;
    uint8_t *c1, *c2;
    const float *g;
    int64_t n;
    const mr_adamw *opt;
    float step_size, eps_scaled;
    const code_book *first, *second;
} update8;

static void update_blocks(void *ctx, int thread, int64_t from, int64_t to) {
    const update8 *u = ctx;
    (void)thread;
    for (int64_t i = from; i < to; i++) {
        int64_t at = i * BLOCK;
        block_step(u->k, u->first, u->second, u->p + at, u->c1 + at, u->c2 + at, u->absmax1 + i, u->absmax2 + i,
                   u->g + at, u->n - at < BLOCK ? (int)(u->n - at) : BLOCK, u->opt, u->step_size, u->eps_scaled);
    }
}

static void adamw_8bit(mr_backend *b, const mr_adamw_tensor *t, const mr_adamw *opt, const code_book *first, const code_book *second) {
    update8 u = { .k = cpu_kernels_of(b), .p = t->p, .absmax1 = t->absmax1, .absmax2 = t->absmax2, .c1 = t->c1, .c2 = t->c2, .g = t->g,
                  .n = t->n, .opt = opt, .first = first, .second = second };
    bnb_factors(&u.step_size, &u.eps_scaled, opt);
    cpu_share(b, 12.0 * (double)t->n, update_blocks, &u, (t->n + BLOCK - 1) / BLOCK, 1);
}

void cpu_adamw(mr_backend *b, const mr_adamw_tensor *all, int n, const mr_adamw *opt) {
    if (cpu_failed(b)) return;
    assert(opt->step >= 1);
    code_book first, second;
    book_init(&first, true);
    book_init(&second, false);
    for (int i = 0; i < n; i++) {
        mr_adamw own = *opt;
        if (all[i].no_decay) own.weight_decay = 0;
        if (all[i].c1)
            adamw_8bit(b, &all[i], &own, &first, &second);
        else
            adamw_f32(b, &all[i], &own);
    }
}
