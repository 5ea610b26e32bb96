/* mlp.cu - the gated MLP of many rows as one operation (kernels.h, mlp and mlp_bwd): what lies between its products.
 *
 * Between: [g | up] = gu + LoRA's share, act = silu(g) * up; one kernel, which reads what the product wrote once and writes act in the 16 bits
 *          that the next product reads. LoRA's second products are made there on tensor cores, so gu stays as it came from x @ w^T. The
 *          backward pass does the same again, with the derivative: gu and dact are read once, act, dg and dup written in 16 bits.
 * Bits:    those of linear and silu_mul: the chain over r in steps of 16 from zero, fma(scale, chain, y), and the same expression behind it.
 * Buffers: gu is f32; act and dgu hold 16-bit rows (dgu with room for du behind them, so that dx is one product). */
#include <assert.h>

#include "cuda/gemm.cuh"

/* A block's rows and columns, LoRA's most values a part, and its row stride in shared memory: an odd number of 16 bytes for ldmatrix. */
enum { ROWS = 128, COLS = 64, MOST_R = 64, LD = MOST_R + 8, THREADS = ROWS / 16 * 32 };

typedef struct inner_room {
    u16 u[2][ROWS][LD], b[2][COLS][LD];
} inner_room;

/* LoRA's share to g or up: u [N][ldu] from the part's first column on, b [F][ldb]. r = 0: none. */
typedef struct share {
    const u16 *u, *b;
    int64_t ldb;
    int r;
    float scale;
} share;

typedef struct between {
    const float *gu, *dact; /* dact: backward */
    u16 *act, *dgu;         /* [N][F]; backward: [N][ld_dgu] */
    int64_t N, F, ldu, ld_dgu;
    share part[2];
} between;

/* Four neighbors of a row in 16 bits. */
template <int T> __device__ inline void put_half4(u16 *to, const float v[4]) {
    uint2 two = { pack2<T>(v[0], v[1]), pack2<T>(v[2], v[3]) };
    *(uint2 *)to = two;
}
__device__ inline void get4(float v[4], const float *from) {
    float4 x = *(const float4 *)from;
    v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
}

/* A warp has 16 rows, and 16 columns of g and of up at a time. Which of them is which column of an mma is free: tile j of 8 has columns
 * 4 (c / 2) + c % 2 + 2 j, so a lane's are 4 neighbors of rows lane / 4 and lane / 4 + 8. */
template <int T, bool BACKWARD> __global__ static void __launch_bounds__(THREADS, 2) between_kernel(between w) {
    SHARED_BYTES(bytes);
    inner_room &room = *(inner_room *)bytes;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int64_t n0 = blockIdx.x * (int64_t)COLS, m0 = blockIdx.y * (int64_t)ROWS;
    for (int p = 0; p < 2; p++) {
        const share &s = w.part[p];
        if (!s.r) continue;
        for (int i = threadIdx.x; i < (ROWS + COLS) * (MOST_R / 8); i += THREADS) {
            int r = i / (MOST_R / 8), c = i % (MOST_R / 8) * 8;
            bool right = r >= ROWS, ok = c < s.r && (right ? n0 + r - ROWS < w.F : m0 + r < w.N);
            const u16 *from = right ? s.b + (n0 + r - ROWS) * s.ldb + c : s.u + (m0 + r) * w.ldu + c;
            copy16(right ? &room.b[p][r - ROWS][c] : &room.u[p][r][c], ok ? from : s.u, ok);
        }
    }
    copy_commit();
    /* a lane's neighbors of two rows: those of the next columns come while these are worked on */
    float next_x[2][2][4], next_d[2][4];
    auto fetch = [&](int c0) {
        int64_t c = n0 + c0 + lane % 4 * 4;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int64_t row = m0 + warp * 16 + lane / 4 + 8 * h;
            if (row >= w.N || c >= w.F) continue;
            get4(next_x[0][h], w.gu + 2 * row * w.F + c), get4(next_x[1][h], w.gu + (2 * row + 1) * w.F + c);
            if (BACKWARD) get4(next_d[h], w.dact + row * w.F + c);
        }
    };
    fetch(0);
    copy_wait<0>();
    __syncthreads();
    uint32_t a[2][MOST_R / 16][4];
