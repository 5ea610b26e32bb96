/* progress.c - what the person at the terminal sees: the status line, a line a step, a sample now and then.
 *
 * Text of the model goes to the terminal with its control characters replaced, so no completion can move the cursor or
 * color the screen. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/proc.h"
#include "record/record_impl.h"
#include "rl/metrics.h"

enum { max_sample_lines = 14, max_faults_shown = 3 };

/* ---- text ---- */

/* len bytes as one line of at most `columns` characters, cut with "..."; bad UTF-8 and control characters become "?".
 * */
static void put_plain(mr_str *out, const char *text, size_t len, int columns) {
    const unsigned char *p = (const unsigned char *)text;
    int cells = 0;
    for (size_t i = 0; i < len; cells++) {
        size_t n = p[i] < 0x80                   ? 1
                   : p[i] >= 0xc2 && p[i] < 0xe0 ? 2
                   : p[i] >= 0xe0 && p[i] < 0xf0 ? 3
                   : p[i] >= 0xf0 && p[i] < 0xf5 ? 4
                                                 : 0;
        bool good = n > 0 && n <= len - i;
        for (size_t k = 1; good && k < n; k++) good = (p[i + k] & 0xc0) == 0x80;
        if (cells >= columns - 3 && columns > 3) {
            size_t left = 0; /* characters that are still to come; more than three do not fit */
            for (size_t k = i; k < len && left < 4; k++) left += (p[k] & 0xc0) != 0x80;
            if (left > 3 || (cells >= columns)) {
                mr_str_puts(out, "...");
                return;
            }
        }
        const bool control = good && (p[i] < 0x20 || p[i] == 0x7f || (p[i] == 0xc2 && p[i + 1] < 0xa0));
        if (good && p[i] == '\t')
            mr_str_puts(out, " ");
        else if (good && !control)
            mr_str_add(out, p + i, n);
        else
            mr_str_puts(out, "?");
        i += good ? n : 1;
    }
}

/* A line of a rendered prompt without <|markup|> and role names; empty when nothing is left. */
static void strip_markup(mr_str *out, const char *line, size_t len) {
    for (size_t i = 0; i < len;) {
        const char *end =
            i + 1 < len && line[i] == '<' && line[i + 1] == '|' ? memmem(line + i, len - i, "|>", 2) : NULL;
        if (end) {
            i = (size_t)(end - line) + 2;
            continue;
        }
        mr_str_add(out, line + i++, 1);
    }
    size_t from = 0, to = out->len;
    while (from < to && strchr(" \t\r", out->data[from])) from++;
    while (to > from && strchr(" \t\r", out->data[to - 1])) to--;
    static const char *const noise[] = { "assistant", "user", "system", "<think>", "</think>" };
    for (size_t k = 0; k < sizeof noise / sizeof noise[0]; k++)
        if (to - from == strlen(noise[k]) && !memcmp(out->data + from, noise[k], to - from)) to = from;
    if (to > from) memmove(out->data, out->data + from, to - from);
    out->len = to - from;
    if (out->data) out->data[out->len] = 0;
}

/* The last line of a prompt that says something. */
static void last_line(mr_str *out, const char *prompt) {
    size_t end = strlen(prompt);
    while (end > 0) {
        const char *newline = memrchr(prompt, '\n', end);
        const size_t from = newline ? (size_t)(newline - prompt) + 1 : 0;
        out->len = 0;
        strip_markup(out, prompt + from, end - from);
        if (out->len) return;
        end = newline ? from - 1 : 0;
    }
}

/* White space in runs becomes one blank, so that a line shows as much of the text as it can. */
static void one_line(mr_str *out, const char *text) {
    bool blank = false;
    for (; *text; text++) {
        if (strchr(" \t\r\n", *text)) {
            blank = out->len > 0;
            continue;
        }
        if (blank) mr_str_puts(out, " ");
        blank = false;
        mr_str_add(out, text, 1);
    }
}

