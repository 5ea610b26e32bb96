/* setup.c - where the hub is, where its cache is, and which token goes with it: the environment of the Python tools. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "hub/hub_impl.h"

enum { TOKEN_MAX = 4096 };

static const char *env(const char *key) {
    const char *value = getenv(key);
    return value && *value ? value : NULL;
}

/* As huggingface_hub reads them: 1, ON, YES, TRUE. */
static bool flag(const char *key) {
    const char *v = env(key);
    return v && (!strcmp(v, "1") || !strcasecmp(v, "on") || !strcasecmp(v, "yes") || !strcasecmp(v, "true"));
}

static char *home_of_hub(void) {
    if (env("HF_HOME")) return mr_strdup(env("HF_HOME"));
    if (env("XDG_CACHE_HOME")) return mr_path_join(env("XDG_CACHE_HOME"), "huggingface");
    return mr_path_join(env("HOME") ? env("HOME") : "/", ".cache/huggingface");
}

char *mr_hub_root(void) {
    if (env("HF_HUB_CACHE")) return mr_strdup(env("HF_HUB_CACHE"));
    char *home = home_of_hub(), *root = mr_path_join(home, "hub");
    mr_free(home);
    return root;
}

static mr_status read_endpoint(mr_hub_setup *s, mr_err *err) {
    const char *text = env("HF_ENDPOINT") ? env("HF_ENDPOINT") : "https://huggingface.co";
    mr_hub_url u;
    if (!mr_hub_url_parse(&u, text) || strpbrk(text + u.path_at, "?#"))
        return mr_fail(err, MR_EINVAL, "HF_ENDPOINT is no address of a hub, want https://HOST[:PORT]");
    size_t n = strlen(text);
    while (n > 0 && text[n - 1] == '/') n--;
    s->endpoint = mr_strndup(text, n);
    return MR_OK;
}

/* The token, trimmed; owned, NULL when there is none. A token never stands in a message. */
static mr_status read_token(char **token, char **from, mr_err *err) {
    *token = NULL;
    *from = NULL;
    char *text = NULL;
    size_t len = 0;
    if (env("HF_TOKEN")) {
        text = mr_strdup(env("HF_TOKEN"));
        len = strlen(text);
        *from = mr_strdup("HF_TOKEN");
    } else if (!flag("HF_HUB_DISABLE_IMPLICIT_TOKEN")) {
        char *home = home_of_hub(), *path = env("HF_TOKEN_PATH") ? mr_strdup(env("HF_TOKEN_PATH"))
                                                                  : mr_path_join(home, "token");
        mr_err ignored;
        mr_status st = mr_file_read(&text, &len, path, TOKEN_MAX, &ignored);
        mr_free(home);
        if (st != MR_OK) { /* most people have none */
            mr_free(path);
            return MR_OK;
        }
        *from = path;
    }
    size_t at = 0;
    while (len > at && isspace((unsigned char)text[len - 1])) len--;
    while (at < len && isspace((unsigned char)text[at])) at++;
    bool ok = len - at <= TOKEN_MAX;
    for (size_t i = at; i < len; i++) ok = ok && (unsigned char)text[i] > 0x20 && (unsigned char)text[i] < 0x7f;
    if (ok && len > at) *token = mr_strndup(text + at, len - at);
    if (text) explicit_bzero(text, strlen(text));
    mr_free(text);
    if (!ok) return mr_fail(err, MR_EINVAL, "%s: holds no token of the hub (one word of ASCII)", *from);
    if (!*token) {
        mr_free(*from);
        *from = NULL;
    }
    return MR_OK;
}

static void forget(char *secret) {
    if (secret) explicit_bzero(secret, strlen(secret));
    mr_free(secret);
}

mr_status mr_hub_setup_read(mr_hub_setup *s, mr_err *err) {
    *s = (mr_hub_setup){ .offline = flag("HF_HUB_OFFLINE"), .root = mr_hub_root() };
    char *token = NULL;
    mr_status st = read_endpoint(s, err);
    if (st == MR_OK) st = read_token(&token, &s->token_from, err);
    forget(token);
    if (st != MR_OK) mr_hub_setup_clear(s);
    return st;
}

void mr_hub_setup_clear(mr_hub_setup *s) {
    mr_free(s->endpoint);
    mr_free(s->root);
    mr_free(s->token_from);
    *s = (mr_hub_setup){ 0 };
}

static double seconds(const char *key, double otherwise) {
    const char *text = env(key);
    char *end;
    double s = text ? strtod(text, &end) : otherwise;
    return s >= 1 && s <= 86400 ? s : otherwise;
}

static bool has_proxy(void) {
    static const char *const keys[] = { "http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY" };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (env(keys[i])) return true;
    return false;
}

static mr_status add_token(hub *h, bool https, mr_err *err) {
    char *token = NULL, *from = NULL;
    mr_status st = read_token(&token, &from, err);
    if (st == MR_OK && token && !https && !h->local_endpoint)
        mr_warn("%s is not https: the token of %s stays here", h->setup.endpoint, from);
    else if (st == MR_OK && token)
        h->authorization = mr_asprintf("Authorization: Bearer %s", token);
    forget(token);
    mr_free(from);
    return st;
}

mr_status hub_open(hub *h, const mr_hub_name *name, const mr_hub_opts *opts, mr_err *err) {
    *h = (hub){ .name = *name, .opts = *opts };
    mr_status st = mr_hub_setup_read(&h->setup, err);
    if (st == MR_OK && h->setup.offline)
        st = mr_fail(err, MR_ENET, "%s: HF_HUB_OFFLINE is set, so nothing is downloaded; unset it and call this again",
                     name->repo);
    mr_hub_url u;
    if (st == MR_OK && !mr_hub_url_parse(&u, h->setup.endpoint)) st = mr_fail(err, MR_EINVAL, "HF_ENDPOINT is no URL");
    if (st == MR_OK) {
        h->local_endpoint = mr_hub_is_loopback(u.host);
        h->proxied = has_proxy();
        h->read_timeout_s = seconds("HF_HUB_DOWNLOAD_TIMEOUT", 20);
        h->list_timeout_s = seconds("HF_HUB_ETAG_TIMEOUT", 20);
        if (h->opts.connections <= 0) h->opts.connections = 8;
        if (h->opts.connections > HUB_CONNECTIONS_MAX) h->opts.connections = HUB_CONNECTIONS_MAX;
        if (h->opts.tries <= 0) h->opts.tries = 5;
        st = add_token(h, u.https, err);
    }
    if (st == MR_OK) st = hub_curl_open(&h->curl, err);
    if (st == MR_OK) {
        /* a body that is packed by the server could grow without end when unpacked */
        static const char plain[] = "Accept-Encoding: identity";
        h->headers = h->curl->slist_append(NULL, plain);
        h->headers_with_token = h->curl->slist_append(NULL, plain);
        if (h->authorization) h->headers_with_token = h->curl->slist_append(h->headers_with_token, h->authorization);
    }
    if (st != MR_OK) hub_close(h);
    return st;
}

void hub_close(hub *h) {
    if (h->curl) {
        for (struct curl_slist *s = h->headers_with_token; s; s = s->next) explicit_bzero(s->data, strlen(s->data));
        h->curl->slist_free_all(h->headers);
        h->curl->slist_free_all(h->headers_with_token);
    }
    forget(h->authorization);
    mr_hub_setup_clear(&h->setup);
    *h = (hub){ 0 };
}
