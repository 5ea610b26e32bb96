/* emulate.cc - see emulate_device.h: blocks one after another, their threads as fibers. x86-64 only. */
#include "cuda_runtime_api.h"
#include "emulate_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <vector>

emu_place threadIdx, blockIdx, blockDim, gridDim;
cudaError_t emu_error = cudaSuccess;

/* --- memory --- */

namespace {

const size_t RANGE = (size_t)16 << 30, PAGE = 4096, HUGE_PAGE = (size_t)2 << 20;
char *device;                    /* the range; nothing of it is there before it is asked for */
size_t device_end;               /* bytes of it that were ever handed out */
std::map<size_t, size_t> pieces; /* taken: offset to bytes, whole pages */

size_t capacity() {
    const char *mb = getenv("MEDRL_EMULATE_MB");
    return (mb && *mb ? (size_t)atoi(mb) : 4096) << 20;
}

size_t taken() {
    size_t sum = 0;
    for (const auto &p : pieces) sum += p.second;
    return sum;
}

/* The device runs while one of these lives. With the processor's protection keys that costs nothing; without, the page
 * tables change at every launch. */
int key = -1; /* none */
struct running {
    running() { set(true); }
    ~running() { set(false); }
    static void set(bool open) {
        if (key >= 0)
            pkey_set(key, open ? 0 : PKEY_DISABLE_ACCESS);
        else if (device_end && mprotect(device, device_end, open ? PROT_READ | PROT_WRITE : PROT_NONE) != 0)
            abort();
    }
};

/* Without keys a launch changes each page's entry twice: huge pages, where the kernel has them, are 512 times fewer. */
void reserve() {
    char *range = (char *)mmap(NULL, RANGE + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    device = range == MAP_FAILED ? range : (char *)(((uintptr_t)range + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    key = pkey_alloc(0, PKEY_DISABLE_ACCESS);
    if (device != MAP_FAILED && key < 0) madvise(device, RANGE, MADV_HUGEPAGE);
    if (device == MAP_FAILED || (key >= 0 && pkey_mprotect(device, RANGE, PROT_READ | PROT_WRITE, key) != 0)) abort();
}

bool on_device(const void *p, size_t bytes) {
    if (!device || (const char *)p < device || (const char *)p >= device + RANGE) return false;
    size_t at = (size_t)((const char *)p - device);
    auto next = pieces.upper_bound(at);
    if (next == pieces.begin()) return false;
    auto piece = std::prev(next);
    return at + bytes <= piece->first + piece->second;
}

void want(bool device_side, const void *p, size_t bytes, const char *call) {
    bool inside = device && (const char *)p + bytes > device && (const char *)p < device + RANGE;
    if (device_side ? on_device(p, bytes) : !inside) return;
    fprintf(stderr, "emulator: %s: %zu bytes at %p are not %s memory\n", call, bytes, p, device_side ? "the device's" : "the host's");
    abort();
}

} // namespace

/* --- recordings: what a stream would do, in order --- */

struct emu_graph {
    std::vector<std::function<void()>> steps;
};
static emu_graph *recorded; /* NULL: everything runs at once */

/* What may not be recorded. */
static void at_once(const char *call) {
    if (!recorded) return;
    fprintf(stderr, "emulator: %s while work is recorded\n", call);
    abort();
}

cudaError_t cudaStreamBeginCapture(cudaStream_t, enum cudaStreamCaptureMode) {
    at_once("cudaStreamBeginCapture");
    recorded = new emu_graph;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *graph) {
    *graph = recorded;
    recorded = NULL;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    *exec = new emu_graph(*graph);
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { delete graph; return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { delete exec; return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
    at_once("cudaGraphLaunch");
    for (const auto &step : exec->steps) step();
    return emu_error;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
    at_once("cudaStreamSynchronize");
    return emu_error;
}

/* First fit. */
cudaError_t cudaMalloc(void **p, size_t bytes) {
    static int n_calls;
    at_once("cudaMalloc");
    *p = NULL;
    if (emu_error) return emu_error;
    if (++n_calls == emu_setting("MEDRL_EMULATE_FAIL_ALLOC", 0)) return cudaErrorMemoryAllocation;
    if (!device) reserve();
    size_t size = (bytes + PAGE) / PAGE * PAGE, at = 0;
    for (const auto &piece : pieces) {
        if (at + size <= piece.first) break;
        at = piece.first + piece.second;
    }
    if (taken() + size > capacity() || at + size > RANGE) return cudaErrorMemoryAllocation;
    pieces[at] = size;
    if (at + size > device_end) device_end = (at + size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    *p = device + at;
    running now;
    memset(*p, 0xff, size);
    return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
    if (!p) return cudaSuccess;
    at_once("cudaFree");
    auto piece = pieces.find((size_t)((char *)p - device));
    if (!device || piece == pieces.end()) {
        fprintf(stderr, "emulator: cudaFree: %p was not taken\n", p);
        abort();
    }
    madvise(p, piece->second, MADV_DONTNEED);
    pieces.erase(piece);
    return emu_error;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    *total = capacity();
    *free_bytes = *total - taken();
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int v, size_t bytes, cudaStream_t s) {
    if (recorded) {
        recorded->steps.push_back([=] { cudaMemsetAsync(p, v, bytes, s); });
        return cudaSuccess;
    }
    want(true, p, bytes, "cudaMemsetAsync");
    if (emu_error) return emu_error;
    running now;
    memset(p, v, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t s) {
    if (recorded) {
        if (kind != cudaMemcpyDeviceToDevice) at_once("a copy from or to the host");
        recorded->steps.push_back([=] { cudaMemcpyAsync(dst, src, bytes, kind, s); });
        return cudaSuccess;
    }
    want(kind != cudaMemcpyDeviceToHost, dst, bytes, "cudaMemcpyAsync, to");
    want(kind != cudaMemcpyHostToDevice, src, bytes, "cudaMemcpyAsync, from");
    if (emu_error) return emu_error;
    running now;
    memcpy(dst, src, bytes);
    return cudaSuccess;
}

/* --- kernels --- */

namespace {

enum { MOST = 1024, STACK = 128 << 10, SHARED = 232448 };
enum state { READY, AT_WARP, AT_BLOCK, DONE };

struct copy_op { void *dst; const void *src; };
struct fiber {
    void *sp;
    state at;
    std::vector<std::vector<copy_op>> groups;
    std::vector<copy_op> open;
};

fiber fibers[MOST];
char *stacks;
alignas(128) unsigned char shared[SHARED];
const void *lanes[MOST / 32][32];
emu_tile tiles[MOST / 32];
int n_threads, now;
size_t shared_bytes;
void *scheduler;
const std::function<void()> *kernel_now;

/* MEDRL_EMULATE_FAULT: a number, or a file. */
bool faults() {
    static long n_launches;
    static const char *when = getenv("MEDRL_EMULATE_FAULT");
    n_launches++;
    if (!emu_error && when && *when && (strchr(when, '/') ? access(when, F_OK) == 0 : n_launches == atol(when)))
        emu_error = cudaErrorIllegalAddress;
    return emu_error != cudaSuccess;
}

extern "C" void emu_switch(void **save, void *to);
__asm__(".text\n.globl emu_switch\n.type emu_switch,@function\nemu_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n  ret\n");

void leave(state at) {
    fibers[now].at = at;
    emu_switch(&fibers[now].sp, scheduler);
}

void begin() {
    (*kernel_now)();
    leave(DONE);
    abort();
}

void prepare(int i) {
    fiber &f = fibers[i];
    f.groups.clear(), f.open.clear();
    f.at = READY;
    void **top = (void **)(stacks + (size_t)(i + 1) * STACK);
    *--top = NULL; /* begin never returns; keeps the stack aligned as after a call */
    *--top = (void *)begin;
    for (int r = 0; r < 6; r++) *--top = NULL;
    f.sp = top;
}

void resume(int i) {
    now = i;
    threadIdx = emu_place{ (unsigned)i, 0, 0 };
    emu_switch(&scheduler, fibers[i].sp);
}

/* All lanes of a warp until each waits for the block or is done. */
void run_warp(int warp, bool down) {
    for (;;) {
        bool ran = false, all = true;
        for (int k = 0; k < 32; k++) {
            int i = warp * 32 + (down ? 31 - k : k);
            if (fibers[i].at == READY) resume(i), ran = true;
        }
        for (int k = 0; k < 32; k++) all = all && fibers[warp * 32 + k].at == AT_WARP;
        if (all)
            for (int k = 0; k < 32; k++) fibers[warp * 32 + k].at = READY;
        else if (!ran)
            break;
    }
    for (int k = 0; k < 32; k++)
        if (fibers[warp * 32 + k].at == AT_WARP) {
            fprintf(stderr, "emulator: warp %d of block %u waits for lanes that went elsewhere\n", warp, blockIdx.x);
            abort();
        }
}

void run_block(bool down) {
    memset(shared, 0xff, shared_bytes);
    for (int i = 0; i < n_threads; i++) prepare(i);
    int warps = n_threads / 32;
    for (;;) {
        for (int w = 0; w < warps; w++) run_warp(down ? warps - 1 - w : w, down);
        bool any = false;
        for (int i = 0; i < n_threads; i++)
            if (fibers[i].at == AT_BLOCK) fibers[i].at = READY, any = true;
        if (!any) break;
    }
}

} // namespace

void emu_launch(dim3 grid, dim3 threads, size_t bytes, const std::function<void()> &kernel) {
    if (recorded) {
        recorded->steps.push_back([=] { emu_launch(grid, threads, bytes, kernel); });
        return;
    }
    if (faults()) return;
    if (!stacks) stacks = (char *)mmap(NULL, (size_t)MOST * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    n_threads = (int)threads.x, shared_bytes = bytes;
    if (n_threads > MOST || n_threads % 32 || bytes > SHARED || stacks == MAP_FAILED || !grid.x || !grid.y || grid.y > 65535) {
        fprintf(stderr, "emulator: %d threads, %zu bytes, grid %u x %u\n", n_threads, bytes, grid.x, grid.y);
        abort();
    }
    const char *order = getenv("MEDRL_EMULATE_ORDER");
    bool down = order && strcmp(order, "down") == 0;
    running now_it_does;
    kernel_now = &kernel;
    gridDim = emu_place{ grid.x, grid.y, grid.z };
    blockDim = emu_place{ threads.x, 1, 1 };
    for (unsigned y = 0; y < grid.y; y++)
        for (unsigned x = 0; x < grid.x; x++) {
            blockIdx = emu_place{ x, y, 0 };
            run_block(down);
        }
}

unsigned char *emu_shared() { return shared; }
void __syncthreads() { leave(AT_BLOCK); }
void emu_warp_wait() { leave(AT_WARP); }
const void *&emu_lane(int lane) { return lanes[now / 32][lane]; }

emu_tile &emu_warp_tile() { return tiles[now / 32]; }

void emu_copy(void *dst, const void *src) { fibers[now].open.push_back(copy_op{ dst, src }); }
void emu_commit() {
    fibers[now].groups.push_back(fibers[now].open);
    fibers[now].open.clear();
}
void emu_wait(int n) {
    std::vector<std::vector<copy_op>> &g = fibers[now].groups;
    while ((int)g.size() > n) {
        for (const copy_op &c : g.front()) {
            if (c.src)
                memcpy(c.dst, c.src, 16);
            else
                memset(c.dst, 0, 16);
        }
        g.erase(g.begin());
    }
}
