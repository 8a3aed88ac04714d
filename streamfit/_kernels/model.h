/* One linear model as the kernels see it: configuration, counters, pointers to its arrays. */
#ifndef STREAMFIT_MODEL_H
#define STREAMFIT_MODEL_H

#include "arithmetic.h"
#include "losses.h"
#include "noise.h"

enum { SF_SGD, SF_ADAGRAD, SF_ADADELTA, SF_RMSPROP, SF_ADAM, SF_ADAMW, SF_AMSGRAD, SF_FTRL, SF_AUTO };
enum {
    SF_CONSTANT, SF_INVERSE_SCALING, SF_OPTIMAL, SF_EXPONENTIAL, SF_STEP, SF_COSINE_WARMUP
};
enum { SF_FIXED_BATCH, SF_GEOMETRIC_BATCH, SF_MILESTONE_BATCH, SF_NOISE_SCALE_BATCH };

#define SF_PAD 8
#define SF_SLOTS 4 /* the optimizer's three, and the L1 penalty that each weight has had */
#define SF_L1 3

/* Layout of `param`, `grad` and the slots: one stretch of `stride` numbers for each output (one
 * for each class in softmax regression, else a single one). A stretch has SF_PAD leading numbers:
 * number 0 is the intercept, 1..7 are always zero; the weight of column j is at SF_PAD + j. */
typedef struct {
    /* configuration */
    int loss, optimizer, mean, fit_intercept;
    int plain_intercept; /* the intercept takes plain SGD steps at intercept_lr */
    int nesterov;
    double loss_option;
    double momentum, rho, beta_1, beta_2, eps, weight_decay;
    double ftrl_beta, ftrl_l1, ftrl_l2;
    double prior; /* of Auto: the curvature that a weight begins with */
    double l2, l1, clip, intercept_lr, max_weight;
    int lazy_l2;   /* weights are weight_scale * param, so that L2 is one multiplication */
    int lazy_step; /* a step leaves weights alone whose gradient is 0 */
    int schedule;  /* of the learning rate */
    double lr, schedule_option[3];
    int batch_schedule;
    double batch_growth;
    int64_t batch_every, batch_minimum, batch_maximum, n_milestones;
    const int64_t *milestone; /* pairs: from which update on, which size */
    int n_slots; /* of the optimizer's, in use */
    int uses_slot[SF_SLOTS];
    /* state */
    int64_t batch_size; /* 0: full batch, only a flush updates */
    int64_t n_features, n_outputs, stride;
    int64_t n_samples, n_updates, n_pending, n_refused;
    double lr_factor;       /* what the learning rate is multiplied by at present */
    int64_t schedule_start; /* the learning-rate schedule counts updates from here */
    double weight_pending;             /* sum of the sample weights of the pending samples */
    double beta_1_power, beta_2_power; /* beta^t of the Adam family */
    double l1_total;                   /* the L1 penalty that every weight could have had */
    double weight_scale;
    void *param, *next_param, *grad;
    void *curvature; /* of the pending samples' losses, for Auto: as `grad` */
    void *slot[SF_SLOTS], *next_slot[SF_SLOTS];
    /* a gradient that is known at the touched columns only, and zero elsewhere */
    int sparse_pending;
    int64_t n_touched;
    int32_t *touched;
    uint8_t *mark;
    /* the running scaler: number 0 of each array is not used */
    int standardize;
    double bound; /* scaled values stay within it */
    int64_t n_scaled;
    double *mean_of, *next_mean_of, *variance_of, *next_variance_of;
    /* scratch: predictors and slopes of four samples, a scaled row, a step's gathered numbers */
    double *predictor, *slope;
    void *scaled, *gathered[SF_SLOTS + 1];
    /* progressive loss: each sample's loss before it was learned */
    int track_loss;
    double loss_sum, loss_weight;
    sf_noise noise;
} sf_linear;

/* ---- schedules: functions of the number of updates made ----------------------------------- */

SF_INLINE double sf_learning_rate(const sf_linear *m) {
    const double t = (double)(m->n_updates - m->schedule_start), *option = m->schedule_option;
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
    } else if (m->batch_schedule == SF_NOISE_SCALE_BATCH && m->n_updates % m->batch_every == 0) {
        m->batch_size =
            sf_follow_noise(&m->noise, m->batch_size, m->batch_minimum, m->batch_maximum);
    }
}

/* Say whether the micro-batch that begins is measured. */
SF_INLINE void sf_begin_measuring(sf_linear *m) {
    m->noise.now = m->noise.every && m->n_updates % m->noise.every == 0;
}

/* Forget the pending samples. */
SF_INLINE void sf_forget_pending(sf_linear *m) {
    for (int64_t i = 0; i < m->n_touched; i++) m->mark[m->touched[i]] = 0;
    m->n_touched = 0;
    m->sparse_pending = 0;
    m->n_pending = 0;
    m->weight_pending = 0.0;
    m->noise.squares = m->noise.weight_2 = 0.0;
}

#endif
