/* test_base.c - messages, memory, strings, safe files, locks and child processes. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/proc.h"
#include "calls.h"
#include "test.h"

/* This program again, as a child: runs before main, does what its argument says. */
__attribute__((constructor)) static void child(int argc, char **argv) {
    if (argc < 3 || strcmp(argv[1], "--child") != 0) return;
    mr_proc_child_setup();
    if (strcmp(argv[2], "echo") == 0) {
        char c;
        while (read(3, &c, 1) == 1 && write(3, &c, 1) == 1) continue;
        _exit(7);
    }
    if (strcmp(argv[2], "look") == 0) { /* what is open and what is set */
        char out[4] = "...";
        out[0] = getenv("HOME") ? 'h' : '-';
        out[1] = getenv("ONLY") ? 'o' : '-';
        int more = 0;
        for (int fd = 4; fd < 200; fd++) more += fcntl(fd, F_GETFD) >= 0;
        out[2] = more ? 'x' : '-';
        _exit(write(3, out, 3) == 3 ? 0 : 1);
    }
    if (write(3, "r", 1) != 1) _exit(1);
    for (;;) pause();
}

static char *temp_dir(void) {
    char *path = mr_strdup("/tmp/medrl-test-XXXXXX");
    REQUIRE(mkdtemp(path));
    return path;
}

static void messages_fit_and_are_visible(void) {
    mr_err err = { "" };
    CHECK_INT(mr_fail(&err, MR_EDATA, "%s: byte %d", "f\x1b[2J\n", 3), MR_EDATA);
    CHECK_STR(err.msg, "f\\x1b[2J\\n: byte 3");
    mr_err raw; /* 0x9b, and U+009B, are ESC [ to some terminals */
    mr_fail(&raw, MR_EDATA, "a\xff\x9b\xc2\x9b\xe2\x82\xac\xe2\x82");
    CHECK_STR(raw.msg, "a\\xff\\x9b\\xc2\\x9b\xe2\x82\xac\\xe2\\x82");
    CHECK_INT(mr_wrap(&err, MR_EIO, "place %d", 1), MR_EIO);
    CHECK_STR(err.msg, "place 1: f\\x1b[2J\\n: byte 3");
    mr_fail(&err, MR_EDATA, "again: %s", err.msg); /* its own message as an argument */
    CHECK_STR(err.msg, "again: place 1: f\\x1b[2J\\n: byte 3");
    char big[3000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    mr_fail(&err, MR_EDATA, "%s", big);
    CHECK_INT(strlen(err.msg), sizeof err.msg - 1);
    for (int shift = 0; shift < 3; shift++) { /* never half a character at the cut */
        for (int i = 0; i + 3 < (int)sizeof big - shift; i += 3) memcpy(big + shift + i, "\xe2\x82\xac", 3);
        big[shift + 2400] = '\0';
        mr_fail(&err, MR_EDATA, "%s", big);
        size_t n = strlen(err.msg);
        CHECK_INT((n - (size_t)shift) % 3, 0);
        CHECK(n > 1015);
    }
    CHECK_INT(mr_fail(NULL, MR_EINVAL, "x"), MR_EINVAL);
    CHECK_INT(mr_wrap(NULL, MR_EINVAL, "x"), MR_EINVAL);
    errno = ENOENT;
    CHECK_INT(mr_fail_errno(&err, "a/b"), MR_ENOTFOUND);
    CHECK_STR(err.msg, "a/b: No such file or directory");
    errno = ENOSPC;
    CHECK_INT(mr_fail_errno(NULL, "a/b"), MR_EIO);
}

static void exit_codes_of_the_design(void) {
    const struct {
        mr_status st;
        int code;
    } want[] = { { MR_OK, 0 },         { MR_EINVAL, 2 },  { MR_ENOTFOUND, 2 }, { MR_EDATA, 65 },  { MR_ENET, 69 },
                 { MR_EINTERNAL, 70 }, { MR_ENOMEM, 71 }, { MR_EIO, 74 },      { MR_EAGAIN, 75 }, { MR_ESIGNAL, 130 } };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) CHECK_INT(mr_exit_code(want[i].st), want[i].code);
}

static void large_blocks(void) {
    const size_t sizes[] = { 0, 1, 63, 4096, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 20 << 20 };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        unsigned char *p = mr_try_alloc(sizes[i]);
        REQUIRE(p);
        CHECK_INT((uintptr_t)p % 64, 0);
        for (size_t j = 0; j < sizes[i]; j += 997) CHECK(p[j] == 0);
        if (sizes[i]) memset(p, 1, sizes[i]);
        if (i % 2) { /* a large block may also be grown */
            p = mr_realloc(p, sizes[i] + 10);
            CHECK_INT(p[sizes[i] - 1], 1);
        }
        mr_free(p);
    }
    CHECK(mr_try_alloc(SIZE_MAX) == NULL);
    CHECK(mr_try_alloc(SIZE_MAX - 100) == NULL);
    mr_try_alloc_fail_at(2);
    void *a = mr_try_alloc(10), *b = mr_try_alloc(10), *c = mr_try_alloc(10);
    CHECK(a && !b && c);
    mr_free(a);
    mr_free(c);
    size_t out;
    CHECK(mr_mul_size(&out, 6, 7) && out == 42);
    CHECK(!mr_mul_size(&out, SIZE_MAX / 2, 3));
    CHECK(!mr_add_size(&out, SIZE_MAX, 1));
    CHECK(mr_rss_bytes() > 100000 && mr_rss_peak_bytes() >= mr_rss_bytes() / 2);
    CHECK(mr_memory_bytes() >= mr_rss_bytes());
}

