/* names.h - what a hub, a user or a hostile server may write into a name, a URL or a header, and what is made of it.
 *
 * Pure text: no network, no files, so that all of it can be fuzzed (tests/fuzz/fuzz_hub.c). Nothing that came over the
 * network reaches the file system or another host but through the functions here.
 *
 * Sources: RFC 3986 (URLs, resolving), RFC 9110 (headers), Hugging Face's repository names and cache
 *          (spec: huggingface_hub 2.4, file_download.py).
 * Errors:  MR_EINVAL for what a user wrote, MR_EREFUSED for what a server wants and a safety rule forbids.
 * Threads: no hidden state. */
#ifndef MR_HUB_NAMES_H
#define MR_HUB_NAMES_H

#include "base/memory.h"

enum {
    MR_HUB_URL_MAX = 8192,  /* signed links of a storage host have some 1,500 characters */
    MR_HUB_REPO_MAX = 193,  /* two parts of 96 characters at most, and the slash */
    MR_HUB_REV_MAX = 256,
    MR_HUB_PATH_MAX = 1024, /* of a file in a repository; one part of it has at most 255 */
    MR_HUB_HASH_MAX = 65    /* SHA-256 in hex; a git object has 40 digits */
};

/* ---- repositories and files ---- */

/* "Qwen/Qwen2.5-0.5B@main": which repository, at which revision, and perhaps one file of it. */
typedef struct mr_hub_name {
    bool dataset;
    char repo[MR_HUB_REPO_MAX + 1];     /* "org/name" */
    char revision[MR_HUB_REV_MAX + 1];  /* branch, tag, refs/pr/1 or 40 hex digits; "main" where none was given */
    char file[MR_HUB_PATH_MAX + 1];     /* "" : the whole repository */
} mr_hub_name;

/* [hf:|hf://][datasets/|models/]org/name[@revision][/file/in/it]; dataset: what it is where the text does not say.
 * MR_EINVAL names the text and what was expected. */
mr_status mr_hub_name_parse(mr_hub_name *out, const char *text, bool dataset, mr_err *err);
/* Whether a text names a repository rather than a file: it begins with hf:, or is org/name with an optional @revision.
 * Whoever asks has looked for a file or folder of that name first. */
bool mr_hub_is_name(const char *text);

/* Why the path of a file in a repository must not become a file name; NULL: it may. len: its bytes, NUL included where
 * it holds one. Refused: empty parts, "." and "..", a leading slash, backslashes, colons, control characters, bad UTF-8,
 * parts above 255 bytes, paths above MR_HUB_PATH_MAX. */
const char *mr_hub_bad_path(const char *path, size_t len);
/* "a file of a kind that medrl reads" (safetensors, json, txt, jinja, gguf, parquet, jsonl, csv, tsv, the last three and
 * json also .gz and .zst); everything else is left on the hub. */
bool mr_hub_is_known_kind(const char *path);
/* .bin, .pt, .pth, .pkl, .ckpt, .pickle: a Python pickle, which can run code when it is read. */
bool mr_hub_is_pickle(const char *path);
bool mr_hub_is_hex(const char *text, size_t digits); /* exactly so many lower-case hex digits */

/* Appends text with everything but letters, digits and "-._~" as %XX; keep_slash leaves "/" as it is. */
void mr_hub_escape(mr_str *out, const char *text, bool keep_slash);

/* ---- URLs ---- */

typedef struct mr_hub_url {
    bool https;
    char host[256]; /* lower case; an IPv6 address without its brackets */
    int port;
    size_t path_at; /* where the path begins in the text; its length when there is none */
} mr_hub_url;

/* http or https, no user name in it, only printable ASCII, at most MR_HUB_URL_MAX - 1 characters. */
bool mr_hub_url_parse(mr_hub_url *out, const char *text);
/* Scheme, host and port are the same: the only place where a token may go. */
bool mr_hub_same_origin(const char *a, const char *b);
bool mr_hub_is_loopback(const char *host);   /* localhost, 127.0.0.0/8, ::1 */
bool mr_hub_is_link_local(const char *host); /* 169.254.0.0/16, fe80::/10, 0.0.0.0, :: */

/* Where an answer of `from` with this Location leads. Refused (MR_EREFUSED): another scheme than http and https, http
 * from https, link-local addresses, loopback unless the endpoint itself is loopback. */
mr_status mr_hub_redirect(char out[MR_HUB_URL_MAX], const char *from, const char *location, const char *endpoint,
                          mr_err *err);
/* For messages: without query and fragment, in which storage hosts put signatures. */
void mr_hub_url_shown(char out[256], const char *url);

/* ---- answers ---- */

typedef struct mr_hub_reply {
    int status;                      /* 0: none yet */
    int64_t length;                  /* Content-Length, -1: unknown */
    int64_t range_from, range_total; /* Content-Range, -1: none or unknown */
    int64_t linked_size;             /* X-Linked-Size, -1: none */
    double retry_after_s;            /* -1: none */
    char etag[128];                  /* without W/ and quotes; "" none or too long */
    char linked_etag[128];
    char type[64];                   /* Content-Type without parameters, lower case */
    char encoding[32];               /* Content-Encoding, lower case; "" none */
    char location[MR_HUB_URL_MAX];   /* "" none; "?" one that is too long or holds control characters */
    char next[MR_HUB_URL_MAX];       /* Link: <...>; rel="next" */
} mr_hub_reply;

void mr_hub_reply_clear(mr_hub_reply *r);
/* One line as it came, with its end. A status line begins a new answer. now_s: seconds since 1970, for a Retry-After that
 * is a date. */
void mr_hub_reply_line(mr_hub_reply *r, const char *line, size_t len, double now_s);

#endif
