/* import.c - both sides of the process that reads packed files, and where the caches lie: see import.h. */
#include "script/import.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/log.h"
#include "base/proc.h"
#include "base/watch.h"
#include "files/parquet.h"
#include "files/rowcache.h"
#include "script/sandbox.h"

enum {
    SOCKET_FD = 3,
    SEND_BYTES = 256 << 10,
    FRAME_MAX = 17 << 20, /* one row of 16 MiB fits */
    END_BYTES = 64 << 10, /* of the file that are hashed at each end */
    PREFIX = 16,          /* of a cache's name: which file; the rest: in which state */
    OLD_TEMPORARY_S = 86400
};

/* ---- the child ---- */

typedef struct outlet {
    mr_wire *wire;
    mr_str buffer;
} outlet;

static void put_out(outlet *o) {
    if (o->buffer.len == 0) return;
    if (!mr_wire_send(o->wire, MR_WIRE_BYTES, o->buffer.data, o->buffer.len, -1)) _exit(0);
    o->buffer.len = 0;
}

static mr_status send_text(void *self, const char *bytes, size_t len, mr_err *err) {
    (void)err;
    outlet *o = self;
    mr_str_add(&o->buffer, bytes, len);
    if (o->buffer.len >= SEND_BYTES) put_out(o);
    return MR_OK;
}

static mr_status send_row(void *self, const char *json, size_t len, mr_err *err) {
    (void)err;
    outlet *o = self;
    mr_str_add(&o->buffer, json, len);
    mr_str_add(&o->buffer, "\n", 1);
    if (o->buffer.len >= SEND_BYTES) put_out(o);
    return MR_OK;
}

void mr_import_child(mr_wire *wire, const mr_frame *f) {
    mr_take t = mr_take_frame(f);
    const mr_packing how = (mr_packing)mr_take_u8(&t);
    const size_t memory = (size_t)mr_take_i64(&t);
    char name[1024];
    mr_take_string(&t, name, sizeof name);
    const int fd = mr_wire_take_fd(wire);
    if (t.bad || fd < 0) _exit(70);
    mr_sandbox box;
    const mr_sandbox_opts o = { .socket_fd = SOCKET_FD, .memory_bytes = memory, .no_exec = true };
    mr_sandbox_enter(&box, &o);
    mr_str s = { 0 };
    mr_put_u8(&s, (unsigned)box.level);
    if (!mr_wire_send(wire, MR_WIRE_READY, s.data, s.len, -1)) _exit(0);
    outlet out = { .wire = wire };
    mr_err err = { .msg = "" };
    const mr_status st = how == MR_PACKED_PARQUET ? mr_parquet_read(fd, name, memory, send_row, &out, NULL, &err)
                                                  : mr_unpack(fd, name, how, send_text, &out, &err);
    s.len = 0;
    if (st == MR_OK) {
        put_out(&out);
    } else {
        mr_put_u32(&s, (uint32_t)st);
        mr_put_bytes(&s, err.msg, strlen(err.msg));
    }
    mr_wire_send(wire, st == MR_OK ? MR_WIRE_REPLY : MR_WIRE_ERROR, s.data, st == MR_OK ? 0 : s.len, -1);
    _exit(0);
}

/* ---- the parent: one reading ---- */

typedef struct reading {
    const char *name;
    int fd;
    int64_t size;
    mr_packing how;
    double deadline_s;
    size_t memory;
    int least;
    mr_proc proc;
    mr_wire wire;
    int level;
    mr_rowcache_writer *writer;
    bool disk; /* it ended because what came could not be written */
} reading;

static mr_status begin(reading *r, mr_err *err) {
    static const char *const argv[] = { "--worker", NULL };
    MR_TRY(mr_proc_spawn(&r->proc, argv, NULL, err));
    mr_wire_init(&r->wire, r->proc.fd);
    r->wire.limit = FRAME_MAX;
    r->wire.wait_ms = 10000;
    mr_str s = { 0 };
    mr_put_u8(&s, (unsigned)r->how);
    mr_put_i64(&s, (int64_t)r->memory);
    mr_put_bytes(&s, r->name, strlen(r->name));
    mr_wire_send(&r->wire, MR_WIRE_IMPORT, s.data, s.len, r->fd); /* a process that is gone shows in the first wait */
    mr_str_clear(&s);
    return MR_OK;
}

