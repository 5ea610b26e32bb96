/* evaluate.c - see evaluate.h. */
#include "rl/evaluate.h"

#include <math.h>
#include <string.h>

mr_interval mr_wilson(int64_t k, int64_t n) {
    if (n <= 0) return (mr_interval){ (double)NAN, 0, 1 };
    const double z = 1.959963984540054, p = (double)k / (double)n, m = (double)n;
    const double middle = p + z * z / (2 * m), half = z * sqrt(p * (1 - p) / m + z * z / (4 * m * m)),
                 over = 1 + z * z / m;
    return (mr_interval){ p, k == 0 ? 0 : (middle - half) / over, k == n ? 1 : (middle + half) / over };
}

double mr_sign_test(int64_t b, int64_t c) {
    const int64_t n = b + c, k = b < c ? b : c;
    double tail = 0; /* of a fair coin: P(X <= k) */
    for (int64_t i = 0; i <= k && n; i++)
        tail += exp(lgamma((double)n + 1) - lgamma((double)i + 1) - lgamma((double)(n - i) + 1) - (double)n * log(2.0));
    return n ? fmin(1, 2 * tail) : 1;
}

int64_t mr_eval_row(int64_t i, int64_t n_rows, int64_t n_asked) {
    return n_asked >= n_rows ? i : (int64_t)((double)i * (double)n_rows / (double)n_asked);
}

/* ---- one batch ---- */

typedef struct asked {
    int64_t index;
    mr_row row;
    mr_ids ids;
    mr_str prompt;
    char *text;
    int n_tokens;
    bool truncated, cut;
} asked;

typedef struct batch {
    const mr_eval_opts *o;
    asked *items;
    int n;
    int64_t first, total; /* of all that are asked */
    int submitted;
    mr_status status; /* of the judge's submit */
    mr_err why;
} batch;

static mr_status prepare(asked *a, const mr_eval_opts *o, mr_err *err) {
    const mr_chat_opts chat = { .add_generation_prompt = true };
    MR_TRY(o->rows.get(o->rows.self, a->index, &a->row, err));
    int n = a->row.n_messages; /* an answer that the row brings along is not shown */
    if (n > 1 && !strcmp(a->row.messages[n - 1].role, "assistant")) n--;
    if (n < 1)
        return mr_fail(err, MR_EDATA, "data.eval: row %lld (%s) has no messages", (long long)a->index,
                       a->row.source ? a->row.source : "");
    MR_TRY(mr_chat_render(&a->prompt, o->chat, a->row.messages, n, &chat, err));
    MR_TRY(mr_chat_encode(o->tokenizer, &a->ids, o->chat, a->row.messages, n, &chat, err));
    if (!a->ids.n) return mr_fail(err, MR_EDATA, "data.eval: row %lld gives an empty prompt", (long long)a->index);
    a->cut = a->ids.n > o->max_prompt;
    if (!a->cut) return MR_OK;
    memmove(a->ids.data, a->ids.data + a->ids.n - o->max_prompt, (size_t)o->max_prompt * sizeof *a->ids.data);
    a->ids.n = o->max_prompt;
    return MR_OK;
}

static void finished(void *self, const mr_completion *c) {
    batch *b = self;
    asked *a = &b->items[c->prompt];
    mr_str text = { 0 };
    mr_tokenizer_decode(b->o->tokenizer, &text, c->ids, c->n, true);
    const size_t len = text.len;
    a->text = text.data ? mr_str_steal(&text) : mr_strdup("");
    a->n_tokens = c->n;
    a->truncated = c->truncated;
    if (b->status != MR_OK) return;
    const mr_score_job job = { .id = c->prompt,
                               .text = a->text,
                               .len = len,
                               .row_json = a->row.json,
                               .prompt = a->prompt.data,
                               .n_tokens = c->n,
                               .truncated = c->truncated,
                               .step = b->o->step,
                               .group = c->prompt,
                               .n_group = 1 };
    b->status = b->o->judge.submit(b->o->judge.self, &job, &b->why);
    if (b->status == MR_OK) b->submitted++;
}

static bool tick(void *self, int done, int total) {
    const batch *b = self;
    (void)total;
    return b->status == MR_OK && (!b->o->tick || b->o->tick(b->o->self, b->first + done, b->total));
}

static mr_verdict verdict_of(const mr_score *s) {
    if (s->kind == MR_ABSTAINED || !isfinite(s->value)) return MR_UNJUDGED;
    if (s->kind == MR_FAULT || s->value < 0) return MR_INVALID;
    return s->value >= 1 ? MR_RIGHT : MR_WRONG;
}

