/* backend.c - opens the CPU: which instructions, how many threads, the table, memory and the first failure. */
#include <assert.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "cpu/weights.h"
#include "cpu/weights.h"

/* --- failures and scratch --- */

static void keep(mr_backend *b, mr_status st, const char *op, const char *fmt, va_list args) {
    cpu_state *s = cpu_of(b);
    pthread_mutex_lock(&s->fail_lock);
    if (!s->failed) {
        int n = snprintf(s->message, sizeof s->message, "cpu: %s: ", op);
        vsnprintf(s->message + n, sizeof s->message - (size_t)n, fmt, args);
        s->status = st;
        s->failed = true;
    }
    pthread_mutex_unlock(&s->fail_lock);
}

void cpu_fail(mr_backend *b, const char *op, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    keep(b, MR_EINTERNAL, op, fmt, args);
    va_end(args);
}

void cpu_fail_status(mr_backend *b, mr_status st, const char *op, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    keep(b, st, op, fmt, args);
    va_end(args);
}

void cpu_count(mr_backend *b, int64_t bytes) {
    pthread_mutex_lock(&cpu_of(b)->fail_lock);
    b->bytes = (size_t)((int64_t)b->bytes + bytes);
    if (b->bytes > b->bytes_peak) b->bytes_peak = b->bytes;
    pthread_mutex_unlock(&cpu_of(b)->fail_lock);
}

static void grow(mr_backend *b, int slot, size_t bytes) {
    cpu_state *s = cpu_of(b);
    mr_free(s->scratch[slot].p);
    s->scratch[slot].p = mr_try_alloc(bytes);
    size_t have = s->scratch[slot].p ? bytes : 0;
    cpu_count(b, (int64_t)have - (int64_t)s->scratch[slot].bytes);
    s->scratch[slot].bytes = have;
}

/* Behind what was asked for: room for vector reads that overrun the end. */
enum { OVERRUN = 64 };

void *cpu_try_scratch(mr_backend *b, int slot, size_t bytes) {
    cpu_state *s = cpu_of(b);
    assert(slot >= 0 && slot < CPU_N_SLOTS);
    /* an eighth more, so that slowly growing rows do not ask each time */
    if (s->scratch[slot].bytes < bytes + OVERRUN) grow(b, slot, bytes + bytes / 8 + OVERRUN);
    return s->scratch[slot].p;
}

bool cpu_reserve(mr_backend *b, int slot, size_t bytes) {
    cpu_state *s = cpu_of(b);
    bool all = slot == CPU_SLOT_THREADS, ok = true;
    for (int i = all ? 0 : slot; i <= (all ? s->n_threads - 1 : slot); i++) {
        if (s->scratch[i].bytes < bytes + OVERRUN) grow(b, i, bytes + OVERRUN);
        ok = ok && s->scratch[i].p;
    }
    return ok;
}

void *cpu_scratch(mr_backend *b, int slot, size_t bytes) {
    void *p = cpu_try_scratch(b, slot, bytes);
    if (!p) cpu_fail_status(b, MR_ENOMEM, "scratch", "%zu bytes do not fit into memory; use fewer rows a step", bytes);
    return p;
}

int cpu_threads(const mr_backend *b, double work) {
    /* waking the other threads costs some microseconds */
    return work < 20e3 ? 1 : cpu_of(b)->n_threads;
}

/* --- memory --- */

/* A block begins with its size, for the account. */
enum { HEAD = 64 };

static void *cpu_alloc(mr_backend *b, size_t bytes) {
    size_t whole;
    if (!mr_add_size(&whole, bytes, HEAD)) return NULL;
    char *p = mr_try_alloc(whole);
    if (!p) return NULL;
    memcpy(p, &bytes, sizeof bytes);
    cpu_count(b, (int64_t)bytes);
    return p + HEAD;
}

static void cpu_free(mr_backend *b, void *p) {
    if (!p) return;
    char *block = (char *)p - HEAD;
    size_t bytes;
    memcpy(&bytes, block, sizeof bytes);
    cpu_count(b, -(int64_t)bytes);
    mr_free(block);
}

static void *cpu_host_alloc(mr_backend *b, size_t bytes) {
    (void)b;
    return mr_try_alloc(bytes);
}

