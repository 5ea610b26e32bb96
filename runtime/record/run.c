/* run.c - the run folder: its name, its lock, and three append-only files of JSON lines.
 *
 * A line is written by one write(2) to a file that is opened for appending; when that fails, the file is cut back to
 * whole lines. Numbers have
 * the shortest form that reads back, so the same run writes the same bytes (clock metrics and the events' time
 * apart). */
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/log.h"
#include "base/proc.h"
#include "files/rows.h"
#include "record/record_impl.h"
#include "rl/metrics.h"

enum { max_names = 10000 };

bool mr_is_correctness(const char *reward) {
    return !strncmp(reward, "correctness", 11);
}

/* ---- names and locks ---- */

static bool has(const char *dir, const char *name) {
    char *path = mr_path_join(dir, name);
    const bool found = mr_path_exists(path);
    mr_free(path);
    return found;
}

static int64_t size_of(const char *dir, const char *name) {
    char *path = mr_path_join(dir, name);
    struct stat info;
    const int64_t size = stat(path, &info) ? 0 : (int64_t)info.st_size;
    mr_free(path);
    return size;
}

/* A folder with steps or results in it, or with a config.json that is not ours (a model's): a new run leaves it
 * alone. A run that ended
 * before its first step left nothing, and its folder is used again. */
static bool is_taken(const char *dir) {
    if (size_of(dir, "metrics.jsonl") > 0 || size_of(dir, "samples.jsonl") > 0) return true;
    if (has(dir, "adapter") || has(dir, "model")) return true;
    return has(dir, "config.json") && !has(dir, "events.jsonl");
}

static mr_status take_lock(mr_run *r, mr_err *err) {
    char *path = mr_path_join(r->dir, "lock");
    mr_status st = mr_lock_take(&r->lock, path, err);
    mr_free(path);
    return st;
}

static mr_status claim_new(mr_run *r, const char *dir, mr_err *err) {
    for (int n = 1; n < max_names; n++) {
        mr_free(r->dir);
        r->dir = n == 1 ? mr_strdup(dir) : mr_asprintf("%s-%d", dir, n);
        if (mr_path_exists(r->dir) && (!mr_path_is_dir(r->dir) || is_taken(r->dir))) continue;
        MR_TRY(mr_mkdirs(r->dir, err));
        mr_status st = take_lock(r, err);
        if (st == MR_EAGAIN) continue; /* another run began in it just now */
        MR_TRY(st);
        if (!is_taken(r->dir)) return MR_OK;
        mr_lock_release(&r->lock);
    }
    return mr_fail(err, MR_EINVAL, "%s: the names up to %s-%d hold runs; choose another output_dir", dir, dir,
                   max_names - 1);
}

static mr_status claim_old(mr_run *r, const char *dir, mr_err *err) {
    r->dir = mr_strdup(dir);
    if (!mr_path_is_dir(dir) || !has(dir, "events.jsonl"))
        return mr_fail(err, MR_ENOTFOUND, "%s: holds no run, want a folder that `medrl run` made", dir);
    return take_lock(r, err);
}

/* ---- lines ---- */

