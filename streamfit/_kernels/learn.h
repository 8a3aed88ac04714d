/* The update, and the loop over rows. Included by kernels.h once for each REAL. */

#define SWAP(a, b) do { void *t_ = (a); (a) = (b); (b) = t_; } while (0)

/* Bring the numbers of the columns together, so that a sparse step is an ordinary one. */
SF_INLINE const REAL *F(gather)(void *into, const void *from, const int32_t *column, int64_t n) {
    REAL *to = into;
    for (int64_t i = 0; i < n; i++) to[i] = ((const REAL *)from)[column[i]];
    return to;
}

SF_INLINE void F(scatter)(void *into, const void *from, const int32_t *column, int64_t n) {
    REAL *to = into;
    const REAL *values = from;
    for (int64_t i = 0; i < n; i++) to[column[i]] = values[i];
}

/* One update from the pending samples. When `row` is given it is the only one, with its slopes
 * in m->slope; otherwise their gradient is in m->grad. The learning rate is multiplied by `share`. */
SF_INLINE void F(update)(sf_linear *m, const F(row) *row, double share) {
    const double total = m->weight_pending;
    const double scale = !m->mean ? 1.0 : total > 0.0 ? 1.0 / total : 0.0;
    const double lr = sf_learning_rate(m) * share, l1_total = m->l1_total + m->l1 * lr;
    const double power_1 = m->beta_1_power * m->beta_1, power_2 = m->beta_2_power * m->beta_2;

    /* L2 as a factor of all weights at once; it is multiplied in when it has grown too small, and
     * when it is no shrinking. */
    double l2 = m->l2, keep = 1.0, next_scale = m->weight_scale;
    int fold = 0;
    if (m->lazy_l2) {
        l2 = 0.0;
        next_scale *= 1.0 - lr * m->l2;
        fold = !(next_scale >= 1e-9 && next_scale <= m->weight_scale);
        if (fold) keep = next_scale, next_scale = 1.0;
    }

    const int32_t *column = row ? row->column : m->sparse_pending ? m->touched : NULL;
    int64_t n = row && column ? row->n : column ? m->n_touched : m->n_features;
    if (column && fold) { /* all weights take part after all */
        if (row) F(accumulate_sparse)(m, *row, m->slope, 1);
        F(densify)(m);
        row = NULL;
        column = NULL;
        n = m->n_features;
    }

    F(step) s = {
        .n = n, .scale = (REAL)scale, .l2 = (REAL)l2, .keep = (REAL)keep,
        .lr = (REAL)(lr / next_scale), .decay = (REAL)m->weight_decay, .share = share,
        .unbias_1 = (REAL)(1.0 / (1.0 - power_1)), .unbias_2 = (REAL)(1.0 / (1.0 - power_2)),
    };
    F(step) intercept = s;
    intercept.n = 1, intercept.factor = 1, intercept.l2 = 0, intercept.keep = 1;
    intercept.decay = 0;
    intercept.lr = (REAL)(m->plain_intercept ? m->intercept_lr * share : lr);
    BITS flags = 0;
    int too_large = 0;
    for (int64_t k = 0; k < m->n_outputs; k++) {
        const int64_t at = k * m->stride;
        const REAL *param = (REAL *)m->param + at, *grad = (REAL *)m->grad + at;
        REAL *next = (REAL *)m->next_param + at;
        s.source = row ? row->value : grad + SF_PAD;
        s.factor = row ? (REAL)m->slope[k] : 1;
        s.w = param + SF_PAD;
        s.next_w = next + SF_PAD;
        for (int i = 0; i < SF_L1; i++) {
            if (!m->uses_slot[i]) continue;
            s.slot[i] = (REAL *)m->slot[i] + at + SF_PAD;
            s.next_slot[i] = (REAL *)m->next_slot[i] + at + SF_PAD;
            intercept.slot[i] = (REAL *)m->slot[i] + at;
            intercept.next_slot[i] = (REAL *)m->next_slot[i] + at;
        }
        if (column) {
            if (!row) s.source = F(gather)(m->gathered[SF_SLOTS], s.source, column, n);
            s.w = F(gather)(m->gathered[SF_L1], s.w, column, n);
            for (int i = 0; i < SF_L1; i++)
                if (m->uses_slot[i])
                    s.slot[i] = F(gather)(m->gathered[i], s.slot[i], column, n);
        }
        flags |= F(step_range)(m, &s);
        if (m->l1 > 0.0)
            flags |= F(penalize)((REAL)l1_total, (REAL *)m->slot[SF_L1] + at + SF_PAD,
                                 (REAL *)m->next_slot[SF_L1] + at + SF_PAD, next + SF_PAD, n);
        if (m->max_weight < INFINITY)
            too_large |= F(too_large)(next + SF_PAD, next_scale, m->max_weight, n);
        if (m->fit_intercept) {
            intercept.source = grad, intercept.w = param, intercept.next_w = next;
            flags |= m->plain_intercept ? F(step_sgd)(&intercept) : F(step_range)(m, &intercept);
        }
        /* The sum of the slopes has overflowed: refuse even if no parameter shows it, since
         * infinity times an absent feature would be NaN were its 0 written out. */
        flags |= F(nonfinite)(grad[0]);
    }
    if (!F(is_set)(flags) && !too_large) {
        if (column) {
            for (int64_t k = 0; k < m->n_outputs; k++) {
                REAL *to = (REAL *)m->param + k * m->stride;
                const REAL *from = (REAL *)m->next_param + k * m->stride;
                to[0] = from[0];
                F(scatter)(to + SF_PAD, from + SF_PAD, column, n);
                for (int i = 0; i < SF_L1; i++) {
                    if (!m->uses_slot[i]) continue;
                    to = (REAL *)m->slot[i] + k * m->stride;
                    from = (REAL *)m->next_slot[i] + k * m->stride;
                    to[0] = from[0];
                    F(scatter)(to + SF_PAD, from + SF_PAD, column, n);
                }
            }
        } else {
            SWAP(m->param, m->next_param);
            for (int i = 0; i < SF_SLOTS; i++) SWAP(m->slot[i], m->next_slot[i]);
        }
        m->beta_1_power = power_1;
        m->beta_2_power = power_2;
        m->l1_total = l1_total;
        m->weight_scale = next_scale;
        m->n_updates++;
        sf_forget_pending(m);
        sf_next_batch_size(m);
    } else {
        m->n_refused++;
        sf_forget_pending(m);
    }
}

