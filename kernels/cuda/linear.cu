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
    const float *onto; /* as dense_product's */
    float alpha;
    const float *bias;
    bool whole;
} target;

/* `done` of t's columns have had their products; here come part rows' columns up to end. */
static void multiply(mr_backend *b, const char *op, int type, bool backward, const target *t, const u16 *x, int64_t ldx, int64_t row,
                     int64_t part, int64_t done, int64_t end) {
    dense_product p = { t->y + row * t->ldy,
                        t->ldy,
                        x,
                        ldx,
                        t->w + (backward ? done * t->ldw : done),
                        t->ldw,
                        part,
                        t->n_cols,
                        end - done,
                        backward,
                        done > 0 ? t->y + row * t->ldy : t->onto ? t->onto + row * t->ldy : NULL,
                        t->alpha,
                        end == t->k ? t->bias : NULL,
                        t->whole };
    cu_dense(b, op, type, &p);
}

/* The same as products, of rows that are in 16 bits already. */
static void products_of_half(mr_backend *b, const char *op, int type, cu_side x, cu_side tail, bool backward, int64_t n, const target *t,
                             int n_targets) {
    bool there = tail.cols == 0;
    assert(x.cols % 8 == 0 && x.ld_half >= x.cols + tail.cols);
    for (int i = 0; i < n_targets; i++) {
        if (!there && t[i].from + t[i].k > x.cols) {
            cu_to_half(b, op, type, x.half + x.cols, x.ld_half, cu_round(tail.cols, 8), tail.rows, tail.ld, n, tail.cols);
            there = true;
        }
        multiply(b, op, type, backward, &t[i], x.half + t[i].from, x.ld_half, 0, n, 0, t[i].k);
    }
}

/* Rows are converted once for all targets, in slabs, in `slot`; a slab begins with a segment of K of those that go on in it. Targets that begin
 * or end inside x's columns want them all in one slab: up to CU_K_SEGMENT. tail: columns that follow x's (a multiple of 8), converted when the
 * targets before the first that has them are done; or no columns. The operation before may have left x in 16 bits. */
static void products(mr_backend *b, const char *op, int slot, int type, cu_side x, cu_side tail, bool backward, int64_t n,
                     const target *t, int n_targets) {
    if (!x.half && slot == CU_SLOT_X && x.ld == x.cols) {
        mr_dtype compute = type == F16 ? MR_F16 : MR_BF16;
        x.ld_half = x.cols;
        x.half = (u16 *)(backward ? cu_gradient_found(b, x.rows, (int)n, x.cols, tail.cols, compute, &x.ld_half)
                                  : cu_packed_found(b, x.rows, (int)n, x.cols, compute, CU_PLAIN));
    }
    if (x.half) {
        products_of_half(b, op, type, x, tail, backward, n, t, n_targets);
        return;
    }
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
                multiply(b, op, type, backward, &t[i], rows + from - k, ldx, at, part, done, end - t[i].from);
            }
        }
}
static const cu_side nothing = { NULL, 0, 0, NULL, 0 };
static cu_side rows_of(const float *rows, int64_t ld, int64_t cols) { return cu_side{ rows, ld, cols, NULL, 0 }; }

/* y = alpha * x @ w^T (or x @ w), plus onto, for any number of rows and any weight. */
static void product(mr_backend *b, const char *op, int slot, float *y, int64_t ldy, cu_side x, const mr_weight *w, bool backward,
                    int64_t n, const float *onto, float alpha, const float *bias) {
    int64_t n_cols = backward ? w->n_in : w->n_out, ldw;
    assert(x.cols == (backward ? w->n_out : w->n_in));
    if (w->compute == MR_F32) {
        f32_product p = { y, ldy, x.rows, x.ld, view_of(w), n, n_cols, x.cols, backward, onto, alpha, bias };
        cu_f32(b, op, &p);
        return;
    }
    const u16 *half = cu_weight_half(b, op, w, 0, &ldw);
    target t = { y, ldy, half, ldw, n_cols, 0, x.cols, onto, alpha, bias, false };
    if (half) products(b, op, slot, half_type(w->compute), x, nothing, backward, n, &t, 1);
}

/* Whether the other weight's rows can be the converted rows of w, and its matrix lies beside w's unpacked one. */
static bool shares(const mr_weight *w, const mr_weight *other) {
    return w->compute != MR_F32 && other->compute == w->compute && other->store != MR_NF4;
}

/* --- forward --- */

static size_t inner_bytes(int64_t n, int64_t ld) { return (size_t)(n * ld < CU_SLAB ? n * ld : (int64_t)CU_SLAB) * sizeof(u16); }

