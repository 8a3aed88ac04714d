from libc.stdint cimport int32_t, int64_t

from streamfit._kernels.hashing cimport sf_entry
from streamfit._kernels.state cimport LinearState


cdef class LinearSamples(LinearState):
    cdef double* row
    cdef float* row_single
    cdef int32_t* row_column
    cdef sf_entry* entry
    cdef sf_entry* spare_entry
    cdef Py_ssize_t row_capacity, row_length
    cdef bint row_is_sparse

    cdef int _reserve_row(self, Py_ssize_t length) except -1
    cdef Py_ssize_t _fill(self, object x, bint grow) except -2
    cdef Py_ssize_t _fill_plain(self, dict x, bint grow) except -2
    cdef const void* _row(self) noexcept
    cdef object _name(self, Py_ssize_t column)
    cdef int _copy_row(self, const char* value, const int32_t* column, const int64_t* start,
                       Py_ssize_t columns, Py_ssize_t i) except -1
    cdef object _explain_row(self)
    cdef object _explain(self, double y, double w)
