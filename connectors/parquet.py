"""Parquet files as sources, read a row group at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfit.errors import ConfigurationError, DecodeError, MissingDependencyError, SourceError
from streamfit.types import Block, Position

try:
    import pyarrow as pa
    from pyarrow import parquet
except ImportError as error:
    raise MissingDependencyError(
        'ParquetSource needs a package that is not installed: pip install "streamfit[arrow]"'
    ) from error

__all__ = ["ParquetSource"]

_BLOCK_ROWS = 1024


class ParquetSource:
    """The rows of a Parquet file, in order.

    Columns are numbers or booleans; the label may also be text, the name of a class. A null is an
    absent feature, which counts 0; a row without a label is a bad sample; a null weight is 1. Row
    groups before the position are not read.

    Parameters
    ----------
    path
        The file. Its name is the name of the source.
    target
        Column of the label.
    weight
        Column of the sample's weight, if there is one.
    features
        Columns to keep; by default all but `target` and `weight`.
    labelled
        False: for predicting; label and weight are left out unread, if they are there at all.

    Raises
    ------
    ConfigurationError
        When the file lacks a column, or one that is used holds no numbers.
    SourceError
        When the file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import pyarrow as pa
    >>> from pyarrow import parquet
    >>> from connectors import ParquetSource
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "flights.parquet")
    ...     table = pa.table({"delay": [12, None], "late": [True, False]})
    ...     parquet.write_table(table, path)
    ...     (block,) = ParquetSource(path, target="late")
    >>> block.x.tolist(), block.y.tolist(), block.features
    ([[12.0], [0.0]], [1.0, 0.0], ['delay'])
    """

    live = False

    def __init__(
        self,
        path: str | Path,
        target: str | None,
        weight: str | None = None,
        features: Iterable[str] | None = None,
        *,
        labelled: bool = True,
    ) -> None:
        if labelled and not isinstance(target, str):
            raise ConfigurationError(f"target must be the name of a column, not {target!r}")
        if not isinstance(path, str | Path) or not str(path):
            raise ConfigurationError(f"path must be the path of a file, not {path!r}")
        self.path = Path(path)
        self.target = target
        self.labelled = labelled
        self.weight = weight
        self.features = None if features is None else list(features)
        with self._open() as file:
            schema = file.schema_arrow
            self._n_rows: int = file.metadata.num_rows
        others = [name for name in schema.names if name not in (target, weight)]
        self._used = others if self.features is None else self.features
        wanted = [name for name in (target, weight) if labelled and name is not None]
        wanted += self._used
        if len(wanted) != len(set(wanted)):
            raise ConfigurationError("target, weight and features must all be different columns")
        if missing := [name for name in wanted if name not in schema.names]:
            raise ConfigurationError(f"{self.path} has no columns {missing}; it has {schema.names}")
        for name in wanted:
            kind = schema.field(name).type
            if name == target and _is_text(kind):
                continue  # names of classes
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or kind == pa.bool_()):
                raise ConfigurationError(
                    f"column {name!r} of {self.path} is of type {kind}, no number; name the "
                    "columns to use with features=[...]"
                )
        self._columns = wanted
        self._key = f"{self.path.name}:0"
        self._row = 0

    def __repr__(self) -> str:
        return f"ParquetSource({str(self.path)!r})"

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, JSON-safe."""
        return {
            "id": "ParquetSource",
            "path": str(self.path.absolute()),
            "target": self.target,
            "weight": self.weight,
            "features": self.features,
            **({} if self.labelled else {"labelled": False}),
        }

    def __iter__(self) -> Iterator[Block]:
        """Hand out blocks of rows, from the position to the end."""
        with self._open() as file:
            first, groups = 0, range(file.num_row_groups)  # the first row that is read
            for group in groups:
                n = file.metadata.row_group(group).num_rows
                if first + n > self._row:
                    break
                first += n
                groups = groups[1:]
            try:
                for batch in file.iter_batches(_BLOCK_ROWS, list(groups), columns=self._columns):
                    rows = batch.slice(max(0, self._row - first))
                    first += len(batch)
                    if len(rows):
                        block = self._block(rows)
                        self._row = first
                        yield block
                        if self._row != first:
                            raise SourceError(f"{self!r} was sought while it was read")
            except (OSError, pa.ArrowException) as error:
                raise SourceError(f"cannot read {self.path} at row {first}: {error}") from error

    def position(self) -> Position:
        """Say how many rows have been handed out."""
        return {self._key: self._row}

    def seek(self, position: Position) -> None:
        """Go to a row."""
        self._row = self._row_of(position)

    def lag(self, position: Position) -> int:
        """Count the rows left."""
        return self._n_rows - self._row_of(position)

    def close(self) -> None:
        """Do nothing; the file is open only while it is iterated over."""

    def _row_of(self, position: Position) -> int:
        row = position.get(self._key)
        if set(position) != {self._key} or type(row) is not int or not 0 <= row <= self._n_rows:
            raise SourceError(
                f"{position!r} is not a position of {self.path}; expected {{{self._key!r}: row}} "
                f"of {self._n_rows} rows"
            )
        return int(row)

    def _open(self) -> Any:
        try:
            return parquet.ParquetFile(self.path)
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"cannot read {self.path}: {error}") from error

    def _block(self, rows: Any) -> Block:
        x = np.empty((len(rows), len(self._used)))
        for j, name in enumerate(self._used):
            x[:, j] = _numbers(rows.column(name), 0)
        labels = rows.column(self.target) if self.labelled else None
        weighted = self.labelled and self.weight is not None
        missing = [] if labels is None else np.flatnonzero(_nulls(labels)).tolist()
        return Block(
            x=x,
            y=[None] * len(rows) if labels is None else _labels(labels),
            w=_numbers(rows.column(self.weight), 1) if weighted else None,
            source=self.path.name,
            offsets=range(self._row, self._row + len(rows)),
            features=list(self._used),
            errors={
                i: DecodeError(f"target {self.target!r} is null").at(
                    self.path.name, 0, self._row + i
                )
                for i in missing
            },
        )


def _nulls(column: Any) -> Any:
    return column.is_null().to_numpy(zero_copy_only=False)


def _labels(column: Any) -> list[str | None] | npt.NDArray[np.float64]:
    return _numbers(column, 0) if not _is_text(column.type) else column.to_pylist()


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _numbers(column: Any, null: int) -> npt.NDArray[np.float64]:
    """Return a column as float64, nulls as a number."""
    fill = pa.scalar(bool(null) if column.type == pa.bool_() else null, column.type)
    values = column.fill_null(fill).to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=np.float64)
