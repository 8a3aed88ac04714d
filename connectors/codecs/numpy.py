"""Rows of raw numbers as samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from connectors.codecs._fields import Fields
from streamfit.errors import ConfigurationError, DecodeError

__all__ = ["NumpyDecoder"]


class NumpyDecoder:
    """Decode the bytes of one row of numbers, as `ndarray.tobytes` writes it, into one sample.

    Parameters
    ----------
    columns
        Names of the numbers, in their order.
    target, weight, features
        Which of them are the label, the weight and the features (by default all others).
    labelled
        False: for predicting; label and weight are left out unread, if they are there at all.
    dtype
        Type of the numbers, with their byte order; `"<f8"` is float64.

    Raises
    ------
    DecodeError
        When called: for a record of another length.

    Examples
    --------
    >>> import numpy as np
    >>> from connectors import NumpyDecoder
    >>> decode = NumpyDecoder(["clicked", "age", "income"], target="clicked", dtype="<f4")
    >>> decode(np.array([1.0, 31.0, 2.5], dtype="<f4").tobytes())
    ({'age': 31.0, 'income': 2.5}, 1.0, None)
    """

    def __init__(
        self,
        columns: Iterable[str],
        target: str | None,
        weight: str | None = None,
        features: Iterable[str] | None = None,
        dtype: str = "<f8",
        *,
        labelled: bool = True,
    ) -> None:
        self.columns = [columns] if isinstance(columns, str) else list(columns)
        self.fields = Fields(target, weight, features, labelled)
        try:
            self._dtype = np.dtype(dtype)
        except TypeError:
            raise ConfigurationError(f"dtype {dtype!r} is no type of NumPy's") from None
        if self._dtype.kind not in "fiub":
            raise ConfigurationError(f"dtype must be one of numbers, not {dtype!r}")
        used = [*(self.fields.features or ())]
        if labelled:
            used += [self.fields.target, *([] if weight is None else [weight])]
        missing = [name for name in used if name not in self.columns]
        if missing or len(set(self.columns)) != len(self.columns):
            raise ConfigurationError(
                f"columns must be different names, with {missing} among them: {self.columns}"
            )
        self._size = len(self.columns) * self._dtype.itemsize

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, JSON-safe."""
        return {
            "id": "NumpyDecoder",
            "columns": self.columns,
            **self.fields.get_config(),
            "dtype": self._dtype.str,
        }

    def __call__(self, value: bytes | None) -> tuple[dict[str, Any], Any, float | None]:
        """Decode one record into `(x, y, w)`; see `Decoder`."""
        if value is None:
            raise DecodeError("tombstone: the record has no value")
        if len(value) != self._size:
            raise DecodeError(
                f"{len(value)} bytes, {len(self.columns)} numbers of type {self._dtype.str} have "
                f"{self._size}"
            )
        numbers = np.frombuffer(value, dtype=self._dtype).tolist()
        return self.fields.split(dict(zip(self.columns, numbers, strict=True)))
