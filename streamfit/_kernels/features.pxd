cdef double label(object value) except? -1.0
cdef double sample_weight(object value) except? -1.0


cdef class FeatureIndex:
    cdef readonly list names
    cdef readonly bint fixed
    cdef dict _columns

    cdef Py_ssize_t fill(self, object x, double* row, bint grow) except -1
    cdef Py_ssize_t _fill_from_array(self, object x, double* row, bint grow) except -1
    cdef int truncate(self, Py_ssize_t n) except -1
