"""Samples, and the forms in which they may come to a learner: mappings, rows, tables, blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from streamfit.core.learner import LinearLearner
from streamfit.types import Block, FeatureName, FloatArray

__all__ = ["FORMS", "NAMED", "Arrival", "Samples", "feed"]


@dataclass(frozen=True)
class Samples:
    """`n` samples with named features; `w` is None when every weight is 1."""

    names: list[FeatureName]
    X: FloatArray
    y: npt.NDArray[Any]
    """Labels: numbers, or names of classes."""
    w: FloatArray | None

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, part: slice) -> Samples:
        return Samples(
            self.names, self.X[part], self.y[part], None if self.w is None else self.w[part]
        )

    def __repr__(self) -> str:
        return (
            f"Samples(names={self.names}, X=np.array({self.X.tolist()}), "
            f"y=np.array({self.y.tolist()}), "
            f"w={None if self.w is None else f'np.array({self.w.tolist()})'})"
        )

    @property
    def weights(self) -> FloatArray:
        """The sample weights, written out."""
        return np.ones(len(self)) if self.w is None else self.w

    def rows(self) -> list[dict[FeatureName, float]]:
        """Return the samples as mappings without their zeros: what is absent is 0."""
        return [
            {name: value for name, value in zip(self.names, row, strict=True) if value != 0.0}
            for row in self.X.tolist()
        ]


def _one_by_one(
    form: Callable[[Samples], Sequence[Any]],
) -> Callable[[LinearLearner, Samples], None]:
    def feed_one_by_one(model: LinearLearner, part: Samples) -> None:
        for x, y, w in zip(form(part), part.y.tolist(), part.weights.tolist(), strict=True):
            model.learn_one(x, y, w)

    return feed_one_by_one


def _table(form: Callable[[Samples], Any]) -> Callable[[LinearLearner, Samples], None]:
    return lambda model, part: model.learn_many(form(part), part.y, part.w)


def _block(form: Callable[[Samples], Any]) -> Callable[[LinearLearner, Samples], None]:
    def feed_block(model: LinearLearner, part: Samples) -> None:
        block = Block(form(part), part.y, part.w, offsets=range(len(part)))
        model.learn_block(block, 0, len(part))

    return feed_block


def _dicts(part: Samples) -> list[dict[FeatureName, float]]:
    return [dict(zip(part.names, row, strict=True)) for row in part.X.tolist()]


def _backwards(part: Samples) -> list[dict[FeatureName, float]]:
    return [dict(reversed(list(row.items()))) for row in part.rows()]


def _frame(part: Samples) -> Any:
    import pandas as pd  # a user's library, not one of ours

    return pd.DataFrame(part.X[:, ::-1], columns=part.names[::-1])


def _narrow_frame(part: Samples) -> Any:
    frame = _frame(part)[part.names]
    return frame.loc[:, (frame != 0.0).any()]


def _csr(part: Samples) -> Any:
    from scipy import sparse  # a user's library, not one of ours

    return sparse.csr_matrix(part.X)


def _csr_backwards(part: Samples) -> Any:
    """Columns falling in each row, and a zero written out in each that is not full."""
    from scipy import sparse

    columns = [
        [*np.flatnonzero(row)[::-1].tolist(), *np.flatnonzero(row == 0.0)[:1].tolist()]
        for row in part.X
    ]
    indices = np.array([j for row in columns for j in row], dtype=np.int64)
    indptr = np.cumsum([0, *map(len, columns)])
    data = np.array([part.X[i, j] for i, row in enumerate(columns) for j in row])
    return sparse.csr_array((data, indices, indptr), shape=part.X.shape)


def _coo(part: Samples) -> Any:
    from scipy import sparse

    return sparse.coo_array(part.X)


FORMS: dict[str, Callable[[LinearLearner, Samples], None]] = {
    "dicts": _one_by_one(_dicts),
    "sparse dicts": _one_by_one(lambda part: part.rows()),
    "sparse dicts, backwards": _one_by_one(_backwards),
    "rows": _one_by_one(lambda part: list(part.X)),
    "lists": _one_by_one(lambda part: part.X.tolist()),
    "array": _table(lambda part: part.X),
    "Fortran array": _table(lambda part: np.asfortranarray(part.X)),
    "object array": _table(lambda part: part.X.astype(object)),
    "CSR": _table(_csr),
    "CSR, backwards, with zeros": _table(_csr_backwards),
    "COO": _table(_coo),
    "frame": _table(_frame),
    "frame without columns of zeros": _table(_narrow_frame),
    "block of dicts": _block(_dicts),
    "block of sparse dicts": _block(lambda part: part.rows()),
    "block of rows": _block(lambda part: list(part.X)),
    "block of an array": _block(lambda part: part.X),
    "block of a CSR": _block(_csr),
}
"""Ways in which samples may come to a learner that knows their features, by name."""

NAMED: tuple[str, ...] = (
    *("dicts", "sparse dicts", "sparse dicts, backwards", "frame"),
    *("frame without columns of zeros",),
    *("block of dicts", "block of sparse dicts"),
)
"""The forms that name their features, and so may come before a learner knows any."""

Arrival: TypeAlias = list[tuple[str, int, int]]
"""Which form the samples `start` to `stop` come in, one entry after the other."""


def feed(model: LinearLearner, data: Samples, arrival: Arrival) -> None:
    """Let `model` learn `data` in the way that `arrival` says."""
    for form, start, stop in arrival:
        FORMS[form](model, data[start:stop])
