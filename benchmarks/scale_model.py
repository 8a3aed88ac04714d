"""How far several workers go, by a model: `python -m benchmarks.scale_model`.

Reasons from `benchmarks/calibration.json` (measured on one machine) to clusters that nobody has
here: 1,000 workers, 10^6 samples a second, 2^30 hashed features. `ASSUMED` has what it assumes.
Writes its tables into `docs/scaling.md`; `--print` shows them only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from benchmarks import cluster, failures
from benchmarks.calibration import HASHED, Calibration, load
from benchmarks.cluster import ENTRY, Network
from benchmarks.document import markdown, replace
from benchmarks.failures import Failures

COMMAND = "python -m benchmarks.scale_model"
DAY = 86_400.0
WORKERS = 1000
ARRIVING = 1e6
COLUMNS = 2**30
SLOTS = 1
"""Arrays beside the weights: AdaGrad's."""
SERVERS = 32
OVERHEAD = 0.1
"""Share of the learning that combining may cost."""


@dataclass(frozen=True)
class Assumed:
    """What cannot be measured on one machine.

    Parameters
    ----------
    latency, bandwidth
        Of the network: seconds of a round trip, bytes a second of a link.
    mtbf
        Seconds between two failures of one machine, whatever the reason.
    respawn, restart
        Seconds until a dead worker is replaced, and until a dead driver is, before it reads.
    zipf
        How unequally features are used.
    """

    latency: float = 0.0005
    bandwidth: float = 1.25e9
    mtbf: float = 30 * DAY
    respawn: float = 10.0
    restart: float = 60.0
    zipf: float = 1.0


ASSUMED = Assumed()


def network(c: Calibration) -> Network:
    """Return the assumed network; what the driver does for each worker is measured."""
    return Network(ASSUMED.latency, c.round_cpu, ASSUMED.bandwidth)


def sample_seconds(c: Calibration) -> float:
    """Return what a worker needs for a sample: parsed, hashed, learned, from a large table."""
    return c.learn_json + c.learn_hashed["24"]


# ---- on this machine


def synchronous_table(c: Calibration) -> str:
    """Tell what an update of two workers costs here, and the batch size from which it pays."""
    rows = []
    for parameters in (10**3, 10**5, 10**7):
        update = cluster.synchronous_update(c, 2, 0, c.learn, parameters)
        rows.append(
            [
                f"{parameters:,}",
                _seconds(update.combine),
                f"{cluster.break_even(c, 2, c.learn, parameters):,.0f}",
                f"{cluster.break_even(c, 2, sample_seconds(c), parameters):,.0f}",
            ]
        )
    header = [
        "parameters",
        "an update's combining",
        "pays from a micro-batch of: arrays",
        "words in JSON",
    ]
    return markdown(header, rows)


# ---- what an exchange costs among many


@dataclass(frozen=True)
class Exchange:
    """A way to keep a thousand workers together.

    Parameters
    ----------
    name
        What it is called in the table.
    seconds, busiest
        What one exchange takes, and the bytes that the busiest link carries for it, by the seconds
        of a round and the samples that arrive in a second.
    held
        Bytes that a worker needs for the model.
    """

    name: str
    seconds: Callable[[float, float], float]
    busiest: Callable[[float, float], float]
    held: float


