/* settings_live.c - settings that change while a run goes on: setting one, listing them, comparing two recipes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "rl/settings_impl.h"

/* ---- a field as JSON, the inverse of what parsing stores ---- */

/* The shortest decimal that gives this float: 1e-06, where the double next to it would print 9.99999997475e-07. */
static double decimal_of(float x) {
    char text[32];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)x);
        if (strtof(text, NULL) == x) break;
    }
    return strtod(text, NULL);
}

/* Sound for every field that is stored; NULL for those that only are checked. */
static cJSON *field_json(const mr_settings *s, const mr_field *f) {
    const unsigned char *at = (const unsigned char *)s + f->offset;
    const bool nullable = f->def && !strcmp(f->def, "null");
    switch (f->kind) {
    case K_FLAG:
        if (!f->offset) return NULL;
        /* fall through */
    case K_BOOL: return cJSON_CreateBool(*(const bool *)at);
    case K_INT: {
        const int x = *(const int *)at;
        return nullable && x == (int)f->unset ? cJSON_CreateNull() : cJSON_CreateNumber(x);
    }
    case K_WARMUP: return cJSON_CreateNumber(*(const int *)at);
    case K_U64: return cJSON_CreateNumber((double)*(const uint64_t *)at);
    case K_FLOAT: {
        const float x = *(const float *)at;
        return nullable && x == (float)f->unset ? cJSON_CreateNull() : cJSON_CreateNumber(decimal_of(x));
    }
    case K_DOUBLE: return cJSON_CreateNumber(*(const double *)at);
    case K_SIZE: {
        const size_t bytes = *(const size_t *)at;
        return bytes ? cJSON_CreateNumber((double)bytes) : cJSON_CreateNull();
    }
    case K_TABLE: { /* JSON text */
        cJSON *table = *(char *const *)at ? cJSON_Parse(*(char *const *)at) : NULL;
        return table ? table : cJSON_CreateNull();
    }
    case K_STRING: return cJSON_CreateString(*(char *const *)at ? *(char *const *)at : "");
    case K_AUTO: {
        const int x = *(const int *)at;
        return x == MR_DEQUANTIZE_AUTO ? cJSON_CreateString("auto") : cJSON_CreateBool(x == MR_DEQUANTIZE_YES);
    }
    case K_ENUM:
    case K_OPTIM:
    case K_SCALE: return cJSON_CreateString(f->names[*(const int *)at]);
    case K_ENUM_BIT: return cJSON_CreateString(f->names[*(const bool *)at]);
    case K_TARGETS: {
        cJSON *list = cJSON_CreateArray();
        for (int i = 0; i < (int)(sizeof s->lora.targets / sizeof s->lora.targets[0]); i++)
            cJSON_AddItemToArray(list, cJSON_CreateBool(((const bool *)at)[i]));
        return list;
    }
    case K_REPORT: return cJSON_CreateString(f->names[*(const bool *)at]);
    case K_BATCH: return NULL;
    }
    return NULL;
}

static void full_name(char full[96], const mr_settings *s, const mr_field *f) {
    const char *section = mr_settings_section(s, f);
    snprintf(full, 96, "%s%s%s", section, *section ? "." : "", f->key);
}

/* ---- what cannot change, and why ---- */

