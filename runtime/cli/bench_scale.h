/* bench_scale.h - `medrl bench --scale DIR`: how times and memory grow, one axis after the other, each beside its limit.
 *
 * Around one job (Qwen2.5-3B, LoRA of rank 64, NF4; on a CPU SmolLM2-135M) the number of sequences, the context, the rank and the
 * model are changed in turn: a decode step of 8 and of 64 sequences, and a training step. Last, memory against the length of
 * completions under a cap. Weights and ids are random, nothing is read from files. A limit is the larger of bytes over a copy's rate
 * and operations over a large product's, both measured in the same run (bench_limits.h, model/cost.h).
 * Into DIR: scale.json with every figure, scale.md with tables, scale-AXIS.svg with pictures. */
#ifndef MR_BENCH_SCALE_H
#define MR_BENCH_SCALE_H

#include "cli/bench_shape.h"

/* shape: config (NULL: by device), rank, vram (of the memory axis; 24G on a GPU) and quick (only the ends of each axis; on a CPU
 * one value) are looked at.
 * json: scale.json to stdout, else the tables. */
mr_status mr_bench_scale_run(const mr_bench_shape *shape, const char *dir, const mr_parts_opts *po, bool json, mr_err *err);

#endif
