/* hub.h - models and data sets from the Hugging Face hub, in its own cache: found there, or downloaded into it.
 *
 * The cache is that of the Python tools (huggingface_hub), in both directions: what they have downloaded is found here,
 * and what is downloaded here is found by them.
 *
 *     ROOT/models--ORG--NAME/blobs/HASH            the content: SHA-256 of large files, git's SHA-1 of small ones
 *                           /snapshots/COMMIT/PATH a relative link to a blob
 *                           /refs/REVISION         the commit, written last: a revision that is found is whole
 *     ROOT/datasets--ORG--NAME/...                 the same for data sets
 *     ROOT/.locks/models--ORG--NAME/HASH.lock      flock(2) while a blob is written, as the Python tools take it
 *     ROOT/models--ORG--NAME/blobs/HASH.medrl      a part: the bytes, and behind them one byte a MiB that says it is there
 *
 * Downloading is refused when HF_HUB_OFFLINE is set. libcurl is opened when the first request is made and not before:
 * nothing else of medrl, workers least of all, waits for it.
 *
 * Safety: a token goes to the endpoint's scheme, host and port and nowhere else, and over plain http to this machine
 *         only; it is in no message. Every folder below ROOT is entered without following links. Every byte is hashed
 *         before the file gets its name. names.h says which names, kinds and redirects are refused.
 * Environment: HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME, HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_OFFLINE,
 *         HF_HUB_DISABLE_IMPLICIT_TOKEN, HF_HUB_DISABLE_PROGRESS_BARS, HF_HUB_DOWNLOAD_TIMEOUT, HF_HUB_ETAG_TIMEOUT.
 * Source: huggingface_hub 2.4 (constants.py, file_download.py); docs/hub.md.
 * Threads: one at a time. */
#ifndef MR_HUB_H
#define MR_HUB_H

#include "hub/names.h"

/* ---- what is here ---- */

/* Folder of all repositories; owned. */
char *mr_hub_root(void);
/* The snapshot folder of a repository at its revision: MR_OK and a folder that is there, or MR_ENOTFOUND with the places
 * that were looked at. Owned. Which files are in it is the caller's to check. */
mr_status mr_hub_find(char **dir, const mr_hub_name *name, mr_err *err);
/* A path for what a recipe calls a data file. "hf:org/name[@revision]/path/in/it": the file in the cache.
 * "hf:org/name", or "org/name" where no such file is: the one data file of that repository, MR_EINVAL with their names
 * when it holds several. Anything else: a copy of the text. What is not here: mr_hub_missing. Owned. */
mr_status mr_hub_file(char **path, const char *text, mr_err *err);
/* The data files of a folder, or of a repository ("org/name", "hf:org/name@revision"): MR_OK, and *base is what stands before their names
 * in a path that mr_hub_file takes ("data/", "hf:org/name/"), names[] their paths below it, sorted. pattern: what is downloaded of a
 * repository that has no such file here, and which of its files are meant ("main/" and a star; NULL: all). Anything else than a
 * folder or a repository: MR_OK with base NULL. Three folders deep; more than MR_HUB_FILES_MAX files, or a folder that cannot be listed
 * in full, is an error. Clear with mr_hub_files_clear, on failure too. */
enum { MR_HUB_FILES_MAX = 4096 };
typedef struct mr_hub_files {
    char *base;
    char **names;
    int n;
} mr_hub_files;
mr_status mr_hub_files_find(mr_hub_files *out, const char *text, const char *pattern, mr_err *err);
void mr_hub_files_clear(mr_hub_files *f);
/* What happens when a name is not in the cache: the hook downloads it, or says why not. Without a hook MR_ENOTFOUND with
 * the command that does. The program sets it once, before anything else (cli/pull.c). */
mr_status mr_hub_missing(const mr_hub_name *name, mr_err *err);
void mr_hub_on_missing(mr_status (*fetch)(const mr_hub_name *name, mr_err *err));
/* "medrl pull org/name@revision --dataset": what to type; owned. A file with a * in it is a pattern: --include. */
char *mr_hub_command(const mr_hub_name *name);

typedef struct mr_hub_setup {
    char *endpoint;    /* "https://huggingface.co" */
    char *root;
    char *token_from;  /* "HF_TOKEN", a path, NULL: there is none; never the token */
    bool offline;
} mr_hub_setup;
/* What the environment says, without any request; for `medrl doctor`. MR_EINVAL: a variable that makes no sense. */
mr_status mr_hub_setup_read(mr_hub_setup *s, mr_err *err);
void mr_hub_setup_clear(mr_hub_setup *s);
/* Whether libcurl opens, and which: "libcurl/7.88.1 OpenSSL/3.0.19"; borrowed until exit. */
mr_status mr_hub_library(const char **version, mr_err *err);

/* ---- downloading ---- */

typedef struct mr_hub_progress {
    const char *what;                        /* "model.safetensors"; "checking ..." when only that is left */
    int64_t bytes, total_bytes, fetched_bytes; /* here; in all; of these over the network in this call */
    double bytes_s, eta_s;                   /* over the last seconds; eta_s is -1 while unknown */
    int files, total_files;
    bool waiting;                            /* another program is downloading what is left */
} mr_hub_progress;

typedef struct mr_hub_opts {
    /* Which files, as shell patterns over the whole path ("*" takes slashes too), NULL-terminated. NULL: of a model what
     * is needed to run it, of a data set all files of known kinds. */
    const char *const *include;
    int connections; /* 0: 8 */
    int tries;       /* in a row without progress; 0: 5 */
    bool verify;     /* hash what is here too; a blob that is damaged is downloaded again */
    void *self;      /* handed to the three below, each of which may be NULL */
    void (*tell)(void *self, const mr_hub_progress *p);              /* ten times a second */
    bool (*stop)(void *self);                                        /* true: MR_ESIGNAL, parts are kept */
    bool (*agree)(void *self, int files, int64_t bytes, const char *root); /* before the first byte; false: MR_EINVAL */
} mr_hub_opts;

typedef struct mr_hub_result {
    char commit[41];
    char *dir; /* the snapshot */
    int files, fetched_files;
    int64_t bytes, fetched_bytes;
    double seconds;
} mr_hub_result;

/* Downloads what is missing. MR_ENOTFOUND: no such repository, revision or file; MR_ENET: the network, with the number
 * of tries; MR_EDATA: the server sends something else than it announced; MR_EREFUSED: a safety rule; MR_EIO: the disk;
 * MR_ESIGNAL: stop() said so. What has arrived is kept and used by the next call. */
mr_status mr_hub_pull(mr_hub_result *out, const mr_hub_name *name, const mr_hub_opts *opts, mr_err *err);
void mr_hub_result_clear(mr_hub_result *r);

#endif
