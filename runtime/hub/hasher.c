/* hasher.c - the thread that hashes what the connections have written (transfer.h). */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "hub/transfer.h"

enum { PIECE = 4 << 20 };

/* A file with something to do; the lock is held. */
static hub_file *next_file(hub_hasher *h) {
    for (int i = 0; i < h->n_files; i++) {
        hub_file *f = &h->files[i];
        if (f->hash && !f->finished && (f->ready > f->hashed || f->ready == f->entry->size)) return f;
    }
    return NULL;
}

static mr_status hash_piece(hub_file *f, char *buf, int64_t from, int64_t to) {
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
    /* begin to write now, so that the sync at the end has little left to wait for */
    sync_file_range(f->blob.fd, from, to - from, SYNC_FILE_RANGE_WRITE);
    return MR_OK;
}

static void finish(hub_hasher *h, hub_file *f) {
    f->good = hub_hash_end(f->hash, f->hex);
    f->hash = NULL;
    if (f->st == MR_OK && f->good) f->st = hub_blob_commit(&f->blob, h->cache, &f->err);
}

static void *work(void *self) {
    hub_hasher *h = self;
    char *buf = mr_alloc(PIECE);
    pthread_mutex_lock(&h->lock);
    while (!h->quit) {
        hub_file *f = next_file(h);
        if (!f) {
            /* wait: for more of a file, or for the end: hub_hasher_stop, which every download comes to */
            pthread_cond_wait(&h->work, &h->lock);
            continue;
        }
        int64_t from = f->hashed, to = f->ready - from > PIECE ? from + PIECE : f->ready;
        pthread_mutex_unlock(&h->lock);
        f->st = hash_piece(f, buf, from, to);
        bool last = to == f->entry->size || f->st != MR_OK;
        if (last) finish(h, f);
        pthread_mutex_lock(&h->lock);
        f->hashed = to;
        f->finished = last;
        if (last) h->done(h->self);
    }
    pthread_mutex_unlock(&h->lock);
    mr_free(buf);
    return NULL;
}

mr_status hub_hasher_start(hub_hasher *h, mr_err *err) {
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->work, NULL);
    if (pthread_create(&h->thread, NULL, work, h) != 0)
        return mr_fail(err, MR_EAGAIN, "the system gives no thread; try again");
    h->started = true;
    return MR_OK;
}

void hub_hasher_stop(hub_hasher *h) {
    if (!h->started) return;
    pthread_mutex_lock(&h->lock);
    h->quit = true;
    pthread_cond_signal(&h->work);
    pthread_mutex_unlock(&h->lock);
    /* wait: for a piece that is hashed */
    pthread_join(h->thread, NULL);
    pthread_mutex_destroy(&h->lock);
    pthread_cond_destroy(&h->work);
    h->started = false;
}

void hub_hasher_begin(hub_hasher *h, hub_file *f) {
    pthread_mutex_lock(&h->lock);
    f->hashed = 0;
    f->ready = f->blob.prefix == f->blob.n_blocks ? f->entry->size : f->blob.prefix * HUB_BLOCK;
    f->finished = f->good = false;
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
