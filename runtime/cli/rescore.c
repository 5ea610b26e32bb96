/* rescore.c - all recorded completions of a run through other rewards: old and new by name, their correlation, the
 * curve that would have been, the rows that changed most.
 *
 * One pass over samples.jsonl. Kept are sums by reward and by step, and the few rows that are shown. A group (step and
 * prompt) is scored as a whole, so that score_batch sees what it would have seen in the run. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/score.h"

enum { CHUNK = 512, MAX_FAULTS = 256, SHOWN_FAULTS = 3, SPARKS = 48, TEXT_SHOWN = 300, MAX_OLD = 64 };

/* Means and correlation of pairs, by Welford's updates (no cancellation of large sums). */
typedef struct pairs {
    double n, mean_x, mean_y, xx, yy, xy;
} pairs;

static void add_pair(pairs *p, double x, double y) {
    p->n++;
    double dx = x - p->mean_x, dy = y - p->mean_y;
    p->mean_x += dx / p->n;
    p->mean_y += dy / p->n;
    p->xx += dx * (x - p->mean_x);
    p->yy += dy * (y - p->mean_y);
    p->xy += dx * (y - p->mean_y);
}

/* NaN when one of the two never varies. */
static double correlation(const pairs *p) {
    return p->xx > 0 && p->yy > 0 ? p->xy / sqrt(p->xx * p->yy) : (double)NAN;
}

typedef struct by_reward {
    pairs both; /* where old and new are numbers */
    double old_sum, new_sum;
    int64_t n_old, n_new, abstained, faults, changed;
    bool recorded;
} by_reward;

typedef struct by_step {
    int64_t step;
    double old_sum, new_sum;
    int n_old, n_new;
} by_step;

typedef struct changed_row {
    int64_t step, prompt, sample;
    double old_value, new_value, change;
    char *text, *answer; /* owned */
} changed_row;

typedef struct record {
    cJSON *line;
    char *row; /* of the group, shared */
} record;

typedef struct rescoring {
    mr_scoring *s;
    const char *run;
    char *path;
    record *records; /* the chunk */
    int n_records, cap_records;
    mr_score *scores;
    mr_fault *faults;
    char **rows; /* of the chunk, owned */
    int n_rows, cap_rows;
    int64_t step, prompt; /* of the last line */
    /* results */
    by_reward *rewards;
    pairs total;
    by_step *steps;
    int n_steps, cap_steps;
    changed_row *top;
    int n_top;
    int64_t n_samples, n_unlike; /* samples whose old and new are both numbers and differ */
    char *fault_lines[SHOWN_FAULTS];
    int n_fault_lines;
    cJSON *weights;        /* of the run's rewards, by name; for --keep */
    bool common, old_rows; /* a given name was recorded; lines without their columns were met */
} rescoring;

static const cJSON *field(const cJSON *o, const char *key) {
    return cJSON_GetObjectItemCaseSensitive(o, key);
}

static double number(const cJSON *o, const char *key) {
    const cJSON *v = field(o, key);
    return cJSON_IsNumber(v) ? v->valuedouble : (double)NAN;
}

/* ---- sums ---- */

static by_step *step_of(rescoring *z, int64_t step) {
    for (int i = z->n_steps - 1; i >= 0 && i >= z->n_steps - 4; i--) /* lines are in order */
        if (z->steps[i].step == step) return &z->steps[i];
    if (z->n_steps == z->cap_steps) {
        z->cap_steps = z->cap_steps ? 2 * z->cap_steps : 256;
        z->steps = mr_realloc(z->steps, (size_t)z->cap_steps * sizeof *z->steps);
    }
    z->steps[z->n_steps] = (by_step){ .step = step };
    return &z->steps[z->n_steps++];
}

