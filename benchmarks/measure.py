"""Timing two pieces of work side by side, and saying which targets are reached."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median, quantiles

__all__ = [
    "Case",
    "Measurement",
    "NotAvailableError",
    "Side",
    "compare",
    "passes_for",
    "rates",
    "timed",
]

RUN_SECONDS = 0.12
"""How long one timed run should take at least."""


class NotAvailableError(Exception):
    """What is to be measured, or its peer, is not there."""


@dataclass(frozen=True)
class Side:
    """One of the two pieces of work.

    Parameters
    ----------
    name
        Whose work it is.
    prepare
        Makes what is timed: a function without arguments that goes `n` samples further. What
        `prepare` itself does is not timed; it is called afresh for each repeat.
    n
        Samples (or calls) of one pass.
    """

    name: str
    prepare: Callable[[], Callable[[], object]]
    n: int


@dataclass(frozen=True)
class Measurement:
    """What came out: a ratio of ours to the peer's, and what it was made of."""

    ratio: float
    ours: float
    peer: float
    ours_spread: float
    peer_spread: float
    peer_name: str
    unit: str = "samples/s"


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Parameters
    ----------
    target
        `"S1"`, ...; None-numbered lines beside a target have a goal of None.
    work
        What is done.
    goal
        The ratio to reach, None for a line that is shown for comparison only.
    run
        Measures; raises `NotAvailableError`.
    at_most
        The ratio is to be at most the goal (of times, sizes), not at least (of rates).
    """

    target: str
    work: str
    goal: float | None
    run: Callable[[], Measurement]
    at_most: bool = False

    def reached(self, measurement: Measurement) -> bool | None:
        """Say whether the goal is reached, None where there is none."""
        if self.goal is None:
            return None
        ratio = measurement.ratio
        return ratio <= self.goal if self.at_most else ratio >= self.goal


def timed(work: Callable[[], object], passes: int) -> float:
    """Return the seconds that `passes` calls take, as `timeit` does: without the collector."""
    gc.collect()
    gc.disable()
    try:
        began = time.perf_counter()
        for _ in range(passes):
            work()
        return time.perf_counter() - began
    finally:
        gc.enable()


def passes_for(side: Side, seconds: float) -> int:
    """Return how many passes take about `seconds`; the first pass warms up."""
    work = side.prepare()
    work()
    return max(1, math.ceil(seconds / max(timed(work, 1), 1e-9)))


def rates(
    sides: list[Side], repeats: int = 7, seconds: float = RUN_SECONDS
) -> Iterator[list[float]]:
    """Yield each side's samples per second, by repeat; the sides take turns within a repeat."""
    passes = [passes_for(side, seconds) for side in sides]
    found: list[list[float]] = [[] for _ in sides]
    for repeat in range(repeats):
        order = range(len(sides)) if repeat % 2 == 0 else reversed(range(len(sides)))
        for i in order:
            work = sides[i].prepare()
            found[i].append(sides[i].n * passes[i] / timed(work, passes[i]))
    yield from found


def spread(values: list[float]) -> float:
    """Return the distance of the quartiles, in units of the median."""
    if len(values) < 3:
        return (max(values) - min(values)) / median(values)
    low, _, high = quantiles(values, n=4, method="inclusive")
    return (high - low) / median(values)


def compare(
    ours: Side,
    peer: Side,
    *,
    repeats: int = 7,
    seconds: float = RUN_SECONDS,
    of_times: bool = False,
    unit: str = "samples/s",
) -> Measurement:
    """Measure both sides in turns; the ratio is that of the medians.

    The ratio is of rates, ours by the peer's, or with `of_times` of times, ours by the peer's.
    """
    our_rates, peer_rates = rates([ours, peer], repeats, seconds)
    a, b = median(our_rates), median(peer_rates)
    return Measurement(
        ratio=b / a if of_times else a / b,
        ours=a,
        peer=b,
        ours_spread=spread(our_rates),
        peer_spread=spread(peer_rates),
        peer_name=peer.name,
        unit=unit,
    )
