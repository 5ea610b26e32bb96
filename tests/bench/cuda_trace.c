/* cuda_trace.c - where a program's time on the GPU goes: the kernels and copies that it ran, by name, as a table on stderr when it ends.
 *
 *     gcc -shared -fPIC -O2 -I$CUDA/include -o libtrace.so tests/bench/cuda_trace.c -L$CUDA/lib64 -lcupti
 *     CUDA_INJECTION64_PATH=$PWD/libtrace.so LD_LIBRARY_PATH=$CUDA/lib64 medrl bench ...
 *
 * The driver loads it (CUDA_INJECTION64_PATH), the program need not know. One row a kernel, its grid and block with it, so that shapes
 * show; `idle` is the time between the end of one and the start of the next when that is under a millisecond: launches. `own` is the
 * time from the end of all before to the end of this one: kernels that begin early run beside each other, and wait. With
 * CUDA_TRACE_PARTS="NAME,A,B;..." a table of its own for what ran behind the Ath last kernel whose name has NAME in it, up to and with the Bth
 * last: "sample,7,1" is the last 6 decode steps. TRACE_LIST=FILE writes all of them in order, a line each: start and duration in ns, name.
 * Source of the interface: CUPTI's manual, Activity API. */
#include <cupti.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFER = 8 << 20, MAX_ROWS = 4096, SHOWN = 60 };

typedef struct row {
    char name[160];
    uint64_t n, ns, least, own;
} row;

typedef struct event {
    uint64_t start, end;
    int row;
} event;

static row rows[MAX_ROWS];
static int n_rows;
static event *events;
static size_t n_events, max_events;
static FILE *list;

static void count(const char *name, uint64_t start, uint64_t end) {
    int i = 0;
    if (list) fprintf(list, "%llu %llu %s\n", (unsigned long long)start, (unsigned long long)(end - start), name);
    while (i < n_rows && strcmp(rows[i].name, name) != 0) i++;
    if (i == MAX_ROWS) return;
    if (i == n_rows) snprintf(rows[n_rows++].name, sizeof rows[0].name, "%s", name);
    if (n_events == max_events) {
        size_t more = max_events ? 2 * max_events : 1 << 16;
        event *grown = realloc(events, more * sizeof *events);
        if (!grown) return;
        events = grown, max_events = more;
    }
    events[n_events++] = (event){ start, end, i };
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

static int by_start(const void *a, const void *b) {
    uint64_t x = ((const event *)a)->start, y = ((const event *)b)->start;
    return (x > y) - (x < y);
}

/* A table of events [from, to). */
static void table(size_t from, size_t to) {
    static row part[MAX_ROWS];
    uint64_t all = 0, idle = 0, n_idle = 0, last = 0;
    memcpy(part, rows, sizeof part);
    for (size_t i = from; i < to; i++) {
        const event *e = &events[i];
        row *r = &part[e->row];
        uint64_t ns = e->end - e->start;
        if (!r->n++ || ns < r->least) r->least = ns;
        r->ns += ns, all += ns;
        if (last && e->start > last && e->start - last < 1000000) idle += e->start - last, n_idle++;
        if (e->end > last) r->own += e->end - (e->start > last ? e->start : last), last = e->end;
    }
    qsort(part, (size_t)n_rows, sizeof part[0], by_time);
    fprintf(stderr, "trace: %.3f ms busy, %.3f ms idle in %llu gaps below 1 ms\n", (double)all / 1e6, (double)idle / 1e6,
            (unsigned long long)n_idle);
    for (int i = 0; i < n_rows && i < SHOWN && part[i].n; i++)
        fprintf(stderr, "%9.3f ms %7llu x %9.1f us, least %9.1f, own %9.1f  %s\n", (double)part[i].ns / 1e6, (unsigned long long)part[i].n,
                (double)part[i].ns / 1e3 / (double)part[i].n, (double)part[i].least / 1e3, (double)part[i].own / 1e3 / (double)part[i].n,
                part[i].name);
}

/* Behind the nth last event whose name has `name` in it; 0 when there are less. */
static size_t behind(const char *name, int nth) {
    for (size_t i = n_events; i; i--)
        if (strstr(rows[events[i - 1].row].name, name) && --nth == 0) return i;
    return 0;
}

static void print(void) {
    const char *parts = getenv("CUDA_TRACE_PARTS");
    cuptiActivityFlushAll(1);
    if (list) fclose(list);
    qsort(events, n_events, sizeof *events, by_start);
    if (!parts) table(0, n_events);
    for (char name[64]; parts; parts = strchr(parts, ';') ? strchr(parts, ';') + 1 : NULL) {
        int a, b;
        if (sscanf(parts, "%63[^,],%d,%d", name, &a, &b) != 3) break;
        fprintf(stderr, "%s, from the last but %d to the last but %d:\n", name, a - 1, b - 1);
        table(behind(name, a), behind(name, b));
    }
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
