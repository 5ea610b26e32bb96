/* transfer.c - many files over several connections, in one thread: who fetches what, what an answer may be, what is
 * tried again.
 *
 * A connection (slot) asks for a span of blocks. The first answer of a file decides: until it is there no second
 * connection asks, so that a redirect to a storage host is followed once and a server without ranges is noticed. A span
 * that breaks off goes on at its byte. */
#include "hub/transfer.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/proc.h"

enum {
    SPAN_MIN = 4, SPAN_MAX = 32, /* blocks of one request */
    MAX_OPEN = 128,              /* files */
    SAMPLES = 32                 /* of the speed, ten a second */
};

typedef struct transfer transfer;

typedef struct slot {
    transfer *t;
    CURL *easy;
    hub_file *file;      /* NULL: free */
    int64_t from, to, at; /* bytes; at: the next one */
    int64_t marked;      /* at, when it last counted as progress */
    bool running, checked;
    int hops, tries;
    double not_before;   /* not running: when to begin again */
    char *url;
    mr_hub_reply *reply;
    double span;         /* blocks that are worth a request, by the last answer; 0: not known */
    mr_status st;        /* what the bytes themselves were guilty of */
} slot;

struct transfer {
    hub *h;
    hub_cache *cache;
    hub_file *files;
    int n_files, n_done, n_open;
    hub_hasher hasher;
    CURLM *multi;
    slot *slots;
    int n_slots;
    int64_t total, here, fetched;
    int fetched_files;
    double sample_s[SAMPLES];
    int64_t sample_bytes[SAMPLES];
    int n_samples;
    double told_s, least_wait;
    mr_err *err;
};

/* ---- bytes that come ---- */

static mr_status check_hashes(slot *s) {
    const mr_hub_reply *r = s->reply;
    const hub_entry *e = s->file->entry;
    if (!mr_hub_same_origin(s->url, s->t->h->setup.endpoint)) return MR_OK; /* a storage host's own tags */
    const char *etag = r->linked_etag[0] ? r->linked_etag : r->etag;
    bool is_hash = mr_hub_is_hex(etag, strlen(etag)) && strlen(etag) == strlen(e->hash);
    if ((is_hash || r->linked_etag[0]) && strcmp(etag, e->hash) != 0)
        return mr_fail(s->t->err, MR_EDATA,
                       "%s: the server names another content (%.64s) than its list (%s); try again", e->path, etag,
                       e->hash);
    if (r->linked_size >= 0 && r->linked_size != e->size)
        return mr_fail(s->t->err, MR_EDATA, "%s: the server names another size (%lld) than its list (%lld); try again",
                       e->path, (long long)r->linked_size, (long long)e->size);
    return MR_OK;
}

/* An answer with content, before its first byte is used. */
static mr_status check_head(slot *s) {
    const mr_hub_reply *r = s->reply;
    hub_file *f = s->file;
    const hub_entry *e = f->entry;
    mr_err *err = s->t->err;
    s->checked = true;
    if (r->encoding[0] && strcmp(r->encoding, "identity") != 0)
        return mr_fail(err, MR_EREFUSED, "%s: the answer is packed (%s), which was not asked for; refused", e->path,
                       r->encoding);
    if (strcmp(r->type, "text/html") == 0)
        return mr_fail(err, MR_EDATA,
                       "%s: a page for a browser came instead of the file; does this network want a login?", e->path);
    MR_TRY(check_hashes(s));
    int64_t total = r->status == 206 ? r->range_total : r->length;
    if (total >= 0 && total != e->size)
        return mr_fail(err, MR_EDATA, "%s: the server has %lld bytes, its list says %lld; try again", e->path,
                       (long long)total, (long long)e->size);
    if (r->status == 206 && r->range_from != s->at)
        return mr_fail(err, MR_EDATA, "%s: asked for byte %lld and on, the answer begins at %lld", e->path,
                       (long long)s->at, (long long)r->range_from);
    if (r->status == 200) {
        f->whole = s->from != 0 || s->to != e->size || s->at != 0 || f->whole;
        s->from = s->at = s->marked = 0;
        s->to = e->size;
    }
    f->known = true;
    if (s->hops > 0 && !f->direct) f->direct = mr_strdup(s->url);
    return MR_OK;
}

static int64_t ready_bytes(const hub_blob *b) {
    return b->prefix == b->n_blocks ? b->entry->size : b->prefix * HUB_BLOCK;
}

