/* rowcache.c - the file of a row cache: see rowcache.h. */
#include "files/rowcache.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsafe.h"

enum { MAX_ROW_BYTES = 16 << 20, CHUNK = 256 << 10 };

static const char magic[16] = "medrl rows, v1\n";

typedef struct trailer {
    char magic[16];
    uint8_t key[MR_ROWCACHE_KEY];
    uint64_t text, payload_bytes, n_rows, hash, unused, own_hash;
} trailer;
_Static_assert(sizeof(trailer) == MR_ROWCACHE_TRAILER, "the trailer has a size of its own");

/* ---- the hash: finds damage, not malice. Four lanes of multiply and rotate over blocks of 32 bytes (the round of
 * XXH64) ---- */

typedef struct hash {
    uint64_t lane[4], n;
    uint8_t rest[32];
    size_t n_rest;
} hash;

static const uint64_t prime1 = 0x9E3779B185EBCA87u, prime2 = 0xC2B2AE3D27D4EB4Fu;

static uint64_t rotate(uint64_t x, int by) {
    return x << by | x >> (64 - by);
}

static hash hash_begin(void) {
    return (hash){ .lane = { prime1, prime2, ~prime1, ~prime2 } };
}

static void hash_block(hash *h, const uint8_t *p) {
    for (int i = 0; i < 4; i++) {
        uint64_t word;
        memcpy(&word, p + 8 * i, 8);
        h->lane[i] = rotate(h->lane[i] + word * prime2, 31) * prime1;
    }
}

static void hash_add(hash *h, const void *bytes, size_t len) {
    const uint8_t *p = bytes;
    h->n += len;
    if (h->n_rest) {
        size_t take = 32 - h->n_rest < len ? 32 - h->n_rest : len;
        memcpy(h->rest + h->n_rest, p, take);
        h->n_rest += take;
        p += take;
        len -= take;
        if (h->n_rest < 32) return;
        hash_block(h, h->rest);
        h->n_rest = 0;
    }
    for (; len >= 32; p += 32, len -= 32) hash_block(h, p);
    if (len) memcpy(h->rest, p, len);
    h->n_rest = len;
}

static uint64_t hash_end(hash *h) {
    memset(h->rest + h->n_rest, 0, 32 - h->n_rest);
    hash_block(h, h->rest);
    uint64_t x = h->n * prime1;
    for (int i = 0; i < 4; i++) x = rotate(x ^ h->lane[i], 27) * prime1 + prime2;
    x ^= x >> 29;
    x *= prime2;
    return x ^ x >> 32;
}

static uint64_t own_hash(const trailer *t) {
    hash h = hash_begin();
    hash_add(&h, t, offsetof(trailer, own_hash));
    return hash_end(&h);
}

/* ---- reading ---- */

static mr_status read_at(int fd, const char *name, void *to, size_t len, uint64_t at, mr_err *err) {
    for (size_t got = 0; got < len;) {
        ssize_t n = pread(fd, (char *)to + got, len - got, (off_t)(at + got));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return mr_fail_errno(err, "%s", name);
        if (n == 0) return mr_fail(err, MR_EDATA, "%s: the row cache is cut", name);
        got += (size_t)n;
    }
    return MR_OK;
}

static mr_status read_trailer(trailer *t, int fd, const char *name, mr_err *err) {
    struct stat s;
    if (fstat(fd, &s) != 0) return mr_fail_errno(err, "%s", name);
    if (s.st_size < (off_t)sizeof *t) return mr_fail(err, MR_EDATA, "%s: no row cache", name);
    const uint64_t before = (uint64_t)s.st_size - sizeof *t;
    MR_TRY(read_at(fd, name, t, sizeof *t, before, err));
    if (memcmp(t->magic, magic, sizeof magic) != 0)
        return mr_fail(err, MR_EDATA, "%s: no row cache of this version", name);
    const bool fits = t->n_rows <= before / 8 && t->payload_bytes <= before &&
                      t->payload_bytes + 8 * t->n_rows == before && t->text <= 1 && (t->text == 0 || t->n_rows == 0);
    if (t->own_hash != own_hash(t) || !fits) return mr_fail(err, MR_EDATA, "%s: the row cache is damaged", name);
    return MR_OK;
}

static void take(mr_rowcache_info *info, const trailer *t) {
    *info = (mr_rowcache_info){ .text = t->text != 0, .payload_bytes = t->payload_bytes, .n_rows = t->n_rows };
    memcpy(info->key, t->key, sizeof info->key);
}

