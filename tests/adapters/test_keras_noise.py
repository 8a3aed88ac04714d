"""The gradient noise scale of a `KerasLearner`: the linear learners' estimates, from two halves."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import streamfit as sf
from streamfit.adapters import KerasLearner
from streamfit.curves import at_rest
from streamfit.errors import (
    CheckpointMismatchError,
    ConfigurationError,
    UnsupportedError,
    UpdateRefusedWarning,
)
from streamfit.testing.sources import SplitSource
from streamfit.types import Block

T, D = 4, 3
rng = np.random.default_rng(5)
SEQUENCES = rng.normal(size=(56, T, D)).astype(np.float32)
ROWS = rng.normal(size=(8000, D)).astype(np.float32)
REAL = ROWS @ np.array([0.5, -0.25, 1.0], np.float32)
REAL += rng.normal(size=len(ROWS)).astype(np.float32)
KINDS = np.digitize(REAL, [-0.5, 0.5])
WEIGHTS = rng.uniform(0.0, 2.0, len(ROWS)).astype(np.float32)
OFTEN = sf.NoiseScale(0.999, every=1)


def dense(lr: float = 0.0, outputs: int = 1, loss: Any = "mse", **options: Any) -> keras.Model:
    """The linear model, from weights of 0."""
    options = {"kernel_initializer": "zeros", **options}
    model = keras.Sequential([keras.Input((D,)), keras.layers.Dense(outputs, **options)])
    model.compile(keras.optimizers.SGD(lr), loss)
    return model


def lstm() -> keras.Model:
    """With dropout, whose seeds a measurement must not move on."""
    keras.utils.set_random_seed(2)
    layers = [keras.layers.LSTM(4), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((T, D)), *layers])
    model.compile(keras.optimizers.Adam(0.01), keras.losses.Huber())
    return model


def normalised() -> keras.Model:
    """With moving averages that a measurement must leave alone, and weights in a bound."""
    keras.utils.set_random_seed(3)
    bound = keras.constraints.MaxNorm(0.5)
    layers = [keras.layers.BatchNormalization(), keras.layers.Dense(1, kernel_constraint=bound)]
    model = keras.Sequential([keras.Input((T, D)), *layers, keras.layers.GlobalMaxPooling1D()])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    return model


def learned(model: keras.Model, n: int, batch_size: int, w: Any = None, **options: Any) -> Any:
    """Learn the first rows, and say what was measured."""
    learner = KerasLearner(model, batch_size, noise_scale=OFTEN, **options)
    y = REAL if "classes" not in options else KINDS
    sf.Trainer(learner, sf.ArraySource(ROWS[:n], y[:n], w)).run()
    assert learner.gradient_noise is not None
    return learner.gradient_noise


def numbers(noise: sf.GradientNoise) -> list[float]:
    return [noise.n, noise.signal, noise.noise, noise.scale, noise.low, noise.high]


# ---- what it measures


def test_halves_of_single_samples_are_what_linear_learners_see() -> None:
    """Pairs leave nothing to choose: both estimators are the same formula, while weights move."""
    model = sf.LinearRegression(sf.optim.SGD(1 / 64), batch_size=2, noise_scale=OFTEN)
    model.learn_many(ROWS[:300], REAL[:300])
    assert numbers(learned(dense(1 / 64), 300, 2)) == pytest.approx(
        numbers(model.gradient_noise), rel=1e-4
    )


def test_so_they_are_with_weights() -> None:
    model = sf.LinearRegression(sf.optim.SGD(1e-30), batch_size=2, noise_scale=OFTEN)
    model.learn_many(ROWS[:300], REAL[:300], WEIGHTS[:300])
    found = learned(dense(), 300, 2, WEIGHTS[:300])
    assert numbers(found) == pytest.approx(numbers(model.gradient_noise), rel=1e-4)


def test_several_outputs_are_one_gradient() -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    found = learned(dense(0.0, 3, loss), 300, 2, classes=[0, 1, 2])
    x = np.column_stack([np.ones(300), ROWS[:300]])
    r = np.full((300, 3), 1 / 3) - np.eye(3)[KINDS[:300]]
    g = (r[:, :, None] * x[:, None, :]).reshape(150, 2, -1)
    decay = 0.999 ** np.arange(150)[::-1]
    signal = np.average((g[:, 0] * g[:, 1]).sum(axis=1), weights=decay)
    noise = np.average(((g[:, 0] - g[:, 1]) ** 2).sum(axis=1) / 2, weights=decay)
    assert (found.n, found.signal, found.noise) == pytest.approx((150, signal, noise), rel=1e-4)


def test_the_exact_scale_is_within_the_interval() -> None:
    """Of a finite data set the covariance is known; the linear estimator agrees as well."""
    batch_size = 9  # halves of 4 and 5
    x = np.column_stack([np.ones(len(ROWS)), ROWS]).astype(float)
    g = -2.0 * REAL[:, None].astype(float) * x
    signal, noise = float((g.mean(axis=0) ** 2).sum()), float(g.var(axis=0).sum())
    found = learned(dense(), 300 * batch_size, batch_size)
    model = sf.LinearRegression(sf.optim.SGD(1e-30), batch_size=batch_size, noise_scale=OFTEN)
    model.learn_many(ROWS[: 300 * batch_size], REAL[: 300 * batch_size])
    linear = model.gradient_noise
    assert found.n == linear.n == 300
    assert found.low <= noise / signal <= found.high
    assert found.low <= linear.scale <= found.high
    assert found.high < 2.5 * found.low  # or the test could not tell
    assert found.noise == pytest.approx(noise, rel=0.15)


def test_reductions_and_penalties_do_not_count() -> None:
    plain = learned(dense(), 160, 16)
    total = learned(dense(loss=keras.losses.MeanSquaredError(reduction="sum")), 160, 16)
    penalty = keras.regularizers.L2(10.0)
    ones = {"kernel_initializer": "ones"}
    assert numbers(total) == pytest.approx(numbers(plain), rel=1e-5)
    assert numbers(learned(dense(kernel_regularizer=penalty, **ones), 160, 16)) == pytest.approx(
        numbers(learned(dense(**ones), 160, 16)), rel=1e-5
    )


def test_one_sample_says_nothing_about_the_noise() -> None:
    found = learned(dense(0.01), 20, 1)
    assert found.n == 0
    assert math.isnan(found.scale)
    assert learned(dense(0.01), 21, 20).n == 1  # the last micro-batch has one
    w = np.zeros(20)
    w[:10] = 1.0  # no half without weight
    assert learned(dense(0.01), 20, 20, w).n == 0


def test_only_every_so_many_micro_batches_are_measured() -> None:
    learner = KerasLearner(dense(0.01), 4, noise_scale=sf.NoiseScale(every=3))
    sf.Trainer(learner, sf.ArraySource(ROWS[:80], REAL[:80])).run()
    assert learner.gradient_noise is not None
    assert learner.gradient_noise.n == 7  # of 20
    learner = KerasLearner(dense(0.01), 4, noise_scale=True)
    sf.Trainer(learner, sf.ArraySource(ROWS[:80], REAL[:80])).run()
    assert learner.gradient_noise is not None
    assert learner.gradient_noise.n == 2  # one in 16
    assert KerasLearner(dense(0.01), 4).gradient_noise is None


def test_a_refused_update_is_not_measured() -> None:
    learner = KerasLearner(dense(1e38), 2, noise_scale=OFTEN)
    with pytest.warns(UpdateRefusedWarning):
        sf.Trainer(learner, [(ROWS[0], 1e4), (ROWS[1], 1e4)]).run()
    assert learner.gradient_noise is not None
    assert (learner.n_refused, learner.gradient_noise.n) == (1, 0)


def test_the_halves_draw_for_themselves() -> None:
    """Dropout is noise too, of which two halves of the same samples must tell."""
    keras.utils.set_random_seed(4)
    layers = [keras.layers.Dropout(0.5), keras.layers.Dense(1, kernel_initializer="zeros")]
    model = keras.Sequential([keras.Input((200,)), *layers])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    learner = KerasLearner(model, 2, noise_scale=OFTEN)
    for _ in range(40):  # the same sample again and again
        learner.learn_one(np.ones(200), 1.0)
    found = learner.gradient_noise
    assert found is not None
    # 2 y m / 0.5 with m of 0 and 1, by 200 weights: mean (2 y)^2 * 200 + bias, variance the same
    assert found.signal == pytest.approx(4.0 * 201, rel=0.1)
    assert found.noise == pytest.approx(4.0 * 200, rel=0.1)


# ---- what it does not change, and what does not change it


@pytest.mark.parametrize("make", [lstm, normalised])
def test_what_is_learned_keeps_its_bits(make: Any) -> None:
    y = SEQUENCES.sum(axis=(1, 2))
    off, on = KerasLearner(make(), 7), KerasLearner(make(), 7, noise_scale=OFTEN)
    reports = [sf.Trainer(m, list(zip(SEQUENCES, y, strict=True))).run() for m in (off, on)]
    assert reports[0].progressive_loss == reports[1].progressive_loss
    plain, more = off.state_dict(), on.state_dict()
    assert set(more) - set(plain) == {"noise", "n_measured"}
    for name, value in plain.items():
        np.testing.assert_array_equal(value, more[name], err_msg=name)


def test_blocks_copies_kills_and_replays_give_the_same_bits(tmp_path: Path) -> None:
    y = list(SEQUENCES.sum(axis=(1, 2)))
    often = sf.NoiseScale(0.9, every=2)

    def learner() -> KerasLearner:
        return KerasLearner(lstm(), 7, noise_scale=often)

    whole = learner()
    sf.Trainer(whole, SplitSource(list(SEQUENCES), y, cuts=[]), epochs=2, last_batch="carry").run()
    for stop in (17, 64, 1000):  # resumed within micro-batches, and within an epoch
        part = learner()
        source = SplitSource(list(SEQUENCES), y, cuts=[1, 3, 20, 21, 40])
        checkpoint = sf.Checkpointer(tmp_path, every_updates=1)
        sf.Trainer(
            part, source, epochs=2, checkpoint=checkpoint, max_samples=stop, last_batch="carry"
        ).run()
    assert part.digest() == whole.digest()
    assert repr(part.gradient_noise) == repr(whole.gradient_noise)
    found = sf.journal.verify(tmp_path, source, model=learner())
    assert found.equal, found
    twin = copy.deepcopy(whole)
    assert twin.digest() == whole.digest()
    assert repr(twin.gradient_noise) == repr(whole.gradient_noise)


# ---- what is refused


def test_states_and_arguments_that_do_not_fit() -> None:
    learner = KerasLearner(dense(0.01), 2, noise_scale=OFTEN)
    learner.learn_one(ROWS[0], 1.0)
    learner.learn_one(ROWS[1], 1.0)
    good, before = learner.state_dict(), learner.digest()
    unset = {name: value for name, value in good.items() if name not in ("noise", "n_measured")}
    for state in (
        unset,
        {**good, "n_measured": -1},
        {**good, "n_measured": 0},
        {**good, "noise": good["noise"][:6]},
        {**good, "noise": np.full(7, np.nan)},
        {**good, "noise": good["noise"].astype(np.float32)},
    ):
        with pytest.raises(CheckpointMismatchError, match="gradient noise"):
            learner.load_state_dict(state)
        assert learner.digest() == before
    with pytest.raises(CheckpointMismatchError, match="noise"):
        KerasLearner(dense(0.01), 2).load_state_dict(good)
    with pytest.raises(ConfigurationError, match="noise_scale must be True"):
        KerasLearner(dense(), noise_scale=3)  # type: ignore[arg-type]
    model = dense()
    model.compile("sgd", loss=[keras.losses.MeanSquaredError()])
    with pytest.raises(ConfigurationError, match="noise_scale needs a model with one loss"):
        KerasLearner(model, noise_scale=True)


# ---- at rest


@pytest.mark.parametrize("weighted", [False, True])
def test_a_model_at_rest_is_measured_as_a_linear_one(weighted: bool) -> None:
    w = WEIGHTS[:200] if weighted else None
    block = Block(ROWS[:200], REAL[:200], w)
    learner = KerasLearner(dense(), 8)
    before = learner.digest()
    found = at_rest(learner, block)
    linear = at_rest(sf.LinearRegression(), block)
    np.testing.assert_allclose(found.loss, linear.loss, rtol=1e-5)
    np.testing.assert_allclose(np.sort(found.gradient), np.sort(linear.gradient), rtol=1e-4)
    assert found.noise == pytest.approx(linear.noise, rel=0.5)  # 12 degrees of freedom
    alone = at_rest(learner, block, parts=1)
    np.testing.assert_allclose(alone.gradient, found.gradient, rtol=1e-4, atol=1e-5)
    assert math.isnan(alone.noise)
    assert learner.digest() == before


def test_the_advisor_takes_keras_models() -> None:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((D,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    learner = KerasLearner(model, 4)
    before = learner.digest()
    samples = list(zip(ROWS[:300], REAL[:300], strict=True))
    advice = sf.advise_batch_size(learner, [*samples, (ROWS[0], None)], batch_sizes=[None, 4])
    assert learner.digest() == before
    small, full = advice.rungs
    n = advice.n_train
    assert (small.updates_per_epoch, full.updates_per_epoch) == (-(-n // 4), 1)
    run = learner.with_batch_size(4)
    report = sf.Trainer(run, samples[:n]).run()
    assert small.progressive_loss == pytest.approx(report.progressive_loss)
    assert advice.recommended == 4
    assert full.cosine == pytest.approx(1.0)
    assert small.noise_scale > 0.0


def test_what_has_no_loss_of_single_samples_is_not_compared() -> None:
    model = dense()
    model.compile("sgd", loss=[keras.losses.MeanSquaredError()])
    samples = list(zip(ROWS[:200], REAL[:200], strict=True))
    with pytest.raises(UnsupportedError, match="no one loss of each sample"):
        sf.advise_batch_size(KerasLearner(model), samples)


@keras.saving.register_keras_serializable("streamfit_tests")
def squared(y: Any, outputs: Any) -> Any:
    """A loss that would spread labels of one number over outputs of shape (1,)."""
    return keras.ops.mean(keras.ops.square(y - outputs), axis=-1)


@pytest.mark.parametrize(
    ("function", "instance", "activation"),
    [
        ("binary_crossentropy", keras.losses.BinaryCrossentropy(), "sigmoid"),
        (squared, keras.losses.MeanSquaredError(), None),
    ],
)
def test_a_loss_that_is_a_function_meets_labels_of_the_outputs_shape(
    function: Any, instance: Any, activation: str | None
) -> None:
    """As it does in `train_on_batch`; a `keras.losses.Loss` brings them there itself."""
    y = (REAL > 0.0).astype(np.float32)
    found = []
    for loss in (function, instance):
        learner = KerasLearner(dense(loss=loss, activation=activation), 8, noise_scale=OFTEN)
        sf.Trainer(learner, sf.ArraySource(ROWS[:64], y[:64])).run()
        assert learner.gradient_noise is not None
        found.append(numbers(learner.gradient_noise))
    assert found[0] == pytest.approx(found[1], rel=1e-4)
