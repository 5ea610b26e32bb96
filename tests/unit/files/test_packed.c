/* test_packed.c - gzip and zstd streams in pieces, damaged, cut, one behind the other, and as bombs; row caches:
 * written, read, and any byte of them changed. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "base/fsafe.h"
#include "files/rowcache.h"
#include "files/rows.h"
#include "files/unpack.h"
#include "calls.h"
#include "test.h"

static int fd = -1; /* a scratch file */

static void put(const void *bytes, size_t len) {
    if (fd < 0) {
        char path[] = "/tmp/medrl-packed-XXXXXX";
        fd = mkstemp(path);
        REQUIRE(fd >= 0);
        unlink(path);
    }
    REQUIRE(ftruncate(fd, 0) == 0 && pwrite(fd, bytes, len, 0) == (ssize_t)len);
}

static void add_gzip(mr_str *out, const char *text, size_t len) {
    z_stream z = { 0 };
    char buffer[1 << 16];
    REQUIRE(deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 9, Z_DEFAULT_STRATEGY) == Z_OK);
    z.next_in = (Bytef *)(uintptr_t)text;
    z.avail_in = (uInt)len;
    int rc;
    do {
        z.next_out = (Bytef *)buffer;
        z.avail_out = sizeof buffer;
        rc = deflate(&z, Z_FINISH);
        mr_str_add(out, buffer, sizeof buffer - z.avail_out);
    } while (rc == Z_OK);
    REQUIRE(rc == Z_STREAM_END);
    deflateEnd(&z);
}

static void add_zstd(mr_str *out, const char *text, size_t len) {
    const size_t room = ZSTD_compressBound(len);
    char *buffer = malloc(room);
    const size_t n = ZSTD_compress(buffer, room, text, len, 3);
    REQUIRE(!ZSTD_isError(n));
    mr_str_add(out, buffer, n);
    free(buffer);
}

/* Lines that do not pack to nothing. */
static void make_text(mr_str *s, int lines) {
    uint32_t x = 1;
    for (int i = 0; i < lines; i++) {
        x = x * 1664525 + 1013904223;
        mr_str_printf(s, "{\"n\": %d, \"x\": \"%08x%08x\"}\n", i, x, x * 7u);
    }
}

static mr_status gather(void *self, const char *bytes, size_t len, mr_err *err) {
    (void)err;
    mr_str_add(self, bytes, len);
    return MR_OK;
}

static void (*const pack[])(mr_str *, const char *, size_t) = { add_gzip, add_zstd };
static const mr_packing packing[] = { MR_PACKED_GZIP, MR_PACKED_ZSTD };

static void streams(void) {
    mr_str text = { 0 };
    make_text(&text, 30000); /* some MB: many calls of the library, both ways */
    for (int k = 0; k < 2; k++) {
        mr_str packed = { 0 }, got = { 0 };
        mr_err err = { "" };
        pack[k](&packed, text.data, text.len);
        pack[k](&packed, "", 0); /* an empty stream, and another one */
        pack[k](&packed, "end\n", 4);
        put(packed.data, packed.len);
        CHECK_INT(mr_packing_of(packed.data, 4), packing[k]);
        REQUIRE_OK(mr_unpack(fd, "x", packing[k], gather, &got, &err), err);
        CHECK_INT(got.len, text.len + 4);
        CHECK(got.len == text.len + 4 && memcmp(got.data, text.data, text.len) == 0 &&
              memcmp(got.data + text.len, "end\n", 4) == 0);
        if (k == 0) { /* zeros behind the end */
            mr_str_add(&packed, "\0\0\0\0\0", 5);
            put(packed.data, packed.len);
            got.len = 0;
            REQUIRE_OK(mr_unpack(fd, "x", packing[k], gather, &got, &err), err);
            CHECK_INT(got.len, text.len + 4);
            packed.len -= 5;
        }
        mr_str_add(&packed, "{}", 2); /* anything else there */
        put(packed.data, packed.len);
        got.len = 0;
        CHECK_INT(mr_unpack(fd, "x.gz", packing[k], gather, &got, &err), MR_EDATA);
        CHECK_CONTAINS(err.msg, "in line 30002 of the text); fetch the file again");
        mr_str_clear(&packed);
        mr_str_clear(&got);
    }
    mr_str_clear(&text);
}

