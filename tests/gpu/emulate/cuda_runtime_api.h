/* cuda_runtime_api.h - stands in for the CUDA runtime when kernels/cuda is compiled for the CPU (MR_EMULATE). There is one device;
 * MEDRL_EMULATE_SM=75 makes it a Turing, without bf16.
 * Its memory is a range of addresses that can be read and written only while a kernel, a copy or a memset runs: the host faults on
 * it, as on the memory of a GPU. Copies that name host memory as the device's, or the other way round, stop the program.
 * What can go wrong, by environment variable: MEDRL_EMULATE_DRIVER=11040 is the driver's version (0: no driver), MEDRL_EMULATE_GPUS=0 the
 * number of devices; MEDRL_EMULATE_FAIL_ALLOC=N makes the N-th cudaMalloc of the process fail, MEDRL_EMULATE_FAULT=N is an illegal address in
 * its N-th kernel, MEDRL_EMULATE_FAULT=./FILE in the first one after that file is there: from then on every call fails, as on a GPU. */
#ifndef MR_EMULATE_RUNTIME_H
#define MR_EMULATE_RUNTIME_H

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorIllegalAddress = 700
} cudaError_t;
typedef void *cudaStream_t, *cudaEvent_t;
typedef struct emu_graph *cudaGraph_t, *cudaGraphExec_t;
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocDefault = 0 };

struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount;
    size_t sharedMemPerBlockOptin, totalGlobalMem;
};

extern cudaError_t emu_error; /* what every call returns once a kernel has faulted */

static inline int emu_setting(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text && *text ? atoi(text) : otherwise;
}
static inline const char *cudaGetErrorString(cudaError_t e) {
    return e == cudaSuccess ? "no error" : e == cudaErrorMemoryAllocation ? "out of memory"
         : e == cudaErrorIllegalAddress ? "an illegal memory access was encountered" : "no device, or its driver is too old";
}
static inline const char *cudaGetErrorName(cudaError_t e) {
    return e == cudaSuccess ? "cudaSuccess" : e == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation"
         : e == cudaErrorIllegalAddress ? "cudaErrorIllegalAddress" : e == cudaErrorNoDevice ? "cudaErrorNoDevice" : "cudaErrorInsufficientDriver";
}
static inline cudaError_t cudaGetLastError(void) { return emu_error; }
static inline cudaError_t cudaDriverGetVersion(int *v) { *v = emu_setting("MEDRL_EMULATE_DRIVER", 13000); return cudaSuccess; }
static inline cudaError_t cudaRuntimeGetVersion(int *v) { *v = 13000; return cudaSuccess; }
static inline cudaError_t cudaGetDeviceCount(int *n) {
    *n = emu_setting("MEDRL_EMULATE_GPUS", 1);
    return emu_setting("MEDRL_EMULATE_DRIVER", 13000) < 13000 ? cudaErrorInsufficientDriver : *n ? cudaSuccess : cudaErrorNoDevice;
}
static inline cudaError_t cudaSetDevice(int i) { (void)i; return emu_error; }
static inline cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int i) {
    int level = emu_setting("MEDRL_EMULATE_SM", 80);
    (void)i;
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulated GPU");
    p->major = level / 10, p->minor = level % 10, p->multiProcessorCount = 4;
    p->sharedMemPerBlockOptin = level < 80 ? 65536 : level < 90 ? 101376 : 232448; /* 80: as little as 86 has */
    p->totalGlobalMem = (size_t)4 << 30;
    return cudaSuccess;
}
static inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned f) { (void)f; *s = (void *)s; return cudaSuccess; }
static inline cudaError_t cudaStreamDestroy(cudaStream_t s) { (void)s; return cudaSuccess; }
static inline cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned f) {
    (void)f;
    return (*p = malloc(bytes ? bytes : 1)) ? cudaSuccess : cudaErrorMemoryAllocation;
}
static inline cudaError_t cudaFreeHost(void *p) { free(p); return cudaSuccess; }
static inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned f) { (void)f; *e = NULL; return cudaSuccess; }
static inline cudaError_t cudaEventDestroy(cudaEvent_t e) { (void)e; return cudaSuccess; }
static inline cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) { (void)e, (void)s; return cudaSuccess; }
static inline cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned f) { (void)s, (void)e, (void)f; return emu_error; }
static inline cudaError_t cudaEventSynchronize(cudaEvent_t e) { (void)e; return emu_error; }

/* --- emulate.cc --- */
cudaError_t cudaMalloc(void **p, size_t bytes); /* poisoned: fresh device memory holds anything */
cudaError_t cudaFree(void *p);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total);
cudaError_t cudaMemsetAsync(void *p, int v, size_t bytes, cudaStream_t s);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t s);
/* What is recorded between begin and end runs when the graph is launched, and not before. */
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s);

#ifdef __cplusplus
}
#endif
#endif
