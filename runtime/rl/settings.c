/* settings.c - a recipe's table to mr_settings: defaults, types, ranges, what must fit together, overrides,
 * suggestions.
 *
 * The fields themselves stand in settings_table.c. Batch: spec/grpo.md 3.1. */
#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "model/model.h"
#include "rl/settings_impl.h"

/* Keys beside the table, for suggestions. */
static const char *const other_keys[] = {
    "data", "rewards", "reward_weights", "model", "lora", "grpo", "sft", "budget", "on_cpu"
};
enum {
    n_other_keys = sizeof other_keys / sizeof other_keys[0],
    max_reward_name = 48,
    max_rewards = 64,
    max_known = 192
};

const char *mr_settings_section(const mr_settings *s, const mr_field *f) {
    return f->section == IN_TRAIN ? mr_method_names[s->method] : mr_section_names[f->section];
}

/* ---- nearest name ---- */

/* Damerau's distance with adjacent swaps: letters to insert, remove, change or swap. Long words are cut, which is
 * enough here. */
static int edit_distance(const char *a, const char *b) {
    enum { max = 63 };
    const int n = (int)strnlen(a, max), m = (int)strnlen(b, max);
    int d[3][max + 1];
    for (int j = 0; j <= m; j++) d[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *row = d[i % 3], *above = d[(i + 2) % 3], *above2 = d[(i + 1) % 3];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            int best = above[j - 1] + (a[i - 1] != b[j - 1]);
            if (above[j] + 1 < best) best = above[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && above2[j - 2] + 1 < best)
                best = above2[j - 2] + 1;
            row[j] = best;
        }
    }
    return d[n % 3][m];
}

const char *mr_nearest_name(const char *word, const char *const *names, int n) {
    const char *nearest = NULL;
    int best = (int)strlen(word) / 3;
    if (best < 1) best = 1;
    best++; /* a third of the letters, 1 for short words */
    for (int i = 0; i < n; i++) {
        const int d = edit_distance(word, names[i]);
        if (d < best) {
            best = d;
            nearest = names[i];
        }
    }
    return nearest;
}

mr_status mr_settings_unknown(const mr_settings *s, const char *place, const char *full, mr_err *err) {
    char known[max_known][80];
    const char *names[max_known], *tails[max_known];
    assert(mr_n_fields + n_other_keys <= max_known);
    int n = 0;
    for (int i = 0; i < mr_n_fields; i++) {
        if (!(mr_fields[i].methods & (1 << s->method))) continue;
        const char *section = mr_settings_section(s, &mr_fields[i]);
        snprintf(known[n], sizeof known[n], "%s%s%s", section, *section ? "." : "", mr_fields[i].key);
        tails[n] = mr_fields[i].key;
        names[n] = known[n];
        n++;
    }
    for (int i = 0; i < n_other_keys; i++) {
        snprintf(known[n], sizeof known[n], "%s", other_keys[i]);
        names[n] = known[n];
        tails[n] = other_keys[i];
        n++;
    }
    const char *near = NULL, *dot = strrchr(full, '.'), *tail = dot ? dot + 1 : full;
    for (int i = 0; i < n && !near; i++)
        if (!strcmp(tail, tails[i])) near = names[i]; /* the right word in the wrong section */
    if (!near) near = mr_nearest_name(full, names, n);
    if (!near) {
        const char *word = mr_nearest_name(tail, tails, n);
        for (int i = 0; i < n && word && !near; i++)
            if (tails[i] == word) near = names[i];
    }
    if (near) return mr_fail(err, MR_EINVAL, "%s: unknown key \"%.100s\"; did you mean \"%s\"?", place, full, near);
    return mr_fail(err, MR_EINVAL, "%s: unknown key \"%.100s\"; `medrl help recipe` lists the known ones", place, full);
}

/* ---- values ---- */

typedef struct site {
    mr_settings *s;
    const char *place, *section, *key;
    mr_err *err;
} site;

/* "PLACE: grpo.num_generations is 1, need at least 2" */
static mr_status bad_value(const site *at, const cJSON *v, const char *fmt, ...) MR_PRINTF(3, 4);

