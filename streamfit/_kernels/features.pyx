"""The feature index: which column a feature name has, and dict -> row.

A dict that arrives with its keys in the known order (the usual case) costs one identity
comparison a key; a hash look-up happens only where the order differs.
"""

from collections.abc import Mapping

from cpython.dict cimport PyDict_Next
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_AsDouble, PyFloat_Check, PyFloat_CheckExact
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.long cimport PyLong_Check
from cpython.object cimport PyObject
from libc.string cimport memset

import numpy as np

from streamfit.errors import BadSampleError, ConfigurationError


# NumPy converts some of these to float without a word, a date to its nanoseconds for one
NO_NUMBERS = (str, bytes, complex, np.complexfloating, np.datetime64, np.timedelta64)


cdef double real(object value) except? -1.0:
    """Convert as Python's `float` would, but refuse text, complex numbers and times."""
    if PyFloat_Check(value) or PyLong_Check(value):
        return PyFloat_AsDouble(value)
    if isinstance(value, NO_NUMBERS):
        raise TypeError
    if isinstance(value, np.ndarray) and value.dtype.kind not in "fiub":
        raise TypeError
    return PyFloat_AsDouble(value)


cdef str told(object value):
    """Say what `value` is, for an error; a poisoned record must not flood the log."""
    if value is None:
        return "is missing (None)"
    try:
        shown = repr(value)[:60]
    except Exception:  # Python refuses to print very long integers
        shown = "that cannot be shown"
    return f"{shown} is not a number ({type(value).__name__})"


cdef double number(object value, object name) except? -1.0:
    try:
        return real(value)
    except (TypeError, ValueError, OverflowError):
        raise BadSampleError(f"value {told(value)}", feature=name) from None


cdef double label(object value) except? -1.0:
    if PyFloat_CheckExact(value):
        return PyFloat_AS_DOUBLE(value)
    try:
        return real(value)
    except (TypeError, ValueError, OverflowError):
        raise BadSampleError(f"label {told(value)}") from None


cdef double sample_weight(object value) except? -1.0:
    if PyFloat_CheckExact(value):
        return PyFloat_AS_DOUBLE(value)
    try:
        return real(value)
    except (TypeError, ValueError, OverflowError):
        raise BadSampleError(f"sample weight {told(value)}") from None


