"""What several workers bring and cost: `python -m benchmarks.distributed [--write] [part ...]`.

Parts are `kernels` (a large array), `topic` (JSON records in four partitions) and `sync` (the cost
of an update in synchronous mode). With `--write` their tables go to benchmarks/distributed.md. Two
workers need two cores that nobody else uses; and whatever else runs meanwhile (the driver, Ray
itself, the broker) takes its part of them.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import streamfit as sf
from benchmarks.measure import NotAvailableError
from connectors import JSONDecoder, KafkaSource
from streamfit.distributed import RayTrainer
from streamfit.testing import LocalKafka

DOCUMENT = Path(__file__).with_suffix(".md")
REPEATS = 3
N_FEATURES = 100
N_ROWS = 200_000
N_RECORDS = 400_000
SIZES = (10**3, 10**5, 10**7)


class Rate:
    """A callback that measures the rate of a run after its first tenth, when all have begun."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._first: tuple[float, int] | None = None
        self._last = (0.0, 0)

    def __call__(self, progress: sf.Progress) -> None:
        """Note how far the run is."""
        now = (time.perf_counter(), progress.n_samples)
        if self._first is None and progress.n_samples >= self._n // 10:
            self._first = now
        self._last = now

    @property
    def rate(self) -> float:
        """Samples a second."""
        assert self._first is not None
        return (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])


Runner = Callable[[Any, list[Any]], object]


def ways(sync_every: int | None) -> dict[str, Runner]:
    """Return what is compared: a function of source and callbacks that trains a fresh model."""

    def model() -> sf.LogisticRegression:
        return sf.LogisticRegression(sf.optim.SGD(0.01), batch_size=32)

    def on_ray(workers: int) -> Runner:
        return lambda source, callbacks: RayTrainer(
            *(model(), source),
            workers=workers,
            mode="local",
            sync_every=sync_every,
            callbacks=callbacks,
        ).run()

    return {
        "`Trainer`": lambda source, callbacks: sf.Trainer(
            model(), source, callbacks=callbacks
        ).run(),
        "`RayTrainer`, 1 worker": on_ray(1),
        "`RayTrainer`, 2 workers": on_ray(2),
    }


def rates(make: Callable[[], Any], n: int, sync_every: int) -> list[str]:
    """Run each way over fresh sources in turn; return the rows of a table."""
    found: dict[str, list[float]] = {name: [] for name in ways(sync_every)}
    for _ in range(REPEATS):
        for name, run in ways(sync_every).items():
            rate = Rate(n)
            run(make(), [rate])
            found[name].append(rate.rate)
    one = median(found["`RayTrainer`, 1 worker"])
    return [
        f"| {name} | {median(seen):,.0f} | {min(seen):,.0f} to {max(seen):,.0f} "
        f"| {median(seen) / one:.2f} |"
        for name, seen in found.items()
    ]


HEAD = [
    "| | samples/s, median | range | to one worker |",
    "|---|---|---|---|",
]


