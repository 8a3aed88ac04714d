"""Windows: what is in them, and that no resume anywhere changes a single one."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamfit as sf
from connectors import ArraySource, CSVSource, Windows
from connectors.describe import source_from_config
from streamfit.errors import (
    BadSampleError,
    CheckpointMismatchError,
    ConfigurationError,
    SourceError,
)
from streamfit.testing.sources import PartitionedSource, SplitSource
from streamfit.types import Block, DescribesItself, KeepsState, ReportsLag, Source

Window = tuple[int, list[Any], Any]
"""Offset, rows, label."""


def handed_out(source: Windows) -> dict[str, list[Window]]:
    found: dict[str, list[Window]] = defaultdict(list)
    for block in source:
        assert list(block.offsets) == sorted(set(block.offsets))
        for i, offset in enumerate(block.offsets):
            if i not in block.errors:
                found[block.key].append((offset, np.asarray(block.x[i]).tolist(), block.y[i]))
    return found


def textbook(rows: list[tuple[int, Any, Any, Any]], size: int, stride: int) -> list[Window]:
    """Cut windows out of `(offset, key, x, y)` by slicing each key's whole list."""
    windows = []
    for key in {row[1] for row in rows}:
        of_key = [row for row in rows if row[1] == key]
        for start in range(0, len(of_key) - size + 1, stride):
            part = of_key[start : start + size]
            windows.append((part[-1][0], [x for _, _, x, _ in part], part[-1][3]))
    return sorted(windows)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[Any]], list[tuple[int, int]], int, int]:
    """Partitions of keyed samples, some offsets without a record; turns; size and stride."""
    partitions = [
        [
            None if key == 3 else (np.array([float(key), 100.0 * p + i]), float(i))
            for i, key in enumerate(draw(st.lists(st.integers(0, 3), max_size=30)))
        ]
        for p in range(draw(st.integers(1, 3)))
    ]
    turn = st.tuples(st.integers(0, len(partitions) - 1), st.integers(0, 7))
    size = draw(st.integers(1, 5))
    return partitions, draw(st.lists(turn, max_size=12)), size, draw(st.integers(1, size))


def expected(partitions: list[list[Any]], size: int, stride: int) -> dict[str, list[Window]]:
    found = {}
    for p, records in enumerate(partitions):
        rows = [(i, r[0][0], [r[0][1]], r[1]) for i, r in enumerate(records) if r is not None]
        if windows := textbook(rows, size, stride):
            found[f"parts:{p}"] = windows
    return found


@given(problems())
def test_windows_are_slices_of_each_key_of_each_partition(problem: Any) -> None:
    partitions, turns, size, stride = problem
    source = Windows(PartitionedSource(partitions, turns), size, stride, key=0)
    assert handed_out(source) == expected(partitions, size, stride)


@given(problems(), st.data())
def test_going_on_anywhere_hands_out_the_same_windows(problem: Any, data: st.DataObject) -> None:
    """With the state in a checkpoint, and without: `seek` alone reads the stream again."""
    partitions, turns, size, stride = problem
    blocks = list(Windows(PartitionedSource(partitions, turns), size, stride, key=0))
    n_blocks = data.draw(st.integers(0, len(blocks)))
    part = data.draw(st.integers(0, len(blocks[n_blocks]))) if n_blocks < len(blocks) else 0

    first = Windows(PartitionedSource(partitions, turns), size, stride, key=0)
    position = first.position()
    seen: dict[str, list[Window]] = defaultdict(list)

    def take(block: Block, n: int) -> None:  # as a trainer does
        for i in range(n):
            seen[block.key].append((block.offsets[i], np.asarray(block.x[i]).tolist(), block.y[i]))
            position[block.key] = block.offsets[i] + 1

    iterator = iter(first)
    for _ in range(n_blocks):
        block = next(iterator)
        take(block, len(block))
    if n_blocks < len(blocks):
        take(next(iterator), part)
    state = json.loads(json.dumps(first.state_dict(position)))
    assert state is not None
    if data.draw(st.booleans()):
        list(iterator)  # what is read ahead does not count

    second = Windows(PartitionedSource(partitions, turns), size, stride, key=0)
    second.seek(position)
    if data.draw(st.booleans()):
        second.load_state_dict(state)
        assert second.state_dict(position) == state
    for key, windows in handed_out(second).items():
        seen[key] += windows
    assert seen == expected(partitions, size, stride)


