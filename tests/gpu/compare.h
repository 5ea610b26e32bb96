/* compare.h - what the parts of the CUDA comparison share: both backends, buffers on either, random numbers, verdicts. */
#ifndef MR_COMPARE_H
#define MR_COMPARE_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

extern mr_backend *cpu, *gpu;
extern bool small_run; /* under the emulator: fewer and smaller shapes */

/* One line of the table; counts. */
void verdict(bool ok, const char *name, const char *fmt, ...) MR_PRINTF(3, 4);
/* Ends the program: something that no test can go on without. */
void require(bool ok, const char *what);
/* Both backends are without a failure; else a FAIL line. */
void healthy(const char *name);

uint32_t random_bits(void);
float random_float(void); /* [-1, 1) */
extern uint32_t random_state;
float *random_new(int64_t n, float scale); /* host; free */
float *nan_new(int64_t n);

/* Device memory of b with n values of host (NULL: NaN), one value off the alignment when `off`. Freed by drop(b). */
float *put(mr_backend *b, const float *host, int64_t n);
float *put_off(mr_backend *b, const float *host, int64_t n);
int32_t *put_ids(mr_backend *b, const int32_t *host, int64_t n);
void drop(mr_backend *b);                                  /* frees what put gave on b */
void drop_last(mr_backend *b, int n);                      /* the last n of them */
float *get(mr_backend *b, const float *device, int64_t n); /* host copy; free */

/* The largest difference, relative to the largest wanted size; infinite for NaN in one alone. */
double worst(const float *got, const float *want, int64_t n);
bool same_bits(const float *a, const float *b, int64_t n);

/* A weight on b from values[n_out * n_in]. */
mr_weight *weight_new(mr_backend *b, const float *values, int64_t n_out, int64_t n_in, int64_t more, mr_dtype store, mr_dtype compute,
                      unsigned uses);

/* How weights are stored and products computed. */
typedef struct kind {
    const char *name;
    mr_dtype store, compute;
    double tolerance;
} kind;
extern const kind kinds[];
extern const int n_kinds;
bool kind_here(const kind *k); /* this GPU computes in it */

void test_weights(void);
void test_elementwise(void);
void test_linear(void);
void test_rows(void);
void test_mlp(void);
void test_unpacked(void);
void test_attention(void);
void test_head(void);
void test_optimizer(void);
void bench_all(void);
void bench_between(void); /* all but the products */
void bench_steps(void);   /* attention of decode steps */
void bench_decode(void);  /* NF4 products of 6 rows, here and what that says of a T4 */

#endif
