/* groups.c - what a worker gets to score at once, and what it answers: one completion, or the whole group of a prompt
 * for the rewards that have score_batch.
 *
 * The group is the unit because it is the only one that does not depend on how the work is cut: which worker is free,
 * how many jobs fit a frame and in which order completions end never show in what score_batch is given. Completions
 * wait here until their group is whole, and stand in it by id; the group's own id is that of its first sample. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "script/pool_impl.h"

enum { GROUP_MAX_BYTES = 32 << 20, EVERY_MEMBER = -1 };

static int by_id(const void *a, const void *b) {
    int64_t x = (*(mr_pool_job *const *)a)->in.id, y = (*(mr_pool_job *const *)b)->in.id;
    return x < y ? -1 : x > y;
}

static mr_pool_job *whole(mr_pool_job *g) {
    qsort(g->members, (size_t)g->n_members, sizeof *g->members, by_id);
    g->in = g->members[0]->in;
    return g;
}

mr_pool_job *mr_group_add(mr_pool *p, mr_pool_job *job) {
    int want = job->in.n_group ? job->in.n_group : 1, at = 0;
    while (at < p->n_groups && (want == 1 || p->groups[at]->in.group != job->in.group)) at++;
    if (at == p->n_groups) {
        if (p->n_groups == p->cap_groups) {
            p->cap_groups = p->cap_groups ? 2 * p->cap_groups : 16;
            p->groups = mr_realloc(p->groups, (size_t)p->cap_groups * sizeof *p->groups);
        }
        mr_pool_job *g = mr_arena_alloc(&p->arena, sizeof *g);
        g->in = job->in;
        g->in.n_group = want;
        g->single = g->judged = -1;
        p->groups[p->n_groups++] = g;
    }
    mr_pool_job *g = p->groups[at];
    if ((g->n_members & (g->n_members - 1)) == 0) { /* full at each power of two */
        mr_pool_job **more = mr_arena_alloc(&p->arena, (size_t)(2 * g->n_members + 1) * sizeof *more);
        if (g->n_members) memcpy(more, g->members, (size_t)g->n_members * sizeof *more);
        g->members = more;
    }
    g->members[g->n_members++] = job;
    job->group = g;
    if (want < 0 || g->n_members < g->in.n_group) return NULL;
    p->groups[at] = p->groups[--p->n_groups];
    return whole(g);
}

mr_pool_job *mr_group_rest(mr_pool *p) {
    return p->n_groups ? whole(p->groups[--p->n_groups]) : NULL;
}

bool mr_pool_is_own(const mr_pool *p, const mr_pool_job *job, int reward) {
    return p->v->batch[reward] == (job->members != NULL);
}

static void put_completion(mr_str *s, const mr_score_job *in, size_t max_bytes) {
    size_t len = in->len;
    if (len > max_bytes) {
        len = max_bytes;
        while (len > 0 && ((unsigned char)in->text[len] & 0xC0) == 0x80) len--;
    }
    mr_put_u32(s, (uint32_t)in->n_tokens);
    mr_put_u8(s, in->truncated);
    mr_put_bytes(s, in->text, len);
}

void mr_pool_put_job(mr_str *s, const mr_pool_job *job) {
    mr_put_i64(s, job->in.id);
    mr_put_u32(s, (uint32_t)job->single);
    mr_put_u32(s, (uint32_t)job->n_members);
    mr_put_i64(s, job->in.step);
    mr_put_bytes(s, job->in.prompt, strlen(job->in.prompt));
    mr_put_bytes(s, job->in.row_json, strlen(job->in.row_json));
    if (!job->members) put_completion(s, &job->in, job->in.len);
    for (int i = 0; i < job->n_members; i++) /* a frame has a limit: very large groups get shorter texts */
        put_completion(s, &job->members[i]->in, (size_t)GROUP_MAX_BYTES / (size_t)job->n_members);
}

size_t mr_pool_answer_max(const mr_pool *p, const mr_pool_job *job) {
    return (size_t)(job->members ? job->n_members : 1) * (size_t)p->v->n_rewards * MR_FAULT_BYTES;
}

/* One reward's part of an answer: a value for each completion in their order, or one fault that is that of all. So none
 * is left out and none comes twice. */
static bool take_reward(mr_pool *p, mr_pool_job *job, int reward, mr_take *t, uint32_t *left, mr_fault_fn on_fault) {
    int size = job->members ? job->n_members : 1;
    for (int k = 0; k < size; k++) {
        if (*left == 0) return false;
        --*left;
        int member = (int)(int32_t)mr_take_u32(t), is = (int)(int32_t)mr_take_u32(t);
        unsigned kind = mr_take_u8(t);
        double value = mr_take_f64(t);
        char text[512];
        mr_take_string(t, text, sizeof text);
        if (t->bad || is != reward || kind > MR_FAULT || !isfinite(value)) return false;
        bool all = member == EVERY_MEMBER && job->members && kind == MR_FAULT && k == 0;
        if (!all && member != k) return false;
        for (int i = k; i < (all ? size : k + 1); i++) {
            mr_pool_job *one = job->members ? job->members[i] : job;
            one->scores[reward] = (mr_score){ value, (mr_score_kind)kind };
        }
        if (kind == MR_FAULT) on_fault(p, all || !job->members ? job : job->members[k], reward, text);
        if (all) break;
    }
    return true;
}

bool mr_pool_take_scores(mr_pool *p, mr_pool_job *job, mr_take *t, mr_fault_fn on_fault) {
    if (mr_take_i64(t) != job->in.id) return false;
    uint32_t left = mr_take_u32(t);
    for (int r = 0; r < p->v->n_rewards; r++) {
        bool asked = mr_pool_is_own(p, job, r) && (job->single < 0 || job->single == r);
        if (asked && !take_reward(p, job, r, t, &left, on_fault)) return false;
    }
    return left == 0 && t->at == t->end && !t->bad;
}

void mr_pool_give_up(mr_pool *p, mr_pool_job *job, int reward) {
    int size = job->members ? job->n_members : 1;
    for (int k = 0; k < size; k++) {
        mr_pool_job *one = job->members ? job->members[k] : job;
        one->scores[reward] = (mr_score){ p->v->lows[reward], MR_FAULT };
    }
}
