/* The arithmetic of streamfit: everything that a weight depends on is computed in this file.
 *
 * Fixed-lane arithmetic. A floating-point sum depends on the order of its terms, so every
 * reduction here has one order, written in the source: element j goes to partial sum j mod 8,
 * and one fixed tree combines the eight. Vector units of any width then give the same bits.
 * Build with -ffp-contract=off (no fused multiply-add) and without -ffast-math.
 *
 * Layout. A parameter vector has SF_PAD leading slots: slot 0 is the intercept, slots 1..7 are
 * always zero, and the weight of column j is at SF_PAD + j. The gradient and the optimizer's
 * slots are laid out the same way.
 *
 * A micro-batch's gradient is a sum, so rows are added to `grad` one by one and never kept. The
 * first row of a micro-batch is assigned rather than added to zero; so a micro-batch of one can
 * go straight from the row to the update, with the same bits and no gradient in between.
 *
 * An update is computed into `next_*`. Only when every number in it is finite do the two sets
 * of pointers change places; otherwise nothing has happened, and the micro-batch is dropped.
 */
#ifndef STREAMFIT_KERNELS_H
#define STREAMFIT_KERNELS_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define SF_LANES 8
#define SF_PAD 8
#define SF_INLINE static inline __attribute__((always_inline))

/* One baseline and one AVX2 version of each entry point, chosen when the program starts. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) && \
    !defined(__clang__) && !defined(SF_BASELINE)
#define SF_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define SF_CLONES
#endif

enum {
    SF_SQUARED, SF_HALF_SQUARED, SF_ABSOLUTE, SF_HUBER, SF_EPSILON_INSENSITIVE, SF_QUANTILE,
    SF_POISSON, SF_LOG, SF_HINGE, SF_SQUARED_HINGE, SF_MODIFIED_HUBER
};
enum { SF_SGD, SF_ADAGRAD, SF_ADADELTA, SF_RMSPROP, SF_ADAM, SF_ADAMW, SF_AMSGRAD, SF_FTRL };
enum {
    SF_CONSTANT, SF_INVERSE_SCALING, SF_OPTIMAL, SF_EXPONENTIAL, SF_STEP, SF_COSINE_WARMUP
};
enum { SF_FIXED_BATCH, SF_GEOMETRIC_BATCH, SF_MILESTONE_BATCH };

#define SF_SLOTS 4 /* the optimizer's three, and the L1 penalty that each weight has had */
#define SF_L1 3

typedef struct {
    /* configuration */
    int loss, optimizer, mean, fit_intercept;
    int plain_intercept; /* the intercept takes plain SGD steps at intercept_lr */
    int nesterov;
    double loss_option;
    double momentum, rho, beta_1, beta_2, eps, weight_decay;
    double ftrl_beta, ftrl_l1, ftrl_l2;
    double l2, l1, clip, intercept_lr;
    int schedule; /* of the learning rate */
    double lr, schedule_option[3];
    int batch_schedule;
    double batch_growth;
    int64_t batch_every, batch_maximum, n_milestones;
    const int64_t *milestone; /* pairs: from which update on, which size */
    /* state */
    int64_t batch_size; /* 0: full batch, only a flush updates */
    int64_t n_features, n_samples, n_updates, n_pending, n_refused;
    double weight_pending;             /* sum of the sample weights of the pending samples */
    double beta_1_power, beta_2_power; /* beta^t of the Adam family */
    double l1_total;                   /* the L1 penalty that every weight could have had */
    double *param, *next_param, *grad;
    double *slot[SF_SLOTS], *next_slot[SF_SLOTS];
    /* progressive loss: each sample's loss before it was learned */
    int track_loss;
    double loss_sum, loss_weight;
} sf_linear;

/* ---- elementary functions ---------------------------------------------------------------- */

