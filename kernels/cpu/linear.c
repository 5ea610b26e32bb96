/* linear.c - a linear layer with its adapters, forward and backward (kernels.h; LoRA: arXiv:2106.09685, eq. 3).
 *
 * A layer is one call of the pool with two works: by rows, the rows' lower views and the adapters' inner values; then
 * the products by panels, where the base product's sums begin with the adapter's. */
#include "cpu/linear.h"

/* Too little to wake anybody: about this many values are converted in the time. */
enum { ALONE = 64 * 1024 };

/* Few rows read the weights from memory, and fetch ahead what lies behind them: neighbors for the same thread. */
static int64_t run_of(int64_t n_items, int n_threads) {
    int64_t run = n_items / (2 * n_threads);
    return run < 1 ? 1 : run > 8 ? 8 : run;
}

/* --- forward --- */

typedef struct forward {
    mr_backend *b;
    const gemm_kernels *kernels;
    const mr_linear *l;
    float *u;
    int64_t n;
    input x, u_part[3];
    gemm_product inner, base, outer[3];
} forward;

static void forward_rows(void *ctx, int thread, int64_t from, int64_t to) {
    const forward *f = ctx;
    input_prepare(f->kernels, &f->x, from, to);
    if (!f->u) return;
    gemm_product p = rows_of(f->inner, from, to);
    cpu_product_all(f->b, &p, thread);
    for (int i = 0; i < f->l->n_lora; i++) input_prepare(f->kernels, &f->u_part[i], from, to);
}

static void forward_base(void *ctx, int thread, int64_t from, int64_t to) {
    const forward *f = ctx;
    cpu_product_items(f->b, &f->base, thread, from, to);
}

/* The parts have columns of y to themselves. */
static void forward_outer(void *ctx, int thread, int64_t from, int64_t to) {
    const forward *f = ctx;
    for (int i = 0; i < f->l->n_lora; i++) {
        gemm_product p = rows_of(f->outer[i], from, to);
        cpu_product_all(f->b, &p, thread);
    }
}

/* The adapters' inner values by parts, in scratch that begins at `at`. */
static void inner_parts(forward *f, char *at) {
    const mr_linear *l = f->l;
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        f->u_part[i] = (input){
            .raw = f->u + part->r0,
            .ld_raw = l->r_total,
            .k = part->r,
            .low = view_of(f->kernels, part->b),
            .low_data = at,
            .ld_low = units(part->r),
        };
        at += padded(input_bytes(f->n, part->r));
    }
}

static size_t inner_bytes(const mr_linear *l, int64_t n) {
    size_t bytes = 64;
    for (int i = 0; i < l->n_lora; i++) bytes += padded(input_bytes(n, l->lora[i].r));
    return bytes;
}

static void check(const mr_linear *l) {
    assert(l->w && l->n_lora >= 0 && l->n_lora <= 3);
    assert(!l->n_lora || (l->a && l->a->n_out == l->r_total && l->a->n_in == l->w->n_in));
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *p = &l->lora[i];
        assert(p->row0 >= 0 && p->rows > 0 && p->row0 + p->rows <= l->w->n_out);
        assert(p->r0 >= 0 && p->r > 0 && p->r0 + p->r <= l->r_total);
        assert(p->b && p->b->n_out == p->rows && p->b->n_in == p->r);
        (void)p;
    }
}

