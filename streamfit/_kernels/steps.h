/* Optimizer steps over a range of weights. Included by kernels.h once for each REAL. */

/* What a step reads and writes: `n` weights, their slots, and their gradient up to `factor`. */
typedef struct {
    const REAL *source, *w, *slot[SF_L1];
    REAL *next_w, *next_slot[SF_L1];
    int64_t n;
    REAL factor; /* the slope when `source` is the row itself, 1 when it is the gradient */
    REAL scale;  /* 1/W for a mean */
    REAL l2, lr, keep, decay, unbias_1, unbias_2;
    double share; /* of a whole step, for FTRL */
    const REAL *curvature; /* of the samples, for Auto */
    REAL samples, damping;  /* their weight if `scale` divides by it, and 1 + the sum of P c */
} F(step);

/* The compiler is told with `restrict` that none of the arrays overlap. */
#define STEP_ARRAYS                                                    \
    const REAL *restrict source = s->source, *restrict w = s->w;       \
    REAL *restrict next_w = s->next_w;                                 \
    const REAL factor = s->factor, scale = s->scale, l2 = s->l2, lr = s->lr
#define STEP_SLOT(i, was, next)                 \
    const REAL *restrict was = s->slot[i];      \
    REAL *restrict next = s->next_slot[i]
#define STEP_GRADIENT(j) ((source[j] * factor) * scale + l2 * w[j])

SF_INLINE BITS F(step_sgd)(const F(step) *s) {
    STEP_ARRAYS;
    const REAL keep = s->keep;
    BITS flags = 0;
    for (int64_t j = 0; j < s->n; j++) {
        next_w[j] = keep * w[j] - lr * STEP_GRADIENT(j);
        flags |= F(nonfinite)(next_w[j]);
    }
    return flags;
}

SF_INLINE BITS F(step_momentum)(const sf_linear *m, const F(step) *s) {
    STEP_ARRAYS;
    STEP_SLOT(0, v, next_v);
    const REAL mu = (REAL)m->momentum;
    BITS flags = 0;
    if (m->nesterov)
        for (int64_t j = 0; j < s->n; j++) {
            const REAL step = lr * STEP_GRADIENT(j);
            next_v[j] = mu * v[j] - step;
            next_w[j] = w[j] + (mu * next_v[j] - step);
            flags |= F(nonfinite)(next_w[j]) | F(nonfinite)(next_v[j]);
        }
    else
        for (int64_t j = 0; j < s->n; j++) {
            next_v[j] = mu * v[j] - lr * STEP_GRADIENT(j);
            next_w[j] = w[j] + next_v[j];
            flags |= F(nonfinite)(next_w[j]) | F(nonfinite)(next_v[j]);
        }
    return flags;
}

SF_INLINE REAL F(root)(REAL x) { return sizeof(REAL) == 4 ? (REAL)sqrtf((float)x) : (REAL)sqrt((double)x); }

SF_INLINE BITS F(step_adagrad)(const sf_linear *m, const F(step) *s) {
    STEP_ARRAYS;
    STEP_SLOT(0, sum, next_sum);
    const REAL eps = (REAL)m->eps;
    BITS flags = 0;
    for (int64_t j = 0; j < s->n; j++) {
        const REAL g = STEP_GRADIENT(j);
        next_sum[j] = sum[j] + g * g;
        next_w[j] = w[j] - lr * g / F(root)(next_sum[j] + eps);
        flags |= F(nonfinite)(next_w[j]) | F(nonfinite)(next_sum[j]);
    }
    return flags;
}

SF_INLINE BITS F(step_rmsprop)(const sf_linear *m, const F(step) *s) {
    STEP_ARRAYS;
    STEP_SLOT(0, mean, next_mean);
    const REAL rho = (REAL)m->rho, rest = (REAL)(1.0 - m->rho), eps = (REAL)m->eps;
    BITS flags = 0;
    for (int64_t j = 0; j < s->n; j++) {
        const REAL g = STEP_GRADIENT(j);
        next_mean[j] = rho * mean[j] + rest * (g * g);
        next_w[j] = w[j] - lr * g / F(root)(next_mean[j] + eps);
        flags |= F(nonfinite)(next_w[j]) | F(nonfinite)(next_mean[j]);
    }
    return flags;
}

