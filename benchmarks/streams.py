"""S8, S12, S13: a Trainer over a generator: its rate, its memory, and both after long."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import streamfit as sf
from benchmarks.data import arrays, dicts
from benchmarks.measure import Case, Measurement, Side, compare

__all__ = ["cases"]

N_FEATURES = 10
CHECKPOINT_SECONDS = 5.0
WINDOW = 1_000_000


def model(batch_size: int | None = 1) -> Any:
    return sf.LogisticRegression(sf.optim.SGD(0.01), batch_size=batch_size)


def stream(n: int) -> Iterator[tuple[dict[str, float], bool]]:
    """Generate `n` samples; making each would cost more than learning it, so they recur."""
    yield from islice(cycle(dicts(10_000, N_FEATURES)), n)


def s8() -> Measurement:
    samples = dicts(10_000, N_FEATURES)
    n = 4_000_000  # so that a run is longer than the seconds between two checkpoints

    def generated() -> Iterator[tuple[dict[str, float], bool]]:
        yield from islice(cycle(samples), n)

    def ours() -> Callable[[], None]:
        def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                saved = sf.Checkpointer(folder, every_seconds=CHECKPOINT_SECONDS)
                sf.Trainer(model(), generated(), checkpoint=saved).run()

        return run

    def peer() -> Callable[[], None]:
        learn = model().learn_one

        def run() -> None:
            for x, y in generated():
                learn(x, y)

        return run

    return compare(
        Side("streamfit", ours, n), Side("bare loop of learn_one", peer, n), repeats=3, seconds=0.0
    )


# ---- S12, S13: in a process of their own, whose peak of memory is theirs alone


def peak() -> float:
    """Return the largest resident size of this process since `forget_peak`, in MB."""
    # not ru_maxrss, which a process inherits from the one that started it
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return float(status.split("VmHWM:")[1].split()[0]) / 1024.0


def forget_peak() -> None:
    """Begin to measure the peak here, so that a higher one before hides nothing."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def train_long(n: int) -> dict[str, Any]:
    """Train on `n` samples; say what each million took, and the peaks of memory."""
    marks: list[tuple[int, float]] = []
    warm = 0.0

    def note(progress: sf.Progress) -> None:
        nonlocal warm
        if progress.n_samples < 100_000 + len(marks) * WINDOW:
            return
        # processor time: what else runs on the machine is no matter of the model's
        marks.append((progress.n_samples, time.process_time()))
        if len(marks) == 2:
            forget_peak()
            warm = peak()

    sf.Trainer(model(), stream(n), callbacks=[note]).run()
    per_sample = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(marks)]
    return {"warm": warm, "end": peak(), "per_sample": per_sample}


def train_full_batch(n_rows: int) -> dict[str, Any]:
    """Make full-batch epochs over an array; say the peaks of memory after the first and at the end.

    No buffer holds more than a block of 1024 rows.
    """
    X, y = arrays(n_rows, N_FEATURES)
    source = sf.ArraySource(X, y)
    learner = model(batch_size=None)
    sf.Trainer(learner, source, max_samples=20_000).run()
    forget_peak()
    warm = peak()
    sf.Trainer(learner, source).run()
    return {"warm": warm, "end": peak()}


def in_a_process(kind: str, n: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.streams", kind, str(n)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def growth(found: dict[str, Any]) -> Measurement:
    return Measurement(
        ratio=found["end"] - found["warm"],
        ours=found["end"],
        peer=found["warm"],
        ours_spread=0.0,
        peer_spread=0.0,
        peer_name="peak after warm-up",
        unit="MB",
    )


def ageing(found: dict[str, Any]) -> Measurement:
    windows = found["per_sample"]
    some = max(1, min(10, len(windows) // 2))
    young, old = median(windows[:some]), median(windows[-some:])
    return Measurement(
        ratio=old / young,
        ours=1.0 / old,
        peer=1.0 / young,
        ours_spread=(max(windows[-some:]) - min(windows[-some:])) / old,
        peer_spread=(max(windows[:some]) - min(windows[:some])) / young,
        peer_name="itself, young",
    )


def cases(scale: float = 1.0) -> Iterator[Case]:
    """Yield the lines of the table; `scale` shortens the long stream."""
    n = max(3 * WINDOW, int(scale * 100_000_000))
    found: dict[str, Any] = {}

    def long_run() -> dict[str, Any]:
        if not found:
            found.update(in_a_process("stream", n))
        return found

    yield Case("S8", "Trainer over a generator, checkpoints every 5 s", 0.6, s8)
    yield Case("S12", f"MB more at {n:,} samples", 2.0, lambda: growth(long_run()), at_most=True)
    yield Case(
        "S12", "MB more in a full-batch epoch over 160 MB", 2.0,
        lambda: growth(in_a_process("full-batch", 2_000_000)), at_most=True,
    )  # fmt: skip
    yield Case(
        "S13",
        f"time a sample at {n:,} against 10^5",
        1.05,
        lambda: ageing(long_run()),
        at_most=True,
    )


if __name__ == "__main__":
    train = {"stream": train_long, "full-batch": train_full_batch}[sys.argv[1]]
    print(json.dumps(train(int(sys.argv[2]))))
