cdef double label(object value) except? -1.0
cdef double sample_weight(object value) except? -1.0


cdef class FeatureIndex:
    cdef list _names
    cdef readonly bint fixed
    cdef dict _columns

    cdef object read(self, object x)
    cdef Py_ssize_t fill_dict(self, dict x, double* row, Py_ssize_t limit, bint grow) except -2
    cdef Py_ssize_t fill_array(
        self, const double[::1] values, double* row, Py_ssize_t limit, bint grow
    ) except -2
    cdef int truncate(self, Py_ssize_t n) except -1