SF_INLINE BITS F(step_adadelta)(const sf_linear *m, const F(step) *s) {
    STEP_ARRAYS;
    STEP_SLOT(0, mean, next_mean);
    STEP_SLOT(1, moved, next_moved);
    const REAL rho = (REAL)m->rho, rest = (REAL)(1.0 - m->rho), eps = (REAL)m->eps;
    BITS flags = 0;
    for (int64_t j = 0; j < s->n; j++) {
        const REAL g = STEP_GRADIENT(j);
        next_mean[j] = rho * mean[j] + rest * (g * g);
        const REAL step = F(root)(moved[j] + eps) / F(root)(next_mean[j] + eps) * g;
        next_moved[j] = rho * moved[j] + rest * (step * step);
        next_w[j] = w[j] - lr * step;
        flags |= F(nonfinite)(next_w[j]) | F(nonfinite)(next_mean[j]) |
                 F(nonfinite)(next_moved[j]);
    }
    return flags;
}

/* Adam, and with `decay` AdamW: the weight shrinks beside the step, not through the gradient. */
SF_INLINE BITS F(step_adam)(const sf_linear *m, const F(step) *s, REAL decay) {
    STEP_ARRAYS;
    STEP_SLOT(0, first, next_first);
    STEP_SLOT(1, second, next_second);
    const REAL b1 = (REAL)m->beta_1, rest_1 = (REAL)(1.0 - m->beta_1);
    const REAL b2 = (REAL)m->beta_2, rest_2 = (REAL)(1.0 - m->beta_2);
    const REAL eps = (REAL)m->eps, unbias_1 = s->unbias_1, unbias_2 = s->unbias_2;
    BITS flags = 0;
    for (int64_t j = 0; j < s->n; j++) {
        const REAL g = STEP_GRADIENT(j);
        next_first[j] = b1 * first[j] + rest_1 * g;
        next_second[j] = b2 * second[j] + rest_2 * (g * g);
        next_w[j] = (w[j] - lr * decay * w[j]) -
                    lr * (next_first[j] * unbias_1) / (F(root)(next_second[j] * unbias_2) + eps);
        flags |= F(nonfinite)(next_w[j]) | F(nonfinite)(next_first[j]) |
                 F(nonfinite)(next_second[j]);
    }
    return flags;
}

SF_INLINE BITS F(step_amsgrad)(const sf_linear *m, const F(step) *s) {
    STEP_ARRAYS;
    STEP_SLOT(0, first, next_first);
    STEP_SLOT(1, second, next_second);
    STEP_SLOT(2, most, next_most);
    const REAL b1 = (REAL)m->beta_1, rest_1 = (REAL)(1.0 - m->beta_1);
    const REAL b2 = (REAL)m->beta_2, rest_2 = (REAL)(1.0 - m->beta_2);
    const REAL eps = (REAL)m->eps, unbias_1 = s->unbias_1, unbias_2 = s->unbias_2;
    BITS flags = 0;
    for (int64_t j = 0; j < s->n; j++) {
        const REAL g = STEP_GRADIENT(j);
        next_first[j] = b1 * first[j] + rest_1 * g;
        next_second[j] = b2 * second[j] + rest_2 * (g * g);
        next_most[j] = next_second[j] > most[j] ? next_second[j] : most[j];
        next_w[j] = w[j] - lr * (next_first[j] * unbias_1) /
                               (F(root)(next_most[j] * unbias_2) + eps);
        flags |= F(nonfinite)(next_w[j]) | F(nonfinite)(next_first[j]) |
                 F(nonfinite)(next_second[j]);
    }
    return flags;
}

/* FTRL-Proximal; slot 0 is z, slot 1 the sum of squared gradients, m->lr is alpha. The weights
 * are a function of z and the sum, not a step away from the old ones, so a smaller rate would
 * shrink them all: a share of a micro-batch counts as that share of its gradient instead. */
