"""The feature index: which column a feature name has, and dict -> row.

A dict that arrives with its keys in the known order (the usual case) costs one identity
comparison a key; a hash look-up happens only where the order differs.
"""

from collections.abc import Mapping

cimport cython
from cpython.dict cimport PyDict_Next
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_AsDouble, PyFloat_Check, PyFloat_CheckExact
from cpython.list cimport PyList_GET_SIZE
from cpython.long cimport PyLong_Check, PyLong_CheckExact
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_CheckExact
from libc.stdint cimport int32_t
from libc.string cimport memset

from streamfit._kernels.hashing cimport sf_entry

cdef extern from "dicts.h":
    Py_ssize_t sf_read_known(dict x, PyObject** name, Py_ssize_t limit, double* row)
    bint sf_plain_number(PyObject* value, double* number)

import numpy as np

from streamfit.errors import BadSampleError, ConfigurationError


# NumPy converts some of these to float without a word, a date to its nanoseconds for one
NO_NUMBERS = (
    *(str, bytes, bytearray, memoryview, complex),
    *(np.complexfloating, np.datetime64, np.timedelta64, np.ndarray),
)


MAXIMUM = 2**20


cdef double real(object value) except? -1.0:
    """Convert as Python's `float` would, but refuse text, complex numbers and times."""
    if PyFloat_Check(value) or PyLong_Check(value):
        return PyFloat_AsDouble(value)
    if isinstance(value, NO_NUMBERS):
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
    if value is True:
        return 1.0
    if value is False:
        return 0.0
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


def exact_label(label):
    """Return the label of a class as an exact bool, int or str."""
    # .item() of a date in nanoseconds is an int
    if isinstance(label, np.generic) and not isinstance(label, (np.datetime64, np.timedelta64)):
        label = label.item()
    if isinstance(label, float) and label.is_integer():
        return int(label)
    if type(label) is str or type(label) is int or type(label) is bool:
        return label
    if isinstance(label, str):
        return str.__str__(label)
    if isinstance(label, int):
        return int.__index__(label)
    raise BadSampleError(f"label {told(label)}, and no name of a class")


cdef object no_sample(object x, str more=""):
    return BadSampleError(
        f"a sample must be a mapping or a 1-D array, not {type(x).__name__}{more}"
    )


cdef extern from *:
    ctypedef struct PyListObject:
        PyObject** ob_item


cdef object exact(object name):
    """Return a feature's name as an exact str or int."""
    if type(name) is str or type(name) is int:
        return name
    if isinstance(name, str):
        return str.__str__(name)
    if isinstance(name, int) and not isinstance(name, bool):
        return int.__index__(name)
    raise BadSampleError(
        f"a feature's name must be str or int, not {type(name).__name__}", feature=name
    )


cdef object read_sample(object x, list names):
    """Convert a sample of any kind: a dict of exact names and floats, or a float64 array.

    Whatever code the sample brings along (`__float__`, `__iter__`, ...) runs here, before
    anything of the model is in use.
    """
    if isinstance(x, (str, bytes, bytearray, memoryview)):
        raise no_sample(x)
    if not isinstance(x, Mapping):
        if not (hasattr(x, "to_dict") and hasattr(x, "index")):  # a pandas Series has names
            return read_array(x, names)
        x = x.to_dict()
    return {exact(name): number(value, name) for name, value in dict(x).items()}

cdef object read_array(object x, list names):
    try:
        array = np.asarray(x)
        if isinstance(x, np.ma.MaskedArray):  # masked is missing
            array = array.astype(object)
            array[np.ma.getmaskarray(x)] = None
    except (TypeError, ValueError):
        raise no_sample(x) from None
    if array.ndim != 1:
        raise no_sample(x, f" of shape {array.shape}")
    if array.dtype.kind not in "fiub":
        # a list keeps its elements' types, of which NumPy would have made one
        elements = list(x) if isinstance(x, (list, tuple)) else list(array)
        known = list(names)
        numbers = [
            number(value, known[j] if j < len(known) else j)
            for j, value in enumerate(elements)
        ]
        array = np.array(numbers, dtype=np.float64)
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as that
        return np.ascontiguousarray(array, dtype=np.float64)