void cpu_linear(mr_backend *b, float *y, float *u, const float *x, const mr_linear *l, int N, const float *onto) {
    if (cpu_failed(b) || N == 0) return;
    check(l);
    assert(!l->n_lora || u);
    cpu_start_from(y, onto, N * l->w->n_out);
    const gemm_kernels *kernels = gemm_kernels_for(cpu_of(b)->isa);
    int64_t I = l->w->n_in, O = l->w->n_out;
    forward f = { .b = b, .kernels = kernels, .l = l, .u = l->n_lora ? u : NULL, .n = N };
    f.x = (input){
        .raw = x, .ld_raw = I, .k = I, .low = lower_view(kernels, l->w, l->n_lora ? l->a : NULL), .ld_low = units(I)
    };
    if (sees(f.x.low) && !(f.x.low_data = cpu_scratch(b, CPU_SLOT_SHARED, input_bytes(N, I)))) return;
    int threads = cpu_threads(b, product_work(N, l->w));
    bool fused = f.u != NULL;
    if (f.u) {
        char *at = cpu_scratch(b, CPU_SLOT_SHARED + 1, inner_bytes(l, N));
        if (!at) return;
        inner_parts(&f, at);
        f.inner = product(kernels, l->a, false, &f.x, N, u, l->r_total, 1.0f, NULL, false);
        for (int i = 0; i < l->n_lora; i++) {
            const mr_lora_part *part = &l->lora[i];
            f.outer[i] = product(kernels, part->b, false, &f.u_part[i], N, y + part->row0, O, part->scale, NULL,
                                 true);
            fused = fused && part->row0 % GEMM_COLS == 0 && continues(kernels, l->w, part->b, false);
            if (f.u_part[i].low == VIEW_BF16 && folds(kernels, part->scale)) {
                f.u_part[i].factor = part->scale;
                f.outer[i].alpha = 1.0f;
            }
        }
    }
    f.base = product(kernels, l->w, false, &f.x, N, y, O, 1.0f, l->bias, onto != NULL);
    for (int i = 0; fused && i < l->n_lora; i++) {
        const gemm_product *p = &f.outer[i];
        f.base.more[f.base.n_more++] =
            (gemm_more){ l->lora[i].row0, p->n_cols, p->k, p->x, p->ldx, p->panels, p->alpha };
    }
    cpu_product_cut(&f.base, threads);
    mr_work works[3] = { { forward_rows, &f, N, cpu_grain(N, f.base.tall, threads) } };
    int n_works = 1;
    if (!f.u && N * I <= ALONE) {
        forward_rows(&f, 0, 0, N);
        n_works = 0;
    }
    works[n_works] = items(forward_base, &f, f.base.n_items, threads);
    if (N <= f.base.tall) works[n_works].grain = run_of(f.base.n_items, threads);
    n_works++;
    if (f.u && !fused) works[n_works++] = (mr_work){ forward_outer, &f, N, cpu_grain(N, GEMM_ROWS, threads) };
    mr_parallel(cpu_of(b)->pool, threads, works, n_works);
}

/* --- backward --- */

typedef struct backward {
    mr_backend *b;
    const gemm_kernels *kernels;
    const mr_linear *l;
    int64_t n;
    bool inner;       /* du is wanted */
    bool own_part[3]; /* dy_part[i] is a copy, no slice of dy */
    input dy, dy_part[3], du_all;
    const float *u;
    float *scaled; /* [N,R]: u times the scale of its part, for the gradients of B; NULL: nobody wants them */
    gemm_product du[3], base, outer;
    gemm_tn grads[5]; /* da, each db, dw */
    int64_t grad_items[5];
    int n_grads;
} backward;

/* Scaled before the sums, not after: so that a gradient is one chain over the rows of all packs. */
static void scale_inner(const backward *g, int64_t from, int64_t to) {
    const mr_linear *l = g->l;
    for (int64_t n = from; n < to; n++)
        for (int i = 0; i < l->n_lora; i++) {
            int64_t at = n * l->r_total + l->lora[i].r0;
            for (int k = 0; k < l->lora[i].r; k++) g->scaled[at + k] = l->lora[i].scale * g->u[at + k];
        }
}

static void backward_rows(void *ctx, int thread, int64_t from, int64_t to) {
    const backward *g = ctx;
    if (g->scaled) scale_inner(g, from, to);
    input_prepare(g->kernels, &g->dy, from, to);
    if (!g->inner) return;
    for (int i = 0; i < g->l->n_lora; i++) {
        if (g->own_part[i]) input_prepare(g->kernels, &g->dy_part[i], from, to);
        gemm_product p = rows_of(g->du[i], from, to);
        cpu_product_all(g->b, &p, thread);
    }
    input_prepare(g->kernels, &g->du_all, from, to);
}

static void backward_base(void *ctx, int thread, int64_t from, int64_t to) {
    const backward *g = ctx;
    cpu_product_items(g->b, &g->base, thread, from, to);
}

static void backward_outer(void *ctx, int thread, int64_t from, int64_t to) {
    const backward *g = ctx;
    gemm_product p = rows_of(g->outer, from, to);
    cpu_product_all(g->b, &p, thread);
}

