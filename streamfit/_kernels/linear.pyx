"""Memory and calling conventions of the linear kernels; `kernels.h` does the arithmetic.

`LinearKernel` owns the numbers of one linear model, and is the base class of the learners. Its
methods stop at the first bad sample: what came before is learned, the bad one has left no trace.
Callers that promise more (a whole call or nothing) take a `Snapshot` first.
"""

cimport cython
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

import warnings

import numpy as np

from streamfit._kernels.features import exact_label
from streamfit._kernels.formulas import LOSSES, OPTIMIZERS
from streamfit.errors import BadSampleError, BusyError, SourceError, UpdateRefusedWarning

from streamfit._kernels.features cimport FeatureIndex, label, read_sample, sample_weight
from streamfit._kernels.formulas cimport *
from streamfit._kernels.hashing cimport HashedFeatures, sf_entry

cdef extern from "kernels.h" nogil:
    void sf_forget_pending(sf_linear*)
    int64_t sf_learn_dense_f64(sf_linear*, const void*, int64_t, const double*, const double*,
                               double*, int64_t, int64_t)
    int64_t sf_learn_dense_f32(sf_linear*, const void*, int64_t, const double*, const double*,
                               double*, int64_t, int64_t)
    int64_t sf_learn_sparse_f64(sf_linear*, const void*, const int32_t*, const int64_t*,
                                const double*, const double*, double*, int64_t, int64_t)
    int64_t sf_learn_sparse_f32(sf_linear*, const void*, const int32_t*, const int64_t*,
                                const double*, const double*, double*, int64_t, int64_t)
    void sf_flush_f64(sf_linear*, double)
    void sf_flush_f32(sf_linear*, double)
    void sf_predict_rows_f64(sf_linear*, const void*, const int32_t*, const int64_t*, int64_t,
                             int64_t, void*, double*)
    void sf_predict_rows_f32(sf_linear*, const void*, const int32_t*, const int64_t*, int64_t,
                             int64_t, void*, double*)

cdef extern from "sparse.h" nogil:
    void sf_sort_entries(sf_entry*, sf_entry*, int64_t, int64_t)
    int64_t sf_write_row(const sf_entry*, int64_t, double*, int32_t*)

cdef enum:
    N_ARRAYS = 11     # parameters, next parameters, gradient, slots, next slots
    DENSE_BELOW = 64  # columns up to which a dict is always a dense row

_SLOT_NAMES = ("slot_1", "slot_2", "slot_3", "slot_l1")


cdef class Snapshot:
    """The numbers of a `LinearKernel` at one moment."""

    cdef sf_linear m
    cdef char* memory
    cdef list touched

    def __dealloc__(self):
        free(self.memory)


cdef class _Memory:
    """Zeroed pieces of memory, of which those not taken are freed again."""

    cdef list pieces

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