static mr_status open_file(mr_record_file *f, const char *dir, const char *name, mr_err *err) {
    f->path = mr_path_join(dir, name);
    f->fd = open(f->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    struct stat info;
    if (f->fd < 0 || fstat(f->fd, &info)) {
        mr_fail_errno(err, "%s: could not be opened for writing", f->path);
        return MR_EIO;
    }
    f->bytes = (int64_t)info.st_size;
    return MR_OK;
}

static mr_status put_line(mr_record_file *f, mr_str *line, mr_err *err) {
    mr_str_puts(line, "\n");
    mr_status st = mr_write_all(f->fd, line->data, line->len, f->path, err);
    if (st == MR_OK)
        f->bytes += (int64_t)line->len;
    else if (ftruncate(f->fd, (off_t)f->bytes)) /* a torn line is cut on resume as well */
        mr_warn("%s: ends in half a line", f->path);
    mr_str_clear(line);
    return st;
}

static mr_status cut_file(mr_record_file *f, int64_t bytes, mr_err *err) {
    if (bytes < 0 || bytes > f->bytes)
        return mr_fail(err, MR_EDATA,
                       "%s: has %" PRId64 " bytes, the checkpoint recorded %" PRId64
                       "; the file was changed: put it back, or start a new run",
                       f->path, f->bytes, bytes);
    char last = '\n';
    if (bytes > 0 && pread(f->fd, &last, 1, (off_t)bytes - 1) != 1) last = 0;
    if (last != '\n')
        return mr_fail(err, MR_EDATA,
                       "%s: byte %" PRId64
                       " is not the end of a line; the file was changed: put it back, or start a new run",
                       f->path, bytes);
    if (ftruncate(f->fd, (off_t)bytes)) {
        mr_fail_errno(err, "%s: could not be cut", f->path);
        return MR_EIO;
    }
    f->bytes = bytes;
    return MR_OK;
}

static mr_status sync_file(const mr_record_file *f, mr_err *err) {
    if (!fsync(f->fd)) return MR_OK;
    mr_fail_errno(err, "%s: could not be made durable", f->path);
    return MR_EIO;
}

/* Whether the file that is written to is no longer the one of that name: a folder that was removed or renamed takes
 * every line in silence. */
static bool is_gone(const mr_record_file *f) {
    struct stat open_one, named;
    if (fstat(f->fd, &open_one) || stat(f->path, &named)) return true;
    return open_one.st_ino != named.st_ino || open_one.st_dev != named.st_dev;
}

static void put_key(mr_str *s, const char *key) {
    mr_str_puts(s, s->len > 1 ? ", " : "");
    mr_json_put_string(s, key, strlen(key));
    mr_str_puts(s, ": ");
}

static void put_number(mr_str *s, const char *key, double x) {
    put_key(s, key);
    mr_json_put_number(s, x);
}

static void put_text(mr_str *s, const char *key, const char *text) {
    put_key(s, key);
    if (text)
        mr_json_put_string(s, text, strlen(text));
    else
        mr_str_puts(s, "null");
}

/* ---- the observer ---- */

static mr_status on_step(void *self, int64_t step, int64_t max_steps, const mr_metric *m, int n, mr_err *err) {
    mr_run *r = self;
    mr_str s = { 0 };
    mr_str_puts(&s, "{");
    put_number(&s, "step", (double)step);
    for (int i = 0; i < n; i++) put_number(&s, m[i].name, m[i].value);
    mr_str_puts(&s, "}");
    if (is_gone(&r->metrics)) {
        mr_str_clear(&s);
        return mr_fail(err, MR_EIO,
                       "%s: was moved or removed while the run wrote to it; what is recorded would be lost, so the run "
                       "ends here: put the folder back",
                       r->metrics.path);
    }
    r->step = step;
    MR_TRY(put_line(&r->metrics, &s, err));
    MR_TRY(mr_events_add(&r->tensorboard, step, m, n, err));
    mr_progress_step(r, step, max_steps, m, n);
    r->n_samples = r->n_judged = r->n_exact = r->n_faults_shown = 0;
    return mr_worst_step(r, step, err);
}

/* Column "answer" of the row, which scores are about; it makes the record readable without the data. */
static const char *reference_of(const cJSON *row) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(row, "answer");
    return cJSON_IsString(v) ? v->valuestring : NULL;
}

static mr_status on_sample(void *self, const mr_sample *sample, int n_rewards, const char *const *names, mr_err *err) {
    mr_run *r = self;
    mr_str s = { 0 };
    bool judged = false, exact = false;
    mr_str_puts(&s, "{");
    put_number(&s, "step", (double)sample->step);
    put_number(&s, "prompt_index", sample->prompt);
    put_number(&s, "sample", sample->sample);
    put_number(&s, "row", (double)sample->row);
    put_text(&s, "source", sample->source ? sample->source : "");
    put_text(&s, "prompt", sample->prompt_text);
    put_text(&s, "completion", sample->text);
    cJSON *row = NULL;
    if (sample->row_json) mr_json_parse(&row, sample->row_json, strlen(sample->row_json), "row", NULL);
    put_text(&s, "answer", reference_of(row));
    put_key(&s, "rewards");
    mr_str_puts(&s, "{");
    for (int i = 0; i < n_rewards; i++) {
        const mr_score *score = &sample->scores[i];
        mr_str_puts(&s, i ? ", " : "");
        mr_json_put_string(&s, names[i], strlen(names[i]));
        mr_str_puts(&s, ": ");
        mr_json_put_number(&s, score->kind == MR_ABSTAINED ? (double)NAN : score->value);
        if (!mr_is_correctness(names[i]) || score->kind == MR_ABSTAINED) continue;
        judged = true;
        exact |= score->kind == MR_SCORED && score->value == 2.0;
    }
    mr_str_puts(&s, "}");
    put_key(&s, "faults");
    mr_str_puts(&s, "[");
    bool first = true;
    for (int i = 0; i < n_rewards; i++) {
        if (sample->scores[i].kind != MR_FAULT) continue;
        if (!first) mr_str_puts(&s, ", ");
        first = false;
        mr_json_put_string(&s, names[i], strlen(names[i]));
    }
    mr_str_puts(&s, "]");
    put_number(&s, "reward", sample->reward);
    put_number(&s, "advantage", (double)sample->advantage);
    put_number(&s, "tokens", sample->n_tokens);
    put_key(&s, "truncated");
    mr_str_puts(&s, sample->truncated ? "true" : "false");
    if (row && sample->sample == 0) { /* the group's other samples have the same; `medrl score` needs it */
        put_key(&s, "columns");
        mr_json_put(&s, row);
    }
    cJSON_Delete(row);
    mr_str_puts(&s, "}");
    if (r->n_samples == 0) mr_progress_sample(r, sample, n_rewards, names);
    r->n_samples++;
    r->n_judged += judged;
    r->n_exact += exact;
    mr_worst_note(r, sample->reward, s.data, s.len);
    return put_line(&r->samples, &s, err);
}

