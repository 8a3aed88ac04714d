"""What a linear model knows: its counters, and its numbers out, in, saved and brought back."""

from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

import numpy as np

from streamfit._kernels.features cimport FeatureIndex
from streamfit._kernels.formulas cimport *
from streamfit._kernels.memory cimport FIRST_SLOT, N_ARRAYS, LinearMemory

_SLOT_NAMES = ("slot_1", "slot_2", "slot_3", "slot_l1")


cdef class Snapshot:
    """The numbers of a linear model at one moment."""

    def __dealloc__(self):
        free(self.memory)
        self.release()

    def release(self):
        """Let other threads change the model again."""
        if self.claims is not None:
            self.claims.claimed = 0
            self.claims = None


cdef class LinearState(LinearMemory):
    """Counters, and the state as arrays and plain numbers."""

    @property
    def n_samples(self):
        """Samples learned or pending."""
        return self.m.n_samples

    @property
    def n_updates(self):
        """Updates of the weights (Keras: iterations)."""
        return self.m.n_updates

    @property
    def n_pending(self):
        """Samples taken in whose update has not happened yet."""
        return self.m.n_pending

    @property
    def n_refused(self):
        """Updates refused because a weight would have become non-finite, or above `max_weight`."""
        return self.m.n_refused

    @property
    def n_columns(self):
        """Weights of each output."""
        return self.m.n_features

    @property
    def n_outputs(self):
        """Outputs: classes so far in softmax regression, else 1."""
        return self.m.n_outputs

    @property
    def current_batch_size(self):
        """Size of the micro-batch that is being filled, None for a full batch."""
        return self.m.batch_size or None

    # ---- progressive loss: each sample's loss before it was learned

    @property
    def track_loss(self):
        """Whether each sample's loss is added to `loss_sum` before the sample is learned."""
        return bool(self.m.track_loss)

    @track_loss.setter
    def track_loss(self, bint value):
        self.m.track_loss = value

    @property
    def loss_sum(self):
        """Sum of the tracked losses, each times its sample's weight."""
        return self.m.loss_sum

    @loss_sum.setter
    def loss_sum(self, double value):
        self.m.loss_sum = value

    @property
    def loss_weight(self):
        """Sum of the weights of the samples in `loss_sum`."""
        return self.m.loss_weight

    @loss_weight.setter
    def loss_weight(self, double value):
        self.m.loss_weight = value

    # ---- state

    cdef object _copy_out(self, const char* array):
        """Intercepts and used columns of `array`, shape (n_outputs, 1 + n_features)."""
        cdef Py_ssize_t k, n = self.m.n_features, size = self.itemsize
        out = np.empty((self.m.n_outputs, 1 + n), np.float64 if size == 8 else np.float32)
        cdef char[:, ::1] to = out.view(np.int8)
        for k in range(self.m.n_outputs):
            memcpy(&to[k, 0], array + k * self.m.stride * size, size)
            if n:
                memcpy(&to[k, size], array + (k * self.m.stride + SF_PAD) * size, n * size)
        return out if self._classes is not None else out[0]

    cdef object _gradient(self):
        """The pending gradient; zeros where a sparse one has never been written to."""
        out = self._copy_out(<char*>self.m.grad)
        if self.m.sparse_pending and self.m.n_features:
            touched = np.asarray(<uint8_t[:self.m.n_features]>self.m.mark)
            out[..., 1:][..., touched == 0] = 0.0
        return out

    cdef int _copy_in(self, char* array, values) except -1:
        cdef Py_ssize_t k, n = self.m.n_features, size = self.itemsize
        cdef const char[:, ::1] given = np.ascontiguousarray(
            values.reshape(self.m.n_outputs, 1 + n)).view(np.int8)
        for k in range(self.m.n_outputs):
            memcpy(array + k * self.m.stride * size, &given[k, 0], size)
            if n:
                memcpy(array + (k * self.m.stride + SF_PAD) * size, &given[k, size], n * size)
        return 0

    cdef object _statistic(self, const double* array):
        cdef Py_ssize_t j
        cdef double[::1] out = np.zeros(1 + self.m.n_features)
        for j in range(self.m.n_features):
            out[1 + j] = array[SF_PAD + j]
        return np.asarray(out)

    def state(self):
        """Everything that future updates depend on: arrays and plain numbers.

        The arrays have shape (1 + n_features,), the intercept first, and in softmax regression
        (n_classes, 1 + n_features). `gradient` (and `curvature`, for Auto) is there only while samples are pending,
        `lr_factor` and `schedule_start` only where they are not 1 and 0.
        """
        cdef int i
        state = {
            "n_samples": self.m.n_samples,
            "n_updates": self.m.n_updates,
            "n_pending": self.m.n_pending,
            "n_refused": self.m.n_refused,
            "weight_pending": self.m.weight_pending,
            "beta_1_power": self.m.beta_1_power,
            "beta_2_power": self.m.beta_2_power,
            "l1_total": self.m.l1_total,
            "weight_scale": self.m.weight_scale,
            "batch_size": self.m.batch_size,
            "parameters": self._copy_out(<char*>self.m.param),
        }
        for i, name in enumerate(_SLOT_NAMES):
            if self.m.uses_slot[i]:
                state[name] = self._copy_out(<char*>self.m.slot[i])
        if self.m.n_pending:
            state["gradient"] = self._gradient()
            if self._in_use(3):
                state["curvature"] = self._copy_out(<char*>self.m.curvature)
        if self.m.lr_factor != 1.0:
            state["lr_factor"] = self.m.lr_factor
        if self.m.schedule_start:
            state["schedule_start"] = self.m.schedule_start
        if self.m.noise.every:
            state["n_measured"] = self.m.noise.n
            state["noise"] = np.array([self.m.noise.mean[i] for i in range(SF_MEANS)])
            state["noise_squares_pending"] = self.m.noise.squares
            state["noise_weight_pending"] = self.m.noise.weight_2
        if self.m.standardize:
            state["n_scaled"] = self.m.n_scaled
            state["scaler_mean"] = self._statistic(self.m.mean_of)
            state["scaler_var"] = self._statistic(self.m.variance_of)
        return state

    def _load_state(self, dict state, FeatureIndex index, classes=()):
        """Take over what `state` returned; the caller has checked names and shapes."""
        cdef Py_ssize_t n = state["parameters"][..., 1:].shape[::-1][0], j
        cdef Py_ssize_t outputs = 1 if self._classes is None else len(classes)
        cdef const double[::1] mean, variance
        cdef void** array
        cdef int i
        self._enter()
        self._reserve(n, outputs)
        sf_forget_pending(&self.m)
        self.index = index
        for i in range(N_ARRAYS):
            array = self._array(i)
            if self._in_use(i):
                memset(array[0], 0, self.output_capacity * self.m.stride * self.itemsize)
        self.m.n_features, self.m.n_outputs = n, outputs
        if self._classes is not None:
            self._classes = list(classes)
            self._class_numbers = {name: k for k, name in enumerate(self._classes)}
        self._copy_in(<char*>self.m.param, state["parameters"])
        for i, name in enumerate(_SLOT_NAMES):
            if self.m.uses_slot[i]:
                self._copy_in(<char*>self.m.slot[i], state[name])
        if state["n_pending"]:
            self._copy_in(<char*>self.m.grad, state["gradient"])
            if self._in_use(3):
                self._copy_in(<char*>self.m.curvature, state["curvature"])
        if self.m.standardize:
            mean, variance = state["scaler_mean"], state["scaler_var"]
            for statistics in (<size_t>self.m.mean_of, <size_t>self.m.next_mean_of,
                               <size_t>self.m.variance_of, <size_t>self.m.next_variance_of):
                memset(<void*><size_t>statistics, 0, self.m.stride * sizeof(double))
            for j in range(n):
                self.m.mean_of[SF_PAD + j] = mean[1 + j]
                self.m.variance_of[SF_PAD + j] = variance[1 + j]
            self.m.n_scaled = state["n_scaled"]
        self.m.n_samples = state["n_samples"]
        self.m.n_updates = state["n_updates"]
        self.m.n_pending = state["n_pending"]
        self.m.n_refused = state["n_refused"]
        self.m.weight_pending = state["weight_pending"]
        self.m.beta_1_power = state["beta_1_power"]
        self.m.beta_2_power = state["beta_2_power"]
        self.m.l1_total = state["l1_total"]
        self.m.weight_scale = state["weight_scale"]
        self.m.batch_size = state["batch_size"]
        self.m.lr_factor = state.get("lr_factor", 1.0)
        self.m.schedule_start = state.get("schedule_start", 0)
        if self.m.noise.every:
            self.m.noise.n = state["n_measured"]
            self.m.noise.squares = state["noise_squares_pending"]
            self.m.noise.weight_2 = state["noise_weight_pending"]
            for i in range(SF_MEANS):
                self.m.noise.mean[i] = state["noise"][i]
        sf_begin_measuring(&self.m)

    def _forget_features(self, Py_ssize_t n):
        """Take back the columns from `n` on: no sample that has them was learned."""
        self._enter()
        self._take_back(n, self.m.n_outputs)

    def _begin(self):
        """Refuse a second thread, before it adds names."""
        self._enter()

    def _snapshot(self, bint claim=False):
        """What `_restore` needs to undo calls that come after: O(features), in one piece.

        With `claim` no other thread may change the model, which would be undone too, before the
        snapshot is released or gone.
        """
        self._enter()
        cdef Snapshot saved = Snapshot()
        cdef Py_ssize_t size = self.m.n_outputs * self.m.stride * self.itemsize
        cdef Py_ssize_t statistics = self.m.stride * sizeof(double) if self.m.standardize else 0
        cdef char* to
        cdef int i
        saved.m = self.m
        saved.index = self.index  # whose place a loaded state's takes
        saved.classes, saved.class_numbers = self._classes, self._class_numbers
        saved.touched = [self.m.touched[i] for i in range(self.m.n_touched)]
        saved.memory = to = <char*>malloc((FIRST_SLOT + SF_SLOTS) * size + 2 * statistics + 1)
        if to == NULL:
            raise MemoryError("no memory for a copy of the model")
        for i in range(FIRST_SLOT + SF_SLOTS):
            if i != 1 and self._in_use(i):
                memcpy(to, self._array(i)[0], size)
                to += size
        if statistics:
            memcpy(to, self.m.mean_of, statistics)
            memcpy(to + statistics, self.m.variance_of, statistics)
        if claim and not self.claimed:
            self.claimed = PyThread_get_thread_ident()
            saved.claims = self
        return saved

    def _restore(self, Snapshot saved not None):
        """Undo everything since `saved`, new features and classes included."""
        cdef sf_linear* m = &self.m
        cdef sf_linear* old = &saved.m
        cdef Py_ssize_t size = old.stride * self.itemsize, stride = m.stride * self.itemsize, k
        cdef char* source = saved.memory
        cdef char* array
        cdef int i
        self._enter()
        sf_forget_pending(m)
        self.index = saved.index
        self._classes, self._class_numbers = saved.classes, saved.class_numbers
        for i in range(N_ARRAYS):
            if self._in_use(i):
                memset(self._array(i)[0], 0, self.output_capacity * stride)
        for i in range(FIRST_SLOT + SF_SLOTS):
            if i != 1 and self._in_use(i):
                array = <char*>self._array(i)[0]
                for k in range(old.n_outputs):
                    memcpy(array + k * stride, source, size)
                    source += size
        if m.standardize:
            for statistics in (<size_t>m.mean_of, <size_t>m.next_mean_of,
                               <size_t>m.variance_of, <size_t>m.next_variance_of):
                memset(<void*><size_t>statistics, 0, m.stride * sizeof(double))
            memcpy(m.mean_of, source, old.stride * sizeof(double))
            memcpy(m.variance_of, source + old.stride * sizeof(double), old.stride * sizeof(double))
        for k in range(old.n_touched):
            m.touched[k] = saved.touched[k]
            m.mark[m.touched[k]] = 1
        m.n_touched, m.sparse_pending = old.n_touched, old.sparse_pending
        m.n_scaled = old.n_scaled
        m.batch_size = old.batch_size
        m.n_samples, m.n_updates = old.n_samples, old.n_updates
        m.n_pending, m.n_refused = old.n_pending, old.n_refused
        m.weight_pending, m.weight_scale = old.weight_pending, old.weight_scale
        m.beta_1_power, m.beta_2_power = old.beta_1_power, old.beta_2_power
        m.l1_total = old.l1_total
        m.lr_factor, m.schedule_start = old.lr_factor, old.schedule_start
        m.loss_sum, m.loss_weight = old.loss_sum, old.loss_weight
        m.noise = old.noise
        self._take_back(old.n_features if self.hashing is None else 0, old.n_outputs)