const u16 *cu_inner_half(mr_backend *b, const char *op, const float *u, const mr_linear *l, int N) {
    int64_t ldx = cu_round(l->r_total, 8);
    mr_dtype compute = l->lora[0].b->compute;
    if (compute == MR_F32 || ldx * N > CU_SLAB) return NULL;
    for (int i = 0; i < l->n_lora; i++)
        if (l->lora[i].r0 % 8 || l->lora[i].r % 8 || l->lora[i].b->compute != compute || l->lora[i].b->store == MR_NF4) return NULL;
    u16 *rows = (u16 *)cu_scratch(b, op, CU_SLOT_U, inner_bytes(N, ldx));
    if (rows) cu_to_half(b, op, half_type(compute), rows, ldx, ldx, u, l->r_total, N, l->r_total);
    return rows;
}

/* From one 16-bit copy of u where that goes. */
void cu_second_products(mr_backend *b, const char *op, float *y, const float *u, const mr_linear *l, int N) {
    if (!l->n_lora) return;
    if (cu_outer_fits(y, u, l)) {
        cu_outer(b, op, y, u, l, N, NULL);
        return;
    }
    const u16 *rows = cu_inner_half(b, op, u, l, N);
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        if (rows) {
            dense_product p = { y + part->row0, l->w->n_out, rows + part->r0, cu_round(l->r_total, 8), (const u16 *)part->b->data,
                                part->b->ld, N, part->rows, part->r, false, y + part->row0, part->scale, NULL, false };
            cu_dense(b, op, half_type(part->b->compute), &p);
        } else {
            product(b, op, CU_SLOT_U, y + part->row0, l->w->n_out, rows_of(u + part->r0, l->r_total, part->r), part->b, false, N,
                    y + part->row0, part->scale, NULL);
        }
    }
}

/* From the same rows in 16 bits where the two weights can share them. */
void cu_first_products(mr_backend *b, const char *op, float *y, float *u, cu_side x, const mr_linear *l, int N, const float *onto) {
    if (!l->n_lora || !shares(l->w, l->a)) {
        if (l->n_lora) product(b, op, CU_SLOT_X, u, l->r_total, x, l->a, false, N, NULL, 1.0f, NULL);
        product(b, op, CU_SLOT_X, y, l->w->n_out, x, l->w, false, N, onto, 1.0f, l->bias);
        return;
    }
    int64_t ldw;
    const u16 *half = cu_weight_half(b, op, l->w, 0, &ldw);
    if (!half) return;
    target t[2] = { { u, l->r_total, (const u16 *)l->a->data, l->a->ld, l->r_total, 0, x.cols, NULL, 1.0f, NULL, false },
                    { y, l->w->n_out, half, ldw, l->w->n_out, 0, x.cols, onto, 1.0f, l->bias, false } };
    products(b, op, CU_SLOT_X, half_type(l->w->compute), x, nothing, false, N, t, 2);
}

static few_product few_of(float *y, const float *x, const mr_weight *w, int N) {
    few_product p = { y, w->n_out, x, w->n_in, N, view_of(w), w->n_out, NULL, false, 0, 0, {} };
    return p;
}

/* act: the layer is gate and up, and silu(gate) * up goes there, y is left out if it can be where it is not kept; false then: they have no kernel
 * together, and nothing is done. */
static bool few_rows(mr_backend *b, float *y, float *u, float *act, const float *x, const mr_linear *l, int N, const float *onto, bool with_a,
                     bool keep) {
    few_product p = few_of(y, x, l->w, N), a = with_a ? few_of(u, x, l->a, N) : p;
    if (onto && onto != y) b->copy(b, y, onto, (size_t)(N * l->w->n_out) * sizeof *y); /* sampling, whose rows are few, is in place */
    p.add = onto != NULL, p.bias = l->bias;
    p.n_parts = l->n_lora, p.ldu = l->r_total;
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        few_part f = { part->row0, part->rows, part->r, part->scale, u + part->r0, (const u16 *)part->b->data, part->b->ld };
        p.part[i] = f;
    }
    if (act && cu_few_sm75(b, "mlp", act, &p, with_a ? &a : NULL)) return true;
    if (act && p.w.store != MR_NF4)
        return cu_half_wide(b, "mlp", act, &p, with_a ? &a : NULL, keep) || cu_few_half(b, "mlp", act, &p, with_a ? &a : NULL);
    if (act) return cu_wide_gated(b, "mlp", act, &p, with_a ? &a : NULL, keep) || cu_few_gated(b, "mlp", act, &p, with_a ? &a : NULL);
    cu_few(b, "linear", &p, with_a ? &a : NULL);
    return true;
}

