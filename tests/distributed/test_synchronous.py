"""`mode="synchronous"`: micro-batches in shares equal what one process learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamfit as sf
from streamfit.core.learner import LinearLearner
from streamfit.distributed import RayTrainer, ShareTrainer
from streamfit.errors import ConfigurationError
from streamfit.offline import fit_offline
from streamfit.testing.conformance import assert_close, closeness, step_size
from streamfit.testing.sources import PartitionedSource, SplitSource
from streamfit.testing.strategies import OPTIMIZERS, Samples, fresh, learning_rates, problems

pytestmark = pytest.mark.filterwarnings("ignore::streamfit.errors.UpdateRefusedWarning")

SEPARABLE = [name for name in OPTIMIZERS if name != "auto"]


def last_batches() -> st.SearchStrategy[str]:
    return st.sampled_from(["apply", "scale", "drop"])


@st.composite
def separable(draw: st.DrawFn, optimizer: str, **options: Any) -> tuple[LinearLearner, Samples]:
    """Draw a problem whose micro-batches can be summed apart."""
    strategy = OPTIMIZERS[optimizer](learning_rates())
    model, data = draw(problems(optimizer=strategy, **options))
    changes: dict[str, Any] = {"scaler": None, "noise_scale": None}
    if not isinstance(model.batch_size, int | None):
        config = model.batch_size.get_config()
        changes["batch_size"] = 3 if config["id"] == "noise_scale" else config
    if isinstance(model, sf.SoftmaxRegression):
        changes["classes"] = sorted(set(data.y.tolist())) or ["a"]
    return type(model).from_config({**model.get_config(), **changes}), data


@pytest.mark.parametrize("optimizer", SEPARABLE)
@settings(max_examples=12)
@given(st.data(), st.integers(1, 3), st.integers(1, 2), last_batches())
def test_shares_equal_one_process(
    optimizer: str, draw: st.DataObject, shares: int, epochs: int, last_batch: str
) -> None:
    model, data = draw.draw(separable(optimizer, max_size=60))
    options: dict[str, Any] = {"epochs": epochs, "last_batch": last_batch}
    report = ShareTrainer(
        *(fresh(model), sf.ArraySource(data.X, data.y, data.w, features=data.names)),
        workers=draw.draw(st.integers(1, shares)),
        shares=shares,
        **options,
    ).run()
    told: dict[str, Any] = {**options, "sample_weight": data.w}
    compiled = fit_offline(model, data.X, data.y, kernel="compiled", shares=shares, **told)
    assert report.digest == compiled.digest
    textbook = fit_offline(model, data.X, data.y, **told)
    assert (report.n_updates, report.n_refused) == (textbook.n_updates, textbook.n_refused)
    assert_close(textbook.parameters, compiled.parameters, step_size(model), closeness(model))
    if shares == 1:
        plain = sf.Trainer(
            fresh(model), sf.ArraySource(data.X, data.y, data.w, features=data.names), **options
        ).run()
        assert report.digest == plain.digest


@settings(max_examples=40)
@given(st.data(), st.sampled_from(SEPARABLE), st.integers(1, 4))
def test_features_come_in_the_order_of_the_samples(
    draw: st.DataObject, optimizer: str, shares: int
) -> None:
    model, data = draw.draw(separable(optimizer, known=False, max_size=40))
    rows = data.rows()
    plain, shared = fresh(model), fresh(model)
    sf.Trainer(plain, SplitSource(rows, data.y, data.w)).run()
    fit = fit_offline(
        *(shared, rows, data.y), sample_weight=data.w, kernel="compiled", shares=shares
    )
    assert fit.n_updates == plain.n_updates
    values: Any = plain._values()
    assert_close(fit.parameters, values, step_size(model), closeness(model))


@given(st.data(), st.integers(1, 3), st.integers(1, 9))
def test_bad_samples_give_their_place_to_those_that_follow(
    draw: st.DataObject, shares: int, batch_size: int
) -> None:
    n = draw.draw(st.integers(1, 50))
    X = np.random.default_rng(0).normal(size=(n, 3))
    y = X[:, 0] > 0
    bad = sorted(draw.draw(st.sets(st.integers(0, n - 1))))
    spoiled = X.copy()
    spoiled[bad] = np.inf

    def model() -> sf.LogisticRegression:
        return sf.LogisticRegression(sf.optim.SGD(0.5), batch_size=batch_size)

    plain = sf.Trainer(model(), sf.ArraySource(spoiled, y), on_bad_sample="skip").run()
    shared = model()
    report = ShareTrainer(
        *(shared, sf.ArraySource(spoiled, y)), workers=shares, on_bad_sample="skip"
    ).run()
    counts = ("n_samples", "n_updates", "n_bad", "position")
    assert [getattr(report, c) for c in counts] == [getattr(plain, c) for c in counts]
    good = np.setdiff1d(np.arange(n), bad)
    textbook = fit_offline(model(), X[good].reshape(-1, 3), y[good])
    if len(good):
        np.testing.assert_allclose(textbook.parameters, shared._values(), rtol=1e-9, atol=1e-12)


def rows(n: int, seed: int = 0) -> tuple[Any, Any]:
    X = np.random.default_rng(seed).normal(size=(n, 5))
    return X, X @ np.arange(5.0) > 0.3


@given(st.integers(0, 90), st.integers(1, 4), st.sampled_from([1, 4, 7, None]))
def test_max_samples_are_learned_exactly(
    max_samples: int, shares: int, batch_size: int | None
) -> None:
    def model() -> sf.LogisticRegression:
        return sf.LogisticRegression(batch_size=batch_size)

    source = sf.ArraySource(*rows(80))
    report = ShareTrainer(model(), source, workers=shares, max_samples=max_samples).run()
    plain = sf.Trainer(model(), sf.ArraySource(*rows(80)), max_samples=max_samples).run()
    assert (report.n_samples, report.n_updates) == (plain.n_samples, plain.n_updates)
    assert report.position == plain.position


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(1, 3), st.integers(1, 9))
def test_partitions_of_any_length_are_learned_whole(
    lengths: list[int], shares: int, batch_size: int
) -> None:
    sources = [sf.ArraySource(*rows(n, seed=i)) for i, n in enumerate(lengths)]
    report = ShareTrainer(
        sf.LogisticRegression(batch_size=batch_size), sources, workers=shares, epochs=2
    ).run()
    assert report.n_samples == 2 * sum(lengths)
    assert report.n_updates == 2 * -(-sum(lengths) // batch_size)
    assert list(report.position.values()) == lengths


@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 20))
def test_partitions_take_turns_however_small_the_batches(
    shares: int, batch_size: int, n_batches: int
) -> None:
    sources = [sf.ArraySource(*rows(200, seed=i)) for i in range(shares)]
    model = sf.LogisticRegression(batch_size=batch_size)
    n = n_batches * batch_size
    report = ShareTrainer(model, sources, workers=shares, max_samples=n).run()
    assert report.n_samples == n
    read = report.position.values()
    assert max(read) - min(read) <= batch_size


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (sf.LogisticRegression(scaler=sf.StandardScaler()), "a scaler"),
        (sf.LogisticRegression(batch_size=9, noise_scale=True), "noise_scale"),
        (sf.LogisticRegression(sf.optim.Auto(scale=False)), "Auto"),
        (sf.SoftmaxRegression(), "classes"),
    ],
)
def test_what_is_sequential_by_definition_is_refused(model: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=f'{why}.*mode="local"'):
        ShareTrainer(model, sf.ArraySource(*rows(10)), workers=2)
    assert (
        ShareTrainer(model, sf.ArraySource(*rows(10)), workers=2, mode="local", sync_every=2)
        .run()
        .n_samples
    )


def test_sources_that_cannot_be_split_are_refused() -> None:
    for source in ("a.csv", PartitionedSource([[]]), sf.IterableSource([])):
        with pytest.raises(ConfigurationError, match="cannot be split among workers"):
            ShareTrainer(sf.LogisticRegression(), source, workers=2)


def test_actors_compute_the_same(ray: Any) -> None:
    X, y = rows(3000)
    X[77] = np.nan
    options: dict[str, Any] = {"shares": 3, "epochs": 2, "on_bad_sample": "skip"}

    def train(kind: type[ShareTrainer], workers: int) -> sf.TrainingReport:
        model = sf.LogisticRegression(sf.optim.Adam(0.01), batch_size=100, l2=0.01)
        return kind(model, sf.ArraySource(X, y), workers=workers, **options).run()

    here = train(ShareTrainer, 3)
    for workers in (1, 2):
        there = train(RayTrainer, workers)
        assert there.digest == here.digest
        assert there.progressive_loss == here.progressive_loss
        assert there.position == here.position
