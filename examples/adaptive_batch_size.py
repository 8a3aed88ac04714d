"""Does a batch size that follows the gradient noise pay? On a stationary and two drifting streams.

    python examples/adaptive_batch_size.py     # the table of docs/batch-size.md

Logistic regression at learning rate 0.3; each sample is tested before it is learned.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from batch_size import Table, table_of
from flights import flights

import streamfit as sf

LR, GROW = 0.3, 1000
Follow = sf.schedules.NoiseScaleBatchSize
WAYS: dict[str, tuple[float | sf.schedules.Schedule, Any]] = {
    "fixed 1": (LR, 1),
    "fixed 8": (LR, 8),
    "fixed 64": (LR, 64),
    "8, rate / sqrt(t)": (sf.schedules.InverseScaling(LR, 0.5), 8),
    "8, rate halved every 1000 updates": (sf.schedules.Step(LR, 0.5, GROW), 8),
    "doubled from 8 every 1000 updates": (
        LR,
        sf.schedules.GeometricBatchSize(8, 2.0, GROW, 1024),
    ),
    "noise scale, 2 to 1024": (LR, Follow(2, 1024, every=16)),
    "noise scale, 8 to 64": (LR, Follow(8, 64, every=16)),
}


def synthetic(n: int, concepts: int) -> Table:
    """Ten normal features, labels of a noisy linear rule that is another one in each part."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(n, 10)), np.empty(n)
    for rows in np.array_split(np.arange(n), concepts):
        y[rows] = X[rows] @ rng.normal(size=10) + 2.0 * rng.normal(size=len(rows)) > 0
    return X, y


def progressive(table: Table, lr: float | sf.schedules.Schedule, batch_size: Any) -> str:
    """Progressive loss of all samples and of the last fifth, updates, and the size at the end."""
    X, y = table
    model = sf.LogisticRegression(sf.optim.SGD(lr), batch_size=batch_size)
    model.track_loss = True
    cut = 4 * len(y) // 5
    model.learn_many(X[:cut], y[:cut])
    before = model.loss_sum
    model.learn_many(X[cut:], y[cut:])
    last = (model.loss_sum - before) / (len(y) - cut)
    return (
        f"{model.loss_sum / len(y):>8.4f}{last:>12.4f}{model.n_updates:>10,}"
        f"{model.current_batch_size:>8,}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=100_000, help="samples of each stream")
    n = parser.parse_args(arguments).n
    streams = {
        "stationary": synthetic(n, 1),
        "drifting": synthetic(n, 5),
        "flights": table_of(list(flights(n))),
    }
    for name, table in streams.items():
        print(f"{name:<36}{'loss':>8}{'last fifth':>12}{'updates':>10}{'size':>8}")
        for way, (lr, batch_size) in WAYS.items():
            print(f"  {way:<34}{progressive(table, lr, batch_size)}")


if __name__ == "__main__":
    main()
