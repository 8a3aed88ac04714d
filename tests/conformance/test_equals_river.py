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


OPTIMIZERS = {
    "SGD": (sf.optim.SGD(0.01), lambda: optim.SGD(0.01)),
    "momentum": (sf.optim.SGD(0.01, momentum=0.9), lambda: optim.Momentum(0.01, rho=0.9)),
    "AdaGrad": (sf.optim.AdaGrad(0.1), lambda: optim.AdaGrad(0.1)),
    "Adam": (sf.optim.Adam(0.01, eps=TINY), lambda: optim.Adam(0.01, eps=TINY)),
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
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "l2": {"l2": 0.01},
    "clip": {"clip_gradient": 0.3},
    "fixed intercept": {"intercept_lr": 0.0},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_sample_at_a_time(kind: str, optimizer: str, options: str) -> None:
    our_kind, their_kind, data = KINDS[kind]
    our_optimizer, their_optimizer = OPTIMIZERS[optimizer]
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