/* One frame. *done: the last one. MR_EAGAIN: it is none that may come here. */
static mr_status take(reading *r, const mr_frame *f, bool *done, mr_err *err) {
    mr_take t = mr_take_frame(f);
    if (f->type == MR_WIRE_READY && r->level == 0) {
        r->level = (int)mr_take_u8(&t);
        if (t.bad || r->level < 1 || r->level > 3) return MR_EAGAIN;
        if (r->level < r->least)
            return mr_fail(err, MR_EREFUSED,
                           "%s: the process that would read it reaches level %d of the sandbox, %d is required",
                           r->name, r->level, r->least);
        return MR_OK;
    }
    if (r->level == 0) return MR_EAGAIN;
    switch (f->type) {
    case MR_WIRE_BYTES:
        if (mr_rowcache_bytes(r->writer) + f->len > (uint64_t)mr_unpacked_max(r->size))
            return mr_fail(err, MR_EDATA,
                           "%s: becomes more than %" PRId64
                           " bytes of rows (100 times its size and 256 MiB), which no text "
                           "does; it is not read",
                           r->name, mr_unpacked_max(r->size));
        mr_status st = mr_rowcache_add(r->writer, f->data, f->len, err);
        r->disk = st == MR_EIO;
        return st == MR_EDATA ? MR_EAGAIN : st;
    case MR_WIRE_REPLY: *done = true; return MR_OK;
    case MR_WIRE_ERROR: {
        const mr_status said = (mr_status)(int32_t)mr_take_u32(&t);
        char text[1024];
        mr_take_string(&t, text, sizeof text);
        if (t.bad || !text[0]) return MR_EAGAIN;
        return mr_fail(err, said == MR_ENOMEM || said == MR_EIO ? said : MR_EDATA, "%s", text);
    }
    default: return MR_EAGAIN;
    }
}

/* How a process ended that did not say so itself; kills it. */
static mr_status ended(reading *r, bool lied, mr_err *err) {
    const bool dead = !lied && mr_proc_has_ended(&r->proc, 0.2);
    char how[96];
    mr_proc_describe(how, sizeof how, mr_proc_kill(&r->proc));
    return mr_fail(err, MR_EDATA, "%s: the process that read it %s%s; the file is damaged, or made to do harm", r->name,
                   dead ? "ended: " : "was stopped, it sent what is no answer", dead ? how : "");
}

static mr_status read_all(reading *r, mr_err *err) {
    double since = mr_now_s();
    const double until = since + 20 * r->deadline_s;
    for (bool done = false; !done;) {
        mr_frame f;
        const int got = mr_wire_next(&r->wire, &f);
        if (got < 0) return ended(r, true, err);
        if (got > 0) {
            const mr_status st = take(r, &f, &done, err);
            if (st == MR_EAGAIN) return ended(r, true, err);
            if (st != MR_OK) return st;
            mr_watch_beat();
            since = mr_now_s();
            continue;
        }
        struct pollfd pf = { .fd = r->wire.fd, .events = POLLIN };
        const double left = (since + r->deadline_s < until ? since + r->deadline_s : until) - mr_now_s();
        /* wait: deadline_s without an answer, a second at a time for the watchdog */
        const int n = poll(&pf, 1, left <= 0 ? 0 : left > 1 ? 1000 : (int)ceil(1000 * left));
        mr_watch_beat();
        if (n < 0 && errno != EINTR) return mr_fail_errno(err, "%s: waiting for its reader", r->name);
        if (n == 0 && left <= 0)
            return mr_fail(err, MR_EDATA,
                           "%s: the process that read it was stopped after %.3g s without an answer; the file is "
                           "damaged, or made to do harm",
                           r->name, mr_now_s() - since);
        if (n > 0 && !mr_wire_fill(&r->wire, false)) return ended(r, false, err);
    }
    return MR_OK;
}

/* Fills the file at `to`, which is empty. */
static mr_status read_into(reading *r, int to, const char *where, const uint8_t *key, mr_err *err) {
    r->disk = false;
    r->level = 0;
    MR_TRY(begin(r, err));
    r->writer = mr_rowcache_begin(to, where, r->how != MR_PACKED_PARQUET, key);
    mr_status st = read_all(r, err);
    mr_proc_kill(&r->proc);
    mr_wire_clear(&r->wire);
    if (st != MR_OK) {
        mr_rowcache_drop(r->writer);
        return st;
    }
    st = mr_rowcache_end(r->writer, err);
    r->disk = st == MR_EIO;
    return st;
}

/* ---- the caches ---- */

