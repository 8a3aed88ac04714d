"""The one gradient path: every linear learner learns through `LinearLearner`.

A sample takes the same way whether it comes alone (`learn_one`), in a table (`learn_many`) or
in a block of a stream (`learn_block`): into the kernel, which adds its gradient to the pending
sum and updates when `batch_size` samples are in. `learn_one` and predicting one sample are the
kernel's own methods, for a Python call costs more than a small sample's arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfit._kernels import Snapshot, exact_label
from streamfit.core import frames, sparse
from streamfit.core.model import LinearModel
from streamfit.core.validation import check_choice
from streamfit.errors import BadSampleError, SourceError
from streamfit.types import Block, FeatureName, FloatArray, HoldsTable, Label

__all__ = ["LAST_BATCH", "LinearLearner"]

LAST_BATCH = ("apply", "scale", "drop", "carry")
"""What may be done with the partial micro-batch at the end of an epoch."""


class LinearLearner(LinearModel):
    """Base of the linear learners: learning and predicting tables and blocks.

    Subclasses name their losses and say what a prediction is.
    """

    # ---- learning

    def learn_many(self, X: Any, y: Any, w: Any = None) -> None:
        """Learn the rows of a table in order, exactly as `learn_one` would one by one.

        Parameters
        ----------
        X
            Array of shape (n, n_features), a pandas, polars or Arrow frame, or a sparse matrix of
            scipy's (CSR; others are converted).
        y
            `n` labels.
        w
            `n` sample weights, one number for all, or None (1 each).

        Raises
        ------
        BadSampleError
            When a row is refused; it names row and feature, and nothing of the call has been
            learned then.

        Notes
        -----
        To be all or nothing each call keeps a copy of the model meanwhile, which costs O(features):
        with many more features than a table has numbers use `learn_one`, or a `Trainer`.
        """
        before = self._snapshot(claim=True)
        try:
            if self._learn_at_once(X, y, w, before):
                return
            block = self._as_block(X, y, w)
            self._target_name = getattr(y, "name", None)
            self.learn_block(block, 0, len(block))
        except BaseException:
            self._restore(before)
            before.release()
            raise

    def _learn_at_once(self, X: Any, y: Any, w: Any, before: Snapshot) -> bool:
        """Learn arrays that are as the kernel wants them: small batches are mostly overhead.

        Returns whether it was done. A bad sample is left to the usual way, which says where it is.
        """
        if w is not None:
            return False
        try:
            done = self._learn_arrays(X, y)
            if not done and type(y) is np.ndarray and y.dtype.kind in "iub":
                done = self._learn_arrays(X, y.astype(np.float64))
        except BadSampleError:
            self._restore(before)
            return False
        if done and self._target_name is not None:  # setting an attribute costs as much as ten rows
            self._target_name = None
        return done

    def learn_block(
        self, block: Block, start: int, stop: int, predictors: FloatArray | None = None
    ) -> None:
        """Learn samples `start` to `stop` of a block.

        Parameters
        ----------
        block
            Samples that arrived together.
        start, stop
            The range to learn.
        predictors
            What `new_predictors` made for the block; receives each sample's linear predictors as
            they were before the sample was learned.

        Raises
        ------
        BadSampleError
            At the first bad sample, with its place. The samples before it are learned.
        """
        if not 0 <= start <= stop:
            raise SourceError(f"samples {start} to {stop} are no part of a block")
        if predictors is not None and self._classes is not None:
            width = self._n_classes_with(block.y[start:stop])
            if predictors.ndim != 2 or predictors.shape[1] < width:
                raise SourceError(
                    f"predictors has shape {predictors.shape}, the block needs {width} columns: "
                    "make it with new_predictors(block)"
                )
        before = self.n_samples
        try:
            if sparse.is_sparse(block.x):
                self._learn_sparse(block, start, stop, predictors)
            elif isinstance(block.x, np.ndarray):
                self._learn_array(block, start, stop, predictors)
            elif not isinstance(block.x, list) and isinstance(block.x, HoldsTable):  # which is slow
                self._learn_held(block, block.x, start, stop, predictors)
            else:
                self._learn_samples(block.x, block.y, block.w, start, stop, predictors)
        except BadSampleError as error:
            i = start + self.n_samples - before
            offset = block.offsets[i] if i < len(block.offsets) else i
            raise error.at(block.source, block.partition, offset) from None

    def _learn_held(
        self, block: Block, x: HoldsTable, start: int, stop: int, predictors: FloatArray | None
    ) -> None:
        """Learn mappings from the table that they are rows of.

        The first sample with new names is learned as a mapping, and so is whatever the table's way
        refuses: that names what is wrong.
        """
        table = x.table
        if table is not None and start < stop and not self._has_columns_of(x.names):
            self._learn_samples(block.x, block.y, block.w, start, start + 1, predictors)
            start += 1
        if table is not None and self._has_columns_of(x.names):
            before = self.n_samples
            try:
                rows = Block(table, block.y, block.w, features=x.names)
                self._learn_array(rows, start, stop, predictors)
                return
            except BadSampleError:
                start += self.n_samples - before
        self._learn_samples(block.x, block.y, block.w, start, stop, predictors)

    def _has_columns_of(self, names: Sequence[FeatureName]) -> bool:
        """Say whether all names are known, and not so few of all that sparse rows are better."""
        return (
            self.hashing is None
            and 0 < len(self.index) < 4 * len(names)
            and all(name in self.index for name in names)
        )

    def _learn_array(
        self, block: Block, start: int, stop: int, predictors: FloatArray | None
    ) -> None:
        table = np.asarray(block.x)[start:stop]
        labels, weights, out = _slices(block, start, stop, predictors)
        X, y = frames.as_real(table, self._real), self._as_labels(labels)
        w = None if weights is None else frames.as_real(frames.as_array(weights), np.float64)
        undecided = X is None or y is None or (w is None and weights is not None)
        if undecided or self.hashing is not None:  # one by one: each value is looked at
            rows = frames.rows_of(table, block.features)
            self._learn_samples(rows, labels, weights, 0, stop - start, out)
            return
        assert X is not None and y is not None  # noqa: PT018, for mypy
        self._begin()
        known, learned = len(self.index), self.n_samples
        try:
            columns = self.index.align(block.features, X.shape[1], grow=True)
            if columns is not None:
                X = _gather(X, columns, len(self.index))
            self._learn_table(X, y[0], w, y[1], out)
        finally:
            if self.n_samples == learned:  # the first row was refused, with its features
                self._forget_features(known)

    def _learn_sparse(
        self, block: Block, start: int, stop: int, predictors: FloatArray | None
    ) -> None:
        # names that are hashed together are added up before anything is rounded
        real = self._real if self.hashing is None else np.float64
        rows, error = sparse.read_rows(block.x, start, stop, real)
        n = len(rows[2]) - 1
        labels, weights, out = _slices(block, start, start + n, predictors)
        if self.hashing is None and self.scaler is None:
            y = self._as_labels(labels)
            w = None if weights is None else frames.as_real(frames.as_array(weights), np.float64)
            self._begin()
            known, learned = len(self.index), self.n_samples
            try:
                self.index.align(None, rows[3], grow=True)
                if y is None or (w is None and weights is not None):
                    mappings = sparse.mappings_of(rows, self.index.names)
                    self._learn_samples(mappings, labels, weights, 0, n, out)
                else:
                    self._learn_table(rows, y[0], w, y[1], out)
            finally:
                if self.n_samples == learned:
                    self._forget_features(known)
        elif self.hashing is not None:  # columns are the features 0, 1, 2, ...
            mappings = sparse.mappings_of(rows, range(rows[3]))
            self._learn_samples(mappings, labels, weights, 0, n, out)
        else:  # every feature is scaled, so every row is dense
            dense = Block(sparse.dense_of(rows), labels, weights)
            self._learn_array(dense, 0, n, out)
        if error is not None:
            raise error

    @property
    def _real(self) -> type[np.floating[Any]]:
        return np.float32 if self.dtype == "float32" else np.float64

    def _as_labels(self, labels: Any) -> tuple[FloatArray, list[Label]] | None:
        """Return labels as numbers, and the classes that are new; None if one is no label."""
        if self._classes is None:
            y = frames.as_real(frames.as_array(labels), np.float64)
            return None if y is None else (y, [])
        values: list[Any]
        if isinstance(labels, np.ndarray) and labels.dtype.kind in "iubU":
            unique, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
            values = [unique[i].item() for i in np.argsort(first)]
            numbered = np.argsort(np.argsort(first))[inverse]
        else:
            try:
                exact = [exact_label(label) for label in labels]
            except BadSampleError:
                return None
            place = {name: i for i, name in enumerate(dict.fromkeys(exact))}
            values = list(place)
            numbered = np.array([place[name] for name in exact], dtype=np.int64)
        number = {name: k for k, name in enumerate(self._classes)}
        new = [name for name in values if name not in number]
        if new and self.classes_fixed:
            return None
        number.update({name: len(number) + k for k, name in enumerate(new)})
        numbers = np.array([number[name] for name in values], dtype=np.float64)
        return np.ascontiguousarray(numbers[numbered]), new

    def new_predictors(self, block: Block) -> FloatArray:
        """Make the array that `learn_block` fills: one predictor for each sample.

        In softmax regression there is one for each sample and class, -inf where a class was not
        known yet.
        """
        if self._classes is None:
            return np.empty(len(block))
        return np.full((len(block), self._n_classes_with(block.y)), -np.inf)

    def _n_classes_with(self, labels: Any) -> int:
        """Count the classes there can be when samples with these labels are learned."""
        classes = set(self._classes or ())
        for label in labels:
            with suppress(BadSampleError):
                classes.add(exact_label(label))
        return len(classes)

    def _as_block(self, X: Any, y: Any, w: Any) -> Block:
        if sparse.is_sparse(X):
            table, names = sparse.as_csr(X), None
        else:
            table, names = frames.as_table(X)
        n = table.shape[0]
        if w is not None:
            w = np.full(n, w) if frames.is_scalar(w) else frames.as_vector(w, "w", n)
        return Block(
            x=table,
            y=frames.as_vector(y, "y", n),
            w=w,
            source="learn_many",
            offsets=range(n),
            features=names,
        )

    def flush(self, last_batch: str = "apply") -> None:
        """Deal with a partial micro-batch now; does nothing when no sample is pending.

        Parameters
        ----------
        last_batch
            `"apply"`: update with the pending samples (as Keras). `"scale"`: the same, the
            learning rate multiplied by `n_pending / batch_size`. `"drop"`: forget them (as
            PyTorch's `drop_last`). `"carry"`: keep them pending. Under `batch_size=None` the
            pending samples *are* the whole micro-batch and are applied in full, always.
        """
        check_choice("last_batch", last_batch, LAST_BATCH)
        size = self.current_batch_size
        if size is None or last_batch == "apply":
            self._flush_pending(1.0)
        elif last_batch == "scale":
            self._flush_pending(self.n_pending / size)
        elif last_batch == "drop":
            self._discard_pending()

    # ---- predicting

    def _predictors_many(self, X: Any) -> FloatArray:
        """Linear predictors of a table, shape (n, n_outputs)."""
        if sparse.is_sparse(X):
            return self._predictors_sparse(X)
        table, names = frames.as_table(X)
        matrix = frames.as_real(table, self._real)
        if matrix is None or self.hashing is not None:
            return self._predictors_of(frames.rows_of(table, names))
        columns = self.index.align(names, matrix.shape[1], grow=False)
        if columns is not None:
            matrix = _gather(matrix, columns, len(self.index))
        predictors = self._predict_table(matrix)
        if not np.isfinite(predictors).all():
            for row in np.flatnonzero(~np.isfinite(matrix).all(axis=1)):
                column = int(np.flatnonzero(~np.isfinite(matrix[row]))[0])
                raise BadSampleError(
                    f"value {matrix[row, column]} is not finite", feature=self.index.names[column]
                ).at("predict_many", 0, int(row))
        return predictors

    def _predictors_sparse(self, X: Any) -> FloatArray:
        csr = sparse.as_csr(X)
        real = self._real if self.hashing is None else np.float64
        rows, error = sparse.read_rows(csr, 0, csr.shape[0], real)
        if error is not None:
            raise error
        if self.hashing is None:
            self.index.align(None, rows[3], grow=False)
            names = self.index.names or range(rows[3])
        else:
            names = range(rows[3])
        if not np.isfinite(rows[0]).all() or self.hashing is not None:
            return self._predictors_of(sparse.mappings_of(rows, names))
        if self.scaler is not None:
            return self._predict_table(sparse.dense_of(rows))
        if not len(self.index):
            rows = (rows[0][:0], rows[1][:0], np.zeros_like(rows[2]), 0)
        return self._predict_table(rows)

    def _predictors_of(self, rows: list[Any]) -> FloatArray:
        predictors = [self.predictors_one(row) for row in rows]
        return np.array(predictors).reshape(len(rows), self.n_outputs)


def _slices(
    block: Block, start: int, stop: int, predictors: FloatArray | None
) -> tuple[Any, Any, FloatArray | None]:
    """Labels, weights and predictors of a part of a block."""
    return (
        block.y[start:stop],
        None if block.w is None else block.w[start:stop],
        None if predictors is None else predictors[start:stop],
    )


def _gather(matrix: npt.NDArray[Any], columns: list[int], n_features: int) -> npt.NDArray[Any]:
    """Move each column of `matrix` to its place in the feature index; absent features are 0."""
    gathered = np.zeros((len(matrix), n_features), dtype=matrix.dtype)
    known = [i for i, column in enumerate(columns) if column >= 0]
    gathered[:, [columns[i] for i in known]] = matrix[:, known]
    return gathered
