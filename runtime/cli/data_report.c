/* data_report.c - the summary of `medrl data`: lengths of prompts, answers, what was dropped, rows that train and eval
 * share.
 *
 * Every row is made once, in the data worker, for answers and overlap (up to LOOKED_AT rows and LOOK_S seconds a
 * split); what it costs here is eight bytes a row. Prompts are tokenized for COUNTED rows, spread evenly. Where either
 * is not all rows, the summary says so. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/data_impl.h"
#include "record/run.h"

enum { COUNTED = 2000, LOOKED_AT = 2000000, LOOK_S = 30, SHOWN_PAIRS = 5, MAX_BINS = 12, LABEL = 9 };

typedef struct lengths {
    int *tokens; /* [n], sorted */
    int n, over, limit;
    double mean;
    int bin, first_bin, n_bins, bins[MAX_BINS + 1]; /* bin b holds (first_bin + b) * bin and up */
} lengths;

typedef struct key_at {
    uint64_t key;
    int64_t row;
} key_at;

/* A row of eval whose question is that of a row of train. */
typedef struct pair {
    int64_t train, eval;
    char *train_place, *eval_place, *question;
} pair;

typedef struct report {
    mr_looking *l;
    lengths lengths;
    mr_survey train, eval;
    int64_t n_train, n_eval; /* rows of the splits */
    int64_t different;       /* questions of the split that is shown */
    int64_t shared;          /* rows of eval whose question stands in train */
    pair pairs[SHOWN_PAIRS];
    int n_pairs;
    char no_overlap[1024]; /* why there is none to speak of */
} report;

/* ---- lengths ---- */

