"""Memory and calling conventions of the linear kernels; `kernels.h` does the arithmetic.

`LinearKernel` owns the parameters of one linear model. Its methods stop at the first bad sample:
what came before is learned, the bad one has left no trace. Callers that promise more (a whole
call or nothing) take a `snapshot` first.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import warnings

import numpy as np

from streamfit.errors import BadSampleError, BusyError, SourceError, UpdateRefusedWarning

from streamfit._kernels.features cimport FeatureIndex, label, sample_weight

cdef extern from "kernels.h" nogil:
    enum: SF_PAD, SF_SLOTS, SF_L1
    enum:
        SF_SQUARED, SF_HALF_SQUARED, SF_ABSOLUTE, SF_HUBER, SF_EPSILON_INSENSITIVE, SF_QUANTILE
        SF_POISSON, SF_LOG, SF_HINGE, SF_SQUARED_HINGE, SF_MODIFIED_HUBER
    enum: SF_SGD, SF_ADAGRAD, SF_ADADELTA, SF_RMSPROP, SF_ADAM, SF_ADAMW, SF_AMSGRAD, SF_FTRL
    enum:
        SF_CONSTANT, SF_INVERSE_SCALING, SF_OPTIMAL, SF_EXPONENTIAL, SF_STEP, SF_COSINE_WARMUP
    enum: SF_FIXED_BATCH, SF_GEOMETRIC_BATCH, SF_MILESTONE_BATCH
    ctypedef struct sf_linear:
        int loss, optimizer, mean, fit_intercept, plain_intercept, nesterov
        double loss_option, momentum, rho, beta_1, beta_2, eps, weight_decay
        double ftrl_beta, ftrl_l1, ftrl_l2, l2, l1, clip, intercept_lr
        int schedule
        double lr
        double schedule_option[3]
        int batch_schedule
        double batch_growth
        int64_t batch_every, batch_maximum, n_milestones
        const int64_t* milestone
        int64_t batch_size, n_features, n_samples, n_updates, n_pending, n_refused
        double weight_pending, beta_1_power, beta_2_power, l1_total
        double* param
        double* next_param
        double* grad
        double* slot[4]
        double* next_slot[4]
        int track_loss
        double loss_sum, loss_weight
    int64_t sf_learn_rows(sf_linear*, const double*, int64_t, const double*, const double*,
                          double*, int64_t)
    void sf_flush(sf_linear*, double)
    void sf_predict_rows(const sf_linear*, const double*, int64_t, int64_t, double*)
    double sf_loss_value(int, double, double, double)
    double sf_loss_gradient(int, double, double, double)
    double sf_learning_rate(const sf_linear*)
    double sf_exp(double)
    double sf_sigmoid(double)

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


def loss_value(dict loss, double p, double y):
    """Loss of the linear predictor `p` against the label `y`."""
    return sf_loss_value(LOSSES[loss["id"]][0], loss_option(loss), p, y)


def loss_gradient(dict loss, double p, double y):
    """Derivative of the loss by the linear predictor `p`."""
    return sf_loss_gradient(LOSSES[loss["id"]][0], loss_option(loss), p, y)


def learning_rate(dict schedule, int64_t n_updates):
    """Learning rate of the update after `n_updates` updates."""
    cdef sf_linear m
    m.n_updates = n_updates
    set_schedule(&m, schedule)
    return sf_learning_rate(&m)


cdef int set_schedule(sf_linear* m, dict schedule) except -1:
    kind, options = SCHEDULES[schedule["id"]]
    m.schedule = kind
    m.lr = schedule.get("lr", 0.0)
    for i, name in enumerate(options):
        m.schedule_option[i] = schedule[name]
    return 0


def sigmoid(const double[::1] z):
    """Logistic function of each element."""
    cdef double[::1] out = np.empty(z.shape[0])
    for i in range(z.shape[0]):
        out[i] = sf_sigmoid(z[i])
    return np.asarray(out)


def sigmoid_one(double z):
    """Logistic function of one number; the same bits as `sigmoid`."""
    return sf_sigmoid(z)


def exp(double x):
    """The kernels' own exponential, for the tests."""
    return sf_exp(x)


