/* fsafe.c - whole files, mappings, paths, locks. The steps of a safe write are in fsafe.h. */
#include "base/fsafe.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/watch.h"

/* ---- reading ---- */

mr_status mr_file_read(char **data, size_t *len, const char *path, size_t max_bytes, mr_err *err) {
    *data = NULL;
    *len = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return mr_fail_errno(err, "%s", path);
    struct stat info;
    mr_status st = MR_OK;
    mr_str s = { 0 };
    if (fstat(fd, &info) != 0)
        st = mr_fail_errno(err, "%s", path);
    else if (S_ISDIR(info.st_mode))
        st = mr_fail(err, MR_EINVAL, "%s: is a folder, want a file", path);
    /* The size is only a hint: a pipe has none and a file may grow meanwhile. */
    size_t chunk =
        st == MR_OK && info.st_size > 0 && (size_t)info.st_size <= max_bytes ? (size_t)info.st_size + 1 : 65536;
    char *buf = st == MR_OK ? mr_try_alloc(chunk) : NULL;
    if (st == MR_OK && !buf) st = mr_fail(err, MR_ENOMEM, "%s: no memory for %zu bytes", path, chunk);
    while (st == MR_OK) {
        ssize_t n = read(fd, buf, chunk);
        if (n == 0) break;
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            st = mr_fail_errno(err, "%s", path);
        else if ((size_t)n > max_bytes - s.len)
            st =
                mr_fail(err, MR_EDATA, "%s: is larger than %zu bytes, the most that medrl reads here", path, max_bytes);
        else
            mr_str_add(&s, buf, (size_t)n);
    }
    mr_free(buf);
    close(fd);
    if (st == MR_OK) {
        *len = s.len;
        *data = mr_str_steal(&s);
    }
    mr_str_clear(&s);
    return st;
}

mr_status mr_map_open(mr_map *m, const char *path, mr_err *err) {
    static const uint8_t nothing[1];
    *m = (mr_map){ 0 };
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return mr_fail_errno(err, "%s", path);
    struct stat info;
    mr_status st = MR_OK;
    if (fstat(fd, &info) != 0)
        st = mr_fail_errno(err, "%s", path);
    else if (!S_ISREG(info.st_mode))
        st = mr_fail(err, MR_EINVAL, "%s: is no ordinary file", path);
    else if (info.st_size == 0)
        m->data = nothing;
    else {
        void *p = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            st = mr_fail_errno(err, "%s", path);
        else
            *m = (mr_map){ p, (size_t)info.st_size };
    }
    close(fd);
    return st;
}

void mr_map_drop(const mr_map *m, size_t from, size_t len) {
    if (m->len == 0 || from >= m->len) return;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), end = len > m->len - from ? m->len : from + len;
    from = (from + page - 1) / page * page; /* only whole pages, which nobody else's tensor shares */
    end = end == m->len ? end : end / page * page;
    if (from < end) madvise((void *)(uintptr_t)(m->data + from), end - from, MADV_DONTNEED);
}

void mr_map_close(mr_map *m) {
    if (m->len) munmap((void *)(uintptr_t)m->data, m->len);
    *m = (mr_map){ 0 };
}

/* ---- writing ---- */

mr_status mr_write_all(int fd, const void *data, size_t len, const char *path, mr_err *err) {
    const char *p = data;
    while (len > 0) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            mr_fail_errno(err, "%s: could not be written", path);
            return MR_EIO;
        }
        p += n;
        len -= (size_t)n;
        mr_watch_beat();
    }
    return MR_OK;
}

static mr_status sync_path(const char *path, int flags, mr_err *err) {
    int fd = open(path, flags | O_RDONLY | O_CLOEXEC);
    if (fd < 0) return mr_fail_errno(err, "%s", path);
    mr_status st = MR_OK;
    /* EINVAL: a file system that cannot sync folders has nothing to sync */
    if (fsync(fd) != 0 && errno != EINVAL) {
        mr_fail_errno(err, "%s: fsync", path);
        st = MR_EIO;
    }
    close(fd);
    return st;
}

