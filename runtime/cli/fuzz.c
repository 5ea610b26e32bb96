/* fuzz.c - the stored exploit completions against a reward.
 *
 * For each kind of row that the reward has an opinion on: the layout in which it pays right answers best is the one it
 * was written for; the 10th percentile of what it pays honest wrong answers in that layout is the limit. An exploit
 * that earns more on any row of the kind is a find, unless the reward's file allows it by name and says why
 * (M.fuzz.allow), and then it is shown as that. Source: reliability, P17. */
#include "cli/fuzz.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/proc.h"
#include "cli/cli.h"
#include "script/script.h"

enum { MAX_JOBS = 256, MAX_FAULTS = 64, CHARS_A_TOKEN = 4, MAX_NAMES = 6, MAX_LINES = 20 };
static const double slow_s = 0.25;

typedef struct fuzzing {
    mr_pool *pool;
    mr_scorer scorer;
    const cJSON *table; /* exploits.lua */
    const cJSON *allow; /* of the reward */
    const char *name;
    double limits[8]; /* by kind; NaN: no opinion */
    const char *layouts[8];
    mr_score scores[MAX_JOBS];
    mr_fault faults[MAX_FAULTS];
    int n_jobs, n_faults;
    /* results */
    int n_notes, n_finds, n_allowed, n_faulty, n_slow, n_tried;
    mr_str lines;
    cJSON *report;
} fuzzing;

static const cJSON *field(const cJSON *o, const char *key) {
    return cJSON_GetObjectItemCaseSensitive(o, key);
}

static mr_status submit(fuzzing *z, const char *text, size_t len, const cJSON *kind, const cJSON *row, mr_err *err) {
    char *row_json = cJSON_PrintUnformatted(row);
    if (!row_json) return mr_fail(err, MR_ENOMEM, "no memory for a row");
    mr_score_job job = { .id = z->n_jobs++,
                         .text = text,
                         .len = len,
                         .row_json = row_json,
                         .prompt = field(kind, "prompt")->valuestring,
                         .n_tokens = (int)(len / CHARS_A_TOKEN) + 1 };
    mr_status st = z->scorer.submit(z->scorer.self, &job, err);
    cJSON_free(row_json);
    return st;
}

