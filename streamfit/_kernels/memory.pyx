"""The memory of a linear model: its configuration, its arrays, and how they grow."""

from cpython.pythread cimport PyThread_get_thread_ident
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import numpy as np

from streamfit._kernels.formulas import LOSSES, OPTIMIZERS
from streamfit.errors import BusyError

from streamfit._kernels.features cimport FeatureIndex
from streamfit._kernels.formulas cimport *
from streamfit._kernels.hashing cimport HashedFeatures


cdef class Pieces:
    """Zeroed pieces of memory, of which those not taken are freed again."""

    def __cinit__(self):
        self.pieces = []

    cdef int add(self, size_t size) except -1:
        cdef void* piece = calloc(size + 1, 1)
        if piece == NULL:
            raise MemoryError(f"no memory for {size} bytes of a model")
        self.pieces.append(<size_t>piece)
        return 0

    cdef void* take(self) except NULL:
        return <void*><size_t>self.pieces.pop(0)

    def __dealloc__(self):
        for piece in self.pieces:
            free(<void*><size_t>piece)


cdef class LinearMemory:
    """Parameters, optimizer state and pending gradient of one linear model."""

    def __cinit__(self):
        self.index = FeatureIndex()

    def _configure(
        self,
        FeatureIndex index,
        *,
        HashedFeatures hashing,
        classes,
        bint classes_fixed,
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
        max_weight,
        bint standardize,
        bound,
        bint single,
        dict noise_scale,
    ):
        cdef sf_linear* m = &self.m
        cdef int i
        if self.m.param != NULL:
            raise TypeError("a learner is made once; make another one")
        self.index = index
        self.hashing = hashing
        self.itemsize = sizeof(float) if single else sizeof(double)
        m.loss = LOSSES[loss["id"]][0]
        m.loss_option = loss_option(loss)
        m.optimizer, n_slots = OPTIMIZERS[optimizer["id"]]
        m.mean = mean
        m.l1 = l1
        m.fit_intercept = fit_intercept
        m.standardize = standardize
        self._set_options(optimizer, schedule, l2, intercept_lr, clip_gradient, max_weight)
        m.bound = INFINITY if bound is None else bound
        # weights of standardized features are of order 1 where the predictor is a log-odds or the
        # logarithm of a rate; labels of a regression may be of any size
        m.prior = 2.0 if m.loss >= SF_POISSON else 1e-3
        plain = m.optimizer == SF_SGD and m.momentum == 0.0
        self._set_batch_size(batch_size)
        if noise_scale is not None:
            m.noise.every, m.noise.decay = noise_scale["every"], noise_scale["decay"]
        sf_begin_measuring(m)
        m.beta_1_power = m.beta_2_power = m.weight_scale = m.lr_factor = 1.0
        m.n_slots = 0 if plain else n_slots
        for i in range(3):
            m.uses_slot[i] = i < m.n_slots
        m.uses_slot[SF_L1] = l1 > 0.0
        self.classes_fixed = classes_fixed
        if m.loss == SF_CROSS_ENTROPY:
            self._classes = list(classes)
            self._class_numbers = {name: k for k, name in enumerate(self._classes)}
        columns = len(index) if hashing is None else hashing.n_columns
        self._reserve(max(8, columns), max(1, len(classes)))
        m.n_features = columns
        m.n_outputs = 1 if self._classes is None else len(classes)

    def _set_options(self, dict optimizer, dict schedule, double l2, intercept_lr, clip_gradient,
                     max_weight):
        """Take what may change while the arrays stay; `weight_scale` is 1 when it does."""
        cdef sf_linear* m = &self.m
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
        m.l2 = l2
        m.plain_intercept = intercept_lr is not None
        m.intercept_lr = 0.0 if intercept_lr is None else intercept_lr
        m.clip = INFINITY if clip_gradient is None else clip_gradient
        m.max_weight = INFINITY if max_weight is None else max_weight
        plain = m.optimizer == SF_SGD and m.momentum == 0.0
        m.lazy_l2 = plain and l2 > 0.0 and m.l1 == 0.0
        m.lazy_step = m.l1 == 0.0 and (
            plain or (l2 == 0.0 and (m.optimizer == SF_ADAGRAD or m.optimizer == SF_FTRL))
        )

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
        elif batch_size["id"] == "noise_scale":
            m.batch_schedule = SF_NOISE_SCALE_BATCH
            m.batch_size = m.batch_minimum = batch_size["minimum"]
            m.batch_maximum = batch_size["maximum"]
            m.batch_every = batch_size["every"]
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
        cdef int i
        for i in range(N_ARRAYS):
            free(self._array(i)[0])
        for i in range(5):
            free(self.m.gathered[i])
        for pointer in (<size_t>self.m.touched, <size_t>self.m.mark, <size_t>self.m.scaled,
                        <size_t>self.m.mean_of, <size_t>self.m.next_mean_of,
                        <size_t>self.m.variance_of, <size_t>self.m.next_variance_of,
                        <size_t>self.m.predictor, <size_t>self.m.slope, <size_t>self.predicted,
                        <size_t>self.scaled):
            free(<void*><size_t>pointer)

    cdef void** _array(self, int i) noexcept:
        """Address of the i-th array: the parameters, the gradient, its curvature, then the slots."""
        if i == 0: return &self.m.param
        if i == 1: return &self.m.next_param
        if i == 2: return &self.m.grad
        if i == 3: return &self.m.curvature
        if i < FIRST_SLOT + SF_SLOTS: return &self.m.slot[i - FIRST_SLOT]
        return &self.m.next_slot[i - FIRST_SLOT - SF_SLOTS]

    cdef bint _in_use(self, int i) noexcept:
        if i == 3:
            return self.m.optimizer == SF_AUTO
        return i < 3 or self.m.uses_slot[(i - FIRST_SLOT) % SF_SLOTS]

    cdef int _reserve(self, Py_ssize_t columns, Py_ssize_t outputs) except -1:
        """Make room for columns and outputs; what is there stays, what is new is zero."""
        cdef sf_linear* m = &self.m
        cdef Py_ssize_t capacity = self.capacity, output_capacity = self.output_capacity, k
        cdef Py_ssize_t size = self.itemsize, stride
        cdef void** array
        cdef char* grown
        cdef Pieces fresh
        cdef int i
        if columns <= capacity and outputs <= output_capacity:
            return 0
        if columns > capacity:
            capacity = max(columns, capacity + capacity // 2)
        if outputs > output_capacity:
            output_capacity = max(outputs, output_capacity + output_capacity // 2)
        stride = SF_PAD + capacity
        # new arrays replace the old ones only when there is memory for them all
        fresh = Pieces()
        for i in range(N_ARRAYS):
            if self._in_use(i):
                fresh.add(output_capacity * stride * size)
        for count in (stride, stride, stride, stride) if m.standardize else ():
            fresh.add(count * sizeof(double))
        for _ in range(2):
            fresh.add(stride * size if m.standardize else 0)
        for _ in range(3):
            fresh.add(4 * output_capacity * sizeof(double))  # of four samples
        for i in range(N_ARRAYS):
            if not self._in_use(i):
                continue
            array = self._array(i)
            grown = <char*>fresh.take()
            if array[0] != NULL:
                for k in range(self.output_capacity):
                    memcpy(grown + k * stride * size, <char*>array[0] + k * m.stride * size,
                           m.stride * size)
                free(array[0])
            array[0] = grown
        if m.standardize:
            m.mean_of = self._moved(m.mean_of, fresh.take())
            m.next_mean_of = self._moved(m.next_mean_of, fresh.take())
            m.variance_of = self._moved(m.variance_of, fresh.take())
            m.next_variance_of = self._moved(m.next_variance_of, fresh.take())
        free(m.scaled)
        m.scaled = fresh.take()
        free(self.scaled)
        self.scaled = fresh.take()
        free(self.predicted)
        self.predicted = <double*>fresh.take()
        free(m.predictor)
        m.predictor = <double*>fresh.take()
        free(m.slope)
        m.slope = <double*>fresh.take()
        m.stride = stride
        self.capacity, self.output_capacity = capacity, output_capacity
        if m.mark != NULL:
            self._prepare_sparse(True)
        return 0

    cdef double* _moved(self, double* old, void* new) noexcept:
        if old != NULL:
            memcpy(new, old, self.m.stride * sizeof(double))
            free(old)
        return <double*>new

    cdef int _prepare_sparse(self, bint again=False) except -1:
        """Make room for what sparse rows need; models that see none do without."""
        cdef sf_linear* m = &self.m
        cdef int i
        if m.mark != NULL and not again:
            return 0
        cdef Pieces fresh = Pieces()
        cdef int32_t* touched
        cdef uint8_t* mark
        cdef int64_t k
        fresh.add(self.capacity * sizeof(int32_t))
        fresh.add(self.capacity)
        for i in range(5):
            if i >= SF_L1 or m.uses_slot[i]:
                fresh.add(self.capacity * self.itemsize)
        touched = <int32_t*>fresh.take()
        mark = <uint8_t*>fresh.take()
        for k in range(m.n_touched):
            touched[k] = m.touched[k]
            mark[touched[k]] = 1
        free(m.touched)
        free(m.mark)
        m.touched, m.mark = touched, mark
        for i in range(5):
            if i >= SF_L1 or m.uses_slot[i]:
                free(m.gathered[i])
                m.gathered[i] = fresh.take()
        return 0

    cdef int _use_columns(self, Py_ssize_t columns) except -1:
        """Begin to use more columns; their numbers are all zero."""
        cdef Py_ssize_t old = self.m.n_features, k
        cdef int i
        self._reserve(columns, 1)
        # the gradient array is never cleared, and the columns may have been used and taken
        # back; parameters and slots of unused columns are zero at all times
        for k in range(self.m.n_outputs):
            for i in range(2, FIRST_SLOT):
                if self._in_use(i):
                    memset(<char*>self._array(i)[0]
                           + (k * self.m.stride + SF_PAD + old) * self.itemsize, 0,
                           (columns - old) * self.itemsize)
        if self.m.standardize:  # a refused sample leaves statistics in the spare arrays
            memset(self.m.mean_of + SF_PAD + old, 0, (columns - old) * sizeof(double))
            memset(self.m.variance_of + SF_PAD + old, 0, (columns - old) * sizeof(double))
        self.m.n_features = columns
        return 0

    cdef int _add_output(self, object name) except -1:
        """Begin to use one more output, for the class `name`."""
        cdef Py_ssize_t k = self.m.n_outputs
        cdef int i
        self._reserve(1, k + 1)
        for i in range(2, FIRST_SLOT):
            if self._in_use(i):
                memset(<char*>self._array(i)[0] + k * self.m.stride * self.itemsize, 0,
                       self.m.stride * self.itemsize)
        self._classes.append(name)
        self._class_numbers[name] = k
        self.m.n_outputs = k + 1
        return 0

    cdef int _take_back(self, Py_ssize_t columns, Py_ssize_t outputs) except -1:
        """Use fewer columns and outputs again: no sample that has them was learned."""
        self.index.truncate(columns)
        if self.hashing is None:
            self.m.n_features = columns
        if self._classes is not None:
            while len(self._classes) > outputs:
                del self._class_numbers[self._classes.pop()]
            self.m.n_outputs = outputs
        return 0

    cdef int _forget_names(self) except -1:
        """Forget names without a column, which a call left that another thread's came before."""
        if self.hashing is None:
            self.index.truncate(self.m.n_features)
        return 0

    cdef bint _is_taken(self) noexcept:
        """Whether another thread is changing the model."""
        return self.busy or (self.claimed != 0 and self.claimed != PyThread_get_thread_ident())

    cdef int _refuse_second(self) except -1:
        if self.m.param == NULL:
            raise TypeError("the learner has not been made: its __init__ was never called")
        if not self._is_taken():
            return 0
        if self.busy:  # a thread that only has a claim may have added names, but no columns yet
            self._forget_names()
        # a table is learned without the GIL: no other thread may move the arrays meanwhile
        raise BusyError(
            "the model is learning already in another thread; give each thread its own model, "
            "or a lock"
        )
