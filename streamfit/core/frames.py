"""Tables in and out: arrays and data frames become float64 matrices and back.

River's narwhals helpers do the frames; they are imported only when a frame arrives, because
they are slow to import.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfit.errors import BadSampleError
from streamfit.types import FeatureName

__all__ = [
    "as_array",
    "as_real",
    "as_table",
    "as_vector",
    "is_frame",
    "is_scalar",
    "native_frame",
    "native_series",
    "rows_of",
]


def is_frame(X: object) -> bool:
    """Say whether `X` is a data frame (pandas, polars, Arrow, ...)."""
    return hasattr(X, "columns") or hasattr(X, "column_names")


def is_scalar(value: object) -> bool:
    """Say whether `value` is one number for all samples, not one each."""
    if isinstance(value, str | bytes) or not hasattr(value, "__len__"):
        return True
    return getattr(value, "shape", None) == ()


def as_table(X: Any) -> tuple[npt.NDArray[Any], list[FeatureName] | None]:
    """Return the 2-D array behind `X` and its column names, None for a bare array.

    Raises
    ------
    BadSampleError
        When `X` is not a table of numbers with two dimensions.
    """
    if is_frame(X):
        from river.utils import dataframe

        columns = X.column_names if hasattr(X, "column_names") else X.columns
        if len(set(columns)) < len(columns):
            raise BadSampleError("two columns have the same name")
        frame = dataframe.into_frame(X)
        if frame.implementation.is_pandas_like():  # whose schema narwhals is slow to tell
            numeric = {dtype.kind for dtype in X.dtypes} <= set("fiub")
        else:
            numeric = all(k.is_numeric() or str(k) == "Boolean" for k in frame.schema.values())
        if numeric:
            values = dataframe.to_numpy(frame)
        else:  # to_numpy would make numbers of text and dates; the kernel refuses them by name
            values = np.empty(frame.shape, dtype=object)
            for column, name in enumerate(frame.columns):
                values[:, column] = frame[name].to_list()
        names = [name.item() if isinstance(name, np.generic) else name for name in frame.columns]
        return values, names
    array = as_array(X)
    if array.ndim != 2:
        raise BadSampleError(f"X must have shape (n, n_features), not {array.shape}")
    return array, None


def as_array(values: Any) -> npt.NDArray[Any]:
    """Return numbers as an array; anything else keeps its elements as they are, to be refused.

    From a list of a number and a text NumPy would make two texts, and of a masked array it
    would take what is under the mask.
    """
    try:
        array: npt.NDArray[Any] = np.asarray(values)
        if isinstance(values, np.ma.MaskedArray):
            array = array.astype(object)
            array[np.ma.getmaskarray(values)] = None
        if array.dtype.kind in "fiub" or isinstance(values, np.ndarray):
            return array
        return np.asarray(values, dtype=object)
    except ValueError as error:
        raise BadSampleError(f"not a table of numbers: {error}") from None


def as_vector(values: Any, name: str, n: int) -> npt.NDArray[Any]:
    """Return labels or sample weights as a 1-D array of `n` entries, not yet checked."""
    array = as_array(values.to_numpy() if hasattr(values, "to_numpy") else values)
    if array.shape != (n,):
        raise BadSampleError(f"{name} must have shape ({n},), not {array.shape}")
    return array


def as_real(array: npt.NDArray[Any], dtype: type[np.floating[Any]]) -> npt.NDArray[Any] | None:
    """Return `array` C-contiguous in `dtype` if every number converts, None otherwise.

    What a double does not hold is rounded to one first, as everywhere: a number rounds the same
    whether it comes in a table or alone.
    """
    if array.dtype.kind not in "fiub":
        return None
    if array.dtype == dtype and array.flags.c_contiguous:
        return array
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as that
        doubles = array if array.dtype.kind == "f" and array.itemsize <= 8 else array.astype(float)
        return np.ascontiguousarray(doubles, dtype=dtype)


def native_series(values: npt.NDArray[Any], like: Any, name: str | None) -> Any:
    """Return `values` as a series of the library that made the frame `like`."""
    from river.utils import dataframe

    return dataframe.to_native_series(values, name=name, like=dataframe.into_frame(like))


def native_frame(columns: dict[Any, npt.NDArray[Any]], like: Any) -> Any:
    """Return `columns` as a frame of the library that made the frame `like`."""
    from river.utils import dataframe

    return dataframe.to_native_frame(columns, like=dataframe.into_frame(like))


def rows_of(
    array: npt.NDArray[Any], names: Sequence[FeatureName] | None
) -> list[npt.NDArray[Any] | dict[FeatureName, Any]]:
    """Return the rows of a table one by one, for data that has to be checked value by value."""
    if names is None:
        return list(array)
    return [dict(zip(names, row, strict=True)) for row in array]
