/* hub_impl.h - what the files of runtime/hub share: libcurl by pointer, one open hub, the list of files.
 *
 * setup.c: the environment. curl.c: the library and the settings of every request. request.c: one answer in memory.
 * list.c: what a repository holds. select.c: what of it is wanted. cache.c: the folders. blob.c: one file on its way.
 * transfer.c: many of them over several connections. pull.c: the order of all this. */
#ifndef MR_HUB_IMPL_H
#define MR_HUB_IMPL_H

#define CURL_DISABLE_TYPECHECK /* the functions are called by pointer, which its macros do not know */
#include <curl/curl.h>

#include "base/fsafe.h"
#include "hub/hub.h"

enum {
    HUB_REDIRECTS = 5,
    HUB_RETRY_AFTER_MAX_S = 120, /* who asks for longer gets an answer instead of a sleeping program */
    HUB_CONNECTIONS_MAX = 64
};

#define HUB_CURL(X)                                                                                                    \
    X(global_init) X(version) X(easy_init) X(easy_cleanup) X(easy_setopt) X(easy_getinfo) X(easy_perform)              \
    X(easy_strerror) X(easy_reset) X(multi_init) X(multi_cleanup) X(multi_add_handle) X(multi_remove_handle)           \
    X(multi_perform) X(multi_poll) X(multi_wakeup) X(multi_info_read) X(multi_setopt) X(slist_append)                  \
    X(slist_free_all)

typedef struct hub_curl {
#define HUB_MEMBER(name) __typeof__(&curl_##name) name;
    HUB_CURL(HUB_MEMBER)
#undef HUB_MEMBER
} hub_curl;

/* Opens libcurl at the first call; the same pointer afterwards. */
mr_status hub_curl_open(const hub_curl **out, mr_err *err);

typedef struct hub {
    const hub_curl *curl;
    mr_hub_name name;
    mr_hub_opts opts;
    mr_hub_setup setup;
    bool local_endpoint; /* loopback: so may redirects and sockets be */
    bool proxied;        /* sockets go to a proxy that the user chose */
    char *authorization; /* "Authorization: Bearer ..."; a secret; NULL: none */
    struct curl_slist *headers, *headers_with_token;
    double read_timeout_s, list_timeout_s;
    char refused[64]; /* the address that a socket was refused to; "" none */
    char commit[41];
} hub;

mr_status hub_open(hub *h, const mr_hub_name *name, const mr_hub_opts *opts, mr_err *err);
void hub_close(hub *h);

/* Everything that all requests have in common: protocols, no redirects by the library, addresses, time limits, and the
 * token where url is the endpoint's. The caller adds where header lines and bytes go. */
void hub_curl_set(hub *h, CURL *easy, const char *url, double timeout_s);
/* Whether a request that ended so may be made again. */
bool hub_curl_again(CURLcode code);
bool hub_status_again(int status);
mr_status hub_curl_fail(hub *h, CURLcode code, const char *url, mr_err *err);
/* An answer that is none of those that were hoped for. */
mr_status hub_status_fail(const hub *h, const mr_hub_reply *r, const char *url, mr_err *err);
/* How long to wait before try number `tries` (1: the first one failed); below 0: too long, with the error. */
double hub_backoff(const mr_hub_reply *r, int tries, const char *url, mr_err *err);

/* One answer as text, over at most HUB_REDIRECTS redirects and opts.tries tries. reply: the last one's headers. */
mr_status hub_get(hub *h, mr_str *body, mr_hub_reply *reply, const char *url, size_t max_bytes, mr_err *err);
/* ENDPOINT/api/models/org/name or, with resolve, ENDPOINT/[datasets/]org/name/resolve/COMMIT/path; owned. */
char *hub_url(const hub *h, bool resolve, const char *rest);

/* ---- the list ---- */

typedef struct hub_entry {
    char *path;
    char hash[MR_HUB_HASH_MAX]; /* SHA-256 where large, git's SHA-1 of the blob otherwise: the blob's name in the cache */
    bool sha256;
    int64_t size;
    bool wanted;
} hub_entry;

typedef struct hub_list {
    hub_entry *items;
    int n, cap;
} hub_list;

mr_status hub_list_read(hub *h, hub_list *list, mr_err *err); /* sets h->commit too */
void hub_list_clear(hub_list *list);
/* Marks what is wanted; index is the text of model.safetensors.index.json, NULL while it is not here: then the shards
 * are left out, and *needs_index says that the caller has to fetch it and to ask again. */
mr_status hub_select(hub_list *list, bool *needs_index, const hub *h, const char *index, size_t index_len, mr_err *err);

/* ---- the cache ---- */

typedef struct hub_cache {
    int repo, blobs, snapshot, locks; /* descriptors of the folders; -1: not open */
    char *root, *folder;              /* "models--org--name" */
} hub_cache;

mr_status hub_cache_open(hub_cache *c, const hub *h, mr_err *err);
void hub_cache_close(hub_cache *c);
/* Whether the content is there, as a blob or as a plain file of the snapshot; the link is made where only that lacks. */
mr_status hub_cache_has(bool *has, const hub_cache *c, const hub_entry *e, mr_err *err);
mr_status hub_cache_link(const hub_cache *c, const hub_entry *e, mr_err *err);
mr_status hub_cache_ref(const hub_cache *c, const char *revision, const char *commit, mr_err *err);
/* *fd is -1 when another program holds it. */
mr_status hub_cache_lock(int *fd, const hub_cache *c, const hub_entry *e, mr_err *err);
/* Owned; "models--org--name". */
char *hub_folder(const mr_hub_name *name);
/* Bytes on the disk of a part that an earlier call has left. */
int64_t hub_cache_part_bytes(const hub_cache *c, const hub_entry *e);
/* Whether the content that is there has the entry's hash; hub_cache_remove takes it out of blobs and snapshot. */
void hub_cache_remove(const hub_cache *c, const hub_entry *e);
mr_status hub_cache_verify(bool *good, const hub_cache *c, const hub_entry *e, mr_err *err);

/* ---- transfers ---- */

typedef struct hub_transfer_result {
    int fetched_files;
    int64_t fetched_bytes;
} hub_transfer_result;

/* Downloads all wanted entries into the cache and links them. */
mr_status hub_transfer(hub_transfer_result *out, hub *h, hub_cache *cache, hub_list *list, mr_err *err);

#endif
