"""`sf.optim.Auto` beyond what every optimizer is put to: its scaler, its units, what it reaches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from river import datasets

import streamfit as sf
from streamfit.errors import ConfigurationError


def test_it_scales_where_the_learner_does_not_and_can() -> None:
    assert sf.LogisticRegression(sf.optim.Auto()).scaler == sf.StandardScaler(bound=1.5)
    own = sf.StandardScaler()
    assert sf.LogisticRegression(sf.optim.Auto(), scaler=own).scaler is own
    assert sf.LogisticRegression(sf.optim.Auto(scale=False)).scaler is None
    assert sf.LogisticRegression(sf.optim.Auto(), features=sf.HashedFeatures()).scaler is None
    with pytest.raises(ConfigurationError, match="scale"):
        sf.optim.Auto(scale=1)  # type: ignore[arg-type]


def test_the_bound_of_a_scaler() -> None:
    model = sf.LinearRegression(sf.optim.SGD(1.0), scaler=sf.StandardScaler(bound=2.0))
    again = sf.LinearRegression.from_config(model.get_config())
    assert again.scaler == model.scaler
    state = model.state_dict()
    model.learn_many(np.array([[-1.0], [1.0]]), np.zeros(2))
    state = model.state_dict()
    state["parameters"] = np.array([0.0, 1.0])
    model.load_state_dict(state)
    z = np.array([-3.0, 0.5, 10.0])
    np.testing.assert_allclose(
        model.predict_many(z[:, None]), z / np.sqrt(1.0 + (z / 2.0) ** 2), rtol=1e-14
    )
    assert model.predict_one([1e200]) == 2.0
    for bound in (0.0, -1.0, float("nan"), "1"):
        with pytest.raises(ConfigurationError, match="bound"):
            sf.StandardScaler(bound)  # type: ignore[arg-type]


def test_it_does_not_mind_the_units_of_features_and_labels() -> None:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(200, 3))
    y = X @ [1.0, -2.0, 0.5] + rng.normal(size=200)
    one, other = (sf.LinearRegression(sf.optim.Auto(), batch_size=4) for _ in range(2))
    one.learn_many(X, y)
    other.learn_many(X * [1e3, 1.0, 1e-3], y * 1e6)
    np.testing.assert_allclose(
        np.array(list(other.weights.values())),
        1e6 * np.array(list(one.weights.values())),
        rtol=1e-9,
    )


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_a_pending_curvature_is_part_of_the_state_and_no_other(batch_size: int | None) -> None:
    model = sf.LogisticRegression(sf.optim.Auto(), batch_size=batch_size)
    model.learn_many(np.array([[1.0], [2.0]]), np.array([0.0, 1.0]))
    state = model.state_dict()
    assert ("curvature" in state) == ("gradient" in state) == (batch_size != 1)
    again = model.clone()
    again.load_state_dict(state)
    again.flush()
    model.flush()
    assert "curvature" not in model.state_dict()
    assert again.digest() == model.digest()


BEST_OF_RIVER_AND_WABBIT: list[tuple[Any, Any, float, float]] = [
    # the best of River's tuned set and VW's default, as in benchmarks/quality.md
    (datasets.Phishing, sf.LogisticRegression, 0.2706, 0.8928),
    (datasets.Bananas, sf.LogisticRegression, 0.6858, 0.0),
    (datasets.ImageSegments, sf.SoftmaxRegression, np.inf, 0.8801),
    # with `intercept_lr=0.1`; one of 0.5 predicts the label before, and is better still: 0.190
    (datasets.TrumpApproval, sf.LinearRegression, 0.4773, 0.0),
]


@pytest.mark.parametrize(("samples", "kind", "loss", "accuracy"), BEST_OF_RIVER_AND_WABBIT)
def test_untuned_it_is_as_good_as_the_best_tuned(
    samples: Any, kind: Any, loss: float, accuracy: float
) -> None:
    model, losses, right = kind(sf.optim.Auto()), [], []
    for x, y in samples():
        if kind is sf.LinearRegression:
            losses.append(abs(model.predict_one(x) - y))
        else:
            probabilities = model.predict_proba_one(x)
            losses.append(-np.log(max(probabilities.get(y, 0.0), 1e-15)))
            right.append(model.predict_one(x) == y)
        model.learn_one(x, y)
    assert np.mean(losses) <= loss
    assert not accuracy or np.mean(right) >= accuracy


@pytest.mark.parametrize("scale", [True, False])
def test_the_advisor_takes_auto(scale: bool) -> None:
    samples = [({"a": 0.1 * (i % 7)}, 1.0 * (i % 5)) for i in range(300)]
    advice = sf.advise_batch_size(sf.LinearRegression(sf.optim.Auto(scale=scale)), samples)
    assert all(np.isfinite(rung.progressive_loss) for rung in advice.rungs)
