"""The gradient noise scale: exact where it can be computed, and the same bits for any arrival."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamfit as sf
from streamfit.core.noise import NoiseMoments, estimates_of_parts
from streamfit.offline import fit_offline
from streamfit.testing.conformance import closeness
from streamfit.testing.strategies import arrivals, feed, fresh, last_batches, noise_scales, problems
from streamfit.types import FloatArray

pytestmark = pytest.mark.filterwarnings("ignore::streamfit.errors.UpdateRefusedWarning")

# every other property draws noise scales too
FEWER = settings(max_examples=1 + (settings.default or settings()).max_examples // 4)
STILL = sf.optim.SGD(1e-30)  # the weights stay where they are


def measured(n: int, d: int, batch_size: int, seed: int, decay: float) -> sf.GradientNoise:
    """Measure at rest, at weights 0, where the labels are x . w + noise of variance 1."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    y = X @ WEIGHTS[:d] + rng.normal(size=n)
    model = sf.LinearRegression(
        STILL, batch_size=batch_size, noise_scale=sf.NoiseScale(decay, every=1)
    )
    model.learn_many(X, y)
    return model.gradient_noise


WEIGHTS = np.array([0.5, -0.25, 0.1, 0.3])


def exact(d: int) -> tuple[float, float]:
    """Compute `|G|^2` and `tr(Sigma)` of that problem in closed form.

    With `x` standard normal, `e = y - 0` and the gradient `-2 e (x, 1)`: `G = -2 (w, 0)`, and
    `E |g|^2 = 4 E e^2 (|x|^2 + 1) = 4 (|w|^2 (d + 2 + 1) + (d + 1))`.
    """
    w2 = float((WEIGHTS[:d] ** 2).sum())
    return 4 * w2, 4 * (w2 * (d + 3) + d + 1) - 4 * w2


@pytest.mark.parametrize("batch_size", [2, 16])
def test_the_estimates_are_unbiased(batch_size: int) -> None:
    signal, noise = exact(4)
    runs = [measured(40 * batch_size, 4, batch_size, seed, 0.9) for seed in range(400)]
    for name, truth in (("signal", signal), ("noise", noise)):
        values = np.array([getattr(run, name) for run in runs])
        error = values.std(ddof=1) / math.sqrt(len(runs))
        assert abs(values.mean() - truth) < 4 * error
        assert error < 0.1 * truth  # or the test could not tell


def test_the_interval_holds_the_exact_scale_as_often_as_it_says() -> None:
    signal, noise = exact(4)
    runs = [measured(300 * 16, 4, 16, seed, 0.995) for seed in range(400)]
    inside = np.mean([run.low <= noise / signal <= run.high for run in runs])
    assert 0.92 <= inside <= 0.98  # 95%, give or take 3 errors of 400 runs
    assert np.median([run.high / run.low for run in runs]) < 2  # and it is no wide one


def test_the_interval_is_open_where_the_gradient_vanishes() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3200, 4))
    model = sf.LinearRegression(STILL, batch_size=16, noise_scale=sf.NoiseScale(0.99, every=1))
    model.learn_many(X, rng.normal(size=3200))  # labels that nothing explains: G is 0
    found = model.gradient_noise
    assert found.high == math.inf
    assert found.low > 16
    assert 16.0 < found.noise < 24.0  # 4 (d + 1) = 20


@pytest.mark.parametrize(("n", "parts"), [(2, 2), (5, 2), (16, 2), (17, 4)])
@pytest.mark.parametrize("weighted", [False, True])
def test_parts_tell_the_same_without_bias(n: int, parts: int, weighted: bool) -> None:
    """What learners take that see no gradients of single samples."""
    rng = np.random.default_rng(n)
    mean, spread = np.array([0.5, -0.25, 0.0]), np.array([1.0, 2.0, 0.5])
    w = rng.uniform(0.2, 2.0, n) if weighted else np.ones(n)
    weights = np.array_split(w, parts)
    found = []
    for _ in range(6000):
        g = np.array_split(mean + spread * rng.normal(size=(n, 3)), parts)
        means = [np.average(x, axis=0, weights=s) for x, s in zip(g, weights, strict=True)]
        found.append(estimates_of_parts(means, weights))
    for values, truth in zip(np.array(found).T, (mean @ mean, spread @ spread), strict=True):
        error = values.std(ddof=1) / math.sqrt(len(values))
        assert abs(values.mean() - truth) < 4 * error
        assert error < 0.2 * truth  # or the test could not tell


