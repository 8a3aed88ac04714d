"""Positions of a topic, and whether the broker still holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from connectors.kafka.protocol import Bounds
from streamfit.errors import LostOffsetsError, SourceError
from streamfit.types import Position

__all__ = ["check_held", "from_position", "to_position"]


def to_position(topic: str, offsets: Mapping[int, int]) -> Position:
    """Write offsets by partition as a position.

    >>> to_position("clicks", {1: 7, 0: 1234})
    {'clicks:0': 1234, 'clicks:1': 7}
    """
    return {f"{topic}:{partition}": offset for partition, offset in sorted(offsets.items())}


def from_position(topic: str, position: Mapping[str, int]) -> dict[int, int]:
    """Read a position as offsets by partition, and refuse one of another topic.

    >>> from_position("clicks", {"clicks:0": 1234})
    {0: 1234}
    """
    offsets = {}
    for key, offset in position.items():
        name, _, partition = str(key).rpartition(":")
        if name != topic or not (partition.isascii() and partition.isdecimal()):
            raise SourceError(
                f"position {key!r} is not of topic {topic!r}, whose keys are like '{topic}:0'"
            )
        if type(offset) is not int or offset < 0:
            raise SourceError(f"position {key!r}: {offset!r} is not an offset")
        offsets[int(partition)] = offset
    return offsets


def check_held(topic: str, offsets: Mapping[int, int], held: Bounds) -> None:
    """Raise `LostOffsetsError` when the broker cannot go on at one of `offsets`.

    The end of the log is still held: it is where the next record will be.
    """
    for partition, offset in offsets.items():
        first, end = held.get(partition, (0, math.inf))
        if first <= offset <= end:
            continue
        why = "retention removed it" if offset < first else "the log was truncated or recreated"
        raise LostOffsetsError(
            f"topic {topic!r} partition {partition}: offset {offset} is wanted and the broker "
            f"holds {first} to {end} ({why}); seek to a position within it to go on"
        )
