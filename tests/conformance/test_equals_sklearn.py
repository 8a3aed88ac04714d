"""The weights are scikit-learn's: its SGD without shuffling, and where descent must arrive."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import linear_model
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.preprocessing import StandardScaler

import streamfit as sf
from streamfit.offline import fit_offline

RELATIVE = 1e-9


def diabetes() -> tuple[np.ndarray, np.ndarray]:
    X, y = load_diabetes(return_X_y=True)
    return StandardScaler().fit_transform(X), y / 100.0


def breast_cancer() -> tuple[np.ndarray, np.ndarray]:
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X), y


KINDS: dict[str, Any] = {
    "regression": (
        lambda **options: sf.LinearRegression(loss=sf.losses.HalfSquared(), **options),
        lambda **options: linear_model.SGDRegressor(loss="squared_error", **options),
        diabetes,
    ),
    "classification": (
        lambda **options: sf.LogisticRegression(loss=sf.losses.Log(), **options),
        lambda **options: linear_model.SGDClassifier(loss="log_loss", **options),
        breast_cancer,
    ),
}
PLAIN = {"shuffle": False, "learning_rate": "constant", "tol": None}


def assert_equal(ours: np.ndarray, theirs: Any) -> None:
    b = np.array([*np.ravel(theirs.intercept_), *np.ravel(theirs.coef_)])
    np.testing.assert_allclose(ours, b, rtol=0, atol=RELATIVE * np.abs(b).max())


def parameters(model: Any) -> np.ndarray:
    return np.array([model.intercept, *model.weights.values()])


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("l2", [0.0, 0.01])
@pytest.mark.parametrize("kind", KINDS)
def test_stochastic_gradient_descent(
    kind: str, l2: float, epochs: int, fit_intercept: bool
) -> None:
    ours, theirs, data = KINDS[kind]
    X, y = data()
    penalty = {"penalty": "l2", "alpha": l2} if l2 else {"penalty": None}
    sgd = theirs(eta0=0.001, max_iter=epochs, fit_intercept=fit_intercept, **penalty, **PLAIN)
    sgd.fit(X, y)
    model = ours(optimizer=sf.optim.SGD(0.001), l2=l2, fit_intercept=fit_intercept)
    for kernel in ("numpy", "compiled"):
        assert_equal(fit_offline(model, X, y, epochs=epochs, kernel=kernel).parameters, sgd)
    for _ in range(epochs):
        for row, label in zip(X, y.tolist(), strict=True):
            model.learn_one(row, label)
    assert_equal(parameters(model), sgd)


LOSSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "HalfSquared": (sf.losses.HalfSquared(), {"loss": "squared_error"}),
    "Huber": (sf.losses.Huber(0.3), {"loss": "huber", "epsilon": 0.3}),
    "EpsilonInsensitive": (
        sf.losses.EpsilonInsensitive(0.2),
        {"loss": "epsilon_insensitive", "epsilon": 0.2},
    ),
    "Log": (sf.losses.Log(), {"loss": "log_loss"}),
    "Hinge": (sf.losses.Hinge(), {"loss": "hinge"}),
    "perceptron": (sf.losses.Hinge(threshold=0.0), {"loss": "perceptron"}),
    "SquaredHinge": (sf.losses.SquaredHinge(), {"loss": "squared_hinge"}),
    "ModifiedHuber": (sf.losses.ModifiedHuber(), {"loss": "modified_huber"}),
}
LR, ALPHA = 0.00123457, 0.0123457
# scikit-learn's `optimal` derives its t0 from the loss, by this heuristic of Bottou's
TYPICAL = np.sqrt(1.0 / np.sqrt(ALPHA))
SCHEDULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "constant": (lambda loss: LR, {"learning_rate": "constant", "eta0": LR}),
    "invscaling": (
        lambda loss: sf.schedules.InverseScaling(LR, 0.25),
        {"learning_rate": "invscaling", "eta0": LR, "power_t": 0.25},
    ),
    "optimal": (
        lambda loss: sf.schedules.Optimal(
            ALPHA, max(1.0, loss.gradient(-TYPICAL, 1.0)) / (TYPICAL * ALPHA)
        ),
        {"learning_rate": "optimal"},
    ),
}
PENALTIES: dict[str, tuple[dict[str, float], dict[str, Any]]] = {
    "none": ({}, {"penalty": None}),
    "l2": ({"l2": ALPHA}, {"penalty": "l2"}),
    "l1": ({"l1": ALPHA}, {"penalty": "l1"}),
    "elasticnet": (
        {"l1": ALPHA * 0.25, "l2": ALPHA * 0.75},
        {"penalty": "elasticnet", "l1_ratio": 0.25},
    ),
}


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_schedule_and_penalty(loss: str, schedule: str, penalty: str) -> None:
    our_loss, their_loss = LOSSES[loss]
    rate, their_rate = SCHEDULES[schedule]
    our_penalty, their_penalty = PENALTIES[penalty]
    binary = isinstance(our_loss, sf.LogisticRegression._losses)
    X, y = breast_cancer() if binary else diabetes()
    if schedule == "optimal":  # its first rate is 3, at which larger numbers diverge
        X = 0.1 * X
    kind = linear_model.SGDClassifier if binary else linear_model.SGDRegressor
    options = {"shuffle": False, "tol": None, "max_iter": 2, "alpha": ALPHA}
    sgd = kind(**their_loss, **their_rate, **their_penalty, **options).fit(X, y)
    model = (sf.LogisticRegression if binary else sf.LinearRegression)(
        sf.optim.SGD(rate(our_loss)), our_loss, **our_penalty
    )
    for kernel in ("numpy", "compiled"):
        fit = fit_offline(model, X, y, epochs=2, kernel=kernel)
        assert fit.n_updates == sgd.t_ - 1 == 2 * len(y)
        assert_equal(fit.parameters, sgd)
    if "l1" in our_penalty and schedule == "constant":
        assert (fit.parameters == 0).sum() == (sgd.coef_ == 0).sum()


def test_a_large_l2_turns_weights_round_here_and_stops_at_0_there() -> None:
    """scikit-learn multiplies the weights by max(0, 1 - lr alpha), we by 1 - lr l2."""
    X, y = np.array([[1.0], [0.0]]), np.array([1.0, 0.0])
    options = {"alpha": 3.0, "penalty": "l2", "fit_intercept": False, "max_iter": 1}
    sgd = linear_model.SGDRegressor(eta0=1.0, **options, **PLAIN).fit(X, y)
    model = sf.LinearRegression(
        sf.optim.SGD(1.0), sf.losses.HalfSquared(), l2=3.0, fit_intercept=False
    )
    assert sgd.coef_[0] == 0.0  # 1, then 1 * max(0, 1 - 3)
    assert fit_offline(model, X, y).parameters[1] == -2.0  # 1, then 1 * (1 - 3)


@pytest.mark.filterwarnings("ignore::streamfit.errors.UpdateRefusedWarning")
def test_slopes_are_bounded_at_1e12_there() -> None:
    X, y = np.array([[1.0]]), np.array([1e13])
    options = {"penalty": None, "fit_intercept": False, "max_iter": 1}
    sgd = linear_model.SGDRegressor(eta0=1.0, **options, **PLAIN).fit(X, y)
    half = {"loss": sf.losses.HalfSquared(), "fit_intercept": False}
    free = sf.LinearRegression(sf.optim.SGD(1.0), **half)
    clipped = sf.LinearRegression(sf.optim.SGD(1.0), clip_gradient=1e12, **half)
    assert sgd.coef_[0] == fit_offline(clipped, X, y).parameters[1] == 1e12
    assert fit_offline(free, X, y).parameters[1] == 1e13


@pytest.mark.parametrize("kind", KINDS)
def test_weighted_samples_in_blocks(kind: str) -> None:
    ours, theirs, data = KINDS[kind]
    X, y = data()
    w = np.random.default_rng(0).uniform(0, 2, size=len(y))
    sgd = theirs(eta0=0.001, penalty=None, **PLAIN)
    model = ours(optimizer=sf.optim.SGD(0.001), reduction="sum")
    for start in range(0, len(y), 50):
        part = slice(start, start + 50)
        classes = {"classes": [0, 1]} if kind == "classification" else {}
        sgd.partial_fit(X[part], y[part], sample_weight=w[part], **classes)
    for start in range(0, len(y), 33):
        part = slice(start, start + 33)
        model.learn_many(X[part], y[part], w[part])
    assert_equal(parameters(model), sgd)


def test_full_batch_descent_arrives_at_least_squares() -> None:
    X, y = diabetes()
    model = sf.LinearRegression(sf.optim.SGD(0.2), loss=sf.losses.HalfSquared(), batch_size=None)
    fit = fit_offline(model, X, y, epochs=20_000, kernel="compiled")
    assert fit.n_updates == 20_000
    exact = linear_model.LinearRegression().fit(X, y)
    assert_close_to_optimum(fit.parameters, exact, 1e-9)


def test_full_batch_descent_arrives_at_the_logistic_optimum() -> None:
    X, y = breast_cancer()
    model = sf.LogisticRegression(sf.optim.SGD(0.5), batch_size=None, l2=0.01)
    fit = fit_offline(model, X, y, epochs=20_000, kernel="compiled")
    # its C multiplies the sum of the losses, our l2 is beside their mean
    exact = linear_model.LogisticRegression(C=1 / (0.01 * len(y)), tol=1e-10, max_iter=10_000)
    assert_close_to_optimum(fit.parameters, exact.fit(X, y), 1e-5)


def assert_close_to_optimum(ours: np.ndarray, theirs: Any, relative: float) -> None:
    b = np.array([*np.ravel(theirs.intercept_), *np.ravel(theirs.coef_)])
    np.testing.assert_allclose(ours, b, rtol=0, atol=relative * np.abs(b).max())


# ---- float32


@pytest.mark.parametrize("schedule", ["constant", "invscaling"])
@pytest.mark.parametrize("loss", ["HalfSquared", "Huber", "Log", "SquaredHinge"])
def test_float32(loss: str, schedule: str) -> None:
    """scikit-learn's coefficients are float32 when its data are; its intercept never is."""
    our_loss, their_loss = LOSSES[loss]
    rate, their_rate = SCHEDULES[schedule]
    binary = isinstance(our_loss, sf.LogisticRegression._losses)
    X, y = breast_cancer() if binary else diabetes()
    X = X.astype(np.float32)
    kind = linear_model.SGDClassifier if binary else linear_model.SGDRegressor
    options = {"shuffle": False, "tol": None, "max_iter": 2, "penalty": None}
    sgd = kind(**their_loss, **their_rate, **options).fit(X, y if binary else y.astype(np.float32))
    assert sgd.coef_.dtype == np.float32
    model = (sf.LogisticRegression if binary else sf.LinearRegression)(
        sf.optim.SGD(rate(our_loss)), our_loss, dtype="float32"
    )
    theirs = np.array([*np.ravel(sgd.intercept_), *np.ravel(sgd.coef_)])
    for kernel in ("numpy", "compiled"):
        ours = fit_offline(model, X, y, epochs=2, kernel=kernel).parameters
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())