static void keep_top(rescoring *z, const cJSON *line, double old_value, double new_value) {
    double change = fabs(new_value - old_value);
    if (!(change > 1e-9) || z->s->n_top == 0) return;
    z->n_unlike++;
    if (z->n_top == z->s->n_top && change <= z->top[z->n_top - 1].change) return;
    changed_row row = { .step = (int64_t)number(line, "step"),
                        .prompt = (int64_t)number(line, "prompt_index"),
                        .sample = (int64_t)number(line, "sample"),
                        .old_value = old_value,
                        .new_value = new_value,
                        .change = change };
    const cJSON *answer = field(line, "answer");
    row.text = mr_strdup(field(line, "completion")->valuestring);
    row.answer = cJSON_IsString(answer) ? mr_strdup(answer->valuestring) : NULL;
    int at = z->n_top < z->s->n_top ? z->n_top++ : z->n_top - 1;
    if (at == z->s->n_top - 1 && z->top[at].text) {
        mr_free(z->top[at].text);
        mr_free(z->top[at].answer);
    }
    for (; at > 0 && z->top[at - 1].change < change; at--)
        z->top[at] = z->top[at - 1]; /* equal ones: the first stays */
    z->top[at] = row;
}

/* The weighted recorded rewards that are not given again. */
static double kept(const rescoring *z, const cJSON *old, bool *any) {
    double sum = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, old) {
        bool given = false;
        for (int r = 0; r < z->s->scorer.n_rewards; r++) given = given || !strcmp(item->string, z->s->scorer.names[r]);
        if (given || !cJSON_IsNumber(item)) continue;
        const cJSON *w = field(z->weights, item->string);
        sum += (cJSON_IsNumber(w) ? w->valuedouble : 1.0) * item->valuedouble;
        *any = true;
    }
    return sum;
}

static void add_sample(rescoring *z, const cJSON *line, const mr_score *scores) {
    const mr_scorer *sc = &z->s->scorer;
    const cJSON *old = field(line, "rewards");
    double total = 0, old_common = 0, new_common = 0, recorded = number(line, "reward");
    bool any = false, common = false;
    for (int r = 0; r < sc->n_rewards; r++) {
        by_reward *b = &z->rewards[r];
        bool there = field(old, sc->names[r]) != NULL;
        double w = (double)sc->weights[r], x = number(old, sc->names[r]),
               y = scores[r].kind == MR_ABSTAINED ? (double)NAN : scores[r].value;
        b->recorded |= there;
        b->abstained += scores[r].kind == MR_ABSTAINED;
        b->faults += scores[r].kind == MR_FAULT;
        if (!isnan(x)) {
            b->old_sum += x;
            b->n_old++;
        }
        if (!isnan(y)) {
            b->new_sum += y;
            b->n_new++;
            total += w * y;
            any = true;
        }
        if (!isnan(x) && !isnan(y)) add_pair(&b->both, x, y);
        if (!there) continue;
        common = true;
        b->changed += isnan(x) != isnan(y) || (!isnan(x) && fabs(x - y) > 1e-9);
        old_common += isnan(x) ? 0 : w * x;
        new_common += isnan(y) ? 0 : w * y;
    }
    if (z->s->keep) total += kept(z, old, &any);
    by_step *b = step_of(z, (int64_t)number(line, "step"));
    if (!isnan(recorded)) {
        b->old_sum += recorded;
        b->n_old++;
    }
    if (any) {
        b->new_sum += total;
        b->n_new++;
    }
    if (any && !isnan(recorded)) add_pair(&z->total, recorded, total);
    z->common |= common;
    z->n_samples++;
    if (common)
        keep_top(z, line, old_common, new_common);
    else if (any && !isnan(recorded))
        keep_top(z, line, recorded, total);
}

/* ---- the file ---- */

static void keep_fault(rescoring *z, const mr_fault *f) {
    if (z->n_fault_lines == SHOWN_FAULTS || f->id < 0 || f->id >= z->n_records) return;
    const cJSON *line = z->records[f->id].line;
    char *text = mr_fault_text(f);
    z->fault_lines[z->n_fault_lines++] =
        mr_asprintf("%s (step %.0f, prompt %.0f, sample %.0f)", text, number(line, "step"),
                    number(line, "prompt_index"), number(line, "sample"));
    mr_free(text);
}

