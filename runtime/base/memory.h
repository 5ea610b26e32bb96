/* memory.h - host memory: small objects, large buffers that may not fit, per-step scratch, growing strings.
 *
 * mr_alloc and its relatives are for small things: they end the program with one line when the machine is out of memory, so their
 * callers need no check. mr_try_alloc is for everything large and for every _open: it returns NULL, and the caller says
 * MR_ENOMEM. A test hook fails its n-th call. All memory is 64-byte aligned when it comes from mr_try_alloc.
 * Threads: safe, but an mr_arena or mr_str belongs to one thread at a time. */
#ifndef MR_MEMORY_H
#define MR_MEMORY_H

#include "base/status.h"

/* What is done after that line in place of abort(); it must not come back. Set once, by a program's main. */
void mr_on_out_of_memory(void (*leave)(void));

void *mr_alloc(size_t bytes);            /* zeroed; owned, free with mr_free */
void *mr_realloc(void *p, size_t bytes); /* grown bytes are not zeroed */
char *mr_strdup(const char *s);          /* NULL stays NULL */
char *mr_strndup(const char *s, size_t len);
char *mr_asprintf(const char *fmt, ...) MR_PRINTF(1, 2);
void mr_free(void *p); /* for everything from this header but arenas; NULL is fine */

/* Zeroed and 64-byte aligned, or NULL. Large blocks are mapped, so untouched pages cost nothing. */
void *mr_try_alloc(size_t bytes);

/* Test hook: the n-th mr_try_alloc from now (1 = the next) returns NULL; 0 turns it off. */
void mr_try_alloc_fail_at(long n);
/* Calls of mr_try_alloc so far, for tests that nothing large is taken during a run's steps. */
long mr_try_alloc_count(void);

/* a * b and a + b for sizes that come from files: false when they do not fit. */
bool mr_mul_size(size_t *out, size_t a, size_t b);
bool mr_add_size(size_t *out, size_t a, size_t b);

/* A region that is filled and then dropped at once. */
typedef struct mr_arena {
    struct mr_arena_block *block;
} mr_arena;
/* zeroed, 16-byte aligned, valid until reset or clear; aborts when out of memory */
void *mr_arena_alloc(mr_arena *a, size_t bytes);
char *mr_arena_strdup(mr_arena *a, const char *s, size_t len);
void mr_arena_reset(mr_arena *a); /* keeps the memory for the next use */
void mr_arena_clear(mr_arena *a); /* gives it back; a zeroed arena is valid and empty */

/* A growing byte string; always NUL-terminated after the first append. A zeroed struct is an empty string. */
typedef struct mr_str {
    char *data;
    size_t len, cap;
} mr_str;
void mr_str_add(mr_str *s, const void *bytes, size_t len);
void mr_str_puts(mr_str *s, const char *text);
void mr_str_printf(mr_str *s, const char *fmt, ...) MR_PRINTF(2, 3);
void mr_str_clear(mr_str *s);  /* frees */
char *mr_str_steal(mr_str *s); /* the bytes, never NULL; owned by the caller, free with mr_free; s is empty after */

/* Largest resident set of this process so far and now, in bytes (0 when unknown). */
size_t mr_rss_peak_bytes(void);
/* What this process may use at most: the machine's memory, or a container's limit (cgroup v2) where that is lower. */
size_t mr_memory_bytes(void);
size_t mr_rss_bytes(void);

#endif
