"""The linear kernel, base class of the learners; `kernels.h` does the arithmetic.

It is built in layers, one idea each, every one inheriting from the one before:

    memory    configuration, arrays
    state     counters, the numbers out and in
    samples   one sample as a row
    learning  the calls that learn
    linear    the calls that predict

Methods stop at the first bad sample: what came before is learned, the bad one has left no trace.
Callers that promise more (a whole call or nothing) take a `Snapshot` first. Methods that begin
with an underscore trust their caller: they check neither columns, widths nor the parts of a state.
"""

from libc.stdint cimport int64_t

import numpy as np

from streamfit._kernels.formulas cimport mean_of
from streamfit._kernels.learning cimport LinearLearning
from streamfit._kernels.tables cimport Table, read_table


cdef class LinearKernel(LinearLearning):
    """One linear model: what it learns and predicts, one sample or a table at a time."""

    # predicting never changes anything that is saved

    cdef double _predict(self, object x) except? -1.0:
        """The first predictor of one sample; all of them are in `predicted`."""
        cdef int64_t start[2]
        cdef double first = 0.0
        self._fill(x, False)
        start[0], start[1] = 0, self.row_length
        if self.m.n_outputs:
            self._predict_rows(
                self._row(), self.row_column if self.row_is_sparse else NULL, start,
                self.row_length, 1, self.predicted)
            first = self.predicted[0]
        if first - first != 0.0 or self.m.n_outputs == 0:
            error = self._explain_row()
            if error is not None:
                raise error
        return first

    def predictor_one(self, x):
        """Linear predictor of one sample; features without a column count nothing."""
        return self._predict(x)

    def mean_one(self, x):
        """Predict the target of one sample; features never seen count nothing."""
        return mean_of(self.m.loss, self._predict(x))

    def label_one(self, x, **kwargs):
        """Predict the label of one sample."""
        return self._predict(x) > 0.0

    def probability_one(self, x, **kwargs):
        """Predict the probabilities of False and True of one sample."""
        cdef double p = mean_of(self.m.loss, self._predict(x))
        return {False: 1.0 - p, True: p}

    def predictors_one(self, x):
        """Linear predictors of one sample, one for each output."""
        cdef Py_ssize_t k
        self._predict(x)
        return [self.predicted[k] for k in range(self.m.n_outputs)]

    def _predict_table(self, table):
        """Linear predictors of a table's rows, shape (n, n_outputs); see `read_table`."""
        cdef Table t
        read_table(&t, table, self.itemsize == sizeof(float))
        cdef double[:, ::1] out = np.empty((t.n, self.m.n_outputs))
        if out.size:
            self._predict_rows(t.value, t.column, t.start, t.columns, t.n, &out[0, 0])
        return np.asarray(out)