SF_INLINE uint64_t sf_bits(double x) {
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

/* Bit 63 is set exactly when x is NaN or infinite; flags of many numbers combine by |. */
SF_INLINE uint64_t sf_nonfinite(double x) {
    return (sf_bits(x) & 0x7ff0000000000000u) + 0x0010000000000000u;
}

SF_INLINE int sf_isfinite(double x) { return !(sf_nonfinite(x) >> 63); }

/* exp by Cody-Waite reduction and a Taylor polynomial on |r| <= ln(2)/2. The C library's exp
 * picks an implementation by processor and so may differ in the last bit between machines. */
SF_INLINE double sf_exp(double x) {
    if (!(x < 709.782712893384)) return x == x ? INFINITY : x;
    if (x < -745.2) return 0.0;
    double k = rint(x * 1.4426950408889634);
    double r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10;
    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = 1.0 + (r + r * r * p);
    /* two factors, because 2^k itself may not be a normal number */
    int64_t n = (int64_t)k, half = n / 2;
    uint64_t a = (uint64_t)(half + 1023) << 52, b = (uint64_t)(n - half + 1023) << 52;
    double two_a, two_b;
    memcpy(&two_a, &a, sizeof a);
    memcpy(&two_b, &b, sizeof b);
    return p * two_a * two_b;
}

/* Natural logarithm of a positive number, and a power of one: our own, for the same reason. */
SF_INLINE double sf_log(double x) {
    int64_t e = 0;
    if (x < DBL_MIN) {
        x *= 18014398509481984.0; /* 2^54, out of the numbers below the normal ones */
        e = -54;
    }
    uint64_t bits = sf_bits(x);
    e += (int64_t)(bits >> 52) - 1023;
    bits = (bits & 0x000fffffffffffffu) | 0x3ff0000000000000u;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        e++;
    }
    /* log m = 2 atanh(s) by its series, |s| <= 0.172 */
    const double s = (m - 1.0) / (m + 1.0), s2 = s * s;
    double p = 1.0 / 23.0;
    for (int k = 21; k >= 3; k -= 2) p = p * s2 + 1.0 / k;
    const double k = (double)e;
    return k * 6.93147180369123816490e-01 +
           (2.0 * s + (2.0 * s * s2 * p + k * 1.90821492927058770002e-10));
}

SF_INLINE double sf_pow(double x, double y) {
    if (y == 0.5) return sqrt(x);
    if (y == floor(y) && y >= 0.0 && y <= 64.0) { /* few enough to multiply */
        double power = 1.0;
        for (int i = 0; i < (int)y; i++) power *= x;
        return power;
    }
    return sf_exp(y * sf_log(x));
}

/* (1 + cos(x)) / 2 for x in [0, pi], as the square of the cosine of x / 2. */
SF_INLINE double sf_half_cosine(double x) {
    const double z = -0.25 * x * x;
    double c = 1.0;
    for (int k = 24; k >= 2; k -= 2) c = 1.0 + c * z / (double)(k * (k - 1));
    return c * c;
}

SF_INLINE double sf_sigmoid(double z) {
    double e = sf_exp(-fabs(z));
    return (z >= 0 ? 1.0 : e) / (1.0 + e);
}

SF_INLINE double sf_dot(const double *a, const double *b, int64_t n) {
    double lane[SF_LANES] = {0};
    int64_t j = 0;
    for (; j + SF_LANES <= n; j += SF_LANES)
        for (int l = 0; l < SF_LANES; l++) lane[l] += a[j + l] * b[j + l];
    for (int l = 0; j + l < n; l++) lane[l] += a[j + l] * b[j + l];
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) +
           ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

SF_INLINE int sf_row_is_finite(const double *x, int64_t n) {
    uint64_t flags = 0;
    for (int64_t j = 0; j < n; j++) flags |= sf_nonfinite(x[j]);
    return !(flags >> 63);
}

/* ---- losses: p is the linear predictor ---------------------------------------------------- */

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

SF_INLINE int sf_label_is_valid(int loss, double y) {
    if (loss >= SF_LOG) return y == 0.0 || y == 1.0;
    return sf_isfinite(y) && (loss != SF_POISSON || y >= 0.0);
}

/* ---- schedules: functions of the number of updates made ----------------------------------- */

SF_INLINE double sf_learning_rate(const sf_linear *m) {
    const double t = (double)m->n_updates, *option = m->schedule_option;
    switch (m->schedule) {
    case SF_INVERSE_SCALING: return m->lr / sf_pow(t + 1.0, option[0]);
    case SF_OPTIMAL: return 1.0 / (option[0] * (option[1] + t));
    case SF_EXPONENTIAL: return m->lr * sf_pow(option[0], t / option[1]);
    case SF_STEP: return m->lr * sf_pow(option[0], floor(t / option[1]));
    case SF_COSINE_WARMUP: {
        const double warmup = option[0], total = option[1], minimum = option[2];
        if (t < warmup) return m->lr * ((t + 1.0) / warmup);
        if (t >= total) return minimum;
        const double turn = 3.141592653589793 * ((t - warmup) / (total - warmup));
        return minimum + (m->lr - minimum) * sf_half_cosine(turn);
    }
    default: return m->lr;
    }
}

