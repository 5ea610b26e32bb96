/* weights.c - making, refilling and reading matrices in the layout of the products. */
#include <assert.h>
#include <string.h>

#include "cpu/weights.h"

const char *mr_dtype_name(mr_dtype t) {
    switch (t) {
    case MR_F32: return "f32";
    case MR_F16: return "f16";
    case MR_BF16: return "bf16";
    case MR_NF4: return "nf4";
    }
    return "unknown";
}

/* Rows that are asked from the source at a time: about 4 MiB, whole panels. */
static int64_t source_rows(int64_t n_out, int64_t n_in) {
    int64_t rows = (4 << 20) / 4 / n_in / GEMM_COLS * GEMM_COLS;
    if (rows < GEMM_COLS) rows = GEMM_COLS;
    int64_t all = gemm_panels(n_out) * GEMM_COLS;
    return rows < all ? rows : all;
}

static void *take(mr_backend *b, mr_weight *w, size_t n, size_t each) {
    size_t bytes;
    if (!mr_mul_size(&bytes, n, each)) return NULL;
    w->bytes += bytes;
    return cpu_slab_alloc(b, bytes);
}

/* NF4 blocks run through the matrix row after row, so a block may begin in one read and end in the next: `carry`
 * values wait in front. */
static mr_status fill_nf4(mr_weight *w, mr_weight_source src, float *block, int64_t rows, float *absmax, mr_err *err) {
    nf4_data *q = &w->nf4;
    int64_t carry = 0, at = 0;
    float *into = block + NF4_BLOCK; /* values that wait end right before this */
    for (int64_t row = 0; row < w->n_out; row += rows) {
        int64_t n = w->n_out - row < rows ? w->n_out - row : rows;
        MR_TRY(src.rows(src.self, into, row, n, err));
        int64_t have = carry + n * w->n_in;
        int64_t use = row + n == w->n_out ? have : have / NF4_BLOCK * NF4_BLOCK;
        nf4_quantize(q->codes, absmax, into - carry, at, use);
        at += use;
        memmove(into - (have - use), into - carry + use, (size_t)(have - use) * sizeof *into);
        carry = have - use;
    }
    assert(at == q->n);
    nf4_quantize_absmax(q, absmax);
    return MR_OK;
}

/* Rows [row, row + n) into the weight's layout; f16: rounded already. */
static void put_rows(mr_backend *b, mr_weight *w, const float *src, int64_t row, int64_t n) {
    mr_dtype type = weight_panel_type(w);
    if (w->fwd || w->bwd) gemm_pack_rows(b, w->fwd, w->bwd, type, src, row, n, w->n_out, w->n_in);
    if (w->rows && type == MR_F32)
        memcpy((float *)w->rows + row * w->n_in, src, (size_t)(n * w->n_in) * sizeof *src);
    else if (w->rows)
        gemm_kernels_for(cpu_of(b)->isa)->to_bf16((uint16_t *)w->rows + row * w->n_in, src, n * w->n_in);
}

static mr_status fill_dense(mr_backend *b, mr_weight *w, mr_weight_source src, float *block, int64_t rows,
                            mr_err *err) {
    for (int64_t row = 0; row < w->n_out; row += rows) {
        int64_t n = w->n_out - row < rows ? w->n_out - row : rows;
        if (src.rows)
            MR_TRY(src.rows(src.self, block, row, n, err));
        else if (row == 0)
            memset(block, 0, (size_t)(rows * w->n_in) * sizeof *block);
        if (w->store == MR_F16) cpu_round_f16_n(block, block, n * w->n_in);
        put_rows(b, w, block, row, n);
    }
    return MR_OK;
}

static bool take_panels(mr_backend *b, mr_weight *w) {
    mr_dtype type = weight_panel_type(w);
    bool ok = true;
    if (w->uses & MR_USE_FWD)
        ok = (w->fwd = take(b, w, (size_t)gemm_panels(w->n_out), gemm_panel_bytes(w->n_in, type))) && ok;
    if (w->uses & MR_USE_BWD)
        ok = (w->bwd = take(b, w, (size_t)gemm_panels(w->n_in), gemm_panel_bytes(w->n_out, type))) && ok;
    return ok;
}