SF_INLINE BITS F(step_ftrl)(const sf_linear *m, const F(step) *s) {
    STEP_ARRAYS;
    STEP_SLOT(0, z, next_z);
    STEP_SLOT(1, sum, next_sum);
    const REAL beta = (REAL)m->ftrl_beta, l1 = (REAL)m->ftrl_l1, own_l2 = (REAL)m->ftrl_l2;
    const REAL alpha = (REAL)m->lr, share = (REAL)s->share;
    BITS flags = 0;
    (void)lr;
    for (int64_t j = 0; j < s->n; j++) {
        const REAL g = STEP_GRADIENT(j) * share;
        next_sum[j] = sum[j] + g * g;
        next_z[j] = z[j] + (g - (F(root)(next_sum[j]) - F(root)(sum[j])) / alpha * w[j]);
        const REAL size = next_z[j] < 0 ? -next_z[j] : next_z[j];
        const REAL shrunk = size <= l1 ? 0 : next_z[j] - (next_z[j] > 0 ? l1 : -l1);
        next_w[j] = -shrunk / ((beta + F(root)(next_sum[j])) / alpha + own_l2);
        flags |= F(nonfinite)(next_w[j]) | F(nonfinite)(next_z[j]) | F(nonfinite)(next_sum[j]);
    }
    return flags;
}

/* Auto; slot 0 is the curvature so far. What a step may use of it is in the docstring of
 * `sf.optim.Auto`. */
#define SF_AUTO_RATE 0.25
SF_INLINE REAL F(auto_gain)(REAL a) {
    const REAL newton = 1 / a, rate = (REAL)SF_AUTO_RATE / F(root)(a);
    return newton > rate ? newton : rate;
}

/* The sum of P c over one output: `next_p` receives the P of its `n` weights. */
SF_INLINE REAL F(auto_sum)(const REAL *sum, REAL prior, const REAL *c, REAL *next_p, int64_t n) {
    for (int64_t j = 0; j < n; j++) next_p[j] = F(auto_gain)(prior + sum[j]);
    F(row) row = {c, NULL, n};
    return F(dot)(row, next_p);
}

SF_INLINE BITS F(step_auto)(const sf_linear *m, const F(step) *s) {
    STEP_ARRAYS;
    STEP_SLOT(0, sum, next_sum);
    const REAL *restrict c = s->curvature;
    const REAL prior = (REAL)m->prior, samples = s->samples, damping = s->damping;
    BITS flags = 0;
    for (int64_t j = 0; j < s->n; j++) {
        next_sum[j] = sum[j] + c[j] / damping;
        next_w[j] = w[j] - lr * (F(auto_gain)(prior + sum[j]) * (samples * STEP_GRADIENT(j)) / damping);
        flags |= F(nonfinite)(next_w[j]) | F(nonfinite)(next_sum[j]);
    }
    return flags;
}

SF_INLINE BITS F(step_range)(const sf_linear *m, const F(step) *s) {
    switch (m->optimizer) {
    case SF_ADAGRAD: return F(step_adagrad)(m, s);
    case SF_RMSPROP: return F(step_rmsprop)(m, s);
    case SF_ADADELTA: return F(step_adadelta)(m, s);
    case SF_ADAM: return F(step_adam)(m, s, 0);
    case SF_ADAMW: return F(step_adam)(m, s, s->decay);
    case SF_AMSGRAD: return F(step_amsgrad)(m, s);
    case SF_FTRL: return F(step_ftrl)(m, s);
    case SF_AUTO: return F(step_auto)(m, s);
    default: return m->momentum == 0.0 ? F(step_sgd)(s) : F(step_momentum)(m, s);
    }
}

/* Cumulative L1 penalty (Tsuruoka et al. 2009) on weights that have just been stepped: each is
 * pulled towards 0, and not across it, by what it has not yet had of the total so far. */
SF_INLINE BITS F(penalize)(REAL total, const REAL *restrict had, REAL *restrict next_had,
                           REAL *restrict w, int64_t n) {
    BITS flags = F(nonfinite)(total);
    for (int64_t j = 0; j < n; j++) {
        const REAL z = w[j];
        REAL shrunk = z;
        if (z > 0) shrunk = z - (total + had[j]) > 0 ? z - (total + had[j]) : 0;
        if (z < 0) shrunk = z + (total - had[j]) < 0 ? z + (total - had[j]) : 0;
        next_had[j] = had[j] + (shrunk - z);
        w[j] = shrunk;
        flags |= F(nonfinite)(shrunk) | F(nonfinite)(next_had[j]);
    }
    return flags;
}

/* Is any of the weights, after the step, beyond `most`? */
SF_INLINE int F(too_large)(const REAL *w, double scale, double most, int64_t n) {
    int found = 0;
    for (int64_t j = 0; j < n; j++) found |= fabs((double)w[j] * scale) > most;
    return found;
}

#undef STEP_ARRAYS
#undef STEP_SLOT
#undef STEP_GRADIENT