static mr_status put_event(mr_run *r, int64_t step, const char *kind, const char *text, const cJSON *detail,
                           mr_err *err) {
    mr_str s = { 0 };
    mr_str_puts(&s, "{");
    put_number(&s, "step", (double)step);
    put_number(&s, "time", floor(mr_wall_s() * 1000) / 1000);
    put_text(&s, "kind", kind);
    put_text(&s, "text", text);
    if (detail) {
        put_key(&s, "detail");
        mr_json_put(&s, detail);
    }
    mr_str_puts(&s, "}");
    if (!r->uncut) return put_line(&r->events, &s, err);
    if (r->held_events.len) mr_str_puts(&r->held_events, "\n");
    mr_str_add(&r->held_events, s.data, s.len);
    mr_str_clear(&s);
    return MR_OK;
}

static mr_status on_event(void *self, int64_t step, const char *kind, const char *text, const cJSON *detail,
                          mr_err *err) {
    mr_run *r = self;
    MR_TRY(put_event(r, step, kind, text, detail, err));
    mr_progress_event(r, step, kind, text ? text : "");
    return MR_OK;
}

static void on_progress(void *self, int64_t step, int64_t max_steps, const char *phase, int done, int total) {
    mr_progress_phase(self, step, max_steps, phase, done, total);
}

static mr_status on_flush(void *self, int64_t *metrics_bytes, int64_t *samples_bytes, int64_t *events_bytes,
                          mr_err *err) {
    mr_run *r = self;
    MR_TRY(sync_file(&r->metrics, err));
    MR_TRY(sync_file(&r->samples, err));
    MR_TRY(sync_file(&r->events, err));
    if (r->tensorboard.fd >= 0) MR_TRY(sync_file(&r->tensorboard, err));
    *metrics_bytes = r->metrics.bytes;
    *samples_bytes = r->samples.bytes;
    *events_bytes = r->events.bytes;
    return MR_OK;
}

mr_observer mr_run_observer(mr_run *r) {
    return (mr_observer){ r, on_step, on_sample, on_event, on_progress, on_flush };
}

/* ---- open and close ---- */

static mr_status open_run(mr_run *r, const char *dir, mr_err *err) {
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/') n--; /* "outputs/" and its next name "outputs-2" */
    if (n == 0) return mr_fail(err, MR_EINVAL, "output_dir is \"\", want the name of a folder");
    char *plain = mr_strndup(dir, n);
    mr_status st = r->opts.mode == MR_RUN_NEW ? claim_new(r, plain, err) : claim_old(r, plain, err);
    mr_free(plain);
    if (st == MR_OK) st = open_file(&r->metrics, r->dir, "metrics.jsonl", err);
    if (st == MR_OK) st = open_file(&r->samples, r->dir, "samples.jsonl", err);
    if (st == MR_OK) st = open_file(&r->events, r->dir, "events.jsonl", err);
    if (st == MR_OK && r->opts.tensorboard) st = mr_events_open(&r->tensorboard, r->dir, err);
    return st;
}

mr_status mr_run_open(mr_run **out, const char *dir, const mr_run_opts *opts, mr_err *err) {
    *out = NULL;
    mr_run *r = mr_alloc(sizeof *r);
    r->opts = *opts;
    r->uncut = opts->mode == MR_RUN_RESUME;
    r->lock = (mr_lock){ -1, -1 };
    r->metrics.fd = r->samples.fd = r->events.fd = r->tensorboard.fd = -1;
    r->exact = r->tokens_per_s = r->step_s = r->cut = r->same = r->length = r->usd = r->faults = (double)NAN;
    mr_status st = open_run(r, dir, err);
    if (st != MR_OK) {
        mr_run_close(r);
        return st;
    }
    *out = r;
    return MR_OK;
}

