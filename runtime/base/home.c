/* home.c - where medrl's own files and its cache are, and SHA-256. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sha2.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/watch.h"

static char *home_path, *cache_path; /* found once, kept until exit */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static bool has_lua(const char *dir) {
    char *lua = mr_path_join(dir, "lua/medrl");
    bool found = mr_path_is_dir(lua);
    mr_free(lua);
    return found;
}

static void find_home(void) {
    const char *set = getenv("MEDRL_HOME");
    if (set && *set) {
        home_path = mr_strdup(set);
        return;
    }
    char exe[PATH_MAX], *prefix = NULL, *slash;
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = '\0';
    /* build/medrl finds the source tree; /opt/bin/medrl finds /opt/share/medrl */
    while (!home_path && (slash = strrchr(exe, '/'))) {
        *slash = '\0';
        char *share = mr_path_join(exe, "share/medrl");
        const char *hit = has_lua(exe) ? exe : has_lua(share) ? share : NULL;
        if (hit)
            home_path = mr_strdup(hit);
        else if (!prefix && strcmp(mr_path_name(exe), "bin") != 0)
            prefix = mr_strdup(share);
        mr_free(share);
    }
#ifdef MEDRL_SOURCE_DIR
    if (!home_path && has_lua(MEDRL_SOURCE_DIR)) home_path = mr_strdup(MEDRL_SOURCE_DIR);
#endif
    if (!home_path) home_path = mr_strdup(prefix ? prefix : "/usr/share/medrl");
    mr_free(prefix);
}

static void find_cache(void) {
    const char *xdg = getenv("XDG_CACHE_HOME"), *user = getenv("HOME");
    cache_path = xdg && xdg[0] == '/' ? mr_path_join(xdg, "medrl") /* the XDG text: a relative one is ignored */
                 : user && *user      ? mr_path_join(user, ".cache/medrl")
                                      : mr_strdup("/tmp/medrl-cache");
}

static void find_both(void) {
    find_home();
    find_cache();
}

const char *mr_home_dir(void) {
    pthread_once(&once, find_both);
    return home_path;
}

const char *mr_cache_dir(void) {
    pthread_once(&once, find_both);
    return cache_path;
}

struct mr_sha {
    SHA2_CTX state;
};

mr_sha *mr_sha_new(void) {
    mr_sha *s = mr_alloc(sizeof *s);
    SHA256Init(&s->state);
    return s;
}

void mr_sha_add(mr_sha *s, const void *data, size_t len) {
    SHA256Update(&s->state, data, len);
}

void mr_sha_end(mr_sha *s, char hex[65]) {
    uint8_t digest[SHA256_DIGEST_LENGTH];
    SHA256Final(digest, &s->state);
    for (int i = 0; i < SHA256_DIGEST_LENGTH; i++) {
        hex[2 * i] = "0123456789abcdef"[digest[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
    }
    hex[64] = '\0';
    mr_free(s);
}

void mr_sha256(char hex[65], const void *data, size_t len) {
    mr_sha *s = mr_sha_new();
    mr_sha_add(s, data, len);
    mr_sha_end(s, hex);
}

mr_status mr_sha256_file(char hex[65], const char *path, mr_err *err) {
    hex[0] = '\0';
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return mr_fail_errno(err, "%s", path);
    enum { CHUNK = 1 << 16 };
    char *buf = mr_alloc(CHUNK);
    mr_sha *s = mr_sha_new();
    mr_status st = MR_OK;
    for (ssize_t n; (n = read(fd, buf, CHUNK)) != 0;) {
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            st = mr_fail_errno(err, "%s", path);
            break;
        }
        mr_sha_add(s, buf, (size_t)n);
        mr_watch_beat();
    }
    char digest[65];
    mr_sha_end(s, digest);
    if (st == MR_OK) memcpy(hex, digest, sizeof digest);
    mr_free(buf);
    close(fd);
    return st;
}
