"""Faults 43 to 45: numbers that explode or stand still change no weight, and never in silence."""

from __future__ import annotations

import logging
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamfit as sf
from streamfit.errors import BadSampleError, UpdateRefusedWarning

OPTIMIZERS = [
    sf.optim.SGD(0.1),
    sf.optim.SGD(0.1, momentum=0.9),
    sf.optim.Adam(0.1),
    sf.optim.AdaGrad(0.1),
    sf.optim.RMSProp(0.1),
    sf.optim.FTRLProximal(0.1),
    sf.optim.Auto(scale=False),  # to a scaler 1e300 is a bad sample
]


def samples(n: int) -> list[Any]:
    return [({"a": math.sin(i), "b": i % 3 / 3}, float(i % 5)) for i in range(n)]


def train(model: Any, stream: list[Any], **options: Any) -> sf.TrainingReport:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UpdateRefusedWarning)
        return sf.Trainer(model, stream, **options).run()


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_feature_1e300(
    optimizer: sf.optim.Optimizer,
    batch_size: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """43: the update is refused whole; the rest of the stream goes on as without the micro-batch.

    1e300 is a finite number, so it is no bad sample; what it does to the weights would not be.
    """

    def model() -> Any:
        return sf.LinearRegression(optimizer, batch_size=batch_size)

    stream = samples(40)
    stream[20] = ({"a": 1e300, "b": -1e300}, 1e300)
    exploded = model()
    with caplog.at_level(logging.WARNING, "streamfit"):
        report = train(exploded, stream, checkpoint=sf.Checkpointer(tmp_path))
    batch = range(20 // batch_size * batch_size, 20 // batch_size * batch_size + batch_size)
    without = model()
    for i, (x, y) in enumerate(stream):
        if i not in batch:
            without.learn_one(x, y)
    without.flush()
    assert all(map(math.isfinite, exploded.weights.values()))
    if report.n_refused:  # a bounded step (Adam, AdaGrad) may take it in its stride
        assert report.n_refused == 1
        assert report.n_samples == 40
        assert exploded.weights == without.weights
        lines = [r.getMessage() for r in caplog.records]
        assert [line for line in lines if line.startswith("event=update_refused n=1 total=1")]
        assert "offset=" in caplog.text
    else:
        assert not isinstance(optimizer, sf.optim.SGD)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UpdateRefusedWarning)
        assert sf.journal.verify(tmp_path, stream).equal


@pytest.mark.parametrize("max_weight", [None, 10.0])
@pytest.mark.parametrize("learning_rate", [1e3, 1e150, 1e308])
def test_exploding_learning_rate(
    learning_rate: float, max_weight: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    """44: whatever the rate, every weight stays finite (and within `max_weight`, if asked)."""
    model = sf.LinearRegression(sf.optim.SGD(learning_rate), max_weight=max_weight)
    with caplog.at_level(logging.WARNING, "streamfit"):
        report = train(model, samples(5000))
    weights = np.array([*model.weights.values(), model.intercept])
    assert np.isfinite(weights).all()
    assert max_weight is None or np.abs(weights).max() <= max_weight
    assert report.n_refused > 0
    assert report.n_updates + report.n_refused == 5000
    lines = [r for r in caplog.records if "event=update_refused" in r.getMessage()]
    assert 1 <= len(lines) <= 3  # summed up, not one a sample
    assert f"total={report.n_refused}" in lines[-1].getMessage()


def test_unseen_feature_counts_nothing_until_it_is_learned() -> None:
    """45: a feature that was never seen neither predicts nor breaks anything."""
    model = sf.LinearRegression(sf.optim.Adam(0.1))
    train(model, samples(50))
    known = model.predict_one({"a": 0.5, "b": 0.5})
    assert model.predict_one({"a": 0.5, "b": 0.5, "never": 1e300}) == known
    model.learn_one({"a": 0.5, "never": 1.0}, 1.0)
    assert all(map(math.isfinite, model.weights.values()))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_scaler_zero_variance(dtype: str) -> None:
    """A feature that never changes is 0 when scaled, and what overflows a variance is refused."""
    model = sf.LogisticRegression(sf.optim.SGD(0.1), scaler=sf.StandardScaler(), dtype=dtype)
    for i in range(50):
        model.learn_one({"constant": 1e6, "zero": 0.0, "moving": float(i % 3)}, i % 2 == 0)
    assert model.weights["constant"] == model.weights["zero"] == 0.0
    assert model.weights["moving"] != 0.0
    assert all(np.isfinite(p) for p in model.predict_proba_one({"constant": 1e30}).values())
    before = model.digest()
    with pytest.raises(BadSampleError):
        model.learn_one({"constant": 1e300, "moving": 1.0}, True)
    assert model.digest() == before
