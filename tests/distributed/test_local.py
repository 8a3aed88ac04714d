"""`mode="local"`: rounds of shares equal what offline says they are, whoever computes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamfit as sf
from streamfit.core.features import FeatureIndex
from streamfit.core.learner import LinearLearner
from streamfit.distributed import RayTrainer, ShareTrainer
from streamfit.errors import BadSampleError
from streamfit.offline import fit_local_sgd
from streamfit.testing.sources import SplitSource
from streamfit.testing.strategies import (
    OPTIMIZERS,
    Samples,
    cuts,
    fresh,
    learning_rates,
    problems,
)

pytestmark = pytest.mark.filterwarnings("ignore::streamfit.errors.UpdateRefusedWarning")


def last_batches() -> st.SearchStrategy[str]:
    return st.sampled_from(["apply", "scale", "drop"])


def shards_of(draw: st.DataObject, data: Samples) -> tuple[list[Any], list[Any]]:
    """Cut samples into shards: as arrays, and as sources that arrive in any blocks."""
    arrays, sources = [], []
    for start, stop in draw.draw(cuts(len(data))):
        part = (data.X[start:stop], data.y[start:stop], data.weights[start:stop])
        arrays.append(part)
        if draw.draw(st.booleans()):
            sources.append(sf.ArraySource(*part, features=data.names))
        else:
            places = sorted(draw.draw(st.lists(st.integers(0, stop - start), max_size=3)))
            sources.append(SplitSource(*part, cuts=places, features=data.names))
    return arrays, sources


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@settings(max_examples=10)
@given(st.data(), st.integers(1, 5), st.integers(1, 2), last_batches())
def test_rounds_are_local_sgd(
    optimizer: str, draw: st.DataObject, sync_every: int, epochs: int, last_batch: str
) -> None:
    strategy = OPTIMIZERS[optimizer](learning_rates())
    model, data = draw.draw(problems(optimizer=strategy, max_size=60))
    arrays, sources = shards_of(draw, data)
    options: dict[str, Any] = {"epochs": epochs, "last_batch": last_batch}
    trained = fresh(model)
    report = ShareTrainer(
        *(trained, sources),
        workers=draw.draw(st.integers(1, len(sources))),
        shares=len(sources),
        mode="local",
        sync_every=sync_every,
        **options,
    ).run()
    real = fit_local_sgd(model, arrays, sync_every=sync_every, kernel="compiled", **options)
    assert report.digest == real.digest
    assert (report.n_updates, report.n_refused) == (real.n_updates, real.n_refused)


@settings(max_examples=30)
@given(st.data(), st.integers(1, 4), st.integers(1, 7), last_batches())
def test_one_share_is_a_plain_trainer(
    draw: st.DataObject, epochs: int, sync_every: int, last_batch: str
) -> None:
    model, data = draw.draw(problems())
    options: dict[str, Any] = {"epochs": epochs, "last_batch": last_batch}

    def source() -> sf.ArraySource:
        return sf.ArraySource(data.X, data.y, data.w, features=data.names)

    plain = sf.Trainer(fresh(model), source(), **options).run()
    shared = ShareTrainer(
        fresh(model), source(), workers=1, mode="local", sync_every=sync_every, **options
    ).run()
    assert shared.digest == plain.digest
    assert shared.n_samples == plain.n_samples
    np.testing.assert_allclose(shared.progressive_loss, plain.progressive_loss, rtol=1e-9)


def rows(n: int, seed: int = 0) -> tuple[Any, Any]:
    X = np.random.default_rng(seed).normal(size=(n, 5))
    return X, X @ np.arange(5.0) > 0.3


@given(st.integers(1, 200), st.integers(1, 5), st.integers(1, 9))
def test_max_samples_are_learned_exactly(max_samples: int, shares: int, batch_size: int) -> None:
    model = sf.LogisticRegression(batch_size=batch_size)
    report = ShareTrainer(
        *(model, sf.ArraySource(*rows(150))),
        workers=shares,
        mode="local",
        sync_every=3,
        max_samples=max_samples,
    ).run()
    assert report.n_samples == min(max_samples, 150)
    assert report.n_pending == 0
    assert sum(report.position.values()) == report.n_samples


def test_bad_samples_are_passed_in_the_order_of_shares() -> None:
    X, y = rows(100)
    X[[7, 70]] = np.nan
    told: list[str] = []
    model = sf.LogisticRegression(batch_size=4)
    report = ShareTrainer(
        *(model, sf.ArraySource(X, y)),
        workers=2,
        mode="local",
        sync_every=2,
        on_bad_sample="skip",
        callbacks=[lambda progress: told.append(str(progress.position))],
    ).run()
    assert (report.n_samples, report.n_bad) == (98, 2)
    assert report.position == {"samples:0": 50, "samples:1": 50}
    assert len(told) > 3
    with pytest.raises(BadSampleError, match="offset 20"):
        ShareTrainer(
            *(sf.LogisticRegression(), sf.ArraySource(X[50:], y[50:])),
            workers=1,
            mode="local",
            sync_every=2,
        ).run()


@pytest.mark.parametrize("kind", ["logistic", "softmax"])
def test_metrics_see_every_sample(kind: str) -> None:
    from river import metrics

    X, y = rows(300)
    labels: Any = y if kind == "logistic" else np.where(y, "up", "down")
    model: LinearLearner = (
        sf.LogisticRegression(batch_size=4) if kind == "logistic" else sf.SoftmaxRegression()
    )
    told: list[Any] = []

    class Recorded(metrics.Accuracy):
        def update(self, y_true: Any, y_pred: Any, w: float = 1.0) -> None:
            told.append(y_true)
            super().update(y_true, y_pred, w)

    report = ShareTrainer(
        *(model, sf.ArraySource(X, labels)),
        workers=3,
        mode="local",
        sync_every=100,
        metrics=[Recorded()],
    ).run()
    unknown = 0 if kind == "logistic" else 3  # a copy's first sample, before any class
    assert len(told) == 300 - unknown
    assert report.metrics["Recorded"].get() > 0.7


def test_features_grow_in_the_order_of_shares() -> None:
    sources = [SplitSource([{"a": 1.0, name: 2.0}] * 6, [1.0] * 6) for name in ("c", "b", "d")]
    model = sf.LinearRegression(sf.optim.SGD(0.1), features=FeatureIndex(["z"]))
    ShareTrainer(model, sources, workers=3, mode="local", sync_every=2).run()
    assert list(model.weights) == ["z", "a", "c", "b", "d"]


# ---- on Ray


def test_actors_compute_the_same(ray: Any) -> None:
    X, y = rows(5000)

    def train(kind: type[ShareTrainer], workers: int) -> sf.TrainingReport:
        model = sf.LogisticRegression(sf.optim.Adam(0.01), batch_size=7, scaler=sf.StandardScaler())
        return kind(
            *(model, sf.ArraySource(X, y)), workers=workers, shares=3, mode="local", sync_every=50
        ).run()

    here = train(ShareTrainer, 3)
    for workers in (1, 2):
        there = train(RayTrainer, workers)
        assert there.digest == here.digest
        assert there.progressive_loss == here.progressive_loss
        assert there.position == here.position
