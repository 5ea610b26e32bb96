/* url.c - URLs, redirects and the headers of answers (names.h). */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include <arpa/inet.h>

#include "hub/names.h"

/* ---- URLs ---- */

static bool parse_port(int *port, const char *text, size_t len) {
    if (len == 0 || len > 5) return false;
    int n = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        n = 10 * n + (text[i] - '0');
    }
    *port = n;
    return n > 0 && n < 65536;
}

bool mr_hub_url_parse(mr_hub_url *out, const char *text) {
    *out = (mr_hub_url){ 0 };
    size_t len = strlen(text);
    if (len >= MR_HUB_URL_MAX) return false;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] <= 0x20 || (unsigned char)text[i] >= 0x7f || strchr("\\\"<>^`{|}", text[i]))
            return false;
    size_t at = 0;
    if (strncasecmp(text, "https://", 8) == 0) {
        out->https = true;
        at = 8;
    } else if (strncasecmp(text, "http://", 7) == 0) {
        at = 7;
    } else {
        return false;
    }
    out->port = out->https ? 443 : 80;
    size_t n = strcspn(text + at, "/?#"), host = n;
    const char *authority = text + at;
    out->path_at = at + n;
    if (memchr(authority, '@', n) || memchr(authority, '%', n)) return false; /* user names; hosts that hide in escapes */
    if (authority[0] == '[') {
        const char *end = memchr(authority, ']', n);
        if (!end) return false;
        size_t rest = n - (size_t)(end + 1 - authority);
        if (rest && (end[1] != ':' || !parse_port(&out->port, end + 2, rest - 1))) return false;
        authority++;
        host = (size_t)(end - authority);
    } else {
        const char *colon = memchr(authority, ':', n);
        if (colon) {
            host = (size_t)(colon - authority);
            if (!parse_port(&out->port, colon + 1, n - host - 1)) return false;
        }
    }
    if (host == 0 || host >= sizeof out->host) return false;
    for (size_t i = 0; i < host; i++) {
        char c = authority[i];
        if (!isalnum((unsigned char)c) && !strchr(text[at] == '[' ? ":." : "-._", c)) return false;
        out->host[i] = (char)tolower((unsigned char)c);
    }
    struct in6_addr six;
    return text[at] != '[' || inet_pton(AF_INET6, out->host, &six) == 1;
}

bool mr_hub_same_origin(const char *a, const char *b) {
    mr_hub_url x, y;
    return mr_hub_url_parse(&x, a) && mr_hub_url_parse(&y, b) && x.https == y.https && x.port == y.port &&
           strcmp(x.host, y.host) == 0;
}

/* Addresses as inet_aton reads them too: 2130706433, 0x7f.1. */
static bool address_of(const char *host, uint32_t *four, struct in6_addr *six, bool *is_six) {
    struct in_addr a;
    *is_six = inet_pton(AF_INET6, host, six) == 1;
    if (*is_six) {
        if (!IN6_IS_ADDR_V4MAPPED(six)) return true;
        *is_six = false;
        memcpy(four, six->s6_addr + 12, 4);
        *four = ntohl(*four);
        return true;
    }
    if (!inet_aton(host, &a)) return false;
    *four = ntohl(a.s_addr);
    return true;
}

bool mr_hub_is_loopback(const char *host) {
    size_t n = strlen(host);
    uint32_t four = 0;
    struct in6_addr six;
    bool is_six;
    if (strcmp(host, "localhost") == 0 || (n > 10 && strcmp(host + n - 10, ".localhost") == 0)) return true;
    if (!address_of(host, &four, &six, &is_six)) return false;
    return is_six ? IN6_IS_ADDR_LOOPBACK(&six) : four >> 24 == 127;
}

bool mr_hub_is_link_local(const char *host) {
    uint32_t four = 0;
    struct in6_addr six;
    bool is_six;
    if (!address_of(host, &four, &six, &is_six)) return false;
    return is_six ? IN6_IS_ADDR_LINKLOCAL(&six) || IN6_IS_ADDR_UNSPECIFIED(&six)
                  : four >> 16 == 0xa9fe || four >> 24 == 0;
}

