"""What sources of files of lines have in common: blocks, positions, compression.

The position is a count of records, `{"flights.csv:0": 1234}`, so that an error or a checkpoint
names a place a reader can find. Going to a record reads the file up to it once; after that the
byte at which every 1024th record begins is known, and going back costs no more than a block (of a
compressed file: than unpacking it up to there).
"""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, cast

from streamfit.errors import (
    BadSampleError,
    ConfigurationError,
    DecodeError,
    MissingDependencyError,
    SourceError,
)
from streamfit.types import Block, Position

__all__ = ["FileSource", "Lines"]

_BLOCK_RECORDS = 1024
_MAX_LINE = 1 << 24
_STANDARD_INPUT = Path("-")


class Lines:
    """Lines of a file as text or bytes, and how much of it they were.

    Parameters
    ----------
    file
        The file, unpacked; closed with the lines.
    byte, line, record
        Where to begin, how many lines are before, and how many records.
    """

    def __init__(self, file: BinaryIO, byte: int, line: int, record: int = 0) -> None:
        self._file = file
        self.byte = byte
        self.line = line
        self.record = record
        self.raw = b""
        """What was read of the record at hand; whoever begins a record empties it."""
        if byte:
            file.seek(byte)

    def __iter__(self) -> Iterator[str]:
        return self

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

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
        """Return a line with its end, or None after the last.

        Raises
        ------
        DecodeError
            When the line is too long.
        SourceError
            When the file cannot be read on: damaged, or cut short, as a compressed one tells.
        """
        line = self._readline()
        size = len(line)
        self.raw += line
        self.line += bool(line)
        whole = not line or line.endswith(b"\n") or size < _MAX_LINE
        while not whole:
            rest = self._readline()
            size += len(rest)
            whole = not rest or rest.endswith(b"\n")
        self.byte += size
        if size > _MAX_LINE:
            raise DecodeError(f"line {self.line}: longer than {_MAX_LINE} bytes")
        return line or None

    def _readline(self) -> bytes:
        try:
            return self._file.readline(_MAX_LINE)
        except (OSError, EOFError, zlib.error) as error:
            name = getattr(self._file, "name", "the file")
            raise SourceError(f"cannot read {name} after line {self.line}: {error}") from error


class FileSource(ABC):
    """A file of records, plain, `.gz` or `.zst`; or `-`, the standard input.

    The standard input can be read only once, and passes over what is before the position.
    """

    live = False

    def __init__(self, path: str | Path) -> None:
        if not isinstance(path, str | Path) or not str(path):
            raise ConfigurationError(f"path must be the path of a file, not {path!r}")
        self.path = Path(path)
        self.name = "stdin" if self.path == _STANDARD_INPUT else self.path.name
        self._key = f"{self.name}:0"
        self._record = 0
        self._bytes = array("q", [0])  # where record 0, 1024, 2048, ... begins ...
        self._line_numbers = array("q", [0])  # ... and how many lines are before it
        self._standard_input: Lines | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    @abstractmethod
    def _records(self, lines: Lines) -> Iterator[Any]:
        """Hand out records not yet decoded, or a `BadSampleError` in the place of one.

        Empties `lines.raw` where a record begins.
        """

    @abstractmethod
    def _sample(self, record: Any) -> tuple[Any, Any, float | None]:
        """Decode a record into `(x, y, w)`."""

    def _described_path(self) -> str | None:
        """Return what a description says of the path; None for what cannot be read again."""
        return None if self.path == _STANDARD_INPUT else str(self.path.absolute())

    def __iter__(self) -> Iterator[Block]:
        """Hand out blocks of records, from the position to the end."""
        known = min(self._record // _BLOCK_RECORDS, len(self._bytes) - 1)
        with self._lines(known) as lines:
            if lines.record > self._record:
                raise SourceError("the standard input can be read only once")
            records = self._records(lines)
            while True:
                start = lines.record
                taken: list[tuple[int, bytes, Any]] = []
                while len(taken) < _BLOCK_RECORDS - start % _BLOCK_RECORDS:
                    record = next(records, None)
                    if record is None:
                        break
                    taken.append((lines.line, lines.raw, record))
                at = lines.record = start + len(taken)
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
            if lines.record < self._record:
                raise SourceError(
                    f"{self.path} has {lines.record} records; the position is {self._record}"
                )

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

    def _lines(self, known: int = 0) -> AbstractContextManager[Lines]:
        """Open the file at its `known`-th block; the standard input where it stands."""
        if self.path == _STANDARD_INPUT:
            if self._standard_input is None:
                self._standard_input = Lines(sys.stdin.buffer, 0, 0)
            return nullcontext(self._standard_input)
        place = (self._bytes[known], self._line_numbers[known], known * _BLOCK_RECORDS)
        try:
            return Lines(_unpacked(self.path), *place)
        except (OSError, EOFError, zlib.error) as error:
            raise SourceError(f"cannot read {self.path}: {error}") from error

    def _block(self, records: list[tuple[int, bytes, Any]]) -> Block:
        xs: list[Any] = []
        ys: list[Any] = []
        ws: list[float | None] = []
        errors: dict[int, BadSampleError] = {}
        for i, (line, _, record) in enumerate(records):
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
                errors[i] = error.at(self.name, 0, self._record + i)
            xs.append(x)
            ys.append(y)
            ws.append(w)
        weighted = any(w is not None for w in ws)
        return Block(
            x=xs,
            y=ys,
            w=[1.0 if w is None else w for w in ws] if weighted else None,
            source=self.name,
            offsets=range(self._record, self._record + len(records)),
            errors=errors,
            raw=[(raw, None) for _, raw, _ in records],
        )


def _unpacked(path: Path) -> BinaryIO:
    """Open a file for reading, through what its last suffix says it is packed with."""
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".zst":
        return io.BufferedReader(_Zstandard(path))
    return path.open("rb")


class _Zstandard(io.RawIOBase):
    """A Zstandard file, whose errors are those that the other files raise."""

    def __init__(self, path: Path) -> None:
        try:
            from backports import zstd
        except ImportError as error:
            raise MissingDependencyError(
                'a .zst file needs a package that is not installed: pip install "streamfit[zstd]"'
            ) from error
        self._file = zstd.open(path, "rb")
        self._error = zstd.ZstdError
        self.name = str(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return self._file.readinto(buffer)
        except self._error as error:
            raise OSError(str(error)) from error

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except self._error as error:
            raise OSError(str(error)) from error

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()
