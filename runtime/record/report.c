/* report.c - see report.h: the record of a run as the data of its page. */
#include "record/report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/proc.h"
#include "rl/metrics.h"

enum { MAX_FILE = 1 << 30, MAX_COLUMNS = 512 };

typedef struct column {
    char *name;
    double *values; /* [cap_rows] NaN: not there */
} column;

typedef struct table {
    column columns[MAX_COLUMNS];
    int n_columns;
    int64_t *steps;
    int n, cap;
} table;

/* ---- JSON without "<" ---- */

/* Within strings only; keys and numbers have none. Then no text can end the script element that it stands in. */
static void put_safe(mr_str *out, const char *json, size_t len) {
    for (size_t from = 0, i = 0; i <= len; i++) {
        if (i < len && json[i] != '<' && json[i] != '>' && json[i] != '&') continue;
        mr_str_add(out, json + from, i - from);
        if (i < len) mr_str_printf(out, "\\u%04x", json[i]);
        from = i + 1;
    }
}

static void put_tree(mr_str *out, const cJSON *item) {
    mr_str s = { 0 };
    mr_json_put(&s, item);
    put_safe(out, s.data, s.len);
    mr_str_clear(&s);
}

static void put_text(mr_str *out, const char *text, size_t len) {
    mr_str s = { 0 };
    mr_json_put_string(&s, text, len);
    put_safe(out, s.data, s.len);
    mr_str_clear(&s);
}

/* A long one keeps its beginning and its end: answers stand at the end. */
static void put_cut(mr_str *out, const char *text) {
    const size_t len = strlen(text), half = MR_REPORT_TEXT_BYTES / 2;
    if (len <= MR_REPORT_TEXT_BYTES) {
        put_text(out, text, len);
        return;
    }
    size_t head = half, tail = len - half;
    while (head > 0 && ((unsigned char)text[head] & 0xc0) == 0x80) head--; /* not inside a character */
    while (tail < len && ((unsigned char)text[tail] & 0xc0) == 0x80) tail++;
    char *cut =
        mr_asprintf("%.*s\n\n[... %zu bytes are left out here ...]\n\n%s", (int)head, text, tail - head, text + tail);
    put_text(out, cut, strlen(cut));
    mr_free(cut);
}

static void put_number(mr_str *out, double x) {
    if (isfinite(x))
        mr_str_printf(out, "%.5g", x);
    else
        mr_str_puts(out, "null");
}

static double number(const cJSON *o, const char *key) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
    return cJSON_IsNumber(v) ? v->valuedouble : (double)NAN;
}

static const char *string(const cJSON *o, const char *key) {
    const char *v = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, key));
    return v ? v : "";
}

/* ---- files ---- */

/* Calls f for each whole line that is an object. A file that is not there has none. */
static mr_status each_line(const char *dir, const char *name, void (*f)(void *self, const cJSON *line), void *self,
                           mr_err *err) {
    char *path = mr_path_join(dir, name), *data = NULL;
    size_t len = 0;
    mr_status st = mr_path_exists(path) ? mr_file_read(&data, &len, path, MAX_FILE, err) : MR_OK;
    for (size_t at = 0; st == MR_OK && at < len;) {
        const char *end = memchr(data + at, '\n', len - at);
        if (!end) break;
        cJSON *line = NULL;
        if (mr_json_parse(&line, data + at, (size_t)(end - data) - at, name, NULL) == MR_OK && cJSON_IsObject(line))
            f(self, line);
        cJSON_Delete(line);
        at = (size_t)(end - data) + 1;
    }
    mr_free(data);
    mr_free(path);
    return st;
}

/* ---- metrics ---- */

static column *column_of(table *t, const char *name, int guess) {
    if (guess < t->n_columns && !strcmp(t->columns[guess].name, name)) return &t->columns[guess]; /* mostly */
    for (int i = 0; i < t->n_columns; i++)
        if (!strcmp(t->columns[i].name, name)) return &t->columns[i];
    if (t->n_columns == MAX_COLUMNS) return NULL;
    column *c = &t->columns[t->n_columns++];
    c->name = mr_strdup(name);
    c->values = mr_alloc((size_t)t->cap * sizeof *c->values);
    for (int i = 0; i < t->cap; i++) c->values[i] = (double)NAN;
    return c;
}

