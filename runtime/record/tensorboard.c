/* tensorboard.c - the metrics once more, as the event files that TensorBoard and its relatives read.
 *
 * A file is a row of records: length (u64), its masked CRC-32C, the bytes, theirs; all little-endian (TensorFlow,
 * tensorflow/core/lib/io/record_writer.cc). The bytes are one Event message of protocol buffers (event.proto,
 * summary.proto): wall_time = 1 (double), step = 2 (varint), file_version = 3 (string), summary = 5 { value = 1
 * { tag = 1 (string), simple_value = 2 (float) } }.
 * Names are those that transformers' callback gives to TRL's: "train/reward" for "reward", "eval/accuracy" as it is.
 * A run that goes on cuts the file back to the step it goes on from, as it does with metrics.jsonl, and appends. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/log.h"
#include "base/proc.h"
#include "record/record_impl.h"

enum { MAX_EVENTS = 1 << 30, HEAD = 12, TAIL = 4 };

/* ---- records ---- */

static uint32_t crc_table[256];

static void make_table(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t x = i;
        for (int k = 0; k < 8; k++) x = x & 1 ? x >> 1 ^ 0x82f63b78u : x >> 1; /* Castagnoli, reflected */
        crc_table[i] = x;
    }
}

uint32_t mr_crc32c(const void *data, size_t len) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_table);
    const unsigned char *p = data;
    uint32_t x = 0xffffffffu;
    for (size_t i = 0; i < len; i++) x = x >> 8 ^ crc_table[(x ^ p[i]) & 0xff];
    return ~x;
}

static uint32_t masked(const void *data, size_t len) {
    const uint32_t x = mr_crc32c(data, len);
    return (x >> 15 | x << 17) + 0xa282ead8u;
}

static void put_le(mr_str *s, uint64_t x, int bytes) {
    for (int i = 0; i < bytes; i++) {
        const char c = (char)(x >> (8 * i) & 0xff);
        mr_str_add(s, &c, 1);
    }
}

static uint64_t get_le(const unsigned char *p, int bytes) {
    uint64_t x = 0;
    for (int i = 0; i < bytes; i++) x |= (uint64_t)p[i] << (8 * i);
    return x;
}

static void put_varint(mr_str *s, uint64_t x) {
    for (; x >= 0x80; x >>= 7) put_le(s, (x & 0x7f) | 0x80, 1);
    put_le(s, x, 1);
}

/* A field of bytes: string or message. */
static void put_bytes(mr_str *s, int field, const char *data, size_t len) {
    put_varint(s, (uint64_t)field << 3 | 2);
    put_varint(s, len);
    mr_str_add(s, data, len);
}

static void begin_event(mr_str *s, int64_t step) {
    const double now = mr_wall_s();
    uint64_t bits;
    memcpy(&bits, &now, sizeof bits);
    put_varint(s, 1 << 3 | 1);
    put_le(s, bits, 8);
    put_varint(s, 2 << 3 | 0);
    put_varint(s, (uint64_t)step);
}

static void put_scalar(mr_str *summary, const char *tag, double x) {
    mr_str value = { 0 };
    const float single = (float)x;
    uint32_t bits;
    memcpy(&bits, &single, sizeof bits);
    put_bytes(&value, 1, tag, strlen(tag));
    put_varint(&value, 2 << 3 | 5);
    put_le(&value, bits, 4);
    put_bytes(summary, 1, value.data, value.len);
    mr_str_clear(&value);
}

/* One write a record; what failed is cut away again. */
static mr_status put_record(mr_record_file *f, const mr_str *event, mr_err *err) {
    mr_str s = { 0 };
    put_le(&s, event->len, 8);
    put_le(&s, masked(s.data, 8), 4);
    mr_str_add(&s, event->data, event->len);
    put_le(&s, masked(event->data, event->len), 4);
    mr_status st = mr_write_all(f->fd, s.data, s.len, f->path, err);
    if (st == MR_OK)
        f->bytes += (int64_t)s.len;
    else if (ftruncate(f->fd, (off_t)f->bytes))
        mr_warn("%s: ends in half a record", f->path);
    mr_str_clear(&s);
    return st;
}

/* ---- the file ---- */

static int is_event_file(const struct dirent *e) {
    return strncmp(e->d_name, "events.out.tfevents.", 20) == 0;
}

