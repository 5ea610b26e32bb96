/* backend.c - opens a CUDA device: is there a driver, is the GPU new enough; the table, memory and the first failure. */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/lt.h"
#include "maps.h"
#include "module.h"

/* --- failures --- */

void cu_fail(mr_backend *b, mr_status st, const char *op, const char *fmt, ...) {
    cu_state *s = cu_of(b);
    if (s->failed) return;
    va_list args;
    va_start(args, fmt);
    int n = snprintf(s->message, sizeof s->message, "%s: %s: ", s->name, op);
    vsnprintf(s->message + n, sizeof s->message - (size_t)n, fmt, args);
    va_end(args);
    s->status = st;
    s->failed = true;
}

bool cu_check(mr_backend *b, const char *op, cudaError_t e) {
    if (e == cudaSuccess) return true;
    if (e == cudaErrorMemoryAllocation)
        cu_fail(b, MR_ENOMEM, op, "%s (%s)", cudaGetErrorString(e), cudaGetErrorName(e));
    else /* kernels run later than they are launched: the operation that is told may not be the one */
        cu_fail(b, MR_EINTERNAL, op, "%s (%s); %s`dmesg` has a line with \"Xid\" when the GPU itself is at fault",
                cudaGetErrorString(e), cudaGetErrorName(e),
                cu_of(b)->sync_each ? "" : "MEDRL_CUDA_SYNC=1 names the kernel, ");
    return false;
}

void cu_launched(mr_backend *b, const char *op) {
    cu_state *s = cu_of(b);
    __atomic_store_n(&b->op, op, __ATOMIC_RELAXED);
    __atomic_store_n(&b->n_ops, b->n_ops + 1, __ATOMIC_RELAXED);
    if (cu_check(b, op, cudaGetLastError()) && s->sync_each) cu_check(b, op, cudaStreamSynchronize(s->stream));
}

/* --- memory --- */

size_t cu_taken_bytes(size_t bytes) {
    const size_t mib = (size_t)1 << 20;
    if (bytes > mib) return (bytes + 2 * mib - 1) / (2 * mib) * (2 * mib);
    return bytes ? (bytes + 511) / 512 * 512 : 512;
}

static void count(mr_backend *b, size_t more, size_t less) {
    b->bytes = b->bytes + more - less;
    if (b->bytes > b->bytes_peak) b->bytes_peak = b->bytes;
}

bool cu_take(mr_backend *b, void **p, size_t bytes) {
    *p = NULL;
    if (cudaMalloc(p, bytes ? bytes : 1) != cudaSuccess) {
        cudaGetLastError(); /* not sticky: the caller says what does not fit */
        *p = NULL;
        return false;
    }
    count(b, cu_taken_bytes(bytes), 0);
    return true;
}

void cu_give(mr_backend *b, void *p, size_t bytes) {
    if (!p) return;
    cu_graphs_forget(b);
    cudaFree(p);
    count(b, 0, cu_taken_bytes(bytes));
}

/* A new block for at least so much: as much as all blocks so far, so that a small model takes little, 64 MiB at most. */
static struct cu_block *new_block(mr_backend *b, size_t bytes) {
    cu_state *s = cu_of(b);
    const size_t least = (size_t)2 << 20, most = (size_t)64 << 20;
    size_t size = 0;
    for (int i = 0; i < s->n_blocks; i++) size += s->blocks[i].bytes;
    size = size < least ? least : size > most ? most : size;
    if (size < bytes) size = bytes;
    struct cu_block *grown = realloc(s->blocks, (size_t)(s->n_blocks + 1) * sizeof *grown), *x;
    if (!grown) return NULL;
    s->blocks = grown;
    x = &s->blocks[s->n_blocks];
    *x = (struct cu_block){ .bytes = size };
    if (!cu_take(b, (void **)&x->p, size)) {
        if (size == bytes) return NULL;
        x->bytes = bytes; /* the last that fits */
        if (!cu_take(b, (void **)&x->p, bytes)) return NULL;
    }
    s->n_blocks++;
    return x;
}

bool cu_take_part(mr_backend *b, void **p, size_t bytes) {
    cu_state *s = cu_of(b);
    struct cu_block *x = NULL;
    bytes = cu_part_bytes(bytes);
    for (int i = 0; i < s->n_blocks && !x; i++)
        if (s->blocks[i].bytes - s->blocks[i].used >= bytes) x = &s->blocks[i];
    if (!x) x = new_block(b, bytes);
    *p = x ? x->p + x->used : NULL;
    if (!x) return false;
    x->used += bytes;
    x->n_parts++;
    return true;
}