def state(held: list[Any]) -> dict[str, Any]:
    return {"source": None, "partitions": {"split:7": held}}


def test_what_the_other_source_keeps_is_kept_and_its_dead_letters_are_sent() -> None:
    class Keeping(SplitSource):
        loaded: Any = None

        def state_dict(self, position: Any) -> dict[str, Any]:
            return {"topic_id": "abc"}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.loaded = state

        def dead_letters(self, topic: str) -> Any:
            return topic

    windows = Windows(Keeping([[1.0], [2.0]], [0, 1]), 2)
    list(windows)
    kept = windows.state_dict(windows.position())
    assert kept is not None
    again = Keeping([[1.0], [2.0]], [0, 1])
    Windows(again, 2).load_state_dict(kept)
    assert again.loaded == {"topic_id": "abc"}
    assert windows.dead_letters("bad") == "bad"


def test_a_state_that_lies_too_far_back_is_not_told() -> None:
    source = Windows(SplitSource([[float(i)] for i in range(9)], list(range(9)), cuts=[3, 6]), 2)
    for _ in source:
        pass
    assert source.state_dict({"split:7": 3}) is None
    assert source.state_dict({"split:7": 6}) == state([[None, [[5, [5.0]]]]])
    again = Windows(SplitSource([[float(i)] for i in range(9)], list(range(9)), cuts=[3, 6]), 2)
    again.seek({"split:7": 8})
    assert again.state_dict({"split:7": 8}) is None  # has not been read up to there yet


def test_what_was_read_after_the_position_is_not_held() -> None:
    source = Windows(SplitSource([[float(i)] for i in range(4)], list(range(4)), cuts=[1, 2]), 3)
    next(iter(source))
    assert source.state_dict({"split:7": 0}) == state([])
    assert source.state_dict({"split:7": 1}) == state([[None, [[0, [0.0]]]]])
    assert source.state_dict({"split:7": 3}) == state([[None, [[1, [1.0]], [2, [2.0]]]]])


def test_forms_of_samples() -> None:
    rows = [{"a": i, "k": "x"} for i in range(3)]
    ((block),) = Windows([(row, i) for i, row in enumerate(rows)], 2, key="k")
    assert block.x == [[{"a": 0}, {"a": 1}], [{"a": 1}, {"a": 2}]]
    assert list(block.y) == [1, 2]
    X = np.arange(8.0).reshape(4, 2)
    (block,) = Windows(ArraySource(X, [0, 1, 2, 3], [1.0, 2.0, 3.0, 4.0]), 3)
    assert [window.tolist() for window in block.x] == [X[:3].tolist(), X[1:].tolist()]
    assert block.w == [3.0, 4.0]
    (block,) = Windows(ArraySource(X, [0, 1, 2, 3], features=["k", "b"]), 1, key="k")
    assert block.x[1] == [{"b": 3.0}]
    (block,) = Windows([({"a": i}, i) for i in range(6)], 2, key=lambda x: x["a"] % 2)
    assert block.x[0] == [{"a": 0}, {"a": 2}]


def test_samples_that_cannot_be_used_are_reported_and_left_out() -> None:
    samples: list[Any] = [({"a": 0.0, "k": 1}, 0), 5, ({"a": 1.0}, 1), ({"a": 2.0, "k": 1}, 2)]
    (block,) = Windows(samples, 2, key="k")
    assert list(block.offsets) == [1, 2, 3]
    assert "must be (x, y)" in str(block.errors[0])
    assert str(block.errors[1]) == (
        "feature 'k': is missing; it is the key of windows (source 'samples', partition 0, "
        "offset 2)"
    )
    assert block.x[2] == [{"a": 0.0}, {"a": 2.0}]
    (block,) = Windows([({"k": [1]}, 0)], 2, key="k")
    assert "must be a text or a number" in str(block.errors[0])
    (block,) = Windows(ArraySource(np.eye(2), [0, 1]), key=2)
    assert sorted(block.errors) == [0, 1]