cdef class FeatureIndex:
    """Which column each feature has, in the order in which the features were first seen.

    Parameters
    ----------
    names
        Features known from the start: str or int, no two alike.
    fixed
        Refuse samples that carry a feature not in `names`. By default an unknown feature
        gets the next column, with weight 0.

    Examples
    --------
    >>> from streamfit import FeatureIndex
    >>> index = FeatureIndex(["age", "income"])
    >>> len(index), index.names
    (2, ['age', 'income'])
    """

    def __init__(self, names=(), bint fixed=False):
        self.names = []
        self.fixed = False
        self._columns = {}
        if isinstance(names, (str, bytes)):
            raise ConfigurationError(f"features: names must be a list of names, not {names!r}")
        try:
            for name in names:
                if name in self._columns:
                    raise ConfigurationError(f"features: {name!r} is named twice")
                self._append(name)
        except (TypeError, BadSampleError) as error:
            raise ConfigurationError(f"features: {error}") from None
        if fixed and not self.names:
            raise ConfigurationError("features: a fixed index needs at least one name")
        self.fixed = fixed

    def __len__(self):
        return len(self.names)

    def __contains__(self, name):
        return name in self._columns

    def __repr__(self):
        return f"FeatureIndex({self.names!r}, fixed={bool(self.fixed)})"

    def __reduce__(self):
        return FeatureIndex, (list(self.names), bool(self.fixed))

    def copy(self):
        """Return an independent index with the same columns."""
        return FeatureIndex(self.names, self.fixed)

    def column(self, name):
        """Return the column of `name`, or None when it has none."""
        return self._columns.get(name)

    def _append(self, name):
        if not isinstance(name, (str, int)) or isinstance(name, bool):
            raise BadSampleError(
                f"a feature's name must be str or int, not {type(name).__name__}", feature=name
            )
        if self.fixed:
            raise BadSampleError("unknown feature; the feature index is fixed", feature=name)
        self._columns[name] = len(self.names)
        self.names.append(name)

    def align(self, names, Py_ssize_t n_columns, bint grow):
        """Find the columns of a matrix whose columns are `names` (None: by place).

        Returns
        -------
        list of int or None
            The column of each name, -1 where it has none (only when `grow` is false); None
            when the matrix's columns are the index's first columns in the same order.
        """
        cdef Py_ssize_t known = len(self.names), place
        if names is None:
            if known == 0 and grow and not self.fixed:
                for place in range(n_columns):
                    self._append(place)
            elif n_columns != known and not (known == 0 and not grow):
                raise BadSampleError(f"{n_columns} columns where the model has {known} features")
            return None if known or grow else [-1] * n_columns
        names = list(names)
        if len(names) != n_columns:
            raise BadSampleError(f"{n_columns} columns but {len(names)} feature names")
        if len(set(names)) != len(names):
            raise BadSampleError("two columns have the same name")
        try:
            columns = []
            for name in names:
                if grow and name not in self._columns:
                    self._append(name)
                columns.append(self._columns.get(name, -1))
        except BadSampleError:
            self.truncate(known)
            raise
        return None if columns == list(range(n_columns)) else columns

    cdef int truncate(self, Py_ssize_t n) except -1:
        """Forget the columns from `n` on: the sample that brought them was refused."""
        while len(self.names) > n:
            del self._columns[self.names.pop()]
        return 0

    cdef Py_ssize_t fill(self, object x, double* row, bint grow) except -1:
        """Write sample `x` into `row`, which has room for `len(self) + len(x)` columns.

        Returns the number of columns; absent features are 0. With `grow`, unknown features get
        a column (the caller takes them back with `truncate` if the sample is refused), without
        it they are passed over.
        """
        cdef PyObject* key
        cdef PyObject* value
        cdef Py_ssize_t known = PyList_GET_SIZE(self.names)
        cdef Py_ssize_t position = 0, i = 0, column
        cdef double number_
        if type(x) is not dict:
            if not isinstance(x, Mapping):
                return self._fill_from_array(x, row, grow)
            x = dict(x)
        if known:
            memset(row, 0, known * sizeof(double))
        while PyDict_Next(x, &position, &key, &value):
            if PyFloat_CheckExact(<object>value):
                number_ = PyFloat_AS_DOUBLE(<object>value)
            else:
                held = <object>key  # the value's __float__ may take the key out of the dict
                number_ = number(<object>value, held)
            if i < known and PyList_GET_ITEM(self.names, i) == key:
                row[i] = number_
            else:
                found = self._columns.get(<object>key)
                if found is not None and (grow or found < known):
                    row[<Py_ssize_t>found] = number_
                elif grow:
                    column = PyList_GET_SIZE(self.names)
                    self._append(<object>key)
                    row[column] = number_
            i += 1
        return PyList_GET_SIZE(self.names) if grow else known

    cdef Py_ssize_t _fill_from_array(self, object x, double* row, bint grow) except -1:
        cdef Py_ssize_t j, known = PyList_GET_SIZE(self.names)
        cdef const double[::1] values
        try:
            array = np.asarray(x)
            if isinstance(x, np.ma.MaskedArray):  # masked is missing
                array = array.astype(object)
                array[np.ma.getmaskarray(x)] = None
        except (TypeError, ValueError):
            raise BadSampleError(
                f"a sample must be a mapping or a 1-D array, not {type(x).__name__}"
            ) from None
        if array.ndim != 1:
            raise BadSampleError(
                f"a sample must be a mapping or a 1-D array, not {type(x).__name__}"
                f" of shape {array.shape}"
            )
        if array.dtype.kind not in "fiub":
            # a list keeps its elements' types, of which NumPy would have made one
            elements = x if isinstance(x, (list, tuple)) else list(array)
            values_ = [
                number(value, self.names[j] if j < known else j)
                for j, value in enumerate(elements)
            ]
            array = np.array(values_, dtype=np.float64)
        values = np.ascontiguousarray(array, dtype=np.float64)
        columns = self.align(None, values.shape[0], grow)
        if columns is not None:
            return 0
        for j in range(values.shape[0]):
            row[j] = values[j]
        return values.shape[0]
