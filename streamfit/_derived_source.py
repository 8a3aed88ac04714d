"""A source made of another one: what windows and transformers have in common.

To go to a position, the other source is read again from where it began, and what comes before the
position is made but not handed out; or, from a checkpoint, what was held is taken over.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext
from typing import Any

from streamfit.errors import CheckpointMismatchError, SourceError
from streamfit.types import (
    Block,
    CommitsOffsets,
    KeepsState,
    Position,
    ReportsLag,
    ReportsPartitionLag,
    SendsDeadLetters,
    Source,
)

__all__ = ["DerivedSource", "partition_lag"]


def partition_lag(source: Source, position: Position) -> dict[str, int] | None:
    """Count the samples left in each partition of any source, None when it does not know.

    A source that knows only their sum has it under `"all"`, or under its only partition.

    Examples
    --------
    >>> import numpy as np
    >>> from streamfit.sources import ArraySource, partition_lag
    >>> source = ArraySource(np.ones((5, 2)), np.ones(5))
    >>> partition_lag(source, source.position())
    {'samples:0': 5}
    """
    if isinstance(source, ReportsPartitionLag):
        return source.partition_lag(position)
    lag = source.lag(position) if isinstance(source, ReportsLag) else None
    if lag is None:
        return None
    return {next(iter(position)) if len(position) == 1 else "all": lag}


class DerivedSource(ABC):
    """A source that makes its blocks of those of another.

    Parameters
    ----------
    source
        The other one.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._start: Position | None = None
        self._wanted: Position = {}  # what is before it is made, but not handed out
        if isinstance(source, SendsDeadLetters):
            self.dead_letters = source.dead_letters

    @property
    def live(self) -> bool:
        """Whether the other source is."""
        return getattr(self.source, "live", False)

    @property
    def n_duplicates(self) -> int:
        """How many records the other source dropped because they came twice."""
        return getattr(self.source, "n_duplicates", 0)

    @abstractmethod
    def _derive(self, block: Block) -> Block:
        """Make a block of one that has samples, without what lies before `_wanted`."""

    @abstractmethod
    def _forget(self) -> None:
        """Hold nothing, as at the start."""

    @abstractmethod
    def _held_before(self, position: Position) -> dict[str, Any] | None:
        """Return what is held of the samples before `position`, JSON-safe; None if not known."""

    @abstractmethod
    def _hold(self, state: dict[str, Any]) -> None:
        """Hold what `_held_before` returned; change nothing when that does not fit."""

    def __iter__(self) -> Iterator[Block]:
        """Hand out derived blocks, from the present position on."""
        self.position()
        blocks = iter(self.source)
        with closing(blocks) if isinstance(blocks, Generator) else nullcontext():
            for block in blocks:
                derived = self._derive(block) if len(block) else block
                if len(derived) or self.live:
                    yield derived
        reached = self.source.position()
        for name, offset in self._wanted.items():
            if reached.get(name, 0) < offset:
                raise SourceError(f"{name} ended at {reached.get(name, 0)}, wanted is {offset}")

    def position(self) -> Position:
        """Say where the other source stands."""
        position = self.source.position()
        if self._start is None:
            self._start = dict(position)
        return {name: max(n, self._wanted.get(name, 0)) for name, n in position.items()}

    def seek(self, position: Position) -> None:
        """Hand out next what comes next at `position`, made as if all before had been read."""
        self.position()
        assert self._start is not None
        self.source.seek(position)  # which refuses what is no position of it
        self._forget()
        self._wanted = {}
        if position != self._start:
            self.source.seek(self._start)
            self._wanted = dict(position)

    def close(self) -> None:
        """Close the other source."""
        self.source.close()

    def commit(self, position: Position) -> None:
        """Publish `position`, if the other source does such a thing."""
        if isinstance(self.source, CommitsOffsets):
            self.source.commit(position)

    def lag(self, position: Position) -> int | None:
        """Count the samples left in the other source, None when it does not know."""
        return self.source.lag(position) if isinstance(self.source, ReportsLag) else None

    def partition_lag(self, position: Position) -> dict[str, int] | None:
        """Count them for each partition."""
        return partition_lag(self.source, position)

    def state_dict(self, position: Position) -> dict[str, Any] | None:
        """Return what is held of the samples before `position`, JSON-safe.

        None when that is not known: the stream is still being read again up to where it was, or
        `position` lies too far back.
        """
        reached = self.source.position()
        if any(reached.get(name, 0) < offset for name, offset in self._wanted.items()):
            return None
        held = self._held_before(position)
        if held is None:
            return None
        inner = self.source.state_dict(position) if isinstance(self.source, KeepsState) else None
        return {"source": inner, **held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state` says, at the position that was sought last.

        Raises
        ------
        CheckpointMismatchError
            When the state does not fit.
        """
        if not isinstance(state, dict):
            raise CheckpointMismatchError(f"not the state of {self!r:.80}: {state!r:.80}")
        held = dict(state)
        inner = held.pop("source", None)
        self._hold(held)
        if self._wanted:
            self.source.seek(self._wanted)
        if inner is not None and isinstance(self.source, KeepsState):
            self.source.load_state_dict(inner)
        self._wanted = {}
