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
from typing import Any

import numpy as np

import streamfit as sf
from benchmarks import cluster
from benchmarks.calibration import HASHED, Calibration, actors, load
from benchmarks.cluster import Round
from benchmarks.data import Floats, arrays, imported, offered
from benchmarks.document import markdown, replace

COMMAND = "python -m benchmarks.scale_check"
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Case:
    """A training to be measured and predicted.

    `n` rows of `features` numbers; or, with `bits`, of `HASHED` of 2^20 columns, hashed.
    """

    mode: str
    n: int
    batch_size: int
    sync_every: int | None = None
    features: int = 100
    bits: int | None = None

    @property
    def parameters(self) -> int:
        """Weights and intercept."""
        return 1 + (self.features if self.bits is None else 2**self.bits)

    @property
    def name(self) -> str:
        """What the table calls it."""
        data = f"{self.features:,} numbers" if self.bits is None else f"hashed to 2^{self.bits}"
        every = "" if self.sync_every is None else f", averaged every {self.sync_every:,}"
        return f"{self.mode}, {data}, {self.batch_size:,} an update{every}"


CASES = (
    Case("local", 200_000, 32, 20),
    Case("local", 200_000, 32, 200),
    Case("local", 400_000, 32, 2_000),
    Case("local", 20_000, 1, 2_000, bits=20),
    Case("synchronous", 200_000, 1_000),
    Case("synchronous", 200_000, 50_000),
    Case("synchronous", 20_000, 1_000, bits=16),
)


def samples(case: Case) -> tuple[Any, Floats]:
    """Return rows and labels."""
    if case.bits is None:
        X, y = arrays(case.n, case.features)
        return X, y.astype(np.float64)
    rng = np.random.default_rng(0)
    columns = np.sort(rng.integers(0, 2**20, size=(case.n, HASHED)), axis=1)
    columns += np.arange(HASHED)  # so that no row has one twice
    starts = np.arange(0, columns.size + 1, HASHED)
    sparse = imported("scipy.sparse").csr_matrix(
        (np.ones(columns.size), columns.ravel(), starts), shape=(case.n, 2**20 + HASHED)
    )
    return sparse, (columns[:, 0] % 2).astype(np.float64)


def fresh(case: Case) -> sf.LogisticRegression:
    """Make a learner for it."""
    features = None if case.bits is None else sf.HashedFeatures(case.bits)
    return sf.LogisticRegression(sf.optim.SGD(0.001), batch_size=case.batch_size, features=features)


class Clock:
    """Notes when a run has come how far: the last three quarters of it are timed."""

    def __init__(self, n: int) -> None:
        self.n, self.noted = n, [(0.0, 0)]

    def __call__(self, progress: sf.Progress) -> None:
        """Look at the clock."""
        self.noted.append((time.perf_counter(), progress.n_samples))

    @property
    def rate(self) -> float:
        """Samples a second."""
        timed = [(t, n) for t, n in self.noted if n >= self.n / 4]
        (began, first), (ended, last) = timed[0], timed[-1]
        return (last - first) / (ended - began)


def measured(case: Case, data: tuple[Any, Floats], workers: int, epochs: int) -> float:
    """Return samples a second, once all workers are there."""
    options = {} if case.sync_every is None else {"sync_every": case.sync_every}
    clock = Clock(epochs * case.n)
    offered("distributed").RayTrainer(
        fresh(case), sf.ArraySource(*data), workers=workers, mode=case.mode, epochs=epochs,
        callbacks=[clock], **options,
    ).run()  # fmt: skip
    return clock.rate


def learning(case: Case, data: tuple[Any, Floats]) -> float:
    """Return the seconds that a `Trainer` needs for a sample of these data, in one process."""
    return min(1.0 / run.samples_per_second for run in (_trained(case, data) for _ in range(3)))


def _trained(case: Case, data: tuple[Any, Floats]) -> sf.TrainingReport:
    return sf.Trainer(fresh(case), sf.ArraySource(*data)).run()


def predicted(c: Calibration, case: Case, learn: float, workers: int) -> Round:
    """Return what the model says of a round."""
    if case.sync_every is None:
        return cluster.synchronous_update(
            c, workers, case.batch_size, learn, case.parameters, cores=CORES
        )
    n = min(case.batch_size * case.sync_every, case.n // workers)
    return cluster.local_round(c, workers, n, learn, 8.0 * case.parameters, cores=CORES)


def table(c: Calibration, seconds_each: float) -> str:
    """Measure all cases and set the predictions beside them."""
    rows = []
    for case in CASES:
        data = samples(case)
        learn = learning(case, data)
        rates = []
        for workers in (1, 2):
            model = predicted(c, case, learn, workers)
            epochs = max(4, round(seconds_each * model.rate / case.n))
            rates.append((measured(case, data, workers, epochs), model.rate))
        (one, one_model), (two, two_model) = rates
        rows.append(
            [
                case.name,
                f"{one:,.0f}",
                f"{100 * (one_model / one - 1):+.0f}%",
                f"{two:,.0f}",
                f"{100 * (two_model / two - 1):+.0f}%",
                f"{two / one:.2f}",
                f"{two_model / one_model:.2f}",
            ]
        )
        print(" | ".join(rows[-1]), flush=True)
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