static bool few_serves(mr_backend *b, float *u, const float *x, const mr_linear *l, int N) {
    return cu_few_fits(b, l->w, l, N) && (b->exact || cu_few_pays(b, u, x, l, N));
}
/* Whether u can be made in the same launch. */
static bool few_together(const mr_linear *l) {
    return l->n_lora && l->a->compute == l->w->compute && l->a->store == l->a->compute;
}

bool cu_few_mlp(mr_backend *b, float *y, const float *x, const mr_gated *m, int N, const float *onto) {
    const mr_linear *l = m->gate_up;
    if (cu_failed(b)) return true;
    if (l->w->n_out != 2 * m->down->w->n_in || !few_serves(b, m->u_up, x, l, N) ||
        !few_rows(b, m->gu, m->u_up, m->act, x, l, N, NULL, few_together(l), !m->sampling))
        return false;
    cu_linear(b, y, m->u_down, m->act, m->down, N, onto);
    return true;
}

void cu_linear(mr_backend *b, float *y, float *u, const float *x, const mr_linear *l, int N, const float *onto) {
    if (cu_failed(b) || N <= 0) return;
    check(l);
    assert(!l->n_lora || u);
    int64_t O = l->w->n_out, I = l->w->n_in;
    cu_side in = rows_of(x, I, I);
    if (cu_joined_linear(b, y, u, x, l, N, onto)) return;
    bool few = few_serves(b, u, x, l, N), together = few && few_together(l);
    if (!few && (N > CU_FEW_ROWS || !l->n_lora || cu_joined_fits(b, l->w, N))) {
        bool at_once = cu_outer_fits(y, u, l);
        mr_linear first = *l;
        if (at_once) first.bias = NULL;
        cu_first_products(b, "linear", y, u, in, &first, N, onto);
        if (at_once)
            cu_outer(b, "linear", y, u, l, N, l->bias);
        else
            cu_second_products(b, "linear", y, u, l, N);
        return;
    }
    if (l->n_lora && !together) {
        if (cu_few_fits(b, l->a, NULL, N)) {
            few_product p = few_of(u, x, l->a, N);
            cu_few(b, "linear", &p, NULL);
        } else {
            product(b, "linear", CU_SLOT_X, u, l->r_total, in, l->a, false, N, NULL, 1.0f, NULL);
        }
    }
    if (few) {
        few_rows(b, y, u, NULL, x, l, N, onto, together, true);
        return;
    }
    product(b, "linear", CU_SLOT_X, y, O, in, l->w, false, N, onto, 1.0f, l->bias);
    cu_second_products(b, "linear", y, u, l, N);
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

/* Whether du and dx's larger part come from the same converted rows of dy: up to a segment of K, and rows that are in 16 bits anyway, all at
 * once, else part by part. */
static bool outer_at_once(const mr_linear *l, cu_side dy) {
    return dy.half || l->w->n_out + tail_of(l) <= CU_K_SEGMENT;
}
static bool outer_together(const mr_linear *l, cu_side dy) {
    int64_t at = 0;
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        if (!shares(l->w, part->b) || part->row0 % 8 || (!outer_at_once(l, dy) && part->row0 != at)) return false;
        at += part->rows;
    }
    return l->n_lora > 0 && (outer_at_once(l, dy) || at == l->w->n_out);
}

/* du = dy @ b of each part, dx (+)= dy @ w, with du @ a where with_tail. */
static void outer_products(mr_backend *b, const char *op, float *dx, float *du, cu_side dy, const mr_linear *l, int N, bool add) {
    int64_t O = l->w->n_out, I = l->w->n_in, R = tail_of(l), ldw;
    const u16 *half = cu_weight_half(b, op, l->w, R, &ldw);
    int type = half_type(l->w->compute), n = 0;
    if (!half) return;
    if (R && !cu_weight_join(b, l->w, l->a) && !cu_check(b, op,
                       cudaMemcpyAsync((u16 *)half + O * ldw, l->a->data, (size_t)(R * ldw) * sizeof(u16),
                                       cudaMemcpyDeviceToDevice, cu_of(b)->stream)))
        return;
    target t[4];
    bool all = outer_at_once(l, dy);
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        bool last = i + 1 == l->n_lora;
        t[n++] = target{ du + part->r0, l->r_total, (const u16 *)part->b->data, part->b->ld, part->r, all ? part->row0 : 0, part->rows,
                         NULL, part->scale, NULL, false };
        if (all && !last) continue;
        cu_side x = all ? dy : rows_of(dy.rows + part->row0, dy.ld, part->rows), tail = rows_of(du, l->r_total, last ? R : 0);
        t[n++] = target{ dx, I, all ? half : half + part->row0 * ldw, ldw, I, 0, x.cols + tail.cols, add || (!all && i > 0) ? dx : NULL, 1.0f, NULL,
                         dy.half != NULL };
        products(b, op, CU_SLOT_X, type, x, tail, true, N, t, n);
        n = 0;
    }
}

