r"""The journal's files: entries in a few bytes, in frames whose checksums form one chain.

::

    file   = "streamfit journal 2\n"  number (u32)  frame*
    frame  = length (u32)  checksum (8 bytes)  payload
    entry  = varint (argument << 3 | kind)  varint*

All integers are little-endian. A frame's checksum covers the checksum before it as well, and a
file's first frame continues the chain of the file before. So the last checksum, which the
checkpoint keeps, stands for every byte of every file: nothing can be changed, taken out or put in
without showing. A payload is readable by itself: it names its partitions, and offsets are
relative to the end of the partition's segment before it in the same payload.

Format 2 knows `Action`: what a callback did to the model between two samples, as a name and JSON
parameters. A new kind of action needs a name in `streamfit.actions` and no change here. Files of
format 1, which had none, are read as well; a run that resumes from one begins another file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeAlias

from streamfit._durable import fsync_directory, open_regular, os_errors
from streamfit.errors import CheckpointCorruptError, CheckpointError
from streamfit.types import Action

__all__ = [
    "FLUSHES",
    "REASONS",
    "End",
    "Entry",
    "Epoch",
    "Files",
    "Flush",
    "Mark",
    "Segment",
    "Skipped",
    "decode",
    "encode",
    "read",
]

FLUSHES = (
    ("max_wait", "apply"),
    ("epoch end", "apply"),
    ("epoch end", "scale"),
    ("epoch end", "drop"),
    ("epoch end", "carry"),
)
"""Why a micro-batch may be flushed, and what becomes of it; never reorder, only append."""

REASONS = ("BadSampleError", "DecodeError")
"""The classes of what makes a sample bad; never reorder, only append."""

_MAGIC = b"streamfit journal 2\n"
_MAGICS = (b"streamfit journal 1\n", _MAGIC)
_NAME = re.compile(r"journal-([0-9]{8,})\.bin")
_CHECKSUM = 8
_FINGERPRINT = 4
_MAX_PAYLOAD = 1 << 24  # far above what is ever written
_PARTITION, _DENSE, _SPARSE, _SKIPPED, _DEAD_LETTER, _FLUSH, _EPOCH, _MARK = range(8)
_ACTION = 1 << 3 | _EPOCH  # all eight kinds are taken; an epoch has no argument


# ---- entries


@dataclass(frozen=True, slots=True)
class Segment:
    """`n` samples learned in order: all that partition holds from `start` up to `stop`.

    `n` is less than `stop - start` where offsets hold no record (compacted, transaction markers).
    """

    source: str
    partition: int
    start: int
    stop: int
    n: int

    def __str__(self) -> str:
        return f"source {self.source!r}, partition {self.partition}, {self.start} to {self.stop}"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A bad sample that was not learned."""

    source: str
    partition: int
    offset: int
    reason: str = REASONS[0]
    dead_letter: bool = False


@dataclass(frozen=True, slots=True)
class Flush:
    """A partial micro-batch was dealt with; see `FLUSHES`."""

    reason: str
    last_batch: str


@dataclass(frozen=True, slots=True)
class Epoch:
    """The source was sought back to its start for another pass."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The first hexadecimal digits of the model's digest, here."""

    fingerprint: str

    @classmethod
    def of(cls, digest: str) -> Self:
        """Make the mark of a model with this digest."""
        return cls(digest[: 2 * _FINGERPRINT])


Entry: TypeAlias = Segment | Skipped | Flush | Epoch | Action | Mark


# ---- a payload


def encode(entries: Iterable[Entry]) -> bytes:
    r"""Write entries as one payload.

    >>> encode([Segment("clicks", 0, 0, 500, 500), Segment("clicks", 0, 500, 1000, 500)])
    b'\x00\x06clicks\x00\x01\xf4\x03\x01\xf4\x03'
    """
    out = bytearray()
    partitions: dict[tuple[str, int], int] = {}
    ends: list[int] = []

    def index(entry: Segment | Skipped) -> int:
        key = (entry.source, entry.partition)
        if key not in partitions:
            partitions[key] = len(ends)
            ends.append(0)
            name = entry.source.encode("utf-8", "surrogatepass")
            _put(out, _PARTITION, len(name))
            out.extend(name)
            _put(out, _zigzag(entry.partition))
        return partitions[key]

    for entry in entries:
        match entry:
            case Segment(start=start, stop=stop, n=n):
                i = index(entry)
                if start == ends[i] and n == stop - start:
                    _put(out, i << 3 | _DENSE, n)
                else:
                    _put(out, i << 3 | _SPARSE, _zigzag(start - ends[i]), n, stop - start - n)
                ends[i] = stop
            case Skipped(offset=offset):
                i = index(entry)
                kind = _DEAD_LETTER if entry.dead_letter else _SKIPPED
                _put(out, i << 3 | kind, _zigzag(offset - ends[i]), REASONS.index(entry.reason))
                ends[i] = offset + 1
            case Flush(reason=reason, last_batch=last_batch):
                _put(out, FLUSHES.index((reason, last_batch)) << 3 | _FLUSH)
            case Epoch():
                _put(out, _EPOCH)
            case Action(name=name, parameters=parameters):
                text = json.dumps([name, parameters], sort_keys=True, allow_nan=False).encode()
                _put(out, _ACTION, len(text))
                out.extend(text)
            case Mark(fingerprint=fingerprint):
                _put(out, _MARK)
                out.extend(bytes.fromhex(fingerprint))
    return bytes(out)


