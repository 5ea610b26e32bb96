/* powerloss.c - the machine loses its power at any moment while checkpoints are written and pruned: whatever of it a disk may hold then, the
 * newest checkpoint that was reported as written is found, or a newer one.
 *
 *     powerloss FOLDER     a scratch folder, best in memory
 *
 * The calls of runtime/rl/checkpoint.c and base/fsafe.c come here (ld --wrap); each is done and noted. From the notes disks are rebuilt, for
 * each moment: the contents of files as of their last fsync, whole, or half of what came since; the entries of each folder as of its last
 * fsync, all, or as many of those since as a seeded number says (an order within a folder is kept; between folders there is none, which is
 * more than journaling file systems do). mr_checkpoint_find must then do what it promises.
 * Source: reliability.md P2; SQLite, "How SQLite Is Tested", 3.3 (crash testing). */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/log.h"
#include "rl/checkpoint.h"
#include "rl/trainer.h"

enum { MAX_OPS = 4000, MAX_NODES = 2000, STATES_MIN = 500, ROOT = 0 };
typedef enum op_kind { LINK, UNLINK_, RENAME_, EXCHANGE, DATA, SYNC, DONE } op_kind;

/* LINK, UNLINK_: `name` in folder `dir` is (no more) `node`. RENAME_: `node` leaves dir/name for dir/to, over whatever was there. EXCHANGE: dir/to
 * is `node` and dir/name `other`. DATA: bytes at the end of `node`. SYNC: node. DONE: checkpoint `node` was reported as written. */
typedef struct op {
    op_kind kind;
    int node, dir, other;
    char name[80], to[80];
    size_t len;
    char *bytes;
} op;
typedef struct node {
    ino_t ino;
    bool is_dir;
} node;

static op ops[MAX_OPS];
static int n_ops;
static node nodes[MAX_NODES];
static int n_nodes;
static const char *root;
static bool noting;

