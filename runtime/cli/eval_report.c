/* eval_report.c - see eval.h: counts by data set and by answer, the rows that flipped. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/eval.h"

enum { MAX_SETS = 64, MAX_ANSWERS = 6, QUESTION_BYTES = 400, LINE_CELLS = 66 };

/* ---- the report as data ---- */

static const char *side_name(const mr_evaluation *e, int side) {
    return side == MR_BASE ? "base" : e->adapter ? "tuned" : "model";
}

/* "B", "b) aspirin", "yes, because" say B and yes; "because" does not. */
static bool says(const char *said, const char *gold) {
    const size_t n = strlen(gold);
    if (!said) return false;
    said += strspn(said, "(");
    return strncasecmp(said, gold, n) == 0 && (!said[n] || strchr(" ,.;:!)", said[n]));
}

static bool in_set(const mr_asked_row *r, const char *set) {
    return !set || strcmp(r->source, set) == 0;
}

static cJSON *number_or_null(double x) {
    return isfinite(x) ? cJSON_CreateNumber(x) : cJSON_CreateNull();
}

/* One side's numbers over the rows of a set (NULL: all). */
static cJSON *side_numbers(const mr_evaluation *e, int side, const char *set) {
    int64_t judged = 0, right = 0, invalid = 0, truncated = 0, tokens = 0, rows = 0;
    for (int i = 0; i < e->n_rows; i++) {
        const mr_asked_row *r = &e->rows[i];
        if (!in_set(r, set)) continue;
        rows++;
        judged += r->side[side].verdict != MR_UNJUDGED;
        right += r->side[side].verdict == MR_RIGHT;
        invalid += r->side[side].verdict == MR_INVALID;
        truncated += r->side[side].truncated;
        tokens += r->side[side].n_tokens;
    }
    const mr_interval x = mr_wilson(right, judged);
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "right", (double)right);
    cJSON_AddItemToObject(o, "accuracy", number_or_null(x.rate));
    cJSON_AddNumberToObject(o, "low", x.low);
    cJSON_AddNumberToObject(o, "high", x.high);
    cJSON_AddNumberToObject(o, "invalid", (double)invalid);
    cJSON_AddItemToObject(o, "invalid_ratio", number_or_null((double)invalid / (double)judged));
    cJSON_AddItemToObject(o, "clipped_ratio", number_or_null((double)truncated / (double)rows));
    cJSON_AddItemToObject(o, "mean_length", number_or_null((double)tokens / (double)rows));
    return o;
}

/* By gold answer, where a set has few of them: how many rows ask for it, how many got it, how often it was said. */
static cJSON *by_answer(const mr_evaluation *e, const char *set) {
    const char *golds[MAX_ANSWERS];
    int n = 0;
    for (int i = 0; i < e->n_rows; i++) {
        const mr_asked_row *r = &e->rows[i];
        if (!in_set(r, set) || !r->gold) continue;
        int k = 0;
        while (k < n && strcmp(golds[k], r->gold) != 0) k++;
        if (k < n) continue;
        if (n == MAX_ANSWERS || (r->gold[0] >= '0' && r->gold[0] <= '9'))
            return NULL; /* free answers: texts, numbers */
        golds[n++] = r->gold;
    }
    cJSON *list = cJSON_CreateArray();
    for (int k = 0; k < n; k++) {
        cJSON *o = cJSON_CreateObject();
        int rows = 0;
        cJSON_AddStringToObject(o, "answer", golds[k]);
        for (int side = 0; side < (e->both ? MR_SIDES : 1); side++) {
            int right = 0, said = 0;
            rows = 0;
            for (int i = 0; i < e->n_rows; i++) {
                const mr_asked_row *r = &e->rows[i];
                if (!in_set(r, set) || !r->gold) continue;
                said += says(r->side[side].said, golds[k]);
                if (strcmp(r->gold, golds[k]) != 0) continue;
                rows++;
                right += r->side[side].verdict == MR_RIGHT;
            }
            cJSON *s = cJSON_AddObjectToObject(o, side_name(e, side));
            cJSON_AddNumberToObject(s, "right", right);
            cJSON_AddNumberToObject(s, "said", said);
        }
        cJSON_AddNumberToObject(o, "rows", rows);
        cJSON_AddItemToArray(list, o);
    }
    return list;
}