static void backward_grads(void *ctx, int thread, int64_t from, int64_t to) {
    const backward *g = ctx;
    (void)thread;
    int64_t first = 0;
    for (int i = 0; i < g->n_grads; first += g->grad_items[i++]) {
        int64_t a = from > first ? from - first : 0, z = to - first < g->grad_items[i] ? to - first : g->grad_items[i];
        if (a < z) cpu_tn_items(g->b, &g->grads[i], a, z);
    }
}

static void add_grad(backward *g, float *dst, const float *a, int64_t lda, int64_t n_p, const float *x, int64_t ldx,
                     int64_t n_q) {
    gemm_tn *t = &g->grads[g->n_grads];
    *t = (gemm_tn){ dst, n_q, 1, a, lda, n_p, x, ldx, n_q, g->n, false, false };
    g->grad_items[g->n_grads++] = cpu_tn_cut(t);
}

/* dy's views: slices of one lower copy where units allow it. Needs bytes_of_dy of scratch. */
static void dy_views(backward *g, const float *dy, view low, char *at) {
    const mr_linear *l = g->l;
    int64_t O = l->w->n_out;
    g->dy = (input){ .raw = dy, .ld_raw = O, .k = O, .low = low, .low_data = at, .ld_low = units(O) };
    at += sees(low) ? padded(input_bytes(g->n, O)) : 0;
    for (int i = 0; g->inner && i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        input *p = &g->dy_part[i];
        *p = (input){ .raw = dy + part->row0, .ld_raw = O, .k = part->rows, .low = low };
        if (!sees(low)) continue;
        if (low == VIEW_BF16 && part->rows % GEMM_K_UNIT) { /* a unit must not reach into the next part */
            g->own_part[i] = true;
            p->low_data = at, p->ld_low = units(part->rows);
            at += padded(input_bytes(g->n, part->rows));
        } else {
            p->low_data = (char *)g->dy.low_data + (size_t)part->row0 * (low == VIEW_BF16 ? 2 : 4);
            p->ld_low = g->dy.ld_low;
        }
    }
}

static size_t bytes_of_dy(const mr_linear *l, int64_t n) {
    size_t bytes = padded(input_bytes(n, l->w->n_out));
    for (int i = 0; i < l->n_lora; i++)
        if (l->lora[i].rows % GEMM_K_UNIT) bytes += padded(input_bytes(n, l->lora[i].rows));
    return bytes;
}

/* dbias in row order. */
static void add_bias_grad(float *dbias, const float *dy, int64_t n, int64_t O) {
    for (int64_t r = 0; r < n; r++)
        for (int64_t o = 0; o < O; o++) dbias[o] += dy[r * O + o];
}