#define NEED(ok, ...)                                                                                                  \
    do {                                                                                                               \
        if (!(ok)) {                                                                                                   \
            fprintf(stderr, "powerloss: " __VA_ARGS__);                                                                \
            fputc('\n', stderr);                                                                                       \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static op *note(op_kind kind, int of) {
    NEED(n_ops < MAX_OPS, "too many operations");
    ops[n_ops] = (op){ .kind = kind, .node = of };
    return &ops[n_ops++];
}

/* The node of an inode: the newest one, since numbers are used again. */
static int node_of(const struct stat *s, bool fresh) {
    for (int i = n_nodes - 1; i >= 0 && !fresh; i--)
        if (nodes[i].ino == s->st_ino) return i;
    NEED(n_nodes < MAX_NODES, "too many files");
    nodes[n_nodes] = (node){ s->st_ino, S_ISDIR(s->st_mode) };
    return n_nodes++;
}
static int node_at(const char *path, bool fresh) {
    struct stat s;
    NEED(lstat(path, &s) == 0, "%s is not there", path);
    return node_of(&s, fresh);
}
static int folder_of(const char *path) {
    char *dir = mr_path_dir(path);
    int n = node_at(dir, false);
    mr_free(dir);
    return n;
}
static bool inside(const char *path) { return noting && !strncmp(path, root, strlen(root)); }

static void note_link(const char *path) {
    op *o = note(LINK, node_at(path, true));
    o->dir = folder_of(path);
    snprintf(o->name, sizeof o->name, "%s", mr_path_name(path));
}

/* ---- the calls ---- */

#define WRAP(type, name, ...)                                                                                          \
    type __real_##name(__VA_ARGS__);                                                                                   \
    type __wrap_##name(__VA_ARGS__)
WRAP(int, mkostemp, char *, int);
WRAP(int, mkdir, const char *, mode_t);
WRAP(int, rename, const char *, const char *);
WRAP(int, renameat2, int, const char *, int, const char *, unsigned);
WRAP(int, unlink, const char *);
WRAP(int, unlinkat, int, const char *, int);
WRAP(int, fsync, int);
WRAP(ssize_t, write, int, const void *, size_t);

int __wrap_mkostemp(char *path, int flags) {
    int fd = __real_mkostemp(path, flags);
    if (fd >= 0 && inside(path)) note_link(path);
    return fd;
}
int __wrap_mkdir(const char *path, mode_t mode) {
    int r = __real_mkdir(path, mode);
    if (r == 0 && inside(path)) note_link(path);
    return r;
}
int __wrap_rename(const char *from, const char *to) {
    if (inside(from)) {
        op *o = note(RENAME_, node_at(from, false));
        o->dir = folder_of(from);
        NEED(o->dir == folder_of(to), "a rename from one folder to another");
        snprintf(o->name, sizeof o->name, "%s", mr_path_name(from));
        snprintf(o->to, sizeof o->to, "%s", mr_path_name(to));
    }
    return __real_rename(from, to);
}
int __wrap_renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    int r = __real_renameat2(a, from, b, to, flags);
    if (r == 0 && inside(from)) {
        op *o = note(EXCHANGE, node_at(to, false)); /* as it is now: node is at `to` */
        o->other = node_at(from, false);
        o->dir = folder_of(from);
        snprintf(o->name, sizeof o->name, "%s", mr_path_name(from));
        snprintf(o->to, sizeof o->to, "%s", mr_path_name(to));
    }
    return r;
}
static void note_unlink(int of, int dir, const char *name) {
    op *o = note(UNLINK_, of);
    o->dir = dir;
    snprintf(o->name, sizeof o->name, "%s", name);
}
int __wrap_unlink(const char *path) {
    struct stat s;
    if (inside(path) && lstat(path, &s) == 0) note_unlink(node_of(&s, false), folder_of(path), mr_path_name(path));
    return __real_unlink(path);
}
int __wrap_unlinkat(int dir, const char *name, int flags) {
    struct stat s, d;
    int of = -1, in = -1;
    if (noting && fstatat(dir, name, &s, AT_SYMLINK_NOFOLLOW) == 0) {
        of = node_of(&s, false);
        if (dir == AT_FDCWD)
            in = folder_of(name);
        else if (fstat(dir, &d) == 0)
            in = node_of(&d, false);
    }
    int r = __real_unlinkat(dir, name, flags);
    if (r == 0 && of >= 0 && in >= 0) note_unlink(of, in, mr_path_name(name));
    return r;
}
int __wrap_fsync(int fd) {
    struct stat s;
    int r = __real_fsync(fd);
    if (r == 0 && noting && fstat(fd, &s) == 0) note(SYNC, node_of(&s, false));
    return r;
}
ssize_t __wrap_write(int fd, const void *data, size_t len) {
    struct stat s;
    ssize_t n = __real_write(fd, data, len);
    if (n > 0 && noting && fd > 2 && fstat(fd, &s) == 0) {
        op *o = note(DATA, node_of(&s, false));
        o->len = (size_t)n;
        o->bytes = mr_alloc((size_t)n);
        memcpy(o->bytes, data, (size_t)n);
    }
    return n;
}

/* ---- what is written ---- */

static void save(int step, int keep) {
    mr_err err;
    char *tmp = NULL, big[9000];
    memset(big, 'a' + step % 20, sizeof big);
    NEED(mr_checkpoint_begin(&tmp, root, step, &err) == MR_OK, "%s", err.msg);
    cJSON *state = cJSON_CreateObject();
    cJSON_AddNumberToObject(state, "global_step", step);
    NEED(mr_checkpoint_write_state(tmp, state, &err) == MR_OK, "%s", err.msg);
    cJSON_Delete(state);
    static const char *const files[] = { "adapter_model.safetensors", "optimizer.safetensors", "adapter_config.json" };
    for (int i = 0; i < 3; i++) {
        char *file = mr_path_join(tmp, files[i]);
        NEED(mr_file_write(file, big, sizeof big - 100 * (size_t)i, &err) == MR_OK, "%s", err.msg);
        mr_free(file);
    }
    NEED(mr_checkpoint_commit(tmp, root, step, &err) == MR_OK, "%s", err.msg);
    note(DONE, step);
    mr_checkpoint_prune(root, keep);
    mr_free(tmp);
}

/* ---- what a disk may hold ---- */

static uint64_t state_;
static size_t below(size_t n) {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return n ? (size_t)(state_ % n) : 0;
}
typedef struct entry {
    int dir, node;
    char name[80];
} entry;
static entry entries[MAX_NODES];
static int n_entries;

static void drop_entry(int dir, const char *name) {
    for (int i = 0; i < n_entries; i++)
        if (entries[i].dir == dir && !strcmp(entries[i].name, name)) entries[i--] = entries[--n_entries];
}
static void add_entry(int dir, const char *name, int of) {
    drop_entry(dir, name);
    entries[n_entries] = (entry){ .dir = dir, .node = of };
    snprintf(entries[n_entries++].name, sizeof entries[0].name, "%s", name);
}

/* Up to where the changes of a folder, or the bytes of a file, are sure to be there before operation k. */
static int synced(int of, int k) {
    for (int i = k - 1; i >= 0; i--)
        if (ops[i].kind == SYNC && ops[i].node == of) return i;
    return 0;
}

/* How the entries come: 0 what is sure, 1 all, 2 some. */
static void rebuild_entries(int k, int how) {
    static int until[MAX_NODES];
    n_entries = 0;
    for (int i = 0; i < n_nodes; i++) {
        int sure = synced(i, k);
        until[i] = how == 0 ? sure : how == 1 ? k : sure + (int)below((size_t)(k - sure) + 1);
    }
    for (int i = 0; i < k; i++) {
        const op *o = &ops[i];
        if (o->kind > EXCHANGE || i >= until[o->dir]) continue;
        if (o->kind == LINK) {
            add_entry(o->dir, o->name, o->node);
        } else if (o->kind == EXCHANGE) {
            add_entry(o->dir, o->to, o->node);
            add_entry(o->dir, o->name, o->other);
        } else {
            drop_entry(o->dir, o->name);
            if (o->kind == RENAME_) add_entry(o->dir, o->to, o->node);
        }
    }
}

static void put_folder(int dir, const char *path, int k, int how);
static void put_file(int of, const char *path, int k, int how) {
    mr_str s = { 0 };
    int sure = synced(of, k);
    size_t sure_len = 0;
    for (int i = 0; i < k; i++)
        if (ops[i].kind == DATA && ops[i].node == of) {
            mr_str_add(&s, ops[i].bytes, ops[i].len);
            if (i < sure) sure_len = s.len;
        }
    size_t len = how == 0 ? sure_len : how == 1 ? s.len : sure_len + (s.len - sure_len) / 2;
    FILE *f = fopen(path, "wb");
    NEED(f && fwrite(s.data ? s.data : "", 1, len, f) == len && fclose(f) == 0, "%s cannot be written", path);
    mr_str_clear(&s);
}
static void put_folder(int dir, const char *path, int k, int how) {
    NEED(mkdir(path, 0755) == 0, "%s cannot be made", path);
    for (int i = 0; i < n_entries; i++) {
        if (entries[i].dir != dir) continue;
        char *child = mr_path_join(path, entries[i].name);
        if (nodes[entries[i].node].is_dir)
            put_folder(entries[i].node, child, k, how);
        else
            put_file(entries[i].node, child, k, how);
        mr_free(child);
    }
}

/* The newest checkpoint of this disk has to be `least`, or newer. */
static void check_disk(const char *disk, int k, int entries_how, int data_how, int least) {
    char *found = NULL;
    mr_err err;
    mr_status st = mr_checkpoint_find(&found, disk, &err);
    int step = st == MR_OK ? atoi(strrchr(found, '-') + 1) : 0;
    NEED(step >= least, "power lost before operation %d (folders %d, files %d): checkpoint-%d was written, found is %d", k, entries_how,
         data_how, least, step);
    mr_free(found);
}

int main(int argc, char **argv) {
    NEED(argc == 2, "usage: powerloss FOLDER");
    mr_err err;
    char *disk = mr_path_join(argv[1], "disk");
    root = mr_path_join(argv[1], "run");
    NEED(mkdir(root, 0755) == 0, "%s cannot be made", root);
    mr_log_set_level(MR_LOG_ERROR);
    noting = true;
    NEED(node_at(root, true) == ROOT, "the run folder is not the first one");
    for (int step = 1; step <= 5; step++) save(step, 2);
    save(5, 2); /* written again, as by a resumed run */
    noting = false;
    int states = 0, least = 0;
    for (int k = 0; k <= n_ops; k++) {
        if (k && ops[k - 1].kind == DONE) least = ops[k - 1].node;
        for (int e = 0; e < 3; e++)
            for (int d = 0; d < 3; d++) {
                state_ = 0x9e3779b97f4a7c15u + (uint64_t)(k * 9 + e * 3 + d);
                rebuild_entries(k, e);
                NEED(mr_remove_tree(disk, &err) == MR_OK, "%s", err.msg);
                put_folder(ROOT, disk, k, d);
                check_disk(disk, k, e, d, least);
                states++;
            }
    }
    NEED(mr_remove_tree(argv[1], &err) == MR_OK, "%s", err.msg);
    NEED(states >= STATES_MIN, "only %d states", states);
    printf("%d operations, %d states of the disk, the newest checkpoint found in each\n", n_ops, states);
    return 0;
}
