/* open.c - mr_backend_open: the CPU, which is always there, or the CUDA module, which is loaded when it is asked for. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpu/cpu.h"
#include "module.h"

/* MEDRL_CUDA_MODULE, or the module beside the program; with MEDRL_SM=75 the one for Turing beside it. */
static void module_path(char *path, size_t size, bool turing) {
    const char *given = getenv("MEDRL_CUDA_MODULE");
    if (given && *given) {
        snprintf(path, size, "%s", given);
        if (!turing) return;
    } else {
        ssize_t n = readlink("/proc/self/exe", path, size - 1);
        path[n > 0 ? n : 0] = '\0';
    }
    char *slash = strrchr(path, '/');
    size_t dir = slash ? (size_t)(slash - path) + 1 : 0;
    snprintf(path + dir, size - dir, "%s", turing ? MR_CUDA_FILE_SM75 : MR_CUDA_FILE);
}

/* The module's table; it is never closed: the CUDA runtime in it cannot be unloaded. */
static mr_status load_cuda(const mr_cuda_module_table **out, int index, mr_err *err) {
    char path[512];
    const char *sm = getenv("MEDRL_SM");
    bool turing = sm && strcmp(sm, "75") == 0;
    if (sm && *sm && !turing)
        return mr_fail(err, MR_EINVAL, "MEDRL_SM: \"%s\" is unknown, expected 75 (the kernels of a T4 on a newer GPU) or nothing",
                       sm);
    module_path(path, sizeof path, turing);
    if (turing && access(path, R_OK) != 0)
        return mr_fail(err, MR_EINVAL,
                       "device cuda:%d: MEDRL_SM is 75, but %s is not there; build it with `cmake --build build --target "
                       "medrl_cuda_sm75` (needs nvcc), or unset MEDRL_SM",
                       index, path);
    if (access(path, R_OK) != 0)
        return mr_fail(err, MR_EINVAL,
                       "device cuda:%d: %s is not there; build it with `./bootstrap cuda` (needs nvcc), or use "
                       "--device cpu",
                       index, path);
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!module)
        return mr_fail(err, MR_EINVAL, "device cuda:%d: %s; build it again with `./bootstrap cuda`, or use --device cpu",
                       index, dlerror());
    const mr_cuda_module_table *(*entry)(void);
    void *symbol = dlsym(module, MR_CUDA_SYMBOL);
    memcpy(&entry, &symbol, sizeof entry); /* ISO C has no cast from object to function pointer */
    const mr_cuda_module_table *table = entry ? entry() : NULL;
    if (!table || table->abi != MR_CUDA_ABI) {
        dlclose(module);
        return mr_fail(err, MR_EINVAL,
                       "device cuda:%d: %s comes from another build than this program; build it again with "
                       "`./bootstrap cuda`",
                       index, path);
    }
    *out = table;
    return MR_OK;
}

/* --- ahead of time --- */

static pthread_t warming;
static bool is_warming; /* these two are of the thread that opens */
static int warming_index;

static void *warm(void *none) {
    const mr_cuda_module_table *table;
    mr_err err; /* open will find the same */
    if (load_cuda(&table, warming_index, &err) == MR_OK) table->warm(warming_index);
    return none;
}

bool mr_backend_warm(mr_device_kind kind, int index) {
    char path[512];
    const char *sm = getenv("MEDRL_SM");
    module_path(path, sizeof path, sm && strcmp(sm, "75") == 0);
    if (kind != MR_CUDA || access(path, R_OK) != 0) return false;
    if (is_warming) return true;
    warming_index = index;
    is_warming = pthread_create(&warming, NULL, warm, NULL) == 0;
    return is_warming;
}

void mr_backend_warmed(void) {
    if (is_warming) pthread_join(warming, NULL); /* wait: the driver, for which open would wait as well */
    is_warming = false;
}

static mr_status open_cuda(mr_backend **out, int index, mr_err *err) {
    const mr_cuda_module_table *table;
    mr_backend_warmed();
    MR_TRY(load_cuda(&table, index, err));
    return table->open(out, index, err);
}

mr_status mr_backend_open(mr_backend **out, mr_device_kind kind, int index, int n_threads, mr_err *err) {
    *out = NULL;
    MR_TRY(kind == MR_CUDA ? open_cuda(out, index, err) : cpu_open(out, index, n_threads, err));
    (*out)->exact = true;
    return MR_OK;
}

void mr_backend_close(mr_backend *b) {
    if (b) b->close(b);
}
