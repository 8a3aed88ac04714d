"""Local SGD offline: what averaging means, by identities and against real learners."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import streamfit as sf
from streamfit.core.averaging import average_states
from streamfit.core.learner import LinearLearner
from streamfit.errors import BadSampleError, ConfigurationError, UnsupportedError
from streamfit.offline import fit_local_sgd, fit_offline
from streamfit.testing.conformance import assert_close, closeness, step_size
from streamfit.testing.strategies import (
    OPTIMIZERS,
    Samples,
    batch_sizes,
    cuts,
    feed,
    fresh,
    last_batches,
    learning_rates,
    problems,
)

pytestmark = pytest.mark.filterwarnings("ignore::streamfit.errors.UpdateRefusedWarning")


def changed(model: LinearLearner, **changes: Any) -> LinearLearner:
    return type(model).from_config({**model.get_config(), **changes})


def shards_of(draw: st.DataObject, data: Samples, rows: str = "arrays") -> list[Any]:
    """Cut samples into shards, some of them empty."""
    X = data.X if rows == "arrays" else data.rows()
    return [
        (X[start:stop], data.y[start:stop], data.weights[start:stop])
        for start, stop in draw.draw(cuts(len(data)))
    ]


# ---- the two ways to compute it


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@given(st.data(), st.integers(1, 5), st.integers(1, 2), last_batches())
def test_real_learners_equal_the_textbook(
    optimizer: str, draw: st.DataObject, sync_every: int, epochs: int, last_batch: str
) -> None:
    strategy = OPTIMIZERS[optimizer](learning_rates())
    model, data = draw.draw(problems(optimizer=strategy, max_size=60))
    model = changed(model, batch_size=_batch_size(draw))
    shards = shards_of(draw, data)
    options = {"sync_every": sync_every, "epochs": epochs, "last_batch": last_batch}
    textbook = fit_local_sgd(model, shards, **options)
    real = fit_local_sgd(model, shards, kernel="compiled", **options)
    counts = ("n_rounds", "n_updates", "n_refused", "n_pending")
    assert [getattr(textbook, n) for n in counts] == [getattr(real, n) for n in counts]
    assert_close(textbook.parameters, real.parameters, step_size(model), closeness(model))
    assert fit_local_sgd(model, shards, kernel="compiled", **options).digest == real.digest


def _batch_size(draw: st.DataObject) -> Any:
    size = draw.draw(batch_sizes())
    return size if size is None or isinstance(size, int) else size.get_config()


@given(st.data(), st.integers(1, 4))
def test_features_and_classes_are_united_by_name(draw: st.DataObject, sync_every: int) -> None:
    model, data = draw.draw(problems(known=False, max_size=60))
    shards = shards_of(draw, data, "mappings")
    textbook = fit_local_sgd(model, shards, sync_every=sync_every)
    real = fit_local_sgd(model, shards, sync_every=sync_every, kernel="compiled")
    assert_close(textbook.parameters, real.parameters, step_size(model), closeness(model))
    names = {name for x, _, _ in shards for row in x for name in row}
    for fit in (textbook, real):
        every: Any = fit.weights if textbook.parameters.ndim > 1 else {"": fit.weights}
        assert all(set(weights) == names for weights in every.values())


# ---- identities


@pytest.mark.parametrize("kernel", ["numpy", "compiled"])
@given(st.data(), st.integers(1, 5), st.integers(1, 2), last_batches())
def test_one_shard_is_fit_offline(
    kernel: str, draw: st.DataObject, sync_every: int, epochs: int, last_batch: str
) -> None:
    model, data = draw.draw(problems())
    options: dict[str, Any] = {"epochs": epochs, "last_batch": last_batch, "kernel": kernel}
    local = fit_local_sgd(model, [(data.X, data.y, data.w)], sync_every=sync_every, **options)
    alone = fit_offline(model, data.X, data.y, sample_weight=data.w, **options)
    counts = ("n_updates", "n_refused", "n_pending")
    assert [getattr(local, n) for n in counts] == [getattr(alone, n) for n in counts]
    assert_close(local.parameters, alone.parameters, step_size(model), closeness(model))
    if not alone.n_pending:  # local SGD does not take in what is left over
        assert local.digest == alone.digest


@pytest.mark.parametrize("kernel", ["numpy", "compiled"])
@given(st.data(), st.integers(1, 4), st.sampled_from([1, 2, 5]), st.integers(1, 6))
def test_an_update_a_round_is_a_mini_batch_of_all_copies(
    kernel: str, draw: st.DataObject, n_shards: int, batch_size: int, n_rounds: int
) -> None:
    n = n_shards * batch_size * n_rounds
    sgd = st.builds(sf.optim.SGD, learning_rates())
    model, data = draw.draw(problems((batch_size,), sgd, min_size=n, max_size=n, weighted=False))
    # no update is refused in one place and made in the other, and reductions divide alike
    model = changed(
        model, max_weight=None, reduction="mean", l1=0.0, scaler=None, noise_scale=None,
    )  # fmt: skip
    known = sorted(set(data.y.tolist())) if isinstance(model, sf.SoftmaxRegression) else None
    if known is not None:  # or a class would begin in one copy, and not yet in the others
        model = changed(model, classes=known)
    rows = np.arange(n).reshape(n_rounds, n_shards, batch_size)
    shards = [(data.X[r], data.y[r]) for r in (rows[:, s].ravel() for s in range(n_shards))]
    local = fit_local_sgd(model, shards, sync_every=1, kernel=kernel)
    large = changed(model, batch_size=n_shards * batch_size)
    whole = fit_offline(large, data.X, data.y, kernel=kernel)
    assert local.n_updates == whole.n_updates == n_rounds == local.n_rounds
    assert_close(local.parameters, whole.parameters, step_size(model), closeness(model))


@given(st.data(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_the_order_of_shards_matters_to_rounding_alone(
    draw: st.DataObject, sync_every: int, random: Any
) -> None:
    model, data = draw.draw(problems())
    if isinstance(model, sf.SoftmaxRegression):  # or classes would be numbered otherwise
        assume(len(data))
        model = changed(model, classes=sorted(set(data.y.tolist())))
    shards = shards_of(draw, data)
    lengths = [len(y) for _, y, _ in shards]
    # the copy with the most updates sets the schedules; equal ones may have met other refusals
    model = changed(model, max_weight=None)
    if model.noise_scale is not None and not isinstance(model.batch_size, int):
        model = changed(model, batch_size=3)
    other = list(range(len(shards)))
    random.shuffle(other)
    one = fit_local_sgd(model, shards, sync_every=sync_every)
    two = fit_local_sgd(model, [shards[s] for s in other], sync_every=sync_every)
    assert sorted(lengths) == sorted(len(shards[s][1]) for s in other)
    assert_close(one.parameters, two.parameters, step_size(model), closeness(model))


@given(st.data(), st.integers(1, 6))
def test_equal_shards_are_one(draw: st.DataObject, n_shards: int) -> None:
    """The weights of an average sum to 1: copies that learned the same average to themselves."""
    model, data = draw.draw(problems(weighted=False))
    model = changed(model, scaler=None)
    if model.scaler is not None:  # Auto's: a scaler of all copies has seen all samples twice
        model = changed(model, optimizer=sf.optim.Auto(scale=False).get_config(), scaler=None)
    shards = [(data.X, data.y)] * n_shards
    one = fit_local_sgd(model, shards[:1], sync_every=2)
    all_of_them = fit_local_sgd(model, shards, sync_every=2, kernel="compiled")
    assert all_of_them.n_updates == one.n_updates
    assert_close(one.parameters, all_of_them.parameters, step_size(model), closeness(model))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(1, 9), st.integers(1, 7))
def test_rounds_and_updates_are_arithmetic(
    lengths: list[int], batch_size: int, sync_every: int
) -> None:
    model = sf.LinearRegression(sf.optim.SGD(0.001), batch_size=batch_size)
    shards = [(np.ones((n, 2)), np.ones(n)) for n in lengths]
    updates = max(-(-n // batch_size) for n in lengths)
    for kernel in ("numpy", "compiled"):
        fit = fit_local_sgd(model, shards, sync_every=sync_every, kernel=kernel)
        assert fit.n_updates == updates
        assert fit.n_rounds == -(-updates // sync_every)


@given(st.data(), st.integers(1, 5))
def test_the_progressive_loss_is_that_of_a_trainer(draw: st.DataObject, sync_every: int) -> None:
    model, data = draw.draw(problems())
    fit = fit_local_sgd(model, [(data.X, data.y, data.w)], sync_every=sync_every, kernel="compiled")
    source = sf.ArraySource(data.X, data.y, data.w)
    report = sf.Trainer(fresh(model), source).run()
    assert fit.progressive_loss == pytest.approx(report.progressive_loss, rel=1e-9, nan_ok=True)
    assert fit_local_sgd(model, [(data.X, data.y)], sync_every=1).progressive_loss is None


# ---- the scaler


@given(st.data(), st.integers(1, 4), st.booleans())
def test_statistics_put_together_are_those_of_all_samples(
    draw: st.DataObject, n_learners: int, constant: bool
) -> None:
    rng = np.random.default_rng(draw.draw(st.integers(0, 2**32 - 1)))
    counts = draw.draw(st.lists(st.integers(0, 20), min_size=n_learners, max_size=n_learners))
    X = rng.normal(100.0, 1.0, size=(10 + sum(counts), 3))
    X[:, 1] = 0.1 if constant else X[:, 1]
    before = draw.draw(st.integers(0, 10))
    model = sf.LinearRegression(sf.optim.SGD(1e-6), scaler=sf.StandardScaler())
    model.learn_many(X[:before], X[:before, 0])
    start, states, at = model.state_dict(), [], before
    for n in counts:
        learner = fresh(model)
        learner.load_state_dict(start)
        learner.learn_many(X[at : at + n], X[at : at + n, 0])
        states.append(learner.state_dict())
        at += n
    state = average_states(model, start, states)
    model.load_state_dict(state)
    if before or sum(counts):
        assert state["n_scaled"] == at
        np.testing.assert_allclose(state["scaler_mean"][1:], X[:at].mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(
            state["scaler_var"][1:], X[:at].var(axis=0), rtol=1e-9, atol=1e-15
        )
        assert (state["scaler_var"][2] == 0.0) == (constant or at == 1)


# ---- refused


def test_what_is_refused() -> None:
    model = sf.LinearRegression()
    good = ([[1.0]], [1.0])
    with pytest.raises(ConfigurationError, match="at least one"):
        fit_local_sgd(model, [], sync_every=1)
    with pytest.raises(ConfigurationError, match=r"shards\[1\] must be"):
        fit_local_sgd(model, [good, 7], sync_every=1)
    with pytest.raises(ConfigurationError, match="sync_every"):
        fit_local_sgd(model, [good], sync_every=0)
    with pytest.raises(BadSampleError, match="partition 1, offset 2"):
        fit_local_sgd(model, [good, ([[1.0], [2.0], [np.nan]], [1.0, 2.0, 3.0])], sync_every=1)
    with pytest.raises(ConfigurationError, match="nothing to average"):
        average_states(model, model.state_dict(), [])


def test_a_pending_sample_is_not_averaged() -> None:
    model = sf.LinearRegression(batch_size=2)
    start = model.state_dict()
    model.learn_one([1.0], 1.0)
    with pytest.raises(UnsupportedError, match="flush"):
        average_states(model, start, [model.state_dict()])


def test_the_first_sample_of_all_sets_fixed_features() -> None:
    model = sf.LinearRegression(features="fixed")
    shards = [([{"a": 1.0, "b": 2.0}], [1.0]), ([{"b": 1.0}], [2.0])]
    fits = [fit_local_sgd(model, shards, sync_every=1, kernel=k) for k in ("numpy", "compiled")]
    assert list(fits[0].weights) == list(fits[1].weights) == ["a", "b"]
    with pytest.raises(BadSampleError, match="fixed"):
        fit_local_sgd(model, [*shards, ([{"c": 1.0}], [2.0])], sync_every=1)


def test_ftrl_stays_sparse_and_in_line_with_its_slots() -> None:
    """After an average the weights are what a dense step of no gradient would make of them."""
    optimizer = sf.optim.FTRLProximal(alpha=0.5, l1=0.3)
    model = sf.LogisticRegression(optimizer, features=sf.FeatureIndex(range(6)))
    rng = np.random.default_rng(0)
    start, states = model.state_dict(), []
    for _ in range(3):
        learner = fresh(model)
        X = rng.normal(size=(20, 6))
        feed(learner, Samples([*range(6)], X, X[:, 0] > 0, None), [("rows", 0, 20)])
        states.append(learner.state_dict())
    average = average_states(model, start, states)
    model.load_state_dict(average)
    model.learn_one(np.zeros(6), True)
    after = model.state_dict()
    assert after["parameters"][1:].tolist() == average["parameters"][1:].tolist()
    assert 0 < np.count_nonzero(average["parameters"][1:]) < 6
