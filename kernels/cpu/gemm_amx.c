/* gemm_amx.c - bf16 products in the tiles of AMX (Intel SDM, vol. 2, TDPBF16PS). Everything else of this instruction
 * set is gemm_avx512.c's.
 *
 * Order: an element of y takes 32 of K at a time, ascending: the tile unit sums the even and the odd of them apart and
 *        adds both to what is there. An adapter's chain comes first; when its factor is not 1 it is summed by itself and
 *        added, times the factor, at the end of the first block of K. Which rows share a tile, and how many, does not enter: the row rule of kernels.h.
 * Tiles: up to 16 rows take four tiles of 16 columns, so that a panel is read once; up to 32 take two by two. Panels
 *        are those of gemm.h: 16 steps are a tile's rows, 256 bytes apart, and 32 of K fill a page.
 * State: the shapes of the tiles belong to the thread; gemm_kernels.leave gives them back, since a thread that holds
 *        tiles costs more to switch. */
#if defined(__x86_64__)

#include <immintrin.h>

#include "cpu/weights.h"

#define TAMX target("amx-tile,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#define INLINE static inline __attribute__((always_inline))
/* Tile instructions read memory behind the compiler's back. */
#define MEMORY_IS_READ __asm__ volatile("" ::: "memory")

enum {
    TILE = 16,            /* rows of a tile, and its columns of f32 */
    K_STEP = GEMM_K_UNIT, /* of K in one tile instruction */
    K_BYTES = K_STEP / 2 * GEMM_STEP, /* of a panel for them */
    AHEAD = 8 * K_BYTES   /* far enough to hide memory; measured: 12.1 GB/s at 2, 13.0 at 8, 12.1 at 16 */
};

/* LDTILECFG's operand. */
typedef struct tile_shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_shapes;

static _Thread_local int shaped; /* for how many rows of y this thread's tiles are; 0: for none */

/* Tiles 0 to 3: sums; 4 and 5, or 4: rows of x; the others: w. */
static __attribute__((TAMX)) void shape_tiles(int rows) {
    if (shaped == rows) return;
    tile_shapes s = { .palette = 1 };
    for (int i = 0; i < 8; i++) {
        bool low = rows <= TILE ? i <= 4 : i == 2 || i == 3 || i == 5;
        s.row_bytes[i] = 64;
        s.rows[i] = (uint8_t)(!low ? TILE : rows <= TILE ? rows : rows - TILE);
    }
    MEMORY_IS_READ;
    _tile_loadconfig(&s);
    shaped = rows;
}

__attribute__((TAMX)) void gemm_amx_leave(void) {
    if (shaped) _tile_release();
    shaped = 0;
}

/* What a tile's store leaves, on its way to y. */
typedef struct sums {
    float own[TILE * GEMM_COLS], more[TILE * GEMM_COLS]; /* [rows][ld], ld 64 or 32 */
} sums;

/* Whether an adapter's chain is summed by itself. */
INLINE bool apart(const gemm_tile *t) {
    return t->more_k && t->more_alpha != 1.0f;
}

/* Sums of rows [row0, row0 + rows) and columns [col0, col0 + cols) to acc or to y. */
INLINE __attribute__((TAMX)) void finish(const gemm_tile *t, const sums *s, int ld, int row0, int rows, int col0,
                                         int cols) {
    const __m512 alpha = _mm512_set1_ps(t->alpha), more = _mm512_set1_ps(t->more_alpha);
    for (int c = 0; c < cols; c += 16) {
        int left = cols - c;
        __mmask16 mask = left >= 16 ? 0xffff : (__mmask16)((1u << left) - 1u);
        __m512 bias = t->bias && !t->rest ? _mm512_maskz_loadu_ps(mask, t->bias + col0 + c) : _mm512_setzero_ps();
        for (int r = 0; r < rows; r++) {
            __m512 v = _mm512_load_ps(s->own + r * ld + c);
            if (apart(t)) v = _mm512_fmadd_ps(more, _mm512_load_ps(s->more + r * ld + c), v);
            if (t->rest) {
                _mm512_storeu_ps(t->acc + (row0 + r) * GEMM_COLS + col0 + c, v);
                continue;
            }
            float *y = t->y + (row0 + r) * t->ldy + col0 + c;
            v = _mm512_mul_ps(v, alpha);
            if (t->bias) v = _mm512_add_ps(v, bias);
            if (t->add) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, y));
            _mm512_mask_storeu_ps(y, mask, v);
        }
    }
}

