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
    struct stat seen;
} mr_text;

typedef struct mr_texts {
    char *main_path; /* as opened */
    char *roots[5];
    int n_roots;
    int home_root;  /* which of them is MEDRL_HOME/lua */
    mr_text **list; /* in the order of first use; entries never move */
    int n;
    const mr_text *newest; /* the last one of a user's that was handed out: what a worker hangs in, when it hangs */
} mr_texts;

/* Finds the main file; MR_ENOTFOUND says where it was looked for. t is filled from zero. */
mr_status mr_texts_open(mr_texts *t, const char *main_arg, mr_err *err);
/* The main text is not that of a Lua file: `text` is what workers get under `name`, and `path` (NULL: none) with its
 * hash is what mr_texts_changed looks at. Modules come from MEDRL_HOME/lua only. */
void mr_texts_open_text(mr_texts *t, const char *name, const char *text, size_t len, const char *path,
                        const char *sha256);
void mr_texts_close(mr_texts *t);
/* The text of a module, read now when it is not there yet. Borrowed until close. */
mr_status mr_texts_get(mr_texts *t, const char *module, const mr_text **out, mr_err *err);
/* Whether a file differs from what was read, by content; `what` gets the names, with commas. signature identifies this
 * state of the files, so that one that was refused is not tried again. */
bool mr_texts_changed(const mr_texts *t, mr_str *what, uint64_t *signature);
/* A path as people read it: relative to MEDRL_HOME, or without "./". Owned, free with mr_free. */
char *mr_text_display_name(const char *path);

#endif
