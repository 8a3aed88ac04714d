"""How late will the next flight leave? A Keras LSTM over the last ten flights of the same airport.

    python examples/keras_windows.py                  # 50,000 flights, a minute or so
    python examples/keras_windows.py --state state/   # kill it, start it again: it goes on

`Windows` cuts the stream into windows of ten flights of one airport, and `KerasLearner` trains on
10 windows at a time (at `--batch-size 100`, a tenth of the updates, it is no better than a mean).
It needs `pip install 'streamfit[keras]' jax`.
"""

from __future__ import annotations

import argparse
import math
import os
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
from flights import flights
from river import metrics, utils

import streamfit as sf
from connectors import Windows

SIZE = 10
LAST = 5_000  # windows that the second column is about
FEATURES = ("delay_before", "sin_hour", "cos_hour")

Sample = tuple[dict[str, Any], float]


def departures(n: int) -> Iterator[Sample]:
    """Iterate over flights: what was known before, and by how many hours each left late.

    `delay_before` is the delay of the flight scheduled before it at the same airport. The delay
    is cut off at two hours.
    """
    before: dict[str, float] = defaultdict(float)
    for x, _ in flights(n):
        airport = next(name.removeprefix("origin=") for name in x if name.startswith("origin="))
        delay = x["dep_delay"] / 2.0
        angle = 2.0 * math.pi * x["departure"]
        yield (
            {
                "airport": airport,
                "delay_before": before[airport],
                "sin_hour": math.sin(angle),
                "cos_hour": math.cos(angle),
            },
            delay,
        )
        before[airport] = delay


def new_model() -> Any:
    """Make a small LSTM, the same each time."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((SIZE, len(FEATURES))),
            keras.layers.LSTM(16),
            keras.layers.Dense(1),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    return model


def baselines(samples: Iterator[Sample]) -> dict[str, list[float]]:
    """Return the errors of two guesses, on the flights that the windows end with."""
    errors: dict[str, list[float]] = {"delay of the flight before": [], "mean of the last ten": []}
    last: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=SIZE))
    for x, delay in samples:
        window = last[x["airport"]]
        window.append(x["delay_before"])
        if len(window) == SIZE:
            errors["delay of the flight before"].append(window[-1] - delay)
            errors["mean of the last ten"].append(sum(window) / SIZE - delay)
    return errors


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="An LSTM over windows of flights.")
    parser.add_argument("--n", type=int, default=50_000, help="flights to read")
    parser.add_argument("--batch-size", type=int, default=10, help="windows of one update")
    parser.add_argument("--state", help="checkpoint directory; start again and it resumes")
    options = parser.parse_args(arguments)

    learner = sf.adapters.KerasLearner(new_model(), options.batch_size, features=FEATURES)
    rolling: Any = utils.Rolling(metrics.MSE, window_size=LAST)
    report = sf.Trainer(
        learner,
        Windows(lambda: departures(options.n), size=SIZE, key="airport"),
        metrics=[rolling],
        checkpoint=None if options.state is None else sf.Checkpointer(options.state, 5.0),
    ).run()

    print(f"windows   {report.n_samples:>10,}")
    print(f"updates   {report.n_updates:>10,}  (of {options.batch_size} windows)")
    if report.resumed_at is not None:
        print(f"resumed at{report.resumed_at:>10,}")
    print(f"digest    {report.digest}")
    print("\nmean squared error of the next delay, each predicted before it was learned (hours^2)")
    print(f"{'':<28}{'all':>10}{f'last {LAST:,}':>14}")
    for name, errors in baselines(departures(options.n)).items():
        print(f"{name:<28}{mean_square(errors):>10.4f}{mean_square(errors[-LAST:]):>14.4f}")
    print(f"{'LSTM, as it learns':<28}{report.progressive_loss:>10.4f}{rolling.get():>14.4f}")


def mean_square(errors: list[float]) -> float:
    """Return the mean of the squares."""
    return sum(error * error for error in errors) / max(1, len(errors))


if __name__ == "__main__":
    main()