#pragma unroll
    for (int p = 0; p < 2; p++)
#pragma unroll
        for (int k = 0; k < MOST_R / 16; k++)
            if (k * 16 < w.part[p].r) load_matrices(a[p][k], &room.u[p][warp * 16 + lane % 16][k * 16 + lane / 16 * 8]);
    int right = lane % 8 / 2 * 4 + lane % 2 + lane / 16 * 2, step = lane / 8 % 2 * 8;
#pragma unroll
    for (int c0 = 0; c0 < COLS; c0 += 16) {
        int64_t c = n0 + c0 + lane % 4 * 4;
        float x[2][2][4], d[2][4];
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                x[0][h][i] = next_x[0][h][i], x[1][h][i] = next_x[1][h][i];
                if (BACKWARD) d[h][i] = next_d[h][i];
            }
        if (c0 + 16 < COLS) fetch(c0 + 16);
#pragma unroll
        for (int p = 0; p < 2; p++) {
            if (!w.part[p].r) continue;
            float chain[2][4] = {};
#pragma unroll
            for (int k = 0; k < MOST_R / 16; k++) {
                if (k * 16 >= w.part[p].r) continue;
                uint32_t b[4];
                load_matrices(b, &room.b[p][c0 + right][k * 16 + step]);
                mma16<T>(chain[0], a[p][k], b), mma16<T>(chain[1], a[p][k], b + 2);
            }
#pragma unroll
            for (int h = 0; h < 2; h++)
#pragma unroll
                for (int i = 0; i < 4; i++) x[p][h][i] = fmaf(w.part[p].scale, chain[i / 2][2 * h + i % 2], x[p][h][i]);
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int64_t row = m0 + warp * 16 + lane / 4 + 8 * h;
            if (row >= w.N || c >= w.F) continue;
            float act[4], dg[4], dup[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float g = x[0][h][i], up = x[1][h][i];
                if (BACKWARD) {
                    float s = 1.0f / (1.0f + exp_f32(-g)), slope = s * fmaf(g, 1.0f - s, 1.0f);
                    act[i] = g * s * up;
                    dg[i] = d[h][i] * up * slope, dup[i] = d[h][i] * (g * s);
                } else {
                    act[i] = g / (1.0f + exp_f32(-g)) * up;
                }
            }
            put_half4<T>(w.act + row * w.F + c, act);
            if (BACKWARD) put_half4<T>(w.dgu + row * w.ld_dgu + c, dg), put_half4<T>(w.dgu + row * w.ld_dgu + w.F + c, dup);
        }
    }
}

/* --- host --- */

/* Whether the kernel above can make LoRA's share. It depends on the layer alone, since it says what gu holds between the passes. */
static bool shares_fit(const mr_linear *l, int64_t F) {
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *p = &l->lora[i];
        if (p->rows != F || p->row0 % F || p->r > MOST_R || p->r % 8 || p->r0 % 8) return false;
    }
    return l->n_lora <= 2;
}

static bool linear_fits(const mr_linear *l, mr_dtype compute, int64_t F) {
    bool ok = l->w->compute == compute && !l->dw && !l->dbias && l->r_total < F && l->r_total % 8 == 0;
    for (int i = 0; i < l->n_lora; i++) {
        const mr_lora_part *p = &l->lora[i];
        ok = ok && l->a->compute == compute && p->b->compute == compute && p->b->store == compute && p->row0 % 8 == 0;
    }
    return ok;
}

/* Few rows have kernels of their own, whose weights are read once for both halves of a linear. */
static bool takes(const mr_gated *m, int N) {
    int64_t F = m->down->w->n_in;
    mr_dtype compute = m->gate_up->w->compute;
    return N > CU_FEW_ROWS && compute != MR_F32 && F % 8 == 0 && m->gate_up->w->n_out == 2 * F && linear_fits(m->gate_up, compute, F) &&
           linear_fits(m->down, compute, F) && at16(m->gu) && at16(m->act) && at16(m->dact) && at16(m->dgu);
}

static cu_side half_rows(float *room, int64_t ld, int64_t cols) { return cu_side{ NULL, 0, cols, (u16 *)room, ld }; }
static int64_t dgu_ld(const mr_gated *m) { return 2 * m->down->w->n_in + cu_round(m->gate_up->r_total, 8); }

