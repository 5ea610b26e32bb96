/* cache.c - the folders of the cache: entered one by one without following a link, read and written by descriptor. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hub/blob.h"
#include "hub/hub_impl.h"

char *hub_folder(const mr_hub_name *name) {
    const char *slash = strchr(name->repo, '/');
    return mr_asprintf("%s--%.*s--%s", name->dataset ? "datasets" : "models", (int)(slash - name->repo), name->repo,
                       slash + 1);
}

/* ---- folders ---- */

static mr_status fail_disk(mr_err *err, const char *folder, const char *name) {
    if (errno == ELOOP || errno == ENOTDIR)
        return mr_fail(err, MR_EREFUSED, "%s/%s: is a link or a file where a folder was expected; somebody put it there: "
                                         "remove it and call this again", folder, name);
    mr_fail_errno(err, "%s/%s", folder, name);
    return MR_EIO;
}

/* A folder below `at`, made when it is not there. */
static int enter(int at, const char *name, bool create) {
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 || errno != ENOENT || !create) return fd;
    if (mkdirat(at, name, 0755) != 0 && errno != EEXIST) return -1;
    return openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* The folder of the file `path` below `at`, and the file's name in it. */
static int walk(int at, const char *path, bool create, const char **name) {
    int fd = fcntl(at, F_DUPFD_CLOEXEC, 3);
    *name = path;
    for (const char *slash; fd >= 0 && (slash = strchr(*name, '/')); *name = slash + 1) {
        char part[256];
        snprintf(part, sizeof part, "%.*s", (int)(slash - *name), *name);
        int next = enter(fd, part, create), code = errno;
        close(fd);
        fd = next;
        errno = code;
    }
    return fd;
}

static mr_status enter_into(int *fd, int at, const char *folder, const char *name, mr_err *err) {
    *fd = enter(at, name, true);
    return *fd >= 0 ? MR_OK : fail_disk(err, folder, name);
}

