"""Tables of rows, dense or sparse, as the pointers that the kernels take."""

from cpython.buffer cimport PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer

import numpy as np

cdef object _array = np.ndarray
cdef object _double = np.dtype(np.float64)
cdef object _single = np.dtype(np.float32)


cdef bint read_arrays(Table* t, const double** labels, X, y, bint single) except -1:
    """Find the numbers of a matrix and its labels, if both are arrays as the kernels want them.

    The quick form of `read_table`, for calls with few rows: a memoryview costs more than a row.
    """
    cdef Py_buffer rows, column
    if (type(X) is not _array or X.dtype is not (_single if single else _double)
            or type(y) is not _array or y.dtype is not _double):
        return False
    PyObject_GetBuffer(X, &rows, PyBUF_STRIDES)
    PyObject_GetBuffer(y, &column, PyBUF_STRIDES)
    t.value, t.column, t.start = <const char*>rows.buf, NULL, NULL
    labels[0] = <const double*>column.buf
    cdef bint fit = rows.ndim == 2 and column.ndim == 1 and column.strides[0] == sizeof(double)
    if fit:
        t.n, t.columns = rows.shape[0], rows.shape[1]
        fit = (column.shape[0] == t.n and rows.strides[1] == rows.itemsize
               and rows.strides[0] == t.columns * rows.itemsize)
    PyBuffer_Release(&rows)
    PyBuffer_Release(&column)
    return fit


cdef int read_table(Table* t, object table, bint single) except -1:
    """Find the numbers of a table in the model's precision, which the caller keeps alive.

    It is a C-contiguous matrix, or of a sparse one (data, indices, indptr, n_columns): indices
    int32 that rise in each row and lie below n_columns, indptr int64, which the caller has checked.
    """
    t.value = NULL
    t.column = NULL
    t.start = NULL
    if isinstance(table, tuple):
        return _read_sparse(t, table, single)
    if single:
        return _read_single(t, table)
    return _read_double(t, table)


cdef int _read_double(Table* t, const double[:, ::1] matrix) except -1:
    t.n, t.columns = matrix.shape[0], matrix.shape[1]
    if t.n and t.columns:
        t.value = <const char*>&matrix[0, 0]
    return 0


cdef int _read_single(Table* t, const float[:, ::1] matrix) except -1:
    t.n, t.columns = matrix.shape[0], matrix.shape[1]
    if t.n and t.columns:
        t.value = <const char*>&matrix[0, 0]
    return 0


cdef int _read_sparse(Table* t, tuple table, bint single) except -1:
    cdef const double[::1] doubles
    cdef const float[::1] singles
    cdef const int32_t[::1] indices = table[1]
    cdef const int64_t[::1] indptr = table[2]
    t.n, t.columns = indptr.shape[0] - 1, table[3]
    t.start = &indptr[0]
    t.column = <const int32_t*>t.start  # of an empty table nothing is read
    if not indices.shape[0]:
        return 0
    t.column = &indices[0]
    if single:
        singles = table[0]
        t.value = <const char*>&singles[0]
    else:
        doubles = table[0]
        t.value = <const char*>&doubles[0]
    return 0