/* The predictors of one row; returns whether all are finite. */
SF_INLINE int F(predict)(const sf_linear *m, F(row) x, double *predictor) {
    int finite = 1;
    for (int64_t k = 0; k < m->n_outputs; k++) {
        const REAL *param = (REAL *)m->param + k * m->stride;
        predictor[k] = (REAL)m->weight_scale * F(dot)(x, param + SF_PAD) + param[0];
        finite &= sf_isfinite(predictor[k]);
    }
    return finite;
}

/* Learn `n` rows in order, cutting micro-batches on the way.
 *
 * Dense rows have `n_columns` numbers each; row i of a sparse matrix (`column` is given) has those
 * from start[i] to start[i + 1]. Stops before the first row that holds a NaN or infinity, a bad
 * label or a bad weight, or whose class has no output: the rows before it are learned, nothing of
 * it has touched the state. Returns the number learned. `sample_weight` and `predictors` (before
 * learning, n_outputs for each row at a distance of `predictors_stride`) may be NULL. */
SF_INLINE int64_t F(learn)(sf_linear *m, const REAL *value, const int32_t *column,
                           const int64_t *start, int64_t n_columns, const double *labels,
                           const double *sample_weight, double *predictors,
                           int64_t predictors_stride, int64_t n, const int sparse) {
    const int classes = m->loss == SF_CROSS_ENTROPY;
    for (int64_t i = 0; i < n; i++) {
        F(row) x = {value + i * n_columns, NULL, n_columns};
        if (sparse) {
            x.value = value + start[i];
            x.column = column + start[i];
            x.n = start[i + 1] - start[i];
        }
        const double y = labels[i], weight = sample_weight ? sample_weight[i] : 1.0;
        if (!sf_isfinite(weight) || weight < 0.0) return i;
        if (classes ? !(y < (double)m->n_outputs) : !sf_label_is_valid(m->loss, y)) return i;
        if (m->standardize && !F(standardize)(m, &x, m->scaled, weight > 0.0)) return i;
        /* a NaN or infinity in the row always shows in a predictor, so rows are looked at only
         * then */
        if (!F(predict)(m, x, m->predictor) && !F(row_is_finite)(x)) return i;
        if (predictors)
            memcpy(predictors + i * predictors_stride, m->predictor, m->n_outputs * sizeof(double));
        double loss;
        if (classes) {
            loss = sf_cross_entropy(m->predictor, m->slope, (int64_t)y, m->n_outputs);
        } else {
            m->slope[0] = sf_loss_gradient(m->loss, m->loss_option, m->predictor[0], y);
            loss = m->track_loss
                       ? sf_loss_value(m->loss, m->loss_option, m->predictor[0], y) : 0.0;
        }
        if (m->track_loss && weight > 0.0) {
            m->loss_sum += weight * loss;
            m->loss_weight += weight;
        }
        const int first = m->n_pending == 0;
        /* a whole micro-batch of one row may go straight to the update */
        const int direct =
            m->batch_size == 1 && (sparse ? m->lazy_step : x.n == m->n_features);
        for (int64_t k = 0; k < m->n_outputs; k++) {
            REAL *grad = (REAL *)m->grad + k * m->stride;
            double c = weight * m->slope[k];
            c = c > m->clip ? m->clip : c < -m->clip ? -m->clip : c;
            m->slope[k] = c;
            grad[0] = first ? (REAL)c : grad[0] + (REAL)c;
        }
        m->n_samples++;
        m->n_pending++;
        m->weight_pending = fmin(first ? weight : m->weight_pending + weight, DBL_MAX);
        if (!direct) {
            if (sparse) F(accumulate_sparse)(m, x, m->slope, first);
            else F(accumulate_dense)(m, x, m->slope, first);
        }
        if (m->n_pending == m->batch_size) F(update)(m, direct ? &x : NULL, 1.0);
    }
    return n;
}

