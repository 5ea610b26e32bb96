/* gemm_bench.c - how fast the CPU backend multiplies, type by type, in one run on one machine.
 *
 *     build/tests/gemm_bench [THREADS]
 *
 * Each shape takes turns over copies of the weight that together exceed the caches, as the layers of a model do; the
 * best of many runs counts. GB/s are the bytes of the weight. "bwd" is dx = dy @ w. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint32_t seed = 1;
static float noise(void) {
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / 8388608.0f - 1.0f;
}

static int64_t columns;
static mr_status random_rows(void *self, float *dst, int64_t row, int64_t n, mr_err *err) {
    (void)self, (void)row, (void)err;
    for (int64_t i = 0; i < n * columns; i++) dst[i] = noise();
    return MR_OK;
}

static void die(const mr_err *err) {
    fprintf(stderr, "gemm_bench: %s\n", err->msg);
    exit(1);
}

typedef struct engine {
    const char *label;
    mr_dtype store, compute;
} engine;

int main(int argc, char **argv) {
    static const int64_t shapes[][2] = { { 960, 576 }, { 576, 576 }, { 3072, 576 }, { 576, 1536 }, { 49152, 576 } };
    static const int rows[] = { 1, 6, 24, 96, 460, 1840 };
    static const engine engines[] = {
        { "bf16", MR_BF16, MR_BF16 },
        { "f32", MR_F32, MR_F32 },
        { "nf4", MR_NF4, MR_BF16 },
    };
    enum { MOST = 1840, COPIES = 64 };
    mr_err err;
    mr_backend *b;
    if (mr_backend_open(&b, MR_CPU, 0, argc > 1 ? atoi(argv[1]) : 0, &err) != MR_OK) die(&err);
    printf("%s\n%-9s %13s  %4s", b->device, "weights", "O x I", "");
    for (size_t m = 0; m < sizeof rows / sizeof rows[0]; m++) printf("   M=%-4d GF/s  GB/s", rows[m]);
    printf("\n");
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        int64_t O = shapes[s][0], I = shapes[s][1], widest = O > I ? O : I;
        int most = O > 10000 ? 460 : MOST;
        float *x = b->alloc(b, (size_t)(widest * most) * sizeof *x),
              *y = b->alloc(b, (size_t)(widest * most) * sizeof *y);
        for (int64_t i = 0; i < widest * most; i++) x[i] = noise();
        for (size_t e = 0; e < sizeof engines / sizeof engines[0]; e++) {
            mr_dtype compute = engines[e].compute == MR_BF16 && !b->has_bf16 ? MR_F32 : engines[e].compute;
            int copies = (int)((96 << 20) / (O * I * 2) + 1);
            if (copies > COPIES) copies = COPIES;
            mr_weight *w[COPIES];
            columns = I;
            for (int i = 0; i < copies; i++)
                if (b->weight_create(b, &w[i], (mr_weight_source){ NULL, random_rows }, O, I, 0, engines[e].store, compute,
                                     MR_USE_FWD | MR_USE_BWD, &err) != MR_OK)
                    die(&err);
            double bytes = (double)(O * I) * (engines[e].store == MR_F32    ? 4.0
                                              : engines[e].store == MR_BF16 ? 2.0
                                                                            : 0.516);
            for (int bwd = 0; bwd < 2; bwd++) {
                printf("%-9s %6lldx%-6lld  %4s", engines[e].label, (long long)O, (long long)I, bwd ? "bwd" : "");
                for (size_t m = 0; m < sizeof rows / sizeof rows[0]; m++) {
                    if (rows[m] > most) continue;
                    double best = 1e9, spent = 0.0, flop = 2.0 * (double)rows[m] * (double)O * (double)I;
                    for (int i = 0; (spent < 0.25 || i < 3) && i < 2000; i++) {
                        mr_linear l = { .w = w[i % copies] };
                        double t = now();
                        if (bwd)
                            b->linear_bwd(b, y, NULL, x, NULL, NULL, &l, rows[m], false);
                        else
                            b->linear(b, y, NULL, x, &l, rows[m], NULL);
                        t = now() - t;
                        spent += t;
                        if (t < best) best = t;
                    }
                    printf("       %7.1f %6.1f", flop / best * 1e-9, bytes / best * 1e-9);
                    fflush(stdout);
                }
                printf("\n");
            }
            for (int i = 0; i < copies; i++) b->weight_free(b, w[i]);
        }
        b->free(b, x);
        b->free(b, y);
    }
    mr_status st = b->sync(b, &err);
    if (st != MR_OK) die(&err);
    mr_backend_close(b);
    return 0;
}
