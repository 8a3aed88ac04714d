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

from streamfit.errors import BadSampleError, BusyError, UpdateRefusedWarning

from streamfit._kernels.features cimport FeatureIndex, label, sample_weight

cdef extern from "kernels.h" nogil:
    enum: SF_PAD
    enum: SF_SGD, SF_ADAGRAD, SF_ADAM
    enum: SF_SQUARED, SF_HALF_SQUARED, SF_LOG
    ctypedef struct sf_linear:
        int loss, optimizer, mean, fit_intercept, plain_intercept, nesterov
        double lr, momentum, beta_1, beta_2, eps, l2, clip, intercept_lr
        int64_t batch_size
        int64_t n_features, n_samples, n_updates, n_pending, n_refused
        double weight_pending, beta_1_power, beta_2_power
        double *param
        double *slot_1
        double *slot_2
        double *next_param
        double *next_slot_1
        double *next_slot_2
        double *grad
        int track_loss
        double loss_sum, loss_weight
    int64_t sf_learn_rows(sf_linear*, const double*, int64_t, const double*, const double*,
                          double*, int64_t)
    void sf_flush(sf_linear*, double)
    void sf_predict_rows(const sf_linear*, const double*, int64_t, int64_t, double*)
    double sf_loss_value(int, double, double)
    double sf_loss_gradient(int, double, double)
    double sf_exp(double)
    double sf_sigmoid(double)

LOSSES = {"squared": SF_SQUARED, "half_squared": SF_HALF_SQUARED, "log": SF_LOG}
OPTIMIZERS = {"sgd": SF_SGD, "adagrad": SF_ADAGRAD, "adam": SF_ADAM}


def loss_value(str loss, double p, double y):
    """Loss of the linear predictor `p` against the label `y`."""
    return sf_loss_value(LOSSES[loss], p, y)


def loss_gradient(str loss, double p, double y):
    """Derivative of the loss by the linear predictor `p`."""
    return sf_loss_gradient(LOSSES[loss], p, y)


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