void cu_give_part(mr_backend *b, void *p) {
    cu_state *s = cu_of(b);
    int i = 0;
    if (!p) return;
    while (i < s->n_blocks && !((char *)p >= s->blocks[i].p && (char *)p < s->blocks[i].p + s->blocks[i].bytes)) i++;
    assert(i < s->n_blocks);
    struct cu_block *x = &s->blocks[i];
    if (--x->n_parts > 0) return;
    cu_give(b, x->p, x->bytes);
    *x = s->blocks[--s->n_blocks];
}

bool cu_reserve(mr_backend *b, const char *op, int slot, size_t bytes) {
    cu_state *s = cu_of(b);
    if (s->scratch[slot].bytes >= bytes && s->scratch[slot].p) return true;
    cudaStreamSynchronize(s->stream); /* work that uses the old one */
    cu_give(b, s->scratch[slot].p, s->scratch[slot].bytes);
    s->scratch[slot].p = NULL, s->scratch[slot].bytes = 0;
    if (slot >= CU_SLOT_SMALL) s->small[slot - CU_SLOT_SMALL].bytes = 0;
    if (slot == CU_SLOT_W || slot == CU_SLOT_W2) s->unpacked[slot - CU_SLOT_W] = NULL;
    if (!cu_take(b, &s->scratch[slot].p, bytes)) {
        cu_fail(b, MR_ENOMEM, op, "%zu bytes of scratch do not fit into the GPU's memory; use fewer rows a step", bytes);
        return false;
    }
    s->scratch[slot].bytes = bytes;
    return true;
}

/* A repetition penalty's history is as long as it happens to be. */
static bool may_grow(const cu_state *s, int slot) { return !s->sized || !s->strict || slot == CU_SLOT_SMALL + 4; }

void *cu_scratch(mr_backend *b, const char *op, int slot, size_t bytes) {
    cu_state *s = cu_of(b);
    if (s->scratch[slot].bytes < bytes || !s->scratch[slot].p) {
        if (!may_grow(s, slot)) {
            cu_fail(b, MR_EINTERNAL, op, "scratch %d grew from %zu to %zu bytes after it was sized; weight_room is wrong", slot,
                    s->scratch[slot].bytes, bytes);
            return NULL;
        }
        /* an eighth more, so that slowly growing rows do not ask each time */
        if (!cu_reserve(b, op, slot, bytes + bytes / 8 + 256)) return NULL;
    }
    return s->scratch[slot].p;
}

const void *cu_small(mr_backend *b, const char *op, int which, const void *host, size_t bytes) {
    cu_state *s = cu_of(b);
    int slot = CU_SLOT_SMALL + which;
    assert(which >= 0 && which < CU_N_SMALL && bytes > 0);
    if (!cu_may_wait(b, op)) return NULL;
    if (bytes == s->small[which].bytes && memcmp(host, s->small[which].host, bytes) == 0) return s->scratch[slot].p;
    void *p = cu_scratch(b, op, slot, bytes), *copy = realloc(s->small[which].host, bytes);
    if (copy) s->small[which].host = copy;
    s->small[which].bytes = 0;
    if (!p) return NULL;
    if (!copy) {
        cu_fail(b, MR_ENOMEM, op, "the host has no %zu bytes left", bytes);
        return NULL;
    }
    memcpy(copy, host, bytes);
    cu_of(b)->packed.at = NULL;
    /* pageable memory: the call returns when the host's bytes have been read */
    if (!cu_check(b, op, cudaMemcpyAsync(p, copy, bytes, cudaMemcpyHostToDevice, s->stream))) return NULL;
    s->small[which].bytes = bytes;
    return p;
}

static void *device_alloc(mr_backend *b, size_t bytes) {
    cu_state *s = cu_of(b);
    void *p;
    if (s->n_pieces == s->max_pieces) {
        int more = s->max_pieces ? 2 * s->max_pieces : 64;
        struct cu_piece *grown = realloc(s->pieces, (size_t)more * sizeof *grown);
        if (!grown) return NULL;
        s->pieces = grown, s->max_pieces = more;
    }
    if (!cu_take(b, &p, bytes)) return NULL;
    s->pieces[s->n_pieces++] = (struct cu_piece){ p, bytes };
    cudaMemsetAsync(p, 0, bytes, s->stream);
    return p;
}

