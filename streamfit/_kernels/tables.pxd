from libc.stdint cimport int32_t, int64_t


cdef struct Table:
    const char* value
    const int32_t* column  # NULL: dense
    const int64_t* start
    int64_t n, columns


cdef bint read_arrays(Table* t, const double** labels, X, y, bint single) except -1
cdef int read_table(Table* t, object table, bint single) except -1