_SLOT_NAMES = ("slot_1", "slot_2", "slot_3", "slot_l1")


cdef class LinearKernel:
    """Parameters, optimizer state and pending gradient of one linear model."""

    cdef sf_linear m
    cdef Py_ssize_t capacity      # columns that the arrays have room for
    cdef double* row              # one dense sample
    cdef readonly FeatureIndex index
    cdef bint busy                # the arrays may not be moved now
    cdef bint[4] uses_slot
    cdef object _milestones       # keeps the memory behind m.milestone

    def __cinit__(
        self,
        FeatureIndex index,
        *,
        dict loss,
        dict optimizer,
        dict schedule,
        batch_size,
        bint mean,
        double l2,
        double l1,
        bint fit_intercept,
        intercept_lr,
        clip_gradient,
    ):
        cdef sf_linear* m = &self.m
        self.index = index
        m.loss = LOSSES[loss["id"]][0]
        m.loss_option = loss_option(loss)
        m.optimizer, n_slots = OPTIMIZERS[optimizer["id"]]
        m.momentum = optimizer.get("momentum", 0.0)
        m.nesterov = optimizer.get("nesterov", False)
        m.rho = optimizer.get("rho", 0.0)
        m.beta_1 = optimizer.get("beta_1", 0.0)
        m.beta_2 = optimizer.get("beta_2", 0.0)
        m.eps = optimizer.get("eps", 0.0)
        m.weight_decay = optimizer.get("weight_decay", 0.0)
        m.ftrl_beta = optimizer.get("beta", 0.0)
        m.ftrl_l1 = optimizer.get("l1", 0.0)
        m.ftrl_l2 = optimizer.get("l2", 0.0)
        set_schedule(m, schedule)
        m.mean = mean
        m.l2 = l2
        m.l1 = l1
        m.fit_intercept = fit_intercept
        m.plain_intercept = intercept_lr is not None
        m.intercept_lr = 0.0 if intercept_lr is None else intercept_lr
        m.clip = float("inf") if clip_gradient is None else clip_gradient
        self._set_batch_size(batch_size)
        m.beta_1_power = m.beta_2_power = 1.0
        for i in range(3):
            self.uses_slot[i] = i < n_slots and (m.optimizer != SF_SGD or m.momentum != 0.0)
        self.uses_slot[SF_L1] = l1 > 0.0
        self._reserve(max(8, len(index)))
        m.n_features = len(index)

    cdef int _set_batch_size(self, batch_size) except -1:
        """Take a size, None (full batch), or the configuration of a schedule."""
        cdef sf_linear* m = &self.m
        cdef const int64_t[::1] milestones
        if not isinstance(batch_size, dict):
            m.batch_schedule = SF_FIXED_BATCH
            m.batch_size = 0 if batch_size is None else batch_size
        elif batch_size["id"] == "geometric":
            m.batch_schedule = SF_GEOMETRIC_BATCH
            m.batch_size = batch_size["initial"]
            m.batch_growth = batch_size["factor"]
            m.batch_every = batch_size["every"]
            m.batch_maximum = batch_size["maximum"]
        else:
            m.batch_schedule = SF_MILESTONE_BATCH
            m.batch_size = batch_size["initial"]
            m.n_milestones = len(batch_size["milestones"])
            self._milestones = np.array(batch_size["milestones"], dtype=np.int64).ravel()
            if m.n_milestones:
                milestones = self._milestones
                m.milestone = &milestones[0]
        return 0

    def __dealloc__(self):
        for i in range(4 + 2 * SF_SLOTS):
            free(self._array(i)[0])

    # ---- memory

    cdef double** _array(self, int i) noexcept:
        """Address of the i-th array: the row, the parameters, the gradient, then the slots."""
        if i == 0: return &self.row
        if i == 1: return &self.m.param
        if i == 2: return &self.m.next_param
        if i == 3: return &self.m.grad
        if i < 4 + SF_SLOTS: return &self.m.slot[i - 4]
        return &self.m.next_slot[i - 4 - SF_SLOTS]

    cdef bint _in_use(self, int i) noexcept:
        return i < 4 or self.uses_slot[(i - 4) % SF_SLOTS]

    cdef int _reserve(self, Py_ssize_t columns) except -1:
        """Make room for `columns` columns; what is there stays, what is new is zero."""
        cdef double** array
        cdef double* grown
        cdef int i
        cdef Py_ssize_t capacity
        if columns <= self.capacity:
            return 0
        capacity = max(columns, self.capacity + self.capacity // 2)
        for i in range(4 + 2 * SF_SLOTS):
            if not self._in_use(i):
                continue
            array = self._array(i)
            grown = <double*>calloc(SF_PAD + capacity, sizeof(double))
            if grown == NULL:
                raise MemoryError(f"no memory for {capacity} features")
            if array[0] != NULL:
                memcpy(grown, array[0], (SF_PAD + self.capacity) * sizeof(double))
                free(array[0])
            array[0] = grown
        self.capacity = capacity
        return 0

    cdef int _grow(self, Py_ssize_t columns) except -1:
        """Begin to use the columns up to `columns`; their numbers are all zero."""
        cdef Py_ssize_t old = self.m.n_features
        self._reserve(columns)
        if columns > old:
            # the gradient array is never cleared, and the columns may have been used and
            # taken back; parameters and slots of unused columns are zero at all times
            memset(self.m.grad + SF_PAD + old, 0, (columns - old) * sizeof(double))
            self.m.n_features = columns
        return 0

    cdef int _enter(self) except -1:
        """Begin to change the model; ends with `self.busy = False`.

        A table is learned without the GIL: no other thread may move the arrays meanwhile.
        """
        if self.busy:
            raise BusyError(
                "the model is learning already in another thread; give each thread its own model, "
                "or a lock"
            )
        return 0

    # ---- learning

    cdef Py_ssize_t _fill(self, object x, bint grow) except -2:
        """Put a sample into `row`; return how many columns it has."""
        cdef Py_ssize_t columns
        if type(x) is dict:
            if grow:
                self._enter()
                self._reserve(self.m.n_features + len(<dict>x))
            columns = self.index.fill_dict(<dict>x, self.row, self.m.n_features, grow)
            if columns >= 0:
                return columns
            if grow:
                self.index.truncate(self.m.n_features)
        x = self.index.read(x)  # may run any code; from here on none runs but ours
        if grow:
            self._enter()
            self._reserve(self.m.n_features + len(x))
        if type(x) is dict:
            return self.index.fill_dict(<dict>x, self.row, self.m.n_features, grow)
        return self.index.fill_array(x, self.row, self.m.n_features, grow)

    def learn_mapping(self, x, y, w=1.0):
        """Learn one sample, a mapping or a 1-D array; return its linear predictor.

        Raises
        ------
        BadSampleError
            When the sample is refused; nothing has changed then.
        """
        cdef double label_ = label(y), weight = sample_weight(w), prediction = 0.0
        cdef Py_ssize_t known, columns
        cdef bint learned = False
        cdef int64_t refused = self.m.n_refused
        try:
            columns = self._fill(x, True)
            known = self.m.n_features
            self._grow(columns)
            learned = sf_learn_rows(
                &self.m, self.row, columns, &label_, &weight, &prediction, 1
            )
            if not learned:
                self.m.n_features = known
                raise self._explain(columns, label_, weight)
        finally:
            if not learned and not self.busy:
                self.index.truncate(self.m.n_features)
        if self.m.n_refused > refused:
            self._warn()
        return prediction

    def learn_mappings(self, xs, ys, ws, Py_ssize_t start, Py_ssize_t stop, predictions=None):
        """Learn samples `start` to `stop` of three sequences (`ws` may be None)."""
        cdef Py_ssize_t i
        cdef double[::1] out = predictions
        if (len(xs) < stop or len(ys) < stop or (ws is not None and len(ws) < stop)
                or (out is not None and out.shape[0] < stop)):
            raise SourceError("a block has fewer rows, labels or weights than samples")
        for i in range(start, stop):
            p = self.learn_mapping(xs[i], ys[i], 1.0 if ws is None else ws[i])
            if out is not None:
                out[i] = p

    def learn_matrix(
        self,
        const double[:, ::1] X,
        const double[::1] y,
        const double[::1] w,
        Py_ssize_t start,
        Py_ssize_t stop,
        double[::1] predictions=None,
    ):
        """Learn rows `start` to `stop` of a matrix whose columns are the model's first columns.

        `w` and `predictions` may be None. Holds no GIL while it runs.
        """
        cdef int64_t learned, columns = X.shape[1], refused = self.m.n_refused
        if start >= stop:
            return
        if (y.shape[0] < stop or X.shape[0] < stop or (w is not None and w.shape[0] < stop)
                or (predictions is not None and predictions.shape[0] < stop)):
            raise SourceError("a block has fewer rows, labels or weights than samples")
        cdef const double* rows
        cdef const double* labels = &y[start]
        cdef const double* weights = NULL if w is None else &w[start]
        cdef double* out = NULL if predictions is None else &predictions[start]
        self._enter()
        self.busy = True
        try:
            self._grow(columns)
            rows = &X[start, 0] if columns else <const double*>self.row
            with nogil:
                learned = sf_learn_rows(&self.m, rows, columns, labels, weights, out, stop - start)
        finally:
            self.busy = False
        if self.m.n_refused > refused:
            self._warn()
        if learned < stop - start:
            for j in range(columns):
                self.row[j] = rows[learned * columns + j]
            raise self._explain(columns, labels[learned], 1.0 if w is None else weights[learned])

    cdef int _warn(self) except -1:
        warnings.warn(
            "an update that would have made a weight infinite or NaN was refused and its "
            "micro-batch dropped (n_refused counts them); lower the learning rate or scale the "
            "features",
            UpdateRefusedWarning,
            stacklevel=2,
        )
        return 0

    cdef object _explain(self, Py_ssize_t columns, double y, double w):
        """The error for the sample in `row`, which the kernel refused."""
        for j in range(columns):
            if self.row[j] - self.row[j] != 0.0:
                return BadSampleError(
                    f"value {self.row[j]} is not finite", feature=self.index._names[j]
                )
        if y - y != 0.0:
            return BadSampleError(f"label {y} is not finite")
        if self.m.loss == SF_POISSON and y < 0.0:
            return BadSampleError(f"label {y} is negative, which the Poisson loss does not allow")
        if self.m.loss >= SF_LOG and y != 0.0 and y != 1.0:
            return BadSampleError(f"label {y} is not False or True (0 or 1)")
        return BadSampleError(f"sample weight {w} is not a finite number >= 0")

    def flush(self, double share=1.0):
        """Apply the pending samples, the learning rate multiplied by `share`."""
        cdef int64_t refused = self.m.n_refused
        self._enter()
        sf_flush(&self.m, share)
        if self.m.n_refused > refused:
            self._warn()

    def discard(self):
        """Forget the pending samples; they stay counted as samples."""
        self._enter()
        self.m.n_pending = 0
        self.m.weight_pending = 0.0

    # ---- predicting: never changes anything that is saved

    def predict_mapping(self, x):
        """Linear predictor of one sample; features without a column count nothing."""
        cdef double prediction
        cdef Py_ssize_t columns = self._fill(x, False), j
        sf_predict_rows(&self.m, self.row, columns, 1, &prediction)
        if prediction - prediction != 0.0:
            for j in range(columns):
                if self.row[j] - self.row[j] != 0.0:
                    raise BadSampleError(
                        f"value {self.row[j]} is not finite", feature=self.index._names[j]
                    )
        return prediction

    def predict_matrix(self, const double[:, ::1] X):
        """Linear predictors of the rows of `X`, whose columns are the model's first columns."""
        cdef double[::1] out = np.empty(X.shape[0])
        cdef int64_t n = X.shape[0], columns = X.shape[1]
        cdef const double* rows = self.row
        if columns and n:
            rows = &X[0, 0]
        if n:  # with the GIL: nobody may move the arrays meanwhile
            sf_predict_rows(&self.m, rows, columns, n, &out[0])
        return np.asarray(out)

    # ---- state

    @property
    def n_features(self): return self.m.n_features
    @property
    def n_samples(self): return self.m.n_samples
    @property
    def n_updates(self): return self.m.n_updates
    @property
    def n_pending(self): return self.m.n_pending
    @property
    def n_refused(self): return self.m.n_refused
    @property
    def batch_size(self): return self.m.batch_size
    @property
    def learning_rate(self): return sf_learning_rate(&self.m)
    @property
    def intercept(self): return self.m.param[0]

    @property
    def track_loss(self): return bool(self.m.track_loss)
    @track_loss.setter
    def track_loss(self, bint value): self.m.track_loss = value
    @property
    def loss_sum(self): return self.m.loss_sum
    @loss_sum.setter
    def loss_sum(self, double value): self.m.loss_sum = value
    @property
    def loss_weight(self): return self.m.loss_weight
    @loss_weight.setter
    def loss_weight(self, double value): self.m.loss_weight = value

    cdef object _copy_out(self, const double* array):
        """Intercept slot and used columns of `array`, shape (1 + n_features,)."""
        cdef double[::1] out = np.empty(1 + self.m.n_features)
        out[0] = array[0]
        if self.m.n_features:
            memcpy(&out[1], array + SF_PAD, self.m.n_features * sizeof(double))
        return np.asarray(out)

    cdef int _copy_in(self, double* array, const double[::1] values) except -1:
        array[0] = values[0]
        if values.shape[0] > 1:
            memcpy(array + SF_PAD, &values[1], (values.shape[0] - 1) * sizeof(double))
        return 0

    def state(self):
        """Everything that future updates depend on: arrays (float64) and plain numbers.

        The arrays have shape (1 + n_features,), the intercept first. `gradient` is there only
        while samples are pending.
        """
        state = {
            "n_samples": self.m.n_samples,
            "n_updates": self.m.n_updates,
            "n_pending": self.m.n_pending,
            "n_refused": self.m.n_refused,
            "weight_pending": self.m.weight_pending,
            "beta_1_power": self.m.beta_1_power,
            "beta_2_power": self.m.beta_2_power,
            "l1_total": self.m.l1_total,
            "batch_size": self.m.batch_size,
            "parameters": self._copy_out(self.m.param),
        }
        for i, name in enumerate(_SLOT_NAMES):
            if self.uses_slot[i]:
                state[name] = self._copy_out(self.m.slot[i])
        if self.m.n_pending:
            state["gradient"] = self._copy_out(self.m.grad)
        return state

    def load(self, dict state, FeatureIndex index):
        """Take over a state made by `state`; the caller has checked names and shapes."""
        cdef Py_ssize_t n = len(state["parameters"]) - 1, i
        cdef double** array
        self._enter()
        self._reserve(n)
        self.index = index
        for i in range(4 + 2 * SF_SLOTS):
            array = self._array(i)
            if self._in_use(i):
                memset(array[0], 0, (SF_PAD + self.capacity) * sizeof(double))
        self.m.n_features = n
        self._copy_in(self.m.param, state["parameters"])
        for i, name in enumerate(_SLOT_NAMES):
            if self.uses_slot[i]:
                self._copy_in(self.m.slot[i], state[name])
        if state["n_pending"]:
            self._copy_in(self.m.grad, state["gradient"])
        self.m.n_samples = state["n_samples"]
        self.m.n_updates = state["n_updates"]
        self.m.n_pending = state["n_pending"]
        self.m.n_refused = state["n_refused"]
        self.m.weight_pending = state["weight_pending"]
        self.m.beta_1_power = state["beta_1_power"]
        self.m.beta_2_power = state["beta_2_power"]
        self.m.l1_total = state["l1_total"]
        self.m.batch_size = state["batch_size"]

    def forget_features(self, Py_ssize_t n):
        """Take back the columns from `n` on: no sample that has them was learned."""
        self._enter()
        self.index.truncate(n)
        self.m.n_features = n

    def snapshot(self):
        """What `restore` needs to undo calls that come after."""
        return self.state(), self.m.loss_sum, self.m.loss_weight

    def restore(self, snapshot):
        """Undo everything since `snapshot`, new features included."""
        state, self.m.loss_sum, self.m.loss_weight = snapshot
        self.load(state, self.index)
        self.index.truncate(self.m.n_features)
