/* mutate.c - a fuzz target without a fuzzer: the damages of a list, the same in every run, done to the seeds of each of its formats.
 *
 *     mutate_TARGET [LOADS]            so many loads a format (in the suite: CMakeLists.txt says; all: cmake -DMEDRL_MUTATE_LOADS=100000)
 *     mutate_TARGET --write DIR N      writes N of the damaged files into DIR, FORMAT-i, in place of loading them: for the program
 *                                      itself (test_hostile.sh); `fixed` bytes are left out
 *
 * First, of every seed: cut at every length; each bit of its first 2 kB flipped; every number in it (4 and 8 bytes at each place, or digits
 * in text) replaced by 0, 1, 2^31-1, 2^31, 2^32-1, 2^63, 2^64-1. When there are more than two thirds of LOADS of these, every k-th of
 * them. The rest: halves of two seeds put together, and bytes changed, inserted, doubled, removed at random places.
 * Fails when less was loaded than asked, nothing was accepted or nothing refused, one load took more than 5 s, or memory grew beyond a
 * bound. An input that ends the program is left in mutate-found-FORMAT. Source: reliability.md, P3. */
#include <inttypes.h>
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include "fuzz.h"

enum { BITS_OF = 2048, N_NUMBERS = 7, STUCK_S = 5, RSS_MAX_MB = 700 };
static const uint64_t numbers[N_NUMBERS] = { 0, 1, INT32_MAX, 1ull << 31, UINT32_MAX, 1ull << 63, UINT64_MAX };

static mr_str input;
static const fuzz_seeds *now;
static volatile long n_loads;

/* ---- when it goes wrong ---- */

static void keep_input(void) {
    char path[96];
    snprintf(path, sizeof path, "mutate-found-%s", now ? now->format : "x");
    FILE *f = fopen(path, "wb");
    if (!f) return;
    if (input.len && fwrite(input.data, 1, input.len, f) == input.len) fprintf(stderr, "load %ld: the input is in %s\n", n_loads, path);
    fclose(f);
}

static void on_signal(int number) {
    keep_input();
    signal(number, SIG_DFL);
    raise(number);
}

static void on_second(int number) {
    static long last, seconds;
    (void)number;
    seconds = n_loads == last ? seconds + 1 : 0;
    last = n_loads;
    if (seconds < STUCK_S) return;
    fprintf(stderr, "load %ld takes longer than %d s\n", n_loads, STUCK_S);
    keep_input();
    _exit(1);
}

/* Of the sanitizers, where there are any: they end the program without a signal. */
void __sanitizer_set_death_callback(void (*f)(void)) __attribute__((weak));
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "quarantine_size_mb=16:malloc_context_size=8:detect_stack_use_after_return=0:allocator_may_return_null=1:handle_abort=0";
}

/* ---- random numbers: xorshift64, seeded by place ---- */

static uint64_t state;
static uint64_t next(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}
static size_t below(size_t n) { return n ? (size_t)(next() % n) : 0; }

/* ---- damages ---- */

static void set(const char *bytes, size_t len) {
    input.len = 0;
    mr_str_add(&input, bytes, len);
}

/* The k-th run of digits at or behind `from`; its number in all when k is too large. */
static size_t digits(const mr_str *s, size_t from, size_t k, size_t *at, size_t *len) {
    size_t n = 0;
    for (size_t i = from; i < s->len; i++) {
        if (s->data[i] < '0' || s->data[i] > '9') continue;
        size_t end = i;
        while (end < s->len && s->data[end] >= '0' && s->data[end] <= '9') end++;
        if (n++ == k) {
            *at = i, *len = end - i;
            return n;
        }
        i = end;
    }
    return n;
}

static size_t n_bits(const fuzz_seeds *f, const mr_str *s) { return 8 * ((s->len - f->fixed) > BITS_OF ? BITS_OF : s->len - f->fixed); }

