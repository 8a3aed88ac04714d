"""Sources in parts: what can be read by several workers, and which share of a training reads what.

A *share* is a part of the work of a training; how many there are is part of what is learned, like
the size of a micro-batch. Workers compute shares, and how many workers there are is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from typing import Any, TypeAlias

from streamfit.core.sums import cut
from streamfit.errors import ConfigurationError
from streamfit.sources import ArraySource, SourceList
from streamfit.types import KeepsState, Position, Source, Splits

__all__ = ["MODES", "Dealing", "Shards", "deal", "split"]

MODES = ("synchronous", "local")
"""How shares are put together: gradients in every micro-batch, or models now and then."""

Dealing: TypeAlias = dict[str, int]
"""Which share reads each partition, by the partition's key in a position."""


def deal(partitions: Sequence[str], shares: int, dealt: Mapping[str, int] = {}) -> Dealing:
    """Deal partitions to shares: what is not yet dealt goes to who has fewest, the first of them.

    >>> deal(["clicks:0", "clicks:1", "clicks:2"], 2)
    {'clicks:0': 0, 'clicks:1': 1, 'clicks:2': 0}
    """
    dealing = dict(dealt)
    held = Counter(dealing.values())
    fewest = [(held[share], share) for share in range(shares)]
    heapify(fewest)
    for partition in partitions:
        if partition not in dealing:
            n, dealing[partition] = fewest[0]
            heapreplace(fewest, (n + 1, dealing[partition]))
    return dealing


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
    total
        Where the partitions are ranges of one array: its rows, on which the ranges depend.
    """

    source: Source
    cuts: bool
    total: int | None = None

    def rows(self, position: Position) -> int:
        """Count the rows from a position to the end, where shares are cuts."""
        assert isinstance(self.source, ArraySource)
        return self.source.lag(position)

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
        When the source cannot be split; or is a list that holds something else, or more sources
        than shares, some of them live: one that never ends would keep those from being read that
        share a share with it.

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
        return Shards(SourceList(parts), cuts=False, total=n)
    if isinstance(source, list | tuple):
        source = SourceList(source)
    if isinstance(source, SourceList) and source.live and len(source.partitions()) > shares:
        n = len(source.partitions())
        raise ConfigurationError(
            f"the list holds {n} sources, some of them live, for shares={shares}: a live source "
            "may never end, and what follows it in its share would never be read. Take "
            f"shares={n} or more; or, if all end, make them without live"
        )
    if not isinstance(source, Splits) or not isinstance(source, Source):
        if isinstance(source, KeepsState):
            advice = "it keeps a state over all its samples; read it with sf.Trainer"
        elif isinstance(source, Source):
            advice = "give a list of sources, one file each"
        else:
            advice = "pass an ArraySource, a KafkaSource, or a list of sources, one file each"
        raise ConfigurationError(f"{type(source).__name__} cannot be split among workers: {advice}")
    return Shards(source, cuts=False)