static void add_step(void *self, const cJSON *line) {
    table *t = self;
    const double step = number(line, "step");
    if (isnan(step)) return;
    if (t->n == t->cap) {
        const int cap = t->cap ? 2 * t->cap : 1024;
        t->steps = mr_realloc(t->steps, (size_t)cap * sizeof *t->steps);
        for (int c = 0; c < t->n_columns; c++) {
            t->columns[c].values = mr_realloc(t->columns[c].values, (size_t)cap * sizeof(double));
            for (int i = t->cap; i < cap; i++) t->columns[c].values[i] = (double)NAN;
        }
        t->cap = cap;
    }
    t->steps[t->n] = (int64_t)step;
    int k = 0;
    for (const cJSON *v = line->child; v; v = v->next) {
        if (!strcmp(v->string, "step")) continue;
        column *c = cJSON_IsNumber(v) ? column_of(t, v->string, k) : NULL;
        if (c) c->values[t->n] = v->valuedouble;
        k++;
    }
    t->n++;
}

/* Neighbors become their mean; evaluations are few and stay what they are, as the last of theirs. */
static void thin(table *t) {
    if (t->n <= MR_REPORT_STEPS) return;
    const int every = (t->n + MR_REPORT_STEPS - 1) / MR_REPORT_STEPS;
    int out = 0;
    for (int from = 0; from < t->n; from += every, out++) {
        const int to = from + every < t->n ? from + every : t->n;
        for (int c = 0; c < t->n_columns; c++) {
            double sum = 0, last = (double)NAN;
            int n = 0;
            for (int i = from; i < to; i++)
                if (!isnan(t->columns[c].values[i])) sum += last = t->columns[c].values[i], n++;
            const bool as_is = !strncmp(t->columns[c].name, "eval/", 5) || !strcmp(t->columns[c].name, MR_M_COST) ||
                               !strcmp(t->columns[c].name, MR_M_TIME_RUN);
            t->columns[c].values[out] = !n ? (double)NAN : as_is ? last : sum / n;
        }
        t->steps[out] = t->steps[to - 1];
    }
    t->n = out;
}

static void put_metrics(mr_str *out, const table *t) {
    mr_str_puts(out, ",\"steps\":[");
    for (int i = 0; i < t->n; i++) mr_str_printf(out, "%s%lld", i ? "," : "", (long long)t->steps[i]);
    mr_str_puts(out, "],\"series\":{");
    for (int c = 0; c < t->n_columns; c++) {
        mr_str_puts(out, c ? "," : "");
        put_text(out, t->columns[c].name, strlen(t->columns[c].name));
        mr_str_puts(out, ":[");
        for (int i = 0; i < t->n; i++) {
            mr_str_puts(out, i ? "," : "");
            put_number(out, t->columns[c].values[i]);
        }
        mr_str_puts(out, "]");
    }
    mr_str_puts(out, "}");
}

static void clear_table(table *t) {
    for (int c = 0; c < t->n_columns; c++) {
        mr_free(t->columns[c].name);
        mr_free(t->columns[c].values);
    }
    mr_free(t->steps);
}

/* ---- events ---- */

typedef struct events {
    mr_str json;
    int n, n_put;
    char last_kind[16], last_text[300];
} events;

/* Scripts are named by the thousand; they are in the folder. The newest word about the run's end is its state. */
static void add_event(void *self, const cJSON *line) {
    events *e = self;
    const char *kind = string(line, "kind"), *text = string(line, "text");
    if (!strcmp(kind, "script")) return;
    e->n++;
    if (!strcmp(kind, "stop") || !strcmp(kind, "start")) {
        snprintf(e->last_kind, sizeof e->last_kind, "%s", kind);
        snprintf(e->last_text, sizeof e->last_text, "%.290s", text);
    }
    if (e->n_put >= MR_REPORT_EVENTS) return;
    mr_str_printf(&e->json, "%s{\"step\":", e->n_put++ ? "," : "");
    put_number(&e->json, number(line, "step"));
    mr_str_printf(&e->json, ",\"time\":%.3f,\"kind\":", number(line, "time"));
    put_text(&e->json, kind, strlen(kind));
    mr_str_puts(&e->json, ",\"text\":");
    put_cut(&e->json, text);
    mr_str_puts(&e->json, "}");
}