static void cpu_host_free(mr_backend *b, void *p) {
    (void)b;
    mr_free(p);
}

typedef struct moving {
    char *dst;
    const char *src;
} moving;

static void move_bytes(void *ctx, int thread, int64_t from, int64_t to) {
    const moving *m = ctx;
    (void)thread;
    memcpy(m->dst + from, m->src + from, (size_t)(to - from));
}

static void cpu_move(mr_backend *b, void *dst, const void *src, size_t bytes) {
    if (cpu_failed(b) || !bytes) return;
    uintptr_t to = (uintptr_t)dst, from = (uintptr_t)src;
    if (to - from < bytes || from - to < bytes) { /* they overlap */
        memmove(dst, src, bytes);
        return;
    }
    moving m = { dst, src };
    cpu_share(b, 0.05 * (double)bytes, move_bytes, &m, (int64_t)bytes, 1 << 16);
}

static void cpu_send(mr_backend *b, void *dst, const void *src, size_t bytes, int lane) {
    assert(lane == 0 || lane == 1);
    cpu_move(b, dst, src, bytes);
}

static void cpu_moved(mr_backend *b, int lane) {
    (void)b, (void)lane;
}

static void cpu_hold(mr_backend *b, bool on) {
    (void)b, (void)on; /* nothing is unpacked ahead of its product */
}

static void cpu_zero(mr_backend *b, void *dst, size_t bytes) {
    if (cpu_failed(b) || !bytes) return;
    memset(dst, 0, bytes);
}

static mr_status cpu_sync(mr_backend *b, mr_err *err) {
    cpu_state *s = cpu_of(b);
    if (!s->failed) return MR_OK;
    mr_status st = mr_fail(err, s->status, "%s", s->message);
    s->failed = false;
    s->status = MR_OK;
    return st;
}

/* --- what the machine has --- */

#if defined(__x86_64__)
/* AMX: in the CPU (leaf 7, EDX), and allowed by the system to this process, which has to ask (Linux,
 * Documentation/arch/x86/xstate.rst). */
static bool has_tiles(void) {
    enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & AMX_BF16) || !(d & AMX_TILE)) return false;
    return syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XTILEDATA) == 0;
}
#endif

static cpu_isa best_isa(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return CPU_GENERIC;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return CPU_AVX2;
    if (!__builtin_cpu_supports("avx512bf16")) return CPU_AVX512;
    return has_tiles() ? CPU_AMX : CPU_AVX512_BF16;
#else
    return CPU_GENERIC;
#endif
}

static const char *const isa_names[] = { "generic", "avx2", "avx512", "avx512_bf16", "amx" };

static void machine_name(char *name, size_t size) {
    snprintf(name, size, "CPU");
#if defined(__x86_64__)
    unsigned v[12] = { 0 };
    if (__get_cpuid(0x80000002u, &v[0], &v[1], &v[2], &v[3]) && __get_cpuid(0x80000003u, &v[4], &v[5], &v[6], &v[7]) &&
        __get_cpuid(0x80000004u, &v[8], &v[9], &v[10], &v[11])) {
        char brand[sizeof v + 1] = { 0 };
        memcpy(brand, v, sizeof v);
        char *from = brand, *end = brand + strlen(brand);
        while (*from == ' ') from++;
        while (end > from && end[-1] == ' ') *--end = '\0';
        if (*from) snprintf(name, size, "%s", from);
    }
#endif
}

/* CPUs that this process may run on, and not more than a container's quota (cgroup v2: cpu.max is "QUOTA PERIOD" or
 * "max PERIOD"). */
static int usable_cpus(void) {
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (f) {
        long quota, period;
        if (fscanf(f, "%ld %ld", &quota, &period) == 2 && quota > 0 && period > 0) {
            long whole = (quota + period - 1) / period;
            if (whole < n) n = (int)whole;
        }
        fclose(f);
    }
    return n < 1 ? 1 : n;
}

static void cpu_close(mr_backend *b) {
    cpu_state *s = cpu_of(b);
    cpu_slabs_close(b);
    mr_threads_close(s->pool);
    pthread_mutex_destroy(&s->fail_lock);
    for (int i = 0; i < CPU_N_SLOTS; i++) mr_free(s->scratch[i].p);
    mr_free(s);
}