/* ---- lines as wide as the terminal ---- */

void mr_progress_wrap(mr_str *out, const char *line, int indent, int columns) {
    if (columns <= indent + 20) { /* no terminal, or one where wrapping helps nobody */
        mr_str_puts(out, line);
        return;
    }
    for (int room = columns;; room = columns - indent) {
        size_t at = 0, blank = 0;
        for (int used = 0; line[at]; at++) {
            if (line[at] == ' ' && at > 0 && line[at - 1] != ' ') blank = at;
            if (((unsigned char)line[at] & 0xc0) != 0x80 && used++ == room) break;
        }
        const size_t end = !line[at] || blank == 0 ? at : blank;
        mr_str_add(out, line, end);
        line += end + strspn(line + end, " ");
        if (!*line) return;
        mr_str_printf(out, "\n%*s", indent, "");
    }
}

void mr_progress_say(const char *line, int indent) {
    mr_str s = { 0 };
    mr_progress_wrap(&s, line, indent, mr_log_is_terminal() ? mr_log_columns() : 0);
    mr_info("%s", s.data ? s.data : "");
    mr_str_clear(&s);
}

/* ---- the step's sample ---- */

static void clear_shown(mr_shown_sample *s) {
    mr_free(s->question);
    mr_free(s->text);
    mr_str_clear(&s->scores);
    memset(s, 0, sizeof *s);
}

void mr_progress_sample(mr_run *r, const mr_sample *s, int n_rewards, const char *const *names) {
    clear_shown(&r->shown);
    if (!r->opts.progress || r->opts.sample_steps <= 0) return;
    mr_str question = { 0 };
    if (s->question)
        one_line(&question, s->question);
    else
        last_line(&question, s->prompt_text ? s->prompt_text : "");
    r->shown.question = mr_strdup(question.data ? question.data : "");
    mr_str_clear(&question);
    r->shown.text = mr_strdup(s->text ? s->text : "");
    for (int i = 0; i < n_rewards; i++) {
        mr_str_printf(&r->shown.scores, "%s%s ", i ? "  " : "", names[i]);
        if (s->scores[i].kind == MR_ABSTAINED)
            mr_str_puts(&r->shown.scores, "-");
        else
            mr_str_printf(&r->shown.scores, "%g%s", s->scores[i].value,
                          s->scores[i].kind == MR_FAULT ? " (failed)" : "");
    }
    if (s->truncated) mr_str_puts(&r->shown.scores, "  (cut at the longest length)");
}

static void show_sample(const mr_run *r) {
    const mr_shown_sample *s = &r->shown;
    if (!s->text) return;
    const char *dim = mr_log_has_color() ? "\x1b[2m" : "", *plain = *dim ? "\x1b[0m" : "";
    const int columns = mr_log_is_terminal() ? mr_log_columns() : 120;
    mr_str line = { 0 };
    put_plain(&line, s->question, strlen(s->question), columns - 14);
    mr_info("  %sprompt%s      %s", dim, plain, line.data ? line.data : "");
    int n = 0;
    for (const char *p = s->text; n == 0 || *p; n++) {
        const size_t len = strcspn(p, "\n");
        const char *label = n ? "" : "completion";
        line.len = 0;
        if (n == max_sample_lines) {
            mr_info("  %-10s  %s...%s", label, dim, plain);
            break;
        }
        put_plain(&line, p, len, columns - 14);
        mr_info("  %s%-10s%s  %s", dim, label, plain, line.len ? line.data : "");
        p += len + (p[len] == '\n');
    }
    line.len = 0;
    mr_str_printf(&line, "  rewards     %s", s->scores.data ? s->scores.data : "none");
    mr_progress_say(line.data, 14);
    mr_str_clear(&line);
}

/* ---- the step line ---- */

