/* version.c - what the program is and what it was built from: for bug reports, and for lists of software in use. */
#include <gnu/libc-version.h>
#include <stdio.h>

#include "base/fsafe.h"
#include "cli/cli.h"
#include "files/parquet.h"
#include "record/control.h"
#include "rl/checkpoint.h"

#ifndef MEDRL_VERSION
#define MEDRL_VERSION "0"
#endif

const char *mr_version(void) {
    return MEDRL_VERSION;
}

/* Versions of the headers that it was compiled with; running: of what is loaded now, where the library can say. */
static void add_library(cJSON *list, const char *name, const char *built, const char *running) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "name", name);
    cJSON_AddStringToObject(o, "version", built);
    if (running) cJSON_AddStringToObject(o, "running", running);
    cJSON_AddItemToArray(list, o);
}

static cJSON *parts(void) {
    char glibc[32];
    snprintf(glibc, sizeof glibc, "%d.%d", __GLIBC__, __GLIBC_MINOR__);
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "version", MEDRL_VERSION);
    cJSON_AddStringToObject(o, "revision", MEDRL_REVISION);
    cJSON_AddStringToObject(o, "compiler", __VERSION__);
    cJSON_AddNumberToObject(o, "checkpoint_format", MR_CHECKPOINT_FORMAT);
    cJSON_AddNumberToObject(o, "attach_protocol", MR_CONTROL_PROTOCOL);
    cJSON *list = cJSON_AddArrayToObject(o, "libraries");
    add_library(list, "glibc", glibc, gnu_get_libc_version());
    add_library(list, "luajit", MEDRL_BUILT_LUAJIT, NULL);
    add_library(list, "cjson", MEDRL_BUILT_CJSON, cJSON_Version());
    add_library(list, "pcre2", MEDRL_BUILT_PCRE2, NULL);
    add_library(list, "utf8proc", MEDRL_BUILT_UTF8PROC, NULL);
    add_library(list, "libmd", MEDRL_BUILT_LIBMD, NULL);
    add_library(list, "libedit", MEDRL_BUILT_LIBEDIT, NULL);
    add_library(list, "libcurl", MEDRL_BUILT_CURL, NULL); /* opened when something is fetched */
    add_library(list, "zlib", MEDRL_BUILT_ZLIB, NULL);
    add_library(list, "libzstd", MEDRL_BUILT_ZSTD, NULL);
    /* Sources of others that are linked in (cmake/vendored.txt); none is in the repository. */
    cJSON *vendored = cJSON_AddArrayToObject(o, "vendored");
    if (mr_parquet_version()) {
        add_library(list, "liblz4", MEDRL_BUILT_LZ4, NULL);
        add_library(vendored, "carquet", mr_parquet_version(), NULL);
        cJSON_AddStringToObject(cJSON_GetArrayItem(vendored, 0), "license", MEDRL_CARQUET_LICENSE);
    }
    cJSON_AddStringToObject(o, "home", mr_home_dir());
    return o;
}

mr_status mr_cmd_version(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = { "version", "medrl version --json", "", 0, 0,
                                    "Prints the version; as JSON also the compiler and the libraries it was built with." };
    bool json = false;
    const mr_opt opts[] = { { "json", 0, MR_OPT_FLAG, NULL, "as a JSON object", &json, 0, 0 } };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, 1, argc, argv, err);
    if (st == MR_OK && !a.help) {
        if (json) {
            cJSON *o = parts();
            mr_print_json(o);
            cJSON_Delete(o);
        } else {
            printf("medrl " MEDRL_VERSION "\n");
        }
    }
    mr_args_clear(&a);
    return st;
}
