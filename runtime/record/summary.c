/* summary.c - what a run taught, read back from its own record: rewards at both ends, format and exactness apart, and
 * the answers.
 *
 * The numbers come from metrics.jsonl and samples.jsonl, so a resumed run is summed up whole. A model that learns to
 * give one answer to every
 * question of a set has learned the format; the summary says so. */
#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "files/rows.h"
#include "record/record_impl.h"
#include "rl/metrics.h"

enum {
    ends = 3,
    answer_steps = 5,
    max_sources = 32,
    max_answers = 512,
    max_rewards = 64,
    shown_answers = 5,
    answer_cells = 32,
    enough_answers = 5
};

const char *mr_answer_in(const char *text, size_t *len) {
    const char *found = NULL;
    for (const char *p = text; (p = strstr(p, "<answer>")) != NULL; p += 8) found = p + 8;
    const char *close = found ? strstr(found, "</answer>") : NULL;
    if (!close) return NULL;
    while (found < close && isspace((unsigned char)*found)) found++;
    while (close > found && isspace((unsigned char)close[-1])) close--;
    *len = (size_t)(close - found);
    return found;
}

/* ---- means at both ends ---- */

typedef struct mean {
    double sum;
    int n;
} mean;

static void add_to(mean *m, const cJSON *v) {
    if (!cJSON_IsNumber(v)) return;
    m->sum += v->valuedouble;
    m->n++;
}

static double mean_of(mean m) {
    return m.n ? m.sum / m.n : (double)NAN;
}

typedef struct reward_means {
    char name[64];
    mean first, last;
} reward_means;

typedef struct metrics_summary {
    int64_t n_steps, first_step, last_step; /* the steps of the record */
    int64_t first_end, last_begin;          /* the last of the first three, the first of the last three */
    mean reward[2], loss[2];
    reward_means rewards[max_rewards];
    int n_rewards;
} metrics_summary;

static reward_means *reward_of(metrics_summary *s, const char *key) {
    const size_t n = strlen(key);
    if (strncmp(key, "rewards/", 8) || n < 14 || strcmp(key + n - 5, "/mean") || n - 13 >= sizeof s->rewards[0].name)
        return NULL;
    for (int i = 0; i < s->n_rewards; i++)
        if (strlen(s->rewards[i].name) == n - 13 && !memcmp(s->rewards[i].name, key + 8, n - 13)) return &s->rewards[i];
    if (s->n_rewards == max_rewards) return NULL;
    memcpy(s->rewards[s->n_rewards].name, key + 8, n - 13);
    return &s->rewards[s->n_rewards++];
}

static void add_metrics(metrics_summary *s, const cJSON *row, int end) {
    add_to(&s->reward[end], cJSON_GetObjectItemCaseSensitive(row, MR_M_REWARD));
    add_to(&s->loss[end], cJSON_GetObjectItemCaseSensitive(row, MR_M_LOSS));
    for (const cJSON *v = row->child; v; v = v->next) {
        reward_means *m = v->string ? reward_of(s, v->string) : NULL;
        if (m) add_to(end ? &m->last : &m->first, v);
    }
}

static int64_t step_of(const cJSON *row) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(row, "step");
    return cJSON_IsNumber(v) ? (int64_t)v->valuedouble : 0;
}

static void read_metrics(metrics_summary *s, const char *path) {
    mr_rows *rows = NULL;
    if (mr_rows_open(&rows, path, NULL) != MR_OK) return;
    const int64_t n = mr_rows_count(rows);
    for (int64_t i = 0; i < n; i++) {
        if (i >= ends && i < n - ends) {
            i = n - ends - 1; /* what is between the ends is not looked at */
            continue;
        }
        cJSON *row = NULL;
        if (mr_rows_get(rows, i, &row, NULL) != MR_OK) continue;
        const int64_t step = step_of(row);
        if (i < ends) add_metrics(s, row, 0), s->first_end = step;
        if (i >= n - ends) add_metrics(s, row, 1);
        if (i == n - ends || (i == 0 && n < ends)) s->last_begin = step;
        if (i == 0) s->first_step = step;
        s->last_step = step;
        cJSON_Delete(row);
    }
    s->n_steps = n;
    mr_rows_close(rows);
}

/* ---- answers ---- */

typedef struct answers {
    char source[64];
    int n_completions, n_answers;
    int n_yes_no, n_letters, n_references; /* reference answers by kind */
    int n_distinct, count[max_answers];
    char *text[max_answers];
} answers;

typedef struct samples_summary {
    int judged[2], exact[2]; /* at both ends */
    answers *sources;
    int n_sources;
} samples_summary;

/* Answers are counted as rewards compare them: without case, cut to what a line holds. */
static char *normal_answer(const char *text, size_t len) {
    mr_str s = { 0 };
    int cells = 0;
    for (size_t i = 0; i < len; i++) {
        const unsigned char c = (unsigned char)text[i];
        if ((c & 0xc0) != 0x80 && cells++ == answer_cells) {
            mr_str_puts(&s, "...");
            break;
        }
        if (c == 0xc2 && i + 1 < len && (unsigned char)text[i + 1] < 0xa0) { /* a control character of two bytes */
            i++;
            mr_str_puts(&s, "?");
            continue;
        }
        const char plain = (char)(c < 0x20 || c == 0x7f ? ' ' : c);
        mr_str_add(&s, &plain, 1);
    }
    if (s.len == 0) mr_str_puts(&s, "(empty)");
    return mr_str_steal(&s);
}

