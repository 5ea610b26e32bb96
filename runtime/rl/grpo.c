/* grpo.c - see grpo.h. All sums are in double: a group's mean of equal float rewards is then exact, so equal rewards
 * give exactly 0, and the ratios cannot overflow. */
#include "rl/grpo.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static const double STD_EPS = 1e-4;                          /* spec/grpo.md 3.3 */
static const double SAPO_TAU_POS = 1.0, SAPO_TAU_NEG = 1.05; /* 3.5, sapo_temperature_pos and _neg */
static const double VESPO_K_POS = 2.0, VESPO_L_POS = 3.0;    /* 3.5, (k, lambda) */
static const double VESPO_K_NEG = 3.0, VESPO_L_NEG = 2.0;
static const double LOG_TINY = -18.420680743952367; /* ln 1e-8 */

/* --- advantages --- */

void mr_grpo_moments(double *mean, double *std, const float *x, int stride, int n) {
    double sum = 0, sq = 0;
    int m = 0;
    for (int i = 0; i < n; i++) {
        if (isnan(x[(size_t)i * (size_t)stride])) continue;
        sum += (double)x[(size_t)i * (size_t)stride];
        m++;
    }
    *mean = m ? sum / m : (double)NAN;
    for (int i = 0; i < n; i++) {
        if (isnan(x[(size_t)i * (size_t)stride])) continue;
        double d = (double)x[(size_t)i * (size_t)stride] - *mean;
        sq += d * d;
    }
    *std = m > 1 ? sqrt(sq / (m - 1)) : (double)NAN;
}

static mr_status check_rewards(const float *rewards, const float *weights, int n_rows, int n_funcs,
                               const mr_grpo_opts *o, mr_err *err) {
    if (o->num_generations < 2)
        return mr_fail(err, MR_EINVAL, "grpo.num_generations is %d, need at least 2", o->num_generations);
    if (n_rows < 1 || n_rows % o->num_generations != 0)
        return mr_fail(err, MR_EINVAL, "advantages: %d rows, want a multiple of num_generations = %d", n_rows,
                       o->num_generations);
    if (n_funcs < 1) return mr_fail(err, MR_EINVAL, "advantages: %d rewards, need at least 1", n_funcs);
    for (int f = 0; f < n_funcs; f++)
        if (!isfinite(weights[f]))
            return mr_fail(err, MR_EINVAL, "advantages: the weight of reward %d is not finite", f);
    for (int b = 0; b < n_rows; b++)
        for (int f = 0; f < n_funcs; f++)
            if (isinf(rewards[(size_t)b * (size_t)n_funcs + (size_t)f]))
                return mr_fail(err, MR_EINVAL, "advantages: row %d: reward %d is infinite, want a finite number or NaN",
                               b, f);
    return MR_OK;
}

/* r[b] = sum over functions that did not abstain of w * R; NaN when all did. (3.3) */
static void weighted_sum(float *r, const float *rewards, const float *weights, int n_rows, int n_funcs) {
    for (int b = 0; b < n_rows; b++) {
        double sum = 0;
        int valid = 0;
        for (int f = 0; f < n_funcs; f++) {
            float x = rewards[(size_t)b * (size_t)n_funcs + (size_t)f];
            if (isnan(x)) continue;
            sum += (double)weights[f] * (double)x;
            valid++;
        }
        r[b] = valid ? (float)sum : NAN;
    }
}

/* GDPO: each function is normalized within its group before the weighted sum; a function that is valid once in a
 * group has no deviation there and drops out. (3.3, normalize_then_sum) */
static void normalized_sum(float *r, const float *rewards, const float *weights, int n_rows, int n_funcs, int group) {
    for (int g = 0; g < n_rows; g += group)
        for (int b = g; b < g + group; b++) {
            double sum = 0;
            int valid = 0;
            for (int f = 0; f < n_funcs; f++) {
                double mean, std;
                float x = rewards[(size_t)b * (size_t)n_funcs + (size_t)f];
                if (isnan(x)) continue;
                valid++;
                mr_grpo_moments(&mean, &std, rewards + (size_t)g * (size_t)n_funcs + f, n_funcs, group);
                if (!isnan(std)) sum += (double)weights[f] * (((double)x - mean) / (std + STD_EPS));
            }
            r[b] = valid ? (float)sum : NAN;
        }
}