static void device_free(mr_backend *b, void *p) {
    cu_state *s = cu_of(b);
    int i = s->n_pieces - 1;
    if (!p) return;
    while (i >= 0 && s->pieces[i].p != p) i--;
    assert(i >= 0);
    cudaStreamSynchronize(s->stream);
    cu_give(b, p, s->pieces[i].bytes);
    s->pieces[i] = s->pieces[--s->n_pieces];
}

static void upload(mr_backend *b, void *dst, const void *host, size_t bytes) {
    if (cu_failed(b) || !bytes || !cu_may_wait(b, "upload")) return;
    cu_of(b)->packed.at = NULL;
    /* pageable memory: the call returns when the host's bytes have been read */
    cu_check(b, "upload", cudaMemcpyAsync(dst, host, bytes, cudaMemcpyHostToDevice, cu_of(b)->stream));
}

static void download(mr_backend *b, void *host, const void *src, size_t bytes) {
    if (cu_failed(b) || !bytes || !cu_may_wait(b, "download")) return;
    cu_state *s = cu_of(b);
    bool few = bytes <= CU_PINNED_BYTES; /* the driver takes longer to get at pageable memory than to copy this */
    if (cu_check(b, "download", cudaMemcpyAsync(few ? s->pinned : host, src, bytes, cudaMemcpyDeviceToHost, s->stream)) &&
        cu_check(b, "download", cudaStreamSynchronize(s->stream)) && few)
        memcpy(host, s->pinned, bytes);
}

/* The regions may overlap, as memmove's: then through scratch. */
static void copy(mr_backend *b, void *dst, const void *src, size_t bytes) {
    if (cu_failed(b) || !bytes || dst == src) return;
    cudaStream_t stream = cu_of(b)->stream;
    cu_of(b)->packed.at = NULL;
    const char *d = dst, *f = src;
    if (d < f + bytes && f < d + bytes) {
        void *between = cu_scratch(b, "copy", CU_SLOT_X, bytes);
        if (!between || !cu_check(b, "copy", cudaMemcpyAsync(between, src, bytes, cudaMemcpyDeviceToDevice, stream)))
            return;
        src = between;
    }
    cu_check(b, "copy", cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, stream));
}

static void zero(mr_backend *b, void *dst, size_t bytes) {
    if (cu_failed(b) || !bytes) return;
    cu_of(b)->packed.at = NULL;
    cu_check(b, "zero", cudaMemsetAsync(dst, 0, bytes, cu_of(b)->stream));
}

/* --- beside the operations --- */

static bool open_beside(cu_state *s) {
    if (s->beside) return true;
    if (cudaStreamCreateWithFlags(&s->beside, cudaStreamNonBlocking) != cudaSuccess) return false;
    return cudaEventCreateWithFlags(&s->asked, cudaEventDisableTiming) == cudaSuccess &&
           cudaEventCreateWithFlags(&s->moved[0], cudaEventDisableTiming) == cudaSuccess &&
           cudaEventCreateWithFlags(&s->moved[1], cudaEventDisableTiming) == cudaSuccess;
}

static void close_beside(cu_state *s) {
    if (!s->beside) return;
    cudaStreamSynchronize(s->beside);
    if (s->asked) cudaEventDestroy(s->asked);
    for (int i = 0; i < 2; i++)
        if (s->moved[i]) cudaEventDestroy(s->moved[i]);
    cudaStreamDestroy(s->beside);
    s->beside = NULL;
}

static void *host_alloc(mr_backend *b, size_t bytes) {
    void *p = NULL;
    if (open_beside(cu_of(b)) && cudaHostAlloc(&p, bytes, cudaHostAllocDefault) == cudaSuccess) return p;
    cudaGetLastError(); /* not sticky: the caller says what does not fit */
    return NULL;
}

static void host_free(mr_backend *b, void *p) {
    if (!p) return;
    if (cu_of(b)->beside) cudaStreamSynchronize(cu_of(b)->beside);
    cudaFreeHost(p);
}