static mr_status flush_chunk(rescoring *z, mr_err *err) {
    const mr_scorer *sc = &z->s->scorer;
    int n_faults = 0;
    mr_status st = sc->collect(sc->self, z->scores, z->n_records, z->faults, MAX_FAULTS, &n_faults, err);
    for (int i = 0; st == MR_OK && i < n_faults && i < MAX_FAULTS; i++)
        if (z->faults[i].text[0]) keep_fault(z, &z->faults[i]);
    memset(z->faults, 0, MAX_FAULTS * sizeof *z->faults);
    for (int i = 0; i < z->n_records; i++) {
        if (st == MR_OK) add_sample(z, z->records[i].line, z->scores + (size_t)i * (size_t)sc->n_rewards);
        cJSON_Delete(z->records[i].line);
    }
    for (int i = 0; i < z->n_rows; i++) mr_free(z->rows[i]);
    z->n_records = z->n_rows = 0;
    return st;
}

/* The row of a line: its columns; of old runs, what can be put together. Owned by the chunk. */
static char *row_of(rescoring *z, const cJSON *line, bool same_group) {
    const cJSON *columns = field(line, "columns");
    if (!columns && same_group && z->n_rows > 0) return z->rows[z->n_rows - 1];
    cJSON *made = NULL;
    if (!columns) {
        static const char *const names[][2] = { { "answer", "answer" },
                                                { "source", "source" },
                                                { "db_set", "source" } };
        made = cJSON_CreateObject();
        for (int i = 0; i < 3; i++) {
            const cJSON *v = field(line, names[i][1]);
            if (cJSON_IsString(v)) cJSON_AddStringToObject(made, names[i][0], v->valuestring);
        }
        z->old_rows = true;
    }
    char *text = cJSON_PrintUnformatted(columns ? columns : made);
    if (z->n_rows == z->cap_rows) {
        z->cap_rows = z->cap_rows ? 2 * z->cap_rows : 256;
        z->rows = mr_realloc(z->rows, (size_t)z->cap_rows * sizeof *z->rows);
    }
    z->rows[z->n_rows++] = mr_strdup(text ? text : "{}");
    cJSON_free(text);
    cJSON_Delete(made);
    return z->rows[z->n_rows - 1];
}

/* Takes the tree. */
static mr_status take_line(rescoring *z, cJSON *line, const char *place, mr_err *err) {
    const char *text, *prompt;
    int64_t step, index, n_tokens;
    bool truncated;
    mr_status st = mr_json_get_string(&text, line, "completion", place, err);
    if (st == MR_OK) st = mr_json_opt_string(&prompt, line, "prompt", "", place, err);
    if (st == MR_OK) st = mr_json_get_int(&step, line, "step", 0, INT64_MAX, place, err);
    if (st == MR_OK) st = mr_json_get_int(&index, line, "prompt_index", 0, INT32_MAX, place, err);
    if (st == MR_OK) st = mr_json_opt_int(&n_tokens, line, "tokens", 0, 0, INT32_MAX, place, err);
    if (st == MR_OK) st = mr_json_opt_bool(&truncated, line, "truncated", false, place, err);
    bool same_group = st == MR_OK && step == z->step && index == z->prompt;
    if (st == MR_OK && z->n_records >= CHUNK && !same_group) st = flush_chunk(z, err);
    if (st != MR_OK) {
        cJSON_Delete(line);
        return st;
    }
    z->step = step;
    z->prompt = index;
    if (z->n_records == z->cap_records) { /* a group larger than the chunk */
        z->cap_records = z->cap_records ? 2 * z->cap_records : CHUNK;
        z->records = mr_realloc(z->records, (size_t)z->cap_records * sizeof *z->records);
        z->scores =
            mr_realloc(z->scores, (size_t)z->cap_records * (size_t)(z->s->scorer.n_rewards + 1) * sizeof *z->scores);
    }
    record *r = &z->records[z->n_records];
    *r = (record){ line, row_of(z, line, same_group) };
    mr_score_job job = { .id = z->n_records++,
                         .text = text,
                         .len = strlen(text),
                         .row_json = r->row,
                         .prompt = prompt,
                         .n_tokens = (int)n_tokens,
                         .truncated = truncated,
                         .step = step,
                         .group = step * INT32_MAX + index,
                         .n_group = -1 };
    return z->s->scorer.submit(z->s->scorer.self, &job, err);
}

