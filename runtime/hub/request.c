/* request.c - one answer as text: redirects, tries, limits. */
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/proc.h"
#include "hub/hub_impl.h"

typedef struct request {
    hub *h;
    mr_hub_reply *reply;
    mr_str *body;
    size_t max_bytes;
    bool too_long;
} request;

static size_t on_header(char *line, size_t size, size_t n, void *self) {
    request *q = self;
    mr_hub_reply_line(q->reply, line, size * n, mr_wall_s());
    return size * n;
}

static size_t on_bytes(char *data, size_t size, size_t n, void *self) {
    request *q = self;
    if (size * n > q->max_bytes - q->body->len) {
        q->too_long = true;
        return 0;
    }
    mr_str_add(q->body, data, size * n);
    return size * n;
}

static int on_progress(void *self, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d) {
    (void)a, (void)b, (void)c, (void)d;
    const request *q = self;
    return q->h->opts.stop && q->h->opts.stop(q->h->opts.self);
}

/* Sleeps in small pieces; false when stop() said so. */
static bool sleep_for(const hub *h, double s) {
    for (double end = mr_now_s() + s; mr_now_s() < end;) {
        if (h->opts.stop && h->opts.stop(h->opts.self)) return false;
        double left = end - mr_now_s(), piece = left < 0.05 ? left : 0.05;
        /* wait: 50 ms, until `end` */
        if (piece > 0) nanosleep(&(struct timespec){ .tv_nsec = (long)(piece * 1e9) }, NULL);
    }
    return true;
}

static mr_status stopped(const hub *h, mr_err *err) {
    return mr_fail(err, MR_ESIGNAL, "%s: stopped; the same command goes on where it was", h->name.repo);
}

/* One URL, once. *again: the failure in err is worth another try. */
static mr_status once(request *q, CURL *easy, const char *url, bool *again, mr_err *err) {
    hub *h = q->h;
    const hub_curl *c = h->curl;
    char shown[256];
    mr_hub_url_shown(shown, url);
    *again = false;
    q->body->len = 0;
    q->too_long = false;
    mr_hub_reply_clear(q->reply);
    hub_curl_set(h, easy, url, h->list_timeout_s);
    CURLcode code = c->easy_perform(easy);
    if (code == CURLE_ABORTED_BY_CALLBACK && h->opts.stop && h->opts.stop(h->opts.self)) return stopped(h, err);
    if (q->too_long)
        return mr_fail(err, MR_EDATA, "%s: the answer is longer than %zu bytes, the most that medrl reads here", shown,
                       q->max_bytes);
    if (code != CURLE_OK) {
        *again = hub_curl_again(code);
        return hub_curl_fail(h, code, url, err);
    }
    if (q->reply->encoding[0] && strcmp(q->reply->encoding, "identity") != 0)
        return mr_fail(err, MR_EREFUSED, "%s: the answer is packed (%s), which was not asked for; refused", shown,
                       q->reply->encoding);
    if (q->reply->status == 200 || (q->reply->status >= 301 && q->reply->status <= 308 && q->reply->location[0]))
        return MR_OK;
    *again = hub_status_again(q->reply->status);
    return hub_status_fail(h, q->reply, url, err);
}

static mr_status follow(request *q, CURL *easy, char *url, mr_err *err) {
    hub *h = q->h;
    char next[MR_HUB_URL_MAX], shown[256];
    int tries = 0;
    for (int hops = 0;;) {
        bool again;
        mr_status st = once(q, easy, url, &again, err);
        if (st == MR_OK && q->reply->status == 200) return MR_OK;
        if (st == MR_OK) {
            mr_hub_url_shown(shown, url);
            if (++hops > HUB_REDIRECTS)
                return mr_fail(err, MR_ENET, "%s: sends us on more than %d times; check HF_ENDPOINT", shown,
                               HUB_REDIRECTS);
            MR_TRY(mr_hub_redirect(next, url, q->reply->location, h->setup.endpoint, err));
            strcpy(url, next);
            continue;
        }
        if (!again || ++tries >= h->opts.tries) return st;
        double wait = hub_backoff(q->reply, tries, url, err);
        if (wait < 0) return MR_ENET;
        mr_debug("%s; again in %.2g s", err ? err->msg : "failed", wait);
        if (!sleep_for(h, wait)) return stopped(h, err);
    }
}

mr_status hub_get(hub *h, mr_str *body, mr_hub_reply *reply, const char *url, size_t max_bytes, mr_err *err) {
    const hub_curl *c = h->curl;
    CURL *easy = c->easy_init();
    if (!easy) return mr_fail(err, MR_EINTERNAL, "libcurl gives no handle");
    request q = { .h = h, .reply = reply, .body = body, .max_bytes = max_bytes };
    c->easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    c->easy_setopt(easy, CURLOPT_HEADERDATA, &q);
    c->easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_bytes);
    c->easy_setopt(easy, CURLOPT_WRITEDATA, &q);
    c->easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, on_progress);
    c->easy_setopt(easy, CURLOPT_XFERINFODATA, &q);
    c->easy_setopt(easy, CURLOPT_NOPROGRESS, 0L);
    char *at = mr_alloc(MR_HUB_URL_MAX);
    snprintf(at, MR_HUB_URL_MAX, "%s", url);
    mr_status st = follow(&q, easy, at, err);
    c->easy_cleanup(easy);
    mr_free(at);
    return st;
}

char *hub_url(const hub *h, bool resolve, const char *rest) {
    mr_str s = { 0 };
    mr_str_puts(&s, h->setup.endpoint);
    if (resolve)
        mr_str_puts(&s, h->name.dataset ? "/datasets/" : "/");
    else
        mr_str_puts(&s, h->name.dataset ? "/api/datasets/" : "/api/models/");
    mr_hub_escape(&s, h->name.repo, true);
    if (resolve) {
        mr_str_printf(&s, "/resolve/%s/", h->commit);
        mr_hub_escape(&s, rest, true);
    } else {
        mr_str_puts(&s, rest);
    }
    return mr_str_steal(&s);
}
