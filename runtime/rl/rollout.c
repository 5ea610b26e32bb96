/* rollout.c - see rollout.h.
 *
 * KV slots are cut into cells of equal size, one for each group that is alive: [prompt | own keys of sample 0 | ... |
 * of sample G-1], every part from a multiple of MR_KV_CHUNK on. Prompts of newly admitted groups are run first
 * (several a forward, long ones in pieces), then all live sequences advance by one token a forward. Which cell, which
 * row and which forward a token falls in changes nothing: row rule. */
#include "rl/rollout.h"

#include <assert.h>
#include <string.h>

#include "base/proc.h"
#include "base/rng.h"

typedef struct seq {
    mr_completion *c;
    int group;
    int64_t slot0; /* of its own keys */
    bool ended;
    int32_t *history; /* prompt and completion, only with a repetition penalty */
} seq;

typedef struct group {
    const mr_rollout_prompt *p;
    int first; /* its first completion in items */
    int cell;  /* -1: waiting or done */
    int n_live, filled;
    bool decoding;
} group;

typedef struct job {
    mr_rollout *out;
    mr_decoder *d;
    mr_backend *b;
    const mr_rollout_opts *o;
    group *groups;
    seq *seqs;
    int n_groups, next, n_done;
    int n_cells, max_rows;
    int64_t cell_slots;
    bool *cell_used;
    bool stop;
    /* one forward */
    int32_t *ids, *pos, *slots, *rows, *picked;
    mr_span *spans;
    int *who; /* sequence of each row of the forward, or group of each span while filling */
    float *u, *logp;
    const int32_t **history;
    int32_t *n_history;
} job;

int64_t mr_rollout_slots(int n_prompts, int n_prompt_tokens, int n_samples, int max_new_tokens) {
    return n_prompts * (mr_kv_round(n_prompt_tokens) + n_samples * mr_kv_round(max_new_tokens));
}

void mr_rollout_clear(mr_rollout *r) {
    mr_arena_clear(&r->arena);
    *r = (mr_rollout){ 0 };
}

static bool is_stop(const mr_rollout_opts *o, int32_t id) {
    for (int i = 0; i < o->n_stop_ids; i++)
        if (o->stop_ids[i] == id) return true;
    return false;
}

static int64_t prompt_slot(const job *j, const group *g) {
    return g->cell * j->cell_slots;
}

static void admit(job *j) {
    for (int cell = 0; cell < j->n_cells && j->next < j->n_groups; cell++) {
        if (j->cell_used[cell]) continue;
        group *g = &j->groups[j->next++];
        j->cell_used[cell] = true;
        g->cell = cell;
        g->n_live = g->p->n_samples;
        int64_t own = prompt_slot(j, g) + mr_kv_round(g->p->n_ids);
        for (int s = 0; s < g->p->n_samples; s++)
            j->seqs[g->first + s].slot0 = own + s * mr_kv_round(j->o->max_new_tokens);
    }
}

static void end_sequence(job *j, seq *s, bool truncated) {
    group *g = &j->groups[s->group];
    s->c->truncated = truncated;
    s->ended = true;
    j->n_done++;
    if (--g->n_live == 0) {
        j->cell_used[g->cell] = false;
        g->cell = -1;
    }
    if (j->o->finished) j->o->finished(j->o->self, s->c);
}

/* Picks the next token of n sequences (j->who) from the rows j->rows of the last forward; with `step` from a forward of
 * it that is made here, row i for sequence i. */
static void sample(job *j, int n, const mr_pack *step) {
    bool penalty = j->o->sampling.repetition_penalty != 1.0f;
    for (int i = 0; i < n; i++) {
        const seq *s = &j->seqs[j->who[i]];
        const mr_rollout_prompt *p = j->groups[s->group].p;
        j->u[i] = mr_uniform(j->o->seed, j->o->step, p->rng_prompt, p->rng_sample0 + (uint32_t)s->c->sample,
                             (uint32_t)s->c->n);
        j->history[i] = s->history;
        j->n_history[i] = penalty ? p->n_ids + s->c->n : 0;
    }
    if (step && !penalty) {
        mr_decoder_step(j->d, j->picked, j->logp, step, j->u, &j->o->sampling);
    } else {
        if (step) mr_decoder_forward(j->d, step);
        mr_decoder_sample(j->d, j->picked, j->logp, j->rows, j->u, &j->o->sampling, penalty ? j->history : NULL,
                          penalty ? j->n_history : NULL, n);
    }
    for (int i = 0; i < n; i++) {
        seq *s = &j->seqs[j->who[i]];
        mr_completion *c = s->c;
        if (s->history) s->history[j->groups[s->group].p->n_ids + c->n] = j->picked[i];
        c->ids[c->n] = j->picked[i];
        c->logp[c->n++] = j->logp[i];
        j->out->n_new_tokens++;
        bool go_on = !j->o->token || j->o->token(j->o->self, c->prompt, c->sample, j->picked[i]);
        if (is_stop(j->o, j->picked[i]) || !go_on)
            end_sequence(j, s, false);
        else if (c->n == j->o->max_new_tokens)
            end_sequence(j, s, true);
    }
}

