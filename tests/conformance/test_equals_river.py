"""The weights are River's, where River defines the same step.

It does for SGD, momentum and AdaGrad, for L2, for clipping and for the mean gradient of its
`learn_many`. River always trains the intercept by plain SGD, which is our `intercept_lr`.

Its Adam folds both bias corrections into the learning rate (Kingma and Ba, end of section 2),
so that `eps` stands beside the uncorrected `sqrt(v)`: a larger `eps` in the first steps, by
`1 / sqrt(1 - beta_2^t)`, or 32 at the first. With an `eps` that plays no part they are equal.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from river import datasets, linear_model, optim, preprocessing

import streamfit as sf

RELATIVE = 1e-9
TINY = 1e-300

Samples = list[tuple[dict[Any, float], Any]]


@cache
def scaled(kind: type) -> Samples:
    scaler = preprocessing.StandardScaler()
    out = []
    for x, y in kind():
        scaler.learn_one(x)
        out.append((scaler.transform_one(x), y))
    return out


def assert_equal(ours: Any, theirs: Any) -> None:
    assert set(ours.weights) == set(theirs.weights)
    names = sorted(ours.weights)
    a = np.array([ours.intercept, *(ours.weights[name] for name in names)])
    b = np.array([theirs.intercept, *(theirs.weights[name] for name in names)])
    np.testing.assert_allclose(a, b, rtol=0, atol=RELATIVE * np.abs(b).max())


def optimal() -> Any:
    """River derives t0 from a loss; ours is said outright."""
    return optim.schedulers.Optimal(optim.losses.Log(), alpha=100.0)


OPTIMIZERS = {
    "SGD": (sf.optim.SGD(0.01), lambda: optim.SGD(0.01)),
    "momentum": (sf.optim.SGD(0.01, momentum=0.9), lambda: optim.Momentum(0.01, rho=0.9)),
    "AdaGrad": (sf.optim.AdaGrad(0.1), lambda: optim.AdaGrad(0.1)),
    "AdaDelta": (sf.optim.AdaDelta(), optim.AdaDelta),
    "RMSProp": (sf.optim.RMSProp(0.01), lambda: optim.RMSProp(0.01)),
    "Adam": (sf.optim.Adam(0.01, eps=TINY), lambda: optim.Adam(0.01, eps=TINY)),
    "AMSGrad": (sf.optim.AMSGrad(0.01, eps=TINY), lambda: optim.AMSGrad(0.01, eps=TINY)),
    "InverseScaling": (
        sf.optim.SGD(sf.schedules.InverseScaling(0.05, 0.3)),
        lambda: optim.SGD(optim.schedulers.InverseScaling(0.05, 0.3)),
    ),
    "Optimal": (
        sf.optim.SGD(sf.schedules.Optimal(100.0, t0=optimal().t0)),
        lambda: optim.SGD(optimal()),
    ),
}
KINDS = {
    "regression": (
        sf.LinearRegression,
        linear_model.LinearRegression,
        datasets.TrumpApproval,
    ),
    "classification": (
        sf.LogisticRegression,
        linear_model.LogisticRegression,
        datasets.Phishing,
    ),
    "5,300 samples": (sf.LogisticRegression, linear_model.LogisticRegression, datasets.Bananas),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "l2": {"l2": 0.01},
    "l1": {"l1": 0.0123457},
    "clip": {"clip_gradient": 0.3},
    "fixed intercept": {"intercept_lr": 0.0},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_sample_at_a_time(kind: str, optimizer: str, options: str) -> None:
    our_kind, their_kind, data = KINDS[kind]
    our_optimizer, their_optimizer = OPTIMIZERS[optimizer]
    if options == "l1" and optimizer in ("AdaDelta", "InverseScaling", "Optimal"):
        pytest.skip("River's penalty means something else: test_the_l1_penalty_of_river_...")
    arguments = {"intercept_lr": 0.01, **OPTIONS[options]}
    ours = our_kind(our_optimizer, **arguments)
    theirs = their_kind(their_optimizer(), **arguments)
    for x, y in scaled(data):
        assert ours.predict_one(x) == pytest.approx(theirs.predict_one(x), rel=1e-6, abs=1e-6)
        ours.learn_one(x, y)
        theirs.learn_one(x, y)
    assert_equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_weighted_samples(kind: str) -> None:
    our_kind, their_kind, data = KINDS[kind]
    ours = our_kind(reduction="sum", intercept_lr=0.01)
    theirs = their_kind(optim.SGD(0.01), intercept_lr=0.01)
    for i, (x, y) in enumerate(scaled(data)):
        ours.learn_one(x, y, (i % 5) / 2)
        theirs.learn_one(x, y, (i % 5) / 2)
    assert_equal(ours, theirs)


@pytest.mark.parametrize("batch_size", [2, 32, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_equal_river_s_learn_many(kind: str, batch_size: int) -> None:
    our_kind, their_kind, data = KINDS[kind]
    frame = pd.DataFrame([x for x, _ in scaled(data)])
    labels = pd.Series([y for _, y in scaled(data)])
    ours = our_kind(sf.optim.SGD(0.05), batch_size=batch_size, intercept_lr=0.01)
    theirs = their_kind(optim.SGD(0.05), intercept_lr=0.01)
    for start in range(0, len(frame), batch_size):
        theirs.learn_many(frame[start : start + batch_size], labels[start : start + batch_size])
    for start in range(0, len(frame), 77):  # our blocks are cut elsewhere
        ours.learn_many(frame[start : start + 77], labels[start : start + 77])
    ours.flush()
    assert_equal(ours, theirs)


def test_adam_differs_from_river_s_by_its_eps_only() -> None:
    theirs = linear_model.LogisticRegression(optim.Adam(0.01), intercept_lr=0.01)
    ours = sf.LogisticRegression(sf.optim.Adam(0.01), intercept_lr=0.01)
    for x, y in scaled(datasets.Phishing):
        ours.learn_one(x, y)
        theirs.learn_one(x, y)
    a = np.array([ours.weights[name] for name in sorted(ours.weights)])
    b = np.array([theirs.weights[name] for name in sorted(theirs.weights)])
    difference = np.abs(a - b).max() / np.abs(b).max()
    assert 1e-9 < difference < 1e-4


LOSSES: dict[str, tuple[Any, Any]] = {
    "Squared": (sf.losses.Squared(), optim.losses.Squared()),
    "Absolute": (sf.losses.Absolute(), optim.losses.Absolute()),
    "Huber": (sf.losses.Huber(0.3), optim.losses.Huber(0.3)),
    "EpsilonInsensitive": (
        sf.losses.EpsilonInsensitive(0.2),
        optim.losses.EpsilonInsensitiveHinge(0.2),
    ),
    "Quantile": (sf.losses.Quantile(0.8), optim.losses.Quantile(0.8)),
    "Poisson": (sf.losses.Poisson(), optim.losses.Poisson()),
    "Log": (sf.losses.Log(), optim.losses.Log()),
    "Hinge": (sf.losses.Hinge(), optim.losses.Hinge()),
    "Hinge at 0.3": (sf.losses.Hinge(0.3), optim.losses.Hinge(threshold=0.3)),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss(loss: str) -> None:
    our_loss, their_loss = LOSSES[loss]
    binary = isinstance(our_loss, sf.LogisticRegression._losses)
    our_kind, their_kind, data = KINDS["classification" if binary else "regression"]
    ours = our_kind(sf.optim.SGD(0.00123457), our_loss, intercept_lr=0.0271829)
    theirs = their_kind(optim.SGD(0.00123457), loss=their_loss, intercept_lr=0.0271829)
    for x, y in scaled(data):
        target = y if binary else abs(y) / 20  # Poisson needs labels >= 0
        ours.learn_one(x, target)
        # River's slope takes the labels of a regression for classes: 0 and 1 become -1 and 1
        theirs.learn_one(x, (target + 1) / 2 if loss == "EpsilonInsensitive" else target)
    assert_equal(ours, theirs)


SOFTMAX = {
    name: OPTIMIZERS[name] for name in ("SGD", "momentum", "AdaGrad", "RMSProp", "Adam", "AMSGrad")
}


@pytest.mark.parametrize("options", [{}, {"l2": 0.01}], ids=["plain", "l2"])
@pytest.mark.parametrize("optimizer", SOFTMAX)
def test_softmax_regression(optimizer: str, options: dict[str, float]) -> None:
    """All classes known from the start; River trains no intercept."""
    our_optimizer, their_optimizer = SOFTMAX[optimizer]
    classes = sorted({y for _, y in scaled(datasets.ImageSegments)})
    ours = sf.SoftmaxRegression(our_optimizer, fit_intercept=False, classes=classes, **options)
    theirs = linear_model.SoftmaxRegression(their_optimizer(), **options)
    for label in classes:
        assert not theirs.weights[label]  # to ask for it makes it known
    for x, y in scaled(datasets.ImageSegments):
        ours.learn_one(x, y)
        theirs.learn_one(x, y)
    assert len(classes) == 7
    largest = max(abs(w) for weights in theirs.weights.values() for w in weights.values())
    for label, weights in theirs.weights.items():
        for name, w in weights.items():
            assert abs(ours.weights[label][name] - w) <= RELATIVE * largest


@pytest.mark.parametrize("kind", KINDS)
def test_the_scaler_is_a_pipeline_of_river_s(kind: str) -> None:
    """Which transforms a sample after it has learned it."""
    our_kind, their_kind, data = KINDS[kind]
    ours = our_kind(sf.optim.SGD(0.01), intercept_lr=0.01, scaler=sf.StandardScaler())
    scaler = preprocessing.StandardScaler()
    theirs = their_kind(optim.SGD(0.01), intercept_lr=0.01)
    for x, y in data():
        ours.learn_one(x, y)
        scaler.learn_one(x)
        theirs.learn_one(scaler.transform_one(x), y)
    assert_equal(ours, theirs)
    state = ours.state_dict()
    for name, mean, var in zip(
        state["features"], state["scaler_mean"][1:], state["scaler_var"][1:], strict=True
    ):
        assert mean == pytest.approx(scaler.means[name], rel=RELATIVE, abs=1e-15)
        assert var == pytest.approx(scaler.vars[name], rel=RELATIVE)
    pipeline = preprocessing.StandardScaler() | their_kind(optim.SGD(0.01), intercept_lr=0.01)
    for x, y in data():
        pipeline.learn_one(x, y)
    assert_equal(ours, pipeline[-1])


# ---- where River means something else


def test_the_first_sample_of_a_class_finds_it_impossible_in_river() -> None:
    """Its probability is 0 there; here it is that of a class with weights of 0."""
    ours = sf.SoftmaxRegression(sf.optim.SGD(1.0), fit_intercept=False)
    theirs = linear_model.SoftmaxRegression(optim.SGD(1.0))
    for model in (ours, theirs):
        model.learn_one({"a": 1.0}, "old")
        model.learn_one({"a": 1.0}, "new")
    assert ours.weights == {"old": {"a": -0.5}, "new": {"a": 0.5}}
    assert theirs.weights["new"]["a"] == pytest.approx(1.0)
    assert theirs.weights["old"]["a"] == pytest.approx(0.0)  # 1 of its own sample, -1 of the other


@pytest.mark.parametrize("kind", KINDS)
def test_nesterov_keeps_the_point_ahead_here_and_the_point_behind_there(kind: str) -> None:
    """River steps back after each gradient; ours, like Keras', stays where it looks from."""
    our_kind, their_kind, data = KINDS[kind]
    ours = our_kind(sf.optim.SGD(0.01, momentum=0.9, nesterov=True), intercept_lr=0.01)
    theirs = their_kind(optim.NesterovMomentum(0.01, rho=0.9), intercept_lr=0.01)
    for x, y in scaled(data)[:500]:
        ours.learn_one(x, y)
        theirs.learn_one(x, y)
    largest = max(abs(w) for w in theirs.weights.values())
    for name, w in theirs.weights.items():
        ahead = w - 0.9 * theirs.optimizer.s[name]
        assert abs(ours.weights[name] - ahead) <= RELATIVE * largest
    assert max(abs(ours.weights[f] - w) for f, w in theirs.weights.items()) > 1e-4 * largest


