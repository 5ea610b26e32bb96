/* checkpoint.h - folders that are whole or absent: RUN/checkpoint-N with a MANIFEST of every file's SHA-256, written
 * last.
 *
 * Writing: a temporary folder beside the final one, the files, MANIFEST, then mr_dir_commit (fsync of files and
 * folder, rename, fsync of the parent); only then older ones are pruned. MANIFEST has the form that `sha256sum -c
 * MANIFEST` takes. Reading: the newest folder whose MANIFEST holds wins; a damaged one is passed over with one
 * warning. mr_checkpoint_find and mr_checkpoint_hash stand in rl/trainer.h.
 * Source: design.md, section 9; reliability.md P2. */
#ifndef MR_CHECKPOINT_H
#define MR_CHECKPOINT_H

#include <cjson/cJSON.h>

#include "base/memory.h"

/* The folder to write step N into, made empty; leftovers of earlier attempts are removed. Owned, free with mr_free. */
mr_status mr_checkpoint_begin(char **tmp, const char *run_dir, int64_t step, mr_err *err);
/* Writes MANIFEST over all files in tmp and moves it to RUN_DIR/checkpoint-N (an old folder of that name is
 * replaced). */
mr_status mr_checkpoint_commit(const char *tmp, const char *run_dir, int64_t step, mr_err *err);
/* Keeps the newest `keep` checkpoints; keep < 1 keeps all. Whatever keep is, two that look whole (every file of MANIFEST is
 * there; hashes are not computed) stay, and the one that the newest trainer_state.json calls best_model_checkpoint. What
 * goes is renamed first, to .trash-checkpoint-N, so that it never has a checkpoint's name half removed; leftovers of an
 * earlier time go too. Failures are warnings: nothing is lost by one folder too many. */
void mr_checkpoint_prune(const char *run_dir, int keep);
/* The version of what a checkpoint holds: trainer_state.json, medrl.format (absent: 1). It grows when an older program would
 * misread it; the program reads this one and those before it. */
enum { MR_CHECKPOINT_FORMAT = 1 };
/* MR_EDATA when the state is of a newer format, or of none. state: as mr_checkpoint_read_state gave it. */
mr_status mr_checkpoint_check_format(const cJSON *state, const char *dir, mr_err *err);
/* MR_EDATA names the file that is missing, cut or changed. */
mr_status mr_checkpoint_verify(const char *dir, mr_err *err);

/* trainer_state.json as transformers writes it: keys sorted, indent 2, NaN as null. */
mr_status mr_checkpoint_write_state(const char *dir, const cJSON *state, mr_err *err);
mr_status mr_checkpoint_read_state(cJSON **out, const char *dir, mr_err *err);

#endif