mr_status mr_rowcache_info_read(mr_rowcache_info *info, int fd, const char *name, mr_err *err) {
    trailer t;
    MR_TRY(read_trailer(&t, fd, name, err));
    take(info, &t);
    return MR_OK;
}

mr_status mr_rowcache_check(mr_rowcache_info *info, int fd, const char *name, mr_err *err) {
    trailer t;
    MR_TRY(read_trailer(&t, fd, name, err));
    char *chunk = mr_try_alloc(CHUNK);
    if (!chunk) return mr_fail(err, MR_ENOMEM, "%s: no memory to check the row cache", name);
    const uint64_t all = t.payload_bytes + 8 * t.n_rows;
    hash h = hash_begin();
    mr_status st = MR_OK;
    for (uint64_t at = 0; at < all && st == MR_OK;) {
        const size_t n = all - at < CHUNK ? (size_t)(all - at) : CHUNK;
        st = read_at(fd, name, chunk, n, at, err);
        if (st == MR_OK) hash_add(&h, chunk, n);
        at += n;
    }
    mr_free(chunk);
    if (st == MR_OK && hash_end(&h) != t.hash) st = mr_fail(err, MR_EDATA, "%s: the row cache is damaged", name);
    if (st == MR_OK) take(info, &t);
    return st;
}

/* ---- writing ---- */

struct mr_rowcache_writer {
    int fd;
    char *name;
    trailer t;
    hash h;
    uint64_t *begins;
    size_t cap;
};

mr_rowcache_writer *mr_rowcache_begin(int fd, const char *name, bool text, const uint8_t key[MR_ROWCACHE_KEY]) {
    mr_rowcache_writer *w = mr_alloc(sizeof *w);
    w->fd = fd;
    w->name = mr_strdup(name);
    memcpy(w->t.magic, magic, sizeof magic);
    memcpy(w->t.key, key, MR_ROWCACHE_KEY);
    w->t.text = text;
    w->h = hash_begin();
    return w;
}

void mr_rowcache_drop(mr_rowcache_writer *w) {
    if (!w) return;
    mr_free(w->begins);
    mr_free(w->name);
    mr_free(w);
}

uint64_t mr_rowcache_bytes(const mr_rowcache_writer *w) {
    return w->t.payload_bytes;
}

static mr_status add_row(mr_rowcache_writer *w, uint64_t at, mr_err *err) {
    if (w->t.n_rows == w->cap) {
        const size_t cap = w->cap ? 2 * w->cap : 4096;
        uint64_t *begins = mr_try_alloc(cap * sizeof *begins);
        if (!begins) return mr_fail(err, MR_ENOMEM, "%s: no memory for more than %zu rows", w->name, w->cap);
        if (w->cap) memcpy(begins, w->begins, w->cap * sizeof *begins);
        mr_free(w->begins);
        w->begins = begins;
        w->cap = cap;
    }
    w->begins[w->t.n_rows++] = at;
    return MR_OK;
}

static mr_status write_on(mr_rowcache_writer *w, const void *bytes, size_t len, mr_err *err) {
    hash_add(&w->h, bytes, len);
    return mr_write_all(w->fd, bytes, len, w->name, err);
}

mr_status mr_rowcache_add(mr_rowcache_writer *w, const char *bytes, size_t len, mr_err *err) {
    for (size_t at = 0; at < len && !w->t.text;) {
        const char *newline = memchr(bytes + at, '\n', len - at);
        const size_t n = newline ? (size_t)(newline - bytes) - at : 0;
        if (n == 0 || n > MAX_ROW_BYTES) return mr_fail(err, MR_EDATA, "%s: what comes are not rows", w->name);
        MR_TRY(add_row(w, w->t.payload_bytes + at, err));
        at += n + 1;
    }
    MR_TRY(write_on(w, bytes, len, err));
    w->t.payload_bytes += len;
    return MR_OK;
}

mr_status mr_rowcache_end(mr_rowcache_writer *w, mr_err *err) {
    mr_status st = w->t.n_rows ? write_on(w, w->begins, w->t.n_rows * sizeof *w->begins, err) : MR_OK;
    w->t.hash = hash_end(&w->h);
    w->t.own_hash = own_hash(&w->t);
    if (st == MR_OK) st = mr_write_all(w->fd, &w->t, sizeof w->t, w->name, err);
    mr_rowcache_drop(w);
    return st;
}
