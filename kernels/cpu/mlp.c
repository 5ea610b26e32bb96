/* mlp.c - a gated MLP in bf16 products as one operation, so that what lies between its products stays in the caches.
 *
 * Forward:  a panel of g and the panel of up beside it are multiplied for a block of rows, and their product of silu is
 *           rounded to bf16 at once: act is never written in f32, gu once, and not at all while sampling. The bits are those of linear, silu_mul,
 *           linear.
 * Backward: a panel of dact goes from its product straight into act, dg and dup in bf16, which is how the products that
 *           follow read them; the adapters' gradients read the same (kernels.h allows that), in one chain over rows.
 * Served:   dense weights with bf16 products, whole panels, adapters that continue their sums; nothing else trained.
 *           That does not depend on the number of rows where gradients are concerned. */
#include "cpu/isa.h"
#include "cpu/linear.h"

/* Fewer rows gain nothing by it in the forward pass. */
enum { FEWEST = 64 };
/* Rows of a block: dact's panel rests on the stack. */
enum { MOST = 192 };

typedef struct gated {
    mr_backend *b;
    const gemm_kernels *kernels;
    const cpu_kernels *ops;
    const mr_gated *m;
    int64_t n, F;
    int threads;
    /* one linear at a time in the backward pass, both in the forward pass */
    input x, act, up_part[3], down_part[3];
    gemm_product up_inner, down_inner, up, down;
} gated;

static bool adapters_serve(const gemm_kernels *kernels, const mr_linear *l, bool backward) {
    if (!l->n_lora) return true;
    if (!continues(kernels, l->w, l->a, backward)) return false;
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *p = &l->lora[i];
        if (p->row0 % GEMM_COLS || p->rows % GEMM_COLS) return false;
        if (!continues(kernels, l->w, p->b, false) || (backward && !p->b->bwd)) return false;
    }
    return true;
}

static bool serves(const gemm_kernels *kernels, const mr_gated *m, bool backward) {
    const mr_linear *const both[2] = { m->gate_up, m->down };
    if (!kernels->bf16) return false;
    for (int i = 0; i < 2; i++) {
        const mr_linear *l = both[i];
        if (view_of(kernels, l->w) != VIEW_BF16 || !l->w->fwd || (backward && !l->w->bwd)) return false;
        if (l->dw || l->dbias || !adapters_serve(kernels, l, backward)) return false;
    }
    return m->down->w->n_in % GEMM_COLS == 0;
}

static size_t parts_bytes(const mr_linear *l, int64_t n) {
    size_t bytes = 0;
    for (int i = 0; i < l->n_lora; i++) bytes += padded(input_bytes(n, l->lora[i].r));
    return bytes;
}

/* x as it lies, in bf16 from `low` on. */
static input in_bf16(const float *raw, int64_t k, void *low) {
    return (input){ .raw = raw, .ld_raw = k, .k = k, .low = VIEW_BF16, .low_data = low, .ld_low = units(k) };
}

static void clear_shape(gemm_product *p) {
    cpu_product_cut(p, 1);
    if (p->block > MOST) p->block = MOST;
}

/* Item i of a product whose items of `panels` panels are ours: its first row, and which panel. */
static inline int64_t place_of(const gemm_product *p, int64_t i, int64_t panels, int64_t *panel) {
    int64_t blocks = (p->n_rows + p->block - 1) / p->block;
    *panel = p->by_panel ? i / blocks : i % panels;
    return (p->by_panel ? i % blocks : i / panels) * p->block;
}

/* The panel of the item that a thread takes after item i of [from, to), when the others go on as fast; -1: none. */
static int64_t panel_behind(const gated *g, const gemm_product *p, int64_t i, int64_t from, int64_t to, int64_t panels) {
    int64_t panel, next = i + 1 < to ? i + 1 : to + (g->threads - 1) * (to - from);
    if (next >= (p->n_rows + p->block - 1) / p->block * panels) return -1;
    place_of(p, next, panels, &panel);
    return panel;
}

/* --- forward --- */

