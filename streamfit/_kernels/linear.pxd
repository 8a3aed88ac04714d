cimport cython

from streamfit._kernels.learning cimport LinearLearning


cdef class LinearKernel(LinearLearning):
    @cython.final
    cdef double _predict(self, object x) except? -1.0