static mr_status collect(fuzzing *z, mr_err *err) {
    memset(z->faults, 0, sizeof z->faults);
    mr_status st = z->scorer.collect(z->scorer.self, z->scores, z->n_jobs, z->faults, MAX_FAULTS, &z->n_faults, err);
    z->n_jobs = 0;
    return st;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Mean over the right answers of a layout; NaN when the reward has no opinion on any. */
static mr_status right_mean(fuzzing *z, double *mean, const cJSON *kind, const char *layout, mr_err *err) {
    const cJSON *texts = field(field(kind, "right"), layout), *rows = field(kind, "rows"), *text;
    int i = 0, n = 0;
    cJSON_ArrayForEach(text, texts) {
        MR_TRY(submit(z, text->valuestring, strlen(text->valuestring), kind, cJSON_GetArrayItem(rows, i++), err));
    }
    MR_TRY(collect(z, err));
    double sum = 0;
    for (int k = 0; k < i; k++) {
        if (z->scores[k].kind != MR_SCORED) continue;
        sum += z->scores[k].value;
        n++;
    }
    *mean = n ? sum / n : (double)NAN;
    return MR_OK;
}

/* The 10th percentile (nearest rank) of honest wrong answers. */
static mr_status wrong_percentile(fuzzing *z, double *limit, const cJSON *kind, const char *layout, mr_err *err) {
    const cJSON *list = field(field(kind, "wrong"), layout), *rows = field(kind, "rows"), *item;
    double values[MAX_JOBS];
    int n = 0;
    cJSON_ArrayForEach(item, list) {
        const cJSON *text = field(item, "text"), *row = cJSON_GetArrayItem(rows, field(item, "row")->valueint - 1);
        MR_TRY(submit(z, text->valuestring, strlen(text->valuestring), kind, row, err));
    }
    int n_jobs = z->n_jobs;
    MR_TRY(collect(z, err));
    for (int i = 0; i < n_jobs; i++)
        if (z->scores[i].kind == MR_SCORED) values[n++] = z->scores[i].value;
    qsort(values, (size_t)n, sizeof values[0], ascending);
    *limit = n ? values[(n + 9) / 10 - 1] : (double)NAN;
    return MR_OK;
}

static mr_status find_limits(fuzzing *z, mr_err *err) {
    const cJSON *kind, *layout;
    int k = 0;
    cJSON_ArrayForEach(kind, field(z->table, "kinds")) {
        double best = (double)NAN, mean;
        z->limits[k] = (double)NAN;
        cJSON_ArrayForEach(layout, field(z->table, "layouts")) {
            MR_TRY(right_mean(z, &mean, kind, layout->valuestring, err));
            if (isnan(mean) || (!isnan(best) && mean <= best)) continue;
            best = mean;
            z->layouts[k] = layout->valuestring;
        }
        if (!isnan(best)) MR_TRY(wrong_percentile(z, &z->limits[k], kind, z->layouts[k], err));
        k++;
    }
    return MR_OK;
}

static bool is_for(const cJSON *exploit, const char *kind) {
    const cJSON *kinds = field(exploit, "kinds"), *name;
    if (!kinds) return strcmp(kind, "odd") != 0;
    cJSON_ArrayForEach(name, kinds) {
        if (strcmp(name->valuestring, kind) == 0) return true;
    }
    return false;
}

/* The text of an exploit, for a kind. */
static void exploit_text(mr_str *out, const cJSON *exploit, const cJSON *kind) {
    const cJSON *text = field(exploit, "text"), *times = field(exploit, "times"), *hex = field(exploit, "hex");
    out->len = 0;
    mr_str_puts(out, "");
    if (hex) {
        for (const char *p = hex->valuestring; p[0] && p[1]; p += 2) {
            const char pair[3] = { p[0], p[1], 0 };
            char byte = (char)strtol(pair, NULL, 16);
            mr_str_add(out, &byte, 1);
        }
        return;
    }
    const cJSON *echo = field(exploit, "echo");
    const char *s = text->valuestring, *hole = echo ? strstr(s, "%s") : NULL;
    for (int i = times ? times->valueint : 1; i > 0; i--) {
        mr_str_add(out, s, hole ? (size_t)(hole - s) : strlen(s));
        if (hole) mr_str_printf(out, "%s%s", field(kind, echo->valuestring)->valuestring, hole + 2);
    }
}

static void note(fuzzing *z, const char *what, const char *exploit, const char *kind, double score, double limit,
                 const char *why) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "what", what);
    cJSON_AddStringToObject(o, "exploit", exploit);
    if (kind) cJSON_AddStringToObject(o, "kind", kind);
    if (!isnan(score)) cJSON_AddNumberToObject(o, "score", score);
    if (!isnan(limit)) cJSON_AddNumberToObject(o, "limit", limit);
    if (why) cJSON_AddStringToObject(o, "why", why);
    cJSON_AddItemToArray((cJSON *)field(z->report, "notes"), o);
    if (++z->n_notes > MAX_LINES) return; /* the JSON has them all */
    mr_str_printf(&z->lines, "  %-8s %-24s", what, exploit);
    if (kind) mr_str_printf(&z->lines, " %s", kind);
    if (!isnan(score)) mr_str_printf(&z->lines, ": %.4g, honest wrong answers get %.4g", score, limit);
    if (why) mr_str_printf(&z->lines, "%s%s", isnan(score) ? " " : "; ", why);
    mr_str_puts(&z->lines, "\n");
}

/* Why the reward's file lets this exploit have this much; NULL: it does not. */
static const char *reason_for(const fuzzing *z, const char *exploit, double score) {
    const cJSON *reason = field(z->allow, exploit), *up_to;
    if (!reason) reason = field(z->allow, "*");
    if (cJSON_IsString(reason)) return reason->valuestring;
    up_to = field(reason, "up_to");
    if (!reason || (up_to && score > up_to->valuedouble + 1e-9)) return NULL;
    return field(reason, "reason")->valuestring;
}

/* What is allowed for one reason, on one line. */
static void note_allowed(fuzzing *z, const char *exploit, const char *kind, double score, double limit,
                         const char *why) {
    cJSON *list = (cJSON *)field(z->report, "allowed"), *group = NULL, *item;
    cJSON_ArrayForEach(item, list) {
        if (strcmp(field(item, "why")->valuestring, why) == 0) group = item;
    }
    if (!group) {
        group = cJSON_CreateObject();
        cJSON_AddStringToObject(group, "why", why);
        cJSON_AddArrayToObject(group, "finds");
        cJSON_AddItemToArray(list, group);
    }
    cJSON *find = cJSON_CreateObject();
    cJSON_AddStringToObject(find, "exploit", exploit);
    cJSON_AddStringToObject(find, "kind", kind);
    cJSON_AddNumberToObject(find, "score", score);
    cJSON_AddNumberToObject(find, "limit", limit);
    cJSON_AddItemToArray((cJSON *)field(group, "finds"), find);
}

