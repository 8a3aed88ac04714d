from cpython.object cimport PyObject
from libc.stdint cimport int32_t, uintptr_t

cdef extern from "sparse.h" nogil:
    ctypedef struct sf_entry:
        double value
        int32_t column


cdef struct sf_known:
    PyObject* name  # a reference is held, so no other object can have its address
    int32_t code


cdef class HashedFeatures:
    cdef readonly int bits
    cdef void* _memory
    cdef sf_known* _known  # names seen before
    cdef uintptr_t _sets   # how many sets of them, less 1
    cdef unsigned int _turn

    cdef sf_known* _set_of(self, PyObject* name) noexcept
    cdef int32_t recall(self, PyObject* name) noexcept
    cdef int32_t learn(self, object name) except? -1

    cdef int32_t code(self, object name) except? -1
    cdef Py_ssize_t fill_dict(
        self, dict x, sf_entry* entry, PyObject** name, double* value
    ) except -2
