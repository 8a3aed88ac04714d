"""Sources in parts: what can be read by several workers, and which share of a training reads what.

A *share* is a part of the work of a training; how many there are is part of what is learned, like
the size of a micro-batch. Workers compute shares, and how many workers there are is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from streamfit.errors import ConfigurationError, SourceError
from streamfit.sources import ArraySource, partition_lag
from streamfit.types import (
    Block,
    DescribesItself,
    KeepsState,
    Position,
    Source,
    Splits,
)

__all__ = ["MODES", "Dealing", "Shards", "SourceList", "cut", "deal", "split"]

MODES = ("synchronous", "local")
"""How shares are put together: gradients in every micro-batch, or models now and then."""

Dealing: TypeAlias = dict[str, int]
"""Which share reads each partition, by the partition's key in a position."""


def cut(n: int, shares: int) -> list[int]:
    """Cut `n` samples into contiguous shares: `n // shares` each, the first ones one more.

    >>> cut(8, 3)
    [3, 3, 2]
    """
    each, more = divmod(n, shares)
    return [each + (share < more) for share in range(shares)]


def deal(partitions: Sequence[str], shares: int, dealt: Mapping[str, int] = {}) -> Dealing:
    """Deal partitions to shares: what is not yet dealt goes to who has fewest, the first of them.

    >>> deal(["clicks:0", "clicks:1", "clicks:2"], 2)
    {'clicks:0': 0, 'clicks:1': 1, 'clicks:2': 0}
    """
    dealing = dict(dealt)
    for partition in partitions:
        if partition not in dealing:
            held = list(dealing.values())
            dealing[partition] = min(range(shares), key=held.count)
    return dealing


class SourceList:
    """Several sources as the partitions of one: partition `i` is the i-th.

    Parameters
    ----------
    sources
        Sources of one partition each, such as files or arrays.

    Raises
    ------
    ConfigurationError
        When one of them is no source, or has partitions or a state of its own.

    Examples
    --------
    >>> import numpy as np
    >>> from streamfit import ArraySource
    >>> from streamfit.shards import SourceList
    >>> parts = SourceList([ArraySource(np.ones((n, 1)), np.ones(n)) for n in (2, 3)])
    >>> parts.position(), [(block.partition, len(block)) for block in parts]
    ({'samples:0': 0, 'samples:1': 0}, [(0, 2), (1, 3)])
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        for source in sources:
            if not isinstance(source, Source):
                raise ConfigurationError(f"a list of sources holds {source!r:.80}, which is none")
            if isinstance(source, Splits | KeepsState):
                raise ConfigurationError(
                    f"{source!r:.80} has partitions or a state of its own: pass it alone, not in "
                    "a list of sources"
                )
        if not sources:
            raise ConfigurationError("a list of sources needs at least one")
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
        """Return the same source with only some of the partitions, which keep their keys."""
        part = SourceList(list(self._parts.values()))
        part._parts = {
            number: source
            for number, source in self._parts.items()
            if self._keys(number)[0] in partitions
        }
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


@dataclass(frozen=True)
class Shards:
    """A source that several shares of a training read.

    Parameters
    ----------
    source
        All of it: what knows the position and the lag.
    cuts
        Whether each micro-batch is cut into contiguous shares, of one partition that every share
        reads; otherwise every share has partitions of its own.
    """

    source: Source
    cuts: bool

    def of(self, partitions: Sequence[str]) -> Source:
        """Return what a share reads to whom these partitions are dealt."""
        if self.cuts:
            return self.source
        assert isinstance(self.source, Splits)
        return self.source.only(partitions)


def split(source: Any, shares: int, mode: str) -> Shards:
    """Say how a source is read by several shares.

    Parameters
    ----------
    source
        An `ArraySource`: contiguous rows of each micro-batch, or in `local` mode of the array. A
        source with partitions (`KafkaSource`), or a list of sources: by partition.
    shares, mode
        How many shares, and how they are put together.

    Raises
    ------
    ConfigurationError
        When the source cannot be split.

    Examples
    --------
    >>> import numpy as np
    >>> from streamfit import ArraySource
    >>> from streamfit.shards import split
    >>> split(ArraySource(np.ones((5, 2)), np.ones(5)), 2, "local").source.position()
    {'samples:0': 0, 'samples:1': 0}
    """
    if isinstance(source, ArraySource):
        if mode == "synchronous":
            return Shards(source, cuts=True)
        start = source.position()["samples:0"]
        n, parts = source.lag(source.position()), []
        for size in cut(n, shares):
            parts.append(source.rows(start, start + size))
            start += size
        return Shards(SourceList(parts), cuts=False)
    if isinstance(source, list | tuple) and source and isinstance(source[0], Source):
        source = SourceList(source)
    if not isinstance(source, Splits) or not isinstance(source, Source):
        raise ConfigurationError(
            f"a {type(source).__name__} cannot be split among workers: pass an ArraySource, a "
            "KafkaSource, or a list of sources (one file each, say)"
        )
    return Shards(source, cuts=False)
