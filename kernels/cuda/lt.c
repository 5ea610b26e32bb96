/* lt.c - cuBLASLt for products of many rows, where it keeps the row rule.
 *
 * Opened with dlopen by the first large product; without it the module's own kernels serve, and nothing else changes. For each shape and
 * each doubling of the number of rows one unsplit algorithm is chosen, once: the fastest of the heuristic's that give the bits of our own
 * kernel for several numbers of rows, on this device and with this weight; nothing in the library's documentation promises the order of its
 * sums. So whichever is chosen, results are the same. MEDRL_CUDA_GEMM=own leaves the library out.
 *
 * With exact = false there is no probe: the fastest of the heuristic's choices serves, split K among them, for few rows too. */
#include "cuda/hints.h"
#include "cuda/lt.h"

#if !defined(MR_EMULATE) && defined(__has_include)
#if __has_include(<cublasLt.h>)
#define MR_HAVE_LT 1
#endif
#endif

#ifdef MR_HAVE_LT
#include <cublasLt.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SHAPES = 512, WORKSPACE = CU_LT_WORKSPACE, PROBE_ROWS = 384, PROBE_VALUES = 65521, CHOICES = 8 };
enum { MOST_ROWS = 2048, ALIGNMENT = 16, NARROW = 128, STEP_ROWS = 512 /* of a decode step */ };

_Static_assert(sizeof(cublasLtMatmulAlgo_t) == CU_ALGO_WORDS * sizeof(uint64_t), "hints.h keeps an algorithm whole");

typedef struct lt_shape {
    cu_lt_product key; /* without pointers; n_rows: those that it was chosen for */
    bool serves, freely; /* freely: split K is allowed */
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulAlgo_t algo;
} lt_shape;

struct cu_lt {
    cublasLtHandle_t handle;
    void *workspace;
    cublasStatus_t (*create)(cublasLtHandle_t *);
    cublasStatus_t (*destroy)(cublasLtHandle_t);
    cublasStatus_t (*desc_create)(cublasLtMatmulDesc_t *, cublasComputeType_t, cudaDataType_t);
    cublasStatus_t (*desc_set)(cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, const void *, size_t);
    cublasStatus_t (*desc_destroy)(cublasLtMatmulDesc_t);
    cublasStatus_t (*layout_create)(cublasLtMatrixLayout_t *, cudaDataType, uint64_t, uint64_t, int64_t);
    cublasStatus_t (*layout_set)(cublasLtMatrixLayout_t, cublasLtMatrixLayoutAttribute_t, const void *, size_t);
    cublasStatus_t (*layout_destroy)(cublasLtMatrixLayout_t);
    cublasStatus_t (*preference_create)(cublasLtMatmulPreference_t *);
    cublasStatus_t (*preference_set)(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, const void *, size_t);
    cublasStatus_t (*preference_destroy)(cublasLtMatmulPreference_t);
    cublasStatus_t (*heuristic)(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int,
                                cublasLtMatmulHeuristicResult_t *, int *);
    cublasStatus_t (*check)(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                            cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t *,
                            cublasLtMatmulHeuristicResult_t *);
    cublasStatus_t (*matmul)(cublasLtHandle_t, cublasLtMatmulDesc_t, const void *, const void *, cublasLtMatrixLayout_t,
                             const void *, cublasLtMatrixLayout_t, const void *, const void *, cublasLtMatrixLayout_t, void *,
                             cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t *, void *, size_t, cudaStream_t);
    size_t (*version)(void);
    cu_hints *hints; /* NULL: none */
    lt_shape shapes[MAX_SHAPES];
    int n_shapes;
};