/* An empty Lua table arrives as an empty array. */
static bool is_table(const cJSON *v) {
    return cJSON_IsObject(v) || (cJSON_IsArray(v) && !v->child);
}
static mr_status bad_value(const site *at, const cJSON *v, const char *fmt, ...) {
    mr_str text = { 0 };
    char wanted[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(wanted, sizeof wanted, fmt, args);
    va_end(args);
    mr_json_put(&text, v);
    mr_status st = mr_fail(at->err, MR_EINVAL, "%s: %s%s%s is %.80s, %s", at->place, at->section,
                           *at->section ? "." : "", at->key, text.data ? text.data : "nothing", wanted);
    mr_str_clear(&text);
    return st;
}

static int count_names(const char *const *names) {
    int n = 0;
    while (names[n]) n++;
    return n;
}

static mr_status take_name(const site *at, const mr_field *f, const cJSON *v, int *index) {
    char list[256];
    mr_list_names(list, sizeof list, f->names);
    if (!cJSON_IsString(v)) return bad_value(at, v, "want one of %s", list);
    const int n = count_names(f->names);
    for (*index = 0; *index < n; (*index)++)
        if (!strcmp(v->valuestring, f->names[*index])) return MR_OK;
    const char *near = mr_nearest_name(v->valuestring, f->names, n);
    if (near) return bad_value(at, v, "want one of %s; did you mean \"%s\"?", list, near);
    return bad_value(at, v, "want one of %s", list);
}

static mr_status take_number(const site *at, const mr_field *f, const cJSON *v, bool whole, double *x) {
    const char *what = whole ? "a whole number" : "a number";
    if (!cJSON_IsNumber(v)) return bad_value(at, v, "want %s", what);
    *x = v->valuedouble;
    if (!isfinite(*x) || (whole && *x != floor(*x))) return bad_value(at, v, "want %s", what);
    if (f->above_min && *x <= f->min) return bad_value(at, v, "need more than %g", f->min);
    if (*x < f->min) return bad_value(at, v, "need at least %.10g", f->min);
    if (*x > f->max) return bad_value(at, v, "need at most %.10g", f->max);
    return MR_OK;
}

static mr_status take_targets(const site *at, const cJSON *v, bool *targets) {
    memset(targets, 0, MR_N_PROJ * sizeof *targets);
    if (cJSON_IsString(v) && !strcmp(v->valuestring, "all-linear")) {
        for (int i = 0; i < MR_N_PROJ; i++) targets[i] = true;
        return MR_OK;
    }
    if (!cJSON_IsArray(v) || !v->child)
        return bad_value(at, v, "want a list of names such as { \"q_proj\", \"v_proj\" }, or \"all-linear\"");
    for (const cJSON *e = v->child; e; e = e->next) {
        int i = 0;
        while (i < MR_N_PROJ && !(cJSON_IsString(e) && !strcmp(e->valuestring, mr_proj_names[i]))) i++;
        if (i == MR_N_PROJ) {
            const char *near = cJSON_IsString(e) ? mr_nearest_name(e->valuestring, mr_proj_names, MR_N_PROJ) : NULL;
            return bad_value(at, e,
                             "want names out of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj%s%s%s",
                             near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
        }
        targets[i] = true;
    }
    return MR_OK;
}

/* "14G", "14GB" (10^9 bytes), "14GiB" (2^30), "900M", "2.5GiB". */
static mr_status take_size(const site *at, const cJSON *v, size_t *bytes) {
    static const char wanted[] = "want a size such as \"14G\", \"900M\" or \"7.5GiB\"";
    static const char units[] = "KMGT";
    if (!cJSON_IsString(v)) return bad_value(at, v, "%s", wanted);
    char *end;
    double x = strtod(v->valuestring, &end);
    const char *unit = end > v->valuestring && *end ? strchr(units, *end) : NULL;
    if (!unit) return bad_value(at, v, "%s", wanted);
    bool binary = end[1] == 'i';
    const char *rest = end + (binary ? 2 : 1);
    if (strcmp(rest, "B") != 0 && (binary || *rest)) return bad_value(at, v, "%s", wanted);
    x *= pow(binary ? 1024 : 1000, (double)(unit - units + 1));
    if (!(x >= 1e6 && x <= 1e15)) return bad_value(at, v, "need from 1M to 1000T");
    *bytes = (size_t)x;
    return MR_OK;
}

/* One name or a list of them; what other trainers also report to is refused with a way. */
static mr_status take_report(const site *at, const cJSON *v, bool *tensorboard) {
    const bool list = cJSON_IsArray(v) || (cJSON_IsObject(v) && !v->child); /* an empty Lua table */
    bool on = false;
    for (const cJSON *item = list ? v->child : v; item; item = list ? item->next : NULL) {
        const bool is_on = cJSON_IsString(item) && !strcmp(item->valuestring, "tensorboard");
        if (!is_on && !(cJSON_IsString(item) && !strcmp(item->valuestring, "none")))
            return bad_value(at, item, "want \"tensorboard\" or \"none\"; other programs read the event files: `wandb sync "
                                       "RUN/tensorboard`");
        on = on || is_on;
    }
    *tensorboard = on;
    return MR_OK;
}

static char *keep(mr_settings *s, const char *text) {
    return mr_arena_strdup(&s->arena, text, strlen(text));
}

static mr_status take_value(const site *at, const mr_field *f, const cJSON *v) {
    unsigned char *dst = (unsigned char *)at->s + f->offset;
    double x = 0;
    int i = 0;
    switch (f->kind) {
    case K_BOOL:
        if (!cJSON_IsBool(v)) return bad_value(at, v, "want true or false");
        *(bool *)dst = cJSON_IsTrue(v);
        return MR_OK;
    case K_FLAG:
        if (!cJSON_IsBool(v)) {
            if (!cJSON_IsString(v) || !f->names) return bad_value(at, v, "want true or false");
            MR_TRY(take_name(at, f, v, &i));
        }
        if (f->offset) *(bool *)dst = !cJSON_IsFalse(v);
        return MR_OK;
    case K_INT:
        MR_TRY(take_number(at, f, v, true, &x));
        *(int *)dst = (int)x;
        return MR_OK;
    case K_U64:
        MR_TRY(take_number(at, f, v, true, &x));
        *(uint64_t *)dst = (uint64_t)x;
        return MR_OK;
    case K_FLOAT:
        MR_TRY(take_number(at, f, v, false, &x));
        *(float *)dst = (float)x;
        return MR_OK;
    case K_DOUBLE:
        MR_TRY(take_number(at, f, v, false, &x));
        *(double *)dst = x;
        return MR_OK;
    case K_WARMUP:
        MR_TRY(take_number(at, f, v, false, &x));
        if (x > 0 && x < 1) {
            at->s->train.warmup_ratio = x;
        } else {
            if (x != floor(x)) return bad_value(at, v, "want a whole number, or a ratio below 1");
            at->s->train.warmup_steps = (int)x;
        }
        return MR_OK;
    case K_STRING:
        if (!cJSON_IsString(v)) return bad_value(at, v, "want a string");
        if (f->names) MR_TRY(take_name(at, f, v, &i));
        *(char **)dst = keep(at->s, v->valuestring);
        return MR_OK;
    case K_ENUM:
        MR_TRY(take_name(at, f, v, &i));
        *(int *)dst = i;
        return MR_OK;
    case K_OPTIM:
        MR_TRY(take_name(at, f, v, &i));
        *(int *)dst = strstr(v->valuestring, "8bit") ? MR_ADAMW_8BIT : MR_ADAMW;
        return MR_OK;
    case K_AUTO:
        if (!cJSON_IsBool(v) && !(cJSON_IsString(v) && !strcmp(v->valuestring, "auto")))
            return bad_value(at, v, "want \"auto\", true or false");
        *(int *)dst = cJSON_IsTrue(v) ? MR_DEQUANTIZE_YES : cJSON_IsFalse(v) ? MR_DEQUANTIZE_NO : MR_DEQUANTIZE_AUTO;
        return MR_OK;
    case K_SCALE:
        if (cJSON_IsBool(v))
            i = cJSON_IsTrue(v) ? MR_SCALE_GROUP : MR_SCALE_NONE;
        else
            MR_TRY(take_name(at, f, v, &i));
        *(int *)dst = i;
        return MR_OK;
    case K_ENUM_BIT:
        MR_TRY(take_name(at, f, v, &i));
        *(bool *)dst = i == 1;
        return MR_OK;
    case K_SIZE: return take_size(at, v, (size_t *)dst);
    case K_TABLE: {
        if (!is_table(v)) return bad_value(at, v, "want a table of names");
        mr_str text = { 0 };
        if (v->child)
            mr_json_put(&text, v);
        else
            mr_str_puts(&text, "{}"); /* an empty Lua table arrives as an array */
        *(char **)dst = keep(at->s, text.data);
        mr_str_clear(&text);
        return MR_OK;
    }
    case K_TARGETS: return take_targets(at, v, (bool *)dst);
    case K_REPORT: return take_report(at, v, (bool *)dst);
    case K_BATCH: /* read by batch_of, checked here */ return take_number(at, f, v, true, &x);
    }
    return MR_OK;
}

/* The documented default is what is parsed, so the two cannot differ. */
static mr_status set_default(const site *at, const mr_field *f) {
    unsigned char *dst = (unsigned char *)at->s + f->offset;
    if (!f->def || (f->kind == K_FLAG && !f->offset) || f->kind == K_BATCH) return MR_OK;
    if (!strcmp(f->def, "null")) {
        if (f->kind == K_INT) *(int *)dst = (int)f->unset;
        if (f->kind == K_FLOAT) *(float *)dst = (float)f->unset;
        return MR_OK;
    }
    if (f->kind == K_TARGETS) {
        at->s->lora.targets[MR_Q_PROJ] = at->s->lora.targets[MR_V_PROJ] = true;
        return MR_OK;
    }
    cJSON *v = NULL;
    MR_TRY(mr_json_parse(&v, f->def, strcspn(f->def, " "), at->place, at->err));
    mr_status st = take_value(at, f, v);
    cJSON_Delete(v);
    return st;
}

mr_status mr_settings_take(mr_settings *s, const mr_field *f, const cJSON *v, const char *place, mr_err *err) {
    const site at = { s, place, mr_settings_section(s, f), f->key, err };
    return cJSON_IsNull(v) && f->def && !strcmp(f->def, "null") ? set_default(&at, f) : take_value(&at, f, v);
}

/* ---- sections ---- */

static bool is_harmless(const char *list, const cJSON *v) {
    for (const char *p = list; p && *p;) {
        const size_t n = strcspn(p, "|");
        cJSON *item = cJSON_ParseWithLength(p, n);
        const bool same = item && mr_json_equal(item, v);
        cJSON_Delete(item);
        if (same) return true;
        p += n + (p[n] == '|');
    }
    return false;
}

static mr_status parse_section(mr_settings *s, const cJSON *table, int section, const char *place, mr_err *err) {
    const char *name = section == IN_TRAIN ? mr_method_names[s->method] : mr_section_names[section];
    if (!is_table(table)) {
        const site at = { s, place, "", name, err };
        return bad_value(&at, table, "want a table of settings");
    }
    for (const cJSON *v = table->child; v; v = v->next) {
        const site at = { s, place, name, v->string, err };
        if (cJSON_IsNull(v) || (section == IN_TRAIN && !strcmp(v->string, "reward_weights"))) continue;
        int i = 0;
        while (i < mr_n_fields && !(mr_fields[i].section == section && !strcmp(mr_fields[i].key, v->string))) i++;
        if (i < mr_n_fields && (mr_fields[i].methods & (1 << s->method))) {
            MR_TRY(take_value(&at, &mr_fields[i], v));
            continue;
        }
        if (i < mr_n_fields)
            return mr_fail(err, MR_EINVAL, "%s: %s.%s has no meaning for method \"%s\"; remove it", place, name,
                           v->string, mr_method_names[s->method]);
        i = 0;
        while (i < mr_n_foreigns && !(mr_foreigns[i].section == section && !strcmp(mr_foreigns[i].key, v->string))) i++;
        if (i < mr_n_foreigns) {
            if (is_harmless(mr_foreigns[i].harmless, v)) continue;
            return mr_fail(err, MR_EINVAL, "%s: %s.%s has no meaning here: %s; remove it", place, name, v->string,
                           mr_foreigns[i].why);
        }
        char full[160];
        snprintf(full, sizeof full, "%s.%.100s", name, v->string);
        return mr_settings_unknown(s, place, full, err);
    }
    return MR_OK;
}

/* ---- rewards ---- */

static bool is_reward_name(const char *name) {
    if (!*name || strlen(name) > max_reward_name || *name == '.') return false;
    for (; *name; name++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.", *name)) return false;
    return true;
}

static mr_status parse_reward(mr_settings *s, const cJSON *e, int i, bool *weighted, const char *place, mr_err *err) {
    char key[32];
    snprintf(key, sizeof key, "rewards[%d]", i + 1); /* as Lua counts */
    const site at = { s, place, "", key, err };
    const cJSON *name = e;
    s->reward_weights[i] = 1.0f;
    if (cJSON_IsObject(e)) {
        name = cJSON_GetObjectItemCaseSensitive(e, "name");
        const cJSON *weight = cJSON_GetObjectItemCaseSensitive(e, "weight");
        for (const cJSON *k = e->child; k; k = k->next)
            if (strcmp(k->string, "name") && strcmp(k->string, "weight"))
                return mr_fail(err, MR_EINVAL, "%s: unknown key \"%s.%.64s\", want name and weight", place, key,
                               k->string);
        if (weight && !(cJSON_IsNumber(weight) && isfinite(weight->valuedouble)))
            return bad_value(&at, e, "want a number as weight");
        if (weight) *weighted = true, s->reward_weights[i] = (float)weight->valuedouble;
    }
    if (!cJSON_IsString(name)) return bad_value(&at, e, "want a name, or { name = ..., weight = ... }");
    if (!is_reward_name(name->valuestring))
        return bad_value(&at, name,
                         "want the name of a file in rewards/ without .lua: at most %d letters, digits, _, - and .",
                         max_reward_name);
    for (int k = 0; k < i; k++)
        if (!strcmp(s->rewards[k], name->valuestring))
            return bad_value(&at, name, "which is there already; list each reward once");
    s->rewards[i] = keep(s, name->valuestring);
    s->n_rewards = i + 1;
    return MR_OK;
}

static mr_status parse_rewards(mr_settings *s, const cJSON *recipe, const cJSON *trainer, const char *place,
                               mr_err *err) {
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(recipe, "rewards"),
                *weights = cJSON_GetObjectItemCaseSensitive(recipe, "reward_weights");
    if (!weights && trainer) weights = cJSON_GetObjectItemCaseSensitive(trainer, "reward_weights"); /* TRL's place */
    const site at = { s, place, "", "rewards", err };
    if (list && !cJSON_IsNull(list) && !cJSON_IsArray(list) && !is_table(list))
        return bad_value(&at, list, "want a list of names; order matters, so it is no map");
    if (cJSON_IsObject(list) && list->child)
        return bad_value(&at, list, "want a list of names; order matters, so it is no map");
    const int n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0;
    if (n > max_rewards)
        return mr_fail(err, MR_EINVAL, "%s: rewards has %d names, need at most %d", place, n, max_rewards);
    if (n == 0 && s->method == MR_METHOD_GRPO)
        return mr_fail(err, MR_EINVAL, "%s: rewards is empty, need at least one: rewards = { \"correctness\" }", place);
    s->rewards = mr_arena_alloc(&s->arena, ((size_t)n + 1) * sizeof *s->rewards);
    s->reward_weights = mr_arena_alloc(&s->arena, ((size_t)n + 1) * sizeof *s->reward_weights);
    bool weighted = false;
    int i = 0;
    for (const cJSON *e = n ? list->child : NULL; e; e = e->next, i++)
        MR_TRY(parse_reward(s, e, i, &weighted, place, err));
    if (!weights || cJSON_IsNull(weights)) return MR_OK;
    const site wat = { s, place, "", "reward_weights", err };
    if (!cJSON_IsArray(weights) || cJSON_GetArraySize(weights) != n)
        return bad_value(&wat, weights, "want one number for each of the %d rewards", n);
    if (weighted && n) return bad_value(&wat, weights, "and rewards have a weight of their own; keep one of the two");
    i = 0;
    for (const cJSON *w = weights->child; w; w = w->next, i++) {
        if (!cJSON_IsNumber(w) || !isfinite(w->valuedouble))
            return bad_value(&wat, weights, "want one number for each of the %d rewards", n);
        s->reward_weights[i] = (float)w->valuedouble;
    }
    return MR_OK;
}

/* ---- checks that need more than one field ---- */

static int64_t batch_number(const cJSON *section, const char *key, int def) {
    const cJSON *v = section ? cJSON_GetObjectItemCaseSensitive(section, key) : NULL;
    return cJSON_IsNumber(v) ? (int64_t)v->valuedouble : def;
}

/* Completions a step to prompts a step (spec/grpo.md 3.1): rows = batch * accumulation are split into groups of G. TRL
 * refuses a remainder; Unsloth raises a batch that holds no whole group to one group, which is what the seed's 1 x 1
 * with 6 generations means. */
static mr_status batch_of(mr_settings *s, const cJSON *section, const char *place, mr_err *err) {
    if (s->train.prompts_per_step > 0) return MR_OK;
    const int64_t group = s->method == MR_METHOD_SFT ? 1 : s->train.loss.num_generations;
    const int64_t acc = batch_number(section, "gradient_accumulation_steps", 1);
    int64_t batch = batch_number(section, "per_device_train_batch_size", 0), prompts;
    if (!batch) batch = 8 % group ? group : 8; /* TRL's default, unless it is impossible */
    if (batch * acc % group == 0)
        prompts = batch * acc / group;
    else if (batch < group)
        prompts = acc;
    else
        return mr_fail(err, MR_EINVAL,
                       "%s: %s.per_device_train_batch_size is %" PRId64
                       ", which does not split into groups of num_generations = %" PRId64 "; set grpo.prompts_per_step",
                       place, mr_method_names[s->method], batch, group);
    if (prompts > 65536)
        return mr_fail(err, MR_EINVAL, "%s: %s: a step of %" PRId64 " prompts, need at most 65536", place,
                       mr_method_names[s->method], prompts);
    s->train.prompts_per_step = (int)prompts;
    return MR_OK;
}

mr_status mr_settings_check_positive(const mr_settings *s, const char *place, mr_err *err) {
    const char *m = mr_method_names[s->method];
    if (s->method != MR_METHOD_GRPO) return MR_OK;
    const struct {
        const char *key;
        float value;
    } positive[] = {
        { "temperature", s->train.temperature },
        { "top_p", s->train.top_p },
        { "repetition_penalty", s->train.repetition_penalty },
        { "top_entropy_quantile", s->train.loss.top_entropy_quantile },
    };
    for (size_t i = 0; i < sizeof positive / sizeof positive[0]; i++)
        if (!(positive[i].value > 0))
            return mr_fail(err, MR_EINVAL, "%s: %s.%s is 0, need more than 0%s", place, m, positive[i].key,
                           i ? "" : ": the completions of a group must differ");
    return MR_OK;
}

static mr_status check_together(mr_settings *s, bool has_lora, const char *place, mr_err *err) {
    const char *m = mr_method_names[s->method];
    if (!s->model.name || !*s->model.name)
        return mr_fail(err, MR_EINVAL, "%s: model.name is missing, want a Hugging Face name, a folder or a .gguf file",
                       place);
    if (!*s->output_dir) return mr_fail(err, MR_EINVAL, "%s: output_dir is \"\", want the name of a folder", place);
    if (!has_lora && !*s->model.adapter) s->lora.r = 0;
    if (s->lora.lora_dropout != 0.0f)
        return mr_fail(
            err, MR_EINVAL,
            "%s: lora.lora_dropout is %g, need 0: with dropout, sampling and training would be two different models",
            place, (double)s->lora.lora_dropout);
    if (s->model.load_in_4bit && s->lora.r == 0)
        return mr_fail(err, MR_EINVAL,
                       "%s: model.load_in_4bit is true and there is no adapter, want a section lora: 4-bit weights are "
                       "not trained",
                       place);
    if (s->model.from_config && s->model.load_in_4bit)
        return mr_fail(err, MR_EINVAL,
                       "%s: model.from_config and model.load_in_4bit are both true, want one: random weights are not "
                       "worth keeping",
                       place);
    if (s->model.from_config && *s->model.adapter)
        return mr_fail(
            err, MR_EINVAL,
            "%s: model.adapter is set and model.from_config is true: an adapter fits the weights it was trained on",
            place);
    if (s->train.loss.entropy_coef != 0.0f)
        return mr_fail(err, MR_EINVAL, "%s: %s.entropy_coef is %g, need 0: the entropy bonus is not in this version",
                       place, m, (double)s->train.loss.entropy_coef);
    const int total = s->train.max_prompt_length + s->train.max_completion_length;
    if (s->model.max_seq_length == 0) s->model.max_seq_length = total;
    if (total > s->model.max_seq_length)
        return mr_fail(
            err, MR_EINVAL,
            "%s: %s.max_prompt_length + %s.max_completion_length is %d, need at most model.max_seq_length, which is %d",
            place, m, m, total, s->model.max_seq_length);
    if (s->train.max_steps == 0)
        return mr_fail(err, MR_EINVAL, "%s: %s.max_steps is 0, need at least 1, or -1 for num_train_epochs", place, m);
    if (s->train.max_steps < 0 && !(s->train.num_train_epochs > 0))
        return mr_fail(err, MR_EINVAL, "%s: %s.num_train_epochs is 0, need more, or max_steps", place, m);
    if (s->budget.usd > 0 && !(s->budget.usd_per_hour > 0))
        return mr_fail(err, MR_EINVAL,
                       "%s: budget.usd is %g and budget.usd_per_hour is not set: set it to what an hour of this machine "
                       "costs, or budget.hours alone",
                       place, s->budget.usd);
    MR_TRY(mr_settings_check_positive(s, place, err));
    if (s->train.logp_temperature < 0) s->train.logp_temperature = s->train.temperature;
    s->train.loss.max_completion_length = s->train.max_completion_length;
    return MR_OK;
}

/* The field at the top of the recipe, method excepted; NULL: there is none of that name. */
static const mr_field *top_field(const mr_settings *s, const char *key) {
    for (int i = 1; i < mr_n_fields && mr_fields[i].section == IN_TOP; i++)
        if (!strcmp(mr_fields[i].key, key) && (mr_fields[i].methods & (1 << s->method))) return &mr_fields[i];
    return NULL;
}

static mr_status parse(mr_settings *s, const cJSON *recipe, const char *place, mr_err *err) {
    if (!is_table(recipe))
        return mr_fail(err, MR_EINVAL, "%s: the recipe is %s, want a table; end the file with return { ... }", place,
                       mr_json_type_name(recipe));
    const cJSON *method = cJSON_GetObjectItemCaseSensitive(recipe, "method");
    if (method && !cJSON_IsNull(method)) {
        const site at = { s, place, "", "method", err };
        MR_TRY(take_value(&at, &mr_fields[0], method));
    }
    for (int i = 1; i < mr_n_fields; i++) {
        const site at = { s, place, mr_settings_section(s, &mr_fields[i]), mr_fields[i].key, err };
        MR_TRY(set_default(&at, &mr_fields[i]));
    }
    if (s->method == MR_METHOD_SFT) s->train.learning_rate = 2e-5f; /* TRL's SFTConfig */
    const cJSON *sections[MR_N_SECTIONS] = { NULL };
    for (const cJSON *v = recipe->child; v; v = v->next) {
        const site at = { s, place, "", v->string, err };
        if (cJSON_IsNull(v) || !strcmp(v->string, "method")) continue;
        if (!strcmp(v->string, "on_cpu") || !strcmp(v->string, "rewards") || !strcmp(v->string, "reward_weights"))
            continue;
        const mr_field *top = top_field(s, v->string);
        if (top) {
            MR_TRY(take_value(&at, top, v));
        } else if (!strcmp(v->string, "data")) {
            if (!is_table(v)) return bad_value(&at, v, "want a table with train");
            s->data = cJSON_Duplicate(v, true);
            if (!s->data) return mr_fail(err, MR_ENOMEM, "%s: no memory for the section data", place);
        } else if (!strcmp(v->string, "model")) {
            sections[IN_MODEL] = v;
        } else if (!strcmp(v->string, "lora")) {
            sections[IN_LORA] = v;
        } else if (!strcmp(v->string, "budget")) {
            sections[IN_BUDGET] = v;
        } else if (!strcmp(v->string, mr_method_names[s->method])) {
            sections[IN_TRAIN] = v;
        } else if (!strcmp(v->string, "grpo") || !strcmp(v->string, "sft")) {
            return mr_fail(err, MR_EINVAL,
                           "%s: section \"%s\" has no meaning for method \"%s\"; remove it, or set method = \"%s\"",
                           place, v->string, mr_method_names[s->method], v->string);
        } else {
            return mr_settings_unknown(s, place, v->string, err);
        }
    }
    for (int i = IN_MODEL; i < MR_N_SECTIONS; i++)
        if (sections[i]) MR_TRY(parse_section(s, sections[i], i, place, err));
    MR_TRY(parse_rewards(s, recipe, sections[IN_TRAIN], place, err));
    MR_TRY(batch_of(s, sections[IN_TRAIN], place, err));
    return check_together(s, sections[IN_LORA] != NULL, place, err);
}

mr_status mr_settings_parse(mr_settings *s, const cJSON *recipe, const char *place, mr_err *err) {
    memset(s, 0, sizeof *s);
    mr_status st = parse(s, recipe, place, err);
    if (st != MR_OK) mr_settings_clear(s);
    return st;
}

void mr_settings_clear(mr_settings *s) {
    cJSON_Delete(s->data);
    mr_arena_clear(&s->arena);
    memset(s, 0, sizeof *s);
}

/* ---- overrides ---- */

mr_status mr_settings_override(cJSON *recipe, const char *assignment, mr_err *err) {
    const char *equals = strchr(assignment, '=');
    if (!equals || equals == assignment)
        return mr_fail(err, MR_EINVAL, "--set %.100s: want KEY=VALUE, as in --set grpo.max_steps=20", assignment);
    char path[256];
    if ((size_t)(equals - assignment) >= sizeof path)
        return mr_fail(err, MR_EINVAL, "--set %.100s: the key is too long", assignment);
    memcpy(path, assignment, (size_t)(equals - assignment));
    path[equals - assignment] = 0;
    if (strstr(path, "..") || path[0] == '.' || path[strlen(path) - 1] == '.')
        return mr_fail(err, MR_EINVAL, "--set %.100s: want a key such as grpo.max_steps", assignment);

    cJSON *value = NULL;
    if (mr_json_parse(&value, equals + 1, strlen(equals + 1), "--set", NULL) != MR_OK)
        value = cJSON_CreateString(equals + 1);
    if (!value) return mr_fail(err, MR_ENOMEM, "--set %.100s: no memory", assignment);
    cJSON *table = recipe;
    char *key = path;
    for (char *dot; (dot = strchr(key, '.')) != NULL; key = dot + 1) {
        *dot = 0;
        cJSON *next = cJSON_GetObjectItemCaseSensitive(table, key);
        if (cJSON_IsArray(next) && !next->child) { /* an empty Lua table */
            cJSON_DeleteItemFromObjectCaseSensitive(table, key);
            next = NULL;
        }
        if (!next) next = cJSON_AddObjectToObject(table, key);
        if (!cJSON_IsObject(next)) {
            cJSON_Delete(value);
            return mr_fail(err, MR_EINVAL, "--set %.100s: %s is %s, want a table; set the whole of it", assignment,
                           path, mr_json_type_name(next));
        }
        *dot = '.';
        table = next;
    }
    if (cJSON_GetObjectItemCaseSensitive(table, key))
        cJSON_ReplaceItemInObjectCaseSensitive(table, key, value);
    else
        cJSON_AddItemToObject(table, key, value);
    return MR_OK;
}