static void arena_keeps_what_it_gave(void) {
    mr_arena a = { 0 };
    for (int round = 0; round < 3; round++) {
        unsigned char *kept[300];
        for (size_t i = 0; i < 300; i++) {
            kept[i] = mr_arena_alloc(&a, i * 7);
            CHECK_INT((uintptr_t)kept[i] % 16, 0);
            for (size_t j = 0; j < i * 7; j++) CHECK(kept[i][j] == 0);
            memset(kept[i], (int)i, i * 7);
        }
        for (size_t i = 1; i < 300; i++)
            CHECK(kept[i][0] == (unsigned char)i && kept[i][i * 7 - 1] == (unsigned char)i);
        CHECK_STR(mr_arena_strdup(&a, "abc", 2), "ab");
        mr_arena_reset(&a);
    }
    mr_arena_clear(&a);
    mr_arena_clear(&a);
}

static void strings_grow(void) {
    mr_str s = { 0 };
    for (int i = 0; i < 1000; i++) mr_str_printf(&s, "%d,", i);
    CHECK_INT(s.len, 10 * 2 + 90 * 3 + 900 * 4);
    CHECK_INT(s.data[s.len], 0);
    mr_str_add(&s, "a\0b", 3);
    CHECK_INT(s.data[s.len - 1], 'b');
    char *text = mr_str_steal(&s);
    CHECK(s.data == NULL && s.len == 0);
    mr_free(text);
    text = mr_str_steal(&s);
    CHECK_STR(text, "");
    mr_free(text);
    CHECK(mr_strdup(NULL) == NULL);
}

static void writing_keeps_the_old_file_on_failure(void) {
    mr_err err = { "" };
    char *dir = temp_dir(), *path = mr_path_join(dir, "x.txt"), *data;
    size_t len;
    REQUIRE_OK(mr_file_write(path, "one", 3, &err), err);
    REQUIRE_OK(mr_file_write(path, "two!", 4, &err), err);
    REQUIRE_OK(mr_file_read(&data, &len, path, 4, &err), err);
    CHECK_INT(len, 4);
    CHECK_STR(data, "two!");
    mr_free(data);
    struct stat info;
    CHECK(stat(path, &info) == 0 && (info.st_mode & 0777) == 0644);
    CHECK_INT(mr_file_read(&data, &len, path, 3, &err), MR_EDATA);
    CHECK(data == NULL);
    CHECK_INT(mr_file_read(&data, &len, dir, 3, &err), MR_EINVAL);

    char *sub = mr_path_join(dir, "sub"), *into = mr_path_join(sub, "deep");
    CHECK_INT(mr_file_write(into, "x", 1, &err), MR_EIO); /* no such folder */
    CHECK_CONTAINS(err.msg, "sub/deep: could not be written: No such file");
    REQUIRE_OK(mr_mkdirs(into, &err), err);
    REQUIRE_OK(mr_mkdirs(into, &err), err);
    CHECK_INT(mr_file_write(into, "x", 1, &err), MR_EIO); /* is a folder: the rename fails */
    CHECK(mr_path_is_dir(into));
    char *bad = mr_path_join(path, "y");
    CHECK_INT(mr_mkdirs(bad, &err), MR_EIO);
    CHECK_CONTAINS(err.msg, "x.txt");

    char *moved = mr_path_join(dir, "final"), *inside = mr_path_join(moved, "deep");
    REQUIRE_OK(mr_dir_commit(sub, moved, &err), err);
    CHECK(!mr_path_exists(sub) && mr_path_is_dir(inside));
    char *link = mr_path_join(moved, "out");
    CHECK(symlink(path, link) == 0);
    REQUIRE_OK(mr_remove_tree(moved, &err), err);
    CHECK(!mr_path_exists(moved) && mr_path_exists(path)); /* the link went, not what it points to */
    REQUIRE_OK(mr_remove_tree(moved, &err), err);
    REQUIRE_OK(mr_remove_tree(dir, &err), err);
    CHECK(!mr_path_exists(dir));
    mr_free(dir), mr_free(path), mr_free(sub), mr_free(into), mr_free(bad), mr_free(moved), mr_free(inside),
        mr_free(link);
}