static void *open_library(void) {
    char name[2][64];
    snprintf(name[0], sizeof name[0], "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
    snprintf(name[1], sizeof name[1], "/usr/local/cuda/lib64/libcublasLt.so.%d", CUBLAS_VER_MAJOR);
    void *lib = dlopen(name[0], RTLD_NOW | RTLD_LOCAL);
    return lib ? lib : dlopen(name[1], RTLD_NOW | RTLD_LOCAL);
}

static bool symbol(void *lib, const char *name, void *to) {
    void *s = dlsym(lib, name);
    memcpy(to, &s, sizeof s); /* ISO C has no cast from object to function pointer */
    return s != NULL;
}

static bool load(cu_lt *lt) {
    void *lib = open_library(); /* stays: unloading CUDA libraries is not safe */
    return lib && symbol(lib, "cublasLtCreate", &lt->create) && symbol(lib, "cublasLtDestroy", &lt->destroy) &&
           symbol(lib, "cublasLtGetVersion", &lt->version) &&
           symbol(lib, "cublasLtMatmulDescCreate", &lt->desc_create) &&
           symbol(lib, "cublasLtMatmulDescSetAttribute", &lt->desc_set) &&
           symbol(lib, "cublasLtMatmulDescDestroy", &lt->desc_destroy) &&
           symbol(lib, "cublasLtMatrixLayoutCreate", &lt->layout_create) &&
           symbol(lib, "cublasLtMatrixLayoutSetAttribute", &lt->layout_set) &&
           symbol(lib, "cublasLtMatrixLayoutDestroy", &lt->layout_destroy) &&
           symbol(lib, "cublasLtMatmulPreferenceCreate", &lt->preference_create) &&
           symbol(lib, "cublasLtMatmulPreferenceSetAttribute", &lt->preference_set) &&
           symbol(lib, "cublasLtMatmulPreferenceDestroy", &lt->preference_destroy) &&
           symbol(lib, "cublasLtMatmulAlgoGetHeuristic", &lt->heuristic) &&
           symbol(lib, "cublasLtMatmulAlgoCheck", &lt->check) && symbol(lib, "cublasLtMatmul", &lt->matmul);
}

static cu_lt *opened(mr_backend *b) {
    cu_state *s = cu_of(b);
    if (s->lt || s->no_lt) return s->lt;
    const char *want = getenv("MEDRL_CUDA_GEMM");
    cu_lt *lt = calloc(1, sizeof *lt);
    s->no_lt = true;
    if (!lt || (want && strcmp(want, "own") == 0) || !load(lt) || lt->create(&lt->handle) != CUBLAS_STATUS_SUCCESS) {
        free(lt);
        return NULL;
    }
    cu_take(b, &lt->workspace, WORKSPACE); /* without it, algorithms that want none are asked for */
    lt->hints = cu_hints_open(b, lt->version());
    s->no_lt = false;
    s->lt = lt;
    return lt;
}

void cu_lt_open(mr_backend *b) { opened(b); }
void cu_lt_load(void) {
    const char *want = getenv("MEDRL_CUDA_GEMM");
    if (!(want && strcmp(want, "own") == 0)) open_library();
}
bool cu_lt_there(const mr_backend *b) {
    const char *want = getenv("MEDRL_CUDA_GEMM");
    return !cu_of(b)->no_lt && !(want && strcmp(want, "own") == 0);
}

static void shape_clear(cu_lt *lt, lt_shape *h) {
    if (h->desc) lt->desc_destroy(h->desc);
    if (h->w) lt->layout_destroy(h->w);
    if (h->x) lt->layout_destroy(h->x);
    if (h->y) lt->layout_destroy(h->y);
    h->desc = NULL, h->w = h->x = h->y = NULL;
}

void cu_lt_close(mr_backend *b) {
    cu_lt *lt = cu_of(b)->lt;
    if (!lt) return;
    for (int i = 0; i < lt->n_shapes; i++) shape_clear(lt, &lt->shapes[i]);
    cu_hints_close(lt->hints);
    lt->destroy(lt->handle);
    cu_give(b, lt->workspace, WORKSPACE);
    free(lt);
    cu_of(b)->lt = NULL;
}

/* The library's matrices are column by column: our y[rows, cols] is its (cols x rows), and w comes first. */
static bool describe(cu_lt *lt, lt_shape *h) {
    const cu_lt_product *k = &h->key;
    cudaDataType_t half = k->f16 ? CUDA_R_16F : CUDA_R_16BF;
    cublasOperation_t turn = CUBLAS_OP_T;
    uint64_t cols = (uint64_t)k->n_cols, depth = (uint64_t)k->k;
    if (lt->desc_create(&h->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) != CUBLAS_STATUS_SUCCESS) return false;
    if (!k->backward &&
        lt->desc_set(h->desc, CUBLASLT_MATMUL_DESC_TRANSA, &turn, sizeof turn) != CUBLAS_STATUS_SUCCESS)
        return false;
    bool ok = lt->layout_create(&h->w, half, k->backward ? cols : depth, k->backward ? depth : cols, k->ldw) == CUBLAS_STATUS_SUCCESS &&
              lt->layout_create(&h->x, half, depth, PROBE_ROWS, k->ldx) == CUBLAS_STATUS_SUCCESS &&
              lt->layout_create(&h->y, CUDA_R_32F, cols, PROBE_ROWS, k->ldy) == CUBLAS_STATUS_SUCCESS;
    const cublasLtMatrixLayout_t all[] = { h->w, h->x, h->y };
    for (int i = 0; ok && k->n_batch > 1 && i < 3; i++) {
        int32_t n = k->n_batch;
        int64_t step = i < 2 ? k->k : k->step_y;
        ok = lt->layout_set(all[i], CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &n, sizeof n) == CUBLAS_STATUS_SUCCESS &&
             lt->layout_set(all[i], CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step) == CUBLAS_STATUS_SUCCESS;
    }
    return ok;
}

/* The heuristic's unsplit choices for that many rows, best first; their number. */
static int choices(cu_lt *lt, const lt_shape *h, uint64_t rows, cublasLtMatmulHeuristicResult_t r[CHOICES]) {
    cublasLtMatmulPreference_t p = NULL;
    int n = 0;
    uint32_t none = CUBLASLT_REDUCTION_SCHEME_NONE, align = ALIGNMENT;
    size_t room = lt->workspace ? WORKSPACE : 0;
    lt->layout_set(h->x, CUBLASLT_MATRIX_LAYOUT_COLS, &rows, sizeof rows);
    lt->layout_set(h->y, CUBLASLT_MATRIX_LAYOUT_COLS, &rows, sizeof rows);
    if (lt->preference_create(&p) != CUBLAS_STATUS_SUCCESS) return 0;
    bool ok = lt->preference_set(p, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof room) == CUBLAS_STATUS_SUCCESS &&
              (h->freely || lt->preference_set(p, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &none, sizeof none) == CUBLAS_STATUS_SUCCESS);
    const cublasLtMatmulPreferenceAttributes_t sides[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES
    };
    for (int i = 0; i < 4; i++) ok = ok && lt->preference_set(p, sides[i], &align, sizeof align) == CUBLAS_STATUS_SUCCESS;
    ok = ok && lt->heuristic(lt->handle, h->desc, h->w, h->x, h->y, h->y, p, CHOICES, r, &n) == CUBLAS_STATUS_SUCCESS;
    lt->preference_destroy(p);
    return ok ? n : 0;
}

static bool multiply(mr_backend *b, cu_lt *lt, lt_shape *h, const cu_lt_product *p) {
    uint64_t rows = (uint64_t)p->n_rows;
    const float beta = p->onto ? 1.0f : 0.0f;
    cublasLtMatmulHeuristicResult_t r;
    if (lt->layout_set(h->x, CUBLASLT_MATRIX_LAYOUT_COLS, &rows, sizeof rows) != CUBLAS_STATUS_SUCCESS ||
        lt->layout_set(h->y, CUBLASLT_MATRIX_LAYOUT_COLS, &rows, sizeof rows) != CUBLAS_STATUS_SUCCESS ||
        lt->check(lt->handle, h->desc, h->w, h->x, h->y, h->y, &h->algo, &r) != CUBLAS_STATUS_SUCCESS ||
        r.workspaceSize > (lt->workspace ? WORKSPACE : 0))
        return false;
    cu_of(b)->packed.at = NULL;
    return lt->matmul(lt->handle, h->desc, &p->alpha, p->w, h->w, p->x, h->x, &beta, p->onto ? p->onto : p->y, h->y, p->y, h->y, &h->algo,
                      lt->workspace, lt->workspace ? WORKSPACE : 0, cu_of(b)->stream) == CUBLAS_STATUS_SUCCESS;
}

/* `rows` rows of numbers of either sign between 1/8 and 2 (bf16) or 1.5 and 2 (f16), the same every time. */
static bool fill_probe(mr_backend *b, uint16_t *x, int64_t ldx, int64_t rows) {
    uint16_t *host = malloc(PROBE_VALUES * sizeof *host);
    int64_t n = rows * ldx;
    uint32_t r = 1;
    bool ok = host != NULL;
    for (int i = 0; ok && i < PROBE_VALUES; i++) {
        r = r * 1664525u + 1013904223u; /* Numerical Recipes' generator; its upper bits */
        host[i] = (uint16_t)(0x3e00u | (r >> 16 & 0x1ffu) | (r >> 31 << 15));
    }
    for (int64_t at = 0; ok && at < n; at += PROBE_VALUES)
        ok = cudaMemcpyAsync(x + at, host, (size_t)(n - at < PROBE_VALUES ? n - at : PROBE_VALUES) * sizeof *x, cudaMemcpyHostToDevice,
                             cu_of(b)->stream) == cudaSuccess;
    free(host);
    return ok;
}

enum { COUNTS = 3 };
/* The probe's own rows and results, in attention's scratch: nothing is allocated for it, at whatever step a shape comes first. */
typedef struct probe_room {
    float *y;
    uint16_t *x;
    int64_t rows, counts[COUNTS];
    uint64_t sums[COUNTS]; /* the own kernel's bits */
} probe_room;

/* Values of the probe's y. */
static int64_t probe_values(const cu_lt_product *p, int64_t rows) {
    return p->n_batch > 1 ? p->n_batch * p->step_y : rows * p->ldy;
}

/* Rows [0, counts[i]) of the probe's own, added to old values or not; the sum of all bits of the results. NULL: the library's. */
static bool probe_sum(mr_backend *b, cu_lt *lt, lt_shape *h, const cu_lt_product *p, const probe_room *r, int i,
                      cu_lt_own own, const void *ctx, uint64_t *sum) {
    size_t bytes = (size_t)probe_values(p, r->rows) * sizeof(float);
    cu_lt_product q = *p;
    q.x = r->x, q.y = r->y, q.n_rows = r->counts[i], q.onto = i % 2 ? r->y : NULL;
    /* old values: any finite floats, the same on both sides */
    if (cudaMemsetAsync(q.y, 0x3c, bytes, cu_of(b)->stream) != cudaSuccess) return false;
    if (!own && !multiply(b, lt, h, &q)) return false;
    float *y = q.y;
    for (int k = 0; own && (k == 0 || k < p->n_batch); k++) {
        own(b, &q, ctx);
        q.x += p->k, q.w += p->k, q.y += p->step_y;
        if (q.onto) q.onto += p->step_y;
    }
    return cu_bits_sum(b, y, (int64_t)(bytes / sizeof(float)), sum);
}

/* As many rows as it has room for, PROBE_ROWS at most. */
static bool probe_room_of(mr_backend *b, cu_lt *lt, lt_shape *h, const cu_lt_product *p, cu_lt_own own, const void *ctx,
                          probe_room *r) {
    bool batch = p->n_batch > 1;
    int64_t planes = batch ? probe_values(p, 0) * (int64_t)sizeof(float) : 0;
    int64_t row = (batch ? 0 : h->key.ldy * (int64_t)sizeof(float)) + h->key.ldx * (int64_t)sizeof(uint16_t), fit = (CU_ATT_BYTES - planes) / row;
    r->rows = h->key.n_rows < PROBE_ROWS ? h->key.n_rows : PROBE_ROWS;
    if (r->rows > fit) r->rows = fit;
    r->y = cu_scratch(b, "probe", CU_SLOT_ATT, CU_ATT_BYTES);
    if (!r->y || r->rows < 16) return false;
    r->x = (uint16_t *)(r->y + probe_values(p, r->rows)); /* ldy is a multiple of 4 */
    r->counts[0] = r->rows / 2 + 1, r->counts[1] = r->rows * 3 / 4 + 1, r->counts[2] = r->rows;
    if (!fill_probe(b, r->x, h->key.ldx, r->rows)) return false;
    for (int i = 0; i < COUNTS; i++)
        if (!probe_sum(b, lt, h, p, r, i, own, ctx, &r->sums[i])) return false;
    return true;
}

/* Own kernel and library on rows of the probe's own, for three numbers of rows, added to the same old values. */
static bool probe(mr_backend *b, cu_lt *lt, lt_shape *h, const cu_lt_product *p, const probe_room *r) {
    bool ok = true;
    for (int i = 0; ok && i < COUNTS; i++) {
        uint64_t sum;
        ok = probe_sum(b, lt, h, p, r, i, NULL, NULL, &sum) && sum == r->sums[i];
    }
    cudaGetLastError();
    return ok;
}

/* Milliseconds of one product with p's own rows, or of as many as attention's scratch has room for: y itself is written only where
 * nothing is added to it. Overwrites the probe's rows. */
static float time_of(mr_backend *b, cu_lt *lt, lt_shape *h, const cu_lt_product *p, const probe_room *r) {
    enum { RUNS = 3 };
    cudaStream_t stream = cu_of(b)->stream;
    cudaEvent_t from = NULL, to = NULL;
    cu_lt_product q = *p;
    float ms = 0;
    if (p->onto) {
        int64_t fit = CU_ATT_BYTES / (p->ldy * (int64_t)sizeof(float));
        q.y = r->y, q.onto = r->y;
        if (q.n_rows > fit) q.n_rows = fit;
    }
    bool ok = cudaEventCreate(&from) == cudaSuccess && cudaEventCreate(&to) == cudaSuccess && multiply(b, lt, h, &q) &&
              cudaEventRecord(from, stream) == cudaSuccess;
    for (int i = 0; ok && i < RUNS; i++) ok = multiply(b, lt, h, &q);
    ok = ok && cudaEventRecord(to, stream) == cudaSuccess && cudaEventSynchronize(to) == cudaSuccess &&
         cudaEventElapsedTime(&ms, from, to) == cudaSuccess;
    if (from) cudaEventDestroy(from);
    if (to) cudaEventDestroy(to);
    cudaGetLastError();
    return ok ? ms / RUNS : 1e30f;
}

/* Multiplications of a product whose choices are timed: 30 us on an H100. */
static const double WORTH_TIMING = 1e10;

/* A large product is worth it; a narrow one is little work, but its first choice may be tiles too large to go round the multiprocessors (on
 * an H100 64 x 256 for 3578 x 64 from 4096 columns: 76 us, where 12 do for 192 columns from 2048). */
static bool worth_timing(const cu_lt_product *p) {
    return (double)p->n_rows * (double)p->n_cols * (double)p->k >= WORTH_TIMING || p->n_cols <= NARROW;
}

/* Choices that are tried. For decoding, whose products come again and again, a few of those that take microseconds, too: qkv of 192 rows on an
 * H100 takes 7.6 or 10.8 us. */
static int most_tried(const cu_lt_product *p) { return worth_timing(p) ? CHOICES : p->n_rows <= STEP_ROWS ? 4 : 1; }

/* Of the choices that the probe lets through, whose bits are all the same, the first, or the fastest where that may matter: each that is
 * tried loads a kernel, which takes time and memory. Choices are those for these rows, else those for many, where a narrow product is less of a
 * special case. */
static bool settle(mr_backend *b, cu_lt *lt, lt_shape *h, const cu_lt_product *p, cu_lt_own own, const void *ctx) {
    cublasLtMatmulHeuristicResult_t r[CHOICES];
    probe_room room;
    if (!describe(lt, h) || !probe_room_of(b, lt, h, p, own, ctx, &room)) return false;
    if (cu_hints_find(lt->hints, &h->key, h->algo.data) && probe(b, lt, h, p, &room)) return true;
    for (int64_t rows = h->key.n_rows < MOST_ROWS ? h->key.n_rows : p->n_rows;; rows = MOST_ROWS) {
        int n = choices(lt, h, (uint64_t)rows, r), n_pass = 0, best = 0;
        int enough = most_tried(p);
        for (int i = 0; i < n && n_pass < enough; i++) {
            h->algo = r[i].algo;
            if (r[i].state == CUBLAS_STATUS_SUCCESS && probe(b, lt, h, p, &room)) r[n_pass++] = r[i];
        }
        float least = 2e30f;
        for (int i = 0; i < n_pass; i++) {
            h->algo = r[i].algo;
            float ms = n_pass > 1 ? time_of(b, lt, h, p, &room) : 0;
            if (ms < least) least = ms, best = i;
        }
        h->algo = r[best].algo;
        if (n_pass) cu_hints_note(lt->hints, &h->key, h->algo.data);
        if (n_pass) return true;
        if (rows >= MOST_ROWS) return false;
    }
}

/* --- exact = false --- */

typedef struct trial {
    cu_lt *lt;
    lt_shape *h;
    cu_lt_product p;
} trial;

static bool try_once(mr_backend *b, void *ctx) {
    trial *t = ctx;
    return multiply(b, t->lt, t->h, &t->p);
}

/* The fastest choice for these rows. Results of the trials go to attention's scratch. */
static bool settle_freely(mr_backend *b, cu_lt *lt, lt_shape *h, const cu_lt_product *p) {
    cublasLtMatmulHeuristicResult_t r[CHOICES];
    trial t = { lt, h, *p };
    int64_t fit = CU_ATT_BYTES / (p->ldy * (int64_t)sizeof(float));
    double least = 1e30;
    int best = -1;
    h->freely = true;
    t.p.y = cu_scratch(b, "probe", CU_SLOT_ATT, CU_ATT_BYTES);
    if (t.p.onto) t.p.onto = t.p.y;
    if (t.p.n_rows > fit) t.p.n_rows = fit;
    if (!t.p.y || fit < 1 || !describe(lt, h)) return false;
    int n = choices(lt, h, (uint64_t)h->key.n_rows, r);
    for (int i = 0; i < n; i++) {
        if (r[i].state != CUBLAS_STATUS_SUCCESS) continue;
        h->algo = r[i].algo;
        double s = cu_seconds(b, try_once, &t);
        if (s < least) least = s, best = i;
    }
    if (best >= 0) h->algo = r[best].algo;
    return best >= 0;
}

/* The number of rows that a choice is made for: finer steps where a decode step's may lie. */
static int64_t rows_of_choice(bool exact, int64_t n) {
    int64_t rows = exact ? 64 : 8, step = exact && n > 256 ? 128 : 64;
    if (n > 64 && n <= STEP_ROWS) return (n + step - 1) / step * step;
    while (rows < n && rows < MOST_ROWS) rows *= 2;
    return rows;
}

static bool same_shape(const cu_lt_product *a, const cu_lt_product *k) {
    return a->n_rows == k->n_rows && a->alpha == k->alpha && a->f16 == k->f16 && a->backward == k->backward && a->n_batch == k->n_batch && a->n_cols == k->n_cols &&
           a->k == k->k && a->ldx == k->ldx &&
           a->ldw == k->ldw && a->ldy == k->ldy;
}

bool cu_lt_product_run(mr_backend *b, const cu_lt_product *p, cu_lt_own own, const void *ctx) {
    if ((p->n_rows < CU_LT_ROWS && b->exact) || (uintptr_t)p->x % ALIGNMENT || (uintptr_t)p->w % ALIGNMENT || (uintptr_t)p->y % ALIGNMENT ||
        (uintptr_t)p->onto % ALIGNMENT || p->ldy % 4)
        return false;
    cu_lt *lt = opened(b);
    if (!lt) return false;
    lt_shape *h = NULL;
    cu_lt_product key = *p;
    key.n_rows = rows_of_choice(b->exact, p->n_rows);
    for (int i = 0; i < lt->n_shapes && !h; i++)
        if (same_shape(&lt->shapes[i].key, &key)) h = &lt->shapes[i];
    if (!h) {
        if (lt->n_shapes == MAX_SHAPES) return false;
        h = &lt->shapes[lt->n_shapes++];
        h->key = key;
        h->serves = b->exact ? settle(b, lt, h, p, own, ctx) : settle_freely(b, lt, h, p);
        if (!h->serves) shape_clear(lt, h);
    }
    return h->serves && multiply(b, lt, h, p);
}

#else /* without the library's header, or emulated */

void cu_lt_close(mr_backend *b) { (void)b; }
void cu_lt_open(mr_backend *b) { (void)b; }
void cu_lt_load(void) {}
bool cu_lt_there(const mr_backend *b) {
    (void)b;
    return false;
}

bool cu_lt_product_run(mr_backend *b, const cu_lt_product *p, cu_lt_own own, const void *ctx) {
    (void)b, (void)p, (void)own, (void)ctx;
    return false;
}

#endif
