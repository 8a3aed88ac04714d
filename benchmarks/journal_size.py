"""How many bytes the journal takes: `python benchmarks/journal_size.py [--samples 100_000_000]`.

The samples are not learned, only journalled, with a model of ten features for the marks and a
checkpoint every 100,000 samples.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import streamfit as sf
from streamfit.journal import Journal
from streamfit.types import Block

CHECKPOINT_EVERY = 100_000


class Counting(sf.LogisticRegression):
    """A model that only counts: the journal asks for its digest and its count."""

    counted = 0

    @property
    def n_samples(self) -> int:
        """Samples that were said to be learned."""
        return self.counted


def polls(n: int, n_partitions: int, poll: int) -> Iterator[tuple[int, int, int]]:
    """Yield partition, start and stop of each block."""
    for i in range(n // poll):
        start = i // n_partitions * poll
        yield i % n_partitions, start, start + poll


def measure(n: int, n_partitions: int, poll: int) -> tuple[int, int, float]:
    """Return polls, bytes and seconds."""
    model = Counting(sf.optim.Adam())
    model.learn_one({f"f{i}": 1.0 for i in range(10)}, True)
    labels: Any = range(poll)
    n_polls = n // poll
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), model)
        journal.begin()
        began = time.perf_counter()
        for partition, start, stop in polls(n, n_partitions, poll):
            block = Block(
                labels, labels, source="flights", partition=partition, offsets=range(start, stop)
            )
            journal.before(block)
            journal.learned(block, 0, poll)
            model.counted += poll
            if model.counted % CHECKPOINT_EVERY < poll:
                journal.save()
        journal.save()
        seconds = time.perf_counter() - began
        journal.close()
        return n_polls, sum(file.stat().st_size for file in Path(folder).iterdir()), seconds


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=100_000_000)
    n = parser.parse_args().samples
    print(f"{n:,} samples, a checkpoint every {CHECKPOINT_EVERY:,}")
    print(f"{'partitions':>10}  {'poll':>5}  {'polls':>9}  {'bytes':>11}  {'a poll':>7}  {'us':>5}")
    for n_partitions, poll in [(1, 500), (3, 500), (3, 50), (12, 500)]:
        n_polls, size, seconds = measure(n, n_partitions, poll)
        print(
            f"{n_partitions:>10}  {poll:>5}  {n_polls:>9,}  {size:>11,}  {size / n_polls:>7.2f}"
            f"  {seconds / n_polls * 1e6:>5.1f}"
        )


if __name__ == "__main__":
    main()
