/* autopsy.c - a run whose numbers are not finite any more: whether it ends for it, where it began, and what is kept for people.
 *
 * The order in which is looked: params first, since everything behind a bad one is bad; then the parts of the forward pass, first to
 * last; then gradients, in the order of the backward pass, which is last to first. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "base/log.h"
#include "rl/trainer_impl.h"

bool mr_trainer_is_sick(const mr_trainer *t) {
    if (!t->values_finite) return true;
    if (t->skipped_in_row < MR_MAX_SKIPPED) return false;
    /* with float16 a large scale needs more to come down */
    return !t->scaler.on || t->scaler.scale < 1 || !t->loss_finite || t->skipped_in_row >= MR_MOST_SKIPPED;
}

mr_status mr_trainer_sickness(const mr_trainer *t, mr_err *err) {
    char at[512] = "";
    if (t->first_bad[0] && t->parts.run_dir)
        snprintf(at, sizeof at, "; first bad: %s (%.200s/nan-%lld)", t->first_bad, t->parts.run_dir,
                 (long long)(t->values_finite ? t->step : t->step + 1));
    else if (t->first_bad[0])
        snprintf(at, sizeof at, "; first bad: %s", t->first_bad);
    if (!t->values_finite)
        return mr_fail(err, MR_EINTERNAL,
                       "step %lld: weights are not finite any more, and are not saved%s; go on from the last checkpoint, with a lower "
                       "learning_rate if it happens again",
                       (long long)t->step + 1, at);
    if (t->scaler.on)
        return mr_fail(err, MR_EINTERNAL,
                       "step %lld: %d updates in a row were skipped, and %s does not fit into float16%s; use dtype = "
                       "\"bfloat16\" (GPUs from compute capability 8.0 on) or \"float32\"",
                       (long long)t->step, t->skipped_in_row,
                       t->loss_finite ? "even an unscaled gradient" : "an activation", at);
    return mr_fail(err, MR_EINTERNAL,
                   "step %lld: %d updates in a row had %s not finite%s; lower learning_rate or use dtype = \"float32\"",
                   (long long)t->step, t->skipped_in_row, t->loss_finite ? "gradients that are" : "a loss that is", at);
}

typedef struct extent {
    double max;
    bool finite;
} extent;

static extent extent_of(mr_trainer *t, const float *x, int64_t n) {
    extent e = { 0, true };
    float *host = mr_alloc((size_t)(n ? n : 1) * sizeof *host);
    t->b->download(t->b, host, x, (size_t)n * sizeof *host);
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(host[i]))
            e.finite = false;
        else
            e.max = fmax(e.max, fabs((double)host[i]));
    }
    mr_free(host);
    return e;
}

static void add(cJSON *list, const char *name, double max, bool finite) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "name", name);
    cJSON_AddNumberToObject(o, "max", max);
    cJSON_AddBoolToObject(o, "finite", finite);
    cJSON_AddItemToArray(list, o);
}

static void name_bad(mr_trainer *t, const char *what, const char *name) {
    if (!t->first_bad[0]) snprintf(t->first_bad, sizeof t->first_bad, "%s of %.120s", what, name);
}

/* Fills first_bad on the way. */
static cJSON *describe(mr_trainer *t, const mr_peak *peaks) {
    cJSON *o = cJSON_CreateObject();
    cJSON *weights = cJSON_AddArrayToObject(o, "weights"), *parts = cJSON_AddArrayToObject(o, "activations"),
          *grads = cJSON_AddArrayToObject(o, "gradients");
    t->first_bad[0] = '\0';
    for (int i = 0; i < t->n_params; i++) {
        const mr_param *p = &t->params[i];
        extent e = extent_of(t, p->value, p->rows * p->cols);
        add(weights, p->name, e.max, e.finite);
        if (!e.finite) name_bad(t, "the weights", p->name);
    }
    for (int i = 0; i < mr_decoder_n_peaks(t->decoder); i++) {
        if (!peaks[i].name[0]) continue; /* no pack was run */
        add(parts, peaks[i].name, peaks[i].max, peaks[i].finite);
        if (!peaks[i].finite) name_bad(t, "the output", peaks[i].name);
    }
    for (int i = t->n_params; i-- > 0;) {
        const mr_param *p = &t->params[i];
        extent e = extent_of(t, p->grad, p->rows * p->cols);
        add(grads, p->name, e.max, e.finite);
        if (!e.finite) name_bad(t, "the gradient", p->name);
    }
    if (!t->first_bad[0]) snprintf(t->first_bad, sizeof t->first_bad, "nothing that shows when the batch is run again");
    return o;
}

static mr_status write_json(const char *dir, const char *name, const cJSON *o, mr_err *err) {
    mr_str s = { 0 };
    char *path = mr_path_join(dir, name);
    mr_json_put(&s, o);
    mr_str_puts(&s, "\n");
    mr_status st = mr_file_write(path, s.data, s.len, err);
    mr_str_clear(&s);
    mr_free(path);
    return st;
}

void mr_autopsy_write(mr_trainer *t, const mr_peak *peaks, const cJSON *batch, double loss, double norm, double lr) {
    cJSON *o = describe(t, peaks);
    cJSON_AddNumberToObject(o, "step", (double)t->step + 1);
    cJSON_AddStringToObject(o, "first_bad", t->first_bad);
    cJSON_AddNumberToObject(o, "loss", loss);
    cJSON_AddNumberToObject(o, "grad_norm", norm);
    cJSON_AddNumberToObject(o, "learning_rate", lr);
    cJSON_AddNumberToObject(o, "loss_scale", t->scaler.scale);
    cJSON_AddNumberToObject(o, "skipped_in_row", t->skipped_in_row);
    if (t->parts.run_dir) {
        mr_err err;
        char *dir = mr_asprintf("%s/nan-%lld", t->parts.run_dir, (long long)t->step + 1);
        mr_status st = mr_mkdirs(dir, &err);
        if (st == MR_OK) st = write_json(dir, "batch.json", batch, &err);
        if (st == MR_OK) st = write_json(dir, "layers.json", o, &err);
        if (st != MR_OK) mr_warn("%s", err.msg);
        mr_free(dir);
    }
    cJSON_Delete(o);
}
