/* Plain models that learn every row at once. Included by kernels.h once for each REAL. */

/* May rows be learned by `learn_each`? Each makes an update of its own, a plain step by its slope. */
SF_INLINE int F(takes_each)(const sf_linear *m, int64_t n_columns, const double *sample_weight) {
    return m->batch_size == 1 && m->batch_schedule == SF_FIXED_BATCH && !m->noise.every &&
           !m->n_pending && !sample_weight && m->l2 == 0.0 && m->weight_scale == 1.0 &&
           n_columns && n_columns == m->n_features;
}

/* Learn dense rows, each of them in one pass: the step of a row writes the weights, and while they
 * are at hand the row after it is multiplied with them. Stops before a row with which anything is
 * unusual, and has done nothing of it then; returns how many are learned. */
SF_INLINE int64_t F(learn_each)(sf_linear *m, const REAL *x, int64_t n_columns,
                                const double *labels, double *predictors, int64_t stride,
                                int64_t n) {
    const REAL *w = m->param;
    REAL product;
    int64_t i = 0;
    F(dots)(x, n_columns, w + SF_PAD, 1, &product);
    double p = product + w[0];
    for (; i < n && sf_isfinite(p) && sf_label_is_valid(m->loss, labels[i]); i++, x += n_columns) {
        const double slope = sf_loss_gradient(m->loss, m->loss_option, p, labels[i]);
        if (!(fabs(slope) <= m->clip)) break;
        REAL *next = m->next_param;
        const REAL c = (REAL)slope, lr = (REAL)(sf_learning_rate(m) * m->lr_factor);
        next[0] = m->fit_intercept ? w[0] - lr * c : w[0];
        F(step_and_dot)(x, i + 1 < n ? x + n_columns : x, n_columns, w + SF_PAD, c, lr,
                        next + SF_PAD, &product);
        /* a weight that is not finite always shows in a product */
        const double next_p = product + next[0];
        if (!sf_isfinite(next_p)) break;
        if (predictors) predictors[i * stride] = p;
        if (m->track_loss) {
            m->loss_sum += sf_loss_value(m->loss, m->loss_option, p, labels[i]);
            m->loss_weight += 1.0;
        }
        m->next_param = m->param;
        m->param = next;
        w = next;
        p = next_p;
        m->beta_1_power *= m->beta_1;
        m->beta_2_power *= m->beta_2;
        m->n_samples++;
        m->n_updates++;
    }
    return i;
}
