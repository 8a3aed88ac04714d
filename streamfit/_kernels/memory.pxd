cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t

from streamfit._kernels.features cimport FeatureIndex
from streamfit._kernels.formulas cimport sf_linear
from streamfit._kernels.hashing cimport HashedFeatures

cdef enum:
    FIRST_SLOT = 4  # after parameters, next parameters, gradient, curvature
    N_ARRAYS = 12   # ... slots, next slots


cdef class Pieces:
    cdef list pieces

    cdef int add(self, size_t size) except -1
    cdef void* take(self) except NULL


cdef class LinearMemory:
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
    cdef unsigned long claimed        # the only thread that may change the model now; 0: any
    cdef object _milestones           # keeps the memory behind m.milestone
    # what predicting writes to: another thread may be learning
    cdef double* predicted
    cdef void* scaled

    cdef int _set_batch_size(self, batch_size) except -1
    cdef void** _array(self, int i) noexcept
    cdef bint _in_use(self, int i) noexcept
    cdef int _reserve(self, Py_ssize_t columns, Py_ssize_t outputs) except -1
    cdef double* _moved(self, double* old, void* new) noexcept
    cdef int _prepare_sparse(self, bint again=*) except -1
    cdef int _use_columns(self, Py_ssize_t columns) except -1
    cdef int _add_output(self, object name) except -1
    cdef int _take_back(self, Py_ssize_t columns, Py_ssize_t outputs) except -1
    cdef int _forget_names(self) except -1
    cdef bint _is_taken(self) noexcept
    cdef int _refuse_second(self) except -1

    @cython.final
    cdef inline int _grow(self, Py_ssize_t columns) except -1:
        """Begin to use the columns up to `columns`; their numbers are all zero."""
        if columns > self.m.n_features:
            self._use_columns(columns)
        return 0

    @cython.final
    cdef inline int _enter(self) except -1:
        """Begin to change the model, which no other thread is learning with."""
        if self.busy or self.claimed or self.m.param == NULL:
            self._refuse_second()
        return 0
