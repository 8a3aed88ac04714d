from libc.stdint cimport int32_t

cdef extern from "sparse.h" nogil:
    ctypedef struct sf_entry:
        double value
        int32_t column


cdef class HashedFeatures:
    cdef readonly int bits
    cdef void** _known     # names seen before: the object, a reference to which is held, ...
    cdef int32_t* _code    # ... and its column, or ~column where the sign is negative

    cdef int32_t code(self, object name) except? -1
    cdef Py_ssize_t fill_dict(self, dict x, sf_entry* entry) except -2
