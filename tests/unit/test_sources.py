from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import streamfit as sf
from streamfit.errors import BadSampleError, ConfigurationError, SourceError, UnsupportedError
from streamfit.sources import ArraySource, IterableSource
from streamfit.types import ReportsLag, Source


def numbers(n: int) -> Iterator[tuple[dict[str, float], float]]:
    for i in range(n):
        yield {"x": float(i)}, float(i)


def labels(source: Source) -> list[Any]:
    return [y for block in source for y in block.y]


def test_array_source_checks_shapes() -> None:
    with pytest.raises(ConfigurationError, match="X must have shape"):
        ArraySource([1.0], [1.0])
    with pytest.raises(ConfigurationError, match="y must have shape"):
        ArraySource([[1.0]], [1.0, 2.0])
    with pytest.raises(ConfigurationError, match="w must have shape"):
        ArraySource([[1.0]], [1.0], 3.0)
    with pytest.raises(ConfigurationError, match="2 feature names, 1 columns"):
        ArraySource([[1.0]], [1.0], features=["a", "b"])
    source = ArraySource([[1.0]], [1.0])
    assert isinstance(source, ReportsLag)
    assert source.lag(source.position()) == 1


def test_what_is_no_iterable_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="iterable of samples, not int"):
        IterableSource(3)  # type: ignore[arg-type]


def test_a_generator_object_is_read_once() -> None:
    source = IterableSource(numbers(10))
    assert not source.repeatable
    assert labels(source) == list(range(10))
    with pytest.raises(UnsupportedError, match="only once"):
        source.seek({"samples:0": 0})
    fresh = IterableSource(numbers(10))
    fresh.seek({"samples:0": 4})  # resuming skips
    assert labels(fresh) == list(range(4, 10))


def test_max_block_leaves_the_rest_in_the_iterator() -> None:
    iterator = numbers(100)
    source = IterableSource(iterator)
    source.max_block = 3
    assert len(next(iter(source)).y) == 3
    assert next(iterator)[1] == 3.0


def test_items_that_are_no_samples_become_errors_at_their_place() -> None:
    items: list[Any] = [({"x": 1.0}, 1.0), 5, ({"x": 1.0},), None, ({"x": 2.0}, 2.0, 0.5), "ab"]
    (block,) = IterableSource(items)
    assert sorted(block.errors) == [1, 2, 3]
    assert all(isinstance(error, BadSampleError) for error in block.errors.values())
    assert "offset 3" in str(block.errors[3])
    assert block.w is not None
    assert list(block.w) == [1.0, 1.0, 1.0, 1.0, 0.5, 1.0]


@pytest.mark.parametrize("live", [False, True])
def test_what_came_before_the_iterable_failed_is_handed_on(live: bool) -> None:
    def failing() -> Iterator[tuple[dict[str, float], float]]:
        yield from numbers(5)
        raise OSError("the sensor is gone")

    source, seen = IterableSource(failing, live=live), []
    with pytest.raises(OSError, match="the sensor is gone"):  # noqa: PT012
        for block in source:
            seen += list(block.y)
    assert seen == [0, 1, 2, 3, 4]


def test_a_slow_stream_is_handed_on_sample_by_sample() -> None:
    def slow() -> Iterator[tuple[dict[str, float], float]]:
        for sample in numbers(3):
            time.sleep(0.05)
            yield sample

    assert [list(block.y) for block in IterableSource(slow)] == [[0.0], [1.0], [2.0]]


def test_a_live_source_hands_out_empty_blocks_while_it_waits() -> None:
    def pausing() -> Iterator[tuple[dict[str, float], float]]:
        yield from numbers(2)
        time.sleep(0.5)
        yield {"x": 2.0}, 2.0

    sizes = [len(block) for block in IterableSource(pausing, live=True)]
    assert sum(sizes) == 3
    assert 0 in sizes[1:-1]


def test_max_block_holds_for_a_live_source() -> None:
    source = IterableSource(lambda: numbers(50), live=True)
    source.max_block = 3
    sizes = [len(block) for block in source]
    assert sum(sizes) == 50
    assert max(sizes) == 3


def test_array_source_takes_the_names_of_a_frame() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3, 4]})
    (block,) = ArraySource(frame, pd.Series([0.0, 1.0], index=[7, 8]))
    assert block.features == ["a", "b"]
    assert np.asarray(block.x).tolist() == [[1.0, 3.0], [2.0, 4.0]]
    assert list(block.y) == [0.0, 1.0]
    (block,) = ArraySource(frame, [0.0, 1.0], features=["c", "d"])
    assert block.features == ["c", "d"]
    (block,) = ArraySource(frame.to_numpy(), [0.0, 1.0])
    assert block.features is None


def test_a_frame_is_no_iterable_of_samples() -> None:
    with pytest.raises(ConfigurationError, match="ArraySource"):
        IterableSource(pd.DataFrame({"a": [1.0]}))


def test_a_stream_that_turns_slow_waits_for_few_samples() -> None:
    slow_from, seen = 1000, []

    def turning() -> Iterator[tuple[dict[str, float], float]]:
        for i in range(slow_from + 40):
            if i >= slow_from:
                time.sleep(0.021)
            yield {"x": float(i)}, float(i)

    for block in IterableSource(turning()):
        seen += list(block.y)
        if block.y[0] >= slow_from + 16:
            assert len(block) <= 2  # from the second look at the clock on, as they come
    assert seen == list(range(slow_from + 40))


def test_what_came_before_an_exception_is_handed_on() -> None:
    def failing() -> Iterator[tuple[dict[str, float], float]]:
        yield from numbers(500)
        raise ValueError("out of disk")

    seen: list[Any] = []

    def read() -> None:
        for block in IterableSource(failing()):
            seen.extend(block.y)

    with pytest.raises(ValueError, match="out of disk"):
        read()
    assert seen == list(range(500))


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("kind", ["dict", "array", "one list", "lists"])
def test_an_object_filled_again_for_each_sample(kind: str, slow: bool, live: bool) -> None:
    def reusing() -> Iterator[Any]:
        x: Any = np.zeros(1) if kind == "array" else {}
        sample = [x, 0.0]
        for i in range(600):
            x[0] = sample[1] = float(i)
            if slow and i < 3:
                time.sleep(0.03)  # a block of one sample
            yield {"one list": sample, "lists": [x, float(i)]}.get(kind, (x, float(i)))

    blocks = list(IterableSource(reusing(), live=live))
    assert [x[0] for block in blocks for x in block.x] == list(range(600))
    assert [y for block in blocks for y in block.y] == list(range(600))


def test_an_object_that_begins_to_be_filled_again_is_refused() -> None:
    def later() -> Iterator[Any]:
        yield from (({"x": float(i)}, i) for i in range(300))
        x = {}
        for i in range(300, 900):
            x["x"] = float(i)
            yield x, i

    with pytest.raises(SourceError, match="same object"):
        list(IterableSource(later()))


def test_an_array_source_of_a_sparse_matrix() -> None:
    X = sparse.random_array((50, 7), density=0.2, format="coo", rng=np.random.default_rng(0))
    y = np.arange(50.0)
    model, dense = sf.LinearRegression(), sf.LinearRegression()
    sf.Trainer(model, ArraySource(X, y)).run()
    sf.Trainer(dense, ArraySource(X.toarray(), y)).run()
    assert model.digest() == dense.digest()
