"""Learning: one sample, a sequence of them, a table."""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t

import warnings

from streamfit._kernels.features import exact_label
from streamfit.errors import BadSampleError, BusyError, SourceError, UpdateRefusedWarning

from streamfit._kernels.features cimport label, sample_weight
from streamfit._kernels.formulas cimport *
from streamfit._kernels.samples cimport LinearSamples
from streamfit._kernels.tables cimport Table, read_arrays, read_table

cdef extern from "kernels.h" nogil:
    int64_t sf_learn_dense_f64(sf_linear*, const void*, int64_t, const double*, const double*,
                               double*, int64_t, int64_t)
    int64_t sf_learn_dense_f32(sf_linear*, const void*, int64_t, const double*, const double*,
                               double*, int64_t, int64_t)
    int64_t sf_learn_sparse_f64(sf_linear*, const void*, const int32_t*, const int64_t*,
                                const double*, const double*, double*, int64_t, int64_t)
    int64_t sf_learn_sparse_f32(sf_linear*, const void*, const int32_t*, const int64_t*,
                                const double*, const double*, double*, int64_t, int64_t)
    void sf_flush_f64(sf_linear*, double)
    void sf_flush_f32(sf_linear*, double)
    void sf_predict_rows_f64(sf_linear*, const void*, const int32_t*, const int64_t*, int64_t,
                             int64_t, void*, double*)
    void sf_predict_rows_f32(sf_linear*, const void*, const int32_t*, const int64_t*, int64_t,
                             int64_t, void*, double*)