static void full_disk_is_an_error(void) {
    mr_err err = { "" };
    int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;
    CHECK_INT(mr_write_all(fd, "x", 1, "x.bin", &err), MR_EIO);
    CHECK_STR(err.msg, "x.bin: could not be written: No space left on device");
    close(fd);
}

static void maps_and_paths(void) {
    mr_err err = { "" };
    char *dir = temp_dir(), *path = mr_path_join(dir, "m");
    mr_map m;
    REQUIRE_OK(mr_file_write(path, "", 0, &err), err);
    REQUIRE_OK(mr_map_open(&m, path, &err), err);
    CHECK(m.len == 0 && m.data);
    mr_map_drop(&m, 0, 10);
    mr_map_close(&m);
    char *data = mr_alloc(10000);
    data[9999] = 'z';
    REQUIRE_OK(mr_file_write(path, data, 10000, &err), err);
    REQUIRE_OK(mr_map_open(&m, path, &err), err);
    mr_map_drop(&m, 1, 9000);
    mr_map_drop(&m, 0, SIZE_MAX);
    mr_map_drop(&m, SIZE_MAX, SIZE_MAX);
    CHECK(m.len == 10000 && m.data[9999] == 'z');
    mr_map_close(&m);
    mr_map_close(&m);
    CHECK_INT(mr_map_open(&m, dir, &err), MR_EINVAL);
    CHECK_INT(mr_map_open(&m, "/nonexistent", &err), MR_ENOTFOUND);
    CHECK_STR(mr_path_name("a/b/c.txt"), "c.txt");
    CHECK_STR(mr_path_name("c.txt"), "c.txt");
    static const char *const pairs[][2] = { { "a/b", "a" }, { "b", "." }, { "/b", "/" }, { "a/b/", "a/b" } };
    for (size_t i = 0; i < 4; i++) {
        char *d = mr_path_dir(pairs[i][0]);
        CHECK_STR(d, pairs[i][1]);
        mr_free(d);
    }
    char *j = mr_path_join("a/", "/b");
    CHECK_STR(j, "/b");
    mr_free(j);
    mr_remove_tree(dir, NULL);
    mr_free(data), mr_free(dir), mr_free(path);
}

