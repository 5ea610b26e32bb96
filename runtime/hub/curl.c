/* curl.c - libcurl, opened when it is wanted, and what all requests have in common. */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/proc.h"
#include "hub/hub_impl.h"

static hub_curl library;
static bool is_open;

mr_status hub_curl_open(const hub_curl **out, mr_err *err) {
    *out = NULL;
    if (!is_open) {
        /* The same library with another TLS below it, whichever is installed. */
        static const char *const names[] = { "libcurl.so.4", "libcurl-gnutls.so.4" };
        void *so = NULL;
        for (size_t i = 0; !so && i < sizeof names / sizeof names[0]; i++) so = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (!so)
            return mr_fail(err, MR_ENET,
                           "downloading needs libcurl, which is not installed here; apt-get install libcurl4");
        bool all = true;
#define HUB_LOAD(name) all = (*(void **)&library.name = dlsym(so, "curl_" #name)) != NULL && all;
        HUB_CURL(HUB_LOAD)
#undef HUB_LOAD
        if (!all || library.global_init(CURL_GLOBAL_DEFAULT) != 0) {
            dlclose(so);
            return mr_fail(err, MR_ENET, "libcurl is too old, want 7.85 or later; apt-get install libcurl4");
        }
        is_open = true;
    }
    *out = &library;
    return MR_OK;
}

mr_status mr_hub_library(const char **version, mr_err *err) {
    const hub_curl *c;
    MR_TRY(hub_curl_open(&c, err));
    *version = c->version();
    return MR_OK;
}

/* Names resolve to whatever their owner likes: the address itself is looked at, too. */
static curl_socket_t open_socket(void *self, curlsocktype purpose, struct curl_sockaddr *a) {
    hub *h = self;
    char text[INET6_ADDRSTRLEN] = "";
    if (purpose == CURLSOCKTYPE_IPCXN && a->family == AF_INET)
        inet_ntop(AF_INET, &((struct sockaddr_in *)&a->addr)->sin_addr, text, sizeof text);
    if (purpose == CURLSOCKTYPE_IPCXN && a->family == AF_INET6)
        inet_ntop(AF_INET6, &((struct sockaddr_in6 *)&a->addr)->sin6_addr, text, sizeof text);
    if (text[0] && (mr_hub_is_link_local(text) || (mr_hub_is_loopback(text) && !h->local_endpoint && !h->proxied))) {
        snprintf(h->refused, sizeof h->refused, "%s", text);
        return CURL_SOCKET_BAD;
    }
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

void hub_curl_set(hub *h, CURL *easy, const char *url, double timeout_s) {
    const hub_curl *c = h->curl;
    c->easy_setopt(easy, CURLOPT_URL, url);
    c->easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    c->easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L); /* mr_hub_redirect decides */
    c->easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1); /* ranges want connections of their own */
    c->easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    c->easy_setopt(easy, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    c->easy_setopt(easy, CURLOPT_USERAGENT, "medrl");
    c->easy_setopt(easy, CURLOPT_BUFFERSIZE, 256L << 10);
    c->easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)(1000 * (timeout_s < 20 ? timeout_s : 20)));
    c->easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 512L); /* bytes a second: whoever is slower wants to hold us */
    c->easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, (long)timeout_s);
    c->easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    c->easy_setopt(easy, CURLOPT_OPENSOCKETDATA, h);
    bool ours = h->authorization && mr_hub_same_origin(url, h->setup.endpoint);
    c->easy_setopt(easy, CURLOPT_HTTPHEADER, ours ? h->headers_with_token : h->headers);
}

bool hub_curl_again(CURLcode code) {
    switch (code) {
    case CURLE_COULDNT_CONNECT:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_PARTIAL_FILE:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_SSL_CONNECT_ERROR: return true;
    default: return false;
    }
}

bool hub_status_again(int status) {
    return status == 408 || status == 429 || status == 500 || status == 502 || status == 503 || status == 504;
}

mr_status hub_curl_fail(hub *h, CURLcode code, const char *url, mr_err *err) {
    char shown[256];
    mr_hub_url_shown(shown, url);
    if (h->refused[0])
        return mr_fail(err, MR_EREFUSED, "%s: its name leads to %s, an address inside this machine or its network; "
                                         "refused", shown, h->refused);
    switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
        return mr_fail(err, MR_ENET, "%s: the host's name is not known here; check the network, or HF_ENDPOINT", shown);
    case CURLE_COULDNT_RESOLVE_PROXY:
        return mr_fail(err, MR_ENET, "%s: the name of the proxy is not known; check https_proxy", shown);
    case CURLE_OPERATION_TIMEDOUT:
        return mr_fail(err, MR_ENET, "%s: too slow: no answer, or less than 512 bytes a second, for a while; try again",
                       shown);
    case CURLE_PEER_FAILED_VERIFICATION:
        return mr_fail(err, MR_ENET, "%s: the certificate cannot be trusted; apt-get install ca-certificates, or ask who "
                                     "runs this network", shown);
    case CURLE_UNSUPPORTED_PROTOCOL: return mr_fail(err, MR_EREFUSED, "%s: not http or https", shown);
    default:
        return mr_fail(err, MR_ENET, "%s: %s; check the network and try again: what has arrived is kept", shown,
                       h->curl->easy_strerror(code));
    }
}

mr_status hub_status_fail(const hub *h, const mr_hub_reply *r, const char *url, mr_err *err) {
    char shown[256];
    mr_hub_url_shown(shown, url);
    const char *what = h->name.dataset ? "data set" : "model";
    bool with = h->authorization != NULL;
    switch (r->status) {
    case 401:
    case 403:
        return mr_fail(err, MR_EINVAL,
                       "%s \"%s\": the hub refuses (HTTP %d): %s; a gated one wants its terms accepted on %s/%s%s", what,
                       h->name.repo, r->status,
                       with ? "the token does not open it" : "there is no such name, or it wants a token (HF_TOKEN)",
                       h->setup.endpoint, h->name.dataset ? "datasets/" : "", h->name.repo);
    case 404:
        return mr_fail(err, MR_ENOTFOUND, "%s \"%s\" at revision \"%s\" is not on %s (HTTP 404 for %s); check the name%s", what,
                       h->name.repo, h->name.revision, h->setup.endpoint, shown,
                       with ? "" : ", or set HF_TOKEN for a private one");
    default:
        return mr_fail(err, MR_ENET, "%s: the server answers with HTTP %d; try again later", shown, r->status);
    }
}

double hub_backoff(const mr_hub_reply *r, int tries, const char *url, mr_err *err) {
    double wait = 0.25;
    for (int i = 1; i < tries && wait < 8; i++) wait *= 2;
    if (wait > 8) wait = 8;
    if (r->retry_after_s > wait) wait = r->retry_after_s;
    if (wait <= HUB_RETRY_AFTER_MAX_S) return wait;
    char shown[256];
    mr_hub_url_shown(shown, url);
    mr_fail(err, MR_ENET, "%s: the server answers with HTTP %d and asks to wait %.0f s; call this again then", shown,
            r->status, wait);
    return -1;
}
