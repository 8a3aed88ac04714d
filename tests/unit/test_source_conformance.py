"""The suite for sources finds what is wrong with one."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from streamfit.errors import BadSampleError, SourceError
from streamfit.testing.source_conformance import SAMPLES, Record, SourceConformance
from streamfit.types import Block, Position, Source

FAULTS = (
    *("loses the last sample", "repeats a block", "swaps blocks", "position before the block"),
    *("position does not move", "position is a float", "seek is forgotten", "seek by blocks"),
    *("any position is taken", "past the end is taken", "shared position", "closes once"),
    *("starts again after the end", "errors without a place", "errors one further on"),
    *("leaves flaws out", "loses weights", "features by another name", "offsets from 0 in a block"),
)


class ListSource:
    """Samples of a list, in blocks of 300; with one fault."""

    shared = 0

    def __init__(self, records: Sequence[Record | None], fault: str | None) -> None:
        self.records, self.fault = records, fault
        self.next, self.closed = 0, False
        ListSource.shared = 0

    def __iter__(self) -> Iterator[Block]:
        n = len(self.records) - (self.fault == "loses the last sample")
        if self.fault == "starts again after the end" and self.next == n:
            self.next = 0
        while self.next < n:
            start = ListSource.shared if self.fault == "shared position" else self.next
            stop = min(start + 300, n)
            if self.fault == "swaps blocks" and start in (300, 600):
                start, stop = (600, 900) if start == 300 else (300, 600)
            if self.fault == "position before the block":
                yield self.block(start, stop)
            if self.fault != "position does not move":
                self.next = ListSource.shared = min(self.next + 300, n)
            if self.fault != "position before the block":
                yield self.block(start, stop)
            if self.fault == "repeats a block" and start == 300:
                yield self.block(start, stop)
            if self.fault == "position does not move":
                break

    def block(self, start: int, stop: int) -> Block:
        records = self.records[start:stop]
        if self.fault == "leaves flaws out":
            records = [record for record in records if record is not None]
        blank = Record({}, 0.0)
        at = start + (self.fault == "errors one further on")
        shift = "z" if self.fault == "features by another name" else ""
        first = 0 if self.fault == "offsets from 0 in a block" else start
        errors = {
            i: BadSampleError("no sample").at("list", 0, at + i)
            if self.fault != "errors without a place"
            else BadSampleError("no sample")
            for i, record in enumerate(records)
            if record is None
        }
        return Block(
            x=[{shift + k: v for k, v in (record or blank).x.items()} for record in records],
            y=[(record or blank).y for record in records],
            w=None if self.fault == "loses weights" else [(r or blank).w for r in records],
            source="list",
            offsets=range(first, first + len(records)),
            errors=errors,
        )

    def position(self) -> Position:
        at: Any = self.next + (0.5 if self.fault == "position is a float" else 0)
        return {"list:0": at}

    def seek(self, position: Position) -> None:
        n = position.get("list:0", 0)
        known = set(position) == {"list:0"} and type(n) is int and n >= 0
        if self.fault == "any position is taken":
            n = n if isinstance(n, int) else 0
        elif not known or (n > len(self.records) and self.fault != "past the end is taken"):
            raise SourceError(f"{position!r} is not a position of this source")
        if self.fault == "seek by blocks":
            n = n // 300 * 300
        if self.fault != "seek is forgotten":
            self.next = n

    def close(self) -> None:
        if self.fault == "closes once" and self.closed:
            raise RuntimeError("closed already")
        self.closed = True


def outcomes(fault: str | None) -> list[str]:
    """Run the suite; return the names of the tests that fail."""
    suite, failed = SourceConformance(), []

    def opened(records: Sequence[Record | None] = SAMPLES) -> Source:
        return ListSource(records, fault)

    for name, test in inspect.getmembers(suite, callable):
        if not name.startswith("test_"):
            continue
        marks = getattr(test, "pytestmark", [])
        values = [mark.args[1] for mark in marks if mark.name == "parametrize"]
        for value in values[0] if values else [None]:
            arguments: dict[str, Any] = {"n": value} if values else {}
            try:
                test(opened=opened, **arguments)
            except (Exception, pytest.fail.Exception):
                failed.append(name)
    return failed


def test_a_good_source_passes() -> None:
    assert outcomes(None) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str) -> None:
    assert outcomes(fault)
