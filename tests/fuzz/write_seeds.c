/* write_seeds.c - the seeds of seeds.c as files, for run.sh: fuzz_seeds DIR TARGET ... writes DIR/TARGET/FORMAT-i. */
#include "fuzz.h"

int main(int argc, char **argv) {
    int done = 0; /* formats of the targets before */
    for (int i = 2; i < argc; i++) {
        const fuzz_seeds *f = fuzz_all_seeds(argv[i]) + done;
        for (; f->format; f++, done++)
            for (int k = 0; k < f->n; k++) {
                char path[512];
                snprintf(path, sizeof path, "%s/%s/%s-%d", argv[1], argv[i], f->format, k);
                FILE *out = fopen(path, "wb");
                if (!out || fwrite(f->seed[k].data, 1, f->seed[k].len, out) != f->seed[k].len || fclose(out) != 0) {
                    perror(path);
                    return 1;
                }
            }
    }
    return 0;
}
