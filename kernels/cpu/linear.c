/* linear.c - a linear layer with its adapters, forward and backward (kernels.h; LoRA: arXiv:2106.09685, eq. 3).
 *
 * A layer runs in one parallel region with barriers between its steps, since regions cost more than the small products
 * of decoding. With oneDNN the base product stands between two regions. */
#include <assert.h>

#include "cpu/dnnl.h"

/* How a weight's products read their rows: as they are, as bf16, or as f32 that was rounded to bf16 (no bf16
 * instruction). */
typedef enum view { VIEW_RAW, VIEW_BF16, VIEW_ROUNDED } view;

static view view_of(const gemm_kernels *kernels, const mr_weight *w) {
    if (w->compute == MR_F32) return VIEW_RAW;
    return kernels->bf16 || w->dnnl_fwd || w->dnnl_bwd ? VIEW_BF16 : VIEW_ROUNDED;
}

static int64_t even(int64_t n) {
    return n + (n & 1);
}

/* A matrix in the caller's f32 and, where a product wants it, in a lower view. */
typedef struct input {
    const float *raw;
    int64_t ld_raw, k;
    view low;       /* VIEW_RAW: no lower view */
    void *low_data; /* [N][ld_low] */
    int64_t ld_low;
} input;

static size_t input_bytes(int64_t n, int64_t k) {
    return (size_t)n * (size_t)even(k) * sizeof(float);
}

/* This thread's rows of the lower view. */
static void input_prepare(const gemm_kernels *kernels, const input *in, int64_t n_rows, int thread, int n_threads) {
    if (in->low == VIEW_RAW) return;
    int64_t from, to;
    cpu_range(&from, &to, n_rows, 1, thread, n_threads);
    for (int64_t r = from; r < to; r++) {
        const float *src = in->raw + r * in->ld_raw;
        if (in->low == VIEW_BF16) {
            uint16_t *dst = (uint16_t *)in->low_data + r * in->ld_low;
            kernels->to_bf16(dst, src, in->k);
            if (in->k & 1) dst[in->k] = 0;
        } else {
            kernels->round_bf16((float *)in->low_data + r * in->ld_low, src, in->k);
        }
    }
}

/* Our own kernels' product of `in` (columns from col0) with w. */
static gemm_product product(const gemm_kernels *kernels, const mr_weight *w, bool backward, const input *in,
                            int64_t n_rows, float *y, int64_t ldy, float alpha, const float *bias, bool add) {
    view v = view_of(kernels, w);
    gemm_product p = {
        .y = y,
        .ldy = ldy,
        .n_rows = n_rows,
        .n_cols = backward ? w->n_in : w->n_out,
        .k = backward ? w->n_out : w->n_in,
        .x_type = v == VIEW_BF16 ? GEMM_X_BF16 : GEMM_X_F32,
        .x = v == VIEW_RAW ? (const void *)in->raw : in->low_data,
        .ldx = v == VIEW_RAW ? in->ld_raw : in->ld_low,
        .w_type = weight_panel_type(w),
        .panels = backward ? w->bwd : w->fwd,
        .nf4 = w->store == MR_NF4 ? w : NULL,
        .backward = backward,
        .bias = bias,
        .alpha = alpha,
        .add = add,
    };
    assert(v == VIEW_RAW || in->low == v);
    assert(in->k == p.k && (p.panels || p.nf4));
    return p;
}

/* Nanoseconds, about: arithmetic for many rows, memory for few. */
static double product_work(int64_t n, const mr_weight *w) {
    double rows = (double)n / 100.0;
    return (double)w->n_out * (double)w->n_in * (rows > 0.1 ? rows : 0.1);
}

/* The lower view that x needs when it meets both weights (a may be NULL); where both are lower they agree. */
static view lower_view(const gemm_kernels *kernels, const mr_weight *w, const mr_weight *a) {
    view v = view_of(kernels, w);
    return v == VIEW_RAW && a ? view_of(kernels, a) : v;
}

static bool sees(view v) {
    return v != VIEW_RAW;
}

/* --- forward --- */

typedef struct forward {
    mr_backend *b;
    const gemm_kernels *kernels;
    const mr_linear *l;
    float *y, *u;
    int64_t n;
    bool add;
    input x, u_part[3];
} forward;

static void forward_before(const forward *f, int t, int nt) {
    input_prepare(f->kernels, &f->x, f->n, t, nt);
    if (!f->u) return;
#pragma omp barrier
    gemm_product p = product(f->kernels, f->l->a, false, &f->x, f->n, f->u, f->l->r_total, 1.0f, NULL, false);
    cpu_product_part(f->b, &p, t, nt);
#pragma omp barrier
    for (int i = 0; i < f->l->n_lora; i++) input_prepare(f->kernels, &f->u_part[i], f->n, t, nt);
}