/* Called after each update, when nothing is pending. */
SF_INLINE void sf_next_batch_size(sf_linear *m) {
    if (m->batch_schedule == SF_GEOMETRIC_BATCH && m->n_updates % m->batch_every == 0) {
        double size = ceil((double)m->batch_size * m->batch_growth);
        m->batch_size = size < (double)m->batch_maximum ? (int64_t)size : m->batch_maximum;
    } else if (m->batch_schedule == SF_MILESTONE_BATCH) {
        for (int64_t i = 0; i < m->n_milestones && m->milestone[2 * i] <= m->n_updates; i++)
            m->batch_size = m->milestone[2 * i + 1];
    }
}

/* ---- optimizer steps over a range of parameters ------------------------------------------- */

/* g_j = source_j * factor * scale + l2 * w_j, where scale is 1/W for a mean, and factor is the
 * loss gradient when `source` is the row itself, 1 when it is the accumulated gradient. */
#define SF_GRADIENT(j) ((source[j] * factor) * scale + l2 * w[j])

SF_INLINE uint64_t sf_step_sgd(const double *restrict source, double factor, double scale,
                               double l2, double lr, const double *restrict w,
                               double *restrict next_w, int64_t n) {
    uint64_t flags = 0;
    for (int64_t j = 0; j < n; j++) {
        next_w[j] = w[j] - lr * SF_GRADIENT(j);
        flags |= sf_nonfinite(next_w[j]);
    }
    return flags;
}

SF_INLINE uint64_t sf_step_momentum(const sf_linear *m, const double *restrict source,
                                    double factor, double scale, double l2, double lr,
                                    const double *restrict w, const double *restrict v,
                                    double *restrict next_w, double *restrict next_v, int64_t n) {
    uint64_t flags = 0;
    const double mu = m->momentum;
    if (m->nesterov)
        for (int64_t j = 0; j < n; j++) {
            double step = lr * SF_GRADIENT(j);
            next_v[j] = mu * v[j] - step;
            next_w[j] = w[j] + (mu * next_v[j] - step);
            flags |= sf_nonfinite(next_w[j]) | sf_nonfinite(next_v[j]);
        }
    else
        for (int64_t j = 0; j < n; j++) {
            next_v[j] = mu * v[j] - lr * SF_GRADIENT(j);
            next_w[j] = w[j] + next_v[j];
            flags |= sf_nonfinite(next_w[j]) | sf_nonfinite(next_v[j]);
        }
    return flags;
}

SF_INLINE uint64_t sf_step_adagrad(const sf_linear *m, const double *restrict source,
                                   double factor, double scale, double l2, double lr,
                                   const double *restrict w, const double *restrict sum,
                                   double *restrict next_w, double *restrict next_sum,
                                   int64_t n) {
    uint64_t flags = 0;
    const double eps = m->eps;
    for (int64_t j = 0; j < n; j++) {
        double g = SF_GRADIENT(j);
        next_sum[j] = sum[j] + g * g;
        next_w[j] = w[j] - lr * g / sqrt(next_sum[j] + eps);
        flags |= sf_nonfinite(next_w[j]) | sf_nonfinite(next_sum[j]);
    }
    return flags;
}

SF_INLINE uint64_t sf_step_rmsprop(const sf_linear *m, const double *restrict source,
                                   double factor, double scale, double l2, double lr,
                                   const double *restrict w, const double *restrict mean,
                                   double *restrict next_w, double *restrict next_mean,
                                   int64_t n) {
    uint64_t flags = 0;
    const double rho = m->rho, eps = m->eps;
    for (int64_t j = 0; j < n; j++) {
        double g = SF_GRADIENT(j);
        next_mean[j] = rho * mean[j] + (1.0 - rho) * (g * g);
        next_w[j] = w[j] - lr * g / sqrt(next_mean[j] + eps);
        flags |= sf_nonfinite(next_w[j]) | sf_nonfinite(next_mean[j]);
    }
    return flags;
}