/* Whether a process has the run open: its lock is among the kernel's. To try the lock would keep a run out that begins
 * in that moment. */
static bool is_live(const char *dir) {
    char *path = mr_path_join(dir, "lock"), line[256], kind[16];
    struct stat info;
    const bool there = stat(path, &info) == 0;
    FILE *f = there ? fopen("/proc/locks", "re") : NULL;
    bool held = false;
    unsigned long long inode;
    while (f && !held && fgets(line, sizeof line, f))
        held = sscanf(line, "%*s %15s %*s %*s %*d %*x:%*x:%llu", kind, &inode) == 2 && !strcmp(kind, "FLOCK") &&
               inode == (unsigned long long)info.st_ino;
    if (f) fclose(f);
    mr_free(path);
    return held;
}

static void put_status(mr_str *out, const events *e, const char *dir) {
    const bool stop = !strcmp(e->last_kind, "stop");
    const char *state = is_live(dir) ? "running"
                        : !stop      ? (e->n ? "stopped" : "recorded")
                        : !strncmp(e->last_text, "done", 4) || !strncmp(e->last_text, "ended early", 11) ? "done"
                                                                                                         : "stopped";
    mr_str_printf(out, ",\"status\":{\"state\":\"%s\",\"text\":", state);
    if (stop && strcmp(state, "running") != 0 && strncmp(e->last_text, "done", 4) != 0)
        put_text(out, e->last_text, strlen(e->last_text));
    else
        mr_str_puts(out, "\"\"");
    mr_str_puts(out, "}");
}

/* ---- samples ---- */

typedef struct group {
    int64_t offset, bytes, step, prompt;
    int n;
} group;

typedef struct samples {
    FILE *file;
    group *groups;
    int n, cap;
    char *names[64]; /* of the rewards, as they were met */
    double most[64];
    int n_names;
} samples;

/* The two numbers that begin a line of samples.jsonl; a line that does not is skipped. */
static bool head_of(const char *line, int64_t *step, int64_t *prompt) {
    long long a, b;
    if (sscanf(line, "{\"step\": %lld, \"prompt_index\": %lld,", &a, &b) != 2) return false;
    *step = a;
    *prompt = b;
    return true;
}

static void find_groups(samples *s) {
    char *line = NULL;
    size_t cap = 0;
    int64_t at = 0;
    for (ssize_t len; (len = getline(&line, &cap, s->file)) > 0; at += len) {
        int64_t step, prompt;
        if (line[len - 1] != '\n' || !head_of(line, &step, &prompt)) continue;
        group *last = s->n ? &s->groups[s->n - 1] : NULL;
        if (last && last->step == step && last->prompt == prompt) {
            last->bytes = at + len - last->offset;
            last->n++;
            continue;
        }
        if (s->n == s->cap) {
            s->cap = s->cap ? 2 * s->cap : 1024;
            s->groups = mr_realloc(s->groups, (size_t)s->cap * sizeof *s->groups);
        }
        s->groups[s->n++] = (group){ at, len, step, prompt, 1 };
    }
    free(line);
}

static int name_index(samples *s, const char *name) {
    for (int i = 0; i < s->n_names; i++)
        if (!strcmp(s->names[i], name)) return i;
    if (s->n_names == 64) return -1;
    s->names[s->n_names] = mr_strdup(name);
    return s->n_names++;
}

