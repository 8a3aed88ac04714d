"""Learning and predicting from several threads, and from within a value's own conversion."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

import streamfit as sf
from streamfit.core import learner
from streamfit.errors import BadSampleError, BusyError, SourceError
from streamfit.types import Block


class Meddler:
    """A number whose conversion does something else first."""

    def __init__(self, meddle: Any) -> None:
        self.meddle = meddle

    def __float__(self) -> float:
        self.meddle()
        return 1.0


@pytest.mark.parametrize(
    "meddle",
    [
        lambda model: model.learn_one({f"x{i}": 1.0 for i in range(5000)}, 1.0),
        lambda model: model.learn_many(np.ones((3, 2)), np.ones(3)),
        lambda model: model.load_state_dict(grown().state_dict()),
        lambda model: model.flush(),
        lambda model: model.predict_one({"b": 1.0}),
    ],
)
def test_what_a_value_does_to_the_model_comes_before_its_sample(meddle: Any) -> None:
    model, other = grown(), grown()
    meddle(other)
    expected = other.predict_one({"a": 1.0, "c": 3.0})
    assert model.predict_one({"a": Meddler(lambda: meddle(model)), "c": 3.0}) == expected
    model, other = grown(), grown()
    meddle(other)
    other.learn_one({"a": 1.0, "c": 3.0}, 1.0)
    model.learn_one({"a": Meddler(lambda: meddle(model)), "c": 3.0}, 1.0)
    assert model.digest() == other.digest()
    assert list(model.weights) == list(other.weights)


def grown() -> sf.LinearRegression:
    model = sf.LinearRegression(batch_size=2)
    for i in range(3):
        model.learn_one({"a": 1.0, "b": float(i)}, 1.0)
    return model


class Liar(Mapping[str, float]):
    """A mapping whose length says nothing of what it yields."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        return (f"x{i}" for i in range(5000))

    def __getitem__(self, name: str) -> float:
        return 1.0


def test_a_mapping_that_lies_about_its_length() -> None:
    model = sf.LinearRegression(batch_size=2)
    model.learn_one(Liar(), 1.0)
    assert len(model.weights) == 5000
    assert model.predict_one(Liar()) == 0.0


def test_a_sample_that_grows_while_it_is_read() -> None:
    sample: dict[str, Any] = {}
    sample["a"] = Meddler(lambda: sample.update({f"g{i}": 1.0 for i in range(5000)}))
    model = sf.LinearRegression()
    model.learn_one(sample, 1.0)  # as it was when it was given
    assert list(model.weights) == ["a"]
    values: list[Any] = []
    values.append(Meddler(lambda: values.extend([1.0] * 5000)))
    model = sf.LinearRegression()
    model.learn_one(values, 1.0)
    assert len(model.weights) == 1


@pytest.mark.parametrize("short", ["x", "y", "w", "predictors"])
def test_a_block_that_is_shorter_than_it_says(short: str) -> None:
    n = 3000
    x, y, w, out = [{"x": 1.0}] * n, [1.0] * n, [1.0] * n, np.empty(n)
    block = Block(
        x=x[:1] if short == "x" else x,
        y=y[:1] if short == "y" else y,
        w=w[:1] if short == "w" else w,
        offsets=range(n),
    )
    model = sf.LinearRegression()
    with pytest.raises(SourceError, match="fewer rows, labels or weights"):
        model.learn_block(block, 0, n, out[:1] if short == "predictors" else out)
    assert model.n_samples == 0


def test_learning_in_two_threads_at_once_is_refused_or_in_turn() -> None:
    X, y = np.ones((400_000, 20)), np.ones(400_000)
    model = sf.LinearRegression(sf.optim.SGD(0.001))
    thread = threading.Thread(target=lambda: model.learn_many(X, y))
    thread.start()
    learned = 0
    while thread.is_alive():
        try:
            model.learn_one({f"new{learned}": 1.0}, 1.0)
            learned += 1
        except (BusyError, BadSampleError):
            pass  # told so, and nothing happened; or the table no longer has all columns
    thread.join()
    assert model.n_samples in (learned, learned + len(y))
    assert all(np.isfinite(list(model.weights.values())))


def test_new_columns_of_a_table_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    gather, refused = learner._gather, []

    def others(X: Any, columns: Any, n: int) -> Any:
        def learn() -> None:
            block = Block(np.ones((1, 2)), [0.0], features=["z", "a"], offsets=range(1))
            for call in (
                lambda: model.learn_one({"a": 2.0}, 1.0),
                lambda: model.learn_block(block, 0, 1),
            ):
                try:
                    call()
                except BusyError as error:
                    refused.append(error)

        thread = threading.Thread(target=learn)
        thread.start()
        thread.join()
        return gather(X, columns, len(model.index))

    model, expected = sf.LinearRegression(), sf.LinearRegression()
    frame = pd.DataFrame({"x": [7.0], "a": [1.0]})
    expected.learn_one({"a": 1.0}, 1.0)
    expected.learn_many(frame, [0.0])
    model.learn_one({"a": 1.0}, 1.0)
    monkeypatch.setattr(learner, "_gather", others)
    model.learn_many(frame, [0.0])
    assert len(refused) == 2
    assert model.index.names == ["a", "x"]
    assert model.digest() == expected.digest()