SF_INLINE uint64_t sf_step_adadelta(const sf_linear *m, const double *restrict source,
                                    double factor, double scale, double l2, double lr,
                                    const double *restrict w, const double *restrict mean,
                                    const double *restrict moved, double *restrict next_w,
                                    double *restrict next_mean, double *restrict next_moved,
                                    int64_t n) {
    uint64_t flags = 0;
    const double rho = m->rho, eps = m->eps;
    for (int64_t j = 0; j < n; j++) {
        double g = SF_GRADIENT(j);
        next_mean[j] = rho * mean[j] + (1.0 - rho) * (g * g);
        double step = sqrt(moved[j] + eps) / sqrt(next_mean[j] + eps) * g;
        next_moved[j] = rho * moved[j] + (1.0 - rho) * (step * step);
        next_w[j] = w[j] - lr * step;
        flags |= sf_nonfinite(next_w[j]) | sf_nonfinite(next_mean[j]) |
                 sf_nonfinite(next_moved[j]);
    }
    return flags;
}

/* Adam, and with `decay` AdamW: the weight shrinks beside the step, not through the gradient. */
SF_INLINE uint64_t sf_step_adam(const sf_linear *m, const double *restrict source, double factor,
                                double scale, double l2, double lr, double decay,
                                double unbias_1, double unbias_2, const double *restrict w,
                                const double *restrict first, const double *restrict second,
                                double *restrict next_w, double *restrict next_first,
                                double *restrict next_second, int64_t n) {
    uint64_t flags = 0;
    const double b1 = m->beta_1, b2 = m->beta_2, eps = m->eps;
    for (int64_t j = 0; j < n; j++) {
        double g = SF_GRADIENT(j);
        next_first[j] = b1 * first[j] + (1.0 - b1) * g;
        next_second[j] = b2 * second[j] + (1.0 - b2) * (g * g);
        next_w[j] = (w[j] - lr * decay * w[j]) -
                    lr * (next_first[j] * unbias_1) / (sqrt(next_second[j] * unbias_2) + eps);
        flags |= sf_nonfinite(next_w[j]) | sf_nonfinite(next_first[j]) |
                 sf_nonfinite(next_second[j]);
    }
    return flags;
}

SF_INLINE uint64_t sf_step_amsgrad(const sf_linear *m, const double *restrict source,
                                   double factor, double scale, double l2, double lr,
                                   double unbias_1, double unbias_2, const double *restrict w,
                                   double *const *slot, double *const *next_slot, int64_t from,
                                   double *restrict next_w, int64_t n) {
    uint64_t flags = 0;
    const double b1 = m->beta_1, b2 = m->beta_2, eps = m->eps;
    const double *restrict first = slot[0] + from, *restrict second = slot[1] + from;
    const double *restrict most = slot[2] + from;
    double *restrict next_first = next_slot[0] + from, *restrict next_second = next_slot[1] + from;
    double *restrict next_most = next_slot[2] + from;
    for (int64_t j = 0; j < n; j++) {
        double g = SF_GRADIENT(j);
        next_first[j] = b1 * first[j] + (1.0 - b1) * g;
        next_second[j] = b2 * second[j] + (1.0 - b2) * (g * g);
        next_most[j] = next_second[j] > most[j] ? next_second[j] : most[j];
        next_w[j] = w[j] - lr * (next_first[j] * unbias_1) /
                               (sqrt(next_most[j] * unbias_2) + eps);
        flags |= sf_nonfinite(next_w[j]) | sf_nonfinite(next_first[j]) |
                 sf_nonfinite(next_second[j]);
    }
    return flags;
}

/* FTRL-Proximal; slot 0 is z, slot 1 the sum of squared gradients, m->lr is alpha. The weights
 * are a function of z and the sum, not a step away from the old ones, so a smaller rate would
 * shrink them all: a share of a micro-batch counts as that share of its gradient instead. */
SF_INLINE uint64_t sf_step_ftrl(const sf_linear *m, const double *restrict source, double factor,
                                double scale, double l2, double lr, const double *restrict w,
                                const double *restrict z, const double *restrict sum,
                                double *restrict next_w, double *restrict next_z,
                                double *restrict next_sum, int64_t n) {
    uint64_t flags = 0;
    const double beta = m->ftrl_beta, l1 = m->ftrl_l1, own_l2 = m->ftrl_l2;
    const double alpha = m->lr, share = lr / alpha;
    for (int64_t j = 0; j < n; j++) {
        double g = SF_GRADIENT(j) * share;
        next_sum[j] = sum[j] + g * g;
        next_z[j] = z[j] + (g - (sqrt(next_sum[j]) - sqrt(sum[j])) / alpha * w[j]);
        double shrunk = fabs(next_z[j]) <= l1 ? 0.0 : next_z[j] - (next_z[j] > 0.0 ? l1 : -l1);
        next_w[j] = -shrunk / ((beta + sqrt(next_sum[j])) / alpha + own_l2);
        flags |= sf_nonfinite(next_w[j]) | sf_nonfinite(next_z[j]) | sf_nonfinite(next_sum[j]);
    }
    return flags;
}