static mr_pack pack_of(const job *j, int n_rows, int n_spans) {
    return (mr_pack){
        .n_rows = n_rows, .ids = j->ids, .pos = j->pos, .slots = j->slots, .spans = j->spans, .n_spans = n_spans
    };
}

static void put_row(job *j, int row, int32_t id, int pos, int64_t slot) {
    j->ids[row] = id;
    j->pos[row] = pos;
    j->slots[row] = (int32_t)slot;
}

/* One forward over prompts that are not complete; false when there are none. Groups whose last row is in it get their
 * first tokens. */
static bool fill(job *j) {
    int n_rows = 0, n_spans = 0, n_ended = 0;
    for (int k = 0; k < j->n_groups && n_rows < j->max_rows; k++) {
        group *g = &j->groups[k];
        if (g->cell < 0 || g->decoding) continue;
        int n = g->p->n_ids - g->filled;
        if (n > j->max_rows - n_rows) n = j->max_rows - n_rows;
        int64_t slot = prompt_slot(j, g);
        j->spans[n_spans++] = (mr_span){ .row0 = n_rows, .n_rows = n, .past = g->filled, .slot0 = (int32_t)slot };
        for (int i = 0; i < n; i++) {
            put_row(j, n_rows++, g->p->ids[g->filled], g->filled, slot + g->filled);
            g->filled++;
        }
        if (g->filled == g->p->n_ids) {
            g->decoding = true;
            for (int s = 0; s < g->p->n_samples; s++) {
                j->who[n_ended] = g->first + s;
                j->rows[n_ended++] = n_rows - 1;
            }
        }
    }
    if (!n_rows) return false;
    mr_pack pack = pack_of(j, n_rows, n_spans);
    mr_decoder_forward(j->d, &pack);
    j->out->n_prompt_tokens += n_rows;
    if (n_ended) sample(j, n_ended, NULL);
    return true;
}

/* One token for every live sequence, in as many forwards as the rows ask for. */
static mr_status advance(job *j, mr_err *err) {
    int n_seqs = j->out->n;
    for (int k = 0; k < n_seqs && !j->stop;) {
        int n = 0;
        for (; k < n_seqs && n < j->max_rows; k++) {
            seq *s = &j->seqs[k];
            const group *g = &j->groups[s->group];
            if (g->cell < 0 || !g->decoding || s->ended) continue;
            int own = s->c->n - 1; /* keys so far: the last token's are made now */
            put_row(j, n, s->c->ids[own], g->p->n_ids + own, s->slot0 + own);
            j->spans[n] = (mr_span){ .row0 = n,
                                     .n_rows = 1,
                                     .past = own,
                                     .slot0 = (int32_t)s->slot0,
                                     .prefix_slot0 = (int32_t)prompt_slot(j, g),
                                     .n_prefix = g->p->n_ids };
            j->rows[n] = n;
            j->who[n++] = k;
        }
        if (!n) break;
        mr_pack pack = pack_of(j, n, n);
        sample(j, n, &pack);
        MR_TRY(j->b->sync(j->b, err));
        if (j->o->tick && !j->o->tick(j->o->self, j->n_done, n_seqs)) j->stop = true;
    }
    return MR_OK;
}

static mr_status loop(job *j, mr_err *err) {
    while (j->n_done < j->out->n && !j->stop) {
        admit(j);
        double t0 = mr_now_s();
        while (!j->stop && fill(j)) {
            MR_TRY(j->b->sync(j->b, err));
            if (j->o->tick && !j->o->tick(j->o->self, j->n_done, j->out->n)) j->stop = true;
        }
        double t1 = mr_now_s();
        if (!j->stop) MR_TRY(advance(j, err));
        j->out->prefill_s += t1 - t0;
        j->out->decode_s += mr_now_s() - t1;
    }
    j->out->stopped = j->stop;
    return MR_OK;
}

static mr_status check(const mr_rollout_prompt *prompts, int n, const mr_rollout_opts *o, const mr_config *c,
                       mr_err *err) {
    if (o->max_new_tokens < 1)
        return mr_fail(err, MR_EINVAL, "rollout: %d new tokens asked for, need at least 1", o->max_new_tokens);
    for (int i = 0; i < n; i++) {
        if (prompts[i].n_ids < 1)
            return mr_fail(err, MR_EINVAL, "rollout: prompt %d is empty, need at least 1 token", i);
        if (prompts[i].n_samples < 1)
            return mr_fail(err, MR_EINVAL, "rollout: prompt %d asks for %d samples, need at least 1", i,
                           prompts[i].n_samples);
        for (int t = 0; t < prompts[i].n_ids; t++)
            if (prompts[i].ids[t] < 0 || prompts[i].ids[t] >= c->vocab_size)
                return mr_fail(
                    err, MR_EINVAL,
                    "rollout: prompt %d: token %d is id %d, the model has ids 0..%d; is the tokenizer the model's own?",
                    i, t, (int)prompts[i].ids[t], c->vocab_size - 1);
    }
    return MR_OK;
}