/* ---- entry points -------------------------------------------------------------------------- */

SF_CLONES
static int64_t F(learn_dense)(sf_linear *m, const void *value, int64_t n_columns,
                              const double *labels, const double *sample_weight,
                              double *predictors, int64_t predictors_stride, int64_t n) {
    return F(learn)(m, value, NULL, NULL, n_columns, labels, sample_weight, predictors,
                    predictors_stride, n, 0);
}

SF_CLONES
static int64_t F(learn_sparse)(sf_linear *m, const void *value, const int32_t *column,
                               const int64_t *start, const double *labels,
                               const double *sample_weight, double *predictors,
                               int64_t predictors_stride, int64_t n) {
    return F(learn)(m, value, column, start, 0, labels, sample_weight, predictors,
                    predictors_stride, n, 1);
}

/* Apply the pending samples as an update whose learning rate is multiplied by `share`. */
SF_CLONES
static void F(flush)(sf_linear *m, double share) {
    if (m->n_pending) F(update)(m, NULL, share);
}

/* Predictors of `n` rows, sparse if `column` is given; n_outputs for each row. Another thread may
 * be learning, so no scratch of its may be used. */
SF_CLONES
static void F(predict_rows)(sf_linear *m, const void *value, const int32_t *column,
                            const int64_t *start, int64_t n_columns, int64_t n, void *scaled,
                            double *predictors) {
    for (int64_t i = 0; i < n; i++) {
        F(row) x = {(const REAL *)value + i * n_columns, NULL, n_columns};
        if (column) {
            x.value = (const REAL *)value + start[i];
            x.column = column + start[i];
            x.n = start[i + 1] - start[i];
        }
        if (m->standardize) F(standardize)(m, &x, scaled, 0);
        F(predict)(m, x, predictors + i * m->n_outputs);
    }
}

#undef SWAP