/* Step the parameters [from, from + n) of `m`. */
SF_INLINE uint64_t sf_step_range(const sf_linear *m, const double *source, double factor,
                                 double scale, double l2, double lr, double decay,
                                 double unbias_1, double unbias_2, int64_t from, int64_t n) {
    const double *w = m->param + from;
    double *next = m->next_param + from;
    switch (m->optimizer) {
    case SF_ADAGRAD:
        return sf_step_adagrad(m, source, factor, scale, l2, lr, w, m->slot[0] + from, next,
                               m->next_slot[0] + from, n);
    case SF_RMSPROP:
        return sf_step_rmsprop(m, source, factor, scale, l2, lr, w, m->slot[0] + from, next,
                               m->next_slot[0] + from, n);
    case SF_ADADELTA:
        return sf_step_adadelta(m, source, factor, scale, l2, lr, w, m->slot[0] + from,
                                m->slot[1] + from, next, m->next_slot[0] + from,
                                m->next_slot[1] + from, n);
    case SF_ADAM:
        decay = 0.0; /* falls through */
    case SF_ADAMW:
        return sf_step_adam(m, source, factor, scale, l2, lr, decay, unbias_1, unbias_2, w,
                            m->slot[0] + from, m->slot[1] + from, next, m->next_slot[0] + from,
                            m->next_slot[1] + from, n);
    case SF_AMSGRAD:
        return sf_step_amsgrad(m, source, factor, scale, l2, lr, unbias_1, unbias_2, w, m->slot,
                               m->next_slot, from, next, n);
    case SF_FTRL:
        return sf_step_ftrl(m, source, factor, scale, l2, lr, w, m->slot[0] + from,
                            m->slot[1] + from, next, m->next_slot[0] + from,
                            m->next_slot[1] + from, n);
    default: /* SF_SGD */
        if (m->momentum == 0.0)
            return sf_step_sgd(source, factor, scale, l2, lr, w, next, n);
        return sf_step_momentum(m, source, factor, scale, l2, lr, w, m->slot[0] + from, next,
                                m->next_slot[0] + from, n);
    }
}

/* Cumulative L1 penalty (Tsuruoka et al. 2009) on weights that have just been stepped: each is
 * pulled towards 0, and not across it, by what it has not yet had of the total so far. */
SF_INLINE uint64_t sf_penalize(const sf_linear *m, double total, int64_t n) {
    uint64_t flags = sf_nonfinite(total);
    const double *restrict had = m->slot[SF_L1] + SF_PAD;
    double *restrict next_had = m->next_slot[SF_L1] + SF_PAD, *restrict w = m->next_param + SF_PAD;
    for (int64_t j = 0; j < n; j++) {
        const double z = w[j];
        double shrunk = z;
        if (z > 0.0) shrunk = z - (total + had[j]) > 0.0 ? z - (total + had[j]) : 0.0;
        if (z < 0.0) shrunk = z + (total - had[j]) < 0.0 ? z + (total - had[j]) : 0.0;
        next_had[j] = had[j] + (shrunk - z);
        w[j] = shrunk;
        flags |= sf_nonfinite(shrunk) | sf_nonfinite(next_had[j]);
    }
    return flags;
}

#define SF_SWAP(a, b) do { double *t_ = (a); (a) = (b); (b) = t_; } while (0)

/* One update from the pending samples. `source` holds the gradient of the weights, up to
 * `factor`; the intercept's is always in grad[0]. The learning rate is multiplied by `share`. */
