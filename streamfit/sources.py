"""Sources inside the process: arrays and Python iterables.

A source hands out blocks of samples and knows its position (see `streamfit.types.Source`). The
position of both sources here is the count of samples read: `{"samples:0": 1234}`.
"""

from __future__ import annotations

import contextlib
import copy
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from streamfit._derived_source import DerivedSource, partition_lag
from streamfit._kernels import split_tuples
from streamfit._source_list import SourceList
from streamfit.core import frames, sparse
from streamfit.errors import (
    BadSampleError,
    ConfigurationError,
    SourceError,
    UnsupportedError,
    shown,
)
from streamfit.types import (
    Block,
    FeatureName,
    Position,
)

__all__ = ["ArraySource", "DerivedSource", "IterableSource", "SourceList", "partition_lag"]

_KEY = "samples:0"
_BLOCK_ROWS = 1024
_PART_ROWS = 8192  # who reads a part looks up less often
_BLOCK_SAMPLES = 256
_BLOCK_SECONDS = 0.02  # a slow stream is handed on sample by sample, a fast one in blocks
_STRIDE = 16
_QUICK_SECONDS = 0.001
_IDLE_SECONDS = 0.1
_MUTABLE = (MutableMapping, list, np.ndarray)


def _count(position: Position) -> int:
    """Return the number of samples that `position` stands for."""
    count = position.get(_KEY)
    if set(position) != {_KEY} or type(count) is not int or count < 0:
        raise SourceError(
            f"{position!r} is not a position of this source; expected {{{_KEY!r}: count}}"
        )
    return count


class ArraySource:
    """The rows of an array, in order.

    Parameters
    ----------
    X
        Array or scipy sparse matrix of shape (n, n_features), or a data frame (pandas, polars,
        Arrow, ...).
    y
        `n` labels: a list, an array or a series.
    w
        `n` sample weights, or None.
    features
        Names of the columns; without them those of the frame, or 0, 1, 2, ... for an array.

    Raises
    ------
    ConfigurationError
        When the shapes do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> from streamfit import ArraySource
    >>> source = ArraySource(np.eye(3), [1.0, 2.0, 3.0])
    >>> source.position(), [len(block) for block in source], source.position()
    ({'samples:0': 0}, [3], {'samples:0': 3})
    """

    live = False

    def __init__(
        self, X: Any, y: Any, w: Any = None, *, features: Iterable[FeatureName] | None = None
    ) -> None:
        try:
            self._X: Any
            names: list[FeatureName] | None = None
            if sparse.is_sparse(X):
                self._X = sparse.as_csr(X)
            else:
                self._X, names = frames.as_table(X)
            n, n_features = self._X.shape
            self._y = frames.as_vector(y, "y", n)
            self._w = None if w is None else frames.as_vector(w, "w", n)
        except BadSampleError as error:
            raise ConfigurationError(error.reason) from None
        self._features = names if features is None else list(features)
        if self._features is not None and len(self._features) != n_features:
            raise ConfigurationError(f"{len(self._features)} feature names, {n_features} columns")
        self._row = 0
        self._block_rows = _BLOCK_ROWS

    def __iter__(self) -> Iterator[Block]:
        """Hand out blocks of rows, from the position to the end."""
        while self._row < len(self._y):
            rows = slice(self._row, min(self._row + self._block_rows, len(self._y)))
            self._row = rows.stop
            yield Block(
                x=self._X[rows],
                y=self._y[rows],
                w=None if self._w is None else self._w[rows],
                offsets=range(rows.start, rows.stop),
                features=self._features,
            )

    def position(self) -> Position:
        """Say how many rows have been handed out."""
        return {_KEY: self._row}

    def seek(self, position: Position) -> None:
        """Go to a row."""
        row = _count(position)
        if row > len(self._y):
            raise SourceError(f"row {row} is wanted, the array has {len(self._y)}")
        self._row = row

    def lag(self, position: Position) -> int:
        """Count the rows left."""
        return len(self._y) - _count(position)

    def rows(self, start: int, stop: int) -> ArraySource:
        """Return rows `start` to `stop` as a source of their own, which shares the memory."""
        part = copy.copy(self)
        part._X, part._y, part._row = self._X[start:stop], self._y[start:stop], 0
        part._w = None if self._w is None else self._w[start:stop]
        part._block_rows = _PART_ROWS
        return part

    def close(self) -> None:
        """Do nothing; there is nothing to release."""


