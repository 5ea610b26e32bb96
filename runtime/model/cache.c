/* cache.c - see cache.h. */
#include "model/cache.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/log.h"
#include "base/proc.h"

enum {
    VERSION = 1,
    HEAD = 256,
    ALIGN = 64,
    NAME = 112,
    MAX_WEIGHTS = 1 << 16,
    NF4_BLOCK = 64,
    NF4_NESTED = 256,
    WAITING_SHARE = 8,     /* of the machine's memory may wait for the disk while a GPU's weights are made */
    WORTH = 128 << 20      /* values; fewer are quantized about as fast as they are read */
};
static const char magic[8] = "MEDRLNF4";

typedef struct entry {
    char name[NAME];
    int64_t n_out, n_in;
    uint64_t at; /* codes; then, each at the next multiple of 64, block maxima and scales */
    uint64_t sum;
    float offset;
    uint32_t spare;
} entry;

typedef struct head {
    char magic[8];
    uint32_t version, n;
    uint64_t index_at, file_bytes;
    char key[64], index_sha[64];
    uint8_t spare[HEAD - 8 - 8 - 16 - 128];
} head;
_Static_assert(sizeof(head) == HEAD && sizeof(entry) == 152, "the file's layout");

/* A weight on its way to the disk. */
typedef struct item {
    struct item *next;
    entry e;
    const uint8_t *codes, *absmax;
    const float *nested;
    void *owned; /* what the three lie in; NULL: in the weight itself */
    size_t bytes;
} item;

struct mr_cache {
    char *path, *tmp;
    char key[65];
    /* reading */
    mr_map map;
    const entry *index;
    int n;
    /* writing */
    int fd; /* -1: not */
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t more, less;
    item *first, *last;
    size_t waiting;
    bool ended, whole; /* no more come; and that is all of them */
    bool failed;       /* atomic: nothing is written any more */
    double begun_s;
    /* the thread's own */
    entry *made;
    int n_made;
    uint64_t at;
};

static bool failed(const mr_cache *c) { return __atomic_load_n(&c->failed, __ATOMIC_RELAXED); }

static int64_t blocks_of(int64_t n) { return (n + NF4_BLOCK - 1) / NF4_BLOCK; }

/* Bytes of a weight's three parts. */
static void part_bytes(size_t bytes[3], int64_t n) {
    bytes[0] = (size_t)(n + 1) / 2;
    bytes[1] = (size_t)blocks_of(n);
    bytes[2] = (size_t)((blocks_of(n) + NF4_NESTED - 1) / NF4_NESTED) * sizeof(float);
}

static uint64_t round_up(uint64_t x) { return (x + ALIGN - 1) / ALIGN * ALIGN; }

/* Every step maps its lane one to one, so no change of a single word goes unseen; four lanes, so that it runs at the speed of memory. */
static uint64_t add_sum(uint64_t sum, const void *data, size_t n) {
    const uint64_t k = 0x9e3779b97f4a7c15u;
    uint64_t lane[4] = { sum ^ n, sum + k, ~sum, sum * k + 1 }, word[4];
    const uint8_t *p = data;
    size_t i = 0;
    for (; i + sizeof word <= n; i += sizeof word) {
        memcpy(word, p + i, sizeof word);
        for (int l = 0; l < 4; l++) {
            lane[l] ^= word[l];
            lane[l] = (lane[l] << 31 | lane[l] >> 33) * k;
        }
    }
    for (; i < n; i++) lane[0] = ((lane[0] ^ p[i]) << 31 | (lane[0] ^ p[i]) >> 33) * k;
    for (int l = 1; l < 4; l++) lane[0] = ((lane[0] ^ lane[l]) << 31 | (lane[0] ^ lane[l]) >> 33) * k;
    return lane[0] ^ lane[0] >> 32;
}

/* ---- where ---- */

static const char *wanted(const char *choice) {
    const char *env = getenv("MEDRL_WEIGHT_CACHE");
    if (choice && strcmp(choice, "auto") != 0) return choice;
    return choice && env && *env ? env : choice;
}

/* The name in a folder that several models share. */
static char *shared_name(const char *dir, const char *model) {
    char full[PATH_MAX], hex[65];
    if (!realpath(model, full)) snprintf(full, sizeof full, "%s", model);
    mr_sha256(hex, full, strlen(full));
    return mr_asprintf("%s/%.100s-%.16s.nf4", dir, mr_path_name(full), hex);
}

static char *beside(const char *model) {
    return mr_path_is_dir(model) ? mr_path_join(model, "medrl.nf4") : mr_asprintf("%s.nf4", model);
}

static bool writable(const char *path) {
    char *dir = mr_path_dir(path);
    const bool yes = access(dir, W_OK) == 0;
    mr_free(dir);
    return yes;
}

