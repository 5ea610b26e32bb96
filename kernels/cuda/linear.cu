/* linear.cu - a linear layer with its adapters, forward and backward (kernels.h; LoRA: arXiv:2106.09685, eq. 3). The
 * products are those of gemm.cuh. */
#include <assert.h>

#include "cuda/gemm.cuh"

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

/* One side of a product of many rows: f32 rows of `cols` values, ld apart, and their 16-bit copy. */
typedef struct side {
    const float *rows;
    int64_t ld, cols;
} side;

/* What product asks of its slot at most, for any number of rows up to n: more rows may mean fewer segments at a time. */
static size_t product_bytes(int64_t n, int64_t cols) {
    size_t most = 0;
    int64_t ld = cu_round(cols, 8);
    for (int64_t segments = 1;; segments++) {
        int64_t rows = CU_SLAB / CU_K_SEGMENT / segments; /* the most with that many */
        if (rows > cu_slab_rows(n)) rows = cu_slab_rows(n);
        cu_at_least(&most, (size_t)(rows * cu_slab_columns(ld, rows)) * sizeof(u16));
        if (cu_slab_columns(ld, rows) == ld) return most;
    }
}

/* One of the products that rows in 16 bits go into: columns [from, from + k) of them times w. */
typedef struct target {
    float *y;
    int64_t ldy;
    const u16 *w;
    int64_t ldw, n_cols, from, k;
    bool add;
    float alpha;
    const float *bias;
} target;

/* Rows are converted once for all targets, in slabs, in `slot`; a slab begins with a segment of K of those that go on in it. Targets that begin
 * or end inside x's columns want them all in one slab: up to CU_K_SEGMENT. tail: columns that follow x's (a multiple of 8), converted when the
 * targets before the first that has them are done; or no columns. */
static void products(mr_backend *b, const char *op, int slot, int type, side x, side tail, bool backward, int64_t n,
                     const target *t, int n_targets) {
    int64_t cols = x.cols + tail.cols, slab = cu_slab_rows(n), ldx = cu_slab_columns(cu_round(cols, 8), slab);
    u16 *rows = (u16 *)cu_scratch(b, op, slot, (size_t)(slab * ldx) * sizeof(u16));
    if (!rows) return;
    for (int64_t at = 0; at < n; at += slab)
        for (int64_t k = 0; k < cols; k += ldx) {
            int64_t part = n - at < slab ? n - at : slab, columns = cols - k < ldx ? cols - k : ldx,
                    width = cu_round(columns, 8);
            int64_t own = x.cols - k < columns ? x.cols - k : columns;
            if (own < 0) own = 0;
            cu_to_half(b, op, type, rows, ldx, own < columns ? own : width, x.rows + at * x.ld + k, x.ld, part, own);
            bool whole = own == columns;
            for (int i = 0; i < n_targets; i++) {
                int64_t from = t[i].from > k ? t[i].from : k, end = t[i].from + t[i].k, done = from - t[i].from;
                if (!whole && end > x.cols) {
                    cu_to_half(b, op, type, rows + own, ldx, width - own, tail.rows + at * tail.ld + (k + own - x.cols),
                               tail.ld, part, columns - own);
                    whole = true;
                }
                if (end > k + columns) end = k + columns;
                assert((t[i].from == 0 && t[i].k >= x.cols) || ldx >= cols);
                if (end <= from) continue;
                dense_product p = { t[i].y + at * t[i].ldy,
                                    t[i].ldy,
                                    rows + from - k,
                                    ldx,
                                    t[i].w + (backward ? done * t[i].ldw : done),
                                    t[i].ldw,
                                    part,
                                    t[i].n_cols,
                                    end - from,
                                    backward,
                                    t[i].add || done > 0,
                                    t[i].alpha,
                                    end == t[i].from + t[i].k ? t[i].bias : NULL };
                cu_dense(b, op, type, &p);
            }
        }
}
static const side nothing = { NULL, 0, 0 };