static void hashes(void) {
    char hex[65];
    mr_sha256(hex, "abc", 3); /* FIPS 180-2, appendix B.1 */
    CHECK_STR(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    mr_sha *s = mr_sha_new();
    mr_sha_add(s, "a", 1);
    mr_sha_add(s, "bc", 2);
    mr_sha_end(s, hex);
    CHECK_STR(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK_INT(mr_sha256_file(hex, "/nonexistent", NULL), MR_ENOTFOUND);
    CHECK_STR(hex, "");
    CHECK_INT(mr_sha256_file(hex, "/dev/null", NULL), MR_OK);
    CHECK_STR(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

static void lock_names_its_owner(void) {
    mr_err err = { "" };
    char *dir = temp_dir(), *path = mr_path_join(dir, "lock"), want[64];
    mr_lock a, b;
    REQUIRE_OK(mr_lock_take(&a, path, &err), err);
    CHECK_INT(mr_lock_take(&b, path, &err), MR_EAGAIN);
    snprintf(want, sizeof want, "process %ld", (long)getpid());
    CHECK_CONTAINS(err.msg, want);
    CHECK(b.file == -1 && b.folder == -1);
    mr_lock_release(&b);
    CHECK(unlink(path) == 0); /* by somebody who wants to be let in */
    CHECK_INT(mr_lock_take(&b, path, &err), MR_EAGAIN);
    CHECK_CONTAINS(err.msg, "lock: its folder is in use by another process, whose lock file was removed");
    CHECK(b.file == -1 && b.folder == -1);
    mr_lock_release(&a);
    CHECK(a.file == -1 && a.folder == -1);
    REQUIRE_OK(mr_lock_take(&b, path, &err), err);
    mr_lock_release(&b);
    char *nowhere = mr_path_join(path, "lock"); /* in a folder that is none */
    CHECK_INT(mr_lock_take(&b, nowhere, &err), MR_EIO);
    CHECK_CONTAINS(err.msg, "lock could not be opened");
    mr_free(nowhere);
    mr_remove_tree(dir, NULL);
    mr_free(dir), mr_free(path);
}

/* ---- files and folders when a system call fails: base/fsafe.h's promise about each ---- */

typedef struct failing {
    const char *call;
    int nth, code;
    const char *also; /* another call that fails the first time, with the same code */
    mr_status want;
    const char *complaint; /* what the message ends with, behind the path */
} failing;

/* The descriptor that is given next: what fails must not keep one. */
static int next_fd(void) {
    int fd = fcntl(0, F_DUPFD_CLOEXEC, 3);
    close(fd);
    return fd;
}

static int fd_before;
static void arrange(const failing *f) {
    fd_before = next_fd();
    call_fails(f->call, f->nth, f->code);
    if (f->also) call_fails(f->also, 1, f->code);
}

static void check_failed(const failing *f, mr_status got, const char *message) {
    const bool settled = calls_settled();
    if (got != f->want || !settled) fprintf(stderr, "%s %d: status %d, %s\n", f->call, f->nth, got, settled ? message : "not called");
    CHECK(settled);
    CHECK_INT(got, f->want);
    if (got != MR_OK) CHECK_INT(next_fd(), fd_before);
    if (f->complaint) CHECK_CONTAINS(message, f->complaint);
}

static int names_in(const char *path) {
    int n = 0;
    DIR *dir = opendir(path);
    REQUIRE(dir);
    while (readdir(dir)) n++;
    closedir(dir);
    return n - 2;
}

static void reads_that_fail(void) {
    static const failing cases[] = {
        { "open", 1, ENOENT, NULL, MR_ENOTFOUND, "/x: No such file" },
        { "open", 1, EMFILE, NULL, MR_EIO, "/x: Too many open files" },
        { "fstat", 1, EIO, NULL, MR_EIO, "/x: Input/output error" },
        { "read", 1, EIO, NULL, MR_EIO, "/x: Input/output error" },
        { "read", 2, EIO, NULL, MR_EIO, "/x: Input/output error" },
        { "read", 1, EINTR, NULL, MR_OK, NULL },
        { "read", 2, EINTR, NULL, MR_OK, NULL },
        { "read", 1, CALL_HALF, NULL, MR_OK, NULL }, /* half of it: the rest comes with the next one */
    };
    mr_err err = { "" };
    char *dir = temp_dir(), *path = mr_path_join(dir, "x"), *data;
    size_t len;
    REQUIRE_OK(mr_file_write(path, "twelve bytes", 12, &err), err);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        arrange(&cases[i]);
        mr_status st = mr_file_read(&data, &len, path, 12, &err);
        check_failed(&cases[i], st, err.msg);
        if (st == MR_OK)
            CHECK_STR(data, "twelve bytes");
        else
            CHECK(data == NULL && len == 0);
        mr_free(data);
    }
    mr_try_alloc_fail_at(1);
    CHECK_INT(mr_file_read(&data, &len, path, 12, &err), MR_ENOMEM);
    mr_try_alloc_fail_at(0);
    CHECK_CONTAINS(err.msg, "x: no memory for 13 bytes");
    CHECK_INT(mr_file_read(&data, &len, path, 11, &err), MR_EDATA); /* one beyond */
    CHECK_CONTAINS(err.msg, "larger than 11 bytes");
    CHECK(data == NULL && len == 0);

    static const failing maps[] = {
        { "open", 1, EACCES, NULL, MR_EIO, "/x: Permission denied" },
        { "fstat", 1, EIO, NULL, MR_EIO, "/x: Input/output error" },
        { "mmap", 1, ENODEV, NULL, MR_EIO, "/x: No such device" },
        { "mmap", 1, ENOMEM, NULL, MR_ENOMEM, "/x: Cannot allocate memory" },
    };
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) {
        mr_map m;
        arrange(&maps[i]);
        mr_status st = mr_map_open(&m, path, &err);
        check_failed(&maps[i], st, err.msg);
        CHECK(!m.data && m.len == 0);
    }
    mr_remove_tree(dir, NULL);
    mr_free(dir), mr_free(path);
}

/* What has no size: an empty file, and a pipe that holds more than is read at once; both up to the limit and one beyond. */
static void reads_of_unknown_size(void) {
    enum { BYTES = 65536 - 1 };
    static char text[BYTES];
    mr_err err = { "" };
    char *dir = temp_dir(), *path = mr_path_join(dir, "x"), *data;
    size_t len;
    REQUIRE_OK(mr_file_write(path, "", 0, &err), err);
    REQUIRE_OK(mr_file_read(&data, &len, path, 0, &err), err);
    CHECK(len == 0 && data && !data[0]);
    mr_free(data);
    memset(text, 'p', BYTES);
    for (size_t most = BYTES - 1; most <= BYTES; most++) {
        int ends[2];
        char name[40];
        REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
        REQUIRE(write(ends[1], text, BYTES) == BYTES);
        snprintf(name, sizeof name, "/proc/self/fd/%d", ends[0]);
        close(ends[1]);
        mr_status st = mr_file_read(&data, &len, name, most, &err);
        CHECK_INT(st, most == BYTES ? MR_OK : MR_EDATA);
        if (st == MR_OK) CHECK(len == BYTES && memcmp(data, text, BYTES) == 0);
        mr_free(data);
        mr_map m;
        CHECK_INT(mr_map_open(&m, name, &err), MR_EINVAL);
        CHECK_CONTAINS(err.msg, "is no ordinary file");
        close(ends[0]);
    }
    mr_remove_tree(dir, NULL);
    mr_free(dir), mr_free(path);
}

/* A file is the old one or the new one, and nothing lies beside it. Only the last step, the folder's fsync, fails behind the rename. */
static void writes_that_fail(void) {
    static const failing cases[] = {
        { "mkostemp", 1, EROFS, NULL, MR_EIO, "/x: could not be written: Read-only file system" },
        { "mkostemp", 1, ENOMEM, NULL, MR_ENOMEM, "/x: could not be written: Cannot allocate" },
        { "write", 1, ENOSPC, NULL, MR_EIO, "/x: could not be written: No space left" },
        { "write", 1, ENOSPC, "close", MR_EIO, "/x: could not be written: No space left" },
        { "fchmod", 1, EIO, NULL, MR_EIO, "/x: could not be written: Input/output" },
        { "fsync", 1, EIO, NULL, MR_EIO, "/x: could not be written: Input/output" },
        { "fsync", 1, EINVAL, NULL, MR_EIO, "/x: could not be written: Invalid" }, /* a file's is final */
        { "close", 1, EDQUOT, NULL, MR_EIO, "/x: could not be written: Disk quota" },
        { "rename", 1, EIO, NULL, MR_EIO, "/x: could not be replaced: Input/output" },
        { "open", 1, EMFILE, NULL, MR_EIO, ": Too many open files" },
        { "fsync", 2, EIO, NULL, MR_EIO, ": fsync: Input/output" },
        { "fsync", 2, EINVAL, NULL, MR_OK, NULL }, /* a file system without fsync for folders */
        { "write", 1, EINTR, NULL, MR_OK, NULL },
        { "write", 1, CALL_HALF, NULL, MR_OK, NULL },
    };
    mr_err err = { "" };
    char *dir = temp_dir(), *path = mr_path_join(dir, "x"), *data;
    size_t len;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        REQUIRE_OK(mr_file_write(path, "old", 3, &err), err);
        arrange(&cases[i]);
        mr_status st = mr_file_write(path, "the new", 7, &err);
        check_failed(&cases[i], st, err.msg);
        REQUIRE_OK(mr_file_read(&data, &len, path, 100, &err), err);
        const bool placed = st == MR_OK || !strcmp(cases[i].call, "open") || cases[i].nth == 2;
        CHECK_STR(data, placed ? "the new" : "old");
        CHECK_INT(names_in(dir), 1);
        mr_free(data);
    }
    call_fails("write", 1, CALL_HALF); /* half, and no place for the rest */
    call_fails("write", 2, ENOSPC);
    CHECK_INT(mr_file_write(path, "another", 7, &err), MR_EIO);
    CHECK(calls_settled());
    CHECK_INT(names_in(dir), 1);
    mr_remove_tree(dir, NULL);
    mr_free(dir), mr_free(path);
}

static void folders_that_cannot_be_made(void) {
    mr_err err = { "" };
    char *dir = temp_dir(), *file = mr_path_join(dir, "x"), *deep = mr_path_join(dir, "a/b"), *b = mr_path_join(dir, "a"), name[300];
    REQUIRE_OK(mr_file_write(file, "x", 1, &err), err);
    REQUIRE_OK(mr_mkdirs("", &err), err); /* the folder that we are in */
    CHECK_INT(mr_mkdirs(file, &err), MR_EIO);
    CHECK_CONTAINS(err.msg, "/x: folder could not be made: File exists");
    memset(name, 'n', sizeof name - 1), name[sizeof name - 1] = '\0';
    char *longer = mr_path_join(dir, name);
    CHECK_INT(mr_mkdirs(longer, &err), MR_EIO);
    CHECK_CONTAINS(err.msg, "File name too long");
    call_fails("mkdir", 4, ENOSPC); /* of /tmp, dir, a, b */
    CHECK_INT(mr_mkdirs(deep, &err), MR_EIO);
    CHECK(calls_settled());
    CHECK_CONTAINS(err.msg, "a/b: folder could not be made: No space");
    CHECK(mr_path_is_dir(b) && !mr_path_exists(deep));
    REQUIRE(symlink(b, deep) == 0);
    REQUIRE_OK(mr_mkdirs(deep, &err), err); /* a link to a folder is one */
    mr_remove_tree(dir, NULL);
    mr_free(dir), mr_free(file), mr_free(deep), mr_free(b), mr_free(longer);
    static const char *const joined[][3] = { { "", "b", "b" }, { "a/", "b", "a/b" }, { "a", "b", "a/b" }, { "/", "b", "/b" } };
    for (size_t i = 0; i < 4; i++) {
        char *j = mr_path_join(joined[i][0], joined[i][1]);
        CHECK_STR(j, joined[i][2]);
        mr_free(j);
    }
    CHECK(mr_ends_with("a.b", ".b") && mr_ends_with(".b", ".b") && !mr_ends_with("b", ".b") && !mr_ends_with("a.c", ".b"));
}

static void trees_that_stay(void) {
    static const failing cases[] = {
        { "unlinkat", 2, EIO, NULL, MR_EIO, "/t/f: could not be removed: Input/output" }, /* 1: t itself, a folder */
        { "unlinkat", 3, EBUSY, NULL, MR_EIO, "/t: could not be removed: Device or resource busy" },
        { "unlinkat", 2, EPERM, NULL, MR_EIO, "/t/f: could not be removed: Not a directory" }, /* a file that may not go */
        { "fdopendir", 1, ENOMEM, NULL, MR_EIO, "/t: could not be removed: Cannot allocate" },
        { "readdir", 1, EIO, NULL, MR_EIO, "/t: could not be listed: Input/output" },
        { "unlinkat", 1, EPERM, NULL, MR_OK, NULL }, /* what other systems say of a folder */
    };
    mr_err err = { "" };
    char *dir = temp_dir(), *tree = mr_path_join(dir, "t"), *file = mr_path_join(tree, "f"), *below = mr_path_join(file, "x");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        REQUIRE_OK(mr_mkdirs(tree, &err), err);
        REQUIRE_OK(mr_file_write(file, "x", 1, &err), err);
        arrange(&cases[i]);
        mr_status st = mr_remove_tree(tree, &err);
        check_failed(&cases[i], st, err.msg);
        CHECK(mr_path_exists(tree) == (st != MR_OK));
    }
    REQUIRE_OK(mr_mkdirs(tree, &err), err);
    REQUIRE_OK(mr_file_write(file, "x", 1, &err), err);
    CHECK_INT(mr_remove_tree(below, &err), MR_EIO); /* below a file there is nothing, and it is no folder's name */
    CHECK_CONTAINS(err.msg, "f/x: could not be removed: Not a directory");
    CHECK(mr_path_exists(file));
    mr_remove_tree(dir, NULL);
    mr_free(dir), mr_free(tree), mr_free(file), mr_free(below);
}

