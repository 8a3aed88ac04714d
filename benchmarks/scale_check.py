"""How far off the cost model is, here: `python -m benchmarks.scale_check`.

Trains with one and two workers of `RayTrainer` and sets beside it what `benchmarks/cluster.py`
says from `benchmarks/calibration.json`. Writes the table into `docs/scaling.md`; `--print` shows it
only.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

import streamfit as sf
from benchmarks import cluster
from benchmarks.calibration import Calibration, actors, load, seconds
from benchmarks.cluster import Round
from benchmarks.data import Floats, arrays, offered
from benchmarks.document import markdown, replace

COMMAND = "python -m benchmarks.scale_check"
BATCH_SIZE = 32
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Case:
    """A training to be measured and predicted: of `n` rows of `features` numbers."""

    mode: str
    features: int
    n: int
    batch_size: int
    sync_every: int | None = None


CASES = (
    Case("local", 100, 200_000, BATCH_SIZE, 20),
    Case("local", 100, 200_000, BATCH_SIZE, 200),
    Case("local", 100, 200_000, BATCH_SIZE, 2000),
    Case("local", 5_000, 6_000, BATCH_SIZE, 20),
    Case("local", 100_000, 300, 1, 20),
    Case("synchronous", 100, 200_000, 1_000),
    Case("synchronous", 100, 200_000, 50_000),
    Case("synchronous", 100_000, 300, 100),
)


def fresh(case: Case) -> sf.LogisticRegression:
    """Make a learner for it."""
    return sf.LogisticRegression(sf.optim.SGD(0.001), batch_size=case.batch_size)


def measured(case: Case, data: tuple[Floats, Floats], workers: int, rounds: int) -> float:
    """Return samples a second, from the time that more epochs take: starting is no part of it."""
    distributed = offered("distributed")

    def run(epochs: int) -> float:
        options = {} if case.sync_every is None else {"sync_every": case.sync_every}
        trainer = distributed.RayTrainer(
            fresh(case), sf.ArraySource(*data), workers=workers, mode=case.mode, epochs=epochs,
            **options,
        )  # fmt: skip
        began = time.perf_counter()
        trainer.run()
        return time.perf_counter() - began

    return rounds * case.n / max(1e-9, run(1 + rounds) - run(1))


def learning(case: Case, data: tuple[Floats, Floats]) -> float:
    """Return the seconds that this learner needs for a sample of these data, updates included."""
    X, y = (part[: max(1, len(part) // 4)] for part in data)
    model = fresh(case)
    return seconds(partial(model.learn_many, X, y), 3) / len(y)


def predicted(c: Calibration, case: Case, learn: float, workers: int) -> Round:
    """Return what the model says of a round."""
    if case.sync_every is None:
        return cluster.synchronous_update(
            c, workers, case.batch_size, learn, 1 + case.features, cores=CORES
        )
    samples = min(case.batch_size * case.sync_every, case.n // workers)
    size = 8.0 * (1 + case.features)
    return cluster.local_round(c, workers, samples, learn, size, cores=CORES)


def table(c: Calibration, seconds_each: float) -> str:
    """Measure all cases and set the predictions beside them."""
    rows = []
    for case in CASES:
        X, y = arrays(case.n, case.features)
        data = X, y.astype(np.float64)
        learn = learning(case, data)
        rates = []
        for workers in (1, 2):
            model = predicted(c, case, learn, workers)
            rounds = max(1, round(seconds_each * model.rate / case.n))
            rates.append((measured(case, data, workers, rounds), model.rate))
        (one, one_model), (two, two_model) = rates
        every = "" if case.sync_every is None else f", averaged every {case.sync_every}"
        rows.append(
            [
                f"{case.mode}, {case.features:,} features, {case.batch_size:,} an update{every}",
                f"{one:,.0f}",
                f"{100 * (one_model / one - 1):+.0f}%",
                f"{two:,.0f}",
                f"{100 * (two_model / two - 1):+.0f}%",
                f"{two / one:.2f}",
                f"{two_model / one_model:.2f}",
            ]
        )
        print(rows[-1], flush=True)
    header = [
        *("training", "1 worker, samples/s", "model", "2 workers, samples/s", "model"),
        *("2 by 1", "model"),
    ]
    return markdown(header, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--print", action="store_true", help="write nothing")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one run, about")
    options = parser.parse_args(arguments)
    with actors(CORES):  # a Ray that is there is used by all runs
        text = table(load(), options.seconds)
    print(text)
    if not options.print:
        replace(COMMAND, "check", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