mr_status mr_rollout_run(mr_rollout *out, mr_decoder *d, const mr_rollout_prompt *prompts, int n_prompts,
                         const mr_rollout_opts *opts, mr_err *err) {
    mr_model *m = mr_decoder_model(d);
    const mr_decoder_opts *room = mr_decoder_options(d);
    MR_TRY(check(prompts, n_prompts, opts, mr_model_config(m), err));
    int n_seqs = 0;
    int64_t cell = 0;
    for (int i = 0; i < n_prompts; i++) {
        int64_t need = mr_rollout_slots(1, prompts[i].n_ids, prompts[i].n_samples, opts->max_new_tokens);
        if (need > cell) cell = need;
        if (need > mr_kv_round(room->rollout_slots))
            return mr_fail(
                err, MR_ENOMEM,
                "rollout: prompt %d with %d tokens and %d completions of %d takes %lld KV slots, there are %lld; "
                "shorten max_prompt_length or max_completion_length, or lower num_generations",
                i, prompts[i].n_ids, prompts[i].n_samples, opts->max_new_tokens, (long long)need,
                (long long)room->rollout_slots);
        n_seqs += prompts[i].n_samples;
    }
    mr_rollout_opts o = *opts;
    int vocab = mr_model_config(m)->vocab_size;
    if (o.sampling.n_vocab <= 0 || o.sampling.n_vocab > vocab) o.sampling.n_vocab = vocab;
    int64_t n_cells = n_prompts ? mr_kv_round(room->rollout_slots) / cell : 0;
    if (n_cells > n_prompts) n_cells = n_prompts;

    mr_arena work = { 0 };
    size_t rows = (size_t)room->rollout_rows, most = rows > (size_t)n_seqs ? rows : (size_t)n_seqs;
    job j = { .out = out,
              .d = d,
              .b = mr_model_backend(m),
              .o = &o,
              .n_groups = n_prompts,
              .n_cells = (int)n_cells,
              .max_rows = room->rollout_rows,
              .cell_slots = cell };
    out->n = n_seqs;
    out->items = mr_arena_alloc(&out->arena, ((size_t)n_seqs + 1) * sizeof *out->items);
    j.groups = mr_arena_alloc(&work, ((size_t)n_prompts + 1) * sizeof *j.groups);
    j.seqs = mr_arena_alloc(&work, ((size_t)n_seqs + 1) * sizeof *j.seqs);
    j.cell_used = mr_arena_alloc(&work, (size_t)n_cells + 1);
    j.ids = mr_arena_alloc(&work, rows * sizeof *j.ids);
    j.pos = mr_arena_alloc(&work, rows * sizeof *j.pos);
    j.slots = mr_arena_alloc(&work, rows * sizeof *j.slots);
    j.spans = mr_arena_alloc(&work, rows * sizeof *j.spans);
    j.rows = mr_arena_alloc(&work, most * sizeof *j.rows);
    j.picked = mr_arena_alloc(&work, most * sizeof *j.picked);
    j.who = mr_arena_alloc(&work, most * sizeof *j.who);
    j.u = mr_arena_alloc(&work, most * sizeof *j.u);
    j.logp = mr_arena_alloc(&work, most * sizeof *j.logp);
    j.history = mr_arena_alloc(&work, most * sizeof *j.history);
    j.n_history = mr_arena_alloc(&work, most * sizeof *j.n_history);
    for (int i = 0, k = 0; i < n_prompts; i++) {
        j.groups[i] = (group){ .p = &prompts[i], .first = k, .cell = -1 };
        for (int s = 0; s < prompts[i].n_samples; s++, k++) {
            mr_completion *c = &out->items[k];
            c->prompt = i;
            c->sample = s;
            c->ids = mr_arena_alloc(&out->arena, (size_t)o.max_new_tokens * sizeof *c->ids);
            c->logp = mr_arena_alloc(&out->arena, (size_t)o.max_new_tokens * sizeof *c->logp);
            j.seqs[k] = (seq){ .c = c, .group = i };
            if (o.sampling.repetition_penalty == 1.0f) continue;
            j.seqs[k].history = mr_arena_alloc(&work, (size_t)(prompts[i].n_ids + o.max_new_tokens) * sizeof(int32_t));
            memcpy(j.seqs[k].history, prompts[i].ids, (size_t)prompts[i].n_ids * sizeof(int32_t));
        }
    }
    mr_decoder_phase(d, MR_PHASE_ROLLOUT);
    mr_status st = loop(&j, err);
    mr_arena_clear(&work);
    return st;
}
