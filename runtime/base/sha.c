/* sha.c - SHA-256 by libmd; of more than 64 KiB by OpenSSL's libcrypto where it is installed: it uses the processor's
 * own instructions, five times as fast. It is opened by name at the first such input: nothing else waits for it.
 *
 * Source: FIPS 180-4; OpenSSL 3.0, EVP_DigestInit(3). */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sha2.h>
#include <string.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/watch.h"

enum { SMALL = 1 << 16 }; /* up to so many bytes the milliseconds that opening takes, once, are not worth it */

/* libcrypto's functions that are wanted; its types are opaque. */
static struct {
    bool open;
    void *(*new)(void);
    void (*free)(void *);
    const void *(*sha256)(void);
    int (*init)(void *, const void *, void *);
    int (*update)(void *, const void *, size_t);
    int (*final)(void *, unsigned char *, unsigned *);
} evp;

static void open_evp(void) {
    void *so = dlopen("libcrypto.so.3", RTLD_NOW | RTLD_LOCAL);
    if (!so) return;
    struct {
        void **to;
        const char *name;
    } names[] = { { (void **)&evp.new, "EVP_MD_CTX_new" },      { (void **)&evp.free, "EVP_MD_CTX_free" },
                  { (void **)&evp.sha256, "EVP_sha256" },       { (void **)&evp.init, "EVP_DigestInit_ex" },
                  { (void **)&evp.update, "EVP_DigestUpdate" }, { (void **)&evp.final, "EVP_DigestFinal_ex" } };
    evp.open = true;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        evp.open = (*names[i].to = dlsym(so, names[i].name)) != NULL && evp.open;
}

struct mr_sha {
    enum { FIRST, BY_LIBMD, BY_LIBCRYPTO } by;
    void *fast; /* libcrypto's */
    bool failed;
    SHA2_CTX state; /* libmd's */
    size_t len;     /* in first, while it may yet be a small input */
    uint8_t first[SMALL];
};

mr_sha *mr_sha_new(void) {
    return mr_alloc(sizeof(mr_sha));
}

static void update(mr_sha *s, const void *data, size_t len) {
    if (s->by == BY_LIBMD)
        SHA256Update(&s->state, data, len);
    else if (evp.update(s->fast, data, len) != 1)
        s->failed = true;
}

/* Who counts is decided: by libcrypto where it may and can be. */
static void begin(mr_sha *s, bool large) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (large) pthread_once(&once, open_evp);
    s->fast = large && evp.open ? evp.new() : NULL;
    s->by = s->fast && evp.init(s->fast, evp.sha256(), NULL) == 1 ? BY_LIBCRYPTO : BY_LIBMD;
    if (s->by == BY_LIBMD) SHA256Init(&s->state);
    update(s, s->first, s->len);
}

void mr_sha_add(mr_sha *s, const void *data, size_t len) {
    if (s->by == FIRST && len <= SMALL - s->len) {
        if (len > 0) memcpy(s->first + s->len, data, len);
        s->len += len;
        return;
    }
    if (s->by == FIRST) begin(s, true);
    update(s, data, len);
}

static void write_hex(char hex[65], const uint8_t digest[SHA256_DIGEST_LENGTH]) {
    for (int i = 0; i < SHA256_DIGEST_LENGTH; i++) {
        hex[2 * i] = "0123456789abcdef"[digest[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
    }
    hex[64] = '\0';
}

void mr_sha_end(mr_sha *s, char hex[65]) {
    uint8_t digest[SHA256_DIGEST_LENGTH] = { 0 };
    if (s->by == FIRST) begin(s, false);
    if (s->by == BY_LIBMD)
        SHA256Final(digest, &s->state);
    else if (s->failed || evp.final(s->fast, digest, NULL) != 1)
        memset(digest, 0, sizeof digest); /* nobody's hash: whoever compares refuses */
    if (s->fast) evp.free(s->fast);
    write_hex(hex, digest);
    mr_free(s);
}

void mr_sha256(char hex[65], const void *data, size_t len) {
    if (len <= SMALL) { /* at hand as a whole: no copy is kept */
        SHA2_CTX state;
        uint8_t digest[SHA256_DIGEST_LENGTH];
        SHA256Init(&state);
        if (len > 0) SHA256Update(&state, data, len);
        SHA256Final(digest, &state);
        write_hex(hex, digest);
        return;
    }
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
