/* trainer.h - the loop: draw prompts, sample, score, compute advantages, train, record, checkpoint.
 *
 * A step: P prompts from the row source in torch.randperm order (spec/grpo.md 3.1) -> rollout (rl/rollout.h), scoring
 * overlaps -> advantages (rl/grpo.h) -> packs of whole groups through the decoder, forward and backward -> clip ->
 * AdamW -> schedule -> metrics. With one update a rollout the old log-probabilities are the sampled ones, and their
 * ratio to the training forward's is recorded as sampling/is_ratio: it is 1.
 * num_iterations > 1: that many updates share a rollout, its sampled log-probabilities and the step's learning rate;
 * max_steps counts rollouts. Groups whose advantages are all 0 have gradient 0 and are not run (beta = 0): is_ratio and
 * entropy are over the rows that are, and null when there are none.
 * The same loop runs method = "sft": rows with an assistant message, cross-entropy over that message's tokens (mean
 * over the step's tokens).
 * What it survives: a reward's faults (they cost their sample); a signal (mr_trainer_stop: finishes the micro-batch,
 * checkpoints, returns MR_ESIGNAL).
 * Between two steps, in this order: what a resumed run repeats; commands of mr_control; a reload of changed scripts; a
 * pause, which goes on with commands and reloads. A settings change or a reload never touches a sample that was drawn:
 * what a step samples and how it scores is settled before it begins. Each is an event of the journal; a checkpoint
 * holds the settings and the texts in force, the version's number and where the order of the data began, so that
 * checkpoint and journal together give the same run again (mr_trainer_replay).
 * max_steps, changed live: the schedule's warmup stays as it was planned, its decay runs to the new end from the next
 * update on; a value that is reached already ends the run at this boundary. A data set of another length: the order
 * begins anew at this step (mr_order), max_steps stays.
 * Evaluation: every eval_steps steps and after the last one, greedy answers to rows of data.eval with the updated
 * policy, judged (rl/evaluate.h); they are metrics of the step (eval/accuracy ...), made before it is recorded, and
 * change nothing else. A new best one makes a checkpoint (best_global_step, best_metric of trainer_state.json).
 * Stopped in the midst of one, the run that continues makes it again and then records the step.
 * Budget: before a step that would go beyond budget.usd or budget.hours, by the longest of late, the run ends at this
 * boundary with a checkpoint, as a done one does; time that was spent before a resume counts.
 * Ownership: borrows everything that is handed in until close. Threads: one; mr_trainer_stop may be called from a
 * signal handler. */
#ifndef MR_TRAINER_H
#define MR_TRAINER_H

#include "model/decoder.h"
#include "rl/interfaces.h"
#include "rl/settings.h"

typedef struct mr_trainer_parts {
    const mr_settings *settings;
    mr_model *model;
    mr_tokenizer *tokenizer;
    const mr_chat *chat;
    mr_row_source rows;
    mr_scorer scorer; /* sft: only its reloads are used */
    mr_observer observer;
    mr_control control;  /* zeroed: nobody talks to the run */
    mr_evaluator evaluator; /* zeroed: eval_steps is not looked at */
    const char *run_dir; /* checkpoints go to RUN_DIR/checkpoint-N; NULL: none are written */
    const char *base_model_name;
    double spent_s; /* wall seconds that this process took before mr_trainer_open; they count for the budget */
    const char *build; /* of the program, for the checkpoints; NULL: they do not say */
    const struct mr_plan *plan; /* plan.h; NULL: made by mr_trainer_open, after its own census of the data */
} mr_trainer_parts;

/* Plans memory for the longest prompts seen in a census of the data (at most 512 rows are tokenized), opens the
 * decoder, the optimizer states. */
mr_status mr_trainer_open(mr_trainer **out, const mr_trainer_parts *parts, mr_err *err);
void mr_trainer_close(mr_trainer *t);

/* Continues from a checkpoint folder: adapter, optimizer, step, data position. Returns the recorded lengths through
 * the pointers (may be NULL). */
mr_status mr_trainer_load(mr_trainer *t, const char *checkpoint, int64_t *metrics_bytes, int64_t *samples_bytes,
                          int64_t *events_bytes, mr_err *err);
int64_t mr_trainer_step_index(const mr_trainer *t);
int64_t mr_trainer_max_steps(const mr_trainer *t);

mr_status mr_trainer_step(mr_trainer *t, mr_err *err); /* one step */
mr_status mr_trainer_run(mr_trainer *t, mr_err *err);  /* to max_steps; checkpoints every save_steps and at the end */
/* n steps as mr_trainer_run makes them, with what happens between them; fewer at max_steps or when the run was ended.
 * Stopped: MR_ESIGNAL, and after mr_trainer_unstop the step that was under way is made again by the next call. */
