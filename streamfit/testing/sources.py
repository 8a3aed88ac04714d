"""Sources for tests: the same samples, cut and dealt out in any way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from streamfit.errors import SourceError
from streamfit.types import Block, Position

__all__ = ["PartitionedSource", "SplitSource"]


class SplitSource:
    """Samples of one partition, cut into blocks at given places; remembers if it was closed.

    Parameters
    ----------
    x, y, w
        What the blocks hold (see `Block`): sequences or arrays of `n` samples, `w` may be None.
    cuts
        Where a block ends and the next begins, rising, in [0, n]; equal cuts make empty blocks.
    features
        Column names when `x` is an array.

    Examples
    --------
    >>> from streamfit.testing.sources import SplitSource
    >>> source = SplitSource([{"a": 1.0}, {"a": 2.0}, {"a": 3.0}], [1.0, 2.0, 3.0], cuts=[1])
    >>> [len(block) for block in source]
    [1, 2]
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        w: Any = None,
        *,
        cuts: Sequence[int] = (),
        features: Sequence[Any] | None = None,
    ) -> None:
        self._x, self._y, self._w = x, y, w
        self._cuts = [*cuts, len(y)]
        self._features = features
        self._next = 0
        self.closed = False

    def __iter__(self) -> Iterator[Block]:
        """Hand out the blocks from the position on."""
        for cut in self._cuts:
            if cut < self._next:
                continue
            start, self._next = self._next, cut
            yield Block(
                x=self._x[start:cut],
                y=self._y[start:cut],
                w=None if self._w is None else self._w[start:cut],
                source="split",
                partition=7,
                offsets=range(start, cut),
                features=self._features,
            )

    def position(self) -> Position:
        """Say how many samples were handed out."""
        return {"split:7": self._next}

    def seek(self, position: Position) -> None:
        """Go to a sample."""
        if set(position) != {"split:7"}:
            raise SourceError(f"{position!r} is not a position of this source")
        self._next = position["split:7"]

    def close(self) -> None:
        """Remember that the source was closed."""
        self.closed = True


class PartitionedSource:
    """Samples of several partitions, dealt out in given turns.

    Parameters
    ----------
    partitions
        The samples `(x, y)` of each partition. None stands for an offset without a record.
    turns
        `(partition, n)`: which partition hands out its next `n` offsets. What is left when the
        turns are over follows, one partition after the other.
    name
        Name of the source.

    Examples
    --------
    >>> from streamfit.testing.sources import PartitionedSource
    >>> source = PartitionedSource([[({}, 1.0), ({}, 2.0)], [({}, 3.0)]], turns=[(0, 1), (1, 1)])
    >>> [list(block.y) for block in source]
    [[1.0], [3.0], [2.0]]
    """

    live = False

    def __init__(
        self,
        partitions: Sequence[Sequence[Any]],
        turns: Sequence[tuple[int, int]] = (),
        name: str = "parts",
    ) -> None:
        self._partitions = partitions
        self._turns = turns
        self._name = name
        self._next = [0] * len(partitions)
        self.n_seeks = 0
        self.n_read = 0

    def __iter__(self) -> Iterator[Block]:
        """Hand out blocks from the position on."""
        for partition, n in [*self._turns, *((p, len(s)) for p, s in enumerate(self._partitions))]:
            start = self._next[partition]
            records = self._partitions[partition][start : start + n]
            self._next[partition] = start + len(records)
            here = [(start + i, record) for i, record in enumerate(records) if record is not None]
            self.n_read += len(here)
            if here:
                yield Block(
                    x=[x for _, (x, _) in here],
                    y=[y for _, (_, y) in here],
                    source=self._name,
                    partition=partition,
                    offsets=[offset for offset, _ in here],
                )

    def position(self) -> Position:
        """Say how far each partition was handed out."""
        return {f"{self._name}:{p}": n for p, n in enumerate(self._next)}

    def seek(self, position: Position) -> None:
        """Go to a position; partitions that it does not name begin again."""
        if not set(position) <= set(self.position()):
            raise SourceError(f"{position!r} is not a position of this source")
        self._next = [position.get(f"{self._name}:{p}", 0) for p in range(len(self._next))]
        self.n_seeks += 1

    def close(self) -> None:
        """Do nothing; there is nothing to release."""
