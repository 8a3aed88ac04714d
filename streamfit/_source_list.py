"""Several sources as one."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from streamfit._derived_source import partition_lag
from streamfit.errors import ConfigurationError, SourceError
from streamfit.types import Block, DescribesItself, KeepsState, Position, Source, Splits

__all__ = ["SourceList"]


class SourceList:
    """Several sources as the partitions of one: partition `i` is the i-th.

    Parameters
    ----------
    sources
        Sources of one partition each, such as files or arrays. They are read one after the other.

    Raises
    ------
    ConfigurationError
        When one of them is no source, is there twice, or has partitions or a state of its own.

    Examples
    --------
    >>> import numpy as np
    >>> from streamfit.sources import ArraySource, SourceList
    >>> parts = SourceList([ArraySource(np.ones((n, 1)), np.ones(n)) for n in (2, 3)])
    >>> parts.position(), [(block.partition, len(block)) for block in parts]
    ({'samples:0': 0, 'samples:1': 0}, [(0, 2), (1, 3)])
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        for i, source in enumerate(sources):
            item = f"item {i} of the list is of type {type(source).__name__}"
            if not isinstance(source, Source):
                raise ConfigurationError(f"{item}, not a source: {_advice(source)}")
            if isinstance(source, Splits):
                raise ConfigurationError(f"{item} and has partitions of its own: pass it alone")
            if isinstance(source, KeepsState):
                raise ConfigurationError(
                    f"{item}, which keeps a state over all its samples: read it with sf.Trainer"
                )
        if not sources:
            raise ConfigurationError("a list of sources needs at least one")
        if len({id(source) for source in sources}) < len(sources):
            raise ConfigurationError("a list of sources holds the same object twice")
        self._parts = dict(enumerate(sources))

    def __repr__(self) -> str:
        return f"SourceList({list(self._parts.values())!r})"

    @property
    def live(self) -> bool:
        """Whether any of them is."""
        return any(getattr(source, "live", False) for source in self._parts.values())

    def partitions(self) -> list[str]:
        """Return the keys of the partitions."""
        return [self._keys(number)[0] for number in self._parts]

    def only(self, partitions: Sequence[str]) -> SourceList:
        """Return the same source with only some of the partitions, which keep their keys.

        Raises
        ------
        ConfigurationError
            When one of several is live, and may so never let the others have their turn.
        """
        numbers = sorted(int(key.rpartition(":")[2]) for key in partitions)
        part = copy.copy(self)
        part._parts = {number: self._parts[number] for number in numbers}
        if part.live and len(numbers) > 1:
            raise ConfigurationError(
                f"sources {numbers} of the list would be read one after the other, and one is live "
                "and may never end: let each have a share of its own "
                f"(shares={len(self._parts)} or more), or, if all end, make them without live"
            )
        return part

    def __iter__(self) -> Iterator[Block]:
        """Hand out the blocks of each source, one source after the other."""
        for number, source in self._parts.items():
            for block in source:
                for error in block.errors.values():
                    error.partition = number
                yield replace(block, partition=number)

    def position(self) -> Position:
        """Say where each source stands."""
        return {
            self._keys(number)[0]: source.position()[self._keys(number)[1]]
            for number, source in self._parts.items()
        }

    def seek(self, position: Position) -> None:
        """Go to a position; a source that it does not name stays where it is."""
        keys = {self._keys(number)[0]: number for number in self._parts}
        if unknown := sorted(set(position) - set(keys)):
            raise SourceError(f"{unknown} are no partitions of {self!r:.200}")
        for key, offset in position.items():
            source = self._parts[keys[key]]
            source.seek({self._keys(keys[key])[1]: offset})

    def close(self) -> None:
        """Close them all."""
        for source in self._parts.values():
            source.close()

    def partition_lag(self, position: Position) -> dict[str, int] | None:
        """Count the samples left in each partition; None when one does not know."""
        lags = {}
        for number, source in self._parts.items():
            ours, theirs = self._keys(number)
            lag = partition_lag(source, {theirs: position[ours]}) if ours in position else {}
            if lag is None:
                return None
            lags[ours] = sum(lag.values())
        return lags

    def get_config(self) -> dict[str, Any] | None:
        """Return the arguments, JSON-safe; None when one of the sources cannot tell."""
        described = [
            source.get_config() if isinstance(source, DescribesItself) else None
            for source in self._parts.values()
        ]
        return None if None in described else {"id": "SourceList", "sources": described}

    def _keys(self, number: int) -> tuple[str, str]:
        """Return the key of a partition, here and in its own source."""
        (theirs,) = self._parts[number].position()
        return f"{theirs.rpartition(':')[0]}:{number}", theirs


def _advice(item: object) -> str:
    """Say how to make a source of something else."""
    if isinstance(item, str | os.PathLike):
        return "wrap it in CSVSource(...), or in another source that reads such files"
    if callable(item):
        return "wrap it in sf.IterableSource(...)"
    if isinstance(item, Iterator):
        return "wrap the function that makes it in sf.IterableSource(...)"
    return "samples in memory are sf.ArraySource(X, y)"