/* y (+)= alpha * x @ w^T (or x @ w) for any number of rows and any weight. */
static void product(mr_backend *b, const char *op, int slot, float *y, int64_t ldy, side x, const mr_weight *w, bool backward,
                    int64_t n, bool add, float alpha, const float *bias) {
    int64_t n_cols = backward ? w->n_in : w->n_out, ldw;
    assert(x.cols == (backward ? w->n_out : w->n_in));
    if (w->compute == MR_F32) {
        f32_product p = { y, ldy, x.rows, x.ld, view_of(w), n, n_cols, x.cols, backward, add, alpha, bias };
        cu_f32(b, op, &p);
        return;
    }
    const u16 *half = cu_weight_half(b, op, w, 0, &ldw);
    target t = { y, ldy, half, ldw, n_cols, 0, x.cols, add, alpha, bias };
    if (half) products(b, op, slot, half_type(w->compute), x, nothing, backward, n, &t, 1);
}

/* Whether the other weight's rows can be the converted rows of w, and its matrix lies beside w's unpacked one. */
static bool shares(const mr_weight *w, const mr_weight *other) {
    return w->compute != MR_F32 && other->compute == w->compute && other->store != MR_NF4;
}

/* --- forward --- */

static size_t inner_bytes(int64_t n, int64_t ld) { return (size_t)(n * ld < CU_SLAB ? n * ld : (int64_t)CU_SLAB) * sizeof(u16); }

/* LoRA's second products of many rows, from one 16-bit copy of u. False, and nothing is done, where parts begin in the middle of 16 bytes. */
static bool parts_together(mr_backend *b, float *y, const float *u, const mr_linear *l, int N) {
    int64_t ldx = cu_round(l->r_total, 8);
    mr_dtype compute = l->lora[0].b->compute;
    if (compute == MR_F32 || ldx * N > CU_SLAB) return false;
    for (int i = 0; i < l->n_lora; i++)
        if (l->lora[i].r0 % 8 || l->lora[i].r % 8 || l->lora[i].b->compute != compute || l->lora[i].b->store == MR_NF4) return false;
    u16 *rows = (u16 *)cu_scratch(b, "linear", CU_SLOT_U, inner_bytes(N, ldx));
    if (!rows) return true;
    cu_to_half(b, "linear", half_type(compute), rows, ldx, ldx, u, l->r_total, N, l->r_total);
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        dense_product p = { y + part->row0, l->w->n_out, rows + part->r0, ldx, (const u16 *)part->b->data, part->b->ld, N, part->rows,
                            part->r, false, true, part->scale, NULL };
        cu_dense(b, "linear", half_type(compute), &p);
    }
    return true;
}

/* y += LoRA's share, from u. */
static void second_products(mr_backend *b, float *y, const float *u, const mr_linear *l, int N) {
    if (l->n_lora && parts_together(b, y, u, l, N)) return;
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        side inner = { u + part->r0, l->r_total, part->r };
        product(b, "linear", CU_SLOT_U, y + part->row0, l->w->n_out, inner, part->b, false, N, true, part->scale, NULL);
    }
}

/* u = x @ a^T and y (+)= x @ w^T from the same converted rows. */
static void with_inner(mr_backend *b, float *y, float *u, side x, const mr_linear *l, int N, bool add) {
    int64_t ldw;
    const u16 *half = cu_weight_half(b, "linear", l->w, 0, &ldw);
    if (!half) return;
    target t[2] = { { u, l->r_total, (const u16 *)l->a->data, l->a->ld, l->r_total, 0, x.cols, false, 1.0f, NULL },
                    { y, l->w->n_out, half, ldw, l->w->n_out, 0, x.cols, add, 1.0f, l->bias } };
    products(b, "linear", CU_SLOT_X, half_type(l->w->compute), x, nothing, false, N, t, 2);
}

static few_product few_of(float *y, const float *x, const mr_weight *w, int N) {
    few_product p = { y, w->n_out, x, w->n_in, N, view_of(w), w->n_out, NULL, false, 0, 0, {} };
    return p;
}

