/* fuzz.h - what the targets of this folder share. Each is libFuzzer's LLVMFuzzerTestOneInput over one reader of bytes that others
 * wrote: it may refuse with an error, but not crash, hang, leak or read outside of its bytes (the sanitizers and -timeout watch), and
 * what it accepts must keep the promise that the target states. Two programs call it: a libFuzzer one (run.sh, wants clang), and
 * mutate.c, which any compiler builds and which goes through the damages of a list. seeds.c has what both begin with.
 *
 * Files are not written: fuzz_file keeps the bytes in memory, between two pages that must not be touched, and the functions of
 * base/fsafe.h that read are led there by the linker (ld --wrap, fuzz_memory.c). */
#ifndef MR_FUZZ_H
#define MR_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A broken promise: what is wrong, and a crash that the fuzzer records. */
#define PROMISE(ok, ...)                                                                                               \
    do {                                                                                                               \
        if (!(ok)) {                                                                                                   \
            fprintf(stderr, "%s:%d: promise broken: ", __FILE__, __LINE__);                                            \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fputc('\n', stderr);                                                                                       \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

#define FUZZ_DIR "/of-memory"

/* The bytes as a file of that name in FUZZ_DIR, until the same name is used again; gives its path, which is valid as long. */
const char *fuzz_file(const char *name, const uint8_t *data, size_t size);
/* A descriptor of a file with these bytes, the same one at each call. */
int fuzz_fd(const uint8_t *data, size_t size);

/* What became of the inputs: each is one or the other, so that a harness that reaches no reader shows. */
extern long fuzz_n_accepted, fuzz_n_refused;
static inline void fuzz_accepted(void) { fuzz_n_accepted++; }
/* The error must name its place and be one line. */
void fuzz_refused(const char *text, const char *name);

/* Seeds of a format (seeds.c). The first `fixed` bytes choose what is read and are not mutated. text: numbers are digits. */
typedef struct fuzz_seeds {
    const char *format;
    bool text;
    size_t fixed;
    int n;
    mr_str seed[8];
} fuzz_seeds;
/* All formats of the target that this program has; NULL-terminated by format == NULL. Owned by the callee. */
fuzz_seeds *fuzz_all_seeds(const char *target);

#endif