static int by_value(const void *a, const void *b) {
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

/* Bins of a power of two, so that their borders are those of people who size models. */
static void fill_bins(lengths *c) {
    int least = c->tokens[0], most = c->tokens[c->n - 1];
    for (c->bin = 8; most / c->bin - least / c->bin >= MAX_BINS; c->bin *= 2) {
    }
    c->first_bin = least / c->bin;
    c->n_bins = most / c->bin - c->first_bin + 1;
    for (int i = 0; i < c->n; i++) c->bins[c->tokens[i] / c->bin - c->first_bin]++;
}

/* Rows that cannot be made are left out here: the survey names them. */
static mr_status count_tokens(report *r, mr_err *err) {
    mr_looking *l = r->l;
    lengths *c = &r->lengths;
    const int64_t n_rows = l->rows.n_rows, n = n_rows < COUNTED ? n_rows : COUNTED;
    double sum = 0;
    c->limit = l->settings.train.max_prompt_length;
    if (l->no_tokens[0]) return MR_OK;
    c->tokens = mr_alloc((size_t)n * sizeof *c->tokens);
    for (int64_t i = 0; i < n; i++) {
        mr_row row = { 0 };
        mr_ids ids = { 0 };
        mr_err why;
        if (l->rows.get(l->rows.self, i * n_rows / n, &row, &why) != MR_OK) continue;
        mr_status st = mr_data_encode(l, &row, &ids, err);
        mr_row_clear(&row);
        mr_free(ids.data);
        MR_TRY(st);
        c->tokens[c->n++] = ids.n;
        sum += ids.n;
        c->over += c->limit > 0 && ids.n > c->limit;
    }
    if (c->n == 0) return MR_OK;
    c->mean = sum / c->n;
    qsort(c->tokens, (size_t)c->n, sizeof *c->tokens, by_value);
    fill_bins(c);
    return MR_OK;
}

/* ---- overlap ---- */

static int by_key(const void *a, const void *b) {
    const key_at *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

static mr_status sort_keys(key_at **out, const mr_survey *s, mr_err *err) {
    *out = mr_try_alloc((size_t)(s->n + 1) * sizeof **out);
    if (!*out) return mr_fail(err, MR_ENOMEM, "no memory for the keys of %lld rows", (long long)s->n);
    for (int64_t i = 0; i < s->n; i++) (*out)[i] = (key_at){ s->keys[i], i };
    qsort(*out, (size_t)s->n, sizeof **out, by_key);
    return MR_OK;
}

/* The first row of train with this key; -1: none. */
static int64_t find_key(const key_at *keys, int64_t n, uint64_t key) {
    int64_t lo = 0, hi = n;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (keys[mid].key < key)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && keys[lo].key == key ? keys[lo].row : -1;
}

static const char *last_question(const mr_row *row) {
    for (int i = row->n_messages - 1; i >= 0; i--)
        if (strcmp(row->messages[i].role, "user") == 0) return row->messages[i].content;
    return "";
}

/* Rows of a set often begin with the same words: of a question, what differs from the row's neighbor, in one line. */
static char *telling_part(report *r, const mr_row *row, int64_t index) {
    enum { SHOWN = 60 };
    const char *text = last_question(row), *at = text;
    mr_row_source rows;
    mr_row other = { 0 };
    mr_err err;
    if (mr_pool_rows(r->l->pool, "eval", &rows, &err) == MR_OK && rows.n_rows > 1 &&
        rows.get(rows.self, (index + 1) % rows.n_rows, &other, &err) == MR_OK) {
        const char *with = last_question(&other);
        while (*at && *at == *with) at++, with++;
    }
    mr_row_clear(&other);
    if (!*at) at = text;
    while (at > text && at[-1] != ' ' && at[-1] != '\n') at--;
    mr_str s = { 0 };
    mr_str_puts(&s, at > text ? "... " : "");
    bool gap = false;
    for (; *at && s.len < SHOWN; at++) {
        if (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r') {
            gap = true;
            continue;
        }
        if (gap && s.len && s.data[s.len - 1] != ' ') mr_str_puts(&s, " ");
        gap = false;
        mr_str_add(&s, at, 1);
    }
    for (; ((unsigned char)*at & 0xc0) == 0x80; at++) mr_str_add(&s, at, 1); /* the rest of a character */
    if (*at) mr_str_puts(&s, " ...");
    return mr_str_steal(&s);
}

/* Where the two rows of a pair are from, and what they ask. */
static void describe_pair(report *r, pair *p) {
    static const char *const splits[2] = { "train", "eval" };
    for (int k = 0; k < 2; k++) {
        mr_row_source rows;
        mr_row row = { 0 };
        mr_err err;
        char **place = k == 0 ? &p->train_place : &p->eval_place;
        const int64_t index = k == 0 ? p->train : p->eval;
        if (mr_pool_rows(r->l->pool, splits[k], &rows, &err) == MR_OK &&
            rows.get(rows.self, index, &row, &err) == MR_OK) {
            *place = mr_strdup(row.place ? row.place : "");
            if (k == 1) p->question = telling_part(r, &row, index);
        } else {
            *place = mr_strdup("");
        }
        mr_row_clear(&row);
    }
    if (!p->question) p->question = mr_strdup("");
}

static mr_status compare_splits(report *r, mr_err *err) {
    key_at *keys;
    MR_TRY(sort_keys(&keys, &r->train, err));
    for (int64_t i = 0; i < r->eval.n; i++) {
        const int64_t row = r->eval.keys[i] ? find_key(keys, r->train.n, r->eval.keys[i]) : -1;
        if (row < 0) continue;
        r->shared++;
        if (r->n_pairs < SHOWN_PAIRS) r->pairs[r->n_pairs++] = (pair){ .train = row, .eval = i };
    }
    mr_free(keys);
    for (int i = 0; i < r->n_pairs; i++) describe_pair(r, &r->pairs[i]);
    return MR_OK;
}

static const mr_survey *shown_survey(const report *r) {
    return strcmp(r->l->split, "eval") == 0 ? &r->eval : &r->train;
}

/* Looks at both splits. That the other one does not open is no reason to say nothing about this one. */
static mr_status look_at_rows(report *r, mr_err *err) {
    const bool shows_eval = strcmp(r->l->split, "eval") == 0;
    mr_survey *own = shows_eval ? &r->eval : &r->train, *other = shows_eval ? &r->train : &r->eval;
    const char *other_name = shows_eval ? "train" : "eval";
    mr_row_source rows;
    mr_err why = { .msg = "" };
    MR_TRY(mr_pool_survey(r->l->pool, r->l->split, LOOKED_AT, LOOK_S, own, err));
    *(shows_eval ? &r->n_eval : &r->n_train) = r->l->rows.n_rows;
    key_at *keys;
    MR_TRY(sort_keys(&keys, own, err));
    for (int64_t i = 0; i < own->n; i++) r->different += keys[i].key != 0 && (i == 0 || keys[i].key != keys[i - 1].key);
    mr_free(keys);
    mr_status st = mr_pool_rows(r->l->pool, other_name, &rows, &why);
    *(shows_eval ? &r->n_train : &r->n_eval) = rows.n_rows;
    if (st == MR_OK && rows.n_rows == 0)
        snprintf(r->no_overlap, sizeof r->no_overlap, "the recipe has no data.%s", other_name);
    if (st == MR_OK && rows.n_rows > 0) st = mr_pool_survey(r->l->pool, other_name, LOOKED_AT, LOOK_S, other, &why);
    if (st != MR_OK)
        snprintf(r->no_overlap, sizeof r->no_overlap, "data.%s does not open: %.900s", other_name, why.msg);
    return r->no_overlap[0] ? MR_OK : compare_splits(r, err);
}

/* ---- answers ---- */

typedef struct tally {
    const char *name;
    double rows;
    const cJSON *answers; /* of a source */
} tally;

/* Most first, then by name; what is counted together comes last. */
static int by_rows(const void *a, const void *b) {
    const tally *x = a, *y = b;
    const int other = (strcmp(x->name, MR_OTHER_ANSWERS) == 0) - (strcmp(y->name, MR_OTHER_ANSWERS) == 0);
    if (other) return other;
    if (x->rows != y->rows) return x->rows > y->rows ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* The fields of an object as a sorted list, from mr_alloc. A field that is an object counts for the sum of its own. */
static tally *tallies(const cJSON *object, int *n) {
    *n = cJSON_GetArraySize(object);
    tally *list = mr_alloc((size_t)(*n + 1) * sizeof *list);
    tally *at = list;
    for (const cJSON *c = object->child; c; c = c->next, at++) {
        at->name = c->string;
        at->rows = cJSON_IsNumber(c) ? c->valuedouble : 0;
        at->answers = c;
        for (const cJSON *inner = c->child; inner; inner = inner->next) at->rows += inner->valuedouble;
    }
    qsort(list, (size_t)*n, sizeof *list, by_rows);
    return list;
}

/* ---- for people ---- */

/* A line with its label, wrapped to the terminal. */
static void say(const report *r, const char *label, const char *text) {
    mr_str line = { 0 }, wrapped = { 0 };
    mr_str_printf(&line, "%-*s", LABEL, label);
    for (const char *c = text; *c; c++) { /* a row's text does not draw on the terminal, nor break the line */
        const bool control = (unsigned char)*c < 0x20 || *c == 0x7f;
        mr_str_add(&line, control ? " " : c, 1);
    }
    mr_progress_wrap(&wrapped, line.data, LABEL, r->l->terminal ? r->l->columns : 0);
    printf("%s\n", wrapped.data ? wrapped.data : "");
    mr_str_clear(&line);
    mr_str_clear(&wrapped);
}

__attribute__((format(printf, 3, 4))) static void sayf(const report *r, const char *label, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    char *text = NULL;
    if (vasprintf(&text, fmt, args) < 0) text = NULL;
    va_end(args);
    say(r, label, text ? text : "");
    free(text);
}

static void say_rows(const report *r) {
    const mr_survey *s = shown_survey(r);
    mr_str text = { 0 };
    mr_str_printf(&text, "%lld rows of data.%s", (long long)r->l->rows.n_rows, r->l->split);
    if (s->n < r->l->rows.n_rows) mr_str_printf(&text, " (the first %lld were looked at)", (long long)s->n);
    mr_str_printf(&text, ", %lld different questions", (long long)r->different);
    say(r, "rows", text.data);
    mr_str_clear(&text);
    if (s->n_failed) sayf(r, "", "%lld rows cannot be made; the first: %s", (long long)s->n_failed, s->first_failure);
}

static void say_tokens(const report *r) {
    const lengths *c = &r->lengths;
    if (r->l->no_tokens[0]) {
        sayf(r, "tokens", "not counted: %s", r->l->no_tokens);
        return;
    }
    if (c->n == 0) return;
    sayf(r, "tokens", "of a prompt: least %d, median %d, mean %.0f, 95 of 100 up to %d, most %d", c->tokens[0],
         c->tokens[c->n / 2], c->mean, c->tokens[(c->n * 95 + 99) / 100 - 1], c->tokens[c->n - 1]);
    if (c->n < r->l->rows.n_rows) sayf(r, "", "counted over %d rows, spread evenly over all", c->n);
    int most = 1;
    for (int b = 0; b < c->n_bins; b++) most = c->bins[b] > most ? c->bins[b] : most;
    enum { BEFORE_BAR = LABEL + 16, BEHIND_BAR = 8 };
    int room = r->l->columns - BEFORE_BAR - BEHIND_BAR;
    room = room < 8 ? 8 : room > 60 ? 60 : room;
    for (int b = 0; b < c->n_bins; b++) {
        const int low = (c->first_bin + b) * c->bin;
        char bar[64];
        int len = c->bins[b] ? (int)((double)c->bins[b] * room / most + 0.5) : 0;
        if (c->bins[b] && len == 0) len = 1;
        memset(bar, '#', (size_t)len);
        bar[len] = '\0';
        const bool over = c->limit > 0 && low > c->limit; /* all of it is beyond the limit */
        printf("%*s%6d to %-5d %s%s%s %d\n", LABEL, "", low, low + c->bin - 1, over && r->l->color ? "\x1b[33m" : "",
               bar, over && r->l->color ? "\x1b[0m" : "", c->bins[b]);
    }
    if (c->limit > 0) sayf(r, "", "%d of %d are longer than max_prompt_length (%d)", c->over, c->n, c->limit);
}

static void say_answers(const report *r) {
    enum { SHOWN = 6 };
    int n_sources;
    tally *sources = tallies(shown_survey(r)->answers, &n_sources);
    for (int i = 0; i < n_sources; i++) {
        int n;
        tally *answers = tallies(sources[i].answers, &n);
        mr_str text = { 0 };
        const bool other = n > 0 && strcmp(answers[n - 1].name, MR_OTHER_ANSWERS) == 0;
        mr_str_printf(&text, "%s %.0f rows:", sources[i].name[0] ? sources[i].name : "(no source)", sources[i].rows);
        for (int k = 0; k < n && k < SHOWN; k++)
            mr_str_printf(&text, "%s %s (%.0f)", k ? "," : "", answers[k].name[0] ? answers[k].name : "(empty)",
                          answers[k].rows);
        if (n > SHOWN) mr_str_printf(&text, " and %s%d other answers", other ? "more than " : "", n - SHOWN - other);
        say(r, i ? "" : "answers", text.data);
        mr_str_clear(&text);
        mr_free(answers);
    }
    mr_free(sources);
}

static void say_dropped(const report *r, const char *lines) {
    const char *label = "files";
    for (const char *at = lines; *at;) {
        const size_t len = strcspn(at, "\n");
        char *line = mr_strndup(at, len);
        say(r, label, line);
        label = "";
        mr_free(line);
        at += len + (at[len] == '\n');
    }
}

static void say_overlap(const report *r) {
    if (r->no_overlap[0]) {
        sayf(r, "overlap", "of train and eval: not looked at: %s", r->no_overlap);
        return;
    }
    mr_str text = { 0 };
    mr_str_printf(&text, "%lld of %lld rows of eval ask what a row of train asks", (long long)r->shared,
                  (long long)r->eval.n);
    if (r->train.n < r->n_train || r->eval.n < r->n_eval)
        mr_str_printf(&text, " (the first %lld of %lld rows of train and %lld of %lld of eval were compared)",
                      (long long)r->train.n, (long long)r->n_train, (long long)r->eval.n, (long long)r->n_eval);
    say(r, "overlap", text.data);
    mr_str_clear(&text);
    for (int i = 0; i < r->n_pairs; i++) {
        const pair *p = &r->pairs[i];
        sayf(r, "", "eval row %lld (%s) = train row %lld (%s): %s", (long long)p->eval + 1, p->eval_place,
             (long long)p->train + 1, p->train_place, p->question);
    }
}

/* ---- for programs ---- */

static cJSON *tokens_json(const report *r) {
    const lengths *c = &r->lengths;
    if (r->l->no_tokens[0] || c->n == 0) return cJSON_CreateNull();
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "counted", c->n);
    cJSON_AddNumberToObject(o, "least", c->tokens[0]);
    cJSON_AddNumberToObject(o, "median", c->tokens[c->n / 2]);
    cJSON_AddNumberToObject(o, "mean", c->mean);
    cJSON_AddNumberToObject(o, "p95", c->tokens[(c->n * 95 + 99) / 100 - 1]);
    cJSON_AddNumberToObject(o, "most", c->tokens[c->n - 1]);
    cJSON_AddNumberToObject(o, "max_prompt_length", c->limit);
    cJSON_AddNumberToObject(o, "over", c->over);
    cJSON *bins = cJSON_AddArrayToObject(o, "histogram");
    for (int b = 0; b < c->n_bins; b++) {
        cJSON *bin = cJSON_CreateObject();
        cJSON_AddNumberToObject(bin, "from", (c->first_bin + b) * c->bin);
        cJSON_AddNumberToObject(bin, "to", (c->first_bin + b + 1) * c->bin - 1);
        cJSON_AddNumberToObject(bin, "rows", c->bins[b]);
        cJSON_AddItemToArray(bins, bin);
    }
    return o;
}

static cJSON *sources_json(const report *r) {
    cJSON *list = cJSON_CreateArray();
    int n_sources;
    tally *sources = tallies(shown_survey(r)->answers, &n_sources);
    for (int i = 0; i < n_sources; i++) {
        int n;
        tally *answers = tallies(sources[i].answers, &n);
        cJSON *o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "source", sources[i].name);
        cJSON_AddNumberToObject(o, "rows", sources[i].rows);
        cJSON *all = cJSON_AddArrayToObject(o, "answers");
        for (int k = 0; k < n; k++) {
            cJSON *one = cJSON_CreateObject();
            cJSON_AddStringToObject(one, "answer", answers[k].name);
            cJSON_AddNumberToObject(one, "rows", answers[k].rows);
            cJSON_AddItemToArray(all, one);
        }
        cJSON_AddItemToArray(list, o);
        mr_free(answers);
    }
    mr_free(sources);
    return list;
}

static cJSON *row_ref(int64_t row, const char *place) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "row", (double)row + 1);
    cJSON_AddStringToObject(o, "place", place);
    return o;
}