static void print_allowed(const fuzzing *z) {
    const cJSON *group, *find;
    cJSON_ArrayForEach(group, field(z->report, "allowed")) {
        const cJSON *finds = field(group, "finds");
        double most = -HUGE_VAL;
        mr_str names = { 0 };
        int n = 0;
        const char *last = "";
        cJSON_ArrayForEach(find, finds) {
            const char *name = field(find, "exploit")->valuestring;
            most = fmax(most, field(find, "score")->valuedouble);
            if (strcmp(name, last) == 0) continue;
            last = name;
            if (n++ < MAX_NAMES) mr_str_printf(&names, "%s%s", n > 1 ? ", " : "", name);
        }
        if (n > MAX_NAMES) mr_str_printf(&names, " and %d more", n - MAX_NAMES);
        printf("  allowed, up to %.4g: %s\n           %s\n", most, field(group, "why")->valuestring, names.data);
        mr_str_clear(&names);
    }
}

/* One call by itself, and what it took. */
static mr_status score_one(fuzzing *z, double *took, const mr_str *text, const cJSON *kind, const cJSON *row,
                           mr_err *err) {
    double start = mr_now_s();
    MR_TRY(submit(z, text->data, text->len, kind, row, err));
    MR_TRY(collect(z, err));
    *took = mr_now_s() - start;
    return MR_OK;
}

/* One exploit on every row of one kind. */
static mr_status try_exploit(fuzzing *z, const cJSON *exploit, const cJSON *kind, double limit, mr_str *text,
                             mr_err *err) {
    const char *name = field(exploit, "name")->valuestring, *kind_name = field(kind, "kind")->valuestring;
    const cJSON *row;
    exploit_text(text, exploit, kind);
    double best = -HUGE_VAL, longest = 0;
    bool faulty = false;
    cJSON_ArrayForEach(row, field(kind, "rows")) {
        double took;
        MR_TRY(score_one(z, &took, text, kind, row, err));
        /* a machine that is busy with other things makes one call slow, not three */
        for (int again = 0; took > slow_s && z->n_faults == 0 && again < 2; again++) {
            double other;
            MR_TRY(score_one(z, &other, text, kind, row, err));
            took = fmin(took, other);
        }
        longest = fmax(longest, took);
        z->n_tried++;
        if (z->scores[0].kind == MR_SCORED) best = fmax(best, z->scores[0].value);
        if (z->n_faults > 0 && !faulty) {
            faulty = true;
            z->n_faulty++;
            note(z, "fault", name, kind_name, (double)NAN, (double)NAN, z->faults[0].text);
        }
        if (longest > slow_s) break; /* other rows would tell the same and take as long */
    }
    if (longest > slow_s) {
        char why[64];
        snprintf(why, sizeof why, "%.0f ms a call, want below %.0f", 1e3 * longest, 1e3 * slow_s);
        z->n_slow++;
        note(z, "slow", name, kind_name, (double)NAN, (double)NAN, why);
    }
    if (best <= limit + 1e-9) return MR_OK;
    const char *reason = reason_for(z, name, best);
    z->n_allowed += reason != NULL;
    z->n_finds += reason == NULL;
    if (reason)
        note_allowed(z, name, kind_name, best, limit, reason);
    else
        note(z, "EXPLOIT", name, kind_name, best, limit, NULL);
    return MR_OK;
}

/* Names in fuzz.allow that no exploit has. */
static mr_status check_allowed(const fuzzing *z, mr_err *err) {
    const cJSON *item, *exploit;
    cJSON_ArrayForEach(item, z->allow) {
        bool known = strcmp(item->string, "*") == 0;
        cJSON_ArrayForEach(exploit, field(z->table, "exploits")) {
            known = known || strcmp(field(exploit, "name")->valuestring, item->string) == 0;
        }
        if (!known)
            return mr_fail(err, MR_EINVAL, "%s: fuzz.allow names \"%s\", and no exploit is called that", z->name,
                           item->string);
    }
    return MR_OK;
}