static void damaged_streams(void) {
    mr_str text = { 0 };
    make_text(&text, 2000);
    for (int k = 0; k < 2; k++) {
        mr_str packed = { 0 };
        mr_err err = { "" };
        pack[k](&packed, text.data, text.len);
        int refused = 0, tried = 0;
        for (size_t n = 4; n < packed.len; n += 97, tried++) { /* cut */
            mr_str got = { 0 };
            put(packed.data, n);
            CHECK_INT(mr_unpack(fd, "x.gz", packing[k], gather, &got, &err), MR_EDATA);
            char place[128];
            snprintf(place, sizeof place, "x.gz: byte %zu: the file ends in the middle of the stream (%s, in line ", n,
                     mr_packing_name(packing[k]));
            CHECK_CONTAINS(err.msg, place);
            CHECK(got.len <= text.len &&
                  memcmp(got.data ? got.data : "", text.data, got.len) == 0); /* what came was right */
            mr_str_clear(&got);
        }
        CHECK(tried > 100);
        for (size_t at = 12; at < packed.len;
             at += 101) { /* changed; gzip has a checksum behind, this zstd stream none */
            mr_str got = { 0 };
            packed.data[at] ^= 0x11;
            put(packed.data, packed.len);
            packed.data[at] ^= 0x11;
            if (mr_unpack(fd, "x.gz", packing[k], gather, &got, &err) != MR_OK) {
                refused++;
                CHECK_CONTAINS(err.msg, "x.gz: byte ");
            } else {
                CHECK(k == 1);
            }
            mr_str_clear(&got);
        }
        CHECK(refused > 0);
        mr_str_clear(&packed);
    }
    mr_str_clear(&text);
}

static mr_status count(void *self, const char *bytes, size_t len, mr_err *err) {
    (void)bytes, (void)err;
    *(size_t *)self += len;
    return MR_OK;
}

/* Zeros pack a thousandfold and more: 300 MiB of them are refused, some time after 256 MiB. */
static void bombs(void) {
    char *zeros = calloc(1, 1 << 20);
    for (int k = 0; k < 2; k++) {
        mr_str packed = { 0 }, all = { 0 };
        pack[k](&packed, zeros, 1 << 20);
        for (int i = 0; i < 300; i++) mr_str_add(&all, packed.data, packed.len);
        put(all.data, all.len);
        size_t n = 0;
        mr_err err = { "" };
        if (mr_unpacked_max((int64_t)all.len) < 300 << 20) {
            CHECK_INT(mr_unpack(fd, "bomb.gz", packing[k], count, &n, &err), MR_EDATA);
            CHECK_CONTAINS(err.msg, "bomb.gz: unpacks to more than");
            CHECK((int64_t)n <= mr_unpacked_max((int64_t)all.len));
        } else {
            CHECK(k == 0); /* gzip reaches no more than 1032 : 1 */
        }
        mr_str_clear(&packed);
        mr_str_clear(&all);
    }
    free(zeros);
}

/* ---- row caches ---- */

static const uint8_t key[MR_ROWCACHE_KEY] = "a key";

static void write_cache(const char *payload, bool text) {
    mr_err err = { "" };
    put("", 0);
    REQUIRE(lseek(fd, 0, SEEK_SET) == 0);
    mr_rowcache_writer *w = mr_rowcache_begin(fd, "cache", text, key);
    REQUIRE_OK(mr_rowcache_add(w, payload, strlen(payload), &err), err);
    CHECK_INT(mr_rowcache_bytes(w), strlen(payload));
    REQUIRE_OK(mr_rowcache_end(w, &err), err);
}

