/* worst.c - worst.jsonl: of each 50 steps the eight samples with the lowest reward, as samples.jsonl has them, so that somebody looks at them: a
 * grader that is fooled, or that punishes what is right, shows at the ends first (reliability.md P17).
 *
 * It is a function of samples.jsonl: a resumed run cuts it to whole windows and takes the present one from there. */
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "record/record_impl.h"

enum { WINDOW = 50 };

void mr_worst_note(mr_run *r, double reward, const char *line, size_t len) {
    if (isnan(reward)) return; /* no reward applied */
    int at = r->n_low;
    while (at > 0 && r->low[at - 1].reward > reward) at--; /* among equals the earlier one stays before */
    if (at == MR_WORST) return;
    if (r->n_low == MR_WORST) mr_free(r->low[--r->n_low].line);
    memmove(&r->low[at + 1], &r->low[at], (size_t)(r->n_low - at) * sizeof r->low[0]);
    r->low[at].reward = reward;
    r->low[at].line = mr_strndup(line, len);
    r->n_low++;
}

void mr_worst_clear(mr_run *r) {
    for (int i = 0; i < r->n_low; i++) mr_free(r->low[i].line);
    r->n_low = 0;
}

mr_status mr_worst_step(mr_run *r, int64_t step, mr_err *err) {
    if (step % WINDOW != 0 || !r->n_low) return MR_OK;
    char *path = mr_path_join(r->dir, "worst.jsonl");
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    mr_str text = { 0 };
    for (int i = 0; i < r->n_low; i++) mr_str_printf(&text, "%s\n", r->low[i].line);
    mr_status st = MR_OK;
    if (fd < 0) {
        mr_fail_errno(err, "%s: could not be opened for writing", path);
        st = MR_EIO;
    }
    if (st == MR_OK) st = mr_write_all(fd, text.data, text.len, path, err);
    if (st == MR_OK && fsync(fd) != 0) { /* once in 50 steps; the checkpoint that follows may cut the samples before it */
        mr_fail_errno(err, "%s: could not be made durable", path);
        st = MR_EIO;
    }
    if (fd >= 0) close(fd);
    mr_str_clear(&text);
    mr_free(path);
    mr_worst_clear(r);
    return st;
}

/* The step of a line of samples; -1: it has none. Such a line is ours: it begins with it. */
static int64_t step_of(const char *line, size_t len) {
    static const char begin[] = "{\"step\": ";
    char digits[24] = "";
    if (len < sizeof begin + 1 || memcmp(line, begin, sizeof begin - 1) != 0) return -1;
    memcpy(digits, line + sizeof begin - 1, len - sizeof begin < sizeof digits - 1 ? len - sizeof begin : sizeof digits - 1);
    return strtoll(digits, NULL, 10);
}

/* Whole windows until `step` stay. */
static mr_status cut_worst(const mr_run *r, int64_t step, mr_err *err) {
    char *path = mr_path_join(r->dir, "worst.jsonl");
    mr_map map;
    if (mr_map_open(&map, path, NULL) != MR_OK) {
        mr_free(path);
        return MR_OK;
    }
    size_t keep = 0;
    for (size_t at = 0; at < map.len;) {
        const char *line = (const char *)map.data + at, *end = memchr(line, '\n', map.len - at);
        if (!end) break;
        const int64_t of = step_of(line, (size_t)(end - line));
        if (of < 0 || of > step - step % WINDOW) break;
        at = keep = at + (size_t)(end - line) + 1;
    }
    const bool shorter = keep < map.len;
    mr_map_close(&map);
    mr_status st = MR_OK;
    if (shorter && truncate(path, (off_t)keep) != 0) {
        mr_fail_errno(err, "%s: could not be cut", path);
        st = MR_EIO;
    }
    mr_free(path);
    return st;
}

mr_status mr_worst_recall(mr_run *r, mr_err *err) {
    mr_map map;
    mr_worst_clear(r);
    MR_TRY(cut_worst(r, r->step, err));
    if (r->step % WINDOW == 0 || mr_map_open(&map, r->samples.path, NULL) != MR_OK) return MR_OK;
    const char *text = (const char *)map.data, *from = text + map.len;
    while (from > text) { /* back to the window's first sample */
        const char *before = from - 1 > text ? memrchr(text, '\n', (size_t)(from - 1 - text)) : NULL, *line = before ? before + 1 : text;
        const int64_t of = step_of(line, (size_t)(from - line));
        if (of >= 0 && of <= r->step - r->step % WINDOW) break;
        from = line;
    }
    for (const char *end; (end = memchr(from, '\n', (size_t)(text + map.len - from))); from = end + 1) {
        cJSON *sample = NULL;
        if (mr_json_parse(&sample, from, (size_t)(end - from), r->samples.path, NULL) == MR_OK) {
            const cJSON *reward = cJSON_GetObjectItemCaseSensitive(sample, "reward");
            if (cJSON_IsNumber(reward)) mr_worst_note(r, reward->valuedouble, from, (size_t)(end - from));
        }
        cJSON_Delete(sample);
    }
    mr_map_close(&map);
    return MR_OK;
}
