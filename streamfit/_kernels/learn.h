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

/* Much of what a model may have is switched off in the usual one: a single output, plain SGD, no
 * scaler, no L1, no bound. The loops below are compiled for that (`plain`, a constant) and for
 * all the rest; both are the same code. */
SF_INLINE int F(is_plain)(const sf_linear *m) {
    return m->loss != SF_CROSS_ENTROPY && m->optimizer == SF_SGD && m->momentum == 0.0 &&
           !m->standardize && !(m->l1 > 0.0) && !(m->max_weight < INFINITY) && !m->plain_intercept;
}

/* Add the squared norm of a sample's gradient, whose weighted slopes are in `slope`, `step` apart. */
SF_INLINE void F(measure)(sf_linear *m, F(row) x, double weight, const double *slope,
                          const int step, int64_t n_outputs) {
    double squared = 0.0;
    for (int64_t k = 0; k < n_outputs; k++) {
        const double c = (REAL)slope[k * step];
        squared += c * c;
    }
    if (weight > 0.0)
        sf_add_square(&m->noise, squared * ((double)F(squared_norm)(x) + m->fit_intercept), weight);
}

/* Measure the pending gradient. Touched columns are put into order, as in a dense sum. */
SF_INLINE void F(measure_gradient)(sf_linear *m, int64_t n_outputs) {
    double squared = 0.0;
    if (m->sparse_pending)
        sf_sort_columns(m->touched, m->gathered[SF_SLOTS], m->n_touched, m->n_features);
    for (int64_t k = 0; k < n_outputs; k++) {
        const REAL *grad = (REAL *)m->grad + k * m->stride;
        F(row) g = {grad + SF_PAD, NULL, m->n_features};
        if (m->sparse_pending) {
            g.value = F(gather)(m->gathered[SF_SLOTS], g.value, m->touched, m->n_touched);
            g.column = m->touched;
            g.n = m->n_touched;
        }
        squared += F(squared_norm)(g) + (m->fit_intercept ? (double)grad[0] * grad[0] : 0.0);
    }
    sf_add_measurement(&m->noise, m->weight_pending, squared);
}

/* One update from the pending samples. When `row` is given it is the only one, with its slopes
 * in `slope`; otherwise their gradient is in m->grad. The learning rate is multiplied by `share`. */
