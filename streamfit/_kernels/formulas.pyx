"""The kernels' formulas one number at a time, and the names by which configurations know them."""

import numpy as np

# the name of a loss's one hyper-parameter, if it has one
LOSSES = {
    "squared": (SF_SQUARED, None),
    "half_squared": (SF_HALF_SQUARED, None),
    "absolute": (SF_ABSOLUTE, None),
    "huber": (SF_HUBER, "epsilon"),
    "epsilon_insensitive": (SF_EPSILON_INSENSITIVE, "epsilon"),
    "quantile": (SF_QUANTILE, "alpha"),
    "poisson": (SF_POISSON, None),
    "log": (SF_LOG, None),
    "hinge": (SF_HINGE, "threshold"),
    "squared_hinge": (SF_SQUARED_HINGE, "threshold"),
    "modified_huber": (SF_MODIFIED_HUBER, None),
    "cross_entropy": (SF_CROSS_ENTROPY, None),
}
# ... and how many slots an optimizer keeps
OPTIMIZERS = {
    "sgd": (SF_SGD, 1),  # none without momentum
    "adagrad": (SF_ADAGRAD, 1),
    "adadelta": (SF_ADADELTA, 2),
    "rmsprop": (SF_RMSPROP, 1),
    "adam": (SF_ADAM, 2),
    "adamw": (SF_ADAMW, 2),
    "amsgrad": (SF_AMSGRAD, 3),
    "ftrl_proximal": (SF_FTRL, 2),
    "auto": (SF_AUTO, 1),
}
# ... and the options of a schedule beside `lr`, in the kernel's order
SCHEDULES = {
    "constant": (SF_CONSTANT, ()),
    "inverse_scaling": (SF_INVERSE_SCALING, ("power",)),
    "optimal": (SF_OPTIMAL, ("alpha", "t0")),
    "exponential": (SF_EXPONENTIAL, ("decay", "every")),
    "step": (SF_STEP, ("decay", "every")),
    "cosine_warmup": (SF_COSINE_WARMUP, ("warmup", "total", "minimum")),
}


cdef double loss_option(dict loss) except? -1.0:
    name = LOSSES[loss["id"]][1]
    return 0.0 if name is None else loss[name]


cdef int set_schedule(sf_linear* m, dict schedule) except -1:
    kind, options = SCHEDULES[schedule["id"]]
    m.schedule = kind
    m.lr = schedule.get("lr", 0.0)
    for i, name in enumerate(options):
        m.schedule_option[i] = schedule[name]
    return 0


cdef double mean_of(int loss, double p) noexcept nogil:
    """The prediction that a linear predictor stands for; the same as `sf.losses` say."""
    if loss == SF_POISSON:
        return sf_exp(p)
    if loss == SF_LOG:
        return sf_sigmoid(p)
    if loss == SF_HINGE or loss == SF_SQUARED_HINGE:
        return 1.0 if p > 0.0 else 0.0
    if loss == SF_MODIFIED_HUBER:
        return ((1.0 if p > 1.0 else -1.0 if p < -1.0 else p) + 1.0) / 2.0
    return p


def loss_value(dict loss, double p, double y):
    """Loss of the linear predictor `p` against the label `y`."""
    return sf_loss_value(LOSSES[loss["id"]][0], loss_option(loss), p, y)


def loss_gradient(dict loss, double p, double y):
    """Derivative of the loss by the linear predictor `p`."""
    return sf_loss_gradient(LOSSES[loss["id"]][0], loss_option(loss), p, y)


def loss_mean(dict loss, double p):
    """Prediction that the linear predictor `p` stands for."""
    return mean_of(LOSSES[loss["id"]][0], p)


def loss_means(dict loss, const double[::1] p):
    """`loss_mean` of each element, with the same bits."""
    cdef int kind = LOSSES[loss["id"]][0]
    cdef double[::1] out = np.empty(p.shape[0])
    for i in range(p.shape[0]):
        out[i] = mean_of(kind, p[i])
    return np.asarray(out)


def softmax(const double[:, ::1] z):
    """Probabilities of each row's predictors; -inf stands for a class not yet known."""
    out = np.empty((z.shape[0], z.shape[1]))
    cdef double[:, ::1] p = out
    cdef double most, total
    cdef Py_ssize_t i, k
    if z.shape[1] == 0:
        return out
    for i in range(z.shape[0]):
        most = z[i, 0]
        for k in range(1, z.shape[1]):
            if z[i, k] > most:
                most = z[i, k]
        total = 0.0
        for k in range(z.shape[1]):
            p[i, k] = sf_exp(z[i, k] - most)
            total += p[i, k]
        for k in range(z.shape[1]):
            p[i, k] /= total
    return out


def learning_rate(dict schedule, int64_t n_updates):
    """Learning rate of the update after `n_updates` updates."""
    cdef sf_linear m
    m.n_updates = n_updates
    m.schedule_start = 0
    set_schedule(&m, schedule)
    return sf_learning_rate(&m)


def exp(double x):
    """The kernels' own exponential."""
    return sf_exp(x)


def sigmoid(double z):
    """Logistic function of one number."""
    return sf_sigmoid(z)