static mr_status no_memory(const mr_weight *w, mr_err *err) {
    return mr_fail(err, MR_ENOMEM, "weight [%lld, %lld] %s: out of memory; choose a smaller model or store it as nf4",
                   (long long)w->n_out, (long long)w->n_in, mr_dtype_name(w->store));
}

static int64_t nested_groups(int64_t n_blocks) {
    return (n_blocks + NF4_NESTED - 1) / NF4_NESTED;
}

static bool take_nf4(mr_backend *b, mr_weight *w) {
    nf4_data *q = &w->nf4;
    q->n = w->n_out * w->n_in;
    q->n_blocks = (q->n + NF4_BLOCK - 1) / NF4_BLOCK;
    bool ok = (q->codes = take(b, w, (size_t)(q->n + 1) / 2, 1));
    ok = (q->absmax = take(b, w, (size_t)q->n_blocks, 1)) && ok;
    return (q->nested = take(b, w, (size_t)nested_groups(q->n_blocks), sizeof(float))) && ok;
}

static mr_status create(mr_backend *b, mr_weight *w, mr_weight_source src, mr_err *err) {
    int64_t rows = source_rows(w->n_out, w->n_in);
    size_t block_values = (size_t)rows * (size_t)w->n_in + NF4_BLOCK;
    bool ok = true, nf4 = w->store == MR_NF4;
    float *absmax = NULL;
    if (nf4) {
        nf4_data *q = &w->nf4;
        ok = take_nf4(b, w);
        absmax = mr_try_alloc((size_t)q->n_blocks * sizeof *absmax);
        ok = absmax && ok;
    } else {
        ok = take_panels(b, w);
        if (!w->fwd && !w->bwd) /* only looked up */
            ok = (w->rows = take(b, w, (size_t)w->n_out * (size_t)w->n_in, w->store == MR_BF16 ? 2 : 4)) && ok;
    }
    float *block = cpu_try_scratch(b, CPU_SLOT_SOURCE, block_values * sizeof *block); /* stays for the next weight */
    mr_status st;
    if (!ok || !block)
        st = no_memory(w, err);
    else
        st = nf4 ? fill_nf4(w, src, block, rows, absmax, err) : fill_dense(b, w, src, block, rows, err);
    mr_free(absmax);
    if (st == MR_OK) {
        cpu_count(b, (int64_t)w->bytes);
        w->counted = true;
    }
    return st;
}

/* The type that is stored: products would round to theirs at every use. What is bf16 stays so under f32 products. */
static mr_dtype stored(mr_dtype store, mr_dtype compute) {
    return store != MR_NF4 && compute != MR_F32 ? compute : store;
}

/* What `create` takes. */
static size_t weight_bytes(const mr_weight_info *w, unsigned uses) {
    size_t n = (size_t)w->n_out * (size_t)w->n_in, blocks = (n + NF4_BLOCK - 1) / NF4_BLOCK, bytes = 0;
    mr_dtype type = stored(w->store, w->compute);
    if (type == MR_NF4) return (n + 1) / 2 + blocks + (blocks + NF4_NESTED - 1) / NF4_NESTED * sizeof(float);
    if (uses & MR_USE_FWD) bytes += (size_t)gemm_panels(w->n_out) * gemm_panel_bytes(w->n_in, type);
    if (uses & MR_USE_BWD) bytes += (size_t)gemm_panels(w->n_in) * gemm_panel_bytes(w->n_out, type);
    return bytes ? bytes : n * (type == MR_BF16 ? 2 : 4);
}

size_t cpu_weight_room(mr_backend *b, mr_weight_info *w, mr_room *room) {
    w->bytes = weight_bytes(w, room->uses);
    mr_weight_info as_stored = *w;
    as_stored.store = stored(w->store, w->compute);
    cpu_linear_room x = { 0 };
    if (room->rows > 0) x = cpu_linear_needs(b, &as_stored, room);
    if (room->take && !(cpu_reserve(b, CPU_SLOT_SHARED, x.rows) && cpu_reserve(b, CPU_SLOT_SHARED + 1, x.inner) &&
                        cpu_reserve(b, CPU_SLOT_THREADS, x.thread)))
        cpu_fail_status(b, MR_ENOMEM, "scratch", "%zu bytes do not fit into memory; use fewer rows a step", x.rows);
    /* the block of rows that weight_create reads stays as well */
    size_t source = ((size_t)source_rows(w->n_out, w->n_in) * (size_t)w->n_in + NF4_BLOCK) * sizeof(float);
    return source + source / 8 + x.rows + x.inner + (size_t)b->n_threads * x.thread;
}

