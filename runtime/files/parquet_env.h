/* parquet_env.h - what carquet finds in place of the C library's files and memory: put in front of each of its sources
 * by cmake/carquet.cmake, included by nothing else.
 *
 * Its reader takes paths and opens them itself; in the process that runs it no path can be opened, so fopen gives the
 * one descriptor that parquet.c holds. Its memory is counted, so that a file which claims terabytes meets a limit in
 * every build, under sanitizers too, where no limit on the address space is possible. */
#ifndef MR_PARQUET_ENV_H
#define MR_PARQUET_ENV_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

FILE *mr_parquet_fopen(const char *path, const char *mode);
void *mr_parquet_malloc(size_t bytes);
void *mr_parquet_calloc(size_t n, size_t bytes);
void *mr_parquet_realloc(void *p, size_t bytes);
void mr_parquet_free(void *p);

#define fopen mr_parquet_fopen
#define malloc mr_parquet_malloc
#define calloc mr_parquet_calloc
#define realloc mr_parquet_realloc
#define free mr_parquet_free

#endif