static void put_text(const char *folder, const char *name, const char *text) {
    mr_err err = { "" };
    char *path = mr_path_join(folder, name);
    REQUIRE_OK(mr_mkdirs(folder, &err), err);
    REQUIRE_OK(mr_file_write(path, text, strlen(text), &err), err);
    mr_free(path);
}

static bool has_text(const char *folder, const char *name, const char *want) {
    char *path = mr_path_join(folder, name), *data;
    size_t len;
    bool same = mr_file_read(&data, &len, path, 1000, NULL) == MR_OK && !strcmp(data, want);
    mr_free(data), mr_free(path);
    return same;
}

/* All names of a folder, or none. */
static void names_of_folders(void) {
    static const failing cases[] = {
        { "opendir", 1, EMFILE, NULL, MR_EIO, "/t: Too many open files" },
        { "opendir", 1, ENOENT, NULL, MR_ENOTFOUND, "/t: No such file" },
        { "readdir", 1, EIO, NULL, MR_EIO, "/t: could not be listed: Input/output" },
        { "readdir", 4, EIO, NULL, MR_EIO, "/t: could not be listed: Input/output" },
    };
    static const char *const made[] = { "b", ".c", "\xc3\xa9", "a", "B" }, *const sorted[] = { ".c", "B", "a", "b", "\xc3\xa9" };
    mr_err err = { "" };
    char **names, *dir = temp_dir(), *tree = mr_path_join(dir, "t");
    int n;
    REQUIRE_OK(mr_mkdirs(tree, &err), err);
    REQUIRE_OK(mr_dir_names(&names, &n, tree, &err), err);
    CHECK(n == 0 && names == NULL);
    mr_dir_names_free(names, n);
    for (int i = 0; i < 5; i++) put_text(tree, made[i], "x");
    REQUIRE_OK(mr_dir_names(&names, &n, tree, &err), err);
    CHECK_INT(n, 5);
    for (int i = 0; i < n; i++) CHECK_STR(names[i], sorted[i]);
    mr_dir_names_free(names, n);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        arrange(&cases[i]);
        mr_status st = mr_dir_names(&names, &n, tree, &err);
        check_failed(&cases[i], st, err.msg);
        CHECK(n == 0 && names == NULL);
    }
    CHECK_INT(mr_remove_tree(dir, &err), MR_OK);
    mr_free(tree);
    mr_free(dir);
}

