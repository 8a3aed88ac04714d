/* Rows of numbers, dense or sparse. Included by kernels.h once for each REAL. */

/* `column` is NULL for a dense row; those of a sparse row rise. */
typedef struct {
    const REAL *value;
    const int32_t *column;
    int64_t n;
} F(row);

/* The highest bit is set exactly when x is NaN or infinite; flags of many combine by |. */
SF_INLINE BITS F(nonfinite)(REAL x) {
    BITS u;
    memcpy(&u, &x, sizeof u);
    return (u & EXPONENT) + ONE_MORE;
}

SF_INLINE int F(is_set)(BITS flags) { return (int)(flags >> (8 * sizeof flags - 1)); }

/* Eight lanes are one vector of 32 bytes or two; GCC makes of one what the processor has. */
typedef REAL F(vector) __attribute__((vector_size(32)));
#define WIDTH ((int)(32 / sizeof(REAL)))
#define PARTS (SF_LANES / WIDTH)
/* written out, as the lanes that are left over at a row's end are: so they stay in registers */
#define LANE(lane, l) lane[l / WIDTH][l % WIDTH]
#define LANES(lane)                                                                  \
    {LANE(lane, 0), LANE(lane, 1), LANE(lane, 2), LANE(lane, 3), LANE(lane, 4),      \
     LANE(lane, 5), LANE(lane, 6), LANE(lane, 7)}
#define TREE(sum) \
    (((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7])))

/* Dot products of `w` with `rows` (a constant) dense rows that follow each other. */
SF_INLINE void F(dots)(const REAL *x, int64_t n, const REAL *w, const int rows, REAL *products) {
    F(vector) lane[4][PARTS] = {{{0}}}, a, b;
    int64_t j = 0;
    for (; j + SF_LANES <= n; j += SF_LANES)
        for (int part = 0; part < PARTS; part++) {
            memcpy(&b, w + j + part * WIDTH, sizeof b);
            for (int r = 0; r < rows; r++) {
                memcpy(&a, x + r * n + j + part * WIDTH, sizeof a);
                lane[r][part] += a * b;
            }
        }
    const int64_t left = n - j;
    for (int r = 0; r < rows; r++) {
        const REAL *rest = x + r * n + j, *v = w + j;
        REAL sum[SF_LANES] = LANES(lane[r]);
#define REST(l) if (left > l) sum[l] += rest[l] * v[l]
        REST(0); REST(1); REST(2); REST(3); REST(4); REST(5); REST(6);
#undef REST
        products[r] = TREE(sum);
    }
}

/* A plain step from the weights `w` along the row `x`, and the product of the weights that come out
 * with the row after it. */
SF_INLINE void F(step_and_dot)(const REAL *x, const REAL *after, int64_t n, const REAL *w, REAL c,
                               REAL lr, REAL *next, REAL *product) {
    F(vector) lane[PARTS] = {{0}}, a, b, v;
    int64_t j = 0;
    for (; j + SF_LANES <= n; j += SF_LANES)
        for (int part = 0; part < PARTS; part++) {
            memcpy(&a, x + j + part * WIDTH, sizeof a);
            memcpy(&b, after + j + part * WIDTH, sizeof b);
            if (!part) sf_prefetch(after + n + j); /* memory is slower than the arithmetic */
            memcpy(&v, w + j + part * WIDTH, sizeof v);
            v -= lr * (a * c);
            memcpy(next + j + part * WIDTH, &v, sizeof v);
            lane[part] += b * v;
        }
    const int64_t left = n - j;
    REAL sum[SF_LANES] = LANES(lane);
#define REST(l)                                       \
    if (left > l) {                                   \
        next[j + l] = w[j + l] - lr * (x[j + l] * c); \
        sum[l] += after[j + l] * next[j + l];         \
    }
    REST(0) REST(1) REST(2) REST(3) REST(4) REST(5) REST(6)
#undef REST
    *product = TREE(sum);
}

SF_INLINE REAL F(dot)(F(row) x, const REAL *w) {
    REAL sum[SF_LANES] = {0};
    if (!x.column) {
        F(dots)(x.value, x.n, w, 1, sum);
        return sum[0];
    }
    for (int64_t i = 0; i < x.n; i++)
        sum[x.column[i] % SF_LANES] += x.value[i] * w[x.column[i]];
    return TREE(sum);
}

