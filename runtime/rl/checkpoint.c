/* checkpoint.c - see checkpoint.h. */
#include "rl/checkpoint.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/log.h"
#include "rl/trainer.h"

static const char PREFIX[] = "checkpoint-", TRASH[] = ".trash-", MANIFEST[] = "MANIFEST", STATE[] = "trainer_state.json",
                  OPTIMIZER[] = "optimizer.safetensors";
/* The file that holds the trained values, best first: f32 masters of full training, the adapter. */
static const char *const VALUES[] = { "params.safetensors", "adapter_model.safetensors" };
enum { MAX_MANIFEST = 1 << 20, MAX_STATE = 1 << 28, MAX_NAME = 255 };

/* --- names --- */

/* The N of "checkpoint-N"; -1 for every other name. */
static int64_t step_of(const char *name) {
    size_t len = sizeof PREFIX - 1;
    if (strncmp(name, PREFIX, len) != 0 || !isdigit((unsigned char)name[len])) return -1;
    char *end;
    errno = 0;
    long long n = strtoll(name + len, &end, 10);
    return *end || errno ? -1 : n;
}

static int newest_first(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* The steps of those names that are checkpoints', newest first; n at most, owned, free with mr_free. */
static int64_t *steps_of(int *n_steps, char *const *names, int n) {
    int64_t *steps = mr_alloc((size_t)n * sizeof *steps);
    *n_steps = 0;
    for (int i = 0; i < n; i++) {
        steps[*n_steps] = step_of(names[i]);
        *n_steps += steps[*n_steps] >= 0;
    }
    qsort(steps, (size_t)*n_steps, sizeof *steps, newest_first);
    return steps;
}

static char *folder(const char *run_dir, int64_t step) {
    char name[64];
    snprintf(name, sizeof name, "%s%lld", PREFIX, (long long)step);
    return mr_path_join(run_dir, name);
}

/* --- writing --- */

mr_status mr_checkpoint_begin(char **tmp, const char *run_dir, int64_t step, mr_err *err) {
    char name[64];
    *tmp = NULL;
    MR_TRY(mr_mkdirs(run_dir, err));
    snprintf(name, sizeof name, ".tmp-%s%lld", PREFIX, (long long)step);
    char *path = mr_path_join(run_dir, name);
    mr_status st = mr_remove_tree(path, err);
    if (st == MR_OK) st = mr_mkdirs(path, err);
    if (st == MR_OK)
        *tmp = path;
    else
        mr_free(path);
    return st;
}

static mr_status add_line(mr_str *text, const char *dir, const char *name, mr_err *err) {
    char hex[65];
    char *path = mr_path_join(dir, name);
    mr_status st = mr_sha256_file(hex, path, err);
    mr_free(path);
    if (st == MR_OK) mr_str_printf(text, "%s  %s\n", hex, name);
    return st;
}

static mr_status write_manifest(const char *dir, mr_err *err) {
    char **names, *path = mr_path_join(dir, MANIFEST);
    int n;
    mr_str text = { 0 };
    mr_str_puts(&text, "");
    mr_status st = mr_dir_names(&names, &n, dir, err);
    for (int i = 0; i < n && st == MR_OK; i++)
        if (names[i][0] != '.' && strcmp(names[i], MANIFEST) != 0) st = add_line(&text, dir, names[i], err);
    if (st == MR_OK) st = mr_file_write(path, text.data, text.len, err);
    mr_dir_names_free(names, n);
    mr_str_clear(&text);
    mr_free(path);
    return st;
}

/* --- what goes --- */

static void discard(const char *run_dir, const char *name) {
    mr_err err;
    char *path = mr_path_join(run_dir, name);
    if (mr_remove_tree(path, &err) != MR_OK) mr_warn("%s: an old checkpoint could not be removed: %s", path, err.msg);
    mr_free(path);
}

static void throw_away(const char *run_dir, int64_t step) {
    char name[64];
    snprintf(name, sizeof name, "%s%s%lld", TRASH, PREFIX, (long long)step);
    char *from = folder(run_dir, step), *to = mr_path_join(run_dir, name);
    if (rename(from, to) == 0)
        discard(run_dir, name);
    else
        mr_warn("%s: an old checkpoint could not be removed: %s", from, strerror(errno));
    mr_free(from);
    mr_free(to);
}

mr_status mr_checkpoint_commit(const char *tmp, const char *run_dir, int64_t step, mr_err *err) {
    MR_TRY(write_manifest(tmp, err));
    char *final = folder(run_dir, step);
    const bool again = mr_path_exists(final); /* a resumed run that repeats the step, or a damaged folder */
    mr_status st = mr_dir_commit(tmp, final, err);
    if (again && st == MR_OK) {
        mr_err why; /* the old one has the temporary name now; the next mr_checkpoint_begin tries again */
        if (mr_remove_tree(tmp, &why) != MR_OK) mr_warn("%s: an old checkpoint could not be removed: %s", tmp, why.msg);
    } else if (again && st == MR_EINVAL) { /* the file system cannot swap two names */
        throw_away(run_dir, step);
        st = mr_dir_commit(tmp, final, err);
    }
    mr_free(final);
    return st;
}

/* --- reading --- */

/* hash: the file is read; otherwise it only has to be there. */
static mr_status check_line(const char *dir, const char *line, size_t len, bool hash, mr_str *seen, mr_err *err) {
    char hex[65], name[MAX_NAME + 1];
    if (len < 67 || len - 66 > MAX_NAME || line[64] != ' ' || line[65] != ' ' || memchr(line + 66, '/', len - 66) ||
        memchr(line + 66, 0, len - 66) || line[66] == '.')
        return mr_fail(err, MR_EDATA,
                       "%s/%s: not of the form \"SHA256  NAME\"; the checkpoint is damaged, use an older one", dir,
                       MANIFEST);
    memcpy(name, line + 66, len - 66);
    name[len - 66] = 0;
    char *path = mr_path_join(dir, name);
    mr_status st = MR_OK;
    if (hash)
        st = mr_sha256_file(hex, path, err);
    else if (!mr_path_exists(path))
        st = MR_ENOTFOUND;
    if (hash && st == MR_OK && memcmp(hex, line, 64) != 0)
        st = mr_fail(err, MR_EDATA, "%s: its SHA-256 is not the one in %s; the checkpoint is damaged, use an older one",
                     path, MANIFEST);
    else if (st == MR_ENOTFOUND)
        st = mr_fail(err, MR_EDATA, "%s: missing, but %s names it; the checkpoint is damaged, use an older one", path,
                     MANIFEST);
    mr_free(path);
    mr_str_printf(seen, "/%s/", name);
    return st;
}

static mr_status check_lines(const char *dir, const char *text, size_t len, bool hash, mr_str *seen, mr_err *err) {
    for (size_t at = 0; at < len;) {
        const char *end = memchr(text + at, '\n', len - at);
        if (!end)
            return mr_fail(err, MR_EDATA, "%s/%s: its last line is cut; the checkpoint is damaged, use an older one",
                           dir, MANIFEST);
        MR_TRY(check_line(dir, text + at, (size_t)(end - text) - at, hash, seen, err));
        at = (size_t)(end - text) + 1;
    }
    const char *const need[] = { "/trainer_state.json/", "/optimizer.safetensors/" };
    for (int i = 0; i < 2; i++)
        if (!seen->data || !strstr(seen->data, need[i]))
            return mr_fail(err, MR_EDATA, "%s/%s: does not name %.*s; the checkpoint is damaged, use an older one", dir,
                           MANIFEST, (int)strlen(need[i]) - 2, need[i] + 1);
    return MR_OK;
}

static mr_status verify(const char *dir, bool hash, mr_err *err) {
    char *path = mr_path_join(dir, MANIFEST), *text;
    size_t len;
    mr_str seen = { 0 };
    mr_status st = mr_file_read(&text, &len, path, MAX_MANIFEST, err);
    if (st == MR_ENOTFOUND)
        st = mr_fail(err, MR_EDATA, "%s: missing; the checkpoint was not finished, use an older one", path);
    if (st == MR_OK) {
        st = check_lines(dir, text, len, hash, &seen, err);
        mr_free(text);
    }
    mr_str_clear(&seen);
    mr_free(path);
    return st;
}

mr_status mr_checkpoint_verify(const char *dir, mr_err *err) {
    return verify(dir, true, err);
}

mr_status mr_checkpoint_find(char **out, const char *run_dir, mr_err *err) {
    char **names;
    int n, n_names;
    *out = NULL;
    MR_TRY(mr_dir_names(&names, &n_names, run_dir, err));
    int64_t *steps = steps_of(&n, names, n_names);
    mr_dir_names_free(names, n_names);
    for (int i = 0; i < n && !*out; i++) {
        char *path = folder(run_dir, steps[i]);
        mr_err why;
        if (mr_checkpoint_verify(path, &why) == MR_OK) {
            *out = path;
        } else {
            mr_warn("%s", why.msg);
            mr_free(path);
        }
    }
    mr_free(steps);
    if (*out) return MR_OK;
    return mr_fail(err, MR_ENOTFOUND,
                   n ? "%s: none of its checkpoints is whole; start the run anew"
                     : "%s: no checkpoint-N in it; was save_steps ever reached?",
                   run_dir);
}

/* --- trainer_state.json --- */

static int by_key(const void *a, const void *b) {
    return strcmp((*(cJSON *const *)a)->string, (*(cJSON *const *)b)->string);
}

static void indent(mr_str *s, int depth) {
    mr_str_puts(s, "\n");
    for (int i = 0; i < depth; i++) mr_str_puts(s, "  ");
}

static void put_sorted(mr_str *s, const cJSON *item, int depth) {
    bool object = cJSON_IsObject(item);
    int n = object || cJSON_IsArray(item) ? cJSON_GetArraySize(item) : 0, i = 0;
    if (!n) {
        mr_json_put(s, item);
        return;
    }
    const cJSON **child = mr_alloc((size_t)n * sizeof *child);
    for (const cJSON *c = item->child; c; c = c->next) child[i++] = c;
    if (object) qsort(child, (size_t)n, sizeof *child, by_key);
    mr_str_puts(s, object ? "{" : "[");
    for (i = 0; i < n; i++) {
        if (i) mr_str_puts(s, ",");
        indent(s, depth + 1);
        if (object) {
            mr_json_put_string(s, child[i]->string, strlen(child[i]->string));
            mr_str_puts(s, ": ");
        }
        put_sorted(s, child[i], depth + 1);
    }
    indent(s, depth);
    mr_str_puts(s, object ? "}" : "]");
    mr_free(child);
}

mr_status mr_checkpoint_write_state(const char *dir, const cJSON *state, mr_err *err) {
    mr_str text = { 0 };
    put_sorted(&text, state, 0);
    mr_str_puts(&text, "\n");
    char *path = mr_path_join(dir, STATE);
    mr_status st = mr_file_write(path, text.data, text.len, err);
    mr_free(path);
    mr_str_clear(&text);
    return st;
}

mr_status mr_checkpoint_read_state(cJSON **out, const char *dir, mr_err *err) {
    char *path = mr_path_join(dir, STATE);
    mr_status st = mr_json_load(out, path, MAX_STATE, err);
    mr_free(path);
    return st;
}

mr_status mr_checkpoint_check_format(const cJSON *state, const char *dir, mr_err *err) {
    const cJSON *medrl = cJSON_GetObjectItemCaseSensitive(state, "medrl"),
                *format = cJSON_GetObjectItemCaseSensitive(medrl, "format");
    if (!cJSON_IsObject(medrl))
        return mr_fail(err, MR_EDATA, "%s/%s: field \"medrl\" is missing; it is not a checkpoint of medrl", dir, STATE);
    if (!format) return MR_OK;
    if (!cJSON_IsNumber(format) || format->valuedouble < 1)
        return mr_fail(err, MR_EDATA, "%s/%s: field \"medrl.format\" makes no sense; the checkpoint is damaged, use an older one",
                       dir, STATE);
    if (format->valuedouble > MR_CHECKPOINT_FORMAT)
        return mr_fail(err, MR_EDATA,
                       "%s/%s: is of checkpoint format %.0f, this medrl reads up to %d; continue with the medrl that wrote it", dir,
                       STATE, format->valuedouble, MR_CHECKPOINT_FORMAT);
    return MR_OK;
}

/* --- pruning --- */

static bool looks_whole(const char *run_dir, int64_t step) {
    char *path = folder(run_dir, step);
    const bool whole = verify(path, false, NULL) == MR_OK;
    mr_free(path);
    return whole;
}

/* The step of the checkpoint that an evaluation found best, by the newest state that can be read; -1 when there was none. */
static int64_t best_step(const char *run_dir, const int64_t *steps, int n) {
    cJSON *state = NULL;
    for (int i = 0; i < n && !state; i++) {
        char *path = folder(run_dir, steps[i]);
        mr_checkpoint_read_state(&state, path, NULL);
        mr_free(path);
    }
    const cJSON *best = cJSON_GetObjectItemCaseSensitive(state, "best_model_checkpoint");
    const int64_t step = cJSON_IsString(best) ? step_of(mr_path_name(best->valuestring)) : -1;
    cJSON_Delete(state);
    return step;
}

void mr_checkpoint_prune(const char *run_dir, int keep) {
    char **names;
    int n, n_names, n_whole = 0;
    mr_err err;
    if (keep < 1) return;
    if (mr_dir_names(&names, &n_names, run_dir, &err) != MR_OK) {
        mr_warn("%s; old checkpoints stay", err.msg);
        return;
    }
    for (int i = 0; i < n_names; i++) /* what an earlier removal left */
        if (strncmp(names[i], TRASH, sizeof TRASH - 1) == 0) discard(run_dir, names[i]);
    int64_t *steps = steps_of(&n, names, n_names);
    mr_dir_names_free(names, n_names);
    const int64_t best = n > keep ? best_step(run_dir, steps, n) : -1;
    for (int i = 0; i < n && n > keep; i++) {
        const bool whole = n_whole < 2 && looks_whole(run_dir, steps[i]);
        n_whole += whole;
        if (i >= keep && !whole && steps[i] != best) throw_away(run_dir, steps[i]);
    }
    mr_free(steps);
}

/* --- hash --- */

static mr_status hash_file(mr_sha *sha, const char *dir, const char *name, mr_err *err) {
    mr_map map;
    char *path = mr_path_join(dir, name);
    mr_status st = mr_map_open(&map, path, err);
    mr_free(path);
    MR_TRY(st);
    mr_sha_add(sha, map.data, map.len);
    mr_map_close(&map);
    return MR_OK;
}

/* Position: what trainer_state.json says under "medrl"."position", as canonical text. Clock readings and the log are
 * not part of it. */
static mr_status hash_position(mr_sha *sha, const char *dir, mr_err *err) {
    cJSON *state;
    MR_TRY(mr_checkpoint_read_state(&state, dir, err));
    const cJSON *position =
        cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(state, "medrl"), "position");
    mr_status st = MR_OK;
    if (!cJSON_IsObject(position))
        st = mr_fail(err, MR_EDATA, "%s/%s: field \"medrl.position\" is missing; it is not a checkpoint of medrl", dir,
                     STATE);
    else {
        mr_str text = { 0 };
        put_sorted(&text, position, 0);
        mr_sha_add(sha, text.data, text.len);
        mr_str_clear(&text);
    }
    cJSON_Delete(state);
    return st;
}

mr_status mr_checkpoint_hash(char hex[65], const char *checkpoint, mr_err *err) {
    const char *values = NULL;
    hex[0] = 0;
    for (size_t i = 0; i < sizeof VALUES / sizeof *VALUES && !values; i++) {
        char *path = mr_path_join(checkpoint, VALUES[i]);
        if (mr_path_exists(path)) values = VALUES[i];
        mr_free(path);
    }
    if (!values)
        return mr_fail(err, MR_ENOTFOUND, "%s: holds neither %s nor %s; give the folder of a checkpoint", checkpoint,
                       VALUES[0], VALUES[1]);
    mr_sha *sha = mr_sha_new();
    mr_status st = hash_file(sha, checkpoint, values, err);
    if (st == MR_OK) st = hash_file(sha, checkpoint, OPTIMIZER, err);
    if (st == MR_OK) st = hash_position(sha, checkpoint, err);
    mr_sha_end(sha, hex);
    if (st != MR_OK) hex[0] = 0;
    return st;
}
