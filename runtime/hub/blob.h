/* blob.h - one blob on its way into the cache: the part file, what of it is there, its hash, its name when it is whole.
 *
 * A part is ROOT/.../blobs/HASH.medrl: `size` bytes, and behind them one byte for each block of HUB_BLOCK bytes, HUB_HERE
 * when the block was written. A program that is killed leaves a part that says exactly which blocks it holds; a power cut
 * may leave one that says more than it holds, which the hash finds out. */
#ifndef MR_HUB_BLOB_H
#define MR_HUB_BLOB_H

#include "hub/hub_impl.h"

enum { HUB_BLOCK = 1 << 20, HUB_HERE = 0xa5 };

typedef struct hub_blob {
    const hub_entry *entry;
    int fd, lock;     /* -1: none */
    int64_t n_blocks; /* 0 for an empty file */
    uint8_t *here;    /* [n_blocks] HUB_HERE or not */
    int64_t prefix;   /* blocks that are here from the first on */
    int64_t n_here;
    bool resumed;     /* some blocks are from an earlier call */
} hub_blob;

/* The lock is the caller's and becomes the blob's. Room for all of it is taken at once: a full disk shows before the
 * first byte. MR_EIO, with the part removed when it was new. */
mr_status hub_blob_open(hub_blob *b, const hub_cache *c, const hub_entry *e, int lock, mr_err *err);
/* Writes len bytes at `at`; the caller sees to it that they lie inside. */
mr_status hub_blob_write(hub_blob *b, const void *data, size_t len, int64_t at, mr_err *err);
/* Block k has all of its bytes. */
mr_status hub_blob_mark(hub_blob *b, int64_t k, mr_err *err);
int64_t hub_blob_bytes(const hub_blob *b); /* of the blocks that are here */
/* The hash fits: cut to size, synced, named, linked into the snapshot. */
mr_status hub_blob_commit(hub_blob *b, const hub_cache *c, mr_err *err);
/* Closes, and removes the part when `discard`. Releases the lock. */
void hub_blob_close(hub_blob *b, const hub_cache *c, bool discard);

/* ---- hashes ---- */

typedef struct hub_hash hub_hash;
hub_hash *hub_hash_new(const hub_entry *e); /* SHA-256, or git's SHA-1 over "blob SIZE\0" and the bytes */
void hub_hash_add(hub_hash *h, const void *data, size_t len);
bool hub_hash_end(hub_hash *h, char hex[MR_HUB_HASH_MAX]); /* frees; whether it is the entry's */
mr_status hub_hash_file(bool *good, int fd, const hub_entry *e, const char *place, mr_err *err);

#endif