static cJSON *overlap_json(const report *r) {
    if (r->no_overlap[0]) return cJSON_CreateNull();
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "train_rows", (double)r->train.n);
    cJSON_AddNumberToObject(o, "eval_rows", (double)r->eval.n);
    cJSON_AddNumberToObject(o, "eval_rows_in_train", (double)r->shared);
    cJSON *first = cJSON_AddArrayToObject(o, "first");
    for (int i = 0; i < r->n_pairs; i++) {
        const pair *p = &r->pairs[i];
        cJSON *one = cJSON_CreateObject();
        cJSON_AddItemToObject(one, "eval", row_ref(p->eval, p->eval_place));
        cJSON_AddItemToObject(one, "train", row_ref(p->train, p->train_place));
        cJSON_AddStringToObject(one, "question", p->question);
        cJSON_AddItemToArray(first, one);
    }
    return o;
}

static mr_status print_json(const report *r, mr_err *err) {
    const mr_survey *s = shown_survey(r);
    cJSON *counts;
    MR_TRY(mr_pool_data_counts(r->l->pool, r->l->split, &counts, err));
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "type", "summary");
    cJSON_AddStringToObject(o, "recipe", mr_pool_recipe_path(r->l->pool));
    cJSON_AddStringToObject(o, "split", r->l->split);
    cJSON_AddNumberToObject(o, "rows", (double)r->l->rows.n_rows);
    cJSON_AddNumberToObject(o, "rows_looked_at", (double)s->n);
    cJSON_AddNumberToObject(o, "different_questions", (double)r->different);
    cJSON_AddNumberToObject(o, "failed", (double)s->n_failed);
    cJSON_AddStringToObject(o, "first_failure", s->first_failure);
    cJSON_AddItemToObject(o, "tokens", tokens_json(r));
    cJSON_AddStringToObject(o, "tokens_missing", r->l->no_tokens);
    cJSON_AddItemToObject(o, "sources", sources_json(r));
    cJSON_AddItemToObject(o, "data_sets", counts);
    cJSON_AddItemToObject(o, "overlap", overlap_json(r));
    cJSON_AddStringToObject(o, "overlap_missing", r->no_overlap);
    mr_print_json(o);
    cJSON_Delete(o);
    return MR_OK;
}