void cpu_linear_bwd(mr_backend *b, float *dx, float *du, const float *dy, const float *x, const float *u,
                    const mr_linear *l, int N, bool add) {
    if (cpu_failed(b) || N == 0) return;
    check(l);
    const gemm_kernels *kernels = gemm_kernels_for(cpu_of(b)->isa);
    int64_t O = l->w->n_out, I = l->w->n_in, R = l->r_total;
    backward g = { .b = b, .kernels = kernels, .l = l, .n = N, .inner = l->n_lora && (dx || l->da) };
    bool fused = dx && g.inner && continues(kernels, l->w, l->a, true);
    assert(!g.inner || du);
    view low = dx ? view_of(kernels, l->w) : VIEW_RAW;
    for (int i = 0; g.inner && i < l->n_lora && low == VIEW_RAW; i++) low = view_of(kernels, l->lora[i].b);
    char *at = sees(low) ? cpu_scratch(b, CPU_SLOT_SHARED, bytes_of_dy(l, N)) : NULL;
    if (sees(low) && !at) return;
    dy_views(&g, dy, low, at);
    for (int i = 0; i < l->n_lora; i++)
        if (l->lora[i].db) g.u = u;
    size_t low_du = padded(input_bytes(N, R));
    size_t more = g.u ? (size_t)(N * R) * sizeof(float) : 0;
    char *inner = l->n_lora ? cpu_scratch(b, CPU_SLOT_SHARED + 1, low_du + more) : NULL;
    if (l->n_lora && !inner) return;
    if (g.u) g.scaled = (float *)(void *)(inner + low_du);
    if (g.inner) {
        view low_a = dx ? view_of(kernels, l->a) : VIEW_RAW;
        g.du_all = (input){ .raw = du, .ld_raw = R, .k = R, .low = low_a, .low_data = inner, .ld_low = units(R) };
        for (int i = 0; i < l->n_lora; i++)
            g.du[i] = product(kernels, l->lora[i].b, true, &g.dy_part[i], N, du + l->lora[i].r0, R, l->lora[i].scale,
                              NULL, false);
        if (dx) g.outer = product(kernels, l->a, true, &g.du_all, N, dx, I, 1.0f, NULL, true);
        if (l->da) add_grad(&g, l->da, du, R, R, x, I, I);
    }
    for (int i = 0; i < l->n_lora; i++)
        if (l->lora[i].db)
            add_grad(&g, l->lora[i].db, dy + l->lora[i].row0, O, l->lora[i].rows, g.scaled + l->lora[i].r0, R,
                     l->lora[i].r);
    if (l->dw) add_grad(&g, l->dw, dy, O, O, x, I, I);

    int threads = cpu_threads(b, product_work(N, l->w)), n_works = 1;
    mr_work works[4] = { { backward_rows, &g, N, cpu_grain(N, kernels->tall, threads) } };
    if (dx) {
        g.base = product(kernels, l->w, true, &g.dy, N, dx, I, 1.0f, NULL, add);
        if (fused) g.base.more[g.base.n_more++] = (gemm_more){ 0, I, R, g.outer.x, g.outer.ldx, g.outer.panels, 1.0f };
        cpu_product_cut(&g.base, threads);
        works[n_works++] = items(backward_base, &g, g.base.n_items, threads);
    }
    if (dx && g.inner && !fused)
        works[n_works++] = (mr_work){ backward_outer, &g, N, cpu_grain(N, GEMM_ROWS, threads) };
    int64_t n_grad_items = 0;
    for (int i = 0; i < g.n_grads; i++) n_grad_items += g.grad_items[i];
    if (n_grad_items) works[n_works++] = items(backward_grads, &g, n_grad_items, threads);
    mr_parallel(cpu_of(b)->pool, threads, works, n_works);
    if (l->dbias) add_bias_grad(l->dbias, dy, N, O);
}

/* --- scratch, ahead of time --- */

cpu_linear_room cpu_linear_needs(mr_backend *b, const mr_weight_info *w, const mr_room *room) {
    size_t n = (size_t)room->rows;
    bool bwd = room->uses & MR_USE_BWD;
    /* a float a row for norms and a few for a span of attention; backward a float a head */
    cpu_linear_room x = { n * (64 + sizeof(float) * (size_t)room->heads), n + 256, 0 };
    if (w->compute != MR_F32) {
        size_t in = input_bytes(room->rows, w->n_in), out = bwd ? padded(input_bytes(room->rows, w->n_out)) : 0;
        /* parts that end within a unit have a copy; of the parts' sizes only these are known */
        bool cut = w->n_out / 2 % GEMM_K_UNIT || room->kv_heads * room->head_dim % GEMM_K_UNIT;
        if (bwd && room->rank && cut) out += padded(input_bytes(room->rows, w->n_out + 2 * GEMM_K_UNIT)) + 3 * 64;
        size_t most = in > out ? in : out;
        if (most > x.rows) x.rows = most;
    }
    /* three parts at most; those of down beside gate_up's, whose rank is half of theirs (mlp.c) */
    if (room->rank) x.inner += n * (size_t)(room->rank + room->rank / 2 + 3 * GEMM_K_UNIT) * sizeof(float) + 5 * 64;
    if (room->rank && bwd) x.inner += n * (size_t)room->rank * sizeof(float);
    bool deep = w->n_in > GEMM_K_BLOCK || (bwd && w->n_out > GEMM_K_BLOCK);
    if (deep || w->store == MR_NF4) x.thread = cpu_product_scratch(b, w);
    size_t chunk = bwd && room->head_dim ? cpu_attention_bwd_scratch(room->head_dim) : 0;
    if (chunk > x.thread) x.thread = chunk;
    return x;
}
