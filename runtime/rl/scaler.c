/* scaler.c - see scaler.h. */
#include "rl/scaler.h"

#include <float.h>
#include <math.h>

static const double FIRST_SCALE = 65536;

mr_scaler mr_scaler_start(mr_dtype compute) {
    bool on = compute == MR_F16;
    return (mr_scaler){ .on = on, .scale = on ? FIRST_SCALE : 1, .interval = 2000 };
}

bool mr_scaler_mend(mr_scaler *s) {
    int exponent;
    if (!s->on || (s->scale > 0 && isfinite(s->scale) && frexp(s->scale, &exponent) == 0.5)) return false;
    s->scale = FIRST_SCALE;
    s->good = 0;
    return true;
}

void mr_scaler_next(mr_scaler *s, bool made) {
    if (!made) s->skipped++;
    if (!s->on) return;
    if (!made) {
        s->scale /= 2;
        s->good = 0;
    } else if (++s->good == s->interval) {
        if (s->scale * 2 <= (double)FLT_MAX) s->scale *= 2; /* torch keeps it where f32 ends */
        s->good = 0;
    }
}

float mr_scaler_factor(const mr_scaler *s, float clip) {
    return (float)((double)clip / s->scale);
}

void mr_scaler_apply(const mr_scaler *s, float *x, int n) {
    for (int i = 0; s->on && i < n; i++) x[i] *= (float)s->scale;
}
