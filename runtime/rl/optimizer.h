/* optimizer.h - AdamW over a model's list of params: states, clipping, the step, and the file that a checkpoint keeps.
 *
 * optim "adamw_8bit": tensors of 4096 and more elements have 8-bit states in blocks of 256, as bitsandbytes; smaller
 * ones and the embedding f32, which decay after the update as well (spec/optimizer.md 6.1). optim "adamw_torch": f32
 * states throughout, decay before the update (6.2).
 * Ownership: borrows the backend and the params (name, value, grad) until close. Threads: one. */
#ifndef MR_OPTIMIZER_H
#define MR_OPTIMIZER_H

#include "model/model.h"
#include "rl/settings.h"

typedef struct mr_optimizer mr_optimizer;

typedef struct mr_optimizer_opts {
    mr_optim kind;
    float beta1, beta2, eps, weight_decay; /* weight_decay applies to params whose decay is true */
} mr_optimizer_opts;

mr_status mr_optimizer_open(mr_optimizer **out, mr_backend *b, const mr_param *params, int n,
                            const mr_optimizer_opts *opts, mr_err *err);
void mr_optimizer_close(mr_optimizer *o);
size_t mr_optimizer_bytes(const mr_optimizer *o);
/* What mr_optimizer_open would take: only names and sizes of the params are read. */
size_t mr_optimizer_plan(const mr_param *params, int n, const mr_optimizer_opts *opts);
int64_t mr_optimizer_updates(const mr_optimizer *o); /* steps made so far */

void mr_optimizer_set_decay(mr_optimizer *o, float weight_decay); /* from the next step on */

/* min(1, max_norm / (norm + 1e-6)); 1 when max_norm <= 0 (6.3). */
float mr_clip_coefficient(double norm, float max_norm);

/* One update of every param; each gradient is multiplied by grad_scale first. The caller refreshes the model after. */
void mr_optimizer_step(mr_optimizer *o, float lr, float grad_scale);

/* safetensors: "NAME.m", "NAME.v" (F32) or "NAME.c1", "NAME.c2" (U8), "NAME.absmax1", "NAME.absmax2" (F32), and
 * "step" (I64). Saving refuses states that are not finite: MR_EINTERNAL, nothing is written. Loading checks every name, type and size: MR_EDATA names file and tensor. */
mr_status mr_optimizer_save(mr_optimizer *o, const char *path, mr_err *err);
mr_status mr_optimizer_load(mr_optimizer *o, const char *path, mr_err *err);

#endif
