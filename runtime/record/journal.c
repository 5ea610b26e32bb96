/* journal.c - what a run that was ended beyond its checkpoint has to repeat: see mr_run_journal in run.h.
 *
 * The events after a checkpoint are cut away when the run goes on, and are recorded once more as they take place. Until
 * then they stand in journal.json, so that a second death on the way loses none of them. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "record/record_impl.h"

enum { MAX_JOURNAL = 1 << 28 };

static bool is_kept(const cJSON *event) {
    static const char *const kinds[] = { "reload", "set", "script" };
    const char *kind = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(event, "kind"));
    for (size_t i = 0; kind && i < sizeof kinds / sizeof kinds[0]; i++)
        if (!strcmp(kind, kinds[i])) return true;
    return false;
}

static int64_t step_of(const cJSON *event) {
    const cJSON *step = cJSON_GetObjectItemCaseSensitive(event, "step");
    return cJSON_IsNumber(step) ? (int64_t)step->valuedouble : -1;
}

/* Calls f for each whole line from a byte on that is an object; half a line at the end is what a kill leaves. */
static mr_status each_line(const char *dir, const char *name, int64_t from, void (*f)(void *self, cJSON *line),
                           void *self, mr_err *err) {
    char *path = mr_path_join(dir, name);
    mr_map map;
    mr_status st = mr_map_open(&map, path, err);
    if (st == MR_OK) {
        for (size_t at = from > 0 ? (size_t)from : 0; at < map.len;) {
            const char *line = (const char *)map.data + at, *end = memchr(line, '\n', map.len - at);
            if (!end) break;
            cJSON *object;
            if (mr_json_parse(&object, line, (size_t)(end - line), name, NULL) == MR_OK) f(self, object);
            at += (size_t)(end - line) + 1;
        }
        mr_map_close(&map);
    }
    mr_free(path);
    return st;
}

static void take_event(void *self, cJSON *line) {
    if (is_kept(line))
        cJSON_AddItemToArray(self, line);
    else
        cJSON_Delete(line);
}

static void take_step(void *self, cJSON *line) {
    int64_t *last = self;
    if (step_of(line) > *last) *last = step_of(line);
    cJSON_Delete(line);
}

/* Whether `event` is among those of its step that were recorded again; that one is then used up. */
static bool is_done(cJSON *done, const cJSON *event) {
    for (cJSON *d = done->child; d; d = d->next) {
        if (!mr_json_equal(cJSON_GetObjectItemCaseSensitive(d, "kind"), cJSON_GetObjectItemCaseSensitive(event, "kind")) ||
            !mr_json_equal(cJSON_GetObjectItemCaseSensitive(d, "text"), cJSON_GetObjectItemCaseSensitive(event, "text")))
            continue;
        cJSON_Delete(cJSON_DetachItemViaPointer(done, d));
        return true;
    }
    return false;
}

/* The rest of a journal that was being repeated: what comes after the step that the later attempt reached, and at that
 * step what it had not recorded again. */
static void add_rest(cJSON *events, const cJSON *old, int64_t reached) {
    cJSON *done = cJSON_CreateArray();
    for (const cJSON *e = events->child; e; e = e->next)
        if (step_of(e) == reached) cJSON_AddItemToArray(done, cJSON_Duplicate(e, true));
    for (const cJSON *e = old ? old->child : NULL; e; e = e->next) {
        const int64_t step = step_of(e);
        if (step < reached || (step == reached && is_done(done, e))) continue;
        cJSON_AddItemToArray(events, cJSON_Duplicate(e, true));
    }
    cJSON_Delete(done);
}

mr_status mr_run_journal(const char *dir, int64_t events_bytes, cJSON **events, int64_t *last, mr_err *err) {
    *events = NULL;
    *last = 0;
    cJSON *list = cJSON_CreateArray(), *kept = NULL;
    char *path = mr_path_join(dir, "journal.json");
    mr_status st = each_line(dir, "events.jsonl", events_bytes, take_event, list, err);
    if (st == MR_OK) st = each_line(dir, "metrics.jsonl", 0, take_step, last, err);
    if (st == MR_OK && mr_path_exists(path)) st = mr_json_load(&kept, path, MAX_JOURNAL, err);
    if (kept) {
        const cJSON *was = cJSON_GetObjectItemCaseSensitive(kept, "last");
        add_rest(list, cJSON_GetObjectItemCaseSensitive(kept, "events"), *last);
        if (cJSON_IsNumber(was) && was->valuedouble > (double)*last) *last = (int64_t)was->valuedouble;
    }
    cJSON_Delete(kept);
    mr_free(path);
    if (st == MR_OK)
        *events = list;
    else
        cJSON_Delete(list);
    return st;
}

mr_status mr_run_keep_journal(mr_run *r, const cJSON *events, int64_t last, mr_err *err) {
    char *path = mr_path_join(r->dir, "journal.json");
    mr_status st = MR_OK;
    if (!events) {
        if (unlink(path) != 0 && mr_path_exists(path)) st = mr_fail_errno(err, "%s", path);
    } else {
        mr_str s = { 0 };
        mr_str_printf(&s, "{\"last\": %" PRId64 ", \"events\": ", last);
        mr_json_put(&s, events);
        mr_str_puts(&s, "}\n");
        st = mr_file_write(path, s.data, s.len, err);
        mr_str_clear(&s);
    }
    mr_free(path);
    return st;
}