/* LoRA's share goes to gu, or, where the kernel makes it, to the kernel. */
static void set_shares(mr_backend *b, const char *op, between *w, const mr_gated *m, int N) {
    const mr_linear *l = m->gate_up;
    const u16 *u = l->n_lora && shares_fit(l, w->F) ? cu_inner_half(b, op, m->u_up, l, N) : NULL;
    for (int i = 0; u && i < l->n_lora; i++) {
        const mr_lora_part *p = &l->lora[i];
        w->part[p->row0 / w->F] = share{ u + p->r0, (const u16 *)p->b->data, p->b->ld, p->r, p->scale };
    }
    w->ldu = cu_round(l->r_total, 8);
}

template <bool BACKWARD> static void run_between(mr_backend *b, const char *op, const between &w, int type) {
    dim3 grid((unsigned)((w.F + COLS - 1) / COLS), (unsigned)((w.N + ROWS - 1) / ROWS));
    if (type == F16)
        LAUNCH(b, op, (between_kernel<F16, BACKWARD>), grid, THREADS, (int)sizeof(inner_room), w);
    else
        LAUNCH(b, op, (between_kernel<BF16, BACKWARD>), grid, THREADS, (int)sizeof(inner_room), w);
}

/* gu from x, as `between` wants it. */
static void gate_up(mr_backend *b, const char *op, const float *x, const mr_gated *m, int N) {
    const mr_linear *l = m->gate_up;
    cu_side in = { x, l->w->n_in, l->w->n_in, NULL, 0 };
    cu_first_products(b, op, m->gu, m->u_up, in, l, N, NULL);
    if (!shares_fit(l, m->down->w->n_in)) cu_second_products(b, op, m->gu, m->u_up, l, N);
}

static between between_of(mr_backend *b, const char *op, const mr_gated *m, int N) {
    between w = {};
    w.gu = m->gu, w.act = (u16 *)m->act, w.N = N, w.F = m->down->w->n_in;
    set_shares(b, op, &w, m, N);
    return w;
}

bool cu_mlp(mr_backend *b, float *y, const float *x, const mr_gated *m, int N, const float *onto) {
    const char *op = "mlp";
    if (cu_joined_mlp(b, y, x, m, N, onto)) return true;
    if (N <= CU_FEW_ROWS) return cu_few_mlp(b, y, x, m, N, onto);
    if (!takes(m, N)) return false;
    if (cu_failed(b)) return true;
    int64_t F = m->down->w->n_in;
    gate_up(b, op, x, m, N);
    between w = between_of(b, op, m, N);
    if (!cu_failed(b)) run_between<false>(b, op, w, half_type(m->down->w->compute));
    cu_first_products(b, op, y, m->u_down, half_rows(m->act, F, F), m->down, N, onto);
    cu_second_products(b, op, y, m->u_down, m->down, N);
    return true;
}

bool cu_mlp_bwd(mr_backend *b, float *dx, const float *dy, const float *x, const mr_gated *m, int N, bool again) {
    const char *op = "mlp_bwd";
    if (!takes(m, N)) return false;
    if (cu_failed(b)) return true;
    int64_t F = m->down->w->n_in, C = m->down->w->n_out;
    assert(m->dact && m->dgu && x != dx);
    cu_side act = half_rows(m->act, F, F), dgu = half_rows(m->dgu, dgu_ld(m), 2 * F), in = { x, C, C, NULL, 0 }, out = { dy, C, C, NULL, 0 };
    if (again) gate_up(b, op, x, m, N);
    cu_input_gradient(b, op, m->dact, m->du, out, m->down, N, false);
    between w = between_of(b, op, m, N);
    w.dact = m->dact, w.dgu = dgu.half, w.ld_dgu = dgu.ld_half;
    if (!cu_failed(b)) run_between<true>(b, op, w, half_type(m->down->w->compute));
    cu_weight_gradients(b, op, m->du, out, act, m->u_down, m->down, N);
    cu_input_gradient(b, op, dx, m->du, dgu, m->gate_up, N, false);
    cu_weight_gradients(b, op, m->du, dgu, in, m->u_up, m->gate_up, N);
    return true;
}
