/* unpack.c - zlib and libzstd as one stream: see unpack.h. */
#include "files/unpack.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "base/fsafe.h"

enum { IN_BYTES = 64 << 10, OUT_BYTES = 128 << 10, WINDOW_LOG_MAX = 27, RATIO_MAX = 100, FREE_BYTES = 256 << 20 };

mr_packing mr_packing_of(const void *first, size_t len) {
    if (len >= 2 && memcmp(first, "\x1f\x8b", 2) == 0) return MR_PACKED_GZIP;
    if (len >= 4 && memcmp(first, "\x28\xb5\x2f\xfd", 4) == 0) return MR_PACKED_ZSTD;
    if (len >= 4 && memcmp(first, "PAR1", 4) == 0) return MR_PACKED_PARQUET;
    return MR_PACKED_NOT;
}

mr_packing mr_packing_named(const char *name) {
    return mr_ends_with(name, ".gz")        ? MR_PACKED_GZIP
           : mr_ends_with(name, ".zst")     ? MR_PACKED_ZSTD
           : mr_ends_with(name, ".parquet") ? MR_PACKED_PARQUET
                                            : MR_PACKED_NOT;
}

const char *mr_packing_name(mr_packing p) {
    return p == MR_PACKED_GZIP ? "gzip" : p == MR_PACKED_ZSTD ? "zstd" : p == MR_PACKED_PARQUET ? "Parquet" : "text";
}

int64_t mr_unpacked_max(int64_t file_bytes) {
    return FREE_BYTES + RATIO_MAX * (file_bytes < (INT64_C(1) << 50) ? file_bytes : INT64_C(1) << 50);
}

typedef struct stream {
    int fd;
    const char *name;
    mr_packing how;
    z_stream z;
    ZSTD_DCtx *zstd;
    char *in, *out;
    size_t in_at, in_len;
    int64_t at, size;    /* of the file: where in[0] stands; how long it is */
    int64_t n_out, line; /* so far; the line that was reached */
    bool between;        /* a stream has ended, and nothing of another one has been seen */
    mr_unpack_sink sink;
    void *self;
} stream;

static mr_status damaged(const stream *s, const char *what, mr_err *err) {
    return mr_fail(err, MR_EDATA,
                   "%s: byte %" PRId64 ": %s (%s, in line %" PRId64 " of the text); fetch the file again", s->name,
                   s->at + (int64_t)s->in_at, what, mr_packing_name(s->how), s->line);
}

static mr_status fill(stream *s, mr_err *err) {
    s->at += (int64_t)s->in_len;
    s->in_at = s->in_len = 0;
    ssize_t n;
    while ((n = pread(s->fd, s->in, IN_BYTES, s->at)) < 0 && errno == EINTR) continue;
    if (n < 0) return mr_fail_errno(err, "%s", s->name);
    s->in_len = (size_t)n;
    return MR_OK;
}

static mr_status give(stream *s, size_t len, mr_err *err) {
    if (len == 0) return MR_OK;
    s->n_out += (int64_t)len;
    if (s->n_out > mr_unpacked_max(s->size))
        return mr_fail(err, MR_EDATA,
                       "%s: unpacks to more than %" PRId64
                       " bytes (%d times its size and %d MiB), which no text does; it is not read",
                       s->name, mr_unpacked_max(s->size), RATIO_MAX, FREE_BYTES >> 20);
    for (const char *p = s->out, *end = s->out + len; (p = memchr(p, '\n', (size_t)(end - p))); p++) s->line++;
    return s->sink(s->self, s->out, len, err);
}

/* One call of the library over what is in s->in. */
static mr_status gunzip(stream *s, mr_err *err) {
    if (s->between && s->in[s->in_at] == 0) { /* padding, of tapes once */
        s->in_at++;
        return MR_OK;
    }
    s->z.next_in = (Bytef *)(s->in + s->in_at);
    s->z.avail_in = (uInt)(s->in_len - s->in_at);
    s->z.next_out = (Bytef *)s->out;
    s->z.avail_out = OUT_BYTES;
    s->between = false;
    const int rc = inflate(&s->z, Z_NO_FLUSH);
    s->in_at = s->in_len - s->z.avail_in;
    if (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR)
        return rc == Z_MEM_ERROR ? mr_fail(err, MR_ENOMEM, "%s: no memory to unpack it", s->name)
                                 : damaged(s, s->z.msg ? s->z.msg : "the stream is damaged", err);
    MR_TRY(give(s, OUT_BYTES - s->z.avail_out, err));
    if (rc == Z_STREAM_END) {
        s->between = true;
        inflateReset(&s->z);
    }
    return MR_OK;
}

static mr_status unzstd(stream *s, mr_err *err) {
    ZSTD_inBuffer in = { s->in, s->in_len, s->in_at };
    ZSTD_outBuffer out = { s->out, OUT_BYTES, 0 };
    const size_t rc = ZSTD_decompressStream(s->zstd, &out, &in);
    s->in_at = in.pos;
    if (ZSTD_isError(rc)) return damaged(s, ZSTD_getErrorName(rc), err);
    s->between = rc == 0;
    return give(s, out.pos, err);
}

/* True when the library holds output back that did not fit: it has to be called again without input. */
static bool has_more(const stream *s) {
    return s->how == MR_PACKED_GZIP && !s->between && s->z.avail_out == 0;
}

static mr_status run(stream *s, mr_err *err) {
    for (;;) {
        if (s->in_at == s->in_len && !has_more(s)) {
            MR_TRY(fill(s, err));
            if (s->in_len == 0) break;
        }
        MR_TRY(s->how == MR_PACKED_GZIP ? gunzip(s, err) : unzstd(s, err));
    }
    /* libzstd may hold the rest of a block back; a whole stream ends with 0 */
    for (int64_t before = -1; s->how == MR_PACKED_ZSTD && !s->between && before != s->n_out;) {
        before = s->n_out;
        MR_TRY(unzstd(s, err));
    }
    return s->between ? MR_OK : damaged(s, "the file ends in the middle of the stream", err);
}

mr_status mr_unpack(int fd, const char *name, mr_packing how, mr_unpack_sink sink, void *self, mr_err *err) {
    struct stat info;
    if (fstat(fd, &info) != 0) return mr_fail_errno(err, "%s", name);
    stream s = {
        .fd = fd, .name = name, .how = how, .size = (int64_t)info.st_size, .line = 1, .sink = sink, .self = self
    };
    const bool ready = how == MR_PACKED_GZIP
                           ? inflateInit2(&s.z, 16 + MAX_WBITS) == Z_OK
                           : (s.zstd = ZSTD_createDCtx()) &&
                                 !ZSTD_isError(ZSTD_DCtx_setParameter(s.zstd, ZSTD_d_windowLogMax, WINDOW_LOG_MAX));
    s.in = mr_try_alloc(IN_BYTES);
    s.out = mr_try_alloc(OUT_BYTES);
    mr_status st = ready && s.in && s.out ? run(&s, err) : mr_fail(err, MR_ENOMEM, "%s: no memory to unpack it", name);
    if (how == MR_PACKED_GZIP && ready) inflateEnd(&s.z);
    ZSTD_freeDCtx(s.zstd);
    mr_free(s.in);
    mr_free(s.out);
    return st;
}
