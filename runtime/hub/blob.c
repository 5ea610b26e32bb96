/* blob.c - part files and hashes (blob.h). */
#include "hub/blob.h"

#include <errno.h>
#include <fcntl.h>
#include <sha1.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- hashes ---- */

struct hub_hash {
    const hub_entry *entry;
    mr_sha *large;
    SHA1_CTX git;
};

hub_hash *hub_hash_new(const hub_entry *e) {
    hub_hash *h = mr_alloc(sizeof *h);
    h->entry = e;
    if (e->sha256) {
        h->large = mr_sha_new();
        return h;
    }
    char head[32];
    int n = snprintf(head, sizeof head, "blob %lld", (long long)e->size);
    SHA1Init(&h->git);
    SHA1Update(&h->git, (const uint8_t *)head, (size_t)n + 1); /* with its NUL */
    return h;
}

void hub_hash_add(hub_hash *h, const void *data, size_t len) {
    if (h->large)
        mr_sha_add(h->large, data, len);
    else
        SHA1Update(&h->git, data, len);
}

bool hub_hash_end(hub_hash *h, char hex[MR_HUB_HASH_MAX]) {
    if (h->large) {
        mr_sha_end(h->large, hex);
    } else {
        uint8_t digest[SHA1_DIGEST_LENGTH];
        SHA1Final(digest, &h->git);
        for (int i = 0; i < SHA1_DIGEST_LENGTH; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    }
    bool same = strcmp(hex, h->entry->hash) == 0;
    mr_free(h);
    return same;
}

mr_status hub_hash_file(bool *good, int fd, const hub_entry *e, const char *place, mr_err *err) {
    char *buf = mr_alloc(HUB_BLOCK), hex[MR_HUB_HASH_MAX];
    hub_hash *h = hub_hash_new(e);
    ssize_t n;
    while ((n = read(fd, buf, HUB_BLOCK)) > 0 || (n < 0 && errno == EINTR))
        if (n > 0) hub_hash_add(h, buf, (size_t)n);
    *good = hub_hash_end(h, hex);
    mr_free(buf);
    if (n == 0) return MR_OK;
    mr_fail_errno(err, "%s/%s", place, e->path);
    return MR_EIO;
}

/* ---- parts ---- */

static void part_name(char out[MR_HUB_HASH_MAX + 8], const hub_entry *e) {
    snprintf(out, MR_HUB_HASH_MAX + 8, "%s.medrl", e->hash);
}

static mr_status fail_write(const hub_entry *e, mr_err *err) {
    if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)
        return mr_fail(err, MR_EIO, "%s: no room for its %lld bytes (%s); free some, or set HF_HUB_CACHE to another disk",
                       e->path, (long long)e->size, strerror(errno));
    mr_fail_errno(err, "%s: could not be written", e->path);
    return MR_EIO;
}

static bool read_all(int fd, uint8_t *data, size_t len, int64_t at) {
    while (len > 0) {
        ssize_t n = pread(fd, data, len, at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        data += n;
        at += n;
        len -= (size_t)n;
    }
    return true;
}

static mr_status write_at(const hub_blob *b, const void *data, size_t len, int64_t at, mr_err *err) {
    const char *p = data;
    while (len > 0) {
        ssize_t n = pwrite(b->fd, p, len, at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return fail_write(b->entry, err);
        p += n;
        at += n;
        len -= (size_t)n;
    }
    return MR_OK;
}

static void count(hub_blob *b) {
    b->n_here = b->prefix = 0;
    for (int64_t k = 0; k < b->n_blocks; k++) b->n_here += b->here[k] == HUB_HERE;
    while (b->prefix < b->n_blocks && b->here[b->prefix] == HUB_HERE) b->prefix++;
}

mr_status hub_blob_open(hub_blob *b, const hub_cache *c, const hub_entry *e, int lock, mr_err *err) {
    int64_t n = (e->size + HUB_BLOCK - 1) / HUB_BLOCK, whole = e->size + n;
    *b = (hub_blob){ .entry = e, .fd = -1, .lock = lock, .n_blocks = n };
    char name[MR_HUB_HASH_MAX + 8];
    part_name(name, e);
    struct stat info;
    b->fd = openat(c->blobs, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (b->fd < 0 && errno == ELOOP) { /* a link that somebody planted: not ours to write through */
        unlinkat(c->blobs, name, 0);
        b->fd = openat(c->blobs, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    }
    mr_status st = b->fd < 0 || fstat(b->fd, &info) != 0 ? fail_write(e, err) : MR_OK;
    /* cut to its size: it was whole and right once, and lacked only its name */
    bool cut = st == MR_OK && e->size > 0 && info.st_size == e->size;
    bool fresh = st != MR_OK || (info.st_size != whole && !cut);
    if (cut && ftruncate(b->fd, whole) != 0) st = fail_write(e, err);
    if (st == MR_OK && fresh) {
        int rc = ftruncate(b->fd, 0);
        if (rc == 0 && whole > 0) rc = fallocate(b->fd, 0, 0, whole);
        if (rc != 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) rc = 0; /* then the writes say it */
        if (rc != 0 || ftruncate(b->fd, whole) != 0) st = fail_write(e, err);
    }
    if (st == MR_OK) {
        b->here = mr_alloc((size_t)n + 1);
        if (cut)
            memset(b->here, HUB_HERE, (size_t)n);
        else if (!fresh && !read_all(b->fd, b->here, (size_t)n, e->size)) memset(b->here, 0, (size_t)n);
        count(b);
        b->resumed = b->n_here > 0;
    } else {
        hub_blob_close(b, c, fresh);
    }
    return st;
}

mr_status hub_blob_write(hub_blob *b, const void *data, size_t len, int64_t at, mr_err *err) {
    return write_at(b, data, len, at, err);
}

mr_status hub_blob_mark(hub_blob *b, int64_t k, mr_err *err) {
    if (b->here[k] == HUB_HERE) return MR_OK;
    static const uint8_t mark = HUB_HERE;
    MR_TRY(write_at(b, &mark, 1, b->entry->size + k, err));
    b->here[k] = HUB_HERE;
    b->n_here++;
    while (b->prefix < b->n_blocks && b->here[b->prefix] == HUB_HERE) b->prefix++;
    return MR_OK;
}

int64_t hub_blob_bytes(const hub_blob *b) {
    int64_t bytes = b->n_here * HUB_BLOCK, rest = b->n_blocks * HUB_BLOCK - b->entry->size;
    return b->n_blocks > 0 && b->here[b->n_blocks - 1] == HUB_HERE ? bytes - rest : bytes;
}

mr_status hub_blob_commit(hub_blob *b, const hub_cache *c, mr_err *err) {
    char name[MR_HUB_HASH_MAX + 8];
    part_name(name, b->entry);
    if (ftruncate(b->fd, b->entry->size) != 0 || fsync(b->fd) != 0 ||
        renameat(c->blobs, name, c->blobs, b->entry->hash) != 0 || fsync(c->blobs) != 0)
        return fail_write(b->entry, err);
    return hub_cache_link(c, b->entry, err);
}

void hub_blob_close(hub_blob *b, const hub_cache *c, bool discard) {
    char name[MR_HUB_HASH_MAX + 8];
    part_name(name, b->entry);
    if (discard) unlinkat(c->blobs, name, 0);
    if (b->fd >= 0) close(b->fd);
    if (b->lock >= 0) close(b->lock);
    mr_free(b->here);
    b->here = NULL;
    b->fd = b->lock = -1;
}
