/* texts.h - the Lua files of one version of the scripts: found by the parent, read once, hashed, sent to every worker
 * alike.
 *
 * A module "a.b" is a/b.lua in the first of: the main file's folder; the folder above it when the file lies in
 * recipes/, rewards/, datasets/ or templates/; the working folder; ./lua; MEDRL_HOME/lua. "medrl.*" comes from
 * MEDRL_HOME/lua only. "@main" is the main file itself. Private to runtime/script. Threads: one. */
#ifndef MR_TEXTS_H
#define MR_TEXTS_H

#include <sys/stat.h>

#include "script/script.h"

typedef struct mr_text {
    char *module, *path; /* path NULL: it came from no file */
    mr_script_text pub; /* name, text, len, hash; owned here */
    struct stat seen;    /* as it was read; zeroed: to be compared by content at the next look */
    struct stat looked;  /* and at the last look that found it changed */
    char looked_as[65];  /* its hash then, or what it is instead of a file */
    bool changed;        /* by the last mr_texts_changed */
    struct stat found;   /* what stands there instead, and since when it is known to (mr_now_s); 0: nothing does */
    double found_s;
} mr_text;

typedef struct mr_texts {
    char *main_path; /* as opened */
    char *roots[16];
    int n_roots;
    char **named; /* [2 * n_named]: what a reward's file was named by (it is the module "@NAME"), and its path */
    int n_named;
    int home_root;  /* which of them is MEDRL_HOME/lua */
    mr_text **list; /* in the order of first use; entries never move */
    int n;
    /* The version in use: its files stay where they are, or are missed; medrl's own texts are taken from it, since they
     * belong to the program that runs. NULL: none. */
    const struct mr_texts *before;
    char *missing;                 /* the module that was asked for last and not found; NULL: none */
    cJSON *pinned;                 /* owned; NULL: none (script.h, mr_pool_opts) */
    char *store;
    const mr_text *newest; /* the last one of a user's that was handed out: what a worker hangs in, when it hangs */
} mr_texts;

/* Finds the main file (main_arg NULL: there is none); MR_ENOTFOUND says where it was looked for. t is filled from zero.
 * rewards (NULL-terminated or NULL) are mr_pool_opts.rewards: those that name a file, "x.lua" or "x.lua:options", are
 * found as the main file is, are the modules "@x.lua", and their folders are looked into like the main file's. pinned,
 * store: copied, may be NULL. */
mr_status mr_texts_open(mr_texts *t, const char *main_arg, const char *const *rewards, const cJSON *pinned,
                        const char *store, mr_err *err);
/* The main text is not that of a Lua file: `text` is what workers get under `name`, and `path` (NULL: none) with its
 * hash is what mr_texts_changed looks at. Modules come from MEDRL_HOME/lua only. */
void mr_texts_open_text(mr_texts *t, const char *name, const char *text, size_t len, const char *path,
                        const char *sha256);
void mr_texts_close(mr_texts *t);
/* The text of a module, read now when it is not there yet. Borrowed until close. */
mr_status mr_texts_get(mr_texts *t, const char *module, const mr_text **out, mr_err *err);
/* Whether a file differs from what was read, by content; `what` gets the names, with commas. Costs one stat a file when
 * nothing changed. signature identifies this state of the files, so that one that was refused is not tried again.
 * young: a file was saved within the last tenth of a second, or was first found as it is, and more may be on its way. */
bool mr_texts_changed(mr_texts *t, mr_str *what, uint64_t *signature, bool *young);
/* The same for a version that was turned down: a file of it was saved since, or the one that it missed is there now. */
bool mr_texts_mended(mr_texts *t);
/* The text of a module when it is there; NULL. */
const mr_text *mr_texts_find(const mr_texts *t, const char *module);
/* Whether it is one of medrl's own (medrl.*), which are read once for a process and never looked at again. */
bool mr_text_is_own(const mr_text *x);
/* Adds a copy of a text of another version. */
void mr_texts_add_copy(mr_texts *t, const mr_text *x);
/* The texts as mr_reload.detail has them, added to an object. */
void mr_texts_describe(const mr_texts *t, cJSON *detail);
/* The hash that a detail gives for a module; NULL: it names none. */
const char *mr_detail_hash(const cJSON *detail, const char *module);
/* A path as people read it: relative to MEDRL_HOME, or without "./". Owned, free with mr_free. */
char *mr_text_display_name(const char *path);

#endif