/* The newest of the folder, or a name for a new one: time, machine and process, as others call theirs. */
static char *name_in(const char *dir) {
    struct dirent **list = NULL;
    const int n = scandir(dir, &list, is_event_file, alphasort);
    char host[64] = "localhost", *name;
    gethostname(host, sizeof host - 1);
    for (char *p = host; *p; p++)
        if (*p == '/') *p = '_';
    name = n > 0 ? mr_strdup(list[n - 1]->d_name)
                 : mr_asprintf("events.out.tfevents.%.0f.%s.%ld.0", mr_wall_s(), host, (long)getpid());
    for (int i = 0; i < n; i++) free(list[i]);
    free(list);
    return name;
}

mr_status mr_events_open(mr_record_file *f, const char *run_dir, mr_err *err) {
    char *dir = mr_path_join(run_dir, "tensorboard");
    mr_status st = mr_mkdirs(dir, err);
    char *name = name_in(dir);
    f->path = mr_path_join(dir, name);
    mr_free(name);
    mr_free(dir);
    MR_TRY(st);
    struct stat info;
    f->fd = open(f->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (f->fd < 0 || fstat(f->fd, &info)) {
        mr_fail_errno(err, "%s: could not be opened for writing", f->path);
        return MR_EIO;
    }
    f->bytes = (int64_t)info.st_size;
    if (f->bytes) return MR_OK;
    mr_str event = { 0 };
    const double now = mr_wall_s();
    uint64_t bits;
    memcpy(&bits, &now, sizeof bits);
    put_varint(&event, 1 << 3 | 1);
    put_le(&event, bits, 8);
    put_bytes(&event, 3, "brain.Event:2", 13);
    st = put_record(f, &event, err);
    mr_str_clear(&event);
    return st;
}

/* The step of an Event of ours: its second field; 0 without one. */
static int64_t step_of(const unsigned char *p, size_t len) {
    if (len < 11 || p[0] != (1 << 3 | 1) || p[9] != (2 << 3 | 0)) return 0;
    uint64_t x = 0;
    for (size_t i = 10, shift = 0; i < len && shift < 64; i++, shift += 7) {
        x |= (uint64_t)(p[i] & 0x7f) << shift;
        if (!(p[i] & 0x80)) break;
    }
    return (int64_t)x;
}

/* Bytes of the whole records up to a step, from the start. */
static size_t keep_of(const unsigned char *p, size_t len, int64_t last_step) {
    size_t at = 0;
    while (len - at >= HEAD + TAIL) {
        const uint64_t n = get_le(p + at, 8);
        if (get_le(p + at + 8, 4) != masked(p + at, 8) || n > len - at - HEAD - TAIL) break;
        if (get_le(p + at + HEAD + n, 4) != masked(p + at + HEAD, n) || step_of(p + at + HEAD, n) > last_step) break;
        at += HEAD + n + TAIL;
    }
    return at;
}

mr_status mr_events_cut(mr_record_file *f, int64_t last_step, mr_err *err) {
    if (f->fd < 0) return MR_OK;
    char *data;
    size_t len;
    MR_TRY(mr_file_read(&data, &len, f->path, MAX_EVENTS, err));
    const size_t keep = keep_of((const unsigned char *)data, len, last_step);
    mr_free(data);
    if (keep < len && ftruncate(f->fd, (off_t)keep)) {
        mr_fail_errno(err, "%s: could not be cut", f->path);
        return MR_EIO;
    }
    f->bytes = (int64_t)keep;
    return MR_OK;
}

mr_status mr_events_add(mr_record_file *f, int64_t step, const mr_metric *m, int n, mr_err *err) {
    if (f->fd < 0) return MR_OK;
    mr_str event = { 0 }, summary = { 0 };
    begin_event(&event, step);
    for (int i = 0; i < n; i++) {
        char tag[80];
        if (isnan(m[i].value)) continue;
        snprintf(tag, sizeof tag, "%s%s", strncmp(m[i].name, "eval/", 5) ? "train/" : "", m[i].name);
        put_scalar(&summary, tag, m[i].value);
    }
    put_bytes(&event, 5, summary.data ? summary.data : "", summary.len);
    mr_status st = put_record(f, &event, err);
    mr_str_clear(&summary);
    mr_str_clear(&event);
    return st;
}