static void few_rows(mr_backend *b, float *y, float *u, const float *x, const mr_linear *l, int N, bool add, bool with_a) {
    few_product p = few_of(y, x, l->w, N), a = with_a ? few_of(u, x, l->a, N) : p;
    p.add = add, p.bias = l->bias;
    p.n_parts = l->n_lora, p.ldu = l->r_total;
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        few_part f = { part->row0, part->rows, part->r, part->scale, u + part->r0, (const u16 *)part->b->data, part->b->ld };
        p.part[i] = f;
    }
    cu_few(b, "linear", &p, with_a ? &a : NULL);
}

void cu_linear(mr_backend *b, float *y, float *u, const float *x, const mr_linear *l, int N, bool add) {
    if (cu_failed(b) || N <= 0) return;
    check(l);
    assert(!l->n_lora || u);
    int64_t O = l->w->n_out, I = l->w->n_in;
    side in = { x, I, I };
    bool few = cu_few_fits(b, l->w, l, N) && (b->exact || cu_few_pays(b, u, x, l, N));
    bool together = few && l->n_lora && l->a->compute == l->w->compute && l->a->store == l->a->compute;
    if (l->n_lora && !few && N > CU_FEW_ROWS && shares(l->w, l->a)) {
        with_inner(b, y, u, in, l, N, add);
        second_products(b, y, u, l, N);
        return;
    }
    if (l->n_lora && !together) {
        if (cu_few_fits(b, l->a, NULL, N)) {
            few_product p = few_of(u, x, l->a, N);
            cu_few(b, "linear", &p, NULL);
        } else {
            product(b, "linear", CU_SLOT_X, u, l->r_total, in, l->a, false, N, false, 1.0f, NULL);
        }
    }
    if (few) {
        few_rows(b, y, u, x, l, N, add, together);
        return;
    }
    product(b, "linear", CU_SLOT_X, y, O, in, l->w, false, N, add, 1.0f, l->bias);
    second_products(b, y, u, l, N);
}

/* --- backward --- */

__global__ static void bias_kernel(float *dbias, const float *dy, int64_t n, int64_t O) {
    int64_t o = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (o >= O) return;
    float sum = dbias[o];
    for (int64_t r = 0; r < n; r++) sum += dy[r * O + o];
    dbias[o] = sum;
}

/* dx = dy @ w + du @ a as one product, [dy | du] @ [w; a]: where w is unpacked anyway, a's rows come after its own. */
static bool with_tail(const mr_linear *l) {
    for (int i = 0; i < l->n_lora; i++)
        if (l->lora[i].rows % 8) return false;
    return l->w->store == MR_NF4 && l->w->n_out % 8 == 0 && shares(l->w, l->a) && l->a->ld == l->w->ld;
}
static int64_t tail_of(const mr_linear *l) {
    return with_tail(l) ? l->r_total : 0;
}

/* Whether du and dx's larger part come from the same converted rows of dy: up to a segment of K all at once, else part by part. It depends on
 * the layer alone, since segments of dx begin with parts then. */
static bool outer_at_once(const mr_linear *l) {
    return l->w->n_out + tail_of(l) <= CU_K_SEGMENT;
}
static bool outer_together(const mr_linear *l) {
    int64_t at = 0;
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        if (!shares(l->w, part->b) || part->row0 % 8 || (!outer_at_once(l) && part->row0 != at)) return false;
        at += part->rows;
    }
    return l->n_lora > 0 && (outer_at_once(l) || at == l->w->n_out);
}

