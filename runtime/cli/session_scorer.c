/* session_scorer.c - the scorer of a run: the pool's, which looks after the chat template too. See session.h.
 *
 * A template that was saved is a reload like any other: one event names the scripts and the template that are in use
 * from then on, the checkpoint names them again, and a resumed run takes both from where they are stored. */
#include <string.h>

#include "base/fsafe.h"
#include "base/json.h"
#include "cli/session.h"

static mr_status submit(void *self, const mr_score_job *job, mr_err *err) {
    mr_session *s = self;
    return s->scorer.submit(s->scorer.self, job, err);
}

static mr_status collect(void *self, mr_score *scores, int n_jobs, mr_fault *faults, int max_faults, int *n_faults,
                         mr_err *err) {
    mr_session *s = self;
    return s->scorer.collect(s->scorer.self, scores, n_jobs, faults, max_faults, n_faults, err);
}

/* The pool's texts, and the template beside them. Before the stage TEXT there is none. */
static cJSON *scripts(void *self) {
    const mr_session *s = self;
    cJSON *all = s->scorer.scripts(s->scorer.self);
    if (s->parts.template) cJSON_AddItemToObject(all, "template", mr_template_version(s->parts.template));
    return all;
}

/* What was taken over is told with everything that is in use, or it could not be repeated. */
static void complete(mr_session *s, mr_reload *r) {
    cJSON *all = scripts(s);
    for (cJSON *v; (v = all->child);) {
        char *key = mr_strdup(v->string);
        cJSON_DeleteItemFromObjectCaseSensitive(r->detail, key);
        cJSON_AddItemToObject(r->detail, key, cJSON_DetachItemViaPointer(all, v));
        mr_free(key);
    }
    cJSON_Delete(all);
}

static mr_status between_steps(void *self, int64_t step, mr_reload *out, mr_err *err) {
    mr_session *s = self;
    MR_TRY(s->scorer.between_steps(s->scorer.self, step, out, err));
    if (!s->parts.template) return MR_OK;
    MR_TRY(mr_template_between_steps(s->parts.template, out, err));
    if (out->taken) complete(s, out);
    return MR_OK;
}

/* Whether detail names the pool's texts as they are: new workers would run the same. */
static bool is_in_use(mr_session *s, const cJSON *detail) {
    static const char *const keys[] = { "scripts", "modules" };
    cJSON *mine = s->scorer.scripts(s->scorer.self);
    bool same = true;
    for (int i = 0; i < 2; i++)
        same = same && mr_json_equal(cJSON_GetObjectItemCaseSensitive(mine, keys[i]),
                                     cJSON_GetObjectItemCaseSensitive(detail, keys[i]));
    cJSON_Delete(mine);
    return same;
}

static mr_status replay(void *self, const cJSON *detail, mr_reload *out, mr_err *err) {
    mr_session *s = self;
    if (is_in_use(s, detail)) {
        out->taken = true;
        out->detail = cJSON_Duplicate(detail, true);
    } else {
        MR_TRY(s->scorer.replay(s->scorer.self, detail, out, err));
    }
    const cJSON *version = cJSON_GetObjectItemCaseSensitive(detail, "template");
    if (!version) return MR_OK; /* of an older version: its templates are on no record */
    char *store = mr_path_join(mr_run_dir(s->run), "scripts");
    mr_status st = mr_template_replay(s->parts.template, version, store, err);
    mr_free(store);
    return st;
}

static mr_status again(void *self, mr_scorer *scorer, mr_row_source *rows, mr_err *err) {
    mr_session *s = self;
    MR_TRY(s->scorer.again(s->scorer.self, scorer, rows, err));
    *scorer = mr_session_scorer(s);
    return MR_OK;
}

mr_scorer mr_session_scorer(mr_session *s) {
    s->scorer = mr_pool_scorer(s->pool);
    mr_scorer own = s->scorer; /* its names and weights */
    own.self = s;
    own.submit = submit;
    own.collect = collect;
    own.between_steps = between_steps;
    own.replay = replay;
    own.again = again;
    own.scripts = scripts;
    return own;
}