def decode(payload: bytes) -> list[Entry]:
    """Read the entries of a payload.

    Raises
    ------
    CheckpointCorruptError
        When the bytes mean nothing.

    Examples
    --------
    >>> decode(encode([Epoch(), Skipped("clicks", 2, 17, "DecodeError")]))[1].offset
    17
    """
    try:
        return list(_decoded(payload))
    except (ValueError, IndexError, RecursionError) as error:
        raise CheckpointCorruptError(f"the journal is corrupt: {error}") from error


def _decoded(payload: bytes) -> Iterator[Entry]:
    partitions: list[tuple[str, int]] = []
    ends: list[int] = []
    at = 0

    def take() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = payload[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            if (shift := shift + 7) > 63:
                raise ValueError("a number of more than 64 bits")

    def take_bytes(n: int) -> bytes:
        nonlocal at
        if n > len(payload) - at:
            raise ValueError("an entry is cut short")
        at += n
        return payload[at - n : at]

    while at < len(payload):
        argument, kind = divmod(take(), 8)
        if kind == _PARTITION:
            name = take_bytes(take()).decode("utf-8", "surrogatepass")
            partitions.append((name, _unzigzag(take())))
            ends.append(0)
        elif kind in (_DENSE, _SPARSE):
            source, partition = partitions[argument]
            start = ends[argument] + (_unzigzag(take()) if kind == _SPARSE else 0)
            n = take()
            stop = start + n + (take() if kind == _SPARSE else 0)
            if n == 0:
                raise ValueError("an empty segment")
            yield Segment(source, partition, start, stop, n)
            ends[argument] = stop
        elif kind in (_SKIPPED, _DEAD_LETTER):
            source, partition = partitions[argument]
            offset = ends[argument] + _unzigzag(take())
            yield Skipped(source, partition, offset, REASONS[take()], kind == _DEAD_LETTER)
            ends[argument] = offset + 1
        elif kind == _FLUSH:
            yield Flush(*FLUSHES[argument])
        elif kind == _EPOCH and argument == 0:
            yield Epoch()
        elif kind == _EPOCH:
            yield _action(argument, take_bytes(take()))
        else:
            yield Mark(take_bytes(_FINGERPRINT).hex())


def _action(argument: int, text: bytes) -> Action:
    found = json.loads(text) if argument == 1 else None
    match found:
        case [str(name), dict(parameters)]:
            return Action(name, parameters)
    raise ValueError(f"no action: {text[:80]!r}")


def _put(out: bytearray, *values: int) -> None:
    """Append varints: seven bits a byte, the lowest first, the top bit says that more follow."""
    for value in values:
        left = value
        while left > 0x7F:
            out.append(left & 0x7F | 0x80)
            left >>= 7
        out.append(left)


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def _unzigzag(value: int) -> int:
    return value >> 1 if value & 1 == 0 else -((value + 1) >> 1)


# ---- files


@dataclass(frozen=True, slots=True)
class End:
    """Where a journal ends: in which file, after how many of its bytes, with what checksum."""

    file: int
    length: int
    checksum: str

    @classmethod
    def from_state(cls, state: Any) -> Self:
        """Read what `dataclasses.asdict` wrote into a checkpoint; ValueError when it is not."""
        match state:
            case {"file": int(file), "length": int(length), "checksum": str(checksum)}:
                if file >= 1 and len(bytes.fromhex(checksum)) == _CHECKSUM:
                    return cls(file, length, checksum)
        raise ValueError(f"{state!r:.80} is not the end of a journal")


class Files:
    """The files of one journal, open for appending.

    Parameters
    ----------
    directory
        Where the files are.
    end
        Where the journal ends, already verified by `read`; what follows is removed. None: the
        journal begins, and whatever files there are go.
    max_bytes
        A file that has grown to this size is followed by another.
    """

    def __init__(self, directory: Path, end: End | None, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._file: BinaryIO | None = None
        self._is_old = False  # the file is of a format that is only read
        with os_errors(f"cannot open the journal in {directory}"):
            # From the last file back, so that a crash in between leaves no hole.
            for number, path in sorted(_files(directory).items(), reverse=True):
                if end is None or number > end.file:
                    path.unlink()
            self._number, self._chain = 0, bytes(_CHECKSUM)
            if end is not None:
                self._number, self._chain = end.file, bytes.fromhex(end.checksum)
                self._file = _path(directory, end.file).open("r+b")
                self._is_old = self._file.read(len(_MAGIC)) != _MAGIC
                self._file.truncate(end.length)
                self._file.seek(end.length)
                os.fsync(self._file.fileno())
            fsync_directory(directory)

    def append(self, payload: bytes) -> None:
        """Write one frame; `sync` makes it durable."""
        with os_errors(f"cannot write the journal in {self._directory}"):
            if self._file is None or self._is_old or self._file.tell() >= self._max_bytes:
                self._rotate()
            assert self._file is not None
            self._chain = _chained(self._chain, payload)
            self._file.write(len(payload).to_bytes(4, "little") + self._chain + payload)

    def sync(self) -> End:
        """Wait until the disk has everything; say where the journal ends."""
        assert self._file is not None
        with os_errors(f"cannot write the journal in {self._directory}"):
            self._file.flush()
            os.fsync(self._file.fileno())
            return End(self._number, self._file.tell(), self._chain.hex())

    def close(self) -> None:
        """Close the file; what was not synced may be lost."""
        if self._file is not None:
            with os_errors(f"cannot write the journal in {self._directory}"):
                self._file.close()

    def _rotate(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        self._number, self._is_old = self._number + 1, False
        self._file = _path(self._directory, self._number).open("xb")
        header = _MAGIC + self._number.to_bytes(4, "little")
        self._file.write(header)
        self._chain = _chained(self._chain, header)
        fsync_directory(self._directory)


def read(directory: Path, end: End) -> Iterator[bytes]:
    """Read the payloads up to `end`, each verified before it is handed out.

    Raises
    ------
    CheckpointCorruptError
        When a file is missing, too short, or any of its bytes is not what was written.
    """
    chain = bytes(_CHECKSUM)
    for number in range(1, end.file + 1):
        path = _path(directory, number)
        try:
            with open_regular(path) as file:
                size = os.fstat(file.fileno()).st_size
                if number == end.file:
                    if size < end.length:
                        raise ValueError(f"it has {size} bytes, {end.length} were saved")
                    size = end.length
                header = file.read(len(_MAGIC) + 4)
                if header not in [magic + number.to_bytes(4, "little") for magic in _MAGICS]:
                    raise ValueError("it does not begin as a journal of format 1 or 2")
                chain = _chained(chain, header)
                while (at := file.tell()) < size:
                    head = file.read(4 + _CHECKSUM)
                    length = int.from_bytes(head[:4], "little")
                    if length > min(_MAX_PAYLOAD, size - at - len(head)):
                        raise ValueError(f"the frame at byte {at} is cut short")
                    payload = file.read(length)
                    chain = _chained(chain, payload)
                    if chain != head[4:]:
                        raise ValueError(f"the checksum of the frame at byte {at} does not match")
                    yield payload
        except (ValueError, FileNotFoundError) as error:
            raise _corrupt(path, error) from error
        except OSError as error:
            raise CheckpointError(f"cannot read the journal {path}: {error}") from error
    if chain.hex() != end.checksum:
        raise _corrupt(directory, ValueError("it is not the journal that the checkpoint knows"))


def _corrupt(path: Path, error: Exception) -> CheckpointCorruptError:
    return CheckpointCorruptError(
        f"the journal {path} is corrupt: {error}. Restore it from a backup together with the "
        "checkpoints; or, to start afresh on purpose, give another directory."
    )


def _files(directory: Path) -> dict[int, Path]:
    found = ((_NAME.fullmatch(path.name), path) for path in directory.iterdir())
    return {int(match[1]): path for match, path in found if match}


def _path(directory: Path, number: int) -> Path:
    return directory / f"journal-{number:08d}.bin"


def _chained(chain: bytes, content: bytes) -> bytes:
    return hashlib.blake2b(content, key=chain, digest_size=_CHECKSUM).digest()
