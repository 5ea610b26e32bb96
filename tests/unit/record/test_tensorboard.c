/* test_tensorboard.c - event files: the checksum against RFC 3720's vectors, and what was written as a reader of its own
 * finds it, also after a cut. */
#include <dirent.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "record/record_impl.h"
#include "test.h"

static void crc_by_the_rfc(void) {
    unsigned char data[32]; /* RFC 3720, B.4 */
    memset(data, 0, sizeof data);
    CHECK(mr_crc32c(data, 32) == 0x8a9136aau);
    memset(data, 0xff, sizeof data);
    CHECK(mr_crc32c(data, 32) == 0x62a8ab43u);
    for (int i = 0; i < 32; i++) data[i] = (unsigned char)i;
    CHECK(mr_crc32c(data, 32) == 0x46dd794eu);
    CHECK(mr_crc32c("123456789", 9) == 0xe3069283u);
}

typedef struct scalar {
    long long step;
    char tag[80];
    float value;
} scalar;

typedef struct seen {
    scalar items[256];
    int n, n_records, n_versions;
    bool bad;
} seen;

static uint64_t le(const unsigned char *p, int n) {
    uint64_t x = 0;
    for (int i = n - 1; i >= 0; i--) x = x << 8 | p[i];
    return x;
}

static bool checked(const unsigned char *p, size_t n, const unsigned char *crc) {
    const uint32_t x = mr_crc32c(p, n);
    return ((x >> 15 | x << 17) + 0xa282ead8u) == (uint32_t)le(crc, 4);
}

static uint64_t varint(const unsigned char **p) {
    uint64_t x = 0;
    for (int shift = 0;; shift += 7) {
        const unsigned char c = *(*p)++;
        x |= (uint64_t)(c & 0x7f) << shift;
        if (!(c & 0x80)) return x;
    }
}

static void read_value(seen *s, const unsigned char *p, const unsigned char *end, long long step) {
    scalar *x = &s->items[s->n++];
    x->step = step;
    while (p < end) {
        const uint64_t key = varint(&p);
        if (key == (1 << 3 | 2)) {
            const uint64_t len = varint(&p);
            snprintf(x->tag, sizeof x->tag, "%.*s", (int)len, (const char *)p);
            p += len;
        } else if (key == (2 << 3 | 5)) {
            const uint32_t bits = (uint32_t)le(p, 4);
            memcpy(&x->value, &bits, 4);
            p += 4;
        } else {
            s->bad = true;
            return;
        }
    }
}

static void read_event(seen *s, const unsigned char *p, const unsigned char *end) {
    long long step = 0;
    s->n_records++;
    while (p < end) {
        const uint64_t key = varint(&p);
        if (key == (1 << 3 | 1)) {
            p += 8;
        } else if (key == (2 << 3 | 0)) {
            step = (long long)varint(&p);
        } else if (key == (3 << 3 | 2)) {
            const uint64_t len = varint(&p);
            s->n_versions += len == 13 && !memcmp(p, "brain.Event:2", 13);
            p += len;
        } else if (key == (5 << 3 | 2)) {
            const uint64_t len = varint(&p);
            const unsigned char *stop = p + len;
            while (p < stop) {
                if (varint(&p) != (1 << 3 | 2)) s->bad = true;
                const uint64_t n = varint(&p);
                read_value(s, p, p + n, step);
                p += n;
            }
        } else {
            s->bad = true;
            return;
        }
    }
}

static void read_file(seen *s, const char *path) {
    char *data;
    size_t len, at = 0;
    mr_err err;
    *s = (seen){ 0 };
    CHECK(mr_file_read(&data, &len, path, 1 << 20, &err) == MR_OK);
    const unsigned char *p = (const unsigned char *)data;
    while (at < len) {
        const uint64_t n = le(p + at, 8);
        if (len - at < 16 || n > len - at - 16 || !checked(p + at, 8, p + at + 8) ||
            !checked(p + at + 12, n, p + at + 12 + n)) {
            s->bad = true;
            break;
        }
        read_event(s, p + at + 12, p + at + 12 + n);
        at += 12 + n + 4;
    }
    mr_free(data);
}

static void add(mr_record_file *f, int64_t step) {
    mr_err err;
    const mr_metric m[] = { { "reward", (double)step / 2 },
                            { "rewards/xmlcount/mean", 0.25 },
                            { "kl", (double)NAN },
                            { "eval/accuracy", 0.5 } };
    CHECK(mr_events_add(f, step, m, 4, &err) == MR_OK);
}

static void close_it(mr_record_file *f) {
    close(f->fd);
    mr_free(f->path);
    *f = (mr_record_file){ .fd = -1 };
}

static void written_and_cut(void) {
    char dir[] = "/tmp/medrl-test-XXXXXX";
    mr_err err;
    mr_record_file f = { .fd = -1 };
    static seen s;
    CHECK(mkdtemp(dir) != NULL);
    CHECK(mr_events_add(&f, 1, NULL, 0, &err) == MR_OK); /* not open: nothing */
    CHECK(mr_events_open(&f, dir, &err) == MR_OK);
    CHECK_CONTAINS(f.path, "/tensorboard/events.out.tfevents.");
    for (int64_t step = 1; step <= 300; step += step == 3 ? 297 : 1)
        add(&f, step); /* 1, 2, 3, 300: two bytes of step */
    read_file(&s, f.path);
    CHECK(!s.bad && s.n_versions == 1);
    CHECK_INT(s.n_records, 5);
    CHECK_INT(s.n, 12); /* NaN is left out */
    CHECK_STR(s.items[0].tag, "train/reward");
    CHECK_STR(s.items[1].tag, "train/rewards/xmlcount/mean");
    CHECK_STR(s.items[2].tag, "eval/accuracy");
    CHECK_INT(s.items[9].step, 300);
    CHECK_NEAR(s.items[9].value, 150, 0);
    char *path = mr_strdup(f.path);
    close_it(&f);

    /* half a record, as a kill leaves it; then the run goes on from step 2 */
    FILE *half = fopen(path, "ab");
    CHECK(half && fwrite("\x20\0\0\0\0\0\0\0half", 1, 12, half) == 12);
    if (half) fclose(half);
    CHECK(mr_events_open(&f, dir, &err) == MR_OK);
    CHECK_STR(f.path, path);
    CHECK(mr_events_cut(&f, 2, &err) == MR_OK);
    add(&f, 3);
    read_file(&s, f.path);
    CHECK(!s.bad && s.n_versions == 1);
    CHECK_INT(s.n, 9);
    for (int i = 0; i < 9; i++) CHECK_INT(s.items[i].step, 1 + i / 3); /* each step once */
    CHECK(mr_events_cut(&f, 0, &err) == MR_OK);
    read_file(&s, f.path);
    CHECK(s.n == 0 && s.n_versions == 1);
    close_it(&f);
    mr_free(path);
    CHECK(mr_remove_tree(dir, &err) == MR_OK);
}

TEST_MAIN({ "crc_by_the_rfc", crc_by_the_rfc }, { "written_and_cut", written_and_cut })