/* Beside the model where that can be, or is there already. */
static char *place(const char *choice, const char *model) {
    if (strcmp(choice, "auto") != 0) return shared_name(choice, model);
    char *near = beside(model);
    if (mr_path_exists(near) || writable(near)) return near;
    mr_free(near);
    char *dir = mr_path_join(mr_cache_dir(), "weights"), *path = shared_name(dir, model);
    mr_free(dir);
    return path;
}

char *mr_cache_describe(void) {
    const char *choice = wanted("auto");
    if (strcmp(choice, "off") == 0) return mr_strdup("nowhere (MEDRL_WEIGHT_CACHE=off)");
    if (strcmp(choice, "auto") != 0) return mr_asprintf("in %s (MEDRL_WEIGHT_CACHE)", choice);
    return mr_asprintf("beside a model's files, else in %s/weights", mr_cache_dir());
}

/* ---- reading ---- */

static const uint8_t *part_at(const mr_cache *c, const entry *e, int part, size_t bytes[3]) {
    part_bytes(bytes, e->n_out * e->n_in);
    uint64_t at = e->at;
    for (int i = 0; i < part; i++) at = round_up(at + bytes[i]);
    return c->map.data + at;
}

static uint64_t sum_of(const void *const part[3], const size_t bytes[3]) {
    uint64_t sum = 0;
    for (int i = 0; i < 3; i++) sum = add_sum(sum, part[i], bytes[i]);
    return sum;
}

typedef struct checking {
    const mr_cache *c;
    int bad; /* index of one, or -1 */
} checking;

static void check_weights(void *ctx, int thread, int64_t from, int64_t to) {
    checking *x = ctx;
    (void)thread;
    for (int64_t i = from; i < to; i++) {
        const entry *e = &x->c->index[i];
        size_t bytes[3];
        const void *part[3];
        for (int p = 0; p < 3; p++) part[p] = part_at(x->c, e, p, bytes);
        if (sum_of(part, bytes) != e->sum) __atomic_store_n(&x->bad, (int)i, __ATOMIC_RELAXED);
    }
}

/* Whether each entry lies where it says, before anything of it is read. */
static bool in_bounds(const mr_cache *c, uint64_t end) {
    for (int i = 0; i < c->n; i++) {
        const entry *e = &c->index[i];
        size_t bytes[3];
        if (!memchr(e->name, '\0', NAME) || e->n_out < 1 || e->n_in < 1 || e->n_out > INT32_MAX || e->n_in > INT32_MAX) return false;
        if (e->at % ALIGN || e->at < HEAD || e->at > end) return false;
        part_bytes(bytes, e->n_out * e->n_in);
        uint64_t at = e->at;
        for (int p = 0; p < 3; p++) {
            if (at > end || bytes[p] > end - at) return false;
            at = round_up(at + bytes[p]);
        }
    }
    return true;
}

/* What is wrong with a file that is there; NULL: nothing, and c reads it. */
static const char *take_file(mr_cache *c, mr_threads *readers) {
    const head *h = (const head *)(const void *)c->map.data;
    char sha[65];
    if (c->map.len < HEAD || memcmp(h->magic, magic, sizeof magic) != 0) return "is no cache of weights";
    if (h->version != VERSION) return "is of another version of medrl";
    if (memcmp(h->key, c->key, sizeof h->key) != 0) return "belongs to other files of the model";
    const uint64_t index_bytes = (uint64_t)h->n * sizeof(entry);
    if (h->n < 1 || h->n > MAX_WEIGHTS || h->file_bytes != c->map.len || h->index_at % ALIGN || h->index_at > c->map.len ||
        index_bytes != c->map.len - h->index_at)
        return "is cut off or damaged";
    c->index = (const entry *)(const void *)(c->map.data + h->index_at);
    c->n = (int)h->n;
    mr_sha256(sha, c->index, (size_t)index_bytes);
    if (memcmp(sha, h->index_sha, sizeof h->index_sha) != 0 || !in_bounds(c, h->index_at)) return "has a damaged index";
    checking x = { c, -1 };
    const mr_work work = { check_weights, &x, c->n, 1 };
    if (readers)
        mr_parallel(readers, MR_THREADS_MAX, &work, 1);
    else
        check_weights(&x, 0, 0, c->n);
    return x.bad >= 0 ? "has damaged weights" : NULL;
}

bool mr_cache_reads(const mr_cache *c) { return c && c->index; }

bool mr_cache_find(const mr_cache *c, mr_nf4_part *part, const char *name, int64_t n_out, int64_t n_in) {
    if (!mr_cache_reads(c)) return false;
    for (int i = 0; i < c->n; i++) {
        const entry *e = &c->index[i];
        size_t bytes[3];
        if (strcmp(e->name, name) != 0) continue;
        if (e->n_out != n_out || e->n_in != n_in) return false;
        *part = (mr_nf4_part){ n_out * n_in, part_at(c, e, 0, bytes), part_at(c, e, 1, bytes), part_at(c, e, 2, bytes), e->offset };
        return true;
    }
    return false;
}

