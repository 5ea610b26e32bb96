/* choose.c - exact = false (kernels.h): of two ways to a linear's result the faster one, by the clock, once for each shape and each 8 rows.
 *
 * With the row rule the kernel for few rows serves wherever it can. Without it, unpacking a weight and one product by cuBLASLt, split as it
 * likes, may be faster. */
#include <string.h>
#include <time.h>

#include "cuda/cuda.h"

enum { CALLS = 10 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double cu_seconds(mr_backend *b, bool (*call)(mr_backend *b, void *ctx), void *ctx) {
    cudaStream_t stream = cu_of(b)->stream;
    for (int i = 0; i < 2; i++) /* the first ones load code */
        if (!call(b, ctx)) return 1e30;
    cudaStreamSynchronize(stream);
    double from = now();
    for (int i = 0; i < CALLS; i++) call(b, ctx);
    cudaStreamSynchronize(stream);
    return (now() - from) / CALLS;
}

typedef struct trial {
    float *y, *u;
    const float *x;
    const mr_linear *l;
    int N;
} trial;

static bool multiply(mr_backend *b, void *ctx) {
    const trial *t = ctx;
    cu_linear(b, t->y, t->u, t->x, t->l, t->N, NULL);
    return !cu_failed(b);
}

bool cu_few_pays(mr_backend *b, float *u, const float *x, const mr_linear *l, int N) {
    cu_state *s = cu_of(b);
    if (s->forced != CU_ASK) return s->forced == CU_FEW;
    struct cu_choice c = { l->w->n_out, l->w->n_in, l->w->store, (N + 7) / 8, l->r_total, true };
    for (int i = 0; i < s->n_choices; i++) {
        const struct cu_choice *o = &s->choices[i];
        if (o->n_out == c.n_out && o->n_in == c.n_in && o->store == c.store && o->rows == c.rows && o->rank == c.rank) return o->few;
    }
    if (s->n_choices == CU_MAX_CHOICES || (size_t)N * (size_t)l->w->n_out * sizeof(float) > CU_ATT_BYTES) return true;
    trial t = { (float *)cu_scratch(b, "linear", CU_SLOT_ATT, CU_ATT_BYTES), u, x, l, N };
    if (!t.y) return true;
    s->forced = CU_FEW;
    double few = cu_seconds(b, multiply, &t);
    s->forced = CU_DENSE;
    double dense = cu_seconds(b, multiply, &t);
    s->forced = CU_ASK;
    c.few = few <= dense;
    s->choices[s->n_choices++] = c;
    return c.few;
}
