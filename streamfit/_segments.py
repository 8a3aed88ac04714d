"""Reads samples again in the order of a journal, whatever order the source has them in now.

A source reads its partitions forward, and they may come in other turns than they once did.
Samples that are early wait in a queue of their partition. When too many of one partition wait,
the source is sent on with that partition *parked* at its end, where it brings nothing more, until
its queue is empty and it is wanted again. So each sample is read about once, memory is bounded,
and there is a seek only once in many samples.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from streamfit._journal_file import Segment
from streamfit.types import Block, Source

__all__ = ["Key", "SegmentReader"]

Key: TypeAlias = tuple[str, int]
"""Source and partition, as the journal names them."""


class SegmentReader:
    """The samples of segments.

    Parameters
    ----------
    source
        Where the samples are. When journal and source have one name each, these may differ, as
        those of a topic and its copy do.
    max_waiting
        How many samples of one partition may wait for their turn.
    """

    def __init__(self, source: Source, max_waiting: int = 50_000) -> None:
        self._source = source
        self._max_waiting = max_waiting
        self._blocks: Iterator[Block] = iter(())
        self._names: dict[Key, str] = {}  # the keys of positions
        self._keys: dict[str, Key] = {}
        self._next: dict[Key, int] = {}  # offset to read next
        self._ends: dict[Key, int] = {}
        self._queues: dict[Key, deque[tuple[Block, int]]] = {}  # with the next index to take
        self._n_waiting: dict[Key, int] = {}
        self._parked: set[Key] = set()

    def begin(self, bounds: Mapping[Key, tuple[int, int]]) -> None:
        """Begin a pass, in which each partition is read within its bounds."""
        theirs = {name.rpartition(":")[0] for name in self._source.position()}
        ours = {source for source, _ in bounds}
        renamed = theirs.pop() if len(ours) == len(theirs) == 1 else None
        self._names = {(s, p): f"{s if renamed is None else renamed}:{p}" for s, p in bounds}
        self._keys = {name: key for key, name in self._names.items()}
        self._next = {key: start for key, (start, _) in bounds.items()}
        self._ends = {key: end for key, (_, end) in bounds.items()}
        self._queues = {key: deque() for key in bounds}
        self._n_waiting = dict.fromkeys(bounds, 0)
        self._parked = set()
        if bounds:
            self._seek()

    def read(self, segment: Segment) -> Iterator[tuple[Block, int, int]]:
        """Hand out what the source has of a segment: blocks, each with the range to take."""
        key = (segment.source, segment.partition)
        queue = self._queues[key]
        while queue or self._fetch(key, segment.stop):
            block, i = queue[0]
            start = bisect_left(block.offsets, segment.start, lo=i)
            stop = bisect_left(block.offsets, segment.stop, lo=start)
            self._n_waiting[key] -= stop - i
            if stop < len(block):
                queue[0] = (block, stop)
            else:
                queue.popleft()
            if stop > start:
                yield block, start, stop
            if stop < len(block) or block.offsets[-1] + 1 >= segment.stop:
                return

    def _fetch(self, key: Key, stop: int) -> bool:
        """Read on until a sample of `key` waits; False when there is none before `stop`."""
        if key in self._parked:
            self._parked.remove(key)
            self._seek()
        while not self._queues[key]:
            block = next(self._blocks, None)
            if block is None:
                return False
            if not len(block):
                if self._source.position().get(self._names[key], 0) >= stop:
                    return False  # a live source has passed the place
                continue
            other = self._keep(block)
            if other not in (None, key) and self._n_waiting[other] >= self._max_waiting:
                self._parked.add(other)
                self._seek()
        return True

    def _keep(self, block: Block) -> Key | None:
        """Queue what is new of a block, if its partition is wanted; say which that is."""
        key = self._keys.get(block.key)
        if key is None:
            return None
        start = bisect_left(block.offsets, self._next[key])
        stop = bisect_left(block.offsets, self._ends[key], lo=start)
        if stop > start:
            self._queues[key].append((block, start))
            self._n_waiting[key] += len(block) - start
            self._next[key] = int(block.offsets[stop - 1]) + 1
        return key

    def _seek(self) -> None:
        """Read on at the next offset of each partition, or at the end of a parked one."""
        wanted = {
            name: (self._ends if key in self._parked else self._next)[key]
            for key, name in self._names.items()
        }
        close = getattr(self._blocks, "close", None)
        if close is not None:
            close()  # a generator may still hold on to a connection
        if dict(self._source.position()) != wanted:
            self._source.seek(wanted)
        self._blocks = iter(self._source)
