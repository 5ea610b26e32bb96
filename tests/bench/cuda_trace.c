/* cuda_trace.c - where a program's time on the GPU goes: the kernels and copies that it ran, by name, as a table on stderr when it ends.
 *
 *     gcc -shared -fPIC -O2 -I$CUDA/include -o libtrace.so tests/bench/cuda_trace.c -L$CUDA/lib64 -lcupti
 *     CUDA_INJECTION64_PATH=$PWD/libtrace.so LD_LIBRARY_PATH=$CUDA/lib64 medrl bench ...
 *
 * The driver loads it (CUDA_INJECTION64_PATH), the program need not know. One row a kernel, its grid and block with it, so that shapes
 * show; `idle` is the time between the end of one and the start of the next when that is under a millisecond: launches. TRACE_LIST=FILE
 * writes all of them in order as well, a line each: start and duration in ns, name. Source of the interface: CUPTI's manual, Activity
 * API. */
#include <cupti.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFER = 8 << 20, MAX_ROWS = 4096, SHOWN = 60 };

typedef struct row {
    char name[160];
    uint64_t n, ns, least;
} row;

static row rows[MAX_ROWS];
static int n_rows;
static uint64_t last_end, idle, n_idle;
static FILE *list;

static void count(const char *name, uint64_t start, uint64_t end) {
    int i = 0;
    if (list) fprintf(list, "%llu %llu %s\n", (unsigned long long)start, (unsigned long long)(end - start), name);
    while (i < n_rows && strcmp(rows[i].name, name) != 0) i++;
    if (i == MAX_ROWS) return;
    if (i == n_rows) snprintf(rows[n_rows++].name, sizeof rows[0].name, "%s", name), rows[i].least = UINT64_MAX;
    rows[i].n++, rows[i].ns += end - start;
    if (end - start < rows[i].least) rows[i].least = end - start;
    if (last_end && start > last_end && start - last_end < 1000000) idle += start - last_end, n_idle++;
    if (end > last_end) last_end = end;
}

/* A mangled name is cut where its arguments begin to be of no use. */
static void kernel(const CUpti_ActivityKernel9 *k) {
    char name[160];
    snprintf(name, sizeof name, "%.90s %dx%dx%d/%d", k->name, k->gridX, k->gridY, k->gridZ, k->blockX);
    count(name, k->start, k->end);
}

static void CUPTIAPI ask(uint8_t **buffer, size_t *size, size_t *n) {
    *buffer = aligned_alloc(8, BUFFER), *size = *buffer ? BUFFER : 0, *n = 0;
}

static void CUPTIAPI done(CUcontext c, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
    CUpti_Activity *a = NULL;
    (void)c, (void)stream, (void)size;
    while (cuptiActivityGetNextRecord(buffer, valid, &a) == CUPTI_SUCCESS) {
        if (a->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) kernel((const CUpti_ActivityKernel9 *)a);
        if (a->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
            const CUpti_ActivityMemcpy5 *m = (const CUpti_ActivityMemcpy5 *)a;
            const char *to = m->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_HTOD ? "copy to the device"
                             : m->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_DTOH ? "copy to the host" : "copy on the device";
            count(to, m->start, m->end);
        }
        if (a->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
            const CUpti_ActivityMemset4 *m = (const CUpti_ActivityMemset4 *)a;
            count("set", m->start, m->end);
        }
    }
    free(buffer);
}

static int by_time(const void *a, const void *b) {
    uint64_t x = ((const row *)a)->ns, y = ((const row *)b)->ns;
    return (x < y) - (x > y);
}

static void print(void) {
    uint64_t all = 0;
    cuptiActivityFlushAll(1);
    if (list) fclose(list);
    qsort(rows, (size_t)n_rows, sizeof rows[0], by_time);
    for (int i = 0; i < n_rows; i++) all += rows[i].ns;
    fprintf(stderr, "trace: %.3f ms busy, %.3f ms idle in %llu gaps below 1 ms\n", (double)all / 1e6, (double)idle / 1e6,
            (unsigned long long)n_idle);
    for (int i = 0; i < n_rows && i < SHOWN; i++)
        fprintf(stderr, "%9.3f ms %7llu x %9.1f us, least %9.1f  %s\n", (double)rows[i].ns / 1e6, (unsigned long long)rows[i].n,
                (double)rows[i].ns / 1e3 / (double)rows[i].n, (double)rows[i].least / 1e3, rows[i].name);
}

__attribute__((visibility("default"))) int InitializeInjection(void);
int InitializeInjection(void) {
    const CUpti_ActivityKind kinds[] = { CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET };
    for (int i = 0; i < 3; i++)
        if (cuptiActivityEnable(kinds[i]) != CUPTI_SUCCESS) fprintf(stderr, "trace: CUPTI refuses kind %d\n", (int)kinds[i]);
    if (getenv("TRACE_LIST")) list = fopen(getenv("TRACE_LIST"), "w");
    cuptiActivityRegisterCallbacks(ask, done);
    atexit(print);
    return 1;
}