mr_status cpu_weight_create(mr_backend *b, mr_weight **out, mr_weight_source src, int64_t n_out, int64_t n_in, int64_t more,
                            mr_dtype store, mr_dtype compute, unsigned uses, mr_err *err) {
    assert(n_out > 0 && n_in > 0 && uses && compute != MR_NF4);
    (void)more;
    *out = NULL;
    mr_weight *w = mr_alloc(sizeof *w);
    w->store = stored(store, compute), w->compute = compute, w->n_out = n_out, w->n_in = n_in, w->uses = uses;
    mr_status st = create(b, w, src, err);
    if (st != MR_OK) {
        cpu_weight_free(b, w);
        return st;
    }
    *out = w;
    return MR_OK;
}

mr_status cpu_weight_adopt(mr_backend *b, mr_weight **out, const mr_nf4_part *parts, int n, int64_t n_out, int64_t n_in,
                           mr_dtype compute, unsigned uses, mr_err *err) {
    assert(n_out > 0 && n_in > 0 && uses && compute != MR_NF4 && n > 0);
    *out = NULL;
    mr_weight *w = mr_alloc(sizeof *w);
    w->store = MR_NF4, w->compute = compute, w->n_out = n_out, w->n_in = n_in, w->uses = uses;
    nf4_data *q = &w->nf4;
    bool ok = take_nf4(b, w);
    if (n > 1) ok = (q->offsets = take(b, w, (size_t)nested_groups(q->n_blocks), sizeof(float))) && ok;
    if (!ok) {
        mr_status st = no_memory(w, err);
        cpu_weight_free(b, w);
        return st;
    }
    int64_t at = 0, block = 0, group = 0;
    q->offset = parts[0].offset;
    for (int i = 0; i < n; i++) {
        const mr_nf4_part *p = &parts[i];
        int64_t blocks = (p->n + NF4_BLOCK - 1) / NF4_BLOCK, groups = nested_groups(blocks);
        assert(at + p->n <= q->n && (i == n - 1 || p->n % (NF4_BLOCK * NF4_NESTED) == 0));
        memcpy(q->codes + at / 2, p->codes, (size_t)(p->n + 1) / 2);
        memcpy(q->absmax + block, p->absmax, (size_t)blocks);
        memcpy(q->nested + group, p->nested, (size_t)groups * sizeof(float));
        for (int64_t g = 0; q->offsets && g < groups; g++) q->offsets[group + g] = p->offset;
        at += p->n, block += blocks, group += groups;
    }
    assert(at == q->n);
    cpu_count(b, (int64_t)w->bytes);
    w->counted = true;
    *out = w;
    return MR_OK;
}

void cpu_weight_free(mr_backend *b, mr_weight *w) {
    if (!w) return;
    if (w->counted) cpu_count(b, -(int64_t)w->bytes);
    cpu_slab_free(b, w->fwd);
    cpu_slab_free(b, w->bwd);
    cpu_slab_free(b, w->rows);
    cpu_slab_free(b, w->nf4.codes);
    cpu_slab_free(b, w->nf4.absmax);
    cpu_slab_free(b, w->nf4.nested);
    cpu_slab_free(b, w->nf4.offsets);
    mr_free(w);
}

mr_weight_info cpu_weight_info(const mr_weight *w) {
    return (mr_weight_info){
        .store = w->store, .compute = w->compute, .n_out = w->n_out, .n_in = w->n_in, .bytes = w->bytes
    };
}