/* C tiles of columns of a page. */
INLINE __attribute__((TAMX)) void fetch_tiles(const char *w, const int C) {
#pragma GCC unroll 16
    for (int i = 0; i < K_BYTES; i += GEMM_STEP)
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) _mm_prefetch(w + i + 64 * c, _MM_HINT_T1);
}

/* Half a page. */
INLINE __attribute__((TAMX)) void fetch_half(const char *w) {
#pragma GCC unroll 32
    for (int i = 0; i < K_BYTES / 2; i += 64) _mm_prefetch(w + i, _MM_HINT_T1);
}

/* --- up to 16 rows, C tiles of columns --- */

INLINE __attribute__((TAMX)) void zero_1(const int C) {
    _tile_zero(0);
    if (C > 1) _tile_zero(1);
    if (C > 2) _tile_zero(2);
    if (C > 3) _tile_zero(3);
}

INLINE __attribute__((TAMX)) void load_1(const float *from, int64_t ld, const int C) {
    MEMORY_IS_READ;
    _tile_loadd(0, from, ld * 4);
    if (C > 1) _tile_loadd(1, from + 16, ld * 4);
    if (C > 2) _tile_loadd(2, from + 32, ld * 4);
    if (C > 3) _tile_loadd(3, from + 48, ld * 4);
}

INLINE __attribute__((TAMX)) void store_1(float *to, int64_t ld, const int C) {
    _tile_stored(0, to, ld * 4);
    if (C > 1) _tile_stored(1, to + 16, ld * 4);
    if (C > 2) _tile_stored(2, to + 32, ld * 4);
    if (C > 3) _tile_stored(3, to + 48, ld * 4);
}

INLINE __attribute__((TAMX)) void chain_1(const char *x, int64_t ldx, const char *w, int64_t k, const bool cold,
                                          const int C) {
    for (; k > 0; k -= K_STEP, x += 2 * K_STEP, w += K_BYTES) {
        if (cold) fetch_tiles(w + AHEAD, C);
        _tile_loadd(4, x, ldx);
        _tile_loadd(5, w, GEMM_STEP);
        _tile_dpbf16ps(0, 4, 5);
        if (C > 1) {
            _tile_loadd(6, w + 64, GEMM_STEP);
            _tile_dpbf16ps(1, 4, 6);
        }
        if (C > 2) {
            _tile_loadd(7, w + 128, GEMM_STEP);
            _tile_dpbf16ps(2, 4, 7);
        }
        if (C > 3) {
            _tile_loadd(5, w + 192, GEMM_STEP);
            _tile_dpbf16ps(3, 4, 5);
        }
    }
}

INLINE __attribute__((TAMX)) void few_rows(const gemm_tile *t, int rows, const int C) {
    _Alignas(64) sums s;
    MEMORY_IS_READ;
    if (t->resume)
        load_1(t->acc, GEMM_COLS, C);
    else
        zero_1(C);
    if (t->more_k) chain_1(t->more_x, t->more_ldx * 2, t->more_w, t->more_k, false, C);
    if (apart(t)) {
        store_1(s.more, GEMM_COLS, C);
        zero_1(C);
    }
    if (t->cold)
        chain_1(t->x, t->ldx * 2, t->w, t->k, true, C);
    else
        chain_1(t->x, t->ldx * 2, t->w, t->k, false, C);
    store_1(s.own, GEMM_COLS, C);
    finish(t, &s, GEMM_COLS, 0, rows, 0, t->cols);
}

/* --- 17 to 32 rows, one or two tiles of columns from col0 on --- */

INLINE __attribute__((TAMX)) void zero_2(const bool two) {
    _tile_zero(0);
    _tile_zero(2);
    if (two) {
        _tile_zero(1);
        _tile_zero(3);
    }
}

