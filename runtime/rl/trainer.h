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
 * Ownership: borrows everything that is handed in until close. Threads: one; mr_trainer_stop may be called from a
 * signal handler. */
#ifndef MR_TRAINER_H
#define MR_TRAINER_H

#include "model/decoder.h"
#include "rl/interfaces.h"
#include "rl/settings.h"

typedef struct mr_trainer mr_trainer;

typedef struct mr_trainer_parts {
    const mr_settings *settings;
    mr_model *model;
    mr_tokenizer *tokenizer;
    const mr_chat *chat;
    mr_row_source rows;
    mr_scorer scorer; /* unused by sft */
    mr_observer observer;
    const char *run_dir; /* checkpoints go to RUN_DIR/checkpoint-N; NULL: none are written */
    const char *base_model_name;
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
mr_status mr_trainer_checkpoint(mr_trainer *t, mr_err *err);
void mr_trainer_stop(mr_trainer *t); /* async-signal-safe */
/* The memory by part as lines for people. */
void mr_trainer_describe(const mr_trainer *t, mr_str *out);

/* One SHA-256 over adapter (or model), optimizer and position of a checkpoint folder: two runs are equal when it is. */
mr_status mr_checkpoint_hash(char hex[65], const char *checkpoint, mr_err *err);
/* The newest whole checkpoint of a run: RUN_DIR/checkpoint-N with a MANIFEST that holds; owned, free with mr_free.
 * MR_ENOTFOUND when there is none. */
mr_status mr_checkpoint_find(char **path, const char *run_dir, mr_err *err);

#endif