static void set_values(mr_backend *b, mr_weight *w, const float *values) {
    assert(w->store != MR_NF4);
    if (w->store != MR_F16) {
        put_rows(b, w, values, 0, w->n_out);
        return;
    }
    int64_t rows = source_rows(w->n_out, w->n_in); /* through the block that weight_create left */
    float *block = cpu_scratch(b, CPU_SLOT_SOURCE, ((size_t)rows * (size_t)w->n_in + NF4_BLOCK) * sizeof *block);
    for (int64_t row = 0; block && row < w->n_out; row += rows) {
        int64_t n = w->n_out - row < rows ? w->n_out - row : rows;
        cpu_round_f16_n(block, values + row * w->n_in, n * w->n_in);
        put_rows(b, w, block, row, n);
    }
}

void cpu_weight_set(mr_backend *b, const mr_weight_values *all, int n) {
    for (int i = 0; i < n && !cpu_failed(b); i++) set_values(b, all[i].w, all[i].values);
}

/* One row as f32: the values that products use. */
static void read_row(float *dst, const mr_weight *w, int64_t row) {
    mr_dtype type = weight_panel_type(w);
    assert(row >= 0 && row < w->n_out);
    if (w->store == MR_NF4) {
        nf4_dequantize(dst, &w->nf4, row * w->n_in, w->n_in);
        if (w->compute == MR_BF16)
            for (int64_t i = 0; i < w->n_in; i++) dst[i] = cpu_from_bf16(cpu_to_bf16(dst[i]));
        if (w->compute == MR_F16) cpu_round_f16_n(dst, dst, w->n_in);
    } else if (w->rows && type == MR_F32) {
        memcpy(dst, (const float *)w->rows + row * w->n_in, (size_t)w->n_in * sizeof *dst);
    } else if (w->rows) {
        const uint16_t *from = (const uint16_t *)w->rows + row * w->n_in;
        for (int64_t i = 0; i < w->n_in; i++) dst[i] = cpu_from_bf16(from[i]);
    } else if (w->bwd) { /* its rows are nearer together */
        gemm_unpack_bwd(dst, w->bwd, type, row, w->n_out, w->n_in);
    } else {
        gemm_unpack_fwd(dst, w->fwd, type, row, w->n_in);
    }
}

void cpu_weight_rows(mr_backend *b, float *dst, const mr_weight *w, int64_t row, int64_t n) {
    if (cpu_failed(b)) return;
    for (int64_t i = 0; i < n; i++) read_row(dst + i * w->n_in, w, row + i);
}

bool cpu_weight_nf4(const mr_weight *w, const uint8_t **codes, const uint8_t **absmax, const float **nested,
                    float *offset) {
    if (w->store != MR_NF4) return false;
    *codes = w->nf4.codes, *absmax = w->nf4.absmax, *nested = w->nf4.nested, *offset = w->nf4.offset;
    return true;
}

typedef struct lookup {
    float *x;
    const float *dx;
    const mr_weight *w;
    const int32_t *ids;
    int N, C;
} lookup;

static void embed_rows(void *ctx, int thread, int64_t from, int64_t to) {
    const lookup *l = ctx;
    (void)thread;
    for (int64_t n = from; n < to; n++) read_row(l->x + n * l->w->n_in, l->w, l->ids[n]);
}

void cpu_embed(mr_backend *b, float *x, const mr_weight *w, const int32_t *ids, int N) {
    if (cpu_failed(b) || N == 0) return;
    lookup l = { .x = x, .w = w, .ids = ids };
    cpu_share(b, (double)N * (double)w->n_in * 2.0, embed_rows, &l, N, 1);
}

/* All rows in order, for a part of the columns. */
static void embed_columns(void *ctx, int thread, int64_t from, int64_t to) {
    const lookup *l = ctx;
    (void)thread;
    for (int n = 0; n < l->N; n++) {
        float *row = l->x + (int64_t)l->ids[n] * l->C;
        for (int64_t c = from; c < to; c++) row[c] += l->dx[(int64_t)n * l->C + c];
    }
}

void cpu_embed_bwd(mr_backend *b, float *dw, const float *dx, const int32_t *ids, int N, int C) {
    if (cpu_failed(b)) return;
    lookup l = { .x = dw, .dx = dx, .ids = ids, .N = N, .C = C };
    cpu_share(b, (double)N * C, embed_columns, &l, C, 16);
}