def exchanges(c: Calibration) -> list[Exchange]:
    """Return what is built, and what could be."""
    net, numbers = network(c), 1 + SLOTS
    state, replica = 8.0 * COLUMNS * numbers, cluster.replica_bytes(COLUMNS, SLOTS)
    entry = ENTRY + 8.0 * SLOTS
    scattered = entry * HASHED / c.learn_hashed["24"]  # bytes a second, added wherever they belong

    def touched(seconds: float, arriving: float) -> float:
        return entry * cluster.distinct(arriving * seconds * HASHED, COLUMNS, ASSUMED.zipf)

    def differences(seconds: float, arriving: float) -> float:
        up = WORKERS * touched(seconds, arriving / WORKERS)
        down = touched(seconds, arriving)  # passed on from worker to worker while it comes
        return net.latency + WORKERS * net.each + (up + down) / net.bandwidth + up / scattered

    def served(seconds: float, arriving: float) -> float:
        own = touched(seconds, arriving / WORKERS)
        return cluster.sharded(WORKERS, SERVERS, own, net, scattered)

    return [
        Exchange(
            "whole states, averaged by the driver (built)",
            lambda *_: cluster.star(WORKERS, state, net, c.average),
            lambda *_: 2 * WORKERS * state,
            replica,
        ),
        Exchange(
            "whole states, passed around a ring",
            lambda *_: cluster.ring(WORKERS, state, net, c.add),
            lambda *_: 2 * state,
            replica,
        ),
        Exchange(
            "differences of touched columns, averaged by the driver",
            differences,
            lambda t, arriving: WORKERS * touched(t, arriving / WORKERS) + touched(t, arriving),
            replica,
        ),
        Exchange(
            f"touched columns, on {SERVERS} servers with a part of the parameters each",
            served,
            lambda t, arriving: 2 * WORKERS * touched(t, arriving / WORKERS) / SERVERS,
            touched(1.0, ARRIVING / WORKERS) / entry * 8 * numbers,
        ),
    ]