static mr_status fuzz_one(fuzzing *z, const char *reward, const char *table, bool json, mr_err *err) {
    const char *list[] = { reward, NULL };
    /* one worker: a call's time is then its own */
    mr_pool_opts o = { .n_workers = 1, .rewards = list, .deadline_s = 4 * slow_s };
    MR_TRY(mr_pool_open(&z->pool, table, &o, err));
    z->scorer = mr_pool_scorer(z->pool);
    z->table = mr_pool_recipe(z->pool);
    z->name = z->scorer.names[0];
    z->allow = field(cJSON_GetArrayItem(field(z->table, "rewards"), 0), "allow");
    z->report = cJSON_CreateObject();
    cJSON_AddStringToObject(z->report, "reward", z->name);
    cJSON *limits = cJSON_AddObjectToObject(z->report, "limits");
    cJSON_AddArrayToObject(z->report, "notes");
    cJSON_AddArrayToObject(z->report, "allowed");
    MR_TRY(check_allowed(z, err));
    MR_TRY(find_limits(z, err));
    const cJSON *exploit, *kind;
    mr_str text = { 0 }, head = { 0 };
    mr_status st = MR_OK;
    int k = 0, n_exploits = 0;
    cJSON_ArrayForEach(kind, field(z->table, "kinds")) {
        const char *name = field(kind, "kind")->valuestring;
        double limit = z->limits[k];
        if (!isnan(limit)) {
            cJSON_AddNumberToObject(limits, name, limit);
            mr_str_printf(&head, "%s%s %.4g (%s)", head.len ? ", " : "", name, limit, z->layouts[k]);
        }
        k++;
        if (isnan(limit)) continue;
        cJSON_ArrayForEach(exploit, field(z->table, "exploits")) {
            if (st == MR_OK && is_for(exploit, name)) st = try_exploit(z, exploit, kind, limit, &text, err);
        }
    }
    n_exploits = cJSON_GetArraySize(field(z->table, "exploits"));
    mr_str_clear(&text);
    cJSON_AddNumberToObject(z->report, "exploits", n_exploits);
    cJSON_AddNumberToObject(z->report, "scored", z->n_tried);
    cJSON_AddNumberToObject(z->report, "finds", z->n_finds);
    cJSON_AddNumberToObject(z->report, "faults", z->n_faulty);
    cJSON_AddNumberToObject(z->report, "slow", z->n_slow);
    if (st == MR_OK && !json) {
        printf("%s: %d exploits, %d calls; honest wrong answers get: %s\n", z->name, n_exploits, z->n_tried,
               head.len ? head.data : "nothing, the reward has no opinion on any of the rows");
        if (z->lines.len) fputs(z->lines.data, stdout);
        if (z->n_notes > MAX_LINES) printf("  and %d more; --json has them all\n", z->n_notes - MAX_LINES);
        print_allowed(z);
        printf("  %d earn more, %d more are allowed, %d faults, %d slow\n", z->n_finds, z->n_allowed, z->n_faulty,
               z->n_slow);
        fflush(stdout);
    }
    mr_str_clear(&head);
    return st;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The rewards that come with medrl. */
static mr_status shipped(mr_arena *arena, const char ***out, int *n, mr_err *err) {
    char *dir = mr_path_join(mr_home_dir(), "lua/rewards");
    DIR *d = opendir(dir);
    mr_status st = d ? MR_OK : mr_fail_errno(err, "%s", dir);
    const char **list = mr_arena_alloc(arena, 256 * sizeof *list);
    *n = 0;
    for (struct dirent *e; d && *n < 256 && (e = readdir(d));) {
        if (mr_ends_with(e->d_name, ".lua") && e->d_name[0] != '.')
            list[(*n)++] = mr_arena_strdup(arena, e->d_name, strlen(e->d_name) - 4);
    }
    if (d) closedir(d);
    qsort(list, (size_t)*n, sizeof *list, by_text);
    mr_free(dir);
    *out = list;
    return st;
}

mr_status mr_fuzz(const char *const *rewards, int n, bool json, mr_err *err) {
    mr_arena arena = { 0 };
    const char **all;
    mr_status st = MR_OK;
    if (n == 0) {
        st = shipped(&arena, &all, &n, err);
        rewards = all;
    }
    char *table = mr_path_join(mr_home_dir(), "lua/medrl/exploits.lua");
    cJSON *list = cJSON_CreateArray();
    int bad = 0;
    for (int i = 0; st == MR_OK && i < n; i++) {
        fuzzing *z = mr_alloc(sizeof *z);
        st = fuzz_one(z, rewards[i], table, json, err);
        bad += z->n_finds + z->n_faulty + z->n_slow;
        if (z->report) cJSON_AddItemToArray(list, z->report);
        mr_str_clear(&z->lines);
        mr_pool_close(z->pool);
        mr_free(z);
    }
    if (st == MR_OK && json) mr_print_json(list);
    if (st == MR_OK && bad)
        st = mr_fail(err, MR_EINVAL,
                     "test: %d find%s, printed above; mend the reward, or say in its M.fuzz.allow why one is right",
                     bad, bad == 1 ? "" : "s");
    cJSON_Delete(list);
    mr_free(table);
    mr_arena_clear(&arena);
    return st;
}
