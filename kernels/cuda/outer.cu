/* outer.cu - LoRA's second products of many rows, with the bias before them: gemm.cuh, cu_outer.
 *
 * One pass over y for all parts: u comes in f32 and is rounded on its way into shared memory, where the library would want it in 16 bits, a launch
 * for each part, and one for the bias.
 * Bits: those of linear: y + bias, then the chain over r in steps of 16 from zero, fma(scale, chain, y). */
#include "cuda/gemm.cuh"

/* A block's rows and columns, which are of one part; the columns of a step, LoRA's most values a part, and its row stride in shared memory: an odd
 * number of 16 bytes for ldmatrix. */
enum { ROWS = 128, COLS = 256, STEP = 32, MOST_R = 64, LD = MOST_R + 8, THREADS = ROWS / 16 * 32 };

typedef struct outer_room {
    u16 u[ROWS][LD], b[COLS][LD];
} outer_room;

typedef struct outer {
    float *y;
    const float *u, *bias; /* bias NULL: none */
    int64_t N, O, R;
    part_view part[CU_MOST_PARTS];
} outer;

/* A warp has 16 rows, and which of 16 columns is which column of an mma is as in mlp.cu: a lane has 4 neighbors of rows lane / 4 and lane / 4 + 8. */
template <int T> __global__ static void __launch_bounds__(THREADS, 3) outer_kernel(outer w) {
    SHARED_BYTES(bytes);
    outer_room &room = *(outer_room *)bytes;
    enum { IN_ROW = MOST_R / 8, EACH = STEP / 16 };
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, chunk = threadIdx.x % IN_ROW * 8;
    int64_t n0 = blockIdx.x * (int64_t)COLS, m0 = blockIdx.y * (int64_t)ROWS, row = m0 + warp * 16 + lane / 4;
    const inner_view p = inner_of(w.part, (int)n0);
    for (int r = threadIdx.x / IN_ROW; r < COLS; r += THREADS / IN_ROW) {
        bool ok = chunk < p.r && n0 + r < w.O;
        copy16(&room.b[r][chunk], ok ? p.b + r * p.ldb + chunk : (const u16 *)w.y, ok);
    }
    copy_commit();
    float *y = w.y + row * w.O + n0 + lane % 4 * 4;
    const float *bias = w.bias ? w.bias + n0 + lane % 4 * 4 : NULL;
    int O = (int)w.O;
    bool there[2] = { row < w.N, row + 8 < w.N };
    float4 next[EACH][2];
    auto fetch = [&](int c) {
#pragma unroll
        for (int i = 0; i < EACH; i++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                if (there[h] && c < COLS) next[i][h] = *(const float4 *)(y + 8 * h * O + c + 16 * i);
    };
    fetch(0);
#pragma unroll
    for (int r = threadIdx.x / IN_ROW; r < ROWS; r += THREADS / IN_ROW) {
        const float *from = w.u + (m0 + r) * w.R + p.r0 + chunk;
        bool ok = chunk < p.r && m0 + r < w.N;
        float4 a = ok ? *(const float4 *)from : float4{}, c = ok ? *(const float4 *)(from + 4) : float4{};
        u16 *to = &room.u[r][chunk];
        *(uint4 *)to = make_uint4(pack2<T>(a.x, a.y), pack2<T>(a.z, a.w), pack2<T>(c.x, c.y), pack2<T>(c.z, c.w));
    }
    copy_wait<0>();
    __syncthreads();
    uint32_t u[MOST_R / 16][4];
#pragma unroll
    for (int k = 0; k < MOST_R / 16; k++) load_matrices(u[k], &room.u[warp * 16 + lane % 16][k * 16 + lane / 16 * 8]);
    int right = lane % 8 / 2 * 4 + lane % 2 + lane / 16 * 2, step = lane / 8 % 2 * 8;
#pragma unroll 2 /* so that no load is waited for before the next ones are on their way */
    for (int c = 0; c < COLS; c += STEP) {
        float4 v[EACH][2];
#pragma unroll
        for (int i = 0; i < EACH; i++) v[i][0] = next[i][0], v[i][1] = next[i][1];
        fetch(c + STEP);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            float chain[2][4] = {};
            float4 more = bias ? *(const float4 *)(bias + c + 16 * i) : float4{};
#pragma unroll
            for (int k = 0; k < MOST_R / 16; k++) {
                if (k * 16 >= p.r) continue;
                uint32_t b[4];
                load_matrices(b, &room.b[c + 16 * i + right][k * 16 + step]);
                mma16<T>(chain[0], u[k], b), mma16<T>(chain[1], u[k], b + 2);
            }
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float4 x = v[i][h];
                if (bias) x.x += more.x, x.y += more.y, x.z += more.z, x.w += more.w;
                if (p.r) {
                    x.x = fmaf(p.scale, chain[0][2 * h], x.x), x.y = fmaf(p.scale, chain[0][2 * h + 1], x.y);
                    x.z = fmaf(p.scale, chain[1][2 * h], x.z), x.w = fmaf(p.scale, chain[1][2 * h + 1], x.w);
                }
                if (there[h]) *(float4 *)(y + 8 * h * O + c + 16 * i) = x;
            }
        }
    }
}

/* --- host --- */

bool cu_outer_fits(const float *y, const float *u, const mr_linear *l) {
    mr_dtype compute = l->w->compute;
    bool ok = l->n_lora > 0 && l->n_lora <= CU_MOST_PARTS && compute != MR_F32 && l->w->n_out % COLS == 0 && l->r_total % 4 == 0 && at16(y) &&
              at16(u) && at16(l->bias);
    for (int i = 0; ok && i < l->n_lora; i++) {
        const mr_lora_part *p = &l->lora[i];
        ok = p->row0 % COLS == 0 && p->rows % COLS == 0 && p->r <= MOST_R && p->r % 8 == 0 && p->r0 % 4 == 0 && p->b->compute == compute &&
             p->b->store == compute;
    }
    return ok;
}

void cu_outer(mr_backend *b, const char *op, float *y, const float *u, const mr_linear *l, int N, const float *bias) {
    if (cu_failed(b)) return;
    outer w = {};
    w.y = y, w.u = u, w.bias = bias, w.N = N, w.O = l->w->n_out, w.R = l->r_total;
    parts_of(w.part, l);
    dim3 grid((unsigned)(w.O / COLS), (unsigned)((N + ROWS - 1) / ROWS));
    if (l->w->compute == MR_F16)
        LAUNCH(b, op, outer_kernel<F16>, grid, THREADS, (int)sizeof(outer_room), w);
    else
        LAUNCH(b, op, outer_kernel<BF16>, grid, THREADS, (int)sizeof(outer_room), w);
}
