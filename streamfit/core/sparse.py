"""Sparse matrices in: the rows of a scipy CSR matrix, checked, without importing scipy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from streamfit.core.frames import as_real
from streamfit.errors import BadSampleError
from streamfit.types import FeatureName

__all__ = ["Rows", "as_csr", "dense_of", "is_sparse", "mappings_of", "read_rows"]

Rows: TypeAlias = tuple[npt.NDArray[Any], npt.NDArray[np.int32], npt.NDArray[np.int64], int]
"""Data, column indices that rise in each row, where the rows begin and end, number of columns."""


def is_sparse(X: object) -> bool:
    """Say whether `X` is a sparse matrix of scipy's (or of something like it)."""
    return hasattr(X, "tocsr")


def as_csr(X: Any) -> Any:
    """Return `X` by rows; refuse what the arrays of a broken matrix would make it read."""
    csr = X if getattr(X, "format", None) == "csr" else X.tocsr()
    indptr = np.asarray(csr.indptr)
    if csr.ndim != 2 or len(indptr) != csr.shape[0] + 1:
        raise BadSampleError(f"X must be a matrix, not of shape {csr.shape}")
    if indptr[0] < 0 or (np.diff(indptr) < 0).any():
        raise BadSampleError("the rows of the sparse matrix overlap: its indptr must rise")
    if indptr[-1] > min(len(csr.indices), len(csr.data)):
        raise BadSampleError("the sparse matrix has fewer entries than its indptr says")
    return csr


def read_rows(
    csr: Any, start: int, stop: int, dtype: type[np.floating[Any]]
) -> tuple[Rows, BadSampleError | None]:
    """Read rows `start` to `stop`, or those before the first bad one, and what is wrong with it.

    A row is bad when a column is out of range or comes twice, or when it holds no numbers.
    """
    indptr = np.asarray(csr.indptr[start : stop + 1], dtype=np.int64)
    first, last = int(indptr[0]), int(indptr[-1])
    indptr = indptr - first
    indices, data = np.asarray(csr.indices[first:last]), np.asarray(csr.data[first:last])
    n_columns = int(csr.shape[1])
    row = np.repeat(np.arange(stop - start), np.diff(indptr))
    error = None
    if data.dtype.kind not in "fiub":
        kind = BadSampleError(f"a sparse matrix of {data.dtype} holds no numbers")
        return _cut(np.zeros(0), indices[:0], indptr[:1], n_columns, dtype), kind

    def bad(places: npt.NDArray[Any], what: str) -> int:
        nonlocal error
        place = int(np.flatnonzero(places)[0])
        error = BadSampleError(f"column {indices[place]} {what} in row {start + row[place]}")
        return int(row[place])

    end = stop - start
    outside = (indices < 0) | (indices >= n_columns)
    if outside.any():
        end = bad(outside, f"is not one of the {n_columns} columns")
        indptr = indptr[: end + 1]
        indices, data, row = (a[: indptr[-1]] for a in (indices, data, row))
    same_row = row[1:] == row[:-1]
    if (same_row & (indices[1:] <= indices[:-1])).any():  # not in order, or twice
        order = np.lexsort((indices, row))
        indices, data = indices[order], data[order]
        twice = np.append(False, same_row & (indices[1:] == indices[:-1]))
        if twice.any():
            end = bad(twice, "comes twice")
            indptr = indptr[: end + 1]
            indices, data = indices[: indptr[-1]], data[: indptr[-1]]
    return _cut(data, indices, indptr, n_columns, dtype), error


def _cut(data: Any, indices: Any, indptr: Any, n_columns: int, dtype: Any) -> Rows:
    real = as_real(data, dtype)
    assert real is not None
    return (
        real,
        np.ascontiguousarray(indices, dtype=np.int32),
        np.ascontiguousarray(indptr, dtype=np.int64),
        n_columns,
    )


def mappings_of(rows: Rows, names: Sequence[FeatureName]) -> list[dict[FeatureName, float]]:
    """Return the rows as mappings, for data that has to be looked at value by value."""
    data, indices, indptr, _ = rows
    return [
        {names[j]: v for j, v in zip(indices[a:b].tolist(), data[a:b].tolist(), strict=True)}
        for a, b in zip(indptr[:-1].tolist(), indptr[1:].tolist(), strict=True)
    ]


def dense_of(rows: Rows) -> npt.NDArray[Any]:
    """Return the rows as a matrix."""
    data, indices, indptr, n_columns = rows
    dense = np.zeros((len(indptr) - 1, n_columns), dtype=data.dtype)
    dense[np.repeat(np.arange(len(dense)), np.diff(indptr)), indices] = data
    return dense