cdef class FeatureIndex:
    """Which column each feature has, in the order in which the features were first seen.

    Parameters
    ----------
    names
        Features known from the start: str or int, no two alike.
    fixed
        Refuse samples that carry a feature not in `names`; without names, one that the first
        learned sample did not have. By default an unknown feature gets the next column, with
        weight 0.
    maximum
        Most features to take: a stream of ever new names is refused before memory is full. For
        names without bound there is `HashedFeatures`.

    Examples
    --------
    >>> from streamfit import FeatureIndex
    >>> index = FeatureIndex(["age", "income"])
    >>> len(index), index.names
    (2, ['age', 'income'])
    """

    def __init__(self, names=(), fixed=False, maximum=MAXIMUM):
        if not isinstance(fixed, bool):
            raise ConfigurationError(f"features: fixed must be True or False, not {fixed!r:.60}")
        self._names = []
        self._open = True
        self.fixed = fixed
        if isinstance(maximum, bool) or not isinstance(maximum, int) or not 1 <= maximum < 2**31:
            raise ConfigurationError(
                f"features: maximum must be an integer from 1 to 2**31 - 1, not {maximum!r:.60}"
            )
        self.maximum = maximum
        self._columns = {}
        if isinstance(names, (str, bytes)):
            raise ConfigurationError(f"features: names must be a list of names, not {names!r}")
        try:
            for name in names:
                name = exact(name)
                if name in self._columns:
                    raise ConfigurationError(f"features: {name!r} is named twice")
                self._append(name)
        except (TypeError, BadSampleError) as error:
            raise ConfigurationError(f"features: {error}") from None
        self.settle()

    def __len__(self):
        return len(self._names)

    def __contains__(self, name):
        return name in self._columns

    def __repr__(self):
        return f"FeatureIndex({self._names!r}, fixed={bool(self.fixed)})"

    def __reduce__(self):
        return FeatureIndex, (list(self._names), bool(self.fixed), self.maximum)

    def copy(self, names=None):
        """Return an independent index with the same columns, or with others."""
        return FeatureIndex(self._names if names is None else names, self.fixed, self.maximum)

    def column(self, name):
        """Return the column of `name`, or None when it has none."""
        return self._columns.get(name)

    @property
    def names(self):
        """The features' names, by column."""
        return list(self._names)

    @cython.final
    cdef int settle(self) except -1:
        """A fixed index is closed when it has names: those of the first sample at the latest."""
        self._open = not self.fixed or not self._names
        return 0

    def _append(self, name):
        if not self._open:
            raise BadSampleError("unknown feature; the feature index is fixed", feature=name)
        if len(self._names) >= self.maximum:
            raise BadSampleError(
                f"the model has {self.maximum} features, the most it may have; raise the maximum "
                "of its FeatureIndex, or use HashedFeatures",
                feature=name,
            )
        # what a checkpoint could not bring back is refused before it is learned
        if type(name) is str:
            try:
                name.encode()
            except UnicodeEncodeError:
                raise BadSampleError("a feature's name is not valid Unicode", feature=name) from None
        elif not -(2**63) <= name < 2**63:
            raise BadSampleError("a feature's number does not fit in 64 bits", feature=name)
        self._columns[name] = len(self._names)
        self._names.append(name)

    def align(self, names, Py_ssize_t n_columns, bint grow):
        """Find the columns of a matrix whose columns are `names` (None: by place).

        Returns
        -------
        list of int or None
            The column of each name, -1 where it has none (only when `grow` is false); None
            when the matrix's columns are the index's first columns in the same order.
        """
        cdef Py_ssize_t known = len(self._names), place
        if names is None:
            if known == 0 and grow and self._open:
                for place in range(n_columns):
                    self._append(place)
            elif n_columns != known and not (known == 0 and not grow):
                raise BadSampleError(f"{n_columns} columns where the model has {known} features")
            return None if known or grow else [-1] * n_columns
        names = [exact(name) for name in names]
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

    @cython.final
    cdef int truncate(self, Py_ssize_t n) except -1:
        """Forget the columns from `n` on: the sample that brought them was refused."""
        while len(self._names) > n:
            del self._columns[self._names.pop()]
        if n == 0:
            self.settle()
        return 0

    @cython.final
    cdef Py_ssize_t fill_dict(self, dict x, double* row, Py_ssize_t limit, bint grow) except -2:
        """Write a dict into `row`; return the number of columns, or -1 if it is not plain.

        Plain are exact names and built-in numbers: no code of theirs can run while `row` and the
        dict are in use. `limit` columns are in use before; with `grow`, unknown features get
        further ones, for which `row` has room, otherwise they are passed over. Absent features
        are 0.
        """
        cdef PyObject* key
        cdef PyObject* value
        cdef Py_ssize_t position = 0, i = 0, column
        cdef bint in_order = True  # so far the names were the index's first ones
        cdef double number_
        cdef PyObject** names = (<PyListObject*>self._names).ob_item
        i = position = sf_read_known(x, names, limit, row)
        while PyDict_Next(x, &position, &key, &value):
            if not sf_plain_number(value, &number_):
                return -1
            if i < limit and names[i] == key:
                row[i] = number_
            else:
                if in_order:
                    in_order = False
                    if i < limit:
                        memset(row + i, 0, (limit - i) * sizeof(double))
                column = self._find(<object>key, limit, grow)
                if column == -1:
                    return -1
                if column >= 0:
                    row[column] = number_
                names = (<PyListObject*>self._names).ob_item  # the list may have grown
            i += 1
        if in_order and i < limit:
            memset(row + i, 0, (limit - i) * sizeof(double))
        return PyList_GET_SIZE(self._names) if grow else limit

    @cython.final
    cdef Py_ssize_t _find(self, object name, Py_ssize_t limit, bint grow) except -3:
        """Column of an exact name, new with `grow`; -1 if it is not exact, -2 if it has none."""
        if not (PyUnicode_CheckExact(name) or PyLong_CheckExact(name)):
            return -1
        found = self._columns.get(name)
        if found is not None:
            return <Py_ssize_t>found if grow or <Py_ssize_t>found < limit else -2
        if not grow:
            return -2
        self._append(name)
        return PyList_GET_SIZE(self._names) - 1

    @cython.final
    cdef Py_ssize_t fill_entries(
        self, dict x, sf_entry* entry, Py_ssize_t limit, bint grow
    ) except -2:
        """Write a dict as entries in its own order; return their number (see `fill_dict`)."""
        cdef PyObject* key
        cdef PyObject* value
        cdef Py_ssize_t position = 0, n = 0, column
        cdef double number_
        while PyDict_Next(x, &position, &key, &value):
            if not sf_plain_number(value, &number_):
                return -1
            column = self._find(<object>key, limit, grow)
            if column == -1:
                return -1
            if column >= 0:
                entry[n].column = <int32_t>column
                entry[n].value = number_
                n += 1
        return n

    @cython.final
    cdef Py_ssize_t fill_array(
        self, const double[::1] values, double* row, Py_ssize_t limit, bint grow
    ) except -2:
        """Write an array into `row` by place; see `fill_dict`."""
        cdef Py_ssize_t j
        if self.align(None, values.shape[0], grow) is not None or values.shape[0] > limit + (
            values.shape[0] if grow else 0
        ):
            return 0
        for j in range(values.shape[0]):
            row[j] = values[j]
        return values.shape[0]