/* The final folder is the old one or the new one, whole. */
static void commits_that_fail(void) {
    static const failing cases[] = { /* opened and synced: f, then new, then their parent */
        { "lstat", 1, EIO, NULL, MR_EIO, "new/f: Input/output" },
        { "open", 1, EMFILE, NULL, MR_EIO, "new/f: Too many open files" },
        { "fsync", 1, EIO, NULL, MR_EIO, "new/f: fsync: Input/output" },
        { "readdir", 1, EIO, NULL, MR_EIO, "new: could not be listed: Input/output" },
        { "fsync", 2, EIO, NULL, MR_EIO, "new: fsync: Input/output" },
        { "renameat2", 1, EINVAL, NULL, MR_EINVAL, "final: could not be put in place: Directory not empty" },
        { "renameat2", 1, EEXIST, "rename", MR_EINVAL, "final: could not be put in place: File exists" },
        { "renameat2", 1, EIO, "rename", MR_EIO, "final: could not be put in place: Input/output" },
        { "fsync", 3, EIO, NULL, MR_EIO, ": fsync: Input/output" },
        { "fsync", 2, EINVAL, NULL, MR_OK, NULL },
    };
    mr_err err = { "" };
    char *dir = temp_dir(), *new = mr_path_join(dir, "new"), *final = mr_path_join(dir, "final");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_text(final, "f", "old");
        put_text(new, "f", "new");
        arrange(&cases[i]);
        mr_status st = mr_dir_commit(new, final, &err);
        check_failed(&cases[i], st, err.msg);
        const bool placed = st == MR_OK || cases[i].nth == 3;
        CHECK(has_text(final, "f", placed ? "new" : "old") && has_text(new, "f", placed ? "old" : "new"));
        CHECK_INT(names_in(dir), 2);
        REQUIRE_OK(mr_remove_tree(new, &err), err);
    }
    CHECK_INT(mr_dir_commit(new, final, &err), MR_ENOTFOUND); /* it has vanished */
    CHECK(has_text(final, "f", "new"));

    REQUIRE_OK(mr_remove_tree(final, &err), err); /* an empty folder is replaced everywhere */
    REQUIRE_OK(mr_mkdirs(final, &err), err);
    put_text(new, "f", "newer");
    call_fails("renameat2", 1, EINVAL);
    REQUIRE_OK(mr_dir_commit(new, final, &err), err);
    CHECK(calls_settled() && has_text(final, "f", "newer") && !mr_path_exists(new));

    REQUIRE_OK(mr_remove_tree(final, &err), err); /* a file in its place stays */
    put_text(dir, "final", "a file");
    put_text(new, "f", "new");
    CHECK_INT(mr_dir_commit(new, final, &err), MR_EIO);
    CHECK_CONTAINS(err.msg, "final: could not be put in place: Not a directory");
    CHECK(has_text(dir, "final", "a file") && has_text(new, "f", "new"));
    REQUIRE_OK(mr_remove_tree(final, &err), err);

    char *link = mr_path_join(new, "link"), *fifo = mr_path_join(new, "fifo"), *inner = mr_path_join(new, "inner");
    REQUIRE(symlink("nowhere", link) == 0 && mkfifo(fifo, 0600) == 0); /* what has no bytes to sync is not opened: a fifo would wait */
    put_text(inner, "f", "deep");
    call_fails("fsync", 1, EIO); /* a failure inside is one of the whole, whichever of the two comes first */
    CHECK_INT(mr_dir_commit(new, final, &err), MR_EIO);
    CHECK(calls_settled() && !mr_path_exists(final));
    REQUIRE_OK(mr_dir_commit(new, final, &err), err);
    CHECK_INT(names_in(final), 4);
    mr_remove_tree(dir, NULL);
    mr_free(dir), mr_free(new), mr_free(final), mr_free(link), mr_free(fifo), mr_free(inner);
}