static void move_beside(mr_backend *b, const char *op, void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind, int lane) {
    cu_state *s = cu_of(b);
    if (cu_failed(b) || !bytes) return;
    assert(s->beside && (lane == 0 || lane == 1));
    s->packed.at = NULL;
    if (cu_check(b, op, cudaEventRecord(s->asked, s->stream)) && cu_check(b, op, cudaStreamWaitEvent(s->beside, s->asked, 0)) &&
        cu_check(b, op, cudaMemcpyAsync(dst, src, bytes, kind, s->beside)))
        cu_check(b, op, cudaEventRecord(s->moved[lane], s->beside));
}

static void send(mr_backend *b, void *host, const void *src, size_t bytes, int lane) {
    move_beside(b, "send", host, src, bytes, cudaMemcpyDeviceToHost, lane);
}

static void fetch(mr_backend *b, void *dst, const void *host, size_t bytes, int lane) {
    move_beside(b, "fetch", dst, host, bytes, cudaMemcpyHostToDevice, lane);
}

/* An event that was never recorded counts as done. */
static void moved(mr_backend *b, int lane) {
    cu_state *s = cu_of(b);
    if (cu_failed(b) || !s->beside) return;
    cu_check(b, "moved", cudaStreamWaitEvent(s->stream, s->moved[lane], 0));
}

/* wait: of this and of all other cudaStreamSynchronize: a kernel that does not end; the watchdog sees it and names it */
static mr_status sync(mr_backend *b, mr_err *err) {
    cu_state *s = cu_of(b);
    assert(!s->recording);
    cu_check(b, "sync", cudaStreamSynchronize(s->stream));
    if (s->beside) cu_check(b, "sync", cudaStreamSynchronize(s->beside));
    if (!s->failed) return MR_OK;
    mr_status st = mr_fail(err, s->status, "%s", s->message);
    s->failed = false;
    s->status = MR_OK;
    return st;
}

/* --- the table --- */

static void close_device(mr_backend *b) {
    cu_state *s = cu_of(b);
    cudaStreamSynchronize(s->stream);
    cu_graphs_close(b);
    close_beside(s);
    cu_lt_close(b);
    cu_staging_free(b);
    for (int i = 0; i < s->n_pieces; i++) cudaFree(s->pieces[i].p);
    free(s->pieces);
    for (int i = 0; i < s->n_blocks; i++) cudaFree(s->blocks[i].p);
    free(s->blocks);
    for (int i = 0; i < CU_N_SLOTS; i++) cudaFree(s->scratch[i].p);
    cudaFree(s->tables);
    cudaFree(s->ready);
    cudaFreeHost(s->pinned);
    cudaStreamDestroy(s->stream);
    for (int i = 0; i < CU_N_SMALL; i++) free(s->small[i].host);
    free(s);
}

static const mr_backend table = {
    .kind = MR_CUDA,
    .close = close_device,
    .alloc = device_alloc,
    .free = device_free,
    .upload = upload,
    .download = download,
    .copy = copy,
    .zero = zero,
    .host_alloc = host_alloc,
    .host_free = host_free,
    .send = send,
    .fetch = fetch,
    .moved = moved,
    .sync = sync,
    .weight_create = cu_weight_create,
    .weight_adopt = cu_weight_adopt,
    .weight_free = cu_weight_free,
    .weight_info = cu_weight_info,
    .weight_room = cu_weight_room,
    .weight_set = cu_weight_set,
    .weight_rows = cu_weight_rows,
    .weight_unpack = cu_weight_unpack,
    .weight_hold = cu_weight_hold,
    .weight_nf4 = cu_weight_nf4,
    .weight_nf4_read = cu_weight_nf4_read,
    .embed = cu_embed,
    .rmsnorm = cu_rmsnorm,
    .head_norm = cu_head_norm,
    .rope = cu_rope,
    .linear = cu_linear,
    .silu_mul = cu_silu_mul,
    .mlp = cu_mlp,
    .add = cu_add,
    .kv_bytes = cu_kv_bytes,
    .kv_put = cu_kv_put,
    .rope_put = cu_rope_put,
    .attention = cu_attention,
    .attention_step = cu_attention_step,
    .repeat = cu_repeat,
    .rmsnorm_bwd = cu_rmsnorm_bwd,
    .head_norm_bwd = cu_head_norm_bwd,
    .linear_bwd = cu_linear_bwd,
    .silu_mul_bwd = cu_silu_mul_bwd,
    .mlp_bwd = cu_mlp_bwd,
    .attention_bwd = cu_attention_bwd,
    .embed_bwd = cu_embed_bwd,
    .logprob = cu_logprob,
    .logprob_bwd = cu_logprob_bwd,
    .sample = cu_sample,
    .sum_squares = cu_sum_squares,
    .adamw = cu_adamw,
};

