"""CSV and JSON Lines files as sources, resumable at any record.

The position is a count of records, `{"flights.csv:0": 1234}`, so that an error or a checkpoint
names a place a reader can find. Going to a record reads the file up to it once; after that the
byte at which every 1024th record begins is known, and going back costs no more than a block.
"""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from streamfit.errors import BadSampleError, ConfigurationError, DecodeError, SourceError
from streamfit.types import Block, Decoder, Position

__all__ = ["CSVSource", "JSONLinesSource"]

_BLOCK_RECORDS = 1024
_MAX_LINE = 1 << 24


class _Lines:
    """Lines of a file as text or bytes, and how much of it they were."""

    def __init__(self, file: BinaryIO, byte: int, line: int) -> None:
        self._file = file
        self.byte = byte
        self.line = line
        file.seek(byte)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Return a line as text, for the `csv` module."""
        line = self.next_bytes()
        if line is None:
            raise StopIteration
        try:
            return line.decode("utf-8-sig" if self.line == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DecodeError(f"line {self.line}: not UTF-8: {error.reason}") from None

    def next_bytes(self) -> bytes | None:
        """Return a line with its end, or None after the last."""
        line = self._file.readline(_MAX_LINE)
        size = len(line)
        self.line += bool(line)
        whole = not line or line.endswith(b"\n") or size < _MAX_LINE
        while not whole:
            rest = self._file.readline(_MAX_LINE)
            size += len(rest)
            whole = not rest or rest.endswith(b"\n")
        self.byte += size
        if size > _MAX_LINE:
            raise DecodeError(f"line {self.line}: longer than {_MAX_LINE} bytes")
        return line or None


class _FileSource(ABC):
    """What the files have in common: blocks, positions, and the index of records."""

    live = False

    def __init__(self, path: str | Path) -> None:
        if not isinstance(path, str | Path) or not str(path):
            raise ConfigurationError(f"path must be the path of a file, not {path!r}")
        self.path = Path(path)
        self._key = f"{self.path.name}:0"
        self._record = 0
        self._bytes = array("q", [0])  # where record 0, 1024, 2048, ... begins ...
        self._line_numbers = array("q", [0])  # ... and how many lines are before it

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    @abstractmethod
    def _records(self, lines: _Lines) -> Iterator[Any]:
        """Hand out records not yet decoded, or a `BadSampleError` in the place of one."""

    @abstractmethod
    def _sample(self, record: Any) -> tuple[Any, Any, float | None]:
        """Decode a record into `(x, y, w)`."""

    def __iter__(self) -> Iterator[Block]:
        """Hand out blocks of records, from the position to the end."""
        with self._open() as file:
            known = min(self._record // _BLOCK_RECORDS, len(self._bytes) - 1)
            lines = _Lines(file, self._bytes[known], self._line_numbers[known])
            records = self._records(lines)
            at = known * _BLOCK_RECORDS
            while True:
                start = at
                taken: list[tuple[int, Any]] = []
                while len(taken) < _BLOCK_RECORDS - start % _BLOCK_RECORDS:
                    record = next(records, None)
                    if record is None:
                        break
                    taken.append((lines.line, record))
                at += len(taken)
                if at == _BLOCK_RECORDS * len(self._bytes):
                    self._bytes.append(lines.byte)
                    self._line_numbers.append(lines.line)
                if at > self._record:
                    block = self._block(taken[self._record - start :])
                    self._record = at
                    yield block
                    if self._record != at:
                        raise SourceError(f"{self!r} was sought while it was read; iterate again")
                if at % _BLOCK_RECORDS or not taken:
                    break
            if at < self._record:
                raise SourceError(f"{self.path} has {at} records; the position is {self._record}")

    def position(self) -> Position:
        """Say how many records have been handed out."""
        return {self._key: self._record}

    def seek(self, position: Position) -> None:
        """Go to a record."""
        record = position.get(self._key)
        if set(position) != {self._key} or type(record) is not int or record < 0:
            raise SourceError(
                f"{position!r} is not a position of {self.path}; expected {{{self._key!r}: count}}"
            )
        self._record = record

    def close(self) -> None:  # noqa: B027 (nothing for a subclass to add)
        """Do nothing; a file is open only while it is iterated over."""

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise SourceError(f"cannot read {self.path}: {error}") from error

    def _block(self, records: list[tuple[int, Any]]) -> Block:
        xs: list[Any] = []
        ys: list[Any] = []
        ws: list[float | None] = []
        errors: dict[int, BadSampleError] = {}
        for i, (line, record) in enumerate(records):
            x: Any = {}
            y: Any = 0
            w: float | None = None
            try:
                if isinstance(record, BadSampleError):
                    raise record
                x, y, w = self._sample(record)
            except BadSampleError as error:
                if not error.reason.startswith("line "):
                    error.reason = f"line {line}: {error.reason}"
                errors[i] = error.at(self.path.name, 0, self._record + i)
            xs.append(x)
            ys.append(y)
            ws.append(w)
        weighted = any(w is not None for w in ws)
        raw = [(record if isinstance(record, bytes) else None, None) for _, record in records]
        return Block(
            x=xs,
            y=ys,
            w=[1.0 if w is None else w for w in ws] if weighted else None,
            source=self.path.name,
            offsets=range(self._record, self._record + len(records)),
            errors=errors,
            raw=raw if any(value is not None for value, _ in raw) else None,
        )


class CSVSource(_FileSource):
    r"""The records of a CSV file whose first line names the columns.

    Every field is a number, as `float` reads it; `true` and `false` in any case are 1 and 0. An
    empty field is an absent feature, which counts 0. Text, a missing label, and too many or too
    few fields make a bad sample; NaN and infinities are refused by the learner. Blank lines are
    no records. A quote that is never closed spoils at most 128 KiB.

    Parameters
    ----------
    path
        The file, UTF-8. Its name is the name of the source.
    target
        Column of the label.
    weight
        Column of the sample's weight, if there is one; an empty field weighs 1.
    features
        Columns to keep; by default all but `target` and `weight`.

    Raises
    ------
    ConfigurationError
        When the file lacks a column, or has one twice.
    SourceError
        When the file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from connectors import CSVSource
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "flights.csv")
    ...     _ = path.write_text("delay,wind,late\n12,,true\n-3,0.5,false\n")
    ...     (block,) = CSVSource(path, target="late")
    >>> block.x, block.y
    ([{'delay': 12.0}, {'delay': -3.0, 'wind': 0.5}], [1.0, 0.0])
    """

    def __init__(
        self,
        path: str | Path,
        target: str,
        weight: str | None = None,
        features: Iterable[str] | None = None,
    ) -> None:
        super().__init__(path)
        self.target = target
        self.weight = weight
        self.features = None if features is None else list(features)
        header = self._header()
        if doubled := sorted({name for name in header if header.count(name) > 1}):
            raise ConfigurationError(f"{self.path} has columns {doubled} more than once")
        others = [name for name in header if name not in (target, weight)]
        self._used = others if self.features is None else self.features
        wanted = [target, *([] if weight is None else [weight]), *self._used]
        if len(wanted) != len(set(wanted)):
            raise ConfigurationError("target, weight and features must all be different columns")
        if missing := [name for name in wanted if name not in header]:
            raise ConfigurationError(f"{self.path} has no columns {missing}; it has {header}")
        self._columns = {name: header.index(name) for name in wanted}
        self._n_columns = len(header)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, JSON-safe."""
        return {
            "id": "CSVSource",
            "path": str(self.path.absolute()),
            "target": self.target,
            "weight": self.weight,
            "features": self.features,
        }

    def _header(self) -> list[str]:
        with self._open() as file:
            lines = _Lines(file, 0, 0)
            try:
                header = next(csv.reader(lines), [])
            except (csv.Error, DecodeError) as error:
                raise SourceError(f"{self.path} has no header: {error}") from error
            self._bytes[0], self._line_numbers[0] = lines.byte, lines.line
        return header

    def _records(self, lines: _Lines) -> Iterator[Any]:
        reader = csv.reader(lines)
        while True:
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield DecodeError(f"not CSV: {error}")
            except DecodeError as error:
                yield error
            else:
                if record:
                    yield record

    def _sample(self, record: list[str]) -> tuple[dict[str, float], float, float | None]:
        if len(record) != self._n_columns:
            raise DecodeError(f"{len(record)} fields, the header has {self._n_columns}")
        columns = self._columns
        label = record[columns[self.target]]
        if not label:
            raise DecodeError(f"target {self.target!r} is missing")
        y = _number(label, self.target)
        x = {name: _number(text, name) for name in self._used if (text := record[columns[name]])}
        text = "" if self.weight is None else record[columns[self.weight]]
        return x, y, _number(text, self.weight) if text else None


