/* transfer.h - what transfer.c and hasher.c share: files on their way, and the threads behind the connections.
 *
 * One thread runs all connections (transfer.c). It writes blocks in any order and publishes how far a file is whole from
 * its beginning; the hasher reads that far from the page cache and judges when the last block is hashed. Behind it a
 * third thread has the disk write what is hashed, and syncs and names the blob that was judged good. A block that is
 * marked is never written again, so what was hashed is what gets the name. */
#ifndef MR_HUB_TRANSFER_H
#define MR_HUB_TRANSFER_H

#include <pthread.h>

#include "hub/blob.h"

typedef enum hub_state {
    HUB_PENDING, /* not begun, or to be begun again */
    HUB_WAITING, /* another program holds the lock */
    HUB_ACTIVE,  /* open; connections and the hasher work on it */
    HUB_DONE
} hub_state;

typedef struct hub_file {
    hub_entry *entry;
    hub_state state;
    hub_blob blob;
    uint8_t *claimed;  /* [n_blocks] a connection is at it */
    int64_t next;      /* no unclaimed block is before this one */
    char *direct;      /* where the endpoint sends us on to; NULL: not known, or nowhere */
    bool known;        /* an answer has come: more connections may begin */
    bool whole;        /* the server ignores ranges */
    int n_slots;
    bool again;        /* a part of an earlier call was wrong and has been thrown away */
    double not_before; /* WAITING: when to look again */
    /* the hasher's, under its lock */
    int64_t ready, hashed, flushed; /* bytes: whole from the beginning, hashed, given to the disk */
    bool judged, good, finished;    /* hashed to the end; the hash is the list's; named, or never will be */
    char hex[MR_HUB_HASH_MAX];
    hub_hash *hash;
    mr_status st;
    mr_err err;
} hub_file;

enum { HUB_HASHER_THREADS = 2 };

typedef struct hub_hasher {
    pthread_t threads[HUB_HASHER_THREADS];
    int n_threads;
    pthread_mutex_t lock;
    pthread_cond_t work, keep; /* something to hash; something to write, sync or name */
    bool started, quit;
    hub_file *files; /* borrowed; looked at where state is HUB_ACTIVE */
    int n_files;
    const hub_cache *cache;
    void (*done)(void *self); /* in one of its threads, when a file is finished */
    void *self;
} hub_hasher;

mr_status hub_hasher_start(hub_hasher *h, mr_err *err);
void hub_hasher_stop(hub_hasher *h);
/* Opens a file to the hasher; publishes how far it is whole. */
void hub_hasher_begin(hub_hasher *h, hub_file *f);
void hub_hasher_ready(hub_hasher *h, hub_file *f, int64_t bytes);
bool hub_hasher_finished(hub_hasher *h, hub_file *f);

#endif
