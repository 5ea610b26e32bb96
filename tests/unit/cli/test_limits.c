/* test_limits.c - the copy that shares are shares of reads memory: pages that nobody has written are one page of zeros in the cache. */
#include <sys/mman.h>

#include "base/memory.h"
#include "cli/bench_limits.h"
#include "test.h"

static void (*real_copy)(mr_backend *b, void *dst, const void *src, size_t bytes);
static size_t n_pages, n_absent, n_copied;

/* Before its first byte is read. */
static void looking_copy(mr_backend *b, void *dst, const void *src, size_t bytes) {
    enum { PAGE = 4096 };
    if (!n_pages) {
        uintptr_t first = ((uintptr_t)src + PAGE - 1) / PAGE * PAGE; /* whole pages */
        n_pages = ((uintptr_t)src + bytes - first) / PAGE;
        unsigned char *there = mr_alloc(n_pages);
        CHECK_INT(mincore((void *)first, n_pages * PAGE, there), 0);
        for (size_t i = 0; i < n_pages; i++) n_absent += !(there[i] & 1);
        mr_free(there);
    }
    n_copied += bytes;
    real_copy(b, dst, src, bytes);
}

static void copy_reads_memory(void) {
    mr_backend *b;
    mr_err err;
    mr_limits limits;
    REQUIRE_OK(mr_backend_open(&b, MR_CPU, 0, 1, &err), err);
    real_copy = b->copy;
    b->copy = looking_copy;
    REQUIRE_OK(mr_bench_limits(&limits, b, MR_F32, &err), err);
    CHECK(n_pages > 0 && n_copied > 0);
    CHECK_INT(n_absent, 0);
    CHECK(limits.copy > 0 && limits.product > 0);
    mr_backend_close(b);
}

TEST_MAIN({ "copy_reads_memory", copy_reads_memory })
