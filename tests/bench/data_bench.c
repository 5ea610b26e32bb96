/* data_bench.c - how long rows of PubMedQA's size take to open, and how much memory that needs.
 *
 *     build/tests/data_bench [ROWS|FILE] [FOLDER]
 *
 * Makes ROWS (200,000) rows of that shape once (about 2 kB each: an abstract in labeled parts, subject headings, a long
 * answer; made-up words) in FOLDER (/tmp), opens them through lua/datasets/pubmedqa.lua with its keep() and row(), as a
 * run does, then reads rows in order and at random places. FILE: that one in place of made-up rows (pubmedqa_parquet.py makes a
 * Parquet file of PubMedQA's size; the first start makes its row cache, the second finds it). Peak memory is that of the largest worker (VmHWM). Times are
 * wall seconds; the first line says what else the machine had to do, and processor time does not depend on it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/log.h"
#include "base/proc.h"
#include "base/rng.h"
#include "script/script.h"

static const char *const words[] = {
    "patients",  "with",      "the",      "of",         "and",         "in",      "a",          "treatment", "was",
    "were",      "compared",  "to",       "group",      "control",     "study",   "clinical",   "outcome",   "after",
    "surgery",   "levels",    "serum",    "increased",  "decreased",   "risk",    "factor",     "analysis",  "months",
    "follow-up", "mortality", "children", "women",      "response",    "therapy", "dose",       "for",       "by",
    "diagnosis", "years",     "cells",    "expression", "significant", "between", "associated", "from",      "measured",
};
enum { N_WORDS = sizeof words / sizeof words[0] };

static uint64_t row_seed, draw_at;
static int draw(int n) {
    return (int)(mr_uniform_at(7, row_seed, draw_at++) * (float)n);
}

/* Sentences of about `bytes` bytes in all. */
static void put_text(mr_str *s, int bytes) {
    size_t end = s->len + (size_t)bytes;
    for (int n = 0; s->len < end; n++) {
        if (n % 17 == 16) mr_str_puts(s, draw(40) == 0 ? " (\\u03b1 = 0.05, 95 % CI \xc2\xb1 2). " : ". ");
        mr_str_printf(s, "%s%s", n % 17 == 16 || n == 0 ? "" : " ", words[draw(N_WORDS)]);
    }
    mr_str_puts(s, ".");
}

static void put_row(mr_str *s, int64_t i) {
    static const char *const labels[] = { "BACKGROUND", "OBJECTIVE", "METHODS", "RESULTS", "CONCLUSIONS" };
    row_seed = (uint64_t)i;
    draw_at = 0;
    int parts = 3 + draw(3), short_row = draw(4) == 0; /* a quarter stays below the limit of 1024 characters */
    mr_str_printf(s, "{\"pubid\": %lld, \"question\": \"Is ", (long long)(10000000 + i));
    put_text(s, 70);
    mr_str_puts(s, "?\", \"context\": {\"contexts\": [");
    for (int p = 0; p < parts; p++) {
        mr_str_puts(s, p ? ", \"" : "\"");
        put_text(s, short_row ? 120 + draw(50) : 240 + draw(140));
        mr_str_puts(s, "\"");
    }
    mr_str_puts(s, "], \"labels\": [");
    for (int p = 0; p < parts; p++) mr_str_printf(s, "%s\"%s\"", p ? ", " : "", labels[p % 5]);
    mr_str_puts(s, "], \"meshes\": [");
    for (int p = 0, n = 8 + draw(8); p < n; p++) {
        mr_str_puts(s, p ? ", \"" : "\"");
        put_text(s, 8 + draw(10));
        mr_str_puts(s, "\"");
    }
    mr_str_puts(s, "]}, \"long_answer\": \"");
    put_text(s, 150 + draw(200));
    mr_str_printf(s, "\", \"final_decision\": \"%s\"}\n", draw(10) < 7 ? "yes" : "no");
}

static void make_file(const char *path, int64_t rows) {
    struct stat info;
    if (stat(path, &info) == 0 && info.st_size > 0) return;
    FILE *f = fopen(path, "w");
    if (!f) {
        perror(path);
        exit(74);
    }
    mr_str s = { 0 };
    for (int64_t i = 0; i < rows; i++) {
        s.len = 0;
        put_row(&s, i);
        fwrite(s.data, 1, s.len, f);
    }
    mr_str_clear(&s);
    if (fclose(f) != 0) exit(74);
}

