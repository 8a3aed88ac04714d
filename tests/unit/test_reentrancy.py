"""Learning and predicting from several threads, and from within a value's own conversion."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import streamfit as sf
from streamfit.errors import BusyError


class Meddler:
    """A number whose conversion does something else first."""

    def __init__(self, meddle: Any) -> None:
        self.meddle = meddle

    def __float__(self) -> float:
        self.meddle()
        return 1.0


def test_a_value_that_learns_while_it_is_converted_is_refused() -> None:
    model = sf.LinearRegression()
    model.learn_one({"a": 1.0}, 1.0)
    before = model.digest()
    many = {f"x{i}": 1.0 for i in range(5000)}  # would move every array
    for meddle in (
        lambda: model.learn_one(many, 1.0),
        lambda: model.learn_many(np.ones((3, 1)), np.ones(3)),
        lambda: model.load_state_dict(sf.LinearRegression().state_dict()),
        model.flush,
    ):
        with pytest.raises(BusyError, match="learning already"):
            model.learn_one({"a": Meddler(meddle), "b": 2.0}, 1.0)
        with pytest.raises(BusyError, match="learning already"):
            model.predict_one({"a": Meddler(meddle)})
        assert model.digest() == before
        assert list(model.weights) == ["a"]


def test_a_value_that_predicts_while_it_is_converted() -> None:
    model, other = sf.LinearRegression(), sf.LinearRegression()
    for learner in (model, other):
        learner.learn_one({"a": 1.0, "b": 2.0}, 1.0)
    seen: list[float] = []
    value = Meddler(lambda: seen.append(model.predict_one({"b": 1.0})))
    expected = model.predict_one({"b": 1.0})
    model.learn_one({"a": value, "b": 2.0}, 1.0)
    other.learn_one({"a": 1.0, "b": 2.0}, 1.0)
    assert seen == [expected]
    assert model.digest() == other.digest()


def test_a_value_that_empties_its_own_sample() -> None:
    model = sf.LinearRegression()
    sample: dict[str, Any] = {"a": 0.0, "b": 0.0}
    sample["a"] = Meddler(sample.clear)
    model.learn_one(sample, 1.0)
    assert model.n_samples == 1


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