/* ---- writing ---- */

/* Once: a warning, and nothing of it stays. */
static void give_up(mr_cache *c, const char *why) {
    if (__atomic_exchange_n(&c->failed, true, __ATOMIC_RELAXED)) return;
    unlink(c->tmp);
    mr_warn("%s: cannot be written (%s); the weights will be quantized again next time (model.weight_cache = \"off\" asks for that)", c->path,
            why);
}

static bool write_at(mr_cache *c, const void *data, size_t n, uint64_t at) {
    const char *p = data;
    while (n > 0 && !failed(c)) {
        ssize_t wrote = pwrite(c->fd, p, n, (off_t)at);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) {
            give_up(c, wrote < 0 ? strerror(errno) : "the disk takes no more");
            break;
        }
        p += wrote, n -= (size_t)wrote, at += (uint64_t)wrote;
    }
    return !failed(c);
}

static void write_item(mr_cache *c, item *x) {
    const void *part[3] = { x->codes, x->absmax, x->nested };
    size_t bytes[3];
    part_bytes(bytes, x->e.n_out * x->e.n_in);
    x->e.at = c->at = round_up(c->at);
    x->e.sum = sum_of(part, bytes);
    for (int i = 0; i < 3; i++) {
        if (!write_at(c, part[i], bytes[i], c->at)) return;
        c->at = round_up(c->at + bytes[i]);
    }
    c->made = mr_realloc(c->made, (size_t)(c->n_made + 1) * sizeof *c->made);
    c->made[c->n_made++] = x->e;
}

/* Index, head, name. */
static void finish(mr_cache *c) {
    const size_t index_bytes = (size_t)c->n_made * sizeof *c->made;
    head h = { .version = VERSION, .n = (uint32_t)c->n_made, .index_at = c->at, .file_bytes = c->at + index_bytes };
    char sha[65];
    memcpy(h.magic, magic, sizeof magic);
    memcpy(h.key, c->key, sizeof h.key);
    mr_sha256(sha, c->made, index_bytes);
    memcpy(h.index_sha, sha, sizeof h.index_sha);
    if (!write_at(c, c->made, index_bytes, c->at) || !write_at(c, &h, sizeof h, 0)) return;
    if (ftruncate(c->fd, (off_t)h.file_bytes) != 0 || fsync(c->fd) != 0 || rename(c->tmp, c->path) != 0)
        give_up(c, strerror(errno));
    else
        mr_debug("%s: written, %.2f GB, %.2f s after the load began", c->path, (double)h.file_bytes / 1e9, mr_now_s() - c->begun_s);
}

static void *writer(void *ctx) {
    mr_cache *c = ctx;
    pthread_mutex_lock(&c->lock);
    for (;;) {
        while (!c->first && !c->ended) pthread_cond_wait(&c->more, &c->lock); /* wait: put, end or close, of the thread that loads */
        item *x = c->first;
        if (!x) break;
        c->first = x->next;
        if (!c->first) c->last = NULL;
        pthread_mutex_unlock(&c->lock);
        if (!failed(c)) write_item(c, x);
        pthread_mutex_lock(&c->lock);
        c->waiting -= x->bytes;
        pthread_cond_signal(&c->less);
        mr_free(x->owned);
        mr_free(x);
    }
    const bool whole = c->whole;
    pthread_mutex_unlock(&c->lock);
    if (whole && !failed(c) && c->n_made > 0)
        finish(c);
    else if (!failed(c))
        unlink(c->tmp);
    return NULL;
}

static void push(mr_cache *c, item *x) {
    pthread_mutex_lock(&c->lock);
    while (c->waiting > mr_memory_bytes() / WAITING_SHARE) pthread_cond_wait(&c->less, &c->lock); /* wait: the disk, which ends with an error at worst */
    if (c->last)
        c->last->next = x;
    else
        c->first = x;
    c->last = x;
    c->waiting += x->bytes;
    pthread_cond_signal(&c->more);
    pthread_mutex_unlock(&c->lock);
}

