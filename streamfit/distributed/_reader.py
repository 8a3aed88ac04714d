"""The samples of one share, waiting to be learned."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import TypeAlias

from streamfit.types import Block, Position, Source

__all__ = ["Piece", "Reader"]

Piece: TypeAlias = tuple[Block, int, int]
"""A block, and which of its samples: from the first to before the second number."""

_AHEAD = 4096  # samples that a thread reads ahead, and one block more


class Reader:
    """Reads a source and gives out its samples in any numbers.

    A live source is read ahead on a thread, so that nobody waits where nothing arrives; any other
    is read when samples are wanted.

    Parameters
    ----------
    source
        Where the samples are.
    position
        Where to begin.

    Attributes
    ----------
    n_waiting
        Samples that were read and are not taken yet, those that could not be decoded included.
    is_read
        Whether no more will come than those that wait.
    error
        Why not, if it is not the end; `fill` raises it when nothing waits any more.
    """

    def __init__(self, source: Source, position: Position) -> None:
        self.n_waiting = 0
        self.live = bool(getattr(source, "live", False))
        self._source = source
        self._pieces: deque[Piece] = deque()
        self._changed = threading.Condition()
        self.is_read = False
        self._closed = False
        self._ahead = _AHEAD
        self.error: Exception | None = None
        source.seek(position)
        self._blocks: Iterator[Block] = iter(source)
        if self.live:
            self._thread = threading.Thread(target=self._read_ahead, daemon=True)
            self._thread.start()

    def at_end(self) -> bool:
        """Say whether every sample was taken and no more will come; never raises."""
        if not self.live:
            while not self.n_waiting and self._read_one():
                pass
        return self.is_read and not self.n_waiting and self.error is None

    def fill(self, n: int, unless: Callable[[], bool] = lambda: False) -> int:
        """Try to have `n` samples waiting, `unless` it need not; return how many there are.

        Raises
        ------
        Exception
            What the source raised, when everything before it was taken.
        """
        if not self.live:
            while self.n_waiting < n and not unless() and self._read_one():
                pass
        elif n > self._ahead:
            with self._changed:
                self._ahead = n
                self._changed.notify_all()
        if self.error is not None and not self.n_waiting:
            raise self.error
        return self.n_waiting

    def wait(self, n: int, seconds: float, unless: Callable[[], bool]) -> None:
        """Wait for `n` samples, or the last, or `unless` (see `wake`); but not for ever."""
        with self._changed:
            self._changed.wait_for(lambda: self.n_waiting >= n or self.is_read or unless(), seconds)

    def wake(self) -> None:
        """Let `wait` look again whether it has to, in another thread."""
        with self._changed:
            self._changed.notify_all()

    def take(self, n: int) -> list[Piece]:
        """Take up to `n` samples that wait, in order."""
        taken: list[Piece] = []
        with self._changed:
            while n and self._pieces:
                block, start, stop = self._pieces.popleft()
                end = min(stop, start + n)
                taken.append((block, start, end))
                if end < stop:
                    self._pieces.appendleft((block, end, stop))
                n -= end - start
                self.n_waiting -= end - start
            self._changed.notify_all()
        return taken

    def put_back(self, pieces: list[Piece]) -> None:
        """Put samples back to the front."""
        with self._changed:
            self._pieces.extendleft(reversed(pieces))
            self.n_waiting += sum(stop - start for _, start, stop in pieces)

    def seek(self, position: Position) -> None:
        """Go on elsewhere; only of a source that is not read ahead."""
        assert not self.live
        if isinstance(self._blocks, Generator):
            self._blocks.close()
        self._pieces.clear()
        self.n_waiting, self.is_read = 0, False
        self._source.seek(position)
        self._blocks = iter(self._source)

    def close(self) -> None:
        """Stop reading, and close the source."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self.live:
            self._thread.join()
        if isinstance(self._blocks, Generator):
            self._blocks.close()
        self._source.close()

    def _read_one(self) -> bool:
        """Read a block; return whether there may be more."""
        if self.is_read:
            return False
        try:
            block = next(self._blocks, None)
        except Exception as error:
            self.error, block = error, None
        with self._changed:
            if block is None:
                self.is_read = True
            elif len(block):
                self._pieces.append((block, 0, len(block)))
                self.n_waiting += len(block)
            self._changed.notify_all()
        return block is not None

    def _read_ahead(self) -> None:
        while not self._closed and self._read_one():
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self.n_waiting < self._ahead)