mr_status hub_cache_open(hub_cache *c, const hub *h, mr_err *err) {
    *c = (hub_cache){ .repo = -1, .blobs = -1, .snapshot = -1, .locks = -1, .root = mr_strdup(h->setup.root) };
    c->folder = hub_folder(&h->name);
    int root = -1, locks = -1, snapshots = -1;
    mr_status st = mr_mkdirs(c->root, err);
    if (st == MR_OK && (root = open(c->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0) {
        mr_fail_errno(err, "%s", c->root);
        st = MR_EIO;
    }
    char *where = mr_path_join(c->root, c->folder);
    if (st == MR_OK) st = enter_into(&locks, root, c->root, ".locks", err);
    if (st == MR_OK) st = enter_into(&c->locks, locks, c->root, c->folder, err);
    if (st == MR_OK) st = enter_into(&c->repo, root, c->root, c->folder, err);
    if (st == MR_OK) st = enter_into(&c->blobs, c->repo, where, "blobs", err);
    if (st == MR_OK) st = enter_into(&snapshots, c->repo, where, "snapshots", err);
    if (st == MR_OK) st = enter_into(&c->snapshot, snapshots, where, h->commit, err);
    mr_free(where);
    if (root >= 0) close(root);
    if (locks >= 0) close(locks);
    if (snapshots >= 0) close(snapshots);
    if (st != MR_OK) hub_cache_close(c);
    return st;
}

void hub_cache_close(hub_cache *c) {
    int *all[] = { &c->repo, &c->blobs, &c->snapshot, &c->locks };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (*all[i] >= 0) close(*all[i]);
        *all[i] = -1;
    }
    mr_free(c->root);
    mr_free(c->folder);
    c->root = c->folder = NULL;
}

/* ---- what is there ---- */

/* Newer Python tools keep one copy of a blob for all repositories, in ROOT/blobs: a link that stays below ROOT is fine. */
static bool shared_blob(const hub_cache *c, const hub_entry *e, struct stat *info) {
    char root[PATH_MAX], at[PATH_MAX];
    char *link = mr_asprintf("%s/%s/blobs/%s", c->root, c->folder, e->hash);
    bool ok = realpath(c->root, root) && realpath(link, at);
    mr_free(link);
    size_t n = ok ? strlen(root) : 0;
    return ok && strncmp(at, root, n) == 0 && at[n] == '/' && stat(at, info) == 0 && S_ISREG(info->st_mode);
}

static bool has_blob(const hub_cache *c, const hub_entry *e) {
    struct stat info;
    if (fstatat(c->blobs, e->hash, &info, AT_SYMLINK_NOFOLLOW) != 0) return false;
    if (S_ISLNK(info.st_mode) && !shared_blob(c, e, &info)) return false;
    return S_ISREG(info.st_mode) && info.st_size == e->size;
}

mr_status hub_cache_has(bool *has, const hub_cache *c, const hub_entry *e, mr_err *err) {
    *has = has_blob(c, e);
    if (*has) return hub_cache_link(c, e, err);
    const char *name;
    struct stat info; /* a plain file, where the Python tools could make no links */
    int dir = walk(c->snapshot, e->path, false, &name);
    if (dir < 0) return MR_OK;
    *has = fstatat(dir, name, &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(info.st_mode) && info.st_size == e->size;
    close(dir);
    return MR_OK;
}

mr_status hub_cache_verify(bool *good, const hub_cache *c, const hub_entry *e, mr_err *err) {
    *good = false;
    const char *name;
    int dir = walk(c->snapshot, e->path, false, &name);
    if (dir < 0) return MR_OK;
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC); /* through the link that hub_cache_has has seen to */
    close(dir);
    if (fd < 0) return MR_OK;
    mr_status st = hub_hash_file(good, fd, e, c->folder, err);
    close(fd);
    return st;
}

void hub_cache_remove(const hub_cache *c, const hub_entry *e) {
    const char *name;
    int dir = walk(c->snapshot, e->path, false, &name);
    if (dir >= 0) {
        unlinkat(dir, name, 0);
        close(dir);
    }
    unlinkat(c->blobs, e->hash, 0);
}

int64_t hub_cache_part_bytes(const hub_cache *c, const hub_entry *e) {
    char name[MR_HUB_HASH_MAX + 8];
    struct stat info;
    snprintf(name, sizeof name, "%s.medrl", e->hash);
    return fstatat(c->blobs, name, &info, AT_SYMLINK_NOFOLLOW) == 0 ? (int64_t)info.st_blocks * 512 : 0;
}

/* ---- what is made ---- */

static void temp_name(char out[64]) {
    static atomic_uint counter;
    snprintf(out, 64, ".medrl-%ld-%u", (long)getpid(), atomic_fetch_add(&counter, 1));
}

/* A relative link to the blob; where the file system has no links, a second name of it. */
static int make_link(const hub_cache *c, int dir, const char *name, const char *target, const char *hash) {
    char temp[64];
    const char *off = getenv("HF_HUB_DISABLE_SYMLINKS");
    temp_name(temp);
    bool plain = (off && *off && strcmp(off, "0") != 0) ||
                 (symlinkat(target, dir, temp) != 0 && (errno == EPERM || errno == EOPNOTSUPP || errno == ENOSYS));
    if (plain && linkat(c->blobs, hash, dir, temp, 0) != 0) return -1;
    if (renameat(dir, temp, dir, name) == 0) return 0;
    int code = errno;
    unlinkat(dir, temp, 0);
    errno = code;
    return -1;
}

mr_status hub_cache_link(const hub_cache *c, const hub_entry *e, mr_err *err) {
    const char *name;
    int dir = walk(c->snapshot, e->path, true, &name);
    if (dir < 0) return fail_disk(err, c->folder, e->path);
    mr_str target = { 0 };
    mr_str_puts(&target, "../../");
    for (const char *p = e->path; (p = strchr(p, '/')); p++) mr_str_puts(&target, "../");
    mr_str_printf(&target, "blobs/%s", e->hash);
    char now[512];
    ssize_t n = readlinkat(dir, name, now, sizeof now - 1);
    struct stat info;
    bool same = n > 0 && (size_t)n == target.len && memcmp(now, target.data, target.len) == 0;
    /* a plain file of this size is what Python tools leave where links are off */
    if (n < 0 && fstatat(dir, name, &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(info.st_mode) && info.st_size == e->size)
        same = true;
    mr_status st = MR_OK;
    if (!same && make_link(c, dir, name, target.data, e->hash) != 0) st = fail_disk(err, c->folder, e->path);
    mr_str_clear(&target);
    close(dir);
    return st;
}

mr_status hub_cache_ref(const hub_cache *c, const char *revision, const char *commit, mr_err *err) {
    if (strcmp(revision, commit) == 0) return MR_OK;
    char *path = mr_asprintf("refs/%s", revision), temp[64];
    const char *name;
    int dir = walk(c->repo, path, true, &name), fd = -1;
    temp_name(temp);
    bool ok = dir >= 0 && fsync(c->snapshot) == 0 &&
              (fd = openat(dir, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644)) >= 0 &&
              write(fd, commit, 40) == 40 && fsync(fd) == 0 && renameat(dir, temp, dir, name) == 0 && fsync(dir) == 0;
    mr_status st = ok ? MR_OK : fail_disk(err, c->folder, path);
    if (fd >= 0) close(fd);
    if (dir >= 0) {
        if (!ok) unlinkat(dir, temp, 0);
        close(dir);
    }
    mr_free(path);
    return st;
}

mr_status hub_cache_lock(int *fd, const hub_cache *c, const hub_entry *e, mr_err *err) {
    char name[MR_HUB_HASH_MAX + 8];
    snprintf(name, sizeof name, "%s.lock", e->hash);
    for (int tries = 0; tries < 100; tries++) {
        *fd = openat(c->locks, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
        if (*fd < 0) return fail_disk(err, ".locks", name);
        struct stat mine, there;
        if (flock(*fd, LOCK_EX | LOCK_NB) != 0) {
            int code = errno;
            close(*fd);
            *fd = -1;
            errno = code;
            return code == EWOULDBLOCK ? MR_OK : fail_disk(err, ".locks", name);
        }
        /* the name may have been removed and made again between the two calls */
        if (fstat(*fd, &mine) == 0 && fstatat(c->locks, name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
            mine.st_ino == there.st_ino)
            return MR_OK;
        close(*fd);
    }
    *fd = -1;
    return MR_OK;
}