mr_status mr_grpo_advantages(float *adv, float *reward, float *std, const float *rewards, const float *weights,
                             int n_rows, int n_funcs, const mr_grpo_opts *opts, mr_err *err) {
    MR_TRY(check_rewards(rewards, weights, n_rows, n_funcs, opts, err));
    int group = opts->num_generations;
    if (opts->normalize_then_sum)
        normalized_sum(reward, rewards, weights, n_rows, n_funcs, group);
    else
        weighted_sum(reward, rewards, weights, n_rows, n_funcs);
    double mean_all, std_all;
    mr_grpo_moments(&mean_all, &std_all, reward, 1, n_rows);
    for (int g = 0; g < n_rows; g += group) {
        double mean, sd;
        mr_grpo_moments(&mean, &sd, reward + g, 1, group);
        if (opts->normalize_then_sum)
            mean = mean_all, sd = std_all;
        else if (opts->scale_rewards == MR_SCALE_BATCH)
            sd = std_all;
        for (int b = g; b < g + group; b++) {
            double a = (double)reward[b] - mean;
            if (opts->normalize_then_sum || opts->scale_rewards != MR_SCALE_NONE) a /= sd + STD_EPS;
            adv[b] = isfinite(a) ? (float)a : 0.0f; /* sums that overflow carry no signal */
            std[b] = (float)sd;
        }
    }
    return MR_OK;
}

/* --- losses --- */

typedef struct row_view {
    int at, n; /* tokens at .. at + n */
    double n_mask;
    double adv, w; /* advantage; sequence-level log ratio */
    double phi;    /* vespo */
    bool kept;     /* off-policy mask */
} row_view;

static double mask_of(const mr_grpo_batch *x, int i) {
    return !x->mask || x->mask[i] ? 1.0 : 0.0;
}

static double log_ratio(const mr_grpo_batch *x, int i) {
    return x->logp_old ? (double)x->logp[i] - (double)x->logp_old[i] : 0.0;
}

static double clamp(double x, double lo, double hi) {
    return x < lo ? lo : x > hi ? hi : x;
}

