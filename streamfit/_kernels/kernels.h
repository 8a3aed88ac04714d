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

enum { SF_SQUARED, SF_HALF_SQUARED, SF_LOG };
enum { SF_SGD, SF_ADAGRAD, SF_ADAM };

typedef struct {
    /* configuration */
    int loss, optimizer, mean, fit_intercept;
    int plain_intercept; /* the intercept takes plain SGD steps at intercept_lr */
    int nesterov;
    double lr, momentum, beta_1, beta_2, eps;
    double l2, clip, intercept_lr;
    int64_t batch_size; /* 0: full batch, only a flush updates */
    /* state */
    int64_t n_features, n_samples, n_updates, n_pending, n_refused;
    double weight_pending;             /* sum of the sample weights of the pending samples */
    double beta_1_power, beta_2_power; /* beta^t of Adam */
    double *param, *slot_1, *slot_2;
    double *next_param, *next_slot_1, *next_slot_2;
    double *grad;
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

SF_INLINE double sf_loss_value(int loss, double p, double y) {
    switch (loss) {
    case SF_SQUARED: return (p - y) * (p - y);
    case SF_HALF_SQUARED: return 0.5 * (p - y) * (p - y);
    default: { /* SF_LOG: log(1 + exp(-margin)) without overflow */
        double margin = y > 0.5 ? p : -p;
        return (margin < 0 ? -margin : 0.0) + log1p(sf_exp(-fabs(margin)));
    }
    }
}

SF_INLINE double sf_loss_gradient(int loss, double p, double y) {
    switch (loss) {
    case SF_SQUARED: return 2.0 * (p - y);
    case SF_HALF_SQUARED: return p - y;
    default: return sf_sigmoid(p) - y; /* SF_LOG */
    }
}

SF_INLINE int sf_label_is_valid(int loss, double y) {
    return loss == SF_LOG ? (y == 0.0 || y == 1.0) : sf_isfinite(y);
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

SF_INLINE uint64_t sf_step_adam(const sf_linear *m, const double *restrict source, double factor,
                                double scale, double l2, double lr, double unbias_1,
                                double unbias_2, const double *restrict w,
                                const double *restrict first, const double *restrict second,
                                double *restrict next_w, double *restrict next_first,
                                double *restrict next_second, int64_t n) {
    uint64_t flags = 0;
    const double b1 = m->beta_1, b2 = m->beta_2, eps = m->eps;
    for (int64_t j = 0; j < n; j++) {
        double g = SF_GRADIENT(j);
        next_first[j] = b1 * first[j] + (1.0 - b1) * g;
        next_second[j] = b2 * second[j] + (1.0 - b2) * (g * g);
        next_w[j] = w[j] - lr * (next_first[j] * unbias_1) /
                               (sqrt(next_second[j] * unbias_2) + eps);
        flags |= sf_nonfinite(next_w[j]) | sf_nonfinite(next_first[j]) |
                 sf_nonfinite(next_second[j]);
    }
    return flags;
}

/* Step the parameters [from, from + n) of `m`. */
SF_INLINE uint64_t sf_step_range(const sf_linear *m, const double *source, double factor,
                                 double scale, double l2, double lr, double unbias_1,
                                 double unbias_2, int64_t from, int64_t n) {
    const double *w = m->param + from;
    double *next = m->next_param + from;
    switch (m->optimizer) {
    case SF_ADAGRAD:
        return sf_step_adagrad(m, source, factor, scale, l2, lr, w, m->slot_1 + from, next,
                               m->next_slot_1 + from, n);
    case SF_ADAM:
        return sf_step_adam(m, source, factor, scale, l2, lr, unbias_1, unbias_2, w,
                            m->slot_1 + from, m->slot_2 + from, next, m->next_slot_1 + from,
                            m->next_slot_2 + from, n);
    default: /* SF_SGD */
        if (m->momentum == 0.0)
            return sf_step_sgd(source, factor, scale, l2, lr, w, next, n);
        return sf_step_momentum(m, source, factor, scale, l2, lr, w, m->slot_1 + from, next,
                                m->next_slot_1 + from, n);
    }
}

#define SF_SWAP(a, b) do { double *t_ = (a); (a) = (b); (b) = t_; } while (0)

/* One update from the pending samples. `source` holds the gradient of the weights, up to
 * `factor`; the intercept's is always in grad[0]. The learning rate is multiplied by `share`. */
SF_INLINE void sf_update(sf_linear *m, const double *source, double factor, double share) {
    const double total = m->weight_pending;
    const double scale = !m->mean ? 1.0 : total > 0.0 ? 1.0 / total : 0.0;
    const double lr = m->lr * share;
    const double power_1 = m->beta_1_power * m->beta_1, power_2 = m->beta_2_power * m->beta_2;
    const double unbias_1 = 1.0 / (1.0 - power_1), unbias_2 = 1.0 / (1.0 - power_2);
    /* The sum of the loss gradients has overflowed: refuse even if no parameter shows it, since
     * infinity times an absent feature would be NaN were its 0 written out. */
    uint64_t flags = sf_nonfinite(m->grad[0]);
    flags |= sf_step_range(m, source, factor, scale, m->l2, lr, unbias_1, unbias_2, SF_PAD,
                           m->n_features);
    if (m->fit_intercept) {
        if (m->plain_intercept)
            flags |= sf_step_sgd(m->grad, 1.0, scale, 0.0, m->intercept_lr * share, m->param,
                                 m->next_param, 1);
        else
            flags |= sf_step_range(m, m->grad, 1.0, scale, 0.0, lr, unbias_1, unbias_2, 0, 1);
    }
    m->n_pending = 0;
    m->weight_pending = 0.0;
    if (flags >> 63) {
        m->n_refused++;
        return;
    }
    SF_SWAP(m->param, m->next_param);
    SF_SWAP(m->slot_1, m->next_slot_1);
    SF_SWAP(m->slot_2, m->next_slot_2);
    m->beta_1_power = power_1;
    m->beta_2_power = power_2;
    m->n_updates++;
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
            m->loss_sum += weight * sf_loss_value(m->loss, p, y);
            m->loss_weight += weight;
        }
        double c = weight * sf_loss_gradient(m->loss, p, y);
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