class JSONLinesSource(_FileSource):
    r"""The records of a file with one JSON object (or whatever `decoder` reads) a line.

    Parameters
    ----------
    path
        The file. Its name is the name of the source. Blank lines are no records.
    decoder
        Turns a line into a sample, such as `JSONDecoder`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from connectors import JSONDecoder, JSONLinesSource
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "clicks.jsonl")
    ...     _ = path.write_text('{"age": 31, "clicked": 1}\n{"age": \n')
    ...     (block,) = JSONLinesSource(path, JSONDecoder(target="clicked"))
    >>> block.x[0], block.y[0], sorted(block.errors)
    ({'age': 31}, 1, [1])
    """

    def __init__(self, path: str | Path, decoder: Decoder) -> None:
        super().__init__(path)
        if not callable(decoder):
            raise ConfigurationError(f"decoder must be callable, not {decoder!r}")
        self.decoder = decoder

    def get_config(self) -> dict[str, Any] | None:
        """Return the arguments, JSON-safe; None when the decoder cannot tell its own."""
        describe = getattr(self.decoder, "get_config", None)
        if describe is None:
            return None
        path = str(self.path.absolute())
        return {"id": "JSONLinesSource", "path": path, "decoder": describe()}

    def _records(self, lines: _Lines) -> Iterator[Any]:
        while True:
            try:
                line = lines.next_bytes()
            except DecodeError as error:
                yield error
                continue
            if line is None:
                return
            if line.strip():
                yield line

    def _sample(self, record: bytes) -> tuple[Any, Any, float | None]:
        return self.decoder(record)


_WORDS = {"true": 1.0, "false": 0.0}


def _number(text: str, name: str | None) -> float:
    try:
        if "_" in text:  # Python's own notation: 1_000
            raise ValueError
        return float(text)
    except ValueError:
        value = _WORDS.get(text.strip().lower())
    if value is None:
        raise DecodeError(f"{text[:40]!r} is not a number", feature=name)
    return value
