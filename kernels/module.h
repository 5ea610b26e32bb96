/* module.h - how the program and the CUDA module find each other.
 *
 * libmedrl_cuda.so exports one symbol, mr_cuda_module, a function that returns this table. Both sides are built from one tree: `abi`
 * sums up the layouts that they share and counts the changes of what operations are called with, which no layout shows; the program refuses a
 * module with another one.
 * libmedrl_cuda_sm75.so beside it is the same sources for Turing alone (cuda.h, CU_FORCED_SM): MEDRL_SM=75 takes it. */
#ifndef MR_MODULE_H
#define MR_MODULE_H

#include "kernels.h"

#define MR_CUDA_FILE "libmedrl_cuda.so"
#define MR_CUDA_FILE_SM75 "libmedrl_cuda_sm75.so"
#define MR_CUDA_SYMBOL "mr_cuda_module"

#define MR_CUDA_CALLS 2 /* one more with each change of an operation's arguments */
#define MR_CUDA_ABI                                                                                                    \
    ((uint64_t)MR_CUDA_CALLS << 56 | (uint64_t)sizeof(mr_backend) << 40 | (uint64_t)sizeof(mr_linear) << 24 |          \
     (uint64_t)sizeof(mr_span) << 12 |                                                                                 \
     (uint64_t)(sizeof(mr_sampling) + sizeof(mr_adamw) + sizeof(mr_adamw_tensor) + sizeof(mr_weight_info) + sizeof(mr_room) + sizeof(mr_gated)))

typedef struct mr_cuda_module_table {
    uint64_t abi;
    mr_status (*open)(mr_backend **out, int index, mr_err *err);
    void (*warm)(int index); /* what takes long and leaves no trace: the driver's context, libraries; in any thread, before open */
} mr_cuda_module_table;

#endif
