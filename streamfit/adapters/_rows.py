"""Samples as arrays of a fixed shape and type, for models that take whole micro-batches of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfit.errors import (
    BadSampleError,
    CheckpointMismatchError,
    ConfigurationError,
    shown,
)
from streamfit.types import FeatureName, StateDict

__all__ = ["ArraySpec", "MicroBatch", "as_label", "as_weight", "check_classes"]


@dataclass(frozen=True)
class ArraySpec:
    """What one input of a model wants of a sample.

    Parameters
    ----------
    shape
        Shape of one sample, without the batch.
    dtype
        Type of its elements, as NumPy names it.
    features
        Names of the features along the last axis, for samples that are mappings.
    """

    shape: tuple[int, ...]
    dtype: str
    features: tuple[FeatureName, ...] | None = None

    def read(self, x: Any, names: Sequence[FeatureName] | None = None) -> npt.NDArray[Any]:
        """Return a sample as an array of this shape and type, a copy of its own.

        Parameters
        ----------
        x
            An array; or a mapping of feature name to number, or a sequence of these (a window).
            An absent feature is 0, and what is not among `features` is left out.
        names
            Names of the last axis, when `x` is an array that has them.

        Raises
        ------
        BadSampleError
            When `x` has another shape, or a value is no finite number of this type.
        """
        if names is not None and self.features not in (None, tuple(names)):
            x = [dict(zip(names, row, strict=True)) for row in np.atleast_2d(np.asarray(x))]
            x = x[0] if len(self.shape) == 1 else x
        if isinstance(x, Mapping):
            x = self._values(x)
        elif isinstance(x, list | tuple) and any(isinstance(row, Mapping) for row in x):
            x = [self._values(row) for row in x]
        try:
            given = np.asarray(x)
        except (TypeError, ValueError) as error:
            raise BadSampleError(f"not an array of numbers: {error}") from None
        if given.dtype.kind not in "fiub":
            raise BadSampleError(f"not an array of numbers: {shown(x)}")
        if given.shape != self.shape:
            raise BadSampleError(f"shape {given.shape} where the model takes {self.shape}")
        with np.errstate(over="ignore", invalid="ignore"):
            array = np.array(given, dtype=self.dtype)
        self._check(given, array)
        return array

    def _values(self, row: Any) -> list[Any]:
        if not isinstance(row, Mapping):
            raise BadSampleError(f"a window of mappings holds {shown(row)}")
        if self.features is None:
            raise BadSampleError(
                "a sample is a mapping, and nothing says in which order the model takes its "
                "features; pass features=[...]"
            )
        values = [row.get(name, 0.0) for name in self.features]
        for name, value in zip(self.features, values, strict=True):
            if not isinstance(value, int | float | np.number | np.bool_):
                raise BadSampleError(f"{shown(value)} is not a number", feature=name)
        return values

    def _check(self, given: npt.NDArray[Any], array: npt.NDArray[Any]) -> None:
        """Refuse what became infinite, or another number, on its way into the type."""
        good = np.isfinite(array) if array.dtype.kind == "f" else array == given
        if good.all():
            return
        place = tuple(int(i) for i in np.argwhere(~good)[0])
        column = place[-1] if place else 0
        kind = "finite in" if array.dtype.kind == "f" else "a number of type"
        raise BadSampleError(
            f"value {given[place]} is not {kind} {self.dtype}"
            + (f", at {list(place)}" if len(place) > 1 else ""),
            feature=column if self.features is None else self.features[column],
        )


def as_label(y: Any) -> npt.NDArray[Any]:
    """Return a label as an array of finite numbers."""
    try:
        label = np.asarray(y)
    except (TypeError, ValueError):
        label = np.asarray(None)
    if label.dtype.kind not in "fiub":
        raise BadSampleError(f"label {shown(y)} is not a number")
    if not np.isfinite(label).all():
        raise BadSampleError(f"label {shown(y)} is not finite")
    return label


def as_weight(w: Any) -> float:
    """Return a sample weight, a finite number >= 0."""
    try:
        weight = float(w)
    except (TypeError, ValueError, OverflowError):
        weight = np.nan
    if not 0.0 <= weight < np.inf:
        raise BadSampleError(f"sample weight {shown(w)} is not a finite number >= 0")
    return weight


def check_classes(classes: list[Any], output: tuple[int, ...]) -> list[Any]:
    """Return the labels of a classifier whose output has this shape, all different."""
    n = 2 if output in ((), (1,)) else output[-1]
    if len(classes) != n or any(classes.index(label) != i for i, label in enumerate(classes)):
        raise ConfigurationError(f"classes must be {n} different labels, not {shown(classes)}")
    return classes


@dataclass
class MicroBatch:
    """The rows of the samples whose update has not happened yet.

    Parameters
    ----------
    specs
        One for each input of the model.
    """

    specs: Sequence[ArraySpec]
    x: list[list[npt.NDArray[Any]]] = field(default_factory=list)
    y: list[npt.NDArray[Any]] = field(default_factory=list)
    w: list[float] = field(default_factory=list)
    label_shape: tuple[int, ...] | None = None
    """Shape of every label, fixed by the first one."""

    def __len__(self) -> int:
        return len(self.y)

    def take(self, x: list[npt.NDArray[Any]], y: npt.NDArray[Any], w: float) -> None:
        """Add a sample, or refuse a label that does not stack on those before."""
        if self.label_shape not in (None, y.shape):
            raise BadSampleError(
                f"label of shape {y.shape}; the ones before had {self.label_shape}"
            )
        self.label_shape = y.shape
        self.x.append(x)
        self.y.append(y)
        self.w.append(w)

    def give_back(self, n: int) -> None:
        """Remove the last `n` samples."""
        keep = len(self) - n
        del self.x[keep:], self.y[keep:], self.w[keep:]

    def clear(self) -> None:
        """Remove all samples."""
        self.x, self.y, self.w = [], [], []

    def stacked(self, first: int = 0) -> list[npt.NDArray[Any]]:
        """Return the samples from `first` on, one array for each input."""
        return [np.stack(rows) for rows in zip(*self.x[first:], strict=True)]

    def state_dict(self) -> StateDict:
        """Return the rows as arrays."""
        shape = None if self.label_shape is None else list(self.label_shape)
        state: StateDict = {"n_pending": len(self), "label_shape": shape}
        if self.y:
            state |= {f"pending_x_{k}": rows for k, rows in enumerate(self.stacked())}
            state |= {"pending_y": np.stack(self.y), "pending_w": np.array(self.w)}
        return state

    def loaded(self, state: StateDict) -> MicroBatch:
        """Return the micro-batch that `state` describes.

        Raises
        ------
        CheckpointMismatchError
            When the state does not fit the model.
        """
        twin = MicroBatch(self.specs)
        try:
            n = state["n_pending"]
            if state["label_shape"] is not None:
                twin.label_shape = tuple(map(int, state["label_shape"]))
            for i in range(n):
                x = [state[f"pending_x_{k}"][i].copy() for k in range(len(self.specs))]
                twin.take(x, state["pending_y"][i].copy(), float(state["pending_w"][i]))
            told = {k: v for k, v in state.items() if k.startswith("pending_")}
            same = {k: v for k, v in twin.state_dict().items() if k.startswith("pending_")}
            fits = (
                told.keys() == same.keys()
                and all(
                    (v.shape, v.dtype) == (same[k].shape, same[k].dtype) for k, v in told.items()
                )
                and all(
                    (array.shape, array.dtype) == (spec.shape, np.dtype(spec.dtype))
                    for x in twin.x
                    for array, spec in zip(x, self.specs, strict=True)
                )
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointMismatchError(f"the state's pending rows: {error!r}") from None
        if not fits:
            raise CheckpointMismatchError("the state's pending rows do not fit this model")
        return twin