static mr_status read_samples(rescoring *z, mr_err *err) {
    FILE *f = fopen(z->path, "re");
    if (!f && errno == ENOENT)
        return mr_fail(err, MR_ENOTFOUND, "%s: holds no samples.jsonl, want the folder of a run", z->run);
    if (!f) return mr_fail_errno(err, "%s", z->path);
    char *text = NULL;
    size_t cap = 0;
    ssize_t n;
    mr_status st = MR_OK;
    for (int64_t number_ = 1; st == MR_OK && (n = getline(&text, &cap, f)) >= 0; number_++) {
        if (n > 0 && text[n - 1] != '\n') {
            mr_warn("%s: the last line is not whole and is left out", z->path);
            break;
        }
        char place[512];
        snprintf(place, sizeof place, "%.400s:%" PRId64, z->path, number_);
        cJSON *line;
        st = mr_json_parse(&line, text, (size_t)n, place, err);
        if (st == MR_OK) st = take_line(z, line, place, err);
    }
    if (st == MR_OK && ferror(f)) st = mr_fail_errno(err, "%s", z->path);
    if (st == MR_OK) st = flush_chunk(z, err);
    free(text);
    fclose(f);
    return st;
}

/* ---- what it says ---- */

static void add_number(cJSON *o, const char *key, double x) {
    if (isnan(x))
        cJSON_AddNullToObject(o, key);
    else
        cJSON_AddNumberToObject(o, key, x);
}

static double mean(double sum, int64_t n) {
    return n ? sum / (double)n : (double)NAN;
}

static void print_json(const rescoring *z) {
    const mr_scorer *sc = &z->s->scorer;
    cJSON *o = cJSON_CreateObject(), *list;
    cJSON_AddStringToObject(o, "run", z->run);
    cJSON_AddNumberToObject(o, "samples", (double)z->n_samples);
    list = cJSON_AddArrayToObject(o, "rewards");
    for (int r = 0; r < sc->n_rewards; r++) {
        const by_reward *b = &z->rewards[r];
        cJSON *one = cJSON_CreateObject();
        cJSON_AddStringToObject(one, "name", sc->names[r]);
        cJSON_AddNumberToObject(one, "weight", (double)sc->weights[r]);
        add_number(one, "old_mean", mean(b->old_sum, b->n_old));
        add_number(one, "new_mean", mean(b->new_sum, b->n_new));
        add_number(one, "correlation", correlation(&b->both));
        cJSON_AddNumberToObject(one, "changed", (double)b->changed);
        cJSON_AddNumberToObject(one, "abstained", (double)b->abstained);
        cJSON_AddNumberToObject(one, "faults", (double)b->faults);
        cJSON_AddItemToArray(list, one);
    }
    cJSON *total = cJSON_AddObjectToObject(o, "reward");
    add_number(total, "old_mean", z->total.n > 0 ? z->total.mean_x : (double)NAN);
    add_number(total, "new_mean", z->total.n > 0 ? z->total.mean_y : (double)NAN);
    add_number(total, "correlation", correlation(&z->total));
    list = cJSON_AddArrayToObject(o, "steps");
    for (int i = 0; i < z->n_steps; i++) {
        cJSON *one = cJSON_CreateObject();
        cJSON_AddNumberToObject(one, "step", (double)z->steps[i].step);
        add_number(one, "old", mean(z->steps[i].old_sum, z->steps[i].n_old));
        add_number(one, "new", mean(z->steps[i].new_sum, z->steps[i].n_new));
        cJSON_AddItemToArray(list, one);
    }
    list = cJSON_AddArrayToObject(o, "most_changed");
    for (int i = 0; i < z->n_top; i++) {
        const changed_row *c = &z->top[i];
        cJSON *one = cJSON_CreateObject();
        cJSON_AddNumberToObject(one, "step", (double)c->step);
        cJSON_AddNumberToObject(one, "prompt_index", (double)c->prompt);
        cJSON_AddNumberToObject(one, "sample", (double)c->sample);
        cJSON_AddNumberToObject(one, "old", c->old_value);
        cJSON_AddNumberToObject(one, "new", c->new_value);
        cJSON_AddStringToObject(one, "completion", c->text);
        if (c->answer) cJSON_AddStringToObject(one, "answer", c->answer);
        cJSON_AddItemToArray(list, one);
    }
    list = cJSON_AddArrayToObject(o, "faults");
    for (int i = 0; i < z->n_fault_lines; i++) cJSON_AddItemToArray(list, cJSON_CreateString(z->fault_lines[i]));
    mr_print_json(o);
    cJSON_Delete(o);
}

