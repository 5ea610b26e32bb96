/* merge.h - the tensors of a model with an adapter merged in, row by row. Private to export.c and merge.c. */
#ifndef MR_MERGE_H
#define MR_MERGE_H

#include "base/threads.h"
#include "files/quantize.h"
#include "files/writer.h"
#include "model/export.h"

typedef struct mr_part {
    char name[112];     /* Hugging Face's */
    int64_t rows, cols; /* of a vector: 1 row */
    bool vector;
    int layer, proj; /* -1: none */
    const mr_tensor_info *info;
    const mr_tensor_info *a, *b; /* the adapter's; NULL: none on this one */
    int head_rows;               /* > 0: rows go out in llama.cpp's order, heads of this many rows */
} mr_part;

typedef struct mr_merge_plan {
    mr_config config;
    mr_tensors *base, *adapter;
    float scale;
    mr_part *parts;
    int n;
    mr_threads *threads;
} mr_merge_plan;

/* Opens base and adapter, lists the parts in the order of the layers and checks every shape. interleave: q and k as
 * llama.cpp wants them for arch llama. p is filled from zero; clear in any case. */
mr_status mr_merge_open(mr_merge_plan *p, const mr_export_opts *o, bool interleave, mr_err *err);
void mr_merge_close(mr_merge_plan *p);
/* All rows of a part in the format, appended to w; *done grows by what was written. */
mr_status mr_merge_put(mr_writer *w, mr_merge_plan *p, const mr_part *part, const mr_format *f, size_t *done,
                       size_t all, const mr_export_opts *o, mr_err *err);

#endif
