"""`KerasLearner`: the weights of `fit(shuffle=False)`, bit for bit, however samples arrive."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from river import metrics

import streamfit as sf
from connectors import Windows
from streamfit.adapters import KerasLearner
from streamfit.errors import (
    BadSampleError,
    CheckpointMismatchError,
    ConfigurationError,
    UnsupportedError,
    UpdateRefusedWarning,
)
from streamfit.testing.sources import SplitSource
from streamfit.types import Block, Learner

N, T, D = 53, 4, 3  # with micro-batches of 10: an odd last one
rng = np.random.default_rng(7)
SEQUENCES = rng.normal(size=(N, T, D))
ROWS = SEQUENCES[:, 0]
REAL = SEQUENCES.sum(axis=(1, 2)) / 3
KINDS = np.digitize(ROWS[:, 0], [-0.5, 0.5])


def dense(optimizer: Any = "adam", **options: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((D,)), keras.layers.Dense(1, **options)])
    model.compile(optimizer=optimizer, loss="mse")
    return model


def lstm() -> keras.Model:
    """With dropout, whose seeds are part of the state."""
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.Input((T, D)),
            keras.layers.LSTM(4),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=keras.losses.Huber())
    return model


def normalised() -> keras.Model:
    """With batch normalisation, whose moving averages are variables that are not trained."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((D,)),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.SGD(
            keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5), momentum=0.9
        ),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


PROBLEMS = {
    "dense": (dense, ROWS, REAL),
    "lstm": (lstm, SEQUENCES, REAL),
    "normalised": (normalised, ROWS, KINDS),
}


def variables(model: keras.Model) -> list[np.ndarray]:
    return [np.asarray(v.value) for v in [*model.variables, *model.optimizer.variables]]