mr_status mr_trainer_advance(mr_trainer *t, int64_t n, mr_err *err);
mr_status mr_trainer_checkpoint(mr_trainer *t, mr_err *err);
void mr_trainer_stop(mr_trainer *t); /* async-signal-safe */
void mr_trainer_unstop(mr_trainer *t); /* what was asked for is forgotten */
/* The memory by part as lines for people. */
void mr_trainer_describe(const mr_trainer *t, mr_str *out);

/* --- live: between two steps only (mr_control.serve with boundary = true, or no step under way) --- */

/* Changes a setting of the running run: "learning_rate" or "grpo.learning_rate", value as in the recipe. Checked as the
 * recipe's settings are; MR_EINVAL names a setting that cannot change in a run and says why, or the value that does not
 * fit. by: who ("attach", "recipe"), for the event "set" { key, value, old, by }, which is what a resumed run repeats. */
mr_status mr_trainer_set(mr_trainer *t, const char *key, const cJSON *value, const char *by, mr_err *err);
/* The settings in force as one object, { "grpo.learning_rate": ..., ... }, live ones only; owned by the caller. */
cJSON *mr_trainer_live(const mr_trainer *t);
/* Looks at the scripts now, as happens between any two steps. note (may be NULL): the line about it; empty: nothing
 * changed. taken: a new version is in use. */
mr_status mr_trainer_reload(mr_trainer *t, mr_str *note, bool *taken, mr_err *err);
/* Holds the run at the next boundary (a checkpoint is made) until mr_trainer_go_on, a good save of the script that was
 * at fault, or a signal. why: one line, for the event and for people. */
mr_status mr_trainer_pause(mr_trainer *t, const char *why, mr_err *err);
void mr_trainer_go_on(mr_trainer *t);
/* Wall seconds of the run until now, those before a resume included. */
double mr_trainer_elapsed_s(const mr_trainer *t);
/* Why the run ended before max_steps, as one line; NULL: it did not. Borrowed. */
const char *mr_trainer_why_ended(const mr_trainer *t);
const char *mr_trainer_paused(const mr_trainer *t); /* why; NULL: it runs. Borrowed. */
/* Ends the run at this boundary with a checkpoint, as a signal does; mr_trainer_run returns MR_OK with `ended early`
 * in its stop event. */
void mr_trainer_end(mr_trainer *t);
/* n completions of a prompt from the policy as it is now; the run's own random numbers are not touched. Texts are
 * decoded, and scored by the rewards in use against row_json ("{}": no columns; NULL: not scored). sampling NULL: as
 * the run samples; max_new_tokens 0: as many as the run's. MR_EINVAL: longer than the run's memory is planned for, or a
 * supervised run, which has none for sampling. Result: { "completions": [ { "text", "tokens", "truncated", "rewards":
 * { name: value | null }, "reward" } ] }, owned by the caller; the last two only when scored. */
mr_status mr_trainer_sample(mr_trainer *t, cJSON **out, const mr_message *messages, int n_messages, const char *row_json,
                            int n, const mr_sampling *sampling, int max_new_tokens, uint64_t seed, mr_err *err);
/* The last step's groups as they were recorded: [ { "prompt", "source", "row", "completions": [ { "text", "tokens",
 * "truncated", "rewards": {...}, "reward", "advantage" } ] } ]; NULL before the first step. Borrowed until the next. */
const cJSON *mr_trainer_last(const mr_trainer *t);

/* What a resumed run repeats before it looks at files again: events that were recorded after its checkpoint, in their
 * order, [ { "step", "kind", "text", "detail" } ], and the last step that was. "reload" and "set" take place again
 * between the same steps, with the recorded texts and values; up to last_step no file is looked at. Copied. To be
 * called between mr_trainer_load and mr_trainer_run. */
mr_status mr_trainer_replay(mr_trainer *t, const cJSON *events, int64_t last_step, mr_err *err);

/* One SHA-256 over adapter (or model), optimizer and position of a checkpoint folder: two runs are equal when it is. "" on failure. */
mr_status mr_checkpoint_hash(char hex[65], const char *checkpoint, mr_err *err);
/* The newest whole checkpoint of a run: RUN_DIR/checkpoint-N with a MANIFEST that holds; owned, free with mr_free.
 * MR_ENOTFOUND when there is none. */
mr_status mr_checkpoint_find(char **path, const char *run_dir, mr_err *err);

#endif
