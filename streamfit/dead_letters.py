"""Dead letters: bad samples put aside as they came, with what was wrong and where.

A letter is the record's own key and value, and headers that tell the rest. It is acknowledged (by
the broker, or by fsync) before a checkpoint says that the sample is done with. A crash in between
brings the sample again and so a second letter; both have the same `id`.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from streamfit.errors import BadSampleError, ConfigurationError, DeadLetterError, shown
from streamfit.types import Block, DeadLetterQueue, SendsDeadLetters, Source

__all__ = ["DeadLetterFile", "DeadLetters", "headers_of"]

_MAX_CHARACTERS = 1000
_BEGIN = b'{"id": "'
_TAIL = 1 << 16  # how far back to look first for a line that was cut short by a crash


class DeadLetters:
    """Put bad samples aside and go on: the value of a Trainer's `on_bad_sample`.

    Parameters
    ----------
    topic
        Kafka topic to send them to, on the brokers of the source, with the record's own key and
        value, and these headers: `id` (`topic:partition:offset`), `time`, `stage` (`decode` or
        `learn`), `error` (class), `message`, `source`, `partition`, `offset`. It must exist. With
        neither `topic` nor `path`, the `dead_letter_topic` of the source.
    path
        File to append them to, one JSON object a line: the same fields, `key` and `value`, and
        their `encoding`: `utf-8`, or `base64` where the bytes are no UTF-8.

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> import streamfit as sf
    >>> samples = [({"x": 1.0}, True), ({"x": None}, True), ({"x": 2.0}, False)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "refused.jsonl")
    ...     report = sf.Trainer(
    ...         sf.LogisticRegression(), samples, on_bad_sample=sf.DeadLetters(path=path)
    ...     ).run()
    ...     letter = json.loads(path.read_text())
    >>> report.n_samples, report.n_bad, letter["id"], letter["stage"]
    (2, 1, 'samples:0:1', 'learn')
    >>> letter["message"]
    "feature 'x': value is missing (None) (source 'samples', partition 0, offset 1)"
    """

    def __init__(
        self, topic: str | None = None, *, path: str | os.PathLike[str] | None = None
    ) -> None:
        if topic is not None and path is not None:
            raise ConfigurationError("dead letters go to a topic or to a file: give one of them")
        if topic is not None and (not isinstance(topic, str) or not topic):
            raise ConfigurationError(f"topic must be the name of a topic, not {topic!r}")
        if path is not None and not isinstance(path, str | os.PathLike):
            raise ConfigurationError(f"path must be a path, not {path!r}")
        self.topic = topic
        self.path = None if path is None else Path(path)

    def __repr__(self) -> str:
        if self.path is not None:
            return f"DeadLetters(path={str(self.path)!r})"
        return "DeadLetters()" if self.topic is None else f"DeadLetters({self.topic!r})"

    def open(self, source: Source) -> DeadLetterQueue:
        """Make the queue for the bad samples of `source`; nothing is connected or written yet.

        Raises
        ------
        ConfigurationError
            When there is no topic, or the source has no broker to send it to.
        """
        if self.path is not None:
            return DeadLetterFile(self.path)
        if not isinstance(source, SendsDeadLetters):
            raise ConfigurationError(
                f"{self!r} needs a source that can send to a topic, such as KafkaSource, not "
                f"{type(source).__name__}; use DeadLetters(path=...)"
            )
        return source.dead_letters(self.topic)


def headers_of(block: Block, i: int, error: BadSampleError) -> list[tuple[str, bytes]]:
    """Tell what was wrong with sample `i` of a block, and where it came from."""
    offset = int(block.offsets[i])
    headers = {
        "id": f"{block.key}:{offset}",
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "stage": "decode" if i in block.errors else "learn",
        "error": type(error).__name__,
        "message": str(error)[:_MAX_CHARACTERS],
        "source": block.source,
        "partition": str(block.partition),
        "offset": str(offset),
    }
    if block.raw is None and i not in block.errors:  # it never was bytes
        headers["sample"] = shown((block.x[i], block.y[i]), _MAX_CHARACTERS)
    return [(name, text.encode("utf-8", "backslashreplace")) for name, text in headers.items()]


class DeadLetterFile:
    """A file of JSON lines; see `DeadLetterQueue`.

    Parameters
    ----------
    path
        The file; it and its directories are made with the first letter.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[bytes] = []
        self._file: BinaryIO | None = None

    def send(
        self, value: bytes | None, key: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> None:
        """Take one letter in; it is safe only after `flush`."""
        line: dict[str, object] = {name: text.decode() for name, text in headers}
        line |= {name: int(str(line[name])) for name in ("partition", "offset") if name in line}
        line |= _as_text(key, value)
        self._waiting.append(json.dumps(line).encode() + b"\n")

    def flush(self, timeout: float) -> None:
        """Write what waits and wait until the disk has it.

        Raises
        ------
        DeadLetterError
            When the file cannot be written. It then ends after the last whole letter.
        """
        if not self._waiting:
            return
        try:
            file = self._open() if self._file is None else self._file
            end = file.seek(0, os.SEEK_END)  # others may have written, too
            try:
                left = memoryview(b"".join(self._waiting))
                while left:  # a disk that gets full takes a part, and refuses only the next one
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except BaseException:
                with suppress(OSError):  # a device has no end to go back to
                    os.ftruncate(file.fileno(), end)
                raise
        except OSError as error:
            raise DeadLetterError(
                f"cannot write {len(self._waiting)} dead letters to {self.path}: {error}"
            ) from error
        self._waiting = []

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _open(self) -> BinaryIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a+b", buffering=0)
        try:
            size, end = _whole_lines(file, self.path)
            if size > end:
                os.ftruncate(file.fileno(), end)
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except BaseException:
            file.close()
            raise
        self._file = file
        return file


def _whole_lines(file: BinaryIO, path: Path) -> tuple[int, int]:
    """Return the size and where the last whole line ends; what a crash cut short comes again."""
    size, n, tail = file.seek(0, os.SEEK_END), 0, b""
    while n < size and b"\n" not in tail:  # a letter may be long; a device has no size
        n = min(size, max(_TAIL, 8 * n))
        file.seek(size - n)
        tail = file.read(n)
    torn = tail[tail.rfind(b"\n") + 1 :]
    if not (torn.startswith(_BEGIN) or _BEGIN.startswith(torn)):
        raise DeadLetterError(f"{path} does not end like a file of dead letters: give another path")
    return size, size - len(torn)


def _as_text(key: bytes | None, value: bytes | None) -> dict[str, object]:
    """Write bytes as text where that loses nothing."""
    try:
        return {
            "encoding": "utf-8",
            "key": None if key is None else key.decode(),
            "value": None if value is None else value.decode(),
        }
    except UnicodeDecodeError:
        return {
            "encoding": "base64",
            "key": None if key is None else base64.b64encode(key).decode(),
            "value": None if value is None else base64.b64encode(value).decode(),
        }
