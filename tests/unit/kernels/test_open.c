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

TEST_MAIN({ "module is missing", module_is_missing }, { "module is something else", module_is_something_else })
