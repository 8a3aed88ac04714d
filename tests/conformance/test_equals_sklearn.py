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
