/* compare.c - every operation of the CUDA backend against the CPU's, and the row rule on the device.
 *
 *     compare [small] [PART ...]      PART: weights elementwise linear rows attention head optimizer mlp
 *     compare [small] bench           timings; between: all but the products; steps: attention of decode steps; decode: NF4 products of 6 rows, here and on a T4
 *
 * Prints one line a check and `N passed, M failed`; the exit code is 1 when one failed, 77 when there is no device. Plain C without a
 * test library, so that it builds on a machine that has only a compiler and CUDA: tests/gpu/run.sh. */
#include "compare.h"

#include <stdarg.h>
#include <time.h>

mr_backend *cpu, *gpu;
bool small_run;
uint32_t random_state = 1;
static int n_passed, n_failed;

void verdict(bool ok, const char *name, const char *fmt, ...) {
    char text[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (ok)
        n_passed++;
    else
        n_failed++;
    printf("%s  %-44s %s\n", ok ? "PASS" : "FAIL", name, text);
    fflush(stdout);
}

void require(bool ok, const char *what) {
    if (ok) return;
    printf("FAIL  %s: cannot go on\n", what);
    exit(1);
}

void healthy(const char *name) {
    mr_err err;
    if (cpu->sync(cpu, &err) != MR_OK) verdict(false, name, "cpu: %s", err.msg);
    if (gpu->sync(gpu, &err) != MR_OK) verdict(false, name, "gpu: %s", err.msg);
}

uint32_t random_bits(void) {
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}
float random_float(void) { return (float)random_bits() / 8388608.0f - 1.0f; }

float *random_new(int64_t n, float scale) {
    float *x = malloc((size_t)(n ? n : 1) * sizeof *x);
    require(x, "host memory");
    for (int64_t i = 0; i < n; i++) x[i] = scale * random_float();
    return x;
}
float *nan_new(int64_t n) {
    float *x = malloc((size_t)(n ? n : 1) * sizeof *x);
    require(x, "host memory");
    for (int64_t i = 0; i < n; i++) x[i] = NAN;
    return x;
}

/* --- buffers --- */

enum { MAX_BUFFERS = 256 };
static struct { mr_backend *b; void *p; } buffers[MAX_BUFFERS];
static int n_buffers;

static void *take(mr_backend *b, size_t bytes) {
    require(n_buffers < MAX_BUFFERS, "buffers");
    void *p = b->alloc(b, bytes);
    require(p, "device memory");
    buffers[n_buffers].b = b;
    buffers[n_buffers++].p = p;
    return p;
}

static float *put_at(mr_backend *b, const float *host, int64_t n, int off) {
    float *p = (float *)take(b, (size_t)(n + off + 1) * sizeof(float)) + off, *nan = host ? NULL : nan_new(n);
    b->upload(b, p, host ? host : nan, (size_t)n * sizeof(float));
    free(nan);
    return p;
}
float *put(mr_backend *b, const float *host, int64_t n) { return put_at(b, host, n, 0); }
float *put_off(mr_backend *b, const float *host, int64_t n) { return put_at(b, host, n, 1); }
int32_t *put_ids(mr_backend *b, const int32_t *host, int64_t n) {
    int32_t *p = take(b, (size_t)n * sizeof *p);
    b->upload(b, p, host, (size_t)n * sizeof *p);
    return p;
}
void drop(mr_backend *b) {
    int kept = 0;
    for (int i = 0; i < n_buffers; i++) {
        if (buffers[i].b == b)
            b->free(b, buffers[i].p);
        else
            buffers[kept++] = buffers[i];
    }
    n_buffers = kept;
}
void drop_last(mr_backend *b, int n) {
    for (; n > 0; n--) {
        n_buffers--;
        require(buffers[n_buffers].b == b, "drop_last");
        b->free(b, buffers[n_buffers].p);
    }
}
/* Of all that a part has read from the GPU (FNV-1a): two modules with the same bits have the same sum. */
static uint64_t bits_read;
float *get(mr_backend *b, const float *device, int64_t n) {
    float *x = nan_new(n);
    b->download(b, x, device, (size_t)n * sizeof *x);
    for (int64_t i = 0; b == gpu && i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits_read = (bits_read ^ bits) * 0x100000001b3u;
    }
    return x;
}

double worst(const float *got, const float *want, int64_t n) {
    double diff = 0, size = 1e-6;
    for (int64_t i = 0; i < n; i++) {
        if (isnan(got[i]) && isnan(want[i])) continue;
        double d = fabs((double)got[i] - (double)want[i]);
        if (!(d <= diff)) diff = isnan(d) ? HUGE_VAL : d;
        if (fabs((double)want[i]) > size) size = fabs((double)want[i]);
    }
    return diff / size;
}
bool same_bits(const float *a, const float *b, int64_t n) { return memcmp(a, b, (size_t)n * sizeof *a) == 0; }

/* --- weights --- */

typedef struct matrix {
    const float *values;
    int64_t n_in;
} matrix;

static mr_status matrix_rows(void *self, float *dst, int64_t row, int64_t n, mr_err *err) {
    const matrix *m = self;
    (void)err;
    memcpy(dst, m->values + row * m->n_in, (size_t)(n * m->n_in) * sizeof *dst);
    return MR_OK;
}

mr_weight *weight_new(mr_backend *b, const float *values, int64_t n_out, int64_t n_in, int64_t more, mr_dtype store, mr_dtype compute,
                      unsigned uses) {
    mr_err err;
    mr_weight *w = NULL;
    matrix m = { values, n_in };
    mr_status st = b->weight_create(b, &w, (mr_weight_source){ &m, matrix_rows }, n_out, n_in, more, store, compute, uses, &err);
    if (st != MR_OK) require(false, err.msg);
    return w;
}

/* Both sides round the same inputs to the same values; what differs is the order of f32 sums, and through it now and then the last
 * bit of an adapter's inner value: 2^-9 of it in bf16, 2^-12 in f16. */
const kind kinds[] = {
    { "f32", MR_F32, MR_F32, 1e-5 },
    { "bf16 in f32", MR_BF16, MR_F32, 1e-5 },
    { "nf4 in f32", MR_NF4, MR_F32, 1e-5 },
    { "bf16", MR_BF16, MR_BF16, 1e-3 },
    { "nf4 in bf16", MR_NF4, MR_BF16, 1e-3 },
    { "f16", MR_F16, MR_F16, 1e-3 },
    { "nf4 in f16", MR_NF4, MR_F16, 1e-3 },
};
const int n_kinds = sizeof kinds / sizeof kinds[0];
bool kind_here(const kind *k) { return k->compute != MR_BF16 || gpu->has_bf16; }

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv) {
    static const struct { const char *name; void (*run)(void); } parts[] = {
        { "weights", test_weights }, { "elementwise", test_elementwise }, { "optimizer", test_optimizer },
        { "head", test_head },       { "attention", test_attention },     { "linear", test_linear },
        { "rows", test_rows },             { "mlp", test_mlp },
        { "unpacked", test_unpacked },
    };
    bool bench = false, between = false, steps = false, decode = false;
    int n_named = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "small") == 0) small_run = true;
        else if (strcmp(argv[i], "bench") == 0) bench = true;
        else if (strcmp(argv[i], "between") == 0) between = true;
        else if (strcmp(argv[i], "steps") == 0) steps = true;
        else if (strcmp(argv[i], "decode") == 0) decode = true;
        else n_named++;
    }
    mr_err err;
    if (mr_backend_open(&cpu, MR_CPU, 0, 0, &err) != MR_OK) require(false, err.msg);
    if (mr_backend_open(&gpu, MR_CUDA, 0, 0, &err) != MR_OK) {
        printf("no device: %s\n", err.msg);
        return 77;
    }
    printf("cpu: %s\ngpu: %s\n", cpu->device, gpu->device);
    for (size_t p = 0; p < sizeof parts / sizeof parts[0]; p++) {
        bool named = n_named == 0 && !bench && !between && !steps && !decode;
        for (int i = 1; i < argc; i++) named = named || strcmp(argv[i], parts[p].name) == 0;
        if (!named) continue;
        double t = seconds();
        random_state = 1, bits_read = 0xcbf29ce484222325u;
        parts[p].run();
        healthy(parts[p].name);
        drop(cpu), drop(gpu);
        printf("      %s: %.1f s, bits %016llx\n", parts[p].name, seconds() - t, (unsigned long long)bits_read);
    }
    if (bench) bench_all();
    if (between) bench_between();
    if (steps) bench_steps();
    if (decode) bench_decode();
    mr_backend_close(gpu), mr_backend_close(cpu);
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed ? 1 : 0;
}
