/* estimate.h - how long a step would take on a GPU that is not here, from its data sheet.
 *
 * Each part (the prompts' forward, every decode step, the training pass with its update) takes what it has to move over
 * the memory's rate or what it has to compute over the rate of products, whichever is longer (model/cost.h counts both), and reaches a
 * given share of that limit. Every prompt and completion has the length that the plan is made for, so real steps are shorter.
 * Rewards are not counted. Units: seconds. */
#ifndef MR_ESTIMATE_H
#define MR_ESTIMATE_H

#include "base/memory.h"
#include "model/model.h"

struct mr_plan;

typedef struct mr_estimate_device {
    const char *name;
    double bytes_s, flop_s; /* of the data sheet */
    double share;           /* of either that is reached: an assumption */
    double usd_hour;        /* what an hour of it costs, another one; 0: no price is known here */
    double bytes;           /* of memory that a program can have */
    bool bf16;              /* it multiplies them; else f16 */
    const char *key;        /* "t4", for --device-assume */
    const char *price;      /* whose, and when: docs/plan.md has the sources */
} mr_estimate_device;

/* NVIDIA T4 (Turing): 320 GB/s, 65 TFLOP/s in f16 (its data sheet), of which half; 0.35 dollars an hour. */
extern const mr_estimate_device mr_t4;
/* The device that goes by a key: "t4", "l4", "a10g", "rtx4090", "a100", "h100". MR_EINVAL lists them. */
mr_status mr_estimate_find(const mr_estimate_device **out, const char *key, mr_err *err);

typedef struct mr_estimate {
    double rollout_s, train_s, step_s;
    double hours, usd; /* for `steps` */
    int64_t steps;
} mr_estimate;

/* steps: of the run; below 0 it stands for 750, the published recipe's. kv_token_bytes: of one layer. */
mr_estimate mr_estimate_make(const struct mr_plan *p, const mr_config *c, const mr_model_opts *mo,
                             double kv_token_bytes, int64_t steps, const mr_estimate_device *d);
/* One line with its assumptions; nothing below half a second a step, where starting kernels and rewards decide. */
void mr_estimate_describe(const mr_estimate *e, const mr_estimate_device *d, mr_str *out);

#endif