@dataclass
class _End:
    """Last item on the queue of a reading thread."""

    error: BaseException | None = None


class IterableSource:
    """Any Python iterable of samples `(x, y)` or `(x, y, w)`.

    Parameters
    ----------
    iterable
        A list, a generator, a River dataset, ...; or a function without arguments that returns
        a fresh iterator each time, which makes a generator repeatable.
    live
        Read the iterable on a thread of its own, so that whoever consumes the source can look
        at the clock while nothing arrives.

    Attributes
    ----------
    max_block : int
        Most samples to take for one block; a reader that needs no more than `n` says so here,
        and the rest stays in the iterator.

    Notes
    -----
    Resuming takes a fresh iterator and skips the samples before the position, so the iterable
    must produce the same samples again. A generator object can be read only once.

    Samples are collected into blocks of up to 256 for at most 0.02 seconds, but unless `live` is
    set the time is looked at only when a sample arrives, and in a fast stream at every 16th. So
    when the iterable pauses, up to a block of samples waits in the buffer, not yet learned, until
    the next few come. For a stream that pauses set `live=True` (a `Trainer` with `max_wait` does
    that).

    A generator may fill the same mapping or array again for each sample: the first 256 samples of a
    pass are copied, and all are when an object comes twice among those. A generator that begins to
    do so later is refused, when the first two samples of a block are one object.

    Examples
    --------
    >>> from streamfit import IterableSource
    >>> source = IterableSource([({"x": 1.0}, True), ({"x": 2.0}, False)])
    >>> [list(block.y) for block in source], source.position()
    ([[True, False]], {'samples:0': 2})
    """

    def __init__(
        self, iterable: Iterable[Any] | Callable[[], Iterator[Any]], *, live: bool = False
    ) -> None:
        if frames.is_frame(iterable) and not callable(iterable):
            raise ConfigurationError(
                "a data frame is not an iterable of samples; use ArraySource(frame, y)"
            )
        if not callable(iterable) and not hasattr(iterable, "__iter__"):
            raise ConfigurationError(
                f"source must be a Source or an iterable of samples, not {type(iterable).__name__}"
            )
        self.live = live
        self.max_block = _BLOCK_SAMPLES
        self._iterable = iterable
        self._iterator: Iterator[Any] | None = None
        self._count = 0

    @property
    def repeatable(self) -> bool:
        """Whether a second pass gets a fresh iterator."""
        return callable(self._iterable) or iter(self._iterable) is not self._iterable

    def __iter__(self) -> Iterator[Block]:
        """Hand out blocks of samples, from the position to the end."""
        if self.live and self._iterator is not None:
            self.seek(self.position())  # the thread of the pass before may have read ahead
        samples = self._from_position()
        batches = self._on_a_thread(samples) if self.live else self._together(samples)
        with contextlib.closing(batches):  # which ends the thread, at once
            for batch in batches:
                start = self._count
                self._count += len(batch)
                yield _as_block(batch, start)

    def _together(self, samples: Iterator[Any]) -> Generator[list[Any]]:
        """Collect what arrives without a pause; if the iterable raises, hand on what came."""
        now = time.monotonic
        batch: list[Any] = []
        several = 1  # samples between two looks at the clock, which costs more than a sample
        fresh, samples = samples, _Copies(samples)
        try:
            while True:
                began = looked = now()
                wanted, most = 0, max(1, self.max_block)
                while len(batch) < most and looked - began < _BLOCK_SECONDS:
                    wanted = min(len(batch) + several, most)
                    batch.extend(islice(samples, wanted - len(batch)))  # raises: keeps what came
                    if len(batch) < wanted:
                        break
                    before, looked = looked, now()
                    several = min(2 * several, _STRIDE) if looked - before < _QUICK_SECONDS else 1
                if batch:
                    yield batch
                if len(batch) < wanted:
                    return
                batch = []
                if isinstance(samples, _Copies) and samples.can_end():
                    samples = fresh
        except Exception:
            if batch:
                yield batch
            raise

    def _on_a_thread(self, samples: Iterator[Any]) -> Generator[list[Any]]:
        """Collect on a thread; hand out empty batches while nothing arrives."""
        arrived: queue.Queue[Any] = queue.Queue(maxsize=4 * _BLOCK_SAMPLES)
        stopped = threading.Event()

        def put(item: Any) -> None:
            while not stopped.is_set():
                with contextlib.suppress(queue.Full):
                    return arrived.put(item, timeout=_IDLE_SECONDS)

        def read() -> None:
            try:
                for sample in samples:
                    put(_copied(sample))
                    if stopped.is_set():
                        return
            except BaseException as error:  # the consumer raises it
                put(_End(error))
            else:
                put(_End())

        threading.Thread(target=read, name="streamfit-source", daemon=True).start()
        try:
            while True:
                batch: list[Any] = []
                end = None
                with contextlib.suppress(queue.Empty):
                    item = arrived.get(timeout=_IDLE_SECONDS)
                    while not isinstance(item, _End):
                        batch.append(item)
                        if len(batch) >= self.max_block:
                            break
                        item = arrived.get_nowait()
                    else:
                        end = item
                yield batch
                if end is not None:
                    if end.error is not None:
                        raise end.error
                    return
        finally:
            stopped.set()

    def _from_position(self) -> Iterator[Any]:
        if self._iterator is None:
            self._iterator = iter(self._iterable() if callable(self._iterable) else self._iterable)
            for skipped in range(self._count):
                if next(self._iterator, self) is self:
                    raise SourceError(
                        f"the iterable ended after {skipped} samples; the position is {self._count}"
                    )
        return self._iterator

    def position(self) -> Position:
        """Say how many samples have been handed out."""
        return {_KEY: self._count}

    def seek(self, position: Position) -> None:
        """Go to a sample: the next pass takes a fresh iterator and skips those before it."""
        count = _count(position)
        if self._iterator is None and count == self._count:
            return
        if self._iterator is not None and not self.repeatable:
            raise UnsupportedError(
                "a generator object can be read only once; pass a list, or the function that makes "
                "the generator"
            )
        self._iterator, self._count = None, count

    def close(self) -> None:
        """Close a generator; other iterators have nothing to release."""
        close = getattr(self._iterator, "close", None)
        if close is not None and not self.live:
            close()