SF_INLINE void F(update)(sf_linear *m, const F(row) *row, const double *slope, double share,
                         const int plain) {
    const int64_t n_outputs = plain ? 1 : m->n_outputs;
    const int n_slots = plain ? 0 : m->n_slots;
    const double total = m->weight_pending;
    const double scale = !m->mean || total == 1.0 ? 1.0 : total > 0.0 ? 1.0 / total : 0.0;
    share *= m->lr_factor;
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
        if (row) F(accumulate_sparse)(m, *row, slope, 1);
        F(densify)(m);
        row = NULL;
        column = NULL;
        n = m->n_features;
    }

    F(step) s;
    s.n = n;
    s.scale = (REAL)scale, s.l2 = (REAL)l2, s.keep = (REAL)keep;
    s.lr = (REAL)(m->lazy_l2 ? lr / next_scale : lr);
    s.decay = (REAL)m->weight_decay, s.share = share;
    s.unbias_1 = s.unbias_2 = 1;
    if (!plain && (m->beta_2 > 0.0 || m->beta_1 > 0.0)) {
        s.unbias_1 = (REAL)(1.0 / (1.0 - power_1));
        s.unbias_2 = (REAL)(1.0 / (1.0 - power_2));
    }
    BITS flags = 0;
    int too_large = 0;
    for (int64_t k = 0; k < n_outputs; k++) {
        const int64_t at = k * m->stride;
        const REAL *param = (REAL *)m->param + at, *grad = (REAL *)m->grad + at;
        REAL *next = (REAL *)m->next_param + at;
        s.source = row ? row->value : grad + SF_PAD;
        s.factor = row ? (REAL)slope[k] : 1;
        s.w = param + SF_PAD;
        s.next_w = next + SF_PAD;
        for (int i = 0; i < n_slots; i++) {
            s.slot[i] = (REAL *)m->slot[i] + at + SF_PAD;
            s.next_slot[i] = (REAL *)m->next_slot[i] + at + SF_PAD;
        }
        if (column) {
            if (!row) s.source = F(gather)(m->gathered[SF_SLOTS], s.source, column, n);
            s.w = F(gather)(m->gathered[SF_L1], s.w, column, n);
            for (int i = 0; i < n_slots; i++)
                s.slot[i] = F(gather)(m->gathered[i], s.slot[i], column, n);
        }
        if (!plain && m->optimizer == SF_AUTO) {
            const REAL *c = (REAL *)m->curvature + at, *sum = (REAL *)m->slot[0] + at;
            REAL most = F(auto_sum)(sum + SF_PAD, (REAL)m->prior, c + SF_PAD, next + SF_PAD, n);
            if (m->fit_intercept && !m->plain_intercept)
                most += c[0] * F(auto_gain)((REAL)m->prior + sum[0]);
            s.curvature = c + SF_PAD, s.damping = 1 + most;
            s.samples = m->mean ? (REAL)total : 1;
        }
        flags |= plain ? F(step_sgd)(&s) : F(step_range)(m, &s);
        if (!plain && m->l1 > 0.0)
            flags |= F(penalize)((REAL)l1_total, (REAL *)m->slot[SF_L1] + at + SF_PAD,
                                 (REAL *)m->next_slot[SF_L1] + at + SF_PAD, next + SF_PAD, n);
        if (!plain && m->max_weight < INFINITY)
            too_large |= F(too_large)(next + SF_PAD, next_scale, m->max_weight, n);
        if (m->fit_intercept) {
            F(step) b = s;
            b.n = 1, b.source = grad, b.factor = 1, b.w = param, b.next_w = next;
            b.l2 = 0, b.keep = 1, b.decay = 0;
            b.curvature = (REAL *)m->curvature + at;
            b.lr = (REAL)(!plain && m->plain_intercept ? m->intercept_lr * share : lr);
            for (int i = 0; i < n_slots; i++) {
                b.slot[i] = (REAL *)m->slot[i] + at;
                b.next_slot[i] = (REAL *)m->next_slot[i] + at;
            }
            flags |= plain || m->plain_intercept ? F(step_sgd)(&b) : F(step_range)(m, &b);
        }
        /* The sum of the slopes has overflowed: refuse even if no parameter shows it, since
         * infinity times an absent feature would be NaN were its 0 written out. */
        flags |= F(nonfinite)(grad[0]);
    }
    if (!F(is_set)(flags) && !too_large) {
        if (column) {
            for (int64_t k = 0; k < n_outputs; k++) {
                REAL *to = (REAL *)m->param + k * m->stride;
                const REAL *from = (REAL *)m->next_param + k * m->stride;
                to[0] = from[0];
                F(scatter)(to + SF_PAD, from + SF_PAD, column, n);
                for (int i = 0; i < n_slots; i++) {
                    to = (REAL *)m->slot[i] + k * m->stride;
                    from = (REAL *)m->next_slot[i] + k * m->stride;
                    to[0] = from[0];
                    F(scatter)(to + SF_PAD, from + SF_PAD, column, n);
                }
            }
        } else {
            SWAP(m->param, m->next_param);
            for (int i = 0; i < n_slots; i++) SWAP(m->slot[i], m->next_slot[i]);
            if (!plain && m->l1 > 0.0) SWAP(m->slot[SF_L1], m->next_slot[SF_L1]);
        }
        m->beta_1_power = power_1;
        m->beta_2_power = power_2;
        m->l1_total = l1_total;
        m->weight_scale = next_scale;
        if (m->noise.now && m->n_pending > 1) F(measure_gradient)(m, n_outputs);
        m->n_updates++;
        sf_forget_pending(m);
        sf_next_batch_size(m);
        sf_begin_measuring(m);
    } else {
        m->n_refused++;
        sf_forget_pending(m);
    }
}

/* The predictors of one row; returns whether all are finite. */
SF_INLINE int F(predict)(const sf_linear *m, F(row) x, double *predictor, int64_t n_outputs) {
    int finite = 1;
    for (int64_t k = 0; k < n_outputs; k++) {
        const REAL *param = (REAL *)m->param + k * m->stride;
        predictor[k] = (REAL)m->weight_scale * F(dot)(x, param + SF_PAD) + param[0];
        finite &= sf_isfinite(predictor[k]);
    }
    return finite;
}

/* Count a sample: its slopes, `step` apart, become what its row is multiplied by, and go into the
 * intercepts' gradient. */
