/* unpack.h - gzip and zstd streams, a piece at a time: what a file is by its first bytes, and its bytes without the
 * packing.
 *
 * Several streams behind each other are one file (as gzip and zstd read them); zeros behind the last gzip stream are
 * passed over. A stream that is damaged or cut is an error that names the byte of the file and the line of the text
 * that was reached. Bombs: more than mr_unpacked_max bytes are an error; a zstd window above 128 MiB is one too.
 *
 * Source: RFC 1952 (gzip, by zlib), RFC 8878 (Zstandard, by libzstd).
 * Memory: some 200 kB, and a zstd stream's window. Errors: MR_EDATA `NAME: byte N ...`. Threads: no hidden state. */
#ifndef MR_UNPACK_H
#define MR_UNPACK_H

#include "base/memory.h"

typedef enum mr_packing { MR_PACKED_NOT, MR_PACKED_GZIP, MR_PACKED_ZSTD, MR_PACKED_PARQUET } mr_packing;

/* By the first bytes of a file (4 are enough); what it is called says nothing. */
mr_packing mr_packing_of(const void *first, size_t len);
/* What its name promises: ".gz", ".zst", ".parquet". */
mr_packing mr_packing_named(const char *name);
const char *mr_packing_name(mr_packing p); /* "gzip" */

/* What a file of so many bytes may become: 100 times its size and 256 MiB. Text packs to a third or a twentieth. */
int64_t mr_unpacked_max(int64_t file_bytes);

typedef mr_status (*mr_unpack_sink)(void *self, const char *bytes, size_t len, mr_err *err);

/* how: gzip or zstd. fd is read by position and stays open. Anything but MR_OK from the sink ends it. */
mr_status mr_unpack(int fd, const char *name, mr_packing how, mr_unpack_sink sink, void *self, mr_err *err);

#endif
