/* memory.c - see memory.h. Small blocks are malloc's; large ones from mr_try_alloc are mapped. */
#include "base/memory.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

static void (*leave)(void);

void mr_on_out_of_memory(void (*f)(void)) {
    leave = f;
}

static void out_of_memory(size_t bytes) {
    char text[96];
    int n = snprintf(text, sizeof text, "medrl: out of memory: could not get %zu bytes; close other programs\n", bytes);
    if (n > 0 && write(STDERR_FILENO, text, (size_t)n) < 0) abort();
    if (leave) leave();
    abort();
}

void *mr_alloc(size_t bytes) {
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p) out_of_memory(bytes);
    return p;
}

char *mr_strndup(const char *s, size_t len) {
    char *p = malloc(len + 1);
    if (!p) out_of_memory(len + 1);
    if (len) memcpy(p, s, len);
    p[len] = '\0';
    return p;
}

char *mr_strdup(const char *s) {
    return s ? mr_strndup(s, strlen(s)) : NULL;
}

char *mr_asprintf(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    char *p = NULL;
    int n = vasprintf(&p, fmt, args);
    va_end(args);
    if (n < 0) out_of_memory(strlen(fmt));
    return p;
}

/* ---- large blocks ---- */

/* Mapped blocks are found again by address when they are freed. All of them begin on a page; few of malloc's do, so
 * the table is asked rarely. AddressSanitizer sees no mappings, so its build takes everything from malloc. */
#if defined(__SANITIZE_ADDRESS__)
#define MAP_FROM SIZE_MAX
#else
#define MAP_FROM ((size_t)1 << 20)
#endif
#define HUGE_FROM ((size_t)16 << 20)

typedef struct mapped {
    void *p;
    size_t bytes;
} mapped;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static mapped *blocks;
static size_t n_blocks, cap_blocks;
static long fail_at, n_calls;

static size_t page_size(void) {
    static size_t size;
    if (!size) size = (size_t)sysconf(_SC_PAGESIZE);
    return size;
}

static bool remember(void *p, size_t bytes) {
    bool ok = true;
    pthread_mutex_lock(&lock);
    if (n_blocks == cap_blocks) {
        size_t cap = cap_blocks ? 2 * cap_blocks : 64;
        mapped *grown = realloc(blocks, cap * sizeof *grown);
        if (grown) {
            blocks = grown;
            cap_blocks = cap;
        } else {
            ok = false;
        }
    }
    if (ok) blocks[n_blocks++] = (mapped){ p, bytes };
    pthread_mutex_unlock(&lock);
    return ok;
}

/* The size of the mapped block at p, or 0. Forgets it when asked to. */
static size_t mapped_bytes(const void *p, bool forget) {
    if ((uintptr_t)p % page_size()) return 0;
    size_t bytes = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < n_blocks; i++) {
        if (blocks[i].p != p) continue;
        bytes = blocks[i].bytes;
        if (forget) blocks[i] = blocks[--n_blocks];
        if (n_blocks == 0) {
            free(blocks);
            blocks = NULL;
            cap_blocks = 0;
        }
        break;
    }
    pthread_mutex_unlock(&lock);
    return bytes;
}

void mr_try_alloc_fail_at(long n) {
    __atomic_store_n(&fail_at, n, __ATOMIC_RELAXED);
}

long mr_try_alloc_count(void) {
    return __atomic_load_n(&n_calls, __ATOMIC_RELAXED);
}

void *mr_try_alloc(size_t bytes) {
    __atomic_add_fetch(&n_calls, 1, __ATOMIC_RELAXED);
    if (__atomic_load_n(&fail_at, __ATOMIC_RELAXED) > 0 && __atomic_sub_fetch(&fail_at, 1, __ATOMIC_RELAXED) == 0)
        return NULL;
    if (bytes == 0) bytes = 1;
    if (bytes >= MAP_FROM) {
        size_t page = page_size();
        if (bytes > SIZE_MAX - page) return NULL;
        bytes = (bytes + page - 1) / page * page;
        void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) return NULL;
        if (!remember(p, bytes)) {
            munmap(p, bytes);
            return NULL;
        }
        if (bytes >= HUGE_FROM) madvise(p, bytes, MADV_HUGEPAGE); /* only speed; refused on some kernels */
        return p;
    }
    void *p = NULL;
    if (bytes > SIZE_MAX / 2 || posix_memalign(&p, 64, bytes) != 0) return NULL;
    memset(p, 0, bytes);
    return p;
}

void mr_free(void *p) {
    if (!p) return;
    size_t bytes = mapped_bytes(p, true);
    if (bytes)
        munmap(p, bytes);
    else
        free(p);
}

