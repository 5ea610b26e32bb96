/* score.c - `medrl score`: rewards over a text, over JSON lines, or over what a run has recorded (rescore.c). */
#include "cli/score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "cli/cli.h"

enum { TEXT_MAX = 16 << 20, ROW_MAX = 16 << 20, CHUNK = 512, MAX_FAULTS = 256, CHARS_A_TOKEN = 4 };

char *mr_fault_text(const mr_fault *f) {
    const char *end = NULL;
    for (const char *p = f->text; (p = strstr(p, " (")); p++)
        if (!strncmp(p, " (sample ", 9) || (!strncmp(p, " (the ", 6) && strstr(p, " samples of a group"))) end = p;
    return end ? mr_strndup(f->text, (size_t)(end - f->text)) : mr_strdup(f->text);
}

static const char *fault_of(const mr_fault *faults, int n, int64_t id, int reward) {
    for (int i = 0; i < n && i < MAX_FAULTS; i++)
        if (faults[i].id == id && faults[i].reward == reward) return faults[i].text;
    return "fault, as of the others of its group";
}

static double weighted(const mr_scorer *sc, const mr_score *scores) {
    double sum = 0;
    bool any = false;
    for (int r = 0; r < sc->n_rewards; r++) {
        if (scores[r].kind == MR_ABSTAINED) continue;
        sum += (double)sc->weights[r] * scores[r].value;
        any = true;
    }
    return any ? sum : (double)NAN;
}

static void print_scores_json(const mr_scorer *sc, const mr_score *scores, const mr_fault *faults, int n_faults,
                              int64_t id) {
    cJSON *o = cJSON_CreateObject(), *rewards = cJSON_AddObjectToObject(o, "rewards"),
          *bad = cJSON_AddObjectToObject(o, "faults");
    for (int r = 0; r < sc->n_rewards; r++) {
        if (scores[r].kind == MR_ABSTAINED)
            cJSON_AddNullToObject(rewards, sc->names[r]);
        else
            cJSON_AddNumberToObject(rewards, sc->names[r], scores[r].value);
        if (scores[r].kind == MR_FAULT) cJSON_AddStringToObject(bad, sc->names[r], fault_of(faults, n_faults, id, r));
    }
    double total = weighted(sc, scores);
    if (isnan(total))
        cJSON_AddNullToObject(o, "reward");
    else
        cJSON_AddNumberToObject(o, "reward", total);
    mr_print_json(o);
    cJSON_Delete(o);
}

static void print_scores(const mr_scorer *sc, const mr_score *scores, const mr_fault *faults, int n_faults) {
    int width = 8;
    for (int r = 0; r < sc->n_rewards; r++)
        if ((int)strlen(sc->names[r]) > width) width = (int)strlen(sc->names[r]);
    for (int r = 0; r < sc->n_rewards; r++) {
        printf("%-*s  ", width, sc->names[r]);
        if (scores[r].kind == MR_ABSTAINED)
            printf("abstains\n");
        else if (scores[r].kind == MR_FAULT)
            printf("%.6g  fault: %s\n", scores[r].value, fault_of(faults, n_faults, 0, r));
        else
            printf("%.6g\n", scores[r].value);
    }
    if (sc->n_rewards > 1) printf("%-*s  %.6g\n", width, "reward", weighted(sc, scores));
}

/* ---- one text ---- */

typedef struct one_text {
    const char *row, *row_file, *prompt;
    int64_t n_tokens; /* -1: from the length */
    bool truncated;
} one_text;

static mr_status read_stdin(mr_str *out, mr_err *err) {
    char buf[65536];
    size_t n;
    while ((n = fread(buf, 1, sizeof buf, stdin)) > 0) {
        mr_str_add(out, buf, n);
        if (out->len > TEXT_MAX) return mr_fail(err, MR_EDATA, "stdin: more than 16 MiB, want one completion");
    }
    mr_str_puts(out, "");
    return ferror(stdin) ? mr_fail_errno(err, "stdin") : MR_OK;
}

static mr_status read_row(char **row, const one_text *x, mr_err *err) {
    cJSON *tree = NULL;
    size_t len;
    if (x->row_file) {
        MR_TRY(mr_file_read(row, &len, x->row_file, ROW_MAX, err));
    } else {
        *row = mr_strdup(x->row ? x->row : "{}");
        len = strlen(*row);
    }
    MR_TRY(mr_json_parse(&tree, *row, len, x->row_file ? x->row_file : "--row", err));
    bool object = cJSON_IsObject(tree);
    cJSON_Delete(tree);
    return object ? MR_OK
                  : mr_fail(err, MR_EDATA, "%s: want a JSON object, {\"answer\": \"yes\"}",
                            x->row_file ? x->row_file : "--row");
}

