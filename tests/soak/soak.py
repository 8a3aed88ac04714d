"""A soak: minutes of steady data and unsteady machines, and then the invariants W and L.

    python tests/soak/soak.py --minutes 10

Three workers train on one topic. Two of them (one for each Kafka client) are killed, stopped and
frozen at random while the broker is restarted under them; the third runs through and shows
whether memory is flat. In the end, for each worker: W, its digest is bitwise that of the offline
replay of its journal; L, each good record counted exactly once (the weights of two of the models
are counts), each bad one is a dead letter with its own bytes.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import streamfit as sf
from streamfit.testing import LocalKafka

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "faults")]
import soak_worker as program  # noqa: E402
from storm import PARTITIONS, Producer, Storm, Worker  # noqa: E402
from topics import records  # noqa: E402

log = logging.getLogger("soak")

FAULTS = {"kill -9": 14, "SIGTERM": 2, "SIGSTOP": 2, "broker restart": 1, "broker kill -9": 1}


@dataclass
class Result:
    """What a soak found."""

    minutes: float
    survived: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    n_good: int = 0
    n_letters: dict[str, tuple[int, int]] = field(default_factory=dict)
    usage: list[tuple[float, float, int, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def settled(self) -> list[tuple[float, float, int, int]]:
        """What was measured after the first fifth of the time."""
        return [row for row in self.usage if row[0] >= 0.2 * self.usage[-1][0]]

    @property
    def rss_slope(self) -> float:
        """Growth of the steady worker in MB an hour, by least squares."""
        seconds, megabytes = np.array([row[:2] for row in self.settled]).T
        return float(np.polyfit(seconds / 3600, megabytes, 1)[0])

    def __str__(self) -> str:
        rows = [("fault survived", "times"), *sorted(self.survived.items())]
        rows += [(f"bad record: {kind}", n) for kind, n in sorted(self.bad.items())]
        lines = [f"| {name} | {n} |" for name, n in rows]
        lines.insert(1, "|---|---|")
        mb = [row[1] for row in self.settled]
        lines += [
            "",
            f"{self.minutes:g} minutes, {self.n_good:,} good records, "
            f"{sum(self.bad.values()):,} bad ones",
            *(
                f"dead letters of {name}: {n} for {ids} records"
                for name, (n, ids) in self.n_letters.items()
            ),
            f"steady worker: RSS {mb[0]:.1f} MB, at the end {mb[-1]:.1f} MB, slope "
            f"{self.rss_slope:+.2f} MB an hour; threads {self.settled[0][2]} and "
            f"{self.settled[-1][2]}, open files {self.settled[0][3]} and {self.settled[-1][3]}",
            *(self.failures or ["W and L hold for every worker"]),
        ]
        return "\n".join(lines)


def soak(folder: Path, minutes: float, rate: float, seconds_between: float, seed: int) -> Result:
    """Run a soak in a folder."""
    result = Result(minutes)
    chance = random.Random(seed)
    with LocalKafka() as broker:
        servers = broker.bootstrap_servers
        broker.create_topic("soak", partitions=PARTITIONS)
        workers = []
        for name, kind, client in (
            ("ordered", "logistic", "kafka-python"),
            ("counted", "counting", "confluent-kafka"),
            ("steady", "counting", "kafka-python"),
        ):
            broker.create_topic(f"refused-{name}")
            workers.append(Worker(folder / name, kind, client, "soak", f"refused-{name}"))
            workers[-1].start(servers)
        producer = Producer(servers, "soak", program.N_COUNTERS, rate, seed)
        producer.start()
        storm = Storm(broker, workers[:2], seed)
        began = time.monotonic()
        strike_at = began + 2 * seconds_between
        due = ["broker restart", "broker kill -9", "SIGTERM", "SIGSTOP"]  # each at least once
        while (elapsed := time.monotonic() - began) < 60 * minutes:
            if time.monotonic() >= strike_at:
                fault = due.pop() if due else chance.choices([*FAULTS], [*FAULTS.values()])[0]
                storm.strike(fault)
                strike_at = time.monotonic() + chance.uniform(0, 2 * seconds_between)
            storm.look_after(*workers)
            if not result.usage or elapsed - result.usage[-1][0] > 2:
                result.usage.append((elapsed, *workers[2].usage()))
            time.sleep(0.1)
        log.info("the storm is over")
        producer.stop.set()
        producer.join(90)
        for worker in workers:
            storm.end(worker, signal.SIGTERM)
            worker.start(servers, "--stop-at-end")
        result.survived, result.failures = storm.survived, storm.failures
        for worker in workers:
            if code := worker.wait(600):
                result.failures.append(f"{worker.name} ended with exit code {code} at the end")
        check(broker, workers, result)
    return result


def check(broker: LocalKafka, workers: list[Worker], result: Result) -> None:
    """Look whether W and L hold; what the topic holds is the truth."""
    counts: Counter[str] = Counter()
    bad: dict[str, bytes | None] = {}
    ends = Counter[int]()
    for record in records(broker, "soak", PARTITIONS):
        ends[record.partition] = record.offset + 1
        headers = dict(record.headers)
        if "good" in headers:
            (counter,) = (name for name in json.loads(record.value) if name.startswith("c"))
            counts[counter] += 1
        else:
            bad[f"soak:{record.partition}:{record.offset}"] = record.value
            result.bad[headers["bad"].decode()] += 1
    result.n_good = counts.total()
    for worker in workers:
        result.failures += [f"{worker.name}: {found}" for found in violations(worker, counts, ends)]
        letters = list(records(broker, worker.letters))
        ids = {dict(letter.headers)["id"].decode(): letter.value for letter in letters}
        result.n_letters[worker.name] = (len(letters), len(ids))
        if ids != bad:
            result.failures.append(f"{worker.name}: dead letters are not the bad records")
        source = program.source(
            worker.kind, "soak", broker.bootstrap_servers, worker.client, stop_at_end=True
        )
        verification = sf.journal.verify(worker.state, source)
        if not verification.equal:
            result.failures.append(f"{worker.name}: W does not hold\n{verification}")


def violations(worker: Worker, counts: Counter[str], ends: Counter[int]) -> Iterator[str]:
    """Compare what a worker learned with what it should have; every line is a broken promise."""
    saved = sf.Checkpointer(worker.state).latest()
    assert saved is not None
    model = program.learner(worker.kind)
    model.load_state_dict(saved.model)
    if model.n_samples != counts.total():
        yield f"L: {model.n_samples} samples learned, {counts.total()} were good"
    if saved.position != {f"soak:{p}": end for p, end in ends.items()}:
        yield f"L: the position is {saved.position}, the ends are {dict(ends)}"
    if worker.kind == "counting" and model.weights != counts:
        yield f"L: the weights are not the counts: {Counter(model.weights) - counts}"
    at = Counter[int]()
    for entry in sf.journal.entries(worker.state):
        if isinstance(entry, sf.journal.Segment):
            first, after = entry.start, entry.stop
        elif isinstance(entry, sf.journal.Skipped):
            first, after = entry.offset, entry.offset + 1
        else:
            continue
        if first != at[entry.partition]:
            yield f"L: the journal goes from {at[entry.partition]} to {first}"
        at[entry.partition] = after


def main() -> int:
    """Run from the command line; exit 0 when W and L hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=300.0, help="records a second")
    parser.add_argument("--between", type=float, default=8.0, help="mean seconds between faults")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--folder", type=Path, help="where to leave the states and logs")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    log.setLevel(logging.INFO)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # a broker that is away is intended
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="streamfit-soak-") as temporary:
        folder = options.folder or Path(temporary)
        result = soak(folder, options.minutes, options.rate, options.between, options.seed)
    print(result)
    return bool(result.failures)


if __name__ == "__main__":
    sys.exit(main())