/* The product with l's adapters in it; their inner values' views take scratch from *at on. */
static gemm_product with_adapters(const gated *g, const mr_linear *l, const input *x, float *y, float *u, bool add,
                                  gemm_product *inner, input part[3], char **at) {
    gemm_product p = product(g->kernels, l->w, false, x, g->n, y, l->w->n_out, 1.0f, l->bias, add);
    if (!l->n_lora) return p;
    *inner = product(g->kernels, l->a, false, x, g->n, u, l->r_total, 1.0f, NULL, false);
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *o = &l->lora[i];
        part[i] = in_bf16(u + o->r0, o->r, *at);
        part[i].ld_raw = l->r_total;
        *at += padded(input_bytes(g->n, o->r));
        bool folded = folds(g->kernels, o->scale);
        if (folded) part[i].factor = o->scale;
        p.more[p.n_more++] = (gemm_more){ o->row0, o->rows, o->r, part[i].low_data, part[i].ld_low, o->b->fwd,
                                          folded ? 1.0f : o->scale };
    }
    return p;
}

static void inner_rows(const gated *g, const mr_linear *l, const gemm_product *inner, const input part[3], int thread,
                       int64_t from, int64_t to) {
    if (!l->n_lora) return;
    gemm_product p = rows_of(*inner, from, to);
    cpu_product_all(g->b, &p, thread);
    for (int i = 0; i < l->n_lora; i++) input_prepare(g->kernels, &part[i], from, to);
}

static void first_rows(void *ctx, int thread, int64_t from, int64_t to) {
    const gated *g = ctx;
    input_prepare(g->kernels, &g->x, from, to);
    inner_rows(g, g->m->gate_up, &g->up_inner, g->up_part, thread, from, to);
}

static void gate_items(void *ctx, int thread, int64_t from, int64_t to) {
    const gated *g = ctx;
    _Alignas(64) float panels_of[2][MOST * GEMM_COLS]; /* where gu is not wanted */
    int64_t panels = g->F / GEMM_COLS;
    for (int64_t i = from; i < to; i++) {
        int64_t at, row0 = place_of(&g->up, i, panels, &at), left = g->n - row0;
        int64_t rows = left < g->up.block ? left : g->up.block, ld = 2 * g->F;
        float *gate = g->m->gu + row0 * ld + at * GEMM_COLS, *up = gate + g->F, act[GEMM_COLS];
        if (g->m->sampling) gate = panels_of[0], up = panels_of[1], ld = GEMM_COLS;
        cpu_product_panel(g->b, &g->up, thread, at, at + panels, row0, rows, gate, ld);
        cpu_product_panel(g->b, &g->up, thread, at + panels, panel_behind(g, &g->up, i, from, to, panels), row0, rows, up, ld);
        for (int64_t r = 0; r < rows; r++) {
            g->ops->gate(act, gate + r * ld, up + r * ld, GEMM_COLS);
            g->kernels->row_to_bf16((uint16_t *)g->act.low_data + (row0 + r) * g->F + at * GEMM_COLS, act, GEMM_COLS);
        }
    }
    if (g->kernels->leave) g->kernels->leave();
}

static void middle_rows(void *ctx, int thread, int64_t from, int64_t to) {
    const gated *g = ctx;
    inner_rows(g, g->m->down, &g->down_inner, g->down_part, thread, from, to);
}

static void down_items(void *ctx, int thread, int64_t from, int64_t to) {
    const gated *g = ctx;
    cpu_product_items(g->b, &g->down, thread, from, to);
}

static gated open_gated(mr_backend *b, const mr_gated *m, int64_t n) {
    gated g = { .b = b, .kernels = gemm_kernels_for(cpu_of(b)->isa), .ops = cpu_kernels_of(b), .m = m, .n = n };
    g.threads = cpu_threads(b, product_work(n, m->gate_up->w));
    g.F = m->down->w->n_in;
    g.act = in_bf16(NULL, g.F, m->act);
    return g;
}

bool cpu_mlp(mr_backend *b, float *y, const float *x, const mr_gated *m, int N, const float *onto) {
    if (N < FEWEST || !serves(gemm_kernels_for(cpu_of(b)->isa), m, false)) return false;
    if (cpu_failed(b)) return true;
    gated g = open_gated(b, m, N);
    int64_t C = m->gate_up->w->n_in;
    void *low = cpu_scratch(b, CPU_SLOT_SHARED, input_bytes(N, C));
    char *at = cpu_scratch(b, CPU_SLOT_SHARED + 1, parts_bytes(m->gate_up, N) + parts_bytes(m->down, N) + 64);
    if (!low || !at) return true;
    cpu_start_from(y, onto, N * C);
    g.x = in_bf16(x, C, low);
    g.up = with_adapters(&g, m->gate_up, &g.x, m->gu, m->u_up, false, &g.up_inner, g.up_part, &at);
    g.down = with_adapters(&g, m->down, &g.act, y, m->u_down, onto != NULL, &g.down_inner, g.down_part, &at);
    clear_shape(&g.up);
    const int threads = g.threads;
    cpu_product_cut(&g.down, threads);
    int64_t n_gates = (N + g.up.block - 1) / g.up.block * (g.F / GEMM_COLS), grain = cpu_grain(N, g.kernels->tall, threads);
    const mr_work works[4] = { { first_rows, &g, N, grain },
                               items(gate_items, &g, n_gates, threads),
                               { middle_rows, &g, m->down->n_lora ? N : 0, grain },
                               items(down_items, &g, g.down.n_items, threads) };
    mr_parallel(cpu_of(b)->pool, threads, works, 4);
    return true;
}

