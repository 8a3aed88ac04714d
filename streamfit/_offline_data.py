"""Reading data at rest for `streamfit.offline`: checked numbers, one column a feature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from streamfit.core import frames
from streamfit.errors import BadSampleError
from streamfit.types import FeatureName, FloatArray

__all__ = ["Data", "read"]

_BINARY = ("log", "hinge", "squared_hinge", "modified_huber")


class Data(NamedTuple):
    """Checked samples: finite numbers, one column a feature."""

    names: list[FeatureName]
    X: FloatArray
    y: FloatArray
    w: FloatArray


def read(config: dict[str, Any], X: Any, y: Any, w: Any) -> Data:
    """Turn what `fit_offline` takes into numbers, or refuse it."""
    known: list[FeatureName] = [] if config["features"] is None else config["features"]["names"]
    fixed = config["features"] is not None and config["features"]["fixed"]
    if isinstance(X, list | tuple) and (not X or isinstance(X[0], Mapping)):
        names, matrix = _from_mappings(X, known)
    else:
        names, matrix = _from_table(X, known)
    if fixed and len(names) > len(known):
        raise BadSampleError(
            "unknown feature; the feature index is fixed", feature=names[len(known)]
        )
    n = len(matrix)
    labels = _numbers(y, "label", n)
    weights = np.full(n, 1.0 if w is None else w) if frames.is_scalar(w) else w
    weights = _numbers(weights, "sample weight", n)
    for row, column in np.argwhere(~np.isfinite(matrix)).tolist():
        raise _at(row, f"value {matrix[row, column]} is not finite", names[column])
    for row in np.flatnonzero(~np.isfinite(labels)).tolist():
        raise _at(row, f"label {labels[row]} is not finite")
    if config["loss"]["id"] == "poisson":
        for row in np.flatnonzero(labels < 0).tolist():
            raise _at(
                row, f"label {labels[row]} is negative, which the Poisson loss does not allow"
            )
    if config["loss"]["id"] in _BINARY:
        for row in np.flatnonzero((labels != 0) & (labels != 1)).tolist():
            raise _at(row, f"label {labels[row]} is not False or True (0 or 1)")
    for row in np.flatnonzero(~(np.isfinite(weights) & (weights >= 0))).tolist():
        raise _at(row, f"sample weight {weights[row]} is not a finite number >= 0")
    return Data(names, matrix, labels, weights)


def _from_mappings(
    rows: list[Any] | tuple[Any, ...], known: list[FeatureName]
) -> tuple[list[FeatureName], FloatArray]:
    """Give each feature a column: the known ones first, the others as they appear."""
    columns = {name: column for column, name in enumerate(known)}
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise _at(i, f"a sample must be a mapping like the first, not {type(row).__name__}")
        for name in row:
            if not isinstance(name, str | int) or isinstance(name, bool):
                raise _at(
                    i, f"a feature's name must be str or int, not {type(name).__name__}", name
                )
            columns.setdefault(name, len(columns))
    matrix = np.zeros((len(rows), len(columns)))
    for i, row in enumerate(rows):
        for name, value in row.items():
            matrix[i, columns[name]] = _number(value, "value", i, name)
    return list(columns), matrix


def _from_table(X: Any, known: list[FeatureName]) -> tuple[list[FeatureName], FloatArray]:
    """Put the columns of a table in the order of the known features, new ones at the end."""
    table, found = frames.as_table(X)
    width = table.shape[1]
    if found is None:
        if known and width != len(known):
            raise BadSampleError(f"{width} columns where the model has {len(known)} features")
        found = known or list(range(width))
    if table.dtype.kind in "fiub":
        values = table.astype(np.float64)
    else:
        values = np.zeros(table.shape)
        for i, row in enumerate(table):
            values[i] = [_number(v, "value", i, f) for v, f in zip(row, found, strict=True)]
    names = list(dict.fromkeys([*known, *found]))
    if len(set(found)) < len(found):
        raise BadSampleError("two columns have the same name")
    matrix = np.zeros((len(values), len(names)))
    matrix[:, [names.index(name) for name in found]] = values
    return names, matrix


def _numbers(values: Any, what: str, n: int) -> FloatArray:
    """Read `n` labels or weights."""
    array = frames.as_vector(values, what, n)
    if array.dtype.kind in "fiub":
        return array.astype(np.float64)
    return np.array([_number(value, what, i) for i, value in enumerate(array)], dtype=np.float64)


# float() would take each of these, and a date as its nanoseconds
_NO_NUMBERS = (
    *(str, bytes, bytearray, memoryview, complex),
    *(np.complexfloating, np.datetime64, np.timedelta64, np.ndarray),
)


def _number(value: Any, what: str, row: int, feature: object = None) -> float:
    """Convert as Python's `float` would, but refuse text, complex numbers and times."""
    try:
        if isinstance(value, _NO_NUMBERS):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise _at(row, f"{what} is not a number ({type(value).__name__})", feature) from None


def _at(row: int, reason: str, feature: object = None) -> BadSampleError:
    return BadSampleError(reason, feature=feature).at("fit_offline", 0, row)
