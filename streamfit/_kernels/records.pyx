"""Records of JSON that differ from one another in their values alone, as rows of a table."""

import numpy as np

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp

cdef extern from "decimals.h" nogil:
    enum:
        SF_LEAST_POWER
        SF_MOST_POWER
    ctypedef struct sf_power:
        uint64_t high
        uint64_t low
    const char* sf_read_number(const char*, const sf_power*, double*, int*)

# what a value is for, if it is no column of the table
LABEL, WEIGHT, NOTHING = -1, -2, -3

cdef enum:
    label_ = -1
    nothing = -3

cdef sf_power POWERS[SF_MOST_POWER - SF_LEAST_POWER + 1]
cdef bint powers_are_there = False


cdef int make_powers() except -1:
    """The 128 highest bits of each power of ten, as Lemire's proof wants them rounded."""
    global powers_are_there
    for q in range(SF_LEAST_POWER, SF_MOST_POWER + 1):
        five = 5 ** abs(q)  # the power of two beside it changes no bit of these
        length = five.bit_length()
        if q >= 0:
            bits = (five << 128) >> length
        elif q >= -27:
            bits = (1 << (127 + length)) // five + 1
        else:
            bits = (1 << (128 + 2 * length)) // five + 1
        bits >>= bits.bit_length() - 128
        POWERS[q - SF_LEAST_POWER].high = bits >> 64
        POWERS[q - SF_LEAST_POWER].low = bits & 0xFFFFFFFFFFFFFFFF
    powers_are_there = True
    return 0


def read_number(bytes text not None):
    """The number that a text begins with, None if it is not for the quick way."""
    cdef double value
    cdef int is_integer
    if not powers_are_there:
        make_powers()
    return None if sf_read_number(text, POWERS, &value, &is_integer) == NULL else value


cdef class SameRecords:
    """Reads records that are the same text but for their values.

    Parameters
    ----------
    pieces
        The texts before, between and behind the values: one more than there are values.
    columns
        Of each value the column of the table, or `LABEL`, `WEIGHT`, `NOTHING`.

    Notes
    -----
    With the pieces of one valid record around them, numbers, plain texts, `true` and `false` always
    make a valid record of the same names in the same order: so nothing else of JSON is looked at.
    """

    cdef readonly list pieces, columns
    cdef bytes _text
    cdef int64_t[::1] _length, _column
    cdef Py_ssize_t _n_columns

    def __init__(self, list pieces not None, list columns not None):
        if len(pieces) != len(columns) + 1:
            raise ValueError(f"{len(pieces)} pieces around {len(columns)} values")
        if not powers_are_there:
            make_powers()
        self.pieces, self.columns = pieces, columns
        self._text = b"".join(pieces)
        self._length = np.array([len(piece) for piece in pieces], dtype=np.int64)
        self._column = np.array(columns, dtype=np.int64)
        self._n_columns = max(0, 1 + max(columns, default=-1))

    def __reduce__(self):
        return SameRecords, (self.pieces, self.columns)

    def read(self, list records not None, Py_ssize_t max_bytes):
        """Read records, bytes of at most `max_bytes`.

        Returns
        -------
        tuple or None
            The table of shape (n, n_columns), `n` labels, `n` weights; None if any record is another.
        """
        cdef Py_ssize_t n = len(records), i
        table = np.empty((n, self._n_columns))
        cdef double[:, ::1] rows = table
        cdef double none
        cdef list labels = [None] * n, weights = [None] * n
        for i in range(n):
            record = records[i]
            if type(record) is not bytes or PyBytes_GET_SIZE(record) > max_bytes:
                return None
            if not self._read(<bytes>record, &rows[i, 0] if self._n_columns else &none, i, labels,
                              weights):
                return None
        return table, labels, weights

    cdef bint _read(self, bytes record, double* row, Py_ssize_t i, list labels, list weights) except -1:
        """Read one record; False if it is another."""
        cdef const char* at = PyBytes_AS_STRING(record)
        cdef const char* end = at + PyBytes_GET_SIZE(record)
        cdef const char* piece = PyBytes_AS_STRING(self._text)
        cdef const char* start
        cdef Py_ssize_t j, length, column, n = self._column.shape[0]
        cdef double number
        cdef int is_integer = 0
        for j in range(n + 1):
            length = self._length[j]
            if end - at < length or memcmp(at, piece, length) != 0:
                return False
            at += length
            piece += length
            if j == n:
                break
            column = self._column[j]
            start = at
            if at[0] == b'"':
                at = end_of_text(at + 1)
                if at == NULL or (column != label_ and column != nothing):
                    return False
                if column == label_:
                    labels[i] = PyUnicode_DecodeASCII(start + 1, at - start - 2, NULL)
                continue
            if column == nothing and at[0] == b"n":
                if end - at < 4 or memcmp(at, b"null", 4) != 0:
                    return False
                at += 4
                continue
            if at[0] == b"t" or at[0] == b"f":
                number = at[0] == b"t"
                length = 4 if at[0] == b"t" else 5
                if end - at < length or memcmp(at, b"true" if length == 4 else b"false", length) != 0:
                    return False
                at += length
            else:
                at = sf_read_number(at, POWERS, &number, &is_integer)
                if at == NULL:
                    return False
            if column >= 0:
                row[column] = number
            elif column != nothing:
                (labels if column == label_ else weights)[i] = exact(number, start[0], is_integer)
                if is_integer and not -2.0**53 < number < 2.0**53:
                    return False  # which no double tells from its neighbours
        return at == end


cdef object exact(double number, char first, bint is_integer):
    """The number as it was written: a boolean, an integer or a float."""
    if first == b"t" or first == b"f":
        return first == b"t"
    return int(number) if is_integer else number


cdef const char* end_of_text(const char* at) noexcept nogil:
    """Where a text of printable ASCII without escapes ends, behind its quote; NULL: another text."""
    while at[0] != b'"':
        if at[0] < 32 or at[0] > 126 or at[0] == b"\\":
            return NULL
        at += 1
    return at + 1