static double metric(const mr_metric *m, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (!strcmp(m[i].name, name)) return m[i].value;
    return (double)NAN;
}

/* "rewards/NAME/mean" -> NAME, or NULL. */
static const char *reward_name(const char *metric_name, size_t *len) {
    const size_t n = strlen(metric_name);
    if (strncmp(metric_name, "rewards/", 8) || n < 14 || strcmp(metric_name + n - 5, "/mean")) return NULL;
    *len = n - 13;
    return metric_name + 8;
}

static void put_step_line(mr_str *s, const mr_run *r, int64_t step, int64_t max_steps, const mr_metric *m, int n) {
    const double reward = metric(m, n, MR_M_REWARD), loss = metric(m, n, MR_M_LOSS),
                 length = metric(m, n, MR_M_LEN_MEAN);
    const double grad = metric(m, n, MR_M_GRAD_NORM), time = metric(m, n, MR_M_STEP_TIME),
                 faults = metric(m, n, MR_M_FAULTS);
    mr_str_printf(s, "step %lld/%lld", (long long)step, (long long)max_steps);
    bool any = false;
    if (isfinite(reward)) {
        mr_str_printf(s, "  reward %.2f", reward);
        for (int i = 0; i < n; i++) {
            size_t len;
            const char *name = reward_name(m[i].name, &len);
            if (!name) continue;
            mr_str_printf(s, "%s%.*s ", any ? " " : " (", (int)len, name);
            if (isfinite(m[i].value))
                mr_str_printf(s, "%.2f", m[i].value);
            else
                mr_str_puts(s, "-");
            any = true;
        }
        if (any) mr_str_puts(s, ")");
    } else if (r->n_samples > 0) {
        mr_str_puts(s, "  reward - (no reward applied)");
    } else if (isfinite(loss)) {
        mr_str_printf(s, "  loss %.4g", loss);
    }
    if (r->n_judged > 0) mr_str_printf(s, "  exact %.2f", (double)r->n_exact / r->n_judged);
    if (isfinite(length)) mr_str_printf(s, "  len %.0f", length);
    if (isfinite(grad)) mr_str_printf(s, "  grad %.2f", grad);
    if (faults > 0) mr_str_printf(s, "  faults %.0f", faults);
    if (isfinite(time)) mr_str_printf(s, "  %.1f s", time);
}

void mr_progress_reward(mr_run *r, double reward) {
    if (!isfinite(reward)) return;
    if (r->n_rewards == MR_SPARK)
        memmove(r->rewards, r->rewards + 1, (MR_SPARK - 1) * sizeof r->rewards[0]);
    else
        r->n_rewards++;
    r->rewards[r->n_rewards - 1] = reward;
}

void mr_progress_step(mr_run *r, int64_t step, int64_t max_steps, const mr_metric *m, int n) {
    const double time = metric(m, n, MR_M_STEP_TIME), speed = metric(m, n, MR_M_TOKENS_PER_S);
    mr_progress_reward(r, metric(m, n, MR_M_REWARD));
    r->exact = r->n_judged ? (double)r->n_exact / r->n_judged : (double)NAN;
    r->cut = metric(m, n, MR_M_CLIPPED);
    r->same = metric(m, n, MR_M_ZERO_STD);
    r->length = metric(m, n, MR_M_LEN_MEAN);
    r->usd = metric(m, n, MR_M_COST);
    r->faults = metric(m, n, MR_M_FAULTS);
    r->by_name.len = 0;
    for (int i = 0; i < n; i++) {
        size_t len;
        const char *name = reward_name(m[i].name, &len);
        if (!name) continue;
        mr_str_printf(&r->by_name, "%.*s ", (int)len, name);
        mr_str_printf(&r->by_name, isfinite(m[i].value) ? "%.2f\n" : "-\n", m[i].value);
    }
    if (isfinite(speed)) r->tokens_per_s = speed;
    if (isfinite(time)) r->step_s = isfinite(r->step_s) ? 0.7 * r->step_s + 0.3 * time : time;
    if (!r->opts.progress) return;
    const int every = r->opts.logging_steps > 0 ? r->opts.logging_steps : 1;
    if (step % every == 0 || step == max_steps || step == 1) {
        mr_str line = { 0 };
        put_step_line(&line, r, step, max_steps, m, n);
        mr_progress_say(line.data, 10);
        mr_str_clear(&line);
    }
    if (r->opts.sample_steps > 0 && (step % r->opts.sample_steps == 0 || step == 1)) show_sample(r);
    clear_shown(&r->shown);
    if (step >= max_steps) mr_log_status(NULL);
}

