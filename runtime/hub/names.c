/* names.c - repository names, file names in repositories, and kinds of files (names.h). */
#include "hub/names.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "base/utf8.h"

bool mr_hub_is_hex(const char *text, size_t digits) {
    for (size_t i = 0; i < digits; i++)
        if (!((text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f'))) return false;
    return text[digits] == '\0';
}

static bool ends(const char *path, const char *end) {
    size_t n = strlen(path), m = strlen(end);
    return n > m && strcasecmp(path + n - m, end) == 0;
}

static bool ends_in_one(const char *path, const char *const *list, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (ends(path, list[i])) return true;
    return false;
}

bool mr_hub_is_known_kind(const char *path) {
    static const char *const kinds[] = { ".safetensors", ".json", ".txt",      ".jinja",     ".gguf",      ".parquet",
                                         ".jsonl",       ".csv",  ".tsv",      ".jsonl.gz",  ".json.gz",   ".csv.gz",
                                         ".tsv.gz",      ".ndjson", ".jsonl.zst", ".json.zst", ".csv.zst", ".tsv.zst" };
    return ends_in_one(path, kinds, sizeof kinds / sizeof kinds[0]);
}

bool mr_hub_is_pickle(const char *path) {
    static const char *const kinds[] = { ".bin", ".pt", ".pth", ".pkl", ".ckpt", ".pickle" };
    return ends_in_one(path, kinds, sizeof kinds / sizeof kinds[0]);
}

const char *mr_hub_bad_path(const char *path, size_t len) {
    if (len == 0) return "it is empty";
    if (len > MR_HUB_PATH_MAX) return "it is too long";
    if (path[0] == '/') return "it is absolute";
    if (!mr_utf8_valid(path, len)) return "it is not UTF-8";
    size_t part = 0; /* where the part begins */
    for (size_t i = 0; i <= len; i++) {
        unsigned char c = i < len ? (unsigned char)path[i] : '/';
        if (c < 0x20 || c == 0x7f) return "it holds a control character";
        if (c == '\\' || c == ':') return "it holds a backslash or a colon";
        if (c != '/') continue;
        size_t n = i - part;
        if (n == 0) return "a part of it is empty";
        if (n > 255) return "a part of it is too long";
        if (path[part] == '.' && (n == 1 || (n == 2 && path[part + 1] == '.'))) return "it leaves its folder";
        part = i + 1;
    }
    return NULL;
}

static bool is_word(const char *text, size_t len) {
    if (len == 0 || len > 96 || text[0] == '.' || text[0] == '-') return false;
    for (size_t i = 0; i < len; i++) {
        if (!isalnum((unsigned char)text[i]) && !strchr("-_.", text[i])) return false;
        /* "--" stands for the slash in the cache's folder names */
        if (i + 1 < len && text[i] == text[i + 1] && strchr("-.", text[i])) return false;
    }
    return true;
}

/* Branches, tags, refs/pr/1, hashes. */
static bool is_revision(const char *text, size_t len) {
    if (len == 0 || len > MR_HUB_REV_MAX || mr_hub_bad_path(text, len) || text[0] == '-') return false;
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)text[i]) && !strchr("/-_.+", text[i])) return false;
    return true;
}

static const char *skip(const char *text, const char *start, bool *had) {
    size_t n = strlen(start);
    bool is = strncmp(text, start, n) == 0;
    if (had && is) *had = true;
    return is ? text + n : text;
}

mr_status mr_hub_name_parse(mr_hub_name *out, const char *text, bool dataset, mr_err *err) {
    *out = (mr_hub_name){ .dataset = dataset };
    bool is_dataset = false, is_model = false;
    const char *p = skip(text, "hf:", NULL);
    if (p != text) p = skip(p, "//", NULL);
    p = skip(p, "datasets/", &is_dataset);
    if (!is_dataset) p = skip(p, "models/", &is_model);
    if (is_dataset || is_model) out->dataset = is_dataset;

    const char *slash = strchr(p, '/');
    size_t org = slash ? (size_t)(slash - p) : 0, name = slash ? strcspn(slash + 1, "/@") : 0;
    if (!slash || !is_word(p, org) || !is_word(slash + 1, name))
        return mr_fail(err, MR_EINVAL, "\"%.200s\" is no name on the hub, want org/name or org/name@revision", text);
    memcpy(out->repo, p, org + 1 + name);
    const char *rest = slash + 1 + name;
    size_t rev = 0;
    if (*rest == '@') {
        rest++;
        /* refs/pr/1 and refs/convert/parquet hold slashes; of any other revision a slash ends it */
        rev = strcspn(rest, "/");
        if (rev == 4 && strncmp(rest, "refs/", 5) == 0) {
            size_t kind = strcspn(rest + 5, "/");
            rev = 5 + kind;
            if (rest[rev] == '/') rev += 1 + strcspn(rest + rev + 1, "/");
        }
        if (!is_revision(rest, rev))
            return mr_fail(err, MR_EINVAL, "\"%.200s\": the revision behind @ is not a branch, a tag or a commit", text);
        memcpy(out->revision, rest, rev);
        rest += rev;
    } else {
        strcpy(out->revision, "main");
    }
    if (*rest == '/') {
        const char *why = mr_hub_bad_path(rest + 1, strlen(rest + 1));
        if (why) return mr_fail(err, MR_EINVAL, "\"%.200s\": the file behind org/name cannot be used: %s", text, why);
        strcpy(out->file, rest + 1);
    }
    return MR_OK;
}

bool mr_hub_is_name(const char *text) {
    mr_hub_name n;
    if (mr_hub_name_parse(&n, text, false, NULL) != MR_OK) return false;
    return strncmp(text, "hf:", 3) == 0 || (!n.file[0] && !mr_hub_is_known_kind(text));
}

void mr_hub_escape(mr_str *out, const char *text, bool keep_slash) {
    static const char digits[] = "0123456789ABCDEF";
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        bool plain = (*p < 0x80 && isalnum(*p)) || strchr("-._~", *p) || (keep_slash && *p == '/');
        char three[3] = { '%', digits[*p >> 4], digits[*p & 15] };
        if (plain)
            mr_str_add(out, p, 1);
        else
            mr_str_add(out, three, 3);
    }
}
