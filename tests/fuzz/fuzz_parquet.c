/* fuzz_parquet.c - Parquet files, the way a worker reads them. Accepted: every row is JSON, an object, of at most 16
 * MiB; the memory that carquet may take is 64 MiB. Refused: by name, and nothing is left open or allocated. */
#include "base/json.h"
#include "files/parquet.h"
#include "fuzz.h"

static mr_status each(void *self, const char *json, size_t len, mr_err *err) {
    int64_t *rows = self;
    PROMISE(len >= 2 && json[0] == '{' && len <= 16 << 20, "a row of %zu bytes", len);
    PROMISE(mr_json_check(json, len, "row", err) == MR_OK, "%s", err->msg);
    return ++*rows < 20000 ? MR_OK : mr_fail(err, MR_EDATA, "x.parquet: many rows");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    int64_t rows = 0, n;
    mr_err err;
    if (mr_parquet_read(fuzz_fd(data, size), "x.parquet", 64 << 20, each, &rows, &n, &err) == MR_OK) {
        PROMISE(n == rows, "%lld rows are said, %lld came", (long long)n, (long long)rows);
        fuzz_accepted();
    } else {
        fuzz_refused(err.msg, "x.parquet");
    }
    return 0;
}
