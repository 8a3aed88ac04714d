"""Features by hash: any number of names in a fixed number of columns."""

from cpython.dict cimport PyDict_Next
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_Check
from cpython.long cimport PyLong_AsDouble, PyLong_Check, PyLong_CheckExact
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_CheckExact
from libc.stdint cimport int32_t, int64_t, uint32_t, uintptr_t
from libc.stdlib cimport calloc, free

from streamfit.errors import BadSampleError, ConfigurationError

cdef extern from "sparse.h" nogil:
    uint32_t sf_murmur3(const unsigned char* data, int64_t n, uint32_t seed)

cdef enum:
    KNOWN = 1 << 15       # names whose hash is remembered
    LONGEST = 200         # characters of a name that is


cdef class HashedFeatures:
    """Feature names hashed into `2**bits` columns with a sign (Weinberger et al. 2009).

    For vocabularies without bound: the model has `2**bits` weights from the start, whatever
    names arrive, and keeps no names. Two names may share a column; their signs make such
    collisions cancel on average. The hash is MurmurHash3 and depends on nothing but the name.
    A name that is text has the column and the sign that scikit-learn's `FeatureHasher` gives it;
    the number k is hashed by its eight bytes.

    Parameters
    ----------
    bits
        1 to 28.

    Examples
    --------
    >>> import streamfit as sf
    >>> features = sf.HashedFeatures(bits=18)
    >>> features.column("user=anna"), features.sign("user=anna")
    (83790, -1.0)
    >>> model = sf.LogisticRegression(sf.optim.AdaGrad(0.1), features=features)
    >>> model.learn_one({"user=anna": 1.0, "item=17": 1.0}, True)
    >>> len(model.weights)
    2
    """

    def __cinit__(self):
        self._known = <void**>calloc(KNOWN, sizeof(void*))
        self._code = <int32_t*>calloc(KNOWN, sizeof(int32_t))
        if self._known == NULL or self._code == NULL:
            raise MemoryError("no memory for the hashes of names")

    def __init__(self, bits=18):
        if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 28:
            raise ConfigurationError(f"bits must be an integer from 1 to 28, not {bits!r:.60}")
        self.bits = bits

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self._known != NULL:
            for i in range(KNOWN):
                Py_XDECREF(<PyObject*>self._known[i])
        free(self._known)
        free(self._code)

    def __repr__(self):
        return f"HashedFeatures(bits={self.bits})"

    def __eq__(self, other):
        return type(other) is HashedFeatures and (<HashedFeatures>other).bits == self.bits

    def __hash__(self):
        return hash(("HashedFeatures", self.bits))

    def __reduce__(self):
        return HashedFeatures, (self.bits,)

    @property
    def n_columns(self):
        """Number of columns, `2**bits`."""
        return 1 << self.bits

    def column(self, name):
        """Column of a name."""
        cdef int32_t code = self.code(name)
        return code if code >= 0 else ~code

    def sign(self, name):
        """Sign by which the values of a name are multiplied: 1.0 or -1.0."""
        return 1.0 if self.code(name) >= 0 else -1.0

    cdef int32_t code(self, object name) except? -1:
        """Hash an exact str or int; the complement of the column says that the sign is minus."""
        cdef unsigned char number[8]
        cdef const char* text
        cdef Py_ssize_t n = 8
        cdef uint32_t h
        cdef int64_t value
        cdef int i
        if PyUnicode_CheckExact(name):
            try:
                text = PyUnicode_AsUTF8AndSize(name, &n)
            except UnicodeEncodeError:
                raise BadSampleError("a feature's name is not valid Unicode", feature=name) from None
            h = sf_murmur3(<const unsigned char*>text, n, 0)
        else:
            try:
                value = name
            except OverflowError:
                raise BadSampleError(
                    "a feature's number does not fit in 64 bits", feature=name
                ) from None
            for i in range(8):
                number[i] = <unsigned char>(value >> (8 * i) & 0xFF)
            h = sf_murmur3(number, 8, 1)
        # scikit-learn takes the absolute value; that of -2**31 is no 32-bit number
        cdef int64_t magnitude = h if h < 0x80000000u else 0x100000000 - <int64_t>h
        if h == 0x80000000u:
            magnitude = 0x7FFFFFFF - ((1 << self.bits) - 1)
        cdef int32_t column = <int32_t>(magnitude & ((1 << self.bits) - 1))
        return column if h < 0x80000000u else ~column

    cdef Py_ssize_t fill_dict(self, dict x, sf_entry* entry) except -2:
        """Write a dict as entries; return their number, or -1 if it is not plain.

        Plain are exact names and built-in numbers (see `FeatureIndex.fill_dict`).
        """
        cdef PyObject* key
        cdef PyObject* value
        cdef Py_ssize_t position = 0, i = 0
        cdef uintptr_t place
        cdef double number
        cdef int32_t code
        while PyDict_Next(x, &position, &key, &value):
            if PyFloat_Check(<object>value):
                number = PyFloat_AS_DOUBLE(<object>value)
            elif PyLong_Check(<object>value):
                try:
                    number = PyLong_AsDouble(<object>value)
                except OverflowError:
                    return -1
            else:
                return -1
            # the same object is the same name: one comparison instead of a hash
            place = (<uintptr_t>key >> 4) * <uintptr_t>0x9E3779B97F4A7C15 >> 49
            if self._known[place] == <void*>key:
                code = self._code[place]
            elif PyUnicode_CheckExact(<object>key):
                code = self.code(<object>key)
                if len(<str>key) <= LONGEST:
                    Py_INCREF(<object>key)
                    Py_XDECREF(<PyObject*>self._known[place])
                    self._known[place] = <void*>key
                    self._code[place] = code
            elif PyLong_CheckExact(<object>key):
                code = self.code(<object>key)
            else:
                return -1
            entry[i].column = code if code >= 0 else ~code
            entry[i].value = number if code >= 0 else -number
            i += 1
        return i
