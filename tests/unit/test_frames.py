"""Frames of pandas, polars and Arrow: the same samples, and no copy that is not needed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from river import preprocessing

import streamfit as sf
from connectors import FrameSource, open_source
from streamfit.errors import ConfigurationError, SourceError

Columns = dict[str, list[Any]]

KINDS: dict[str, Callable[[Columns], Any]] = {
    "pandas": pd.DataFrame,
    "pandas nullable": lambda columns: pd.DataFrame(columns).convert_dtypes(),
    "pandas arrow": lambda columns: pd.DataFrame(columns).convert_dtypes(dtype_backend="pyarrow"),
    "polars": pl.DataFrame,
    "arrow": pa.table,
}
kinds = pytest.mark.parametrize("kind", KINDS)


def columns(n: int) -> Columns:
    rng = np.random.default_rng(1)
    return {
        "a": rng.normal(size=n).tolist(),
        "n": rng.integers(0, 9, size=n).tolist(),
        "b": (rng.random(n) < 0.5).tolist(),
        "w": rng.integers(1, 4, size=n).tolist(),
        "y": (rng.random(n) < 0.5).tolist(),
    }


@kinds
def test_a_training_on_each_is_that_on_arrays(kind: str) -> None:
    data = columns(3000)
    X = np.column_stack([data["a"], data["n"], data["b"]])
    array = sf.ArraySource(X, data["y"], data["w"], features=["a", "n", "b"])
    expected = sf.Trainer(sf.LogisticRegression(batch_size=7), array).run()
    frame = KINDS[kind](data)
    report = sf.Trainer(sf.LogisticRegression(batch_size=7), FrameSource(frame, "y", "w")).run()
    assert (report.digest, report.n_samples) == (expected.digest, 3000)
    opened = open_source(frame, target="y", weight="w", features=["a", "n", "b"])
    assert sf.Trainer(sf.LogisticRegression(batch_size=7), opened).run().digest == report.digest
    many = sf.LogisticRegression(batch_size=7)
    table = FrameSource(frame, "y")._frame.select("a", "n", "b").to_native()
    many.learn_many(table, data["y"], data["w"])
    many.flush()
    assert many.digest() == report.digest


@kinds
def test_nulls_and_positions(kind: str) -> None:
    frame = KINDS[kind]({"a": [1.0, None, 3.0], "b": [True, None, False], "y": [1.0, 2.0, None]})
    if kind == "pandas":  # of an object column, which is no number
        frame["b"] = frame["b"].astype("boolean")
    source = FrameSource(frame, "y")
    (block,) = source
    assert np.asarray(block.x).tolist() == [[1.0, 1.0], [0.0, 0.0], [3.0, 0.0]]
    assert [str(error) for error in block.errors.values()] == [
        "target 'y' is null (source 'samples', partition 0, offset 2)"
    ]
    source.seek({"samples:0": 1})
    assert source.lag({"samples:0": 1}) == 2
    assert [list(block.offsets) for block in source] == [[1, 2]]
    assert source.position() == {"samples:0": 3}
    for wrong in ({"samples:0": 4}, {"samples:0": -1}, {"other:0": 1}, {"samples:0": 1.0}):
        with pytest.raises(SourceError, match="not a position"):
            source.seek(wrong)  # type: ignore[arg-type]


@kinds
def test_text_goes_to_a_transformer_and_labels_may_be_names(kind: str) -> None:
    frame = KINDS[kind]({"sky": ["rain", None, "fog"], "a": [1.0, 2.0, None], "y": ["p", "q", "p"]})
    (block,) = FrameSource(frame, "y")
    assert list(block.x) == [
        {"sky": "rain", "a": 1.0},
        {"sky": None, "a": 2.0},
        {"sky": "fog", "a": None},
    ]
    assert list(block.y) == ["p", "q", "p"]
    skies = FrameSource(frame, "y", features=["sky"])
    source = sf.Transformed(skies, preprocessing.OneHotEncoder())
    model = sf.SoftmaxRegression()
    assert sf.Trainer(model, source).run().n_samples == 3
    assert "sky_rain" in model.weights["p"]


@kinds
def test_a_frame_is_never_converted_as_a_whole(kind: str) -> None:
    n = 50_000
    frame = KINDS[kind](
        {**{f"x{j}": np.zeros(n, dtype=np.float32) for j in range(5)}, "y": np.zeros(n)}  # type: ignore[dict-item]
    )
    source = FrameSource(frame, "y")
    list(next(iter(source)).x)  # whatever is imported or kept at first
    source.seek({"samples:0": 0})
    tracemalloc.start()
    for _ in source:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000 < n * 5 * 8


def test_learn_many_copies_no_table_of_doubles() -> None:
    """A frame on top of one array of doubles goes into the kernel as that array."""
    X = np.zeros((100_000, 10))
    frame = pd.DataFrame(X, columns=list("abcdefghij"), copy=False)
    y = np.zeros(len(X))
    model = sf.LinearRegression()
    model.learn_many(frame.iloc[:10], y[:10])
    tracemalloc.start()
    model.learn_many(frame, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < X.nbytes / 4


@pytest.mark.parametrize("make", [pl.DataFrame, pa.table])
def test_learn_many_copies_a_table_of_columns_once(make: Any) -> None:
    n = 100_000
    frame = make({name: np.zeros(n) for name in "abcdefghij"})
    y = np.zeros(n)
    model = sf.LinearRegression()
    model.learn_many(frame[:10], y[:10])
    tracemalloc.start()
    model.learn_many(frame, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.2 * n * 10 * 8


@pytest.mark.parametrize(
    "arguments",
    [
        {"frame": [1, 2]},
        {"frame": pl.LazyFrame({"y": [1]})},
        {"target": "z"},
        {"weight": "y"},
        {"weight": "s"},
        {"features": ["a", "a"]},
        {"features": ["missing"]},
    ],
)
def test_bad_arguments(arguments: dict[str, Any]) -> None:
    frame = pl.DataFrame({"a": [1.0], "s": ["x"], "y": [1.0]})
    with pytest.raises(ConfigurationError):
        FrameSource(**{"frame": frame, "target": "y", **arguments})


def test_a_cell_that_cannot_be_read_is_told_with_its_rows() -> None:
    column = pa.array([2**31 - 1], pa.int32()).view(pa.date32())
    frame = pa.table({"day": column, "y": pa.array([1.0])})
    with pytest.raises(SourceError, match="rows 0 to 1 of the frame cannot be read"):
        list(FrameSource(frame, "y"))


def test_integer_labels_of_a_frame_stay_what_they_are() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "y": [2**53, 2**53 + 1]})
    model = sf.SoftmaxRegression()
    sf.Trainer(model, FrameSource(frame, "y")).run()
    assert model.classes == [2**53, 2**53 + 1]
    with pytest.raises(ConfigurationError, match="must be texts"):
        FrameSource(frame.set_axis(range(2), axis=1), 1)
