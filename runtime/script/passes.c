/* passes.c - results of passes over many rows, kept in files beside the row caches: see pool_impl.h.
 *
 *     FOLDER/<hash of what the pass is>.pass    the SHA-256 of the rest in hex, a newline, the rest
 *
 * The two hundred thousand rows of a set take two seconds to be looked at; which of them are kept is known when nothing
 * that it depends on has changed. A file that cannot be written, read or believed costs these two seconds and nothing
 * else. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "script/import.h"
#include "script/pool_impl.h"

enum { MAX_FILES = 512, KEPT_MAX = 64, HASH = 64 };

static int by_hash(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void add_texts(mr_sha *sha, const mr_texts *t) {
    const char **hashes = mr_alloc(((size_t)t->n + 1) * sizeof *hashes);
    for (int i = 0; i < t->n; i++) hashes[i] = t->list[i]->pub.sha256;
    qsort(hashes, (size_t)t->n, sizeof *hashes, by_hash);
    for (int i = 0; i < t->n; i++) mr_sha_add(sha, hashes[i], HASH);
    mr_free(hashes);
}

static bool add_file(mr_sha *sha, mr_take *t) {
    char name[1024], *at = NULL;
    mr_take_string(t, name, sizeof name);
    const int fd = t->bad ? -1 : mr_pool_open_data(name, &at, NULL);
    const bool ok = fd >= 0 && mr_import_identify(sha, fd, at, NULL) == MR_OK;
    if (fd >= 0) close(fd);
    mr_free(at);
    return ok;
}

/* The path of the pass that a frame describes, owned; NULL: it has none. */
static char *pass_path(const mr_version *v, mr_take *t) {
    size_t len;
    const char *what = mr_take_bytes(t, &len);
    const uint32_t n = mr_take_u32(t);
    if (t->bad || n < 1 || n > MAX_FILES) return NULL;
    mr_sha *sha = mr_sha_new();
    struct stat program = { 0 };
    (void)!stat("/proc/self/exe", &program);
    char text[96];
    snprintf(text, sizeof text, "pass 1 %lld %lld.%09ld %zu", (long long)program.st_size,
             (long long)program.st_mtim.tv_sec, program.st_mtim.tv_nsec, len);
    mr_sha_add(sha, text, strlen(text) + 1);
    mr_sha_add(sha, what, len);
    add_texts(sha, &v->texts);
    bool ok = true;
    for (uint32_t i = 0; i < n && ok; i++) ok = add_file(sha, t);
    char hex[65];
    mr_sha_end(sha, hex);
    char *folder = mr_import_folder(), *path = ok ? mr_asprintf("%s/%.32s.pass", folder, hex) : NULL;
    mr_free(folder);
    return path;
}

void mr_pass_send(mr_version *v, mr_peer *peer, const mr_frame *f) {
    mr_take t = mr_take_frame(f);
    char *path = pass_path(v, &t), *data = NULL, hex[65];
    size_t len = 0;
    bool found = path && mr_file_read(&data, &len, path, MR_WIRE_MAX_BYTES / 2, NULL) == MR_OK && len > HASH;
    if (found) {
        mr_sha256(hex, data + HASH + 1, len - HASH - 1);
        found = memcmp(data, hex, HASH) == 0;
    }
    mr_str s = { 0 };
    mr_put_u8(&s, found);
    mr_put_bytes(&s, found ? data + HASH + 1 : "", found ? len - HASH - 1 : 0);
    if (!mr_wire_send(&peer->wire, MR_WIRE_PASS, s.data, s.len, -1)) peer->alive = false;
    mr_str_clear(&s);
    mr_free(data);
    mr_free(path);
}

/* The oldest goes when there are many. */
static void make_room(const char *folder) {
    DIR *d = opendir(folder);
    int n = 0;
    char oldest[256] = "";
    struct timespec since = { 0 };
    for (struct dirent *e; d && (e = readdir(d));) {
        struct stat s;
        if (!mr_ends_with(e->d_name, ".pass") || fstatat(dirfd(d), e->d_name, &s, AT_SYMLINK_NOFOLLOW) != 0) continue;
        if (n++ && (s.st_mtim.tv_sec > since.tv_sec ||
                    (s.st_mtim.tv_sec == since.tv_sec && s.st_mtim.tv_nsec >= since.tv_nsec)))
            continue;
        since = s.st_mtim;
        snprintf(oldest, sizeof oldest, "%s", e->d_name);
    }
    if (n > KEPT_MAX) unlinkat(dirfd(d), oldest, 0);
    if (d) closedir(d);
}

bool mr_pass_keep(mr_version *v, const mr_frame *f) {
    mr_take t = mr_take_frame(f);
    char *path = pass_path(v, &t), hex[65];
    if (!path) return !t.bad; /* a file is gone by now */
    size_t len;
    const char *result = mr_take_bytes(&t, &len);
    mr_err err = { "" };
    char *folder = mr_path_dir(path);
    if (!t.bad && mr_mkdirs(folder, &err) == MR_OK) {
        mr_str s = { 0 };
        mr_sha256(hex, result, len);
        mr_str_printf(&s, "%s\n", hex);
        mr_str_add(&s, result, len);
        if (mr_file_write(path, s.data, s.len, &err) == MR_OK) make_room(folder);
        mr_str_clear(&s);
    }
    if (err.msg[0]) mr_debug("passes: %s", err.msg);
    mr_free(folder);
    mr_free(path);
    return !t.bad;
}
