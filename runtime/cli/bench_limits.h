/* bench_limits.h - what a device can do at most, for shares of it: measured where they are used, in the same run. */
#ifndef MR_BENCH_LIMITS_H
#define MR_BENCH_LIMITS_H

#include "kernels.h"
#include "model/cost.h"

typedef struct mr_limits {
    double copy;    /* bytes a second, read and written, of a copy of 256 MB */
    double product; /* operations a second of one large square product in the compute type (8192; on a CPU 1024) */
} mr_limits;

/* The best of three of each, as the kernel table's calls. */
mr_status mr_bench_limits(mr_limits *out, mr_backend *b, mr_dtype compute, mr_err *err);

/* Seconds that this takes at least. */
static inline double mr_limit_s(const mr_limits *l, mr_cost c) {
    double bytes = c.bytes / l->copy, flops = c.flops / l->product;
    return bytes > flops ? bytes : flops;
}

#endif