static cJSON *set_report(const mr_evaluation *e, const char *set) {
    cJSON *o = cJSON_CreateObject();
    int64_t rows = 0, judged = 0, fixed = 0, broken = 0;
    for (int i = 0; i < e->n_rows; i++) {
        const mr_asked_row *r = &e->rows[i];
        if (!in_set(r, set)) continue;
        rows++;
        if (r->side[0].verdict == MR_UNJUDGED) continue;
        judged++;
        if (!e->both) continue;
        fixed += r->side[MR_TUNED].verdict == MR_RIGHT && r->side[MR_BASE].verdict != MR_RIGHT;
        broken += r->side[MR_TUNED].verdict != MR_RIGHT && r->side[MR_BASE].verdict == MR_RIGHT;
    }
    if (set) cJSON_AddStringToObject(o, "name", *set ? set : "(no name)");
    cJSON_AddNumberToObject(o, "rows", (double)rows);
    cJSON_AddNumberToObject(o, "judged", (double)judged);
    for (int side = 0; side < (e->both ? MR_SIDES : 1); side++)
        cJSON_AddItemToObject(o, side_name(e, side), side_numbers(e, side, set));
    if (e->both) {
        cJSON_AddNumberToObject(o, "became_right", (double)fixed);
        cJSON_AddNumberToObject(o, "became_wrong", (double)broken);
        cJSON_AddNumberToObject(o, "p_value", mr_sign_test(fixed, broken));
    }
    cJSON *answers = set ? by_answer(e, set) : NULL;
    if (answers) cJSON_AddItemToObject(o, "answers", answers);
    return o;
}

static void add_cut(cJSON *o, const char *key, const char *text) {
    size_t len = strlen(text);
    if (len > QUESTION_BYTES) /* not inside a character */
        for (len = QUESTION_BYTES; len && ((unsigned char)text[len] & 0xc0) == 0x80;) len--;
    char *cut = mr_asprintf("%.*s%s", (int)len, text, text[len] ? "..." : "");
    cJSON_AddStringToObject(o, key, cut);
    mr_free(cut);
}

static cJSON *flip_list(const mr_evaluation *e) {
    cJSON *list = cJSON_CreateArray();
    for (int i = 0; i < e->n_rows && e->both; i++) {
        const mr_asked_row *r = &e->rows[i];
        const bool tuned = r->side[MR_TUNED].verdict == MR_RIGHT, base = r->side[MR_BASE].verdict == MR_RIGHT;
        if (tuned == base) continue;
        cJSON *o = cJSON_CreateObject();
        cJSON_AddNumberToObject(o, "row", (double)r->row);
        cJSON_AddStringToObject(o, "place", r->place);
        cJSON_AddStringToObject(o, "source", r->source);
        cJSON_AddStringToObject(o, "became", tuned ? "right" : "wrong");
        cJSON_AddStringToObject(o, "answer", r->gold ? r->gold : "");
        for (int side = 0; side < MR_SIDES; side++)
            cJSON_AddItemToObject(o, side_name(e, side),
                                  r->side[side].said ? cJSON_CreateString(r->side[side].said) : cJSON_CreateNull());
        add_cut(o, "question", r->question ? r->question : "");
        cJSON_AddItemToArray(list, o);
    }
    return list;
}