/* A number in a column of its own; "-" for none. */
static void put_cell(mr_str *s, double x, int width, const char *format) {
    char text[32] = "-";
    if (!isnan(x)) snprintf(text, sizeof text, format, x);
    mr_str_printf(s, "%*s", width, text);
}

static void print_table(const rescoring *z) {
    const mr_scorer *sc = &z->s->scorer;
    mr_str s = { 0 };
    int width = 8;
    for (int r = 0; r < sc->n_rewards; r++)
        if ((int)strlen(sc->names[r]) > width) width = (int)strlen(sc->names[r]);
    mr_str_printf(&s, "%-*s %9s %9s %12s %8s %9s %7s\n", width, "reward", "recorded", "new", "correlation", "changed",
                  "abstains", "faults");
    for (int r = 0; r < sc->n_rewards; r++) {
        const by_reward *b = &z->rewards[r];
        mr_str_printf(&s, "%-*s", width, sc->names[r]);
        put_cell(&s, mean(b->old_sum, b->n_old), 10, "%.4f");
        put_cell(&s, mean(b->new_sum, b->n_new), 10, "%.4f");
        put_cell(&s, correlation(&b->both), 13, "%.4f");
        put_cell(&s, b->recorded ? (double)b->changed : (double)NAN, 9, "%.0f");
        mr_str_printf(&s, "%10" PRId64 "%8" PRId64 "\n", b->abstained, b->faults);
    }
    mr_str_printf(&s, "%-*s", width, "total");
    put_cell(&s, z->total.n > 0 ? z->total.mean_x : (double)NAN, 10, "%.4f");
    put_cell(&s, z->total.n > 0 ? z->total.mean_y : (double)NAN, 10, "%.4f");
    put_cell(&s, correlation(&z->total), 13, "%.4f");
    mr_str_puts(&s, "\n");
    fputs(s.data, stdout);
    mr_str_clear(&s);
}

/* The steps' means in SPARKS cells, each the mean of its steps, between its own lowest and highest. */
static void print_curve(const rescoring *z, const char *label, bool new_one) {
    static const char *const bars[] = {
        "\u2581", "\u2582", "\u2583", "\u2584", "\u2585", "\u2586", "\u2587", "\u2588"
    };
    double x[SPARKS], low = HUGE_VAL, high = -HUGE_VAL;
    int n = z->n_steps < SPARKS ? z->n_steps : SPARKS;
    for (int i = 0; i < n; i++) {
        double sum = 0;
        int64_t count = 0;
        for (int k = (int)((int64_t)i * z->n_steps / n); k < (int)((int64_t)(i + 1) * z->n_steps / n); k++) {
            sum += new_one ? z->steps[k].new_sum : z->steps[k].old_sum;
            count += new_one ? z->steps[k].n_new : z->steps[k].n_old;
        }
        x[i] = mean(sum, count);
        if (isnan(x[i])) continue;
        low = fmin(low, x[i]);
        high = fmax(high, x[i]);
    }
    if (!(low <= high)) return;
    printf("%-9s ", label);
    for (int i = 0; i < n; i++)
        fputs(isnan(x[i]) ? " " : bars[high > low ? (int)((x[i] - low) / (high - low) * 7 + 0.5) : 3], stdout);
    printf("  %.3f to %.3f\n", x[0], x[n - 1]);
}

/* White space visible, the middle of a long text left out: its end has the answer. */
static void put_readable(mr_str *out, const char *text) {
    size_t len = strlen(text), head = len, tail = len;
    if (len > TEXT_SHOWN) {
        head = TEXT_SHOWN / 3;
        tail = len - (TEXT_SHOWN - head);
        while (head > 0 && ((unsigned char)text[head] & 0xC0) == 0x80) head--;
        while (tail < len && ((unsigned char)text[tail] & 0xC0) == 0x80) tail++;
    }
    for (size_t i = 0; i < len; i++) {
        if (i == head) {
            mr_str_puts(out, " \u2026 ");
            i = tail;
        }
        unsigned char c = (unsigned char)text[i];
        if (c == '\n')
            mr_str_puts(out, "\u23ce");
        else if (c == '\t')
            mr_str_puts(out, "\u21e5");
        else if (c < 0x20 || c == 0x7f)
            mr_str_puts(out, "\u00b7");
        else
            mr_str_add(out, text + i, 1);
    }
}