static size_t n_fields(const fuzz_seeds *f, const mr_str *s) {
    size_t at, len;
    if (f->text) return N_NUMBERS * digits(s, f->fixed, SIZE_MAX, &at, &len);
    size_t places = (s->len > BITS_OF ? BITS_OF : s->len) - f->fixed;
    return places * 2 * N_NUMBERS;
}

static size_t n_listed(const fuzz_seeds *f) {
    size_t n = 0;
    for (int i = 0; i < f->n; i++) n += f->seed[i].len - f->fixed + 1 + n_bits(f, &f->seed[i]) + n_fields(f, &f->seed[i]);
    return n;
}

static void put_field(const fuzz_seeds *f, const mr_str *s, size_t k) {
    uint64_t x = numbers[k % N_NUMBERS];
    k /= N_NUMBERS;
    if (f->text) {
        size_t at = 0, len = 0;
        digits(s, f->fixed, k, &at, &len);
        set(s->data, at);
        mr_str_printf(&input, "%" PRIu64, x);
        mr_str_add(&input, s->data + at + len, s->len - at - len);
        return;
    }
    size_t at = f->fixed + k / 2, width = k % 2 ? 8 : 4;
    set(s->data, s->len);
    if (width > s->len - at) width = s->len - at;
    memcpy(input.data + at, &x, width);
}

/* The k-th of the list. */
static void listed(const fuzz_seeds *f, size_t k) {
    for (int i = 0; i < f->n; i++) {
        const mr_str *s = &f->seed[i];
        size_t cuts = s->len - f->fixed + 1, bits = n_bits(f, s), fields = n_fields(f, s);
        if (k < cuts) {
            set(s->data, f->fixed + k);
            return;
        }
        k -= cuts;
        if (k < bits) {
            set(s->data, s->len);
            input.data[f->fixed + k / 8] = (char)(input.data[f->fixed + k / 8] ^ (1 << k % 8));
            return;
        }
        k -= bits;
        if (k < fields) {
            put_field(f, s, k);
            return;
        }
        k -= fields;
    }
    abort();
}

static void splice(const fuzz_seeds *f) {
    const mr_str *a = &f->seed[below((size_t)f->n)], *b = &f->seed[below((size_t)f->n)];
    size_t cut = f->fixed + below(a->len - f->fixed + 1), from = f->fixed + below(b->len - f->fixed + 1);
    set(a->data, cut);
    mr_str_add(&input, b->data + from, b->len - from);
}

static void random_damage(const fuzz_seeds *f) {
    const mr_str *s = &f->seed[below((size_t)f->n)];
    set(s->data, s->len);
    for (size_t n = 1 + below(8); n > 0 && input.len > f->fixed; n--) {
        size_t at = f->fixed + below(input.len - f->fixed), len = 1 + below(16);
        if (len > input.len - at) len = input.len - at;
        switch (below(5)) {
        case 0: input.data[at] = (char)next(); break;
        case 1: input.data[at] = "\0\xff\x7f\x80\"\\{}[],:\n<"[below(14)]; break;
        case 2: /* removed */
            memmove(input.data + at, input.data + at + len, input.len - at - len);
            input.len -= len;
            break;
        default: { /* doubled, or a piece of another seed in its place */
            mr_str rest = { 0 };
            const mr_str *other = &f->seed[below((size_t)f->n)];
            mr_str_add(&rest, input.data + at, input.len - at);
            if (next() & 1) {
                input.len = at + len;
            } else {
                size_t from = below(other->len), more = 1 + below(64);
                input.len = at;
                mr_str_add(&input, other->data + from, more > other->len - from ? other->len - from : more);
            }
            mr_str_add(&input, rest.data, rest.len);
            mr_str_clear(&rest);
        }
        }
    }
}

/* Number i of n. */
static void make(const fuzz_seeds *f, size_t i, size_t n) {
    size_t all = n_listed(f), share = all < n - n / 3 ? all : n - n / 3;
    state = 0x9e3779b97f4a7c15u ^ (i * 0xbf58476d1ce4e5b9u);
    if (i < share)
        listed(f, (size_t)((double)i * (double)all / (double)share));
    else if (i % 3 == 0)
        splice(f);
    else
        random_damage(f);
}