/* Processor seconds of all children so far. */
static double workers_cpu_s(void) {
    char path[64], line[1024];
    long pid;
    double ticks = 0;
    snprintf(path, sizeof path, "/proc/self/task/%ld/children", (long)getpid());
    FILE *children = fopen(path, "r");
    while (children && fscanf(children, "%ld", &pid) == 1) {
        snprintf(path, sizeof path, "/proc/%ld/stat", pid);
        FILE *f = fopen(path, "r");
        double user, system;
        const char *name_end = f && fgets(line, sizeof line, f) ? strrchr(line, ')') : NULL;
        if (name_end && sscanf(name_end, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lf %lf", &user, &system) == 2)
            ticks += user + system;
        if (f) fclose(f);
    }
    if (children) fclose(children);
    return ticks / (double)sysconf(_SC_CLK_TCK);
}

static double own_cpu_s(void) {
    struct rusage self, gone; /* and the children that were waited for: the process that read the file */
    getrusage(RUSAGE_SELF, &self);
    getrusage(RUSAGE_CHILDREN, &gone);
    const struct timeval *t[] = { &self.ru_utime, &self.ru_stime, &gone.ru_utime, &gone.ru_stime };
    double s = 0;
    for (int i = 0; i < 4; i++) s += (double)t[i]->tv_sec + 1e-6 * (double)t[i]->tv_usec;
    return s;
}

/* VmHWM of the child that has the most, in MB. */
static double workers_peak_mb(void) {
    char path[64], line[4096];
    long pid, best = 0;
    snprintf(path, sizeof path, "/proc/self/task/%ld/children", (long)getpid());
    FILE *children = fopen(path, "r");
    while (children && fscanf(children, "%ld", &pid) == 1) {
        snprintf(path, sizeof path, "/proc/%ld/status", pid);
        FILE *f = fopen(path, "r");
        long kb;
        while (f && fgets(line, sizeof line, f))
            if (sscanf(line, "VmHWM: %ld", &kb) == 1 && kb > best) best = kb;
        if (f) fclose(f);
    }
    if (children) fclose(children);
    return (double)best / 1024;
}

static void fail(const mr_err *err) {
    fprintf(stderr, "data_bench: %s\n", err->msg);
    exit(1);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--worker") == 0) return mr_worker_main();
    const char *file = argc > 1 && mr_path_exists(argv[1]) ? argv[1] : NULL;
    const int64_t rows = file ? 0 : argc > 1 ? atoll(argv[1]) : 200000;
    const char *folder = argc > 2 ? argv[2] : "/tmp";
    char *path = file ? mr_strdup(file) : mr_asprintf("%s/medrl-bench-pubmedqa-%lld.jsonl", folder, (long long)rows);
    char *recipe = mr_asprintf("%s/medrl-bench-data.lua", folder);
    if (!file) make_file(path, rows);
    mr_err err = { .msg = "" };
    char *text = mr_asprintf("local data = require \"medrl.data\"\nreturn { data = { train = data.get(\"pubmedqa\"):"
                             "shuffle(3407), files = { pubmedqa = \"%s\" } } }\n",
                             path);
    if (mr_file_write(recipe, text, strlen(text), &err) != MR_OK) fail(&err);
    struct stat info;
    if (stat(path, &info) != 0) return 74;
    char load[64] = "";
    FILE *f = fopen("/proc/loadavg", "r");
    if (f && !fgets(load, sizeof load, f)) load[0] = 0;
    if (f) fclose(f);
    load[strcspn(load, "\n")] = 0;
    printf("%s, %.0f MB, load %s\n", path, (double)info.st_size / 1e6, load);

    mr_pool *p;
    mr_pool_opts o = { .n_workers = 1 };
    double start = mr_now_s();
    if (mr_pool_open(&p, recipe, &o, &err) != MR_OK) fail(&err);
    double opened = mr_now_s();
    mr_row_source source;
    if (mr_pool_rows(p, "train", &source, &err) != MR_OK) fail(&err);
    double ready = mr_now_s();
    printf("workers %.2f s, rows open in %.2f s (%.2f s of processor time, %.2f s of them here), %lld kept, peak of a worker "
           "%.0f MB\n",
           opened - start, ready - opened, workers_cpu_s() + own_cpu_s(), own_cpu_s(), (long long)source.n_rows,
           workers_peak_mb());
    enum { N = 4000 };
    for (int pass = 0; pass < 2; pass++) {
        double from = mr_now_s();
        for (int i = 0; i < N; i++) {
            mr_row row = { 0 };
            int64_t at = pass == 0 ? i % source.n_rows
                                   : (int64_t)(mr_uniform_at(1, 2, (uint64_t)i) * (float)(source.n_rows - 1));
            if (source.get(source.self, at, &row, &err) != MR_OK) fail(&err);
            mr_row_clear(&row);
        }
        printf("%d rows %s: %.0f us each\n", N, pass == 0 ? "in order" : "at random", (mr_now_s() - from) / N * 1e6);
    }
    printf("peak of a worker %.0f MB, of this process %.0f MB\n", workers_peak_mb(), (double)mr_rss_peak_bytes() / 1e6);
    mr_pool_close(p);
    mr_free(text);
    mr_free(path);
    mr_free(recipe);
    return 0;
}