/* --- backward --- */

/* One linear of the two: its outputs' gradient dy in, and its inputs' gradient out. */
typedef struct backward {
    gated g;
    const mr_linear *l;
    input dy, dy_part[3], du;
    bool prepared; /* dy is in bf16 already */
    const float *u;
    float *dx, *scaled; /* [N,R]: u times the scale of its part */
    gemm_product inner[3], base;
    gemm_tn grads[4];
    int64_t grad_items[4];
    int n_grads;
} backward;

static void backward_rows(void *ctx, int thread, int64_t from, int64_t to) {
    const backward *w = ctx;
    const mr_linear *l = w->l;
    if (!w->prepared) input_prepare(w->g.kernels, &w->dy, from, to);
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *o = &l->lora[i];
        gemm_product p = rows_of(w->inner[i], from, to);
        cpu_product_all(w->g.b, &p, thread);
        for (int64_t n = from; n < to; n++)
            for (int64_t at = n * l->r_total + o->r0, k = 0; k < o->r; k++) w->scaled[at + k] = o->scale * w->u[at + k];
    }
    if (l->n_lora) input_prepare(w->g.kernels, &w->du, from, to);
}

/* Items of down's base product: dact for a block of rows, and what becomes of it. */
static void gate_bwd_items(void *ctx, int thread, int64_t from, int64_t to) {
    const backward *w = ctx;
    const gated *g = &w->g;
    _Alignas(64) float dact[MOST * GEMM_COLS], act[GEMM_COLS], dg[GEMM_COLS], dup[GEMM_COLS];
    int64_t panels = g->F / GEMM_COLS, ld = 2 * g->F;
    for (int64_t i = from; i < to; i++) {
        int64_t at, row0 = place_of(&w->base, i, panels, &at), col0 = at * GEMM_COLS, left = g->n - row0;
        int64_t rows = left < w->base.block ? left : w->base.block;
        cpu_product_panel(g->b, &w->base, thread, at, panel_behind(g, &w->base, i, from, to, panels), row0, rows, dact,
                          GEMM_COLS);
        for (int64_t r = 0; r < rows; r++) {
            const float *gate = g->m->gu + (row0 + r) * ld + col0;
            uint16_t *to_act = (uint16_t *)(void *)g->m->act + (row0 + r) * g->F + col0;
            uint16_t *to_gu = (uint16_t *)(void *)g->m->dgu + (row0 + r) * ld + col0;
            g->ops->gate_bwd(act, dg, dup, dact + r * GEMM_COLS, gate, gate + g->F, GEMM_COLS);
            g->kernels->row_to_bf16(to_act, act, GEMM_COLS);
            g->kernels->row_to_bf16(to_gu, dg, GEMM_COLS);
            g->kernels->row_to_bf16(to_gu + g->F, dup, GEMM_COLS);
        }
    }
    if (g->kernels->leave) g->kernels->leave();
}

static void base_items(void *ctx, int thread, int64_t from, int64_t to) {
    const backward *w = ctx;
    cpu_product_items(w->g.b, &w->base, thread, from, to);
}

static void grad_items(void *ctx, int thread, int64_t from, int64_t to) {
    const backward *w = ctx;
    (void)thread;
    int64_t first = 0;
    for (int i = 0; i < w->n_grads; first += w->grad_items[i++]) {
        int64_t a = from > first ? from - first : 0, z = to - first < w->grad_items[i] ? to - first : w->grad_items[i];
        if (a < z) cpu_tn_items(w->g.b, &w->grads[i], a, z);
    }
}

static void add_grad(backward *w, gemm_tn t) {
    t.sp = t.n_q, t.sq = 1, t.n = w->g.n;
    w->grads[w->n_grads] = t;
    w->grad_items[w->n_grads] = cpu_tn_cut(&w->grads[w->n_grads]);
    w->n_grads++;
}