void *mr_realloc(void *p, size_t bytes) {
    size_t old = p ? mapped_bytes(p, false) : 0;
    if (old) { /* a mapped block moves to malloc's memory: the callers of mr_realloc own small things */
        void *q = malloc(bytes ? bytes : 1);
        if (!q) out_of_memory(bytes);
        memcpy(q, p, old < bytes ? old : bytes);
        mr_free(p);
        return q;
    }
    void *q = realloc(p, bytes ? bytes : 1);
    if (!q) out_of_memory(bytes);
    return q;
}

bool mr_mul_size(size_t *out, size_t a, size_t b) {
    return !__builtin_mul_overflow(a, b, out);
}

bool mr_add_size(size_t *out, size_t a, size_t b) {
    return !__builtin_add_overflow(a, b, out);
}

/* ---- arena ---- */

typedef struct mr_arena_block {
    struct mr_arena_block *next; /* older blocks */
    size_t size, used;
    _Alignas(16) unsigned char data[];
} mr_arena_block;

void *mr_arena_alloc(mr_arena *a, size_t bytes) {
    size_t need;
    if (!mr_add_size(&need, bytes ? bytes : 1, 15)) out_of_memory(bytes);
    need &= ~(size_t)15;
    mr_arena_block *b = a->block;
    if (!b || b->size - b->used < need) {
        size_t size = b ? 2 * b->size : 4096 - sizeof *b, total;
        if (size > (size_t)64 << 20) size = (size_t)64 << 20;
        if (size < need) size = need;
        if (!mr_add_size(&total, size, sizeof *b)) out_of_memory(bytes);
        b = malloc(total);
        if (!b) out_of_memory(total);
        b->next = a->block;
        b->size = size;
        b->used = 0;
        a->block = b;
    }
    void *p = b->data + b->used;
    b->used += need;
    memset(p, 0, need);
    return p;
}

char *mr_arena_strdup(mr_arena *a, const char *s, size_t len) {
    char *p = mr_arena_alloc(a, len + 1);
    if (len) memcpy(p, s, len);
    return p;
}

/* Keeps the newest block, which is the largest: after a few steps one block holds what a step needs. */
void mr_arena_reset(mr_arena *a) {
    if (!a->block) return;
    for (mr_arena_block *b = a->block->next, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    a->block->next = NULL;
    a->block->used = 0;
}

void mr_arena_clear(mr_arena *a) {
    for (mr_arena_block *b = a->block, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    a->block = NULL;
}

/* ---- strings ---- */

static void reserve(mr_str *s, size_t more) {
    size_t need;
    if (!mr_add_size(&need, s->len, more) || !mr_add_size(&need, need, 1)) out_of_memory(more);
    if (need <= s->cap) return;
    size_t cap = s->cap ? s->cap : 32;
    while (cap < need) cap = cap > SIZE_MAX / 2 ? need : 2 * cap;
    s->data = mr_realloc(s->data, cap);
    s->cap = cap;
}

void mr_str_add(mr_str *s, const void *bytes, size_t len) {
    reserve(s, len);
    if (len) memcpy(s->data + s->len, bytes, len);
    s->len += len;
    s->data[s->len] = '\0';
}

void mr_str_puts(mr_str *s, const char *text) {
    mr_str_add(s, text, strlen(text));
}

void mr_str_printf(mr_str *s, const char *fmt, ...) {
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0) n = 0;
    reserve(s, (size_t)n);
    vsnprintf(s->data + s->len, (size_t)n + 1, fmt, again);
    va_end(again);
    s->len += (size_t)n;
}

void mr_str_clear(mr_str *s) {
    free(s->data);
    *s = (mr_str){ 0 };
}

char *mr_str_steal(mr_str *s) {
    char *p = s->data ? s->data : mr_strdup("");
    *s = (mr_str){ 0 };
    return p;
}

/* ---- what the process uses ---- */

size_t mr_rss_peak_bytes(void) {
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 && u.ru_maxrss > 0 ? (size_t)u.ru_maxrss * 1024 : 0; /* KiB on Linux */
}

size_t mr_rss_bytes(void) {
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f) return 0;
    unsigned long total, resident;
    int n = fscanf(f, "%lu %lu", &total, &resident);
    fclose(f);
    return n == 2 ? (size_t)resident * page_size() : 0;
}

size_t mr_memory_bytes(void) {
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    size_t bytes = pages > 0 && page > 0 ? (size_t)pages * (size_t)page : 0;
    unsigned long long limit;
    FILE *f = fopen("/sys/fs/cgroup/memory.max", "re");
    if (!f) return bytes;
    if (fscanf(f, "%llu", &limit) == 1 && (!bytes || limit < bytes)) bytes = (size_t)limit; /* or "max" */
    fclose(f);
    return bytes;
}