/* What the GPU and its driver must be, as one line when they are not. */
static mr_status check_device(int index, struct cudaDeviceProp *prop, mr_err *err) {
    int driver = 0, runtime = 0, count = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0)
        return mr_fail(err, MR_EINVAL,
                       "device cuda:%d: this machine has no NVIDIA driver (libcuda.so.1 is not there); install the driver, "
                       "or use --device cpu",
                       index);
    cudaError_t e = cudaGetDeviceCount(&count);
    if (e == cudaErrorInsufficientDriver || driver / 1000 < runtime / 1000)
        return mr_fail(err, MR_EINVAL,
                       "device cuda:%d: the NVIDIA driver knows CUDA %d.%d, but this module was built with %d.%d; update "
                       "the driver, or build with an older CUDA",
                       index, driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    if (e == cudaErrorNoDevice || (e == cudaSuccess && count == 0))
        return mr_fail(err, MR_EINVAL,
                       "device cuda:%d: the driver sees no GPU; look at `nvidia-smi` and CUDA_VISIBLE_DEVICES, or use "
                       "--device cpu",
                       index);
    if (e != cudaSuccess)
        return mr_fail(err, MR_EINTERNAL, "device cuda:%d: %s (%s); look at `nvidia-smi`", index, cudaGetErrorString(e),
                       cudaGetErrorName(e));
    if (index < 0 || index >= count)
        return mr_fail(err, MR_EINVAL, "device cuda:%d: this machine has %d GPU%s, expected cuda:0 to cuda:%d", index,
                       count, count == 1 ? "" : "s", count - 1);
    e = cudaGetDeviceProperties(prop, index);
    if (e != cudaSuccess)
        return mr_fail(err, MR_EINTERNAL, "device cuda:%d: %s (%s); look at `nvidia-smi`", index, cudaGetErrorString(e),
                       cudaGetErrorName(e));
    if (prop->major * 10 + prop->minor < 75)
        return mr_fail(err, MR_EINVAL,
                       "device cuda:%d: %s has compute capability %d.%d, need at least 7.5 (Turing: T4, RTX 20); use "
                       "--device cpu",
                       index, prop->name, prop->major, prop->minor);
    return MR_OK;
}

/* Scratch that every run needs: attention's parts, rows of products, sums, small host data. */
size_t cu_first_scratch(int slot) {
    switch (slot) {
    case CU_SLOT_ATT: return CU_ATT_BYTES;
    case CU_SLOT_X: return (size_t)4 << 20;
    case CU_SLOT_U: return (size_t)2 << 20;
    case CU_SLOT_ROWS: return (size_t)1 << 20;
    default: return slot >= CU_SLOT_SMALL ? (size_t)128 << 10 : 0;
    }
}

static void first_scratch(mr_backend *b) {
    for (int i = 0; i < CU_N_SLOTS && !cu_failed(b); i++)
        if (cu_first_scratch(i)) cu_reserve(b, "open", i, cu_first_scratch(i));
}

/* What plans may use: kernels' own code, which the driver loads at first use, cuBLASLt's, and what it keeps for recordings (graph.c)
 * come on top. */
static void measure_memory(mr_backend *b) {
    const size_t aside = (size_t)384 << 20;
    size_t left = 0, all = 0;
    if (cu_check(b, "open", cudaMemGetInfo(&left, &all))) b->bytes_total = left > 2 * aside ? left - aside : left / 2;
}