cJSON *mr_eval_report(const mr_evaluation *e) {
    const char *sets[MAX_SETS];
    int n = 0;
    for (int i = 0; i < e->n_rows; i++) {
        int k = 0;
        while (k < n && strcmp(sets[k], e->rows[i].source) != 0) k++;
        if (k == n && n < MAX_SETS) sets[n++] = e->rows[i].source;
    }
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "what", e->what);
    cJSON_AddStringToObject(o, "model", e->model);
    cJSON_AddItemToObject(o, "adapter", e->adapter ? cJSON_CreateString(e->adapter) : cJSON_CreateNull());
    cJSON_AddStringToObject(o, "device", e->device);
    cJSON_AddStringToObject(o, "data", e->data);
    cJSON_AddNumberToObject(o, "rows_of_data", (double)e->n_all);
    cJSON_AddNumberToObject(o, "max_new_tokens", e->max_new);
    cJSON_AddNumberToObject(o, "prompts_cut", (double)e->counts[0].cut);
    cJSON_AddNumberToObject(o, "judge_faults", (double)(e->counts[0].faults + e->counts[1].faults));
    cJSON_AddNumberToObject(o, "seconds", e->seconds[0] + e->seconds[1]);
    cJSON *list = cJSON_AddArrayToObject(o, "sets");
    for (int k = 0; k < n; k++) cJSON_AddItemToArray(list, set_report(e, sets[k]));
    cJSON_AddItemToObject(o, "all", set_report(e, NULL));
    cJSON_AddItemToObject(o, "flips", flip_list(e));
    return o;
}

/* ---- for people ---- */

static const cJSON *field(const cJSON *o, const char *key) {
    return cJSON_GetObjectItemCaseSensitive(o, key);
}

static double number(const cJSON *o, const char *key) {
    const cJSON *v = field(o, key);
    return cJSON_IsNumber(v) ? v->valuedouble : (double)NAN;
}

static const char *text(const cJSON *o, const char *key) {
    const char *v = cJSON_GetStringValue(field(o, key));
    return v ? v : "";
}

/* " 61.5 %  [54.0, 68.5]" */
static void put_rate(mr_str *out, const cJSON *side) {
    mr_str_printf(out, "%6.1f %%  [%4.1f, %5.1f]  %5.1f %%", 100 * number(side, "accuracy"), 100 * number(side, "low"),
                  100 * number(side, "high"), 100 * number(side, "invalid_ratio"));
}

static void put_set(mr_str *out, const cJSON *set, const char *name) {
    static const char *const sides[] = { "model", "base", "tuned" };
    bool first = true;
    for (size_t k = 0; k < 3; k++) {
        const cJSON *side = field(set, sides[k]);
        if (!side) continue;
        mr_str_printf(out, "%-20.20s %-6s", first ? name : "", sides[k]);
        put_rate(out, side);
        if (first) mr_str_printf(out, "  %6.0f row%s", number(set, "judged"), number(set, "judged") == 1 ? "" : "s");
        mr_str_puts(out, "\n");
        first = false;
    }
    if (field(set, "became_right"))
        mr_str_printf(out, "%-20s %.0f became right, %.0f wrong; p = %.2g\n", "", number(set, "became_right"),
                      number(set, "became_wrong"), number(set, "p_value"));
}

static void put_answers(mr_str *out, const cJSON *set) {
    static const char *const sides[] = { "model", "base", "tuned" };
    const cJSON *answers = field(set, "answers"), *a;
    if (!answers || !answers->child) return;
    char head[40];
    snprintf(head, sizeof head, "%.20s by answer", text(set, "name"));
    mr_str_printf(out, "\n%-32s", head);
    for (size_t k = 0; k < 3; k++)
        if (field(answers->child, sides[k])) mr_str_printf(out, "%6s right   said", sides[k]);
    mr_str_puts(out, "\n");
    cJSON_ArrayForEach(a, answers) {
        mr_str_printf(out, "  %-20.20s %4.0f %-4s", text(a, "answer"), number(a, "rows"),
                      number(a, "rows") == 1 ? "row" : "rows");
        for (size_t k = 0; k < 3; k++)
            if (field(a, sides[k]))
                mr_str_printf(out, "%12.0f %6.0f", number(field(a, sides[k]), "right"),
                              number(field(a, sides[k]), "said"));
        mr_str_puts(out, "\n");
    }
}

