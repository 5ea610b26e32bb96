/* rowcache.h - what was made of a packed file, in a file of its own: rows of a Parquet file with the place of each, or
 * the text of a gzip or zstd stream. Reading such a row is reading so many bytes at such a place.
 *
 *     rows as JSON, a newline behind each | where each begins: u64 a row | trailer (Parquet)
 *     the text as it was                  |                              | trailer (gzip, zstd)
 *
 * The trailer holds a key (of what the rows were made from), the sizes, and a hash of all before it; its own hash is
 * its last field. Numbers are little-endian. A file with another version, key, size or hash is no cache, and whoever
 * finds one makes it anew: nothing here is ever mended.
 *
 * Errors: MR_EDATA for what is no cache or not whole, MR_EIO for the disk. Threads: an object belongs to one. */
#ifndef MR_ROWCACHE_H
#define MR_ROWCACHE_H

#include "base/memory.h"

enum { MR_ROWCACHE_KEY = 32, MR_ROWCACHE_TRAILER = 96 };

typedef struct mr_rowcache_info {
    bool text;              /* of a stream; else rows with an index */
    uint64_t payload_bytes; /* rows or text */
    uint64_t n_rows;        /* 0 for text */
    uint8_t key[MR_ROWCACHE_KEY];
} mr_rowcache_info;

/* Reads the trailer and holds the sizes against the file's. The rows are not looked at. */
mr_status mr_rowcache_info_read(mr_rowcache_info *info, int fd, const char *name, mr_err *err);
/* The same, and the hash over all of it: some 2 GB a second and 256 kB of memory. */
mr_status mr_rowcache_check(mr_rowcache_info *info, int fd, const char *name, mr_err *err);

/* Writing. What is written is not to be read before mr_rowcache_end. */
typedef struct mr_rowcache_writer mr_rowcache_writer;
/* fd: empty, open for writing; stays the caller's. name: for messages. */
mr_rowcache_writer *mr_rowcache_begin(int fd, const char *name, bool text, const uint8_t key[MR_ROWCACHE_KEY]);
/* Whole rows, each with a newline behind it and none in it, at most 16 MiB; or any piece of text; else MR_EDATA. */
mr_status mr_rowcache_add(mr_rowcache_writer *w, const char *bytes, size_t len, mr_err *err);
uint64_t mr_rowcache_bytes(const mr_rowcache_writer *w); /* of payload, so far */
/* Index and trailer. Frees w in any case, as mr_rowcache_drop does without them. */
mr_status mr_rowcache_end(mr_rowcache_writer *w, mr_err *err);
void mr_rowcache_drop(mr_rowcache_writer *w);

#endif
