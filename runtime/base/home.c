/* home.c - where medrl's own files and its cache are. */
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsafe.h"

static char *home_path, *cache_path; /* found once, kept until exit */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static bool has_lua(const char *dir) {
    char *lua = mr_path_join(dir, "lua/medrl");
    bool found = mr_path_is_dir(lua);
    mr_free(lua);
    return found;
}

static void find_home(void) {
    const char *set = getenv("MEDRL_HOME");
    if (set && *set) {
        home_path = mr_strdup(set);
        return;
    }
    char exe[PATH_MAX], *prefix = NULL, *slash;
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = '\0';
    /* build/medrl finds the source tree; /opt/bin/medrl finds /opt/share/medrl */
    while (!home_path && (slash = strrchr(exe, '/'))) {
        *slash = '\0';
        char *share = mr_path_join(exe, "share/medrl");
        const char *hit = has_lua(exe) ? exe : has_lua(share) ? share : NULL;
        if (hit)
            home_path = mr_strdup(hit);
        else if (!prefix && strcmp(mr_path_name(exe), "bin") != 0)
            prefix = mr_strdup(share);
        mr_free(share);
    }
#ifdef MEDRL_SOURCE_DIR
    if (!home_path && has_lua(MEDRL_SOURCE_DIR)) home_path = mr_strdup(MEDRL_SOURCE_DIR);
#endif
    if (!home_path) home_path = mr_strdup(prefix ? prefix : "/usr/share/medrl");
    mr_free(prefix);
}

static void find_cache(void) {
    const char *xdg = getenv("XDG_CACHE_HOME"), *user = getenv("HOME");
    cache_path = xdg && xdg[0] == '/' ? mr_path_join(xdg, "medrl") /* the XDG text: a relative one is ignored */
                 : user && *user      ? mr_path_join(user, ".cache/medrl")
                                      : mr_strdup("/tmp/medrl-cache");
}

static void find_both(void) {
    find_home();
    find_cache();
}

const char *mr_home_dir(void) {
    pthread_once(&once, find_both);
    return home_path;
}

const char *mr_cache_dir(void) {
    pthread_once(&once, find_both);
    return cache_path;
}
