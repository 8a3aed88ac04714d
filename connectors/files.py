"""CSV, JSON Lines and LibSVM files as sources, resumable at any record."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from connectors._file_source import FileSource, Lines
from streamfit.errors import ConfigurationError, DecodeError, SourceError
from streamfit.types import Decoder, FeatureName

__all__ = ["CSVSource", "JSONLinesSource", "LibSVMSource"]


class CSVSource(FileSource):
    r"""The records of a CSV file whose first line names the columns.

    Every field is a number, as `float` reads it; `true` and `false` in any case are 1 and 0. An
    empty field is an absent feature, which counts 0. A label that is no number is the name of a
    class. Text elsewhere, a missing label, and too many or too few fields make a bad sample; NaN
    and infinities are refused by the learner, and names by one that has no classes. Blank lines
    are no records. A quote that is never closed spoils at most 128 KiB.

    Parameters
    ----------
    path
        The file, UTF-8; also packed, as `.gz` or `.zst`, or `-` for the standard input. Its name
        is the name of the source.
    target
        Column of the label.
    weight
        Column of the sample's weight, if there is one; an empty field weighs 1.
    features
        Columns to keep; by default all but `target` and `weight`.
    labelled
        False: for predicting; label and weight are left out unread, if they are there at all.

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
        target: str | None,
        weight: str | None = None,
        features: Iterable[str] | None = None,
        *,
        labelled: bool = True,
    ) -> None:
        super().__init__(path)
        if labelled and not isinstance(target, str):
            raise ConfigurationError(f"target must be the name of a column, not {target!r}")
        self.target = target
        self.labelled = labelled
        self.weight = weight
        self.features = None if features is None else list(features)
        header = self._header()
        if doubled := sorted({name for name in header if header.count(name) > 1}):
            raise ConfigurationError(f"{self.path} has columns {doubled} more than once")
        others = [name for name in header if name not in (target, weight)]
        self._used = others if self.features is None else self.features
        wanted = [name for name in (target, weight) if labelled and name is not None]
        wanted += self._used
        if len(wanted) != len(set(wanted)):
            raise ConfigurationError("target, weight and features must all be different columns")
        if missing := [name for name in wanted if name not in header]:
            raise ConfigurationError(f"{self.path} has no columns {missing}; it has {header}")
        self._columns = {name: header.index(name) for name in wanted}
        self._n_columns = len(header)

    def get_config(self) -> dict[str, Any] | None:
        """Return the arguments, JSON-safe; None for the standard input."""
        if (path := self._described_path()) is None:
            return None
        return {
            "id": "CSVSource",
            "path": path,
            "target": self.target,
            "weight": self.weight,
            "features": self.features,
            **({} if self.labelled else {"labelled": False}),
        }

    def _header(self) -> list[str]:
        with self._lines() as lines:
            try:
                header = next(csv.reader(lines), [])
            except (csv.Error, DecodeError) as error:
                raise SourceError(f"{self.path} has no header: {error}") from error
            self._bytes[0], self._line_numbers[0] = lines.byte, lines.line
        return header

    def _records(self, lines: Lines) -> Iterator[Any]:
        reader = csv.reader(lines)
        while True:
            lines.raw = b""
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

    def _sample(
        self, record: list[str]
    ) -> tuple[dict[str, float], float | str | None, float | None]:
        if len(record) != self._n_columns:
            raise DecodeError(f"{len(record)} fields, the header has {self._n_columns}")
        columns = self._columns
        y = self._label(record) if self.labelled else None
        x = {name: _number(text, name) for name in self._used if (text := record[columns[name]])}
        if y is None:
            return x, None, None
        text = "" if self.weight is None else record[columns[self.weight]]
        return x, y, _number(text, self.weight) if text else None

    def _label(self, record: list[str]) -> float | str:
        assert self.target is not None
        label = record[self._columns[self.target]]
        if not label:
            raise DecodeError(f"target {self.target!r} is missing")
        try:
            return _number(label, self.target)
        except DecodeError:
            return label  # the name of a class; a learner that has none refuses it


class JSONLinesSource(FileSource):
    r"""The records of a file with one JSON object (or whatever `decoder` reads) a line.

    Parameters
    ----------
    path
        The file; also packed, as `.gz` or `.zst`, or `-` for the standard input. Its name is the
        name of the source. Blank lines are no records.
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
        path = self._described_path()
        if describe is None or path is None:
            return None
        return {"id": "JSONLinesSource", "path": path, "decoder": describe()}

    def _records(self, lines: Lines) -> Iterator[Any]:
        while True:
            lines.raw = b""
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


class LibSVMSource(FileSource):
    r"""The records of a file in the LibSVM (SVMlight) format: `label index:value index:value`.

    Features are named by their index, as it is written. What follows a `#` is a comment, and a
    line with nothing else is no record; `qid:...` is passed over.

    Parameters
    ----------
    path
        The file; also packed, as `.gz` or `.zst`, or `-` for the standard input. Its name is the
        name of the source.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from connectors import LibSVMSource
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "digits.svm")
    ...     _ = path.write_text("1 3:0.5 17:2 # one\n0 5:1\n")
    ...     (block,) = LibSVMSource(path)
    >>> block.x, block.y
    ([{3: 0.5, 17: 2.0}, {5: 1.0}], [1.0, 0.0])
    """

    def get_config(self) -> dict[str, Any] | None:
        """Return the arguments, JSON-safe; None for the standard input."""
        path = self._described_path()
        return None if path is None else {"id": "LibSVMSource", "path": path}

    def _records(self, lines: Lines) -> Iterator[Any]:
        while True:
            lines.raw = b""
            try:
                line = lines.next_bytes()
            except DecodeError as error:
                yield error
                continue
            if line is None:
                return
            if fields := line.partition(b"#")[0].split():
                yield fields

    def _sample(self, record: list[bytes]) -> tuple[dict[int, float], float, None]:
        x: dict[int, float] = {}
        for field in record[1:]:
            name, colon, value = field.partition(b":")
            if name == b"qid":
                continue
            if not colon or not name.isdigit():
                raise DecodeError(f"{field[:40]!r} is not index:value")
            index = int(name)
            if index in x:
                raise DecodeError("the index is there twice", feature=index)
            x[index] = _number(value.decode("ascii", "replace"), index)
        return x, _number(record[0].decode("ascii", "replace"), None), None


_WORDS = {"true": 1.0, "false": 0.0}


def _number(text: str, name: FeatureName | None) -> float:
    try:
        if "_" in text:  # Python's own notation: 1_000
            raise ValueError
        return float(text)
    except ValueError:
        value = _WORDS.get(text.strip().lower())
    if value is None:
        raise DecodeError(f"{text[:40]!r} is not a number", feature=name)
    return value