static mr_status take(slot *s, const char *data, size_t len) {
    hub_file *f = s->file;
    transfer *t = s->t;
    int64_t size = f->entry->size, before = f->blob.prefix;
    while (len > 0) {
        if (s->at >= s->to)
            return mr_fail(t->err, MR_EDATA, "%s: the server sends more than it announced", f->entry->path);
        int64_t k = s->at / HUB_BLOCK, end = (k + 1) * HUB_BLOCK < size ? (k + 1) * HUB_BLOCK : size;
        int64_t n = end < s->to ? end - s->at : s->to - s->at;
        if ((size_t)n > len) n = (int64_t)len;
        if (f->blob.here[k] != HUB_HERE) { /* what is marked is not written again */
            MR_TRY(hub_blob_write(&f->blob, data, (size_t)n, s->at, t->err));
            t->here += n;
            t->fetched += n;
        }
        s->at += n;
        data += n;
        len -= (size_t)n;
        if (s->at == end) MR_TRY(hub_blob_mark(&f->blob, k, t->err));
    }
    if (f->blob.prefix != before) hub_hasher_ready(&t->hasher, f, ready_bytes(&f->blob));
    return MR_OK;
}

static size_t on_header(char *line, size_t size, size_t n, void *self) {
    slot *s = self;
    mr_hub_reply_line(s->reply, line, size * n, mr_wall_s());
    return size * n;
}

static size_t on_bytes(char *data, size_t size, size_t n, void *self) {
    slot *s = self;
    if (s->reply->status != 200 && s->reply->status != 206) return size * n; /* the text of an error: nobody reads it */
    if (s->st == MR_OK && !s->checked) s->st = check_head(s);
    if (s->st == MR_OK) s->st = take(s, data, size * n);
    return s->st == MR_OK ? size * n : 0;
}

/* ---- connections ---- */

static void start(slot *s) {
    transfer *t = s->t;
    const hub_curl *c = t->h->curl;
    hub_file *f = s->file;
    mr_hub_reply_clear(s->reply);
    s->checked = false;
    hub_curl_set(t->h, s->easy, s->url, t->h->read_timeout_s);
    char range[64];
    snprintf(range, sizeof range, "%lld-%lld", (long long)s->at, (long long)s->to - 1);
    bool all = s->at == 0 && s->to == f->entry->size;
    c->easy_setopt(s->easy, CURLOPT_RANGE, all ? (char *)NULL : range);
    c->multi_add_handle(t->multi, s->easy);
    s->running = true;
}

static void start_at_beginning(slot *s) {
    const hub *h = s->t->h;
    mr_free(s->url);
    s->url = s->file->direct ? mr_strdup(s->file->direct) : hub_url(h, true, s->file->entry->path);
    s->hops = s->file->direct ? 1 : 0;
    if (s->file->whole) s->at = s->from = s->marked = 0, s->to = s->file->entry->size;
    start(s);
}

static void halt(slot *s) {
    if (s->running) s->t->h->curl->multi_remove_handle(s->t->multi, s->easy);
    s->running = false;
}

/* The slot is free again; what it did not finish may be claimed by another. */
static void release(slot *s) {
    hub_file *f = s->file;
    halt(s);
    if (!f) return;
    for (int64_t k = s->from / HUB_BLOCK; f->claimed && k < f->blob.n_blocks && k * HUB_BLOCK < s->to; k++) {
        if (f->blob.here[k] != HUB_HERE && f->claimed[k]) {
            f->claimed[k] = 0;
            if (k < f->next) f->next = k;
        }
    }
    f->n_slots--;
    s->file = NULL;
}

/* Claims the next span of blocks that nobody has. */
static bool claim(slot *s, hub_file *f) {
    hub_blob *b = &f->blob;
    while (f->next < b->n_blocks && (f->claimed[f->next] || b->here[f->next] == HUB_HERE)) f->next++;
    if (f->next == b->n_blocks) return false;
    int64_t span = (b->n_blocks - f->next + s->t->n_slots - 1) / s->t->n_slots, k = f->next;
    if (span > s->span) span = (int64_t)s->span; /* at first as small as may be */
    span = span < SPAN_MIN ? SPAN_MIN : span > SPAN_MAX ? SPAN_MAX : span;
    if (f->whole) span = b->n_blocks;
    for (int64_t n = 0; n < span && k < b->n_blocks && !f->claimed[k] && b->here[k] != HUB_HERE; n++)
        f->claimed[k++] = 1;
    s->file = f;
    s->from = s->at = s->marked = f->next * HUB_BLOCK;
    s->to = k == b->n_blocks ? f->entry->size : k * HUB_BLOCK;
    s->st = MR_OK;
    s->tries = 0;
    f->n_slots++;
    f->next = k;
    return true;
}

/* ---- files ---- */

