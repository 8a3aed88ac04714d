"""A stream whose rule changes, and what may be done about it.

What makes an order late here depends on five numbers, and every 5,000 samples on other weights of
them. AdaGrad's steps have become small by then. One of River's drift detectors watches the errors
of the training; the table shows what comes of the answers it may give.

    python examples/drift.py [--n 20000]
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from river import drift

import streamfit as sf
from streamfit.terminal import print_table

PERIOD = 5_000

ANSWERS: dict[str, str | sf.RaiseLearningRate] = {
    "report": "report",
    "reset the optimizer": "reset_optimizer",
    "raise the learning rate": sf.RaiseLearningRate(factor=10, n_samples=1_000),
}


def orders(n: int) -> Iterator[tuple[dict[str, float], bool]]:
    """Yield samples; the rule changes after each `PERIOD` of them."""
    rng = np.random.default_rng(7)
    weights = rng.normal(size=5)
    for i in range(n):
        if i % PERIOD == 0:
            weights = rng.normal(size=5)
        x = rng.normal(size=5)
        late = bool(weights @ x + rng.normal(scale=0.3) > 0)
        yield dict(zip(["weight", "distance", "stock", "staff", "rain"], x, strict=True)), late


class Errors:
    """A metric: the share of wrong labels, of all and of those just after a change."""

    requires_labels = True

    def __init__(self) -> None:
        self.wrong: list[bool] = []

    def update(self, y: Any, prediction: Any, w: float = 1.0) -> None:
        """Take one sample in."""
        self.wrong.append(y != prediction)

    def get(self) -> float:
        """Return the share of all."""
        return float(np.mean(self.wrong))

    def after_changes(self) -> float:
        """Return the share in the thousand samples after each change."""
        starts = range(PERIOD, len(self.wrong), PERIOD)
        return float(np.mean([self.wrong[start : start + 1_000] for start in starts]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--n", type=int, default=20_000, help="samples")
    n = parser.parse_args().n
    logging.getLogger("streamfit").setLevel(logging.ERROR)  # drifts are in the table
    rows = []
    for name, on_drift in ANSWERS.items():
        monitor = sf.DriftMonitor(drift.ADWIN(), on_drift)  # type: ignore[no-untyped-call]
        errors = Errors()
        with tempfile.TemporaryDirectory() as state:
            report = sf.Trainer(
                sf.LogisticRegression(sf.optim.AdaGrad(0.1), batch_size=4),
                lambda: orders(n),
                metrics=[errors],
                callbacks=[monitor],
                checkpoint=sf.Checkpointer(state),
            ).run()
            replayed = sf.journal.verify(state, lambda: orders(n))
        rows.append(
            (
                name,
                " ".join(f"{drift:,}" for drift in monitor.drifts),
                f"{errors.get():.1%}",
                f"{errors.after_changes():.1%}",
                f"{report.progressive_loss:.4f}",
                "yes" if replayed.equal else "no",
            )
        )
    print(f"The rule changes every {PERIOD:,} samples.")
    columns = ("on drift", "drifts found", "errors", "just after a change", "log loss", "replays")
    print_table(columns, rows)


if __name__ == "__main__":
    main()