static mr_status sync_parent(const char *path, mr_err *err) {
    char *dir = mr_path_dir(path);
    mr_status st = sync_path(dir, O_DIRECTORY, err);
    mr_free(dir);
    return st;
}

mr_status mr_file_write(const char *path, const void *data, size_t len, mr_err *err) {
    char *tmp = mr_asprintf("%s.tmp-XXXXXX", path);
    int fd = mkostemp(tmp, O_CLOEXEC);
    if (fd < 0) {
        mr_status st = mr_fail_errno(err, "%s: could not be written", path);
        mr_free(tmp);
        return st == MR_ENOMEM ? st : MR_EIO;
    }
    mr_status st = mr_write_all(fd, data, len, path, err);
    if (st == MR_OK && (fchmod(fd, 0644) != 0 || fsync(fd) != 0)) {
        mr_fail_errno(err, "%s: could not be written", path);
        st = MR_EIO;
    }
    if (close(fd) != 0 && st == MR_OK) {
        mr_fail_errno(err, "%s: could not be written", path);
        st = MR_EIO;
    }
    if (st == MR_OK && rename(tmp, path) != 0) {
        mr_fail_errno(err, "%s: could not be replaced", path);
        st = MR_EIO;
    }
    if (st != MR_OK)
        unlink(tmp);
    else
        st = sync_parent(path, err);
    mr_free(tmp);
    return st;
}

/* ---- paths ---- */

bool mr_path_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0;
}

bool mr_path_is_dir(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

char *mr_path_join(const char *a, const char *b) {
    if (b[0] == '/' || a[0] == '\0') return mr_strdup(b);
    return mr_asprintf("%s%s%s", a, a[strlen(a) - 1] == '/' ? "" : "/", b);
}

bool mr_ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && memcmp(text + n - m, end, m) == 0;
}

const char *mr_path_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

char *mr_path_dir(const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash) return mr_strdup(".");
    return slash == path ? mr_strdup("/") : mr_strndup(path, (size_t)(slash - path));
}

mr_status mr_mkdirs(const char *path, mr_err *err) {
    char *copy = mr_strdup(path);
    mr_status st = MR_OK;
    for (char *p = copy + 1; copy[0] && st == MR_OK; p++) {
        if (*p != '/' && *p != '\0') continue;
        char end = *p;
        *p = '\0';
        if (mkdir(copy, 0755) != 0 && !(errno == EEXIST && mr_path_is_dir(copy))) {
            mr_fail_errno(err, "%s: folder could not be made", copy);
            st = MR_EIO;
        }
        *p = end;
        if (end == '\0') break;
    }
    mr_free(copy);
    return st;
}

/* The next name in a folder, but "." and ".."; NULL at its end, and where it cannot be read: *st says so then. */
static const char *next_name(DIR *dir, const char *path, mr_status *st, mr_err *err) {
    for (;;) {
        errno = 0;
        const struct dirent *e = readdir(dir);
        if (!e && errno) *st = mr_fail_errno(err, "%s: could not be listed", path);
        if (!e) return NULL;
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) return e->d_name;
    }
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

mr_status mr_dir_names(char ***names, int *n, const char *path, mr_err *err) {
    *names = NULL;
    *n = 0;
    DIR *dir = opendir(path);
    if (!dir) return mr_fail_errno(err, "%s", path);
    mr_status st = MR_OK;
    for (const char *name; (name = next_name(dir, path, &st, err));) {
        *names = mr_realloc(*names, (size_t)(*n + 1) * sizeof **names);
        (*names)[(*n)++] = mr_strdup(name);
    }
    closedir(dir);
    if (st != MR_OK) { /* some of them would be a lie */
        mr_dir_names_free(*names, *n);
        *names = NULL;
        *n = 0;
    }
    if (*n) qsort(*names, (size_t)*n, sizeof **names, by_name);
    return st;
}

void mr_dir_names_free(char **names, int n) {
    for (int i = 0; i < n; i++) mr_free(names[i]);
    mr_free(names);
}

