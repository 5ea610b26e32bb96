/* import.h - packed data files (Parquet, gzip, zstd) as row caches, read by a process of their own.
 *
 * Such a file goes through libraries that take bytes apart, so nobody who matters does that: a copy of this program
 * that holds one socket and the file, behind the wall that scripts have (sandbox.h: no file can be opened, nothing
 * written, limited memory), sends rows or text to its parent, which writes the cache. When that process crashes, hangs
 * or lies, the file is bad, in one line, and nothing else happened.
 *
 * The cache (files/rowcache.h) is found again by what the file is: its size, time of change, inode, and a hash of its
 * first and last 64 KiB, which hold a Parquet file's footer. It is written under another name and renamed, checked as a
 * whole each time it is opened, and made anew when it does not fit or is damaged; a file that changed takes its old
 * cache with it. Where it cannot be written (a full disk), one line of warning says so and the rows go to an unlinked
 * file in $TMPDIR, or to memory. Folder: $MEDRL_ROW_CACHE, else the user's cache folder, medrl/rows. It may be deleted
 * at any time.
 *
 * Threads: one. */
#ifndef MR_IMPORT_H
#define MR_IMPORT_H

#include "base/fsafe.h"
#include "files/unpack.h"
#include "script/wire.h"

typedef struct mr_import_opts {
    double deadline_s;   /* without anything from the process; 0: a minute, and a second for each 20 MB of the file */
    size_t memory_bytes; /* of the process; 0: 2 GiB, or half of the machine's */
    int require_sandbox; /* MR_EREFUSED when it reaches a lower level */
} mr_import_opts;

/* How the open file at fd is packed, and whether that is what its name says: "x.gz" that is no gzip is MR_EDATA;
 * "x.jsonl" that is one is read all the same. */
mr_status mr_import_kind(mr_packing *how, int fd, const char *name, mr_err *err);
/* *cache: a descriptor for mr_rows_open_cache, the caller's. fd: the file, a plain one. opts may be NULL.
 * MR_EDATA: the file, `NAME:PLACE: what`. */
mr_status mr_import_open(int *cache, int fd, const char *name, mr_packing how, const mr_import_opts *opts, mr_err *err);

/* What identifies an open file, into a hash: size, time, inode, its first and last 64 KiB. */
mr_status mr_import_identify(mr_sha *sha, int fd, const char *name, mr_err *err);
char *mr_import_folder(void); /* of the caches; owned */

/* The child's side: `medrl --worker` whose first frame is MR_WIRE_IMPORT. Does not come back. */
_Noreturn void mr_import_child(mr_wire *wire, const mr_frame *f);

#endif