static void put_completion(samples *s, mr_str *out, const cJSON *line) {
    double values[64];
    const cJSON *rewards = cJSON_GetObjectItemCaseSensitive(line, "rewards"), *v,
                *faults = cJSON_GetObjectItemCaseSensitive(line, "faults");
    for (int i = 0; i < 64; i++) values[i] = (double)NAN;
    cJSON_ArrayForEach(v, rewards) {
        const int i = v->string ? name_index(s, v->string) : -1;
        if (i < 0 || !cJSON_IsNumber(v)) continue;
        values[i] = v->valuedouble;
        if (v->valuedouble > s->most[i]) s->most[i] = v->valuedouble;
    }
    mr_str_puts(out, "{\"text\":");
    put_cut(out, string(line, "completion"));
    mr_str_puts(out, ",\"r\":[");
    for (int i = 0; i < s->n_names; i++) {
        mr_str_puts(out, i ? "," : "");
        put_number(out, values[i]);
    }
    mr_str_puts(out, "],\"reward\":");
    put_number(out, number(line, "reward"));
    mr_str_puts(out, ",\"adv\":");
    put_number(out, number(line, "advantage"));
    mr_str_puts(out, ",\"n\":");
    put_number(out, number(line, "tokens"));
    if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(line, "truncated"))) mr_str_puts(out, ",\"cut\":true");
    if (faults && faults->child) {
        mr_str_puts(out, ",\"faults\":");
        put_tree(out, faults);
    }
    mr_str_puts(out, "}");
}

static bool put_group(samples *s, mr_str *out, const group *g) {
    char *data = mr_alloc((size_t)g->bytes + 1);
    bool any = false;
    if (fseeko(s->file, (off_t)g->offset, SEEK_SET) == 0 &&
        fread(data, 1, (size_t)g->bytes, s->file) == (size_t)g->bytes) {
        for (char *line = data, *end; (end = strchr(line, '\n')); line = end + 1) {
            cJSON *o = NULL;
            if (mr_json_parse(&o, line, (size_t)(end - line), "samples.jsonl", NULL) != MR_OK) continue;
            if (!any) {
                mr_str_printf(out, "{\"step\":%lld,\"row\":", (long long)g->step);
                put_number(out, number(o, "row"));
                mr_str_puts(out, ",\"source\":");
                put_text(out, string(o, "source"), strlen(string(o, "source")));
                mr_str_puts(out, ",\"answer\":");
                put_cut(out, string(o, "answer"));
                mr_str_puts(out, ",\"prompt\":");
                put_cut(out, string(o, "prompt"));
                mr_str_puts(out, ",\"c\":[");
            } else {
                mr_str_puts(out, ",");
            }
            any = true;
            put_completion(s, out, o);
            cJSON_Delete(o);
        }
        if (any) mr_str_puts(out, "]}");
    }
    mr_free(data);
    return any;
}

/* What a line takes in the page: its prompt stands once, so at most the file's bytes. */
static int stride_of(const samples *s) {
    double bytes = 0;
    for (int i = 0; i < s->n; i++) {
        const double most = (double)(s->groups[i].n + 1) * (MR_REPORT_TEXT_BYTES + 400),
                     has = (double)s->groups[i].bytes;
        bytes += has < most ? has : most;
    }
    const double k = ceil(bytes / MR_REPORT_SAMPLE_BYTES);
    return k < 1 ? 1 : (int)k;
}

static void put_samples(mr_str *out, const char *dir) {
    samples s = { 0 };
    char *path = mr_path_join(dir, "samples.jsonl");
    s.file = fopen(path, "re");
    mr_free(path);
    int n_put = 0;
    mr_str_puts(out, ",\"groups\":[");
    if (s.file) {
        find_groups(&s);
        const int every = stride_of(&s);
        for (int i = 0; i < s.n; i++) {
            if (i % every != 0 && i != s.n - 1) continue;
            const size_t before = out->len;
            if (n_put) mr_str_puts(out, ",");
            if (put_group(&s, out, &s.groups[i]))
                n_put++;
            else
                out->len = before;
        }
        fclose(s.file);
    }
    mr_str_printf(out, "],\"n_groups\":%d,\"rewards\":[", s.n);
    for (int i = 0; i < s.n_names; i++) {
        mr_str_puts(out, i ? "," : "");
        put_text(out, s.names[i], strlen(s.names[i]));
    }
    mr_str_puts(out, "],\"reward_max\":[");
    for (int i = 0; i < s.n_names; i++) {
        mr_str_puts(out, i ? "," : "");
        put_number(out, s.most[i]);
        mr_free(s.names[i]);
    }
    mr_str_puts(out, "]");
    mr_free(s.groups);
}

