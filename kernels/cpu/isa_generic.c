/* isa_generic.c - the loops of isa_*.inc compiled for plain C: any machine. */
#include <string.h>

#include "cpu/isa.h"

#define MR_VEC_GENERIC 1
#define MR_KERNELS cpu_kernels_generic
#define MR_ISA_NAME "generic"
#include "cpu/isa_all.inc"