def test_ftrl_lags_a_step_behind_in_river() -> None:
    """River solves for the weights before it takes the gradient in, McMahan et al. after."""
    rows = scaled(datasets.Phishing)
    ours = sf.LogisticRegression(sf.optim.FTRLProximal(), intercept_lr=0.0)
    theirs = linear_model.LogisticRegression(optim.FTRLProximal(), intercept_lr=0.0)
    ours.learn_one(*rows[100])
    theirs.learn_one(*rows[100])
    first = dict(theirs.weights)
    assert not any(first.values())
    assert any(ours.weights.values())
    # with a gradient of 0 (weight 0) it catches up with what it already knew
    theirs.learn_one(*rows[100], 0.0)
    for name, w in theirs.weights.items():
        assert ours.weights[name] == pytest.approx(w, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("options", [{"l2": 0.1}, {"l1": 0.01}], ids=repr)
def test_penalties_leave_absent_features_alone_in_river(options: dict[str, float]) -> None:
    ours = sf.LinearRegression(sf.optim.SGD(0.1), intercept_lr=0.0, **options)
    theirs = linear_model.LinearRegression(optim.SGD(0.1), intercept_lr=0.0, **options)
    for x, y in [({"a": 1.0}, 1.0), ({"b": 1.0}, 1.0), ({"b": 1.0}, 1.0)]:
        ours.learn_one(x, y)
        theirs.learn_one(x, y)
    assert ours.weights["a"] < theirs.weights["a"]
    again = linear_model.LinearRegression(optim.SGD(0.1), intercept_lr=0.0, **options)
    for x, y in [({"a": 1, "b": 0}, 1.0), ({"a": 0, "b": 1}, 1.0), ({"a": 0, "b": 1}, 1.0)]:
        again.learn_one(x, y)  # its zeros written out: an absent feature is 0 here
    assert_equal(ours, again)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (sf.optim.SGD(0.1, momentum=0.9), optim.Momentum(0.1)),
        (sf.optim.Adam(0.1), optim.Adam(0.1)),
        (sf.optim.RMSProp(0.1), optim.RMSProp(0.1)),
    ],
    ids=["momentum", "Adam", "RMSProp"],
)
def test_averages_stand_still_for_absent_features_in_river(ours: Any, theirs: Any) -> None:
    one = sf.LinearRegression(ours, intercept_lr=0.0)
    other = linear_model.LinearRegression(theirs, intercept_lr=0.0)
    for x, y in [({"a": 1.0}, 1.0), ({"b": 1.0}, 1.0), ({"a": 1.0}, 1.0)]:
        one.learn_one(x, y)
        other.learn_one(x, y)
    assert abs(one.weights["a"] - other.weights["a"]) > 1e-3