static bool is_yes_no(const char *s) {
    return !strcasecmp(s, "yes") || !strcasecmp(s, "no") || !strcasecmp(s, "maybe");
}

static bool is_letter(const char *s) {
    return s[0] && !s[1] && strchr("ABCDabcd", s[0]);
}

static answers *answers_of(samples_summary *s, const char *source) {
    for (int i = 0; i < s->n_sources; i++)
        if (!strncmp(s->sources[i].source, source, sizeof s->sources[i].source - 1)) return &s->sources[i];
    if (s->n_sources == max_sources) return NULL;
    answers *a = &s->sources[s->n_sources++];
    strncpy(a->source, source, sizeof a->source - 1);
    return a;
}

static void count_answer(answers *a, const char *completion, const cJSON *reference) {
    size_t len;
    const char *said = mr_answer_in(completion, &len);
    a->n_completions++;
    if (cJSON_IsString(reference)) {
        a->n_references++;
        a->n_yes_no += is_yes_no(reference->valuestring);
        a->n_letters += is_letter(reference->valuestring);
    }
    if (!said) return;
    a->n_answers++;
    char *text = normal_answer(said, len);
    int i = 0;
    while (i < a->n_distinct && strcasecmp(a->text[i], text)) i++;
    if (i < a->n_distinct) {
        a->count[i]++;
        mr_free(text);
    } else if (i < max_answers) {
        a->text[i] = text;
        a->count[i] = 1;
        a->n_distinct++;
    } else {
        mr_free(text);
    }
}

static void add_sample(samples_summary *s, const cJSON *row, const metrics_summary *m) {
    const int64_t step = step_of(row);
    bool judged = false, exact = false;
    const cJSON *rewards = cJSON_GetObjectItemCaseSensitive(row, "rewards");
    for (const cJSON *v = rewards ? rewards->child : NULL; v; v = v->next) {
        if (!v->string || !mr_is_correctness(v->string) || !cJSON_IsNumber(v)) continue;
        judged = true;
        exact |= v->valuedouble == 2.0;
    }
    for (int end = 0; end < 2; end++) {
        if (end == 0 ? step > m->first_end : step < m->last_begin) continue;
        s->judged[end] += judged;
        s->exact[end] += exact;
    }
    if (step <= m->last_step - answer_steps) return;
    const cJSON *source = cJSON_GetObjectItemCaseSensitive(row, "source"),
                *completion = cJSON_GetObjectItemCaseSensitive(row, "completion");
    answers *a = answers_of(s, cJSON_IsString(source) ? source->valuestring : "");
    if (a && cJSON_IsString(completion))
        count_answer(a, completion->valuestring, cJSON_GetObjectItemCaseSensitive(row, "answer"));
}