/* One line of it: white space in runs is one blank, control characters are "?". */
static void put_line(mr_str *out, const char *s) {
    int cells = 0;
    bool blank = false;
    for (; *s && cells < LINE_CELLS; s++) {
        const unsigned char c = (unsigned char)*s;
        if (c == ' ' || c == '\n' || c == '\t' || c == '\r') {
            blank = cells > 0;
            continue;
        }
        if (blank) mr_str_puts(out, " "), cells++;
        blank = false;
        const bool control = c < 0x20 || c == 0x7f || (c == 0xc2 && (unsigned char)s[1] < 0xa0);
        if (control && c == 0xc2) s++;
        mr_str_add(out, control ? "?" : s, 1);
        cells += (c & 0xc0) != 0x80;
    }
    for (; cells == LINE_CELLS && ((unsigned char)*s & 0xc0) == 0x80; s++) mr_str_add(out, s, 1);
    if (*s) mr_str_puts(out, "...");
}

static void put_flips(mr_str *out, const cJSON *report, const char *became, int most) {
    const cJSON *f;
    int n = 0;
    cJSON_ArrayForEach(f, field(report, "flips")) {
        if (strcmp(text(f, "became"), became) != 0) continue;
        if (n++ >= most) continue;
        if (n == 1) mr_str_printf(out, "\nbecame %s\n", became);
        const char *base = cJSON_GetStringValue(field(f, "base")), *tuned = cJSON_GetStringValue(field(f, "tuned"));
        mr_str_printf(out, "  row %.0f (%s): ", number(f, "row") + 1, text(f, "source"));
        put_line(out, text(f, "question"));
        mr_str_puts(out, "\n    gold ");
        put_line(out, text(f, "answer"));
        mr_str_puts(out, ", base ");
        put_line(out, base ? base : "(no answer)");
        mr_str_puts(out, ", tuned ");
        put_line(out, tuned ? tuned : "(no answer)");
        mr_str_puts(out, "\n");
    }
    if (n > most && most > 0)
        mr_str_printf(out, "  and %d more: --flips %d, or --rows FILE for all texts\n", n - most, n);
}

void mr_eval_print(const cJSON *report, int flips, mr_str *out) {
    const cJSON *sets = field(report, "sets"), *set, *all = field(report, "all");
    const char *adapter = cJSON_GetStringValue(field(report, "adapter"));
    mr_str_printf(out, "%s%s%s on %s\n", text(report, "model"), adapter ? " + " : "", adapter ? adapter : "",
                  text(report, "device"));
    mr_str_printf(out, "%s: %.0f of %.0f rows, greedy, at most %.0f tokens, %.1f s\n\n", text(report, "data"),
                  number(all, "rows"), number(report, "rows_of_data"), number(report, "max_new_tokens"),
                  number(report, "seconds"));
    mr_str_printf(out, "%-20s %-6s%8s  %-13s  %7s\n", "", "", "right", "95 % interval", "invalid");
    cJSON_ArrayForEach(set, sets) put_set(out, set, text(set, "name"));
    if (cJSON_GetArraySize(sets) != 1) put_set(out, all, "all");
    cJSON_ArrayForEach(set, sets) put_answers(out, set);
    if (flips > 0) {
        put_flips(out, report, "right", flips);
        put_flips(out, report, "wrong", flips);
    }
    if (number(report, "prompts_cut") > 0)
        mr_str_printf(out, "\n%.0f prompts were longer than the model's context and lost their first tokens\n",
                      number(report, "prompts_cut"));
    if (number(report, "judge_faults") > 0)
        mr_str_printf(out, "\nthe judge failed on %.0f completions; they count as invalid\n",
                      number(report, "judge_faults"));
}
