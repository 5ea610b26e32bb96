/* nf4.c - 4-bit NormalFloat weights with double quantization, byte for byte as bitsandbytes stores them
 * (spec/quantization.md, 5.1 to 5.3; arXiv:2305.14314, section 3), and their way into panels. */
#include <assert.h>
#include <math.h>

#include "cpu/weights.h"
#include "maps.h"

const float nf4_values[16] = MR_NF4_VALUES;

void cpu_dynamic_map(float map[256], bool is_signed) {
    mr_dynamic_map(map, is_signed);
}

static float nested_map[256];
static pthread_once_t nested_once = PTHREAD_ONCE_INIT;

static void make_nested_map(void) {
    cpu_dynamic_map(nested_map, true);
}

const float *nf4_nested_map(void) {
    pthread_once(&nested_once, make_nested_map);
    return nested_map;
}

/* --- quantizing --- */

void nf4_quantize(uint8_t *codes, float *absmax, const float *values, int64_t at, int64_t n) {
    assert(at % NF4_BLOCK == 0);
    float threshold[15];
    for (int i = 0; i < 15; i++) threshold[i] = (nf4_values[i] + nf4_values[i + 1]) / 2.0f;
    for (int64_t start = 0; start < n; start += NF4_BLOCK) {
        int64_t count = n - start < NF4_BLOCK ? n - start : NF4_BLOCK;
        const float *v = values + start;
        uint8_t *to = codes + (at + start) / 2;
        float most = 0.0f;
        for (int64_t i = 0; i < count; i++) most = fmaxf(most, fabsf(v[i]));
        absmax[(at + start) / NF4_BLOCK] = most;
        if (most == 0.0f) { /* any code means 0; 7 is the book's zero */
            __builtin_memset(to, 0x77, (size_t)(count / 2));
            if (count & 1) to[count / 2] = 0x70;
            continue;
        }
        float inverse = 1.0f / most;
        uint8_t code[NF4_BLOCK] = { 0 };
        for (int64_t i = 0; i < count; i++) {
            float x = v[i] * inverse;
            int c = 0;
            for (int t = 0; t < 15; t++) c += x > threshold[t];
            code[i] = (uint8_t)c;
        }
        for (int64_t i = 0; i < (count + 1) / 2; i++) to[i] = (uint8_t)(code[2 * i] << 4 | code[2 * i + 1]);
    }
}

void nf4_quantize_absmax(nf4_data *q, float *absmax) {
    const float *map = nf4_nested_map();
    double sum = 0.0;
    for (int64_t i = 0; i < q->n_blocks; i++) sum += (double)absmax[i];
    q->offset = (float)(sum / (double)q->n_blocks);
    for (int64_t start = 0; start < q->n_blocks; start += NF4_NESTED) {
        int64_t end = start + NF4_NESTED < q->n_blocks ? start + NF4_NESTED : q->n_blocks;
        float most = 0.0f;
        for (int64_t i = start; i < end; i++) {
            absmax[i] -= q->offset;
            most = fmaxf(most, fabsf(absmax[i]));
        }
        q->nested[start / NF4_NESTED] = most;
        float inverse = 1.0f / most;
        for (int64_t i = start; i < end; i++)
            q->absmax[i] = most == 0.0f ? 127 : mr_map_nearest(map, absmax[i] * inverse); /* 127 is the map's zero */
    }
}

/* --- back --- */

static float block_absmax(const nf4_data *q, const float *map, int64_t block) {
    const int64_t group = block / NF4_NESTED;
    return map[q->absmax[block]] * q->nested[group] + (q->offsets ? q->offsets[group] : q->offset);
}

void nf4_dequantize(float *dst, const nf4_data *q, int64_t at, int64_t n) {
    const float *map = nf4_nested_map();
    float scale = 0.0f;
    for (int64_t i = at; i < at + n; i++) {
        if (i == at || i % NF4_BLOCK == 0) scale = block_absmax(q, map, i / NF4_BLOCK);
        int code = q->codes[i / 2] >> (i & 1 ? 0 : 4) & 15;
        *dst++ = nf4_values[code] * scale;
    }
}

static void unpack_panel(const gemm_kernels *kernels, void *panel, float *scratch, const mr_weight *w, bool backward,
                         int64_t index, int64_t k0, int64_t k) {
    const nf4_data *q = &w->nf4;
    const float *map = nf4_nested_map();
    mr_dtype type = weight_panel_type(w);
    bool bf16 = type == MR_BF16, whole = w->n_in % NF4_BLOCK == 0;
    int64_t blocks = w->n_in / NF4_BLOCK, col0 = index * GEMM_COLS;
    float tile[GEMM_COLS * NF4_BLOCK];
    if (backward) { /* columns col0 .. of rows k0 .. k0 + k */
        int64_t cols = w->n_in - col0 < GEMM_COLS ? w->n_in - col0 : GEMM_COLS;
        if (whole && kernels->nf4_bwd) {
            for (int64_t i = 0; i < k; i++) scratch[i] = block_absmax(q, map, (k0 + i) * blocks + index);
            kernels->nf4_bwd(panel, q->codes + (k0 * w->n_in + col0) / 2, w->n_in / 2, scratch, k, bf16);
            return;
        }
        for (int64_t i = 0; i < k; i += NF4_BLOCK) {
            int64_t n = k - i < NF4_BLOCK ? k - i : NF4_BLOCK;
            for (int64_t r = 0; r < n; r++)
                nf4_dequantize(tile + r * GEMM_COLS, q, (k0 + i + r) * w->n_in + col0, cols);
            gemm_pack_block_bwd(kernels, (char *)panel + gemm_panel_bytes(i, type), type, tile, GEMM_COLS, n, cols);
        }
        return;
    }
    int64_t rows = w->n_out - col0 < GEMM_COLS ? w->n_out - col0 : GEMM_COLS;
    for (int64_t i = 0; i < k; i += NF4_BLOCK) { /* k0 is a multiple of 64 */
        char *to = (char *)panel + gemm_panel_bytes(i, type);
        if (whole && rows == GEMM_COLS && kernels->nf4_fwd) {
            for (int64_t r = 0; r < rows; r++)
                scratch[r] = block_absmax(q, map, (col0 + r) * blocks + (k0 + i) / NF4_BLOCK);
            kernels->nf4_fwd(to, q->codes + (col0 * w->n_in + k0 + i) / 2, w->n_in / 2, scratch, bf16);
            continue;
        }
        int64_t n = k - i < NF4_BLOCK ? k - i : NF4_BLOCK;
        for (int64_t r = 0; r < rows; r++) nf4_dequantize(tile + r * NF4_BLOCK, q, (col0 + r) * w->n_in + k0 + i, n);
        gemm_pack_block(kernels, to, type, tile, NF4_BLOCK, rows, n);
    }
}

void nf4_panel(const gemm_kernels *kernels, void *panel, float *scratch, const mr_weight *w, bool backward,
               int64_t index, int64_t k0, int64_t k) {
    unpack_panel(kernels, panel, scratch, w, backward, index, k0, k);
    if (w->compute == MR_F16) cpu_round_f16_n(panel, panel, k * GEMM_COLS);
    /* bf16: to whole units of K */
    mr_dtype type = weight_panel_type(w);
    size_t used = (size_t)gemm_steps(k, type) * GEMM_STEP;
    __builtin_memset((char *)panel + used, 0, gemm_panel_bytes(k, type) - used);
}