/* ---- the status line ---- */

static void put_curve(mr_str *s, const double *x, int n) {
    static const char *const bars[] = {
        "\u2581", "\u2582", "\u2583", "\u2584", "\u2585", "\u2586", "\u2587", "\u2588"
    };
    double low = x[0], high = x[0];
    for (int i = 1; i < n; i++) {
        if (x[i] < low) low = x[i];
        if (x[i] > high) high = x[i];
    }
    for (int i = 0; i < n; i++) mr_str_puts(s, bars[high > low ? (int)((x[i] - low) / (high - low) * 7 + 0.5) : 3]);
}

static void put_time(mr_str *s, double seconds) {
    const long long t = (long long)(seconds + 0.5);
    if (t >= 3600)
        mr_str_printf(s, "%lld:%02lld:%02lld", t / 3600, t / 60 % 60, t % 60);
    else
        mr_str_printf(s, "%lld:%02lld", t / 60, t % 60);
}

static int cells(const char *text) {
    int n = 0;
    for (; *text; text++) n += (*text & 0xc0) != 0x80;
    return n;
}

/* The screen: parts that flow into lines of the terminal's width. */
typedef struct flow {
    mr_str text;
    int columns, most_lines; /* what does not fit into so many is left out */
    int lines, used;         /* cells of the last line */
} flow;

/* Adds a part with two blanks between, on a new line where it must; block: on a new line, indented. */
static void add_part(flow *f, mr_str *part, bool block) {
    const int n = cells(part->data ? part->data : "");
    if (n && n < f->columns - 2) {
        const bool fits = f->used && !block && f->used + 2 + n < f->columns;
        if (fits || !f->lines) {
            mr_str_printf(&f->text, "%s%s", f->used ? "  " : "", part->data);
            f->used += n + (f->used ? 2 : 0);
            if (!f->lines) f->lines = 1;
        } else if (f->lines < f->most_lines) {
            mr_str_printf(&f->text, "\n  %s", part->data);
            f->used = n + 2;
            f->lines++;
        }
    }
    part->len = 0;
}

/* How the run goes: where it is, the reward and its curve, speed, what is left, what it costs. */
static void put_state(flow *f, const mr_run *r, int64_t left) {
    mr_str part = { 0 };
    if (r->n_rewards > 0) {
        const int most = f->columns > 24 ? f->columns - 20 : 4, n = r->n_rewards < most ? r->n_rewards : most;
        mr_str_printf(&part, "reward %.2f ", r->rewards[r->n_rewards - 1]);
        put_curve(&part, r->rewards + r->n_rewards - n, n);
        add_part(f, &part, false);
    }
    if (isfinite(r->exact)) {
        mr_str_printf(&part, "exact %.0f%%", 100 * r->exact);
        add_part(f, &part, false);
    }
    if (isfinite(r->tokens_per_s)) {
        mr_str_printf(&part, "%.0f tok/s", r->tokens_per_s);
        add_part(f, &part, false);
    }
    if (isfinite(r->step_s)) {
        mr_str_puts(&part, "ETA ");
        put_time(&part, r->step_s * (double)left);
        add_part(f, &part, false);
    }
    if (isfinite(r->usd)) {
        const double all = r->usd + r->step_s * (double)left / 3600 * r->opts.usd_per_hour;
        mr_str_printf(&part, "$%.2f", r->usd);
        if (isfinite(all) && r->opts.usd_per_hour > 0)
            mr_str_printf(&part, all < 0.005 ? ", less than a cent in all" : " of $%.2f", all);
        add_part(f, &part, false);
    }
    mr_str_clear(&part);
}