/* A gradient over rows of a and x, of which the wider one may be in 16 bits. */
static tn_product gradient(float *dst, cu_side a, int64_t first, int64_t n_p, cu_side x, int64_t from, int64_t n_q, float scale) {
    tn_product p = { dst, a.rows + first, a.ld, n_p, x.rows + from, x.ld, n_q, scale, NULL, 0 };
    if (a.half) p.a = NULL, p.wide = a.half + first, p.ld_wide = a.ld_half;
    if (x.half) p.x = NULL, p.wide = x.half + from, p.ld_wide = x.ld_half;
    return p;
}

/* All of a layer's in one call; in f32 where its products are. */
void cu_weight_gradients(mr_backend *b, const char *op, const float *du, cu_side dy, cu_side x, const float *u, const mr_linear *l, int N) {
    int64_t O = l->w->n_out, I = l->w->n_in, R = l->r_total;
    tn_product p[CU_TN_MOST];
    int n = 0;
    if (l->da) p[n++] = gradient(l->da, rows_of(du, R, R), 0, R, x, 0, I, 1.0f);
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        if (part->db) p[n++] = gradient(part->db, dy, part->row0, part->rows, rows_of(u, R, R), part->r0, part->r, part->scale);
    }
    if (l->dw) p[n++] = gradient(l->dw, dy, 0, O, x, 0, I, 1.0f);
    cu_tn(b, op, p, n, N, half_type(l->w->compute), l->w->compute == MR_F32);
}

void cu_input_gradient(mr_backend *b, const char *op, float *dx, float *du, cu_side dy, const mr_linear *l, int N, bool add) {
    bool inner = l->n_lora && (dx || l->da), together = dx && outer_together(l, dy);
    assert((!inner || du) && (!dy.half || together || !l->n_lora));
    if (together) outer_products(b, op, dx, du, dy, l, N, add);
    for (int i = 0; !together && inner && i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        product(b, op, CU_SLOT_X, du + part->r0, l->r_total, rows_of(dy.rows + part->row0, dy.ld, part->rows), part->b, true, N, NULL,
                part->scale, NULL);
    }
    if (!dx) return;
    if (!together) product(b, op, CU_SLOT_X, dx, l->w->n_in, dy, l->w, true, N, add ? dx : NULL, 1.0f, NULL);
    if (inner && !(together && with_tail(l)))
        product(b, op, CU_SLOT_U, dx, l->w->n_in, rows_of(du, l->r_total, l->r_total), l->a, true, N, dx, 1.0f, NULL);
}

void cu_linear_bwd(mr_backend *b, float *dx, float *du, const float *dy, const float *x, const float *u,
                   const mr_linear *l, int N, bool add) {
    if (cu_failed(b) || N <= 0) return;
    check(l);
    const char *op = "linear_bwd";
    int64_t O = l->w->n_out, I = l->w->n_in;
    cu_input_gradient(b, op, dx, du, rows_of(dy, O, O), l, N, add);
    cu_weight_gradients(b, op, du, rows_of(dy, O, O), rows_of(x, I, I), u, l, N);
    if (l->dbias) LAUNCH(b, op, bias_kernel, (int)((O + 31) / 32), 32, 0, l->dbias, dy, (int64_t)N, O);
}

/* --- room --- */

void cu_linear_room(size_t need[], const mr_weight_info *w, int64_t n, int rank, bool bwd) {
    if (w->compute == MR_F32) return;
    cu_at_least(&need[CU_SLOT_PACKED], cu_packed_bytes(n, w->n_in));
    cu_at_least(&need[CU_SLOT_X], product_bytes(n, w->n_in));
    if (bwd) cu_at_least(&need[CU_SLOT_X], product_bytes(n, w->n_out + rank));
    if (!rank) return;
    cu_at_least(&need[CU_SLOT_U], inner_bytes(n, cu_round(rank, 8)));
    cu_at_least(&need[CU_SLOT_U], product_bytes(n, rank));
}
