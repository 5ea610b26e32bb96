/* edit.c - see edit.h. */
#include "cli/edit.h"

#include <dlfcn.h>

mr_status mr_edit_open(const mr_edit **out, mr_err *err) {
    static mr_edit library;
    static bool is_open;
    *out = NULL;
    if (!is_open) {
        void *so = dlopen("libedit.so.2", RTLD_NOW | RTLD_LOCAL);
        bool all = so != NULL;
#define LOAD(name) all = all && (*(void **)&library.name = dlsym(so, #name)) != NULL;
        MR_EDIT(LOAD)
#undef LOAD
        if (!all) {
            if (so) dlclose(so);
            return mr_fail(err, MR_ENOTFOUND,
                           "libedit: not installed here, a session at a terminal wants it; apt-get install libedit2, or send "
                           "lines through a pipe");
        }
        is_open = true;
    }
    *out = &library;
    return MR_OK;
}