def bisect(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return where, between two numbers, what does not hold for `low` begins to hold."""
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def shortest_round(seconds: Callable[[float, float], float], arriving: float = ARRIVING) -> float:
    """Return the shortest round whose exchange costs no more than `OVERHEAD` of it."""
    return bisect(lambda t: seconds(t, arriving) <= OVERHEAD * t, 1e-4, 1e9)


def most_arriving(seconds: Callable[[float, float], float]) -> float:
    """Return the most samples a second that exchanges between rounds of a second allow."""
    if seconds(1.0, 1.0) > OVERHEAD:
        return 0.0
    return 1.0 / bisect(lambda gap: seconds(1.0, 1.0 / gap) <= OVERHEAD, 1e-12, 1.0)


def exchange_table(c: Calibration) -> str:
    """Tell what each way means to a thousand workers."""
    rows = []
    for way in exchanges(c):
        t, most = shortest_round(way.seconds), most_arriving(way.seconds)
        rows.append(
            [
                way.name,
                _bytes(way.busiest(1.0, ARRIVING)),
                _seconds(way.seconds(1.0, ARRIVING)),
                f"{most:,.0f}" if most else "none",
                _seconds(t),
                f"{ARRIVING * (t / 2 + way.seconds(t, ARRIVING)):.2g}",
                _bytes(way.held),
            ]
        )
    header = [
        *("exchanged every second", "busiest link", "takes", "allows samples a second"),
        *("shortest round", "samples behind", "a worker holds"),
    ]
    return markdown(header, rows)


def breaking_table(c: Calibration) -> str:
    """How many workers the built design carries, by parameters: which part gives out first."""
    rows = []
    for bits in (10, 16, 20, 24, 28, 30):
        size = 8.0 * 2**bits * (1 + SLOTS)

        def holds(n: int, size: float = size) -> bool:
            return cluster.star(n, size, network(c), c.average) <= OVERHEAD

        n = next((n for n in range(100_000, 0, -1) if holds(n)), 0) if holds(1) else 0
        rows.append(
            [
                f"2^{bits}",
                f"{n:,}" if n else "none",
                _seconds(cluster.star(WORKERS, size, network(c), c.average)),
                _bytes(cluster.replica_bytes(2**bits, SLOTS)),
                _seconds(c.checkpoint_call + size / c.checkpoint),
            ]
        )
    header = [
        *("parameters", "workers at a round a second", f"{WORKERS:,} workers averaged"),
        *("a replica holds", "a checkpoint"),
    ]
    return markdown(header, rows)


# ---- failures


def designs(c: Calibration) -> dict[str, Failures]:
    """Return trainings with 1,000 workers that fail as machines do, written as often as is best.

    `worker_mtbf` is of machines whose death costs a round, `driver_mtbf` of all those whose
    death goes back to the last checkpoint, together.
    """

    def design(bits: int, round_seconds: float, fatal: int, writers: int) -> Failures:
        part = 8.0 * 2**bits * (1 + SLOTS) / writers
        writing = c.checkpoint_call + part / c.checkpoint
        interval = failures.daly(writing, ASSUMED.mtbf / fatal)
        return Failures(
            workers=WORKERS,
            round_seconds=min(round_seconds, interval),
            worker_mtbf=ASSUMED.mtbf if fatal < WORKERS else 1e15,
            driver_mtbf=ASSUMED.mtbf / fatal,
            respawn=ASSUMED.respawn,
            restart=ASSUMED.restart + part * (1 / c.checkpoint + 1 / c.load),
            interval=interval,
            checkpoint=writing,
        )

    def built(bits: int) -> Failures:
        size = 8.0 * 2**bits * (1 + SLOTS)
        combine = cluster.star(WORKERS, size, network(c), c.average)
        return design(bits, combine / OVERHEAD, 1, 1)

    served = shortest_round(exchanges(c)[-1].seconds)
    return {
        "the driver has the model, 2^16 (built)": built(16),
        "the driver has the model, 2^20 (built)": built(20),
        "a ring, one writes, 2^30": design(30, 1.0, WORKERS, 1),
        "a ring, each writes a part, 2^30": design(30, 1.0, WORKERS, WORKERS),
        f"{SERVERS} servers, each writes its part, 2^30": design(30, served, SERVERS, SERVERS),
    }


def failure_table(c: Calibration) -> str:
    """Tell what is kept of the time, by formulas and by simulation, and how a recovery goes."""
    rows = []
    for name, case in designs(c).items():
        long = max(60 * case.driver_mtbf, 200 * case.interval)
        runs = [failures.simulate(case, long, seed).kept for seed in range(8)]
        waiting = cluster.catch_up(
            case.restart, case.interval / 2, ARRIVING, WORKERS / sample_seconds(c)
        )
        rows.append(
            [
                name,
                _seconds(case.round_seconds),
                _seconds(case.driver_mtbf),
                _seconds(case.checkpoint),
                _seconds(case.interval),
                f"{100 * failures.expected(case):.2f}%",
                f"{100 * mean(runs):.2f}% ± {100 * stdev(runs) / len(runs) ** 0.5:.2f}",
                _seconds(case.restart + waiting),
            ]
        )
    header = [
        *("design", "a round", "goes back every", "a checkpoint", "written every"),
        *("kept, by formula", "by simulation", "current again after"),
    ]
    return markdown(header, rows)


def summary(c: Calibration) -> str:
    """Say what a worker does, and how much slower the slowest of many is."""
    slow = ", ".join(f"{cluster.slowest(n, c.tail):.2f} of {n:,}" for n in (2, 10, 100, WORKERS))
    needed = ARRIVING * sample_seconds(c)
    return (
        f"A worker learns {1 / sample_seconds(c):,.0f} samples a second (a record of JSON "
        f"parsed, {HASHED} words hashed), so {ARRIVING:,.0f} a second need {needed:.1f} workers. "
        f"Of workers that do the same, the slowest takes, in units of the usual time: {slow}."
    )


def _seconds(t: float) -> str:
    for limit, unit, name in ((1e-3, 1e-6, "µs"), (1.0, 1e-3, "ms"), (300.0, 1.0, "s"),
                              (7200.0, 60.0, "min"), (2 * DAY, 3600.0, "h")):  # fmt: skip
        if t < limit:
            return f"{t / unit:,.3g} {name}"
    return f"{t / DAY:,.3g} days"


def _bytes(n: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"


TABLES: dict[str, Callable[[Calibration], str]] = {
    "summary": summary,
    "synchronous": synchronous_table,
    "breaking": breaking_table,
    "exchanges": exchange_table,
    "failures": failure_table,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, and write them."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--print", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    c = load()
    for name, table in TABLES.items():
        text = table(c)
        print(f"\n{name}\n{text}", flush=True)
        if not options.print:
            replace(COMMAND, name, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