static uint8_t nibble(char c) {
    return (uint8_t)(c <= '9' ? c - '0' : c - 'a' + 10);
}

static mr_status read_end(mr_sha *sha, int fd, const char *name, int64_t from, char *buffer, mr_err *err) {
    ssize_t n;
    while ((n = pread(fd, buffer, END_BYTES, from)) < 0 && errno == EINTR) continue;
    if (n < 0) return mr_fail_errno(err, "%s", name);
    mr_sha_add(sha, buffer, (size_t)n);
    return MR_OK;
}

mr_status mr_import_identify(mr_sha *sha, int fd, const char *name, mr_err *err) {
    struct stat s;
    if (fstat(fd, &s) != 0) return mr_fail_errno(err, "%s", name);
    char text[128];
    snprintf(text, sizeof text, "%" PRId64 " %" PRIu64 " %" PRId64 ".%09ld", (int64_t)s.st_size, (uint64_t)s.st_ino,
             (int64_t)s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
    mr_sha_add(sha, text, strlen(text) + 1);
    char *buffer = mr_alloc(END_BYTES);
    mr_status st = read_end(sha, fd, name, 0, buffer, err);
    if (st == MR_OK && s.st_size > END_BYTES) st = read_end(sha, fd, name, s.st_size - END_BYTES, buffer, err);
    mr_free(buffer);
    return st;
}

/* What a cache is of: the file, as far as that can be told without reading all of it, and what read it. */
static mr_status identify(uint8_t key[MR_ROWCACHE_KEY], char hex[65], const reading *r, mr_err *err) {
    char text[64];
    snprintf(text, sizeof text, "%d %s", (int)r->how, r->how == MR_PACKED_PARQUET ? mr_parquet_version() : "");
    mr_sha *sha = mr_sha_new();
    mr_sha_add(sha, text, strlen(text) + 1);
    const mr_status st = mr_import_identify(sha, r->fd, r->name, err);
    mr_sha_end(sha, hex);
    for (int i = 0; i < MR_ROWCACHE_KEY; i++) key[i] = (uint8_t)(nibble(hex[2 * i]) << 4 | nibble(hex[2 * i + 1]));
    return st;
}

char *mr_import_folder(void) {
    const char *set = getenv("MEDRL_ROW_CACHE");
    return set && *set ? mr_strdup(set) : mr_path_join(mr_cache_dir(), "rows");
}

/* "FOLDER/<of which file>-<in which state>.rows"; owned. */
static char *cache_path(const char *folder, const char *name, const char *state) {
    char *whole = realpath(name, NULL), hex[65];
    mr_sha256(hex, whole ? whole : name, strlen(whole ? whole : name));
    free(whole);
    return mr_asprintf("%s/%.*s-%.32s.rows", folder, PREFIX, hex, state);
}

static bool open_cache(int *cache, const char *path, const uint8_t *key) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return false;
    mr_rowcache_info info;
    mr_err err;
    const mr_status st = mr_rowcache_check(&info, fd, path, &err);
    if (st == MR_OK && memcmp(info.key, key, sizeof info.key) == 0) {
        *cache = fd;
        return true;
    }
    close(fd);
    mr_warn("%s; it is made anew", st == MR_OK ? "the row cache is of another file" : err.msg);
    return false;
}

/* Caches of the same file in another state, and temporary files of programs that were killed. */
static void tidy(const char *folder, const char *kept) {
    const char *name = mr_path_name(kept);
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        struct stat s;
        const bool same = strncmp(e->d_name, name, PREFIX + 1) == 0 && strcmp(e->d_name, name) != 0;
        const bool left = strncmp(e->d_name, ".rows-", 6) == 0 &&
                          fstatat(dirfd(d), e->d_name, &s, AT_SYMLINK_NOFOLLOW) == 0 &&
                          time(NULL) - s.st_mtime > OLD_TEMPORARY_S;
        if (same || left) unlinkat(dirfd(d), e->d_name, 0);
    }
    if (d) closedir(d);
}

/* The same file for readers only. */
static mr_status read_only(int *cache, int fd, mr_err *err) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    *cache = open(link, O_RDONLY | O_CLOEXEC);
    return *cache < 0 ? mr_fail_errno(err, "%s", link) : MR_OK;
}