/* --- the table --- */

static const mr_backend table = {
    .kind = MR_CPU,
    .name = "cpu",
    .close = cpu_close,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .upload = cpu_move,
    .download = cpu_move,
    .copy = cpu_move,
    .zero = cpu_zero,
    .host_alloc = cpu_host_alloc,
    .host_free = cpu_host_free,
    .send = cpu_send,
    .fetch = cpu_send,
    .moved = cpu_moved,
    .sync = cpu_sync,
    .weight_create = cpu_weight_create,
    .weight_adopt = cpu_weight_adopt,
    .weight_free = cpu_weight_free,
    .weight_info = cpu_weight_info,
    .weight_room = cpu_weight_room,
    .weight_set = cpu_weight_set,
    .weight_rows = cpu_weight_rows,
    .weight_hold = cpu_hold,
    .weight_nf4 = cpu_weight_nf4,
    .embed = cpu_embed,
    .rmsnorm = cpu_rmsnorm,
    .head_norm = cpu_head_norm,
    .rope = cpu_rope,
    .linear = cpu_linear,
    .silu_mul = cpu_silu_mul,
    .mlp = cpu_mlp,
    .add = cpu_add,
    .kv_bytes = cpu_kv_bytes,
    .kv_put = cpu_kv_put,
    .attention = cpu_attention,
    .rmsnorm_bwd = cpu_rmsnorm_bwd,
    .head_norm_bwd = cpu_head_norm_bwd,
    .linear_bwd = cpu_linear_bwd,
    .silu_mul_bwd = cpu_silu_mul_bwd,
    .mlp_bwd = cpu_mlp_bwd,
    .attention_bwd = cpu_attention_bwd,
    .embed_bwd = cpu_embed_bwd,
    .logprob = cpu_logprob,
    .logprob_bwd = cpu_logprob_bwd,
    .sample = cpu_sample,
    .sum_squares = cpu_sum_squares,
    .adamw = cpu_adamw,
};

mr_status cpu_open(mr_backend **out, int index, int n_threads, mr_err *err) {
    if (index != 0) return mr_fail(err, MR_EINVAL, "device cpu:%d: there is only one CPU device; use \"cpu\"", index);
    if (n_threads < 0 || n_threads > CPU_MAX_THREADS)
        return mr_fail(err, MR_EINVAL, "threads: %d is out of range, expected 1 to %d, or 0 for all cores", n_threads,
                       CPU_MAX_THREADS);
    cpu_isa isa = best_isa();
    const char *want = getenv("MEDRL_CPU_ISA");
    if (want && *want) {
        int level = -1;
        for (int i = 0; i <= CPU_AMX; i++)
            if (strcmp(want, isa_names[i]) == 0) level = i;
        if (level < 0)
            return mr_fail(err, MR_EINVAL,
                           "MEDRL_CPU_ISA: \"%s\" is unknown, expected avx2, avx512, avx512_bf16, amx or generic", want);
        if (level > (int)isa)
            return mr_fail(err, MR_EINVAL, "MEDRL_CPU_ISA: this machine has no %s, its best is %s; unset the variable",
                           want, isa_names[isa]);
        isa = (cpu_isa)level;
    }
    if (n_threads == 0) n_threads = usable_cpus();
    if (n_threads > CPU_MAX_THREADS) n_threads = CPU_MAX_THREADS;

    mr_threads *pool;
    MR_TRY(mr_threads_open(&pool, n_threads, err));
    cpu_state *s = mr_alloc(sizeof *s);
    s->b = table;
    s->pool = pool;
    pthread_mutex_init(&s->fail_lock, NULL);
    s->b.state = s;
    s->isa = isa;
    s->n_threads = s->b.n_threads = n_threads;
    s->b.has_bf16 = isa >= CPU_AVX512_BF16;
    char brand[64];
    machine_name(brand, sizeof brand);
    snprintf(s->device, sizeof s->device, "%s, %s, %d thread%s", brand, isa_names[isa], n_threads,
             n_threads == 1 ? "" : "s");
    s->b.device = s->device;
    snprintf(s->arithmetic, sizeof s->arithmetic, "cpu %s", isa_names[isa]);
    s->b.arithmetic = s->arithmetic;
    *out = &s->b;
    return MR_OK;
}