/* x: the linear's input, f32 or bf16, for A's gradient; dy: in either for B's. */
static void add_grads(backward *w, const void *x, bool x_bf16, int64_t ldx, const void *dy, bool dy_bf16) {
    const mr_linear *l = w->l;
    int64_t O = l->w->n_out;
    if (l->n_lora && l->da)
        add_grad(w, (gemm_tn){ .dst = l->da, .a = w->du.raw, .lda = l->r_total, .n_p = l->r_total, .x = x, .ldx = ldx,
                               .n_q = l->w->n_in, .x_bf16 = x_bf16 });
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *o = &l->lora[i];
        if (!o->db) continue;
        add_grad(w, (gemm_tn){ .dst = o->db, .a = (const char *)dy + o->row0 * (dy_bf16 ? 2 : 4), .lda = O,
                               .n_p = o->rows, .x = w->scaled + o->r0, .ldx = l->r_total, .n_q = o->r,
                               .a_bf16 = dy_bf16 });
    }
}

static bool open_backward(backward *w, const mr_linear *l, const input *dy, float *dx, const float *u) {
    gated *g = &w->g;
    int64_t R = l->r_total;
    *w = (backward){ .g = *g, .l = l, .dy = *dy, .u = u, .dx = dx };
    w->base = product(g->kernels, l->w, true, dy, g->n, dx, l->w->n_in, 1.0f, NULL, false);
    if (!l->n_lora) return true;
    size_t low = padded(input_bytes(g->n, R));
    char *at = cpu_scratch(g->b, CPU_SLOT_SHARED + 1, low + (size_t)(g->n * R) * sizeof(float));
    if (!at) return false;
    w->scaled = (float *)(void *)(at + low);
    w->du = in_bf16(g->m->du, R, at);
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *o = &l->lora[i];
        w->dy_part[i] = *dy;
        w->dy_part[i].k = o->rows;
        w->dy_part[i].low_data = (uint16_t *)dy->low_data + o->row0;
        w->inner[i] = product(g->kernels, o->b, true, &w->dy_part[i], g->n, g->m->du + o->r0, R, o->scale, NULL, false);
    }
    w->base.more[w->base.n_more++] = (gemm_more){ 0, l->w->n_in, R, w->du.low_data, w->du.ld_low, l->a->bwd, 1.0f };
    return true;
}

static void run_backward(backward *w, void (*base)(void *, int, int64_t, int64_t), int64_t n_base, int threads) {
    int64_t n_grads = 0;
    for (int i = 0; i < w->n_grads; i++) n_grads += w->grad_items[i];
    bool rows = !w->prepared || w->l->n_lora;
    const mr_work works[3] = { { backward_rows, w, rows ? w->g.n : 0, cpu_grain(w->g.n, w->g.kernels->tall, threads) },
                               items(base, w, n_base, threads),
                               items(grad_items, w, n_grads, threads) };
    mr_parallel(cpu_of(w->g.b)->pool, threads, works, 3);
}

bool cpu_mlp_bwd(mr_backend *b, float *dx, const float *dy, const float *x, const mr_gated *m, int N, bool again) {
    if (!serves(gemm_kernels_for(cpu_of(b)->isa), m, true)) return false;
    if (again) cpu_linear(b, m->gu, m->u_up, x, m->gate_up, N, NULL);
    if (cpu_failed(b) || N == 0) return true;
    int64_t C = m->gate_up->w->n_in;
    void *low = cpu_scratch(b, CPU_SLOT_SHARED, input_bytes(N, C));
    if (!low) return true;
    backward w = { .g = open_gated(b, m, N) };
    const int threads = w.g.threads;
    input from = in_bf16(dy, C, low);
    if (!open_backward(&w, m->down, &from, NULL, m->u_down)) return true;
    clear_shape(&w.base);
    add_grads(&w, m->act, true, w.g.F, dy, false);
    run_backward(&w, gate_bwd_items, (N + w.base.block - 1) / w.base.block * (w.g.F / GEMM_COLS), threads);

    from = in_bf16(NULL, 2 * w.g.F, m->dgu);
    if (!open_backward(&w, m->gate_up, &from, dx, m->u_up)) return true;
    w.prepared = true;
    cpu_product_cut(&w.base, threads);
    add_grads(&w, x, false, C, m->dgu, true);
    run_backward(&w, base_items, w.base.n_items, threads);
    return true;
}