static mr_status print_report(const report *r, mr_err *err) {
    mr_str dropped = { 0 };
    MR_TRY(mr_pool_data_report(r->l->pool, r->l->split, &dropped, err));
    say_rows(r);
    say_tokens(r);
    say_answers(r);
    say_dropped(r, dropped.data ? dropped.data : "");
    say_overlap(r);
    mr_str_clear(&dropped);
    return MR_OK;
}

mr_status mr_data_report(mr_looking *l, mr_err *err) {
    report r = { .l = l };
    mr_log_status("counting tokens");
    mr_status st = count_tokens(&r, err);
    mr_log_status("looking at all rows of train and eval");
    if (st == MR_OK) st = look_at_rows(&r, err);
    mr_log_status(NULL);
    if (st == MR_OK) st = l->json ? print_json(&r, err) : print_report(&r, err);
    fflush(stdout);
    const mr_survey *s = shown_survey(&r);
    if (st == MR_OK && s->n_failed)
        st = mr_fail(err, MR_EDATA, "%s: data.%s: %lld rows cannot be made; the first: %.600s",
                     mr_pool_recipe_path(l->pool), l->split, (long long)s->n_failed, s->first_failure);
    mr_free(r.lengths.tokens);
    mr_survey_clear(&r.train);
    mr_survey_clear(&r.eval);
    for (int i = 0; i < r.n_pairs; i++) {
        mr_free(r.pairs[i].train_place);
        mr_free(r.pairs[i].eval_place);
        mr_free(r.pairs[i].question);
    }
    return st;
}