/* Only rows at the ends are parsed: samples come in the order of their steps, so the middle is skipped by halving. */
static int64_t first_row_of(const mr_rows *rows, int64_t step) {
    int64_t low = 0, high = mr_rows_count(rows);
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        cJSON *row = NULL;
        const bool before = mr_rows_get(rows, middle, &row, NULL) == MR_OK && step_of(row) < step;
        cJSON_Delete(row);
        if (before)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void read_samples(samples_summary *s, const char *path, const metrics_summary *m) {
    mr_rows *rows = NULL;
    if (mr_rows_open(&rows, path, NULL) != MR_OK) return;
    const int64_t n = mr_rows_count(rows);
    const int64_t from =
        m->last_begin < m->last_step - answer_steps + 1 ? m->last_begin : m->last_step - answer_steps + 1;
    const int64_t front = first_row_of(rows, m->first_end + 1), back = first_row_of(rows, from);
    for (int64_t i = 0; i < n; i++) {
        if (i >= front && i < back) {
            i = back - 1;
            continue;
        }
        cJSON *row = NULL;
        if (mr_rows_get(rows, i, &row, NULL) == MR_OK) add_sample(s, row, m);
        cJSON_Delete(row);
    }
    mr_rows_close(rows);
}

/* ---- text ---- */

static void put_percent(mr_str *out, int part, int whole) {
    mr_str_printf(out, "%.0f %%", 100.0 * part / (whole ? whole : 1));
}

static void put_answers(mr_str *out, answers *a) {
    mr_str_printf(out, "  %-14s ", *a->source ? a->source : "(no name)");
    for (int i = 0; i < a->n_distinct && i < shown_answers;
         i++) { /* the most frequent first; ties in order of appearance */
        int best = i;
        for (int k = i + 1; k < a->n_distinct; k++)
            if (a->count[k] > a->count[best]) best = k;
        const int count = a->count[best];
        char *text = a->text[best];
        for (int k = best; k > i; k--) {
            a->count[k] = a->count[k - 1];
            a->text[k] = a->text[k - 1];
        }
        a->count[i] = count;
        a->text[i] = text;
        mr_str_printf(out, "%s%s ", i ? ", " : "", text);
        put_percent(out, count, a->n_answers);
    }
    if (a->n_distinct > shown_answers) mr_str_printf(out, ", %d others", a->n_distinct - shown_answers);
    mr_str_printf(out, "%s(%d completions, %d without an answer)\n", a->n_distinct ? "  " : "", a->n_completions,
                  a->n_completions - a->n_answers);
    if (a->n_answers < enough_answers || a->count[0] * 5 <= a->n_answers * 4) return;
    const bool closed = a->n_references ? a->n_yes_no == a->n_references || a->n_letters == a->n_references
                                        : is_yes_no(a->text[0]) || is_letter(a->text[0]);
    if (!closed) return;
    mr_str_puts(out, "                 ");
    put_percent(out, a->count[0], a->n_answers);
    mr_str_printf(out, " of the answers are \"%s\": a constant answer shows the format, not knowledge.\n", a->text[0]);
}

/* The first three steps and the last three share some: then the last ones are all there is to say. */
static bool is_short(const metrics_summary *m) {
    return m->last_begin <= m->first_end;
}

static void put_numbers(mr_str *out, const metrics_summary *m, double first, double last) {
    if (!isfinite(first) || !isfinite(last))
        mr_str_puts(out, "-");
    else if (is_short(m))
        mr_str_printf(out, "%.2f", last);
    else
        mr_str_printf(out, "%.2f -> %.2f", first, last);
}

static void put_change(mr_str *out, const metrics_summary *m, const char *label, double first, double last) {
    mr_str_printf(out, "%-8s ", label);
    put_numbers(out, m, first, last);
}

static void put_steps(mr_str *out, const metrics_summary *m) {
    mr_str_puts(out, "   mean of steps ");
    if (!is_short(m)) mr_str_printf(out, "%" PRId64 " to %" PRId64 " and ", m->first_step, m->first_end);
    mr_str_printf(out, "%" PRId64 " to %" PRId64 "\n", m->last_begin, m->last_step);
}

static void put_rewards(mr_str *out, const metrics_summary *m, const samples_summary *s) {
    double sum[2] = { 0, 0 };
    bool any = false;
    put_change(out, m, "reward", mean_of(m->reward[0]), mean_of(m->reward[1]));
    put_steps(out, m);
    for (int i = 0; i < m->n_rewards; i++) {
        const double first = mean_of(m->rewards[i].first), last = mean_of(m->rewards[i].last);
        if (mr_is_correctness(m->rewards[i].name) || !isfinite(first) || !isfinite(last)) continue;
        sum[0] += first;
        sum[1] += last;
        any = true;
    }
    if (any) {
        put_change(out, m, "format", sum[0], sum[1]);
        mr_str_puts(out, "   ");
        bool comma = false;
        for (int i = 0; i < m->n_rewards; i++) {
            if (mr_is_correctness(m->rewards[i].name)) continue;
            mr_str_printf(out, "%s%s ", comma ? ", " : "", m->rewards[i].name);
            comma = true;
            put_numbers(out, m, mean_of(m->rewards[i].first), mean_of(m->rewards[i].last));
        }
        mr_str_puts(out, "\n");
    }
    if (s->judged[0] && s->judged[1]) {
        mr_str_puts(out, "exact    ");
        if (!is_short(m)) {
            put_percent(out, s->exact[0], s->judged[0]);
            mr_str_puts(out, " -> ");
        }
        put_percent(out, s->exact[1], s->judged[1]);
        mr_str_puts(out, "   completions whose answer is exactly right (correctness 2)\n");
    }
}

void mr_run_summary(mr_run *r, mr_str *out) {
    metrics_summary *m = mr_alloc(sizeof *m);
    samples_summary s = { .sources = mr_alloc(max_sources * sizeof *s.sources) };
    read_metrics(m, r->metrics.path);
    if (m->n_steps == 0) {
        mr_str_puts(out, "no step was finished\n");
    } else if (m->reward[0].n + m->reward[1].n == 0 && m->n_rewards == 0) {
        put_change(out, m, "loss", mean_of(m->loss[0]), mean_of(m->loss[1]));
        put_steps(out, m);
    } else {
        read_samples(&s, r->samples.path, m);
        put_rewards(out, m, &s);
        const int64_t begin =
            m->last_step - answer_steps + 1 > m->first_step ? m->last_step - answer_steps + 1 : m->first_step;
        if (s.n_sources) mr_str_printf(out, "answers of steps %" PRId64 " to %" PRId64 "\n", begin, m->last_step);
        for (int i = 0; i < s.n_sources; i++) put_answers(out, &s.sources[i]);
    }
    for (int i = 0; i < s.n_sources; i++)
        for (int k = 0; k < s.sources[i].n_distinct; k++) mr_free(s.sources[i].text[k]);
    mr_free(s.sources);
    mr_free(m);
}