/* du = dy @ b of each part, dx (+)= dy @ w, with du @ a where with_tail. */
static void outer_products(mr_backend *b, const char *op, float *dx, float *du, const float *dy, const mr_linear *l,
                           int N, bool add) {
    int64_t O = l->w->n_out, I = l->w->n_in, R = tail_of(l), ldw;
    const u16 *half = cu_weight_half(b, op, l->w, R, &ldw);
    int type = half_type(l->w->compute), n = 0;
    if (!half) return;
    if (R && !cu_check(b, op,
                       cudaMemcpyAsync((u16 *)half + O * ldw, l->a->data, (size_t)(R * ldw) * sizeof(u16),
                                       cudaMemcpyDeviceToDevice, cu_of(b)->stream)))
        return;
    target t[4];
    bool all = outer_at_once(l);
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        bool last = i + 1 == l->n_lora;
        t[n++] = { du + part->r0, l->r_total, (const u16 *)part->b->data,
                   part->b->ld,   part->r,    all ? part->row0 : 0,
                   part->rows,    false,      part->scale,
                   NULL };
        if (all && !last) continue;
        side x = { all ? dy : dy + part->row0, O, all ? O : part->rows }, tail = { du, l->r_total, last ? R : 0 };
        t[n++] = {
            dx,   I,   all ? half : half + part->row0 * ldw, ldw, I, 0, x.cols + tail.cols, add || (!all && i > 0),
            1.0f, NULL
        };
        products(b, op, CU_SLOT_X, type, x, tail, true, N, t, n);
        n = 0;
    }
}

/* All of a layer's in one call; in f32 where its products are. */
static void gradients(mr_backend *b, const char *op, const float *du, const float *dy, const float *x, const float *u,
                      const mr_linear *l, int N) {
    int64_t O = l->w->n_out, I = l->w->n_in, R = l->r_total;
    tn_product p[CU_TN_MOST];
    int n = 0;
    if (l->da) p[n++] = { l->da, du, R, R, x, I, I, 1.0f };
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        if (part->db) p[n++] = { part->db, dy + part->row0, O, part->rows, u + part->r0, R, part->r, part->scale };
    }
    if (l->dw) p[n++] = { l->dw, dy, O, O, x, I, I, 1.0f };
    cu_tn(b, op, p, n, N, l->w->compute == MR_F32);
}

void cu_linear_bwd(mr_backend *b, float *dx, float *du, const float *dy, const float *x, const float *u,
                   const mr_linear *l, int N, bool add) {
    if (cu_failed(b) || N <= 0) return;
    check(l);
    const char *op = "linear_bwd";
    int64_t O = l->w->n_out, I = l->w->n_in, R = l->r_total;
    bool inner = l->n_lora && (dx || l->da), together = dx && outer_together(l);
    assert(!inner || du);
    if (together) outer_products(b, op, dx, du, dy, l, N, add);
    for (int i = 0; !together && inner && i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        side out = { dy + part->row0, O, part->rows };
        product(b, op, CU_SLOT_X, du + part->r0, R, out, part->b, true, N, false, part->scale, NULL);
    }
    if (dx) {
        side out = { dy, O, O }, mid = { du, R, R };
        if (!together) product(b, op, CU_SLOT_X, dx, I, out, l->w, true, N, add, 1.0f, NULL);
        if (inner && !(together && with_tail(l)))
            product(b, op, CU_SLOT_U, dx, I, mid, l->a, true, N, true, 1.0f, NULL);
    }
    gradients(b, op, du, dy, x, u, l, N);
    if (l->dbias) LAUNCH(b, op, bias_kernel, (int)((O + 31) / 32), 32, 0, l->dbias, dy, (int64_t)N, O);
}

/* --- room --- */

void cu_linear_room(size_t need[], const mr_weight_info *w, int64_t n, int rank, bool bwd) {
    if (w->compute == MR_F32) return;
    cu_at_least(&need[CU_SLOT_X], product_bytes(n, w->n_in));
    if (bwd) cu_at_least(&need[CU_SLOT_X], product_bytes(n, w->n_out + rank));
    if (!rank) return;
    cu_at_least(&need[CU_SLOT_U], inner_bytes(n, cu_round(rank, 8)));
    cu_at_least(&need[CU_SLOT_U], product_bytes(n, rank));
}
