/* fuzz_memory.c - files that are bytes in memory: see fuzz.h. A file's bytes end where a page begins that no one may read, or (every
 * fourth time) begin where such a page ends. */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "fuzz.h"

enum { MAX_FILES = 8, PAGE = 4096 };

typedef struct memory_file {
    char path[64];
    uint8_t *room; /* between the two pages */
    size_t cap;
    const uint8_t *data;
    size_t len;
    unsigned uses;
} memory_file;

static memory_file files[MAX_FILES];
long fuzz_n_accepted, fuzz_n_refused;

void fuzz_refused(const char *text, const char *name) {
    fuzz_n_refused++;
    PROMISE(strstr(text, name), "the error does not name %s: %s", name, text);
    PROMISE(!strchr(text, '\n'), "the error is more than one line: %s", text);
    PROMISE(text[0], "the error is empty");
}

static void make_room(memory_file *f, size_t size) {
    if (f->room && size <= f->cap) return;
    if (f->room) munmap(f->room - PAGE, f->cap + 2 * PAGE);
    f->cap = (size + PAGE) / PAGE * PAGE;
    f->room = mmap(NULL, f->cap + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    PROMISE(f->room != MAP_FAILED, "no memory for %zu bytes", size);
    f->room += PAGE;
    PROMISE(mprotect(f->room, f->cap, PROT_READ | PROT_WRITE) == 0, "mprotect");
}

const char *fuzz_file(const char *name, const uint8_t *data, size_t size) {
    char path[64];
    snprintf(path, sizeof path, FUZZ_DIR "/%s", name);
    memory_file *f = files;
    while (f < files + MAX_FILES && f->path[0] && strcmp(f->path, path) != 0) f++;
    PROMISE(f < files + MAX_FILES, "too many files");
    strcpy(f->path, path);
    make_room(f, size);
    uint8_t *at = f->uses++ % 4 == 3 ? f->room : f->room + f->cap - size;
    if (size) memcpy(at, data, size);
    f->data = at;
    f->len = size;
    return f->path;
}

int fuzz_fd(const uint8_t *data, size_t size) {
    static int fd = -1;
    if (fd < 0) fd = memfd_create("fuzz", MFD_CLOEXEC);
    PROMISE(fd >= 0 && ftruncate(fd, 0) == 0 && pwrite(fd, data, size, 0) == (ssize_t)size, "no file in memory");
    return fd;
}

static const memory_file *find(const char *path) {
    for (const memory_file *f = files; f < files + MAX_FILES && f->path[0]; f++)
        if (!strcmp(f->path, path)) return f;
    return NULL;
}

static bool is_ours(const char *path) { return !strncmp(path, FUZZ_DIR, sizeof FUZZ_DIR - 1); }

static mr_status absent(const char *path, mr_err *err) {
    errno = ENOENT;
    return mr_fail_errno(err, "%s", path);
}

#define WRAPPED(type, name, ...)                                                                                       \
    type __real_##name(__VA_ARGS__);                                                                                   \
    type __wrap_##name(__VA_ARGS__)

WRAPPED(mr_status, mr_file_read, char **data, size_t *len, const char *path, size_t max_bytes, mr_err *err);
WRAPPED(mr_status, mr_map_open, mr_map *m, const char *path, mr_err *err);
WRAPPED(void, mr_map_drop, const mr_map *m, size_t from, size_t len);
WRAPPED(void, mr_map_close, mr_map *m);
WRAPPED(bool, mr_path_exists, const char *path);
WRAPPED(bool, mr_path_is_dir, const char *path);
WRAPPED(mr_status, mr_sha256_file, char hex[65], const char *path, mr_err *err);

mr_status __wrap_mr_file_read(char **data, size_t *len, const char *path, size_t max_bytes, mr_err *err) {
    if (!is_ours(path)) return __real_mr_file_read(data, len, path, max_bytes, err);
    const memory_file *f = find(path);
    *data = NULL, *len = 0;
    if (!f) return absent(path, err);
    if (f->len > max_bytes) return mr_fail(err, MR_EDATA, "%s: is larger than %zu bytes", path, max_bytes);
    *data = mr_strndup((const char *)f->data, f->len);
    *len = f->len;
    return MR_OK;
}

mr_status __wrap_mr_map_open(mr_map *m, const char *path, mr_err *err) {
    if (!is_ours(path)) return __real_mr_map_open(m, path, err);
    const memory_file *f = find(path);
    *m = (mr_map){ 0 };
    if (!f) return absent(path, err);
    *m = (mr_map){ f->data, f->len };
    return MR_OK;
}

static bool is_room(const mr_map *m) {
    for (const memory_file *f = files; f < files + MAX_FILES && f->path[0]; f++)
        if (m->data >= f->room && m->data <= f->room + f->cap) return true;
    return false;
}

void __wrap_mr_map_drop(const mr_map *m, size_t from, size_t len) {
    if (!is_room(m)) __real_mr_map_drop(m, from, len);
}

void __wrap_mr_map_close(mr_map *m) {
    if (is_room(m))
        *m = (mr_map){ 0 };
    else
        __real_mr_map_close(m);
}

bool __wrap_mr_path_exists(const char *path) { return is_ours(path) ? find(path) != NULL : __real_mr_path_exists(path); }
bool __wrap_mr_path_is_dir(const char *path) { return is_ours(path) ? !strcmp(path, FUZZ_DIR) : __real_mr_path_is_dir(path); }

mr_status __wrap_mr_sha256_file(char hex[65], const char *path, mr_err *err) {
    if (!is_ours(path)) return __real_mr_sha256_file(hex, path, err);
    const memory_file *f = find(path);
    hex[0] = '\0';
    if (!f) return absent(path, err);
    mr_sha256(hex, f->data, f->len);
    return MR_OK;
}
