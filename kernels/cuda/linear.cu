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

/* y (+)= alpha * x @ w^T (or x @ w) for any number of rows and any weight. Rows are converted in slabs, in `slot`. */
static void product(mr_backend *b, const char *op, int slot, float *y, int64_t ldy, side x, const mr_weight *w, bool backward,
                    int64_t n, bool add, float alpha, const float *bias) {
    int64_t n_cols = backward ? w->n_in : w->n_out;
    assert(x.cols == (backward ? w->n_out : w->n_in));
    if (w->compute == MR_F32) {
        f32_product p = { y, ldy, x.rows, x.ld, view_of(w), n, n_cols, x.cols, backward, add, alpha, bias };
        cu_f32(b, op, &p);
        return;
    }
    int64_t ldw, slab = cu_slab_rows(n), ldx = cu_slab_columns(cu_round(x.cols, 8), slab);
    const u16 *half = cu_weight_half(b, op, w, &ldw);
    u16 *rows = (u16 *)cu_scratch(b, op, slot, (size_t)(slab * ldx) * sizeof(u16));
    if (!half || !rows) return;
    int type = half_type(w->compute);
    for (int64_t at = 0; at < n; at += slab)
        for (int64_t k = 0; k < x.cols; k += ldx) {
            int64_t part = n - at < slab ? n - at : slab, columns = x.cols - k < ldx ? x.cols - k : ldx;
            cu_to_half(b, op, type, rows, ldx, x.rows + at * x.ld + k, x.ld, part, columns);
            dense_product p = { y + at * ldy, ldy, rows, ldx, half + (backward ? k * ldw : k), ldw, part, n_cols, columns, backward,
                                add || k > 0, alpha, k + columns == x.cols ? bias : NULL };
            cu_dense(b, op, type, &p);
        }
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
    cu_to_half(b, "linear", half_type(compute), rows, ldx, u, l->r_total, N, l->r_total);
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        dense_product p = { y + part->row0, l->w->n_out, rows + part->r0, ldx, (const u16 *)part->b->data, part->b->ld, N, part->rows,
                            part->r, false, true, part->scale, NULL };
        cu_dense(b, "linear", half_type(compute), &p);
    }
    return true;
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
    if (l->n_lora && parts_together(b, y, u, l, N)) return;
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        side inner = { u + part->r0, l->r_total, part->r };
        product(b, "linear", CU_SLOT_U, y + part->row0, O, inner, part->b, false, N, true, part->scale, NULL);
    }
}

/* --- backward --- */

__global__ static void bias_kernel(float *dbias, const float *dy, int64_t n, int64_t O) {
    int64_t o = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (o >= O) return;
    float sum = dbias[o];
    for (int64_t r = 0; r < n; r++) sum += dy[r * O + o];
    dbias[o] = sum;
}

void cu_linear_bwd(mr_backend *b, float *dx, float *du, const float *dy, const float *x, const float *u,
                   const mr_linear *l, int N, bool add) {
    if (cu_failed(b) || N <= 0) return;
    check(l);
    const char *op = "linear_bwd";
    int64_t O = l->w->n_out, I = l->w->n_in, R = l->r_total;
    bool inner = l->n_lora && (dx || l->da);
    assert(!inner || du);
    for (int i = 0; inner && i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        side out = { dy + part->row0, O, part->rows };
        product(b, op, CU_SLOT_X, du + part->r0, R, out, part->b, true, N, false, part->scale, NULL);
    }
    if (dx) {
        side out = { dy, O, O }, mid = { du, R, R };
        product(b, op, CU_SLOT_X, dx, I, out, l->w, true, N, add, 1.0f, NULL);
        if (inner) product(b, op, CU_SLOT_U, dx, I, mid, l->a, true, N, true, 1.0f, NULL);
    }
    if (l->da) cu_tn(b, op, l->da, du, R, R, x, I, I, N, 1.0f);
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *part = &l->lora[i];
        if (part->db) cu_tn(b, op, part->db, dy + part->row0, O, part->rows, u + part->r0, R, part->r, N, part->scale);
    }
    if (l->dw) cu_tn(b, op, l->dw, dy, O, O, x, I, I, N, 1.0f);
    if (l->dbias) LAUNCH(b, op, bias_kernel, (int)((O + 31) / 32), 32, 0, l->dbias, dy, (int64_t)N, O);
}

/* --- room --- */

void cu_linear_room(size_t need[], const mr_weight_info *w, int64_t n, int rank, bool bwd) {
    if (w->compute == MR_F32) return;
    cu_at_least(&need[CU_SLOT_X], product_bytes(n, w->n_in));
    if (bwd) cu_at_least(&need[CU_SLOT_X], product_bytes(n, w->n_out));
    if (!rank) return;
    cu_at_least(&need[CU_SLOT_U], inner_bytes(n, cu_round(rank, 8)));
    cu_at_least(&need[CU_SLOT_U], product_bytes(n, rank));
}