static mr_status remove_at(int parent, const char *name, const char *path, mr_err *err) {
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT) return MR_OK;
    if (errno != EISDIR && errno != EPERM) { /* EPERM: what POSIX says for a folder */
        mr_fail_errno(err, "%s: could not be removed", path);
        return MR_EIO;
    }
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        mr_fail_errno(err, "%s: could not be removed", path);
        if (fd >= 0) close(fd);
        return MR_EIO;
    }
    mr_status st = MR_OK;
    for (const char *inner; st == MR_OK && (inner = next_name(dir, path, &st, err));) {
        char *child = mr_path_join(path, inner);
        st = remove_at(fd, inner, child, err);
        mr_free(child);
    }
    closedir(dir);
    if (st == MR_OK && unlinkat(parent, name, AT_REMOVEDIR) != 0) {
        mr_fail_errno(err, "%s: could not be removed", path);
        st = MR_EIO;
    }
    return st;
}

mr_status mr_remove_tree(const char *path, mr_err *err) {
    return remove_at(AT_FDCWD, path, path, err);
}

static mr_status sync_tree(const char *path, mr_err *err) {
    DIR *dir = opendir(path);
    if (!dir) return mr_fail_errno(err, "%s", path);
    mr_status st = MR_OK;
    for (const char *name; st == MR_OK && (name = next_name(dir, path, &st, err));) {
        char *child = mr_path_join(path, name);
        struct stat info;
        if (lstat(child, &info) != 0)
            st = mr_fail_errno(err, "%s", child);
        else if (S_ISDIR(info.st_mode))
            st = sync_tree(child, err);
        else if (S_ISREG(info.st_mode))
            st = sync_path(child, 0, err);
        mr_free(child);
    }
    closedir(dir);
    return st == MR_OK ? sync_path(path, O_DIRECTORY, err) : st;
}

mr_status mr_dir_commit(const char *tmp, const char *final, mr_err *err) {
    MR_TRY(sync_tree(tmp, err));
    const bool swapped =
        mr_path_is_dir(final) && renameat2(AT_FDCWD, tmp, AT_FDCWD, final, RENAME_EXCHANGE) == 0;
    if (!swapped && rename(tmp, final) != 0) {
        const bool in_the_way = errno == ENOTEMPTY || errno == EEXIST;
        mr_fail_errno(err, "%s: could not be put in place", final);
        return in_the_way ? MR_EINVAL : MR_EIO;
    }
    return sync_parent(final, err);
}

/* ---- locks ---- */

/* False when somebody else has it; true also where this cannot be known. */
static bool lock_folder(int *fd, const char *path) {
    char *dir = mr_path_dir(path);
    *fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    mr_free(dir);
    return *fd < 0 || flock(*fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
}

mr_status mr_lock_take(mr_lock *lock, const char *path, mr_err *err) {
    *lock = (mr_lock){ -1, -1 };
    int f = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (f < 0) {
        mr_fail_errno(err, "%s: lock could not be opened", path);
        return MR_EIO;
    }
    lock->file = f;
    char owner[32] = "";
    if (flock(f, LOCK_EX | LOCK_NB) != 0) {
        int code = errno;
        ssize_t n = code == EWOULDBLOCK ? pread(f, owner, sizeof owner - 1, 0) : 0;
        owner[n > 0 ? strspn(owner, "0123456789") : 0] = '\0';
        mr_lock_release(lock);
        if (code == EWOULDBLOCK)
            return mr_fail(err, MR_EAGAIN, "%s: is in use by process %s; wait for it, or end it", path,
                           owner[0] ? owner : "?");
        errno = code;
        mr_fail_errno(err, "%s: lock", path);
        return MR_EIO;
    }
    if (!lock_folder(&lock->folder, path)) {
        mr_lock_release(lock);
        return mr_fail(err, MR_EAGAIN, "%s: its folder is in use by another process, whose lock file was removed; wait for it, or end it",
                       path);
    }
    int n = snprintf(owner, sizeof owner, "%ld\n", (long)getpid());
    if (ftruncate(f, 0) != 0 ||
        pwrite(f, owner, (size_t)n, 0) != n) { /* only for the message above; the lock holds anyway */
    }
    return MR_OK;
}

void mr_lock_release(mr_lock *lock) {
    if (lock->folder >= 0) close(lock->folder);
    if (lock->file >= 0) close(lock->file);
    *lock = (mr_lock){ -1, -1 };
}
