"""The rates of this machine, and what they predict: `python -m benchmarks.limits`.

Prints the numbers that `docs/performance.md` reasons with: how fast memory and cache are read,
what a key of a dict and a byte of JSON cost, and beside each prediction what is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson

import streamfit as sf
from benchmarks.blocks import learning_blocks
from benchmarks.data import arrays, dicts
from benchmarks.one_by_one import learning
from connectors import JSONDecoder

__all__ = ["main"]


def seconds(work: Callable[[], object], repeats: int = 9) -> float:
    """Return the time of the quickest call: what the machine can, when nothing else runs."""
    work()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def read_rate(n_bytes: int) -> float:
    """Return the bytes a second at which `X @ w` reads an array of `n_bytes`."""
    n_columns = 1000 if n_bytes > 1e6 else 100
    X, w = np.ones((n_bytes // 8 // n_columns, n_columns)), np.ones(n_columns)
    # the same array over and over, in one call: calling takes longer than reading a small one
    again = np.broadcast_to(X, (max(1, 200_000_000 // n_bytes), *X.shape))
    return len(again) * n_bytes / seconds(lambda: again @ w)


def logistic(batch_size: int) -> Any:
    return sf.LogisticRegression(sf.optim.SGD(0.01), batch_size=batch_size)


def row_nanoseconds(n_rows: int, n_features: int, batch_size: int) -> float:
    """Return what a row of an array costs in `learn_many`."""
    X, y = arrays(n_rows, n_features)
    labels = y.astype(np.float64)
    model = logistic(batch_size)
    blocks = [(X, labels)] * max(1, 2_000_000 // (n_rows * n_features))
    return 1e9 * seconds(learning_blocks(model.learn_many, blocks)) / (n_rows * len(blocks))


def dict_nanoseconds(n_features: int) -> float:
    """Return what a dict costs in `learn_one`."""
    samples = dicts(200_000 // n_features, n_features)
    return 1e9 * seconds(learning(logistic(1).learn_one, samples)) / len(samples)


def json_nanoseconds(n_features: int) -> tuple[float, float, float]:
    """Return what parsing a record costs, what reading it as a row does, and its bytes."""
    values: list[bytes | None] = [
        orjson.dumps({**x, "label": y}) for x, y in dicts(2000, n_features)
    ]
    decoder = JSONDecoder("label")

    def parse() -> None:
        for value in values:
            orjson.loads(value or b"")

    parsed, read = (
        1e9 * seconds(work) / len(values) for work in (parse, lambda: decoder.decode_many(values))
    )
    return parsed, read, sum(len(value or b"") for value in values) / len(values)


def row_prediction(
    n_features: int, batch_size: int, a_row: float, rows: float, cache: float
) -> float:
    """Return the nanoseconds of a row: what it costs beside its features, and moving its bytes.

    The row comes once from where the rows are, at `rows` bytes a second. The rest is in the first
    cache, read at `cache` bytes a second: the weights for the dot product, the row again, and the
    gradient read and written for the sum; every `batch_size` rows an update, which reads gradient
    and weights and writes weights. At batch 1 the step reads row and weights and writes weights,
    and there is no sum.
    """
    d = 8 * n_features
    in_cache = d + 3 * d + (0.0 if batch_size == 1 else 3 * d / batch_size)
    return a_row + 1e9 * (d / rows + in_cache / cache)


def main() -> None:
    """Print the rates and the model."""
    memory, second, first = read_rate(400_000_000), read_rate(320_000), read_rate(16_000)
    print("rates of one core")
    print(f"  X @ w reads memory at            {memory / 1e9:6.1f} GB/s")
    print(f"  X @ w reads the second cache at  {second / 1e9:6.1f} GB/s")
    print(f"  X @ w reads the first cache at   {first / 1e9:6.1f} GB/s")
    few, many = dict_nanoseconds(10), dict_nanoseconds(100)
    a_key = (many - few) / 90
    parse, read, size = json_nanoseconds(10)
    a_row = row_nanoseconds(1000, 1, 32)
    print(
        f"  a dict in learn_one              {few - 10 * a_key:6.0f} ns, {a_key:.1f} ns a feature"
    )
    print(f"  a row with one feature           {a_row:6.1f} ns")
    print(f"  {size:.0f} B of JSON, parsed           {parse:6.0f} ns")
    print(f"  ... read as a row of a table     {read:6.0f} ns")

    print("\na row of an array                                   predicted  measured")
    for n_rows, d, batch_size in (
        *((2_000_000, 10, 32), (200_000, 100, 32), (20_000, 1000, 32)),
        *((400, 100, 32), (400, 100, 1)),
    ):
        far = 8 * n_rows * d > 1e7
        predicted = row_prediction(d, batch_size, a_row, memory if far else second, first)
        measured = row_nanoseconds(n_rows, d, batch_size)
        place = "memory" if far else "second cache"
        print(
            f"  {d:5d} features, batch {batch_size:2d}, rows in {place:12s}"
            f"  {predicted:7.1f} ns {measured:7.1f} ns  {1e3 / measured:6.2f} M/s"
        )


if __name__ == "__main__":
    main()
