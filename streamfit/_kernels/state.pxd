from streamfit._kernels.formulas cimport sf_linear
from streamfit._kernels.memory cimport LinearMemory


cdef class Snapshot:
    cdef sf_linear m
    cdef char* memory
    cdef list touched, classes
    cdef dict class_numbers
    cdef object index
    cdef LinearMemory claims          # whose only changer its thread is, for as long as this lives


cdef class LinearState(LinearMemory):
    cdef object _copy_out(self, const char* array)
    cdef object _gradient(self)
    cdef int _copy_in(self, char* array, values) except -1
    cdef object _statistic(self, const double* array)