def test_parts_that_tell_nothing() -> None:
    one, two = np.ones(3), np.zeros(3)
    assert estimates_of_parts([one], [np.ones(8)]) is None
    assert estimates_of_parts([one, two], [np.ones(4), np.zeros(4)]) is None
    assert estimates_of_parts([one, two], [np.array([100.0]), np.array([1.0])]) is None


def test_a_finite_data_set_has_its_exact_covariance() -> None:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(5000, 5)) * [1.0, 2.0, 0.5, 1.0, 3.0]
    y = (X @ rng.normal(size=5) + rng.normal(size=5000) > 0).astype(float)
    model = sf.LogisticRegression(STILL, batch_size=50, noise_scale=sf.NoiseScale(0.999, every=1))
    g = (0.5 - y)[:, None] * np.column_stack([np.ones(5000), X])
    G = g.mean(axis=0)
    for _ in range(10):
        order = rng.permutation(5000)
        model.learn_many(X[order], y[order])
    found, scale = model.gradient_noise, g.var(axis=0).sum() / (G @ G)
    assert found.n == 1000
    assert found.low <= scale <= found.high
    assert found.high < 1.3 * found.low


@FEWER
@given(st.data(), noise_scales(), st.integers(1, 3), last_batches())
def test_it_is_the_textbook_s(
    draw: st.DataObject, noise: sf.NoiseScale, epochs: int, last_batch: str
) -> None:
    model, data = draw.draw(problems())
    model = type(model).from_config({**model.get_config(), "noise_scale": noise.get_config()})
    live = fresh(model)
    for _ in range(epochs):
        feed(live, data, draw.draw(arrivals(len(data))))
        live.flush(last_batch)
    fit = fit_offline(
        model, data.X, data.y, sample_weight=data.w, epochs=epochs, last_batch=last_batch
    )
    one, other = live.gradient_noise, fit.gradient_noise
    assert other is not None
    assert one.n == other.n
    if not one.n:
        return
    # what both are differences of: the mean square of the samples' gradients; 1 / (1 - q) is 10
    # at most
    size = 10 * (abs(other.signal) + abs(other.noise))
    assert abs(one.signal - other.signal) <= closeness(model) * size
    assert abs(one.noise - other.noise) <= closeness(model) * size


@FEWER
@given(st.data(), noise_scales())
def test_measuring_changes_nothing_else(draw: st.DataObject, noise: sf.NoiseScale) -> None:
    model, data = draw.draw(problems(sizes=(1, 2, 7, 32, None)))
    config = model.get_config()
    off = type(model).from_config({**config, "noise_scale": None})
    on = type(model).from_config({**config, "noise_scale": noise.get_config()})
    arrival = draw.draw(arrivals(len(data)))
    feed(off, data, arrival)
    feed(on, data, arrival)
    plain, more = off.state_dict(), on.state_dict()
    extra = {"noise", "n_measured", "noise_squares_pending", "noise_weight_pending"}
    assert set(more) - set(plain) == extra
    for name, value in plain.items():
        assert np.array_equal(value, more[name])
    assert off.gradient_noise is None


@FEWER
@given(st.data(), noise_scales(), st.integers(0, 80))
def test_it_goes_through_a_state(draw: st.DataObject, noise: sf.NoiseScale, cut: int) -> None:
    model, data = draw.draw(problems(sizes=(2, 7, 32, None)))
    model = type(model).from_config({**model.get_config(), "noise_scale": noise.get_config()})
    whole, first = fresh(model), fresh(model)
    cut = min(cut, len(data))
    feed(whole, data, [("rows", 0, len(data))])
    feed(first, data, [("rows", 0, cut)])
    for resumed in (copy.deepcopy(first), fresh(model)):
        resumed.load_state_dict(first.state_dict())
        feed(resumed, data, draw.draw(arrivals(len(data)))[:0] or [("dicts", cut, len(data))])
        assert resumed.digest() == whole.digest()
        assert repr(resumed.gradient_noise) == repr(whole.gradient_noise)