static mr_status score_text(const mr_scoring *s, const one_text *x, mr_err *err) {
    const mr_scorer *sc = &s->scorer;
    mr_str text = { 0 };
    char *row = NULL;
    mr_status st = read_row(&row, x, err);
    if (st == MR_OK && isatty(0)) fprintf(stderr, "the completion, then Ctrl-D:\n");
    if (st == MR_OK) st = read_stdin(&text, err);
    mr_score *scores = mr_alloc((size_t)(sc->n_rewards + 1) * sizeof *scores);
    mr_fault *faults = mr_alloc(MAX_FAULTS * sizeof *faults);
    int n_faults = 0;
    if (st == MR_OK) {
        int n_tokens = (int)(x->n_tokens >= 0 ? x->n_tokens : (int64_t)(text.len + CHARS_A_TOKEN - 1) / CHARS_A_TOKEN);
        mr_score_job job = { .text = text.data,
                             .len = text.len,
                             .row_json = row,
                             .prompt = x->prompt,
                             .n_tokens = n_tokens,
                             .truncated = x->truncated };
        st = sc->submit(sc->self, &job, err);
        if (st == MR_OK) st = sc->collect(sc->self, scores, 1, faults, MAX_FAULTS, &n_faults, err);
    }
    if (st == MR_OK && s->json) print_scores_json(sc, scores, faults, n_faults, 0);
    if (st == MR_OK && !s->json) print_scores(sc, scores, faults, n_faults);
    mr_free(scores);
    mr_free(faults);
    mr_free(row);
    mr_str_clear(&text);
    return st;
}

/* ---- JSON lines ---- */

typedef struct lines {
    const mr_scoring *s;
    mr_score *scores;
    mr_fault *faults;
    int n;
    int64_t group;
} lines;

static mr_status flush_lines(lines *l, mr_err *err) {
    const mr_scorer *sc = &l->s->scorer;
    int n_faults, n = l->n;
    l->n = 0;
    if (n == 0) return MR_OK;
    MR_TRY(sc->collect(sc->self, l->scores, n, l->faults, MAX_FAULTS, &n_faults, err));
    for (int i = 0; i < n; i++)
        print_scores_json(sc, l->scores + (size_t)i * (size_t)sc->n_rewards, l->faults, n_faults, i);
    return MR_OK;
}

static mr_status take_line(lines *l, const cJSON *line, const char *place, mr_err *err) {
    const char *text, *prompt;
    int64_t n_tokens, step, group;
    bool truncated;
    MR_TRY(mr_json_get_string(&text, line, "completion", place, err));
    MR_TRY(mr_json_opt_string(&prompt, line, "prompt", "", place, err));
    MR_TRY(mr_json_opt_int(&n_tokens, line, "n_tokens", (int64_t)(strlen(text) + CHARS_A_TOKEN - 1) / CHARS_A_TOKEN, 0,
                           INT32_MAX, place, err));
    MR_TRY(mr_json_opt_int(&step, line, "step", 0, 0, INT64_MAX, place, err));
    MR_TRY(mr_json_opt_int(&group, line, "group", -1, -1, INT64_MAX, place, err));
    MR_TRY(mr_json_opt_bool(&truncated, line, "truncated", false, place, err));
    const cJSON *row = cJSON_GetObjectItemCaseSensitive(line, "row");
    if (row && !cJSON_IsObject(row))
        return mr_fail(err, MR_EDATA, "%s: field \"row\" is %s, want an object", place, mr_json_type_name(row));
    if (l->n == CHUNK || (l->n >= CHUNK / 2 && (group < 0 || group != l->group))) MR_TRY(flush_lines(l, err));
    char *row_json = row ? cJSON_PrintUnformatted(row) : NULL;
    mr_score_job job = { .id = l->n++,
                         .text = text,
                         .len = strlen(text),
                         .row_json = row_json ? row_json : "{}",
                         .prompt = prompt,
                         .n_tokens = (int)n_tokens,
                         .truncated = truncated,
                         .step = step,
                         .group = group,
                         .n_group = group >= 0 ? -1 : 0 };
    l->group = group;
    mr_status st = l->s->scorer.submit(l->s->scorer.self, &job, err);
    cJSON_free(row_json);
    return st;
}