cdef class LinearLearning(LinearSamples):
    """The calls of the learning kernels."""

    def learn_one(self, x, y, w=1.0):
        """Learn one sample; the weights move when `batch_size` samples are in.

        Parameters
        ----------
        x
            Mapping of feature name to number, or a 1-D array. A feature that is absent is 0.
        y
            The label.
        w
            Weight of the sample, >= 0.

        Raises
        ------
        BadSampleError
            When the sample is refused; nothing has changed then.
        """
        self._learn_sample(x, y, w, NULL)

    cdef int _learn_sample(self, object x, object y, object w, double* predictors) except -1:
        cdef sf_linear* m = &self.m
        cdef double label_ = 0.0, weight = sample_weight(w)
        cdef Py_ssize_t columns, known = -1, outputs = -1
        cdef int64_t refused = m.n_refused
        cdef bint learned = False
        if self._classes is None:
            label_ = label(y)
        else:
            y = exact_label(y)
        try:
            columns = self._fill(x, True)
            known, outputs = m.n_features, m.n_outputs
            self._grow(columns)
            if self._classes is not None:
                label_ = self._class_number(y)
            if self._learn_row(label_, weight, predictors) == 0:
                raise self._explain(label_, weight)
            learned = True
            if predictors != NULL and self.m.n_outputs > outputs:
                predictors[outputs] = -INFINITY  # before this sample its class was not known
        finally:
            if not learned and not self._is_taken():
                if known < 0:  # what a value's own code may have learned stays
                    known, outputs = m.n_features, m.n_outputs
                self._take_back(known if self.hashing is None else 0, outputs)
        if self.index.fixed:
            self.index.settle()
        if m.n_refused > refused:
            self._warn()
        return 0

    cdef Py_ssize_t _class_number(self, object name) except -1:
        """Number of a class; an unknown one gets the next number."""
        number = self._class_numbers.get(name)
        if number is not None:
            return number
        if self.classes_fixed:
            raise BadSampleError(f"label {name!r:.60} is none of the classes {self._classes!r:.80}")
        self._add_output(name)
        return self.m.n_outputs - 1

    cdef int64_t _learn_row(self, double label_, double weight, double* predictors) except -1:
        cdef int64_t start[2]
        cdef const void* row = self._row()
        if self.row_is_sparse:
            self._prepare_sparse()
        start[0], start[1] = 0, self.row_length
        return self._learn_rows(
            row, self.row_column if self.row_is_sparse else NULL, start, self.row_length, &label_,
            NULL if weight == 1.0 else &weight, predictors, 0, 1)

    cdef int64_t _learn_rows(
        self, const void* value, const int32_t* column, const int64_t* start, int64_t columns,
        const double* labels, const double* weights, double* predictors, int64_t width, int64_t n,
    ) noexcept nogil:
        if column != NULL and self.itemsize == sizeof(double):
            return sf_learn_sparse_f64(&self.m, value, column, start, labels, weights, predictors,
                                       width, n)
        if column != NULL:
            return sf_learn_sparse_f32(&self.m, value, column, start, labels, weights, predictors,
                                       width, n)
        if self.itemsize == sizeof(double):
            return sf_learn_dense_f64(&self.m, value, columns, labels, weights, predictors, width, n)
        return sf_learn_dense_f32(&self.m, value, columns, labels, weights, predictors, width, n)

    def _learn_samples(self, xs, ys, ws, Py_ssize_t start, Py_ssize_t stop, predictors=None):
        """Learn samples `start` to `stop` of three sequences (`ws` may be None)."""
        cdef Py_ssize_t i, width = 1
        cdef double[:, ::1] table
        cdef double[::1] column
        cdef double* out = NULL
        self._check_lengths(len(xs), ys, ws, stop, predictors)
        if predictors is not None and predictors.ndim == 2:
            table = predictors
            width = table.shape[1]
            out = &table[0, 0] if table.size else NULL
        elif predictors is not None:
            column = predictors
            out = &column[0] if len(column) else NULL
        for i in range(start, stop):
            self._learn_sample(xs[i], ys[i], 1.0 if ws is None else ws[i],
                               NULL if out == NULL else out + i * width)

    cdef int _check_lengths(self, Py_ssize_t rows, ys, ws, Py_ssize_t stop, predictors) except -1:
        if (rows < stop or len(ys) < stop or (ws is not None and len(ws) < stop)
                or (predictors is not None and len(predictors) < stop)):
            raise SourceError("a block has fewer rows, labels or weights than samples")
        return 0

    def _learn_table(self, table, const double[::1] y, const double[::1] w, new_classes=(),
                     predictors=None):
        """Learn all rows of a table whose columns are the model's first columns.

        Holds no GIL while it runs.

        Parameters
        ----------
        table
            What `read_table` takes.
        y
            Labels, or numbers of classes: those not yet known have names in `new_classes`.
        w, predictors
            May be None.
        """
        cdef Table t
        cdef double[:, ::1] out_table
        cdef double[::1] out_column
        cdef int64_t width = 1
        cdef double* out = NULL
        read_table(&t, table, self.itemsize == sizeof(float))
        if t.n == 0:
            return
        self._check_lengths(t.n, y, w, t.n, predictors)
        if predictors is not None and predictors.ndim == 2:
            out_table = predictors
            width = out_table.shape[1]
            out = &out_table[0, 0] if width else NULL
        elif predictors is not None:
            out_column = predictors
            out = &out_column[0]
        cdef const double* weights = NULL
        if w is not None:
            weights = &w[0]
        self._learn_all(&t, &y[0], weights, new_classes, out, width)

    def _learn_arrays(self, X, y):
        """Learn a matrix in the model's precision with float64 labels, the quick way.

        Returns whether it was done: not when anything else is given, or the model is another kind.
        """
        cdef Table t
        cdef const double* labels
        if (self._classes is not None or self.hashing is not None
                or not read_arrays(&t, &labels, X, y, self.itemsize == sizeof(float))
                or t.columns == 0 or t.columns != len(self.index)):
            return False
        if t.n:
            self._learn_all(&t, labels, NULL, (), NULL, 1)
        return True

    cdef int _learn_all(self, const Table* t, const double* labels, const double* weights,
                        new_classes, double* out, int64_t width) except -1:
        """Learn all rows of a table; `out` receives `width` predictors of each, unless it is NULL."""
        cdef int64_t done = 0, learned, refused = self.m.n_refused
        cdef int64_t n = t.n, columns = t.columns, size = self.itemsize
        cdef Py_ssize_t known = self.m.n_outputs
        cdef bint fresh = False  # the last class has come, but not yet a learned sample of it
        cdef bint sparse = t.column != NULL
        self._enter()
        if self.hashing is None:
            if columns > len(self.index):
                raise BusyError("another thread changed the model's features meanwhile; use a lock")
            self.index.truncate(max(columns, self.m.n_features))
        self.busy = True
        try:
            self._grow(columns)
            if sparse:
                self._prepare_sparse()
            while True:
                with nogil:
                    learned = self._learn_rows(
                        t.value if sparse else t.value + done * columns * size, t.column,
                        t.start + done if sparse else NULL, columns, labels + done,
                        weights + done if weights != NULL else NULL,
                        out + done * width if out != NULL else NULL, width, n - done)
                done += learned
                if learned and fresh and out != NULL:
                    # before this sample its class was not known
                    out[(done - learned) * width + self.m.n_outputs - 1] = -INFINITY
                if done == n:
                    break
                if learned:
                    fresh = False
                if not fresh and labels[done] == self.m.n_outputs and self._classes is not None:
                    # the first sample of a class: from here on it has an output
                    self._add_output(new_classes[self.m.n_outputs - known])
                    fresh = True
                    continue
                if fresh:  # the class came with the refused sample
                    self._take_back(self.m.n_features, self.m.n_outputs - 1)
                break
        finally:
            self.busy = False
        if done and self.index.fixed:
            self.index.settle()
        if self.m.n_refused > refused:
            self._warn()
        if done < n:
            self._copy_row(t.value, t.column, t.start, columns, done)
            raise self._explain(labels[done], 1.0 if weights == NULL else weights[done])

    cdef int _warn(self) except -1:
        warnings.warn(
            "an update that would have made a weight infinite or NaN, or larger than max_weight, was "
            "refused and its micro-batch dropped (n_refused counts them); lower the learning rate "
            "or scale the features",
            UpdateRefusedWarning,
            stacklevel=2,
        )
        return 0

    def _flush_pending(self, double share=1.0):
        """Apply the pending samples, the learning rate multiplied by `share`."""
        cdef int64_t refused = self.m.n_refused
        self._enter()
        if self.itemsize == sizeof(double):
            sf_flush_f64(&self.m, share)
        else:
            sf_flush_f32(&self.m, share)
        if self.m.n_refused > refused:
            self._warn()

    def _discard_pending(self):
        """Forget the pending samples; they stay counted as samples."""
        self._enter()
        sf_forget_pending(&self.m)

    # ---- micro-batches in shares: see streamfit/core/sums.py

    def _hold_updates(self):
        """Let samples pend without end, until `_update_by_sums`."""
        self._enter()
        self.m.batch_size = 0

    def _pending_sums(self):
        """The sum of the pending samples' gradients, their number and the sum of their weights."""
        gradient = self._gradient()
        if not self.m.n_pending:
            gradient[...] = 0.0
        return gradient, self.m.n_pending, self.m.weight_pending

    def _forget_sums(self, known):
        """Be as before the pending samples, with the `known` first columns (None: hashed ones)."""
        self._enter()
        self.m.n_samples -= self.m.n_pending
        sf_forget_pending(&self.m)
        if known is not None:
            self._take_back(known, self.m.n_outputs)

    def _update_by_sums(self, gradient, int64_t n, double weight, new_features,
                        int64_t batch_size, double part):
        """Update by sums as `_pending_sums` returns them; nothing else is pending.

        The last columns get the names `new_features`. `part` multiplies the learning rate; 0: nothing
        but the counts and the names changes.
        """
        self._enter()
        self.m.batch_size = batch_size
        for name in new_features:
            self.index._append(name)
        if self.hashing is None:
            self._grow(len(self.index))
        self._copy_in(<char*>self.m.grad, gradient)
        self.m.n_samples += n
        self.m.n_pending, self.m.weight_pending = n, weight
        if part > 0.0:
            self._flush_pending(part)
        else:
            sf_forget_pending(&self.m)

    cdef int _predict_rows(self, const void* value, const int32_t* column, const int64_t* start,
                           Py_ssize_t columns, Py_ssize_t n, double* out) except -1:
        """Predictors of rows; with the GIL, for nobody may move the arrays meanwhile."""
        if self.itemsize == sizeof(double):
            sf_predict_rows_f64(&self.m, value, column, start, columns, n, self.scaled, out)
        else:
            sf_predict_rows_f32(&self.m, value, column, start, columns, n, self.scaled, out)
        return 0