static void caches(void) {
    mr_err err = { "" };
    mr_rowcache_info info;
    mr_rows *r;
    const char *text;
    size_t len;
    write_cache("{\"a\": 1}\n{\"a\": \"two\"}\n[3]\n", false);
    REQUIRE_OK(mr_rowcache_check(&info, fd, "cache", &err), err);
    CHECK(!info.text && info.n_rows == 3 && info.payload_bytes == 26 && memcmp(info.key, key, sizeof key) == 0);
    REQUIRE_OK(mr_rows_open_cache(&r, fd, "x.parquet", &err), err);
    CHECK_INT(mr_rows_count(r), 3);
    REQUIRE_OK(mr_rows_text(r, 1, &text, &len, &err), err);
    CHECK(len == 12 && memcmp(text, "{\"a\": \"two\"}", 12) == 0);
    CHECK_INT(mr_rows_line(r, 1), 2);
    cJSON *row;
    CHECK_INT(mr_rows_get(r, 2, &row, &err), MR_EDATA);
    CHECK_CONTAINS(err.msg, "x.parquet:3: the row is an array");
    mr_rows_close(r);

    write_cache("a,b\n\"1\n\",2\n", true);
    REQUIRE_OK(mr_rows_open_cache(&r, fd, "x.csv.gz", &err), err);
    CHECK_INT(mr_rows_count(r), 1);
    REQUIRE_OK(mr_rows_get(r, 0, &row, &err), err);
    CHECK_STR(cJSON_GetObjectItem(row, "a")->valuestring, "1\n");
    cJSON_Delete(row);
    mr_rows_close(r);
    write_cache("{\"a\": 1}\nx\n", true); /* a name without .gz: a stream by mistake */
    REQUIRE_OK(mr_rows_open_cache(&r, fd, "x.jsonl", &err), err);
    CHECK_INT(mr_rows_count(r), 2);
    mr_rows_close(r);
    CHECK_INT(mr_rows_open_cache(&r, fd, "x.tar.gz", &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, "x.tar.gz: unknown kind of data");

    mr_rowcache_writer *w = mr_rowcache_begin(fd, "cache", false, key);
    CHECK_INT(mr_rowcache_add(w, "{}\n\n", 4, &err), MR_EDATA); /* no row, and half of one */
    CHECK_INT(mr_rowcache_add(w, "{}", 2, &err), MR_EDATA);
    mr_rowcache_drop(w);
}

/* An index whose first row has no bytes, which the writer refuses to make: a seed of the fuzz target, behind its first byte. */
static void empty_row_first(void) {
    mr_err err = { "" };
    mr_rows *r;
    char *bytes;
    const char *text;
    size_t len;
    REQUIRE_OK(mr_file_read(&bytes, &len, MR_ROOT "/tests/fuzz/seeds/packed/empty_row_first", 1000, &err), err);
    put(bytes + 1, len - 1);
    mr_free(bytes);
    REQUIRE_OK(mr_rows_open_cache(&r, fd, "x.parquet", &err), err);
    REQUIRE(mr_rows_count(r) == 2);
    REQUIRE_OK(mr_rows_text(r, 0, &text, &len, &err), err);
    CHECK(text != NULL && len == 0);
    mr_rows_close(r);
}

/* A cache of no rows, and one whose reads fail, end too early or have no memory: rows or an error, never some of them. */
static void caches_that_fail(void) {
    static const struct {
        const char *call;
        int code;
        mr_status want;
    } cases[] = { { "pread", EIO, MR_EIO }, { "pread", CALL_END, MR_EDATA }, { "pread", CALL_HALF, MR_OK }, { "fstat", EIO, MR_EIO } };
    mr_err err = { "" };
    mr_rows *r;
    write_cache("", false);
    REQUIRE_OK(mr_rows_open_cache(&r, fd, "x.parquet", &err), err);
    CHECK_INT(mr_rows_count(r), 0);
    mr_rows_close(r);
    write_cache("{}\n", false);
    call_fails("pread", 2, CALL_END); /* an index of one row is 0, as memory that nothing was read to */
    CHECK_INT(mr_rows_open_cache(&r, fd, "x.parquet", &err), MR_EDATA);
    CHECK(calls_settled());
    write_cache("{\"a\": 1}\n{\"a\": \"two\"}\n{}\n", false);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int nth = 0;
        for (bool played = true; played;) {
            call_fails(cases[i].call, ++nth, cases[i].code);
            mr_status st = mr_rows_open_cache(&r, fd, "x.parquet", &err);
            played = calls_settled();
            CHECK_INT(st, played ? cases[i].want : MR_OK);
            CHECK((r != NULL) == (st == MR_OK));
            if (st == MR_OK) CHECK_INT(mr_rows_count(r), 3);
            mr_rows_close(r);
        }
        CHECK(nth > 2); /* the trailer's, and the index's */
    }
    for (long n = 1; n <= 2; n++) {
        mr_try_alloc_fail_at(n);
        CHECK_INT(mr_rows_open_cache(&r, fd, "x.parquet", &err), MR_ENOMEM);
        mr_try_alloc_fail_at(0);
        CHECK(r == NULL);
        CHECK_CONTAINS(err.msg, "no memory for 3 rows");
    }
    const uint64_t same = 22; /* two rows that begin in one place */
    REQUIRE(pwrite(fd, &same, 8, 25 + 8) == 8);
    CHECK_INT(mr_rows_open_cache(&r, fd, "x.parquet", &err), MR_EDATA);
    CHECK_STR(err.msg, "x.parquet: its row cache is damaged; start again");

    mr_str s = { 0 }; /* two rows of 9 MiB; a second index makes the second one of them longer than a row may be */
    for (int i = 0; i < 2; i++) mr_str_printf(&s, "%0*d\n", 9 << 20, i);
    mr_str_puts(&s, "{}\n");
    write_cache(s.data, false);
    const off_t second = (off_t)s.len + 8;
    const uint64_t begins[] = { s.len - 3 - (16 << 20) - 1, s.len - 3 - (16 << 20) - 2 }; /* the longest row with its newline, and one beyond */
    for (int i = 0; i < 2; i++) {
        REQUIRE(pwrite(fd, &begins[i], 8, second) == 8);
        CHECK_INT(mr_rows_open_cache(&r, fd, "x.parquet", &err), i ? MR_EDATA : MR_OK);
        mr_rows_close(r);
    }
    mr_str_clear(&s);
}