def kernels() -> list[str]:
    """Measure work that the kernels bound: rows of an array."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_ROWS, N_FEATURES))
    y = X[:, 0] > 0
    copies = 10

    def make() -> sf.ArraySource:
        return sf.ArraySource(whole, labels)

    whole, labels = np.tile(X, (copies, 1)), np.tile(y, copies)
    lines = rates(make, len(labels), 2000)
    return [
        "## Bound by the kernels",
        "",
        f"{len(labels):,} rows of {N_FEATURES} features from memory, logistic regression, SGD, "
        'micro-batches of 32, `mode="local"`, `sync_every=2000`.',
        "",
        *HEAD,
        *lines,
        "",
    ]


def topic() -> list[str]:
    """Measure a topic of JSON records on a local broker, which takes its part of the cores."""
    if reason := LocalKafka.unavailable():
        raise NotAvailableError(reason)
    with LocalKafka() as kafka:
        fill(kafka)

        def make() -> KafkaSource:
            return KafkaSource(
                "benchmark",
                bootstrap_servers=kafka.bootstrap_servers,
                decoder=JSONDecoder(target="label"),
                client="confluent-kafka",
                stop_at_end=True,
            )

        before = os.times()
        began = time.perf_counter()
        lines = rates(make, N_RECORDS, 200)
        seconds = time.perf_counter() - began
        broker = broker_seconds() - 0.0
        del before
    return [
        "## A topic of JSON records",
        "",
        f"{N_RECORDS:,} records of ten numbers in four partitions, logistic regression, SGD, "
        'micro-batches of 32, `mode="local"`, `sync_every=200`. The broker, which ran on the '
        f"same cores, took {broker:.0f} CPU seconds of {seconds:.0f}, its start and filling the "
        "topic included.",
        "",
        *HEAD,
        *lines,
        "",
    ]


def fill(kafka: LocalKafka) -> None:
    """Write the records."""
    import confluent_kafka
    import orjson

    kafka.create_topic("benchmark", partitions=4)
    rng = np.random.default_rng(0)
    values = [
        orjson.dumps({**{f"f{j}": x for j, x in enumerate(row)}, "label": row[0] > 0})
        for row in rng.normal(size=(20_000, 10)).tolist()
    ]
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": kafka.bootstrap_servers, "linger.ms": 50, "log_level": 0}
    )
    for i in range(N_RECORDS):
        if i % 1000 == 0:
            producer.flush()
        producer.produce("benchmark", values[i % len(values)], partition=i % 4)
    producer.flush()


def broker_seconds() -> float:
    """Return the CPU seconds of the Java processes that this one has started."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        fields = rest.split()
        if name.endswith("(java") and int(fields[1]) == os.getpid():
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def sync() -> list[str]:
    """Measure what an update costs when two workers make it together."""
    lines = []
    for size in SIZES:
        n_updates = 200 if size < 10**6 else 12
        n_rows = 64 if size < 10**6 else 4
        X = np.random.default_rng(0).normal(size=(n_rows, size)).astype(np.float32)
        source = {"dtype": "float32", "batch_size": 2}

        def seconds(train: Callable[[Any, list[Any]], object], X: Any = X) -> float:
            times: list[float] = []
            epochs = [lambda _: times.append(time.perf_counter())]
            train(X, epochs)
            return median(np.diff(times[len(times) // 10 :]).tolist())

        epochs = n_updates * 2 // n_rows

        def model(options: dict[str, Any] = source) -> sf.LogisticRegression:
            return sf.LogisticRegression(sf.optim.SGD(0.01), **options)

        def alone(X: Any, callbacks: list[Any], n_updates: int = n_updates) -> None:
            learner = model()
            labels = np.arange(len(X)) % 2
            for _ in range(n_updates):
                learner.learn_many(X[:2], labels[:2])
                callbacks[0](None)

        def together(X: Any, callbacks: list[Any], epochs: int = epochs) -> None:
            labels = np.arange(len(X)) % 2
            RayTrainer(
                *(model(), sf.ArraySource(X, labels)),
                workers=2,
                epochs=epochs,
                callbacks=callbacks,
            ).run()

        one, two = seconds(alone), seconds(together)
        per_sample = one / 2
        pays = max(2.0, (two - one) / (per_sample / 2))
        lines.append(
            f"| {size:,} | {1e3 * one:.3f} | {1e3 * two:.2f} | {1e3 * (two - one):.2f} "
            f"| {pays:,.0f} |"
        )
    return [
        "## An update in synchronous mode",
        "",
        "Micro-batches of two dense float32 rows, one for each of two workers, SGD; medians. From "
        "the last column on, a micro-batch is learned sooner by two workers than by one: what two "
        "save is half of the time of its samples, by the rate of one process.",
        "",
        "| parameters | one process, ms | two workers, ms | cost, ms | pays from a batch size of |",
        "|---|---|---|---|---|",
        *lines,
        "",
    ]


PARTS = {"kernels": kernels, "topic": topic, "sync": sync}


def main() -> None:
    """Measure, and print or write."""
    import ray

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.name}")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure; all")
    arguments = parser.parse_args()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    lines = [
        "# Several workers",
        "",
        f"By `python -m benchmarks.distributed --write`, on {os.cpu_count()} cores.",
        "",
    ]
    for name in arguments.parts or PARTS:
        lines += PARTS[name]()
    text = "\n".join(lines)
    print(text)
    if arguments.write:
        DOCUMENT.write_text(text)


if __name__ == "__main__":
    main()
