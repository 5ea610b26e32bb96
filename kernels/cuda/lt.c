/* lt.c - cuBLASLt for products of many rows, where it keeps the row rule.
 *
 * Opened with dlopen by the first large product; without it the module's own kernels serve, and nothing else changes. For each shape one
 * unsplit algorithm is chosen, once, and used for every number of rows. Before that it must give the bits of our own kernel for
 * several numbers of rows, on this device and with this weight: nothing in the library's documentation promises the order of its
 * sums. MEDRL_CUDA_GEMM=own leaves the library out. */
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

enum { MAX_SHAPES = 128, WORKSPACE = CU_LT_WORKSPACE, PROBE_ROWS = 384, ALIGNMENT = 16 };

typedef struct lt_shape {
    cu_lt_product key; /* without pointers and rows */
    bool serves;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulAlgo_t algo;
    size_t workspace;
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
    s->no_lt = false;
    s->lt = lt;
    return lt;
}

void cu_lt_open(mr_backend *b) { opened(b); }
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
    return lt->layout_create(&h->w, half, k->backward ? cols : depth, k->backward ? depth : cols, k->ldw) ==
               CUBLAS_STATUS_SUCCESS &&
           lt->layout_create(&h->x, half, depth, PROBE_ROWS, k->ldx) == CUBLAS_STATUS_SUCCESS &&
           lt->layout_create(&h->y, CUDA_R_32F, cols, PROBE_ROWS, k->ldy) == CUBLAS_STATUS_SUCCESS;
}

/* The heuristic's first unsplit choice for a few thousand rows. */
static bool choose(cu_lt *lt, lt_shape *h) {
    cublasLtMatmulPreference_t p = NULL;
    cublasLtMatmulHeuristicResult_t r;
    int n = 0;
    uint32_t none = CUBLASLT_REDUCTION_SCHEME_NONE, align = ALIGNMENT;
    size_t room = lt->workspace ? WORKSPACE : 0;
    uint64_t rows = 2048;
    lt->layout_set(h->x, CUBLASLT_MATRIX_LAYOUT_COLS, &rows, sizeof rows);
    lt->layout_set(h->y, CUBLASLT_MATRIX_LAYOUT_COLS, &rows, sizeof rows);
    if (lt->preference_create(&p) != CUBLAS_STATUS_SUCCESS) return false;
    bool ok = lt->preference_set(p, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof room) == CUBLAS_STATUS_SUCCESS &&
              lt->preference_set(p, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &none, sizeof none) == CUBLAS_STATUS_SUCCESS;
    const cublasLtMatmulPreferenceAttributes_t sides[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES
    };
    for (int i = 0; i < 4; i++) ok = ok && lt->preference_set(p, sides[i], &align, sizeof align) == CUBLAS_STATUS_SUCCESS;
    ok = ok && lt->heuristic(lt->handle, h->desc, h->w, h->x, h->y, h->y, p, 1, &r, &n) == CUBLAS_STATUS_SUCCESS && n == 1;
    lt->preference_destroy(p);
    if (ok) h->algo = r.algo, h->workspace = r.workspaceSize;
    return ok && h->workspace <= room;
}

static bool multiply(mr_backend *b, cu_lt *lt, lt_shape *h, const cu_lt_product *p) {
    uint64_t rows = (uint64_t)p->n_rows;
    const float one = 1.0f, beta = p->add ? 1.0f : 0.0f;
    cublasLtMatmulHeuristicResult_t r;
    if (lt->layout_set(h->x, CUBLASLT_MATRIX_LAYOUT_COLS, &rows, sizeof rows) != CUBLAS_STATUS_SUCCESS ||
        lt->layout_set(h->y, CUBLASLT_MATRIX_LAYOUT_COLS, &rows, sizeof rows) != CUBLAS_STATUS_SUCCESS ||
        lt->check(lt->handle, h->desc, h->w, h->x, h->y, h->y, &h->algo, &r) != CUBLAS_STATUS_SUCCESS ||
        r.workspaceSize > (lt->workspace ? WORKSPACE : 0))
        return false;
    return lt->matmul(lt->handle, h->desc, &one, p->w, h->w, p->x, h->x, &beta, p->y, h->y, p->y, h->y, &h->algo,
                      lt->workspace, lt->workspace ? WORKSPACE : 0, cu_of(b)->stream) == CUBLAS_STATUS_SUCCESS;
}

/* Own kernel and library on the caller's own rows, for three numbers of rows, added to the same old values. */
static bool probe(mr_backend *b, cu_lt *lt, lt_shape *h, const cu_lt_product *p, cu_lt_own own, const void *ctx) {
    static const int64_t counts[] = { CU_LT_ROWS, 257, PROBE_ROWS };
    size_t bytes = (size_t)PROBE_ROWS * (size_t)p->ldy * sizeof(float);
    float *y[2] = { NULL, NULL };
    bool ok = cudaMalloc((void **)&y[0], bytes) == cudaSuccess && cudaMalloc((void **)&y[1], bytes) == cudaSuccess;
    for (int i = 0; ok && i < 3; i++) {
        cu_lt_product q = *p;
        if (counts[i] > p->n_rows) continue;
        q.n_rows = counts[i];
        q.add = i % 2;
        /* old values: any finite floats, the same on both sides */
        for (int s = 0; s < 2; s++) ok = ok && cudaMemsetAsync(y[s], 0x3c, bytes, cu_of(b)->stream) == cudaSuccess;
        q.y = y[0];
        own(b, &q, ctx);
        q.y = y[1];
        ok = ok && multiply(b, lt, h, &q) && cu_same_bits(b, y[0], y[1], (int64_t)(bytes / sizeof(float)));
    }
    cudaFree(y[0]), cudaFree(y[1]);
    cudaGetLastError();
    return ok;
}

static bool same_shape(const cu_lt_product *a, const cu_lt_product *k) {
    return a->f16 == k->f16 && a->backward == k->backward && a->n_cols == k->n_cols && a->k == k->k && a->ldx == k->ldx &&
           a->ldw == k->ldw && a->ldy == k->ldy;
}

bool cu_lt_product_run(mr_backend *b, const cu_lt_product *p, cu_lt_own own, const void *ctx) {
    if (p->n_rows < CU_LT_ROWS || (uintptr_t)p->x % ALIGNMENT || (uintptr_t)p->w % ALIGNMENT || (uintptr_t)p->y % ALIGNMENT ||
        p->ldy % 4)
        return false;
    cu_lt *lt = opened(b);
    if (!lt) return false;
    lt_shape *h = NULL;
    for (int i = 0; i < lt->n_shapes && !h; i++)
        if (same_shape(&lt->shapes[i].key, p)) h = &lt->shapes[i];
    if (!h) {
        if (lt->n_shapes == MAX_SHAPES || p->n_rows < PROBE_ROWS) return false; /* too few rows to judge by */
        h = &lt->shapes[lt->n_shapes++];
        h->key = *p;
        h->serves = describe(lt, h) && choose(lt, h) && probe(b, lt, h, p, own, ctx);
        if (!h->serves) shape_clear(lt, h);
    }
    return h->serves && multiply(b, lt, h, p);
}

#else /* without the library's header, or emulated */

void cu_lt_close(mr_backend *b) { (void)b; }
void cu_lt_open(mr_backend *b) { (void)b; }
bool cu_lt_there(const mr_backend *b) {
    (void)b;
    return false;
}

bool cu_lt_product_run(mr_backend *b, const cu_lt_product *p, cu_lt_own own, const void *ctx) {
    (void)b, (void)p, (void)own, (void)ctx;
    return false;
}

#endif