/* Squared norm of a row, in the order of the dot product. */
SF_INLINE REAL F(squared_norm)(F(row) x) {
    REAL sum[SF_LANES] = {0};
    if (!x.column) return F(dot)(x, x.value);
    for (int64_t i = 0; i < x.n; i++) sum[x.column[i] % SF_LANES] += x.value[i] * x.value[i];
    return TREE(sum);
}

#undef WIDTH
#undef LANE
#undef LANES
#undef PARTS
#undef TREE

SF_INLINE int F(row_is_finite)(F(row) x) {
    BITS flags = 0;
    for (int64_t j = 0; j < x.n; j++) flags |= F(nonfinite)(x.value[j]);
    return !F(is_set)(flags);
}

/* Write down the zeros of a gradient that is known at the touched columns only. */
SF_INLINE void F(densify)(sf_linear *m) {
    for (int64_t k = 0; k < m->n_outputs; k++) {
        REAL *grad = (REAL *)m->grad + k * m->stride + SF_PAD;
        for (int64_t j = 0; j < m->n_features; j++)
            if (!m->mark[j]) grad[j] = 0;
    }
    for (int64_t i = 0; i < m->n_touched; i++) m->mark[m->touched[i]] = 0;
    m->n_touched = 0;
    m->sparse_pending = 0;
}

/* Add slope[k] * x to the gradient of each output k; `first`: there is none yet. */
SF_INLINE void F(accumulate_dense)(sf_linear *m, F(row) x, const double *slope, int first) {
    if (m->sparse_pending) F(densify)(m);
    for (int64_t k = 0; k < m->n_outputs; k++) {
        REAL *restrict grad = (REAL *)m->grad + k * m->stride + SF_PAD;
        const REAL c = (REAL)slope[k], *restrict value = x.value;
        if (first) {
            for (int64_t j = 0; j < x.n; j++) grad[j] = c * value[j];
            for (int64_t j = x.n; j < m->n_features; j++) grad[j] = 0;
        } else {
            for (int64_t j = 0; j < x.n; j++) grad[j] += c * value[j];
        }
    }
}

/* Ask memory for four rows in the order in which they lie. Short rows that are read side by side look
 * to the processor like no stream that it would fetch ahead; long ones do. */
SF_INLINE void F(ask_for_four)(const REAL *x, int64_t n) {
    if (n * sizeof(REAL) <= 2048)
        for (int64_t j = 0; j < 4 * n; j += 64 / sizeof(REAL)) sf_prefetch(x + j);
}

/* The same for four rows that follow each other, row by row in one pass: slope[4 * k + r] is that of
 * row r. */
SF_INLINE void F(accumulate_four)(sf_linear *m, const REAL *restrict x, int64_t n,
                                  const double *slope, int64_t n_outputs, int first) {
    if (m->sparse_pending) F(densify)(m);
    const REAL *restrict x1 = x + n, *restrict x2 = x + 2 * n, *restrict x3 = x + 3 * n;
    for (int64_t k = 0; k < n_outputs; k++, slope += 4) {
        REAL *restrict grad = (REAL *)m->grad + k * m->stride + SF_PAD;
        const REAL a = (REAL)slope[0], b = (REAL)slope[1], c = (REAL)slope[2], d = (REAL)slope[3];
        if (first) {
            for (int64_t j = 0; j < n; j++)
                grad[j] = ((a * x[j] + b * x1[j]) + c * x2[j]) + d * x3[j];
            for (int64_t j = n; j < m->n_features; j++) grad[j] = 0;
        } else {
            for (int64_t j = 0; j < n; j++)
                grad[j] = (((grad[j] + a * x[j]) + b * x1[j]) + c * x2[j]) + d * x3[j];
        }
    }
}

