/* rows.h - data rows from JSONL and CSV files, one JSON object a row.
 *
 * The file is read once to find where each line (record) starts; row i is read and parsed when it is asked for, so
 * memory grows with the number of rows (24 bytes each) and not with their size. Rows that are added to the file later
 * are not seen; a file that becomes shorter is an error of the rows that are gone. CSV (RFC 4180): the first record
 * names the columns, quoted fields may hold commas, quotes and newlines; every value is a string. A UTF-8 byte order
 * mark is skipped, empty lines are skipped, CRLF is fine, the last line needs no newline. Files that are packed (gzip, zstd,
 * Parquet) are refused here and come as a row cache: script/import.h makes one.
 * Errors: MR_EDATA `FILE:LINE: what; what to do`. Ownership: rows are owned by the caller, free with cJSON_Delete.
 * Threads: a mr_rows belongs to one at a time, for reading too (it remembers what it read last). */
#ifndef MR_ROWS_H
#define MR_ROWS_H

#include <cjson/cJSON.h>

#include "base/memory.h"

typedef struct mr_rows mr_rows;

/* By extension: .jsonl, .ndjson, .json (an array of objects or one object a line), .csv, .tsv. */
mr_status mr_rows_open(mr_rows **out, const char *path, mr_err *err);
/* The same over an open descriptor (a worker gets one from its parent); name is for messages and the format. fd is not
 * closed. */
mr_status mr_rows_open_fd(mr_rows **out, int fd, const char *name, mr_err *err);
/* The same over a row cache (rowcache.h), which somebody has checked: its text is indexed as a file of that name would be (without
 * ".gz" or ".zst"), its rows are where the index says, and the line of a row is its number. name: what the cache was made from. */
mr_status mr_rows_open_cache(mr_rows **out, int fd, const char *name, mr_err *err);
void mr_rows_close(mr_rows *r);
int64_t mr_rows_count(const mr_rows *r);
mr_status mr_rows_get(const mr_rows *r, int64_t index, cJSON **row, mr_err *err);
/* The JSON text of a row, not looked at yet (mr_json_check), for those who do not need a tree; borrowed until the next
 * call on r. NULL for CSV, which has none. */
mr_status mr_rows_text(const mr_rows *r, int64_t index, const char **text, size_t *len, mr_err *err);
/* The error of a row that is another type than an object ("an array"), as mr_rows_get gives it. */
mr_status mr_rows_no_object(const mr_rows *r, int64_t index, const char *type, mr_err *err);
const char *mr_rows_name(const mr_rows *r);            /* as given to open; borrowed until close */
int64_t mr_rows_line(const mr_rows *r, int64_t index); /* the 1-based line where row `index` starts */

#endif
