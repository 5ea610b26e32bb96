/* fuzz_rows.c - rows of JSONL, CSV, TSV and JSON files; the first byte chooses. Accepted: at most a row a line, each readable or refused by
 * its line. */
#include "base/json.h"
#include "files/rows.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const names[] = { "x.jsonl", "x.csv", "x.tsv", "x.json" };
    if (!size) return 0;
    const char *name = names[data[0] % 4];
    mr_rows *r;
    mr_err err;
    data++, size--;
    if (mr_rows_open_fd(&r, fuzz_fd(data, size), name, &err) != MR_OK) {
        fuzz_refused(err.msg, name);
        return 0;
    }
    int64_t n = mr_rows_count(r), lines = 1;
    for (size_t i = 0; i < size; i++) lines += data[i] == '\n' || data[i] == '\r';
    if (strcmp(name, "x.json") != 0) PROMISE(n <= lines, "%lld rows in %lld lines", (long long)n, (long long)lines);
    long refused = 0;
    for (int64_t i = 0; i < n && i < 1000; i++) {
        cJSON *row;
        PROMISE(mr_rows_line(r, i) >= 1 && mr_rows_line(r, i) <= lines, "row %lld is said to be on line %lld", (long long)i,
                (long long)mr_rows_line(r, i));
        if (mr_rows_get(r, i, &row, &err) == MR_OK) {
            PROMISE(cJSON_IsObject(row), "row %lld is no object", (long long)i);
            cJSON_Delete(row);
        } else {
            if (refused++) fuzz_n_refused--; /* one input, one verdict */
            fuzz_refused(err.msg, name);
            PROMISE(strchr(err.msg, ':'), "the error names no line: %s", err.msg);
        }
    }
    if (!refused) fuzz_accepted();
    mr_rows_close(r);
    return 0;
}
