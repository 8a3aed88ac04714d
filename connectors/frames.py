"""Data frames as sources: pandas, polars, Arrow, and whatever else narwhals knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import narwhals.stable.v1 as nw
import numpy as np
import numpy.typing as npt

from streamfit.errors import BadSampleError, ConfigurationError, SourceError, shown
from streamfit.types import Block, Position

__all__ = ["FrameSource"]

_BLOCK_ROWS = 1024
_KEY = "samples:0"


class FrameSource:
    """The rows of a data frame, in order.

    The frame is never copied as a whole: each block's rows are converted when their turn comes.
    A null (for pandas NaN is one) is an absent feature, which counts 0; a row without a label is a
    bad sample; a null weight is 1. Where a feature is no number (text, categories, dates), samples
    are mappings, for a transformer (see `sf.Transformed`), and a null is None.

    Parameters
    ----------
    frame
        The frame.
    target
        Column of the label.
    weight
        Column of the sample's weight, if there is one.
    features
        Columns to keep; by default all but `target` and `weight`.

    Raises
    ------
    ConfigurationError
        When it is no data frame, or lacks a column.

    Examples
    --------
    >>> import pandas as pd
    >>> from connectors import FrameSource
    >>> frame = pd.DataFrame({"delay": [12.0, None], "late": [True, False]})
    >>> (block,) = FrameSource(frame, target="late")
    >>> block.x.tolist(), block.y.tolist(), block.features
    ([[12.0], [0.0]], [1.0, 0.0], ['delay'])
    """

    live = False

    def __init__(
        self,
        frame: Any,
        target: str,
        weight: str | None = None,
        features: Iterable[str] | None = None,
    ) -> None:
        try:
            self._frame = nw.from_native(frame, eager_only=True)
        except TypeError:
            raise ConfigurationError(f"{shown(frame)} is no data frame in memory") from None
        except ValueError as error:  # of pandas, whose columns may have one name
            raise ConfigurationError(f"the frame is refused: {error}") from None
        self.target, self.weight = target, weight
        names = list(self._frame.columns)
        if odd := [name for name in names if not isinstance(name, str)]:
            raise ConfigurationError(
                f"the names of the columns must be texts, not {odd[0]!r}: with pandas, "
                "frame.rename(columns=str)"
            )
        if isinstance(features, str):
            raise ConfigurationError(f"features must be a list of names, not {features!r}")
        self.features = (
            [name for name in names if name not in (target, weight)]
            if features is None
            else list(features)
        )
        wanted = [target, *([] if weight is None else [weight]), *self.features]
        if len(wanted) != len(set(wanted)):
            raise ConfigurationError("target, weight and features must all be different columns")
        if missing := [name for name in wanted if name not in names]:
            raise ConfigurationError(f"the frame has no columns {missing}; it has {names}")
        schema = self._frame.schema
        self._numeric = {name: _is_numeric(schema[name]) for name in wanted}
        if weight is not None and not self._numeric[weight]:
            raise ConfigurationError(f"column {weight!r} of weights is of type {schema[weight]}")
        self._row = 0

    def __repr__(self) -> str:
        kind = str(self._frame.implementation).rpartition(".")[2].lower()
        return f"FrameSource(<{kind} of {len(self._frame)} rows>, target={self.target!r})"

    def __iter__(self) -> Iterator[Block]:
        """Hand out blocks of rows, from the position to the end."""
        while self._row < len(self._frame):
            start = self._row
            rows = self._frame[start : min(start + _BLOCK_ROWS, len(self._frame))]
            try:
                block = self._block(rows, start)
            except (ValueError, OverflowError, TypeError, nw.exceptions.NarwhalsError) as error:
                place = f"rows {start} to {start + len(rows)} of the frame"
                raise SourceError(f"{place} cannot be read: {error!r:.200}") from error
            self._row += len(rows)
            yield block

    def position(self) -> Position:
        """Say how many rows have been handed out."""
        return {_KEY: self._row}

    def seek(self, position: Position) -> None:
        """Go to a row."""
        self._row = self._row_of(position)

    def lag(self, position: Position) -> int:
        """Count the rows left."""
        return len(self._frame) - self._row_of(position)

    def close(self) -> None:
        """Do nothing; there is nothing to release."""

    def _row_of(self, position: Position) -> int:
        row, n = position.get(_KEY), len(self._frame)
        if set(position) != {_KEY} or type(row) is not int or not 0 <= row <= n:
            raise SourceError(
                f"{position!r} is not a position of this frame; expected {{{_KEY!r}: row}} of {n}"
            )
        return row

    def _block(self, rows: Any, start: int) -> Block:
        labels = rows.get_column(self.target)
        missing = np.flatnonzero(labels.is_null().to_numpy()).tolist()
        y: Any = _labels(labels) if self._numeric[self.target] else labels.to_list()
        names: list[Any] | None = self.features
        x: Any
        if all(self._numeric[name] for name in self.features):
            x = np.empty((len(rows), len(self.features)))
            for j, name in enumerate(self.features):
                x[:, j] = _numbers(rows[name], 0)
        else:
            x, names = self._mappings(rows), None
        return Block(
            x=x,
            y=y,
            w=None if self.weight is None else _numbers(rows[self.weight], 1),
            offsets=range(start, start + len(rows)),
            features=names,
            errors={
                i: BadSampleError(f"target {self.target!r} is null").at("samples", 0, start + i)
                for i in missing
            },
        )

    def _mappings(self, rows: Any) -> list[dict[str, Any]]:
        columns = []
        for name in self.features:
            values = rows[name].to_list()
            if rows[name].null_count():
                nulls = rows[name].is_null().to_list()
                values = [None if null else v for v, null in zip(values, nulls, strict=True)]
            columns.append(values)
        return [dict(zip(self.features, row, strict=True)) for row in zip(*columns, strict=True)]


def _is_numeric(dtype: Any) -> bool:
    return bool(dtype.is_integer() or dtype.is_float() or dtype == nw.Boolean)


def _labels(column: Any) -> npt.NDArray[Any]:
    """Return labels as numbers; integers stay what they are, for they may name classes."""
    if not column.dtype.is_integer():
        return _numbers(column, 0)
    kind = np.int64 if column.dtype.is_signed_integer() else np.uint64
    return np.asarray((column.fill_null(0) if column.null_count() else column).to_numpy(), kind)


def _numbers(column: Any, null: int) -> npt.NDArray[np.float64]:
    """Return a column as float64, nulls as a number; a view where it can be one."""
    if column.null_count():
        column = column.fill_null(bool(null) if column.dtype == nw.Boolean else null)
    return np.asarray(column.to_numpy(), dtype=np.float64)