static void locks_that_fail(void) {
    static const failing cases[] = {
        { "open", 1, EACCES, NULL, MR_EIO, "lock: lock could not be opened: Permission denied" },
        { "flock", 1, ENOLCK, NULL, MR_EIO, "lock: lock: No locks available" },
        { "open", 2, EMFILE, NULL, MR_OK, NULL }, /* where the folder cannot be locked, the file alone counts */
        { "flock", 2, ENOLCK, NULL, MR_OK, NULL },
        { "ftruncate", 1, EIO, NULL, MR_OK, NULL }, /* the name of the owner is only for messages */
        { "pwrite", 1, ENOSPC, NULL, MR_OK, NULL },
    };
    mr_err err = { "" };
    char *dir = temp_dir(), *path = mr_path_join(dir, "lock");
    mr_lock a, b;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unlink(path);
        arrange(&cases[i]);
        mr_status st = mr_lock_take(&a, path, &err);
        check_failed(&cases[i], st, err.msg);
        CHECK((a.file >= 0) == (st == MR_OK));
        if (st == MR_OK) CHECK_INT(mr_lock_take(&b, path, &err), MR_EAGAIN);
        if (!strcmp(cases[i].call, "ftruncate") || !strcmp(cases[i].call, "pwrite")) CHECK_CONTAINS(err.msg, "process ?;");
        mr_lock_release(&a);
        REQUIRE_OK(mr_lock_take(&b, path, &err), err); /* nothing is kept of what failed */
        mr_lock_release(&b);
    }
    static const char *const owners[][2] = { { "", "process ?;" }, { "soon", "process ?;" }, { "12ab", "process 12;" } };
    REQUIRE_OK(mr_lock_take(&a, path, &err), err);
    for (size_t i = 0; i < 3; i++) { /* what stands in the file is not trusted */
        REQUIRE(truncate(path, 0) == 0 && pwrite(a.file, owners[i][0], strlen(owners[i][0]), 0) == (ssize_t)strlen(owners[i][0]));
        CHECK_INT(mr_lock_take(&b, path, &err), MR_EAGAIN);
        CHECK_CONTAINS(err.msg, owners[i][1]);
    }
    call_fails("pread", 1, EIO);
    CHECK_INT(mr_lock_take(&b, path, &err), MR_EAGAIN);
    CHECK_CONTAINS(err.msg, "process ?;");
    CHECK(calls_settled());
    mr_lock_release(&a);
    mr_remove_tree(dir, NULL);
    mr_free(dir), mr_free(path);
}