def test_at_the_corner_of_a_loss_river_takes_a_side() -> None:
    """Where predictor and label are equal, the slope is 0 here, and -1 or -alpha there."""
    assert sf.losses.Absolute().gradient(1.0, 1.0) == 0.0
    assert optim.losses.Absolute().gradient(1.0, 1.0) == -1
    assert sf.losses.Quantile(0.8).gradient(1.0, 1.0) == 0.0
    assert optim.losses.Quantile(0.8).gradient(1.0, 1.0) == -0.8


def l1_total(optimizer: Any, n: int) -> float:
    """River's total of the penalty that a weight could have had, after `n` samples."""
    model = linear_model.LinearRegression(optimizer, l1=1.0, intercept_lr=0.0)
    for _ in range(n):
        model.learn_one({"a": 1.0}, 1.0)
    return float(model.max_cum_l1)


def test_the_l1_penalty_of_river_takes_the_rate_of_the_next_step() -> None:
    ours, theirs = sf.schedules.InverseScaling(0.1), optim.schedulers.InverseScaling(0.1)
    model = sf.LinearRegression(sf.optim.SGD(ours), l1=1.0)
    for _ in range(3):
        model.learn_one({"a": 1.0}, 1.0)
    total = model.state_dict()["l1_total"]
    assert total == pytest.approx(sum(ours.rate(t) for t in (0, 1, 2)))
    assert l1_total(optim.SGD(theirs), 3) == pytest.approx(sum(ours.rate(t) for t in (1, 2, 3)))


def test_the_l1_penalty_of_river_does_nothing_beside_adadelta() -> None:
    """AdaDelta has no learning rate: its steps count as at rate 1 here, at 0 there."""
    model = sf.LinearRegression(sf.optim.AdaDelta(), l1=1e-3)
    model.learn_one({"a": 1.0}, 1.0)
    assert model.state_dict()["l1_total"] == 1e-3
    assert l1_total(optim.AdaDelta(), 3) == 0.0
