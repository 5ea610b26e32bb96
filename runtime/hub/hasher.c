/* hasher.c - the threads behind the connections (transfer.h): one hashes what they have written, one has it put on the
 * disk. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hub/transfer.h"

enum {
    PIECE = 256 << 10,  /* hashed at once: stays in the processor's cache */
    STRETCH = 4 << 20,  /* hashed between two looks at the lock */
    FLUSH = 16 << 20    /* what the disk is told of at once; the call waits where its queue is full */
};

/* ---- hashing: in order, as far as the file is whole from its beginning ---- */

/* A file with something to hash; the lock is held. */
static hub_file *next_to_hash(hub_hasher *h) {
    for (int i = 0; i < h->n_files; i++) {
        hub_file *f = &h->files[i];
        if (f->hash && !f->judged && (f->ready > f->hashed || f->ready == f->entry->size)) return f;
    }
    return NULL;
}

/* From the page cache as it stands, without a copy. False, with nothing hashed, where the pages cannot be had: read()
 * then says why. */
static bool hash_mapped(hub_file *f, int64_t from, int64_t to) {
    const size_t len = (size_t)(to - from);
    void *pages = mmap(NULL, len, PROT_READ, MAP_SHARED, f->blob.fd, from);
    if (pages == MAP_FAILED) return false;
    const bool there = madvise(pages, len, MADV_POPULATE_READ) == 0;
    if (there) hub_hash_add(f->hash, pages, len);
    munmap(pages, len);
    return there;
}

static mr_status hash_stretch(hub_file *f, char *buf, int64_t from, int64_t to) {
    if (to > from && hash_mapped(f, from, to)) return MR_OK;
    for (int64_t at = from; at < to;) {
        ssize_t n = pread(f->blob.fd, buf, (size_t)(to - at < PIECE ? to - at : PIECE), at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            mr_fail_errno(&f->err, "%s: could not be read back", f->entry->path);
            return MR_EIO;
        }
        hub_hash_add(f->hash, buf, (size_t)n);
        at += n;
    }
    return MR_OK;
}

static void *hash_all(void *self) {
    hub_hasher *h = self;
    char *buf = mr_alloc(PIECE);
    pthread_mutex_lock(&h->lock);
    while (!h->quit) {
        hub_file *f = next_to_hash(h);
        if (!f) {
            /* wait: for more of a file, or for the end: hub_hasher_stop, which every download comes to */
            pthread_cond_wait(&h->work, &h->lock);
            continue;
        }
        int64_t from = f->hashed, to = f->ready - from > STRETCH ? from + STRETCH : f->ready;
        pthread_mutex_unlock(&h->lock);
        f->st = hash_stretch(f, buf, from, to);
        bool last = to == f->entry->size || f->st != MR_OK;
        if (last) {
            f->good = hub_hash_end(f->hash, f->hex);
            f->hash = NULL;
        }
        pthread_mutex_lock(&h->lock);
        f->hashed = to;
        f->judged = last;
        if (last || to - f->flushed >= FLUSH) pthread_cond_signal(&h->keep);
    }
    pthread_mutex_unlock(&h->lock);
    mr_free(buf);
    return NULL;
}

/* ---- keeping: on the disk as it comes, so that little is left to wait for when the file gets its name ---- */

static hub_file *next_to_keep(hub_hasher *h) {
    for (int i = 0; i < h->n_files; i++) {
        hub_file *f = &h->files[i];
        if (!f->finished && (f->judged || f->hashed - f->flushed >= FLUSH)) return f;
    }
    return NULL;
}

static void *keep_all(void *self) {
    hub_hasher *h = self;
    pthread_mutex_lock(&h->lock);
    while (!h->quit) {
        hub_file *f = next_to_keep(h);
        if (!f) {
            /* wait: for something hashed, or for the end: hub_hasher_stop, which every download comes to */
            pthread_cond_wait(&h->keep, &h->lock);
            continue;
        }
        int64_t from = f->flushed, to = f->hashed;
        bool last = f->judged;
        pthread_mutex_unlock(&h->lock);
        if (!last)
            sync_file_range(f->blob.fd, from, to - from, SYNC_FILE_RANGE_WRITE); /* a hint: the commit's fsync counts */
        else if (f->st == MR_OK && f->good)
            f->st = hub_blob_commit(&f->blob, h->cache, &f->err);
        pthread_mutex_lock(&h->lock);
        f->flushed = to;
        f->finished = last;
        if (last) h->done(h->self);
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

mr_status hub_hasher_start(hub_hasher *h, mr_err *err) {
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->work, NULL);
    pthread_cond_init(&h->keep, NULL);
    void *(*const jobs[HUB_HASHER_THREADS])(void *) = { hash_all, keep_all };
    while (h->n_threads < HUB_HASHER_THREADS &&
           pthread_create(&h->threads[h->n_threads], NULL, jobs[h->n_threads], h) == 0)
        h->n_threads++;
    h->started = true;
    return h->n_threads == HUB_HASHER_THREADS ? MR_OK
                                              : mr_fail(err, MR_EAGAIN, "the system gives no thread; try again");
}

void hub_hasher_stop(hub_hasher *h) {
    if (!h->started) return;
    pthread_mutex_lock(&h->lock);
    h->quit = true;
    pthread_cond_signal(&h->work);
    pthread_cond_signal(&h->keep);
    pthread_mutex_unlock(&h->lock);
    /* wait: for a stretch that is hashed, a file that is synced */
    while (h->n_threads > 0) pthread_join(h->threads[--h->n_threads], NULL);
    pthread_mutex_destroy(&h->lock);
    pthread_cond_destroy(&h->work);
    pthread_cond_destroy(&h->keep);
    h->started = false;
}

void hub_hasher_begin(hub_hasher *h, hub_file *f) {
    pthread_mutex_lock(&h->lock);
    f->hashed = f->flushed = 0;
    f->ready = f->blob.prefix == f->blob.n_blocks ? f->entry->size : f->blob.prefix * HUB_BLOCK;
    f->judged = f->finished = f->good = false;
    f->st = MR_OK;
    f->hash = hub_hash_new(f->entry);
    pthread_cond_signal(&h->work);
    pthread_mutex_unlock(&h->lock);
}

void hub_hasher_ready(hub_hasher *h, hub_file *f, int64_t bytes) {
    pthread_mutex_lock(&h->lock);
    f->ready = bytes;
    pthread_cond_signal(&h->work);
    pthread_mutex_unlock(&h->lock);
}

bool hub_hasher_finished(hub_hasher *h, hub_file *f) {
    pthread_mutex_lock(&h->lock);
    bool finished = f->finished;
    pthread_mutex_unlock(&h->lock);
    return finished;
}