def test_it_is_a_source(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("a,y\n" + "".join(f"{i},{i}\n" for i in range(9)))
    source = Windows(CSVSource(path, "y"), 4, 2)
    assert isinstance(source, Source)
    assert isinstance(source, KeepsState)
    assert isinstance(source, DescribesItself)
    assert isinstance(source, ReportsLag)
    assert source.lag(source.position()) is None
    assert Windows(ArraySource(np.eye(3), [0, 1, 2])).lag({"samples:0": 1}) == 2
    config = source.get_config()
    assert config is not None
    again = source_from_config(json.loads(json.dumps(config)))
    assert isinstance(again, Windows)
    assert again.get_config() == config
    assert handed_out(again) == handed_out(source)
    assert Windows(CSVSource(path, "y"), key=len).get_config() is None
    assert Windows([]).get_config() is None
    source.commit({"data.csv:0": 1})
    source.close()


def test_what_is_refused() -> None:
    for options in ({"size": 0}, {"size": 2.5}, {"stride": 0}, {"size": True}):
        with pytest.raises(ConfigurationError, match="must be an integer >= 1"):
            Windows([], **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="stride must be at most size=3"):
        Windows([], 3, 4)
    with pytest.raises(ConfigurationError, match="iterable of samples"):
        Windows(3)  # type: ignore[arg-type]
    source = Windows(ArraySource(np.eye(3), [0, 1, 2]), 2)
    with pytest.raises(SourceError):
        source.seek({"other:0": 1})
    with pytest.raises(SourceError):
        source.seek({"samples:0": 4})
    split = Windows(SplitSource([[1.0]], [1]), 2)
    split.seek({"split:7": 5})
    with pytest.raises(SourceError, match="ended at 1, wanted is 5"):
        list(split)
    for wrong in ({}, {"partitions": {"samples:0": 3}}, state([[None, [[0]]]]), []):
        with pytest.raises(CheckpointMismatchError, match="not the state of"):
            source.load_state_dict(wrong)  # type: ignore[arg-type]
    with pytest.raises(CheckpointMismatchError, match="longer windows: 2 samples"):
        source.load_state_dict({"partitions": {"samples:0": [[None, [[0, [1.0]], [1, [2.0]]]]]}})


class WindowMeans:
    """A learner of windows for the trainer: linear regression on the means of their rows."""

    def __init__(self) -> None:
        self.learner = sf.LinearRegression(sf.optim.SGD(0.01), batch_size=3)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.learner, name)

    def learn_block(self, block: Block, start: int, stop: int, predictors: Any = None) -> None:
        means = [
            {"a": float(np.mean([row["a"] for row in window]))} if isinstance(window, list) else {}
            for window in block.x
        ]
        changed = Block(means, block.y, block.w, block.source, block.partition, block.offsets)
        self.learner.learn_block(changed, start, stop, predictors)


@pytest.mark.parametrize("every", [5, 50])
@pytest.mark.parametrize("deaths", [[3], [1, 2, 5]])
def test_a_training_that_is_killed_resumes_exactly(
    deaths: list[int], every: int, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    path = tmp_path / "data.csv"
    path.write_text("a,k,y\n" + "".join(f"{i / 2000},{i * i % 7},{i % 3}\n" for i in range(2000)))

    def train(calls: int, state: Path | None) -> sf.TrainingReport:
        left = [calls]

        def callback(_: object) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        checkpoint = None if state is None else sf.Checkpointer(state, every_updates=every)
        source = Windows(CSVSource(path, "y"), 5, 3, key="k")
        return sf.Trainer(
            WindowMeans(), source, epochs=2, checkpoint=checkpoint, callbacks=[callback]
        ).run()

    for calls in deaths:
        with pytest.raises(Killed):
            train(calls, tmp_path / "state")
    resumed, whole = train(-1, tmp_path / "state"), train(-1, None)
    assert resumed.resumed_at
    assert (resumed.digest, resumed.n_samples) == (whole.digest, whole.n_samples)


def test_a_sample_that_the_learner_refuses_spoils_the_windows_that_hold_it() -> None:
    samples: list[Any] = [({"a": float(i)}, 0.0) for i in range(10)]
    samples[4] = ({"a": float("nan")}, 0.0)
    report = sf.Trainer(WindowMeans(), Windows(samples, 3), on_bad_sample="skip").run()
    assert (report.n_samples, report.n_bad) == (5, 3)
    with pytest.raises(BadSampleError, match="offset 4"):
        sf.Trainer(WindowMeans(), Windows(samples, 3)).run()