static mr_status check_batch(const mr_grpo_batch *x, const mr_grpo_opts *o, mr_err *err) {
    if (x->n_rows < 1) return mr_fail(err, MR_EINVAL, "loss: %d rows, need at least 1", x->n_rows);
    if (x->acc < 1 || x->slices < 1)
        return mr_fail(err, MR_EINVAL, "loss: acc is %d and slices is %d, need at least 1", x->acc, x->slices);
    if (o->entropy_coef != 0.0f)
        return mr_fail(err, MR_EINVAL,
                       "grpo.entropy_coef is %g, only 0 is supported: the decoder has no gradient of the entropy; "
                       "leave it out",
                       (double)o->entropy_coef);
    if (o->beta != 0.0f && !x->logp_ref)
        return mr_fail(err, MR_EINVAL, "loss: beta is %g but there are no reference log-probabilities",
                       (double)o->beta);
    if (o->top_entropy_quantile < 1.0f && !x->entropy)
        return mr_fail(err, MR_EINVAL, "loss: top_entropy_quantile is %g but there are no entropies",
                       (double)o->top_entropy_quantile);
    if (o->loss_type == MR_LOSS_DR_GRPO && o->max_completion_length < 1)
        return mr_fail(err, MR_EINVAL, "loss: dr_grpo divides by max_completion_length, which is %d",
                       o->max_completion_length);
    if (x->offset[0] != 0) return mr_fail(err, MR_EINVAL, "loss: row 0 starts at token %d, want 0", (int)x->offset[0]);
    for (int b = 0; b < x->n_rows; b++) {
        if (x->offset[b + 1] < x->offset[b]) return mr_fail(err, MR_EINVAL, "loss: row %d ends before it starts", b);
        if (!isfinite(x->adv[b])) return mr_fail(err, MR_EINVAL, "loss: row %d: the advantage is not finite", b);
    }
    return MR_OK;
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Quantile 1 - q of the entropies under the mask, linear interpolation; tokens below it are not trained. (3.5,
 * top_entropy_quantile) */
static double entropy_threshold(const mr_grpo_batch *x, int n_tok, double q) {
    float *sorted = mr_alloc((size_t)(n_tok ? n_tok : 1) * sizeof *sorted);
    int n = 0;
    for (int i = 0; i < n_tok; i++)
        if (mask_of(x, i) != 0) sorted[n++] = x->entropy[i];
    double out = (double)-INFINITY;
    if (n) {
        qsort(sorted, (size_t)n, sizeof *sorted, by_value);
        double pos = (1 - q) * (n - 1);
        int lo = (int)floor(pos);
        int hi = lo + 1 < n ? lo + 1 : lo;
        out = (double)sorted[lo] + (pos - lo) * ((double)sorted[hi] - (double)sorted[lo]);
    }
    mr_free(sorted);
    return out;
}

static void view_row(row_view *r, const mr_grpo_batch *x, const mr_grpo_opts *o, int b) {
    double sum_w = 0, sum_s = 0;
    *r = (row_view){ .at = x->offset[b], .n = x->offset[b + 1] - x->offset[b], .adv = (double)x->adv[b], .kept = true };
    for (int i = r->at; i < r->at + r->n; i++) {
        double m = mask_of(x, i), d = log_ratio(x, i);
        if (m == 0) continue;
        r->n_mask += 1;
        sum_w += d;
        sum_s += clamp(d, -20, 20);
        if (x->is_ratio) sum_s += clamp(log((double)x->is_ratio[i]), LOG_TINY, 20);
    }
    r->w = sum_w / fmax(r->n_mask, 1);
    if (o->loss_type == MR_LOSS_VESPO) {
        double s = clamp(sum_s, LOG_TINY, 20);
        double k = r->adv >= 0 ? VESPO_K_POS : VESPO_K_NEG, l = r->adv >= 0 ? VESPO_L_POS : VESPO_L_NEG;
        r->phi = exp(l + k * s - l * exp(s));
        if (!isfinite(r->phi)) r->phi = 0;
    }
    /* The mean of (old - new) above the threshold says that the policy has left this row behind. (3.5,
     * off_policy_mask_threshold) */
    if (o->off_policy_mask_threshold > 0 && r->adv < 0)
        r->kept = -r->w <= (double)o->off_policy_mask_threshold || isnan(r->w);
}

/* One token's loss and its derivatives: through the log ratio w (dw) and through logp itself (dl). low, high: clipped
 * there. */
typedef struct token_loss {
    double loss, dw, dl;
    bool low, high;
} token_loss;

static token_loss clipped(double rho, double a, const mr_grpo_opts *o, double lo, double hi) {
    token_loss t = { 0 };
    double r1 = rho, d1 = 1, r2 = clamp(rho, lo, hi), d2 = rho >= lo && rho <= hi ? 1 : 0;
    if (o->delta > 0 && rho > (double)o->delta) r1 = (double)o->delta, d1 = 0;
    double u = r1 * a, c = r2 * a;
    t.loss = -fmin(u, c);
    /* Where both branches are equal each gives half, as torch.min does; inside the clip range that is the whole
     * gradient once. */
    double d = u < c ? d1 : u > c ? d2 : 0.5 * (d1 + d2);
    t.dw = -a * d * rho;
    t.low = r1 < lo && a < 0;
    t.high = r1 > hi && a > 0;
    return t;
}

static token_loss token(double rho, double logp, const row_view *r, const mr_grpo_opts *o) {
    double a = r->adv, high = (double)(o->epsilon_high >= 0 ? o->epsilon_high : o->epsilon);
    token_loss t = { 0 };
    switch (o->loss_type) {
    case MR_LOSS_CISPO: /* -sg(min(rho, eps_high)) A logp: epsilon_high is the cap itself */
        t.dl = -fmin(rho, high) * a;
        t.loss = t.dl * logp;
        t.high = rho > high && a > 0;
        return t;
    case MR_LOSS_SAPO: {
        double tau = a > 0 ? SAPO_TAU_POS : SAPO_TAU_NEG, s = 1 / (1 + exp(-tau * (rho - 1)));
        t.loss = -a * 4 / tau * s;
        t.dw = -a * 4 * s * (1 - s) * rho;
        return t;
    }
    case MR_LOSS_VESPO:
        t.dl = -r->phi * a;
        t.loss = t.dl * logp;
        return t;
    default: return clipped(rho, a, o, 1 - (double)o->epsilon, 1 + high);
    }
}

/* What one token of row r weighs in the step's loss. (3.5, last column) */
static double row_weight(const row_view *r, const mr_grpo_batch *x, const mr_grpo_opts *o, double n_mask) {
    double items = x->n_items > 0 ? x->n_items : n_mask;
    switch (o->loss_type) {
    case MR_LOSS_GRPO:
    case MR_LOSS_SAPO: return 1 / (x->n_rows * fmax(r->n_mask, 1) * x->acc);
    case MR_LOSS_BNPO: return 1 / (fmax(n_mask, 1) * x->acc);
    case MR_LOSS_DR_GRPO: return 1 / ((double)x->n_rows * o->max_completion_length * x->acc);
    case MR_LOSS_LUSPO: return 1.0 / ((double)x->n_rows * x->acc);
    default: return 1 / (fmax(items, 1) * x->acc / x->slices);
    }
}

/* Running sums behind the metrics of 3.7. */
typedef struct tally {
    double loss, kl, entropy, low, high, n_clip, rho, n;
    double low_min, high_max, rho_min, rho_max;
} tally;

static void run_row(float *dlogp, tally *s, const row_view *r, double weight, double threshold, const mr_grpo_batch *x,
                    const mr_grpo_opts *o) {
    double dw_sum = 0, low = 0, high = 0;
    for (int i = r->at; i < r->at + r->n; i++) {
        dlogp[i] = 0;
        if (mask_of(x, i) == 0) continue;
        double logp = (double)x->logp[i], rho = exp(o->sequence_level ? r->w : log_ratio(x, i));
        token_loss t = token(rho, logp, r, o);
        double scale = r->kept ? 1 : 0;
        if (o->top_entropy_quantile < 1.0f && (double)x->entropy[i] < threshold) scale = 0;
        if (x->is_ratio && o->loss_type != MR_LOSS_VESPO) scale *= (double)x->is_ratio[i];
        double loss = t.loss * scale, dw = t.dw * scale, dl = t.dl * scale;
        if (o->beta != 0.0f) { /* k3 (arXiv:2402.03300, eq. 4), times the ratio when bias-corrected */
            double d = (double)x->logp_ref[i] - logp, e = exp(d), k = e - d - 1;
            double corr = o->use_bias_correction_kl ? rho : 1;
            loss += (double)o->beta * k * corr;
            dl += (double)o->beta * corr * (1 - e);
            if (o->use_bias_correction_kl) dw += (double)o->beta * k * rho;
            s->kl += k * corr;
        }
        s->loss += weight * loss;
        /* A token-level ratio belongs to its token; a sequence-level one spreads over the row below. */
        dlogp[i] = (float)(weight * (o->sequence_level ? dl : dl + dw));
        dw_sum += dw;
        low += t.low;
        high += t.high;
        s->rho += rho;
        s->rho_min = fmin(s->rho_min, rho);
        s->rho_max = fmax(s->rho_max, rho);
        if (x->entropy) s->entropy += (double)x->entropy[i];
        s->n += 1;
    }
    if (o->sequence_level && r->n_mask > 0)
        for (int i = r->at; i < r->at + r->n; i++)
            if (mask_of(x, i) != 0) dlogp[i] = (float)((double)dlogp[i] + weight * dw_sum / r->n_mask);
    if (r->n_mask > 0) {
        low /= r->n_mask;
        high /= r->n_mask;
        s->low_min = fmin(s->low_min, low);
        s->high_max = fmax(s->high_max, high);
        /* A row has one ratio at sequence level and counts once; at token level its tokens count. */
        double times = o->sequence_level ? 1 : r->n_mask;
        s->low += low * times;
        s->high += high * times;
        s->n_clip += times;
    }
}

mr_status mr_grpo_loss(float *dlogp, mr_grpo_stats *stats, const mr_grpo_batch *batch, const mr_grpo_opts *opts,
                       mr_err *err) {
    MR_TRY(check_batch(batch, opts, err));
    int n_tok = batch->offset[batch->n_rows];
    double n_mask = 0;
    for (int i = 0; i < n_tok; i++) n_mask += mask_of(batch, i);
    double threshold =
        opts->top_entropy_quantile < 1.0f ? entropy_threshold(batch, n_tok, (double)opts->top_entropy_quantile) : 0;
    tally s = { .low_min = (double)INFINITY,
                .high_max = (double)-INFINITY,
                .rho_min = (double)INFINITY,
                .rho_max = (double)-INFINITY };
    for (int b = 0; b < batch->n_rows; b++) {
        row_view r;
        view_row(&r, batch, opts, b);
        run_row(dlogp, &s, &r, row_weight(&r, batch, opts, n_mask), threshold, batch, opts);
    }
    bool any = s.n > 0, clips = any && opts->loss_type != MR_LOSS_SAPO && opts->loss_type != MR_LOSS_VESPO;
    bool both = clips &&
                opts->loss_type != MR_LOSS_CISPO; /* cispo has no lower clip; its high_mean is TRL's cispo_clip_ratio */
    double none = (double)NAN;
    *stats = (mr_grpo_stats){
        .loss = s.loss,
        .kl = any && opts->beta != 0.0f ? s.kl / s.n : none,
        .entropy = any && batch->entropy ? s.entropy / s.n : none,
        .clip_low_mean = both ? s.low / s.n_clip : none,
        .clip_high_mean = clips ? s.high / s.n_clip : none,
        .clip_region_mean = both ? (s.low + s.high) / s.n_clip : none,
        .clip_low_min = both ? s.low_min : none,
        .clip_high_max = clips ? s.high_max : none,
        .ratio_mean = any ? s.rho / s.n : none,
        .ratio_min = any ? s.rho_min : none,
        .ratio_max = any ? s.rho_max : none,
    };
    return MR_OK;
}