void mr_cache_put(mr_cache *c, mr_backend *b, const mr_weight *w, const char *name) {
    if (!c || c->fd < 0 || c->ended || failed(c)) return;
    const mr_weight_info info = b->weight_info(w);
    item *x = mr_alloc(sizeof *x);
    size_t bytes[3];
    snprintf(x->e.name, sizeof x->e.name, "%s", name);
    x->e.n_out = info.n_out, x->e.n_in = info.n_in;
    part_bytes(bytes, info.n_out * info.n_in);
    bool have = false;
    if (b->weight_nf4_read) {
        const size_t absmax_at = round_up(bytes[0]), nested_at = absmax_at + round_up(bytes[1]);
        uint8_t *p = mr_try_alloc(nested_at + bytes[2]);
        if (p) have = b->weight_nf4_read(b, w, p, p + absmax_at, (float *)(void *)(p + nested_at), &x->e.offset);
        x->owned = p, x->codes = p, x->absmax = p + absmax_at, x->nested = (const float *)(const void *)(p + nested_at);
        x->bytes = nested_at + bytes[2];
    } else {
        have = b->weight_nf4(w, &x->codes, &x->absmax, &x->nested, &x->e.offset);
    }
    if (have) {
        push(c, x);
        return;
    }
    mr_free(x->owned);
    mr_free(x);
    pthread_mutex_lock(&c->lock);
    c->ended = true; /* and not whole */
    pthread_mutex_unlock(&c->lock);
}

/* A file of that name that nobody else writes. */
static bool begin(mr_cache *c) {
    struct stat mine, named;
    char *dir = mr_path_dir(c->path);
    mr_err err;
    const bool there = mr_mkdirs(dir, &err) == MR_OK;
    mr_free(dir);
    if (!there) {
        give_up(c, err.msg);
        return false;
    }
    c->fd = open(c->tmp, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (c->fd < 0) {
        give_up(c, strerror(errno));
        return false;
    }
    /* another process that makes the same one may just have given it its name */
    if (flock(c->fd, LOCK_EX | LOCK_NB) != 0 || fstat(c->fd, &mine) != 0 || stat(c->tmp, &named) != 0 || mine.st_ino != named.st_ino) {
        mr_debug("%s: another process writes it", c->path);
        close(c->fd);
        c->fd = -1;
        return false;
    }
    if (ftruncate(c->fd, 0) != 0) {
        give_up(c, strerror(errno));
        return false;
    }
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->more, NULL);
    pthread_cond_init(&c->less, NULL);
    c->at = HEAD;
    c->started = pthread_create(&c->thread, NULL, writer, c) == 0;
    if (!c->started) give_up(c, "no thread");
    return c->started;
}

void mr_cache_end(mr_cache *c) {
    if (!c || !c->started) return;
    pthread_mutex_lock(&c->lock);
    c->whole = !c->ended;
    c->ended = true;
    pthread_cond_signal(&c->more);
    pthread_mutex_unlock(&c->lock);
}

void mr_cache_close(mr_cache *c) {
    if (!c) return;
    if (c->started) {
        pthread_mutex_lock(&c->lock);
        c->ended = true;
        pthread_cond_signal(&c->more);
        pthread_mutex_unlock(&c->lock);
        pthread_join(c->thread, NULL); /* wait: what is left to write */
        pthread_mutex_destroy(&c->lock);
        pthread_cond_destroy(&c->more);
        pthread_cond_destroy(&c->less);
    }
    if (c->fd >= 0) close(c->fd);
    mr_map_close(&c->map);
    mr_free(c->made);
    mr_free(c->path);
    mr_free(c->tmp);
    mr_free(c);
}

/* ---- opening ---- */

mr_status mr_cache_open(mr_cache **out, const char *choice, const mr_tensors *t, int64_t n_values, mr_threads *readers, mr_err *err) {
    const char *want = wanted(choice);
    *out = NULL;
    if (!want || !t || strcmp(want, "off") == 0) return MR_OK;
    const bool chosen = strcmp(want, "auto") != 0;
    if (chosen && !strchr(want, '/') && !mr_path_is_dir(want))
        return mr_fail(err, MR_EINVAL, "the cache of weights is \"%.200s\", want auto, off or a folder (model.weight_cache, MEDRL_WEIGHT_CACHE)", want);
    if (!chosen && n_values < WORTH) return MR_OK;
    mr_cache *c = mr_alloc(sizeof *c);
    c->fd = -1;
    c->begun_s = mr_now_s();
    c->path = place(want, mr_tensors_path(t));
    c->tmp = mr_asprintf("%s.tmp", c->path);
    mr_err why;
    if (mr_tensors_identity(t, c->key, &why) != MR_OK) {
        mr_warn("%s", why.msg);
        mr_cache_close(c);
        return MR_OK;
    }
    if (mr_map_open(&c->map, c->path, &why) == MR_OK) {
        const char *wrong = take_file(c, readers);
        if (wrong) {
            mr_warn("%s: %s; it is made again", c->path, wrong);
            c->n = 0;
            c->index = NULL;
            mr_map_close(&c->map);
        } else {
            mr_debug("%s: read and checked, %.2f GB in %.2f s", c->path, (double)c->map.len / 1e9, mr_now_s() - c->begun_s);
        }
    }
    if (mr_cache_reads(c) || begin(c)) {
        *out = c;
        return MR_OK;
    }
    mr_cache_close(c);
    return MR_OK;
}
