"""Reading data at rest for `streamfit.offline`: checked numbers, one column a feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from streamfit._offline_hashing import hash_columns
from streamfit.core import frames
from streamfit.errors import BadSampleError, ConfigurationError
from streamfit.types import FeatureName, FloatArray

__all__ = ["Data", "Label", "read", "read_shards"]

_BINARY = ("log", "hinge", "squared_hinge", "modified_huber")

Label: TypeAlias = str | int | bool
"""What may name a class."""


class Table(NamedTuple):
    """The rows of all samples, without the columns that are 0 in each of them."""

    names: Sequence[FeatureName]
    """The features of the model, in order."""
    columns: list[int]
    """Which of them the columns of `X` are."""
    X: FloatArray


class Data(NamedTuple):
    """Checked samples: finite numbers, one column a feature."""

    table: Table
    y: FloatArray
    """The labels; numbers of the classes, where the learner has several."""
    w: FloatArray
    classes: list[Label] | None = None


def read(config: dict[str, Any], X: Any, y: Any, w: Any) -> Data:
    """Turn what `fit_offline` takes into numbers, or refuse it."""
    table = _read_table(config, X)
    n = len(table.X)
    classes = None
    if config["loss"]["id"] == "cross_entropy":
        labels, classes = _class_numbers(y, n, config["classes"])
    else:
        labels = _numbers(y, "label", n)
        _check_labels(labels, config["loss"]["id"])
    weights = np.full(n, 1.0 if w is None else w) if frames.is_scalar(w) else w
    weights = _numbers(weights, "sample weight", n)
    for row in np.flatnonzero(~(np.isfinite(weights) & (weights >= 0))).tolist():
        raise _at(row, f"sample weight {weights[row]} is not a finite number >= 0")
    return Data(table, labels, weights, classes)


def read_shards(config: dict[str, Any], shards: Sequence[Any]) -> tuple[dict[str, Any], list[Data]]:
    """Read shards one by one; give all the same columns, and one numbering of the classes.

    Returns the configuration with them: the first sample of all may have set its features.
    """
    alone: list[Data] = []
    for number, shard in enumerate(shards):
        if not isinstance(shard, list | tuple) or len(shard) not in (2, 3):
            raise ConfigurationError(
                f"shards[{number}] must be (X, y) or (X, y, sample_weight), not {shard!r:.60}"
            )
        X, y, w = (*shard, None)[:3]
        try:
            data = read(config, X, y, w)
        except BadSampleError as error:
            raise error.at("shards", number, error.offset or 0) from None
        alone.append(data)
        features = config["features"] or {}
        if features.get("fixed") and not features.get("names"):  # the first sample has set them
            config = {**config, "features": {**features, "names": list(data.table.names)}}
    tables = _aligned([data.table for data in alone], "bits" in (config["features"] or {}))
    if alone[0].classes is None:
        return config, [Data(t, data.y, data.w) for t, data in zip(tables, alone, strict=True)]
    classes = list(dict.fromkeys(label for data in alone for label in data.classes or ()))
    number_of = {label: float(k) for k, label in enumerate(classes)}
    merged = []
    for t, data in zip(tables, alone, strict=True):
        numbers = [number_of[(data.classes or [])[int(k)]] for k in data.y]
        merged.append(Data(t, np.array(numbers, dtype=np.float64), data.w, classes))
    return config, merged


def _aligned(tables: Sequence[Table], hashed: bool) -> list[Table]:
    """Give tables the same names and columns."""
    names = tables[0].names if hashed else list(dict.fromkeys(n for t in tables for n in t.names))
    place = {name: column for column, name in enumerate(names)}
    found = [[place[table.names[column]] for column in table.columns] for table in tables]
    columns = sorted({column for some in found for column in some})
    at = {column: j for j, column in enumerate(columns)}
    aligned = []
    for table, some in zip(tables, found, strict=True):
        X = np.zeros((len(table.X), len(columns)))
        X[:, [at[column] for column in some]] = table.X
        aligned.append(Table(names, columns, X))
    return aligned


# ---- features


def _read_table(config: dict[str, Any], X: Any) -> Table:
    features = config["features"] or {}
    known: list[FeatureName] = list(features.get("names", ()))
    if isinstance(X, list | tuple) and (not X or isinstance(X[0], Mapping)):
        if features.get("fixed") and not known and X:
            known = list(X[0])  # the features of the first sample are all there will be
        table = _from_mappings(X, known)
    elif hasattr(X, "tocsr"):
        table = _from_sparse(X, known)
    else:
        table = _from_table(X, known)
    names, columns, matrix = table
    if features.get("fixed") and 0 < len(known) < len(names):
        raise BadSampleError(
            "unknown feature; the feature index is fixed", feature=names[len(known)]
        )
    if config.get("dtype") == "float32":
        with np.errstate(over="ignore"):  # becomes infinite, and is refused as that
            matrix = matrix.astype(np.float32).astype(np.float64)
    for row, column in np.argwhere(~np.isfinite(matrix)).tolist():
        raise _at(row, f"value {matrix[row, column]} is not finite", names[columns[column]])
    if "bits" in features:
        columns, matrix = hash_columns([names[j] for j in columns], matrix, features["bits"])
        names = range(2 ** features["bits"])
    return Table(names, columns, matrix)


def _from_mappings(rows: Sequence[Any], known: list[FeatureName]) -> Table:
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
    return Table(list(columns), list(columns.values()), matrix)


def _from_table(X: Any, known: list[FeatureName]) -> Table:
    """Put the columns of a table in the order of the known features, new ones at the end."""
    table, found = frames.as_table(X)
    width = table.shape[1]
    if found is None:
        found = _unnamed(width, known)
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
    return Table(names, list(range(len(names))), matrix)


def _from_sparse(X: Any, known: list[FeatureName]) -> Table:
    """Write out the columns of a sparse matrix that have an entry."""
    csr = X.tocsr()
    n, width = csr.shape
    names = _unnamed(width, known)
    entries: list[tuple[int, int, float]] = []
    for i, (start, stop) in enumerate(zip(csr.indptr[:-1], csr.indptr[1:], strict=True)):
        met: set[int] = set()
        for column, value in zip(
            csr.indices[start:stop].tolist(), csr.data[start:stop], strict=True
        ):
            if not 0 <= column < width:
                raise _at(i, f"column {column} of a matrix of {width} columns")
            if column in met:
                raise _at(i, "the row has this column more than once", names[column])
            met.add(column)
            entries.append((i, column, _number(value, "value", i, names[column])))
    columns = sorted({column for _, column, _ in entries})
    places = {column: j for j, column in enumerate(columns)}
    matrix = np.zeros((n, len(columns)))
    for i, column, value in entries:
        matrix[i, places[column]] = value
    return Table(names, columns, matrix)


def _unnamed(width: int, known: list[FeatureName]) -> list[FeatureName]:
    """Name the columns of a bare array: they are all the known features, or 0, 1, 2, ..."""
    if known and width != len(known):
        raise BadSampleError(f"{width} columns where the model has {len(known)} features")
    return known or list(range(width))


# ---- labels, weights, numbers


def _check_labels(labels: FloatArray, loss: str) -> None:
    for row in np.flatnonzero(~np.isfinite(labels)).tolist():
        raise _at(row, f"label {labels[row]} is not finite")
    if loss == "poisson":
        for row in np.flatnonzero(labels < 0).tolist():
            raise _at(
                row, f"label {labels[row]} is negative, which the Poisson loss does not allow"
            )
    if loss in _BINARY:
        for row in np.flatnonzero((labels != 0) & (labels != 1)).tolist():
            raise _at(row, f"label {labels[row]} is not False or True (0 or 1)")


def _class_numbers(y: Any, n: int, given: list[Label] | None) -> tuple[FloatArray, list[Label]]:
    """Give each class a number: its place among those given, or in order of appearance."""
    numbers = {label: number for number, label in enumerate(given or ())}
    found = np.zeros(n)
    for i, label in enumerate(frames.as_vector(y, "y", n).tolist()):
        if isinstance(label, float) and label.is_integer():
            label = int(label)  # noqa: PLW2901, a column of whole numbers is often of floats
        if not isinstance(label, str | int):
            raise _at(i, f"a label must be str, int or bool, not {type(label).__name__}")
        if given is not None and label not in numbers:
            raise _at(i, f"label {label!r} is none of the classes {given!r:.80}")
        found[i] = numbers.setdefault(label, len(numbers))
    return found, list(numbers)


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