static void children(void) {
    mr_err err = { "" };
    mr_proc p;
    char c = 'q', text[64] = "";
    REQUIRE_OK(mr_proc_spawn(&p, (const char *const[]){ "--child", "echo", NULL }, NULL, &err), err);
    CHECK(write(p.fd, &c, 1) == 1);
    c = 0;
    CHECK(read(p.fd, &c, 1) == 1 && c == 'q');
    mr_proc_describe(text, sizeof text, mr_proc_close(&p, 10)); /* it leaves when our end closes */
    CHECK_STR(text, "exit 7");
    CHECK(p.pid == 0 && p.fd == -1);

    int extra = open("/dev/null", O_RDONLY); /* not close-on-exec on purpose: the child must not have it */
    const char *env[] = { "ONLY=1", NULL };
    REQUIRE_OK(mr_proc_spawn(&p, (const char *const[]){ "--child", "look", NULL }, env, &err), err);
    CHECK(read(p.fd, text, 3) == 3 && memcmp(text, "-o-", 3) == 0);
    CHECK(WIFEXITED(mr_proc_close(&p, 10)));
    close(extra);

    REQUIRE_OK(mr_proc_spawn(&p, (const char *const[]){ "--child", "hang", NULL }, NULL, &err), err);
    CHECK(read(p.fd, &c, 1) == 1 && c == 'r'); /* without this it would see the closed socket and leave by itself */
    double t = mr_now_s();
    mr_proc_describe(text, sizeof text, mr_proc_close(&p, 0.05));
    CHECK_STR(text, "killed by signal 9 (Killed)");
    CHECK(mr_now_s() - t < 5);
    CHECK_INT(mr_proc_kill(&p), 0);
    mr_proc zero = { 0 };
    CHECK_INT(mr_proc_kill(&zero), 0);
    CHECK_INT(mr_proc_close(&zero, 1), 0);
    CHECK(fcntl(0, F_GETFD) >= 0); /* a zeroed struct did not close our stdin */
    CHECK(mr_wall_s() > 1.6e9);
}

static void log_goes_to_stderr(void) {
    char *dir = temp_dir(), *path = mr_path_join(dir, "log"), *data;
    size_t len;
    int old = dup(2), fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    dup2(fd, 2);
    mr_warn("x %d", 1);
    mr_info("y");
    mr_debug("hidden");
    mr_log_status("50 %%");
    mr_log_set_level(MR_LOG_WARN);
    mr_info("hidden");
    mr_error("z");
    mr_log_set_level(MR_LOG_INFO);
    dup2(old, 2);
    close(old);
    close(fd);
    CHECK_INT(mr_file_read(&data, &len, path, 1000, NULL), MR_OK);
    CHECK_STR(data, "warning: x 1\ny\nmedrl: z\n");
    mr_free(data);
    mr_remove_tree(dir, NULL);
    mr_free(dir), mr_free(path);
}

static void folders_of_the_program(void) {
    CHECK(mr_home_dir()[0] == '/');
    CHECK_CONTAINS(mr_cache_dir(), "medrl");
}

TEST_MAIN({ "log_goes_to_stderr", log_goes_to_stderr }, /* first: it redirects before stderr is looked at */
          { "messages_fit_and_are_visible", messages_fit_and_are_visible },
          { "exit_codes_of_the_design", exit_codes_of_the_design }, { "large_blocks", large_blocks },
          { "arena_keeps_what_it_gave", arena_keeps_what_it_gave }, { "strings_grow", strings_grow },
          { "writing_keeps_the_old_file_on_failure", writing_keeps_the_old_file_on_failure },
          { "full_disk_is_an_error", full_disk_is_an_error }, { "maps_and_paths", maps_and_paths },
          { "hashes", hashes }, { "lock_names_its_owner", lock_names_its_owner }, { "children", children },
          { "reads_that_fail", reads_that_fail }, { "reads_of_unknown_size", reads_of_unknown_size },
          { "writes_that_fail", writes_that_fail }, { "folders_that_cannot_be_made", folders_that_cannot_be_made },
          { "trees_that_stay", trees_that_stay }, { "names_of_folders", names_of_folders },
          { "commits_that_fail", commits_that_fail },
          { "locks_that_fail", locks_that_fail }, { "folders_of_the_program", folders_of_the_program })