/* Into the folder, where it is found next time. */
static mr_status keep(int *cache, reading *r, const char *folder, const char *path, const uint8_t *key, mr_err *err) {
    mr_status st = mr_mkdirs(folder, err);
    if (st != MR_OK) {
        r->disk = true;
        return st;
    }
    char *temporary = mr_asprintf("%s/.rows-XXXXXX", folder);
    const int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0) {
        r->disk = true;
        st = mr_fail_errno(err, "%s", folder);
        mr_free(temporary);
        return st;
    }
    /* Not synced: after a power cut the hash tells a whole cache from another one, and making it anew is no loss. */
    st = read_into(r, fd, temporary, key, err);
    if (st == MR_OK && rename(temporary, path) != 0) {
        r->disk = true;
        st = mr_fail_errno(err, "%s", path);
    }
    if (st == MR_OK) st = read_only(cache, fd, err);
    if (st != MR_OK) unlink(temporary);
    if (st == MR_OK) tidy(folder, path);
    close(fd);
    mr_free(temporary);
    return st;
}

/* Into a file without a name: of this process, and gone with it. */
static mr_status hold(int *cache, reading *r, const uint8_t *key, bool in_memory, mr_err *err) {
    const char *folder = getenv("TMPDIR");
    if (!folder || !*folder) folder = "/tmp";
    const int fd =
        in_memory ? memfd_create("medrl-rows", MFD_CLOEXEC) : open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
        r->disk = true;
        return mr_fail_errno(err, "%s", in_memory ? "memory for rows" : folder);
    }
    mr_status st = read_into(r, fd, in_memory ? "memory for rows" : folder, key, err);
    if (st == MR_OK) st = read_only(cache, fd, err);
    close(fd);
    return st;
}

static mr_status make(int *cache, reading *r, const char *folder, const char *path, const uint8_t *key, mr_err *err) {
    const double began = mr_now_s();
    mr_status st = keep(cache, r, folder, path, key, err);
    if (st == MR_OK) {
        const double took = mr_now_s() - began;
        if (took > 2) mr_info("%s: read in %.1f s; the next start finds its rows in %s", r->name, took, folder);
        return MR_OK;
    }
    if (!r->disk) return st;
    mr_warn("row cache: %s; %s is read anew at each start (MEDRL_ROW_CACHE names another folder)",
            err ? err->msg : "it cannot be written", r->name);
    st = hold(cache, r, key, false, err);
    return st != MR_OK && r->disk ? hold(cache, r, key, true, err) : st;
}

mr_status mr_import_kind(mr_packing *how, int fd, const char *name, mr_err *err) {
    char first[4] = { 0 };
    ssize_t n;
    while ((n = pread(fd, first, sizeof first, 0)) < 0 && errno == EINTR) continue;
    if (n < 0) return mr_fail_errno(err, "%s", name);
    *how = mr_packing_of(first, (size_t)n);
    const mr_packing want = mr_packing_named(name);
    if (want != MR_PACKED_NOT && want != *how)
        return mr_fail(err, MR_EDATA, "%s: is %s, want %s as its name says; %s", name,
                       n == 0                  ? "empty"
                       : *how == MR_PACKED_NOT ? "something else"
                                               : mr_packing_name(*how),
                       mr_packing_name(want), n == 0 ? "fetch it again" : "rename it, or fetch it again");
    return MR_OK;
}

mr_status mr_import_open(int *cache, int fd, const char *name, mr_packing how, const mr_import_opts *opts,
                         mr_err *err) {
    *cache = -1;
    mr_err own;
    if (!err) err = &own;
    if (how == MR_PACKED_PARQUET && !mr_parquet_version()) return mr_parquet_read(fd, name, 0, NULL, NULL, NULL, err);
    struct stat s;
    if (fstat(fd, &s) != 0) return mr_fail_errno(err, "%s", name);
    const size_t half = mr_memory_bytes() / 2, most = (size_t)2 << 30;
    reading r = { .name = name,
                  .fd = fd,
                  .size = (int64_t)s.st_size,
                  .how = how,
                  .deadline_s = opts && opts->deadline_s > 0 ? opts->deadline_s : 60 + (double)s.st_size / 20e6,
                  .memory = opts && opts->memory_bytes ? opts->memory_bytes
                            : half && half < most      ? half
                                                       : most,
                  .least = opts ? opts->require_sandbox : 0 };
    uint8_t key[MR_ROWCACHE_KEY];
    char state[65];
    MR_TRY(identify(key, state, &r, err));
    char *folder = mr_import_folder(), *path = cache_path(folder, name, state);
    const mr_status st = open_cache(cache, path, key) ? MR_OK : make(cache, &r, folder, path, key, err);
    mr_free(path);
    mr_free(folder);
    return st;
}