static mr_status score_lines(const mr_scoring *s, mr_err *err) {
    lines l = { .s = s, .group = -1 };
    l.scores = mr_alloc((size_t)CHUNK * (size_t)(s->scorer.n_rewards + 1) * sizeof *l.scores);
    l.faults = mr_alloc(MAX_FAULTS * sizeof *l.faults);
    char *text = NULL, place[32];
    size_t cap = 0;
    ssize_t n;
    mr_status st = MR_OK;
    for (long number = 1; st == MR_OK && (n = getline(&text, &cap, stdin)) >= 0; number++) {
        if (strspn(text, " \t\r\n") == (size_t)n) continue;
        snprintf(place, sizeof place, "stdin:%ld", number);
        cJSON *line;
        st = mr_json_parse(&line, text, (size_t)n, place, err);
        if (st == MR_OK) st = take_line(&l, line, place, err);
        cJSON_Delete(line);
    }
    if (st == MR_OK) st = flush_lines(&l, err);
    free(text);
    mr_free(l.scores);
    mr_free(l.faults);
    return st;
}

/* ---- the command ---- */

mr_status mr_cmd_score(int argc, char **argv, mr_err *err) {
    static const mr_usage usage = {
        "score",
        "medrl score outputs --reward rewards/new.lua\n"
        "medrl score --reward correctness --row '{\"answer\": \"yes\"}' < completion.txt",
        "[RUN]",
        0,
        1,
        "With RUN: scores all that the run has recorded again and shows old and new by name, the correlation, the "
        "curve that the new rewards would have given, and the rows that changed most. The new total is that of the "
        "given rewards; with --keep, the recorded rewards that are not given stay in it. Without RUN: scores the text "
        "on stdin. A reward is a name or a file, with options behind a colon: soft_format:dotall=true,weight=0.5.",
    };
    mr_scoring s = { 0 };
    one_text x = { .n_tokens = -1 };
    const char *const *rewards = NULL;
    bool jsonl = false;
    int64_t top = 20, workers = 0;
    const mr_opt opts[] = {
        { "reward", 'r', MR_OPT_LIST, "NAME|FILE", "a reward; may be given several times", &rewards, 0, 0 },
        { "keep", 0, MR_OPT_FLAG, NULL, "with RUN: recorded rewards that are not given stay in the new total", &s.keep,
          0, 0 },
        { "top", 0, MR_OPT_INT, "N", "with RUN: how many of the rows that changed most (20)", &top, 0, 1000 },
        { "row", 0, MR_OPT_TEXT, "JSON", "the data row of the text on stdin ({})", &x.row, 0, 0 },
        { "row-file", 0, MR_OPT_TEXT, "FILE", "the same, from a file", &x.row_file, 0, 0 },
        { "prompt", 0, MR_OPT_TEXT, "TEXT", "info.prompt (\"\")", &x.prompt, 0, 0 },
        { "n-tokens", 0, MR_OPT_INT, "N", "info.n_tokens (a quarter of the bytes)", &x.n_tokens, 0, 1 << 30 },
        { "truncated", 0, MR_OPT_FLAG, NULL, "info.truncated (false)", &x.truncated, 0, 0 },
        { "jsonl", 0, MR_OPT_FLAG, NULL, "stdin has JSON lines: completion, row, prompt, n_tokens, truncated, group",
          &jsonl, 0, 0 },
        { "workers", 0, MR_OPT_INT, "N", "worker processes (2)", &workers, 0, 63 },
        { "json", 0, MR_OPT_FLAG, NULL, "the result as one JSON object", &s.json, 0, 0 },
    };
    mr_args a;
    mr_status st = mr_args_parse(&a, &usage, opts, sizeof opts / sizeof opts[0], argc, argv, err);
    if (st == MR_OK && !a.help && !rewards)
        st = mr_fail(err, MR_EINVAL, "score: want --reward NAME or --reward FILE.lua");
    if (st == MR_OK && !a.help && x.row && x.row_file)
        st = mr_fail(err, MR_EINVAL, "score: --row and --row-file are both there, want one of them");
    if (st == MR_OK && !a.help) {
        s.n_top = (int)top;
        mr_pool_opts o = { .n_workers = (int)workers, .rewards = rewards };
        st = mr_pool_open(&s.pool, NULL, &o, err);
        if (st == MR_OK) {
            s.scorer = mr_pool_scorer(s.pool);
            st = a.n ? mr_rescore(&s, a.items[0], err) : jsonl ? score_lines(&s, err) : score_text(&s, &x, err);
        }
        mr_pool_close(s.pool);
    }
    mr_args_clear(&a);
    return st;
}
