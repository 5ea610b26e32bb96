/* graph.c - work that repeats (kernels.h, repeat): recorded as a CUDA graph and launched as a whole.
 *
 * When:     a key's first call runs the operations as they are, so that kernels are loaded, scratch has its size and cuBLASLt its choices;
 *           the second records them and launches the recording, as do all later ones.
 * Room:     MOST recordings; the one that was not used for longest makes room for a new one. What the driver keeps of device memory for them
 *           is not in the account: it comes out of what measure_memory sets aside.
 * Validity: launches hold addresses of buffers, scratch and weights. All recordings go when any of that is given back (cu_give); replaced
 *           values of a weight keep their address.
 * Failure:  where the driver refuses to record, nothing is recorded any more, and the operations run as they are. A fault of a kernel in a
 *           recording shows at sync, as without; MEDRL_CUDA_SYNC=1 names the operation. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/cuda.h"

enum { MOST = 64, KEY_BYTES = 96 };

typedef struct recording {
    unsigned char key[KEY_BYTES];
    size_t bytes;
    uint64_t used; /* when last; 0: the place is free */
    cudaGraphExec_t exec;
} recording;

struct cu_graphs {
    recording all[MOST];
    uint64_t clock;
    int n; /* places that are taken */
};

static bool wanted(const cu_state *s) {
    const char *say = getenv("MEDRL_CUDA_GRAPHS");
    return !s->sync_each && !(say && *say == '0');
}

void cu_graphs_open(mr_backend *b) {
    cu_state *s = cu_of(b);
    if (wanted(s)) s->graphs = calloc(1, sizeof *s->graphs); /* without, nothing is recorded */
}

static void drop(recording *r) {
    if (r->exec) cudaGraphExecDestroy(r->exec);
    *r = (recording){ 0 };
}

void cu_graphs_forget(mr_backend *b) {
    cu_state *s = cu_of(b);
    struct cu_graphs *g = s->graphs;
    assert(!s->recording);
    if (!g || !g->n) return;
    cudaStreamSynchronize(s->stream);
    for (int i = 0; i < MOST; i++) drop(&g->all[i]);
    g->n = 0;
}

void cu_graphs_close(mr_backend *b) {
    cu_graphs_forget(b);
    free(cu_of(b)->graphs);
    cu_of(b)->graphs = NULL;
}

bool cu_may_wait(mr_backend *b, const char *op) {
    if (!cu_of(b)->recording) return true;
    cu_fail(b, MR_EINVAL, op, "called by work that repeats, which may use device memory only (kernels.h, repeat)");
    return false;
}

/* The key's place, a new one if need be. *first: it was not there. */
static recording *place_of(cu_state *s, const void *key, size_t bytes, bool *first) {
    struct cu_graphs *g = s->graphs;
    recording *oldest = &g->all[0];
    *first = false;
    for (int i = 0; i < MOST; i++) {
        recording *r = &g->all[i];
        if (r->used && r->bytes == bytes && memcmp(r->key, key, bytes) == 0) return r;
        if (r->used < oldest->used) oldest = r;
    }
    *first = true;
    if (oldest->exec) cudaStreamSynchronize(s->stream);
    g->n += !oldest->used;
    drop(oldest);
    memcpy(oldest->key, key, bytes);
    oldest->bytes = bytes;
    return oldest;
}

/* False: the driver does not; the operations have not run then. */
static bool record(mr_backend *b, recording *r, void (*work)(void *self), void *self) {
    cu_state *s = cu_of(b);
    cudaGraph_t graph = NULL;
    if (cudaStreamBeginCapture(s->stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) return false;
    s->recording = true;
    work(self);
    s->recording = false;
    bool ok = cudaStreamEndCapture(s->stream, &graph) == cudaSuccess && !s->failed &&
              cudaGraphInstantiateWithFlags(&r->exec, graph, 0) == cudaSuccess;
    if (!ok) r->exec = NULL;
    if (graph) cudaGraphDestroy(graph);
    return ok;
}

void cu_repeat(mr_backend *b, const void *key, size_t bytes, void (*work)(void *self), void *self) {
    cu_state *s = cu_of(b);
    bool first = true;
    if (cu_failed(b)) return;
    assert(bytes <= KEY_BYTES && !s->recording);
    __atomic_store_n(&b->op, "repeat", __ATOMIC_RELAXED);
    __atomic_store_n(&b->n_ops, b->n_ops + 1, __ATOMIC_RELAXED);
    recording *r = s->graphs ? place_of(s, key, bytes, &first) : NULL;
    if (r) r->used = ++s->graphs->clock;
    if (first) {
        work(self);
        return;
    }
    if (!r->exec && !record(b, r, work, self)) {
        cudaGetLastError();
        if (s->failed && s->status == MR_EINVAL) return; /* cu_may_wait */
        s->failed = false; /* if it was not the recording's fault, it comes again now */
        s->status = MR_OK;
        cu_graphs_close(b);
        work(self);
        return;
    }
    cu_check(b, "repeat", cudaGraphLaunch(r->exec, s->stream));
}
