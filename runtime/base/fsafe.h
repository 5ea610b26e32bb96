/* fsafe.h - files that are whole or absent, and never lose what was there before.
 *
 * Writing a file means: temporary name in the same folder, write all (short writes and EINTR are continued), fsync,
 * rename over the old one, fsync the folder. A failed fsync is final. A folder is committed the same way
 * (mr_dir_commit).
 * Errors: MR_EIO with path and reason; MR_ENOTFOUND when it is not there; the old file is intact then. */
#ifndef MR_FSAFE_H
#define MR_FSAFE_H

#include "base/memory.h"

/* The whole file, NUL added behind it; owned, free with mr_free. Larger than max_bytes: MR_EDATA. */
mr_status mr_file_read(char **data, size_t *len, const char *path, size_t max_bytes, mr_err *err);

/* A read-only mapping. Zeroed struct = none. Empty files map to len 0, data non-NULL. */
typedef struct mr_map {
    const uint8_t *data;
    size_t len;
} mr_map;
mr_status mr_map_open(mr_map *m, const char *path, mr_err *err);
/* tells the kernel that these bytes are not needed in memory now */
void mr_map_drop(const mr_map *m, size_t from, size_t len);
void mr_map_close(mr_map *m);

/* as described above, mode 0644 */
mr_status mr_file_write(const char *path, const void *data, size_t len, mr_err *err);
mr_status mr_write_all(int fd, const void *data, size_t len, const char *path, mr_err *err);

bool mr_path_exists(const char *path);
bool mr_path_is_dir(const char *path);
char *mr_path_join(const char *a, const char *b); /* owned, free with mr_free; b when it is absolute */
bool mr_ends_with(const char *text, const char *end);
const char *mr_path_name(const char *path);         /* the last component, borrowed from path */
char *mr_path_dir(const char *path);                /* what is before it, "." when nothing; owned */
mr_status mr_mkdirs(const char *path, mr_err *err); /* with parents; existing folders are fine */
/* The names in a folder but "." and "..", in the order of their bytes: *names has *n of them and is NULL when there are none or on failure;
 * owned, free with mr_dir_names_free. */
mr_status mr_dir_names(char ***names, int *n, const char *path, mr_err *err);
void mr_dir_names_free(char **names, int n);
/* a folder and all in it; symbolic links are removed, not followed; absent is fine */
mr_status mr_remove_tree(const char *path, mr_err *err);
/* fsync files and folder, rename, fsync parent. A folder that has the final name already changes names with tmp, at once,
 * where the file system can do that: at no moment is there none. MR_EINVAL where it cannot: nothing
 * was changed then. */
mr_status mr_dir_commit(const char *tmp, const char *final, mr_err *err);

/* An advisory lock on a file, which is made, and on the folder that it is in: a file that somebody deletes does not let a second one in. It
 * dies with the process. MR_EAGAIN when it is held: the message names its owner's pid, which the file has. Where a file system
 * cannot lock folders, the file alone counts. */
typedef struct mr_lock {
    int file, folder; /* -1: not held */
} mr_lock;
mr_status mr_lock_take(mr_lock *lock, const char *path, mr_err *err);
void mr_lock_release(mr_lock *lock); /* one that is not held is fine */

/* The folder of medrl's own files: $MEDRL_HOME, else beside the program (build tree, installation). Borrowed until
 * exit. */
const char *mr_home_dir(void);
/* $XDG_CACHE_HOME/medrl or ~/.cache/medrl. Borrowed until exit. */
const char *mr_cache_dir(void);

/* SHA-256 as 64 lower-case hex digits. */
void mr_sha256(char hex[65], const void *data, size_t len);
mr_status mr_sha256_file(char hex[65], const char *path, mr_err *err);
typedef struct mr_sha mr_sha; /* incremental */
mr_sha *mr_sha_new(void);
void mr_sha_add(mr_sha *s, const void *data, size_t len);
void mr_sha_end(mr_sha *s, char hex[65]); /* frees s */

#endif