static mr_status count(mr_eval_counts *sum, const batch *b, const mr_score *scores, mr_err *err) {
    for (int i = 0; i < b->n; i++) {
        const asked *a = &b->items[i];
        const mr_eval_answer answer = { .row = a->index,
                                        .at = (int)b->first + i,
                                        .data = &a->row,
                                        .prompt = a->prompt.data,
                                        .text = a->text,
                                        .verdict = verdict_of(&scores[(size_t)i * (size_t)b->o->judge.n_rewards]),
                                        .n_tokens = a->n_tokens,
                                        .truncated = a->truncated,
                                        .cut = a->cut };
        sum->n_rows++;
        sum->judged += answer.verdict != MR_UNJUDGED;
        sum->right += answer.verdict == MR_RIGHT;
        sum->invalid += answer.verdict == MR_INVALID;
        sum->truncated += a->truncated;
        sum->cut += a->cut;
        sum->tokens += a->n_tokens;
        if (b->o->answer) MR_TRY(b->o->answer(b->o->self, &answer, err));
    }
    return MR_OK;
}

static mr_status ask(mr_eval_counts *sum, batch *b, mr_err *err) {
    const mr_eval_opts *o = b->o;
    mr_rollout_prompt *prompts = mr_alloc((size_t)b->n * sizeof *prompts);
    mr_rollout roll = { 0 };
    mr_status st = MR_OK;
    for (int i = 0; i < b->n && st == MR_OK; i++) {
        b->items[i].index = mr_eval_row(b->first + i, o->rows.n_rows, b->total);
        st = prepare(&b->items[i], o, err);
        prompts[i] = (mr_rollout_prompt){ .ids = b->items[i].ids.data, .n_ids = b->items[i].ids.n, .n_samples = 1 };
    }
    mr_rollout_opts ro = { .sampling = { .temperature = 0, .top_p = 1, .repetition_penalty = 1, .n_vocab = o->n_vocab },
                           .max_new_tokens = o->max_new,
                           .finished = finished,
                           .tick = tick,
                           .self = b };
    ro.stop_ids = mr_tokenizer_stops(o->tokenizer, &ro.n_stop_ids);
    if (st == MR_OK) st = mr_rollout_run(&roll, o->decoder, prompts, b->n, &ro, err);
    if (st == MR_OK && b->status != MR_OK) st = mr_fail(err, b->status, "%s", b->why.msg);
    if (st == MR_OK && roll.stopped) st = mr_fail(err, MR_ESIGNAL, "stopped while it evaluated");
    const size_t n_scores = (size_t)b->n * (size_t)(o->judge.n_rewards > 0 ? o->judge.n_rewards : 1);
    mr_score *scores = mr_alloc(n_scores * sizeof *scores);
    int n_faults = 0;
    mr_err dropped;
    if (st == MR_OK)
        st = o->judge.collect(o->judge.self, scores, b->n, NULL, 0, &n_faults, err);
    else if (b->submitted) /* they are not of the next batch */
        o->judge.collect(o->judge.self, scores, 0, NULL, 0, &n_faults, &dropped);
    sum->faults += n_faults;
    if (st == MR_OK) st = count(sum, b, scores, err);
    mr_rollout_clear(&roll);
    mr_free(scores);
    mr_free(prompts);
    return st;
}

mr_status mr_evaluate(mr_eval_counts *out, const mr_eval_opts *o, mr_err *err) {
    const int64_t total = o->limit > 0 && o->limit < o->rows.n_rows ? o->limit : o->rows.n_rows;
    const int size = o->batch > 0 ? o->batch : 1;
    mr_eval_counts sum = { 0 };
    asked *items = mr_alloc((size_t)size * sizeof *items);
    mr_status st = MR_OK;
    for (int64_t first = 0; first < total && st == MR_OK; first += size) {
        batch b = { .o = o, .items = items, .first = first, .total = total };
        b.n = (int)(total - first < size ? total - first : size);
        st = ask(&sum, &b, err);
        for (int i = 0; i < b.n; i++) {
            mr_row_clear(&items[i].row);
            mr_free(items[i].ids.data);
            mr_str_clear(&items[i].prompt);
            mr_free(items[i].text);
            items[i] = (asked){ 0 };
        }
        if (st == MR_OK && o->tick && !o->tick(o->self, first + b.n, total) && first + b.n < total)
            st = mr_fail(err, MR_ESIGNAL, "stopped while it evaluated");
    }
    mr_free(items);
    if (st == MR_OK) *out = sum;
    return st;
}