SF_INLINE void F(count)(sf_linear *m, double weight, double *slope, const int step,
                        int64_t n_outputs) {
    const int first = m->n_pending == 0;
    for (int64_t k = 0; k < n_outputs; k++) {
        REAL *grad = (REAL *)m->grad + k * m->stride;
        double c = weight > 0.0 ? weight * slope[k * step] : 0.0; /* not 0 times infinity */
        c = c > m->clip ? m->clip : c < -m->clip ? -m->clip : c;
        slope[k * step] = c;
        grad[0] = first ? (REAL)c : grad[0] + (REAL)c;
    }
    m->n_samples++;
    m->n_pending++;
    m->weight_pending = fmin(first ? weight : m->weight_pending + weight, DBL_MAX);
}

/* Is a class number or label one that the model has? */
SF_INLINE int F(knows_label)(const sf_linear *m, double y, const int classes, int64_t n_outputs) {
    return classes ? y >= 0.0 && y < (double)n_outputs : sf_label_is_valid(m->loss, y);
}

/* May rows be learned by `learn_four`? */
SF_INLINE int F(takes_four)(const sf_linear *m, const int plain) {
    return m->batch_size != 1 && (m->batch_size == 0 || m->batch_size - m->n_pending >= 4) &&
           (plain || (!m->standardize && m->optimizer != SF_AUTO));
}

/* Learn four dense rows of one micro-batch, reading weights and gradient once. Returns 0, with
 * nothing done, when anything is unusual: then rows are learned one by one. */
SF_INLINE int F(learn_four)(sf_linear *m, const REAL *x, int64_t n, const double *labels,
                            const double *sample_weight, double *predictors, int64_t stride,
                            const int plain) {
    const int classes = !plain && m->loss == SF_CROSS_ENTROPY;
    const int64_t n_outputs = plain ? 1 : m->n_outputs;
    /* those of row r and output k are at 4 * k + r */
    double single[8], loss[4];
    double *p = plain ? single : m->predictor, *slope = plain ? single + 4 : m->slope;
    for (int r = 0; r < 4; r++) {
        const double weight = sample_weight ? sample_weight[r] : 1.0;
        if (!sf_isfinite(weight) || weight < 0.0 ||
            !F(knows_label)(m, labels[r], classes, n_outputs))
            return 0;
    }
    uint64_t flags = 0;
    for (int64_t k = 0; k < n_outputs; k++) {
        const REAL *param = (REAL *)m->param + k * m->stride;
        REAL products[4];
        F(dots)(x, n, param + SF_PAD, 4, products);
        for (int r = 0; r < 4; r++) {
            p[4 * k + r] = (REAL)m->weight_scale * products[r] + param[0];
            flags |= sf_nonfinite(p[4 * k + r]);
        }
    }
    if (flags >> 63) return 0;
    const int first = m->n_pending == 0;
    if (classes) sf_cross_entropy(p, slope, labels, n_outputs, 4, m->track_loss ? loss : NULL);
    for (int r = 0; r < 4 && !classes; r++)
        slope[r] = sf_loss_gradient(m->loss, m->loss_option, p[r], labels[r]);
    for (int r = 0; r < 4; r++) {
        const double weight = sample_weight ? sample_weight[r] : 1.0;
        if (predictors)
            for (int64_t k = 0; k < n_outputs; k++) predictors[r * stride + k] = p[4 * k + r];
        if (m->track_loss && weight > 0.0) {
            const double value =
                classes ? loss[r] : sf_loss_value(m->loss, m->loss_option, p[r], labels[r]);
            m->loss_sum += weight * value;
            m->loss_weight += weight;
        }
        F(count)(m, weight, slope + r, 4, n_outputs);
        if (m->noise.now)
            F(measure)(m, (F(row)){x + r * n, NULL, n}, weight, slope + r, 4, n_outputs);
    }
    F(ask_for_four)(x + 4 * n, n);
    F(accumulate_four)(m, x, n, slope, n_outputs, first);
    return 1;
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
                           int64_t predictors_stride, int64_t n, const int sparse,
                           const int plain) {
    const int classes = !plain && m->loss == SF_CROSS_ENTROPY;
    const int64_t n_outputs = plain ? 1 : m->n_outputs;
    double single[2]; /* not through memory, where it can be helped */
    double *predictor = plain ? &single[0] : m->predictor, *slope = plain ? &single[1] : m->slope;
    for (int64_t i = 0; i < n; i++) {
        if (plain && !sparse && F(takes_each)(m, n_columns, sample_weight)) {
            i += F(learn_each)(m, value + i * n_columns, n_columns, labels + i,
                               predictors ? predictors + i * predictors_stride : NULL,
                               predictors_stride, n - i);
            if (i == n) break;
        }
        if (!sparse && n - i >= 4 && F(takes_four)(m, plain) &&
            F(learn_four)(m, value + i * n_columns, n_columns, labels + i,
                          sample_weight ? sample_weight + i : NULL,
                          predictors ? predictors + i * predictors_stride : NULL,
                          predictors_stride, plain)) {
            if (m->n_pending == m->batch_size) F(update)(m, NULL, slope, 1.0, plain);
            i += 3;
            continue;
        }
        F(row) x = {value + i * n_columns, NULL, n_columns};
        if (sparse) {
            x.value = value + start[i];
            x.column = column + start[i];
            x.n = start[i + 1] - start[i];
        }
        const double y = labels[i], weight = sample_weight ? sample_weight[i] : 1.0;
        if (!sf_isfinite(weight) || weight < 0.0) return i;
        if (!F(knows_label)(m, y, classes, n_outputs)) return i;
        if (!plain && m->standardize && !F(standardize)(m, &x, m->scaled, weight > 0.0)) return i;
        /* a NaN or infinity in the row always shows in a predictor, so rows are looked at only
         * then */
        if (!F(predict)(m, x, predictor, n_outputs) && !F(row_is_finite)(x)) return i;
        if (predictors)
            memcpy(predictors + i * predictors_stride, predictor, n_outputs * sizeof(double));
        double loss;
        if (classes) {
            sf_cross_entropy(predictor, slope, &y, n_outputs, 1, &loss);
        } else {
            slope[0] = sf_loss_gradient(m->loss, m->loss_option, predictor[0], y);
            loss = m->track_loss
                       ? sf_loss_value(m->loss, m->loss_option, predictor[0], y) : 0.0;
        }
        if (m->track_loss && weight > 0.0) {
            m->loss_sum += weight * loss;
            m->loss_weight += weight;
        }
        const int first = m->n_pending == 0;
        /* a whole micro-batch of one row may go straight to the update */
        const int direct =
            m->batch_size == 1 && (plain || m->optimizer != SF_AUTO) &&
            (sparse ? m->lazy_step : x.n == m->n_features);
        if (!plain && m->optimizer == SF_AUTO)
            F(accumulate_curvature)(m, x, y, weight, predictor, slope, first);
        F(count)(m, weight, slope, 1, n_outputs);
        if (m->noise.now && !direct) F(measure)(m, x, weight, slope, 1, n_outputs);
        if (!direct) {
            if (sparse) F(accumulate_sparse)(m, x, slope, first);
            else F(accumulate_dense)(m, x, slope, first);
        }
        if (m->n_pending == m->batch_size) F(update)(m, direct ? &x : NULL, slope, 1.0, plain);
    }
    return n;
}