cdef class LinearKernel:
    """Parameters, optimizer state and pending gradient of one linear model."""

    cdef sf_linear m
    cdef Py_ssize_t itemsize          # of a parameter: 8 or 4
    cdef Py_ssize_t capacity          # columns that the arrays have room for
    cdef Py_ssize_t output_capacity   # ... and outputs
    cdef readonly FeatureIndex index
    cdef readonly HashedFeatures hashing
    cdef readonly list _classes       # labels of the outputs, None unless there are classes
    cdef dict _class_numbers
    cdef readonly bint classes_fixed
    cdef bint busy                    # the arrays may not be moved now
    cdef object _milestones           # keeps the memory behind m.milestone
    # one sample as a row
    cdef double* row
    cdef float* row_single
    cdef int32_t* row_column
    cdef sf_entry* entry
    cdef sf_entry* spare_entry
    cdef Py_ssize_t row_capacity, row_length
    cdef bint row_is_sparse
    # what predicting writes to: another thread may be learning
    cdef double* predicted
    cdef void* scaled

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
        bint single,
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
        m.max_weight = float("inf") if max_weight is None else max_weight
        m.standardize = standardize
        plain = m.optimizer == SF_SGD and m.momentum == 0.0
        m.lazy_l2 = plain and l2 > 0.0 and l1 == 0.0
        m.lazy_step = l1 == 0.0 and (
            plain or (l2 == 0.0 and (m.optimizer == SF_ADAGRAD or m.optimizer == SF_FTRL))
        )
        self._set_batch_size(batch_size)
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
        cdef int i
        for i in range(N_ARRAYS):
            free(self._array(i)[0])
        for i in range(5):
            free(self.m.gathered[i])
        for pointer in (<size_t>self.m.touched, <size_t>self.m.mark, <size_t>self.m.scaled,
                        <size_t>self.m.mean_of, <size_t>self.m.next_mean_of,
                        <size_t>self.m.variance_of, <size_t>self.m.next_variance_of,
                        <size_t>self.m.predictor, <size_t>self.m.slope, <size_t>self.row,
                        <size_t>self.row_single, <size_t>self.row_column, <size_t>self.entry,
                        <size_t>self.spare_entry, <size_t>self.predicted, <size_t>self.scaled):
            free(<void*><size_t>pointer)

    # ---- memory

    cdef void** _array(self, int i) noexcept:
        """Address of the i-th array: the parameters, the gradient, then the slots."""
        if i == 0: return &self.m.param
        if i == 1: return &self.m.next_param
        if i == 2: return &self.m.grad
        if i < 3 + SF_SLOTS: return &self.m.slot[i - 3]
        return &self.m.next_slot[i - 3 - SF_SLOTS]

    cdef bint _in_use(self, int i) noexcept:
        return i < 3 or self.m.uses_slot[(i - 3) % SF_SLOTS]

    cdef int _reserve(self, Py_ssize_t columns, Py_ssize_t outputs) except -1:
        """Make room for columns and outputs; what is there stays, what is new is zero."""
        cdef sf_linear* m = &self.m
        cdef Py_ssize_t capacity = self.capacity, output_capacity = self.output_capacity, k
        cdef Py_ssize_t size = self.itemsize, stride
        cdef void** array
        cdef char* grown
        cdef _Memory fresh
        cdef int i
        if columns <= capacity and outputs <= output_capacity:
            return 0
        if columns > capacity:
            capacity = max(columns, capacity + capacity // 2)
        if outputs > output_capacity:
            output_capacity = max(outputs, output_capacity + output_capacity // 2)
        stride = SF_PAD + capacity
        # new arrays replace the old ones only when there is memory for them all
        fresh = _Memory()
        for i in range(N_ARRAYS):
            if self._in_use(i):
                fresh.add(output_capacity * stride * size)
        for count in (stride, stride, stride, stride) if m.standardize else ():
            fresh.add(count * sizeof(double))
        for _ in range(2):
            fresh.add(stride * size if m.standardize else 0)
        for _ in range(3):
            fresh.add(output_capacity * sizeof(double))
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
        cdef _Memory fresh = _Memory()
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

    @cython.final
    cdef int _reserve_row(self, Py_ssize_t length) except -1:
        """Make room for one sample of so many numbers, and for zeros in every column."""
        if length <= self.row_capacity:
            return 0
        length = max(length, 2 * self.row_capacity, 16)
        cdef _Memory fresh = _Memory()
        for size in (sizeof(double), sizeof(float), sizeof(int32_t), sizeof(sf_entry),
                     sizeof(sf_entry)):
            fresh.add(length * size)
        free(self.row)
        free(self.row_single)
        free(self.row_column)
        free(self.entry)
        free(self.spare_entry)
        self.row = <double*>fresh.take()
        self.row_single = <float*>fresh.take()
        self.row_column = <int32_t*>fresh.take()
        self.entry = <sf_entry*>fresh.take()
        self.spare_entry = <sf_entry*>fresh.take()
        self.row_capacity = length
        return 0

    @cython.final
    cdef int _grow(self, Py_ssize_t columns) except -1:
        """Begin to use the columns up to `columns`; their numbers are all zero."""
        cdef Py_ssize_t old = self.m.n_features, k
        if columns > old:
            self._reserve(columns, 1)
            # the gradient array is never cleared, and the columns may have been used and
            # taken back; parameters and slots of unused columns are zero at all times
            for k in range(self.m.n_outputs):
                memset(<char*>self.m.grad + (k * self.m.stride + SF_PAD + old) * self.itemsize, 0,
                       (columns - old) * self.itemsize)
            if self.m.standardize:  # a refused sample leaves statistics in the spare arrays
                memset(self.m.mean_of + SF_PAD + old, 0, (columns - old) * sizeof(double))
                memset(self.m.variance_of + SF_PAD + old, 0, (columns - old) * sizeof(double))
            self.m.n_features = columns
        return 0

    cdef int _add_output(self, object name) except -1:
        """Begin to use one more output, for the class `name`."""
        cdef Py_ssize_t k = self.m.n_outputs
        self._reserve(1, k + 1)
        memset(<char*>self.m.grad + k * self.m.stride * self.itemsize, 0,
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

    @cython.final
    cdef int _enter(self) except -1:
        """Begin to change the model.

        A table is learned without the GIL: no other thread may move the arrays meanwhile.
        """
        if self.busy:
            raise BusyError(
                "the model is learning already in another thread; give each thread its own model, "
                "or a lock"
            )
        return 0

    # ---- one sample as a row

    @cython.final
    cdef Py_ssize_t _fill(self, object x, bint grow) except -2:
        """Put a sample into the row; return how many columns the model needs for it."""
        cdef Py_ssize_t columns
        if type(x) is dict:
            if grow:
                self._enter()
            columns = self._fill_plain(<dict>x, grow)
            if columns >= 0:
                return columns
            if grow:
                self.index.truncate(self.m.n_features if self.hashing is None else 0)
        # may run any code; from here on none runs but ours
        x = read_sample(x, self.index._names)
        if grow:
            self._enter()
        if type(x) is not dict and self.hashing is not None:
            x = dict(enumerate(x.tolist()))
        if type(x) is dict:
            return self._fill_plain(x, grow)
        self._reserve_row(self.m.n_features + len(x))
        self.row_is_sparse = False
        self.row_length = self.index.fill_array(x, self.row, self.m.n_features, grow)
        return self.row_length

    @cython.final
    cdef Py_ssize_t _fill_plain(self, dict x, bint grow) except -2:
        """The same for a dict; -1 if its values are no plain numbers."""
        cdef Py_ssize_t n, limit = self.m.n_features, given = len(x)
        self._reserve_row(limit + given if self.hashing is None else given)
        if self.hashing is not None:
            n = self.hashing.fill_dict(x, self.entry)
        elif limit <= DENSE_BELOW or 4 * given > limit or self.m.standardize:
            n = self.index.fill_dict(x, self.row, limit, grow)
            self.row_is_sparse = False
            self.row_length = n
            return n
        else:
            n = self.index.fill_entries(x, self.entry, limit, grow)
        if n < 0:
            return n
        if self.hashing is None and grow:
            limit = len(self.index._names)
        sf_sort_entries(self.entry, self.spare_entry, n, limit)
        self.row_is_sparse = True
        self.row_length = sf_write_row(self.entry, n, self.row, self.row_column)
        return limit

    @cython.final
    cdef const void* _row(self) noexcept:
        """The row in the model's precision."""
        cdef Py_ssize_t j
        if self.itemsize == sizeof(double):
            return self.row
        for j in range(self.row_length):
            self.row_single[j] = <float>self.row[j]
        return self.row_single

    cdef object _name(self, Py_ssize_t column):
        return self.index._names[column] if self.hashing is None else None

    # ---- learning

    def learn_one(self, x, y, w=1.0):
        """Learn one sample; the weights move when `batch_size` samples are in.

        Parameters
        ----------
        x
            Mapping of feature name to number, or a 1-D array. A feature that is absent is 0.
        y
            The label.
        w
            Weight of the sample, >= 0.

        Raises
        ------
        BadSampleError
            When the sample is refused; nothing has changed then.
        """
        self._learn_one(x, y, w, NULL)

    @cython.final
    cdef int _learn_one(self, object x, object y, object w, double* predictors) except -1:
        cdef sf_linear* m = &self.m
        cdef double label_ = 0.0, weight = sample_weight(w)
        cdef Py_ssize_t columns, known, outputs
        cdef int64_t refused = m.n_refused
        cdef bint learned = False
        if self._classes is None:
            label_ = label(y)
        else:
            y = exact_label(y)
        known, outputs = m.n_features, m.n_outputs
        try:
            columns = self._fill(x, True)
            known, outputs = m.n_features, m.n_outputs  # a value's own code may have learned
            self._grow(columns)
            if self._classes is not None:
                label_ = self._class_number(y)
            if self._learn_row(label_, weight, predictors) == 0:
                raise self._explain(label_, weight)
            learned = True
            if predictors != NULL and self.m.n_outputs > outputs:
                predictors[outputs] = -INFINITY  # before this sample its class was not known
        finally:
            if not learned and not self.busy:
                self._take_back(known if self.hashing is None else 0, outputs)
        if self.index.fixed:
            self.index.settle()
        if m.n_refused > refused:
            self._warn()
        return 0

    @cython.final
    cdef Py_ssize_t _class_number(self, object name) except -1:
        """Number of a class; an unknown one gets the next number."""
        number = self._class_numbers.get(name)
        if number is not None:
            return number
        if self.classes_fixed:
            raise BadSampleError(f"label {name!r:.60} is none of the classes {self._classes!r:.80}")
        self._add_output(name)
        return self.m.n_outputs - 1

    @cython.final
    cdef int64_t _learn_row(self, double label_, double weight, double* predictors) except -1:
        cdef int64_t start[2]
        cdef const void* row = self._row()
        if self.row_is_sparse:
            self._prepare_sparse()
        start[0], start[1] = 0, self.row_length
        return self._learn_rows(
            row, self.row_column if self.row_is_sparse else NULL, start, self.row_length, &label_,
            &weight, predictors, 0, 1)

    @cython.final
    cdef int64_t _learn_rows(
        self, const void* value, const int32_t* column, const int64_t* start, int64_t columns,
        const double* labels, const double* weights, double* predictors, int64_t width, int64_t n,
    ) noexcept nogil:
        if column != NULL and self.itemsize == sizeof(double):
            return sf_learn_sparse_f64(&self.m, value, column, start, labels, weights, predictors,
                                       width, n)
        if column != NULL:
            return sf_learn_sparse_f32(&self.m, value, column, start, labels, weights, predictors,
                                       width, n)
        if self.itemsize == sizeof(double):
            return sf_learn_dense_f64(&self.m, value, columns, labels, weights, predictors, width, n)
        return sf_learn_dense_f32(&self.m, value, columns, labels, weights, predictors, width, n)

    def learn_samples(self, xs, ys, ws, Py_ssize_t start, Py_ssize_t stop, predictors=None):
        """Learn samples `start` to `stop` of three sequences (`ws` may be None)."""
        cdef Py_ssize_t i, width = 1
        cdef double[:, ::1] table
        cdef double[::1] column
        cdef double* out = NULL
        self._check_lengths(len(xs), ys, ws, stop, predictors)
        if predictors is not None and predictors.ndim == 2:
            table = predictors
            width = table.shape[1]
            out = &table[0, 0] if table.size else NULL
        elif predictors is not None:
            column = predictors
            out = &column[0] if len(column) else NULL
        for i in range(start, stop):
            self._learn_one(xs[i], ys[i], 1.0 if ws is None else ws[i],
                            NULL if out == NULL else out + i * width)

    cdef int _check_lengths(self, Py_ssize_t rows, ys, ws, Py_ssize_t stop, predictors) except -1:
        if (rows < stop or len(ys) < stop or (ws is not None and len(ws) < stop)
                or (predictors is not None and len(predictors) < stop)):
            raise SourceError("a block has fewer rows, labels or weights than samples")
        return 0

    def learn_table(self, table, const double[::1] y, const double[::1] w, new_classes=(),
                    predictors=None):
        """Learn all rows of a table whose columns are the model's first columns.

        Holds no GIL while it runs.

        Parameters
        ----------
        table
            C-contiguous matrix in the model's precision, or of a sparse one (data, indices,
            indptr, n_columns): data in the model's precision, indices int32 that rise in each row,
            indptr int64.
        y
            Labels, or numbers of classes: those not yet known have names in `new_classes`.
        w, predictors
            May be None.
        """
        cdef const double[:, ::1] doubles
        cdef const float[:, ::1] floats
        cdef const double[::1] double_data
        cdef const float[::1] float_data
        cdef const int32_t[::1] indices
        cdef const int64_t[::1] indptr
        cdef double[:, ::1] out_table
        cdef double[::1] out_column
        cdef bint sparse = isinstance(table, tuple), single = self.itemsize == sizeof(float)
        cdef int64_t n, columns, done = 0, learned, refused = self.m.n_refused, width = 1
        cdef Py_ssize_t known = self.m.n_outputs
        cdef bint fresh = False  # the last class has come, but not yet a learned sample of it
        cdef const char* value = NULL
        cdef const int32_t* column = NULL
        cdef const int64_t* start = NULL
        cdef double* out = NULL
        cdef int64_t size = self.itemsize
        if sparse:
            data, indices_, indptr_, columns = table
            indices, indptr = indices_, indptr_
            n = indptr.shape[0] - 1
            if n > 0:
                start = &indptr[0]
            if indices.shape[0]:
                column = &indices[0]
                if single:
                    float_data = data
                    value = <const char*>&float_data[0]
                else:
                    double_data = data
                    value = <const char*>&double_data[0]
            else:
                column = <const int32_t*>&self.m  # nothing is read from it
        elif single:
            floats = table
            n, columns = floats.shape[0], floats.shape[1]
            if n and columns:
                value = <const char*>&floats[0, 0]
        else:
            doubles = table
            n, columns = doubles.shape[0], doubles.shape[1]
            if n and columns:
                value = <const char*>&doubles[0, 0]
        if n == 0:
            return
        self._check_lengths(n, y, w, n, predictors)
        if predictors is not None and predictors.ndim == 2:
            out_table = predictors
            width = out_table.shape[1]
            out = &out_table[0, 0] if width else NULL
        elif predictors is not None:
            out_column = predictors
            out = &out_column[0]
        cdef const double* labels = &y[0]
        cdef const double* weights = NULL
        if w is not None:
            weights = &w[0]
        self._enter()
        self.busy = True
        try:
            self._grow(columns)
            if sparse:
                self._prepare_sparse()
            while True:
                with nogil:
                    learned = self._learn_rows(
                        value if sparse else value + done * columns * size, column,
                        start + done if sparse else NULL, columns, labels + done,
                        weights + done if weights != NULL else NULL,
                        out + done * width if out != NULL else NULL, width, n - done)
                done += learned
                if learned and fresh and out != NULL:
                    # before this sample its class was not known
                    out[(done - learned) * width + self.m.n_outputs - 1] = -INFINITY
                if done == n:
                    break
                if learned:
                    fresh = False
                if not fresh and labels[done] == self.m.n_outputs and self._classes is not None:
                    # the first sample of a class: from here on it has an output
                    self._add_output(new_classes[self.m.n_outputs - known])
                    fresh = True
                    continue
                if fresh:  # the class came with the refused sample
                    self._take_back(self.m.n_features, self.m.n_outputs - 1)
                break
        finally:
            self.busy = False
        if done and self.index.fixed:
            self.index.settle()
        if self.m.n_refused > refused:
            self._warn()
        if done < n:
            self._copy_row(value, column, start, columns, done)
            raise self._explain(labels[done], 1.0 if w is None else weights[done])

    cdef int _copy_row(self, const char* value, const int32_t* column, const int64_t* start,
                       Py_ssize_t columns, Py_ssize_t i) except -1:
        """Put row `i` of a table into the row, to say what is wrong with it."""
        cdef Py_ssize_t first = start[i] if start != NULL else i * columns, j
        self.row_is_sparse = start != NULL
        self.row_length = start[i + 1] - first if start != NULL else columns
        self._reserve_row(self.row_length)
        for j in range(self.row_length):
            if self.itemsize == sizeof(double):
                self.row[j] = (<const double*>value)[first + j]
            else:
                self.row[j] = (<const float*>value)[first + j]
            if start != NULL:
                self.row_column[j] = column[first + j]
        return 0

    cdef int _warn(self) except -1:
        warnings.warn(
            "an update that would have made a weight infinite or NaN, or larger than max_weight, was "
            "refused and its micro-batch dropped (n_refused counts them); lower the learning rate "
            "or scale the features",
            UpdateRefusedWarning,
            stacklevel=2,
        )
        return 0

    cdef object _explain_row(self):
        """The error for a row that is not finite in the model's precision, None if it is."""
        cdef Py_ssize_t j
        cdef double value
        self._row()
        for j in range(self.row_length):
            value = self.row[j] if self.itemsize == sizeof(double) else self.row_single[j]
            if value - value != 0.0:
                return BadSampleError(
                    f"value {self.row[j]} is not finite"
                    + ("" if self.row[j] - self.row[j] != 0.0 else " in float32"),
                    feature=self._name(self.row_column[j] if self.row_is_sparse else j),
                )
        return None

    cdef object _explain(self, double y, double w):
        """The error for the sample in the row, which the kernel refused."""
        error = self._explain_row()
        if error is not None:
            return error
        if y - y != 0.0:
            return BadSampleError(f"label {y} is not finite")
        if self.m.loss == SF_POISSON and y < 0.0:
            return BadSampleError(f"label {y} is negative, which the Poisson loss does not allow")
        if SF_LOG <= self.m.loss < SF_CROSS_ENTROPY and y != 0.0 and y != 1.0:
            return BadSampleError(f"label {y} is not False or True (0 or 1)")
        if w - w != 0.0 or w < 0.0:
            return BadSampleError(f"sample weight {w} is not a finite number >= 0")
        return BadSampleError("a value is so large that the scaler's variance is not finite")

    def flush_pending(self, double share=1.0):
        """Apply the pending samples, the learning rate multiplied by `share`."""
        cdef int64_t refused = self.m.n_refused
        self._enter()
        if self.itemsize == sizeof(double):
            sf_flush_f64(&self.m, share)
        else:
            sf_flush_f32(&self.m, share)
        if self.m.n_refused > refused:
            self._warn()

    def discard_pending(self):
        """Forget the pending samples; they stay counted as samples."""
        self._enter()
        sf_forget_pending(&self.m)

    # ---- predicting: never changes anything that is saved

    @cython.final
    cdef int _predict_rows(self, const void* value, const int32_t* column, const int64_t* start,
                           Py_ssize_t columns, Py_ssize_t n, double* out) except -1:
        """Predictors of rows; with the GIL, for nobody may move the arrays meanwhile."""
        if self.itemsize == sizeof(double):
            sf_predict_rows_f64(&self.m, value, column, start, columns, n, self.scaled, out)
        else:
            sf_predict_rows_f32(&self.m, value, column, start, columns, n, self.scaled, out)
        return 0

    @cython.final
    cdef double _predict(self, object x) except? -1.0:
        """The first predictor of one sample; all of them are in `predicted`."""
        cdef int64_t start[2]
        cdef double first = 0.0
        self._fill(x, False)
        start[0], start[1] = 0, self.row_length
        if self.m.n_outputs:
            self._predict_rows(
                self._row(), self.row_column if self.row_is_sparse else NULL, start,
                self.row_length, 1, self.predicted)
            first = self.predicted[0]
        if first - first != 0.0 or self.m.n_outputs == 0:
            error = self._explain_row()
            if error is not None:
                raise error
        return first

    def predictor_one(self, x):
        """Linear predictor of one sample; features without a column count nothing."""
        return self._predict(x)

    def mean_one(self, x):
        """Predict the target of one sample; features never seen count nothing."""
        return mean_of(self.m.loss, self._predict(x))

    def label_one(self, x, **kwargs):
        """Predict the label of one sample."""
        return self._predict(x) > 0.0

    def probability_one(self, x, **kwargs):
        """Predict the probabilities of False and True of one sample."""
        cdef double p = mean_of(self.m.loss, self._predict(x))
        return {False: 1.0 - p, True: p}

    def predictors_one(self, x):
        """Linear predictors of one sample, one for each output."""
        cdef Py_ssize_t k
        self._predict(x)
        return [self.predicted[k] for k in range(self.m.n_outputs)]

    def predict_table(self, table):
        """Linear predictors of a table's rows, shape (n, n_outputs); see `learn_table`."""
        cdef const double[:, ::1] doubles
        cdef const float[:, ::1] floats
        cdef const double[::1] double_data
        cdef const float[::1] float_data
        cdef const int32_t[::1] indices
        cdef const int64_t[::1] indptr
        cdef double[:, ::1] out
        cdef const void* value = NULL
        cdef int64_t n, columns
        if isinstance(table, tuple):
            data, indices_, indptr_, columns = table
            indices, indptr = indices_, indptr_
            n = indptr.shape[0] - 1
            out = np.empty((n, self.m.n_outputs))
            if out.size and indices.shape[0] and self.itemsize == sizeof(double):
                double_data = data
                value = &double_data[0]
            elif out.size and indices.shape[0]:
                float_data = data
                value = &float_data[0]
            if out.size:
                self._predict_rows(
                    value, &indices[0] if indices.shape[0] else <const int32_t*>&self.m,
                    &indptr[0], columns, n, &out[0, 0])
            return np.asarray(out)
        if self.itemsize == sizeof(double):
            doubles = table
            n, columns = doubles.shape[0], doubles.shape[1]
            if n and columns:
                value = &doubles[0, 0]
        else:
            floats = table
            n, columns = floats.shape[0], floats.shape[1]
            if n and columns:
                value = &floats[0, 0]
        out = np.empty((n, self.m.n_outputs))
        if out.size:
            self._predict_rows(value, NULL, NULL, columns, n, &out[0, 0])
        return np.asarray(out)

    # ---- what is known

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
        if self.m.sparse_pending:
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
        (n_classes, 1 + n_features). `gradient` is there only while samples are pending,
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
        if self.m.lr_factor != 1.0:
            state["lr_factor"] = self.m.lr_factor
        if self.m.schedule_start:
            state["schedule_start"] = self.m.schedule_start
        if self.m.standardize:
            state["n_scaled"] = self.m.n_scaled
            state["scaler_mean"] = self._statistic(self.m.mean_of)
            state["scaler_var"] = self._statistic(self.m.variance_of)
        return state

    def load_state(self, dict state, FeatureIndex index, classes=()):
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

    def forget_features(self, Py_ssize_t n):
        """Take back the columns from `n` on: no sample that has them was learned."""
        self._enter()
        self._take_back(n, self.m.n_outputs)

    def snapshot(self):
        """What `restore` needs to undo calls that come after: O(features), in one piece."""
        cdef Snapshot saved = Snapshot()
        cdef Py_ssize_t size = self.m.n_outputs * self.m.stride * self.itemsize
        cdef Py_ssize_t statistics = self.m.stride * sizeof(double) if self.m.standardize else 0
        cdef char* to
        cdef int i
        saved.m = self.m
        saved.touched = [self.m.touched[i] for i in range(self.m.n_touched)]
        saved.memory = to = <char*>malloc((3 + SF_SLOTS) * size + 2 * statistics + 1)
        if to == NULL:
            raise MemoryError("no memory for a copy of the model")
        for i in range(3 + SF_SLOTS):
            if i != 1 and self._in_use(i):
                memcpy(to, self._array(i)[0], size)
                to += size
        if statistics:
            memcpy(to, self.m.mean_of, statistics)
            memcpy(to + statistics, self.m.variance_of, statistics)
        return saved

    def restore(self, Snapshot saved):
        """Undo everything since `saved`, new features and classes included."""
        cdef sf_linear* m = &self.m
        cdef sf_linear* old = &saved.m
        cdef Py_ssize_t size = old.stride * self.itemsize, stride = m.stride * self.itemsize, k
        cdef char* source = saved.memory
        cdef char* array
        cdef int i
        self._enter()
        sf_forget_pending(m)
        for i in range(N_ARRAYS):
            if self._in_use(i):
                memset(self._array(i)[0], 0, self.output_capacity * stride)
        for i in range(3 + SF_SLOTS):
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
        m.loss_sum, m.loss_weight = old.loss_sum, old.loss_weight
        self._take_back(old.n_features if self.hashing is None else 0, old.n_outputs)