static const char *reason(const mr_field *f) {
    static const struct {
        const char *key, *why;
    } list[] = {
        { "method", "a run is of one kind" },
        { "output_dir", "the run is recorded there" },
        { "vram", "memory is planned with it" },
        { "dequantize", "memory is planned with it" },
        { "exact", "products were chosen with it" },
        { "prompts_per_step", "memory is planned with it" },
        { "max_prompt_length", "memory is planned with it" },
        { "max_completion_length", "memory is planned with it" },
        { "num_generations", "memory is planned with it" },
        { "gradient_checkpointing", "memory is planned with it" },
        { "optim", "the optimizer's moments are kept in its form" },
        { "adam_beta1", "the optimizer's moments were summed with it" },
        { "adam_beta2", "the optimizer's moments were summed with it" },
        { "adam_epsilon", "it belongs to the optimizer that was opened" },
        { "warmup_ratio", "the schedule is under way" },
        { "warmup_steps", "the schedule is under way" },
        { "lr_scheduler_type", "the schedule is under way" },
        { "num_train_epochs", "set max_steps" },
        { "seed", "the order of the data and all samples hang on it" },
        { "shuffle_dataset", "the order of the data hangs on it" },
        { "entropy_coef", "only 0 is supported" },
        { "report_to", "the record was opened with it" },
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
        if (!strcmp(f->key, list[i].key)) return list[i].why;
    return f->section == IN_LORA ? "the adapter was made with it" : "the model was opened with it";
}

/* ---- setting ---- */

static const mr_field *find(const mr_settings *s, const char *key) {
    char full[96];
    for (int i = 0; i < mr_n_fields; i++) {
        const mr_field *f = &mr_fields[i];
        if (!(f->methods & (1 << s->method))) continue;
        full_name(full, s, f);
        if (!strcmp(full, key) || (f->section == IN_TRAIN && !strcmp(f->key, key))) return f;
    }
    return NULL;
}

mr_status mr_settings_set(mr_settings *s, const char *key, const cJSON *value, char full[96], cJSON **old,
                          mr_err *err) {
    if (old) *old = NULL;
    const mr_field *f = find(s, key);
    if (!f) return mr_settings_unknown(s, "set", key, err);
    char name[96];
    full_name(name, s, f);
    if (!(f->methods & LIVE))
        return mr_fail(err, MR_EINVAL, "set: %s cannot change in a run: %s; start a new run for it", name, reason(f));
    mr_settings next = *s;
    MR_TRY(mr_settings_take(&next, f, value, "set", err));
    if (!strcmp(f->key, "temperature") && s->train.logp_temperature == s->train.temperature)
        next.train.logp_temperature = next.train.temperature;
    if (!strcmp(f->key, "logp_temperature") && next.train.logp_temperature < 0)
        next.train.logp_temperature = next.train.temperature;
    if (!strcmp(f->key, "max_steps") && next.train.max_steps < 1)
        return mr_fail(err, MR_EINVAL, "set: %s is %d, need at least 1", name, next.train.max_steps);
    MR_TRY(mr_settings_check_positive(&next, "set", err));
    if (old) *old = field_json(s, f);
    if (full) memcpy(full, name, sizeof name);
    *s = next;
    return MR_OK;
}

cJSON *mr_settings_live(const mr_settings *s) {
    cJSON *o = cJSON_CreateObject();
    char full[96];
    for (int i = 0; i < mr_n_fields; i++) {
        const mr_field *f = &mr_fields[i];
        if (!(f->methods & (1 << s->method)) || !(f->methods & LIVE)) continue;
        full_name(full, s, f);
        cJSON_AddItemToObject(o, full, field_json(s, f));
    }
    return o;
}

/* ---- comparing ---- */

static bool same(const mr_settings *a, const mr_settings *b, const mr_field *f) {
    cJSON *x = field_json(a, f), *y = field_json(b, f);
    const bool equal = (!x && !y) || mr_json_equal(x, y);
    cJSON_Delete(x);
    cJSON_Delete(y);
    return equal;
}

void mr_settings_diff(const mr_settings *start, const mr_settings *was, const mr_settings *now, cJSON *live,
                      mr_str *fixed) {
    char full[96];
    for (int i = 0; i < mr_n_fields; i++) {
        const mr_field *f = &mr_fields[i];
        if (!(f->methods & (1 << start->method)) || same(was, now, f)) continue;
        full_name(full, start, f);
        if (f->methods & LIVE) {
            cJSON_AddItemToObject(live, full, field_json(now, f));
        } else if (!same(start, now, f)) {
            cJSON *x = field_json(now, f), *y = field_json(start, f);
            mr_str_printf(fixed, "%s%s is ", fixed->len ? ", " : "", full);
            if (f->kind == K_TARGETS) { /* stored as flags; the names are in the recipe */
                mr_str_printf(fixed, "another list (%s)", reason(f));
            } else {
                mr_json_put(fixed, x);
                mr_str_puts(fixed, " instead of ");
                mr_json_put(fixed, y);
                mr_str_printf(fixed, " (%s)", reason(f));
            }
            cJSON_Delete(x);
            cJSON_Delete(y);
        }
    }
}