static bool make_tables(cu_state *s) {
    static const float nf4[16] = MR_NF4_VALUES;
    float host[CU_N_TABLES];
    memcpy(host + CU_NF4, nf4, sizeof nf4);
    mr_dynamic_map(host + CU_MAP, true);
    mr_map_limits(host + CU_LIMIT, host + CU_MAP);
    mr_dynamic_map(host + CU_UMAP, false);
    mr_map_limits(host + CU_ULIMIT, host + CU_UMAP);
    memset(host + CU_START, 0, sizeof host - CU_START * sizeof *host);
    mr_map_starts((uint8_t *)(host + CU_START), host + CU_LIMIT, true);
    mr_map_starts((uint8_t *)(host + CU_USTART), host + CU_ULIMIT, false);
    return cu_check(&s->b, "open", cudaHostAlloc(&s->pinned, CU_PINNED_BYTES, cudaHostAllocDefault)) &&
           cu_check(&s->b, "open", cudaMalloc((void **)&s->ready, (2 + CU_MOST_TILES) * sizeof(int))) &&
           cu_check(&s->b, "open", cudaMemsetAsync(s->ready, 0, (2 + CU_MOST_TILES) * sizeof(int), s->stream)) &&
           cu_check(&s->b, "open", cudaMalloc((void **)&s->tables, sizeof host)) &&
           cu_check(&s->b, "open", cudaMemcpyAsync(s->tables, host, sizeof host, cudaMemcpyHostToDevice, s->stream)) &&
           cu_check(&s->b, "open", cudaStreamSynchronize(s->stream));
}

static mr_status open_device(mr_backend **out, int index, mr_err *err) {
    *out = NULL;
    struct cudaDeviceProp prop;
    MR_TRY(check_device(index, &prop, err));
    cu_state *s = calloc(1, sizeof *s);
    if (!s) return mr_fail(err, MR_ENOMEM, "device cuda:%d: the host has no memory left", index);
    s->b = table;
    s->b.state = s;
    s->index = index;
    s->sm = prop.major * 10 + prop.minor;
    s->n_sm = prop.multiProcessorCount;
    s->max_shared = (int)prop.sharedMemPerBlockOptin;
    if (CU_FORCED_SM) s->sm = CU_FORCED_SM, s->max_shared = CU_SM75_SHARED, s->no_lt = true;
    const char *count = getenv("MEDRL_SM_COUNT"); /* when others hold the rest: tests/gpu/occupy.cu */
    if (CU_FORCED_SM && count && atoi(count) > 0 && atoi(count) < s->n_sm) s->n_sm = atoi(count);
    const char *each = getenv("MEDRL_CUDA_SYNC");
    s->sync_each = each && *each && *each != '0';
#ifdef MR_EMULATE
    s->strict = true;
#else
    const char *strict = getenv("MEDRL_CUDA_STRICT");
    s->strict = strict && *strict && *strict != '0';
#endif
    s->b.has_bf16 = s->sm >= 80;
    s->b.n_threads = 1;
    snprintf(s->name, sizeof s->name, "cuda:%d", index);
    snprintf(s->device, sizeof s->device, "%.100s%s, sm_%d, %d SMs, %.1f GB", prop.name, CU_FORCED_SM ? " as a Turing" : "",
             s->sm, s->n_sm, (double)prop.totalGlobalMem / 1e9);
    s->b.name = s->name;
    s->b.device = s->device;
    int runtime = 0;
    cudaRuntimeGetVersion(&runtime);
    snprintf(s->arithmetic, sizeof s->arithmetic, "%.100s%s, sm_%d, %d SMs, CUDA %d.%d", prop.name, CU_FORCED_SM ? " as a Turing" : "", s->sm,
             s->n_sm, runtime / 1000, runtime % 1000 / 10);
    s->b.arithmetic = s->arithmetic;
    mr_backend *b = &s->b;
    if (cu_check(b, "open", cudaSetDevice(index)) &&
        cu_check(b, "open", cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking))) {
        measure_memory(b);
        if (make_tables(s)) first_scratch(b);
        cu_graphs_open(b);
    }
    if (s->failed) {
        mr_status st = mr_fail(err, s->status, "%s; is the GPU used by others? look at `nvidia-smi`", s->message);
        close_device(b);
        return st;
    }
    *out = b;
    return MR_OK;
}

static void warm_device(int index) {
    if (cudaSetDevice(index) == cudaSuccess) cudaFree(NULL); /* makes the context */
    cudaGetLastError();
    if (!CU_FORCED_SM) cu_lt_load();
}

/* The one symbol that the module exports: module.h. */
__attribute__((visibility("default"))) const mr_cuda_module_table *mr_cuda_module(void);
const mr_cuda_module_table *mr_cuda_module(void) {
    static const mr_cuda_module_table entry = { MR_CUDA_ABI, open_device, warm_device };
    return &entry;
}