/* ---- the whole ---- */

/* config.json and eval.json as they are; absent or damaged ones are left out. The scripts' hashes say nothing here. */
static cJSON *load(const char *dir, const char *name) {
    char *path = mr_path_join(dir, name);
    cJSON *o = NULL;
    if (mr_path_exists(path) && mr_json_load(&o, path, 64 << 20, NULL) != MR_OK) o = NULL;
    mr_free(path);
    return o;
}

static void put_config(mr_str *out, const char *dir) {
    cJSON *config = load(dir, "config.json"), *eval = load(dir, "eval.json");
    if (cJSON_IsObject(config)) {
        cJSON_DeleteItemFromObjectCaseSensitive(cJSON_GetObjectItemCaseSensitive(config, "run"), "scripts");
        const cJSON *train = cJSON_GetObjectItemCaseSensitive(config, "grpo");
        if (!train) train = cJSON_GetObjectItemCaseSensitive(config, "sft");
        if (number(train, "max_steps") > 0) {
            mr_str_puts(out, ",\"max_steps\":");
            put_number(out, number(train, "max_steps"));
        }
        mr_str_puts(out, ",\"config\":");
        put_tree(out, config);
    } else {
        mr_str_puts(out, ",\"config\":{}");
    }
    if (cJSON_IsObject(eval)) {
        cJSON_DeleteItemFromObjectCaseSensitive(eval, "flips");
        mr_str_puts(out, ",\"eval\":");
        put_tree(out, eval);
    }
    cJSON_Delete(config);
    cJSON_Delete(eval);
}

/* The folder's own name, also for "." and "x/". */
static void put_name(mr_str *out, const char *dir) {
    char *full = realpath(dir, NULL);
    const char *name = mr_path_name(full ? full : dir);
    put_text(out, name, strlen(name));
    free(full);
}

mr_status mr_report_data(mr_str *out, const char *run_dir, const char *served, mr_err *err) {
    char *path = mr_path_join(run_dir, "events.jsonl");
    const bool found = mr_path_exists(path);
    mr_free(path);
    if (!found) return mr_fail(err, MR_ENOTFOUND, "%s: holds no run, want a folder that `medrl run` made", run_dir);
    table *t = mr_alloc(sizeof *t);
    events e = { 0 };
    mr_status st = each_line(run_dir, "metrics.jsonl", add_step, t, err);
    if (st == MR_OK) st = each_line(run_dir, "events.jsonl", add_event, &e, err);
    if (st == MR_OK) {
        thin(t);
        mr_str_puts(out, "{\"name\":");
        put_name(out, run_dir);
        mr_str_printf(out, ",\"made\":%.0f", mr_wall_s());
        if (served) {
            mr_str_puts(out, ",\"served\":");
            put_text(out, served, strlen(served));
        }
        put_config(out, run_dir);
        put_status(out, &e, run_dir);
        put_metrics(out, t);
        mr_str_printf(out, ",\"n_events\":%d,\"events\":[%s]", e.n, e.json.data ? e.json.data : "");
        put_samples(out, run_dir);
        mr_str_puts(out, "}");
    }
    clear_table(t);
    mr_free(t);
    mr_str_clear(&e.json);
    return st;
}

char *mr_report_version(const char *run_dir) {
    static const char *const names[] = { "metrics.jsonl", "samples.jsonl", "events.jsonl", "eval.json" };
    mr_str s = { 0 };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *path = mr_path_join(run_dir, names[i]);
        struct stat info;
        if (stat(path, &info) != 0) info = (struct stat){ 0 };
        mr_str_printf(&s, "%s%lld.%lld", i ? "-" : "", (long long)info.st_size, (long long)info.st_mtim.tv_nsec);
        mr_free(path);
    }
    mr_str_printf(&s, "-%d", is_live(run_dir)); /* that it ended is news too */
    return mr_str_steal(&s);
}