INLINE __attribute__((TAMX)) void load_2(const float *from, int64_t ld, const bool two) {
    MEMORY_IS_READ;
    _tile_loadd(0, from, ld * 4);
    _tile_loadd(2, from + TILE * ld, ld * 4);
    if (two) {
        _tile_loadd(1, from + 16, ld * 4);
        _tile_loadd(3, from + TILE * ld + 16, ld * 4);
    }
}

INLINE __attribute__((TAMX)) void store_2(float *to, int64_t ld, const bool two) {
    _tile_stored(0, to, ld * 4);
    _tile_stored(2, to + TILE * ld, ld * 4);
    if (two) {
        _tile_stored(1, to + 16, ld * 4);
        _tile_stored(3, to + TILE * ld + 16, ld * 4);
    }
}

/* fetch: memory to bring nearer meanwhile, half a page a step; NULL with strip: both columns of tiles of pages ahead;
 * NULL without: nothing. */
INLINE __attribute__((TAMX)) void chain_2(const char *x, int64_t ldx, const char *w, int64_t k, const char *fetch,
                                          const bool strip, const bool two) {
    for (; k > 0; k -= K_STEP, x += 2 * K_STEP, w += K_BYTES) {
        if (strip) fetch_tiles(w + AHEAD, 2);
        if (fetch) {
            fetch_half(fetch);
            fetch += K_BYTES / 2;
        }
        _tile_loadd(4, x, ldx);
        _tile_loadd(6, w, GEMM_STEP);
        _tile_dpbf16ps(0, 4, 6);
        if (two) {
            _tile_loadd(7, w + 64, GEMM_STEP);
            _tile_dpbf16ps(1, 4, 7);
        }
        _tile_loadd(5, x + TILE * ldx, ldx);
        _tile_dpbf16ps(2, 5, 6);
        if (two) _tile_dpbf16ps(3, 5, 7);
    }
}

INLINE __attribute__((TAMX)) void many_rows(const gemm_tile *t, int rows, int col0, const bool two) {
    enum { LD = 2 * TILE };
    _Alignas(64) sums s;
    const char *w = (const char *)t->w + 4 * col0;
    int cols = t->cols - col0 < LD ? t->cols - col0 : LD;
    MEMORY_IS_READ;
    if (t->resume)
        load_2(t->acc + col0, GEMM_COLS, two);
    else
        zero_2(two);
    if (t->more_k) chain_2(t->more_x, t->more_ldx * 2, (const char *)t->more_w + 4 * col0, t->more_k, NULL, false, two);
    if (apart(t)) {
        store_2(s.more, LD, two);
        zero_2(two);
    }
    /* a whole panel is read by halves, and what comes from memory evenly in the time of both */
    if (t->cold && t->cols <= LD)
        chain_2(t->x, t->ldx * 2, w, t->k, NULL, true, two);
    else if (t->cold)
        chain_2(t->x, t->ldx * 2, w, t->k, (const char *)t->w + AHEAD + col0 / LD * (t->k * (GEMM_STEP / 4)), false, two);
    else
        chain_2(t->x, t->ldx * 2, w, t->k, NULL, false, two);
    if (!t->rest && !apart(t) && !t->bias && !t->add && t->alpha == 1.0f && cols == (two ? LD : TILE)) {
        store_2(t->y + col0, t->ldy, two);
        return;
    }
    store_2(s.own, LD, two);
    finish(t, &s, LD, 0, rows, col0, cols);
}

__attribute__((TAMX)) void gemm_amx_bf16(const gemm_tile *t, int rows) {
    shape_tiles(rows);
    if (rows > TILE) {
        for (int col0 = 0; col0 < t->cols; col0 += 2 * TILE) {
            if (t->cols - col0 > TILE)
                many_rows(t, rows, col0, true);
            else
                many_rows(t, rows, col0, false);
        }
    } else if (t->cols > 48) {
        few_rows(t, rows, 4);
    } else if (t->cols > 32) {
        few_rows(t, rows, 3);
    } else if (t->cols > 16) {
        few_rows(t, rows, 2);
    } else {
        few_rows(t, rows, 1);
    }
}

#else
typedef int gemm_amx_is_for_x86;
#endif