def assert_same(one: keras.Model, other: keras.Model) -> None:
    for a, b in zip(variables(one), variables(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("problem", "batch_size"),
    [("dense", 1), ("dense", 100), *((problem, 10) for problem in PROBLEMS)],
)
def test_the_weights_are_those_of_fit(problem: str, batch_size: int) -> None:
    make, X, y = PROBLEMS[problem]
    theirs = make()
    theirs.fit(X, y, batch_size=batch_size, epochs=2, shuffle=False, verbose=0)
    learner = KerasLearner(make(), batch_size)
    source = SplitSource(list(X), list(y), cuts=[1, 1, 2, 17, 50])
    report = sf.Trainer(learner, source, epochs=2).run()
    assert report.n_samples == 2 * N
    assert report.n_updates == int(theirs.optimizer.iterations.value) == 2 * -(-N // batch_size)
    assert report.n_pending == 0
    assert_same(learner.model, theirs)


def test_sample_weights_are_those_of_fit() -> None:
    w = rng.integers(0, 3, N).astype(float)
    theirs = dense()
    theirs.fit(ROWS, REAL, sample_weight=w, batch_size=10, shuffle=False, verbose=0)
    learner = KerasLearner(dense(), 10)
    sf.Trainer(learner, zip(ROWS, REAL, w, strict=True)).run()
    assert_same(learner.model, theirs)


def test_a_full_batch_is_one_update_an_epoch() -> None:
    theirs = dense()
    theirs.fit(ROWS, REAL, batch_size=N, epochs=3, shuffle=False, verbose=0)
    learner = KerasLearner(dense(), None)
    report = sf.Trainer(learner, sf.ArraySource(ROWS, REAL), epochs=3).run()
    assert report.n_updates == 3
    assert_same(learner.model, theirs)


def test_several_inputs() -> None:
    def make() -> keras.Model:
        keras.utils.set_random_seed(4)
        a, b = keras.Input((D,), name="a"), keras.Input((2,), name="b", dtype="int32")
        embedded = keras.layers.Flatten()(keras.layers.Embedding(5, 2)(b))
        out = keras.layers.Dense(2)(keras.layers.Concatenate()([a, embedded]))
        model = keras.Model([a, b], out)
        model.compile("rmsprop", "mae")
        return model

    numbers, Y = rng.integers(0, 5, (N, 2)), np.stack([REAL, -REAL], axis=1)
    theirs = make()
    theirs.fit([ROWS, numbers], Y, batch_size=8, shuffle=False, verbose=0)
    learner = KerasLearner(make(), 8)
    samples = [({"a": a, "b": b}, y) for a, b, y in zip(ROWS, numbers, Y, strict=True)]
    sf.Trainer(learner, samples).run()
    assert_same(learner.model, theirs)
    assert learner.predict_one(samples[0][0]).shape == (2,)
    with pytest.raises(BadSampleError, match="mapping of the model's inputs"):
        learner.learn_one({"a": ROWS[0]}, Y[0])
    with pytest.raises(BadSampleError, match="a number of type int32"):
        learner.learn_one({"a": ROWS[0], "b": [0, 1.5]}, Y[0])
    with pytest.raises(BadSampleError, match=r"label of shape \(\)"):
        learner.learn_one(samples[0][0], 1.0)


# ---- the trainer


@pytest.mark.parametrize("problem", ["lstm", "normalised"])
def test_a_training_that_is_killed_resumes_exactly_and_verifies(
    problem: str, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    make, X, y = PROBLEMS[problem]

    def source() -> SplitSource:
        return SplitSource(list(X), list(y), cuts=range(0, N, 7))

    def train(calls: int) -> tuple[KerasLearner, sf.TrainingReport]:
        left = [calls]

        def callback(progress: sf.Progress) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        learner = KerasLearner(make(), 10)
        checkpoint = sf.Checkpointer(tmp_path, every_updates=1)
        return learner, sf.Trainer(
            learner, source(), epochs=2, checkpoint=checkpoint, callbacks=[callback]
        ).run()

    with pytest.raises(Killed):
        train(4)
    saved = sf.Checkpointer(tmp_path).latest()
    assert saved is not None
    assert saved.model["n_pending"]  # in the middle of a micro-batch
    learner, report = train(-1)
    theirs = make()
    theirs.fit(X, y, batch_size=10, epochs=2, shuffle=False, verbose=0)
    assert report.resumed_at
    assert report.n_samples == 2 * N
    assert_same(learner.model, theirs)
    found = sf.journal.verify(tmp_path, source(), model=KerasLearner(make(), 10))
    assert found.equal, found
    others = SplitSource(list(X), list(y[::-1]), cuts=[])
    assert not sf.journal.verify(tmp_path, others, model=KerasLearner(make(), 10)).equal
    with pytest.raises(CheckpointMismatchError, match="batch_size: 10 saved, 11 now"):
        sf.Trainer(KerasLearner(make(), 11), source(), checkpoint=sf.Checkpointer(tmp_path)).run()


def test_another_process_gets_the_same_bits(tmp_path: Path) -> None:
    """A checkpoint is taken up by a process in which the layers have other names."""
    code = (
        "import sys, keras, streamfit as sf; sys.path.insert(0, sys.argv[1]); "
        "import test_keras as t; keras.layers.LSTM(1); learner = t.KerasLearner(t.lstm(), 10); "
        "report = sf.Trainer(learner, list(zip(t.SEQUENCES, t.REAL)), "
        "checkpoint=sf.Checkpointer(sys.argv[2])).run(); "
        "print(report.resumed_at, report.digest)"
    )
    samples = list(zip(SEQUENCES, REAL, strict=True))
    lstm()  # so that this one has other names too
    checkpoint = sf.Checkpointer(tmp_path)
    learner = KerasLearner(lstm(), 10)
    sf.Trainer(learner, samples, checkpoint=checkpoint, max_samples=24, last_batch="carry").run()
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole = KerasLearner(lstm(), 10)
    report = sf.Trainer(whole, samples).run()
    assert done.stdout.split() == ["24", report.digest]


def test_windows_are_samples() -> None:
    series = [
        {"a": float(a), "b": float(b), "c": 0.5, "key": i % 2} for i, (a, b, _) in enumerate(ROWS)
    ]
    targets = REAL.tolist()
    learner = KerasLearner(lstm(), 10, features=["a", "b", "c"])
    report = sf.Trainer(
        learner, Windows(list(zip(series, targets, strict=True)), T, key="key")
    ).run()
    X, y = [], []
    for i in range(N):
        of_key = [j for j in range(i + 1) if j % 2 == i % 2][-T:]
        if len(of_key) == T:
            X.append([[series[j][name] for name in "abc"] for j in of_key])
            y.append(targets[i])
    theirs = lstm()
    theirs.fit(np.array(X), np.array(y), batch_size=10, shuffle=False, verbose=0)
    assert (report.n_samples, report.n_updates) == (len(y), -(-len(y) // 10))
    assert_same(learner.model, theirs)


# ---- progressive loss and predictions


def test_the_progressive_loss_is_that_of_each_sample_before_it_was_learned() -> None:
    learner = KerasLearner(dense("sgd"), 10)
    mae = metrics.MAE()
    report = sf.Trainer(learner, sf.ArraySource(ROWS, REAL), metrics=[mae]).run()
    theirs, predicted = dense("sgd"), []
    for start in range(0, N, 10):
        part = slice(start, start + 10)
        predicted += np.asarray(theirs.predict_on_batch(ROWS[part]))[:, 0].tolist()
        theirs.train_on_batch(ROWS[part], REAL[part])
    assert report.progressive_loss == pytest.approx(np.mean((REAL - predicted) ** 2), rel=1e-5)
    assert mae.get() == pytest.approx(np.mean(np.abs(REAL - predicted)), rel=1e-5)
    assert_same(learner.model, theirs)  # looking changes nothing


@pytest.mark.parametrize(
    ("outputs", "activation", "loss"),
    [
        (3, "softmax", "categorical_crossentropy"),
        (3, "softmax", "sparse_categorical_crossentropy"),
        (3, None, keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
        (3, None, keras.losses.CategoricalCrossentropy(from_logits=True)),
        (1, "sigmoid", "binary_crossentropy"),
        (1, None, keras.losses.BinaryCrossentropy(from_logits=True)),
    ],
)
def test_classifiers(outputs: int, activation: Any, loss: Any) -> None:
    keras.utils.set_random_seed(1)
    layer = keras.layers.Dense(outputs, activation=activation)
    model = keras.Sequential([keras.Input((D,)), layer])
    model.compile(keras.optimizers.SGD(0.5), loss)
    labels = ["low", "middle", "high"] if outputs == 3 else ["low", "high"]
    y = [labels[k if outputs == 3 else k // 2] for k in KINDS]
    learner = KerasLearner(model, 5, classes=labels)
    assert isinstance(learner, Learner)
    scores = [metrics.Accuracy(), metrics.CrossEntropy()]
    report = sf.Trainer(learner, list(zip(ROWS, y, strict=True)), epochs=3, metrics=scores).run()
    p = learner.predict_proba_one(ROWS[0])
    assert list(p) == labels
    assert sum(p.values()) == pytest.approx(1.0, abs=1e-6)
    assert learner.predict_one(ROWS[0]) == max(p, key=p.__getitem__)
    assert scores[0].get() > 0.5
    # Keras keeps probabilities off 0 and 1, in float32
    assert report.progressive_loss == pytest.approx(scores[1].get(), rel=1e-3)
    with pytest.raises(BadSampleError, match="'none' is not one of"):
        learner.learn_one(ROWS[0], "none")


def test_a_regressor_takes_no_metric_of_classifiers() -> None:
    with pytest.raises(ConfigurationError, match="Accuracy does not work with KerasLearner"):
        sf.Trainer(KerasLearner(dense()), [], metrics=[metrics.Accuracy()])
    with pytest.raises(UnsupportedError, match="no classifier"):
        KerasLearner(dense()).predict_proba_one(ROWS[0])


# ---- micro-batches


def test_the_kinds_of_flush() -> None:
    def pending(optimizer: Any = None) -> KerasLearner:
        learner = KerasLearner(dense(optimizer or keras.optimizers.SGD(0.25)), 4)
        for x, y in zip(ROWS[:3], REAL[:3], strict=True):
            learner.learn_one(x, y)
        return learner

    start = np.concatenate([v.ravel() for v in dense().get_weights()])

    def step(learner: KerasLearner) -> np.ndarray:
        return np.concatenate([v.ravel() for v in learner.model.get_weights()]) - start

    applied, scaled, dropped, carried = (pending() for _ in range(4))
    applied.flush()
    scaled.flush("scale")
    np.testing.assert_allclose(step(scaled), 0.75 * step(applied), rtol=1e-5)
    assert float(scaled.model.optimizer.learning_rate.value) == 0.25
    dropped.flush("drop")
    carried.flush("carry")
    assert not step(dropped).any()
    assert not step(carried).any()
    assert [m.n_pending for m in (applied, scaled, dropped, carried)] == [0, 0, 0, 3]
    assert [m.n_updates for m in (applied, scaled, dropped, carried)] == [1, 1, 0, 0]
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5)
    with pytest.raises(UnsupportedError, match="schedule"):
        pending(keras.optimizers.SGD(schedule)).flush("scale")
    digest = applied.digest()
    for last_batch in ("apply", "scale", "drop", "carry"):
        applied.flush(last_batch)
    assert applied.digest() == digest


def test_an_update_that_would_break_the_model_is_refused_whole() -> None:
    learner = KerasLearner(dense(keras.optimizers.SGD(1e30)), 2)
    learner.learn_one(ROWS[0], 1e30)
    before = variables(learner.model)
    with pytest.warns(UpdateRefusedWarning, match="update 1"):
        learner.learn_one(ROWS[1], 1e30)
    assert (learner.n_updates, learner.n_refused, learner.n_pending) == (0, 1, 0)
    for a, b in zip(before, variables(learner.model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_error_of_keras_leaves_the_sample_out() -> None:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((D,)), keras.layers.Dense(3)])
    model.compile("sgd", "categorical_crossentropy")
    learner = KerasLearner(model, 2)
    learner.learn_one(ROWS[0], 1)  # not one-hot
    before = learner.digest()
    for _ in range(2):
        with pytest.raises(ValueError, match="shape"):
            learner.learn_one(ROWS[1], 1)
        assert learner.digest() == before


# ---- bad input


@pytest.mark.parametrize(
    ("x", "y", "w", "message"),
    [
        ([1.0, np.nan, 0.0], 1.0, 1.0, "feature 'b': value nan is not finite in float32"),
        ([1.0, 1e39, 0.0], 1.0, 1.0, "feature 'b': value 1e[+]39 is not finite in float32"),
        ([1.0, 2.0], 1.0, 1.0, r"shape \(2,\) where the model takes \(3,\)"),
        (["1", "2", "3"], 1.0, 1.0, "not an array of numbers"),
        ({"a": "1"}, 1.0, 1.0, "feature 'a': '1' is not a number"),
        (None, 1.0, 1.0, "not an array of numbers"),
        ([1.0, 2.0, 3.0], None, 1.0, "label None is not a number"),
        ([1.0, 2.0, 3.0], np.inf, 1.0, "label inf is not finite"),
        ([1.0, 2.0, 3.0], [1.0, 2.0], 1.0, r"label of shape \(2,\), the model's output has \(1,\)"),
        ([1.0, 2.0, 3.0], 1.0, -1.0, "sample weight -1.0"),
        ([1.0, 2.0, 3.0], 1.0, None, "sample weight None"),
    ],
)
def test_bad_samples_change_nothing(x: Any, y: Any, w: Any, message: str) -> None:
    learner = KerasLearner(dense(), 2, features=["a", "b", "c"])
    learner.learn_one({"a": 1.0}, 1.0)
    before = learner.digest()
    with pytest.raises(BadSampleError, match=message):
        learner.learn_one(x, y, w)
    assert learner.digest() == before
    block = Block([ROWS[0], x], [0.0, y], [1.0, w], "clicks", 3, [7, 9])
    with pytest.raises(BadSampleError, match="source 'clicks', partition 3, offset 9"):
        learner.learn_block(block, 0, 2)
    assert (learner.n_samples, learner.n_updates) == (2, 1)


def test_names_of_columns() -> None:
    learner = KerasLearner(dense("sgd"), 1, features=["a", "b", "c"])
    other = KerasLearner(dense("sgd"), 1)
    sf.Trainer(learner, sf.ArraySource(ROWS[:, ::-1], REAL, features=["c", "b", "a"])).run()
    sf.Trainer(other, sf.ArraySource(ROWS, REAL)).run()
    assert_same(learner.model, other.model)
    assert learner.predict_one({"c": 1.0, "else": 5.0}) == other.predict_one([0.0, 0.0, 1.0])
    with pytest.raises(BadSampleError, match="pass features="):
        other.learn_one({"a": 1.0}, 1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: "model", "must be a Keras model, not 'model'"),
        (lambda: keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), "not compiled"),
        (lambda: keras.Sequential([keras.layers.Dense(1)]), "keras.Input"),
        (lambda: keras.Sequential([keras.Input((None, 2)), keras.layers.LSTM(1)]), "open shape"),
    ],
)
def test_models_that_are_refused(make: Any, message: str) -> None:
    model = make()
    if message in ("keras.Input", "open shape"):
        model.compile("sgd", "mse")
    with pytest.raises(ConfigurationError, match=message):
        KerasLearner(model)


def test_arguments_that_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="batch_size"):
        KerasLearner(dense(), 0)
    with pytest.raises(ConfigurationError, match="2 features, the input"):
        KerasLearner(dense(), features=["a", "b"])
    for classes in (["a"], ["a", "a"], ["a", "b", "c"]):
        with pytest.raises(ConfigurationError, match="classes must be 2 different labels"):
            KerasLearner(dense(), classes=classes)


# ---- state


@pytest.fixture
def trained() -> KerasLearner:
    learner = KerasLearner(lstm(), 10)
    for x, y in zip(SEQUENCES[:13], REAL[:13], strict=True):
        learner.learn_one(x, y)
    return learner


def test_a_copy_shares_nothing_and_goes_on_the_same(trained: KerasLearner) -> None:
    before = trained.digest()
    twin = copy.deepcopy(trained)
    assert twin.digest() == before
    assert twin.get_config() == json.loads(json.dumps(trained.get_config()))
    for learner in (twin, trained):
        for x, y in zip(SEQUENCES[13:], REAL[13:], strict=True):
            learner.learn_one(x, y)
        assert learner.digest() != before
    assert twin.digest() == trained.digest()


def test_states_that_do_not_fit(trained: KerasLearner) -> None:
    good = trained.state_dict()
    fresh = KerasLearner(lstm(), 10)
    before = fresh.digest()
    bad: list[dict[str, Any]] = [
        {},
        {**good, "n_samples": -1},
        {**good, "n_samples": 2},
        {**good, "n_pending": 2},
        {**good, "model_0000": good["model_0000"].astype("float64")},
        {**good, "model_0000": good["model_0001"]},
        {**good, "model_9999": good["model_0001"]},
        {**good, "pending_x_0": good["pending_x_0"][:, :1]},
        {**good, "pending_y": None},
        {k: v for k, v in good.items() if k != "optimizer_0000"},
    ]
    for state in bad:
        with pytest.raises(CheckpointMismatchError):
            fresh.load_state_dict(state)
        assert fresh.digest() == before
    with pytest.raises(CheckpointMismatchError, match="3 pending of 13"):
        KerasLearner(lstm(), 3).load_state_dict(good)
    fresh.load_state_dict(good)
    assert fresh.digest() == trained.digest()


def test_the_configuration_tells_models_apart_but_not_names() -> None:
    config = KerasLearner(lstm(), 10).get_config()
    assert KerasLearner(lstm(), 10).get_config() == config
    assert KerasLearner(dense(), 10).get_config()["architecture"] != config["architecture"]
    one, other = (KerasLearner(dense(o), 10).get_config() for o in ("sgd", "adam"))
    assert one["architecture"] == other["architecture"]
    assert one["optimizer"] != other["optimizer"]