static void print_text(const rescoring *z) {
    printf("%s: %" PRId64 " completions of %d steps\n\n", z->run, z->n_samples, z->n_steps);
    print_table(z);
    for (int i = 0; i < z->n_fault_lines; i++) printf("fault: %s\n", z->fault_lines[i]);
    printf("\n");
    print_curve(z, "recorded", false);
    print_curve(z, "new", true);
    if (z->old_rows)
        printf("\nThis run recorded no columns: the rows have answer, source and db_set (the source) only.\n");
    if (!z->n_top) {
        printf("\nNo completion has another %s.\n", z->common ? "score" : "total");
        return;
    }
    printf("\n%d of the %" PRId64 " completions whose %s changed, largest first:\n", z->n_top, z->n_unlike,
           z->common ? "score" : "total");
    for (int i = 0; i < z->n_top; i++) {
        const changed_row *c = &z->top[i];
        mr_str s = { 0 };
        mr_str_printf(&s, "step %" PRId64 " prompt %" PRId64 " sample %" PRId64 ": %.4g -> %.4g", c->step, c->prompt,
                      c->sample, c->old_value, c->new_value);
        if (c->answer) mr_str_printf(&s, "   (answer: %.60s)", c->answer);
        mr_str_puts(&s, "\n    ");
        put_readable(&s, c->text);
        printf("%s\n", s.data);
        mr_str_clear(&s);
    }
}

/* Weights of the recorded rewards, from the run's settings. */
static void read_weights(rescoring *z) {
    char *path = mr_path_join(z->run, "config.json");
    cJSON *config = NULL;
    z->weights = cJSON_CreateObject();
    if (mr_json_load(&config, path, 64 << 20, NULL) == MR_OK) {
        const cJSON *item, *list = field(config, "rewards"); /* it is the resolved recipe */
        const cJSON *all = field(config, "reward_weights");
        if (!all) all = field(field(config, "grpo"), "reward_weights");
        int i = 0;
        cJSON_ArrayForEach(item, list) {
            const cJSON *name = cJSON_IsObject(item) ? field(item, "name") : item, *w = field(item, "weight");
            const cJSON *other = cJSON_GetArrayItem(all, i++);
            double weight = cJSON_IsNumber(w) ? w->valuedouble : cJSON_IsNumber(other) ? other->valuedouble : 1;
            if (cJSON_IsString(name)) cJSON_AddNumberToObject(z->weights, name->valuestring, weight);
        }
    }
    cJSON_Delete(config);
    mr_free(path);
}

mr_status mr_rescore(mr_scoring *s, const char *run, mr_err *err) {
    rescoring z = { .s = s, .run = run, .step = -1, .prompt = -1 };
    z.path = mr_path_join(run, "samples.jsonl");
    z.rewards = mr_alloc((size_t)(s->scorer.n_rewards + 1) * sizeof *z.rewards);
    z.faults = mr_alloc(MAX_FAULTS * sizeof *z.faults);
    z.top = mr_alloc((size_t)(s->n_top + 1) * sizeof *z.top);
    read_weights(&z);
    mr_status st = read_samples(&z, err);
    if (st == MR_OK && z.n_samples == 0) st = mr_fail(err, MR_EDATA, "%s: has no samples yet", z.path);
    if (st == MR_OK && s->json) print_json(&z);
    if (st == MR_OK && !s->json) print_text(&z);
    for (int i = 0; i < z.n_records; i++) cJSON_Delete(z.records[i].line);
    for (int i = 0; i < z.n_rows; i++) mr_free(z.rows[i]);
    for (int i = 0; i < z.n_top; i++) {
        mr_free(z.top[i].text);
        mr_free(z.top[i].answer);
    }
    for (int i = 0; i < z.n_fault_lines; i++) mr_free(z.fault_lines[i]);
    cJSON_Delete(z.weights);
    mr_free(z.records);
    mr_free(z.scores);
    mr_free(z.faults);
    mr_free(z.rows);
    mr_free(z.steps);
    mr_free(z.top);
    mr_free(z.rewards);
    mr_free(z.path);
    return st;
}
