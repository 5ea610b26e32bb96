/* guards.c - watching a run for what makes it worthless: a signal that is dead for many steps ends it, with its reason; how the reward comes
 * about and whether completions repeat each other are numbers for people, and nothing acts on them.
 *
 * The counts come from the log of the steps, which checkpoints hold: a run that is resumed sees what it saw. */
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "rl/trainer_impl.h"

enum { DEAD_STEPS = 20, FIRST_STEPS = 10 };

static double number(const cJSON *entry, const char *name) {
    const cJSON *x = cJSON_GetObjectItemCaseSensitive(entry, name);
    return cJSON_IsNumber(x) ? x->valuedouble : (double)NAN;
}

/* --- a dead signal --- */

static bool all_zero(const cJSON *entry) { return number(entry, MR_M_REWARD) == 0 && number(entry, MR_M_REWARD_STD) == 0; }
static bool all_cut(const cJSON *entry) { return number(entry, MR_M_CLIPPED) >= 1; }
static bool all_equal(const cJSON *entry) { return number(entry, MR_M_ZERO_STD) >= 1; }

/* The most telling one first. The texts say DEAD_STEPS in words. */
static const struct {
    bool (*holds)(const cJSON *entry);
    const char *text;
} signals[] = {
    { all_cut, "every completion of the last 20 steps was cut at max_completion_length, so no answer was ever finished and rewards judge "
               "fragments; the model usually needs more room, or a prompt that asks for a short answer: raise "
               "grpo.max_completion_length, or look at the samples for text that repeats without an end" },
    { all_zero, "every reward of the last 20 steps was zero, so nothing can be learned; usually no reward function recognizes what the "
                "model writes: look at a sample with `medrl attach` and run:last(), try the reward with `medrl score`, show the "
                "form in the prompt, or begin with a reward for a part of it" },
    { all_equal, "in the last 20 steps no group had two different rewards, so every advantage was zero and nothing is learned; the task "
                 "is usually too hard or too easy for the model, or a reward is constant: raise grpo.temperature or "
                 "grpo.num_generations, choose other rows, or give partial rewards" },
};

/* In how many steps until now, one after another, it held. */
static int run_of(const mr_trainer *t, bool (*holds)(const cJSON *entry)) {
    int n = 0;
    /* cJSON keeps the last child as the first one's prev */
    for (const cJSON *e = t->log_history->child ? t->log_history->child->prev : NULL; e && holds(e); e = e->prev) {
        n++;
        if (e == t->log_history->child) break;
    }
    return n;
}

mr_status mr_trainer_guard(mr_trainer *t, mr_err *err) {
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        int n = run_of(t, signals[i].holds);
        if (n == 0 || n % DEAD_STEPS != 0) continue;
        if (t->set->train.guards)
            return mr_fail(err, MR_EINVAL, "step %lld: %s. The run was stopped for it; grpo.guards = false lets it go on",
                           (long long)t->step, signals[i].text);
        if (n != DEAD_STEPS) return MR_OK; /* said once */
        mr_warn("%s", signals[i].text);
        return mr_trainer_event(t, "warning", signals[i].text, err);
    }
    return MR_OK;
}

/* --- numbers --- */

/* Of the completions, those that an earlier one of their group equals byte for byte. */
static double duplicates(const char *const *texts, int n, int group) {
    int same = 0;
    for (int b = 0; b < n; b++)
        for (int a = b - b % group; a < b; a++)
            if (strcmp(texts[a], texts[b]) == 0) {
                same++;
                break;
            }
    return n ? (double)same / n : 0;
}

/* The mean length of this step over that of the run's first steps. */
static double length_drift(const mr_trainer *t, double mean) {
    double sum = 0;
    int n = 0;
    for (const cJSON *e = t->log_history->child; e && n < FIRST_STEPS; e = e->next, n++) sum += number(e, MR_M_LEN_MEAN);
    return n == FIRST_STEPS && sum > 0 ? mean / (sum / n) : (double)NAN;
}

void mr_trainer_monitor(mr_trainer *t, const char *const *texts, int n, const double *means) {
    double all = 0;
    int n_rewards = t->parts.scorer.n_rewards;
    for (int f = 0; f < n_rewards; f++) all += fabs((double)t->weights[f] * means[f]);
    for (int f = 0; f < n_rewards && n_rewards > 1 && all > 0; f++)
        mr_trainer_metric_fmt(t, MR_M_SHARE_FMT, t->parts.scorer.names[f], fabs((double)t->weights[f] * means[f]) / all);
    mr_trainer_metric(t, MR_M_DUPLICATES, duplicates(texts, n, t->group));
    double mean = 0;
    for (int i = 0; i < t->n_metrics; i++)
        if (!strcmp(t->metrics[i].name, MR_M_LEN_MEAN)) mean = t->metrics[i].value;
    double drift = length_drift(t, mean);
    if (!isnan(drift)) mr_trainer_metric(t, MR_M_LENGTH_DRIFT, drift);
}