/* Any byte that is changed, and any length, is found. */
static void damaged_caches(void) {
    mr_err err = { "" };
    mr_rowcache_info info;
    write_cache("{\"a\": 1}\n{\"a\": \"two\"}\n{}\n", false);
    char whole[256];
    const ssize_t len = pread(fd, whole, sizeof whole, 0);
    REQUIRE(len == 25 + 3 * 8 + MR_ROWCACHE_TRAILER);
    for (ssize_t at = 0; at < len; at++) {
        whole[at] ^= 4;
        put(whole, (size_t)len);
        whole[at] ^= 4;
        CHECK_INT(mr_rowcache_check(&info, fd, "cache", &err), MR_EDATA);
        mr_rows *r = NULL; /* whoever reads it unchecked gets rows or an error */
        if (mr_rows_open_cache(&r, fd, "x.parquet", &err) == MR_OK) {
            for (int64_t i = 0; i < mr_rows_count(r); i++) {
                const char *text;
                size_t n;
                CHECK_INT(mr_rows_text(r, i, &text, &n, &err), MR_OK);
            }
        }
        mr_rows_close(r);
    }
    for (ssize_t n = 0; n < len; n++) {
        put(whole, (size_t)n);
        CHECK_INT(mr_rowcache_check(&info, fd, "cache", &err), MR_EDATA);
    }
}

TEST_MAIN({ "streams", streams }, { "damaged_streams", damaged_streams }, { "bombs", bombs }, { "caches", caches }, { "empty_row_first", empty_row_first }, { "caches_that_fail", caches_that_fail },
          { "damaged_caches", damaged_caches })