static void forward_base(const forward *f, int t, int nt) {
    const mr_linear *l = f->l;
    gemm_product p = product(f->kernels, l->w, false, &f->x, f->n, f->y, l->w->n_out, 1.0f, l->bias, f->add);
    cpu_product_part(f->b, &p, t, nt);
}

/* The parts have columns of y to themselves. */
static void forward_after(const forward *f, int t, int nt) {
    const mr_linear *l = f->l;
    for (int i = 0; f->u && i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        gemm_product p = product(f->kernels, part->b, false, &f->u_part[i], f->n, f->y + part->row0, l->w->n_out,
                                 part->scale, NULL, true);
        cpu_product_part(f->b, &p, t, nt);
    }
}

/* The adapters' inner values by parts, in scratch that begins at `at`. */
static void inner_parts(const gemm_kernels *kernels, input parts[3], const mr_linear *l, const float *u, int64_t n,
                        char *at) {
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        parts[i] = (input){
            .raw = u + part->r0,
            .ld_raw = l->r_total,
            .k = part->r,
            .low = view_of(kernels, part->b),
            .low_data = at,
            .ld_low = even(part->r),
        };
        at += (input_bytes(n, part->r) + 63) & ~(size_t)63;
    }
}

static size_t inner_bytes(const mr_linear *l, int64_t n) {
    size_t bytes = 64;
    for (int i = 0; i < l->n_lora; i++) bytes += (input_bytes(n, l->lora[i].r) + 63) & ~(size_t)63;
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

void cpu_linear(mr_backend *b, float *y, float *u, const float *x, const mr_linear *l, int N, bool add) {
    if (cpu_failed(b) || N == 0) return;
    check(l);
    assert(!l->n_lora || u);
    const gemm_kernels *kernels = gemm_kernels_for(cpu_of(b)->isa);
    bool library = l->w->dnnl_fwd != NULL;
    int64_t I = l->w->n_in;
    forward f = { .b = b, .kernels = kernels, .l = l, .y = y, .u = l->n_lora ? u : NULL, .n = N, .add = add };
    f.x = (input){
        .raw = x, .ld_raw = I, .k = I, .low = lower_view(kernels, l->w, l->n_lora ? l->a : NULL), .ld_low = even(I)
    };
    if (sees(f.x.low) && !(f.x.low_data = cpu_scratch(b, CPU_SLOT_SHARED, input_bytes(N, I)))) return;
    if (f.u) {
        char *at = cpu_scratch(b, CPU_SLOT_SHARED + 1, inner_bytes(l, N));
        if (!at) return;
        inner_parts(kernels, f.u_part, l, f.u, N, at);
    }
    int threads = cpu_threads(b, product_work(N, l->w));
    if (!library) {
#pragma omp parallel num_threads(threads)
        {
            int t = omp_get_thread_num(), nt = omp_get_num_threads();
            forward_before(&f, t, nt);
            if (sees(f.x.low) && !f.u) {
#pragma omp barrier
            }
            forward_base(&f, t, nt);
            if (f.u) {
#pragma omp barrier
                forward_after(&f, t, nt);
            }
        }
        return;
    }
#pragma omp parallel num_threads(threads)
    forward_before(&f, omp_get_thread_num(), omp_get_num_threads());
    bool low = view_of(kernels, l->w) == VIEW_BF16;
    if (!cpu_dnnl_product(b, "linear", l->w, false, y, low ? f.x.low_data : x, low ? f.x.ld_low : I, N, l->bias, add))
        return;
    if (f.u) {
#pragma omp parallel num_threads(threads)
        forward_after(&f, omp_get_thread_num(), omp_get_num_threads());
    }
}

/* --- backward --- */

typedef struct backward {
    mr_backend *b;
    const gemm_kernels *kernels;
    const mr_linear *l;
    float *dx, *du;
    const float *x, *u;
    int64_t n;
    bool add, inner;  /* inner: du is wanted */
    bool own_part[3]; /* dy_part[i] is a copy, no slice of dy */
    input dy, dy_part[3], du_all;
} backward;

static void backward_before(const backward *g, int t, int nt) {
    const mr_linear *l = g->l;
    input_prepare(g->kernels, &g->dy, g->n, t, nt);
    if (!g->inner) return;
    for (int i = 0; i < l->n_lora; i++)
        if (g->own_part[i]) input_prepare(g->kernels, &g->dy_part[i], g->n, t, nt);
#pragma omp barrier
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        gemm_product p = product(g->kernels, part->b, true, &g->dy_part[i], g->n, g->du + part->r0, l->r_total,
                                 part->scale, NULL, false);
        cpu_product_part(g->b, &p, t, nt);
    }
#pragma omp barrier
    input_prepare(g->kernels, &g->du_all, g->n, t, nt);
}

static void backward_base(const backward *g, int t, int nt) {
    const mr_weight *w = g->l->w;
    gemm_product p = product(g->kernels, w, true, &g->dy, g->n, g->dx, w->n_in, 1.0f, NULL, g->add);
    cpu_product_part(g->b, &p, t, nt);
}