static void forget(transfer *t, hub_file *f, bool discard) {
    hub_blob_close(&f->blob, t->cache, discard);
    mr_free(f->claimed);
    mr_free(f->direct);
    f->claimed = NULL;
    f->direct = NULL;
    t->n_open--;
}

static void done(transfer *t, hub_file *f) {
    f->state = HUB_DONE;
    t->n_done++;
}

static mr_status open_file(transfer *t, hub_file *f) {
    int lock;
    MR_TRY(hub_cache_lock(&lock, t->cache, f->entry, t->err));
    bool has;
    mr_status st = hub_cache_has(&has, t->cache, f->entry, t->err); /* another program may have been faster */
    if (st == MR_OK && has) {
        if (lock >= 0) close(lock);
        t->here += f->entry->size;
        done(t, f);
        return MR_OK;
    }
    if (lock < 0) {
        f->state = HUB_WAITING;
        f->not_before = mr_now_s() + 0.2;
        return st;
    }
    if (st != MR_OK) {
        close(lock);
        return st;
    }
    MR_TRY(hub_blob_open(&f->blob, t->cache, f->entry, lock, t->err));
    f->claimed = mr_alloc((size_t)f->blob.n_blocks + 1);
    f->next = 0;
    f->known = f->whole = false;
    f->state = HUB_ACTIVE;
    t->n_open++;
    if (f->blob.resumed)
        mr_debug("%s: %lld of %lld bytes are here already", f->entry->path, (long long)hub_blob_bytes(&f->blob),
                 (long long)f->entry->size);
    t->here += hub_blob_bytes(&f->blob);
    hub_hasher_begin(&t->hasher, f);
    return MR_OK;
}

/* The hasher has spoken. */
static mr_status end_file(transfer *t, hub_file *f) {
    for (int i = 0; i < t->n_slots; i++)
        if (t->slots[i].file == f) release(&t->slots[i]);
    if (f->st != MR_OK) {
        *t->err = f->err;
        return f->st;
    }
    if (f->good) {
        forget(t, f, false);
        t->fetched_files++;
        mr_debug("%s: %lld bytes, %s is right", f->entry->path, (long long)f->entry->size,
                 f->entry->sha256 ? "SHA-256" : "git's SHA-1");
        done(t, f);
        return MR_OK;
    }
    bool resumed = f->blob.resumed;
    forget(t, f, true);
    if (resumed && !f->again) {
        mr_warn("%s: the part that was here is damaged; downloading it again", f->entry->path);
        t->here -= f->entry->size;
        f->again = true;
        f->state = HUB_PENDING;
        return MR_OK;
    }
    return mr_fail(t->err, MR_EDATA,
                   "%s: %s is %s, the hub's list says %s: not the file that was announced; thrown away", f->entry->path,
                   f->entry->sha256 ? "SHA-256" : "git's SHA-1", f->hex, f->entry->hash);
}

static mr_status end_files(transfer *t) {
    for (int i = 0; i < t->n_files; i++) {
        hub_file *f = &t->files[i];
        if (f->state == HUB_ACTIVE && hub_hasher_finished(&t->hasher, f)) MR_TRY(end_file(t, f));
    }
    return MR_OK;
}

/* Gives work to a free slot; opens files in their order. */
static mr_status feed(transfer *t, slot *s, bool *fed) {
    *fed = false;
    for (int i = 0; i < t->n_files && !*fed; i++) {
        hub_file *f = &t->files[i];
        if (t->n_open >= MAX_OPEN && f->state != HUB_ACTIVE) continue;
        if (f->state == HUB_PENDING || (f->state == HUB_WAITING && mr_now_s() >= f->not_before))
            MR_TRY(open_file(t, f));
        if (f->state != HUB_ACTIVE || (f->n_slots > 0 && (!f->known || f->whole))) continue;
        *fed = claim(s, f);
    }
    if (*fed) start_at_beginning(s);
    return MR_OK;
}

/* ---- answers that end ---- */

/* Once more, later, from where it broke off. */
static mr_status try_again(slot *s, mr_status st) {
    hub_file *f = s->file;
    if (s->at - s->marked >= HUB_BLOCK) s->tries = 0; /* slow is not stuck */
    s->marked = s->at;
    if (++s->tries >= s->t->h->opts.tries) return st;
    double wait = hub_backoff(s->reply, s->tries, s->url, s->t->err);
    if (wait < 0) return MR_ENET;
    mr_debug("%s; byte %lld, again in %.2g s", s->t->err ? s->t->err->msg : f->entry->path, (long long)s->at, wait);
    s->not_before = mr_now_s() + wait;
    return MR_OK;
}

