"""Learning and predicting from several threads, and from within a value's own conversion."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

import streamfit as sf
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
