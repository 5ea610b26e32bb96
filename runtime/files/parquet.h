/* parquet.h - the rows of a Parquet file as JSON text, one object a row, keys in the order of the columns.
 *
 * carquet does the reading, through two ways only: carquet_validate_file over the whole file, then
 * carquet_reader_read_arrow a row group at a time (its flat column functions are not used: they can be made to write
 * beyond their buffers). To be called in a process that may crash: script/import.h is that process.
 *
 * What becomes of a value:
 *   text (String, Enum, JSON)      a string; bytes that are no UTF-8, and NUL, are an error with row and column
 *   integers of 8 to 64 bits       a number; beyond 2^53, where a double would round, a string of digits
 *   float16, float, double         a number; NaN and infinities are null
 *   bool, null                     true, false, null
 *   Date                           "2024-01-31"
 *   Timestamp                      "2024-01-31T09:30:00", with a fraction of 3, 6 or 9 digits (the column's unit)
 *                                  when it is not 0, and "Z" behind it when the column is in UTC
 *   Time                           "09:30:00", with a fraction likewise
 *   lists and structs of these     arrays and objects
 * Anything else (binary, DECIMAL, UUID, INT96, maps ...) is an error that names column and type, before the first row.
 *
 * Memory: what a row group needs, twice, at most memory_bytes. Errors: MR_EDATA `NAME: what; what to do`, `NAME:ROW:
 * ...`. Threads: one at a time in a process. */
#ifndef MR_PARQUET_H
#define MR_PARQUET_H

#include "base/memory.h"

/* "0.7.2", the version of carquet; NULL: this program was built without it, and mr_parquet_read says how to get it. */
const char *mr_parquet_version(void);

/* A row: JSON without newlines, not NUL-terminated, borrowed for the call. Anything but MR_OK ends the reading. */
typedef mr_status (*mr_parquet_row)(void *self, const char *json, size_t len, mr_err *err);

/* fd: a file that can be read at any place; stays open. name: for messages. memory_bytes: 0: 1 GiB. n_rows may be NULL.
 * */
mr_status mr_parquet_read(int fd, const char *name, size_t memory_bytes, mr_parquet_row each, void *self,
                          int64_t *n_rows, mr_err *err);

#endif