def test_a_value_that_empties_its_own_sample() -> None:
    model = sf.LinearRegression()
    sample: dict[str, Any] = {"a": 0.0, "b": 0.0}
    sample["a"] = Meddler(sample.clear)
    model.learn_one(sample, 1.0)
    assert list(model.weights) == ["a", "b"]


def test_predicting_while_another_thread_learns() -> None:
    X, y = np.ones((200_000, 20)), np.ones(200_000)
    model = sf.LinearRegression(sf.optim.SGD(0.001))
    model.learn_many(X[:10], y[:10])
    stop = threading.Event()
    errors: list[BaseException] = []

    def predict() -> None:
        try:
            while not stop.is_set():
                assert np.isfinite(model.predict_one(X[0]))
                assert np.isfinite(model.predict_many(X[:5])).all()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=predict)
    thread.start()
    for _ in range(5):
        model.learn_many(X, y)
    stop.set()
    thread.join(30)
    assert errors == []
    straight = sf.LinearRegression(sf.optim.SGD(0.001))
    for part in (X[:10], X, X, X, X, X):
        straight.learn_many(part, y[: len(part)])
    assert model.digest() == straight.digest()


@pytest.mark.parametrize("kind", [sf.LinearRegression, sf.SoftmaxRegression])
@pytest.mark.parametrize("fails", ["conversion", "value"])
def test_a_refused_sample_leaves_what_its_own_value_has_learned(kind: Any, fails: str) -> None:
    model, expected = kind(), kind()
    for one in (model, expected):
        one.learn_one({"a": 1.0}, 1)

    def meddle() -> None:
        model.learn_one({"b": 1.0, "c": 2.0}, 2)
        if fails == "conversion":
            raise RuntimeError

    with pytest.raises((RuntimeError, BadSampleError)):
        model.learn_one({"x": Meddler(meddle), "y": None}, 3)
    expected.learn_one({"b": 1.0, "c": 2.0}, 2)
    for one in (model, expected):
        one.learn_one({"d": 1.0}, 1)
    assert (model.digest(), model.weights) == (expected.digest(), expected.weights)


def test_a_table_that_loads_a_state_and_fails_is_undone_whole() -> None:
    model = sf.SoftmaxRegression(batch_size=2)
    model.learn_one({f"x{i}": 1.0 for i in range(10)}, "a")
    other = sf.SoftmaxRegression(batch_size=2)
    other.learn_one({"z": 1.0}, "b")
    before, weights = model.digest(), model.weights
    X = np.ones((3, 10), dtype=object)
    X[1, 1] = Meddler(lambda: model.load_state_dict(other.state_dict()))
    X[2, 1] = None
    with pytest.raises(BadSampleError):
        model.learn_many(X, ["a", "b", "c"])
    assert (model.digest(), model.weights, model.classes) == (before, weights, ["a"])
    assert list(model.index.names) == list(weights["a"])


def test_a_call_refused_as_busy_leaves_no_names() -> None:
    X, y = np.ones((400_000, 20)), np.ones(400_000)
    model = sf.LinearRegression(sf.optim.SGD(0.001))
    model.learn_many(X[:1], y[:1])
    frame = pd.DataFrame(np.ones((2, 3000)), columns=[f"n{i}" for i in range(3000)])
    block = Block(frame.to_numpy(), np.ones(2), features=list(frame.columns))
    thread = threading.Thread(target=lambda: model.learn_many(X, y))
    thread.start()
    refused = 0
    while thread.is_alive():
        try:
            model.learn_block(block, 0, 2)
        except (BusyError, BadSampleError):
            refused += 1
            model.predict_one({"n2999": 1.0})
        except BaseException:
            thread.join()
            raise
        else:
            break  # it came before the other thread's, or after
    thread.join()
    assert refused or model.n_columns == 3020
    assert len(model.index) == model.n_columns
    model.learn_one({f"new{i}": 1.0 for i in range(50)}, 1.0)
    assert len(model.weights) == model.n_columns


def test_names_that_an_index_was_given_from_outside_are_forgotten() -> None:
    model = sf.LinearRegression()
    model.learn_one({"a": 1.0}, 1.0)
    model.index.align([f"n{i}" for i in range(100_000)], 100_000, True)
    model.learn_one({"b": 1.0, "n99999": 2.0}, 1.0)
    assert list(model.weights) == ["a", "b", "n99999"]


def test_a_learner_that_was_never_made_says_so() -> None:
    model = sf.LinearRegression.__new__(sf.LinearRegression)
    for learn in (
        lambda: model.learn_one({"a": 1.0}, 1.0),
        lambda: model.learn_one([1.0], 1.0),
        lambda: model.learn_many(np.ones((2, 2)), np.ones(2)),
    ):
        with pytest.raises(TypeError, match="__init__"):
            learn()


def test_a_part_before_the_block_s_beginning_is_refused() -> None:
    for x in ([[1.0]] * 3, np.ones((3, 1))):
        model = sf.LinearRegression()
        with pytest.raises(SourceError, match="no part"):
            model.learn_block(Block(x, np.ones(3)), -1, 3, np.empty(3))
        assert model.n_samples == 0