/* The last step's means by name, then its shares. */
static void put_details(flow *f, const mr_run *r) {
    mr_str part = { 0 };
    bool first = true;
    for (const char *p = r->by_name.len ? r->by_name.data : ""; *p; first = false) {
        const size_t len = strcspn(p, "\n");
        mr_str_add(&part, p, len);
        add_part(f, &part, first);
        p += len + (p[len] == '\n');
    }
    const struct {
        const char *fmt;
        double value;
    } rest[] = { { "cut %.0f%%", 100 * r->cut },
                 { "no difference %.0f%%", 100 * r->same },
                 { "length %.0f", r->length },
                 { "faults %.0f", r->faults > 0 ? r->faults : (double)NAN } };
    first = true;
    for (size_t i = 0; i < sizeof rest / sizeof rest[0]; i++) {
        if (!isfinite(rest[i].value)) continue;
        mr_str_printf(&part, rest[i].fmt, rest[i].value);
        add_part(f, &part, first);
        first = false;
    }
    mr_str_clear(&part);
}

void mr_progress_phase(mr_run *r, int64_t step, int64_t max_steps, const char *phase, int done, int total) {
    if (!r->opts.progress || !mr_log_is_terminal()) return;
    const double now = mr_now_s();
    if (now - r->drawn_s < 0.1 && done < total) return;
    r->drawn_s = now;
    const int rows = mr_log_rows();
    flow f = { .columns = mr_log_columns(), .most_lines = rows < 12 ? 1 : rows / 3 };
    mr_str part = { 0 };
    mr_str_printf(&part, "step %lld/%lld", (long long)step, (long long)max_steps);
    add_part(&f, &part, false);
    mr_str_printf(&part, total > 1 ? "%s %d/%d" : "%s", phase, done, total);
    add_part(&f, &part, false);
    put_state(&f, r, max_steps - step + 1);
    put_details(&f, r);
    mr_log_status(f.text.data);
    mr_str_clear(&f.text);
    mr_str_clear(&part);
}

/* Warnings are said by who found them; start and stop by the command. */
void mr_progress_event(mr_run *r, int64_t step, const char *kind, const char *text) {
    if (!strcmp(kind, "fault")) {
        if (r->n_faults_shown++ < max_faults_shown) mr_warn("step %lld: %s", (long long)step, text);
    } else if (!strcmp(kind, "reload") || !strcmp(kind, "set")) {
        mr_info("step %lld: %s", (long long)step, text);
    } else if (!strcmp(kind, "pause")) { /* said whether anybody sits there or not: this is how a night run goes on */
        mr_warn("step %lld: paused: %s; to leave instead: kill %ld, and later: medrl resume %s", (long long)step, text,
                (long)getpid(), r->dir);
    } else if (!strcmp(kind, "go on")) {
        mr_info("step %lld: goes on: %s", (long long)step, text);
    } else if (!strcmp(kind, "eval") && r->opts.progress) {
        mr_info("step %lld: eval: %s", (long long)step, text);
    } else if (!strcmp(kind, "attach")) {
        mr_info("step %lld: attach, %s", (long long)step, text);
    } else if (!strcmp(kind, "checkpoint") && r->opts.progress) {
        mr_info("step %lld: %s is saved in %s", (long long)step, text, r->dir);
    }
}

void mr_progress_clear(mr_run *r) {
    if (r->opts.progress) mr_log_status(NULL);
    mr_str_clear(&r->by_name);
    clear_shown(&r->shown);
}
