cimport cython

from streamfit._kernels.hashing cimport sf_entry

cdef double label(object value) except? -1.0
cdef double sample_weight(object value) except? -1.0
cdef object read_sample(object x, list names)


cdef class FeatureIndex:
    cdef list _names
    cdef readonly bint fixed
    cdef readonly object maximum
    cdef bint _open  # an unknown name gets a column
    cdef dict _columns

    @cython.final
    cdef int settle(self) except -1
    @cython.final
    cdef Py_ssize_t _find(self, object name, Py_ssize_t limit, bint grow) except -3
    @cython.final
    cdef Py_ssize_t fill_dict(self, dict x, double* row, Py_ssize_t limit, bint grow) except -2
    @cython.final
    cdef Py_ssize_t fill_entries(
        self, dict x, sf_entry* entry, Py_ssize_t limit, bint grow
    ) except -2
    @cython.final
    cdef Py_ssize_t fill_array(
        self, const double[::1] values, double* row, Py_ssize_t limit, bint grow
    ) except -2
    @cython.final
    cdef int truncate(self, Py_ssize_t n) except -1