static void close_file(mr_record_file *f) {
    if (f->fd >= 0) close(f->fd);
    mr_free(f->path);
}

void mr_run_close(mr_run *r) {
    if (!r) return;
    mr_progress_clear(r);
    mr_worst_clear(r);
    mr_str_clear(&r->held_events);
    close_file(&r->metrics);
    close_file(&r->samples);
    close_file(&r->events);
    close_file(&r->tensorboard);
    mr_lock_release(&r->lock);
    mr_free(r->dir);
    mr_free(r);
}

const char *mr_run_dir(const mr_run *r) {
    return r->dir;
}

mr_status mr_run_config(mr_run *r, const cJSON *config, mr_err *err) {
    char *text = cJSON_Print(config), *path = mr_path_join(r->dir, "config.json");
    mr_str s = { 0 };
    mr_status st;
    if (text) {
        mr_str_printf(&s, "%s\n", text);
        st = mr_file_write(path, s.data, s.len, err);
    } else {
        st = mr_fail(err, MR_ENOMEM, "%s: no memory to write it", path);
    }
    mr_str_clear(&s);
    cJSON_free(text);
    mr_free(path);
    return st;
}

void mr_run_intervals(mr_run *r, int logging_steps, int sample_steps) {
    r->opts.logging_steps = logging_steps;
    r->opts.sample_steps = sample_steps;
}

mr_status mr_run_store(mr_run *r, const char *name, const char *text, size_t len, const char *sha256, mr_err *err) {
    if (strlen(sha256) != 64 || strspn(sha256, "0123456789abcdef") != 64)
        return mr_fail(err, MR_EINVAL, "%s: \"%.80s\" is no SHA-256", name, sha256);
    size_t n = strlen(name);
    bool is_lua = n >= 4 && strcmp(name + n - 4, ".lua") == 0;
    char *folder = mr_path_join(r->dir, "scripts"), *path = mr_asprintf("%s/%s.%s", folder, sha256, is_lua ? "lua" : "jinja");
    mr_status st = mr_mkdirs(folder, err);
    if (st == MR_OK && !mr_path_exists(path)) st = mr_file_write(path, text, len, err);
    mr_free(folder);
    mr_free(path);
    return st;
}

mr_status mr_run_script(mr_run *r, const char *module, const char *name, const char *text, size_t len,
                        const char *sha256, mr_err *err) {
    MR_TRY(mr_run_store(r, name, text, len, sha256, err));
    cJSON *detail = cJSON_CreateObject();
    cJSON_AddStringToObject(detail, "sha256", sha256);
    cJSON_AddStringToObject(detail, "module", module);
    mr_status st = put_event(r, r->step, "script", name, detail, err);
    cJSON_Delete(detail);
    return st;
}

/* The curve and the step go on where the metrics end. */
static void recall(mr_run *r) {
    mr_rows *rows = NULL;
    if (mr_rows_open(&rows, r->metrics.path, NULL) != MR_OK) return;
    const int64_t n = mr_rows_count(rows);
    for (int64_t i = n > MR_SPARK ? n - MR_SPARK : 0; i < n; i++) {
        cJSON *row = NULL;
        if (mr_rows_get(rows, i, &row, NULL) != MR_OK) continue;
        const cJSON *reward = cJSON_GetObjectItemCaseSensitive(row, MR_M_REWARD),
                    *step = cJSON_GetObjectItemCaseSensitive(row, "step");
        if (cJSON_IsNumber(reward)) mr_progress_reward(r, reward->valuedouble);
        if (cJSON_IsNumber(step)) r->step = (int64_t)step->valuedouble;
        cJSON_Delete(row);
    }
    mr_rows_close(rows);
}

mr_status mr_run_cut(mr_run *r, int64_t metrics_bytes, int64_t samples_bytes, int64_t events_bytes, mr_err *err) {
    MR_TRY(cut_file(&r->metrics, metrics_bytes, err));
    MR_TRY(cut_file(&r->samples, samples_bytes, err));
    MR_TRY(cut_file(&r->events, events_bytes, err));
    r->uncut = false;
    recall(r);
    MR_TRY(mr_worst_recall(r, err));
    MR_TRY(mr_events_cut(&r->tensorboard, r->step, err));
    return r->held_events.len ? put_line(&r->events, &r->held_events, err) : MR_OK;
}