static mr_status redirected(slot *s) {
    transfer *t = s->t;
    MR_TRY(check_hashes(s));
    char next[MR_HUB_URL_MAX], shown[256];
    mr_hub_url_shown(shown, s->url);
    if (++s->hops > HUB_REDIRECTS)
        return mr_fail(t->err, MR_ENET, "%s: sends us on more than %d times; try again later", shown, HUB_REDIRECTS);
    MR_TRY(mr_hub_redirect(next, s->url, s->reply->location, t->h->setup.endpoint, t->err));
    mr_free(s->url);
    s->url = mr_strdup(next);
    start(s);
    return MR_OK;
}

/* A request is worth ten times the shortest wait for a first byte so far: longer ones are our own queue. From a server that answers at once come small spans, so
 * that the file is whole from its beginning as far as possible and the hasher is never far behind. */
static void learn_span(slot *s) {
    const hub_curl *c = s->t->h->curl;
    curl_off_t asked = 0, first = 0, end = 0;
    c->easy_getinfo(s->easy, CURLINFO_PRETRANSFER_TIME_T, &asked);
    c->easy_getinfo(s->easy, CURLINFO_STARTTRANSFER_TIME_T, &first);
    c->easy_getinfo(s->easy, CURLINFO_TOTAL_TIME_T, &end);
    double wait = (double)(first - asked), took = (double)(end - first + 1), *least = &s->t->least_wait;
    if (*least == 0 || wait < *least) *least = wait;
    s->span = 1 + 10 * *least / took * (double)(s->at - s->from) / HUB_BLOCK;
}

static mr_status ended(slot *s, CURLcode code) {
    transfer *t = s->t;
    hub_file *f = s->file;
    halt(s);
    if (s->st != MR_OK) return s->st;
    if (code != CURLE_OK) {
        mr_status st = hub_curl_fail(t->h, code, s->url, t->err);
        bool again = hub_curl_again(code) || code == CURLE_COULDNT_RESOLVE_HOST; /* it was known a moment ago */
        return again && st == MR_ENET ? try_again(s, st) : st;
    }
    int status = s->reply->status;
    if (status == 200 || status == 206) {
        if (!s->checked) MR_TRY(check_head(s));
        if (s->at < s->to)
            return try_again(s,
                             mr_fail(t->err, MR_ENET, "%s: broke off at byte %lld; try again: what has arrived is kept",
                                     f->entry->path, (long long)s->at));
        learn_span(s);
        release(s);
        return MR_OK;
    }
    if (status >= 301 && status <= 308 && s->reply->location[0]) return redirected(s);
    mr_status st = hub_status_fail(t->h, s->reply, s->url, t->err);
    if (s->hops > 0 && status >= 400 && status < 500 && status != 429) { /* signed links expire */
        mr_free(f->direct);
        f->direct = NULL;
        return try_again(s, st);
    }
    return hub_status_again(status) ? try_again(s, st) : st;
}

static mr_status read_messages(transfer *t, bool *any) {
    const hub_curl *c = t->h->curl;
    int left;
    *any = false;
    for (CURLMsg *m; (m = c->multi_info_read(t->multi, &left));) {
        if (m->msg != CURLMSG_DONE) continue;
        *any = true;
        CURLcode code = m->data.result;
        for (int i = 0; i < t->n_slots; i++)
            if (t->slots[i].easy == m->easy_handle) {
                MR_TRY(ended(&t->slots[i], code));
                break;
            }
    }
    return MR_OK;
}

/* ---- the whole ---- */

static void tell(transfer *t) {
    double now = mr_now_s();
    if (!t->h->opts.tell || now - t->told_s < 0.1) return;
    t->told_s = now;
    int at = t->n_samples++ % SAMPLES, first = t->n_samples > SAMPLES ? t->n_samples % SAMPLES : 0;
    t->sample_s[at] = now;
    t->sample_bytes[at] = t->fetched;
    mr_hub_progress p = { .bytes = t->here < t->total ? t->here : t->total, .total_bytes = t->total,
                          .fetched_bytes = t->fetched, .files = t->n_done, .total_files = t->n_files, .eta_s = -1 };
    double s = now - t->sample_s[first];
    if (s > 0) p.bytes_s = (double)(t->fetched - t->sample_bytes[first]) / s;
    if (p.bytes_s > 0) p.eta_s = (double)(t->total - p.bytes) / p.bytes_s;
    bool active = false, waiting = false;
    for (int i = 0; i < t->n_files; i++) {
        hub_file *f = &t->files[i];
        if (f->state == HUB_ACTIVE && (!p.what || f->entry->size > 0)) p.what = f->entry->path, active = true;
        if (f->state == HUB_WAITING) {
            waiting = true;
            if (!p.what) p.what = f->entry->path;
        }
    }
    if (!p.what) p.what = "";
    p.waiting = waiting && !active;
    t->h->opts.tell(t->h->opts.self, &p);
}