cdef class LinearKernel:
    """Parameters, optimizer state and pending gradient of one linear model."""

    cdef sf_linear m
    cdef int n_slots
    cdef Py_ssize_t capacity      # columns that the arrays have room for
    cdef double* row              # one dense sample
    cdef readonly FeatureIndex index
    cdef bint busy                # the arrays may not be moved now

    def __cinit__(
        self,
        FeatureIndex index,
        *,
        str loss,
        str optimizer,
        dict hyperparameters,
        batch_size,
        bint mean,
        double l2,
        bint fit_intercept,
        intercept_lr,
        clip_gradient,
    ):
        cdef sf_linear* m = &self.m
        self.index = index
        m.loss = LOSSES[loss]
        m.optimizer = OPTIMIZERS[optimizer]
        m.lr = hyperparameters["lr"]
        m.momentum = hyperparameters.get("momentum", 0.0)
        m.nesterov = hyperparameters.get("nesterov", False)
        m.beta_1 = hyperparameters.get("beta_1", 0.0)
        m.beta_2 = hyperparameters.get("beta_2", 0.0)
        m.eps = hyperparameters.get("eps", 0.0)
        m.mean = mean
        m.l2 = l2
        m.fit_intercept = fit_intercept
        m.plain_intercept = intercept_lr is not None
        m.intercept_lr = 0.0 if intercept_lr is None else intercept_lr
        m.clip = float("inf") if clip_gradient is None else clip_gradient
        m.batch_size = 0 if batch_size is None else batch_size
        m.beta_1_power = m.beta_2_power = 1.0
        if m.optimizer == SF_SGD:
            self.n_slots = 1 if m.momentum != 0.0 else 0
        else:
            self.n_slots = 2 if m.optimizer == SF_ADAM else 1
        self._reserve(max(8, len(index)))
        m.n_features = len(index)

    def __dealloc__(self):
        for i in range(8):
            free(self._array(i)[0])

    # ---- memory

    cdef double** _array(self, int i) noexcept:
        """Address of the i-th array; there are `4 + 2 * n_slots` in use."""
        if i == 0: return &self.row
        if i == 1: return &self.m.param
        if i == 2: return &self.m.next_param
        if i == 3: return &self.m.grad
        if i == 4: return &self.m.slot_1
        if i == 5: return &self.m.next_slot_1
        if i == 6: return &self.m.slot_2
        return &self.m.next_slot_2

    cdef int _reserve(self, Py_ssize_t columns) except -1:
        """Make room for `columns` columns; what is there stays, what is new is zero."""
        cdef double** array
        cdef double* grown
        cdef int i
        cdef Py_ssize_t capacity
        if columns <= self.capacity:
            return 0
        capacity = max(columns, self.capacity + self.capacity // 2)
        for i in range(4 + 2 * self.n_slots):
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

        Learning lets other threads run (a table is learned without the GIL), and a value's own
        `__float__` may do anything: neither may move the arrays that are in use.
        """
        if self.busy:
            raise BusyError(
                "the model is learning already: in another thread, or from a value that is being "
                "converted; give each thread its own model, or a lock"
            )
        self.busy = True
        return 0

    # ---- learning

    def learn_mapping(self, x, y, w=1.0):
        """Learn one sample, a mapping or a 1-D array; return its linear predictor.

        Raises
        ------
        BadSampleError
            When the sample is refused; nothing has changed then.
        """
        cdef double label_ = label(y), weight = sample_weight(w), prediction = 0.0
        cdef Py_ssize_t known = self.m.n_features, columns
        cdef bint learned = False
        cdef int64_t refused = self.m.n_refused
        self._enter()
        try:
            self._reserve(known + len(x))
            columns = self.index.fill(x, self.row, True)
            self._grow(columns)
            learned = sf_learn_rows(
                &self.m, self.row, columns, &label_, &weight, &prediction, 1
            )
            if not learned:
                raise self._explain(columns, label_, weight)
        except TypeError:
            raise BadSampleError(
                f"a sample must be a mapping or a 1-D array, not {type(x).__name__}"
            ) from None
        finally:
            self.busy = False
            if not learned:
                self.index.truncate(known)
                self.m.n_features = known
        if self.m.n_refused > refused:
            self._warn()
        return prediction

    def learn_mappings(self, xs, ys, ws, Py_ssize_t start, Py_ssize_t stop, predictions=None):
        """Learn samples `start` to `stop` of three sequences (`ws` may be None)."""
        cdef Py_ssize_t i
        cdef double[::1] out = predictions
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
            raise BadSampleError("fewer labels, weights or rows than samples")
        cdef const double* rows
        cdef const double* labels = &y[start]
        cdef const double* weights = NULL if w is None else &w[start]
        cdef double* out = NULL if predictions is None else &predictions[start]
        self._enter()
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
                    f"value {self.row[j]} is not finite", feature=self.index.names[j]
                )
        if y - y != 0.0:
            return BadSampleError(f"label {y} is not finite")
        if self.m.loss == SF_LOG and y != 0.0 and y != 1.0:
            return BadSampleError(f"label {y} is not False or True (0 or 1)")
        return BadSampleError(f"sample weight {w} is not a finite number >= 0")

    def flush(self, double share=1.0):
        """Apply the pending samples, the learning rate multiplied by `share`."""
        cdef int64_t refused = self.m.n_refused
        self._enter()
        self.busy = False
        sf_flush(&self.m, share)
        if self.m.n_refused > refused:
            self._warn()

    def discard(self):
        """Forget the pending samples; they stay counted as samples."""
        self.m.n_pending = 0
        self.m.weight_pending = 0.0

    # ---- predicting: never changes anything that is saved

    def predict_mapping(self, x):
        """Linear predictor of one sample; features without a column count nothing."""
        cdef double prediction
        cdef double* row = self.row
        cdef double[::1] own
        cdef bint was_busy = self.busy
        cdef Py_ssize_t columns, j
        if was_busy:  # another thread is learning, or a value that is converted asks: own row
            own = np.empty(self.m.n_features + 1)
            row = &own[0]
        self.busy = True
        try:
            columns = self.index.fill(x, row, False)
        finally:
            self.busy = was_busy
        sf_predict_rows(&self.m, row, columns, 1, &prediction)
        if prediction - prediction != 0.0:
            for j in range(columns):
                if row[j] - row[j] != 0.0:
                    raise BadSampleError(
                        f"value {row[j]} is not finite", feature=self.index.names[j]
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
            "parameters": self._copy_out(self.m.param),
        }
        if self.n_slots > 0:
            state["slot_1"] = self._copy_out(self.m.slot_1)
        if self.n_slots > 1:
            state["slot_2"] = self._copy_out(self.m.slot_2)
        if self.m.n_pending:
            state["gradient"] = self._copy_out(self.m.grad)
        return state

    def load(self, dict state, FeatureIndex index):
        """Take over a state made by `state`; the caller has checked names and shapes."""
        cdef Py_ssize_t n = len(state["parameters"]) - 1, i
        cdef double** array
        self._enter()
        self.busy = False
        self._reserve(n)
        self.index = index
        for i in range(4 + 2 * self.n_slots):
            array = self._array(i)
            memset(array[0], 0, (SF_PAD + self.capacity) * sizeof(double))
        self.m.n_features = n
        self._copy_in(self.m.param, state["parameters"])
        if self.n_slots > 0:
            self._copy_in(self.m.slot_1, state["slot_1"])
        if self.n_slots > 1:
            self._copy_in(self.m.slot_2, state["slot_2"])
        if state["n_pending"]:
            self._copy_in(self.m.grad, state["gradient"])
        self.m.n_samples = state["n_samples"]
        self.m.n_updates = state["n_updates"]
        self.m.n_pending = state["n_pending"]
        self.m.n_refused = state["n_refused"]
        self.m.weight_pending = state["weight_pending"]
        self.m.beta_1_power = state["beta_1_power"]
        self.m.beta_2_power = state["beta_2_power"]

    def forget_features(self, Py_ssize_t n):
        """Take back the columns from `n` on: no sample that has them was learned."""
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
