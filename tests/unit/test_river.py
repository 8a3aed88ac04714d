"""The learners are River estimators: its checks, pipelines and evaluation take them."""

from __future__ import annotations

import pytest
from river import checks, compose, datasets, evaluate, metrics, preprocessing

import streamfit as sf
from streamfit.core.learner import LinearLearner

KINDS = (sf.LinearRegression, sf.LogisticRegression)


def checks_of(model: LinearLearner) -> list:
    skipped = model._unit_test_skips()
    return [check for check in checks.yield_checks(model) if check.__name__ not in skipped]


CASES = [
    pytest.param(kind, size, i, id=f"{kind.__name__}-{size}-{check.__name__}-{i}")
    for kind in KINDS
    for size in (1, 4)
    for i, check in enumerate(checks_of(kind(batch_size=size)))
]


@pytest.mark.filterwarnings("ignore::streamfit.errors.UpdateRefusedWarning")  # data are unscaled
@pytest.mark.parametrize(("kind", "batch_size", "i"), CASES)
def test_river_s_own_checks(kind: type[LinearLearner], batch_size: int, i: int) -> None:
    model = kind(batch_size=batch_size)
    checks_of(model)[i](model.clone())


def test_only_checks_that_cannot_hold_are_skipped() -> None:
    assert sf.LinearRegression()._unit_test_skips() == set()


def test_a_pipeline_and_progressive_validation() -> None:
    model = compose.Pipeline(
        preprocessing.StandardScaler(), sf.LogisticRegression(sf.optim.SGD(0.1), batch_size=4)
    )
    accuracy = evaluate.progressive_val_score(datasets.Phishing(), model, metrics.Accuracy())
    assert accuracy.get() > 0.85
    model = preprocessing.StandardScaler() | sf.LinearRegression(sf.optim.SGD(0.02))
    error = evaluate.progressive_val_score(datasets.TrumpApproval(), model, metrics.MAE())
    assert error.get() < 1.5


def test_a_clone_is_fresh_and_has_the_same_configuration() -> None:
    model = sf.LogisticRegression(sf.optim.Adam(), batch_size=4, features=sf.FeatureIndex(["a"]))
    model.learn_one({"a": 1.0, "b": 1.0}, True)
    clone = model.clone()
    assert clone.get_config() == model.get_config()
    assert (clone.n_samples, list(clone.weights)) == (0, ["a"])
    other = model.clone({"batch_size": 8})
    assert (other.batch_size, model.batch_size) == (8, 4)
