/* dnnl.c - oneDNN's matmul behind dnnl.h. API of oneDNN 2.x (libdnnl.so.2); its reference:
 * oneapi-src.github.io/oneDNN/v2. */
#include <assert.h>
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <oneapi/dnnl/dnnl.h>

#include "cpu/dnnl.h"

#define DNNL_FUNCTIONS(X)                                                                                              \
    X(dnnl_engine_create)                                                                                              \
    X(dnnl_engine_destroy)                                                                                             \
    X(dnnl_stream_create)                                                                                              \
    X(dnnl_stream_destroy)                                                                                             \
    X(dnnl_stream_wait)                                                                                                \
    X(dnnl_memory_desc_init_by_tag)                                                                                    \
    X(dnnl_memory_desc_init_by_strides)                                                                                \
    X(dnnl_memory_desc_get_size)                                                                                       \
    X(dnnl_memory_create)                                                                                              \
    X(dnnl_memory_destroy)                                                                                             \
    X(dnnl_memory_set_data_handle)                                                                                     \
    X(dnnl_matmul_desc_init)                                                                                           \
    X(dnnl_primitive_desc_create)                                                                                      \
    X(dnnl_primitive_desc_destroy)                                                                                     \
    X(dnnl_primitive_desc_query_md)                                                                                    \
    X(dnnl_reorder_primitive_desc_create)                                                                              \
    X(dnnl_primitive_create)                                                                                           \
    X(dnnl_primitive_destroy)                                                                                          \
    X(dnnl_primitive_execute)                                                                                          \
    X(dnnl_primitive_attr_create)                                                                                      \
    X(dnnl_primitive_attr_destroy)                                                                                     \
    X(dnnl_primitive_attr_set_post_ops)                                                                                \
    X(dnnl_post_ops_create)                                                                                            \
    X(dnnl_post_ops_append_sum)                                                                                        \
    X(dnnl_post_ops_destroy)

enum { N_CACHED = 128, PACK_ROWS = 64, MIN_SIZE = 128 };

/* A matmul for one shape. Weights of equal shape share it, since they have the same packed format. */
typedef struct cached {
    int64_t rows, cols, k, ldx;
    mr_dtype type;
    bool bias, add;
    dnnl_primitive_t primitive;
    dnnl_memory_t x, w, y, b;
    uint64_t used;
} cached;

struct cpu_dnnl {
    void *library; /* NULL: not there */
    void (*set_threads)(int); /* of the OpenMP library that it brings with it; NULL when it has another */
#define MEMBER(f) __typeof__(f) *f;
    DNNL_FUNCTIONS(MEMBER)
#undef MEMBER
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    cached cache[N_CACHED];
    uint64_t clock;
};

/* One packed direction of a weight. */
struct dnnl_weight {
    dnnl_memory_desc_t desc;
    void *data;
    int64_t cols, k;
    bool pad_one; /* one row takes another path than more: it travels with a second */
};

static dnnl_data_type_t type_of(mr_dtype t) {
    return t == MR_BF16 ? dnnl_bf16 : dnnl_f32;
}

