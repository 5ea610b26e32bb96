/* fuzz_packed.c - gzip and zstd streams, and files of row caches; the first byte chooses. */
#include "files/rowcache.h"
#include "files/rows.h"
#include "files/unpack.h"
#include "fuzz.h"

static mr_status each(void *self, const char *bytes, size_t len, mr_err *err) {
    (void)bytes, (void)err;
    *(int64_t *)self += (int64_t)len;
    return MR_OK;
}

static void read_rows(int fd, size_t size) {
    mr_rows *r;
    mr_err err;
    if (mr_rows_open_cache(&r, fd, "x.parquet", &err) != MR_OK) {
        fuzz_refused(err.msg, "x.parquet");
        return;
    }
    int64_t n = mr_rows_count(r);
    PROMISE((size_t)n <= size, "%lld rows in %zu bytes", (long long)n, size);
    for (int64_t i = 0; i < n && i < 1000; i++) {
        const char *text;
        size_t len;
        PROMISE(mr_rows_text(r, i, &text, &len, &err) == MR_OK && len < size, "row %lld: %s", (long long)i, err.msg);
    }
    mr_rows_close(r);
    fuzz_accepted();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size) return 0;
    const int what = data[0] % 3;
    int64_t n = 0;
    mr_err err;
    data++, size--;
    const int fd = fuzz_fd(data, size);
    if (what == 2) {
        read_rows(fd, size);
    } else if (mr_unpack(fd, "x.gz", what ? MR_PACKED_ZSTD : MR_PACKED_GZIP, each, &n, &err) == MR_OK) {
        PROMISE(n <= mr_unpacked_max((int64_t)size), "%lld bytes of %zu", (long long)n, size);
        fuzz_accepted();
    } else {
        fuzz_refused(err.msg, "x.gz");
    }
    return 0;
}
