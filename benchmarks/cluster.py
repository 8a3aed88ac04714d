"""What a round of several workers costs: formulas, from measured times and a network.

Everything is in seconds, bytes and samples. `Calibration` has what was measured; a `Network`
between machines cannot be measured on one, and is an assumption to be named wherever it is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from benchmarks.calibration import Calibration

__all__ = [
    "Network",
    "Round",
    "break_even",
    "catch_up",
    "distinct",
    "local_round",
    "replica_bytes",
    "ring",
    "sharded",
    "slowest",
    "star",
    "synchronous_update",
    "tree",
]

ENTRY = 12
"""Bytes of one number of a sparse exchange: a column of 4 and a value of 8."""


@dataclass(frozen=True)
class Network:
    """What is between workers and driver.

    Parameters
    ----------
    latency
        Seconds of a round trip, however small.
    each
        Seconds that the driver needs for each worker besides: calls, answers.
    bandwidth
        Bytes a second of one machine's link, each way.
    """

    latency: float
    each: float
    bandwidth: float


@dataclass(frozen=True)
class Round:
    """The time of a round, in parts, and what it learned."""

    work: float
    combine: float
    samples: int

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.work + self.combine

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.samples / self.seconds

    @property
    def efficiency(self) -> float:
        """Share of the time in which samples are learned."""
        return self.work / self.seconds


# ---- ways to combine arrays of `size` bytes of `n` workers, so that all have the result


def star(n: int, size: float, net: Network, add: float) -> float:
    """Let the driver take all arrays, add them up, and send the sum to each."""
    return net.latency + n * net.each + 2 * n * size / net.bandwidth + n * size / add


def tree(n: int, size: float, net: Network, add: float) -> float:
    """Add in pairs, and send the sum back the same way."""
    levels = math.ceil(math.log2(n)) if n > 1 else 0
    return levels * (2 * net.latency + 2 * size / net.bandwidth + size / add)


def ring(n: int, size: float, net: Network, add: float) -> float:
    """Pass parts around: the fewest bytes that a link can do with (Patarasuk and Yuan 2009)."""
    part = (n - 1) / n * size
    return 2 * (n - 1) * net.latency + 2 * part / net.bandwidth + part / add


def sharded(n: int, servers: int, size: float, net: Network, add: float) -> float:
    """Send `size` bytes to servers that have a part of the parameters each, and fetch as many.

    The parameter server of Li et al. (2014): what one link carries is the larger of a worker's
    bytes and a server's share of all.
    """
    busiest = max(size, n * size / servers)
    return 2 * (net.latency + busiest / net.bandwidth) + n * size / servers / add


def distinct(draws: float, columns: int, exponent: float = 0.0) -> float:
    """Return how many of `columns` are expected among `draws` of them.

    Column `k` has a probability in proportion to `k ** -exponent` (Zipf's law, near 1 for words);
    0 makes all equal, which is the most there can be. Summed over stretches of columns that grow
    by a hundredth, so that 10^9 of them take no time.
    """
    edges = np.unique(np.concatenate([[1.0], np.geomspace(1, columns + 1, 2400).round()]))
    counts, middle = np.diff(edges), np.sqrt(edges[:-1] * (edges[1:] - 1))
    p = middle**-exponent
    p /= (p * counts).sum()
    return float((counts * -np.expm1(draws * np.log1p(-np.minimum(p, 1 - 1e-12)))).sum())


# ---- rounds


def slowest(n: int, tail: list[float]) -> float:
    """Return how long the slowest of `n` takes, on average, in units of the median.

    `tail` are the quantiles of one, at equal distances. The largest of `n` draws is at the quantile
    `U ** (1 / n)` for a uniform `U`. Nothing is known of what is slower than the slowest measured.
    """
    at = ((np.arange(10_000) + 0.5) / 10_000) ** (1.0 / n)
    return float(np.interp(at, np.linspace(0.0, 1.0, len(tail)), tail).mean())


def local_round(
    c: Calibration,
    n: int,
    samples: int,
    learn: float,
    size: float,
    net: Network | None = None,
    cores: int | None = None,
) -> Round:
    """Return a round of `mode="local"`: each worker learns `samples`, the driver averages states.

    Parameters
    ----------
    c
        What was measured.
    n
        Workers.
    samples
        Of one worker in one round.
    learn
        Seconds a sample.
    size
        Bytes of a state: of all its arrays.
    net
        None: workers on this machine.
    cores
        That they share on one machine; None: one each, on its own.
    """
    at_once = n if cores is None else min(n, cores)
    moving = size / c.load
    if net is None:
        combine = c.round + (n - 1) * c.round_more + size / c.put + n * size / c.get
    else:
        combine = net.latency + n * net.each + 2 * n * size / net.bandwidth
    combine += 0.0 if n == 1 else n * size / c.average
    combine += moving + moving * n / at_once  # the driver's own, and those of the workers at once
    busy = c.both if cores is not None and n > 1 else 1.0
    work = samples * learn * n / at_once * slowest(n, c.tail) * busy
    return Round(work, combine, n * samples)


def synchronous_update(
    c: Calibration,
    n: int,
    batch_size: int,
    learn: float,
    parameters: int,
    net: Network | None = None,
    cores: int | None = None,
) -> Round:
    """Return an update of `mode="synchronous"`: a share of the samples each, sums to the driver.

    The driver adds the sums in order, sends the total, and each replica makes the same update.
    """
    at_once = n if cores is None else min(n, cores)
    size = 8.0 * parameters
    if net is None:
        combine = c.summed + (n - 1) * c.summed_more + size / c.put + n * size / c.get
    else:
        combine = net.latency + n * net.each + 2 * n * size / net.bandwidth
    combine += (n - 1) * size / c.add
    combine += parameters * c.update * (1 + n / at_once)
    busy = c.both if cores is not None and n > 1 else 1.0
    work = batch_size * learn / at_once * slowest(n, c.tail) * busy
    return Round(work, combine, batch_size)


def break_even(c: Calibration, n: int, learn: float, parameters: int) -> float:
    """Return the batch size from which `n` synchronous workers beat one process.

    One process needs `B learn` and its update; `n` need `B learn / n` and what combining costs.
    """
    extra = synchronous_update(c, n, 0, learn, parameters).combine - parameters * c.update
    return extra / (learn * (1.0 - 1.0 / n)) if n > 1 else math.inf


def replica_bytes(columns: int, slots: int) -> float:
    """Return what a learner holds: weights and slots twice, the gradient, marks of what it has."""
    return columns * (8.0 * (2 + 1 + 2 * slots) + 1 + 4)


def catch_up(down: float, lost: float, arriving: float, capacity: float) -> float:
    """Return the seconds after a restart until nothing waits.

    While it was `down`, and for the `lost` seconds that have to be learned again, samples have come
    in; they are worked off at what the capacity has left.
    """
    if arriving >= capacity:
        return math.inf
    return (down + lost) * arriving / (capacity - arriving)
