/* occupy.cu - leaves a program 40 multiprocessors of the GPU, as many as a T4 has: kernels that do nothing hold the rest.
 *
 *     nvcc -std=c++17 -O2 -arch=native -shared -Xcompiler -fPIC -o liboccupy.so tests/gpu/occupy.cu
 *     CUDA_INJECTION64_PATH=$PWD/liboccupy.so MEDRL_SM_COUNT=40 MEDRL_SM=75 build-gpu/compare decode
 *
 * The driver loads it; a thread of it begins when the program's context is there: blocks that take the shared memory of a
 * multiprocessor each, so that no product runs beside one. The program's own blocks find the others. They go and come again ten times a second, for
 * OCCUPY_S seconds (60), since memory that is freed waits for all kernels: with one kernel for the whole time the program's first cudaFree waited for its
 * end, and what was measured afterwards had all multiprocessors. Clock, caches and memory stay those of the present GPU. OCCUPY_FREE: how many are
 * left (40). What it held is printed twice a second: the least and the most multiprocessors of a turn, and its share of the time. */
#include <cuda_runtime.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { TURN_MS = 100, MOST_SMS = 1024 };

static pthread_t thread;
static volatile bool over; /* the program ends */

__global__ static void __launch_bounds__(1024, 1) hold(unsigned *seen, unsigned long long ns) {
    extern __shared__ char room[];
    unsigned sm;
    unsigned long long now, until;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
    if (threadIdx.x == 0) seen[sm] = 1, room[0] = 1;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(until));
    until += ns;
    do {
        __nanosleep(100000);
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now < until);
}

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text && atoi(text) > 0 ? atoi(text) : otherwise;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *begin(void *none) {
    cudaDeviceProp prop;
    cudaStream_t stream;
    unsigned *seen;
    int least, most;
    usleep((useconds_t)number("OCCUPY_AFTER_MS", 700) * 1000); /* the program opens its context first */
    cudaDeviceGetStreamPriorityRange(&least, &most);
    if (cudaGetDeviceProperties(&prop, 0) != cudaSuccess || cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, most) != cudaSuccess ||
        cudaHostAlloc((void **)&seen, MOST_SMS * sizeof *seen, cudaHostAllocMapped) != cudaSuccess) {
        fprintf(stderr, "occupy: %s\n", cudaGetErrorString(cudaGetLastError()));
        return none;
    }
    const int blocks = prop.multiProcessorCount - number("OCCUPY_FREE", 40), shared = (int)prop.sharedMemPerBlockOptin - 1024;
    cudaFuncSetAttribute(hold, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    const double start = seconds(), end = start + number("OCCUPY_S", 60);
    double told = start;
    int fewest = MOST_SMS, highest = 0, turns = 0;
    cudaError_t error = cudaSuccess;
    while (error == cudaSuccess && !over && seconds() < end) {
        for (int i = 0; i < MOST_SMS; i++) seen[i] = 0;
        hold<<<blocks, 1024, shared, stream>>>(seen, TURN_MS * 1000000ull);
        error = cudaStreamSynchronize(stream);
        int held = 0;
        for (int i = 0; i < MOST_SMS; i++) held += seen[i] != 0;
        if (held < fewest) fewest = held;
        if (held > highest) highest = held;
        turns++;
        if (seconds() - told < 0.5 && seconds() < end) continue;
        told = seconds();
        fprintf(stderr, "occupy: %s, %d to %d of %d multiprocessors held, %.0f %% of the time\n", cudaGetErrorString(error), fewest, highest,
                prop.multiProcessorCount, 0.1 * TURN_MS * turns / (told - start));
    }
    return none;
}

/* Before the runtime is taken down, under the thread's feet. */
static void stop(void) {
    over = true;
    pthread_join(thread, NULL);
}

extern "C" __attribute__((visibility("default"))) int InitializeInjection(void) {
    if (pthread_create(&thread, NULL, begin, NULL) != 0) return 0;
    atexit(stop);
    return 1;
}
