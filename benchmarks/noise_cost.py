"""What measuring the gradient noise costs: `python -m benchmarks.noise_cost`.

Two learners alike but for `noise_scale` take the same rows in turn, many times; what is told is the
median ratio of the two CPU times, which slow changes of the machine do not reach, and its
quartiles.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

import streamfit as sf
from benchmarks.data import arrays

ROUNDS = 60
SECONDS = 4e-3  # of one side in one round, about
DTYPES = ("float64", "float32")


def ratios(n_features: int, batch_size: int | None, dtype: str) -> list[float]:
    """Return by what each round was longer with `noise_scale=True`."""
    n = max(512, int(SECONDS * 2e9 / (n_features + 40)) // 512 * 512)
    X, y = arrays(min(n, 40_000_000 // n_features // 512 * 512), n_features)
    X, labels = X.astype(dtype), y.astype(np.float64)
    plain, measuring = (
        sf.LogisticRegression(
            sf.optim.SGD(0.01), batch_size=batch_size, dtype=dtype, noise_scale=noise
        )
        for noise in (False, sf.NoiseScale(every=1) if batch_size is None else True)
    )

    def seconds(model: sf.LogisticRegression) -> float:
        began = time.process_time()
        model.learn_many(X, labels)
        if batch_size is None:
            model.flush()
        return time.process_time() - began

    for model in (plain, measuring):
        seconds(model)
    found = []
    for k in range(ROUNDS):
        if k % 2:
            without, with_it = seconds(plain), seconds(measuring)
        else:
            with_it, without = seconds(measuring), seconds(plain)
        found.append(with_it / without)
    return found


def table() -> Iterator[str]:
    """Yield the lines of a table."""
    yield "| features | batch size | dtype | longer by | quartiles |"
    yield "|---|---|---|---|---|"
    for n_features in (10, 100, 1000):
        for batch_size in (32, 256, None):
            for dtype in DTYPES:
                low, middle, high = np.quantile(
                    ratios(n_features, batch_size, dtype), [0.25, 0.5, 0.75]
                )
                size = "full, measured whole" if batch_size is None else str(batch_size)
                yield (
                    f"| {n_features} | {size} | {dtype} | {middle - 1:+.1%} | "
                    f"{low - 1:+.1%} to {high - 1:+.1%} |"
                )


if __name__ == "__main__":
    for line in table():
        print(line, flush=True)