static mr_status turn(transfer *t) {
    const hub_curl *c = t->h->curl;
    double now = mr_now_s(), wait = 0.1;
    bool more = true; /* work for a free slot */
    MR_TRY(end_files(t));
    for (int i = 0; i < t->n_slots; i++) {
        slot *s = &t->slots[i];
        if (!s->file) {
            if (more) MR_TRY(feed(t, s, &more));
        } else if (!s->running && now >= s->not_before) {
            start_at_beginning(s);
        } else if (!s->running && s->not_before - now < wait) {
            wait = s->not_before - now;
        }
    }
    int running;
    c->multi_perform(t->multi, &running);
    bool any; /* a connection is free: the next turn gives it work before anything waits */
    MR_TRY(read_messages(t, &any));
    if (!any && t->n_done < t->n_files) c->multi_poll(t->multi, NULL, 0, (int)(1000 * wait) + 1, NULL);
    tell(t);
    if (t->h->opts.stop && t->h->opts.stop(t->h->opts.self))
        return mr_fail(t->err, MR_ESIGNAL, "%s: stopped; the same command goes on where it was", t->h->name.repo);
    return MR_OK;
}

static void wake(void *self) {
    transfer *t = self;
    t->h->curl->multi_wakeup(t->multi);
}

static mr_status open_slots(transfer *t) {
    const hub_curl *c = t->h->curl;
    t->slots = mr_alloc((size_t)t->n_slots * sizeof *t->slots);
    t->multi = c->multi_init();
    if (!t->multi) return mr_fail(t->err, MR_EINTERNAL, "libcurl gives no handle");
    c->multi_setopt(t->multi, CURLMOPT_MAXCONNECTS, (long)t->n_slots + 4);
    for (int i = 0; i < t->n_slots; i++) {
        slot *s = &t->slots[i];
        s->t = t;
        s->reply = mr_alloc(sizeof *s->reply);
        s->easy = c->easy_init();
        if (!s->easy) return mr_fail(t->err, MR_EINTERNAL, "libcurl gives no handle");
        c->easy_setopt(s->easy, CURLOPT_HEADERFUNCTION, on_header);
        c->easy_setopt(s->easy, CURLOPT_HEADERDATA, s);
        c->easy_setopt(s->easy, CURLOPT_WRITEFUNCTION, on_bytes);
        c->easy_setopt(s->easy, CURLOPT_WRITEDATA, s);
    }
    return MR_OK;
}

static void close_all(transfer *t) {
    const hub_curl *c = t->h->curl;
    for (int i = 0; t->slots && i < t->n_slots; i++) {
        slot *s = &t->slots[i];
        if (!s->t) continue;
        release(s);
        if (s->easy) c->easy_cleanup(s->easy);
        mr_free(s->url);
        mr_free(s->reply);
    }
    hub_hasher_stop(&t->hasher);
    if (t->multi) c->multi_cleanup(t->multi);
    for (int i = 0; i < t->n_files; i++) {
        hub_file *f = &t->files[i];
        if (f->hash) hub_hash_end(f->hash, f->hex);
        if (f->state == HUB_ACTIVE) forget(t, f, false);
    }
    mr_free(t->slots);
    mr_free(t->files);
}

mr_status hub_transfer(hub_transfer_result *out, hub *h, hub_cache *cache, hub_list *list, mr_err *err) {
    mr_err own;
    transfer t = { .h = h, .cache = cache, .n_slots = h->opts.connections, .err = err ? err : &own };
    *out = (hub_transfer_result){ 0 };
    t.files = mr_alloc(((size_t)list->n + 1) * sizeof *t.files);
    for (int i = 0; i < list->n; i++)
        if (list->items[i].wanted) {
            t.files[t.n_files] = (hub_file){ .entry = &list->items[i], .blob = { .fd = -1, .lock = -1 } };
            t.total += t.files[t.n_files++].entry->size;
        }
    t.hasher = (hub_hasher){ .files = t.files, .n_files = t.n_files, .cache = cache, .done = wake, .self = &t };
    mr_status st = open_slots(&t);
    if (st == MR_OK) st = hub_hasher_start(&t.hasher, t.err);
    while (st == MR_OK && t.n_done < t.n_files) st = turn(&t);
    close_all(&t);
    *out = (hub_transfer_result){ t.fetched_files, t.fetched };
    return st;
}
