"""P5: memory is O(features), whatever the batch size and however long the stream."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource
import streamfit as sf

def stream(n):
    x = {f"f{j}": 0.5 for j in range(20)}
    for i in range(n):
        yield x, i % 2 == 0

model = sf.LogisticRegression(batch_size=BATCH_SIZE)
sf.Trainer(model, stream(20_000)).run()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sf.Trainer(model, stream(1_000_000)).run()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("batch_size", ["1", "100_000", "None"])
def test_memory_does_not_grow(batch_size: str) -> None:
    program = PROGRAM.replace("BATCH_SIZE", batch_size)
    grown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert int(grown.stdout) < 2048  # KiB; the rows of one pass would take 160,000