static void backward_after(const backward *g, int t, int nt) {
    const mr_linear *l = g->l;
    int64_t I = l->w->n_in, O = l->w->n_out;
    if (g->dx && g->inner) {
        gemm_product p = product(g->kernels, l->a, true, &g->du_all, g->n, g->dx, I, 1.0f, NULL, true);
        cpu_product_part(g->b, &p, t, nt);
    }
    if (g->inner && l->da)
        cpu_product_tn_part(g->b, l->da, I, 1, g->du, l->r_total, l->r_total, g->x, I, I, g->n, 1.0f, t, nt);
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        if (part->db)
            cpu_product_tn_part(g->b, part->db, part->r, 1, g->dy.raw + part->row0, O, part->rows, g->u + part->r0,
                                l->r_total, part->r, g->n, part->scale, t, nt);
    }
    if (l->dw) cpu_product_tn_part(g->b, l->dw, I, 1, g->dy.raw, O, O, g->x, I, I, g->n, 1.0f, t, nt);
    if (l->dbias) {
        int64_t from, to;
        cpu_range(&from, &to, O, 16, t, nt);
        for (int64_t r = 0; r < g->n; r++)
            for (int64_t o = from; o < to; o++) l->dbias[o] += g->dy.raw[r * O + o];
    }
}

void cpu_linear_bwd(mr_backend *b, float *dx, float *du, const float *dy, const float *x, const float *u,
                    const mr_linear *l, int N, bool add) {
    if (cpu_failed(b) || N == 0) return;
    check(l);
    const gemm_kernels *kernels = gemm_kernels_for(cpu_of(b)->isa);
    bool library = dx && l->w->dnnl_bwd, inner = l->n_lora && (dx || l->da);
    assert(!inner || du);
    int64_t O = l->w->n_out;
    backward g = {
        .b = b, .kernels = kernels, .l = l, .dx = dx, .du = du, .x = x, .u = u, .n = N, .add = add, .inner = inner
    };
    view low = dx ? view_of(kernels, l->w) : VIEW_RAW;
    size_t bytes = (input_bytes(N, O) + 63) & ~(size_t)63;
    for (int i = 0; inner && i < l->n_lora; i++) {
        low = low == VIEW_RAW ? view_of(kernels, l->lora[i].b) : low;
        bytes += (input_bytes(N, l->lora[i].rows) + 63) & ~(size_t)63;
    }
    g.dy = (input){ .raw = dy, .ld_raw = O, .k = O, .low = low, .ld_low = even(O) };
    if (sees(low) && !(g.dy.low_data = cpu_scratch(b, CPU_SLOT_SHARED, bytes))) return;
    if (inner) {
        char *at = (char *)g.dy.low_data + (sees(low) ? (input_bytes(N, O) + 63) & ~(size_t)63 : 0);
        for (int i = 0; i < l->n_lora; i++) {
            const mr_lora_part *part = &l->lora[i];
            input *p = &g.dy_part[i];
            *p = (input){ .raw = dy + part->row0, .ld_raw = O, .k = part->rows, .low = low };
            if (!sees(low)) continue;
            if (low == VIEW_BF16 && part->rows & 1) { /* a pair must not reach into the next part */
                g.own_part[i] = true;
                p->low_data = at, p->ld_low = even(part->rows);
                at += (input_bytes(N, part->rows) + 63) & ~(size_t)63;
            } else {
                p->low_data = (char *)g.dy.low_data + (size_t)part->row0 * (low == VIEW_BF16 ? 2 : 4);
                p->ld_low = g.dy.ld_low;
            }
        }
        view low_a = dx ? view_of(kernels, l->a) : VIEW_RAW;
        g.du_all =
            (input){ .raw = du, .ld_raw = l->r_total, .k = l->r_total, .low = low_a, .ld_low = even(l->r_total) };
        if (sees(low_a) && !(g.du_all.low_data = cpu_scratch(b, CPU_SLOT_SHARED + 1, input_bytes(N, l->r_total))))
            return;
    }
    int threads = cpu_threads(b, product_work(N, l->w));
    if (!library) {
#pragma omp parallel num_threads(threads)
        {
            int t = omp_get_thread_num(), nt = omp_get_num_threads();
            backward_before(&g, t, nt);
#pragma omp barrier
            if (g.dx) {
                backward_base(&g, t, nt);
#pragma omp barrier
            }
            backward_after(&g, t, nt);
        }
        return;
    }
#pragma omp parallel num_threads(threads)
    backward_before(&g, omp_get_thread_num(), omp_get_num_threads());
    bool w_low = view_of(kernels, l->w) == VIEW_BF16;
    if (!cpu_dnnl_product(b, "linear_bwd", l->w, true, dx, w_low ? g.dy.low_data : dy, w_low ? g.dy.ld_low : O, N, NULL,
                          add))
        return;
#pragma omp parallel num_threads(threads)
    backward_after(&g, omp_get_thread_num(), omp_get_num_threads());
}