class _Copies:
    """Samples that share no mapping or array with the iterator; and whether they have to."""

    def __init__(self, samples: Iterator[Any]) -> None:
        self._samples = samples
        self._originals: dict[int, Any] = {}  # held, so that an identity is not given again
        self._n = 0
        self._twice = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        sample = next(self._samples)
        if not self._twice:
            self._n += 1
            x = sample[0] if isinstance(sample, tuple | list) and sample else None
            for one in (sample, x):
                if isinstance(one, _MUTABLE):
                    self._twice |= id(one) in self._originals
                    self._originals[id(one)] = one
        return _copied(sample)

    def can_end(self) -> bool:
        """Say whether enough samples came, and none of their objects twice."""
        return not self._twice and self._n >= _BLOCK_SAMPLES


def _copied(sample: Any) -> Any:
    """Copy the features of a sample; what is no sample stays as it is, to be refused."""
    if isinstance(sample, list):
        sample = tuple(sample)
    if isinstance(sample, tuple) and sample and isinstance(sample[0], _MUTABLE):
        return (copy.copy(sample[0]), *sample[1:])
    return sample


def _as_block(batch: list[Any], start: int) -> Block:
    """Make a block of samples; an item that is no sample becomes an error at its place."""
    errors: dict[int, BadSampleError] = {}
    xs, ys, ws = split_tuples(batch) or _split(batch, start, errors)
    if len(xs) > 1 and xs[0] is xs[1] and isinstance(xs[0], _MUTABLE):
        raise SourceError(
            f"samples {start} and {start + 1} are the same object, so the first may be lost: let "
            "the iterable give each sample a mapping or array of its own"
        )
    return Block(x=xs, y=ys, w=ws, offsets=range(start, start + len(batch)), errors=errors)


def _split(
    batch: list[Any], start: int, errors: dict[int, BadSampleError]
) -> tuple[list[Any], list[Any], list[Any] | None]:
    """Split samples into columns; what is no sample goes into `errors`."""
    xs: list[Any] = []
    ys: list[Any] = []
    ws: list[Any] = []
    weighted = False
    for i, sample in enumerate(batch):
        w: Any = 1.0
        try:
            if len(sample) == 3:
                x, y, w = sample
                weighted = True
            else:
                x, y = sample
        except (TypeError, ValueError):
            x, y = None, None
            errors[i] = BadSampleError(
                f"a sample must be (x, y) or (x, y, w), not {shown(sample)}"
            ).at("samples", 0, start + i)
        xs.append(x)
        ys.append(y)
        ws.append(w)
    return xs, ys, ws if weighted else None