void mr_hub_url_shown(char out[256], const char *url) {
    size_t n = strcspn(url, "?#");
    if (n > 200) n = 200;
    for (size_t i = 0; i < n; i++) out[i] = (unsigned char)url[i] < 0x20 || url[i] == 0x7f ? '?' : url[i];
    out[n] = '\0';
}

static bool put(char out[MR_HUB_URL_MAX], const char *head, size_t len, const char *tail) {
    size_t n = strcspn(tail, "#"); /* a fragment is the reader's own */
    if (len + n >= MR_HUB_URL_MAX) return false;
    memcpy(out, head, len);
    memcpy(out + len, tail, n);
    out[len + n] = '\0';
    return true;
}

/* RFC 3986, 5.2, but for "../": no hub sends it, and an absolute path says the same. */
static bool resolve(char out[MR_HUB_URL_MAX], const char *from, const mr_hub_url *base, const char *location) {
    size_t scheme = base->https ? 6 : 5, path = base->path_at;
    if (strncmp(location, "//", 2) == 0) return put(out, from, scheme, location);
    if (location[0] == '/') return put(out, from, path, location);
    if (location[0] == '?') return put(out, from, path + strcspn(from + path, "?#"), location);
    if (strcspn(location, ":") < strcspn(location, "/?#")) return put(out, "", 0, location); /* it names a scheme */
    return false;
}

mr_status mr_hub_redirect(char out[MR_HUB_URL_MAX], const char *from, const char *location, const char *endpoint,
                          mr_err *err) {
    out[0] = '\0';
    mr_hub_url base, to, home;
    char at[256], shown[256];
    mr_hub_url_shown(at, from);
    mr_hub_url_shown(shown, location);
    if (!mr_hub_url_parse(&base, from) || !mr_hub_url_parse(&home, endpoint))
        return mr_fail(err, MR_EINTERNAL, "%s: a redirect of no URL", at);
    char next[MR_HUB_URL_MAX];
    if (!location[0] || !resolve(next, from, &base, location) || !mr_hub_url_parse(&to, next))
        return mr_fail(err, MR_EREFUSED, "%s: sends us on to \"%s\", which is no http or https address; not followed", at,
                       shown);
    if (base.https && !to.https)
        return mr_fail(err, MR_EREFUSED, "%s: sends us on from https to %s, where anybody can read along; not followed",
                       at, shown);
    if (mr_hub_is_link_local(to.host) || (mr_hub_is_loopback(to.host) && !mr_hub_is_loopback(home.host)))
        return mr_fail(err, MR_EREFUSED,
                       "%s: sends us on to %s, an address inside this machine or its network; not followed", at, shown);
    strcpy(out, next);
    return MR_OK;
}

/* ---- answers ---- */

void mr_hub_reply_clear(mr_hub_reply *r) {
    r->status = 0;
    r->length = r->range_from = r->range_total = r->linked_size = -1;
    r->retry_after_s = -1;
    r->etag[0] = r->linked_etag[0] = r->type[0] = r->encoding[0] = r->location[0] = r->next[0] = '\0';
}

/* A whole number that is all of the text up to `end`, else -1. */
static int64_t number(const char *text, const char *end) {
    int64_t n = 0;
    if (text == end) return -1;
    for (; text < end; text++) {
        if (*text < '0' || *text > '9' || n > (INT64_MAX - 9) / 10) return -1;
        n = 10 * n + (*text - '0');
    }
    return n;
}

static void copy(char *out, size_t size, const char *text, size_t len, bool lower) {
    out[0] = '\0';
    if (len >= size) return;
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] < 0x20 || (unsigned char)text[i] >= 0x7f) {
            out[0] = '\0';
            return;
        }
        out[i] = lower ? (char)tolower((unsigned char)text[i]) : text[i];
    }
    out[len] = '\0';
}

static void copy_etag(char out[128], const char *text, size_t len) {
    if (len > 2 && text[0] == 'W' && text[1] == '/') text += 2, len -= 2;
    if (len > 1 && text[0] == '"' && text[len - 1] == '"') text++, len -= 2;
    copy(out, 128, text, len, false);
}