SF_INLINE void F(accumulate_sparse)(sf_linear *m, F(row) x, const double *slope, int first) {
    if (first && m->lazy_step) {
        m->sparse_pending = 1;
    } else if (first) { /* every weight takes part in the step anyway */
        for (int64_t k = 0; k < m->n_outputs; k++)
            memset((REAL *)m->grad + k * m->stride + SF_PAD, 0, m->n_features * sizeof(REAL));
    }
    if (m->sparse_pending)
        for (int64_t i = 0; i < x.n; i++) {
            const int32_t j = x.column[i];
            if (m->mark[j]) continue;
            m->mark[j] = 1;
            m->touched[m->n_touched++] = j;
            for (int64_t k = 0; k < m->n_outputs; k++)
                ((REAL *)m->grad)[k * m->stride + SF_PAD + j] = 0;
        }
    for (int64_t k = 0; k < m->n_outputs; k++) {
        REAL *grad = (REAL *)m->grad + k * m->stride + SF_PAD;
        const REAL c = (REAL)slope[k];
        for (int64_t i = 0; i < x.n; i++) grad[x.column[i]] += c * x.value[i];
    }
}

/* Add the curvature of one sample's loss by each weight, curvature * x^2, for Auto. `slope`: by
 * each output, before it is weighted. */
SF_INLINE void F(accumulate_curvature)(sf_linear *m, F(row) x, double y, double weight,
                                       const double *predictor, const double *slope, int first) {
    for (int64_t k = 0; k < m->n_outputs; k++) {
        REAL *restrict sum = (REAL *)m->curvature + k * m->stride;
        double h;
        if (m->loss == SF_CROSS_ENTROPY) {
            const double p = slope[k] + (k == (int64_t)y);
            h = p * (1.0 - p);
        } else {
            h = sf_loss_curvature(m->loss, m->loss_option, predictor[0], y);
        }
        const REAL c = weight > 0.0 ? (REAL)(weight * h) : 0;
        if (first) memset(sum, 0, (SF_PAD + m->n_features) * sizeof(REAL));
        sum[0] += c;
        sum += SF_PAD;
        if (x.column)
            for (int64_t i = 0; i < x.n; i++) sum[x.column[i]] += c * (x.value[i] * x.value[i]);
        else
            for (int64_t j = 0; j < x.n; j++) sum[j] += c * (x.value[j] * x.value[j]);
    }
}

/* The running scaler (Welford 1962): statistics take in the row when `learn`, then the row is
 * scaled by them. Returns 0, with nothing changed, when a statistic overflows. */
SF_INLINE int F(standardize)(sf_linear *m, F(row) *x, void *into, int learn) {
    const int64_t n = m->n_features, given = x->n < n ? x->n : n;
    const double *restrict mean = m->mean_of + SF_PAD, *restrict variance = m->variance_of + SF_PAD;
    REAL *restrict scaled = into;
    const int bounded = m->bound < INFINITY;
    const REAL *restrict value = x->value;
    if (learn) {
        double *restrict next_mean = m->next_mean_of + SF_PAD;
        double *restrict next_variance = m->next_variance_of + SF_PAD;
        const double count = (double)(m->n_scaled + 1);
        uint64_t flags = 0;
        for (int64_t j = 0; j < n; j++) {
            const double v = j < given ? (double)value[j] : 0.0, delta = v - mean[j];
            next_mean[j] = mean[j] + delta / count;
            const double rest = v - next_mean[j];
            next_variance[j] = variance[j] + (delta * rest - variance[j]) / count;
            const double z = next_variance[j] > 0.0 ? rest / sqrt(next_variance[j]) : 0.0;
            scaled[j] = (REAL)(bounded ? sf_squash(z, m->bound) : z);
            flags |= sf_nonfinite(next_mean[j]) | sf_nonfinite(next_variance[j]);
        }
        if (flags >> 63) return 0;
        double *swap = m->mean_of;
        m->mean_of = m->next_mean_of, m->next_mean_of = swap;
        swap = m->variance_of;
        m->variance_of = m->next_variance_of, m->next_variance_of = swap;
        m->n_scaled++;
    } else {
        for (int64_t j = 0; j < n; j++) {
            const double v = j < given ? (double)value[j] : 0.0;
            /* v * 0, so that a NaN or infinity shows */
            const double z = variance[j] > 0.0 ? (v - mean[j]) / sqrt(variance[j]) : v * 0.0;
            scaled[j] = (REAL)(bounded ? sf_squash(z, m->bound) : z);
        }
    }
    x->value = scaled;
    x->n = n;
    return 1;
}
