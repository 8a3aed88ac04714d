/* Losses of one linear predictor: value, slope, which labels are valid. */
#ifndef STREAMFIT_LOSSES_H
#define STREAMFIT_LOSSES_H

#include "arithmetic.h"

/* those of classes 0 and 1 begin at SF_LOG; cross-entropy, of any number of classes, is the last */
enum {
    SF_SQUARED, SF_HALF_SQUARED, SF_ABSOLUTE, SF_HUBER, SF_EPSILON_INSENSITIVE, SF_QUANTILE,
    SF_POISSON, SF_LOG, SF_HINGE, SF_SQUARED_HINGE, SF_MODIFIED_HUBER, SF_CROSS_ENTROPY
};

/* `option` is the loss's one hyper-parameter, if it has one; classes 0 and 1 are signs -1, +1 */
SF_INLINE double sf_loss_value(int loss, double option, double p, double y) {
    const double r = p - y, margin = (y > 0.5 ? p : -p);
    switch (loss) {
    case SF_SQUARED: return r * r;
    case SF_HALF_SQUARED: return 0.5 * r * r;
    case SF_ABSOLUTE: return fabs(r);
    case SF_HUBER: return fabs(r) <= option ? 0.5 * r * r : option * (fabs(r) - 0.5 * option);
    case SF_EPSILON_INSENSITIVE: return fabs(r) <= option ? 0.0 : fabs(r) - option;
    case SF_QUANTILE: return r < 0.0 ? -option * r : (1.0 - option) * r;
    case SF_POISSON: return sf_exp(p) - y * p;
    case SF_HINGE: return margin < option ? option - margin : 0.0;
    case SF_SQUARED_HINGE:
        return margin < option ? (option - margin) * (option - margin) : 0.0;
    case SF_MODIFIED_HUBER:
        return margin >= 1.0 ? 0.0 : margin >= -1.0 ? (1.0 - margin) * (1.0 - margin) : -4.0 * margin;
    default: /* SF_LOG: log(1 + exp(-margin)) without overflow */
        return (margin < 0 ? -margin : 0.0) + log1p(sf_exp(-fabs(margin)));
    }
}

SF_INLINE double sf_sign(double r) { return (r > 0.0) - (r < 0.0); }

SF_INLINE double sf_loss_gradient(int loss, double option, double p, double y) {
    const double r = p - y, sign = y > 0.5 ? 1.0 : -1.0, margin = sign * p;
    switch (loss) {
    case SF_SQUARED: return 2.0 * r;
    case SF_HALF_SQUARED: return r;
    case SF_ABSOLUTE: return r == r ? sf_sign(r) : r;
    case SF_HUBER: return r != r ? r : fabs(r) <= option ? r : option * sf_sign(r);
    case SF_EPSILON_INSENSITIVE: return r != r ? r : fabs(r) <= option ? 0.0 : sf_sign(r);
    case SF_QUANTILE: return r != r ? r : r < 0.0 ? -option : r > 0.0 ? 1.0 - option : 0.0;
    case SF_POISSON: return sf_exp(p) - y;
    case SF_HINGE: return p != p ? p : margin <= option ? -sign : 0.0;
    case SF_SQUARED_HINGE: return p != p ? p : margin < option ? -2.0 * sign * (option - margin) : 0.0;
    case SF_MODIFIED_HUBER:
        return p != p          ? p
               : margin >= 1.0 ? 0.0
               : margin >= -1.0 ? -2.0 * sign * (1.0 - margin)
                                : -4.0 * sign;
    default: return sf_sigmoid(p) - y; /* SF_LOG */
    }
}

/* How much the slope changes with the predictor, for Auto: the second derivative, or what a
 * parabola through the loss's minimum has (Huber's tails); where there is none, the squared slope. */
SF_INLINE double sf_loss_curvature(int loss, double option, double p, double y) {
    const double r = p - y, margin = (y > 0.5 ? p : -p);
    switch (loss) {
    case SF_SQUARED: return 2.0;
    case SF_HALF_SQUARED: return 1.0;
    case SF_HUBER: return fabs(r) > option ? option / fabs(r) : 1.0;
    case SF_POISSON: return sf_exp(p);
    case SF_LOG: {
        const double e = sf_exp(-fabs(p));
        return e / ((1.0 + e) * (1.0 + e));
    }
    case SF_SQUARED_HINGE: return margin < option ? 2.0 : 0.0;
    case SF_MODIFIED_HUBER: return margin < 1.0 ? 2.0 : 0.0;
    default: {
        const double slope = sf_loss_gradient(loss, option, p, y);
        return slope * slope;
    }
    }
}

SF_INLINE int sf_label_is_valid(int loss, double y) {
    if (loss >= SF_LOG) return (y == 0.0) | (y == 1.0);
    return sf_isfinite(y) && (loss != SF_POISSON || y >= 0.0);
}

/* Cross-entropy of each sample's class under the softmax of its `n` predictors z:
 * log sum_k exp(z_k) - z_y. Its derivative by z_k is the probability of k, less 1 for k = y. The
 * `samples` (a constant, at most four) lie side by side: z[k * samples + i], and so the slopes.
 * `loss` may be NULL. */
SF_INLINE void sf_cross_entropy(const double *restrict z, double *restrict slope, const double *y,
                                int64_t n, const int samples, double *loss) {
    double most[4], sum[4] = {0.0};
    int usual = 1;
    for (int i = 0; i < samples; i++) most[i] = z[i];
    for (int64_t k = 1; k < n; k++)
        for (int i = 0; i < samples; i++) {
            const double other = z[k * samples + i];
            most[i] = other > most[i] || other != other ? other : most[i];
        }
    for (int64_t k = 0; k < n; k++)
        for (int i = 0; i < samples; i++) slope[k * samples + i] = z[k * samples + i] - most[i];
    for (int64_t k = 0; k < n * samples; k++) usual &= slope[k] >= SF_EXP_NORMAL;
    if (usual)
        for (int64_t k = 0; k < n * samples; k++) slope[k] = sf_exp_normal(slope[k]);
    else
        for (int64_t k = 0; k < n * samples; k++) slope[k] = sf_exp(slope[k]);
    for (int64_t k = 0; k < n; k++)
        for (int i = 0; i < samples; i++) sum[i] += slope[k * samples + i];
    for (int64_t k = 0; k < n; k++)
        for (int i = 0; i < samples; i++) slope[k * samples + i] /= sum[i];
    for (int i = 0; i < samples; i++) {
        const int64_t own = (int64_t)y[i] * samples + i;
        slope[own] -= 1.0;
        if (loss) loss[i] = (most[i] - z[own]) + sf_log(sum[i]);
    }
}

#endif