/* ---- entry points -------------------------------------------------------------------------- */

SF_CLONES
static int64_t F(learn_dense)(sf_linear *m, const void *value, int64_t n_columns,
                              const double *labels, const double *sample_weight,
                              double *predictors, int64_t predictors_stride, int64_t n) {
    if (F(is_plain)(m))
        return F(learn)(m, value, NULL, NULL, n_columns, labels, sample_weight, predictors,
                        predictors_stride, n, 0, 1);
    return F(learn)(m, value, NULL, NULL, n_columns, labels, sample_weight, predictors,
                    predictors_stride, n, 0, 0);
}

SF_CLONES
static int64_t F(learn_sparse)(sf_linear *m, const void *value, const int32_t *column,
                               const int64_t *start, const double *labels,
                               const double *sample_weight, double *predictors,
                               int64_t predictors_stride, int64_t n) {
    if (F(is_plain)(m))
        return F(learn)(m, value, column, start, 0, labels, sample_weight, predictors,
                        predictors_stride, n, 1, 1);
    return F(learn)(m, value, column, start, 0, labels, sample_weight, predictors,
                    predictors_stride, n, 1, 0);
}

/* Apply the pending samples as an update whose learning rate is multiplied by `share`. */
SF_CLONES
static void F(flush)(sf_linear *m, double share) {
    if (m->n_pending) F(update)(m, NULL, m->slope, share, 0);
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
        F(predict)(m, x, predictors + i * m->n_outputs, m->n_outputs);
    }
}

#undef SWAP