/* "bytes 0-99/1234" */
static void content_range(mr_hub_reply *r, const char *text, const char *end) {
    if (end - text < 6 || strncasecmp(text, "bytes ", 6) != 0) return;
    text += 6;
    const char *dash = memchr(text, '-', (size_t)(end - text)), *slash = memchr(text, '/', (size_t)(end - text));
    if (!dash || !slash || dash > slash) return;
    r->range_from = number(text, dash);
    r->range_total = number(slash + 1, end);
}

/* Seconds, or a date (RFC 9110, 5.6.7: "Sun, 06 Nov 1994 08:49:37 GMT"). */
static double retry_after(const char *text, const char *end, double now_s) {
    int64_t s = number(text, end);
    if (s >= 0) return (double)s;
    char date[64];
    copy(date, sizeof date, text, (size_t)(end - text), false);
    struct tm t = { 0 };
    const char *rest = strptime(date, "%a, %d %b %Y %H:%M:%S GMT", &t);
    if (!rest || *rest) return -1;
    double wait = (double)timegm(&t) - now_s;
    return wait > 0 ? wait : 0;
}

/* <URL>; rel="next" among others. */
static void link_next(mr_hub_reply *r, const char *text, const char *end) {
    while (text < end) {
        const char *open = memchr(text, '<', (size_t)(end - text));
        const char *close = open ? memchr(open, '>', (size_t)(end - open)) : NULL;
        if (!close) return;
        const char *comma = memchr(close, ',', (size_t)(end - close)), *stop = comma ? comma : end;
        static const char want[] = "rel=\"next\"";
        for (const char *p = close; p + sizeof want - 1 <= stop; p++)
            if (strncasecmp(p, want, sizeof want - 1) == 0) {
                copy(r->next, sizeof r->next, open + 1, (size_t)(close - open - 1), false);
                return;
            }
        text = stop + 1;
    }
}

static bool is(const char *line, size_t len, const char *name) {
    return strlen(name) == len && strncasecmp(line, name, len) == 0;
}

static void field(mr_hub_reply *r, const char *line, size_t name, const char *value, const char *end, double now_s) {
    size_t n = (size_t)(end - value), plain = 0;
    while (plain < n && value[plain] != ';' && value[plain] != ' ') plain++;
    if (is(line, name, "content-length"))
        r->length = number(value, end);
    else if (is(line, name, "content-range"))
        content_range(r, value, end);
    else if (is(line, name, "content-type"))
        copy(r->type, sizeof r->type, value, plain, true);
    else if (is(line, name, "content-encoding"))
        copy(r->encoding, sizeof r->encoding, value, n, true);
    else if (is(line, name, "etag"))
        copy_etag(r->etag, value, n);
    else if (is(line, name, "x-linked-etag"))
        copy_etag(r->linked_etag, value, n);
    else if (is(line, name, "x-linked-size"))
        r->linked_size = number(value, end);
    else if (is(line, name, "retry-after"))
        r->retry_after_s = retry_after(value, end, now_s);
    else if (is(line, name, "link"))
        link_next(r, value, end);
    else if (is(line, name, "location")) {
        copy(r->location, sizeof r->location, value, n, false);
        if (!r->location[0]) strcpy(r->location, "?");
    }
}

void mr_hub_reply_line(mr_hub_reply *r, const char *line, size_t len, double now_s) {
    while (len > 0 && (line[len - 1] == '\r' || line[len - 1] == '\n' || line[len - 1] == ' ' || line[len - 1] == '\t'))
        len--;
    if (len >= 5 && strncmp(line, "HTTP/", 5) == 0) {
        mr_hub_reply_clear(r);
        const char *space = memchr(line, ' ', len);
        if (space && line + len - space >= 4) r->status = (int)number(space + 1, space + 4);
        if (r->status < 100 || r->status > 599) r->status = 0;
        return;
    }
    const char *colon = memchr(line, ':', len), *value = colon ? colon + 1 : NULL, *end = line + len;
    if (!colon) return;
    while (value < end && (*value == ' ' || *value == '\t')) value++;
    field(r, line, (size_t)(colon - line), value, end, now_s);
}
