/* Opening a device that is not there: one line each, that says what to do; and never the CPU instead. */
#include <stdlib.h>
#include <unistd.h>

#include "kernels.h"
#include "test.h"

static void refused(const char *module, const char *want) {
    mr_err err = { "" };
    mr_backend *b = (mr_backend *)&err;
    if (module) setenv("MEDRL_CUDA_MODULE", module, 1);
    CHECK_INT(mr_backend_open(&b, MR_CUDA, 3, 0, &err), MR_EINVAL);
    unsetenv("MEDRL_CUDA_MODULE");
    CHECK(b == NULL);
    CHECK_CONTAINS(err.msg, "device cuda:3: ");
    CHECK_CONTAINS(err.msg, want);
    CHECK(strchr(err.msg, '\n') == NULL);
}

static void module_is_missing(void) {
    refused("/nowhere/libmedrl_cuda.so", "/nowhere/libmedrl_cuda.so is not there; build it with `./bootstrap cuda`");
    refused(NULL, "libmedrl_cuda.so is not there"); /* beside this program */
}

static void module_is_something_else(void) {
    char path[] = "/tmp/medrl-module-XXXXXX";
    int fd = mkstemp(path);
    REQUIRE(fd >= 0);
    REQUIRE(write(fd, "no library", 10) == 10);
    close(fd);
    refused(path, "build it again with `./bootstrap cuda`");
    unlink(path);
    refused("/proc/self/exe", "`./bootstrap cuda`"); /* a program */
}

/* MEDRL_SM=75: the module beside the one that is named, or beside the program; nothing else is known. */
static void turing(void) {
    mr_backend *b;
    mr_err err;
    setenv("MEDRL_SM", "75", 1);
    refused("/nowhere/libmedrl_cuda.so", "MEDRL_SM is 75, but /nowhere/libmedrl_cuda_sm75.so is not there; build it with");
    refused(NULL, "libmedrl_cuda_sm75.so is not there");
    setenv("MEDRL_SM", "70", 1);
    CHECK_INT(mr_backend_open(&b, MR_CUDA, 0, 0, &err), MR_EINVAL);
    CHECK_CONTAINS(err.msg, "MEDRL_SM: \"70\" is unknown, expected 75");
    setenv("MEDRL_SM", "", 1);
    refused("/nowhere/libmedrl_cuda.so", "/nowhere/libmedrl_cuda.so is not there");
    unsetenv("MEDRL_SM");
}

TEST_MAIN({ "turing", turing }, { "module is missing", module_is_missing }, { "module is something else", module_is_something_else })
