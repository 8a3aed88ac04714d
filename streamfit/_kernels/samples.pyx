"""One sample as a row: reading it, and saying what is wrong with it."""

from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free

from streamfit.errors import BadSampleError

from streamfit._kernels.features cimport read_sample
from streamfit._kernels.formulas cimport *
from streamfit._kernels.hashing cimport sf_entry
from streamfit._kernels.memory cimport Pieces
from streamfit._kernels.state cimport LinearState

cdef extern from "sparse.h" nogil:
    void sf_sort_entries(sf_entry*, sf_entry*, int64_t, int64_t)
    int64_t sf_write_row(const sf_entry*, int64_t, double*, int32_t*)
    void sf_prefetch(const void* address)

cdef enum:
    DENSE_BELOW = 64  # columns up to which a dict is always a dense row


def split_tuples(list batch not None):
    """Split samples, tuples (x, y) or (x, y, w), into columns: three lists, the last None without w.

    Returns None unless all are tuples of one length, 2 or 3.
    """
    cdef Py_ssize_t n = len(batch), i
    cdef Py_ssize_t width = len(<tuple>batch[0]) if n and type(batch[0]) is tuple else 0
    cdef list xs = [None] * n, ys = [None] * n, ws = [None] * (n if width == 3 else 0)
    cdef tuple sample
    if width != 2 and width != 3:
        return None
    for i in range(n):
        if type(batch[i]) is not tuple or len(<tuple>batch[i]) != width:
            return None
        sample = <tuple>batch[i]
        xs[i] = sample[0]
        ys[i] = sample[1]
        if width == 3:
            ws[i] = sample[2]
    return xs, ys, ws if width == 3 else None


cdef class LinearSamples(LinearState):
    """A sample as a dense or sparse row of the model's columns."""

    def __dealloc__(self):
        for pointer in (<size_t>self.row, <size_t>self.row_single, <size_t>self.row_column,
                        <size_t>self.entry, <size_t>self.spare_entry):
            free(<void*><size_t>pointer)

    cdef int _reserve_row(self, Py_ssize_t length) except -1:
        """Make room for one sample of so many numbers, and for zeros in every column."""
        if length <= self.row_capacity:
            return 0
        length = max(length, 2 * self.row_capacity, 16)
        cdef Pieces fresh = Pieces()
        for size in (sizeof(double), sizeof(float), sizeof(int32_t), sizeof(sf_entry),
                     sizeof(sf_entry)):
            fresh.add(length * size)
        free(self.row)
        free(self.row_single)
        free(self.row_column)
        free(self.entry)
        free(self.spare_entry)
        self.row = <double*>fresh.take()
        self.row_single = <float*>fresh.take()
        self.row_column = <int32_t*>fresh.take()
        self.entry = <sf_entry*>fresh.take()
        self.spare_entry = <sf_entry*>fresh.take()
        self.row_capacity = length
        return 0

    cdef Py_ssize_t _fill(self, object x, bint grow) except -2:
        """Put a sample into the row; return how many columns the model needs for it."""
        cdef Py_ssize_t columns
        if type(x) is dict:
            if grow:
                self._enter()
            columns = self._fill_plain(<dict>x, grow)
            if columns >= 0:
                return columns
            if grow:
                self.index.truncate(self.m.n_features if self.hashing is None else 0)
        # may run any code; from here on none runs but ours
        x = read_sample(x, self.index._names)
        if grow:
            self._enter()
        if type(x) is not dict and self.hashing is not None:
            x = dict(enumerate(x.tolist()))
        if type(x) is dict:
            return self._fill_plain(x, grow)
        if grow:
            self._forget_names()
        self._reserve_row(self.m.n_features + len(x))
        self.row_is_sparse = False
        self.row_length = self.index.fill_array(x, self.row, self.m.n_features, grow)
        return self.row_length

    cdef Py_ssize_t _fill_plain(self, dict x, bint grow) except -2:
        """The same for a dict; -1 if its values are no plain numbers."""
        cdef Py_ssize_t n, i, limit = self.m.n_features, given = len(x)
        if grow and PyList_GET_SIZE(self.index._names) > limit:
            self._forget_names()
        self._reserve_row(limit + given if self.hashing is None else given)
        if self.hashing is not None:
            # what comes later overwrites the row and the spare entries
            n = self.hashing.fill_dict(x, self.entry, <PyObject**>self.spare_entry, self.row)
        elif limit <= DENSE_BELOW or 4 * given > limit or self.m.standardize:
            n = self.index.fill_dict(x, self.row, limit, grow)
            self.row_is_sparse = False
            self.row_length = n
            return n
        else:
            n = self.index.fill_entries(x, self.entry, limit, grow)
        if n < 0:
            return n
        if self.hashing is None and grow:
            limit = len(self.index._names)
        for i in range(n):  # the weights, while the entries are sorted
            sf_prefetch(<char*>self.m.param + (SF_PAD + self.entry[i].column) * self.itemsize)
        sf_sort_entries(self.entry, self.spare_entry, n, limit)
        self.row_is_sparse = True
        self.row_length = sf_write_row(self.entry, n, self.row, self.row_column)
        return limit

    cdef const void* _row(self) noexcept:
        """The row in the model's precision."""
        cdef Py_ssize_t j
        if self.itemsize == sizeof(double):
            return self.row
        for j in range(self.row_length):
            self.row_single[j] = <float>self.row[j]
        return self.row_single

    cdef object _name(self, Py_ssize_t column):
        return self.index._names[column] if self.hashing is None else None

    cdef int _copy_row(self, const char* value, const int32_t* column, const int64_t* start,
                       Py_ssize_t columns, Py_ssize_t i) except -1:
        """Put row `i` of a table into the row, to say what is wrong with it."""
        cdef Py_ssize_t first = start[i] if start != NULL else i * columns, j
        self.row_is_sparse = start != NULL
        self.row_length = start[i + 1] - first if start != NULL else columns
        self._reserve_row(self.row_length)
        for j in range(self.row_length):
            if self.itemsize == sizeof(double):
                self.row[j] = (<const double*>value)[first + j]
            else:
                self.row[j] = (<const float*>value)[first + j]
            if start != NULL:
                self.row_column[j] = column[first + j]
        return 0

    cdef object _explain_row(self):
        """The error for a row that is not finite in the model's precision, None if it is."""
        cdef Py_ssize_t j
        cdef double value
        self._row()
        for j in range(self.row_length):
            value = self.row[j] if self.itemsize == sizeof(double) else self.row_single[j]
            if value - value != 0.0:
                return BadSampleError(
                    f"value {self.row[j]} is not finite"
                    + ("" if self.row[j] - self.row[j] != 0.0 else " in float32"),
                    feature=self._name(self.row_column[j] if self.row_is_sparse else j),
                )
        return None

    cdef object _explain(self, double y, double w):
        """The error for the sample in the row, which the kernel refused."""
        error = self._explain_row()
        if error is not None:
            return error
        if y - y != 0.0:
            return BadSampleError(f"label {y} is not finite")
        if self.m.loss == SF_POISSON and y < 0.0:
            return BadSampleError(f"label {y} is negative, which the Poisson loss does not allow")
        if SF_LOG <= self.m.loss < SF_CROSS_ENTROPY and y != 0.0 and y != 1.0:
            return BadSampleError(f"label {y} is not False or True (0 or 1)")
        if w - w != 0.0 or w < 0.0:
            return BadSampleError(f"sample weight {w} is not a finite number >= 0")
        return BadSampleError("a value is so large that the scaler's variance is not finite")
