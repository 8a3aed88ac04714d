"""Features by hash: any number of names in a fixed number of columns."""

from cpython.long cimport PyLong_CheckExact
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_CheckExact
from libc.stdint cimport int32_t, int64_t, uint32_t, uintptr_t
from libc.stdlib cimport calloc, free

from streamfit.errors import BadSampleError, ConfigurationError

cdef extern from "dicts.h":
    Py_ssize_t sf_read_items(dict x, PyObject** name, double* value)

cdef extern from "sparse.h" nogil:
    uint32_t sf_murmur3(const unsigned char* data, int64_t n, uint32_t seed)
    void sf_prefetch(const void* address)

cdef enum:
    LINE = 64             # bytes that the cache keeps together
    WAYS = 4              # names in a set, which fill a line
    MOST_BITS = 16        # sets of names whose hash is remembered: at most 2**16
    LONGEST = 200         # characters of a name that is remembered
    UNKNOWN = -(1 << 30)  # no column's code


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

    def __init__(self, bits=18):
        if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 28:
            raise ConfigurationError(f"bits must be an integer from 1 to 28, not {bits!r:.60}")
        if self._known != NULL:
            raise TypeError("hashed features are made once; make other ones")
        self.bits = bits
        self._sets = (1 << min(bits, MOST_BITS)) - 1
        self._memory = calloc((self._sets + 2) * WAYS, sizeof(sf_known))
        if self._memory == NULL:
            raise MemoryError("no memory for the hashes of names")
        # from where the next line of the cache begins
        self._known = <sf_known*>(<uintptr_t>self._memory + LINE - 1 & ~<uintptr_t>(LINE - 1))

    def __dealloc__(self):
        cdef uintptr_t i
        if self._known != NULL:
            for i in range((self._sets + 1) * WAYS):
                Py_XDECREF(self._known[i].name)
        free(self._memory)

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
        elif not PyLong_CheckExact(name):
            raise BadSampleError(
                f"a feature's name must be str or int, not {type(name).__name__}", feature=name
            )
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

    cdef inline sf_known* _set_of(self, PyObject* name) noexcept:
        return self._known + WAYS * (
            (<uintptr_t>name >> 4) * <uintptr_t>0x9E3779B97F4A7C15 >> 48 & self._sets)

    cdef inline int32_t recall(self, PyObject* name) noexcept:
        """Find a name by the address of its object, which need not even be looked at."""
        cdef sf_known* known = self._set_of(name)
        cdef int32_t found = 0
        cdef int way
        for way in range(WAYS):  # without a branch: no processor could guess the way
            found |= -<int32_t>(known[way].name == name) & (known[way].code ^ UNKNOWN)
        return found ^ UNKNOWN

    cdef int32_t learn(self, object name) except? -1:
        """Return `code` of an exact name, and remember it for the next time."""
        cdef sf_known* known = self._set_of(<PyObject*>name)
        cdef int32_t code = self.code(name)
        cdef unsigned int way
        cdef int i
        if PyUnicode_CheckExact(name) and len(<str>name) <= LONGEST:
            self._turn += 1
            way = self._turn % WAYS  # whom a full set forgets
            for i in range(WAYS):
                if known[i].name == NULL:
                    way = i
                    break
            known += way
            Py_INCREF(name)
            Py_XDECREF(known.name)
            known.name = <PyObject*>name
            known.code = code
        return code

    cdef Py_ssize_t fill_dict(
        self, dict x, sf_entry* entry, PyObject** name, double* value
    ) except -2:
        """Write a dict as entries; return their number, or -1 if it is not plain.

        Plain are exact names and built-in numbers (see `FeatureIndex.fill_dict`). In `name` and
        `value` there is room for as many. Each step is a loop of its own, so that what memory is
        slow to bring is asked for early.
        """
        cdef Py_ssize_t n = sf_read_items(x, name, value), i
        cdef int32_t code, minus
        for i in range(n):
            sf_prefetch(self._set_of(name[i]))
        for i in range(n):
            code = self.recall(name[i])
            if code == UNKNOWN:
                if not (PyUnicode_CheckExact(<object>name[i]) or PyLong_CheckExact(<object>name[i])):
                    return -1
                code = self.learn(<object>name[i])
            minus = code >> 31  # 0 or, where the code is a complement, -1
            entry[i].column = code ^ minus
            entry[i].value = value[i] * (1 | minus)
        return n