def test_one_sample_says_nothing_about_the_noise() -> None:
    model = sf.LinearRegression(batch_size=1, noise_scale=True)
    model.learn_many(np.ones((50, 2)), np.ones(50))
    assert model.gradient_noise.n == 0
    assert math.isnan(model.gradient_noise.scale)


@pytest.mark.parametrize("noise_scale", ["yes", 0.9, sf.NoiseScale])
def test_other_arguments_are_refused(noise_scale: object) -> None:
    with pytest.raises(sf.errors.ConfigurationError, match="noise_scale"):
        sf.LinearRegression(noise_scale=noise_scale)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"decay": 0.0}, {"decay": 1.0}, {"every": 0}])
def test_arguments_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(sf.errors.ConfigurationError):
        sf.NoiseScale(**options)  # type: ignore[arg-type]


def test_integers_of_numpy_become_plain_ones() -> None:
    """A configuration is written as JSON, into checkpoints too."""
    two, eight = np.int64(2), np.int32(8)
    following = sf.schedules.NoiseScaleBatchSize(two, eight, every=two)  # type: ignore[arg-type]
    noise = sf.NoiseScale(every=eight)  # type: ignore[arg-type]
    config = sf.LinearRegression(batch_size=following, noise_scale=noise).get_config()
    assert json.loads(json.dumps(config)) == config


def test_a_schedule_that_follows_the_noise_measures_it() -> None:
    following = sf.schedules.NoiseScaleBatchSize(2, 512, every=4)
    assert sf.LinearRegression(batch_size=following).noise_scale == sf.NoiseScale(0.95)
    often = sf.NoiseScale(0.9, every=1)
    model = sf.LinearRegression(sf.optim.SGD(0.01), batch_size=following, noise_scale=often)
    rng = np.random.default_rng(0)
    sizes = set()
    for _ in range(300):
        X = rng.normal(size=(40, 3))
        model.learn_many(X, X @ [1.0, -1.0, 0.5] + rng.normal(size=40))
        sizes.add(model.current_batch_size)
    assert min(sizes) < 16
    assert max(sizes) > 128  # at the minimum nearly all is noise
    assert (model.current_batch_size or 0) > 100


@settings(max_examples=20)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=60), st.floats(0.5, 0.999))
def test_moments_are_weighted_means(values: list[float], decay: float) -> None:
    moments = NoiseMoments()
    for value in values:
        moments.add(value, 2.0, decay)
    weight: FloatArray = (1 - decay) * decay ** np.arange(len(values))[::-1]
    assert moments.n == len(values)
    assert moments.weight == pytest.approx(weight.sum())
    assert moments.weight_2 == pytest.approx((weight**2).sum())
    assert moments.signal == pytest.approx((weight * values).sum(), abs=1e-12)
    assert moments.gradient_noise().noise == pytest.approx(2.0)


def test_a_size_falls_to_no_less_than_half_of_it() -> None:
    following = sf.schedules.NoiseScaleBatchSize(2, 7, every=1)
    model = sf.LinearRegression(STILL, batch_size=following, noise_scale=sf.NoiseScale(0.1))
    sizes = [model.current_batch_size]
    for i in range(200):  # labels that are mostly noise, and then none
        model.learn_one({"x": 1.0}, float(i * i % 7) - 2.0 if i < 100 else 1.0)
        if model.current_batch_size != sizes[-1]:
            sizes.append(model.current_batch_size)
    assert sizes[-3:] == [7, 4, 2]


def test_the_journal_tells_the_sizes_and_replays_to_the_same_bits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 3))
    samples = list(zip(X, X @ [1.0, -1.0, 0.5] + rng.normal(size=4000), strict=True))
    following = sf.schedules.NoiseScaleBatchSize(2, 64, every=4)
    model = sf.LinearRegression(sf.optim.SGD(0.05), batch_size=following)
    for stop in (1500, 4000):  # resumed once
        again = fresh(model)
        checkpoint = sf.Checkpointer(tmp_path, every_updates=20)
        sf.Trainer(again, samples, checkpoint=checkpoint, max_samples=stop).run()
    told = [e for e in sf.journal.entries(tmp_path) if isinstance(e, sf.types.Action)]
    assert [action.name for action in told] == ["batch_size"] * len(told)
    assert told[-1].parameters["size"] == again.current_batch_size
    assert len({action.parameters["size"] for action in told}) > 2
    assert sf.journal.verify(tmp_path, samples).equal
