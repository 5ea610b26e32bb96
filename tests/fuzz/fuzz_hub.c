/* fuzz_hub.c - what a server, a list of files or a user may write: the first byte chooses. A file name that is accepted stays below its root
 * (checked by making it there and asking realpath), a redirect that is followed is http or https to nothing inside this machine, a token's host
 * is exactly the endpoint's, headers leave every field inside its bounds. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>

#include "fuzz.h"
#include "hub/hub.h"
#include "hub/names.h"

static const char *root(void) {
    static char dir[PATH_MAX], real[PATH_MAX];
    if (!dir[0]) {
        snprintf(dir, sizeof dir, "/dev/shm/medrl-fuzz-hub-%d", (int)getpid());
        if (mkdir(dir, 0700) != 0) snprintf(dir, sizeof dir, "/tmp/medrl-fuzz-hub-%d", (int)getpid()), mkdir(dir, 0700);
        PROMISE(realpath(dir, real), "no folder %s", dir);
    }
    return real;
}

/* Makes the folders above the file and asks where they are; each is removed again. */
static void stays_below(const char *path) {
    char at[PATH_MAX], real[PATH_MAX];
    const char *top = root();
    size_t n = strlen(top);
    snprintf(at, sizeof at, "%s/%s", top, path);
    for (char *p = at + n + 1; (p = strchr(p, '/')); p++) {
        *p = '\0';
        bool made = mkdir(at, 0700) == 0;
        PROMISE(made || errno == EEXIST || errno == ENAMETOOLONG, "%s: %s", at, strerror(errno));
        if (made || errno == EEXIST)
            PROMISE(realpath(at, real) && strncmp(real, top, n) == 0 && real[n] == '/', "%s leads to %s", at, real);
        *p = '/';
    }
    for (char *p; (p = strrchr(at, '/')) > at + n;) {
        *p = '\0';
        rmdir(at);
    }
}

static void file_name(const char *text, size_t len) {
    if (mr_hub_bad_path(text, len)) return;
    PROMISE(strlen(text) == len, "a NUL was accepted");
    if (memchr(text, '/', len)) stays_below(text);
}

static void repository(const char *text) {
    mr_hub_name n, again;
    mr_err err;
    if (mr_hub_name_parse(&n, text, false, &err) != MR_OK) {
        PROMISE(err.msg[0] && !strchr(err.msg, '\n'), "the error is \"%s\"", err.msg);
        return;
    }
    PROMISE(!n.file[0] || !mr_hub_bad_path(n.file, strlen(n.file)), "file %s", n.file);
    PROMISE(!mr_hub_bad_path(n.revision, strlen(n.revision)) && !mr_hub_bad_path(n.repo, strlen(n.repo)), "%s@%s", n.repo, n.revision);
    PROMISE(strchr(n.repo, '/') && strchr(n.repo, '/') == strrchr(n.repo, '/') && !strstr(n.repo, "--"), "repository %s", n.repo);
    char *said = mr_asprintf("hf:%s%s@%s%s%s", n.dataset ? "datasets/" : "models/", n.repo, n.revision, n.file[0] ? "/" : "", n.file);
    PROMISE(mr_hub_name_parse(&again, said, !n.dataset, NULL) == MR_OK && !strcmp(again.repo, n.repo) &&
                !strcmp(again.revision, n.revision) && !strcmp(again.file, n.file) && again.dataset == n.dataset,
            "%s reads as another name", said);
    mr_free(said);
}

static void redirect(const char *text, const char *from, const char *endpoint) {
    static char to[MR_HUB_URL_MAX];
    mr_hub_url u, base;
    mr_err err;
    if (mr_hub_redirect(to, from, text, endpoint, &err) != MR_OK) {
        PROMISE(!to[0] && err.msg[0] && !strchr(err.msg, '\n'), "the error is \"%s\"", err.msg);
        return;
    }
    PROMISE(mr_hub_url_parse(&u, to) && mr_hub_url_parse(&base, from), "%s is no URL", to);
    PROMISE(u.https || !base.https, "from https to %s", to);
    PROMISE(!mr_hub_is_link_local(u.host), "link-local %s", to);
    PROMISE(mr_hub_is_loopback("localhost") && (!mr_hub_is_loopback(u.host) || strstr(endpoint, "127.0.0.1")), "loopback %s", to);
    if (mr_hub_same_origin(to, endpoint))
        PROMISE(strncasecmp(to, endpoint, strlen(endpoint)) == 0 || strchr(to + 8, ':'), "%s is not %s", to, endpoint);
}

static void answer(const char *text, size_t len) {
    static mr_hub_reply r;
    mr_hub_reply_clear(&r);
    while (len > 0) {
        const char *end = memchr(text, '\n', len);
        size_t n = end ? (size_t)(end - text) + 1 : len;
        char *line = malloc(n); /* exactly so long: the sanitizer sees a byte too much */
        memcpy(line, text, n);
        mr_hub_reply_line(&r, line, n, 1e9);
        free(line);
        text += n;
        len -= n;
    }
    PROMISE(r.status == 0 || (r.status >= 100 && r.status <= 599), "status %d", r.status);
    PROMISE(r.length >= -1 && r.range_from >= -1 && r.range_total >= -1 && r.linked_size >= -1, "a negative number");
    PROMISE(r.retry_after_s == -1 || r.retry_after_s >= 0, "waits %g", r.retry_after_s);
    PROMISE(strlen(r.location) < sizeof r.location && strlen(r.next) < sizeof r.next && strlen(r.etag) < sizeof r.etag, "too long");
    for (const char *p = r.location; *p; p++) PROMISE((unsigned char)*p >= 0x20 && (unsigned char)*p < 0x7f, "a control character");
    char shown[256];
    mr_hub_url_shown(shown, r.location);
    PROMISE(!strpbrk(shown, "?#") || r.location[0] == '?', "a query is shown");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size) return 0;
    size_t len = size - 1;
    char *text = mr_strndup((const char *)data + 1, len);
    switch (data[0] % 5) {
    case 0: file_name(text, len); break;
    case 1: repository(text); break;
    case 2: redirect(text, "https://huggingface.co/a/b?c=d", "https://huggingface.co"); break;
    case 3: redirect(text, "http://127.0.0.1:8080/a", "http://127.0.0.1:8080"); break;
    default: answer(text, len); break;
    }
    mr_free(text);
    return 0;
}
