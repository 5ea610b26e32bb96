/* pack.c - see pack.h. */
#include "rl/pack.h"

#include <assert.h>
#include <string.h>

#include "base/memory.h"

int64_t mr_group_slots(const mr_train_group *g) {
    int64_t n = mr_kv_round(g->n_prompt);
    for (int i = 0; i < g->n_completions; i++) n += mr_kv_round(g->n_ids[i] - 1);
    return n;
}

int mr_group_rows_of(const mr_train_group *g) {
    int n = g->n_prompt;
    for (int i = 0; i < g->n_completions; i++) n += g->n_ids[i] - 1;
    return n;
}

mr_status mr_packer_init(mr_packer *p, int max_rows, int64_t max_slots, int max_completions, mr_err *err) {
    size_t rows = (size_t)max_rows, targets = rows + (size_t)max_completions;
    *p = (mr_packer){ .max_rows = max_rows, .max_slots = max_slots, .max_targets = (int)targets };
    /* every span has a row of its own, so there are no more spans than rows */
    p->max_spans = max_rows;
    p->ids = mr_try_alloc(rows * sizeof *p->ids);
    p->pos = mr_try_alloc(rows * sizeof *p->pos);
    p->slots = mr_try_alloc(rows * sizeof *p->slots);
    p->spans = mr_try_alloc(rows * sizeof *p->spans);
    p->rows = mr_try_alloc(targets * sizeof *p->rows);
    p->targets = mr_try_alloc(targets * sizeof *p->targets);
    p->token = mr_try_alloc(targets * sizeof *p->token);
    if (!p->ids || !p->pos || !p->slots || !p->spans || !p->rows || !p->targets || !p->token) {
        mr_packer_clear(p);
        return mr_fail(err, MR_ENOMEM, "trainer: no memory for packs of %d rows", max_rows);
    }
    mr_packer_reset(p);
    return MR_OK;
}

void mr_packer_clear(mr_packer *p) {
    mr_free(p->ids);
    mr_free(p->pos);
    mr_free(p->slots);
    mr_free(p->spans);
    mr_free(p->rows);
    mr_free(p->targets);
    mr_free(p->token);
    *p = (mr_packer){ 0 };
}

void mr_packer_reset(mr_packer *p) {
    p->pack = (mr_pack){ .ids = p->ids, .pos = p->pos, .slots = p->slots, .spans = p->spans };
    p->n_targets = 0;
    p->n_slots = 0;
}

/* Rows of n tokens with positions from `pos` on and slots from `slot` on. */
static void put_rows(mr_packer *p, const int32_t *ids, int n, int pos, int64_t slot) {
    for (int i = 0; i < n; i++) {
        int row = p->pack.n_rows++;
        p->ids[row] = ids[i];
        p->pos[row] = pos + i;
        p->slots[row] = (int32_t)(slot + i);
    }
}

static void put_target(mr_packer *p, int32_t row, int32_t id, int32_t token) {
    p->rows[p->n_targets] = row;
    p->targets[p->n_targets] = id;
    p->token[p->n_targets++] = token;
}

bool mr_packer_add(mr_packer *p, const mr_train_group *g) {
    assert(g->n_prompt > 0 && g->n_completions > 0);
    int rows = mr_group_rows_of(g), targets = rows - g->n_prompt + g->n_completions;
    if (p->pack.n_rows + rows > p->max_rows || p->n_slots + mr_group_slots(g) > p->max_slots ||
        p->n_targets + targets > p->max_targets)
        return false;
    int32_t prompt_row = p->pack.n_rows, prompt_slot = (int32_t)p->n_slots, token = g->first_token;
    p->spans[p->pack.n_spans++] = (mr_span){ .row0 = prompt_row, .n_rows = g->n_prompt, .slot0 = prompt_slot };
    put_rows(p, g->prompt, g->n_prompt, 0, p->n_slots);
    p->n_slots += mr_kv_round(g->n_prompt);
    for (int i = 0; i < g->n_completions; i++) {
        put_target(p, prompt_row + g->n_prompt - 1, g->ids[i][0], token);
        token += g->n_ids[i];
    }
    token = g->first_token;
    for (int i = 0; i < g->n_completions; i++) {
        int n = g->n_ids[i] - 1;
        int32_t row = p->pack.n_rows;
        assert(n >= 0);
        if (n > 0)
            p->spans[p->pack.n_spans++] = (mr_span){ .row0 = row,
                                                     .n_rows = n,
                                                     .slot0 = (int32_t)p->n_slots,
                                                     .prefix_slot0 = prompt_slot,
                                                     .n_prefix = g->n_prompt,
                                                     .prefix_row0 = prompt_row };
        put_rows(p, g->ids[i], n, g->n_prompt, p->n_slots);
        for (int t = 0; t < n; t++) put_target(p, row + t, g->ids[i][t + 1], token + t + 1);
        p->n_slots += mr_kv_round(n);
        token += g->n_ids[i];
    }
    return true;
}

int mr_packer_add_from(mr_packer *p, const mr_train_group *g, int first) {
    assert(first >= 0 && first < g->n_completions);
    mr_train_group rest = *g;
    rest.ids += first;
    rest.n_ids += first;
    rest.n_completions -= first;
    for (int i = 0; i < first; i++) rest.first_token += g->n_ids[i];
    if (mr_packer_add(p, &rest)) return g->n_completions;
    if (p->n_targets) return first;
    while (--rest.n_completions > 0)
        if (mr_packer_add(p, &rest)) return first + rest.n_completions;
    return first;
}