SF_INLINE void sf_update(sf_linear *m, const double *source, double factor, double share) {
    const double total = m->weight_pending;
    const double scale = !m->mean ? 1.0 : total > 0.0 ? 1.0 / total : 0.0;
    const double lr = sf_learning_rate(m) * share, l1_total = m->l1_total + m->l1 * lr;
    const double power_1 = m->beta_1_power * m->beta_1, power_2 = m->beta_2_power * m->beta_2;
    const double unbias_1 = 1.0 / (1.0 - power_1), unbias_2 = 1.0 / (1.0 - power_2);
    /* The sum of the loss gradients has overflowed: refuse even if no parameter shows it, since
     * infinity times an absent feature would be NaN were its 0 written out. */
    uint64_t flags = sf_nonfinite(m->grad[0]);
    flags |= sf_step_range(m, source, factor, scale, m->l2, lr, m->weight_decay, unbias_1,
                           unbias_2, SF_PAD, m->n_features);
    if (m->l1 > 0.0) flags |= sf_penalize(m, l1_total, m->n_features);
    if (m->fit_intercept) {
        if (m->plain_intercept)
            flags |= sf_step_sgd(m->grad, 1.0, scale, 0.0, m->intercept_lr * share, m->param,
                                 m->next_param, 1);
        else
            flags |= sf_step_range(m, m->grad, 1.0, scale, 0.0, lr, 0.0, unbias_1, unbias_2, 0, 1);
    }
    m->n_pending = 0;
    m->weight_pending = 0.0;
    if (flags >> 63) {
        m->n_refused++;
        return;
    }
    SF_SWAP(m->param, m->next_param);
    for (int i = 0; i < SF_SLOTS; i++) SF_SWAP(m->slot[i], m->next_slot[i]);
    m->beta_1_power = power_1;
    m->beta_2_power = power_2;
    m->l1_total = l1_total;
    m->n_updates++;
    sf_next_batch_size(m);
}

/* ---- entry points -------------------------------------------------------------------------- */

/* Learn `n` rows of `n_columns` columns, in order, cutting micro-batches on the way.
 *
 * Stops before the first row that holds a NaN or infinity, a bad label or a bad weight: the rows
 * before it are learned, nothing of it has touched the state. Returns the number learned.
 * `sample_weight` and `predictions` (the linear predictor, before learning) may be NULL. */
SF_CLONES
static int64_t sf_learn_rows(sf_linear *m, const double *rows, int64_t n_columns,
                             const double *labels, const double *sample_weight,
                             double *predictions, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const double *x = rows + i * n_columns;
        const double y = labels[i], weight = sample_weight ? sample_weight[i] : 1.0;
        const double p = sf_dot(x, m->param + SF_PAD, n_columns) + m->param[0];
        /* a NaN or infinity in the row always shows in p, so rows are looked at only then */
        if (!sf_isfinite(p) && !sf_row_is_finite(x, n_columns)) return i;
        if (!sf_label_is_valid(m->loss, y) || !sf_isfinite(weight) || weight < 0.0) return i;
        if (predictions) predictions[i] = p;
        if (m->track_loss && weight > 0.0) {
            m->loss_sum += weight * sf_loss_value(m->loss, m->loss_option, p, y);
            m->loss_weight += weight;
        }
        double c = weight * sf_loss_gradient(m->loss, m->loss_option, p, y);
        c = c > m->clip ? m->clip : c < -m->clip ? -m->clip : c;

        double *grad = m->grad + SF_PAD;
        const int first = m->n_pending == 0;
        const int direct = m->batch_size == 1 && n_columns == m->n_features;
        m->n_samples++;
        m->n_pending++;
        m->weight_pending = fmin(first ? weight : m->weight_pending + weight, DBL_MAX);
        m->grad[0] = first ? c : m->grad[0] + c;
        if (first && !direct) {
            for (int64_t j = 0; j < n_columns; j++) grad[j] = c * x[j];
            for (int64_t j = n_columns; j < m->n_features; j++) grad[j] = 0.0;
        } else if (!direct) {
            for (int64_t j = 0; j < n_columns; j++) grad[j] += c * x[j];
        }
        if (m->n_pending == m->batch_size)
            sf_update(m, direct ? x : grad, direct ? c : 1.0, 1.0);
    }
    return n;
}

/* Apply the pending samples as an update whose learning rate is multiplied by `share`. */
SF_CLONES
static void sf_flush(sf_linear *m, double share) {
    if (m->n_pending) sf_update(m, m->grad + SF_PAD, 1.0, share);
}

SF_CLONES
static void sf_predict_rows(const sf_linear *m, const double *rows, int64_t n_columns, int64_t n,
                            double *predictions) {
    for (int64_t i = 0; i < n; i++)
        predictions[i] = sf_dot(rows + i * n_columns, m->param + SF_PAD, n_columns) + m->param[0];
}

#endif
