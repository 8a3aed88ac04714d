"""S14: how long `import streamfit` takes beside `import numpy`."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from statistics import median

from benchmarks.measure import Case, Measurement, spread

__all__ = ["cases"]

REPEATS = 15


def milliseconds(statement: str) -> float:
    """Return how long a fresh interpreter takes for a statement."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return 1000.0 * (time.perf_counter() - began)


def more_than_numpy(statement: str) -> Measurement:
    milliseconds(statement)  # writes the byte code
    ours, numpy = [], []
    for _ in range(REPEATS):
        ours.append(milliseconds(statement))
        numpy.append(milliseconds("import numpy"))
    return Measurement(
        ratio=median(ours) - median(numpy),
        ours=median(ours),
        peer=median(numpy),
        ours_spread=spread(ours),
        peer_spread=spread(numpy),
        peer_name="import numpy",
        unit="ms",
    )


def cases() -> Iterator[Case]:
    """Yield the lines of the table."""
    yield Case(
        "S14", "ms more for import streamfit", 150.0,
        lambda: more_than_numpy("import streamfit"), at_most=True,
    )  # fmt: skip
    yield Case(
        "S14", "ms more, and a first learner", None,
        lambda: more_than_numpy("import streamfit; streamfit.LogisticRegression()"), at_most=True,
    )  # fmt: skip
