/* fuzz.h - what the targets of this folder share. Each is libFuzzer's LLVMFuzzerTestOneInput over one reader of files that others
 * wrote: it may refuse with an error, but not crash, hang, leak or read outside of its bytes (the sanitizers and -timeout watch), and what it
 * accepts must keep the promise that the target states. run.sh makes the seeds and asks for a number of executions. */
#ifndef MR_FUZZ_H
#define MR_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A broken promise: what is wrong, and a crash that the fuzzer records. */
#define PROMISE(ok, ...)                                              \
    do {                                                              \
        if (!(ok)) {                                                  \
            fprintf(stderr, "%s:%d: promise broken: ", __FILE__, __LINE__); \
            fprintf(stderr, __VA_ARGS__);                             \
            fputc('\n', stderr);                                      \
            abort();                                                  \
        }                                                             \
    } while (0)

/* The bytes as a file of that name; the path is valid until the next call. */
static inline const char *fuzz_file(const char *name, const uint8_t *data, size_t size) {
    static char dir[64], path[128];
    if (!dir[0]) {
        snprintf(dir, sizeof dir, "/dev/shm/medrl-fuzz-%d", (int)getpid());
        if (mkdir(dir, 0700) != 0) snprintf(dir, sizeof dir, "/tmp/medrl-fuzz-%d", (int)getpid()), mkdir(dir, 0700);
    }
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    PROMISE(f && fwrite(data, 1, size, f) == size && fclose(f) == 0, "%s cannot be written", path);
    return path;
}

/* The first error's text must name its file and be one line. */
static inline void fuzz_refused(const char *text, const char *name) {
    PROMISE(strstr(text, name), "the error does not name %s: %s", name, text);
    PROMISE(!strchr(text, '\n'), "the error is more than one line: %s", text);
}

#endif
