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
N_ROWS = 2_000_000
N_EPOCHS = 5
N_RECORDS = 400_000
BITS = (10, 17, 23)


class Rate:
    """A callback that measures the rate of a run after its first `n` samples: all have begun."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._first: tuple[float, int] | None = None
        self._last = (0.0, 0)

    def __call__(self, progress: sf.Progress) -> None:
        """Note how far the run is."""
        now = (time.perf_counter(), progress.n_samples)
        if self._first is None and progress.n_samples >= self._n:
            self._first = now
        self._last = now

    @property
    def rate(self) -> float:
        """Samples a second."""
        assert self._first is not None
        return (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])


Runner = Callable[[Any, list[Any]], object]
"""Trains a fresh model on a source, with callbacks."""


def ways(sync_every: int, epochs: int) -> dict[str, Runner]:
    """Return what is compared: a function of source and callbacks that trains a fresh model."""

    def model() -> sf.LogisticRegression:
        return sf.LogisticRegression(sf.optim.SGD(0.01), batch_size=32)

    def on_ray(workers: int) -> Runner:
        return lambda source, callbacks: RayTrainer(
            *(model(), source),
            workers=workers,
            mode="local",
            sync_every=sync_every,
            epochs=epochs,
            callbacks=callbacks,
        ).run()

    def alone(source: Any, callbacks: list[Any]) -> object:
        return sf.Trainer(model(), source, epochs=epochs, callbacks=callbacks).run()

    return {
        "`Trainer`": alone,
        "`RayTrainer`, 1 worker": on_ray(1),
        "`RayTrainer`, 2 workers": on_ray(2),
    }


def rates(make: Callable[[], Any], skip: int, sync_every: int, epochs: int = 1) -> list[str]:
    """Run each way over fresh sources in turn; return the rows of a table."""
    found: dict[str, list[float]] = {name: [] for name in ways(sync_every, epochs)}
    for _ in range(REPEATS):
        for name, run in ways(sync_every, epochs).items():
            rate = Rate(skip)
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
    X = np.random.default_rng(0).normal(size=(N_ROWS, N_FEATURES))
    y = X[:, 0] > 0
    lines = rates(lambda: sf.ArraySource(X, y), N_ROWS, 10420, N_EPOCHS)
    return [
        TITLES["kernels"],
        "",
        f"{N_ROWS:,} rows of {N_FEATURES} float64 features from memory, {N_EPOCHS} "
        "epochs (the first, which brings pages of memory to a process, is not timed); logistic "
        'regression, SGD, micro-batches of 32, `mode="local"`, `sync_every=10420`: an average '
        "every 333,440 samples of a share.",
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

        began, busy = time.perf_counter(), broker_seconds()
        lines = rates(make, N_RECORDS // 10, 500)
        seconds, busy = time.perf_counter() - began, broker_seconds() - busy
    return [
        TITLES["topic"],
        "",
        f"{N_RECORDS:,} records of ten numbers in four partitions, logistic regression, SGD, "
        'micro-batches of 32, `mode="local"`, `sync_every=500`. The broker ran on the same cores '
        f"and took {busy:.0f} CPU seconds in the {seconds:.0f} seconds of all runs.",
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
    from scipy import sparse

    lines = []
    for bits in BITS:
        n = 2000 if bits < 20 else 24
        X = sparse.random(n, 1000, 0.02, "csr", random_state=0)
        y = np.arange(n) % 2

        def model(bits: int = bits) -> sf.LogisticRegression:
            features = sf.HashedFeatures(bits)
            return sf.LogisticRegression(sf.optim.SGD(0.01), batch_size=2, features=features)

        times: list[float] = []

        def note(_: sf.Progress, times: list[float] = times) -> None:
            times.append(time.perf_counter())

        together = RayTrainer(
            *(model(), sf.ArraySource(X, y)),
            workers=2,
            callbacks=[note],
        ).run()
        alone = sf.Trainer(model(), sf.ArraySource(X, y)).run()
        assert together.n_updates == alone.n_updates
        two = median(np.diff(times[len(times) // 10 :]).tolist())
        one = alone.seconds / alone.n_updates
        lines.append(f"| {2**bits:,} | {1e6 * one:,.0f} | {1e3 * two:,.2f} | {two / one:,.0f} |")
    return [
        TITLES["sync"],
        "",
        "Micro-batches of two hashed samples with 20 of 1,000 features, one for each of two "
        "workers, SGD; the median of the time from one update to the next. With two workers that "
        "is all communication. What they save is half of the time that one process needs for the "
        "samples of a micro-batch: with samples of a microsecond, two workers pay where a "
        "micro-batch has more than twice as many samples as an update takes microseconds.",
        "",
        "| parameters | one process, us | two workers, ms | times as long |",
        "|---|---|---|---|",
        *lines,
        "",
    ]


PARTS = {"kernels": kernels, "topic": topic, "sync": sync}
TITLES = {
    "kernels": "## Bound by the kernels",
    "topic": "## A topic of JSON records",
    "sync": "## An update in synchronous mode",
}


def main() -> None:
    """Measure, and print or write."""
    import ray

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.name}")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure; all")
    arguments = parser.parse_args()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    sections = _written()
    for name in arguments.parts or PARTS:
        load = os.getloadavg()[0]
        sections[name] = [*PARTS[name](), f"(Load of the machine before that: {load:.1f}.)", ""]
        print("\n".join(sections[name]))
    if arguments.write:
        lines = [line for name in PARTS for line in sections.get(name, [])]
        head = f"By `python -m benchmarks.distributed --write`, on {os.cpu_count()} cores."
        DOCUMENT.write_text("\n".join(["# Several workers", "", head, "", *lines]))


def _written() -> dict[str, list[str]]:
    """Read the sections of the document, so that a part may be measured again alone."""
    if not DOCUMENT.exists():
        return {}
    parts = DOCUMENT.read_text().split("\n## ")[1:]
    found = {f"## {part}".partition("\n")[0]: f"## {part}".split("\n") for part in parts}
    return {name: found[title] for name, title in TITLES.items() if title in found}


if __name__ == "__main__":
    main()
