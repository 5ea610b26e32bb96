/* slab.c - memory for panels, many to a mapping.
 *
 * Products stream through all weights of a model, so they cross a page for every few kilobytes that they read. Large
 * mappings get huge pages from the kernel (base/memory.h), single matrices do not; so matrices share mappings. A slab
 * is given back when its last block is freed. Small and very large blocks have memory of their own. */
#include <assert.h>
#include <string.h>

#include "cpu/weights.h"

#define SLAB_BYTES ((size_t)64 << 20)
#if defined(__SANITIZE_ADDRESS__) /* every block by itself, so that the sanitizer sees its ends */
#define SHARED_FROM SIZE_MAX
#else
#define SHARED_FROM ((size_t)64 << 10)
#endif

typedef struct slab {
    char *base;
    size_t used;
    int live;
} slab;

struct cpu_slabs {
    int n, cap;
    slab *at;
};

void *cpu_slab_alloc(mr_backend *b, size_t bytes) {
    cpu_state *s = cpu_of(b);
    if (bytes < SHARED_FROM || bytes > SLAB_BYTES / 4) return mr_try_alloc(bytes);
    if (!s->slabs) s->slabs = mr_alloc(sizeof *s->slabs);
    struct cpu_slabs *all = s->slabs;
    size_t need = (bytes + 4095) & ~(size_t)4095;
    slab *last = all->n ? &all->at[all->n - 1] : NULL;
    if (!last || last->used + need > SLAB_BYTES) {
        char *base = mr_try_alloc(SLAB_BYTES);
        if (!base) return mr_try_alloc(bytes); /* the end of memory: perhaps this one still fits */
        if (all->n == all->cap) {
            all->cap = all->cap ? 2 * all->cap : 16;
            all->at = mr_realloc(all->at, (size_t)all->cap * sizeof *all->at);
        }
        last = &all->at[all->n++];
        *last = (slab){ base, 0, 0 };
    }
    void *p = last->base + last->used;
    last->used += need;
    last->live++;
    return p; /* a new mapping is zero, and nothing is handed out twice */
}

void cpu_slab_free(mr_backend *b, void *p) {
    struct cpu_slabs *all = cpu_of(b)->slabs;
    for (int i = 0; p && all && i < all->n; i++) {
        slab *x = &all->at[i];
        if ((char *)p < x->base || (char *)p >= x->base + SLAB_BYTES) continue;
        assert(x->live > 0);
        if (--x->live == 0) {
            mr_free(x->base);
            memmove(x, x + 1, (size_t)(all->n - i - 1) * sizeof *x);
            all->n--;
        }
        return;
    }
    mr_free(p);
}

void cpu_slabs_close(mr_backend *b) {
    struct cpu_slabs *all = cpu_of(b)->slabs;
    if (!all) return;
    for (int i = 0; i < all->n; i++) mr_free(all->at[i].base);
    mr_free(all->at);
    mr_free(all);
    cpu_of(b)->slabs = NULL;
}