static struct cpu_dnnl *library(mr_backend *b) {
    cpu_state *s = cpu_of(b);
    if (s->dnnl) return s->dnnl->library ? s->dnnl : NULL;
    struct cpu_dnnl *d = s->dnnl = mr_alloc(sizeof *d);
    void *so = dlopen("libdnnl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!so) return NULL;
    bool all = true;
#define FIND(f) all = (*(void **)&d->f = dlsym(so, #f)) && all;
    DNNL_FUNCTIONS(FIND)
#undef FIND
    *(void **)&d->set_threads = dlsym(so, "omp_set_num_threads");
    if (!all || d->dnnl_engine_create(&d->engine, dnnl_cpu, 0) != dnnl_success) {
        dlclose(so);
        return NULL;
    }
    if (d->dnnl_stream_create(&d->stream, d->engine, dnnl_stream_default_flags) != dnnl_success) {
        d->dnnl_engine_destroy(d->engine);
        dlclose(so);
        return NULL;
    }
    d->library = so;
    return d;
}

static void set_threads(mr_backend *b) {
    const cpu_state *s = cpu_of(b);
    if (s->dnnl->set_threads) s->dnnl->set_threads(s->n_threads);
}

static void cached_clear(struct cpu_dnnl *d, cached *c) {
    if (c->primitive) d->dnnl_primitive_destroy(c->primitive);
    if (c->x) d->dnnl_memory_destroy(c->x);
    if (c->w) d->dnnl_memory_destroy(c->w);
    if (c->y) d->dnnl_memory_destroy(c->y);
    if (c->b) d->dnnl_memory_destroy(c->b);
    *c = (cached){ 0 };
}

void cpu_dnnl_close(mr_backend *b) {
    cpu_state *s = cpu_of(b);
    struct cpu_dnnl *d = s->dnnl;
    if (!d) return;
    if (d->library) {
        for (int i = 0; i < N_CACHED; i++) cached_clear(d, &d->cache[i]);
        d->dnnl_stream_destroy(d->stream);
        d->dnnl_engine_destroy(d->engine);
        /* the library stays mapped: its threads' data outlive a dlclose */
    }
    mr_free(d);
    s->dnnl = NULL;
}

bool cpu_dnnl_serves(mr_backend *b, const mr_weight *w) {
    const cpu_state *s = cpu_of(b);
    const char *want = getenv("MEDRL_CPU_GEMM");
    bool wanted = want && *want ? strcmp(want, "dnnl") == 0 : s->has_amx;
    if (!wanted || w->store == MR_NF4 || w->store != w->compute) return false;
    if (w->compute == MR_BF16 && s->isa < CPU_AVX512_BF16) return false;
    if (!(w->uses & (MR_USE_FWD | MR_USE_BWD)) || w->n_out < MIN_SIZE || w->n_in < MIN_SIZE) return false;
    return library(b) != NULL;
}

/* The matmul's descriptor: w's format is `any` while it is being chosen. */
static dnnl_status_t describe(struct cpu_dnnl *d, dnnl_primitive_desc_t *out, const cached *c,
                              const dnnl_memory_desc_t *weights, dnnl_memory_desc_t md[3]) {
    dnnl_dims_t dx = { c->rows, c->k }, sx = { c->ldx, 1 }, dw = { c->k, c->cols }, dy = { c->rows, c->cols },
                db = { 1, c->cols };
    dnnl_memory_desc_t any;
    dnnl_status_t st = d->dnnl_memory_desc_init_by_strides(&md[0], 2, dx, type_of(c->type), sx);
    if (!st) st = d->dnnl_memory_desc_init_by_tag(&any, 2, dw, type_of(c->type), dnnl_format_tag_any);
    if (!st) st = d->dnnl_memory_desc_init_by_tag(&md[1], 2, dy, dnnl_f32, dnnl_ab);
    if (!st) st = d->dnnl_memory_desc_init_by_tag(&md[2], 2, db, dnnl_f32, dnnl_ab);
    dnnl_matmul_desc_t op;
    if (!st) st = d->dnnl_matmul_desc_init(&op, &md[0], weights ? weights : &any, c->bias ? &md[2] : NULL, &md[1]);
    if (st) return st;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t post = NULL;
    if (c->add) {
        st = d->dnnl_primitive_attr_create(&attr);
        if (!st) st = d->dnnl_post_ops_create(&post);
        if (!st) st = d->dnnl_post_ops_append_sum(post, 1.0f);
        if (!st) st = d->dnnl_primitive_attr_set_post_ops(attr, post);
    }
    if (!st) st = d->dnnl_primitive_desc_create(out, &op, attr, d->engine, NULL);
    if (post) d->dnnl_post_ops_destroy(post);
    if (attr) d->dnnl_primitive_attr_destroy(attr);
    return st;
}

static cached *primitive_for(struct cpu_dnnl *d, const struct dnnl_weight *dw, mr_dtype type, int64_t rows, int64_t ldx,
                             bool bias, bool add) {
    cached *oldest = &d->cache[0];
    d->clock++;
    for (int i = 0; i < N_CACHED; i++) {
        cached *c = &d->cache[i];
        if (c->primitive && c->rows == rows && c->cols == dw->cols && c->k == dw->k && c->ldx == ldx &&
            c->type == type && c->bias == bias && c->add == add) {
            c->used = d->clock;
            return c;
        }
        if (c->used < oldest->used) oldest = c;
    }
    cached_clear(d, oldest);
    *oldest =
        (cached){ .rows = rows, .cols = dw->cols, .k = dw->k, .ldx = ldx, .type = type, .bias = bias, .add = add };
    dnnl_primitive_desc_t pd;
    dnnl_memory_desc_t md[3];
    if (describe(d, &pd, oldest, &dw->desc, md)) return NULL;
    bool ok = !d->dnnl_primitive_create(&oldest->primitive, pd) &&
              !d->dnnl_memory_create(&oldest->x, &md[0], d->engine, DNNL_MEMORY_NONE) &&
              !d->dnnl_memory_create(&oldest->w, &dw->desc, d->engine, DNNL_MEMORY_NONE) &&
              !d->dnnl_memory_create(&oldest->y, &md[1], d->engine, DNNL_MEMORY_NONE) &&
              (!bias || !d->dnnl_memory_create(&oldest->b, &md[2], d->engine, DNNL_MEMORY_NONE));
    d->dnnl_primitive_desc_destroy(pd);
    if (!ok) {
        cached_clear(d, oldest);
        return NULL;
    }
    oldest->used = d->clock;
    return oldest;
}

static bool multiply(mr_backend *b, const struct dnnl_weight *dw, mr_dtype type, float *y, const void *x, int64_t ldx,
                     int64_t n_rows, const float *bias, bool add) {
    struct cpu_dnnl *d = cpu_of(b)->dnnl;
    cached *c = primitive_for(d, dw, type, n_rows, ldx, bias != NULL, add);
    if (!c) return false;
    set_threads(b);
    bool ok = !d->dnnl_memory_set_data_handle(c->x, (void *)(uintptr_t)x) &&
              !d->dnnl_memory_set_data_handle(c->w, dw->data) && !d->dnnl_memory_set_data_handle(c->y, y) &&
              (!bias || !d->dnnl_memory_set_data_handle(c->b, (void *)(uintptr_t)bias));
    dnnl_exec_arg_t args[] = {
        { DNNL_ARG_SRC, c->x },
        { DNNL_ARG_WEIGHTS, c->w },
        { DNNL_ARG_DST, c->y },
        { DNNL_ARG_BIAS, c->b },
    };
    return ok && !d->dnnl_primitive_execute(c->primitive, d->stream, bias ? 4 : 3, args) &&
           !d->dnnl_stream_wait(d->stream);
}

bool cpu_dnnl_product(mr_backend *b, const char *op, const mr_weight *w, bool backward, float *y, const void *x,
                      int64_t ldx, int64_t n_rows, const float *bias, bool add) {
    const struct dnnl_weight *dw = backward ? w->dnnl_bwd : w->dnnl_fwd;
    assert(dw);
    bool ok;
    if (n_rows == 1 && dw->pad_one) {
        size_t row = (size_t)dw->k * (w->compute == MR_BF16 ? 2 : 4), out = (size_t)dw->cols * sizeof(float);
        char *tmp = cpu_scratch(b, CPU_SLOT_SHARED + 2, 2 * (row + out) + 64);
        if (!tmp) return false;
        float *two = (float *)(void *)tmp;
        void *x2 = tmp + 2 * out;
        memcpy(x2, x, row);
        memset((char *)x2 + row, 0, row);
        if (add) memcpy(two, y, out);
        if (add) memset(two + dw->cols, 0, out);
        ok = multiply(b, dw, w->compute, two, x2, dw->k, 2, bias, add);
        memcpy(y, two, out);
    } else {
        ok = multiply(b, dw, w->compute, y, x, ldx, n_rows, bias, add);
    }
    if (!ok)
        cpu_fail(b, op, "oneDNN could not multiply %lld rows by [%lld, %lld]; set MEDRL_CPU_GEMM=own and try again",
                 (long long)n_rows, (long long)dw->cols, (long long)dw->k);
    return ok;
}

/* rows[O,I] -> packed; for the transposed use the plain matrix is read with its axes swapped. */
static bool reorder(struct cpu_dnnl *d, const mr_weight *w, const struct dnnl_weight *dw, bool backward) {
    dnnl_dims_t dims = { dw->k, dw->cols };
    dnnl_memory_desc_t plain;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t p = NULL;
    dnnl_memory_t from = NULL, to = NULL;
    bool ok = !d->dnnl_memory_desc_init_by_tag(&plain, 2, dims, type_of(w->store), backward ? dnnl_ab : dnnl_ba) &&
              !d->dnnl_reorder_primitive_desc_create(&pd, &plain, d->engine, &dw->desc, d->engine, NULL) &&
              !d->dnnl_primitive_create(&p, pd) && !d->dnnl_memory_create(&from, &plain, d->engine, w->rows) &&
              !d->dnnl_memory_create(&to, &dw->desc, d->engine, dw->data);
    dnnl_exec_arg_t args[] = { { DNNL_ARG_FROM, from }, { DNNL_ARG_TO, to } };
    ok = ok && !d->dnnl_primitive_execute(p, d->stream, 2, args) && !d->dnnl_stream_wait(d->stream);
    if (from) d->dnnl_memory_destroy(from);
    if (to) d->dnnl_memory_destroy(to);
    if (p) d->dnnl_primitive_destroy(p);
    if (pd) d->dnnl_primitive_desc_destroy(pd);
    return ok;
}

/* Rows among few must equal rows among 64, bit for bit. The values are spread over signs and sizes so that another
 * order shows. */
static bool probe(mr_backend *b, struct dnnl_weight *dw, mr_dtype type, bool *kept) {
    enum { MOST = 64 };
    static const int few[] = { 2, 3, 6, 17, 33 };
    size_t each = type == MR_BF16 ? 2 : 4;
    char *x = mr_try_alloc((size_t)MOST * (size_t)dw->k * each);
    float *all = mr_try_alloc((size_t)MOST * (size_t)dw->cols * sizeof *all),
          *some = mr_try_alloc((size_t)33 * (size_t)dw->cols * sizeof *some);
    bool ok = x && all && some;
    if (ok) {
        uint32_t seed = 1;
        for (int64_t i = 0; i < MOST * dw->k; i++) {
            seed = seed * 1664525u + 1013904223u;
            float v = ((float)(seed >> 8) / 8388608.0f - 1.0f) * ldexpf(1.0f, (int)(seed >> 29));
            if (type == MR_BF16)
                ((uint16_t *)(void *)x)[i] = cpu_to_bf16(v);
            else
                ((float *)(void *)x)[i] = v;
        }
        ok = multiply(b, dw, type, all, x, dw->k, MOST, NULL, false);
        *kept = true;
        for (size_t i = 0; ok && *kept && i < sizeof few / sizeof few[0]; i++) {
            ok = multiply(b, dw, type, some, x, dw->k, few[i], NULL, false);
            *kept = memcmp(some, all, (size_t)few[i] * (size_t)dw->cols * sizeof *some) == 0;
        }
        ok = ok && multiply(b, dw, type, some, x, dw->k, 1, NULL, false);
        dw->pad_one = memcmp(some, all, (size_t)dw->cols * sizeof *some) != 0;
    }
    mr_free(x);
    mr_free(all);
    mr_free(some);
    return ok;
}

static void drop(struct dnnl_weight **dw) {
    if (*dw) mr_free((*dw)->data);
    mr_free(*dw);
    *dw = NULL;
}

void cpu_dnnl_weight_free(mr_backend *b, mr_weight *w) {
    (void)b;
    drop(&w->dnnl_fwd);
    drop(&w->dnnl_bwd);
}

static mr_status pack_one(mr_backend *b, mr_weight *w, struct dnnl_weight **out, bool backward, bool *kept,
                          mr_err *err) {
    struct cpu_dnnl *d = cpu_of(b)->dnnl;
    struct dnnl_weight *dw = *out = mr_alloc(sizeof *dw);
    dw->cols = backward ? w->n_in : w->n_out;
    dw->k = backward ? w->n_out : w->n_in;
    cached shape = { .rows = PACK_ROWS, .cols = dw->cols, .k = dw->k, .ldx = dw->k, .type = w->compute };
    dnnl_primitive_desc_t pd;
    dnnl_memory_desc_t md[3];
    *kept = false;
    if (describe(d, &pd, &shape, NULL, md)) return MR_OK; /* no such product: our own kernels serve it */
    dw->desc = *d->dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    d->dnnl_primitive_desc_destroy(pd);
    size_t bytes = d->dnnl_memory_desc_get_size(&dw->desc);
    dw->data = mr_try_alloc(bytes);
    if (!dw->data)
        return mr_fail(err, MR_ENOMEM,
                       "weight [%lld, %lld] %s: out of memory; choose a smaller model or store it as nf4",
                       (long long)w->n_out, (long long)w->n_in, mr_dtype_name(w->store));
    set_threads(b);
    if (!reorder(d, w, dw, backward) || !probe(b, dw, w->compute, kept)) *kept = false;
    if (*kept) w->bytes += bytes;
    return MR_OK;
}

mr_status cpu_dnnl_pack(mr_backend *b, mr_weight *w, bool *kept, mr_err *err) {
    *kept = true;
    size_t bytes = w->bytes;
    if (w->uses & MR_USE_FWD) MR_TRY(pack_one(b, w, &w->dnnl_fwd, false, kept, err));
    if (*kept && w->uses & MR_USE_BWD) MR_TRY(pack_one(b, w, &w->dnnl_bwd, true, kept, err));
    if (!*kept) {
        cpu_dnnl_weight_free(b, w);
        w->bytes = bytes;
    }
    return MR_OK;
}

void cpu_dnnl_repack(mr_backend *b, mr_weight *w) {
    struct cpu_dnnl *d = cpu_of(b)->dnnl;
    set_threads(b);
    if ((w->dnnl_fwd && !reorder(d, w, w->dnnl_fwd, false)) || (w->dnnl_bwd && !reorder(d, w, w->dnnl_bwd, true)))
        cpu_fail(b, "weight_set", "oneDNN could not pack [%lld, %lld]; set MEDRL_CPU_GEMM=own and try again",
                 (long long)w->n_out, (long long)w->n_in);
}