/* ---- the two ways to use it ---- */

static long n_total; /* of all formats */

static bool load_all(const fuzz_seeds *f, size_t n) {
    fuzz_n_accepted = fuzz_n_refused = n_loads = 0;
    now = f;
    for (int i = 0; i < f->n; i++) { /* whole seeds first: each is one that the reader knows */
        set(f->seed[i].data, f->seed[i].len);
        LLVMFuzzerTestOneInput((const uint8_t *)input.data, input.len);
    }
    long whole = fuzz_n_accepted;
    for (size_t i = 0; i < n; i++, n_loads++) {
        make(f, i, n);
        /* in memory of its exact size, so that a byte too far is seen */
        uint8_t *exact = malloc(input.len + 1);
        PROMISE(exact, "no memory");
        uint8_t *at = exact + 1;
        if (input.len) memcpy(at, input.data, input.len);
        LLVMFuzzerTestOneInput(at, input.len);
        free(exact);
    }
    n_total += n_loads;
    size_t mb = mr_rss_peak_bytes() >> 20;
    printf("%s: %ld loads (%zu damages are listed), %ld accepted, %ld refused, %zu MB\n", f->format, n_loads, n_listed(f), fuzz_n_accepted,
           fuzz_n_refused, mb);
    fflush(stdout);
    bool ok = n_loads >= (long)n && whole > 0 && mb < RSS_MAX_MB && fuzz_n_accepted > 0;
    if (strcmp(f->format, "encode") != 0) ok = ok && fuzz_n_refused > (long)n / 50; /* any text can be encoded */
    if (!ok) fprintf(stderr, "%s: %ld whole seeds accepted; want all loads, some accepted, some refused, below %d MB\n", f->format, whole, RSS_MAX_MB);
    return ok;
}

static int write_all(const fuzz_seeds *f, const char *dir, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char path[512];
        make(f, i, n);
        snprintf(path, sizeof path, "%s/%s-%zu", dir, f->format, i);
        FILE *out = fopen(path, "wb");
        size_t from = f->fixed < input.len ? f->fixed : input.len;
        if (!out || fwrite(input.data + from, 1, input.len - from, out) != input.len - from || fclose(out) != 0) {
            perror(path);
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    bool write = argc == 4 && !strcmp(argv[1], "--write");
    long n = write ? atol(argv[3]) : argc == 2 ? atol(argv[1]) : 0;
    if (n < 10) {
        fprintf(stderr, "usage: %s LOADS | --write DIR N, at least 10\n", argv[0]);
        return 2;
    }
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(keep_input);
    const int deadly[] = { SIGABRT, SIGSEGV, SIGBUS, SIGFPE };
    for (int i = 0; i < (__sanitizer_set_death_callback ? 1 : 4); i++) signal(deadly[i], on_signal);
    signal(SIGALRM, on_second);
    signal(SIGPIPE, SIG_IGN);
    setenv("MEDRL_HOME", MR_FUZZ_ROOT, 1);
    const struct itimerval tick = { { 1, 0 }, { 1, 0 } };
    bool ok = true;
    set("", 0);
    fuzz_seeds *all = fuzz_all_seeds(MR_FUZZ_TARGET);
    if (!write) setitimer(ITIMER_REAL, &tick, NULL);
    for (fuzz_seeds *f = all; f->format; f++) {
        ok = (write ? write_all(f, argv[2], (size_t)n) == 0 : load_all(f, (size_t)n)) && ok;
        for (int i = 0; i < f->n; i++) mr_str_clear(&f->seed[i]);
    }
    mr_str_clear(&input);
    if (ok && !write) printf("score: mutated_loads_%s %ld %ld\n", MR_FUZZ_TARGET, n_total, n);
    return ok ? 0 : 1;
}
