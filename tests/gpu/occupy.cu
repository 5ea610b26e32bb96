/* occupy.cu - leaves a program 40 multiprocessors of the GPU, as many as a T4 has: kernels that do nothing hold the rest.
 *
 *     nvcc -std=c++17 -O2 -arch=native -shared -Xcompiler -fPIC -o liboccupy.so tests/gpu/occupy.cu
 *     CUDA_INJECTION64_PATH=$PWD/liboccupy.so MEDRL_SM_COUNT=40 MEDRL_SM=75 build-gpu/compare decode
 *
 * The driver loads it; a thread of it begins when the program's context is there: blocks that take the shared memory of a
 * multiprocessor each, so that no product runs beside one, for OCCUPY_S seconds (20). The program's own blocks find the others. Clock, caches and
 * memory stay those of the present GPU. OCCUPY_FREE: how many are left (40). Whether it worked is printed: the multiprocessors that it holds. */
#include <cuda_runtime.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

__global__ static void __launch_bounds__(1024, 1) hold(unsigned *seen, unsigned long long until_ns) {
    extern __shared__ char room[];
    unsigned sm;
    unsigned long long now;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
    if (threadIdx.x == 0) seen[sm] = 1, room[0] = 1;
    do {
        __nanosleep(100000);
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now < until_ns);
}

__global__ static void clock_kernel(unsigned long long *now) { asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(*now)); }

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text && atoi(text) > 0 ? atoi(text) : otherwise;
}

static void *begin(void *none) {
    cudaDeviceProp prop;
    cudaStream_t stream;
    unsigned *seen;
    unsigned long long *now;
    usleep((useconds_t)number("OCCUPY_AFTER_MS", 700) * 1000); /* the program opens its context first */
    if (cudaGetDeviceProperties(&prop, 0) != cudaSuccess || cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess ||
        cudaHostAlloc((void **)&seen, 4096, cudaHostAllocMapped) != cudaSuccess || cudaHostAlloc((void **)&now, 8, cudaHostAllocMapped) != cudaSuccess) {
        fprintf(stderr, "occupy: %s\n", cudaGetErrorString(cudaGetLastError()));
        return none;
    }
    for (int i = 0; i < 1024; i++) seen[i] = 0;
    clock_kernel<<<1, 1, 0, stream>>>(now);
    cudaStreamSynchronize(stream);
    const int blocks = prop.multiProcessorCount - number("OCCUPY_FREE", 40);
    const int shared = (int)prop.sharedMemPerBlockOptin - 1024;
    cudaFuncSetAttribute(hold, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    hold<<<blocks, 1024, shared, stream>>>(seen, *now + 1000000000ull * (unsigned long long)number("OCCUPY_S", 20));
    usleep(50000);
    int held = 0;
    for (int i = 0; i < 1024; i++) held += seen[i] != 0;
    fprintf(stderr, "occupy: %s, %d of %d multiprocessors held\n", cudaGetErrorString(cudaGetLastError()), held, prop.multiProcessorCount);
    return none;
}

extern "C" __attribute__((visibility("default"))) int InitializeInjection(void) {
    pthread_t thread;
    return pthread_create(&thread, NULL, begin, NULL) == 0;
}
