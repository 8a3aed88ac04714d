from libc.stdint cimport int32_t, int64_t

from streamfit._kernels.samples cimport LinearSamples
from streamfit._kernels.tables cimport Table


cdef class LinearLearning(LinearSamples):
    cdef int _learn_sample(self, object x, object y, object w, double* predictors) except -1
    cdef Py_ssize_t _class_number(self, object name) except -1
    cdef int64_t _learn_row(self, double label_, double weight, double* predictors) except -1
    cdef int64_t _learn_rows(
        self, const void* value, const int32_t* column, const int64_t* start, int64_t columns,
        const double* labels, const double* weights, double* predictors, int64_t width, int64_t n,
    ) noexcept nogil
    cdef int _learn_all(self, const Table* t, const double* labels, const double* weights,
                        new_classes, double* out, int64_t width) except -1
    cdef int _check_lengths(self, Py_ssize_t rows, ys, ws, Py_ssize_t stop, predictors) except -1
    cdef int _warn(self) except -1
    cdef int _predict_rows(self, const void* value, const int32_t* column, const int64_t* start,
                           Py_ssize_t columns, Py_ssize_t n, double* out) except -1
