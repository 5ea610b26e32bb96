/* scaler.h - dynamic loss scaling, for models whose products are f16.
 *
 * f16 ends at 65504 and below at 2^-24, and a token's share of a GRPO loss is about A / (number of tokens): much of the
 * backward pass would round to zero. So the gradient that enters the backward pass (of the log-probabilities, f32) is
 * multiplied by `scale`, everything behind it comes out larger by as much, and the optimizer, whose gradients are f32,
 * divides again. What becomes too large for f16 on the way turns infinite, which shows in the gradients of the
 * parameters: that update is left out and the scale halved. After `interval` good updates it is doubled. Scales are
 * powers of two, so that scaling changes no bit but where f16 begins or ends.
 * Source: torch.amp.GradScaler, its defaults (spec/optimizer.md 6.5); arXiv:1710.03740, section 3.2.
 * Without f16 (`on` is false) the scale is 1 and stays. Threads: no hidden state. */
#ifndef MR_SCALER_H
#define MR_SCALER_H

#include "kernels.h"

typedef struct mr_scaler {
    bool on;
    double scale;
    int interval, good; /* updates until it grows; those since it last changed */
    int64_t skipped;    /* updates that were left out, of the whole run; without f16 too */
} mr_scaler;

/* At the start of a run: 65536 and 2000 when products are f16. */
mr_scaler mr_scaler_start(mr_dtype compute);
/* After a backward pass: made says whether its gradients were finite, so that the update was made. */
void mr_scaler_next(mr_scaler *s, bool made);
/* Begins anew with a scale that is no power of two: halving never brings such a one back. Whether that was needed. */
bool mr_scaler_mend(mr_scaler *s);
/* What the optimizer multiplies such gradients by, for a clipping coefficient. */
float mr_scaler_factor(const mr_scaler *s, float clip);
/* x[i] *= scale: what enters the backward pass. */
void mr_scaler_apply(const mr_scaler *s, float *x, int n);

#endif
