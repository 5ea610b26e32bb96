/* bench_shape.h - `medrl bench --config NAME`: a shape with random weights, no files, each part of a job alone.
 *
 * In this order: what the device can do (copy, product), making and storing the weights, prefill, whole steps, the
 * log-probability pass and the training pass of the job, its memory; then decode steps of other batch sizes. Each
 * figure comes with the bytes and operations that it needs at least (model/cost.h), so with shares of the limits. */
#ifndef MR_BENCH_SHAPE_H
#define MR_BENCH_SHAPE_H

#include "cli/parts.h"

typedef struct mr_bench_shape {
    const char *config; /* mr_config_named */
    int64_t rank, prompts, group, n_prompt, n_new;
    const char *batches;      /* "1,6,48"; NULL: by device */
    int64_t context;          /* 0: n_prompt */
    int64_t repeats;          /* 0: 3, or 1 when quick */
    const char *optim, *vram, *dequantize; /* as in a recipe; NULL: its default */
    bool quick, no_checkpointing;
    bool compare_exact; /* measured twice, as po says and without the row rule: what exactness costs */
} mr_bench_shape;

#define MR_BENCH_SHAPE                                                                                                 \
    { .rank = 64, .prompts = 1, .group = 6, .n_prompt = 512, .n_new = 512 }

/* Prints a table, or one JSON object; with compare_exact both ("exact" and "fast") and the ratios of their times. po: device,
 * dtype, store, threads and no_exact. */
mr_status mr_bench_shape_run(const mr_bench_shape *shape, const mr_parts_opts *po, bool json, mr_err *err);

#endif
